//! `mom --chat`: the same agent in a terminal or a pipe.

use std::process::Command;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::ioctl_fionread;
use rustix::process::Signal;
use serde_json::json;

use crate::docker::{self, Container};
use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::watch::Watched;

fn offline(home: &Arc<Scratch>) -> Call {
    Call::new(home).arg("--chat").arg("--model=offline")
}

#[test]
fn offline_runs_each_line_as_a_command() {
    let home = Arc::new(Scratch::new());
    let ended = offline(&home)
        .data()
        .run("echo one; pwd\necho two >&2; exit 3\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stdout.contains("one\n") && ended.stdout.contains("two"),
        "{ended:?}"
    );
    assert!(
        ended.stdout.find("one") < ended.stdout.find("two"),
        "{ended:?}"
    );
    assert_eq!(
        home.jsonl("data/TERMINAL/log.jsonl")[0]["text"],
        "echo one; pwd"
    );
}

#[test]
fn offline_runs_in_a_container() {
    let Some(image) = docker::image() else { return };
    let home = Arc::new(Scratch::new());
    home.write("data/here.txt", "from the host");
    let container = Container::by_hand(image, &home.path("data"));
    let call = offline(&home).arg(&container.sandbox()).data();
    let ended = call.run("cat /workspace/here.txt; hostname\n");
    let hostname = container.sh("hostname");
    assert!(
        ended.stdout.contains("from the host") && ended.stdout.contains(&hostname),
        "{ended:?}"
    );
}

#[test]
fn answers_go_to_stdout_and_progress_to_stderr() {
    let home = Arc::new(Scratch::new());
    let llm = FakeLlm::start();
    llm.reply_tool(
        "bash",
        json!({"label": "Look around", "command": "echo 42"}),
    );
    llm.reply_text("It is 42.");
    let ended = Call::new(&home)
        .llm(&llm)
        .arg("--chat")
        .data()
        .run("how much?\n");
    assert_eq!(
        (ended.code, ended.stdout.trim()),
        (Some(0), "It is 42."),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("Look around"), "{ended:?}");
    assert_eq!(llm.requests()[1].tool_results(), ["42"]);
}

#[test]
fn ctrl_c_stops_the_run_and_the_next_line_works() {
    let home = Arc::new(Scratch::new());
    let llm = FakeLlm::start();
    llm.reply(Reply::text("a long story that never ends").stall(&Gate::new()));
    llm.reply_text("second");
    let mut mom = Call::new(&home).llm(&llm).arg("--chat").data().spawn();
    mom.type_text("first\n");
    llm.next_request();
    mom.signal(Signal::INT);
    llm.wait_hung_up(1);
    mom.type_text("again\n");
    mom.wait_stdout("second");
    mom.close_stdin();
    assert_eq!(mom.ended().code, Some(0));
}

#[test]
fn sigterm_stops_the_run_and_leaves() {
    let home = Arc::new(Scratch::new());
    let llm = FakeLlm::start();
    llm.reply(Reply::text("a long story that never ends").stall(&Gate::new()));
    let mut mom = Call::new(&home).llm(&llm).arg("--chat").data().spawn();
    mom.type_text("first\n");
    llm.next_request();
    assert_eq!(mom.terminate().code, Some(0));
    // Ctrl-C also ends mom while nothing runs.
    for signal in [Signal::INT, Signal::TERM] {
        let call = Call::new(&home).arg("--model=offline").arg("--chat");
        let mut mom = call.data().spawn();
        mom.type_text("status\n");
        mom.wait_stdout("Up: ");
        mom.signal(signal);
        assert_eq!(mom.ended().code, Some(0));
    }
}

#[test]
fn an_answer_that_stdout_does_not_take_is_an_error() {
    let home = Scratch::new();
    home.write("in", "echo hello\n");
    let run = |stdout: &str| {
        let script = format!(
            "exec {} --chat --model=offline {} <{} >{stdout}",
            env!("CARGO_BIN_EXE_mom"),
            home.path("data").display(),
            home.path("in").display()
        );
        let output = Command::new("sh").args(["-c", &script]).output();
        output.expect("run a shell")
    };
    let full = run("/dev/full");
    let stderr = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!(full.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("No space left"), "{stderr}");
    assert_eq!(run("/dev/null").status.code(), Some(0));
}

#[test]
fn last_prompt_has_the_four_keys_of_the_original() {
    let home = Arc::new(Scratch::new());
    let llm = FakeLlm::start();
    llm.reply_text("Hello.");
    let call = Call::new(&home).llm(&llm).arg("--chat").data();
    assert_eq!(call.run("hi there\n").code, Some(0));
    let text = std::fs::read_to_string(home.path("data/TERMINAL/last_prompt.jsonl"));
    let text = text.expect("last_prompt.jsonl");
    let prompt: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
    assert!(text.starts_with("{\n  \"systemPrompt\": \""), "{text}");
    assert!(prompt["messages"].is_array(), "{text}");
    let newest = prompt["newUserMessage"].as_str().expect("a text");
    assert!(newest.ends_with("hi there"), "{newest}");
    assert_eq!(prompt["imageAttachmentCount"], 0);
}

#[test]
fn the_status_has_costs_where_prices_are_known() {
    let llm = FakeLlm::start();
    for (options, has_costs) in [(&[][..], false), (&["--price=1,2"], true)] {
        let home = Arc::new(Scratch::new());
        let call = Call::new(&home)
            .arg("--chat")
            .arg("--model=custom/m")
            .env("OPENAI_BASE_URL", &format!("{}/v1", llm.url()));
        let call = options.iter().fold(call, |call, option| call.arg(option));
        let ended = call.data().run("status\n");
        assert!(ended.stdout.contains("Up: "), "{ended:?}");
        assert_eq!(ended.stdout.contains("Cost here"), has_costs, "{ended:?}");
    }
}

/// mom at a terminal of its own; `script` passes on what is typed and shown.
pub(crate) fn at_terminal(home: &Arc<Scratch>) -> Call {
    let pty = Command::new(docker::root().join("tests/pty.sh"));
    let call = Call::under(pty, home).env("TERM", "xterm");
    call.arg("--chat")
}

#[test]
fn a_terminal_shows_the_run_as_it_goes_on() {
    let home = Arc::new(Scratch::new());
    let llm = FakeLlm::start();
    let gate = Gate::new();
    llm.reply_tool("bash", json!({"label": "Count", "command": "seq 11 19"}));
    let text = format!("There are **nine** of them. {}", "So it is. ".repeat(50));
    llm.reply(Reply::text(&text).stall(&gate));
    let mut mom = at_terminal(&home).llm(&llm).data().spawn();
    mom.wait_shown(PROMPT);
    // Bracketed paste: several lines are one message.
    mom.type_text("\x1b[200~how many\nare there?\x1b[201~\r");
    mom.wait_shown("Thinking ...");
    let shown = mom.wait_shown("There");
    let step = shown.find("✓ Count").expect("the step");
    assert_eq!(shown[..step].matches("Thinking").count(), 1, "{shown}");
    let command = shown[step..].find("  seq 11 19").expect("its command") + step;
    let output = &shown[command..];
    assert!(
        output.contains("19") && !output.contains("14"),
        "its end: {output}"
    );
    gate.open();
    let shown = mom.wait_shown("out ·");
    assert!(shown.contains("\x1b[1mnine\x1b[22m of them."), "{shown}");
    assert_eq!(shown.matches("of them").count(), 1, "{shown}");
    let asked = llm.requests()[0].body.to_string();
    assert!(asked.contains("how many\\nare there?"), "{asked}");
    mom.wait_shown_times(PROMPT, 2);
    mom.type_text("exit\r");
    assert_eq!(mom.ended().code, Some(0));
    assert_eq!(
        home.read("data/TERMINAL/history"),
        "how many\\nare there?\nexit\n"
    );
}

/// The editor draws an empty line so, when it is ready for what is typed. What comes in one piece
/// with a line's end may be lost.
pub(crate) const PROMPT: &str = "> \r\x1b[2C\x1b[?2026l";

#[test]
fn ctrl_c_at_a_terminal_clears_a_line_ends_a_run_and_says_how_to_leave() {
    let home = Arc::new(Scratch::new());
    let call = at_terminal(&home)
        .arg("--model=offline")
        .env("NO_COLOR", "1");
    let mut mom = call.data().spawn();
    let typed = [
        ("echo half\x03", "echo half"),
        ("\x03", "`quit` leave."),
        ("help\r", "`new`"),
        // The arrow key brings the last line back.
        ("\x1b[A\x03", "> help"),
    ];
    for (prompts, (keys, shown)) in typed.into_iter().enumerate() {
        mom.wait_shown_times(PROMPT, prompts + 1);
        mom.type_text(keys);
        mom.wait_shown(shown);
    }
    mom.wait_shown_times(PROMPT, typed.len() + 1);
    mom.type_text("sleep 1000\r");
    mom.wait_shown("→ Run sleep");
    mom.type_text("\x03");
    mom.wait_shown("Stopped");
    mom.wait_shown_times(PROMPT, typed.len() + 2);
    // Ctrl-D.
    mom.type_text("\x04");
    let ended = mom.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stdout.contains("Run echo"), "{ended:?}");
    for style in ["\x1b[1m", "\x1b[2m", "\x1b[36m"] {
        assert!(!ended.stdout.contains(style), "{ended:?}");
    }
}

/// Waits until mom's terminal holds so many bytes of whole lines that mom has not read.
fn wait_typed(mom: &Mom, bytes: usize) {
    let read = |path: String| std::fs::read_to_string(path).expect("/proc");
    let script = mom.pid();
    let child = read(format!("/proc/{script}/task/{script}/children"));
    let stat = read(format!("/proc/{}/stat", child.trim()));
    // After the name: state, parent, process group, session, terminal.
    let mut fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    let number: u32 = fields.nth(4).unwrap().parse().unwrap();
    let minor = (number & 0xff) | (number >> 12 & 0xf_ff00);
    let path = format!("/dev/pts/{minor}");
    let tty = openat(CWD, path, OFlags::RDONLY | OFlags::NOCTTY, Mode::empty()).unwrap();
    let holds = |_: &mut ()| (ioctl_fionread(&tty) == Ok(bytes as u64)).then_some(());
    let held = Watched::new(()).poll(holds);
    assert!(held.is_some(), "{:?}", ioctl_fionread(&tty));
}

#[test]
fn what_is_typed_during_a_run_is_the_next_message() {
    let home = Arc::new(Scratch::new());
    let llm = FakeLlm::start();
    let gates = [Gate::new(), Gate::new()];
    for gate in &gates {
        llm.reply(Reply::text(&format!("Begin. {}", "A long story. ".repeat(30))).stall(gate));
    }
    llm.reply_text("The third.");
    let mut mom = at_terminal(&home).llm(&llm).data().spawn();
    mom.wait_shown(PROMPT);
    mom.type_text("first\r");
    mom.wait_shown("Begin.");
    mom.type_text("AAA one\rBBB two\r");
    wait_typed(&mom, 16);
    gates[0].open();
    let shown = mom.wait_shown("> AAA one\r\nBBB two\r\n");
    // The terminal did not show them in the midst of the answer.
    assert_eq!(shown.matches("AAA").count(), 1, "{shown}");
    mom.wait_shown_times("Begin.", 2);
    // What has no end yet is left in the line that is edited next.
    mom.type_text("thi");
    gates[1].open();
    mom.wait_shown(&format!("{PROMPT}thi"));
    mom.type_text("rd\r");
    mom.wait_shown("The third.");
    let asked = llm.requests();
    let newest = |request: usize| asked[request].body["messages"].to_string();
    assert!(newest(1).contains("AAA one\\nBBB two"), "{}", newest(1));
    assert!(newest(2).contains("third"), "{}", newest(2));
    mom.wait_shown_times(PROMPT, 2);
    mom.type_text("exit\r");
    assert_eq!(mom.ended().code, Some(0));
    let history = home.read("data/TERMINAL/history");
    assert_eq!(history, "first\nAAA one\\nBBB two\nthird\nexit\n");
}

#[test]
fn what_is_typed_before_a_question_is_no_answer_to_it() {
    let home = Arc::new(Scratch::new());
    let llm = FakeLlm::start();
    let gate = Gate::new();
    llm.reply_tool("bash", json!({"label": "Look", "command": "echo seen"}));
    let again = json!({"label": "Look", "command": "echo again"});
    llm.reply(Reply::tool("bash", &again).stall(&gate));
    llm.reply_text("Both.");
    llm.reply_text("The next.");
    let call = at_terminal(&home).arg("--approve=changes");
    let mut mom = call.llm(&llm).data().spawn();
    mom.wait_shown(PROMPT);
    mom.type_text("look\r");
    mom.wait_shown("Run it?");
    mom.type_text("y\r");
    mom.wait_shown("seen");
    mom.type_text("a\r");
    wait_typed(&mom, 2);
    gate.open();
    mom.wait_shown_times("Run it?", 2);
    mom.type_text("n\r");
    mom.wait_shown("Both.");
    mom.wait_shown("> a\r\n");
    let shown = mom.wait_shown("The next.");
    assert!(shown.contains("[n]o y\r\n"), "an answer is seen: {shown}");
    let denied = llm.requests()[2].tool_results();
    assert!(denied[0].starts_with("Not run"), "{denied:?}");
}

#[test]
fn a_stopped_text_ends_before_the_usage() {
    let home = Arc::new(Scratch::new());
    let llm = FakeLlm::start();
    llm.reply(Reply::text(&"A story that never ends. ".repeat(30)).stall(&Gate::new()));
    let mut mom = at_terminal(&home).llm(&llm).data().spawn();
    mom.wait_shown(PROMPT);
    mom.type_text("first\r");
    mom.wait_shown("A story");
    mom.type_text("\x03");
    let shown = mom.wait_shown("Stopped\r\n");
    assert!(!shown.contains("^C"), "{shown:?}");
    let usage = shown.lines().find(|line| line.contains(" out ·"));
    assert!(
        usage.is_none_or(|line| !line.contains("story")),
        "{shown:?}"
    );
    // The text that was broken off is no part of the next one.
    mom.wait_shown_times(PROMPT, 2);
    mom.type_text("status\r");
    mom.wait_shown("Up: ");
}

#[test]
fn the_history_holds_no_control_characters() {
    let home = Arc::new(Scratch::new());
    let planted = "\x1b]0;pwn\x07ev\u{9b}il\n";
    home.write("data/TERMINAL/history", planted);
    let mut mom = at_terminal(&home).arg("--model=offline").data().spawn();
    mom.wait_shown(PROMPT);
    mom.type_text("\x1b[A");
    let shown = mom.wait_shown("evil");
    assert!(
        shown.contains("]0;pwnevil") && !shown.contains("\x1b]0;"),
        "{shown:?}"
    );
}

#[test]
fn a_dumb_terminal_gets_plain_text_and_a_long_command_is_cut_aloud() {
    let home = Arc::new(Scratch::new());
    let call = at_terminal(&home)
        .arg("--model=offline")
        .env("TERM", "dumb");
    let mut mom = call.data().spawn();
    mom.wait_shown("> ");
    mom.type_text("help\r");
    mom.wait_shown("`new`");
    mom.type_text("exit\r");
    let ended = mom.ended();
    assert!(!ended.stdout.contains('\x1b'), "{ended:?}");

    let llm = FakeLlm::start();
    let command: Vec<String> = (1..=12).map(|n| format!("echo l{n}")).collect();
    llm.reply_tool(
        "bash",
        json!({"label": "Count", "command": command.join("\n")}),
    );
    llm.reply_text("Done.");
    let mut mom = at_terminal(&home).llm(&llm).data().spawn();
    mom.wait_shown(PROMPT);
    mom.type_text("count\r");
    let shown = mom.wait_shown("Done.");
    assert!(
        shown.contains("  echo l10\r\n  ... (2 more lines)\r\n"),
        "{shown}"
    );
}

#[test]
fn a_wrong_name_makes_no_directory() {
    let Some(image) = docker::image() else { return };
    let home = Arc::new(Scratch::new());
    home.write("data/here.txt", "");
    let container = Container::by_hand(image, &home.path("data"));
    let typo = home.path("typo");
    for mode in ["--chat", "--check"] {
        let call = Call::new(&home).arg(mode).arg("--model=offline");
        let call = call.arg(&container.sandbox()).arg(typo.to_str().unwrap());
        let ended = call.run("echo hi\n");
        let told = format!("{}{}", ended.stdout, ended.stderr);
        let named = format!(
            "mom --sandbox=docker:{} {}\n",
            container.name,
            home.path("data").display()
        );
        assert_eq!(ended.code, Some(1), "{told}");
        assert!(told.contains(named.trim()), "{told}");
        assert!(!typo.exists(), "{mode}");
    }
}

//! `mom --chat`: the same agent in a terminal or a pipe.

use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::json;

use crate::docker::{self, Container};
use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::Call;
use crate::scratch::Scratch;

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

/// The editor draws an empty line so, when it is ready for what is typed; what comes between
/// two prompts may be lost.
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

//! Power cuts: mom is killed at every call she makes and at every write, one after the
//! other, started again on the same files, and must answer everyone once.
//!
//! The kill points are counted, not timed. Calls: the fakes count requests and acks, and kill
//! her before or after the n-th has its effect. Writes: strace(1) stops her whole process
//! behind each call that changes a file, the n-th stop is the last.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::http::Hook;
use crate::llm::{Asked, FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::{BOT, FakeSlack};
use crate::tether::make_fifo;
use crate::watch::{Watched, show};

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Calls,
    Writes,
}

/// Fewer would mean that the harness has gone blind.
const POINTS_MIN: usize = 100;
/// Side by side: as many as the smallest machine of ours has cores.
const WORKERS: usize = 2;

#[test]
fn whatever_instant_the_power_is_cut_everyone_is_answered_once() {
    let mut points = 0;
    let mut failed = Vec::new();
    for by in [By::Calls, By::Writes] {
        let visited = visit_all(by, &mut failed);
        show("crash", &format!("{visited} kill points by {by:?}\n"));
        points += visited;
    }
    let with = |word: &str| failed.iter().filter(|why| why.contains(word)).count();
    let (lost, doubled) = (with("lost"), with("doubled"));
    show(
        "crash",
        &format!("{points} kill points, {lost} lost, {doubled} doubled\n"),
    );
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(points >= POINTS_MIN, "only {points} kill points");
}

/// Until a scenario ends before its kill point comes: how many came.
fn visit_all(by: By, failed: &mut Vec<String>) -> usize {
    if by == By::Writes && !has_strace() {
        return 0;
    }
    // For the search for one fault: MOM_CRASH_AT=Writes:17
    let only = std::env::var("MOM_CRASH_AT").ok();
    if let Some(only) = only {
        let (kind, n) = only.split_once(':').expect("KIND:N");
        if kind == format!("{by:?}") {
            visit(by, n.parse().expect("a number"));
        }
        return 0;
    }
    let next = AtomicUsize::new(1);
    let last = AtomicUsize::new(usize::MAX);
    let all = Mutex::new(failed);
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::SeqCst);
            if n >= last.load(Ordering::SeqCst) {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| visit(by, n))) {
                Ok(true) => {}
                Ok(false) => {
                    last.fetch_min(n, Ordering::SeqCst);
                }
                Err(why) => {
                    let text = why.downcast_ref::<String>().cloned();
                    let text = text.or(why.downcast_ref::<&str>().map(|text| text.to_string()));
                    let why = format!("{by:?}:{n}: {}", text.unwrap_or_default());
                    all.lock().unwrap().push(why);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
    });
    last.load(Ordering::SeqCst) - 1
}

fn has_strace() -> bool {
    let there = Command::new("strace").arg("-V").output().is_ok();
    let needed = std::env::var_os("CI").is_some();
    assert!(there || !needed, "strace is needed (.ci/run installs it)");
    if !there {
        show("skipped", "no strace: writes are not visited\n");
    }
    there
}

/// Kills at the n-th point.
struct Trap {
    at: usize,
    state: Watched<State>,
}

#[derive(Default)]
struct State {
    pid: Option<Pid>,
    seen: usize,
    sprung: bool,
    over: bool,
}

impl Trap {
    fn new(at: usize) -> Arc<Trap> {
        let state = Watched::default();
        Arc::new(Trap { at, state })
    }

    fn arm(&self, mom: &Mom) {
        let pid = Pid::from_raw(mom.pid() as i32);
        self.state.change(|state| state.pid = pid);
    }

    fn point(&self) {
        let pid = self.state.poll(|state| state.pid);
        self.state.change(|state| {
            if state.over || state.sprung {
                return;
            }
            state.seen += 1;
            if state.seen == self.at {
                state.sprung = true;
                kill_process(pid.expect("she was started"), Signal::KILL).expect("kill her");
            }
        });
    }

    /// Waits for one or the other.
    fn sprung(&self) -> bool {
        let sprung = |state: &mut State| (state.sprung || state.over).then_some(state.sprung);
        self.state.poll(sprung).expect("an end")
    }

    fn over(&self) {
        self.state.change(|state| state.over = true);
    }
}

/// One life with a cut at point `n`, and the life after it. False when the story was over
/// before that point came.
fn visit(by: By, n: usize) -> bool {
    let home = Arc::new(Scratch::new());
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.persist();
    slack.allow("already_reacted");
    let effects = home.path("data/effects");
    let model_effects = effects.display().to_string();
    llm.otherwise(move |asked| model(asked, &model_effects));
    let event = json!({"type": "immediate", "channelId": "C02", "text": "Q4 look around"});
    home.write("data/events/look.json", event.to_string());

    let trap = Trap::new(n);
    let tracer = (by == By::Writes).then(|| trace(&home, &trap));
    let call = match by {
        By::Calls => {
            let counting = Arc::clone(&trap);
            let hook: Hook = Arc::new(move |_| counting.point());
            slack.hook(&hook);
            llm.server.hook(hook);
            Call::new(&home)
        }
        By::Writes => Call::under(strace(&home), &home),
    };
    let mom = call.slack(&slack).llm(&llm).data().spawn();
    trap.arm(&mom);
    let again = || Call::new(&home).slack(&slack).llm(&llm).data().spawn();
    let failed = AtomicBool::new(true);
    let (mom, sprung) = thread::scope(|scope| {
        let nurse = scope.spawn(|| {
            if !trap.sprung() {
                return (mom, false);
            }
            mom.ended();
            // What she had asked for happens all the same, then she is back.
            slack.server.join_all();
            llm.server.join_all();
            (again(), true)
        });
        let told = catch_unwind(AssertUnwindSafe(|| story(&slack, &llm)));
        trap.over();
        let (mom, sprung) = nurse.join().expect("the nurse");
        if sprung {
            mom.wait_log("connected to Slack");
        }
        if let Err(why) = told {
            show("her last log", &mom.log());
            std::panic::resume_unwind(why);
        }
        failed.store(false, Ordering::SeqCst);
        (mom, sprung)
    });
    let ended = mom.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    if let Some(tracer) = tracer {
        tracer.join().expect("the tracer");
    }
    check(&home, &slack, &llm, &ended.stderr);
    sprung
}

/// What people say, and when.
fn story(slack: &FakeSlack, llm: &FakeLlm) {
    slack.mention("C01", "U07", "Q1 count it");
    slack.say("C01", "U08", "the build is red").send();
    slack.dm("U08", "Q5 hello");
    llm.wait_until("work on Q1", |state| {
        let is_first = |asked: &Asked| asked.raw.contains("Q1");
        state.asked.iter().any(is_first).then_some(())
    });
    slack.mention("C01", "U08", "Q2 and this?");
    wait_answers(slack, &["Q1", "Q2", "Q4", "Q5"]);
    // Her work on these comes after everything else in their conversations.
    slack.mention("C01", "U07", "Q7 bye");
    slack.mention("C02", "U07", "Q8 bye");
    slack.dm("U08", "Q9 bye");
    wait_answers(slack, &["Q7", "Q8", "Q9"]);
}

fn wait_answers(slack: &FakeSlack, to: &[&str]) {
    slack.wait_until(&format!("lost: an answer to each of {to:?}"), |state| {
        let all = state
            .channels
            .values()
            .flat_map(|channel| &channel.messages);
        let answers: Vec<String> = all.filter_map(|m| answer(&m.shown())).collect();
        let has = |mark: &&str| answers.iter().any(|answer| answer.contains(*mark));
        to.iter().all(has).then_some(())
    });
}

/// What it answers, when it is an answer.
fn answer(shown: &str) -> Option<String> {
    shown.strip_prefix("Answer to ").map(str::to_owned)
}

/// The questions in a text: `Q1`.
fn marks(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_mark = |word: &&str| word.len() == 2 && word.starts_with('Q');
    words.filter(is_mark).map(str::to_owned).collect()
}

/// A model that does what it is asked once, and answers all it was not asked before.
fn model(asked: &Asked, effects: &str) -> Reply {
    let messages = asked.body["messages"].as_array().expect("messages");
    let of = |message: &Value, kind: &str| -> Vec<Value> {
        match &message["content"] {
            Value::Array(blocks) => {
                let blocks = blocks.iter().filter(|block| block["type"] == kind);
                blocks.cloned().collect()
            }
            text => vec![json!({"type": "text", "text": text})]
                .into_iter()
                .filter(|block| block["type"] == kind)
                .collect(),
        }
    };
    let is_answer = |m: &Value| m["role"] == "assistant" && of(m, "tool_use").is_empty();
    let from = messages.iter().rposition(is_answer).map_or(0, |at| at + 1);
    let mut open: Vec<String> = Vec::new();
    for message in messages[from..].iter().filter(|m| m["role"] == "user") {
        for block in of(message, "text") {
            open.extend(marks(block["text"].as_str().unwrap_or("")));
        }
    }
    // Overheard and asked.
    let mut seen = BTreeSet::new();
    open.retain(|mark| seen.insert(mark.clone()));
    if open.iter().any(|mark| mark == "Q1") {
        let calls: Vec<Value> = messages.iter().flat_map(|m| of(m, "tool_use")).collect();
        for label in ["one", "two"] {
            if calls.iter().all(|call| call["input"]["label"] != label) {
                let command = format!("echo {label} >>'{effects}'");
                return Reply::tool("bash", &json!({"label": label, "command": command}));
            }
        }
    }
    Reply::text(&format!("Answer to {}", open.join(" ")))
}

fn check(home: &Scratch, slack: &FakeSlack, llm: &FakeLlm, log: &str) {
    let story = || format!("{}\nlog:\n{log}", slack.story());
    let mut answered = Vec::new();
    for id in ["C01", "C02", "D08"] {
        let channel = slack.channel(id);
        for message in channel.answers() {
            let shown = message.shown();
            let to = answer(&shown);
            assert!(
                to.is_some(),
                "doubled: {shown:?} stands in {id}\n{}",
                story()
            );
            answered.extend(marks(&to.unwrap_or_default()));
        }
        let said: Vec<String> = channel
            .messages
            .iter()
            .filter(|message| message.user != BOT)
            .map(|message| message.ts.clone())
            .collect();
        let lines = home.jsonl(&format!("data/{id}/log.jsonl"));
        let of = |bot: bool| -> Vec<String> {
            let lines = lines.iter().filter(|line| line["isBot"] == bot);
            let mut all: Vec<String> = lines
                .map(|line| line["ts"].as_str().unwrap_or("").to_owned())
                .collect();
            all.sort();
            all
        };
        assert_eq!(of(false), said, "lost or doubled: log of {id}\n{}", story());
        let mut answers: Vec<String> = channel.answers().iter().map(|m| m.ts.clone()).collect();
        answers.sort();
        assert_eq!(
            of(true),
            answers,
            "lost or doubled: log of {id}\n{}",
            story()
        );
        let context = home.jsonl(&format!("data/{id}/context.jsonl"));
        let runs = context.iter().map(|entry| &entry["data"]["run"]);
        let done: BTreeSet<&str> = runs
            .filter(|run| run["done"] == true)
            .flat_map(|run| run["asked"].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        for message in channel.messages.iter().filter(|m| m.user != BOT) {
            let asked = !marks(&message.text).is_empty();
            let ts = message.ts.as_str();
            assert_eq!(
                asked,
                done.contains(ts),
                "lost: {ts} is not done\n{}",
                story()
            );
        }
    }
    answered.sort();
    let want = ["Q1", "Q2", "Q4", "Q5", "Q7", "Q8", "Q9"];
    assert_eq!(answered, want, "lost or doubled: answers\n{}", story());
    assert!(
        !home.path("data/events/look.json").exists(),
        "the event file"
    );
    let effects = fs::read_to_string(home.path("data/effects")).unwrap_or_default();
    let last = llm
        .requests()
        .iter()
        .rev()
        .find(|a| a.raw.contains("Q7"))
        .cloned();
    let last = last.expect("a request about Q7").raw;
    for label in ["one", "two"] {
        let times = effects.lines().filter(|line| *line == label).count();
        assert!(
            times <= 1,
            "doubled: the tool's {label}: {effects}\n{}",
            story()
        );
        let told = last.contains("interrupted");
        assert!(
            times == 1 || told,
            "lost: the tool's {label}: {effects}\n{last}"
        );
    }
}

/// Stops behind everything that changes a file.
fn strace(home: &Scratch) -> Command {
    const CALLS: &str = "write,fdatasync,fsync,ftruncate,mkdirat,renameat,renameat2,unlinkat";
    let mut command = Command::new("strace");
    // -D: the program is our child, strace is its own.
    command.args(["-D", "-f", "-y", "-qq", "-o"]);
    command.arg(home.path("strace"));
    command.args(["-e", &format!("trace={CALLS}")]);
    command.args(["-e", &format!("inject={CALLS}:signal=SIGSTOP")]);
    command
}

/// Reads what strace writes: lets everyone go on who was stopped, until the trap springs.
fn trace(home: &Scratch, trap: &Arc<Trap>) -> thread::JoinHandle<()> {
    make_fifo(home, "strace");
    let (path, trap) = (home.path("strace"), Arc::clone(trap));
    let data = format!("{}/data", home.dir().display());
    let read = move || {
        let file = File::open(path).expect("open a FIFO");
        for line in BufReader::new(file).lines() {
            let line = line.expect("a line of strace");
            if line.contains(" --- stopped by SIGSTOP ---") {
                let pid = line.split(' ').next().and_then(|pid| pid.parse().ok());
                let pid = pid.and_then(Pid::from_raw).expect("a pid");
                // It may be dead.
                kill_process(pid, Signal::CONT).ok();
            } else if line.contains(&data) && line.contains(" = ") {
                trap.point();
            }
        }
    };
    thread::Builder::new()
        .name("strace".into())
        .spawn(read)
        .expect("start a thread")
}

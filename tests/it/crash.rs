//! Power cuts: mom is killed at every call it makes and at every write, one after the other,
//! started again on the same files, and must answer everyone once.
//!
//! The kill points are counted, not timed. Calls: the fakes count requests and acks, and kill mom
//! before or after the n-th has its effect. Writes: strace(1) stops mom's whole process after each
//! call that changes a file, the n-th stop is the last, and what was not synced by then is cut off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::docker::left_out;
use crate::http::{Gate, Hook};
use crate::llm::{Asked, FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::{BOT, Channel, FakeSlack};
use crate::tether::make_fifo;
use crate::watch::{Watched, show};

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Calls,
    /// A cut, and another one at a call of the next life.
    Twice,
    Writes,
}

/// What people say, and when; which questions are answered, and in which channels.
struct Story {
    name: &'static str,
    tell: fn(&FakeSlack, &FakeLlm, &Scratch),
    channels: &'static [&'static str],
    answered: &'static [&'static str],
}

const STORIES: &[Story] = &[
    Story {
        name: "work",
        tell: work,
        channels: &["C01", "C02", "D08"],
        answered: &["Q1", "Q2", "Q4", "Q5", "Q7", "Q8", "Q9"],
    },
    Story {
        name: "words",
        tell: words,
        channels: &["C01", "C02", "D08", "G01"],
        answered: &["Q6", "Q7", "Q8", "Q9", "QE", "QF", "QL", "QT"],
    },
    Story {
        name: "deeds",
        tell: deeds,
        channels: &["C01", "C02", "D08"],
        answered: &["Q5", "Q7", "Q8", "Q9", "QA"],
    },
];

/// Fewer points would mean that the harness misses them.
const POINTS_MIN: usize = 100;
/// For the further stories, and for two cuts in a row, only every n-th point is visited, since all
/// of them take minutes. MOM_CRASH=all visits them all.
const STRIDE: usize = 7;
/// Workers in parallel: as many as our smallest machine has cores.
const WORKERS: usize = 2;
/// Paragraphs of the long answer: enough for some messages.
const PARAGRAPHS: usize = 600;

#[test]
fn whatever_instant_the_power_is_cut_everyone_is_answered_once() {
    let mut points = 0;
    let mut failed = Vec::new();
    for story in STORIES {
        for by in [By::Calls, By::Twice, By::Writes] {
            let visited = visit_all(story, by, &mut failed);
            let name = story.name;
            show(
                "crash",
                &format!("{name}: {visited} kill points by {by:?}\n"),
            );
            points += visited;
        }
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

/// Visits points until a story ends before its kill point comes; returns how many came.
fn visit_all(story: &Story, by: By, failed: &mut Vec<String>) -> usize {
    if by == By::Writes && !has_strace() {
        return 0;
    }
    // To search for one fault: MOM_CRASH_AT=work:Writes:17
    if let Ok(only) = std::env::var("MOM_CRASH_AT") {
        let prefix = format!("{}:{by:?}:", story.name);
        if let Some(n) = only.strip_prefix(&prefix) {
            visit(story, by, n.parse().expect("a number"));
        }
        return 0;
    }
    let all_points = std::env::var("MOM_CRASH").is_ok_and(|all| all == "all");
    let all_points = all_points || story.name == "work" && by != By::Twice;
    let stride = if all_points { 1 } else { STRIDE };
    let next = AtomicUsize::new(stride);
    let last = AtomicUsize::new(usize::MAX);
    let all = Mutex::new(failed);
    let work = || {
        loop {
            let n = next.fetch_add(stride, Ordering::SeqCst);
            if n >= last.load(Ordering::SeqCst) {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| visit(story, by, n))) {
                Ok(true) => {}
                Ok(false) => {
                    last.fetch_min(n, Ordering::SeqCst);
                }
                Err(why) => {
                    let text = why.downcast_ref::<String>().cloned();
                    let text = text.or(why.downcast_ref::<&str>().map(|text| text.to_string()));
                    let name = story.name;
                    let why = format!("{name}:{by:?}:{n}: {}", text.unwrap_or_default());
                    show("crash", &format!("{}\n", why.lines().next().unwrap_or("")));
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
    (last.load(Ordering::SeqCst) - 1) / stride
}

fn has_strace() -> bool {
    let there = Command::new("strace").arg("-V").output().is_ok();
    if !there {
        left_out("strace");
    }
    there
}

/// Kills mom at the n-th point, and after the next start at another.
struct Trap(Watched<State>);

#[derive(Default)]
struct State {
    /// The process id of mom while it runs.
    pid: Option<Pid>,
    /// Points in this life.
    seen: usize,
    /// The number of the point in each following life at which mom is killed.
    cuts: VecDeque<usize>,
    deaths: usize,
    over: bool,
}

impl Trap {
    fn new(by: By, n: usize) -> Arc<Trap> {
        let mut cuts = VecDeque::from([n]);
        if by == By::Twice {
            // A different point each time.
            cuts.push_back(n * 7 % 37 + 1);
        }
        let cuts = State {
            cuts,
            ..State::default()
        };
        Arc::new(Trap(Watched::new(cuts)))
    }

    fn arm(&self, mom: &Mom) {
        let pid = Pid::from_raw(mom.pid() as i32);
        self.0.change(|state| state.pid = pid);
    }

    fn point(&self) {
        let ready = |state: &mut State| (state.pid.is_some() || state.deaths > 0).then_some(());
        self.0.poll(ready).expect("she was started");
        self.0.change(|state| {
            let (Some(pid), Some(cut), false) = (state.pid, state.cuts.front(), state.over) else {
                return;
            };
            state.seen += 1;
            if state.seen == *cut {
                state.cuts.pop_front();
                (state.pid, state.seen) = (None, 0);
                state.deaths += 1;
                kill_process(pid, Signal::KILL).expect("kill her");
            }
        });
    }

    /// Waits until mom has been killed n times, or for the end of the story (false).
    fn dies(&self, n: usize) -> bool {
        let dies = |state: &mut State| {
            let dead = state.deaths >= n;
            (dead || state.over || state.cuts.is_empty()).then_some(dead)
        };
        self.0.poll(dies).expect("an end")
    }

    fn over(&self) {
        self.0.change(|state| state.over = true);
    }
}

/// One life with a cut at point `n`, and the life after it. False if the story ended before that
/// point came.
fn visit(story: &Story, by: By, n: usize) -> bool {
    let home = Arc::new(Scratch::new());
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.persist();
    slack.allow("already_reacted");
    let data = home.path("data").display().to_string();
    llm.otherwise(move |asked| model(asked, &data));
    home.write("data/report.txt", "12345");
    if story.name == "work" {
        let event = json!({"type": "immediate", "channelId": "C02", "text": "Q4 look around"});
        home.write("data/events/look.json", event.to_string());
    }

    let trap = Trap::new(by, n);
    let mut tracer = (by == By::Writes).then(|| trace(&home, &trap));
    let call = if by == By::Writes {
        Call::under(strace(&home), &home)
    } else {
        let counting = Arc::clone(&trap);
        let hook: Hook = Arc::new(move |_| counting.point());
        slack.hook(&hook);
        llm.server.hook(hook);
        Call::new(&home)
    };
    let mom = call.slack(&slack).llm(&llm).data().spawn();
    trap.arm(&mom);
    let (mom, deaths) = thread::scope(|scope| {
        let nurse = scope.spawn(|| {
            let (mut mom, mut deaths) = (mom, 0);
            while trap.dies(deaths + 1) {
                deaths += 1;
                mom.ended();
                // What mom had requested still takes effect; then mom is started again.
                slack.server.join_all();
                llm.server.join_all();
                if let Some(tracer) = tracer.take() {
                    lose_unsynced(&home, &tracer.join().expect("the tracer"));
                }
                mom = Call::new(&home).slack(&slack).llm(&llm).data().spawn();
                trap.arm(&mom);
            }
            (mom, deaths)
        });
        let told = catch_unwind(AssertUnwindSafe(|| (story.tell)(&slack, &llm, &home)));
        trap.over();
        let (mom, deaths) = nurse.join().expect("the nurse");
        if let Err(why) = told {
            show("her last log", &mom.log());
            std::panic::resume_unwind(why);
        }
        if deaths > 0 {
            mom.wait_log("connected to Slack");
        }
        // The last kill may have come after the last answer.
        wait_done(&slack, &home);
        (mom, deaths)
    });
    let ended = mom.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    if let Some(tracer) = tracer {
        tracer.join().expect("the tracer");
    }
    check(story, &home, &slack, &llm, &ended.stderr);
    deaths > 0
}

/// Makes the disk as it is after a power cut: removes what was not synced.
fn lose_unsynced(home: &Scratch, synced: &BTreeMap<PathBuf, u64>) {
    for channel in fs::read_dir(home.path("data")).expect("list").flatten() {
        for name in ["log.jsonl", "context.jsonl", "runs.jsonl"] {
            let path = channel.path().join(name);
            let bytes = synced.get(&path).copied().unwrap_or(0);
            if let Ok(file) = File::options().write(true).open(&path) {
                let length = file.metadata().expect("a length").len();
                file.set_len(bytes.min(length)).expect("shorten");
            }
        }
    }
}

/// Tools, a message during a run, an event, a direct message.
fn work(slack: &FakeSlack, llm: &FakeLlm, home: &Scratch) {
    slack.mention("C01", "U07", "Q1 count it");
    slack.say("C01", "U08", "the build is red").send();
    slack.dm("U08", "Q5 hello");
    wait_asked(slack, llm, "Q1");
    slack.mention("C01", "U08", "Q2 and this?");
    wait_answers(slack, home, &["Q1", "Q2", "Q4", "Q5"]);
    // mom handles these after everything else in their conversations.
    slack.mention("C01", "U07", "Q7 bye");
    slack.mention("C02", "U07", "Q8 bye");
    slack.dm("U08", "Q9 bye");
    wait_answers(slack, home, &["Q7", "Q8", "Q9"]);
    // The file of a run that was given up is removed when it is found again.
    let event = home.path("data/events/look.json");
    slack.wait_until("doubled: the event file", |_| {
        (!event.exists()).then_some(())
    });
}

/// A thread, a file, a mention by an edit, an answer of several messages.
fn words(slack: &FakeSlack, _: &FakeLlm, home: &Scratch) {
    let root = slack.say("C01", "U08", "look at this").send();
    let asked = slack.say("C01", "U07", "<@U0BOT> QT and here?");
    asked.thread(&root).send();
    let file = slack.file("q.txt", "text/plain", b"inside");
    let asked = slack.say("C02", "U07", "<@U0BOT> QF read it");
    asked.file(&file).send();
    let ts = slack.say("G01", "U07", "QE hi").send();
    slack.edit("G01", &ts, "<@U0BOT> QE hi");
    slack.emit(
        json!({"type": "app_mention", "channel": "G01", "user": "U07", "ts": ts,
        "event_ts": ts, "text": "<@U0BOT> QE hi", "edited": {"user": "U07", "ts": ts}}),
    );
    slack.dm("U08", "QL tell me all");
    wait_answers(slack, home, &["QT", "QF", "QE", "QL"]);
    slack.mention("C01", "U07", "Q7 bye");
    slack.mention("C02", "U07", "Q8 bye");
    slack.mention("G01", "U07", "Q6 bye");
    slack.dm("U08", "Q9 bye");
    wait_answers(slack, home, &["Q6", "Q7", "Q8", "Q9"]);
}

/// An upload, a stop, the other commands.
fn deeds(slack: &FakeSlack, llm: &FakeLlm, home: &Scratch) {
    slack.mention("C01", "U07", "QA send me the report");
    slack.mention("C02", "U07", "QS take your time");
    slack.dm("U08", "Q5 hello");
    wait_asked(slack, llm, "QS");
    slack.mention("C02", "U07", "stop");
    wait_answers(slack, home, &["QA", "Q5"]);
    slack.dm("U08", "new");
    slack.dm("U08", "status");
    // A run that was given up before can't be stopped any more.
    wait_shown(slack, "C02", &["_Stopped_", "_Nothing running_", GIVEN_UP]);
    wait_shown(slack, "D08", &["_A fresh start"]);
    wait_shown(slack, "D08", &["Model: "]);
    slack.mention("C01", "U07", "Q7 bye");
    slack.mention("C02", "U07", "Q8 bye");
    slack.dm("U08", "Q9 bye");
    wait_answers(slack, home, &["Q7", "Q8", "Q9"]);
}

/// Waits for the model's request, which shows in Slack, or until it was given up before.
fn wait_asked(slack: &FakeSlack, llm: &FakeLlm, mark: &str) {
    slack.wait_until(&format!("work on {mark}"), |state| {
        let mut messages = state.channels.values().flat_map(|c| &c.messages);
        let given_up = messages.any(|m| m.shown().starts_with(GIVEN_UP));
        let asked = llm.requests().iter().any(|asked| asked.raw.contains(mark));
        (asked || given_up).then_some(())
    });
}

fn wait_shown(slack: &FakeSlack, id: &str, any: &[&str]) {
    slack.wait_until(&format!("lost: one of {any:?} in {id}"), |state| {
        let mut shown = state.channels[id].messages.iter().map(|m| m.shown());
        let is_it = |shown: &str| any.iter().any(|start| shown.starts_with(start));
        shown.any(|shown| is_it(&shown)).then_some(())
    });
}

/// Waits for these answers, or, after two cuts, until their runs were given up.
fn wait_answers(slack: &FakeSlack, home: &Scratch, to: &[&str]) {
    slack.wait_until(&format!("lost: an answer to each of {to:?}"), |state| {
        let has = |mark: &&str| {
            let mut channels = state.channels.values();
            channels.any(|channel| {
                let ours = channel.messages.iter().filter(|m| m.user == BOT);
                let shown: Vec<String> = ours.map(|m| m.shown()).collect();
                let answers: Vec<String> = shown.iter().filter_map(|m| answer(m)).collect();
                let gave_up = || {
                    let mut asked = channel.messages.iter();
                    let asked = asked.find(|m| m.text.contains(*mark)).map(|m| &m.ts);
                    let done = done(home, &channel.id);
                    asked.map_or(*mark == "Q4" && channel.id == "C02", |ts| done.contains(ts))
                };
                answers.iter().any(|to| to.contains(*mark))
                    || shown.iter().any(|m| m.starts_with(GIVEN_UP)) && gave_up()
            })
        };
        to.iter().all(has).then_some(())
    });
}

fn wait_done(slack: &FakeSlack, home: &Scratch) {
    slack.wait_until("lost: an end of each run", |state| {
        let mut channels = state.channels.values();
        let ended = |channel: &Channel| {
            let done = done(home, &channel.id);
            let asked = channel.messages.iter().filter(|m| m.user != BOT);
            let mut asked = asked.filter(|m| !marks(&m.text).is_empty());
            asked.all(|m| done.contains(&m.ts))
        };
        channels.all(ended).then_some(())
    });
}

/// The questions whose runs have ended.
fn done(home: &Scratch, id: &str) -> BTreeSet<String> {
    let ledger = fs::read_to_string(home.path(&format!("data/{id}/runs.jsonl")));
    let ledger = ledger.unwrap_or_default();
    let facts = ledger
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let ended = facts.map(|fact: Value| fact["ended"].clone());
    let ended = ended.filter(|ended| ended["how"] != "command" && ended["how"] != "dropped");
    let requests =
        ended.flat_map(|ended| ended["requests"].as_array().cloned().unwrap_or_default());
    requests
        .filter_map(|ts| ts.as_str().map(str::to_owned))
        .collect()
}

const GIVEN_UP: &str = "_Sorry, something went wrong_";

/// The text of the answer, if it is one.
fn answer(shown: &str) -> Option<String> {
    let first = shown.split("\n\n").next();
    first?.strip_prefix("Answer to ").map(str::to_owned)
}

/// The questions in a text: `Q1`.
fn marks(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_mark = |word: &&str| word.len() == 2 && word.starts_with('Q');
    words.filter(is_mark).map(str::to_owned).collect()
}

/// A model that does what it is asked to do once, and answers all questions not answered before.
fn model(asked: &Asked, data: &str) -> Reply {
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
    // Overheard and addressed to mom.
    let mut seen = BTreeSet::new();
    open.retain(|mark| seen.insert(mark.clone()));
    let calls: Vec<Value> = messages.iter().flat_map(|m| of(m, "tool_use")).collect();
    let is_done = |label: &str| calls.iter().any(|call| call["input"]["label"] == label);
    let has = |mark: &str| seen.contains(mark);
    if has("Q1") {
        for label in ["one", "two"] {
            if !is_done(label) {
                let command = format!("echo {label} >>'{data}/effects'");
                return Reply::tool("bash", &json!({"label": label, "command": command}));
            }
        }
    }
    if has("QA") && !is_done("send") {
        let path = format!("{data}/report.txt");
        return Reply::tool("attach", &json!({"label": "send", "path": path}));
    }
    if open == ["QS"] {
        return Reply::text("A story that never ends").stall(&Gate::new());
    }
    open.retain(|mark| mark != "QS");
    let mut text = format!("Answer to {}", open.join(" "));
    if has("QL") {
        for n in 0..PARAGRAPHS {
            text += &format!("\n\nParagraph {n} of a long answer, with some more words in it.");
        }
    }
    Reply::text(&text).chunks(8_000, 2_000)
}

fn check(story: &Story, home: &Scratch, slack: &FakeSlack, llm: &FakeLlm, log: &str) {
    let told = || format!("{}\nlog:\n{log}", slack.story());
    let mut answered = Vec::new();
    let mut given_up = 0;
    let mut files = 0;
    for id in story.channels {
        let channel = slack.channel(id);
        let ours = || channel.messages.iter().filter(|m| m.user == BOT);
        let mut logged = Vec::new();
        let mut commands = BTreeMap::new();
        for message in ours() {
            let shown = message.shown();
            files += message.files.len();
            if let Some(to) = answer(&shown) {
                answered.extend(marks(&to));
                logged.push(message.ts.clone());
                continue;
            }
            let replies = ["_A fresh start", "Model: "].into_iter();
            if let Some(reply) = replies.clone().find(|reply| shown.starts_with(reply)) {
                *commands.entry(reply).or_insert(0) += 1;
                logged.push(message.ts.clone());
                continue;
            }
            given_up += usize::from(shown.starts_with(GIVEN_UP));
            let ends = [GIVEN_UP, "_Stopped_", "_Nothing running_"];
            let ends = ends.iter().any(|end| shown.starts_with(end));
            let is_other = message.thread_ts.is_some() || !message.files.is_empty() || ends;
            assert!(is_other, "doubled: {shown:?} stands in {id}\n{}", told());
        }
        assert!(
            commands.values().all(|n| *n == 1),
            "doubled: {commands:?}\n{}",
            told()
        );
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
            // An edit is one more line.
            let edited = channel.messages.iter().filter(|m| m.text.contains("QE"));
            let edited: Vec<&String> = edited.map(|m| &m.ts).collect();
            all.dedup_by(|a, b| a == b && edited.contains(&&*a));
            all
        };
        assert_eq!(of(false), said, "lost or doubled: log of {id}\n{}", told());
        logged.sort();
        assert_eq!(of(true), logged, "lost or doubled: log of {id}\n{}", told());
        let done = done(home, id);
        for message in channel.messages.iter().filter(|m| m.user != BOT) {
            let asked = !marks(&message.text).is_empty();
            let ts = message.ts.as_str();
            let is_done = done.contains(ts);
            assert_eq!(asked, is_done, "lost: {ts} is not done\n{}", told());
        }
    }
    answered.sort();
    let once: BTreeSet<&String> = answered.iter().collect();
    assert_eq!(
        once.len(),
        answered.len(),
        "doubled: {answered:?}\n{}",
        told()
    );
    if given_up == 0 {
        assert_eq!(answered, story.answered, "lost: answers\n{}", told());
    }
    let last = llm.requests();
    let was_told = last.iter().any(|asked| asked.raw.contains("interrupted"));
    let is_fine = |times: usize| times == 1 || times == 0 && (was_told || given_up > 0);
    match story.name {
        "work" => {
            let effects = fs::read_to_string(home.path("data/effects")).unwrap_or_default();
            for label in ["one", "two"] {
                let times = effects.lines().filter(|line| *line == label).count();
                assert!(is_fine(times), "lost or doubled: {effects}\n{}", told());
            }
        }
        "words" => {
            let channel = slack.channel("D08");
            let all = channel.to_string();
            for n in 0..PARAGRAPHS {
                let times = all.matches(&format!("Paragraph {n} of")).count();
                let fine = times == 1 || given_up > 0 && times == 0;
                assert!(fine, "lost or doubled: paragraph {n}\n{}", told());
            }
            let lines = home.jsonl("data/C02/log.jsonl");
            let locals = lines
                .iter()
                .filter_map(|line| line["attachments"][0]["local"].as_str());
            for local in locals {
                let inside = home.read(&format!("data/{local}"));
                assert_eq!(inside, "inside", "lost: {local}\n{}", told());
            }
        }
        _ => assert!(is_fine(files), "lost or doubled: {files} files\n{}", told()),
    }
}

/// strace that stops mom after every call that changes a file.
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

/// Reads what strace writes: lets each stopped process continue, until the kill point comes.
/// Returns the length of each file when it was synced last.
fn trace(home: &Scratch, trap: &Arc<Trap>) -> thread::JoinHandle<BTreeMap<PathBuf, u64>> {
    make_fifo(home, "strace");
    let (path, trap) = (home.path("strace"), Arc::clone(trap));
    let data = format!("{}/data", home.dir().display());
    let read = move || {
        let mut synced = BTreeMap::new();
        // By thread: the file that it is about to sync.
        let mut syncing = BTreeMap::new();
        let file = File::open(path).expect("open a FIFO");
        for line in BufReader::new(file).lines() {
            let line = line.expect("a line of strace");
            let (pid, call) = line.split_once(' ').unwrap_or_default();
            if call.contains(" fdatasync(") || call.trim_start().starts_with("fdatasync(") {
                let file = call.split(['<', '>']).nth(1).unwrap_or_default();
                syncing.insert(pid.to_owned(), PathBuf::from(file));
            }
            if call.contains("fdatasync") && call.contains(" = 0") {
                if let Some(file) = syncing.remove(pid) {
                    let bytes = fs::metadata(&file).map_or(0, |meta| meta.len());
                    synced.insert(file, bytes);
                }
            }
            if line.contains(" --- stopped by SIGSTOP ---") {
                let pid = pid.parse().ok();
                let pid = pid.and_then(Pid::from_raw).expect("a pid");
                // The process may be dead.
                kill_process(pid, Signal::CONT).ok();
            } else if line.contains(&data) && line.contains(" = ") {
                trap.point();
            }
        }
        synced
    };
    thread::Builder::new()
        .name("strace".into())
        .spawn(read)
        .expect("start a thread")
}

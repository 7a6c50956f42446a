//! The figures that mom must reach, each next to its goal and, where there is one, next to the
//! floor measured in the same run without mom. `make bench` prints a table, writes
//! target/bench.json, and fails when a goal is missed.
//!
//! `cargo bench --bench bench -- WORD...` takes only the parts whose name holds a word;
//! BENCH_QUICK=1 takes a tenth of the large ones. mom is the release build, or the binary that
//! MOM_TEST_BINARY names; the fakes are those of the integration tests, so every latency holds
//! what they cost, too.

#![expect(dead_code, reason = "the harness of the integration tests has more")]

mod docker;
mod http;
mod llm;
mod mom;
mod scratch;
mod slack;
mod tls;
mod watch;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use docker::Container;
use http::Gate;
use llm::{FakeLlm, Reply};
use mom::{Call, Mom};
use scratch::Scratch;
use slack::{FakeSlack, Kind, State};

/// Runs at the same time, and the rest in order (queue::RUNS_MAX).
const RUNS_MAX: usize = 32;
const LENA: &str = "U07";

/// The goal of each figure: what it may be at most, in the unit of its row. A goal that depends on
/// a floor is next to its measurement.
const GOALS: &[(&str, f64)] = &[
    ("binary, stripped", 2.6),
    ("crates linked, mom among them", 60.0),
    ("clean build, 2 jobs: peak", 1000.0),
    ("memory, connected over TLS", 5.7),
    ("memory, connected over TLS, as the service", 5.0),
    ("memory after 50 conversations", 5.7),
    ("memory after 50 conversations, as the service", 5.0),
    ("wake-ups, idle", 1.0),
    ("wake-ups, idle after 50 conversations", 1.0),
    ("CPU, idle", 0.1),
    ("CPU, idle after 50 conversations", 0.1),
    ("mention -> first post", 5.0),
    ("mention -> model request", 10.0),
    ("mention -> answer", 20.0),
    ("stop -> Stopped, host", 50.0),
    ("1,000 messages, 50 channels: slowest ack", 100.0),
    ("chat calls, 10 tools", 8.0),
    ("100 MB of output: peak", 12.0),
    ("1000 MB of output: peak", 12.0),
    ("10000 MB of output: peak", 12.0),
    ("100 KB of streamed arguments: time", 100.0),
    ("100 KB of streamed arguments: peak", 8.0),
    ("7 MB of streamed arguments: time", 4000.0),
    ("7 MB of streamed arguments: peak", 100.0),
    ("50 channels at once over TLS: memory", 15.0),
    ("50 channels at once over TLS: peak", 15.0),
    ("500 channels ask at once: runs", RUNS_MAX as f64),
    ("500 channels ask at once: memory", 15.0),
    (
        "500 channels ask at once: places got ahead",
        RUNS_MAX as f64,
    ),
];

type Part = fn(&mut Table);

fn main() -> ExitCode {
    let parts: [(&str, Part); 16] = [
        ("build", build),
        ("start", start),
        ("idle", idle),
        ("latency", latency),
        ("stop", stop),
        ("slack", slack_calls),
        ("tools", tools),
        ("output", output),
        ("arguments", arguments),
        ("history", history),
        ("channels", channels),
        ("many", many),
        ("growth", growth),
        ("crowd", crowd),
        ("events", events),
        ("disk", disk),
    ];
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let mut table = Table {
        quick: std::env::var_os("BENCH_QUICK").is_some(),
        ..Table::default()
    };
    table.line("figure", ["measured", "goal", "floor", ""]);
    for (name, part) in parts {
        if words.is_empty() || words.iter().any(|word| name.contains(word)) {
            part(&mut table);
        }
    }
    table.write();
    if table.missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

// The table.

#[derive(Default)]
struct Table {
    quick: bool,
    missed: bool,
    rows: Vec<Value>,
}

impl Table {
    /// A figure, and its goal if it has one in `GOALS`.
    fn row(&mut self, figure: impl Into<String>, unit: &str, value: f64) {
        let figure = figure.into();
        let goal = GOALS.iter().find(|(name, _)| *name == figure);
        self.add(figure, unit, [Some(value), goal.map(|goal| goal.1), None]);
    }

    /// A figure whose goal depends on `floor`: what the same costs without mom, or with less.
    fn against(
        &mut self,
        figure: impl Into<String>,
        unit: &str,
        value: f64,
        goal: f64,
        floor: f64,
    ) {
        self.add(figure.into(), unit, [Some(value), Some(goal), Some(floor)]);
    }

    fn add(&mut self, figure: String, unit: &str, numbers: [Option<f64>; 3]) {
        let [value, goal, floor] = numbers;
        let ok = goal.is_none_or(|goal| value.is_some_and(|value| value <= goal));
        self.missed |= !ok;
        let verdict = if goal.is_none() {
            ""
        } else if ok {
            "ok"
        } else {
            "MISSED"
        };
        let [shown, most, least] =
            numbers.map(|value| value.map_or(String::new(), |value| number(value, unit)));
        self.line(&figure, [&shown, &most, &least, verdict]);
        let row = json!({"figure": figure, "unit": unit, "value": value, "goal": goal, "floor": floor, "ok": ok});
        self.rows.push(row);
    }

    #[expect(clippy::print_stdout, reason = "the table is what this is for")]
    fn line(&self, figure: &str, [value, goal, floor, verdict]: [&str; 4]) {
        println!("{figure:<52} {value:>12} {goal:>10} {floor:>10}  {verdict}");
    }

    fn write(&self) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench.json");
        let text = serde_json::to_string_pretty(&self.rows).expect("plain values");
        fs::write(path, text + "\n").expect("write bench.json");
    }
}

fn number(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        value if value == value.trunc() || value >= 1000.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    assert!(!sorted.is_empty(), "nothing was measured");
    sorted[sorted.len() / 2]
}

/// The lower quartile: the values that other work on the machine disturbed least.
fn quiet(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 4]
}

/// How long `what` takes: the median of `times` after one run to warm up.
fn time(times: usize, mut what: impl FnMut()) -> f64 {
    what();
    let mut once = || {
        let since = Instant::now();
        what();
        ms(since.elapsed())
    };
    median(&(0..times).map(|_| once()).collect::<Vec<_>>())
}

// What the kernel knows of mom.

/// Megabytes, by a field of /proc/PID/status: VmRSS now, VmHWM at most so far.
fn megabytes(mom: &Mom, field: &str) -> f64 {
    status_field(&format!("/proc/{}/status", mom.pid()), field) * 1024.0 / 1e6
}

/// Resident memory after a run: its end is recorded a little before all its memory is free.
fn settled(mom: &Mom) -> f64 {
    thread::sleep(Duration::from_secs(1));
    megabytes(mom, "VmRSS")
}

fn status_field(path: &str, field: &str) -> f64 {
    // A thread may have ended meanwhile.
    let status = fs::read_to_string(path).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    number.and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// Resets VmHWM.
fn forget_peak(mom: &Mom) {
    fs::write(format!("/proc/{}/clear_refs", mom.pid()), "5").expect("reset the peak");
}

fn threads(mom: &Mom) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", mom.pid())).expect("list threads");
    tasks
        .flatten()
        .map(|task| task.path().join("status").display().to_string())
        .collect()
}

fn wake_ups(mom: &Mom) -> f64 {
    let switches = |path: &String| status_field(path, "voluntary_ctxt_switches");
    threads(mom).iter().map(switches).sum()
}

/// CPU time so far, in ms.
fn cpu_ms(mom: &Mom) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", mom.pid())).expect("read stat");
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .filter_map(|text| text.parse::<f64>().ok())
        .sum();
    // USER_HZ is 100 on every Linux.
    ticks * 10.0
}

// What mom is made to do.

/// How mom is started: the unit sets the allocator.
#[derive(Clone, Copy, PartialEq)]
enum Launch {
    ByHand,
    Service,
}

const LAUNCHES: [Launch; 2] = [Launch::ByHand, Launch::Service];

impl Launch {
    fn call(self, home: &Arc<Scratch>) -> Call {
        let unit = include_str!("../../src/install/mom.service");
        let mut lines = unit.lines();
        let value = lines.find_map(|line| line.strip_prefix("Environment=GLIBC_TUNABLES="));
        let value = value.expect("the unit sets the allocator");
        match self {
            Launch::ByHand => Call::new(home),
            Launch::Service => Call::new(home).env("GLIBC_TUNABLES", value),
        }
    }

    fn named(self, figure: &str) -> String {
        match self {
            Launch::ByHand => figure.to_owned(),
            Launch::Service => format!("{figure}, as the service"),
        }
    }
}

/// Slack, a model, and mom connected to both.
struct Scene {
    // mom is dropped first, so that the fakes do not complain about what it leaves behind.
    mom: Mom,
    slack: FakeSlack,
    llm: FakeLlm,
    /// When each request came to the model.
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Scene {
    /// The model answers `answer N` to the N-th request, counted from 1, unless `reply` returns an
    /// answer for it.
    fn new(
        home: &Arc<Scratch>,
        fakes: (FakeSlack, FakeLlm),
        sandbox: &str,
        reply: impl FnMut(usize) -> Option<Reply> + Send + 'static,
    ) -> Scene {
        Scene::of(Call::new(home), home, fakes, sandbox, reply)
    }

    fn of(
        call: Call,
        home: &Arc<Scratch>,
        (slack, llm): (FakeSlack, FakeLlm),
        sandbox: &str,
        mut reply: impl FnMut(usize) -> Option<Reply> + Send + 'static,
    ) -> Scene {
        let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let ours = Arc::clone(&asked);
        llm.otherwise(move |_| {
            let n = {
                let mut asked = lock(&ours);
                asked.push(Instant::now());
                asked.len()
            };
            reply(n).unwrap_or_else(|| Reply::text(&format!("answer {n}")))
        });
        slack.change(|state| {
            (0..50).for_each(|n| state.add_channel(&channel(n), &format!("c{n}"), Kind::Public));
        });
        // As many roots as a real system has.
        let mut roots = fs::read(tls::CA_FILE).expect("read the fakes' root");
        roots.extend(fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default());
        home.write("roots.pem", roots);
        let mom = call
            .env(
                "SSL_CERT_FILE",
                &home.path("roots.pem").display().to_string(),
            )
            .slack(&slack)
            .llm(&llm)
            .arg(sandbox)
            .data()
            .spawn();
        slack.wait_connected();
        Scene {
            mom,
            slack,
            llm,
            asked,
        }
    }

    fn plain(reply: impl FnMut(usize) -> Option<Reply> + Send + 'static) -> Scene {
        let fakes = (FakeSlack::start(), FakeLlm::start());
        Scene::new(&Arc::new(Scratch::new()), fakes, "--sandbox=host", reply)
    }

    /// Sends a mention; returns when each thing that results from it happened.
    fn mention(&self, channel: &str) -> Times {
        let before = lock(&self.asked).len();
        let since = Instant::now();
        let ts = self.slack.mention(channel, LENA, "and now?");
        let answered = self.slack.wait_until("an answer", |state| {
            let last = lock(&self.asked).len();
            answer_at(state, since, channel, &format!("answer {last}"))
        });
        let acks = self.slack.wait_acked(&ts);
        let posted = self.slack.wait_until("a post", |state| {
            first_call(state, since, "chat.postMessage")
        });
        self.wait_done(channel, &ts);
        Times {
            ack: acks.iter().map(|ack| ms(ack.after)).fold(0.0, f64::max),
            post: ms(posted - since),
            request: ms(lock(&self.asked)[before] - since),
            answer: ms(answered - since),
        }
    }

    /// Waits until the end of the run that answers `ts` is in the ledger.
    fn wait_done(&self, channel: &str, ts: &str) {
        let path = self.mom.home.path(&format!("data/{channel}/runs.jsonl"));
        let is_done = || {
            let facts = fs::read_to_string(&path).unwrap_or_default();
            // In a file that was shortened, the request is among the closed ones.
            let is_end = |line: &&str| line.contains("\"ended\"") || line.contains("\"closed\"");
            facts.lines().filter(is_end).any(|line| line.contains(ts))
        };
        let until = Instant::now() + watch::GUARD;
        while !is_done() {
            assert!(Instant::now() < until, "{channel} never ends");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Times in ms since the mention.
struct Times {
    ack: f64,
    post: f64,
    request: f64,
    answer: f64,
}

fn channel(n: usize) -> String {
    format!("CB{n:02}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

fn first_call(state: &State, since: Instant, method: &str) -> Option<Instant> {
    let mut calls = state.calls.iter().rev().take_while(|call| call.at > since);
    calls
        .by_ref()
        .filter(|call| call.method == method)
        .last()
        .map(|call| call.at)
}

fn answer_at(state: &State, since: Instant, channel: &str, text: &str) -> Option<Instant> {
    let calls = state.calls.iter().rev().take_while(|call| call.at > since);
    let mut said = calls.filter(|call| {
        call.method.starts_with("chat.")
            && call.arg("channel") == channel
            && call.arg("text") == text
    });
    said.next().map(|call| call.at)
}

fn silent(command: &mut Command) {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("run a command");
    assert!(status.success(), "{command:?}: {status}");
}

// The parts.

fn build(table: &mut Table) {
    let binary = fs::metadata(mom::binary()).expect("mom is built");
    table.row("binary, stripped", "MB", binary.len() as f64 / 1e6);
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "-e",
            "normal,no-proc-macro",
            "--prefix=none",
        ])
        .current_dir(docker::root())
        .output()
        .expect("run cargo tree");
    let text = docker::text(&tree.stdout);
    let mut crates: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(" (").next())
        .collect();
    crates.sort_unstable();
    crates.dedup();
    assert!(
        crates.len() > 1,
        "cargo tree: {}",
        docker::text(&tree.stderr)
    );
    table.row("crates linked, mom among them", "", crates.len() as f64);
    if !table.quick {
        clean_build(table);
    }
}

/// With as many jobs as `make install` takes.
fn clean_build(table: &mut Table) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clean");
    // The directory may be missing.
    fs::remove_dir_all(&target).ok();
    let since = Instant::now();
    let mut build = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--locked",
            "--offline",
            "--jobs=2",
            "--quiet",
        ])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(docker::root())
        .process_group(0)
        .spawn()
        .expect("run cargo build");
    let mut peak: f64 = 0.0;
    while build.try_wait().expect("wait for cargo build").is_none() {
        peak = peak.max(group_megabytes(build.id()));
        thread::sleep(Duration::from_millis(50));
    }
    let seconds = since.elapsed().as_secs_f64();
    assert!(target.join("release/mom").exists(), "the build failed");
    fs::remove_dir_all(&target).expect("remove the build");
    table.row("clean build, 2 jobs", "s", seconds);
    table.row("clean build, 2 jobs: peak", "MB", peak);
}

/// Resident memory of all processes of the group.
fn group_megabytes(group: u32) -> f64 {
    let all = fs::read_dir("/proc").expect("list processes").flatten();
    let pages = all.filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // Fields after the name: state, parent, group, .., and as the 22nd the resident pages.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let pages: f64 = fields.get(21)?.parse().ok()?;
        (fields.get(2)? == &group.to_string()).then_some(pages)
    });
    pages.sum::<f64>() * 4096.0 / 1e6
}

fn start(table: &mut Table) {
    let version = time(10, || silent(Command::new(mom::binary()).arg("--version")));
    type Fakes = fn() -> (FakeSlack, FakeLlm);
    let variants: [(&str, Fakes); 2] = [
        ("start to hello", || (FakeSlack::start(), FakeLlm::start())),
        ("start to hello, TLS", || {
            (FakeSlack::start_tls(), FakeLlm::start_tls())
        }),
    ];
    for (figure, fakes) in variants {
        let once = || {
            let (slack, llm) = fakes();
            let home = Arc::new(Scratch::new());
            let since = Instant::now();
            let mom = Mom::start_in(&home, &slack, &llm);
            let took = ms(since.elapsed());
            drop(mom);
            took
        };
        let all: Vec<f64> = (0..10).map(|_| once()).collect();
        table.against(figure, "ms", median(&all), 30.0, version);
    }
}

fn idle(table: &mut Table) {
    LAUNCHES
        .into_iter()
        .for_each(|launch| idle_as(table, launch));
}

fn idle_as(table: &mut Table, launch: Launch) {
    let fakes = (FakeSlack::start_tls(), FakeLlm::start_tls());
    let home = Arc::new(Scratch::new());
    let call = launch.call(&home);
    let scene = Scene::of(call, &home, fakes, "--sandbox=host", |_| None);
    let mom = &scene.mom;
    for (talks, figure, what) in [
        (0, "memory, connected over TLS", "idle"),
        (
            50,
            "memory after 50 conversations",
            "idle after 50 conversations",
        ),
    ] {
        for n in 0..talks {
            scene.mention(&channel(n));
        }
        // Connections that are kept open for a while may be closed in this time.
        thread::sleep(Duration::from_secs(2));
        table.row(launch.named(figure), "MB", megabytes(mom, "VmRSS"));
        if launch == Launch::Service {
            continue;
        }
        table.row(format!("threads, {what}"), "", threads(mom).len() as f64);
        let seconds = if table.quick { 5 } else { 15 };
        let (wakes, cpu) = (wake_ups(mom), cpu_ms(mom));
        thread::sleep(Duration::from_secs(seconds));
        let per_second = (wake_ups(mom) - wakes) / seconds as f64;
        table.row(format!("wake-ups, {what}"), "/s", per_second);
        let percent = (cpu_ms(mom) - cpu) / (seconds as f64 * 10.0);
        table.row(format!("CPU, {what}"), "%", percent);
    }
}

fn latency(table: &mut Table) {
    let scene = Scene::plain(|_| None);
    let home = Scratch::new();
    let mut file = fs::File::create(home.path("floor")).expect("make a file");
    let mut floor = Vec::new();
    let mut all = Vec::new();
    for n in 0..60 {
        let times = scene.mention(&channel(n % 10));
        // The first runs look people and channels up.
        if n >= 10 {
            all.push(times);
        }
        let since = Instant::now();
        file.write_all(&[b'x'; 200])
            .and_then(|()| file.sync_data())
            .expect("write a line");
        floor.push(ms(since.elapsed()));
    }
    let sync = median(&floor);
    let of = |pick: fn(&Times) -> f64| median(&all.iter().map(pick).collect::<Vec<_>>());
    table.against(
        "mention -> ack (floor: fdatasync)",
        "ms",
        of(|t| t.ack),
        5.0,
        sync,
    );
    table.row("mention -> first post", "ms", of(|t| t.post));
    table.row("mention -> model request", "ms", of(|t| t.request));
    table.row("mention -> answer", "ms", of(|t| t.answer));
    drop(scene);
    burst(table);
}

/// From the message `stop` to the post `_Stopped_`, while a tool runs.
fn stop(table: &mut Table) {
    let command = json!({"label": "Wait", "command": "sleep 600"});
    let scene = Scene::plain(move |_| Some(Reply::tool("bash", &command)));
    let once = |n: usize| {
        let channel = channel(n);
        scene.slack.mention(&channel, LENA, "wait");
        let works = |message: &slack::Message| message.shown().contains("→ Wait");
        scene
            .slack
            .wait_channel(&channel, |channel| channel.answers().into_iter().any(works));
        let since = Instant::now();
        scene.slack.say(&channel, LENA, "stop").send();
        let at = scene.slack.wait_until("the words", |state| {
            let calls = state.calls.iter().rev().take_while(|call| call.at > since);
            let mut said = calls.filter(|call| call.arg("text").contains("_Stopped_"));
            said.next().map(|call| call.at)
        });
        ms(at - since)
    };
    let all: Vec<f64> = (0..10).map(once).collect();
    table.row("stop -> Stopped, host", "ms", median(&all));
}

/// Calls to Slack in one run, and how fast the run is when each call takes 150 ms.
fn slack_calls(table: &mut Table) {
    for tools in [0, 1, 10, 100] {
        let command = json!({"label": "Try", "command": "true"});
        let turns = tools + 1;
        let scene = Scene::plain(move |n| (n % turns != 0).then(|| Reply::tool("bash", &command)));
        // People and channel are known after the first run.
        scene.mention("C01");
        scene.slack.change(|state| state.calls.clear());
        scene.mention("C01");
        let calls = |state: &mut State| {
            let chat = state
                .calls
                .iter()
                .filter(|call| call.method.starts_with("chat."));
            chat.count() as f64
        };
        table.row(
            format!("chat calls, {tools} tools"),
            "",
            scene.slack.change(calls),
        );
        if tools != 10 {
            continue;
        }
        scene.slack.latency(Duration::from_millis(150));
        let since = Instant::now();
        let times = scene.mention("C01");
        let asked = *lock(&scene.asked).last().expect("it was asked");
        let last = times.answer - ms(asked - since);
        table.row(
            "Slack at 150 ms a call: mention -> first post",
            "ms",
            times.post,
        );
        table.row("Slack at 150 ms a call: last tool -> answer", "ms", last);
    }
}

fn burst(table: &mut Table) {
    let scene = Scene::plain(|_| None);
    for n in 0..1000 {
        scene
            .slack
            .say(&channel(n % 50), LENA, "just talking")
            .send();
    }
    let slowest = scene.slack.wait_until("1,000 acks", |state| {
        let slowest = state
            .acks
            .iter()
            .map(|ack| ms(ack.after))
            .fold(0.0, f64::max);
        (state.acks.len() == 1000).then_some(slowest)
    });
    table.row("1,000 messages, 50 channels: slowest ack", "ms", slowest);
}

/// Arguments of a call that does almost nothing.
fn call_of(tool: &str, dir: &str, n: usize) -> Reply {
    let path = format!("{dir}/bench.txt");
    let mut args = match tool {
        "bash" => json!({"command": "true"}),
        "write" => json!({"path": path, "content": format!("a {n}\n")}),
        "read" => json!({"path": path}),
        "edit" => json!({"path": path, "oldText": "a ", "newText": "b "}),
        _ => json!({}),
    };
    args["label"] = "Try".into();
    Reply::tool(tool, &args)
}

/// The command that a person would type for the same, in the directory of the file; `None`: the
/// cost of the rest of a turn, measured with a tool that does not exist.
const BARE: [(&str, Option<&str>); 5] = [
    ("none", None),
    (
        "bash",
        Some("sh=sh; command -v bash >/dev/null && sh=bash; exec $sh -c true"),
    ),
    ("write", Some("cat >bare.txt")),
    ("read", Some("cat bench.txt")),
    ("edit", Some("sed -i 's/a /a /' bare.txt")),
];

/// Measures each tool in turn, one call per turn of the model, and in between its comparison.
fn tools(table: &mut Table) {
    let home = home_with_files();
    let dir = home.path("data");
    let bare = {
        let dir = dir.clone();
        move |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).current_dir(&dir);
            command
        }
    };
    let costs = tool_costs(
        &home,
        "--sandbox=host",
        &dir.display().to_string(),
        40,
        bare,
    );
    table.row("a turn of the model", "ms", costs["none"].0);
    tool_rows(table, "on the host", &costs, |floor| floor + 2.0);

    let Some(image) = docker::image() else { return };
    let home = home_with_files();
    let container = Container::by_hand(image, &home.path("data"));
    let name = container.name.clone();
    let bare = move |script: &str| {
        let mut command = Command::new("docker");
        command.args(["exec", "-i", "-w", "/workspace", &name, "sh", "-c", script]);
        command
    };
    let times = if table.quick { 10 } else { 40 };
    let costs = tool_costs(&home, &container.sandbox(), "/workspace", times, bare);
    tool_rows(table, "in docker", &costs, |floor| floor * 1.1);
}

fn home_with_files() -> Arc<Scratch> {
    let home = Arc::new(Scratch::new());
    for name in ["bench.txt", "bare.txt"] {
        home.write(&format!("data/{name}"), "a 0\n");
    }
    home
}

fn tool_rows(
    table: &mut Table,
    place: &str,
    costs: &BTreeMap<&str, (f64, f64)>,
    goal: fn(f64) -> f64,
) {
    for (tool, _) in BARE.iter().skip(1) {
        let (cost, floor) = costs[tool];
        let cost = cost - costs["none"].0;
        table.against(format!("{tool} {place}"), "ms", cost, goal(floor), floor);
    }
}

/// In ms, by tool: turns with the tool, and the bare command.
type Samples = BTreeMap<&'static str, [Vec<f64>; 2]>;

/// The lower quartiles of both.
fn tool_costs(
    home: &Arc<Scratch>,
    sandbox: &str,
    dir: &str,
    times: usize,
    bare: impl Fn(&str) -> Command + Send + 'static,
) -> BTreeMap<&'static str, (f64, f64)> {
    /// Rounds in one run: a slow engine takes seconds for them.
    const ROUNDS: usize = 5;
    let samples: Arc<Mutex<Samples>> = Arc::default();
    let ours = Arc::clone(&samples);
    let (dir, mut last) = (dir.to_owned(), None);
    let turns = BARE.len() * ROUNDS + 1;
    let reply = move |n: usize| {
        let now = Instant::now();
        let mut samples = lock(&ours);
        if let Some((kind, since)) = last.take() {
            samples.entry(kind).or_default()[0].push(ms(now - since));
        }
        if n % turns == 0 {
            return None;
        }
        let (kind, script) = BARE[n % turns % BARE.len()];
        let took = script.map_or(0.0, |script| feed(bare(script), b"a 0\n"));
        samples.entry(kind).or_default()[1].push(took);
        let reply = call_of(kind, &dir, n);
        last = Some((kind, Instant::now()));
        Some(reply)
    };
    let fakes = (FakeSlack::start(), FakeLlm::start());
    let scene = Scene::new(home, fakes, sandbox, reply);
    for n in 0..times.div_ceil(ROUNDS) {
        scene.mention(&channel(n));
    }
    drop(scene);
    let samples = lock(&samples);
    samples
        .iter()
        .map(|(kind, [ours, bare])| (*kind, (quiet(ours), quiet(bare))))
        .collect()
}

/// Runs a command on this input; returns the time in ms.
fn feed(mut command: Command, input: &[u8]) -> f64 {
    let since = Instant::now();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut child = child.expect("run a command");
    // A command that reads nothing may have ended.
    child.stdin.take().map(|mut stdin| stdin.write_all(input));
    let status = child.wait().expect("wait for a command");
    assert!(status.success(), "{command:?}: {status}");
    ms(since.elapsed())
}

fn output(table: &mut Table) {
    let large: u64 = if table.quick {
        1_000_000_000
    } else {
        10_000_000_000
    };
    for bytes in [100_000_000, large] {
        let print =
            format!("yes 'what a tool prints, line by line, and more of it' | head -c {bytes}");
        let since = Instant::now();
        silent(Command::new("sh").args(["-c", &format!("{print} | cat >/dev/null")]));
        let floor = ms(since.elapsed());
        let command = json!({"label": "Print", "command": print});
        let scene = Scene::plain(move |n| (n == 1).then(|| Reply::tool("bash", &command)));
        forget_peak(&scene.mom);
        let times = scene.mention_slow();
        let name = format!("{} MB of output", bytes / 1_000_000);
        table.row(
            format!("{name}: peak"),
            "MB",
            megabytes(&scene.mom, "VmHWM"),
        );
        table.against(
            format!("{name}: time"),
            "ms",
            times,
            floor * 2.0 + 50.0,
            floor,
        );
    }
}

impl Scene {
    /// The time to the answer, in ms, which may be longer than a guard against hangs.
    fn mention_slow(&self) -> f64 {
        let since = Instant::now();
        self.slack.mention("C01", LENA, "and now?");
        loop {
            let answered = self.slack.change(|state| {
                let last = lock(&self.asked).len();
                answer_at(state, since, "C01", &format!("answer {last}"))
            });
            if let Some(at) = answered {
                return ms(at - since);
            }
            assert!(
                since.elapsed() < Duration::from_secs(120),
                "no answer: {}",
                self.mom.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn arguments(table: &mut Table) {
    for (name, bytes) in [("100 KB", 100_000), ("7 MB", 7_000_000)] {
        let home = Arc::new(Scratch::new());
        let path = home.path("data/large.txt").display().to_string();
        let content = "what a model writes\n".repeat(bytes / 20);
        let write = json!({"label": "Write", "path": path, "content": content});
        let reply = move |n| {
            // As models send them: a few characters an event.
            (n == 1).then(|| Reply::tool("write", &write).chunks(4096, 40))
        };
        let fakes = (FakeSlack::start(), FakeLlm::start());
        let scene = Scene::new(&home, fakes, "--sandbox=host", reply);
        forget_peak(&scene.mom);
        let took = scene.mention_slow();
        let name = format!("{name} of streamed arguments");
        table.row(format!("{name}: time"), "ms", took);
        table.row(
            format!("{name}: peak"),
            "MB",
            megabytes(&scene.mom, "VmHWM"),
        );
        assert_eq!(home.read("data/large.txt").len(), bytes);
    }
}

fn history(table: &mut Table) {
    LAUNCHES
        .into_iter()
        .for_each(|launch| history_as(table, launch));
}

fn history_as(table: &mut Table, launch: Launch) {
    let bytes: u64 = if table.quick { 100 << 20 } else { 1 << 30 };
    let (mut empty, mut full) = (Vec::new(), Vec::new());
    for (with, figures) in [(0, &mut empty), (bytes, &mut full)] {
        let home = Arc::new(Scratch::new());
        if with > 0 {
            write_log(&home, with, (0, 0));
            write_context(&home, with, (0, 0));
        }
        let fakes = (FakeSlack::start(), FakeLlm::start());
        let since = Instant::now();
        let call = launch.call(&home);
        let scene = Scene::of(call, &home, fakes, "--sandbox=host", |_| None);
        let start = ms(since.elapsed());
        // The first run takes over the log, which the context has not read yet; that happens once.
        let first = scene.mention("CB00");
        forget_peak(&scene.mom);
        let all: Vec<Times> = (0..15).map(|_| scene.mention("CB00")).collect();
        let of = |pick: fn(&Times) -> f64| median(&all.iter().map(pick).collect::<Vec<_>>());
        *figures = vec![
            ("start to hello", "ms", start),
            ("first mention ever -> model request", "ms", first.request),
            ("mention -> ack", "ms", of(|t| t.ack)),
            ("mention -> model request", "ms", of(|t| t.request)),
            ("mention -> answer", "ms", of(|t| t.answer)),
            ("peak", "MB", megabytes(&scene.mom, "VmHWM")),
        ];
    }
    for ((figure, unit, value), (.., floor)) in full.into_iter().zip(empty) {
        // The same number of bytes, within what two runs differ by.
        let slack = match figure.starts_with("first") {
            true => 500.0,
            false if unit == "MB" => 1.0,
            false => 3.0,
        };
        let figure = launch.named(&format!("{} MB log and context: {figure}", bytes >> 20));
        table.against(figure, unit, value, floor * 1.25 + slack, floor);
    }
}

/// Creates a file of the N-th channel that begins with a hole of this many bytes.
fn create(home: &Scratch, name: &str, (n, hole): (usize, u64)) -> BufWriter<fs::File> {
    let path = format!("data/{}/{name}", channel(n));
    home.write(&path, "");
    let mut file = fs::File::create(home.path(&path)).expect("make a file");
    if hole > 0 {
        file.set_len(hole)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .expect("make a hole");
        file.write_all(b"\n").expect("end the hole");
    }
    BufWriter::with_capacity(1 << 20, file)
}

/// Writes old messages of people, until yesterday.
fn write_log(home: &Scratch, bytes: u64, place: (usize, u64)) {
    let mut file = create(home, "log.jsonl", place);
    let (mut written, mut n) = (0, 0);
    while written < bytes {
        n += 1;
        let line = format!(
            "{{\"date\":\"2025-01-05T09:12:44.120Z\",\"ts\":\"{}.{:06}\",\"user\":\"U07\",\"userName\":\"lena\",\
             \"displayName\":\"Lena\",\"text\":\"the backup of last night took longer than the one before: {n}\",\
             \"attachments\":[],\"isBot\":false}}\n",
            1_700_000_000 + n / 100,
            n % 1_000_000
        );
        file.write_all(line.as_bytes()).expect("write the log");
        written += line.len() as u64;
    }
}

/// Writes a conversation of this size, a compaction, and some turns after it.
fn write_context(home: &Scratch, bytes: u64, place: (usize, u64)) {
    let mut file = create(home, "context.jsonl", place);
    let head = "{\"type\":\"session\",\"version\":3,\"id\":\"x\",\"timestamp\":\"2025-01-05T09:12:45.000Z\",\"cwd\":\"/srv/mom\"}\n";
    file.write_all(head.as_bytes()).expect("write the context");
    let (mut written, mut n, mut parent) = (0, 0, "null".to_owned());
    let text = "the disk is at 91 % and what fills it are the nightly dumps ".repeat(8);
    let mut after = 0;
    while after < 20 {
        n += 1;
        if written >= bytes {
            after += 1;
        }
        let fields = match (after, n % 2) {
            (1, _) => format!(
                "\"type\":\"compaction\",\"summary\":\"It was about disks.\",\"firstKeptEntryId\":\"{:08x}\",\"tokensBefore\":100000",
                n - 6
            ),
            (_, 1) => format!(
                "\"type\":\"message\",\"message\":{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}],\"timestamp\":1736068365000}}"
            ),
            _ => format!(
                "\"type\":\"message\",\"message\":{{\"role\":\"assistant\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}],\"api\":\"anthropic-messages\",\
                 \"provider\":\"anthropic\",\"model\":\"claude-sonnet-5-5\",\"usage\":{{\"input\":10,\"output\":10,\"cacheRead\":0,\"cacheWrite\":0,\"totalTokens\":20,\
                 \"cost\":{{\"input\":0,\"output\":0,\"cacheRead\":0,\"cacheWrite\":0,\"total\":0}}}},\"stopReason\":\"stop\",\"timestamp\":1736068365000}}"
            ),
        };
        let mut line = String::new();
        writeln!(line, "{{\"id\":\"{n:08x}\",\"parentId\":{parent},\"timestamp\":\"2025-01-05T09:12:45.000Z\",{fields}}}").expect("a string");
        file.write_all(line.as_bytes()).expect("write the context");
        written += line.len() as u64;
        parent = format!("\"{n:08x}\"");
    }
}

/// Start to hello with 50 channels that each have a log and a context of 1 GB (a hole, but
/// for the last MB), against 50 of that MB alone.
fn channels(table: &mut Table) {
    let mut medians = Vec::new();
    for hole in [0, 1 << 30] {
        let home = Arc::new(Scratch::new());
        for n in 0..50 {
            write_log(&home, 1 << 20, (n, hole));
            write_context(&home, 1 << 20, (n, hole));
        }
        let once = |_| {
            let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
            let since = Instant::now();
            let mom = Mom::start_in(&home, &slack, &llm);
            let took = ms(since.elapsed());
            drop(mom);
            took
        };
        medians.push(median(&(0..10).map(once).collect::<Vec<_>>()));
    }
    let (floor, value) = (medians[0], medians[1]);
    table.against(
        "50 channels of 1 GB: start to hello",
        "ms",
        value,
        floor + 10.0,
        floor,
    );
}

/// What stays in memory: after the first sync of a log, and of turns in one conversation.
fn growth(table: &mut Table) {
    LAUNCHES
        .into_iter()
        .for_each(|launch| growth_as(table, launch));
}

fn growth_as(table: &mut Table, launch: Launch) {
    let home = Arc::new(Scratch::new());
    let line_bytes = 250;
    write_log(&home, 100_000 * line_bytes, (0, 0));
    let start = |home| {
        let fakes = (FakeSlack::start(), FakeLlm::start());
        Scene::of(launch.call(home), home, fakes, "--sandbox=host", |_| None)
    };
    let scene = start(&home);
    scene.mention("C01");
    let before = settled(&scene.mom);
    scene.mention("CB00");
    let after = settled(&scene.mom);
    let figure = launch.named("memory after a sync of 100,000 lines");
    table.against(figure, "MB", after, before + 0.5, before);
    drop(scene);

    let turns = if table.quick { 400 } else { 5000 };
    let scene = start(&Arc::new(Scratch::new()));
    let mut at_100 = 0.0;
    for n in 1..=turns {
        scene.mention("C01");
        if n == 100 {
            at_100 = settled(&scene.mom);
        }
        if n == 1000 || n == turns {
            let memory = settled(&scene.mom);
            let figure = format!("memory after {n} turns in one channel (floor: 100)");
            table.against(launch.named(&figure), "MB", memory, at_100 + 0.5, at_100);
        }
    }
}

fn many(table: &mut Table) {
    let gate = Gate::new();
    let ours = gate.clone();
    let stall = move |n| Some(Reply::text(&format!("answer {n}")).stall(&ours));
    let fakes = (FakeSlack::start_tls(), FakeLlm::start_tls());
    let scene = Scene::new(&Arc::new(Scratch::new()), fakes, "--sandbox=host", stall);
    forget_peak(&scene.mom);
    for n in 0..50 {
        scene.slack.mention(&channel(n), LENA, "and now?");
    }
    scene.llm.wait_until("all places taken", |state| {
        (state.asked.len() >= RUNS_MAX).then_some(())
    });
    table.row(
        "50 channels at once over TLS: memory",
        "MB",
        megabytes(&scene.mom, "VmRSS"),
    );
    gate.open();
    for n in 0..50 {
        scene.slack.wait_channel(&channel(n), |channel| {
            channel
                .answers()
                .iter()
                .any(|answer| answer.shown().starts_with("answer"))
        });
    }
    table.row(
        "50 channels at once over TLS: peak",
        "MB",
        megabytes(&scene.mom, "VmHWM"),
    );
    drop(scene);

    let runs = if table.quick { 200 } else { 1000 };
    let command = json!({"label": "Count", "command": "seq 1000"});
    let scene = Scene::plain(move |n| (n % 2 == 1).then(|| Reply::tool("bash", &command)));
    // Conversations grow meanwhile, from 2 runs each to 20.
    let mut at_100 = 0.0;
    let since = Instant::now();
    for n in 1..=runs {
        scene.mention(&channel(n % 50));
        if n == 100 {
            at_100 = megabytes(&scene.mom, "VmRSS");
        }
    }
    let each = ms(since.elapsed()) / runs as f64;
    let memory = megabytes(&scene.mom, "VmRSS");
    let figure = format!("memory after {runs} runs (floor: after 100)");
    table.against(figure, "MB", memory, at_100 + 1.0, at_100);
    table.row(format!("{runs} runs with a tool, each"), "ms", each);
}

/// Far more channels than there are places: `RUNS_MAX` runs, the others in order, and no
/// thread that stays.
fn crowd(table: &mut Table) {
    const CHANNELS: usize = 500;
    let gate = Gate::new();
    let ours = gate.clone();
    let stall = move |n| Some(Reply::text(&format!("answer {n}")).stall(&ours));
    let scene = Scene::plain(stall);
    let before = threads(&scene.mom).len() as f64;
    let (slack, figure) = (&scene.slack, "500 channels ask at once");
    slack.change(|state| {
        (50..CHANNELS).for_each(|n| state.add_channel(&channel(n), &format!("c{n}"), Kind::Public));
    });
    for n in 0..CHANNELS {
        slack.mention(&channel(n), LENA, &format!("number {n}."));
    }
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let until = Instant::now() + 4 * watch::GUARD;
        while !done() {
            assert!(Instant::now() < until, "{what}: {}", scene.mom.log());
            thread::sleep(Duration::from_millis(10));
        }
    };
    let acked = |state: &mut State| state.acks.len() >= CHANNELS;
    until("500 acks", &|| slack.change(acked));
    until("all places taken", &|| lock(&scene.asked).len() >= RUNS_MAX);
    // Time for one run too many to begin.
    thread::sleep(Duration::from_secs(1));
    let runs = lock(&scene.asked).len() as f64;
    table.row(format!("{figure}: runs"), "", runs);
    let memory = megabytes(&scene.mom, "VmRSS");
    table.row(format!("{figure}: memory"), "MB", memory);
    gate.open();
    until("500 requests", &|| lock(&scene.asked).len() == CHANNELS);
    let requests = scene.llm.requests();
    let ahead = requests.iter().enumerate().map(|(at, asked)| {
        let text = asked.message_text(0);
        let number = text
            .rsplit_once("number ")
            .and_then(|(_, rest)| rest.split_once('.'));
        let number: usize = number.and_then(|(n, _)| n.parse().ok()).expect("a number");
        number.saturating_sub(at)
    });
    let ahead = ahead.max().unwrap_or(0) as f64;
    table.row(format!("{figure}: places got ahead"), "", ahead);
    until("the workers' end", &|| {
        threads(&scene.mom).len() as f64 <= before
    });
    table.against(
        format!("{figure}: threads after"),
        "",
        threads(&scene.mom).len() as f64,
        before,
        before,
    );
}

/// What wears an SD card, by what mom does: bytes that go to the disk, in pages of 4 KB, and (with
/// strace) syncs.
fn disk(table: &mut Table) {
    let home = Arc::new(Scratch::new());
    let trace = home.path("syncs");
    let has_strace = Command::new("strace").arg("-V").output().is_ok();
    let call = if has_strace {
        let mut strace = Command::new("strace");
        // -D: mom keeps its process id, and strace ends with it.
        strace.args([
            "-D",
            "-f",
            "-qq",
            "-e",
            "trace=fsync,fdatasync,sync_file_range",
            "-e",
            "signal=none",
            "-o",
        ]);
        strace.arg(&trace);
        Call::under(strace, &home)
    } else {
        Call::new(&home)
    };
    let command = json!({"label": "Try", "command": "true"});
    let fakes = (FakeSlack::start(), FakeLlm::start());
    let reply = move |n| (n % 2 == 1).then(|| Reply::tool("bash", &command));
    let scene = Scene::of(call, &home, fakes, "--sandbox=host", reply);
    let io = format!("/proc/{}/io", scene.mom.pid());
    fs::read_to_string(&io).expect("read what mom wrote");
    // A line with the second half of an interrupted call has no `sync(`.
    let is_call = |line: &&str| line.contains("sync(");
    let syncs =
        || fs::read_to_string(&trace).map_or(0, |text| text.lines().filter(is_call).count());
    let seconds = if table.quick { 5 } else { 30 };
    let idle = |_: usize| thread::sleep(Duration::from_secs(seconds));
    let say = |n: usize| {
        let ts = scene.slack.say(&channel(n), LENA, "just talking").send();
        scene.slack.wait_acked(&ts);
    };
    let mention = |n: usize| {
        scene.mention(&channel(n));
    };
    // The first mentions create the files.
    (0..10).for_each(mention);
    type What<'a> = (&'a str, usize, &'a dyn Fn(usize), [f64; 2]);
    let all: [What<'_>; 3] = [
        ("idle", 1, &idle, [0.0, 0.0]),
        ("a message", 10, &say, [8.0, 1.0]),
        ("a run with a tool", 10, &mention, [80.0, 8.0]),
    ];
    for (what, times, act, [bytes_max, syncs_max]) in all {
        // The run before may have some work left.
        thread::sleep(Duration::from_secs(1));
        let before = (status_field(&io, "write_bytes"), syncs());
        (0..times).for_each(act);
        thread::sleep(Duration::from_secs(1));
        let each = |total: f64| total / times as f64;
        let bytes = each(status_field(&io, "write_bytes") - before.0) / 1024.0;
        table.against(
            format!("written to disk, {what}"),
            "KB",
            bytes,
            bytes_max,
            0.0,
        );
        if has_strace {
            let syncs = each((syncs() - before.1) as f64);
            table.against(format!("syncs, {what}"), "", syncs, syncs_max, 0.0);
        }
    }
}

fn events(table: &mut Table) {
    let count = if table.quick { 1000 } else { 10_000 };
    let mut figures = Vec::new();
    for files in [0, count] {
        let home = Arc::new(Scratch::new());
        home.write("data/events/.keep", "");
        for n in 0..files {
            let event = json!({"type": "one-shot", "channelId": channel(n % 50), "text": "wake up",
                "at": "2099-01-05T09:12:45Z"});
            let path = home.path(&format!("data/events/e{n}.json"));
            fs::write(path, event.to_string()).expect("write an event");
        }
        let fakes = (FakeSlack::start(), FakeLlm::start());
        let scene = Scene::new(&home, fakes, "--sandbox=host", |_| None);
        let wake = |n: usize| {
            let event = json!({"type": "immediate", "channelId": "C01", "text": "now"});
            let since = Instant::now();
            home.write(&format!("data/new-{n}"), event.to_string());
            fs::rename(
                home.path(&format!("data/new-{n}")),
                home.path(&format!("data/events/new-{n}.json")),
            )
            .expect("move an event");
            let posted = scene.slack.wait_until("an event's post", |state| {
                first_call(state, since, "chat.postMessage")
            });
            scene.llm.next_request();
            ms(posted - since)
        };
        let first = wake(0);
        thread::sleep(Duration::from_millis(500));
        let cpu = cpu_ms(&scene.mom);
        let mut later = Vec::new();
        for n in 1..6 {
            later.push(wake(n));
            thread::sleep(Duration::from_millis(300));
        }
        let each = (cpu_ms(&scene.mom) - cpu) / 5.0;
        figures.push([first, median(&later), each, megabytes(&scene.mom, "VmRSS")]);
    }
    let names = [
        ("start scan and first event", "ms", 400.0),
        ("one event -> post", "ms", 20.0),
        ("CPU of one event", "ms", 20.0),
        ("memory", "MB", 5.0),
    ];
    for (n, (figure, unit, more)) in names.into_iter().enumerate() {
        let (floor, value) = (figures[0][n], figures[1][n]);
        table.against(
            format!("{count} event files: {figure}"),
            unit,
            value,
            floor + more,
            floor,
        );
    }
}

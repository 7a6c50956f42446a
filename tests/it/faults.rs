//! What Slack, the network and the disk do to mom: nothing is lost, nothing is doubled, and mom
//! says in plain words what went wrong.
//!
//! What is promised, and the tests that it fails when it does not hold:
//! - logged, acked, then worked on: `a_burst_is_written_down_and_acked`
//! - twins, redelivery, mentions by an edit: `twins_are_one..`, `a_mention_added_by_an_edit..`
//! - runs survive, answers stand once: `crash`, `a_restart_in_the_middle..`, `recover`
//! - missed time: `what_was_missed..`, and the histories in `recover`
//! - sockets: the tests of `slack::socket`, `a_flood_on_one_socket..`; servers without end:
//!   `an_answer_that_never_begins..`; no network: `a_network_that_is_down..`, `a_dead_proxy..`;
//!   a second mom: `a_second_mom_on_the_same_directory..`, `a_name_that_a_stranger_took..`
//! - rate limits, slow or failing Slack: `whatever_call_fails..`, `show`
//! - disks and directories: `a_full_or_read_only_disk..`, `a_directory_that..`
//! - signals: `a_restart_in_the_middle..` (SIGHUP too), `stop`

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::SystemTime;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::docker::left_out;
use crate::http::{Answer, Gate, Peer, Request, Scheme, Server};
use crate::llm::{self, FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::mutate::survive_some;
use crate::scratch::Scratch;
use crate::slack::{BOT, FakeSlack, Fault, Message};
use crate::tether::Tether;
use crate::watch::{GUARD, show};

fn lines_of(mom: &Mom, channel: &str, ts: &str) -> usize {
    let lines = mom.jsonl(&format!("{channel}/log.jsonl"));
    lines.iter().filter(|line| line["ts"] == ts).count()
}

/// The two events of a mention.
fn twins(ts: &str, text: &str) -> [Value; 2] {
    let text = format!("<@{BOT}> {text}");
    ["message", "app_mention"].map(|kind| {
        let mut event = json!({"type": kind, "channel": "C01", "user": "U07", "text": text, "ts": ts, "event_ts": ts});
        if kind == "message" {
            event["channel_type"] = "channel".into();
        }
        event
    })
}

#[test]
fn twins_are_one_in_any_order_on_two_sockets_and_after_a_restart() {
    for order in [[0, 1], [1, 0]] {
        for between in ["nothing", "an answer", "another socket", "a restart"] {
            let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
            let mut mom = Mom::start(&slack, &llm);
            llm.reply_text("Once.");
            llm.reply_text("Next.");
            let ts = slack.say("C01", "U07", "<@U0BOT> hi").send_unheard();
            let twins = twins(&ts, "hi");
            slack.emit(twins[order[0]].clone());
            match between {
                "an answer" => drop(slack.wait_answer("C01", "Once.")),
                "another socket" => {
                    slack.wait_acked(&ts);
                    slack.cut();
                }
                "a restart" => {
                    slack.wait_acked(&ts);
                    let home = Arc::clone(&mom.home);
                    mom.kill9();
                    slack.cut();
                    mom = Mom::start_in(&home, &slack, &llm);
                }
                _ => {}
            }
            slack.emit(twins[order[1]].clone());
            slack.wait_acked(&ts);
            slack.wait_answer("C01", "Once.");
            slack.mention("C01", "U07", "and now?");
            let channel = slack.wait_answer("C01", "Next.");
            assert_eq!(channel.answers().len(), 2, "{between}: {channel}");
            assert_eq!(lines_of(&mom, "C01", &ts), 1, "{between}");
        }
    }
}

#[test]
fn a_mention_added_by_an_edit_is_answered_once() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let ts = slack.say("C01", "U07", "hi").send();
    slack.wait_acked(&ts);
    llm.reply_text("Once.");
    llm.reply_text("Next.");
    let mut mention = twins(&ts, "hi")[1].clone();
    mention["edited"] = json!({"user": "U07", "ts": ts});
    slack.edit("C01", &ts, "<@U0BOT> hi");
    slack.emit(mention.clone());
    slack.wait_answer("C01", "Once.");
    let home = Arc::clone(&mom.home);
    assert_eq!(mom.terminate().code, Some(0));
    slack.cut();
    let _mom = Mom::start_in(&home, &slack, &llm);
    slack.emit(mention);
    slack.wait_acked(&ts);
    slack.mention("C01", "U07", "and now?");
    let channel = slack.wait_answer("C01", "Next.");
    assert_eq!(channel.answers().len(), 2, "{channel}");
}

#[test]
fn who_may_not_ask_is_logged_once() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let call = Call::new(&home).slack(&slack).llm(&llm);
    let mom = call.arg("--allow-users=U08").data().spawn();
    slack.wait_connected();
    let ts = slack.mention("C01", "U07", "hi");
    slack.wait_acked(&ts);
    let log = mom.home.path("data/C01/log.jsonl");
    slack.wait_until("the line", |_| log.exists().then_some(()));
    assert_eq!(lines_of(&mom, "C01", &ts), 1);
}

#[test]
fn a_burst_is_written_down_and_acked() {
    const CHANNELS: usize = 50;
    const MESSAGES: usize = 1_000;
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let ids: Vec<String> = (0..CHANNELS).map(|n| format!("C1{n:02}")).collect();
    ids.iter().for_each(|id| slack.open_channel(id));
    for n in 0..MESSAGES {
        let channel = &ids[n % CHANNELS];
        slack.say(channel, "U07", &format!("message {n}")).send();
    }
    let acks = slack.wait_until("all acks", |state| {
        (state.acks.len() >= MESSAGES).then(|| state.acks.clone())
    });
    let slowest = acks.iter().map(|ack| ack.after).max().unwrap_or_default();
    show(
        "burst",
        &format!("{MESSAGES} messages, the slowest ack took {slowest:?}\n"),
    );
    for (at, id) in ids.iter().enumerate() {
        let lines = mom.jsonl(&format!("{id}/log.jsonl"));
        let texts: Vec<&str> = lines
            .iter()
            .filter_map(|line| line["text"].as_str())
            .collect();
        let want = (0..MESSAGES / CHANNELS).map(|n| format!("message {}", at + n * CHANNELS));
        assert_eq!(texts, want.collect::<Vec<_>>());
    }
}

#[test]
fn what_was_missed_is_read_and_answered_as_one() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.persist();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let days_ago = |days: u64| {
        let seconds = now.as_ref().expect("a clock").as_secs() - days * 24 * 3600;
        format!("{seconds}.000100")
    };
    let home = Arc::new(Scratch::new());
    let known = json!({"date": "2026-01-01T00:00:00.000Z", "ts": days_ago(3), "user": "U07", "text": "long ago", "attachments": [], "isBot": false});
    home.write("data/C01/log.jsonl", format!("{known}\n"));
    let old = |ts: String, text: &str| Message {
        ts,
        user: "U07".into(),
        text: text.into(),
        ..Message::default()
    };
    let root = days_ago(3);
    slack.change(|state| {
        let channel = state.channels.get_mut("C01").expect("a channel");
        channel.messages.push(old(root.clone(), "long ago"));
        channel.messages.push(old(days_ago(2), "<@U0BOT> too old"));
    });
    for n in 0..250 {
        slack
            .say("C01", "U08", &format!("chatter {n}"))
            .send_unheard();
    }
    slack.say("C01", "U07", "<@U0BOT> first").send_unheard();
    slack.say("C01", "U08", "<@U0BOT> second").send_unheard();
    let reply = slack
        .say("C01", "U07", "in the thread")
        .thread(&root)
        .send_unheard();
    // This comes with the hello, before anything was read: the gap is before it.
    let fresh = slack.say("C01", "U08", "just now").send_late();
    llm.reply_text("All answered.");
    let mom = Mom::start_in(&home, &slack, &llm);
    let request = llm.next_request();
    slack.wait_answer("C01", "All answered.");
    for word in ["first", "second"] {
        let messages = request.body["messages"].to_string();
        assert!(messages.contains(word), "{messages}");
    }
    assert_eq!(llm.requests().len(), 1);
    let lines = mom.jsonl("C01/log.jsonl");
    let said = lines.iter().filter(|line| line["isBot"] == false).count();
    assert_eq!(said, 256, "{lines:#?}");
    for ts in [&reply, &fresh] {
        assert_eq!(lines_of(&mom, "C01", ts), 1);
    }
    assert_eq!(slack.channel("C01").answers().len(), 1);
}

#[test]
fn whatever_call_fails_the_answer_stands_once() {
    const METHODS: &[&str] = &[
        "auth.test",
        "apps.connections.open",
        "socket",
        "users.conversations",
        "users.info",
        "users.list",
        "conversations.info",
        "conversations.list",
        "chat.postMessage",
        "chat.update",
        "files.getUploadURLExternal",
        "files.completeUploadExternal",
    ];
    let mut all: Vec<(&str, u32, &str, Fault)> = Vec::new();
    for method in METHODS {
        for nth in [1, 2] {
            for (name, fault) in Fault::passing() {
                all.push((method, nth, name, fault));
            }
        }
    }
    let each = |(method, nth, name, fault): &(&str, u32, &str, Fault)| {
        let case = format!("{method}, call {nth}: {name}");
        let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
        slack.fault(method, *nth, fault.clone());
        let home = Arc::new(Scratch::new());
        let path = home.path("data/report.txt");
        let write = json!({"label": "Write", "path": path, "content": "12345"});
        llm.reply_tool("write", write);
        llm.reply_tool("attach", json!({"label": "Attach", "path": path}));
        llm.reply_text("Done.");
        let mom = Mom::start_in(&home, &slack, &llm);
        slack.mention("C01", "U07", "a report");
        slack.wait_answer("C01", "Done.");
        llm.reply_text("Next.");
        slack.mention("C01", "U07", "and now?");
        let channel = slack.wait_answer("C01", "Next.");
        let files = channel.messages.iter().map(|message| message.files.len());
        assert_eq!(files.sum::<usize>(), 1, "{case}: {channel}");
        let roots: Vec<String> = channel
            .answers()
            .iter()
            .map(|answer| answer.shown())
            .collect();
        let texts = roots.iter().filter(|text| !text.contains("report.txt"));
        assert_eq!(texts.collect::<Vec<_>>(), ["Done.", "Next."], "{case}");
        assert_eq!(mom.terminate().code, Some(0), "{case}");
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let Some(case) = all.get(at) else { return };
                    each(case);
                }
            });
        }
    });
}

#[test]
fn a_network_that_is_down_at_boot_and_in_the_middle() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.server.set_down(true);
    let home = Arc::new(Scratch::new());
    let mom = Call::new(&home).slack(&slack).llm(&llm).data().spawn();
    mom.wait_log("I keep trying");
    slack.server.set_down(false);
    slack.wait_connected();
    let gate = Gate::new();
    llm.reply(Reply::text("Through it all.").stall(&gate));
    slack.mention("C01", "U07", "hi");
    slack.next_call("chat.postMessage");
    llm.next_request();
    slack.server.set_down(true);
    gate.open();
    slack.server.set_down(false);
    let channel = slack.wait_answer("C01", "Through it all.");
    assert_eq!(channel.answers().len(), 1, "{channel}");
    let said = mom.log().matches("I keep trying").count();
    assert!(said <= 2, "{}", mom.log());
}

/// Frames that a server can send without end, each flood with its first frame.
const FLOODS: [(&str, &[u8], &[u8]); 4] = [
    ("pings", b"", b"\x89\x00"),
    ("empty fragments", b"\x01\x00", b"\x00\x00"),
    ("hellos", b"", b"\x81\x10{\"type\":\"hello\"}"),
    ("no JSON", b"", b"\x81\x01{"),
];

#[test]
fn a_flood_on_one_socket_holds_up_nothing() {
    for (name, first, rest) in FLOODS {
        let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
        let mom = Mom::start(&slack, &llm);
        llm.reply_text("Dry.");
        slack.disconnect("refresh_requested");
        slack.flood(first, rest);
        slack.wait_connected();
        slack.mention("C01", "U07", "hi");
        slack.wait_answer("C01", "Dry.");
        slack.flood(first, rest);
        let peak = mom.status_kb("VmHWM");
        assert!(peak < 100_000, "{name}: {peak} kB");
        let ended = mom.terminate();
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
        assert!(ended.stderr.lines().count() < 100, "{name}");
    }
}

/// A model server that says `100 Continue` for ever.
#[test]
fn an_answer_that_never_begins_does_not_hold_up_a_stop() {
    let slack = FakeSlack::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (begin, begun) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let answer = move |_: &Request, _: &Peer<'_>| {
        let (begin, end) = (begin.clone(), end.clone());
        Answer::Upgrade(Box::new(move |mut conn| {
            let lines = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000);
            conn.write_all(&lines).unwrap();
            begin.send(()).unwrap();
            while conn.write_all(&lines).is_ok() {}
            end.send(()).ok();
        }))
    };
    let model = Server::start("model", Scheme::Http, listener, Arc::new(answer));
    let home = Arc::new(Scratch::new());
    let call = Call::new(&home).slack(&slack);
    let call = call.env("ANTHROPIC_API_KEY", llm::KEY);
    let mom = call.env("ANTHROPIC_BASE_URL", &model.url()).data().spawn();
    slack.wait_connected();
    slack.mention("C01", "U07", "hi");
    begun.recv_timeout(GUARD).unwrap();
    slack.mention("C01", "U07", "stop");
    slack.wait_channel("C01", |channel| channel.to_string().contains("_Stopped"));
    ended.recv_timeout(GUARD).unwrap();
    assert_eq!(mom.terminate().code, Some(0));
}

#[test]
fn a_dead_proxy_is_named_and_its_password_is_not() {
    let (slack, llm) = (FakeSlack::start_tls(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    for mode in ["--check", "--log-level=debug"] {
        let call = Call::new(&home).slack(&slack).llm(&llm).arg(mode);
        let call = call.env("HTTPS_PROXY", "http://user:hunter2-hunter2@127.0.0.1:1");
        let mom = call.data().spawn();
        let named = "the proxy 127.0.0.1:1 (from HTTPS_PROXY) does not work";
        let shown = match mode {
            "--check" => mom.ended(),
            _ => {
                mom.wait_log(named);
                mom.terminate()
            }
        };
        let shown = shown.stdout + &shown.stderr;
        assert!(shown.contains(named), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_second_mom_on_the_same_directory_is_refused() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let second = |call: Call| {
        let ended = call.arg("--chat").arg("--model=offline").data().run("");
        (ended.code, ended.stderr)
    };
    let (code, text) = second(Call::new(&mom.home));
    assert_eq!(code, Some(1), "{text}");
    let whose = format!("stop that one first (process {})", mom.pid());
    assert!(
        text.contains("another mom works on") && text.contains(&whose),
        "{text}"
    );
    if !rustix::process::getuid().is_root() {
        return;
    }
    // Another network namespace does not see the name, but the lock.
    let mut unshare = Command::new("unshare");
    unshare.arg("--net");
    let (code, text) = second(Call::under(unshare, &mom.home));
    assert_eq!(code, Some(1), "{text}");
    let whose = format!("process {} (mom) has locked", mom.pid());
    assert!(text.contains(&whose) && text.contains("lslocks"), "{text}");
}

/// Any user of the machine can take a name that mom's lock uses: that must not keep mom away.
#[test]
fn a_name_that_a_stranger_took_is_no_lock() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let home = Arc::new(Scratch::new());
    home.write("data/MEMORY.md", "");
    let meta = fs::metadata(home.path("data")).unwrap();
    let name = format!("mom/{:x}/{:x}", meta.dev(), meta.ino());
    let script = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0) && bind(S, pack('Sa*', 1, \"\\0$ARGV[0]\")) \
                  && listen(S, 1) || die $!; print \"taken\\n\"; close STDOUT; <STDIN>";
    let mut stranger = Command::new("setpriv");
    stranger.args([
        "--reuid=65534",
        "--clear-groups",
        "perl",
        "-e",
        script,
        &name,
    ]);
    let spawned = stranger
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut stranger = spawned.unwrap();
    let mut told = String::new();
    stranger
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert_eq!(told, "taken\n");
    let call = Call::new(&home).arg("--chat").arg("--model=offline");
    let ended = call.data().run("echo hi\n");
    assert!(
        ended.code == Some(0) && ended.stdout.contains("hi"),
        "{ended:?}"
    );
    drop(stranger.stdin.take());
    stranger.wait().unwrap();
}

/// A small file system of its own for the data directory.
pub(crate) struct Disk(Arc<Scratch>);

impl Disk {
    pub(crate) fn new(home: &Arc<Scratch>) -> Option<Disk> {
        home.write("data/MEMORY.md", "");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]);
        let mounted = mount.arg(home.path("data")).output();
        if mounted.is_ok_and(|done| done.status.success()) {
            return Some(Disk(Arc::clone(home)));
        }
        left_out("rights to mount a small disk");
        None
    }

    pub(crate) fn fill(&self) {
        let mut size = 64 * 1024;
        for n in 0.. {
            if fs::write(self.0.path(&format!("data/fill-{n}")), vec![b'x'; size]).is_err() {
                if size == 1 {
                    return;
                }
                size = (size / 4).max(1);
            }
        }
    }

    fn free(&self) {
        for entry in fs::read_dir(self.0.path("data")).expect("list").flatten() {
            if entry.file_name().to_string_lossy().starts_with("fill-") {
                fs::remove_file(entry.path()).expect("remove");
            }
        }
    }

    pub(crate) fn remount(&self, how: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{how}")]);
        let done = mount.arg(self.0.path("data")).output().expect("mount");
        assert!(done.status.success(), "{done:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Unmounted lazily, because a mom may still use it.
        let unmount = Command::new("umount")
            .arg("-l")
            .arg(self.0.path("data"))
            .output();
        unmount.expect("umount");
    }
}

#[test]
fn a_full_or_read_only_disk_is_told_and_gets_over_it() {
    for fault in ["full", "ro"] {
        let home = Arc::new(Scratch::new());
        let Some(disk) = Disk::new(&home) else { return };
        let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
        let mom = Mom::start_in(&home, &slack, &llm);
        llm.reply_text("Before.");
        slack.mention("C01", "U07", "one");
        slack.wait_answer("C01", "Before.");
        slack.wait_until("the end of the run", |_| {
            let ledger = fs::read_to_string(home.path("data/C01/runs.jsonl"));
            let ledger = ledger.unwrap_or_default();
            ledger.contains("\"ended\"").then_some(())
        });
        let (log, context) = (mom.data("C01/log.jsonl"), mom.data("C01/context.jsonl"));
        match fault {
            "full" => disk.fill(),
            _ => disk.remount("ro"),
        }
        // More than fits in the pages that the files have already.
        let ts = slack.mention("C01", "U07", &"two ".repeat(1_500));
        mom.wait_log("cannot log messages");
        slack.wait_channel("C01", |channel| channel.answers().len() == 2);
        assert_eq!(
            (mom.data("C01/log.jsonl"), mom.data("C01/context.jsonl")),
            (log, context)
        );
        match fault {
            "full" => disk.free(),
            _ => disk.remount("rw"),
        }
        // Slack has given up delivering it; the next message shows that mom works again.
        llm.otherwise(|_| Reply::text("After."));
        slack.say("C01", "U08", "is it mended?").send();
        slack.wait_answer("C01", "After.");
        assert_eq!(lines_of(&mom, "C01", &ts), 1);
        assert_eq!(mom.terminate().code, Some(0), "{fault}");
    }
}

#[test]
fn a_directory_that_is_taken_away_is_told() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    fs::remove_dir_all(mom.home.path("data")).expect("remove");
    let ts = slack.mention("C01", "U07", "hi");
    let said = mom.wait_log("cannot log messages");
    assert!(said.contains("is gone; put it back"), "{said}");
    let told = slack.wait_channel("C01", |channel| channel.answers().len() == 1);
    assert!(told.to_string().contains("is gone; put it back"), "{told}");
    mom.home.write("data/MEMORY.md", "");
    llm.reply_text("There.");
    slack.redeliver(&ts);
    slack.wait_answer("C01", "There.");
    mom.wait_log("the data directory was removed");
    assert_eq!(lines_of(&mom, "C01", &ts), 1);
    // Events come from the new directory, and no other mom may use it.
    llm.reply_text("Woken.");
    let event = json!({"type": "immediate", "channelId": "C01", "text": "wake up"});
    mom.home.write("data/events/x.json", event.to_string());
    slack.wait_answer("C01", "Woken.");
    let second = Call::new(&mom.home).slack(&slack).llm(&llm).data().run("");
    assert!(second.stderr.contains("another mom"), "{}", second.stderr);
    assert_eq!(mom.terminate().code, Some(0));
}

/// A directory that was moved away is still the same directory.
#[test]
fn a_directory_that_is_moved_is_worked_on_where_it_is() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let (data, moved) = (mom.home.path("data"), mom.home.path("moved"));
    fs::rename(&data, &moved).expect("rename");
    fs::create_dir(&data).expect("make");
    llm.reply_text("Here.");
    slack.mention("C01", "U07", "hi");
    slack.wait_answer("C01", "Here.");
    slack.wait_until("the answer in the log", |_| {
        let log = fs::read_to_string(moved.join("C01/log.jsonl")).expect("read");
        log.contains("Here.").then_some(())
    });
    assert!(!data.join("C01").exists());
    assert_eq!(mom.terminate().code, Some(0));
}

#[test]
fn a_restart_in_the_middle_goes_on_where_it_was() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    home.write("data/MEMORY.md", "");
    let mut tether = Tether::new(&home, "data/tether");
    let mom = Mom::start_in(&home, &slack, &llm);
    mom.signal(Signal::HUP);
    let data = home.path("data").display().to_string();
    let count = format!("echo x >>{data}/count");
    let wait = format!("exec 9>{data}/tether; echo up >&9; sleep 1000");
    llm.reply_tool("bash", json!({"label": "Count", "command": count}));
    llm.reply_tool("bash", json!({"label": "Wait", "command": wait}));
    slack.mention("C01", "U07", "count");
    tether.wait_held();
    assert_eq!(mom.terminate().code, Some(0));
    tether.wait_released();
    let channel = slack.channel("C01");
    let shown: Vec<String> = channel.answers().iter().map(|m| m.shown()).collect();
    assert_eq!(shown, ["_Interrupted: mom is restarting_"]);
    slack.cut();
    llm.reply_text("Counted.");
    let mom = Mom::start_in(&home, &slack, &llm);
    let channel = slack.wait_answer("C01", "Counted.");
    assert_eq!(channel.answers().len(), 1, "{channel}");
    assert_eq!(mom.data("count"), "x\n");
    let asked = llm.requests().pop().expect("a request").raw;
    for told in ["Command aborted", "mom was restarted"] {
        assert!(asked.contains(told), "{asked}");
    }
}

/// A bad line that stopped mom would stop it again after each restart.
#[test]
fn mutated_files_keep_nobody_from_an_answer() {
    let files: &[(&str, &str)] = &[
        (
            "C01/log.jsonl",
            concat!(
                r#"{"date":"2026-01-05T09:12:44.120Z","ts":"1767604364.120019","user":"U07","userName":"lena","text":"é","attachments":[{"original":"a","local":"C01/attachments/1_a"}],"isBot":false,"mention":true}"#,
                "\n",
                r#"{"date":"2026-01-05T09:12:45.000Z","ts":"1767604365.000000","user":"bot","text":"hi","attachments":[],"isBot":true}"#,
                "\n",
            ),
        ),
        (
            "C01/context.jsonl",
            concat!(
                r#"{"type":"session","version":3,"id":"s","timestamp":"2026-01-05T09:12:44.120Z","cwd":"/"}"#,
                "\n",
                r#"{"type":"message","id":"a","parentId":null,"message":{"role":"user","content":[{"type":"text","text":"é"},{"type":"image","data":"iVBORw0KGgo=","mimeType":"image/png"}],"timestamp":1767604364120}}"#,
                "\n",
                r#"{"type":"message","id":"b","parentId":"a","message":{"role":"assistant","content":[{"type":"thinking","thinking":"hm","thinkingSignature":"x"},{"type":"toolCall","id":"t","name":"bash","arguments":{"command":"ls"}}],"api":"anthropic-messages","provider":"anthropic","model":"claude-sonnet-5-5","usage":{"input":3,"output":4},"stopReason":"toolUse","timestamp":1767604365000}}"#,
                "\n",
                r#"{"type":"message","id":"c","parentId":"b","message":{"role":"toolResult","toolCallId":"t","toolName":"bash","content":[{"type":"text","text":"a"}],"isError":false,"timestamp":1767604366000}}"#,
                "\n",
            ),
        ),
        (
            "C01/runs.jsonl",
            concat!(
                r#"{"requested":{"ts":"1767604364.120019","user":"U07","text":"é","files":["C01/attachments/1_a"],"access":"member"}}"#,
                "\n",
                r#"{"begun":{"requests":["1767604364.120019"],"tries":1,"status":"1767604364.200000","after":"a"}}"#,
                "\n",
                r#"{"spent":{"day":"2026-01-05","today":0.5,"total":1.5}}"#,
                "\n",
                r#"{"synced":{"position":200,"mark":"00"}}"#,
                "\n",
            ),
        ),
        (
            "events/yearly.json",
            r#"{"type":"periodic","channelId":"C01","text":"x","schedule":"0 9 29 2 *","timezone":"Europe/Berlin"}"#,
        ),
        (
            "skills/mail/SKILL.md",
            "---\nname: mail\ndescription: >-\n  reads\n  mail\n---\nbody\n",
        ),
        ("skills/.gitignore", "*.md\n!mail/**/x?\n"),
        (
            "settings.json",
            r#"{"compaction":{"enabled":true,"reserveTokens":16384},"retry":{"maxRetries":3}}"#,
        ),
        ("MEMORY.md", "# Memory\n\n- lena likes `short` answers\n"),
        ("C01/MEMORY.md", "# Here\n"),
        ("SYSTEM.md", "installed: jq\n"),
        ("directory.tsv", "C01\tops\nU07\tlena\tLena Berg\n"),
    ];
    survive_some(12, &[""], |random, _| {
        let home = Arc::new(Scratch::new());
        for (name, text) in files {
            home.write(&format!("data/{name}"), random.mutate(&[text.as_bytes()]));
        }
        let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
        // A mutated event may address mom, too.
        llm.otherwise(|_| Reply::text("Here."));
        // After that the request is sent again without them.
        llm.allow("image");
        // A valid id that belongs to nobody.
        slack.allow("user_not_found");
        slack.allow("thread_not_found");
        let mom = Mom::start_in(&home, &slack, &llm);
        slack.mention("C01", "U07", "hi");
        slack.wait_answer("C01", "Here.");
        assert_eq!(mom.terminate().code, Some(0));
    });
}

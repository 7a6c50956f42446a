//! Files in events/ that wake mom: now, at a time, again and again; what can't run is set
//! aside with the reason, and no crash makes a run come twice or never.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::http::Gate;
use crate::llm::{Asked, FakeLlm, Reply};
use crate::mom::Mom;
use crate::scratch::Scratch;
use crate::slack::{Channel, FakeSlack};
use crate::tether::make_fifo;

const HOUR: Duration = Duration::from_secs(3600);

fn immediate(text: &str) -> Value {
    json!({"type": "immediate", "channelId": "C01", "text": text})
}

fn one_shot(text: &str, at: SystemTime) -> Value {
    json!({"type": "one-shot", "channelId": "C01", "text": text, "at": iso(at)})
}

/// RFC 3339 in UTC, as `date -u` makes it.
pub(crate) fn iso(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    date(&["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"])
}

fn date(args: &[&str]) -> String {
    let out = std::process::Command::new("date")
        .args(args)
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn put(home: &Scratch, name: &str, event: &Value) {
    home.write(&format!("data/events/{name}"), event.to_string());
}

fn set_age(path: &Path, age: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

fn exists(home: &Scratch, name: &str) -> bool {
    fs::symlink_metadata(home.path(&format!("data/events/{name}"))).is_ok()
}

/// Waits for a file with the reason in it.
fn reason(mom: &Mom, name: &str) -> String {
    mom.wait_log(&format!("event {name} does not run"));
    mom.data(&format!("events/{name}.error"))
}

/// The text of an event that the model received, without the time before it.
fn told(asked: &Asked) -> String {
    let text = asked.message_text(0);
    text.split_once("] ")
        .map_or("", |(_, rest)| rest)
        .to_owned()
}

/// Starts a run that lasts until the gate opens; it repeats what is requested after that.
fn busy(slack: &FakeSlack, llm: &FakeLlm) -> Gate {
    let gate = Gate::new();
    llm.reply(Reply::text("The long answer of a run that takes its time").stall(&gate));
    slack.mention("C01", "U07", "take your time");
    llm.next_request();
    llm.otherwise(|asked| Reply::text(&format!("Heard: {}", told(asked))));
    gate
}

fn starts(slack: &FakeSlack) -> Vec<String> {
    let calls = slack.calls("chat.postMessage");
    let texts = calls.iter().map(|call| call.arg("text").to_owned());
    texts
        .filter(|text| text.contains("Starting event"))
        .collect()
}

/// Requests the status until it has this text: events are read a moment after a change.
fn wait_status(slack: &FakeSlack, text: &str) -> String {
    for _ in 0..100 {
        let before = slack.channel("C01").answers().len();
        slack.mention("C01", "U08", "status");
        let channel = slack.wait_channel("C01", |channel| {
            let answers = channel.answers();
            answers
                .iter()
                .skip(before)
                .any(|answer| answer.shown().contains("Scheduled:"))
        });
        let status = channel.answers().last().unwrap().shown();
        if status.contains(text) {
            return status;
        }
    }
    panic!("the status never said {text:?}");
}

#[test]
fn an_event_becomes_a_run_however_its_file_comes() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    llm.otherwise(|asked| Reply::text(&format!("Heard: {}", told(asked))));
    mom.wait_log("connected");
    let events = mom.home.path("data/events");

    // Written in pieces: half of a file is no event.
    let text = immediate("in pieces").to_string();
    fs::write(events.join("pieces.json"), &text[..20]).unwrap();
    fs::write(events.join("pieces.json"), &text).unwrap();
    let want = "[unknown]: [EVENT:pieces.json:immediate:immediate] in pieces";
    assert_eq!(told(&llm.next_request()), want);
    let channel = slack.wait_answer("C01", &format!("Heard: {want}"));
    assert_eq!(channel.answers().len(), 1, "{channel}");
    assert_eq!(starts(&slack), ["_Starting event: pieces.json_ ..."]);

    // By rename, with a byte order mark.
    let text = format!("\u{feff}{}", immediate("renamed"));
    fs::write(events.join("new.tmp"), text).unwrap();
    fs::rename(events.join("new.tmp"), events.join("renamed.json")).unwrap();
    assert!(told(&llm.next_request()).ends_with(" renamed"));

    // By a link whose other name goes at once.
    fs::write(events.join("new.tmp"), immediate("linked").to_string()).unwrap();
    fs::hard_link(events.join("new.tmp"), events.join("linked.json")).unwrap();
    fs::remove_file(events.join("new.tmp")).unwrap();
    assert!(told(&llm.next_request()).ends_with(" linked"));

    // Changed in place: the old text does not run.
    put(
        &mom.home,
        "edited.json",
        &one_shot("first", SystemTime::now() + HOUR),
    );
    wait_status(&slack, "Scheduled: edited.json");
    put(&mom.home, "edited.json", &immediate("second"));
    assert!(told(&llm.next_request()).ends_with(" second"));
    slack.wait_answer(
        "C01",
        "Heard: [unknown]: [EVENT:edited.json:immediate:immediate] second",
    );
    for name in ["pieces.json", "renamed.json", "linked.json", "edited.json"] {
        assert!(!exists(&mom.home, name), "{name}");
    }
    assert_eq!(llm.requests().len(), 4);
}

/// One call for each would delay the good event until Slack's limit has let all pass.
#[test]
fn many_for_a_closed_channel_ask_slack_little() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.allow("channel_not_found");
    let home = Arc::new(Scratch::new());
    let mut event = immediate("x");
    event["channelId"] = "C99".into();
    for n in 0..200 {
        put(&home, &format!("bad{n}.json"), &event);
    }
    put(&home, "good.json", &immediate("good"));
    llm.reply_text("Heard.");
    let _mom = Mom::start_in(&home, &slack, &llm);
    slack.wait_answer("C01", "Heard.");
    let calls = slack.calls("conversations.info").len();
    assert!(calls < 20, "{calls}");
}

/// A saved event is put there again, with its times (`cp -p`, `rsync -a`).
#[test]
fn a_copy_with_old_times_is_an_event_of_its_own() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    mom.wait_log("connected");
    let saved = mom.home.path("data/saved");
    let written = SystemTime::now() - HOUR;
    for n in 1..=2 {
        llm.reply_text(&format!("Checked {n}."));
        fs::write(&saved, immediate("check").to_string()).unwrap();
        let file = File::options().write(true).open(&saved).unwrap();
        file.set_modified(written).unwrap();
        fs::rename(&saved, mom.home.path("data/events/check.json")).unwrap();
        slack.wait_answer("C01", &format!("Checked {n}."));
    }
}

#[test]
fn a_one_shot_and_a_periodic_one_run_at_their_times() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    llm.otherwise(|asked| Reply::text(&format!("Heard: {}", told(asked))));
    let soon = SystemTime::now() + Duration::from_secs(2);
    put(&mom.home, "soon.json", &one_shot("ping", soon));
    assert_eq!(
        told(&llm.next_request()),
        format!("[unknown]: [EVENT:soon.json:one-shot:{}] ping", iso(soon))
    );
    assert!(SystemTime::now() >= soon - Duration::from_secs(1));
    let often = json!({"type": "periodic", "channelId": "C01", "text": "tick", "schedule": "* * * * * *",
        "timezone": "Europe/Vienna"});
    put(&mom.home, "often.json", &often);
    let want = "[unknown]: [EVENT:often.json:periodic:* * * * * *] tick";
    assert!(told(&llm.next_request()).starts_with(want));
    slack.wait_channel("C01", |channel| {
        channel.to_string().contains("it runs once a minute")
    });
    assert!(exists(&mom.home, "often.json") && !exists(&mom.home, "soon.json"));
    fs::remove_file(mom.home.path("data/events/often.json")).unwrap();
}

#[test]
fn what_was_missed_runs_late_or_is_set_aside() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let now = SystemTime::now();
    for (name, event, age) in [
        ("late.json", immediate("late"), HOUR),
        ("old.json", immediate("old"), 25 * HOUR),
        ("due.json", one_shot("due", now - HOUR), 2 * HOUR),
        (
            "overdue.json",
            one_shot("overdue", now - 25 * HOUR),
            48 * HOUR,
        ),
        ("ahead.json", one_shot("ahead", now + HOUR), 48 * HOUR),
    ] {
        put(&home, name, &event);
        set_age(&home.path(&format!("data/events/{name}")), age);
    }
    llm.otherwise(|_| Reply::text("Done."));
    let mom = Mom::start_in(&home, &slack, &llm);
    let mut told = [told(&llm.next_request()), told(&llm.next_request())];
    told.sort();
    assert!(told[0].contains("[EVENT:due.json:one-shot:"), "{told:?}");
    assert!(
        told[1].contains("[EVENT:late.json:immediate:immediate] late"),
        "{told:?}"
    );
    assert!(
        told.iter().all(|text| text.contains("late: it was due at")),
        "{told:?}"
    );
    assert!(reason(&mom, "old.json").contains("more than a day before mom started"));
    assert!(reason(&mom, "overdue.json").contains("more than a day ago"));
    // One whose time is past when it is written does not run.
    put(&home, "past.json", &one_shot("past", now - HOUR));
    assert!(reason(&mom, "past.json").contains("past already when it was written"));
    slack.wait_channel("C01", |channel| channel.answers().len() == 2);
    assert!(exists(&home, "ahead.json"));
    for name in [
        "late.json",
        "due.json",
        "old.json",
        "overdue.json",
        "past.json",
    ] {
        assert!(!exists(&home, name), "{name}");
    }
    assert_eq!(llm.requests().len(), 2);
}

#[test]
fn bad_files_are_set_aside_and_told_in_the_next_prompt() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.allow("channel_not_found");
    slack.change(|state| state.channels.get_mut("C02").unwrap().is_member = false);
    let home = Arc::new(Scratch::new());
    home.write("secret", immediate("SECRET").to_string());
    home.write("data/events/binary.json", [0xff; 100]);
    let huge = File::create(home.path("data/events/huge.json")).unwrap();
    huge.set_len(100 << 20).unwrap();
    make_fifo(&home, "data/events/fifo.json");
    symlink(home.path("secret"), home.path("data/events/link.json")).unwrap();
    fs::create_dir(home.path("data/events/dir.json")).unwrap();
    let mom = Mom::start_in(&home, &slack, &llm);
    let event = |channel: &str, rest: Value| {
        let mut event = json!({"channelId": channel, "text": "x"});
        event
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        event
    };
    let cron = |schedule: &str, zone: &str| json!({"type": "periodic", "schedule": schedule, "timezone": zone});
    let now = json!({"type": "immediate"});
    for (name, event) in [
        ("json.json", json!("no object")),
        (
            "field.json",
            json!({"type": "immediate", "channelId": "C01"}),
        ),
        ("zone.json", event("C01", cron("0 9 * * *", "Vienna"))),
        ("cron.json", event("C01", cron("0 24 * * *", "UTC"))),
        ("never.json", event("C01", cron("0 9 31 2 *", "UTC"))),
        ("offset.json", event("C01", cron("0 9 * * *", "GMT+2"))),
        ("unknown.json", event("C99", now.clone())),
        ("stranger.json", event("C02", now.clone())),
        ("path.json", event("../C01", now)),
    ] {
        put(&home, name, &event);
    }
    for (name, want) in [
        ("binary.json", "not UTF-8"),
        ("huge.json", "larger than"),
        ("fifo.json", "not a regular file"),
        ("link.json", "not a regular file"),
        ("dir.json", "directory"),
        ("json.json", "not a JSON object"),
        ("field.json", "\"text\" is missing"),
        ("zone.json", "Europe/Vienna"),
        ("cron.json", "24 is not in 0-23"),
        ("never.json", "no date ever matches"),
        ("offset.json", "write Etc/GMT-2,"),
        ("unknown.json", "channel_not_found"),
        ("stranger.json", "not_in_channel"),
        ("path.json", "no channel id"),
    ] {
        let reason = reason(&mom, name);
        assert!(reason.contains(want), "{name}: {reason}");
        assert!(!exists(&home, name), "{name}");
    }
    // The others go on, and the model is told of it once.
    llm.otherwise(|_| Reply::text("Done."));
    put(&home, "good.json", &immediate("good"));
    let request = llm.next_request();
    assert!(!request.raw.contains("SECRET"));
    let text = request.message_text(0);
    assert!(
        text.contains("[EVENT:good.json:immediate:immediate] good"),
        "{text}"
    );
    for name in [
        "zone.json",
        "cron.json",
        "field.json",
        "binary.json",
        "huge.json",
        "link.json",
    ] {
        assert!(
            text.contains(&format!("events/{name} does not run")),
            "{name}: {text}"
        );
    }
    slack.wait_answer("C01", "Done.");
    // Fixed as the file says: the value corrected, the name put back.
    let mended = mom
        .data("events/cron.json.error")
        .replace("0 24 * * *", "0 0 * * *");
    fs::write(home.path("data/events/cron.json"), mended).unwrap();
    wait_status(&slack, "Scheduled: cron.json at ");
    slack.mention("C01", "U07", "and now?");
    let text = llm.next_request().message_text(0);
    assert!(
        text.contains("and now?") && !text.contains("does not run"),
        "{text}"
    );
    assert_eq!(llm.requests().len(), 2);
}

#[test]
fn another_directory_in_its_place_is_noticed() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    llm.otherwise(|_| Reply::text("Done."));
    let (data, events) = (mom.home.path("data"), mom.home.path("data/events"));
    put(&mom.home, "first.json", &immediate("first"));
    assert!(told(&llm.next_request()).ends_with(" first"));
    // Replaced by another directory with an event in it; the old one, renamed, is watched no more.
    mom.home
        .write("data/other/second.json", immediate("second").to_string());
    fs::rename(&events, data.join("away")).unwrap();
    fs::rename(data.join("other"), &events).unwrap();
    assert!(told(&llm.next_request()).ends_with(" second"));
    mom.home
        .write("data/away/nobody.json", immediate("nobody").to_string());
    // Removed: mom creates it again, and what was scheduled is forgotten.
    put(
        &mom.home,
        "ahead.json",
        &one_shot("ahead", SystemTime::now() + HOUR),
    );
    wait_status(&slack, "Scheduled: ahead.json");
    fs::remove_dir_all(&events).unwrap();
    // mom creates the directory again, or the test does.
    put(&mom.home, "third.json", &immediate("third"));
    assert!(told(&llm.next_request()).ends_with(" third"));
    wait_status(&slack, "Scheduled: nothing");
    assert_eq!(llm.requests().len(), 3);
}

#[test]
fn a_link_in_place_of_the_directory_leads_nowhere() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    home.write("elsewhere/a.json", immediate("from elsewhere").to_string());
    home.write("data/MEMORY.md", "");
    symlink(home.path("elsewhere"), home.path("data/events")).unwrap();
    let mom = Mom::start_in(&home, &slack, &llm);
    mom.wait_log("events don't work");
    llm.reply_text("Hello.");
    slack.mention("C01", "U07", "hi");
    slack.wait_answer("C01", "Hello.");
    assert!(home.path("elsewhere/a.json").exists());
}

#[test]
fn five_wait_and_the_sixth_is_refused_aloud() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let gate = busy(&slack, &llm);
    for n in 1..=5 {
        put(&mom.home, &format!("{n}.json"), &immediate(&n.to_string()));
    }
    // All five are there once the last of them is.
    wait_status(&slack, "5 waiting");
    for n in 6..=7 {
        put(&mom.home, &format!("{n}.json"), &immediate(&n.to_string()));
        assert!(reason(&mom, &format!("{n}.json")).contains("5 events waited"));
    }
    gate.open();
    let channel = slack.wait_answer(
        "C01",
        "Heard: [unknown]: [EVENT:5.json:immediate:immediate] 5",
    );
    let refusals = channel.to_string().matches("I left out the event").count();
    assert_eq!(refusals, 1, "{channel}");
    for n in 1..=5 {
        assert!(told(&llm.next_request()).contains(&format!("[EVENT:{n}.json:")));
    }
    for n in 1..=5 {
        assert!(!exists(&mom.home, &format!("{n}.json")), "{n}");
    }
}

/// A file that is removed before its run begins does not run.
#[test]
fn a_file_that_goes_or_changes_while_its_run_waits() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let gate = busy(&slack, &llm);
    for name in ["gone", "changed", "same"] {
        put(&mom.home, &format!("{name}.json"), &immediate("then"));
    }
    wait_status(&slack, "3 waiting");
    std::fs::remove_file(mom.home.path("data/events/gone.json")).expect("remove");
    put(&mom.home, "changed.json", &immediate("now"));
    put(&mom.home, "same.json", &immediate("then"));
    gate.open();
    for text in [
        "[EVENT:changed.json:immediate:immediate] now",
        "[EVENT:same.json:",
    ] {
        answered_with(&slack, text);
    }
    slack.mention("C01", "U07", "and the third?");
    let channel = answered_with(&slack, "and the third?");
    let all = channel.to_string();
    assert!(!all.contains("gone.json"), "{all}");
    assert!(
        !all.contains("[EVENT:changed.json:immediate:immediate] then"),
        "{all}"
    );
    assert_eq!(all.matches("[EVENT:same.json:").count(), 1, "{all}");
}

/// Each run writes the file that wakes the next one.
#[test]
fn a_chain_of_events_ends() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let events = mom.home.path("data/events").display().to_string();
    let (mut n, mut seen) = (0, 0);
    llm.otherwise(move |asked| {
        let results = asked.tool_results().len();
        if std::mem::replace(&mut seen, results) < results {
            return Reply::text("Next.");
        }
        n += 1;
        let command = format!("echo '{}' > {events}/{n}.json", immediate("go on"));
        Reply::tool("bash", &json!({"label": "Go on", "command": command}))
    });
    put(&mom.home, "0.json", &immediate("go on"));
    let channel = slack.wait_channel("C01", |channel| {
        channel.to_string().contains("I left out the event")
    });
    assert!(
        channel.to_string().contains("20 runs in one hour"),
        "{channel}"
    );
    assert!(starts(&slack).len() < 25, "{:?}", starts(&slack));
}

fn answered_with(slack: &FakeSlack, text: &str) -> Channel {
    slack.wait_channel("C01", |channel| {
        let answers = channel.answers();
        let mut shown = answers.iter().map(|answer| answer.shown());
        shown.any(|shown| shown.starts_with("Heard: ") && shown.contains(text))
    })
}

#[test]
fn a_run_cut_by_a_crash_is_taken_up_once() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let home = Arc::clone(&mom.home);
    llm.reply_tool("bash", json!({"label": "Begin", "command": "echo begun"}));
    llm.reply(Reply::text("an answer that never comes to its end").stall(&Gate::new()));
    put(&home, "work.json", &immediate("work"));
    llm.next_request();
    llm.next_request();
    // Its run is on disk, so the file is removed.
    assert!(!exists(&home, "work.json"));
    mom.kill9();
    slack.cut();
    let mom = Mom::start_in(&home, &slack, &llm);
    llm.reply_text("The work is done.");
    let request = llm.next_request();
    assert!(
        request
            .raw
            .contains("[EVENT:work.json:immediate:immediate] work"),
        "{}",
        request.raw
    );
    assert_eq!(
        request.raw.matches("[EVENT:work.json").count(),
        1,
        "{}",
        request.raw
    );
    assert!(request.raw.contains("begun"), "{}", request.raw);
    let channel = slack.wait_answer("C01", "The work is done.");
    assert_eq!(channel.answers().len(), 1, "{channel}");
    // It runs only once: not again after another start.
    assert_eq!(mom.terminate().code, Some(0));
    slack.cut();
    let _mom = Mom::start_in(&home, &slack, &llm);
    llm.reply_text("Hello.");
    slack.mention("C01", "U07", "hi");
    slack.wait_answer("C01", "Hello.");
    assert_eq!(llm.requests().len(), 4);
}

#[test]
fn a_run_interrupted_by_a_restart_goes_on_and_one_that_waited_comes() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let home = Arc::clone(&mom.home);
    llm.reply(Reply::text("an answer that never comes to its end").stall(&Gate::new()));
    put(&home, "first.json", &immediate("first"));
    llm.next_request();
    put(&home, "second.json", &immediate("second"));
    wait_status(&slack, "1 waiting");
    assert!(exists(&home, "second.json"));
    assert_eq!(mom.terminate().code, Some(0));
    slack.cut();
    llm.otherwise(|asked| {
        Reply::text(&format!(
            "Heard {}",
            if asked.message_text(0).contains("second") {
                2
            } else {
                1
            }
        ))
    });
    let _mom = Mom::start_in(&home, &slack, &llm);
    slack.wait_answer("C01", "Heard 1");
    slack.wait_answer("C01", "Heard 2");
    assert_eq!(llm.requests().len(), 3);
    assert!(!exists(&home, "second.json"));
}

#[test]
fn silent_checks_leave_one_line_and_no_trace() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    llm.reply_text("Hello.");
    slack.mention("C01", "U07", "hi");
    slack.wait_answer("C01", "Hello.");
    llm.next_request();
    for n in 0..3 {
        llm.reply_tool("bash", json!({"label": "Check", "command": "seq 1000"}));
        llm.reply_text("[SILENT] all is well");
        put(&mom.home, &format!("check{n}.json"), &immediate("check"));
        llm.next_request();
        let second = llm.next_request();
        let messages = second.body["messages"].to_string();
        assert_eq!(messages.matches("[EVENT:").count(), 1, "{messages}");
        // Tool details and the status are removed.
        slack.next_call("chat.delete");
        slack.wait_channel("C01", |channel| channel.messages.len() == 3);
        assert_eq!(starts(&slack).len(), n + 1);
    }
    llm.reply_text("Well.");
    slack.mention("C01", "U07", "how are you?");
    let request = llm.next_request();
    let messages = request.body["messages"].to_string();
    assert_eq!(
        messages.matches("had nothing to say").count(),
        1,
        "{messages}"
    );
    assert!(
        !messages.contains("999") && !messages.contains("[EVENT:"),
        "{messages}"
    );
    slack.wait_answer("C01", "Well.");
}

#[test]
fn status_lists_the_schedule_of_the_channel() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    put(
        &home,
        "late.json",
        &json!({"type": "periodic", "channelId": "C01", "text": "x", "schedule": "0 0 1 1 *",
        "timezone": "Europe/Berlin"}),
    );
    put(
        &home,
        "local.json",
        &json!({"type": "one-shot", "channelId": "C01", "text": "x", "at": "2199-07-01T09:00"}),
    );
    put(
        &home,
        "other.json",
        &json!({"type": "one-shot", "channelId": "C02", "text": "x", "at": "2199-07-01T09:00:00Z"}),
    );
    let _mom = Mom::start_in(&home, &slack, &llm);
    // Without an offset it is the host's time.
    let text = wait_status(&slack, "Scheduled: l");
    let next = text
        .find("Scheduled: late.json at 20")
        .unwrap_or_else(|| panic!("{text}"));
    let far = text
        .find("Scheduled: local.json at 2199-07-01 09:00:00+02:00")
        .unwrap_or_else(|| panic!("{text}"));
    assert!(next < far && !text.contains("other.json"), "{text}");
}

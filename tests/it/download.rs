//! `mom --download`: a whole channel as text, threads in their place.

use std::sync::Arc;

use rustix::process::Signal;
use serde_json::json;

use crate::http::Gate;
use crate::mom::{Call, Ended};
use crate::scratch::Scratch;
use crate::slack::{BOT, FakeSlack, Fault, Message};

fn call(slack: &FakeSlack, channel: &str) -> Call {
    Call::new(&Arc::new(Scratch::new()))
        .slack(slack)
        .env_remove("MOM_SLACK_APP_TOKEN")
        .arg("--download")
        .arg(channel)
}

fn download(slack: &FakeSlack, channel: &str) -> Ended {
    call(slack, channel).run("")
}

fn add(slack: &FakeSlack, ts: &str, thread_ts: Option<&str>, user: &str, text: &str) {
    let message = Message {
        ts: ts.into(),
        thread_ts: thread_ts.map(str::to_owned),
        user: user.into(),
        text: text.into(),
        ..Message::default()
    };
    slack.change(|state| {
        let channel = state.channels.get_mut("C01").unwrap();
        channel.messages.push(message);
    });
}

#[test]
fn oldest_first_with_threads_and_indented_lines() {
    let slack = FakeSlack::start();
    let root = "1767604364.120019";
    add(&slack, root, None, "U07", "is the disk\nfull?");
    add(&slack, "1767604365.000000", None, "U08", "&lt;b&gt; *hi*");
    add(
        &slack,
        "1767604370.000000",
        Some(root),
        BOT,
        "91 %\nof 916G",
    );
    add(&slack, "1767604371.000000", Some(root), "U07", "thanks");
    slack.change(|state| {
        let messages = &mut state.channels.get_mut("C01").unwrap().messages;
        messages[1].extra = json!({"attachments": [{"title": "disk", "fields": [{"title": "use", "value": "91 %"}]}]})
            .as_object()
            .unwrap()
            .clone();
        state.users.get_mut("U07").unwrap()["real_name"] = "Lena\u{1b} Berg".into();
    });
    add(
        &slack,
        "1767604366.000000",
        None,
        "B0CI",
        "to <@U07> and <@U99|x>",
    );
    slack.allow("user_not_found");
    let link = "https://fake.slack.com/archives/C01/p1767604364120019?thread_ts=1";
    let ended = download(&slack, link);
    assert_eq!(
        ended.stdout,
        "\
[2026-01-05 09:12:44] Lena Berg: is the disk
                                 full?
  [2026-01-05 09:12:50] mom: 91 %
                             of 916G
  [2026-01-05 09:12:51] Lena Berg: thanks
[2026-01-05 09:12:45] otto: &lt;b&gt; *hi*
                            disk
                            use: 91 %
[2026-01-05 09:12:46] ci (app): to @Lena Berg and @U99
"
    );
    assert_eq!(ended.code, Some(0));
    assert!(
        ended
            .stderr
            .ends_with("3 messages, 2 replies in 1 thread\n"),
        "{}",
        ended.stderr
    );
}

/// More than one page of everything, and rate limits from Slack in between.
#[test]
fn three_thousand_messages_and_a_long_thread() {
    let slack = FakeSlack::start();
    let ts = |n: usize| format!("17676{n:05}.000000");
    slack.change(|state| {
        let messages = &mut state.channels.get_mut("C01").unwrap().messages;
        messages.extend((0..3000).map(|n| Message {
            ts: ts(n),
            user: "U07".into(),
            text: format!("message {n}"),
            ..Message::default()
        }));
        messages.extend((3000..3450).map(|n| Message {
            ts: ts(n),
            thread_ts: Some(ts(1500)),
            user: "U08".into(),
            text: format!("message {n}"),
            ..Message::default()
        }));
    });
    slack.fault("conversations.history", 4, Fault::Limited(1));
    slack.fault("conversations.history", 9, Fault::Html(500));
    slack.fault("conversations.replies", 2, Fault::Limited(1));
    let ended = download(&slack, "C01");
    let got: Vec<&str> = ended
        .stdout
        .lines()
        .filter_map(|line| Some(line.split_once(": message ")?.1))
        .collect();
    let want = (0..=1500).chain(3000..3450).chain(1501..3000);
    let want: Vec<String> = want.map(|n| n.to_string()).collect();
    assert_eq!(got, want);
    assert!(
        ended.stderr.contains("2600 messages read"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("450 replies in 1 thread"));
}

#[test]
fn says_what_is_wrong() {
    let slack = FakeSlack::start();
    slack.allow("not_in_channel");
    slack.allow("channel_not_found");
    slack.change(|state| state.channels.get_mut("C02").unwrap().is_member = false);
    for (channel, code, want) in [
        ("general", 2, "these look like C0123ABCD"),
        ("../C01", 2, "no channel id"),
        ("C02", 1, "invite mom there: /invite @mom"),
        ("C99", 1, "no such conversation"),
    ] {
        let ended = download(&slack, channel);
        assert_eq!(ended.code, Some(code), "{channel}: {}", ended.stderr);
        assert!(ended.stderr.contains(want), "{channel}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{channel}");
    }
    for (token, want) in [
        ("", "no Slack token in MOM_SLACK_BOT_TOKEN (xoxb-"),
        ("xapp-1", "MOM_SLACK_BOT_TOKEN does not start with xoxb-"),
    ] {
        let ended = call(&slack, "C01")
            .env("MOM_SLACK_BOT_TOKEN", token)
            .run("");
        assert_eq!(ended.code, Some(1), "{token}");
        assert!(ended.stderr.contains(want), "{token}: {}", ended.stderr);
    }
}

#[test]
fn ctrl_c_ends_it_at_once() {
    let slack = FakeSlack::start();
    add(&slack, "1767604364.120019", None, "U07", "hello");
    slack.fault("conversations.history", 1, Fault::Stall(Gate::new()));
    let mom = call(&slack, "C01").spawn();
    slack.next_call("conversations.history");
    mom.signal(Signal::INT);
    let ended = mom.ended();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(130), ""));
    slack.fault("conversations.history", 1, Fault::Limited(3600));
    let mom = call(&slack, "C01").spawn();
    mom.wait_log("rate limited");
    mom.signal(Signal::INT);
    assert_eq!(mom.ended().code, Some(130));
}

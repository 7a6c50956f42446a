//! Ending things early: the word `stop`, the button, signals, a kill. It ends everything that a
//! tool started, except what was left in the background on purpose.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::docker::{self, Container};
use crate::http::Gate;
use crate::llm::{FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::FakeSlack;
use crate::tether::{Tether, make_fifo};

/// A tool call that opens `tether` in the data directory, with a grandchild, and never ends. The
/// tools' working directory need not be known.
fn endless(workspace: &str) -> Value {
    let command = format!("exec 9>{workspace}/tether; echo up >&9; sh -c 'sleep 1000; :' & wait");
    json!({"label": "Wait", "command": command})
}

fn home() -> (Arc<Scratch>, Tether) {
    let home = Arc::new(Scratch::new());
    home.write("data/MEMORY.md", "");
    let tether = Tether::new(&home, "data/tether");
    (home, tether)
}

fn on_host(home: &Scratch) -> Value {
    endless(home.path("data").to_str().expect("a UTF-8 path"))
}

#[test]
fn the_word_ends_the_tool_and_its_children() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let (home, mut tether) = home();
    let _mom = Mom::start_in(&home, &slack, &llm);
    llm.reply_tool("bash", on_host(&home));
    slack.mention("C01", "U07", "wait for ever");
    tether.wait_held();
    let stop = slack.say("C01", "U07", "Stop").send();
    tether.wait_released();
    let seen = slack.wait_channel("C01", |channel| {
        channel.to_string().contains("_Stopped_ by lena")
            && channel.message(&stop).reactions == ["octagonal_sign"]
    });
    assert_eq!(seen.answers().len(), 1, "{seen}");
    llm.reply_text("Here.");
    slack.mention("C01", "U07", "are you there?");
    slack.wait_channel("C01", |channel| channel.to_string().contains("mom: Here."));
}

#[test]
fn it_ends_a_model_that_says_nothing() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let _mom = Mom::start(&slack, &llm);
    llm.reply(Reply::text("a long story that never ends").stall(&Gate::new()));
    slack.mention("C01", "U07", "a story");
    llm.next_request();
    slack.mention("C01", "U07", "stop");
    llm.wait_hung_up(1);
    slack.wait_channel("C01", |channel| channel.to_string().contains("_Stopped_"));
}

#[test]
fn nothing_runs_and_it_says_so() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let _mom = Mom::start(&slack, &llm);
    slack.mention("C01", "U07", "stop");
    slack.wait_channel("C01", |channel| {
        channel.to_string().contains("_Nothing running_")
    });
}

#[test]
fn a_run_in_one_channel_delays_no_other() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let mom = Mom::start(&slack, &llm);
    let gate = Gate::new();
    llm.reply(Reply::text("At long last.").stall(&gate));
    slack.mention("C01", "U07", "take your time");
    llm.next_request();
    llm.reply_text("Quick.");
    slack.mention("C02", "U08", "hurry");
    slack.wait_channel("C02", |channel| channel.to_string().contains("mom: Quick."));
    gate.open();
    slack.wait_channel("C01", |channel| {
        channel.to_string().contains("mom: At long last.")
    });
    drop(mom);
}

#[test]
fn sigterm_says_goodbye() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let (home, mut tether) = home();
    let mom = Mom::start_in(&home, &slack, &llm);
    llm.reply_tool("bash", on_host(&home));
    slack.mention("C01", "U07", "wait for ever");
    tether.wait_held();
    assert_eq!(mom.terminate().code, Some(0));
    tether.wait_released();
    assert!(
        slack.channel("C01").to_string().contains("restarting"),
        "{}",
        slack.channel("C01")
    );
}

#[test]
fn her_death_ends_the_tool() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let (home, mut tether) = home();
    let mom = Mom::start_in(&home, &slack, &llm);
    llm.reply_tool("bash", on_host(&home));
    slack.mention("C01", "U07", "wait for ever");
    tether.wait_held();
    assert_eq!(mom.kill9().code, None);
    tether.wait_released();
}

#[test]
fn stop_and_death_reach_into_the_container() {
    let Some(image) = docker::image() else { return };
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let (home, mut tether) = home();
    let container = Container::by_hand(image, &home.path("data"));
    let call = Call::new(&home)
        .slack(&slack)
        .llm(&llm)
        .arg(&container.sandbox());
    let mom = call.data().spawn();
    for end in ["stop", "kill"] {
        llm.reply_tool("bash", endless("/workspace"));
        slack.mention("C01", "U07", "wait for ever");
        tether.wait_held();
        match end {
            "stop" => drop(slack.mention("C01", "U07", "stop")),
            _ => mom.signal(rustix::process::Signal::KILL),
        }
        tether.wait_released();
    }
}

#[test]
fn what_is_left_in_the_background_stays_and_holds_nothing_up() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let (home, mut tether) = home();
    make_fifo(&home, "data/release");
    let mom = Mom::start_in(&home, &slack, &llm);
    let data = home.path("data");
    let command = format!(
        "cd {}; sh -c 'echo up >&9; read line <release' 9>tether & echo left",
        data.display()
    );
    llm.reply_tool("bash", json!({"label": "Leave", "command": command}));
    llm.reply_text("Left.");
    slack.mention("C01", "U07", "leave something running");
    slack.wait_channel("C01", |channel| channel.to_string().contains("mom: Left."));
    tether.wait_held();
    assert_eq!(mom.terminate().code, Some(0));
    assert!(tether.is_held(), "it went with mom");
    std::fs::write(data.join("release"), "now\n").expect("write to a FIFO");
    tether.wait_released();
}

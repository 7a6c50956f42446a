//! `--budget`: what mom may cost a day, and what it posts when that is used up.

use std::sync::Arc;

use serde_json::json;

use crate::http::Gate;
use crate::llm::{FakeLlm, OPENAI_KEY, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::FakeSlack;

const SENTENCE: &str = "My budget of $1.00 for today is used up";

fn start(home: &Arc<Scratch>, slack: &FakeSlack, llm: &FakeLlm, budget: &str) -> Mom {
    let call = Call::new(home).slack(slack).llm(llm).arg(budget);
    let mom = call.data().spawn();
    slack.wait_connected();
    mom
}

fn wait_said(slack: &FakeSlack, channel: &str, text: &str, times: usize) -> String {
    let seen = slack.wait_channel(channel, |channel| {
        channel.to_string().matches(text).count() >= times
    });
    let seen = seen.to_string();
    assert_eq!(seen.matches(text).count(), times, "{seen}");
    seen
}

/// The run before may have seen the message; that run has not ended yet.
fn wait_reaction(slack: &FakeSlack, channel: &str, ts: &str) {
    slack.wait_channel(channel, |channel| {
        let last = channel.message(ts).reactions.last();
        last.is_some_and(|name| name == "zzz")
    });
}

#[test]
fn used_up_it_ends_the_run_and_asks_no_model_until_it_is_raised() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    let mom = start(&home, &slack, &llm, "--budget=1");
    // A dollar: 500,000 tokens at $2 a million.
    let call = json!({"label": "Look", "command": "echo looked"}).to_string();
    let gate = Gate::new();
    let reply = Reply::text("I look first.").and_tool("bash", &call);
    llm.reply(reply.usage(500_000, 0, 0, 0).stall(&gate));
    slack.mention("C01", "U07", "look");
    llm.next_request();
    let waiting = slack.mention("C01", "U08", "and there");
    slack.wait_channel("C01", |channel| {
        channel.message(&waiting).reactions == ["eyes"]
    });
    gate.open();
    // The run posts what it had and the reason; then the message that waited is answered.
    let seen = wait_said(&slack, "C01", SENTENCE, 2);
    assert!(seen.contains("I look first."), "{seen}");
    assert!(seen.contains("the person who runs me raises it"), "{seen}");
    wait_said(
        &slack,
        "C01",
        "100 % of the budget: $1.00 of $1.00 today",
        1,
    );
    assert!(mom.data("C01/context.jsonl").contains("looked"));
    let further = slack.mention("C01", "U07", "hello?");
    wait_reaction(&slack, "C01", &further);
    slack.dm("U08", "and here?");
    wait_said(&slack, "D08", SENTENCE, 1);

    mom.terminate();
    let mom = start(&home, &slack, &llm, "--budget=1");
    let after = slack.mention("C01", "U07", "after a restart");
    wait_reaction(&slack, "C01", &after);
    for n in 1..=2 {
        let event = json!({"type": "immediate", "channelId": "C01", "text": "x"});
        home.write(&format!("data/events/e{n}.json"), event.to_string());
        mom.wait_log(&format!("the budget is used up: e{n}.json"));
    }
    slack.mention("C01", "U07", "status");
    wait_said(&slack, "C01", "Budget: $1.00 of $1.00 today", 1);
    wait_said(&slack, "C01", SENTENCE, 3);
    wait_said(&slack, "C01", "I left out the event", 1);
    assert!(!home.path("data/events/e2.json").exists());
    assert_eq!(llm.requests().len(), 1);

    mom.terminate();
    let mom = start(&home, &slack, &llm, "--budget=2");
    llm.reply(Reply::text("Here I am.").usage(375_000, 0, 0, 0));
    slack.mention("C01", "U07", "and now?");
    wait_said(&slack, "C01", "Here I am.", 1);
    wait_said(&slack, "C01", "87 % of the budget: $1.75 of $2.00 today", 1);
    // The next day.
    mom.terminate();
    let facts: Vec<String> = (home.jsonl("data/C01/runs.jsonl").into_iter())
        .map(|mut fact| {
            if fact.get("spent").is_some() {
                fact["spent"]["day"] = "2020-01-05".into();
            }
            if fact.get("told").is_some() {
                fact["told"]["day"] = 18_266.into();
            }
            fact.to_string() + "\n"
        })
        .collect();
    home.write("data/C01/runs.jsonl", facts.concat());
    let mom = start(&home, &slack, &llm, "--budget=1");
    llm.reply(Reply::text("Good morning.").usage(500_000, 0, 0, 0));
    slack.mention("C01", "U07", "is it tomorrow?");
    let seen = wait_said(&slack, "C01", "Good morning.", 1);
    assert_eq!(seen.matches(SENTENCE).count(), 3, "{seen}");
    slack.mention("C01", "U07", "and now?");
    wait_said(&slack, "C01", SENTENCE, 4);
    mom.terminate();
    let call = Call::new(&home).slack(&slack).llm(&llm).arg("--check");
    let checked = call.env("MOM_BUDGET", "2").data().run("").stdout;
    assert!(
        checked.contains("budget: $1.00 of $2.00 today"),
        "{checked}"
    );
}

/// Summaries count like answers; after the last cent no question reaches the model.
#[test]
fn compactions_count_and_the_terminal_says_the_same() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    llm.fill_a_small_window();
    // A tenth of a cent each.
    let call = Call::new(&home).local_llm(&llm);
    let call = call.arg("--price=0,10").arg("--budget=0.0195");
    let lines: String = (0..30).map(|n| format!("question {n}\n")).collect();
    let ended = call.arg("--chat").data().run(&lines);
    assert!(ended.stderr.contains("Compacting"), "{}", ended.stderr);
    assert_eq!(llm.requests().len(), 20);
    let last = ended.stdout.lines().last();
    let sentence = "My budget of $0.020 for today is used up";
    assert!(
        last.is_some_and(|line| line.contains(sentence)),
        "{ended:?}"
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn what_cannot_be_kept_ends_the_start() {
    let home = Arc::new(Scratch::new());
    let chat = |budget: &str, model: &str| {
        let call = Call::new(&home).env("OPENAI_API_KEY", OPENAI_KEY);
        let call = call.env("MOM_BUDGET", budget).arg(model);
        call.arg("--chat").data().run("echo fine\n")
    };
    for (budget, model, want) in [
        ("0", "--model=offline", "--budget=0: write dollars a day"),
        ("-1", "--model=offline", "more than 0"),
        ("five", "--model=offline", "--budget=five: write dollars"),
        ("5", "--model=openai/unheard-of", "--price=IN,OUT"),
    ] {
        let ended = chat(budget, model);
        assert!(ended.stderr.contains(want), "{want}: {}", ended.stderr);
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    }
    let ended = chat("5", "--model=offline");
    assert!(ended.stdout.contains("fine"), "{}", ended.stderr);
}

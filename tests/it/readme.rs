//! What README and man page show works as it is printed there. Building and installing are in
//! tests/bare.sh, options and scopes in tidy.rs and install.rs.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use crate::docker::{self, Container, root, text};
use crate::llm::{FakeLlm, Reply};
use crate::mom::{Call, Mom};
use crate::scratch::Scratch;
use crate::slack::FakeSlack;

/// The code block in the README that begins like this.
fn code(start: &str) -> String {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let start = format!("    {start}");
    let block = readme.split("\n\n").find(|part| part.starts_with(&start));
    let lines = block.unwrap_or_else(|| panic!("the README has no {start}"));
    let lines = lines.lines().map(|line| line.trim_start_matches("    "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn a_container_made_by_hand() {
    let Some(image) = docker::image() else { return };
    let home = Arc::new(Scratch::new());
    home.write("data/here", "found it");
    let container = Container::named();
    let data = home.path("data").display().to_string();
    let line = code("docker run")
        .replace("~/mom/data", &data)
        .replace("mom-sandbox", &container.name)
        .replace("alpine:latest", image);
    let made = Command::new("sh").args(["-c", &line]).output();
    let made = made.expect("run sh");
    assert!(made.status.success(), "{line}{}", text(&made.stderr));
    let call = Call::new(&home).arg("--chat").arg("--model=offline");
    let ended = call.arg(&container.sandbox()).data().run("cat here\n");
    assert!(ended.stdout.contains("found it"), "{ended:?}");
    assert!(!ended.stderr.contains("WARN  container"), "{ended:?}");
}

#[test]
fn the_three_events() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.open_channel("C0123ABCD");
    let home = Arc::new(Scratch::new());
    for (name, line) in ["now", "once", "daily"].iter().zip(code("{").lines()) {
        // A date that is in the future whenever this runs.
        let line = line.replace("2026", "2099");
        home.write(&format!("data/events/{name}.json"), line);
    }
    llm.otherwise(|_| Reply::text("[SILENT]"));
    let _mom = Mom::start_in(&home, &slack, &llm);
    let asked = llm.next_request().message_text(0);
    assert!(asked.contains("The build failed, see build.log"), "{asked}");
    slack.mention("C0123ABCD", "U07", "status");
    let channel = slack.wait_channel("C0123ABCD", |channel| {
        let answers = channel.answers();
        let mut shown = answers.iter().map(|answer| answer.shown());
        shown.any(|answer| answer.contains("Scheduled:"))
    });
    let status = channel.answers().last().expect("the status").shown();
    for name in ["once", "daily"] {
        assert!(status.contains(name), "{name}: {status}");
    }
}

#[test]
fn the_skill_and_the_settings() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    home.write("data/skills/invoices/SKILL.md", code("---"));
    let man = fs::read_to_string(root().join("src/install/mom.1")).expect("mom.1");
    let at = man.find("{\"compaction\"").expect("the settings");
    let settings = man[at..].split("\n.fi").next().expect("their end");
    home.write("data/settings.json", settings);
    llm.reply_text("Hello.");
    let ended = Call::new(&home).llm(&llm).arg("--chat").data().run("hi\n");
    assert_eq!(ended.stdout, "Hello.\n", "{ended:?}");
    assert!(!ended.stderr.contains("settings.json"), "{ended:?}");
    let prompt = llm.next_request().system();
    assert!(prompt.contains("How we write invoices"), "{prompt}");
}

//! The command line as typed: help, usage errors, and what is missing to start.

use std::sync::Arc;

use crate::llm::FakeLlm;
use crate::mom::{Call, Ended};
use crate::scratch::Scratch;
use crate::slack::FakeSlack;

fn mom(args: &[&str]) -> Ended {
    let home = Arc::new(Scratch::new());
    args.iter()
        .fold(Call::new(&home), |call, arg| call.arg(arg))
        .run("")
}

#[test]
fn help_and_version_are_results() {
    let help = mom(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(
        help.stdout.contains("mom --chat") && help.stderr.is_empty(),
        "{help:?}"
    );
    let version = mom(&["--version"]);
    assert_eq!(version.code, Some(0));
    assert_eq!(
        version.stdout,
        format!("mom {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn usage_errors_exit_with_2_and_name_the_mend() {
    for (args, want) in [
        (&["--sandbx=host", "d"][..], "--sandbox"),
        (&["a", "b"], "two data directories"),
        (&["--sandbox=docker", "d"], "needs the container's name"),
        (&["chat", "d"], "mom --chat DIR"),
        (&["-v"], "--version"),
        (&["--approve=maybe", "d"], "off, changes or all"),
        (&["--log-level=loud", "d"], "error, warn, info, debug"),
        (&["--model"], "--model"),
        (&[], "data directory"),
    ] {
        let ended = mom(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(
            ended.stderr.contains(want) && ended.stdout.is_empty(),
            "{args:?}: {ended:?}"
        );
    }
}

#[test]
fn what_is_missing_is_named() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    for (name, value, want) in [
        ("MOM_SLACK_APP_TOKEN", "", "MOM_SLACK_APP_TOKEN"),
        ("MOM_SLACK_BOT_TOKEN", "", "MOM_SLACK_BOT_TOKEN"),
        ("MOM_SLACK_APP_TOKEN", "xoxb-test", "xapp-"),
        ("MOM_SLACK_BOT_TOKEN", "xapp-1-test", "xoxb-"),
        ("MOM_SLACK_APP_TOKEN", "xapp-...", "placeholder"),
        ("ANTHROPIC_API_KEY", "", "ANTHROPIC_API_KEY"),
        ("MOM_MODEL", "nobody/nothing", "nobody"),
        ("MOM_PRICE", "cheap", "IN,OUT,CACHED"),
    ] {
        let home = Arc::new(Scratch::new());
        let ended = Call::new(&home)
            .slack(&slack)
            .llm(&llm)
            .env(name, value)
            .data()
            .run("");
        assert!(
            matches!(ended.code, Some(1 | 2)),
            "{name}={value}: {ended:?}"
        );
        assert!(ended.stderr.contains(want), "{name}={value}: {ended:?}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let home = Arc::new(Scratch::new());
    home.write("file", "");
    for (name, want) in [
        ("file/data", "name one that you may write to"),
        ("file", "is a file; name a directory"),
        ("/proc", "cannot write to the data directory /proc: "),
    ] {
        let path = home.path(name).to_str().unwrap().to_owned();
        let call = Call::new(&home).arg("--chat").arg("--model=offline");
        let ended = call.arg(&path).run("");
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let told = ended.stderr.contains(&path) && ended.stderr.contains(want);
        assert!(told, "{ended:?}");
    }
}

#[test]
fn fatal_slack_errors_end_it() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    slack.allow("invalid_auth");
    let home = Arc::new(Scratch::new());
    let call = Call::new(&home)
        .slack(&slack)
        .llm(&llm)
        .env("MOM_SLACK_BOT_TOKEN", "xoxb-other");
    let ended = call.data().run("");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("invalid_auth"), "{ended:?}");
}

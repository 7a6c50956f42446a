//! `mom --check`: every fault is named, with what fixes it, and stops no other check.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;

use crate::docker::{Container, docker_ok, image, left_out, root};
use crate::faults::Disk;
use crate::http::{Answer, Peer, Reply, Request, Scheme, Server};
use crate::llm::{self, FakeLlm};
use crate::mom::{Call, Ended, Mom};
use crate::scratch::Scratch;
use crate::slack::{self, FakeSlack, Fault};

/// A Slack, a model and a data directory without faults, until a test breaks something.
struct World {
    home: Arc<Scratch>,
    slack: FakeSlack,
    llm: FakeLlm,
    /// A model server that refuses every key.
    stern: Server,
    /// A mom that runs on the same data directory.
    other: Option<Mom>,
}

impl World {
    fn new() -> World {
        let home = Arc::new(Scratch::new());
        home.write("data/C01/log.jsonl", "");
        let llm = FakeLlm::start();
        llm.page("/v1/models/claude-sonnet-5-5", json!({"type": "model"}));
        llm.page("/v1/models", json!({"data": [{"id": "gpt-6-sol"}]}));
        let refuse = |request: &Request, _: &Peer<'_>| {
            Answer::Reply(match request.path.as_str() {
                "/html/models" => Reply::new(200, "text/html", "<html>hello</html>"),
                _ => Reply::json(
                    401,
                    &json!({"error": {"type": "authentication_error",
                    "message": "invalid x-api-key"}}),
                ),
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        World {
            home,
            slack: FakeSlack::start(),
            llm,
            stern: Server::start("stern", Scheme::Http, listener, Arc::new(refuse)),
            other: None,
        }
    }

    /// Without a data directory.
    fn call(&self) -> Call {
        Call::new(&self.home)
            .slack(&self.slack)
            .llm(&self.llm)
            .arg("--check")
            .env("MOM_ALLOW_USERS", "U07")
    }

    fn check(&self, change: impl FnOnce(Call) -> Call) -> Ended {
        change(self.call()).data().run("")
    }
}

/// A line with these words, and this in the line below it.
fn assert_told(name: &str, ended: &Ended, line: &str, mend: &str) {
    let mut lines = ended.stdout.lines();
    let found = lines.find(|found| found.starts_with(line));
    assert!(found.is_some(), "{name}: no {line:?} in\n{}", ended.stdout);
    let below = lines.next().unwrap_or_default();
    let named = below.starts_with("      -> ") && below.contains(mend);
    assert!(named, "{name}: {mend:?} is not in {below:?}");
    let failed = ended.stdout.lines().any(|line| line.starts_with("FAIL"));
    assert_eq!(
        ended.code,
        Some(i32::from(failed)),
        "{name}\n{}",
        ended.stdout
    );
    for secret in [
        slack::APP_TOKEN,
        slack::BOT_TOKEN,
        llm::KEY,
        llm::OPENAI_KEY,
    ] {
        assert!(!ended.stdout.contains(secret), "{name}: {}", ended.stdout);
    }
}

#[test]
fn all_is_well() {
    let world = World::new();
    let ended = world.check(|call| call);
    let kinds: Vec<&str> = ended
        .stdout
        .lines()
        .filter_map(|line| line.get(..4))
        .collect();
    let count = |word: &str| kinds.iter().filter(|kind| **kind == word).count();
    // A sandbox on the host isolates nothing.
    assert_eq!(count("warn"), 1, "{}", ended.stdout);
    assert_eq!(count("ok  "), 13, "{}", ended.stdout);
    for set in ["budget: none", "approval: off", "threads: not followed"] {
        assert!(ended.stdout.contains(set), "{set}: {}", ended.stdout);
    }
    assert_eq!(
        (count("FAIL"), ended.code),
        (0, Some(0)),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("\nmom can start; "),
        "{}",
        ended.stdout
    );
    assert!(!ended.stdout.contains('\x1b'), "{}", ended.stdout);
    assert_eq!(ended.stderr, "");
    assert!(world.slack.calls("apps.connections.open").len() == 1);
    world
        .slack
        .change(|state| assert!(state.sockets.is_empty()));
}

#[test]
fn nothing_is_configured() {
    let ended = Call::new(&Arc::new(Scratch::new())).arg("--check").run("");
    for (line, mend) in [
        (
            "FAIL  data directory: none given",
            "mkdir data, then: mom --check ./data",
        ),
        ("warn  who may ask: everyone", "--allow-users=U1,U2"),
        (
            "FAIL  Slack tokens: no Slack token in MOM_SLACK_APP_TOKEN",
            "mom --manifest",
        ),
        (
            "FAIL  model: no key for anthropic: set ANTHROPIC_API_KEY",
            "--model=offline",
        ),
    ] {
        assert_told("nothing", &ended, line, mend);
    }
    assert!(
        ended.stdout.contains("\n3 failures to mend, "),
        "{}",
        ended.stdout
    );
    let first = "; first:\n  mkdir data, then: mom --check ./data\n";
    assert!(ended.stdout.ends_with(first), "{}", ended.stdout);
}

/// Breaks one thing; returns the options for the call.
type Break = fn(&mut World, Call) -> Call;

#[test]
#[rustfmt::skip]
fn each_fault_has_its_mend() {
    let rows: &[(&str, Break, &str, &str)] = &[
        ("lock", |w, c| {
            let mut other = Call::new(&w.home).arg("--chat").arg("--model=offline").data().spawn();
            other.type_text("echo hi\n");
            other.wait_stdout("hi");
            w.other = Some(other);
            c
        }, "warn  lock: another mom works on ", "stop that one first"),
        ("settings", |w, c| { w.home.write("data/settings.json", "{"); c },
            "warn  settings: settings.json: not valid JSON", "correct the file"),
        ("sandbox name", |_, c| c.arg("--sandbox=docker:"), "FAIL  sandbox: --sandbox=docker needs the container's name", " create ./data"),
        ("no engine", |w, c| {
            let path = w.home.path("empty");
            std::fs::create_dir_all(&path).unwrap();
            c.env("PATH", path.to_str().unwrap()).arg("--sandbox=docker:nope")
        }, "FAIL  sandbox: ", "install docker"),
        ("names for ids", |_, c| c.arg("--allow-users=lena"), "FAIL  who may ask: lena in --allow-users is no user id", "Copy ID"),
        ("channel names", |_, c| c.arg("--allow-channels=#ops"), "FAIL  who may ask: #ops in --allow-channels is no channel id", "Copy ID"),
        ("no app token", |_, c| c.env_remove("MOM_SLACK_APP_TOKEN"), "FAIL  Slack tokens: no Slack token in MOM_SLACK_APP_TOKEN", "mom --manifest"),
        ("swapped", |_, c| c.env("MOM_SLACK_APP_TOKEN", slack::BOT_TOKEN).env("MOM_SLACK_BOT_TOKEN", slack::APP_TOKEN),
            "FAIL  Slack tokens: the Slack tokens are swapped", "MOM_SLACK_APP_TOKEN takes the xapp- token"),
        ("user token", |_, c| c.env("MOM_SLACK_BOT_TOKEN", "xoxp-1234567890"), "FAIL  Slack tokens: MOM_SLACK_BOT_TOKEN does not start with xoxb-", "Install App"),
        ("revoked", |w, c| { w.slack.fault("auth.test", 1, Fault::Code("token_revoked")); c },
            "FAIL  Slack: auth.test: Slack refused: token_revoked", "check MOM_SLACK_BOT_TOKEN"),
        ("scopes", |w, c| { w.slack.change(|state| state.scopes.remove("users:read")); c },
            "FAIL  scopes: missing: users:read", "reinstall the app"),
        ("Socket Mode off", |w, c| { w.slack.fault("apps.connections.open", 1, Fault::Code("no_permission")); c },
            "FAIL  Socket Mode: apps.connections.open: Slack refused: no_permission", "Socket Mode)"),
        ("Slack is down", |w, c| { w.slack.server.set_down(true); c }, "FAIL  Slack: auth.test: ", "look at the network"),
        ("no key", |_, c| c.env_remove("ANTHROPIC_API_KEY").env("OPENAI_API_KEY", llm::OPENAI_KEY),
            "FAIL  model: no key for anthropic: set ANTHROPIC_API_KEY", "a key is set for openai"),
        ("no such provider", |_, c| c.arg("--model=antropic/x"), "FAIL  model: --model=antropic/x: there is no provider antropic", "did you mean anthropic?"),
        ("no model", |_, c| c.arg("--model=openai"), "FAIL  model: --model=openai: names no model", "--model=PROVIDER/ID"),
        ("a typo", |_, c| c.arg("--model=anthropic/claude-sonet-5-5"), "FAIL  model: anthropic/claude-sonet-5-5: HTTP 404", "did you mean claude-sonnet-5-5?"),
        ("not listed", |w, c| c.arg("--model=openai/gpt-6-sole").env("OPENAI_API_KEY", llm::OPENAI_KEY)
            .env("OPENAI_BASE_URL", &format!("{}/v1", w.llm.url())), "FAIL  model: ", "did you mean gpt-6-sol?"),
        ("key refused", |w, c| c.env("ANTHROPIC_BASE_URL", &w.stern.url()), "FAIL  model: anthropic/claude-sonnet-5-5: HTTP 401", "check ANTHROPIC_API_KEY"),
        ("not running", |_, c| c.arg("--model=ollama/m").env("OLLAMA_BASE_URL", "http://127.0.0.1:1/v1"), "FAIL  model: cannot reach http://127.0.0.1:1/v1", "is it running?"),
        ("a web page", |w, c| c.arg("--model=custom/m").env("OPENAI_BASE_URL", &format!("{}/html", w.stern.url())),
            "FAIL  model: ", "check OPENAI_BASE_URL"),
    ];
    for (name, broken, line, mend) in rows {
        let mut world = World::new();
        let call = world.call();
        let ended = broken(&mut world, call).data().run("");
        assert_told(name, &ended, line, mend);
        // The fault stops no other check.
        assert!(ended.stdout.contains("  model: "), "{name}: {}", ended.stdout);
        assert!(ended.stdout.contains("data can be written to"), "{name}: {}", ended.stdout);
    }
}

#[test]
fn odd_data_directories() {
    let world = World::new();
    let ended = world.call().arg("/proc").run("");
    assert_told(
        "proc",
        &ended,
        "FAIL  data directory: cannot write to the data directory /proc: ",
        "chown",
    );
    let ended = world.call().arg("/proc/nope/data").run("");
    let told = "FAIL  data directory: cannot make the data directory /proc/nope/data: ";
    assert_told("no place", &ended, told, "name one that you may write to");
    let file = world.home.path("data/C01/log.jsonl");
    let ended = world.call().arg(file.to_str().unwrap()).run("");
    assert_told(
        "file",
        &ended,
        &format!("FAIL  data directory: {} is a file", file.display()),
        "name a directory",
    );
    let ended = world
        .call()
        .arg(world.home.path("new").to_str().unwrap())
        .run("");
    assert_told("new", &ended, "warn  data directory: ", "mkdir -p ");
    assert!(!world.home.path("new").exists());
}

#[test]
fn a_full_disk_fails() {
    let world = World::new();
    let Some(disk) = Disk::new(&world.home) else {
        return;
    };
    let line = "FAIL  data directory: cannot write to the data directory ";
    disk.fill();
    let names = || -> Vec<_> {
        let entries = std::fs::read_dir(world.home.path("data")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let before = names();
    let ended = world.check(|call| call);
    assert_told("full", &ended, line, "make room");
    assert!(!ended.stdout.contains("chown"), "{}", ended.stdout);
    assert_eq!(ended.stdout.matches("FAIL").count(), 1, "{}", ended.stdout);
    let started = Call::new(&world.home).arg("--chat").arg("--model=offline");
    assert_eq!(started.data().run("").code, Some(1));
    assert_eq!(names(), before);
    disk.remount("ro");
    let ended = world.check(|call| call);
    assert_told(
        "ro",
        &ended,
        line,
        "mount its file system with write access",
    );
    assert!(!ended.stdout.contains("chown"), "{}", ended.stdout);
}

#[test]
fn a_directory_of_another_user_is_named_as_such() {
    let world = World::new();
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    let runs = Command::new("setpriv")
        .args(["--reuid=65534", "test", "-x", env!("CARGO_BIN_EXE_mom")])
        .status();
    if !runs.is_ok_and(|status| status.success()) {
        return left_out("root, and a build directory that others may enter");
    }
    let closed = world.home.path("service");
    world.home.write("service/data/C01/log.jsonl", "");
    std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    for place in [closed.join("data"), closed] {
        for mode in ["--usage", "--check", "--chat"] {
            let mut command = Command::new(other.get_program());
            command.args(other.get_args());
            let call = Call::under(command, &world.home).arg(mode);
            let call = match mode {
                "--usage" => call,
                _ => call.arg("--model=offline"),
            };
            let ended = call.arg(place.to_str().unwrap()).run("");
            let told = format!("{}{}", ended.stdout, ended.stderr);
            let denied = format!(
                "cannot open {}: this user may not enter it",
                place.display()
            );
            assert!(
                told.contains(&denied) && told.contains("sudo -u mom mom"),
                "{mode}: {told}"
            );
        }
    }
}

#[test]
fn files_in_the_place_of_directories() {
    let world = World::new();
    world.home.write("data/events", "");
    world.home.write("data/TERMINAL", "");
    let ended = world.check(|call| call);
    for name in ["events", "TERMINAL"] {
        let line = format!("FAIL  data directory: {name} in it is no directory");
        assert_told(name, &ended, &line, "move it away (mv)");
    }
    let call = Call::new(&world.home).arg("--chat").arg("--model=offline");
    let ended = call.data().run("echo hi\n");
    let told = "a file is in the place of a directory; move that file away (mv)";
    assert!(ended.stderr.contains(told), "{ended:?}");
    let file = world.home.path("data/events");
    let ended = Call::new(&world.home)
        .arg("--usage")
        .arg(file.to_str().unwrap())
        .run("");
    assert!(ended.stderr.contains("events is a file"), "{ended:?}");
}

#[test]
fn containers() {
    let Some(image) = image() else { return };
    let world = World::new();
    let hand_made = Container::by_hand(image, &world.home.path("data"));
    let name = hand_made.name.clone();
    let check = || world.check(|call| call.arg(&hand_made.sandbox()));
    let start = format!("warn  sandbox: container '{name}' ");
    assert_told("by hand", &check(), &start, " create ");
    docker_ok(&["kill", &name]);
    let stopped = format!("FAIL  sandbox: cannot use container '{name}'");
    assert_told("stopped", &check(), &stopped, " start");
    let other = Container::by_hand(image, root());
    let ended = world.check(|call| call.arg(&other.sandbox()));
    assert_told(
        "other",
        &ended,
        &format!("FAIL  sandbox: container '{}' does not have ", other.name),
        "name that one: mom --sandbox=docker:",
    );
    let ended = world.check(|call| call.arg("--sandbox=docker:mom-test-never-made"));
    assert_told(
        "none",
        &ended,
        "FAIL  sandbox: cannot use container",
        " create ",
    );
}

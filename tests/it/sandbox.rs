//! Where tools run, seen from outside: pods, unusual images, many calls at once.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;

use crate::docker::{self, Container, docker_ok};
use crate::llm::{FakeLlm, Reply};
use crate::mom::{Call, Ended};
use crate::scratch::Scratch;
use crate::slack::{FakeSlack, Kind};
use crate::tether::{Tether, make_fifo};

/// A home whose `bin/kubectl` calls docker: a pod is a container of this name there.
fn home_with_kubectl() -> Arc<Scratch> {
    let home = Arc::new(Scratch::new());
    home.write(
        "bin/kubectl",
        r#"#!/bin/sh
# exec -i POD [-c CONTAINER] -- COMMAND..; get pod POD ..
case $1 in
exec)
    pod=$3
    shift 3
    [ "$1" != -c ] || shift 2
    echo 'Defaulted container "a" out of: a, b' >&2
    docker container inspect "$pod" >/dev/null 2>&1 || {
        echo "Error from server (NotFound): pods \"$pod\" not found" >&2
        exit 1
    }
    shift
    exec docker exec -i "$pod" "$@"
    ;;
get) docker inspect --format "{{.State.Status}}" "$3" ;;
esac
"#,
    );
    let script = home.path("bin/kubectl");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(home.path("data")).unwrap();
    home
}

fn with_kubectl(home: &Arc<Scratch>, pod: &str) -> Call {
    let path = format!(
        "{}:{}",
        home.path("bin").display(),
        std::env::var("PATH").unwrap()
    );
    Call::new(home)
        .env("PATH", &path)
        .arg(&format!("--sandbox=kubectl:{pod}"))
}

#[test]
fn tools_run_in_a_pod() {
    let Some(image) = docker::image() else { return };
    let home = home_with_kubectl();
    home.write("data/here.txt", "from the host");
    let container = Container::by_hand(image, &home.path("data"));
    let chat = |pod: &str, input: &str| {
        let call = with_kubectl(&home, pod)
            .arg("--chat")
            .arg("--model=offline");
        call.data().run(input)
    };
    for pod in [container.name.clone(), format!("{}/a", container.name)] {
        let ended = chat(&pod, "cat /workspace/here.txt; hostname\n");
        let said = format!("from the host{}", container.sh("hostname"));
        assert!(ended.stdout.contains(&said), "{ended:?}");
        assert!(!ended.stdout.contains("Defaulted"), "{ended:?}");
    }
    let ended = chat("nowhere", "");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("next: kubectl get pods"), "{ended:?}");
    let elsewhere = Scratch::new();
    let other = Container::by_hand(image, elsewhere.dir());
    let ended = chat(&other.name, "");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("does not have "), "{ended:?}");
}

#[test]
fn stop_timeout_and_death_reach_into_a_pod() {
    let Some(image) = docker::image() else { return };
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = home_with_kubectl();
    let mut tether = Tether::new(&home, "data/tether");
    let container = Container::by_hand(image, &home.path("data"));
    let call = with_kubectl(&home, &container.name);
    let mom = call.slack(&slack).llm(&llm).data().spawn();
    let command = "exec 9>/workspace/tether; echo up >&9; setsid sleep 1000 & wait";
    for end in ["timeout", "stop", "death"] {
        let mut endless = json!({"label": "Wait", "command": command});
        if end == "timeout" {
            endless["timeout"] = json!(3);
            llm.reply_tool("bash", endless);
            llm.reply_text("Over.");
        } else {
            llm.reply_tool("bash", endless);
        }
        slack.mention("C01", "U07", "wait for ever");
        tether.wait_held();
        match end {
            "stop" => drop(slack.mention("C01", "U07", "stop")),
            "death" => mom.signal(rustix::process::Signal::KILL),
            _ => {}
        }
        tether.wait_released();
        if end == "timeout" {
            slack.wait_answer("C01", "Over.");
        }
    }
}

/// Starts mom on a container of this image.
fn start_on(image: &str, home: &Arc<Scratch>, user: &str) -> Ended {
    let container = Container::named();
    let mount = format!("{}:/workspace", home.path("data").display());
    let name = &container.name;
    #[rustfmt::skip]
    docker_ok(&["run", "-d", "--user", user, "--name", name, "-v", &mount, image, "/bin/busybox", "tail", "-f", "/dev/null"]);
    let call = Call::new(home).arg("--chat").arg("--model=offline");
    call.arg(&container.sandbox()).data().run("")
}

#[test]
fn images_that_tools_can_not_use() {
    let Some(image) = docker::image() else { return };
    let home = Arc::new(Scratch::new());
    fs::create_dir(home.path("data")).unwrap();
    let ended = start_on(image, &home, "1000");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for part in [
        "tools run as uid=1000(user)",
        "next: make the container with",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    let bare = Scratch::new();
    bare.write(
        "Dockerfile",
        format!("FROM {image}\nRUN [\"/bin/busybox\", \"rm\", \"/bin/sh\"]\n"),
    );
    let context = bare.dir().to_str().unwrap();
    docker_ok(&["build", "--quiet", "--tag", "mom-test-no-shell", context]);
    let ended = start_on("mom-test-no-shell", &home, "0");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("its image has no shell (sh)"),
        "{ended:?}"
    );
}

/// As many calls as models may make: messages elsewhere are still logged and answered.
#[test]
fn many_calls_at_once_leave_descriptors_for_the_log() {
    const CHANNELS: usize = 12;
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    make_fifo(&home, "never");
    let mut limited = Command::new("prlimit");
    limited.args(["--nofile=256:256", "--"]);
    let mom = Call::under(limited, &home)
        .slack(&slack)
        .llm(&llm)
        .data()
        .spawn();
    slack.wait_connected();
    let command = format!("read x <{}", home.path("never").display());
    let call = json!({"label": "Wait", "command": command}).to_string();
    for number in 0..CHANNELS {
        let channel = format!("C7{number:02}");
        slack.change(|state| state.add_channel(&channel, &channel, Kind::Public));
        let calls = (1..8).fold(
            Reply::tool("bash", &json!({"label": "Wait", "command": command})),
            |reply, _| reply.and_tool("bash", &call),
        );
        llm.reply(calls);
        slack.mention(&channel, "U07", "wait");
        slack.wait_channel(&channel, |channel| channel.to_string().contains("Wait"));
    }
    llm.reply_text("Here.");
    slack.mention("C01", "U07", "are you there?");
    slack.wait_answer("C01", "Here.");
    assert_eq!(mom.jsonl("C01/log.jsonl")[0]["text"], "are you there?");
    let log = mom.log();
    assert!(
        !log.contains("Too many open files") && !log.contains("panicked"),
        "{log}"
    );
}

//! The first commands of the README. `make demo`: where it can have no container it says why and
//! goes on without, and it leaves nothing behind, however it ends. `make test`: its last line.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::docker::{self, docker_ok, root, text};
use crate::scratch::Scratch;

/// The demo, with its scratch directory in this one.
fn demo(scratch: &Scratch) -> Command {
    let mut command = Command::new(root().join("tests/demo.sh"));
    command.arg(env!("CARGO_BIN_EXE_mom"));
    for name in ["IMAGE", "DOCKER_ARGS", "MEMORY", "ENGINE"] {
        command.env_remove(format!("MOM_{name}"));
    }
    command.env("TMPDIR", scratch.dir()).stdin(Stdio::null());
    command
}

/// Its container, while there is one.
fn container(demo: &Child) -> String {
    let filter = format!("name=^/?mom-demo-{}$", demo.id());
    docker_ok(&["ps", "--all", "--quiet", "--filter", &filter])
}

fn assert_left_nothing(scratch: &Scratch) {
    let left: Vec<_> = fs::read_dir(scratch.dir()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_a_container_it_says_why_and_goes_on() {
    let Some(image) = docker::image() else { return };
    for (name, value, says) in [
        ("MOM_DOCKER_ARGS", "--nope", "unknown flag: --nope"),
        ("MOM_DOCKER_ARGS", "-v /dev/null:/bin/sh", "no shell (sh)"),
        ("MOM_MEMORY", "1k", "Error response from daemon: "),
        ("MOM_ENGINE", "rm", "MOM_ENGINE must be docker or podman"),
        ("MOM_IMAGE", "mom-no-such:1", "it needs an image"),
        ("DOCKER_HOST", "unix:///nowhere.sock", "does not answer"),
    ] {
        let scratch = Scratch::new();
        let mut demo = demo(&scratch);
        let output = demo.env("MOM_IMAGE", image).env(name, value).output();
        let output = output.expect("run tests/demo.sh");
        let (shown, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{value}: {shown}{errors}");
        let (before, after) = shown.split_once("\nyou: ").expect("the conversation");
        assert!(
            before.starts_with("no container for the demo: "),
            "{before}"
        );
        assert!(before.contains(says), "{value}: {before}");
        let about_image = name == "MOM_IMAGE";
        assert_eq!(before.contains("docker pull"), about_image, "{before}");
        assert!(!before.contains("next: "), "{value}: {before}");
        assert!(after.contains("hello from"), "{value}: {shown}{errors}");
        assert_left_nothing(&scratch);
    }
}

#[test]
fn it_leaves_nothing_when_its_terminal_or_its_reader_is_gone() {
    if docker::image().is_none() {
        return;
    }
    for signal in [Some(Signal::HUP), Some(Signal::TERM), None] {
        let scratch = Scratch::new();
        let mut demo = demo(&scratch);
        demo.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut demo = demo.spawn().expect("run tests/demo.sh");
        let mut shown = BufReader::new(demo.stdout.take().unwrap()).lines();
        let answered = shown.any(|line| line.unwrap().starts_with("hello from"));
        assert!(answered && !container(&demo).is_empty(), "{signal:?}");
        match signal {
            Some(signal) => {
                kill_process(Pid::from_child(&demo), signal).unwrap();
                shown.for_each(drop);
            }
            // As `make demo | head` does it.
            None => drop(shown),
        }
        let ended = demo.wait().unwrap();
        assert!(!ended.success(), "{signal:?}: {ended}");
        assert_eq!(container(&demo), "", "{signal:?}");
        assert_left_nothing(&scratch);
    }
}

#[test]
fn the_last_line_of_the_tests_counts_and_says_what_was_left_out() {
    let scratch = Scratch::new();
    let engine = "#!/bin/sh\n[ \"$1\" = version ] && echo Docker 20.10.24\n";
    let no_engine = "#!/bin/sh\nexit 1\n";
    // One test misses two things; another is left out in both runs of it.
    let skipped = "skipped: a: Docker engine\nskipped: a: podman\nskipped: b c: podman\n\
                   skipped: d: Docker engine\nskipped: d: Docker engine\n";
    for (docker, printed, failed, want) in [
        (
            engine,
            "",
            0,
            "20 passed, 0 failed, 0 skipped, on Docker 20.10.24",
        ),
        (
            engine,
            "",
            7,
            "13 passed, 7 failed, 0 skipped, on Docker 20.10.24",
        ),
        (
            no_engine,
            skipped,
            0,
            "17 passed, 0 failed, 3 skipped (2 no Docker engine, 1 no podman), on no engine",
        ),
    ] {
        // Called twice: for the mutation tests as well.
        let cargo = format!(
            "#!/bin/sh\ncase $* in *--bin*) echo 'test result: ok. 8 passed; 0 failed; 0 ignored;' ;;\n\
             *) cat <<'END'\n{printed}test result: ok. {} passed; {failed} failed; 0 ignored;\nEND\nesac\n",
            12 - failed
        );
        for (tool, script) in [("docker", docker), ("cargo", &cargo)] {
            scratch.write(tool, script);
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(scratch.path(tool), executable).unwrap();
        }
        let path = std::env::var("PATH").unwrap();
        let mut run = Command::new(root().join("tests/run.sh"));
        run.env("PATH", format!("{}:{path}", scratch.dir().display()));
        let output = run.env_remove("CARGO").output().expect("run tests/run.sh");
        let shown = text(&output.stdout);
        assert_eq!(shown.lines().last(), Some(want), "{shown}");
    }
}

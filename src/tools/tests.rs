//! The tools against a real shell on this host and in a real container: what they do, and
//! that the leash holds. The container's /workspace is the test's directory, so both see
//! the same files, and a FIFO in it says "now" across the border.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use super::*;
use crate::error::Error;
use crate::stop::Cause;

/// A directory, and a sandbox in which it is the workspace; both go with it.
struct World {
    dir: PathBuf,
    sandbox: Sandbox,
}

impl World {
    fn on_host() -> World {
        World {
            dir: new_dir(),
            sandbox: Sandbox::Host,
        }
    }

    fn in_container() -> World {
        let image = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/image.sh"))
            .output()
            .expect("run tests/image.sh");
        let image = String::from_utf8(image.stdout).unwrap();
        assert_ne!(
            image, "",
            "tests/image.sh made no image: is there a Docker engine?"
        );
        let dir = new_dir();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        docker(&[
            "run",
            "-d",
            "--init",
            "--pids-limit=150",
            "--security-opt=no-new-privileges",
            "--name",
            &name,
            "-v",
            &format!("{}:/workspace", dir.display()),
            image.trim(),
            "tail",
            "-f",
            "/dev/null",
        ]);
        let sandbox = Sandbox::parse(&format!("docker:{name}")).unwrap();
        World { dir, sandbox }
    }

    fn both(test: impl Fn(&World)) {
        test(&World::on_host());
        test(&World::in_container());
    }

    /// A path below the workspace as the tools see it.
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.sandbox.workspace(&self.dir))
    }

    fn call(&self, name: &str, args: Value) -> ToolOutput {
        self.call_until(&Stop::new(), name, args)
    }

    fn call_until(&self, stop: &Stop, name: &str, args: Value) -> ToolOutput {
        let spill = || {
            let file = File::create_new(self.dir.join("spill"));
            let file = file.map_err(|err| Error::io("create", "spill", &err))?;
            Ok((file, self.path("spill")))
        };
        let ctx = ToolContext {
            sandbox: &self.sandbox,
            spill: &spill,
        };
        let mut upload = |_: Upload| Err(Error::failed("no upload here"));
        call(&ctx, &tool_call(name, args), stop, &mut upload)
    }

    fn bash(&self, command: &str) -> String {
        let command = format!("cd '{}'\n{command}", self.path(""));
        text_of(&self.call("bash", json(&[("command", &command)])))
    }

    /// Fails the test unless the command succeeds within a generous time.
    fn wait_for(&self, command: &str) {
        let command = format!(
            "cd '{}'\nuntil {command}; do sleep 0.02; done",
            self.path("")
        );
        let mut args = json(&[("command", &command)]);
        args["timeout"] = Value::from(30);
        let output = self.call("bash", args);
        assert!(!output.is_error, "{}: {output:?}", self.sandbox_name());
    }

    fn sandbox_name(&self) -> &'static str {
        match self.sandbox {
            Sandbox::Host => "host",
            Sandbox::Container { .. } => "container",
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Sandbox::Container { name, .. } = &self.sandbox {
            docker(&["rm", "--force", name]);
        }
        // A failed test has more to say than a directory that stays.
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn new_dir() -> PathBuf {
    let word = process::random_word().unwrap();
    let dir = std::env::temp_dir().join(format!("mom-tools-{word}"));
    fs::create_dir(&dir).unwrap();
    dir
}

fn docker(args: &[&str]) {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {output:?}");
}

fn json(fields: &[(&str, &str)]) -> Value {
    let label = [("label", "a test")];
    let fields = label.iter().chain(fields);
    fields
        .map(|(name, value)| (name.to_string(), Value::from(*value)))
        .collect()
}

fn tool_call(name: &str, args: Value) -> ToolCall {
    ToolCall {
        id: String::from("1"),
        name: name.to_owned(),
        arguments: args.to_string(),
        signature: None,
    }
}

fn text_of(output: &ToolOutput) -> String {
    match &output.content[0] {
        Content::Text(text) => text.clone(),
        Content::Image(_) => panic!("an image"),
    }
}

#[test]
fn bash_output_and_exit_codes() {
    World::both(|world| {
        for (command, want, is_error) in [
            ("true", "(no output)", false),
            ("echo out; echo err >&2; echo out", "out\nerr\nout", false),
            ("printf 'no newline'", "no newline", false),
            (
                "printf '\\036x 0\\n'; printf '\\037\\0\\377'",
                "x 0\n\u{fffd}",
                false,
            ),
            ("echo a; exit 3", "a\n\n\nCommand exited with code 3", true),
            (
                "kill -KILL $$",
                "(no output)\n\nCommand exited with code 137 (SIGKILL: killed, perhaps for lack of memory)",
                true,
            ),
            (
                "(kill -SEGV $$)",
                "(no output)\n\nCommand exited with code 139 (SIGSEGV)",
                true,
            ),
            ("cat", "(no output)", false),
            ("trap 'echo got' INT; kill -INT $$", "got", false),
            ("echo \"$CARGO_PKG_NAME$MOM_SLACK_BOT_TOKEN\"", "", false),
        ] {
            let output = world.call("bash", json(&[("command", command)]));
            let got = text_of(&output);
            let want = want.replace("a\n\n\n", "a\n\n");
            let want = if want.is_empty() {
                "(no output)"
            } else {
                &want
            };
            assert_eq!(
                (got.as_str(), output.is_error),
                (want, is_error),
                "{command}"
            );
        }
        let mut args = json(&[("command", "echo begun; sleep 1000")]);
        args["timeout"] = Value::from(0.3);
        let output = world.call("bash", args);
        assert_eq!(
            text_of(&output),
            "begun\n\nCommand timed out after 0.3 seconds"
        );
    });
}

#[test]
fn long_output_is_bounded_and_spilled() {
    World::both(|world| {
        let notice = |text: &str| text[text.rfind("\n\n[").unwrap() + 2..].to_owned();
        let spill = world.path("spill");
        for (command, want, spilled) in [
            (
                "seq 2001",
                format!("[Showing lines 2-2001 of 2001. Full output: {spill}]"),
                8898,
            ),
            (
                "seq -f %0999.0f 1000",
                format!("[Showing lines 950-1000 of 1000 (50.0KB limit). Full output: {spill}]"),
                1_000_000,
            ),
            (
                "head -c 30000000 /dev/zero | tr '\\0' x",
                format!(
                    "[Showing the last 50.0KB of line 1 (this line is 28.6MB). First 10 MB: {spill}]"
                ),
                10 << 20,
            ),
        ] {
            let command = command.replace(
                "-f %0999.0f 1000",
                "1000 | awk '{ printf \"%0999d\\n\", $1 }'",
            );
            let text = world.bash(&command);
            assert_eq!(notice(&text), want, "{command}");
            assert!(text.len() < 52000, "{command}");
            let file = world.dir.join("spill");
            assert_eq!(fs::metadata(&file).unwrap().len(), spilled, "{command}");
            fs::remove_file(file).unwrap();
        }
    });
}

/// What was left in the background stays, and neither holds the call open nor dies of its
/// own output once nobody reads it.
#[test]
fn background_processes_stay() {
    World::both(|world| {
        let text = world.bash(
            "(while :; do echo noise; echo x >>alive; sleep 0.1; done) & echo $! >pid; echo done",
        );
        assert!(text.ends_with("done") || text.contains("done\n"), "{text}");
        // The engine closes the pipe two seconds after the end.
        world.wait_for("[ $(wc -l <alive) -gt 40 ]");
        world.bash("kill $(cat pid)");
        world.wait_for("! kill -0 $(cat pid)");
        // Nothing of ours stays.
        world.wait_for("! grep -q mom-leash-none /proc/[0-9]*/nothing");
    });
}

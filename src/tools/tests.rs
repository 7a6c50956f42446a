//! The tools with a real shell on this host and in a real container: what they do, and that no
//! process of a call escapes. The container's /workspace is the test's directory, so both see
//! the same files; through a FIFO there a command tells the test that it has started.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::*;
use crate::base::error::Error;
use crate::base::stop::Cause;
use crate::host::sandbox::Engine;
use crate::mutate::survive;

/// Prints that the test of this thread leaves something out, and what is missing; tests/run.sh
/// counts these lines. Where CI is set everything must be there.
fn left_out(needed: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "CI is set, but no {needed}"
    );
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").replace("::", " ");
    let line = format!("skipped: {test}: {needed}\n");
    // The test harness would hide the output of eprintln.
    std::io::stderr().write_all(line.as_bytes()).ok();
}

/// A directory, and a sandbox in which it is the workspace; both are removed on drop.
struct World {
    /// `/tmp/NAME/data`, where others can't enter /tmp/NAME.
    dir: PathBuf,
    /// Part of the directory's name; also the container's name, if there is one.
    name: String,
    sandbox: Sandbox,
}

impl World {
    fn on_host() -> World {
        let word = crate::base::random::random_word().unwrap();
        let name = format!("mom-tools-{word}");
        let dir = std::env::temp_dir().join(&name).join("data");
        fs::create_dir_all(&dir).unwrap();
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir.parent().unwrap(), closed).unwrap();
        World {
            dir,
            name,
            sandbox: Sandbox::Host,
        }
    }

    /// `None` where no engine answers: the test is left out, and tests/run.sh counts the line.
    fn in_container(engine: Engine) -> Option<World> {
        let root = env!("CARGO_MANIFEST_DIR");
        let program = engine.program();
        let answer = Command::new(program).arg("version").output();
        if !answer.is_ok_and(|answer| answer.status.success()) {
            left_out("Docker engine");
            return None;
        }
        let image = Command::new(format!("{root}/tests/image.sh"))
            .arg(program)
            .output();
        let image = String::from_utf8(image.unwrap().stdout).unwrap();
        assert_ne!(
            image, "",
            "tests/image.sh made no image: does {program} work?"
        );
        let mut world = World::on_host();
        let create = Command::new(format!("{root}/docker.sh"))
            .arg("create")
            .arg(&world.dir)
            .env("MOM_ENGINE", program)
            .env("MOM_CONTAINER", &world.name)
            .env("MOM_IMAGE", image.trim())
            .env("MOM_PIDS", "150")
            .output()
            .unwrap();
        assert!(create.status.success(), "docker.sh create: {create:?}");
        world.sandbox = Sandbox::parse(&format!("{program}:{}", world.name)).unwrap();
        Some(world)
    }

    fn both(test: impl Fn(&World)) {
        test(&World::on_host());
        World::in_container(Engine::Docker).iter().for_each(&test);
    }

    /// Also with podman, where tests/engine.sh found that it works.
    fn each(test: impl Fn(&World)) {
        World::both(&test);
        if std::env::var_os("MOM_TEST_PODMAN").is_some() {
            World::in_container(Engine::Podman).iter().for_each(test);
        } else {
            left_out("podman");
        }
    }

    /// A path below the workspace as the tools see it.
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.sandbox.workspace(&self.dir))
    }

    fn call(&self, name: &str, fields: &[(&str, &str)]) -> ToolOutput {
        self.call_until(&Stop::new(), name, fields)
    }

    fn call_until(&self, stop: &Stop, name: &str, fields: &[(&str, &str)]) -> ToolOutput {
        let mut upload = |_: Upload| Err(Error::failed("no upload here"));
        call(
            &self.context(&self.spill()),
            &tool_call(name, fields),
            stop,
            &mut upload,
        )
    }

    fn context<'a>(&'a self, spill: Spill<'a>) -> ToolContext<'a> {
        ToolContext {
            sandbox: &self.sandbox,
            spill,
        }
    }

    fn spill(&self) -> impl Fn() -> Result<(File, String)> + Sync + '_ {
        || {
            let file = File::create_new(self.dir.join("spill"));
            let file = file.map_err(|err| Error::io("create", "spill", &err))?;
            Ok((file, self.path("spill")))
        }
    }

    fn text(&self, name: &str, fields: &[(&str, &str)]) -> String {
        text_of(&self.call(name, fields))
    }

    fn read(&self, file: &str) -> String {
        self.text("read", &[("path", &self.path(file))])
    }

    fn bash(&self, command: &str) -> String {
        let command = format!("cd '{}'\n{command}", self.path(""));
        self.text("bash", &[("command", &command)])
    }

    /// Fails the test unless the command succeeds within a generous time.
    fn wait_for(&self, command: &str) {
        let path = self.path("");
        let waiting = format!("cd '{path}'\nuntil {command}; do sleep 0.02; done");
        let output = self.call("bash", &[("command", &waiting), ("timeout", "30")]);
        assert!(!output.is_error, "{}: {command}", self.sandbox_name());
    }

    fn sandbox_name(&self) -> &'static str {
        match self.sandbox {
            Sandbox::Host => "host",
            Sandbox::Container { engine, .. } => engine.program(),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Sandbox::Container { engine, .. } = self.sandbox {
            let remove = ["rm", "--force", &self.name];
            Command::new(engine.program())
                .args(remove)
                .output()
                .unwrap();
        }
        // Failing to remove it must not hide why a test failed.
        fs::remove_dir_all(self.dir.parent().unwrap()).ok();
    }
}

fn call_engine(engine: Engine, args: &[&str]) {
    let output = Command::new(engine.program()).args(args).output().unwrap();
    assert!(output.status.success(), "{engine:?} {args:?}: {output:?}");
}

fn tool_call(name: &str, fields: &[(&str, &str)]) -> ToolCall {
    let fields = fields.iter();
    let fields = fields.map(|(name, value)| (name.to_string(), Value::from(*value)));
    ToolCall {
        id: String::from("1"),
        name: name.to_owned(),
        arguments: Value::Object(fields.collect()).to_string(),
        signature: None,
    }
}

fn make_fifo(world: &World, name: &str) {
    let made = Command::new("mkfifo").arg(world.dir.join(name)).status();
    assert!(made.unwrap().success());
}

fn text_of(output: &ToolOutput) -> String {
    match &output.content[0] {
        Content::Text(text) => text.clone(),
        Content::Image(_) => panic!("an image"),
    }
}

#[test]
fn bash_output_and_exit_codes() {
    World::each(|world| {
        let killed = "exited with code 137 (SIGKILL: killed, perhaps for lack of memory)";
        let odd = "printf '\\036x 0\\n'; printf '\\037\\0\\377'";
        // What the command prints, and how it ends.
        for (command, printed, end) in [
            ("true", "(no output)", ""),
            ("echo out; echo err >&2; echo out", "out\nerr\nout", ""),
            ("printf 'no newline'", "no newline", ""),
            (odd, "x 0\n\u{fffd}", ""),
            ("echo a; exit 3", "a", "exited with code 3"),
            ("kill -KILL $$", "(no output)", killed),
            (
                "(kill -SEGV $$)",
                "(no output)",
                "exited with code 139 (SIGSEGV)",
            ),
            ("cat", "(no output)", ""),
            ("trap 'echo got' INT; kill -INT $$", "got", ""),
            (
                "echo \"$CARGO_PKG_NAME$MOM_SLACK_BOT_TOKEN\"",
                "(no output)",
                "",
            ),
            (
                "echo begun; sleep 1000",
                "begun",
                "timed out after 5 seconds",
            ),
        ] {
            let output = world.call("bash", &[("command", command), ("timeout", "5")]);
            let want = match end {
                "" => printed.to_owned(),
                _ => format!("{printed}\n\nCommand {end}"),
            };
            let got = (text_of(&output), output.is_error);
            assert_eq!(got, (want, !end.is_empty()), "{command}");
        }
    });
}

#[test]
fn long_output_is_bounded_and_spilled() {
    World::both(|world| {
        for (command, notice, spilled) in [
            (
                "seq 2001",
                "Showing lines 2-2001 of 2001. Full output",
                8898,
            ),
            (
                r#"seq 1000 | awk '{ printf "%0999d\n", $1 }'"#,
                "Showing lines 950-1000 of 1000 (50.0KB limit). Full output",
                1_000_000,
            ),
            (
                r"head -c 30000000 /dev/zero | tr '\0' x",
                "Showing the last 50.0KB of line 1 (this line is 28.6MB). First 10 MB",
                10 << 20,
            ),
        ] {
            let text = world.bash(command);
            let notice = format!("\n\n[{notice}: {}]", world.path("spill"));
            assert!(text.ends_with(&notice) && text.len() < 52000, "{command}");
            let file = world.dir.join("spill");
            assert_eq!(fs::metadata(&file).unwrap().len(), spilled, "{command}");
            fs::remove_file(file).unwrap();
        }
    });
}

/// A background process goes on after the call; it does not keep the call from ending, and does
/// not die of its own output once nobody reads that.
#[test]
fn background_processes_stay() {
    World::each(|world| {
        let text = world.bash(
            "(while :; do echo noise; echo x >>alive; sleep 0.1; done) & echo $! >pid; echo done",
        );
        assert!(text.ends_with("done") || text.contains("done\n"), "{text}");
        // The engine closes the pipe two seconds after the end.
        world.wait_for("[ $(wc -l <alive) -gt 40 ]");
        world.bash("kill $(cat pid)");
        world.wait_for("! kill -0 $(cat pid)");
    });
}

/// Succeeds when no `sleep 3600` is left. The pattern does not match its own command line. (The
/// exit code of grep is useless here: processes end while it reads.)
const NONE_LEFT: &str = r#"[ -z "$(grep -ls 'sleep[^.]3600' /proc/[0-9]*/cmdline)" ]"#;

/// Commands that try to escape the kill. Each writes "go" to a FIFO when it has, then must die.
const ESCAPES: [(&str, &str); 11] = [
    ("plain", "go; sleep 3600"),
    ("children", "sleep 3600 & sleep 3600 & go; wait"),
    ("setsid", "setsid sleep 3600 & go; wait"),
    // As nohup does, which busybox may lack.
    (
        "deaf to hang-ups",
        "(trap '' HUP; exec sleep 3600) >/dev/null 2>&1 & go; wait",
    ),
    (
        "double fork",
        "(setsid sh -c 'sleep 3600 & :' &) ; go; sleep 3600",
    ),
    (
        "deaf",
        "trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM; sleep 3600' & go; sleep 3600; sleep 3600",
    ),
    ("exec", "go; exec sleep 3600"),
    ("closed", "setsid sleep 3600 <&- >&- 2>&- & go; sleep 3600"),
    (
        "newline in the environment",
        "A='x\ny' setsid env -u PATH PATH=\"$PATH\" sleep 3600 & go; wait",
    ),
    // As `su - USER -c ..` and `sudo` do.
    (
        "session of its own without the environment",
        "env -i PATH=\"$PATH\" setsid sleep 3600 & go; wait",
    ),
    (
        "exec without the environment",
        "go; exec env -i PATH=\"$PATH\" sh -c 'setsid sleep 3600; :'",
    ),
];

/// A FIFO in the workspace to which a command writes "go".
struct Go(File);

impl Go {
    fn new(world: &World) -> Go {
        let path = world.dir.join("go");
        fs::remove_file(&path).ok();
        make_fifo(world, "go");
        // Opened for writing too, so that the open does not wait for the other side.
        Go(File::options().read(true).write(true).open(path).unwrap())
    }

    fn wait(&mut self, name: &str) {
        let mut said = [0; 3];
        self.0.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"go\n", "{name}: the command ended early");
    }
}

/// Runs the command as one call; the command can use the shell function `go`.
fn go_call(world: &World, stop: &Stop, command: &str) -> ToolOutput {
    let fifo = world.path("go");
    let command = format!("go() {{ echo go >'{fifo}'; }}\n{command}");
    let output = world.call_until(stop, "bash", &[("command", &command)]);
    fs::write(world.dir.join("go"), "end").unwrap();
    output
}

fn stop_at_go(world: &World, name: &str, command: &str) -> ToolOutput {
    let stop = Stop::new();
    let mut go = Go::new(world);
    thread::scope(|scope| {
        let call = scope.spawn(|| go_call(world, &stop, command));
        go.wait(name);
        stop.set(Cause::Asked);
        call.join().unwrap()
    })
}

#[test]
fn a_stop_ends_the_whole_tree() {
    World::each(|world| {
        for (name, command) in ESCAPES {
            let output = stop_at_go(world, name, &command.replace("3600", &tag(world)));
            assert!(
                text_of(&output).ends_with("Command aborted"),
                "{name} {}: {output:?}",
                world.sandbox_name()
            );
            world.wait_for(&NONE_LEFT.replace("3600", &tag(world)));
        }
    });
}

/// A number of seconds to sleep that no other test uses, so that its `sleep` can be found.
fn tag(world: &World) -> String {
    let number = world
        .name
        .bytes()
        .fold(0u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte));
    format!("36{:08}", number % 100_000_000)
}

#[test]
fn a_fork_bomb_dies() {
    let Some(world) = World::in_container(Engine::Docker) else {
        return;
    };
    make_fifo(&world, "never");
    for bomb in [
        "(b() { b | b & }; b) & go; read x </workspace/never",
        "cd /workspace; cat >bomb <<'END'\nwhile :; do setsid sh ./bomb & sh ./bomb & done 2>/dev/null\nEND\nsetsid sh ./bomb & go; read x <never",
    ] {
        stop_at_go(&world, bomb, bomb);
        // On a busy machine the watchdog may need longer than the test waits; until then no new
        // process can start in there. Less than 12 remain: init, tail, and this call's own.
        let few = [("command", "[ $(ls -d /proc/[0-9]* | wc -l) -lt 12 ]")];
        let died = (0..200).any(|_| !world.call("bash", &few).is_error);
        assert!(died, "{bomb}");
    }
}

/// Not a test of its own: the process that `death_of_mom_ends_the_whole_tree` kills.
#[test]
fn mom_to_be_killed() {
    let (Ok(dir), Ok(sandbox)) = (
        std::env::var("MOM_TEST_DIR"),
        std::env::var("MOM_TEST_SANDBOX"),
    ) else {
        return;
    };
    let world = World {
        dir: PathBuf::from(dir),
        name: String::new(),
        sandbox: Sandbox::parse(&sandbox).unwrap(),
    };
    let command = std::env::var("MOM_TEST_COMMAND").unwrap();
    go_call(&world, &Stop::new(), &command);
}

#[test]
fn death_of_mom_ends_the_whole_tree() {
    World::each(|world| {
        let sandbox = match &world.sandbox {
            Sandbox::Host => String::from("host"),
            Sandbox::Container { engine, name } => format!("{}:{name}", engine.program()),
        };
        for (name, command) in ESCAPES {
            let command = command.replace("3600", &tag(world));
            let mut go = Go::new(world);
            let mut mom = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tools::tests::mom_to_be_killed"])
                .env("MOM_TEST_DIR", &world.dir)
                .env("MOM_TEST_SANDBOX", &sandbox)
                .env("MOM_TEST_COMMAND", &command)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            go.wait(name);
            mom.kill().unwrap();
            mom.wait().unwrap();
            world.wait_for(&NONE_LEFT.replace("3600", &tag(world)));
        }
    });
}

#[test]
fn write_and_edit_keep_bytes_modes_and_links() {
    World::each(|world| {
        let bytes_of = |name: &str| fs::read(world.dir.join(name)).unwrap();
        let write = |name: &str, content: &str| {
            world.call(
                "write",
                &[("path", &world.path(name)), ("content", content)],
            )
        };
        let edit = |name: &str, old, new| {
            let fields = [
                ("path", &*world.path(name)),
                ("oldText", old),
                ("newText", new),
            ];
            let output = world.call("edit", &fields);
            assert!(!output.is_error, "{name}: {output:?}");
        };
        let mode_of = |name: &str| {
            let meta = fs::metadata(world.dir.join(name)).unwrap();
            meta.permissions().mode() & 0o7777
        };
        // Names that a shell could take for something else.
        let odd = [
            "a/b c/x",
            "-n",
            "new\nline\n",
            "$(id)`id`",
            "*",
            "'\"\\",
            "é\u{202e}",
            "~x",
        ];
        for name in odd {
            let text = text_of(&write(name, "\0ü\n"));
            assert_eq!(text, format!("Wrote 4 bytes to {}", world.path(name)));
            assert_eq!(bytes_of(name), "\0ü\n".as_bytes(), "{name}");
            edit(name, "ü", "u");
            assert_eq!(bytes_of(name), b"\0u\n", "{name}");
            assert_eq!(world.read(name), "\0u\n");
        }
        fs::write(world.dir.join("fresh"), "").unwrap();
        assert_eq!(mode_of("a/b c/x"), mode_of("fresh"));

        // Short contents go as a line, which has room for 994 bytes.
        let odd = " a\\0101\\c%s \r\n\t\u{7f}\0é\\";
        for content in ["", " ", odd, &"x".repeat(994), &"x".repeat(995)] {
            assert!(!write("short", content).is_error);
            assert!(bytes_of("short") == content.as_bytes(), "{content:?}");
        }
        let large = "0123456789abcdef".repeat(10 << 16);
        assert!(!write("large", &large).is_error);
        assert!(bytes_of("large") == large.as_bytes());
        fs::write(world.dir.join("odd"), b"\xff\0 one \xfe\r\n\0").unwrap();
        fs::set_permissions(world.dir.join("odd"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("odd", world.dir.join("link")).unwrap();
        edit("link", "one", "two");
        assert_eq!(bytes_of("odd"), b"\xff\0 two \xfe\r\n\0");
        assert_eq!(mode_of("odd"), 0o4751);
        assert!(fs::read_link(world.dir.join("link")).is_ok());
        symlink("new", world.dir.join("a/dangling")).unwrap();
        assert!(!write("a/dangling", "x").is_error);
        assert_eq!(bytes_of("a/new"), b"x");
        // No temporary file stays, and a write that fails leaves no half file.
        make_fifo(world, "fifo");
        for (path, content, want) in [
            ("", "x", "is a directory"),
            ("fifo", "x", "is not a regular file"),
            ("large/x", "x", "mkdir"),
            ("no/", "x", "names a directory"),
            ("large", &"x".repeat((10 << 20) + 1), "10.0MB"),
        ] {
            let output = write(path, content);
            let text = text_of(&output);
            assert!(output.is_error && text.contains(want), "{path}: {text}");
        }
        let names = world.bash("set -- .[!.]*; [ -e \"$1\" ] || shift; set -- \"$@\" *; echo $#");
        assert_eq!(names, "14", "{}", world.bash("ls -A"));
    });
}

#[test]
fn relative_and_home_paths() {
    World::both(|world| {
        world.bash("echo home >~/mom-tools-test");
        let text = world.text("read", &[("path", "~/mom-tools-test")]);
        assert_eq!(text, "home\n");
        world.bash("rm ~/mom-tools-test");
        // read resolves relative paths from the directory in which bash starts.
        let here = world.text("bash", &[("command", "echo ../${PWD##*/}")]);
        let text = world.text("read", &[("path", &here)]);
        assert_eq!(text, format!("{here} is a directory"));
    });
}

#[test]
fn read_text() {
    World::both(|world| {
        let lines: String = (1..=30_000).map(|n| format!("line {n}\n")).collect();
        fs::write(world.dir.join("long"), lines).unwrap();
        fs::write(world.dir.join("short"), "a\nb\nc").unwrap();
        fs::write(world.dir.join("empty"), "").unwrap();
        fs::write(world.dir.join("wide"), "x".repeat(70_000) + "\nend").unwrap();
        let sparse = File::create(world.dir.join("sparse")).unwrap();
        sparse.set_len(2 << 30).unwrap();
        make_fifo(world, "fifo");
        symlink("/dev/zero", world.dir.join("device")).unwrap();
        let wide = world.path("wide");
        let hint =
            format!("[Line 1 is longer than 50.0KB. Use bash: sed -n '1p' {wide} | head -c 51200]");
        // File, offset and limit; how the result begins, and how it ends.
        for (what, start, end) in [
            ("short", "a\nb\nc", "a\nb\nc"),
            ("short 2", "b\nc", "b\nc"),
            ("short 2 1", "b\n\n[", "2-2 of 3. Use offset=3 to go on]"),
            ("short 4", "offset 4", "the end of the file (3 lines)"),
            ("empty", "(empty file)", ""),
            (
                "long",
                "line 1\n",
                " 1-2000 of 30001. Use offset=2001 to go on]",
            ),
            ("long 29000", "line 29000\n", "line 30000\n"),
            ("long 29000 2", "line 29000\n", "Use offset=29002 to go on]"),
            ("long 30002", "offset 30002", "(30001 lines)"),
            ("wide", &hint, ""),
            ("wide 2", "end", ""),
            ("sparse", "[Line 1 is", "51200]"),
            ("sparse 2", "offset 2", "beyond the end of the file"),
            ("fifo", &world.path("fifo"), "is not a regular file"),
            ("device", &world.path("device"), "is not a regular file"),
            ("none", &world.path("none"), "above it is closed to you)"),
        ] {
            let mut words = what.split(' ');
            let path = world.path(words.next().unwrap());
            let mut fields = vec![("path", &*path)];
            fields.extend(["offset", "limit"].into_iter().zip(words));
            let text = world.text("read", &fields);
            let shown = text.get(text.len().saturating_sub(80)..);
            let is_right = text.starts_with(start) && text.ends_with(end);
            assert!(is_right, "{what}: {text:.80} .. {shown:?}");
        }
        let text = world.text("read", &[("path", "/proc/self/status")]);
        assert!(text.contains("Name:"), "{text}");
    });
}

#[test]
fn read_images_by_their_bytes() {
    World::each(|world| {
        for (head, mime) in [
            (&b"\x89PNG\r\n\x1a\n"[..], "image/png"),
            (b"\xff\xd8\xff\xe0", "image/jpeg"),
            (b"GIF89a", "image/gif"),
            (b"RIFF\x01\x02\x03\x04WEBP", "image/webp"),
        ] {
            for size in [100, 300_000] {
                let mut bytes = head.to_vec();
                bytes.resize(size, 7);
                fs::write(world.dir.join("picture.txt"), &bytes).unwrap();
                let output = world.call("read", &[("path", &world.path("picture.txt"))]);
                let Content::Image(image) = &output.content[1] else {
                    panic!("{output:?}");
                };
                assert_eq!(image.mime, mime, "{size}");
                assert!(
                    BASE64_STANDARD.decode(&image.data).unwrap() == bytes,
                    "{size}"
                );
            }
        }
        let mut large = b"\xff\xd8\xff".to_vec();
        large.resize(4 << 20, 0);
        fs::write(world.dir.join("large.jpg"), large).unwrap();
        let text = world.read("large.jpg");
        let want = "the image is larger than 3.8MB: make it smaller";
        assert!(text.starts_with(want), "{text}");
    });
}

#[test]
fn attach_uploads_what_the_sandbox_reads() {
    World::both(|world| {
        let bytes: Vec<u8> = (0..=255).cycle().take(3_000_001).collect();
        fs::write(world.dir.join("a b.bin"), &bytes).unwrap();
        fs::write(world.dir.join("empty"), "").unwrap();
        File::create(world.dir.join("huge"))
            .unwrap()
            .set_len((50 << 20) + 1)
            .unwrap();
        let mut uploads = Vec::new();
        let mut attach = |name: &str, title: &str| {
            let path = world.path(name);
            let mut upload = |upload: Upload| {
                let fails = upload.title == "fails";
                uploads.push((upload.name, upload.title, upload.bytes));
                if fails {
                    Err(Error::failed("channel_not_found"))
                } else {
                    Ok(())
                }
            };
            let call_of = tool_call("attach", &[("path", &path), ("title", title)]);
            let (spill, stop) = (world.spill(), Stop::new());
            text_of(&call(&world.context(&spill), &call_of, &stop, &mut upload))
        };
        for (name, title, want) in [
            ("a b.bin", "", "Attached a b.bin"),
            ("a b.bin", "A title", "Attached a b.bin"),
            ("a b.bin", "fails", "channel_not_found"),
            ("empty", "", "is empty, and Slack takes no empty files"),
            ("huge", "", "attach takes: compress or split it"),
            ("", "", "is a directory"),
        ] {
            let text = attach(name, title);
            assert!(text.ends_with(want), "{name} {title}: {text}");
        }
        let titles: Vec<&str> = uploads.iter().map(|(_, title, _)| title.as_str()).collect();
        assert_eq!(titles, ["a b.bin", "A title", "fails"]);
        let is_whole =
            |(name, _, sent): &(String, String, Vec<u8>)| name == "a b.bin" && *sent == bytes;
        assert!(uploads.iter().all(is_whole));
    });
}

#[test]
fn wrong_calls_are_results() {
    let world = World::on_host();
    let long = format!(": {}", "x".repeat(200_000));
    for (name, fields, want) in [
        (
            "rm",
            &[][..],
            "there is no tool \"rm\", only read, bash, edit, write, attach",
        ),
        (
            "bash",
            &[("command", "ls"), ("timeout", "-1")],
            "more than 0",
        ),
        ("bash", &[("command", "a\0b")], "NUL"),
        ("read", &[("path", "a\0b")], "NUL"),
        ("bash", &[("command", &long)], "128 KB"),
    ] {
        let output = world.call(name, fields);
        let text = text_of(&output);
        assert!(output.is_error && text.contains(want), "{name}: {text}");
    }
    let output = world.call(
        "bash",
        &[("command", "echo ok"), ("timeout", "1e300"), ("cwd", "/")],
    );
    let ignored = "[Ignored, for the tool has no such argument: cwd]";
    let want = ["ok", ignored].map(|text| Content::Text(text.to_owned()));
    assert_eq!((&output.content[..], output.is_error), (&want[..], false));
}

/// What `--check` says about a container is tested in tests/it/doctor.rs.
#[test]
fn a_container_that_is_paused_or_stopped_is_told() {
    World::each(|world| {
        let Sandbox::Container { engine, name } = &world.sandbox else {
            return;
        };
        let check = || {
            fs::write(world.dir.join("probe"), "probe").unwrap();
            let checked = world.sandbox.check(&world.dir, "probe");
            checked.map_err(|err| err.to_string())
        };
        assert_eq!(check(), Ok(Vec::new()));
        for (command, undo, want) in [
            ("pause", "unpause", "it is paused; next: "),
            ("stop", "start", "it is not running; next: "),
        ] {
            call_engine(*engine, &[command, name]);
            let error = check().unwrap_err();
            let destroys = error.contains(" remove") || error.contains("probe");
            assert!(error.contains(want) && !destroys, "{engine:?}: {error}");
            if command == "stop" {
                // The model gets the same hint when the container stops later.
                let text = world.bash("true");
                assert!(text.contains("; next: "), "{engine:?}: {text}");
            }
            call_engine(*engine, &[undo, name]);
        }
    });
}

/// A call is ended from outside: the result says that it ran, and the container's state now.
#[test]
fn a_call_that_was_cut() {
    World::each(|world| {
        let command = "echo so far; kill -KILL $PPID; sleep 3600";
        let text = world.text("bash", &[("command", command)]);
        let said = "so far\n\nThe call ran and was cut off before its end";
        assert!(text.starts_with(said), "{}: {text}", world.sandbox_name());
        let Sandbox::Container { engine, name } = &world.sandbox else {
            return;
        };
        assert!(text.contains("now: running since "), "{text}");
        for (command, now) in [
            (&["restart", "--time=1"][..], "now: running since "),
            (&["stop", "--time=1"], "now: exited; next: "),
            (&["rm", "--force"], " create DATA_DIR"),
        ] {
            let stop = Stop::new();
            let mut go = Go::new(world);
            let output = thread::scope(|scope| {
                let call = scope.spawn(|| go_call(world, &stop, "echo so far; go; sleep 3600"));
                go.wait("cut");
                call_engine(*engine, &[command, &[name]].concat());
                call.join().unwrap()
            });
            // Podman's client adds a line of its own. The state may still change at that moment, so
            // its text is checked afterwards.
            let text = text_of(&output);
            let (printed, cut) = text.split_once("\n\n").unwrap();
            let says = printed.starts_with("so far") && cut.starts_with("The call ran and was");
            assert!(says && cut.contains("' now: "), "{command:?}: {text}");
            let text = world.sandbox.cut(137, b"", &stop);
            assert!(text.contains(now), "{engine:?} {command:?}: {text}");
            if command[0] != "rm" {
                call_engine(*engine, &["start", name]);
            }
        }
    });
}

/// Mutates the arguments of a call, the output of a sandbox, and the content of files.
#[test]
fn survives_mutation() {
    let corpus = [
        r#"{"label":"Look","path":"a\n","offset":1e3,"limit":2,"command":"ls","timeout":-1}"#,
        r#"{"label":null,"path":"-x","oldText":"b\r\n","newText":"é","content":"c","title":[{}]}"#,
        "17 3\na\nb\r\n\x1b[1;31mred\x1b[0m \x1b]0;title\x07é\nb\n",
        "17 18446744073709551615\na\nb",
        "\u{89}PNG\r\n\x1a\nGIF89aRIFF0000WEBP",
    ];
    survive(&corpus, |random, input| {
        let arguments = String::from_utf8_lossy(input).into_owned();
        let call = ToolCall {
            arguments,
            ..tool_call(TOOLS[random.below(5)].spec.name, &[])
        };
        assert!(label(&call).chars().count() <= 150);
        arguments_text(&call);
        let text = call.arguments;
        Args::parse(&TOOLS[random.below(5)].spec, &text).ok();
        let plain = truncate::plain(&text);
        assert!(plain.len() <= text.len() && !plain.contains('\x1b'));
        let lines_max = 1 + random.below(5);
        for cut in [
            truncate::head(&text, lines_max),
            truncate::tail(&text, lines_max),
        ] {
            assert!(cut.lines <= lines_max && text.contains(cut.text));
        }
        image_mime(input);
        let offset = (random.below(9) + 1) as u64;
        read::survive(input, offset);
        let old: String = text.chars().take(random.below(6)).collect();
        edit::survive(input, &old);
    });
}

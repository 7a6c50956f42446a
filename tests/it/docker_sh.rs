//! docker.sh: each error state has its exit code, its message and its next step; the container that
//! it creates is hardened and survives restarts.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::docker::{self, Container, docker_ok, root, text};
use crate::scratch::Scratch;

/// The result of a call: exit code, stdout, stderr.
pub(crate) struct Done(pub(crate) i32, pub(crate) String, pub(crate) String);

/// `docker.sh` with these arguments, variables and standard input.
pub(crate) fn call(args: &[&str], vars: &[(&str, &str)], stdin: &str) -> Done {
    let mut command = Command::new("/bin/sh");
    command.arg(root().join("docker.sh")).args(args);
    for name in [
        "CONTAINER",
        "IMAGE",
        "DOCKER_ARGS",
        "NETWORK",
        "MEMORY",
        "CPUS",
        "PIDS",
        "ENGINE",
    ] {
        command.env_remove(format!("MOM_{name}"));
    }
    command.envs(vars.iter().copied());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("run docker.sh");
    // A call that fails does not read its input.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("wait for docker.sh");
    let code = output.status.code().expect("docker.sh ended by itself");
    Done(code, text(&output.stdout), text(&output.stderr))
}

/// Fails unless the call ended with `code`, an empty stdout, and a message and a next step that
/// contain these texts.
fn assert_fails(name: &str, done: &Done, code: i32, message: &str, next: &str) {
    let Done(got, out, err) = done;
    assert_eq!((*got, out.as_str()), (code, ""), "{name}: {err}");
    let (before, after) = err.split_once("\n  next: ").unwrap_or((err, ""));
    assert!(before.contains("docker.sh: "), "{name}: {err}");
    assert!(before.contains(message), "{name}, message: {err}");
    assert!(after.contains(next), "{name}, next step: {err}");
}

fn assert_done(name: &str, done: &Done, says: &str) {
    let Done(code, out, err) = done;
    assert_eq!(*code, 0, "{name}: {err}");
    assert!(out.contains(says), "{name}: {out}");
}

/// A directory for PATH with what docker.sh calls, and `docker` as this script, if any.
fn path_with(dir: &Path, docker: Option<&str>) -> String {
    for tool in ["sed", "xargs", "printf", "awk", "getconf", "id"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|dir| dir.join(tool))
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("no {tool} in PATH"));
        symlink(found, dir.join(tool)).unwrap();
    }
    if let Some(script) = docker {
        let path = dir.join("docker");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

#[test]
fn wrong_usage_is_2_and_asks_nothing_of_the_engine() {
    for (name, args, vars, message) in [
        ("no command", &[][..], &[][..], "a command is missing"),
        ("unknown command", &["destroy"], &[], "no command 'destroy'"),
        ("create without", &["create"], &[], "takes one argument"),
        ("create empty", &["create", ""], &[], "takes one argument"),
        (
            "create two",
            &["create", "a", "b"],
            &[],
            "takes one argument",
        ),
        (
            "start with",
            &["start", "now"],
            &[],
            "start takes no argument: now",
        ),
        ("line feed", &["create", "a\nb"], &[], "control characters"),
        (
            "remove with",
            &["remove", "it"],
            &[],
            "no argument but --yes",
        ),
        (
            "option as name",
            &["start"],
            &[("MOM_CONTAINER", "-v/:/host")],
            "no container name",
        ),
        (
            "short name",
            &["start"],
            &[("MOM_CONTAINER", "a")],
            "no container name",
        ),
        (
            "name with space",
            &["start"],
            &[("MOM_CONTAINER", "a b")],
            "no container name",
        ),
        (
            "option as image",
            &["create", "/"],
            &[("MOM_IMAGE", "--privileged")],
            "no image name",
        ),
        (
            "engine",
            &["status"],
            &[("MOM_ENGINE", "rm")],
            "docker or podman, not 'rm'",
        ),
        (
            "open quote",
            &["create", "/"],
            &[("MOM_DOCKER_ARGS", "-e 'A")],
            "a quote is open: -e 'A",
        ),
    ] {
        // No engine could answer here.
        let vars = [vars, &[("DOCKER_HOST", "unix:///nowhere.sock")]].concat();
        assert_fails(name, &call(args, &vars, ""), 2, message, "--help");
    }
}

#[test]
fn help_knows_every_variable_and_every_exit_code() {
    let Done(code, help, _) = call(&["--help"], &[], "");
    assert_eq!(code, 0);
    let script = fs::read_to_string(root().join("docker.sh")).unwrap();
    let code_of = script.split_once("\n\n").expect("the help text ends").1;
    let word = |c: char| !c.is_ascii_uppercase() && c != '_';
    let variables: BTreeSet<_> = code_of
        .split(word)
        .filter(|w| w.starts_with("MOM_"))
        .collect();
    assert!(variables.len() == 8, "{variables:?}");
    for variable in variables {
        assert!(
            help.contains(&format!("  {variable} ")),
            "{variable} is not in the help"
        );
    }
    let codes: BTreeSet<_> = code_of
        .split("fail ")
        .filter_map(|rest| rest.chars().next().filter(char::is_ascii_digit))
        .collect();
    assert_eq!(codes.len(), 9, "{codes:?}");
    for code in codes {
        assert!(
            help.contains(&format!("\n  {code}  ")),
            "exit code {code} is not in the help"
        );
    }
}

/// Under the name of the installation, of a checkout, and given to the shell.
#[test]
fn it_names_itself_as_it_was_called() {
    let scratch = Scratch::new();
    let installed = scratch.path("bin/mom-sandbox");
    let copy = fs::read(root().join("docker.sh")).unwrap();
    scratch.write("bin/mom-sandbox", copy);
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).unwrap();
    let bin = scratch.path("bin").display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let full = installed.display().to_string();
    for (line, name) in [
        ("PATH=$1 && mom-sandbox", "mom-sandbox"),
        ("$2", &full),
        ("cd tests && ../docker.sh", "../docker.sh"),
        ("./docker.sh", "./docker.sh"),
        ("sh docker.sh", "sh docker.sh"),
    ] {
        let said = |word: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{line} {word}"), "sh", &path, &full]);
            let output = shell.current_dir(root()).output().unwrap();
            text(&output.stdout) + &text(&output.stderr)
        };
        let help = said("--help");
        assert!(
            help.contains(&format!("\nusage: {name} COMMAND\n")),
            "{help}"
        );
        assert_eq!(help.contains("docker.sh"), name.contains("docker.sh"));
        let wrong = said("frob");
        assert!(
            wrong.ends_with(&format!("next: {name} --help\n")),
            "{wrong}"
        );
    }
}

/// The engine refuses a container more processors than the machine has.
#[test]
fn half_a_processor_is_left_to_the_host_and_one_is_enough() {
    let scratch = Scratch::new();
    let bin = scratch.path("bin");
    let script = "#!/bin/sh\ncase $1 in container) echo 'No such container' >&2; exit 1 ;;\n\
                  create) printf '%s ' \"$@\" >\"$SAID\"; echo id ;; esac\n";
    scratch.write("bin/docker", script);
    for (count, want) in [(1, "--cpus=0.5 "), (2, "--cpus=1.5 "), (64, "--cpus=63.5 ")] {
        scratch.write("bin/getconf", format!("#!/bin/sh\necho {count}\n"));
        for tool in ["docker", "getconf"] {
            fs::set_permissions(bin.join(tool), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let said = scratch.path("said").display().to_string();
        let vars = [("PATH", path.as_str()), ("SAID", &said)];
        let dir = scratch.dir().to_str().unwrap();
        assert_done("create", &call(&["create", dir], &vars, ""), "runs");
        let said = scratch.read("said");
        assert!(said.contains(want), "{count}: {said}");
    }
}

#[test]
fn each_error_state_before_there_is_a_container() {
    let scratch = Scratch::new();
    let missing = scratch.path("no such, dir");
    let missing = missing.to_str().unwrap();
    let done = call(&["create", missing], &[], "");
    assert_fails(
        "no data dir",
        &done,
        8,
        "there is no data directory",
        &format!("mkdir -p '{missing}'"),
    );

    let file = scratch.path("file");
    fs::write(&file, "").unwrap();
    let done = call(&["create", file.to_str().unwrap()], &[], "");
    assert_fails("a file", &done, 8, "is no directory", "mkdir data");

    let dir = scratch.path("data");
    fs::create_dir(&dir).unwrap();
    let create = ["create", dir.to_str().unwrap()];
    let bare = scratch.path("bare");
    fs::create_dir(&bare).unwrap();
    let bare = path_with(&bare, None);
    let denied = scratch.path("denied");
    fs::create_dir(&denied).unwrap();
    let denied = path_with(
        &denied,
        Some("#!/bin/sh\necho 'dial unix: permission denied' >&2\nexit 1\n"),
    );
    for args in [
        &create[..],
        &["start"],
        &["stop"],
        &["remove"],
        &["status"],
        &["shell"],
    ] {
        let name = args[0];
        let done = call(args, &[("PATH", &bare)], "");
        assert_fails(
            name,
            &done,
            3,
            "docker is not installed",
            "apt install docker.io",
        );
        let done = call(args, &[("PATH", &denied)], "");
        assert_fails(name, &done, 4, "you may not use", "usermod -aG docker");
    }
    if docker::image().is_none() {
        return;
    }
    let container = Container::named();
    let vars = [("MOM_CONTAINER", container.name.as_str())];
    for args in [
        &create[..],
        &["start"],
        &["stop"],
        &["remove"],
        &["status"],
        &["shell"],
    ] {
        let name = args[0];
        let nowhere = format!("unix://{}", scratch.path("nowhere.sock").display());
        let done = call(args, &[("DOCKER_HOST", &nowhere)], "");
        assert_fails(name, &done, 4, "engine does not answer", "DOCKER_HOST");
        if name != "create" {
            let done = call(args, &vars, "");
            assert_fails(name, &done, 5, &container.name, "docker.sh create DATA_DIR");
        }
    }
    let vars = [vars[0], ("MOM_IMAGE", "localhost:1/mom-no-such-image:1")];
    let done = call(&create, &vars, "");
    assert_fails("no image", &done, 9, "could not be pulled", "MOM_IMAGE=");
}

#[test]
fn a_refusal_of_the_engine_is_1_and_leaves_nothing_behind() {
    let Some(image) = docker::image() else { return };
    let scratch = Scratch::new();
    let dir = scratch.dir();
    let container = Container::named();
    for (name, var, message) in [
        (
            "unknown option",
            ("MOM_DOCKER_ARGS", "--frob"),
            "could not create",
        ),
        ("limit", ("MOM_MEMORY", "many"), "could not create"),
        (
            "network",
            ("MOM_NETWORK", "mom-no-such-network"),
            "could not start",
        ),
        (
            "no shell",
            ("MOM_DOCKER_ARGS", "-v /dev/null:/bin/sh"),
            "no shell (sh) starts in container",
        ),
    ] {
        let vars = [
            ("MOM_CONTAINER", container.name.as_str()),
            ("MOM_IMAGE", image),
            var,
        ];
        let done = call(&["create", dir.to_str().unwrap()], &vars, "");
        assert_fails(name, &done, 1, message, var.0);
        assert_fails(
            name,
            &call(&["status"], &vars, ""),
            5,
            "there is no container",
            "create",
        );
    }
}

#[test]
fn a_container_is_made_kept_and_removed() {
    let Some(image) = docker::image() else { return };
    let scratch = Scratch::new();
    let dir = scratch.path("my \"data\", d:d 'é' $HOME");
    fs::create_dir(&dir).unwrap();
    let dir = dir.to_str().unwrap();
    let container = Container::named();
    let extra = "-e 'GREETING=two words; $(id)' --label=x=y";
    let vars = [
        ("MOM_CONTAINER", container.name.as_str()),
        ("MOM_IMAGE", image),
        ("MOM_DOCKER_ARGS", extra),
    ];
    let sh = |args: &[&str]| call(args, &vars, "");
    let next = format!("MOM_CONTAINER={} ", container.name);

    assert_done(
        "create",
        &sh(&["create", dir]),
        &format!("--sandbox=docker:{}", container.name),
    );
    assert_fails(
        "create again",
        &sh(&["create", dir]),
        6,
        "exists already (running",
        &next,
    );
    let other = scratch.dir().to_str().unwrap();
    assert_fails(
        "create for another directory",
        &sh(&["create", other]),
        6,
        &format!("data directory {dir}"),
        "name that directory, or make another container: MOM_CONTAINER=",
    );
    assert_done("start again", &sh(&["start"]), "runs already");
    assert_done("status", &sh(&["status"]), &format!("/workspace: {dir}"));

    let script = "pwd; echo $GREETING; echo kept >/root/kept; echo seen >seen; exit 40";
    let Done(code, out, _) = call(&["shell"], &vars, script);
    assert_eq!((code, out.as_str()), (40, "/workspace\ntwo words; $(id)\n"));
    assert_eq!(
        fs::read_to_string(Path::new(dir).join("seen")).unwrap(),
        "seen\n"
    );

    assert_done("stop", &sh(&["stop"]), "is stopped");
    for command in ["stop", "shell"] {
        assert_fails(
            command,
            &sh(&[command]),
            7,
            "is not running, it is exited",
            "docker.sh start",
        );
    }
    let Done(code, out, err) = sh(&["status"]);
    assert_eq!(code, 7, "{err}");
    assert!(
        out.contains("is exited") && err.contains("docker.sh start"),
        "{out}{err}"
    );
    assert_fails(
        "create over stopped",
        &sh(&["create", dir]),
        6,
        "exists already (exited",
        &next,
    );

    assert_done("start", &sh(&["start"]), "runs");
    assert_eq!(container.sh("cat /root/kept"), "kept");

    docker_ok(&["pause", &container.name]);
    assert_fails(
        "shell paused",
        &sh(&["shell"]),
        7,
        "it is paused",
        "docker.sh start",
    );
    assert_done("unpause", &sh(&["start"]), "runs");

    // At a terminal the script asks.
    let mut ask = Command::new("script");
    ask.args([
        "-qec",
        &format!("{} remove", root().join("docker.sh").display()),
    ]);
    ask.arg("/dev/null").env("MOM_CONTAINER", &container.name);
    let mut asked = ask
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    asked.stdin.take().unwrap().write_all(b"n\n").unwrap();
    let asked = asked.wait_with_output().unwrap();
    let said = text(&asked.stdout);
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(
        said.contains("installed and stored in it? ") && said.contains("nothing is removed"),
        "{said}"
    );
    assert_done("remove", &sh(&["remove", "--yes"]), "is removed");
    assert!(Path::new(dir).join("seen").exists());
    assert_fails(
        "status",
        &sh(&["status"]),
        5,
        "there is no container",
        "create",
    );
}

#[test]
fn the_container_is_hardened() {
    let Some(image) = docker::image() else { return };
    let scratch = Scratch::new();
    let dir = scratch.dir();
    let create = ["create", dir.to_str().unwrap()];
    let container = Container::named();
    let vars = [
        ("MOM_CONTAINER", container.name.as_str()),
        ("MOM_IMAGE", image),
    ];
    assert_done("create", &call(&create, &vars, ""), "runs");
    for (field, want) in [
        ("Init", "true"),
        ("RestartPolicy.Name", "unless-stopped"),
        ("SecurityOpt", "[no-new-privileges]"),
        ("CapDrop", "[ALL]"),
        ("PidsLimit", "512"),
        ("LogConfig.Type", "none"),
        ("Privileged", "false"),
    ] {
        let got = container.inspect(&format!("{{{{.HostConfig.{field}}}}}"));
        assert_eq!(got, want, "{field}");
    }
    for field in ["Memory", "NanoCpus"] {
        let got = container.inspect(&format!("{{{{.HostConfig.{field}}}}}"));
        assert!(got.parse::<u64>().unwrap() > 0, "{field} is {got}");
    }
    // What counts is what the kernel says of a process in it: the capabilities kept are
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7,
    // SYS_CHROOT 18, SETFCAP 31.
    let kept = [0, 1, 3, 4, 5, 6, 7, 18, 31]
        .iter()
        .fold(0u64, |set, bit| set | 1 << bit);
    let status = container.sh("cat /proc/self/status");
    for line in [
        format!("CapBnd:\t{kept:016x}"),
        "NoNewPrivs:\t1".into(),
        "Seccomp:\t2".into(),
    ] {
        assert!(
            status.lines().any(|got| got == line),
            "{line} is not in {status}"
        );
    }
    let others = "mount | grep -c docker.sock; ls -d /var/run/docker.sock 2>/dev/null; true";
    assert_eq!(container.sh(others), "0");

    // Each limit can be set, and switched off.
    assert_done("remove", &call(&["remove"], &vars, ""), "is removed");
    let limits = [
        ("MOM_MEMORY", "64m"),
        ("MOM_CPUS", "0.5"),
        ("MOM_PIDS", ""),
        ("MOM_NETWORK", "none"),
    ];
    let vars = [&vars[..], &limits].concat();
    assert_done("create with limits", &call(&create, &vars, ""), "runs");
    let template = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.NetworkMode}}";
    assert_eq!(container.inspect(template), "67108864 500000000 none");
    // The text that the client prints for this differs by version: <nil>, <no value>, 0.
    let pids = container.inspect("{{.HostConfig.PidsLimit}}");
    assert!(!pids.contains(|c| ('1'..='9').contains(&c)), "{pids}");
}

#[test]
fn a_container_without_a_data_directory_is_no_place_for_one() {
    let Some(image) = docker::image() else { return };
    let scratch = Scratch::new();
    let container = Container::named();
    let name = container.name.as_str();
    docker_ok(&[
        "run",
        "-d",
        "--name",
        name,
        image,
        "tail",
        "-f",
        "/dev/null",
    ]);
    let vars = [("MOM_CONTAINER", name)];
    let done = call(&["create", scratch.dir().to_str().unwrap()], &vars, "");
    assert_fails(
        "no mount",
        &done,
        6,
        "exists already (running, without a data directory)",
        "make another container: MOM_CONTAINER=",
    );
    assert!(!done.2.contains("name that"), "{}", done.2);
}

#[test]
fn a_container_made_by_hand_is_kept_by_docker_sh() {
    let Some(image) = docker::image() else { return };
    let scratch = Scratch::new();
    let dir = scratch.dir();
    let container = Container::by_hand(image, dir);
    let vars = [("MOM_CONTAINER", container.name.as_str())];
    assert_done(
        "status",
        &call(&["status"], &vars, ""),
        &format!("/workspace: {}", dir.display()),
    );
    assert_done("stop", &call(&["stop"], &vars, ""), "is stopped");
    assert_done("start", &call(&["start"], &vars, ""), "runs");
    assert_done("remove", &call(&["remove"], &vars, ""), "is removed");
}

/// Root in the container opens the data directory to all and leaves a program with the
/// set-user-ID bit: another user of the machine must not get at it.
#[test]
fn a_program_of_the_containers_root_serves_no_other_user() {
    let Some(image) = docker::image() else { return };
    let scratch = Scratch::new();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(scratch.dir(), open).unwrap();
    let dir = scratch.path("data");
    fs::create_dir(&dir).unwrap();
    let container = Container::named();
    let vars = [
        ("MOM_CONTAINER", container.name.as_str()),
        ("MOM_IMAGE", image),
    ];
    let Done(code, _, warning) = call(&["create", dir.to_str().unwrap()], &vars, "");
    assert_eq!(code, 0, "{warning}");
    let next = format!("chmod 700 {}", scratch.dir().display());
    let said = warning.split_once("\n  next: ").expect("a warning");
    assert!(
        said.0.contains("other users of this machine can enter"),
        "{warning}"
    );
    assert_eq!(said.1.trim_end(), next);
    // Files that an attacker would download.
    fs::copy("/usr/bin/id", dir.join("id")).unwrap();
    container.sh("chown 0:0 /workspace/id && chmod 4755 /workspace/id && chmod 777 /workspace");
    let attack = || {
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        // setpriv itself can still open what is root's.
        let output = nobody.args(["sh", "-c"]).arg(dir.join("id")).output();
        let output = output.expect("run setpriv");
        text(&output.stdout) + &text(&output.stderr)
    };
    // Only root can become nobody.
    let is_root = rustix::process::geteuid().is_root();
    assert!(!is_root || attack().contains("euid=0"), "{}", attack());
    let mend = Command::new("sh").args(["-c", &next]).status().unwrap();
    assert!(mend.success());
    assert!(!is_root || attack().contains("denied"), "{}", attack());
    assert_done("remove", &call(&["remove"], &vars, ""), "is removed");
    let Done(code, _, quiet) = call(&["create", dir.to_str().unwrap()], &vars, "");
    assert!(code == 0 && !quiet.contains("warning"), "{quiet}");
}

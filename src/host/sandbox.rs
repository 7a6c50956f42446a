//! Where tools run: on this host, or in a container that is mom's own computer. Makes the
//! one `Command` of a tool call, and looks at start whether the container is what it ought
//! to be. What runs, and how its end is noticed, is in `process`.
//!
//! A script runs as `sh -c SCRIPT sh MARK ARGS..` directly or behind `docker exec -i NAME`:
//! POSIX sh with dash, bash and busybox in mind. No value from outside becomes script text.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::stop::Stop;
use crate::host::process::{self, Exec, ExecEnd, ExecResult};

/// Where the data directory is mounted in a container.
pub(crate) const WORKSPACE: &str = "/workspace";

/// Starts each script. fd 3 is mom's end of the conversation; `say CODE` prints the mark.
const PROLOGUE: &str = r#"
m=$1; exec 3<&0 </dev/null 2>&1
say() { printf '\036%s %s\n' "$m" "$1"; }
say '!'
"#;

/// The watchdog: waits until fd 3 ends (mom closed it, or is dead), then kills whatever
/// carries the call's mark in its environment, wherever it hid (setsid, double fork), and
/// all children of those (`su -` and `sudo` clear the environment and start a session), and
/// at last its own group: script, watchdog and all. `-PID` gets a whole group at once.
/// What it finds is stopped, and killed only once a round finds no one new: a fork bomb at
/// its pids limit would refill what is killed, but those that stand still keep their place,
/// and their children a parent. (Of a bomb, some live too short to be met: six such rounds
/// when there are many.)
///
/// It ends when three rounds in a row meet none; ten when some process shows no environment
/// at all, as in the middle of an exec. (Or when what is left hangs in the kernel or is
/// another user's.) Under a bomb, process ids are soon used again: each signal follows at
/// once on the look, and who was met before is known by id and start time.
/// It is deaf to SIGHUP: the kernel sends that to a group that loses its last tie (mom dies)
/// while one of it stands still, and the watchdog's own work makes one stand still.
/// Builtins only: a fork may fail. bash where there is one: dash reads byte by byte.
///
/// A process outlives this only if it left its group and its parent and shed its
/// environment as well.
pub(crate) const WATCH: &str = r#"
b=sh; command -v bash >/dev/null && b=bash
(
    read -r _ <&3
    trap '' HUP TERM
    exec $b -c '
        mark=$1 group=$2 known=" $2: " still=0 calm=0 rounds=0
        until [ $calm -gt 9 ] || [ $calm -gt 2 -a -z "$unsure" ] || [ $rounds = 200 ]; do
            old=STOP
            if [ $still -gt 5 ] || [ $still -gt 0 -a ${#known} -lt 400 ]; then old=KILL; fi
            met=" $group: " unsure= still=$((still + 1)) calm=$((calm + 1)) rounds=$((rounds + 1))
            for dir in /proc/[0-9]*; do
                pid=${dir#/proc/} any= ours= signal=STOP
                [ $pid != $$ ] && read -r stat <$dir/stat || continue
                # What follows the name: state, parent, .. and as the 20th the start time.
                set -- ${stat##*) }
                [ "$1" != Z ] || continue
                case $known in *" $pid:${20} "*) ours=1 signal=$old ;; esac
                case $known$met in *" $2:"*) ours=1 ;; esac
                while [ -z "$ours" ] && { read -r line || [ "$line" ]; }; do
                    any=1
                    case $line in *"MOM_CALL=$mark"*) ours=1 ;; esac
                done <$dir/environ
                [ "$any$ours" ] || [ ! -e $dir/exe ] || unsure=1
                [ "$ours" ] || continue
                kill -$signal -$pid
                kill -$signal $pid || continue
                case $known in *" $pid:${20} "*) ;; *) still=0 ;; esac
                met="$met$pid:${20} " calm=0
            done
            known=$met
        done
        kill -KILL -$group' mom "$m" $$
) >/dev/null 2>&1 &
leash=$!
"#;

/// Ends a script that has a watchdog. One that is at work ignores the signal, and the
/// `wait` is the script's last.
pub(crate) const UNWATCH: &str = r#"
code=$?
{ kill $leash; wait $leash; } 2>/dev/null
say $code
"#;

/// What a host tool gets of mom's environment. A list of what is harmless, not of what is
/// secret: a token that we have never heard of must not get through.
const HOST_VARIABLES: [&str; 18] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// What the client needs to find its engine (SSH_AUTH_SOCK: DOCKER_HOST=ssh://..). Nothing
/// of it gets into the container.
const CLIENT_VARIABLES: [&str; 6] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
];

const CHECK_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    Host,
    Container {
        /// `docker` or `podman`: the program that is called.
        engine: &'static str,
        name: String,
    },
}

impl Sandbox {
    /// `host`, `docker:NAME` or `podman:NAME`; everything else is a usage error.
    pub(crate) fn parse(text: &str) -> Result<Sandbox> {
        let (engine, name) = text.split_once(':').unwrap_or((text, ""));
        let engine = match engine {
            "host" if text == "host" => return Ok(Sandbox::Host),
            "docker" => "docker",
            "podman" => "podman",
            _ => {
                return Err(Error::Usage(format!(
                    "--sandbox={text} is none of host, docker:NAME, podman:NAME"
                )));
            }
        };
        if name.is_empty() {
            return Err(Error::Usage(format!(
                "--sandbox={engine} needs the container's name: --sandbox={engine}:mom-sandbox"
            )));
        }
        // The engines' own rule. It also keeps a name from being read as an option.
        let is_first = |c: char| c.is_ascii_alphanumeric();
        let is_other = |c: char| is_first(c) || matches!(c, '_' | '.' | '-');
        if !name.starts_with(is_first) || !name.chars().all(is_other) || name.len() < 2 {
            return Err(Error::Usage(format!(
                "--sandbox={text}: no container can have this name: letters, digits, '_', \
                 '.', '-', at least two, the first a letter or digit"
            )));
        }
        Ok(Sandbox::Container {
            engine,
            name: name.to_owned(),
        })
    }

    /// The data directory as a tool sees it.
    pub(crate) fn workspace(&self, data_dir: &Path) -> String {
        match self {
            Sandbox::Host => data_dir.display().to_string(),
            Sandbox::Container { .. } => WORKSPACE.to_owned(),
        }
    }

    /// One run of `script` (its parts are joined), `$1` = `mark`, `$2`.. = `args`. On the
    /// host it starts in mom's own directory, in a container in the container's.
    pub(crate) fn command(&self, script: &[&str], mark: &str, args: &[&str]) -> Command {
        let mut command = match self {
            Sandbox::Host => {
                let mut command = Command::new("/bin/sh");
                command.env_clear().envs(variables(&HOST_VARIABLES, ""));
                command
            }
            Sandbox::Container { engine, name } => {
                let mut command = client(engine);
                command.args(["exec", "-i", name.as_str(), "sh"]);
                command
            }
        };
        command
            .args(["-c", &format!("{PROLOGUE}{}", script.concat()), "sh", mark])
            .args(args);
        command
    }

    /// At start: can tools run, and is /workspace this data directory? `Err` says which
    /// command mends it; `Ok` holds warnings. `probe` is the name of a file that the caller
    /// made in the data directory for this; its content is its name.
    pub(crate) fn check(&self, data_dir: &Path, probe: &str) -> Result<Vec<String>> {
        let Sandbox::Container { engine, name } = self else {
            self.check_workspace(data_dir, probe)?;
            return Ok(vec![String::from(
                "tools run on this machine as this user, without isolation: \
                 whoever may talk to mom can do what this user can",
            )]);
        };
        let mut command = client(engine);
        command.args(["inspect", "--type=container", "--format={{json .}}", name]);
        let finished = self.check_run(command, None)?;
        let text = String::from_utf8_lossy(&finished.output.tail);
        // A warning of the client may stand before it.
        let json = text.find('{').map_or("", |at| &text[at..]);
        let container = serde_json::from_str::<Value>(json);
        let (ExecEnd::Exited(0), Ok(container)) = (finished.end, container) else {
            return Err(self.unusable(&text, Some(data_dir)));
        };
        if container.pointer("/State/Running") != Some(&Value::Bool(true)) {
            return Err(self.unusable("it is not running", Some(data_dir)));
        }
        if container.pointer("/State/Paused") == Some(&Value::Bool(true)) {
            return Err(self.unusable("it is paused", Some(data_dir)));
        }
        self.check_workspace(data_dir, probe)?;
        let lacks = lacks(&container);
        if lacks.is_empty() {
            return Ok(Vec::new());
        }
        let (remove, create) = (self.script("remove"), self.script("create"));
        Ok(vec![format!(
            "container '{name}' {}; what is installed in it goes when you make a new one: \
             {remove} && {create} {}",
            lacks.join(", "),
            quote(data_dir)
        )])
    }

    /// Runs a script as tools do: it sees the probe, or the mount is not ours.
    fn check_workspace(&self, data_dir: &Path, probe: &str) -> Result<()> {
        let path = format!("{}/{probe}", self.workspace(data_dir));
        let mark = crate::base::random::random_word()?;
        let command = self.command(&["cat \"$2\"; say $?"], &mark, &[&path]);
        let finished = self.check_run(command, Some(mark))?;
        let text = String::from_utf8_lossy(&finished.output.tail);
        match finished.end {
            ExecEnd::Exited(0) if text == probe => Ok(()),
            ExecEnd::Exited(_) => {
                let (remove, create) = (self.script("remove"), self.script("create"));
                Err(Error::failed(format!(
                    "the sandbox does not have {} as its {}: {}; next: {remove}, then {create} {}",
                    data_dir.display(),
                    self.workspace(data_dir),
                    text.trim(),
                    quote(data_dir)
                )))
            }
            _ => Err(self.unusable(&text, Some(data_dir))),
        }
    }

    /// Is root in the container an ordinary user of this machine? `None`: the engine does not
    /// say, or there is none.
    pub(crate) fn is_rootless(&self) -> Option<bool> {
        let Sandbox::Container { engine, .. } = self else {
            return None;
        };
        let mut command = client(engine);
        let format = match *engine {
            "podman" => "{{.Host.Security.Rootless}}",
            _ => "{{json .SecurityOptions}}",
        };
        command.args(["info", "--format", format]);
        let finished = self.check_run(command, None).ok()?;
        let text = String::from_utf8_lossy(&finished.output.tail);
        let words = ["name=rootless", "name=userns", "true"];
        (finished.end == ExecEnd::Exited(0)).then(|| words.iter().any(|word| text.contains(word)))
    }

    fn check_run(&self, command: Command, mark: Option<String>) -> Result<ExecResult> {
        let program = command.get_program().to_string_lossy().into_owned();
        let run = Exec {
            command,
            mark,
            timeout: Some(CHECK_MAX),
            keep_bytes: 1 << 20,
            spill: None,
            answer: None,
        };
        let finished = process::run(run, &Stop::new()).map_err(|err| {
            Error::failed(format!(
                "{err}; next: install {program}, or see ./docker.sh --help"
            ))
        })?;
        if finished.end == ExecEnd::TimedOut {
            return Err(Error::failed(format!(
                "{program} gave no answer within {} s; next: look at the engine (systemctl status docker)",
                CHECK_MAX.as_secs()
            )));
        }
        Ok(finished)
    }

    /// What to do about a failure of the engine's client that said `text`.
    pub(crate) fn unusable(&self, text: &str, data_dir: Option<&Path>) -> Error {
        let text = text.trim();
        let Sandbox::Container { engine, name } = self else {
            return Error::failed(format!("the shell was killed: {text}"));
        };
        let has = |what: &str| text.to_ascii_lowercase().contains(what);
        let next = if has("no such container") || has("no such object") {
            let data_dir = data_dir.map_or(String::from("DATA_DIR"), quote);
            self.script("create ") + &data_dir
        } else if has("not running") || has("paused") || has("container state improper") {
            self.script("start")
        } else if has("fork") || has("resource temporarily unavailable") {
            // Full of processes: something has left them behind.
            format!("{}, then {}", self.script("stop"), self.script("start"))
        } else if has("permission denied") && has("sock") {
            format!("sudo usermod -aG {engine} $USER, then log in again")
        } else if has("connect") {
            format!("start the engine (systemctl start {engine})")
        } else {
            self.script("status")
        };
        Error::failed(format!(
            "cannot use container '{name}': {text}; next: {next}"
        ))
    }

    /// What to tell the model of a call that ended in the middle: it ran, and where it ran now.
    pub(crate) fn cut(&self, code: i32, _printed: &[u8]) -> String {
        format!("The command ran and was cut off before its end (exit code {code})")
    }

    /// `./docker.sh COMMAND` for this container.
    fn script(&self, command: &str) -> String {
        let mut line = String::new();
        if let Sandbox::Container { engine, name } = self {
            if *engine != "docker" {
                line += &format!("MOM_ENGINE={engine} ");
            }
            if name != "mom-sandbox" {
                line += &format!("MOM_CONTAINER={name} ");
            }
        }
        line + "./docker.sh " + command
    }
}

/// Who can write to one of these owns the machine; the engine's socket is in some of them.
const SYSTEM_DIRECTORIES: [&str; 13] = [
    "/", "/boot", "/dev", "/etc", "/home", "/lib", "/proc", "/root", "/run", "/sys", "/usr",
    "/var", "/var/run",
];
/// What `./docker.sh create` gives: with others a container may get out (capabilities(7)).
const CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "FOWNER",
    "FSETID",
    "DAC_OVERRIDE",
    "SETUID",
    "SETGID",
    "SYS_CHROOT",
    "SETFCAP",
    "KILL",
];

/// What a container made by `./docker.sh create` has and this one has not. `container` is
/// the engine's JSON of it.
fn lacks(container: &Value) -> Vec<&'static str> {
    let host = |key: &str| &container["HostConfig"][key];
    let list = |value: &Value, what: &dyn Fn(&str) -> bool| {
        let items = value.as_array().map_or(&[][..], Vec::as_slice);
        items.iter().filter_map(Value::as_str).any(what)
    };
    let is_all = |cap: &str| cap.eq_ignore_ascii_case("ALL") || cap.eq_ignore_ascii_case("CAP_ALL");
    let mounts = container["Mounts"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let mounted = |what: &dyn Fn(&str) -> bool| {
        mounts
            .iter()
            .filter_map(|mount| mount["Source"].as_str())
            .any(what)
    };
    let shares = |key: &str| {
        let mode = host(key).as_str().unwrap_or_default();
        mode == "host" || mode.starts_with("container:")
    };
    let writes = |mount: &Value| {
        mount["Type"] == "bind" && mount["RW"] == true && mount["Destination"] != WORKSPACE
    };
    [
        (
            mounted(&|source| source.ends_with("docker.sock") || source.ends_with("podman.sock")),
            "has the engine's socket mounted: it can become root on this machine",
        ),
        (
            mounted(&|source| SYSTEM_DIRECTORIES.contains(&source)),
            "has a directory of this machine's system mounted: it can become root there",
        ),
        (
            host("Privileged") == true,
            "is privileged: it can become root on this machine",
        ),
        (
            ["PidMode", "NetworkMode", "IpcMode", "UTSMode"]
                .into_iter()
                .any(shares),
            "shares a namespace with this machine, or another container",
        ),
        (
            mounts.iter().any(writes),
            "can write to another directory of this machine",
        ),
        (
            host("Devices")
                .as_array()
                .is_some_and(|devices| !devices.is_empty()),
            "was given devices of this machine",
        ),
        (
            host("Init") != true,
            "has no --init: ended tools stay as zombies",
        ),
        (
            !list(host("SecurityOpt"), &|opt| {
                opt.starts_with("no-new-privileges") && !opt.ends_with("false")
            }),
            "may gain privileges (no-new-privileges is missing)",
        ),
        (
            // Podman lists what is dropped by name.
            !list(host("CapDrop"), &is_all)
                && host("CapDrop").as_array().is_none_or(|caps| caps.len() < 3),
            "keeps all default capabilities",
        ),
        (
            list(host("CapAdd"), &|cap| {
                is_all(cap) || !CAPABILITIES.contains(&cap.trim_start_matches("CAP_"))
            }),
            "was given further capabilities: with some it can become root on this machine",
        ),
        (
            list(host("SecurityOpt"), &|opt| opt.ends_with("unconfined")),
            "has no filter for system calls (unconfined)",
        ),
        (
            host("PidsLimit").as_i64().unwrap_or(0) <= 0,
            "has no limit for processes (--pids-limit)",
        ),
        (
            host("Memory").as_i64().unwrap_or(0) <= 0,
            "has no memory limit",
        ),
        (
            ["NanoCpus", "CpuQuota"]
                .into_iter()
                .all(|key| host(key).as_i64().unwrap_or(0) <= 0),
            "has no processor limit (--cpus)",
        ),
    ]
    .into_iter()
    .filter_map(|(holds, what)| holds.then_some(what))
    .collect()
}

/// A path as one types it in a shell.
fn quote(path: &Path) -> String {
    let path = path.to_string_lossy();
    shlex::try_quote(&path).map_or_else(|_| path.to_string(), |quoted| quoted.into_owned())
}

/// The engine's client with just what it needs. It is a Go program that copies a stream, and
/// one thread at a time does that for less: 12.8 instead of 16.4 ms of processor time a call
/// (docker 28, two cores; 300 MB through it take as long). What else there is costs the same
/// to a tenth of a millisecond: DOCKER_HOST and DOCKER_API_VERSION given, hints and
/// configuration off, no `-i`. Of the 60 to 80 ms of an exec the engine takes the rest.
fn client(engine: &str) -> Command {
    let mut command = Command::new(engine);
    command
        .env_clear()
        .envs(variables(&CLIENT_VARIABLES, "DOCKER_"))
        .envs(variables(&[], "CONTAINER_"))
        .env("GOMAXPROCS", "1");
    command
}

/// Those of mom's variables that are named, or begin with `prefix` (when there is one). A
/// proxy with a password in it stays here.
fn variables(names: &[&str], prefix: &str) -> Vec<(String, String)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| {
            let named = names.contains(&name.as_str());
            let is_proxy = name.to_ascii_lowercase().ends_with("_proxy");
            (named || (!prefix.is_empty() && name.starts_with(prefix)))
                && !(is_proxy && value.contains('@'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_that_are_none() {
        for (text, want) in [
            ("docker", "--sandbox=docker:mom-sandbox"),
            ("podman:", "--sandbox=podman:mom-sandbox"),
            ("docker:-v", "no container can have this name"),
            ("docker:a", "no container can have this name"),
            ("docker:a b", "no container can have this name"),
            ("docker:ä1", "no container can have this name"),
            ("docker:a/../b", "no container can have this name"),
            ("host:x", "is none of"),
            ("lxc:x", "is none of"),
            ("", "is none of"),
        ] {
            match Sandbox::parse(text) {
                Err(Error::Usage(message)) => assert!(message.contains(want), "{message}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(Sandbox::parse("host"), Ok(Sandbox::Host));
        let container = Sandbox::Container {
            engine: "podman",
            name: String::from("a_B.9-"),
        };
        assert_eq!(Sandbox::parse("podman:a_B.9-"), Ok(container));
    }

    #[test]
    fn what_mends_a_failure() {
        let named = |text| Sandbox::parse(text).unwrap();
        let dir = Path::new("/my data");
        for (sandbox, says, want) in [
            (
                "docker:mom-sandbox",
                "Error: No such container: mom-sandbox",
                "next: ./docker.sh create '/my data'",
            ),
            (
                "docker:x1",
                "Error response from daemon: Container 0a is not running",
                "next: MOM_CONTAINER=x1 ./docker.sh start",
            ),
            (
                "podman:x1",
                "it is paused",
                "next: MOM_ENGINE=podman MOM_CONTAINER=x1 ./docker.sh start",
            ),
            (
                "docker:x1",
                "Cannot connect to the Docker daemon at unix:///x",
                "systemctl start docker",
            ),
            (
                "docker:x1",
                "permission denied while trying to connect to the Docker daemon socket",
                "usermod",
            ),
            (
                "docker:mom-sandbox",
                "sh: can't fork: Resource temporarily unavailable",
                "stop, then ./docker.sh start",
            ),
            ("docker:mom-sandbox", "strange", "next: ./docker.sh status"),
        ] {
            let error = named(sandbox).unusable(says, Some(dir)).to_string();
            assert!(error.ends_with(want) || error.contains(want), "{error}");
        }
    }

    #[test]
    fn what_a_container_lacks() {
        let hardened = json!({
            "HostConfig": {
                "Init": true, "Privileged": false, "PidsLimit": 512, "Memory": 1_000_000,
                "NanoCpus": 1_500_000_000, "CpuQuota": 0, "CapAdd": ["CAP_CHOWN", "KILL"],
                "UTSMode": "",
                "SecurityOpt": ["no-new-privileges"], "CapDrop": ["ALL"],
                "PidMode": "", "NetworkMode": "default", "IpcMode": "private", "Devices": [],
            },
            "Mounts": [{"Type": "bind", "Source": "/srv/mom", "Destination": "/workspace", "RW": true}],
        });
        assert_eq!(lacks(&hardened), Vec::<&str>::new());
        for (path, value, want) in [
            ("/HostConfig/Init", json!(null), "--init"),
            ("/HostConfig/Privileged", json!(true), "privileged"),
            ("/HostConfig/PidsLimit", json!(null), "processes"),
            ("/HostConfig/PidsLimit", json!(-1), "processes"),
            ("/HostConfig/Memory", json!(0), "memory"),
            ("/HostConfig/SecurityOpt", json!(null), "no-new-privileges"),
            (
                "/HostConfig/SecurityOpt",
                json!(["no-new-privileges:false"]),
                "no-new-privileges",
            ),
            ("/HostConfig/CapDrop", json!(null), "capabilities"),
            ("/HostConfig/NetworkMode", json!("host"), "namespace"),
            ("/HostConfig/UTSMode", json!("host"), "namespace"),
            ("/HostConfig/CapAdd", json!(["CAP_SYS_ADMIN"]), "was given"),
            ("/HostConfig/CapAdd", json!(["MKNOD"]), "was given"),
            ("/HostConfig/IpcMode", json!("container:x"), "namespace"),
            (
                "/HostConfig/Devices",
                json!([{"PathOnHost": "/dev/sda"}]),
                "devices",
            ),
            ("/Mounts/0/Destination", json!("/ssh"), "another directory"),
            ("/HostConfig/NanoCpus", json!(0), "processor"),
            (
                "/HostConfig/SecurityOpt",
                json!(["no-new-privileges", "seccomp=unconfined"]),
                "unconfined",
            ),
            ("/Mounts/0/Source", json!("/var/run"), "system mounted"),
            ("/Mounts/0/Source", json!("/run/docker.sock"), "socket"),
        ] {
            let mut container = hardened.clone();
            *container.pointer_mut(path).unwrap() = value;
            let lacks = lacks(&container);
            assert!(
                lacks.len() == 1 && lacks[0].contains(want),
                "{path}: {lacks:?}"
            );
        }
        assert_eq!(lacks(&Value::Null).len(), 6);
    }

    #[test]
    fn secrets_stay_here() {
        // cargo sets it for tests; it stands for a token.
        assert!(env::var_os("CARGO_PKG_NAME").is_some());
        let names = |sandbox: Sandbox| -> Vec<String> {
            let command = sandbox.command(&["true"], "mark", &[]);
            let names = command
                .get_envs()
                .map(|(name, _)| name.to_string_lossy().into_owned());
            names.collect()
        };
        let client = names(Sandbox::parse("docker:x1").unwrap());
        for names in [names(Sandbox::Host), client] {
            assert!(names.contains(&String::from("PATH")), "{names:?}");
            assert!(
                !names.iter().any(|name| name.contains("CARGO")),
                "{names:?}"
            );
        }
    }
}

//! Whether the sandbox can be used, and what to do when it can't: at start, for `--check`, and when
//! a call failed. Texts from a client are shortened before they leave this module.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Access, access};
use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::stop::Stop;
use crate::base::text;
use crate::host::door::{self, quote};
use crate::host::hardening::lacks;
use crate::host::process::{self, Exec, ExecEnd, ExecResult};
use crate::host::sandbox::{Engine, Sandbox, WORKSPACE, client};

/// Time limit for one question to the engine, or for one script in the container.
const CHECK_MAX: Duration = Duration::from_secs(20);
/// The engine's description of one container has some 10 KB.
const CHECK_BYTES_MAX: usize = 1 << 20;
/// Characters of a client's message that an error shows.
const MESSAGE_CHARS_MAX: usize = 400;

/// How often, and after which pause, mom looks whether a container that ended runs again.
const SETTLE_LOOKS: u32 = 4;
const SETTLE_PAUSE: Duration = Duration::from_millis(700);

/// The name of docker.sh where `make install` has put it next to mom.
const INSTALLED_SCRIPT: &str = "mom-sandbox";

/// Looks for the file `$2` in the directory, and writes a file next to it.
const PROBE: &str = r#"
if [ -x "${2%/*}" ] && [ ! -e "$2" ]; then say 3; exit; fi
{ seen=$(cat "$2") && true >"$2.new" && rm -f "$2.new"; } 2>/dev/null &&
    { printf %s "$seen"; say 0; exit; }
id; say 4
"#;
/// Exit code of `PROBE`: another directory is mounted.
const NOT_THERE: i32 = 3;
/// Exit code of `PROBE`: the directory can't be read and written to; the output is the user's id.
const NO_RIGHTS: i32 = 4;

impl Sandbox {
    /// At start: can tools run, and is /workspace this data directory? `Err` names the command that
    /// fixes it; `Ok` holds warnings. `probe` is the name of a file that the caller created in the
    /// data directory for this; its content is its name.
    pub(crate) fn check(&self, data_dir: &Path, probe: &str) -> Result<Vec<String>> {
        let Sandbox::Container { name, .. } = self else {
            self.check_workspace(data_dir, probe, None)?;
            return Ok(vec![String::from(
                "tools run on this machine as this user, without isolation: \
                 whoever may talk to mom can do what this user can \
                 (--approve=changes asks a person before each command)",
            )]);
        };
        let container = self.inspect(data_dir)?;
        if let Some(container) = &container {
            self.check_running(container, data_dir)?;
        }
        self.check_workspace(data_dir, probe, container.as_ref())?;
        let mut warnings: Vec<String> = door::warning(data_dir).into_iter().collect();
        let lacks = container.as_ref().map(lacks).unwrap_or_default();
        if !lacks.is_empty() {
            let (remove, create) = (self.script("remove"), self.script("create"));
            warnings.push(format!(
                "container '{name}' {}; a new one (what is installed in this one is lost): \
                 {remove} && {create} {}",
                lacks.join(", "),
                quote(data_dir)
            ));
        }
        Ok(warnings)
    }

    /// For a data directory that is missing: the error when the container has another one, whether
    /// it runs or not.
    pub(crate) fn check_missing(&self, path: &Path) -> Result<Option<Error>> {
        let path = std::path::absolute(path).map_err(|err| Error::io("find", path, &err))?;
        let Some(container) = self.inspect(&path)? else {
            return Ok(None);
        };
        let is_its_own = mounted(&container).is_some_and(|source| Path::new(source) == path);
        Ok((!is_its_own).then(|| self.other_directory(&path, Some(&container))))
    }

    /// The engine's description of the container; `None` for a pod, whose description differs by
    /// cluster and needs rights of its own.
    fn inspect(&self, data_dir: &Path) -> Result<Option<Value>> {
        let Sandbox::Container { engine, name } = self else {
            return Ok(None);
        };
        if *engine == Engine::Kubectl {
            return Ok(None);
        }
        let mut command = client(*engine);
        command.args(["inspect", "--type=container", "--format={{json .}}", name]);
        let result = check_run(command, None)?;
        let text = String::from_utf8_lossy(&result.output.tail);
        let (ExecEnd::Exited(0), Some(container)) = (result.end, first_object(&text)) else {
            return Err(self.unusable(&text, Some(data_dir)));
        };
        Ok(Some(container))
    }

    fn check_running(&self, container: &Value, data_dir: &Path) -> Result<()> {
        let state = &container["State"];
        // Checked first, because podman reports a paused container as not running.
        if state["Paused"] == true {
            return Err(self.unusable("it is paused", Some(data_dir)));
        }
        if state["Running"] != true {
            return Err(self.unusable("it is not running", Some(data_dir)));
        }
        Ok(())
    }

    /// Runs a script as tools do: if it does not find the probe, another directory is mounted.
    fn check_workspace(
        &self,
        data_dir: &Path,
        probe: &str,
        container: Option<&Value>,
    ) -> Result<()> {
        let workspace = self.workspace(data_dir);
        let path = format!("{workspace}/{probe}");
        let mark = crate::base::random::random_word()?;
        let command = self.command(&[PROBE], &mark, &[&path]);
        let result = check_run(command, Some(mark))?;
        let text = String::from_utf8_lossy(&result.output.tail);
        match result.end {
            ExecEnd::Exited(0) if text == probe => Ok(()),
            ExecEnd::Exited(NO_RIGHTS) => Err(Error::failed(format!(
                "tools run as {}, who can't read and write {workspace}; next: make the container \
                 with {}, which lets tools run as root in it, or give that user the directory \
                 with chown",
                text::one_line(&text, MESSAGE_CHARS_MAX),
                self.script("create"),
            ))),
            ExecEnd::Exited(NOT_THERE | 0) => Err(self.other_directory(data_dir, container)),
            _ => Err(self.unusable(&text, Some(data_dir))),
        }
    }

    /// The error when the container runs with another directory. Its hint must not remove anything.
    fn other_directory(&self, data_dir: &Path, container: Option<&Value>) -> Error {
        let wanted = data_dir.display();
        let Sandbox::Container { engine, name } = self else {
            return Error::failed(format!("tools do not find {wanted}"));
        };
        let source = container.and_then(mounted);
        let another = format!(
            "make another container for this one: MOM_CONTAINER=NEW_NAME {} create {}",
            script_program(),
            quote(data_dir)
        );
        let (has, next) = match source {
            _ if *engine == Engine::Kubectl => (
                "another directory, or none",
                "mount the volume that holds it there, in the pod's description".to_owned(),
            ),
            Some(source) if Path::new(source) == data_dir => {
                ("one that was there before under this name", self.restart())
            }
            Some(source) => {
                let program = engine.program();
                let named = quote(Path::new(source));
                let call = format!("mom --sandbox={program}:{name} {named}");
                (source, format!("name that one: {call}; or {another}"))
            }
            None => ("nothing", another),
        };
        let has = text::one_line(has, MESSAGE_CHARS_MAX);
        Error::failed(format!(
            "container '{name}' does not have {wanted} as its {WORKSPACE}, but {has}; next: {next}"
        ))
    }

    /// Whether root in the container is an ordinary user of this machine. `None`: the engine does
    /// not say, or there is none.
    pub(crate) fn is_rootless(&self) -> Option<bool> {
        let Sandbox::Container { engine, .. } = self else {
            return None;
        };
        let format = match engine {
            Engine::Docker => "{{json .SecurityOptions}}",
            Engine::Podman => "{{.Host.Security.Rootless}}",
            Engine::Kubectl => return None,
        };
        let mut command = client(*engine);
        command.args(["info", "--format", format]);
        let result = check_run(command, None).ok()?;
        let text = String::from_utf8_lossy(&result.output.tail);
        let words = ["name=rootless", "name=userns", "true"];
        (result.end == ExecEnd::Exited(0)).then(|| words.iter().any(|word| text.contains(word)))
    }

    /// The text for the model about a call that ended in the middle, with this exit code of its
    /// shell or client, after it had `printed` this.
    pub(crate) fn cut(&self, code: i32, printed: &[u8], stop: &Stop) -> String {
        let from = printed.len().saturating_sub(MESSAGE_CHARS_MAX);
        let last = String::from_utf8_lossy(&printed[from..]);
        let why = if says_fork_failed(&last) {
            "no more processes could be started"
        } else {
            "its shell was killed, or what it ran in was stopped"
        };
        let mut text = format!(
            "The call ran and was cut off before its end ({why}; exit code {code}). What it had \
             done until then stays done."
        );
        if let Sandbox::Container { name, .. } = self {
            let state = self.state_soon(stop);
            text += &format!(" Container '{name}' now: {state}");
        }
        text
    }

    /// The state after a short wait: a call ends before its container has ended, and a container
    /// that is restarted runs again soon.
    fn state_soon(&self, stop: &Stop) -> String {
        for _ in 1..SETTLE_LOOKS {
            // A stop ends the waiting; the state is read once more.
            let stopped = stop.wait(SETTLE_PAUSE).is_err();
            let state = self.state();
            if stopped || state.starts_with("running") {
                return state;
            }
        }
        self.state()
    }

    /// `running since ..`, `exited`, or what to do next.
    fn state(&self) -> String {
        let Sandbox::Container { engine, name } = self else {
            return String::new();
        };
        let mut command = client(*engine);
        match engine {
            Engine::Docker | Engine::Podman => {
                let format = "--format={{.State.Status}} since {{.State.StartedAt}}";
                command.args(["inspect", "--type=container", format, name]);
            }
            Engine::Kubectl => {
                let pod = name.split('/').next().unwrap_or_default();
                command.args(["get", "pod", pod, "--output=jsonpath={.status.phase}"]);
            }
        }
        let result = match check_run(command, None) {
            Ok(result) => result,
            Err(err) => return err.to_string(),
        };
        let text = String::from_utf8_lossy(&result.output.tail);
        if result.end != ExecEnd::Exited(0) {
            return self.unusable(&text, None).to_string();
        }
        let text = text::one_line(&text, MESSAGE_CHARS_MAX);
        match text.split_once(" since ") {
            Some((state, _)) if !state.ends_with("running") => {
                let next = match state {
                    "removing" => "create DATA_DIR",
                    _ => "start",
                };
                format!("{state}; next: {}", self.script(next))
            }
            _ => text,
        }
    }

    /// The error, with its fix, for a failure of the engine's client that printed `text`.
    pub(crate) fn unusable(&self, text: &str, data_dir: Option<&Path>) -> Error {
        let shown = text::one_line(text, MESSAGE_CHARS_MAX);
        let Sandbox::Container { engine, name } = self else {
            return Error::failed(format!("the shell did not start: {shown}"));
        };
        let text = text.to_ascii_lowercase();
        let has = |what: &str| text.contains(what);
        let program = engine.program();
        let next = if has("no such container") || has("no such object") {
            let data_dir = data_dir.map_or(String::from("DATA_DIR"), quote);
            self.script("create ") + &data_dir
        } else if has("(notfound)") || has("is not valid for pod") {
            String::from("kubectl get pods shows which there are")
        } else if has("executable file not found") || has("\"sh\"") || has("`sh`") {
            format!(
                "its image has no shell (sh), which tools need: make one of another image, \
                 MOM_IMAGE=alpine:latest {} create DATA_DIR",
                script_program()
            )
        } else if has("not running") || has("paused") || has("container state improper") {
            self.script("start")
        } else if says_fork_failed(&text) {
            // The container is full of processes that something has left behind.
            self.restart()
        } else if has("container breakout") {
            // So runc reports a data directory that was removed and made anew.
            self.restart()
        } else if has("permission denied") && has("sock") {
            format!("sudo usermod -aG {program} $USER, then log in again")
        } else if has("connect") && *engine == Engine::Kubectl {
            String::from("kubectl cluster-info must answer for mom's user")
        } else if has("connect") {
            format!("start the engine (systemctl start {program})")
        } else {
            self.script("status")
        };
        Error::failed(format!(
            "cannot use container '{name}': {shown}; next: {next}"
        ))
    }

    fn restart(&self) -> String {
        format!("{} && {}", self.script("stop"), self.script("start"))
    }

    /// The shell command `./docker.sh COMMAND` for this container.
    fn script(&self, command: &str) -> String {
        let program = script_program();
        let Sandbox::Container { engine, name } = self else {
            return format!("{program} {command}");
        };
        let engine = match engine {
            Engine::Kubectl => return "kubectl get pods shows what they do".to_owned(),
            Engine::Podman => "MOM_ENGINE=podman ",
            Engine::Docker => "",
        };
        let name = match name.as_str() {
            "mom-sandbox" => String::new(),
            name => format!("MOM_CONTAINER={name} "),
        };
        format!("{engine}{name}{program} {command}")
    }
}

/// The directory that the container has as its workspace, from the engine's description of it.
fn mounted(container: &Value) -> Option<&str> {
    let mut mounts = container["Mounts"].as_array()?.iter();
    let mount = mounts.find(|mount| mount["Destination"] == WORKSPACE)?;
    mount["Source"].as_str()
}

/// How docker.sh is called on this system: as mom-sandbox where it is installed, by its path where
/// mom runs from the checkout that it was built in.
pub(crate) fn script_program() -> String {
    match (env::current_exe(), env::current_dir()) {
        (Ok(exe), Ok(current)) => script_for(&exe, &current),
        _ => INSTALLED_SCRIPT.to_owned(),
    }
}

fn script_for(exe: &Path, current: &Path) -> String {
    let runs = |path: &Path| access(path, Access::EXEC_OK).is_ok();
    if runs(&exe.with_file_name(INSTALLED_SCRIPT)) {
        return INSTALLED_SCRIPT.to_owned();
    }
    let mut above = exe.ancestors().skip(1);
    let checkout = above.find(|dir| access(dir.join("Cargo.toml"), Access::EXISTS).is_ok());
    match checkout.map(|dir| (dir, dir.join("docker.sh"))) {
        Some((dir, script)) if runs(&script) && dir == current => "./docker.sh".to_owned(),
        Some((_, script)) if runs(&script) => quote(&script),
        _ => INSTALLED_SCRIPT.to_owned(),
    }
}

/// The first JSON object that starts a line in what a client printed: warnings, which may hold
/// braces, may precede it, and podman puts it in an array.
fn first_object(text: &str) -> Option<Value> {
    let mut rest = text;
    loop {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match values.next() {
            Some(Ok(Value::Array(items))) if items.iter().any(Value::is_object) => {
                return items.into_iter().find(Value::is_object);
            }
            Some(Ok(value)) if value.is_object() => return Some(value),
            _ => rest = rest.split_once('\n')?.1,
        }
    }
}

fn says_fork_failed(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("fork") || text.contains("resource temporarily unavailable")
}

fn check_run(command: Command, mark: Option<String>) -> Result<ExecResult> {
    let program = command.get_program().to_string_lossy().into_owned();
    let exec = Exec {
        command,
        mark,
        timeout: Some(CHECK_MAX),
        keep_bytes: CHECK_BYTES_MAX,
        spill: None,
        answer: None,
    };
    let result = process::run(exec, &Stop::new()).map_err(|err| {
        let script = script_program();
        Error::failed(format!(
            "{err}; next: install {program}, or see {script} --help"
        ))
    })?;
    if result.end == ExecEnd::TimedOut {
        return Err(Error::failed(format!(
            "{program} gave no answer within {} s; next: look at the engine (systemctl status docker)",
            CHECK_MAX.as_secs()
        )));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_script_is_called_so_that_it_is_found() {
        let root = env::temp_dir().join(format!("mom-script-{}", std::process::id()));
        for name in [
            "my source/docker.sh",
            "my source/Cargo.toml",
            "bin/mom-sandbox",
        ] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let (source, path) = (root.join("my source"), root.display());
        for (exe, current, want) in [
            (
                "my source/target/release/mom",
                &*source,
                "./docker.sh".to_owned(),
            ),
            (
                "my source/target/release/mom",
                &root,
                format!("'{path}/my source/docker.sh'"),
            ),
            ("bin/mom", &root, "mom-sandbox".to_owned()),
            ("bin/mom", &source, "mom-sandbox".to_owned()),
            ("elsewhere/mom", &source, "mom-sandbox".to_owned()),
        ] {
            assert_eq!(script_for(&root.join(exe), current), want, "{exe}");
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn what_mends_a_failure() {
        let named = |text| Sandbox::parse(text).unwrap();
        let dir = Path::new("/my data");
        let inspected = "WARN[0000] x\n[WARN] y\n[\n {\"a\": 1\n }\n]\n";
        let want = serde_json::json!({"a": 1});
        assert_eq!(first_object(inspected), Some(want.clone()));
        let warned = "WARNING: config.json - invalid character '{' looking for {}\n{\"a\": 1}\n";
        assert_eq!(first_object(warned), Some(want));
        assert_eq!(first_object("[x"), None);
        let table = "
            docker:mom-sandbox | Error: No such container: mom-sandbox | next: ./docker.sh create '/my data'
            docker:x1 | Container 0a is not running | next: MOM_CONTAINER=x1 ./docker.sh start
            podman:x1 | it is paused | next: MOM_ENGINE=podman MOM_CONTAINER=x1 ./docker.sh start
            docker:x1 | Cannot connect to the Docker daemon at unix:///x | systemctl start docker
            docker:x1 | permission denied while trying to connect to the Docker daemon socket | usermod
            docker:mom-sandbox | sh: can't fork: Resource temporarily unavailable | stop && ./docker.sh start
            docker:x1 | OCI runtime exec failed: exec failed: unable to start container process: current working directory is outside of container mount namespace root -- possible container breakout detected: unknown | next: MOM_CONTAINER=x1 ./docker.sh stop && MOM_CONTAINER=x1 ./docker.sh start
            docker:mom-sandbox | exec: \"sh\": executable file not found in $PATH | its image has no shell
            kubectl:pod/c1 | Error from server (NotFound): pods \"pod\" not found | next: kubectl get pods
            docker:mom-sandbox | strange | next: ./docker.sh status";
        for row in table.trim().lines() {
            let columns: Vec<&str> = row.split('|').map(str::trim).collect();
            let [sandbox, says, want] = columns[..] else {
                panic!("{row}")
            };
            let error = named(sandbox).unusable(says, Some(dir)).to_string();
            let want = want.replace("./docker.sh", &script_program());
            assert!(error.contains(&want), "{error}");
        }
        let flood = "x".repeat(1 << 20);
        let error = named("docker:x1").unusable(&flood, None).to_string();
        assert!(error.len() < 1000, "{}", error.len());
    }
}

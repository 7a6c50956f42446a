//! Where tools run: on this host, in a container of docker or podman, or in a pod. Makes the
//! one `Command` of a tool call. Leaves running it to `process`, and whether the sandbox can
//! be used to `check`.
//!
//! A script runs as `sh -c SCRIPT sh MARK ARGS..`, directly or behind `docker exec -i NAME`.
//! No value from outside becomes script text.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::base::error::{Error, Result};
use crate::host::scripts::PROLOGUE;

/// Where the data directory is mounted in a container.
pub(crate) const WORKSPACE: &str = "/workspace";

/// Variables of mom's environment that a host tool gets. It lists what is harmless, not what is
/// secret: a token in a variable unknown to us must not get through.
const HOST_VARIABLES: &str =
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_ALL LC_CTYPE TZ TMPDIR XDG_RUNTIME_DIR";
/// A host tool gets these, too, without user and password.
const PROXY_VARIABLES: &str = "http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY";
/// What a client needs to find its engine (SSH_AUTH_SOCK: DOCKER_HOST=ssh://..). Nothing of
/// it gets into the container.
const CLIENT_VARIABLES: &str = "PATH HOME USER TMPDIR XDG_RUNTIME_DIR SSH_AUTH_SOCK";

/// An engine, whose client program runs a tool in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Docker,
    Podman,
    Kubectl,
}

impl Engine {
    const ALL: [Engine; 3] = [Engine::Docker, Engine::Podman, Engine::Kubectl];

    pub(crate) fn program(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
            Engine::Kubectl => "kubectl",
        }
    }

    /// How the client's own variables begin.
    fn prefix(self) -> &'static str {
        match self {
            Engine::Docker => "DOCKER_",
            Engine::Podman => "CONTAINER",
            Engine::Kubectl => "KUBE",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    Host,
    Container {
        engine: Engine,
        /// For kubectl: `POD` or `POD/CONTAINER`.
        name: String,
    },
}

impl Sandbox {
    /// `host`, `docker:NAME`, `podman:NAME` or `kubectl:POD[/CONTAINER]`; everything else is
    /// a usage error.
    pub(crate) fn parse(text: &str) -> Result<Sandbox> {
        if text == "host" {
            return Ok(Sandbox::Host);
        }
        let (program, name) = text.split_once(':').unwrap_or((text, ""));
        let engine = Engine::ALL
            .into_iter()
            .find(|engine| engine.program() == program);
        let Some(engine) = engine else {
            return Err(Error::Usage(format!(
                "--sandbox={text} is none of host, docker:NAME, podman:NAME, \
                 kubectl:POD[/CONTAINER]"
            )));
        };
        let (fits, kind, example, rule) = match engine {
            Engine::Docker | Engine::Podman => (
                is_container_name(name),
                "container",
                "mom-sandbox",
                "letters, digits, '_', '.', '-', at least two",
            ),
            Engine::Kubectl => (
                name.splitn(2, '/').all(is_pod_name),
                "pod",
                "POD or kubectl:POD/CONTAINER",
                "lower-case letters, digits, '.', '-'",
            ),
        };
        if name.is_empty() {
            return Err(Error::Usage(format!(
                "--sandbox={program} needs the {kind}'s name: --sandbox={program}:{example}"
            )));
        }
        if !fits {
            return Err(Error::Usage(format!(
                "--sandbox={text}: no {kind} can have this name: {rule}, the first a letter or digit"
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

    /// The command for one run of `script` (its parts are joined), `$1` = `mark`, `$2`.. = `args`.
    /// It starts in mom's own working directory, or in the container's.
    pub(crate) fn command(&self, script: &[&str], mark: &str, args: &[&str]) -> Command {
        let mut command = match self {
            Sandbox::Host => {
                let mut command = Command::new("/bin/sh");
                command
                    .env_clear()
                    .envs(variables(|name| is_listed(HOST_VARIABLES, name)))
                    .envs(
                        variables(|name| is_listed(PROXY_VARIABLES, name))
                            .map(|(name, proxy)| (name, without_password(&proxy))),
                    );
                command
            }
            Sandbox::Container { engine, name } => {
                let mut command = client(*engine);
                command.args(["exec", "-i"]);
                match (engine, name.split_once('/')) {
                    (Engine::Kubectl, Some((pod, container))) => {
                        command.args([pod, "-c", container, "--", "sh"]);
                    }
                    (Engine::Kubectl, None) => {
                        command.args([name.as_str(), "--", "sh"]);
                    }
                    (Engine::Docker | Engine::Podman, _) => {
                        command.args([name.as_str(), "sh"]);
                    }
                }
                command
            }
        };
        command
            .args(["-c", &format!("{PROLOGUE}{}", script.concat()), "sh", mark])
            .args(args);
        command
    }
}

/// The engines' own rule. It also keeps a name from being read as an option.
fn is_container_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphanumeric();
    let is_other = |c: char| is_first(c) || matches!(c, '_' | '.' | '-');
    name.starts_with(is_first) && name.chars().all(is_other) && name.len() >= 2
}

/// Kubernetes' rule (RFC 1123).
fn is_pod_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || matches!(c, '.' | '-'))
}

/// The client with only the variables it needs. It is a Go program that copies a stream, which
/// takes less time with one thread: 12.8 instead of 16.4 ms of processor time a call (docker 28,
/// two cores). Of the 60 to 80 ms of an exec the engine takes the rest.
pub(super) fn client(engine: Engine) -> Command {
    let mut command = Command::new(engine.program());
    let wanted =
        |name: &str| is_listed(CLIENT_VARIABLES, name) || name.starts_with(engine.prefix());
    command
        .env_clear()
        .envs(variables(wanted))
        .env("GOMAXPROCS", "1");
    command
}

fn is_listed(list: &str, name: &str) -> bool {
    list.split(' ').any(|listed| listed == name)
}

/// Those of mom's variables that are `wanted`.
fn variables(wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (String, String)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(move |(name, _)| wanted(name))
}

/// `http://user:password@proxy:3128` as `http://proxy:3128`.
fn without_password(proxy: &str) -> String {
    let (scheme, rest) = match proxy.find("://") {
        Some(at) => proxy.split_at(at + 3),
        None => ("", proxy),
    };
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none() {
        for (text, want) in [
            ("docker", "--sandbox=docker:mom-sandbox"),
            ("podman:", "--sandbox=podman:mom-sandbox"),
            ("kubectl", "kubectl:POD/CONTAINER"),
            ("docker:-v", "no container can have this name"),
            ("docker:a", "no container can have this name"),
            ("docker:a b", "no container can have this name"),
            ("docker:ä1", "no container can have this name"),
            ("docker:a/../b", "no container can have this name"),
            ("kubectl:-n", "no pod can have this name"),
            ("kubectl:a/", "no pod can have this name"),
            ("kubectl:a/-c", "no pod can have this name"),
            ("kubectl:a/b/c", "no pod can have this name"),
            ("kubectl:A", "no pod can have this name"),
            ("host:x", "is none of"),
            ("lxc:x", "is none of"),
            ("", "is none of"),
        ] {
            match Sandbox::parse(text) {
                Err(Error::Usage(message)) => assert!(message.contains(want), "{message}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_called() {
        for (sandbox, want) in [
            ("host", "/bin/sh -c"),
            ("podman:a_B.9-", "podman exec -i a_B.9- sh -c"),
            ("kubectl:pod-0", "kubectl exec -i pod-0 -- sh -c"),
            ("kubectl:pod-0/c1", "kubectl exec -i pod-0 -c c1 -- sh -c"),
        ] {
            let command = Sandbox::parse(sandbox)
                .unwrap()
                .command(&["x"], "m", &["y"]);
            let words = command.get_args().map(|word| word.to_string_lossy());
            let words: Vec<_> = [command.get_program().to_string_lossy()]
                .into_iter()
                .chain(words)
                .collect();
            let (start, end) = words.split_at(words.len() - 4);
            assert_eq!(start.join(" "), want);
            assert_eq!(end[1..], ["sh", "m", "y"]);
        }
    }

    #[test]
    fn secrets_stay_here() {
        // cargo sets this variable for tests; here it represents a token.
        assert!(env::var_os("CARGO_PKG_NAME").is_some());
        for sandbox in ["host", "docker:x1", "podman:x1", "kubectl:x1"] {
            let command = Sandbox::parse(sandbox).unwrap().command(&["x"], "m", &[]);
            let names = command
                .get_envs()
                .map(|(name, _)| name.to_string_lossy().into_owned());
            let names: Vec<String> = names.collect();
            assert!(names.contains(&String::from("PATH")), "{names:?}");
            assert!(
                !names.iter().any(|name| name.contains("CARGO")),
                "{names:?}"
            );
        }
        for (proxy, want) in [
            ("http://u:p@h:1/", "http://h:1/"),
            ("u:p@x@h:1", "h:1"),
            ("socks5h://h", "socks5h://h"),
            ("a,b", "a,b"),
        ] {
            assert_eq!(without_password(proxy), want);
        }
    }
}

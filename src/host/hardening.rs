//! How well a container is isolated, judged by its engine's description of it.

use serde_json::Value;

use crate::host::sandbox::WORKSPACE;

/// Whoever can write to one of these controls the machine; some hold the engine's socket.
const SYSTEM_DIRECTORIES: [&str; 13] = [
    "/", "/boot", "/dev", "/etc", "/home", "/lib", "/proc", "/root", "/run", "/sys", "/usr",
    "/var", "/var/run",
];
/// Capabilities that `./docker.sh create` gives: others may let a container out (capabilities(7)).
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

/// The output of `docker inspect` for a container.
struct ContainerFacts<'a>(&'a Value);

impl ContainerFacts<'_> {
    fn host(&self, key: &str) -> &Value {
        &self.0["HostConfig"][key]
    }

    fn mounts(&self) -> &[Value] {
        self.0["Mounts"].as_array().map_or(&[], Vec::as_slice)
    }

    fn mounts_any(&self, what: impl Fn(&str) -> bool) -> bool {
        let sources = self.mounts().iter().map(|mount| &mount["Source"]);
        sources.filter_map(Value::as_str).any(what)
    }

    fn list_any(&self, key: &str, what: impl Fn(&str) -> bool) -> bool {
        let items = self.host(key).as_array().map_or(&[][..], Vec::as_slice);
        items.iter().filter_map(Value::as_str).any(what)
    }

    fn shares_namespace(&self, key: &str) -> bool {
        let mode = self.host(key).as_str().unwrap_or_default();
        mode == "host" || mode.starts_with("container:")
    }

    fn writes_elsewhere(&self) -> bool {
        self.mounts().iter().any(|mount| {
            mount["Type"] == "bind" && mount["RW"] == true && mount["Destination"] != WORKSPACE
        })
    }

    fn keeps_capabilities(&self) -> bool {
        // Podman lists each dropped capability by name.
        let dropped = self.host("CapDrop").as_array();
        !self.list_any("CapDrop", is_all) && dropped.is_none_or(|caps| caps.len() < 3)
    }

    fn has_limit(&self, key: &str) -> bool {
        self.host(key).as_i64().unwrap_or(0) > 0
    }
}

fn is_all(capability: &str) -> bool {
    capability.eq_ignore_ascii_case("ALL") || capability.eq_ignore_ascii_case("CAP_ALL")
}

/// A weakness: its text, and whether a container has it.
type Lack = (&'static str, fn(&ContainerFacts<'_>) -> bool);

const LACKS: [Lack; 14] = [
    (
        "has the engine's socket mounted: it can become root on this machine",
        |c| c.mounts_any(|from| from.ends_with("docker.sock") || from.ends_with("podman.sock")),
    ),
    (
        "has a directory of this machine's system mounted: it can become root there",
        |c| c.mounts_any(|from| SYSTEM_DIRECTORIES.contains(&from)),
    ),
    ("is privileged: it can become root on this machine", |c| {
        c.host("Privileged") == true
    }),
    (
        "shares a namespace with this machine, or another container",
        |c| {
            ["PidMode", "NetworkMode", "IpcMode", "UTSMode"]
                .into_iter()
                .any(|key| c.shares_namespace(key))
        },
    ),
    ("can write to another directory of this machine", |c| {
        c.writes_elsewhere()
    }),
    ("was given devices of this machine", |c| {
        c.host("Devices")
            .as_array()
            .is_some_and(|devices| !devices.is_empty())
    }),
    (
        "was given further capabilities: with some it can become root on this machine",
        |c| {
            c.list_any("CapAdd", |cap| {
                is_all(cap) || !CAPABILITIES.contains(&cap.trim_start_matches("CAP_"))
            })
        },
    ),
    ("has no filter for system calls (unconfined)", |c| {
        c.list_any("SecurityOpt", |opt| opt.ends_with("unconfined"))
    }),
    ("has no --init", |c| c.host("Init") != true),
    ("has no no-new-privileges", |c| {
        !c.list_any("SecurityOpt", |opt| {
            opt.starts_with("no-new-privileges") && !opt.ends_with("false")
        })
    }),
    ("keeps all default capabilities", |c| c.keeps_capabilities()),
    ("has no limit of processes", |c| !c.has_limit("PidsLimit")),
    ("has no limit of memory", |c| !c.has_limit("Memory")),
    ("has no limit of processors", |c| {
        !c.has_limit("NanoCpus") && !c.has_limit("CpuQuota")
    }),
];

/// Texts of the weaknesses that this container has and one made by `./docker.sh create` has not,
/// the worst first. `container` is the engine's JSON of it.
pub(super) fn lacks(container: &Value) -> Vec<&'static str> {
    let facts = ContainerFacts(container);
    let lacks = LACKS.iter().filter(|(_, has)| has(&facts));
    lacks.map(|(what, _)| *what).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}

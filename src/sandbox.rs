//! Where tools run: on this host, or in a container that is mom's own computer.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};

/// Where the data directory is mounted in a container.
pub(crate) const WORKSPACE: &str = "/workspace";

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
        if text == "host" {
            return Ok(Sandbox::Host);
        }
        Err(Error::Usage(format!("--sandbox={text}: unknown")))
    }

    /// The data directory as a tool sees it.
    pub(crate) fn workspace(&self, data_dir: &Path) -> String {
        match self {
            Sandbox::Host => data_dir.display().to_string(),
            Sandbox::Container { .. } => WORKSPACE.to_owned(),
        }
    }

    /// At start: does the sandbox work, and is its /workspace this data directory? `Err`
    /// says which command mends it; `Ok` holds warnings.
    pub(crate) fn check(&self, _data_dir: &Path) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    pub(crate) fn command(&self, _script: &str, _args: &[&str]) -> Command {
        Command::new("sh")
    }
}

//! The real Docker engine: the image the tests run on, containers that go with their test.
//!
//! Without an engine a test says that it is skipped and returns; where CI is set that is a
//! failure.

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Name of the tests' image, made once a test run; `None`: no engine, skip the test.
pub(crate) fn image() -> Option<&'static str> {
    static IMAGE: OnceLock<Option<String>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let engine = docker(&["version"]);
        if !engine.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let made = Command::new(root().join("tests/image.sh")).output();
        let made = made.expect("run tests/image.sh");
        assert!(
            made.status.success(),
            "tests/image.sh: {}",
            text(&made.stderr)
        );
        Some(text(&made.stdout).trim().to_owned())
    });
    if image.is_none() {
        left_out("Docker engine");
    }
    image.as_deref()
}

/// Prints that the test of this thread is skipped, and what is missing ("no NEEDED"): tests/run.sh
/// counts these lines. Where CI is set everything must be there, so it is a failure.
pub(crate) fn left_out(needed: &str) {
    assert!(env::var_os("CI").is_none(), "CI is set, but not: {needed}");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").replace("::", " ");
    // Not eprintln: the harness would hide it.
    let _ = std::io::stderr().write_all(format!("skipped: {test}: {needed}\n").as_bytes());
}

/// A container's name that no other test has; the container, if any, goes when it is dropped.
pub(crate) struct Container {
    pub(crate) name: String,
}

impl Container {
    pub(crate) fn named() -> Container {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Container {
            name: format!("mom-test-{}-{number}", std::process::id()),
        }
    }

    /// A container started with `docker run`, without any of docker.sh's options: `data_dir` is
    /// mounted at /workspace.
    pub(crate) fn by_hand(image: &str, data_dir: &Path) -> Container {
        let container = Container::named();
        let mount = format!("{}:/workspace", data_dir.display());
        let name = container.name.as_str();
        let args = [
            "run",
            "-d",
            "--name",
            name,
            "-v",
            &mount,
            image,
            "tail",
            "-f",
            "/dev/null",
        ];
        docker_ok(&args);
        container
    }

    /// The option that makes mom's tools run in it.
    pub(crate) fn sandbox(&self) -> String {
        format!("--sandbox=docker:{}", self.name)
    }

    /// What `sh -c script` prints in the container, the end trimmed.
    pub(crate) fn sh(&self, script: &str) -> String {
        docker_ok(&["exec", "-i", &self.name, "sh", "-c", script])
    }

    /// A field of `docker inspect`.
    pub(crate) fn inspect(&self, template: &str) -> String {
        docker_ok(&["container", "inspect", "--format", template, &self.name])
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The container may be missing, and the failure of the test is more important than this
        // one.
        let _ = docker(&["rm", "--force", &self.name]);
    }
}

/// Output of a docker command that must succeed, the end trimmed.
pub(crate) fn docker_ok(args: &[&str]) -> String {
    let output = docker(args).expect("run docker");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "docker {args:?}: {err}");
    out.trim_end().to_owned()
}

fn docker(args: &[&str]) -> std::io::Result<Output> {
    Command::new("docker").args(args).output()
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

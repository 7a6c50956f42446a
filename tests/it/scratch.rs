//! A directory for one test, removed when it is dropped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use serde_json::Value;

use crate::watch::Watched;

pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("mom-test-{}-{number}", process::id()));
        fs::create_dir(&path).expect("create a scratch directory");
        Scratch(path)
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The text of a file in it.
    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
    }

    /// Writes a file, with the directories above it.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the directory"))
            .expect("create directories");
        fs::write(path, bytes).expect("write a file");
    }

    /// The lines of a JSONL file in it. A line that mom is just writing may be read in part, so
    /// this waits for the line's end.
    pub(crate) fn jsonl(&self, name: &str) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"));
        let whole = |_: &mut ()| {
            let text = self.read(name);
            (text.is_empty() || text.ends_with('\n')).then_some(text)
        };
        let text = Watched::new(()).poll(whole);
        let text = text.unwrap_or_else(|| panic!("{name} ends within a line"));
        text.lines().map(parse).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What a test left unreadable is left for the system to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

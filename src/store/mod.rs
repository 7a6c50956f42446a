//! The data directory as the rest of mom sees it. Formats are the original's where it has one,
//! so that a directory works with either program.
//!
//! What lives here: log (what was said), ledger (who requested what, and whether it is done),
//! attachments, history (how far each channel's was read), upgrade (directories of earlier
//! versions), dir (the only module that opens files there), lines (files that grow line by line),
//! lock (one mom per directory). What enters: channel ids and texts; paths are made here. What
//! leaves: typed lines. State is in the files; `Store` holds what is needed often.

pub(crate) mod attachments;
pub(crate) mod check;
pub(crate) mod dir;
pub(crate) mod history;
pub(crate) mod ledger;
pub(crate) mod lines;
mod lock;
pub(crate) mod log;
mod upgrade;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::base::error::{Error, Result};
use crate::store::dir::{Dir, Kind};
use crate::store::ledger::Ledger;
use crate::store::log::KnownMessages;

pub(crate) use self::history::MISSED_MS;
pub(crate) use self::log::{Attachment, LogEntry, Now, Seen, clean_text, log_path};

/// Entries of the data directory that are read at most.
const ENTRIES_MAX: usize = 100_000;

pub(crate) struct Store {
    dir: Arc<Dir>,
    path: PathBuf,
    pub(crate) ledger: Ledger,
    known: Mutex<KnownMessages>,
}

impl Store {
    /// # Errors
    /// Fails also when another mom uses this directory.
    pub(crate) fn open(path: &Path) -> Result<Store> {
        let path = std::path::absolute(path).map_err(|err| Error::io("open", path, &err))?;
        Dir::make_root(&path)?;
        let dir = Arc::new(Dir::open(&path)?);
        dir.lock()?;
        Ok(Store {
            path,
            ledger: Ledger::new(dir.clone()),
            dir,
            known: Mutex::default(),
        })
    }

    pub(crate) fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// The absolute path of the data directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Stores what the model is about to be sent, for whoever debugs a prompt.
    pub(crate) fn last_prompt(&self, channel: &str, json: &[String]) -> Result<()> {
        self.make_channel(channel)?;
        let path = format!("{channel}/last_prompt.jsonl");
        self.dir.replace_unsynced(&path, json)
    }

    pub(crate) fn channels(&self) -> Result<Vec<String>> {
        channels(&self.dir)
    }

    /// Creates the channel's directory when it is missing.
    pub(crate) fn make_channel(&self, channel: &str) -> Result<()> {
        make_channel(&self.dir, channel)
    }
}

fn make_channel(dir: &Dir, channel: &str) -> Result<()> {
    if !is_conversation(channel) {
        return Err(Error::failed(format!("{channel:?} is no conversation id")));
    }
    dir.make_dir(channel)
}

/// Directories named like a conversation, sorted.
pub(crate) fn channels(dir: &Dir) -> Result<Vec<String>> {
    let entries = dir.list(".", ENTRIES_MAX)?.unwrap_or_default();
    let entries = entries.into_iter();
    let channels = entries.filter(|e| e.kind == Kind::Dir && is_conversation(&e.name));
    Ok(channels.map(|entry| entry.name).collect())
}

/// Conversation ids become directory names, so nothing else passes: Slack's `C..`, `D..`,
/// `G..` of capital letters and digits, and the terminal's own.
pub(crate) fn is_conversation(id: &str) -> bool {
    let rest = id.strip_prefix(['C', 'D', 'G']).unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    id == "TERMINAL" || (1..=30).contains(&rest.len()) && rest.bytes().all(plain)
}

pub(crate) fn context_path(channel: &str) -> String {
    format!("{channel}/context.jsonl")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mutate::survive;
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A directory of its own for a test, gone with it.
    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new(name: &str) -> Scratch {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("mom-{name}-{}-{next}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::remove_dir_all(&path).ok();
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        pub(crate) fn store(&self) -> Arc<Store> {
            Arc::new(Store::open(&self.0).unwrap())
        }

        pub(crate) fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap()
        }

        pub(crate) fn read_lossy(&self, name: &str) -> String {
            String::from_utf8_lossy(&fs::read(self.0.join(name)).unwrap()).into_owned()
        }

        pub(crate) fn write(&self, name: &str, text: &str) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    pub(crate) fn entry(ts: &str, text: &str) -> LogEntry {
        LogEntry {
            ts: ts.to_owned(),
            user: "U07AAAA1".to_owned(),
            user_name: Some("lena".to_owned()),
            display_name: Some("Lena Berg".to_owned()),
            text: text.to_owned(),
            ..LogEntry::default()
        }
    }

    pub(crate) fn asked(ts: &str, text: &str) -> LogEntry {
        LogEntry {
            mention: true,
            ..entry(ts, text)
        }
    }

    pub(crate) fn log(store: &Store, entries: &[LogEntry]) {
        let entries: Vec<_> = entries
            .iter()
            .map(|e| ("C1".to_owned(), e.clone()))
            .collect();
        store.log(&entries).unwrap();
    }

    /// A log of "one" and "two": its text, and where the second line begins.
    pub(crate) fn two_lines(scratch: &Scratch, store: &Store) -> (String, usize) {
        log(store, &[entry("1.000001", "one"), entry("2.000001", "two")]);
        let whole = scratch.read("C1/log.jsonl");
        let last = whole.trim_end().rfind('\n').unwrap() + 1;
        (whole, last)
    }

    /// The agent can spoil a channel's log; messages of other channels must still be logged.
    #[test]
    fn a_spoiled_channel_spoils_no_other() {
        let scratch = Scratch::new("store-spoiled");
        let store = scratch.store();
        fs::create_dir_all(scratch.0.join("C2/log.jsonl")).unwrap();
        scratch.write("C3", "no directory");
        std::os::unix::fs::symlink("/tmp", scratch.0.join("C4")).unwrap();
        let batch: Vec<_> = ["C2", "C1", "C3", "C4", "C1"]
            .map(|channel| (channel.to_owned(), entry("1.000001", "one")))
            .into();
        let failed = store.log_batch(&batch, &[], &[]);
        let mut channels: Vec<&str> = failed.iter().map(|(channel, _)| &**channel).collect();
        channels.sort_unstable();
        // The directory in place of C2's log is set aside.
        assert_eq!(channels, ["C3", "C4"], "{failed:?}");
        assert_eq!(scratch.read("C2/log.jsonl").lines().count(), 1);
        assert_eq!(scratch.read("C1/log.jsonl").lines().count(), 2);
        assert_eq!(
            store.seen("C1", "1.000001", Now::default()),
            Ok(Seen::Known)
        );
        assert!(store.log(&batch).is_err());
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"date":"2026-01-05T09:12:44.120Z","ts":"1767604364.120019","user":"U07AAAA1","userName":"lena","displayName":"Lena Berg","text":"é \ud83d\ude00 <@U2>","attachments":[{"original":"a.txt","local":"C1/attachments/1_a.txt"}],"isBot":false,"threadTs":"1.5","mention":true}"#,
            r#"{"date":"9999-12-31T23:59:59.999+25:59","ts":"1767604364120","user":"bot","text":"","attachments":[],"isBot":true}"#,
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let cleaned = clean_text(&text);
            assert!(cleaned.len() <= text.len());
            assert!(!is_conversation(&text) || !text.contains(['/', '.']));
            let names = Store::attachments("C1", &text, &[&text, &text, "a"]);
            let mut locals: Vec<&str> = names.iter().map(|name| name.local.as_str()).collect();
            for local in &locals {
                let name = local.strip_prefix("C1/attachments/").unwrap();
                assert!(
                    !name.starts_with('.') && !name.contains(['/', '\0']),
                    "{name}"
                );
                assert!(name.len() <= 240, "{name}");
            }
            locals.dedup();
            assert_eq!(locals.len(), 3);
            let Some(entry) = LogEntry::parse(input) else {
                return;
            };
            let date_ms = Some(entry.date_ms());
            let entry = LogEntry { date_ms, ..entry };
            let line = entry.line();
            assert_eq!(line.matches(['\n', '\r']).count(), 1);
            let read = LogEntry::parse(line.trim_end().as_bytes()).unwrap();
            // A time outside the calendar becomes 1970.
            let date_ms = read.date_ms;
            assert_eq!(read, LogEntry { date_ms, ..entry });
        });
    }
}

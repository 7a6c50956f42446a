//! Downloads of attachments, in parallel with everything else: one thread, one file after the
//! other, streamed to disk. Runs that need a file wait for it here.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::Stop;
use crate::base::text;
use crate::store::Store;

use super::message::first;
use super::web::{Downloaded, Web};

/// Bytes of one attachment.
const FILE_BYTES_MAX: u64 = 100 * 1024 * 1024;
/// Downloads in the queue; further ones are refused, with a sentence for the model.
const WAITING_MAX: usize = 256;
/// Results that are remembered for waiting runs.
const KEPT_MAX: usize = 1_000;
const TRIES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Modes and types of files whose content Slack gives as HTML.
const DOCUMENTS: [&str; 6] = ["quip", "canvas", "docs", "post", "space", "email"];
/// How often a waiting run looks at its stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A file that people shared.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SlackFile {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Bytes; 0 when Slack does not say.
    pub(crate) size: u64,
    /// Empty if only files.info returns it (Slack Connect).
    pub(crate) url: String,
    /// A canvas, post, list or e-mail, or a web page: its content is HTML.
    pub(crate) is_html: bool,
}

impl SlackFile {
    /// # Errors
    /// The file can't be fetched; the error is the text that people see in its place.
    pub(crate) fn parse(file: &Value) -> std::result::Result<SlackFile, String> {
        let text = |key: &str| file[key].as_str().unwrap_or_default();
        let (mode, filetype, mimetype) = (text("mode"), text("filetype"), text("mimetype"));
        let is_list = mode == "list" || filetype == "list";
        let url = match is_list {
            true => text("list_csv_download_url"),
            false => first(file, &["url_private_download", "url_private"]),
        };
        let mut name = first(file, &["name", "title", "id"]).to_owned();
        if let Some(why) = not_fetched(file, &name, url) {
            return Err(why);
        }
        let is_document = DOCUMENTS.contains(&mode)
            || DOCUMENTS.contains(&filetype)
            || mimetype == "application/vnd.slack-docs";
        if is_list {
            name.push_str(".csv");
        } else if is_document && !name.contains('.') {
            name.push_str(".html");
        }
        Ok(SlackFile {
            id: text("id").to_owned(),
            name,
            size: file["size"].as_u64().unwrap_or(0),
            url: url.to_owned(),
            is_html: is_document || mimetype.starts_with("text/html"),
        })
    }

    /// The whole transcript of a clip, in WebVTT.
    pub(crate) fn transcript(file: &Value, url: &str) -> SlackFile {
        let text = |key: &str| file[key].as_str().unwrap_or_default();
        SlackFile {
            id: text("id").to_owned(),
            name: format!("{}.vtt", text("name")),
            url: url.to_owned(),
            ..SlackFile::default()
        }
    }
}

/// Why a file can't be fetched.
fn not_fetched(file: &Value, name: &str, url: &str) -> Option<String> {
    let text = |key: &str| file[key].as_str().unwrap_or_default();
    let name = text::escape(name);
    let link = first(file, &["external_url", "url_private", "permalink"]);
    let (mode, access) = (text("mode"), text("file_access"));
    let is_stub = mode == "file_access" || access == "check_file_info";
    let shown = match link {
        "" => name.clone(),
        link => format!("<{link}|{name}>"),
    };
    Some(match (mode, access) {
        ("tombstone", _) => "a file that was deleted".to_owned(),
        ("hidden_by_limit", _) => {
            "a file that Slack hides: it is beyond the limit of the workspace's plan".to_owned()
        }
        (_, "access_denied" | "file_not_found") => {
            format!("the file {name}, which Slack does not give out")
        }
        _ if mode == "external" || file["is_external"] == true => {
            format!("a file outside Slack: {shown}")
        }
        _ if url.is_empty() && !is_stub || text("id").is_empty() => {
            let what = if mode == "list" { mode } else { "file" };
            format!("a {what} that can't be fetched: {shown}")
        }
        _ => return None,
    })
}

pub(crate) struct Download {
    pub(crate) file: SlackFile,
    /// Path to write to, relative to the data directory.
    pub(crate) local: String,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Files(Arc<FilesInner>);

struct FilesInner {
    /// Boxed, because the channel reserves memory for the whole queue.
    queue: SyncSender<Box<Download>>,
    state: Mutex<HashMap<String, FileState>>,
    changed: Condvar,
}

enum FileState {
    Waiting,
    Here,
    Failed(String),
}

impl Files {
    pub(crate) fn new() -> (Files, Receiver<Box<Download>>) {
        let (queue, downloads) = sync_channel(WAITING_MAX);
        let inner = FilesInner {
            queue,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        (Files(Arc::new(inner)), downloads)
    }

    /// The file is not on disk, and nobody has asked for it since the start.
    pub(crate) fn is_absent(&self, local: &str, store: &Store) -> bool {
        let asked = self.0.state.lock().unwrap().contains_key(local);
        !asked && matches!(store.dir().stamp(local), Ok(None))
    }

    /// Records that the file will not be downloaded.
    pub(crate) fn give_up(&self, local: &str, why: &str) {
        self.set(local, FileState::Failed(why.to_owned()));
    }

    /// Never waits.
    pub(crate) fn fetch(&self, download: Download) {
        let local = download.local.clone();
        self.set(&local, FileState::Waiting);
        if self.0.queue.try_send(Box::new(download)).is_err() {
            self.give_up(&local, "too many files at once");
        }
    }

    /// Waits until the files are on disk or have failed; returns a sentence for each failure. A
    /// file that is not in the queue (from an earlier start) counts as on disk.
    pub(crate) fn wait(&self, locals: &[String], stop: &Stop) -> Result<Vec<String>> {
        let mut failed = Vec::new();
        let mut state = self.0.state.lock().unwrap();
        for local in locals {
            while let Some(FileState::Waiting) = state.get(local) {
                stop.check()?;
                state = self.0.changed.wait_timeout(state, LOOK_EVERY).unwrap().0;
            }
            if let Some(FileState::Failed(why)) = state.get(local) {
                failed.push(format!("The file {local} could not be fetched: {why}"));
            }
        }
        Ok(failed)
    }

    /// The body of the thread: runs until the stop, or until nobody can add downloads.
    pub(crate) fn work(
        &self,
        downloads: &Receiver<Box<Download>>,
        web: &Web,
        store: &Store,
        stop: &Stop,
    ) {
        for download in downloads {
            if stop.is_set() {
                return;
            }
            let state = match fetch(&download, web, store, stop) {
                Ok(()) => FileState::Here,
                Err(err) => {
                    log::warning!("", "cannot fetch {}: {err}", download.local);
                    FileState::Failed(err.to_string())
                }
            };
            self.set(&download.local, state);
        }
    }

    fn set(&self, local: &str, to: FileState) {
        let mut state = self.0.state.lock().unwrap();
        if state.len() >= KEPT_MAX {
            state.retain(|_, state| matches!(state, FileState::Waiting));
        }
        state.insert(local.to_owned(), to);
        self.0.changed.notify_all();
    }
}

fn fetch(download: &Download, web: &Web, store: &Store, stop: &Stop) -> Result<()> {
    let Download { file, local } = download;
    let mut backoff = Backoff::new(PAUSE, PAUSE * TRIES_MAX);
    loop {
        match fetch_once(file, local, web, store) {
            Err(Error::Retry { after, why, .. }) if backoff.failures() + 1 < TRIES_MAX => {
                log::debug!("", "{local}: {why}; trying again");
                backoff.wait(stop, after)?;
            }
            outcome => return outcome,
        }
    }
}

fn fetch_once(file: &SlackFile, local: &str, web: &Web, store: &Store) -> Result<()> {
    let looked_up = match file.url.is_empty() {
        true => Some(SlackFile::parse(&web.files_info(&file.id)?).map_err(Error::failed)?),
        false => None,
    };
    let file = looked_up.as_ref().unwrap_or(file);
    if file.url.is_empty() {
        return Err(Error::failed("Slack refuses to give the file"));
    }
    if file.size > FILE_BYTES_MAX {
        return Err(Error::failed("it is larger than 100 MB"));
    }
    let mut sink = store.create_attachment(local)?;
    let fetched = web.download(&file.url, FILE_BYTES_MAX, &mut sink);
    let fetched = fetched.and_then(|fetched| match is_login_page(file, &fetched) {
        true => Err(Error::failed(
            "Slack sent its login page in place of the file (the scope files:read is missing, or \
             the file was not shared with mom)",
        )),
        false => Ok(()),
    });
    match fetched {
        Ok(()) => store.finish_attachment(local),
        Err(err) => {
            // Half a file is worse than none.
            store.drop_attachment(local)?;
            Err(err)
        }
    }
}

/// Slack answers with its login page and status 200 if it refuses a file.
fn is_login_page(file: &SlackFile, fetched: &Downloaded) -> bool {
    if !fetched.is_html || file.size > 0 && fetched.bytes == file.size {
        return false;
    }
    let head = String::from_utf8_lossy(&fetched.head).to_lowercase();
    let title = head.split_once("<title").map_or("", |(_, rest)| rest);
    let title = title.split("</title").next().unwrap_or_default();
    let names_login = ["sign in", "log in", "login"]
        .iter()
        .any(|word| title.contains(word));
    !file.is_html || names_login && title.contains("slack")
}

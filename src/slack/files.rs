//! Attachments come down beside everything else: one thread, one after the other, streamed
//! to disk. Whoever needs a file waits for it here.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::Stop;
use crate::store::Store;

use super::inbound::SlackFile;
use super::web::Web;

/// Bytes of one attachment (PRODUCT.md, section 6).
const FILE_BYTES_MAX: u64 = 100 * 1024 * 1024;
/// Downloads that wait; what comes on top is given up, with a sentence for the model.
const WAITING_MAX: usize = 256;
/// Outcomes remembered for those who ask.
const KEPT_MAX: usize = 1_000;
const TRIES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// How often a waiting run looks at its stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) struct Download {
    pub(crate) file: SlackFile,
    /// Where it goes, relative to the data directory.
    pub(crate) local: String,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Files(Arc<Inner>);

struct Inner {
    /// In boxes: the channel keeps a place for each that may wait.
    queue: SyncSender<Box<Download>>,
    state: Mutex<HashMap<String, State>>,
    changed: Condvar,
}

#[derive(Clone)]
enum State {
    Waiting,
    Here,
    Failed(String),
}

impl Files {
    pub(crate) fn new() -> (Files, Receiver<Box<Download>>) {
        let (queue, downloads) = sync_channel(WAITING_MAX);
        let inner = Inner {
            queue,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        (Files(Arc::new(inner)), downloads)
    }

    /// Nobody was asked for it since the start, and it is not here.
    pub(crate) fn is_absent(&self, local: &str, store: &Store) -> bool {
        let asked = self.0.state.lock().unwrap().contains_key(local);
        !asked && matches!(store.dir().stamp(local), Ok(None))
    }

    /// It will not come.
    pub(crate) fn give_up(&self, local: &str, why: &str) {
        self.set(local, State::Failed(why.to_owned()));
    }

    /// Never waits.
    pub(crate) fn fetch(&self, download: Download) {
        let local = download.local.clone();
        self.set(&local, State::Waiting);
        if self.0.queue.try_send(Box::new(download)).is_err() {
            self.give_up(&local, "too many files at once");
        }
    }

    /// Waits until the files are there or have failed; a sentence for each that failed. A
    /// file nobody fetches (of an earlier start) counts as there.
    pub(crate) fn wait(&self, locals: &[String], stop: &Stop) -> Result<Vec<String>> {
        let mut failed = Vec::new();
        let mut state = self.0.state.lock().unwrap();
        for local in locals {
            while let Some(State::Waiting) = state.get(local) {
                stop.check()?;
                state = self.0.changed.wait_timeout(state, LOOK_EVERY).unwrap().0;
            }
            if let Some(State::Failed(why)) = state.get(local) {
                failed.push(format!("The file {local} could not be fetched: {why}"));
            }
        }
        Ok(failed)
    }

    /// The thread's whole life: until the stop, or until nobody can ask any more.
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
                Ok(()) => State::Here,
                Err(err) => {
                    log::warning!("", "cannot fetch {}: {err}", download.local);
                    State::Failed(err.to_string())
                }
            };
            self.set(&download.local, state);
        }
    }

    fn set(&self, local: &str, to: State) {
        let mut state = self.0.state.lock().unwrap();
        if state.len() >= KEPT_MAX {
            state.retain(|_, state| matches!(state, State::Waiting));
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
    // A stub of a shared channel says nothing but its id.
    let file = match file.url.is_empty() {
        true => &super::inbound::file(&web.files_info(&file.id)?)
            .filter(|file| !file.url.is_empty())
            .ok_or_else(|| Error::failed("Slack does not give the file out"))?,
        false => file,
    };
    if file.external {
        return Err(Error::failed(
            "it is kept outside Slack; open its link instead",
        ));
    }
    if file.size > FILE_BYTES_MAX {
        return Err(Error::failed("it is larger than 100 MB"));
    }
    let mut sink = store.create_attachment(local)?;
    let html_expected = file.mimetype.starts_with("text/html");
    let fetched = web.download(&file.url, html_expected, FILE_BYTES_MAX, &mut sink);
    match fetched {
        Ok(_) => store.finish_attachment(local),
        Err(err) => {
            // Half a file is worse than none.
            store.drop_attachment(local)?;
            Err(err)
        }
    }
}

//! What mom does in Slack beside the runs, in order, on a thread of its own: posts, reactions,
//! answers to commands. And the search for what earlier starts posted.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::base::error::Result;
use crate::base::log;
use crate::slack::earlier::{self, EarlierPosts};
use crate::slack::web::{PostContent, Urgency, Web};

/// Items that wait; further ones are left out.
const WAITING_MAX: usize = 512;

/// `None`: the end. In boxes: the channel keeps a place for each item that may wait.
type Item = Option<Box<dyn FnOnce() -> Result<()> + Send>>;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox {
    web: Arc<Web>,
    items: SyncSender<Item>,
}

impl Outbox {
    pub(super) fn new(web: Arc<Web>) -> (Outbox, Receiver<Item>) {
        let (items, waiting) = sync_channel(WAITING_MAX);
        (Outbox { web, items }, waiting)
    }

    /// mrkdwn.
    pub(super) fn post(&self, channel: &str, thread_ts: Option<&str>, text: impl Into<String>) {
        let (web, content) = (self.web.clone(), PostContent::plain(text));
        let (channel, thread_ts) = (channel.to_owned(), thread_ts.map(str::to_owned));
        self.work(move || post(&web, &channel, thread_ts.as_deref(), &content).map(drop));
    }

    /// `name` of an emoji.
    pub(super) fn react(&self, channel: &str, ts: &str, name: &'static str) {
        let (web, channel, ts) = (self.web.clone(), channel.to_owned(), ts.to_owned());
        self.work(move || Ok(web.reactions_add(&channel, &ts, name)?));
    }

    /// Something that makes its own calls. Never waits: when the outbox is full, Slack is out
    /// of reach.
    pub(super) fn work(&self, work: impl FnOnce() -> Result<()> + Send + 'static) {
        if self.items.try_send(Some(Box::new(work))).is_err() {
            log::debug!("", "the outbox is full: something is not posted");
        }
    }

    /// Lets `run` end after what was added before.
    pub(super) fn end(&self) {
        self.items.send(None).ok();
    }
}

/// The thread's whole life.
pub(super) fn run(items: &Receiver<Item>) {
    for work in items.iter().map_while(|item| item) {
        if let Err(err) = work() {
            log::warning!("", "cannot post beside a run: {err}");
        }
    }
}

/// Posts now, and returns the ts.
pub(super) fn post(
    web: &Web,
    channel: &str,
    thread_ts: Option<&str>,
    content: &PostContent,
) -> Result<String> {
    Ok(web.chat_post_message(channel, thread_ts, content, Urgency::Must)?)
}

/// The messages that an earlier start posted for a run or a command; none where Slack never
/// tells.
///
/// # Errors
/// They can't be known now, and so nothing may be posted.
pub(super) fn earlier_posts(
    web: &Web,
    channel: &str,
    thread_ts: Option<&str>,
    run: &str,
) -> Result<EarlierPosts> {
    match earlier::earlier_posts(web, channel, thread_ts, run) {
        Err(failure) if failure.stays() => {
            log::warning!(channel, "cannot look for an earlier answer: {failure}");
            Ok(EarlierPosts::default())
        }
        posts => Ok(posts?),
    }
}

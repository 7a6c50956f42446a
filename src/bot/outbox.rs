//! mom's posts outside of runs, in order, on their own thread: texts, reactions, answers to
//! commands. And the search for what earlier starts posted.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::base::error::Result;
use crate::base::log;
use crate::slack::earlier::{self, EarlierPosts};
use crate::slack::web::{PostContent, Urgency, Web};

/// Items in the queue; further ones are dropped.
const WAITING_MAX: usize = 512;

/// `None`: the end. Boxed, because the channel reserves memory for the whole queue.
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

    /// Posts mrkdwn.
    pub(super) fn post(&self, channel: &str, thread_ts: Option<&str>, text: impl Into<String>) {
        let (web, content) = (self.web.clone(), PostContent::plain(text));
        let (channel, thread_ts) = (channel.to_owned(), thread_ts.map(str::to_owned));
        self.work(move || post(&web, &channel, thread_ts.as_deref(), &content).map(drop));
    }

    pub(super) fn edit(&self, channel: &str, ts: &str, content: PostContent) {
        let (web, channel, ts) = (self.web.clone(), channel.to_owned(), ts.to_owned());
        self.work(move || Ok(web.chat_update(&channel, &ts, &content, Urgency::Must)?));
    }

    /// `name` of an emoji.
    pub(super) fn react(&self, channel: &str, ts: &str, name: &'static str) {
        let (web, channel, ts) = (self.web.clone(), channel.to_owned(), ts.to_owned());
        self.work(move || Ok(web.reactions_add(&channel, &ts, name)?));
    }

    /// Queues work that makes its own calls. Never waits: when the queue is full, Slack can't be
    /// reached anyway.
    pub(super) fn work(&self, work: impl FnOnce() -> Result<()> + Send + 'static) {
        if self.items.try_send(Some(Box::new(work))).is_err() {
            log::debug!("", "the outbox is full: dropped a post or call");
        }
    }

    /// Lets `run` end after what was added before.
    pub(super) fn end(&self) {
        self.items.send(None).ok();
    }
}

/// The body of the thread.
pub(super) fn run(items: &Receiver<Item>) {
    for work in items.iter().map_while(|item| item) {
        if let Err(err) = work() {
            log::warning!("", "a post or call outside of runs failed: {err}");
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

/// The messages that an earlier start posted for a run or a command; none if Slack refuses to list
/// them.
///
/// # Errors
/// Slack can't be asked now, so nothing may be posted: it could be posted twice.
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

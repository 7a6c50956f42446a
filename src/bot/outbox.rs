//! What mom does in Slack beside the runs, in order, on a thread of its own: posts, reactions,
//! answers to commands. And the search for what earlier starts posted.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::base::error::{Error, Result};
use crate::base::log;
use crate::slack::display::{self, Left};
use crate::slack::web::{Content, Urgency, Web};

use super::Services;

/// Items that wait; further ones are left out.
const WAITING_MAX: usize = 512;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox {
    services: Arc<Services>,
    /// In boxes: the channel keeps a place for each that may wait.
    items: SyncSender<Box<Item>>,
}

pub(super) enum Item {
    Post {
        channel: String,
        thread_ts: Option<String>,
        text: String,
    },
    Reaction {
        channel: String,
        ts: String,
        name: &'static str,
    },
    /// Something longer, that makes its own calls.
    Work(Box<dyn FnOnce() -> Result<()> + Send>),
    End,
}

impl Outbox {
    pub(super) fn new(services: Arc<Services>) -> (Outbox, Receiver<Box<Item>>) {
        let (items, waiting) = sync_channel(WAITING_MAX);
        (Outbox { services, items }, waiting)
    }

    /// mrkdwn.
    pub(super) fn post(&self, channel: &str, thread_ts: Option<&str>, text: impl Into<String>) {
        self.add(Item::Post {
            channel: channel.to_owned(),
            thread_ts: thread_ts.map(str::to_owned),
            text: text.into(),
        });
    }

    /// `name` of an emoji.
    pub(super) fn react(&self, channel: &str, ts: &str, name: &'static str) {
        self.add(Item::Reaction {
            channel: channel.to_owned(),
            ts: ts.to_owned(),
            name,
        });
    }

    pub(super) fn work(&self, work: impl FnOnce() -> Result<()> + Send + 'static) {
        self.add(Item::Work(Box::new(work)));
    }

    /// Never waits: when the outbox is full, Slack is out of reach.
    fn add(&self, item: Item) {
        if self.items.try_send(Box::new(item)).is_err() {
            log::debug!("", "the outbox is full: something is not posted");
        }
    }

    /// Lets `run` end after what was added before.
    pub(super) fn end(&self) {
        self.items.send(Box::new(Item::End)).ok();
    }

    /// The thread's whole life.
    pub(super) fn run(&self, items: &Receiver<Box<Item>>) {
        let web = &self.services.web;
        for item in items {
            let done = match *item {
                Item::Post {
                    channel,
                    thread_ts,
                    text,
                } => post(web, &channel, thread_ts.as_deref(), Content::plain(text)).map(drop),
                Item::Reaction { channel, ts, name } => {
                    web.reactions_add(&channel, &ts, name).map_err(Error::from)
                }
                Item::Work(work) => work(),
                Item::End => return,
            };
            if let Err(err) = done {
                log::warning!("", "cannot post beside a run: {err}");
            }
        }
    }
}

/// Posts now, and returns the ts.
pub(super) fn post(
    web: &Web,
    channel: &str,
    thread_ts: Option<&str>,
    content: Content,
) -> Result<String> {
    Ok(web.chat_post_message(channel, thread_ts, &content, Urgency::Must)?)
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
) -> Result<Left> {
    match display::left(web, channel, thread_ts, run) {
        Err(failure) if failure.stays() => {
            log::warning!(channel, "cannot look for an earlier answer: {failure}");
            Ok(Left::default())
        }
        posts => Ok(posts?),
    }
}

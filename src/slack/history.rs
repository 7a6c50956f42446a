//! Reads the messages that came while mom was away from Slack's history, channel by channel, oldest
//! first; and the messages of a thread. The caller decides where to begin and what to do with them.

use std::collections::HashSet;

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::Stop;
use crate::store::history::Gap;

use super::inbound::{self, Inbound, Incoming, Me};
use super::web::{PAGE, Web};
use super::{is_channel_id, is_ts};

/// Messages read per channel; after a longer absence the rest is missing, which is logged.
const MESSAGES_MAX: usize = 3_000;
/// Messages of a thread that are read for a run in the thread.
const THREAD_MAX: usize = 1_000;
/// Threads per channel whose replies are read: the threads with replies since the gap began.
const THREADS_MAX: usize = 300;
/// Threads with older roots in which mom took part; the newest are read.
const OWN_THREADS_MAX: usize = 20;

/// Takes a channel, its messages, and the newest ts.
type Each<'a> = dyn FnMut(&str, Vec<Incoming>, Option<String>) -> Result<()> + 'a;

/// Reads the messages that were written while mom was away.
pub(crate) struct Missed<'a> {
    pub(crate) web: &'a Web,
    pub(crate) me: &'a Me,
    pub(crate) stop: &'a Stop,
    /// Where to begin reading a channel; `None`: it was read already.
    pub(crate) gap: &'a dyn Fn(&str) -> Result<Option<Gap>>,
    /// Roots of the threads mom took part in, newest first.
    pub(crate) own_threads: &'a dyn Fn(&str) -> Vec<String>,
    /// Called after each channel: it could be read, or the reason why not.
    pub(crate) report: &'a dyn Fn(&str, std::result::Result<(), &str>),
}

impl Missed<'_> {
    /// Calls `each` for each channel with the messages since its gap began, and the newest ts.
    ///
    /// # Errors
    /// `Error::Retry`: some channels could not be read, after all others were.
    pub(crate) fn read(&self, each: &mut Each<'_>) -> Result<()> {
        let channels = self.channels();
        self.tell("", &channels);
        let mut later = Ok(());
        for channel in channels? {
            self.stop.check()?;
            let gap = match (self.gap)(&channel) {
                Ok(Some(gap)) => gap,
                Ok(None) => continue,
                Err(err) => {
                    self.tell::<()>(&channel, &Err(err));
                    continue;
                }
            };
            let read = self.channel(&channel, &gap);
            let read = read.and_then(|(messages, until)| each(&channel, messages, until));
            self.tell(&channel, &read);
            match read {
                Ok(()) | Err(Error::Failed(_)) => {}
                Err(err @ Error::Retry { .. }) => later = Err(err),
                Err(err) => return Err(err),
            }
        }
        later
    }

    /// The channels that mom is in.
    fn channels(&self) -> Result<Vec<String>> {
        let mut channels = Vec::new();
        let types = [
            ("types", "public_channel,private_channel,im,mpim"),
            ("exclude_archived", "true"),
            ("limit", PAGE),
        ];
        for page in self.web.pages("users.conversations", &types) {
            self.stop.check()?;
            let page = page?;
            let ids = page.iter().filter_map(|channel| channel["id"].as_str());
            channels.extend(ids.filter(|id| is_channel_id(id)).map(str::to_owned));
        }
        Ok(channels)
    }

    /// Reports the result for a channel; a rate limit is temporary and not reported.
    fn tell<T>(&self, channel: &str, read: &Result<T>) {
        match read {
            Err(Error::Stopped | Error::Retry { after: Some(_), .. }) => {}
            Err(err) => (self.report)(channel, Err(&err.to_string())),
            Ok(_) => (self.report)(channel, Ok(())),
        }
    }

    fn channel(&self, channel: &str, gap: &Gap) -> Result<(Vec<Incoming>, Option<String>)> {
        // The caller leaves out the messages that are logged already.
        let mut messages: Vec<Value> = Vec::new();
        let args = [("channel", channel), ("oldest", gap.ts()), ("limit", PAGE)];
        for page in self.web.pages("conversations.history", &args) {
            self.stop.check()?;
            messages.extend(page?);
            if messages.len() >= MESSAGES_MAX {
                log::warning!(
                    channel,
                    "{MESSAGES_MAX} or more messages were missed; the oldest are not read"
                );
                break;
            }
        }
        self.replies(channel, gap, &mut messages)?;
        messages.sort_unstable_by(|a, b| ts_of(a).cmp(ts_of(b)));
        messages.dedup_by(|a, b| ts_of(a) == ts_of(b));
        self.stop.check()?;
        let answered = match gap {
            Gap::First(_, until) => {
                let mut own = messages
                    .iter()
                    .filter(|m| m["user"] == self.me.user_id.as_str());
                own.rfind(|m| ts_of(m) <= until.as_str()).map_or("", ts_of)
            }
            Gap::Since(_) => "",
        };
        let read = |message| match inbound::message(message, channel, self.me) {
            Inbound::Message(message) => Some(Incoming {
                mention: message.mention && message.ts.as_str() > answered,
                ..message
            }),
            _ => None,
        };
        let until = messages.last().map(|message| ts_of(message).to_owned());
        let until = until.filter(|ts| is_ts(ts));
        Ok((messages.iter().filter_map(read).collect(), until))
    }

    /// Adds the replies written in threads since the gap began; the roots may be older.
    fn replies(&self, channel: &str, gap: &Gap, messages: &mut Vec<Value>) -> Result<()> {
        let newest = gap.ts();
        let older = match gap {
            Gap::Since(ts) => {
                let args = [
                    ("channel", channel),
                    ("latest", ts),
                    ("inclusive", "true"),
                    ("limit", "100"),
                ];
                let page = self.web.pages("conversations.history", &args).next();
                page.transpose()?.unwrap_or_default()
            }
            // mom was not there before.
            Gap::First(..) => Vec::new(),
        };
        let seen = messages.iter().chain(&older);
        let seen: HashSet<String> = seen.map(|m| ts_of(m).to_owned()).collect();
        let mut far = (self.own_threads)(channel);
        far.retain(|root| !seen.contains(root));
        far.truncate(OWN_THREADS_MAX);
        let near = active_threads(channel, newest, messages.iter().chain(&older));
        for root in near.iter().chain(&far) {
            match self.thread_since(channel, root, newest, messages) {
                // The thread may be deleted, and its ts is from the log, which others can write.
                Err(Error::Failed(why)) if far.contains(root) => {
                    log::debug!(channel, "thread {root}: {why}");
                }
                read => read?,
            }
        }
        Ok(())
    }

    fn thread_since(
        &self,
        channel: &str,
        root: &str,
        newest: &str,
        messages: &mut Vec<Value>,
    ) -> Result<()> {
        let args = [
            ("channel", channel),
            ("ts", root),
            ("oldest", newest),
            ("limit", PAGE),
        ];
        for page in self.web.pages("conversations.replies", &args) {
            self.stop.check()?;
            messages.extend(page?.into_iter().filter(|reply| reply["ts"] != root));
            if messages.len() >= 2 * MESSAGES_MAX {
                break;
            }
        }
        Ok(())
    }
}

/// Calls `each` with the pages of a thread, up to the message `before`.
pub(crate) fn thread(
    web: &Web,
    channel: &str,
    root: &str,
    before: &str,
    each: &mut dyn FnMut(Vec<Value>) -> Result<()>,
) -> Result<()> {
    let args = [
        ("channel", channel),
        ("ts", root),
        ("latest", before),
        ("limit", PAGE),
    ];
    let mut count = 0;
    for page in web.pages("conversations.replies", &args) {
        let page = page?;
        count += page.len();
        each(page)?;
        if count >= THREAD_MAX {
            log::warning!(
                channel,
                "the thread has {THREAD_MAX} or more messages; later ones are not read"
            );
            break;
        }
    }
    Ok(())
}

/// Roots of the threads that have replies newer than the gap's start.
fn active_threads<'a>(
    channel: &str,
    newest: &str,
    messages: impl Iterator<Item = &'a Value>,
) -> Vec<String> {
    let root = |message: &Value| {
        message["latest_reply"].as_str().filter(|ts| *ts > newest)?;
        message["ts"].as_str().map(str::to_owned)
    };
    let mut roots: Vec<String> = messages.filter_map(root).collect();
    if roots.len() > THREADS_MAX {
        log::warning!(
            channel,
            "replies in more than {THREADS_MAX} threads were missed; the other threads are not read"
        );
        roots.truncate(THREADS_MAX);
    }
    roots
}

fn ts_of(message: &Value) -> &str {
    message["ts"].as_str().unwrap_or_default()
}

//! What an earlier try of a run has posted, and a post whose outcome is unknown: both are found
//! in Slack by the metadata of mom's messages.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::web::{SlackResult, Web};
use crate::base::time;

/// What its metadata calls the first message of a run, or the answer to a command.
pub(crate) const STATUS: &str = "status";
/// How it begins for a question whose buttons can be pressed; its id follows.
pub(crate) const QUESTION: &str = "question-";

/// Messages of a run, by what its metadata calls them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EarlierPosts {
    pub(crate) status_ts: Option<String>,
    /// The answer's messages by their number, and details.
    pub(super) answer_ts: BTreeMap<usize, String>,
    pub(super) detail_ts: Vec<String>,
    /// Questions that nobody answered.
    pub(crate) question_ts: Vec<String>,
}

impl EarlierPosts {
    pub(crate) fn answer_ts(&self) -> Option<&str> {
        self.answer_ts.get(&0).map(String::as_str)
    }

    /// False: the search goes on.
    fn note(&mut self, message: &Value, run: &str) -> bool {
        let part = part_of(message, run).unwrap_or_default();
        if let (true, Some(ts)) = (part.starts_with(QUESTION), message["ts"].as_str()) {
            self.question_ts.push(ts.to_owned());
            return false;
        }
        let (kind, number) = part.split_once('-').unwrap_or((part, "0"));
        if let (Some(ts), Ok(number)) = (message["ts"].as_str(), number.parse()) {
            match kind {
                STATUS => self.status_ts = Some(ts.to_owned()),
                "answer" => {
                    self.answer_ts.insert(number, ts.to_owned());
                }
                "detail" => self.detail_ts.push(ts.to_owned()),
                _ => {}
            }
        }
        false
    }
}

/// By which `earlier_posts` knows a message again.
pub(crate) fn metadata(run: &str, part: &str) -> String {
    let payload = json!({"run": run, "part": part});
    json!({"event_type": "mom", "event_payload": payload}).to_string()
}

/// The ts of the message that a run posted as `part`, if it is in the channel or thread.
pub(crate) fn find(
    web: &Web,
    channel: &str,
    thread_ts: Option<&str>,
    run: &str,
    part: &str,
) -> SlackResult<Option<String>> {
    let found = web.find_message(channel, thread_ts, began_ms(run), |message| {
        part_of(message, run) == Some(part)
    })?;
    Ok(found.and_then(|message| message["ts"].as_str().map(str::to_owned)))
}

/// What a run that was cut has posted.
pub(crate) fn earlier_posts(
    web: &Web,
    channel: &str,
    thread_ts: Option<&str>,
    run: &str,
) -> SlackResult<EarlierPosts> {
    let mut earlier = EarlierPosts::default();
    web.find_message(channel, thread_ts, began_ms(run), |message| {
        earlier.note(message, run)
    })?;
    if thread_ts.is_none() {
        // What follows them is in their threads.
        let roots = [
            earlier.status_ts.clone(),
            earlier.answer_ts.get(&0).cloned(),
        ];
        for root in roots.iter().flatten() {
            web.find_message(channel, Some(root), began_ms(run), |message| {
                earlier.note(message, run)
            })?;
        }
    }
    earlier.detail_ts.sort_unstable();
    earlier.detail_ts.dedup();
    earlier.question_ts.sort_unstable();
    earlier.question_ts.dedup();
    Ok(earlier)
}

/// Runs are named by the ts of what was asked, or by due time and name of an event.
fn began_ms(run: &str) -> i64 {
    let event = || run.split_once(':')?.0.parse().ok();
    time::slack_ts_ms(run).or_else(event).unwrap_or_default()
}

fn part_of<'a>(message: &'a Value, run: &str) -> Option<&'a str> {
    let metadata = &message["metadata"];
    let payload = &metadata["event_payload"];
    let ours = metadata["event_type"] == "mom" && payload["run"] == run;
    payload["part"].as_str().filter(|_| ours)
}

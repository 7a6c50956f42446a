//! Finds in Slack, by the metadata of mom's messages, what an earlier try of a run has posted, and
//! a post whose outcome is unknown.

use serde_json::{Value, json};

use super::blocks;
use super::web::{PAGE, PostContent, SlackResult, Web};
use crate::base::json;
use crate::base::time;

/// Name in the metadata for the first message of a run, or the answer to a command.
pub(crate) const STATUS: &str = "status";
/// Start of the name for a question whose buttons can be pressed; the question's id follows.
pub(crate) const QUESTION: &str = "question-";

/// How far back messages are searched: the day in which runs are resumed, and an hour more.
const LOOK_BACK_S: i64 = 25 * 3600;
/// Pages of 200 messages looked through.
const PAGES_MAX: usize = 10;

/// Messages of a run, by their name in the metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EarlierPosts {
    pub(crate) status_ts: Option<String>,
    /// Messages of the answer, by number.
    pub(super) answer_ts: Vec<(usize, String)>,
    pub(super) detail_ts: Vec<String>,
    /// Details in which a step runs, and what they are to show now that it does not.
    pub(crate) cut_details: Vec<(String, PostContent)>,
    /// Questions that nobody answered.
    pub(crate) question_ts: Vec<String>,
}

impl EarlierPosts {
    /// The answer's message of this number; the first one has 0.
    pub(crate) fn answer_ts(&self, number: usize) -> Option<&String> {
        let found = self.answer_ts.iter().rfind(|(its, _)| *its == number);
        found.map(|(_, ts)| ts)
    }

    fn add(&mut self, part: &str, message: &Value) {
        let ts = message["ts"].as_str().unwrap_or_default().to_owned();
        let (kind, number) = part.split_once('-').unwrap_or((part, "0"));
        match (kind, number.parse()) {
            _ if part.starts_with(QUESTION) => self.question_ts.push(ts),
            (STATUS, _) => self.status_ts = Some(ts),
            ("answer", Ok(number)) => self.answer_ts.push((number, ts)),
            ("detail", Ok(_)) => {
                if let Some(mut content) = blocks::without_running(message) {
                    content.metadata = Some(json::text(&message["metadata"]));
                    self.cut_details.push((ts.clone(), content));
                }
                self.detail_ts.push(ts);
            }
            _ => {}
        }
    }
}

/// Metadata by which `earlier_posts` recognises a message.
pub(crate) fn metadata(run: &str, part: &str) -> String {
    let payload = json!({"run": run, "part": part});
    json::text(&json!({"event_type": "mom", "event_payload": payload}))
}

/// The ts of the message that a run posted as `part`, if it is in the channel or thread.
pub(crate) fn find(
    web: &Web,
    channel: &str,
    thread_ts: Option<&str>,
    run: &str,
    part: &str,
) -> SlackResult<Option<String>> {
    let mut posts = own_posts(web, channel, thread_ts, run)?.into_iter();
    let found = posts.find(|(its, _)| its == part);
    Ok(found.and_then(|(_, message)| message["ts"].as_str().map(str::to_owned)))
}

/// What an interrupted run has posted.
pub(crate) fn earlier_posts(
    web: &Web,
    channel: &str,
    thread_ts: Option<&str>,
    run: &str,
) -> SlackResult<EarlierPosts> {
    let mut earlier = EarlierPosts::default();
    for (part, message) in own_posts(web, channel, thread_ts, run)? {
        earlier.add(&part, &message);
    }
    if thread_ts.is_none() {
        // All other messages are in the threads of these.
        let roots = earlier.status_ts.iter().chain(earlier.answer_ts(0));
        for root in roots.cloned().collect::<Vec<_>>() {
            for (part, message) in own_posts(web, channel, Some(&root), run)? {
                earlier.add(&part, &message);
            }
        }
    }
    earlier.detail_ts.sort_unstable();
    Ok(earlier)
}

/// The messages of a run in a channel or thread, with their names in the metadata.
fn own_posts(
    web: &Web,
    channel: &str,
    thread_ts: Option<&str>,
    run: &str,
) -> SlackResult<Vec<(String, Value)>> {
    let oldest = (began_ms(run) / 1000).max(time::now_ms() / 1000 - LOOK_BACK_S);
    let oldest = format!("{oldest}.000000");
    let mut args = vec![
        ("channel", channel),
        ("oldest", &oldest),
        ("include_all_metadata", "true"),
        ("limit", PAGE),
    ];
    args.extend(thread_ts.map(|ts| ("ts", ts)));
    let method = match thread_ts {
        Some(_) => "conversations.replies",
        None => "conversations.history",
    };
    let mut posts = Vec::new();
    for page in web.pages(method, &args).take(PAGES_MAX) {
        for message in page?.iter().filter(|message| web.is_own(message)) {
            let metadata = &message["metadata"];
            let payload = &metadata["event_payload"];
            let is_of_run = metadata["event_type"] == "mom" && payload["run"] == run;
            let part = payload["part"].as_str().filter(|_| is_of_run);
            if let Some(part) = part.filter(|_| message["ts"].is_string()) {
                posts.push((part.to_owned(), message.clone()));
            }
        }
    }
    Ok(posts)
}

/// When a run began: its id is the ts of the request, or due time and name of an event.
fn began_ms(run: &str) -> i64 {
    let event = || run.split_once(':')?.0.parse().ok();
    time::slack_ts_ms(run).or_else(event).unwrap_or_default()
}

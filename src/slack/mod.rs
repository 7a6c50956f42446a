//! Slack: Socket Mode and the Web API, and how messages are read and shown.
//! https://docs.slack.dev/apis/events-api/using-socket-mode
//!
//! - Enters: frames of the socket, answers of the Web API, the updates of a run.
//! - Leaves: envelopes, typed messages, files; calls that post, edit and upload.
//! - State: rate limits in `web`, names in `users`, downloads in `files`, and for each run what
//!   is posted of it in `display`.

mod blocks;
pub(crate) mod check;
pub(crate) mod display;
pub(crate) mod earlier;
mod ending;
mod failure;
pub(crate) mod files;
pub(crate) mod history;
pub(crate) mod inbound;
mod inline;
pub(crate) mod manifest;
mod markdown;
pub(crate) mod message;
pub(crate) mod question;
pub(crate) mod socket;
mod steps;
pub(crate) mod users;
pub(crate) mod web;

use serde_json::Value;

use crate::config::Config;

pub(crate) use crate::base::time::is_slack_ts as is_ts;

/// One delivery of Slack's. After a lost ack Slack delivers the same payload again.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) id: String,
    /// `events_api`, `interactive`, `slash_commands`, ...
    pub(crate) kind: String,
    pub(crate) payload: Value,
}

impl Envelope {
    /// `None` for a frame that needs no ack.
    fn of(mut frame: Value) -> Option<Envelope> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Envelope {
            id: text(&frame["envelope_id"])?,
            kind: text(&frame["type"]).unwrap_or_default(),
            payload: frame["payload"].take(),
        })
    }
}

/// Conversation ids become directory names, so only this form is accepted: `C`, `D` or `G`, then
/// capital letters and digits.
pub(crate) fn is_channel_id(id: &str) -> bool {
    id.starts_with(['C', 'D', 'G']) && is_id(id)
}

pub(crate) fn is_user_id(id: &str) -> bool {
    id.starts_with(['U', 'W']) && is_id(id)
}

/// What is wrong with the allow-lists: a name in place of an id would match nobody.
pub(crate) fn odd_lists(config: &Config) -> Option<String> {
    type IsId = fn(&str) -> bool;
    let lists = [
        ("user", &config.allow_users, is_user_id as IsId),
        ("channel", &config.allow_channels, is_channel_id),
    ];
    lists.into_iter().find_map(|(what, ids, is_id)| {
        let odd = ids.iter().flatten().find(|id| !is_id(id))?;
        Some(format!(
            "{odd} in --allow-{what}s is no {what} id; take ids, not names: a profile's or \
             channel's details in Slack have a Copy ID"
        ))
    })
}

fn is_id(id: &str) -> bool {
    let rest = id.get(1..).unwrap_or_default();
    (1..=30).contains(&rest.len())
        && rest
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

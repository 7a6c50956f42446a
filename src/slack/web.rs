//! Slack's Web API. A sketch with what the display needs: one try, no waiting.

use std::time::Duration;

use serde_json::Value;

use crate::secret::Secret;

/// What a rate limit does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Dropped: `Failure::Limited`.
    Optional,
    /// Waits for Retry-After.
    Must,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failure {
    /// `ok:false` with this code.
    Refused(String),
    /// Not before this time.
    Limited(Duration),
    /// Sent, but not answered: it may have been done.
    Unknown(String),
    /// Not done.
    Failed(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Limited(after) => write!(f, "rate limited for {} s", after.as_secs()),
            Failure::Refused(why) | Failure::Unknown(why) | Failure::Failed(why) => {
                f.write_str(why)
            }
        }
    }
}

/// What a message says. `blocks` and `metadata` are JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) text: String,
    pub(crate) blocks: Option<String>,
    pub(crate) metadata: Option<String>,
}

pub(crate) struct Web {
    pub(crate) url: String,
    pub(crate) token: Secret,
}

impl Web {
    fn call(
        &self,
        method: &str,
        args: &[(&str, &str)],
        _urgency: Urgency,
    ) -> Result<Value, Failure> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let mut response = agent
            .post(format!("{}/{method}", self.url))
            .header("Authorization", format!("Bearer {}", self.token.expose()))
            .send_form(args.iter().copied())
            .map_err(|err| Failure::Unknown(format!("{method}: {err}")))?;
        if response.status().as_u16() == 429 {
            let after = response.headers().get("retry-after");
            let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
            return Err(Failure::Limited(Duration::from_secs(after.unwrap_or(30))));
        }
        let body = response
            .body_mut()
            .read_to_string()
            .map_err(|err| Failure::Unknown(format!("{method}: {err}")))?;
        let body: Value = serde_json::from_str(&body)
            .map_err(|err| Failure::Unknown(format!("{method}: {err}")))?;
        match body["ok"] == true {
            true => Ok(body),
            false => Err(Failure::Refused(
                body["error"].as_str().unwrap_or_default().to_owned(),
            )),
        }
    }

    /// The ts of the new message.
    pub(crate) fn chat_post_message(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
        content: &Content,
        urgency: Urgency,
    ) -> Result<String, Failure> {
        let mut args = vec![
            ("channel", channel),
            ("text", &content.text),
            ("parse", "none"),
            ("unfurl_links", "false"),
            ("unfurl_media", "false"),
        ];
        args.extend(thread_ts.map(|ts| ("thread_ts", ts)));
        args.extend(content.blocks.as_deref().map(|json| ("blocks", json)));
        args.extend(content.metadata.as_deref().map(|json| ("metadata", json)));
        let answer = self.call("chat.postMessage", &args, urgency)?;
        Ok(answer["ts"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn chat_update(
        &self,
        channel: &str,
        ts: &str,
        content: &Content,
        urgency: Urgency,
    ) -> Result<(), Failure> {
        let mut args = vec![
            ("channel", channel),
            ("ts", ts),
            ("text", &content.text),
            ("parse", "none"),
        ];
        args.push(("blocks", content.blocks.as_deref().unwrap_or("[]")));
        args.extend(content.metadata.as_deref().map(|json| ("metadata", json)));
        self.call("chat.update", &args, urgency).map(drop)
    }

    pub(crate) fn chat_delete(
        &self,
        channel: &str,
        ts: &str,
        urgency: Urgency,
    ) -> Result<(), Failure> {
        self.call("chat.delete", &[("channel", channel), ("ts", ts)], urgency)
            .map(drop)
    }

    /// The newest messages of a channel or thread, as Slack tells them, with metadata.
    pub(crate) fn recent(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
    ) -> Result<Vec<Value>, Failure> {
        let mut args = vec![
            ("channel", channel),
            ("include_all_metadata", "true"),
            ("limit", "100"),
        ];
        args.extend(thread_ts.map(|ts| ("ts", ts)));
        let method = match thread_ts {
            Some(_) => "conversations.replies",
            None => "conversations.history",
        };
        let answer = self.call(method, &args, Urgency::Must)?;
        Ok(answer["messages"].as_array().cloned().unwrap_or_default())
    }

    /// The three steps of an upload; returns when the file is shared.
    pub(crate) fn files_upload(
        &self,
        _channel: &str,
        _thread_ts: Option<&str>,
        _name: &str,
        _title: &str,
        _bytes: &[u8],
    ) -> Result<(), Failure> {
        Err(Failure::Failed("no upload yet".to_owned()))
    }
}

//! Slack's Web API: one function per method, all through one `call`. Form encoded, because
//! that is what every method takes. Rate limits are kept per method and channel; what may be
//! repeated is repeated; what must not be is reported as `Failure::Unknown`.

use std::collections::HashMap;
use std::fmt;
use std::io::{Read as _, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::Agent;

use crate::error::{Error, Result};
use crate::log;
use crate::net::{self, Limits, Net};
use crate::secret::Secret;
use crate::stop::Stop;

use super::inbound::Me;

/// What a rate limit does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Dropped: `Failure::Limited`. One try.
    Optional,
    /// Waits for Retry-After; tried again after passing faults.
    Must,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failure {
    /// `ok:false` with this code; `missing_scope` names the scope behind a colon.
    Refused(String),
    /// Not before this time.
    Limited(Duration),
    /// Sent, but not answered: it may have been done.
    Unknown(String),
    /// Not done.
    Failed(String),
    /// The program is going down.
    Stopped,
}

pub(crate) type Answer<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(code) => write!(f, "Slack refused: {}", explain(code)),
            Failure::Limited(after) => write!(f, "rate limited for {} s", after.as_secs()),
            Failure::Unknown(why) => write!(f, "{why}; it may have been done all the same"),
            Failure::Failed(why) => f.write_str(why),
            Failure::Stopped => f.write_str("stopped"),
        }
    }
}

impl Failure {
    /// Would the same call be refused again?
    pub(crate) fn stays(&self) -> bool {
        matches!(self, Failure::Refused(code) if !TRANSIENT.contains(&code.as_str()))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Stopped => Error::Stopped,
            Failure::Limited(after) => Error::Retry {
                after: Some(after),
                why: failure.to_string(),
            },
            Failure::Refused(_) => Error::Failed(failure.to_string()),
            Failure::Unknown(_) | Failure::Failed(_) => Error::retry(failure.to_string()),
        }
    }
}

/// A code of Slack's with the mend where we know one.
fn explain(code: &str) -> String {
    let hint = match code {
        "not_in_channel" => "invite her there: /invite @mom",
        "channel_not_found" => "no such conversation, or a private one she is not in",
        "is_archived" => "the channel is archived",
        "invalid_auth" | "not_authed" | "token_revoked" | "token_expired" => {
            "take the token afresh from the app's pages at api.slack.com/apps"
        }
        "account_inactive" => "the app was removed from the workspace; install it again",
        "not_allowed_token_type" => {
            "xapp- goes into MOM_SLACK_APP_TOKEN, xoxb- into MOM_SLACK_BOT_TOKEN"
        }
        "file_upload_size_restricted" => "too large for this workspace",
        "storage_limit_reached" => "the workspace's file storage is full",
        "messages_tab_disabled" => "switch the Messages tab on: App Home in the app's settings",
        code => match code.strip_prefix("missing_scope:") {
            Some(scope) => {
                return format!(
                    "missing_scope (add {scope} under OAuth & Permissions and reinstall the app)"
                );
            }
            None => return code.to_owned(),
        },
    };
    format!("{code} ({hint})")
}

/// What a message says. `blocks` and `metadata` are JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) text: String,
    pub(crate) blocks: Option<String>,
    pub(crate) metadata: Option<String>,
}

/// Who the bot token belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) me: Me,
    /// Her handle and the workspace's name.
    pub(crate) user: String,
    pub(crate) team: String,
    /// Granted scopes; empty when Slack does not tell.
    pub(crate) scopes: Vec<String>,
}

/// Codes that pass by themselves.
const TRANSIENT: &[&str] = &[
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
    "team_added_to_org",
];
/// Codes of apps.connections.open and auth.test that no waiting mends.
const FATAL: &[&str] = &[
    "not_authed",
    "invalid_auth",
    "account_inactive",
    "user_removed_from_team",
    "team_disabled",
    "token_revoked",
    "token_expired",
    "not_allowed_token_type",
    "forbidden_team",
    "insecure_request",
    "org_login_required",
    "ekm_access_denied",
    "team_access_not_granted",
    "accesslimited",
    "no_permission",
];
/// When Slack limits without saying for how long.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(30);
/// Tries of a call that may be repeated, and the pause before the second.
const TRIES_MAX: u32 = 5;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Keys of the rate-limit table; far more than are ever limited at once.
const LIMITED_MAX: usize = 1000;

pub(crate) struct Web {
    url: String,
    bot: Secret,
    app: Secret,
    agent: Agent,
    /// For uploads and downloads: no limit on the whole call.
    transfer: Agent,
    stop: Stop,
    /// (method, channel) -> not before.
    limited: Mutex<HashMap<(&'static str, String), Instant>>,
}

impl Web {
    /// `stop` ends calls at once: set it last, when what must be said is said.
    pub(crate) fn new(url: &str, app: Secret, bot: Secret, net: &Net, stop: &Stop) -> Web {
        let limits = Limits {
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total: Some(Duration::from_secs(90)),
        };
        Web {
            url: url.trim_end_matches('/').to_owned(),
            bot,
            app,
            agent: net.agent(stop, limits),
            transfer: net.agent(
                stop,
                Limits {
                    total: None,
                    ..limits
                },
            ),
            stop: stop.clone(),
            limited: Mutex::default(),
        }
    }

    pub(crate) fn auth_test(&self) -> Result<Identity> {
        let (answer, headers) = self
            .request("auth.test", &self.bot, &[])
            .map_err(|failure| fatal(failure, "auth.test"))?;
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let scopes = headers
            .get("x-oauth-scopes")
            .and_then(|value| value.to_str().ok());
        Ok(Identity {
            me: Me {
                user_id: text("user_id"),
                bot_id: text("bot_id"),
                team_id: text("team_id"),
            },
            user: text("user"),
            team: text("team"),
            scopes: scopes
                .map(|list| {
                    list.split(',')
                        .map(|scope| scope.trim().to_owned())
                        .collect()
                })
                .unwrap_or_default(),
        })
    }

    /// A single-use address for one socket.
    pub(crate) fn apps_connections_open(&self) -> Result<String> {
        let method = "apps.connections.open";
        let (answer, _) = self
            .request(method, &self.app, &[])
            .map_err(|failure| fatal(failure, method))?;
        let url = answer["url"].as_str();
        url.map(str::to_owned)
            .ok_or_else(|| Error::retry(format!("{method}: no url in the answer")))
    }

    /// The ts of the new message.
    pub(crate) fn chat_post_message(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
        content: &Content,
        urgency: Urgency,
    ) -> Answer<String> {
        let mut args = vec![
            ("channel", channel),
            ("text", &content.text),
            ("parse", "none"),
            ("link_names", "false"),
            ("unfurl_links", "false"),
            ("unfurl_media", "false"),
        ];
        args.extend(thread_ts.map(|ts| ("thread_ts", ts)));
        args.extend(content.blocks.as_deref().map(|json| ("blocks", json)));
        args.extend(content.metadata.as_deref().map(|json| ("metadata", json)));
        let answer = self.call("chat.postMessage", channel, &args, urgency)?;
        Ok(answer["ts"].as_str().unwrap_or_default().to_owned())
    }

    /// `blocks` that are left out remove those the message had.
    pub(crate) fn chat_update(
        &self,
        channel: &str,
        ts: &str,
        content: &Content,
        urgency: Urgency,
    ) -> Answer<()> {
        let mut args = vec![
            ("channel", channel),
            ("ts", ts),
            ("text", &content.text),
            ("parse", "none"),
            ("link_names", "false"),
        ];
        args.extend(content.blocks.as_deref().map(|json| ("blocks", json)));
        args.extend(content.metadata.as_deref().map(|json| ("metadata", json)));
        self.call("chat.update", channel, &args, urgency).map(drop)
    }

    pub(crate) fn chat_delete(&self, channel: &str, ts: &str, urgency: Urgency) -> Answer<()> {
        let args = [("channel", channel), ("ts", ts)];
        self.call("chat.delete", channel, &args, urgency).map(drop)
    }

    pub(crate) fn reactions_add(&self, channel: &str, ts: &str, name: &str) -> Answer<()> {
        let args = [("channel", channel), ("timestamp", ts), ("name", name)];
        match self.call("reactions.add", channel, &args, Urgency::Must) {
            Err(Failure::Refused(code)) if code == "already_reacted" => Ok(()),
            answer => answer.map(drop),
        }
    }

    pub(crate) fn assistant_threads_set_status(
        &self,
        channel: &str,
        thread_ts: &str,
        status: &str,
    ) -> Answer<()> {
        let args = [
            ("channel_id", channel),
            ("thread_ts", thread_ts),
            ("status", status),
        ];
        self.call(
            "assistant.threads.setStatus",
            channel,
            &args,
            Urgency::Optional,
        )
        .map(drop)
    }

    pub(crate) fn users_info(&self, user: &str) -> Answer<Value> {
        let mut answer = self.call("users.info", "", &[("user", user)], Urgency::Must)?;
        Ok(answer["user"].take())
    }

    pub(crate) fn conversations_info(&self, channel: &str) -> Answer<Value> {
        let args = [("channel", channel)];
        let mut answer = self.call("conversations.info", "", &args, Urgency::Must)?;
        Ok(answer["channel"].take())
    }

    /// The newest messages of a channel or thread, as Slack tells them, with metadata.
    pub(crate) fn recent(&self, channel: &str, thread_ts: Option<&str>) -> Answer<Vec<Value>> {
        let mut args = vec![
            ("channel", channel),
            ("include_all_metadata", "true"),
            ("limit", "100"),
        ];
        args.extend(thread_ts.map(|ts| ("ts", ts)));
        let method = if thread_ts.is_some() {
            "conversations.replies"
        } else {
            "conversations.history"
        };
        let mut answer = self.call(method, "", &args, Urgency::Must)?;
        Ok(match answer["messages"].take() {
            Value::Array(messages) => messages,
            _ => Vec::new(),
        })
    }

    /// The page of messages up to and including `latest`.
    pub(crate) fn history_before(&self, channel: &str, latest: &str) -> Answer<Vec<Value>> {
        let args = [
            ("channel", channel),
            ("latest", latest),
            ("inclusive", "true"),
            ("limit", "100"),
        ];
        let mut answer = self.call("conversations.history", "", &args, Urgency::Must)?;
        Ok(match answer["messages"].take() {
            Value::Array(messages) => messages,
            _ => Vec::new(),
        })
    }

    /// Calls `each` with the items of every page (`key` names their array), page by page;
    /// it says whether to go on.
    pub(crate) fn pages(
        &self,
        method: &'static str,
        args: &[(&str, &str)],
        key: &str,
        each: &mut dyn FnMut(Vec<Value>) -> Result<bool>,
    ) -> Result<()> {
        let mut cursor = String::new();
        loop {
            let mut args = args.to_vec();
            if !cursor.is_empty() {
                args.push(("cursor", &cursor));
            }
            let mut answer = self.call(method, "", &args, Urgency::Must)?;
            let items = match answer[key].take() {
                Value::Array(items) => items,
                _ => Vec::new(),
            };
            if !each(items)? {
                return Ok(());
            }
            match answer
                .pointer("/response_metadata/next_cursor")
                .and_then(Value::as_str)
            {
                Some(next) if !next.is_empty() && next != cursor => cursor = next.to_owned(),
                _ => return Ok(()),
            }
        }
    }

    pub(crate) fn files_info(&self, file: &str) -> Answer<Value> {
        let mut answer = self.call("files.info", "", &[("file", file)], Urgency::Must)?;
        Ok(answer["file"].take())
    }

    /// The three steps of an upload; the message appears a little after the last.
    pub(crate) fn files_upload(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
        name: &str,
        title: &str,
        bytes: &[u8],
    ) -> Answer<()> {
        let length = bytes.len().to_string();
        let args = [("filename", name), ("length", &length)];
        let answer = self.call("files.getUploadURLExternal", "", &args, Urgency::Must)?;
        let (Some(url), Some(id)) = (answer["upload_url"].as_str(), answer["file_id"].as_str())
        else {
            return Err(Failure::Failed(
                "files.getUploadURLExternal: no upload_url".to_owned(),
            ));
        };
        let sent = self.transfer.post(url).send(bytes);
        let response = sent.map_err(|err| self.fault("the upload", url, &err))?;
        if !response.status().is_success() {
            return Err(Failure::Failed(format!(
                "the upload: HTTP {}",
                response.status()
            )));
        }
        let files = crate::json::Obj::new()
            .str("id", id)
            .str("title", title)
            .end();
        let files = format!("[{files}]");
        let mut args = vec![("files", files.as_str()), ("channel_id", channel)];
        args.extend(thread_ts.map(|ts| ("thread_ts", ts)));
        self.call(
            "files.completeUploadExternal",
            channel,
            &args,
            Urgency::Must,
        )
        .map(drop)
    }

    /// Streams a file's bytes into `sink`. The token goes to Slack's own hosts only; a login
    /// page in place of the file is an error.
    pub(crate) fn download(
        &self,
        url: &str,
        html_expected: bool,
        bytes_max: u64,
        sink: &mut dyn Write,
    ) -> Result<u64> {
        let mut url = url.to_owned();
        for _ in 0..5 {
            let mut request = self.transfer.get(&url);
            if self.may_see_token(&url) {
                request = request.header("Authorization", format!("Bearer {}", self.bot.expose()));
            }
            let mut response = request.call().map_err(|err| net::http_error(&url, &err))?;
            let header = |name: &str| {
                let value = response
                    .headers()
                    .get(name)
                    .and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let status = response.status();
            if status.is_redirection() {
                let next = header("location");
                if !next.starts_with("https://") && !next.starts_with("http://") {
                    return Err(Error::failed("a redirect without a full address"));
                }
                url = next;
                continue;
            }
            if status.is_server_error() || status.as_u16() == 429 {
                let after = net::retry_after(response.headers());
                return Err(Error::Retry {
                    after,
                    why: format!("HTTP {status}"),
                });
            }
            if !status.is_success() {
                return Err(Error::failed(format!("HTTP {status}")));
            }
            if header("content-type").starts_with("text/html") && !html_expected {
                return Err(Error::failed(
                    "Slack sent its login page in place of the file (the scope files:read is \
                     missing, or the file was not shared with mom)",
                ));
            }
            let mut body = response.body_mut().as_reader().take(bytes_max + 1);
            let mut total = 0;
            let mut chunk = [0; 16 * 1024];
            loop {
                let read = body
                    .read(&mut chunk)
                    .map_err(|err| match net::stopped(&err) {
                        true => Error::Stopped,
                        false => Error::retry(format!("the download broke off: {err}")),
                    })?;
                if read == 0 {
                    return Ok(total);
                }
                total += read as u64;
                if total > bytes_max {
                    return Err(Error::failed("the file is larger than the limit"));
                }
                sink.write_all(&chunk[..read])
                    .map_err(|err| Error::failed(format!("cannot write the file: {err}")))?;
            }
        }
        Err(Error::failed("too many redirects"))
    }

    fn may_see_token(&self, url: &str) -> bool {
        let host = net::host_of(url);
        // The API's own host: with MOM_SLACK_API_URL it may be another than Slack's.
        if host == net::host_of(&self.url) {
            return true;
        }
        url.starts_with("https://")
            && (host == "slack.com" || host.ends_with(".slack.com") || host == "slack-files.com")
    }

    fn call(
        &self,
        method: &'static str,
        channel: &str,
        args: &[(&str, &str)],
        urgency: Urgency,
    ) -> Answer<Value> {
        // Doing these twice shows twice.
        let repeatable = !matches!(method, "chat.postMessage" | "files.completeUploadExternal");
        let key = (method, channel.to_owned());
        let mut pause = PAUSE_FIRST;
        let mut tries = 0;
        loop {
            self.wait_for(&key, urgency)?;
            tries += 1;
            let failure = match self.request(method, &self.bot, args) {
                Ok((answer, _)) => return Ok(answer),
                Err(failure) => failure,
            };
            let last = urgency == Urgency::Optional || tries >= TRIES_MAX;
            match &failure {
                Failure::Limited(after) => {
                    self.limit(&key, *after);
                    if urgency == Urgency::Optional {
                        return Err(failure);
                    }
                    log::warning!(channel, "{method}: {failure}");
                    // The limit is not a failure: it is waited for as often as it comes.
                    tries -= 1;
                    continue;
                }
                Failure::Refused(code) if TRANSIENT.contains(&code.as_str()) && !last => {}
                Failure::Failed(_) if !last => {}
                Failure::Unknown(_) if repeatable && !last => {}
                Failure::Refused(_)
                | Failure::Failed(_)
                | Failure::Unknown(_)
                | Failure::Stopped => return Err(failure),
            }
            log::debug!(channel, "{method}: {failure}; trying again");
            self.stop
                .wait(jittered(pause))
                .map_err(|_| Failure::Stopped)?;
            pause *= 2;
        }
    }

    fn wait_for(&self, key: &(&'static str, String), urgency: Urgency) -> Answer<()> {
        loop {
            let until = self.limited.lock().unwrap().get(key).copied();
            let left = until.map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok(());
            }
            if urgency == Urgency::Optional {
                return Err(Failure::Limited(left));
            }
            self.stop.wait(left).map_err(|_| Failure::Stopped)?;
        }
    }

    fn limit(&self, key: &(&'static str, String), after: Duration) {
        let now = Instant::now();
        let Some(until) = now.checked_add(after) else {
            return;
        };
        let mut limited = self.limited.lock().unwrap();
        if limited.len() >= LIMITED_MAX {
            limited.retain(|_, until| *until > now);
        }
        limited.insert(key.clone(), until);
    }

    /// One request, one answer.
    fn request(
        &self,
        method: &str,
        token: &Secret,
        args: &[(&str, &str)],
    ) -> Answer<(Value, ureq::http::HeaderMap)> {
        let url = format!("{}/{method}", self.url);
        let sent = self
            .agent
            .post(&url)
            .header("Authorization", format!("Bearer {}", token.expose()))
            .send_form(args.iter().copied());
        let mut response = sent.map_err(|err| self.fault(method, &url, &err))?;
        let status = response.status();
        if status.as_u16() == 429 {
            let after = net::retry_after(response.headers()).unwrap_or(RETRY_AFTER_DEFAULT);
            return Err(Failure::Limited(after));
        }
        let headers = response.headers().clone();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string();
        let text = text.map_err(|err| match net::stopped(&err) {
            true => Failure::Stopped,
            false => Failure::Unknown(format!("{method}: the answer broke off: {err}")),
        })?;
        let Ok(answer) = serde_json::from_str::<Value>(&text) else {
            return Err(Failure::Unknown(format!(
                "{method}: HTTP {status} without JSON"
            )));
        };
        if answer["ok"] == true {
            return Ok((answer, headers));
        }
        match answer["error"].as_str() {
            Some("ratelimited" | "rate_limited") => Err(Failure::Limited(
                net::retry_after(&headers).unwrap_or(RETRY_AFTER_DEFAULT),
            )),
            Some("missing_scope") => {
                let needed = answer["needed"].as_str().unwrap_or("the scope Slack names");
                Err(Failure::Refused(format!("missing_scope:{needed}")))
            }
            Some(code) => Err(Failure::Refused(code.to_owned())),
            None => Err(Failure::Unknown(format!(
                "{method}: HTTP {status} without ok"
            ))),
        }
    }

    fn fault(&self, what: &str, url: &str, err: &ureq::Error) -> Failure {
        let host = net::host_of(url);
        if net::stopped(err) {
            Failure::Stopped
        } else if net::not_sent(err) {
            Failure::Failed(format!("{what}: cannot reach {host}: {err}"))
        } else {
            Failure::Unknown(format!("{what}: no answer from {host}: {err}"))
        }
    }
}

/// Fatal codes end the program, everything else is tried again by the caller.
fn fatal(failure: Failure, method: &str) -> Error {
    let Failure::Refused(code) = &failure else {
        return failure.into();
    };
    let scope = code.starts_with("missing_scope");
    if !scope && !FATAL.contains(&code.as_str()) {
        return Error::retry(format!("{method}: {failure}"));
    }
    let (variable, page) = match method {
        "auth.test" => ("MOM_SLACK_BOT_TOKEN", "Install App"),
        _ => (
            "MOM_SLACK_APP_TOKEN",
            "Basic Information > App-Level Tokens, Socket Mode",
        ),
    };
    Error::failed(format!(
        "{method}: {failure}; check {variable} (app settings: {page})"
    ))
}

/// 0.75 to 1.25 of it: many clients must not come back at the same instant.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut byte = [128];
    // Without random bytes the pause is just exact.
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut byte).ok();
    pause.mul_f64(0.75 + f64::from(byte[0]) / 512.0)
}

//! Slack's Web API: one function per method, all through one `call`. Form encoded, because every
//! method accepts that. Rate limits are remembered per method and channel. Calls that are safe to
//! repeat are repeated; for others an unknown outcome is returned as `Failure::Unknown`.

use std::io::{Read as _, Write};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::base::backoff::Backoff;
use crate::base::bounded::Bounded;
use crate::base::error::{Error, Result};
use crate::base::json::{self, parse_lenient};
use crate::base::log;
use crate::base::secret::{self, Secret};
use crate::base::stop::Stop;
use crate::net::{self, HttpLimits, Net, NetFault};

use super::failure::fatal;
pub(crate) use super::failure::{Failure, SlackResult};
use super::inbound::Me;
use super::is_ts;

/// What a rate limit does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Tried once; a rate limit drops it: `Failure::Limited`.
    Optional,
    /// Waits for Retry-After; tried again after passing faults.
    Must,
}

/// Entries in a page; Slack advises no more.
pub(crate) const PAGE: &str = "200";

/// What a message says. `blocks` and `metadata` are JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PostContent {
    pub(crate) text: String,
    pub(crate) blocks: Option<String>,
    pub(crate) metadata: Option<String>,
}

impl PostContent {
    pub(crate) fn plain(text: impl Into<String>) -> PostContent {
        PostContent {
            text: text.into(),
            ..PostContent::default()
        }
    }

    /// `text` replaces the blocks in notifications and for screen readers.
    pub(crate) fn blocks(text: &str, blocks: &Value) -> PostContent {
        PostContent {
            blocks: Some(json::text(blocks)),
            ..PostContent::plain(text)
        }
    }

    /// Arguments of a call. Slack's own search for names and links is off: it would notify people.
    fn args<'a>(&'a self, channel: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut args = vec![
            ("channel", channel),
            ("text", &self.text),
            ("parse", "none"),
            ("link_names", "false"),
        ];
        args.extend(self.blocks.as_deref().map(|json| ("blocks", json)));
        args.extend(self.metadata.as_deref().map(|json| ("metadata", json)));
        args
    }
}

/// Who the bot token belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) me: Me,
    /// mom's handle and the workspace's name.
    pub(crate) user: String,
    pub(crate) team: String,
    /// Granted scopes; empty if Slack does not send them.
    pub(crate) scopes: Vec<String>,
}

/// The result of a download.
#[derive(Debug)]
pub(crate) struct Downloaded {
    pub(crate) bytes: u64,
    /// Whether the Content-Type is HTML, as it is for Slack's login page.
    pub(crate) is_html: bool,
    /// Its first bytes.
    pub(crate) head: Vec<u8>,
}

/// The pause if Slack limits the rate without a Retry-After.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(30);
/// Bounds for Retry-After. Slack asks for seconds up to a minute; a server must neither
/// silence mom for a day nor make it ask without pause.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// Tries of a call that may be repeated, and the pause before the second; each further one
/// is twice as long, half a minute in all.
const TRIES_MAX: u32 = 7;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Whole uploads of a file's bytes, which nobody sees before they are completed.
const UPLOADS_MAX: u32 = 3;
const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Time limit for the transfer of a whole file, at any speed.
const TRANSFER_MAX: Duration = Duration::from_secs(3600);
/// How much of a file shows whether it is a login page.
const HEAD_BYTES: u64 = 4_096;
/// Pages of a list or history: four million messages. A server could name a next page forever.
const PAGES_MAX: usize = 20_000;
/// Keys of the rate-limit table; far more than are ever limited at once.
const LIMITED_MAX: usize = 1000;

pub(crate) struct Web {
    url: String,
    bot: Secret,
    app: Secret,
    agent: Agent,
    /// For uploads and downloads, which may take long.
    transfer: Agent,
    stop: Stop,
    /// mom's user id and bot id, known after auth.test.
    own_ids: OnceLock<[String; 2]>,
    /// (method, channel) -> the earliest time of the next call.
    limited: Mutex<Bounded<String, Instant>>,
}

impl Web {
    /// `stop` ends calls at once: it is set after the runs have posted how they ended.
    pub(crate) fn new(url: &str, app: Secret, bot: Secret, net: &Net, stop: &Stop) -> Web {
        let limits = |total_max| HttpLimits {
            head: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total: Some(total_max),
        };
        Web {
            url: url.trim_end_matches('/').to_owned(),
            bot,
            app,
            agent: net.agent(stop, limits(Duration::from_secs(90))),
            transfer: net.agent(stop, limits(TRANSFER_MAX)),
            stop: stop.clone(),
            own_ids: OnceLock::new(),
            limited: Mutex::new(Bounded::new(LIMITED_MAX)),
        }
    }

    pub(crate) fn auth_test(&self) -> Result<Identity> {
        let answered = self.request("auth.test", &self.bot, &[]);
        let (answer, headers) = answered.map_err(|failure| fatal(failure, "auth.test"))?;
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        self.own_ids
            .get_or_init(|| [text("user_id"), text("bot_id")]);
        let scopes = net::header(&headers, "x-oauth-scopes").unwrap_or_default();
        let scopes = scopes.split([',', ' ']).filter(|scope| !scope.is_empty());
        Ok(Identity {
            me: Me {
                user_id: text("user_id"),
                team_id: text("team_id"),
                enterprise_id: text("enterprise_id"),
            },
            user: text("user"),
            team: text("team"),
            scopes: scopes.map(str::to_owned).collect(),
        })
    }

    /// A single-use address for one socket.
    pub(crate) fn apps_connections_open(&self) -> Result<String> {
        let method = "apps.connections.open";
        let answered = self.request(method, &self.app, &[]);
        let (answer, _) = answered.map_err(|failure| fatal(failure, method))?;
        let url = answer["url"].as_str();
        url.map(str::to_owned)
            .ok_or_else(|| Error::retry(format!("{method}: no url in the answer")))
    }

    /// Posts a message and returns its ts.
    pub(crate) fn chat_post_message(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
        content: &PostContent,
        urgency: Urgency,
    ) -> SlackResult<String> {
        let mut args = content.args(channel);
        args.extend([("unfurl_links", "false"), ("unfurl_media", "false")]);
        args.extend(thread_ts.map(|ts| ("thread_ts", ts)));
        let answer = self.call("chat.postMessage", channel, &args, urgency)?;
        let ts = answer["ts"].as_str().filter(|ts| is_ts(ts));
        ts.map(str::to_owned)
            .ok_or_else(|| Failure::Unknown("chat.postMessage: no ts in the answer".to_owned()))
    }

    /// Edits a message. Slack keeps the blocks that an edit does not name, so content without
    /// blocks removes them.
    pub(crate) fn chat_update(
        &self,
        channel: &str,
        ts: &str,
        content: &PostContent,
        urgency: Urgency,
    ) -> SlackResult<()> {
        let mut args = content.args(channel);
        args.push(("ts", ts));
        if content.blocks.is_none() {
            args.push(("blocks", "[]"));
        }
        self.call("chat.update", channel, &args, urgency).map(drop)
    }

    /// Only this user sees it, until the next reload. mrkdwn.
    pub(crate) fn chat_post_ephemeral(
        &self,
        channel: &str,
        user: &str,
        text: &str,
    ) -> SlackResult<()> {
        let args = [("channel", channel), ("user", user), ("text", text)];
        let method = "chat.postEphemeral";
        self.call(method, channel, &args, Urgency::Optional)
            .map(drop)
    }

    pub(crate) fn chat_delete(&self, channel: &str, ts: &str, urgency: Urgency) -> SlackResult<()> {
        let args = [("channel", channel), ("ts", ts)];
        self.call("chat.delete", channel, &args, urgency).map(drop)
    }

    /// Sets the status line below a thread; an empty one removes it. Slack removes it after two
    /// minutes, and when the next message is posted there.
    pub(crate) fn assistant_threads_set_status(
        &self,
        channel: &str,
        thread_ts: &str,
        status: &str,
    ) -> SlackResult<()> {
        let args = [
            ("channel_id", channel),
            ("thread_ts", thread_ts),
            ("status", status),
        ];
        let method = "assistant.threads.setStatus";
        self.call(method, channel, &args, Urgency::Optional)
            .map(drop)
    }

    pub(crate) fn reactions_add(&self, channel: &str, ts: &str, name: &str) -> SlackResult<()> {
        let args = [("channel", channel), ("timestamp", ts), ("name", name)];
        match self.call("reactions.add", channel, &args, Urgency::Must) {
            Err(Failure::Refused(code)) if code == "already_reacted" => Ok(()),
            answer => answer.map(drop),
        }
    }

    pub(crate) fn users_info(&self, user: &str) -> SlackResult<Value> {
        self.info("users.info", ("user", user))
    }

    pub(crate) fn conversations_info(&self, channel: &str) -> SlackResult<Value> {
        self.info("conversations.info", ("channel", channel))
    }

    pub(crate) fn files_info(&self, file: &str) -> SlackResult<Value> {
        self.info("files.info", ("file", file))
    }

    /// Calls an info method; the request and the response use the same key for the object.
    fn info(&self, method: &'static str, what: (&str, &str)) -> SlackResult<Value> {
        let mut answer = self.call(method, "", &[what], Urgency::Must)?;
        Ok(answer[what.0].take())
    }

    /// Whether mom posted it, by its ids: any app can copy the content of mom's messages.
    pub(super) fn is_own(&self, message: &Value) -> bool {
        let mut ids = self.own_ids.get().into_iter().flatten();
        ids.any(|id| !id.is_empty() && (message["user"] == **id || message["bot_id"] == **id))
    }

    /// Reads one message; `None` if it is deleted. `root`: the root of its thread, or its own ts.
    pub(crate) fn message(
        &self,
        channel: &str,
        root: &str,
        ts: &str,
    ) -> SlackResult<Option<Value>> {
        let args = [
            ("channel", channel),
            ("ts", root),
            ("oldest", ts),
            ("latest", ts),
            ("inclusive", "true"),
            ("limit", "2"),
        ];
        let found = self.pages("conversations.replies", &args).next();
        let found = found.transpose()?.unwrap_or_default();
        Ok(found.into_iter().find(|message| message["ts"] == ts))
    }

    /// The items of a list or history, page by page.
    pub(crate) fn pages<'a>(
        &'a self,
        method: &'static str,
        args: &'a [(&'a str, &'a str)],
    ) -> Pages<'a> {
        Pages {
            web: self,
            method,
            args,
            cursor: Some(String::new()),
            left: PAGES_MAX,
        }
    }

    /// Uploads and shares a file in three steps; its message appears shortly after the last step.
    pub(crate) fn files_upload(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
        name: &str,
        title: &str,
        bytes: &[u8],
    ) -> SlackResult<()> {
        if bytes.is_empty() {
            return Err(Failure::Failed("Slack takes no empty files".to_owned()));
        }
        let id = self.upload(name, bytes)?;
        let files = json::text(&json!([{"id": id, "title": title}]));
        let mut args = vec![("files", files.as_str()), ("channel_id", channel)];
        args.extend(thread_ts.map(|ts| ("thread_ts", ts)));
        let share = || {
            let method = "files.completeUploadExternal";
            self.call(method, channel, &args, Urgency::Must).map(drop)
        };
        let why = match share() {
            Err(Failure::Unknown(why)) => why,
            outcome => return outcome,
        };
        log::warning!(channel, "asking Slack whether {name} was shared: {why}");
        self.pause(&mut backoff())?;
        match self.files_info(&id)?["shares"].as_object() {
            Some(shares) if !shares.is_empty() => Ok(()),
            _ => share(),
        }
    }

    /// Uploads the bytes, which nobody sees yet, and returns the file's id.
    fn upload(&self, name: &str, bytes: &[u8]) -> SlackResult<String> {
        let length = bytes.len().to_string();
        let args = [("filename", name), ("length", &length)];
        let mut backoff = backoff();
        loop {
            let answer = self.call("files.getUploadURLExternal", "", &args, Urgency::Must)?;
            let (Some(url), Some(id)) = (answer["upload_url"].as_str(), answer["file_id"].as_str())
            else {
                let why = "files.getUploadURLExternal: no upload_url in the answer";
                return Err(Failure::Failed(why.to_owned()));
            };
            let failure = match self.transfer.post(url).send(bytes) {
                Ok(answer) if answer.status().is_success() => return Ok(id.to_owned()),
                Ok(answer) => Failure::Failed(format!("the upload: HTTP {}", answer.status())),
                Err(err) => fault("the upload", url, &err),
            };
            let (Failure::Failed(why) | Failure::Unknown(why)) = failure else {
                return Err(failure);
            };
            if backoff.failures() + 1 == UPLOADS_MAX {
                return Err(Failure::Failed(why));
            }
            log::debug!("", "{why}; trying again");
            self.pause(&mut backoff)?;
        }
    }

    /// Streams a file's bytes into `sink`. The token goes to Slack's own hosts only.
    pub(crate) fn download(
        &self,
        url: &str,
        bytes_max: u64,
        sink: &mut dyn Write,
    ) -> Result<Downloaded> {
        let mut url = url.to_owned();
        for _ in 0..5 {
            // Plain http is accepted only if the API's address is plain http too (in tests).
            if !url.starts_with("https://") && !self.url.starts_with("http://") {
                return Err(Error::failed("the file is not at an https address"));
            }
            let mut request = self.transfer.get(&url);
            if self.may_see_token(&url) {
                request = request.header("Authorization", format!("Bearer {}", self.bot.expose()));
            }
            let called = request.call();
            let response = called.map_err(|err| fault("the download", &url, &err))?;
            let (status, headers) = (response.status(), response.headers());
            if status.is_redirection() {
                let next = net::header(headers, "location").unwrap_or_default();
                url = next.to_owned();
                continue;
            }
            if !status.is_success() {
                let why = format!("HTTP {status}");
                return Err(match status.is_server_error() || status.as_u16() == 429 {
                    true => Error::Retry {
                        after: net::retry_after(headers),
                        why,
                        fault: None,
                    },
                    false => Error::Failed(why),
                });
            }
            return save(response, bytes_max, sink);
        }
        Err(Error::failed("too many redirects"))
    }

    /// Slack's own hosts, and the host of the API, which MOM_SLACK_API_URL may change.
    fn may_see_token(&self, url: &str) -> bool {
        let origin = |url: &str| (url.starts_with("https://"), net::host_of(url));
        let (is_safe, host) = origin(url);
        let is_slack =
            host == "slack.com" || host.ends_with(".slack.com") || host == "slack-files.com";
        is_safe && is_slack || origin(&self.url) == (is_safe, host)
    }

    fn call(
        &self,
        method: &'static str,
        channel: &str,
        args: &[(&str, &str)],
        urgency: Urgency,
    ) -> SlackResult<Value> {
        // If these were called twice, people would see two messages.
        let repeatable = !matches!(method, "chat.postMessage" | "files.completeUploadExternal");
        // Slack counts calls by method, posts by channel as well.
        let key = match method {
            "chat.postMessage" => format!("{method} {channel}"),
            _ => method.to_owned(),
        };
        let mut backoff = backoff();
        loop {
            self.wait_for(&key, urgency)?;
            let failure = match self.request(method, &self.bot, args) {
                Ok((answer, _)) => return Ok(answer),
                Err(failure) => failure,
            };
            if let Failure::Limited(after) = failure {
                self.limit(&key, after);
                if urgency == Urgency::Must {
                    log::warning!(channel, "{method}: {failure}");
                    // A rate limit is no failure: each is waited for, without a limit of tries.
                    continue;
                }
            }
            let passes = match &failure {
                // Slack's docs on these: "some aspect of the operation may have succeeded".
                Failure::Refused(code)
                    if !repeatable && matches!(code.as_str(), "internal_error" | "fatal_error") =>
                {
                    return Err(Failure::Unknown(format!("{method}: {code}")));
                }
                Failure::Refused(_) => !failure.stays(),
                Failure::Failed(_) => true,
                Failure::Unknown(_) => repeatable,
                _ => false,
            };
            let is_last = backoff.failures() + 1 == TRIES_MAX;
            if !passes || urgency == Urgency::Optional || is_last {
                return Err(failure);
            }
            log::debug!(channel, "{method}: {failure}; trying again");
            self.pause(&mut backoff)?;
        }
    }

    fn pause(&self, backoff: &mut Backoff) -> SlackResult<()> {
        let waited = backoff.wait(&self.stop, None);
        waited.map_err(|_| Failure::Stopped)
    }

    fn wait_for(&self, key: &str, urgency: Urgency) -> SlackResult<()> {
        loop {
            let until = self.limited.lock().unwrap().get(key).copied();
            let left = until.and_then(|until| until.checked_duration_since(Instant::now()));
            let Some(left) = left.filter(|left| !left.is_zero()) else {
                return Ok(());
            };
            if urgency == Urgency::Optional {
                return Err(Failure::Limited(left));
            }
            self.stop.wait(left).map_err(|_| Failure::Stopped)?;
        }
    }

    fn limit(&self, key: &str, after: Duration) {
        let until = Instant::now() + after;
        self.limited.lock().unwrap().insert(key.to_owned(), until);
    }

    /// One request, one answer.
    fn request(
        &self,
        method: &str,
        token: &Secret,
        args: &[(&str, &str)],
    ) -> SlackResult<(Value, HeaderMap)> {
        let url = format!("{}/{method}", self.url);
        let sent = self
            .agent
            .post(&url)
            .header("Authorization", format!("Bearer {}", token.expose()))
            // mom's own keys are masked in everything that is posted.
            .send_form(
                args.iter()
                    .map(|(name, value)| (*name, secret::hide((*value).to_owned()))),
            );
        let mut response = sent.map_err(|err| fault(method, &url, &err))?;
        let status = response.status();
        if status.as_u16() == 429 {
            return Err(limited(response.headers()));
        }
        let headers = response.headers().clone();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let text = body
            .read_to_string()
            .map_err(|err| match NetFault::of(&err) {
                NetFault::Stopped => Failure::Stopped,
                _ => Failure::Unknown(format!("{method}: the answer broke off: {err}")),
            })?;
        let without = |what| Failure::Unknown(format!("{method}: HTTP {status} without {what}"));
        let answer = parse_lenient(&text).map_err(|_| without("JSON"))?;
        if answer["ok"] == true {
            return Ok((answer, headers));
        }
        match answer["error"].as_str() {
            Some("ratelimited" | "rate_limited") => Err(limited(&headers)),
            Some("missing_scope") => {
                let needed = answer["needed"].as_str().unwrap_or("the scope Slack names");
                Err(Failure::Refused(format!("missing_scope:{needed}")))
            }
            Some(code) => Err(Failure::Refused(code.to_owned())),
            None => Err(without("ok")),
        }
    }
}

pub(crate) struct Pages<'a> {
    web: &'a Web,
    method: &'static str,
    args: &'a [(&'a str, &'a str)],
    /// Cursor of the next page, empty for the first; `None` after the last.
    cursor: Option<String>,
    left: usize,
}

impl Iterator for Pages<'_> {
    type Item = SlackResult<Vec<Value>>;

    fn next(&mut self) -> Option<SlackResult<Vec<Value>>> {
        self.left = self.left.checked_sub(1)?;
        let here = self.cursor.take()?;
        let mut args = self.args.to_vec();
        if !here.is_empty() {
            args.push(("cursor", &here));
        }
        let mut answer = match self.web.call(self.method, "", &args, Urgency::Must) {
            Ok(answer) => answer,
            Err(failure) => return Some(Err(failure)),
        };
        let next = answer["response_metadata"]["next_cursor"].as_str();
        self.cursor = next.filter(|next| !next.is_empty()).map(str::to_owned);
        let lists = ["messages", "members", "channels"];
        let mut items = lists.iter().map(|list| answer[*list].take());
        Some(Ok(match items.find(Value::is_array) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        }))
    }
}

/// Between the tries of a call.
fn backoff() -> Backoff {
    Backoff::new(PAUSE_FIRST, PAUSE_FIRST * 2_u32.pow(TRIES_MAX))
}

fn fault(what: &str, url: &str, err: &ureq::Error) -> Failure {
    let why = format!("{what}: {}", net::explain(&net::host_of(url), err));
    match NetFault::of(err) {
        NetFault::Stopped => Failure::Stopped,
        NetFault::Hopeless => Failure::Hopeless(why),
        NetFault::NotSent => Failure::Failed(why),
        NetFault::Unanswered => Failure::Unknown(why),
    }
}

/// Writes a body into `sink`.
fn save(mut response: Response<Body>, bytes_max: u64, sink: &mut dyn Write) -> Result<Downloaded> {
    let is_html = response.body().mime_type() == Some("text/html");
    let mut body = response.body_mut().as_reader().take(bytes_max + 1);
    let mut head = Vec::new();
    let begun = body.by_ref().take(HEAD_BYTES).read_to_end(&mut head);
    let copied = begun
        .and_then(|_| sink.write_all(&head))
        .and_then(|()| std::io::copy(&mut body, sink));
    match copied.map(|rest| head.len() as u64 + rest) {
        Ok(bytes) if bytes <= bytes_max => Ok(Downloaded {
            bytes,
            is_html,
            head,
        }),
        Ok(_) => Err(Error::failed("the file is larger than the limit")),
        Err(err) if NetFault::of(&err) == NetFault::Stopped => Err(Error::Stopped),
        Err(err) => Err(Error::retry(format!("the download broke off: {err}"))),
    }
}

fn limited(headers: &HeaderMap) -> Failure {
    let after = net::retry_after(headers).unwrap_or(RETRY_AFTER_DEFAULT);
    Failure::Limited(after.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stop::Cause;
    use crate::net::testing::{net, read_request, serve};
    use std::sync::mpsc::{self, Receiver};

    /// How the fake server answers a request.
    #[derive(Clone, Copy)]
    enum Does {
        Answers(&'static str, &'static str, &'static str),
        HangsUp,
    }
    use Does::{Answers, HangsUp};

    const OK: Does = Answers("200 OK", "", r#"{"ok":true,"ts":"1.2"}"#);
    const LIMITED: Does = Answers("429 Slow", "Retry-After: 1\r\n", "");
    const BROKEN: Does = Answers("500 Oops", "Content-Type: text/html\r\n", "<html>");
    const TEXT: PostContent = PostContent {
        text: String::new(),
        blocks: None,
        metadata: None,
    };

    /// A fake Slack that follows this script, and the requests it received.
    fn slack(script: &'static [Does]) -> (Web, Receiver<String>) {
        let (sender, requests) = mpsc::channel();
        let mut script = script.iter();
        let address = serve(move |mut tcp| {
            let request = read_request(&mut tcp);
            sender.send(request).ok();
            match script.next() {
                Some(Answers(status, headers, body)) => {
                    let body = body.replace("ADDRESS", &tcp.local_addr().unwrap().to_string());
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                    );
                    tcp.write_all(answer.as_bytes()).unwrap();
                }
                Some(HangsUp) | None => {}
            }
        });
        (
            web(&format!("http://{address}/api"), &Stop::new()),
            requests,
        )
    }

    fn web(url: &str, stop: &Stop) -> Web {
        let (app, bot) = (Secret::new("xapp-1"), Secret::new("xoxb-1"));
        Web::new(url, app, bot, &net(None), stop)
    }

    const fn json(body: &'static str) -> Does {
        Answers("200 OK", "", body)
    }

    #[test]
    fn what_is_repeated_and_what_is_not() {
        use Urgency::{Must, Optional};
        const INTERNAL: Does = json(r#"{"ok":false,"error":"internal_error"}"#);
        const NO: Does = json(r#"{"ok":false,"error":"not_in_channel"}"#);
        const RATED: Does = json(r#"{"ok":false,"error":"rate_limited"}"#);
        const NO_TS: Does = json(r#"{"ok":true}"#);
        const URL: Does = json(r#"{"ok":true,"file_id":"F1","upload_url":"http://ADDRESS/up"}"#);
        const SHARED: Does = json(r#"{"ok":true,"file":{"shares":{"public":{"C1":[]}}}}"#);
        const UNSHARED: Does = json(r#"{"ok":true,"file":{}}"#);
        const UNKNOWN: &str = "may have been done";
        let post = |web: &Web, urgency| web.chat_post_message("C1", None, &TEXT, urgency).map(drop);
        let edit = |web: &Web, urgency| web.chat_update("C1", "1.2", &TEXT, urgency);
        let share = |web: &Web, _| web.files_upload("C1", None, "a.txt", "A", b"abc");
        type Act<'a> = &'a dyn Fn(&Web, Urgency) -> SlackResult<()>;
        let cases: [(Act<'_>, Urgency, &'static [Does], &str); 17] = [
            (&edit, Must, &[BROKEN, HangsUp, OK], "done"),
            (&edit, Must, &[INTERNAL, OK], "done"),
            (&edit, Must, &[NO], "/invite @mom"),
            (&edit, Optional, &[BROKEN], "500"),
            (&edit, Optional, &[LIMITED], "limited for 1 s"),
            (&edit, Must, &[LIMITED, LIMITED, OK], "done"),
            (&edit, Optional, &[RATED], "limited for 30 s"),
            (&post, Must, &[LIMITED, OK], "done"),
            (&post, Must, &[BROKEN], UNKNOWN),
            (&post, Must, &[HangsUp], UNKNOWN),
            (&post, Must, &[INTERNAL], UNKNOWN),
            (&post, Must, &[NO_TS], "no ts"),
            (&share, Must, &[URL, OK, NO], "/invite @mom"),
            (
                &share,
                Must,
                &[URL, BROKEN, URL, HangsUp, URL, OK, OK],
                "done",
            ),
            (&share, Must, &[URL, OK, HangsUp, SHARED], "done"),
            (&share, Must, &[URL, OK, HangsUp, UNSHARED, OK], "done"),
            (&share, Must, &[URL, OK, BROKEN, UNSHARED, BROKEN], UNKNOWN),
        ];
        for (case, (act, urgency, script, want)) in cases.into_iter().enumerate() {
            let (web, requests) = slack(script);
            let outcome = match act(&web, urgency) {
                Ok(()) => "done".to_owned(),
                Err(failure) => failure.to_string(),
            };
            assert!(outcome.contains(want), "{case}: {outcome}");
            let requests: Vec<String> = requests.try_iter().collect();
            assert_eq!(requests.len(), script.len(), "{case}");
            // The address is not one of Slack's methods.
            let mut uploads = requests
                .iter()
                .filter(|request| request.starts_with("POST /up "));
            assert!(uploads.all(|request| !request.contains("Bearer")), "{case}");
        }
    }

    #[test]
    fn a_limit_holds_for_its_method_and_channel() {
        let (web, requests) = slack(&[Answers("429 Slow", "Retry-After: 99\r\n", ""), OK, OK]);
        let progress = |channel| web.chat_post_message(channel, None, &TEXT, Urgency::Optional);
        let limited = |outcome| matches!(outcome, Err(Failure::Limited(_)));
        assert!(limited(progress("C1")));
        assert!(limited(progress("C1")), "not asked again");
        assert_eq!(progress("C2"), Ok("1.2".to_owned()));
        assert_eq!(web.chat_delete("C1", "1.2", Urgency::Optional), Ok(()));
        assert_eq!(requests.try_iter().count(), 3);
        // A call that must be made waits, until the stop.
        web.stop.set(Cause::Restart);
        let outcome = web.chat_post_message("C1", None, &TEXT, Urgency::Must);
        assert_eq!(outcome, Err(Failure::Stopped));
    }

    #[test]
    fn what_waiting_does_not_mend_is_told_with_the_fix() {
        for (code, want, retry) in [
            ("invalid_auth", "check MOM_SLACK_APP_TOKEN", false),
            (
                "missing_scope",
                "new app-level token with connections:write",
                false,
            ),
            ("internal_error", "apps.connections.open", true),
        ] {
            let answer = format!(r#"{{"ok":false,"error":"{code}","needed":"connections:write"}}"#);
            let (web, _) = slack(vec![Answers("200 OK", "", answer.leak())].leak());
            let err = web.apps_connections_open().err().unwrap();
            assert!(err.to_string().contains(want), "{err}");
            assert_eq!(matches!(err, Error::Retry { .. }), retry, "{err}");
        }
    }

    #[test]
    fn the_token_goes_to_slack_alone() {
        let slack = web("https://slack.com/api", &Stop::new());
        let other = web("http://127.0.0.1:80/api", &Stop::new());
        for (web, url, want) in [
            (&slack, "https://files.slack.com/files-pri/a.png", true),
            (&slack, "https://slack-files.com/x", true),
            (&slack, "http://files.slack.com/x", false),
            (&slack, "https://slack.com:8443/x", false),
            (&slack, "https://evilslack.com/x", false),
            (&slack, "https://slack.com.evil.org/x", false),
            (&slack, "https://evil.org/.slack.com", false),
            (&slack, "https://evil.org#.slack.com", false),
            (&slack, "https://evil.org?.slack.com", false),
            (&slack, "https://a.slack.com@evil.org/", false),
            (&slack, "ftp://slack.com/x", false),
            (&other, "http://127.0.0.1/x", true),
            (&other, "https://127.0.0.1/x", false),
            (&other, "http://127.0.0.1:81/x", false),
        ] {
            assert_eq!(web.may_see_token(url), want, "{url}");
        }
    }

    #[test]
    fn downloads() {
        let (web, requests) = slack(&[
            Answers("200 OK", "Content-Type: image/png\r\n", "12345"),
            Answers("200 OK", "Content-Type: image/png\r\n", "123456"),
            Answers(
                "200 OK",
                "Content-Type: text/html; charset=utf-8\r\n",
                "<p>",
            ),
            Answers("302 Go", "Location: http://localhost:1/x\r\n", ""),
            Answers("404 No", "", ""),
            Answers("503 Later", "Retry-After: 7\r\n", ""),
        ]);
        let url = web.url.replace("/api", "/f");
        for (want, retry) in [
            ("5 false", false),
            ("larger than the limit", false),
            ("3 true", false),
            ("cannot reach localhost:1", true),
            ("HTTP 404", false),
            ("HTTP 503", true),
        ] {
            let outcome = web.download(&url, 5, &mut Vec::new());
            let retried = matches!(outcome, Err(Error::Retry { .. }));
            let outcome = match outcome {
                Ok(got) => format!("{} {}", got.bytes, got.is_html),
                Err(err) => err.to_string(),
            };
            assert!(outcome.contains(want), "{want}: {outcome}");
            assert_eq!(retried, retry, "{want}");
        }
        assert!(
            requests
                .try_iter()
                .all(|request| request.contains("Bearer xoxb-1"))
        );
        let secure = self::web("https://slack.com/api", &Stop::new());
        let err = secure
            .download("http://127.0.0.1:1/x", 5, &mut Vec::new())
            .unwrap_err();
        assert!(err.to_string().contains("https"), "{err}");
    }
}

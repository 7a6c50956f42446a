//! The Web API of FakeSlack: one table of methods, each a function over the workspace.
//! Rules and error codes are those of docs.slack.dev; lengths are counted in UTF-16.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{
    APP_TOKEN, BOT, BOT_ID, BOT_TOKEN, Call, Channel, Fault, File, Kind, Message, State, socket,
};
use crate::http::{Answer, Gate, Peer, Reply, Request, form};
use crate::watch::Watched;

/// What the manifest asks for.
pub(crate) const SCOPES: &[&str] = &[
    "app_mentions:read",
    "channels:history",
    "channels:read",
    "chat:write",
    "files:read",
    "files:write",
    "groups:history",
    "groups:read",
    "im:history",
    "im:read",
    "im:write",
    "mpim:history",
    "mpim:read",
    "mpim:write",
    "reactions:write",
    "users:read",
];

/// The object of an `ok:true` answer, or of an `ok:false` one.
type Outcome = Result<Value, Value>;

/// Name, scope of the bot token, arguments that must be there, the method itself.
type Method = (
    &'static str,
    &'static str,
    &'static [&'static str],
    fn(&mut State, &Args) -> Outcome,
);

const METHODS: &[Method] = &[
    ("apps.connections.open", "", &[], connections_open),
    (
        "assistant.threads.setStatus",
        "chat:write",
        &["channel_id", "thread_ts", "status"],
        set_status,
    ),
    ("auth.test", "", &[], auth_test),
    ("chat.delete", "chat:write", &["channel", "ts"], chat_delete),
    (
        "chat.postEphemeral",
        "chat:write",
        &["channel", "user"],
        chat_post_ephemeral,
    ),
    ("chat.postMessage", "chat:write", &["channel"], chat_post),
    ("chat.update", "chat:write", &["channel", "ts"], chat_update),
    ("conversations.history", "", &["channel"], history),
    ("conversations.info", "", &["channel"], conversation_info),
    ("conversations.list", "", &[], conversations_list),
    ("conversations.open", "im:write", &[], conversations_open),
    ("conversations.replies", "", &["channel", "ts"], replies),
    (
        "files.completeUploadExternal",
        "files:write",
        &["files"],
        complete_upload,
    ),
    (
        "files.getUploadURLExternal",
        "files:write",
        &["filename", "length"],
        upload_url,
    ),
    ("files.info", "files:read", &["file"], file_info),
    (
        "reactions.add",
        "reactions:write",
        &["channel", "name", "timestamp"],
        reactions_add,
    ),
    ("users.conversations", "", &[], users_conversations),
    ("users.info", "users:read", &["user"], user_info),
    ("users.list", "users:read", &[], users_list),
];

struct Args(Map<String, Value>);

impl Args {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or("")
    }

    fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1")
    }

    /// From the form, the query or, for methods that write, a JSON body.
    fn of(request: &Request, method: &str) -> Args {
        let writes = [
            "chat.",
            "reactions.",
            "assistant.",
            "conversations.open",
            "files.complete",
        ];
        let fields: Vec<(String, Value)> = if request
            .header("content-type")
            .starts_with("application/json")
        {
            let body = serde_json::from_slice(&request.body).unwrap_or_default();
            match body {
                Value::Object(map) if writes.iter().any(|start| method.starts_with(start)) => {
                    map.into_iter().collect()
                }
                _ => Vec::new(),
            }
        } else {
            let body = String::from_utf8_lossy(&request.body);
            let all = request.query.clone().into_iter().chain(form(&body));
            all.map(|(key, value)| (key, Value::from(value))).collect()
        };
        let as_text = |value: Value| match value {
            Value::String(_) => value,
            other => other.to_string().into(),
        };
        Args(
            fields
                .into_iter()
                .map(|(key, value)| (key, as_text(value)))
                .collect(),
        )
    }
}

fn no(code: &str) -> Value {
    json!({"error": code})
}

pub(super) fn answer(state: &Arc<Watched<State>>, request: &Request, peer: &Peer<'_>) -> Answer {
    if let Some(method) = request.path.strip_prefix("/api/") {
        return call(state, method, request, peer);
    }
    if let Some(id) = request.path.strip_prefix("/upload/v1/") {
        return Answer::Reply(state.change(|state| upload(state, id, request)));
    }
    if let Some(path) = request.path.strip_prefix("/files-pri/T01-") {
        return Answer::Reply(download(&state.lock(), path, request));
    }
    match request.path.as_str() {
        "/link/" => open_socket(state, request, peer),
        "/response" => Answer::Reply(Reply::json(200, &json!({"ok": true}))),
        _ => Answer::Reply(Reply::new(404, "text/html", "<html>not found</html>")),
    }
}

fn open_socket(state: &Arc<Watched<State>>, request: &Request, peer: &Peer<'_>) -> Answer {
    let ticket = request.query.get("ticket").cloned().unwrap_or_default();
    let (known, fault) =
        state.change(|state| (state.tickets.remove(&ticket), take_fault(state, "socket")));
    let ours = Arc::clone(state);
    match fault {
        Some(Fault::Stall(gate)) if peer.pause(&gate, None).is_err() => Answer::HangUp,
        Some(Fault::Html(status)) => {
            Answer::Reply(Reply::new(status, "text/html", "<html>oops</html>"))
        }
        Some(Fault::Drop) => Answer::HangUp,
        _ if !known => Answer::Reply(Reply::new(
            401,
            "text/html",
            "<html>this URL was used before</html>",
        )),
        _ => Answer::Upgrade(Box::new(move |conn| socket::serve(&ours, conn))),
    }
}

fn take_fault(state: &mut State, method: &str) -> Option<Fault> {
    let mut found = None;
    state.faults.retain_mut(|(name, to_go, fault)| {
        let hit = name == method && *to_go <= 1;
        if name == method && *to_go > 1 {
            *to_go -= 1;
        }
        if hit && found.is_none() {
            found = Some(fault.clone());
        }
        !hit || *to_go == 0
    });
    found
}

fn call(state: &Arc<Watched<State>>, method: &str, request: &Request, peer: &Peer<'_>) -> Answer {
    let args = Args::of(request, method);
    let record = |state: &mut State, answer: Value| {
        state.calls.push(Call {
            method: method.into(),
            args: args.0.clone(),
            answer,
            at: Instant::now(),
        });
    };
    let (latency, fault) = state.change(|state| (state.latency, take_fault(state, method)));
    if latency > Duration::ZERO && peer.pause(&Gate::new(), Some(latency)).is_err() {
        return Answer::HangUp;
    }
    let failed = |name: &str| state.change(|state| record(state, name.into()));
    match &fault {
        Some(Fault::Code(code) | Fault::Blocks(code))
            if matches!(fault, Some(Fault::Code(_))) || args.get("blocks").len() > 2 =>
        {
            let answer = json!({"ok": false, "error": code});
            state.change(|state| record(state, answer.clone()));
            return Answer::Reply(Reply::json(200, &answer));
        }
        Some(Fault::Limited(seconds)) => {
            let wait = Duration::from_secs((*seconds).into());
            return Answer::Reply(state.change(|state| {
                record(state, "429".into());
                limited(state, limit_key(method, &args), wait)
            }));
        }
        Some(Fault::Html(status)) => {
            failed("HTML");
            return Answer::Reply(Reply::new(
                *status,
                "text/html",
                "<html><body>Slack is down</body></html>",
            ));
        }
        Some(Fault::Drop) => {
            failed("dropped");
            return Answer::HangUp;
        }
        Some(Fault::Stall(gate)) => {
            failed("stalled");
            if peer.pause(gate, None).is_err() {
                return Answer::HangUp;
            }
        }
        _ => {}
    }
    let reply = state.change(|state| {
        if let Some(reply) = over_limit(state, method, &args) {
            record(state, "429".into());
            return reply;
        }
        let outcome = perform(state, method, &args, request.bearer());
        let ok = outcome.is_ok();
        let mut answer = outcome.unwrap_or_else(|refused| {
            let code = refused["error"].as_str().unwrap_or("");
            if !state.allowed.contains(code) {
                state.complaints.push(format!(
                    "{method}: {refused} for {}",
                    Value::from(args.0.clone())
                ));
            }
            refused
        });
        answer["ok"] = ok.into();
        if !matches!(fault, Some(Fault::Stall(_))) {
            record(state, answer.clone());
        }
        let scopes: Vec<&str> = state.scopes.iter().map(String::as_str).collect();
        Reply::json(200, &answer).header("x-oauth-scopes", scopes.join(","))
    });
    match fault {
        Some(Fault::DropAfter) => Answer::HangUp,
        Some(Fault::StallAfter(gate)) if peer.pause(&gate, None).is_err() => Answer::HangUp,
        _ => Answer::Reply(reply),
    }
}

/// Posting is limited by channel, everything else by method.
fn limit_key(method: &str, args: &Args) -> String {
    match method {
        "chat.postMessage" => format!("{method} {}", args.get("channel")),
        _ => method.into(),
    }
}

fn limited(state: &mut State, key: String, wait: Duration) -> Reply {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    state
        .blocked_until
        .insert(key, Instant::now() + Duration::from_secs_f64(seconds));
    Reply::json(429, &json!({"ok": false, "error": "ratelimited"})).header("Retry-After", seconds)
}

fn over_limit(state: &mut State, method: &str, args: &Args) -> Option<Reply> {
    let key = limit_key(method, args);
    let now = Instant::now();
    if let Some(early) = state
        .blocked_until
        .get(&key)
        .and_then(|until| until.checked_duration_since(now))
    {
        state.complaints.push(format!(
            "{key}: called {early:?} before its Retry-After was over"
        ));
        return Some(limited(state, key, early));
    }
    let &(most, period) = state.limits.get(method)?;
    let counts = |call: &&Call| {
        call.ok()
            && call.method == method
            && limit_key(method, &Args(call.args.clone())) == key
            && now - call.at < period
    };
    let recent: Vec<Instant> = state
        .calls
        .iter()
        .filter(counts)
        .map(|call| call.at)
        .collect();
    (recent.len() >= most).then(|| limited(state, key, period - (now - recent[0])))
}

fn perform(state: &mut State, method: &str, args: &Args, token: Option<&str>) -> Outcome {
    let Some((_, scope, needs, run)) = METHODS.iter().find(|(name, ..)| *name == method) else {
        return Err(no("unknown_method"));
    };
    let wants = if *method == *"apps.connections.open" {
        APP_TOKEN
    } else {
        BOT_TOKEN
    };
    match token {
        None | Some("") => return Err(no("not_authed")),
        Some(token) if token == wants => {}
        Some(APP_TOKEN | BOT_TOKEN) => return Err(no("not_allowed_token_type")),
        Some(_) => return Err(no("invalid_auth")),
    }
    granted(state, scope)?;
    if let Some(missing) = needs.iter().find(|name| !args.0.contains_key(**name)) {
        let message = format!("[ERROR] missing required field: {missing}");
        return Err(
            json!({"error": "invalid_arguments", "response_metadata": {"messages": [message]}}),
        );
    }
    let blocks: Vec<Value> = serde_json::from_str(args.get("blocks")).unwrap_or_default();
    let refused = |block: &Value| {
        let kind = block["type"].as_str().unwrap_or("");
        state.refused_blocks.contains(kind)
    };
    if blocks.iter().any(refused) {
        return Err(no("invalid_blocks"));
    }
    run(state, args)
}

fn granted(state: &State, scope: &str) -> Result<(), Value> {
    if scope.is_empty() || state.scopes.contains(scope) {
        return Ok(());
    }
    let provided: Vec<&str> = state.scopes.iter().map(String::as_str).collect();
    Err(json!({"error": "missing_scope", "needed": scope, "provided": provided.join(",")}))
}

fn connections_open(state: &mut State, _: &Args) -> Outcome {
    let ticket = state.new_id("ticket-");
    state.tickets.insert(ticket.clone());
    let base = state.base.replacen("http", "ws", 1);
    Ok(json!({"url": format!("{base}/link/?ticket={ticket}&app_id=A01")}))
}

fn auth_test(state: &mut State, _: &Args) -> Outcome {
    Ok(
        json!({"url": "https://fake.slack.com/", "team": "Fake", "user": "mom", "team_id": "T01", "user_id": BOT,
        "bot_id": BOT_ID, "app_id": "A01", "enterprise_id": state.enterprise, "is_enterprise_install": false, "fake": state.base}),
    )
}

// People and channels.

fn user_info(state: &mut State, args: &Args) -> Outcome {
    let user = state
        .users
        .get(args.get("user"))
        .ok_or_else(|| no("user_not_found"))?;
    Ok(json!({"user": user}))
}

fn users_list(state: &mut State, args: &Args) -> Outcome {
    page(args, "members", state.users.values().cloned().collect())
}

/// One page of a list, as `limit` and `cursor` say.
fn page(args: &Args, name: &str, all: Vec<Value>) -> Outcome {
    let (limit, start) = (limit(args, 100)?, args.get("cursor"));
    let start = match start.strip_prefix("at-") {
        Some(n) => n.parse().map_err(|_| no("invalid_cursor"))?,
        None if start.is_empty() => 0,
        None => return Err(no("invalid_cursor")),
    };
    let end = all.len().min(start + limit);
    let next = if end < all.len() {
        format!("at-{end}")
    } else {
        String::new()
    };
    Ok(
        json!({name: all.get(start..end).unwrap_or_default(), "response_metadata": {"next_cursor": next}}),
    )
}

fn limit(args: &Args, default: usize) -> Result<usize, Value> {
    match args.get("limit") {
        "" => Ok(default),
        text => text
            .parse()
            .ok()
            .filter(|n| (1..1000).contains(n))
            .ok_or_else(|| no("invalid_limit")),
    }
}

/// The name of a kind of conversation in scopes, and in `types`.
fn names(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Public => ("channels", "public_channel"),
        Kind::Private => ("groups", "private_channel"),
        Kind::Im => ("im", "im"),
        Kind::Mpim => ("mpim", "mpim"),
    }
}

/// The channel as the bot sees it: a private one it is not in does not exist.
fn find<'a>(state: &'a mut State, id: &str, right: &str) -> Result<&'a mut Channel, Value> {
    let visible = |channel: &&Channel| channel.is_member || channel.kind == Kind::Public;
    let channel = state
        .channels
        .get(id)
        .filter(visible)
        .ok_or_else(|| no("channel_not_found"))?;
    if !right.is_empty() {
        granted(state, &format!("{}:{right}", names(channel.kind).0))?;
    }
    Ok(state.channels.get_mut(id).expect("found above"))
}

fn member<'a>(state: &'a mut State, id: &str, right: &str) -> Result<&'a mut Channel, Value> {
    let channel = find(state, id, right)?;
    if channel.is_member {
        Ok(channel)
    } else {
        Err(no("not_in_channel"))
    }
}

/// The channel if mom may write in it.
fn open_member<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Channel, Value> {
    let channel = member(state, id, "")?;
    if channel.is_archived {
        Err(no("is_archived"))
    } else {
        Ok(channel)
    }
}

impl Channel {
    fn json(&self) -> Value {
        let mut json = json!({"id": self.id, "is_channel": self.kind == Kind::Public, "is_group": self.kind == Kind::Private,
            "is_im": self.kind == Kind::Im, "is_mpim": self.kind == Kind::Mpim, "is_private": self.kind != Kind::Public,
            "is_archived": self.is_archived, "is_member": self.is_member});
        json[if self.kind == Kind::Im {
            "user"
        } else {
            "name"
        }] = self.name.as_str().into();
        json
    }
}

fn conversation_info(state: &mut State, args: &Args) -> Outcome {
    Ok(json!({"channel": find(state, args.get("channel"), "read")?.json()}))
}

fn conversations_list(state: &mut State, args: &Args) -> Outcome {
    let types = if args.get("types").is_empty() {
        "public_channel"
    } else {
        args.get("types")
    };
    let types: Vec<&str> = types.split(',').map(str::trim).collect();
    for kind in [Kind::Public, Kind::Private, Kind::Im, Kind::Mpim] {
        if types.contains(&names(kind).1) {
            granted(state, &format!("{}:read", names(kind).0))?;
        }
    }
    let listed = |channel: &&Channel| {
        types.contains(&names(channel.kind).1)
            && (channel.is_member || channel.kind == Kind::Public)
            && !(channel.is_archived && args.is_true("exclude_archived"))
    };
    page(
        args,
        "channels",
        state
            .channels
            .values()
            .filter(listed)
            .map(Channel::json)
            .collect(),
    )
}

fn users_conversations(state: &mut State, args: &Args) -> Outcome {
    let mut all = conversations_list(state, args)?;
    let channels = all["channels"].as_array_mut().expect("made above");
    channels.retain(|channel| channel["is_member"] == true);
    Ok(all)
}

fn conversations_open(state: &mut State, args: &Args) -> Outcome {
    let users: Vec<&str> = args
        .get("users")
        .split(',')
        .filter(|user| !user.is_empty())
        .collect();
    if users.iter().any(|user| !state.users.contains_key(*user)) {
        return Err(no("user_not_found"));
    }
    let id = match users[..] {
        [] => find(state, args.get("channel"), "")?.id.clone(),
        [user] => state.im_of(user),
        _ => {
            granted(state, "mpim:write")?;
            let id = state.new_id("G");
            state.add_channel(&id, &users.join("-"), Kind::Mpim);
            id
        }
    };
    Ok(json!({"channel": {"id": id}}))
}

// Messages.

impl Message {
    /// As history and events have it; `channel` to count the replies of a root.
    pub(super) fn json(&self, channel: Option<&Channel>, all_metadata: bool) -> Value {
        let mut json = json!({"type": "message", "user": self.user, "text": self.text, "ts": self.ts, "team": "T01"});
        if self.user == BOT {
            json["bot_id"] = BOT_ID.into();
            json["app_id"] = "A01".into();
        } else if self.user.starts_with('B') {
            json["subtype"] = "bot_message".into();
            json["username"] = "ci".into();
            json["bot_id"] = json["user"].take();
        }
        let replies = channel
            .map(|channel| channel.replies(&self.ts))
            .unwrap_or_default();
        if let Some(last) = replies.last() {
            json["reply_count"] = replies.len().into();
            json["latest_reply"] = last.ts.as_str().into();
            json["thread_ts"] = self.ts.as_str().into();
        }
        if let Some(root) = &self.thread_ts {
            json["thread_ts"] = root.as_str().into();
        }
        let reactions = self
            .reactions
            .iter()
            .map(|name| json!({"name": name, "count": 1, "users": [BOT]}));
        for (key, list) in [
            ("blocks", &self.blocks),
            ("files", &self.files),
            ("reactions", &reactions.collect()),
        ] {
            if !list.is_empty() {
                json[key] = list.clone().into();
            }
        }
        if !self.earlier.is_empty() {
            json["edited"] = json!({"user": self.user, "ts": self.ts});
        }
        if self.tombstone {
            json["subtype"] = "tombstone".into();
        }
        if all_metadata && !self.metadata.is_null() {
            json["metadata"] = self.metadata.clone();
        }
        let extra = self.extra.clone();
        json.as_object_mut().expect("a message").extend(extra);
        json
    }
}

pub(super) fn message_event(channel: &Channel, message: &Message) -> Value {
    let mut event = message.json(None, false);
    event["channel"] = channel.id.as_str().into();
    event["channel_type"] = match channel.kind {
        Kind::Public => "channel".into(),
        Kind::Private => "group".into(),
        kind => names(kind).0.into(),
    };
    event["event_ts"] = message.ts.as_str().into();
    if !message.files.is_empty() {
        event["subtype"] = "file_share".into();
    }
    let extra = message.extra.clone();
    event.as_object_mut().expect("a message").extend(extra);
    event
}

/// Changes a message and tells it; the message then.
pub(super) fn change_message(
    state: &mut State,
    channel: &str,
    ts: &str,
    change: impl FnOnce(&mut Message),
) -> Message {
    let all = state
        .channels
        .get_mut(channel)
        .expect("a channel of the fake");
    let message = all
        .messages
        .iter_mut()
        .find(|message| message.ts == ts)
        .expect("a message of it");
    let before = message.clone();
    change(message);
    message.earlier.push(before.shown());
    let after = message.clone();
    tell_change(state, channel, "message_changed", &before, Some(&after));
    after
}

pub(super) fn delete_message(state: &mut State, channel: &str, ts: &str) {
    let all = state
        .channels
        .get_mut(channel)
        .expect("a channel of the fake");
    let at = all
        .messages
        .iter()
        .position(|message| message.ts == ts)
        .expect("a message of it");
    let before = all.messages[at].clone();
    if all.replies(ts).is_empty() {
        all.messages.remove(at);
    } else {
        all.messages[at].tombstone = true;
    }
    tell_change(state, channel, "message_deleted", &before, None);
}

fn tell_change(
    state: &mut State,
    channel: &str,
    subtype: &str,
    before: &Message,
    after: Option<&Message>,
) {
    let now = state.new_ts();
    let mut event = message_event(&state.channels[channel], &Message::default());
    for (key, value) in [
        ("subtype", subtype.into()),
        ("hidden", true.into()),
        ("ts", now.clone().into()),
        ("event_ts", now.into()),
        ("previous_message", before.json(None, false)),
    ] {
        event[key] = value;
    }
    match after {
        Some(after) => event["message"] = after.json(None, false),
        None => event["deleted_ts"] = before.ts.as_str().into(),
    }
    for absent in ["user", "text", "team"] {
        event.as_object_mut().expect("an object").remove(absent);
    }
    state.emit(event);
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// Text and blocks of a post or an update.
fn content(args: &Args) -> Result<(String, Vec<Value>), Value> {
    let (text, markdown) = (args.get("text"), args.get("markdown_text"));
    let blocks = match args.get("blocks") {
        "" => Vec::new(),
        json => serde_json::from_str(json).map_err(|_| no("invalid_blocks_format"))?,
    };
    check_blocks(&blocks)?;
    if !markdown.is_empty() {
        if !text.is_empty() || !blocks.is_empty() {
            return Err(no("markdown_text_conflict"));
        }
        if units(markdown) > 12_000 {
            return Err(no("msg_too_long"));
        }
        return Ok((
            markdown.into(),
            vec![json!({"type": "markdown", "text": markdown})],
        ));
    }
    if text.trim().is_empty() && blocks.is_empty() {
        return Err(no("no_text"));
    }
    Ok((text.into(), blocks))
}

fn check_blocks(blocks: &[Value]) -> Result<(), Value> {
    let wrong = |what: String| {
        Err(
            json!({"error": "invalid_blocks", "response_metadata": {"messages": [format!("[ERROR] {what}")]}}),
        )
    };
    if blocks.len() > 50 {
        return wrong(format!("{} blocks, 50 are allowed", blocks.len()));
    }
    let (mut markdown, mut others) = (0, 0);
    for block in blocks {
        let kind = block["type"].as_str().unwrap_or("");
        let elements = block["elements"].as_array().map_or(0, Vec::len);
        let (text, style) = match &block["text"] {
            Value::String(text) => (units(text), "string"),
            Value::Object(text) => (
                units(text["text"].as_str().unwrap_or("")),
                text["type"].as_str().unwrap_or(""),
            ),
            _ => (0, ""),
        };
        let good = match kind {
            "markdown" => {
                markdown += text;
                style == "string" && text > 0
            }
            "plan" => good_plan(block),
            "section" => {
                let fields = block["fields"].as_array().map_or(0, Vec::len);
                (matches!(style, "mrkdwn" | "plain_text") && (1..=3000).contains(&text))
                    || (1..=10).contains(&fields)
            }
            "header" => style == "plain_text" && (1..=150).contains(&text),
            "context" => (1..=10).contains(&elements),
            "actions" => {
                (1..=25).contains(&elements)
                    && block["elements"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .all(good_button)
            }
            "rich_text" => good_rich_text(block),
            "table" => block["rows"].as_array().is_some_and(|rows| {
                let narrow = |row: &Value| row.as_array().is_some_and(|cells| cells.len() <= 20);
                (1..=100).contains(&rows.len()) && rows.iter().all(narrow)
            }),
            "divider" | "image" => true,
            _ => false,
        };
        if !good || units(block["block_id"].as_str().unwrap_or("")) > 255 {
            return wrong(block.to_string());
        }
        if kind != "markdown" {
            others += units(&block.to_string());
        }
    }
    if markdown > 12_000 || markdown + others > 13_200 {
        return Err(no("msg_blocks_too_long"));
    }
    Ok(())
}

fn good_plan(plan: &Value) -> bool {
    let named = |value: &Value| value.as_str().is_some_and(|text| !text.trim().is_empty());
    let Some(cards) = plan["tasks"].as_array() else {
        return false;
    };
    let ids: BTreeSet<&str> = cards
        .iter()
        .filter_map(|card| card["task_id"].as_str())
        .collect();
    let good_card = |card: &Value| {
        let status = card["status"].as_str().unwrap_or("");
        card["type"] == "task_card"
            && named(&card["task_id"])
            && named(&card["title"])
            && ["pending", "in_progress", "complete", "error"].contains(&status)
            && ["details", "output"]
                .iter()
                .all(|key| good_rich_text(&card[key]))
    };
    named(&plan["title"])
        && (1..=50).contains(&cards.len())
        && ids.len() == cards.len()
        && cards.iter().all(good_card)
}

/// One object, or none; of the elements only plain text, which can ping nobody.
fn good_rich_text(value: &Value) -> bool {
    let kinds = ["rich_text_section", "rich_text_preformatted"];
    let text = |element: &Value| {
        element["type"] == "text"
            && element["text"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
    };
    let list = |value: &Value, good: &dyn Fn(&Value) -> bool| {
        value["elements"]
            .as_array()
            .is_some_and(|all| !all.is_empty() && all.iter().all(good))
    };
    let part =
        |part: &Value| kinds.contains(&part["type"].as_str().unwrap_or("")) && list(part, &text);
    value.is_null() || value["type"] == "rich_text" && list(value, &part)
}

fn good_button(element: &Value) -> bool {
    let text = &element["text"];
    let label = units(text["text"].as_str().unwrap_or(""));
    element["type"] == "button"
        && text["type"] == "plain_text"
        && (1..=75).contains(&label)
        && units(element["value"].as_str().unwrap_or("")) <= 2000
        && units(element["action_id"].as_str().unwrap_or("")) <= 255
        && matches!(element["style"].as_str(), None | Some("primary" | "danger"))
}

fn metadata(args: &Args) -> Result<Option<Value>, Value> {
    let text = args.get("metadata");
    if text.is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(text).map_err(|_| no("invalid_metadata_format"))?;
    let good = value["event_type"].is_string() && value["event_payload"].is_object();
    if good {
        Ok(Some(value))
    } else {
        Err(no("invalid_metadata_schema"))
    }
}

/// A thread's root: a message of the channel that is no reply itself.
fn root(channel: &Channel, args: &Args) -> Result<Option<String>, Value> {
    let ts = args.get("thread_ts");
    match channel.messages.iter().find(|message| message.ts == ts) {
        _ if ts.is_empty() => Ok(None),
        None => Err(no("thread_not_found")),
        Some(message) if message.thread_ts.is_some() => Err(no("cannot_reply_to_message")),
        Some(_) => Ok(Some(ts.into())),
    }
}

fn chat_post(state: &mut State, args: &Args) -> Outcome {
    let (text, blocks) = content(args)?;
    let to = args.get("channel");
    let id = if state.users.contains_key(to) {
        state.im_of(to)
    } else {
        to.into()
    };
    let thread_ts = root(open_member(state, &id)?, args)?;
    let message = Message {
        ts: state.new_ts(),
        thread_ts,
        user: BOT.into(),
        text: text.chars().take(40_000).collect(),
        blocks,
        metadata: metadata(args)?.unwrap_or_default(),
        parse: if args.get("parse").is_empty() {
            "none"
        } else {
            args.get("parse")
        }
        .into(),
        ..Message::default()
    };
    if let Some(root) = &message.thread_ts {
        // The line below a thread goes with the app's next message there.
        state.statuses.push(format!("{id}/{root}: "));
    }
    post(state, &id, message.clone());
    Ok(json!({"channel": id, "ts": message.ts, "message": message.json(None, false)}))
}

/// Only the user sees it: it is no message of the channel.
fn chat_post_ephemeral(state: &mut State, args: &Args) -> Outcome {
    content(args)?;
    member(state, args.get("channel"), "")?;
    if !state.users.contains_key(args.get("user")) {
        return Err(no("user_not_in_channel"));
    }
    Ok(json!({"message_ts": state.new_ts()}))
}

fn post(state: &mut State, channel: &str, message: Message) {
    let channel = state
        .channels
        .get_mut(channel)
        .expect("checked by the caller");
    let event = message_event(channel, &message);
    channel.messages.push(message);
    state.emit(event);
}

/// A message of the bot's own, or the refusal.
fn own(state: &mut State, id: &str, ts: &str, refusal: &str) -> Result<(), Value> {
    let channel = find(state, id, "")?;
    if channel.is_archived {
        return Err(no("is_inactive"));
    }
    let mut messages = channel.messages.iter();
    let found = messages.find(|message| message.ts == ts && !message.tombstone);
    match found {
        None => Err(no("message_not_found")),
        Some(message) if message.user != BOT => Err(no(refusal)),
        Some(_) => Ok(()),
    }
}

fn chat_update(state: &mut State, args: &Args) -> Outcome {
    let (id, ts) = (args.get("channel"), args.get("ts"));
    let (text, blocks) = content(args)?;
    own(state, id, ts, "cant_update_message")?;
    if units(args.get("text")) > 4000 {
        return Err(no("msg_too_long"));
    }
    let metadata = metadata(args)?;
    let message = change_message(state, id, ts, |message| {
        (message.text, message.blocks) = (text, blocks);
        message.parse = if args.get("parse").is_empty() {
            "client"
        } else {
            args.get("parse")
        }
        .into();
        if let Some(metadata) = metadata {
            message.metadata = metadata;
        }
    });
    Ok(json!({"channel": id, "ts": ts, "text": message.text, "message": message.json(None, false)}))
}

fn chat_delete(state: &mut State, args: &Args) -> Outcome {
    let (id, ts) = (args.get("channel"), args.get("ts"));
    own(state, id, ts, "cant_delete_message")?;
    delete_message(state, id, ts);
    Ok(json!({"channel": id, "ts": ts}))
}

fn reactions_add(state: &mut State, args: &Args) -> Outcome {
    let name = args.get("name");
    if name.is_empty() || name.contains(':') {
        return Err(no("invalid_name"));
    }
    let channel = open_member(state, args.get("channel"))?;
    let found = channel
        .messages
        .iter_mut()
        .find(|message| message.ts == args.get("timestamp"));
    let message = found.ok_or_else(|| no("message_not_found"))?;
    if message.reactions.iter().any(|reaction| reaction == name) {
        return Err(no("already_reacted"));
    }
    message.reactions.push(name.into());
    Ok(json!({}))
}

fn set_status(state: &mut State, args: &Args) -> Outcome {
    let (id, ts) = (args.get("channel_id"), args.get("thread_ts"));
    let known = find(state, id, "")?
        .messages
        .iter()
        .any(|message| message.ts == ts);
    if !known {
        return Err(no("invalid_thread_ts"));
    }
    state
        .statuses
        .push(format!("{id}/{ts}: {}", args.get("status")));
    Ok(json!({}))
}

/// Microseconds.
fn micros(ts: &str, refusal: &str) -> Result<u64, Value> {
    let (seconds, rest) = ts.split_once('.').unwrap_or((ts, "0"));
    let seconds: Option<u64> = seconds.parse().ok();
    let rest: Option<u64> = format!("{rest:0<6}").parse().ok();
    seconds
        .zip(rest)
        .map(|(s, us)| s * 1_000_000 + us)
        .ok_or_else(|| no(refusal))
}

/// Is the message between `oldest` and `latest`?
fn in_range(args: &Args, ts: &str) -> Result<bool, Value> {
    let at = micros(ts, "invalid_ts")?;
    let inclusive = args.is_true("inclusive");
    let oldest = micros(
        if args.get("oldest").is_empty() {
            "0"
        } else {
            args.get("oldest")
        },
        "invalid_ts_oldest",
    )?;
    let latest = match args.get("latest") {
        "" => u64::MAX,
        ts => micros(ts, "invalid_ts_latest")?,
    };
    Ok((oldest < at && at < latest) || (inclusive && (at == oldest || at == latest)))
}

fn history(state: &mut State, args: &Args) -> Outcome {
    let channel = member(state, args.get("channel"), "history")?;
    let mut found = Vec::new();
    for message in channel.roots() {
        if in_range(args, &message.ts)? {
            found.push(message.json(Some(channel), args.is_true("include_all_metadata")));
        }
    }
    found.reverse();
    time_page(args, found, limit(args, 100)?)
}

fn replies(state: &mut State, args: &Args) -> Outcome {
    let channel = member(state, args.get("channel"), "history")?;
    let known = channel
        .messages
        .iter()
        .find(|message| message.ts == args.get("ts"));
    let asked = known.ok_or_else(|| no("thread_not_found"))?;
    let root = channel.message(asked.thread_ts.as_deref().unwrap_or(&asked.ts));
    let metadata = args.is_true("include_all_metadata");
    let mut found = vec![root.json(Some(channel), metadata)];
    for message in channel.replies(&root.ts) {
        if in_range(args, &message.ts)? {
            found.push(message.json(Some(channel), metadata));
        }
    }
    time_page(args, found, limit(args, 999)?)
}

/// A page of messages; the cursor names the last one given.
fn time_page(args: &Args, all: Vec<Value>, limit: usize) -> Outcome {
    let start = match args.get("cursor") {
        "" => 0,
        cursor => match all.iter().position(|message| message["ts"] == cursor[5..]) {
            Some(at) if cursor.starts_with("last-") => at + 1,
            _ => return Err(no("invalid_cursor")),
        },
    };
    let end = all.len().min(start + limit);
    let more = end < all.len();
    let next = if more {
        format!("last-{}", all[end - 1]["ts"].as_str().unwrap_or(""))
    } else {
        String::new()
    };
    Ok(
        json!({"messages": all[start..end], "has_more": more, "pin_count": 0, "response_metadata": {"next_cursor": next}}),
    )
}

// Files.

fn upload_url(state: &mut State, args: &Args) -> Outcome {
    let (name, length) = (
        args.get("filename"),
        args.get("length").parse::<usize>().unwrap_or(0),
    );
    if name.is_empty() || length == 0 {
        return Err(no("invalid_arguments"));
    }
    let id = state.new_id("F");
    let object = json!({"id": id, "name": name, "title": name, "size": length, "mode": "hosted", "mimetype": "text/plain"});
    let file = File {
        object,
        bytes: Vec::new(),
        login_page: false,
        html: false,
        complete: false,
    };
    state.files.insert(id.clone(), file);
    Ok(json!({"file_id": id, "upload_url": format!("{}/upload/v1/{id}", state.base)}))
}

/// Raw bytes of the announced length.
fn upload(state: &mut State, id: &str, request: &Request) -> Reply {
    let Some(file) = state.files.get_mut(id).filter(|file| !file.complete) else {
        return Reply::new(404, "text/plain", "no such upload");
    };
    let size = request.body.len();
    if request.method != "POST" || file.object["size"] != size {
        state.complaints.push(format!(
            "upload {id}: {} of {size} bytes, announced {}",
            request.method, file.object["size"]
        ));
        return Reply::new(400, "text/plain", "wrong size");
    }
    file.bytes.clone_from(&request.body);
    Reply::new(200, "text/plain", format!("OK - {size}"))
}

fn complete_upload(state: &mut State, args: &Args) -> Outcome {
    let wanted: Vec<Value> =
        serde_json::from_str(args.get("files")).map_err(|_| no("invalid_arguments"))?;
    let mut files = Vec::new();
    for want in &wanted {
        let file = state.files.get_mut(want["id"].as_str().unwrap_or(""));
        let file = file
            .filter(|file| !file.complete && !file.bytes.is_empty())
            .ok_or_else(|| no("file_not_found"))?;
        if let Some(title) = want["title"].as_str() {
            file.object["title"] = title.into();
        }
        files.push(file.object.clone());
    }
    let id = args.get("channel_id");
    if !id.is_empty() {
        let message = Message {
            thread_ts: root(member(state, id, "")?, args)?,
            ts: state.new_ts(),
            user: BOT.into(),
            text: args.get("initial_comment").into(),
            files: files.clone(),
            ..Message::default()
        };
        post(state, id, message);
    }
    for file in &files {
        state
            .files
            .get_mut(file["id"].as_str().unwrap_or(""))
            .expect("found above")
            .complete = true;
    }
    Ok(json!({"files": files}))
}

fn file_info(state: &mut State, args: &Args) -> Outcome {
    let id = args.get("file");
    let mut object = state
        .files
        .get(id)
        .ok_or_else(|| no("file_not_found"))?
        .object
        .clone();
    for channel in state.channels.values() {
        let with = channel
            .messages
            .iter()
            .filter(|message| message.files.iter().any(|file| file["id"] == id));
        let shares: Vec<Value> = with
            .map(|message| json!({"ts": message.ts, "thread_ts": message.thread_ts}))
            .collect();
        if !shares.is_empty() {
            let reach = if channel.kind == Kind::Public {
                "public"
            } else {
                "private"
            };
            object["shares"][reach][&channel.id] = shares.into();
        }
    }
    Ok(json!({"file": object}))
}

/// Without the right token Slack answers 200 and its login page.
fn download(state: &State, path: &str, request: &Request) -> Reply {
    let id = path.split('/').next().unwrap_or("");
    let Some(file) = state.files.get(id) else {
        return Reply::new(404, "text/html", "<html>no such file</html>");
    };
    if file.login_page
        || request.bearer() != Some(BOT_TOKEN)
        || !state.scopes.contains("files:read")
    {
        return Reply::new(
            200,
            "text/html; charset=utf-8",
            "<!DOCTYPE html><html><title>Sign in | Slack</title></html>",
        );
    }
    let kind = match file.html {
        true => "text/html",
        false => file.object["mimetype"].as_str().unwrap_or(""),
    };
    Reply::new(200, kind, file.bytes.clone())
}

//! FakeSlack: a workspace in the test process. It speaks the Web API and Socket Mode to
//! mom, refuses what the real one refuses, and shows the test what a person would see.
//!
//! When it is dropped the test fails if mom made a call that Slack refuses and that the
//! test did not announce with `allow`. Scripted faults do not count.

pub(crate) mod socket;
mod web;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};

use crate::http::{Gate, Hook, Peer, Request, Scheme, Server, base_url};
use crate::watch::{Watched, show};
use socket::{Frame, Socket};

pub(crate) const APP_TOKEN: &str = "xapp-1-test";
pub(crate) const BOT_TOKEN: &str = "xoxb-1-test";
/// The user id of mom.
pub(crate) const BOT: &str = "U0BOT";
const BOT_ID: &str = "B0BOT";

/// What goes wrong with one call of a Web API method (or of `socket`, the opening of one).
#[derive(Clone)]
pub(crate) enum Fault {
    /// HTTP 200 and `ok:false` with this code, without the effect.
    Code(&'static str),
    /// Likewise, if the call carries blocks.
    Blocks(&'static str),
    /// HTTP 429 with this Retry-After in seconds.
    Limited(u32),
    /// A status with an HTML body.
    Html(u16),
    /// The connection ends before the effect, or after it.
    Drop,
    DropAfter,
    /// Nothing happens until the gate opens: before the effect, or between effect and answer.
    Stall(Gate),
    StallAfter(Gate),
}

impl Fault {
    /// Temporary faults, one of each kind: a repeated call gets an answer.
    pub(crate) fn passing() -> [(&'static str, Fault); 5] {
        [
            ("429", Fault::Limited(1)),
            ("internal_error", Fault::Code("internal_error")),
            ("HTML", Fault::Html(500)),
            ("cut before", Fault::Drop),
            ("cut after", Fault::DropAfter),
        ]
    }
}

/// A Web API call as it came in and as it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) args: Map<String, Value>,
    /// The JSON of the answer; if there was none, a string naming the fault.
    pub(crate) answer: Value,
    pub(crate) at: Instant,
}

impl Call {
    pub(crate) fn arg(&self, name: &str) -> &str {
        self.args.get(name).and_then(Value::as_str).unwrap_or("")
    }

    pub(crate) fn ok(&self) -> bool {
        self.answer["ok"] == true
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Ack {
    /// The ts of the message that the envelope was about.
    pub(crate) ts: String,
    /// Time since the envelope was sent.
    pub(crate) after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Public,
    Private,
    Im,
    Mpim,
}

#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Whether mom is in it.
    pub(crate) is_member: bool,
    pub(crate) is_archived: bool,
    /// By time, thread replies among them.
    pub(crate) messages: Vec<Message>,
    names: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) ts: String,
    /// The root's ts, for replies only.
    pub(crate) thread_ts: Option<String>,
    pub(crate) user: String,
    pub(crate) text: String,
    pub(crate) blocks: Vec<Value>,
    pub(crate) metadata: Value,
    pub(crate) files: Vec<Value>,
    /// Names, in the order in which they came.
    pub(crate) reactions: Vec<String>,
    /// The texts before each edit, oldest first.
    pub(crate) earlier: Vec<String>,
    /// A deleted root whose replies remain.
    pub(crate) tombstone: bool,
    /// The `parse` argument: `none` keeps Slack from linking @here and #names.
    pub(crate) parse: String,
    /// Further fields as Slack might send them; they replace the others.
    pub(crate) extra: Map<String, Value>,
}

impl Message {
    /// What a person reads: the blocks when there are any, else the text; `[Label]` is a button.
    pub(crate) fn shown(&self) -> String {
        if self.tombstone {
            return "(deleted)".into();
        }
        let mut parts: Vec<String> = self.blocks.iter().map(block_text).collect();
        if parts
            .iter()
            .all(|part| part.starts_with('[') || part.is_empty())
        {
            parts.insert(0, self.text.clone());
        }
        for file in &self.files {
            parts.push(format!(
                "({}, {} bytes)",
                file["name"].as_str().unwrap_or(""),
                file["size"]
            ));
        }
        parts.extend(self.reactions.iter().map(|name| format!(":{name}:")));
        parts.retain(|part| !part.is_empty());
        parts.join(" ")
    }

    /// The labels of its buttons.
    pub(crate) fn buttons(&self) -> Vec<String> {
        let elements = self
            .blocks
            .iter()
            .filter_map(|block| block["elements"].as_array());
        elements
            .flatten()
            .filter_map(|element| element["text"]["text"].as_str().map(str::to_owned))
            .collect()
    }

    /// Text and blocks without what is plain text by its type: the parts in which Slack looks for
    /// mentions and links.
    pub(crate) fn parsed(&self) -> String {
        let mut blocks = self.blocks.clone();
        blocks.retain(|block| block["type"] != "rich_text");
        let cards = blocks
            .iter_mut()
            .filter_map(|block| block["tasks"].as_array_mut());
        for card in cards.flatten().filter_map(Value::as_object_mut) {
            card.remove("details");
            card.remove("output");
        }
        format!("{} {}", self.text, Value::from(blocks))
    }

    /// People and things that this message notifies or links: `<@U07>`, `<!channel>`, `<#C01>`, and
    /// bare `@here` and the like unless parse is none.
    pub(crate) fn pings(&self) -> Vec<String> {
        let all = self.parsed();
        let inside = all
            .split('<')
            .skip(1)
            .filter(|part| part.starts_with(['@', '!', '#']));
        let mut pings: Vec<String> = inside
            .map(|part| format!("<{}>", part.split('>').next().unwrap_or("")))
            .collect();
        let bare = ["@here", "@channel", "@everyone"].into_iter();
        pings.extend(
            bare.filter(|name| self.parse != "none" && self.text.contains(name))
                .map(str::to_owned),
        );
        pings
    }
}

/// A plan as its title and a line for each card, with the card's content.
fn plan_text(plan: &Value) -> String {
    let mut text = plan["title"].as_str().unwrap_or("").to_owned();
    for card in plan["tasks"].as_array().into_iter().flatten() {
        let mark = match card["status"].as_str() {
            Some("pending") => "○",
            Some("in_progress") => "→",
            Some("complete") => "✓",
            _ => "✗",
        };
        text += &format!("\n{mark} {}", card["title"].as_str().unwrap_or(""));
        for key in ["details", "output"] {
            for part in card[key]["elements"].as_array().into_iter().flatten() {
                text += &format!("\n{}", part["elements"][0]["text"].as_str().unwrap_or(""));
            }
        }
    }
    text
}

fn block_text(block: &Value) -> String {
    if block["type"] == "plan" {
        return plan_text(block);
    }
    let elements = block["elements"].as_array().cloned().unwrap_or_default();
    if block["type"] == "rich_text" {
        let parts = elements
            .iter()
            .filter_map(|part| part["elements"].as_array());
        let texts = parts
            .flatten()
            .map(|text| text["text"].as_str().unwrap_or(""));
        return texts.collect();
    }
    let labels = elements
        .iter()
        .map(|element| match element["type"].as_str() {
            Some("button") => format!("[{}]", element["text"]["text"].as_str().unwrap_or("")),
            _ => element["text"].as_str().unwrap_or("").to_owned(),
        });
    match &block["text"] {
        Value::String(text) => text.clone(),
        Value::Object(text) => text["text"].as_str().unwrap_or("").to_owned(),
        _ => labels.collect::<Vec<_>>().join(" "),
    }
}

impl Channel {
    /// The message with this ts. Panics when there is none.
    pub(crate) fn message(&self, ts: &str) -> &Message {
        let found = self.messages.iter().find(|message| message.ts == ts);
        found.unwrap_or_else(|| panic!("no message {ts} in {}:\n{self}", self.id))
    }

    /// The messages in the channel itself, without threads.
    pub(crate) fn roots(&self) -> Vec<&Message> {
        self.messages
            .iter()
            .filter(|message| message.thread_ts.is_none())
            .collect()
    }

    pub(crate) fn replies(&self, root: &str) -> Vec<&Message> {
        let is_reply = |message: &&Message| message.thread_ts.as_deref() == Some(root);
        self.messages.iter().filter(is_reply).collect()
    }

    /// mom's messages in the channel itself.
    pub(crate) fn answers(&self) -> Vec<&Message> {
        self.roots()
            .into_iter()
            .filter(|message| message.user == BOT)
            .collect()
    }
}

/// `name: text`, a line each, replies indented below their root.
/// The channel with its people's names, as a person sees it.
fn named(state: &State, id: &str) -> Channel {
    let mut channel = state.channels[id].clone();
    let name = |user: &Value| user["name"].as_str().unwrap_or("").to_owned();
    channel.names = state
        .users
        .iter()
        .map(|(id, user)| (id.clone(), name(user)))
        .collect();
    channel
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |message: &Message| {
            self.names
                .get(&message.user)
                .cloned()
                .unwrap_or_else(|| message.user.clone())
        };
        for root in self.roots() {
            writeln!(f, "{}: {}", name(root), root.shown())?;
            for reply in self.replies(&root.ts) {
                writeln!(
                    f,
                    "  {}: {}",
                    name(reply),
                    reply.shown().replace('\n', "\n  ")
                )?;
            }
        }
        Ok(())
    }
}

/// A file in the workspace, uploaded by a person or by mom.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) object: Value,
    pub(crate) bytes: Vec<u8>,
    /// Whether the download answers with Slack's HTML login page in place of the bytes.
    pub(crate) login_page: bool,
    /// A canvas: whatever its mimetype, the bytes come as text/html.
    pub(crate) html: bool,
    complete: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) calls: Vec<Call>,
    pub(crate) channels: BTreeMap<String, Channel>,
    pub(crate) users: BTreeMap<String, Value>,
    pub(crate) files: BTreeMap<String, File>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) acks: Vec<Ack>,
    /// Scopes granted to the bot token.
    pub(crate) scopes: BTreeSet<String>,
    /// Assistant statuses set, as `channel/thread_ts: status`.
    pub(crate) statuses: Vec<String>,
    /// The Enterprise Grid organisation of the workspace.
    pub(crate) enterprise: Option<&'static str>,
    /// Calls that the real Slack would refuse, found so far.
    pub(crate) complaints: Vec<String>,
    /// `(method, calls to go, fault)`; 0 to go: every call.
    faults: Vec<(String, u32, Fault)>,
    limits: BTreeMap<String, (usize, Duration)>,
    /// Until when a 429 told mom to wait, by method (and channel).
    blocked_until: BTreeMap<String, Instant>,
    latency: Duration,
    allowed: BTreeSet<String>,
    /// Types of blocks that this workspace does not know.
    refused_blocks: BTreeSet<&'static str>,
    tickets: BTreeSet<String>,
    base: String,
    last_us: u64,
    next: u64,
    /// Whether envelopes that no socket acked come again on the next one; also those that came
    /// while there was none.
    persistent: bool,
    waiting: Vec<Value>,
    /// Called before and after each ack is handled.
    hook: Option<Hook>,
}

impl State {
    /// A new ts: the current time, but later than any before.
    fn new_ts(&mut self) -> String {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        self.last_us = (self.last_us + 1).max(now.as_micros() as u64);
        format!(
            "{}.{:06}",
            self.last_us / 1_000_000,
            self.last_us % 1_000_000
        )
    }

    fn new_id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{:04}", self.next)
    }

    /// Removes all faults.
    pub(crate) fn end_faults(&mut self) {
        self.faults.clear();
    }

    pub(crate) fn im_of(&mut self, user: &str) -> String {
        let id = format!("D{}", &user[1..]);
        if !self.channels.contains_key(&id) {
            self.add_channel(&id, user, Kind::Im);
        }
        id
    }

    pub(crate) fn add_channel(&mut self, id: &str, name: &str, kind: Kind) {
        let channel = Channel {
            id: id.into(),
            name: name.into(),
            kind,
            is_member: true,
            is_archived: false,
            messages: Vec::new(),
            names: BTreeMap::new(),
        };
        self.channels.insert(id.into(), channel);
    }

    pub(crate) fn add_user(&mut self, id: &str, name: &str) {
        let user = json!({"id": id, "name": name, "real_name": name, "deleted": false, "is_bot": id == BOT,
            "team_id": "T01", "tz": "Europe/Berlin", "profile": {"display_name": name, "real_name": name}});
        self.users.insert(id.into(), user);
    }

    /// Sends an event of the Events API to one of the open sockets, in turn; without any it
    /// is lost, as Slack gives up after some tries.
    fn emit(&mut self, event: Value) {
        let event_id = self.new_id("Ev");
        let payload = json!({"token": "legacy", "team_id": "T01", "api_app_id": "A01", "type": "event_callback",
            "event_id": event_id, "event_time": self.last_us / 1_000_000, "is_ext_shared_channel": false,
            "authorizations": [{"team_id": "T01", "user_id": BOT, "is_bot": true}], "event": event});
        self.send(
            json!({"type": "events_api", "payload": payload, "accepts_response_payload": false,
            "retry_attempt": 0, "retry_reason": ""}),
        );
    }

    fn send(&mut self, mut envelope: Value) -> String {
        let id = format!("{}-4e5f-8a9b", self.new_id("e"));
        envelope["envelope_id"] = id.as_str().into();
        let ready = self
            .sockets
            .iter_mut()
            .filter(|socket| socket.takes_events());
        match ready.min_by_key(|socket| socket.sent.len()) {
            Some(socket) => socket.send_envelope(&id, envelope),
            None if self.persistent => self.waiting.push(envelope),
            None => {}
        }
        id
    }

    /// A socket is ready: sends again what was never acked.
    fn send_again(&mut self) {
        if !self.persistent {
            return;
        }
        let mut again = std::mem::take(&mut self.waiting);
        for socket in self.sockets.iter_mut().filter(|socket| !socket.open) {
            let sent = std::mem::take(&mut socket.sent).into_values();
            again.extend(sent.filter(|sent| !sent.acked).map(|sent| sent.envelope));
        }
        for mut envelope in again {
            envelope["retry_attempt"] = 1.into();
            envelope["retry_reason"] = "timeout".into();
            self.send(envelope);
        }
    }
}

pub(crate) struct FakeSlack {
    state: Arc<Watched<State>>,
    /// How far `next_call` has read, by method.
    read: Mutex<BTreeMap<String, usize>>,
    pub(crate) server: Server,
}

impl FakeSlack {
    /// A workspace with #general (C01), #ops (C02), the private #den (G01), and the people
    /// lena (U07) and otto (U08).
    pub(crate) fn start() -> FakeSlack {
        FakeSlack::with(Scheme::Http)
    }

    /// The same over HTTPS and wss.
    pub(crate) fn start_tls() -> FakeSlack {
        FakeSlack::with(Scheme::Https)
    }

    fn with(scheme: Scheme) -> FakeSlack {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut state = State {
            base: base_url(scheme, listener.local_addr().unwrap()),
            ..State::default()
        };
        for (id, name) in [("U07", "lena"), ("U08", "otto"), (BOT, "mom")] {
            state.add_user(id, name);
        }
        for (id, name, kind) in [
            ("C01", "general", Kind::Public),
            ("C02", "ops", Kind::Public),
            ("G01", "den", Kind::Private),
        ] {
            state.add_channel(id, name, kind);
        }
        state.scopes = web::SCOPES.iter().map(|scope| scope.to_string()).collect();
        let state = Arc::new(Watched::new(state));
        let ours = Arc::clone(&state);
        let handler =
            Arc::new(move |request: &Request, peer: &Peer<'_>| web::answer(&ours, request, peer));
        FakeSlack {
            state,
            read: Mutex::default(),
            server: Server::start("slack", scheme, listener, handler),
        }
    }

    /// For MOM_SLACK_API_URL.
    pub(crate) fn api_url(&self) -> String {
        format!("{}/api", self.server.url())
    }

    // What people do.

    /// Sends `@mom text` in a channel; returns the ts of the message.
    pub(crate) fn mention(&self, channel: &str, user: &str, text: &str) -> String {
        self.say(channel, user, &format!("<@{BOT}> {text}")).send()
    }

    pub(crate) fn dm(&self, user: &str, text: &str) -> String {
        let channel = self.state.change(|state| state.im_of(user));
        self.say(&channel, user, text).send()
    }

    /// Creates a public channel with mom in it.
    pub(crate) fn open_channel(&self, id: &str) {
        self.change(|state| state.add_channel(id, &id.to_lowercase(), Kind::Public));
    }

    /// A message to be sent; more can be added to it.
    pub(crate) fn say(&self, channel: &str, user: &str, text: &str) -> Say<'_> {
        let message = Message {
            user: user.into(),
            text: text.into(),
            ..Message::default()
        };
        Say {
            slack: self,
            channel: channel.into(),
            message,
        }
    }

    /// A person changes a message of theirs.
    pub(crate) fn edit(&self, channel: &str, ts: &str, text: &str) {
        self.state.change(|state| {
            web::change_message(state, channel, ts, |message| {
                text.clone_into(&mut message.text)
            });
        });
    }

    pub(crate) fn delete(&self, channel: &str, ts: &str) {
        self.state
            .change(|state| web::delete_message(state, channel, ts));
    }

    /// A person presses the button with this label.
    pub(crate) fn press(&self, channel: &str, ts: &str, user: &str, label: &str) {
        let message = self.channel(channel).message(ts).clone();
        let elements = message
            .blocks
            .iter()
            .filter_map(|block| block["elements"].as_array());
        let button = elements
            .flatten()
            .find(|element| element["text"]["text"] == label);
        let mut action = button
            .unwrap_or_else(|| panic!("no button {label}: {message:?}"))
            .clone();
        action["action_ts"] = ts.into();
        let payload = json!({"type": "block_actions", "user": {"id": user}, "channel": {"id": channel},
            "message": message.json(Some(&self.channel(channel)), true), "actions": [action],
            "container": {"type": "message", "message_ts": ts, "channel_id": channel},
            "response_url": format!("{}/response", self.server.url()), "trigger_id": "1.2.3"});
        self.send(
            json!({"type": "interactive", "payload": payload, "accepts_response_payload": false}),
        );
    }

    /// A file on Slack's disk, to be shared with `Say::file`.
    pub(crate) fn file(&self, name: &str, mimetype: &str, bytes: &[u8]) -> String {
        self.state.change(|state| {
            let id = state.new_id("F");
            let url = format!("{}/files-pri/T01-{id}/{name}", state.base);
            let object = json!({"id": id, "name": name, "title": name, "mimetype": mimetype, "size": bytes.len(),
                "mode": "hosted", "is_external": false, "url_private": url, "url_private_download": url});
            let file = File {
                object,
                bytes: bytes.to_vec(),
                login_page: false,
                html: false,
                complete: true,
            };
            state.files.insert(id.clone(), file);
            id
        })
    }

    // What Slack does.

    /// Sends any envelope (without its id) when there is a socket; returns the id.
    pub(crate) fn send(&self, envelope: Value) -> String {
        self.wait_connected();
        self.state.change(|state| state.send(envelope))
    }

    /// An event of the Events API.
    pub(crate) fn emit(&self, event: Value) {
        self.wait_connected();
        self.state.change(|state| state.emit(event));
    }

    /// Sends everything about this message once more, as after a missed ack.
    pub(crate) fn redeliver(&self, ts: &str) {
        self.wait_connected();
        self.state.change(|state| {
            let all = state.sockets.iter().flat_map(|socket| socket.sent.values());
            let again: Vec<Value> = all
                .filter(|sent| sent.ts == ts)
                .map(|sent| sent.envelope.clone())
                .collect();
            for mut envelope in again {
                envelope["retry_attempt"] = 1.into();
                envelope["retry_reason"] = "timeout".into();
                state.send(envelope);
            }
        });
    }

    /// As with the real Slack, nothing that was not acked is forgotten.
    pub(crate) fn persist(&self) {
        self.state.change(|state| state.persistent = true);
    }

    /// Sets what is called at every request and every ack.
    pub(crate) fn hook(&self, hook: &Hook) {
        self.server.hook(Arc::clone(hook));
        let hook = Arc::clone(hook);
        self.state.change(|state| state.hook = Some(hook));
    }

    /// Sends a disconnect frame on every open socket; Slack closes them some time later (`cut`).
    pub(crate) fn disconnect(&self, reason: &str) {
        let frame = json!({"type": "disconnect", "reason": reason, "debug_info": {"host": "fake"}});
        self.to_sockets(|socket| {
            socket.push(Frame::Text(frame.to_string()));
            socket.retired = true;
        });
    }

    /// Sends a frame as it is, valid or not.
    pub(crate) fn push_text(&self, text: &str) {
        self.to_sockets(|socket| socket.push(Frame::Text(text.to_owned())));
    }

    /// Sends raw frames without end, on every open socket.
    pub(crate) fn flood(&self, first: &'static [u8], rest: &'static [u8]) {
        self.to_sockets(|socket| {
            socket.push(Frame::Flood(first, rest));
            socket.retired = true;
        });
    }

    /// Ends every socket without a close frame; returns when they have ended.
    pub(crate) fn cut(&self) {
        self.to_sockets_and_wait(|socket| socket.push(Frame::Cut));
    }

    fn to_sockets(&self, mut act: impl FnMut(&mut Socket)) -> usize {
        self.state.change(|state| {
            state
                .sockets
                .iter_mut()
                .filter(|socket| socket.open)
                .for_each(&mut act);
            state.sockets.len()
        })
    }

    /// Waits for the sockets that got it, not for any that mom opens meanwhile.
    fn to_sockets_and_wait(&self, act: impl FnMut(&mut Socket)) {
        let told = self.to_sockets(act);
        let done = |socket: &Socket| !socket.open;
        self.wait_until("the sockets' obedience", |state| {
            state.sockets[..told].iter().all(done).then_some(())
        });
    }

    /// Makes the n-th call from now (1: the next) of a method go wrong; 0: all of them.
    pub(crate) fn fault(&self, method: &str, nth: u32, fault: Fault) {
        self.state
            .change(|state| state.faults.push((method.into(), nth, fault)));
    }

    /// Allows this many calls of a method in a period (in each channel, for chat.postMessage).
    pub(crate) fn limit(&self, method: &str, calls: usize, period: Duration) {
        self.state
            .change(|state| state.limits.insert(method.into(), (calls, period)));
    }

    /// Makes Slack refuse messages with blocks of this type.
    pub(crate) fn refuse_blocks(&self, kind: &'static str) {
        self.allow("invalid_blocks");
        self.state.change(|state| state.refused_blocks.insert(kind));
    }

    /// Sets how long every Web API call takes.
    pub(crate) fn latency(&self, latency: Duration) {
        self.state.change(|state| state.latency = latency);
    }

    /// The test expects refusals with this error code.
    pub(crate) fn allow(&self, code: &str) {
        self.state.change(|state| state.allowed.insert(code.into()));
    }

    /// What mom did wrong so far; the test checks these itself, so that dropping does not fail.
    pub(crate) fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().complaints)
    }

    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        self.state.change(change)
    }

    // What the test sees.

    pub(crate) fn channel(&self, id: &str) -> Channel {
        named(&self.state.lock(), id)
    }

    /// Waits for a fact; panics with the present state when it does not come.
    pub(crate) fn wait_until<R>(&self, what: &str, look: impl FnMut(&mut State) -> Option<R>) -> R {
        self.state
            .poll(look)
            .unwrap_or_else(|| panic!("{what}: it never came"))
    }

    /// Waits until the channel looks like this; returns the channel as it is then.
    pub(crate) fn wait_channel(&self, id: &str, look: impl Fn(&Channel) -> bool) -> Channel {
        self.wait_until(&format!("channel {id} as expected"), |state| {
            look(&named(state, id)).then_some(())
        });
        self.channel(id)
    }

    /// The next call of this method that no `next_call` has returned yet.
    pub(crate) fn next_call(&self, method: &str) -> Call {
        let mut read = self.read.lock().unwrap();
        let at = read.entry(method.into()).or_default();
        let call = self.wait_until(method, |state| {
            state
                .calls
                .iter()
                .filter(|call| call.method == method)
                .nth(*at)
                .cloned()
        });
        *at += 1;
        call
    }

    pub(crate) fn calls(&self, method: &str) -> Vec<Call> {
        let state = self.state.lock();
        state
            .calls
            .iter()
            .filter(|call| call.method == method)
            .cloned()
            .collect()
    }

    /// Waits for an answer with this text.
    pub(crate) fn wait_answer(&self, channel: &str, text: &str) -> Channel {
        self.wait_channel(channel, |channel| {
            let answers = channel.answers();
            answers.iter().any(|answer| answer.shown() == text)
        })
    }

    /// Waits until everything sent about this message is acked.
    pub(crate) fn wait_acked(&self, ts: &str) -> Vec<Ack> {
        self.wait_until(&format!("ack for {ts}"), |state| {
            let all = state.sockets.iter().flat_map(|socket| socket.sent.values());
            let all = all.filter(|sent| sent.ts == ts).count();
            let acks: Vec<Ack> = state
                .acks
                .iter()
                .filter(|ack| ack.ts == ts)
                .cloned()
                .collect();
            (all > 0 && all == acks.len()).then_some(acks)
        })
    }

    /// Waits until mom has read everything that is in the channel.
    pub(crate) fn wait_looked_back(&self, channel: &str) {
        self.wait_until("a look back", |state| {
            let mut calls = state.calls.iter();
            let looks = |call: &Call| call.method == "conversations.history" && call.ok();
            calls
                .find(|call| looks(call) && call.arg("channel") == channel)
                .map(drop)
        });
    }

    /// Waits for a socket that takes events.
    pub(crate) fn wait_connected(&self) {
        self.wait_until("a socket", |state| {
            state.sockets.iter().any(Socket::takes_events).then_some(())
        });
    }

    /// All calls and channels, printed when a test fails.
    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for call in &self.state.lock().calls {
            let answer: String = call.answer.to_string().chars().take(200).collect();
            story += &format!(
                "{} {} -> {answer}\n",
                call.method,
                Value::from(call.args.clone())
            );
        }
        let ids: Vec<String> = self.state.lock().channels.keys().cloned().collect();
        for id in ids {
            story += &format!("--- {id}\n{}", self.channel(&id));
        }
        story
    }
}

impl Drop for FakeSlack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return show("Slack", &self.story());
        }
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "Slack would refuse: {complaints:#?}");
    }
}

/// A person's message that is not sent yet.
pub(crate) struct Say<'a> {
    slack: &'a FakeSlack,
    channel: String,
    message: Message,
}

impl Say<'_> {
    pub(crate) fn thread(mut self, root: &str) -> Self {
        self.message.thread_ts = Some(root.into());
        self
    }

    pub(crate) fn file(mut self, id: &str) -> Self {
        let object = self.slack.state.lock().files[id].object.clone();
        self.message.files.push(object);
        self
    }

    /// A field of the message as Slack might send it: `bot_id`, `subtype`, broken ones.
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.message.extra.insert(key.into(), value);
        self
    }

    /// Sends it to the channel and over the sockets; a mention outside a DM results in two events,
    /// in either order.
    pub(crate) fn send(self) -> String {
        self.slack.wait_connected();
        self.send_late()
    }

    /// The same; if there is no socket, it comes with the next one, after `persist`.
    pub(crate) fn send_late(self) -> String {
        let slack = self.slack;
        slack.state.change(|state| {
            let channel = self.channel.clone();
            let ts = self.store(state);
            let message = state.channels[&channel].message(&ts).clone();
            let mut event = web::message_event(&state.channels[&channel], &message);
            let mut events = VecDeque::from([event.clone()]);
            let mentioned = message.text.contains(&format!("<@{BOT}>"));
            if mentioned && state.channels[&channel].kind != Kind::Im {
                event["type"] = "app_mention".into();
                event.as_object_mut().unwrap().remove("channel_type");
                event.as_object_mut().unwrap().remove("subtype");
                match state.next % 2 {
                    0 => events.push_back(event),
                    _ => events.push_front(event),
                }
            }
            events.into_iter().for_each(|event| state.emit(event));
            ts
        })
    }

    /// Adds it to the channel only, as while mom is away.
    pub(crate) fn send_unheard(self) -> String {
        let slack = self.slack;
        slack.state.change(|state| self.store(state))
    }

    fn store(mut self, state: &mut State) -> String {
        self.message.ts = state.new_ts();
        let ts = self.message.ts.clone();
        let channel = state
            .channels
            .get_mut(&self.channel)
            .expect("a channel of the fake");
        channel.messages.push(self.message);
        ts
    }
}

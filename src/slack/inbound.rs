//! What Slack sends, as types: the payload of an envelope becomes an `Inbound`. Pure. Decides
//! whether a message addresses mom; what mom need not read becomes `Ignored` or `Dropped` with the
//! reason. The content of messages is read in message.rs.

use serde_json::Value;

use super::files::SlackFile;
use super::{is_channel_id, is_ts, is_user_id, message, question};
use crate::agent::approval::Choice;

/// Beginnings of event types that report a change of a channel's name, members or state.
const CHANNEL_CHANGES: [&str; 3] = ["channel_", "group_", "member_"];

/// mom's own ids, from auth.test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Me {
    pub(crate) user_id: String,
    pub(crate) team_id: String,
    /// Of the Enterprise Grid organisation; empty when the workspace is in none.
    pub(crate) enterprise_id: String,
}

impl Me {
    /// Is this the id of mom's workspace or of its organisation? Also true if auth.test returned
    /// neither.
    pub(crate) fn is_home(&self, id: &str) -> bool {
        let own = [&self.team_id, &self.enterprise_id];
        let mut own = own.into_iter().filter(|own| !own.is_empty()).peekable();
        match own.peek() {
            Some(_) => own.any(|own| own == id),
            None => !id.is_empty(),
        }
    }
}

#[derive(Debug, PartialEq)]
pub(crate) enum Inbound {
    Message(Incoming),
    /// Someone edited a message: the new version.
    Edited(Incoming),
    /// Slack added a link's preview or a clip's transcript to a message: the new version, and the
    /// added text.
    Extended(Incoming, String),
    Deleted {
        channel: String,
        ts: String,
    },
    /// The Stop button of a status message.
    StopPressed {
        channel: String,
        user: String,
        /// Id of the run; "" if the button has none.
        run: String,
    },
    /// A button of a question.
    ApprovalPressed {
        channel: String,
        user: String,
        /// Id of the question.
        question: String,
        choice: Choice,
    },
    /// A user's profile or role changed; as users.info has it.
    UserChanged(Value),
    /// A channel's name, members or state changed.
    ChannelChanged(String),
    /// mom was added to a channel.
    Joined {
        channel: String,
    },
    Unarchived {
        channel: String,
    },
    /// A person opened the direct messages with mom.
    Opened {
        channel: String,
        user: String,
    },
    /// A message of someone else that mom does not read.
    Dropped {
        channel: String,
        ts: String,
        why: String,
    },
    /// No message, or mom's own.
    Ignored(&'static str),
}

/// Who wrote a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Author {
    #[default]
    Person,
    /// A person through an app with a user token, or a bot user: only users.info can tell.
    App,
    /// A bot, a workflow or Slackbot, with the name it goes by: read, never answered.
    Program(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Incoming {
    pub(crate) channel: String,
    /// A user id; of programs a bot id or a user id.
    pub(crate) user: String,
    pub(crate) author: Author,
    /// mrkdwn without mom's own mention, trimmed; entities stay encoded.
    pub(crate) text: String,
    pub(crate) ts: String,
    /// Root of the thread it was written in.
    pub(crate) thread_ts: Option<String>,
    /// It addresses mom: a mention, or a direct message. Also true for programs, which get no
    /// answer.
    pub(crate) mention: bool,
    /// It was written in a thread where mom answered, and so counts as a mention.
    pub(crate) follows: bool,
    pub(crate) files: Vec<SlackFile>,
    /// The sender belongs to another workspace (Slack Connect).
    pub(crate) foreign: bool,
}

/// `kind` is the envelope's type.
pub(crate) fn parse(kind: &str, payload: &Value, me: &Me) -> Inbound {
    match kind {
        "events_api" => event(payload, me),
        "interactive" => interactive(payload),
        _ => Inbound::Ignored("not an event"),
    }
}

/// Reads a message object of an event or of conversations.history. If `channel_type` is absent, the
/// id's first letter gives the type.
pub(crate) fn message(event: &Value, channel: &str, me: &Me) -> Inbound {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let (user, bot, ts) = (text("user"), text("bot_id"), text("ts"));
    if user == me.user_id {
        return Inbound::Ignored("mom's own message");
    }
    let dropped = |why: &str| Inbound::Dropped {
        channel: channel.to_owned(),
        ts: ts.to_owned(),
        why: why.to_owned(),
    };
    let author = match author(event) {
        Ok(author) => author,
        Err(why) => return dropped(&why),
    };
    let has_user = is_user_id(user);
    if !is_ts(ts) || !is_channel_id(channel) || !(has_user || is_bot_id(bot)) {
        return dropped("an id that is not of Slack's form");
    }
    let shown = message::shown(event);
    // What a forwarded message mentions does not count.
    let mentions_me = without_mention(&shown.body, &me.user_id).1;
    let (cleaned, _) = without_mention(&shown.text(), &me.user_id);
    let direct = match event["channel_type"].as_str() {
        Some(kind) => kind == "im",
        None => channel.starts_with('D'),
    };
    let mention = text("type") == "app_mention" || mentions_me || direct;
    if cleaned.is_empty() && shown.files.is_empty() && !mention {
        return dropped("neither text nor files");
    }
    let teams = [&event["user_team"], &event["source_team"]];
    let team = teams.into_iter().find_map(Value::as_str);
    Inbound::Message(Incoming {
        channel: channel.to_owned(),
        user: if has_user { user } else { bot }.to_owned(),
        author,
        text: cleaned,
        ts: ts.to_owned(),
        thread_ts: Some(text("thread_ts").to_owned()).filter(|root| is_ts(root)),
        mention,
        follows: false,
        files: shown.files,
        // For the other workspaces of an organisation only a look-up can tell.
        foreign: me.enterprise_id.is_empty() && team.is_some_and(|team| !me.is_home(team)),
    })
}

/// Who wrote it.
///
/// # Errors
/// The message has no author, with the reason.
fn author(event: &Value) -> std::result::Result<Author, String> {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let is_program = match text("subtype") {
        "" | "file_share" | "thread_broadcast" | "me_message" => text("user") == "USLACKBOT",
        "bot_message" | "huddle_thread" => true,
        subtype => return Err(format!("{subtype} messages have no author")),
    };
    Ok(match (is_user_id(text("user")), text("bot_id")) {
        (true, "") if !is_program => Author::Person,
        (true, _) if !is_program => Author::App,
        (false, "") if !is_program => return Err("no user".to_owned()),
        _ => Author::Program(program_name(event)),
    })
}

/// A message that is read as context, because someone asks about it: it addresses nobody. `None`
/// for mom's own messages and for events that are not messages.
pub(crate) fn overheard(event: &Value, channel: &str, me: &Me) -> Option<Incoming> {
    match message(event, channel, me) {
        Inbound::Message(message) => Some(Incoming {
            mention: false,
            ..message
        }),
        _ => None,
    }
}

/// The name of the program that wrote a message; may be empty.
pub(crate) fn program_name(event: &Value) -> String {
    let names = [&event["username"], &event["bot_profile"]["name"]];
    let mut names = names.into_iter().filter_map(Value::as_str);
    let name = names.find(|name| !name.is_empty());
    let slackbot = (event["user"] == "USLACKBOT").then_some("Slackbot");
    name.or(slackbot).unwrap_or_default().to_owned()
}

fn event(payload: &Value, me: &Me) -> Inbound {
    let event = &payload["event"];
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let (kind, subtype) = (text("type"), text("subtype"));
    if kind == "user_change" {
        return Inbound::UserChanged(event["user"].clone());
    }
    let channels = [&event["channel"], &event["channel"]["id"]];
    let channel = channels.into_iter().find_map(Value::as_str);
    let channel = channel.unwrap_or_default().to_owned();
    if !is_channel_id(&channel) {
        return Inbound::Ignored("no channel, or an id that is not of Slack's form");
    }
    let deleted = |ts: &Value| match ts.as_str().filter(|ts| is_ts(ts)) {
        Some(ts) => Inbound::Deleted {
            channel: channel.clone(),
            ts: ts.to_owned(),
        },
        None => Inbound::Ignored("no ts"),
    };
    match (kind, subtype) {
        // When a root with replies is deleted, Slack puts a tombstone in its place.
        ("message", "message_changed") if event["message"]["subtype"] == "tombstone" => {
            deleted(&event["message"]["ts"])
        }
        ("message", "message_changed") => edited(event, &channel, me),
        ("message", "message_deleted") => deleted(&event["deleted_ts"]),
        ("message" | "app_mention", _) => message(event, &channel, me),
        ("member_joined_channel", _) if text("user") == me.user_id => Inbound::Joined { channel },
        ("channel_unarchive" | "group_unarchive", _) => Inbound::Unarchived { channel },
        ("app_home_opened", _) if text("tab") == "messages" && is_user_id(text("user")) => {
            Inbound::Opened {
                channel,
                user: text("user").to_owned(),
            }
        }
        _ if CHANNEL_CHANGES.iter().any(|start| kind.starts_with(start)) => {
            Inbound::ChannelChanged(channel)
        }
        _ => Inbound::Ignored("an event that mom does not use"),
    }
}

fn edited(event: &Value, channel: &str, me: &Me) -> Inbound {
    let (inner, before) = (&event["message"], &event["previous_message"]);
    let is_edited = inner["edited"] != before["edited"];
    if !is_edited && additions(inner) <= additions(before) {
        return Inbound::Ignored("neither a person's edit nor an addition");
    }
    match message(inner, channel, me) {
        Inbound::Message(message) if is_edited => Inbound::Edited(message),
        Inbound::Message(message) => Inbound::Extended(message, added(inner, before)),
        _ => Inbound::Ignored("a change of a message that is not read"),
    }
}

/// What Slack may add to a message after it was posted: previews, and transcripts of clips.
fn additions(message: &Value) -> usize {
    let files = message["files"].as_array().into_iter().flatten();
    let status = files.map(|file| &file["transcription"]["status"]);
    let transcripts = status.filter(|status| *status == "complete").count();
    transcripts + message["attachments"].as_array().map_or(0, Vec::len)
}

/// The text that the message shows now but did not show before.
fn added(message: &Value, before: &Value) -> String {
    let (now, before) = (message::shown(message), message::shown(before));
    let known: Vec<&str> = before.beside.lines().collect();
    let new = now.beside.lines().filter(|line| !known.contains(line));
    new.collect::<Vec<_>>().join("\n")
}

fn interactive(payload: &Value) -> Inbound {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let channel = match &payload["channel"]["id"] {
        Value::Null => text(&payload["container"]["channel_id"]),
        id => text(id),
    };
    let action = &payload["actions"][0];
    if payload["type"] != "block_actions" || !is_channel_id(&channel) {
        return Inbound::Ignored("not a button of mom's");
    }
    let (user, value) = (text(&payload["user"]["id"]), text(&action["value"]));
    let choice = match action["action_id"].as_str() {
        Some("stop") => {
            return Inbound::StopPressed {
                channel,
                user,
                run: value,
            };
        }
        Some(question::APPROVE) => Choice::Approve,
        Some(question::APPROVE_ALL) => Choice::ApproveAll,
        Some(question::DENY) => Choice::Deny,
        _ => return Inbound::Ignored("not a button of mom's"),
    };
    Inbound::ApprovalPressed {
        channel,
        user,
        question: value,
        choice,
    }
}

fn is_bot_id(id: &str) -> bool {
    id.strip_prefix('B')
        .is_some_and(|rest| is_user_id(&format!("U{rest}")))
}

/// Removes `<@ME>` and `<@ME|name>`; true if one was there.
fn without_mention(text: &str, user_id: &str) -> (String, bool) {
    let mut out = String::with_capacity(text.len());
    let mut found = false;
    let mut rest = text;
    while let Some(start) = rest.find("<@") {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let end = from.find('>').map_or(from.len(), |end| end + 1);
        let (mention, after) = from.split_at(end);
        let id = mention[2..].trim_end_matches('>').split('|').next();
        let id = id.unwrap_or_default();
        if id.eq_ignore_ascii_case(user_id) && !user_id.is_empty() {
            found = true;
        } else {
            out.push_str(mention);
        }
        rest = after;
    }
    out.push_str(rest);
    (out.trim().to_owned(), found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;
    use serde_json::json;

    fn me() -> Me {
        Me {
            user_id: "U0MOM".into(),
            team_id: "T1".into(),
            enterprise_id: String::new(),
        }
    }

    fn parsed(event: Value) -> Inbound {
        parse(
            "events_api",
            &json!({"type": "event_callback", "event": event}),
            &me(),
        )
    }

    #[test]
    fn who_is_speaking_and_to_whom() {
        let read = |extra: Value| {
            let mut event = json!({"type": "message", "channel": "C1", "user": "U7",
                "text": "hi", "ts": "1.000001", "channel_type": "channel"});
            for (key, value) in extra.as_object().unwrap() {
                event[key] = value.clone();
            }
            match parsed(event) {
                Inbound::Message(m) => {
                    let author = match m.author {
                        Author::Person => "",
                        Author::App => "app:",
                        Author::Program(_) => "program:",
                    };
                    format!("{author}{}{}", if m.mention { "!" } else { "" }, m.text)
                }
                Inbound::Ignored(_) | Inbound::Dropped { .. } => "-".to_owned(),
                other => format!("{other:?}"),
            }
        };
        for (extra, want) in [
            (json!({}), "hi"),
            (json!({"type": "app_mention", "text": "<@U0MOM> hi"}), "!hi"),
            (json!({"text": "so <@u0mom|mom> hi <@U2>"}), "!so  hi <@U2>"),
            (json!({"channel": "D1", "channel_type": "im"}), "!hi"),
            (json!({"channel": "D1", "channel_type": null}), "!hi"),
            (json!({"text": "<@U0MOM>"}), "!"),
            (json!({"text": ""}), "-"),
            (json!({"bot_id": "B2"}), "app:hi"),
            (json!({"bot_id": "B2", "user": null}), "program:hi"),
            (
                json!({"bot_id": "B2", "subtype": "bot_message", "text": "<@U0MOM> hi"}),
                "program:!hi",
            ),
            (json!({"user": "USLACKBOT", "channel": "D1"}), "program:hi"),
            (json!({"bot_id": "../B2", "user": null}), "-"),
            (
                json!({"text": "", "attachments": [{"is_share": true, "text": "<@U0MOM> a"}]}),
                "[message from someone]\n a",
            ),
            (json!({"user": "U0MOM"}), "-"),
            (json!({"subtype": "channel_join"}), "-"),
            (json!({"subtype": "thread_broadcast"}), "hi"),
            (json!({"channel": "../etc"}), "-"),
            (json!({"ts": "1"}), "-"),
            (json!({"user": null}), "-"),
            (json!({"text": "<@"}), "<@"),
            (json!({"text": 5}), "-"),
        ] {
            assert_eq!(read(extra.clone()), want, "{extra}");
        }
    }

    #[test]
    fn what_counts_as_an_edit() {
        let clip = json!({"ts": "1.000001", "user": "U7", "files": [{"id": "F1", "url_private": "x",
            "transcription": {"status": "complete", "preview": {"content": "hi"}}}]});
        let edit = json!({"ts": "1.000001", "user": "U7", "text": "<@U0MOM> b", "edited": {}});
        let unfurl = json!({"ts": "1.000001", "user": "U7", "text": "b"});
        let gone = json!({"ts": "1.000001", "user": "USLACKBOT", "subtype": "tombstone"});
        let one = json!({"ts": "1.000001", "user": "U7", "text": "see https://x", "edited": {},
            "attachments": [{"text": "one"}]});
        let mut two = one.clone();
        two["attachments"] = json!([{"text": "one"}, {"title": "two"}]);
        let new = Value::Null;
        for (before, message, want) in [
            (&new, clip, "extended: [transcript: hi]"),
            (&new, edit, "edited: b"),
            (&new, unfurl, "ignored"),
            (&new, gone, "deleted"),
            (&one, two.clone(), "extended: two"),
            (&two, one.clone(), "ignored"),
        ] {
            let event = json!({"type": "message", "subtype": "message_changed", "channel": "C1",
                "message": message, "previous_message": before});
            let outcome = match parsed(event) {
                Inbound::Edited(message) => format!("edited: {}", message.text),
                Inbound::Extended(_, added) => format!("extended: {added}"),
                Inbound::Deleted { .. } => "deleted".to_owned(),
                Inbound::Ignored(_) => "ignored".to_owned(),
                other => format!("{other:?}"),
            };
            assert_eq!(outcome, want, "{message}");
        }
    }

    /// Frames as the socket brings them.
    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"envelope_id":"e1","type":"events_api","payload":{"event":{"type":"message","channel":"C1","user":"U7","text":"<@U0MOM> hi <@U2|x> <@","ts":"1.000001","thread_ts":"1.0","channel_type":"channel","user_team":"T2","files":[{"id":"F1","name":"a","url_private":"https://x","size":3},{"id":"F2","mode":"file_access"}]}}}"#,
            r#"{"envelope_id":"e2","type":"events_api","payload":{"event":{"type":"app_mention","channel":"D1","channel_type":null,"user":"W7","text":"<@u0mom|mom> \ud83d","ts":"2.5"}}}"#,
            r#"{"envelope_id":"e3","type":"events_api","payload":{"event":{"type":"message","subtype":"message_changed","channel":"G1","message":{"ts":"1.5","user":"U7","text":"b","edited":{},"subtype":"thread_broadcast"}}}}"#,
            r#"{"envelope_id":"e4","type":"events_api","payload":{"event":{"type":"message","subtype":"message_deleted","channel":"C1","deleted_ts":"1.5","bot_id":"B1","username":"x","attachments":[{"fallback":"f","text":"t","fields":[{"title":"a","value":"b"}],"blocks":[{"type":"table","rows":[[{"type":"raw_text","text":"x"}]]}],"message_blocks":[{"message":{"files":[{"id":"F1"}]}}]}],"blocks":[{"type":"rich_text","elements":[{"type":"rich_text_list","style":"ordered","elements":[{"type":"rich_text_section","elements":[{"type":"user","user_id":"U1","style":{"bold":true}},{"type":"link","url":"https://x","text":"y"}]}]}]}]}}}"#,
            r#"{"envelope_id":"e5","type":"interactive","payload":{"type":"block_actions","user":{"id":"U7"},"channel":{"id":"C1"},"container":{"channel_id":"C2"},"actions":[{"action_id":"stop","value":"1.5"}]}}"#,
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let frame = crate::base::json::parse_lenient(&text).ok();
            let Some(envelope) = frame.and_then(crate::slack::Envelope::of) else {
                return;
            };
            let event = &envelope.payload["event"];
            program_name(event);
            let overheard = overheard(event, "C1", &me());
            let parsed = parse(&envelope.kind, &envelope.payload, &me());
            let (channel, ts) = match (&parsed, &overheard) {
                (
                    Inbound::Message(message)
                    | Inbound::Edited(message)
                    | Inbound::Extended(message, _),
                    _,
                )
                | (_, Some(message)) => {
                    assert!(is_user_id(&message.user) || is_bot_id(&message.user));
                    assert!(message.text.len() <= 8 * text.len() + 1_000);
                    assert!(message.thread_ts.as_deref().is_none_or(is_ts));
                    assert!(!without_mention(&message.text, "U0MOM").1);
                    (&message.channel, message.ts.as_str())
                }
                (Inbound::Deleted { channel, ts }, _) => (channel, ts.as_str()),
                (Inbound::StopPressed { channel, .. } | Inbound::ChannelChanged(channel), _) => {
                    (channel, "1.0")
                }
                _ => return,
            };
            assert!(is_channel_id(channel) && is_ts(ts), "{channel} {ts}");
        });
    }
}

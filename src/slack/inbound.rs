//! What Slack tells us, typed: the payload of an envelope becomes an `Inbound`. Pure. Which
//! messages count as asked is decided here; everything that mom need not know is `Ignored`
//! with the reason.

use serde_json::Value;

use super::{is_channel_id, is_ts, is_user_id};

/// mom's own ids, from auth.test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Me {
    pub(crate) user_id: String,
    pub(crate) team_id: String,
    /// Of the Enterprise Grid organisation; empty when the workspace is in none.
    pub(crate) enterprise_id: String,
}

impl Me {
    /// Is this the id of mom's workspace or of its organisation? Also when auth.test told
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
    /// Someone edited a message: as it reads now.
    Edited(Incoming),
    Deleted {
        channel: String,
        ts: String,
    },
    /// The Stop button of a status message.
    StopPressed {
        channel: String,
        user: String,
        /// Of which run; "" when the button does not say.
        run: String,
    },
    Ignored(&'static str),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Incoming {
    pub(crate) channel: String,
    pub(crate) user: String,
    /// Raw mrkdwn with mom's own mention taken out, trimmed; entities encoded.
    pub(crate) text: String,
    pub(crate) ts: String,
    /// Root of the thread it was written in.
    pub(crate) thread_ts: Option<String>,
    /// For mom: she is mentioned, or it is a direct message.
    pub(crate) mention: bool,
    /// A one-to-one conversation (channel_type im).
    pub(crate) direct: bool,
    pub(crate) files: Vec<SlackFile>,
    /// The sender belongs to another workspace (Slack Connect).
    pub(crate) foreign: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SlackFile {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) mimetype: String,
    /// Bytes; 0 when Slack does not say.
    pub(crate) size: u64,
    /// `url_private_download`, else `url_private`; empty for stubs that need files.info.
    pub(crate) url: String,
    /// Lives elsewhere (Google Drive ...): the token must not be sent there.
    pub(crate) external: bool,
}

/// `kind` is the envelope's type.
pub(crate) fn parse(kind: &str, payload: &Value, me: &Me) -> Inbound {
    match kind {
        "events_api" => event(payload, me),
        "interactive" => interactive(payload),
        _ => Inbound::Ignored("not an event"),
    }
}

/// A message object as events and conversations.history have it. `channel_type` may be
/// absent: the id's first letter tells then.
pub(crate) fn message(event: &Value, channel: &str, me: &Me) -> Inbound {
    let text = |key: &str| event[key].as_str();
    let direct = match text("channel_type") {
        Some(kind) => kind == "im",
        None => channel.starts_with('D'),
    };
    match text("subtype") {
        None | Some("file_share" | "thread_broadcast" | "me_message") => {}
        Some(_) => return Inbound::Ignored("a subtype that is not someone speaking"),
    }
    if !event["bot_id"].is_null() {
        return Inbound::Ignored("from a bot");
    }
    let (Some(user), Some(ts)) = (text("user"), text("ts")) else {
        return Inbound::Ignored("no user or ts");
    };
    if user == me.user_id || user == "USLACKBOT" {
        return Inbound::Ignored("from mom herself or Slackbot");
    }
    if !is_user_id(user) || !is_ts(ts) || !is_channel_id(channel) {
        return Inbound::Ignored("an id that Slack never makes");
    }
    let raw = text("text").unwrap_or_default();
    let files = event["files"].as_array().into_iter().flatten();
    let files: Vec<SlackFile> = files.filter_map(file).collect();
    let app_mention = text("type") == Some("app_mention");
    let (cleaned, mentioned) = without_mention(raw, &me.user_id);
    let mention = app_mention || mentioned || direct;
    if cleaned.is_empty() && files.is_empty() && !mention {
        return Inbound::Ignored("neither text nor files");
    }
    let team = text("user_team").or_else(|| text("source_team"));
    Inbound::Message(Incoming {
        channel: channel.to_owned(),
        user: user.to_owned(),
        text: cleaned,
        ts: ts.to_owned(),
        thread_ts: text("thread_ts")
            .filter(|root| is_ts(root))
            .map(str::to_owned),
        mention,
        direct,
        files,
        // Of an organisation's other workspaces only a look-up tells.
        foreign: me.enterprise_id.is_empty() && team.is_some_and(|team| !me.is_home(team)),
    })
}

/// A message that is read because someone asks about what was said around it: nothing in it
/// is asked of mom, and programs speak too. `None` for her own.
pub(crate) fn overheard(said: &Value, channel: &str, me: &Me) -> Option<Incoming> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let root = said["thread_ts"].as_str().filter(|root| is_ts(root));
    if let Inbound::Message(said) = message(said, channel, me) {
        return Some(Incoming {
            mention: false,
            ..said
        });
    }
    let (user, bot, ts) = (text(said, "user"), text(said, "bot_id"), text(said, "ts"));
    if bot.is_empty() || user == me.user_id || !is_ts(&ts) {
        return None;
    }
    let mut words = vec![text(said, "text")];
    // Alerts say it in attachments.
    for attachment in said["attachments"].as_array().into_iter().flatten() {
        let keys = ["fallback", "text"].into_iter();
        let mut texts = keys.map(|key| text(attachment, key));
        words.extend(texts.find(|text| !text.is_empty()));
    }
    words.retain(|text| !text.is_empty());
    Some(Incoming {
        channel: channel.to_owned(),
        user: bot,
        text: words.join("\n"),
        thread_ts: root.map(str::to_owned),
        ts,
        ..Incoming::default()
    })
}

/// What the program that wrote it calls itself; `None` for people.
pub(crate) fn program_name(said: &Value) -> Option<&str> {
    said["bot_id"].as_str()?;
    let names = [&said["username"], &said["bot_profile"]["name"]];
    names.into_iter().find_map(Value::as_str)
}

fn event(payload: &Value, me: &Me) -> Inbound {
    let event = &payload["event"];
    let channel = event["channel"].as_str().unwrap_or_default().to_owned();
    if !is_channel_id(&channel) {
        return Inbound::Ignored("no channel, or an id that Slack never makes");
    }
    let deleted = |ts: &Value| match ts.as_str().filter(|ts| is_ts(ts)) {
        Some(ts) => Inbound::Deleted {
            channel: channel.clone(),
            ts: ts.to_owned(),
        },
        None => Inbound::Ignored("no ts"),
    };
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    match (text("type"), text("subtype")) {
        ("message", "message_changed") => {
            let inner = &event["message"];
            // A root with replies leaves its place behind.
            if inner["subtype"] == "tombstone" {
                return deleted(&inner["ts"]);
            }
            if inner["edited"].is_null() {
                return Inbound::Ignored("not a person's edit");
            }
            match message(inner, &channel, me) {
                Inbound::Message(message) => Inbound::Edited(message),
                other => other,
            }
        }
        ("message", "message_deleted") => deleted(&event["deleted_ts"]),
        ("message" | "app_mention", _) => message(event, &channel, me),
        _ => Inbound::Ignored("an event mom has no use for"),
    }
}

fn interactive(payload: &Value) -> Inbound {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let channel = match &payload["channel"]["id"] {
        Value::Null => text(&payload["container"]["channel_id"]),
        id => text(id),
    };
    let mut actions = payload["actions"].as_array().into_iter().flatten();
    let pressed = actions.find(|action| action["action_id"] == "stop");
    match pressed.filter(|_| payload["type"] == "block_actions" && is_channel_id(&channel)) {
        Some(pressed) => Inbound::StopPressed {
            channel,
            user: text(&payload["user"]["id"]),
            run: text(&pressed["value"]),
        },
        None => Inbound::Ignored("not our button"),
    }
}

/// A file mom can fetch; tombstones and files over the plan's limit are not.
pub(crate) fn file(value: &Value) -> Option<SlackFile> {
    let text = |key: &str| value[key].as_str();
    let id = text("id")?;
    if matches!(text("mode"), Some("tombstone" | "hidden_by_limit")) {
        return None;
    }
    let url = text("url_private_download").or_else(|| text("url_private"));
    let stub = text("mode") == Some("file_access");
    if !stub && (url.is_none() || text("name").is_none()) {
        return None;
    }
    Some(SlackFile {
        id: id.to_owned(),
        name: text("name").or(text("title")).unwrap_or(id).to_owned(),
        mimetype: text("mimetype").unwrap_or_default().to_owned(),
        size: value["size"].as_u64().unwrap_or(0),
        url: url.unwrap_or_default().to_owned(),
        external: value["is_external"] == true,
    })
}

/// Takes `<@ME>` and `<@ME|name>` out; tells whether one was there.
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
        let said = |extra: Value| {
            let mut event = json!({"type": "message", "channel": "C1", "user": "U7",
                "text": "hi", "ts": "1.000001", "channel_type": "channel"});
            for (key, value) in extra.as_object().unwrap() {
                event[key] = value.clone();
            }
            match parsed(event) {
                Inbound::Message(m) => format!("{}{}", if m.mention { "!" } else { "" }, m.text),
                Inbound::Ignored(_) => "-".to_owned(),
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
            (json!({"bot_id": "B2"}), "-"),
            (json!({"user": "U0MOM"}), "-"),
            (json!({"subtype": "channel_join"}), "-"),
            (json!({"subtype": "thread_broadcast"}), "hi"),
            (json!({"channel": "../etc"}), "-"),
            (json!({"ts": "1"}), "-"),
            (json!({"user": null}), "-"),
            (json!({"text": "<@"}), "<@"),
            (json!({"text": 5}), "-"),
        ] {
            assert_eq!(said(extra.clone()), want, "{extra}");
        }
    }

    #[test]
    fn edits_deletions_buttons_files() {
        let edit = json!({"type": "message", "subtype": "message_changed", "channel": "C1",
            "message": {"ts": "1.000001", "user": "U7", "text": "<@U0MOM> b", "edited": {}}});
        let Inbound::Edited(message) = parsed(edit) else {
            panic!("no edit")
        };
        assert_eq!((&*message.ts, &*message.text), ("1.000001", "b"));
        let gone = json!({"type": "message", "subtype": "message_changed", "channel": "C1",
            "message": {"ts": "1.000001", "user": "USLACKBOT", "subtype": "tombstone"}});
        assert!(matches!(parsed(gone), Inbound::Deleted { .. }));
        let unfurl = json!({"type": "message", "subtype": "message_changed", "channel": "C1",
            "message": {"ts": "1.000001", "user": "U7", "text": "b"}});
        assert!(matches!(parsed(unfurl), Inbound::Ignored(_)));
        let press = json!({"type": "block_actions", "user": {"id": "U7"}, "channel": {"id": "C1"},
            "actions": [{"action_id": "stop", "value": "1.5"}]});
        assert_eq!(
            parse("interactive", &press, &me()),
            Inbound::StopPressed {
                channel: "C1".into(),
                user: "U7".into(),
                run: "1.5".into()
            }
        );
        for (value, want) in [
            (
                json!({"id": "F1", "name": "a", "url_private": "https://x"}),
                true,
            ),
            (json!({"id": "F1", "mode": "file_access"}), true),
            (json!({"id": "F1", "mode": "tombstone"}), false),
            (json!({"id": "F1", "name": "a"}), false),
        ] {
            assert_eq!(file(&value).is_some(), want, "{value}");
        }
    }

    /// Frames as the socket brings them.
    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"envelope_id":"e1","type":"events_api","payload":{"event":{"type":"message","channel":"C1","user":"U7","text":"<@U0MOM> hi <@U2|x> <@","ts":"1.000001","thread_ts":"1.0","channel_type":"channel","user_team":"T2","files":[{"id":"F1","name":"a","url_private":"https://x","size":3},{"id":"F2","mode":"file_access"}]}}}"#,
            r#"{"envelope_id":"e2","type":"events_api","payload":{"event":{"type":"app_mention","channel":"D1","channel_type":null,"user":"W7","text":"<@u0mom|mom> \ud83d","ts":"2.5"}}}"#,
            r#"{"envelope_id":"e3","type":"events_api","payload":{"event":{"type":"message","subtype":"message_changed","channel":"G1","message":{"ts":"1.5","user":"U7","text":"b","edited":{},"subtype":"thread_broadcast"}}}}"#,
            r#"{"envelope_id":"e4","type":"events_api","payload":{"event":{"type":"message","subtype":"message_deleted","channel":"C1","deleted_ts":"1.5","bot_id":"B1","username":"x","attachments":[{"fallback":"f","text":"t"}]}}}"#,
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
            let heard = overheard(event, "C1", &me());
            let parsed = parse(&envelope.kind, &envelope.payload, &me());
            let (channel, ts) = match (&parsed, &heard) {
                (Inbound::Message(said) | Inbound::Edited(said), _) | (_, Some(said)) => {
                    assert!(said.user == me().user_id || heard.is_some() || is_user_id(&said.user));
                    assert!(said.text.len() <= text.len());
                    assert!(said.thread_ts.as_deref().is_none_or(is_ts));
                    assert!(!without_mention(&said.text, "U0MOM").1);
                    (&said.channel, said.ts.as_str())
                }
                (Inbound::Deleted { channel, ts }, _) => (channel, ts.as_str()),
                (Inbound::StopPressed { channel, .. }, _) => (channel, "1.0"),
                (Inbound::Ignored(_), _) => return,
            };
            assert!(is_channel_id(channel) && is_ts(ts), "{channel} {ts}");
        });
    }
}

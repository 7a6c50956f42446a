//! An event file: how it is read, and what it must have (the README's Events).

use serde_json::Value;

use crate::base::json;
use crate::base::text::{self, cut};
use crate::base::time;
use crate::events::cron::{self, Schedule};
use crate::store::dir::{Dir, Kind, Stamp};
use crate::store::is_conversation;

/// An event file is a few lines.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// A valid event file.
pub(super) struct Event {
    pub(super) channel: String,
    pub(super) text: String,
    /// The type as the prompt names it; `info` is that, or the file's `at` or `schedule`.
    pub(super) kind: &'static str,
    pub(super) info: String,
    pub(super) when: When,
}

pub(super) enum When {
    Now,
    At { ms: i64 },
    Cron(Box<Schedule>),
}

/// Why a file can't run.
pub(super) struct Unusable {
    pub(super) why: String,
    /// The file's content, if it is text.
    pub(super) text: Option<String>,
}

/// Reads a file: returns its text and the event in it.
pub(super) fn load(dir: &Dir, path: &str, stamp: &Stamp) -> Result<(String, Event), Unusable> {
    let text = read(dir, path, stamp).map_err(|why| Unusable { why, text: None })?;
    match parse(&text) {
        Ok(event) => Ok((text, event)),
        Err(why) => Err(Unusable {
            why,
            text: Some(text),
        }),
    }
}

fn read(dir: &Dir, path: &str, stamp: &Stamp) -> Result<String, String> {
    match stamp.kind {
        Kind::File => {}
        Kind::Dir => return Err("it is a directory".to_owned()),
        Kind::Other => return Err("it is not a regular file".to_owned()),
    }
    if stamp.bytes > FILE_BYTES_MAX as u64 {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    let bytes = dir.read_head(path, FILE_BYTES_MAX);
    let bytes = bytes.map_err(|err| err.to_string())?.unwrap_or_default();
    match text::decode(&bytes) {
        (text, None | Some(text::UTF16)) => Ok(text),
        (_, Some(why)) => Err(format!("it is not UTF-8 text: {why}")),
    }
}

pub(super) fn parse(text: &str) -> Result<Event, String> {
    let json = without_comments(text);
    let value: Value = json::parse(&json).map_err(|err| format!("not valid JSON: {err}"))?;
    if !value.is_object() {
        return Err("not a JSON object".to_owned());
    }
    let field = |key: &str, example: &str| match value[key].as_str() {
        Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(format!(
            "\"{key}\" is missing or not a string, write it like \"{key}\":\"{example}\""
        )),
    };
    let kind = field("type", "one-shot")?;
    let channel = field("channelId", "C0123ABCD")?;
    if !channel.starts_with(['C', 'D', 'G']) || !is_conversation(&channel) {
        return Err(format!(
            "\"channelId\" {} is no channel id, these look like C0123ABCD",
            cut(&channel, 40)
        ));
    }
    let text = field("text", "what to do")?;
    let (kind, info, when) = match kind.as_str() {
        "immediate" => ("immediate", "immediate".to_owned(), When::Now),
        "one-shot" => {
            let at = field("at", "2027-03-01T09:00:00+01:00")?;
            let ms = parse_at(&at)?;
            ("one-shot", at, When::At { ms })
        }
        "periodic" => {
            let schedule = field("schedule", "0 9 * * 1-5")?;
            let zone = field("timezone", &time::zone_name())?;
            let when = When::Cron(Box::new(cron::parse(&schedule, &zone)?));
            ("periodic", schedule, when)
        }
        other => {
            return Err(format!(
                "\"type\" {} is unknown, there are immediate, one-shot and periodic",
                cut(other, 40)
            ));
        }
    };
    Ok(Event {
        channel,
        text,
        kind,
        info,
        when,
    })
}

/// Time in milliseconds. Without an offset it is in the host's time zone.
fn parse_at(text: &str) -> Result<i64, String> {
    let at = time::parse(text.trim()).and_then(|written| {
        let at = match written.offset {
            Some(offset) => offset.to_timestamp(written.clock),
            None => {
                let zone = written.zone.unwrap_or_else(time::zone);
                zone.to_ambiguous_timestamp(written.clock).compatible()
            }
        };
        Some(at.ok()?.as_millisecond())
    });
    at.ok_or_else(|| {
        format!(
            "\"at\" {} is no time, write it like 2027-03-01T09:00:00+01:00",
            cut(text, 60)
        )
    })
}

/// The text without the lines that mom put at the top when it set the file aside.
fn without_comments(text: &str) -> String {
    let lines = text.lines().skip_while(|line| line.starts_with('#'));
    let mut out: String = lines.flat_map(|line| [line, "\n"]).collect();
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// The text of a file that is set aside, to be corrected and renamed back.
pub(super) fn corrigible(text: &str) -> String {
    let how = "# Correct it and rename it back to a name that ends in .json. Lines that begin with # may stay.";
    format!("{how}\n{}", without_comments(text))
}

/// The name of a file that is set aside, without its new ending, cut so that it has at most 255
/// bytes with that ending and while it is written.
pub(super) fn base(name: &str) -> &str {
    let mut end = name.len().min(240);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// The channel that a broken file seems to mean, or "".
pub(super) fn channel_in(text: &str) -> &str {
    let id = text
        .split_once("\"channelId\"")
        .and_then(|(_, rest)| rest.split('"').nth(1));
    id.filter(|id| id.len() <= 40 && id.bytes().all(|b| b.is_ascii_alphanumeric()))
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::next_run;
    use crate::mutate::survive;

    /// 2026-01-05T12:00:00Z
    const START: i64 = 1_767_614_400_000;

    #[test]
    fn a_time_without_offset_is_local() {
        for (text, want) in [
            ("2026-01-05T13:00:00+01:00", Some(START)),
            ("2026-01-05T13:00[Europe/Vienna]", Some(START)),
            (" 2026-01-05 13:00:00.0+01:00 ", Some(START)),
            ("2026-01-05T13:00:00+99:00", None),
            ("", None),
        ] {
            assert_eq!(parse_at(text).ok(), want, "{text}");
        }
        for (text, hour) in [("2026-01-05T09:00", 9), ("2026-01-05", 0)] {
            let local = jiff::civil::date(2026, 1, 5).at(hour, 0, 0, 0);
            let want = local.to_zoned(time::zone()).unwrap().timestamp();
            assert_eq!(parse_at(text), Ok(want.as_millisecond()), "{text}");
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"type":"immediate","channelId":"C0123","text":"é"}"#,
            r#"{"type":"one-shot","channelId":"D0123","text":"t","at":"2027-03-01T09:00:00+01:00"}"#,
            r#"{"type":"one-shot","channelId":"G0123","text":"t","at":"2027-03-28T02:30[Europe/Vienna]"}"#,
            "# mom did not run this: x\n{\"type\":\"periodic\",\"channelId\":\"C0123\",\"text\":\"t\",\n\"schedule\":\"0 9 L * 1-5\",\"timezone\":\"Europe/Vienna\"}",
        ];
        survive(&corpus, |random, input| {
            let text = String::from_utf8_lossy(input);
            assert!(channel_in(&text).len() <= 40);
            let parsed = parse(&text);
            // As it stands in an .error file, and comes back from there.
            let again = parse(&format!("# why\n{}", without_comments(&text)));
            assert_eq!(parsed.is_ok(), again.is_ok());
            match parsed {
                Err(why) => assert!(why.len() < 1_000, "{why}"),
                Ok(event) => {
                    assert!(is_conversation(&event.channel), "{}", event.channel);
                    assert!(!event.text.trim().is_empty());
                    if let When::Cron(schedule) = event.when {
                        let (last, now) = (random.below(1 << 42) as i64, START);
                        let next = next_run(&schedule, last, now);
                        assert!(next.is_none_or(|next| next > now));
                    }
                }
            }
        });
    }
}

//! settings.json of the data directory: harmless knobs only, since the agent can write it.
//! Model, keys, URLs, allow-lists and sandbox never come from here. Any missing, unreadable
//! or absurd value is the default or the nearest sensible one, with a warning.

use std::time::Duration;

use serde_json::Value;

use crate::base::text;
use crate::store::dir::Dir;

/// A longer file is cut and so no valid JSON.
const BYTES_MAX: usize = 64 * 1024;

/// Unknown keys that are named.
const UNKNOWN_MAX: usize = 10;
const GROUPS: [(&str, &[&str]); 2] = [
    (
        "compaction",
        &[
            "compaction.enabled",
            "compaction.reserveTokens",
            "compaction.keepRecentTokens",
        ],
    ),
    (
        "retry",
        &[
            "retry.enabled",
            "retry.maxRetries",
            "retry.baseDelayMs",
            "retry.maxDelayMs",
        ],
    ),
];

/// Defaults and names are the original's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// False: no compaction at all, a full window becomes a plain error.
    pub(crate) compaction: bool,
    /// Tokens: compact when the context holds more than the window less this.
    pub(crate) reserve_tokens: u64,
    /// Tokens: how much of the newest part is kept word for word.
    pub(crate) keep_recent_tokens: u64,
    /// Further tries of a failed model request; 0 when retrying is switched off.
    pub(crate) retries_max: u32,
    /// Pause before the first of them; doubles with each.
    pub(crate) retry_base: Duration,
    /// A longer pause asked for by a server is a failure at once.
    pub(crate) retry_pause_max: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        parse("{}").0
    }
}

impl Settings {
    /// Before the next try, after so many failures; `after` is what the server asked for.
    /// `None`: it is enough.
    pub(crate) fn pause(&self, failures: u32, after: Option<Duration>) -> Option<Duration> {
        let pause = after.unwrap_or(self.retry_base * 2_u32.pow(failures.min(16) - 1));
        (failures <= self.retries_max && pause <= self.retry_pause_max).then_some(pause)
    }
}

/// settings.json as it is now; see `parse`. The warnings come with each call.
pub(crate) fn load(dir: &Dir) -> (Settings, Vec<String>) {
    match read(dir) {
        Ok(text) => parse(&text),
        Err(why) => (Settings::default(), vec![why]),
    }
}

/// What is wrong with settings.json, a sentence each; also keys that mom does not know, which
/// may be of the original.
pub(crate) fn check(dir: &Dir) -> Vec<String> {
    match read(dir) {
        Ok(text) => {
            let mut wrong = parse(&text).1;
            wrong.extend(unknown_keys(&text));
            wrong
        }
        Err(why) => vec![why],
    }
}

fn read(dir: &Dir) -> Result<String, String> {
    match dir.read_head("settings.json", BYTES_MAX) {
        Ok(bytes) => Ok(bytes.map_or("{}".to_owned(), |bytes| text::decode(&bytes).0)),
        Err(err) => Err(format!("{err}, using the defaults")),
    }
}

/// The first few of them.
fn unknown_keys(text: &str) -> Vec<String> {
    let root: Value = serde_json::from_str(text).unwrap_or_default();
    let mut out = Vec::new();
    for (group, value) in root.as_object().into_iter().flatten() {
        let known = GROUPS.iter().find(|(known, _)| known == group);
        let Some((_, keys)) = known else {
            out.push(unknown(group, &GROUPS.map(|(group, _)| group)));
            continue;
        };
        let unknown_in = |key: &String| {
            let key = format!("{group}.{key}");
            (!keys.contains(&&*key)).then(|| unknown(&key, keys))
        };
        out.extend(
            value
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(key, _)| unknown_in(key)),
        );
    }
    out.truncate(UNKNOWN_MAX);
    out
}

fn unknown(key: &str, known: &[&str]) -> String {
    let hint = match text::nearest(key, known) {
        Some(near) => format!(", did you mean {near}?"),
        None => String::new(),
    };
    format!(
        "settings.json: {} has no effect{hint}",
        text::one_line(key, 60)
    )
}

/// What the text of settings.json sets, and a sentence for each value that was not taken as
/// it stands.
pub(crate) fn parse(text: &str) -> (Settings, Vec<String>) {
    let (root, warning) = match serde_json::from_str(text) {
        Ok(root @ Value::Object(_)) => (root, None),
        Ok(_) => (Value::Null, Some("not a JSON object".to_owned())),
        Err(err) => (Value::Null, Some(format!("not valid JSON ({err})"))),
    };
    let warning = warning.map(|why| format!("settings.json: {why}, using the defaults"));
    let mut reader = SettingsReader {
        root,
        warnings: warning.into_iter().collect(),
    };
    let retry = reader.flag("retry", "enabled");
    let retries = reader.number("retry", "maxRetries", 3, 0..=20) as u32;
    let base = reader.number("retry", "baseDelayMs", 2_000, 100..=60_000);
    let most = reader.number("retry", "maxDelayMs", 60_000, 1_000..=3_600_000);
    let tokens = 1_000..=500_000;
    let settings = Settings {
        compaction: reader.flag("compaction", "enabled"),
        reserve_tokens: reader.number("compaction", "reserveTokens", 16_384, tokens.clone()),
        keep_recent_tokens: reader.number("compaction", "keepRecentTokens", 20_000, tokens),
        retries_max: if retry { retries } else { 0 },
        retry_base: Duration::from_millis(base),
        retry_pause_max: Duration::from_millis(most),
    };
    (settings, reader.warnings)
}

struct SettingsReader {
    root: Value,
    warnings: Vec<String>,
}

impl SettingsReader {
    /// True unless the file says false.
    fn flag(&mut self, group: &str, key: &str) -> bool {
        let value = &self.root[group][key];
        if !value.is_null() && !value.is_boolean() {
            let why = format!("must be true or false, not {}", cut(value));
            self.warnings
                .push(format!("settings.json: {group}.{key} {why}"));
        }
        *value != false
    }

    fn number(&mut self, group: &str, key: &str, default: u64, range: Range) -> u64 {
        let value = &self.root[group][key];
        if value.is_null() {
            return default;
        }
        // `as` saturates: negative numbers become 0, huge ones the maximum.
        let (used, why) = match value.as_u64().or(value.as_f64().map(|n| n as u64)) {
            Some(number) if range.contains(&number) => return number,
            Some(number) => (
                number.clamp(*range.start(), *range.end()),
                "is out of range",
            ),
            None => (default, "is not a number"),
        };
        let why = format!("{} {why}, using {used}", cut(value));
        self.warnings
            .push(format!("settings.json: {group}.{key} {why}"));
        used
    }
}

type Range = std::ops::RangeInclusive<u64>;

fn cut(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    #[test]
    fn tolerant() {
        let default = Settings::default();
        assert_eq!(
            (default.reserve_tokens, default.keep_recent_tokens),
            (16_384, 20_000)
        );
        assert_eq!((default.compaction, default.retries_max), (true, 3));
        for (text, reserve, retries, warnings) in [
            (
                r#"{"defaultModel":"x","compaction":{"reserveTokens":8000}}"#,
                8_000,
                3,
                0,
            ),
            (
                r#"{"retry":{"enabled":false,"maxRetries":7}}"#,
                16_384,
                0,
                0,
            ),
            (r#"{"compaction":{"reserveTokens":-5}}"#, 1_000, 3, 1),
            (
                r#"{"compaction":{"reserveTokens":1e99},"retry":{"maxRetries":1e9}}"#,
                500_000,
                20,
                2,
            ),
            (
                r#"{"compaction":{"reserveTokens":"8000"},"retry":{"enabled":0}}"#,
                16_384,
                3,
                2,
            ),
            (r#"{"compaction":[1],"retry":"no"}"#, 16_384, 3, 0),
            (r#"{"compaction":"#, 16_384, 3, 1),
            ("[]", 16_384, 3, 1),
        ] {
            let (settings, wrong) = parse(text);
            assert_eq!(settings.reserve_tokens, reserve, "{text}");
            assert_eq!(settings.retries_max, retries, "{text}");
            assert_eq!(wrong.len(), warnings, "{text}: {wrong:?}");
        }
    }

    #[test]
    fn unknown_keys_are_named() {
        for (text, want) in [
            (
                r#"{"compaction":{"enabled":true},"retry":{"maxRetries":1}}"#,
                "",
            ),
            (
                r#"{"compactoin":{}}"#,
                "compactoin has no effect, did you mean compaction?",
            ),
            (
                r#"{"retry":{"maxRetrys":1}}"#,
                "retry.maxRetrys has no effect, did you mean retry.maxRetries?",
            ),
            (r#"{"model":"evil/model"}"#, "model has no effect"),
        ] {
            let got = unknown_keys(text).join("; ");
            assert_eq!(got.trim_start_matches("settings.json: "), want, "{text}");
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"compaction":{"enabled":true,"reserveTokens":16384,"keepRecentTokens":-5}}"#,
            r#"{"retry":{"enabled":false,"maxRetries":3,"baseDelayMs":1e9,"maxDelayMs":0.5}}"#,
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let (settings, mut wrong) = parse(&text);
            wrong.extend(unknown_keys(&text));
            for tokens in [settings.reserve_tokens, settings.keep_recent_tokens] {
                assert!((1_000..=500_000).contains(&tokens));
            }
            let pauses = [settings.retry_base, settings.retry_pause_max];
            assert!(
                pauses
                    .iter()
                    .all(|pause| (100..=3_600_000).contains(&pause.as_millis()))
            );
            assert!(settings.retries_max <= 20);
            assert!(wrong.iter().all(|why| why.len() < 400), "{wrong:?}");
        });
    }
}

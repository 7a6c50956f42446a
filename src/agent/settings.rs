//! settings.json of the data directory: harmless settings only, since the agent can write it.
//! Model, keys, URLs, allow-lists and sandbox never come from here. When the file can't be read,
//! the defaults apply; a number out of range becomes the nearest allowed one, with a warning.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::base::json;
use crate::base::text;
use crate::store::dir::Dir;

/// A longer file is cut, and then it is not valid JSON.
const BYTES_MAX: usize = 64 * 1024;
/// Unknown keys that are reported at most.
const UNKNOWN_MAX: usize = 10;

/// What the value of a key must be.
#[derive(Clone, Copy)]
enum Wanted {
    Group,
    Flag,
    /// At least the first, at most the second.
    Number(u64, u64),
}

const TOKENS: Wanted = Wanted::Number(1_000, 500_000);
const KEYS: [(&str, Wanted); 9] = [
    ("compaction", Wanted::Group),
    ("compaction.enabled", Wanted::Flag),
    ("compaction.reserveTokens", TOKENS),
    ("compaction.keepRecentTokens", TOKENS),
    ("retry", Wanted::Group),
    ("retry.enabled", Wanted::Flag),
    ("retry.maxRetries", Wanted::Number(0, 20)),
    ("retry.baseDelayMs", Wanted::Number(100, 60_000)),
    ("retry.maxDelayMs", Wanted::Number(1_000, 3_600_000)),
];

/// The settings; names and defaults are those of the original mom.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    pub(crate) compaction: CompactionSettings,
    pub(crate) retry: RetrySettings,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CompactionSettings {
    /// False: no compaction at all; a full window is an error.
    pub(crate) enabled: bool,
    /// The context is compacted when it is larger than the window minus this.
    pub(crate) reserve_tokens: u64,
    /// Tokens of the newest messages that are kept word for word.
    pub(crate) keep_recent_tokens: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RetrySettings {
    enabled: bool,
    /// Further tries of a failed model request.
    pub(crate) max_retries: u64,
    /// Pause before the first further try; it doubles with each.
    pub(crate) base_delay_ms: u64,
    /// When a server asks for a longer pause, the request fails at once.
    max_delay_ms: u64,
}

impl Default for CompactionSettings {
    fn default() -> CompactionSettings {
        CompactionSettings {
            enabled: true,
            reserve_tokens: 16_384,
            keep_recent_tokens: 20_000,
        }
    }
}

impl Default for RetrySettings {
    fn default() -> RetrySettings {
        RetrySettings {
            enabled: true,
            max_retries: 3,
            base_delay_ms: 2_000,
            max_delay_ms: 60_000,
        }
    }
}

impl RetrySettings {
    /// The pause before the next try, after so many failures; `after` is what the server asked
    /// for. `None`: no further try.
    pub(crate) fn pause(&self, failures: u32, after: Option<Duration>) -> Option<Duration> {
        let doubled = self.base_delay_ms << (failures.min(16) - 1);
        let pause = after.unwrap_or(Duration::from_millis(doubled));
        let is_over = !self.enabled || u64::from(failures) > self.max_retries;
        (!is_over && pause <= Duration::from_millis(self.max_delay_ms)).then_some(pause)
    }
}

/// settings.json as it is now; see `parse`. Each call returns the warnings again.
pub(crate) fn load(dir: &Dir) -> (Settings, Vec<String>) {
    match read(dir) {
        Ok(text) => parse(&text),
        Err(why) => (Settings::default(), vec![why]),
    }
}

/// What is wrong with settings.json, one sentence per problem; also keys that mom does not know
/// (some are settings of the original).
pub(crate) fn check(dir: &Dir) -> Vec<String> {
    match read(dir) {
        Ok(text) => [parse(&text).1, unknown_keys(&text)].concat(),
        Err(why) => vec![why],
    }
}

fn read(dir: &Dir) -> Result<String, String> {
    match dir.read_head("settings.json", BYTES_MAX) {
        Ok(bytes) => Ok(bytes.map_or("{}".to_owned(), |bytes| text::decode(&bytes).0)),
        Err(err) => Err(format!("{err}, using the defaults")),
    }
}

/// The settings in the text of settings.json, and a warning for each value that was not used.
fn parse(text: &str) -> (Settings, Vec<String>) {
    let mut warnings = Vec::new();
    let root = json::parse::<Map<String, Value>>(text).unwrap_or_else(|err| {
        let why = text::one_line(&err.to_string(), 200);
        warnings.push(format!(
            "settings.json: not valid JSON ({why}), using the defaults"
        ));
        Map::new()
    });
    let mut root = Value::Object(root);
    for (key, wanted) in KEYS {
        warnings.extend(correct(&mut root, key, wanted));
    }
    let settings = json::parse(&json::text(&root));
    (settings.unwrap_or_default(), warnings)
}

/// Clamps a number, and removes a value of a wrong type, so that the default applies; returns a
/// sentence if it did.
fn correct(root: &mut Value, key: &str, wanted: Wanted) -> Option<String> {
    let pointer = format!("/{}", key.replace('.', "/"));
    let value = root.pointer_mut(&pointer)?;
    let kind = match wanted {
        Wanted::Group if !value.is_object() => "an object",
        Wanted::Flag if !value.is_boolean() => "true or false",
        Wanted::Number(min, max) => match value.as_u64() {
            None => "a whole number",
            Some(number) => {
                let used = number.clamp(min, max);
                *value = used.into();
                let what = format!("settings.json: {key} {number} is out of range, using {used}");
                return (used != number).then_some(what);
            }
        },
        _ => return None,
    };
    let value = text::one_line(&json::text(value), 60);
    let (parent, name) = pointer.rsplit_once('/')?;
    root.pointer_mut(parent)?.as_object_mut()?.remove(name);
    Some(format!(
        "settings.json: {key} is {value} and should be {kind}, using the default"
    ))
}

/// A sentence for each of the first `UNKNOWN_MAX` keys that mom does not know.
fn unknown_keys(text: &str) -> Vec<String> {
    let root: Value = json::parse(text).unwrap_or_default();
    let known = KEYS.map(|(key, _)| key);
    let mut keys = Vec::new();
    for (group, value) in root.as_object().into_iter().flatten() {
        keys.push(group.clone());
        if known.contains(&&**group) {
            let inner = value.as_object().into_iter().flatten();
            keys.extend(inner.map(|(key, _)| format!("{group}.{key}")));
        }
    }
    keys.retain(|key| !known.contains(&&**key));
    let unknown = |key: &String| {
        let near = text::nearest(key, &known);
        let hint = near.map_or(String::new(), |near| format!(", did you mean {near}?"));
        let key = text::one_line(key, 60);
        format!("settings.json: {key} has no effect{hint}")
    };
    keys.iter().take(UNKNOWN_MAX).map(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    #[test]
    fn tolerant() {
        // The text of the file; the reserve, tries and number of warnings that result.
        for (text, reserve, tries, warnings) in [
            ("{}", 16_384, 3, 0),
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
            (
                r#"{"compaction":{"reserveTokens":5},"retry":{"maxRetries":99,"baseDelayMs":1}}"#,
                1_000,
                10,
                3,
            ),
            (r#"{"compaction":{"reserveTokens":"8000"}}"#, 16_384, 3, 1),
            (r#"{"compaction":{"reserveTokens":-5}}"#, 16_384, 3, 1),
            (
                r#"{"compaction":{"reserveTokens":8000,"enabled":1},"retry":7}"#,
                8_000,
                3,
                2,
            ),
            ("[1]", 16_384, 3, 1),
            (r#"{"compaction":"#, 16_384, 3, 1),
        ] {
            let (settings, wrong) = parse(text);
            assert_eq!(settings.compaction.reserve_tokens, reserve, "{text}");
            let pauses = (1..).map_while(|failures| settings.retry.pause(failures, None));
            assert_eq!(pauses.count(), tries, "{text}");
            assert_eq!(wrong.len(), warnings, "{text}: {wrong:?}");
        }
    }

    #[test]
    fn a_wrong_value_is_named() {
        let (_, wrong) = parse(r#"{"retry":{"maxRetries":"7"},"compaction":{"enabled":1}}"#);
        let want = "settings.json: retry.maxRetries is \"7\" and should be a whole number, \
            using the default";
        assert_eq!(wrong[1], want);
        assert!(wrong[0].contains("compaction.enabled is 1 and should be true or false"));
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
            r#"{"compaction":{"enabled":true,"reserveTokens":16384,"keepRecentTokens":1}}"#,
            r#"{"retry":{"enabled":false,"maxRetries":3,"baseDelayMs":1000,"maxDelayMs":5}}"#,
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let (settings, mut wrong) = parse(&text);
            wrong.extend(unknown_keys(&text));
            assert!((1_000..=500_000).contains(&settings.compaction.keep_recent_tokens));
            assert!(settings.retry.pause(21, None).is_none());
            settings.retry.pause(u32::MAX, None);
            assert!(wrong.iter().all(|why| why.len() < 1_000), "{wrong:?}");
        });
    }
}

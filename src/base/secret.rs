//! Secrets: tokens and keys that print as `***`, and the mask that keeps them out of all text
//! that leaves the process.

use std::fmt;
use std::sync::{Arc, RwLock};

/// A token or key. `Debug` and `Display` print `***`; `expose` is for the header only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Arc<str>);

impl Secret {
    pub(crate) fn new(text: &str) -> Secret {
        Secret(Arc::from(text.trim()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Replaces mom's own secrets in text that goes to Slack, the files or the model: a tool on the
/// host, or a person, may have printed one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask(Vec<Secret>);

/// Shorter values are ordinary words (`ollama`, `none`), not secrets.
const SECRET_LEN_MIN: usize = 10;

/// mom's own secrets. A global, like the log's level: no output may carry a secret, and
/// code that was given no mask would leak a secret unnoticed.
static OURS: RwLock<Mask> = RwLock::new(Mask(Vec::new()));

/// Sets mom's own secrets. `secrets` replaces the earlier ones, so it must hold them too.
pub(crate) fn guard(secrets: Vec<Secret>) {
    *OURS.write().unwrap() = Mask::new(secrets);
}

/// The text with `***` in place of mom's own secrets.
pub(crate) fn hide(text: String) -> String {
    OURS.read().unwrap().apply(text)
}

/// Whether `bytes` hold one of mom's own secrets.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let Mask(secrets) = &*OURS.read().unwrap();
    let mut texts = bytes.utf8_chunks().map(|chunk| chunk.valid());
    texts.any(|text| secrets.iter().any(|secret| text.contains(secret.expose())))
}

/// Masks text that comes in pieces: an end that may be the start of a secret is held back until
/// the next piece comes.
#[derive(Default)]
pub(crate) struct Pieces(String);

impl Pieces {
    /// Adds a piece; returns the text that can be shown now.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        let mask = OURS.read().unwrap();
        let mut text = mask.apply(std::mem::take(&mut self.0) + piece);
        let starts = mask.0.iter().flat_map(|secret| {
            let ends = secret.expose().char_indices().skip(1);
            ends.map(|(end, _)| secret.expose().split_at(end).0)
        });
        let held = starts.filter(|start| text.ends_with(start)).map(str::len);
        self.0 = text.split_off(text.len() - held.max().unwrap_or(0));
        text
    }
}

impl Mask {
    pub(crate) fn new(secrets: impl IntoIterator<Item = Secret>) -> Mask {
        let mut sorted: Vec<Secret> = Vec::new();
        for secret in secrets {
            let len = secret.expose().len();
            if len >= SECRET_LEN_MIN {
                // The longest first: one secret may be the start of another.
                let at = sorted.partition_point(|other| other.expose().len() >= len);
                sorted.insert(at, secret);
            }
        }
        Mask(sorted)
    }

    pub(crate) fn apply(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| {
            if text.contains(secret.expose()) {
                text.replace(secret.expose(), "***")
            } else {
                text
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_wait_for_the_end_of_a_secret() {
        guard(vec![
            Secret::new("xoxb-é-0123456789"),
            Secret::new("xoxb-é-0123"),
        ]);
        let text = "so xoxb-é-0123456789 and xoxb-é-0123, not xoxb-é-01 or xo";
        let cut = |len: usize| text.char_indices().step_by(len).map(|(at, _)| at);
        for len in 1..30 {
            let mut pieces = Pieces::default();
            let ends = cut(len).skip(1).chain([text.len()]);
            let shown = cut(len)
                .zip(ends)
                .map(|(at, end)| pieces.push(&text[at..end]));
            let shown: String = shown.collect();
            // The shorter secret is complete before the longer one is.
            let want = [
                "so *** and ***, not xoxb-é-01 or ",
                "so ***456789 and ***, not xoxb-é-01 or ",
            ];
            assert!(want.contains(&&*shown), "{len}: {shown}");
        }
        assert!(holds(b"\xff\0xoxb-\xc3\xa9-0123\xff") && !holds(b"xoxb-\xc3\xa9-\xff0123"));
        guard(Vec::new());
    }

    #[test]
    fn masks_every_occurrence_and_no_short_words() {
        let mask = Mask::new([Secret::new("xoxb-123456"), Secret::new("none")]);
        let text = mask.apply("xoxb-123456 none xoxb-1234567".to_owned());
        assert_eq!(text, "*** none ***7");
        assert_eq!(
            format!("{:?} {}", Secret::new("abc"), Secret::new("abc")),
            "*** ***"
        );
    }
}

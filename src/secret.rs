//! Secrets: tokens and keys that print as `***`, and the mask that keeps them out of
//! whatever leaves the process in words.

use std::fmt;
use std::sync::Arc;

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

/// Replaces mom's own secrets in text that goes to Slack, the files or the model. A tool on
/// the host, or a person, may have printed one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask(Vec<Secret>);

/// Shorter values are ordinary words (`ollama`, `none`), not secrets.
const SECRET_LEN_MIN: usize = 10;

impl Mask {
    pub(crate) fn new(secrets: impl IntoIterator<Item = Secret>) -> Mask {
        let mut secrets: Vec<Secret> = secrets
            .into_iter()
            .filter(|s| s.expose().len() >= SECRET_LEN_MIN)
            .collect();
        // The longest first: one secret may be the start of another.
        secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        Mask(secrets)
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

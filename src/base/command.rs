//! The words that mom obeys without a model: `stop`, `new`, `status`, `help`. A word counts when
//! the message holds nothing else but polite words, however it is written or decorated.

use super::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Stop,
    New,
    Status,
    Help,
}

/// Bytes; a longer text is no command.
const COMMAND_BYTES_MAX: usize = 300;
/// Polite words that may come before and after a command.
#[rustfmt::skip]
const BEFORE: [&str; 20] = [
    "please", "pls", "plz", "kindly", "just", "now", "ok", "okay", "hey", "hi", "hello", "mom",
    "can you", "could you", "would you", "will you", "thanks", "thank you", "thx", "sorry",
];
#[rustfmt::skip]
const AFTER: [&str; 19] = [
    "please", "pls", "plz", "right now", "now", "immediately", "at once", "right away", "asap",
    "ok", "okay", "mom", "thanks", "thanks a lot", "thank you", "thank you very much", "thx",
    "sorry", "for me",
];

impl Command {
    /// `text` is a message without mom's mention, or a line of the terminal.
    pub(crate) fn parse(text: &str) -> Option<Command> {
        if text.len() > COMMAND_BYTES_MAX {
            return None;
        }
        let words = words(text);
        let mut rest = words.as_str();
        while let Some(shorter) = without_courtesy(rest) {
            rest = shorter;
        }
        let word = rest.split(' ').next().unwrap_or_default();
        if rest.split(' ').all(|other| other == word) {
            rest = word;
        }
        match rest {
            "stop" | "stop it" | "stop that" | "stop this" => Some(Command::Stop),
            "new" => Some(Command::New),
            "status" => Some(Command::Status),
            "help" => Some(Command::Help),
            _ => None,
        }
    }
}

/// Letters and digits in lower case with one space between words. Emoji (`:pray:`) are left
/// out.
fn words(text: &str) -> String {
    let text = text::unescape(text).replace(is_invisible, "");
    let text: String = text.chars().map(half_width).collect();
    let text = without_emoji(&text).to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Input methods for Chinese and Japanese write Latin letters in full width, too.
fn half_width(c: char) -> char {
    let narrow = match c {
        '\u{FF01}'..='\u{FF5E}' => char::from_u32(u32::from(c) - 0xFEE0),
        _ => None,
    };
    narrow.unwrap_or(c)
}

fn without_emoji(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(':') {
        out = out + before + " ";
        let name = after
            .split(|c: char| c == ':' || c.is_whitespace())
            .next()
            .unwrap_or_default();
        rest = match after[name.len()..].strip_prefix(':') {
            Some(behind) if !name.is_empty() => behind,
            _ => after,
        };
    }
    out + rest
}

/// Text direction marks, joiners, variation selectors, the byte order mark, soft hyphens: they
/// may be inside a word.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{180E}' | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}' | '\u{E0000}'..='\u{E007F}'
    )
}

/// The words without one polite phrase; `None` when they hold none.
fn without_courtesy(words: &str) -> Option<&str> {
    let before = |phrase: &&str| words.strip_prefix(*phrase)?.strip_prefix(' ');
    let after = |phrase: &&str| words.strip_suffix(*phrase)?.strip_suffix(' ');
    let shorter = BEFORE.iter().find_map(before);
    shorter.or_else(|| AFTER.iter().find_map(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn read_however_they_are_written() {
        let table: [(Option<Command>, &[&str]); 5] = [
            (Some(Command::Stop), &[
                "stop", " Stop\n", "STOP!!!", "*_stop_*", "```stop```", "“stop”", "[stop]", "&lt;stop&gt;", "• stop", "/stop",
                "\u{feff}st\u{200d}op\u{a0}", "stop\u{fe0f}", "stop, please!", "Stop that now.", "hey mom, stop", "can you stop?",
                "Could you please stop it, thanks", "stop right now", "Sorry, stop that ASAP", "thanks, stop", "stop stop STOP", "stop :pray:",
                "stop:pray:", ":wave::skin-tone-2:stop: please", "stop thanks a lot", "ｓｔｏｐ", "Ｓtop！",
            ]),
            (Some(Command::New), &["new", "*new*", "new, please", "New!"]),
            (Some(Command::Status), &["status", "Status?", "status please"]),
            (Some(Command::Help), &["help", "_help_", "can you help?"]),
            (None, &[
                "", " ", "please", "stop the web server", "don't stop", "non-stop", "stop 1", "stopp", "stop new", "s t o p",
                "<@U2> stop", "<https://stop|stop>", "new.txt", "are you new?", "what's new", "the status", "help me",
            ]),
        ];
        for (want, texts) in table {
            for text in texts {
                assert_eq!(Command::parse(text), want, "{text:?}");
            }
        }
        assert_eq!(Command::parse(&format!("stop{}", " ".repeat(300))), None);
    }
}

//! The words that mom herself obeys, without a model: `stop`, `new`, `status`.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Stop,
    New,
    Status,
}

impl Command {
    /// The word alone, in any case; mentions are taken out already.
    pub(crate) fn parse(text: &str) -> Option<Command> {
        match text.trim().to_ascii_lowercase().as_str() {
            "stop" => Some(Command::Stop),
            "new" => Some(Command::New),
            "status" => Some(Command::Status),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_and_in_any_case() {
        for (text, want) in [
            (" Stop ", Some(Command::Stop)),
            ("NEW", Some(Command::New)),
            ("status", Some(Command::Status)),
            ("stop it", None),
            ("", None),
        ] {
            assert_eq!(Command::parse(text), want, "{text}");
        }
    }
}

//! The command line: what was typed becomes a `Command`, or a usage error that names the
//! nearest option. Nothing is read, opened or connected here.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::error::{Error, Result};
use crate::log::Level;
use crate::text;

pub(crate) const HELP: &str = "\
mom - a Slack bot with a computer of her own

Usage:
  mom [OPTIONS] DIR           run the bot; all her state lives in DIR (made if absent)
  mom --chat [OPTIONS] DIR    talk to her in this terminal, without Slack
  mom --check [OPTIONS] DIR   check directory, sandbox, tokens, model; how to mend each
  mom --manifest              print the Slack app manifest and the link that creates it
  mom --download CHANNEL      print a channel's whole history, threads included
  mom --usage DIR             tokens and cost by day, channel and model

Options:
  --sandbox=host|docker:NAME|podman:NAME
                              where her tools run (default: host, which isolates nothing)
  --model=PROVIDER/ID         language model, also MOM_MODEL
                              (default: anthropic/claude-sonnet-5-5; `offline` needs no key)
  --allow-users=U1,U2         only these people may use her, also MOM_ALLOW_USERS
  --allow-channels=C1,D2      only in these conversations, also MOM_ALLOW_CHANNELS
  --log-level=LEVEL           error, warn, info (default) or debug
  --help, --version

Environment:
  MOM_SLACK_APP_TOKEN         xapp-..., opens the socket
  MOM_SLACK_BOT_TOKEN         xoxb-..., reads and writes
  ANTHROPIC_API_KEY, OPENAI_API_KEY, ...
                              the model's key, by provider
  ANTHROPIC_BASE_URL, OPENAI_BASE_URL, <PROVIDER>_BASE_URL
                              another server that speaks the same protocol
  MOM_SLACK_API_URL, HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE, NO_COLOR
";

/// Every long option with whether it takes a value: the parser, the nearest-name hint and
/// the completion scripts agree through this list.
pub(crate) const OPTIONS: &[(&str, Takes)] = &[
    ("sandbox", Takes::Value),
    ("model", Takes::Value),
    ("allow-users", Takes::Value),
    ("allow-channels", Takes::Value),
    ("log-level", Takes::Value),
    ("chat", Takes::Nothing),
    ("check", Takes::Nothing),
    ("manifest", Takes::Nothing),
    ("download", Takes::Value),
    ("usage", Takes::Nothing),
    ("help", Takes::Nothing),
    ("version", Takes::Nothing),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Value,
    Nothing,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Version,
    Manifest,
    Download {
        channel: String,
        options: Options,
    },
    Usage {
        dir: PathBuf,
    },
    Serve {
        dir: PathBuf,
        options: Options,
    },
    Chat {
        dir: PathBuf,
        options: Options,
    },
    Check {
        dir: Option<PathBuf>,
        options: Options,
    },
}

/// Options as typed; `None` where nothing was typed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) sandbox: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) allow_users: Option<String>,
    pub(crate) allow_channels: Option<String>,
    pub(crate) log_level: Option<Level>,
}

/// `args` without the program's name. Errors are `Error::Usage`.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut options = Options::default();
    let mut dir: Option<PathBuf> = None;
    let mut download: Option<String> = None;
    let mut modes: Vec<&'static str> = Vec::new();
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Long("sandbox") => options.sandbox = Some(value(&mut parser, "sandbox")?),
            Long("model") => options.model = Some(value(&mut parser, "model")?),
            Long("allow-users") => options.allow_users = Some(value(&mut parser, "allow-users")?),
            Long("allow-channels") => {
                options.allow_channels = Some(value(&mut parser, "allow-channels")?);
            }
            Long("log-level") => {
                let name = value(&mut parser, "log-level")?;
                let level = Level::parse(&name).ok_or_else(|| {
                    Error::Usage(format!(
                        "--log-level={name}: use one of error, warn, info, debug"
                    ))
                })?;
                options.log_level = Some(level);
            }
            Long("chat") => modes.push("--chat"),
            Long("check") => modes.push("--check"),
            Long("manifest") => modes.push("--manifest"),
            Long("usage") => modes.push("--usage"),
            Long("download") => {
                download = Some(value(&mut parser, "download")?);
                modes.push("--download");
            }
            Long(name) => return Err(unknown(&format!("--{name}"))),
            Short(name) => return Err(unknown(&format!("-{name}"))),
            Value(path) => {
                if let Some(first) = &dir {
                    return Err(Error::Usage(format!(
                        "two data directories given, {} and {}: mom works on one",
                        first.display(),
                        path.to_string_lossy()
                    )));
                }
                if path.is_empty() {
                    return Err(Error::Usage(
                        "the data directory's name is empty".to_owned(),
                    ));
                }
                dir = Some(PathBuf::from(path));
            }
        }
    }
    if let [first, second, ..] = modes[..] {
        return Err(Error::Usage(format!(
            "{first} and {second} can't go together"
        )));
    }
    let mode = modes.first().copied().unwrap_or("");
    let needs_no_dir = matches!(mode, "--manifest" | "--download");
    match (&dir, needs_no_dir) {
        (Some(dir), true) => Err(Error::Usage(format!(
            "{mode} takes no data directory, but {} was given",
            dir.display()
        ))),
        (None, true) | (Some(_), false) => Ok(()),
        (None, false) if mode == "--check" => Ok(()),
        (None, false) => Err(Error::Usage(
            format!("{mode} needs a data directory, for instance: mom {mode} ./data")
                .replace("  ", " ")
                .trim()
                .to_owned(),
        )),
    }?;
    Ok(match (mode, dir, download) {
        ("--manifest", ..) => Command::Manifest,
        ("--download", _, Some(channel)) => Command::Download { channel, options },
        ("--check", dir, _) => Command::Check { dir, options },
        ("--usage", Some(dir), _) => Command::Usage { dir },
        ("--chat", Some(dir), _) => Command::Chat { dir, options },
        (_, Some(dir), _) => Command::Serve { dir, options },
        (_, None, _) => return Err(Error::Usage("no data directory given".to_owned())),
    })
}

fn value(parser: &mut lexopt::Parser, name: &str) -> Result<String> {
    // An option where a value should stand is a forgotten value, not a value.
    let missing = || Error::Usage(format!("--{name} needs a value: --{name}=..."));
    let text = parser
        .value()
        .map_err(|_| missing())?
        .into_string()
        .map_err(|_| Error::Usage(format!("the value of --{name} is not UTF-8 text")))?;
    if text.is_empty() || text.starts_with("--") {
        Err(missing())
    } else {
        Ok(text)
    }
}

fn usage(err: lexopt::Error) -> Error {
    match err {
        lexopt::Error::UnexpectedValue { option, .. } => {
            Error::Usage(format!("{option} takes no value"))
        }
        err => Error::Usage(err.to_string()),
    }
}

fn unknown(option: &str) -> Error {
    let names: Vec<&str> = OPTIONS.iter().map(|(name, _)| *name).collect();
    let hint = match text::nearest(option.trim_start_matches('-'), &names) {
        Some(near) => format!(", did you mean --{near}?"),
        None => String::new(),
    };
    Error::Usage(format!("unknown option {option}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn usage_errors_name_the_mend() {
        for (line, want) in [
            ("", "needs a data directory"),
            ("--chat", "--chat needs a data directory"),
            ("a b", "two data directories"),
            ("--sandbx=host a", "did you mean --sandbox?"),
            ("--chatt a", "did you mean --chat?"),
            ("--sandbox", "--sandbox needs a value"),
            ("--model --chat a", "--model needs a value"),
            ("--model= a", "--model needs a value"),
            ("--chat=x a", "--chat takes no value"),
            ("--chat --check a", "--chat and --check"),
            ("--log-level=loud a", "error, warn, info, debug"),
            ("--manifest a", "--manifest takes no data directory"),
            ("-x a", "unknown option -x"),
        ] {
            match parsed(line) {
                Err(Error::Usage(text)) => assert!(text.contains(want), "{line}: {text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn both_spellings_and_help_first() {
        let one = parsed("--sandbox=docker:x --model=a/b d").unwrap();
        assert_eq!(one, parsed("--sandbox docker:x d --model a/b").unwrap());
        assert_eq!(parsed("--help --nonsense"), Ok(Command::Help));
        assert_eq!(parsed("-V"), Ok(Command::Version));
        assert!(matches!(
            parsed("--check"),
            Ok(Command::Check { dir: None, .. })
        ));
    }
}

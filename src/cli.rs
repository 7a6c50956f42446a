//! The command line: what was typed becomes a `Call`, or a usage error that names the
//! nearest option. Nothing is read, opened or connected here.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::base::error::{Error, Result};
use crate::base::text;

pub(crate) const HELP: &str = "\
mom - a Slack bot with a computer of its own

Usage:
  mom [OPTIONS] DIR           run the bot; all its state lives in DIR (made if absent)
  mom --chat [OPTIONS] DIR    talk to it in this terminal, without Slack
  mom --check [OPTIONS] DIR   check directory, sandbox, tokens, model; how to mend each
  mom --manifest              print the Slack app manifest and the link that creates it
  mom --download CHANNEL      print a channel's whole history, threads included
  mom --usage DIR             tokens and cost by day, channel and model

Options:
  --sandbox=host|docker:NAME|podman:NAME|kubectl:POD[/CONTAINER]
                              where its tools run (default: host, which isolates nothing)
  --model=PROVIDER/ID         language model, also MOM_MODEL
                              (default: anthropic/claude-sonnet-5-5; `offline` needs no key)
  --price=IN,OUT[,CACHED]     dollars per million tokens, for a model whose prices mom does
                              not know, also MOM_PRICE
  --budget=DOLLARS            what all of it may cost a day, also MOM_BUDGET
  --allow-users=U1,U2         only these people may use it, also MOM_ALLOW_USERS
  --allow-channels=C1,D2      only in these conversations, also MOM_ALLOW_CHANNELS
  --approve=off|changes|all   changes: a person approves each bash, write and edit call before
                              it runs; all: each call (default: off), also MOM_APPROVE
  --follow-threads            answer without a mention in threads it answered in today, also
                              MOM_FOLLOW_THREADS=1
  --since=2026-11-01|7d       with --usage: from this day on, or the last 7 days
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

/// Every long option, and whether it takes a value; the options from `chat` on are the modes. The
/// parser, the nearest-name hint and the completion scripts all use this list.
pub(crate) const OPTIONS: &[(&str, Takes)] = &[
    ("sandbox", Takes::Value),
    ("model", Takes::Value),
    ("price", Takes::Value),
    ("budget", Takes::Value),
    ("allow-users", Takes::Value),
    ("allow-channels", Takes::Value),
    ("approve", Takes::Value),
    ("follow-threads", Takes::Nothing),
    ("log-level", Takes::Value),
    ("since", Takes::Value),
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

/// What mom is to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Call {
    Help,
    Version,
    Manifest,
    /// The history of this channel.
    Download(String, Options),
    /// The usage of a data directory, since a day, as typed.
    Usage(PathBuf, Option<String>),
    Serve(PathBuf, Options),
    Chat(PathBuf, Options),
    Check(Option<PathBuf>, Options),
}

/// The typed options with their values, in order; an option without a value has an empty one.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options(Vec<(&'static str, String)>);

impl Options {
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let newest = self.0.iter().rfind(|(known, _)| *known == name);
        newest.map(|(_, value)| value.clone())
    }
}

/// `args` without the program's name. Errors are `Error::Usage`.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Call> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut options = Options::default();
    let mut dir: Option<PathBuf> = None;
    // Each with the option's value, or an empty one.
    let mut modes: Vec<(&str, String)> = Vec::new();
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Short('h') | Long("help") => return Ok(Call::Help),
            Short('V') | Long("version") => return Ok(Call::Version),
            Long(name) => {
                let known = OPTIONS.iter().find(|(known, _)| *known == name);
                let Some(&(name, takes)) = known else {
                    return Err(unknown(&format!("--{name}")));
                };
                let value = match takes {
                    Takes::Value => value(&mut parser, name)?,
                    Takes::Nothing => String::new(),
                };
                if mode(name).is_some() {
                    modes.push((name, value));
                } else {
                    options.0.push((name, value));
                }
            }
            Short(name) => return Err(unknown(&format!("-{name}"))),
            Value(path) => {
                let path = data_dir(path.into(), dir.as_ref())?;
                dir = Some(path);
            }
        }
    }
    if let [(first, _), (second, _), ..] = modes[..] {
        return wrong(format!("--{first} and --{second} can't go together"));
    }
    let (mode, channel) = modes.pop().unwrap_or_default();
    command(mode, channel, dir, options)
}

/// The path, if it can be the data directory and no other path was given.
fn data_dir(path: PathBuf, first: Option<&PathBuf>) -> Result<PathBuf> {
    if let Some(first) = first {
        let (first, second) = (first.display(), path.display());
        return wrong(format!(
            "two data directories given, {first} and {second}: mom works on one"
        ));
    }
    match path.to_str().and_then(mode) {
        Some(mode) => wrong(format!(
            "`mom {mode}` is written mom --{mode}{}",
            operand(mode)
        )),
        None if path.as_os_str().is_empty() => {
            wrong("the data directory's name is empty".to_owned())
        }
        None => Ok(path),
    }
}

fn command(mode: &str, channel: String, dir: Option<PathBuf>, options: Options) -> Result<Call> {
    let since = options.get("since");
    if since.is_some() && mode != "usage" {
        return wrong("--since goes with --usage: mom --usage --since=7d ./data".to_owned());
    }
    Ok(match (mode, dir) {
        ("manifest", None) => Call::Manifest,
        ("download", None) => Call::Download(channel, options),
        ("manifest" | "download", Some(dir)) => {
            let dir = dir.display();
            return wrong(format!(
                "--{mode} takes no data directory, but {dir} was given"
            ));
        }
        ("check", dir) => Call::Check(dir, options),
        ("usage", Some(dir)) => Call::Usage(dir, since),
        ("chat", Some(dir)) => Call::Chat(dir, options),
        (_, Some(dir)) => Call::Serve(dir, options),
        ("", None) => return wrong("needs a data directory, for instance: mom ./data".to_owned()),
        (_, None) => {
            return wrong(format!(
                "--{mode} needs a data directory, for instance: mom --{mode} ./data"
            ));
        }
    })
}

fn wrong<T>(text: String) -> Result<T> {
    Err(Error::Usage(text))
}

fn value(parser: &mut lexopt::Parser, name: &str) -> Result<String> {
    // Where a value is expected, an option means that the value was forgotten.
    let missing = || Error::Usage(format!("--{name} needs a value: --{name}=..."));
    let text = parser.value().map_err(|_| missing())?.into_string();
    let text =
        text.map_err(|_| Error::Usage(format!("the value of --{name} is not UTF-8 text")))?;
    if text.is_empty() || text.starts_with("--") {
        return Err(missing());
    }
    Ok(text)
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
    let near: Vec<&str> = match option.strip_prefix("--") {
        Some(name) => text::nearest(name, &names).into_iter().collect(),
        // One letter: the options that begin with it.
        None => {
            let letter = option.trim_start_matches('-');
            let begins = |name: &&str| name.starts_with(letter);
            names.iter().copied().filter(begins).collect()
        }
    };
    let hint = match near[..] {
        [] => String::new(),
        _ => format!(", did you mean --{}?", near.join(" or --")),
    };
    Error::Usage(format!("unknown option {option}{hint}"))
}

/// The mode of this name. Also used to find a mode that was typed like a subcommand (`mom chat`).
fn mode(word: &str) -> Option<&'static str> {
    let mut modes = OPTIONS.iter().skip_while(|(name, _)| *name != "chat");
    modes.find(|(name, _)| *name == word).map(|(name, _)| *name)
}

/// What follows `--mode` on the command line.
fn operand(mode: &str) -> &'static str {
    match mode {
        "chat" | "check" | "usage" => " DIR",
        "download" => " CHANNEL",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Call> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn usage_errors_name_the_fix() {
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
            ("--since=7d a", "--since goes with --usage"),
            ("--manifest a", "--manifest takes no data directory"),
            ("-x a", "unknown option -x"),
            ("-v", "did you mean --version?"),
            ("-c a", "did you mean --chat or --check?"),
            ("chat a", "mom --chat DIR"),
            ("help", "mom --help"),
            ("check", "mom --check DIR"),
            ("--model=a/b usage", "mom --usage DIR"),
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
        assert_eq!(parsed("--help --nonsense"), Ok(Call::Help));
        assert_eq!(parsed("-V"), Ok(Call::Version));
        assert!(matches!(parsed("--check"), Ok(Call::Check(None, _))));
    }
}

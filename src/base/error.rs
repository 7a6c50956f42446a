//! The error type: one enum whose variants are decisions, not causes.
//!
//! Four callers branch on it (stop, retry, compact, exit code); all others only pass it up to a
//! person. A message says what was tried, on what, why it failed and, where known, how to fix
//! it: lower case, no full stop. There is no `From<io::Error>`, so that a bare `?`
//! cannot lose the path.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::base::text;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, PartialEq)]
pub(crate) enum Error {
    /// The run's or the program's `Stop` was set.
    Stopped,
    /// Another try may help; `after` is the pause that the server asked for (Retry-After).
    Retry {
        after: Option<Duration>,
        why: String,
        /// Set when the failure is that a model gave no reply.
        fault: Option<ModelFault>,
    },
    /// A model gave no reply and would give none to another try; `why` is for the operator.
    Model { fault: ModelFault, why: String },
    /// The conversation is larger than the model's window: compact, then try once more.
    ContextFull(String),
    /// The command line or the environment is wrong: exit code 2.
    Usage(String),
    /// Everything else: exit code 1, or a sentence in the channel.
    Failed(String),
}

/// Why a model gave no reply, as far as the people in the channel need to know it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ModelFault {
    KeyRefused,
    OutOfCredit,
    UnknownModel,
    Overloaded,
    /// With the pause that the server asks for.
    RateLimited(Option<Duration>),
    /// The host or proxy that did not answer.
    NoAnswer(String),
    /// The answer began and never ended.
    BrokenOff,
    ServerFault,
    /// The server passes tool calls on as text, so that none can be made.
    CallsAsText,
}

/// One sentence for the people in a channel.
impl fmt::Display for ModelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ModelFault::KeyRefused => "the model's key is refused",
            ModelFault::OutOfCredit => "there is no credit left for the model",
            ModelFault::UnknownModel => "the model is not known to its service",
            ModelFault::Overloaded => "the model is overloaded: try again later",
            ModelFault::RateLimited(Some(pause)) if *pause >= PAUSE_SHOWN_MIN => {
                let pause = text::duration(*pause);
                return write!(f, "the model's rate limit is reached: try again in {pause}");
            }
            ModelFault::RateLimited(_) => "the model's rate limit is reached: try again later",
            ModelFault::NoAnswer(host) => {
                return write!(f, "no answer from {host}: try again later");
            }
            ModelFault::BrokenOff => "the model's answer broke off: try again later",
            ModelFault::ServerFault => "the model's server has a fault: try again later",
            ModelFault::CallsAsText => "the model's server does not pass on its tool calls",
        })
    }
}

/// A shorter pause is not worth mentioning.
const PAUSE_SHOWN_MIN: Duration = Duration::from_secs(60);

impl Error {
    pub(crate) fn failed(what: impl Into<String>) -> Error {
        Error::Failed(what.into())
    }

    pub(crate) fn retry(why: impl Into<String>) -> Error {
        Error::Retry {
            after: None,
            why: why.into(),
            fault: None,
        }
    }

    /// A model's failure that may be over at the next try.
    pub(crate) fn model_retry(fault: ModelFault, why: impl Into<String>) -> Error {
        Error::Retry {
            after: None,
            why: why.into(),
            fault: Some(fault),
        }
    }

    /// The error that a `Retry` becomes when there is no further try.
    pub(crate) fn given_up(fault: Option<ModelFault>, why: String) -> Error {
        match fault {
            Some(fault) => Error::Model { fault, why },
            None => Error::Failed(why),
        }
    }

    /// `cannot read /data/C1/log.jsonl: permission denied`
    pub(crate) fn io(verb: &str, path: impl AsRef<Path>, err: &io::Error) -> Error {
        Error::Failed(format!("cannot {verb} {}: {err}", path.as_ref().display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Stopped => f.write_str("stopped"),
            Error::Retry { why, .. } | Error::Model { why, .. } => f.write_str(why),
            Error::ContextFull(text) | Error::Usage(text) | Error::Failed(text) => {
                f.write_str(text)
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

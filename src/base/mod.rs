//! Basics that every room may use and that know nothing of mom: text, time, JSON, stop, errors.
//!
//! - Enters: plain values from every other room; `base` imports nothing above itself.
//! - Leaves: plain values, `Error`, log lines on stderr.
//! - State: the log level, the host's time zone and the secrets to mask; nothing else.

pub(crate) mod backoff;
pub(crate) mod bounded;
pub(crate) mod command;
pub(crate) mod error;
pub(crate) mod finding;
pub(crate) mod json;
pub(crate) mod log;
pub(crate) mod random;
pub(crate) mod secret;
pub(crate) mod stop;
pub(crate) mod text;
pub(crate) mod time;

//! Log lines on stderr: time, level, `[channel]`, sentence. info = what the operator wants to
//! know; warn = mom recovered, worth a look; error = someone did not get what they asked for;
//! debug = for a developer who reads the code too. Secrets are masked here.

use std::fmt;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::base::secret;
use crate::base::text;
use crate::base::time;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error = 0,
    Warn = 1,
    Info = 2,
    Debug = 3,
}

impl Level {
    pub(crate) fn parse(name: &str) -> Option<Level> {
        match name {
            "error" => Some(Level::Error),
            "warn" => Some(Level::Warn),
            "info" => Some(Level::Info),
            "debug" => Some(Level::Debug),
            _ => None,
        }
    }
}

/// A global: every module logs, and a level parameter in every signature would add nothing.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

pub(crate) fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// `scope` is a channel id, or "" for the program itself.
pub(crate) fn line(level: Level, scope: &str, text: fmt::Arguments<'_>) {
    if level as u8 > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let name = match level {
        Level::Error => "ERROR",
        Level::Warn => "WARN ",
        Level::Info => "INFO ",
        Level::Debug => "DEBUG",
    };
    let scope = if scope.is_empty() {
        String::new()
    } else {
        format!("[{scope}] ")
    };
    // One line is one entry: text from outside must not start a second one.
    let text = text::printable(&text.to_string().replace(['\n', '\r', '\t'], " "));
    let text = secret::hide(text);
    let line = format!("{} {name} {scope}{text}\n", time::log_stamp());
    // A closed stderr is no reason to stop working.
    std::io::stderr().write_all(line.as_bytes()).ok();
}

macro_rules! error { ($scope:expr, $($arg:tt)+) => { $crate::base::log::line($crate::base::log::Level::Error, $scope, format_args!($($arg)+)) } }
macro_rules! warning { ($scope:expr, $($arg:tt)+) => { $crate::base::log::line($crate::base::log::Level::Warn, $scope, format_args!($($arg)+)) } }
macro_rules! info { ($scope:expr, $($arg:tt)+) => { $crate::base::log::line($crate::base::log::Level::Info, $scope, format_args!($($arg)+)) } }
macro_rules! debug { ($scope:expr, $($arg:tt)+) => { $crate::base::log::line($crate::base::log::Level::Debug, $scope, format_args!($($arg)+)) } }
pub(crate) use {debug, error, info, warning};

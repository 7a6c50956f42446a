//! One line of `mom --check`: what was checked, the result, and how to fix it. Each module makes
//! the findings about what it owns; modes/check prints them.

use std::fmt;

use crate::base::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grade {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) what: &'static str,
    pub(crate) grade: Grade,
    pub(crate) fact: String,
    /// Empty when there is nothing to fix.
    pub(crate) fix: String,
}

impl Finding {
    pub(crate) fn ok(what: &'static str, fact: impl Into<String>) -> Finding {
        Finding::new(what, Grade::Ok, fact.into(), String::new())
    }

    pub(crate) fn warn(what: &'static str, fact: impl Into<String>, fix: &str) -> Finding {
        Finding::new(what, Grade::Warn, fact.into(), fix.to_owned())
    }

    pub(crate) fn fail(what: &'static str, fact: impl Into<String>, fix: &str) -> Finding {
        Finding::new(what, Grade::Fail, fact.into(), fix.to_owned())
    }

    /// Makes a finding of a message. The text after its first semicolon is the fix, else `fix`.
    pub(crate) fn of(
        what: &'static str,
        grade: Grade,
        message: &impl fmt::Display,
        fix: &str,
    ) -> Finding {
        let message = message.to_string();
        let (fact, fix) = match message.split_once("; ") {
            Some((fact, own)) => (fact.to_owned(), own.trim_start_matches("next: ").to_owned()),
            None => (message, fix.to_owned()),
        };
        Finding::new(what, grade, fact, fix)
    }

    pub(crate) fn failed(what: &'static str, err: &Error, fix: &str) -> Finding {
        match err {
            Error::Stopped => Finding::fail(what, "no answer in time", fix),
            err => Finding::of(what, Grade::Fail, err, fix),
        }
    }

    fn new(what: &'static str, grade: Grade, fact: String, fix: String) -> Finding {
        Finding {
            what,
            grade,
            fact,
            fix,
        }
    }
}

//! Input from a person at a terminal: line editing, history, the keys that end the conversation,
//! what is typed while a run works, and the question whether calls may run.
//! The editor is rustyline; the history is a file in the data directory.

use std::cell::Cell;
use std::io;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::io::ioctl_fionread;
use rustix::termios::{LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{History as _, MemHistory, SearchDirection};
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};

use crate::agent::approval::{Choice, Decision, NOBODY, PATIENCE, Question, STOPPED};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::{Stop, poll_for};
use crate::base::text;
use crate::store::dir::Dir;

use super::screen::Screen;

/// Path below the data directory. One message per line, line breaks written as `\n`.
const HISTORY_FILE: &str = "TERMINAL/history";
const HISTORY_LINES_MAX: usize = 500;
const HISTORY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of an answer to a question; the rest of a longer one is read as the next answer.
const ANSWER_BYTES_MAX: usize = 1024;
/// Bytes of what is typed during a run; what comes on top is left to the editor.
const TYPED_BYTES_MAX: usize = 1024 * 1024;

/// What a person did at the prompt.
pub(crate) enum Typed {
    Line(String),
    /// Ctrl-C on a half-typed line, which is discarded.
    Cleared,
    /// Ctrl-C at an empty prompt.
    Interrupted,
    /// Ctrl-D.
    End,
}

pub(crate) struct Terminal<'a> {
    editor: Editor<LineWatch, MemHistory>,
    dir: &'a Dir,
}

impl<'a> Terminal<'a> {
    pub(crate) fn open(dir: &'a Dir) -> Result<Terminal<'a>> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES_MAX)
            .map_err(failed)?
            .build();
        let history = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history).map_err(failed)?;
        editor.set_helper(Some(LineWatch::default()));
        let mut terminal = Terminal { editor, dir };
        terminal.load_history();
        Ok(terminal)
    }

    /// Reads the next message; several pasted lines are one message.
    pub(crate) fn read(&mut self, prompt: &str) -> Result<Typed> {
        let read = self.editor.readline(prompt);
        let is_empty = self
            .editor
            .helper()
            .is_none_or(|watch| watch.is_empty.replace(true));
        match read {
            Ok(line) => Ok(Typed::Line(line)),
            Err(ReadlineError::Interrupted) if is_empty => Ok(Typed::Interrupted),
            Err(ReadlineError::Interrupted) => Ok(Typed::Cleared),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(err) => Err(failed(err)),
        }
    }

    /// Adds a message to the history, and saves the history for the next start.
    pub(crate) fn remember(&mut self, line: &str) {
        if !matches!(self.editor.add_history_entry(line), Ok(true)) {
            return;
        }
        let history = self.editor.history();
        let mut lines = Vec::new();
        let mut bytes = 0;
        for index in (0..history.len()).rev() {
            let Ok(Some(found)) = history.get(index, SearchDirection::Reverse) else {
                break;
            };
            let line = found.entry.replace('\\', "\\\\").replace('\n', "\\n");
            bytes += line.len() + 1;
            if bytes > HISTORY_BYTES_MAX {
                break;
            }
            lines.push(line);
        }
        lines.reverse();
        let text = lines.join("\n") + "\n";
        if let Err(err) = self.dir.replace_unsynced(HISTORY_FILE, &[text]) {
            log::debug!("", "the history cannot be saved: {err}");
        }
    }

    fn load_history(&mut self) {
        let kept = self.dir.read_head(HISTORY_FILE, HISTORY_BYTES_MAX);
        let text = match kept {
            Ok(bytes) => String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned(),
            Err(err) => {
                log::warning!("", "{err}; starting without the history");
                return;
            }
        };
        for line in text.lines().filter(|line| !line.is_empty()) {
            // The agent can write the file, and the editor draws what is in it.
            let line = text::printable(&unescape(line));
            // Errors are ignored: an incomplete history is good enough.
            self.editor.add_history_entry(line).ok();
        }
    }
}

/// Sets the terminal's modes; mom restores those of the start when it ends.
pub(crate) fn set_modes(modes: &Termios) {
    // Fails when the terminal was closed.
    tcsetattr(io::stdin(), OptionalActions::Now, modes).ok();
}

/// For a run: the terminal would show what is typed in the midst of what mom shows.
pub(crate) fn hide_typing(modes: &Termios) {
    let mut hiding = modes.clone();
    hiding.local_modes.remove(LocalModes::ECHO);
    set_modes(&hiding);
}

/// Adds the whole lines that were typed during a run: the editor would lose all but the first of
/// them. What has no end yet is left to it.
pub(crate) fn read_typed(typed: &mut Vec<u8>) {
    let stdin = io::stdin();
    let mut line = [0; ANSWER_BYTES_MAX];
    // Without an editor the terminal counts whole lines only.
    let waits = || ioctl_fionread(&stdin).is_ok_and(|bytes| bytes > 0);
    while typed.len() < TYPED_BYTES_MAX && waits() {
        let Ok(bytes) = rustix::io::read(&stdin, &mut line) else {
            return;
        };
        typed.extend(&line[..bytes]);
    }
}

/// Shows the complete calls and asks until there is a valid answer. Reads stdin directly: the
/// line editor is not active during a run.
pub(crate) fn approve(screen: &mut Screen, question: &Question, stop: &Stop) -> Decision {
    for call in &question.calls {
        screen.line(&format!("{}: {}", call.tool, call.label));
        for line in call.text.split('\n') {
            screen.line(&format!("  {line}"));
        }
    }
    // Discard what was typed before the question was shown: it is no answer to it.
    tcflush(io::stdin(), QueueSelector::IFlush).ok();
    let until = Instant::now() + PATIENCE;
    loop {
        screen.ask("Run it? [y]es, [a]ll, [n]o ");
        let Some(answer) = read_answer(stop, until) else {
            // Nothing ended the line of the question.
            screen.line("");
            return match Instant::now() >= until {
                _ if stop.is_set() => Decision::Denied(STOPPED.to_owned()),
                true => Decision::Denied(NOBODY.to_owned()),
                // Ctrl-D.
                false => Decision::of(Choice::Deny, "the user"),
            };
        };
        let choice = match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Choice::Approve,
            "a" | "all" => Choice::ApproveAll,
            "n" | "no" => Choice::Deny,
            _ => continue,
        };
        return Decision::of(choice, "the user");
    }
}

/// Reads a line. `None`: the run was stopped, the time was over, or the input ended.
fn read_answer(stop: &Stop, until: Instant) -> Option<String> {
    let stdin = io::stdin();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if stop.is_set() || left.is_zero() {
            return None;
        }
        let mut fds = [
            PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN),
            PollFd::new(&stdin, PollFlags::IN),
        ];
        poll_for(&mut fds, Some(left));
        if !fds[1].revents().is_empty() && !stop.is_set() {
            let mut line = [0; ANSWER_BYTES_MAX];
            let bytes = rustix::io::read(&stdin, &mut line).ok()?;
            return (bytes > 0).then(|| String::from_utf8_lossy(&line[..bytes]).into_owned());
        }
    }
}

/// A history line as a message: `\n` becomes a line break, `\\` a backslash.
fn unescape(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('\\')) => out.push('\\'),
            _ => {
                out.push(c);
                continue;
            }
        }
        chars.next();
    }
    out
}

fn failed(err: ReadlineError) -> Error {
    Error::failed(format!("cannot read from the terminal: {err}"))
}

/// Notes whether the line being typed is empty: Ctrl-C does something else then.
struct LineWatch {
    is_empty: Cell<bool>,
}

impl Default for LineWatch {
    fn default() -> Self {
        LineWatch {
            is_empty: Cell::new(true),
        }
    }
}

impl Hinter for LineWatch {
    type Hint = String;

    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.is_empty.set(line.is_empty());
        None
    }
}

impl Completer for LineWatch {
    type Candidate = String;
}
impl Highlighter for LineWatch {}
impl Validator for LineWatch {}
impl Helper for LineWatch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_come_back() {
        for text in ["a\nb", "c:\\n", "\\", "\\\\n\n", "é\\"] {
            let line = text.replace('\\', "\\\\").replace('\n', "\\n");
            assert!(!line.contains('\n'));
            assert_eq!(unescape(&line), text);
        }
    }
}

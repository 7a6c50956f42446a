//! `mom --chat`: the same agent in a terminal, without Slack. A person at a terminal sees the
//! run while it works (screen.rs) and has line editing (terminal.rs). In a pipe each line of
//! stdin is a message, answers go to stdout and the rest to stderr, without escape sequences.
//! Ctrl-C ends the current run, a second Ctrl-C the program. SIGTERM does both.

use std::cell::RefCell;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::panic;
use std::path::PathBuf;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::termios::{Termios, tcgetattr};

use crate::agent::approval::{Decision, Question};
use crate::agent::prompt::Place;
use crate::agent::run::{Job, Outcome, Update};
use crate::agent::{Agent, Conversation, TERMINAL};
use crate::base::command::Command;
use crate::base::error::{Error, Result};
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::signals::{self, SecondSignal, Signal};
use crate::store::ledger::LedgerRequest;
use crate::store::{LogEntry, Store};
use crate::tools::Upload;

use super::paint::Colors;
use super::screen::Screen;
use super::terminal::{self, Terminal, Typed};

/// How the whole session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    /// At least one message got no answer.
    WithErrors,
}

/// 128 + SIGINT, as a shell reports it.
const INTERRUPTED: i32 = 130;
/// The user's name in the log and the prompt.
const USER: &str = "user";
/// Bytes of one line of stdin; the rest of a longer line is read as the next message.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
const NEW_CONVERSATION: &str =
    "A fresh start: what was said before is left out from now on. Memory and files stay.";
const KEYS: &str = "In a terminal: Ctrl-C ends what I am doing; Ctrl-D, `exit` or `quit` leave.";

pub(crate) fn chat(agent: &Agent) -> Result<Ended> {
    let chat = Chat::new(agent);
    let leaving = Arc::new(AtomicBool::new(false));
    chat.watch_signals(leaving.clone())?;
    restore_at_panic(chat.modes.clone());
    let mut input = match chat.screen {
        Some(_) => Input::Terminal(Box::new(Terminal::open(agent.store.dir())?)),
        None => Input::Stdin,
    };
    chat.greet();
    let mut ended = Ended::Well;
    while !leaving.load(Ordering::SeqCst) {
        let Some(line) = input.read(&chat)? else {
            break;
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if ["exit", "quit"].contains(&line.to_ascii_lowercase().as_str()) {
            break;
        }
        if chat.handle(line)? == Ended::WithErrors {
            ended = Ended::WithErrors;
        }
    }
    Ok(ended)
}

/// Where the user's messages come from.
enum Input<'a> {
    Terminal(Box<Terminal<'a>>),
    Stdin,
}

impl Input<'_> {
    /// The next message; `None` at the end of the input.
    fn read(&mut self, chat: &Chat<'_>) -> Result<Option<String>> {
        match self {
            Input::Stdin => {
                let mut line = Vec::new();
                let stdin = io::stdin();
                let mut bounded = io::Read::take(stdin.lock(), LINE_BYTES_MAX);
                let read = bounded.read_until(b'\n', &mut line);
                let bytes = read.map_err(|err| Error::io("read", "stdin", &err))?;
                Ok((bytes > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
            }
            Input::Terminal(terminal) => loop {
                let typed = match chat.typed_ahead() {
                    Some(lines) => Typed::Line(lines),
                    None => terminal.read("> ")?,
                };
                match typed {
                    Typed::Line(line) => {
                        terminal.remember(line.trim());
                        return Ok(Some(line));
                    }
                    Typed::Cleared => {}
                    Typed::Interrupted => chat.note("Ctrl-D, `exit` or `quit` leave."),
                    Typed::End => return Ok(None),
                }
            },
        }
    }
}

fn restore_at_panic(modes: Option<Termios>) {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        modes.iter().for_each(terminal::set_modes);
        report(info);
    }));
}

/// The conversation at the terminal, and its current run.
struct Chat<'a> {
    agent: &'a Agent,
    /// `None` in a pipe.
    screen: Option<RefCell<Screen>>,
    /// The terminal's modes at the start; `None` in a pipe.
    modes: Option<Termios>,
    /// What was typed during a run, not answered yet.
    typed: RefCell<Vec<u8>>,
    /// The stop of the current run, for the thread that gets the signals.
    current: CurrentStop,
}

type CurrentStop = Arc<Mutex<Option<Stop>>>;

impl<'a> Chat<'a> {
    fn new(agent: &'a Agent) -> Chat<'a> {
        let is_shown = io::stdout().is_terminal();
        let modes = tcgetattr(io::stdin()).ok().filter(|_| is_shown);
        let screen = || RefCell::new(Screen::new(Colors::of_terminal()));
        Chat {
            agent,
            screen: modes.is_some().then(screen),
            modes,
            typed: RefCell::default(),
            current: Arc::default(),
        }
    }

    fn watch_signals(&self, leaving: Arc<AtomicBool>) -> Result<()> {
        let current = self.current.clone();
        let modes = self.modes.clone();
        signals::watch(SecondSignal::IsReported, move |signal| {
            if matches!(signal, Signal::Terminate) {
                leaving.store(true, Ordering::SeqCst);
            }
            let code = match &*current.lock().unwrap() {
                Some(stop) if !stop.is_set() => {
                    stop.set(Cause::Asked);
                    return;
                }
                Some(_) => INTERRUPTED,
                // The main thread waits in a read of stdin, which only the end of the process can
                // end.
                None => 0,
            };
            modes.iter().for_each(terminal::set_modes);
            exit(code)
        })
    }

    /// What was typed during the last run, shown as if it was typed now.
    fn typed_ahead(&self) -> Option<String> {
        let mut typed = self.typed.take();
        terminal::read_typed(&mut typed);
        let lines = String::from_utf8_lossy(&typed).trim().to_owned();
        if lines.is_empty() {
            return None;
        }
        self.note(&format!("> {lines}"));
        Some(lines)
    }

    /// Shows the first line: version, model, sandbox, directory, and how to leave.
    fn greet(&self) {
        let Some(screen) = &self.screen else { return };
        let config = &self.agent.config;
        screen.borrow_mut().dim_line(&format!(
            "mom {} · {} · tools: {} · {} · `help` says more, Ctrl-D leaves",
            env!("CARGO_PKG_VERSION"),
            config.model,
            config.sandbox,
            self.agent.store.path().display()
        ));
    }

    /// Carries out a command, or answers a message.
    fn handle(&self, line: &str) -> Result<Ended> {
        match Command::parse(line) {
            // A run blocks the reading of messages, so there is never one to stop here.
            Some(Command::Stop) => self.answer("Nothing running.")?,
            Some(Command::New) => {
                self.agent.new_conversation(TERMINAL)?;
                self.answer(NEW_CONVERSATION)?;
            }
            Some(Command::Status) => self.answer(&self.agent.status(TERMINAL, &[]))?,
            Some(Command::Help) => {
                let help = self.agent.help("mom");
                self.answer(&format!("{help}\n{KEYS}"))?;
            }
            None => {
                let stop = Stop::new();
                *self.current.lock().unwrap() = Some(stop.clone());
                self.modes.iter().for_each(terminal::hide_typing);
                let outcome = self.run(line, &stop);
                self.modes.iter().for_each(terminal::set_modes);
                *self.current.lock().unwrap() = None;
                return self.conclude(outcome);
            }
        }
        Ok(Ended::Well)
    }

    fn run(&self, line: &str, stop: &Stop) -> Result<Outcome> {
        if let Some(screen) = &self.screen {
            screen.borrow_mut().think();
        }
        let store = &self.agent.store;
        let text = text::escape(line);
        let entry = LogEntry {
            ts: time::new_ts(),
            user: USER.to_owned(),
            user_name: Some(USER.to_owned()),
            text: text.clone(),
            mention: true,
            ..LogEntry::default()
        };
        let request = LedgerRequest {
            ts: entry.ts.clone(),
            user: USER.to_owned(),
            text,
            ..LedgerRequest::default()
        };
        store.log(&[(TERMINAL.to_owned(), entry)])?;
        let job = Job {
            channel: TERMINAL.to_owned(),
            requests: vec![request],
            ..Job::default()
        };
        let mut session = self.agent.begin(&job)?;
        let outcome = session.run(&job, self, stop);
        if let Ok(Outcome::Answered(answer)) = &outcome {
            let entry = LogEntry::own(time::new_ts(), answer);
            store.log(&[(TERMINAL.to_owned(), entry)])?;
        }
        session.end(&outcome, None, Vec::new(), stop)?;
        outcome
    }

    fn conclude(&self, outcome: Result<Outcome>) -> Result<Ended> {
        if let Some(screen) = &self.screen {
            screen.borrow_mut().clear();
        }
        match outcome {
            Ok(Outcome::Answered(text)) => {
                // At a terminal it was shown as it streamed in, unless an earlier try wrote it.
                let is_shown = self
                    .screen
                    .as_ref()
                    .is_some_and(|s| s.borrow_mut().answered());
                if !is_shown {
                    self.answer(&text)?;
                }
            }
            Ok(Outcome::Silent) => {}
            Ok(Outcome::Stopped) => self.note("Stopped"),
            Err(err) => {
                self.note(&format!("Sorry, something went wrong: {err}"));
                return Ok(Ended::WithErrors);
            }
        }
        Ok(Ended::Well)
    }

    /// Writes an answer in Markdown. A closed pipe is no failure; a full disk is one.
    fn answer(&self, text: &str) -> Result<()> {
        if let Some(screen) = &self.screen {
            screen.borrow_mut().end_text(text);
            return Ok(());
        }
        let mut stdout = io::stdout();
        let text = text::printable(text);
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::io("write the answer to", "stdout", &err))
            }
            _ => Ok(()),
        }
    }

    /// Shows a line about the progress of the run.
    fn note(&self, line: &str) {
        match &self.screen {
            Some(screen) => screen.borrow_mut().line(line),
            None => progress(line),
        }
    }

    fn show_piped(&self, update: Update) -> Result<()> {
        match update {
            Update::TurnEnd { text, more, .. } if more && !text.trim().is_empty() => {
                progress(text.trim());
            }
            Update::TextDelta(_) | Update::TurnEnd { .. } | Update::ToolWaiting(_) => {}
            Update::ToolStart(step) => progress(&format!("→ {}", step.label)),
            Update::ToolEnd(report) => {
                let took = text::duration(report.duration);
                progress(&format!("{} {} {took}", report.mark(), report.step.name));
                if report.is_error {
                    progress(&format!("  {}", text::one_line(&report.result, 200)));
                }
            }
            Update::Note(note) => progress(&note),
            Update::Upload(upload) => progress(&self.save_file(&upload)?),
            Update::Usage(usage) => progress(&usage.line()),
        }
        Ok(())
    }

    fn show_at_terminal(&self, screen: &mut Screen, update: Update) -> Result<()> {
        match update {
            Update::TextDelta(piece) => screen.text(&piece),
            Update::TurnEnd { text, .. } => screen.end_turn(&text),
            Update::ToolWaiting(_) => {}
            Update::ToolStart(step) => screen.wait(&format!("→ {} ...", step.label)),
            Update::ToolEnd(report) => {
                screen.step(&report);
                screen.think();
            }
            Update::Note(note) => screen.wait(&note),
            Update::Upload(upload) => screen.line(&self.save_file(&upload)?),
            Update::Usage(usage) => screen.dim_line(&usage.line()),
        }
        Ok(())
    }

    /// Saves a file that in Slack would be uploaded, among the attachments; returns a line with
    /// its path.
    fn save_file(&self, upload: &Upload) -> Result<String> {
        let store = &self.agent.store;
        let mut kept = Store::attachments(TERMINAL, &time::new_ts(), &[&upload.name]);
        let local = kept.remove(0).local;
        let path: PathBuf = store.path().join(&local);
        let written = store.create_attachment(&local)?.write_all(&upload.bytes);
        written.map_err(|err| Error::io("write", &path, &err))?;
        store.finish_attachment(&local)?;
        Ok(format!("File: {} ({})", upload.title, path.display()))
    }
}

impl Conversation for Chat<'_> {
    fn place(&self) -> Place<'_> {
        Place::Terminal
    }

    fn approve(&self, question: &Question, stop: &Stop) -> Decision {
        match (&self.screen, &self.modes) {
            (Some(screen), Some(modes)) => {
                terminal::read_typed(&mut self.typed.borrow_mut());
                terminal::set_modes(modes);
                let decision = terminal::approve(&mut screen.borrow_mut(), question, stop);
                terminal::hide_typing(modes);
                decision
            }
            _ => Decision::Denied(
                "--approve is set, and there is no terminal at which someone could approve it"
                    .to_owned(),
            ),
        }
    }

    fn show(&self, update: Update) -> Result<()> {
        match &self.screen {
            Some(screen) => self.show_at_terminal(&mut screen.borrow_mut(), update),
            None => self.show_piped(update),
        }
    }
}

fn progress(line: &str) {
    // Errors are ignored: when stderr is closed, the answer can still go to stdout.
    let line = text::printable(line) + "\n";
    io::stderr().write_all(line.as_bytes()).ok();
}

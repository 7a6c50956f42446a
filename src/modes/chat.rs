//! `mom --chat`: the same agent in a terminal. A line from stdin is a message, progress goes
//! to stderr, answers to stdout, so that it works in a pipe as well. Ctrl-C stops the run; a
//! second one, or one while nothing runs, leaves. SIGTERM does both.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::agent::prompt::Place;
use crate::agent::run::{Job, Outcome, Request, Update};
use crate::agent::{Agent, Conversation, TERMINAL};
use crate::base::command::Command;
use crate::base::error::{Error, Result};
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::signals::{self, SecondSignal, Signal};
use crate::store::{LogEntry, Store};
use crate::tools::Upload;

/// How the whole session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    /// At least one message got no answer.
    WithErrors,
}

/// 128 + SIGINT, as a shell reports it.
const INTERRUPTED: i32 = 130;
/// Who speaks, in the log and the prompt.
const USER: &str = "user";
/// Bytes of one line of stdin; more is read as the next message.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

pub(crate) fn chat(agent: &Agent) -> Result<Ended> {
    let current: Arc<Mutex<Option<Stop>>> = Arc::default();
    let leaving = Arc::new(AtomicBool::new(false));
    let (seen, leaves) = (current.clone(), leaving.clone());
    signals::watch(SecondSignal::IsReported, move |signal| {
        if matches!(signal, Signal::Terminate) {
            leaves.store(true, Ordering::SeqCst);
        }
        match &*seen.lock().unwrap() {
            Some(stop) if !stop.is_set() => stop.set(Cause::Asked),
            Some(_) => exit(INTERRUPTED),
            // The main thread sits in a read of stdin that nothing else can end.
            None => exit(0),
        }
    })?;
    let stdin = io::stdin();
    let interactive = stdin.is_terminal();
    let mut ended = Ended::Well;
    while !leaving.load(Ordering::SeqCst) {
        if interactive {
            progress("> ");
        }
        let mut line = Vec::new();
        let read = io::Read::take(stdin.lock(), LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.map_err(|err| Error::io("read", "stdin", &err))? == 0 {
            break;
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if line.is_empty() {
            continue;
        }
        match Command::parse(&line) {
            // A run blocks this loop, so there is never one to stop here.
            Some(Command::Stop) => answer("Nothing running.")?,
            Some(Command::New) => {
                agent.new_conversation(TERMINAL)?;
                answer("A fresh start: what was said before is left out from now on.")?;
            }
            Some(Command::Status) => answer(&agent.status(TERMINAL, &[]))?,
            Some(Command::Help) => answer(&agent.help("mom"))?,
            None => {
                let stop = Stop::new();
                *current.lock().unwrap() = Some(stop.clone());
                let outcome = one(agent, line, &stop);
                *current.lock().unwrap() = None;
                match outcome {
                    Ok(Outcome::Answered(text)) => answer(&text)?,
                    Ok(Outcome::Silent) => {}
                    Ok(Outcome::Stopped) => progress("Stopped\n"),
                    Err(err) => {
                        progress(&format!("Sorry, something went wrong: {err}\n"));
                        ended = Ended::WithErrors;
                    }
                }
            }
        }
    }
    if interactive {
        progress("\n");
    }
    Ok(ended)
}

fn one(agent: &Agent, line: String, stop: &Stop) -> Result<Outcome> {
    let text = text::escape(&line);
    let entry = LogEntry {
        ts: time::new_ts(),
        user: USER.to_owned(),
        user_name: Some(USER.to_owned()),
        text: text.clone(),
        mention: true,
        ..LogEntry::default()
    };
    let request = Request {
        ts: entry.ts.clone(),
        user: USER.to_owned(),
        text,
        files: Vec::new(),
    };
    agent.store.log(&[(TERMINAL.to_owned(), entry)])?;
    let job = Job {
        channel: TERMINAL.to_owned(),
        requests: vec![request],
        ..Job::default()
    };
    let mut session = agent.begin(&job)?;
    let outcome = session.run(&job, &Terminal { agent }, stop);
    if let Ok(Outcome::Answered(answer)) = &outcome {
        let entry = LogEntry::own(time::new_ts(), answer);
        agent.store.log(&[(TERMINAL.to_owned(), entry)])?;
    }
    session.end(&outcome, None, Vec::new(), stop)?;
    outcome
}

/// One person at a terminal or a pipe.
struct Terminal<'a> {
    agent: &'a Agent,
}

impl Conversation for Terminal<'_> {
    fn place(&self) -> Place<'_> {
        Place::Terminal
    }

    fn name_of(&self, id: &str) -> String {
        id.to_owned()
    }

    fn wait_for_files(&self, _: &Request, _: &Stop) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn steering(&self) -> Vec<Request> {
        Vec::new()
    }

    fn waits(&self, _: &str) -> bool {
        false
    }

    fn status_ts(&self) -> Option<String> {
        None
    }

    fn begun(&self) {}

    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    fn show(&self, update: Update) -> Result<()> {
        match update {
            Update::TurnEnd { text, more, .. } if more && !text.trim().is_empty() => {
                progress(&format!("{}\n", text.trim()));
            }
            Update::TextDelta(_) | Update::TurnEnd { .. } | Update::ToolWaiting(_) => {}
            Update::ToolStart(step) => progress(&format!("→ {}\n", step.label)),
            Update::ToolEnd(report) => {
                let mark = if report.is_error { '✗' } else { '✓' };
                let took = text::duration(report.duration);
                progress(&format!("{mark} {} {took}\n", report.step.name));
                if report.is_error {
                    progress(&format!("  {}\n", text::one_line(&report.result, 200)));
                }
            }
            Update::Note(note) => progress(&format!("{note}\n")),
            Update::Upload(upload) => {
                let path = keep_file(self.agent, &upload)?;
                progress(&format!("File: {} ({})\n", upload.title, path.display()));
            }
            Update::Usage(usage) => progress(&format!("{}\n", usage.line())),
        }
        Ok(())
    }
}

/// A closed pipe is the reader's choice, not a failure; a full disk is one.
fn answer(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    let text = text::printable(text);
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("write the answer to", "stdout", &err))
        }
        _ => Ok(()),
    }
}

fn progress(text: &str) {
    // A closed stderr is no reason to stop: the answer goes to stdout.
    let text = text::printable(text);
    io::stderr().write_all(text.as_bytes()).ok();
}

/// Among the attachments, where the user finds what others would see in Slack.
fn keep_file(agent: &Agent, upload: &Upload) -> Result<PathBuf> {
    let store = &agent.store;
    let mut kept = Store::attachments(TERMINAL, &time::new_ts(), &[&upload.name]);
    let local = kept.remove(0).local;
    let path = store.path().join(&local);
    let written = store.create_attachment(&local)?.write_all(&upload.bytes);
    written.map_err(|err| Error::io("write", &path, &err))?;
    store.finish_attachment(&local)?;
    Ok(path)
}

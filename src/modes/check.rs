//! `mom --check`: one line for each thing that mom needs, and how to fix what is wrong. Each
//! module has a `check()` for what it owns; here all of them are called, and their findings
//! printed. After a failure the other checks still run.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::agent::{self, budget, settings};
use crate::base::error::Error;
use crate::base::finding::{Finding, Grade};
use crate::base::secret;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::config::{self, Config, Keys};
use crate::host::check::script_program;
use crate::host::sandbox::Sandbox;
use crate::llm;
use crate::net::Net;
use crate::slack::check as slack;
use crate::store::check as store;
use crate::store::dir::Dir;

use super::paint::Colors;

/// Time for all requests to one server, including name look-up and TLS.
const ANSWERS_MAX: Duration = Duration::from_secs(10);
const LINE_CHARS_MAX: usize = 500;

/// The result of all checks together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    CanStart,
    Failures,
}

/// Runs all checks and prints each finding at once.
pub(crate) fn check(path: Option<&Path>, config: &Config, keys: &Keys) -> Verdict {
    let mut report = Report {
        colour: stdout().is_terminal() && Colors::of_terminal() == Colors::Yes,
        warnings: 0,
        fixes: Vec::new(),
    };
    let (findings, dir) = store::check(path);
    let is_writable = findings
        .first()
        .is_some_and(|first| first.grade == Grade::Ok);
    report.add(keys, findings);
    report.add(keys, dir.as_ref().map(check_settings));
    // The check of the sandbox writes a file, which would fail once more.
    let place = dir.as_ref().filter(|_| is_writable).zip(path);
    report.add(keys, check_sandbox(&config.sandbox, place));
    report.add(
        keys,
        path.and_then(|path| check_missing(&config.sandbox, path)),
    );
    // Other settings of the command line, one line each.
    report.add(keys, [slack::check_access(config)]);
    report.add(keys, [budget::check(config, dir.as_ref())]);
    report.add(keys, [Finding::ok("approval", config.approve.to_string())]);
    report.add(keys, [Finding::ok("threads", config.threads())]);
    let net = Net::from_env();
    let of_slack = in_time(|stop| slack::check(config, keys, &net, stop));
    report.add(keys, of_slack);
    report.add(keys, [check_model(config, keys, &net)]);
    report.end()
}

/// Counts the findings that were printed so far.
struct Report {
    colour: bool,
    warnings: usize,
    /// How to fix each failure.
    fixes: Vec<String>,
}

impl Report {
    fn add(&mut self, keys: &Keys, findings: impl IntoIterator<Item = Finding>) {
        // Once more: a check may have got a key from a command.
        secret::guard(keys.all());
        let clean = |text: &str| secret::hide(text::one_line(text, LINE_CHARS_MAX));
        for finding in findings {
            let (word, code) = match finding.grade {
                Grade::Ok => ("ok  ", 32),
                Grade::Warn => ("warn", 33),
                Grade::Fail => ("FAIL", 31),
            };
            let word = match self.colour {
                true => format!("\x1b[{code}m{word}\x1b[0m"),
                false => word.to_owned(),
            };
            let (fact, fix) = (clean(&finding.fact), clean(&finding.fix));
            print(&format!("{word}  {}: {fact}\n", finding.what));
            if !fix.is_empty() {
                print(&format!("      -> {fix}\n"));
            }
            match finding.grade {
                Grade::Ok => {}
                Grade::Warn => self.warnings += 1,
                Grade::Fail => self.fixes.push(fix),
            }
        }
    }

    fn end(self) -> Verdict {
        let warned = text::count(self.warnings, "warning");
        let Some(first) = self.fixes.first() else {
            print(&format!("\nmom can start; {warned}\n"));
            return Verdict::CanStart;
        };
        let failures = text::count(self.fixes.len(), "failure");
        print(&format!(
            "\n{failures} to mend, {warned}; first:\n  {first}\n"
        ));
        Verdict::Failures
    }
}

fn print(text: &str) {
    let mut stdout = stdout();
    // Errors are ignored: when the reader has closed the pipe, the exit code still counts.
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .ok();
}

/// Runs `ask` with a `Stop` that is set after `ANSWERS_MAX`.
fn in_time<T>(ask: impl FnOnce(&Stop) -> T) -> T {
    let stop = Stop::new();
    let (done, waiting) = mpsc::sync_channel::<()>(1);
    thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            if waiting.recv_timeout(ANSWERS_MAX) == Err(RecvTimeoutError::Timeout) {
                stop.set(Cause::Asked);
            }
        });
        let answer = ask(stop);
        drop(done);
        answer
    })
}

fn check_settings(dir: &Dir) -> Finding {
    let wrong = settings::check(dir);
    match wrong.is_empty() {
        true => Finding::ok("settings", "settings.json is absent or in order"),
        false => Finding::warn(
            "settings",
            wrong.join("; "),
            "correct the file; the wrong settings are not used",
        ),
    }
}

/// Whether the container has another directory than the missing one.
fn check_missing(spec: &str, path: &Path) -> Option<Finding> {
    let sandbox = Sandbox::parse(spec)
        .ok()
        .filter(|_| Dir::is_missing(path))?;
    let err = sandbox.check_missing(path).unwrap_or_else(Some)?;
    Some(Finding::failed("sandbox", &err, ""))
}

fn check_sandbox(spec: &str, place: Option<(&Dir, &Path)>) -> Vec<Finding> {
    let what = "sandbox";
    let sandbox = match Sandbox::parse(spec) {
        Ok(sandbox) => sandbox,
        Err(err) => {
            let fix = format!("{} create ./data makes mom-sandbox", script_program());
            return vec![Finding::failed(what, &err, &fix)];
        }
    };
    let Some((dir, path)) = place else {
        return Vec::new();
    };
    let checked = std::path::absolute(path)
        .map_err(|err| Error::io("find", path, &err))
        .and_then(|path| agent::check_sandbox(&sandbox, dir, &path));
    let mut findings: Vec<Finding> = match checked {
        Ok(warnings) if warnings.is_empty() => {
            let fact = format!("{spec} runs, its /workspace is this directory");
            vec![Finding::ok(what, fact)]
        }
        Ok(warnings) => {
            let script = script_program();
            let fix = format!("{script} create DIR, then --sandbox=docker:mom-sandbox");
            let of = |warning| Finding::of(what, Grade::Warn, warning, &fix);
            warnings.iter().map(of).collect()
        }
        Err(err) => return vec![Finding::failed(what, &err, "fix the data directory first")],
    };
    findings.extend(sandbox.is_rootless().map(|rootless| match rootless {
        true => Finding::ok(
            "engine",
            "root in the container is an ordinary user of this machine",
        ),
        false => Finding::warn(
            "engine",
            "root in the container would be root on this machine if a process got out of it",
            "a rootless engine of mom's user: dockerd-rootless-setuptool.sh install, or podman",
        ),
    }));
    findings
}

fn check_model(config: &Config, keys: &Keys, net: &Net) -> Finding {
    let sources = llm::Sources {
        variable: &config::variable,
        key: &|provider, variables| keys.provider(provider, variables),
        price: config.price.as_deref(),
        net,
    };
    match in_time(|stop| llm::check(&config.model, &sources, stop)) {
        Err(err) => Finding::failed("model", &err, "--model=PROVIDER/ID or MOM_MODEL"),
        Ok(model) => {
            if let Err(err) = budget::check_price(config, &model) {
                return Finding::failed("model", &err, "");
            }
            let free = matches!(model.provider, "offline" | "ollama" | "llamacpp");
            let cost = match model.price.is_some() || free {
                true => "",
                false => ", prices unknown: costs are left out",
            };
            let fact = format!("{}/{} answers{cost}", model.provider, model.id);
            Finding::ok("model", fact)
        }
    }
}

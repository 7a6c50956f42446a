//! mom: a Slack bot with a computer of her own.
//!
//! The codemap, from the door inwards; imports go down this list only (a test looks).
//!
//! - `bot/`: the Slack front end: envelope, log, ack, run, answer
//! - `modes/`: the front ends of the terminal: check, chat, usage, download
//! - `slack/`: socket, Web API, display of a run; `events/`: files that wake mom
//! - `agent/`: queue, run, context, compaction, prompt, skills
//! - `tools/`: one file per tool; `llm/`: one file per wire format
//! - `host/`: where and how a command runs
//! - `store/`: the data directory, and nobody else opens files there
//! - `cli`, `config`, `signals`, `systemd`: what was typed, what the environment says
//! - `net/`: connections; `base/`: text, time, JSON, errors; in tests `mutate`
//!
//! Absent on purpose: async, plugins, mocks, globals (but for the log level, the host's time
//! zone and the secrets to hide), `unsafe`.

mod agent;
mod base;
mod bot;
mod cli;
mod config;
mod events;
mod host;
mod llm;
mod modes;
mod net;
mod signals;
mod slack;
mod store;
mod systemd;
mod tools;

use std::io::Write as _;
use std::process::ExitCode;

use crate::agent::Agent;
use crate::base::error::{Error, Result};
use crate::base::{log, secret};
use crate::cli::{Call, Options};
use crate::config::{Config, Keys};
use crate::host::descriptors;
use crate::host::sandbox::Sandbox;
use crate::modes::chat::Ended;
use crate::modes::check::Verdict;
use crate::modes::{chat, check, download, usage};
use crate::slack::manifest;

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(err) => {
            let (code, hint) = match err {
                Error::Usage(_) => (2, "\nmom --help shows what there is"),
                // 128 + SIGINT, as shells have it.
                Error::Stopped => (130, ""),
                _ => (1, ""),
            };
            // Nobody left to tell when stderr is closed.
            let text = secret::hide(format!("mom: {err}{hint}\n"));
            std::io::stderr().write_all(text.as_bytes()).ok();
            ExitCode::from(code)
        }
    }
}

fn start() -> Result<ExitCode> {
    descriptors::raise_limit();
    match cli::parse(std::env::args_os().skip(1))? {
        Call::Help => print(cli::HELP),
        Call::Version => print(concat!("mom ", env!("CARGO_PKG_VERSION"), "\n")),
        Call::Manifest => {
            let link = manifest::create_link();
            let steps = manifest::STEPS;
            writeln!(std::io::stderr(), "Create the app: {link}\n\n{steps}").ok();
            print(manifest::MANIFEST);
        }
        Call::Serve(dir, options) => {
            let (config, keys) = configure(options)?;
            // Before anything is opened: what is wrong or missing is told first.
            Sandbox::parse(&config.sandbox)?;
            config::slack_tokens(&keys)?;
            bot::serve(Agent::open(&dir, config, &keys)?, &keys)?;
        }
        Call::Chat(dir, options) => {
            let (config, keys) = configure(options)?;
            if chat::chat(&Agent::open(&dir, config, &keys)?)? == Ended::WithErrors {
                return Ok(ExitCode::FAILURE);
            }
        }
        Call::Download(channel, options) => {
            let (config, keys) = configure(options)?;
            download::download(&channel, &config, &keys)?;
        }
        Call::Usage(dir, since) => print(&usage::usage(&dir, since.as_deref())?),
        Call::Check(dir, options) => {
            let (config, keys) = configure(options)?;
            // From here on what would be logged is among the findings.
            log::set_level(log::Level::Error);
            if check::check(dir.as_deref(), &config, &keys) == Verdict::Failures {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn configure(options: Options) -> Result<(Config, Keys)> {
    if let Some(level) = options.log_level {
        log::set_level(level);
    }
    let keys = Keys::take();
    secret::guard(keys.all());
    Ok((Config::new(options), keys))
}

/// A reader that has gone away (`mom --help | head -1`) is no failure.
fn print(text: &str) {
    let mut stdout = std::io::stdout();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .ok();
}

#[cfg(test)]
mod mutate;

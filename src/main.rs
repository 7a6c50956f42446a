//! mom: a Slack bot with a computer of her own.
//!
//! The codemap, from the door inwards; imports go down this list only (a test looks).
//!
//! - `serve/`, `chat`, `download`, `usage`, `doctor`: the modes. The first is the bot; its
//!   files are a message's way: intake (to the log), route (to the queue), runs (to Slack)
//! - `slack/`: socket, Web API, display of a run; `events/`: files that wake her
//! - `queue`: who works when; `agent`: what a run needs; `run`: the loop
//! - `compact`, `context/`, `session`, `prompt`, `skills`, `settings`, `store`, `kept`: what she
//!   remembers, and where
//! - `tools/`: one file per tool; `llm/`: one file per wire format
//! - `sandbox`, `process`: where and how a command runs
//! - `cli`, `config`, `signals`, `command`: what was typed, what the environment says
//! - `dir` (the only one that opens files below the data directory), `net/`, `systemd`, `cron`,
//!   `text`, `time`, `zone`, `json`, `secret`, `stop`, `log`, `error`; in tests `mutate`
//!
//! Absent on purpose: async, plugins, mocks, globals (but for the log level, the host's time
//! zone and the secrets to hide), `unsafe`.

mod agent;
mod chat;
mod cli;
mod command;
mod compact;
mod config;
mod context;
mod cron;
mod dir;
mod doctor;
mod download;
mod error;
mod events;
mod json;
mod kept;
mod llm;
mod log;
mod net;
mod process;
mod prompt;
mod queue;
mod run;
mod sandbox;
mod secret;
mod serve;
mod session;
mod settings;
mod signals;
mod skills;
mod slack;
mod stop;
mod store;
mod systemd;
mod text;
mod time;
mod tools;
mod usage;
mod zone;

use std::io::Write as _;
use std::process::ExitCode;

use crate::agent::Agent;
use crate::chat::Ended;
use crate::cli::{Command, Options};
use crate::config::{Config, Keys};
use crate::error::{Error, Result};
use crate::sandbox::Sandbox;
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
    match cli::parse(std::env::args_os().skip(1))? {
        Command::Help => print(cli::HELP),
        Command::Version => print(concat!("mom ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Manifest => {
            let link = manifest::create_link();
            let steps = manifest::STEPS;
            writeln!(std::io::stderr(), "Create the app: {link}\n\n{steps}").ok();
            print(manifest::MANIFEST);
        }
        Command::Serve(dir, options) => {
            let (config, keys) = configure(options)?;
            // Before anything is opened: what is wrong or missing is told first.
            Sandbox::parse(&config.sandbox)?;
            config::slack_tokens(&keys)?;
            serve::serve(Agent::open(&dir, config, &keys)?, &keys)?;
        }
        Command::Chat(dir, options) => {
            let (config, keys) = configure(options)?;
            if chat::chat(&Agent::open(&dir, config, &keys)?)? == Ended::WithErrors {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Download(channel, options) => {
            let (config, keys) = configure(options)?;
            download::download(&channel, &config, &keys)?;
        }
        Command::Usage(dir) => print(&usage::usage(&dir)?),
        Command::Check(dir, options) => {
            // What would be logged is among the findings.
            log::set_level(log::Level::Error);
            let (config, keys) = configure(options)?;
            if !doctor::check(dir.as_deref(), &config, &keys) {
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
    let keys = Keys::take()?;
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

//! mom: a Slack bot with a computer of its own.
//!
//! The codemap, from outside inwards; imports go down this list only (a test checks it).
//!
//! - `bot/`: the Slack front end: envelope, log, ack, run, answer
//! - `modes/`: the front ends of the terminal: check, chat, usage, download
//! - `slack/`: socket, Web API, display of a run; `events/`: files that wake mom
//! - `agent/`: queue, run, context, compaction, prompt, skills
//! - `tools/`: one file per tool; `llm/`: models, their services, three wire formats
//! - `host/`: where and how a command runs
//! - `store/`: the data directory; no other module opens files in it
//! - `cli`, `config`, `signals`, `systemd`: command line, environment, signals, sd_notify
//! - `net/`: connections; `base/`: text, time, JSON, errors; in tests `mutate`
//!
//! Absent on purpose: async, plugins, mocks, `unsafe`, globals (except the log level, the
//! host's time zone and the secrets to mask).
//!
//! One mention, from Slack to its answer:
//! 1. slack/socket.rs `read_round` reads the frame from the WebSocket, as an `Envelope`;
//! 2. bot/intake.rs `receive` parses it with slack/inbound.rs `parse`;
//! 3. bot/intake.rs `log_new` writes it, as a request, into the ledger (store/ledger.rs), then
//!    into log.jsonl (store/log.rs `log_batch`), each synced; then `receive` acks the envelope.
//!    The first message of a person whose name is not known yet is only in the ledger for up
//!    to a second;
//! 4. bot/router.rs `route` asks bot/access.rs `verdict`; its `route_request` makes a `Job` and
//!    submits it to agent/queue.rs;
//! 5. a worker thread of the queue calls bot/worker.rs `work`, which goes on to `run_once`;
//! 6. that posts the status by slack/display.rs `start`, and calls agent/mod.rs `Session::run`;
//! 7. agent/run.rs `turns` asks the model (llm/, `stream`) until it asks for no more tools;
//! 8. tools/mod.rs `call` runs each tool, by host/process.rs `run` in the host/sandbox.rs;
//! 9. each `Update` goes to `Conversation::show`, which edits the status in Slack;
//! 10. slack/ending.rs `finish` posts the answer; `Worker::end` writes into ledger and log that the
//!     request is answered.
//!
//! One `stop`, as a message in Slack or by the button:
//! 1. it reaches bot/intake.rs `receive`, like a mention;
//! 2. a message goes to bot/router.rs `route_command`, the button to bot/intake.rs
//!    `stop_pressed`;
//! 3. bot/commands.rs `stop` calls agent/queue.rs `Queue::stop` with the user's id;
//! 4. that sets the `Stop` (base/stop.rs) of the channel's run: a flag, and a readable file;
//! 5. the model's stream ends: net/connect.rs polls that file in every wait;
//! 6. a tool ends: host/process.rs closes its stdin, and the watchdog (host/scripts.rs), in the
//!    container too, kills all processes that have the call's mark, then the group. It does the
//!    same when mom is killed, because the kernel closes the pipe;
//! 7. a pause ends: base/backoff.rs `wait`, with `Error::Stopped`;
//! 8. agent/run.rs returns `Outcome::Stopped`, and the worker goes on as after any run:
//! 9. slack/ending.rs `finish` makes the status say who stopped it.
//!
//! One restart:
//! 1. signals.rs sets the program's `Stop` at SIGTERM; a second signal exits at once;
//! 2. slack/socket.rs `run` returns; bot/mod.rs `run` calls agent/queue.rs `shutdown`;
//! 3. that stops every run; their status says that mom is restarting; the process exits;
//! 4. the next one: main.rs `start`, cli.rs `parse`, config.rs `Keys::take`;
//! 5. agent/mod.rs `Agent::open` opens model, sandbox and directory (store/dir.rs `lock`);
//! 6. bot/catch_up.rs `resume` submits the open requests of the ledger, an interrupted run first;
//! 7. slack/socket.rs connects; `connected` wakes the thread of bot/catch_up.rs `run`;
//! 8. its `read_missed` reads each channel's history from where it was last seen, by
//!    slack/history.rs, and routes what it finds like new messages;
//! 9. bot/worker.rs `earlier_try` asks the ledger how far the interrupted run came, and Slack for a
//!    post whose outcome is unknown, so that no answer comes twice.
//!
//! Who owns what of a run:
//! - the requests, and which of them are answered: store/ledger.rs `Ledger`, in runs.jsonl;
//! - the tasks that wait, and those that run, each with its `Stop`: agent/queue.rs `Queue`;
//! - the conversation as the model sees it: agent/context/mod.rs `Context`, in context.jsonl;
//! - tries, costs and the end of one run: agent/mod.rs `Session`; its turns: agent/run.rs
//!   `RunLoop`;
//! - what should be shown: slack/steps.rs `Progress`; what Slack shows: slack/display.rs
//!   `SentMessages`;
//! - questions that wait for a person: bot/approvals.rs `Approvals`.
//!
//! To add
//! - a tool: a file in tools/ with a `TOOL`, its row in tools/mod.rs `TOOLS`, its arguments in
//!   tools/args.rs `FIELDS`;
//! - a model provider: a row in llm/services.rs `SERVICES`, and known models in llm/models.rs
//!   `KNOWN`; a wire format: a file with a `FORMAT`, and llm/call.rs `WireFormat`;
//! - a Slack method: a function in slack/web.rs over `call`, or over `pages` for a list; a new
//!   scope goes into slack/manifest.json;
//! - a front end: implement agent/mod.rs `Conversation`, as bot/worker.rs and modes/chat.rs do;
//! - a check of `mom --check`: a `check` in the module it looks at, called by modes/check.rs.

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
                // 128 + SIGINT, as shells report it.
                Error::Stopped => (130, ""),
                _ => (1, ""),
            };
            // Errors are ignored: stderr may be closed.
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
            let (config, keys) = configure(&options)?;
            // First the checks that need no file and no network.
            Sandbox::parse(&config.sandbox)?;
            config::slack_tokens(&keys)?;
            bot::serve(Agent::open(&dir, config, &keys)?, &keys)?;
        }
        Call::Chat(dir, options) => {
            let (config, keys) = configure(&options)?;
            if chat::chat(&Agent::open(&dir, config, &keys)?)? == Ended::WithErrors {
                return Ok(ExitCode::FAILURE);
            }
        }
        Call::Download(channel, options) => {
            let (config, keys) = configure(&options)?;
            download::download(&channel, &config, &keys)?;
        }
        Call::Usage(dir, since) => print(&usage::usage(&dir, since.as_deref())?),
        Call::Check(dir, options) => {
            let (config, keys) = configure(&options)?;
            // Warnings would repeat what the findings say.
            log::set_level(log::Level::Error);
            if check::check(dir.as_deref(), &config, &keys) == Verdict::Failures {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn configure(options: &Options) -> Result<(Config, Keys)> {
    if let Some(name) = options.get("log-level") {
        let level = log::Level::parse(&name);
        let text = format!("--log-level={name}: use one of error, warn, info, debug");
        log::set_level(level.ok_or(Error::Usage(text))?);
    }
    let keys = Keys::take();
    secret::guard(keys.all());
    Ok((Config::new(options)?, keys))
}

/// Prints to stdout; a reader that has closed the pipe (`mom --help | head -1`) is no failure.
fn print(text: &str) {
    let mut stdout = std::io::stdout();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .ok();
}

#[cfg(test)]
mod mutate;

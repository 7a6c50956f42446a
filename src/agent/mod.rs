//! The agent: what a run is, without Slack or terminal.
//!
//! - Lives here: the queue of tasks, the run, the context of a conversation, compaction, the
//!   prompt, skills.
//! - Enters: a `Job` (people's messages or an event), a `Stop`, a front end's `Conversation`.
//! - Leaves: `Update`s while the run goes on, one `Outcome` at its end, the context on disk.
//! - State: `Queue` owns what waits and what runs; a `Session` owns the run's context until its
//!   end; `Agent` (model, sandbox, data directory) is opened once and does not change.

pub(crate) mod approval;
pub(crate) mod budget;
mod calls;
pub(crate) mod compact;
pub(crate) mod context;
pub(crate) mod prompt;
pub(crate) mod queue;
mod repeats;
pub(crate) mod run;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod skills;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use self::approval::{Decision, Question};
use self::budget::Budget;
use self::context::Context;
use self::prompt::Facts;
use self::run::{Job, Outcome, RunEnv, Update, UsageReport};
use crate::base::command::Command;
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::base::log;
use crate::base::secret;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::config::{self, Config, Keys};
use crate::host::descriptors::CallPlaces;
use crate::host::sandbox::Sandbox;
use crate::llm::{self, Content, Image, Message, Provider, ToolSpec, Usage};
use crate::net::Net;
use crate::store::dir::{Dir, Kind};
use crate::store::ledger::{Ending, LedgerEnd, LedgerRequest, RunStart};
use crate::store::{LogEntry, Store};
use crate::tools::{self, ToolContext};

/// Conversation id of `mom --chat`.
pub(crate) const TERMINAL: &str = "TERMINAL";
/// How often a run that crashes interrupted is tried in all.
const TRIES_MAX: u32 = 2;
/// Raw bytes of an image for the model: 5 MB in base64, the limit of the Messages API.
const IMAGE_BYTES_MAX: usize = 3_750_000;

pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) store: Arc<Store>,
    pub(crate) sandbox: Sandbox,
    /// Limits how many tool calls run in parallel, over all conversations.
    call_places: CallPlaces,
    pub(crate) net: Net,
    provider: Box<dyn Provider>,
    pub(crate) budget: Budget,
    specs: Vec<ToolSpec>,
    started: Instant,
    /// Warnings about files in the data directory that were logged; each is logged once.
    warned: Mutex<HashSet<String>>,
}

/// Warnings that are remembered; after so many, no new one is logged.
const WARNED_MAX: usize = 1000;

impl Agent {
    /// Opens model, data directory and sandbox; what is cheapest to check comes first.
    pub(crate) fn open(dir: &Path, config: Config, keys: &Keys) -> Result<Agent> {
        let sandbox = Sandbox::parse(&config.sandbox)?;
        let net = Net::from_env();
        let sources = llm::Sources {
            variable: &config::variable,
            key: &|provider, variables| keys.provider(provider, variables),
            price: config.price.as_deref(),
            net: &net,
        };
        let provider = llm::open(&config.model, &sources)?;
        // Once more: a command may have printed a key that was not known before.
        secret::guard(keys.all());
        budget::check_price(&config, &provider.model())?;
        if Dir::is_missing(dir) {
            // A wrong name must not become a directory. What else is wrong is reported below.
            if let Ok(Some(err)) = sandbox.check_missing(dir) {
                return Err(err);
            }
        }
        let store = Arc::new(Store::open(dir)?);
        let budget = Budget::open(&config, &provider.model(), store.dir())?;
        for warning in check_sandbox(&sandbox, store.dir(), store.path())? {
            log::warning!("", "{warning}");
        }
        Ok(Agent {
            config,
            store,
            sandbox,
            call_places: CallPlaces::default(),
            net,
            provider,
            budget,
            specs: tools::specs(),
            started: Instant::now(),
            warned: Mutex::default(),
        })
    }

    /// Records in the ledger that work on the job begins.
    pub(crate) fn begin(&self, job: &Job) -> Result<Session<'_>> {
        let ledger = &self.store.ledger;
        let mut context = Context::load(&self.store, &job.channel)?;
        let mut requests = job.requests.clone();
        // An answer in the context that was perhaps not posted is posted first, and alone.
        let existing = match ledger.run(&job.channel)? {
            Some(run) if run.has_any(&requests) => run::existing_outcome(&context),
            _ => None,
        };
        if existing.is_some() {
            requests.retain(|request| context.has_request(&request.ts));
        }
        let start = ledger.begin(&job.channel, &requests, context.last_entry())?;
        if !start.resumed {
            context.start_run();
        }
        Ok(Session {
            agent: self,
            context,
            start,
            requests: requests.into_iter().map(|request| request.ts).collect(),
            existing,
        })
    }

    /// The `new` command.
    pub(crate) fn new_conversation(&self, channel: &str) -> Result<()> {
        Context::load(&self.store, channel)?.start_anew()
    }

    /// Appends what Slack added to a message after the run that answered it had ended.
    pub(crate) fn append_addition(
        &self,
        channel: &str,
        entry: &LogEntry,
        name_of: &dyn Fn(&str) -> String,
    ) -> Result<()> {
        // A run that will be resumed goes on from the last entry, so nothing may follow it.
        if self.store.ledger.run(channel)?.is_some() {
            return Ok(());
        }
        Context::load(&self.store, channel)?.append_addition(entry, name_of)
    }

    /// The text of the `status` command, in Markdown that is also valid Slack mrkdwn. `lines`
    /// are those that the front end adds.
    pub(crate) fn status(&self, channel: &str, lines: &[String]) -> String {
        let model = self.provider.model();
        let mut out = vec![format!("Model: {}/{}", model.provider, model.id)];
        let context = Context::load(&self.store, channel);
        let costs = self.store.ledger.costs(channel);
        match context.and_then(|context| Ok((context, costs?))) {
            Ok((context, costs)) => {
                let (used, window) = (context.tokens(), model.context_window);
                out.push(format!(
                    "Context: {} of {} tokens ({} %)",
                    text::tokens(used),
                    text::tokens(window),
                    used * 100 / window.max(1)
                ));
                // Left out for a model whose prices are unknown.
                if model.price.is_some() || costs.total > 0.0 {
                    out.push(format!(
                        "Cost here: {} today, {} in all",
                        text::dollars(costs.today),
                        text::dollars(costs.total)
                    ));
                }
            }
            Err(err) => out.push(format!("Context: {err}")),
        }
        out.push(format!("Budget: {}", self.budget.text()));
        out.extend_from_slice(lines);
        out.push(format!("Sandbox: {}", self.config.sandbox));
        out.push(format!("Approval: {}", self.config.approve));
        out.push(format!("Up: {}", text::duration(self.started.elapsed())));
        out.join("\n")
    }

    /// The `help` command. `name`: what mom is called here.
    pub(crate) fn help(&self, name: &str) -> String {
        format!(
            "I am {name}, an agent with a computer of my own. Write to me what you need: in a \
             channel with a mention, here or in a direct message without.\n\
             `stop` ends what I do now, `new` starts a fresh conversation (memory and files \
             stay), `status` tells what I am up to, `help` shows this.\n\
             My tools run in the sandbox {}.",
            self.config.sandbox
        )
    }

    /// Logs each warning once.
    fn warn_once(&self, channel: &str, warnings: Vec<String>) {
        let mut warned = self.warned.lock().unwrap();
        for warning in warnings {
            if warned.len() < WARNED_MAX && warned.insert(warning.clone()) {
                log::warning!(channel, "{warning}");
            }
        }
    }

    /// The path of something below the data directory, as the tools see it.
    pub(crate) fn seen_by_tools(&self, path: &str) -> String {
        format!("{}/{path}", self.sandbox.workspace(self.store.path()))
    }

    fn memory(&self, path: &str) -> String {
        // One byte more shows the prompt that the file is longer and was cut.
        let head = (self.store.dir()).read_head(path, prompt::MEMORY_BYTES_MAX + 1);
        let bytes = head.unwrap_or_else(|err| {
            self.warn_once("", vec![format!("{err}; going on without it")]);
            None
        });
        prompt::memory_text(&bytes.unwrap_or_default())
    }
}

/// Checks that tools can run and see a file that is made in this data directory; with warnings.
pub(crate) fn check_sandbox(sandbox: &Sandbox, dir: &Dir, path: &Path) -> Result<Vec<String>> {
    let probe = format!(".mom-probe-{}", std::process::id());
    dir.put_probe(&probe, probe.as_bytes())?;
    let checked = sandbox.check(path, &probe);
    dir.remove(&probe)?;
    checked
}

/// What a run needs from its front end: `bot::worker` for Slack, `modes::chat` for the terminal.
/// The defaults are for a front end where one person waits for each answer.
pub(crate) trait Conversation {
    fn place(&self) -> prompt::Place<'_>;
    /// A user's handle by id.
    fn name_of(&self, id: &str) -> String {
        id.to_owned()
    }
    /// Waits for a message's files; returns a sentence for each that could not be fetched.
    fn wait_for_files(&self, _request: &LedgerRequest, _stop: &Stop) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// Messages for this run that were received since it began.
    fn steering(&self) -> Vec<LedgerRequest> {
        Vec::new()
    }
    /// Whether the message (ts) is in the log and waits for `steering` or for a run of its own.
    fn waits(&self, _ts: &str) -> bool {
        false
    }
    /// The ts of the status message, once it is known.
    fn status_ts(&self) -> Option<String> {
        None
    }
    /// Called when the requests are in the context on disk.
    fn begun(&self) {}
    /// Notes for the model that are not part of a message.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
    /// Asks a person whether calls may run, and waits for the answer or the stop.
    fn approve(&self, question: &Question, stop: &Stop) -> Decision;
    /// Fails only for `Update::Upload`.
    fn show(&self, update: Update) -> Result<()>;
}

/// A job being worked on, in its conversation.
pub(crate) struct Session<'a> {
    agent: &'a Agent,
    context: Context,
    start: RunStart,
    /// The ts of each request that this run answers.
    requests: Vec<String>,
    existing: Option<Outcome>,
}

impl Session<'_> {
    /// What the ledger has from an earlier try of this run.
    pub(crate) fn start(&self) -> &RunStart {
        &self.start
    }

    /// The outcome of an earlier try that did not post it, or posted it but did not record that.
    pub(crate) fn existing_outcome(&self) -> Option<&Outcome> {
        self.existing.as_ref()
    }

    /// The run answers the request with this ts.
    pub(crate) fn answers(&self, ts: &str) -> bool {
        self.requests.iter().any(|request| request == ts)
    }

    pub(crate) fn run(
        &mut self,
        job: &Job,
        conversation: &dyn Conversation,
        stop: &Stop,
    ) -> Result<Outcome> {
        // Before the tries are counted: whoever stopped the run must see that it has stopped.
        stop.check()?;
        if self.start.tries > TRIES_MAX {
            return Err(Error::failed(format!(
                "the work was cut off by a restart {TRIES_MAX} times; ask again to start anew"
            )));
        }
        let agent = self.agent;
        let (settings, warnings) = settings::load(agent.store.dir());
        agent.warn_once(&job.channel, warnings);
        let system = secret::hide(self.system(job, conversation));
        self.append_requests(job, conversation, stop)?;
        conversation.begun();
        self.last_prompt(&system);
        let env = RunEnv {
            agent,
            conversation,
            stop,
            settings: &settings,
            system: &system,
            tools: ToolContext {
                sandbox: &agent.sandbox,
                spill: &|| {
                    let (file, path) = agent.store.spill(&job.channel)?;
                    Ok((file, agent.seen_by_tools(&path)))
                },
            },
        };
        let mut used = Usage::default();
        let outcome = run::run(&env, &mut self.context, &mut used);
        if let Ok(Outcome::Answered(_)) = outcome {
            // The answer must be on disk before it is posted.
            self.context.sync_to_disk()?;
        }
        if used.total() > 0 {
            conversation.show(Update::Usage(self.usage_report(used)?))?;
        }
        outcome
    }

    fn usage_report(&self, run: Usage) -> Result<UsageReport> {
        let agent = self.agent;
        let costs = agent.store.ledger.costs(self.context.channel())?;
        Ok(UsageReport {
            run,
            context_tokens: self.context.tokens(),
            context_window: agent.provider.model().context_window,
            cost_today: run.cost.map(|_| costs.today),
            budget: agent.budget.used(),
        })
    }

    /// Appends to the context what was logged since the last run, then the requests, so that
    /// they come last.
    fn append_requests(
        &mut self,
        job: &Job,
        conversation: &dyn Conversation,
        stop: &Stop,
    ) -> Result<()> {
        let agent = self.agent;
        let window = agent.provider.model().context_window;
        let handled =
            |ts: &str| self.requests.iter().any(|request| request == ts) || conversation.waits(ts);
        let name_of = |id: &str| conversation.name_of(id);
        self.context.sync(&handled, window, &name_of)?;
        let mut notes = prompt::note(&conversation.notes());
        let mut news = false;
        for request in &job.requests {
            // A request that waited may be in the context as overheard; it is appended again.
            if self.start.resumed && self.context.has_request(&request.ts) {
                continue;
            }
            let (mut content, timestamp_ms) = agent.read(request, conversation, stop)?;
            content.extend(notes.take().map(Content::Text));
            self.context
                .append_request(&request.ts, content, timestamp_ms)?;
            news = true;
        }
        if self.start.resumed && !news {
            let note = Message::user(llm::RESUMED.to_owned(), time::now_ms());
            self.context.append(note)?;
        }
        let after = self.context.before_run().map(str::to_owned);
        let ledger = &agent.store.ledger;
        ledger.update_run(&job.channel, conversation.status_ts(), after)?;
        if job.event.is_some() {
            // The event's file is removed next, so the context must be on disk.
            self.context.sync_to_disk()?;
        }
        Ok(())
    }

    /// Records that the job is done: its answer or error is posted. `dropped`: requests (ts)
    /// that a stop dropped. A job that a restart interrupts is not done: nothing is recorded,
    /// and the next start resumes it.
    pub(crate) fn end(
        mut self,
        outcome: &Result<Outcome>,
        answer_ts: Option<&str>,
        dropped: Vec<String>,
        stop: &Stop,
    ) -> Result<()> {
        let how = match outcome {
            Ok(Outcome::Stopped) | Err(Error::Stopped) if stop.cause() == Some(Cause::Restart) => {
                return Ok(());
            }
            Ok(Outcome::Stopped) | Err(Error::Stopped) => Ending::Stopped,
            Ok(Outcome::Silent) => Ending::Silent,
            Ok(Outcome::Answered(_)) => Ending::Answered,
            Err(_) => Ending::Failed,
        };
        if how == Ending::Silent {
            self.context.drop_run(SILENT_NOTE)?;
        }
        self.context.sync_to_disk()?;
        let (channel, ledger) = (self.context.channel(), &self.agent.store.ledger);
        let mut requests = self.requests.clone();
        let mut commands = Vec::new();
        for open in ledger.open(channel, 0)? {
            if Command::parse(&open.text) == Some(Command::Stop) {
                // The run that this `stop` found was this one.
                commands.push(open.ts);
            } else if self.context.has_request(&open.ts) && !self.answers(&open.ts) {
                requests.push(open.ts);
            }
        }
        let ended = vec![
            LedgerEnd::of(how, requests, answer_ts),
            LedgerEnd::of(Ending::Dropped, dropped, None),
            LedgerEnd::of(Ending::Command, commands, None),
        ];
        let (channel, cursor) = (channel.to_owned(), self.context.cursor().clone());
        // The context is large. It is freed before the ledger allocates memory of its own behind
        // it: otherwise the allocator could not return the context's memory to the system.
        drop(self.context);
        ledger.end(&channel, ended, Some(cursor))
    }

    fn system(&self, job: &Job, conversation: &dyn Conversation) -> String {
        let agent = self.agent;
        let dir = agent.store.dir();
        let (skills, skills_left_out) = skills::load(dir, &job.channel);
        agent.warn_once(&job.channel, skills_left_out.clone());
        prompt::system(&Facts {
            place: conversation.place(),
            sandbox: &agent.sandbox,
            data: &agent.sandbox.workspace(agent.store.path()),
            zone: &time::zone_name(),
            memory: &agent.memory("MEMORY.md"),
            channel_memory: &agent.memory(&format!("{}/MEMORY.md", job.channel)),
            skills: &skills,
            skills_left_out: &skills_left_out,
            tools: &agent.specs,
        })
    }

    /// Writes what the model gets to a file that people can read. Errors are only logged.
    fn last_prompt(&self, system: &str) {
        let mut said = self.context.messages().iter().rev();
        let newest = said.find(|message| matches!(message, Message::User { .. }));
        let newest = newest.map_or(&[][..], Message::content);
        let is_image = |content: &&Content| matches!(content, Content::Image(_));
        let images = newest.iter().filter(is_image).count();
        // Only the outermost object is spread over lines: the messages may be megabytes.
        let system = json::quote(system);
        let head = format!("{{\n  \"systemPrompt\": {system},\n  \"messages\": ");
        let newest = json::quote(&llm::words(newest));
        let tail = format!(
            ",\n  \"newUserMessage\": {newest},\n  \"imageAttachmentCount\": {images}\n}}\n"
        );
        let text = json::pieces(head, self.context.messages_json(), &tail);
        if let Err(err) = self.agent.store.last_prompt(self.context.channel(), &text) {
            self.agent
                .warn_once(self.context.channel(), vec![err.to_string()]);
        }
    }
}

/// Mentions in one message whose names are looked up.
const NAMED_MAX: usize = 20;

/// `<@U08>` as `<@U08|otto>`: the model reads the name, and can write the mention back.
fn with_names(text: &str, conversation: &dyn Conversation) -> String {
    let mut pieces = text.split("<@");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for (number, piece) in pieces.enumerate() {
        let named = || {
            let (token, behind) = piece.split_once('>').filter(|_| number < NAMED_MAX)?;
            let id = token.split('|').next()?;
            let is_id = id.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let name = is_id.then(|| conversation.name_of(id))?;
            let is_known = name != id && !name.contains(['<', '>', '|']);
            is_known.then(|| format!("{id}|{name}>{behind}"))
        };
        out.push_str("<@");
        out.push_str(named().as_deref().unwrap_or(piece));
    }
    out
}

const SILENT_NOTE: &str = "[A scheduled check ran and had nothing to say.]";

impl Agent {
    /// A message as the model reads it (time, name, text, files), and its time in
    /// milliseconds. Waits for the files.
    fn read(
        &self,
        request: &LedgerRequest,
        conversation: &dyn Conversation,
        stop: &Stop,
    ) -> Result<(Vec<Content>, i64)> {
        let missing = conversation.wait_for_files(request, stop)?;
        let timestamp_ms = time::slack_ts_ms(&request.ts).unwrap_or_else(time::now_ms);
        let name = conversation.name_of(&request.user);
        let mut images = Vec::new();
        let mut paths = Vec::new();
        for file in &request.files {
            match self.image(file) {
                Some(image) => images.push(Content::Image(image)),
                None if self.store.dir().stamp(file)?.is_some() => {
                    paths.push(self.seen_by_tools(file));
                }
                // The file could not be fetched; a sentence in `missing` says why.
                None => {}
            }
        }
        let body = text::unescape(&with_names(&request.text, conversation));
        let mut body = prompt::unforged(&body);
        for sentence in missing {
            body.push_str(&format!("\n[{sentence}]"));
        }
        let text = prompt::message(timestamp_ms, &name, &body, &paths);
        let mut content = vec![Content::Text(text)];
        content.append(&mut images);
        Ok((content, timestamp_ms))
    }

    /// The file as an image, if it is one the model can take.
    fn image(&self, path: &str) -> Option<Image> {
        if !self.provider.model().takes_images {
            return None;
        }
        let dir = self.store.dir();
        let stamp = dir.stamp(path).ok()??;
        if stamp.kind != Kind::File || stamp.bytes > IMAGE_BYTES_MAX as u64 {
            return None;
        }
        let bytes = dir.read_head(path, IMAGE_BYTES_MAX).ok()??;
        let mime = tools::image_mime(&bytes)?;
        Some(Image {
            mime: mime.to_owned(),
            data: BASE64_STANDARD.encode(bytes),
            name: self.seen_by_tools(path),
        })
    }
}

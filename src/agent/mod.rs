//! Everything a run needs, opened once: data directory, sandbox, model. A front end opens a
//! `Session` for a job, runs it, and ends it when the answer stands.

pub(crate) mod compact;
pub(crate) mod context;
pub(crate) mod prompt;
pub(crate) mod queue;
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

use self::context::{Context, Costs, RunRecord, RunStatus};
use self::prompt::Facts;
use self::run::{Asked, Job, Outcome, RunEnv, Show, Update, UsageReport};
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::base::log;
use crate::base::secret;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::config::{self, Config, Keys};
use crate::host::sandbox::Sandbox;
use crate::llm::{self, Content, Image, Message, Provider, ToolSpec, Usage};
use crate::net::Net;
use crate::store::Store;
use crate::store::dir::{Dir, Kind};
use crate::tools::{self, ToolContext};

/// Conversation id of `mom --chat`.
pub(crate) const TERMINAL: &str = "TERMINAL";
/// Tries of a run that crashes interrupt (PRODUCT.md, section 5).
const TRIES_MAX: u32 = 2;
/// Raw bytes of an image that go to the model as one (facts: 5 MB in base64).
const IMAGE_BYTES_MAX: usize = 3_750_000;

pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) store: Arc<Store>,
    pub(crate) sandbox: Sandbox,
    pub(crate) net: Net,
    provider: Box<dyn Provider>,
    specs: Vec<ToolSpec>,
    started: Instant,
    /// Warnings about files in the data directory, each said once.
    warned: Mutex<HashSet<String>>,
}

/// Sentences remembered so that they are not said again.
const WARNED_MAX: usize = 1000;

impl Agent {
    /// Opens model, data directory and sandbox, in the order of what is cheapest to mend.
    pub(crate) fn open(dir: &Path, config: Config, keys: &Keys) -> Result<Agent> {
        let sandbox = Sandbox::parse(&config.sandbox)?;
        let net = Net::from_env();
        let sources = llm::Sources {
            variable: &config::variable,
            key: &|provider, variables| keys.provider(provider, variables),
            net: &net,
        };
        let provider = llm::open(&config.model, &sources)?;
        // Anew: a command may have told a key.
        secret::guard(keys.all());
        let store = Arc::new(Store::open(dir)?);
        for warning in check_sandbox(&sandbox, store.dir(), store.path())? {
            log::warning!("", "{warning}");
        }
        Ok(Agent {
            config,
            store,
            sandbox,
            net,
            provider,
            specs: tools::specs(),
            started: Instant::now(),
            warned: Mutex::default(),
        })
    }

    /// Writes down that the job is being worked on.
    pub(crate) fn begin(&self, job: &Job) -> Result<Session<'_>> {
        let mut context = Context::load(&self.store, &job.channel)?;
        let mut asked: Vec<String> = job.asked.iter().map(|asked| asked.ts.clone()).collect();
        // An answer that was found and perhaps not said comes first, and alone.
        let standing = match context.is_cut(&asked) {
            true => run::standing(&context),
            false => None,
        };
        if standing.is_some() {
            asked.retain(|ts| context.takes(ts));
        }
        let status = RunStatus {
            thread_ts: job.thread_ts.clone(),
        };
        let record = context.begin_run(&asked, status)?;
        Ok(Session {
            agent: self,
            context,
            record,
            asked,
            standing,
            used: Usage::default(),
        })
    }

    /// The `new` command.
    pub(crate) fn fresh(&self, channel: &str) -> Result<()> {
        Context::load(&self.store, channel)?.fresh()
    }

    /// The `status` command; `lines` are what the front end adds. Markdown that Slack's
    /// mrkdwn reads as well.
    pub(crate) fn status(&self, channel: &str, lines: &[String]) -> String {
        let model = self.provider.model();
        let mut out = vec![format!("Model: {}/{}", model.provider, model.id)];
        match Context::load(&self.store, channel) {
            Ok(context) => {
                let Costs { today, total } = context.costs();
                let (used, window) = (context.tokens(), model.context_window);
                out.push(format!(
                    "Context: {} of {} tokens ({} %)",
                    text::tokens(used),
                    text::tokens(window),
                    used * 100 / window.max(1)
                ));
                out.push(format!(
                    "Cost here: {} today, {} in all",
                    text::dollars(today),
                    text::dollars(total)
                ));
            }
            Err(err) => out.push(format!("Context: {err}")),
        }
        out.extend_from_slice(lines);
        out.push(format!("Sandbox: {}", self.config.sandbox));
        out.push(format!("Up: {}", text::duration(self.started.elapsed())));
        out.join("\n")
    }

    /// Says each sentence once.
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
        // One byte more, so that the prompt can tell a cut file.
        match self
            .store
            .dir()
            .read_head(path, prompt::MEMORY_BYTES_MAX + 1)
        {
            Ok(bytes) => prompt::memory_text(&bytes.unwrap_or_default()),
            Err(err) => {
                self.warn_once("", vec![format!("{err}; going on without it")]);
                String::new()
            }
        }
    }
}

/// Whether tools can run, and on this data directory: a file made here must show there.
pub(crate) fn check_sandbox(sandbox: &Sandbox, dir: &Dir, path: &Path) -> Result<Vec<String>> {
    let probe = format!(".mom-probe-{}", std::process::id());
    dir.replace_unsynced(&probe, probe.as_bytes())?;
    let checked = sandbox.check(path, &probe);
    dir.remove(&probe)?;
    checked
}

/// What a front end knows of the conversation a job belongs to.
pub(crate) struct Scene<'a> {
    pub(crate) place: prompt::Place<'a>,
    /// A user's handle by id.
    pub(crate) name_of: &'a dyn Fn(&str) -> String,
    /// Waits for a message's files; a sentence for each that did not come.
    pub(crate) await_files: &'a dyn Fn(&Asked, &Stop) -> Result<Vec<String>>,
    pub(crate) steer: &'a dyn Fn() -> Vec<Asked>,
    /// The message (ts) is in the log, and waits for `steer` or a run of its own.
    pub(crate) waits: &'a dyn Fn(&str) -> bool,
    /// The ts of the status message, once it is known.
    pub(crate) status_ts: &'a dyn Fn() -> Option<String>,
    /// Called when everything that was asked is on disk.
    pub(crate) begun: &'a dyn Fn(),
    /// News for the model that stand in no message.
    pub(crate) notes: Vec<String>,
}

/// A job being worked on, in its conversation.
pub(crate) struct Session<'a> {
    agent: &'a Agent,
    context: Context,
    record: RunRecord,
    asked: Vec<String>,
    standing: Option<Outcome>,
    /// By the run, once it is over.
    used: Usage,
}

impl Session<'_> {
    /// What an earlier try left.
    pub(crate) fn record(&self) -> &RunRecord {
        &self.record
    }

    /// How an earlier try ended that had no time to say so, or to write down that it did.
    pub(crate) fn standing(&self) -> Option<&Outcome> {
        self.standing.as_ref()
    }

    /// The run answers it.
    pub(crate) fn asks(&self, ts: &str) -> bool {
        self.asked.iter().any(|asked| asked == ts)
    }

    pub(crate) fn run(
        &mut self,
        job: &Job,
        scene: &Scene<'_>,
        stop: &Stop,
        show: &mut Show<'_>,
    ) -> Result<Outcome> {
        // However often it was cut: who stopped it before is to see that it has stopped.
        stop.check()?;
        if self.record.tries > TRIES_MAX {
            return Err(Error::failed(format!(
                "the work was cut off by a restart {TRIES_MAX} times; ask again to start anew"
            )));
        }
        let agent = self.agent;
        let store = &agent.store;
        let (settings, warnings) = settings::load(store.dir());
        agent.warn_once(&job.channel, warnings);
        let system = secret::hide(self.system(job, scene));
        let window = agent.provider.model().context_window;
        let handled = |ts: &str| self.asked.iter().any(|asked| asked == ts) || (scene.waits)(ts);
        self.context.sync(store, &handled, window, scene.name_of)?;
        let read = |asked: &Asked, stop: &Stop| agent.read(asked, scene, stop);
        let mut notes = prompt::note(&scene.notes);
        let mut news = false;
        for asked in &job.asked {
            // Overheard it may have been, when it waited; asked it is the last word.
            if self.record.resumed && self.context.takes(&asked.ts) {
                continue;
            }
            let (mut content, timestamp_ms) = read(asked, stop)?;
            content.extend(notes.take().map(Content::Text));
            self.context
                .append_asked(&asked.ts, content, timestamp_ms)?;
            news = true;
        }
        if self.record.resumed && !news {
            self.context.append(Message::User {
                content: vec![Content::Text(llm::RESUMED.to_owned())],
                timestamp_ms: time::now_ms(),
            })?;
        }
        self.context.note_begun((scene.status_ts)())?;
        if job.event.is_some() {
            // Its file goes now.
            self.context.settle()?;
        }
        (scene.begun)();
        self.last_prompt(&system);
        let env = RunEnv {
            provider: &*agent.provider,
            tools: ToolContext {
                sandbox: &agent.sandbox,
                spill: &|| {
                    let (file, path) = store.spill(&job.channel)?;
                    Ok((file, agent.seen_by_tools(&path)))
                },
            },
            specs: &agent.specs,
            settings: &settings,
            system: &system,
            read: &read,
            steer: scene.steer,
        };
        let mut used = Usage::default();
        let outcome = run::run(&env, &mut self.context, &mut used, stop, show);
        self.used = used;
        if let Ok(Outcome::Answered(_)) = outcome {
            self.context.note_answer()?;
        }
        if used.total() > 0 {
            let cost_today = used
                .cost
                .map(|cost| self.context.costs().today + cost.total());
            show(Update::Usage(UsageReport {
                run: used,
                context_tokens: self.context.tokens(),
                context_window: window,
                cost_today,
            }))?;
        }
        outcome
    }

    /// Writes down that the job is done: the answer, or the error, stands. After an
    /// interruption by a restart it is not, and the next start takes it up.
    pub(crate) fn end(
        mut self,
        outcome: &Result<Outcome>,
        answer_ts: Option<&str>,
        stop: &Stop,
    ) -> Result<()> {
        let cut = matches!(outcome, Ok(Outcome::Stopped) | Err(Error::Stopped));
        if cut && stop.cause() == Some(Cause::Restart) {
            return Ok(());
        }
        if matches!(outcome, Ok(Outcome::Silent)) {
            self.context.drop_run(SILENT_NOTE)?;
        }
        let cost = self.used.cost.map(|cost| cost.total());
        self.context.end_run(answer_ts, cost).map(drop)
    }

    /// Messages that a stop took along count as answered: no restart brings them back.
    pub(crate) fn with_dropped(mut self, dropped: Vec<String>) -> Self {
        self.context.drop_asked(dropped);
        self
    }

    fn system(&self, job: &Job, scene: &Scene<'_>) -> String {
        let agent = self.agent;
        let dir = agent.store.dir();
        let (skills, skills_left_out) = skills::load(dir, &job.channel);
        agent.warn_once(&job.channel, skills_left_out.clone());
        prompt::system(&Facts {
            place: scene.place,
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

    /// For whoever wants to see what the model was sent. Not worth failing a run for.
    fn last_prompt(&self, system: &str) {
        let said = self.context.messages().iter().rev();
        let newest = said.filter_map(|message| match message {
            Message::User { content, .. } => Some(content.as_slice()),
            _ => None,
        });
        let newest = newest.take(1).flatten();
        let texts = newest.clone().filter_map(|content| match content {
            Content::Text(text) => Some(text.as_str()),
            Content::Image(_) => None,
        });
        let texts = texts.collect::<Vec<_>>().join("\n");
        let images = newest
            .filter(|content| matches!(content, Content::Image(_)))
            .count();
        // Only the outermost object is spread over lines: the messages may be megabytes.
        let text = format!(
            "{{\n  \"systemPrompt\": {},\n  \"messages\": {},\n  \"newUserMessage\": {},\n  \
             \"imageAttachmentCount\": {images}\n}}\n",
            json::quote(system),
            self.context.messages_json(),
            json::quote(&texts)
        );
        if let Err(err) = self.agent.store.last_prompt(self.context.channel(), &text) {
            self.agent
                .warn_once(self.context.channel(), vec![err.to_string()]);
        }
    }
}

/// People named in one message whose names are looked up.
const NAMED_MAX: usize = 20;

/// `<@U08>` as `<@U08|otto>`: to be read, and to be written back.
fn with_names(text: &str, name_of: &dyn Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    for _ in 0..NAMED_MAX {
        let Some((before, after)) = rest.split_once("<@") else {
            break;
        };
        out.push_str(before);
        out.push_str("<@");
        rest = after;
        let Some((token, behind)) = after.split_once('>') else {
            continue;
        };
        let id = token.split('|').next().unwrap_or_default();
        let name = match id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            true => name_of(id),
            false => continue,
        };
        if name == id || name.contains(['<', '>', '|']) {
            continue;
        }
        out.push_str(&format!("{id}|{name}>"));
        rest = behind;
    }
    out + rest
}

const SILENT_NOTE: &str = "[A scheduled check ran and had nothing to say.]";

impl Agent {
    fn read(&self, asked: &Asked, scene: &Scene<'_>, stop: &Stop) -> Result<(Vec<Content>, i64)> {
        let missing = (scene.await_files)(asked, stop)?;
        let timestamp_ms = time::slack_ts_ms(&asked.ts).unwrap_or_else(time::now_ms);
        let name = (scene.name_of)(&asked.user);
        let mut images = Vec::new();
        let mut paths = Vec::new();
        for file in &asked.files {
            match self.image(file) {
                Some(image) => images.push(Content::Image(image)),
                None if self.store.dir().stamp(file)?.is_some() => {
                    paths.push(self.seen_by_tools(file));
                }
                // It did not come; a sentence says why.
                None => {}
            }
        }
        let mut body = text::unescape(&with_names(&asked.text, scene.name_of));
        body = prompt::unforged(&body);
        for sentence in missing {
            body.push_str(&format!("\n[{sentence}]"));
        }
        let mut content = vec![Content::Text(prompt::message(
            timestamp_ms,
            &name,
            &body,
            &paths,
        ))];
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
        })
    }
}

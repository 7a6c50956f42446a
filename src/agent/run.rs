//! The loop: one `Job` in, `Update`s on the way, one `Outcome` at the end. Ask the model, run
//! the tools it calls (`calls`), append everything to the context, ask again. The context on
//! disk is the state: a run that was interrupted goes on from there.

use std::time::Duration;

use crate::agent::budget::BudgetUse;
use crate::agent::context::Context;
use crate::agent::repeats::Repeats;
use crate::agent::settings::Settings;
use crate::agent::{Agent, Conversation, compact};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::secret::{self, Pieces};
use crate::base::stop::Stop;
use crate::base::text;
use crate::base::time;
use crate::llm::{Assistant, Block, Message, Reply, StopReason, ToolCall, Turn, Usage};
use crate::store::ledger::LedgerRequest;
use crate::tools::{ToolContext, Upload};

/// What to do: someone's messages or an event, and where the answer goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    /// Conversation id: `C..`, `D..`, `G..` or `TERMINAL`.
    pub(crate) channel: String,
    /// Their files may not be downloaded yet.
    pub(crate) requests: Vec<LedgerRequest>,
    /// Root of the thread the answer belongs to; `None`: the channel itself.
    pub(crate) thread_ts: Option<String>,
    /// File name of the event; `None` for people's messages.
    pub(crate) event: Option<String>,
    /// Found at mom's start without an answer: an earlier try may have worked on the requests.
    pub(crate) resumed: bool,
    /// The user who stopped the run before a restart: only the stop must still be shown.
    pub(crate) stopped_by: Option<String>,
}

impl Job {
    /// The ts of its first request, which identifies the run.
    pub(crate) fn run_ts(&self) -> &str {
        self.requests.first().map_or("", |first| &first.ts)
    }

    /// Jobs in a row whose places are equal may be merged into one.
    pub(crate) fn place(&self) -> impl PartialEq + '_ {
        let kind = (
            self.event.is_some(),
            self.stopped_by.is_some(),
            self.is_addition(),
        );
        (&self.channel, &self.thread_ts, kind)
    }

    /// Whether the job is what Slack added to a message: it asks nothing, but goes to the context.
    pub(crate) fn is_addition(&self) -> bool {
        self.requests.iter().any(|request| request.is_addition)
    }
}

/// What a run tells its front end while it works, in order.
pub(crate) enum Update {
    /// The next piece of the model's text; `TurnEnd` closes it.
    TextDelta(String),
    /// A model turn is over; `text` is all it wrote, `thinking` what it thought.
    /// `more`: another turn follows, so this is not the answer.
    TurnEnd {
        text: String,
        thinking: String,
        more: bool,
    },
    /// The model has asked for this call, which has not begun.
    ToolWaiting(ToolStep),
    ToolStart(ToolStep),
    ToolEnd(ToolReport),
    /// `Compacting context...`, `Retrying (1/3)...`: a line of the status.
    Note(String),
    /// A file for the conversation; an error becomes the tool's result.
    Upload(Upload),
    /// What the run used, at its end.
    Usage(UsageReport),
}

/// One tool call as a person reads it.
#[derive(Clone, Debug)]
pub(crate) struct ToolStep {
    /// Counts the calls of this run.
    pub(crate) number: usize,
    /// Name of the tool.
    pub(crate) name: String,
    pub(crate) label: String,
    /// The arguments without names and label, one value per line.
    pub(crate) arguments: String,
}

#[derive(Clone, Debug)]
pub(crate) struct ToolReport {
    pub(crate) step: ToolStep,
    pub(crate) result: String,
    /// What an `edit` changed.
    pub(crate) diff: Option<String>,
    pub(crate) is_error: bool,
    pub(crate) duration: Duration,
}

impl ToolReport {
    pub(crate) fn mark(&self) -> char {
        if self.is_error { '✗' } else { '✓' }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UsageReport {
    /// Sum over all model requests of the run.
    pub(crate) run: Usage,
    /// Tokens in the window after the last reply, and the window's size.
    pub(crate) context_tokens: u64,
    pub(crate) context_window: u64,
    /// Dollars today in this channel, this run included; `None` when prices are unknown.
    pub(crate) cost_today: Option<f64>,
    /// How much of the budget is used; `None` without --budget.
    pub(crate) budget: Option<BudgetUse>,
}

impl UsageReport {
    /// `4.2k in · 310 out · 3.9k cached · 2 % of 1M · $0.011 (today $0.42)`
    pub(crate) fn line(&self) -> String {
        let usage = &self.run;
        let mut parts = vec![
            format!("{} in", text::tokens(usage.total_input())),
            format!("{} out", text::tokens(usage.output)),
        ];
        if usage.cache_read > 0 {
            parts.push(format!("{} cached", text::tokens(usage.cache_read)));
        }
        if let Some(percent) = (self.context_tokens * 100).checked_div(self.context_window) {
            parts.push(format!(
                "{percent} % of {}",
                text::tokens(self.context_window)
            ));
        }
        if let Some(cost) = usage.cost {
            let today = self.cost_today.map(text::dollars);
            let today = today.map_or(String::new(), |today| format!(" (today {today})"));
            parts.push(text::dollars(cost.total()) + &today);
        }
        parts.extend(self.budget.and_then(|used| used.warning()));
        parts.join(" · ")
    }
}

/// How a run ended; failures are `Err`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Markdown, never empty.
    Answered(String),
    /// The answer was `[SILENT]`: nothing is posted.
    Silent,
    Stopped,
}

/// What a run works with, apart from its context.
pub(crate) struct RunEnv<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) conversation: &'a dyn Conversation,
    pub(crate) stop: &'a Stop,
    pub(crate) settings: &'a Settings,
    /// Fixed during the run: signed thinking and the prompt cache are bound to it.
    pub(crate) system: &'a str,
    pub(crate) tools: ToolContext<'a>,
}

/// Model turns in one run: far more than real work needs, but it ends an endless loop.
const TURNS_MAX: usize = 400;
/// Replies in a row whose tool call may be cut off at the output limit.
const CUT_CALLS_MAX: usize = 3;
/// Tokens that a reply may take if model and window allow it (the original's number).
const OUTPUT_TOKENS_MAX: u64 = 32_000;
/// What the model reads later in place of the end of a run that `--budget` has ended.
const CUT_SHORT: &str = "[The budget for the day was used up here, and the work was ended.]";
/// An answer that starts with this is not posted.
const SILENT: &str = "[SILENT]";

/// Does one run in a context that already has the requests. `used` gets the tokens also when
/// the run fails.
pub(crate) fn run(env: &RunEnv<'_>, context: &mut Context, used: &mut Usage) -> Result<Outcome> {
    let mut run = RunLoop {
        env,
        context,
        used,
        overflowed: false,
        cut_calls: 0,
        steps: 0,
        repeats: Repeats::default(),
        all_approved: false,
    };
    match run.turns() {
        Err(Error::Stopped) => Ok(Outcome::Stopped),
        outcome => outcome,
    }
}

/// The outcome of an earlier try, if its answer is the last message in the context.
pub(crate) fn existing_outcome(context: &Context) -> Option<Outcome> {
    let of_run = context.messages().get(context.run_start()..);
    let Some(Message::Assistant(said)) = of_run.unwrap_or_default().last() else {
        return None;
    };
    let is_call = |block: &Block| matches!(block, Block::ToolCall(_));
    let is_over = matches!(said.stop_reason, StopReason::Stop | StopReason::Length)
        && !said.blocks.iter().any(is_call);
    is_over.then(|| outcome(secret::hide(text_of(&said.blocks)), said.stop_reason))
}

pub(super) struct RunLoop<'a> {
    pub(super) env: &'a RunEnv<'a>,
    pub(super) context: &'a mut Context,
    used: &'a mut Usage,
    /// The window overflowed since the last good reply: the context is not compacted again.
    overflowed: bool,
    /// Replies in a row whose tool call was cut off.
    cut_calls: usize,
    /// Tool calls so far.
    pub(super) steps: usize,
    pub(super) repeats: Repeats,
    /// A person approved all calls of this run.
    pub(super) all_approved: bool,
}

impl RunLoop<'_> {
    /// Fails only for an upload.
    pub(super) fn show(&self, update: Update) -> Result<()> {
        self.env.conversation.show(update)
    }

    fn turns(&mut self) -> Result<Outcome> {
        let env = self.env;
        for _ in 0..TURNS_MAX {
            self.take_steering()?;
            if compact::is_due(self.context, &env.agent.provider.model(), env.settings) {
                self.compact()?;
            }
            let Some(reply) = self.ask()? else {
                return self.cut_short();
            };
            if let Some(why) = reply.refusal {
                return Err(Error::Failed(format!(
                    "the model declined to answer ({why}); put it differently, or say `new`"
                )));
            }
            let text = secret::hide(text_of(&reply.blocks));
            if let Some(name) = reply.cut_call {
                self.call_was_cut(&name)?;
                self.show(broken_off(text))?;
                continue;
            }
            self.cut_calls = 0;
            let blocks = reply.blocks.iter();
            let calls = blocks.filter_map(|block| match block {
                Block::ToolCall(call) => Some(call.clone()),
                _ => None,
            });
            let calls: Vec<ToolCall> = calls.collect();
            let thinking = secret::hide(thinking_of(&reply.blocks));
            // A message received while the model wrote the answer waits for the next run: if this
            // run went on, the answer to that message would replace this one in the channel.
            let more = !calls.is_empty();
            self.show(Update::TurnEnd {
                text: text.clone(),
                thinking,
                more,
            })?;
            if !more {
                return Ok(outcome(text, reply.stop_reason));
            }
            self.call_tools(&calls)?;
            env.stop.check()?;
            self.repeats.check()?;
        }
        Err(Error::Failed(format!(
            "stopped after {TURNS_MAX} model turns without an answer; ask again to go on"
        )))
    }

    fn call_was_cut(&mut self, name: &str) -> Result<()> {
        self.cut_calls += 1;
        if self.cut_calls > CUT_CALLS_MAX {
            return Err(Error::Failed(format!(
                "the model's call of {name} was longer than its output limit, {CUT_CALLS_MAX} times"
            )));
        }
        self.note_to_model(&format!(
            "Your call of {name} was cut off at the output limit and was not run. Write less at \
             once, for instance a file in several pieces."
        ))
    }

    fn take_steering(&mut self) -> Result<()> {
        // A message sent after a stop does not belong to the stopped run.
        self.env.stop.check()?;
        let env = self.env;
        if env.agent.budget.is_used_up() {
            return Ok(());
        }
        for request in &env.conversation.steering() {
            // After a restart a message may wait although it is in the context from an earlier try.
            // A request with files and no text is the files of a message that came before.
            let late_files = request.text.is_empty() && !request.files.is_empty();
            let is_more = late_files || request.is_addition;
            if self.context.has_request(&request.ts) && !is_more {
                continue;
            }
            let (content, timestamp_ms) = env.agent.read(request, env.conversation, env.stop)?;
            self.context
                .append_request(&request.ts, content, timestamp_ms)?;
        }
        Ok(())
    }

    fn note_to_model(&mut self, text: &str) -> Result<()> {
        let message = Message::user(text.to_owned(), time::now_ms());
        self.context.append(message)
    }

    /// The answer of a run that may ask the model no more: what it said last, and the reason.
    fn cut_short(&mut self) -> Result<Outcome> {
        let sentence = self.env.agent.budget.sentence();
        let of_run = self.context.messages().get(self.context.run_start()..);
        let said = of_run.unwrap_or_default().iter().rev();
        let mut texts = said.filter_map(|message| match message {
            Message::Assistant(said) => Some(secret::hide(text_of(&said.blocks))),
            _ => None,
        });
        let text = texts.find(|text| !text.trim().is_empty());
        let text = text.filter(|text| !text.trim().starts_with(SILENT));
        self.note_to_model(CUT_SHORT)?;
        let said = text.map_or(String::new(), |text| format!("{}\n\n", text.trim()));
        let answer = said + &sentence;
        self.show(Update::TurnEnd {
            text: answer.clone(),
            thinking: String::new(),
            more: false,
        })?;
        Ok(Outcome::Answered(answer))
    }

    /// Asks the model for one good reply, which is appended to the context. Does the retries and
    /// the one compaction after an overflow. `None`: the budget of the day is used up.
    fn ask(&mut self) -> Result<Option<Reply>> {
        let settings = self.env.settings;
        let mut failures = 0;
        loop {
            self.env.stop.check()?;
            if self.env.agent.budget.is_used_up() {
                return Ok(None);
            }
            match self.stream() {
                Ok(reply) => {
                    self.overflowed = false;
                    self.append_reply(&reply)?;
                    return Ok(Some(reply));
                }
                Err(Error::ContextFull(why)) => {
                    if self.overflowed || !settings.compaction.enabled {
                        return Err(self.too_large(&why));
                    }
                    self.overflowed = true;
                    self.compact()?;
                }
                Err(Error::Retry { after, why, fault }) => {
                    failures += 1;
                    let Some(pause) = settings.retry.pause(failures, after) else {
                        return Err(Error::given_up(fault, why));
                    };
                    log::warning!(
                        self.context.channel(),
                        "{why}; trying again in {}",
                        text::duration(pause)
                    );
                    // The next try streams the text again, so the part shown so far is closed.
                    self.show(broken_off(String::new()))?;
                    let tries = format!("{failures}/{}", settings.retry.max_retries);
                    self.show(Update::Note(format!("Retrying ({tries})...")))?;
                    self.env.stop.wait(pause)?;
                }
                Err(err) => return Err(err),
            }
        }
    }

    /// The error when compaction did not help. `new` helps only if messages came before the run.
    fn too_large(&self, why: &str) -> Error {
        let summaries = usize::from(self.context.compaction().is_some());
        let (what, hint) = if self.context.run_start() > summaries {
            ("the conversation", "say `new` for a fresh start")
        } else {
            let hint = "send less at once, or as a file that can be read in parts";
            ("the request", hint)
        };
        Error::Failed(format!(
            "{what} is larger than the model's window ({why}); {hint}"
        ))
    }

    fn stream(&mut self) -> Result<Reply> {
        let provider = &*self.env.agent.provider;
        let model = provider.model();
        let room = model.context_window.saturating_sub(self.context.tokens());
        let output = OUTPUT_TOKENS_MAX
            .min(u64::from(model.output_tokens_max))
            .min(room.max(1024));
        let turn = Turn {
            system: self.env.system,
            messages: self.context.messages(),
            run_start: self.context.run_start(),
            tools: &self.env.agent.specs,
            output_tokens_max: u32::try_from(output).unwrap_or(u32::MAX),
        };
        let mut pieces = Pieces::default();
        provider.stream(&turn, self.env.stop, &mut |piece| {
            // Fails only for an upload.
            self.show(Update::TextDelta(pieces.push(piece))).ok();
        })
    }

    fn append_reply(&mut self, reply: &Reply) -> Result<()> {
        let model = self.env.agent.provider.model();
        self.spend(&reply.usage)?;
        let stop_reason = if reply.refusal.is_some() {
            StopReason::Error
        } else {
            reply.stop_reason
        };
        self.context.append(Message::Assistant(Assistant {
            blocks: reply.blocks.clone(),
            api: model.api.to_owned(),
            provider: model.provider.to_owned(),
            model: model.id.clone(),
            usage: reply.usage,
            stop_reason,
            timestamp_ms: time::now_ms(),
        }))
    }

    fn spend(&mut self, usage: &Usage) -> Result<()> {
        self.used.add(usage);
        self.env.agent.budget.spend(usage);
        self.context.spend(usage)
    }

    /// Compacts the context. A failure is only logged: the request may still fit the window.
    fn compact(&mut self) -> Result<()> {
        if self.env.agent.budget.is_used_up() {
            return Ok(());
        }
        self.show(Update::Note("Compacting context...".to_owned()))?;
        let provider = &*self.env.agent.provider;
        let (settings, stop, mut used) = (self.env.settings, self.env.stop, Usage::default());
        let compacted = compact::compact(self.context, provider, settings, stop, &mut used);
        self.spend(&used)?;
        match compacted {
            Ok(()) => {}
            Err(Error::Stopped) => return Err(Error::Stopped),
            Err(err) => log::warning!(self.context.channel(), "compaction failed: {err}"),
        }
        Ok(())
    }
}

/// Closes the text of a reply that another reply of the same run follows.
fn broken_off(text: String) -> Update {
    Update::TurnEnd {
        text,
        thinking: String::new(),
        more: true,
    }
}

pub(super) fn text_of(blocks: &[Block]) -> String {
    let texts = blocks.iter().filter_map(|block| match block {
        Block::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

fn thinking_of(blocks: &[Block]) -> String {
    let texts = blocks.iter().filter_map(|block| match block {
        Block::Thinking { text, .. } if !text.is_empty() => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

fn outcome(text: String, stop_reason: StopReason) -> Outcome {
    let trimmed = text.trim();
    if trimmed.starts_with(SILENT) {
        return Outcome::Silent;
    }
    Outcome::Answered(match (trimmed, stop_reason) {
        ("", StopReason::Length) => "_(the output limit was reached before an answer)_".to_owned(),
        ("", _) => "_(done, without a word)_".to_owned(),
        (text, StopReason::Length) => format!("{text}\n\n_(cut off at the output limit)_"),
        (text, _) => text.to_owned(),
    })
}

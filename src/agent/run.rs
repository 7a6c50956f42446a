//! The loop: one `Job` in, `Update`s on the way, one `Outcome` at the end. Ask the model, run
//! the tools it calls, append everything to the context, ask again. The context on disk is the
//! state: a run that was cut goes on from there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::approval::{self, Decision, Question};
use crate::agent::budget::BudgetUse;
use crate::agent::context::Context;
use crate::agent::repeats::Repeats;
use crate::agent::settings::Settings;
use crate::agent::{Agent, Conversation, compact};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::secret::{self, Pieces};
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::llm::{
    Assistant, Block, Content, Message, Reply, StopReason, ToolCall, ToolResult, Turn, Usage,
};
use crate::store::ledger::LedgerRequest;
use crate::tools::{self, ToolContext, ToolOutput, Upload};

/// What to do: someone's messages or an event, and where the answer goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    /// Conversation id: `C..`, `D..`, `G..` or `TERMINAL`.
    pub(crate) channel: String,
    pub(crate) requests: Vec<Request>,
    /// Root of the thread the answer belongs to; `None`: the channel itself.
    pub(crate) thread_ts: Option<String>,
    /// File name of the event; `None` for people's messages.
    pub(crate) event: Option<String>,
    /// Found after a start without an answer: an earlier try may have got somewhere.
    pub(crate) resumed: bool,
    /// The user who said `stop` before a restart: only the stop remains to be shown.
    pub(crate) stopped_by: Option<String>,
}

impl Job {
    pub(crate) fn ledger_requests(&self) -> Vec<LedgerRequest> {
        let requests = self.requests.iter().cloned();
        let ledger_request = |request: Request| LedgerRequest {
            ts: request.ts,
            user: request.user,
            text: request.text,
            thread: self.thread_ts.clone(),
            files: request.files,
            event: self.event.clone(),
            ..LedgerRequest::default()
        };
        requests.map(ledger_request).collect()
    }

    /// Jobs of one place that come one after the other may become one.
    pub(crate) fn place(&self) -> impl PartialEq + '_ {
        let event_and_stop = (self.event.is_some(), self.stopped_by.is_some());
        (&self.channel, &self.thread_ts, event_and_stop)
    }
}

/// One message that asks something of mom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Slack ts; for events due time (epoch milliseconds) and file name: `1767604364120:a.json`.
    pub(crate) ts: String,
    /// Slack user id, or `EVENT`.
    pub(crate) user: String,
    /// Without the mention of mom, entities still encoded.
    pub(crate) text: String,
    /// Paths of its files, relative to the data directory; they may still be on their way.
    pub(crate) files: Vec<String>,
}

impl From<LedgerRequest> for Request {
    fn from(request: LedgerRequest) -> Request {
        Request {
            ts: request.ts,
            user: request.user,
            text: request.text,
            files: request.files,
        }
    }
}

/// What a run tells its front end while it works, in order.
pub(crate) enum Update {
    /// The next piece of the model's text; `TurnEnd` closes it.
    TextDelta(String),
    /// A model turn is over; `text` is all it wrote, `thinking` what it thought.
    /// `more`: it goes on, so this is not the answer.
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
    /// Of the tool.
    pub(crate) name: String,
    pub(crate) label: String,
    /// Values only, one a line, label left out.
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
    /// Sum over the run's requests.
    pub(crate) run: Usage,
    /// Tokens in the window after the last reply, and the window's size.
    pub(crate) context_tokens: u64,
    pub(crate) context_window: u64,
    /// Dollars today in this channel, this run included; `None` when prices are unknown.
    pub(crate) cost_today: Option<f64>,
    /// With --budget.
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
    /// `[SILENT]`: leave no trace.
    Silent,
    Stopped,
}

/// What a run works with, beside its context.
pub(crate) struct RunEnv<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) conversation: &'a dyn Conversation,
    pub(crate) stop: &'a Stop,
    pub(crate) settings: &'a Settings,
    /// Fixed during the run: signed thinking and the prompt cache are bound to it.
    pub(crate) system: &'a str,
    pub(crate) tools: ToolContext<'a>,
}

/// Model turns in one run: far above what work needs, far below what an endless loop costs.
const TURNS_MAX: usize = 400;
/// bash and read calls of one turn that run side by side.
const CALLS_BESIDE_MAX: usize = 8;
/// Replies in a row whose tool call was cut off at the output limit.
const CUT_CALLS_MAX: usize = 3;
/// Tokens a reply may take when model and window allow it (as the original).
const OUTPUT_TOKENS_MAX: u64 = 32_000;
/// What the model reads later of a run that `--budget` has ended.
const CUT_SHORT: &str = "[The budget for the day was used up here, and the work was ended.]";
/// At the start of an answer: leave no trace.
const SILENT: &str = "[SILENT]";

/// One run over a context that already holds the requests. `used` adds up also when the run
/// fails.
pub(crate) fn run(env: &RunEnv<'_>, context: &mut Context, used: &mut Usage) -> Result<Outcome> {
    let start = context.run_start();
    let mut run = RunLoop {
        env,
        context,
        used,
        start,
        overflowed: false,
        steps: 0,
        repeats: Repeats::default(),
        all_approved: false,
    };
    match run.turns() {
        Err(Error::Stopped) => Ok(Outcome::Stopped),
        outcome => outcome,
    }
}

/// How the run ended, when its answer is the last thing in the context.
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

struct RunLoop<'a> {
    env: &'a RunEnv<'a>,
    context: &'a mut Context,
    used: &'a mut Usage,
    /// Index of the run's first message in the context.
    start: usize,
    /// The window overflowed since the last good reply: compacting helped once, no more.
    overflowed: bool,
    /// Tool calls so far.
    steps: usize,
    repeats: Repeats,
    /// A person approved all calls of this run.
    all_approved: bool,
}

impl RunLoop<'_> {
    /// Fails only for an upload.
    fn show(&self, update: Update) -> Result<()> {
        self.env.conversation.show(update)
    }

    fn turns(&mut self) -> Result<Outcome> {
        let mut cut_calls = 0;
        for _ in 0..TURNS_MAX {
            self.take_steering()?;
            self.compact_when_full()?;
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
                cut_calls += 1;
                if cut_calls > CUT_CALLS_MAX {
                    return Err(Error::Failed(format!(
                        "the model's call of {name} was longer than its output limit, \
                         {CUT_CALLS_MAX} times"
                    )));
                }
                self.note_to_model(&format!(
                    "Your call of {name} was cut off at the output limit and was not run. \
                     Write less at once, for instance a file in several pieces."
                ))?;
                self.show(Update::TurnEnd {
                    text,
                    thinking: String::new(),
                    more: true,
                })?;
                continue;
            }
            cut_calls = 0;
            let calls: Vec<ToolCall> = reply
                .blocks
                .iter()
                .filter_map(|block| match block {
                    Block::ToolCall(call) => Some(call.clone()),
                    _ => None,
                })
                .collect();
            let thinking = secret::hide(thinking_of(&reply.blocks));
            // What was said while the model wrote the answer waits for the next run: the answer to
            // it would push this one out of the channel.
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
            self.env.stop.check()?;
            self.repeats.check()?;
        }
        Err(Error::Failed(format!(
            "stopped after {TURNS_MAX} model turns without an answer; ask again to go on"
        )))
    }

    fn take_steering(&mut self) -> Result<()> {
        // What was said after a stop is not for the run that it ended.
        self.env.stop.check()?;
        let env = self.env;
        if env.agent.budget.is_used_up() {
            return Ok(());
        }
        for request in &env.conversation.steering() {
            // After a restart it may wait though an earlier try had taken it. Files without
            // text came later than the text.
            let late_files = request.text.is_empty() && !request.files.is_empty();
            if self.context.has_request(&request.ts) && !late_files {
                continue;
            }
            let (content, timestamp_ms) = env.agent.read(request, env.conversation, env.stop)?;
            self.context
                .append_request(&request.ts, content, timestamp_ms)?;
        }
        Ok(())
    }

    fn note_to_model(&mut self, text: &str) -> Result<()> {
        self.context.append(Message::User {
            content: vec![Content::Text(text.to_owned())],
            timestamp_ms: time::now_ms(),
        })
    }

    /// The answer of a run that may ask the model no more: what it said last, and the reason.
    fn cut_short(&mut self) -> Result<Outcome> {
        let sentence = self.env.agent.budget.sentence();
        let of_run = self.context.messages().get(self.start..);
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

    /// One good reply, written down. Retries and the one compaction after an overflow happen
    /// here. `None`: the budget of the day is used up.
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
                    self.keep(&reply)?;
                    return Ok(Some(reply));
                }
                Err(Error::ContextFull(why)) => {
                    if self.overflowed || !settings.compaction {
                        return Err(self.too_large(&why));
                    }
                    self.overflowed = true;
                    self.compact()?;
                }
                Err(Error::Retry { after, why, fault }) => {
                    failures += 1;
                    let Some(pause) = settings.pause(failures, after) else {
                        return Err(Error::given_up(fault, why));
                    };
                    log::warning!(self.context.channel(), "{why}; trying again in {pause:?}");
                    // What streamed in so far will come again.
                    self.show(Update::TurnEnd {
                        text: String::new(),
                        thinking: String::new(),
                        more: true,
                    })?;
                    self.show(Update::Note(format!(
                        "Retrying ({failures}/{})...",
                        settings.retries_max
                    )))?;
                    self.env.stop.wait(pause)?;
                }
                Err(err) => return Err(err),
            }
        }
    }

    /// Compacting does not help; `new` does only when something came before the run.
    fn too_large(&self, why: &str) -> Error {
        let earlier = self
            .start
            .saturating_sub(usize::from(self.context.compaction().is_some()));
        Error::Failed(if earlier > 0 {
            format!(
                "the conversation is larger than the model's window ({why}); say `new` for a \
                 fresh start"
            )
        } else {
            format!(
                "what was asked is larger than the model's window ({why}); send less at once, \
                 or as a file that can be read in parts"
            )
        })
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
            run_start: self.start,
            tools: &self.env.agent.specs,
            output_tokens_max: u32::try_from(output).unwrap_or(u32::MAX),
        };
        let mut pieces = Pieces::default();
        provider.stream(&turn, self.env.stop, &mut |piece| {
            // Fails only for an upload.
            self.show(Update::TextDelta(pieces.push(piece))).ok();
        })
    }

    fn keep(&mut self, reply: &Reply) -> Result<()> {
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

    fn compact_when_full(&mut self) -> Result<()> {
        let model = self.env.agent.provider.model();
        if !compact::is_due(self.context, &model, self.env.settings) {
            return Ok(());
        }
        self.compact()
    }

    /// A compaction that fails leaves everything as it was: the request may still fit.
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
        self.start = self.context.run_start();
        Ok(())
    }

    /// Results are written in call order, each as soon as those before it are. What a call
    /// does must not be done again, so that it was called, and what came of those before it,
    /// is on the disk first: one fdatasync a call.
    fn call_tools(&mut self, calls: &[ToolCall]) -> Result<()> {
        let steps: Vec<ToolStep> = calls.iter().map(|call| self.step(call)).collect();
        for step in &steps {
            self.show(Update::ToolWaiting(step.clone()))?;
        }
        let denied = self.denied(calls);
        if calls.len() > 1 && calls.iter().all(|call| tools::can_run_beside(&call.name)) {
            return self.call_beside(calls, &steps, &denied);
        }
        for ((call, step), denied) in calls.iter().zip(steps).zip(denied) {
            let output = if let Some(output) = not_begun(self.env.stop).or(denied) {
                self.show(Update::ToolEnd(report(step, &output, Duration::ZERO)))?;
                output
            } else {
                if tools::has_effects(&call.name) {
                    self.context.sync_to_disk()?;
                }
                self.show(Update::ToolStart(step.clone()))?;
                let since = Instant::now();
                let upload = &mut |upload| self.show(Update::Upload(upload));
                let output = masked(tools::call(&self.env.tools, call, self.env.stop, upload));
                self.show(Update::ToolEnd(report(step, &output, since.elapsed())))?;
                output
            };
            self.keep_result(call, output)?;
        }
        Ok(())
    }

    /// Asks a person about the calls that need it, all of a turn at once: for each call the
    /// result that takes its place, if it may not run.
    fn denied(&mut self, calls: &[ToolCall]) -> Vec<Option<ToolOutput>> {
        let env = self.env;
        let mode = env.agent.config.approve;
        let asks = |call: &&ToolCall| approval::is_needed(mode, &call.name);
        let question = Question::of(calls.iter().filter(asks));
        if question.calls.is_empty() || self.all_approved || env.stop.is_set() {
            return vec![None; calls.len()];
        }
        let why = match env.conversation.approve(&question, env.stop) {
            Decision::Approved => return vec![None; calls.len()],
            Decision::AllApproved => {
                self.all_approved = true;
                return vec![None; calls.len()];
            }
            Decision::Denied(why) => why,
        };
        log::info!(self.context.channel(), "a call was not approved: {why}");
        let text = format!("Not run: {why}. Go on without it, or ask what to do instead.");
        let output = |call: &ToolCall| asks(&call).then(|| failed(&text));
        calls.iter().map(output).collect()
    }

    fn call_beside(
        &mut self,
        calls: &[ToolCall],
        steps: &[ToolStep],
        denied: &[Option<ToolOutput>],
    ) -> Result<()> {
        if calls.iter().any(|call| tools::has_effects(&call.name)) {
            self.context.sync_to_disk()?;
        }
        let next = AtomicUsize::new(0);
        let (sender, events) = mpsc::channel();
        let (tools, stop) = (&self.env.tools, self.env.stop);
        thread::scope(|scope| {
            for n in 0..calls.len().min(CALLS_BESIDE_MAX) {
                // One call of a run is always at work.
                let place = self.env.agent.call_places.take();
                if n > 0 && place.is_none() {
                    break;
                }
                let (sender, next) = (sender.clone(), &next);
                let work = move || {
                    let _place = place;
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(call) = calls.get(index) else { return };
                        let since = Instant::now();
                        let not_run = not_begun(stop).or_else(|| denied[index].clone());
                        let output = not_run.unwrap_or_else(|| {
                            // The receiver lives as long as this scope, but for an error there.
                            sender.send((index, None)).ok();
                            let refuse = &mut |_| Err(Error::failed("only attach sends files"));
                            tools::call(tools, call, stop, refuse)
                        });
                        sender.send((index, Some((output, since.elapsed())))).ok();
                    }
                };
                let started = thread::Builder::new()
                    .name(format!("tool-{n}"))
                    .spawn_scoped(scope, work);
                if let Err(err) = started {
                    // Those that started take all calls; without any the loop below ends.
                    log::warning!(
                        self.context.channel(),
                        "cannot start a thread for a tool: {err}"
                    );
                }
            }
            drop(sender);
            let mut done: Vec<Option<ToolOutput>> = calls.iter().map(|_| None).collect();
            let mut kept = 0;
            for (index, end) in events {
                let step = steps[index].clone();
                let Some((output, took)) = end else {
                    self.show(Update::ToolStart(step))?;
                    continue;
                };
                let output = masked(output);
                self.show(Update::ToolEnd(report(step, &output, took)))?;
                done[index] = Some(output);
                while let Some(output) = done.get_mut(kept).and_then(Option::take) {
                    self.keep_result(&calls[kept], output)?;
                    kept += 1;
                }
            }
            Ok(())
        })
    }

    fn keep_result(&mut self, call: &ToolCall, mut output: ToolOutput) -> Result<()> {
        self.repeats.count(call, &mut output);
        self.context.append(Message::ToolResult(ToolResult {
            call_id: call.id.clone(),
            name: call.name.clone(),
            content: output.content,
            is_error: output.is_error,
            timestamp_ms: time::now_ms(),
        }))
    }

    fn step(&mut self, call: &ToolCall) -> ToolStep {
        self.steps += 1;
        ToolStep {
            number: self.steps,
            name: call.name.clone(),
            label: secret::hide(tools::label(call)),
            arguments: secret::hide(tools::arguments_text(call)),
        }
    }
}

fn report(step: ToolStep, output: &ToolOutput, duration: Duration) -> ToolReport {
    let texts = output.content.iter().map(|content| match content {
        Content::Text(text) => text.as_str(),
        Content::Image(_) => "(image)",
    });
    ToolReport {
        step,
        result: texts.collect::<Vec<_>>().join("\n"),
        diff: output.diff.clone(),
        is_error: output.is_error,
        duration,
    }
}

/// mom's own keys don't go to the model, the file or Slack, wherever a tool found them.
fn masked(mut output: ToolOutput) -> ToolOutput {
    for content in &mut output.content {
        if let Content::Text(text) = content {
            *text = secret::hide(std::mem::take(text));
        }
    }
    output.diff = output.diff.map(secret::hide);
    output
}

/// The result of a call that a stop came before.
fn not_begun(stop: &Stop) -> Option<ToolOutput> {
    Some(failed(match stop.cause()? {
        Cause::Asked => "Not run: the user stopped the work.",
        Cause::Restart => "Not run: mom was restarted before the call began.",
    }))
}

fn failed(text: &str) -> ToolOutput {
    ToolOutput {
        content: vec![Content::Text(text.to_owned())],
        is_error: true,
        diff: None,
    }
}

fn text_of(blocks: &[Block]) -> String {
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

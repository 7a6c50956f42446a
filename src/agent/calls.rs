//! The tool calls of one model turn: who approves them, in what order they run, and what is
//! kept and shown of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::approval::{self, Decision, Question};
use crate::agent::run::{RunLoop, ToolReport, ToolStep, Update};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::secret;
use crate::base::stop::{Cause, Stop};
use crate::base::time;
use crate::llm::{Content, Message, ToolCall, ToolResult};
use crate::tools::{self, ToolContext, ToolOutput};

/// bash and read calls of one turn that run side by side.
const CALLS_BESIDE_MAX: usize = 8;

impl RunLoop<'_> {
    /// Results are written in call order, each as soon as those before it are. What a call
    /// does must not be done again, so that it was called, and what came of those before it,
    /// is on the disk first: one fdatasync a call.
    pub(super) fn call_tools(&mut self, calls: &[ToolCall]) -> Result<()> {
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
        let env = self.env;
        let beside = CallsBeside {
            calls,
            denied,
            next: AtomicUsize::new(0),
            tools: &env.tools,
            stop: env.stop,
        };
        let (sender, news) = mpsc::channel();
        thread::scope(|scope| {
            for n in 0..calls.len().min(CALLS_BESIDE_MAX) {
                // One call of a run is always at work.
                let place = env.agent.call_places.take();
                if n > 0 && place.is_none() {
                    break;
                }
                let (sender, beside) = (sender.clone(), &beside);
                let work = move || {
                    let _place = place;
                    beside.work(&sender);
                };
                let worker = thread::Builder::new().name(format!("tool-{n}"));
                if let Err(err) = worker.spawn_scoped(scope, work) {
                    // Those that started take all calls; without any the loop below ends.
                    let channel = self.context.channel();
                    log::warning!(channel, "cannot start a thread for a tool: {err}");
                }
            }
            drop(sender);
            self.keep_in_order(calls, steps, news)
        })
    }

    /// Shows what the threads tell, and keeps each result as soon as those before it are kept.
    fn keep_in_order(
        &mut self,
        calls: &[ToolCall],
        steps: &[ToolStep],
        news: Receiver<CallNews>,
    ) -> Result<()> {
        let mut done = vec![None; calls.len()];
        let mut kept = 0;
        for (index, end) in news {
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

/// Calls that run side by side. Threads take them in their order.
struct CallsBeside<'a> {
    calls: &'a [ToolCall],
    denied: &'a [Option<ToolOutput>],
    /// Index of the call that nobody has taken yet.
    next: AtomicUsize,
    tools: &'a ToolContext<'a>,
    stop: &'a Stop,
}

/// The index of a call; with its end, or without one when it begins.
type CallNews = (usize, Option<(ToolOutput, Duration)>);

impl CallsBeside<'_> {
    /// One thread's part of the calls.
    fn work(&self, sender: &Sender<CallNews>) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(call) = self.calls.get(index) else {
                return;
            };
            let since = Instant::now();
            let not_run = not_begun(self.stop).or_else(|| self.denied[index].clone());
            let output = not_run.unwrap_or_else(|| {
                // The receiver lives as long as the threads, but for an error there.
                sender.send((index, None)).ok();
                let refuse = &mut |_| Err(Error::failed("only attach sends files"));
                tools::call(self.tools, call, self.stop, refuse)
            });
            sender.send((index, Some((output, since.elapsed())))).ok();
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

//! The tool calls of one model turn: who approves them, in what order they run, and what of
//! them goes to the context and to the people.

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

/// bash and read calls of one turn that run in parallel.
const PARALLEL_CALLS_MAX: usize = 8;

impl RunLoop<'_> {
    /// Runs the calls. Results are written in call order, each as soon as those before it are
    /// written. After a crash a call with effects must not run again, so the context with the
    /// call and all earlier results is synced to disk before it runs: one fdatasync per call.
    pub(super) fn call_tools(&mut self, calls: &[ToolCall]) -> Result<()> {
        let steps: Vec<ToolStep> = calls.iter().map(|call| self.step(call)).collect();
        for step in &steps {
            self.show(Update::ToolWaiting(step.clone()))?;
        }
        let denied = self.denied(calls);
        if calls.len() > 1 && calls.iter().all(|call| tools::is_parallel(&call.name)) {
            return self.call_in_parallel(calls, &steps, &denied);
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
            self.append_result(call, output)?;
        }
        Ok(())
    }

    /// Asks a person about the calls that need approval, all calls of a turn at once. Returns for
    /// each call the error result to use instead of running it, or `None` if it may run.
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

    fn call_in_parallel(
        &mut self,
        calls: &[ToolCall],
        steps: &[ToolStep],
        denied: &[Option<ToolOutput>],
    ) -> Result<()> {
        if calls.iter().any(|call| tools::has_effects(&call.name)) {
            self.context.sync_to_disk()?;
        }
        let env = self.env;
        let parallel = ParallelCalls {
            calls,
            denied,
            next: AtomicUsize::new(0),
            tools: &env.tools,
            stop: env.stop,
        };
        let (sender, news) = mpsc::channel();
        thread::scope(|scope| {
            for n in 0..calls.len().min(PARALLEL_CALLS_MAX) {
                // The first thread starts even without a free place: each run must make progress.
                let place = env.agent.call_places.take();
                if n > 0 && place.is_none() {
                    break;
                }
                let (sender, parallel) = (sender.clone(), &parallel);
                let work = move || {
                    let _place = place;
                    parallel.work(&sender);
                };
                let worker = thread::Builder::new().name(format!("tool-{n}"));
                if let Err(err) = worker.spawn_scoped(scope, work) {
                    // The threads that did start run all calls; without any the loop below ends.
                    let channel = self.context.channel();
                    log::warning!(channel, "cannot start a thread for a tool: {err}");
                }
            }
            drop(sender);
            self.append_in_order(calls, steps, news)
        })
    }

    /// Shows what the threads report, and appends the results to the context in call order.
    fn append_in_order(
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
                self.append_result(&calls[kept], output)?;
                kept += 1;
            }
        }
        Ok(())
    }

    fn append_result(&mut self, call: &ToolCall, mut output: ToolOutput) -> Result<()> {
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

/// Calls that run in parallel. The threads start them in call order.
struct ParallelCalls<'a> {
    calls: &'a [ToolCall],
    denied: &'a [Option<ToolOutput>],
    /// Index of the next call that no thread has started.
    next: AtomicUsize,
    tools: &'a ToolContext<'a>,
    stop: &'a Stop,
}

/// The index of a call, and its output and duration when it has ended; `None` when it begins.
type CallNews = (usize, Option<(ToolOutput, Duration)>);

impl ParallelCalls<'_> {
    /// The work of one thread: runs calls until none is left.
    fn work(&self, sender: &Sender<CallNews>) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(call) = self.calls.get(index) else {
                return;
            };
            let since = Instant::now();
            let not_run = not_begun(self.stop).or_else(|| self.denied[index].clone());
            // Sending fails only after the receiving thread has ended early with an error.
            let output = not_run.unwrap_or_else(|| {
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

/// The output with mom's own keys masked: they must not go to the model, the file or Slack.
fn masked(mut output: ToolOutput) -> ToolOutput {
    for content in &mut output.content {
        if let Content::Text(text) = content {
            *text = secret::hide(std::mem::take(text));
        }
    }
    output.diff = output.diff.map(secret::hide);
    output
}

/// The result of a call that did not begin because the run was stopped before; else `None`.
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

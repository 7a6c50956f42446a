//! The queue of tasks: within a channel one task after another, channels in parallel, at most
//! `RUNS_MAX` tasks at once and the rest in order of arrival. The number of waiting tasks is
//! bounded, and they are in memory only: the ledger has the requests that are not answered.

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::run::Job;
use crate::base::log;
use crate::base::stop::{Cause, Stop};
use crate::store::ledger::LedgerRequest;

/// Tasks at the same time, over all channels: threads, sockets and memory stay bounded.
const RUNS_MAX: usize = 32;
/// Events that may wait in a channel.
const EVENTS_WAITING_MAX: usize = 5;
/// People's messages that may wait in a channel; further ones stay in log.jsonl only.
const REQUESTS_WAITING_MAX: usize = 500;

/// What a channel's worker does next.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    Run(Job),
    /// The `new` command, in its place among the messages.
    NewConversation(CommandRequest),
}

/// A command that mom carries out without a model, and where it was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommandRequest {
    pub(crate) channel: String,
    pub(crate) thread_ts: Option<String>,
    pub(crate) ts: String,
    pub(crate) user: String,
    /// Found at mom's start without an answer in the log; an answer may be in Slack all the same.
    pub(crate) resumed: bool,
}

impl Task {
    pub(crate) fn channel(&self) -> &str {
        match self {
            Task::Run(job) => &job.channel,
            Task::NewConversation(command) => &command.channel,
        }
    }

    fn is_event(&self) -> bool {
        matches!(self, Task::Run(Job { event: Some(_), .. }))
    }

    /// The requests of the task: people's messages, or the one of an event.
    fn requests(&self) -> &[LedgerRequest] {
        match self {
            Task::Run(job) => &job.requests,
            Task::NewConversation(_) => &[],
        }
    }
}

/// A task that is being worked on.
pub(crate) struct Running {
    pub(crate) task: Task,
    pub(crate) stop: Stop,
    pub(crate) since: Instant,
    stopped: Mutex<StoppedRun>,
    answers: AtomicBool,
}

#[derive(Default)]
struct StoppedRun {
    /// User id of whoever stopped it first.
    by: Option<String>,
    /// The ts of messages that waited for this run's next turn when it was stopped.
    dropped: Vec<String>,
    on_stop: Option<Box<OnStop>>,
}

/// Called with the user id of whoever stops the run, before the run stops.
type OnStop = dyn Fn(&str) + Send;

impl Running {
    fn new(task: Task) -> Running {
        let running = Running {
            task,
            stop: Stop::new(),
            since: Instant::now(),
            stopped: Mutex::default(),
            answers: AtomicBool::default(),
        };
        if let Task::Run(Job {
            stopped_by: Some(by),
            ..
        }) = &running.task
        {
            running.stop_by(by, Vec::new());
        }
        running
    }

    /// The ts of its first request, which identifies the run; "" for a task that is no run.
    pub(crate) fn run_ts(&self) -> &str {
        match &self.task {
            Task::Run(job) => job.run_ts(),
            Task::NewConversation(_) => "",
        }
    }

    /// The answer of the run is being posted.
    pub(crate) fn answers(&self) {
        self.answers.store(true, Ordering::Relaxed);
    }

    /// It is a run that lives in this thread, and its answer is being posted.
    pub(crate) fn answers_in(&self, root: &str) -> bool {
        let is_there =
            matches!(&self.task, Task::Run(job) if job.thread_ts.as_deref() == Some(root));
        is_there && self.answers.load(Ordering::Relaxed)
    }

    /// Sets what is called when the run is stopped; called at once if it was stopped already.
    pub(crate) fn on_stop(&self, on_stop: impl Fn(&str) + Send + 'static) {
        let mut stopped = self.stopped.lock().unwrap();
        if let Some(by) = &stopped.by {
            on_stop(by);
        }
        stopped.on_stop = Some(Box::new(on_stop));
    }

    /// User id of whoever stopped it.
    pub(crate) fn stopped_by(&self) -> Option<String> {
        self.stopped.lock().unwrap().by.clone()
    }

    /// Takes the ts of the messages that a stop dropped.
    pub(crate) fn take_dropped(&self) -> Vec<String> {
        std::mem::take(&mut self.stopped.lock().unwrap().dropped)
    }

    fn stop_by(&self, user: &str, dropped: Vec<LedgerRequest>) {
        let mut stopped = self.stopped.lock().unwrap();
        let dropped = dropped.into_iter().filter(|request| !request.is_addition);
        stopped.dropped.extend(dropped.map(|request| request.ts));
        if stopped.by.is_none() {
            stopped.by = Some(user.to_owned());
            if let Some(on_stop) = &stopped.on_stop {
                on_stop(user);
            }
        }
        self.stop.set(Cause::Asked);
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    /// The task starts at once (or as soon as one of the `RUNS_MAX` places is free).
    Next,
    /// Another task of this channel comes first.
    Waits,
    /// Too many tasks wait already; nothing was queued.
    Refused,
}

type Work = dyn Fn(&Arc<Running>) + Send + Sync;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Queue(Arc<QueueInner>);

#[derive(Default)]
struct QueueInner {
    state: Mutex<QueueState>,
    /// Wakes `shutdown`.
    idle: Condvar,
    work: OnceLock<Box<Work>>,
}

#[derive(Default)]
struct QueueState {
    lanes: HashMap<String, Lane>,
    /// Channels with tasks that wait for one of the `RUNS_MAX` places.
    ready: VecDeque<String>,
    workers: usize,
    closed: bool,
}

/// The tasks of one channel.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Task>,
    running: Option<Arc<Running>>,
}

impl Queue {
    /// Called once, before the first `submit`. `work` is called on a worker thread for each
    /// task, never for two of one channel at once.
    pub(crate) fn start(&self, work: impl Fn(&Arc<Running>) + Send + Sync + 'static) {
        let first = self.0.work.set(Box::new(work));
        assert!(first.is_ok(), "a queue is started once");
    }

    pub(crate) fn submit(&self, task: Task) -> Submitted {
        let mut state = self.0.state.lock().unwrap();
        if state.closed {
            return Submitted::Refused;
        }
        let channel = task.channel().to_owned();
        let lane = state.lanes.entry(channel.clone()).or_default();
        let busy = lane.running.is_some() || !lane.waiting.is_empty();
        if !lane.push(task) {
            return Submitted::Refused;
        }
        if busy {
            return Submitted::Waits;
        }
        state.ready.push_back(channel);
        if state.workers < RUNS_MAX {
            self.start_worker(&mut state);
        }
        Submitted::Next
    }

    /// Removes and returns the messages for `channel` and `thread_ts` that were submitted since
    /// the run began, oldest first: they belong to that run from now on.
    pub(crate) fn take_steering(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
    ) -> Vec<LedgerRequest> {
        self.with(channel, |lane| steering(&mut lane.waiting, thread_ts))
    }

    /// Stops the task that runs in the channel, if its ts is `run`; "" stops any task. `by` is a
    /// user id. People's messages that waited for this run's next turn are dropped with it (they
    /// stay in the log and so in the conversation). Events, `new` and messages of other threads
    /// stay. Returns whether there was a task to stop.
    pub(crate) fn stop(&self, channel: &str, run: &str, by: &str) -> bool {
        self.with(channel, |lane| {
            let running = lane.running.as_ref();
            let Some(running) = running.filter(|on| run.is_empty() || on.run_ts() == run) else {
                return false;
            };
            let dropped = match &running.task {
                Task::Run(job) => steering(&mut lane.waiting, job.thread_ts.as_deref()),
                Task::NewConversation(_) => Vec::new(),
            };
            running.stop_by(by, dropped);
            true
        })
    }

    pub(crate) fn running(&self, channel: &str) -> Option<Arc<Running>> {
        self.with(channel, |lane| lane.running.clone())
    }

    /// Whether a task is running in any channel.
    pub(crate) fn is_working(&self) -> bool {
        let state = self.0.state.lock().unwrap();
        state.lanes.values().any(|lane| lane.running.is_some())
    }

    /// How many tasks wait in the channel behind the running one.
    pub(crate) fn waiting(&self, channel: &str) -> usize {
        self.with(channel, |lane| lane.waiting.len())
    }

    /// Whether the message (ts) waits for a run of its own or for the next turn of the running one.
    pub(crate) fn waits(&self, channel: &str, ts: &str) -> bool {
        self.with(channel, |lane| {
            let mut requests = lane.waiting.iter().flat_map(Task::requests);
            requests.any(|request| request.ts == ts)
        })
    }

    /// Changes a waiting message that was edited (`Some`) or deleted (`None`) in Slack.
    pub(crate) fn amend(&self, channel: &str, ts: &str, text: Option<&str>) {
        self.with(channel, |lane| {
            lane.waiting.retain_mut(|task| {
                let Task::Run(job @ Job { event: None, .. }) = task else {
                    return true;
                };
                let amended = job.requests.iter_mut().filter(|request| request.ts == ts);
                match text {
                    Some(text) => amended.for_each(|request| text.clone_into(&mut request.text)),
                    None => job.requests.retain(|request| request.ts != ts),
                }
                !job.requests.is_empty()
            });
        });
    }

    /// Stops everything and waits at most `patience` for the workers to end.
    pub(crate) fn shutdown(&self, patience: Duration) {
        let mut state = self.0.state.lock().unwrap();
        state.closed = true;
        state.ready.clear();
        for lane in state.lanes.values_mut() {
            lane.waiting.clear();
            if let Some(running) = &lane.running {
                running.stop.set(Cause::Restart);
            }
        }
        let is_busy = |state: &mut QueueState| state.workers > 0;
        let waited = self.0.idle.wait_timeout_while(state, patience, is_busy);
        let (state, _) = waited.unwrap();
        if state.workers > 0 {
            log::warning!("", "{} runs did not end in time", state.workers);
        }
    }

    fn with<T: Default>(&self, channel: &str, look: impl FnOnce(&mut Lane) -> T) -> T {
        let mut state = self.0.state.lock().unwrap();
        state.lanes.get_mut(channel).map_or_else(T::default, look)
    }

    fn start_worker(&self, state: &mut QueueState) {
        let queue = self.clone();
        // No thread joins it: `workers` counts the workers that have not ended.
        let worker = thread::Builder::new().name("run".to_owned());
        match worker.spawn(move || queue.work()) {
            Ok(_) => state.workers += 1,
            // The channel stays in `ready`: the next worker that ends its task takes it.
            Err(err) => log::error!("", "cannot start a thread for a run: {err}"),
        }
    }

    /// A worker thread: works on ready channels until there is none, then ends.
    fn work(&self) {
        let work = self.0.work.get().expect("started before the first submit");
        let mut state = self.0.state.lock().unwrap();
        while let Some(channel) = state.ready.pop_front() {
            let lane = state.lanes.entry(channel.clone()).or_default();
            // It is in `ready` twice if its waiting message was deleted and a new one came.
            if lane.running.is_some() {
                continue;
            }
            let Some(task) = lane.waiting.pop_front() else {
                continue;
            };
            let running = Arc::new(Running::new(task));
            lane.running = Some(running.clone());
            drop(state);
            work(&running);
            return_memory();
            state = self.0.state.lock().unwrap();
            let lane = state.lanes.entry(channel.clone()).or_default();
            lane.running = None;
            if lane.waiting.is_empty() {
                state.lanes.remove(&channel);
            } else {
                // At the end of the list, so that every channel gets its turn.
                state.ready.push_back(channel);
            }
        }
        state.workers -= 1;
        self.0.idle.notify_all();
    }
}

/// Lets glibc return what a task has freed, a whole conversation perhaps: it does so only when a
/// block is freed that is 64 KB together with the free memory around it. Each of these is smaller
/// than the `mmap_threshold` in mom.service, above which a block has memory of its own.
fn return_memory() {
    let blocks = [0; 4].map(|_| Vec::<u8>::with_capacity(30_000));
    drop(black_box(blocks));
}

/// Removes and returns the waiting messages for the run in `thread_ts`.
fn steering(waiting: &mut VecDeque<Task>, thread_ts: Option<&str>) -> Vec<LedgerRequest> {
    let mut taken = Vec::new();
    let mut after_new = false;
    waiting.retain_mut(|task| {
        let Task::Run(job) = task else {
            // Messages after `new` belong to the new conversation.
            after_new = true;
            return true;
        };
        let is_of_people = job.event.is_none() && job.stopped_by.is_none();
        let is_taken = is_of_people && !after_new && job.thread_ts.as_deref() == thread_ts;
        if is_taken {
            taken.append(&mut job.requests);
        }
        !is_taken
    });
    taken
}

impl Lane {
    /// Adds the task; false when too much waits already.
    fn push(&mut self, task: Task) -> bool {
        if task.is_event() {
            // When nothing runs, the first task is about to start and does not count as waiting.
            let next = usize::from(self.running.is_none());
            let waiting = self.waiting.iter().skip(next);
            let events = waiting.filter(|task| task.is_event()).count();
            if events >= EVENTS_WAITING_MAX {
                return false;
            }
        } else {
            let requests = self.waiting.iter().map(|task| task.requests().len().max(1));
            if requests.sum::<usize>() >= REQUESTS_WAITING_MAX {
                return false;
            }
            // Messages in a row in the same place are answered together, by one run.
            if let (Task::Run(job), Some(Task::Run(last))) = (&task, self.waiting.back_mut()) {
                if last.place() == job.place() {
                    last.requests.extend(job.requests.iter().cloned());
                    last.resumed |= job.resumed;
                    return true;
                }
            }
        }
        self.waiting.push_back(task);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn job(channel: &str, thread: Option<&str>, ts: &str, event: Option<&str>) -> Task {
        Task::Run(Job {
            channel: channel.to_owned(),
            requests: vec![LedgerRequest {
                ts: ts.to_owned(),
                text: ts.to_owned(),
                ..LedgerRequest::default()
            }],
            thread_ts: thread.map(str::to_owned),
            event: event.map(str::to_owned),
            resumed: false,
            stopped_by: None,
        })
    }

    fn new_conversation() -> Task {
        Task::NewConversation(CommandRequest {
            channel: "C1".to_owned(),
            ..CommandRequest::default()
        })
    }

    /// A queue whose tasks report their start, and end when the test sends `()`.
    fn gated() -> (Queue, mpsc::Receiver<String>, mpsc::Sender<()>) {
        let (started, starts) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        let gate = Mutex::new(gate);
        let queue = Queue::default();
        queue.start(move |running| {
            let tss = running.task.requests().iter().map(|request| &*request.ts);
            let text = match &running.task {
                Task::Run(_) => tss.collect::<Vec<_>>().join("+"),
                Task::NewConversation(_) => "new".to_owned(),
            };
            started
                .send(format!("{}:{text}", running.task.channel()))
                .unwrap();
            gate.lock().unwrap().recv().ok();
        });
        (queue, starts, go)
    }

    #[test]
    fn order_merging_steering_and_bounds() {
        let (queue, starts, go) = gated();
        let submit = |thread, ts: &str, event| queue.submit(job("C1", thread, ts, event));
        assert_eq!(submit(None, "1", None), Submitted::Next);
        assert_eq!(starts.recv().unwrap(), "C1:1");
        for (thread, ts) in [(None, "2"), (None, "3"), (Some("t"), "4")] {
            assert_eq!(submit(thread, ts, None), Submitted::Waits);
        }
        for n in 0..EVENTS_WAITING_MAX {
            let submitted = submit(None, &n.to_string(), Some("e"));
            assert_eq!(submitted, Submitted::Waits);
        }
        assert_eq!(submit(None, "x", Some("e")), Submitted::Refused);
        queue.amend("C1", "2", Some("edited"));
        queue.amend("C1", "4", None);
        let steering = queue.take_steering("C1", None);
        let texts: Vec<_> = steering.iter().map(|request| &*request.text).collect();
        assert_eq!(texts, ["edited", "3"]);
        assert_eq!(queue.waiting("C1"), EVENTS_WAITING_MAX);
        queue.submit(new_conversation());
        submit(None, "5", None);
        let steering = queue.take_steering("C1", None);
        assert!(steering.is_empty(), "said after `new`");
        assert!(!queue.stop("C1", "0", "U1"), "another run's button");
        submit(Some("t"), "6", None);
        let running = queue.running("C1").unwrap();
        assert!(queue.stop("C1", "1", "U1"));
        assert_eq!(running.stop.cause(), Some(Cause::Asked));
        assert_eq!(running.take_dropped(), [""; 0]);
        for _ in 0..EVENTS_WAITING_MAX + 4 {
            go.send(()).unwrap();
        }
        let events = (0..EVENTS_WAITING_MAX).map(|n| n.to_string());
        for rest in events.chain(["new", "5", "6"].map(str::to_owned)) {
            assert_eq!(starts.recv().unwrap(), format!("C1:{rest}"));
        }
        drop(go);
        queue.shutdown(Duration::from_secs(30));
        assert_eq!(submit(None, "1", None), Submitted::Refused);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut lane = Lane::default();
        for _ in 0..REQUESTS_WAITING_MAX / 2 {
            assert!(lane.push(new_conversation()) && lane.push(job("C1", None, "1", None)));
        }
        assert!(!lane.push(new_conversation()) && !lane.push(job("C1", None, "1", None)));
        // The first is about to start and does not count as waiting.
        let mut lane = Lane::default();
        for n in 0..=EVENTS_WAITING_MAX {
            assert!(lane.push(job("C1", None, &n.to_string(), Some("e"))), "{n}");
        }
        assert!(!lane.push(job("C1", None, "x", Some("e"))));
    }

    /// A run that was stopped before a restart does not drop the requests of others.
    #[test]
    fn the_stopped_and_those_who_ask_anew_are_kept_apart() {
        let mut lane = Lane::default();
        for (ts, stopped_by) in [("1", Some("U1")), ("2", Some("U1")), ("3", None)] {
            let mut task = job("C1", None, ts, None);
            if let Task::Run(job) = &mut task {
                job.stopped_by = stopped_by.map(str::to_owned);
            }
            assert!(lane.push(task));
        }
        let taken = steering(&mut lane.waiting, None);
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert_eq!((&*taken[0].ts, lane.waiting.len()), ("3", 1));
    }

    #[test]
    fn at_most_so_many_at_once_and_none_forgotten() {
        let (queue, starts, go) = gated();
        for n in 0..RUNS_MAX + 10 {
            let submitted = queue.submit(job(&format!("C{n}"), None, "1", None));
            assert_eq!(submitted, Submitted::Next);
        }
        let mut seen: Vec<_> = (0..RUNS_MAX).map(|_| starts.recv().unwrap()).collect();
        assert_eq!(queue.0.state.lock().unwrap().workers, RUNS_MAX);
        assert!(starts.try_recv().is_err());
        // What waits for a place and is deleted does not run, and what comes then runs once.
        let (last, ts) = (format!("C{}", RUNS_MAX + 9), "1");
        queue.amend(&last, ts, None);
        for ts in ["2", "3"] {
            queue.submit(job(&last, Some(ts), ts, None));
        }
        drop(go);
        seen.extend((0..11).map(|_| starts.recv().unwrap()));
        assert!(!seen.contains(&format!("{last}:1")), "{seen:?}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), RUNS_MAX + 11);
        queue.shutdown(Duration::from_secs(30));
    }
}

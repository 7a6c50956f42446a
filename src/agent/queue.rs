//! Who works when: within a channel one thing after another, channels side by side, at most
//! `RUNS_MAX` at once and the rest in order of arrival. What waits is bounded, and lost only
//! in memory: the files know what was asked and not answered.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent::run::{Asked, Job};
use crate::base::log;
use crate::base::stop::{Cause, Stop};

/// Runs at the same time, over all channels: threads, sockets and memory stay bounded.
pub(crate) const RUNS_MAX: usize = 32;
/// Events that may wait in a channel (PRODUCT.md, section 4).
pub(crate) const EVENTS_WAITING_MAX: usize = 5;
/// People's messages that may wait in a channel; what comes on top stays in log.jsonl.
const ASKED_WAITING_MAX: usize = 500;

/// What a lane does next.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    Run(Job),
    /// The `new` command: a fresh context, in its place among the messages.
    Fresh(Order),
}

/// A command that mom obeys herself, and where it was said.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) channel: String,
    pub(crate) thread_ts: Option<String>,
    pub(crate) ts: String,
    /// Found after a start as not yet obeyed: its answer may stand all the same.
    pub(crate) again: bool,
}

impl Task {
    pub(crate) fn channel(&self) -> &str {
        match self {
            Task::Run(job) => &job.channel,
            Task::Fresh(order) => &order.channel,
        }
    }

    fn is_event(&self) -> bool {
        matches!(self, Task::Run(Job { event: Some(_), .. }))
    }
}

/// A task that is being worked on.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) task: Task,
    pub(crate) stop: Stop,
    pub(crate) since: Instant,
    /// Messages that promise an end (`_Stopping..._`), told when it has come.
    ending: Mutex<Ending>,
    /// Messages that waited to be said to this run when it was stopped.
    dropped: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Ending {
    over: bool,
    promised: Vec<Promise>,
}

/// A posted `_Stopping..._` that becomes `_Stopped_`.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) channel: String,
    pub(crate) ts: String,
}

impl Running {
    /// Hands the promise back when the task has ended already.
    pub(crate) fn promise(&self, promise: Promise) -> Option<Promise> {
        let mut ending = self.ending.lock().unwrap();
        if ending.over {
            return Some(promise);
        }
        ending.promised.push(promise);
        None
    }

    /// Its name in Slack: the ts of what it was asked first. "" for what is no run.
    pub(crate) fn run(&self) -> &str {
        match &self.task {
            Task::Run(job) => job.asked.first().map_or("", |asked| asked.ts.as_str()),
            Task::Fresh(_) => "",
        }
    }

    /// The ts of what a stop took along.
    pub(crate) fn dropped(&self) -> Vec<String> {
        std::mem::take(&mut self.dropped.lock().unwrap())
    }

    /// Called once by whoever worked on the task; what it returns is to be kept now.
    pub(crate) fn over(&self) -> Vec<Promise> {
        let mut ending = self.ending.lock().unwrap();
        ending.over = true;
        std::mem::take(&mut ending.promised)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    /// It starts at once (or as soon as one of the `RUNS_MAX` places is free).
    Next,
    /// Something else of this channel comes first.
    Waits,
    /// Too much waits already; nothing was queued.
    Refused,
}

type Work = dyn Fn(&Arc<Running>, &Queue) + Send + Sync;

#[derive(Clone)]
pub(crate) struct Queue(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Wakes `shutdown`.
    idle: Condvar,
    work: Box<Work>,
}

#[derive(Default)]
struct State {
    lanes: HashMap<String, Lane>,
    /// Channels with work that wait for one of the places.
    ready: VecDeque<String>,
    workers: usize,
    /// Number of the next worker, for its name.
    started: u64,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Task>,
    running: Option<Arc<Running>>,
}

impl Queue {
    /// `work` is called on a worker thread for each task, never twice at once for a channel.
    pub(crate) fn new(work: impl Fn(&Arc<Running>, &Queue) + Send + Sync + 'static) -> Queue {
        Queue(Arc::new(Inner {
            state: Mutex::default(),
            idle: Condvar::new(),
            work: Box::new(work),
        }))
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
            self.hire(&mut state);
        }
        Submitted::Next
    }

    /// Messages for `channel` and `thread_ts` that came since the run began, oldest first:
    /// they are the run's now.
    pub(crate) fn take_steering(&self, channel: &str, thread_ts: Option<&str>) -> Vec<Asked> {
        let mut state = self.0.state.lock().unwrap();
        let lane = state.lanes.get_mut(channel);
        lane.map_or(Vec::new(), |lane| steering(&mut lane.waiting, thread_ts))
    }

    /// Stops what runs in the channel, if it is `run`; "": whatever it is. People's messages
    /// that waited for this run's next turn are dropped with it (they stay in the log and so
    /// in the conversation). Events, `new` and what belongs to other threads stay.
    pub(crate) fn stop(&self, channel: &str, run: &str) -> Option<Arc<Running>> {
        let mut state = self.0.state.lock().unwrap();
        let lane = state.lanes.get_mut(channel)?;
        let running = lane.running.clone()?;
        if !run.is_empty() && running.run() != run {
            return None;
        }
        let mut dropped = running.dropped.lock().unwrap();
        if let Task::Run(Job { thread_ts, .. }) = &running.task {
            let steering = steering(&mut lane.waiting, thread_ts.as_deref());
            dropped.extend(steering.into_iter().map(|asked| asked.ts));
        }
        drop(dropped);
        running.stop.set(Cause::Asked);
        Some(running)
    }

    pub(crate) fn running(&self, channel: &str) -> Option<Arc<Running>> {
        self.0
            .state
            .lock()
            .unwrap()
            .lanes
            .get(channel)?
            .running
            .clone()
    }

    /// How many tasks wait in the channel behind the running one.
    pub(crate) fn waiting(&self, channel: &str) -> usize {
        self.0
            .state
            .lock()
            .unwrap()
            .lanes
            .get(channel)
            .map_or(0, |lane| lane.waiting.len())
    }

    /// The message (ts) waits for a run, or for the running one to take it.
    pub(crate) fn waits(&self, channel: &str, ts: &str) -> bool {
        let state = self.0.state.lock().unwrap();
        let mut tasks = state
            .lanes
            .get(channel)
            .into_iter()
            .flat_map(|lane| &lane.waiting);
        tasks.any(|task| match task {
            Task::Run(job) => job.asked.iter().any(|asked| asked.ts == ts),
            Task::Fresh(_) => false,
        })
    }

    /// A waiting message was edited (`Some`) or deleted (`None`); false when it does not
    /// wait any more.
    pub(crate) fn amend(&self, channel: &str, ts: &str, text: Option<&str>) -> bool {
        let mut state = self.0.state.lock().unwrap();
        let Some(lane) = state.lanes.get_mut(channel) else {
            return false;
        };
        let mut found = false;
        lane.waiting.retain_mut(|task| {
            let Task::Run(job) = task else { return true };
            if job.event.is_some() {
                return true;
            }
            job.asked.retain_mut(|asked| {
                if asked.ts != ts {
                    return true;
                }
                found = true;
                match text {
                    Some(text) => text.clone_into(&mut asked.text),
                    None => return false,
                }
                true
            });
            !job.asked.is_empty()
        });
        found
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
        let (mut state, _) = self
            .0
            .idle
            .wait_timeout_while(state, patience, |state| state.workers > 0)
            .unwrap();
        if state.workers > 0 {
            log::warning!("", "{} runs did not end in time", state.workers);
            return;
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        for thread in threads {
            // A panic of a worker was printed when it happened.
            thread.join().ok();
        }
    }

    fn hire(&self, state: &mut State) {
        state.threads.retain(|thread| !thread.is_finished());
        let queue = self.clone();
        let name = format!("run-{}", state.started);
        state.started += 1;
        match thread::Builder::new()
            .name(name)
            .spawn(move || queue.work())
        {
            Ok(thread) => {
                state.workers += 1;
                state.threads.push(thread);
            }
            // The lane stays ready: the next worker that ends its task takes it.
            Err(err) => log::error!("", "cannot start a thread for a run: {err}"),
        }
    }

    /// A worker: takes what is ready until nothing is, then ends.
    fn work(&self) {
        let mut state = self.0.state.lock().unwrap();
        while let Some(channel) = state.ready.pop_front() {
            let Some(lane) = state.lanes.get_mut(&channel) else {
                continue;
            };
            let Some(task) = lane.waiting.pop_front() else {
                continue;
            };
            let stop = Stop::new();
            if matches!(&task, Task::Run(job) if job.stopped) {
                stop.set(Cause::Asked);
            }
            let running = Arc::new(Running {
                task,
                stop,
                since: Instant::now(),
                ending: Mutex::default(),
                dropped: Mutex::default(),
            });
            lane.running = Some(running.clone());
            drop(state);
            (self.0.work)(&running, self);
            state = self.0.state.lock().unwrap();
            let Some(lane) = state.lanes.get_mut(&channel) else {
                continue;
            };
            lane.running = None;
            if lane.waiting.is_empty() {
                state.lanes.remove(&channel);
            } else {
                // Behind the others that wait for a place: no channel starves.
                state.ready.push_back(channel);
            }
        }
        state.workers -= 1;
        self.0.idle.notify_all();
    }
}

/// Takes what is meant for the run in `thread_ts` out of what waits.
fn steering(waiting: &mut VecDeque<Task>, thread_ts: Option<&str>) -> Vec<Asked> {
    let mut taken = Vec::new();
    let mut fresh = false;
    waiting.retain_mut(|task| match task {
        // What was said after `new` belongs to the fresh context.
        Task::Fresh(_) => {
            fresh = true;
            true
        }
        Task::Run(job)
            if !fresh
                && !job.stopped
                && job.event.is_none()
                && job.thread_ts.as_deref() == thread_ts =>
        {
            taken.append(&mut job.asked);
            false
        }
        Task::Run(_) => true,
    });
    taken
}

impl Lane {
    fn push(&mut self, task: Task) -> bool {
        if task.is_event() {
            // With nothing running, the first is on its way to a worker.
            let next = usize::from(self.running.is_none());
            let waiting = self.waiting.iter().skip(next);
            let events = waiting.filter(|task| task.is_event()).count();
            if events >= EVENTS_WAITING_MAX {
                return false;
            }
        } else {
            let asked = self.waiting.iter().map(|task| match task {
                Task::Run(job) => job.asked.len(),
                Task::Fresh(_) => 1,
            });
            if asked.sum::<usize>() >= ASKED_WAITING_MAX {
                return false;
            }
            // Said one after the other to the same place: answered together.
            if let (Task::Run(job), Some(Task::Run(last))) = (&task, self.waiting.back_mut()) {
                let place = |job: &Job| (job.thread_ts.clone(), job.stopped);
                if last.event.is_none() && place(last) == place(job) {
                    last.asked.extend(job.asked.iter().cloned());
                    last.again |= job.again;
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
            asked: vec![Asked {
                ts: ts.to_owned(),
                user: "U1".to_owned(),
                text: ts.to_owned(),
                files: Vec::new(),
            }],
            thread_ts: thread.map(str::to_owned),
            event: event.map(str::to_owned),
            again: false,
            stopped: false,
        })
    }

    fn fresh() -> Task {
        Task::Fresh(Order {
            channel: "C1".to_owned(),
            thread_ts: None,
            ts: "5".to_owned(),
            again: false,
        })
    }

    /// A queue whose tasks report their start and end when told to.
    fn gated() -> (Queue, mpsc::Receiver<String>, mpsc::Sender<()>) {
        let (started, starts) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        let gate = Mutex::new(gate);
        let queue = Queue::new(move |running, _| {
            let text = match &running.task {
                Task::Run(job) => job
                    .asked
                    .iter()
                    .map(|a| a.ts.as_str())
                    .collect::<Vec<_>>()
                    .join("+"),
                Task::Fresh(_) => "new".to_owned(),
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
        assert_eq!(queue.submit(job("C1", None, "1", None)), Submitted::Next);
        assert_eq!(starts.recv().unwrap(), "C1:1");
        assert_eq!(queue.submit(job("C1", None, "2", None)), Submitted::Waits);
        assert_eq!(queue.submit(job("C1", None, "3", None)), Submitted::Waits);
        assert_eq!(
            queue.submit(job("C1", Some("t"), "4", None)),
            Submitted::Waits
        );
        for n in 0..EVENTS_WAITING_MAX {
            assert_eq!(
                queue.submit(job("C1", None, &n.to_string(), Some("e"))),
                Submitted::Waits
            );
        }
        assert_eq!(
            queue.submit(job("C1", None, "x", Some("e"))),
            Submitted::Refused
        );
        assert!(queue.amend("C1", "2", Some("edited")));
        assert!(queue.amend("C1", "4", None));
        assert!(!queue.amend("C1", "9", None));
        let steering = queue.take_steering("C1", None);
        let texts: Vec<_> = steering.iter().map(|asked| asked.text.as_str()).collect();
        assert_eq!(texts, ["edited", "3"]);
        assert_eq!(queue.waiting("C1"), EVENTS_WAITING_MAX);
        queue.submit(fresh());
        queue.submit(job("C1", None, "5", None));
        assert!(
            queue.take_steering("C1", None).is_empty(),
            "said after `new`"
        );
        assert!(queue.stop("C1", "0").is_none(), "another run's button");
        queue.submit(job("C1", Some("t"), "6", None));
        let running = queue.stop("C1", "1").unwrap();
        assert_eq!(running.stop.cause(), Some(Cause::Asked));
        assert_eq!(running.dropped(), [""; 0]);
        for _ in 0..EVENTS_WAITING_MAX + 4 {
            go.send(()).unwrap();
        }
        for n in 0..EVENTS_WAITING_MAX {
            assert_eq!(starts.recv().unwrap(), format!("C1:{n}"));
        }
        for rest in ["new", "5", "6"] {
            assert_eq!(starts.recv().unwrap(), format!("C1:{rest}"));
        }
        drop(go);
        queue.shutdown(Duration::from_secs(30));
        assert_eq!(queue.submit(job("C1", None, "1", None)), Submitted::Refused);
    }

    #[test]
    fn what_people_say_waits_in_numbers_too() {
        let mut lane = Lane::default();
        for _ in 0..ASKED_WAITING_MAX / 2 {
            assert!(lane.push(fresh()) && lane.push(job("C1", None, "1", None)));
        }
        assert!(!lane.push(fresh()) && !lane.push(job("C1", None, "1", None)));
    }

    /// A run that was stopped before a restart takes nobody along.
    #[test]
    fn the_stopped_and_those_who_ask_anew_are_kept_apart() {
        let stopped = |ts: &str| match job("C1", None, ts, None) {
            Task::Run(job) => Task::Run(Job {
                stopped: true,
                ..job
            }),
            fresh => fresh,
        };
        let mut lane = Lane::default();
        let tasks = [stopped("1"), stopped("2"), job("C1", None, "3", None)];
        assert!(tasks.into_iter().all(|task| lane.push(task)));
        let taken = steering(&mut lane.waiting, None);
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert_eq!((taken[0].ts.as_str(), lane.waiting.len()), ("3", 1));
    }

    #[test]
    fn six_events_of_one_moment_fit_an_idle_channel() {
        let mut lane = Lane::default();
        for n in 0..=EVENTS_WAITING_MAX {
            assert!(lane.push(job("C1", None, &n.to_string(), Some("e"))), "{n}");
        }
        assert!(!lane.push(job("C1", None, "x", Some("e"))));
    }

    #[test]
    fn at_most_so_many_at_once_and_none_forgotten() {
        let (queue, starts, go) = gated();
        for n in 0..RUNS_MAX + 10 {
            assert_eq!(
                queue.submit(job(&format!("C{n}"), None, "1", None)),
                Submitted::Next
            );
        }
        let mut seen: Vec<_> = (0..RUNS_MAX).map(|_| starts.recv().unwrap()).collect();
        assert_eq!(queue.0.state.lock().unwrap().workers, RUNS_MAX);
        assert!(starts.try_recv().is_err());
        drop(go);
        seen.extend((0..10).map(|_| starts.recv().unwrap()));
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), RUNS_MAX + 10);
        queue.shutdown(Duration::from_secs(30));
    }
}

//! The bot: joins Slack, the queue, the events and the runs. The socket's owner (this thread)
//! writes down, acks and routes; whatever takes longer goes to a thread beside it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent::{Agent, Scene, Session};
use crate::command::Command;
use crate::config::{self, Keys};
use crate::error::{Error, Result};
use crate::events::{Events, Outside, Uptake};
use crate::kept::Kept;
use crate::log;
use crate::prompt::{Person, Place};
use crate::queue::{Order, Promise, Queue, Running, Submitted, Task};
use crate::run::{Asked, Job, Outcome};
use crate::secret;
use crate::signals;
use crate::slack::Envelope;
use crate::slack::backfill;
use crate::slack::files::{Download, Files};
use crate::slack::inbound::{self, Inbound, Incoming, Me};
use crate::slack::names::{DIRECTORY_FILE, Names};
use crate::slack::show::{self, Left, Milestone, Posted, Show, Stopper, Target};
use crate::slack::socket;
use crate::slack::web::{Content, Failure, Identity, Urgency, Web, jittered};
use crate::stop::{Cause, Stop};
use crate::store::{self, Attachment, LogEntry, Now, Seen, Store};
use crate::text;
use crate::time;

/// From the signal to the end of the program (PRODUCT.md, section 5: 3 s in all).
const PATIENCE: Duration = Duration::from_millis(2_400);
/// What waits to be said beside the runs. More is not said.
const ERRANDS_MAX: usize = 512;
/// The directory file is made anew after a day.
const DIRECTORY_AGE_MS: i64 = 24 * 3_600_000;
/// Messages that one run answers from its start.
const TOGETHER_MAX: usize = 50;
/// Messages whose files are asked for once more after a start.
const FETCHED_AGAIN_MAX: usize = 100;
/// Pauses before missed messages are asked for once more: twice as long each time.
const MISSED_PAUSE: Duration = Duration::from_secs(1);
const MISSED_PAUSE_MAX: Duration = Duration::from_secs(300);
/// Jobs that wait for Slack to be back.
const UNPOSTED_MAX: usize = 100;
/// Missed messages up to this age are answered, older ones only logged.
pub(crate) const MISSED_MS: i64 = 24 * 3_600_000;

pub(crate) fn serve(agent: Agent, keys: &Keys) -> Result<()> {
    let (app, bot) = config::slack_tokens(keys)?;
    let stop = Stop::new();
    let on_signal = stop.clone();
    signals::watch(true, move || on_signal.set(Cause::Restart))?;
    // Calls to Slack go on while the runs say goodbye; this stop is set last.
    let hang_up = Stop::new();
    let url = agent.config.slack_api_url.clone();
    let web = Arc::new(Web::new(&url, app, bot, &agent.net, &hang_up));
    let Some(identity) = identify(&web, &stop)? else {
        return Ok(());
    };
    log::info!(
        "",
        "I am {} in the workspace {}",
        identity.user,
        identity.team
    );
    if agent.config.allow_users.is_none() {
        log::warning!(
            "",
            "no list of allowed users: everyone in the workspace can use me \
             (--allow-users=U1,U2 names those who may)"
        );
    }
    let (files, downloads) = Files::new();
    let (errands, errand_list) = sync_channel(ERRANDS_MAX);
    let (hellos, hello_list) = sync_channel(1);
    let events = Events::new(agent.store.dir().clone());
    let house = Arc::new(House {
        names: Names::new(web.clone(), identity.me.team_id.clone()),
        kept: Kept::load(agent.store.dir().clone()),
        identity,
        agent,
        web,
        files,
        events,
        errands,
        hellos,
        stop: stop.clone(),
        intake: Mutex::default(),
        unposted: Mutex::default(),
        unwritten: Mutex::default(),
        stoppers: Mutex::default(),
    });
    let queue = {
        let house = house.clone();
        Queue::new(move |running, queue| house.work(running, queue))
    };
    house.take_up(&queue);
    let mut threads = Vec::new();
    let start = |name: &str, work: Box<dyn FnOnce() + Send>| -> Result<JoinHandle<()>> {
        let failed = |err| Error::failed(format!("cannot start the thread {name}: {err}"));
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(failed)
    };
    {
        let house = house.clone();
        threads.push(start(
            "files",
            Box::new(move || {
                house
                    .files
                    .work(&downloads, &house.web, &house.agent.store, &house.stop);
            }),
        )?);
    }
    {
        let (house, queue) = (house.clone(), queue.clone());
        threads.push(start(
            "errands",
            Box::new(move || house.run_errands(&errand_list, &queue)),
        )?);
    }
    {
        let (house, queue) = (house.clone(), queue.clone());
        threads.push(start(
            "events",
            Box::new(move || house.watch_events(&queue)),
        )?);
    }
    {
        let (house, queue) = (house.clone(), queue.clone());
        threads.push(start(
            "missed",
            Box::new(move || house.catch_up(&hello_list, &queue)),
        )?);
    }
    let served = house.listen(&queue);
    stop.set(Cause::Restart);
    house.hello();
    queue.shutdown(PATIENCE);
    hang_up.set(Cause::Restart);
    house.errand(Errand::End);
    drop(house);
    // The files thread ends with its queue; it may sit in one last read for a moment.
    for thread in threads.into_iter().skip(1) {
        // A panic there was printed when it happened.
        thread.join().ok();
    }
    served
}

/// auth.test, as often as the network needs. `None`: stopped meanwhile.
fn identify(web: &Web, stop: &Stop) -> Result<Option<Identity>> {
    let mut pause = Duration::from_secs(1);
    let mut said = false;
    loop {
        match web.auth_test() {
            Ok(identity) => return Ok(Some(identity)),
            Err(Error::Retry { after, why }) => {
                if !said {
                    log::warning!("", "{why}; I keep trying");
                    said = true;
                }
                if stop.wait(after.unwrap_or(jittered(pause))).is_err() {
                    return Ok(None);
                }
                pause = (pause * 2).min(Duration::from_secs(30));
            }
            Err(Error::Stopped) => return Ok(None),
            Err(err) => return Err(err),
        }
    }
}

/// Something to say or do in Slack beside the runs, in order.
enum Errand {
    Say {
        channel: String,
        thread_ts: Option<String>,
        text: String,
    },
    Eyes {
        channel: String,
        ts: String,
    },
    /// `_Stopping..._`, which becomes `_Stopped_`.
    Stopping(Order, Arc<Running>),
    /// Makes `_Stopped_` of a `_Stopping..._` that a crash left behind.
    Stopped(Order),
    Status(Order),
    Directory,
    End,
}

struct House {
    agent: Agent,
    web: Arc<Web>,
    identity: Identity,
    names: Names,
    files: Files,
    events: Events,
    /// In boxes: the channel keeps a place for each that may wait.
    errands: SyncSender<Box<Errand>>,
    /// Wakes the thread that reads what was missed.
    hellos: SyncSender<()>,
    kept: Kept,
    stop: Stop,
    /// Held from "is it new" to "it waits in the queue": the socket and the backfill may
    /// bring the same message, and a run takes from the log what does not wait.
    intake: Mutex<()>,
    /// Channels whose messages can't be written down, and whether they were told.
    unwritten: Mutex<HashMap<String, bool>>,
    /// Jobs whose end could not be said, for when Slack is back.
    unposted: Mutex<Vec<Job>>,
    /// The displays of the runs that go on, by channel.
    stoppers: Mutex<HashMap<String, Stopper>>,
}

/// Does a line of the log ask something of mom?
#[derive(Clone, Copy, PartialEq)]
enum Asks {
    Yes,
    No,
}

impl Taken {
    fn command(&self) -> Option<Command> {
        // Its words were heard before.
        let words = Some(&self.message.text).filter(|_| self.seen != Seen::NowFiles);
        words.and_then(|words| Command::parse(words))
    }
}

type Intake<'a> = MutexGuard<'a, ()>;

/// A message that was logged just now.
struct Taken {
    message: Incoming,
    files: Vec<Download>,
    seen: Seen,
}

impl House {
    fn me(&self) -> &Me {
        &self.identity.me
    }

    fn listen(self: &Arc<House>, queue: &Queue) -> Result<()> {
        let mut first = true;
        let mut receive = |batch: Vec<Envelope>, ack: &mut dyn FnMut(&[String])| {
            self.receive(batch, ack, queue);
        };
        let mut connected = || {
            if first {
                log::info!("", "connected to Slack");
            }
            self.kept.connected();
            self.hello();
            first = false;
        };
        socket::run(
            &self.web,
            &self.agent.net,
            &self.stop,
            &mut receive,
            &mut connected,
        )
    }

    /// Writes down, acks, acts, in this order: a message that was not written down is not
    /// acked, and Slack brings it again.
    fn receive(
        self: &Arc<House>,
        batch: Vec<Envelope>,
        ack: &mut dyn FnMut(&[String]),
        queue: &Queue,
    ) {
        let mut ids = Vec::with_capacity(batch.len());
        let mut messages = Vec::new();
        let mut others = Vec::new();
        for envelope in batch {
            match inbound::parse(&envelope.kind, &envelope.payload, self.me()) {
                Inbound::Message(message) => messages.push((envelope.id, message)),
                Inbound::Ignored(why) => {
                    log::debug!("", "left out {}: {why}", envelope.kind);
                    ids.push(envelope.id);
                }
                other => {
                    ids.push(envelope.id);
                    others.push(other);
                }
            }
        }
        let from: Vec<_> = messages
            .iter()
            .map(|(id, message)| (id.clone(), message.channel.clone()))
            .collect();
        let messages: Vec<_> = messages.into_iter().map(|(_, message)| message).collect();
        let asked: Vec<Incoming> = messages.iter().filter(|m| m.mention).cloned().collect();
        let intake = self.intake.lock().unwrap();
        let (taken, failed) = self.take(messages, &intake);
        for (channel, err) in &failed {
            log::error!(
                channel,
                "cannot write messages down, Slack will bring them again: {err}"
            );
            self.kept.lost(channel);
            let asked = asked.iter().find(|message| message.channel == *channel);
            self.say_unwritten(channel, asked, err);
        }
        let mut unwritten = self.unwritten.lock().unwrap();
        let before = unwritten.len();
        unwritten.retain(|channel, _| taken.iter().all(|t| t.message.channel != *channel));
        if unwritten.len() < before {
            // It works again; Slack may have given up bringing what came meanwhile.
            self.hello();
        }
        drop(unwritten);
        let is_written = |channel: &String| failed.iter().all(|(failed, _)| failed != channel);
        ids.extend(
            from.into_iter()
                .filter(|(_, channel)| is_written(channel))
                .map(|(id, _)| id),
        );
        ack(&ids);
        self.route(taken, queue, intake);
        let others = others.into_iter();
        let revised: Vec<Incoming> = others.filter_map(|other| self.act(other, queue)).collect();
        self.revise(&revised);
    }

    /// Someone waits for an answer that can't come: told once, until it works again.
    fn say_unwritten(&self, channel: &str, asked: Option<&Incoming>, err: &Error) {
        let mut unwritten = self.unwritten.lock().unwrap();
        let told = unwritten.entry(channel.to_owned()).or_default();
        let asked = asked.filter(|message| !*told && self.may(message).is_ok());
        if let Some(message) = asked {
            *told = true;
            self.errand(Errand::Say {
                channel: message.channel.clone(),
                thread_ts: message.thread_ts.clone(),
                text: format!(
                    "_Sorry, something went wrong_: I can't write down what is said here, so I \
                     can't answer yet ({}). Whoever runs me can mend that; I will try again.",
                    text::escape(&text::one_line(&err.to_string(), 300))
                ),
            });
        }
    }

    /// Logs what is new, durably, and returns it; and the channels where that failed.
    fn take(&self, messages: Vec<Incoming>, _: &Intake) -> (Vec<Taken>, Vec<(String, Error)>) {
        let store = &self.agent.store;
        let mut entries: Vec<(String, LogEntry)> = Vec::new();
        let mut taken: Vec<Taken> = Vec::new();
        let mut failed: Vec<(String, Error)> = Vec::new();
        let channels = messages.iter().map(|message| message.channel.as_str());
        let channels: BTreeSet<&str> = channels.collect();
        if let Err(err) = (self.kept).hear(channels.iter().copied(), &|id| store.heard_until(id)) {
            let failed = channels.into_iter();
            return (
                taken,
                failed.map(|id| (id.to_owned(), err.clone())).collect(),
            );
        }
        for message in messages {
            // A twin in the same batch is not in the log yet.
            let twin = taken.iter_mut().find(|taken| {
                taken.message.channel == message.channel && taken.message.ts == message.ts
            });
            if let Some(twin) = twin {
                // Sometimes only one of the twins carries the files.
                if twin.files.is_empty() && !message.files.is_empty() {
                    twin.files = self.downloads(&message);
                    twin.message.files = message.files;
                }
                twin.message.mention |= message.mention;
                continue;
            }
            let now = Now {
                asked: message.mention && self.may(&message).is_ok(),
                has_files: !message.files.is_empty(),
            };
            match store.seen(&message.channel, &message.ts, now) {
                Ok(Seen::Known) => {}
                Ok(seen) => {
                    let files = self.downloads(&message);
                    taken.push(Taken {
                        message,
                        files,
                        seen,
                    });
                }
                Err(err) => failed.push((message.channel, err)),
            }
        }
        for Taken { message, files, .. } in &taken {
            let asks = match message.mention && self.may(message).is_ok() {
                true => Asks::Yes,
                false => Asks::No,
            };
            let entry = self.entry(message, files, asks);
            entries.push((message.channel.clone(), entry));
        }
        failed.extend(store.log_batch(&entries));
        taken.retain(|taken| {
            failed
                .iter()
                .all(|(channel, _)| *channel != taken.message.channel)
        });
        (taken, failed)
    }

    fn entry(&self, message: &Incoming, files: &[Download], asks: Asks) -> LogEntry {
        let user = self.names.known(&message.user);
        let attachments = files.iter().map(|download| Attachment {
            original: download.file.name.clone(),
            local: download.local.clone(),
        });
        LogEntry {
            ts: message.ts.clone(),
            user: message.user.clone(),
            user_name: user.as_ref().map(|user| user.handle.clone()),
            display_name: user.map(|user| user.display),
            text: secret::hide(store::clean_text(&message.text)),
            attachments: attachments.collect(),
            thread_ts: message.thread_ts.clone(),
            mention: asks == Asks::Yes,
            ..LogEntry::default()
        }
    }

    /// Logs what was said in the job's thread before, by people when she was not there, or
    /// by other programs: alerts often are what she is asked about.
    fn read_thread(&self, job: &Job) -> Result<()> {
        let (Some(root), Some(asked)) = (&job.thread_ts, job.asked.first()) else {
            return Ok(());
        };
        backfill::thread(&self.web, &job.channel, root, &asked.ts, &mut |page| {
            let said = page.iter().filter_map(|message| {
                let said = inbound::overheard(message, &job.channel, self.me())?;
                if let Some(name) = inbound::program_name(message) {
                    self.names.remember(&said.user, name);
                }
                Some(said)
            });
            let said = said.collect();
            let (taken, failed) = self.take(said, &self.intake.lock().unwrap());
            for download in taken.into_iter().flat_map(|taken| taken.files) {
                self.files.fetch(download);
            }
            match failed.into_iter().next() {
                Some((_, err)) => Err(err),
                None => Ok(()),
            }
        })
    }

    fn downloads(&self, message: &Incoming) -> Vec<Download> {
        let names: Vec<&str> = message
            .files
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        let places = Store::attachments(&message.channel, &message.ts, &names);
        let pairs = message.files.iter().cloned().zip(places);
        pairs
            .map(|(file, place)| Download {
                file,
                local: place.local,
            })
            .collect()
    }

    /// What logged messages lead to; those that came together are answered together.
    fn route(self: &Arc<House>, taken: Vec<Taken>, queue: &Queue, _: Intake<'_>) {
        let mut tasks = Vec::new();
        for taken in taken {
            // A command is about what was said before it.
            if taken.command().is_some() {
                tasks.drain(..).for_each(|task| self.submit(task, queue));
            }
            if let Some(job) = self.route_one(taken, queue) {
                gather(&mut tasks, job);
            }
        }
        tasks.into_iter().for_each(|task| self.submit(task, queue));
    }

    fn route_one(self: &Arc<House>, taken: Taken, queue: &Queue) -> Option<Job> {
        let command = taken.command();
        let Taken {
            message,
            files,
            seen,
        } = taken;
        let locals: Vec<String> = files
            .iter()
            .map(|download| download.local.clone())
            .collect();
        for download in files {
            self.files.fetch(download);
        }
        // `stop` needs no mention, the rest of what is not for her is only logged.
        let stops = command == Some(Command::Stop) && queue.running(&message.channel).is_some();
        if !message.mention && !stops {
            return None;
        }
        let channel = message.channel.clone();
        let thread_ts = message.thread_ts.clone().filter(|root| *root != message.ts);
        if let Err(why) = self.may(&message) {
            if message.mention {
                self.refuse(&channel, thread_ts, &message.user, why);
            }
            return None;
        }
        let Some(command) = command else {
            let mut job = Job {
                channel,
                asked: vec![Asked {
                    ts: message.ts,
                    user: message.user,
                    text: message.text,
                    files: locals,
                }],
                thread_ts,
                event: None,
                again: false,
                stopped: false,
            };
            if seen == Seen::NowFiles {
                // For the run that was asked; there is none when it has ended.
                job.asked[0].text.clear();
                job.again = true;
                queue.submit(Task::Run(job));
                return None;
            }
            return Some(job);
        };
        let order = Order {
            channel,
            thread_ts,
            ts: message.ts,
            again: false,
        };
        match command {
            Command::Stop => {
                self.when_no_outsider(message.user, queue, move |house, queue, user| {
                    house.stop_run(order, user, queue);
                });
            }
            Command::New => self.submit(Task::Fresh(order), queue),
            Command::Status => self.errand(Errand::Status(order)),
        }
        None
    }

    fn submit(&self, task: Task, queue: &Queue) {
        let channel = task.channel().to_owned();
        let tss: Vec<String> = match &task {
            Task::Run(job) => job.asked.iter().map(|asked| asked.ts.clone()).collect(),
            Task::Fresh(_) => Vec::new(),
        };
        match queue.submit(task) {
            Submitted::Next => {}
            Submitted::Waits => {
                for ts in tss {
                    self.errand(Errand::Eyes {
                        channel: channel.clone(),
                        ts,
                    });
                }
            }
            Submitted::Refused => {
                log::warning!(
                    &channel,
                    "too much waits here; a message stays in the log only"
                );
            }
        }
    }

    /// Returns what is to be written down of it.
    fn act(self: &Arc<House>, inbound: Inbound, queue: &Queue) -> Option<Incoming> {
        match inbound {
            Inbound::Edited(message) => {
                queue.amend(&message.channel, &message.ts, Some(&message.text));
                return Some(message);
            }
            Inbound::Deleted { channel, ts } => {
                queue.amend(&channel, &ts, None);
                return Some(Incoming {
                    channel,
                    ts,
                    ..Incoming::default()
                });
            }
            Inbound::StopPressed { channel, user, run } => {
                let message = Incoming {
                    channel: channel.clone(),
                    user: user.clone(),
                    ..Incoming::default()
                };
                let running = queue.running(&channel);
                // The button of a run that has ended stops no other.
                let is_it = running.is_some_and(|on| run.is_empty() || on.run() == run);
                if is_it && self.may(&message).is_ok() {
                    self.when_no_outsider(user, queue, move |house, queue, user| {
                        house.stopping(&channel, user);
                        queue.stop(&channel, &run);
                    });
                }
            }
            Inbound::Message(_) | Inbound::Ignored(_) => {}
        }
        None
    }

    /// What logged messages say now, as further lines of the log; nothing at all: deleted.
    fn revise(&self, messages: &[Incoming]) {
        let _intake = self.intake.lock().unwrap();
        let store = &self.agent.store;
        for message in messages {
            let revised = match store.seen(&message.channel, &message.ts, Now::default()) {
                Ok(Seen::New) => Ok(()),
                Ok(_) => {
                    let entry = self.entry(message, &self.downloads(message), Asks::No);
                    store.log(&[(message.channel.clone(), entry)])
                }
                Err(err) => Err(err),
            };
            if let Err(err) = revised {
                log::warning!(&message.channel, "cannot write an edit down: {err}");
            }
        }
    }

    fn stop_run(&self, order: Order, user: &str, queue: &Queue) {
        self.stopping(&order.channel, user);
        match queue.stop(&order.channel, "") {
            Some(running) => self.errand(Errand::Stopping(order, running)),
            None => self.errand(Errand::Say {
                channel: order.channel,
                thread_ts: order.thread_ts,
                text: NOTHING_RUNS.to_owned(),
            }),
        }
    }

    /// `act` for someone who passed `may`: at once when it is known who that is, else on a
    /// thread of its own that asks Slack first.
    fn when_no_outsider(
        self: &Arc<House>,
        user: String,
        queue: &Queue,
        act: impl FnOnce(&House, &Queue, &str) + Send + 'static,
    ) {
        let listed = self.agent.config.allow_users.is_some();
        if listed || self.names.known(&user).is_some() {
            return act(self, queue, &user);
        }
        let (house, queue) = (self.clone(), queue.clone());
        let asked = thread::Builder::new()
            .name("who-stops".to_owned())
            .spawn(move || match house.names.user(&user) {
                Some(known) if known.outsider => {
                    log::info!("", "{user} may not stop her: {GUESTS}")
                }
                _ => act(&house, &queue, &user),
            });
        if let Err(err) = asked {
            log::error!("", "cannot start a thread to stop a run: {err}");
        }
    }

    /// Lets the display say who stopped the run; before the stop, which may end it at once.
    fn stopping(&self, channel: &str, user: &str) {
        let stopper = self.stoppers.lock().unwrap().get(channel).cloned();
        if let Some(stopper) = stopper {
            stopper.stopping(user);
        }
    }

    fn may(&self, message: &Incoming) -> std::result::Result<(), &'static str> {
        self.allowed(&message.user, &message.channel)?;
        let listed = self.agent.config.allow_users.is_some();
        if message.foreign && !listed {
            return Err("people of other workspaces need to be on her list of users");
        }
        // Whoever is not known yet is looked at before the run begins.
        match self.names.known(&message.user) {
            Some(user) if user.outsider && !listed => Err(GUESTS),
            _ => Ok(()),
        }
    }

    fn allowed(&self, user: &str, channel: &str) -> std::result::Result<(), &'static str> {
        let config = &self.agent.config;
        if !on(&config.allow_users, user) {
            return Err("you are not on her list of users");
        }
        if !on(&config.allow_channels, channel) {
            return Err("she does not work in this conversation");
        }
        Ok(())
    }

    /// Once a day and user.
    fn refuse(&self, channel: &str, thread_ts: Option<String>, user: &str, why: &str) {
        log::info!(channel, "refused {user}: {why}");
        if self.kept.refuses(user) {
            self.errand(Errand::Say {
                channel: channel.to_owned(),
                thread_ts,
                text: format!("_Sorry, I can't help here: {why}._"),
            });
        }
    }

    /// Never waits: a full list means that Slack is out of reach, and what is lost then is a
    /// courtesy.
    fn errand(&self, errand: Errand) {
        if self.errands.try_send(Box::new(errand)).is_err() {
            log::debug!("", "too many things to say at once");
        }
    }

    fn run_errands(self: &Arc<House>, errands: &Receiver<Box<Errand>>, queue: &Queue) {
        for errand in errands {
            let done = match *errand {
                Errand::Say {
                    channel,
                    thread_ts,
                    text,
                } => self
                    .say(&channel, thread_ts.as_deref(), &text, None)
                    .map(drop),
                Errand::Eyes { channel, ts } => {
                    let added = self.web.reactions_add(&channel, &ts, "eyes");
                    added.map_err(Error::from)
                }
                Errand::Stopping(order, running) => {
                    self.say_to(&order, "_Stopping..._").map(|ts| {
                        let channel = order.channel;
                        let late = running.promise(Promise { channel, ts });
                        self.keep_promises(late.into_iter().collect());
                    })
                }
                Errand::Stopped(order) => self.said_to(&order).map(|ts| {
                    let channel = order.channel;
                    let promise = ts.map(|ts| Promise { channel, ts });
                    self.keep_promises(promise.into_iter().collect());
                }),
                Errand::Status(order) => {
                    let lines = self.status_lines(&order.channel, queue);
                    let text = self.agent.status(&order.channel, &lines);
                    self.obeyed(&order, &text::escape(&text))
                }
                Errand::Directory => self.names.write_directory(self.agent.store.dir()),
                Errand::End => return,
            };
            if let Err(err) = done {
                log::warning!("", "something was left out: {err}");
            }
        }
    }

    /// `run`: what its metadata names, so that it can be found again.
    fn say(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
        text: &str,
        run: Option<&str>,
    ) -> Result<String> {
        let content = Content {
            text: text.to_owned(),
            metadata: run.map(|run| show::metadata(run, show::STATUS)),
            ..Content::default()
        };
        let posted = self
            .web
            .chat_post_message(channel, thread_ts, &content, Urgency::Must);
        Ok(posted?)
    }

    fn say_to(&self, order: &Order, text: &str) -> Result<String> {
        let thread_ts = order.thread_ts.as_deref();
        self.say(&order.channel, thread_ts, text, Some(&order.ts))
    }

    /// What stands in answer to it.
    fn said_to(&self, order: &Order) -> Result<Option<String>> {
        let left = self.left(&order.channel, order.thread_ts.as_deref(), &order.ts)?;
        Ok(left.status_ts)
    }

    /// Says what a command led to, and writes down that it did: once, whatever happens.
    fn obeyed(&self, order: &Order, text: &str) -> Result<()> {
        let stands = if order.again {
            self.said_to(order)?
        } else {
            None
        };
        let ts = stands.map_or_else(|| self.say_to(order, text), Ok)?;
        let entry = LogEntry {
            ts,
            user: "bot".to_owned(),
            text: text.to_owned(),
            is_bot: true,
            thread_ts: order.thread_ts.clone(),
            answers: Some(order.ts.clone()),
            ..LogEntry::default()
        };
        self.agent.store.log(&[(order.channel.clone(), entry)])
    }

    fn keep_promises(&self, promises: Vec<Promise>) {
        let content = Content {
            text: "_Stopped_".to_owned(),
            ..Content::default()
        };
        for Promise { channel, ts } in promises {
            if let Err(failure) = self.web.chat_update(&channel, &ts, &content, Urgency::Must) {
                log::warning!(&channel, "cannot say that the run has stopped: {failure}");
            }
        }
    }

    fn status_lines(&self, channel: &str, queue: &Queue) -> Vec<String> {
        let mut lines = Vec::new();
        lines.push(match queue.running(channel) {
            Some(running) => format!(
                "Running: {} for {}, {} waiting",
                match &running.task {
                    Task::Run(Job {
                        event: Some(event), ..
                    }) => format!("event {event}"),
                    _ => "a message".to_owned(),
                },
                text::duration(running.since.elapsed()),
                queue.waiting(channel)
            ),
            None => "Running: nothing".to_owned(),
        });
        let scheduled = self.events.scheduled(channel);
        if scheduled.is_empty() {
            lines.push("Scheduled: nothing".to_owned());
        }
        for (name, due_ms) in scheduled.iter().take(20) {
            lines.push(format!(
                "Scheduled: {name} at {}",
                time::prompt_stamp(*due_ms)
            ));
        }
        lines
    }

    /// Never waits: one that is on its way already stands for all.
    fn hello(&self) {
        self.hellos.try_send(()).ok();
    }

    /// A thread's whole life: after each hello, what was said while mom was away.
    fn catch_up(self: &Arc<House>, hellos: &Receiver<()>, queue: &Queue) {
        let mut first = true;
        for () in hellos {
            let mut pause = MISSED_PAUSE;
            while let Err(err) = self.read_missed(queue) {
                log::warning!("", "cannot read what was missed: {err}");
                let Error::Retry { after, .. } = err else {
                    break;
                };
                if self.stop.wait(after.unwrap_or(jittered(pause))).is_err() {
                    break;
                }
                pause = (pause * 2).min(MISSED_PAUSE_MAX);
            }
            if self.stop.is_set() {
                return;
            }
            if std::mem::take(&mut first) {
                self.fetch_files_again();
            }
        }
    }

    fn read_missed(self: &Arc<House>, queue: &Queue) -> Result<()> {
        let unposted = std::mem::take(&mut *self.unposted.lock().unwrap());
        for job in unposted {
            self.submit(Task::Run(job), queue);
        }
        let since_ms = time::now_ms() - MISSED_MS;
        let store = &self.agent.store;
        let gap = |channel: &str| self.kept.gap(channel, &|id| store.heard_until(id));
        let mut take = |channel: &str, mut messages: Vec<Incoming>, until: Option<String>| {
            for message in &mut messages {
                // Only logged when it is old: nobody waits for that answer any more.
                let recent = time::slack_ts_ms(&message.ts).is_some_and(|ms| ms >= since_ms);
                message.mention &= recent;
            }
            let intake = self.intake.lock().unwrap();
            let (taken, failed) = self.take(messages, &intake);
            self.route(taken, queue, intake);
            match failed.into_iter().next() {
                Some((_, err)) => Err(err),
                None => {
                    self.kept.read(channel, until);
                    Ok(())
                }
            }
        };
        backfill::missed(&self.web, &gap, self.me(), &self.stop, &mut take)
    }

    /// Files that were on their way when mom ended.
    fn fetch_files_again(&self) {
        let store = &self.agent.store;
        let since_ms = time::now_ms() - MISSED_MS;
        let channels = store.channels().unwrap_or_default();
        let entries = channels.iter().flat_map(|channel| {
            let entries = store.with_files(channel, since_ms).unwrap_or_default();
            entries.into_iter().map(move |entry| (channel, entry))
        });
        let files = |entry: &LogEntry| -> Vec<String> {
            let files = entry.attachments.iter();
            files.map(|file| file.local.clone()).collect()
        };
        let is_absent = |local: &String| self.files.is_absent(local, store);
        let absent = entries.filter(|(_, entry)| files(entry).iter().any(is_absent));
        for (channel, entry) in absent.take(FETCHED_AGAIN_MAX) {
            if self.stop.is_set() {
                return;
            }
            let root = entry.thread_ts.as_deref();
            self.fetch_again(channel, root, &entry.ts, &files(&entry));
        }
    }

    /// Of the files of a message those that are not here; the log has no addresses.
    fn fetch_again(&self, channel: &str, root: Option<&str>, ts: &str, locals: &[String]) {
        let store = &self.agent.store;
        let absent = locals.iter().filter(|l| self.files.is_absent(l, store));
        let absent: Vec<&String> = absent.collect();
        if absent.is_empty() {
            return;
        }
        let found = self.web.message(channel, root.unwrap_or(ts), ts);
        let why = match &found {
            Ok(_) => "Slack does not have it any more".to_owned(),
            Err(failure) => failure.to_string(),
        };
        let message = found.ok().flatten();
        let message = message.map(|message| inbound::message(&message, channel, self.me()));
        let downloads = match message {
            Some(Inbound::Message(message)) => self.downloads(&message),
            _ => Vec::new(),
        };
        for local in absent {
            self.files.give_up(local, &why);
        }
        for download in downloads.into_iter().filter(|d| locals.contains(&d.local)) {
            self.files.fetch(download);
        }
    }

    /// What earlier starts were asked and did not answer, from the files alone. Before anything
    /// new comes: a run that was cut must be the next one of its channel.
    fn take_up(&self, queue: &Queue) {
        let since_ms = time::now_ms() - MISSED_MS;
        let store = &self.agent.store;
        let channels = store.channels().unwrap_or_else(|err| {
            log::warning!("", "cannot look for unanswered messages: {err}");
            Vec::new()
        });
        for channel in channels
            .into_iter()
            .filter(|id| crate::slack::is_channel_id(id))
        {
            let cut = store.cut_run(&channel, since_ms).unwrap_or_else(|err| {
                log::warning!(&channel, "cannot look for a run that was cut: {err}");
                None
            });
            let cut = cut.unwrap_or_default();
            let unanswered = store.unanswered(&channel, since_ms).unwrap_or_else(|err| {
                log::warning!(&channel, "cannot look for unanswered messages: {err}");
                Vec::new()
            });
            let mut tasks = Vec::new();
            tasks.extend(cut.event.map(|event| {
                let asked = cut.asked.first().cloned().unwrap_or_default();
                Task::Run(event_again(&channel, asked, event))
            }));
            for entry in unanswered {
                if self.allowed(&entry.user, &channel).is_err() {
                    continue;
                }
                let Some(command) = Command::parse(&entry.text) else {
                    gather(&mut tasks, job_again(&channel, entry));
                    continue;
                };
                let order = Order {
                    channel: channel.clone(),
                    thread_ts: entry.thread_ts.filter(|root| *root != entry.ts),
                    ts: entry.ts,
                    again: true,
                };
                match command {
                    Command::Stop => {
                        stop_before(&mut tasks, &order, &cut.asked);
                        self.errand(Errand::Stopped(order));
                    }
                    Command::New => tasks.push(Task::Fresh(order)),
                    Command::Status => self.errand(Errand::Status(order)),
                }
            }
            for task in tasks {
                self.submit(task, queue);
            }
        }
    }

    fn watch_events(&self, queue: &Queue) {
        // Channels that were told of a full queue since it was last empty.
        let mut told = HashSet::new();
        let mut submit = |job: Job| {
            let (channel, event) = (job.channel.clone(), job.event.clone().unwrap_or_default());
            match queue.submit(Task::Run(job)) {
                Submitted::Next => {
                    told.remove(&channel);
                    Uptake::Taken
                }
                Submitted::Waits => Uptake::Taken,
                Submitted::Refused if self.stop.is_set() => Uptake::Closing,
                Submitted::Refused => {
                    if told.insert(channel.clone()) {
                        let event = text::escape(&event);
                        let text = format!(
                            "_Event {event} was left out: too many events wait here. So are \
                             further ones until there is room_"
                        );
                        self.errand(Errand::Say {
                            channel,
                            thread_ts: None,
                            text,
                        });
                    }
                    Uptake::Full
                }
            }
        };
        let allowed = &self.agent.config.allow_channels;
        // The last channel that was refused: its files often come together.
        let mut closed: Option<(String, Instant, String)> = None;
        let mut channel = |id: &str| {
            if !on(allowed, id) {
                return Err("--allow-channels does not name this channel".to_owned());
            }
            if let Some((_, _, why)) = closed
                .as_ref()
                .filter(|(known, at, _)| known == id && at.elapsed() < CLOSED_FOR)
            {
                return Err(why.clone());
            }
            match self.names.channel(id) {
                Err(Failure::Refused(code)) if CLOSED_TO_HER.contains(&code.as_str()) => {
                    let why = Failure::Refused(code).to_string();
                    closed = Some((id.to_owned(), Instant::now(), why.clone()));
                    Err(why)
                }
                // It can't be found out now: posting there will show.
                _ => Ok(()),
            }
        };
        let mut outside = Outside {
            submit: &mut submit,
            channel: &mut channel,
        };
        if let Err(err) = self.events.watch(&self.stop, &mut outside) {
            log::error!("", "events are not watched any more: {err}");
        }
    }

    /// On a worker of the queue.
    fn work(self: &Arc<House>, running: &Arc<Running>, queue: &Queue) {
        match &running.task {
            Task::Fresh(order) => {
                let text = match self.agent.fresh(&order.channel) {
                    Ok(()) => FRESH.to_owned(),
                    Err(err) => format!(
                        "_Sorry, something went wrong_: {}",
                        text::escape(&err.to_string())
                    ),
                };
                if let Err(err) = self.obeyed(order, &text) {
                    log::warning!(&order.channel, "cannot say that this is new: {err}");
                }
            }
            Task::Run(job) if !job.again && !self.events.stands(job) => {
                log::info!(&job.channel, "an event's file went before its run began");
            }
            Task::Run(job) => {
                if let Err(err) = self.run(job, running, queue) {
                    log::error!(&job.channel, "{err}");
                    let mut unposted = self.unposted.lock().unwrap();
                    if matches!(err, Error::Retry { .. }) && unposted.len() < UNPOSTED_MAX {
                        unposted.push(Job {
                            again: true,
                            ..job.clone()
                        });
                    }
                }
            }
        }
        self.keep_promises(running.over());
    }

    fn run(self: &Arc<House>, job: &Job, running: &Running, queue: &Queue) -> Result<()> {
        let mut job = job.clone();
        if job.again && job.event.is_none() {
            // Of several that were taken up one run may have answered all.
            let since_ms = time::now_ms() - MISSED_MS;
            let done = self.agent.store.done(&job.channel, since_ms)?;
            let (done, _) = done.unwrap_or_default();
            job.asked.retain(|asked| !done.contains(&asked.ts));
            for asked in &job.asked {
                let root = job.thread_ts.as_deref();
                self.fetch_again(&job.channel, root, &asked.ts, &asked.files);
            }
        }
        while !job.asked.is_empty() {
            job.asked = self.run_once(&job, running, queue)?;
            job.again = true;
        }
        Ok(())
    }

    /// Returns what the run did not answer: an earlier try had ended without it.
    fn run_once(
        self: &Arc<House>,
        job: &Job,
        running: &Running,
        queue: &Queue,
    ) -> Result<Vec<Asked>> {
        let mut target = Target {
            channel: job.channel.clone(),
            thread_ts: job.thread_ts.clone(),
            event: job.event.clone(),
            run: job
                .asked
                .first()
                .map(|asked| asked.ts.clone())
                .unwrap_or_default(),
            since: running.since,
            left: Left::default(),
        };
        let name_of = |id: &str| {
            let user = self.names.user(id);
            user.map_or_else(|| id.to_owned(), |user| user.display)
        };
        // Someone waits for a first sign, so it goes out before anything is read; only what
        // may have been begun before a restart is looked up first.
        let mut session = None;
        if job.again || job.event.is_some() {
            let begun = self.agent.begin(job)?;
            let record = begun.record();
            if record.done {
                self.events.ran(job);
                return Ok(Vec::new());
            }
            target.run.clone_from(&record.name);
            if job.again || record.resumed {
                let thread_ts = job.thread_ts.as_deref();
                target.left = self.left(&job.channel, thread_ts, &record.name)?;
            }
            let status_ts = target.left.status_ts.take();
            target.left.status_ts = status_ts.or(record.status_ts.clone());
            let stands = target.left.answer_ts().is_some();
            let standing = begun.standing().cloned();
            // Without its words, which a power cut took, it is an answer all the same.
            let lost = stands.then(|| Outcome::Answered(String::new()));
            if let Some(outcome) = standing.or(lost) {
                log::info!(&job.channel, "{} was done before the restart", record.name);
                self.events.ran(job);
                let outcome = Ok(outcome);
                let posted = Show::conclude(self.web.clone(), target, &outcome, &running.stop)?;
                let asked = job.asked.iter();
                let left = asked
                    .filter(|asked| !begun.asks(&asked.ts))
                    .cloned()
                    .collect();
                self.end(job, begun, &outcome, &posted, running)?;
                return Ok(left);
            }
            session = Some(begun);
        }
        let status = Arc::new(Mutex::new(target.left.status_ts.clone()));
        let told = {
            let status = status.clone();
            move |milestone: Milestone<'_>| {
                if let Milestone::Status(ts) = milestone {
                    *status.lock().unwrap() = Some(ts.to_owned());
                }
            }
        };
        let show = Show::start(self.web.clone(), target, running.stop.clone(), told)?;
        self.stoppers
            .lock()
            .unwrap()
            .insert(job.channel.clone(), show.stopper());
        let mut turned_away = false;
        let begun = session.take().map_or_else(|| self.agent.begin(job), Ok);
        let outcome = begun.and_then(|begun| {
            let begun = session.insert(begun);
            let thread_ts = job.thread_ts.as_deref();
            let mut askers = job.asked.iter();
            turned_away = askers.any(|asked| self.turns_away(job, thread_ts, &asked.user));
            if turned_away {
                return Ok(Outcome::Silent);
            }
            let status_ts = || status.lock().unwrap().clone();
            self.run_session(job, begun, running, queue, &status_ts, &show)
        });
        if let Err(err) = &outcome {
            log::error!(&job.channel, "a run failed: {err}");
        }
        let posted = show.finish(&outcome, &running.stop, &name_of);
        self.stoppers.lock().unwrap().remove(&job.channel);
        let posted = posted?;
        // Nothing was done, and nothing was said that the context should know.
        let outcome = match turned_away {
            true => Ok(Outcome::Stopped),
            false => outcome,
        };
        if let Some(session) = session {
            self.end(job, session, &outcome, &posted, running)?;
        }
        Ok(Vec::new())
    }

    /// Writes down what stands in Slack.
    fn end(
        &self,
        job: &Job,
        session: Session<'_>,
        outcome: &Result<Outcome>,
        posted: &Posted,
        running: &Running,
    ) -> Result<()> {
        let answer_ts = posted.answer_ts.first().map(String::as_str);
        if let (Ok(Outcome::Answered(answer)), Some(ts)) = (outcome, answer_ts) {
            self.log_answer(job, answer, ts)?;
        }
        let session = session.with_dropped(running.dropped());
        session.end(outcome, answer_ts, &running.stop)
    }

    fn run_session(
        &self,
        job: &Job,
        session: &mut Session<'_>,
        running: &Running,
        queue: &Queue,
        status_ts: &dyn Fn() -> Option<String>,
        show: &Show,
    ) -> Result<Outcome> {
        let handle = |id: &str| match id {
            // The original's name for it in the prompt.
            "EVENT" => "unknown".to_owned(),
            id => self
                .names
                .user(id)
                .map_or_else(|| id.to_owned(), |user| user.handle),
        };
        if let Err(err) = self.read_thread(job) {
            log::warning!(&job.channel, "cannot read the thread: {err}");
        }
        let people = self.people(job);
        let channel = self.names.channel(&job.channel).unwrap_or_default();
        let scene = Scene {
            place: Place::Slack {
                user_id: &self.me().user_id,
                handle: &self.identity.user,
                workspace: &self.identity.team,
                channel_id: &job.channel,
                channel_name: channel.name.as_deref(),
                people: &people,
                directory: DIRECTORY_FILE,
            },
            name_of: &handle,
            await_files: &|asked, stop| self.files.wait(&asked.files, stop),
            steer: &|| {
                let thread_ts = job.thread_ts.as_deref();
                let mut asked = queue.take_steering(&job.channel, thread_ts);
                asked.retain(|asked| !self.turns_away(job, thread_ts, &asked.user));
                asked
            },
            waits: &|ts| {
                let _routed = self.intake.lock().unwrap();
                queue.waits(&job.channel, ts)
            },
            status_ts,
            begun: &|| self.events.ran(job),
            notes: self.events.notes(&job.channel),
        };
        self.refresh_directory();
        session.run(job, &scene, &running.stop, &mut |update| {
            show.update(update)
        })
    }

    /// Those who wrote in the channel lately, the askers among them.
    fn people(&self, job: &Job) -> Vec<Person> {
        let lately = self.agent.store.people(&job.channel).unwrap_or_default();
        let mut ids: Vec<String> = lately.into_iter().map(|person| person.id).collect();
        ids.extend(job.asked.iter().map(|asked| asked.user.clone()));
        ids.retain(|id| crate::slack::is_user_id(id));
        ids.sort();
        ids.dedup();
        let mut people = Vec::new();
        for id in ids.into_iter().take(PEOPLE_MAX) {
            if let Some(user) = self.names.user(&id) {
                people.push(Person {
                    id,
                    handle: user.handle,
                    display: user.display,
                });
            }
        }
        people
    }

    /// Refuses guests and people of other workspaces, unless there is a list: those on it
    /// passed already. Whom Slack does not tell about passes too.
    fn turns_away(&self, job: &Job, thread_ts: Option<&str>, user: &str) -> bool {
        let open = self.agent.config.allow_users.is_none() && job.event.is_none();
        let outsider = open && self.names.user(user).is_some_and(|user| user.outsider);
        if outsider {
            self.refuse(&job.channel, thread_ts.map(str::to_owned), user, GUESTS);
        }
        outsider
    }

    /// What a run that was cut had posted.
    ///
    /// # Errors
    /// It cannot be known now, and so nothing may be said.
    fn left(&self, channel: &str, thread_ts: Option<&str>, run: &str) -> Result<Left> {
        match show::left(&self.web, channel, thread_ts, run) {
            Err(failure) if failure.stays() => {
                log::warning!(channel, "cannot look for an earlier answer: {failure}");
                Ok(Left::default())
            }
            left => Ok(left?),
        }
    }

    /// Once: after a crash it may be there.
    fn log_answer(&self, job: &Job, answer: &str, ts: &str) -> Result<()> {
        let store = &self.agent.store;
        if answer.is_empty() || store.seen(&job.channel, ts, Now::default())? != Seen::New {
            return Ok(());
        }
        let entry = LogEntry {
            ts: ts.to_owned(),
            user: "bot".to_owned(),
            text: answer.to_owned(),
            is_bot: true,
            thread_ts: job.thread_ts.clone(),
            date_ms: Some(time::now_ms()),
            ..LogEntry::default()
        };
        store.log(&[(job.channel.clone(), entry)])
    }

    fn refresh_directory(&self) {
        let stamp = self.agent.store.dir().stamp(DIRECTORY_FILE).unwrap_or(None);
        let old = stamp.is_none_or(|stamp| time::now_ms() - stamp.modified_ms() > DIRECTORY_AGE_MS);
        if old {
            self.errand(Errand::Directory);
        }
    }
}

/// Is it on the list, if there is one?
fn on(list: &Option<Vec<String>>, id: &str) -> bool {
    list.as_ref()
        .is_none_or(|list| list.iter().any(|listed| listed == id))
}

/// Codes of conversations.info for a place where she can't speak.
const CLOSED_TO_HER: [&str; 3] = ["channel_not_found", "not_in_channel", "is_archived"];
/// How long that is believed: she may be invited, and the file put back.
const CLOSED_FOR: Duration = Duration::from_secs(2);
/// People named in a prompt: as many as are looked up for it at most.
const PEOPLE_MAX: usize = 50;
const GUESTS: &str = "guests need to be on her list of users";
const NOTHING_RUNS: &str =
    "_Nothing running_\nI also know `new` (a fresh start) and `status` (what I am up to).";
const FRESH: &str =
    "_A fresh start: what was said before is left out from now on. Memory and files stay._";

/// What it asked stands in the context.
fn event_again(channel: &str, ts: String, name: String) -> Job {
    Job {
        channel: channel.to_owned(),
        thread_ts: None,
        asked: vec![Asked {
            ts,
            user: "EVENT".to_owned(),
            text: String::new(),
            files: Vec::new(),
        }],
        event: Some(name),
        again: true,
        stopped: false,
    }
}

/// Adds a job to those that will be submitted; what belongs to one place, and to the same
/// side of a command, is one job.
fn gather(tasks: &mut Vec<Task>, job: Job) {
    let jobs = tasks.iter_mut().rev().map_while(|task| match task {
        Task::Run(job) => Some(job),
        Task::Fresh(_) => None,
    });
    let place = |job: &Job| {
        let place = (job.channel.clone(), job.thread_ts.clone());
        (place, job.event.is_some(), job.stopped)
    };
    let same = |other: &&mut Job| place(other) == place(&job) && other.asked.len() < TOGETHER_MAX;
    match jobs.into_iter().find(same) {
        Some(other) => other.asked.extend(job.asked),
        None => tasks.push(Task::Run(job)),
    }
}

/// A `stop` was said and perhaps not obeyed: what was asked before it in the same place, and
/// the run that was `cut`, which it was for, have ended.
fn stop_before(tasks: &mut [Task], order: &Order, cut: &[String]) {
    for task in tasks {
        let Task::Run(job) = task else { continue };
        let was_on = job.asked.iter().any(|asked| cut.contains(&asked.ts));
        job.stopped |= was_on || job.thread_ts == order.thread_ts && job.event.is_none();
    }
}

fn job_again(channel: &str, entry: LogEntry) -> Job {
    Job {
        channel: channel.to_owned(),
        thread_ts: entry.thread_ts.filter(|root| *root != entry.ts),
        asked: vec![Asked {
            ts: entry.ts,
            user: entry.user,
            text: entry.text,
            files: entry
                .attachments
                .into_iter()
                .map(|file| file.local)
                .collect(),
        }],
        event: None,
        again: true,
        stopped: false,
    }
}

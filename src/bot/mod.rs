//! The Slack front end: from an envelope to an answer.
//!
//! - Lives here: `Intake` (envelope, log, ack), `Router` (what a message leads to), `Access` (who
//!   may use mom), `Approvals` (calls that wait for a person), `Commands` (stop, new, status,
//!   help), `Worker` (one run), `CatchUp` (missed messages), `Outbox` (all other posts).
//! - Enters: envelopes of the socket, Slack's history, jobs of event files, signals.
//! - Leaves: lines of log.jsonl, acks, tasks for `agent::queue::Queue`, posts in Slack.
//! - State: each part owns its own; what none of them owns is in `Services`.

mod access;
mod approvals;
mod catch_up;
mod commands;
mod intake;
mod outbox;
mod router;
mod worker;

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::agent::Agent;
use crate::agent::queue::Queue;
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::{Cause, Stop};
use crate::config::{self, Keys};
use crate::events::Events;
use crate::signals::{self, SecondSignal};
use crate::slack::files::{Download, Files};
use crate::slack::inbound::Me;
use crate::slack::users::Names;
use crate::slack::web::{Identity, Web};
use crate::slack::{self, Envelope, socket};
use crate::store::history::HistoryCursors;

use self::access::Access;
use self::approvals::Approvals;
use self::catch_up::{CatchUp, Wake};
use self::commands::Commands;
use self::intake::{Dropped, Heard, Intake};
use self::outbox::Outbox;
use self::router::Router;
use self::worker::Worker;

/// How long runs may take to end after a signal (until the exit 3 s in all).
const SHUTDOWN_PATIENCE: Duration = Duration::from_millis(2_400);

/// Opened at the start and used by all parts.
struct Services {
    agent: Agent,
    web: Arc<Web>,
    identity: Identity,
    names: Names,
    files: Files,
    events: Events,
    /// How far each channel's history was read.
    history: HistoryCursors,
    /// Set when mom ends.
    stop: Stop,
}

impl Services {
    fn me(&self) -> &Me {
        &self.identity.me
    }
}

pub(crate) fn serve(agent: Agent, keys: &Keys) -> Result<()> {
    if let Some(odd) = slack::odd_lists(&agent.config) {
        return Err(Error::Usage(odd));
    }
    let (app, bot) = config::slack_tokens(keys)?;
    let stop = Stop::new();
    let on_signal = stop.clone();
    let second = SecondSignal::ExitsAtOnce;
    signals::watch(second, move |_| on_signal.set(Cause::Restart))?;
    // Runs still post how they ended after `stop`; this one is set last.
    let web_stop = Stop::new();
    let url = agent.config.slack_api_url.clone();
    let web = Arc::new(Web::new(&url, app, bot, &agent.net, &web_stop));
    let Some(identity) = identify(&web, &stop)? else {
        return Ok(());
    };
    log_start(&identity, &agent);
    let (files, downloads) = Files::new();
    let services = Arc::new(Services {
        names: Names::new(web.clone(), identity.me.clone()),
        history: HistoryCursors::load(agent.store.dir().clone()),
        events: Events::new(agent.store.dir().clone()),
        identity,
        agent,
        web,
        files,
        stop,
    });
    run(&services, downloads, &web_stop)
}

/// Makes the parts, runs them until the stop, and ends them in order. `web_stop` is set when the
/// runs have ended.
fn run(
    services: &Arc<Services>,
    downloads: Receiver<Box<Download>>,
    web_stop: &Stop,
) -> Result<()> {
    let (outbox, posts) = Outbox::new(services.web.clone());
    let (wake, wakes) = Wake::new();
    let queue = Queue::default();
    let (look_up, look_ups) = Wake::new();
    let worker = worker(services, &queue, &outbox, wake.clone(), look_up.clone());
    let (intake, router) = (worker.intake.clone(), worker.router.clone());
    let catch_up = CatchUp(worker.clone());
    queue.start(move |running| worker.work(running));
    catch_up.resume();
    let (fetcher, watcher, logger) = (services.clone(), intake.clone(), intake.clone());
    // Not joined: it ends with its queue, and may be blocked in a last read for a moment.
    spawn("files", move || {
        let store = &fetcher.agent.store;
        (fetcher.files).work(&downloads, &fetcher.web, store, &fetcher.stop);
    })?;
    let people = services.clone();
    let threads = [
        spawn("directory", move || {
            let (dir, stop) = (people.agent.store.dir(), &people.stop);
            people.names.keep_directory(dir, stop);
        })?,
        spawn("outbox", move || outbox::run(&posts))?,
        spawn("events", move || watcher.watch_events())?,
        spawn("log", move || logger.log_waiting())?,
        spawn("catch-up", move || catch_up.run(&wakes))?,
        spawn("access", move || router.look_up_waiting(&look_ups))?,
    ];
    let served = listen(services, &intake, &wake);
    services.stop.set(Cause::Restart);
    wake.wake();
    services.names.want_directory();
    look_up.wake();
    intake.end_waiting();
    queue.shutdown(SHUTDOWN_PATIENCE);
    web_stop.set(Cause::Restart);
    // What was added before fails quickly now.
    outbox.end();
    for thread in threads {
        // A panic there was printed when it happened.
        thread.join().ok();
    }
    served
}

/// The worker with the parts that it needs.
fn worker(
    services: &Arc<Services>,
    queue: &Queue,
    outbox: &Outbox,
    catch_up: Wake,
    look_up: Wake,
) -> Arc<Worker> {
    let access = Access {
        services: services.clone(),
        outbox: outbox.clone(),
    };
    let router = Arc::new(Router {
        services: services.clone(),
        approvals: Approvals::new(access.clone()),
        access,
        commands: Commands {
            services: services.clone(),
            queue: queue.clone(),
            outbox: outbox.clone(),
        },
        routing: Mutex::default(),
        waiting: Mutex::default(),
        wake: look_up,
    });
    let intake = Arc::new(Intake {
        services: services.clone(),
        router: router.clone(),
        catch_up,
        unwritable: Mutex::default(),
        heard: Heard::new(),
        dropped: Dropped::new(),
    });
    Arc::new(Worker {
        services: services.clone(),
        router,
        intake,
        unposted: Mutex::default(),
        unread: Mutex::default(),
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread
        .spawn(work)
        .map_err(|err| Error::failed(format!("cannot start the thread {name}: {err}")))
}

fn listen(services: &Services, intake: &Intake, wake: &Wake) -> Result<()> {
    let mut first = true;
    let mut receive = |batch: Vec<Envelope>, ack: &mut dyn FnMut(&[String])| {
        intake.receive(batch, ack);
    };
    let mut connected = || {
        if std::mem::take(&mut first) {
            log::info!("", "connected to Slack");
        }
        services.history.mark_connected();
        wake.wake();
    };
    let (web, net) = (&services.web, &services.agent.net);
    socket::run(web, net, &services.stop, &mut receive, &mut connected)
}

/// Logs what the operator should know first.
fn log_start(identity: &Identity, agent: &Agent) {
    let Identity { user, team, .. } = identity;
    log::info!("", "I am {user} in the workspace {team}");
    if agent.config.allow_users.is_none() {
        log::warning!(
            "",
            "no list of allowed users: everyone in the workspace can use me \
             (--allow-users=U1,U2 names those who may)"
        );
    }
}

/// auth.test, repeated while Slack cannot be reached. `None`: mom was stopped meanwhile.
fn identify(web: &Web, stop: &Stop) -> Result<Option<Identity>> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let mut warned = false;
    loop {
        match web.auth_test() {
            Ok(identity) => return Ok(Some(identity)),
            Err(Error::Retry { after, why, .. }) => {
                if !std::mem::replace(&mut warned, true) {
                    log::warning!("", "{why}; I keep trying");
                }
                if backoff.wait(stop, after).is_err() {
                    return Ok(None);
                }
            }
            Err(Error::Stopped) => return Ok(None),
            Err(err) => return Err(err),
        }
    }
}

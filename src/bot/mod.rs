//! The bot: its threads and what they share. The socket's owner (this thread) writes down,
//! acks and routes; whatever takes longer goes to a thread beside it.

mod errands;
mod intake;
mod missed;
mod route;
mod runs;

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::agent::Agent;
use crate::agent::queue::Queue;
use crate::agent::run::Job;
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::{Cause, Stop};
use crate::config::{self, Keys};
use crate::events::Events;
use crate::signals;
use crate::slack::display::Stopper;
use crate::slack::files::Files;
use crate::slack::inbound::Me;
use crate::slack::users::Names;
use crate::slack::web::{Identity, Web};
use crate::slack::{self, Envelope, socket};
use crate::store::kept::Kept;

use errands::Errand;

/// From the signal to the end of the program (PRODUCT.md, section 5: 3 s in all).
const PATIENCE: Duration = Duration::from_millis(2_400);
/// What waits to be said beside the runs. More is not said.
const ERRANDS_MAX: usize = 512;

pub(crate) fn serve(agent: Agent, keys: &Keys) -> Result<()> {
    let (app, bot) = config::slack_tokens(keys)?;
    let stop = Stop::new();
    let on_signal = stop.clone();
    signals::watch(true, move |_| on_signal.set(Cause::Restart))?;
    // Calls to Slack go on while the runs say goodbye; this stop is set last.
    let hang_up = Stop::new();
    let url = agent.config.slack_api_url.clone();
    let web = Arc::new(Web::new(&url, app, bot, &agent.net, &hang_up));
    let Some(identity) = identify(&web, &stop)? else {
        return Ok(());
    };
    greet(&identity, &agent);
    let (files, downloads) = Files::new();
    let (errands, errand_list) = sync_channel(ERRANDS_MAX);
    let (hellos, hello_list) = sync_channel(1);
    let events = Events::new(agent.store.dir().clone());
    let house = Arc::new(House {
        names: Names::new(web.clone(), identity.me.clone()),
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
    let beside = |name: &str, work: Beside| {
        let (house, queue) = (house.clone(), queue.clone());
        let thread = thread::Builder::new().name(name.to_owned());
        thread
            .spawn(move || work(&house, &queue))
            .map_err(|err| Error::failed(format!("cannot start the thread {name}: {err}")))
    };
    // It ends with its queue, and may sit in one last read for a moment: it is not waited for.
    beside(
        "files",
        Box::new(move |house, _| {
            (house.files).work(&downloads, &house.web, &house.agent.store, &house.stop);
        }),
    )?;
    let threads = [
        beside(
            "errands",
            Box::new(move |house, queue| house.run_errands(&errand_list, queue)),
        )?,
        beside("events", Box::new(|house, queue| house.watch_events(queue)))?,
        beside(
            "missed",
            Box::new(move |house, queue| house.catch_up(&hello_list, queue)),
        )?,
    ];
    let served = house.listen(&queue);
    stop.set(Cause::Restart);
    house.hello();
    queue.shutdown(PATIENCE);
    hang_up.set(Cause::Restart);
    // What waits before it fails quickly now.
    house.errands.send(Box::new(Errand::End)).ok();
    drop(house);
    for thread in threads {
        // A panic there was printed when it happened.
        thread.join().ok();
    }
    served
}

/// What a thread does; in a box, so that the code to start one is there once.
type Beside = Box<dyn FnOnce(&Arc<House>, &Queue) + Send>;

/// What the operator should know from the first lines of the log.
fn greet(identity: &Identity, agent: &Agent) {
    let Identity { user, team, .. } = identity;
    log::info!("", "I am {user} in the workspace {team}");
    if let Some(odd) = slack::odd_lists(&agent.config) {
        log::warning!("", "{odd}");
    }
    if agent.config.allow_users.is_none() {
        log::warning!(
            "",
            "no list of allowed users: everyone in the workspace can use me \
             (--allow-users=U1,U2 names those who may)"
        );
    }
}

/// auth.test, as often as the network needs. `None`: stopped meanwhile.
fn identify(web: &Web, stop: &Stop) -> Result<Option<Identity>> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let mut said = false;
    loop {
        match web.auth_test() {
            Ok(identity) => return Ok(Some(identity)),
            Err(Error::Retry { after, why, .. }) => {
                if !said {
                    log::warning!("", "{why}; I keep trying");
                    said = true;
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
}

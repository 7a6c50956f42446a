//! Socket Mode: one thread owns the sockets, reads envelopes, has them written down, acks
//! them. It sleeps in poll(2) until something comes or a ping is due. A connection that is
//! to be recycled stays open until its successor has said hello, so that nothing falls
//! between them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use serde_json::Value;
use tungstenite::{Message, WebSocket};

use crate::error::{Error, Result};
use crate::log;
use crate::net::{Net, Stream};
use crate::stop::{Stop, poll_for};

use super::Envelope;
use super::web::{Web, jittered};

/// Our own pings (facts: keep-alive); they also keep NAT tables warm.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Without any frame for so long the connection is dead, whatever TCP thinks.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a closing handshake is waited for: Slack does not always finish it.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Pauses between failed attempts: none, 1, 2, 4 ... seconds, at most this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A connection that ends sooner than this counts as a failed attempt.
const LIFE_MIN: Duration = Duration::from_secs(5);
/// Envelopes handed on together; more wait in the socket.
const BATCH_MAX: usize = 256;

/// Hands over a batch. The callee writes it down, acks by envelope id, then acts.
pub(crate) type Receive<'a> = dyn FnMut(Vec<Envelope>, &mut dyn FnMut(&[String])) + 'a;

/// Runs until the stop is set (`Ok`) or a fault that waiting does not mend (`Err`).
/// `connected` is called after each hello.
pub(crate) fn run(
    web: &Arc<Web>,
    net: &Net,
    stop: &Stop,
    receive: &mut Receive<'_>,
    connected: &mut dyn FnMut(),
) -> Result<()> {
    let mut sockets = Sockets {
        web: web.clone(),
        net: net.clone(),
        stop: stop.clone(),
        links: Vec::new(),
        opening: None,
        attempts: 0,
        not_before: Instant::now(),
        down_said: false,
        crowd_said: false,
    };
    while !stop.is_set() {
        sockets.open_if_needed()?;
        sockets.wait();
        sockets.take_opened()?;
        for index in 0..sockets.links.len() {
            sockets.pump(index, receive, connected)?;
        }
        sockets.tidy();
    }
    for link in &mut sockets.links {
        // Best effort: the process is ending.
        link.socket
            .close(None)
            .and_then(|()| link.socket.flush())
            .ok();
    }
    Ok(())
}

struct Sockets {
    web: Arc<Web>,
    net: Net,
    stop: Stop,
    links: Vec<Link>,
    opening: Option<Opening>,
    /// Failed ones in a row.
    attempts: u32,
    not_before: Instant,
    /// That Slack is out of reach was logged.
    down_said: bool,
    crowd_said: bool,
}

/// A connection on its way, on a thread of its own: the others go on meanwhile.
struct Opening {
    result: Receiver<Result<WebSocket<Stream>>>,
    /// Readable (at its end) when the result is there.
    done: OwnedFd,
}

struct Link {
    socket: WebSocket<Stream>,
    opened: Instant,
    last_frame: Instant,
    last_ping: Instant,
    /// Hello was seen.
    ready: bool,
    /// Slack will end it: a successor is wanted.
    leaving: bool,
    /// Close was sent; gone at this time at the latest.
    closing: Option<Instant>,
    lost: bool,
    /// A flush would have blocked.
    unsent: bool,
}

impl Sockets {
    fn open_if_needed(&mut self) -> Result<()> {
        let served = self.links.iter().any(|link| !link.leaving);
        if served || self.opening.is_some() || Instant::now() < self.not_before {
            return Ok(());
        }
        let (web, net, stop) = (self.web.clone(), self.net.clone(), self.stop.clone());
        let (sender, result) = mpsc::sync_channel(1);
        let failed = |err: std::io::Error| Error::failed(format!("cannot open a socket: {err}"));
        let (done, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|err| failed(err.into()))?;
        let open = move || {
            let opened = web
                .apps_connections_open()
                .and_then(|url| net.websocket(&url, &stop));
            // Nobody listens any more when the program ends.
            sender.send(opened).ok();
            drop(writer);
        };
        thread::Builder::new()
            .name("slack-open".to_owned())
            .spawn(open)
            .map_err(failed)?;
        self.opening = Some(Opening { result, done });
        Ok(())
    }

    fn wait(&self) {
        let now = Instant::now();
        let mut deadline: Option<Instant> = None;
        let mut at =
            |time: Instant| deadline = Some(deadline.map_or(time, |other| other.min(time)));
        for link in &self.links {
            at(link.last_ping + PING_EVERY);
            at(link.last_frame + SILENCE_MAX);
            if let Some(closing) = link.closing {
                at(closing);
            }
        }
        if self.opening.is_none() && !self.links.iter().any(|link| !link.leaving) {
            at(self.not_before);
        }
        let mut fds = vec![PollFd::from_borrowed_fd(self.stop.fd(), PollFlags::IN)];
        if let Some(opening) = &self.opening {
            fds.push(PollFd::new(&opening.done, PollFlags::IN));
        }
        for link in &self.links {
            let flags = if link.unsent {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            fds.push(PollFd::new(link.socket.get_ref(), flags));
        }
        poll_for(
            &mut fds,
            deadline.map(|time| time.saturating_duration_since(now)),
        );
    }

    fn take_opened(&mut self) -> Result<()> {
        let Some(opening) = &self.opening else {
            return Ok(());
        };
        let opened = match opening.result.try_recv() {
            Ok(opened) => opened,
            Err(mpsc::TryRecvError::Empty) => return Ok(()),
            Err(mpsc::TryRecvError::Disconnected) => Err(Error::retry("the attempt broke off")),
        };
        self.opening = None;
        match opened {
            Ok(socket) => {
                let now = Instant::now();
                self.links.push(Link {
                    socket,
                    opened: now,
                    last_frame: now,
                    last_ping: now,
                    ready: false,
                    leaving: false,
                    closing: None,
                    lost: false,
                    unsent: false,
                });
                Ok(())
            }
            Err(Error::Retry { after, why }) => {
                self.failed(&why, after);
                Ok(())
            }
            Err(Error::Stopped) => Ok(()),
            Err(err) => Err(err),
        }
    }

    fn failed(&mut self, why: &str, after: Option<Duration>) {
        let pause = match self.attempts {
            0 => Duration::ZERO,
            n => Duration::from_secs(1 << (n - 1).min(5)).min(PAUSE_MAX),
        };
        self.attempts += 1;
        self.not_before = Instant::now() + after.unwrap_or_default().max(jittered(pause));
        if self.down_said || self.attempts < 2 {
            log::debug!("", "no connection to Slack: {why}");
        } else {
            self.down_said = true;
            log::warning!("", "no connection to Slack: {why}; I keep trying");
        }
    }

    /// Reads one link dry and hands on what came.
    fn pump(
        &mut self,
        index: usize,
        receive: &mut Receive<'_>,
        connected: &mut dyn FnMut(),
    ) -> Result<()> {
        loop {
            let mut batch = Vec::new();
            let mut dry = false;
            while batch.len() < BATCH_MAX && !dry {
                match self.links[index].read() {
                    Read::Nothing => dry = true,
                    Read::Other => {}
                    Read::Text(text) => self.text(index, &text, &mut batch, connected)?,
                    Read::Lost(why) => {
                        dry = true;
                        let link = &mut self.links[index];
                        link.lost = true;
                        if link.closing.is_none() {
                            log::debug!("", "the connection ended: {why}");
                        }
                    }
                }
            }
            if !batch.is_empty() {
                let link = &mut self.links[index];
                receive(batch, &mut |ids| link.ack(ids));
            }
            if dry {
                return Ok(());
            }
        }
    }

    fn text(
        &mut self,
        index: usize,
        text: &str,
        batch: &mut Vec<Envelope>,
        connected: &mut dyn FnMut(),
    ) -> Result<()> {
        let Ok(mut frame) = serde_json::from_str::<Value>(text) else {
            log::warning!(
                "",
                "Slack sent {} bytes that are not JSON; left out",
                text.len()
            );
            return Ok(());
        };
        let kind = frame["type"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "hello" => {
                self.hello(index, &frame);
                connected();
            }
            "disconnect" => match frame["reason"].as_str().unwrap_or_default() {
                "link_disabled" => {
                    return Err(Error::failed(
                        "Slack ended the connection: Socket Mode is switched off for this app; \
                         switch it on in the app's settings (Socket Mode)",
                    ));
                }
                "too_many_websockets" => {
                    self.failed("too many connections for this app", Some(PAUSE_MAX));
                    self.links[index].lost = true;
                }
                reason => {
                    log::debug!("", "Slack recycles the connection ({reason})");
                    self.links[index].leaving = true;
                }
            },
            _ => {
                if let Some(id) = frame["envelope_id"].as_str() {
                    let id = id.to_owned();
                    batch.push(Envelope {
                        id,
                        kind,
                        payload: frame["payload"].take(),
                    });
                }
            }
        }
        Ok(())
    }

    fn hello(&mut self, index: usize, frame: &Value) {
        self.links[index].ready = true;
        let others = frame["num_connections"].as_u64().unwrap_or(1);
        // While one connection takes over from another there are two of our own.
        let own = self.links.iter().filter(|link| !link.lost).count() as u64;
        if others > own && !self.crowd_said {
            self.crowd_said = true;
            log::warning!(
                "",
                "{others} connections use this app's token, {own} of them mine: a second mom \
                 would take half of the messages; stop it or give it an app of its own"
            );
        }
        if self.down_said {
            log::info!("", "connected to Slack again");
        }
        self.down_said = false;
        for link in &mut self.links {
            if link.leaving && link.closing.is_none() {
                link.closing = Some(Instant::now() + CLOSE_MAX);
                // A link that is gone already needs no goodbye.
                link.socket.close(None).ok();
                link.flush();
            }
        }
    }

    /// Pings, notices the dead, forgets the lost.
    fn tidy(&mut self) {
        let now = Instant::now();
        for link in &mut self.links {
            if now >= link.last_frame + SILENCE_MAX {
                log::warning!("", "no sign from Slack for {} s", SILENCE_MAX.as_secs());
                link.lost = true;
            }
            if link.closing.is_some_and(|closing| now >= closing) {
                link.lost = true;
            }
            if !link.lost && now >= link.last_ping + PING_EVERY {
                link.last_ping = now;
                link.write(Message::Ping(tungstenite::Bytes::new()));
            } else if link.unsent {
                link.flush();
            }
        }
        let gone: Vec<Link> = {
            let (gone, kept) = std::mem::take(&mut self.links)
                .into_iter()
                .partition(|l| l.lost);
            self.links = kept;
            gone
        };
        for link in gone {
            if link.leaving || link.closing.is_some() {
                continue;
            }
            if link.ready && link.opened.elapsed() >= LIFE_MIN {
                self.attempts = 0;
            }
            if self.not_before <= now {
                self.failed("the connection ended", None);
            }
        }
    }
}

enum Read {
    Text(String),
    /// A ping, a pong: a sign of life.
    Other,
    Nothing,
    Lost(String),
}

impl Link {
    fn read(&mut self) -> Read {
        if self.lost {
            return Read::Nothing;
        }
        let message = self.socket.read();
        if message.is_ok() {
            self.last_frame = Instant::now();
        }
        match message {
            Ok(Message::Text(text)) => Read::Text(text.as_str().to_owned()),
            Ok(Message::Close(_)) => {
                self.flush();
                Read::Lost("closed by Slack".to_owned())
            }
            Ok(_) => {
                // The answer to a ping is queued by the read.
                self.flush();
                Read::Other
            }
            Err(tungstenite::Error::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {
                Read::Nothing
            }
            Err(err) => Read::Lost(err.to_string()),
        }
    }

    fn ack(&mut self, ids: &[String]) {
        for id in ids {
            let text = crate::json::Obj::new().str("envelope_id", id).end();
            // Flushed once for all of them; a full socket is written on when it can be.
            if let Err(err) = self.socket.write(Message::text(text)) {
                self.note(&err);
            }
        }
        self.flush();
    }

    fn write(&mut self, message: Message) {
        if let Err(err) = self.socket.write(message) {
            self.note(&err);
        }
        self.flush();
    }

    fn flush(&mut self) {
        self.unsent = false;
        if let Err(err) = self.socket.flush() {
            self.note(&err);
        }
    }

    fn note(&mut self, err: &tungstenite::Error) {
        match err {
            tungstenite::Error::Io(err) if err.kind() == std::io::ErrorKind::WouldBlock => {
                self.unsent = true;
            }
            // The next read reports it.
            err => log::debug!("", "cannot write to Slack: {err}"),
        }
    }
}

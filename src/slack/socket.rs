//! Socket Mode: one thread owns the WebSocket to Slack, reads envelopes, passes them on to be
//! logged, and acks them. It sleeps in poll(2) until data arrives or a ping is due. When Slack
//! recycles a connection, a thread opens the next one, and the old one is read until the new one
//! has received its hello, so that no envelope is lost. Envelopes are parsed in `inbound`.
//!
//! The other side may be hostile: each round reads a bounded number of frames and bytes, and a
//! connection that does not accept acks is given up; Slack sends again what was not acked.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use tungstenite::{Message, WebSocket};

use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::base::log;
use crate::base::stop::{Stop, poll_for};
use crate::net::{Net, NetStream};
use crate::systemd::Systemd;

use super::Envelope;
use super::web::Web;

#[derive(Clone, Copy)]
struct Pace {
    /// Interval of mom's own pings; they also keep NAT tables alive.
    ping_every: Duration,
    /// The connection is dead if no whole message arrives for so long, or at first no hello, even
    /// if TCP still reports it as open.
    silence_max: Duration,
}

const PACE: Pace = Pace {
    ping_every: Duration::from_secs(10),
    silence_max: Duration::from_secs(30),
};
/// How long a closing handshake is waited for: Slack does not always finish it.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Pauses between failed attempts double from the first to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A connection that ends sooner than this counts as a failed attempt.
const LIFE_MIN: Duration = Duration::from_secs(5);
/// Limits of one round, after which the stop and the clock are checked. Envelopes read in one round
/// are logged with one sync to disk.
const FRAMES_MAX: usize = 512;
const READ_BYTES_MAX: usize = 256 * 1024;
/// Limit for acks and pongs that wait because the other side does not read.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// Receives a batch of envelopes: logs it, acks by envelope id, then acts on it.
pub(crate) type Receive<'a> = dyn FnMut(Vec<Envelope>, &mut dyn FnMut(&[String])) + 'a;

/// Runs until the stop is set (`Ok`) or a fault that waiting does not fix (`Err`). Calls
/// `connected` when a connection has received its hello.
pub(crate) fn run(
    web: &Arc<Web>,
    net: &Net,
    stop: &Stop,
    receive: &mut Receive<'_>,
    connected: &mut dyn FnMut(),
) -> Result<()> {
    SocketMode::new(PACE, web, net, stop).run(receive, connected)
}

/// Time since boot, suspend included: after a suspend the open connections are dead.
fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// All points in time are `uptime`s.
struct SocketMode {
    pace: Pace,
    web: Arc<Web>,
    net: Net,
    stop: Stop,
    opening: Option<Opening>,
    backoff: Backoff,
    /// When the next connection may be opened.
    not_before: Duration,
    /// The lost connection was logged already.
    is_down: bool,
    has_others: bool,
    has_bad_json: bool,
}

/// A connection being opened.
struct Opening {
    /// Returns the link, and the number of connections that Slack counts for the app.
    thread: JoinHandle<Result<(Link, u64)>>,
    /// Becomes readable (end of file) when the thread is about to end.
    done: OwnedFd,
}

impl Opening {
    fn is_done(&self) -> bool {
        let mut fds = [PollFd::new(&self.done, PollFlags::IN)];
        poll_for(&mut fds, Some(Duration::ZERO)) > 0
    }
}

/// One connection.
struct Link {
    socket: WebSocket<NetStream>,
    opened: Duration,
    last_message: Duration,
    last_ping: Duration,
    /// Slack will end it: open the next one.
    is_leaving: bool,
    /// The round ended before everything was read that has arrived.
    has_more: bool,
    /// Something was written that is not sent yet.
    has_unsent: bool,
    /// Why nothing can be written any more.
    broken: Option<String>,
}

impl SocketMode {
    fn new(pace: Pace, web: &Arc<Web>, net: &Net, stop: &Stop) -> SocketMode {
        SocketMode {
            pace,
            web: web.clone(),
            net: net.clone(),
            stop: stop.clone(),
            opening: None,
            backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            not_before: uptime(),
            is_down: false,
            has_others: false,
            has_bad_json: false,
        }
    }

    fn run(&mut self, receive: &mut Receive<'_>, connected: &mut dyn FnMut()) -> Result<()> {
        let systemd = Systemd::from_env();
        let mut current: Option<Link> = None;
        while !self.stop.is_set() {
            // The watchdog guards this loop only; a network that is down for a day is no reason for
            // systemd to restart mom.
            systemd.tell("WATCHDOG=1");
            let is_served = current.as_ref().is_some_and(|link| !link.is_leaving);
            if !is_served && self.opening.is_none() && uptime() >= self.not_before {
                self.open()?;
            }
            self.wait(current.as_ref());
            if let Some(link) = self.take_opened(current.iter().len() as u64)? {
                systemd.tell("READY=1");
                connected();
                if let Some(old) = current.replace(link) {
                    self.close(old, receive);
                }
            }
            let Some(link) = &mut current else { continue };
            let served = self
                .read_round(link, receive)
                .and_then(|()| link.keep_alive(&self.pace));
            if let Err(err) = served {
                let was_routine = link.is_leaving;
                if uptime().saturating_sub(link.opened) >= LIFE_MIN {
                    self.backoff.reset();
                }
                current = None;
                if !was_routine {
                    self.failed(err)?;
                }
            }
        }
        if let Some(mut link) = current {
            // Best effort: the process is ending.
            link.send(Message::Close(None));
        }
        Ok(())
    }

    /// Opens a connection, up to its hello, on its own thread, while the old one is still read.
    fn open(&mut self) -> Result<()> {
        let (web, net, stop) = (self.web.clone(), self.net.clone(), self.stop.clone());
        let silence_max = self.pace.silence_max;
        let (done, writer) = match rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
            Ok(pipe) => pipe,
            Err(err) => return self.failed(Error::retry(format!("cannot make a pipe: {err}"))),
        };
        let open = move || {
            // Closed at the end.
            let _writer = writer;
            let url = web.apps_connections_open()?;
            let mut link = Link::new(net.websocket(&url, &stop)?);
            let connections = link.wait_for_hello(silence_max, &stop)?;
            Ok((link, connections))
        };
        let thread = thread::Builder::new().name("slack-open".to_owned());
        match thread.spawn(open) {
            Ok(thread) => self.opening = Some(Opening { thread, done }),
            Err(err) => return self.failed(Error::retry(format!("cannot start a thread: {err}"))),
        }
        Ok(())
    }

    fn wait(&self, link: Option<&Link>) {
        let mut fds = vec![PollFd::from_borrowed_fd(self.stop.fd(), PollFlags::IN)];
        let mut wake = None;
        match &self.opening {
            Some(opening) => fds.push(PollFd::new(&opening.done, PollFlags::IN)),
            None if link.is_none_or(|link| link.is_leaving) => wake = Some(self.not_before),
            None => {}
        }
        if let Some(link) = link {
            fds.push(PollFd::new(link.socket.get_ref(), link.flags()));
            let due = link.next_deadline(&self.pace);
            wake = Some(wake.map_or(due, |wake| wake.min(due)));
        }
        poll_for(&mut fds, wake.map(|at| at.saturating_sub(uptime())));
    }

    /// The new connection after its hello. `old`: number of connections that it replaces.
    fn take_opened(&mut self, old: u64) -> Result<Option<Link>> {
        let Some(opening) = self.opening.take_if(|opening| opening.is_done()) else {
            return Ok(None);
        };
        let aborted = |_| Err(Error::retry("the attempt was aborted"));
        let (link, connections) = match opening.thread.join().unwrap_or_else(aborted) {
            Ok(opened) => opened,
            Err(err) => return self.failed(err).map(|()| None),
        };
        let own = old + 1;
        if connections > own && !self.has_others {
            self.has_others = true;
            log::warning!(
                "",
                "{connections} connections use this app's token, {own} of them mine: a second \
                 mom would take half of the messages; stop it or give it an app of its own"
            );
        }
        if self.is_down {
            log::info!("", "connected to Slack again");
        }
        self.is_down = false;
        Ok(Some(link))
    }

    /// Sets when to open the next connection after one, or an attempt at one, has ended. The first
    /// failure is routine; the second in a row is logged.
    ///
    /// # Errors
    /// Waiting does not help.
    fn failed(&mut self, err: Error) -> Result<()> {
        let (why, after) = match err {
            Error::Retry { why, after, .. } => (why, after),
            Error::Stopped => return Ok(()),
            err => return Err(err),
        };
        let pause = self.backoff.next_pause();
        self.not_before = uptime() + after.unwrap_or_default().max(pause);
        if self.is_down || self.backoff.failures() < 2 {
            log::debug!("", "no connection to Slack: {why}");
        } else {
            self.is_down = true;
            log::warning!("", "no connection to Slack: {why}; I keep trying");
        }
        Ok(())
    }

    /// Passes on what has arrived, within the limits of a round.
    fn read_round(&mut self, link: &mut Link, receive: &mut Receive<'_>) -> Result<()> {
        let mut batch = Vec::new();
        let outcome = self.read_frames(link, &mut batch);
        if !batch.is_empty() {
            receive(batch, &mut |ids| link.ack(ids));
        }
        outcome
    }

    fn read_frames(&mut self, link: &mut Link, batch: &mut Vec<Envelope>) -> Result<()> {
        link.socket.get_mut().allow(READ_BYTES_MAX);
        for _ in 0..FRAMES_MAX {
            match link.read()? {
                Some(Message::Text(text)) => self.frame(link, text.as_str(), batch)?,
                Some(_) => {}
                None => {
                    link.has_more = false;
                    return Ok(());
                }
            }
        }
        link.has_more = true;
        Ok(())
    }

    fn frame(&mut self, link: &mut Link, text: &str, batch: &mut Vec<Envelope>) -> Result<()> {
        let Ok(frame) = json::parse_lenient(text) else {
            if !self.has_bad_json {
                self.has_bad_json = true;
                let bytes = text.len();
                log::warning!("", "Slack sent {bytes} bytes that are not JSON; ignored");
            }
            return Ok(());
        };
        match frame["type"].as_str() {
            Some("hello") => {}
            Some("disconnect") => {
                let reason = frame["reason"].as_str().unwrap_or_default();
                log::debug!("", "Slack ends the connection ({reason})");
                refusal(reason)?;
                link.is_leaving = true;
            }
            _ => batch.extend(Envelope::of(frame)),
        }
        Ok(())
    }

    /// Closes a replaced connection, and passes on what still arrives on it.
    fn close(&mut self, mut link: Link, receive: &mut Receive<'_>) {
        let end = uptime() + CLOSE_MAX;
        link.send(Message::Close(None));
        while self.read_round(&mut link, receive).is_ok() {
            let left = end.saturating_sub(uptime());
            if left.is_zero() || self.stop.is_set() {
                return;
            }
            link.poll(&self.stop, left);
        }
    }
}

/// The fault behind a disconnect frame, unless Slack just recycles the connection.
fn refusal(reason: &str) -> Result<()> {
    match reason {
        "link_disabled" => Err(Error::failed(
            "Slack ended the connection: Socket Mode is switched off for this app; switch it on \
             in the app's settings (Socket Mode)",
        )),
        "too_many_websockets" => Err(Error::Retry {
            after: Some(PAUSE_MAX),
            why: "Slack allows this app no further connection: stop the other programs that use \
                  its tokens"
                .to_owned(),
            fault: None,
        }),
        _ => Ok(()),
    }
}

impl Link {
    fn new(mut socket: WebSocket<NetStream>) -> Link {
        socket.set_config(|config| config.max_write_buffer_size = UNSENT_BYTES_MAX);
        let now = uptime();
        Link {
            socket,
            opened: now,
            last_message: now,
            last_ping: now,
            is_leaving: false,
            has_more: false,
            has_unsent: false,
            broken: None,
        }
    }

    /// Waits for the first frame, and returns how many connections Slack counts.
    fn wait_for_hello(&mut self, silence_max: Duration, stop: &Stop) -> Result<u64> {
        loop {
            stop.check()?;
            self.socket.get_mut().allow(READ_BYTES_MAX);
            let message = self.read()?;
            if let Some(Message::Text(text)) = &message {
                let frame = json::parse_lenient(text.as_str()).unwrap_or_default();
                match frame["type"].as_str() {
                    Some("hello") => return Ok(frame["num_connections"].as_u64().unwrap_or(1)),
                    Some("disconnect") => refusal(frame["reason"].as_str().unwrap_or_default())?,
                    _ => {}
                }
            }
            let waited = uptime().saturating_sub(self.opened);
            if waited >= silence_max {
                let seconds = waited.as_secs();
                return Err(Error::retry(format!("no hello from Slack for {seconds} s")));
            }
            if message.is_none() {
                self.poll(stop, silence_max - waited);
            }
        }
    }

    fn poll(&self, stop: &Stop, pause: Duration) {
        let socket = PollFd::new(self.socket.get_ref(), self.flags());
        let stop = PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN);
        poll_for(&mut [socket, stop], Some(pause));
    }

    /// What poll(2) is to wait for.
    fn flags(&self) -> PollFlags {
        match self.has_unsent {
            true => PollFlags::IN | PollFlags::OUT,
            false => PollFlags::IN,
        }
    }

    fn next_deadline(&self, pace: &Pace) -> Duration {
        match self.has_more {
            true => Duration::ZERO,
            false => (self.last_ping + pace.ping_every).min(self.last_message + pace.silence_max),
        }
    }

    /// `None`: nothing more has arrived.
    ///
    /// # Errors
    /// The connection is lost.
    fn read(&mut self) -> Result<Option<Message>> {
        if let Some(why) = self.broken.take() {
            return Err(Error::retry(why));
        }
        let message = match self.socket.read() {
            Ok(message) => message,
            Err(tungstenite::Error::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {
                return Ok(None);
            }
            Err(err) => return Err(Error::retry(err.to_string())),
        };
        self.last_message = uptime();
        if !message.is_text() {
            // The answer to a ping or a close was queued by the read.
            self.flush();
        }
        match message.is_close() {
            true => Err(Error::retry("closed by Slack")),
            false => Ok(Some(message)),
        }
    }

    /// Sends pings, and fails if the other side has been silent too long.
    fn keep_alive(&mut self, pace: &Pace) -> Result<()> {
        let now = uptime();
        let silence = now.saturating_sub(self.last_message);
        if silence >= pace.silence_max {
            let seconds = silence.as_secs();
            log::warning!("", "no message from Slack for {seconds} s");
            return Err(Error::retry("the connection was silent too long"));
        }
        if now >= self.last_ping + pace.ping_every {
            self.last_ping = now;
            self.send(Message::Ping(tungstenite::Bytes::new()));
        } else if self.has_unsent {
            self.flush();
        }
        Ok(())
    }

    /// Sends all acks with one flush.
    fn ack(&mut self, ids: &[String]) {
        for id in ids {
            let text = json::Obj::new().str("envelope_id", id).end();
            let written = self.socket.write(Message::text(text));
            self.note(written);
        }
        self.flush();
    }

    fn send(&mut self, message: Message) {
        let written = self.socket.write(message);
        self.note(written);
        self.flush();
    }

    fn flush(&mut self) {
        self.has_unsent = false;
        let flushed = self.socket.flush();
        self.note(flushed);
    }

    /// Records the outcome of a write. A full socket is written to again later; after any other
    /// error the next read reports the lost connection.
    fn note(&mut self, outcome: tungstenite::Result<()>) {
        match outcome {
            Ok(()) => {}
            Err(tungstenite::Error::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {
                self.has_unsent = true;
            }
            Err(err) => self.broken = Some(format!("cannot write: {err}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;
    use crate::base::stop::Cause;
    use crate::net::testing::{net, read_request, serve, upgrade_answer};
    use std::io::Write as _;
    use std::net::TcpStream;
    use std::sync::mpsc::{self, Receiver};
    use std::time::Instant;
    use tungstenite::protocol::Role;

    type Far = WebSocket<TcpStream>;

    const HELLO: &str = r#"{"type":"hello","num_connections":1}"#;

    /// mom at a Slack that gives `opened` for apps.connections.open and every accepted
    /// socket to the test.
    struct Mom {
        stop: Stop,
        sockets: Receiver<Far>,
        /// Kind and payload of what was received, `connected` for a hello.
        received: Receiver<String>,
        run: JoinHandle<Result<()>>,
    }

    fn mom(pace: Pace, opened: &'static str) -> Mom {
        let (sender, sockets) = mpsc::channel();
        let address = serve(move |mut tcp| {
            let request = read_request(&mut tcp);
            if request.starts_with("POST") {
                let body = opened.replace("ADDRESS", &tcp.local_addr().unwrap().to_string());
                let length = body.len();
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
                return write!(tcp, "{head} {length}\r\n\r\n{body}").unwrap();
            }
            tcp.write_all(&upgrade_answer(&request)).unwrap();
            // A guard against hanging only.
            tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            sender
                .send(Far::from_raw_socket(tcp, Role::Server, None))
                .ok();
        });
        let stop = Stop::new();
        let ours = stop.clone();
        let (report, received) = mpsc::channel();
        let run = thread::spawn(move || {
            let url = format!("http://{address}/api");
            let (app, bot) = (Secret::new("xapp-1"), Secret::new("xoxb-1"));
            let web = Arc::new(Web::new(&url, app, bot, &net(None), &ours));
            let connected = report.clone();
            let mut receive = |batch: Vec<Envelope>, ack: &mut dyn FnMut(&[String])| {
                for envelope in &batch {
                    report
                        .send(format!("{} {}", envelope.kind, envelope.payload))
                        .unwrap();
                }
                let ids: Vec<String> = batch.into_iter().map(|envelope| envelope.id).collect();
                ack(&ids);
            };
            let mut hello = || connected.send("connected".to_owned()).unwrap();
            SocketMode::new(pace, &web, &net(None), &ours).run(&mut receive, &mut hello)
        });
        Mom {
            stop,
            sockets,
            received,
            run,
        }
    }

    const OPENED: &str = r#"{"ok":true,"url":"ws://ADDRESS/link"}"#;

    fn say(far: &mut Far, text: impl Into<String>) {
        far.send(Message::text(text.into())).unwrap();
    }

    fn envelope(id: &str) -> String {
        format!(r#"{{"envelope_id":"{id}","type":"events_api","payload":"{id}"}}"#)
    }

    /// Returns the next frame that is not a ping; answers pings.
    fn next_frame(far: &mut Far) -> String {
        let guard = Instant::now() + Duration::from_secs(30);
        loop {
            match far.read() {
                Ok(Message::Ping(_)) if Instant::now() < guard => far.flush().unwrap(),
                Ok(Message::Text(text)) => return text.as_str().to_owned(),
                Ok(Message::Close(_)) => return "close".to_owned(),
                Ok(other) => return format!("{other:?}"),
                Err(err) => return err.to_string(),
            }
        }
    }

    #[test]
    fn acks_and_hands_over_without_a_gap() {
        let mom = mom(PACE, OPENED);
        let mut first = mom.sockets.recv().unwrap();
        say(&mut first, HELLO);
        for text in ["{", "[]", "\"hello\"", r#"{"type":"x"}"#] {
            say(&mut first, text);
        }
        first.send(Message::binary(vec![0, 159])).unwrap();
        for id in ["e1", "e2"] {
            say(&mut first, envelope(id));
        }
        say(&mut first, r#"{"envelope_id":"e3","type":"unheard of"}"#);
        for id in ["e1", "e2", "e3"] {
            assert_eq!(
                next_frame(&mut first),
                format!(r#"{{"envelope_id":"{id}"}}"#)
            );
        }
        first.send(Message::Ping("p".into())).unwrap();
        assert_eq!(
            next_frame(&mut first),
            format!("{:?}", Message::Pong("p".into()))
        );

        say(
            &mut first,
            r#"{"type":"disconnect","reason":"refresh_requested"}"#,
        );
        let mut second = mom.sockets.recv().unwrap();
        say(&mut first, envelope("e4"));
        assert_eq!(next_frame(&mut first), r#"{"envelope_id":"e4"}"#);
        say(&mut second, HELLO);
        assert_eq!(next_frame(&mut first), "close");
        say(&mut second, envelope("e5"));
        assert_eq!(next_frame(&mut second), r#"{"envelope_id":"e5"}"#);

        drop(second);
        let mut third = mom.sockets.recv().unwrap();
        say(&mut third, HELLO);
        let received: Vec<String> = (0..8).map(|_| mom.received.recv().unwrap()).collect();
        let want = "connected, events_api \"e1\", events_api \"e2\", unheard of null, \
                    events_api \"e4\", connected, events_api \"e5\", connected";
        assert_eq!(received.join(", "), want);
        mom.stop.set(Cause::Restart);
        assert_eq!(next_frame(&mut third), "close");
        assert_eq!(mom.run.join().unwrap(), Ok(()));
    }

    #[test]
    fn who_does_not_read_acks_is_given_up() {
        let mom = mom(PACE, OPENED);
        let mut far = mom.sockets.recv().unwrap();
        say(&mut far, HELLO);
        let mut sent = Ok(());
        while sent.is_ok() {
            sent = far.send(Message::text(envelope(&"e".repeat(1_000))));
        }
        let mut second = mom.sockets.recv().unwrap();
        say(&mut second, HELLO);
        say(&mut second, envelope("e"));
        assert_eq!(next_frame(&mut second), r#"{"envelope_id":"e"}"#);
        mom.stop.set(Cause::Restart);
        assert_eq!(mom.run.join().unwrap(), Ok(()));
    }

    #[test]
    fn the_silent_are_replaced_and_the_living_kept() {
        let pace = Pace {
            ping_every: Duration::from_millis(20),
            silence_max: Duration::from_millis(200),
        };
        let mom = mom(pace, OPENED);
        // Answers pings, but never says hello.
        let mut first = mom.sockets.recv().unwrap();
        let goodbye = next_frame(&mut first);
        assert!(
            goodbye.contains("reset") || goodbye.contains("ended"),
            "{goodbye}"
        );
        // Says hello and falls silent.
        let mut second = mom.sockets.recv().unwrap();
        say(&mut second, HELLO);
        let mut third = mom.sockets.recv().unwrap();
        say(&mut third, HELLO);
        // Nothing but answered pings, for longer than silence is accepted.
        for _ in 0..20 {
            assert!(matches!(third.read(), Ok(Message::Ping(_))));
            third.flush().unwrap();
        }
        say(&mut third, envelope("e"));
        assert_eq!(next_frame(&mut third), r#"{"envelope_id":"e"}"#);
        mom.stop.set(Cause::Restart);
        assert_eq!(mom.run.join().unwrap(), Ok(()));
    }

    #[test]
    fn what_no_waiting_mends_ends_it() {
        let refused = mom(PACE, r#"{"ok":false,"error":"invalid_auth"}"#);
        let err = refused.run.join().unwrap().unwrap_err().to_string();
        assert!(err.contains("MOM_SLACK_APP_TOKEN"), "{err}");
        let off = mom(PACE, OPENED);
        let mut far = off.sockets.recv().unwrap();
        say(&mut far, HELLO);
        say(
            &mut far,
            r#"{"type":"disconnect","reason":"link_disabled"}"#,
        );
        let err = off.run.join().unwrap().unwrap_err().to_string();
        assert!(err.contains("Socket Mode is switched off"), "{err}");
    }
}

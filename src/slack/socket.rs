//! Socket Mode: one thread owns the WebSockets to Slack, reads envelopes, hands them over to
//! be logged, and acks them. It sleeps in poll(2) until something comes or a ping is due. A
//! connection that Slack recycles stays open until its successor has said hello, so that no
//! envelope falls between them. What an envelope says is `inbound`'s.
//!
//! The far end may be anyone's: each round reads a bounded number of frames and bytes from
//! each connection, and reads no more from one that does not take its acks.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use serde_json::Value;
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

struct Pace {
    /// Our own pings; they also keep NAT tables warm.
    ping_every: Duration,
    /// Without any whole message, or without a hello at first, for so long the connection is
    /// dead, whatever TCP thinks.
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
/// What is read from one connection in a round, before the stop, the clock and the other
/// connections are looked at. Envelopes read together are logged with one sync.
const FRAMES_MAX: usize = 512;
const READ_BYTES_MAX: usize = 256 * 1024;
/// Acks and pongs that wait for a far end which does not read. Nothing more is read from it
/// until it has taken them.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// Around a payload: the longest header of a frame of ours, and its mask.
const FRAME_BYTES: usize = 14;
/// RFC 6455: the payload of a ping or pong.
const PONG_BYTES_MAX: usize = 125;

/// Hands over a batch. The callee logs it, acks by envelope id, then acts.
pub(crate) type Receive<'a> = dyn FnMut(Vec<Envelope>, &mut dyn FnMut(&[String])) + 'a;

/// Runs until the stop is set (`Ok`) or a fault that does not pass by waiting (`Err`).
/// `connected` is called when a connection has said hello.
pub(crate) fn run(
    web: &Arc<Web>,
    net: &Net,
    stop: &Stop,
    receive: &mut Receive<'_>,
    connected: &mut dyn FnMut(),
) -> Result<()> {
    Sockets::new(PACE, web, net, stop).run(receive, connected)
}

/// Since boot, the time asleep included: what a laptop woken up holds for open is dead.
fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// All points in time are `uptime`s.
struct Sockets {
    pace: Pace,
    web: Arc<Web>,
    net: Net,
    stop: Stop,
    links: Vec<Link>,
    opening: Option<Opening>,
    backoff: Backoff,
    /// When the next connection may be opened.
    not_before: Duration,
    notices: Notices,
}

/// What was logged already and is not logged again.
#[derive(Default)]
struct Notices {
    down: bool,
    other_connections: bool,
    not_json: bool,
}

/// A connection being opened, on a thread of its own: the others go on meanwhile.
struct Opening {
    result: Receiver<Result<WebSocket<NetStream>>>,
    /// Readable (at its end) when the result is there.
    done: OwnedFd,
}

/// One connection.
struct Link {
    socket: WebSocket<NetStream>,
    stage: Stage,
    opened: Duration,
    last_message: Duration,
    last_ping: Duration,
    /// Bytes written since everything was last sent; 0 when nothing waits.
    unsent: usize,
    /// The round ended before everything was read that has arrived.
    has_more: bool,
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Hello was not seen yet.
    New,
    Ready,
    /// Slack will end it: a successor is wanted.
    Leaving,
    /// Close was sent; gone at this time at the latest.
    Closing(Duration),
}

enum SocketRead {
    Text(String),
    /// A ping, a pong, a binary message: a sign of life.
    Other,
    Nothing,
    Lost(String),
}

impl Sockets {
    fn new(pace: Pace, web: &Arc<Web>, net: &Net, stop: &Stop) -> Sockets {
        Sockets {
            pace,
            web: web.clone(),
            net: net.clone(),
            stop: stop.clone(),
            links: Vec::new(),
            opening: None,
            backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            not_before: uptime(),
            notices: Notices::default(),
        }
    }

    fn run(&mut self, receive: &mut Receive<'_>, connected: &mut dyn FnMut()) -> Result<()> {
        let systemd = Systemd::from_env();
        let connected = &mut || {
            systemd.tell("READY=1");
            connected();
        };
        while !self.stop.is_set() {
            // This loop is what has to stay alive; a network that is gone for a day is no
            // reason for systemd to restart mom.
            systemd.tell("WATCHDOG=1");
            self.open_if_needed();
            self.wait();
            self.take_opened()?;
            for index in 0..self.links.len() {
                self.read_round(index, receive, connected)?;
            }
            self.tidy();
        }
        for link in &mut self.links {
            // Best effort: the process is ending.
            link.socket
                .close(None)
                .and_then(|()| link.socket.flush())
                .ok();
        }
        Ok(())
    }

    /// A connection serves until Slack has announced its end.
    fn is_served(&self) -> bool {
        let serves = |link: &Link| matches!(link.stage, Stage::New | Stage::Ready);
        self.links.iter().any(serves)
    }

    fn open_if_needed(&mut self) {
        if self.is_served() || self.opening.is_some() || uptime() < self.not_before {
            return;
        }
        match self.open() {
            Ok(opening) => self.opening = Some(opening),
            Err(err) => self.failed(&err.to_string(), Some(PAUSE_MAX)),
        }
    }

    fn open(&self) -> std::io::Result<Opening> {
        let (web, net, stop) = (self.web.clone(), self.net.clone(), self.stop.clone());
        let (sender, result) = mpsc::sync_channel(1);
        let (done, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let open = move || {
            let opened = web
                .apps_connections_open()
                .and_then(|url| net.websocket(&url, &stop));
            // Fails when the program is ending.
            sender.send(opened).ok();
            drop(writer);
        };
        thread::Builder::new()
            .name("slack-open".to_owned())
            .spawn(open)?;
        Ok(Opening { result, done })
    }

    fn wait(&self) {
        let mut fds = vec![PollFd::from_borrowed_fd(self.stop.fd(), PollFlags::IN)];
        if let Some(opening) = &self.opening {
            fds.push(PollFd::new(&opening.done, PollFlags::IN));
        }
        for link in &self.links {
            fds.push(PollFd::new(link.socket.get_ref(), link.flags()));
        }
        let pause = self.next_deadline().map(|at| at.saturating_sub(uptime()));
        poll_for(&mut fds, pause);
    }

    fn next_deadline(&self) -> Option<Duration> {
        let reopen = self.opening.is_none() && !self.is_served();
        let of_links = self.links.iter().map(|link| {
            let ping = link.last_ping + self.pace.ping_every;
            let silence = link.last_sign() + self.pace.silence_max;
            match link.stage {
                _ if link.has_more && !link.is_clogged() => Duration::ZERO,
                Stage::Closing(end) => end.min(ping).min(silence),
                _ => ping.min(silence),
            }
        });
        of_links.chain(reopen.then_some(self.not_before)).min()
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
            Ok(socket) => self.links.push(Link::new(socket)),
            Err(Error::Retry { after, why, .. }) => self.failed(&why, after),
            Err(Error::Stopped) => {}
            Err(err) => return Err(err),
        }
        Ok(())
    }

    /// Sets when the next connection is opened. The first failure is the routine end of a
    /// connection; the second in a row is logged.
    fn failed(&mut self, why: &str, after: Option<Duration>) {
        let pause = self.backoff.next_pause();
        self.not_before = uptime() + after.unwrap_or_default().max(pause);
        if self.notices.down || self.backoff.failures() < 2 {
            log::debug!("", "no connection to Slack: {why}");
        } else {
            self.notices.down = true;
            log::warning!("", "no connection to Slack: {why}; I keep trying");
        }
    }

    /// Reads from one connection what has arrived, within the bounds of a round, and hands it
    /// on.
    fn read_round(
        &mut self,
        index: usize,
        receive: &mut Receive<'_>,
        connected: &mut dyn FnMut(),
    ) -> Result<()> {
        let mut batch = Vec::new();
        let link = &mut self.links[index];
        link.socket.get_mut().allow(READ_BYTES_MAX);
        link.has_more = true;
        for _ in 0..FRAMES_MAX {
            let link = &mut self.links[index];
            match link.read() {
                SocketRead::Nothing => {
                    link.has_more = link.is_clogged();
                    break;
                }
                SocketRead::Other => {}
                SocketRead::Text(text) => self.text(index, &text, &mut batch, connected)?,
                SocketRead::Lost(why) => {
                    log::debug!("", "the connection to Slack ended: {why}");
                    link.lost = true;
                    break;
                }
            }
        }
        if !batch.is_empty() {
            let link = &mut self.links[index];
            receive(batch, &mut |ids| link.ack(ids));
        }
        Ok(())
    }

    fn text(
        &mut self,
        index: usize,
        text: &str,
        batch: &mut Vec<Envelope>,
        connected: &mut dyn FnMut(),
    ) -> Result<()> {
        let Ok(frame) = json::parse_lenient(text) else {
            if !self.notices.not_json {
                self.notices.not_json = true;
                let bytes = text.len();
                log::warning!("", "Slack sent {bytes} bytes that are not JSON; left out");
            }
            return Ok(());
        };
        match frame["type"].as_str().unwrap_or_default() {
            // Once for each connection: work hangs on it.
            "hello" if self.links[index].stage == Stage::New => {
                self.hello(index, &frame);
                connected();
            }
            "hello" => {}
            "disconnect" => {
                return self.disconnect(index, frame["reason"].as_str().unwrap_or_default());
            }
            _ => batch.extend(Envelope::of(frame)),
        }
        Ok(())
    }

    fn disconnect(&mut self, index: usize, reason: &str) -> Result<()> {
        let link = &mut self.links[index];
        match reason {
            "link_disabled" => {
                return Err(Error::failed(
                    "Slack ended the connection: Socket Mode is switched off for this app; \
                     switch it on in the app's settings (Socket Mode)",
                ));
            }
            "too_many_websockets" if !link.lost => {
                link.lost = true;
                if !self.notices.down {
                    self.notices.down = true;
                    log::warning!(
                        "",
                        "Slack allows this app no further connection: stop the other programs \
                         that use its tokens; I keep trying"
                    );
                }
                self.failed("too many connections for this app", Some(PAUSE_MAX));
            }
            reason if matches!(link.stage, Stage::New | Stage::Ready) => {
                log::debug!("", "Slack recycles the connection ({reason})");
                link.stage = Stage::Leaving;
            }
            _ => {}
        }
        Ok(())
    }

    fn hello(&mut self, index: usize, frame: &Value) {
        self.links[index].stage = Stage::Ready;
        let connections = frame["num_connections"].as_u64().unwrap_or(1);
        // While one connection takes over from another there are two of our own.
        let own = self.links.iter().filter(|link| !link.lost).count() as u64;
        if connections > own && !self.notices.other_connections {
            self.notices.other_connections = true;
            log::warning!(
                "",
                "{connections} connections use this app's token, {own} of them mine: a second \
                 mom would take half of the messages; stop it or give it an app of its own"
            );
        }
        if self.notices.down {
            log::info!("", "connected to Slack again");
        }
        self.notices.down = false;
        for link in &mut self.links {
            if link.stage == Stage::Leaving {
                link.stage = Stage::Closing(uptime() + CLOSE_MAX);
                // Best effort: the connection may have ended already.
                link.socket.close(None).ok();
                link.flush();
            }
        }
    }

    /// Pings, notices dead connections and removes the lost ones.
    fn tidy(&mut self) {
        let now = uptime();
        for link in &mut self.links {
            let silence = now.saturating_sub(link.last_sign());
            if silence >= self.pace.silence_max && !link.lost {
                let what = match link.stage {
                    Stage::New => "hello",
                    _ => "sign",
                };
                log::warning!("", "no {what} from Slack for {} s", silence.as_secs());
                link.lost = true;
            }
            if matches!(link.stage, Stage::Closing(end) if now >= end) {
                link.lost = true;
            }
            if !link.lost && now >= link.last_ping + self.pace.ping_every {
                link.last_ping = now;
                link.write(Message::Ping(tungstenite::Bytes::new()), 0);
                link.flush();
            } else if link.unsent > 0 {
                link.flush();
            }
        }
        let (lost, kept) = std::mem::take(&mut self.links)
            .into_iter()
            .partition(|link| link.lost);
        self.links = kept;
        let lost: Vec<Link> = lost;
        for link in lost {
            let lasted = now.saturating_sub(link.opened) >= LIFE_MIN;
            match link.stage {
                Stage::Leaving | Stage::Closing(_) => continue,
                Stage::Ready if lasted => self.backoff.reset(),
                _ => {}
            }
            if self.not_before <= now {
                self.failed("the connection ended", None);
            }
        }
    }
}

impl Link {
    fn new(socket: WebSocket<NetStream>) -> Link {
        let now = uptime();
        Link {
            socket,
            stage: Stage::New,
            opened: now,
            last_message: now,
            last_ping: now,
            unsent: 0,
            has_more: false,
            lost: false,
        }
    }

    /// When it last showed that it works.
    fn last_sign(&self) -> Duration {
        match self.stage {
            Stage::New => self.opened,
            _ => self.last_message,
        }
    }

    fn is_clogged(&self) -> bool {
        self.unsent > UNSENT_BYTES_MAX
    }

    /// What poll(2) is to wait for.
    fn flags(&self) -> PollFlags {
        match self.unsent {
            0 => PollFlags::IN,
            _ if self.is_clogged() => PollFlags::OUT,
            _ => PollFlags::IN | PollFlags::OUT,
        }
    }

    fn read(&mut self) -> SocketRead {
        if self.lost || self.is_clogged() {
            return SocketRead::Nothing;
        }
        let message = self.socket.read();
        if message.is_ok() {
            self.last_message = uptime();
        }
        match message {
            Ok(Message::Text(text)) => SocketRead::Text(text.as_str().to_owned()),
            Ok(Message::Close(_)) => {
                self.flush();
                SocketRead::Lost("closed by Slack".to_owned())
            }
            Ok(_) => {
                // The answer to a ping was queued by the read.
                self.unsent += FRAME_BYTES + PONG_BYTES_MAX;
                self.flush();
                SocketRead::Other
            }
            Err(tungstenite::Error::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {
                SocketRead::Nothing
            }
            Err(err) => SocketRead::Lost(err.to_string()),
        }
    }

    /// Flushed once for all of them.
    fn ack(&mut self, ids: &[String]) {
        for id in ids {
            let text = json::Obj::new().str("envelope_id", id).end();
            let bytes = text.len();
            self.write(Message::text(text), bytes);
        }
        self.flush();
    }

    /// Queues a message of so many bytes.
    fn write(&mut self, message: Message, bytes: usize) {
        self.unsent += FRAME_BYTES + bytes;
        if let Err(err) = self.socket.write(message) {
            self.note(&err);
        }
    }

    /// A full socket is written on when it can be.
    fn flush(&mut self) {
        match self.socket.flush() {
            Ok(()) => self.unsent = 0,
            Err(err) => self.note(&err),
        }
    }

    fn note(&mut self, err: &tungstenite::Error) {
        match err {
            tungstenite::Error::Io(err) if err.kind() == std::io::ErrorKind::WouldBlock => {
                self.unsent = self.unsent.max(1);
            }
            err => {
                // Nothing can be sent any more; the next read reports the end.
                self.unsent = 0;
                log::debug!("", "cannot write to Slack: {err}");
            }
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
    use std::thread::JoinHandle;
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
        told: Receiver<String>,
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
        let (tell, told) = mpsc::channel();
        let run = thread::spawn(move || {
            let url = format!("http://{address}/api");
            let (app, bot) = (Secret::new("xapp-1"), Secret::new("xoxb-1"));
            let web = Arc::new(Web::new(&url, app, bot, &net(None), &ours));
            let connected = tell.clone();
            let mut receive = |batch: Vec<Envelope>, ack: &mut dyn FnMut(&[String])| {
                for envelope in &batch {
                    tell.send(format!("{} {}", envelope.kind, envelope.payload))
                        .unwrap();
                }
                let ids: Vec<String> = batch.into_iter().map(|envelope| envelope.id).collect();
                ack(&ids);
            };
            let mut hello = || connected.send("connected".to_owned()).unwrap();
            Sockets::new(pace, &web, &net(None), &ours).run(&mut receive, &mut hello)
        });
        Mom {
            stop,
            sockets,
            told,
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

    /// The next frame but pings, which it answers.
    fn hear(far: &mut Far) -> String {
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
            assert_eq!(hear(&mut first), format!(r#"{{"envelope_id":"{id}"}}"#));
        }
        first.send(Message::Ping("p".into())).unwrap();
        assert_eq!(hear(&mut first), format!("{:?}", Message::Pong("p".into())));

        say(
            &mut first,
            r#"{"type":"disconnect","reason":"refresh_requested"}"#,
        );
        let mut second = mom.sockets.recv().unwrap();
        say(&mut first, envelope("e4"));
        assert_eq!(hear(&mut first), r#"{"envelope_id":"e4"}"#);
        say(&mut second, HELLO);
        assert_eq!(hear(&mut first), "close");
        say(&mut second, envelope("e5"));
        assert_eq!(hear(&mut second), r#"{"envelope_id":"e5"}"#);

        drop(second);
        let mut third = mom.sockets.recv().unwrap();
        say(&mut third, HELLO);
        let told: Vec<String> = (0..8).map(|_| mom.told.recv().unwrap()).collect();
        let want = "connected, events_api \"e1\", events_api \"e2\", unheard of null, \
                    events_api \"e4\", connected, events_api \"e5\", connected";
        assert_eq!(told.join(", "), want);
        mom.stop.set(Cause::Restart);
        assert_eq!(hear(&mut third), "close");
        assert_eq!(mom.run.join().unwrap(), Ok(()));
    }

    #[test]
    fn who_does_not_read_is_not_read_from_and_gets_every_ack_later() {
        // No ping that would push them out.
        let pace = Pace {
            ping_every: Duration::from_secs(3600),
            silence_max: Duration::from_secs(3600),
        };
        let mom = mom(pace, OPENED);
        let mut far = mom.sockets.recv().unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(far.get_ref(), 1 << 16).unwrap();
        say(&mut far, HELLO);
        let id = |n: usize| format!("{n:0>500}");
        // More than the buffers between the two hold.
        let count = 20_000;
        let tcp = far.get_ref().try_clone().unwrap();
        let writer = thread::spawn(move || {
            let mut far = Far::from_raw_socket(tcp, Role::Server, None);
            for n in 0..count {
                far.write(Message::text(envelope(&id(n)))).unwrap();
            }
            far.flush().unwrap();
        });
        // Until mom takes no more: its acks have nowhere to go.
        let taken = |told: &Receiver<String>| told.recv_timeout(Duration::from_millis(500));
        while taken(&mom.told).is_ok() {}
        assert!(!writer.is_finished());
        for n in 0..count {
            assert_eq!(hear(&mut far), format!(r#"{{"envelope_id":"{}"}}"#, id(n)));
        }
        writer.join().unwrap();
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
        let goodbye = hear(&mut first);
        assert!(
            goodbye.contains("reset") || goodbye.contains("ended"),
            "{goodbye}"
        );
        // Says hello and falls silent.
        let mut second = mom.sockets.recv().unwrap();
        say(&mut second, HELLO);
        let mut third = mom.sockets.recv().unwrap();
        say(&mut third, HELLO);
        // Nothing but answered pings, for longer than silence is borne.
        for _ in 0..20 {
            assert!(matches!(third.read(), Ok(Message::Ping(_))));
            third.flush().unwrap();
        }
        say(&mut third, envelope("e"));
        assert_eq!(hear(&mut third), r#"{"envelope_id":"e"}"#);
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

    #[test]
    fn a_stop_ends_an_opening() {
        let mom = mom(PACE, OPENED);
        mom.stop.set(Cause::Restart);
        assert_eq!(mom.run.join().unwrap(), Ok(()));
    }
}

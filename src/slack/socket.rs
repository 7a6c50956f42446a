//! Socket Mode: one thread owns the sockets, reads envelopes, has them written down, acks
//! them. It sleeps in poll(2) until something comes or a ping is due. A connection that is
//! to be recycled stays open until its successor has said hello, so that nothing falls
//! between them.

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
use crate::net::{Net, Stream};
use crate::systemd::Systemd;

use super::Envelope;
use super::web::Web;

struct Pace {
    /// Our own pings; they also keep NAT tables warm.
    ping_every: Duration,
    /// Without any frame, or without a hello at first, for so long the connection is dead,
    /// whatever TCP thinks.
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
/// Envelopes handed on together, and bytes of them; more wait in the socket.
const BATCH_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1 << 20;

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
    run_at(PACE, web, net, stop, receive, connected)
}

fn run_at(
    pace: Pace,
    web: &Arc<Web>,
    net: &Net,
    stop: &Stop,
    receive: &mut Receive<'_>,
    connected: &mut dyn FnMut(),
) -> Result<()> {
    let mut sockets = Sockets {
        pace,
        web: web.clone(),
        net: net.clone(),
        stop: stop.clone(),
        links: Vec::new(),
        opening: None,
        backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
        not_before: uptime(),
        down_said: false,
        crowd_said: false,
    };
    let systemd = Systemd::from_env();
    let connected = &mut || {
        systemd.tell("READY=1");
        connected();
    };
    while !stop.is_set() {
        // Alive is whoever still goes around here, connected or not: a network that is gone
        // for a day is no reason to be started again.
        systemd.tell("WATCHDOG=1");
        sockets.open_if_needed();
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

/// Since boot, the time asleep included: what a laptop woken up holds for open is dead.
fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

struct Sockets {
    pace: Pace,
    web: Arc<Web>,
    net: Net,
    stop: Stop,
    links: Vec<Link>,
    opening: Option<Opening>,
    backoff: Backoff,
    /// All points in time are `uptime`s.
    not_before: Duration,
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
    opened: Duration,
    last_frame: Duration,
    last_ping: Duration,
    /// Hello was seen.
    ready: bool,
    /// Slack will end it: a successor is wanted.
    leaving: bool,
    /// Close was sent; gone at this time at the latest.
    closing: Option<Duration>,
    lost: bool,
    /// A flush would have blocked.
    unsent: bool,
}

impl Sockets {
    fn open_if_needed(&mut self) {
        let served = self.links.iter().any(|link| !link.leaving);
        if served || self.opening.is_some() || uptime() < self.not_before {
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
            // Nobody listens any more when the program ends.
            sender.send(opened).ok();
            drop(writer);
        };
        thread::Builder::new()
            .name("slack-open".to_owned())
            .spawn(open)?;
        Ok(Opening { result, done })
    }

    fn wait(&self) {
        let now = uptime();
        let mut deadline: Option<Duration> = None;
        let mut at =
            |time: Duration| deadline = Some(deadline.map_or(time, |other| other.min(time)));
        for link in &self.links {
            at(link.last_ping + self.pace.ping_every);
            at(link.last_sign() + self.pace.silence_max);
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
        poll_for(&mut fds, deadline.map(|time| time.saturating_sub(now)));
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
                let now = uptime();
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
            Err(Error::Retry { after, why, .. }) => {
                self.failed(&why, after);
                Ok(())
            }
            Err(Error::Stopped) => Ok(()),
            Err(err) => Err(err),
        }
    }

    fn failed(&mut self, why: &str, after: Option<Duration>) {
        let pause = self.backoff.next_pause();
        self.not_before = uptime() + after.unwrap_or_default().max(pause);
        if self.down_said || self.backoff.failures() < 2 {
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
            let mut bytes = 0;
            let mut dry = false;
            while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX && !dry {
                match self.links[index].read() {
                    Read::Nothing => dry = true,
                    Read::Other => {}
                    Read::Text(text) => {
                        bytes += text.len();
                        self.text(index, &text, &mut batch, connected)?;
                    }
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
        let Ok(frame) = json::parse_lenient(text) else {
            log::warning!(
                "",
                "Slack sent {} bytes that are not JSON; left out",
                text.len()
            );
            return Ok(());
        };
        match frame["type"].as_str().unwrap_or_default() {
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
                    if !self.down_said {
                        self.down_said = true;
                        log::warning!(
                            "",
                            "Slack allows this app no further connection: stop the other \
                             programs that use its tokens; I keep trying"
                        );
                    }
                    self.failed("too many connections for this app", Some(PAUSE_MAX));
                    self.links[index].lost = true;
                }
                reason => {
                    log::debug!("", "Slack recycles the connection ({reason})");
                    self.links[index].leaving = true;
                }
            },
            _ => batch.extend(Envelope::of(frame)),
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
                link.closing = Some(uptime() + CLOSE_MAX);
                // A link that is gone already needs no goodbye.
                link.socket.close(None).ok();
                link.flush();
            }
        }
    }

    /// Pings, notices the dead, forgets the lost.
    fn tidy(&mut self) {
        let now = uptime();
        for link in &mut self.links {
            let silence = now.saturating_sub(link.last_sign());
            if silence >= self.pace.silence_max && !link.lost {
                let what = if link.ready { "sign" } else { "hello" };
                log::warning!("", "no {what} from Slack for {} s", silence.as_secs());
                link.lost = true;
            }
            if link.closing.is_some_and(|closing| now >= closing) {
                link.lost = true;
            }
            if !link.lost && now >= link.last_ping + self.pace.ping_every {
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
            if link.ready && now.saturating_sub(link.opened) >= LIFE_MIN {
                self.backoff.reset();
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
    /// When it last showed that it works.
    fn last_sign(&self) -> Duration {
        if self.ready {
            self.last_frame
        } else {
            self.opened
        }
    }

    fn read(&mut self) -> Read {
        if self.lost {
            return Read::Nothing;
        }
        let message = self.socket.read();
        if message.is_ok() {
            self.last_frame = uptime();
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
            let text = crate::base::json::Obj::new().str("envelope_id", id).end();
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
            run_at(pace, &web, &net(None), &ours, &mut receive, &mut hello)
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
    fn who_does_not_read_gets_every_ack_later() {
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
        for n in 0..count {
            far.write(Message::text(envelope(&id(n)))).unwrap();
        }
        far.flush().unwrap();
        for n in 0..count {
            assert_eq!(hear(&mut far), format!(r#"{{"envelope_id":"{}"}}"#, id(n)));
        }
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

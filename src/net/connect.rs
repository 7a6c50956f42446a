//! Connections: TCP, TLS, proxy, DNS, and WebSockets (tungstenite) over them; HTTP is in
//! `http`. Every wait here is a poll(2) on the socket and on a `Stop`, so that a stop ends a
//! connect, a handshake, a read or a write at once, also while data keeps coming.
//!
//! TLS trusts the system's CA file (SSL_CERT_FILE, else the usual places); it is read when
//! the first https or wss connection is made.

use std::env;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::event::{PollFd, PollFlags};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tungstenite::WebSocket;
use tungstenite::protocol::{Role, WebSocketConfig};
use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};

use super::tls;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::random;
use crate::base::secret::Secret;
use crate::base::stop::{Stop, poll_for};

/// For one address of a host; each address of a host gets this time.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// From the name look-up to the end of the TLS handshake or the WebSocket upgrade.
pub(super) const OPEN_MAX: Duration = Duration::from_secs(30);
/// Bytes of a response head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// One Slack envelope. The largest event payloads are some hundred KB.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
pub(super) const USER_AGENT: &str = concat!("mom/", env!("CARGO_PKG_VERSION"));
/// In the order of `Proxy::try_from_env`, which also reads their lower-case forms.
const PROXY_VARIABLES: [&str; 3] = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"];

/// Cheap to clone; all clones share the TLS configuration and its sessions.
#[derive(Clone, Debug)]
pub(crate) struct Net(Arc<NetShared>);

#[derive(Debug)]
struct NetShared {
    proxy: Option<Proxy>,
    tls: OnceLock<std::result::Result<Arc<ClientConfig>, String>>,
}

impl Net {
    /// Uses the proxy that the environment names, by CONNECT, except for addresses in NO_PROXY.
    pub(crate) fn from_env() -> Net {
        let proxy = Proxy::try_from_env();
        if let (None, Some(name)) = (&proxy, proxy_variable()) {
            log::warning!(
                "",
                "{name} is set to something that is no proxy's address, so none is used; write \
                 it like http://proxy.example:3128"
            );
        }
        Net(Arc::new(NetShared {
            proxy,
            tls: OnceLock::new(),
        }))
    }

    /// Opens a ws:// or wss:// connection. Its socket is nonblocking afterwards: a read or write
    /// that would have to wait returns `WouldBlock`.
    pub(crate) fn websocket(&self, url: &str, stop: &Stop) -> Result<WebSocket<NetStream>> {
        let to = Destination::parse(url)
            .ok_or_else(|| Error::failed("not a ws:// or wss:// address"))?;
        self.upgrade(&to, stop).map_err(|err| {
            let why = format!("cannot open a WebSocket to {}: {err}", to.host);
            match NetFault::of(&err) {
                NetFault::Stopped => Error::Stopped,
                NetFault::Hopeless => Error::Failed(why),
                NetFault::NotSent | NetFault::Unanswered => Error::retry(why),
            }
        })
    }

    fn upgrade(&self, to: &Destination, stop: &Stop) -> io::Result<WebSocket<NetStream>> {
        let mut stream = self.open(to, stop, Instant::now() + OPEN_MAX)?;
        let nonce = random::bytes::<16>().map_err(|err| io::Error::other(err.to_string()))?;
        let key = BASE64_STANDARD.encode(nonce);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
            to.path(),
            to.authority()
        );
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let (head, rest) = read_head(&mut stream)?;
        let accept = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-accept"))
            .map(|(_, value)| value.trim());
        if status_of(&head) != Some(101) {
            let first = head.lines().next().unwrap_or_default();
            return Err(io::Error::other(format!("the server answered {first:?}")));
        }
        if accept != Some(&accept_key(&key)) {
            return Err(io::Error::other(
                "the server's Sec-WebSocket-Accept is wrong",
            ));
        }
        stream.wire.until = None;
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        Ok(WebSocket::from_partially_read(
            stream,
            rest,
            Role::Client,
            Some(config),
        ))
    }

    /// TCP (through the proxy where one applies), then TLS where the scheme asks for it.
    ///
    /// # Errors
    /// Each error carries a `NetFault`, never `Unanswered`.
    pub(super) fn open(
        &self,
        to: &Destination,
        stop: &Stop,
        until: Instant,
    ) -> io::Result<NetStream> {
        let proxy = self.0.proxy.as_ref().filter(|proxy| {
            // A plain connection to this machine (a local model server) needs no proxy.
            let here = !to.tls && to.is_loopback();
            !proxy.is_no_proxy(&to.uri) && !here
        });
        let opened = match proxy {
            Some(proxy) => through(proxy, to, stop, until),
            None => Wire::connect(&to.host, to.port, stop, until),
        };
        let secured = opened.and_then(|mut wire| {
            let tls = to.tls.then(|| self.handshake(&mut wire, to)).transpose()?;
            Ok(NetStream { wire, tls })
        });
        secured.map_err(|err| match NetFault::of(&err) {
            NetFault::Unanswered => NetFault::NotSent.mark(&err),
            _ => err,
        })
    }

    fn handshake(&self, wire: &mut Wire, to: &Destination) -> io::Result<Box<ClientConnection>> {
        let name = ServerName::try_from(to.bare_host().to_owned())
            .map_err(|_| io::Error::other("not a host name that TLS can check"))?;
        let config = self.tls().map_err(hopeless)?;
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(wire).map_err(tls::with_hint)?;
        }
        Ok(Box::new(session))
    }

    fn tls(&self) -> std::result::Result<Arc<ClientConfig>, String> {
        let config = || tls::config(&tls::ca_file()?);
        self.0.tls.get_or_init(config).clone()
    }
}

/// The variable that names the proxy.
fn proxy_variable() -> Option<String> {
    let mut names = PROXY_VARIABLES
        .into_iter()
        .flat_map(|name| [name.to_owned(), name.to_ascii_lowercase()]);
    names.find(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// The secrets of the proxy's login that texts may hold: the password, and its encoded form.
pub(crate) fn proxy_secrets() -> Vec<Secret> {
    let Some(proxy) = Proxy::try_from_env() else {
        return Vec::new();
    };
    let password = proxy.password().map(Secret::new);
    let sent = proxy.password().map(|_| Secret::new(&basic(&proxy)));
    password.into_iter().chain(sent).collect()
}

/// The value of `Proxy-Authorization: Basic`.
fn basic(proxy: &Proxy) -> String {
    let (user, password) = (proxy.username(), proxy.password());
    let (user, password) = (user.unwrap_or_default(), password.unwrap_or_default());
    BASE64_STANDARD.encode(format!("{user}:{password}"))
}

/// A plain or encrypted connection.
#[derive(Debug)]
pub(crate) struct NetStream {
    pub(super) wire: Wire,
    tls: Option<Box<ClientConnection>>,
}

impl NetStream {
    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// For a connection that never waits: after this many bytes each read returns `WouldBlock`,
    /// even if data has arrived, until `allow` is called again. So a flood of data cannot keep
    /// the reader from its other work.
    pub(crate) fn allow(&mut self, bytes: usize) {
        self.wire.allowed = bytes;
    }
}

impl AsFd for NetStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.tcp.as_fd()
    }
}

impl Read for NetStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.wire).read(buf),
            None => self.wire.read(buf),
        }
    }
}

impl Write for NetStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.wire).write(buf),
            None => self.wire.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.wire).flush(),
            None => Ok(()),
        }
    }
}

/// A nonblocking TCP socket; its reads and writes wait in poll(2), for the socket and a `Stop`.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    stop: Stop,
    /// The time at which a read or write stops waiting; `None`: it returns `WouldBlock` at once.
    pub(super) until: Option<Instant>,
    /// Bytes that may still be read when `until` is `None`.
    allowed: usize,
}

impl Wire {
    fn connect(host: &str, port: u16, stop: &Stop, until: Instant) -> io::Result<Wire> {
        Ok(Wire {
            tcp: dial(host, port, stop, until)?,
            stop: stop.clone(),
            until: Some(until),
            allowed: 0,
        })
    }

    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        let Some(until) = self.until else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        wait(&self.tcp, flags, until, &self.stop)
    }

    /// Called before each read and write that may wait: a peer that always sends or always
    /// accepts data must not delay a stop or the deadline.
    fn check(&self) -> io::Result<()> {
        self.until
            .map_or(Ok(()), |until| still_in_time(until, &self.stop).map(drop))
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let max = match self.until {
            Some(_) => buf.len(),
            None if self.allowed == 0 => return Err(io::ErrorKind::WouldBlock.into()),
            None => buf.len().min(self.allowed),
        };
        self.check()?;
        loop {
            match self.tcp.read(&mut buf[..max]) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => {
                    self.allowed = self.allowed.saturating_sub(read);
                    return Ok(read);
                }
                Err(err) => return Err(err),
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.check()?;
        loop {
            match self.tcp.write(buf) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait(fd: impl AsFd, flags: PollFlags, until: Instant, stop: &Stop) -> io::Result<()> {
    loop {
        let left = still_in_time(until, stop)?;
        let mut fds = [
            PollFd::new(&fd, flags),
            PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN),
        ];
        poll_for(&mut fds, Some(left));
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
    }
}

/// The time left until the deadline; an error when there is none or a stop is set.
fn still_in_time(until: Instant, stop: &Stop) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    match left.is_zero() {
        _ if stop.is_set() => Err(NetFault::Stopped.mark(&"stopped")),
        true => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        false => Ok(left),
    }
}

/// What a failed connection or call means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetFault {
    Stopped,
    /// Waiting does not help: no CA certificates, a proxy of a kind that can't be used.
    Hopeless,
    /// The request certainly did not leave.
    NotSent,
    /// The request was sent, but no answer or only a part of it came.
    Unanswered,
}

/// The content of an `io::Error` of ours: a `NetFault` and a text.
#[derive(Debug)]
struct Marked(NetFault, String);

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Marked {}

impl NetFault {
    fn mark(self, why: &impl fmt::Display) -> io::Error {
        io::Error::other(Marked(self, why.to_string()))
    }

    /// The `NetFault` in an error, however deep ureq or rustls wrapped it.
    pub(crate) fn of(err: &(dyn std::error::Error + 'static)) -> NetFault {
        if let Some(Marked(fault, _)) = err.downcast_ref() {
            return *fault;
        }
        let inner = match (err.downcast_ref::<io::Error>(), err.downcast_ref()) {
            (Some(err), _) => err.get_ref().map(|inner| inner as _),
            (_, Some(ureq::Error::Io(inner))) => Some(inner as _),
            (_, Some(ureq::Error::BadUri(_))) => return NetFault::NotSent,
            _ => err.source(),
        };
        inner.map_or(NetFault::Unanswered, NetFault::of)
    }
}

/// What went wrong with a call, as a sentence that names the server.
pub(crate) fn explain(server: &str, err: &(dyn std::error::Error + 'static)) -> String {
    let text = err.to_string();
    let why = text.trim_start_matches("io: ");
    match NetFault::of(err) {
        NetFault::Stopped => "stopped".to_owned(),
        NetFault::Hopeless | NetFault::NotSent => format!("cannot reach {server}: {why}"),
        NetFault::Unanswered if why.contains("in time") => {
            format!("no answer from {server}: {why}")
        }
        NetFault::Unanswered => format!("the connection to {server} broke off: {why}"),
    }
}

fn hopeless(why: impl Into<String>) -> io::Error {
    NetFault::Hopeless.mark(&why.into())
}

/// getaddrinfo(3) and connect(2) cannot be stopped: they run in their own thread. After a stop
/// this thread runs on until their own time limits, and its result is dropped.
fn dial(host: &str, port: u16, stop: &Stop, until: Instant) -> io::Result<TcpStream> {
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let thread = thread::Builder::new().name("dial".to_owned());
    let dialing = thread.spawn(move || {
        let connected = connect(&host, port);
        drop(writer);
        connected
    })?;
    wait(&reader, PollFlags::IN, until, stop)?;
    let ended = |_| io::Error::other("the thread that connects ended early");
    dialing.join().map_err(ended)?
}

/// Tries the host's addresses in turn; the socket never waits.
fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|err| io::Error::other(format!("cannot look up {host}: {err}")))?;
    let mut last = io::Error::other(format!("{host} has no address"));
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(tcp) => {
                tcp.set_nonblocking(true)?;
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(err) => last = err,
        }
    }
    Err(last)
}

/// A connection to the destination through the proxy.
fn through(proxy: &Proxy, to: &Destination, stop: &Stop, until: Instant) -> io::Result<Wire> {
    if proxy.protocol() != ProxyProtocol::Http {
        return Err(hopeless(
            "only http:// proxies can be used (see ALL_PROXY, HTTPS_PROXY)",
        ));
    }
    let (host, port) = (proxy.host(), proxy.port());
    let opened = Wire::connect(host, port, stop, until).and_then(|mut wire| {
        tunnel(&mut wire, proxy, to)?;
        Ok(wire)
    });
    opened.map_err(|err| match NetFault::of(&err) {
        NetFault::Stopped => err,
        _ => {
            let name = proxy_variable().unwrap_or_else(|| PROXY_VARIABLES[1].to_owned());
            let text = format!("the proxy {host}:{port} (from {name}) does not work: {err}");
            io::Error::new(err.kind(), text)
        }
    })
}

fn tunnel(wire: &mut Wire, proxy: &Proxy, to: &Destination) -> io::Result<()> {
    let address = format!("{}:{}", to.host, to.port);
    let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
    if proxy.username().is_some() {
        request += &format!("Proxy-Authorization: Basic {}\r\n", basic(proxy));
    }
    request.push_str("\r\n");
    wire.write_all(request.as_bytes())?;
    let (head, rest) = read_head(wire)?;
    let why = match status_of(&head) {
        Some(200..=299) if rest.is_empty() => return Ok(()),
        Some(407) => "it wants another user and password".to_owned(),
        _ => format!("it answered {:?}", head.lines().next().unwrap_or_default()),
    };
    Err(io::Error::other(why))
}

/// A response head without its empty line, and the bytes that came after it.
fn read_head(stream: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            bytes.truncate(end);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("the answer's head is too long"));
        }
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

fn status_of(head: &str) -> Option<u16> {
    let mut words = head.strip_prefix("HTTP/1.")?.split(' ');
    words.nth(1)?.parse().ok()
}

/// The `Sec-WebSocket-Accept` value for a key (RFC 6455, section 4.2.2).
fn accept_key(key: &str) -> String {
    let mut sha1 = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(sha1.finish())
}

/// Where a URL points to.
#[derive(Debug)]
pub(super) struct Destination {
    tls: bool,
    /// With brackets for IPv6, as in the URL.
    host: String,
    port: u16,
    uri: Uri,
}

impl Destination {
    pub(super) fn of(uri: &Uri) -> Option<Destination> {
        let tls = match uri.scheme_str()? {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        let port = match uri.port_u16() {
            Some(port) => port,
            // The port is above 65535.
            None if !uri.authority()?.as_str().ends_with(host) => return None,
            None if tls => 443,
            None => 80,
        };
        Some(Destination {
            tls,
            host: host.to_owned(),
            port,
            uri: uri.clone(),
        })
    }

    fn parse(url: &str) -> Option<Destination> {
        Destination::of(&url.parse().ok()?)
    }

    fn path(&self) -> String {
        self.uri
            .path_and_query()
            .map_or("/".to_owned(), ToString::to_string)
    }

    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    fn is_loopback(&self) -> bool {
        let host = self.bare_host();
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The host of a URL, for messages: paths and queries may hold tickets.
pub(crate) fn host_of(url: &str) -> String {
    Destination::parse(url).map_or_else(|| "(no host)".to_owned(), |to| to.authority())
}

#[cfg(test)]
mod tests {
    use super::super::{HttpLimits, retry_after};
    use super::testing::*;
    use super::*;
    use crate::base::stop::Cause;
    use crate::mutate::survive;
    use std::net::TcpListener;
    use std::path::Path;
    use std::sync::mpsc;

    #[test]
    fn targets() {
        let of = |url| {
            Destination::parse(url).map(|t| format!("{} {} {} {}", t.tls, t.host, t.port, t.path()))
        };
        for (url, want) in [
            ("https://slack.com/api", Some("true slack.com 443 /api")),
            ("ws://127.0.0.1:80?x=1", Some("false 127.0.0.1 80 /?x=1")),
            ("wss://u:p@h:1/p?q#f", Some("true h 1 /p?q")),
            ("http://[::1]:8/x", Some("false [::1] 8 /x")),
            ("ftp://x/", None),
            ("http:///x", None),
            ("http://h:99999/", None),
            ("http://a b/", None),
            ("http://a/\r\nX: y", None),
        ] {
            assert_eq!(of(url).as_deref(), want, "{url}");
        }
    }

    #[test]
    fn retry_after_forms() {
        let of = |name: &'static str, value: &str| {
            let mut headers = ureq::http::HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers)
        };
        for (name, value, want) in [
            ("retry-after", "30", Some(30_000)),
            ("retry-after-ms", "250", Some(250)),
            ("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("retry-after", "-1", None),
            ("retry-after", "soon", None),
            ("retry-after", "1e300", None),
        ] {
            assert_eq!(
                of(name, value),
                want.map(Duration::from_millis),
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "30",
            "1.5",
            "Thu, 01 Jan 2026 00:00:00 GMT",
            "https://user:pw@[::1]:8443/a?b#c",
            "wss://wss-primary.slack.com/link/?ticket=1",
            "HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: x\r\n\r\n\x01",
        ];
        survive(&corpus, |_, input| {
            for name in ["retry-after", "retry-after-ms"] {
                if let Ok(value) = ureq::http::HeaderValue::from_bytes(input) {
                    let headers = [(ureq::http::HeaderName::from_static(name), value)];
                    retry_after(&headers.into_iter().collect());
                }
            }
            let text = String::from_utf8_lossy(input);
            if let Some(target) = Destination::parse(&text) {
                let odd = |c: char| c.is_ascii_control() || c == ' ';
                assert!(!host_of(&text).contains(odd) && !target.path().contains(odd));
                target.is_loopback();
            }
            if let Ok((head, rest)) = read_head(&mut &input[..]) {
                status_of(&head);
                assert!(input.len() <= HEAD_BYTES_MAX + 2048 || rest.len() < input.len());
            }
        });
    }

    const FOREVER: HttpLimits = HttpLimits {
        head: Duration::from_secs(3600),
        idle: Duration::from_secs(3600),
        total: None,
    };

    /// Starts a request, lets the server send `says` and nothing more, and stops the request.
    #[test]
    fn a_stop_ends_whatever_waits() {
        for (scheme, says) in [
            ("http", ""),
            ("http", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"),
            ("https", ""),
            ("ws", "HTTP/1.1 101 "),
            ("wss", ""),
        ] {
            let (said, hear) = mpsc::channel();
            let address = serve(move |mut tcp| {
                tcp.write_all(says.as_bytes()).unwrap();
                said.send(tcp).ok();
            });
            let stop = Stop::new();
            let (net, remote) = (net(None), stop.clone());
            let url = format!("{scheme}://{address}/");
            let call = thread::spawn(move || match scheme {
                "ws" | "wss" => net.websocket(&url, &remote).err().unwrap(),
                _ => {
                    let answer = net.agent(&remote, FOREVER).get(&url).call();
                    let body = answer.and_then(|mut answer| answer.body_mut().read_to_string());
                    let err = body.unwrap_err();
                    match NetFault::of(&err) {
                        NetFault::Stopped => Error::Stopped,
                        _ => Error::failed(err.to_string()),
                    }
                }
            });
            let held = hear.recv().unwrap();
            stop.set(Cause::Asked);
            assert_eq!(call.join().unwrap(), Error::Stopped, "{scheme} {says:?}");
            drop(held);
        }
    }

    /// A listener whose queue is full lets SYNs go unanswered.
    #[test]
    fn a_stop_and_the_limit_end_a_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let call = move |stop: Stop, limit| dial("127.0.0.1", port, &stop, Instant::now() + limit);
        let mut held = Vec::new();
        let full = loop {
            match call(Stop::new(), Duration::from_millis(20)) {
                Ok(tcp) => held.push(tcp),
                Err(err) => break err,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
        let stop = Stop::new();
        let remote = stop.clone();
        let call = thread::spawn(move || call(remote, Duration::from_secs(3600)));
        stop.set(Cause::Asked);
        let err = call.join().unwrap().unwrap_err();
        assert_eq!(NetFault::of(&err), NetFault::Stopped);
    }

    #[test]
    fn a_limit_is_worth_another_try() {
        let (hold, held) = mpsc::channel();
        let address = serve(move |tcp| hold.send(tcp).unwrap());
        let limits = HttpLimits {
            head: Duration::from_millis(20),
            ..FOREVER
        };
        let url = format!("http://{address}/?secret");
        let err = net(None).agent(&Stop::new(), limits).get(&url).call();
        let err = err.unwrap_err();
        assert_eq!(NetFault::of(&err), NetFault::Unanswered);
        assert_eq!(explain("it", &err), "no answer from it: no answer in time");
        drop(held);
    }

    /// Everything at once: a proxy with a password, TLS within, the upgrade, and a first
    /// message that comes together with its answer.
    #[test]
    fn a_socket_through_proxy_and_tls() {
        let address = serve(|mut tcp| {
            let request = read_request(&mut tcp);
            assert!(
                request.starts_with("CONNECT localhost:9 HTTP/1.1\r\n"),
                "{request}"
            );
            // user:p@ss
            assert!(request.contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"));
            tcp.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let mut tls = tls_server(tcp);
            let request = read_request(&mut tls);
            assert!(request.starts_with("GET /link?t=1 HTTP/1.1\r\nHost: localhost:9\r\n"));
            let mut answer = upgrade_answer(&request);
            answer.extend_from_slice(b"\x81\x05hello");
            tls.write_all(&answer).unwrap();
            let mut socket = WebSocket::from_raw_socket(tls, Role::Server, None);
            let heard = socket.read().unwrap();
            socket.send(heard).unwrap();
        });
        let net = net(Some(&format!("http://user:p%40ss@{address}")));
        let mut socket = net
            .websocket("wss://localhost:9/link?t=1", &Stop::new())
            .unwrap();
        assert_eq!(socket.read().unwrap().to_text().unwrap(), "hello");
        socket.send("echo".into()).unwrap();
        // The socket does not wait by itself; now it may.
        socket.get_mut().wire.until = Some(Instant::now() + Duration::from_secs(30));
        assert_eq!(socket.read().unwrap().to_text().unwrap(), "echo");
    }

    #[test]
    #[rustfmt::skip]
    fn what_goes_wrong_says_so() {
        let answering = |answer: &'static str| {
            serve(move |mut tcp| {
                read_request(&mut tcp);
                tcp.write_all(answer.as_bytes()).unwrap();
            })
        };
        let refusing = answering("HTTP/1.1 407 No\r\n\r\n");
        let wrong = answering("HTTP/1.1 101 Go\r\nSec-WebSocket-Accept: x\r\n\r\n");
        let short = answering("HTTP/1.1 101 Go\r\n");
        let tls = serve(|tcp| drop(tls_server(tcp).read(&mut [0])));
        let no_tls = serve(|mut tcp| tcp.write_all(b"SSH-2.0-x\r\n").unwrap());
        let nobody = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let direct = net(None);
        let proxied = net(Some(&format!("http://{refusing}")));
        let socks = net(Some("socks5://127.0.0.1:1"));
        let no_ca = net_with(None, Err("no CA".to_owned()));
        let other_ca = tls::config(&Path::new(TEST_DATA).join("server.pem"));
        let other_ca = net_with(None, other_ca);
        for (net, url, hopeless, want) in [
            (&proxied, "wss://slack.example/?secret".to_owned(), false, "another user and password"),
            // Plain and on this machine: the proxy is left out.
            (&socks, format!("ws://{refusing}/"), false, "HTTP/1.1 407 No"),
            (&socks, format!("wss://{refusing}/"), true, "only http:// proxies"),
            (&no_ca, format!("wss://{refusing}/"), true, "no CA"),
            (&other_ca, format!("wss://{tls}/"), false, "UnknownIssuer; if it is self-signed"),
            (&direct, format!("wss://{no_tls}/"), false, "127.0.0.1: received corrupt message"),
            (&direct, format!("ws://{wrong}/"), false, "Sec-WebSocket-Accept"),
            (&direct, format!("ws://{short}/"), false, "unexpected end of file"),
            (&direct, format!("ws://{nobody}/"), false, "refused"),
            (&direct, "ftp://x/".to_owned(), true, "not a ws://"),
        ] {
            let err = net.websocket(&url, &Stop::new()).err().unwrap();
            assert_eq!(matches!(err, Error::Failed(_)), hopeless, "{url}: {err}");
            let text = err.to_string();
            assert!(
                text.contains(want) && !text.contains("secret"),
                "{url}: {text}"
            );
        }
    }

    #[test]
    fn kept_connections_and_lost_ones() {
        let (count, counted) = mpsc::channel();
        let address = serve(move |tcp| {
            let mut tls = tls_server(tcp);
            for _ in 0..2 {
                read_request(&mut tls);
                tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .unwrap();
            }
            drop(tls);
            count.send(()).unwrap();
        });
        let agent = net(None).agent(&Stop::new(), FOREVER);
        let get = || {
            let mut answer = agent.get(format!("https://{address}/")).call().unwrap();
            answer.body_mut().read_to_string().unwrap()
        };
        for _ in 0..2 {
            assert_eq!((get(), get()), ("ok".to_owned(), "ok".to_owned()));
            // Closed by the server: the next call must find that out and connect anew.
            counted.recv().unwrap();
        }
    }
}

/// The far end, for tests of connections.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::path::Path;

    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use std::net::{SocketAddr, TcpListener};

    pub(crate) const TEST_DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

    /// Trusts the certificates in tests/data.
    pub(crate) fn net(proxy: Option<&str>) -> Net {
        net_with(proxy, tls::config(&Path::new(TEST_DATA).join("ca.pem")))
    }

    pub(crate) fn net_with(
        proxy: Option<&str>,
        tls: std::result::Result<Arc<ClientConfig>, String>,
    ) -> Net {
        Net(Arc::new(NetShared {
            proxy: proxy.map(|url| Proxy::new(url).unwrap()),
            tls: OnceLock::from(tls),
        }))
    }

    /// Hands every connection to `act`, one after another, for as long as the tests run.
    pub(crate) fn serve(act: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.incoming().flatten().for_each(act));
        address
    }

    /// Head and body as they came; empty at the end of the connection.
    pub(crate) fn read_request(stream: &mut impl Read) -> String {
        let Ok((head, mut body)) = read_head(stream) else {
            return String::new();
        };
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length: usize = length.map_or(0, |(_, length)| length.parse().unwrap());
        let read = body.len();
        body.resize(length.max(read), 0);
        stream.read_exact(&mut body[read..]).unwrap();
        format!("{head}\r\n\r\n{}", String::from_utf8_lossy(&body))
    }

    pub(crate) fn tls_server(tcp: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
        let certificate = CertificateDer::from_pem_file(format!("{TEST_DATA}/server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(format!("{TEST_DATA}/server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), tcp)
    }

    /// What accepts the upgrade that `request` asks for.
    pub(crate) fn upgrade_answer(request: &str) -> Vec<u8> {
        let (_, key) = request.split_once("Sec-WebSocket-Key: ").unwrap();
        let accept = accept_key(key.lines().next().unwrap());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes()
    }
}

//! Connections: TCP, TLS, proxy, DNS; an HTTP agent (ureq) and WebSockets (tungstenite) over
//! them. Every wait here is a poll(2) on the socket and on a `Stop`, so that a stop ends a
//! connect, a handshake, a read or a write at once.
//!
//! TLS trusts the system's CA file (SSL_CERT_FILE, else the usual places); it is read when
//! the first https or wss connection is made.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tungstenite::WebSocket;
use tungstenite::protocol::{Role, WebSocketConfig};
use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};

use super::tls;
use crate::base::error::{Error, Result};
use crate::base::random;
use crate::base::stop::{Stop, poll_for};

/// One address of a host; a host with several gets this for each.
const CONNECT_MAX: Duration = Duration::from_secs(10);
const DNS_MAX: Duration = Duration::from_secs(10);
/// From the name look-up to the end of the TLS handshake or the WebSocket upgrade.
pub(super) const OPEN_MAX: Duration = Duration::from_secs(30);
/// Bytes of a response head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// One Slack envelope. The largest event payloads are some hundred KB.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
pub(super) const USER_AGENT: &str = concat!("mom/", env!("CARGO_PKG_VERSION"));

/// Cheap to clone; all clones share the TLS configuration and its sessions.
#[derive(Clone, Debug)]
pub(crate) struct Net(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    proxy: Option<Proxy>,
    tls: OnceLock<std::result::Result<Arc<ClientConfig>, String>>,
}

impl Net {
    /// Reads HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY. A proxy serves every address
    /// that NO_PROXY does not name, by CONNECT.
    pub(crate) fn from_env() -> Net {
        Net(Arc::new(Inner {
            proxy: Proxy::try_from_env(),
            tls: OnceLock::new(),
        }))
    }

    /// Opens a ws:// or wss:// connection; the socket is left nonblocking: `WouldBlock`
    /// where others would wait.
    pub(crate) fn websocket(&self, url: &str, stop: &Stop) -> Result<WebSocket<Stream>> {
        let target =
            Target::parse(url).ok_or_else(|| Error::failed("not a ws:// or wss:// address"))?;
        self.upgrade(&target, stop).map_err(|err| {
            let why = format!("cannot open a WebSocket to {}: {err}", target.host);
            match () {
                () if stopped(&err) => Error::Stopped,
                () if is_hopeless(&err) => Error::Failed(why),
                () => Error::retry(why),
            }
        })
    }

    fn upgrade(&self, target: &Target, stop: &Stop) -> io::Result<WebSocket<Stream>> {
        let mut stream = self.open(target, stop, Instant::now() + OPEN_MAX)?;
        let nonce = random::bytes::<16>().map_err(|err| io::Error::other(err.to_string()))?;
        let key = BASE64_STANDARD.encode(nonce);
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
            target.path(),
            target.authority()
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
        stream.wire().until = None;
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
    pub(super) fn open(&self, target: &Target, stop: &Stop, until: Instant) -> io::Result<Stream> {
        let proxy = self.0.proxy.as_ref().filter(|proxy| {
            // A model server on this machine is not to be sought elsewhere.
            let here = !target.tls && target.is_loopback();
            !proxy.is_no_proxy(&target.uri) && !here
        });
        let (host, port) = match proxy {
            Some(proxy) => (proxy.host(), proxy.port()),
            None => (target.host.as_str(), target.port),
        };
        if proxy.is_some_and(|proxy| proxy.protocol() != ProxyProtocol::Http) {
            return Err(hopeless(
                "only http:// proxies can be used (see ALL_PROXY, HTTPS_PROXY)",
            ));
        }
        let tcp = connect(host, port, stop, until)?;
        let mut wire = Wire {
            tcp,
            stop: stop.clone(),
            until: Some(until),
        };
        if let Some(proxy) = proxy {
            tunnel(&mut wire, proxy, target)?;
        }
        if !target.tls {
            return Ok(Stream::Plain(wire));
        }
        let name = ServerName::try_from(target.bare_host().to_owned())
            .map_err(|_| io::Error::other("not a host name that TLS can check"))?;
        let config = self.tls().map_err(hopeless)?;
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut wire).map_err(tls::with_hint)?;
        }
        Ok(Stream::Tls(Box::new(StreamOwned::new(session, wire))))
    }

    /// Host and port of the proxy that is used.
    pub(crate) fn proxy(&self) -> Option<String> {
        let proxy = self.0.proxy.as_ref()?;
        Some(format!("{}:{}", proxy.host(), proxy.port()))
    }

    /// The file of CA certificates, once it was read; else what is wrong with it.
    pub(crate) fn check_ca(&self) -> std::result::Result<PathBuf, String> {
        self.tls().and_then(|_| tls::ca_file())
    }

    fn tls(&self) -> std::result::Result<Arc<ClientConfig>, String> {
        let config = || tls::config(&tls::ca_file()?);
        self.0.tls.get_or_init(config).clone()
    }
}

/// A plain or encrypted connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Wire),
    Tls(Box<StreamOwned<ClientConnection, Wire>>),
}

impl Stream {
    pub(super) fn wire(&mut self) -> &mut Wire {
        match self {
            Stream::Plain(wire) => wire,
            Stream::Tls(tls) => &mut tls.sock,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Plain(wire) => wire.tcp.as_fd(),
            Stream::Tls(tls) => tls.sock.tcp.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(wire) => wire.read(buf),
            Stream::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(wire) => wire.write(buf),
            Stream::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(wire) => wire.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// A nonblocking TCP socket that waits on its own terms.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    stop: Stop,
    /// Until when a read or write may wait; `None`: not at all, `WouldBlock` goes up.
    pub(super) until: Option<Instant>,
}

impl Wire {
    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        let Some(until) = self.until else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        wait(&self.tcp, flags, until, &self.stop)
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tcp.read(buf) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
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
        if stop.is_set() {
            return Err(io::Error::other(Trouble::Stopped));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
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

/// What is inside an `io::Error` of ours when a caller must branch on it.
#[derive(Debug)]
pub(super) enum Trouble {
    Stopped,
    /// No connection came about: nothing was sent.
    NotConnected(io::Error),
    /// No waiting mends it.
    Hopeless(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Stopped => f.write_str("stopped"),
            Trouble::NotConnected(err) => err.fmt(f),
            Trouble::Hopeless(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Trouble {}

fn hopeless(why: impl Into<String>) -> io::Error {
    io::Error::other(Trouble::Hopeless(why.into()))
}

/// Whether such a trouble is in there, however deep ureq or rustls wrapped it.
fn any_trouble(err: &(dyn std::error::Error + 'static), is_it: fn(&Trouble) -> bool) -> bool {
    if let Some(trouble) = err.downcast_ref::<Trouble>() {
        return is_it(trouble)
            || matches!(trouble, Trouble::NotConnected(inner) if any_trouble(inner, is_it));
    }
    if let Some(err) = err.downcast_ref::<io::Error>() {
        return err.get_ref().is_some_and(|inner| any_trouble(inner, is_it));
    }
    match err.downcast_ref::<ureq::Error>() {
        Some(ureq::Error::Io(inner)) => any_trouble(inner, is_it),
        _ => err
            .source()
            .is_some_and(|source| any_trouble(source, is_it)),
    }
}

/// Whether a stop ended it.
pub(crate) fn stopped(err: &(dyn std::error::Error + 'static)) -> bool {
    any_trouble(err, |trouble| matches!(trouble, Trouble::Stopped))
}

/// Whether no waiting mends it: no CA certificates, a proxy of a kind we can't use.
pub(crate) fn is_hopeless(err: &(dyn std::error::Error + 'static)) -> bool {
    any_trouble(err, |trouble| matches!(trouble, Trouble::Hopeless(_)))
}

/// Whether the request of a failed call certainly did not leave.
pub(crate) fn not_sent(err: &ureq::Error) -> bool {
    matches!(err, ureq::Error::BadUri(_))
        || any_trouble(err, |trouble| matches!(trouble, Trouble::NotConnected(_)))
}

/// Tries the host's addresses in turn.
fn connect(host: &str, port: u16, stop: &Stop, until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::other(format!("{host} has no address"));
    for address in look_up(host, port, stop, until)? {
        match connect_one(address, stop, until) {
            Ok(tcp) => return Ok(tcp),
            Err(err) if stopped(&err) => return Err(err),
            Err(err) => last = err,
        }
    }
    Err(last)
}

fn connect_one(address: SocketAddr, stop: &Stop, until: Instant) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => {
            let until = until.min(Instant::now() + CONNECT_MAX);
            wait(&socket, PollFlags::OUT, until, stop)?;
            rustix::net::sockopt::socket_error(&socket)??;
        }
        Err(err) => return Err(err.into()),
    }
    let tcp = TcpStream::from(socket);
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// getaddrinfo(3) knows neither limits nor stops: it gets a thread of its own, which outlives
/// a stop by the resolver's own time limit and then ends unheard.
fn look_up(host: &str, port: u16, stop: &Stop, until: Instant) -> io::Result<Vec<SocketAddr>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let name = bare.to_owned();
    thread::Builder::new()
        .name("dns".to_owned())
        .spawn(move || {
            let found = (name.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect::<Vec<_>>);
            // Nobody listens any more after a stop.
            sender.send(found).ok();
            drop(writer);
        })?;
    let until = until.min(Instant::now() + DNS_MAX);
    wait(&reader, PollFlags::IN, until, stop)?;
    receiver
        .recv()
        .map_err(|_| io::Error::other("the name look-up ended early"))?
        .map_err(|err| io::Error::other(format!("cannot look up {bare}: {err}")))
}

fn tunnel(wire: &mut Wire, proxy: &Proxy, target: &Target) -> io::Result<()> {
    let address = format!("{}:{}", target.host, target.port);
    let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n");
    if let Some(user) = proxy.username() {
        let pair = format!("{user}:{}", proxy.password().unwrap_or_default());
        let pair = BASE64_STANDARD.encode(pair);
        request.push_str(&format!("Proxy-Authorization: Basic {pair}\r\n"));
    }
    request.push_str("\r\n");
    wire.write_all(request.as_bytes())?;
    let (head, rest) = read_head(wire)?;
    let what = match status_of(&head) {
        Some(200..=299) if rest.is_empty() => return Ok(()),
        Some(407) => "wants another user and password than HTTPS_PROXY has".to_owned(),
        _ => format!("answered {:?}", head.lines().next().unwrap_or_default()),
    };
    let (host, port) = (proxy.host(), proxy.port());
    Err(io::Error::other(format!("the proxy {host}:{port} {what}")))
}

/// A response head without its empty line, and what came after it.
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

/// RFC 6455, section 4.2.2.
fn accept_key(key: &str) -> String {
    let mut sha1 = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(sha1.finish())
}

/// Where a URL points to.
#[derive(Debug)]
pub(super) struct Target {
    tls: bool,
    /// With brackets for IPv6, as in the URL.
    host: String,
    port: u16,
    uri: Uri,
}

impl Target {
    pub(super) fn of(uri: &Uri) -> Option<Target> {
        let tls = match uri.scheme_str()? {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        let port = match uri.port_u16() {
            Some(port) => port,
            None if uri.authority()?.as_str().ends_with(host) => {
                if tls {
                    443
                } else {
                    80
                }
            }
            // More than 65535.
            None => return None,
        };
        Some(Target {
            tls,
            host: host.to_owned(),
            port,
            uri: uri.clone(),
        })
    }

    fn parse(url: &str) -> Option<Target> {
        Target::of(&url.parse().ok()?)
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
    Target::parse(url).map_or_else(|| "(no host)".to_owned(), |target| target.authority())
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, retry_after};
    use super::testing::*;
    use super::*;
    use crate::base::stop::Cause;
    use crate::mutate::survive;
    use std::net::TcpListener;
    use std::path::Path;

    #[test]
    fn targets() {
        let of = |url| {
            Target::parse(url).map(|t| format!("{} {} {} {}", t.tls, t.host, t.port, t.path()))
        };
        for (url, want) in [
            ("https://slack.com/api", Some("true slack.com 443 /api")),
            ("ws://127.0.0.1:80?x=1", Some("false 127.0.0.1 80 /?x=1")),
            ("wss://u:p@h:1/p?q#f", Some("true h 1 /p?q")),
            ("http://[::1]:8/x", Some("false [::1] 8 /x")),
            ("http://[::1]/x", Some("false [::1] 80 /x")),
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
    fn the_accept_key_of_the_rfc() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
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
            ("retry-after", "1.5", Some(1_500)),
            ("retry-after-ms", "250", Some(250)),
            ("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("retry-after", "-1", None),
            ("retry-after", "soon", None),
            ("retry-after", "1e300", None),
            ("x", "1", None),
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
            if let Some(target) = Target::parse(&text) {
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

    const FOREVER: Limits = Limits {
        first_byte: Duration::from_secs(3600),
        idle: Duration::from_secs(3600),
        total: None,
    };

    /// Starts a request, lets the server say `says` and then nothing, and stops it.
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
                    if stopped(&err) {
                        Error::Stopped
                    } else {
                        Error::failed(err.to_string())
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
        let address = listener.local_addr().unwrap();
        let soon = || Instant::now() + Duration::from_millis(20);
        let mut held = Vec::new();
        let full = loop {
            match connect_one(address, &Stop::new(), soon()) {
                Ok(tcp) => held.push(tcp),
                Err(err) => break err,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
        let stop = Stop::new();
        let remote = stop.clone();
        let call = thread::spawn(move || {
            let later = Instant::now() + Duration::from_secs(3600);
            connect("127.0.0.1", address.port(), &remote, later)
        });
        stop.set(Cause::Asked);
        assert!(stopped(&call.join().unwrap().unwrap_err()));
    }

    #[test]
    fn a_limit_is_worth_another_try() {
        let (hold, held) = mpsc::channel();
        let address = serve(move |tcp| hold.send(tcp).unwrap());
        let limits = Limits {
            first_byte: Duration::from_millis(20),
            ..FOREVER
        };
        let url = format!("http://{address}/?secret");
        let err = net(None).agent(&Stop::new(), limits).get(&url).call();
        let err = err.unwrap_err();
        assert!(!not_sent(&err));
        assert!(!stopped(&err) && !is_hopeless(&err));
        assert_eq!(err.to_string(), "io: no answer in time");
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
        socket.get_mut().wire().until = Some(Instant::now() + Duration::from_secs(30));
        assert_eq!(socket.read().unwrap().to_text().unwrap(), "echo");
    }

    #[test]
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
            (
                &proxied,
                "wss://slack.example/?secret".to_owned(),
                false,
                "another user and password",
            ),
            // Plain and on this machine: the proxy is left out.
            (
                &socks,
                format!("ws://{refusing}/"),
                false,
                "HTTP/1.1 407 No",
            ),
            (
                &socks,
                format!("wss://{refusing}/"),
                true,
                "only http:// proxies",
            ),
            (&no_ca, format!("wss://{refusing}/"), true, "no CA"),
            (
                &other_ca,
                format!("wss://{tls}/"),
                false,
                "UnknownIssuer; if something",
            ),
            (
                &direct,
                format!("wss://{no_tls}/"),
                false,
                "127.0.0.1: received corrupt message",
            ),
            (
                &direct,
                format!("ws://{wrong}/"),
                false,
                "Sec-WebSocket-Accept",
            ),
            (
                &direct,
                format!("ws://{short}/"),
                false,
                "unexpected end of file",
            ),
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
    use rustls::{ServerConfig, ServerConnection};
    use std::net::TcpListener;

    pub(crate) const TEST_DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

    /// Trusts the certificates in tests/data.
    pub(crate) fn net(proxy: Option<&str>) -> Net {
        net_with(proxy, tls::config(&Path::new(TEST_DATA).join("ca.pem")))
    }

    pub(crate) fn net_with(
        proxy: Option<&str>,
        tls: std::result::Result<Arc<ClientConfig>, String>,
    ) -> Net {
        Net(Arc::new(Inner {
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

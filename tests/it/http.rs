//! A small HTTP/1.1 server for the fakes: 127.0.0.1, a free port, one named thread per
//! connection, keep-alive, bodies by length or in chunks both ways, TLS on request.
//! What it can do that a good server does not: cut, stall, vanish.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;

use crate::tls;

/// mom's requests have a limited size; a larger one is a bug in mom.
const BODY_MAX: usize = 64 << 20;

/// A gate is opened once and stays open; clones are the same gate. Waiting for it also ends when
/// the peer hangs up or the server is dropped.
#[derive(Clone)]
pub(crate) struct Gate(Arc<OwnedFd>);

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate(Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap()))
    }

    pub(crate) fn open(&self) {
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).unwrap();
    }
}

pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query string.
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The token of `Authorization: Bearer TOKEN`.
    pub(crate) fn bearer(&self) -> Option<&str> {
        self.header("authorization").strip_prefix("Bearer ")
    }
}

pub(crate) enum Answer {
    Reply(Reply),
    /// The closure gets the connection; the request is still to be read from it.
    Upgrade(Box<dyn FnOnce(Conn) + Send>),
    HangUp,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Whole(Vec<u8>),
    /// Sent in chunks by a closure, which also learns when the peer hangs up.
    Stream(Box<Sender>),
}

pub(crate) type Sender = dyn FnOnce(&mut Chunks<'_>) -> io::Result<()> + Send;

impl Reply {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: vec![("Content-Type".into(), content_type.into())],
            body: Body::Whole(body.into()),
        }
    }

    pub(crate) fn json(status: u16, value: &Value) -> Reply {
        Reply::new(status, "application/json; charset=utf-8", value.to_string())
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.into(), value.to_string()));
        self
    }
}

/// The peer as a handler sees it: it may hang up while the handler waits.
pub(crate) struct Peer<'a>(&'a TcpStream);

impl Peer<'_> {
    /// Waits for the gate, at most `limit`; an error when the peer hung up first.
    pub(crate) fn pause(&self, gate: &Gate, limit: Option<Duration>) -> io::Result<()> {
        let mut fds = [
            PollFd::new(self.0, PollFlags::RDHUP),
            PollFd::new(&gate.0, PollFlags::IN),
        ];
        let limit = limit.map(|limit| limit.try_into().unwrap());
        while poll(&mut fds, limit.as_ref()) == Err(rustix::io::Errno::INTR) {}
        match fds[0].revents().is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// The body of a streamed reply.
pub(crate) struct Chunks<'a>(&'a mut Conn);

impl Chunks<'_> {
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.0.write_all(&chunk)?;
        self.0.flush()
    }

    pub(crate) fn pause(&mut self, gate: &Gate) -> io::Result<()> {
        Peer(self.0.tcp()).pause(gate, None)
    }

    /// Ends the connection in the middle of the body.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        self.0.tcp().shutdown(Shutdown::Both)
    }
}

/// One accepted connection: bytes already read, then the stream itself.
pub(crate) struct Conn {
    ahead: io::Cursor<Vec<u8>>,
    stream: Stream,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Conn {
    pub(crate) fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

/// The server has a second handle to the connection, so dropping this one does not close it.
impl Drop for Conn {
    fn drop(&mut self) {
        self.tcp().shutdown(Shutdown::Both).ok();
    }
}

impl Read for Conn {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.ahead.read(into)? {
            0 => match &mut self.stream {
                Stream::Plain(tcp) => tcp.read(into),
                Stream::Tls(tls) => tls.read(into),
            },
            n => Ok(n),
        }
    }
}

impl Write for Conn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(tcp) => tcp.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(tcp) => tcp.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

type Handler = dyn Fn(&Request, &Peer<'_>) -> Answer + Send + Sync;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Ends its connections and joins its threads when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) scheme: Scheme,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// Before or after the effect of something that mom requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Moment {
    Before,
    After,
}

/// Called at every moment of every request, from the connection's thread.
pub(crate) type Hook = Arc<dyn Fn(Moment) + Send + Sync>;

#[derive(Default)]
struct Shared {
    closing: AtomicBool,
    down: AtomicBool,
    hook: Mutex<Option<Hook>>,
    live: Mutex<Vec<(TcpStream, JoinHandle<()>)>>,
}

impl Server {
    pub(crate) fn start(
        name: &str,
        scheme: Scheme,
        listener: TcpListener,
        handler: Arc<Handler>,
    ) -> Server {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let config = (scheme == Scheme::Https).then(tls::server_config);
        let (name, ours) = (name.to_owned(), Arc::clone(&shared));
        let accept = move || {
            for (n, tcp) in listener.incoming().enumerate() {
                let Ok(tcp) = tcp else { continue };
                if ours.closing.load(Ordering::SeqCst) {
                    return;
                }
                if ours.down.load(Ordering::SeqCst) {
                    continue;
                }
                tcp.set_nodelay(true).unwrap();
                let copy = tcp.try_clone().unwrap();
                let stream = match &config {
                    None => Stream::Plain(tcp),
                    Some(config) => {
                        let tls = ServerConnection::new(Arc::clone(config)).unwrap();
                        Stream::Tls(Box::new(StreamOwned::new(tls, tcp)))
                    }
                };
                let handler = Arc::clone(&handler);
                let hooked = Arc::clone(&ours);
                let handle = move |request: &Request, peer: &Peer<'_>| {
                    hooked.moment(Moment::Before);
                    let answer = handler(request, peer);
                    hooked.moment(Moment::After);
                    answer
                };
                let thread = std::thread::Builder::new()
                    .name(format!("{name}-{n}"))
                    .spawn(move || serve(stream, &handle))
                    .unwrap();
                let mut live = ours.live.lock().unwrap();
                live.retain(|(_, thread)| !thread.is_finished());
                live.push((copy, thread));
            }
        };
        let acceptor = std::thread::Builder::new()
            .name("accept".into())
            .spawn(accept);
        Server {
            addr,
            scheme,
            shared,
            acceptor: Some(acceptor.unwrap()),
        }
    }

    /// `http://127.0.0.1:PORT`; over TLS the name is localhost, as in the certificate.
    pub(crate) fn url(&self) -> String {
        base_url(self.scheme, self.addr)
    }

    /// While it is down, every connection ends and new ones are dropped as soon as they are made.
    pub(crate) fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
        if down {
            self.hang_up();
        }
    }

    pub(crate) fn hook(&self, hook: Hook) {
        *self.shared.hook.lock().unwrap() = Some(hook);
    }

    /// Waits for the end of every connection: after that the peer is gone, and what it had
    /// requested has happened.
    pub(crate) fn join_all(&self) {
        let all = std::mem::take(&mut *self.shared.live.lock().unwrap());
        for (_, thread) in all {
            thread.join().ok();
        }
    }

    fn hang_up(&self) {
        for (tcp, _) in self.shared.live.lock().unwrap().iter() {
            // It may be closed already, which is no error.
            tcp.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Shared {
    fn moment(&self, moment: Moment) {
        let hook = self.hook.lock().unwrap().clone();
        if let Some(hook) = hook {
            hook(moment);
        }
    }
}

pub(crate) fn base_url(scheme: Scheme, addr: SocketAddr) -> String {
    match scheme {
        Scheme::Http => format!("http://{addr}"),
        Scheme::Https => format!("https://localhost:{}", addr.port()),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes accept(2); when that fails the listener is gone already.
        TcpStream::connect(self.addr).ok();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
        self.hang_up();
        for (_, thread) in self.shared.live.lock().unwrap().drain(..) {
            thread.join().ok();
        }
    }
}

/// Serves one connection until either side ends it. Errors of the peer end it without a message:
/// tests look at what the errors did to mom.
fn serve(stream: Stream, handler: &Handler) {
    let ahead = io::Cursor::default();
    let mut conn = BufReader::new(Conn { ahead, stream });
    loop {
        let mut head = Vec::new();
        let Ok(Some(request)) = read_request(&mut conn, &mut head) else {
            return;
        };
        match handler(&request, &Peer(conn.get_ref().tcp())) {
            Answer::Reply(reply) => {
                let close = request.header("connection").eq_ignore_ascii_case("close");
                if write_reply(conn.get_mut(), reply).is_err() || close {
                    return;
                }
            }
            Answer::Upgrade(take) => {
                head.extend_from_slice(conn.buffer());
                let mut conn = conn.into_inner();
                conn.ahead = io::Cursor::new(head);
                return take(conn);
            }
            Answer::HangUp => return,
        }
    }
}

/// `None` at the end of the connection. `head` gets the bytes of request line and headers.
fn read_request(conn: &mut BufReader<Conn>, head: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    while !head.ends_with(b"\r\n\r\n") {
        if conn.read_until(b'\n', head)? == 0 {
            return Ok(None);
        }
    }
    let text = String::from_utf8(head.clone()).map_err(|_| bad("head is not UTF-8"))?;
    let mut lines = text.trim_end().split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1")) = (first.next(), first.next(), first.next())
    else {
        return Err(bad("no HTTP/1.1 request line"));
    };
    let mut headers = BTreeMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| bad("header without colon"))?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: form(query),
        headers,
        body: Vec::new(),
    };
    let chunked = request.header("transfer-encoding") == "chunked";
    match (chunked, request.headers.get("content-length")) {
        (true, Some(_)) => return Err(bad("both a length and chunks")),
        (true, None) => loop {
            let mut line = String::new();
            conn.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| bad("chunk size"))?;
            read_exactly(conn, size, &mut request.body)?;
            let mut end = [0; 2];
            conn.read_exact(&mut end)?;
            if size == 0 {
                break;
            }
        },
        (false, Some(length)) => {
            let length = length.parse().map_err(|_| bad("content length"))?;
            if request.header("expect") == "100-continue" {
                conn.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            read_exactly(conn, length, &mut request.body)?;
        }
        (false, None) => {}
    }
    Ok(Some(request))
}

fn read_exactly(conn: &mut impl Read, size: usize, into: &mut Vec<u8>) -> io::Result<()> {
    if into.len() + size > BODY_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let at = into.len();
    into.resize(at + size, 0);
    conn.read_exact(&mut into[at..])
}

fn write_reply(conn: &mut Conn, reply: Reply) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Whatever\r\n", reply.status);
    for (name, value) in reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match reply.body {
        Body::Whole(body) => {
            head += &format!("Content-Length: {}\r\n\r\n", body.len());
            conn.write_all(&[head.as_bytes(), &body].concat())?;
            conn.flush()
        }
        Body::Stream(send) => {
            head += "Transfer-Encoding: chunked\r\n\r\n";
            conn.write_all(head.as_bytes())?;
            send(&mut Chunks(conn))?;
            conn.write_all(b"0\r\n\r\n")?;
            conn.flush()
        }
    }
}

/// `a=b&c=d` with percent codes and plus signs; not UTF-8 becomes U+FFFD.
pub(crate) fn form(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let mut out = Vec::new();
        let mut rest = text.as_bytes();
        while let [byte, tail @ ..] = rest {
            rest = tail;
            let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
            match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                (b'%', Some(code)) => {
                    out.push(code);
                    rest = &tail[2..];
                }
                (b'+', _) => out.push(b' '),
                _ => out.push(*byte),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

//! Socket Mode: one thread per socket, woken by poll, so that a test can have several open
//! at once and let any of them fall silent.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::{Ack, State};
use crate::http::{Conn, Moment};
use crate::watch::Watched;

pub(crate) enum Frame {
    Text(String),
    Cut,
    /// The first bytes once, then the others without end.
    Flood(&'static [u8], &'static [u8]),
}

pub(crate) struct Sent {
    pub(crate) envelope: Value,
    /// ts of the message it is about.
    pub(crate) ts: String,
    pub(crate) acked: bool,
    at: Instant,
}

/// In a text: see `send_envelope`.
pub(crate) const HALF_PAIR: char = '\u{F8FF}';

/// What the test side knows of a socket.
pub(crate) struct Socket {
    pub(crate) open: bool,
    /// Told to go away: no new events.
    pub(crate) retired: bool,
    pub(crate) sent: BTreeMap<String, Sent>,
    out: VecDeque<Frame>,
    wake: Arc<OwnedFd>,
}

impl Socket {
    pub(crate) fn takes_events(&self) -> bool {
        self.open && !self.retired
    }

    pub(crate) fn push(&mut self, frame: Frame) {
        self.out.push_back(frame);
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).unwrap();
    }

    /// `HALF_PAIR` in it goes out as one half of a surrogate pair, as people's clients make
    /// of a character cut in two.
    pub(crate) fn send_envelope(&mut self, id: &str, envelope: Value) {
        let text = envelope.to_string().replace(HALF_PAIR, "\\ud83d");
        self.push(Frame::Text(text));
        let payload = &envelope["payload"];
        let ts = [&payload["event"]["ts"], &payload["message"]["ts"]];
        let ts = ts
            .into_iter()
            .find_map(Value::as_str)
            .unwrap_or("")
            .to_owned();
        let sent = Sent {
            envelope,
            ts,
            acked: false,
            at: Instant::now(),
        };
        self.sent.insert(id.into(), sent);
    }
}

/// Serves one socket until either side ends it.
pub(super) fn serve(state: &Watched<State>, conn: Conn) {
    let Ok(mut socket) = tungstenite::accept(conn) else {
        return;
    };
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
    let n = state.change(|state| {
        let open = state.sockets.iter().filter(|socket| socket.open).count() + 1;
        let hello = json!({"type": "hello", "num_connections": open, "debug_info": {"host": "fake", "build_number": 1,
            "approximate_connection_time": 18060}, "connection_info": {"app_id": "A01"}});
        state.sockets.push(Socket {
            open: true,
            retired: false,
            sent: BTreeMap::new(),
            out: VecDeque::new(),
            wake: Arc::clone(&wake),
        });
        let socket = state.sockets.last_mut().expect("pushed above");
        socket.push(Frame::Text(hello.to_string()));
        state.send_again();
        state.sockets.len() - 1
    });
    // However it ends, it ended.
    run(state, n, &mut socket, &wake).ok();
    socket.get_ref().tcp().shutdown(Shutdown::Both).ok();
    state.change(|state| state.sockets[n].open = false);
}

fn run(
    state: &Watched<State>,
    n: usize,
    socket: &mut WebSocket<Conn>,
    wake: &OwnedFd,
) -> tungstenite::Result<()> {
    socket.get_ref().tcp().set_nonblocking(true)?;
    loop {
        loop {
            match socket.read() {
                Ok(message) => {
                    let hook = match message {
                        Message::Text(_) => state.lock().hook.clone(),
                        _ => None,
                    };
                    let at = |moment| hook.iter().for_each(|hook| hook(moment));
                    at(Moment::Before);
                    state.change(|state| heard(state, n, &message));
                    at(Moment::After);
                }
                Err(err) if would_block(&err) => break,
                Err(err) => return Err(err),
            }
        }
        let frames = state.change(|state| std::mem::take(&mut state.sockets[n].out));
        for frame in frames {
            let sent = match frame {
                Frame::Text(text) => socket.write(Message::text(text)),
                Frame::Cut => return Ok(()),
                Frame::Flood(first, rest) => {
                    socket.flush()?;
                    return flood(socket.get_mut(), first, rest);
                }
            };
            sent.or_else(|err| if would_block(&err) { Ok(()) } else { Err(err) })?;
        }
        let full = match socket.flush() {
            Err(err) if would_block(&err) => PollFlags::OUT,
            other => other.map(|()| PollFlags::empty())?,
        };
        let tcp = socket.get_ref().tcp();
        poll(
            &mut [
                PollFd::new(tcp, PollFlags::IN | full),
                PollFd::new(wake, PollFlags::IN),
            ],
            None,
        )
        .map_err(io::Error::from)?;
        // Empty when it was the socket that woke us.
        rustix::io::read(wake, &mut [0; 8]).ok();
    }
}

fn would_block(err: &tungstenite::Error) -> bool {
    matches!(err, tungstenite::Error::Io(err) if err.kind() == io::ErrorKind::WouldBlock)
}

/// Until mom is gone; nothing is read meanwhile.
fn flood(conn: &mut Conn, first: &[u8], rest: &[u8]) -> tungstenite::Result<()> {
    conn.tcp().set_nonblocking(false)?;
    conn.write_all(first)?;
    let rest = rest.repeat(10_000);
    loop {
        conn.write_all(&rest)?;
    }
}

/// A frame from mom. All she may say are acks, each once, on the socket that delivered.
fn heard(state: &mut State, n: usize, message: &Message) {
    let socket = &mut state.sockets[n];
    let text = match message {
        Message::Text(text) => text.as_str(),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => return,
        _ => return state.complaints.push("a binary frame".into()),
    };
    let frame: Value = serde_json::from_str(text).unwrap_or_default();
    let id = frame["envelope_id"].as_str().unwrap_or("");
    let Some(sent) = socket.sent.get_mut(id) else {
        return state
            .complaints
            .push(format!("not an ack for this socket: {text}"));
    };
    let payload = frame["payload"].clone();
    let may_answer = sent.envelope["accepts_response_payload"] == true;
    if sent.acked {
        state.complaints.push(format!("acked twice: {id}"));
    } else if !may_answer
        && payload
            .as_object()
            .is_some_and(|payload| !payload.is_empty())
    {
        state
            .complaints
            .push(format!("a payload that {id} does not accept: {payload}"));
    }
    sent.acked = true;
    state.acks.push(Ack {
        ts: sent.ts.clone(),
        after: sent.at.elapsed(),
    });
}

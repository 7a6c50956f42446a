//! HTTP by ureq over our connections: its limits and stops, and what headers tell.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{fmt, result};

use rustix::event::{PollFd, PollFlags};
use ureq::Agent;
use ureq::http::HeaderMap;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use super::connect::{Net, OPEN_MAX, Stream, Target, Trouble, USER_AGENT};
use crate::base::json;
use crate::base::stop::{Stop, poll_for};
use crate::base::time;

/// Of each HTTP connection, resident while it is kept. ureq's own are 128 KiB both; an
/// answer's head must fit into the first.
const READ_BUFFER_BYTES: usize = 16 << 10;
const WRITE_BUFFER_BYTES: usize = 8 << 10;

/// What a request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Until the first byte of the answer.
    pub(crate) first_byte: Duration,
    /// Between two reads after that.
    pub(crate) idle: Duration,
    /// The whole call; `None` for streams, which may go on as long as bytes come.
    pub(crate) total: Option<Duration>,
}

impl Net {
    /// An HTTP client whose calls end with the stop. It follows no redirects and takes every
    /// status as an answer.
    pub(crate) fn agent(&self, stop: &Stop, limits: Limits) -> Agent {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .timeout_global(limits.total)
            .max_idle_connections(2)
            .input_buffer_size(READ_BUFFER_BYTES)
            .output_buffer_size(WRITE_BUFFER_BYTES)
            .build();
        Agent::with_parts(
            config,
            Dial {
                net: self.clone(),
                stop: stop.clone(),
                limits,
            },
            NoLookup,
        )
    }
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The server's clock, by its `Date` header: milliseconds since 1970, to the second.
pub(crate) fn date_ms(headers: &HeaderMap) -> Option<i64> {
    time::parse_http_date(header(headers, "date")?)
}

/// `Retry-After` (seconds or an HTTP date) or `retry-after-ms`.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    if let Some(ms) = header(headers, "retry-after-ms").and_then(|ms| ms.parse().ok()) {
        return Some(Duration::from_millis(ms));
    }
    let text = header(headers, "retry-after")?;
    if let Some(seconds) = json::number(text) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let wait = time::parse_http_date(text)? - time::now_ms();
    Some(Duration::from_millis(wait.max(0) as u64))
}

/// ureq's way to a connection: ours.
struct Dial {
    net: Net,
    stop: Stop,
    limits: Limits,
}

impl Connector for Dial {
    type Out = Line;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> result::Result<Option<Line>, ureq::Error> {
        let target = Target::of(details.uri)
            .ok_or_else(|| ureq::Error::BadUri("not an http address".to_owned()))?;
        let left = details.timeout.not_zero();
        let left = left.map_or(OPEN_MAX, |left| OPEN_MAX.min(*left));
        let opened = self
            .net
            .open(&target, &self.stop, Instant::now() + left)
            .map_err(|err| io::Error::new(err.kind(), Trouble::NotConnected(err)));
        let stream = opened?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Line {
            stream,
            buffers,
            limits: self.limits,
            answering: false,
        }))
    }
}

/// One connection as ureq drives it.
struct Line {
    stream: Stream,
    buffers: LazyBuffers,
    limits: Limits,
    /// The answer to what was written last has begun.
    answering: bool,
}

impl Line {
    /// ureq's own limit is the one for the whole call.
    fn set_limit(&mut self, next: &NextTimeout) {
        let limits = self.limits;
        let idle = if self.answering {
            limits.idle
        } else {
            limits.first_byte
        };
        let left = next.not_zero().map_or(idle, |left| idle.min(*left));
        self.stream.wire().until = Some(Instant::now() + left);
    }
}

impl Transport for Line {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(
        &mut self,
        amount: usize,
        timeout: NextTimeout,
    ) -> result::Result<(), ureq::Error> {
        self.answering = false;
        self.set_limit(&timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        self.stream.flush()?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> result::Result<bool, ureq::Error> {
        self.set_limit(&timeout);
        let read = match self.stream.read(self.buffers.input_append_buf()) {
            // A server that skips TLS's goodbye: the body's own framing tells what is missing.
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        self.buffers.input_appended(read);
        self.answering = true;
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        // Nothing may come on an idle connection: readable means closed.
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        poll_for(&mut fds, Some(Duration::ZERO)) == 0
    }

    fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }
}

/// Names are looked up in `connect`, where a stop is heard and a proxy may do it instead.
#[derive(Debug)]
struct NoLookup;

// ureq wants them; derived, they would bring those of all of rustls along.
impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

impl Resolver for NoLookup {
    fn resolve(
        &self,
        _uri: &ureq::http::Uri,
        _config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> result::Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from(([0, 0, 0, 0], 0)));
        Ok(addresses)
    }
}

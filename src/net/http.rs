//! HTTP by ureq over our connections, with our limits and stops; also reads `Retry-After`.

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

use super::connect::{Destination, Net, NetStream, OPEN_MAX, USER_AGENT};
use crate::base::json;
use crate::base::stop::{Stop, poll_for};
use crate::base::time;

/// Read buffer of each HTTP connection, in memory while the connection is open. ureq's own
/// buffers have 128 KiB each; an answer's head must fit into this one.
const READ_BUFFER_BYTES: usize = 16 << 10;
const WRITE_BUFFER_BYTES: usize = 8 << 10;

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpLimits {
    /// Until the head of the answer is complete.
    pub(crate) head: Duration,
    /// Between two reads after that.
    pub(crate) idle: Duration,
    /// The whole call; `None` for streams, which may go on as long as bytes come.
    pub(crate) total: Option<Duration>,
}

impl Net {
    /// An HTTP client whose calls end when `stop` is set. It follows no redirects, and a
    /// response of any status is an answer, not an error.
    pub(crate) fn agent(&self, stop: &Stop, limits: HttpLimits) -> Agent {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .timeout_global(limits.total)
            .timeout_recv_response(Some(limits.head))
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

/// Opens our connections for ureq.
struct Dial {
    net: Net,
    stop: Stop,
    limits: HttpLimits,
}

impl Connector for Dial {
    type Out = HttpConnection;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> result::Result<Option<HttpConnection>, ureq::Error> {
        let to = Destination::of(details.uri)
            .ok_or_else(|| ureq::Error::BadUri("not an http address".to_owned()))?;
        let left = details.timeout.not_zero();
        let left = left.map_or(OPEN_MAX, |left| OPEN_MAX.min(*left));
        let stream = self.net.open(&to, &self.stop, Instant::now() + left)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(HttpConnection {
            stream,
            buffers,
            limits: self.limits,
            answering: false,
        }))
    }
}

/// One connection as ureq drives it.
struct HttpConnection {
    stream: NetStream,
    buffers: LazyBuffers,
    limits: HttpLimits,
    /// Whether the answer to the last request has begun.
    answering: bool,
}

impl HttpConnection {
    /// Sets how long the stream may wait; ureq has limits only for the head and the whole call.
    fn set_limit(&mut self, next: &NextTimeout) -> result::Result<(), ureq::Error> {
        if next.after.is_zero() {
            return Err(ureq::Error::Timeout(next.reason));
        }
        let idle = match self.answering {
            true => self.limits.idle,
            false => self.limits.head,
        };
        let left = next.not_zero().map_or(idle, |left| idle.min(*left));
        self.stream.wire.until = Some(Instant::now() + left);
        Ok(())
    }
}

impl Transport for HttpConnection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(
        &mut self,
        amount: usize,
        timeout: NextTimeout,
    ) -> result::Result<(), ureq::Error> {
        self.answering = false;
        self.set_limit(&timeout)?;
        self.stream.write_all(&self.buffers.output()[..amount])?;
        self.stream.flush()?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> result::Result<bool, ureq::Error> {
        self.set_limit(&timeout)?;
        let read = match self.stream.read(self.buffers.input_append_buf()) {
            // A server that does not end TLS in order: the body's own length or chunks show
            // whether something is missing.
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => 0,
            read => read?,
        };
        self.buffers.input_appended(read);
        self.answering = true;
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        // No data may come on an idle connection: if it is readable, the server has closed it.
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        poll_for(&mut fds, Some(Duration::ZERO)) == 0
    }

    fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }
}

/// Names are looked up in `connect`, where a stop ends it and a proxy may do it instead.
#[derive(Debug)]
struct NoLookup;

// Required by ureq; derived ones would link those of all of rustls.
impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpConnection")
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

//! One request to a model's server. Knows neither the wire formats nor the meaning of a refusal.

use std::io::{self, Read as _};
use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::{RequestBuilder, SendBody};

use super::Model;
use super::models::CacheLifetime;
use super::refusal::Refusal;
use super::services::Service;
use super::sse::SseReader;
use crate::base::error::{Error, ModelFault};
use crate::base::json;
use crate::base::secret::Secret;
use crate::base::stop::Stop;
use crate::net::{self, HttpLimits, Net, NetFault};

/// How long a stream may be silent before it counts as stalled.
const STREAM_IDLE_MAX: Duration = Duration::from_secs(120);
/// How long a local server, which may be loading the model, may take until the first byte.
const LOCAL_FIRST_BYTE_MAX: Duration = Duration::from_secs(600);
/// Bytes of one event stream: 128,000 tokens in chatty events of 400 bytes are 51 MB.
const STREAM_BYTES_MAX: u64 = 64 << 20;
/// Bytes of an error's body.
const ERROR_BYTES_MAX: u64 = 64 << 10;
/// Bytes of an answer about models: OpenRouter's list of them is almost one MB.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// For questions about a model, which mom can work without.
const PROBE_MAX: Duration = Duration::from_secs(3);

/// Where requests go.
pub(super) struct Endpoint {
    pub(super) net: Net,
    pub(super) service: &'static Service,
    /// Without a slash at its end.
    pub(super) base_url: String,
    pub(super) key: Option<Secret>,
    pub(super) lifetime: CacheLifetime,
}

pub(super) type ReplyStream = SseReader<ureq::BodyReader<'static>>;

pub(super) type Tried<T> = std::result::Result<T, Fault>;

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server refused the request; it may accept another one.
    Refused(Refusal),
    Other(Error),
}

impl Fault {
    pub(super) fn into_error(self, endpoint: &Endpoint, model: &Model) -> Error {
        match self {
            Fault::Refused(refusal) => refusal.into_error(endpoint, model),
            Fault::Other(err) => err,
        }
    }
}

impl From<Error> for Fault {
    fn from(err: Error) -> Fault {
        Fault::Other(err)
    }
}

impl Endpoint {
    #[cfg(test)]
    pub(super) fn for_tests(provider: &str) -> Endpoint {
        let service = super::services::find(provider).unwrap();
        Endpoint {
            net: Net::from_env(),
            service,
            base_url: service.base_url.to_owned(),
            key: None,
            lifetime: CacheLifetime::FiveMinutes,
        }
    }

    /// Sends `body` to `path`; returns the stream that answers.
    pub(super) fn stream(&self, path: &str, body: &[String], stop: &Stop) -> Tried<ReplyStream> {
        stop.check()?;
        let bytes: usize = body.iter().map(String::len).sum();
        let request = self
            .net
            .agent(stop, self.limits(None))
            .post(format!("{}{path}", self.base_url))
            .header("content-type", "application/json")
            .header("content-length", bytes)
            .header("accept", "text/event-stream");
        let mut reader: Box<dyn io::Read> = Box::new(io::empty());
        for piece in body {
            reader = Box::new(reader.chain(piece.as_bytes()));
        }
        let sent = (self.with_key(request)).send(SendBody::from_reader(&mut reader));
        let response = sent.map_err(|err| self.no_answer(stop, &err))?;
        if response.status() != 200 {
            return Err(Fault::Refused(refusal(response)));
        }
        if response.body().mime_type() == Some("text/html") {
            let name = self.service.base_url_variable();
            let text = format!("{} answers with a web page; check {name}", self.base_url);
            return Err(Error::failed(text).into());
        }
        let body = response.into_body().into_with_config();
        Ok(SseReader::new(body.limit(STREAM_BYTES_MAX).reader()))
    }

    /// The error when reading the answer failed.
    pub(super) fn broken_off(&self, stop: &Stop, err: &io::Error) -> Error {
        if stop.is_set() {
            return Error::Stopped;
        }
        let why = net::explain(&self.base_url, err);
        Error::model_retry(ModelFault::BrokenOff, why)
    }

    /// A small JSON answer about the server or a model; `None` whatever goes wrong.
    pub(super) fn ask(&self, url: &str, body: Option<&str>, stop: &Stop) -> Option<Value> {
        self.fetch(url, body, PROBE_MAX, stop).ok()
    }

    /// Like `ask`, with the error.
    pub(super) fn fetch(
        &self,
        url: &str,
        body: Option<&str>,
        limit: Duration,
        stop: &Stop,
    ) -> Tried<Value> {
        let agent = self.net.agent(stop, self.limits(Some(limit)));
        let sent = match body {
            Some(body) => self.with_key(agent.post(url)).send(body),
            None => self.with_key(agent.get(url)).call(),
        };
        let mut response = sent.map_err(|err| self.no_answer(stop, &err))?;
        if response.status() != 200 {
            return Err(Fault::Refused(refusal(response)));
        }
        let answer = json::parse(&read_bounded(&mut response, ANSWER_BYTES_MAX));
        answer.map_err(|_| {
            let name = self.service.base_url_variable();
            Error::failed(format!("{url} does not answer with JSON; check {name}")).into()
        })
    }

    /// Adds the key, or a placeholder that servers without keys accept.
    fn with_key<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        let key = self.key.as_ref().map_or("none", Secret::expose);
        match self.service.name {
            // The version works for all models as long as no sampling parameters are sent.
            "anthropic" => request
                .header("x-api-key", key)
                .header("anthropic-version", "2023-06-01"),
            _ => request.header("authorization", format!("Bearer {key}")),
        }
    }

    fn limits(&self, total: Option<Duration>) -> HttpLimits {
        let head = match self.service.local {
            Some(_) => LOCAL_FIRST_BYTE_MAX,
            None => STREAM_IDLE_MAX,
        };
        HttpLimits {
            head,
            idle: STREAM_IDLE_MAX,
            total,
        }
    }

    /// A connection that failed, stalled or broke off: all worth another try.
    fn no_answer(&self, stop: &Stop, err: &(dyn std::error::Error + 'static)) -> Error {
        if stop.is_set() {
            return Error::Stopped;
        }
        let mut why = net::explain(&self.base_url, err);
        let is_refused = NetFault::of(err) == NetFault::NotSent && why.contains("refused");
        if is_refused && self.service.local.is_some() {
            why += "; is it running?";
        }
        // `net` writes it this way: `the proxy HOST:PORT (from HTTPS_PROXY) does not work`.
        let proxy = why
            .split_once("the proxy ")
            .and_then(|(_, rest)| rest.split(' ').next());
        let server = match proxy {
            Some(proxy) => format!("the proxy {proxy}"),
            None => net::host_of(&self.base_url),
        };
        Error::model_retry(ModelFault::NoAnswer(server), why)
    }
}

fn read_bounded(response: &mut Response<ureq::Body>, bytes_max: u64) -> Vec<u8> {
    let mut body = Vec::new();
    // The part that came before a failure is still useful.
    response
        .body_mut()
        .as_reader()
        .take(bytes_max)
        .read_to_end(&mut body)
        .ok();
    body
}

fn refusal(mut response: Response<ureq::Body>) -> Refusal {
    let body = read_bounded(&mut response, ERROR_BYTES_MAX);
    let headers = response.headers();
    let header = |name: &str| net::header(headers, name);
    let request_id = header("request-id").or(header("x-request-id"));
    let read = Refusal::read(&String::from_utf8_lossy(&body));
    Refusal {
        status: response.status().as_u16(),
        request_id: request_id.map(str::to_owned).or(read.request_id),
        after: net::retry_after(headers).or(read.after),
        should_retry: header("x-should-retry").and_then(|value| value.parse().ok()),
        ..read
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::refusal::tests::describe;
    use super::super::sse::StreamPart;
    use super::super::tests::model;
    use super::*;

    /// A server that gives one response after the other, and what it was sent.
    pub(in crate::llm) fn serve(
        provider: &str,
        responses: &[&str],
    ) -> (Endpoint, std::thread::JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let responses: Vec<String> = responses.iter().map(|text| (*text).to_owned()).collect();
        let answer = move |response: &String| {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = std::io::BufReader::new(&stream);
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                std::io::BufRead::read_line(&mut reader, &mut request).unwrap();
            }
            let length = request.split_once("content-length: ").unwrap().1;
            let length = length.split_once("\r\n").unwrap().0.parse().unwrap();
            reader
                .by_ref()
                .take(length)
                .read_to_string(&mut request)
                .unwrap();
            std::io::Write::write_all(&mut &stream, response.as_bytes()).unwrap();
            if response.contains(": hold") {
                // Until the client hangs up.
                reader.read_exact(&mut [0]).ok();
            }
            request
        };
        let server = std::thread::spawn(move || responses.iter().map(answer).collect());
        let endpoint = Endpoint {
            base_url: format!("http://{address}"),
            ..Endpoint::for_tests(provider)
        };
        (endpoint, server)
    }

    #[test]
    #[rustfmt::skip]
    fn over_a_socket() {
        for (response, want) in [
            ("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: a\n\ndata: b\n\n: end", "a b done"),
            ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n", "Failed openai/m: HTTP 302; check OPENAI_BASE_URL"),
            ("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>", "Failed BASE answers with a web page; check OPENAI_BASE_URL"),
            ("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"error\":\"down\"}", "whole {\"error\":\"down\"} done"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\ndata: a\n\n", "a Retry the connection to BASE broke off"),
            ("HTTP/1.1 429 Slow\r\nretry-after: 7\r\nx-request-id: r1\r\n\r\n{\"message\":\"slow\"}", "Retry 7 openai/m: HTTP 429: slow (request r1)"),
            ("HTTP/1.1 500 Oh\r\nx-should-retry: false\r\n\r\n", "Failed openai/m: HTTP 500"),
            ("", "Retry the connection to BASE broke off"),
        ] {
            let (endpoint, server) = serve("openai", &[response]);
            let (stop, mut got) = (Stop::new(), String::new());
            let mut read = || -> Tried<()> {
                let mut parts = endpoint.stream("/x", &[], &stop)?;
                while let Some(part) = parts.next().map_err(|err| endpoint.broken_off(&stop, &err))? {
                    got += &match part {
                        StreamPart::Event { data, .. } => format!("{data} "),
                        StreamPart::Whole(body) => format!("whole {body} "),
                    };
                }
                Ok(())
            };
            let read = read();
            got += &match read {
                Ok(()) => "done".to_owned(),
                Err(fault) => describe(fault.into_error(&endpoint, &model("openai", "m"))),
            };
            let got = got.replace(&endpoint.base_url, "BASE");
            assert!(got.starts_with(want), "{response}: {got}");
            let request = &server.join().unwrap()[0];
            assert!(request.starts_with("POST /x HTTP/1.1\r\n") && request.contains("authorization: Bearer none\r\n"), "{request}");
        }
    }

    #[test]
    fn a_stop_ends_a_silent_stream() {
        let (endpoint, server) = serve("openai", &["HTTP/1.1 200 OK\r\n\r\ndata: a\n\n: hold\n"]);
        let stop = Stop::new();
        let mut parts = endpoint
            .stream("/x", &[], &stop)
            .unwrap_or_else(|_| panic!());
        assert!(parts.next().unwrap().is_some());
        let other = stop.clone();
        std::thread::spawn(move || other.set(crate::base::stop::Cause::Asked));
        let err = parts.next().unwrap_err();
        assert_eq!(endpoint.broken_off(&stop, &err), Error::Stopped);
        drop(parts);
        // Now the stop is set before anything is sent.
        let sent = endpoint.stream("/x", &[], &stop);
        assert!(matches!(sent, Err(Fault::Other(Error::Stopped))));
        server.join().unwrap();
    }
}

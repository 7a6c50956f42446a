//! One model turn: the request is made, sent and, where the server refuses a part of it, made
//! otherwise. The `Client` owns what is learned from its server while mom runs: which parts
//! it refuses, which pictures, how large the window is, whether it names why a reply ends.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::endpoint::{Endpoint, Fault, Tried};
use super::pictures::{PictureKey, PictureMemory};
use super::refusal::Refusal;
use super::reply::{Finished, ReplyDraft, broken_off};
use super::request::{Circumstances, Optional, Outgoing, SentPictures, Variation};
use super::services::Service;
use super::{
    Block, Model, OnText, Provider, Reply, StopReason, Turn, anthropic, models, openai, probe,
    responses,
};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::Stop;
use crate::base::text;

/// How a wire format is written and read.
pub(super) struct WireFormat {
    pub(super) path: &'static str,
    pub(super) body: fn(&Outgoing<'_>) -> String,
    /// Reads one event of the stream.
    pub(super) event: fn(&mut ReplyDraft<'_>, &Value) -> Result<()>,
    /// Reads an answer that came as one JSON object.
    pub(super) whole: fn(&mut ReplyDraft<'_>, &Value) -> Result<()>,
    /// The reason of the end holds only once the stream was closed in order.
    pub(super) needs_close: bool,
}

impl WireFormat {
    pub(super) fn of(model: &Model) -> &'static WireFormat {
        match model.api {
            "anthropic-messages" => &anthropic::FORMAT,
            "openai-responses" => &responses::FORMAT,
            _ => &openai::FORMAT,
        }
    }
}

/// A reply that ended without a reason is made anew so often before it is taken.
const UNNAMED_ENDS_MAX: u8 = 1;
/// Pictures that are left out one after the other to find the one that is refused.
const TRIALS_MAX: usize = 6;
/// Behind an answer that may be cut off.
const MAYBE_INCOMPLETE: &str =
    "\n\n_(The model's server did not say that this answer is complete.)_";

/// What was learned from the server.
struct Learned {
    model: Arc<Model>,
    /// Questions about the window that may still be asked.
    probes_left: u8,
    refused: Vec<Optional>,
    pictures: PictureMemory,
    /// Replies in a row that ended without a reason; `None` once one has named it.
    unnamed_ends: Option<u8>,
}

pub(super) struct Client {
    endpoint: Endpoint,
    learned: Mutex<Learned>,
    /// Bytes of the replies that come in now, of all runs.
    replies_bytes: Arc<AtomicUsize>,
}

impl Provider for Client {
    fn model(&self) -> Arc<Model> {
        Arc::clone(&self.learned.lock().unwrap().model)
    }

    fn stream(&self, turn: &Turn<'_>, stop: &Stop, on_text: &mut OnText<'_>) -> Result<Reply> {
        self.probe(stop);
        let mut variation = Variation::default();
        let mut trials = Trials::default();
        loop {
            let mut sent = SentParts::default();
            let refusal = match self.attempt(turn, &variation, stop, on_text, &mut sent) {
                Ok(finished) => {
                    self.learn_pictures(&sent.pictures.keys, &trials);
                    return self.accept(finished, on_text);
                }
                Err(Fault::Other(err)) => return Err(err),
                Err(Fault::Refused(refusal)) => refusal,
            };
            let model = self.model();
            if self.learn(&refusal, turn, &sent) {
                log::info!(
                    "",
                    "{}: asking again otherwise: {}",
                    model.id,
                    refusal.message
                );
            } else if is_about_thinking(&refusal) && !variation.thinking_dropped {
                log::warning!("", "{}: asking again without thinking", model.id);
                variation.thinking_dropped = true;
            } else {
                let suspects = || {
                    self.learned
                        .lock()
                        .unwrap()
                        .pictures
                        .suspects(&sent.pictures.keys)
                };
                let Some(next) = trials.next(&refusal, suspects) else {
                    let refusal = trials.first.take().unwrap_or(refusal);
                    return Err(refusal.into_error(&self.endpoint, &model));
                };
                let count = text::count(next.len(), "picture");
                log::warning!(
                    "",
                    "{}: asking again without {count}: {}",
                    model.id,
                    refusal.message
                );
                variation.pictures_on_trial = next;
                trials.first.get_or_insert(refusal);
            }
        }
    }
}

/// What of a request the server may refuse.
#[derive(Default)]
struct SentParts {
    pictures: SentPictures,
    null_content: bool,
}

/// A signed thinking block that the server does not take for its own, or that is bound to
/// another conversation.
fn is_about_thinking(refusal: &Refusal) -> bool {
    let says = |words: &str| refusal.says(words);
    refusal.status == 400 && (says("signature in thinking block") || says("encrypted content"))
}

/// The search for the picture that a server refuses, in whatever words: each that is not
/// known to be good is left out alone, then all of them.
#[derive(Default)]
struct Trials {
    /// Newest first.
    suspects: Vec<PictureKey>,
    /// Those left out of the request under way.
    out: Vec<PictureKey>,
    count: usize,
    first: Option<Refusal>,
}

impl Trials {
    /// The pictures to leave out next; `None` when pictures are not, or no longer, the matter.
    fn next(
        &mut self,
        refusal: &Refusal,
        suspects: impl FnOnce() -> Vec<PictureKey>,
    ) -> Option<Vec<PictureKey>> {
        if !refusal.is_about_content() || refusal.is_overflow() {
            return None;
        }
        if self.first.is_none() {
            self.suspects = suspects();
        }
        let singles = self.suspects.len().min(TRIALS_MAX);
        self.out = match self.count {
            count if count < singles => vec![self.suspects[count]],
            count if count == singles && singles > 1 => self.suspects.clone(),
            _ => return None,
        };
        self.count += 1;
        Some(self.out.clone())
    }
}

impl Client {
    pub(super) fn new(endpoint: Endpoint, model: Model, probes: u8) -> Client {
        Client {
            endpoint,
            learned: Mutex::new(Learned {
                model: Arc::new(model),
                probes_left: probes,
                refused: Vec::new(),
                pictures: PictureMemory::default(),
                unnamed_ends: Some(0),
            }),
            replies_bytes: Arc::default(),
        }
    }

    /// Asks the server for the window, while it is not known.
    fn probe(&self, stop: &Stop) {
        let mut learned = self.learned.lock().unwrap();
        if learned.probes_left == 0 {
            return;
        }
        learned.probes_left -= 1;
        let model = Arc::clone(&learned.model);
        drop(learned);
        if let Some(model) = probe::probe(&self.endpoint, &model, stop) {
            let mut learned = self.learned.lock().unwrap();
            learned.probes_left = 0;
            learned.model = Arc::new(model);
        }
    }

    /// One request and its reply; `parts` becomes what was sent.
    fn attempt(
        &self,
        turn: &Turn<'_>,
        variation: &Variation,
        stop: &Stop,
        on_text: &mut OnText<'_>,
        parts: &mut SentParts,
    ) -> Tried<Finished> {
        let endpoint = &self.endpoint;
        let (body, model) = {
            let learned = self.learned.lock().unwrap();
            let around = Circumstances {
                service: endpoint.service,
                model: &learned.model,
                lifetime: endpoint.lifetime,
                refused: &learned.refused,
                pictures: &learned.pictures,
            };
            let outgoing = Outgoing::of(turn, &around, variation);
            let body = (WireFormat::of(&learned.model).body)(&outgoing);
            *parts = SentParts {
                pictures: outgoing.pictures,
                null_content: body.contains("\"content\":null"),
            };
            (body, Arc::clone(&learned.model))
        };
        let format = WireFormat::of(&model);
        let mut draft = ReplyDraft::new(on_text, Arc::clone(&self.replies_bytes));
        let sent = endpoint.stream(format.path, &body, stop, &mut |part| {
            draft.event(format, part)
        });
        match sent {
            // Some keep the connection open and silent after the end.
            Err(Fault::Other(Error::Retry { .. })) if draft.end.is_some() => {}
            sent => sent?,
        }
        draft.finish(&model, endpoint.service, turn.tools)
    }

    /// A reply that ended in order without a reason may be half of one: it is made anew, and
    /// taken with a mark when the server does so again. One that names reasons elsewhere has
    /// failed.
    fn accept(&self, finished: Finished, on_text: &mut OnText<'_>) -> Result<Reply> {
        let unnamed_ends = &mut self.learned.lock().unwrap().unnamed_ends;
        let mut reply = match finished {
            Finished::Named(reply) => {
                *unnamed_ends = None;
                return Ok(reply);
            }
            Finished::Unnamed(reply) => reply,
        };
        match unnamed_ends {
            Some(count) if *count >= UNNAMED_ENDS_MAX => {}
            count => {
                *count = count.map(|count| count + 1);
                return Err(broken_off(
                    "the model's answer ended without a reason: it may be cut off",
                ));
            }
        }
        if reply.stop_reason != StopReason::ToolUse {
            on_text(MAYBE_INCOMPLETE);
            match reply.blocks.last_mut() {
                Some(Block::Text(text)) => text.push_str(MAYBE_INCOMPLETE),
                _ => reply.blocks.push(Block::Text(MAYBE_INCOMPLETE.to_owned())),
            }
        }
        Ok(reply)
    }

    fn learn_pictures(&self, sent: &[PictureKey], trials: &Trials) {
        let memory = &mut self.learned.lock().unwrap().pictures;
        memory.accept(sent);
        if let Some(refusal) = &trials.first {
            memory.refuse(&trials.out, &refusal.message);
            let count = trials.out.len();
            log::warning!("", "a picture was refused ({count}): {}", refusal.message);
        }
    }

    /// Whether the same turn is worth another request, which will be made differently.
    fn learn(&self, refusal: &Refusal, turn: &Turn<'_>, sent: &SentParts) -> bool {
        let mut guard = self.learned.lock().unwrap();
        let learned = &mut *guard;
        if refusal.status == 413 {
            if sent.pictures.keys.is_empty() {
                learned.pictures.lift_limit();
                return false;
            }
            // Too large as a whole: fewer pictures, down to none.
            learned.pictures.limit_bytes(sent.pictures.bytes / 2);
            return true;
        }
        let model = Arc::make_mut(&mut learned.model);
        if let Some(window) = refusal.window() {
            // Of a known model less than the whole may be used on purpose.
            if window < model.context_window || !models::is_known(model) {
                log::info!("", "{} has a window of {window} tokens", model.id);
                probe::set_window(model, window);
            }
            return false;
        }
        if !matches!(refusal.status, 400 | 422) || refusal.is_overflow() {
            return false;
        }
        let limit = turn.output_tokens_max.min(model.output_tokens_max);
        if let Some(smaller) = smaller_limit(refusal, limit) {
            model.output_tokens_max = smaller;
            return true;
        }
        let part = refused_part(refusal, model, self.endpoint.service, sent);
        let part = part.filter(|part| !learned.refused.contains(part));
        learned.refused.extend(part);
        part.is_some()
    }
}

/// The optional part of a request that a refusal means.
fn refused_part(
    refusal: &Refusal,
    model: &Model,
    service: &Service,
    sent: &SentParts,
) -> Option<Optional> {
    const UNWANTED: &[&str] = &[
        "support",
        "unrecognized",
        "unknown",
        "unexpected",
        "permitted",
        "extra",
    ];
    let says = |words: &str| refusal.says(words);
    let is_unwanted = UNWANTED.iter().any(|word| says(word));
    match model.api {
        "openai-responses" => says("summar").then_some(Optional::ThinkingSummary),
        "anthropic-messages" => None,
        _ if is_unwanted && says("reasoning_effort") => Some(Optional::Effort),
        _ if is_unwanted && says("stream_options") => Some(Optional::StreamOptions),
        _ if is_unwanted && says(service.tokens_field) => Some(Optional::TokensField),
        _ => (sent.null_content && says("content")).then_some(Optional::NullContent),
    }
}

/// The output limit below `sent` that a refusal of it names, in whatever words: the largest
/// number that is smaller. Small numbers are those of a model's name, or the least allowed.
fn smaller_limit(refusal: &Refusal, sent: u32) -> Option<u32> {
    let is_about_limit = ["max_tokens", "max_completion_tokens", "max_output_tokens"]
        .iter()
        .any(|field| refusal.says(field));
    let numbers = refusal.message.split(|c: char| !c.is_ascii_digit());
    let numbers = numbers.filter_map(|number| number.parse().ok());
    let smaller = numbers.filter(|number| (256..sent).contains(number)).max();
    smaller.filter(|_| is_about_limit)
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::super::endpoint::tests::serve;
    use super::super::tests::{call, model, picture, replay, result, said, thought, turn, user};
    use super::*;

    /// What a client answers to the turn when its server gives these responses, one after the
    /// other, and the requests it sent. A text without a status line is a refusal (400).
    fn talk(
        client: &str,
        turns: &[Vec<Message>],
        responses: &[&str],
    ) -> (Vec<String>, Vec<String>) {
        let responses: Vec<String> = responses
            .iter()
            .map(|text| match text.strip_prefix("data:") {
                Some(_) => {
                    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{text}")
                }
                None if text.starts_with("HTTP") => (*text).to_owned(),
                None => format!(
                    "HTTP/1.1 400 No\r\ncontent-length: {}\r\n\r\n{text}",
                    text.len()
                ),
            })
            .collect();
        let responses: Vec<&str> = responses.iter().map(String::as_str).collect();
        let (endpoint, server) = serve(client, &responses);
        let client = Client::new(endpoint, model(client, "claude-sonnet-5-5"), 0);
        let answer = |messages: &Vec<Message>| {
            let reply = client.stream(&turn(messages), &Stop::new(), &mut |_| {});
            match reply.map(|reply| reply.blocks) {
                Ok(blocks) => match blocks.as_slice() {
                    [Block::Text(text)] => text.clone(),
                    other => format!("{other:?}"),
                },
                Err(err) => format!("error: {err}"),
            }
        };
        let answers = turns.iter().map(answer).collect();
        (answers, server.join().unwrap())
    }

    const HI: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n";
    const HALF: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"hal\"}}]}\n\ndata: [DONE]\n\n";

    #[test]
    #[rustfmt::skip]
    fn asks_again_without_what_was_refused() {
        let thinks = vec![user("a"), said(vec![thought("hm", "sig"), call("1", "bash")]), result("1", "b")];
        let calls = vec![user("a"), said(vec![call("1", "bash")]), result("1", "b")];
        let anthropic_hi = "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"hi\"}}\n\n\
            data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\ndata: {\"type\":\"message_stop\"}\n\n";
        for (provider, refusal, answer, word, counts) in [
            ("anthropic", r#"{"error":{"type":"invalid_request_error","message":"messages.1.content.0: Invalid `signature` in `thinking` block"}}"#, anthropic_hi, "\"sig\"", [1, 0]),
            ("openai", r#"{"error":{"message":"Unsupported parameter: 'max_completion_tokens'"}}"#, HI, "\"max_tokens\"", [0, 1]),
            ("custom", "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.", HI, "\"max_completion_tokens\"", [0, 1]),
            ("custom", "stream_options: Extra inputs are not permitted", HI, "stream_options", [1, 0]),
            ("custom", "Function tools with reasoning_effort are not supported for x in /v1/chat/completions", HI, "\"reasoning_effort\":\"none\"", [0, 1]),
            ("custom", "messages[1].content: expected a string, got null", HI, "\"content\":\"\"", [0, 1]),
            ("custom", "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", HI, "\"max_tokens\":8192", [0, 1]),
        ] {
            let messages = if provider == "anthropic" { &thinks } else { &calls };
            let (answers, requests) = talk(provider, std::slice::from_ref(messages), &[refusal, answer]);
            assert_eq!(answers, ["hi"], "{refusal}");
            let found: Vec<usize> = requests.iter().map(|request| request.matches(word).count()).collect();
            assert_eq!(found, counts, "{refusal}");
        }
        // Each lesson is learned once.
        let (answers, _) = talk("custom", &[thinks], &["stream_options: Extra inputs", "stream_options: Extra inputs"]);
        assert!(answers[0].contains("HTTP 400"), "{answers:?}");
    }

    #[test]
    fn a_refused_picture_is_left_out_alone() {
        let refusal = "Could not process what you sent";
        let [good, bad] = [picture("good", 5, 0), picture("bad", 6, 0)];
        let turns = [
            vec![good.clone()],
            vec![good.clone(), bad.clone()],
            vec![good.clone(), bad.clone(), picture("new", 7, 0)],
        ];
        let (answers, requests) = talk("custom", &turns, &[HI, refusal, HI, HI]);
        assert_eq!(answers, ["hi"; 3]);
        let pictures = |request: &String| request.matches("data:image/png").count();
        assert_eq!(
            requests.iter().map(pictures).collect::<Vec<_>>(),
            [1, 2, 1, 2]
        );
        for request in &requests[2..] {
            assert!(
                request.contains("image/png, 6 x 1 pixels. It was left out: the model"),
                "{request}"
            );
        }
        assert!(requests[3].contains(refusal), "{}", requests[3]);

        // Two are sent at once, and the older is the one.
        let turns = [
            vec![bad.clone(), good.clone()],
            vec![bad.clone(), good.clone()],
        ];
        let (answers, requests) = talk("custom", &turns, &[refusal, refusal, HI, HI]);
        assert_eq!(answers, ["hi"; 2]);
        assert_eq!(
            requests.iter().map(pictures).collect::<Vec<_>>(),
            [2, 1, 1, 1]
        );
        assert!(requests[3].contains("image/png, 6 x 1 pixels. It was left out"));

        // No picture was the reason.
        let turns = [vec![good.clone()], vec![good]];
        let (answers, requests) = talk("custom", &turns, &[refusal, refusal, HI]);
        assert!(
            answers[0].contains(refusal) && answers[1] == "hi",
            "{answers:?}"
        );
        assert_eq!(requests.iter().map(pictures).collect::<Vec<_>>(), [1, 0, 1]);

        let page = "HTTP/1.1 413 No\r\ncontent-length: 17\r\n\r\n<html>nginx</html";
        let turns = [vec![bad.clone(), picture("new", 7, 0)], vec![user("a")]];
        let (answers, requests) = talk("custom", &turns, &[page, HI, page]);
        assert_eq!(requests.iter().map(pictures).collect::<Vec<_>>(), [2, 1, 0]);
        assert!(
            answers[0] == "hi" && answers[1].contains("in front of the model"),
            "{answers:?}"
        );
    }

    #[test]
    fn an_answer_without_a_reason_is_taken_the_second_time() {
        let turns = vec![vec![user("a")]; 5];
        let (answers, _) = talk("custom", &turns, &[HALF, HALF, HALF, HI, HALF]);
        assert!(answers[0].starts_with("error: "), "{answers:?}");
        assert_eq!(answers[1], format!("hal{MAYBE_INCOMPLETE}"));
        assert_eq!(answers[2], answers[1]);
        assert_eq!(answers[3], "hi");
        assert!(answers[4].starts_with("error: "), "{answers:?}");
    }

    #[test]
    fn the_window_is_learned_from_a_refusal() {
        let refusal = r#"{"error":{"message":"exceeds the available context size","n_ctx":16384}}"#;
        let (endpoint, server) = serve(
            "custom",
            &[&format!(
                "HTTP/1.1 400 No\r\ncontent-length: {}\r\n\r\n{refusal}",
                refusal.len()
            )],
        );
        let client = Client::new(endpoint, model("custom", "m"), 0);
        let reply = client.stream(&turn(&[user("a")]), &Stop::new(), &mut |_| {});
        assert!(matches!(reply, Err(Error::ContextFull(why)) if why.contains("-c 32768")));
        let model = client.model();
        assert_eq!(
            (model.context_window, model.output_tokens_max),
            (16_384, 4096)
        );
        server.join().unwrap();
    }

    #[test]
    fn a_reply_is_bounded_alone_and_together() {
        let piece = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
            "x".repeat(1 << 20)
        );
        let chunks: Vec<&[u8]> = std::iter::repeat_n(piece.as_bytes(), 9).collect();
        let (text, reply) = replay("custom", "m", &chunks);
        assert_eq!(text.len(), 8 << 20);
        assert!(matches!(reply, Err(Fault::Other(Error::Failed(why))) if why.contains("8 MB")));
        let all = Arc::new(AtomicUsize::new(31 << 20));
        let mut nothing = |_: &str| {};
        let mut draft = ReplyDraft::new(&mut nothing, Arc::clone(&all));
        assert!(draft.text(&"x".repeat(1 << 20)).is_ok());
        assert!(matches!(draft.text("x"), Err(Error::Retry { .. })));
        drop(draft);
        assert_eq!(all.load(std::sync::atomic::Ordering::Relaxed), 31 << 20);
    }
}

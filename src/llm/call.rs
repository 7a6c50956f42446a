//! One model turn: the request is written, sent and, where the server refuses a part of it,
//! written differently. The `Client` owns what mom learns from its server at run time.

use std::io::Read;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;

use super::endpoint::{Endpoint, Fault, Tried};
use super::learned::Learned;
use super::pictures::PictureKey;
use super::refusal::Refusal;
use super::reply::{ReplyDraft, ReplyEnd, broken_off};
use super::request::{Outgoing, Variation, WrittenRequest};
use super::sse::SseReader;
use super::{
    Block, Model, OnText, Provider, Reply, StopReason, ToolSpec, Turn, anthropic, openai, probe,
    responses,
};
use crate::base::error::Result;
use crate::base::log;
use crate::base::stop::Stop;
use crate::base::text;

/// How a wire format is written and read.
pub(super) struct WireFormat {
    pub(super) path: &'static str,
    pub(super) body: fn(&Outgoing<'_>) -> Vec<String>,
    /// Reads one event of the stream.
    pub(super) event: fn(&mut ReplyDraft<'_>, &Value) -> Result<()>,
    /// Reads an answer that came as one JSON object.
    pub(super) whole: fn(&mut ReplyDraft<'_>, &Value) -> Result<()>,
    /// The reason why a reply ends counts only after the stream was closed in order.
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

/// How many times a reply that ended without a reason is requested again before it is accepted.
const UNNAMED_ENDS_MAX: u8 = 1;
/// Pictures that are left out alone, one after the other, to find the one that is refused.
const SINGLE_TRIALS: usize = 3;
/// Added to the end of an answer that may be cut off.
const MAYBE_INCOMPLETE: &str =
    "\n\n_(The model's server did not say that this answer is complete.)_";

pub(super) struct Client {
    endpoint: Endpoint,
    learned: Mutex<Learned>,
    /// Bytes of the replies that all runs are receiving now.
    replies_bytes: AtomicUsize,
}

impl Provider for Client {
    fn model(&self) -> Arc<Model> {
        Arc::clone(&self.learned().model)
    }

    fn stream(&self, turn: &Turn<'_>, stop: &Stop, on_text: &mut OnText<'_>) -> Result<Reply> {
        self.probe(stop);
        let mut variation = Variation::default();
        let mut trials = None;
        loop {
            let request = self.write(turn, &variation);
            let refusal = match self.send(&request, turn.tools, stop, on_text) {
                Ok(reply) => {
                    self.learn_pictures(&request, trials.as_ref());
                    return Ok(reply);
                }
                Err(Fault::Other(err)) => return Err(err),
                Err(Fault::Refused(refusal)) => refusal,
            };
            let model = self.model();
            let (id, service) = (&model.id, self.endpoint.service);
            if self.learned().learn(&refusal, &request, service) {
                log::info!("", "{id}: asking again differently: {}", refusal.message);
            } else if is_about_thinking(&refusal) && !variation.thinking_dropped {
                log::warning!("", "{id}: asking again without thinking");
                variation.thinking_dropped = true;
            } else if refusal.is_about_content() && !refusal.is_overflow() {
                let trials = trials.get_or_insert_with(|| self.trials(&request, refusal));
                let Some(next) = trials.next() else {
                    let refusal = std::mem::take(&mut trials.first);
                    return Err(refusal.into_error(&self.endpoint, &model));
                };
                let (count, why) = (text::count(next.len(), "picture"), &trials.first.message);
                log::warning!("", "{id}: asking again without {count}: {why}");
                variation.pictures_on_trial = next;
            } else {
                return Err(refusal.into_error(&self.endpoint, &model));
            }
        }
    }
}

/// Whether the server refuses a signed thinking block that it did not make, or that belongs to
/// another conversation.
fn is_about_thinking(refusal: &Refusal) -> bool {
    let says = |words: &str| refusal.says(words);
    refusal.status == 400 && (says("signature in thinking block") || says("encrypted content"))
}

/// The search for the picture that a server refuses, whatever its wording, among those that are
/// not known to be good. First the newest are left out one by one; then each refused request
/// halves the rest. An accepted request proves one half good, and the next turn searches the
/// other half. In the end all pictures are left out.
struct Trials {
    /// Newest first.
    all: Vec<PictureKey>,
    /// The pictures of `all` that may still be the refused one.
    suspects: Vec<PictureKey>,
    /// The pictures left out of the current request.
    out: Vec<PictureKey>,
    count: usize,
    /// The refusal that started the search.
    first: Refusal,
}

impl Trials {
    /// The pictures to leave out next; `None` when no picture is the reason.
    fn next(&mut self) -> Option<Vec<PictureKey>> {
        self.suspects.retain(|key| !self.out.contains(key));
        self.out = match self.suspects.len() {
            0 if self.out.len() == self.all.len() => return None,
            0 => self.all.clone(),
            count if self.count < SINGLE_TRIALS || count == 1 => vec![self.suspects[0]],
            count => self.suspects[count / 2..].to_vec(),
        };
        self.count += 1;
        Some(self.out.clone())
    }

    /// The pictures that an accepted request proves to be refused; empty when not known yet.
    fn found(&self) -> &[PictureKey] {
        match self.out.len() {
            count if count == 1 || count == self.all.len() => &self.out,
            _ => &[],
        }
    }
}

impl Client {
    pub(super) fn new(endpoint: Endpoint, model: Model, probes: u8) -> Client {
        Client {
            endpoint,
            learned: Mutex::new(Learned::new(model, probes)),
            replies_bytes: AtomicUsize::new(0),
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap()
    }

    /// Asks the server for the window, while it is not known.
    pub(super) fn probe(&self, stop: &Stop) {
        let mut learned = self.learned();
        if learned.probes_left == 0 {
            return;
        }
        learned.probes_left -= 1;
        let model = Arc::clone(&learned.model);
        drop(learned);
        if let Some(model) = probe::probe(&self.endpoint, &model, stop) {
            let mut learned = self.learned();
            learned.probes_left = 0;
            learned.model = Arc::new(model);
        }
    }

    fn write(&self, turn: &Turn<'_>, variation: &Variation) -> WrittenRequest {
        let learned = self.learned();
        let outgoing = Outgoing::of(turn, &self.endpoint, &learned, variation);
        WrittenRequest {
            body: (WireFormat::of(&learned.model).body)(&outgoing),
            output_tokens: outgoing.output_tokens,
            pictures: outgoing.pictures,
        }
    }

    fn send(
        &self,
        request: &WrittenRequest,
        tools: &[ToolSpec],
        stop: &Stop,
        on_text: &mut OnText<'_>,
    ) -> Tried<Reply> {
        let path = WireFormat::of(&self.model()).path;
        let stream = self.endpoint.stream(path, &request.body, stop)?;
        self.read(stream, tools, stop, on_text)
    }

    /// Reads a reply from a stream.
    pub(super) fn read<R: Read>(
        &self,
        mut stream: SseReader<R>,
        tools: &[ToolSpec],
        stop: &Stop,
        on_text: &mut OnText<'_>,
    ) -> Tried<Reply> {
        let model = self.model();
        let format = WireFormat::of(&model);
        let mut draft = ReplyDraft::new(on_text, &self.replies_bytes);
        while !draft.is_closed {
            match stream.next() {
                Ok(Some(part)) => draft.event(format, part)?,
                Ok(None) => break,
                // Some servers keep the connection open and silent after the end.
                Err(_) if draft.end.is_some() && !stop.is_set() => break,
                Err(err) => return Err(self.endpoint.broken_off(stop, &err).into()),
            }
        }
        if format.needs_close && !draft.is_closed {
            draft.end = None;
        }
        let is_named = draft.end.is_some();
        if draft.is_closed {
            draft.end.get_or_insert(ReplyEnd::Done);
        }
        let mut reply = draft.finish(&model, self.endpoint.service, tools)?;
        if is_named {
            self.learned().unnamed_ends = None;
        } else {
            self.accept_unnamed(&mut reply, on_text)?;
        }
        Ok(reply)
    }

    /// A reply that ended in order without a reason may be incomplete: it is requested again,
    /// and accepted with a note when the server does so again. If this server has named a reason
    /// in other replies, the reply counts as failed.
    fn accept_unnamed(&self, reply: &mut Reply, on_text: &mut OnText<'_>) -> Result<()> {
        if reply.blocks.is_empty() {
            return Err(broken_off("the model's server ended without an answer"));
        }
        match &mut self.learned().unnamed_ends {
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
        Ok(())
    }

    fn trials(&self, request: &WrittenRequest, first: Refusal) -> Trials {
        let all = self.learned().pictures.suspects(&request.pictures.keys);
        Trials {
            suspects: all.clone(),
            all,
            out: Vec::new(),
            count: 0,
            first,
        }
    }

    /// Learns from a request that the server has accepted.
    fn learn_pictures(&self, request: &WrittenRequest, trials: Option<&Trials>) {
        let memory = &mut self.learned().pictures;
        memory.accept(&request.pictures.keys);
        if let Some(trials) = trials {
            let (keys, why) = (trials.found(), &trials.first.message);
            memory.refuse(keys, why);
            if !keys.is_empty() {
                log::warning!("", "{} refused: {why}", text::count(keys.len(), "picture"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::super::endpoint::tests::serve;
    use super::super::tests::{call, model, picture, replay, result, said, turn, user};
    use super::*;
    use crate::base::error::Error;

    /// The client's answers to the turns when its server gives these responses, one after the
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
        let messages = vec![user("a"), said(vec![call("1", "bash")]), result("1", "b")];
        for (refusal, word, counts) in [
            ("stream_options: Extra inputs are not permitted", "stream_options", [1, 0]),
            ("Function tools with reasoning_effort are not supported for x in /v1/chat/completions", "\"reasoning_effort\":\"none\"", [0, 1]),
            ("HTTP/1.1 500 No\r\ncontent-length: 87\r\n\r\n{\"error\":{\"message\":\"Value is not callable: null at row 1, column 2: message.content\"}}", "\"content\":\"\"", [0, 1]),
            ("messages[1].content: expected a string, got null", "\"content\":\"\"", [0, 1]),
        ] {
            let (answers, requests) = talk("custom", std::slice::from_ref(&messages), &[refusal, HI]);
            assert_eq!(answers, ["hi"], "{refusal}");
            let found: Vec<usize> = requests.iter().map(|request| request.matches(word).count()).collect();
            assert_eq!(found, counts, "{refusal}");
        }
        // Each lesson is learned once.
        let (answers, _) = talk("custom", &[messages], &["stream_options: Extra inputs", "stream_options: Extra inputs"]);
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
                request.contains(
                    "/workspace/6.png, image/png, 6 x 1 pixels. It was left out: the model"
                ),
                "{request}"
            );
        }
        assert!(requests[3].contains(refusal), "{}", requests[3]);

        // Two pictures are sent at once, and the older one is refused.
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

        // The first of nine is refused: the search takes two turns and leaves out no other.
        let mut nine = vec![bad.clone()];
        nine.extend((10..18).map(|width| picture("good", width, 0)));
        let turns = [nine.clone(), nine.clone(), nine];
        let four = [refusal; 4];
        let script = [&four[..], &[HI], &four[..3], &[HI, HI]].concat();
        let (answers, requests) = talk("custom", &turns, &script);
        assert_eq!(answers, ["hi"; 3]);
        assert_eq!(
            requests.iter().map(pictures).collect::<Vec<_>>(),
            [9, 8, 8, 8, 6, 9, 8, 8, 8, 8]
        );
        assert!(requests[9].contains("/workspace/6.png, image/png, 6 x 1 pixels. It was left out"));

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
    fn a_limit_on_the_number_of_pictures_condemns_none() {
        let [older, newer] = [picture("older", 6, 0), picture("newer", 5, 0)];
        let pictures = |request: &String| request.matches("data:image/png").count();
        for refusal in [
            "At most 1 image(s) may be provided in one request.",
            "Too many images in request: 2 > 1",
        ] {
            let both = vec![older.clone(), newer.clone()];
            let turns = [both.clone(), both, vec![older.clone()]];
            let (answers, requests) = talk("custom", &turns, &[refusal, HI, HI, HI]);
            assert_eq!(answers, ["hi"; 3]);
            assert_eq!(
                requests.iter().map(pictures).collect::<Vec<_>>(),
                [2, 1, 1, 1]
            );
            assert!(requests[1].contains("6 x 1 pixels. It is no longer shown."));
        }
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
    fn a_reply_is_bounded_alone_and_together() {
        let piece = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
            "x".repeat(1 << 20)
        );
        let chunks: Vec<&[u8]> = std::iter::repeat_n(piece.as_bytes(), 9).collect();
        let (text, reply) = replay("custom", "m", &chunks);
        assert_eq!(text.len(), 8 << 20);
        assert!(matches!(reply, Err(Fault::Other(Error::Failed(why))) if why.contains("8 MB")));
        let all = AtomicUsize::new(31 << 20);
        let mut nothing = |_: &str| {};
        let mut draft = ReplyDraft::new(&mut nothing, &all);
        assert!(draft.text(&"x".repeat(1 << 20)).is_ok());
        assert!(matches!(draft.text("x"), Err(Error::Retry { .. })));
        drop(draft);
        assert_eq!(all.into_inner(), 31 << 20);
    }
}

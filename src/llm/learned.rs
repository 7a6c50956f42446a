//! What mom learns from a model's server while it runs: which parts of a request and which
//! pictures it refuses, how large its window is, whether it names why a reply ends.

use std::sync::Arc;

use super::pictures::PictureMemory;
use super::refusal::Refusal;
use super::request::WrittenRequest;
use super::services::Service;
use super::{Model, models, probe};
use crate::base::log;

/// A part of a request that some servers refuse; after a refusal mom writes it in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Optional {
    /// `stream_options`: left out.
    StreamOptions,
    /// The usual name of the output limit: the other name is used.
    TokensField,
    /// Thinking together with tools: `reasoning_effort` becomes `none`.
    Effort,
    /// A null content in a message with calls: it becomes an empty text.
    NullContent,
    /// Summaries of the thinking, which only verified organizations get: left out.
    ThinkingSummary,
}

/// Phrases with which a server refuses a part.
const UNWANTED: [&str; 6] = [
    "support",
    "unrecognized",
    "unknown",
    "unexpected",
    "permitted",
    "extra",
];

#[derive(Debug)]
pub(super) struct Learned {
    pub(super) model: Arc<Model>,
    /// How many times mom may still ask the server for the window.
    pub(super) probes_left: u8,
    pub(super) refused: Vec<Optional>,
    pub(super) pictures: PictureMemory,
    /// Replies in a row that ended without a reason; `None` once one has named it.
    pub(super) unnamed_ends: Option<u8>,
}

impl Learned {
    pub(super) fn new(model: Model, probes: u8) -> Learned {
        Learned {
            model: Arc::new(model),
            probes_left: probes,
            refused: Vec::new(),
            pictures: PictureMemory::default(),
            unnamed_ends: Some(0),
        }
    }

    /// Learns from the refusal of `request`. True when another request for the same turn may
    /// work, which will be written differently.
    pub(super) fn learn(
        &mut self,
        refusal: &Refusal,
        request: &WrittenRequest,
        service: &Service,
    ) -> bool {
        if refusal.status == 413 {
            return self.pictures.refuse_all(&request.pictures);
        }
        let model = Arc::make_mut(&mut self.model);
        if let Some(window) = refusal.window() {
            // The table may give a known model less than its whole window on purpose.
            if window < model.context_window || !models::is_known(model) {
                log::info!("", "{} has a window of {window} tokens", model.id);
                probe::set_window(model, window);
            }
            return false;
        }
        // The template of llama.cpp fails at a null as if the server were at fault.
        let fails_at_null =
            refusal.status == 500 && refusal.says("null") && refusal.says("content");
        if !(matches!(refusal.status, 400 | 422) || fails_at_null) || refusal.is_overflow() {
            return false;
        }
        let pictures_max = refusal.pictures_max();
        if pictures_max.is_some_and(|max| self.pictures.limit_count(max, &request.pictures)) {
            return true;
        }
        if let Some(smaller) = smaller_limit(refusal, request.output_tokens) {
            model.output_tokens_max = smaller;
            return true;
        }
        let part = refused_part(refusal, &request.body, model, service);
        let part = part.filter(|part| !self.refused.contains(part));
        self.refused.extend(part);
        part.is_some()
    }
}

const NULL: &str = "\"content\":null";

/// The optional part of the request that the refusal is about.
fn refused_part(
    refusal: &Refusal,
    body: &[String],
    model: &Model,
    service: &Service,
) -> Option<Optional> {
    let is_unwanted =
        |field: &str| refusal.says(field) && UNWANTED.iter().any(|word| refusal.says(word));
    match model.api {
        "openai-responses" => refusal.says("summar").then_some(Optional::ThinkingSummary),
        "anthropic-messages" => None,
        _ if is_unwanted("reasoning_effort") => Some(Optional::Effort),
        _ if is_unwanted("stream_options") => Some(Optional::StreamOptions),
        _ if is_unwanted(service.tokens_field) => Some(Optional::TokensField),
        _ if refusal.says("content") && body.iter().any(|piece| piece.contains(NULL)) => {
            Some(Optional::NullContent)
        }
        _ => None,
    }
}

/// The output limit below `sent` that a refusal names, in any wording: the largest smaller
/// number. Numbers below 256 belong to a model's name or are the lowest value allowed.
fn smaller_limit(refusal: &Refusal, sent: u32) -> Option<u32> {
    let fields = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    let is_about_limit = fields.iter().any(|field| refusal.says(field));
    let numbers = refusal.message.split(|c: char| !c.is_ascii_digit());
    let numbers = numbers.filter_map(|number| number.parse().ok());
    let smaller = numbers.filter(|number| (256..sent).contains(number)).max();
    smaller.filter(|_| is_about_limit)
}

//! Compaction: the older part of a conversation becomes a summary when the window fills.

use crate::context::Context;
use crate::error::Result;
use crate::llm::{Model, Provider, Usage};
use crate::settings::Settings;
use crate::stop::Stop;

/// The context has grown into the reserve of the model's window.
pub(crate) fn is_due(_context: &Context, _model: &Model, _settings: &Settings) -> bool {
    todo!()
}

/// Summarises what is old; returns what that used. An error leaves the context as it was.
pub(crate) fn compact(
    _context: &mut Context,
    _provider: &dyn Provider,
    _settings: &Settings,
    _stop: &Stop,
) -> Result<Usage> {
    todo!()
}

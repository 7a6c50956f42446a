//! Slack: the wire, and how a run looks in it.

pub(crate) mod board;
pub(crate) mod markdown;
pub(crate) mod show;
pub(crate) mod web;

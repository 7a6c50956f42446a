//! The front ends of the terminal, one file for each.
//!
//! - Enters: a parsed command line and the configuration, from `main`.
//! - Leaves: text on stdout, progress on stderr, a result from which `main` makes the exit code.
//! - State: none beyond one call.

pub(crate) mod chat;
pub(crate) mod check;
pub(crate) mod download;
mod paint;
mod screen;
mod terminal;
pub(crate) mod usage;

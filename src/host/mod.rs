//! Where and how a command runs: on the host or in a container.
//!
//! - Enters: a command line, its input and limits, from `tools` and the checks at start.
//! - Leaves: output and exit code; the process tree has ended when a call returns.
//! - State: none beyond one call.

pub(crate) mod check;
pub(crate) mod descriptors;
mod door;
mod hardening;
mod marks;
pub(crate) mod output;
pub(crate) mod process;
pub(crate) mod sandbox;
pub(crate) mod scripts;

//! Approval: which calls need a person's approval, the question, and the wait for the answer.
//! The front ends show the question: bot/approvals.rs in Slack, modes/chat.rs at a terminal.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::base::secret;
use crate::base::stop::{Cause, Stop, poll_for};
use crate::config::ApprovalMode;
use crate::llm::ToolCall;
use crate::tools;

/// How long a question stays open; then the calls are denied.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// Why calls are denied when `PATIENCE` is over.
pub(crate) const NOBODY: &str = "nobody approved it within 10 minutes";
/// Why calls are denied after a stop.
pub(crate) const STOPPED: &str = "the work was stopped before anyone approved it";

pub(crate) fn is_needed(mode: ApprovalMode, tool: &str) -> bool {
    match mode {
        ApprovalMode::Off => false,
        ApprovalMode::Changes => tools::changes(tool),
        ApprovalMode::All => true,
    }
}

/// Calls of one turn that are approved or denied together.
pub(crate) struct Question {
    pub(crate) calls: Vec<ProposedCall>,
}

/// A call as the person who decides reads it: complete, and without invisible characters.
pub(crate) struct ProposedCall {
    pub(crate) tool: String,
    pub(crate) label: String,
    pub(crate) text: String,
}

impl Question {
    pub(crate) fn of<'a>(calls: impl Iterator<Item = &'a ToolCall>) -> Question {
        let proposed = |call: &ToolCall| ProposedCall {
            tool: visible(&call.name),
            label: visible(&secret::hide(tools::label(call))),
            text: visible(&secret::hide(tools::proposal_text(call))),
        };
        Question {
            calls: calls.map(proposed).collect(),
        }
    }
}

/// The text with escapes for control characters and for those that hide or reorder others, so
/// that the person reads exactly what runs.
fn visible(text: &str) -> String {
    let is_hidden = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(
                c,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{200b}'..='\u{200f}'
            )
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{e0000}'..='\u{e007f}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// What a person chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Approve,
    /// Approve this call and all later ones of the run.
    ApproveAll,
    Deny,
}

/// The result of a question.
pub(crate) enum Decision {
    Approved,
    AllApproved,
    /// The reason, as a part of a sentence for the model.
    Denied(String),
}

impl Decision {
    /// `by` is the name of the person who chose.
    pub(crate) fn of(choice: Choice, by: &str) -> Decision {
        match choice {
            Choice::Approve => Decision::Approved,
            Choice::ApproveAll => Decision::AllApproved,
            Choice::Deny => Decision::Denied(format!("{by} denied it")),
        }
    }
}

/// A choice that one thread waits for and another thread sets. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PendingChoice {
    /// The first choice, with the user id of the person who made it.
    chosen: Arc<Mutex<Option<(Choice, String)>>>,
    /// Wakes the thread that waits.
    is_chosen: Stop,
}

impl PendingChoice {
    pub(crate) fn new() -> PendingChoice {
        PendingChoice {
            chosen: Arc::default(),
            is_chosen: Stop::new(),
        }
    }

    pub(crate) fn choose(&self, choice: Choice, by: &str) {
        let mut chosen = self.chosen.lock().unwrap();
        chosen.get_or_insert_with(|| (choice, by.to_owned()));
        self.is_chosen.set(Cause::Asked);
    }

    /// Waits for the choice. `None`: `stop` was set first, or nobody chose before `until`.
    pub(crate) fn wait(&self, stop: &Stop, until: Instant) -> Option<(Choice, String)> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if stop.is_set() {
                return None;
            }
            if self.is_chosen.is_set() || left == Duration::ZERO {
                return self.chosen.lock().unwrap().take();
            }
            let mut fds = [
                PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.is_chosen.fd(), PollFlags::IN),
            ];
            poll_for(&mut fds, Some(left));
        }
    }
}

//! Who may use mom, and the refusal of those who may not. One verdict for everything a person
//! can do: mentions, direct messages, commands, buttons, what waits for a run, what a start
//! resumes.

use std::sync::Arc;

use crate::base::log;
use crate::slack::inbound::{Author, Incoming};
use crate::slack::users::{Standing, UserUnknown};
use crate::store::ledger::AccessDecision;

use super::Services;
use super::outbox::Outbox;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) services: Arc<Services>,
    pub(super) outbox: Outbox,
}

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Member,
    Outsider(Refusal),
    /// Slack has to be asked: not let in until then.
    Unknown,
}

/// Why someone may not use mom.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    NotListed,
    OtherChannel,
    NoMember,
    /// Slack does not tell who it is, with its reason.
    NotVisible(String),
    /// Programs are never answered.
    Program,
}

impl Access {
    /// `decision`: what was known when the message came, if a start resumes it. Never waits.
    pub(super) fn verdict(&self, message: &Incoming, decision: Option<AccessDecision>) -> Verdict {
        let listed = self.services.agent.config.allow_users.is_some();
        if matches!(message.author, Author::Program(_)) {
            return Verdict::Outsider(Refusal::Program);
        }
        if !on(&self.services.agent.config.allow_users, &message.user) {
            return Verdict::Outsider(Refusal::NotListed);
        }
        if !self.is_channel_allowed(&message.channel) {
            return Verdict::Outsider(Refusal::OtherChannel);
        }
        // An app may post for a person or for itself: that has to be looked up.
        let settled = listed && message.author == Author::Person;
        if settled || decision == Some(AccessDecision::Member) {
            return Verdict::Member;
        }
        if message.foreign && !listed {
            return Verdict::Outsider(Refusal::NoMember);
        }
        match self.services.names.recent(&message.user) {
            None => Verdict::Unknown,
            Some(Ok(user)) if user.standing == Standing::Program => {
                Verdict::Outsider(Refusal::Program)
            }
            Some(Ok(user)) if user.standing == Standing::Member => Verdict::Member,
            Some(_) if listed => Verdict::Member,
            Some(Ok(_)) => Verdict::Outsider(Refusal::NoMember),
            Some(Err(why)) => Verdict::Outsider(Refusal::NotVisible(why)),
        }
    }

    /// What is recorded of a request; `None`: its sender may not.
    pub(super) fn decision(&self, message: &Incoming) -> Option<AccessDecision> {
        match self.verdict(message, None) {
            Verdict::Member => Some(AccessDecision::Member),
            Verdict::Unknown => Some(AccessDecision::Unknown),
            Verdict::Outsider(_) => None,
        }
    }

    /// Asks Slack who someone is; afterwards `verdict` knows. May wait.
    ///
    /// # Errors
    /// Slack can't be asked now, with the reason.
    pub(super) fn look_up(&self, user: &str) -> std::result::Result<(), String> {
        match self.services.names.look_up(user) {
            Err(UserUnknown::Failed(why)) => Err(why),
            _ => Ok(()),
        }
    }

    pub(super) fn is_channel_allowed(&self, channel: &str) -> bool {
        on(&self.services.agent.config.allow_channels, channel)
    }

    /// Logs the refusal, and posts it once a day and user where someone addressed mom.
    pub(super) fn refuse(&self, message: &Incoming, refusal: &Refusal) {
        let Incoming { channel, user, .. } = message;
        let why = match refusal {
            Refusal::Program => return log::info!(channel, "{user} is a program: not answered"),
            Refusal::NotListed => "you are not on my list of allowed users",
            Refusal::OtherChannel => "I don't work in this conversation",
            Refusal::NoMember => {
                "guests and people of other workspaces need to be on my list of allowed users"
            }
            Refusal::NotVisible(_) => {
                "Slack does not tell me who you are, and you are not on my list of allowed users"
            }
        };
        log::info!(channel, "refused {user}: {refusal:?}");
        let ledger = &self.services.agent.store.ledger;
        let is_first = || {
            ledger.refuse_user(channel, user).unwrap_or_else(|err| {
                log::warning!(channel, "{err}; a restart forgets that {user} was refused");
                true
            })
        };
        if message.mention && !message.follows && is_first() {
            let thread_ts = message.thread_ts.as_deref();
            let thread_ts = thread_ts.filter(|root| *root != message.ts);
            let text = format!("_Sorry, I can't help here: {why}; ask the person who runs me._");
            self.outbox.post(channel, thread_ts, text);
        }
    }
}

/// Whether `id` is on the list, if there is one.
fn on(list: &Option<Vec<String>>, id: &str) -> bool {
    list.as_ref()
        .is_none_or(|list| list.iter().any(|listed| listed == id))
}

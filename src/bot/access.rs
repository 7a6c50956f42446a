//! Decides who may use mom, and refuses the others. The same check for everything a person can do:
//! mentions, direct messages, commands, buttons, messages that wait for a run, and messages that a
//! start resumes.

use std::sync::Arc;

use crate::base::error::{Error, Result};
use crate::base::log;
use crate::slack::inbound::{Author, Incoming};
use crate::slack::users::Standing;
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
pub(super) enum AccessVerdict {
    Member,
    Outsider(AccessRefusal),
    /// Slack must be asked; until then the person may not use mom.
    Unknown,
}

/// Why someone may not use mom.
#[derive(Debug, PartialEq)]
pub(super) enum AccessRefusal {
    NotListed,
    OtherChannel,
    NoMember,
    /// Slack does not tell who it is, with its reason.
    NotVisible(String),
    /// Programs are never answered.
    Program,
}

impl Access {
    /// `decision`: for a resumed message, the decision when it first came. Never waits.
    pub(super) fn verdict(
        &self,
        message: &Incoming,
        decision: Option<AccessDecision>,
    ) -> AccessVerdict {
        let listed = self.services.agent.config.allow_users.is_some();
        if matches!(message.author, Author::Program(_)) {
            return AccessVerdict::Outsider(AccessRefusal::Program);
        }
        if !on(&self.services.agent.config.allow_users, &message.user) {
            return AccessVerdict::Outsider(AccessRefusal::NotListed);
        }
        if !self.is_channel_allowed(&message.channel) {
            return AccessVerdict::Outsider(AccessRefusal::OtherChannel);
        }
        // An app may post for a person or for itself: that has to be looked up.
        let settled = listed && message.author == Author::Person;
        if settled || decision == Some(AccessDecision::Member) {
            return AccessVerdict::Member;
        }
        if message.foreign && !listed {
            return AccessVerdict::Outsider(AccessRefusal::NoMember);
        }
        match self.services.names.recent(&message.user) {
            None => AccessVerdict::Unknown,
            Some(Ok(user)) if user.standing == Standing::Program => {
                AccessVerdict::Outsider(AccessRefusal::Program)
            }
            Some(Ok(user)) if user.standing == Standing::Member => AccessVerdict::Member,
            Some(_) if listed => AccessVerdict::Member,
            Some(Ok(_)) => AccessVerdict::Outsider(AccessRefusal::NoMember),
            Some(Err(why)) => AccessVerdict::Outsider(AccessRefusal::NotVisible(why)),
        }
    }

    /// The decision to record with a request; `None`: its sender may not use mom.
    pub(super) fn decision(&self, message: &Incoming) -> Option<AccessDecision> {
        match self.verdict(message, None) {
            AccessVerdict::Member => Some(AccessDecision::Member),
            AccessVerdict::Unknown => Some(AccessDecision::Unknown),
            AccessVerdict::Outsider(_) => None,
        }
    }

    /// Asks Slack who someone is; afterwards `verdict` knows. May wait.
    ///
    /// # Errors
    /// Slack can't be asked now, with the reason.
    pub(super) fn look_up(&self, user: &str) -> std::result::Result<(), String> {
        self.services.names.look_up(user)
    }

    /// Does something on the outbox's thread for someone who may use mom, nothing for others.
    pub(super) fn when_member(
        &self,
        sender: Incoming,
        act: impl FnOnce(&Access, &Incoming) -> Result<()> + Send + 'static,
    ) {
        let access = self.clone();
        self.outbox.work(move || {
            access.look_up(&sender.user).map_err(Error::failed)?;
            match access.verdict(&sender, None) {
                AccessVerdict::Member => act(&access, &sender),
                _ => Ok(()),
            }
        });
    }

    pub(super) fn is_channel_allowed(&self, channel: &str) -> bool {
        on(&self.services.agent.config.allow_channels, channel)
    }

    /// Logs the refusal, and posts it once per user and day if the message addressed mom.
    pub(super) fn refuse(&self, message: &Incoming, refusal: &AccessRefusal) {
        let Incoming { channel, user, .. } = message;
        let why = match refusal {
            AccessRefusal::Program => {
                return log::info!(channel, "{user} is a program: not answered");
            }
            AccessRefusal::NotListed => "you are not on my list of allowed users",
            AccessRefusal::OtherChannel => "I don't work in this conversation",
            AccessRefusal::NoMember => {
                "guests and people of other workspaces need to be on my list of allowed users"
            }
            AccessRefusal::NotVisible(_) => {
                "Slack does not tell me who you are, and you are not on my list of allowed users"
            }
        };
        log::info!(channel, "refused {user}: {refusal:?}");
        let ledger = &self.services.agent.store.ledger;
        let is_first = || {
            ledger.tell_once(channel, user).unwrap_or_else(|err| {
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

/// Whether `id` is on the list; without a list it always is.
fn on(list: &Option<Vec<String>>, id: &str) -> bool {
    list.as_ref()
        .is_none_or(|list| list.iter().any(|listed| listed == id))
}

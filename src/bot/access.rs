//! Who may use mom, and the refusal of those who may not.

use std::sync::Arc;
use std::thread;

use crate::base::log;
use crate::slack::inbound::{Author, Incoming};
use crate::slack::users::Standing;
use crate::store::ledger::AccessDecision;

use super::Services;
use super::outbox::Outbox;

const NOT_LISTED: &str = "you are not on my list of allowed users";
const OTHER_CHANNELS: &str = "I don't work in this conversation";
const GUEST: &str = "guests and people of other workspaces need to be on my list of allowed users";

pub(super) struct Access {
    pub(super) services: Arc<Services>,
    pub(super) outbox: Outbox,
}

impl Access {
    /// What can be said without a call to Slack; whoever is not known yet passes.
    pub(super) fn may(&self, message: &Incoming) -> std::result::Result<(), &'static str> {
        self.allowed(&message.user, &message.channel)?;
        let listed = self.services.agent.config.allow_users.is_some();
        let known = || self.services.names.known(&message.user);
        if !listed
            && (message.foreign || known().is_some_and(|user| user.standing != Standing::Member))
        {
            return Err(GUEST);
        }
        Ok(())
    }

    /// Whether a program wrote it, which is never answered; without a call to Slack.
    pub(super) fn is_program(&self, message: &Incoming) -> bool {
        let known = self.services.names.known(&message.user);
        matches!(message.author, Author::Program(_))
            || known.is_some_and(|user| user.standing == Standing::Program)
    }

    /// Of someone who passed `may`.
    pub(super) fn decision(&self, message: &Incoming) -> AccessDecision {
        let listed = self.services.agent.config.allow_users.is_some();
        if listed || self.services.names.known(&message.user).is_some() {
            AccessDecision::Member
        } else {
            AccessDecision::Unknown
        }
    }

    /// By the lists alone.
    pub(super) fn allowed(
        &self,
        user: &str,
        channel: &str,
    ) -> std::result::Result<(), &'static str> {
        if !on(&self.services.agent.config.allow_users, user) {
            return Err(NOT_LISTED);
        }
        if !self.is_channel_allowed(channel) {
            return Err(OTHER_CHANNELS);
        }
        Ok(())
    }

    pub(super) fn is_channel_allowed(&self, channel: &str) -> bool {
        on(&self.services.agent.config.allow_channels, channel)
    }

    /// Posts the refusal, once a day and user.
    pub(super) fn refuse(&self, channel: &str, thread_ts: Option<&str>, user: &str, why: &str) {
        log::info!(channel, "refused {user}: {why}");
        let ledger = &self.services.agent.store.ledger;
        let is_first = ledger.refuse_user(channel, user).unwrap_or_else(|err| {
            log::warning!(channel, "{err}; a restart forgets that {user} was refused");
            true
        });
        if is_first {
            let text = format!("_Sorry, I can't help here: {why}; ask the person who runs me._");
            self.outbox.post(channel, thread_ts, text);
        }
    }

    /// Refuses an outsider, after asking Slack who that is, unless there is a list: those on it
    /// passed already. Programs are left without a word.
    pub(super) fn refuses(&self, channel: &str, thread_ts: Option<&str>, user: &str) -> bool {
        let open = self.services.agent.config.allow_users.is_none();
        let known = self.services.names.user(user).map(|user| user.standing);
        if known == Some(Standing::Program) {
            log::info!(channel, "{user} is a program: not answered");
            return true;
        }
        let outsider = open && known.is_some_and(|standing| standing != Standing::Member);
        if outsider {
            self.refuse(channel, thread_ts, user, GUEST);
        }
        outsider
    }

    /// `act` for someone who passed `may`: at once when it is known who that is, else on a
    /// thread of its own that asks Slack first.
    pub(super) fn when_member(&self, user: String, act: impl FnOnce(&str) + Send + 'static) {
        let listed = self.services.agent.config.allow_users.is_some();
        if listed || self.services.names.known(&user).is_some() {
            return act(&user);
        }
        let services = self.services.clone();
        let look_up = move || match services.names.user(&user) {
            Some(known) if known.standing != Standing::Member => {
                log::info!("", "{user} may not stop a run: {GUEST}")
            }
            _ => act(&user),
        };
        let thread = thread::Builder::new().name("who-stops".to_owned());
        if let Err(err) = thread.spawn(look_up) {
            log::error!("", "cannot start a thread to stop a run: {err}");
        }
    }
}

/// Whether `id` is on the list, if there is one.
fn on(list: &Option<Vec<String>>, id: &str) -> bool {
    list.as_ref()
        .is_none_or(|list| list.iter().any(|listed| listed == id))
}

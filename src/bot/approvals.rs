//! Questions in Slack whether calls may run: posted in the run's thread, decided when someone who
//! may use mom presses a button, then edited. The run waits on its own thread; nothing else waits
//! for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::agent::approval::{
    Choice, Decision, NOBODY, PATIENCE, PendingChoice, Question, STOPPED,
};
use crate::base::backoff::Backoff;
use crate::base::error::Error;
use crate::base::log;
use crate::base::random;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::slack::display::{Show, Target};
use crate::slack::earlier::{QUESTION, find, metadata};
use crate::slack::inbound::Incoming;
use crate::slack::question::QuestionText;
use crate::slack::web::{Failure, PostContent, SlackResult, Urgency, Web};

use super::access::{Access, AccessVerdict};

/// Replaces `QUESTION` in the metadata when the buttons are removed.
const DECIDED: &str = "decided-";
/// Another thread posts the status: how long to wait between looks for it, and how many looks.
const STATUS_PAUSE: Duration = Duration::from_millis(100);
const STATUS_LOOKS_MAX: usize = 100;
const NOT_ASKED: &str = "the question could not be asked";
/// Shown to a person who presses a button of a closed question.
const OVER: &str =
    "_This question is no longer valid: it was answered or stopped, or I was restarted since._";

pub(super) struct Approvals {
    access: Access,
    /// Questions that wait for a press, by id.
    open: Mutex<HashMap<String, PendingChoice>>,
}

/// The message with the buttons, in the run's thread.
struct ButtonMessage<'a> {
    web: &'a Arc<Web>,
    target: &'a Target,
    /// `None`: in the channel itself, where no status could be posted.
    root: Option<String>,
    /// Id of the question.
    id: &'a str,
    stop: &'a Stop,
}

impl Approvals {
    pub(super) fn new(access: Access) -> Approvals {
        Approvals {
            access,
            open: Mutex::default(),
        }
    }

    /// Posts the question and waits for a press, the run's stop, or the end of `PATIENCE`.
    pub(super) fn ask(&self, show: &Show, question: &Question, stop: &Stop) -> Decision {
        let until = Instant::now() + PATIENCE;
        let id = match random::random_word() {
            Ok(id) => id,
            Err(err) => return Decision::Denied(format!("{NOT_ASKED}: {err}")),
        };
        let choice = PendingChoice::new();
        self.open.lock().unwrap().insert(id.clone(), choice.clone());
        let message = ButtonMessage {
            web: &self.access.services.web,
            target: show.target(),
            root: root(show, stop),
            id: &id,
            stop,
        };
        let mut shown = QuestionText::of(question);
        let posted = match message.post(&shown) {
            Err(failure) if failure.blames_blocks() => {
                let channel = &message.target.channel;
                log::warning!(channel, "calls are posted as a file: {failure}");
                shown = QuestionText::in_file(question);
                message.post(&shown)
            }
            posted => posted,
        };
        if let Ok(ts) = &posted {
            show.asked(ts);
        }
        let chosen = posted.as_ref().ok().and_then(|_| choice.wait(stop, until));
        self.open.lock().unwrap().remove(&id);
        let ts = match posted {
            Ok(ts) => ts,
            Err(failure) => return self.not_asked(&message, &failure),
        };
        let (decision, line) = match chosen {
            Some((choice, by)) => self.decided(choice, &by),
            None => undecided(stop.cause()),
        };
        self.close(&message, ts, shown.closed(&line));
        decision
    }

    fn not_asked(&self, message: &ButtonMessage<'_>, failure: &Failure) -> Decision {
        let why = format!("{NOT_ASKED}: {failure}");
        if !message.stop.is_set() {
            let line = format!("_Denied: {}_", text::escape(&why));
            let (channel, root) = (&message.target.channel, message.root.as_deref());
            self.access.outbox.post(channel, root, line);
        }
        Decision::Denied(why)
    }

    fn decided(&self, choice: Choice, by: &str) -> (Decision, String) {
        let user = self.access.services.names.user(by);
        let name = user.map_or_else(|| by.to_owned(), |user| user.display);
        let what = match choice {
            Choice::Approve => "Approved",
            Choice::ApproveAll => "All of this run approved",
            Choice::Deny => "Denied",
        };
        let line = format!("_{what} by {}_", text::escape(&name));
        (Decision::of(choice, &name), line)
    }

    /// Removes the buttons: at once if mom is ending, else in the outbox.
    fn close(&self, message: &ButtonMessage<'_>, ts: String, mut content: PostContent) {
        let target = message.target;
        let part = format!("{DECIDED}{}", message.id);
        content.metadata = Some(metadata(&target.run, &part));
        let (web, channel) = (message.web.clone(), target.channel.clone());
        let plain = PostContent {
            blocks: None,
            ..content.clone()
        };
        let of = channel.clone();
        let edit = move |urgency: Urgency| match web.chat_update(&of, &ts, &content, urgency) {
            Err(failure) if failure.blames_blocks() => web.chat_update(&of, &ts, &plain, urgency),
            edited => edited,
        };
        if message.stop.cause() == Some(Cause::Restart) {
            if let Err(failure) = edit(Urgency::Optional) {
                log::warning!(&channel, "cannot remove a question's buttons: {failure}");
            }
            return;
        }
        (self.access.outbox).work(move || Ok(edit(Urgency::Must)?));
    }

    /// Removes the buttons of questions from an earlier start: the run asks again.
    pub(super) fn retire(&self, channel: &str, questions: &[String]) {
        let line = "_No longer valid: mom was restarted. What is still to be run is asked again._";
        let content = PostContent {
            metadata: Some(metadata("", DECIDED)),
            ..PostContent::plain(line)
        };
        for ts in questions {
            self.access.outbox.edit(channel, ts, content.clone());
        }
    }

    /// `message`: who pressed, and where. Never waits.
    pub(super) fn press(&self, message: Incoming, question: &str, choice: Choice) {
        let access = self.access.clone();
        let Some(pending) = self.open.lock().unwrap().get(question).cloned() else {
            return self.access.outbox.work(move || {
                let web = &access.services.web;
                Ok(web.chat_post_ephemeral(&message.channel, &message.user, OVER)?)
            });
        };
        if !matches!(access.verdict(&message, None), AccessVerdict::Unknown) {
            return press(&access, &message, &pending, choice);
        }
        self.access.outbox.work(move || {
            access.look_up(&message.user).map_err(Error::failed)?;
            press(&access, &message, &pending, choice);
            Ok(())
        });
    }
}

impl ButtonMessage<'_> {
    /// Posts the question and returns its ts.
    fn post(&self, shown: &QuestionText) -> SlackResult<String> {
        let (channel, run) = (&self.target.channel, &self.target.run);
        let root = self.root.as_deref();
        if let Some(file) = &shown.file {
            let name = "calls.txt";
            (self.web).files_upload(channel, root, name, name, file.as_bytes())?;
        }
        let part = format!("{QUESTION}{}", self.id);
        let mut content = shown.open(self.id);
        content.metadata = Some(metadata(run, &part));
        persist(self.stop, || {
            let posted = (self.web).chat_post_message(channel, root, &content, Urgency::Optional);
            if !matches!(posted, Err(Failure::Unknown(_))) {
                return posted;
            }
            find(self.web, channel, root, run, &part)?.map_or(posted, Ok)
        })
    }
}

/// The root of the run's thread, as soon as it is posted.
fn root(show: &Show, stop: &Stop) -> Option<String> {
    for _ in 0..STATUS_LOOKS_MAX {
        let root = (show.target().thread_ts.clone()).or_else(|| show.status_ts());
        if root.is_some() || stop.wait(STATUS_PAUSE).is_err() {
            return root;
        }
    }
    None
}

/// The decision for a question without an answer, by the cause of the run's stop.
fn undecided(stopped: Option<Cause>) -> (Decision, String) {
    let (why, line) = match stopped {
        Some(Cause::Restart) => (STOPPED, "_Not run: mom is restarting_"),
        Some(Cause::Asked) => (STOPPED, "_Not run: stopped_"),
        None => (NOBODY, "_Denied: nobody approved it within 10 minutes_"),
    };
    (Decision::Denied(why.to_owned()), line.to_owned())
}

fn press(access: &Access, message: &Incoming, pending: &PendingChoice, choice: Choice) {
    match access.verdict(message, None) {
        AccessVerdict::Member => pending.choose(choice, &message.user),
        AccessVerdict::Outsider(refusal) => access.refuse(message, &refusal),
        // Without a look-up the press does not count.
        AccessVerdict::Unknown => {}
    }
}

/// Repeats a call while the network is down or Slack limits the rate, until the stop or until its
/// patience ends.
fn persist<T>(stop: &Stop, mut call: impl FnMut() -> SlackResult<T>) -> SlackResult<T> {
    let until = Instant::now() + PATIENCE;
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        let (failure, after) = match call() {
            Err(Failure::Limited(after)) => (Failure::Limited(after), Some(after)),
            Err(failure @ (Failure::Unknown(_) | Failure::Failed(_))) => (failure, None),
            outcome => return outcome,
        };
        if Instant::now() > until || backoff.wait(stop, after).is_err() {
            return Err(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_ten_minutes_without_a_press_it_is_denied() {
        assert_eq!(PATIENCE, Duration::from_secs(10 * 60));
        let (choice, stop) = (PendingChoice::new(), Stop::new());
        assert_eq!(choice.wait(&stop, Instant::now()), None);
        let (decision, line) = undecided(stop.cause());
        assert!(matches!(decision, Decision::Denied(why) if why == NOBODY));
        assert_eq!(line, "_Denied: nobody approved it within 10 minutes_");
        // A press at the last moment counts.
        choice.choose(Choice::Approve, "U07");
        let chosen = choice.wait(&stop, Instant::now());
        assert_eq!(chosen, Some((Choice::Approve, "U07".to_owned())));
    }
}

//! Questions in Slack whether calls may run: posted in the run's thread, decided by a press of
//! someone who may use mom, and edited when they are decided. A run waits on its own thread;
//! nothing else waits for it.

use std::collections::HashMap;
use std::sync::Mutex;
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
use crate::slack::display::Target;
use crate::slack::earlier::{QUESTION, find, metadata};
use crate::slack::inbound::Incoming;
use crate::slack::question::QuestionText;
use crate::slack::web::{Failure, PostContent, SlackResult, Urgency};

use super::access::{Access, AccessVerdict};

/// In the place of `QUESTION` when the buttons are gone.
const DECIDED: &str = "decided-";
/// The status is posted beside the run: looked for this often, this long.
const STATUS_PAUSE: Duration = Duration::from_millis(100);
const STATUS_LOOKS_MAX: usize = 100;
const NAME_CHARS_MAX: usize = 80;

pub(super) struct Approvals {
    access: Access,
    /// By id.
    open: Mutex<HashMap<String, OpenQuestion>>,
}

#[derive(Clone)]
struct OpenQuestion {
    channel: String,
    choice: PendingChoice,
}

/// Where a question is asked.
pub(super) struct QuestionPlace<'a> {
    pub(super) target: &'a Target,
    pub(super) status_ts: &'a Mutex<Option<String>>,
}

impl QuestionPlace<'_> {
    /// The run's thread; the channel itself where no status could be posted.
    fn root(&self, stop: &Stop) -> Option<String> {
        for _ in 0..STATUS_LOOKS_MAX {
            let status_ts = self.status_ts.lock().unwrap().clone();
            let root = self.target.thread_ts.clone().or(status_ts);
            if root.is_some() || stop.wait(STATUS_PAUSE).is_err() {
                return root;
            }
        }
        None
    }
}

impl Approvals {
    pub(super) fn new(access: Access) -> Approvals {
        Approvals {
            access,
            open: Mutex::default(),
        }
    }

    /// Waits until it is decided, the run is stopped, or nobody cares.
    pub(super) fn ask(
        &self,
        place: &QuestionPlace<'_>,
        question: &Question,
        stop: &Stop,
    ) -> Decision {
        let until = Instant::now() + PATIENCE;
        let id = match random::random_word() {
            Ok(id) => id,
            Err(err) => return Decision::Denied(format!("the question could not be asked: {err}")),
        };
        let choice = PendingChoice::new();
        let open = OpenQuestion {
            channel: place.target.channel.clone(),
            choice: choice.clone(),
        };
        self.open.lock().unwrap().insert(id.clone(), open);
        let shown = QuestionText::of(question);
        let posted = self.post(place, &shown, &id, stop);
        let chosen = posted.as_ref().ok().and_then(|_| choice.wait(stop, until));
        self.open.lock().unwrap().remove(&id);
        let (decision, line) = match (&posted, chosen) {
            (Ok(_), Some((choice, by))) => self.decided(choice, &by),
            (Ok(_), None) if stop.cause() == Some(Cause::Restart) => (
                Decision::Denied(STOPPED.to_owned()),
                "_Not run: mom is restarting_".to_owned(),
            ),
            (Ok(_), None) if stop.is_set() => (
                Decision::Denied(STOPPED.to_owned()),
                "_Not run: stopped_".to_owned(),
            ),
            (Ok(_), None) => {
                let line = "_Denied: nobody approved it within 10 minutes_".to_owned();
                (Decision::Denied(NOBODY.to_owned()), line)
            }
            (Err(failure), _) => {
                let why = format!("the question could not be asked: {failure}");
                return Decision::Denied(why);
            }
        };
        if let Ok(ts) = posted {
            self.close(place.target, ts, &id, shown.closed(&line), stop);
        }
        decision
    }

    fn decided(&self, choice: Choice, by: &str) -> (Decision, String) {
        let user = self.access.services.names.user(by);
        let name = user.map_or_else(|| by.to_owned(), |user| user.display);
        let name = text::one_line(&name, NAME_CHARS_MAX);
        let what = match choice {
            Choice::Approve => "Approved",
            Choice::ApproveAll => "All of this run approved",
            Choice::Deny => "Denied",
        };
        let line = format!("_{what} by {}_", text::escape(&name));
        (Decision::of(choice, &name), line)
    }

    /// The ts of the message with the buttons.
    fn post(
        &self,
        place: &QuestionPlace<'_>,
        shown: &QuestionText,
        id: &str,
        stop: &Stop,
    ) -> SlackResult<String> {
        let web = &self.access.services.web;
        let (channel, run) = (&place.target.channel, &place.target.run);
        let root = place.root(stop);
        let root = root.as_deref();
        if let Some(file) = &shown.file {
            web.files_upload(channel, root, "calls.txt", "calls.txt", file.as_bytes())?;
        }
        for content in &shown.before {
            persist(stop, || {
                web.chat_post_message(channel, root, content, Urgency::Optional)
            })?;
        }
        let part = format!("{QUESTION}{id}");
        let mut content = shown.open(id);
        content.metadata = Some(metadata(run, &part));
        persist(stop, || {
            let posted = web.chat_post_message(channel, root, &content, Urgency::Optional);
            if !matches!(posted, Err(Failure::Unknown(_))) {
                return posted;
            }
            find(web, channel, root, run, &part)?.map_or(posted, Ok)
        })
    }

    /// Takes the buttons away: at once when mom ends, else beside the run.
    fn close(&self, target: &Target, ts: String, id: &str, mut content: PostContent, stop: &Stop) {
        content.metadata = Some(metadata(&target.run, &format!("{DECIDED}{id}")));
        let (web, channel) = (self.access.services.web.clone(), target.channel.clone());
        if stop.cause() == Some(Cause::Restart) {
            let edited = web.chat_update(&channel, &ts, &content, Urgency::Optional);
            if let Err(failure) = edited {
                log::warning!(&channel, "a question keeps its buttons: {failure}");
            }
            return;
        }
        (self.access.outbox)
            .work(move || Ok(web.chat_update(&channel, &ts, &content, Urgency::Must)?));
    }

    /// Takes the buttons from questions that an earlier start left: the run asks again.
    pub(super) fn retire(&self, channel: &str, questions: &[String]) {
        for ts in questions {
            let (web, channel) = (self.access.services.web.clone(), channel.to_owned());
            let ts = ts.clone();
            let line = "_Not run: mom was restarted. What is still to be run is asked anew._";
            let content = PostContent {
                blocks: Some("[]".to_owned()),
                metadata: Some(metadata("", DECIDED)),
                ..PostContent::plain(line)
            };
            (self.access.outbox)
                .work(move || Ok(web.chat_update(&channel, &ts, &content, Urgency::Must)?));
        }
    }

    /// `message`: who pressed, and where. Never waits.
    pub(super) fn press(&self, message: Incoming, question: &str, choice: Choice) {
        let open = self.open.lock().unwrap().get(question).cloned();
        let Some(open) = open.filter(|open| open.channel == message.channel) else {
            return log::info!(&message.channel, "a button of a question that is over");
        };
        let access = self.access.clone();
        if !matches!(access.verdict(&message, None), AccessVerdict::Unknown) {
            return press(&access, &message, &open.choice, choice);
        }
        self.access.outbox.work(move || {
            access.look_up(&message.user).map_err(Error::failed)?;
            press(&access, &message, &open.choice, choice);
            Ok(())
        });
    }
}

fn press(access: &Access, message: &Incoming, pending: &PendingChoice, choice: Choice) {
    match access.verdict(message, None) {
        AccessVerdict::Member => pending.choose(choice, &message.user),
        AccessVerdict::Outsider(refusal) => access.refuse(message, &refusal),
        // Never let in.
        AccessVerdict::Unknown => {}
    }
}

/// Tries again while the network is away or Slack limits the rate, until the stop or the end of
/// the patience.
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

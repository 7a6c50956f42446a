//! How a run ends in Slack: first the answer, then the rest of an answer too long for one
//! message, then the status of a long run, then the details that were still waiting.
//!
//! There is exactly one answer: it replaces the status, or is a new message if the run was long (an
//! edit notifies nobody) or Slack refuses the edit.

use std::time::Duration;

use serde_json::json;

use super::blocks::{self, words};
use super::display::{Display, Slot};
use super::earlier::metadata;
use super::markdown;
use super::steps::Progress;
use super::web::{Failure, PostContent, SlackResult, Urgency};
use crate::agent::run::Outcome;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::Cause;
use crate::base::text;

/// After a run of this length the answer is a new message, because an edit notifies nobody.
const BELL_AFTER: Duration = Duration::from_secs(30);
/// How long the details may hold up the end of a run when Slack limits the rate.
const DETAILS_PATIENCE: Duration = Duration::from_secs(30);

impl Display {
    pub(super) fn finish(mut self, outcome: &Result<Outcome>) -> Result<Option<String>> {
        let ended = self.end(outcome);
        if !self.shown.line.is_empty() {
            // Slack itself would remove it only after two minutes.
            self.set_thread_line("").ok();
        }
        ended?;
        Ok(self.answer_ts.into_iter().next())
    }

    fn end(&mut self, outcome: &Result<Outcome>) -> SlackResult<()> {
        match outcome {
            Ok(Outcome::Answered(answer)) => self.answer(answer)?,
            Ok(Outcome::Silent) => return self.erase(),
            Ok(Outcome::Stopped) | Err(Error::Stopped) => {
                if self.stop.cause() == Some(Cause::Restart) {
                    return self.interrupted();
                }
                self.progress(Progress::keep_writing);
                let by = self.shared.state.lock().unwrap().stopped_by.take();
                let by = by.map_or(String::new(), |by| format!(" by {}", words(&by, 80)));
                self.end_with(&format!("_Stopped_{by}"), Urgency::Must)?;
            }
            Err(err) => {
                let why = text::cut_middle(err.to_string().trim(), 600).into_owned();
                self.progress(|progress| {
                    progress.keep_writing();
                    progress.end_note(format!("_Error:_ {}", text::escape(&why)));
                });
                self.end_with(&sorry(err), Urgency::Must)?;
            }
        }
        self.rest_of_details();
        Ok(())
    }

    /// Edits the status, if one was posted, without retries: mom is ending.
    fn interrupted(&mut self) -> SlackResult<()> {
        if self.status_ts().is_none() {
            return Ok(());
        }
        self.end_with("_Interrupted: mom is restarting_", Urgency::Optional)?;
        self.close_details();
        Ok(())
    }

    /// Marks the steps as ended in the details messages that exist, so that no card says for ever
    /// that its step is running. Posts no new message: mom is ending.
    fn close_details(&mut self) {
        self.progress(Progress::end_steps);
        let Some(root) = self.root() else { return };
        while let Some(page) = self.next_details() {
            if self.details_ts(page.number).is_none() {
                return;
            }
            if let Err(failure) = self.send_details(&root, &page) {
                log::warning!(&self.target.channel, "details left as they are: {failure}");
                return;
            }
        }
    }

    fn answer(&mut self, answer: &str) -> SlackResult<()> {
        for piece in markdown::pieces(answer) {
            let blocks = json!([blocks::markdown(&piece)]);
            let content = PostContent::blocks(&markdown::fallback(&piece), &blocks);
            match self.answer_part(content) {
                Err(failure) if failure.blames_blocks() => {
                    for text in markdown::texts(&piece) {
                        self.answer_part(PostContent::plain(text))?;
                    }
                }
                done => done?,
            }
        }
        let Some(status_ts) = self.status_ts() else {
            return Ok(());
        };
        if self.answer_ts.first() != Some(&status_ts) {
            let age = self.target.since.elapsed();
            let done = self.progress(|progress| progress.done_line(age));
            let done = blocks::line(&done);
            match self.send(Slot::Existing(&status_ts), &done, Urgency::Must) {
                Ok(_) => {}
                Err(failure) if failure.is_closed() => return Err(failure),
                Err(failure) => {
                    log::warning!(&self.target.channel, "cannot end the status: {failure}");
                    self.retire();
                }
            }
        }
        Ok(())
    }

    /// The next message of the answer, unless an earlier try has posted it.
    fn answer_part(&mut self, content: PostContent) -> SlackResult<()> {
        let number = self.answer_ts.len();
        let existing = self.target.earlier.answer_ts(number).cloned();
        let ts = match (existing, self.answer_ts.first()) {
            (Some(ts), _) => ts,
            (None, None) => self.first_part(content)?,
            (None, Some(first)) => {
                let root = self.target.thread_ts.as_ref().unwrap_or(first);
                let part = format!("answer-{number}");
                self.put(Slot::New(&part, Some(root)), content, Urgency::Must)?
            }
        };
        self.answer_ts.push(ts);
        Ok(())
    }

    /// Posts the answer's first message in place of the status, or as a new message.
    fn first_part(&mut self, mut content: PostContent) -> SlackResult<String> {
        const PART: &str = "answer-0";
        let thread_ts = self.target.thread_ts.clone();
        let anew = Slot::New(PART, thread_ts.as_deref());
        let is_long = self.target.since.elapsed() > BELL_AFTER;
        let Some(ts) = self.status_ts().filter(|_| !is_long) else {
            return self.put(anew, content, Urgency::Must);
        };
        content.metadata = Some(metadata(&self.target.run, PART));
        match self.put(Slot::Existing(&ts), content.clone(), Urgency::Must) {
            Err(failure) if failure.stays() => {
                if failure.blames_blocks() && content.blocks.is_some() {
                    return Err(failure);
                }
                log::warning!(&self.target.channel, "the answer is posted new: {failure}");
            }
            outcome => return outcome,
        }
        let new_ts = self.put(anew, content, Urgency::Must)?;
        self.retire();
        Ok(new_ts)
    }

    /// Deletes a status that can't be edited: it must not show `Thinking` forever.
    fn retire(&mut self) {
        let ts = self.shared.state.lock().unwrap().status_ts.take();
        if let Some(ts) = ts {
            // The caller has posted the replacement, or reports that it could not.
            self.delete(&ts, Urgency::Optional).ok();
        }
    }

    /// Fails only where a later try may succeed.
    fn delete(&self, ts: &str, urgency: Urgency) -> SlackResult<()> {
        let channel = &self.target.channel;
        let deleted = self.web.chat_delete(channel, ts, urgency);
        if let Err(failure) = &deleted {
            log::warning!(channel, "cannot delete {ts}: {failure}");
        }
        deleted.or_else(|failure| match failure.is_closed() {
            true => Err(failure),
            false => Ok(()),
        })
    }

    /// The status becomes the run's last line, which is no answer.
    fn end_with(&mut self, text: &str, urgency: Urgency) -> SlackResult<()> {
        let line = blocks::line(text);
        if let Some(ts) = self.status_ts() {
            match self.send(Slot::Existing(&ts), &line, urgency) {
                Err(failure) if failure.stays() => self.retire(),
                outcome => return outcome.map(drop),
            }
        }
        let thread_ts = self.target.thread_ts.clone();
        let slot = Slot::New("end", thread_ts.as_deref());
        let ts = self.send(slot, &line, urgency)?;
        self.shared.state.lock().unwrap().status_ts = Some(ts);
        Ok(())
    }

    /// Deletes the run's messages, the newest first, so that no reply is seen without its
    /// root. A person who asked gets a line in the place of the status.
    fn erase(&mut self) -> SlackResult<()> {
        let details = self.shown.details.iter().filter_map(|(ts, _)| ts.clone());
        let mut replies: Vec<String> = details.collect();
        replies.append(&mut self.shared.state.lock().unwrap().question_ts);
        let earlier = &self.target.earlier;
        replies.extend(
            earlier
                .detail_ts
                .iter()
                .chain(&earlier.question_ts)
                .cloned(),
        );
        replies.sort_unstable();
        for ts in replies.iter().rev() {
            self.delete(ts, Urgency::Must)?;
        }
        if self.shared.state.lock().unwrap().is_for_person {
            return self.end_with("_(nothing to say)_", Urgency::Must);
        }
        let ts = self.shared.state.lock().unwrap().status_ts.take();
        ts.map_or(Ok(()), |ts| self.delete(&ts, Urgency::Must))
    }

    /// Details that were still waiting.
    fn rest_of_details(&mut self) {
        let Some(root) = self.root() else { return };
        self.progress(Progress::end_steps);
        let mut patience = DETAILS_PATIENCE;
        while let Some(page) = self.next_details() {
            match self.send_details(&root, &page) {
                Ok(()) => {}
                Err(Failure::Limited(after))
                    if after <= patience && self.stop.wait(after).is_ok() =>
                {
                    patience -= after;
                }
                Err(failure) => {
                    log::warning!(&self.target.channel, "cannot post details: {failure}");
                    return;
                }
            }
        }
    }
}

/// The text for people in the channel after a failure; its details are posted in the thread.
fn sorry(err: &Error) -> String {
    match err {
        Error::Model { fault, .. } => {
            let fault = text::escape(&fault.to_string());
            format!("_Sorry, {fault}_")
        }
        _ => "_Sorry, something went wrong_ (the details are in the thread)".to_owned(),
    }
}

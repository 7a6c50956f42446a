//! From an envelope to the log: what is heard is written down, acked and handed on, in this
//! order.

use std::sync::{Arc, MutexGuard};

use crate::agent::queue::Queue;
use crate::agent::run::Job;
use crate::base::command::Command;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::secret;
use crate::base::text;
use crate::slack::files::Download;
use crate::slack::inbound::{self, Inbound, Incoming};
use crate::slack::{Envelope, history};
use crate::store::{self, Attachment, LogEntry, Now, Seen, Store};

use super::House;
use super::errands::Errand;

/// A message that was logged just now.
pub(super) struct Taken {
    pub(super) message: Incoming,
    pub(super) files: Vec<Download>,
    pub(super) seen: Seen,
}

impl Taken {
    pub(super) fn command(&self) -> Option<Command> {
        // Its words were heard before.
        let words = Some(&self.message.text).filter(|_| self.seen != Seen::NowFiles);
        words.and_then(|words| Command::parse(words))
    }
}

pub(super) type Intake<'a> = MutexGuard<'a, ()>;

impl House {
    /// Writes down, acks, acts, in this order: a message that was not written down is not
    /// acked, and Slack brings it again.
    pub(super) fn receive(
        self: &Arc<House>,
        batch: Vec<Envelope>,
        ack: &mut dyn FnMut(&[String]),
        queue: &Queue,
    ) {
        let mut ids = Vec::with_capacity(batch.len());
        let mut messages = Vec::new();
        let mut others = Vec::new();
        for envelope in batch {
            match inbound::parse(&envelope.kind, &envelope.payload, self.me()) {
                Inbound::Message(message) => messages.push((envelope.id, message)),
                Inbound::Ignored(why) => {
                    log::debug!("", "left out {}: {why}", envelope.kind);
                    ids.push(envelope.id);
                }
                other => {
                    ids.push(envelope.id);
                    others.push(other);
                }
            }
        }
        let from: Vec<_> = messages
            .iter()
            .map(|(id, message)| (id.clone(), message.channel.clone()))
            .collect();
        let messages: Vec<_> = messages.into_iter().map(|(_, message)| message).collect();
        let asked: Vec<Incoming> = messages.iter().filter(|m| m.mention).cloned().collect();
        let intake = self.intake.lock().unwrap();
        let (taken, failed) = self.take(messages, &intake);
        for (channel, err) in &failed {
            log::error!(
                channel,
                "cannot write messages down, Slack will bring them again: {err}"
            );
            self.kept.lost(channel);
            let asked = asked.iter().find(|message| message.channel == *channel);
            self.say_unwritten(channel, asked, err);
        }
        let mut unwritten = self.unwritten.lock().unwrap();
        let before = unwritten.len();
        unwritten.retain(|channel, _| taken.iter().all(|t| t.message.channel != *channel));
        if unwritten.len() < before {
            // It works again; Slack may have given up bringing what came meanwhile.
            self.hello();
        }
        drop(unwritten);
        let is_written = |channel: &String| failed.iter().all(|(failed, _)| failed != channel);
        ids.extend(
            from.into_iter()
                .filter(|(_, channel)| is_written(channel))
                .map(|(id, _)| id),
        );
        ack(&ids);
        self.route(taken, queue, intake);
        let others = others.into_iter();
        let revised: Vec<Incoming> = others.filter_map(|other| self.act(other, queue)).collect();
        self.revise(&revised);
    }

    /// Someone waits for an answer that can't come: told once, until it works again.
    fn say_unwritten(&self, channel: &str, asked: Option<&Incoming>, err: &Error) {
        let mut unwritten = self.unwritten.lock().unwrap();
        let told = unwritten.entry(channel.to_owned()).or_default();
        let asked = asked.filter(|message| !*told && self.may(message).is_ok());
        if let Some(message) = asked {
            *told = true;
            self.errand(Errand::Say {
                channel: message.channel.clone(),
                thread_ts: message.thread_ts.clone(),
                text: format!(
                    "_Sorry, something went wrong_: I can't write down what is said here, so I \
                     can't answer yet ({}). Whoever runs me can mend that; I will try again.",
                    text::escape(&text::one_line(&err.to_string(), 300))
                ),
            });
        }
    }

    /// Logs what is new, durably, and returns it; and the channels where that failed.
    pub(super) fn take(
        &self,
        messages: Vec<Incoming>,
        _: &Intake,
    ) -> (Vec<Taken>, Vec<(String, Error)>) {
        let store = &self.agent.store;
        let mut taken: Vec<Taken> = Vec::new();
        let channels = messages.iter().map(|message| message.channel.as_str());
        let mut failed = self
            .kept
            .hear(&channels.collect(), &|id| store.heard_until(id));
        for message in messages {
            if failed
                .iter()
                .any(|(channel, _)| *channel == message.channel)
            {
                continue;
            }
            // A twin in the same batch is not in the log yet.
            let twin = taken.iter_mut().find(|taken| {
                taken.message.channel == message.channel && taken.message.ts == message.ts
            });
            if let Some(twin) = twin {
                // Sometimes only one of the twins carries the files.
                if twin.files.is_empty() && !message.files.is_empty() {
                    twin.files = self.downloads(&message);
                    twin.message.files = message.files;
                }
                twin.message.mention |= message.mention;
                continue;
            }
            let now = Now {
                asked: self.asks(&message),
                has_files: !message.files.is_empty(),
            };
            match store.seen(&message.channel, &message.ts, now) {
                Ok(Seen::Known) => {}
                Ok(seen) => {
                    let files = self.downloads(&message);
                    taken.push(Taken {
                        message,
                        files,
                        seen,
                    });
                }
                Err(err) => failed.push((message.channel, err)),
            }
        }
        let entries = taken.iter().map(|Taken { message, files, .. }| {
            let entry = LogEntry {
                mention: self.asks(message),
                ..self.entry(message, files)
            };
            (message.channel.clone(), entry)
        });
        failed.extend(store.log_batch(&entries.collect::<Vec<_>>()));
        taken.retain(|taken| {
            failed
                .iter()
                .all(|(channel, _)| *channel != taken.message.channel)
        });
        (taken, failed)
    }

    /// A line of the log that asks something of mom.
    fn asks(&self, message: &Incoming) -> bool {
        message.mention && self.may(message).is_ok()
    }

    /// It asks nothing.
    fn entry(&self, message: &Incoming, files: &[Download]) -> LogEntry {
        let user = self.names.known(&message.user);
        let attachments = files.iter().map(|download| Attachment {
            original: download.file.name.clone(),
            local: download.local.clone(),
        });
        LogEntry {
            ts: message.ts.clone(),
            user: message.user.clone(),
            user_name: user.as_ref().map(|user| user.handle.clone()),
            display_name: user.map(|user| user.display),
            text: secret::hide(store::clean_text(&message.text)),
            attachments: attachments.collect(),
            thread_ts: message.thread_ts.clone(),
            ..LogEntry::default()
        }
    }

    /// Logs what was said in the job's thread before, by people when she was not there, or
    /// by other programs: alerts often are what she is asked about.
    pub(super) fn read_thread(&self, job: &Job) -> Result<()> {
        let (Some(root), Some(asked)) = (&job.thread_ts, job.asked.first()) else {
            return Ok(());
        };
        history::thread(&self.web, &job.channel, root, &asked.ts, &mut |page| {
            let said = page.iter().filter_map(|message| {
                let said = inbound::overheard(message, &job.channel, self.me())?;
                if let Some(name) = inbound::program_name(message) {
                    self.names.remember(&said.user, name);
                }
                Some(said)
            });
            let said = said.collect();
            let (taken, failed) = self.take(said, &self.intake.lock().unwrap());
            for download in taken.into_iter().flat_map(|taken| taken.files) {
                self.files.fetch(download);
            }
            match failed.into_iter().next() {
                Some((_, err)) => Err(err),
                None => Ok(()),
            }
        })
    }

    pub(super) fn downloads(&self, message: &Incoming) -> Vec<Download> {
        let names: Vec<&str> = message
            .files
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        let places = Store::attachments(&message.channel, &message.ts, &names);
        let pairs = message.files.iter().cloned().zip(places);
        pairs
            .map(|(file, place)| Download {
                file,
                local: place.local,
            })
            .collect()
    }

    /// What logged messages say now, as further lines of the log; nothing at all: deleted.
    fn revise(&self, messages: &[Incoming]) {
        let _intake = self.intake.lock().unwrap();
        let store = &self.agent.store;
        for message in messages {
            let revised = match store.seen(&message.channel, &message.ts, Now::default()) {
                Ok(Seen::New) => Ok(()),
                Ok(_) => {
                    let entry = self.entry(message, &self.downloads(message));
                    store.log(&[(message.channel.clone(), entry)])
                }
                Err(err) => Err(err),
            };
            if let Err(err) = revised {
                log::warning!(&message.channel, "cannot write an edit down: {err}");
            }
        }
    }
}

//! What must outlive mom and stands in no log: up to where the history of a channel was
//! read, and who was refused when. One small file, rewritten whole; without it, or with
//! nonsense in it (the agent can write there), she begins anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::dir::Dir;
use crate::error::Result;
use crate::json::Obj;
use crate::{log, time};

pub(crate) const FILE: &str = "mom.json";
/// Thousands of channels and people.
const BYTES_MAX: usize = 1 << 20;
/// People who were refused today.
const REFUSED_MAX: usize = 1_000;

pub(crate) struct Kept {
    dir: Arc<Dir>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Channels whose history since that ts is to be read: what came since the connection
    /// was made, and so is newer, stands in the log already. `None`: there was no log.
    gaps: HashMap<String, Option<String>>,
    /// Read since the last hello.
    read: HashSet<String>,
    /// User -> day of the last refusal.
    refused: BTreeMap<String, i64>,
    /// As the file has it.
    written: String,
}

impl Kept {
    pub(crate) fn load(dir: Arc<Dir>) -> Kept {
        let text = dir.read_head(FILE, BYTES_MAX).unwrap_or_else(|err| {
            log::warning!("", "{err}; going on without it");
            None
        });
        let value: Value = serde_json::from_slice(&text.unwrap_or_default()).unwrap_or_default();
        let of = |key: &str| value[key].as_object().into_iter().flatten();
        let gap = |(channel, ts): (&String, &Value)| {
            let ts = ts.as_str().filter(|ts| time::slack_ts_ms(ts).is_some())?;
            Some((channel.clone(), Some(ts.to_owned())))
        };
        let refusal = |(user, day): (&String, &Value)| Some((user.clone(), day.as_i64()?));
        let mut state = State {
            gaps: of("gaps").filter_map(gap).collect(),
            refused: of("refused").filter_map(refusal).collect(),
            ..State::default()
        };
        state.written = state.text();
        Kept {
            dir,
            state: Mutex::new(state),
        }
    }

    /// A new connection: what came before it may have been missed, everywhere.
    pub(crate) fn connected(&self) {
        self.state.lock().unwrap().read.clear();
    }

    /// A message of this channel could not be logged: it is missed from now on.
    pub(crate) fn lost(&self, channel: &str) {
        self.state.lock().unwrap().read.remove(channel);
    }

    /// Messages of these channels are about to be logged; `newest` gives the ts of the
    /// newest line before that.
    ///
    /// # Errors
    /// They must not be logged: what is between would be forgotten.
    pub(crate) fn hear<'a>(
        &self,
        channels: impl Iterator<Item = &'a str>,
        newest: &dyn Fn(&str) -> Result<Option<String>>,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let mut found = Vec::new();
        for channel in channels {
            if !state.read.contains(channel) && !state.gaps.contains_key(channel) {
                let newest = newest(channel)?;
                state.gaps.insert(channel.to_owned(), newest);
                found.push(channel);
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        state.write(&self.dir).inspect_err(|_| {
            found.iter().for_each(|channel| {
                state.gaps.remove(*channel);
            });
        })
    }

    /// From where on the history of a channel is to be read; `None`: it has been.
    pub(crate) fn gap(
        &self,
        channel: &str,
        newest: &dyn Fn(&str) -> Result<Option<String>>,
    ) -> Result<Option<String>> {
        let state = self.state.lock().unwrap();
        match state.gaps.get(channel) {
            Some(gap) => Ok(gap.clone()),
            None if state.read.contains(channel) => Ok(None),
            None => newest(channel),
        }
    }

    /// Everything of the channel is in its log.
    pub(crate) fn read(&self, channel: &str) {
        let mut state = self.state.lock().unwrap();
        state.read.insert(channel.to_owned());
        state.gaps.remove(channel);
        // Reading it once more does no harm.
        if let Err(err) = state.write(&self.dir) {
            log::debug!(channel, "{err}");
        }
    }

    /// Once a day and user.
    pub(crate) fn refuses(&self, user: &str) -> bool {
        let day = time::now_ms() / (24 * 3_600_000);
        let mut state = self.state.lock().unwrap();
        if state.refused.get(user) == Some(&day) {
            return false;
        }
        state.refused.retain(|_, then| *then == day);
        if state.refused.len() >= REFUSED_MAX {
            state.refused.clear();
        }
        state.refused.insert(user.to_owned(), day);
        if let Err(err) = state.write(&self.dir) {
            log::warning!("", "{err}; a restart forgets that {user} was refused");
        }
        true
    }
}

impl State {
    fn text(&self) -> String {
        let gaps: BTreeMap<&String, &Option<String>> = self.gaps.iter().collect();
        let gaps = gaps.into_iter().fold(Obj::new(), |out, (channel, ts)| {
            out.opt_str(channel, ts.as_deref())
        });
        let refused = self.refused.iter();
        let refused = refused.fold(Obj::new(), |out, (user, day)| out.num(user, *day));
        let out = Obj::new().raw("gaps", &gaps.end());
        out.raw("refused", &refused.end()).end() + "\n"
    }

    fn write(&mut self, dir: &Dir) -> Result<()> {
        let text = self.text();
        if text != self.written {
            dir.replace(FILE, text.as_bytes())?;
            self.written = text;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    #[test]
    fn gaps_stay_until_they_are_read() {
        let scratch = Scratch::new("kept");
        let dir = scratch.store().dir().clone();
        let newest = |channel: &str| match channel {
            "C3" => Ok(None),
            _ => Ok(Some("1700000000.000100".to_owned())),
        };
        let later = |_: &str| Ok(Some("1800000000.000100".to_owned()));
        let kept = Kept::load(dir.clone());
        assert_eq!(kept.gap("C1", &later).unwrap(), later("").unwrap());
        let channels = ["C1", "C2", "C3"];
        kept.hear(channels.into_iter(), &newest).unwrap();
        kept.hear(channels.into_iter(), &later).unwrap();
        assert_eq!(kept.gap("C1", &later).unwrap(), newest("C1").unwrap());
        assert_eq!(kept.gap("C3", &later).unwrap(), None);
        kept.read("C1");
        assert_eq!(kept.gap("C1", &later).unwrap(), None);
        // As after a restart.
        let kept = Kept::load(dir.clone());
        assert_eq!(kept.gap("C1", &later).unwrap(), later("").unwrap());
        assert_eq!(kept.gap("C2", &later).unwrap(), newest("C2").unwrap());
        kept.read("C2");
        kept.connected();
        assert_eq!(kept.gap("C2", &later).unwrap(), later("").unwrap());
        for nonsense in [
            "",
            "[]",
            r#"{"gaps":{"C1":"x","C2":[]},"refused":{"U1":"x"}}"#,
        ] {
            scratch.write(FILE, nonsense);
            let kept = Kept::load(dir.clone());
            assert_eq!(kept.gap("C1", &later).unwrap(), later("").unwrap());
            assert!(kept.refuses("U1") && !kept.refuses("U1"), "{nonsense}");
            assert!(!Kept::load(dir.clone()).refuses("U1"));
        }
    }
}

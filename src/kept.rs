//! What must outlive mom and stands in no log: from where on the history of a channel is to
//! be read, and who was refused when. One small file, rewritten whole; without it, or with
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

/// Where the history of a channel begins that is not in its log yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Gap {
    /// After this ts.
    Since(String),
    /// After this ts, and there is no log at all: what stands before her own last post was
    /// answered by a mom with another directory.
    First(String),
}

impl Gap {
    pub(crate) fn ts(&self) -> &str {
        let (Gap::Since(ts) | Gap::First(ts)) = self;
        ts
    }
}

/// As old as what she still answers.
const FIRST_MS: i64 = 24 * 3_600_000;

pub(crate) struct Kept {
    dir: Arc<Dir>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Channels whose history is to be read: what came since the connection was made, and so
    /// is newer, stands in the log already.
    gaps: HashMap<String, Gap>,
    /// Up to where it was read. The log tells that as well, but not where she speaks alone.
    until: BTreeMap<String, String>,
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
        let ts = |(channel, ts): (&String, &Value)| {
            let ts = ts.as_str().filter(|ts| time::is_slack_ts(ts))?;
            Some((channel.clone(), ts.to_owned()))
        };
        let gaps = of("gaps")
            .filter_map(ts)
            .map(|(id, ts)| (id, Gap::Since(ts)));
        let first = of("first")
            .filter_map(ts)
            .map(|(id, ts)| (id, Gap::First(ts)));
        let refusal = |(user, day): (&String, &Value)| Some((user.clone(), day.as_i64()?));
        let mut state = State {
            gaps: gaps.chain(first).collect(),
            until: of("until").filter_map(ts).collect(),
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

    /// Messages of these channels are about to be logged; `heard` gives the ts up to which
    /// the log before that is complete.
    ///
    /// # Errors
    /// They must not be logged: what is between would be forgotten.
    pub(crate) fn hear<'a>(
        &self,
        channels: impl Iterator<Item = &'a str>,
        heard: &dyn Fn(&str) -> Result<Option<String>>,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let mut found = Vec::new();
        for channel in channels {
            if !state.read.contains(channel) && !state.gaps.contains_key(channel) {
                let gap = state.gap(channel, heard)?;
                state.gaps.insert(channel.to_owned(), gap);
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
        heard: &dyn Fn(&str) -> Result<Option<String>>,
    ) -> Result<Option<Gap>> {
        let state = self.state.lock().unwrap();
        match state.gaps.get(channel) {
            None if state.read.contains(channel) => Ok(None),
            None => state.gap(channel, heard).map(Some),
            gap => Ok(gap.cloned()),
        }
    }

    /// Everything of the channel is in its log, up to this ts (`None`: nothing new was there).
    pub(crate) fn read(&self, channel: &str, until: Option<String>) {
        let mut state = self.state.lock().unwrap();
        state.read.insert(channel.to_owned());
        state.gaps.remove(channel);
        state.until.extend(until.map(|ts| (channel.to_owned(), ts)));
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
    fn gap(&self, channel: &str, heard: &dyn Fn(&str) -> Result<Option<String>>) -> Result<Gap> {
        // Seconds have ten digits: their order is that of the numbers.
        let heard = heard(channel)?.max(self.until.get(channel).cloned());
        Ok(heard.map_or_else(
            || Gap::First(format!("{}.000000", (time::now_ms() - FIRST_MS) / 1000)),
            Gap::Since,
        ))
    }

    fn text(&self) -> String {
        let mut gaps: Vec<_> = self.gaps.iter().collect();
        gaps.sort_unstable_by_key(|(channel, _)| *channel);
        let (mut since, mut first) = (Obj::new(), Obj::new());
        for (channel, gap) in gaps {
            match gap {
                Gap::Since(ts) => since = since.str(channel, ts),
                Gap::First(ts) => first = first.str(channel, ts),
            }
        }
        let until = self.until.iter();
        let until = until.fold(Obj::new(), |out, (channel, ts)| out.str(channel, ts));
        let refused = self.refused.iter();
        let refused = refused.fold(Obj::new(), |out, (user, day)| out.num(user, *day));
        let out = Obj::new().raw("gaps", &since.end());
        let out = out.raw("first", &first.end()).raw("until", &until.end());
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
        const OLD: &str = "1700000000.000100";
        const LATER: &str = "1800000000.000100";
        let heard = |channel: &str| Ok((channel != "C3").then(|| OLD.to_owned()));
        let later = |_: &str| Ok(Some(LATER.to_owned()));
        let since = |ts: &str| Some(Gap::Since(ts.to_owned()));
        let is_first = |gap: Option<Gap>| matches!(gap, Some(Gap::First(_)));
        let kept = Kept::load(dir.clone());
        assert_eq!(kept.gap("C1", &later).unwrap(), since(LATER));
        let channels = ["C1", "C2", "C3"];
        kept.hear(channels.into_iter(), &heard).unwrap();
        kept.hear(channels.into_iter(), &later).unwrap();
        assert_eq!(kept.gap("C1", &later).unwrap(), since(OLD));
        assert!(is_first(kept.gap("C3", &later).unwrap()));
        kept.read("C1", Some("1750000000.000100".to_owned()));
        assert_eq!(kept.gap("C1", &later).unwrap(), None);
        // As after a restart.
        let kept = Kept::load(dir.clone());
        assert_eq!(kept.gap("C1", &later).unwrap(), since(LATER));
        assert_eq!(kept.gap("C1", &heard).unwrap(), since("1750000000.000100"));
        assert_eq!(kept.gap("C2", &later).unwrap(), since(OLD));
        assert!(is_first(kept.gap("C3", &later).unwrap()));
        kept.read("C2", None);
        kept.connected();
        assert_eq!(kept.gap("C2", &later).unwrap(), since(LATER));
        for nonsense in [
            "",
            "[]",
            r#"{"gaps":{"C1":"x","C2":[]},"until":{"C1":{}},"refused":{"U1":"x"}}"#,
        ] {
            scratch.write(FILE, nonsense);
            let kept = Kept::load(dir.clone());
            assert_eq!(kept.gap("C1", &later).unwrap(), since(LATER));
            assert!(kept.refuses("U1") && !kept.refuses("U1"), "{nonsense}");
            assert!(!Kept::load(dir.clone()).refuses("U1"));
        }
    }
}

//! What must outlive mom and stands in no log: from where on the history of a channel is to
//! be read. One small file, rewritten whole; without it, or with
//! nonsense in it (the agent can write there), she begins anew.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

use crate::base::error::{Error, Result};
use crate::base::json::Obj;
use crate::base::log;
use crate::base::time;
use crate::store::dir::Dir;

pub(crate) const FILE: &str = "mom.json";
/// Thousands of channels and people.
const BYTES_MAX: usize = 1 << 20;
/// Channels that are remembered as greeted.
const GREETED_MAX: usize = 5_000;

/// Where the history of a channel begins that is not in its log yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Gap {
    /// After this ts.
    Since(String),
    /// After the first ts, and there was no log at all: until the second she worked there, if
    /// at all, with another directory, and has answered what stands before her last post.
    First(String, String),
}

impl Gap {
    pub(crate) fn ts(&self) -> &str {
        let (Gap::Since(ts) | Gap::First(ts, _)) = self;
        ts
    }
}

/// Missed messages up to this age are answered, older ones only logged.
pub(crate) const MISSED_MS: i64 = 24 * 3_600_000;

pub(crate) struct Kept {
    dir: Arc<Dir>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Channels whose history is to be read, after which ts: what came since the connection
    /// was made, and so is newer, stands in the log already.
    gaps: Map<String, Value>,
    /// Likewise, without any log.
    first: Map<String, Value>,
    /// Up to where it was read. The log tells that as well, but not where she speaks alone.
    until: Map<String, Value>,
    /// Channels in which mom has introduced itself.
    greeted: Map<String, Value>,
    /// Channels that were read since the last hello.
    read: HashSet<String>,
    /// As the file has it.
    written: String,
    /// When this mom began.
    started_ms: i64,
}

impl Kept {
    pub(crate) fn load(dir: Arc<Dir>) -> Kept {
        let text = dir.read_head(FILE, BYTES_MAX).unwrap_or_else(|err| {
            log::warning!("", "{err}; going on without it");
            None
        });
        let mut file: Value = serde_json::from_slice(&text.unwrap_or_default()).unwrap_or_default();
        let mut of = |key: &str, is_fine: fn(&Value) -> bool| {
            let mut map = match file.get_mut(key).map(Value::take) {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            map.retain(|_, value| is_fine(value));
            map
        };
        let is_ts = |value: &Value| value.as_str().is_some_and(time::is_slack_ts);
        let mut state = State {
            gaps: of("gaps", is_ts),
            first: of("first", is_ts),
            until: of("until", is_ts),
            greeted: of("greeted", Value::is_boolean),
            started_ms: time::now_ms(),
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
    /// the log before that is complete. Returns those where they must not be, for what is
    /// between would be forgotten, and why.
    pub(crate) fn hear(
        &self,
        channels: &BTreeSet<&str>,
        heard: &dyn Fn(&str) -> Result<Option<String>>,
    ) -> Vec<(String, Error)> {
        let mut state = self.state.lock().unwrap();
        let (mut found, mut failed) = (false, Vec::new());
        for channel in channels {
            if state.read.contains(*channel) || state.known_gap(channel).is_some() {
                continue;
            }
            let (map, ts) = match state.gap(channel, heard) {
                Ok(Gap::Since(ts)) => (&mut state.gaps, ts),
                Ok(Gap::First(ts, _)) => (&mut state.first, ts),
                Err(err) => {
                    failed.push(((*channel).to_owned(), err));
                    continue;
                }
            };
            map.insert((*channel).to_owned(), Value::String(ts));
            found = true;
        }
        if found {
            if let Err(err) = state.write(&self.dir) {
                log::warning!("", "{err}; a restart may forget what was missed");
            }
        }
        failed
    }

    /// True once for each channel.
    pub(crate) fn greets(&self, channel: &str) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.greeted.contains_key(channel) {
            return false;
        }
        if state.greeted.len() >= GREETED_MAX {
            state.greeted.clear();
        }
        state.greeted.insert(channel.to_owned(), Value::Bool(true));
        if let Err(err) = state.write(&self.dir) {
            log::warning!(channel, "{err}; a restart may greet again");
        }
        true
    }

    /// From where on the history of a channel is to be read; `None`: it has been.
    pub(crate) fn gap(
        &self,
        channel: &str,
        heard: &dyn Fn(&str) -> Result<Option<String>>,
    ) -> Result<Option<Gap>> {
        let state = self.state.lock().unwrap();
        match state.known_gap(channel) {
            None if state.read.contains(channel) => Ok(None),
            None => state.gap(channel, heard).map(Some),
            gap => Ok(gap),
        }
    }

    /// Everything of the channel is in its log, up to this ts (`None`: nothing new was there).
    pub(crate) fn read(&self, channel: &str, until: Option<String>) {
        let mut state = self.state.lock().unwrap();
        state.read.insert(channel.to_owned());
        state.close(channel);
        if let Some(ts) = until {
            state.until.insert(channel.to_owned(), Value::String(ts));
        }
        // Reading it once more does no harm.
        if let Err(err) = state.write(&self.dir) {
            log::debug!(channel, "{err}");
        }
    }
}

impl State {
    fn known_gap(&self, channel: &str) -> Option<Gap> {
        let ts = |map: &Map<String, Value>| Some(map.get(channel)?.as_str()?.to_owned());
        let since = ts(&self.gaps).map(Gap::Since);
        since.or_else(|| {
            let since = ts(&self.first)?;
            // It was noted before she did anything there.
            let until_ms = time::slack_ts_ms(&since)? + MISSED_MS;
            Some(Gap::First(since, time::slack_ts(until_ms)))
        })
    }

    fn gap(&self, channel: &str, heard: &dyn Fn(&str) -> Result<Option<String>>) -> Result<Gap> {
        let until = self.until.get(channel).and_then(Value::as_str);
        // Seconds have ten digits: their order is that of the numbers.
        let heard = heard(channel)?.max(until.map(str::to_owned));
        Ok(heard.map_or_else(
            || {
                Gap::First(
                    time::slack_ts(time::now_ms() - MISSED_MS),
                    time::slack_ts(self.started_ms),
                )
            },
            Gap::Since,
        ))
    }

    fn close(&mut self, channel: &str) {
        self.gaps.remove(channel);
        self.first.remove(channel);
    }

    fn text(&self) -> String {
        let maps = [
            ("gaps", &self.gaps),
            ("first", &self.first),
            ("until", &self.until),
            ("greeted", &self.greeted),
        ];
        let file = maps.into_iter().fold(Obj::new(), |file, (key, map)| {
            file.raw(key, &Value::Object(map.clone()).to_string())
        });
        file.end() + "\n"
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
        let is_first = |gap: Option<Gap>| matches!(gap, Some(Gap::First(..)));
        let kept = Kept::load(dir.clone());
        assert_eq!(kept.gap("C1", &later).unwrap(), since(LATER));
        let channels = BTreeSet::from(["C1", "C2", "C3"]);
        assert_eq!(kept.hear(&channels, &heard), []);
        assert_eq!(kept.hear(&channels, &later), []);
        let spoiled = |id: &str| match id {
            "C4" => Err(Error::failed("spoiled")),
            _ => later(id),
        };
        let failed = kept.hear(&BTreeSet::from(["C4", "C5"]), &spoiled);
        assert_eq!(failed, [("C4".to_owned(), Error::failed("spoiled"))]);
        assert_eq!(kept.gap("C5", &heard).unwrap(), since(LATER));
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
        for nonsense in ["", "[]", r#"{"gaps":{"C1":"x","C2":[]},"until":{"C1":{}}}"#] {
            scratch.write(FILE, nonsense);
            let kept = Kept::load(dir.clone());
            assert_eq!(kept.gap("C1", &later).unwrap(), since(LATER));
        }
    }
}

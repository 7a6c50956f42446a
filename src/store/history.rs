//! mom.json: from which ts on each channel's history must be read from Slack, and in which channels
//! mom has introduced itself. One small file, rewritten as a whole; if it is missing or invalid
//! (the agent can write there), the channels' logs are used instead.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Result};
use crate::base::json;
use crate::base::log;
use crate::base::time;
use crate::store::dir::Dir;

pub(crate) const FILE: &str = "mom.json";
/// Enough for thousands of channels.
const BYTES_MAX: usize = 1 << 20;
/// Channels that are remembered as greeted.
const GREETED_MAX: usize = 5_000;

/// Missed messages up to this age are answered, older ones only logged.
pub(crate) const MISSED_MS: i64 = 24 * 3_600_000;

/// Where the part of a channel's history begins that is not in its log yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Gap {
    /// After this ts.
    Since(String),
    /// After the first ts, and the channel had no log. Before the second ts only a mom with another
    /// data directory can have worked there; it has answered what is older than its last post.
    First(String, String),
}

impl Gap {
    pub(crate) fn ts(&self) -> &str {
        let (Gap::Since(ts) | Gap::First(ts, _)) = self;
        ts
    }
}

pub(crate) struct HistoryCursors {
    dir: Arc<Dir>,
    state: Mutex<HistoryState>,
}

struct HistoryState {
    file: HistoryFile,
    /// The file on the disk is out of date.
    is_changed: bool,
    /// Channels whose history was read since the last connection.
    read: HashSet<String>,
    /// When this process started.
    started_ms: i64,
}

/// The content of mom.json; each map is by channel.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct HistoryFile {
    /// The ts after which the history must be read. What came since the connection was made is
    /// newer and in the log already.
    gaps: BTreeMap<String, String>,
    /// Likewise, for channels that have no log.
    first: BTreeMap<String, String>,
    /// The ts up to which the history was read. The log shows it too, unless only mom posted there.
    until: BTreeMap<String, String>,
    /// Whether mom has introduced itself there.
    greeted: BTreeMap<String, bool>,
}

/// Returns the ts up to which the log of a channel is complete, judged by the log alone.
pub(crate) type LoggedUntil<'a> = dyn Fn(&str) -> Result<Option<String>> + 'a;

impl HistoryCursors {
    pub(crate) fn load(dir: Arc<Dir>) -> HistoryCursors {
        let text = dir.read_head(FILE, BYTES_MAX).unwrap_or_else(|err| {
            log::warning!("", "{err}; going on without it");
            None
        });
        let file: Option<HistoryFile> = json::parse(&text.unwrap_or_default()).ok();
        let mut file = file.unwrap_or_default();
        for map in [&mut file.gaps, &mut file.first, &mut file.until] {
            map.retain(|_, ts| time::is_slack_ts(ts));
        }
        HistoryCursors {
            dir,
            state: Mutex::new(HistoryState {
                file,
                is_changed: false,
                read: HashSet::new(),
                started_ms: time::now_ms(),
            }),
        }
    }

    /// A new connection was made: messages from before it may be missing in every channel.
    pub(crate) fn mark_connected(&self) {
        self.state.lock().unwrap().read.clear();
    }

    /// A message of this channel could not be logged, so its history must be read again.
    pub(crate) fn mark_lost(&self, channel: &str) {
        self.state.lock().unwrap().read.remove(channel);
    }

    /// Records the gaps before messages of these channels are logged. Returns the channels whose
    /// messages must not be logged, because the gap would be forgotten, and why.
    pub(crate) fn note_gaps(
        &self,
        channels: &[&str],
        logged_until: &LoggedUntil<'_>,
    ) -> Vec<(String, Error)> {
        let mut state = self.state.lock().unwrap();
        let mut failed = Vec::new();
        for channel in channels {
            let has_failed = failed.iter().any(|(failed, _)| failed == channel);
            if has_failed || state.read.contains(*channel) || state.known_gap(channel).is_some() {
                continue;
            }
            let (map, ts) = match state.gap(channel, logged_until) {
                Ok(Gap::Since(ts)) => (&mut state.file.gaps, ts),
                Ok(Gap::First(ts, _)) => (&mut state.file.first, ts),
                Err(err) => {
                    failed.push(((*channel).to_owned(), err));
                    continue;
                }
            };
            map.insert((*channel).to_owned(), ts);
            state.is_changed = true;
        }
        if let Err(err) = state.write(&self.dir) {
            log::warning!("", "{err}; a restart may forget what was missed");
        }
        failed
    }

    /// Whether mom should introduce itself in this channel now: true once for each channel.
    pub(crate) fn greets(&self, channel: &str) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.file.greeted.contains_key(channel) {
            return false;
        }
        if state.file.greeted.len() >= GREETED_MAX {
            state.file.greeted.clear();
        }
        state.file.greeted.insert(channel.to_owned(), true);
        state.is_changed = true;
        if let Err(err) = state.write(&self.dir) {
            log::warning!(channel, "{err}; a restart may greet again");
        }
        true
    }

    /// From where on the channel's history must be read; `None`: nothing is missing.
    pub(crate) fn gap(&self, channel: &str, logged_until: &LoggedUntil<'_>) -> Result<Option<Gap>> {
        let state = self.state.lock().unwrap();
        match state.known_gap(channel) {
            None if state.read.contains(channel) => Ok(None),
            None => state.gap(channel, logged_until).map(Some),
            gap => Ok(gap),
        }
    }

    /// The log of the channel is complete up to this ts (`None`: the history held nothing new).
    pub(crate) fn mark_read(&self, channel: &str, until: Option<String>) {
        let mut state = self.state.lock().unwrap();
        state.read.insert(channel.to_owned());
        let gap = state.file.gaps.remove(channel);
        let gap = state.file.first.remove(channel).or(gap);
        state.is_changed |= gap.is_some();
        if let Some(ts) = until {
            let before = state.file.until.insert(channel.to_owned(), ts.clone());
            state.is_changed |= before != Some(ts);
        }
        // The error does no harm: the history is read once more.
        if let Err(err) = state.write(&self.dir) {
            log::debug!(channel, "{err}");
        }
    }
}

impl HistoryState {
    fn known_gap(&self, channel: &str) -> Option<Gap> {
        if let Some(since) = self.file.gaps.get(channel) {
            return Some(Gap::Since(since.clone()));
        }
        let since = self.file.first.get(channel)?;
        // The gap was recorded before mom did anything in the channel.
        let until_ms = time::slack_ts_ms(since)? + MISSED_MS;
        Some(Gap::First(since.clone(), time::slack_ts(until_ms)))
    }

    fn gap(&self, channel: &str, logged_until: &LoggedUntil<'_>) -> Result<Gap> {
        let until = self.file.until.get(channel);
        // The seconds in a ts have ten digits, so texts compare like numbers.
        Ok(match logged_until(channel)?.max(until.cloned()) {
            Some(ts) => Gap::Since(ts),
            None => Gap::First(
                time::slack_ts(time::now_ms() - MISSED_MS),
                time::slack_ts(self.started_ms),
            ),
        })
    }

    fn write(&mut self, dir: &Dir) -> Result<()> {
        if self.is_changed {
            let text = serde_json::to_string(&self.file).expect("texts by text") + "\n";
            dir.replace(FILE, text.as_bytes())?;
            self.is_changed = false;
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
        let scratch = Scratch::new("history");
        let dir = scratch.store().dir().clone();
        const OLD: &str = "1700000000.000100";
        const LATER: &str = "1800000000.000100";
        let heard = |channel: &str| Ok((channel != "C3").then(|| OLD.to_owned()));
        let later = |_: &str| Ok(Some(LATER.to_owned()));
        let since = |ts: &str| Some(Gap::Since(ts.to_owned()));
        let is_first = |gap: Option<Gap>| matches!(gap, Some(Gap::First(..)));
        let kept = HistoryCursors::load(dir.clone());
        assert_eq!(kept.gap("C1", &later).unwrap(), since(LATER));
        let channels = ["C1", "C2", "C3"];
        assert_eq!(kept.note_gaps(&channels, &heard), []);
        assert_eq!(kept.note_gaps(&channels, &later), []);
        let spoiled = |id: &str| match id {
            "C4" => Err(Error::failed("spoiled")),
            _ => later(id),
        };
        let failed = kept.note_gaps(&["C4", "C5", "C4"], &spoiled);
        assert_eq!(failed, [("C4".to_owned(), Error::failed("spoiled"))]);
        assert_eq!(kept.gap("C5", &heard).unwrap(), since(LATER));
        assert_eq!(kept.gap("C1", &later).unwrap(), since(OLD));
        assert!(is_first(kept.gap("C3", &later).unwrap()));
        kept.mark_read("C1", Some("1750000000.000100".to_owned()));
        assert_eq!(kept.gap("C1", &later).unwrap(), None);
        // As after a restart.
        let kept = HistoryCursors::load(dir.clone());
        assert_eq!(kept.gap("C1", &later).unwrap(), since(LATER));
        assert_eq!(kept.gap("C1", &heard).unwrap(), since("1750000000.000100"));
        assert_eq!(kept.gap("C2", &later).unwrap(), since(OLD));
        assert!(is_first(kept.gap("C3", &later).unwrap()));
        kept.mark_read("C2", None);
        kept.mark_connected();
        assert_eq!(kept.gap("C2", &later).unwrap(), since(LATER));
        for nonsense in ["", "[]", r#"{"gaps":{"C1":"x","C2":[]},"until":{"C1":{}}}"#] {
            scratch.write(FILE, nonsense);
            let kept = HistoryCursors::load(dir.clone());
            assert_eq!(kept.gap("C1", &later).unwrap(), since(LATER));
        }
    }
}

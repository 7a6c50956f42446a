//! Limits how many runs event files may cause, by channel and hour. A file that the agent writes
//! wakes it, so without a limit it could wake itself, and cost money, for ever.

use std::collections::VecDeque;

use crate::base::bounded::Bounded;

const HOUR_MS: i64 = 3600 * 1000;
const MINUTE_MS: i64 = 60 * 1000;
/// Channels, and file names, whose last runs are remembered.
const REMEMBERED_MAX: usize = 1_000;

/// Who wrote an event file, as far as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventWriter {
    /// It appeared while a run was in progress: perhaps a tool of that run wrote it.
    Tools,
    /// It appeared at another time: from the owner, a script, or a process that a tool left behind.
    Anyone,
    /// Not counted: it was there at the start, or it is periodic and not from tools.
    Owner,
}

impl EventWriter {
    /// Runs an hour in one channel.
    fn runs_max(self) -> usize {
        match self {
            EventWriter::Tools => 20,
            EventWriter::Anyone => 60,
            EventWriter::Owner => usize::MAX,
        }
    }
}

pub(super) struct EventPace {
    /// Times of the last runs by channel, with the writer of each.
    channels: Bounded<String, VecDeque<(i64, EventWriter)>>,
    /// By file name: start of the last series of runs, plus a minute for each run in it.
    names: Bounded<String, i64>,
    /// When a notice was last posted in a channel.
    notified: Bounded<String, i64>,
}

impl EventPace {
    pub(super) fn new() -> EventPace {
        EventPace {
            channels: Bounded::new(REMEMBERED_MAX),
            names: Bounded::new(REMEMBERED_MAX),
            notified: Bounded::new(REMEMBERED_MAX),
        }
    }

    /// When a file of this name may run, in milliseconds: once a minute in the long run, but a
    /// second time at once (the file may have been written anew right after its run).
    pub(super) fn earliest_ms(&self, name: &str, now_ms: i64) -> i64 {
        now_ms.max(self.paid_ms(name, now_ms) - MINUTE_MS)
    }

    fn paid_ms(&self, name: &str, now_ms: i64) -> i64 {
        let paid = self.names.get(name).copied().unwrap_or(now_ms);
        // If it is further ahead, the clock was set back.
        if paid > now_ms + 2 * MINUTE_MS {
            now_ms
        } else {
            paid.max(now_ms)
        }
    }

    /// Why files of this writer may not run in the channel now; `None`: they may.
    pub(super) fn refuses(
        &self,
        channel: &str,
        writer: EventWriter,
        now_ms: i64,
    ) -> Option<String> {
        let runs = self.channels.get(channel).into_iter().flatten();
        let last_hour = now_ms - HOUR_MS..=now_ms;
        let runs = runs.filter(|(at, by)| *by == writer && last_hour.contains(at));
        let max = writer.runs_max();
        (runs.count() >= max).then(|| {
            let by = match writer {
                EventWriter::Tools => "files that appeared while I was working",
                EventWriter::Anyone | EventWriter::Owner => "event files",
            };
            format!("{max} runs in one hour came from {by}, which is the limit of a channel")
        })
    }

    pub(super) fn ran(&mut self, channel: &str, name: &str, writer: EventWriter, now_ms: i64) {
        let paid = self.paid_ms(name, now_ms) + MINUTE_MS;
        self.names.insert(name.to_owned(), paid);
        let mut runs = self.channels.get(channel).cloned().unwrap_or_default();
        runs.retain(|(at, _)| now_ms - at < HOUR_MS);
        if writer != EventWriter::Owner {
            runs.push_back((now_ms, writer));
        }
        self.channels.insert(channel.to_owned(), runs);
    }

    /// Whether to post the notice: once an hour in each channel.
    pub(super) fn should_notify(&mut self, channel: &str, now_ms: i64) -> bool {
        let last = self.notified.get(channel).copied();
        let is_new = last.is_none_or(|last| !(0..HOUR_MS).contains(&(now_ms - last)));
        if is_new {
            self.notified.insert(channel.to_owned(), now_ms);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_runs_once_a_minute_and_once_more() {
        let mut pace = EventPace::new();
        let mut now = 0;
        let mut runs = Vec::new();
        for _ in 0..4 {
            now = pace.earliest_ms("a", now);
            runs.push(now / MINUTE_MS);
            pace.ran("C1", "a", EventWriter::Anyone, now);
        }
        assert_eq!(runs, [0, 0, 1, 2]);
        assert_eq!(pace.earliest_ms("b", now), now);
        assert_eq!(
            pace.earliest_ms("a", -HOUR_MS),
            -HOUR_MS,
            "the clock was set back"
        );
    }

    #[test]
    fn an_hour_has_its_number_of_runs() {
        for (writer, max) in [
            (EventWriter::Tools, Some(20)),
            (EventWriter::Anyone, Some(60)),
            (EventWriter::Owner, None),
        ] {
            let mut pace = EventPace::new();
            let of_hour = (0..100).filter(|n| {
                let goes = pace.refuses("C1", writer, *n).is_none();
                if goes {
                    pace.ran("C1", &n.to_string(), writer, *n);
                }
                goes
            });
            assert_eq!(of_hour.count(), max.unwrap_or(100));
            assert_eq!(pace.refuses("C2", writer, 100), None);
            assert_eq!(pace.refuses("C1", writer, HOUR_MS + 100), None);
            assert!(
                pace.should_notify("C1", 0)
                    && !pace.should_notify("C1", 9)
                    && pace.should_notify("C1", HOUR_MS)
            );
        }
    }
}

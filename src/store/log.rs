//! log.jsonl: what was said in a conversation, one line per message, in the original's format. Only
//! this module appends to it; it also reads what others need from its end.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::bounded::Bounded;
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::base::time;
use crate::store::Store;
use crate::store::ledger::LedgerRequest;
use crate::store::lines::{Appended, Floor};

/// Bytes at the end of log.jsonl that are read for messages with files, threads, and its last ts.
const TAIL_BYTES: u64 = 256 * 1024;
/// Messages of a channel that are remembered. Slack may deliver one again within an hour.
const KNOWN_MAX: usize = 1_000;
/// Channels whose messages are remembered; for another, the end of its log is read again.
const CHANNELS_MAX: usize = 64;
const PEOPLE_MAX: usize = 200;
/// Bytes at the end of a log that are read for people, with each run: some 250 messages, 3 ms.
const PEOPLE_BYTES: u64 = 64 * 1024;
/// Bytes at the end of a log that are compared with a history read from Slack.
const HISTORY_BYTES: u64 = 4 << 20;

/// Channels whose newest messages are remembered.
pub(super) struct KnownMessages(Bounded<String, KnownChannel>);

/// The messages of one channel, newest last.
#[derive(Default)]
struct KnownChannel(VecDeque<KnownLine>);

struct KnownLine {
    /// Hash of its ts.
    ts: u64,
    asked: bool,
    has_files: bool,
}

/// A line of log.jsonl.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogEntry {
    /// `None`: derived from `ts`. For mom's own lines: now.
    #[serde(rename = "date", default)]
    #[serde(serialize_with = "write_date", deserialize_with = "read_date")]
    pub(crate) date_ms: Option<i64>,
    pub(crate) ts: String,
    /// Slack user id; `bot` for mom.
    #[serde(default = "unknown")]
    pub(crate) user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    /// See `clean_text`.
    #[serde(default)]
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) attachments: Vec<Attachment>,
    #[serde(default)]
    pub(crate) is_bot: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thread_ts: Option<String>,
    /// Whether it is addressed to mom: a mention or a DM.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) mention: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// The name its sender gave it.
    pub(crate) original: String,
    /// Relative to the data directory.
    pub(crate) local: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    New,
    Known,
    /// Logged before, but not as addressed to mom.
    NowMention,
    /// Logged before without its files: Slack's app_mention may lack them.
    NowFiles,
}

/// What this delivery says about a message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Whether it is addressed to mom.
    pub(crate) asked: bool,
    pub(crate) has_files: bool,
}

impl Store {
    /// Logs `(channel, entry)` pairs in order. The lines survive a power cut when it returns.
    pub(crate) fn log(&self, entries: &[(String, LogEntry)]) -> Result<()> {
        match self.log_batch(entries, &[], &[]).pop() {
            Some((_, err)) => Err(err),
            None => Ok(()),
        }
    }

    /// Like `log`, with the requests that some of the entries are: one write and one fdatasync for
    /// each file, however many lines. Entries in `heard` are stored in the ledger, for `log_heard`.
    /// Returns the channels where nothing was written, and why: a broken file in one channel does
    /// not affect the others.
    pub(crate) fn log_batch(
        &self,
        entries: &[(String, LogEntry)],
        heard: &[(String, LogEntry)],
        requests: &[(String, LedgerRequest)],
    ) -> Vec<(String, Error)> {
        let all = entries.iter().chain(heard);
        let mut channels: Vec<&str> = all.map(|(channel, _)| &**channel).collect();
        channels.sort_unstable();
        channels.dedup();
        let batch = |channel: &str| LogBatch {
            channel: channel.to_owned(),
            entries: of_channel(entries, channel),
            heard: of_channel(heard, channel),
            requests: of_channel(requests, channel),
            ledger: None,
            log: None,
        };
        let mut batches: Vec<_> = channels.into_iter().map(batch).collect();
        let mut failed = Vec::new();
        // All writes come before the first fdatasync: most disks flush them together then. And the
        // requests are on the disk before a line is in the log: otherwise, if the log were synced
        // and a request lost, its message would look answered.
        for step in [
            LogBatch::write_requests,
            LogBatch::sync_requests,
            LogBatch::write_log,
            LogBatch::sync_log,
        ] {
            batches.retain_mut(|batch| match step(batch, self) {
                Ok(()) => true,
                Err(err) => {
                    failed.push((batch.channel.clone(), err));
                    batch.undo(self);
                    false
                }
            });
        }
        let mut all = self.known.lock().unwrap();
        for batch in batches {
            if let Some(mut known) = all.0.remove(&batch.channel) {
                let entries = batch.entries.iter().chain(&batch.heard);
                entries.for_each(|entry| known.mark(entry));
                all.0.insert(batch.channel, known);
            }
        }
        failed
    }

    /// Writes the lines that waited for a name, each as `named` returns it. Some are in the log
    /// already if a crash interrupted this before.
    pub(crate) fn log_heard(
        &self,
        channel: &str,
        named: &dyn Fn(LogEntry) -> LogEntry,
    ) -> Result<()> {
        let mut entries = self.ledger.heard(channel)?;
        if entries.is_empty() {
            return Ok(());
        }
        let tail = self.log_tail(channel, TAIL_BYTES)?;
        let key = |entry: &LogEntry| (entry.ts.clone(), entry.mention, entry.attachments.len());
        let logged = tail.map(|entry| Ok(key(&entry?)));
        let logged = logged.collect::<Result<Vec<_>>>()?;
        entries.retain(|entry| !logged.contains(&key(entry)));
        let lines: String = entries
            .into_iter()
            .map(|entry| named(entry).line())
            .collect();
        if !lines.is_empty() {
            self.make_channel(channel)?;
            self.dir.append(&log_path(channel), "", &lines)?.sync()?;
        }
        self.ledger.logged(channel)
    }

    /// What the log knows about a message, compared with this delivery (`now`); it looks at the
    /// newest `KNOWN_MAX` messages.
    pub(crate) fn seen(&self, channel: &str, ts: &str, now: Now) -> Result<Seen> {
        let mut all = self.known.lock().unwrap();
        let known = match all.0.remove(channel) {
            Some(known) => known,
            None => {
                let mut known = KnownChannel::default();
                for entry in self.log_tail(channel, TAIL_BYTES)?.take(KNOWN_MAX) {
                    known.mark(&entry?);
                }
                known.0.make_contiguous().reverse();
                known
            }
        };
        let seen = known.find(ts, now);
        // Inserted again, so that it counts as used last and is remembered longest.
        all.0.insert(channel.to_owned(), known);
        Ok(seen)
    }

    /// Messages of people that came with files since then, newest first.
    pub(crate) fn with_files(&self, channel: &str, since_ms: i64) -> Result<Vec<LogEntry>> {
        let is_with_files = |entry: &LogEntry| {
            let has_files = !entry.is_bot && !entry.attachments.is_empty();
            has_files && entry.date_ms() >= since_ms && time::is_slack_ts(&entry.ts)
        };
        let tail = self.log_tail(channel, TAIL_BYTES)?;
        tail.filter(|entry| entry.as_ref().map_or(true, is_with_files))
            .collect()
    }

    /// Who wrote lately, newest first.
    pub(crate) fn people(&self, channel: &str) -> Result<Vec<String>> {
        let mut people: Vec<String> = Vec::new();
        for entry in self.log_tail(channel, PEOPLE_BYTES)? {
            let entry = entry?;
            if !entry.is_bot && people.len() < PEOPLE_MAX && !people.contains(&entry.user) {
                people.push(entry.user);
            }
        }
        Ok(people)
    }

    /// The ts up to which the log is complete, as the lines of people show: mom's own lines are
    /// there even if nothing else was received. Without lines of people, the ts of mom's oldest.
    pub(crate) fn logged_until(&self, channel: &str) -> Result<Option<String>> {
        let (mut own, mut said) = (None, None);
        for entry in self.log_tail(channel, TAIL_BYTES)? {
            let LogEntry { ts, is_bot, .. } = entry?;
            match time::is_slack_ts(&ts) {
                true if is_bot => own = own.filter(|oldest| *oldest < ts).or(Some(ts)),
                true => said = said.max(Some(ts)),
                false => {}
            }
        }
        Ok(said.or(own))
    }

    /// The ts of the messages near the end of the log, and whether each was addressed to mom: far
    /// more than `seen` looks at, for when thousands arrive at once.
    pub(crate) fn logged(&self, channel: &str) -> Result<HashMap<String, bool>> {
        let mut logged = HashMap::new();
        for entry in self.log_tail(channel, HISTORY_BYTES)? {
            let entry = entry?;
            *logged.entry(entry.ts).or_default() |= entry.mention;
        }
        Ok(logged)
    }

    /// Whether mom wrote in this thread, or wrote its root, since then.
    pub(crate) fn wrote_in(&self, channel: &str, root: &str, since_ms: i64) -> Result<bool> {
        for entry in self.log_tail(channel, TAIL_BYTES)? {
            let entry = entry?;
            let is_in_thread = entry.ts == root || entry.thread_ts.as_deref() == Some(root);
            if is_in_thread && entry.is_bot && entry.date_ms() >= since_ms {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Roots of threads in which mom was addressed or wrote, newest first.
    pub(crate) fn own_threads(&self, channel: &str) -> Result<Vec<String>> {
        let mut roots = Vec::new();
        for entry in self.log_tail(channel, TAIL_BYTES)? {
            let entry = entry?;
            let is_own = entry.is_bot || entry.mention;
            let root = entry.thread_ts.filter(|root| time::is_slack_ts(root));
            roots.extend(root.filter(|root| is_own && !roots.contains(root)));
        }
        Ok(roots)
    }

    /// The entries in the last `bytes` of the log, the last line first. That is not the order of
    /// their dates: old messages are edited, and threads are read late.
    fn log_tail(
        &self,
        channel: &str,
        bytes: u64,
    ) -> Result<impl Iterator<Item = Result<LogEntry>> + use<>> {
        let lines = self
            .dir
            .lines_back(&log_path(channel), Floor::Last(bytes))?;
        let parse = |line: Result<Vec<u8>>| line.map(|line| LogEntry::parse(&line)).transpose();
        Ok(lines.into_iter().flatten().filter_map(parse))
    }
}

/// Lines of one channel that are written together.
struct LogBatch {
    channel: String,
    entries: Vec<LogEntry>,
    heard: Vec<LogEntry>,
    requests: Vec<LedgerRequest>,
    ledger: Option<Appended>,
    log: Option<Appended>,
}

impl LogBatch {
    fn write_requests(&mut self, store: &Store) -> Result<()> {
        self.ledger = (store.ledger).request(&self.channel, &self.requests, &self.heard)?;
        Ok(())
    }

    fn sync_requests(&mut self, _: &Store) -> Result<()> {
        self.ledger.as_ref().map_or(Ok(()), Appended::sync)
    }

    fn write_log(&mut self, store: &Store) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        store.make_channel(&self.channel)?;
        let lines: String = self.entries.iter().map(LogEntry::line).collect();
        self.log = Some(store.dir.append(&log_path(&self.channel), "", &lines)?);
        Ok(())
    }

    fn sync_log(&mut self, _: &Store) -> Result<()> {
        self.log.as_ref().map_or(Ok(()), Appended::sync)
    }

    fn undo(&mut self, store: &Store) {
        (store.ledger).forget(&self.channel, &self.requests, &self.heard);
        if let Some(ledger) = self.ledger.take() {
            ledger.take_back();
        }
    }
}

impl LogEntry {
    /// A line of mom's own, dated now.
    pub(crate) fn own(ts: String, text: &str) -> LogEntry {
        LogEntry {
            ts,
            user: "bot".to_owned(),
            text: text.to_owned(),
            is_bot: true,
            ..LogEntry::default()
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn date_ms(&self) -> i64 {
        match self.date_ms {
            Some(ms) => ms,
            None if self.is_bot => time::now_ms(),
            None => time::slack_ts_ms(&self.ts).unwrap_or_else(time::now_ms),
        }
    }

    /// Whether it has no content, as when its message was deleted.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.attachments.is_empty()
    }

    pub(super) fn line(&self) -> String {
        let entry = LogEntry {
            date_ms: Some(self.date_ms()),
            ..self.clone()
        };
        serde_json::to_string(&entry).expect("an entry is always valid JSON") + "\n"
    }

    /// `None` for a line that is no valid entry: torn, of another program, or without a ts.
    pub(crate) fn parse(line: &[u8]) -> Option<LogEntry> {
        let mut entry: LogEntry = json::parse_typed(line)?;
        entry.ts = slack_ts(entry.ts);
        entry.thread_ts.take_if(|root| !time::is_slack_ts(root));
        Some(entry)
    }
}

fn of_channel<T: Clone>(all: &[(String, T)], channel: &str) -> Vec<T> {
    let ours = all.iter().filter(|(of, _)| of == channel);
    ours.map(|(_, item)| item.clone()).collect()
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn write_date<S: Serializer>(
    date_ms: &Option<i64>,
    out: S,
) -> std::result::Result<S::Ok, S::Error> {
    out.serialize_str(&time::iso(date_ms.unwrap_or_default()))
}

fn read_date<'a, D: Deserializer<'a>>(date: D) -> std::result::Result<Option<i64>, D::Error> {
    let date = String::deserialize(date)?;
    Ok(time::parse_iso(&date))
}

impl Default for KnownMessages {
    fn default() -> KnownMessages {
        KnownMessages(Bounded::new(CHANNELS_MAX))
    }
}

impl KnownChannel {
    fn mark(&mut self, entry: &LogEntry) {
        self.0.push_back(KnownLine {
            ts: hash(&entry.ts),
            asked: entry.mention,
            has_files: !entry.attachments.is_empty(),
        });
        if self.0.len() > KNOWN_MAX {
            self.0.pop_front();
        }
    }

    fn find(&self, ts: &str, now: Now) -> Seen {
        let ts = hash(ts);
        let lines: Vec<_> = self.0.iter().filter(|line| line.ts == ts).collect();
        if lines.is_empty() {
            Seen::New
        } else if now.asked && !lines.iter().any(|line| line.asked) {
            Seen::NowMention
        } else if now.has_files && !lines.iter().any(|line| line.has_files) {
            Seen::NowFiles
        } else {
            Seen::Known
        }
    }
}

/// `raw` as log.jsonl has it: `<@ID>` removed, trimmed, entities left encoded.
pub(crate) fn clean_text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once("<@") {
        out.push_str(before);
        let id_len = after.bytes().take_while(u8::is_ascii_alphanumeric).count();
        rest = match after.get(id_len..).and_then(|rest| rest.strip_prefix('>')) {
            Some(behind) if id_len > 0 => behind,
            _ => {
                out.push_str("<@");
                after
            }
        };
    }
    out.push_str(rest);
    out.trim().to_owned()
}

pub(crate) fn log_path(channel: &str) -> String {
    format!("{channel}/log.jsonl")
}

/// Very old files have milliseconds in place of a ts.
fn slack_ts(ts: String) -> String {
    match ts.parse::<i64>() {
        Ok(ms) if ms > 1_000_000_000_000 => time::slack_ts(ms),
        _ => ts,
    }
}

fn hash(ts: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    ts.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{Scratch, asked, entry, log, two_lines};

    const ASKED: Now = Now {
        asked: true,
        has_files: false,
    };

    #[test]
    fn lines_are_the_originals() {
        let scratch = Scratch::new("store-lines");
        let store = scratch.store();
        let user = LogEntry {
            attachments: Store::attachments("C1", "1767604364.120019", &["my photo (1).png"]),
            ..entry("1767604364.120019", "what is in this picture?")
        };
        let bot = LogEntry {
            ts: "1767604365.000400".to_owned(),
            user: "bot".to_owned(),
            text: "A bicycle.".to_owned(),
            is_bot: true,
            date_ms: Some(1_767_604_378_003),
            ..LogEntry::default()
        };
        let ours = LogEntry {
            thread_ts: Some("1.000001".to_owned()),
            ..asked("1767604366.000000", "a \"b\"\n&lt;c")
        };
        log(&store, &[user, bot, ours]);
        let want = r#"{"date":"2026-01-05T09:12:44.120Z","ts":"1767604364.120019","user":"U07AAAA1","userName":"lena","displayName":"Lena Berg","text":"what is in this picture?","attachments":[{"original":"my photo (1).png","local":"C1/attachments/1767604364120_my_photo__1_.png"}],"isBot":false}
{"date":"2026-01-05T09:12:58.003Z","ts":"1767604365.000400","user":"bot","text":"A bicycle.","attachments":[],"isBot":true}
{"date":"2026-01-05T09:12:46.000Z","ts":"1767604366.000000","user":"U07AAAA1","userName":"lena","displayName":"Lena Berg","text":"a \"b\"\n&lt;c","attachments":[],"isBot":false,"threadTs":"1.000001","mention":true}
"#;
        assert_eq!(scratch.read("C1/log.jsonl"), want);
        for line in want.lines() {
            let entry = LogEntry::parse(line.as_bytes()).unwrap();
            assert_eq!(entry.line().trim_end(), line);
        }
        let old =
            r#"{"date":"2026-01-05T09:12:44.120Z","ts":"1767604364120","user":"U1","text":"x"}"#;
        let old = LogEntry::parse(old.as_bytes()).unwrap();
        assert_eq!(old.ts, "1767604364.120000");
        let refused = store.log(&[("../C1".to_owned(), entry("1.0", ""))]);
        assert!(refused.is_err());
    }

    /// A crash in the middle of the last line, wherever: it costs that line at most.
    #[test]
    fn torn_anywhere() {
        let scratch = Scratch::new("store-torn");
        let store = scratch.store();
        let (whole, last) = two_lines(&scratch, &store);
        for len in last..whole.len() {
            scratch.write("C1/log.jsonl", &whole[..len]);
            log(&store, &[entry("3.000001", "three")]);
            let tail = store.log_tail("C1", TAIL_BYTES).unwrap();
            let texts: Vec<String> = tail.map(|entry| entry.unwrap().text).collect();
            let want = if len + 1 < whole.len() {
                &["three", "one"][..]
            } else {
                &["three", "two", "one"]
            };
            assert_eq!(texts, want, "cut at {len}");
        }
    }

    #[test]
    fn knows_what_it_has_seen() {
        let scratch = Scratch::new("store-seen");
        let store = scratch.store();
        assert_eq!(store.seen("C1", "1.000001", ASKED), Ok(Seen::New));
        log(&store, &[entry("1.000001", "one")]);
        for _ in 0..2 {
            assert_eq!(
                store.seen("C1", "1.000001", Now::default()),
                Ok(Seen::Known)
            );
            assert_eq!(store.seen("C1", "1.000001", ASKED), Ok(Seen::NowMention));
            assert_eq!(store.seen("C2", "1.000001", ASKED), Ok(Seen::New));
            // As after a restart.
            *store.known.lock().unwrap() = KnownMessages::default();
        }
        log(&store, &[asked("1.000001", "one")]);
        assert_eq!(store.seen("C1", "1.000001", ASKED), Ok(Seen::Known));
        let many: Vec<_> = (0..KNOWN_MAX)
            .map(|n| entry(&format!("5.{n:06}"), ""))
            .collect();
        log(&store, &many);
        let seen = |ts| store.seen("C1", ts, Now::default());
        assert_eq!(seen("5.000000"), Ok(Seen::Known));
        assert_eq!(seen("1.000001"), Ok(Seen::New));
    }

    #[test]
    fn the_end_of_a_log_tells_who_spoke_and_how_far_it_goes() {
        let scratch = Scratch::new("store-end");
        let store = scratch.store();
        let bot = LogEntry::own("1990.000000".to_owned(), "hi");
        let said = [asked("1700.000000", "a"), entry("1600.000000", "b"), bot];
        log(&store, &said);
        assert_eq!(store.logged_until("C1").unwrap().unwrap(), "1700.000000");
        assert_eq!(store.people("C1").unwrap().len(), 1);
        assert!(store.logged("C1").unwrap()["1700.000000"]);
        assert_eq!(store.channels().unwrap(), ["C1"]);
    }

    #[test]
    fn mentions_are_taken_out() {
        for (raw, want) in [
            (" <@U1> hi <@u2>", "hi"),
            ("a <@U1|lena> b", "a <@U1|lena> b"),
            ("<@> <@U1 &lt;@U2&gt;", "<@> <@U1 &lt;@U2&gt;"),
            ("<@<@U1>>", "<@>"),
            ("é<@", "é<@"),
        ] {
            assert_eq!(clean_text(raw), want, "{raw}");
        }
    }

    #[test]
    fn lines_that_wait_for_a_name_are_written_once() {
        let scratch = Scratch::new("store-heard");
        let heard = |ts: &str| LogEntry {
            user_name: None,
            display_name: None,
            date_ms: time::slack_ts_ms(ts),
            ..asked(ts, "hi")
        };
        let entries = ["1767604364.120019", "1767604365.000400"].map(heard);
        let batch = entries.clone().map(|entry| ("C1".to_owned(), entry));
        let store = scratch.store();
        assert!(store.log_batch(&[], &batch, &[]).is_empty());
        assert!(!scratch.0.join("C1/log.jsonl").exists());
        drop(store);
        // A crash came after the first was written.
        let store = scratch.store();
        assert_eq!(store.ledger.heard("C1").unwrap(), entries);
        let named = |entry: LogEntry| LogEntry {
            user_name: Some("lena".to_owned()),
            display_name: Some("Lena Berg".to_owned()),
            ..entry
        };
        log(&store, &[named(entries[0].clone())]);
        store.log_heard("C1", &named).unwrap();
        let lines = entries.map(|entry| named(entry).line());
        assert_eq!(scratch.read("C1/log.jsonl"), lines.concat());
        drop(store);
        let store = scratch.store();
        assert_eq!(store.ledger.heard("C1").unwrap(), []);
        store.log_heard("C1", &named).unwrap();
        assert_eq!(scratch.read("C1/log.jsonl"), lines.concat());
    }
}

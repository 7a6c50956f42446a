//! The data directory as the rest of mom sees it: log.jsonl (appended here and nowhere else),
//! attachments, spilled output, the lock. Formats are the original's, so that a directory
//! works with either program; every open goes through `dir`.

pub(crate) mod check;
pub(crate) mod dir;
pub(crate) mod kept;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::base::command::Command;
use crate::base::error::{Error, Result};
use crate::base::json::{self, Obj};
use crate::base::random::random_word;
use crate::base::time;
use crate::store::dir::{Appended, Dir, Floor, Kind, LinesBack};

/// Entries of the data directory that are looked at.
const ENTRIES_MAX: usize = 100_000;
/// Bytes of log.jsonl that are looked at for who spoke, what is known, where it ends.
const TAIL_BYTES: u64 = 256 * 1024;
/// Messages of a channel that are known by heart. Slack delivers again within an hour.
const KNOWN_MAX: usize = 1_000;
/// Channels of which that is held; for another, the tail of its log is read again.
const CHANNELS_MAX: usize = 64;
const PEOPLE_MAX: usize = 200;
/// End of a log that is read for them, with each run: some 250 messages, 3 ms.
const PEOPLE_BYTES: u64 = 64 * 1024;
/// Bytes looked at for what is unanswered: of the log, and of the context.
const UNANSWERED_LOG_BYTES: u64 = 4 << 20;
const UNANSWERED_CONTEXT_BYTES: u64 = 64 << 20;
/// Messages that one backfill adds to a channel: three pages.
const BACKFILL_MAX: usize = 3_000;
/// Characters of an attachment's name: file systems take 255 bytes, our prefixes less than 40.
const NAME_CHARS_MAX: usize = 200;

pub(crate) struct Store {
    dir: Arc<Dir>,
    path: PathBuf,
    /// Most recently used last.
    known: Mutex<VecDeque<Known>>,
}

struct Known {
    channel: String,
    /// Newest last.
    messages: VecDeque<KnownLine>,
}

struct KnownLine {
    /// Hash of its ts.
    ts: u64,
    asked: bool,
    has_files: bool,
}

/// A line of log.jsonl.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LogEntry {
    pub(crate) ts: String,
    /// Slack user id; `bot` for mom.
    pub(crate) user: String,
    pub(crate) user_name: Option<String>,
    pub(crate) display_name: Option<String>,
    /// See `clean_text`.
    pub(crate) text: String,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) is_bot: bool,
    pub(crate) thread_ts: Option<String>,
    /// It asks something of mom: a mention or a DM.
    pub(crate) mention: bool,
    /// Of mom's lines: the command (ts) that this answers.
    pub(crate) answers: Option<String>,
    /// `None`: derived from `ts`. For mom's own lines: now.
    pub(crate) date_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
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
    /// Logged before, but not as something asked of mom.
    NowMention,
    /// Logged before without its files: Slack's app_mention may lack them.
    NowFiles,
}

/// What a message is by what is heard of it now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) asked: bool,
    pub(crate) has_files: bool,
}

impl Store {
    /// # Errors
    /// Also when another mom works on this directory.
    pub(crate) fn open(path: &Path) -> Result<Store> {
        let path = std::path::absolute(path).map_err(|err| Error::io("open", path, &err))?;
        Dir::make_root(&path)?;
        let dir = Arc::new(Dir::open(&path)?);
        dir.lock()?;
        Ok(Store {
            dir,
            path,
            known: Mutex::default(),
        })
    }

    pub(crate) fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// Absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `(channel, entry)`, in order. Survives a power cut when it returns.
    pub(crate) fn log(&self, entries: &[(String, LogEntry)]) -> Result<()> {
        match self.log_batch(entries).pop() {
            Some((_, err)) => Err(err),
            None => Ok(()),
        }
    }

    /// Likewise: one write and one fdatasync for each channel, however many entries. Gives
    /// the channels that nothing was logged of, and why: one that is spoiled spoils no other.
    pub(crate) fn log_batch(&self, entries: &[(String, LogEntry)]) -> Vec<(String, Error)> {
        let mut batches: Vec<(&str, Vec<&LogEntry>)> = Vec::new();
        for (channel, entry) in entries {
            match batches.iter_mut().find(|(name, _)| name == channel) {
                Some((_, batch)) => batch.push(entry),
                None => batches.push((channel, vec![entry])),
            }
        }
        // All writes come before the first fdatasync: most disks flush them together then.
        let written: Vec<_> = batches
            .into_iter()
            .map(|(channel, batch)| {
                let lines: String = batch.iter().map(|entry| entry.line()).collect();
                let written = self
                    .make_channel(channel)
                    .and_then(|()| self.dir.append(&log_path(channel), "", &lines));
                (channel, batch, written)
            })
            .collect();
        let mut failed = Vec::new();
        for (channel, batch, written) in written {
            if let Err(err) = written.and_then(Appended::sync) {
                failed.push((channel.to_owned(), err));
                continue;
            }
            let mut known = self.known.lock().unwrap();
            if let Some(known) = known.iter_mut().find(|known| known.channel == channel) {
                batch.iter().for_each(|entry| known.mark(entry));
            }
        }
        failed
    }

    /// What the log knows of a message that is `now` like this; it looks at the newest
    /// `KNOWN_MAX` messages.
    pub(crate) fn seen(&self, channel: &str, ts: &str, now: Now) -> Result<Seen> {
        let mut all = self.known.lock().unwrap();
        let known = match all.iter().position(|known| known.channel == channel) {
            Some(at) => all.remove(at),
            None => {
                let mut known = Known {
                    channel: channel.to_owned(),
                    messages: VecDeque::new(),
                };
                let tail = self.log_tail(channel, Floor::Last(TAIL_BYTES), |_| true)?;
                tail.iter().for_each(|entry| known.mark(entry));
                Some(known)
            }
        };
        let seen = known
            .as_ref()
            .map_or(Seen::New, |known| known.find(ts, now));
        all.extend(known);
        while all.len() > CHANNELS_MAX {
            all.pop_front();
        }
        Ok(seen)
    }

    /// A new file in the channel's scratch/, and its path below the data directory.
    pub(crate) fn spill(&self, channel: &str) -> Result<(File, String)> {
        self.make_channel(channel)?;
        self.dir.make_dir(&format!("{channel}/scratch"))?;
        loop {
            let word = random_word()?;
            let path = format!(
                "{channel}/scratch/out-{}.txt",
                word.get(..6).unwrap_or(&word)
            );
            if let Some(file) = self.dir.create(&path)? {
                return Ok((file, path));
            }
        }
    }

    /// Where the files of one message are kept, by the names their senders gave them. Two of
    /// the same name are kept apart.
    pub(crate) fn attachments(channel: &str, ts: &str, originals: &[&str]) -> Vec<Attachment> {
        let ms = time::slack_ts_ms(ts).unwrap_or_default();
        let mut used = HashSet::new();
        let mut out = Vec::new();
        for original in originals {
            let name = safe_name(original);
            let mut local = format!("{channel}/attachments/{ms}_{name}");
            for number in 2.. {
                if used.insert(local.clone()) {
                    break;
                }
                local = format!("{channel}/attachments/{ms}_{number}_{name}");
            }
            out.push(Attachment {
                original: (*original).to_owned(),
                local,
            });
        }
        out
    }

    /// To be filled and then handed to `finish_attachment` or `drop_attachment`; until then
    /// the file has another name.
    pub(crate) fn create_attachment(&self, local: &str) -> Result<File> {
        let (channel, _) = local.split_once('/').unwrap_or_default();
        self.make_channel(channel)?;
        self.dir.make_dir(&format!("{channel}/attachments"))?;
        let part = part_path(local);
        self.dir.remove(&part)?;
        self.dir
            .create(&part)?
            .ok_or_else(|| Error::failed(format!("cannot make {part}: someone else just did")))
    }

    pub(crate) fn finish_attachment(&self, local: &str) -> Result<()> {
        let name = local.rsplit('/').next().unwrap_or(local);
        self.dir.rename(&part_path(local), name)
    }

    pub(crate) fn drop_attachment(&self, local: &str) -> Result<()> {
        self.dir.remove(&part_path(local))
    }

    /// `json`: what the model is about to be sent, for whoever debugs a prompt.
    pub(crate) fn last_prompt(&self, channel: &str, json: &str) -> Result<()> {
        self.make_channel(channel)?;
        let path = format!("{channel}/last_prompt.jsonl");
        self.dir.replace_unsynced(&path, json.as_bytes())
    }

    pub(crate) fn channels(&self) -> Result<Vec<String>> {
        channels(&self.dir)
    }

    /// What people asked of mom since then and no run ended for, oldest first, with the
    /// commands that were not obeyed and every `stop`, whoever it was for. Where the context
    /// is missing, what came before her last word counts as answered.
    pub(crate) fn unanswered(&self, channel: &str, since_ms: i64) -> Result<Vec<LogEntry>> {
        let floor = Floor::Last(UNANSWERED_LOG_BYTES);
        // What was backfilled may stand behind newer lines.
        let mut older = 0;
        let mut entries = Vec::new();
        let lines = self.dir.lines_back(&log_path(channel), floor)?;
        for line in lines.into_iter().flatten() {
            let line = line?;
            if is_before(&line, b"\"date\":\"", since_ms) {
                older += 1;
                if older > BACKFILL_MAX {
                    break;
                }
                continue;
            }
            entries.extend(LogEntry::parse(&line));
        }
        entries.reverse();
        let mut since_ms = since_ms;
        let last_word = entries.iter().rfind(|entry| entry.is_bot);
        let last_word = last_word.map(LogEntry::date_ms);
        // A later line of the same message says what it reads now.
        let as_now: HashMap<String, LogEntry> = entries
            .iter()
            .map(|entry| (entry.ts.clone(), entry.clone()))
            .collect();
        let obeyed = entries.iter().filter_map(|entry| entry.answers.clone());
        let mut asked: HashSet<String> = obeyed.collect();
        let is_stop = |entry: &LogEntry| Command::parse(&entry.text) == Some(Command::Stop);
        entries.retain_mut(|entry| {
            let asks = !entry.is_bot && (entry.mention || is_stop(entry));
            // It names the message in Slack.
            let asks = asks && time::is_slack_ts(&entry.ts) && asked.insert(entry.ts.clone());
            let Some(now) = as_now.get(&entry.ts).filter(|_| asks) else {
                return false;
            };
            // A command was obeyed as it came, whatever was made of it later.
            if Command::parse(&entry.text).is_some() {
                return true;
            }
            let deleted = now.is_empty() && !now.mention;
            entry.text.clone_from(&now.text);
            entry.attachments.clone_from(&now.attachments);
            !deleted && Command::parse(&entry.text).is_none()
        });
        // Mostly there is nothing young enough, and the context need not be read.
        entries.retain(|entry| entry.date_ms() >= since_ms);
        if entries.is_empty() {
            return Ok(entries);
        }
        let mut done = HashSet::new();
        match self.done(channel, since_ms)? {
            None => since_ms = last_word.unwrap_or(since_ms),
            Some((found, complete_ms)) => {
                done = found;
                since_ms = since_ms.max(complete_ms);
            }
        }
        // What was answered after a `new` shows that it had its turn.
        let answered = entries.iter().rposition(|entry| done.contains(&entry.ts));
        let mut left = answered.unwrap_or(0);
        entries.retain(|entry| {
            let had_its_turn = left > 0 && Command::parse(&entry.text) == Some(Command::New);
            left = left.saturating_sub(1);
            entry.date_ms() >= since_ms && !done.contains(&entry.ts) && !had_its_turn
        });
        Ok(entries)
    }

    /// What runs have ended for since then, and from when on that is all of it; `None`
    /// without a context.
    pub(crate) fn done(
        &self,
        channel: &str,
        since_ms: i64,
    ) -> Result<Option<(HashSet<String>, i64)>> {
        let floor = Floor::Last(UNANSWERED_CONTEXT_BYTES);
        let Some(mut lines) = self.dir.lines_back(&context_path(channel), floor)? else {
            return Ok(None);
        };
        let mut done = HashSet::new();
        let mut oldest_ms = i64::MAX;
        while let Some(record) = next_record(&mut lines, since_ms)? {
            oldest_ms = iso_ms(&record["timestamp"]).unwrap_or(oldest_ms);
            if oldest_ms < since_ms {
                break;
            }
            let run = &record["data"]["run"];
            if run["done"] == true {
                let lists = ["asked", "dropped"].into_iter();
                done.extend(lists.flat_map(|key| json::strings(&run[key])));
            }
        }
        let complete_ms = if lines.cut() { oldest_ms } else { since_ms };
        Ok(Some((done, complete_ms)))
    }

    /// The run that was on when mom ended, as the context has it.
    pub(crate) fn cut_run(&self, channel: &str, since_ms: i64) -> Result<Option<CutRun>> {
        let floor = Floor::Last(UNANSWERED_CONTEXT_BYTES);
        let Some(mut lines) = self.dir.lines_back(&context_path(channel), floor)? else {
            return Ok(None);
        };
        let Some(record) = next_record(&mut lines, since_ms)? else {
            return Ok(None);
        };
        let run = &record["data"]["run"];
        let recent = iso_ms(&record["timestamp"]).is_some_and(|ms| ms >= since_ms);
        if !recent || run["done"] != false {
            return Ok(None);
        }
        let asked: Vec<String> = json::strings(&run["asked"]).collect();
        let first = asked.first().filter(|ts| run["taken"][0] == ts.as_str());
        let event = first.and_then(|ts| Some(ts.split_once(':')?.1.to_owned()));
        Ok(Some(CutRun { asked, event }))
    }

    /// Messages of people that came with files since then, newest first.
    pub(crate) fn with_files(&self, channel: &str, since_ms: i64) -> Result<Vec<LogEntry>> {
        let floor = Floor::Last(TAIL_BYTES);
        let mut entries = self.log_tail(channel, floor, |entry| entry.date_ms() >= since_ms)?;
        entries.retain(|entry| !entry.is_bot && !entry.attachments.is_empty());
        entries.retain(|entry| time::is_slack_ts(&entry.ts));
        entries.reverse();
        Ok(entries)
    }

    /// Who spoke lately, newest first.
    pub(crate) fn people(&self, channel: &str) -> Result<Vec<String>> {
        let mut people: Vec<String> = Vec::new();
        let floor = Floor::Last(PEOPLE_BYTES);
        let lines = self.dir.lines_back(&log_path(channel), floor)?;
        for line in lines.into_iter().flatten() {
            let Some(entry) = LogEntry::parse(&line?).filter(|entry| !entry.is_bot) else {
                continue;
            };
            if people.len() < PEOPLE_MAX && !people.contains(&entry.user) {
                people.push(entry.user);
            }
        }
        Ok(people)
    }

    /// The ts up to which Slack's messages stand in the log, as the lines of people show:
    /// mom's own are there also when nothing else was heard. Without any, her oldest.
    pub(crate) fn heard_until(&self, channel: &str) -> Result<Option<String>> {
        let tail = self.log_tail(channel, Floor::Last(TAIL_BYTES), |_| true)?;
        let (own, said): (Vec<_>, Vec<_>) = tail.into_iter().partition(|entry| entry.is_bot);
        let in_slack = |entry: LogEntry| Some(entry.ts).filter(|ts| time::is_slack_ts(ts));
        let said = said.into_iter().filter_map(in_slack).max();
        Ok(said.or_else(|| own.into_iter().filter_map(in_slack).min()))
    }

    /// The messages (ts) near the end of the log, and whether they were asked of mom: far more
    /// than `seen` looks at, for when thousands come at once.
    pub(crate) fn logged(&self, channel: &str) -> Result<HashMap<String, bool>> {
        let floor = Floor::Last(UNANSWERED_LOG_BYTES);
        let mut logged = HashMap::new();
        for entry in self.log_tail(channel, floor, |_| true)? {
            *logged.entry(entry.ts).or_default() |= entry.mention;
        }
        Ok(logged)
    }

    /// Roots of threads in which she was asked or spoke, newest first.
    pub(crate) fn own_threads(&self, channel: &str) -> Result<Vec<String>> {
        let mut roots = Vec::new();
        let tail = self.log_tail(channel, Floor::Last(TAIL_BYTES), |_| true)?;
        for entry in tail.into_iter().rev().filter(|e| e.is_bot || e.mention) {
            let root = entry.thread_ts.filter(|root| time::is_slack_ts(root));
            roots.extend(root.filter(|root| !roots.contains(root)));
        }
        Ok(roots)
    }

    /// Log entries from the end back to `floor` or to the first that `wanted` refuses,
    /// oldest first.
    fn log_tail(
        &self,
        channel: &str,
        floor: Floor,
        mut wanted: impl FnMut(&LogEntry) -> bool,
    ) -> Result<Vec<LogEntry>> {
        let mut entries = Vec::new();
        let lines = self.dir.lines_back(&log_path(channel), floor)?;
        for line in lines.into_iter().flatten() {
            match LogEntry::parse(&line?) {
                Some(entry) if wanted(&entry) => entries.push(entry),
                Some(_) => break,
                None => {}
            }
        }
        entries.reverse();
        Ok(entries)
    }

    /// Its directory, when it is missing.
    pub(crate) fn make_channel(&self, channel: &str) -> Result<()> {
        if !is_conversation(channel) {
            return Err(Error::failed(format!("{channel:?} is no conversation id")));
        }
        self.dir.make_dir(channel)
    }
}

impl LogEntry {
    /// What mom says, now.
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

    /// Of a message that was deleted, unless it never said anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.attachments.is_empty()
    }

    fn line(&self) -> String {
        let attachments = self.attachments.iter().map(|attachment| {
            Obj::new()
                .str("original", &attachment.original)
                .str("local", &attachment.local)
                .end()
        });
        let mut line = Obj::new()
            .str("date", &time::iso(self.date_ms()))
            .str("ts", &self.ts)
            .str("user", &self.user)
            .opt_str("userName", self.user_name.as_deref())
            .opt_str("displayName", self.display_name.as_deref())
            .str("text", &self.text)
            .raw("attachments", &json::array(attachments))
            .value("isBot", &self.is_bot.into())
            .opt_str("threadTs", self.thread_ts.as_deref())
            .opt_str("answers", self.answers.as_deref());
        if self.mention {
            line = line.raw("mention", "true");
        }
        line.end() + "\n"
    }

    /// `None` for what is no entry: torn, foreign, without a ts.
    pub(crate) fn parse(line: &[u8]) -> Option<LogEntry> {
        let value = json::parse_line(line)?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let attachments = value["attachments"].as_array().into_iter().flatten();
        let attachments = attachments.filter_map(|attachment| {
            Some(Attachment {
                original: attachment["original"].as_str()?.to_owned(),
                local: attachment["local"].as_str()?.to_owned(),
            })
        });
        Some(LogEntry {
            ts: slack_ts(value["ts"].as_str()?),
            user: text("user").unwrap_or_else(|| "unknown".to_owned()),
            user_name: text("userName"),
            display_name: text("displayName"),
            text: text("text").unwrap_or_default(),
            attachments: attachments.collect(),
            is_bot: value["isBot"] == true,
            thread_ts: text("threadTs").filter(|root| time::is_slack_ts(root)),
            mention: value["mention"] == true,
            answers: text("answers"),
            date_ms: iso_ms(&value["date"]),
        })
    }
}

impl Known {
    fn mark(&mut self, entry: &LogEntry) {
        self.messages.push_back(KnownLine {
            ts: hash(&entry.ts),
            asked: entry.mention,
            has_files: !entry.attachments.is_empty(),
        });
        if self.messages.len() > KNOWN_MAX {
            self.messages.pop_front();
        }
    }

    fn find(&self, ts: &str, now: Now) -> Seen {
        let ts = hash(ts);
        let lines: Vec<_> = self.messages.iter().filter(|line| line.ts == ts).collect();
        let none = |is: fn(&KnownLine) -> bool| !lines.iter().any(|line| is(line));
        match lines.is_empty() {
            true => Seen::New,
            _ if now.asked && none(|line| line.asked) => Seen::NowMention,
            _ if now.has_files && none(|line| line.has_files) => Seen::NowFiles,
            _ => Seen::Known,
        }
    }
}

/// Directories named like a conversation, sorted.
pub(crate) fn channels(dir: &Dir) -> Result<Vec<String>> {
    let entries = dir.list(".", ENTRIES_MAX)?.unwrap_or_default();
    let entries = entries.into_iter();
    let channels = entries.filter(|e| e.kind == Kind::Dir && is_conversation(&e.name));
    Ok(channels.map(|entry| entry.name).collect())
}

/// Conversation ids become directory names, so nothing else passes: Slack's `C..`, `D..`,
/// `G..` of capital letters and digits, and the terminal's own.
pub(crate) fn is_conversation(id: &str) -> bool {
    let rest = id.strip_prefix(['C', 'D', 'G']).unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    id == "TERMINAL" || (1..=30).contains(&rest.len()) && rest.bytes().all(plain)
}

/// `raw` as log.jsonl has it: `<@ID>` taken out, trimmed, entities left encoded.
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

pub(crate) fn context_path(channel: &str) -> String {
    format!("{channel}/context.jsonl")
}

/// The name under which mom's own records stand in context.jsonl; the original takes them
/// along unread.
pub(crate) const RECORD_TYPE: &str = "mom.run";

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CutRun {
    pub(crate) asked: Vec<String>,
    /// File name of the event that it was for, whose file is gone: the context has it.
    pub(crate) event: Option<String>,
}

/// A line of context.jsonl, if it is one of mom's records.
pub(crate) fn record(line: &[u8]) -> Option<Value> {
    // Most lines are long and no records.
    let marked = line.windows(RECORD_TYPE.len()).take(256);
    let mut marked = marked.filter(|part| *part == RECORD_TYPE.as_bytes());
    marked.next()?;
    let value = json::parse_line(line)?;
    (value["type"] == "custom" && value["customType"] == RECORD_TYPE).then_some(value)
}

/// The next of mom's records on the way back, none behind the first entry of before `since_ms`:
/// a context of the original has no records, and is not read to its beginning for them.
fn next_record(lines: &mut LinesBack, since_ms: i64) -> Result<Option<Value>> {
    for line in lines {
        let line = line?;
        if let Some(record) = record(&line) {
            return Ok(Some(record));
        }
        if is_before(&line, TIMESTAMP, since_ms) {
            break;
        }
    }
    Ok(None)
}

/// The line was written before that time, as its head says behind `key`: cheaper than to
/// parse it.
fn is_before(line: &[u8], key: &[u8], ms: i64) -> bool {
    let head = line.get(..256).unwrap_or(line);
    let at = head.windows(key.len()).position(|part| part == key);
    let iso = at.and_then(|at| head.split_at(at + key.len()).1.split(|b| *b == b'"').next());
    let made = iso.and_then(|iso| time::parse_iso(std::str::from_utf8(iso).ok()?));
    made.is_some_and(|made| made < ms)
}

/// Of an entry of context.jsonl.
const TIMESTAMP: &[u8] = b"\"timestamp\":\"";

pub(crate) fn iso_ms(value: &Value) -> Option<i64> {
    value.as_str().and_then(time::parse_iso)
}

/// Very old files have milliseconds.
fn slack_ts(ts: &str) -> String {
    match ts.parse::<i64>() {
        Ok(ms) if ms > 1_000_000_000_000 => time::slack_ts(ms),
        _ => ts.to_owned(),
    }
}

/// As the original has it, one `_` for each UTF-16 unit that no file name should hold. A long
/// name loses its beginning: its end tells the type.
fn safe_name(original: &str) -> String {
    let mut name = String::new();
    for c in original.chars() {
        match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-' => name.push(c),
            _ => (0..c.len_utf16()).for_each(|_| name.push('_')),
        }
    }
    let from = name.len().saturating_sub(NAME_CHARS_MAX);
    name.split_off(from)
}

/// `C1/attachments/x.png` while it is being filled: `C1/attachments/.x.png.part`
fn part_path(local: &str) -> String {
    let (parent, name) = local.rsplit_once('/').unwrap_or((".", local));
    format!("{parent}/.{name}.part")
}

fn hash(ts: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    ts.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mutate::survive;
    use std::fs;

    const ASKED: Now = Now {
        asked: true,
        has_files: false,
    };

    /// A directory of its own for a test, gone with it.
    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new(name: &str) -> Scratch {
            let name = format!("mom-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::remove_dir_all(&path).ok();
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        pub(crate) fn store(&self) -> Store {
            Store::open(&self.0).unwrap()
        }

        pub(crate) fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap()
        }

        pub(crate) fn read_lossy(&self, name: &str) -> String {
            String::from_utf8_lossy(&fs::read(self.0.join(name)).unwrap()).into_owned()
        }

        pub(crate) fn write(&self, name: &str, text: &str) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    pub(crate) fn entry(ts: &str, text: &str) -> LogEntry {
        LogEntry {
            ts: ts.to_owned(),
            user: "U07AAAA1".to_owned(),
            user_name: Some("lena".to_owned()),
            display_name: Some("Lena Berg".to_owned()),
            text: text.to_owned(),
            ..LogEntry::default()
        }
    }

    fn asked(ts: &str, text: &str) -> LogEntry {
        LogEntry {
            mention: true,
            ..entry(ts, text)
        }
    }

    pub(crate) fn log(store: &Store, entries: &[LogEntry]) {
        let entries: Vec<_> = entries
            .iter()
            .map(|e| ("C1".to_owned(), e.clone()))
            .collect();
        store.log(&entries).unwrap();
    }

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

    /// A log of "one" and "two": its text, and where the second line begins.
    pub(crate) fn two_lines(scratch: &Scratch, store: &Store) -> (String, usize) {
        log(store, &[entry("1.000001", "one"), entry("2.000001", "two")]);
        let whole = scratch.read("C1/log.jsonl");
        let last = whole.trim_end().rfind('\n').unwrap() + 1;
        (whole, last)
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
            let tail = store.log_tail("C1", Floor::At(0), |_| true).unwrap();
            let texts: Vec<&str> = tail.iter().map(|entry| entry.text.as_str()).collect();
            let want = if len + 1 < whole.len() {
                &["one", "three"][..]
            } else {
                &["one", "two", "three"]
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
            store.known.lock().unwrap().clear();
        }
        log(&store, &[asked("1.000001", "one")]);
        assert_eq!(store.seen("C1", "1.000001", ASKED), Ok(Seen::Known));
        for number in 0..CHANNELS_MAX + 5 {
            store
                .seen(&format!("D{number}"), "1.000001", ASKED)
                .unwrap();
        }
        let many: Vec<_> = (0..KNOWN_MAX)
            .map(|n| entry(&format!("5.{n:06}"), ""))
            .collect();
        store.seen("C1", "1", ASKED).unwrap();
        log(&store, &many);
        assert_eq!(
            store.seen("C1", "5.000000", Now::default()),
            Ok(Seen::Known)
        );
        assert_eq!(store.known.lock().unwrap().len(), CHANNELS_MAX);
        let known = store.known.lock().unwrap();
        assert_eq!(known.back().unwrap().messages.len(), KNOWN_MAX);
    }

    #[test]
    fn one_mom_a_directory() {
        let scratch = Scratch::new("store-lock");
        let store = scratch.store();
        let err = Store::open(&scratch.0).err().unwrap().to_string();
        let want = format!(
            "another mom works on {}; stop that one first (process {})",
            scratch.0.display(),
            std::process::id()
        );
        assert_eq!(err, want);
        // The same directory by another name.
        let link = scratch.0.with_extension("link");
        std::os::unix::fs::symlink(&scratch.0, &link).unwrap();
        assert!(Store::open(&link).is_err());
        fs::remove_file(&link).unwrap();
        drop(store);
        scratch.store();
    }

    /// The agent can spoil a channel's log; that must not keep others from being heard.
    #[test]
    fn a_spoiled_channel_spoils_no_other() {
        let scratch = Scratch::new("store-spoiled");
        let store = scratch.store();
        fs::create_dir_all(scratch.0.join("C2/log.jsonl")).unwrap();
        scratch.write("C3", "no directory");
        std::os::unix::fs::symlink("/tmp", scratch.0.join("C4")).unwrap();
        let batch: Vec<_> = ["C2", "C1", "C3", "C4", "C1"]
            .map(|channel| (channel.to_owned(), entry("1.000001", "one")))
            .into();
        let failed = store.log_batch(&batch);
        let channels: Vec<&str> = failed.iter().map(|(channel, _)| &**channel).collect();
        assert_eq!(channels, ["C2", "C3", "C4"], "{failed:?}");
        assert_eq!(scratch.read("C1/log.jsonl").lines().count(), 2);
        assert_eq!(
            store.seen("C1", "1.000001", Now::default()),
            Ok(Seen::Known)
        );
        assert!(store.log(&batch).is_err());
    }

    #[test]
    fn unanswered_is_what_no_run_ended_for() {
        let scratch = Scratch::new("store-unanswered");
        let store = scratch.store();
        let bot = LogEntry {
            is_bot: true,
            date_ms: Some(1_500_000),
            ..entry("1500.000000", "hi")
        };
        log(
            &store,
            &[
                asked("1000.000000", "old"),
                asked("1400.000000", "answered"),
                bot,
                entry("1600.000000", "not for her"),
                asked("1700.000000", "Stop"),
                asked("1800.000000", "crashed"),
                asked("1800.000000", "crashed"),
                asked("1900.000000", "never bequn"),
                entry("1900.000000", "never begun"),
                asked("1950.000000", "a slip of the finger"),
                entry("1950.000000", ""),
            ],
        );
        let found = |since_ms| -> Vec<String> {
            let found = store.unanswered("C1", since_ms).unwrap();
            found.into_iter().map(|entry| entry.ts).collect()
        };
        // Without a context: what came after her last word, and the stop after that.
        let open = ["1700.000000", "1800.000000", "1900.000000"];
        assert_eq!(found(1_200_000), open);
        let run = |at: i64, asked: &str, done: bool| {
            let date = time::iso(at);
            format!(
                "{{\"type\":\"custom\",\"id\":\"a\",\"parentId\":null,\"timestamp\":\"{date}\",\"customType\":\"mom.run\",\"data\":{{\"run\":{{\"asked\":[\"{asked}\"],\"done\":{done}}}}}}}\n"
            )
        };
        let context = run(1_401_000, "1400.000000", true) + &run(1_801_000, "1800.000000", false);
        scratch.write("C1/context.jsonl", &context);
        assert_eq!(found(1_200_000), open);
        assert_eq!(found(1_850_000), ["1900.000000"]);
        // As it reads since it was edited.
        let edited = &store.unanswered("C1", 1_850_000).unwrap()[0];
        assert_eq!(edited.text, "never begun");
        scratch.write("C1/context.jsonl", "");
        assert_eq!(found(1_200_000), ["1400.000000", open[0], open[1], open[2]]);
        let obeyed = LogEntry {
            is_bot: true,
            answers: Some("1970.000000".to_owned()),
            date_ms: Some(1_975_000),
            ..entry("1975.000000", "a fresh start")
        };
        let later = [
            asked("1960.000000", "new"),
            asked("1970.000000", "new"),
            obeyed,
            asked("1980.000000", "ended"),
            asked("1990.000000", "status"),
        ];
        log(&store, &later);
        let ended = run(1_981_000, "1980.000000", true);
        scratch.write("C1/context.jsonl", &(context + &ended));
        assert_eq!(
            found(1_950_000),
            ["1990.000000"],
            "an answer came after `new`"
        );
        scratch.write("C1/context.jsonl", &run(1_000_000, "1000.000000", true));
        assert_eq!(
            found(1_950_000),
            ["1960.000000", "1980.000000", "1990.000000"]
        );
        assert_eq!(store.heard_until("C1").unwrap().unwrap(), "1990.000000");
        assert_eq!(store.people("C1").unwrap().len(), 1);
        assert_eq!(store.unanswered("C2", 0), Ok(Vec::new()));
        assert_eq!(store.channels().unwrap(), ["C1"]);
    }

    #[test]
    fn old_entries_are_told_by_their_head() {
        let made = |iso: &str| format!(r#"{{"type":"message","timestamp":"{iso}","message":{{"#);
        let long = "x".repeat(300) + &made("1970-01-01T00:00:01.000Z");
        for (line, want) in [
            (made("1970-01-01T00:00:01.999Z"), true),
            (made("1970-01-01T00:00:02.000Z"), false),
            (made("once"), false),
            (r#"{"timestamp":""#.to_owned(), false),
            (String::new(), false),
            (long, false),
        ] {
            assert_eq!(is_before(line.as_bytes(), TIMESTAMP, 2_000), want, "{line}");
        }
    }

    #[test]
    fn files_of_a_message() {
        let long = "x".repeat(300) + ".pdf";
        let names = ["a.png", "a.png", "../../etc/passwd", "é😀.txt", &long, ""];
        let places = Store::attachments("C1", "1767604364.120019", &names);
        let locals: Vec<&str> = places
            .iter()
            .map(|place| {
                place
                    .local
                    .strip_prefix("C1/attachments/1767604364120_")
                    .unwrap()
            })
            .collect();
        let cut = "x".repeat(NAME_CHARS_MAX - 4) + ".pdf";
        let want = ["a.png", "2_a.png", ".._.._etc_passwd", "___.txt", &cut, ""];
        assert_eq!(locals, want);
        let scratch = Scratch::new("store-files");
        let store = scratch.store();
        for _ in 0..2 {
            store.create_attachment(&places[0].local).unwrap();
            store.finish_attachment(&places[0].local).unwrap();
            assert_eq!(scratch.read(&places[0].local), "");
        }
        store.create_attachment(&places[1].local).unwrap();
        store.drop_attachment(&places[1].local).unwrap();
        let left = store.dir.list("C1/attachments", 9).unwrap().unwrap();
        assert_eq!(left.len(), 1);
        let (_, path) = store.spill("C1").unwrap();
        assert!(path.starts_with("C1/scratch/out-"), "{path}");
        assert_eq!(scratch.read(&path), "");
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
    fn survives_mutation() {
        let corpus = [
            r#"{"date":"2026-01-05T09:12:44.120Z","ts":"1767604364.120019","user":"U07AAAA1","userName":"lena","displayName":"Lena Berg","text":"é \ud83d\ude00 <@U2>","attachments":[{"original":"a.txt","local":"C1/attachments/1_a.txt"}],"isBot":false,"threadTs":"1.5","mention":true}"#,
            r#"{"date":"9999-12-31T23:59:59.999+25:59","ts":"1767604364120","user":"bot","text":"","attachments":[],"isBot":true}"#,
            r#"{"type":"custom","id":"a","parentId":null,"timestamp":"2026-01-05T09:12:44.120Z","customType":"mom.run","data":{"run":{"asked":["1.5"],"dropped":[],"done":true}}}"#,
        ];
        survive(&corpus, |_, input| {
            record(input);
            let text = String::from_utf8_lossy(input);
            let cleaned = clean_text(&text);
            assert!(cleaned.len() <= text.len());
            assert!(!is_conversation(&text) || !text.contains(['/', '.']));
            let names = Store::attachments("C1", &text, &[&text, &text, "a"]);
            let mut locals: Vec<&str> = names.iter().map(|name| name.local.as_str()).collect();
            for local in &locals {
                let name = local.strip_prefix("C1/attachments/").unwrap();
                assert!(
                    !name.starts_with('.') && !name.contains(['/', '\0']),
                    "{name}"
                );
                assert!(name.len() <= 240, "{name}");
            }
            locals.dedup();
            assert_eq!(locals.len(), 3);
            let Some(entry) = LogEntry::parse(input) else {
                return;
            };
            let date_ms = Some(entry.date_ms());
            let entry = LogEntry { date_ms, ..entry };
            let line = entry.line();
            assert_eq!(line.matches(['\n', '\r']).count(), 1);
            let read = LogEntry::parse(line.trim_end().as_bytes()).unwrap();
            // A time outside the calendar becomes 1970.
            let date_ms = read.date_ms;
            assert_eq!(read, LogEntry { date_ms, ..entry });
        });
    }
}

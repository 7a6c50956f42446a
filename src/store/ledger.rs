//! `CHANNEL/runs.jsonl`: who asked what of mom, and what became of it. Each line is one fact,
//! only appended, written and read here alone; what is open is the fold of the lines. Owns
//! the costs of the day and how far a context has read its log, too. What people said is in
//! log.jsonl, what the model said in context.jsonl.
//!
//! The agent can write the file: lines are bounded, what is no fact is left out, ids and paths
//! are checked. A forged line can make mom answer something, or leave something unanswered.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::base::command::Command;
use crate::base::error::Result;
use crate::base::json;
use crate::base::time;
use crate::store::dir::Dir;
use crate::store::lines::{Appended, Floor};
use crate::store::{self, LogEntry, MISSED_MS, upgrade};

/// Bytes at the end of the file that are read; a request of a day is far nearer.
const TAIL_BYTES: u64 = 4 << 20;
/// A file longer than this is shortened at the end of a run: reading it must not delay the
/// next start. A day of a busy channel is some 40 KB then.
const BYTES_MAX: u64 = 64 << 10;
/// Open requests of a channel, and closed ones that are remembered: the oldest go first.
const OPEN_MAX: usize = 1_000;
const CLOSED_MAX: usize = 1_000;
/// Lines of a channel that wait for a name.
pub(crate) const HEARD_MAX: usize = 100;
/// What was told today and is not told again, by channel.
const TOLD_MAX: usize = 1_000;

pub(crate) struct Ledger {
    dir: Arc<Dir>,
    channels: Mutex<HashMap<String, LedgerState>>,
}

/// What the sender of a request may do, as far as it was known when it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum AccessDecision {
    Member,
    /// To be looked up before the run begins.
    #[default]
    Unknown,
}

/// One message that asks something of mom, a command, or an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LedgerRequest {
    /// Slack ts; for events due time (epoch milliseconds) and file name: `1767604364120:a.json`.
    pub(crate) ts: String,
    /// Slack user id, or `EVENT`.
    pub(crate) user: String,
    /// mom's own mention removed, entities still encoded.
    pub(crate) text: String,
    /// Root of the thread it was written in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thread: Option<String>,
    /// Paths relative to the data directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<String>,
    /// File name of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<String>,
    pub(crate) access: AccessDecision,
    /// It asks nothing: Slack added this to a message that was asked before. Never written.
    #[serde(skip)]
    pub(crate) is_addition: bool,
}

/// A run that has begun and not ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LedgerRun {
    /// The ts of each; the first names the run.
    pub(crate) requests: Vec<String>,
    /// This one counted.
    pub(crate) tries: u32,
    /// The status message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    /// Id of the context entry before the run's first; `None` at the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
}

/// What became of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LedgerEnd {
    pub(crate) how: Ending,
    pub(crate) requests: Vec<String>,
    /// The ts of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Ending {
    Answered,
    /// An event that had nothing to say.
    Silent,
    Failed,
    Stopped,
    /// Deleted, or taken along by a stop before its turn.
    Dropped,
    /// The sender may not use mom.
    Refused,
    /// `new`, `status`, `help`: answered without a run.
    Command,
}

/// Byte of log.jsonl up to which the context has read it, and a hash of what is before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Cursor {
    pub(crate) position: u64,
    pub(crate) mark: String,
}

/// Dollars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Costs {
    /// `2026-01-05`, local.
    pub(crate) day: String,
    pub(crate) today: f64,
    pub(crate) total: f64,
}

/// `{"requested":{"ts":..}}`: one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Fact {
    /// Once more for the same ts: how it reads since an edit.
    Requested(LedgerRequest),
    Begun(LedgerRun),
    Ended(LedgerEnd),
    /// The sums with what was spent last.
    Spent(Costs),
    Synced(Cursor),
    /// A person was refused on that day (local, since 1970), or something else was told.
    Told {
        what: String,
        day: i64,
    },
    /// Left by shortening: requests that have ended, so that none is taken for a new one.
    Closed(Vec<String>),
    /// Someone said this; its line in log.jsonl waits for the name.
    Heard(LogEntry),
    /// All that was heard is in log.jsonl: so many lines.
    Logged(usize),
}

#[derive(Default)]
struct LedgerState {
    /// In the order in which they came.
    open: Vec<LedgerRequest>,
    run: Option<LedgerRun>,
    /// Newest last.
    closed: VecDeque<String>,
    /// User or another name of what was told -> day when it was last.
    told: HashMap<String, i64>,
    costs: Costs,
    cursor: Cursor,
    /// Lines that are not in log.jsonl yet.
    heard: Vec<LogEntry>,
    /// Length of the file when it was read or written last.
    bytes: u64,
}

/// What a run that begins is to know of an earlier try.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunStart {
    /// This one counted: 1 for a first try.
    pub(crate) tries: u32,
    /// The status message of the try before.
    pub(crate) status_ts: Option<String>,
    pub(crate) resumed: bool,
    /// The ts of the first request: names the run.
    pub(crate) name: String,
    /// All of it has ended before: nothing was begun.
    pub(crate) done: bool,
}

impl Ledger {
    pub(crate) fn new(dir: Arc<Dir>) -> Ledger {
        Ledger {
            dir,
            channels: Mutex::default(),
        }
    }

    /// Writes requests down, and lines of the log that wait. They count once `Appended::sync`
    /// has returned; after a failure call `forget`. Requests that are known already are left
    /// out; `None`: nothing is new.
    pub(crate) fn request(
        &self,
        channel: &str,
        requests: &[LedgerRequest],
        heard: &[LogEntry],
    ) -> Result<Option<Appended>> {
        let new = |state: &LedgerState| {
            let new = requests.iter().filter(|request| !state.knows(&request.ts));
            let new = new.cloned().map(Fact::Requested);
            new.chain(heard.iter().cloned().map(Fact::Heard)).collect()
        };
        self.append(channel, new)
    }

    /// Requests and lines of which the write failed.
    pub(crate) fn forget(&self, channel: &str, requests: &[LedgerRequest], heard: &[LogEntry]) {
        let mut channels = self.channels.lock().unwrap();
        if let Some(state) = channels.get_mut(channel) {
            let has_failed = |ts: &str| requests.iter().any(|request| request.ts == ts);
            state.open.retain(|open| !has_failed(&open.ts));
            state.heard.retain(|entry| !heard.contains(entry));
        }
    }

    /// Lines that are not in log.jsonl yet, in the order in which they came.
    pub(crate) fn heard(&self, channel: &str) -> Result<Vec<LogEntry>> {
        self.with(channel, |state| state.heard.clone())
    }

    /// They are in log.jsonl. A power cut may take this.
    pub(crate) fn logged(&self, channel: &str) -> Result<()> {
        self.append(channel, |state| vec![Fact::Logged(state.heard.len())])
            .map(drop)
    }

    /// How an open request reads now; `None`: it was deleted. A command, and what a run has
    /// begun to answer, stay as they were.
    pub(crate) fn amend(
        &self,
        channel: &str,
        ts: &str,
        now: Option<(String, Vec<String>)>,
    ) -> Result<()> {
        let amended = |state: &LedgerState| {
            let begun = state.run.as_ref().is_some_and(|run| run.has(ts));
            let is_command = |text: &str| Command::parse(text).is_some();
            let open = state.open.iter().find(|open| open.ts == ts);
            let open = open.filter(|open| !begun && !is_command(&open.text));
            let fact = open.map(|open| match now {
                Some((text, files)) if !is_command(&text) => Fact::Requested(LedgerRequest {
                    text,
                    files,
                    ..open.clone()
                }),
                _ => Fact::Ended(LedgerEnd::of(Ending::Dropped, vec![ts.to_owned()], None)),
            });
            fact.into_iter().collect()
        };
        self.append_synced(channel, amended)
    }

    /// Open or ended: it was asked before.
    pub(crate) fn knows(&self, channel: &str, ts: &str) -> Result<bool> {
        self.with(channel, |state| state.knows(ts))
    }

    pub(crate) fn has_ended(&self, channel: &str, ts: &str) -> Result<bool> {
        self.with(channel, |state| state.has_ended(ts))
    }

    /// What has no end yet and was asked since then, in the order in which it came.
    pub(crate) fn open(&self, channel: &str, since_ms: i64) -> Result<Vec<LedgerRequest>> {
        self.with(channel, |state| {
            let open = state
                .open
                .iter()
                .filter(|open| asked_ms(&open.ts) >= since_ms);
            open.cloned().collect()
        })
    }

    /// The run that was on when mom ended, or is on now.
    pub(crate) fn run(&self, channel: &str) -> Result<Option<LedgerRun>> {
        self.with(channel, |state| state.run.clone())
    }

    /// Goes on with the unfinished run that one of these requests belongs to, or begins
    /// another. `after`: the last context entry. On the disk when it returns.
    pub(crate) fn begin(
        &self,
        channel: &str,
        requests: &[LedgerRequest],
        after: Option<&str>,
    ) -> Result<RunStart> {
        let mut start = RunStart::default();
        self.append_synced(channel, |state| {
            if requests.iter().all(|request| state.has_ended(&request.ts)) {
                start.done = true;
                return Vec::new();
            }
            let run = state.run.clone();
            let run = run.filter(|run| run.has_any(requests));
            start.resumed = run.is_some();
            let mut run = run.unwrap_or_else(|| LedgerRun {
                after: after.map(str::to_owned),
                ..LedgerRun::default()
            });
            run.tries = run.tries.saturating_add(1);
            let mut facts = Vec::new();
            for request in requests {
                if !state.knows(&request.ts) {
                    facts.push(Fact::Requested(request.clone()));
                }
                if !run.has(&request.ts) {
                    run.requests.push(request.ts.clone());
                }
            }
            start.tries = run.tries;
            start.status_ts.clone_from(&run.status);
            start.name = run.requests.first().cloned().unwrap_or_default();
            facts.push(Fact::Begun(run));
            facts
        })?;
        Ok(start)
    }

    /// The status message is posted, and what people said before is in the context up to
    /// `after`. A power cut may take this.
    pub(crate) fn update_run(
        &self,
        channel: &str,
        status_ts: Option<String>,
        after: Option<String>,
    ) -> Result<()> {
        let updated = |state: &LedgerState| {
            let run = state.run.clone().map(|run| LedgerRun {
                status: status_ts.or(run.status),
                after,
                ..run
            });
            run.map(Fact::Begun).into_iter().collect()
        };
        self.append(channel, updated).map(drop)
    }

    /// Requests have ended, and the context has read its log up to `cursor`. On the disk when
    /// it returns.
    pub(crate) fn end(
        &self,
        channel: &str,
        ended: Vec<LedgerEnd>,
        cursor: Option<Cursor>,
    ) -> Result<()> {
        let ended = ended.into_iter().filter(|ended| !ended.requests.is_empty());
        let synced = cursor.map(Fact::Synced).into_iter();
        let facts = synced.chain(ended.map(Fact::Ended)).collect();
        self.append_synced(channel, |_| facts)?;
        if self.with(channel, |state| state.bytes)? > BYTES_MAX {
            self.shorten(channel)?;
        }
        Ok(())
    }

    pub(crate) fn cursor(&self, channel: &str) -> Result<Cursor> {
        self.with(channel, |state| state.cursor.clone())
    }

    /// A power cut may take this, and what is read again then is known by its ts.
    pub(crate) fn set_cursor(&self, channel: &str, cursor: Cursor) -> Result<()> {
        self.append(channel, |_| vec![Fact::Synced(cursor)])
            .map(drop)
    }

    /// The channel has cost so many dollars more.
    pub(crate) fn spend(&self, channel: &str, dollars: f64) -> Result<()> {
        let spent = |state: &LedgerState| {
            let costs = state.costs_now();
            vec![Fact::Spent(Costs {
                today: costs.today + dollars,
                total: costs.total + dollars,
                ..costs
            })]
        };
        self.append(channel, spent).map(drop)
    }

    pub(crate) fn costs(&self, channel: &str) -> Result<Costs> {
        self.with(channel, LedgerState::costs_now)
    }

    /// True once a local day and `what`, whatever the channel: a user who is refused, or
    /// another name of what is told.
    pub(crate) fn tell_once(&self, channel: &str, what: &str) -> Result<bool> {
        let day = time::local_day();
        let is_told = |state: &LedgerState| state.told.get(what) == Some(&day);
        self.with(channel, |_| ())?;
        if self.channels.lock().unwrap().values().any(is_told) {
            return Ok(false);
        }
        let what = what.to_owned();
        self.append_synced(channel, |_| vec![Fact::Told { what, day }])?;
        Ok(true)
    }

    /// Replaces the file by what is open, the costs, and what must not be asked twice.
    fn shorten(&self, channel: &str) -> Result<()> {
        let mut channels = self.channels.lock().unwrap();
        let state = self.load(&mut channels, channel)?;
        let since_ms = time::now_ms() - MISSED_MS;
        state.open.retain(|open| asked_ms(&open.ts) >= since_ms);
        state.closed.retain(|ts| asked_ms(ts) >= since_ms);
        let text = lines(&state.facts());
        self.dir.replace(&path(channel), text.as_bytes())?;
        state.bytes = text.len() as u64;
        Ok(())
    }

    /// Writes what `facts` makes of the present state, and folds it in.
    fn append(
        &self,
        channel: &str,
        facts: impl FnOnce(&LedgerState) -> Vec<Fact>,
    ) -> Result<Option<Appended>> {
        let mut channels = self.channels.lock().unwrap();
        let state = self.load(&mut channels, channel)?;
        let facts = facts(state);
        if facts.is_empty() {
            return Ok(None);
        }
        store::make_channel(&self.dir, channel)?;
        let appended = self.dir.append(&path(channel), "", &lines(&facts))?;
        state.bytes = appended.end();
        facts.into_iter().for_each(|fact| state.fold(fact));
        Ok(Some(appended))
    }

    /// Likewise; on the disk when it returns.
    fn append_synced(
        &self,
        channel: &str,
        facts: impl FnOnce(&LedgerState) -> Vec<Fact>,
    ) -> Result<()> {
        let appended = self.append(channel, facts)?;
        appended.map_or(Ok(()), |appended| appended.sync())
    }

    fn with<T>(&self, channel: &str, look: impl FnOnce(&LedgerState) -> T) -> Result<T> {
        let mut channels = self.channels.lock().unwrap();
        self.load(&mut channels, channel).map(|state| look(state))
    }

    fn load<'a>(
        &self,
        channels: &'a mut HashMap<String, LedgerState>,
        channel: &str,
    ) -> Result<&'a mut LedgerState> {
        if !channels.contains_key(channel) {
            let state = self.read(channel)?;
            channels.insert(channel.to_owned(), state);
        }
        Ok(channels.get_mut(channel).expect("it was inserted"))
    }

    fn read(&self, channel: &str) -> Result<LedgerState> {
        let mut state = LedgerState::default();
        let mut facts = Vec::new();
        if let Some(mut back) = (self.dir).lines_back(&path(channel), Floor::Last(TAIL_BYTES))? {
            for line in &mut back {
                facts.extend(Fact::parse(&line?, channel));
            }
            facts.reverse();
            state.bytes = back.end();
        } else {
            facts = upgrade::earlier(&self.dir, channel, time::now_ms() - MISSED_MS)?;
            if !facts.is_empty() {
                let appended = self.dir.append(&path(channel), "", &lines(&facts))?;
                appended.sync()?;
            }
        }
        facts.into_iter().for_each(|fact| state.fold(fact));
        Ok(state)
    }
}

impl LedgerRun {
    pub(crate) fn has_any(&self, requests: &[LedgerRequest]) -> bool {
        requests.iter().any(|request| self.has(&request.ts))
    }

    fn has(&self, ts: &str) -> bool {
        self.requests.iter().any(|request| request == ts)
    }
}

impl LedgerEnd {
    pub(crate) fn of(how: Ending, requests: Vec<String>, answer_ts: Option<&str>) -> LedgerEnd {
        LedgerEnd {
            how,
            requests,
            answer: answer_ts.map(str::to_owned),
        }
    }
}

impl Costs {
    fn spent_today(&self) -> f64 {
        if self.day == today() { self.today } else { 0.0 }
    }
}

impl LedgerRequest {
    /// Drops what it must not name; whether the rest is a request.
    fn is_valid(&mut self, channel: &str) -> bool {
        let attachments = format!("{channel}/attachments/");
        let is_ours = |file: &String| {
            let name = file.strip_prefix(&attachments);
            name.is_some_and(|name| !name.contains('/'))
        };
        self.files.retain(is_ours);
        self.thread.take_if(|root| !time::is_slack_ts(root));
        let is_id = self.user.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let event = self.ts.split_once(':').map(|(_, name)| name);
        is_id && is_request_ts(&self.ts) && event == self.event.as_deref()
    }
}

impl LedgerState {
    fn knows(&self, ts: &str) -> bool {
        self.open.iter().any(|open| open.ts == ts) || self.has_ended(ts)
    }

    fn has_ended(&self, ts: &str) -> bool {
        self.closed.iter().any(|closed| closed == ts)
    }

    fn costs_now(&self) -> Costs {
        Costs {
            today: self.costs.spent_today(),
            total: self.costs.total,
            day: today(),
        }
    }

    fn fold(&mut self, fact: Fact) {
        match fact {
            Fact::Requested(request) => {
                match self.open.iter().position(|open| open.ts == request.ts) {
                    Some(at) => self.open[at] = request,
                    None if self.has_ended(&request.ts) => {}
                    None => self.open.push(request),
                }
                if self.open.len() > OPEN_MAX {
                    self.open.remove(0);
                }
            }
            Fact::Begun(run) => self.run = Some(run),
            Fact::Ended(ended) => self.fold_end(ended),
            Fact::Closed(requests) => self.close(&requests),
            // Copied, as `closed` is: what came with the fact may lie behind a whole conversation
            // in memory, and would keep the allocator from giving that back.
            Fact::Spent(costs) => {
                self.costs.day.clone_from(&costs.day);
                (self.costs.today, self.costs.total) = (costs.today, costs.total);
            }
            Fact::Synced(cursor) => {
                self.cursor.mark.clone_from(&cursor.mark);
                self.cursor.position = cursor.position;
            }
            Fact::Heard(entry) if self.heard.len() < HEARD_MAX => self.heard.push(entry),
            Fact::Heard(_) => {}
            Fact::Logged(_) => self.heard.clear(),
            Fact::Told { what, day } => {
                self.told.retain(|_, then| *then == day);
                if self.told.len() >= TOLD_MAX {
                    self.told.clear();
                }
                self.told.insert(what, day);
            }
        }
    }

    fn fold_end(&mut self, ended: LedgerEnd) {
        let is_run = !matches!(
            ended.how,
            Ending::Dropped | Ending::Refused | Ending::Command
        );
        // A `new` before what ran has had its turn.
        let ran = ended.requests.iter().filter(|ts| time::is_slack_ts(ts));
        let newest = ran.max().filter(|_| is_run);
        self.open.retain(|open| {
            let is_new = Command::parse(&open.text) == Some(Command::New);
            let is_over = is_new && newest.is_some_and(|ts| open.ts < *ts);
            !is_over && !ended.requests.contains(&open.ts)
        });
        self.run
            .take_if(|run| ended.requests.iter().any(|ts| run.has(ts)));
        self.close(&ended.requests);
    }

    fn close(&mut self, requests: &[String]) {
        self.closed.extend(requests.iter().cloned());
        let more = self.closed.len().saturating_sub(CLOSED_MAX);
        self.closed.drain(..more);
    }

    /// From which this state can be folded again.
    fn facts(&self) -> Vec<Fact> {
        let mut facts = vec![
            Fact::Closed(self.closed.iter().cloned().collect()),
            Fact::Spent(self.costs.clone()),
            Fact::Synced(self.cursor.clone()),
        ];
        let told = self.told.iter();
        facts.extend(told.map(|(what, day)| Fact::Told {
            what: what.clone(),
            day: *day,
        }));
        facts.extend(self.open.iter().cloned().map(Fact::Requested));
        facts.extend(self.run.clone().map(Fact::Begun));
        facts.extend(self.heard.iter().cloned().map(Fact::Heard));
        facts
    }
}

impl Fact {
    /// `None` for what is no fact, or names what it must not.
    fn parse(line: &[u8], channel: &str) -> Option<Fact> {
        let mut fact: Fact = json::parse_typed(line)?;
        let is_valid = match &mut fact {
            Fact::Requested(request) => request.is_valid(channel),
            Fact::Begun(run) => {
                run.requests.truncate(OPEN_MAX);
                run.tries = run.tries.min(1_000);
                run.status.take_if(|ts| !time::is_slack_ts(ts));
                true
            }
            Fact::Ended(LedgerEnd { requests, .. }) | Fact::Closed(requests) => {
                requests.retain(|ts| is_request_ts(ts));
                requests.truncate(CLOSED_MAX);
                true
            }
            Fact::Spent(costs) => {
                let is_sum = |dollars: f64| (0.0..1e9).contains(&dollars);
                is_sum(costs.today) && is_sum(costs.total) && costs.day.len() <= 10
            }
            Fact::Synced(cursor) => cursor.mark.len() <= 64,
            Fact::Heard(entry) => time::is_slack_ts(&entry.ts) && !entry.is_bot,
            Fact::Told { .. } | Fact::Logged(_) => true,
        };
        Some(fact).filter(|_| is_valid)
    }
}

/// Dollars, by the file alone: nothing is written, and another mom may be at work on it.
pub(crate) fn spent_today(dir: &Dir, channel: &str) -> Result<f64> {
    let lines = dir.lines_back(&path(channel), Floor::Last(TAIL_BYTES))?;
    for line in lines.into_iter().flatten() {
        if let Some(Fact::Spent(costs)) = Fact::parse(&line?, channel) {
            return Ok(costs.spent_today());
        }
    }
    Ok(0.0)
}

fn path(channel: &str) -> String {
    format!("{channel}/runs.jsonl")
}

fn lines(facts: &[Fact]) -> String {
    let line = |fact| serde_json::to_string(fact).expect("facts have text keys") + "\n";
    facts.iter().map(line).collect()
}

/// Milliseconds since 1970; 0 for what names no time.
fn asked_ms(ts: &str) -> i64 {
    let due = ts.split_once(':').map_or(ts, |(due, _)| due);
    time::slack_ts_ms(due).unwrap_or_default()
}

fn is_request_ts(ts: &str) -> bool {
    let due = |due: &str| (1..=15).contains(&due.len()) && due.bytes().all(|b| b.is_ascii_digit());
    match ts.split_once(':') {
        Some((ms, name)) => due(ms) && (1..=255).contains(&name.len()),
        None => time::is_slack_ts(ts),
    }
}

/// `2026-01-05`, local.
fn today() -> String {
    let mut stamp = time::prompt_stamp(time::now_ms());
    stamp.truncate("2026-01-05".len());
    stamp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;
    use crate::store::tests::Scratch;

    fn request(ts: &str, text: &str) -> LedgerRequest {
        LedgerRequest {
            ts: ts.to_owned(),
            user: "U07".to_owned(),
            text: text.to_owned(),
            ..LedgerRequest::default()
        }
    }

    fn ended(how: Ending, requests: &[&str]) -> Vec<LedgerEnd> {
        let requests = requests.iter().map(|ts| (*ts).to_owned()).collect();
        vec![LedgerEnd::of(how, requests, None)]
    }

    fn open(ledger: &Ledger) -> Vec<String> {
        let open = ledger.open("C1", 0).unwrap();
        open.into_iter().map(|open| open.text).collect()
    }

    /// Of a message of this hour.
    fn ts(n: u64) -> String {
        format!("{}.{n:06}", time::now_ms() / 3_600_000 * 3_600)
    }

    #[test]
    fn what_is_open_is_the_fold_of_the_lines() {
        let scratch = Scratch::new("ledger-fold");
        let dir = scratch.store().dir().clone();
        let tss: Vec<String> = (0..6).map(ts).collect();
        let [a, b, c, d, e, _] = &tss[..] else {
            panic!("six")
        };
        let again = || Ledger::new(dir.clone());
        let ledger = again();
        let asked = [a, b, c, d].map(|ts| request(ts, ts));
        let written = ledger.request("C1", &asked[..3], &[]).unwrap().unwrap();
        written.sync().unwrap();
        // Known ones are left out.
        ledger.request("C1", &asked, &[]).unwrap();
        assert!(ledger.request("C1", &asked, &[]).unwrap().is_none());
        let start = ledger.begin("C1", &asked[..1], Some("id")).unwrap();
        assert_eq!((start.tries, start.resumed), (1, false));
        ledger
            .update_run("C1", Some("9.000001".into()), Some("x".into()))
            .unwrap();
        ledger
            .amend("C1", b, Some(("edited".into(), Vec::new())))
            .unwrap();
        ledger.amend("C1", c, None).unwrap();
        // In doubt no more.
        ledger.amend("C1", a, None).unwrap();
        ledger.spend("C1", 0.5).unwrap();
        ledger.spend("C1", 0.25).unwrap();
        for life in ["first", "second", "shortened"] {
            let ledger = again();
            assert_eq!(open(&ledger), [a, "edited", d], "{life}");
            assert!(ledger.knows("C1", c).unwrap() && ledger.has_ended("C1", c).unwrap());
            let run = ledger.run("C1").unwrap().unwrap();
            let status = Some("9.000001".to_owned());
            assert_eq!(
                (run.tries, run.status, run.after),
                (1, status, Some("x".into()))
            );
            let costs = ledger.costs("C1").unwrap();
            assert_eq!((costs.today, costs.total), (0.75, 0.75), "{life}");
            ledger.shorten("C1").unwrap();
        }
        let ledger = again();
        let both = [request(a, "a"), request(e, "e")];
        let start = ledger.begin("C1", &both, None).unwrap();
        let want = RunStart {
            tries: 2,
            status_ts: Some("9.000001".to_owned()),
            resumed: true,
            name: a.clone(),
            done: false,
        };
        assert_eq!(start, want);
        let cursor = Cursor {
            position: 9,
            mark: "m".to_owned(),
        };
        ledger
            .end("C1", ended(Ending::Answered, &[a, e]), Some(cursor.clone()))
            .unwrap();
        for ledger in [ledger, again()] {
            assert_eq!(
                (open(&ledger), ledger.run("C1").unwrap()),
                (vec!["edited".into(), d.clone()], None)
            );
            assert_eq!(ledger.cursor("C1").unwrap(), cursor);
            assert!(ledger.begin("C1", &both, None).unwrap().done);
        }
        let refused = |user| again().tell_once("C2", user).unwrap();
        assert_eq!(
            [refused("U1"), refused("U1"), refused("U2")],
            [true, false, true]
        );
        let yesterday = again().open("C1", time::now_ms() + 5_000).unwrap();
        assert_eq!(yesterday, []);
    }

    #[test]
    fn a_long_file_is_shortened_to_what_is_open() {
        let scratch = Scratch::new("ledger-long");
        let ledger = Ledger::new(scratch.store().dir().clone());
        for n in 0..2_000 {
            let asked = request(&ts(n), &"word ".repeat(20));
            ledger.request("C1", &[asked], &[]).unwrap();
            if n != 7 {
                ledger
                    .end("C1", ended(Ending::Answered, &[&ts(n)]), None)
                    .unwrap();
            }
        }
        let text = scratch.read("C1/runs.jsonl");
        assert!(text.len() as u64 <= BYTES_MAX + 1_000 && open(&ledger).len() == 1);
    }

    /// The agent can write anything there.
    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"requested":{"ts":"1767604364.120019","user":"U07","text":"é","thread":"1.5","files":["C1/attachments/1_a.txt"],"access":"member"}}"#,
            r#"{"requested":{"ts":"1767604364120:a.json","user":"EVENT","text":"x","event":"a.json","access":"unknown"}}"#,
            r#"{"begun":{"requests":["1767604364.120019"],"tries":2,"status":"1.5","after":"id"}}"#,
            r#"{"ended":{"how":"answered","requests":["1767604364.120019"],"answer":"1.6","new":1}}"#,
            r#"{"spent":{"day":"2026-01-05","today":0.5,"total":1e3}}"#,
            r#"{"synced":{"position":18446744073709551615,"mark":"00"}}"#,
            r#"{"told":{"what":"U1","day":20000}}"#,
            r#"{"closed":["1.5","2.5"]}"#,
        ];
        for line in corpus {
            assert!(Fact::parse(line.as_bytes(), "C1").is_some(), "{line}");
        }
        for forged in [
            corpus[0].replace("C1/", "../C2/"),
            corpus[0].replace("1_a", "../1_a"),
            corpus[0].replace("C1/", "C2/"),
        ] {
            let Some(Fact::Requested(request)) = Fact::parse(forged.as_bytes(), "C1") else {
                panic!("{forged}")
            };
            assert_eq!(request.files, [""; 0], "{forged}");
        }
        survive(&corpus, |_, input| {
            let Some(fact) = Fact::parse(input, "C1") else {
                return;
            };
            let line = lines(std::slice::from_ref(&fact));
            assert_eq!(line.matches(['\n', '\r']).count(), 1);
            assert_eq!(
                Fact::parse(line.trim_end().as_bytes(), "C1"),
                Some(fact.clone())
            );
            let mut state = LedgerState::default();
            state.fold(fact);
            assert!(state.costs_now().today.is_finite());
        });
    }
}

//! `CHANNEL/runs.jsonl`: who requested what from mom, and how each request ended. Each line is one
//! fact; lines are only appended, and only this module writes and reads them. Applying all facts in
//! order gives the open requests. Also owns the costs of the day and how far a context has read its
//! log. What people said is in log.jsonl, what the model said in context.jsonl.
//!
//! The agent can write the file: lines are bounded, invalid lines are skipped, ids and paths are
//! checked. A forged line can make mom answer something, or leave something unanswered.

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

/// Bytes at the end of the file that are read; they hold far more than the requests of a day.
const TAIL_BYTES: u64 = 4 << 20;
/// A longer file is shortened at the end of a run, because reading it must not delay the next
/// start. The file of a busy channel is some 40 KB after a day.
const BYTES_MAX: u64 = 64 << 10;
/// Open requests of a channel, and closed ones, that are remembered: the oldest are dropped.
const OPEN_MAX: usize = 1_000;
const CLOSED_MAX: usize = 1_000;
/// Lines of a channel that wait for the name of their sender.
pub(crate) const HEARD_MAX: usize = 100;
/// Notices posted today that are remembered, by channel, so that none is posted twice.
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
    /// Not known yet; it is looked up before the run begins.
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
    /// Slack added this to a message that was requested before; it requests nothing. Never written.
    #[serde(skip)]
    pub(crate) is_addition: bool,
}

/// A run that has begun and not ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LedgerRun {
    /// The ts of each request; the first one names the run.
    pub(crate) requests: Vec<String>,
    /// Number of tries, this one included.
    pub(crate) tries: u32,
    /// The ts of the status message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    /// Id of the context entry before the run's first; `None` at the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
}

/// How requests ended.
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
    /// An event to which the model had nothing to say.
    Silent,
    Failed,
    Stopped,
    /// The message was deleted, or a stop removed the request before its turn.
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

/// Costs in dollars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Costs {
    /// `2026-01-05`, local.
    pub(crate) day: String,
    pub(crate) today: f64,
    pub(crate) total: f64,
}

/// One line of the file, such as `{"requested":{"ts":..}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Fact {
    /// A second one with the same ts replaces the first: the message was edited.
    Requested(LedgerRequest),
    Begun(LedgerRun),
    Ended(LedgerEnd),
    /// The sums, including what was spent last.
    Spent(Costs),
    Synced(Cursor),
    /// A refusal or another notice was posted on that day (local, days since 1970).
    Told {
        what: String,
        day: i64,
    },
    /// Written by shortening: requests that have ended, so that none is taken for a new one.
    Closed(Vec<String>),
    /// Someone wrote this; its line in log.jsonl waits for the sender's name.
    Heard(LogEntry),
    /// This many waiting lines, which are all, have been written to log.jsonl.
    Logged(usize),
}

#[derive(Default)]
struct LedgerState {
    /// In the order in which they arrived.
    open: Vec<LedgerRequest>,
    run: Option<LedgerRun>,
    /// Newest last.
    closed: VecDeque<String>,
    /// User id or name of a notice -> day on which it was posted last.
    told: HashMap<String, i64>,
    costs: Costs,
    cursor: Cursor,
    /// Lines that are not in log.jsonl yet.
    heard: Vec<LogEntry>,
    /// Length of the file when it was last read or written.
    bytes: u64,
}

/// What a run that begins must know about an earlier try.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunStart {
    /// Number of tries, this one included: 1 for a first try.
    pub(crate) tries: u32,
    /// The ts of the earlier try's status message.
    pub(crate) status_ts: Option<String>,
    pub(crate) resumed: bool,
    /// The ts of the first request, which names the run.
    pub(crate) name: String,
    /// All requests have ended already, so no run was begun.
    pub(crate) done: bool,
}

impl Ledger {
    pub(crate) fn new(dir: Arc<Dir>) -> Ledger {
        Ledger {
            dir,
            channels: Mutex::default(),
        }
    }

    /// Writes requests, and log lines that wait for a name. They count once `Appended::sync` has
    /// returned; if that fails, call `forget`. Requests that are known already are left out;
    /// `None`: nothing is new.
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

    /// Removes requests and lines whose write failed.
    pub(crate) fn forget(&self, channel: &str, requests: &[LedgerRequest], heard: &[LogEntry]) {
        let mut channels = self.channels.lock().unwrap();
        if let Some(state) = channels.get_mut(channel) {
            let has_failed = |ts: &str| requests.iter().any(|request| request.ts == ts);
            state.open.retain(|open| !has_failed(&open.ts));
            state.heard.retain(|entry| !heard.contains(entry));
        }
    }

    /// Lines that are not in log.jsonl yet, in the order in which they arrived.
    pub(crate) fn heard(&self, channel: &str) -> Result<Vec<LogEntry>> {
        self.with(channel, |state| state.heard.clone())
    }

    /// Records that the waiting lines are in log.jsonl. A power cut may undo this.
    pub(crate) fn logged(&self, channel: &str) -> Result<()> {
        self.append(channel, |state| vec![Fact::Logged(state.heard.len())])
            .map(drop)
    }

    /// Sets the text and files of an open request after an edit; `None`: the message was deleted.
    /// Does not change commands, nor requests that a run has begun to answer.
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

    /// Whether this was requested before; it may be open or ended.
    pub(crate) fn knows(&self, channel: &str, ts: &str) -> Result<bool> {
        self.with(channel, |state| state.knows(ts))
    }

    pub(crate) fn has_ended(&self, channel: &str, ts: &str) -> Result<bool> {
        self.with(channel, |state| state.has_ended(ts))
    }

    /// Open requests from then on, in the order in which they arrived.
    pub(crate) fn open(&self, channel: &str, since_ms: i64) -> Result<Vec<LedgerRequest>> {
        self.with(channel, |state| {
            let open = state
                .open
                .iter()
                .filter(|open| asked_ms(&open.ts) >= since_ms);
            open.cloned().collect()
        })
    }

    /// The run that was in progress when mom ended, or that is in progress now.
    pub(crate) fn run(&self, channel: &str) -> Result<Option<LedgerRun>> {
        self.with(channel, |state| state.run.clone())
    }

    /// Resumes the unfinished run that one of these requests belongs to, or begins a new one.
    /// `after`: the last context entry. Synced to disk when it returns.
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

    /// Records that the status message is posted, and that the context up to `after` holds what
    /// people said before. A power cut may undo this.
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

    /// Records that requests have ended, and that the context has read its log up to `cursor`.
    /// Synced to disk when it returns.
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

    /// A power cut may undo this; what is read again after that is recognised by its ts.
    pub(crate) fn set_cursor(&self, channel: &str, cursor: Cursor) -> Result<()> {
        self.append(channel, |_| vec![Fact::Synced(cursor)])
            .map(drop)
    }

    /// Adds this many dollars to the channel's costs.
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

    /// True once for each local day and `what`, whatever the channel. `what` is a user who is
    /// refused, or the name of another notice.
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

    /// Rewrites the file with the open requests, the costs, and the ts that must not run twice.
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

    /// Appends the facts that `facts` makes from the present state, and applies them to it.
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

    /// Like `append`; synced to disk when it returns.
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
    /// Removes ids and paths that are not allowed; returns whether the rest is a request.
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
            // Cloned, as `closed` is: the memory of the read fact may lie behind a whole
            // conversation and would keep the allocator from giving that back.
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
        // A `new` that is older than the newest request of this run counts as done.
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

    /// Facts from which this state can be built again.
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
    /// `None` for a line that is not a fact, or that names something not allowed.
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

/// Dollars spent today, by the file alone: nothing is written; another mom may be running.
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

/// When it was requested, in milliseconds since 1970; 0 when `ts` names no time.
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

    /// The ts of a message from this hour.
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
        // Known requests are left out.
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
        // A run has begun to answer this one, so that it is not dropped.
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

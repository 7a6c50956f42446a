//! A directory that was written before there was runs.jsonl: the run that was cut there, and
//! what was asked after it, are open once more. Nothing else is taken over but how far the
//! context has read its log.

use serde_json::Value;

use crate::base::error::Result;
use crate::base::json;
use crate::base::time;
use crate::store::dir::{Dir, Floor};
use crate::store::ledger::{AccessDecision, Cursor, LedgerRequest, LedgerRun};
use crate::store::{LogEntry, context_path, log_path};

/// The type of the entries in context.jsonl that said what was asked and done.
const RECORD_TYPE: &str = "mom.run";
/// Bytes at the end of context.jsonl and log.jsonl that are read.
const TAIL_BYTES: u64 = 4 << 20;
/// Likewise of a context in which nothing was written for a day.
const OLD_TAIL_BYTES: usize = 64 << 10;
/// Of a line, in which its type is.
const RECORD_HEAD_BYTES: usize = 256;

/// What an earlier version left.
#[derive(Default)]
pub(super) struct Earlier {
    /// Without an end, in the order of the log.
    pub(super) requests: Vec<LedgerRequest>,
    pub(super) run: Option<LedgerRun>,
    pub(super) cursor: Option<Cursor>,
}

/// Requests from before `since_ms` are left alone.
pub(super) fn earlier(dir: &Dir, channel: &str, since_ms: i64) -> Result<Earlier> {
    let Some((data, written_ms)) = last_record(dir, channel, since_ms)? else {
        return Ok(Earlier::default());
    };
    let run = &data["run"];
    let text = |key: &str| run[key].as_str().map(str::to_owned);
    let found = LedgerRun {
        requests: json::strings(&run["asked"]).collect(),
        tries: run["tries"].as_u64().unwrap_or_default().min(1_000) as u32,
        status: text("status").filter(|ts| time::is_slack_ts(ts)),
        after: text("before"),
    };
    let is_open = run["done"] == false && written_ms >= since_ms;
    // The text of an event is in the context already.
    let first = found.requests.first().filter(|_| is_open);
    let mut requests: Vec<LedgerRequest> = first.and_then(|ts| event(ts)).into_iter().collect();
    let events = requests.len();
    let oldest_ms = if is_open {
        since_ms
    } else {
        since_ms.max(written_ms)
    };
    let lines = dir.lines_back(&log_path(channel), Floor::Last(TAIL_BYTES))?;
    for line in lines.into_iter().flatten() {
        let Some(entry) = LogEntry::parse(&line?) else {
            continue;
        };
        if entry.date_ms() < oldest_ms {
            break;
        }
        let in_run = found.requests.contains(&entry.ts);
        let is_later = entry.mention && entry.date_ms() > written_ms;
        if !entry.is_bot && (in_run && is_open || is_later && !in_run) {
            requests.push(request(entry));
        }
    }
    requests[events..].reverse();
    let position = data["logPosition"].as_u64();
    Ok(Earlier {
        requests,
        run: Some(found).filter(|_| is_open),
        cursor: position.map(|position| Cursor {
            position,
            mark: data["logMark"].as_str().unwrap_or_default().to_owned(),
        }),
    })
}

fn request(entry: LogEntry) -> LedgerRequest {
    let files = entry.attachments.into_iter().map(|file| file.local);
    LedgerRequest {
        ts: entry.ts,
        user: entry.user,
        text: entry.text,
        thread: entry.thread_ts,
        files: files.collect(),
        event: None,
        access: AccessDecision::Unknown,
    }
}

fn event(ts: &str) -> Option<LedgerRequest> {
    let (_, name) = ts.split_once(':')?;
    Some(LedgerRequest {
        ts: ts.to_owned(),
        user: "EVENT".to_owned(),
        event: Some(name.to_owned()),
        ..LedgerRequest::default()
    })
}

/// The data of the newest record, and when it was written. A context of the original has none.
fn last_record(dir: &Dir, channel: &str, since_ms: i64) -> Result<Option<(Value, i64)>> {
    let lines = dir.lines_back(&context_path(channel), Floor::Last(TAIL_BYTES))?;
    let mut bytes = 0;
    for line in lines.into_iter().flatten() {
        let line = line?;
        bytes += line.len();
        // Most lines are long and no records: they are not parsed.
        let head = line.get(..RECORD_HEAD_BYTES).unwrap_or(&line);
        let mut marks = head.windows(RECORD_TYPE.len());
        let is_record = marks.any(|part| part == RECORD_TYPE.as_bytes());
        if !is_record && bytes < OLD_TAIL_BYTES {
            continue;
        }
        let mut entry = json::parse_line(&line).unwrap_or_default();
        let written_ms = entry["timestamp"].as_str().and_then(time::parse_iso);
        if entry["customType"] == RECORD_TYPE {
            return Ok(written_ms.map(|ms| (entry["data"].take(), ms)));
        }
        if written_ms.is_none_or(|ms| ms < since_ms) {
            break;
        }
    }
    Ok(None)
}

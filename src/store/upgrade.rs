//! Reads a directory that was written by a version without runs.jsonl: the run that was cut there,
//! and the requests after it, are open once more. Apart from that, only how far the context has
//! read its log is taken over.

use serde_json::Value;

use crate::base::error::Result;
use crate::base::json;
use crate::base::time;
use crate::store::dir::Dir;
use crate::store::ledger::{AccessDecision, Cursor, Fact, LedgerRequest, LedgerRun};
use crate::store::lines::Floor;
use crate::store::{LogEntry, context_path, log_path};

/// Type of the entries in context.jsonl that recorded what was requested and done.
const RECORD_TYPE: &str = "mom.run";
/// Bytes at the end of context.jsonl and log.jsonl that are read.
const TAIL_BYTES: u64 = 4 << 20;

/// The facts for the ledger that an earlier version's files hold. Requests from before `since_ms`
/// are left out.
pub(super) fn earlier(dir: &Dir, channel: &str, since_ms: i64) -> Result<Vec<Fact>> {
    let Some((data, written_ms)) = last_record(dir, channel, since_ms)? else {
        return Ok(Vec::new());
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
    let oldest_ms = if is_open {
        since_ms
    } else {
        since_ms.max(written_ms)
    };
    let mut facts = Vec::new();
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
            facts.push(Fact::Requested(request(entry)));
        }
    }
    // The text of an event is in the context already.
    let first = found.requests.first().filter(|_| is_open);
    facts.extend(first.and_then(|ts| event(ts)).map(Fact::Requested));
    facts.extend(data["logPosition"].as_u64().map(|position| {
        let mark = data["logMark"].as_str().unwrap_or_default().to_owned();
        Fact::Synced(Cursor { position, mark })
    }));
    facts.reverse();
    facts.extend(is_open.then_some(Fact::Begun(found)));
    Ok(facts)
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
        is_addition: false,
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

/// The data of the newest record, and when it was written. A record is the last line of a run, or
/// near it. A context file of the original has none.
fn last_record(dir: &Dir, channel: &str, since_ms: i64) -> Result<Option<(Value, i64)>> {
    let lines = dir.lines_back(&context_path(channel), Floor::Last(TAIL_BYTES))?;
    for line in lines.into_iter().flatten() {
        let mut entry = json::parse_line(&line?).unwrap_or_default();
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

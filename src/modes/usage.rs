//! `mom --usage DIR`: tokens and cost by day, channel and model, from the assistant entries
//! of all context files. It only reads and takes no lock, so it works while mom runs. It reads
//! one line at a time, so large files need no memory.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::json;
use crate::base::log;
use crate::base::text;
use crate::base::time;
use crate::slack::users::DIRECTORY_FILE;
use crate::store;
use crate::store::dir::Dir;

/// A longer line is skipped; the longest replies have 128,000 tokens.
const LINE_BYTES_MAX: u64 = 2 << 20;
/// Rows of one table. The agent can write any day and any name into the files.
const ROWS_MAX: usize = 2_000;
const NAME_CHARS_MAX: usize = 60;
const DAY_MS: i64 = 24 * 3_600_000;
const DIRECTORY_BYTES_MAX: usize = 4 << 20;
/// Columns when the output is no terminal or its width is unknown.
const COLUMNS: usize = 80;
/// Characters of the longest bar in a narrow terminal.
const BAR_CHARS_MIN: usize = 10;

/// The sums of one row of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct UsageSum {
    /// Number of the model's replies.
    turns: u64,
    /// Input tokens that did not come from the cache.
    input: u64,
    output: u64,
    cached: u64,
    /// Dollars.
    cost: f64,
}

impl UsageSum {
    fn add(&mut self, other: &UsageSum) {
        self.turns += other.turns;
        // No overflow: each number is below 2^30 (see `reply`), and no file has 2^34 replies.
        self.input += other.input;
        self.output += other.output;
        self.cached += other.cached;
        self.cost += other.cost;
    }

    fn tokens(&self) -> f64 {
        self.input as f64 + self.output as f64 + self.cached as f64
    }
}

type UsageTable = HashMap<String, UsageSum>;

/// The tables as text. `since` is a day, or a number of days like `7d`.
pub(crate) fn usage(path: &Path, since: Option<&str>) -> Result<String> {
    let since = since.map(first_day).transpose()?.unwrap_or_default();
    if Dir::is_missing(path) {
        let path = path.display();
        return Err(Error::Usage(format!(
            "--usage: there is no data directory {path}; name the one that mom was started with"
        )));
    }
    let dir = Dir::open(path)?;
    let names = channel_names(&dir);
    let mut tables = ["Day", "Channel", "Model", ""].map(|title| (title, UsageTable::new()));
    for channel in store::channels(&dir)? {
        let label = match names.get(&channel) {
            Some(name) => format!("{channel} {name}"),
            None => channel.clone(),
        };
        let read = read(&dir, &channel, &mut |day, model, sum| {
            if day < since {
                return;
            }
            let names = [day, label.clone(), model, "Total".to_owned()];
            for ((_, table), name) in tables.iter_mut().zip(names) {
                count(table, name, sum);
            }
        });
        match read {
            Ok(0) => {}
            Ok(skipped) => {
                let lines = text::count(skipped, "line");
                let why = "too long or no JSON";
                log::warning!(&channel, "{lines} of context.jsonl left out: {why}");
            }
            Err(err) => log::warning!(&channel, "{err}; left out"),
        }
    }
    if tables[0].1.is_empty() {
        let path = path.display();
        return Ok(match &*since {
            "" => format!("No model was used in {path} yet.\n"),
            since => format!("No model was used in {path} since {since}.\n"),
        });
    }
    let columns = columns();
    let tables = tables.map(|(title, rows)| table(title, &sorted(title, rows), columns));
    Ok(tables.join("\n"))
}

/// The first day to count, from the value of `--since`.
fn first_day(since: &str) -> Result<String> {
    let days = since.strip_suffix('d').map(str::parse::<i64>);
    let is_day = since.len() == 10 && time::parse(since).is_some();
    match days {
        // Today is the last of these days.
        Some(Ok(days @ 1..=100_000)) => Ok(day(time::now_ms() - (days - 1) * DAY_MS)),
        _ if is_day => Ok(since.to_owned()),
        _ => Err(Error::Usage(format!(
            "--since={since}: write a day like 2026-11-01, or a number of days like 7d"
        ))),
    }
}

/// The width of the terminal that shows the tables.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    match size.map(|size| usize::from(size.ws_col)) {
        Ok(columns @ 1..) => columns,
        _ => COLUMNS,
    }
}

/// The local day of a time.
fn day(ms: i64) -> String {
    let mut day = time::prompt_stamp(ms);
    day.truncate("2026-01-05".len());
    day
}

/// The rows in order: days by date, all others by cost, the most expensive first.
fn sorted(title: &str, rows: UsageTable) -> Vec<(String, UsageSum)> {
    let mut rows: Vec<(String, UsageSum)> = rows.into_iter().collect();
    rows.sort_unstable_by(|(name_a, a), (name_b, b)| {
        let cost = b.cost.total_cmp(&a.cost);
        let dearest = match title {
            "Day" => Ordering::Equal,
            _ => cost.then(b.tokens().total_cmp(&a.tokens())),
        };
        dearest.then(name_a.cmp(name_b))
    });
    rows
}

fn count(table: &mut UsageTable, name: String, sum: &UsageSum) {
    let full = table.len() >= ROWS_MAX && !table.contains_key(&name);
    let name = if full { "(others)".to_owned() } else { name };
    table.entry(name).or_default().add(sum);
}

/// Calls `each` with day, model and sums of each reply; returns the number of unreadable lines.
fn read(
    dir: &Dir,
    channel: &str,
    each: &mut dyn FnMut(String, String, &UsageSum),
) -> Result<usize> {
    let path = format!("{channel}/context.jsonl");
    let Some(file) = dir.read(&path)? else {
        return Ok(0);
    };
    let broken = |err: &std::io::Error| Error::io("read", &path, err);
    // Lines that are appended during the read are not counted.
    let end = file.metadata().map_err(|err| broken(&err))?.len();
    let mut reader = BufReader::new(file.take(end));
    let mut line = Vec::new();
    let mut skipped = 0;
    loop {
        line.clear();
        let mut bounded = reader.by_ref().take(LINE_BYTES_MAX);
        let read = bounded.read_until(b'\n', &mut line);
        if read.map_err(|err| broken(&err))? == 0 {
            return Ok(skipped);
        }
        if line.len() as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            reader.skip_until(b'\n').map_err(|err| broken(&err))?;
            skipped += 1;
            continue;
        }
        let is_counted =
            |text: &str| text.contains("\"assistant\"") || text.contains("\"compaction\"");
        let entry = match std::str::from_utf8(&line) {
            // Most lines are tool results, which need not be parsed.
            Ok(text) if !is_counted(text) => continue,
            Ok(text) => json::parse_line(text.as_bytes()),
            Err(_) => None,
        };
        match entry.map(|entry| reply(&entry)) {
            Some(Some((day, model, sum))) => each(day, model, &sum),
            Some(None) => {}
            None => skipped += 1,
        }
    }
}

/// Local day, `PROVIDER/ID` and sums of an assistant entry with usage, or of a compaction by mom,
/// whose entry has the usage of the summary. Copies of a message are not counted again.
fn reply(entry: &Value) -> Option<(String, String, UsageSum)> {
    let message = match entry["type"].as_str()? {
        "message" if entry["message"]["role"] == "assistant" && entry["copy"] != true => {
            &entry["message"]
        }
        "compaction" => entry,
        _ => return None,
    };
    let usage = message["usage"].as_object()?;
    // An invented number in the file must not spoil the sum.
    let tokens = |key: &str| {
        let tokens = usage.get(key).and_then(Value::as_u64);
        tokens.filter(|count| *count < 1 << 30).unwrap_or_default()
    };
    let cost = usage.get("cost").and_then(|cost| cost["total"].as_f64());
    let sum = UsageSum {
        turns: 1,
        input: tokens("input") + tokens("cacheWrite"),
        output: tokens("output"),
        cached: tokens("cacheRead"),
        cost: cost.filter(|cost| (0.0..1e6).contains(cost)).unwrap_or(0.0),
    };
    let written = entry["timestamp"].as_str().and_then(time::parse_iso);
    let at_ms = message["timestamp"].as_i64().or(written);
    let day = at_ms.map_or_else(|| "(no date)".to_owned(), day);
    let word = |key: &str| message[key].as_str().unwrap_or("unknown");
    let model = format!("{}/{}", word("provider"), word("model"));
    Some((day, text::one_line(&model, NAME_CHARS_MAX), sum))
}

/// `C0123` -> `#ops`, from the file in which mom lists users and channels for the agent.
fn channel_names(dir: &Dir) -> HashMap<String, String> {
    let bytes = dir.read_head(DIRECTORY_FILE, DIRECTORY_BYTES_MAX);
    // Without the file the tables show no names.
    let bytes = bytes.ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(id, _)| store::is_conversation(id))
        .map(|(id, name)| (id.to_owned(), text::one_line(name, NAME_CHARS_MAX)))
        .collect()
}

/// A table as text. In the table of days each row ends with a bar that fills the line.
fn table(title: &str, rows: &[(String, UsageSum)], columns: usize) -> String {
    let names = rows.iter().map(|(name, _)| name.chars().count());
    let width = names.max().unwrap_or_default().max("Channel".len());
    // Before the bar are the name, four numbers and the cost.
    let bar_chars = columns
        .saturating_sub(width + 4 * 8 + 12)
        .max(BAR_CHARS_MIN);
    let line = |name: &str, [turns, input, output, cached, cost]: [String; 5], bar: &str| {
        let line = format!(
            "{name:<width$} {turns:>7} {input:>7} {output:>7} {cached:>7} {cost:>9}  {bar}"
        );
        format!("{}\n", line.trim_end())
    };
    let mut out = String::new();
    if !title.is_empty() {
        let heads = ["turns", "in", "out", "cached", "cost"];
        out = line(title, heads.map(str::to_owned), "");
    }
    let most = |value: &dyn Fn(&UsageSum) -> f64| {
        let values = rows.iter().map(|(_, sum)| value(sum));
        values.fold(0.0, f64::max)
    };
    let (cost_max, tokens_max) = (most(&|sum| sum.cost), most(&UsageSum::tokens));
    for (name, sum) in rows {
        let bar = match title {
            // Without prices the bars compare tokens.
            "Day" if cost_max > 0.0 => bar(sum.cost / cost_max, bar_chars),
            "Day" => bar(sum.tokens() / tokens_max.max(1.0), bar_chars),
            _ => String::new(),
        };
        let [input, output, cached] = [sum.input, sum.output, sum.cached].map(text::tokens);
        // Without a known price it did not cost nothing.
        let cost = match sum.cost > 0.0 {
            true => text::dollars(sum.cost),
            false => "-".to_owned(),
        };
        let figures = [sum.turns.to_string(), input, output, cached, cost];
        out.push_str(&line(name, figures, &bar));
    }
    out
}

/// A bar of `part` (0 to 1) of `chars` characters, rounded to eighths of a character.
fn bar(part: f64, chars: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part * (chars * 8) as f64).round() as usize;
    "█".repeat((eighths / 8).min(chars)) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    #[test]
    fn bars() {
        for (part, want) in [
            (0.0, ""),
            (0.001, ""),
            (0.004, "▏"),
            (0.1, "████"),
            (0.11, "████▍"),
        ] {
            assert_eq!(bar(part, 40), want, "{part}");
        }
        assert_eq!(bar(1.0, 40).chars().count(), 40);
        assert_eq!(bar(f64::NAN, 40), "");
    }

    #[test]
    fn hostile_rows_stay_few() {
        let mut rows = UsageTable::new();
        for n in 0..10_000 {
            let sum = UsageSum {
                turns: 1,
                ..UsageSum::default()
            };
            count(&mut rows, n.to_string(), &sum);
        }
        assert_eq!(rows.len(), ROWS_MAX + 1);
        assert_eq!(rows["(others)"].turns, 8_000);
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            r#"{"type":"message","timestamp":"2026-01-05T09:12:44.120Z","message":{"role":"assistant","provider":"a","model":"m","usage":{"input":3,"output":5,"cacheRead":7,"cacheWrite":9,"cost":{"total":0.5}},"timestamp":1767604366100}}"#,
            r#"{"type":"compaction","timestamp":"2026-01-05T09:12:44Z","provider":"a","model":"m","usage":{"input":1e9,"cost":{"total":-1}}}"#,
        ];
        survive(&corpus, |_, input| {
            let Ok(entry) = serde_json::from_slice(input) else {
                return;
            };
            if let Some((day, model, sum)) = reply(&entry) {
                assert!(day.len() <= 10 && !model.contains(char::is_control));
                assert!(sum.cost.is_finite() && sum.input < 1 << 31);
                table("Day", &[(day, sum)], 80);
            }
        });
    }
}

//! Clock and calendar text: ISO 8601 for the files, local time for people and the prompt.
//! The calendar itself is jiff's.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `2026-01-05T09:12:44.120Z`, as all files of the data directory have it.
pub(crate) fn iso(ms: i64) -> String {
    format!("{:.3}", Timestamp::from_millisecond(ms).unwrap_or_default())
}

/// Any ISO 8601 time with an offset, to milliseconds.
pub(crate) fn parse_iso(text: &str) -> Option<i64> {
    text.parse::<Timestamp>()
        .ok()
        .map(Timestamp::as_millisecond)
}

/// `2026-01-05 09:12:44`, UTC.
pub(crate) fn utc_stamp(ms: i64) -> String {
    let at = Timestamp::from_millisecond(ms).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `2026-01-05 10:12:45+01:00`: how a message's time stands in the prompt.
pub(crate) fn prompt_stamp(ms: i64) -> String {
    zoned(ms).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

/// `2026-01-05 10:12:45` in local time: the start of a log line.
pub(crate) fn log_stamp() -> String {
    zoned(now_ms()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Slack's `1767604364.120019` (or the 13 digits of very old files) to milliseconds.
pub(crate) fn slack_ts_ms(ts: &str) -> Option<i64> {
    match ts.split_once('.') {
        Some((seconds, micros)) => {
            let seconds: i64 = seconds.parse().ok()?;
            let micros: i64 = format!("{micros:0<6}").get(..6)?.parse().ok()?;
            seconds.checked_mul(1000)?.checked_add(micros / 1000)
        }
        None => {
            let number: i64 = ts.parse().ok()?;
            if number > 1_000_000_000_000 {
                Some(number)
            } else {
                number.checked_mul(1000)
            }
        }
    }
}

/// A ts like Slack's, for conversations without Slack.
pub(crate) fn new_ts() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}.{:06}", since.as_secs(), since.subsec_micros())
}

/// The host's IANA zone name, or its offset where it has no name.
pub(crate) fn zone_name() -> String {
    let zone = TimeZone::system();
    match zone.iana_name() {
        Some(name) => name.to_owned(),
        None => zoned(now_ms()).strftime("UTC%:z").to_string(),
    }
}

fn zoned(ms: i64) -> Zoned {
    Timestamp::from_millisecond(ms)
        .unwrap_or_default()
        .to_zoned(TimeZone::system())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_ts() {
        for (ts, want) in [
            ("1767604364.120019", Some(1_767_604_364_120)),
            ("1767604364.5", Some(1_767_604_364_500)),
            ("1767604364120", Some(1_767_604_364_120)),
            ("1767604364", Some(1_767_604_364_000)),
            ("x", None),
            ("1.2.3", None),
            ("99999999999999999999.1", None),
            ("9223372036854775807.0", None),
        ] {
            assert_eq!(slack_ts_ms(ts), want, "{ts}");
        }
        assert_eq!(iso(1_767_604_364_120), "2026-01-05T09:12:44.120Z");
        assert_eq!(
            parse_iso("2026-01-05T10:12:44.120+01:00"),
            Some(1_767_604_364_120)
        );
    }
}

//! Clock and calendar text: ISO 8601 for the files, local time for people and the prompt.
//! jiff does the calendar and the zones; its parser and formatter would add 70 KB for these few
//! forms.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{self, Offset, TimeZone};

/// This host's zone, read once at the first call: TZ (a name, a file, POSIX rules), else
/// /etc/localtime, else UTC.
pub(crate) fn zone() -> TimeZone {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    let find = || TimeZone::try_system().unwrap_or(TimeZone::UTC);
    ZONE.get_or_init(find).clone()
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `2026-01-05T09:12:44.120Z`, as all files of the data directory have it.
pub(crate) fn iso(ms: i64) -> String {
    let seconds = stamp(Offset::UTC.to_datetime(timestamp(ms)), 'T');
    format!("{seconds}.{:03}Z", ms.rem_euclid(1000))
}

/// A date and time as someone wrote it, with the offset or zone that it names.
pub(crate) struct Written {
    pub(crate) clock: DateTime,
    pub(crate) offset: Option<Offset>,
    pub(crate) zone: Option<TimeZone>,
}

/// Parses ISO 8601 in its usual form (`2026-01-05T10:12:44.120+01:00`; parts at the end may be
/// missing), with an optional zone in brackets (RFC 9557).
pub(crate) fn parse(text: &str) -> Option<Written> {
    let in_brackets = text.strip_suffix(']').and_then(|text| text.split_once('['));
    let (text, zone) = match in_brackets {
        Some((text, zone)) => (text, Some(tz::db().get(zone).ok()?)),
        None => (text, None),
    };
    let (date, rest) = text.split_at_checked("2026-01-05".len())?;
    let mut parts = date.split('-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let date = Date::new(year, month.try_into().ok()?, day.try_into().ok()?).ok()?;
    let rest = if rest.is_empty() { "T00" } else { rest };
    let time = rest.strip_prefix(['T', 't', ' '])?;
    let (time, offset) = time.split_at(time.find(['Z', 'z', '+', '-']).unwrap_or(time.len()));
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.split(':').map(number);
    let mut part = || parts.next().unwrap_or(Some(0));
    let mut part = || i8::try_from(part()?).ok();
    let (hour, minute, second) = (part()?, part()?, part()?);
    let nanos = format!("{fraction:0<9.9}").parse().ok()?;
    let time = Time::new(hour, minute, second, nanos).ok()?;
    Some(Written {
        clock: date.to_datetime(time),
        offset: match offset {
            "" => None,
            text => Some(parse_offset(text)?),
        },
        zone,
    })
}

/// `Z`, `+01:00`, `+0100`, `+01`
pub(crate) fn parse_offset(text: &str) -> Option<Offset> {
    if text.eq_ignore_ascii_case("Z") {
        return Some(Offset::UTC);
    }
    let (sign, digits) = text.split_at_checked(1)?;
    let (hours, minutes) = digits.split_at_checked(2)?;
    let minutes = match minutes {
        "" => 0,
        text => number(text.strip_prefix(':').unwrap_or(text)).filter(|minutes| *minutes < 60)?,
    };
    let seconds = i32::from(number(hours)?) * 3600 + i32::from(minutes) * 60;
    Offset::from_seconds(if sign == "-" { -seconds } else { seconds }).ok()
}

/// Parses a number of at most four digits.
fn number(text: &str) -> Option<i16> {
    let digits = text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Parses a time of that form that has an offset; milliseconds since 1970.
pub(crate) fn parse_iso(text: &str) -> Option<i64> {
    let written = parse(text)?;
    let at = written.offset?.to_timestamp(written.clock).ok()?;
    Some(at.as_millisecond())
}

/// `Mon, 05 Jan 2026 09:12:44 GMT`, as HTTP servers write it (RFC 9110), to milliseconds.
pub(crate) fn parse_http_date(text: &str) -> Option<i64> {
    let mut words = text.split(' ').skip(1);
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    let month = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"
        .split(' ')
        .position(|known| known == month)?;
    parse_iso(&format!("{year}-{:02}-{day}T{}Z", month + 1, words.next()?))
}

/// `2026-01-05 09:12:44`, UTC.
pub(crate) fn utc_stamp(ms: i64) -> String {
    stamp(Offset::UTC.to_datetime(timestamp(ms)), ' ')
}

/// `2026-01-05 10:12:45+01:00`, local time: the form of a message's time in the prompt.
pub(crate) fn prompt_stamp(ms: i64) -> String {
    let offset = zone().to_offset(timestamp(ms));
    stamp(offset.to_datetime(timestamp(ms)), ' ') + &offset_text(offset)
}

/// Today in local time, as a number of days since 1970.
pub(crate) fn local_day() -> i64 {
    let now = timestamp(now_ms());
    let offset = i64::from(zone().to_offset(now).seconds());
    (now.as_second() + offset).div_euclid(24 * 3600)
}

/// `2026-01-05 10:12:45` in local time: the start of a log line.
pub(crate) fn log_stamp() -> String {
    stamp(zone().to_datetime(timestamp(now_ms())), ' ')
}

/// `1767604364.120019`
pub(crate) fn is_slack_ts(ts: &str) -> bool {
    let digits = |text: &str, max| {
        (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    ts.split_once('.')
        .is_some_and(|(seconds, micros)| digits(seconds, 12) && digits(micros, 6))
}

/// A Slack ts for a time in milliseconds.
pub(crate) fn slack_ts(ms: i64) -> String {
    format!("{}.{:03}000", ms / 1000, ms % 1000)
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
    let zone = zone();
    match zone.iana_name().filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => format!("UTC{}", offset_text(zone.to_offset(timestamp(now_ms())))),
    }
}

/// (`Timestamp::now` would add the texts of all of jiff's errors, 40 KB.)
pub(crate) fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or_default()
}

fn stamp(at: DateTime, between: char) -> String {
    format!(
        "{:04}-{:02}-{:02}{between}{:02}:{:02}:{:02}",
        at.year(),
        at.month(),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// `+01:00`
fn offset_text(offset: Offset) -> String {
    let minutes = offset.seconds() / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    let minutes = minutes.abs();
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

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
        assert_eq!(utc_stamp(-1), "1969-12-31 23:59:59");
        for (seconds, want) in [(0, "+00:00"), (20_700, "+05:45"), (-12_600, "-03:30")] {
            assert_eq!(offset_text(Offset::from_seconds(seconds).unwrap()), want);
        }
        for (date, want) in [
            ("Mon, 05 Jan 2026 09:12:44 GMT", Some(1_767_604_364_000)),
            ("Thu, 31 Dec 1970 23:59:59 GMT", Some(31_535_999_000)),
            ("Mon, 05 anF 2026 09:12:44 GMT", None),
            ("Mon, 5 Jan", None),
            ("soon", None),
        ] {
            assert_eq!(parse_http_date(date), want, "{date}");
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "1767604364.120019",
            "1767604364120",
            "9999-12-31T23:59:59.999999999Z",
            "-009999-01-01 00:00:00-25:59",
            "2026-01-05T10:12:44.120+01:00",
            "2026-03-29t02:30[Europe/Vienna]",
            "Mon, 05 Jan 2026 09:12:44 GMT",
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let found = [slack_ts_ms(&text), parse_iso(&text), parse_http_date(&text)];
            for ms in found.into_iter().flatten() {
                let stamp = iso(ms);
                assert!(
                    [&utc_stamp(ms), &prompt_stamp(ms)]
                        .iter()
                        .all(|s| s.len() >= 19)
                );
                // What lies outside the calendar becomes 1970.
                let read = parse_iso(&stamp).filter(|read| *read >= 1000);
                assert!(read.is_none_or(|read| read == ms), "{ms} {stamp}");
            }
            assert!(!is_slack_ts(&text) || found[0].is_some());
            parse(&text).map(|written| written.clock);
        });
    }
}

//! Cron: when a periodic event is due. The dialect is croner 9's, which the files in use
//! are written in, without its quirks: 5 fields or 6 (seconds first), names, lists, ranges,
//! steps (`*/n`, `/n`, `a/n`, `a-b/n`), `L` as day of month, `d#n` and `d#L` as weekday,
//! 7 = Sunday, nicknames. When both day fields are restricted, either may match.
//!
//! A local time that matches is one run: in the gap of a clock change it moves to the
//! moment just after the gap, in the overlap the first pass counts. Of the crates, cronexpr
//! knows neither seconds nor `#L` and runs by other rules at clock changes; with the fields
//! as bit sets the rest is a walk over days. The calendar itself is jiff's.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{self, AmbiguousOffset, Offset, TimeZone};

use crate::base::time;

/// Longer schedules are not read. Characters.
const SCHEDULE_CHARS_MAX: usize = 500;
/// How far `next` looks: a fifth Monday in February comes after 40 years at the latest
/// (2068 to 2108, since 2100 is no leap year).
const YEARS_MAX: i16 = 41;

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// Bit n: second n matches. The others likewise.
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: DaysOfMonth,
    months: u64,
    weekdays: Weekdays,
    zone: TimeZone,
}

#[derive(Clone, Debug, Default)]
struct DaysOfMonth {
    days: u64,
    /// `L`: the last one.
    last: bool,
    /// The field is `*`: only the weekdays decide.
    any: bool,
}

#[derive(Clone, Debug, Default)]
struct Weekdays {
    /// Bit 0 is Sunday.
    days: u64,
    /// `d#n`: bit d of entry n - 1; entry 5 is `d#L`.
    nth: [u64; 6],
    /// The field is `*`: only the days of the month decide.
    any: bool,
}

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// What a field may hold: its name, the least and the greatest value, names of the values from
/// the least on, and what else can be written.
struct CronField(&'static str, u8, u8, &'static [&'static str], &'static str);

const SECOND: CronField = CronField("second", 0, 59, &[], "");
const MINUTE: CronField = CronField("minute", 0, 59, &[], "");
const HOUR: CronField = CronField("hour", 0, 23, &[], "");
const DAY: CronField = CronField("day of month", 1, 31, &[], ", L for the last day");
const MONTH: CronField = CronField("month", 1, 12, &MONTHS, ", a name like JAN");
const WEEKDAY: CronField = CronField(
    "weekday",
    0,
    6,
    &WEEKDAYS,
    ", a name like FRI, FRI#2 or FRI#L for the second or last Friday of the month",
);

/// An error says what is wrong and what can be written.
pub(crate) fn parse(text: &str, zone: &str) -> Result<Schedule, String> {
    let zone = zone_of(zone)?;
    let whole = text;
    let bad = |why: String| format!("schedule \"{}\": {why}", cut(whole));
    if text.chars().count() > SCHEDULE_CHARS_MAX {
        return Err(bad(format!("longer than {SCHEDULE_CHARS_MAX} characters")));
    }
    let mut text = text.trim();
    if text.starts_with('@') {
        let mut nicknames = NICKNAMES.iter();
        let nickname = nicknames.find(|(name, _)| name.eq_ignore_ascii_case(text));
        let Some((_, meaning)) = nickname else {
            let known = NICKNAMES.map(|(name, _)| name).join(", ");
            return Err(bad(format!("unknown nickname, there are {known}")));
        };
        text = meaning;
    }
    let mut fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() == 5 {
        fields.insert(0, "0");
    }
    let [second, minute, hour, day, month, weekday] = fields[..] else {
        return Err(bad(format!(
            "{} fields; 5 are needed (minute hour day month weekday), or 6 with the second first; \
             a single date is \"type\":\"one-shot\" with \"at\"",
            fields.len()
        )));
    };
    let schedule = Schedule {
        seconds: values(&SECOND, second).map_err(bad)?,
        minutes: values(&MINUTE, minute).map_err(bad)?,
        hours: values(&HOUR, hour).map_err(bad)?,
        days: days_of_month(day).map_err(bad)?,
        months: values(&MONTH, month).map_err(bad)?,
        weekdays: weekdays(weekday).map_err(bad)?,
        zone,
    };
    match schedule.next(Timestamp::UNIX_EPOCH) {
        Some(_) => Ok(schedule),
        None => Err(bad("no date ever matches, like 31 February".to_owned())),
    }
}

fn days_of_month(list: &str) -> Result<DaysOfMonth, String> {
    let mut out = DaysOfMonth {
        any: matches!(list, "*" | "?"),
        ..DaysOfMonth::default()
    };
    for item in list.split(',') {
        if item.eq_ignore_ascii_case("L") {
            out.last = true;
        } else {
            out.days |= values(&DAY, item)?;
        }
    }
    Ok(out)
}

fn weekdays(list: &str) -> Result<Weekdays, String> {
    let mut out = Weekdays {
        any: matches!(list, "*" | "?"),
        ..Weekdays::default()
    };
    for item in list.split(',') {
        let (base, nth) = item.split_once('#').unwrap_or((item, ""));
        let set = values(&WEEKDAY, base)?;
        match (nth, nth.parse()) {
            _ if base == item => out.days |= set,
            ("L" | "l", _) => out.nth[5] |= set,
            (_, Ok(n @ 1..=5_usize)) => out.nth[n - 1] |= set,
            _ => return Err(format!("weekday {}: after # comes 1 to 5 or L", cut(item))),
        }
    }
    Ok(out)
}

/// An IANA name, any case.
pub(crate) fn zone_of(name: &str) -> Result<TimeZone, String> {
    if let Ok(zone) = tz::db().get(name) {
        return Ok(zone);
    }
    let names = tz::db().available().map(|name| name.to_string());
    // Lower case: tables, and the same zones again under posix/ and right/.
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()))
        .collect();
    names.sort_unstable();
    if names.len() < 2 {
        return Err("this host has no time zones: install tzdata".to_owned());
    }
    let meant = match written_offset(name) {
        Some(offset) => zones_with(offset, names),
        None => {
            let end = format!("/{}", name.to_ascii_lowercase().replace(' ', "_"));
            names.retain(|known| known.to_ascii_lowercase().ends_with(&end));
            names.truncate(1);
            names
        }
    };
    let unknown = format!("time zone \"{}\" is unknown", cut(name));
    Err(match &meant[..] {
        [] => format!("{unknown}, write it like Europe/Vienna"),
        meant => format!(
            "{unknown}: write {}, or name a place, whose clock changes count, like Europe/Vienna",
            meant.join(" or ")
        ),
    })
}

/// The offset that someone wrote in place of a zone: `GMT+2`, `UTC+05:30`, `-3`, `UTC+3 (Moscow)`.
fn written_offset(name: &str) -> Option<Offset> {
    let name = name.trim().to_ascii_uppercase().replace('\u{2212}', "-");
    let name = name.split(" (").next()?;
    let offset = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let word = &name[..name.len() - offset.len()];
    let (sign, digits) = offset.trim().split_at_checked(1)?;
    let digits = digits.trim().replace(':', "");
    let digits = match digits.len() {
        1 | 3 => format!("0{digits}"),
        _ => digits,
    };
    if !matches!(word, "" | "GMT" | "UTC" | "Z") || !matches!(sign, "+" | "-") {
        return None;
    }
    time::parse_offset(&format!("{sign}{digits}"))
}

/// Names for it: of whole hours the one in Etc, which counts the other way round (Etc/GMT-2 is
/// two hours ahead of UTC), else of some places that have it now.
fn zones_with(offset: Offset, mut names: Vec<String>) -> Vec<String> {
    let (hours, rest) = (offset.seconds() / 3600, offset.seconds() % 3600);
    let etc = match (hours, rest) {
        (0, 0) => "UTC".to_owned(),
        (_, 0) => format!("Etc/GMT{:+}", -hours),
        _ => String::new(),
    };
    if names.contains(&etc) {
        return vec![etc];
    }
    let now = time::timestamp(time::now_ms());
    names.retain(|name| {
        let zone = tz::db().get(name);
        zone.is_ok_and(|zone| zone.to_offset(now) == offset)
    });
    names.truncate(3);
    names
}

impl Schedule {
    /// The first run later than `after`; `None` when there is none within 41 years.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = self.zone.to_datetime(after);
        let last_year = start.year().saturating_add(YEARS_MAX).min(9998);
        let mut date = start.date();
        let mut from = start.time();
        while date.year() <= last_year {
            if self.months & bit(date.month()) == 0 {
                date = date.last_of_month().tomorrow().ok()?;
                from = Time::midnight();
                continue;
            }
            if self.day_matches(date) {
                // This loops more than once only in the second pass of an overlap, whose times have
                // run already.
                while let Some(time) = self.time_from(from) {
                    let due = self.instant(date.to_datetime(time))?;
                    if due > after {
                        return Some(due);
                    }
                    match second_after(time) {
                        Some(next) => from = next,
                        None => break,
                    }
                }
            }
            date = date.tomorrow().ok()?;
            from = Time::midnight();
        }
        None
    }

    /// Whether two of the next runs are closer together than this, in milliseconds.
    pub(crate) fn has_shorter_period(&self, now_ms: i64, period_ms: i64) -> bool {
        let now = Timestamp::from_millisecond(now_ms).ok();
        let first = now.and_then(|now| self.next(now));
        let second = first.and_then(|first| self.next(first));
        let [first, second] = [first, second].map(|at| at.map(Timestamp::as_millisecond));
        matches!((first, second), (Some(first), Some(second)) if second - first < period_ms)
    }

    fn day_matches(&self, date: Date) -> bool {
        let last = date.days_in_month();
        let (days, weekdays) = (&self.days, &self.weekdays);
        let day = days.days & bit(date.day()) != 0 || days.last && date.day() == last;
        let weekday = bit(date.weekday().to_sunday_zero_offset());
        let nth = weekdays.nth[(date.day() as usize - 1) / 7];
        let in_last_week = date.day() > last - 7;
        let weekday =
            (weekdays.days | nth) & weekday != 0 || in_last_week && weekdays.nth[5] & weekday != 0;
        match (days.any, weekdays.any) {
            (true, _) => weekday,
            (_, true) => day,
            _ => day || weekday,
        }
    }

    /// The first matching time of day that is not before `from`.
    fn time_from(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) = (from.hour(), from.minute(), from.second());
        let time = |hour, minute, second| Time::new(hour, minute, second, 0).ok();
        if self.hours & bit(hour) != 0 {
            if self.minutes & bit(minute) != 0 {
                if let Some(second) = first(self.seconds, second) {
                    return time(hour, minute, second);
                }
            }
            if let Some(minute) = first(self.minutes, minute + 1) {
                return time(hour, minute, first(self.seconds, 0)?);
            }
        }
        let hour = first(self.hours, hour + 1)?;
        time(hour, first(self.minutes, 0)?, first(self.seconds, 0)?)
    }

    fn instant(&self, local: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
            AmbiguousOffset::Gap { before, .. } => {
                // With the old offset the time lies behind the change, less than a gap away.
                let behind = before.to_timestamp(local).ok()?;
                let behind = Timestamp::from_second(behind.as_second() + 1).ok()?;
                Some(self.zone.preceding(behind).next()?.timestamp())
            }
        }
    }
}

/// The next second of the same day. (jiff's arithmetic would add the code for all its spans.)
fn second_after(time: Time) -> Option<Time> {
    let (hour, minute, second) = match (time.hour(), time.minute(), time.second()) {
        (hour, 59, 59) => (hour + 1, 0, 0),
        (hour, minute, 59) => (hour, minute + 1, 0),
        (hour, minute, second) => (hour, minute, second + 1),
    };
    Time::new(hour, minute, second, 0).ok()
}

/// Bits of the values that a list of one field names.
fn values(field: &CronField, list: &str) -> Result<u64, String> {
    list.split(',')
        .try_fold(0, |set, item| Ok(set | item_values(field, item)?))
}

fn item_values(field: &CronField, item: &str) -> Result<u64, String> {
    let CronField(name, min, max, ..) = *field;
    let bad = |why: String| format!("{name} \"{}\": {why}", cut(item));
    let step_max = max - min + 1;
    let (base, step) = match item.split_once('/') {
        None => (item, None),
        Some((base, step)) => match number(step).filter(|step| (1..=step_max).contains(step)) {
            Some(step) => (if base.is_empty() { "*" } else { base }, Some(step)),
            None => return Err(bad(format!("after / comes a number from 1 to {step_max}"))),
        },
    };
    let (low, high) = match (base, base.split_once('-')) {
        ("*" | "?", _) => (min, max),
        (_, Some((low, high))) => {
            let from = value(field, low).map_err(bad)?;
            let to = match value(field, high).map_err(bad)? {
                // SAT-SUN ends on the Sunday after it.
                0 if max == 6 && from > 0 => 7,
                to => to,
            };
            // 7 is the Sunday before Monday here.
            let from = if from > to && from > max { min } else { from };
            if from > to {
                let forwards = format!("{from}-{max},{min}-{to}");
                return Err(bad(format!("runs backwards, write {forwards}")));
            }
            (from, to)
        }
        (_, None) => match value(field, base).map_err(bad)? {
            from if step.is_some() => (from, max.max(from)),
            value => (value, value),
        },
    };
    let steps = (low..=high).step_by(step.unwrap_or(1).into());
    let set: u64 = steps.fold(0, |set, value| set | 1 << value);
    Ok(match max {
        // Weekday 7 is weekday 0.
        6 => (set | set >> 7) & 0x7f,
        _ => set,
    })
}

fn value(field: &CronField, text: &str) -> Result<u8, String> {
    let CronField(_, min, max, names, form) = *field;
    if let Some(index) = names
        .iter()
        .position(|name| name.eq_ignore_ascii_case(text))
    {
        return Ok(min + index as u8);
    }
    match number(text) {
        Some(number) if (min..=max).contains(&number) || max == 6 && number == 7 => Ok(number),
        Some(number) => Err(format!("{number} is not in {min}-{max}")),
        None => Err(format!(
            "write a number from {min} to {max}{form}, or * for any"
        )),
    }
}

/// One or two digits.
fn number(text: &str) -> Option<u8> {
    let digits = matches!(text.len(), 1 | 2) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn bit(value: i8) -> u64 {
    1 << value
}

/// The first value of the set from `from` on; `from` is below 64.
fn first(set: u64, from: i8) -> Option<i8> {
    let rest = set >> from << from;
    (rest != 0).then(|| rest.trailing_zeros() as i8)
}

/// Text from a file, short enough for a message.
fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    /// Local times, with offset, of the runs after a time in UTC.
    fn runs(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = parse(schedule, zone).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        let mut out = Vec::new();
        while let Some(next) = schedule.next(at).filter(|_| out.len() < count) {
            assert!(next > at);
            let local = next.to_zoned(schedule.zone.clone());
            out.push(
                local
                    .strftime("%F %T%:z")
                    .to_string()
                    .replace(":00+", "+")
                    .replace(":00-", "-"),
            );
            at = next;
        }
        out
    }

    const VIENNA: &str = "Europe/Vienna";

    #[test]
    fn dialect() {
        // Friday, 2 January 2026, 00:00 UTC.
        for (schedule, want) in [
            ("0 9 * * 1-5", "2026-01-02 09:00 2026-01-05 09:00"),
            ("  0   9 * * MON-fri ", "2026-01-02 09:00 2026-01-05 09:00"),
            ("30 */10 0 1 1 *", "2027-01-01 00:00:30 2027-01-01 00:10:30"),
            ("*/20 0 * * * *", "2026-01-02 00:00:20 2026-01-02 00:00:40"),
            ("/30 8 * * *", "2026-01-02 08:00 2026-01-02 08:30"),
            ("50/5 8 * * *", "2026-01-02 08:50 2026-01-02 08:55"),
            ("10-20/10 8 * * *", "2026-01-02 08:10 2026-01-02 08:20"),
            ("0 0 * * SAT-SUN", "2026-01-03 00:00 2026-01-04 00:00"),
            ("0 0 * * 6-7", "2026-01-03 00:00 2026-01-04 00:00"),
            ("0 0 * * 7", "2026-01-04 00:00 2026-01-11 00:00"),
            ("0 0 * * 0", "2026-01-04 00:00 2026-01-11 00:00"),
            ("0 0 1,15,L * *", "2026-01-15 00:00 2026-01-31 00:00"),
            ("0 0 L FEB ?", "2026-02-28 00:00 2027-02-28 00:00"),
            ("0 0 ? * FRI#2", "2026-01-09 00:00 2026-02-13 00:00"),
            ("0 0 * * 5#L", "2026-01-30 00:00 2026-02-27 00:00"),
            ("0 0 * * SAT-SUN#1", "2026-01-03 00:00 2026-01-04 00:00"),
            ("0 0 * * 5#5", "2026-01-30 00:00 2026-05-29 00:00"),
            // Either of two restricted day fields; 1 March 2026 is a Sunday.
            ("0 0 1 3 MON", "2026-03-01 00:00 2026-03-02 00:00"),
            ("0 0 13 * FRI", "2026-01-09 00:00 2026-01-13 00:00"),
            ("0 0 */20 * MON", "2026-01-05 00:00 2026-01-12 00:00"),
            ("@weekly", "2026-01-04 00:00 2026-01-11 00:00"),
            ("@Yearly", "2027-01-01 00:00 2028-01-01 00:00"),
            ("@hourly", "2026-01-02 01:00 2026-01-02 02:00"),
            ("0 0 29 2 *", "2028-02-29 00:00 2032-02-29 00:00"),
            ("0 0 * 2 MON#5", "2044-02-29 00:00 2072-02-29 00:00"),
        ] {
            let got = runs(schedule, "UTC", "2026-01-02T00:00:00Z", 2);
            assert_eq!(got.join(" ").replace("+00:00", ""), want, "{schedule}");
        }
        // 2100 is no leap year.
        let got = runs("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1);
        assert_eq!(got, ["2104-02-29 00:00+00:00"]);
        assert_eq!(
            runs("0 0 29 2 *", "UTC", "9998-01-01T00:00:00Z", 1),
            [""; 0]
        );
        assert_eq!(
            parse("* * * * *", "UTC").unwrap().next(Timestamp::MAX),
            None
        );
        assert!(
            parse("* * * * *", VIENNA)
                .unwrap()
                .next(Timestamp::MIN)
                .is_some()
        );
    }

    #[test]
    fn clock_changes() {
        let table = "
            gap                           | 30 2 * * *   | Europe/Vienna       | 2026-03-28T12:00:00Z | 2026-03-29 03:00+02:00, 2026-03-30 02:30+02:00
            gap, a later run at its end   | 30 2,3 * * * | Europe/Vienna       | 2026-03-28T12:00:00Z | 2026-03-29 03:00+02:00, 2026-03-29 03:30+02:00
            gap, hourly                   | 0 * * * *    | Europe/Vienna       | 2026-03-28T23:30:00Z | 2026-03-29 01:00+01:00, 2026-03-29 03:00+02:00, 2026-03-29 04:00+02:00
            gap, many in it               | */10 2 * * * | Europe/Vienna       | 2026-03-28T12:00:00Z | 2026-03-29 03:00+02:00, 2026-03-30 02:00+02:00
            overlap                       | 30 2 * * *   | Europe/Vienna       | 2026-10-24T12:00:00Z | 2026-10-25 02:30+02:00, 2026-10-26 02:30+01:00
            overlap, from its second pass | 30 2 * * *   | Europe/Vienna       | 2026-10-25T01:05:00Z | 2026-10-26 02:30+01:00
            overlap, every half hour      | */30 * * * * | Europe/Vienna       | 2026-10-24T23:59:00Z | 2026-10-25 02:00+02:00, 2026-10-25 02:30+02:00, 2026-10-25 03:00+01:00
            half an hour's gap            | 15 2 * * *   | Australia/Lord_Howe | 2026-10-03T00:00:00Z | 2026-10-04 02:30+11:00, 2026-10-05 02:15+11:00
            half an hour's overlap        | 45 1 * * *   | Australia/Lord_Howe | 2026-04-04T00:00:00Z | 2026-04-05 01:45+11:00, 2026-04-06 01:45+10:30
            gap over midnight             | 0 0 * * *    | America/Santiago    | 2026-09-05T12:00:00Z | 2026-09-06 01:00-03:00, 2026-09-07 00:00-03:00
            a whole day's gap             | 0 12 30 12 * | Pacific/Apia        | 2011-12-01T00:00:00Z | 2011-12-31 00:00+14:00, 2012-12-30 12:00+14:00";
        for row in table.trim().lines() {
            let columns: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, schedule, zone, after, want] = columns[..] else {
                panic!("{row}")
            };
            let count = want.split(", ").count();
            let got = runs(schedule, zone, after, count);
            assert_eq!(got.join(", "), want, "{row}");
        }
    }

    #[test]
    fn refused_with_the_reason() {
        for (schedule, want) in [
            ("0 9 * *", "4 fields"),
            ("0 0 9 * * 1 2027", "7 fields"),
            ("2027-01-01T09:00:00", "one-shot"),
            ("0 9 * * MONDAY", "a name like FRI"),
            ("0 9 * JANUARY *", "a name like JAN"),
            ("0 9 * * 5L", "FRI#L"),
            ("0 9 * * 5#6", "1 to 5 or L"),
            ("0 9 * * 8", "8 is not in 0-6"),
            ("0 9 * * FRI-MON", "5-6,0-1"),
            ("0 24 * * *", "24 is not in 0-23"),
            ("0 22-6 * * *", "22-23,0-6"),
            ("0 9 0 * *", "0 is not in 1-31"),
            ("0 9 15W * *", "from 1 to 31"),
            ("0 9 L-3 * *", "L for the last day"),
            ("*/0 9 * * *", "from 1 to 60"),
            ("*/61 9 * * *", "from 1 to 60"),
            ("5, 9 * * *", "* for any"),
            ("+5 9 * * *", "a number from 0 to 59"),
            ("1--2 9 * * *", "a number from 0 to 59"),
            ("@reboot", "@daily"),
            ("0 9 31 2 *", "no date ever matches"),
            (&"1,".repeat(5_000), "longer than"),
        ] {
            let got = parse(schedule, "UTC").unwrap_err();
            assert!(got.contains(want), "{schedule}: {got}");
            assert!(got.len() < 400, "{got}");
        }
        for (zone, want) in [
            ("vienna", "Europe/Vienna"),
            ("../../etc/passwd", "unknown"),
            ("", "unknown"),
            ("GMT+2", "write Etc/GMT-2,"),
            ("utc-05:00", "write Etc/GMT+5,"),
            ("UTC\u{2212}3", "write Etc/GMT+3,"),
            ("UTC+3 (Moscow)", "write Etc/GMT-3,"),
            ("+0930", "write Australia/Darwin"),
            // Debian has older names of it in a package of their own.
            ("UTC+5:30", "Asia/Colombo or Asia/Kolkata"),
            ("UTC+00:00", "write UTC,"),
            ("GMT+99", "write it like"),
            ("UTC+13:37", "write it like"),
        ] {
            let got = parse("* * * * *", zone).unwrap_err();
            assert!(got.contains(want), "{zone}: {got}");
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "0 9 * * 1-5",
            "30 */10 0 1 1 *",
            "/30 8 L,15 FEB ?",
            "0 0 ? * FRI#2,5#L",
            "50/5 22-23,0-6 29 2 MON-SUN",
            "0 2,3 * * 7",
            "@weekly",
        ];
        let zones = ["UTC", VIENNA, "Australia/Lord_Howe", "Pacific/Apia"];
        survive(&corpus, |random, input| {
            let text = String::from_utf8_lossy(input);
            let schedule = match parse(&text, random.pick(&zones)) {
                Ok(schedule) => schedule,
                Err(why) => return assert!(why.len() < 1_000, "{why}"),
            };
            // Around the day that Apia left out, or anywhere.
            let at = match random.below(2) {
                0 => 1_325_200_000 + random.below(200_000) as i64,
                _ => random.below(1 << 38) as i64 - (1 << 37),
            };
            let at = Timestamp::from_second(at).unwrap();
            let Some(next) = schedule.next(at) else {
                return;
            };
            let local = schedule.zone.to_datetime(next);
            let time = local.time();
            let found = schedule.day_matches(local.date())
                && schedule.months & bit(local.month()) != 0
                && schedule.time_from(time) == Some(time);
            // In a gap it is the first moment behind it.
            let just_before = Timestamp::from_second(next.as_second() - 1).unwrap();
            let offset = |at| schedule.zone.to_offset(at);
            assert!(
                next > at && (found || offset(next) != offset(just_before)),
                "{next}"
            );
            // And there is none between.
            let between = (next.as_second() - at.as_second()).max(1) as usize;
            let between = at.as_second() + random.below(between) as i64;
            let again = schedule.next(Timestamp::from_second(between).unwrap());
            assert_eq!(again, Some(next));
        });
    }
}

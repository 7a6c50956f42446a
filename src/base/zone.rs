//! Time zones: this host's, and those with a name. One file of the system's zoneinfo is read
//! for each: jiff's own database lists all 600 at the first question, and keeps them.

use std::sync::OnceLock;
use std::{env, fs};

use jiff::tz::TimeZone;

/// `TZDIR`, where it is set, comes before them.
const DIRS: [&str; 3] = [
    "/usr/share/zoneinfo",
    "/usr/share/lib/zoneinfo",
    "/etc/zoneinfo",
];

/// This host's, as it was at the first question: TZ (a name, a file, POSIX rules), else
/// /etc/localtime, else UTC.
pub(crate) fn system() -> TimeZone {
    static SYSTEM: OnceLock<TimeZone> = OnceLock::new();
    let find = || host(env::var("TZ").ok().as_deref());
    SYSTEM.get_or_init(find).clone()
}

fn host(tz: Option<&str>) -> TimeZone {
    let found = match tz.map(|tz| tz.trim_start_matches(':')) {
        Some(tz) => named(tz)
            .or_else(|| TimeZone::posix(tz).ok())
            .or_else(|| of_file(tz)),
        None => of_file("/etc/localtime"),
    };
    found.unwrap_or(TimeZone::UTC)
}

/// By the name that the file or its link has, where that is one: the prompt tells it.
fn of_file(path: &str) -> Option<TimeZone> {
    let link = fs::read_link(path).ok();
    let link = link.as_ref().and_then(|link| link.to_str());
    let name = |path: &str| Some(path.rsplit_once("zoneinfo/")?.1.to_owned());
    let name = link.and_then(name).or_else(|| name(path));
    name.and_then(|name| named(&name))
        .or_else(|| TimeZone::tzif("", &fs::read(path).ok()?).ok())
}

/// By an IANA name, in any case.
pub(crate) fn named(name: &str) -> Option<TimeZone> {
    if name.eq_ignore_ascii_case("UTC") {
        return Some(TimeZone::UTC);
    }
    if name.starts_with('/') || !name.bytes().all(fits) {
        return None;
    }
    read(name).or_else(|| {
        let known = names();
        read(
            known
                .iter()
                .find(|known| known.eq_ignore_ascii_case(name))?,
        )
    })
}

/// Without a dot nothing leads out of the directory.
fn fits(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte)
}

fn read(name: &str) -> Option<TimeZone> {
    dirs().find_map(|dir| TimeZone::tzif(name, &fs::read(format!("{dir}/{name}")).ok()?).ok())
}

/// All there are, sorted; none without the package tzdata.
pub(crate) fn names() -> Vec<String> {
    let mut names = Vec::new();
    if let Some(dir) = dirs().find(|dir| fs::metadata(dir).is_ok_and(|meta| meta.is_dir())) {
        list(&dir, "", &mut names);
    }
    names.sort_unstable();
    names
}

fn dirs() -> impl Iterator<Item = String> {
    let own = env::var("TZDIR").ok();
    own.into_iter().chain(DIRS.map(String::from))
}

fn list(dir: &str, above: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Lower case: tables, and the same zones again under posix/ and right/.
        if above.is_empty() && !name.starts_with(|c: char| c.is_ascii_uppercase()) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&format!("{dir}/{name}"), &format!("{above}{name}/"), names);
        } else {
            names.push(format!("{above}{name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_come_by_name_file_or_rule() {
        let berlin = "/usr/share/zoneinfo/Europe/Berlin";
        for (tz, name, offset) in [
            ("Europe/Berlin", Some("Europe/Berlin"), 3600),
            (":europe/BERLIN", Some("Europe/Berlin"), 3600),
            (berlin, Some("Europe/Berlin"), 3600),
            ("utc", Some("UTC"), 0),
            ("", Some("UTC"), 0),
            ("Mars/Base", Some("UTC"), 0),
            ("../zoneinfo/Europe/Berlin", Some("Europe/Berlin"), 3600),
            ("CET-1CEST,M3.5.0,M10.5.0/3", None, 3600),
            ("<+0545>-5:45", None, 20_700),
        ] {
            let zone = host(Some(tz));
            let january = jiff::Timestamp::from_second(1_767_604_364).unwrap();
            let offset_of = zone.to_offset(january).seconds();
            assert_eq!((zone.iana_name(), offset_of), (name, offset), "{tz}");
        }
        for name in ["", "/etc/passwd", "../../../etc/passwd", "Europe", "a\0b"] {
            assert!(named(name).is_none(), "{name}");
        }
        assert!(names().iter().any(|name| name == "America/New_York"));
    }

    #[test]
    fn a_link_tells_its_name_and_a_copy_none() {
        let dir = env::temp_dir().join(format!("mom-zone-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let vienna = "/usr/share/zoneinfo/Europe/Vienna";
        std::os::unix::fs::symlink(vienna, path("link")).unwrap();
        fs::copy(vienna, path("copy")).unwrap();
        let link = of_file(&path("link"));
        assert_eq!(link.unwrap().iana_name(), Some("Europe/Vienna"));
        assert_eq!(of_file(&path("copy")).unwrap().iana_name(), Some(""));
        fs::remove_dir_all(dir).unwrap();
    }
}

//! Checks the data directory for `mom --check`: whether mom can write to it, whether it has free
//! space, and whether another mom uses it.

use std::path::Path;

use super::dir::{Dir, Kind};
use crate::base::finding::{Finding, Grade};
use crate::base::text;

const WHAT: &str = "data directory";
/// Bytes free below which mom's owner should know.
const FREE_MIN: u64 = 200 << 20;
/// Size of the probe file; it is not empty, because an empty file fits even on a full disk.
const PROBE_BYTES: usize = 16 * 1024;

/// Returns the findings, and the directory if it could be opened.
pub(crate) fn check(path: Option<&Path>) -> (Vec<Finding>, Option<Dir>) {
    let alone = |finding| (vec![finding], None);
    let Some(path) = path else {
        let fix = "mkdir data, then: mom --check ./data";
        return alone(Finding::fail(WHAT, "none given", fix));
    };
    let shown = path.display();
    if Dir::is_missing(path) {
        return alone(match Dir::try_root(path) {
            Err(err) => Finding::failed(WHAT, &err, ""),
            Ok(()) => Finding::warn(
                WHAT,
                format!("{shown} does not exist yet; mom creates it at its start"),
                &format!("mkdir -p {shown}, then check again"),
            ),
        });
    }
    let dir = match Dir::open(path) {
        Ok(dir) => dir,
        Err(err) => {
            let fix = "name a directory that mom's user may open";
            return alone(Finding::failed(WHAT, &err, fix));
        }
    };
    let probe = format!(".mom-check-{}", std::process::id());
    let written = dir.put_probe(&probe, " ".repeat(PROBE_BYTES).as_bytes());
    // The probe is removed after a failed write, too; then it does not matter if that fails.
    let removed = dir.remove(&probe);
    let mut findings = Vec::new();
    match written.and(removed) {
        Ok(()) => {
            findings.push(Finding::ok(WHAT, format!("{shown} can be written to")));
            findings.extend(room(&dir));
        }
        Err(err) => findings.push(Finding::failed(WHAT, &err, "")),
    }
    for name in ["events", "TERMINAL"] {
        findings.extend(misplaced(&dir, name));
    }
    findings.push(match dir.lock() {
        Ok(()) => Finding::ok("lock", "no other mom works on this directory"),
        Err(err) => Finding::of("lock", Grade::Warn, &err, ""),
    });
    (findings, Some(dir))
}

/// The failure when a file is in the place of a directory that mom would make.
fn misplaced(dir: &Dir, name: &str) -> Option<Finding> {
    let stamp = dir.stamp(name).ok().flatten()?;
    let fix = "move it away (mv), then mom makes the directory";
    let finding = || Finding::fail(WHAT, format!("{name} in it is no directory"), fix);
    (stamp.kind != Kind::Dir).then(finding)
}

fn room(dir: &Dir) -> Option<Finding> {
    let stat = dir.root().and_then(rustix::fs::fstatfs).ok()?;
    let free = (stat.f_bavail as u64).saturating_mul(stat.f_bsize as u64);
    let fact = format!("{} free", text::bytes(free));
    let fix = "make room: mom stops writing when the disk is full";
    Some(if free >= FREE_MIN {
        Finding::ok("disk", fact)
    } else if free >= PROBE_BYTES as u64 {
        Finding::warn("disk", fact, fix)
    } else {
        Finding::fail("disk", fact, fix)
    })
}

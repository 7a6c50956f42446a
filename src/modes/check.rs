//! `mom --check`: one line for each thing that mom needs, and how to mend what is wrong with
//! it. Every check stands for itself: what fails stops none of the others, and what a server
//! does not answer in time is a finding too. To add one: a function and a row in `CHECKS`.

use std::fmt;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::agent;
use crate::agent::prompt::MEMORY_BYTES_MAX;
use crate::agent::settings;
use crate::agent::skills;
use crate::base::error::{Error, Result};
use crate::base::secret;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::config::{self, Config, Keys};
use crate::events;
use crate::host::sandbox::Sandbox;
use crate::llm;
use crate::net::Net;
use crate::slack::web::{Identity, Web};
use crate::slack::{self, manifest};
use crate::store;
use crate::store::dir::{Dir, Kind};

/// For one question to a server, name look-up and TLS included.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// Conversations that are looked at.
const CHANNELS_MAX: usize = 500;
/// Lines about one thing.
const FINDINGS_MAX: usize = 10;
const LINE_CHARS_MAX: usize = 500;
/// Tokens are refused, and TLS with them, when clocks differ by minutes.
const SKEW_MAX_MS: u64 = 120_000;
const SPACE_BYTES_MIN: u64 = 200 << 20;

/// What is looked at, and what earlier checks left for later ones.
struct Exam<'a> {
    path: Option<&'a Path>,
    config: &'a Config,
    keys: &'a Keys,
    net: Net,
    dir: Option<Dir>,
    sandbox: Option<Sandbox>,
    identity: Option<Identity>,
    /// Milliseconds that a server's clock is ahead, and whose.
    skew: Option<(i64, &'static str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Ok,
    Warn,
    Fail,
}

struct Finding {
    grade: Grade,
    fact: String,
    /// Empty for what is well.
    mend: String,
}

type Findings = Vec<Finding>;

enum Check {
    Any(fn(&mut Exam<'_>) -> Findings),
    /// Left out while there is no data directory.
    InDir(fn(&Dir) -> Findings),
}
use Check::{Any, InDir};

const CHECKS: &[(&str, Check)] = &[
    ("data directory", Any(data_directory)),
    ("file system", InDir(file_system)),
    ("lock", InDir(lock)),
    ("settings", InDir(settings_file)),
    ("memory", InDir(memory)),
    ("skills", InDir(skill_files)),
    ("events", InDir(event_files)),
    ("sandbox", Any(sandbox)),
    ("engine", Any(engine)),
    ("git and curl", Any(programs)),
    ("CA certificates", Any(ca_certificates)),
    ("proxy", Any(proxy)),
    ("key file", Any(key_file)),
    ("who may ask", Any(allow_lists)),
    ("Slack tokens", Any(slack_tokens)),
    ("Slack", Any(slack)),
    ("scopes", Any(scopes)),
    ("Socket Mode", Any(socket_mode)),
    ("model", Any(model)),
    ("clock", Any(clock)),
];

/// Prints as it goes. False when something failed.
pub(crate) fn check(path: Option<&Path>, config: &Config, keys: &Keys) -> bool {
    let mut exam = Exam {
        path,
        config,
        keys,
        net: Net::from_env(),
        dir: None,
        sandbox: None,
        identity: None,
        skew: None,
    };
    let colour = stdout().is_terminal() && config::variable("NO_COLOR").is_none();
    let mut mends = Vec::new();
    let mut warnings = 0;
    for (what, check) in CHECKS {
        let findings = match (check, &exam.dir) {
            (Any(check), _) => check(&mut exam),
            (InDir(check), Some(dir)) => check(dir),
            (InDir(_), None) => continue,
        };
        // Anew: the check may have asked a command for a key.
        secret::guard(keys.all());
        let clean = |text: &str| secret::hide(text::one_line(text, LINE_CHARS_MAX));
        for Finding { grade, fact, mend } in findings {
            let (word, code) = match grade {
                Grade::Ok => ("ok  ", 32),
                Grade::Warn => ("warn", 33),
                Grade::Fail => ("FAIL", 31),
            };
            let word = match colour {
                true => format!("\x1b[{code}m{word}\x1b[0m"),
                false => word.to_owned(),
            };
            let mend = clean(&mend);
            say(&format!("{word}  {what}: {}\n", clean(&fact)));
            if grade != Grade::Ok {
                say(&format!("      -> {mend}\n"));
            }
            warnings += usize::from(grade == Grade::Warn);
            if grade == Grade::Fail {
                mends.push(mend);
            }
        }
    }
    let warned = text::count(warnings, "warning");
    match mends.first() {
        None => say(&format!("\nmom can start; {warned}\n")),
        Some(first) => say(&format!(
            "\n{} to mend, {warned}; first:\n  {first}\n",
            text::count(mends.len(), "failure")
        )),
    }
    mends.is_empty()
}

fn say(text: &str) {
    let mut stdout = stdout();
    // Whoever stopped reading has seen enough; the exit code still tells.
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .ok();
}

fn ok(fact: impl Into<String>) -> Findings {
    one(Grade::Ok, fact, "")
}

fn warn(fact: impl Into<String>, mend: impl Into<String>) -> Findings {
    one(Grade::Warn, fact, mend)
}

fn fail(fact: impl Into<String>, mend: impl Into<String>) -> Findings {
    one(Grade::Fail, fact, mend)
}

fn one(grade: Grade, fact: impl Into<String>, mend: impl Into<String>) -> Findings {
    let (fact, mend) = (fact.into(), mend.into());
    vec![Finding { grade, fact, mend }]
}

fn failed(err: &Error, otherwise: &str) -> Findings {
    told(Grade::Fail, err, otherwise)
}

/// Messages name their mend behind a semicolon; `otherwise` is for those that know none.
fn told(grade: Grade, text: &impl fmt::Display, otherwise: &str) -> Findings {
    let text = text.to_string();
    let halves = text.split_once("; next: ").or(text.split_once("; "));
    match halves {
        Some((fact, mend)) => one(grade, fact, mend),
        None => one(grade, text.as_str(), otherwise),
    }
}

/// A warning for each that is wrong.
fn warn_each(mut wrong: Vec<String>, mend: &str, well: &str) -> Findings {
    if wrong.is_empty() {
        return ok(well);
    }
    if wrong.len() > FINDINGS_MAX {
        let left_out = wrong.split_off(FINDINGS_MAX).len();
        wrong.push(format!("{left_out} more like these"));
    }
    let warning = |fact: String| warn(fact, mend);
    wrong.into_iter().flat_map(warning).collect()
}

/// Runs `ask` with a `Stop` that is set when it takes too long.
fn in_time<T>(ask: impl FnOnce(&Stop) -> Result<T>) -> Result<T> {
    let stop = Stop::new();
    let (done, waiting) = mpsc::channel::<()>();
    let answer = thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let waited = waiting.recv_timeout(ANSWER_MAX);
            if waited == Err(RecvTimeoutError::Timeout) {
                stop.set(Cause::Asked);
            }
        });
        let answer = ask(stop);
        drop(done);
        answer
    });
    answer.map_err(|err| match err {
        Error::Stopped => Error::failed(format!("no answer within {} s", ANSWER_MAX.as_secs())),
        err => err,
    })
}

const NETWORK: &str = "look at the network: cable, DNS, firewall, HTTPS_PROXY";

fn data_directory(exam: &mut Exam<'_>) -> Findings {
    let Some(path) = exam.path else {
        return fail("none given", "mkdir data, then: mom --check ./data");
    };
    let shown = path.display();
    if !path.exists() {
        if let Err(err) = Dir::try_root(path) {
            return failed(&err, "");
        }
        return warn(
            format!("{shown} is not there yet; mom makes it when she starts"),
            format!("mkdir -p {shown}, to check what follows from it"),
        );
    }
    let dir = match Dir::open(path) {
        Ok(dir) => dir,
        Err(err) => return failed(&err, "name a directory that mom's user may open"),
    };
    // Any look-up goes through openat2.
    if let Err(err) = dir.stamp(".") {
        return fail(
            format!("no openat2 here ({err})"),
            "Linux 5.6 or newer is needed; in a container, an engine that lets openat2 through",
        );
    }
    let dir = exam.dir.insert(dir);
    let probe = format!(".mom-check-{}", std::process::id());
    match dir
        .replace_unsynced(&probe, b"")
        .and_then(|()| dir.remove(&probe))
    {
        Ok(()) => ok(format!("{shown} can be written to")),
        Err(err) => failed(&err, "let mom's user own it (chown), and look at df"),
    }
}

const SHARED: &str = "changes of others go unnoticed there, locks are doubtful";

/// statfs(2) type, name, what is wrong with it.
const FILE_SYSTEMS: &[(u32, &str, &str)] = &[
    (0xEF53, "ext4", ""),
    (0x9123_683E, "btrfs", ""),
    (0x5846_5342, "xfs", ""),
    (0xF2F5_2010, "f2fs", ""),
    (0x2FC1_2FC1, "zfs", ""),
    (0x794C_7630, "overlay", "it goes with its container"),
    (0x0102_1994, "tmpfs", "it is gone after a reboot"),
    (0x6969, "nfs", SHARED),
    (0xFF53_4D42, "cifs", SHARED),
    (0xFE53_4D42, "smb", SHARED),
    (0x6573_5546, "fuse", SHARED),
    (0x4D44, "vfat", "it has no owners and no links"),
    (0x9FA0, "proc", "nothing can be kept there"),
];

fn file_system(dir: &Dir) -> Findings {
    let stat = match dir.root().and_then(rustix::fs::fstatfs) {
        Ok(stat) => stat,
        Err(err) => return warn(format!("cannot be looked at: {err}"), "look at df"),
    };
    // 32 bits matter; the field's type differs by machine.
    let kind = stat.f_type as u32;
    let row = FILE_SYSTEMS.iter().find(|(number, ..)| *number == kind);
    let (name, trouble) = row.map_or(("of a kind I do not know", ""), |row| (row.1, row.2));
    let free = (stat.f_bavail as u64).saturating_mul(stat.f_bsize as u64);
    let fact = format!("{name}, {} free", text::bytes(free));
    if !trouble.is_empty() {
        return warn(
            format!("{fact}: {trouble}"),
            "keep the data directory on a local disk",
        );
    }
    match free < SPACE_BYTES_MIN {
        true => warn(fact, "make room: mom stops writing when the disk is full"),
        false => ok(fact),
    }
}

fn lock(dir: &Dir) -> Findings {
    match dir.lock() {
        Ok(_) => ok("no other mom works on this directory"),
        Err(err) => told(Grade::Warn, &err, "stop whatever holds it"),
    }
}

/// Conversations with a directory.
fn channels(dir: &Dir) -> Vec<String> {
    let mut channels = store::channels(dir).unwrap_or_default();
    channels.truncate(CHANNELS_MAX);
    channels
}

fn settings_file(dir: &Dir) -> Findings {
    let mend = "correct the file; what it says wrongly is not used";
    warn_each(
        settings::load(dir).1,
        mend,
        "settings.json is absent or in order",
    )
}

fn memory(dir: &Dir) -> Findings {
    let mut files = vec!["MEMORY.md".to_owned()];
    files.extend(
        channels(dir)
            .iter()
            .map(|channel| format!("{channel}/MEMORY.md")),
    );
    let mut bytes = 0;
    let mut wrong = Vec::new();
    for file in &files {
        match dir.stamp(file) {
            Ok(None) => {}
            Ok(Some(stamp)) if stamp.kind != Kind::File => {
                wrong.push(format!("{file} is not a regular file, it is left out"));
            }
            Ok(Some(stamp)) if stamp.bytes > MEMORY_BYTES_MAX as u64 => wrong.push(format!(
                "{file} has {}, the model sees the first {}",
                text::bytes(stamp.bytes),
                text::bytes(MEMORY_BYTES_MAX as u64)
            )),
            Ok(Some(stamp)) => bytes += stamp.bytes,
            Err(err) => wrong.push(err.to_string()),
        }
    }
    let mend = "tidy it up; it is part of every request";
    warn_each(wrong, mend, &format!("{} in all", text::bytes(bytes)))
}

fn skill_files(dir: &Dir) -> Findings {
    let (mut paths, mut wrong) = (Vec::new(), Vec::new());
    // The workspace's own come with each channel.
    let mut places = channels(dir);
    places.push(agent::TERMINAL.to_owned());
    for channel in &places {
        let (skills, warnings) = skills::load(dir, channel);
        paths.extend(skills.into_iter().map(|skill| skill.path));
        wrong.extend(warnings);
    }
    for list in [&mut paths, &mut wrong] {
        list.sort_unstable();
        list.dedup();
    }
    let mend = "a SKILL.md begins with ---, name:, description:, ---";
    warn_each(wrong, mend, &text::count(paths.len(), "skill"))
}

fn event_files(dir: &Dir) -> Findings {
    let mend = "make events a plain directory";
    match events::check(dir) {
        _ if matches!(dir.stamp("events"), Ok(Some(stamp)) if stamp.kind != Kind::Dir) => {
            fail("events is not a directory", mend)
        }
        Ok(wrong) => {
            let mend = "correct the file, or mom sets it aside";
            warn_each(wrong, mend, "all files in events/ can be used")
        }
        Err(err) => failed(&err, mend),
    }
}

fn sandbox(exam: &mut Exam<'_>) -> Findings {
    let sandbox = match Sandbox::parse(&exam.config.sandbox) {
        Ok(sandbox) => sandbox,
        Err(err) => return failed(&err, "./docker.sh create ./data makes mom-sandbox"),
    };
    let sandbox = exam.sandbox.insert(sandbox);
    let (Some(dir), Some(path)) = (&exam.dir, exam.path) else {
        return Findings::new();
    };
    let checked = std::path::absolute(path)
        .map_err(|err| Error::io("find", path, &err))
        .and_then(|path| agent::check_sandbox(sandbox, dir, &path));
    let isolate = "./docker.sh create DIR, then --sandbox=docker:mom-sandbox";
    match checked {
        Ok(warnings) if warnings.is_empty() => ok(format!(
            "{} runs, its /workspace is this directory",
            exam.config.sandbox
        )),
        Ok(warnings) => warnings
            .iter()
            .flat_map(|warning| told(Grade::Warn, warning, isolate))
            .collect(),
        Err(err) => failed(&err, "mend the data directory first"),
    }
}

fn engine(exam: &mut Exam<'_>) -> Findings {
    match exam.sandbox.as_ref().map(Sandbox::is_rootless) {
        Some(Some(true)) => ok("root in the container is an ordinary user here"),
        Some(Some(false)) => warn(
            "root in the container is root here, should it ever get out",
            "a rootless engine of mom's user: dockerd-rootless-setuptool.sh install, or podman",
        ),
        // The line above says why.
        _ => Findings::new(),
    }
}

fn programs(exam: &mut Exam<'_>) -> Findings {
    let Some(sandbox) = &exam.sandbox else {
        return Findings::new();
    };
    match sandbox.lacking(&["git", "curl"]) {
        Ok(missing) if missing.is_empty() => ok("her tools find them"),
        Ok(missing) => warn(
            format!("not there: {missing}"),
            format!("ask her to install {missing}; much of what she is asked for needs them"),
        ),
        // The line above says why.
        Err(_) => Findings::new(),
    }
}

fn ca_certificates(exam: &mut Exam<'_>) -> Findings {
    match exam.net.check_ca() {
        Ok(()) => ok("found"),
        Err(why) => fail(
            why,
            "install ca-certificates, or name a file in SSL_CERT_FILE",
        ),
    }
}

fn proxy(exam: &mut Exam<'_>) -> Findings {
    match exam.net.check_proxy() {
        Ok(None) => Findings::new(),
        Ok(Some(proxy)) => ok(format!("through {proxy}")),
        Err(why) => told(Grade::Warn, &why, ""),
    }
}

fn key_file(_: &mut Exam<'_>) -> Findings {
    let Some(path) = config::auth_path().filter(|path| path.exists()) else {
        return Findings::new();
    };
    let shown = path.display();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(err) => return warn(format!("{shown}: {err}"), "let mom's user read it"),
    };
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
        Ok(_) if config::is_open(&path) => warn(
            format!("{shown} can be read by others"),
            format!("chmod 600 {shown}"),
        ),
        Ok(_) => ok(format!("{shown} is valid, and mom's user's alone")),
        Err(err) => fail(
            format!("{shown} is not a valid JSON object: {err}"),
            "correct it: {\"anthropic\":{\"type\":\"api_key\",\"key\":\"...\"}}",
        ),
    }
}

fn allow_lists(exam: &mut Exam<'_>) -> Findings {
    if let Some(odd) = slack::odd_lists(exam.config) {
        return told(Grade::Fail, &odd, "");
    }
    match &exam.config.allow_users {
        Some(users) => ok(text::count(users.len(), "user") + " of the workspace"),
        None => warn(
            "everyone in the workspace",
            "--allow-users=U1,U2 names those who may; ids stand in their Slack profiles",
        ),
    }
}

const APP_PAGES: &str = "mom --manifest creates the app; its pages at api.slack.com/apps have both";

fn slack_tokens(exam: &mut Exam<'_>) -> Findings {
    match config::slack_tokens(exam.keys) {
        Ok(_) => ok("both are there, each in its place"),
        Err(err) => failed(&err, APP_PAGES),
    }
}

/// Asks Slack; `None` without tokens that look right.
fn ask_slack<T>(exam: &Exam<'_>, ask: impl FnOnce(&Web) -> Result<T>) -> Option<Result<T>> {
    let (app, bot) = config::slack_tokens(exam.keys).ok()?;
    let url = &exam.config.slack_api_url;
    Some(in_time(|stop| {
        ask(&Web::new(url, app, bot, &exam.net, stop))
    }))
}

fn slack(exam: &mut Exam<'_>) -> Findings {
    match ask_slack(exam, Web::auth_test) {
        None => Findings::new(),
        Some(Err(err)) => failed(&err, NETWORK),
        Some(Ok(identity)) => {
            note_skew(exam, identity.date_ms, "Slack");
            let Identity { user, team, .. } = exam.identity.insert(identity);
            ok(format!("I am {user} in the workspace {team}"))
        }
    }
}

fn scopes(exam: &mut Exam<'_>) -> Findings {
    let Some(Identity { scopes, .. }) = &exam.identity else {
        return Findings::new();
    };
    let mut missing = manifest::scopes();
    missing.retain(|scope| !scopes.contains(scope));
    match missing.is_empty() {
        true => ok("all that the manifest asks for"),
        false if scopes.is_empty() => warn("Slack does not tell them", "see OAuth & Permissions"),
        false => fail(
            format!("missing: {}", missing.join(", ")),
            "add them under OAuth & Permissions in the app's settings, then reinstall the app",
        ),
    }
}

fn socket_mode(exam: &mut Exam<'_>) -> Findings {
    match ask_slack(exam, Web::apps_connections_open) {
        None => Findings::new(),
        // The address is a ticket that lapses unused.
        Some(Ok(_)) => ok("on (asked for a socket, opened none)"),
        Some(Err(err)) => failed(&err, NETWORK),
    }
}

fn model(exam: &mut Exam<'_>) -> Findings {
    let spec = &exam.config.model;
    let sources = llm::Sources {
        variable: &config::variable,
        key: &|provider, variables| exam.keys.provider(provider, variables),
        net: &exam.net,
    };
    match in_time(|stop| llm::check(spec, &sources, stop)) {
        Err(err @ Error::Usage(_)) => failed(&err, "--model=PROVIDER/ID or MOM_MODEL"),
        Err(err) => failed(&err, NETWORK),
        Ok((model, date_ms)) => {
            note_skew(exam, date_ms, model.provider);
            let free = matches!(model.provider, "offline" | "ollama" | "llamacpp");
            let cost = match model.price.is_some() || free {
                true => "",
                false => ", prices unknown: costs are left out",
            };
            ok(format!("{}/{} answers{cost}", model.provider, model.id))
        }
    }
}

fn note_skew(exam: &mut Exam<'_>, date_ms: Option<i64>, whose: &'static str) {
    if let (Some(date_ms), None) = (date_ms, exam.skew) {
        exam.skew = Some((date_ms.saturating_sub(time::now_ms()), whose));
    }
}

fn clock(exam: &mut Exam<'_>) -> Findings {
    let Some((skew_ms, whose)) = exam.skew else {
        return Findings::new();
    };
    if skew_ms.unsigned_abs() <= SKEW_MAX_MS {
        return ok(format!("agrees with that of {whose}"));
    }
    let off = text::duration(Duration::from_millis(skew_ms.unsigned_abs()));
    let way = if skew_ms > 0 { "behind" } else { "ahead" };
    warn(
        format!("{off} {way} of that of {whose}"),
        "set it: timedatectl set-ntp true, or ntpd -q",
    )
}

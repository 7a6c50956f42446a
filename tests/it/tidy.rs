//! Rules about the source that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::docker::{root, text};

/// Path in the repository and text of each Rust file in `src` and `tests`.
fn sources() -> Vec<(String, String)> {
    let mut todo: Vec<PathBuf> = vec![root().join("src"), root().join("tests")];
    let mut found = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(found.len() > 50, "{}", found.len());
    found
}

/// The source without unit tests and comments.
fn code(source: &str) -> String {
    let tests = source.match_indices("#[cfg(test)]\n").find(|(at, mark)| {
        let next = source[at + mark.len()..].lines().next();
        next.is_some_and(|line| line.contains("mod "))
    });
    let end = tests.map_or(source.len(), |(at, _)| at);
    let lines = source[..end].lines();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    lines
        .filter(is_code)
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

/// The modules of this crate that a file names: `crate::a`, `crate::{a, b::c}`.
fn imports(code: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest
            .strip_prefix('{')
            .and_then(|list| list.split_once("};"))
        {
            Some((list, _)) => found.extend(words(list)),
            None => found.extend(words(rest).next()),
        }
    }
    found
}

#[test]
fn imports_go_down_the_codemap() {
    let main = fs::read_to_string(root().join("src/main.rs")).unwrap();
    let map = main.split_once("The codemap").unwrap().1;
    let map = map.split_once("Absent on purpose").unwrap().0;
    let rows = map.split("//! - ").skip(1);
    let rank: BTreeMap<&str, usize> = rows
        .enumerate()
        .flat_map(|(row, text)| quoted(text).map(move |name| (name.trim_end_matches('/'), row)))
        .collect();
    let modules: BTreeSet<&str> = main
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    let mapped: BTreeSet<&str> = rank.keys().copied().collect();
    assert_eq!(modules, mapped, "modules and codemap");
    let mut seen = 0;
    for (name, source) in sources() {
        let Some(path) = name.strip_prefix("src/").filter(|path| *path != "main.rs") else {
            continue;
        };
        let module = path.split(['/', '.']).next().unwrap();
        for import in imports(&code(&source)) {
            if let Some(row) = rank.get(import) {
                assert!(*row >= rank[module], "{name} imports {import} from above");
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

/// Names in the codemap: one right behind a file is defined there, every other one somewhere.
#[test]
fn the_codemap_names_what_there_is() {
    let main = read("src/main.rs");
    let lines = main.lines().map_while(|line| line.strip_prefix("//!"));
    let doc = lines.collect::<Vec<_>>().join(" ");
    let walks = doc.split_once("One mention").unwrap().1;
    let parts: Vec<&str> = walks.split('`').collect();
    let all: Vec<(String, String)> = sources();
    let mut seen = 0;
    for pair in parts.chunks_exact(2) {
        let (before, name) = (pair[0].trim_end(), pair[1]);
        let word = before.split([' ', '(']).next_back().unwrap();
        let file = word.strip_suffix(".rs").map(|_| format!("src/{word}"));
        let name = name.rsplit("::").next().unwrap();
        let is_there = all.iter().any(|(path, source)| {
            let here = file
                .as_ref()
                .map_or(path.starts_with("src/"), |file| file == path);
            here && path != "src/main.rs" && has_word(source, name)
        });
        let in_main =
            file.as_deref() == Some("src/main.rs") && main.contains(&format!("fn {name}("));
        assert!(
            is_there || in_main || name.contains(' '),
            "{file:?} `{name}`"
        );
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
}

fn has_word(source: &str, name: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    source.match_indices(name).any(|(at, _)| {
        let (before, after) = (&source[..at], &source[at + name.len()..]);
        !before.ends_with(is_name) && !after.starts_with(is_name)
    })
}

/// Files outside the data directory, each with its owner and why `dir` does not open it.
const OPENERS: &[(&str, &str)] = &[
    (
        "src/config.rs",
        "keys, in the home directory or from systemd",
    ),
    ("src/store/dir.rs", "the data directory"),
    ("src/store/lock.rs", "who holds a lock, in /proc"),
    ("src/net/tls.rs", "CA certificates"),
    ("src/mutate.rs", "for a fuzzer, in tests"),
];

/// Whether `code` has this call; `ContextFile::open(` does not count as `File::open(`.
fn calls(code: &str, call: &str) -> bool {
    let mut found = code.match_indices(call);
    found.any(|(at, _)| call.starts_with('.') || !code[..at].ends_with(char::is_alphanumeric))
}

#[test]
fn only_dir_opens_files_of_the_data_directory() {
    #[rustfmt::skip]
    const OPENS: &[&str] = &[
        "fs::read(", "fs::read_to_string(", "fs::read_dir(", "fs::write(", "fs::metadata(", "fs::symlink_metadata(",
        "fs::create_dir", "fs::remove_", "fs::rename(", "fs::copy(", "fs::open", "File::open(", "File::create", "File::options(",
        "OpenOptions::new(", ".exists()", ".is_file()", ".is_dir()", ".canonicalize()",
    ];
    let openers: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| name.starts_with("src/") && !name.ends_with("/tests.rs"))
        .filter(|(_, source)| OPENS.iter().any(|call| calls(&code(source), call)))
        .map(|(name, _)| name)
        .collect();
    let openers: BTreeSet<&str> = openers.iter().map(String::as_str).collect();
    let known: BTreeSet<&str> = OPENERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(openers, known);
}

#[test]
fn nothing_sleeps_and_no_test_is_ignored() {
    // Each in two pieces, so that this file does not contain them.
    let banned = [
        ["thread::", "sleep"].concat(),
        ["#[", "ignore"].concat(),
        ["#[", "allow("].concat(),
    ];
    for (name, source) in sources() {
        for word in &banned {
            // The benchmark measures what happens in a time, so it may sleep.
            if name.ends_with("bench.rs") && word.ends_with("sleep") {
                continue;
            }
            assert!(!source.contains(word.as_str()), "{name}: {word}");
        }
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn man_page_names_the_scopes_of_the_manifest() {
    let manifest: Value = serde_json::from_str(&read("src/slack/manifest.json")).unwrap();
    let scopes = manifest.pointer("/oauth_config/scopes/bot").unwrap();
    let scopes = scopes.as_array().unwrap().iter();
    let scopes: BTreeSet<&str> = scopes.filter_map(Value::as_str).collect();
    let man = read("src/install/mom.1");
    let is_scope = |word: &&str| {
        let end = word.split_once(':').map(|(_, end)| end);
        matches!(end, Some("read" | "write" | "history"))
    };
    let words = man.split(|c: char| c.is_whitespace() || ",.".contains(c));
    let named: BTreeSet<&str> = words.filter(is_scope).collect();
    assert_eq!(named, scopes);
}

/// The long options in a text.
fn options(text: &str) -> BTreeSet<&str> {
    let is_option = |c: char| c.is_ascii_lowercase() || c == '-';
    text.split("--")
        .skip(1)
        .filter_map(|rest| rest.split(|c| !is_option(c)).next())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn help_knows_every_option_and_the_readme_no_other() {
    let cli = read("src/cli.rs");
    let table = cli.split_once("const OPTIONS").unwrap().1;
    let known: BTreeSet<&str> = table
        .lines()
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("(\"")?.split('"').next())
        .collect();
    assert!(known.len() >= 12, "{known:?}");
    let help = Command::new(env!("CARGO_BIN_EXE_mom"))
        .arg("--help")
        .output();
    assert_eq!(options(&text(&help.unwrap().stdout)), known, "--help");
    let readme = read("README.md");
    let is_ours = |line: &&str| line.contains("mom --") || line.contains("`--");
    for line in readme.lines().filter(is_ours) {
        let line = line.split('#').next().unwrap();
        assert!(options(line).is_subset(&known), "README: {line}");
    }
}

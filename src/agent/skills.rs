//! Skills: finds SKILL.md files below skills/ and reads their front matter.
//!
//! The agent (or who talks to it) writes these files, so everything is bounded: depth,
//! number of entries, bytes of front matter. Of YAML only what front matter is written in
//! is understood (plain, quoted, folded and literal scalars at the top level); anchors are
//! text, so nothing expands.

use std::collections::{HashSet, VecDeque};

use crate::base::text::{cut, one_line};
use crate::store::dir::{Dir, Kind};

/// Directories below skills/ that are looked into.
const DEPTH_MAX: usize = 12;
/// Directory entries of one skills/ that are looked at.
const ENTRIES_MAX: usize = 5_000;
/// Skills of one skills/ directory.
const SKILLS_MAX: usize = 500;
/// The front matter must end within these.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// agentskills.io: characters.
const DESCRIPTION_CHARS_MAX: usize = 1024;
const NAME_CHARS_MAX: usize = 64;
const IGNORE_FILES: [&str; 3] = [".gitignore", ".ignore", ".fdignore"];
const IGNORE_BYTES_MAX: usize = 32 * 1024;
/// Of all ignore files below one skills/.
const PATTERNS_MAX: usize = 500;
/// How much is compared for them, in characters of pattern times characters of path: some
/// tenths of a second on a Raspberry Pi.
const PATTERN_WORK_MAX: usize = 20_000_000;

/// A skill that can be used: it has a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skill {
    pub(crate) name: String,
    pub(crate) description: String,
    /// Of its file, below the data directory: `skills/mail/SKILL.md`.
    pub(crate) path: String,
    /// Named in the prompt; false for `disable-model-invocation: true`.
    pub(crate) listed: bool,
}

/// The skills of the workspace and of the channel, sorted by name; of two with one name the
/// channel's. With a sentence for every file that was left out or is odd: these come again
/// with each call, the caller tells them once.
pub(crate) fn load(dir: &Dir, channel: &str) -> (Vec<Skill>, Vec<String>) {
    let mut scan = Scan {
        dir,
        skills: Vec::new(),
        ignored: Vec::new(),
        work_left: PATTERN_WORK_MAX,
        warnings: Vec::new(),
    };
    // Of two with one name the first that is found stays.
    for root in [format!("{channel}/skills"), "skills".to_owned()] {
        scan.root(&root);
    }
    (scan.skills, scan.warnings)
}

struct Scan<'a> {
    dir: &'a Dir,
    /// Sorted by name.
    skills: Vec<Skill>,
    ignored: Vec<Pattern>,
    work_left: usize,
    warnings: Vec<String>,
}

impl Scan<'_> {
    /// Breadth first: of two skills with one name the one less deep counts, and a link that
    /// leads back up finds nothing new.
    fn root(&mut self, root: &str) {
        let mut entries_left = ENTRIES_MAX;
        let skills_max = self.skills.len() + SKILLS_MAX;
        let mut seen = HashSet::new();
        let mut todo = VecDeque::from([(root.to_owned(), 0)]);
        while let Some((path, depth)) = todo.pop_front() {
            let entries = match self.dir.list(&path, entries_left) {
                Ok(Some(entries)) => entries,
                Ok(None) => continue,
                Err(err) => {
                    self.warnings.push(format!("skills: {err}"));
                    continue;
                }
            };
            entries_left -= entries.len().min(entries_left);
            if let Ok(Some(stamp)) = self.dir.stamp(&path) {
                // The same directory again, by way of a link.
                if !seen.insert((stamp.device, stamp.inode)) {
                    continue;
                }
            }
            self.read_ignore_files(&path);
            let below = |name: &str| format!("{path}/{name}");
            let skill_md = entries.iter().find(|entry| entry.name == "SKILL.md");
            if let Some(entry) = skill_md.filter(|entry| entry.kind == Kind::File) {
                let file = below(&entry.name);
                if !self.is_ignored(&file, Kind::File) {
                    self.file(&file);
                    continue;
                }
            }
            for entry in entries {
                let file = below(&entry.name);
                if entry.name.starts_with('.')
                    || entry.name == "node_modules"
                    || self.is_ignored(&file, entry.kind)
                {
                    continue;
                }
                match entry.kind {
                    Kind::Dir if depth < DEPTH_MAX => todo.push_back((file, depth + 1)),
                    Kind::File if depth == 0 && entry.name.ends_with(".md") => self.file(&file),
                    _ => {}
                }
            }
            if entries_left == 0 || self.skills.len() >= skills_max {
                self.warnings.push(format!(
                    "{root}: more than {SKILLS_MAX} skills or {ENTRIES_MAX} entries, the rest is left out"
                ));
                return;
            }
        }
    }

    fn file(&mut self, path: &str) {
        let skill = match self.dir.read_head(path, HEAD_BYTES_MAX) {
            Ok(None) => return,
            Ok(Some(bytes)) => parse(path, &String::from_utf8_lossy(&bytes), &mut self.warnings),
            Err(err) => Err(err.to_string()),
        };
        match skill {
            Ok(skill) => {
                let by_name = |known: &Skill| known.name.cmp(&skill.name);
                if let Err(at) = self.skills.binary_search_by(by_name) {
                    self.skills.insert(at, skill);
                }
            }
            Err(why) => {
                let text = format!("{path}: not used as a skill: {why}");
                self.warnings.push(text);
            }
        }
    }

    fn read_ignore_files(&mut self, path: &str) {
        for name in IGNORE_FILES {
            let read = self
                .dir
                .read_head(&format!("{path}/{name}"), IGNORE_BYTES_MAX);
            // One that can't be read ignores nothing.
            let bytes = read.ok().flatten().unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let patterns = text.lines().filter_map(|line| Pattern::parse(path, line));
            let room = PATTERNS_MAX - self.ignored.len();
            self.ignored.extend(patterns.take(room));
        }
    }

    /// The last pattern that matches decides.
    fn is_ignored(&mut self, path: &str, kind: Kind) -> bool {
        for pattern in self.ignored.iter().rev() {
            let work = path.len() * pattern.parts.iter().map(String::len).sum::<usize>();
            if work > self.work_left {
                break;
            }
            self.work_left -= work;
            if pattern.matches(path, kind) {
                return !pattern.negated;
            }
        }
        false
    }
}

/// A line of a .gitignore.
struct Pattern {
    /// Directory of the file it stands in, with a slash at its end.
    base: String,
    /// Between slashes; a leading `**` when it may match at any depth.
    parts: Vec<String>,
    negated: bool,
    dirs_only: bool,
}

impl Pattern {
    /// `dir` has the file.
    fn parse(dir: &str, line: &str) -> Option<Pattern> {
        let whole = line.trim_end();
        let line = whole.strip_prefix('!').unwrap_or(whole);
        let name = line.strip_suffix('/').unwrap_or(line);
        let parts = name.split('/').filter(|part| !part.is_empty());
        let mut parts: Vec<String> = parts.map(str::to_owned).collect();
        if parts.is_empty() || whole.starts_with('#') {
            return None;
        }
        if !name.contains('/') {
            parts.insert(0, "**".to_owned());
        }
        Some(Pattern {
            base: format!("{dir}/"),
            parts,
            negated: whole.starts_with('!'),
            dirs_only: line.ends_with('/'),
        })
    }

    fn matches(&self, path: &str, kind: Kind) -> bool {
        let Some(rest) = path.strip_prefix(&self.base) else {
            return false;
        };
        if self.dirs_only && kind != Kind::Dir {
            return false;
        }
        let names: Vec<&str> = rest.split('/').collect();
        let is_name = |part: &String, name: &&str| {
            let (part, name): (Vec<_>, Vec<_>) = (part.chars().collect(), name.chars().collect());
            wild(
                &part,
                &name,
                |c| *c == '*',
                |c, with| *c == '?' || c == with,
            )
        };
        wild(&self.parts, &names, |part| part == "**", is_name)
    }
}

/// Does `text` match `pattern`, of which some items stand for any run of items? Going back
/// only to the last such item keeps it at length times length.
fn wild<P, T>(
    pattern: &[P],
    text: &[T],
    any: impl Fn(&P) -> bool,
    one: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(item) if any(item) => {
                back = Some((p, t));
                p += 1;
            }
            Some(item) if one(item, &text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(any)
}

fn parse(path: &str, text: &str, warnings: &mut Vec<String>) -> Result<Skill, String> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let text = text.trim_start_matches('\u{feff}');
    let rest = text
        .strip_prefix("---")
        .ok_or("it does not start with a line of ---")?;
    let (head, _) = rest
        .split_once("\n---")
        .ok_or("its front matter has no end")?;
    let head = front_matter(head)?;
    let find = |key: &str| {
        let entry = head.iter().rfind(|(known, _)| known == key);
        entry.map(|(_, value)| value)
    };
    let get = |key: &str| {
        let text = find(key)?.text.trim();
        (!text.is_empty()).then_some(text)
    };

    let description = get("description").ok_or("it has no description")?;
    let parent = path.rsplit('/').nth(1).unwrap_or_default();
    let name = one_line(get("name").unwrap_or(parent), NAME_CHARS_MAX);
    let mut warn = |why: &str| warnings.push(format!("{path}: skill {name}: {why}"));
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !name.bytes().all(is_plain)
        || name.starts_with('-')
        || name.ends_with('-')
        || name.contains("--")
    {
        warn("its name should be made of a-z, 0-9 and single - between them");
    } else if name != parent && parent != "skills" {
        warn("its name should be that of its directory");
    }
    if description.chars().count() > DESCRIPTION_CHARS_MAX {
        warn("its description is cut to 1024 characters");
    }
    Ok(Skill {
        description: cut(description, DESCRIPTION_CHARS_MAX).into_owned(),
        path: path.to_owned(),
        listed: !find("disable-model-invocation").is_some_and(|value| {
            !value.quoted && matches!(value.text.as_str(), "true" | "True" | "TRUE")
        }),
        name,
    })
}

#[derive(Debug, Default, PartialEq)]
struct Scalar {
    text: String,
    quoted: bool,
}

/// The keys of the top level; what is nested below one is left out, or becomes its text.
fn front_matter(text: &str) -> Result<Vec<(String, Scalar)>, String> {
    let mut out = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    // What follows the opening --- on its line.
    if !lines.next().is_none_or(|(_, line)| line.trim().is_empty()) {
        return Err("its first line is more than ---".to_owned());
    }
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || format!("line {}: not like `key: value`", number + 1);
        let (key, value) = match line.split_once(": ") {
            Some((key, value)) => (key, value.trim()),
            None => (line.trim_end().strip_suffix(':').ok_or_else(bad)?, ""),
        };
        let key = key.trim_end().trim_matches(['"', '\'']);
        if key.is_empty() || key.starts_with([' ', '\t', '-', '[', '{']) {
            return Err(bad());
        }
        let mut below = Vec::new();
        let is_below = |line: &str| line.starts_with(' ') || line.trim().is_empty();
        while let Some((_, line)) = lines.next_if(|(_, line)| is_below(line)) {
            below.push(line);
        }
        let scalar = scalar(value, &below).map_err(|why| format!("line {}: {why}", number + 1))?;
        out.push((key.to_owned(), scalar));
    }
    Ok(out)
}

/// `value` stands behind the key, `below` are the indented and empty lines that follow.
fn scalar(value: &str, below: &[&str]) -> Result<Scalar, String> {
    let first = value.chars().next();
    if let Some(style @ ('|' | '>')) = first {
        // Indicators for indentation and last line breaks, then perhaps a comment.
        let marks = value[1..].split(" #").next().unwrap_or_default().trim();
        if marks.chars().all(|c| matches!(c, '+' | '-' | '1'..='9')) {
            let indent = below.iter().find(|line| !line.trim().is_empty());
            let indent = indent.map_or(0, |line| line.len() - line.trim_start_matches(' ').len());
            let lines = below.iter().map(|line| line.get(indent..).unwrap_or(""));
            let lines: Vec<&str> = lines.collect();
            let text = if style == '|' {
                lines.join("\n")
            } else {
                fold(&lines)
            };
            return Ok(Scalar {
                text: text.trim_end().to_owned(),
                quoted: true,
            });
        }
    }
    let lines = [value]
        .into_iter()
        .chain(below.iter().map(|line| line.trim()));
    if let Some(quote @ ('"' | '\'')) = first {
        let folded = fold(&lines.collect::<Vec<_>>());
        let text = unquote(&folded[1..], quote).ok_or("the quote is not closed")?;
        return Ok(Scalar { text, quoted: true });
    }
    let is_item = |line: &&str| line.trim_start().starts_with("- ") || line.contains(": ");
    if matches!(first, Some('[' | '{')) || first.is_none() && below.iter().any(is_item) {
        // A list or a map: no text.
        return Ok(Scalar::default());
    }
    let plain = lines.map(|line| match line.starts_with('#') {
        true => "",
        false => line.split(" #").next().unwrap_or("").trim_end(),
    });
    let text = fold(&plain.collect::<Vec<_>>());
    let text = match text.trim() {
        "~" | "null" => "",
        text => text,
    };
    Ok(Scalar {
        text: text.to_owned(),
        quoted: false,
    })
}

/// Lines become one with spaces between them; empty lines stay line breaks.
fn fold(lines: &[&str]) -> String {
    let mut out = String::new();
    for line in lines {
        if line.trim().is_empty() {
            out.push('\n');
            continue;
        }
        if !out.is_empty() && !out.ends_with('\n') {
            out.push(' ');
        }
        out.push_str(line);
    }
    out
}

/// Up to the closing quote; `None` when there is none.
fn unquote(text: &str, quote: char) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == quote {
            // '' is a quote within single ones.
            if quote == '"' || chars.next_if_eq(&'\'').is_none() {
                return Some(out);
            }
        } else if c == '\\' && quote == '"' {
            match chars.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'u' => {
                    let hex: String = chars.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&hex, 16).ok()?;
                    out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                }
                other => out.push(other),
            }
            continue;
        }
        if c != quote || quote == '\'' {
            out.push(c);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;
    use crate::store::tests::Scratch;

    fn one(text: &str) -> Result<(String, String, bool), String> {
        let skill = parse("skills/mail/SKILL.md", text, &mut Vec::new())?;
        Ok((skill.name, skill.description, skill.listed))
    }

    #[test]
    fn front_matter_forms() {
        for (text, name, description) in [
            (
                "---\ndescription: reads mail\n---\nbody",
                "mail",
                "reads mail",
            ),
            (
                "---\r\nname: post\r\ndescription: reads mail # really\r\n---\r\n",
                "post",
                "reads mail",
            ),
            (
                "\u{feff}---\ndescription: use it: now\n--- # end\n",
                "mail",
                "use it: now",
            ),
            (
                "---\ndescription: \"a \\\"b\\\" \\u00e9\\n: c\" # x\n---",
                "mail",
                "a \"b\" é\n: c",
            ),
            ("---\ndescription: 'it''s'\n---\n", "mail", "it's"),
            (
                "---\ndescription: >-\n  one\n  two\n\n  three\nname: x\n---\n",
                "x",
                "one two\nthree",
            ),
            (
                "---\ndescription: |2 # c\n  one\n   two\n\n---\n",
                "mail",
                "one\n two",
            ),
            (
                "---\ndescription: one\n  two\n# comment\nmetadata:\n  a: 1\nallowed-tools: [x]\n---\n",
                "mail",
                "one two",
            ),
            (
                "---\ndescription:\n  below\nname: ~\n---\n",
                "mail",
                "below",
            ),
            ("---\n\"description\": x\nname: *a\n---\n", "*a", "x"),
        ] {
            let want = Ok((name.to_owned(), description.to_owned(), true));
            assert_eq!(one(text), want, "{text}");
        }
        for (text, want) in [
            ("", "does not start"),
            ("# no front matter", "does not start"),
            ("---\ndescription: x\n", "no end"),
            ("---\nname: x\n---\n", "no description"),
            ("---\ndescription: ''\n---\n", "no description"),
            ("---\ndescription: [a, b]\n---\n", "no description"),
            ("---\ndescription:\n  - a\n---\n", "no description"),
            ("---\ndescription: \"x\n---\n", "not closed"),
            ("---\n- a\n---\n", "line 2"),
            ("---\nnonsense\n---\n", "line 2"),
            ("---x\ndescription: x\n---\n", "first line"),
        ] {
            let got = one(text).unwrap_err();
            assert!(got.contains(want), "{text}: {got}");
        }
        for (value, listed) in [
            ("true", false),
            ("false", true),
            ("\"true\"", true),
            ("yes", true),
        ] {
            let text = format!("---\ndescription: x\ndisable-model-invocation: {value}\n---\n");
            assert_eq!(one(&text).unwrap().2, listed, "{value}");
        }
        let long = format!(
            "---\ndescription: {}\nname: {}\n---\n",
            "é".repeat(5_000),
            "n".repeat(5_000)
        );
        let (name, description, _) = one(&long).unwrap();
        assert_eq!(
            (
                name.chars().count() <= 65,
                description.chars().count() <= 1025
            ),
            (true, true)
        );
    }

    #[test]
    fn ignore_patterns() {
        for (dir, line, path, ignored) in [
            ("skills", "old", "skills/old", true),
            ("skills", "old", "skills/a/old", true),
            ("skills", "/old", "skills/a/old", false),
            ("skills", "a/old", "skills/a/old", true),
            ("skills", "old/", "skills/old", true),
            ("skills", "*.md", "skills/x.md", true),
            ("skills", "a*b?d", "skills/axxbcd", true),
            ("skills", "a/**/z", "skills/a/b/c/z", true),
            ("skills", "a/**/z", "skills/a/z", true),
            ("skills/b", "old", "skills/b/c/old", true),
            ("skills/b", "old", "skills/old", false),
            ("skills", "# old", "skills/old", false),
            ("skills", "  ", "skills/old", false),
        ] {
            let pattern = Pattern::parse(dir, line);
            assert_eq!(
                pattern.is_some_and(|p| p.matches(path, Kind::Dir)),
                ignored,
                "{line} {path}"
            );
        }
        let stars = Pattern::parse("s", &"*a".repeat(2_000)).unwrap();
        assert!(!stars.matches(&format!("s/{}", "a".repeat(1_999)), Kind::File));
    }

    #[test]
    fn scans() {
        let root = std::env::temp_dir().join(format!("mom-skills-{}", std::process::id()));
        std::fs::remove_dir_all(&root).ok();
        let skill = |name: &str| format!("---\nname: {name}\ndescription: d\n---\n");
        for (path, text) in [
            ("skills/b/SKILL.md", skill("b")),
            ("skills/b/deeper/SKILL.md", skill("unseen")),
            ("skills/group/a/SKILL.md", skill("a")),
            ("skills/group/notes.md", skill("unseen")),
            ("skills/top.md", skill("top")),
            ("skills/both/SKILL.md", skill("both")),
            ("skills/.hidden/SKILL.md", skill("unseen")),
            ("skills/node_modules/x/SKILL.md", skill("unseen")),
            ("skills/old/SKILL.md", skill("unseen")),
            ("skills/group/.ignore", "tmp*\n!tmp-kept\n".to_owned()),
            ("skills/group/tmp-1/SKILL.md", skill("unseen")),
            ("skills/group/tmp-kept/SKILL.md", skill("tmp-kept")),
            ("skills/.gitignore", "/old/\n".to_owned()),
            ("skills/broken/SKILL.md", "no".to_owned()),
            ("C1/skills/both/SKILL.md", skill("both")),
            ("outside/SKILL.md", skill("linked")),
        ] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink("../..", root.join("skills/group/loop")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("skills/leak")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("skills/nowhere")).unwrap();
        let dir = Dir::open(&root).unwrap();
        let (skills, warnings) = load(&dir, "C1");
        let got: Vec<&str> = skills.iter().map(|skill| skill.path.as_str()).collect();
        assert_eq!(
            got,
            [
                "skills/group/a/SKILL.md",
                "skills/b/SKILL.md",
                "C1/skills/both/SKILL.md",
                // By way of the link that leads up: once, and no further.
                "skills/group/loop/outside/SKILL.md",
                "skills/group/tmp-kept/SKILL.md",
                "skills/top.md",
            ]
        );
        let broken: Vec<&String> = warnings
            .iter()
            .filter(|text| text.contains("not used"))
            .collect();
        assert!(
            broken.len() == 1 && broken[0].contains("skills/broken/SKILL.md"),
            "{warnings:?}"
        );
        assert_eq!(load(&dir, "C1"), (skills, warnings));
        assert_eq!(
            load(&Dir::open(&root.join("outside")).unwrap(), "C1"),
            (vec![], vec![])
        );
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn ignore_files_are_bounded() {
        let scratch = Scratch::new("skills-ignored");
        let dir = Dir::open(&scratch.0).unwrap();
        for name in ["skills/.ignore", "skills/.gitignore", "skills/a/.ignore"] {
            scratch.write(name, &"a\n".repeat(400));
        }
        let mut scan = Scan {
            dir: &dir,
            skills: Vec::new(),
            ignored: Vec::new(),
            work_left: PATTERN_WORK_MAX,
            warnings: Vec::new(),
        };
        scan.root("skills");
        assert_eq!(scan.ignored.len(), PATTERNS_MAX);
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "---\nname: mail\ndescription: >-\n  one\n  two\n\n  three\n---\nbody",
            "---\r\ndescription: \"a \\\"b\\\" \\u00e9\\n: c\" # x\r\n---",
            "\u{feff}---\ndescription: 'it''s'\ndisable-model-invocation: true\n---\n",
            "---\ndescription: |2+ # c\n    x\n   y\nmetadata:\n  - a: b\n---\n",
            "*.md\n!/a/**/b?\n**/node_modules/\n# c\n",
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            let mut warnings = Vec::new();
            if let Ok(skill) = parse("skills/mail/SKILL.md", &text, &mut warnings) {
                let length = skill.description.chars().count();
                assert!((1..=DESCRIPTION_CHARS_MAX).contains(&length));
                assert!(skill.name.chars().count() <= NAME_CHARS_MAX);
                assert!(!skill.name.contains(char::is_control));
            }
            assert!(warnings.iter().all(|why| why.len() < 600));
            for line in text.lines() {
                if let Some(pattern) = Pattern::parse("skills/a", line) {
                    pattern.matches("skills/a/node_modules/aab.md", Kind::File);
                }
            }
        });
    }
}

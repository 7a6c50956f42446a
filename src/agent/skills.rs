//! Skills: finds SKILL.md files below skills/ and reads their front matter.
//!
//! The agent, or whoever talks to it, writes these files, so everything is bounded: depth,
//! number of entries, bytes of front matter. Three keys of the front matter count. In YAML a
//! value's further lines are indented, so that the line of a key is found without reading the
//! values of the others, whatever they are.

use std::collections::{HashSet, VecDeque};

use crate::base::text::{self, cut, one_line};
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
/// channel's. With a sentence for everything that was left out: the prompt tells them.
pub(crate) fn load(dir: &Dir, channel: &str) -> (Vec<Skill>, Vec<String>) {
    let mut search = SkillSearch {
        dir,
        skills: Vec::new(),
        warnings: Vec::new(),
    };
    // Of two with one name the first that is found stays.
    for root in [format!("{channel}/skills"), "skills".to_owned()] {
        search.below(&root);
    }
    (search.skills, search.warnings)
}

struct SkillSearch<'a> {
    dir: &'a Dir,
    /// Sorted by name.
    skills: Vec<Skill>,
    warnings: Vec<String>,
}

impl SkillSearch<'_> {
    /// Breadth first: of two skills with one name the one less deep counts, and a link that
    /// leads back up finds nothing new.
    fn below(&mut self, root: &str) {
        let mut entries_left = ENTRIES_MAX;
        let skills_max = self.skills.len() + SKILLS_MAX;
        let mut seen = HashSet::new();
        let mut todo = VecDeque::from([(root.to_owned(), 0)]);
        while let Some((path, depth)) = todo.pop_front() {
            let entries = match self.dir.list(&path, entries_left) {
                Ok(entries) => entries.unwrap_or_default(),
                Err(err) => {
                    self.warnings.push(err.to_string());
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
            let is_skill = |name: &str| name == "SKILL.md";
            let has_skill = entries.iter().any(|entry| is_skill(&entry.name));
            for entry in entries {
                let file = format!("{path}/{}", entry.name);
                let in_root = depth == 0 && entry.name.ends_with(".md");
                if has_skill {
                    // All else in its directory belongs to the skill.
                    if is_skill(&entry.name) {
                        self.file(&file);
                    }
                } else if entry.name.starts_with('.') || entry.name == "node_modules" {
                    continue;
                } else if entry.kind == Kind::Dir && depth < DEPTH_MAX {
                    todo.push_back((file, depth + 1));
                } else if entry.kind == Kind::File && in_root {
                    self.file(&file);
                } else if entry.kind == Kind::Other {
                    let why = "it leads nowhere, or out of the data directory";
                    self.warnings.push(format!("{file}: left out: {why}"));
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
            Ok(Some(bytes)) => parse(path, &text::decode(&bytes).0),
            Err(err) => Err(err.to_string()),
        };
        match skill {
            Ok(skill) => {
                let by_name = |known: &Skill| known.name.cmp(&skill.name);
                if let Err(at) = self.skills.binary_search_by(by_name) {
                    self.skills.insert(at, skill);
                }
            }
            Err(why) => self
                .warnings
                .push(format!("{path}: not used as a skill: {why}")),
        }
    }
}

fn parse(path: &str, text: &str) -> Result<Skill, String> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let rest = text.strip_prefix("---");
    let rest = rest.filter(|rest| rest.starts_with(char::is_whitespace));
    let rest = rest.ok_or("it does not start with a line of ---")?;
    let head = rest.split_once("\n---").map(|(head, _)| head);
    let head = head.ok_or("its front matter does not end with a line of ---")?;
    let description = match field(head, "description") {
        YamlValue::Plain(text) | YamlValue::Quoted(text) => text,
        YamlValue::None => return Err("it has no description".to_owned()),
        YamlValue::NotText => {
            return Err("its description is no text; write it in one line".to_owned());
        }
    };
    let name = match field(head, "name") {
        YamlValue::Plain(name) | YamlValue::Quoted(name) => name,
        // That of its directory.
        _ => path.rsplit('/').nth(1).unwrap_or_default().to_owned(),
    };
    let flag = field(head, "disable-model-invocation");
    Ok(Skill {
        name: one_line(&name, NAME_CHARS_MAX),
        description: cut(&description, DESCRIPTION_CHARS_MAX).into_owned(),
        path: path.to_owned(),
        listed: !matches!(flag, YamlValue::Plain(text) if text.eq_ignore_ascii_case("true")),
    })
}

/// Texts are trimmed and not empty.
#[derive(Debug, PartialEq)]
enum YamlValue {
    None,
    Plain(String),
    /// In quotes, or a block of lines: never a flag.
    Quoted(String),
    /// A list, a map, an alias, or a quote that is not closed.
    NotText,
}

/// What a key of the top level holds; the last one of its name counts.
fn field(head: &str, key: &str) -> YamlValue {
    let lines: Vec<&str> = head.lines().collect();
    let is_empty = |line: &str| before_comment(line).trim().is_empty();
    let top = lines.iter().find(|line| !is_empty(line));
    let top = top.map_or(0, |line| indent(line));
    let value = |line: &str| {
        let (known, value) = split_key(line)?;
        (indent(line) == top && known == key).then(|| value.to_owned())
    };
    let found = lines.iter().enumerate().rev();
    let Some((at, value)) = found
        .into_iter()
        .find_map(|(at, line)| Some((at, value(line)?)))
    else {
        return YamlValue::None;
    };
    let below = lines[at + 1..].iter().copied();
    let below = below.take_while(|line| is_empty(line) || indent(line) > top);
    let lines: Vec<&str> = [&*value].into_iter().chain(below).collect();
    let whole = lines.join("\n");
    let mut text = whole.trim();
    // Anchors, tags and comments before the value.
    while text.starts_with(['&', '!', '#']) {
        let end = if text.starts_with('#') { '\n' } else { ' ' };
        text = text
            .split_once([end, '\n'])
            .map_or("", |(_, rest)| rest.trim_start());
    }
    let lines = || text.lines().map(str::trim);
    let (text, quoted) = match text.chars().next() {
        Some(style @ ('|' | '>')) => (block(text, style), true),
        Some(quote @ ('"' | '\'')) => match unquote(&fold(lines())[1..], quote) {
            Some(text) => (text, true),
            None => return YamlValue::NotText,
        },
        Some('[' | '{' | '*') => return YamlValue::NotText,
        // On lines of their own.
        _ if is_empty(&value) && is_nested(text) => return YamlValue::NotText,
        _ => (fold(lines().map(before_comment)), false),
    };
    match text.trim() {
        "" => YamlValue::None,
        "~" | "null" | "Null" | "NULL" if !quoted => YamlValue::None,
        text if quoted => YamlValue::Quoted(text.to_owned()),
        text => YamlValue::Plain(text.to_owned()),
    }
}

/// The first line is that of a list or a map.
fn is_nested(text: &str) -> bool {
    let first = text.lines().next().map(before_comment);
    first.is_some_and(|line| line.starts_with("- ") || split_key(line).is_some())
}

/// The key of a line and what follows its colon.
fn split_key(line: &str) -> Option<(&str, &str)> {
    let ends_key =
        |at: &usize| line[at + 1..].is_empty() || line[at + 1..].starts_with([' ', '\t']);
    let mut colons = line.match_indices(':').map(|(at, _)| at);
    let colon = colons.find(ends_key)?;
    let key = line[..colon].trim().trim_matches(['"', '\'']);
    Some((key, &line[colon + 1..]))
}

/// The lines after `|` or `>`. Line breaks at the end count for nothing.
fn block(text: &str, style: char) -> String {
    let lines = text.lines().skip(1);
    let first = lines.clone().find(|line| !line.trim().is_empty());
    let margin = first.map_or(0, indent);
    // A comment that follows is indented by less.
    let lines = lines.take_while(|line| line.trim().is_empty() || indent(line) >= margin);
    let lines = lines.map(|line| line.get(margin..).unwrap_or("").trim_end());
    match style {
        '>' => fold(lines),
        _ => lines.collect::<Vec<_>>().join("\n"),
    }
}

/// Lines become one with spaces between them; empty lines stay line breaks.
fn fold<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for line in lines {
        if line.is_empty() {
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
        match c {
            // '' is a quote within single ones.
            '\'' if quote == '\'' && chars.next_if_eq(&'\'').is_some() => out.push('\''),
            c if c == quote => return Some(out),
            '\\' if quote == '"' => match chars.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                code @ ('x' | 'u') => {
                    let digits = if code == 'x' { 2 } else { 4 };
                    let hex: String = chars.by_ref().take(digits).collect();
                    let code = u32::from_str_radix(&hex, 16).ok()?;
                    out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                }
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t']).len()
}

/// A comment starts a line or follows a space.
fn before_comment(line: &str) -> &str {
    let mut marks = line.match_indices('#').map(|(at, _)| at);
    let comment = marks.find(|at| *at == 0 || line[..*at].ends_with([' ', '\t']));
    &line[..comment.unwrap_or(line.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    fn one(text: &str) -> Result<(String, String, bool), String> {
        let skill = parse("skills/mail/SKILL.md", text)?;
        Ok((skill.name, skill.description, skill.listed))
    }

    #[test]
    fn front_matter_forms() {
        // What stands between the lines of ---.
        for (head, name, description) in [
            ("description: reads mail", "mail", "reads mail"),
            ("name: post\r\ndescription: mail # really\r", "post", "mail"),
            ("description: use it: now", "mail", "use it: now"),
            (
                "description: \"a \\\"b\\\" \\u00e9\\n: c\" # x",
                "mail",
                "a \"b\" é\n: c",
            ),
            ("description: 'it''s\n  so'", "mail", "it's so"),
            (
                "description: >-\n  one\n  two\n\n  three\nname: x",
                "x",
                "one two\nthree",
            ),
            (
                "description: |2 # c\n  one\n   two\n# c\n",
                "mail",
                "one\n two",
            ),
            (
                "description: one\n  two\n# c\nmetadata:\n  a: 1",
                "mail",
                "one two",
            ),
            ("description:\n# c\n  below # c\nname: ~", "mail", "below"),
            ("description:\n  >\n  a\n  b", "mail", "a b"),
            ("\"description\" :\tx\nname: *a", "mail", "x"),
            ("description: !!str &d # c\n  x\nother: *d", "mail", "x"),
            ("  name: n\n  description: x", "n", "x"),
            (
                "list:\n- description: a\n- [b\n  ]\ndescription: x",
                "mail",
                "x",
            ),
            (
                "tags: [\n  a: b,\n]\nmap: {a: 1,\n  description: n\n}\ndescription: x",
                "mail",
                "x",
            ),
            (
                "text: |\n  description: n\n? [a]\n: b\n'q:': \"c\n  d\"\ndescription: x",
                "mail",
                "x",
            ),
            (
                "nested:\n  description: n\n  deeper:\n    - name: n\ndescription: x",
                "mail",
                "x",
            ),
        ] {
            for start in ["", "\u{feff}"] {
                let text = format!("{start}--- # c\n{head}\n--- # end\nbody\n");
                let want = Ok((name.to_owned(), description.to_owned(), true));
                assert_eq!(one(&text::decode(text.as_bytes()).0), want, "{text}");
            }
        }
        for (text, want) in [
            ("", "does not start"),
            ("# no front matter", "does not start"),
            ("---x\ndescription: x\n---\n", "does not start"),
            ("---\ndescription: x\n", "does not end"),
            ("---\n---\n", "no description"),
            ("---\nname: x\n---\n", "no description"),
            ("---\ndescription: ''\n---\n", "no description"),
            ("---\nnonsense\n---\n", "no description"),
            ("---\ndescription: [a, b]\n---\n", "is no text"),
            ("---\ndescription:\n  - a\n---\n", "is no text"),
            ("---\ndescription:\n  a: b\n---\n", "is no text"),
            ("---\ndescription: \"x\n---\n", "is no text"),
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
    fn survives_mutation() {
        let corpus = [
            "---\nname: mail\ndescription: >-\n  one\n  two\n\n  three\n---\nbody",
            "---\r\ndescription: \"a \\\"b\\\" \\u00e9\\n: c\" # x\r\n---",
            "\u{feff}---\ndescription: 'it''s'\ndisable-model-invocation: true\n---\n",
            "---\ndescription: |2+ # c\n    x\n   y\nmetadata:\n  - a: b\n---\n",
            "---\ntags: [\n  a,\n]\n- flat\n\"description\" : &a !t\n# c\n  text\n---\n",
        ];
        survive(&corpus, |_, input| {
            let text = String::from_utf8_lossy(input);
            if let Ok(skill) = parse("skills/mail/SKILL.md", &text) {
                let length = skill.description.chars().count();
                assert!((1..=DESCRIPTION_CHARS_MAX).contains(&length));
                assert!(skill.name.chars().count() <= NAME_CHARS_MAX);
                assert!(!skill.name.contains(char::is_control));
            }
        });
    }
}

//! Skills: finds SKILL.md files below skills/ and reads their front matter.
//!
//! The agent, or whoever talks to it, writes these files, so everything is bounded: depth,
//! number of entries, bytes of front matter. Only three keys of the front matter are read. The
//! second and later lines of a YAML value are indented, so the line of a key is found whatever
//! the values of the other keys are.

use std::collections::VecDeque;

use crate::base::text::{self, cut, one_line};
use crate::store::dir::{Dir, Kind};

/// How many levels of directories below skills/ are searched.
const DEPTH_MAX: usize = 12;
/// Directory entries that are read below one skills/ directory.
const ENTRIES_MAX: usize = 5_000;
/// Skills of one skills/ directory.
const SKILLS_MAX: usize = 500;
/// The front matter must end within the first bytes of the file.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The limits of https://agentskills.io, in characters.
const DESCRIPTION_CHARS_MAX: usize = 1024;
const NAME_CHARS_MAX: usize = 64;

/// A skill that can be used: it has a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skill {
    pub(crate) name: String,
    pub(crate) description: String,
    /// The path of its file below the data directory: `skills/mail/SKILL.md`.
    pub(crate) path: String,
    /// Whether the prompt names it; false for `disable-model-invocation: true`.
    pub(crate) listed: bool,
}

/// The skills of the workspace and of the channel, sorted by name. When both have a skill of the
/// same name, the channel's is used. Also a sentence, for the prompt, for everything left out.
pub(crate) fn load(dir: &Dir, channel: &str) -> (Vec<Skill>, Vec<String>) {
    let mut search = SkillSearch {
        dir,
        skills: Vec::new(),
        warnings: Vec::new(),
    };
    // The first skill of a name is kept, so the channel's directory is searched first.
    for root in [format!("{channel}/skills"), "skills".to_owned()] {
        search.below(&root);
    }
    (search.skills, search.warnings)
}

struct SkillSearch<'a> {
    dir: &'a Dir,
    /// By name.
    skills: Vec<Skill>,
    warnings: Vec<String>,
}

impl SkillSearch<'_> {
    /// Searches `root` breadth first: of two skills of the same name the one nearer to the root
    /// is used, and a symbolic link to a directory above finds nothing new.
    fn below(&mut self, root: &str) {
        let mut entries_left = ENTRIES_MAX;
        let skills_max = self.skills.len() + SKILLS_MAX;
        let mut seen = Vec::new();
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
                // The directory was searched before; a symbolic link leads to it again.
                if seen.contains(&(stamp.device, stamp.inode)) {
                    continue;
                }
                seen.push((stamp.device, stamp.inode));
            }
            let is_skill = |name: &str| name == "SKILL.md";
            let has_skill = entries.iter().any(|entry| is_skill(&entry.name));
            for entry in entries {
                let file = format!("{path}/{}", entry.name);
                let in_root = depth == 0 && entry.name.ends_with(".md");
                if has_skill {
                    // All other files in the directory belong to the skill.
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
            Ok(skill) if self.skills.iter().any(|known| known.name == skill.name) => {}
            Ok(skill) => {
                let before = |known: &Skill| known.name < skill.name;
                let at = self.skills.partition_point(before);
                self.skills.insert(at, skill);
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
    let description = field(head, "description").ok_or("it has no description")?;
    let directory = path.rsplit('/').nth(1).unwrap_or_default();
    let name = field(head, "name").unwrap_or_else(|| directory.to_owned());
    let hidden = field(head, "disable-model-invocation");
    Ok(Skill {
        name: one_line(&name, NAME_CHARS_MAX),
        description: cut(&description, DESCRIPTION_CHARS_MAX).into_owned(),
        path: path.to_owned(),
        listed: !hidden.is_some_and(|text| text.eq_ignore_ascii_case("true")),
    })
}

/// The trimmed value of a key of the top level; when the key occurs twice, the last value. `None`
/// for an empty value. A list or a map is returned as it is written.
fn field(head: &str, key: &str) -> Option<String> {
    let lines: Vec<&str> = head.lines().collect();
    let is_empty = |line: &str| before_comment(line).trim().is_empty();
    let top = lines.iter().find(|line| !is_empty(line));
    let top = top.map_or(0, |line| indent(line));
    let value = |line: &&str| {
        let (name, value) = line.split_once(':')?;
        let is_key = name.trim().trim_matches(['"', '\'']) == key;
        (is_key && indent(line) == top).then(|| value.trim().to_owned())
    };
    let at = lines.iter().rposition(|line| value(line).is_some())?;
    let first = value(&lines[at])?;
    let below = lines[at + 1..].iter().copied();
    let below = below.take_while(|line| is_empty(line) || indent(line) > top);
    let below = || below.clone().filter(|line| !line.starts_with('#'));
    let folded = || fold([&*first].into_iter().chain(below().map(str::trim)));
    let text = match first.chars().next() {
        Some('|') => unindented(below()).collect::<Vec<_>>().join("\n"),
        Some('>') => fold(unindented(below())),
        Some(quote @ ('"' | '\'')) => unquoted(&folded(), quote),
        _ => {
            let lines = [&*first].into_iter().chain(below());
            fold(lines.map(|line| before_comment(line).trim()))
        }
    };
    let text = text.trim();
    let is_null = text.is_empty() || text == "~" || text.eq_ignore_ascii_case("null");
    (!is_null).then(|| text.to_owned())
}

/// The lines of a block without the indentation of its first line.
fn unindented<'a>(lines: impl Iterator<Item = &'a str> + Clone) -> impl Iterator<Item = &'a str> {
    let first = lines.clone().find(|line| !line.trim().is_empty());
    let margin = first.map_or(0, indent);
    lines.map(move |line| line.get(margin..).unwrap_or_default().trim_end())
}

/// Joins the lines with spaces; an empty line becomes a line break.
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

/// The text of a quoted value, up to the closing quote.
fn unquoted(text: &str, quote: char) -> String {
    if quote == '"' {
        // YAML's escapes are those of JSON, except for some that are hardly ever used.
        let json = text.replace('\n', "\\n");
        let mut texts = serde_json::Deserializer::from_slice(json.as_bytes()).into_iter::<String>();
        if let Some(Ok(text)) = texts.next() {
            return text;
        }
    }
    // A doubled quote means one quote.
    let doubled = String::from_iter([quote, quote]);
    let text = text[1..].replace(&doubled, "\0");
    let inside = text.split(quote).next().unwrap_or_default();
    inside.replace('\0', &quote.to_string())
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t']).len()
}

/// The line without its comment, whose `#` starts the line or follows a space.
fn before_comment(line: &str) -> &str {
    let mut marks = line.match_indices('#').map(|(at, _)| at);
    let comment = marks.find(|at| *at == 0 || line[..*at].ends_with([' ', '\t']));
    &line[..comment.unwrap_or(line.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    #[test]
    fn front_matter_forms() {
        let one = |text: &str| parse("skills/mail/SKILL.md", text);
        // What is between the lines of ---.
        for (head, name, description) in [
            ("name: post\r\ndescription: mail # really\r", "post", "mail"),
            ("description: use it: now", "mail", "use it: now"),
            (
                r#"description: "a \"b\" \u00e9\n: c" # x"#,
                "mail",
                "a \"b\" é\n: c",
            ),
            ("description: 'it''s\n  so' # x", "mail", "it's so"),
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
            ("\"description\" :\tx\nname: null", "mail", "x"),
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
                "text: |\n  description: n\n? [a]\n: b\ndescription: x",
                "mail",
                "x",
            ),
            ("description: [a, b]\nname: \"x", "x", "[a, b]"),
        ] {
            for start in ["", "\u{feff}"] {
                let text = format!("{start}--- # c\n{head}\n--- # end\nbody\n");
                let skill = one(&text::decode(text.as_bytes()).0).unwrap();
                let got = (&*skill.name, &*skill.description, skill.listed);
                assert_eq!(got, (name, description, true), "{text}");
            }
        }
        for (text, want) in [
            ("", "does not start"),
            ("---x\ndescription: x\n---\n", "does not start"),
            ("---\ndescription: x\n", "does not end"),
            ("---\nname: x\nnonsense\n---\n", "no description"),
            ("---\ndescription: ''\n---\n", "no description"),
        ] {
            let got = one(text).unwrap_err();
            assert!(got.contains(want), "{text}: {got}");
        }
        for (value, listed) in [("True", false), ("false", true), ("yes", true)] {
            let text = format!("---\ndescription: x\ndisable-model-invocation: {value}\n---\n");
            assert_eq!(one(&text).unwrap().listed, listed, "{value}");
        }
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
        let broken = warnings.iter().filter(|text| text.contains("not used"));
        let broken: Vec<&String> = broken.collect();
        let [one] = broken[..] else {
            panic!("{warnings:?}")
        };
        assert!(one.contains("skills/broken/SKILL.md"), "{one}");
        assert_eq!(load(&dir, "C1"), (skills, warnings));
        let empty = Dir::open(&root.join("outside")).unwrap();
        assert_eq!(load(&empty, "C1"), (vec![], vec![]));
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

//! Files of a conversation: what people sent, in attachments/, and output too long for the
//! model, in scratch/. Fetching them is slack's.

use std::collections::HashSet;
use std::fs::File;

use crate::base::error::{Error, Result};
use crate::base::random::random_word;
use crate::base::time;
use crate::store::{Attachment, Store};

/// Characters of an attachment's name: file systems take 255 bytes, our prefixes less than 40.
const NAME_CHARS_MAX: usize = 200;

impl Store {
    /// A new file in the channel's scratch/, and its path below the data directory.
    pub(crate) fn spill(&self, channel: &str) -> Result<(File, String)> {
        self.make_channel(channel)?;
        self.dir.make_dir(&format!("{channel}/scratch"))?;
        loop {
            let word = random_word()?;
            let path = format!(
                "{channel}/scratch/out-{}.txt",
                word.get(..6).unwrap_or(&word)
            );
            if let Some(file) = self.dir.create(&path)? {
                return Ok((file, path));
            }
        }
    }

    /// Where the files of one message are kept, by the names their senders gave them. Two of
    /// the same name are kept apart.
    pub(crate) fn attachments(channel: &str, ts: &str, originals: &[&str]) -> Vec<Attachment> {
        let ms = time::slack_ts_ms(ts).unwrap_or_default();
        let mut used = HashSet::new();
        let mut out = Vec::new();
        for original in originals {
            let name = safe_name(original);
            let mut local = format!("{channel}/attachments/{ms}_{name}");
            for number in 2.. {
                if used.insert(local.clone()) {
                    break;
                }
                local = format!("{channel}/attachments/{ms}_{number}_{name}");
            }
            out.push(Attachment {
                original: (*original).to_owned(),
                local,
            });
        }
        out
    }

    /// To be filled and then handed to `finish_attachment` or `drop_attachment`; until then
    /// the file has another name.
    pub(crate) fn create_attachment(&self, local: &str) -> Result<File> {
        let (channel, _) = local.split_once('/').unwrap_or_default();
        self.make_channel(channel)?;
        self.dir.make_dir(&format!("{channel}/attachments"))?;
        let part = part_path(local);
        self.dir.remove(&part)?;
        self.dir
            .create(&part)?
            .ok_or_else(|| Error::failed(format!("cannot make {part}: someone else just did")))
    }

    pub(crate) fn finish_attachment(&self, local: &str) -> Result<()> {
        let name = local.rsplit('/').next().unwrap_or(local);
        self.dir.rename(&part_path(local), name)
    }

    pub(crate) fn drop_attachment(&self, local: &str) -> Result<()> {
        self.dir.remove(&part_path(local))
    }
}

/// As the original has it, one `_` for each UTF-16 unit that no file name should hold. A long
/// name loses its beginning: its end tells the type.
fn safe_name(original: &str) -> String {
    let mut name = String::new();
    for c in original.chars() {
        match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-' => name.push(c),
            _ => (0..c.len_utf16()).for_each(|_| name.push('_')),
        }
    }
    let from = name.len().saturating_sub(NAME_CHARS_MAX);
    name.split_off(from)
}

/// `C1/attachments/x.png` while it is being filled: `C1/attachments/.x.png.part`
fn part_path(local: &str) -> String {
    let (parent, name) = local.rsplit_once('/').unwrap_or((".", local));
    format!("{parent}/.{name}.part")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_message() {
        let long = "x".repeat(300) + ".pdf";
        let names = ["a.png", "a.png", "../../etc/passwd", "é😀.txt", &long, ""];
        let places = Store::attachments("C1", "1767604364.120019", &names);
        let locals: Vec<&str> = places
            .iter()
            .map(|place| {
                place
                    .local
                    .strip_prefix("C1/attachments/1767604364120_")
                    .unwrap()
            })
            .collect();
        let cut = "x".repeat(NAME_CHARS_MAX - 4) + ".pdf";
        let want = ["a.png", "2_a.png", ".._.._etc_passwd", "___.txt", &cut, ""];
        assert_eq!(locals, want);
    }
}

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
    /// Creates a file in the channel's scratch/; returns it and its path in the data directory.
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

    /// The paths at which the files of one message are stored, in the order of `originals`, the
    /// names their senders gave them. Two files of the same name get different paths.
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

    /// Creates the file to download into; call `finish_attachment` or `drop_attachment` afterwards.
    /// Until then the file has a temporary name.
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

/// Replaces, as the original does, each UTF-16 unit that a file name should not hold with one `_`.
/// A long name is cut at its beginning, because its end tells the file type.
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

/// The temporary path during a download: `C1/attachments/.x.png.part` for `C1/attachments/x.png`
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

//! `mom --download CHANNEL`: a channel's whole history as text on stdout, oldest first, the
//! replies of a thread below their parent; progress on stderr.
//!
//! Slack gives the newest first and may hold 100,000 messages, so the pages are kept in a
//! file without a name and read back from its end. The other way, windows from `oldest` on,
//! would ask for every page twice: to find where the windows are, and to read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write as _, stderr, stdout};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::json::Obj;
use crate::base::random::random_word;
use crate::base::secret::Secret;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::config::{self, Config, Keys};
use crate::net::Net;
use crate::signals::{self, SecondSignal};
use crate::slack::is_channel_id;
use crate::slack::web::{PAGE, Web};
use crate::store::dir::{Floor, LinesBack};

/// # Errors
/// `Usage` for what is no channel id; `Stopped` after Ctrl-C, with whole lines printed.
pub(crate) fn download(channel: &str, config: &Config, keys: &Keys) -> Result<()> {
    if !is_channel_id(channel) {
        return Err(Error::Usage(format!(
            "--download={channel}: no channel id; these look like C0123ABCD and stand at the \
             end of the channel's details in Slack"
        )));
    }
    let bot = config::bot_token(keys)?;
    let stop = Stop::new();
    let on_signal = stop.clone();
    signals::watch(SecondSignal::ExitsAtOnce, move |_| {
        on_signal.set(Cause::Asked)
    })?;
    let net = Net::from_env();
    let web = Web::new(&config.slack_api_url, Secret::new(""), bot, &net, &stop);
    let (file, path) = spool()?;
    let mut spool = BufWriter::new(file);
    let broken = |err: &std::io::Error| Error::io("write", &path, err);
    let mut count = 0;
    let args = [("channel", channel), ("limit", PAGE)];
    web.pages("conversations.history", &args, &mut |page| {
        for message in &page {
            writeln!(spool, "{}", kept(message)).map_err(|err| broken(&err))?;
        }
        count += page.len();
        progress(&format!("{} read", text::count(count, "message")));
        Ok(true)
    })?;
    let file = spool.into_inner();
    let file = file.map_err(|err| broken(&err.into_error()))?;
    print(
        channel,
        &web,
        LinesBack::new(file, path, Floor::At(0))?,
        &stop,
    )
}

/// The messages that stand in those lines, and the replies to them that Slack tells.
fn print(channel: &str, web: &Web, lines_back: LinesBack, stop: &Stop) -> Result<()> {
    let mut out = BufWriter::new(stdout());
    let mut say = |text: String| heard(out.write_all(text.as_bytes()));
    let (mut count, mut threads, mut replies) = (0, 0, 0);
    for line in lines_back {
        count += 1;
        stop.check()?;
        let message: Value = serde_json::from_slice(&line?).unwrap_or_default();
        if !say(lines(&message, ""))? {
            return Ok(());
        }
        let Some(parent) = message["parent"].as_str() else {
            continue;
        };
        threads += 1;
        let args = [("channel", channel), ("ts", parent), ("limit", PAGE)];
        let mut open = true;
        web.pages("conversations.replies", &args, &mut |page| {
            // The parent comes first, on the first page only.
            for reply in page.iter().filter(|reply| reply["ts"] != parent) {
                replies += 1;
                open = open && say(lines(reply, "  "))?;
            }
            Ok(open)
        })?;
        if !open {
            return Ok(());
        }
        if threads % 20 == 0 {
            progress(&format!("{} read", text::count(threads, "thread")));
        }
    }
    heard(out.flush())?;
    let (messages, threads) = (
        text::count(count, "message"),
        text::count(threads, "thread"),
    );
    progress(&format!("{messages}, {replies} replies in {threads}"));
    Ok(())
}

/// A file that is gone when mom is. Not in /tmp first: that may be memory.
fn spool() -> Result<(File, PathBuf)> {
    let mut failed = Error::failed("no directory for temporary files");
    let given = config::variable("TMPDIR");
    for place in given.as_deref().into_iter().chain(["/var/tmp", "/tmp"]) {
        let path = Path::new(place).join(format!("mom-{}", random_word()?));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let made = options.open(&path);
        match made.and_then(|file| fs::remove_file(&path).map(|()| file)) {
            Ok(file) => return Ok((file, path)),
            Err(err) => failed = Error::io("make", &path, &err),
        }
    }
    Err(failed)
}

/// What is needed of a message, on one line.
fn kept(message: &Value) -> String {
    let text = |key: &str| message[key].as_str();
    let is_parent = message["reply_count"].as_u64().is_some_and(|n| n > 0);
    Obj::new()
        .opt_str("ts", text("ts"))
        .opt_str("user", text("user"))
        .opt_str("text", text("text"))
        .opt_str("parent", text("ts").filter(|_| is_parent))
        .end()
}

/// `[2026-01-05 09:12:44] U07: text`, further lines below the text.
fn lines(message: &Value, indent: &str) -> String {
    let ms = message["ts"].as_str().and_then(time::slack_ts_ms);
    let user = message["user"].as_str().unwrap_or("unknown");
    let stamp = time::utc_stamp(ms.unwrap_or_default());
    let prefix = format!("{indent}[{stamp}] {user}: ");
    let text = text::printable(message["text"].as_str().unwrap_or_default());
    let below = format!("\n{}", " ".repeat(prefix.chars().count()));
    format!("{prefix}{}\n", text.replace('\n', &below))
}

/// False when the reader has gone away, as `head` does.
fn heard(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(err) => Err(Error::io("write", "stdout", &err)),
    }
}

fn progress(line: &str) {
    // A closed stderr is no reason to stop.
    writeln!(stderr(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prints_like_the_original() {
        let message = |text: &str| json!({"ts": "1767604364.120019", "user": "U07", "text": text});
        for (message, indent, want) in [
            (message("hello"), "", "[2026-01-05 09:12:44] U07: hello\n"),
            (
                message("a\r\n\u{1b}[2Jb"),
                "",
                "[2026-01-05 09:12:44] U07: a\n                           [2Jb\n",
            ),
            (
                message("a\nb"),
                "  ",
                "  [2026-01-05 09:12:44] U07: a\n                             b\n",
            ),
            (json!({"text": 7}), "", "[1970-01-01 00:00:00] unknown: \n"),
        ] {
            assert_eq!(lines(&message, indent), want);
        }
        let parent = json!({"ts": "1.5", "reply_count": 2, "text": "a\nb"});
        assert_eq!(
            kept(&parent),
            r#"{"ts":"1.5","text":"a\nb","parent":"1.5"}"#
        );
        assert_eq!(
            kept(&json!({"ts": "1.5", "reply_count": 0})),
            r#"{"ts":"1.5"}"#
        );
    }
}

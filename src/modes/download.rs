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
use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::error::{Error, Result};
use crate::base::random::random_word;
use crate::base::secret::Secret;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::config::{self, Config, Keys};
use crate::net::Net;
use crate::signals::{self, SecondSignal};
use crate::slack::inbound::{self, Me};
use crate::slack::users::Names;
use crate::slack::web::{PAGE, Web};
use crate::slack::{is_channel_id, is_user_id, message};
use crate::store::lines::{Floor, LinesBack};

/// Of a program's name.
const AUTHOR_CHARS_MAX: usize = 80;

/// # Errors
/// `Usage` for what is no channel id; `Stopped` after Ctrl-C, with whole lines printed.
pub(crate) fn download(channel: &str, config: &Config, keys: &Keys) -> Result<()> {
    let given = channel;
    // A link to a channel or to a message in it.
    let in_link = given.split_once("/archives/").map(|(_, path)| path);
    let channel = in_link.and_then(|path| path.split(['/', '?']).next());
    let channel = channel.unwrap_or(given);
    if !is_channel_id(channel) {
        return Err(Error::Usage(format!(
            "--download={given}: no channel id; these look like C0123ABCD and stand at the \
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
    let web = Arc::new(web);
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
fn print(channel: &str, web: &Arc<Web>, lines_back: LinesBack, stop: &Stop) -> Result<()> {
    let mut out = BufWriter::new(stdout());
    let names = Names::new(web.clone(), Me::default());
    let mut print = |message: &Value, indent: &str| {
        written(out.write_all(lines(message, indent, &names).as_bytes()))
    };
    let (mut count, mut threads, mut replies) = (0, 0, 0);
    for line in lines_back {
        count += 1;
        stop.check()?;
        let message: Value = serde_json::from_slice(&line?).unwrap_or_default();
        if !print(&message, "")? {
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
                open = open && print(&kept(reply), "  ")?;
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
    written(out.flush())?;
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

/// What is needed of a message.
fn kept(message: &Value) -> Value {
    let user = message["user"].as_str().filter(|id| is_user_id(id));
    let user = user.filter(|_| message["subtype"] != "bot_message");
    let is_parent = message["reply_count"].as_u64().is_some_and(|n| n > 0);
    json!({
        "ts": message["ts"],
        "user": user,
        "program": inbound::program_name(message),
        "bot": message["bot_id"],
        "text": message::shown(message).text(),
        "parent": if is_parent { message["ts"].clone() } else { Value::Null },
    })
}

/// `[2026-01-05 09:12:44] Lena Berg: text`, further lines below the text.
fn lines(kept: &Value, indent: &str, names: &Names) -> String {
    let text = |key: &str| kept[key].as_str().unwrap_or_default();
    let name_of = |id: &str| {
        names
            .user(id)
            .map_or_else(|| id.to_owned(), |user| user.display)
    };
    let author = match (text("user"), text("program"), text("bot")) {
        ("", "", "") => "unknown".to_owned(),
        ("", "", bot) => bot.to_owned(),
        ("", program, _) => format!("{} (app)", text::one_line(program, AUTHOR_CHARS_MAX)),
        (user, ..) => name_of(user),
    };
    let ms = time::slack_ts_ms(text("ts"));
    let stamp = time::utc_stamp(ms.unwrap_or_default());
    let prefix = format!("{indent}[{stamp}] {author}: ");
    let below = format!("\n{}", " ".repeat(prefix.chars().count()));
    let text = text::printable(&with_names(text("text"), &name_of));
    format!("{prefix}{}\n", text.replace('\n', &below))
}

/// `<@U07>` as `@Lena Berg`.
fn with_names(text: &str, name_of: &dyn Fn(&str) -> String) -> String {
    let mut parts = text.split("<@");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| {
        let token = part.split_once('>');
        let token = token.map(|(token, rest)| (token.split('|').next().unwrap_or_default(), rest));
        match token.filter(|(id, _)| is_user_id(id)) {
            Some((id, rest)) => format!("{out}@{}{rest}", name_of(id)),
            None => format!("{out}<@{part}"),
        }
    })
}

/// False when the reader has gone away, as `head` does.
fn written(outcome: io::Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(err) => Err(Error::io("write", "stdout", &err)),
    }
}

fn progress(line: &str) {
    // A closed stderr is no reason to stop.
    writeln!(stderr(), "{line}").ok();
}

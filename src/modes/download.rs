//! `mom --download CHANNEL`: a channel's whole history as text on stdout, oldest first, the
//! replies of a thread below their parent; progress on stderr.
//!
//! Slack sends the newest messages first, so all are in memory until the last page has come:
//! about 40 MB for 100,000 messages. Replies are printed as they come.

use std::io::{self, BufWriter, ErrorKind, Write as _, stderr, stdout};
use std::sync::Arc;

use serde_json::Value;

use crate::base::error::{Error, Result};
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

/// Characters of an app's name that are printed.
const AUTHOR_CHARS_MAX: usize = 80;

/// # Errors
/// `Usage` if `channel` is no channel id; `Stopped` after Ctrl-C, with whole lines printed.
pub(crate) fn download(channel: &str, config: &Config, keys: &Keys) -> Result<()> {
    let given = channel;
    // A link to a channel, or to a message in it, is accepted as well.
    let in_link = given.split_once("/archives/").map(|(_, path)| path);
    let channel = in_link.and_then(|path| path.split(['/', '?']).next());
    let channel = channel.unwrap_or(given);
    if !is_channel_id(channel) {
        return Err(Error::Usage(format!(
            "--download={given}: no channel id; these look like C0123ABCD and are at the \
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
    let mut posts = Vec::new();
    let args = [("channel", channel), ("limit", PAGE)];
    for page in web.pages("conversations.history", &args) {
        posts.extend(page?.iter().map(Post::of));
        progress(&format!("{} read", text::count(posts.len(), "message")));
    }
    posts.reverse();
    print(channel, &web, &posts, &stop)
}

/// Prints the messages, oldest first, each with the replies that Slack returns for it.
fn print(channel: &str, web: &Arc<Web>, posts: &[Post], stop: &Stop) -> Result<()> {
    let mut out = BufWriter::new(stdout());
    let names = Names::new(web.clone(), Me::default());
    let mut print =
        |post: &Post, indent: &str| written(out.write_all(post.lines(indent, &names).as_bytes()));
    let (mut threads, mut replies) = (0, 0);
    for post in posts {
        stop.check()?;
        if !print(post, "")? {
            return Ok(());
        }
        if !post.has_replies {
            continue;
        }
        threads += 1;
        let args = [("channel", channel), ("ts", &post.ts), ("limit", PAGE)];
        for page in web.pages("conversations.replies", &args) {
            // The parent comes first, on the first page only.
            for reply in page?.iter().map(Post::of).filter(|it| it.ts != post.ts) {
                replies += 1;
                if !print(&reply, "  ")? {
                    return Ok(());
                }
            }
        }
        if threads % 20 == 0 {
            progress(&format!("{} read", text::count(threads, "thread")));
        }
    }
    written(out.flush())?;
    let messages = text::count(posts.len(), "message");
    let threads = text::count(threads, "thread");
    progress(&format!("{messages}, {replies} replies in {threads}"));
    Ok(())
}

/// What is printed of a message.
struct Post {
    ts: String,
    /// The author, if a person; the name is looked up.
    user_id: Option<String>,
    /// Name of any other author.
    program: String,
    text: String,
    has_replies: bool,
}

impl Post {
    fn of(message: &Value) -> Post {
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        let user_id = Some(text("user")).filter(|id| is_user_id(id));
        let name = inbound::program_name(message);
        let program = match (&*name, text("bot_id")) {
            ("", id) if id.is_empty() => "unknown".to_owned(),
            ("", id) => id,
            (name, _) => format!("{} (app)", text::one_line(name, AUTHOR_CHARS_MAX)),
        };
        Post {
            ts: text("ts"),
            user_id: user_id.filter(|_| message["subtype"] != "bot_message"),
            program,
            text: message::shown(message).text(),
            has_replies: message["reply_count"].as_u64().is_some_and(|n| n > 0),
        }
    }

    /// `[2026-01-05 09:12:44] Lena Berg: text`; further lines are indented like the text.
    fn lines(&self, indent: &str, names: &Names) -> String {
        let name_of = |id: &str| {
            names
                .user(id)
                .map_or_else(|| id.to_owned(), |user| user.display)
        };
        let user = self.user_id.as_deref().map(name_of);
        let author = user.unwrap_or_else(|| self.program.clone());
        let ms = time::slack_ts_ms(&self.ts);
        let stamp = time::utc_stamp(ms.unwrap_or_default());
        let prefix = format!("{indent}[{stamp}] {author}: ");
        let below = format!("\n{}", " ".repeat(prefix.chars().count()));
        let text = text::printable(&with_names(&self.text, &name_of));
        format!("{prefix}{}\n", text.replace('\n', &below))
    }
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

/// False when the reader has closed the pipe, as `head` does.
fn written(outcome: io::Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(err) => Err(Error::io("write", "stdout", &err)),
    }
}

fn progress(line: &str) {
    // Errors are ignored: the download goes on when stderr is closed.
    writeln!(stderr(), "{line}").ok();
}

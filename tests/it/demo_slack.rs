//! Runs of the built program as Slack would draw them: `make demo-slack` plays them against
//! the fakes of the integration tests and writes target/demo-slack.html, for people to look
//! at what a change did. Nothing is asserted here. Two of the pictures, as a browser shows
//! them, are in the README.

#![expect(dead_code, reason = "the harness of the integration tests has more")]

mod docker;
mod http;
mod llm;
mod mom;
mod scratch;
mod slack;
mod tls;
mod watch;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use http::Gate;
use llm::{FakeLlm, Reply};
use mom::{Call, Mom};
use scratch::Scratch;
use slack::{BOT, Channel, FakeSlack, Message};

/// A title and how the channel looked then.
type Picture = (&'static str, Channel);

fn main() {
    let (slack, llm) = (FakeSlack::start(), FakeLlm::start());
    let home = Arc::new(Scratch::new());
    for (name, script) in PROGRAMS {
        let path = format!("bin/{name}");
        home.write(&path, script);
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(home.path(&path), executable).expect("make it executable");
    }
    let mut html = HEAD.to_owned();
    for (approve, scenes) in [
        ("off", &[short, two_tools, long, error, stop] as &[Scene]),
        ("changes", &[approval]),
    ] {
        let mom = start(&home, &slack, &llm, approve);
        for (n, scene) in scenes.iter().enumerate() {
            let channel = format!("C1{n}{}", approve.len());
            slack.open_channel(&channel);
            let stage = Stage {
                slack: &slack,
                llm: &llm,
                channel,
            };
            for (title, channel) in scene(&stage) {
                draw(&mut html, title, &channel);
            }
        }
        mom.terminate();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("demo-slack.html");
    fs::write(&path, html).expect("write the page");
    let path = path.display();
    #[expect(clippy::print_stdout, reason = "what this is for")]
    {
        println!("{path}");
    }
}

type Scene = fn(&Stage) -> Vec<Picture>;

/// What the scenes' commands find on this machine.
const PROGRAMS: [(&str, &str); 3] = [
    (
        "df",
        "#!/bin/sh
echo 'Filesystem  Size  Used Avail Use% Mounted on'
echo '/dev/sda1   916G  833G   37G  96% /srv'
",
    ),
    (
        "du",
        "#!/bin/sh
sleep 6
printf '731G\t/srv\n640G\t/srv/dumps\n41G\t/srv/www\n38G\t/srv/git\n12G\t/srv/mail\n'
",
    ),
    ("find", "#!/bin/sh\nseq 214\n"),
];

fn start(home: &Arc<Scratch>, slack: &FakeSlack, llm: &FakeLlm, approve: &str) -> Mom {
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", home.path("bin").display());
    let call = Call::new(home).slack(slack).llm(llm).env("PATH", &path);
    let mom = call.env("MOM_APPROVE", approve).data().spawn();
    slack.wait_connected();
    mom
}

struct Stage<'a> {
    slack: &'a FakeSlack,
    llm: &'a FakeLlm,
    channel: String,
}

impl Stage<'_> {
    fn ask(&self, text: &str) {
        self.slack.mention(&self.channel, "U07", text);
    }

    fn bash(&self, label: &str, command: &str) {
        let arguments = json!({"label": label, "command": command});
        self.llm.reply_tool("bash", arguments);
    }

    /// The channel once mom has said this there, in the channel or a thread.
    fn when(&self, text: &str) -> Channel {
        self.slack.wait_channel(&self.channel, |channel| {
            let ours = channel
                .messages
                .iter()
                .filter(|message| message.user == BOT);
            ours.into_iter()
                .any(|message| message.shown().contains(text))
        })
    }
}

const OVER: &str = " out · ";

fn short(stage: &Stage) -> Vec<Picture> {
    stage.llm.reply(Reply::text(
        "It is **cron** that sends it: `/etc/cron.d/report` runs at *6:00* on weekdays.\n\n\
         | job | when | to |\n|---|---|---|\n| report | 6:00 | <#C01> |\n| backup | 2:30 | <@U08> |",
    ));
    stage.ask("who sends the report every morning?");
    vec![("A short answer", stage.when(OVER))]
}

fn two_tools(stage: &Stage) -> Vec<Picture> {
    let bash = |label: &str, command: &str| {
        let arguments = json!({"label": label, "command": command});
        Reply::tool("bash", &arguments).usage(1_900, 70, 1_700, 0)
    };
    stage.llm.reply(bash("Check disk usage", "df -h /srv"));
    let find = bash(
        "Find what is large",
        "du -xh --max-depth=1 /srv | sort -rh | head -5",
    );
    let text = "The disk is at 96 %. I look for what is large.";
    stage.llm.reply(find.and_text(text));
    let answer = Reply::text(
        "The backup disk is **96 %** full, 37 GB are left. Most of it are the nightly dumps:\n\n\
         | folder | size |\n|---|---|\n| `/srv/dumps` | 640 GB |\n| `/srv/www` | 41 GB |\n| `/srv/git` | 38 GB |\n\n\
         Shall I delete the dumps that are older than 90 days?",
    );
    stage.llm.reply(answer.usage(2_300, 120, 1_900, 0));
    stage.ask("is the backup disk full?");
    let at_work = stage.slack.wait_channel(&stage.channel, |channel| {
        let shows = |message: &Message| message.shown().contains("→ Find what is large");
        channel
            .messages
            .iter()
            .filter(|message| shows(message))
            .count()
            > 1
    });
    vec![
        ("Two steps, while mom works", at_work),
        ("Two steps, the end", stage.when(OVER)),
    ]
}

fn approval(stage: &Stage) -> Vec<Picture> {
    stage.bash(
        "Count the old dumps",
        "find /srv/dumps -name '*.sql.gz' -mtime +90 | wc -l",
    );
    stage.bash(
        "Delete the old dumps",
        "find /srv/dumps -name '*.sql.gz' -mtime +90 -delete",
    );
    stage.llm.reply_text(
        "I left them: you denied the deletion. There are 214 dumps older than 90 days.",
    );
    stage.ask("delete the dumps older than 90 days");
    let press = |command: &str, label: &str| {
        let asked = stage.slack.wait_channel(&stage.channel, |channel| {
            let any = |text: &str| {
                let mut all = channel.messages.iter();
                all.any(|said| said.shown().contains(text) && !said.buttons().is_empty())
            };
            any(command) && any("Waiting for approval")
        });
        let mut all = asked.messages.iter();
        let question = all.find(|said| said.shown().contains(command));
        let ts = &question.expect("it was seen").ts;
        stage.slack.press(&stage.channel, ts, "U07", label);
        asked
    };
    let asked = press("wc -l", "Approve");
    press("-delete", "Deny");
    vec![
        ("A command waits for a person", asked),
        ("One approved, one denied", stage.when(OVER)),
    ]
}

fn long(stage: &Stage) -> Vec<Picture> {
    for (label, command) in [
        ("Fetch the branch", "echo 'Already up to date.'"),
        (
            "Run the tests",
            "sleep 16; echo 'test result: ok. 412 passed; 0 failed'",
        ),
        (
            "Build the package",
            "sleep 15; echo 'make: no rule to make target deb' >&2; exit 2",
        ),
        (
            "Build the package again",
            "echo 'built mom_0.1.0_amd64.deb'",
        ),
    ] {
        stage.bash(label, command);
    }
    stage
        .llm
        .reply_text("The release is built: all 412 tests pass.");
    stage.ask("build the release");
    stage.when("✓ Run the tests");
    vec![("A run of more than 30 seconds", stage.when(OVER))]
}

fn error(stage: &Stage) -> Vec<Picture> {
    let refused = Reply::error(401, "authentication_error", "invalid x-api-key");
    stage.llm.reply(refused);
    stage.ask("are you there?");
    vec![("The model refuses the key", stage.when("Error:"))]
}

fn stop(stage: &Stage) -> Vec<Picture> {
    let story = "Once upon a time there was a server that nobody dared to restart. ".repeat(4);
    stage.bash("Look for stories", "ls /srv/stories 2>&1; true");
    stage.llm.reply(Reply::text(&story).stall(&Gate::new()));
    stage.ask("tell me a long story");
    let told = stage.when("Once upon");
    let status = told.answers()[0].ts.clone();
    stage.slack.press(&stage.channel, &status, "U07", "Stop");
    stage.when("_Stopped_ by");
    let stopped = stage.slack.wait_channel(&stage.channel, |channel| {
        !channel.replies(&status).is_empty()
    });
    vec![("Text streams in", told), ("Stopped", stopped)]
}

// How it is drawn.

const HEAD: &str = r#"<!DOCTYPE html><meta charset="utf-8"><title>mom in Slack</title><style>
body{font:15px/1.46 Lato,"Noto Sans",Helvetica,Arial,sans-serif;color:#1d1c1d;background:#fff;margin:20px}
h2{font-size:17px;margin:28px 0 8px}
.scene{display:flex;width:1120px;border:1px solid #ddd;border-radius:8px;overflow:hidden}
.channel,.thread{flex:1;padding:12px 16px;min-width:0}.thread{border-left:1px solid #ddd}
.bar{font-weight:900;padding-bottom:8px;border-bottom:1px solid #eee;margin-bottom:10px}
.message{display:flex;margin:10px 0}.face{flex:none;width:36px;height:36px;border-radius:6px;color:#fff;font-weight:900;
text-align:center;line-height:36px;margin-right:8px}.body{min-width:0;flex:1}
.name{font-weight:900}.app{background:#ddd;border-radius:2px;font-size:10px;padding:1px 3px;color:#555;margin-left:4px}
.time{color:#616061;font-size:12px;margin-left:8px}p{margin:2px 0}ul{margin:2px 0;padding-left:22px}
code{background:#f8f8f8;border:1px solid #ddd;border-radius:3px;color:#c01343;font-size:12px;padding:1px 3px}
pre{background:#f8f8f8;border:1px solid #ddd;border-radius:4px;font-size:12px;padding:8px;margin:4px 0;white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse;margin:4px 0}td,th{border:1px solid #ddd;padding:4px 10px;text-align:left}
.mention{background:#e8f5fa;color:#1264a3;border-radius:3px;padding:0 2px}
.plan{border:1px solid #ddd;border-radius:8px;padding:8px 12px;margin:6px 0}.plan>b{display:block;margin-bottom:4px}
.card{margin:5px 0}.card>div{margin-left:22px}.mark{display:inline-block;width:22px;font-weight:900}
.complete{color:#007a5a}.error{color:#e01e5a}.in_progress{color:#1264a3}.pending{color:#888}
.button{display:inline-block;border:1px solid #bbb;border-radius:4px;font-weight:900;font-size:13px;padding:4px 12px;margin:6px 8px 6px 0}
.danger{border-color:#e01e5a;color:#e01e5a}.primary{border-color:#007a5a;color:#007a5a}
.replies{color:#1264a3;font-size:13px;font-weight:700}
</style>
"#;

fn draw(html: &mut String, title: &str, channel: &Channel) {
    let mut page = format!(
        "<h2>{title}</h2><div class=scene><div class=channel><div class=bar># general</div>"
    );
    let mut threads = String::new();
    for root in channel.roots() {
        page += &message(channel, root);
        let replies = channel.replies(&root.ts);
        if !replies.is_empty() {
            let count = replies.len();
            let noun = if count == 1 { "reply" } else { "replies" };
            write!(
                page,
                "<p class=replies style='margin-left:44px'>{count} {noun}</p>"
            )
            .expect("a string");
            let replies = replies.into_iter().map(|reply| message(channel, reply));
            threads.extend(replies);
        }
    }
    page += "</div>";
    if !threads.is_empty() {
        write!(
            page,
            "<div class=thread><div class=bar>Thread</div>{threads}</div>"
        )
        .expect("a string");
    }
    *html += &(page + "</div>\n");
}

fn message(channel: &Channel, message: &Message) -> String {
    let (name, color) = match message.user.as_str() {
        BOT => ("mom", "#2b2d42"),
        "U07" => ("lena", "#8d6b94"),
        _ => ("otto", "#3d7068"),
    };
    let app = if message.user == BOT {
        "<span class=app>APP</span>"
    } else {
        ""
    };
    let blocks: String = match message.blocks.is_empty() {
        true => markdown(&message.text),
        false => message.blocks.iter().map(block).collect(),
    };
    let seconds: u64 = message
        .ts
        .split('.')
        .next()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    let first = channel.messages[0]
        .ts
        .split('.')
        .next()
        .and_then(|s| s.parse().ok());
    let time = format!("9:41:{:02}", (seconds - first.unwrap_or(seconds)).min(59));
    format!(
        "<div class=message><div class=face style='background:{color}'>{}</div><div class=body>\
         <span class=name>{name}</span>{app}<span class=time>{time}</span>{blocks}</div></div>",
        &name[..1].to_uppercase()
    )
}

fn block(block: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    match block["type"].as_str() {
        Some("markdown") => markdown(&text(&block["text"])),
        // mrkdwn.
        Some("section") => markdown(&text(&block["text"]["text"]).replace('*', "**")),
        Some("actions") => {
            let buttons = block["elements"].as_array().into_iter().flatten();
            let buttons = buttons.map(|button| {
                let label = escape(&text(&button["text"]["text"]));
                let style = text(&button["style"]);
                format!("<span class='button {style}'>{label}</span>")
            });
            format!("<div>{}</div>", buttons.collect::<String>())
        }
        Some("rich_text") => rich_text(block),
        Some("plan") => {
            let cards: String = block["tasks"]
                .as_array()
                .into_iter()
                .flatten()
                .map(card)
                .collect();
            format!(
                "<div class=plan><b>{}</b>{cards}</div>",
                escape(&text(&block["title"]))
            )
        }
        other => format!("<p>({other:?})</p>"),
    }
}

/// Unfolded.
fn card(card: &Value) -> String {
    let status = card["status"].as_str().unwrap_or("");
    let mark = match status {
        "complete" => "✓",
        "error" => "✗",
        "in_progress" => "◌",
        _ => "○",
    };
    let inner = rich_text(&card["details"]) + &rich_text(&card["output"]);
    let title = escape(card["title"].as_str().unwrap_or(""));
    format!(
        "<div class=card><span class='mark {status}'>{mark}</span>{title}<div>{inner}</div></div>"
    )
}

fn rich_text(block: &Value) -> String {
    let parts = block["elements"].as_array().into_iter().flatten();
    let parts = parts.map(|part| {
        let element = &part["elements"][0];
        let text = escape(element["text"].as_str().unwrap_or(""));
        match part["type"] == "rich_text_preformatted" {
            true => format!("<pre>{text}</pre>"),
            false if element["style"]["bold"] == true => format!("<p><b>{text}</b></p>"),
            false => format!("<p>{text}</p>"),
        }
    });
    parts.collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// As much of Markdown as the scenes have.
fn markdown(source: &str) -> String {
    let mut html = String::new();
    let mut rows = 0;
    for line in source.lines() {
        let cells: Vec<&str> = line
            .trim()
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        if line.starts_with('|') {
            rows += 1;
            if rows != 2 {
                let cells = cells
                    .iter()
                    .map(|cell| format!("<td>{}</td>", inline(cell)));
                let open = if rows == 1 { "<table>" } else { "" };
                html += &format!("{open}<tr>{}</tr>", cells.collect::<String>());
            }
            continue;
        }
        if std::mem::take(&mut rows) > 0 {
            html += "</table>";
        }
        html += &match line.strip_prefix("- ") {
            Some(item) => format!("<ul><li>{}</li></ul>", inline(item)),
            None if line.trim().is_empty() => "<p>&nbsp;</p>".to_owned(),
            None => format!("<p>{}</p>", inline(line)),
        };
    }
    if rows > 0 {
        html += "</table>";
    }
    html
}

fn inline(line: &str) -> String {
    let mut line = line.to_owned();
    let names = [
        ("<@U08>", "@otto"),
        ("<@U0BOT>", "@mom"),
        ("<#C01>", "#general"),
    ];
    for (token, name) in names {
        line = line.replace(token, &format!("\u{1}{name}\u{2}"));
    }
    // Of mom's own: escaped already.
    let mut out = escape(&line)
        .replace("&amp;lt;", "&lt;")
        .replace("&amp;gt;", "&gt;");
    for (mark, tag) in [("`", "code"), ("**", "b"), ("*", "i")] {
        let parts: Vec<&str> = out.split(mark).collect();
        if parts.len() % 2 == 1 {
            let tagged = parts.iter().enumerate().map(|(n, part)| match n % 2 {
                0 => (*part).to_owned(),
                _ => format!("<{tag}>{part}</{tag}>"),
            });
            out = tagged.collect();
        }
    }
    if let Some((italic, rest)) = out.strip_prefix('_').and_then(|line| line.split_once('_')) {
        out = format!("<i>{italic}</i>{rest}");
    }
    out.replace('\u{1}', "<span class=mention>")
        .replace('\u{2}', "</span>")
}

//! `mom --usage`: what the models cost, from the context files.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::llm::FakeLlm;
use crate::mom::{Call, Ended};
use crate::scratch::Scratch;

fn usage(home: &Arc<Scratch>) -> Ended {
    Call::new(home).arg("--usage").data().run("")
}

/// An assistant entry: time in ms, model, input, output, cache read, cache write, dollars.
fn entry(ms: i64, model: &str, tokens: [u64; 4], cost: f64) -> String {
    let [input, output, read, write] = tokens;
    format!(
        r#"{{"type":"message","id":"a","parentId":null,"timestamp":"2026-01-05T09:12:49.000Z","message":{{"role":"assistant","content":[],"provider":"anthropic","model":"{model}","usage":{{"input":{input},"output":{output},"cacheRead":{read},"cacheWrite":{write},"totalTokens":0,"cost":{{"total":{cost}}}}},"stopReason":"stop","timestamp":{ms}}}}}"#
    ) + "\n"
}

const HEADER: &str = "{\"type\":\"session\",\"version\":3,\"id\":\"x\"}\n";
/// 5 January 2026, 09:12:46 UTC.
const DAY: i64 = 1_767_604_366_100;
const HOUR: i64 = 3_600_000;

#[test]
fn by_day_channel_and_model() {
    let home = Arc::new(Scratch::new());
    let user = r#"{"type":"message","message":{"role":"user","content":"the \"assistant\" said"}}"#;
    home.write(
        "data/C01/context.jsonl",
        [
            HEADER,
            user,
            "\n",
            &entry(DAY, "claude-sonnet-5-5", [1000, 100, 0, 2000], 0.4),
            &entry(DAY, "claude-sonnet-5-5", [4, 210, 12_000, 96], 0.1),
            // This is past midnight in the time zone of the test.
            &entry(DAY + 14 * HOUR, "claude-haiku-5-5", [500, 50, 0, 0], 0.125),
        ]
        .concat(),
    );
    home.write(
        "data/TERMINAL/context.jsonl",
        [
            HEADER,
            &entry(DAY, "claude-sonnet-5-5", [0, 1, 0, 0], 0.0005),
        ]
        .concat(),
    );
    home.write("data/directory.tsv", "U07\t@lena\tLena\nC01\t#general\n");
    home.write(
        "data/notes/context.jsonl",
        entry(DAY, "not-a-channel", [9, 9, 9, 9], 9.0),
    );
    let ended = usage(&home);
    assert_eq!(
        ended.stdout,
        "\
Day          turns      in     out  cached      cost
2026-01-05       3    3.1k     311     12k     $0.50  ██████████████████████████
2026-01-06       1     500      50       0     $0.12  ██████▌

Channel        turns      in     out  cached      cost
C01 #general       3    3.6k     360     12k     $0.62
TERMINAL           1       0       1       0   $0.0005

Model                         turns      in     out  cached      cost
anthropic/claude-sonnet-5-5       3    3.1k     311     12k     $0.50
anthropic/claude-haiku-5-5        1     500      50       0     $0.12

Total         4    3.6k     361     12k     $0.63
"
    );
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let since = |since: &str| Call::new(&home).arg("--usage").arg(since).data().run("");
    let (second, none) = (since("--since=2026-01-06"), since("--since=1d"));
    assert!(!second.stdout.contains("2026-01-05"), "{}", second.stdout);
    assert!(
        second.stdout.contains("Total         1     500      50"),
        "{}",
        second.stdout
    );
    assert!(none.stdout.contains(" since 20"), "{}", none.stdout);
    assert!(
        since("--since=tomorrow")
            .stderr
            .contains("like 2026-11-01, or a number of days")
    );
    let names: Vec<_> = std::fs::read_dir(home.path("data")).unwrap().collect();
    assert_eq!(names.len(), 4, "nothing is made: {names:?}");
}

#[test]
fn hostile_files_are_left_out() {
    let home = Arc::new(Scratch::new());
    let good = entry(DAY, "good", [1, 1, 1, 1], 0.5);
    let long = format!("{{\"assistant\":\"{}\"}}\n", "x".repeat(3 << 20));
    let torn = &good[..good.len() / 2];
    let lies = entry(i64::MAX, "\\u001b[2Jred", [u64::MAX, u64::MAX, 0, 0], -1.0);
    home.write(
        "data/C01/context.jsonl",
        [&long, &good, "\"assistant\" 7\n", &lies, &good, torn].concat(),
    );
    home.write("data/C02/context.jsonl", b"\xff\xfe\n");
    home.write("outside", &good);
    for channel in ["C03", "C04", "C05/context.jsonl"] {
        std::fs::create_dir_all(home.path("data").join(channel)).unwrap();
    }
    symlink(home.path("outside"), home.path("data/C03/context.jsonl")).unwrap();
    let fifo = home.path("data/C04/context.jsonl");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let ended = usage(&home);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for want in [
        "C01           3       4       2       2     $1.00",
        "anthropic/good          2       4       2       2     $1.00",
        "anthropic/ [2Jred       1       0       0       0         -",
    ] {
        assert!(ended.stdout.contains(want), "{want}: {}", ended.stdout);
    }
    for want in [
        "[C01] 3 lines of context.jsonl left out",
        "[C02] 1 line of",
        "[C03] cannot open",
        "[C04] cannot open",
        "[C05] cannot open",
    ] {
        assert!(ended.stderr.contains(want), "{want}: {}", ended.stderr);
    }
}

/// The largest files in little memory: a line without end, and many lines.
#[test]
fn a_gigabyte_in_flat_memory() {
    let home = Arc::new(Scratch::new());
    home.write(
        "data/C01/context.jsonl",
        entry(DAY, "good", [1, 1, 1, 1], 0.5),
    );
    home.write("data/C02/context.jsonl", "");
    let file = std::fs::File::options()
        .write(true)
        .open(home.path("data/C02/context.jsonl"));
    file.unwrap().set_len(1 << 30).unwrap();
    let path = home.path("data");
    let script = format!(
        "ulimit -v 200000; exec '{}' --usage '{}'",
        env!("CARGO_BIN_EXE_mom"),
        path.display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Total         1"), "{output:?}");
}

#[test]
fn no_directory_and_nothing_in_it() {
    let home = Arc::new(Scratch::new());
    let ended = usage(&home);
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("there is no data directory"),
        "{}",
        ended.stderr
    );
    assert!(!home.path("data").exists());
    std::fs::create_dir(home.path("data")).unwrap();
    let ended = usage(&home);
    assert!(
        ended.stdout.starts_with("No model was used in "),
        "{}",
        ended.stdout
    );
    assert_eq!(ended.code, Some(0));
}

/// Every reply counts once: summaries count, copies made by a compaction do not.
#[test]
fn compactions_are_counted_once() {
    let (home, llm) = (Arc::new(Scratch::new()), FakeLlm::start());
    llm.fill_a_small_window();
    let lines: String = (0..30).map(|n| format!("question {n}\n")).collect();
    let call = Call::new(&home).local_llm(&llm);
    let ended = call.arg("--chat").data().run(&lines);
    assert!(ended.stderr.contains("Compacting"), "{}", ended.stderr);
    let served = llm.requests().len();
    let shown = usage(&home).stdout;
    let total = shown.lines().rfind(|line| line.starts_with("Total"));
    let output = total.and_then(|line| line.split_whitespace().nth(3));
    let want = format!("{}.{}k", served / 10, served % 10);
    assert_eq!(output, Some(want.as_str()), "{shown}");
}

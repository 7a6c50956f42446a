//! The real program under test: started in a home of its own with a clean environment; its output
//! is read as it comes, and it is ended by its pid when the test is over.

use std::env;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

use crate::llm::{self, FakeLlm};
use crate::scratch::Scratch;
use crate::slack::{self, FakeSlack};
use crate::tls;
use crate::watch::{GUARD, Watched, show};

/// The mom under test: the one just built, or another (src/install/dist.sh).
pub(crate) fn binary() -> String {
    env::var("MOM_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_mom").to_owned())
}

/// The first words of mom's command line; for another machine's binary the emulator comes first.
fn words() -> Vec<String> {
    let mut words = runner();
    words.push(binary());
    words
}

fn runner() -> Vec<String> {
    let line = env::var("MOM_TEST_RUNNER").unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}

/// A call of mom that is prepared.
pub(crate) struct Call {
    command: Command,
    home: Arc<Scratch>,
}

impl Call {
    /// `mom` with nothing but PATH, HOME, TZ and the fakes' CA in its environment.
    pub(crate) fn new(home: &Arc<Scratch>) -> Call {
        let words = words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        Call::of(command, home)
    }

    /// mom as the child of this command, which then executes mom.
    pub(crate) fn under(mut command: Command, home: &Arc<Scratch>) -> Call {
        command.args(words());
        Call::of(command, home)
    }

    fn of(mut command: Command, home: &Arc<Scratch>) -> Call {
        command
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.dir())
            .env("TZ", "Europe/Berlin")
            .env("SSL_CERT_FILE", tls::CA_FILE);
        Call {
            command,
            home: Arc::clone(home),
        }
    }

    pub(crate) fn arg(mut self, arg: &str) -> Call {
        self.command.arg(arg);
        self
    }

    /// The data directory `data` in the home, as the last argument.
    pub(crate) fn data(mut self) -> Call {
        self.command.arg(self.home.path("data"));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Call {
        // Keys in the environment make mom execute itself once more, which the kernel can't do with
        // a binary for another machine: there mom gets them as files.
        if !runner().is_empty() && (name.ends_with("_TOKEN") || name.ends_with("_KEY")) {
            self.home.write(&format!("credentials/{name}"), value);
            let dir = self.home.path("credentials");
            self.command.env("CREDENTIALS_DIRECTORY", dir);
        } else {
            self.command.env(name, value);
        }
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Call {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn slack(self, slack: &FakeSlack) -> Call {
        self.env("MOM_SLACK_APP_TOKEN", slack::APP_TOKEN)
            .env("MOM_SLACK_BOT_TOKEN", slack::BOT_TOKEN)
            .env("MOM_SLACK_API_URL", &slack.api_url())
    }

    pub(crate) fn llm(self, llm: &FakeLlm) -> Call {
        self.env("ANTHROPIC_API_KEY", llm::KEY)
            .env("ANTHROPIC_BASE_URL", &llm.url())
    }

    /// A local server whose window the model's name does not tell.
    pub(crate) fn local_llm(self, llm: &FakeLlm) -> Call {
        self.arg("--model=llamacpp/m")
            .env("LLAMA_API_KEY", llm::OPENAI_KEY)
            .env("LLAMACPP_BASE_URL", &format!("{}/v1", llm.url()))
    }

    pub(crate) fn spawn(mut self) -> Mom {
        let piped = |command: &mut Command| {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        };
        let mut child = piped(&mut self.command).unwrap();
        let stdout = Arc::new(Watched::default());
        let log = Arc::new(Watched::default());
        let readers = vec![
            read_pieces("stdout", child.stdout.take().unwrap(), &stdout),
            read_lines("stderr", child.stderr.take().unwrap(), &log),
        ];
        Mom {
            stdin: child.stdin.take(),
            child,
            home: self.home,
            stdout,
            log,
            readers,
        }
    }

    /// Runs it to its end with this input.
    pub(crate) fn run(self, input: &str) -> Ended {
        let mut mom = self.spawn();
        mom.type_text(input);
        mom.close_stdin();
        mom.ended()
    }
}

fn read_lines(
    name: &str,
    from: impl Read + Send + 'static,
    into: &Arc<Watched<String>>,
) -> JoinHandle<()> {
    let into = Arc::clone(into);
    let read = move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            into.change(|text| text.push_str(&String::from_utf8_lossy(&line)));
            line.clear();
        }
    };
    std::thread::Builder::new()
        .name(name.into())
        .spawn(read)
        .unwrap()
}

/// Half a line is read, too: a prompt ends without a line break.
fn read_pieces(
    name: &str,
    mut from: impl Read + Send + 'static,
    into: &Arc<Watched<String>>,
) -> JoinHandle<()> {
    let into = Arc::clone(into);
    let read = move || {
        let mut held = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            held.extend_from_slice(&buffer[..count]);
            // The rest of a character may come with the next bytes.
            let whole = match std::str::from_utf8(&held) {
                Err(err) if err.error_len().is_none() => err.valid_up_to(),
                _ => held.len(),
            };
            let piece: Vec<u8> = held.drain(..whole).collect();
            into.change(|text| text.push_str(&String::from_utf8_lossy(&piece)));
        }
    };
    std::thread::Builder::new()
        .name(name.into())
        .spawn(read)
        .unwrap()
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` when a signal killed it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A mom that is running.
pub(crate) struct Mom {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) home: Arc<Scratch>,
    stdout: Arc<Watched<String>>,
    log: Arc<Watched<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Mom {
    /// `mom DIR` on these fakes, tools on the host; returns when mom is connected.
    pub(crate) fn start(slack: &FakeSlack, llm: &FakeLlm) -> Mom {
        Mom::start_in(&Arc::new(Scratch::new()), slack, llm)
    }

    /// The same in an existing home, after a restart or with prepared files.
    pub(crate) fn start_in(home: &Arc<Scratch>, slack: &FakeSlack, llm: &FakeLlm) -> Mom {
        let mom = Call::new(home).slack(slack).llm(llm).data().spawn();
        slack.wait_connected();
        mom
    }

    /// The text of a file in the data directory.
    pub(crate) fn data(&self, file: &str) -> String {
        self.home.read(&format!("data/{file}"))
    }

    pub(crate) fn jsonl(&self, file: &str) -> Vec<Value> {
        self.home.jsonl(&format!("data/{file}"))
    }

    /// A field of /proc/PID/status: VmRSS now, VmHWM at most so far.
    pub(crate) fn status_kb(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn type_text(&mut self, text: &str) {
        // mom may have ended already, with an error that the test wants to see.
        self.stdin
            .as_mut()
            .expect("stdin is open")
            .write_all(text.as_bytes())
            .ok();
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// Waits for a log line with this text in it; returns the line.
    pub(crate) fn wait_log(&self, text: &str) -> String {
        self.wait_line(&self.log, text)
    }

    /// Waits until this many log lines have this text in them.
    pub(crate) fn wait_log_times(&self, text: &str, times: usize) {
        let enough = |log: &mut String| (log.matches(text).count() >= times).then_some(());
        let log = self.log.poll(enough);
        log.unwrap_or_else(|| panic!("mom did not say {text:?} {times} times"));
    }

    /// The same for a line on stdout.
    pub(crate) fn wait_stdout(&self, text: &str) -> String {
        self.wait_line(&self.stdout, text)
    }

    /// Waits until stdout shows this text; returns all that it shows then.
    pub(crate) fn wait_shown(&self, text: &str) -> String {
        self.wait_shown_times(text, 1)
    }

    pub(crate) fn wait_shown_times(&self, text: &str, times: usize) -> String {
        let find = |all: &mut String| (all.matches(text).count() >= times).then(|| all.clone());
        let shown = self.stdout.poll(find);
        shown.unwrap_or_else(|| panic!("{text:?} is not shown: {:?}", self.stdout.lock()))
    }

    fn wait_line(&self, output: &Watched<String>, text: &str) -> String {
        let find = |all: &mut String| {
            all.lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        };
        output
            .poll(find)
            .unwrap_or_else(|| panic!("mom never said {text:?}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends SIGTERM; returns how mom ended.
    pub(crate) fn terminate(self) -> Ended {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Sends SIGKILL; returns when mom is gone.
    pub(crate) fn kill9(self) -> Ended {
        self.signal(Signal::KILL);
        self.ended()
    }

    /// Waits for the end.
    pub(crate) fn ended(mut self) -> Ended {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let guard = GUARD.try_into().unwrap();
        assert_eq!(poll(&mut fds, Some(&guard)), Ok(1), "mom does not end");
        let code = self.child.wait().unwrap().code();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Ended {
            code,
            stdout: self.stdout.lock().clone(),
            stderr: self.log(),
        }
    }
}

impl Drop for Mom {
    fn drop(&mut self) {
        // mom may be gone already.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            show("mom's log", &self.log());
        }
    }
}

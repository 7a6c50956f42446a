//! Runs one ready `Command` to its end: writes its input, reads its output, limits what is stored,
//! and ends it early on a stop or a deadline. Knows nothing of tools, shells or containers.
//!
//! One poll(2) loop over pipes, a pidfd and the stop's eventfd: no threads, no ticking, and
//! no race between `kill` and `wait`, because only this loop does either.
//!
//! The child's stdin is a leash: a pipe that stays open while the command may run. To end
//! the command the pipe is closed (the kernel does it when mom dies), and the watchdog in the
//! child's script (`scripts::WATCH`) kills the whole process tree. `docker exec` forwards no
//! signals, but it forwards the end of stdin. The script reports its end by a mark (`marks`). So a
//! process left in the background, which keeps the output open, does not prolong the call, and a
//! failure of the docker client is not taken for one of the command.
//!
//! stdout and stderr are one stream, as in a terminal. With two streams a mark could overtake
//! output inside the engine.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::base::error::{Error, Result};
use crate::base::stop::{Stop, poll_for};
use crate::host::marks::{MarkPiece, MarkScan};
use crate::host::output::{Output, Sink, Spill};

/// How long output may still come after the end (`exec > >(tee log)` in bash) while a process in
/// the background keeps the pipe open.
const LINGER: Duration = Duration::from_millis(100);
/// How long the watchdog may take to end the tree before the child itself is killed.
const END_MAX: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 64 << 10;
/// Reads in one turn of the loop: a fast writer must not delay a stop.
const READS_MAX: usize = 16;

/// Answers a question of the script: receives all output since the last question.
pub(crate) type AnswerFn<'a> = &'a mut dyn FnMut(&[u8]) -> Vec<u8>;

/// What to run, and within which limits.
pub(crate) struct Exec<'a> {
    pub(crate) command: Command,
    /// The random word of the script's marks; `None`: a plain program without them.
    pub(crate) mark: Option<String>,
    /// `None`: no limit.
    pub(crate) timeout: Option<Duration>,
    /// At least this many of the last bytes are stored, at most twice as many.
    pub(crate) keep_bytes: usize,
    /// Output longer than `keep_bytes` goes there from its start, up to `SPILL_BYTES_MAX`.
    pub(crate) spill: Option<Spill<'a>>,
    pub(crate) answer: Option<AnswerFn<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExecEnd {
    /// Exit code as a shell reports it: 128 + signal when a signal ended the command.
    Exited(i32),
    TimedOut,
    /// The stop was set before the call was over, even if the command ended meanwhile.
    Stopped,
    /// The child ended before its script began: the shell or the docker client failed, and
    /// nothing was done. The output is the message, this is the exit code.
    NotBegun(i32),
    /// The child ended in the middle of its script: killed, or the container went away.
    Cut(i32),
}

#[derive(Debug)]
pub(crate) struct ExecResult {
    pub(crate) end: ExecEnd,
    pub(crate) output: Output,
}

/// Runs the command. `Err` only when it cannot be started or its end cannot be read.
pub(crate) fn run(exec: Exec<'_>, stop: &Stop) -> Result<ExecResult> {
    let program = exec.command.get_program().to_owned();
    start(exec)
        .and_then(|(child, exec_loop)| exec_loop.finish(child, stop))
        .map_err(|err| Error::io("run", &program, &err))
}

fn start(exec: Exec<'_>) -> io::Result<(Child, ExecLoop<'_>)> {
    let mut command = exec.command;
    let (stdin, input) = pipe()?;
    let (output, stdout) = pipe()?;
    for ours in [&input, &output] {
        rustix::fs::fcntl_setfl(ours, rustix::fs::OFlags::NONBLOCK)?;
    }
    let stderr = stdout.try_clone()?;
    // A group of its own: Ctrl-C in mom's terminal is not for it, and the watchdog kills it.
    command
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0);
    let mut child = command.spawn()?;
    // The command holds the child's ends of the pipes; while they are open there is no EOF.
    drop(command);
    let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(err) => {
            child.kill()?;
            child.wait()?;
            return Err(err.into());
        }
    };
    let exec_loop = ExecLoop {
        pidfd,
        input: Leash {
            fd: Some(input),
            bytes: Vec::new(),
            written: 0,
        },
        output: Some(output),
        scan: MarkScan::new(exec.mark.as_deref()),
        sink: Sink::new(exec.keep_bytes, exec.spill),
        answer: exec.answer,
        seen: ExecProgress {
            // A program without marks counts as begun once it is started.
            begun: exec.mark.is_none(),
            ..ExecProgress::default()
        },
        early: None,
        until: exec
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout)),
    };
    Ok((child, exec_loop))
}

/// Reading end, writing end; neither is inherited by other children.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// A running child.
struct ExecLoop<'a> {
    pidfd: OwnedFd,
    input: Leash,
    /// `None` after its end.
    output: Option<OwnedFd>,
    scan: MarkScan,
    sink: Sink<'a>,
    answer: Option<AnswerFn<'a>>,
    seen: ExecProgress,
    /// Why the command is being ended early.
    early: Option<ExecEnd>,
    /// When to stop waiting; `None`: never, or later than the clock can say.
    until: Option<Instant>,
}

/// What is known of the child so far.
#[derive(Default)]
struct ExecProgress {
    begun: bool,
    /// The exit code in its final mark.
    code: Option<i32>,
    /// The child is a zombie.
    exited: bool,
}

impl ExecProgress {
    fn is_over(&self) -> bool {
        self.code.is_some() || self.exited
    }
}

impl ExecLoop<'_> {
    fn finish(mut self, mut child: Child, stop: &Stop) -> io::Result<ExecResult> {
        self.watch(stop);
        self.scan.finish(&mut |bytes| self.sink.push(bytes));
        drop(self.input);
        // This kills the docker client, or a script that has printed its final mark or used up its
        // time: never what the command left in the background. Fails only if the child has ended
        // already.
        child.kill().ok();
        let status = child.wait()?;
        let status = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        // A stop at the last moment counts, too: whoever set it was told that the work is stopped.
        let early = self.early.or(stop.is_set().then_some(ExecEnd::Stopped));
        let has_marks = self.scan.has_marks();
        let end = match (early, self.seen.code) {
            (Some(early), _) => early,
            (None, Some(code)) => ExecEnd::Exited(code),
            (None, None) if !has_marks => ExecEnd::Exited(status),
            (None, None) if self.seen.begun => ExecEnd::Cut(status),
            (None, None) => ExecEnd::NotBegun(status),
        };
        Ok(ExecResult {
            end,
            output: self.sink.out,
        })
    }

    /// Runs until the child has ended and its output is read, or the time for that is over.
    fn watch(&mut self, stop: &Stop) {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let over = self.seen.is_over();
            let left = self
                .until
                .map(|until| until.saturating_duration_since(Instant::now()));
            let late = left == Some(Duration::ZERO);
            // The watchdog that ends a command early kills the script last.
            let ended = match self.early {
                Some(_) => self.seen.exited,
                None => self.output.is_none(),
            };
            if over && ended {
                return;
            }
            if late && (over || self.early.is_some()) {
                return;
            }
            if !over && self.early.is_none() && (late || stop.is_set()) {
                self.early = Some(if stop.is_set() {
                    ExecEnd::Stopped
                } else {
                    ExecEnd::TimedOut
                });
                self.input.fd = None;
                self.until = Some(Instant::now() + END_MAX);
                continue;
            }
            self.wait(stop, left);
            self.input.write();
            self.read(&mut buffer);
            if !over && self.early.is_none() && self.seen.is_over() {
                self.until = Some(Instant::now() + LINGER);
            }
        }
    }

    /// Waits until something happens; looks whether the child has ended.
    fn wait(&mut self, stop: &Stop, left: Option<Duration>) {
        let mut fds = Vec::with_capacity(4);
        // After the child has ended or the stop is set, poll(2) would return at once every time.
        if !self.seen.exited {
            fds.push(PollFd::new(&self.pidfd, PollFlags::IN));
        }
        if self.early.is_none() && !self.seen.is_over() {
            fds.push(PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN));
        }
        if let Some(output) = &self.output {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        if let (Some(fd), false) = (&self.input.fd, self.input.is_empty()) {
            fds.push(PollFd::new(fd, PollFlags::OUT));
        }
        poll_for(&mut fds, left);
        if !self.seen.exited {
            self.seen.exited = !fds[0].revents().is_empty();
        }
    }

    /// Reads the output that is available now.
    fn read(&mut self, buffer: &mut [u8]) {
        for _ in 0..READS_MAX {
            let Some(fd) = &self.output else { return };
            let count = match rustix::io::read(fd, &mut *buffer) {
                Ok(count) if count > 0 => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Ok(_) | Err(_) => {
                    self.output = None;
                    return;
                }
            };
            let (sink, seen) = (&mut self.sink, &mut self.seen);
            let (input, answer) = (&mut self.input, &mut self.answer);
            self.scan.feed(&buffer[..count], &mut |piece| match piece {
                MarkPiece::Bytes(bytes) => sink.push(bytes),
                // Warnings of the docker client come before this mark.
                MarkPiece::Begun if !seen.begun => {
                    seen.begun = true;
                    sink.out = Output::default();
                }
                MarkPiece::Begun => {}
                MarkPiece::Exit(code) => seen.code = seen.code.or(Some(code)),
                MarkPiece::Question => {
                    // A script that asks again before it has read the answer is not ours:
                    // it would fill the memory with answers.
                    if let (Some(answer), true) = (&mut *answer, input.is_empty()) {
                        (input.bytes, input.written) = (answer(&sink.out.tail), 0);
                        sink.out = Output::default();
                    }
                }
            });
        }
    }
}

/// The child's stdin, and what is still to be written to it.
struct Leash {
    /// `None`: closed, and the watchdog ends the command.
    fd: Option<OwnedFd>,
    bytes: Vec<u8>,
    written: usize,
}

impl Leash {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Writes as much as the pipe accepts now. If the reader is gone, drops the rest.
    fn write(&mut self) {
        let Some(fd) = &self.fd else { return };
        while !self.is_empty() {
            match rustix::io::write(fd, &self.bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.written = self.bytes.len(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stop::Cause;

    /// The stop comes when the command has just ended by itself.
    #[test]
    fn a_stop_in_the_last_moment_counts() {
        let stop = Stop::new();
        let mut command = Command::new("/bin/sh");
        // One write, so that question and end are read at once.
        let script = r"printf '\036m !\nout\n\036m ?\n\036m 0\n'";
        command.args(["-c", script]);
        let mut answer = |_: &[u8]| {
            stop.set(Cause::Asked);
            Vec::new()
        };
        let exec = Exec {
            command,
            mark: Some(String::from("m")),
            timeout: None,
            keep_bytes: 100,
            spill: None,
            answer: Some(&mut answer),
        };
        assert_eq!(run(exec, &stop).unwrap().end, ExecEnd::Stopped);
    }
}

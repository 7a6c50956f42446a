//! Runs one ready `Command` to its end: feeds it, drains it, bounds what is kept, and ends
//! early on a stop or a deadline. Knows nothing of tools, shells or containers.
//!
//! One poll(2) loop over pipes, a pidfd and the stop's eventfd: no threads, no ticking, and
//! no race between `kill` and `wait`, because only this loop does either.
//!
//! The child's stdin is the leash: a pipe that stays open while the command may run. To end
//! it we close the pipe (the kernel does when mom dies), and the watchdog in the child's own
//! script (`sandbox::LEASH`) kills the whole tree; `docker exec` forwards no signals, but it
//! does forward the end of stdin. The script ends its output with a *mark*, one line with a
//! random word and the exit code. So a process left in the background, which holds the
//! output open, does not hold the call open, and a failure of the docker client itself
//! cannot be taken for one of the command. A mark with `?` in place of the code is a
//! question: what was printed so far goes to the caller, and its answer to stdin.
//!
//! stdout and stderr are one stream, in the order a terminal would show: that is what one
//! wants to read, and with two the mark could overtake the other one inside the engine.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::base::error::{Error, Result};
use crate::base::stop::{Stop, poll_for};

/// How much of a long output goes to the spill file.
pub(crate) const SPILL_BYTES_MAX: u64 = 10 << 20;
/// How long output may still come after the end (`exec > >(tee log)` in bash) while
/// something in the background holds it open.
const LINGER: Duration = Duration::from_millis(100);
/// How long the watchdog may take to end the tree before the child itself is killed.
const END_MAX: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 64 << 10;
/// Reads in one turn of the loop: a fast writer must not keep a stop waiting.
const READS_MAX: usize = 16;
/// What follows the word of a mark: an exit code and a newline.
const MARK_WORD_MAX: usize = 8;
/// Starts a mark. A control character that text has no use for, so the search is cheap.
const MARK_START: u8 = 0x1e;

/// Makes the file for an output that is too long: the file, and its path as the agent sees it.
pub(crate) type Spill<'a> = &'a (dyn Fn() -> Result<(File, String)> + Sync);
/// Answers a question of the script: gets all output since the last one.
pub(crate) type Answer<'a> = &'a mut dyn FnMut(&[u8]) -> Vec<u8>;

pub(crate) struct Run<'a> {
    pub(crate) command: Command,
    /// The random word of the script's marks; `None`: a plain program without them.
    pub(crate) mark: Option<String>,
    pub(crate) timeout: Option<Duration>,
    /// At least so many of the last bytes are kept, at most twice as many.
    pub(crate) keep_bytes: usize,
    /// Output longer than `keep_bytes` goes there from its start, up to `SPILL_BYTES_MAX`.
    pub(crate) spill: Option<Spill<'a>>,
    pub(crate) answer: Option<Answer<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Exit code as a shell says it: 128 + signal when a signal ended the command.
    Exited(i32),
    TimedOut,
    Stopped,
    /// The child ended before its script printed the final mark: killed, or the docker
    /// client failed; the output is what it said, this is its exit code.
    Lost(i32),
}

#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) ended: Ended,
    pub(crate) output: Output,
}

/// The tail of what was printed (since the last question), and counts of all of it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) tail: Vec<u8>,
    pub(crate) total_bytes: u64,
    pub(crate) newlines: u64,
    /// Bytes after the last newline.
    pub(crate) last_line_bytes: u64,
    pub(crate) spilled: Spilled,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) enum Spilled {
    #[default]
    No,
    /// `whole`: nothing was left out.
    To {
        path: String,
        whole: bool,
    },
    Failed(Error),
}

/// Runs the command. `Err` only when it cannot be started or its end cannot be read.
pub(crate) fn run(run: Run<'_>, stop: &Stop) -> Result<Finished> {
    let program = run.command.get_program().to_owned();
    try_run(run, stop).map_err(|err| Error::io("run", &program, &err))
}

fn try_run(run: Run<'_>, stop: &Stop) -> io::Result<Finished> {
    let Run {
        mut command,
        mark,
        timeout,
        keep_bytes,
        spill,
        mut answer,
    } = run;
    let (stdin, input) = pipe()?;
    let (reader, stdout) = pipe()?;
    for ours in [&input, &reader] {
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
    // It holds the child's ends of the pipes: as long as they are open here, EOF never comes.
    drop(command);
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;

    let mut input = Some(input);
    let mut to_write = Pending::default();
    let mut reader = Some(reader);
    let mut scan = Scan::new(mark.as_deref());
    let mut sink = Sink::new(keep_bytes, spill);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut code = None;
    let mut early = None;
    let mut exited = false;
    // `None`: without end, or further away than the clock can say.
    let mut until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let over = code.is_some() || exited;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if over && (reader.is_none() || (early.is_some() && exited)) {
            break;
        }
        if left == Some(Duration::ZERO) || (stop.is_set() && early.is_none() && !over) {
            if over || early.is_some() {
                break;
            }
            early = Some(if stop.is_set() {
                Ended::Stopped
            } else {
                Ended::TimedOut
            });
            input = None;
            until = Some(Instant::now() + END_MAX);
            continue;
        }

        let mut fds = Vec::with_capacity(4);
        // A negative entry does not exist here: what need not be watched is left out.
        if !exited {
            fds.push(PollFd::new(&pidfd, PollFlags::IN));
        }
        if early.is_none() && !over {
            fds.push(PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN));
        }
        if let Some(reader) = &reader {
            fds.push(PollFd::new(reader, PollFlags::IN));
        }
        if let (Some(input), false) = (&input, to_write.is_empty()) {
            fds.push(PollFd::new(input, PollFlags::OUT));
        }
        poll_for(&mut fds, left);
        if !exited {
            exited = !fds[0].revents().is_empty();
        }

        if let Some(fd) = &input {
            to_write.write_to(fd);
        }
        for _ in 0..READS_MAX {
            let Some(fd) = &reader else { break };
            match rustix::io::read(fd, &mut buffer[..]) {
                Ok(0) => reader = None,
                Ok(count) => scan.feed(&buffer[..count], &mut |piece| match piece {
                    Piece::Bytes(bytes) => sink.push(bytes),
                    Piece::Exit(exit) => code = code.or(Some(exit)),
                    Piece::Question => {
                        // Who asks again before the answer is read is not our script: it
                        // would fill the memory with answers.
                        if let (Some(answer), true) = (&mut answer, to_write.is_empty()) {
                            to_write.push(&answer(&sink.out.tail));
                            sink.out = Output::default();
                        }
                    }
                }),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => reader = None,
            }
        }
        if !over && early.is_none() && (code.is_some() || exited) {
            until = Some(Instant::now() + LINGER);
        }
    }
    scan.finish(&mut |bytes| sink.push(bytes));
    drop(input);
    // The docker client, or a script that is past its mark or its time: never what the
    // command left. Fails only when the child has ended, as it should have.
    child.kill().ok();
    let status = child.wait()?;
    let status = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    let ended = match (early, code) {
        (Some(early), _) => early,
        (None, Some(code)) => Ended::Exited(code),
        (None, None) if mark.is_none() => Ended::Exited(status),
        (None, None) => Ended::Lost(status),
    };
    Ok(Finished {
        ended,
        output: sink.out,
    })
}

/// Reading end, writing end; neither is inherited by other children.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// What is still to be written to the child.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    written: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// As much as the pipe takes now. A reader that is gone needs no more.
    fn write_to(&mut self, fd: &OwnedFd) {
        while !self.is_empty() {
            match rustix::io::write(fd, &self.bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => break,
            }
        }
        *self = Pending::default();
    }
}

/// Finds the marks in the stream, however it is cut into reads.
struct Scan {
    /// Start byte and word; empty: no marks.
    start: Vec<u8>,
    /// The beginning of what may be a mark.
    carry: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Bytes(&'a [u8]),
    Exit(i32),
    Question,
}

impl Scan {
    fn new(mark: Option<&str>) -> Scan {
        let mut start = Vec::new();
        if let Some(mark) = mark {
            start.push(MARK_START);
            start.extend_from_slice(mark.as_bytes());
            start.push(b' ');
        }
        Scan {
            start,
            carry: Vec::new(),
        }
    }

    fn feed(&mut self, chunk: &[u8], emit: &mut dyn FnMut(Piece<'_>)) {
        if self.start.is_empty() {
            return emit(Piece::Bytes(chunk));
        }
        let mut carried = std::mem::take(&mut self.carry);
        let mut rest = chunk;
        if !carried.is_empty() {
            carried.extend_from_slice(chunk);
            rest = &carried;
        }
        // The standard library's search is many times as fast as a loop of ours.
        if !rest.contains(&MARK_START) {
            return emit(Piece::Bytes(rest));
        }
        // Up to `from` it is known that there is no mark.
        let mut from = 0;
        while let Some(at) = rest[from..].iter().position(|&byte| byte == MARK_START) {
            let at = from + at;
            let there = &rest[at..];
            let common = there.len().min(self.start.len());
            if there[..common] != self.start[..common] {
                from = at + 1;
                continue;
            }
            let word = &there[common..];
            let word = &word[..word.len().min(MARK_WORD_MAX)];
            match word.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    let piece = match &word[..end] {
                        b"?" => Some(Piece::Question),
                        digits => std::str::from_utf8(digits)
                            .ok()
                            .and_then(|digits| digits.parse().ok())
                            .map(Piece::Exit),
                    };
                    let Some(piece) = piece else {
                        from = at + 1;
                        continue;
                    };
                    emit(Piece::Bytes(&rest[..at]));
                    emit(piece);
                    rest = &there[common + end + 1..];
                    from = 0;
                }
                None if word.len() == MARK_WORD_MAX => from = at + 1,
                None => {
                    emit(Piece::Bytes(&rest[..at]));
                    self.carry = there.to_vec();
                    return;
                }
            }
        }
        emit(Piece::Bytes(rest));
    }

    /// What looked like the beginning of a mark was none.
    fn finish(&mut self, emit: &mut dyn FnMut(&[u8])) {
        emit(&std::mem::take(&mut self.carry));
    }
}

/// Bounds the output: the tail in memory, the start in the spill file.
struct Sink<'a> {
    out: Output,
    keep_bytes: usize,
    spill: Option<Spill<'a>>,
    file: Option<File>,
}

impl<'a> Sink<'a> {
    fn new(keep_bytes: usize, spill: Option<Spill<'a>>) -> Sink<'a> {
        Sink {
            out: Output::default(),
            keep_bytes,
            spill,
            file: None,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let out = &mut self.out;
        let before = out.total_bytes;
        out.total_bytes += bytes.len() as u64;
        out.newlines += newlines(bytes);
        match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(at) => out.last_line_bytes = (bytes.len() - at - 1) as u64,
            None => out.last_line_bytes += bytes.len() as u64,
        }
        if let (Spilled::No, Some(spill)) = (&out.spilled, self.spill) {
            if out.total_bytes > self.keep_bytes as u64 {
                // Until now all of it was kept.
                self.file = out.spill(spill);
            }
        }
        if let Some(file) = &mut self.file {
            let room = SPILL_BYTES_MAX.saturating_sub(before);
            let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let written = file.write_all(&bytes[..fits]);
            if let Spilled::To { path, whole } = &mut out.spilled {
                *whole &= fits == bytes.len();
                if let Err(err) = written {
                    out.spilled = Spilled::Failed(Error::io("write", path, &err));
                    self.file = None;
                }
            }
        }
        out.tail.extend_from_slice(bytes);
        if out.tail.len() > 2 * self.keep_bytes {
            out.tail.drain(..out.tail.len() - self.keep_bytes);
        }
    }
}

/// Eight bytes at a time: built for size, the plain loop would cost more than the pipe.
fn newlines(bytes: &[u8]) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    let mut words = bytes.chunks_exact(8);
    let mut count = 0;
    for word in &mut words {
        // A byte that is a newline is zero now, and only then its top bit ends up set.
        let word = <[u8; 8]>::try_from(word).map_or(0, u64::from_ne_bytes);
        let word = word ^ u64::from_ne_bytes([b'\n'; 8]);
        count += u64::from((!(((word & LOW) + LOW) | word | LOW)).count_ones());
    }
    let rest = words.remainder().iter().filter(|&&byte| byte == b'\n');
    count + rest.count() as u64
}

impl Output {
    /// Writes the tail, which must be all there is, to a new spill file.
    pub(crate) fn spill(&mut self, make: Spill<'_>) -> Option<File> {
        let made = make().and_then(|(mut file, path)| match file.write_all(&self.tail) {
            Ok(()) => Ok((file, path)),
            Err(err) => Err(Error::io("write", path, &err)),
        });
        match made {
            Ok((file, path)) => {
                self.spilled = Spilled::To { path, whole: true };
                Some(file)
            }
            Err(err) => {
                self.spilled = Spilled::Failed(err);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::survive;

    #[test]
    fn newlines_are_counted() {
        let all: Vec<u8> = (0..=255)
            .chain([b'\n'; 11])
            .chain(*b"\x0b\x8a\n\0")
            .collect();
        for start in 0..all.len() {
            for end in start..all.len() {
                let plain = all[start..end]
                    .iter()
                    .filter(|&&byte| byte == b'\n')
                    .count();
                assert_eq!(newlines(&all[start..end]), plain as u64, "{start}..{end}");
            }
        }
    }

    /// Bytes, and the marks with where they stood.
    fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(String, usize)>, Vec<u8>) {
        let mut scan = Scan::new(Some("nonce"));
        let mut seen = Vec::new();
        let mut bytes = Vec::new();
        for chunk in chunks {
            scan.feed(chunk, &mut |piece| match piece {
                Piece::Bytes(piece) => bytes.extend_from_slice(piece),
                Piece::Question => seen.push((String::from("?"), bytes.len())),
                Piece::Exit(code) => seen.push((code.to_string(), bytes.len())),
            });
        }
        scan.finish(&mut |piece| bytes.extend_from_slice(piece));
        (seen, bytes)
    }

    #[test]
    fn marks_are_found_however_the_stream_is_cut() {
        let stream = b"a\x1eb\x1enonce x\n\x1enonce ?\nc\x1e\x1enonce 137\nlate\x1enonc".as_slice();
        let want_bytes = b"a\x1eb\x1enonce x\nc\x1elate\x1enonc".to_vec();
        let want = vec![(String::from("?"), 12), (String::from("137"), 14)];
        for size in 1..=stream.len() {
            let found = scan(stream.chunks(size));
            assert_eq!(found, (want.clone(), want_bytes.clone()), "{size}");
        }
    }

    #[test]
    fn survives_mutation() {
        let corpus = [
            "a\x1eb\x1enonce x\n\x1enonce ?\nc\x1e\x1enonce 137\nlate\x1enonc",
            "\x1enonce -1\n\x1enonce 99999999999\n\x1enonce \x1enonce 0\n\n\x1e",
        ];
        survive(&corpus, |random, input| {
            let (marks, bytes) = scan([input]);
            assert!(bytes.len() <= input.len() && marks.iter().all(|(_, at)| *at <= bytes.len()));
            assert_eq!(scan(random.chunks(input)), (marks, bytes));
            let keep_bytes = 1 + random.below(40);
            let mut sink = Sink::new(keep_bytes, None);
            random
                .chunks(input)
                .iter()
                .for_each(|chunk| sink.push(chunk));
            let out = sink.out;
            assert!(input.ends_with(&out.tail) && out.tail.len() <= 2 * keep_bytes);
            assert!(out.tail.len() >= keep_bytes.min(input.len()));
            assert_eq!(out.total_bytes, input.len() as u64);
            let last = input.rsplit(|byte| *byte == b'\n').next();
            assert_eq!(out.last_line_bytes, last.unwrap_or_default().len() as u64);
        });
    }
}

//! What `mom --chat` shows at a terminal during a run: the text as it streams in, each step
//! with its command and the end of its output, and the usage at the end.

use std::io::{self, Write as _};

use crate::agent::run::ToolReport;
use crate::base::text;

use super::paint::{Colors, Painter};

/// Lines shown of a step's arguments, and of its output.
const ARGUMENT_LINES_MAX: usize = 10;
const OUTPUT_LINES_MAX: usize = 5;
/// Characters of the progress line: it is erased later, so it must not wrap.
const WAIT_CHARS_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 200;

pub(crate) struct Screen {
    colors: Colors,
    painter: Painter,
    /// Characters of the progress line that is shown now; 0: none is shown.
    waiting: usize,
    /// The text of this turn was drawn as it streamed in.
    streamed: bool,
    /// The last turn's text is on the screen.
    answered: bool,
}

impl Screen {
    pub(crate) fn new(colors: Colors) -> Screen {
        Screen {
            colors,
            painter: Painter::new(colors),
            waiting: 0,
            streamed: false,
            answered: false,
        }
    }

    /// Shows `what` as the progress line, until something else is shown.
    pub(crate) fn wait(&mut self, what: &str) {
        self.begin_line();
        let what = text::printable(&text::one_line(what, WAIT_CHARS_MAX));
        self.waiting = what.chars().count();
        write(&self.colors.dim(&what));
    }

    pub(crate) fn think(&mut self) {
        self.wait("Thinking ...");
    }

    /// Erases the progress line.
    pub(crate) fn clear(&mut self) {
        if self.waiting > 0 {
            write(&format!("\r{}\r", " ".repeat(self.waiting)));
            self.waiting = 0;
        }
    }

    /// Also ends a text that was broken off while it streamed in.
    fn begin_line(&mut self) {
        self.clear();
        write(&self.painter.end());
        self.streamed = false;
    }

    pub(crate) fn text(&mut self, piece: &str) {
        self.clear();
        self.streamed = true;
        write(&self.painter.push(&text::printable(piece)));
    }

    /// Ends the text of a turn; draws the whole text if none of it streamed in.
    pub(crate) fn end_text(&mut self, whole: &str) {
        self.clear();
        if !self.streamed {
            write(&self.painter.push(&text::printable(whole.trim())));
        }
        write(&self.painter.end());
        self.streamed = false;
    }

    /// The same at the end of a model turn; its text is the answer if no other turn follows.
    pub(crate) fn end_turn(&mut self, whole: &str) {
        self.answered = !whole.trim().is_empty();
        if self.streamed || self.answered {
            self.end_text(whole);
        }
    }

    /// Whether the text of the last turn was shown; resets that for the next message.
    pub(crate) fn answered(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    pub(crate) fn step(&mut self, report: &ToolReport) {
        self.begin_line();
        let took = text::duration(report.duration);
        let mut out = format!("{} {} · {took}\n", report.mark(), report.step.label);
        for line in report.step.arguments.lines().take(ARGUMENT_LINES_MAX) {
            out.push_str(&format!("  {}\n", text::one_line(line, LINE_CHARS_MAX)));
        }
        let lines = report.step.arguments.lines().count();
        if lines > ARGUMENT_LINES_MAX {
            let more = text::count(lines - ARGUMENT_LINES_MAX, "more line");
            out.push_str(&format!("  ... ({more})\n"));
        }
        write(&text::printable(&out));
        let lines: Vec<&str> = report.result.trim_end().lines().collect();
        let last = lines.len().saturating_sub(OUTPUT_LINES_MAX);
        for line in &lines[last..] {
            let line = text::printable(&text::one_line(line, LINE_CHARS_MAX));
            write(&format!("  {}\n", self.colors.dim(&line)));
        }
    }

    /// Shows a whole line, which stays.
    pub(crate) fn line(&mut self, line: &str) {
        self.begin_line();
        write(&format!("{}\n", text::printable(line)));
    }

    /// Shows a question; the answer is typed after it on the same line.
    pub(crate) fn ask(&mut self, question: &str) {
        self.begin_line();
        write(question);
    }

    pub(crate) fn dim_line(&mut self, line: &str) {
        self.begin_line();
        write(&format!("{}\n", self.colors.dim(&text::printable(line))));
    }
}

fn write(text: &str) {
    let mut stdout = io::stdout();
    // Errors are ignored: if the terminal was closed, the next read ends the conversation.
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .ok();
}

//! What mom's own records in a context say: which run is on and what it answers, how far
//! log.jsonl was read, what all of it cost. Each has all of it, so that the newest is enough.

use serde_json::Value;

use crate::base::json::{self, Obj};

/// Dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Costs {
    /// By local date.
    pub(crate) today: f64,
    pub(crate) total: f64,
}

/// What a record says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    pub(super) run: Option<Run>,
    /// Byte of log.jsonl up to which it was taken over, and a hash of what stood before it.
    pub(super) log_position: u64,
    pub(super) log_mark: String,
    /// `2026-01-05`
    pub(super) day: String,
    pub(super) costs: Costs,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    pub(super) asked: Vec<String>,
    /// Those of them that are in the context, in its summary perhaps.
    pub(super) taken: Vec<String>,
    /// Waited for this run's next turn when it was stopped: not in the context, not to be
    /// answered.
    pub(super) dropped: Vec<String>,
    pub(super) tries: u32,
    pub(super) thread_ts: Option<String>,
    pub(super) status_ts: Option<String>,
    pub(super) answer_ts: Option<String>,
    /// Entry before the run's first; `None` for a root.
    pub(super) before: Option<String>,
    pub(super) done: bool,
}

impl Run {
    pub(super) fn ask(&mut self, ts: &str) {
        if !self.asked.iter().any(|asked| asked == ts) {
            self.asked.push(ts.to_owned());
        }
    }
}

impl State {
    pub(super) fn write(&self, event: &str) -> String {
        let mut out = Obj::new().str("event", event);
        if let Some(run) = &self.run {
            let list = json::texts;
            let run = Obj::new()
                .raw("asked", &list(&run.asked))
                .raw("taken", &list(&run.taken))
                .raw("dropped", &list(&run.dropped))
                .num("tries", run.tries)
                .opt_str("thread", run.thread_ts.as_deref())
                .opt_str("status", run.status_ts.as_deref())
                .opt_str("answer", run.answer_ts.as_deref())
                .opt_str("before", run.before.as_deref())
                .value("done", &run.done.into());
            out = out.raw("run", &run.end());
        }
        out.num("logPosition", self.log_position)
            .str("logMark", &self.log_mark)
            .str("day", &self.day)
            .value("costToday", &self.costs.today.into())
            .value("costTotal", &self.costs.total.into())
            .end()
    }

    pub(super) fn parse(data: &Value) -> State {
        let run = &data["run"];
        let text = |key: &str| run[key].as_str().map(str::to_owned);
        let list = |key: &str| json::strings(&run[key]).collect();
        State {
            run: run.is_object().then(|| Run {
                asked: list("asked"),
                taken: list("taken"),
                dropped: list("dropped"),
                tries: run["tries"].as_u64().unwrap_or_default().min(1_000) as u32,
                thread_ts: text("thread"),
                status_ts: text("status"),
                answer_ts: text("answer"),
                before: text("before"),
                done: run["done"] == true,
            }),
            log_position: data["logPosition"].as_u64().unwrap_or_default(),
            log_mark: data["logMark"].as_str().unwrap_or_default().to_owned(),
            day: data["day"].as_str().unwrap_or_default().to_owned(),
            costs: Costs {
                today: data["costToday"].as_f64().unwrap_or_default(),
                total: data["costTotal"].as_f64().unwrap_or_default(),
            },
        }
    }
}

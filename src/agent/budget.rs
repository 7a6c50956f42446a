//! `--budget=DOLLARS`: what all conversations and events together may cost per local day. Owns
//! today's sum; the ledger stores it on disk. When the budget is used up, the front ends answer
//! requests with `Budget::sentence`.

use std::sync::{Arc, Mutex};

use crate::base::error::{Error, Result};
use crate::base::finding::Finding;
use crate::base::json;
use crate::base::log;
use crate::base::text;
use crate::base::time;
use crate::config::Config;
use crate::llm::{Model, Usage};
use crate::store;
use crate::store::dir::Dir;
use crate::store::ledger;

/// The usage line shows the budget once this part of it is used.
const NAMED_FROM: f64 = 0.8;
const NO_LIMIT: &str = "none, a day may cost any amount";

pub(crate) struct Budget {
    /// Dollars per day; `None`: no limit.
    limit: Option<f64>,
    dir: Arc<Dir>,
    spent: Mutex<SpentToday>,
}

/// What was spent on a day, in all conversations.
#[derive(Default)]
struct SpentToday {
    /// Local day, counted since 1970.
    day: i64,
    dollars: f64,
}

/// How much of the budget is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BudgetUse {
    /// Dollars.
    spent: f64,
    limit: f64,
}

impl Budget {
    /// # Errors
    /// `Error::Usage`: the budget is not an amount, or the model's prices are unknown.
    pub(crate) fn open(config: &Config, model: &Model, dir: &Arc<Dir>) -> Result<Budget> {
        let limit = limit(config)?;
        check_price(config, model)?;
        Ok(Budget {
            limit,
            dir: dir.clone(),
            spent: Mutex::default(),
        })
    }

    /// Counts the cost of a reply or a summary. The ledger gets it afterwards, so a cost that
    /// can't be written counts as well.
    pub(crate) fn spend(&self, usage: &Usage) {
        if self.limit.is_some() {
            let dollars = usage.cost.map_or(0.0, |cost| cost.total());
            self.with_spent(|spent| *spent += dollars);
        }
    }

    /// `None`: there is no limit.
    pub(crate) fn used(&self) -> Option<BudgetUse> {
        let limit = self.limit?;
        let spent = self.with_spent(|spent| *spent);
        Some(BudgetUse { spent, limit })
    }

    /// One line for the `status` command.
    pub(crate) fn text(&self) -> String {
        self.used()
            .map_or_else(|| NO_LIMIT.to_owned(), |used| used.text())
    }

    /// Whether no model may be asked any more today.
    pub(crate) fn is_used_up(&self) -> bool {
        self.used().is_some_and(|used| used.spent >= used.limit)
    }

    /// What people read when the budget is used up; Markdown that is also valid Slack mrkdwn.
    pub(crate) fn sentence(&self) -> String {
        let limit = text::dollars(self.limit.unwrap_or_default());
        format!(
            "_My budget of {limit} for today is used up: I go on after midnight, or when the \
             person who runs me raises it (--budget)._"
        )
    }

    fn with_spent<T>(&self, look: impl FnOnce(&mut f64) -> T) -> T {
        let mut spent = self.spent.lock().unwrap();
        look(spent.on(time::local_day(), || on_disk(&self.dir)))
    }
}

impl SpentToday {
    /// The sum of `day`. When the stored sum is of another day, `read` gets the sum from disk.
    fn on(&mut self, day: i64, read: impl FnOnce() -> f64) -> &mut f64 {
        if self.day != day {
            let dollars = read();
            *self = SpentToday { day, dollars };
        }
        &mut self.dollars
    }
}

impl BudgetUse {
    /// `$4.20 of $5.00 today`
    fn text(&self) -> String {
        let (spent, limit) = (text::dollars(self.spent), text::dollars(self.limit));
        format!("{spent} of {limit} today")
    }

    /// Text for the usage line, once most of the budget is used.
    pub(crate) fn warning(&self) -> Option<String> {
        let part = self.spent / self.limit;
        let percent = (part * 100.0) as u64;
        (part >= NAMED_FROM).then(|| format!("{percent} % of the budget: {}", self.text()))
    }
}

/// What `--check` says about the budget; the model's prices are checked elsewhere.
pub(crate) fn check(config: &Config, dir: Option<&Dir>) -> Finding {
    let what = "budget";
    match limit(config) {
        Ok(Some(limit)) => {
            let spent = dir.map_or(0.0, on_disk);
            Finding::ok(what, BudgetUse { spent, limit }.text())
        }
        Ok(None) => Finding::ok(what, NO_LIMIT),
        Err(err) => Finding::failed(what, &err, "--budget=DOLLARS or MOM_BUDGET"),
    }
}

/// Checks that a budget is only set for a model whose prices are known; `offline` costs nothing.
pub(crate) fn check_price(config: &Config, model: &Model) -> Result<()> {
    let Some(typed) = &config.budget else {
        return Ok(());
    };
    if model.price.is_some() || model.provider == "offline" {
        return Ok(());
    }
    let Model { provider, id, .. } = model;
    Err(Error::Usage(format!(
        "--budget={typed} can't be kept with {provider}/{id}, whose prices are unknown; give \
         them as --price=IN,OUT, in dollars per million tokens (0,0 for what costs nothing)"
    )))
}

fn limit(config: &Config) -> Result<Option<f64>> {
    let Some(typed) = &config.budget else {
        return Ok(None);
    };
    let dollars = json::number(typed.trim()).filter(|dollars| *dollars > 0.0);
    let wrong = || {
        Error::Usage(format!(
            "--budget={typed}: write dollars a day, more than 0, like --budget=5 or --budget=0.50"
        ))
    };
    dollars.map(Some).ok_or_else(wrong)
}

/// Today's dollars, read from the ledger. A file that can't be read counts as 0, with a warning.
fn on_disk(dir: &Dir) -> f64 {
    let channels = store::channels(dir).unwrap_or_else(|err| {
        log::warning!("", "cannot read today's costs: {err}");
        Vec::new()
    });
    let spent = channels.iter().map(|channel| {
        ledger::spent_today(dir, channel).unwrap_or_else(|err| {
            log::warning!(channel, "cannot read today's costs of this channel: {err}");
            0.0
        })
    });
    spent.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_midnight_it_starts_anew() {
        let mut spent = SpentToday::default();
        *spent.on(20_000, || 0.25) += 0.5;
        assert_eq!(*spent.on(20_000, || panic!("read already")), 0.75);
        assert_eq!(*spent.on(20_001, || 0.0), 0.0);
    }
}

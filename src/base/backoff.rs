//! Pauses between the tries of something that fails: each is twice as long as the one before, up
//! to a limit, with jitter, so that many clients do not come back at the same instant. The
//! caller decides what counts as a failure and when to give up.

use std::time::Duration;

use crate::base::error::Result;
use crate::base::random;
use crate::base::stop::Stop;

#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    /// Pauses since the last success.
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Backoff {
        Backoff {
            first,
            max,
            failures: 0,
        }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and returns the pause before the next try.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let factor = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        jittered(self.first.saturating_mul(factor).min(self.max))
    }

    /// Counts a failure and waits: as long as the server asks (`after`), else the next pause.
    pub(crate) fn wait(&mut self, stop: &Stop, after: Option<Duration>) -> Result<()> {
        let pause = self.next_pause();
        stop.wait(after.unwrap_or(pause))
    }

    /// A try succeeded: the next failure starts from the first pause again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// 0.75 to 1.25 of `pause`.
fn jittered(pause: Duration) -> Duration {
    // Without random bytes the pause is exact.
    let byte = random::bytes::<1>().map_or(128, |[byte]| byte);
    pause.mul_f64(0.75 + f64::from(byte) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_again_after_a_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 5);
        for seconds in [1, 2, 4, 5, 5] {
            let pause = backoff.next_pause();
            let exact = second * seconds;
            assert!(pause >= exact * 3 / 4 && pause < exact * 5 / 4, "{pause:?}");
        }
        assert_eq!(backoff.failures(), 5);
        backoff.failures = u32::MAX;
        assert!(backoff.next_pause() < second * 7);
        backoff.reset();
        assert!(backoff.next_pause() < second * 2);
    }
}

//! How long to wait before another attempt.

use jiff::SignedDuration;

/// Waits that double with each failure, up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: SignedDuration,
    /// The longest.
    pub limit: SignedDuration,
}

impl Backoff {
    /// Between the attempts of a run or a restore.
    pub const ATTEMPT: Self = Self {
        first: SignedDuration::from_secs(30),
        limit: SignedDuration::from_mins(10),
    };
    /// Between the passes of a store's keeper.
    pub const PASS: Self = Self {
        first: SignedDuration::from_mins(1),
        limit: SignedDuration::from_mins(30),
    };
    /// Between the copy Jobs of one source and store.
    pub const COPY: Self = Self {
        first: SignedDuration::from_secs(30),
        limit: SignedDuration::from_mins(30),
    };
    /// Between the probes of a store.
    pub const PROBE: Self = Self {
        first: SignedDuration::from_secs(15),
        limit: SignedDuration::from_mins(30),
    };

    /// How long to wait after so many failures in a row, the first being 1; zero after none.
    ///
    /// Up to a quarter is taken off, by a hash of `name` and `failures`: what failed together is not tried again together, and the
    /// same question has the same answer after a restart.
    pub fn delay(&self, failures: u32, name: &str) -> SignedDuration {
        let Some(doublings) = failures.checked_sub(1) else {
            return SignedDuration::ZERO;
        };
        let full = 2_i32
            .checked_pow(doublings)
            .and_then(|factor| self.first.checked_mul(factor))
            .map_or(self.limit, |full| full.min(self.limit));
        let hash = blake3::hash(format!("holdfast.dev backoff v1\n{name}\n{failures}").as_bytes());
        let part = i32::from(hash.as_bytes()[0]);
        full - full / 1024 * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit() {
        let seconds = [0, 30, 60, 120, 240, 480, 600, 600];
        for (failures, expected) in (0..).zip(seconds) {
            let full = SignedDuration::from_secs(expected);
            for run in ["a", "b", "c", "shop-nightly-20261120t2210z-aaaaaaaa"] {
                let delay = Backoff::ATTEMPT.delay(failures, run);
                assert!(delay <= full && delay >= full * 3 / 4, "{failures}: {delay:?}");
                assert_eq!(delay, Backoff::ATTEMPT.delay(failures, run));
            }
        }
        for failures in [31, 32, 33, 64, u32::MAX] {
            assert!(Backoff::PROBE.delay(failures, "x") <= Backoff::PROBE.limit);
            assert!(Backoff::PROBE.delay(failures, "x") >= Backoff::PROBE.limit * 3 / 4);
        }
    }

    #[test]
    fn what_failed_together_is_not_tried_together() {
        let delays: std::collections::BTreeSet<_> = (0..100).map(|run| Backoff::ATTEMPT.delay(3, &run.to_string())).collect();
        assert!(delays.len() > 50, "{}", delays.len());
    }
}

//! The API server's clock, carried on by our own monotonic clock between its answers. The wall clock of this machine decides nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// How far the estimate may run ahead of an answer's `Date` before it is believed to be wrong: an answer may be on its way for a while.
const SLACK: SignedDuration = SignedDuration::from_secs(2);
/// `Date` has whole seconds.
const RESOLUTION: SignedDuration = SignedDuration::from_secs(1);

/// Time by the `Date` headers of the API server.
#[derive(Clone, Debug, Default)]
pub struct ServerClock(Arc<Mutex<Option<Sample>>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    taken: Instant,
    time: Timestamp,
}

impl Sample {
    fn at(self, now: Instant) -> Timestamp {
        let passed = now.saturating_duration_since(self.taken);
        self.time.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }
}

impl ServerClock {
    /// Takes in the `Date` of an answer that has just arrived. The estimate only moves where the answer contradicts it.
    pub fn observe(&self, date: Timestamp) {
        let taken = Instant::now();
        let mut sample = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = match *sample {
            Some(before) => within(before.at(taken), date),
            None => date,
        };
        *sample = Some(Sample { taken, time });
    }

    /// The API server's time, within about two seconds; ours before its first answer.
    pub fn now(&self) -> Timestamp {
        let sample = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sample.map_or_else(Timestamp::now, |sample| sample.at(Instant::now()))
    }

    /// How long it is until `time`; zero if it has passed.
    pub fn until(&self, time: Timestamp) -> Duration {
        Duration::try_from(time.duration_since(self.now())).unwrap_or_default()
    }

    /// Whether any answer was seen.
    pub fn is_set(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// `Date` is a lower bound of the server's time, and with the way here an upper one.
fn within(estimate: Timestamp, date: Timestamp) -> Timestamp {
    let latest = date.saturating_add(RESOLUTION).unwrap_or(date);
    if estimate < date {
        date
    } else if estimate.duration_since(latest) > SLACK {
        latest
    } else {
        estimate
    }
}

/// Reads the `Date` of an answer (RFC 9110, `Sun, 06 Nov 1994 08:49:37 GMT`).
pub fn date_of(headers: &http::HeaderMap) -> Option<Timestamp> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    let zoned = jiff::fmt::rfc2822::DateTimeParser::new().parse_zoned(text).ok()?;
    Some(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn reads_the_date_of_an_answer() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(date_of(&headers), None);
        headers.insert(http::header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert_eq!(date_of(&headers), Some(at("1994-11-06T08:49:37Z")));
        headers.insert(http::header::DATE, "yesterday".parse().unwrap());
        assert_eq!(date_of(&headers), None);
    }

    #[test]
    fn the_estimate_moves_only_where_an_answer_contradicts_it() {
        let date = at("2026-01-01T00:00:10Z");
        for (estimate, expected) in [
            ("2026-01-01T00:00:10.7Z", "2026-01-01T00:00:10.7Z"),
            ("2026-01-01T00:00:12.9Z", "2026-01-01T00:00:12.9Z"), // on its way for two seconds
            ("2026-01-01T00:00:09.9Z", "2026-01-01T00:00:10Z"),
            ("2026-01-01T00:00:14Z", "2026-01-01T00:00:11Z"),
            ("1970-01-01T00:00:00Z", "2026-01-01T00:00:10Z"),
            ("2106-01-01T00:00:00Z", "2026-01-01T00:00:11Z"),
        ] {
            assert_eq!(within(at(estimate), date), at(expected), "{estimate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn runs_on_between_answers() {
        let clock = ServerClock::default();
        assert!(!clock.is_set());
        clock.observe(at("2026-01-01T00:00:00Z"));
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), at("2026-01-01T00:01:30Z"));
        assert_eq!(clock.until(at("2026-01-01T00:02:00Z")), Duration::from_secs(30));
        assert_eq!(clock.until(at("2025-01-01T00:00:00Z")), Duration::ZERO);
    }
}

//! What a long command is at, in one log line every few seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::pipeline::Counters;

/// How often a line is logged.
const EVERY: Duration = Duration::from_secs(5);

/// What is being done, shared by the command and the line.
#[derive(Clone, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Default)]
struct Shared {
    counters: Arc<Counters>,
    expected: AtomicU64,
    phase: Mutex<Phase>,
}

#[derive(Clone)]
struct Phase {
    name: &'static str,
    subject: String,
    began: Instant,
    durations: std::collections::BTreeMap<String, u64>,
}

impl Default for Phase {
    fn default() -> Self {
        Self {
            name: "start",
            subject: String::new(),
            began: Instant::now(),
            durations: std::collections::BTreeMap::new(),
        }
    }
}

impl Progress {
    /// The counters that the pipeline adds to.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }

    /// A new phase begins, about something such as a database; it is logged once.
    pub fn enter(&self, name: &'static str, subject: &str) {
        let mut phase = self.0.phase.lock().unwrap_or_else(PoisonError::into_inner);
        phase.close();
        phase.name = name;
        subject.clone_into(&mut phase.subject);
        tracing::info!(phase = name, subject, "phase");
    }

    /// The raw bytes that are expected in all: an estimate.
    pub fn expect(&self, bytes: u64) {
        self.0.expected.store(bytes, Ordering::Relaxed);
    }

    /// Milliseconds of each phase so far.
    pub fn durations(&self) -> std::collections::BTreeMap<String, u64> {
        let mut phase = self.0.phase.lock().unwrap_or_else(PoisonError::into_inner);
        phase.close();
        phase.durations.clone()
    }

    /// Logs a line every few seconds, for ever: to be run beside the work.
    pub async fn log(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let (mut before, mut at) = (0, Instant::now());
        loop {
            ticks.tick().await;
            let read = self.0.counters.raw.load(Ordering::Relaxed);
            let stored = self.0.counters.stored.load(Ordering::Relaxed);
            let expected = self.0.expected.load(Ordering::Relaxed);
            let seconds = at.elapsed().as_secs_f64();
            let rate = rate(read.saturating_sub(before), seconds);
            (before, at) = (read, Instant::now());
            let (name, subject) = {
                let phase = self.0.phase.lock().unwrap_or_else(PoisonError::into_inner);
                (phase.name, phase.subject.clone())
            };
            let left = (rate > 0 && expected > read).then(|| (expected - read) / rate);
            tracing::info!(
                phase = name,
                subject,
                readBytes = read,
                storedBytes = stored,
                bytesPerSecond = rate,
                expectedBytes = expected,
                secondsLeft = left,
                "progress"
            );
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate for people"
)]
fn rate(bytes: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 }
}

impl Phase {
    fn close(&mut self) {
        let spent = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        *self.durations.entry(self.name.to_owned()).or_default() += spent;
        self.began = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn phases_that_come_again_add_up() {
        let progress = Progress::default();
        for subject in ["a", "b"] {
            progress.enter("dump", subject);
            tokio::time::advance(Duration::from_secs(2)).await;
            progress.enter("index", subject);
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        let durations = progress.durations();
        assert_eq!((durations["dump"], durations["index"]), (4000, 1000));
    }
}

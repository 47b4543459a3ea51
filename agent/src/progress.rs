//! What a long command is at, in one log line every few seconds.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    phase: Mutex<Phase>,
}

struct Phase {
    name: &'static str,
    subject: String,
    began: Instant,
    /// What the counters showed when it began.
    from: Moved,
    /// What of each phase had moved by the last line, and when that was.
    told: (u64, Instant),
    /// By phase: one that comes again goes on.
    durations: BTreeMap<String, u64>,
    moved: BTreeMap<&'static str, Moved>,
    expected: BTreeMap<&'static str, u64>,
}

/// Bytes that passed.
#[derive(Clone, Copy, Default)]
struct Moved {
    raw: u64,
    stored: u64,
}

impl Moved {
    fn of(counters: &Counters) -> Self {
        Self {
            raw: counters.raw.load(Ordering::Relaxed),
            stored: counters.stored.load(Ordering::Relaxed),
        }
    }

    fn since(self, from: Self) -> Self {
        Self {
            raw: self.raw.saturating_sub(from.raw),
            stored: self.stored.saturating_sub(from.stored),
        }
    }

    fn and(self, more: Self) -> Self {
        Self {
            raw: self.raw + more.raw,
            stored: self.stored + more.stored,
        }
    }

    /// What the phase is about: where nothing raw flows, as when digests are compared, what is stored.
    fn flow(self) -> u64 {
        if self.raw > 0 { self.raw } else { self.stored }
    }
}

impl Default for Phase {
    fn default() -> Self {
        Self {
            name: "start",
            subject: String::new(),
            began: Instant::now(),
            from: Moved::default(),
            told: (0, Instant::now()),
            durations: BTreeMap::new(),
            moved: BTreeMap::new(),
            expected: BTreeMap::new(),
        }
    }
}

impl Progress {
    /// The counters that the pipeline adds to.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new phase begins, about something such as a database; it is logged once.
    pub fn enter(&self, name: &'static str, subject: &str) {
        let mut phase = self.phase();
        phase.close(&self.0.counters);
        if phase.name != name {
            phase.told = (phase.moved(name).flow(), Instant::now());
        }
        phase.name = name;
        subject.clone_into(&mut phase.subject);
        tracing::info!(phase = name, subject, "phase");
    }

    /// The bytes that are expected in all of this phase: raw ones, or stored ones where nothing raw flows. An estimate.
    pub fn expect(&self, phase: &'static str, bytes: u64) {
        self.phase().expected.insert(phase, bytes);
    }

    /// Milliseconds of each phase so far.
    pub fn durations(&self) -> BTreeMap<String, u64> {
        let mut phase = self.phase();
        phase.close(&self.0.counters);
        phase.durations.clone()
    }

    /// Logs a line every few seconds, for ever: to be run beside the work.
    pub async fn log(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.tell();
        }
    }

    /// Logs how far the phase is: its own bytes, and how fast they went since the last line.
    pub fn tell(&self) {
        let mut phase = self.phase();
        phase.close(&self.0.counters);
        let name = phase.name;
        let moved = phase.moved(name);
        let (before, at) = std::mem::replace(&mut phase.told, (moved.flow(), Instant::now()));
        let rate = rate(moved.flow().saturating_sub(before), at.elapsed().as_secs_f64());
        let expected = phase.expected.get(name).copied();
        let left = expected.and_then(|expected| expected.checked_sub(moved.flow())?.checked_div(rate));
        tracing::info!(
            phase = name,
            subject = phase.subject,
            readBytes = moved.raw,
            storedBytes = moved.stored,
            bytesPerSecond = rate,
            expectedBytes = expected,
            secondsLeft = left,
            "progress"
        );
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
    /// Adds what passed since it began, or since this was done last.
    fn close(&mut self, counters: &Counters) {
        let spent = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        *self.durations.entry(self.name.to_owned()).or_default() += spent;
        let now = Moved::of(counters);
        let moved = self.moved(self.name).and(now.since(self.from));
        self.moved.insert(self.name, moved);
        (self.began, self.from) = (Instant::now(), now);
    }

    fn moved(&self, name: &str) -> Moved {
        self.moved.get(name).copied().unwrap_or_default()
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

//! How long an answer is waited for: by what is known of the line, and by how far the body has got.

use super::SILENCE;
use std::{
    pin::pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// For how long a connection may take nothing of a body: the kernel makes room for more only when a third of its buffer is free.
const STALL: Duration = Duration::from_secs(120);
/// How often it is looked at how far a body has got.
const STEP: Duration = Duration::from_secs(5);
/// The slowest line that is waited for, in bytes per second for one request.
const SLOWEST: f64 = 2048.0;
/// Bodies smaller than this say nothing about the line, in bytes.
const TELLING: u64 = 256 << 10;
/// How much slower than the slowest of late a request may be.
const SLACK: f64 = 8.0;
/// How often the patience with a line of unknown speed is doubled.
const MOST_DOUBLINGS: u32 = 5;

/// How fast bodies get through. A body lies in buffers of the client and the kernel before it has crossed a slow line, so that silence behind
/// its end says little; silence before it does.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    /// Seconds per byte of the slowest request of late, once that is known.
    slowest: Option<f64>,
    /// Requests that were given up, one after the other.
    silences: u32,
}

impl Line {
    /// How long to wait for the answer once the connection has taken all `length` bytes of a body.
    fn patience(&self, length: u64) -> Duration {
        let worst = 1.0 / SLOWEST;
        let expected = self.slowest.map_or(worst, |seconds| (seconds * SLACK).min(worst));
        let patience = SILENCE + Duration::from_secs_f64(expected * as_f64(length));
        if self.slowest.is_some() {
            patience
        } else {
            patience.min(self.doubled(SILENCE * 2))
        }
    }

    /// Who was too impatient with a line waits longer next time.
    fn doubled(&self, time: Duration) -> Duration {
        time * (1 << self.silences.min(MOST_DOUBLINGS))
    }
}

impl Rate {
    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the answer to a request with a body of `length` bytes, of which the connection has taken `taken`.
    ///
    /// # Errors
    /// What was silent, and for how long.
    pub(super) async fn wait<T>(&self, length: u64, taken: &AtomicU64, answer: impl Future<Output = T>) -> Result<T, String> {
        let begun = Instant::now();
        let mut answer = pin!(answer);
        let (mut seen, mut since) = (0, begun);
        loop {
            let whole = seen >= length;
            let patience = if whole {
                // What the line needs for the bytes that still lie in buffers is less than it needed for all before them.
                self.line().patience(length).max(SILENCE + (since - begun))
            } else {
                self.line().doubled(STALL)
            };
            tokio::select! {
                answered = &mut answer => {
                    self.took(length, begun.elapsed());
                    return Ok(answered);
                }
                () = tokio::time::sleep_until((since + patience).min(Instant::now() + STEP)) => {}
            }
            let now = taken.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= patience {
                self.too_slow();
                let seconds = patience.as_secs();
                return Err(if whole {
                    format!("silence for {seconds} s")
                } else {
                    format!("it took nothing more of the body for {seconds} s, behind {seen} of {length} bytes")
                });
            }
        }
    }

    fn took(&self, length: u64, time: Duration) {
        if length >= TELLING {
            let seconds = time.as_secs_f64() / as_f64(length);
            let mut line = self.line();
            line.slowest = Some(line.slowest.map_or(seconds, |slowest| seconds.max(slowest * 0.9)));
            line.silences = 0;
        }
    }

    /// A request was given up: the next gets more time.
    fn too_slow(&self) {
        let mut line = self.line();
        line.silences = line.silences.saturating_add(1);
        if let Some(slowest) = &mut line.slowest {
            *slowest *= SLACK;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of pieces are far below 2^52 bytes")]
fn as_f64(length: u64) -> f64 {
    length as f64
}

#[cfg(test)]
mod tests;

//! Which objects are to be reconciled, and the loop that does it: each object once at a time, 16 objects at once, every step with a
//! deadline, failures with a back-off of their own per object.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use holdfast_crds::Class;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    context::{Error, chain},
    metrics::Metrics,
    watch::Key,
};

/// Objects of one kind that are reconciled at once.
const CONCURRENCY: usize = 16;
/// How long one reconciliation may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The waits after failures that may go away: from, to.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The wait after a failure that only a person can change.
const HEARTBEAT: Duration = Duration::from_secs(1_800);

/// What a reconciliation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Change,
    /// To be called again after this time, if nothing changes before.
    After(Duration),
}

impl Next {
    /// The earlier of two.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::After(a), Self::Change) | (Self::Change, Self::After(a)) => Self::After(a),
            (Self::Change, Self::Change) => Self::Change,
        }
    }
}

/// A controller of one kind.
pub trait Reconcile: Send + Sync + 'static {
    /// The kind, as metrics and logs name it.
    const KIND: &'static str;

    /// Brings what is closer to what is wanted. The object may be gone.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Next, Error>> + Send;
}

/// A set of objects that wait: each is in it once, so that it holds at most as many as there are objects. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Key>,
    queued: HashSet<Key>,
    delayed: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    running: HashSet<Key>,
    /// Objects that were added while they were running.
    again: HashSet<Key>,
}

impl Queue {
    /// To be reconciled as soon as possible.
    pub fn add(&self, key: Key) {
        self.state().add(key);
        self.0.changed.notify_one();
    }

    /// To be reconciled after `wait`, or earlier where that is asked for already. Collects bursts.
    pub fn add_after(&self, key: Key, wait: Duration) {
        self.state().add_at(key, Instant::now() + wait);
        self.0.changed.notify_one();
    }

    /// How many wait now.
    pub fn depth(&self) -> usize {
        let state = self.state();
        state.ready.len() + state.again.len()
    }

    /// How many wait now or later.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        let state = self.state();
        state.ready.len() + state.again.len() + state.delayed.len()
    }

    /// What is collected is complete: it is to be reconciled as soon as possible.
    pub fn hasten(&self) {
        let mut state = self.state();
        if let Some((last, _)) = state.delayed.last().cloned() {
            state.promote(last);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    async fn next(&self) -> Key {
        loop {
            let wake = {
                let mut state = self.state();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    return key;
                }
                state.delayed.first().map(|(at, _)| *at)
            };
            let changed = self.0.changed.notified();
            match wake {
                Some(at) => tokio::select! { () = changed => {}, () = sleep_until(at) => {} },
                None => changed.await,
            }
        }
    }

    fn done(&self, key: &Key) {
        let mut state = self.state();
        state.running.remove(key);
        if state.again.remove(key) {
            state.add(key.clone());
            drop(state);
            self.0.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: Key) {
        if self.running.contains(&key) {
            self.again.insert(key);
            return;
        }
        self.undelay(&key);
        if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: Key, at: Instant) {
        if self.queued.contains(&key) || self.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        self.undelay(&key);
        self.due.insert(key.clone(), at);
        self.delayed.insert((at, key));
    }

    fn undelay(&mut self, key: &Key) {
        if let Some(at) = self.due.remove(key) {
            self.delayed.remove(&(at, key.clone()));
        }
    }

    /// Moves what is due to where it is ready.
    fn promote(&mut self, now: Instant) {
        while let Some((at, key)) = self.delayed.first().cloned()
            && at <= now
        {
            self.undelay(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<Key> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }
}

/// Reconciles what is in `queue` until `stop`; then nothing new begins, and it returns when what runs is done.
pub async fn run<R: Reconcile>(reconciler: Arc<R>, queue: Queue, metrics: Metrics, stop: impl Future<Output = ()> + Send) {
    let mut stop = pin!(stop);
    let mut running = JoinSet::new();
    let mut keys: HashMap<tokio::task::Id, (Key, Instant)> = HashMap::new();
    let mut failures: HashMap<Key, u32> = HashMap::new();
    let mut stopping = false;
    let depth = metrics.queue_depth.with_label_values(&[R::KIND]);
    loop {
        if stopping && running.is_empty() {
            return;
        }
        tokio::select! {
            () = &mut stop, if !stopping => stopping = true,
            key = queue.next(), if !stopping && running.len() < CONCURRENCY => {
                let (task, of) = (reconciler.clone(), key.clone());
                let handle = running.spawn(async move { timeout(DEADLINE, task.reconcile(&of)).await });
                keys.insert(handle.id(), (key, Instant::now()));
            }
            Some(ended) = running.join_next_with_id() => {
                let (id, outcome) = match ended {
                    Ok((id, Ok(outcome))) => (id, outcome),
                    Ok((id, Err(_))) => (id, Err(Error::Deadline(DEADLINE))),
                    Err(error) => (error.id(), Err(Error::Panic(error.to_string()))),
                };
                let Some((key, started)) = keys.remove(&id) else { continue };
                let result = match &outcome {
                    Ok(_) => "ok",
                    Err(Error::Deadline(_)) => "deadline",
                    Err(_) => "error",
                };
                metrics.reconciles.with_label_values(&[R::KIND, result]).observe(started.elapsed().as_secs_f64());
                queue.done(&key);
                if let Some(wait) = settle(R::KIND, &key, outcome, &mut failures) {
                    queue.add_after(key, wait);
                }
            }
        }
        depth.set(i64::try_from(queue.depth()).unwrap_or(i64::MAX));
    }
}

/// When an object is to be reconciled again by itself. One line in the log when it begins to fail and one when it works again.
fn settle(kind: &'static str, key: &Key, outcome: Result<Next, Error>, failures: &mut HashMap<Key, u32>) -> Option<Duration> {
    match outcome {
        Ok(next) => {
            if let Some(count) = failures.remove(key) {
                tracing::info!(kind, object = %key, failures = count, "reconciling works again");
            }
            match next {
                Next::Change => None,
                Next::After(wait) => Some(wait),
            }
        }
        // Somebody wrote or deleted in between, or leadership is on its way out: all are ordinary.
        Err(error) if error.is_conflict() || error.is_not_found() || error.is_not_leading() => {
            tracing::debug!(kind, object = %key, error = chain(&error), "reconciling again");
            let count = failures.entry(key.clone()).or_insert(0);
            Some(backoff(std::mem::replace(count, count.saturating_add(1))))
        }
        Err(error) => {
            let count = failures.entry(key.clone()).or_insert(0);
            let before = std::mem::replace(count, count.saturating_add(1));
            if before == 0 {
                tracing::warn!(kind, object = %key, error = chain(&error), "reconciling failed; it is tried again with back-off");
            } else {
                tracing::debug!(kind, object = %key, failures = before + 1, error = chain(&error), "reconciling failed again");
            }
            match error.class() {
                Class::Transient | Class::Fine => Some(backoff(before)),
                Class::Structural => Some(HEARTBEAT),
                Class::Terminal => None,
            }
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let (first, cap) = BACKOFF;
    first.saturating_mul(1 << failures.min(16)).min(cap)
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod tests;

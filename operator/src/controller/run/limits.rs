//! How many runs are at work at once, by store and namespace: who may begin, and who waits at which place.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use holdfast_crds::{BackupRun, Reason, StoreKind, StoreReference};
use holdfast_policy::{
    protection::{Evidence, Protection},
    turn::{Claim, Turn, turns},
};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    dereference,
    turn::{self, Exclusions},
};
use crate::{
    attempt::Obstacle,
    controller::{carry_out::created, stores::choose},
    queue::Next,
    watch::{Caches, Key},
};

/// Places up to here are told exactly: what changes with each run that ends is not worth a write for a thousand that wait.
const TOLD_EXACTLY: usize = 10;
/// How soon a place is looked at again to be told; longer where many wait.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How many may wait for each [`LOOK_AGAIN`].
const CROWD: u32 = 500;

/// Who may begin. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    per_namespace: Option<u32>,
    /// Runs that may begin and have not written it yet: two that are reconciled at once see one another here.
    granted: Arc<Mutex<BTreeSet<Key>>>,
}

/// The runs of a namespace that are at work or wait.
struct Line {
    claims: Vec<Claim<Key>>,
    pools: Vec<Pool>,
    granted: BTreeSet<Key>,
}

/// What only so many runs may use.
struct Pool {
    /// None for the namespace.
    store: Option<StoreReference>,
    limit: usize,
    at_work: usize,
}

impl Turns {
    /// With at most so many runs at work in each namespace.
    pub fn new(per_namespace: Option<u32>) -> Self {
        Self {
            per_namespace,
            granted: Arc::default(),
        }
    }

    /// Lets a run begin, or says whom it waits for and when to ask again.
    pub fn ask(&self, caches: &Caches, run: &BackupRun, now: Timestamp) -> Result<(), (Obstacle, Next)> {
        let key = Key::of(run);
        let mut granted = self.granted();
        granted.retain(|key| caches.runs.get(key).is_some_and(|run| !begun(&run) && !ended(&run)));
        if granted.contains(&key) {
            return Ok(());
        }
        if self.all_fit(caches, run) {
            granted.insert(key);
            return Ok(());
        }
        let line = self.line(caches, &key.namespace, &granted, Some(run), now);
        let waiting = line.claims.len();
        let turns = turns(&line.claims, &line.free());
        if let Some((_, Turn::Waits { pool, place })) = turns.into_iter().find(|(id, _)| *id == key) {
            let crowd = u32::try_from(waiting).unwrap_or(u32::MAX) / CROWD + 1;
            let obstacle = Obstacle::passing(Reason::Queued, line.pools[pool].told(place));
            return Err((obstacle, Next::After(LOOK_AGAIN.saturating_mul(crowd))));
        }
        granted.insert(key);
        Ok(())
    }

    /// Whether something that passes behind backups may use a store of the namespace now: so many are at it already.
    pub fn room(&self, caches: &Caches, namespace: &str, store: &StoreReference, others: usize, now: Timestamp) -> bool {
        let mut line = self.line(caches, namespace, &self.granted(), None, now);
        let pool = line.pool(caches, namespace, store.clone());
        let waiting = line.claims.iter().filter(|claim| claim.pools.contains(&pool)).count();
        line.pools[pool].at_work + waiting + others < line.pools[pool].limit
    }

    /// A run that does not begin after all.
    pub fn release(&self, key: &Key) {
        self.granted().remove(key);
    }

    /// The runs of a namespace that may begin now.
    pub fn next(&self, caches: &Caches, namespace: &str, now: Timestamp) -> Vec<Key> {
        let mut waiting = caches.runs.by(Caches::RUNS_IN_FLIGHT, namespace, Caches::IN_FLIGHT);
        waiting.retain(|run| !begun(run) && in_line(run));
        if waiting.iter().all(|run| self.all_fit(caches, run)) {
            return waiting.iter().map(|run| Key::of(&**run)).collect();
        }
        let line = self.line(caches, namespace, &self.granted(), None, now);
        let turns = turns(&line.claims, &line.free());
        turns
            .into_iter()
            .filter(|(_, turn)| *turn == Turn::Now)
            .map(|(key, _)| key)
            .collect()
    }

    /// Whether all runs in flight that this one could have to wait for may be at work at once: then none waits, and in which order they would stand
    /// need not be found out, which for a thousand that are due together costs more than all else.
    fn all_fit(&self, caches: &Caches, run: &BackupRun) -> bool {
        let namespace = run.namespace().unwrap_or_default();
        let of_store = match store(caches, run) {
            // A store of the cluster is also at work for others.
            Some(store) if store.kind == StoreKind::ClusterBackupStore => return false,
            Some(store) => caches.named_store(&namespace, &store).map(|store| store.max_concurrent_runs()),
            None => None,
        };
        let of_namespace = self.per_namespace.map(|limit| limit as usize);
        let limit = of_store.into_iter().chain(of_namespace).min().unwrap_or(usize::MAX);
        caches.runs.count_by(Caches::RUNS_IN_FLIGHT, &namespace, Caches::IN_FLIGHT) <= limit
    }

    fn granted(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `asking` waits, whatever its status still says.
    fn line(&self, caches: &Caches, namespace: &str, granted: &BTreeSet<Key>, asking: Option<&BackupRun>, now: Timestamp) -> Line {
        let mut line = Line {
            claims: Vec::new(),
            pools: vec![Pool {
                store: None,
                limit: self.per_namespace.map_or(usize::MAX, |limit| limit as usize),
                at_work: 0,
            }],
            granted: granted.clone(),
        };
        let mut exclusions = Exclusions::default();
        for run in caches.runs.by(Caches::RUNS_IN_FLIGHT, namespace, Caches::IN_FLIGHT) {
            let key = Key::of(&*run);
            let store = store(caches, &run).map(|store| line.pool(caches, namespace, store));
            let pools: Vec<_> = std::iter::once(0).chain(store).collect();
            if begun(&run) || granted.contains(&key) {
                for pool in pools {
                    line.pools[pool].at_work += 1;
                }
            } else if asking.is_some_and(|asking| Key::of(asking) == key) || (in_line(&run) && free(caches, &run, &mut exclusions, now)) {
                line.claims.push(Claim {
                    deadline: deadline(caches, &run, now),
                    since: created(&run.metadata),
                    pools,
                    id: key,
                });
            }
        }
        line
    }
}

impl Line {
    fn free(&self) -> Vec<usize> {
        self.pools.iter().map(|pool| pool.limit.saturating_sub(pool.at_work)).collect()
    }

    /// The place of a store's pool.
    fn pool(&mut self, caches: &Caches, namespace: &str, store: StoreReference) -> usize {
        if let Some(place) = self.pools.iter().position(|pool| pool.store.as_ref() == Some(&store)) {
            return place;
        }
        let named = caches.named_store(namespace, &store);
        // A store of the cluster is also at work for others.
        let elsewhere = named.iter().flat_map(|store| store.runs(caches)).filter(|run| {
            let at_work = begun(run) || self.granted.contains(&Key::of(&**run));
            run.metadata.namespace.as_deref() != Some(namespace) && at_work && !ended(run)
        });
        self.pools.push(Pool {
            at_work: elsewhere.count(),
            limit: named.map_or(usize::MAX, |store| store.max_concurrent_runs()),
            store: Some(store),
        });
        self.pools.len() - 1
    }
}

impl Pool {
    fn told(&self, place: usize) -> String {
        let limit = self.limit;
        let place = match place {
            ..=TOLD_EXACTLY => format!("place {place}"),
            more => format!("behind more than {}", 10_usize.pow((more - 1).ilog10())),
        };
        match &self.store {
            Some(store) => format!("waits for its turn, {place}: the {store} takes {limit} runs at once (spec.maxConcurrentRuns)"),
            None => format!("waits for its turn, {place}: the operator lets {limit} runs of a namespace be at work at once"),
        }
    }
}

/// The namespaces in which somebody may wait for the place of this run: its own, and those of others that wait for the same store of the cluster.
pub fn neighbours(caches: &Caches, run: &BackupRun) -> BTreeSet<String> {
    let namespace = run.namespace().unwrap_or_default();
    let shared = run.store().filter(|store| store.kind == StoreKind::ClusterBackupStore);
    let waiting = shared.and_then(|store| caches.named_store(&namespace, &store));
    let waiting = waiting.iter().flat_map(|store| store.runs(caches));
    let waiting = waiting.filter(|run| !begun(run) && in_line(run)).filter_map(|run| run.namespace());
    waiting.chain([namespace.clone()]).collect()
}

/// Whether the run holds a place in a line, or one at work: when it no longer does, others may begin.
pub fn counts(run: &BackupRun) -> bool {
    !ended(run) && (begun(run) || in_line(run))
}

fn ended(run: &BackupRun) -> bool {
    run.status.as_ref().is_some_and(|status| status.phase.ended())
}

fn begun(run: &BackupRun) -> bool {
    run.status
        .as_ref()
        .is_some_and(|status| !status.attempts.is_empty() || status.settle.is_some())
}

/// Whether nothing else than its turn is waited for, as far as its status tells.
fn in_line(run: &BackupRun) -> bool {
    let reason = run.status.as_ref().and_then(|status| status.reason);
    !run.spec.cancel && run.metadata.deletion_timestamp.is_none() && reason.is_none_or(|reason| reason == Reason::Queued)
}

fn free(caches: &Caches, run: &BackupRun, exclusions: &mut Exclusions, now: Timestamp) -> bool {
    turn::queued(caches, run).is_none() && turn::replaced(caches, run).is_none() && exclusions.of(caches, run, now).is_none()
}

/// The store that a run writes to, or would if it began now.
fn store(caches: &Caches, run: &BackupRun) -> Option<StoreReference> {
    if let Some(frozen) = run.status.as_ref().and_then(|status| status.frozen.as_ref()) {
        return Some(frozen.store.reference());
    }
    let namespace = run.namespace().unwrap_or_default();
    let schedule = run.spec.schedule.as_ref();
    let schedule = schedule.and_then(|named| caches.schedules.get(&Key::new(namespace.as_str(), named.name.as_str())));
    let (stores, _) = dereference::places(run, schedule.as_deref());
    match stores.as_slice() {
        [one] => Some(one.clone()),
        several => choose(caches, &namespace, several).ok().map(|chosen| chosen.reference()),
    }
}

/// When the newest copy of its source becomes too old.
fn deadline(caches: &Caches, run: &BackupRun, now: Timestamp) -> Option<Timestamp> {
    let namespace = run.namespace().unwrap_or_default();
    let source = caches.sources.get(&Key::new(namespace, run.spec.source.as_str()))?;
    let status = source.status.as_ref()?;
    let evidence = Evidence {
        created: created(&source.metadata),
        newest: status.newest_copy.as_ref().and_then(|copy| copy.recovery_point.parse().ok()),
        implausible: None,
        rpo: status.rpo_seconds.map(SignedDuration::from_secs),
    };
    Protection::of(&evidence, now).deadline()
}

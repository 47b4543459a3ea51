//! Fills the stores of a source from one another: one copy Job at a time for each store that lacks something. It starts one when a run is
//! committed that another store is to have too, and when a store is added that is to have old copies; it asks for nothing by itself.

mod decide;
mod report;
mod status;
mod target;
mod task;
mod triggers;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use holdfast_crds::{BackupSource, COPY_LINE, Class, CopyLine, CopyPass, Reason, Replication, StoreReference};
use holdfast_policy::name::{JobPurpose, copy_name, job_name};
use kube::{Resource, ResourceExt};

pub use triggers::triggers;

use self::{
    decide::{Pass, Step, step},
    status::Said,
    target::Target,
};
use super::{
    jobs, report_log,
    run::Turns,
    store::{down, refusal},
    stores::agreed,
};
use crate::{
    attempt::read as read_time,
    context::{Context, Error},
    job::{End, Observation, Purpose, SOURCE, has_ended, store_label},
    observation::{controller, job_state},
    queue::{Next, Reconcile},
    store::{Store, Unusable},
    watch::{Caches, Key},
};

/// How soon one that waits for room in a store asks again, should nothing else call it.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// Sources with a store that waits for room. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<Mutex<BTreeSet<Key>>>);

impl Waiting {
    fn held(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of a namespace, which wait no longer.
    fn call(&self, namespace: &str) -> Vec<Key> {
        let mut held = self.held();
        let (called, rest): (BTreeSet<_>, _) = std::mem::take(&mut *held).into_iter().partition(|key| key.namespace == namespace);
        *held = rest;
        called.into_iter().collect()
    }
}

/// The controller of copy Jobs, by their sources.
pub struct CopyController {
    context: Arc<Context>,
    turns: Turns,
    waiting: Waiting,
    /// Stores for which a Job is about to be made.
    granted: Mutex<BTreeSet<(Key, StoreReference)>>,
}

impl CopyController {
    /// `turns` and `waiting` are those that [`triggers`] got.
    pub fn new(context: Arc<Context>, turns: Turns, waiting: Waiting) -> Self {
        Self {
            context,
            turns,
            waiting,
            granted: Mutex::default(),
        }
    }
}

impl Reconcile for CopyController {
    const KIND: &'static str = "Copies";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let caches = &self.context.caches;
        let Some(source) = caches
            .sources
            .get(key)
            .filter(|source| source.metadata.deletion_timestamp.is_none())
        else {
            return Ok(Next::Change);
        };
        self.waiting.held().remove(key);
        let entries = source.status.iter().flat_map(|status| &status.replication);
        let mut stores = target::stores(caches, &source);
        stores.extend(entries.map(Replication::reference));
        let mut next = Next::Change;
        for store in stores {
            let Some(source) = caches.sources.get(key) else { break };
            next = next.or(Box::pin(self.fill(&source, &store)).await?);
        }
        Ok(next)
    }
}

impl CopyController {
    async fn fill(&self, source: &BackupSource, store: &StoreReference) -> Result<Next, Error> {
        let context = &*self.context;
        let Some(entry) = entry(source, store).filter(Replication::at_work) else {
            return self.rest(source, store).await;
        };
        let job = job_key(source, store, entry.number);
        let (state, look) = job_state(context, &job).await?;
        match &state.observation {
            // Counted and never made: what it lacks may have changed since.
            Observation::Absent => Box::pin(self.make(source, store, &entry)).await,
            Observation::Waiting { reason, message } if *reason != Reason::Pending => {
                let message = format!("the copy Job's pod does not start: {message}");
                self.say(source, store, *reason, &message).await?;
                Ok(look)
            }
            Observation::Waiting { .. } | Observation::Running | Observation::Stopping { .. } => Ok(look),
            Observation::Ended(end) => {
                let source = Box::pin(self.finish(source, store, &entry, &job, end)).await?;
                Box::pin(self.rest(&source, store)).await
            }
        }
    }

    /// No Job fills the store: the next is begun, or waited for.
    async fn rest(&self, source: &BackupSource, store: &StoreReference) -> Result<Next, Error> {
        let context = &*self.context;
        let now = context.clock.now();
        let target = self.target(source, store);
        let before = entry(source, store);
        // The last that failed stays for its log.
        let last = before
            .as_ref()
            .filter(|entry| entry.number > 0 && entry.failures > 0 && target.is_some());
        let last = last.map(|entry| job_key(source, store, entry.number));
        self.remove_others(source, store, last.as_ref()).await?;
        let Some(target) = target else {
            status::forget(context, source, store).await?;
            return Ok(Next::Change);
        };
        let pass = match step(before.as_ref(), &target, &format!("{}/{store}", Key::of(source)), now) {
            Step::Rest => return Ok(Next::Change),
            Step::Wait(due) => return Ok(Next::After(context.clock.until(due))),
            Step::Copy(pass) => pass,
        };
        let from = match self.way(source, store, &pass) {
            Ok(from) => from,
            Err((reason, message)) => {
                self.say(source, store, reason, &message).await?;
                return Ok(Next::Change);
            }
        };
        let granted = (Key::of(source), store.clone());
        if !self.grant(source, store, &granted) {
            self.waiting.held().insert(Key::of(source));
            let message =
                format!("waits until backups and other copies leave room: the {store} takes only so many at once (spec.maxConcurrentRuns)");
            self.say(source, store, Reason::Queued, &message).await?;
            return Ok(Next::After(LOOK_AGAIN));
        }
        let made = Box::pin(self.start(source, &target, &pass, from, before.as_ref())).await;
        self.granted().remove(&granted);
        made
    }

    /// Counts a copy Job, then makes it.
    async fn start(
        &self,
        source: &BackupSource,
        target: &Target,
        pass: &Pass,
        from: StoreReference,
        before: Option<&Replication>,
    ) -> Result<Next, Error> {
        let number = jobs::free_number(&self.context, before.map_or(0, |before| before.number), |number| {
            job_key(source, &target.store, number)
        });
        let started = Said::Started {
            number,
            from,
            all: pass.runs.is_empty(),
            told: target.told.clone(),
        };
        let source = status::write(&self.context, source, &target.store, &started).await?;
        match entry(&source, &target.store) {
            Some(entry) => Box::pin(self.make(&source, &target.store, &entry)).await,
            None => Ok(Next::Change),
        }
    }

    /// Makes the Job that is counted. A refusal ends it, with the reason.
    async fn make(&self, source: &BackupSource, store: &StoreReference, entry: &Replication) -> Result<Next, Error> {
        let context = &*self.context;
        let caches = &context.caches;
        let namespace = source.namespace().unwrap_or_default();
        let target = self.target(source, store);
        let filled = caches.store(&namespace, store).ok();
        let read = entry.from.as_ref().and_then(|from| caches.store(&namespace, from).ok());
        let (Some(target), Some(filled), Some(read)) = (target, filled, read) else {
            // It is decided anew.
            status::write(context, source, store, &Said::Dropped).await?;
            return Ok(Next::After(Duration::ZERO));
        };
        let name = job_key(source, store, entry.number).name;
        let stores = task::Stores {
            filled: filled.frozen(),
            read: read.frozen(),
        };
        let Some(task) = task::task(caches, source, &target, stores, entry.all, context.clock.now()) else {
            status::write(context, source, store, &Said::Dropped).await?;
            return Ok(Next::After(Duration::ZERO));
        };
        let made = match task::job(context, source, &name, task) {
            Ok(job) => jobs::create(context, job).await?,
            Err(error) => Err((Reason::InvalidSpec, error.to_string())),
        };
        if let Err((reason, message)) = made {
            report::write(context, source, store, &[], Some((reason, &message))).await?;
            let source = status::write(context, source, store, &Said::Failed { reason, message, bytes: 0 }).await?;
            return Box::pin(self.rest(&source, store)).await;
        }
        Ok(Next::Change)
    }

    /// A Job has ended: its report is read while its pod is there, then shown, and only then the Job counts as ended.
    async fn finish(
        &self,
        source: &BackupSource,
        store: &StoreReference,
        entry: &Replication,
        job: &Key,
        end: &End,
    ) -> Result<BackupSource, Error> {
        let context = &*self.context;
        let failed = |reason: Reason, message: String, bytes| Said::Failed { reason, message, bytes };
        let pass = end.result.as_ref().and_then(|result| result.copied.as_ref());
        let said = match pass {
            None => {
                let (reason, message) = end.without("the copy Job ended without a summary");
                report::write(context, source, store, &[], Some((reason, &message))).await?;
                failed(reason, message, 0)
            }
            Some(pass) => match read(context, job, pass).await? {
                Err(why) => {
                    let message = format!("the copy Job ended with {}, but its report cannot be read: {why}", end.reason);
                    report::write(context, source, store, &[], Some((Reason::ReportUnreadable, &message))).await?;
                    failed(Reason::ReportUnreadable, message, pass.bytes)
                }
                Ok(lines) => {
                    let fine = end.reason.class() == Class::Fine;
                    let otherwise = (!fine && !pass.complete).then_some((end.reason, end.message.as_str()));
                    report::write(context, source, store, &lines, otherwise).await?;
                    if let Some(run) = self.untold(source, store, entry).filter(|_| pass.complete) {
                        failed(
                            Reason::ReportUnreadable,
                            format!("the report of the copy Job says nothing of the run {run}"),
                            pass.bytes,
                        )
                    } else if pass.complete && end.reason.class() != Class::Transient {
                        let elsewhere = entry.all.then(|| report::lacking_elsewhere(context, source, &lines));
                        Said::Passed { end, pass, elsewhere }
                    } else if fine {
                        failed(
                            Reason::DeadlineExceeded,
                            "the copy Job did not come to its end; the next goes on".to_owned(),
                            pass.bytes,
                        )
                    } else {
                        failed(end.reason, end.message.clone(), pass.bytes)
                    }
                }
            },
        };
        status::write(context, source, store, &said).await
    }

    /// A run that a Job that has looked at all was to bring, and of which nobody knows more than before.
    fn untold(&self, source: &BackupSource, store: &StoreReference, entry: &Replication) -> Option<String> {
        let started = read_time(entry.started_at.as_deref());
        let from = entry.from.as_ref()?;
        let lacking = self.target(source, store)?.lacking;
        let mut untold = lacking
            .into_iter()
            .filter(|lacking| lacking.since < started && lacking.from.contains(from));
        untold.next().map(|lacking| lacking.run)
    }

    /// Says in the status of the source, and of the runs that the store lacks, why nothing is brought now.
    async fn say(&self, source: &BackupSource, store: &StoreReference, reason: Reason, message: &str) -> Result<(), Error> {
        report::write(&self.context, source, store, &[], Some((reason, message))).await?;
        let waits = Said::Waits {
            reason,
            message: message.to_owned(),
        };
        status::write(&self.context, source, store, &waits).await?;
        Ok(())
    }

    fn target(&self, source: &BackupSource, store: &StoreReference) -> Option<Target> {
        target::target(&self.context.caches, source, store, self.context.clock.now())
    }

    /// The store to read from, if both can be used now.
    fn way(&self, source: &BackupSource, store: &StoreReference, pass: &Pass) -> Result<StoreReference, (Reason, String)> {
        let namespace = source.namespace().unwrap_or_default();
        let find = |store: &StoreReference| {
            let found = self.context.caches.store(&namespace, store);
            found.map_err(|Unusable { reason, message }| (reason, message))
        };
        let filled = find(store)?;
        if let Some(refused) = refusal(&filled).or_else(|| down(&filled)) {
            return Err(refused);
        }
        let mut first = None;
        for from in &pass.from {
            match find(from).and_then(|read| readable(&read).map_or(Ok(read), Err)) {
                Ok(read) => return agreed([filled.frozen(), read.frozen()].iter()).map(|_| from.clone()),
                Err(why) => first = first.or(Some(why)),
            }
        }
        Err(first.unwrap_or((Reason::CopyNotFound, "no store is known to have it".to_owned())))
    }

    /// Takes a place in the store, if there is room: copies pass behind backups.
    fn grant(&self, source: &BackupSource, store: &StoreReference, wanted: &(Key, StoreReference)) -> bool {
        let caches = &self.context.caches;
        let namespace = source.namespace().unwrap_or_default();
        let owned = Caches::owned_by(store_label(store.kind), &store.name);
        let at_work = caches.jobs.by(Caches::BY_OWNER, &namespace, &owned).into_iter().filter(|job| {
            let pods = caches.pods_of(&Key::of(&**job));
            let pods: Vec<_> = pods.iter().map(|pod| &**pod).collect();
            Purpose::Copy.is_of(job.meta()) && !has_ended(job, &pods)
        });
        let at_work = at_work.count();
        let mut granted = self.granted();
        let others = at_work + granted.iter().filter(|(_, other)| other == store).count();
        let room = self.turns.room(caches, &namespace, store, others, self.context.clock.now());
        if room {
            granted.insert(wanted.clone());
        }
        room
    }

    fn granted(&self) -> MutexGuard<'_, BTreeSet<(Key, StoreReference)>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the copy Jobs of this source and store but for `keep`.
    async fn remove_others(&self, source: &BackupSource, store: &StoreReference, keep: Option<&Key>) -> Result<(), Error> {
        let namespace = source.namespace().unwrap_or_default();
        let owned = Caches::owned_by(store_label(store.kind), &store.name);
        let mut surplus = self.context.caches.jobs.by(Caches::BY_OWNER, &namespace, &owned);
        let stem = format!("{}-c", stem(source, store));
        surplus.retain(|job| {
            let own = job.labels().get(SOURCE) == Some(&source.name_any()) && job.name_any().starts_with(&stem);
            Purpose::Copy.is_of(job.meta()) && own && controller(&job.metadata) == source.metadata.uid.as_deref()
        });
        jobs::remove(&self.context, &surplus, keep.map_or(&[], std::slice::from_ref)).await
    }
}

/// The lines of the report of a copy Job, or why there are none.
async fn read(context: &Context, job: &Key, pass: &CopyPass) -> Result<report_log::Read<CopyLine>, Error> {
    let report = report_log::Report {
        mark: COPY_LINE,
        lines: pass.lines,
        sha256: &pass.sha256,
        of: |result| result.copied.as_ref().map(|copied| (copied.lines, copied.sha256.as_str())),
    };
    report_log::read(context, job, &report).await
}

/// Why a store cannot be read from now. Another cluster's can.
fn readable(store: &Store) -> Option<(Reason, String)> {
    let foreign = |(reason, _): &(Reason, String)| *reason == Reason::StoreForeign;
    refusal(store).or_else(|| down(store)).filter(|why| !foreign(why))
}

/// What the status remembers of a store's copy Jobs.
fn entry(source: &BackupSource, store: &StoreReference) -> Option<Replication> {
    let status = source.status.as_ref()?;
    status.replication.iter().find(|entry| entry.reference() == *store).cloned()
}

fn stem(source: &BackupSource, store: &StoreReference) -> String {
    copy_name(&source.name_any(), store.kind.as_str(), &store.name)
}

fn job_key(source: &BackupSource, store: &StoreReference, number: i64) -> Key {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    Key::new(
        source.namespace().unwrap_or_default(),
        job_name(&stem(source, store), JobPurpose::Copy, number),
    )
}

#[cfg(test)]
mod tests;

//! `backup`: from a database into a store. The copy exists when its outcome is committed, and not before.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use holdfast_crds::document::{
    Abandonment, Committed, Decision, Durations, Encryption, FORMAT, Manifest, Method, Outcome, RunIdentity, RunPath, ScheduleIdentity,
    Sha256, SourceIdentity, StoredObject, Stream,
};
use holdfast_crds::{
    Action, AgentResult, BackupSource, BackupStore, BackupTask, BackupType, Class, FrozenStore, KEEP_BY_HAND, Reason, Span, StoreKind,
    TASK_VERSION, Task, Tick,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::key::{self, SealedKey};
use super::{history, place, removed};
use crate::config::{Invocation, Places, random_hex, read_document, read_task};
use crate::engine::postgresql::source::Source;
use crate::engine::streaming::{Aborted, Finished, Found, Streaming, Wanted};
use crate::pipeline::pool::Pool;
use crate::pipeline::{Pipeline, StoredStream, WriteError};
use crate::result::{Failure, plain, summarise};
use crate::store::register::{Decided, RegisterError};
use crate::store::{Created, Patience, Pinned, Store, StorePath};

/// How long giving up may take in the register.
const ABANDON_WITHIN: Duration = Duration::from_secs(120);
/// How long what is stopped may take to end in order.
const END_WITHIN: Duration = Duration::from_secs(15);
/// The time that a backup by hand has.
const BY_HAND: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// Copy a database into a store
///
/// In a Job's pod the task comes from the operator. By hand, give the manifests that kubectl applies, and a directory for each Secret.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLE
    holdfast-agent backup --store store.yaml --source source.yaml --run by-hand-1 --cluster $(kubectl get ns kube-system -o jsonpath={.metadata.uid}) \\
        --store-secret ./s3 --login ./db --public-cas /etc/ssl/certs/ca-certificates.crt --result -
    ./s3 holds access_key_id and secret_access_key, ./db holds username and password: one file each.")]
pub struct BackupArgs {
    /// Manifest of the BackupStore, instead of a task
    #[arg(long, value_name = "FILE", requires = "source", requires = "run")]
    pub store: Option<PathBuf>,
    /// Manifest of the BackupSource
    #[arg(long, value_name = "FILE", requires = "store")]
    pub source: Option<PathBuf>,
    /// The run's name, which is the copy's id in the store
    #[arg(long, requires = "store")]
    pub run: Option<String>,
    /// How long the copy is kept at least, as in 14d
    #[arg(long, requires = "store", default_value_t = KEEP_BY_HAND)]
    pub keep_for: Span,
    /// Id of the cluster that owns the place in the store
    #[arg(long, default_value = "by-hand")]
    pub cluster: String,
    /// Where files lie
    #[command(flatten)]
    pub places: Places,
}

impl BackupArgs {
    /// The task: read, or made from manifests.
    pub fn task(&self) -> Result<Task, Failure> {
        let (Some(store), Some(source), Some(run)) = (&self.store, &self.source, &self.run) else {
            return read_task(&self.places.task);
        };
        let store: BackupStore = read_document("the BackupStore", store)?;
        let source: BackupSource = read_document("the BackupSource", source)?;
        let namespace = source.metadata.namespace.unwrap_or_else(|| "default".to_owned());
        let backup = BackupTask {
            run: run.clone(),
            source: source.metadata.name.unwrap_or_default(),
            source_uid: source.metadata.uid.unwrap_or_default(),
            spec: source.spec,
            type_: BackupType::Full,
            tick: None,
            schedule: None,
            keep_for: Some(self.keep_for),
            attempt: 1,
            final_: false,
            not_after: (Timestamp::now() + BY_HAND).to_string(),
        };
        Ok(Task {
            version: TASK_VERSION,
            cluster: self.cluster.clone(),
            namespace,
            store: freeze(store),
            action: Action::Backup(backup),
        })
    }
}

/// A store's manifest as tasks hold it.
pub(super) fn freeze(store: BackupStore) -> FrozenStore {
    FrozenStore {
        kind: StoreKind::BackupStore,
        name: store.metadata.name.unwrap_or_default(),
        uid: store.metadata.uid.unwrap_or_default(),
        spec: store.spec,
    }
}

/// When the run of a tick was due.
///
/// # Errors
/// [`Reason::InvalidSpec`] if it is no time.
pub fn tick_time(tick: Option<&Tick>) -> Result<Option<Timestamp>, Failure> {
    tick.map(|tick| time("tick.time", &tick.time)).transpose()
}

/// What the register says, as this run's own.
///
/// # Errors
/// [`Reason::Tampered`] if it is older than the run's tick: then nobody can write another outcome, and nothing is to be settled.
pub fn own(decided: Decided, tick: Option<Timestamp>) -> Result<Decided, Failure> {
    decided.adopt(tick).map_err(|error| Failure {
        closed: true,
        ..error.into()
    })
}

/// Opens store and database, and copies.
pub async fn run(invocation: &Invocation, task: &BackupTask) -> Result<AgentResult, Failure> {
    let store = place::open(invocation, Patience::RUN)?;
    run_with(invocation, task, &store).await
}

/// Copies into an open store. Where no attempt follows, a failure is final in the register too.
pub async fn run_with(invocation: &Invocation, task: &BackupTask, store: &Store) -> Result<AgentResult, Failure> {
    if let Some(why) = task.spec.lacks(task.type_) {
        return Err(Failure::new(Reason::TypeUnsupported, format!("spec.type: {why}")));
    }
    let run = RunPath::new(&invocation.task.namespace, &task.source, &task.run).map_err(|error| invalid(&error))?;
    let job = Job {
        tick: tick_time(task.tick.as_ref())?,
        not_after: time("notAfter", &task.not_after)?,
        stop: invocation.cancel.child_token(),
        invocation,
        task,
        store,
        run,
    };
    let pinned = job.pin().await?;
    let result = within(job.not_after, &job.stop, Box::pin(job.attempt(&pinned))).await;
    match result {
        Err(failure) if !failure.closed => job.give_up(failure, &pinned).await,
        result => result,
    }
}

pub(super) fn invalid(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Reason::InvalidSpec, format!("read the task: {error}"))
}

pub(super) fn time(field: &str, text: &str) -> Result<Timestamp, Failure> {
    text.parse().map_err(|error| {
        Failure::new(
            Reason::InvalidSpec,
            format!("read the task: {field} is {text:?}: {error}; expected RFC 3339 in UTC"),
        )
    })
}

struct Job<'a> {
    invocation: &'a Invocation,
    task: &'a BackupTask,
    store: &'a Store,
    run: RunPath,
    tick: Option<Timestamp>,
    not_after: Timestamp,
    /// Ends everything under way: with the invocation, or with the attempt's time.
    stop: CancellationToken,
}

/// Runs an attempt until its time is over; then it has a moment to end in order.
pub(super) async fn within(
    not_after: Timestamp,
    stop: &CancellationToken,
    attempt: impl Future<Output = Result<AgentResult, Failure>>,
) -> Result<AgentResult, Failure> {
    let time_left = Duration::try_from(not_after.duration_since(Timestamp::now())).unwrap_or_default();
    let mut attempt = pin!(attempt);
    tokio::select! {
        result = &mut attempt => return result,
        () = tokio::time::sleep(time_left) => {}
    }
    stop.cancel();
    match tokio::time::timeout(END_WITHIN, attempt).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(failure)) if failure.closed => Err(failure),
        _ => Err(Failure::new(
            Reason::DeadlineExceeded,
            format!("the attempt's time ended at {not_after}"),
        )),
    }
}

/// What is awaited, unless it is to stop.
pub(super) async fn or_stopped<T>(stop: &CancellationToken, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        () = stop.cancelled() => Err(Failure::new(Reason::Interrupted, "asked to stop")),
    }
}

impl Job<'_> {
    /// Pins who may write to the store: another owner later stops the commit.
    async fn pin(&self) -> Result<Pinned, Failure> {
        let Task {
            cluster, namespace, store, ..
        } = &self.invocation.task;
        let claimed = self.store.claim(cluster, &store.holder(namespace)).await;
        claimed.map_err(|error| Failure::new(error.reason(), error.to_string()))
    }

    /// The recipe.
    async fn attempt(&self, pinned: &Pinned) -> Result<AgentResult, Failure> {
        let progress = &self.invocation.progress;
        progress.enter("register", &self.run.to_string());
        if let Some(decided) = self.store.outcome(&self.run).await? {
            return self.adopt(decided).await;
        }
        progress.enter("preflight", &self.task.source);
        match &self.task.spec.postgresql {
            Some(postgresql) => {
                let tools = self.invocation.tools()?;
                let scratch = tools.scratch.clone();
                let files = self.invocation.places.server_files();
                let source = Source::new(postgresql, &files, tools, &self.invocation.application())?;
                let result = Box::pin(self.copy(source, pinned)).await;
                if let Err(error) = std::fs::remove_dir_all(&scratch) {
                    tracing::debug!(%error, "the scratch directory was not removed");
                }
                result
            }
            None => Err(Failure::new(
                Reason::InvalidSpec,
                "the source names no engine; this version knows spec.postgresql",
            )),
        }
    }

    /// Reads every stream of an engine, then commits.
    async fn copy<E: Streaming>(&self, mut engine: E, pinned: &Pinned) -> Result<AgentResult, Failure> {
        let started = Timestamp::now();
        let progress = &self.invocation.progress;
        let encrypted = !matches!(self.invocation.task.store.spec.encryption, holdfast_crds::Encryption::None(_));
        let found = or_stopped(&self.stop, engine.preflight(encrypted)).await?;
        progress.expect("copy", found.expected_bytes);
        progress.enter("key", "");
        let key = key::for_backup(self.invocation).await?;
        let (encryption, mut stored) = self.store_key(&key).await?;
        let pool = Pool::for_memory_limit(self.invocation.memory_limit, 1);
        let cancel = self.stop.child_token();
        // However this ends, uploads under way end with it.
        let _guard = cancel.clone().drop_guard();
        let pipeline = Pipeline::new(self.store.clone(), pool, key.sealing, cancel, progress.counters());
        let mut streams = Vec::new();
        for wanted in &found.streams {
            progress.enter("copy", wanted.database.as_deref().unwrap_or("globals"));
            if let Some(done) = self.stream(&mut engine, wanted, &pipeline, encrypted).await? {
                stored.extend(done.stored.iter().cloned());
                streams.push(done.describe(wanted.name.clone(), wanted.kind.clone(), wanted.database.clone()));
            }
        }
        progress.enter("commit", &self.run.to_string());
        let engine_name = engine.name();
        let contents = engine.contents();
        if contents.databases.is_empty() {
            return Err(Failure::new(
                Reason::NoDatabases,
                "every database that was to be copied vanished while the run was at work",
            ));
        }
        let mut notes = found.notes.clone();
        notes.extend(history::changes(self.store, &self.run, &contents).await);
        let manifest = self.manifest(found, engine_name, contents, streams, encryption, started);
        self.commit(Committed::new(manifest, stored), pinned, &notes).await
    }

    /// Copies one stream; `None` if what it was to hold vanished.
    async fn stream<E: Streaming>(
        &self,
        engine: &mut E,
        wanted: &Wanted,
        pipeline: &Pipeline,
        encrypted: bool,
    ) -> Result<Option<StoredStream>, Failure> {
        let Some(opened) = or_stopped(&self.stop, engine.open(wanted)).await? else {
            return Ok(None);
        };
        let place = self.run.pod(self.invocation.pod.clone()).stream(wanted.name.clone(), encrypted);
        match Box::pin(pipeline.store_stream(&place, opened.reader, opened.check)).await {
            Ok(stored) => match engine.finish(wanted, opened.handle).await? {
                Finished::Whole => Ok(Some(stored)),
                Finished::Vanished => Ok(None),
            },
            Err(error) => {
                // A tool that failed says more than the hole that it left in the stream.
                let cut = matches!(error, WriteError::Check(_) | WriteError::Read(_));
                match engine.abort(wanted, opened.handle, cut).await {
                    Aborted::Vanished => Ok(None),
                    Aborted::Failed(said) => Err(said.unwrap_or_else(|| error.into())),
                }
            }
        }
    }

    /// Puts the sealed key beside the register-to-be.
    async fn store_key(&self, key: &SealedKey) -> Result<(Encryption, Vec<StoredObject>), Failure> {
        let Some((sealed, recipient, recipients)) = &key.sealed else {
            return Ok((Encryption::None {}, Vec::new()));
        };
        let path = self.run.pod(self.invocation.pod.clone()).key(1);
        let held = match self.store.create(&StorePath::from(&path), sealed.clone().into()).await? {
            Created::Ours(held) => held,
            // The name holds this pod's UID: nobody else writes there.
            Created::Theirs(_) => {
                let message = format!("the store holds other bytes at {path} than those that were sent");
                return Err(Failure::new(Reason::ChecksumMismatch, message));
            }
        };
        let object = StoredObject {
            path: path.to_string(),
            bytes: sealed.len() as u64,
            sha256: Sha256::of(sealed),
            confirmed: holdfast_crds::document::Confirmed::ReadBack {},
            version_id: held.meta.version,
        };
        let (public_recipient, key) = (recipient.to_string(), path.to_string());
        let encryption = if recipients.is_empty() {
            Encryption::Passphrase { public_recipient, key }
        } else {
            Encryption::Age {
                recipients: recipients.clone(),
                public_recipient,
                key,
            }
        };
        Ok((encryption, vec![object]))
    }

    fn manifest(
        &self,
        found: Found,
        engine: holdfast_crds::document::Engine,
        contents: holdfast_crds::document::Contents,
        streams: Vec<Stream>,
        encryption: Encryption,
        started: Timestamp,
    ) -> Manifest {
        let by_tick = self.task.tick.as_ref();
        let by_hand = self.task.schedule.as_ref();
        let schedule = by_tick
            .map(|tick| (&tick.schedule, Some(&tick.trigger), tick.generation, &tick.policy_digest))
            .or(by_hand.map(|schedule| (&schedule.name, None, schedule.generation, &schedule.policy_digest)));
        let schedule = schedule.map(|(name, trigger, generation, digest)| ScheduleIdentity {
            name: name.clone(),
            namespace: Some(self.invocation.task.namespace.clone()),
            trigger: trigger.cloned(),
            generation,
            // Runs that an earlier version made do not name it: that of the empty policy, which keeps everything, stands for it.
            policy_digest: digest
                .as_ref()
                .and_then(|digest| digest.parse().ok())
                .unwrap_or_else(|| Sha256::of(b"{}")),
        });
        Manifest {
            version: FORMAT,
            cluster: self.invocation.task.cluster.clone(),
            source: SourceIdentity {
                namespace: self.run.namespace.clone(),
                name: self.run.source.clone(),
            },
            run: RunIdentity {
                name: self.run.run.clone(),
                tick: self.tick,
                keep_for: self.task.keep_for,
                attempt: u32::try_from(self.task.attempt).unwrap_or(1),
                pod: self.invocation.pod.clone(),
            },
            schedule,
            engine,
            method: Method::Logical,
            copy_type: "Full".to_owned(),
            parents: Vec::new(),
            server: found.server,
            recovery_point: found.recovery_point,
            streams,
            contents,
            encryption,
            durations: Durations {
                started,
                finished: Timestamp::now(),
                phases: self.invocation.progress.durations(),
            },
            not_after: self.not_after,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// One small object decides: created if absent, under the owner that was pinned, within the attempt's time, and read back.
    async fn commit(&self, copy: Committed, pinned: &Pinned, notes: &[String]) -> Result<AgentResult, Failure> {
        copy.check(&self.run)
            .map_err(|error| Failure::new(Reason::InternalError, format!("the manifest contradicts itself: {error}")))?;
        if self.stop.is_cancelled() {
            return Err(Failure::new(
                Reason::Interrupted,
                "the run was asked to stop before it was committed",
            ));
        }
        let outcome = Outcome {
            run: self.run.clone(),
            nonce: random_hex(),
            by: self.invocation.pod.clone(),
            at: self.store.now().unwrap_or_else(Timestamp::now),
            decision: Decision::Committed(Box::new(copy)),
        };
        let decided = self.store.commit(&outcome, pinned, self.not_after).await?;
        if !decided.ours {
            return self.adopt(decided).await;
        }
        let Some(copy) = decided.outcome.committed() else {
            return Err(Failure::new(Reason::InternalError, "the register holds our bytes, but no copy"));
        };
        // A put that slept: in the meantime others may have given the run up.
        if decided.landed_after(self.not_after) {
            removed::refuse(self.store, &decided, copy).await?;
        }
        let copy = summarise(copy, decided.version.clone(), notes);
        Ok(AgentResult {
            closed: true,
            copy: Some(copy),
            ..plain(Reason::Succeeded, "the copy is committed")
        })
    }

    /// What the register already says is what this run is.
    async fn adopt(&self, decided: Decided) -> Result<AgentResult, Failure> {
        let decided = own(decided, self.tick)?;
        match &decided.outcome.decision {
            Decision::Committed(copy) => {
                removed::refuse(self.store, &decided, copy).await?;
                let message = format!(
                    "the store has this run's copy, committed by pod {} at {}",
                    decided.outcome.by, decided.outcome.at
                );
                let copy = summarise(copy, decided.version.clone(), &[]);
                Ok(AgentResult {
                    closed: true,
                    copy: Some(copy),
                    ..plain(Reason::AlreadyDone, message)
                })
            }
            Decision::Abandoned(abandonment) => Err(Failure {
                reason: Reason::Abandoned,
                message: format!(
                    "the run was given up in the store's register: {}: {}",
                    abandonment.reason, abandonment.message
                ),
                closed: true,
            }),
        }
    }

    /// Closes the register where no attempt follows. Who was asked to stop leaves that to a settle Job, and so does who cannot know.
    async fn give_up(&self, failure: Failure, pinned: &Pinned) -> Result<AgentResult, Failure> {
        let last = self.task.final_ || failure.reason.class() == Class::Terminal;
        if !last || matches!(failure.reason, Reason::Interrupted | Reason::OutcomeUnknown) {
            return Err(failure);
        }
        let abandonment = Abandonment {
            reason: failure.reason.to_string(),
            message: crate::result::shorten(&failure.message, 1024),
        };
        let given_up = self.store.abandon(&self.run, &self.invocation.pod, abandonment, pinned);
        match tokio::time::timeout(ABANDON_WITHIN, given_up).await {
            Ok(Ok(decided)) if decided.outcome.committed().is_some() => self.adopt(decided).await,
            Ok(Ok(_)) => Err(Failure { closed: true, ..failure }),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the run could not be given up in the register; a settle Job will");
                Err(failure)
            }
            Err(_) => {
                tracing::warn!("the run could not be given up in the register in time; a settle Job will");
                Err(failure)
            }
        }
    }
}

impl From<RegisterError> for Failure {
    fn from(error: RegisterError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

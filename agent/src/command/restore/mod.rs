//! `restore`: from a copy into databases beside, checked, and renamed into place. The target is touched only once everything is known
//! that could stop it.

mod preflight;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use holdfast_crds::document::{Committed, RunPath, Stream};
use holdfast_crds::{
    Action, AgentResult, BackupStore, Reason, RestoreFrom, RestoreRequest, RestoreSummary, RestoreTask, RestoreTo, TASK_VERSION, Task,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::preflight::{Plan, digests};
use super::backup::{freeze, invalid, or_stopped, time, within};
use super::{copy as copies, place, removed};
use crate::config::{Invocation, Places, read_document, read_task};
use crate::engine::postgresql::connect::{Access, Wanted};
use crate::engine::postgresql::restore::load::{self, LoadError};
use crate::engine::postgresql::restore::plan::properties;
use crate::engine::postgresql::restore::receipt::{self, Identity};
use crate::engine::postgresql::restore::roles;
use crate::engine::postgresql::restore::swap::{Ready, Swapped, swap};
use crate::engine::postgresql::restore::target::{self, Target, drop_database};
use crate::engine::postgresql::session::Session;
use crate::engine::postgresql::tool::Tools;
use crate::pipeline::pool::Pool;
use crate::pipeline::{CopyReader, OpenError};
use crate::result::{Failure, count, plain, shorten};
use crate::store::{Patience, Store};

/// The largest globals that are held, in bytes.
const GLOBALS_LIMIT: u64 = 16 << 20;
/// How long dropping our own databases may take when a restore fails.
const CLEAN_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take when it was asked to stop.
const CLEAN_AT_ONCE: Duration = Duration::from_secs(3);
/// The time that a restore by hand has.
const BY_HAND: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// Restore databases from a copy
///
/// Each database is restored into one beside, checked, and renamed into place; a database that holds anything is never replaced. A request
/// that was carried out before is not carried out again: its receipt lies in the target, in holdfast.receipts.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLE
    holdfast-agent restore --store store.yaml --request restore.yaml --store-secret ./s3 --login ./db --identity ./key --result -
    restore.yaml is a RestoreRequest with from.store.path; ./key holds the file identity, as age-keygen writes it.")]
pub struct RestoreArgs {
    /// Manifest of the BackupStore, instead of a task
    #[arg(long, value_name = "FILE", requires = "request")]
    pub store: Option<PathBuf>,
    /// Manifest of the RestoreRequest, with from.store.path
    #[arg(long, value_name = "FILE", requires = "store")]
    pub request: Option<PathBuf>,
    /// Where files lie
    #[command(flatten)]
    pub places: Places,
}

impl RestoreArgs {
    /// The task: read, or made from manifests.
    pub fn task(&self) -> Result<Task, Failure> {
        let (Some(store), Some(request)) = (&self.store, &self.request) else {
            return read_task(&self.places.task);
        };
        let store: BackupStore = read_document("the BackupStore", store)?;
        let request: RestoreRequest = read_document("the RestoreRequest", request)?;
        let namespace = request.metadata.namespace.unwrap_or_else(|| "default".to_owned());
        let name = request.metadata.name.unwrap_or_default();
        let RestoreFrom::Store(from) = &request.spec.from else {
            return Err(Failure::new(
                Reason::InvalidSpec,
                "spec.from names a run, which only the cluster knows; expected from.store.path, as the source's status shows it",
            ));
        };
        let restore = RestoreTask {
            digest: request.spec.digest(&namespace, &name).to_string(),
            request: name,
            path: from.path.clone(),
            manifest_digest: None,
            version_id: None,
            to: request.spec.to,
            select: request.spec.select.unwrap_or_default(),
            missing_roles: request.spec.missing_roles,
            post_restore: request.spec.post_restore,
            attempt: 1,
            not_after: (Timestamp::now() + BY_HAND).to_string(),
        };
        let action = Action::Restore(restore);
        Ok(Task {
            version: TASK_VERSION,
            cluster: "by-hand".to_owned(),
            namespace,
            store: freeze(store),
            action,
        })
    }
}

/// Opens the store, and restores.
pub async fn run(invocation: &Invocation, task: &RestoreTask) -> Result<AgentResult, Failure> {
    let store = place::open(invocation, Patience::RUN).map_err(certain)?;
    run_with(invocation, task, &store).await
}

/// Restores from an open store. What fails before the target is touched is certain for ever.
pub async fn run_with(invocation: &Invocation, task: &RestoreTask, store: &Store) -> Result<AgentResult, Failure> {
    let not_after = time("notAfter", &task.not_after).map_err(certain)?;
    let access = access(invocation, task).map_err(certain)?;
    let tools = invocation.tools().map_err(certain)?;
    let scratch = tools.scratch.clone();
    let stop = invocation.cancel.child_token();
    let job = Job {
        access,
        tools,
        identity: identity(invocation, task),
        stop: stop.clone(),
        invocation,
        task,
        store,
    };
    let result = within(not_after, &stop, Box::pin(job.attempt())).await;
    if let Err(error) = std::fs::remove_dir_all(&scratch) {
        tracing::debug!(%error, "the scratch directory was not removed");
    }
    result
}

/// A failure of an attempt that has put nothing in place and cannot any more.
fn certain(failure: Failure) -> Failure {
    Failure { closed: true, ..failure }
}

/// Answers for a restore whose end is in doubt, by its receipt.
pub async fn settle(invocation: &Invocation, task: &RestoreTask) -> Result<AgentResult, Failure> {
    let session = access(invocation, task)?.connect(Wanted::Primary).await?;
    let result = match receipt::find(&session, &task.digest).await? {
        Some(receipt) => done(Reason::Succeeded, "the target holds this request's receipt", receipt.summary),
        None => plain(
            Reason::CopyNotFound,
            "the target holds no receipt of this request: nothing of it was put in place",
        ),
    };
    // There may be no other attempt that clears away what the last one left. The answer is true without it.
    let stays = match clear(&session, &identity(invocation, task)).await {
        Ok(stays) => stays,
        Err(error) => vec![format!("what ended attempts left was not dropped: {}", error.message)],
    };
    let message = with(&result.message, &stays);
    Ok(AgentResult { message, ..result })
}

/// Drops what ended attempts of this request left. Gives what stays, and why.
async fn clear(session: &Session, identity: &Identity) -> Result<Vec<String>, Failure> {
    let leftovers = receipt::leftovers(session, identity).await?;
    Ok(receipt::clean(session, &leftovers).await?)
}

/// A message with what else is to be told.
fn with(message: &str, notes: &[String]) -> String {
    std::iter::once(message)
        .chain(notes.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join("; ")
}

fn access(invocation: &Invocation, task: &RestoreTask) -> Result<Access, Failure> {
    let RestoreTo::Postgresql(server) = &task.to;
    Ok(Access::new(server, &invocation.places.server_files(), &invocation.application())?)
}

fn identity(invocation: &Invocation, task: &RestoreTask) -> Identity {
    Identity {
        digest: task.digest.clone(),
        namespace: invocation.task.namespace.clone(),
        request: task.request.clone(),
        copy: task.path.clone(),
        pod: invocation.pod.to_string(),
    }
}

fn done(reason: Reason, message: &str, summary: RestoreSummary) -> AgentResult {
    AgentResult {
        closed: true,
        restored: Some(summary),
        ..plain(reason, message)
    }
}

fn refused(reason: Reason, message: impl Into<String>) -> Failure {
    Failure {
        closed: true,
        ..Failure::new(reason, message)
    }
}

struct Job<'a> {
    invocation: &'a Invocation,
    task: &'a RestoreTask,
    store: &'a Store,
    access: Access,
    tools: Tools,
    identity: Identity,
    stop: CancellationToken,
}

impl Job<'_> {
    /// The recipe.
    async fn attempt(&self) -> Result<AgentResult, Failure> {
        let progress = &self.invocation.progress;
        progress.enter("receipt", &self.task.request);
        let target = or_stopped(&self.stop, async { Ok(target::look(&self.access, &self.tools).await?) })
            .await
            .map_err(certain)?;
        let stays = clear(&target.session, &self.identity).await.map_err(certain)?;
        let mut failure = match self.beside(&target, &stays).await {
            Err(failure) => failure,
            done => return done,
        };
        if let Ok(run) = self.run() {
            failure = removed::explained(self.store, &run, failure).await;
        }
        let message = with(&failure.message, &stays);
        Err(Failure { message, ..failure })
    }

    /// The recipe, once the target is found; `stays` is told of ended attempts.
    async fn beside(&self, target: &Target, stays: &[String]) -> Result<AgentResult, Failure> {
        let progress = &self.invocation.progress;
        if let Some(receipt) = receipt::find(&target.session, &self.task.digest)
            .await
            .map_err(|error| certain(error.into()))?
        {
            let message = with("the target holds this request's receipt: nothing was done again", stays);
            return Ok(done(Reason::AlreadyDone, &message, receipt.summary));
        }
        progress.enter("copy", &self.task.path);
        let copy = or_stopped(&self.stop, self.copy()).await.map_err(certain)?;
        let reader = or_stopped(&self.stop, self.reader(&copy)).await.map_err(certain)?;
        progress.enter("preflight", "");
        let plan = or_stopped(&self.stop, self.plan(&copy, &reader, target)).await.map_err(certain)?;
        progress.enter("digests", "");
        or_stopped(&self.stop, digests(&plan, &reader, progress)).await.map_err(certain)?;

        progress.enter("prepare", "");
        receipt::begin(&target.session, &self.identity)
            .await
            .map_err(|error| certain(error.into()))?;
        let result = or_stopped(&self.stop, Box::pin(self.restore(&copy, &reader, target, &plan, stays))).await;
        match result {
            Ok(result) => Ok(result),
            Err(failure) => Err(self.give_up(failure, target, &plan).await),
        }
    }

    /// What is restored.
    fn run(&self) -> Result<RunPath, Failure> {
        self.task.path.parse().map_err(|error| invalid(&error))
    }

    /// The copy's manifest, out of the register.
    async fn copy(&self) -> Result<Committed, Failure> {
        let run = self.run()?;
        let (copy, version) = copies::find(self.store, &run).await?;
        let found = copy.manifest_sha256().to_string();
        let altered = |what: &str, found: &str, pinned: &str| {
            Failure::new(
                Reason::Tampered,
                format!("{what} of {run} is {found}, and was {pinned} when the run ended: find out who wrote there"),
            )
        };
        match &self.task.manifest_digest {
            Some(pinned) if *pinned != found => return Err(altered("the manifest's digest", &found, pinned)),
            _ => {}
        }
        match (&self.task.version_id, &version) {
            (Some(pinned), Some(version)) if pinned != version => return Err(altered("the outcome's version", version, pinned)),
            _ => {}
        }
        Ok(copy)
    }

    /// Opens the copy's key: a wrong one says so before anything is touched.
    async fn reader(&self, copy: &Committed) -> Result<CopyReader, Failure> {
        let key = copies::run_key(self.store, copy, &self.invocation.places.identity).await?;
        let pool = Pool::for_memory_limit(self.invocation.memory_limit, 1);
        Ok(CopyReader::new(
            self.store.clone(),
            copy,
            key,
            pool,
            self.stop.clone(),
            self.invocation.progress.counters(),
        ))
    }

    /// Loads every database beside, checks it, and puts all in place at once.
    async fn restore(
        &self,
        copy: &Committed,
        reader: &CopyReader,
        target: &Target,
        plan: &Plan<'_>,
        stays: &[String],
    ) -> Result<AgentResult, Failure> {
        let progress = &self.invocation.progress;
        let mut notes = [stays, plan.notes.as_slice()].concat();
        if !plan.missing.is_empty() {
            progress.enter("roles", "");
            let globals = match plan.globals {
                Some(stream) => Some(self.globals(stream, reader).await?),
                None => None,
            };
            let statements = roles::statements(globals.as_deref(), &plan.missing, &target.offer);
            notes.extend(
                roles::create(&target.session, &statements)
                    .await
                    .map_err(|error| restoring(error.into()))?,
            );
            notes.push(format!(
                "created roles {}",
                plan.missing.iter().cloned().collect::<Vec<_>>().join(", ")
            ));
        }
        progress.expect("load", plan.selected.iter().map(|one| one.stream.raw.bytes).sum());
        let (mut tables, mut rows, mut raw) = (0, 0, 0);
        let mut post_restore = Vec::new();
        for one in &plan.selected {
            let of_database = |failure: Failure| failure.while_doing(&format!("database {}", one.database.name));
            progress.enter("load", &one.target);
            let properties = one.toc.as_ref().map(|(toc, _)| properties(toc)).unwrap_or_default();
            receipt::note(&target.session, &self.identity, &one.side, &one.target).await?;
            load::create(&target.session, &one.side, &properties, one.database)
                .await
                .map_err(|error| of_database(restoring(error.into())))?;
            load::let_create(&target.session, &one.side, &one.creators, true).await?;
            let stream = reader.open(one.stream, &one.index).await?;
            let adapted = one.toc.as_ref().map(|(toc, length)| (toc, *length));
            load::load(&self.tools, &self.access, &target.server.host, &one.side, adapted, stream)
                .await
                .map_err(|error| of_database(error.into()))?;
            load::let_create(&target.session, &one.side, &one.creators, false).await?;
            progress.enter("check", &one.target);
            let inside = self.access.connect_again(&target.server.host, &one.side).await?;
            let counted = load::check(&inside, one.database, one.left_out)
                .await
                .map_err(|error| of_database(restoring(error.into())))?;
            let queries = self.task.post_restore.iter().filter(|query| query.database == one.database.name);
            for query in queries {
                progress.enter("postRestore", &query.name);
                load::post_restore(&inside, query)
                    .await
                    .map_err(|error| of_database(restoring(error.into())))?;
                post_restore.push(query.name.clone());
            }
            drop(inside);
            notes.extend(
                load::set_properties(&target.session, &one.side, &properties, &one.database.encoding)
                    .await
                    .map_err(|error| of_database(restoring(error.into())))?,
            );
            notes.extend(counted.notes);
            tables += counted.tables;
            rows += counted.rows;
            raw += one.stream.raw.bytes;
        }
        let summary = RestoreSummary {
            recovery_point: copy.manifest().recovery_point.to_string(),
            databases: count(plan.selected.len() as u64),
            database_names: plan.selected.iter().take(10).map(|one| one.target.clone()).collect(),
            tables: count(tables),
            rows: count(rows),
            raw_bytes: count(raw),
            post_restore,
            skipped: notes.iter().take(16).map(|note| shorten(note, 256)).collect(),
        };
        for note in &notes {
            tracing::info!(note, "not restored as it was");
        }
        progress.enter("swap", "");
        let ready = plan.selected.iter().map(|one| Ready {
            side: one.side.clone(),
            target: one.target.clone(),
            old: one.old.clone(),
        });
        let ready = ready.collect::<Vec<_>>();
        match swap(&self.access, &target.session, &self.identity, &ready, &summary)
            .await
            .map_err(|error| restoring(error.into()))?
        {
            Swapped::Done => Ok(done(Reason::Succeeded, "the databases are in place", summary)),
            Swapped::AlreadyDone(theirs) => {
                self.drop_own(target, plan).await?;
                Ok(done(
                    Reason::AlreadyDone,
                    "another attempt of this request was first; ours was dropped",
                    *theirs,
                ))
            }
        }
    }

    async fn globals(&self, stream: &Stream, reader: &CopyReader) -> Result<Vec<u8>, Failure> {
        if stream.raw.bytes > GLOBALS_LIMIT {
            return Err(Failure::new(
                Reason::RestoreFailed,
                format!(
                    "the copy's globals have {} bytes, at most {GLOBALS_LIMIT} are read",
                    stream.raw.bytes
                ),
            ));
        }
        let index = reader.index(stream).await?;
        let mut bytes = Vec::new();
        reader.open(stream, &index).await?.copy_to(&mut bytes).await?;
        Ok(bytes)
    }

    /// Drops what this attempt made. Only when that is gone is it certain that nothing of it can be put in place.
    async fn give_up(&self, failure: Failure, target: &Target, plan: &Plan<'_>) -> Failure {
        let stopped = self.invocation.cancel.is_cancelled();
        self.invocation.progress.enter("clean", "");
        match tokio::time::timeout(if stopped { CLEAN_AT_ONCE } else { CLEAN_WITHIN }, self.drop_own(target, plan)).await {
            Ok(Ok(())) => Failure { closed: true, ..failure },
            Ok(Err(error)) => {
                tracing::warn!(error = %error.message, "the databases beside could not be dropped; the next attempt drops them");
                failure
            }
            Err(_) => {
                tracing::warn!("the databases beside could not be dropped in time; the next attempt drops them");
                failure
            }
        }
    }

    /// On a session of its own: the other may be lost, or in the middle of something.
    async fn drop_own(&self, target: &Target, plan: &Plan<'_>) -> Result<(), Failure> {
        let session = self
            .access
            .connect_again(&target.server.host, &self.access.maintenance_database)
            .await?;
        for one in &plan.selected {
            drop_database(&session, &one.side).await?;
            receipt::forget(&session, &one.side).await?;
        }
        Ok(())
    }
}

/// A statement that fails while a database is restored is a failed restore, whatever it would mean for a dump.
fn restoring(failure: Failure) -> Failure {
    if failure.reason == Reason::DumpFailed {
        Failure {
            reason: Reason::RestoreFailed,
            ..failure
        }
    } else {
        failure
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Database(error) => restoring(error.into()),
            LoadError::Copy(error) => error.into(),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let reason = match &error {
            OpenError::Store { source, .. } => source.reason(),
            OpenError::Corrupt { .. } => Reason::CopyCorrupt,
            OpenError::KeyMissing { .. } => Reason::KeyMissing,
            OpenError::Write(_) => Reason::RestoreFailed,
            OpenError::Fault(_) => Reason::InternalError,
            OpenError::Cancelled => Reason::Interrupted,
        };
        Self::new(reason, error.to_string())
    }
}

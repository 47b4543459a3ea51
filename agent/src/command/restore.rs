//! `restore`: from a copy into databases beside, checked, and renamed into place. The target is touched only once everything is known
//! that could stop it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use holdfast_crds::document::{Checked, Committed, Database, EntryKind, RunPath, Stream, StreamKind};
use holdfast_crds::{
    Action, AgentResult, BackupStore, MissingRoles, Reason, RestoreFrom, RestoreRequest, RestoreSelection, RestoreSummary, RestoreTask,
    RestoreTo, TASK_VERSION, Task,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::backup::{freeze, invalid, or_stopped, time, within};
use super::{copy as copies, place};
use crate::config::{Invocation, Places, read_document, read_task};
use crate::engine::postgresql::archive::{Keep, Reader, Toc};
use crate::engine::postgresql::connect::{Access, Wanted};
use crate::engine::postgresql::restore::load::{self, LoadError};
use crate::engine::postgresql::restore::plan::{Lacking, adapt, has_user_objects, lacking, properties};
use crate::engine::postgresql::restore::receipt::{self, Identity, Receipt};
use crate::engine::postgresql::restore::roles;
use crate::engine::postgresql::restore::swap::{Ready, Swapped, swap};
use crate::engine::postgresql::restore::target::{self, Target, check_name, drop_database, old_name, side_name};
use crate::engine::postgresql::tool::Tools;
use crate::pipeline::pool::Pool;
use crate::pipeline::{CopyReader, Index, OpenError};
use crate::result::{Failure, count, plain, shorten};
use crate::store::{Patience, Store};

/// The largest table of contents that is held, in bytes.
const TOC_LIMIT: usize = 64 << 20;
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
    match receipt::find(&session, &task.digest).await? {
        Some(receipt) => Ok(done(Reason::Succeeded, "the target holds this request's receipt", receipt.summary)),
        None => Ok(plain(
            Reason::CopyNotFound,
            "the target holds no receipt of this request: nothing of it was put in place",
        )),
    }
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

/// A database that is to be restored.
struct Selected<'a> {
    database: &'a Database,
    stream: &'a Stream,
    target: String,
    side: String,
    old: String,
    index: Index,
    /// Header and table of contents as the target can take them, and the length of those in the archive; `None` where the archive's
    /// format is not known.
    toc: Option<(Toc, u64)>,
}

/// What a restore has found out before it touches the target.
struct Plan<'a> {
    selected: Vec<Selected<'a>>,
    globals: Option<&'a Stream>,
    /// Roles that are to be made.
    missing: BTreeSet<String>,
    notes: Vec<String>,
}

impl Job<'_> {
    /// The recipe.
    async fn attempt(&self) -> Result<AgentResult, Failure> {
        let progress = &self.invocation.progress;
        progress.enter("receipt", &self.task.request);
        let target = or_stopped(&self.stop, async { Ok(target::look(&self.access, &self.tools).await?) })
            .await
            .map_err(certain)?;
        if let Some(receipt) = self.receipt(&target).await.map_err(certain)? {
            return Ok(done(
                Reason::AlreadyDone,
                "the target holds this request's receipt: nothing was done again",
                receipt.summary,
            ));
        }
        progress.enter("copy", &self.task.path);
        let copy = or_stopped(&self.stop, self.copy()).await.map_err(certain)?;
        let reader = or_stopped(&self.stop, self.reader(&copy)).await.map_err(certain)?;
        progress.enter("preflight", "");
        let plan = or_stopped(&self.stop, self.plan(&copy, &reader, &target)).await.map_err(certain)?;
        progress.enter("digests", "");
        or_stopped(&self.stop, digests(&plan, &reader)).await.map_err(certain)?;

        progress.enter("prepare", "");
        receipt::begin(&target.session, &self.identity)
            .await
            .map_err(|error| certain(error.into()))?;
        let result = or_stopped(&self.stop, self.restore(&copy, &reader, &target, &plan)).await;
        match result {
            Ok(result) => Ok(result),
            Err(failure) => Err(self.give_up(failure, &target, &plan).await),
        }
    }

    /// Clears what ended attempts of this request left, and looks for its receipt.
    async fn receipt(&self, target: &Target) -> Result<Option<Receipt>, Failure> {
        let leftovers = receipt::leftovers(&target.session, &self.identity).await?;
        receipt::clean(&target.session, &leftovers).await?;
        Ok(receipt::find(&target.session, &self.identity.digest).await?)
    }

    /// The copy's manifest, out of the register.
    async fn copy(&self) -> Result<Committed, Failure> {
        let run: RunPath = self.task.path.parse().map_err(|error| invalid(&error))?;
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

    /// Finds out everything that could stop the restore, and reads nothing but the beginnings of archives.
    async fn plan<'a>(&self, copy: &'a Committed, reader: &CopyReader, target: &Target) -> Result<Plan<'a>, Failure> {
        let manifest = copy.manifest();
        let written_by = manifest.server.tools.get("pg_dump").map(String::as_str).unwrap_or_default();
        let major = written_by
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|text| text.parse::<u32>().ok());
        if major.is_some_and(|major| major > target.tool.major) {
            let message = format!(
                "the copy was written by pg_dump {written_by}, and pg_restore is {}: a newer image is needed, set to.postgresql.version or job.image",
                target.tool.text
            );
            return Err(Failure::new(Reason::VersionUnsupported, message));
        }
        let mut notes = Vec::new();
        let mut selected = Vec::new();
        for (database, name) in select(copy, &self.task.select)? {
            let stream = manifest.streams.iter().find(|stream| stream.name == database.stream);
            let stream =
                stream.ok_or_else(|| Failure::new(Reason::CopyCorrupt, format!("the manifest has no stream {}", database.stream)))?;
            heads(stream, reader).await?;
            let index = reader.index(stream).await?;
            let toc = toc(stream, &index, reader).await?;
            let is_maintenance = name == self.access.maintenance_database;
            if is_maintenance && toc.as_ref().is_some_and(|(toc, _)| !has_user_objects(toc)) {
                notes.push(format!(
                    "database {name} holds nothing and is the target's maintenance database: left as it is"
                ));
                continue;
            }
            check_name(&name, &self.access.maintenance_database)?;
            let (side, old) = (
                side_name(&self.identity.pod, selected.len()),
                old_name(&self.identity.pod, selected.len()),
            );
            selected.push(Selected {
                database,
                stream,
                target: name,
                side,
                old,
                index,
                toc,
            });
        }
        if selected.is_empty() {
            return Err(Failure::new(
                Reason::DatabaseNotInCopy,
                format!("there is nothing to restore: {}", notes.join("; ")),
            ));
        }
        let globals = manifest.streams.iter().find(|stream| stream.kind == StreamKind::PostgresqlGlobals);
        let missing = self.weigh(&mut selected, target, &mut notes)?;
        if let Some(globals) = globals.filter(|_| !missing.is_empty()) {
            heads(globals, reader).await?;
        }
        for one in &selected {
            target::place(&self.access, &target.session, &one.target).await?;
        }
        Ok(Plan {
            selected,
            globals,
            missing,
            notes,
        })
    }

    /// Compares what the archives need with what the target has, and adapts their tables of contents. Returns the roles that are to be made.
    fn weigh(&self, selected: &mut [Selected<'_>], target: &Target, notes: &mut Vec<String>) -> Result<BTreeSet<String>, Failure> {
        let mut all = Lacking::default();
        for one in &*selected {
            let Some((toc, _)) = &one.toc else {
                notes.push(format!(
                    "database {}: the archive's format is not known, so roles and extensions were not looked at",
                    one.target
                ));
                continue;
            };
            let lacking = lacking(toc, &target.offer);
            all.extensions.extend(lacking.extensions);
            for (role, entries) in lacking.roles {
                *all.roles.entry(role).or_default() += entries;
            }
        }
        if !all.extensions.is_empty() {
            let names = all.extensions.into_iter().collect::<Vec<_>>().join(", ");
            let message = format!(
                "the target at {} has no extensions {names}, which the copy needs: install them there",
                target.server.host
            );
            return Err(Failure::new(Reason::ExtensionsMissing, message));
        }
        let missing = all.roles.keys().cloned().collect::<BTreeSet<_>>();
        if !missing.is_empty() && self.task.missing_roles == MissingRoles::Fail {
            let names = all
                .roles
                .iter()
                .map(|(role, entries)| format!("{role} ({entries} objects)"))
                .collect::<Vec<_>>()
                .join(", ");
            let message = format!(
                "the target at {} lacks roles that own or may use objects: {names}; create them, or set missingRoles to Skip or Create",
                target.server.host
            );
            return Err(Failure::new(Reason::RolesMissing, message));
        }
        let create = self.task.missing_roles == MissingRoles::Create;
        for one in selected {
            if let Some((toc, _)) = &mut one.toc {
                let left_out = adapt(toc, &target.offer, self.task.missing_roles);
                notes.extend(left_out.into_iter().map(|note| format!("{}: {note}", one.target)));
            }
        }
        Ok(if create { missing } else { BTreeSet::new() })
    }

    /// Loads every database beside, checks it, and puts all in place at once.
    async fn restore(&self, copy: &Committed, reader: &CopyReader, target: &Target, plan: &Plan<'_>) -> Result<AgentResult, Failure> {
        let progress = &self.invocation.progress;
        let mut notes = plan.notes.clone();
        if !plan.missing.is_empty() {
            progress.enter("roles", "");
            let globals = match plan.globals {
                Some(stream) => Some(self.globals(stream, reader).await?),
                None => None,
            };
            let statements = roles::statements(globals.as_deref(), &plan.missing, &target.offer.roles);
            roles::create(&target.session, &statements).await?;
            notes.push(format!(
                "created roles {}",
                plan.missing.iter().cloned().collect::<Vec<_>>().join(", ")
            ));
        }
        progress.expect(plan.selected.iter().map(|one| one.stream.raw.bytes).sum());
        let (mut tables, mut rows, mut raw) = (0, 0, 0);
        for one in &plan.selected {
            let of_database = |failure: Failure| failure.while_doing(&format!("database {}", one.database.name));
            progress.enter("load", &one.target);
            let properties = one.toc.as_ref().map(|(toc, _)| properties(toc)).unwrap_or_default();
            receipt::note(&target.session, &self.identity, &one.side, &one.target).await?;
            load::create(&target.session, &one.side, &properties, one.database)
                .await
                .map_err(|error| of_database(restoring(error.into())))?;
            let stream = reader.open(one.stream, &one.index).await?;
            let adapted = one.toc.as_ref().map(|(toc, length)| (toc, *length));
            load::load(&self.tools, &self.access, &target.server.host, &one.side, adapted, stream)
                .await
                .map_err(|error| of_database(error.into()))?;
            progress.enter("check", &one.target);
            let inside = self.access.connect_again(&target.server.host, &one.side).await?;
            let counted = load::check(&inside, one.database)
                .await
                .map_err(|error| of_database(restoring(error.into())))?;
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
        match swap(&self.access, &target.session, &self.identity, &ready, &summary).await? {
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

/// The wanted databases of a copy and their new names.
fn select<'a>(copy: &'a Committed, selection: &RestoreSelection) -> Result<Vec<(&'a Database, String)>, Failure> {
    let databases = &copy.manifest().contents.databases;
    let there = || {
        databases
            .iter()
            .map(|database| database.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    for name in selection.databases.iter().chain(selection.rename.keys()) {
        if !databases.iter().any(|database| database.name == *name) {
            return Err(refused(
                Reason::DatabaseNotInCopy,
                format!("select names database {name:?}; the copy holds {}", there()),
            ));
        }
    }
    let wanted = |database: &&Database| selection.databases.is_empty() || selection.databases.contains(&database.name);
    let chosen = databases.iter().filter(wanted).map(|database| {
        let name = selection.rename.get(&database.name).unwrap_or(&database.name);
        (database, name.clone())
    });
    let chosen = chosen.collect::<Vec<_>>();
    let mut names = BTreeSet::new();
    for (_, name) in &chosen {
        if !names.insert(name) {
            return Err(refused(
                Reason::InvalidSpec,
                format!("select.rename: two databases would be called {name:?}; give each its own name"),
            ));
        }
    }
    Ok(chosen)
}

/// Asks the store whether every object of a stream is there in its size.
async fn heads(stream: &Stream, reader: &CopyReader) -> Result<(), Failure> {
    for part in &stream.parts {
        reader.check_head(&part.object, part.bytes, part.sha256).await?;
    }
    Ok(reader
        .check_head(&stream.index.object, stream.index.bytes, stream.index.sha256)
        .await?)
}

/// Reads every byte that will be restored, and compares the digests: a damaged part stops the restore before it writes.
async fn digests(plan: &Plan<'_>, reader: &CopyReader) -> Result<(), Failure> {
    let globals = plan.globals.filter(|_| !plan.missing.is_empty());
    for stream in plan.selected.iter().map(|one| one.stream).chain(globals) {
        for part in &stream.parts {
            reader.check_digest(&part.object, part.bytes, part.sha256).await?;
        }
    }
    Ok(())
}

/// Header and table of contents of an archive, and their length in the stream; `None` where its format was not known.
async fn toc(stream: &Stream, index: &Index, reader: &CopyReader) -> Result<Option<(Toc, u64)>, Failure> {
    let preamble = index.entries.iter().find(|entry| entry.kind == EntryKind::Preamble);
    let Some(preamble) = preamble.filter(|_| stream.checked == Checked::Structure) else {
        return Ok(None);
    };
    let mut bytes = reader
        .open_range(stream, index, preamble.raw_offset..preamble.raw_offset + preamble.length)
        .await?;
    let mut archive = Reader::new(Keep::Everything { limit: TOC_LIMIT });
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(Reason::CopyCorrupt, format!("read the archive of stream {}: {error}", stream.name));
    while let Some(bytes) = bytes.next().await? {
        archive.feed(&bytes, |_| ()).map_err(|error| failed(&error))?;
    }
    let toc = archive
        .toc()
        .cloned()
        .ok_or_else(|| failed(&"its table of contents is not whole"))?;
    let length = toc.length;
    Ok(Some((toc, length)))
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

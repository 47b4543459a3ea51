//! Everything that could stop a restore, found out before the target is touched.

use std::collections::BTreeSet;

use holdfast_crds::document::{Checked, Committed, Database, EntryKind, Stream, StreamKind};
use holdfast_crds::{MissingRoles, Reason, RestoreSelection};

use super::{Job, refused};
use crate::engine::postgresql::archive::{Keep, Reader, Toc};
use crate::engine::postgresql::restore::creator::database_creators;
use crate::engine::postgresql::restore::plan::{Lacking, Power, adapt, has_user_objects, lacking};
use crate::engine::postgresql::restore::rights::{Demands, demands};
use crate::engine::postgresql::restore::scheduler;
use crate::engine::postgresql::restore::target::{self, Target, check_name, old_name, side_name};
use crate::pipeline::{CopyReader, Index};
use crate::progress::Progress;
use crate::result::Failure;

/// The largest table of contents that is held, in bytes.
const TOC_LIMIT: usize = 64 << 20;

/// A database that is to be restored.
pub(super) struct Selected<'a> {
    pub(super) database: &'a Database,
    pub(super) stream: &'a Stream,
    pub(super) target: String,
    pub(super) side: String,
    pub(super) old: String,
    pub(super) index: Index,
    /// Header and table of contents as the target can take them, and the length of those in the archive; `None` where the archive's
    /// format is not known.
    pub(super) toc: Option<(Toc, u64)>,
    /// The schema of the copied database that is not restored.
    pub(super) left_out: Option<&'static str>,
    /// Roles that must be able to create in the database while it is filled.
    pub(super) creators: BTreeSet<String>,
}

/// What a restore has found out before it touches the target.
pub(super) struct Plan<'a> {
    pub(super) selected: Vec<Selected<'a>>,
    pub(super) globals: Option<&'a Stream>,
    /// Roles that are to be made.
    pub(super) missing: BTreeSet<String>,
    pub(super) notes: Vec<String>,
}

impl Job<'_> {
    /// Finds out everything that could stop the restore, and reads nothing but the beginnings of archives.
    pub(super) async fn plan<'a>(&self, copy: &'a Committed, reader: &CopyReader, target: &Target) -> Result<Plan<'a>, Failure> {
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
            let mut toc = toc(stream, &index, reader).await?;
            let jobs = toc.as_mut().is_some_and(|(toc, _)| scheduler::leave_out(toc));
            if jobs {
                notes.push(without_jobs(database));
            }
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
                left_out: jobs.then_some(scheduler::SCHEMA),
                creators: BTreeSet::new(),
            });
        }
        if selected.is_empty() {
            return Err(Failure::new(
                Reason::DatabaseNotInCopy,
                format!("there is nothing to restore: {}", notes.join("; ")),
            ));
        }
        let restored = |name: &str| selected.iter().any(|one| one.database.name == name);
        if let Some(query) = self.task.post_restore.iter().find(|query| !restored(&query.database)) {
            let names = selected.iter().map(|one| one.database.name.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!(
                "postRestore {} is for the database {}, which is not restored; expected one of {names}, by their names in the copy",
                query.name, query.database
            );
            return Err(Failure::new(Reason::DatabaseNotInCopy, message));
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
        let (mut all, mut demanded) = (Lacking::default(), Demands::default());
        for one in &*selected {
            let Some((toc, _)) = &one.toc else {
                notes.push(format!(
                    "database {}: the archive's format is not known, so roles and extensions were not looked at",
                    one.target
                ));
                continue;
            };
            demanded.extend(demands(toc, &target.offer));
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
        if let Some(problem) = demanded.refusal(&target.offer, self.task.missing_roles, create && !missing.is_empty()) {
            let message = format!(
                "user {} at {} cannot restore this: {problem}",
                target.offer.user.name, target.server.host
            );
            return Err(Failure::new(Reason::DatabasePermissionDenied, message));
        }
        for one in selected {
            if let Some((toc, _)) = &mut one.toc {
                let left_out = adapt(toc, &target.offer, self.task.missing_roles);
                notes.extend(left_out.into_iter().map(|note| format!("{}: {note}", one.target)));
                if target.offer.user.power != Power::Superuser {
                    one.creators = database_creators(toc, &target.offer.user.name);
                }
            }
        }
        Ok(if create { missing } else { BTreeSet::new() })
    }
}

/// What is told of a database whose jobs are not restored.
fn without_jobs(database: &Database) -> String {
    let jobs = database
        .tables
        .iter()
        .find(|table| table.schema == scheduler::SCHEMA && table.name == "job");
    let jobs = jobs
        .and_then(|table| table.rows)
        .map_or_else(|| "jobs".to_owned(), |rows| format!("{rows} jobs"));
    format!(
        "database {}: extension pg_cron and its {jobs} were left out, since they would act at once; where they are wanted, CREATE EXTENSION pg_cron in the database that the server runs it in, and make them there",
        database.name
    )
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
pub(super) async fn heads(stream: &Stream, reader: &CopyReader) -> Result<(), Failure> {
    for part in &stream.parts {
        reader.check_head(&part.object, part.bytes, part.sha256).await?;
    }
    Ok(reader
        .check_head(&stream.index.object, stream.index.bytes, stream.index.sha256)
        .await?)
}

/// Reads every byte that will be restored, and compares the digests: a damaged part stops the restore before it writes.
pub(super) async fn digests(plan: &Plan<'_>, reader: &CopyReader, progress: &Progress) -> Result<(), Failure> {
    let globals = plan.globals.filter(|_| !plan.missing.is_empty());
    let streams = plan.selected.iter().map(|one| one.stream).chain(globals);
    let parts: Vec<_> = streams.flat_map(|stream| &stream.parts).collect();
    progress.expect("digests", parts.iter().map(|part| part.bytes).sum());
    for part in parts {
        reader.check_digest(&part.object, part.bytes, part.sha256).await?;
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

//! Into the database beside: made, loaded by `pg_restore`, counted, and given the properties of the one that was copied.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use holdfast_crds::document::{Database, Table};
use holdfast_crds::{PostRestoreQuery, Reason};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;

use super::super::archive::Toc;
use super::super::connect::Access;
use super::super::error::{DatabaseError, chain};
use super::super::host::Host;
use super::super::session::{Row, Session, identifier, literal};
use super::super::tool::{Running, Tools};
use super::plan::DatabaseProperties;
use super::statement::for_database;
use crate::pipeline::{OpenError, RawStream};

/// How long one statement over all of a table may take; the attempt's own deadline is shorter.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// Why a database beside could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The server or its tool.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The copy.
    #[error(transparent)]
    Copy(#[from] OpenError),
}

/// Makes the database beside as the copied one was made: encoding, locale, provider.
pub async fn create(session: &Session, side: &str, properties: &DatabaseProperties, copied: &Database) -> Result<(), DatabaseError> {
    let from_archive = properties.create.as_deref().and_then(|sql| for_database(sql, side));
    let sql = from_archive.map_or_else(|| by_manifest(side, copied), |sql| String::from_utf8_lossy(&sql).into_owned());
    session.run_within(Duration::from_secs(600), "make the database beside", &sql).await
}

/// For archives of an unknown format.
fn by_manifest(side: &str, copied: &Database) -> String {
    let setting = |name: &str| copied.settings.get(name).map(String::as_str).unwrap_or_default();
    let locale = match (setting("collate"), setting("ctype")) {
        ("", _) | (_, "") => String::new(),
        (collate, ctype) => format!(" LC_COLLATE = {} LC_CTYPE = {}", literal(collate), literal(ctype)),
    };
    let encoding = literal(&copied.encoding);
    format!(
        "CREATE DATABASE {} WITH TEMPLATE = template0 ENCODING = {encoding}{locale}",
        identifier(side)
    )
}

/// Lets roles create in the database beside while it is filled, or no more: its own grants come afterwards.
pub async fn let_create(session: &Session, side: &str, roles: &BTreeSet<String>, allowed: bool) -> Result<(), DatabaseError> {
    if roles.is_empty() {
        return Ok(());
    }
    let roles = roles.iter().map(|role| identifier(role)).collect::<Vec<_>>().join(", ");
    let (what, word) = if allowed { ("GRANT", "TO") } else { ("REVOKE", "FROM") };
    let sql = format!("{what} CREATE ON DATABASE {} {word} {roles}", identifier(side));
    session.run("let the owners of publications create", &sql).await
}

/// Streams an archive into `pg_restore`. With `adapted`, that TOC goes in place of the archive's own, which has `toc_length` bytes.
pub async fn load(
    tools: &Tools,
    access: &Access,
    host: &Host,
    side: &str,
    adapted: Option<(&Toc, u64)>,
    stream: RawStream,
) -> Result<(), LoadError> {
    let mut command = tools.connected("pg_restore", access, host, side)?;
    command.args(["--exit-on-error", "--no-password", "--format=custom", &format!("--dbname={side}")]);
    let mut running = Running::start("pg_restore", command.stdin(Stdio::piped()))?;
    let stdin = running.take_stdin().ok_or_else(|| DatabaseError::Refused {
        reason: Reason::InternalError,
        message: "pg_restore has no stdin".to_owned(),
    })?;
    match feed(stdin, adapted, stream).await {
        Ok(()) => Ok(running.finish(Reason::RestoreFailed).await?),
        Err(FeedError::Copy(error)) => {
            running.kill().await;
            Err(error.into())
        }
        // It reads no more: its own words say why.
        Err(FeedError::Closed(problem)) => {
            running.finish(Reason::RestoreFailed).await?;
            Err(DatabaseError::Refused {
                reason: Reason::RestoreFailed,
                message: format!("pg_restore ended with success before it had read the whole archive ({problem})"),
            }
            .into())
        }
    }
}

enum FeedError {
    Copy(OpenError),
    Closed(String),
}

async fn feed(mut stdin: ChildStdin, adapted: Option<(&Toc, u64)>, mut stream: RawStream) -> Result<(), FeedError> {
    let closed = |error: std::io::Error| FeedError::Closed(chain(&error));
    let mut skip = 0;
    if let Some((toc, length)) = adapted {
        stdin.write_all(&toc.to_bytes()).await.map_err(closed)?;
        skip = length;
    }
    while let Some(bytes) = stream.next().await.map_err(FeedError::Copy)? {
        let over = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
        skip -= over as u64;
        stdin.write_all(&bytes[over..]).await.map_err(closed)?;
    }
    stdin.shutdown().await.map_err(closed)
}

/// What was counted in a restored database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Tables whose rows were counted.
    pub tables: u64,
    /// Rows in them.
    pub rows: u64,
    /// What could not be counted, and why.
    pub notes: Vec<String>,
}

/// The rows of a table, all of them. Row security may hide them even from its owner, and its owner may have no right to read: both are lifted
/// for the count, and nobody sees it.
async fn count(inside: &Session, name: &str) -> Result<u64, DatabaseError> {
    let doing = format!("count the rows of {name}");
    let sql = format!("SELECT count(*) FROM ONLY {name}");
    let number = |rows: Vec<Row>| rows.first().map_or(0, |row| row.number(0));
    match inside.rows_within(LONG, &doing, &sql).await {
        Err(DatabaseError::Server { code, .. }) if code == "42501" => {}
        result => return result.map(number),
    }
    let lifted = format!(
        "BEGIN; ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY; GRANT SELECT ON {name} TO {}; {sql}; ROLLBACK",
        identifier(&inside.user)
    );
    let rows = inside.rows_within(LONG, &doing, &lifted).await;
    if rows.is_err() {
        inside.run("end the count", "ROLLBACK").await?;
    }
    rows.map(number)
}

/// Whether a table is not found because the manifest's name of it is not the one it has: names are kept as UTF-8, and those in an encoding that
/// the server could not convert hold marks in place of what could not be read, which no such encoding has (22P05).
fn is_name_unread(error: &DatabaseError, table: &Table, encoding: &str) -> bool {
    let is_plain = encoding == "UTF8" || (table.schema.is_ascii() && table.name.is_ascii());
    !is_plain && matches!(error, DatabaseError::Server { code, .. } if matches!(code.as_str(), "42P01" | "3F000" | "22P05"))
}

/// The reason of what has none of its own, as a lost connection has one; `message` words it.
fn reasoned(error: DatabaseError, reason: Reason, message: impl Fn(&DatabaseError) -> String) -> DatabaseError {
    match error {
        DatabaseError::Server { .. } if error.reason() == Reason::DumpFailed => DatabaseError::Refused {
            reason,
            message: message(&error),
        },
        error => error,
    }
}

/// Rows that the server cannot count were not proven to be there: a table is missing, a page cannot be read, the count was cancelled.
fn uncounted(error: DatabaseError, database: &str) -> DatabaseError {
    reasoned(error, Reason::RestoreIncomplete, |error| {
        format!("database {database} cannot be compared with the copy's manifest after the restore: {error}")
    })
}

/// Gathers statistics, and counts the rows of every table of the copy and its large objects: fewer or more are an error. The tables of a schema
/// that was left out are not looked for.
pub async fn check(inside: &Session, copied: &Database, left_out: Option<&str>) -> Result<Counted, DatabaseError> {
    let mut counted = Counted::default();
    inside.run_within(LONG, "analyze the restored database", "ANALYZE").await?;
    let differs = |what: &str, found: u64, expected: u64| DatabaseError::Refused {
        reason: Reason::RestoreIncomplete,
        message: format!(
            "{what} of database {} has {found} rows after the restore, the copy's manifest says {expected}",
            copied.name
        ),
    };
    for table in copied.tables.iter().filter(|table| left_out != Some(table.schema.as_str())) {
        let name = format!("{}.{}", identifier(&table.schema), identifier(&table.name));
        let Some(expected) = table.rows else {
            counted.notes.push(format!("{name}: the copy does not say how many rows it has"));
            continue;
        };
        let found = match count(inside, &name).await {
            Ok(found) => found,
            Err(error) if is_name_unread(&error, table, &copied.encoding) => {
                counted.notes.push(format!(
                    "{name} was not counted, its name is in an encoding that cannot be read: {error}"
                ));
                continue;
            }
            Err(error) => return Err(uncounted(error, &copied.name)),
        };
        if found != expected {
            return Err(differs(&format!("table {name}"), found, expected));
        }
        counted.tables += 1;
        counted.rows += found;
    }
    if let Some(expected) = copied.large_objects {
        let sql = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata";
        let found = inside
            .rows_within(LONG, "count the large objects", sql)
            .await?
            .first()
            .map_or(0, |row| row.number(0));
        if found != expected {
            return Err(differs("the list of large objects", found, expected));
        }
    }
    Ok(counted)
}

/// Runs a query of the request, in a transaction that is ours: one that the query begins and does not end would be lost with its session.
pub async fn post_restore(inside: &Session, query: &PostRestoreQuery) -> Result<(), DatabaseError> {
    let doing = format!("postRestore {}", query.name);
    for sql in ["BEGIN", &query.query, "COMMIT"] {
        let ran = inside.run_within(LONG, &doing, sql).await;
        ran.map_err(|error| reasoned(error, Reason::PostRestoreFailed, ToString::to_string))?;
    }
    Ok(())
}

/// Brings back what `pg_restore` leaves to others: owner, limit, comment, grants and settings of the database. What the user may not set,
/// or what this server does not know, is told.
pub async fn set_properties(
    session: &Session,
    side: &str,
    properties: &DatabaseProperties,
    encoding: &str,
) -> Result<Vec<String>, DatabaseError> {
    let mut notes = Vec::new();
    // The owner first, as pg_restore does: what follows counts from what he may by himself.
    if let Some(owner) = properties.owner.as_deref().filter(|owner| *owner != session.user) {
        let sql = format!("ALTER DATABASE {} OWNER TO {}", identifier(side), identifier(owner));
        match session.run("give the database to its owner", &sql).await {
            Err(DatabaseError::Server { code, message, .. }) if code == "42501" => {
                notes.push(format!("owner {owner} of the database: {message}"));
            }
            result => result?,
        }
    }
    for statement in &properties.statements {
        // A grantor's SET SESSION AUTHORIZATION is about no database: it is replayed as it stands.
        let sql = for_database(statement, side).unwrap_or_else(|| statement.clone());
        let sql = session.decode(&sql, encoding).await;
        match session.run("bring back the database's properties", &sql).await {
            Err(DatabaseError::Server { code, message, .. }) if matches!(code.as_str(), "42501" | "42704" | "22023" | "0A000") => {
                notes.push(format!("left out: {}: {message}", String::from_utf8_lossy(statement)));
            }
            result => result?,
        }
    }
    session
        .run("end the grantor's part", "RESET SESSION AUTHORIZATION; RESET ROLE")
        .await?;
    Ok(notes)
}

//! What restores leave in the target's maintenance database, schema `holdfast`: receipts, so that nothing is restored twice, and attempts,
//! so that what a killed pod left beside is found. A pod that works on an attempt holds an advisory lock; where the lock is free, it is dead.

use holdfast_crds::{Reason, RestoreSummary};

use super::super::error::DatabaseError;
use super::super::session::{Session, identifier, literal};
use super::target::drop_database;

/// Who restores what.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Digest of the request's namespace, name and specification.
    pub digest: String,
    /// The request's namespace.
    pub namespace: String,
    /// The request's name.
    pub request: String,
    /// The copy's path in its store.
    pub copy: String,
    /// UID of this pod.
    pub pod: String,
}

/// That a request was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// UID of the pod that did it.
    pub pod: String,
    /// What it did.
    pub summary: RestoreSummary,
}

/// A database that somebody's attempt made or closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// UID of the pod.
    pub pod: String,
    /// The database beside.
    pub database: String,
    /// The name that it was to get.
    pub target: String,
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS holdfast.receipts (
        digest text PRIMARY KEY, namespace text NOT NULL, request text NOT NULL, copy text NOT NULL, pod text NOT NULL,
        restored_at timestamptz NOT NULL DEFAULT clock_timestamp(), summary jsonb NOT NULL);
    CREATE TABLE IF NOT EXISTS holdfast.attempts (
        database text PRIMARY KEY, target text NOT NULL, pod text NOT NULL, digest text NOT NULL,
        begun_at timestamptz NOT NULL DEFAULT clock_timestamp());";

/// The receipt of a request, if it was carried out before. Changes nothing.
pub async fn find(session: &Session, digest: &str) -> Result<Option<Receipt>, DatabaseError> {
    if !exists(session, "receipts").await? {
        return Ok(None);
    }
    let sql = format!("SELECT pod, summary FROM holdfast.receipts WHERE digest = {}", literal(digest));
    let rows = session.rows("look for the request's receipt", &sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let summary = serde_json::from_str(&row.text(1)).map_err(|error| DatabaseError::Refused {
        reason: Reason::InternalError,
        message: format!("the receipt of this request in holdfast.receipts cannot be read: {error}; the restore was done, look at the row"),
    })?;
    Ok(Some(Receipt { pod: row.text(0), summary }))
}

async fn exists(session: &Session, table: &str) -> Result<bool, DatabaseError> {
    let sql = format!("SELECT to_regclass('holdfast.{table}') IS NOT NULL");
    Ok(session.row("look for the tables of restores", &sql).await?.flag(0))
}

fn lock_of(pod: &str) -> String {
    format!("hashtextextended({}, 4711)", literal(&format!("holdfast {pod}")))
}

/// Makes the tables, and takes the lock that says that this pod lives.
pub async fn begin(session: &Session, identity: &Identity) -> Result<(), DatabaseError> {
    // Two that make the schema at once can fail each other; then it is there.
    if make_tables(session).await.is_err() {
        make_tables(session).await?;
    }
    let sql = format!("SELECT pg_try_advisory_lock({})", lock_of(&identity.pod));
    if session.row("say that this pod lives", &sql).await?.flag(0) {
        return Ok(());
    }
    Err(DatabaseError::Refused {
        reason: Reason::InternalError,
        message: format!("another process restores as pod {}", identity.pod),
    })
}

/// Makes what is not there: even to ask for it with `IF NOT EXISTS` takes the right to make it.
async fn make_tables(session: &Session) -> Result<(), DatabaseError> {
    let schema = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'holdfast'";
    if session.rows("look for the schema of restores", schema).await?.is_empty() {
        session.run("make the schema of restores", "CREATE SCHEMA holdfast").await?;
    }
    if exists(session, "receipts").await? && exists(session, "attempts").await? {
        return Ok(());
    }
    session.run("make the tables of restores", TABLES).await
}

/// What dead pods of the same request left. Changes nothing.
pub async fn leftovers(session: &Session, identity: &Identity) -> Result<Vec<Leftover>, DatabaseError> {
    if !exists(session, "attempts").await? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT pod, database, target FROM holdfast.attempts WHERE digest = {} AND (pod = {} OR pg_try_advisory_xact_lock(hashtextextended('holdfast ' || pod, 4711))) ORDER BY database",
        literal(&identity.digest),
        literal(&identity.pod)
    );
    let rows = session.rows("look for what dead pods left", &sql).await?;
    Ok(rows
        .iter()
        .map(|row| Leftover {
            pod: row.text(0),
            database: row.text(1),
            target: row.text(2),
        })
        .collect())
}

/// Drops what dead pods left, and what this one left before; opens what they had closed. Gives what stays, and why.
pub async fn clean(session: &Session, leftovers: &[Leftover]) -> Result<Vec<String>, DatabaseError> {
    let mut stays = Vec::new();
    for leftover in leftovers {
        let closed = format!(
            "SELECT 1 FROM pg_database WHERE datname = {} AND NOT datallowconn",
            literal(&leftover.target)
        );
        if !session
            .rows("look whether the target database is closed", &closed)
            .await?
            .is_empty()
        {
            let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", identifier(&leftover.target));
            session.run("open the target database again", &sql).await?;
        }
        if let Some(why) = undroppable(session, &leftover.database).await? {
            tracing::warn!(
                database = leftover.database,
                pod = leftover.pod,
                why,
                "a database of an ended attempt stays"
            );
            stays.push(format!("database {} of an ended attempt stays: {why}", leftover.database));
            continue;
        }
        tracing::info!(
            database = leftover.database,
            pod = leftover.pod,
            "a database of an ended attempt is dropped"
        );
        drop_database(session, &leftover.database).await?;
        forget(session, &leftover.database).await?;
    }
    Ok(stays)
}

/// Why a database that is there cannot be dropped: the attempt may have worked as another user.
async fn undroppable(session: &Session, database: &str) -> Result<Option<String>, DatabaseError> {
    let sql = format!(
        "SELECT pg_get_userbyid(datdba), current_user FROM pg_catalog.pg_database WHERE datname = {} AND NOT pg_has_role(datdba, 'USAGE')",
        literal(database)
    );
    let rows = session.rows("ask whose the database beside is", &sql).await?;
    Ok(rows.first().map(|row| {
        let (owner, user) = (row.text(0), row.text(1));
        format!("it belongs to role {owner}, which user {user} cannot act as; drop it by hand")
    }))
}

/// Notes a database before it is made.
pub async fn note(session: &Session, identity: &Identity, database: &str, target: &str) -> Result<(), DatabaseError> {
    let values = [database, target, &identity.pod, &identity.digest].map(literal).join(", ");
    let sql = format!("INSERT INTO holdfast.attempts (database, target, pod, digest) VALUES ({values})");
    session.run("note the database beside", &sql).await
}

/// Forgets a database that is dropped.
pub async fn forget(session: &Session, database: &str) -> Result<(), DatabaseError> {
    session
        .run(
            "forget the database beside",
            &format!("DELETE FROM holdfast.attempts WHERE database = {}", literal(database)),
        )
        .await
}

/// The statement that writes the receipt: it fails where there is one.
pub fn insert(identity: &Identity, summary: &RestoreSummary) -> String {
    let summary = serde_json::to_string(summary).unwrap_or_default();
    let values = [
        &identity.digest,
        &identity.namespace,
        &identity.request,
        &identity.copy,
        &identity.pod,
        &summary,
    ]
    .map(|value| literal(value));
    format!(
        "INSERT INTO holdfast.receipts (digest, namespace, request, copy, pod, summary) VALUES ({})",
        values.join(", ")
    )
}

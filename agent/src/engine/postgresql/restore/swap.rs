//! The end of a restore: databases beside get their names, all at once and together with the receipt.

use std::time::Duration;

use holdfast_crds::RestoreSummary;

use super::super::connect::Access;
use super::super::error::DatabaseError;
use super::super::session::{Session, identifier, literal};
use super::receipt::{Identity, find, forget, insert, note};
use super::target::{Place, drop_database, place, refuse_objects};

/// How long the renames may take: each may wait five seconds for a session that ends.
const SWAP_LIMIT: Duration = Duration::from_secs(180);

/// A database that is ready to get its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// What it is called until then.
    pub side: String,
    /// What it is to be called.
    pub target: String,
    /// What an empty database that has this name now is called afterwards, until it is dropped.
    pub old: String,
}

/// How the swap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swapped {
    /// Ours are in place.
    Done,
    /// Another attempt of the same request was first; ours can be dropped.
    AlreadyDone(Box<RestoreSummary>),
}

/// Swaps all databases and writes the receipt, or does nothing. `session` is to the maintenance database.
pub async fn swap(
    access: &Access,
    session: &Session,
    identity: &Identity,
    databases: &[Ready],
    summary: &RestoreSummary,
) -> Result<Swapped, DatabaseError> {
    let mut replaced = Vec::new();
    if let Err(error) = transact(access, session, identity, databases, summary, &mut replaced).await {
        // Whether it took effect is what the receipt says: the answer to the commit may have been lost.
        let again = access.connect_again(&session.host, &session.database).await?;
        let receipt = find(&again, &identity.digest).await?;
        match receipt {
            Some(receipt) if receipt.pod == identity.pod => tracing::info!(%error, "the swap was made, although its answer was lost"),
            other => {
                for ready in &replaced {
                    open(&again, &ready.target).await?;
                    forget(&again, &ready.old).await?;
                }
                return other.map(|receipt| Swapped::AlreadyDone(Box::new(receipt.summary))).ok_or(error);
            }
        }
    }
    for ready in &replaced {
        if let Err(error) = drop_old(access, session, &ready.old).await {
            tracing::warn!(database = ready.old, %error, "an empty database that was renamed away could not be dropped");
        }
    }
    Ok(Swapped::Done)
}

async fn transact(
    access: &Access,
    session: &Session,
    identity: &Identity,
    databases: &[Ready],
    summary: &RestoreSummary,
    replaced: &mut Vec<Ready>,
) -> Result<(), DatabaseError> {
    let mut statements = vec!["BEGIN".to_owned(), insert(identity, summary)];
    for ready in databases {
        if place(access, session, &ready.target).await? == Place::Empty {
            // Noted first: whoever finds it closed by a pod that is dead opens it again.
            note(session, identity, &ready.old, &ready.target).await?;
            replaced.push(ready.clone());
            let inside = access.connect_again(&session.host, &ready.target).await?;
            close(session, &ready.target, Some(&inside)).await?;
            refuse_objects(&inside).await?;
            drop(inside);
        }
        close(session, &ready.side, None).await?;
    }
    for ready in databases {
        let (side, target) = (identifier(&ready.side), identifier(&ready.target));
        if replaced.contains(ready) {
            end_sessions(session, &ready.target, None).await?;
            statements.push(format!("ALTER DATABASE {target} RENAME TO {}", identifier(&ready.old)));
        }
        statements.push(format!("ALTER DATABASE {side} RENAME TO {target}"));
        statements.push(format!("ALTER DATABASE {target} ALLOW_CONNECTIONS true"));
        statements.push(format!("DELETE FROM holdfast.attempts WHERE database = {}", literal(&ready.side)));
    }
    statements.push("COMMIT".to_owned());
    let result = session
        .run_within(SWAP_LIMIT, "put the restored databases in place", &statements.join(";\n"))
        .await;
    if result.is_err() {
        // The session may be in a failed transaction, or gone; both end it.
        let _ = session.run("give up the swap", "ROLLBACK").await;
    }
    result
}

/// Lets nobody else in, and whoever is there out, but for `keep`.
async fn close(session: &Session, database: &str, keep: Option<&Session>) -> Result<(), DatabaseError> {
    let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", identifier(database));
    session.run(&format!("close database {database}"), &sql).await?;
    end_sessions(session, database, keep).await
}

async fn end_sessions(session: &Session, database: &str, keep: Option<&Session>) -> Result<(), DatabaseError> {
    let keep = match keep {
        Some(keep) => keep
            .row("ask for the session's process", "SELECT pg_backend_pid()")
            .await?
            .number(0),
        None => 0,
    };
    let sql = format!(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = {} AND pid <> {keep}",
        literal(database)
    );
    session.run(&format!("end the sessions of database {database}"), &sql).await
}

async fn open(session: &Session, database: &str) -> Result<(), DatabaseError> {
    let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", identifier(database));
    session.run(&format!("open database {database} again"), &sql).await
}

async fn drop_old(access: &Access, session: &Session, database: &str) -> Result<(), DatabaseError> {
    let again = access.connect_again(&session.host, &session.database).await?;
    drop_database(&again, database).await?;
    forget(&again, database).await
}

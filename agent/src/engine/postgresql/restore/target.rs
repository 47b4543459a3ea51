//! The server that is restored into: what it has, and whether a name in it is free.

use holdfast_crds::Reason;

use super::super::connect::{Access, Wanted};
use super::super::error::DatabaseError;
use super::super::preflight::{OWN_PREFIX, ServerFacts, server_facts};
use super::super::session::{Session, identifier, literal};
use super::super::tool::{ToolVersion, Tools};
use super::plan::Offer;
use super::rights::{may_keep_receipts, offer};

/// A server that can be restored into.
pub struct Target {
    /// A session to its maintenance database, which also holds the lock that says that this pod lives.
    pub session: Session,
    /// What it is.
    pub server: ServerFacts,
    /// What it has.
    pub offer: Offer,
    /// The version of `pg_restore`.
    pub tool: ToolVersion,
}

/// What has a name that a restore wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Free,
    /// A database without user objects.
    Empty,
}

/// Connects to the first host that takes writes, and asks what it has and whether the user may make databases there.
pub async fn look(access: &Access, tools: &Tools) -> Result<Target, DatabaseError> {
    let tool = tools.version("pg_restore").await?;
    let session = access.connect(Wanted::Primary).await?;
    let server = server_facts(&session).await?;
    // pg_restore sets what an older server does not know: from 17 on `transaction_timeout`, and that before 17 is an error.
    let too_new = tool.major >= 17 && server.major < 17;
    if tool.major < server.major || too_new {
        return Err(DatabaseError::Refused {
            reason: Reason::VersionUnsupported,
            message: format!(
                "the server at {} is PostgreSQL {}, pg_restore is {}; tools of major version {} are needed: set to.postgresql.version: {} or job.image",
                server.host, server.version, tool.text, server.major, server.major
            ),
        });
    }
    let offer = offer(&session, server.major).await?;
    may_keep_receipts(&session, &offer).await?;
    Ok(Target {
        session,
        server,
        offer,
        tool,
    })
}

/// Whether the wanted name may become that of a restored database.
pub async fn place(access: &Access, session: &Session, database: &str) -> Result<Place, DatabaseError> {
    let refused = |message: String| {
        Err(DatabaseError::Refused {
            reason: Reason::TargetNotEmpty,
            message,
        })
    };
    let sql = format!(
        "SELECT datallowconn, datistemplate, (SELECT count(*) FROM pg_catalog.pg_replication_slots s WHERE s.database = datname), \
                (SELECT count(*) FROM pg_catalog.pg_prepared_xacts x WHERE x.database = datname), \
                (SELECT count(*) FROM pg_catalog.pg_subscription u WHERE u.subdbid = d.oid), \
                pg_catalog.pg_get_userbyid(datdba), pg_has_role(datdba, 'USAGE') \
         FROM pg_catalog.pg_database d WHERE datname = {}",
        literal(database)
    );
    let rows = session.rows("look for the target database", &sql).await?;
    let Some(row) = rows.first() else { return Ok(Place::Free) };
    if row.flag(1) {
        return refused(format!(
            "database {database} exists and is a template: choose another name with select.rename"
        ));
    }
    for (column, what) in [(2, "replication slots"), (3, "prepared transactions"), (4, "subscriptions")] {
        if row.number(column) > 0 {
            return refused(format!(
                "database {database} exists and has {} {what}: remove them, or choose another name with select.rename",
                row.number(column)
            ));
        }
    }
    if !row.flag(0) {
        return refused(format!(
            "database {database} exists and allows no connections, so that it cannot be seen whether it holds anything: choose another name with select.rename"
        ));
    }
    let inside = access.connect_again(&session.host, database).await?;
    refuse_objects(&inside).await?;
    drop(inside);
    if !row.flag(6) {
        let (owner, user) = (row.text(5), &session.user);
        return denied(format!(
            "database {database} exists, is empty and belongs to role {owner}, so that user {user} may not replace it: GRANT {} TO {}, drop it, or choose another name with select.rename",
            identifier(&owner),
            identifier(user)
        ));
    }
    refuse_sessions(session, database).await.map(|()| Place::Empty)
}

fn denied<T>(message: String) -> Result<T, DatabaseError> {
    Err(DatabaseError::Refused {
        reason: Reason::DatabasePermissionDenied,
        message,
    })
}

/// Refuses to replace a database with sessions that the user may not end.
async fn refuse_sessions(session: &Session, database: &str) -> Result<(), DatabaseError> {
    let sql = format!(
        "SELECT count(*), string_agg(DISTINCT usename, ', ') FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = usesysid \
         WHERE datname = {} AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) \
           AND (rolsuper OR NOT (pg_has_role(usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')))",
        literal(database)
    );
    let row = session.row("look for sessions in the target database", &sql).await?;
    if row.number(0) == 0 {
        return Ok(());
    }
    denied(format!(
        "database {database} exists, is empty, and roles {} are connected to it, whose sessions user {} may not end: GRANT pg_signal_backend TO {} (those of superusers it does not cover), end them, or choose another name with select.rename",
        row.text(1),
        session.user,
        identifier(&session.user)
    ))
}

/// Refuses to replace a database that holds anything.
pub async fn refuse_objects(inside: &Session) -> Result<(), DatabaseError> {
    let objects = user_objects(inside).await?;
    if objects.is_empty() {
        return Ok(());
    }
    let (database, objects) = (&inside.database, objects.join(", "));
    Err(DatabaseError::Refused {
        reason: Reason::TargetNotEmpty,
        message: format!(
            "database {database} exists and holds objects of users ({objects}): drop it, or choose another name with select.rename"
        ),
    })
}

/// The first objects that somebody made in a database, by a session to it. Everything made behind initdb has an oid of 16384 or more.
pub async fn user_objects(session: &Session) -> Result<Vec<String>, DatabaseError> {
    let rows = session
        .rows(
            "look for user objects in the target database",
            "SELECT what FROM ( \
               SELECT 'schema ' || quote_ident(nspname) AS what, oid FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)' \
               UNION ALL SELECT 'relation ' || c.oid::regclass::text, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                 WHERE nspname !~ '^pg_(temp|toast)' AND relkind <> 'i' \
               UNION ALL SELECT 'function ' || p.oid::regproc::text, p.oid FROM pg_proc p \
               UNION ALL SELECT 'type ' || t.oid::regtype::text, t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace \
                 WHERE typrelid = 0 AND typelem = 0 AND nspname !~ '^pg_(temp|toast)' \
               UNION ALL SELECT 'operator ' || o.oid::regoper::text, o.oid FROM pg_operator o \
               UNION ALL SELECT 'collation ' || quote_ident(collname), oid FROM pg_collation \
               UNION ALL SELECT 'conversion ' || quote_ident(conname), oid FROM pg_conversion \
               UNION ALL SELECT 'text search configuration ' || quote_ident(cfgname), oid FROM pg_ts_config \
               UNION ALL SELECT 'text search dictionary ' || quote_ident(dictname), oid FROM pg_ts_dict \
               UNION ALL SELECT 'cast ' || format_type(castsource, NULL) || ' as ' || format_type(casttarget, NULL), oid FROM pg_cast \
               UNION ALL SELECT 'language ' || quote_ident(lanname), oid FROM pg_language \
               UNION ALL SELECT 'foreign data wrapper ' || quote_ident(fdwname), oid FROM pg_foreign_data_wrapper \
               UNION ALL SELECT 'server ' || quote_ident(srvname), oid FROM pg_foreign_server \
               UNION ALL SELECT 'default privileges of ' || quote_ident(pg_get_userbyid(defaclrole)), oid FROM pg_default_acl \
               UNION ALL SELECT 'extension ' || quote_ident(extname), oid FROM pg_extension \
               UNION ALL SELECT 'large object ' || oid::text, oid FROM pg_largeobject_metadata \
               UNION ALL SELECT 'publication ' || quote_ident(pubname), oid FROM pg_publication \
               UNION ALL SELECT 'event trigger ' || quote_ident(evtname), oid FROM pg_event_trigger \
             ) found WHERE oid >= 16384 OR what LIKE 'large object %' ORDER BY what LIMIT 3",
        )
        .await?;
    Ok(rows.iter().map(|row| row.text(0)).collect())
}

/// Refuses a name that no database of a user should get.
pub fn check_name(database: &str, maintenance: &str) -> Result<(), DatabaseError> {
    let problem = if database.is_empty() || database.len() > 63 || database.contains(['\0', '\n', '\r']) {
        "a name has 1 to 63 bytes in one line"
    } else if database.starts_with(OWN_PREFIX) {
        "names that begin with holdfast- are those of databases beside"
    } else if matches!(database, "template0" | "template1") {
        "templates are not replaced"
    } else if database == maintenance {
        "it is the maintenance database, whose session makes the swap: choose another name with select.rename, or another to.postgresql.maintenanceDatabase"
    } else {
        return Ok(());
    };
    Err(DatabaseError::UseSetting {
        field: "select.rename",
        problem: format!("database {database:?} cannot be restored into: {problem}"),
    })
}

/// A database beside, number `number` of this pod.
pub fn side_name(pod: &str, number: usize) -> String {
    format!("{OWN_PREFIX}{}-{number}", pod.chars().take(40).collect::<String>())
}

/// What the empty database is called that number `number` replaces, until it is dropped.
pub fn old_name(pod: &str, number: usize) -> String {
    format!("{}-old", side_name(pod, number))
}

/// Drops a database with whoever is connected to it.
pub async fn drop_database(session: &Session, database: &str) -> Result<(), DatabaseError> {
    session
        .run(
            &format!("drop database {database}"),
            &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", identifier(database)),
        )
        .await
}

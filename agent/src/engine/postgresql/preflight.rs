//! What there is to copy, and whether it can be: asked before anything is read, anew at each run.

use std::collections::BTreeMap;

use holdfast_crds::document::{Extension, NotCopied, Table};
use holdfast_crds::{DatabaseSelection, Globals, Reason};
use jiff::Timestamp;

use super::connect::{Access, Wanted};
use super::error::DatabaseError;
use super::host::Host;
use super::pattern::matches;
use super::session::{Session, identifier, literal};
use super::tool::{ToolVersion, Tools};

/// The oldest and newest major version that this engine knows.
pub const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// What the names of databases begin with that restores make for themselves: they are never copied.
pub const OWN_PREFIX: &str = "holdfast-";

/// How the globals can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalsPlan {
    /// Not wanted.
    Skip,
    /// With the hashes of passwords.
    WithPasswords,
    /// Without: the store is not encrypted, or the user may not read them.
    WithoutPasswords,
}

/// What the server is.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// Who answered.
    pub host: Host,
    /// As the server says it, such as `15.18`.
    pub version: String,
    /// 15 for 15.18.
    pub major: u32,
    /// Whether it replays what another writes.
    pub standby: bool,
    /// What tells this cluster from all others; `None` where the user may not see it.
    pub system_identifier: Option<String>,
    /// What was committed by this time will be in a dump that begins now.
    pub recovery_point: Timestamp,
}

/// What a backup will copy.
#[derive(Debug)]
pub struct Preflight {
    /// The server.
    pub server: ServerFacts,
    /// `pg_dump`'s version.
    pub tool: ToolVersion,
    /// Names of the databases, in order.
    pub databases: Vec<String>,
    /// What is left out, and why.
    pub not_copied: Vec<NotCopied>,
    /// Roles of the server.
    pub roles: Vec<String>,
    /// Tablespaces of the server, without its own two.
    pub tablespaces: Vec<String>,
    /// How the globals are read.
    pub globals: GlobalsPlan,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// What a database is, asked right before it is dumped.
#[derive(Debug, Clone, Default)]
pub struct DatabaseFacts {
    /// Its size on disk in bytes.
    pub bytes: u64,
    /// Its owner.
    pub owner: String,
    /// Its encoding.
    pub encoding: String,
    /// Collation, locale provider, connection limit.
    pub settings: BTreeMap<String, String>,
    /// Its extensions.
    pub extensions: Vec<Extension>,
    /// What a dump leaves out of it.
    pub not_copied: Vec<NotCopied>,
    /// The tables that have rows, going by the server's statistics, by schema and name, each with the file that it lies in.
    pub filled: BTreeMap<(String, String), u64>,
}

/// Asks the server and the tools. `encrypted` says whether the copy is.
pub async fn preflight(
    access: &Access,
    tools: &Tools,
    selection: &DatabaseSelection,
    globals: Globals,
    encrypted: bool,
) -> Result<(Session, Preflight), DatabaseError> {
    let tool = tools.version("pg_dump").await?;
    let session = access.connect(Wanted::Any).await?;
    let server = server_facts(&session).await?;
    check_versions(&server, &tool)?;
    let mut notes = Vec::new();
    if server.standby {
        let lag = Timestamp::now().duration_since(server.recovery_point).as_secs().max(0);
        notes.push(format!("{} is a standby; what it has replayed is about {lag} s old", server.host));
    }
    let (databases, mut not_copied) = choose(&session, selection).await?;
    let mut leave_out = |name: &str, why: &str| {
        not_copied.push(NotCopied {
            name: name.to_owned(),
            why: why.to_owned(),
        });
    };
    let globals = match globals {
        Globals::Skip => {
            leave_out("roles, memberships and tablespaces", "the source says globals: Skip");
            GlobalsPlan::Skip
        }
        Globals::Include => {
            tools.version("pg_dumpall").await?;
            let readable = session
                .row(
                    "ask whether role passwords may be read",
                    "SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')",
                )
                .await?
                .flag(0);
            if encrypted && readable {
                GlobalsPlan::WithPasswords
            } else {
                let why = if encrypted {
                    "the user may not read pg_authid"
                } else {
                    "the store is not encrypted"
                };
                leave_out("passwords of roles", why);
                GlobalsPlan::WithoutPasswords
            }
        }
    };
    let names = |doing, sql| {
        let session = &session;
        async move { Ok::<_, DatabaseError>(session.rows(doing, sql).await?.iter().map(|row| row.text(0)).collect::<Vec<_>>()) }
    };
    let roles = names(
        "list the roles",
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_' ORDER BY 1",
    )
    .await?;
    let tablespaces = names(
        "list the tablespaces",
        "SELECT spcname FROM pg_catalog.pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1",
    )
    .await?;
    Ok((
        session,
        Preflight {
            server,
            tool,
            databases,
            not_copied,
            roles,
            tablespaces,
            globals,
            notes,
        },
    ))
}

/// Asks a server what it is.
pub async fn server_facts(session: &Session) -> Result<ServerFacts, DatabaseError> {
    let row = session
        .row(
            "ask for the server's version",
            "SELECT current_setting('server_version'), current_setting('server_version_num'), pg_is_in_recovery(), \
             to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
        .await?;
    let version = row.text(0).split_whitespace().next().unwrap_or_default().to_owned();
    let major = u32::try_from(row.number(1) / 10_000).unwrap_or(u32::MAX);
    let standby = row.flag(2);
    if !MAJORS.contains(&major) {
        return Err(DatabaseError::Refused {
            reason: Reason::VersionUnsupported,
            message: format!(
                "the server at {} is PostgreSQL {version}; expected {} to {}",
                session.host,
                MAJORS.start(),
                MAJORS.end()
            ),
        });
    }
    let now = if standby {
        standby_recovery_point(session).await?
    } else {
        row.text(3)
    };
    let recovery_point = now.parse().map_err(|error| DatabaseError::Refused {
        reason: Reason::InternalError,
        message: format!("the server at {} tells its time as {now:?}: {error}", session.host),
    })?;
    // Not every user may see it.
    let system_identifier = session
        .row(
            "ask for the system identifier",
            "SELECT system_identifier FROM pg_catalog.pg_control_system()",
        )
        .await
        .ok()
        .and_then(|row| row.optional(0));
    Ok(ServerFacts {
        host: session.host.clone(),
        version,
        major,
        standby,
        system_identifier,
        recovery_point,
    })
}

/// The time up to which a standby has everything. Where it has replayed all that its sender had at the last message, that message's time,
/// else the commit time of what it replayed last, else its last checkpoint.
async fn standby_recovery_point(session: &Session) -> Result<String, DatabaseError> {
    let row = session
        .row(
            "ask the standby how far it is",
            "SELECT to_char(coalesce( \
               (SELECT last_msg_send_time FROM pg_catalog.pg_stat_get_wal_receiver() \
                WHERE status = 'streaming' AND pg_catalog.pg_last_wal_replay_lsn() >= latest_end_lsn), \
               pg_catalog.pg_last_xact_replay_timestamp(), \
               (SELECT checkpoint_time FROM pg_catalog.pg_control_checkpoint())) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
        .await?;
    Ok(row.text(0))
}

fn check_versions(server: &ServerFacts, tool: &ToolVersion) -> Result<(), DatabaseError> {
    if tool.major < server.major {
        return Err(DatabaseError::Refused {
            reason: Reason::VersionUnsupported,
            message: format!(
                "the server at {} is PostgreSQL {}, pg_dump is {}; tools of major version {} or newer are needed: set version: {} or job.image",
                server.host, server.version, tool.text, server.major, server.major
            ),
        });
    }
    Ok(())
}

async fn choose(session: &Session, selection: &DatabaseSelection) -> Result<(Vec<String>, Vec<NotCopied>), DatabaseError> {
    let rows = session
        .rows(
            "list the databases",
            "SELECT datname, datallowconn, datistemplate, datconnlimit = -2, has_database_privilege(oid, 'CONNECT') \
             FROM pg_catalog.pg_database ORDER BY datname",
        )
        .await?;
    let (mut chosen, mut left_out, mut forbidden) = (Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        let name = row.text(0);
        let fits = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, &name));
        let why = if row.flag(2) {
            "template"
        } else if row.flag(3) {
            "invalid: a DROP DATABASE of it was interrupted"
        } else if !row.flag(1) {
            "allows no connections"
        } else if name.starts_with(OWN_PREFIX) {
            "made by a restore"
        } else if !fits(&selection.include) {
            "not included"
        } else if fits(&selection.exclude) {
            "excluded"
        } else {
            if !row.flag(4) {
                forbidden.push(name.clone());
            }
            chosen.push(name);
            continue;
        };
        left_out.push(NotCopied { name, why: why.to_owned() });
    }
    for pattern in selection.include.iter().filter(|pattern| !pattern.contains(['*', '?'])) {
        if !rows.iter().any(|row| row.text(0) == *pattern) {
            left_out.push(NotCopied {
                name: pattern.clone(),
                why: "included by name, but not there".to_owned(),
            });
        }
    }
    if !forbidden.is_empty() {
        return Err(DatabaseError::Refused {
            reason: Reason::DatabasePermissionDenied,
            message: format!(
                "user {} may not connect to {}: GRANT CONNECT ON DATABASE … TO {}, or exclude them",
                session.user,
                forbidden.join(", "),
                identifier(&session.user)
            ),
        });
    }
    if chosen.is_empty() {
        let there = rows.iter().map(|row| row.text(0)).collect::<Vec<_>>().join(", ");
        return Err(DatabaseError::Refused {
            reason: Reason::NoDatabases,
            message: format!(
                "no database at {} is included by {:?} and not excluded by {:?}; there are {there}",
                session.host, selection.include, selection.exclude
            ),
        });
    }
    Ok((chosen, left_out))
}

/// Asks a database what it is, on a session to it.
pub async fn describe(session: &Session) -> Result<DatabaseFacts, DatabaseError> {
    let row = session
        .row(
            "describe the database",
            "SELECT pg_catalog.pg_database_size(oid), pg_catalog.pg_get_userbyid(datdba), pg_catalog.pg_encoding_to_char(encoding), \
                    datcollate, datctype, to_jsonb(d) ->> 'datlocprovider', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'), \
                    to_jsonb(d) ->> 'datcollversion', datconnlimit \
             FROM pg_catalog.pg_database d WHERE datname = pg_catalog.current_database()",
        )
        .await?;
    let names = [
        "collate",
        "ctype",
        "localeProvider",
        "locale",
        "collationVersion",
        "connectionLimit",
    ];
    let settings = names
        .iter()
        .zip(3..)
        .filter_map(|(name, column)| Some(((*name).to_owned(), row.optional(column)?)))
        .collect();
    let extensions = session
        .rows(
            "list the extensions",
            "SELECT extname, extversion FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql' ORDER BY 1",
        )
        .await?;
    let extensions = extensions
        .iter()
        .map(|row| Extension {
            name: row.text(0),
            version: row.text(1),
        })
        .collect();
    let not_copied = left_out(session).await?;
    // By statistics: to ask for the size of a table waits for whoever has locked it.
    let filled = files(session, "(reltuples > 0 OR pg_catalog.pg_stat_get_live_tuples(c.oid) > 0)").await?;
    Ok(DatabaseFacts {
        not_copied,
        filled,
        bytes: row.number(0),
        owner: row.text(1),
        encoding: row.text(2),
        settings,
        extensions,
    })
}

/// The files of tables.
async fn files(session: &Session, filter: &str) -> Result<BTreeMap<(String, String), u64>, DatabaseError> {
    let sql = format!(
        "SELECT nspname, relname, pg_catalog.pg_relation_filenode(c.oid) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace \
         WHERE relkind = 'r' AND relpersistence <> 't' AND c.oid >= 16384 AND {filter}"
    );
    let rows = session.rows("ask for the files of tables", &sql).await?;
    Ok(rows.iter().map(|row| ((row.text(0), row.text(1)), row.number(2))).collect())
}

/// The tables that had rows before the dump, have none in it, and lie in another file now. `TRUNCATE`, and `ALTER TABLE` that writes a table
/// anew, empty it also for a snapshot that is older; and `pg_dump` takes its snapshot before it has locked all tables.
pub async fn emptied(session: &Session, filled: &BTreeMap<(String, String), u64>, tables: &[Table]) -> Result<Vec<String>, DatabaseError> {
    let empty = tables.iter().filter(|table| table.rows == Some(0));
    let empty = empty
        .map(|table| (table.schema.clone(), table.name.clone()))
        .filter(|name| filled.contains_key(name));
    let empty = empty.collect::<Vec<_>>();
    if empty.is_empty() {
        return Ok(Vec::new());
    }
    let names = empty
        .iter()
        .map(|(schema, name)| format!("({}, {})", literal(schema), literal(name)));
    let now = files(
        session,
        &format!("(nspname, relname) IN ({})", names.collect::<Vec<_>>().join(", ")),
    )
    .await?;
    let changed = empty.into_iter().filter(|name| now.get(name) != filled.get(name));
    Ok(changed
        .map(|(schema, name)| format!("{}.{}", identifier(&schema), identifier(&name)))
        .collect())
}

/// How many things of a kind are named.
const NAMED: u64 = 20;

/// What `pg_dump` leaves out of a database without failing: on a session to it.
async fn left_out(session: &Session) -> Result<Vec<NotCopied>, DatabaseError> {
    const NO_SUPERUSER: &str = "pg_dump has them only for superusers";
    // Who may read the catalog itself knows which mappings have options that the view hides from him, as it does from pg_dump.
    let hidden = "SELECT v.usename || ' at ' || v.srvname FROM pg_catalog.pg_user_mappings v JOIN pg_catalog.pg_user_mapping m ON m.oid = v.umid \
                  WHERE v.umoptions IS NULL AND m.umoptions IS NOT NULL";
    let perhaps = "SELECT usename || ' at ' || srvname FROM pg_catalog.pg_user_mappings WHERE umoptions IS NULL";
    let user = session
        .row(
            "ask what a dump leaves out",
            "SELECT rolsuper, pg_catalog.pg_is_in_recovery(), has_table_privilege('pg_catalog.pg_user_mapping', 'SELECT') FROM pg_catalog.pg_roles WHERE rolname = current_user",
        )
        .await?;
    let (superuser, standby, reads_mappings) = (user.flag(0), user.flag(1), user.flag(2));
    let subscriptions = "SELECT subname FROM pg_catalog.pg_subscription WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";
    let relations = |filter: &str| {
        format!(
            "SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE {filter}"
        )
    };
    let foreign = relations("relkind = 'f'");
    let unlogged = relations("relkind = 'r' AND relpersistence = 'u'");
    let kinds = [
        (!superuser, "subscriptions", subscriptions, NO_SUPERUSER),
        (
            !superuser && reads_mappings,
            "options and passwords of user mappings",
            hidden,
            NO_SUPERUSER,
        ),
        (
            !superuser && !reads_mappings,
            "options and passwords, if any, of user mappings",
            perhaps,
            NO_SUPERUSER,
        ),
        (standby, "rows of unlogged tables", &unlogged, "a standby does not have them"),
        (true, "rows of foreign tables", &foreign, "they are those of another server"),
    ];
    let mut found = Vec::new();
    for (_, what, names, why) in kinds.into_iter().filter(|(asked, ..)| *asked) {
        let sql = format!(
            "SELECT count(*), string_agg(name, ', ' ORDER BY name) FILTER (WHERE place <= {NAMED}) FROM (SELECT name, row_number() OVER (ORDER BY name) AS place FROM ({names}) names (name)) named"
        );
        let row = session.row("ask what a dump leaves out", &sql).await?;
        let more = row.number(0).saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        if row.number(0) > 0 {
            found.push(NotCopied {
                name: format!("{what} {}{more}", row.text(1)),
                why: why.to_owned(),
            });
        }
    }
    Ok(found)
}

/// Whether a database exists, on a session to the maintenance database.
pub async fn exists(session: &Session, database: &str) -> Result<bool, DatabaseError> {
    let sql = format!("SELECT 1 FROM pg_catalog.pg_database WHERE datname = {}", literal(database));
    Ok(!session.rows("look for the database", &sql).await?.is_empty())
}

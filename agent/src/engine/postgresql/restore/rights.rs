//! What the restoring user may do in the target, held against what an archive demands: told before anything is touched, with the commands that
//! give what is missing.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crds::{MissingRoles, Reason};

use super::super::archive::{Entry, Toc};
use super::super::error::DatabaseError;
use super::super::session::{Session, identifier};
use super::plan::{Offer, Power, User, WITH_ROLES, text};
use super::statement::{acting, has_keywords, split};

/// Who is a member of one of these may do more than PostgreSQL's catalogs show: their services have changed the server's own checks.
const SERVICES: &str = "'rds_superuser', 'cloudsqlsuperuser', 'alloydbsuperuser', 'azure_pg_admin', 'neon_superuser'";
/// Whoever owns the database is a member.
const DATABASE_OWNER: &str = "pg_database_owner";
/// How many things are named in a message.
const NAMED: usize = 5;

/// Asks what the server has, and what the session's user may do there.
pub async fn offer(session: &Session, major: u32) -> Result<Offer, DatabaseError> {
    let user = session
        .row(
            "ask for the user's rights",
            &format!(
                "SELECT rolsuper, rolcreatedb, rolcreaterole, rolinherit, (SELECT count(*) FROM pg_catalog.pg_roles s WHERE s.rolname IN ({SERVICES}) AND pg_has_role(s.oid, 'MEMBER')) \
                 FROM pg_catalog.pg_roles WHERE rolname = current_user"
            ),
        )
        .await?;
    let power = match (user.flag(0), user.number(4)) {
        (true, _) => Power::Superuser,
        (false, 0) => Power::None,
        (false, _) => Power::Service,
    };
    if power != Power::Superuser && !user.flag(1) {
        let name = identifier(&session.user);
        return denied(session, &format!("may not create databases: ALTER ROLE {name} CREATEDB"));
    }
    let mut offer = Offer {
        major,
        user: User {
            name: session.user.clone(),
            power,
            creates_roles: power == Power::Superuser || user.flag(2),
            inherits: user.flag(3),
        },
        ..Offer::default()
    };
    // To own something a role must be one that the user can set; to fill what it owns, one whose rights it has.
    let settable = if major >= 16 { "SET" } else { "MEMBER" };
    let sql = format!(
        "SELECT rolname, rolsuper, pg_has_role(oid, 'USAGE') AND pg_has_role(oid, '{settable}') OR rolname = '{DATABASE_OWNER}' FROM pg_catalog.pg_roles"
    );
    for row in session.rows("list the target's roles", &sql).await? {
        offer.roles.insert(row.text(0));
        if row.flag(1) {
            offer.superusers.insert(row.text(0));
        }
        if row.flag(2) {
            offer.acted.insert(row.text(0));
        }
    }
    let sql = "SELECT spcname, has_tablespace_privilege(oid, 'CREATE') FROM pg_catalog.pg_tablespace";
    for row in session.rows("list the target's tablespaces", sql).await? {
        if !row.flag(1) {
            offer.closed_tablespaces.insert(row.text(0));
        }
        offer.tablespaces.insert(row.text(0));
    }
    let sql = "SELECT e.name, v.superuser AND NOT v.trusted FROM pg_catalog.pg_available_extensions e \
               LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version";
    for row in session.rows("list the target's extensions", sql).await? {
        if row.flag(1) {
            offer.untrusted_extensions.insert(row.text(0));
        }
        offer.extensions.insert(row.text(0));
    }
    Ok(offer)
}

fn denied<T>(session: &Session, lacking: &str) -> Result<T, DatabaseError> {
    Err(DatabaseError::Refused {
        reason: Reason::DatabasePermissionDenied,
        message: format!("user {} at {} {lacking}", session.user, session.host),
    })
}

/// Whether the user may keep receipts in the maintenance database, and may trust those who keep them there: who owns a table can have others
/// run code when they write to it.
pub async fn may_keep_receipts(session: &Session, offer: &Offer) -> Result<(), DatabaseError> {
    let superuser = offer.user.power == Power::Superuser;
    let (user, database) = (identifier(&session.user), identifier(&session.database));
    let sql = "SELECT has_database_privilege(current_database(), 'CREATE'), n.oid IS NOT NULL, has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE'), \
                 (SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = n.oid AND relname IN ('receipts', 'attempts')) \
               FROM (SELECT 1) one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'holdfast'";
    let row = session.row("ask for the right to keep receipts", sql).await?;
    let (there, tables) = (row.flag(1), row.number(4));
    if !there {
        if row.flag(0) {
            return Ok(());
        }
        let grant = format!("GRANT CREATE ON DATABASE {database} TO {user}");
        return denied(session, &format!("may not keep receipts in the maintenance database: {grant}"));
    }
    let sql = "SELECT DISTINCT pg_catalog.pg_get_userbyid(owner), NOT (SELECT rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = owner), NOT pg_has_role(owner, 'USAGE') FROM ( \
                 SELECT nspowner AS owner FROM pg_catalog.pg_namespace WHERE nspname = 'holdfast' \
                 UNION ALL SELECT relowner FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace \
                   WHERE nspname = 'holdfast' AND relname IN ('receipts', 'attempts')) owners ORDER BY 1";
    for owner in session.rows("ask whose the receipts are", sql).await? {
        let (name, plain, foreign) = (owner.text(0), owner.flag(1), owner.flag(2));
        if plain && (superuser || foreign) {
            let alter = ["SCHEMA holdfast", "TABLE holdfast.receipts", "TABLE holdfast.attempts"];
            let alter = alter.map(|what| format!("ALTER {what} OWNER TO {}", if superuser { &user } else { "a superuser" }));
            let alter = alter.join("; ");
            let or = if superuser {
                String::new()
            } else {
                format!(", or GRANT {} TO {user}", identifier(&name))
            };
            return denied(
                session,
                &format!(
                    "would write to tables of role {name}, who could have code run as {}: see that the tables in schema holdfast of database {} have no triggers or rules, then {alter}{or}",
                    session.user, session.database
                ),
            );
        }
    }
    let sql = "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace \
               WHERE nspname = 'holdfast' AND relname IN ('receipts', 'attempts') \
                 AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'DELETE')";
    let usable = session.row("ask for the right to write receipts", sql).await?.number(0);
    let mut grants = Vec::new();
    if !row.flag(2) || tables < 2 && !row.flag(3) {
        let create = if tables < 2 { ", CREATE" } else { "" };
        grants.push(format!("GRANT USAGE{create} ON SCHEMA holdfast TO {user}"));
    }
    if usable < tables {
        grants.push(format!("GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA holdfast TO {user}"));
    }
    if grants.is_empty() {
        return Ok(());
    }
    denied(
        session,
        &format!("may not keep receipts in database {}: {}", session.database, grants.join("; ")),
    )
}

/// What an archive demands of who restores it and has not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demands {
    /// Roles of the target that own objects, granted something or have default privileges, with how many entries name them.
    pub owners: BTreeMap<String, usize>,
    /// What only a superuser can make, for people.
    pub superuser: BTreeSet<String>,
    /// Tablespaces in which something lies.
    pub tablespaces: BTreeSet<String>,
}

/// Finds what the user may not do.
pub fn demands(toc: &Toc, offer: &Offer) -> Demands {
    let mut demands = Demands::default();
    if offer.user.power == Power::Superuser {
        return demands;
    }
    let tables = toc.entries.iter().filter(|entry| entry.kind() == b"TABLE");
    let tables = tables.map(|entry| (&entry.namespace, &entry.tag)).collect::<BTreeSet<_>>();
    for entry in &toc.entries {
        let mut roles = entry.owner.iter().map(|owner| text(owner)).collect::<BTreeSet<_>>();
        if WITH_ROLES.contains(&entry.kind()) {
            let statements = split(entry.definition.as_deref().unwrap_or_default());
            roles.extend(statements.into_iter().filter_map(acting).map(|role| text(&role)));
        }
        for role in roles.into_iter().filter(|role| offer.roles.contains(role) && !offer.acts_as(role)) {
            *demands.owners.entry(role).or_default() += 1;
        }
        let tablespace = entry.tablespace.as_deref().map(text).unwrap_or_default();
        if offer.closed_tablespaces.contains(&tablespace) && entry.kind() != b"DATABASE" {
            demands.tablespaces.insert(tablespace);
        }
        let foreign_rows = entry.kind() == b"TABLE DATA" && !tables.contains(&(&entry.namespace, &entry.tag));
        if offer.user.power == Power::None {
            demands.superuser.extend(for_superusers(entry, offer, foreign_rows));
        }
    }
    demands
}

/// What an entry is for people, if only a superuser can make it.
fn for_superusers(entry: &Entry, offer: &Offer, foreign_rows: bool) -> Option<String> {
    let definition = entry.definition.as_deref().unwrap_or_default();
    let says = |keywords: &[&str]| has_keywords(definition, keywords);
    let kind = text(entry.kind()).to_ascii_lowercase();
    let name = entry.qualified_name();
    let why = match entry.kind() {
        b"EVENT TRIGGER"
        | b"ACCESS METHOD"
        | b"FOREIGN DATA WRAPPER"
        | b"OPERATOR CLASS"
        | b"OPERATOR FAMILY"
        | b"TEXT SEARCH PARSER"
        | b"TEXT SEARCH TEMPLATE"
        | b"PROCEDURAL LANGUAGE"
        | b"PUBLICATION TABLES IN SCHEMA" => "",
        b"PUBLICATION" if says(&["FOR", "ALL", "TABLES"]) => " for all tables",
        b"SUBSCRIPTION" if !offer.acted.contains("pg_create_subscription") => "",
        b"EXTENSION" if offer.untrusted_extensions.contains(&name) => " (not trusted)",
        b"FUNCTION" | b"PROCEDURE" if says(&["LANGUAGE", "c"]) || says(&["LANGUAGE", "internal"]) => " in machine code",
        b"FUNCTION" if says(&["LEAKPROOF"]) && !says(&["NOT", "LEAKPROOF"]) => " (leakproof)",
        b"CAST" if says(&["WITHOUT", "FUNCTION"]) => " without function",
        b"TABLE DATA" if foreign_rows => return Some(format!("rows of table {name}, which belongs to an extension")),
        _ => return None,
    };
    Some(format!("{kind} {name}{why}"))
}

impl Demands {
    /// Adds those of another archive.
    pub fn extend(&mut self, other: Self) {
        self.superuser.extend(other.superuser);
        self.tablespaces.extend(other.tablespaces);
        for (role, entries) in other.owners {
            *self.owners.entry(role).or_default() += entries;
        }
    }

    /// Everything that is missing, with the commands that give it; `None` if nothing is. `creates` says that roles will be made.
    pub fn refusal(&self, offer: &Offer, missing: MissingRoles, creates: bool) -> Option<String> {
        let user = identifier(&offer.user.name);
        let mut problems = Vec::new();
        if !self.superuser.is_empty() {
            let named = self.superuser.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            let more = self.superuser.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            problems.push(format!(
                "only a superuser can make {named}{more}: restore with the credentials of a superuser"
            ));
        }
        if missing != MissingRoles::Skip && !self.owners.is_empty() {
            problems.push(self.memberships(offer));
        }
        if !self.tablespaces.is_empty() {
            let grants = self
                .tablespaces
                .iter()
                .map(|name| format!("GRANT CREATE ON TABLESPACE {} TO {user}", identifier(name)));
            problems.push(format!(
                "it may make nothing in tablespaces of the copy: {}",
                grants.collect::<Vec<_>>().join("; ")
            ));
        }
        if creates && !offer.user.creates_roles {
            problems.push(format!("it may not create the missing roles: ALTER ROLE {user} CREATEROLE"));
        }
        (!problems.is_empty()).then(|| problems.join(". Also, "))
    }

    fn memberships(&self, offer: &Offer) -> String {
        let user = identifier(&offer.user.name);
        let (mut owners, mut commands, mut superusers) = (Vec::new(), Vec::new(), Vec::new());
        if offer.major < 16 && !offer.user.inherits {
            commands.push(format!("ALTER ROLE {user} INHERIT"));
        }
        for (role, entries) in &self.owners {
            owners.push(format!("{role} ({entries} objects)"));
            if offer.superusers.contains(role) {
                superusers.push(role.as_str());
            } else if offer.major < 16 {
                commands.push(format!("GRANT {} TO {user}", identifier(role)));
            } else {
                commands.push(format!("GRANT {} TO {user} WITH INHERIT TRUE, SET TRUE", identifier(role)));
            }
        }
        if !superusers.is_empty() {
            commands.push(format!(
                "restore as a superuser, since {} {} one",
                superusers.join(", "),
                if superusers.len() > 1 { "are each" } else { "is" }
            ));
        }
        format!(
            "it cannot act as roles that own objects or granted rights: {}: {}; or set missingRoles: Skip, then their objects belong to {}",
            owners.join(", "),
            commands.join("; "),
            offer.user.name
        )
    }
}

//! What an archive asks of the server that it is restored into, and the TOC that this server can take.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use holdfast_crds::MissingRoles;

use super::super::archive::{Entry, Toc};
use super::creator::let_owners_create;
use super::statement::{acting, roles, split, with_set_role, without_tablespace};

/// Who restores.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// The role's name.
    pub name: String,
    /// What stands above its grants.
    pub power: Power,
    /// Whether it may make roles.
    pub creates_roles: bool,
    /// Whether it has the rights of the roles that it is a member of, without setting one.
    pub inherits: bool,
}

/// What a user may do that no grant gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Power {
    /// Nothing.
    #[default]
    None,
    /// What a service gives its administrators, which PostgreSQL's catalogs do not show.
    Service,
    /// Everything.
    Superuser,
}

/// What the target server has.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// Its major version.
    pub major: u32,
    /// Who restores.
    pub user: User,
    /// Its roles.
    pub roles: BTreeSet<String>,
    /// Those of its roles that the user can act as, and so give objects to.
    pub acted: BTreeSet<String>,
    /// Those of its roles that are superusers.
    pub superusers: BTreeSet<String>,
    /// Its tablespaces.
    pub tablespaces: BTreeSet<String>,
    /// Those of its tablespaces in which the user may make nothing.
    pub closed_tablespaces: BTreeSet<String>,
    /// Extensions that can be made there.
    pub extensions: BTreeSet<String>,
    /// Those of its extensions that only a superuser can make.
    pub untrusted_extensions: BTreeSet<String>,
}

impl Offer {
    /// Whether objects may be given to a role that the target has: a superuser may, others must be able to act as it.
    pub fn acts_as(&self, role: &str) -> bool {
        self.user.power == Power::Superuser || self.acted.contains(role)
    }
}

/// What an archive needs that the target lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Roles that own or may use objects, with how many entries name them.
    pub roles: BTreeMap<String, usize>,
    /// Extensions.
    pub extensions: BTreeSet<String>,
    /// Tablespaces.
    pub tablespaces: BTreeSet<String>,
}

/// Kinds of entries whose SQL names roles.
pub(super) const WITH_ROLES: [&[u8]; 5] = [b"ACL", b"DEFAULT ACL", b"POLICY", b"USER MAPPING", b"DATABASE PROPERTIES"];

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn is_of_database(entry: &Entry) -> bool {
    entry.tag.as_deref().is_some_and(|tag| tag.starts_with(b"DATABASE ")) && matches!(entry.kind(), b"ACL" | b"COMMENT" | b"SECURITY LABEL")
}

/// The roles that an entry names: its owner and those in its SQL.
fn roles_of(entry: &Entry) -> BTreeSet<String> {
    let owner = entry.owner.iter().filter(|owner| !owner.is_empty()).map(|owner| text(owner));
    let mut found = owner.collect::<BTreeSet<_>>();
    if WITH_ROLES.contains(&entry.kind()) {
        for statement in split(entry.definition.as_deref().unwrap_or_default()) {
            found.extend(roles(statement).iter().map(|role| text(role)));
        }
    }
    found
}

/// Compares an archive with what the target has.
pub fn lacking(toc: &Toc, offer: &Offer) -> Lacking {
    let mut lacking = Lacking::default();
    for entry in &toc.entries {
        // The server's own roles, such as pg_database_owner, are in every list of roles.
        for role in roles_of(entry).into_iter().filter(|role| !offer.roles.contains(role)) {
            *lacking.roles.entry(role).or_default() += 1;
        }
        let tablespace = entry.tablespace.as_deref().map(text).unwrap_or_default();
        if !tablespace.is_empty() && !offer.tablespaces.contains(&tablespace) {
            lacking.tablespaces.insert(tablespace);
        }
        if entry.kind() == b"EXTENSION" {
            let extension = text(entry.tag.as_deref().unwrap_or_default());
            if !offer.extensions.contains(&extension) {
                lacking.extensions.insert(extension);
            }
        }
    }
    lacking
}

/// The TOC for this target, and what it leaves out. Roles that are still missing are handled as `missing` says (`Fail` has failed before),
/// and with `Skip` so is the ownership of those that the user cannot act as.
pub fn adapt(toc: &mut Toc, offer: &Offer, missing: MissingRoles) -> Vec<String> {
    let mut notes = Vec::new();
    let skip = missing == MissingRoles::Skip;
    let gone = |role: &str| skip && !offer.roles.contains(role);
    let strange = |role: &str| gone(role) || skip && !offer.acts_as(role);
    let superuser = offer.user.power == Power::Superuser;
    let (mut owners, mut removed, mut moved) = (BTreeMap::<String, usize>::new(), HashSet::new(), BTreeSet::new());
    for entry in &mut toc.entries {
        if let Some(owner) = entry.owner.as_deref().map(text).filter(|owner| !owner.is_empty() && strange(owner)) {
            *owners.entry(owner).or_default() += 1;
            entry.owner = Some(Vec::new());
        }
        let tablespace = entry.tablespace.as_deref().map(text).unwrap_or_default();
        if !tablespace.is_empty() && !offer.tablespaces.contains(&tablespace) {
            moved.insert(tablespace);
            entry.tablespace = Some(Vec::new());
        }
        if entry.kind() == b"DATABASE"
            && let Some((elsewhere, tablespace)) = entry.definition.as_deref().and_then(without_tablespace)
        {
            let tablespace = text(&tablespace);
            if !offer.tablespaces.contains(&tablespace) || !superuser && offer.closed_tablespaces.contains(&tablespace) {
                notes.push(format!(
                    "the database's tablespace {tablespace} does not exist, or the user may make nothing there: it is in the default one"
                ));
                entry.definition = Some(elsewhere);
            }
        }
        if WITH_ROLES.contains(&entry.kind()) {
            let definition = entry.definition.clone().unwrap_or_default();
            let (kept, lost) = without_roles(&definition, gone, strange);
            if !lost.is_empty() {
                for statement in lost {
                    notes.push(format!("left out: {statement}"));
                }
                if kept.is_empty() {
                    removed.insert(entry.dump_id);
                }
                entry.definition = Some(kept);
            }
            if !superuser && let Some(definition) = entry.definition.as_deref().and_then(with_set_role) {
                entry.definition = Some(definition);
            }
        }
        // Who is no superuser owns no extension that was there before, and may not comment on it.
        let of_extension = entry.tag.as_deref().is_some_and(|tag| tag.starts_with(b"EXTENSION "));
        if !superuser && entry.kind() == b"COMMENT" && of_extension {
            removed.insert(entry.dump_id);
        }
    }
    remove(toc, removed);
    if !superuser {
        let_owners_create(toc, &offer.user.name);
    }
    toc.count = toc.entries.len() as u64;
    let owners = owners.into_iter().map(|(role, objects)| {
        let why = if offer.roles.contains(&role) {
            "is none that the restoring user can act as"
        } else {
            "does not exist"
        };
        format!("owner {role} of {objects} objects {why}: they belong to the restoring user")
    });
    let moved = moved
        .into_iter()
        .map(|tablespace| format!("tablespace {tablespace} does not exist: its objects are in the default one"));
    owners.chain(moved).chain(notes).collect()
}

/// Leaves entries out, and what hangs on them, such as the comment on a policy.
pub(super) fn remove(toc: &mut Toc, mut removed: HashSet<i64>) {
    while toc
        .entries
        .iter()
        .any(|entry| !removed.contains(&entry.dump_id) && depends_on(entry, &removed))
    {
        let more = toc
            .entries
            .iter()
            .filter(|entry| depends_on(entry, &removed))
            .map(|entry| entry.dump_id)
            .collect::<Vec<_>>();
        removed.extend(more);
    }
    toc.entries.retain(|entry| !removed.contains(&entry.dump_id));
    toc.count = toc.entries.len() as u64;
}

fn depends_on(entry: &Entry, removed: &HashSet<i64>) -> bool {
    let mut ids = entry
        .dependencies
        .iter()
        .filter_map(|id| std::str::from_utf8(id).ok()?.parse::<i64>().ok());
    entry.kind() == b"COMMENT" && ids.any(|id| removed.contains(&id))
}

/// The statements that name no role that is gone and act as none that is strange, and the others for people. What such a grantor granted goes
/// with it.
fn without_roles(sql: &[u8], gone: impl Fn(&str) -> bool, strange: impl Fn(&str) -> bool) -> (Vec<u8>, Vec<String>) {
    let (mut kept, mut lost, mut grantor_gone) = (Vec::new(), Vec::new(), false);
    for statement in split(sql) {
        let acts = acting(statement).is_some_and(|role| strange(&text(&role)));
        let names_gone = acts || roles(statement).iter().any(|role| gone(&text(role)));
        let upper = statement.to_ascii_uppercase();
        let (sets, resets) = (
            upper.starts_with(b"SET SESSION AUTHORIZATION"),
            upper.starts_with(b"RESET SESSION AUTHORIZATION"),
        );
        if sets {
            grantor_gone = names_gone;
        }
        if names_gone || grantor_gone {
            if !sets && !resets {
                lost.push(text(statement));
            }
            grantor_gone &= !resets;
        } else {
            kept.extend_from_slice(statement);
            kept.extend_from_slice(b";\n");
        }
    }
    if lost.is_empty() && kept.is_empty() {
        (sql.to_vec(), lost)
    } else {
        (kept, lost)
    }
}

/// What belongs to the database itself, which `pg_restore` leaves out: how it was made, its owner, and statements that bring back its
/// limit, comment, grants and settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseProperties {
    /// `CREATE DATABASE …` as in the archive.
    pub create: Option<Vec<u8>>,
    /// Its owner, if that is a role of the target.
    pub owner: Option<String>,
    /// The other statements, in order.
    pub statements: Vec<Vec<u8>>,
}

/// Reads the database's own entries of an adapted TOC.
pub fn properties(toc: &Toc) -> DatabaseProperties {
    let mut found = DatabaseProperties::default();
    for entry in &toc.entries {
        let definition = entry.definition.as_deref().unwrap_or_default();
        match entry.kind() {
            b"DATABASE" => {
                found.create = split(definition).first().map(|statement| statement.to_vec());
                found.owner = entry.owner.as_deref().map(text).filter(|owner| !owner.is_empty());
            }
            b"DATABASE PROPERTIES" => found.statements.extend(split(definition).into_iter().map(<[u8]>::to_vec)),
            _ if is_of_database(entry) => found.statements.extend(split(definition).into_iter().map(<[u8]>::to_vec)),
            _ => {}
        }
    }
    found
}

/// Whether the archive holds anything that somebody made in the database. What restores keep for themselves does not count.
pub fn has_user_objects(toc: &Toc) -> bool {
    let own = |entry: &Entry| {
        let tag = entry.tag.as_deref().unwrap_or_default();
        // Both schemas, and what is granted on or said about them.
        let schema =
            entry.kind() == b"SCHEMA" && matches!(tag, b"public" | b"holdfast") || matches!(tag, b"SCHEMA public" | b"SCHEMA holdfast");
        let session = matches!(
            entry.kind(),
            b"ENCODING" | b"STDSTRINGS" | b"SEARCHPATH" | b"DATABASE" | b"DATABASE PROPERTIES"
        );
        // The two tables of restores, with their keys and rows.
        let name = tag.split(|byte| *byte == b' ').next().unwrap_or_default();
        let receipts = entry.namespace.as_deref() == Some(b"holdfast")
            && matches!(name, b"receipts" | b"attempts" | b"TABLE")
            && matches!(entry.kind(), b"TABLE" | b"TABLE DATA" | b"CONSTRAINT" | b"ACL");
        schema || session || receipts || is_of_database(entry)
    };
    toc.entries.iter().any(|entry| !own(entry))
}

#[cfg(test)]
mod tests {
    use super::super::super::archive::{Keep, Reader};
    use super::super::super::test_server::TestServer;
    use super::*;

    const SQL: &str = "
        DROP ROLE IF EXISTS plan_owner; DROP ROLE IF EXISTS plan_reader; DROP ROLE IF EXISTS plan_grantor;
        CREATE ROLE plan_owner; CREATE ROLE plan_reader; CREATE ROLE plan_grantor;
        CREATE TABLE t (id integer); ALTER TABLE t OWNER TO plan_owner;
        GRANT SELECT ON t TO PUBLIC, plan_reader; GRANT INSERT ON t TO plan_grantor WITH GRANT OPTION;
        SET SESSION AUTHORIZATION plan_grantor; GRANT INSERT ON t TO PUBLIC; RESET SESSION AUTHORIZATION;
        ALTER TABLE t ENABLE ROW LEVEL SECURITY;
        CREATE POLICY mine ON t TO plan_reader USING (true); COMMENT ON POLICY mine ON t IS 'mine';
        CREATE POLICY everybody ON t USING (true);
        ALTER DEFAULT PRIVILEGES FOR ROLE plan_owner GRANT SELECT ON TABLES TO plan_reader;
        ALTER DATABASE plan SET work_mem = '1MB'; ALTER ROLE plan_reader IN DATABASE plan SET work_mem = '2MB';
        ALTER DATABASE plan OWNER TO plan_owner; COMMENT ON DATABASE plan IS 'the ''plan'''; ALTER DATABASE plan CONNECTION LIMIT 7;
        GRANT TEMPORARY ON DATABASE plan TO plan_reader;";

    fn toc() -> Toc {
        static TOC: std::sync::OnceLock<Toc> = std::sync::OnceLock::new();
        let read = || {
            let server = TestServer::shared();
            let clean = "DO $$ BEGIN IF EXISTS (SELECT FROM pg_database WHERE datname = 'plan') THEN ALTER DATABASE plan OWNER TO postgres; END IF; END $$";
            server.sql("postgres", clean);
            server.sql("postgres", "DROP DATABASE IF EXISTS plan");
            server.create("plan", SQL);
            let mut reader = Reader::new(Keep::Everything { limit: 1 << 20 });
            reader.feed(&server.dump("plan", &[]), |_| ()).unwrap();
            reader.toc().unwrap().clone()
        };
        TOC.get_or_init(read).clone()
    }

    fn offer(roles: &[&str]) -> Offer {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Offer {
            roles: owned(&[roles, &["postgres", "pg_database_owner"][..]].concat()),
            user: User {
                power: Power::Superuser,
                ..User::default()
            },
            ..Offer::default()
        }
    }

    #[test]
    fn what_is_lacking_is_named_before_anything_is_touched() {
        let lacking = lacking(&toc(), &offer(&["plan_owner"]));
        assert_eq!(
            lacking.roles.keys().map(String::as_str).collect::<Vec<_>>(),
            ["plan_grantor", "plan_reader"]
        );
        assert!(lacking.extensions.is_empty() && lacking.tablespaces.is_empty());
    }

    #[test]
    fn with_every_role_nothing_changes() {
        let mut adapted = toc();
        let notes = adapt(
            &mut adapted,
            &offer(&["plan_owner", "plan_reader", "plan_grantor"]),
            MissingRoles::Skip,
        );
        assert_eq!((notes, adapted.to_bytes() == toc().to_bytes()), (vec![], true));
    }

    #[test]
    fn owners_grants_and_policies_of_missing_roles_are_left_out_and_told() {
        let mut adapted = toc();
        let notes = adapt(&mut adapted, &offer(&[]), MissingRoles::Skip);
        let left = lacking(&adapted, &offer(&[]));
        assert!(left.roles.is_empty(), "{left:?}");
        let definitions = adapted
            .entries
            .iter()
            .filter_map(|entry| entry.definition.as_deref())
            .map(text)
            .collect::<Vec<_>>()
            .join("\n");
        assert!(definitions.contains("GRANT SELECT ON TABLE public.t TO PUBLIC"), "{definitions}");
        assert!(
            !definitions.contains("GRANT INSERT") && !definitions.contains("POLICY mine"),
            "{definitions}"
        );
        assert!(definitions.contains("POLICY everybody"));
        assert!(notes.iter().any(|note| note.starts_with("owner plan_owner of ")), "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("CREATE POLICY mine")), "{notes:?}");
    }

    #[test]
    fn the_database_keeps_its_owner_limit_comment_grants_and_settings() {
        let found = properties(&toc());
        assert_eq!(found.owner.as_deref(), Some("plan_owner"));
        assert!(text(&found.create.unwrap()).starts_with("CREATE DATABASE plan WITH TEMPLATE = template0 ENCODING = 'UTF8'"));
        let statements = found
            .statements
            .iter()
            .map(|statement| text(statement))
            .collect::<Vec<_>>()
            .join("\n");
        for expected in [
            "CONNECTION LIMIT = 7",
            "SET work_mem TO '1MB'",
            "ALTER ROLE plan_reader IN DATABASE plan SET work_mem TO '2MB'",
            "COMMENT ON DATABASE plan IS 'the ''plan'''",
            "ON DATABASE plan TO plan_reader",
        ] {
            assert!(statements.contains(expected), "{expected} is not in {statements}");
        }
        assert!(has_user_objects(&toc()));
    }
}

//! Who is no superuser can give an object only to a role that may itself create in its schema. In the copied database most owners may not: a
//! grant was taken back, or comes only at the end of the archive. So they get that right before the schema is filled, and lose it right before
//! the archive's own grants.

use std::collections::{BTreeMap, BTreeSet};

use super::super::archive::{Entry, Toc};
use super::plan::text;

/// The role that `public` belongs to unless the archive says otherwise.
const DATABASE_OWNER: &[u8] = b"pg_database_owner";
/// The section of what is made before data.
const PRE_DATA: i64 = 2;

/// Adds the grants, and what takes them back, to the TOC.
pub fn let_owners_create(toc: &mut Toc, user: &str) {
    let mut schemas = BTreeMap::<Vec<u8>, Vec<u8>>::new();
    for entry in toc.entries.iter().filter(|entry| entry.kind() == b"SCHEMA") {
        schemas.insert(entry.tag.clone().unwrap_or_default(), entry.owner.clone().unwrap_or_default());
    }
    let mut creators = BTreeMap::<Vec<u8>, BTreeSet<Vec<u8>>>::new();
    for entry in &toc.entries {
        let (schema, owner) = (
            entry.namespace.as_deref().unwrap_or_default(),
            entry.owner.as_deref().unwrap_or_default(),
        );
        let of_schema = schemas.get(schema).map_or(DATABASE_OWNER, Vec::as_slice);
        if !schema.is_empty() && !owner.is_empty() && owner != of_schema && owner != user.as_bytes() {
            creators.entry(schema.to_vec()).or_default().insert(owner.to_vec());
        }
    }
    let statement = |what: &str, schema: &[u8], word: &str, roles: &BTreeSet<Vec<u8>>| {
        let roles = roles.iter().map(|role| quoted(role)).collect::<Vec<_>>().join(&b", "[..]);
        [
            what.as_bytes(),
            b" CREATE ON SCHEMA ",
            &quoted(schema),
            word.as_bytes(),
            &roles,
            b";\n",
        ]
        .concat()
    };
    let mut next = toc.entries.iter().map(|entry| entry.dump_id).max().unwrap_or(0);
    let mut revoked = Vec::new();
    for (schema, roles) in &creators {
        let grant = statement("GRANT", schema, " TO ", roles);
        let made = toc
            .entries
            .iter_mut()
            .find(|entry| entry.kind() == b"SCHEMA" && entry.tag.as_deref() == Some(schema));
        if let Some(made) = made {
            let mut definition = made.definition.take().unwrap_or_default();
            definition.push(b'\n');
            definition.extend_from_slice(&grant);
            made.definition = Some(definition);
        } else if let Some(entry) = like(&toc.entries, next + 1, b"SCHEMA", schema, grant) {
            next += 1;
            let first = toc.entries.iter().position(|entry| entry.section >= PRE_DATA && !is_session(entry));
            toc.entries.insert(first.unwrap_or(toc.entries.len()), entry);
        }
        if let Some(entry) = like(
            &toc.entries,
            next + 1,
            b"ACL",
            &[b"SCHEMA ", schema.as_slice()].concat(),
            statement("REVOKE", schema, " FROM ", roles),
        ) {
            next += 1;
            revoked.push(entry);
        }
    }
    let first = toc.entries.iter().position(|entry| entry.kind().ends_with(b"ACL"));
    let first = first.unwrap_or(toc.entries.len());
    toc.entries.splice(first..first, revoked);
}

/// The roles that must be able to create in the database, since publications are given to them.
pub fn database_creators(toc: &Toc, user: &str) -> BTreeSet<String> {
    let publications = toc.entries.iter().filter(|entry| entry.kind() == b"PUBLICATION");
    let owners = publications.filter_map(|entry| entry.owner.as_deref().map(text));
    owners.filter(|owner| !owner.is_empty() && owner != user).collect()
}

fn is_session(entry: &Entry) -> bool {
    matches!(
        entry.kind(),
        b"ENCODING" | b"STDSTRINGS" | b"SEARCHPATH" | b"DATABASE" | b"DATABASE PROPERTIES"
    )
}

/// An entry in this archive's manner that has nothing but SQL.
fn like(entries: &[Entry], dump_id: i64, kind: &[u8], tag: &[u8], definition: Vec<u8>) -> Option<Entry> {
    let pattern = entries.iter().find(|entry| entry.kind() == b"ENCODING")?;
    Some(Entry {
        dump_id,
        tag: Some(tag.to_vec()),
        desc: Some(kind.to_vec()),
        section: PRE_DATA,
        definition: Some(definition),
        dependencies: Vec::new(),
        ..pattern.clone()
    })
}

fn quoted(name: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in name {
        quoted.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    quoted.push(b'"');
    quoted
}

//! Jobs that a database holds for a scheduler in its server.

use std::collections::HashSet;

use super::super::archive::{Entry, Toc};

/// The extension, and the schema that it makes.
const EXTENSION: &[u8] = b"pg_cron";
/// Its schema.
pub const SCHEMA: &str = "cron";

/// Leaves `pg_cron` with its jobs out of a table of contents, where it is in one. It can be made in one database of a server alone, which a
/// database beside is not; and jobs that came back with their rows would begin to act in the moment in which the copy gets its name.
pub fn leave_out(toc: &mut Toc) -> bool {
    let tag = |entry: &Entry| entry.tag.clone().unwrap_or_default();
    let Some(extension) = toc
        .entries
        .iter()
        .find(|entry| entry.kind() == b"EXTENSION" && tag(entry) == EXTENSION)
    else {
        return false;
    };
    let of_scheduler = |entry: &Entry| {
        let named = matches!(tag(entry).as_slice(), b"EXTENSION pg_cron" | b"SCHEMA cron");
        let schema = entry.kind() == b"SCHEMA" && tag(entry) == SCHEMA.as_bytes();
        named || schema || entry.namespace.as_deref() == Some(SCHEMA.as_bytes())
    };
    let mut removed = HashSet::from([extension.dump_id]);
    removed.extend(toc.entries.iter().filter(|entry| of_scheduler(entry)).map(|entry| entry.dump_id));
    super::plan::remove(toc, removed);
    true
}

#[cfg(test)]
pub mod tests {
    use super::super::super::archive::{Keep, Reader};
    use super::super::super::test_server::TestServer;
    use super::*;

    /// A database with what `pg_cron` makes.
    pub const SQL: &str = "CREATE TABLE kept AS SELECT generate_series(1, 100) AS id;
        CREATE SCHEMA cron; CREATE TABLE cron.job (jobid serial PRIMARY KEY, schedule text, command text);
        INSERT INTO cron.job (schedule, command) VALUES ('* * * * *', 'DELETE FROM kept'), ('0 3 * * *', 'VACUUM');
        COMMENT ON TABLE cron.job IS 'jobs'; GRANT USAGE ON SCHEMA cron TO PUBLIC; GRANT SELECT ON cron.job TO PUBLIC;";

    /// The archive of a database as `pg_dump` would write it on a server that has `pg_cron`, which none here has.
    pub fn archive(database: &str) -> Vec<u8> {
        let bytes = TestServer::shared().dump(database, &[]);
        let mut toc = read(&bytes);
        let extension = Entry {
            dump_id: 90_000,
            table_oid: Some(b"3079".to_vec()),
            oid: Some(b"90000".to_vec()),
            tag: Some(EXTENSION.to_vec()),
            desc: Some(b"EXTENSION".to_vec()),
            definition: Some(b"CREATE EXTENSION IF NOT EXISTS pg_cron WITH SCHEMA pg_catalog;\n".to_vec()),
            drop: Some(b"DROP EXTENSION pg_cron;\n".to_vec()),
            ..toc.entries[0].clone()
        };
        let comment = Entry {
            dump_id: 90_001,
            tag: Some(b"EXTENSION pg_cron".to_vec()),
            desc: Some(b"COMMENT".to_vec()),
            definition: Some(b"COMMENT ON EXTENSION pg_cron IS 'Job scheduler for PostgreSQL';\n".to_vec()),
            dependencies: vec![b"90000".to_vec()],
            ..extension.clone()
        };
        let before = usize::try_from(toc.length).unwrap();
        toc.entries.splice(0..0, [extension, comment]);
        toc.count += 2;
        [&toc.to_bytes(), &bytes[before..]].concat()
    }

    fn read(bytes: &[u8]) -> Toc {
        let mut reader = Reader::new(Keep::Everything { limit: 1 << 20 });
        reader.feed(bytes, |_| ()).unwrap();
        reader.toc().unwrap().clone()
    }

    #[test]
    fn pg_cron_goes_with_all_that_is_its_and_nothing_else_does() {
        TestServer::shared().create("scheduler", SQL);
        let without = TestServer::shared().dump("scheduler", &[]);
        let mut toc = read(&without);
        assert!(!leave_out(&mut toc), "a schema of that name alone is a user's");
        assert!(toc.to_bytes() == read(&without).to_bytes());

        let mut toc = read(&archive("scheduler"));
        assert!(leave_out(&mut toc));
        let names = toc.entries.iter().map(Entry::qualified_name).collect::<Vec<_>>().join(" ");
        assert!(!names.contains("cron"), "{names}");
        assert_eq!(names.matches("public.kept").count(), 2, "the table and its rows: {names}");
        assert_eq!(toc.count, toc.entries.len() as u64);
    }
}

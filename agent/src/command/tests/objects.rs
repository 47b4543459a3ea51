//! Restores of what is not a plain table: it comes back as it was, or it is told.

use super::*;

/// A dump as a script without the name of its database.
fn content(scene: &Scene, database: &str) -> String {
    let output = scene.server.tool("pg_dump").arg(database).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    lines.collect::<Vec<_>>().join("\n")
}

const OBJECTS: &str = "
    CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 5) AS id;
    CREATE TABLE t (id integer PRIMARY KEY, a text, b integer); INSERT INTO t SELECT n, 'x', n FROM generate_series(1, 10) n;
    CREATE TABLE \"Parts\" (id integer, at date) PARTITION BY RANGE (at); CREATE TABLE parts_1 PARTITION OF \"Parts\" FOR VALUES FROM (MINVALUE) TO ('2026-01-01') PARTITION BY HASH (id);
    CREATE TABLE parts_1a PARTITION OF parts_1 FOR VALUES WITH (MODULUS 1, REMAINDER 0); CREATE INDEX ON \"Parts\" (at); INSERT INTO \"Parts\" VALUES (1, '2025-01-01');
    CREATE TABLE heir (more text) INHERITS (t); INSERT INTO heir VALUES (100, 'h', 1, 'm');
    CREATE PUBLICATION p FOR TABLE t (id, a) WHERE (id > 3) WITH (publish = 'insert'); ALTER TABLE t REPLICA IDENTITY FULL;
    CREATE SUBSCRIPTION s CONNECTION 'host=elsewhere dbname=x' PUBLICATION p WITH (connect = false);
    CREATE RULE quiet AS ON DELETE TO t DO INSTEAD NOTHING; CREATE STATISTICS st (dependencies) ON a, b FROM t; ALTER TABLE t ALTER a SET STORAGE EXTERNAL, ALTER b SET STATISTICS 77;
    CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER guard ON ddl_command_start EXECUTE FUNCTION watch(); ALTER EVENT TRIGGER guard ENABLE ALWAYS;
    CREATE AGGREGATE total(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0'); CREATE OPERATOR === (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4eq);
    CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple); CREATE TYPE pair AS (x integer, y text); CREATE CAST (pair AS text) WITH INOUT; CREATE TYPE spans AS RANGE (SUBTYPE = integer);
    SELECT lo_from_bytea(4711, 'large'); COMMENT ON LARGE OBJECT 4711 IS 'large'; GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC;
    CLUSTER t USING t_pkey;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_object_comes_back_as_it_was() {
    let scene = Scene::new();
    scene.server.create("objects", OBJECTS);
    let icu = "SELECT count(*) FROM pg_collation WHERE collname = 'de-x-icu'";
    if scene.server.sql("objects", icu) != "0" {
        let sql = "CREATE COLLATION phonebook (provider = icu, locale = 'de-u-co-phonebk'); CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
            CREATE TABLE names (n text COLLATE phonebook, b text COLLATE blind UNIQUE); INSERT INTO names VALUES ('Ä', 'a');";
        scene.server.sql("objects", sql);
    }
    let before = content(&scene, "objects");
    let copy = scene
        .backup("pod-1", &scene.backup_task("run-1", &["objects"], &nothing()))
        .await
        .unwrap()
        .copy
        .unwrap();
    let rename = json!({"select": {"rename": {"objects": "objects_new"}}});
    let restored = scene
        .restore("pod-2", &scene.restore_task("r", "run-1", &rename))
        .await
        .unwrap()
        .restored
        .unwrap();
    assert_eq!((restored.skipped, restored.rows), (Vec::<String>::new(), copy.rows.unwrap()));
    let after = content(&scene, "objects_new");
    assert!(before == after, "{}", difference(&before, &after));
    // What was restored does not go on to replicate by itself.
    assert_eq!(
        scene.server.sql(
            "objects_new",
            "SELECT subenabled FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = 'objects_new')"
        ),
        "f"
    );
    for database in ["objects", "objects_new"] {
        scene
            .server
            .sql(database, "ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_keeps_its_own_locale_provider() {
    let scene = Scene::new();
    if scene
        .server
        .sql("postgres", "SELECT count(*) FROM pg_collation WHERE collname = 'de-x-icu'")
        == "0"
    {
        eprintln!("this build has no ICU: nothing was tried");
        return;
    }
    scene.server.sql(
        "postgres",
        "CREATE DATABASE worldly TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de' LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    scene.server.sql("worldly", "CREATE TABLE t AS SELECT 'ä' AS a");
    let before = scene.script("worldly");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["worldly"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE worldly");
    scene.restore("pod-2", &scene.restore_task("r", "run-1", &nothing())).await.unwrap();
    let after = scene.script("worldly");
    assert!(before == after && before.contains("icu"), "{}", difference(&before, &after));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tablespaces_are_kept_where_they_are_and_told_where_they_are_not() {
    let scene = Scene::new();
    let directory = scene.server.directory().join("fast");
    std::fs::create_dir(&directory).unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(scene.server.directory()).unwrap());
    std::os::unix::fs::chown(&directory, Some(owner), None).unwrap();
    let location = format!("CREATE TABLESPACE fast LOCATION '{}'", directory.display());
    scene.server.sql("postgres", &location);
    scene.server.create(
        "placed",
        "CREATE TABLE t (id integer) TABLESPACE fast; CREATE INDEX i ON t (id) TABLESPACE fast; INSERT INTO t VALUES (1)",
    );
    scene.server.sql("postgres", "CREATE DATABASE placed_all TABLESPACE fast");
    scene.server.sql("placed_all", "CREATE TABLE t (id integer)");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["placed", "placed_all"], &nothing()))
        .await
        .unwrap();
    let drop = || {
        for database in ["placed", "placed_all"] {
            scene.server.sql("postgres", &format!("DROP DATABASE {database}"));
        }
    };
    drop();
    let whole = "SELECT spcname FROM pg_database d JOIN pg_tablespace s ON s.oid = dattablespace WHERE datname = 'placed_all'";
    let places = "SELECT string_agg(relname || ' ' || coalesce((SELECT spcname FROM pg_tablespace s WHERE s.oid = reltablespace), 'default'), ', ' ORDER BY relname) FROM pg_class WHERE relname IN ('t', 'i')";
    let result = scene
        .restore("pod-2", &scene.restore_task("there", "run-1", &nothing()))
        .await
        .unwrap()
        .restored
        .unwrap();
    assert_eq!(
        (scene.server.sql("placed", places).as_str(), result.skipped),
        ("i fast, t fast", Vec::new())
    );
    assert_eq!(scene.server.sql("postgres", whole), "fast");
    drop();
    scene.server.sql("postgres", "DROP TABLESPACE fast");
    let result = scene
        .restore("pod-3", &scene.restore_task("gone", "run-1", &nothing()))
        .await
        .unwrap()
        .restored
        .unwrap();
    assert_eq!(scene.server.sql("placed", places), "i default, t default");
    assert_eq!(scene.server.sql("postgres", whole), "pg_default");
    for told in [
        "placed: tablespace fast does not exist",
        "placed_all: the database's tablespace fast does not exist",
    ] {
        assert!(result.skipped.iter().any(|note| note.contains(told)), "{:?}", result.skipped);
    }
}

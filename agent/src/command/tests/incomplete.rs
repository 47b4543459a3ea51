//! Restores that cannot be proven whole, or that the target cannot take: nothing of them is put in place.

use holdfast_crds::document::{Committed, Database, Decision, Outcome, Table};

use super::*;
use crate::engine::postgresql::restore::scheduler::tests as scheduler;

/// A database `name` of these tables is copied and dropped; then `after` is done in the database beside once `pg_restore` has filled it.
async fn restored_and_then(name: &str, sql: &str, after: &str) -> (Scene, Result<AgentResult, Failure>) {
    let scene = Scene::new();
    scene.server.create(name, sql);
    scene
        .backup("pod-1", &scene.backup_task("run-1", &[name], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", &format!("DROP DATABASE {name}"));
    let script = "#!/bin/bash\n[ \"$1\" = --version ] && exec $REAL --version\n$REAL \"$@\" || exit\n";
    let script = format!("{script}exec \"${{0%/*}}/psql\" -X -q -v ON_ERROR_STOP=1 \"${{!#}}\" -c '{after}'\n");
    let request = scene.restore_task("r", "run-1", &nothing());
    let invocation = Invocation {
        places: scene.tool("pg_restore", &script),
        ..scene.invocation("pod-2", Action::Restore(request.clone()))
    };
    let result = restore::run_with(&invocation, &request, &scene.store()).await;
    (scene, result)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_counted_or_has_other_rows_is_not_put_in_place() {
    let sql = "CREATE TABLE kept AS SELECT 1 AS id; CREATE TABLE t AS SELECT generate_series(1, 3) AS id";
    for (name, after, words) in [
        (
            "table_gone",
            "DROP TABLE t",
            "relation \"public.t\" does not exist (SQLSTATE 42P01)",
        ),
        (
            "rows_unread",
            "DROP TABLE t; CREATE VIEW t AS SELECT 1 / (random() * 0)::int AS id OFFSET 0",
            "division by zero (SQLSTATE 22012)",
        ),
        (
            "rows_fewer",
            "DELETE FROM t WHERE id = 2",
            "table \"public\".\"t\" of database rows_fewer has 2 rows after the restore, the copy's manifest says 3",
        ),
        (
            "rows_more",
            "INSERT INTO t VALUES (4)",
            "table \"public\".\"t\" of database rows_more has 4 rows after the restore, the copy's manifest says 3",
        ),
    ] {
        let (scene, result) = restored_and_then(name, sql, after).await;
        let (why, message, closed) = reason(result);
        assert_eq!((why, closed), (Reason::RestoreIncomplete, true), "{name}: {message}");
        assert!(message.contains(words), "{name}: {message}");
        assert_eq!(
            (scene.databases(name), scene.beside("pod-2")),
            (String::new(), String::new()),
            "{name}"
        );
    }
}

/// Changes what the register of a copy says of its one database, as a manifest that was written wrongly would.
fn falsify(scene: &Scene, run: &str, change: impl Fn(&mut Database)) {
    let run = RunPath::new("shop", "shop", run).unwrap();
    scene.memory.damage(&run.outcome().to_string(), |bytes| {
        let mut outcome = Outcome::from_bytes(&run, bytes).unwrap();
        let copy = outcome.committed().unwrap();
        let (mut manifest, stored) = (copy.manifest().clone(), copy.stored().to_vec());
        change(&mut manifest.contents.databases[0]);
        outcome.decision = Decision::Committed(Box::new(Committed::new(manifest, stored)));
        *bytes = outcome.to_bytes();
    });
}

type Change<'a> = dyn Fn(&mut Database) + 'a;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_says_more_than_the_archive_holds_is_found_out() {
    let scene = Scene::new();
    scene
        .server
        .create("says_more", "CREATE TABLE t AS SELECT 1 AS id; SELECT lo_create(0)");
    let table = |name: &str| Table {
        schema: "public".to_owned(),
        name: name.to_owned(),
        rows: Some(1),
    };
    let changes: [(&str, &Change<'_>, &str); 4] = [
        (
            "rows",
            &|database| database.tables[0].rows = Some(2),
            "has 1 rows after the restore",
        ),
        (
            "objects",
            &|database| database.large_objects = Some(2),
            "the list of large objects of database says_more has 1 rows",
        ),
        ("table", &|database| database.tables.push(table("gone")), "(SQLSTATE 42P01)"),
        // In UTF-8 every name can be read: that this one is not there has no excuse.
        ("name", &|database| database.tables.push(table("gr\u{fffd}e")), "(SQLSTATE 42P01)"),
    ];
    for (run, change, words) in changes {
        scene
            .backup("pod-1", &scene.backup_task(run, &["says_more"], &nothing()))
            .await
            .unwrap();
        falsify(&scene, run, change);
        let elsewhere = json!({"select": {"rename": {"says_more": "says_more_new"}}});
        let result = scene.restore("pod-2", &scene.restore_task(run, run, &elsewhere)).await;
        let (why, message, closed) = reason(result);
        assert_eq!((why, closed), (Reason::RestoreIncomplete, true), "{run}: {message}");
        assert!(message.contains(words), "{run}: {message}");
        assert_eq!(
            (scene.databases("says_more_new"), scene.beside("pod-2")),
            (String::new(), String::new()),
            "{run}"
        );
    }
}

/// The manifest's name of such a table is not the one that it has: that it is not found proves nothing against the restore.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_name_cannot_be_read_is_told_as_not_counted() {
    let scene = Scene::new();
    scene.server.sql("postgres", "DROP DATABASE IF EXISTS unread WITH (FORCE)");
    scene.server.sql(
        "postgres",
        "CREATE DATABASE unread TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    scene.server.sql(
        "unread",
        "SET client_encoding = 'UTF8'; CREATE TABLE plain AS SELECT 1 AS id; CREATE TABLE \"größe\" AS SELECT 1 AS id",
    );
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["unread"], &nothing()))
        .await
        .unwrap();
    falsify(&scene, "run-1", |database| {
        let table = database.tables.iter_mut().find(|table| table.name == "größe").unwrap();
        table.name = "gr\u{fffd}\u{fffd}e".to_owned();
    });
    scene.server.sql("postgres", "DROP DATABASE unread");
    let result = scene.restore("pod-2", &scene.restore_task("r", "run-1", &nothing())).await.unwrap();
    let restored = result.restored.unwrap();
    assert_eq!((restored.tables, restored.rows), (1, 1));
    let [note] = restored.skipped.as_slice() else {
        panic!("{:?}", restored.skipped)
    };
    assert!(
        note.contains("was not counted, its name is in an encoding that cannot be read"),
        "{note}"
    );

    // The same of a name in ASCII has no excuse.
    falsify(&scene, "run-1", |database| database.tables[0].name = "gone".to_owned());
    scene.server.sql("postgres", "DROP DATABASE unread");
    let result = scene.restore("pod-3", &scene.restore_task("again", "run-1", &nothing())).await;
    assert_eq!(reason(result).0, Reason::RestoreIncomplete);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_touched_where_the_target_lacks_an_extension() {
    let scene = Scene::new();
    let some = scene.server.sql(
        "postgres",
        "SELECT min(name) FROM pg_available_extensions WHERE name IN ('pg_trgm', 'vector')",
    );
    scene
        .server
        .create("extended", &format!("CREATE EXTENSION {some}; CREATE TABLE t ()"));
    // The archive of a server whose extension has a name that no server here knows.
    let script = format!(
        "#!/bin/bash\n[ \"$1\" = --version ] && exec $REAL --version\n$REAL \"$@\" | LC_ALL=C sed 's/{some}/x{}/g'\n",
        &some[1..]
    );
    let task = scene.backup_task("run-1", &["extended"], &nothing());
    let invocation = Invocation {
        places: scene.tool("pg_dump", &script),
        ..scene.invocation("pod-1", Action::Backup(task.clone()))
    };
    backup::run_with(&invocation, &task, &scene.store()).await.unwrap();
    scene.server.sql("postgres", "DROP DATABASE extended");
    let (why, message, closed) = reason(scene.restore("pod-2", &scene.restore_task("r", "run-1", &nothing())).await);
    assert_eq!((why, closed), (Reason::ExtensionsMissing, true), "{message}");
    assert!(message.contains(&format!("has no extensions x{}", &some[1..])), "{message}");
    assert_eq!((scene.databases("extended"), scene.beside("pod-2")), (String::new(), String::new()));
    let begun = format!("SELECT count(*) FROM holdfast.attempts WHERE pod = '{}'", scene.pod("pod-2"));
    let table = scene.server.sql("postgres", "SELECT to_regclass('holdfast.attempts')");
    assert!(table.is_empty() || scene.server.sql("postgres", &begun) == "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_scheduler_are_left_out_and_told() {
    let scene = Scene::new();
    scene.server.create("with_jobs", scheduler::SQL);
    let archive = scene.root.path().join("archive");
    std::fs::write(&archive, scheduler::archive("with_jobs")).unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec $REAL --version\nexec cat {}\n",
        archive.display()
    );
    let task = scene.backup_task("run-1", &["with_jobs"], &nothing());
    let invocation = Invocation {
        places: scene.tool("pg_dump", &script),
        ..scene.invocation("pod-1", Action::Backup(task.clone()))
    };
    let copy = backup::run_with(&invocation, &task, &scene.store()).await.unwrap().copy.unwrap();
    assert_eq!((copy.rows, copy.structure_checked), (Some(102), true));
    scene.server.sql("postgres", "DROP DATABASE with_jobs");
    let result = scene.restore("pod-2", &scene.restore_task("r", "run-1", &nothing())).await;
    let restored = result.unwrap().restored.unwrap();
    assert_eq!((restored.tables, restored.rows), (1, 100));
    let [note] = restored.skipped.as_slice() else {
        panic!("{:?}", restored.skipped)
    };
    assert!(
        note.starts_with("database with_jobs: extension pg_cron and its 2 jobs were left out"),
        "{note}"
    );
    let there = "SELECT string_agg(nspname, ' ') FROM pg_namespace WHERE oid >= 16384";
    assert_eq!(scene.server.sql("with_jobs", there), "");
}

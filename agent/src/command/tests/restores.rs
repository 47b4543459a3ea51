//! Restores: whole, only once, and never over data.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_backed_up_and_lost_comes_back_whole_and_only_once() {
    let scene = Scene::new();
    let sql = format!(
        "{}
        DROP ROLE IF EXISTS circle_owner; CREATE ROLE circle_owner; DROP ROLE IF EXISTS circle_reader; CREATE ROLE circle_reader;
        ALTER TABLE types OWNER TO circle_owner; GRANT SELECT ON ALL TABLES IN SCHEMA public TO circle_reader;
        ALTER DATABASE \"circle Ä\" OWNER TO circle_owner; GRANT CONNECT ON DATABASE \"circle Ä\" TO circle_reader;
        ALTER DATABASE \"circle Ä\" SET work_mem = '7MB'; ALTER ROLE circle_reader IN DATABASE \"circle Ä\" SET work_mem = '8MB';
        ALTER DATABASE \"circle Ä\" CONNECTION LIMIT 17; COMMENT ON DATABASE \"circle Ä\" IS 'don''t lose it';",
        awkward()
    );
    scene.server.create("circle Ä", &sql);
    let before = scene.script("circle Ä");
    let task = scene.backup_task("run-1", &["circle *"], &nothing());
    let result = scene.backup("pod-1", &task).await.unwrap();
    assert_eq!((result.reason, result.closed), (Reason::Succeeded, true));
    let copy = result.copy.unwrap();
    assert_eq!(
        (copy.databases, copy.structure_checked, &copy.database_names),
        (1, true, &vec!["circle Ä".to_owned()])
    );
    assert_eq!(copy.rows, Some(2 + 8 + 2000 + 17 + 300 + 3 + 30 + 100));
    assert!(copy.notes.iter().any(|note| note.starts_with("not included: ")), "{:?}", copy.notes);
    assert_eq!(scene.memory.open_uploads(), 0);

    scene.server.sql("postgres", "DROP DATABASE \"circle Ä\"");
    let request = scene.restore_task("again", "run-1", &nothing());
    let result = scene.restore("pod-2", &request).await.unwrap();
    assert_eq!((result.reason, result.closed), (Reason::Succeeded, true), "{}", result.message);
    let restored = result.restored.unwrap();
    assert_eq!((restored.rows, restored.databases), (copy.rows.unwrap(), 1));
    assert!(restored.skipped.is_empty(), "{:?}", restored.skipped);
    let after = scene.script("circle Ä");
    assert!(before == after, "{}", difference(&before, &after));
    assert_eq!(scene.beside("pod-2"), "");

    // A request that is made again finds its receipt, and what was written since stays.
    scene.server.sql("circle Ä", "INSERT INTO parent VALUES (99, 1)");
    let result = scene.restore("pod-3", &request).await.unwrap();
    assert_eq!((result.reason, result.closed), (Reason::AlreadyDone, true));
    assert_eq!(result.restored.unwrap(), restored);
    assert_eq!(scene.server.sql("circle Ä", "SELECT count(*) FROM parent"), "4");
    let settled = restore::settle(&scene.invocation("pod-4", Action::SettleRestore(request.clone())), &request)
        .await
        .unwrap();
    assert_eq!((settled.reason, settled.closed), (Reason::Succeeded, true));
    let unknown = scene.restore_task("never made", "run-1", &nothing());
    let settled = restore::settle(&scene.invocation("pod-4", Action::SettleRestore(unknown.clone())), &unknown)
        .await
        .unwrap();
    assert_eq!((settled.reason, settled.closed), (Reason::CopyNotFound, false));

    // So does a run: the database is not even asked.
    std::fs::remove_dir_all(scene.places().login).unwrap();
    let result = scene.backup("pod-5", &task).await.unwrap();
    assert_eq!((result.reason, result.closed), (Reason::AlreadyDone, true));
    assert_eq!(result.copy.unwrap().manifest_digest, copy.manifest_digest);
    // Nobody's secret is in what the store holds in the clear.
    let clear = scene.memory.objects().into_iter().filter(|(path, _)| path.contains(".json"));
    assert!(
        clear
            .into_iter()
            .all(|(_, bytes)| !String::from_utf8_lossy(&bytes).contains("battery"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_data_is_never_replaced_and_an_empty_one_is() {
    let scene = Scene::new();
    scene.server.create("full", "CREATE TABLE t AS SELECT 1 AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["full"], &nothing()))
        .await
        .unwrap();
    let request = scene.restore_task("onto data", "run-1", &nothing());
    let (why, message, closed) = reason(scene.restore("pod-2", &request).await);
    assert_eq!((why, closed), (Reason::TargetNotEmpty, true));
    assert!(
        message.contains("database full exists and holds objects of users (relation public.t)"),
        "{message}"
    );
    assert_eq!(scene.server.sql("full", "SELECT count(*) FROM t"), "1");
    assert_eq!(scene.beside("pod-2"), "");

    scene.server.create("other_empty", "SELECT 1");
    let oid = || {
        scene
            .server
            .sql("postgres", "SELECT oid FROM pg_database WHERE datname = 'other_empty'")
    };
    let old = oid();
    let rename = json!({"select": {"databases": ["full"], "rename": {"full": "other_empty"}}});
    let result = scene
        .restore("pod-3", &scene.restore_task("into empty", "run-1", &rename))
        .await
        .unwrap();
    assert_eq!(result.restored.unwrap().database_names, ["other_empty"]);
    assert_ne!(oid(), old);
    assert_eq!(scene.server.sql("other_empty", "SELECT count(*) FROM t"), "1");
    assert_eq!(
        scene.server.sql(
            "postgres",
            &format!("SELECT count(*) FROM holdfast.attempts WHERE pod = '{}'", scene.pod("pod-3"))
        ),
        "0"
    );
    assert_eq!(scene.beside("pod-3"), "");

    for (select, expected) in [
        (json!({"databases": ["none"]}), Reason::DatabaseNotInCopy),
        (json!({"rename": {"none": "x"}}), Reason::DatabaseNotInCopy),
        (json!({"rename": {"full": "postgres"}}), Reason::InvalidSpec),
        (json!({"rename": {"full": "holdfast-x"}}), Reason::InvalidSpec),
    ] {
        let (why, message, _) = reason(
            scene
                .restore("pod-4", &scene.restore_task("bad", "run-1", &json!({"select": select})))
                .await,
        );
        assert_eq!(why, expected, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_touched_with_a_wrong_key_or_a_damaged_part() {
    let scene = Scene::new();
    scene
        .server
        .create("precious", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["precious"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE precious");
    let request = scene.restore_task("r", "run-1", &nothing());
    let identity = scene.places().identity.join("identity");
    let right = std::fs::read_to_string(&identity).unwrap();
    let wrong = age::x25519::Identity::generate();
    std::fs::write(&identity, wrong.to_string().expose_secret()).unwrap();
    let (why, message, closed) = reason(scene.restore("pod-2", &request).await);
    assert_eq!((why, closed), (Reason::WrongKey, true), "{message}");
    std::fs::remove_file(&identity).unwrap();
    assert_eq!(reason(scene.restore("pod-2", &request).await).0, Reason::KeyMissing);
    std::fs::write(&identity, right).unwrap();

    let objects = scene.memory.objects();
    let part = objects
        .keys()
        .find(|path| path.contains("db0001") && path.contains("00001"))
        .unwrap();
    scene.memory.damage(part, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let (why, message, closed) = reason(scene.restore("pod-2", &request).await);
    assert_eq!((why, closed), (Reason::CopyCorrupt, true), "{message}");
    // … unless the store says that it was removed: then that is what happened to it.
    scene.plant_removal("run-1");
    let (why, message, closed) = reason(scene.restore("pod-2", &request).await);
    assert_eq!((why, closed), (Reason::CopyRemoved, true), "{message}");
    assert!(
        message.starts_with("it was removed at 2026-04-20T08:00:00Z (retention): "),
        "{message}"
    );
    assert_eq!(scene.databases("precious"), "");
    assert_eq!(scene.beside("pod-2"), "");
    let pinned = json!({"manifestDigest": "0".repeat(64)});
    assert_eq!(
        reason(scene.restore("pod-2", &scene.restore_task("r", "run-1", &pinned)).await).0,
        Reason::Tampered
    );
    assert_eq!(
        reason(scene.restore("pod-2", &scene.restore_task("r", "run-2", &nothing())).await).0,
        Reason::CopyNotFound
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_roles_fail_are_left_out_or_made() {
    let scene = Scene::new();
    scene.server.create(
        "roles",
        "DROP ROLE IF EXISTS gone_owner; CREATE ROLE gone_owner LOGIN PASSWORD 'x' CONNECTION LIMIT 3; CREATE TABLE t (); ALTER TABLE t OWNER TO gone_owner;
         GRANT SELECT ON t TO PUBLIC;",
    );
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["roles"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE roles; DROP ROLE gone_owner;");
    let with = |policy: &str| json!({"missingRoles": policy});
    let (why, message, _) = reason(scene.restore("pod-2", &scene.restore_task("fail", "run-1", &with("Fail"))).await);
    assert_eq!(why, Reason::RolesMissing);
    assert!(message.contains("gone_owner ("), "{message}");
    assert_eq!(scene.databases("roles"), "");

    let result = scene
        .restore("pod-3", &scene.restore_task("skip", "run-1", &with("Skip")))
        .await
        .unwrap();
    let skipped = result.restored.unwrap().skipped;
    assert!(skipped.iter().any(|note| note.contains("owner gone_owner of")), "{skipped:?}");
    let owner = "SELECT pg_get_userbyid(relowner) || ' ' || array_to_string(relacl, ',') LIKE '%=r/%' FROM pg_class WHERE relname = 't'";
    assert_eq!(
        scene
            .server
            .sql("roles", "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 't'"),
        "postgres",
        "{owner}"
    );
    scene.server.sql("postgres", "DROP DATABASE roles");

    let result = scene
        .restore("pod-4", &scene.restore_task("create", "run-1", &with("Create")))
        .await
        .unwrap();
    assert!(
        result
            .restored
            .unwrap()
            .skipped
            .iter()
            .any(|note| note.contains("created roles gone_owner"))
    );
    assert_eq!(
        scene
            .server
            .sql("roles", "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 't'"),
        "gone_owner"
    );
    let role = scene.server.sql(
        "postgres",
        "SELECT rolcanlogin, rolconnlimit, rolpassword LIKE 'SCRAM%' FROM pg_authid WHERE rolname = 'gone_owner'",
    );
    assert_eq!(role, "t|3|t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_pod_left_beside_is_dropped_and_what_a_live_one_works_on_is_not() {
    let scene = Scene::new();
    scene.server.create("beside", "CREATE TABLE t AS SELECT 1 AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["beside"], &nothing()))
        .await
        .unwrap();
    let request = scene.restore_task("r", "run-1", &json!({"select": {"rename": {"beside": "beside_new"}}}));
    let identity = |pod: &str| Identity {
        digest: request.digest.clone(),
        namespace: "shop".to_owned(),
        request: "r".to_owned(),
        copy: request.path.clone(),
        pod: scene.pod(pod),
    };
    let live = session(&scene, "postgres").await;
    for (session, pod) in [(&session(&scene, "postgres").await, "pod-dead"), (&live, "pod-live")] {
        let identity = identity(pod);
        receipt::begin(session, &identity).await.unwrap();
        receipt::note(session, &identity, &format!("holdfast-{}-0", scene.pod(pod)), "beside_new")
            .await
            .unwrap();
        session
            .run("make", &format!("CREATE DATABASE \"holdfast-{}-0\"", scene.pod(pod)))
            .await
            .unwrap();
    }
    // The dead one had also closed the empty database that it was about to replace.
    scene.server.sql(
        "postgres",
        "DROP DATABASE IF EXISTS beside_new; CREATE DATABASE beside_new ALLOW_CONNECTIONS false",
    );
    let result = scene.restore("pod-new", &request).await.unwrap();
    assert_eq!(result.reason, Reason::Succeeded);
    assert_eq!(scene.beside("pod-"), format!("holdfast-{}-0", scene.pod("pod-live")));
    assert_eq!(scene.server.sql("beside_new", "SELECT count(*) FROM t"), "1");
    receipt::clean(&live, &receipt::leftovers(&live, &identity("pod-live")).await.unwrap())
        .await
        .unwrap();
    assert_eq!(scene.beside("pod-live"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pods_of_one_request_one_restores() {
    let scene = Scene::new();
    scene.server.create("twice", "CREATE TABLE t AS SELECT 1 AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["twice"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE twice");
    let request = scene.restore_task("r", "run-1", &nothing());
    let results = tokio::join!(scene.restore("pod-twice-a", &request), scene.restore("pod-twice-b", &request));
    let reasons = [results.0, results.1].map(|result| result.map_or_else(|failure| failure.reason, |result| result.reason));
    assert!(reasons.contains(&Reason::Succeeded), "{reasons:?}");
    // The other finds the receipt at the end, or the database at the beginning.
    assert!(
        reasons.contains(&Reason::AlreadyDone) || reasons.contains(&Reason::TargetNotEmpty),
        "{reasons:?}"
    );
    assert_eq!(scene.beside("pod-twice"), "");
    assert_eq!(scene.server.sql("twice", "SELECT count(*) FROM t"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_asked_to_stop_drops_what_it_made() {
    let scene = Scene::new();
    scene.server.create("halted", "CREATE TABLE t AS SELECT 1 AS id");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["halted"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE halted");
    // It loads nothing and waits.
    let places = scene.tool(
        "pg_restore",
        "#!/bin/bash\n[ \"$1\" = --version ] && exec $REAL --version\ncat > /dev/null\nexec sleep 1000\n",
    );
    let request = scene.restore_task("r", "run-1", &nothing());
    let invocation = Invocation {
        places,
        ..scene.invocation("pod-halt", Action::Restore(request.clone()))
    };
    let store = scene.store();
    let stop = async {
        while scene.beside("pod-halt").is_empty() {
            tokio::task::yield_now().await;
        }
        invocation.cancel.cancel();
    };
    let started = std::time::Instant::now();
    let (result, ()) = tokio::join!(restore::run_with(&invocation, &request, &store), stop);
    let (why, _, closed) = reason(result);
    assert_eq!((why, closed), (Reason::Interrupted, true));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(
        (scene.beside("pod-halt"), scene.databases("halted")),
        (String::new(), String::new())
    );
    scene.restore("pod-next", &request).await.unwrap();
    assert_eq!(scene.server.sql("halted", "SELECT count(*) FROM t"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_another_encoding_comes_back_with_its_names_and_comments() {
    let scene = Scene::new();
    scene.server.sql("postgres", "DROP DATABASE IF EXISTS latin WITH (FORCE)");
    scene.server.sql(
        "postgres",
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    scene.server.sql(
        "latin",
        "SET client_encoding = 'UTF8'; CREATE TABLE \"größe\" (t text); INSERT INTO \"größe\" VALUES ('ä'), ('Ã©'); COMMENT ON DATABASE latin IS 'für später';",
    );
    let before = scene.server.sql(
        "latin",
        "SET client_encoding = 'UTF8'; SELECT md5(string_agg(t, ',')) FROM \"größe\"",
    );
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["latin"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE latin");
    let result = scene
        .restore("pod-2", &scene.restore_task("r", "run-1", &nothing()))
        .await
        .unwrap()
        .restored
        .unwrap();
    assert_eq!((result.tables, result.rows, &result.skipped), (1, 2, &vec![]));
    assert_eq!(
        scene.server.sql(
            "latin",
            "SET client_encoding = 'UTF8'; SELECT md5(string_agg(t, ',')) FROM \"größe\""
        ),
        before
    );
    let comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'latin'";
    assert_eq!(scene.server.sql("postgres", comment), "für später");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maintenance_database_is_left_as_it_is_where_the_copy_of_it_holds_nothing() {
    let scene = Scene::new();
    scene.server.create("all_of_it", "CREATE TABLE t AS SELECT 1 AS id");
    // A restore has left its receipt there.
    scene.server.sql("postgres", "CREATE SCHEMA IF NOT EXISTS holdfast");
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["postgres", "all_of_it"], &nothing()))
        .await
        .unwrap();
    scene.server.sql("postgres", "DROP DATABASE all_of_it");
    let restored = scene
        .restore("pod-2", &scene.restore_task("r", "run-1", &nothing()))
        .await
        .unwrap()
        .restored
        .unwrap();
    assert_eq!(restored.database_names, ["all_of_it"]);
    assert!(
        restored
            .skipped
            .iter()
            .any(|note| note.starts_with("database postgres holds nothing")),
        "{:?}",
        restored.skipped
    );
    let alone = json!({"select": {"databases": ["postgres"]}});
    assert_eq!(
        reason(scene.restore("pod-3", &scene.restore_task("alone", "run-1", &alone)).await).0,
        Reason::DatabaseNotInCopy
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_erased_stays_erased_by_queries_of_the_request_or_nothing_is_put_in_place() {
    let scene = Scene::new();
    scene.server.create(
        "erased",
        "CREATE TABLE customers AS SELECT id, 'secret of ' || id AS name FROM generate_series(1, 10) AS id",
    );
    scene
        .backup("pod-1", &scene.backup_task("run-1", &["erased"], &nothing()))
        .await
        .unwrap();
    let queries = |queries: Value| json!({"select": {"rename": {"erased": "erased_again"}}, "postRestore": queries});
    let query = |name: &str, query: &str| json!({"name": name, "database": "erased", "query": query});

    let other = queries(json!([{"name": "case-1", "database": "erased_again", "query": "SELECT 1"}]));
    let (why, message, closed) = reason(scene.restore("pod-2", &scene.restore_task("other", "run-1", &other)).await);
    assert_eq!((why, closed), (Reason::DatabaseNotInCopy, true), "{message}");
    assert!(
        message.contains("postRestore case-1 is for the database erased_again, which is not restored; expected one of erased"),
        "{message}"
    );

    let erase = query(
        "case-1",
        "DELETE FROM public.customers WHERE id = 4; UPDATE public.customers SET name = '' WHERE id = 5",
    );
    let fails = queries(json!([erase, query("case-2", "DELETE FROM public.clients")]));
    let (why, message, closed) = reason(scene.restore("pod-3", &scene.restore_task("fails", "run-1", &fails)).await);
    assert_eq!((why, closed), (Reason::PostRestoreFailed, true), "{message}");
    assert!(
        message.contains("postRestore case-2") && message.contains("\"public.clients\" does not exist"),
        "{message}"
    );
    assert_eq!(
        (scene.databases("erased_again"), scene.beside("pod-3")),
        (String::new(), String::new())
    );

    // One that ends in the middle of a transaction of its own is carried out as well.
    let open = query("case-3", "BEGIN; DELETE FROM public.customers WHERE name = 'secret of 7'");
    let request = scene.restore_task("erases", "run-1", &queries(json!([erase, open])));
    let restored = scene.restore("pod-4", &request).await.unwrap().restored.unwrap();
    assert_eq!(
        (restored.rows, restored.post_restore),
        (10, vec!["case-1".to_owned(), "case-3".to_owned()])
    );
    let left = "SELECT count(*), count(*) FILTER (WHERE id IN (4, 7)), string_agg(name, ',') FILTER (WHERE id = 5) FROM customers";
    assert_eq!(scene.server.sql("erased_again", left), "8|0|");
    assert_eq!(scene.server.sql("erased", "SELECT count(*) FROM customers"), "10");
}

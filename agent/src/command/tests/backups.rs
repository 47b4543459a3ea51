//! Backups: what ends early, what is stopped, and every call to the store.

use jiff::Timestamp;

use super::*;
use crate::store::faulty::{Call, CallKind};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f58_a_dump_that_ends_early_is_never_committed() {
    let scene = Scene::new();
    scene
        .server
        .create("early", "CREATE TABLE t AS SELECT generate_series(1, 20000) AS id");
    let version = "[ \"$1\" = --version ] && exec $REAL --version";
    for (run, script, expected, words) in [
        (
            "cut",
            format!("#!/bin/bash\n{version}\n$REAL \"$@\" | head -c 60000\nexit 0\n"),
            Reason::DumpTruncated,
            "ends at byte 60000",
        ),
        (
            "killed",
            format!("#!/bin/bash\n{version}\n$REAL \"$@\" | head -c 60000\nkill -KILL $$\n"),
            Reason::DumpFailed,
            "was killed by signal 9",
        ),
        (
            "failed",
            format!("#!/bin/bash\n{version}\n$REAL \"$@\"\necho 'pg_dump: error: late' >&2\nexit 1\n"),
            Reason::DumpFailed,
            "pg_dump: error: late",
        ),
        (
            "nothing",
            format!("#!/bin/bash\n{version}\nexit 0\n"),
            Reason::DumpTruncated,
            "ends at byte 0",
        ),
    ] {
        let places = scene.tool("pg_dump", &script);
        let task = scene.backup_task(run, &["early"], &nothing());
        let invocation = Invocation {
            places,
            ..scene.invocation("pod-1", Action::Backup(task.clone()))
        };
        let (why, message, closed) = reason(backup::run_with(&invocation, &task, &scene.store()).await);
        assert_eq!((why, closed), (expected, false), "{run}: {message}");
        assert!(message.contains(words), "{run}: {message}");
        assert!(
            scene
                .store()
                .outcome(&RunPath::new("shop", "shop", run).unwrap())
                .await
                .unwrap()
                .is_none()
        );
        assert_eq!(scene.memory.open_uploads(), 0, "{run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_failure_is_final_in_the_register_and_no_zombie_commits_after() {
    let scene = Scene::new();
    scene.server.create("zombie", "CREATE TABLE t AS SELECT 1 AS id");
    let right = std::fs::read_to_string(scene.places().login.join("password")).unwrap();
    write(&scene.places().login.join("password"), "wrong");
    let (why, _, closed) = reason(scene.backup("pod-1", &scene.backup_task("run-1", &["zombie"], &nothing())).await);
    assert_eq!((why, closed), (Reason::DatabaseLoginFailed, false));
    let last = scene.backup_task("run-1", &["zombie"], &json!({"attempt": 3, "final": true}));
    let (why, _, closed) = reason(scene.backup("pod-3", &last).await);
    assert_eq!((why, closed), (Reason::DatabaseLoginFailed, true));
    write(&scene.places().login.join("password"), &right);
    let (why, message, closed) = reason(scene.backup("pod-1", &scene.backup_task("run-1", &["zombie"], &nothing())).await);
    assert_eq!((why, closed), (Reason::Abandoned, true));
    assert!(message.contains("DatabaseLoginFailed"), "{message}");

    // Given up while it was reading.
    let invocation = scene.invocation("pod-4", Action::Backup(last.clone()));
    let task = scene.backup_task("run-2", &["zombie"], &nothing());
    let holder = hold_lock(&scene, "zombie").await;
    let store = scene.store();
    let work = backup::run_with(&invocation, &task, &store);
    let give_up = async {
        wait_for_lock(&scene, "pod-4").await;
        let pinned = store.claim("cluster", "shop/offsite").await.unwrap();
        let abandonment = Abandonment {
            reason: "Cancelled".to_owned(),
            message: String::new(),
        };
        store
            .abandon(
                &RunPath::new("shop", "shop", "run-2").unwrap(),
                &invocation.pod,
                abandonment,
                &pinned,
            )
            .await
            .unwrap();
        drop(holder);
    };
    let (result, ()) = tokio::join!(work, give_up);
    assert_eq!(reason(result).0, Reason::Abandoned);

    // Its time is over before it could begin.
    let late = scene.backup_task("run-3", &["zombie"], &json!({"notAfter": "2026-01-01T00:00:00Z"}));
    assert_eq!(reason(scene.backup("pod-5", &late).await).0, Reason::DeadlineExceeded);
    // Another cluster owns the place.
    let mut foreign = scene.invocation("pod-6", Action::Backup(task.clone()));
    foreign.task.cluster = "another".to_owned();
    assert_eq!(
        reason(backup::run_with(&foreign, &task, &scene.store()).await).0,
        Reason::StoreForeign
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_to_stop_ends_in_time_and_leaves_nothing() {
    let scene = Scene::new();
    scene.server.create("stopped", "CREATE TABLE t AS SELECT 1 AS id");
    let holder = hold_lock(&scene, "stopped").await;
    let task = scene.backup_task("run-1", &["stopped"], &json!({"final": true}));
    let invocation = scene.invocation("pod-stop", Action::Backup(task.clone()));
    let store = scene.store();
    let stop = async {
        wait_for_lock(&scene, "pod-stop").await;
        invocation.cancel.cancel();
    };
    let started = std::time::Instant::now();
    let (result, ()) = tokio::join!(backup::run_with(&invocation, &task, &store), stop);
    assert_eq!(reason(result).0, Reason::Interrupted);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let left = &format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast {}%'",
        scene.pod("pod-stop")
    );
    let watcher = session(&scene, "postgres").await;
    while watcher.row("look", left).await.unwrap().number(0) > 0 {
        tokio::task::yield_now().await;
    }
    drop(holder);
    assert_eq!(scene.memory.open_uploads(), 0);
    assert!(
        store
            .outcome(&RunPath::new("shop", "shop", "run-1").unwrap())
            .await
            .unwrap()
            .is_none(),
        "a settle Job decides"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passphrase_is_applied_by_the_init_container_and_nothing_is_said_of_no_encryption() {
    let mut scene = Scene::new();
    scene.server.create("phrase", "CREATE TABLE t AS SELECT 1 AS id");
    scene.encryption = json!({"passphrase": {"secretName": "p"}});
    let task = scene.backup_task("run-1", &["phrase"], &nothing());
    std::fs::remove_file(scene.places().identity.join("identity")).unwrap();
    std::fs::create_dir_all(scene.places().key).unwrap();
    assert_eq!(reason(scene.backup("pod-1", &task).await).0, Reason::SecretKeyMissing);
    write(&scene.places().identity.join("passphrase"), "correct horse\n");
    let sealed = key::run(Arc::new(scene.invocation("pod-1", Action::Backup(task.clone()))))
        .await
        .unwrap();
    assert_eq!(sealed.reason, Reason::Succeeded);
    // The main container never sees the passphrase.
    std::fs::remove_file(scene.places().identity.join("passphrase")).unwrap();
    scene.backup("pod-1", &task).await.unwrap();
    assert!(!scene.places().key.join("run-key").exists());
    write(&scene.places().identity.join("passphrase"), "wrong");
    let request = scene.restore_task("r", "run-1", &json!({"select": {"rename": {"phrase": "phrase_new"}}}));
    scene.server.sql("postgres", "DROP DATABASE IF EXISTS phrase_new");
    assert_eq!(reason(scene.restore("pod-2", &request).await).0, Reason::WrongKey);
    write(&scene.places().identity.join("passphrase"), "correct horse");
    scene.restore("pod-2", &request).await.unwrap();
    assert_eq!(scene.server.sql("phrase_new", "SELECT count(*) FROM t"), "1");

    scene.encryption = json!({"none": {}});
    let result = scene
        .backup("pod-3", &scene.backup_task("run-2", &["phrase"], &nothing()))
        .await
        .unwrap();
    assert!(
        result
            .copy
            .unwrap()
            .notes
            .iter()
            .any(|note| note.contains("the store is not encrypted"))
    );
    let globals = scene
        .memory
        .objects()
        .into_iter()
        .find(|(path, _)| path.ends_with("/globals/00001.zst"))
        .unwrap()
        .1;
    let globals = String::from_utf8(zstd::decode_all(&globals[..]).unwrap()).unwrap();
    assert!(globals.contains("CREATE ROLE postgres") && !globals.contains("SCRAM"), "{globals}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_new_gone_or_left_out_since_the_last_copy_is_told() {
    let scene = Scene::new();
    for database in ["told_a", "told_b", "told_c"] {
        scene.server.create(database, "CREATE TABLE t ()");
    }
    let first = scene
        .backup("pod-1", &scene.backup_task("run-1", &["told_a", "told_b"], &nothing()))
        .await
        .unwrap();
    assert!(first.copy.unwrap().notes.iter().all(|note| !note.contains("since")));
    scene.server.sql("postgres", "DROP DATABASE told_b");
    let mut task = scene.backup_task("run-2", &["told_*"], &nothing());
    task.spec.postgresql.as_mut().unwrap().databases.exclude = vec!["told_a".to_owned()];
    let notes = scene.backup("pod-2", &task).await.unwrap().copy.unwrap().notes;
    assert!(notes.contains(&"new since run-1: told_c".to_owned()), "{notes:?}");
    assert!(notes.contains(&"gone since run-1: told_b".to_owned()), "{notes:?}");
    assert!(notes.contains(&"excluded: told_a".to_owned()), "{notes:?}");
}

/// Policy T8: who judges the copy later finds in it by what it is kept, though nothing else of the cluster is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifest_says_by_what_the_copy_is_kept() {
    let scene = Scene::new();
    scene.server.create("kept", "CREATE TABLE t ()");
    let tick = json!({"tick": {"schedule": "gold", "trigger": "nightly", "time": "2026-03-01T02:00:00Z", "generation": 3}});
    let by_hand = json!({"schedule": {"name": "gold", "generation": 3, "attempts": 1, "timeout": "6h"}});
    for (run, more, kept_for, schedule) in [
        ("by-hand", json!({"keepFor": "30d"}), Some("30d"), None),
        ("now", by_hand, None, Some((None, 3))),
        ("nightly", tick, None, Some((Some("nightly"), 3))),
    ] {
        let task = scene.backup_task(run, &["kept"], &more);
        scene.backup("pod-1", &task).await.unwrap();
        let decided = scene
            .store()
            .outcome(&RunPath::new("shop", "shop", run).unwrap())
            .await
            .unwrap()
            .unwrap();
        let manifest = &decided.outcome.committed().unwrap().manifest();
        assert_eq!(manifest.run.keep_for.map(|kept| kept.to_string()).as_deref(), kept_for, "{run}");
        let found = manifest
            .schedule
            .as_ref()
            .map(|schedule| (schedule.trigger.as_deref(), schedule.generation));
        assert_eq!(found, schedule, "{run}");
    }
}

/// F02, F30, F34: a run is tried once and its calls to the store are counted; then for each call it is tried again with each fault in it,
/// and after it once more by another pod with empty memory. The end is the same as without a fault: one outcome, and all that it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_at_any_call_to_the_store_the_next_attempt_ends_with_one_whole_copy() {
    let mut scene = Scene::new();
    scene
        .server
        .create("every_call", "CREATE TABLE t AS SELECT generate_series(1, 100) AS id");
    let archive = scene.root.path().join("archive");
    std::fs::write(&archive, scene.server.dump("every_call", &[])).unwrap();
    let version = "[ \"$1\" = --version ] && exec $REAL --version";
    let places = scene.tool("pg_dump", &format!("#!/bin/sh\n{version}\nexec cat {}\n", archive.display()));
    let mut task = scene.backup_task("run-1", &["every_call"], &nothing());
    task.spec.postgresql.as_mut().unwrap().globals = holdfast_crds::Globals::Skip;
    let soon = Patience {
        total: Duration::from_millis(500),
        first: Duration::from_millis(1),
        longest: Duration::from_millis(5),
        rotation: Duration::ZERO,
    };
    let run = RunPath::new("shop", "shop", "run-1").unwrap();
    let attempt = async |scene: &Scene, pod: &str, store: &Store| {
        let invocation = Invocation {
            places: places.clone(),
            ..scene.invocation(pod, Action::Backup(task.clone()))
        };
        backup::run_with(&invocation, &task, store).await
    };
    let counting = Faulty::none(scene.memory.clone());
    attempt(&scene, "pod-0", &Store::new(counting.clone(), soon, 2)).await.unwrap();
    let calls = counting.calls();
    assert!(calls.len() > 10, "{calls:?}");
    for (index, call) in calls.iter().enumerate() {
        for fault in [
            Fault::CrashBefore,
            Fault::CrashAfter,
            Fault::Before(Fault::slow_down()),
            Fault::Before(Fault::reset()),
            Fault::After(Fault::reset()),
            Fault::Flip,
            Fault::Break,
        ] {
            let told = format!("{fault:?} at {call:?}");
            scene.memory = Memory::new();
            let first = attempt(
                &scene,
                "pod-1",
                &Store::new(Faulty::at(scene.memory.clone(), index, fault), soon, 2),
            )
            .await;
            let store = scene.store();
            let second = attempt(&scene, "pod-2", &store)
                .await
                .unwrap_or_else(|failure| panic!("{told}: {failure:?}"));
            assert!(second.closed, "{told}");
            if let Ok(first) = first {
                assert_eq!(second.reason, Reason::AlreadyDone, "{told}");
                assert_eq!(first.copy.unwrap().manifest_digest, second.copy.unwrap().manifest_digest, "{told}");
            }
            assert_eq!(scene.memory.versions_of(&run.outcome().to_string()), 1, "{told}");
            let decided = store.outcome(&run).await.unwrap().unwrap();
            let objects = scene.memory.objects();
            for stored in decided.outcome.committed().unwrap().stored() {
                assert_eq!(
                    holdfast_crds::document::Sha256::of(&objects[&stored.path]),
                    stored.sha256,
                    "{told}: {}",
                    stored.path
                );
            }
        }
    }
}

const HIDDEN: &str = "
    DROP ROLE IF EXISTS hidden_backup; CREATE ROLE hidden_backup LOGIN PASSWORD 'p'; GRANT pg_read_all_data TO hidden_backup;
    CREATE TABLE t AS SELECT 1 AS id; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE there (id integer) SERVER far;
    CREATE USER MAPPING FOR hidden_backup SERVER far; CREATE USER MAPPING FOR postgres SERVER far OPTIONS (password 'geheim');
    CREATE PUBLICATION p; CREATE SUBSCRIPTION one CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false); CREATE SUBSCRIPTION two CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dump_leaves_out_of_a_database_is_in_the_manifest_and_in_the_notes() {
    let scene = Scene::new();
    scene.server.create("hidden", HIDDEN);
    let foreign = "hidden: without rows of foreign tables public.there: they are those of another server".to_owned();
    let task = |run: &str| scene.backup_task(run, &["hidden"], &nothing());
    let notes = scene.backup("pod-1", &task("run-1")).await.unwrap().copy.unwrap().notes;
    assert!(
        notes.contains(&foreign) && notes.iter().all(|note| !note.contains("superuser")),
        "{notes:?}"
    );

    write(&scene.places().login.join("username"), "hidden_backup");
    write(&scene.places().login.join("password"), "p");
    let told = |notes: &[String]| {
        for left in ["subscriptions one, two", "options and passwords of user mappings postgres at far"] {
            let note = format!("hidden: without {left}: pg_dump has them only for superusers");
            assert!(notes.contains(&note), "{note} is not in {notes:?}");
        }
        assert!(notes.contains(&foreign), "{notes:?}");
    };
    told(&scene.backup("pod-2", &task("run-2")).await.unwrap().copy.unwrap().notes);
    // Whoever finds the copy later learns it from the manifest.
    let again = scene.backup("pod-3", &task("run-2")).await.unwrap();
    assert_eq!(again.reason, Reason::AlreadyDone);
    told(&again.copy.unwrap().notes);
    // Who cannot read the catalog can only suspect.
    scene.server.sql(
        "hidden",
        "REVOKE pg_read_all_data FROM hidden_backup; GRANT SELECT ON t, there TO hidden_backup",
    );
    let notes = scene.backup("pod-4", &task("run-3")).await.unwrap().copy.unwrap().notes;
    let suspected = "hidden: without options and passwords, if any, of user mappings ";
    assert!(notes.iter().any(|note| note.starts_with(suspected)), "{notes:?}");
    scene.server.sql("hidden", "ALTER SUBSCRIPTION one SET (slot_name = NONE); ALTER SUBSCRIPTION two SET (slot_name = NONE); DROP SUBSCRIPTION one; DROP SUBSCRIPTION two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_of_an_unknown_format_is_copied_and_its_missing_proof_is_told() {
    let scene = Scene::new();
    scene.server.create("future", "CREATE TABLE t AS SELECT 1 AS id");
    // Format 1.17: nobody has written one yet.
    let script = "#!/bin/bash\n[ \"$1\" = --version ] && exec $REAL --version\n$REAL \"$@\" | { head -c 5; head -c 3 > /dev/null; printf '\\001\\021\\000'; cat; }\nexit ${PIPESTATUS[0]}\n";
    let places = scene.tool("pg_dump", script);
    let task = scene.backup_task("run-1", &["future"], &nothing());
    let invocation = Invocation {
        places,
        ..scene.invocation("pod-1", Action::Backup(task.clone()))
    };
    let copy = backup::run_with(&invocation, &task, &scene.store()).await.unwrap().copy.unwrap();
    assert_eq!((copy.structure_checked, copy.rows), (false, None));
    let told = |notes: &[String]| {
        let note = "future: without the proof of its structure, and the numbers of rows: the archive has format 1.17";
        assert!(notes.iter().any(|found| found.starts_with(note)), "{notes:?}");
    };
    told(&copy.notes);
    told(&scene.backup("pod-2", &task).await.unwrap().copy.unwrap().notes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_under_the_name_of_a_removed_copy_fails_and_says_so() {
    let scene = Scene::new();
    scene.server.create("again", "CREATE TABLE t AS SELECT 1 AS id");
    let task = scene.backup_task("before-upgrade", &["again"], &nothing());
    scene.backup("pod-1", &task).await.unwrap();
    scene.plant_removal("before-upgrade");
    let expected = "it was removed at 2026-04-20T08:00:00Z (retention); choose another name";
    let (why, message, closed) = reason(scene.backup("pod-2", &task).await);
    assert_eq!((why, closed), (Reason::CopyRemoved, true));
    assert!(message.contains(expected), "{message}");
    let task = holdfast_crds::SettleTask {
        run: "before-upgrade".into(),
        source: "shop".into(),
        tick: None,
        gives_up: true,
        reason: Reason::NodeLost,
        message: String::new(),
    };
    let invocation = scene.invocation("pod-3", Action::Settle(task.clone()));
    let (why, message, closed) = reason(super::super::settle::run_with(&invocation, &task, &scene.store()).await);
    assert_eq!((why, closed), (Reason::CopyRemoved, true));
    assert!(message.contains(expected), "{message}");
}

/// F04: the put of the outcome sleeps until its run was given up or removed, swept, and forgotten by the register. The store counts that copy for
/// nothing, and the pod does not call it a success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_a_pod_whose_outcome_lands_after_all_was_swept_says_so() {
    let scene = Scene::new();
    scene.server.create("asleep", "CREATE TABLE t AS SELECT 1 AS id");
    let not_after: Timestamp = "2126-01-01T00:00:00Z".parse().unwrap();
    for (run, swept, recorded, expected) in [
        ("late", false, false, None),
        (
            "swept",
            true,
            false,
            Some((Reason::CopyCorrupt, "is not there: the outcome landed after")),
        ),
        ("removed", true, true, Some((Reason::CopyRemoved, "it was removed at"))),
    ] {
        let memory = Memory::new();
        let path = RunPath::new("shop", "shop", run).unwrap();
        let fact = Fact::Removed {
            reason: "retention".to_owned(),
            mark: None,
        };
        let keeper = Label::new("pod", "keeper").unwrap();
        let removed = Record::new(path.clone(), Ulid::new(not_after, [7; 10]), keeper, not_after, None, fact);
        let world = memory.clone();
        let asleep = Faulty::new(memory.clone(), move |call: &Call| {
            if call.kind == CallKind::Create && call.path.ends_with("outcome.json") {
                world.set_clock(not_after + Duration::from_hours(60 * 24));
                if swept {
                    let objects = world.objects().into_keys();
                    objects
                        .filter(|path| path.starts_with("data/"))
                        .for_each(|path| world.remove(&path));
                }
                if recorded {
                    world.plant(&removed.path().to_string(), removed.to_bytes());
                }
            }
            None
        });
        let task = scene.backup_task(run, &["asleep"], &json!({"final": true}));
        let invocation = scene.invocation("pod-1", Action::Backup(task.clone()));
        let result = backup::run_with(&invocation, &task, &Store::new(asleep, Patience::PROBE, 2)).await;
        assert!(memory.objects().contains_key(&path.outcome().to_string()), "{run}: it landed");
        // Whoever meets that outcome later is told the same.
        let store = Store::new(memory, Patience::PROBE, 2);
        let again = backup::run_with(&scene.invocation("pod-2", Action::Backup(task.clone())), &task, &store).await;
        let Some((reason_, words)) = expected else {
            assert_eq!(
                (result.unwrap().reason, again.unwrap().reason),
                (Reason::Succeeded, Reason::AlreadyDone)
            );
            continue;
        };
        for told in [result, again] {
            let (why, message, closed) = reason(told);
            assert_eq!((why, closed), (reason_, true), "{run}: {message}");
            assert!(message.contains(words), "{run}: {message}");
        }
    }
}

//! Servers that follow another, crash, or lose a database meanwhile.

use super::*;

#[tokio::test]
async fn f57_a_standby_is_copied_and_its_lag_is_in_the_recovery_point() {
    let pod = Pod::new();
    let primary = TestServer::start(&[]);
    primary.create(
        "followed",
        "CREATE TABLE t AS SELECT generate_series(1, 10) AS id; CREATE UNLOGGED TABLE u AS SELECT 1 AS id",
    );
    let standby = TestServer::standby_of(&primary, &[]);
    let none = serde_json::json!({"mode": "Disable"});
    let access = pod.access(&[&standby.address(), &primary.address()], none);
    let (session, found) = look(&pod, &access, &databases(&["followed"], &[])).await.unwrap();
    assert_eq!(session.host.to_string(), standby.address());
    assert!(found.server.standby);
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("is a standby; what it has replayed is about")),
        "{:?}",
        found.notes
    );
    let contents = dump(&pod, &standby, "followed", Span::from_seconds(5)).await.unwrap();
    assert_eq!(
        contents.tables.len(),
        1,
        "a standby has no rows of unlogged tables: {:?}",
        contents.tables
    );
    assert_eq!(contents.tables[0].rows, Some(10));
    let left = |server: &TestServer| {
        let access = pod.plain(server);
        async move {
            let facts = describe(&access.connect_again(&access.hosts[0], "followed").await.unwrap())
                .await
                .unwrap();
            facts.not_copied.into_iter().map(|left| left.name).collect::<Vec<_>>()
        }
    };
    assert_eq!(left(&standby).await, ["rows of unlogged tables public.u"]);
    assert!(left(&primary).await.is_empty());
    // A target must take writes.
    assert_eq!(access.connect(Wanted::Primary).await.unwrap().host.to_string(), primary.address());

    // Replay stops; what the primary commits from now on is not in a copy, and its recovery point says so.
    standby.sql("postgres", "SELECT pg_wal_replay_pause()");
    while standby.sql("postgres", "SELECT pg_get_wal_replay_pause_state()") != "paused" {
        tokio::task::yield_now().await;
    }
    let committed = primary.sql("followed", "INSERT INTO t VALUES (11); SELECT pg_current_wal_flush_lsn()");
    while standby.sql(
        "postgres",
        &format!("SELECT latest_end_lsn >= '{committed}' FROM pg_stat_wal_receiver"),
    ) != "t"
    {
        tokio::task::yield_now().await;
    }
    let (_, first) = look(&pod, &access, &databases(&["followed"], &[])).await.unwrap();
    let (_, again) = look(&pod, &access, &databases(&["followed"], &[])).await.unwrap();
    assert_eq!(
        first.server.recovery_point, again.server.recovery_point,
        "it stands still while nothing is replayed"
    );
    let contents = dump(&pod, &standby, "followed", Span::from_seconds(5)).await.unwrap();
    assert_eq!(contents.tables[0].rows, Some(10));
}

#[tokio::test]
async fn f50_a_server_that_crashes_during_the_dump_is_a_lost_connection() {
    let pod = Pod::new();
    let server = TestServer::start(&[]);
    server.create("crashing", "CREATE TABLE t ()");
    let access = pod.plain(&server);
    let holder = access.connect_again(&access.hosts[0], "crashing").await.unwrap();
    holder
        .run("lock", "BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let dump = Dump::of_database(&pod.tools(), &access, &access.hosts[0], "crashing", Span::from_minutes(5)).unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'crashing' AND wait_event_type = 'Lock'";
    while server.sql("postgres", waits) == "0" {
        tokio::task::yield_now().await;
    }
    server.crash();
    let (reason, message) = failed(dump.finish().await);
    assert_eq!(reason, Reason::DatabaseConnectionLost, "{message}");
    assert_eq!(failed(holder.run("look", "SELECT 1").await).0, Reason::DatabaseConnectionLost);
    assert_eq!(failed(access.connect(Wanted::Any).await).0, Reason::DatabaseUnreachable);
}

#[tokio::test]
async fn a_database_that_vanishes_is_told_and_the_others_are_copied() {
    use crate::engine::streaming::{Finished, Streaming};
    let (server, pod) = (TestServer::shared(), Pod::new());
    for database in ["vanish_1", "vanish_2", "vanish_3", "vanish_4"] {
        server.create(database, "CREATE TABLE t AS SELECT 1 AS id");
    }
    let spec = serde_json::json!({"hosts": [server.address()], "version": major(), "credentials": {"secretName": "login"}, "tls": {"mode": "Disable"},
        "databases": {"include": ["vanish_*"]}, "globals": "Skip"});
    let mut source =
        super::super::source::Source::new(&serde_json::from_value(spec).unwrap(), &pod.files(), pod.tools(), "holdfast vanish").unwrap();
    let found = source.preflight(true).await.unwrap();
    assert_eq!(found.streams.len(), 4);
    // Before it is opened.
    server.sql("postgres", "DROP DATABASE vanish_1");
    assert!(source.open(&found.streams[0]).await.unwrap().is_none());
    // Between the look at it and the tool's connection, or later.
    let mut opened = source.open(&found.streams[1]).await.unwrap().unwrap();
    server.sql("postgres", "DROP DATABASE vanish_2 WITH (FORCE)");
    tokio::io::copy(&mut opened.reader, &mut tokio::io::sink()).await.unwrap();
    assert_eq!(source.finish(&found.streams[1], opened.handle).await.unwrap(), Finished::Vanished);
    // After its dump has ended, and before that is checked.
    let mut opened = source.open(&found.streams[2]).await.unwrap().unwrap();
    tokio::io::copy(&mut opened.reader, &mut tokio::io::sink()).await.unwrap();
    server.sql("postgres", "DROP DATABASE vanish_3 WITH (FORCE)");
    assert_eq!(source.finish(&found.streams[2], opened.handle).await.unwrap(), Finished::Vanished);
    let mut opened = source.open(&found.streams[3]).await.unwrap().unwrap();
    tokio::io::copy(&mut opened.reader, &mut tokio::io::sink()).await.unwrap();
    assert_eq!(source.finish(&found.streams[3], opened.handle).await.unwrap(), Finished::Whole);
    let contents = source.contents();
    assert_eq!(
        contents.databases.iter().map(|database| database.name.as_str()).collect::<Vec<_>>(),
        ["vanish_4"]
    );
    let vanished = contents
        .not_copied
        .iter()
        .filter(|left| left.why.starts_with("vanished"))
        .map(|left| left.name.as_str());
    assert_eq!(vanished.collect::<Vec<_>>(), ["vanish_1", "vanish_2", "vanish_3"]);
}

//! What goes wrong while a database is dumped (F55, F56, F59).

use super::super::source::{Handle, Source};
use super::*;
use crate::engine::streaming::{Finished, Opened, Streaming, Wanted as Stream};
use crate::result::Failure;

async fn source(pod: &Pod, server: &TestServer, database: &str) -> (Source, Stream) {
    let spec = serde_json::json!({"hosts": [server.address()], "version": major(), "credentials": {"secretName": "login"}, "tls": {"mode": "Disable"},
        "databases": {"include": [database]}, "globals": "Skip"});
    let application = format!("holdfast {database}");
    let mut source = Source::new(&serde_json::from_value(spec).unwrap(), &pod.files(), pod.tools(), &application).unwrap();
    let found = source.preflight(true).await.unwrap();
    (source, found.streams[0].clone())
}

/// Reads a stream to its end and ends its tool.
async fn finish(source: &mut Source, stream: &Stream, opened: Opened<Handle>) -> Result<Finished, Failure> {
    let Opened {
        handle,
        mut reader,
        mut check,
    } = opened;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.unwrap();
    if check.feed(&bytes, &mut Vec::new()).is_ok() {
        drop(check.finish());
    }
    source.finish(stream, handle).await
}

#[tokio::test]
async fn f55_an_empty_database_is_a_whole_copy() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("f55", "SELECT 1");
    let (mut source, stream) = source(&pod, server, "f55").await;
    let opened = source.open(&stream).await.unwrap().unwrap();
    assert_eq!(finish(&mut source, &stream, opened).await.unwrap(), Finished::Whole);
    let contents = source.contents();
    assert_eq!(
        (contents.databases[0].tables.len(), contents.databases[0].large_objects),
        (0, Some(0))
    );
}

#[tokio::test]
async fn f56_a_damaged_page_fails_the_dump_and_is_named() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("f56_whole", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    // A copy of files: nobody has read its pages yet.
    server.sql("postgres", "DROP DATABASE IF EXISTS f56; CHECKPOINT");
    server.sql("postgres", "CREATE DATABASE f56 TEMPLATE f56_whole STRATEGY file_copy");
    let file = server
        .directory()
        .join("data")
        .join(server.sql("f56", "SELECT pg_relation_filepath('t')"));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (mut source, stream) = source(&pod, server, "f56").await;
    let opened = source.open(&stream).await.unwrap().unwrap();
    let failure = finish(&mut source, &stream, opened).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DumpFailed);
    assert!(
        failure.message.contains("invalid page in block 0 of relation"),
        "{}",
        failure.message
    );
    assert!(source.contents().databases.is_empty());
}

#[tokio::test]
async fn f59_a_table_that_is_truncated_before_the_dump_has_locked_it_fails_the_run() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create(
        "f59",
        "CREATE TABLE a (id integer); CREATE TABLE b AS SELECT generate_series(1, 100) AS id; CREATE TABLE c AS SELECT 1 AS id; DELETE FROM c;",
    );
    let access = pod.plain(server);
    let holder = access.connect_again(&access.hosts[0], "f59").await.unwrap();
    holder
        .run("lock", "BEGIN; LOCK TABLE public.a IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let (mut dumping, stream) = source(&pod, server, "f59").await;
    let opened = dumping.open(&stream).await.unwrap().unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'f59' AND wait_event_type = 'Lock'";
    while server.sql("postgres", waits) == "0" {
        tokio::task::yield_now().await;
    }
    // The dump has its snapshot and waits for the first table.
    server.sql("f59", "TRUNCATE b");
    holder.run("let go", "COMMIT").await.unwrap();
    let failure = finish(&mut dumping, &stream, opened).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DumpFailed);
    assert!(
        failure.message.contains("tables \"public\".\"b\" had rows before the dump"),
        "{}",
        failure.message
    );

    // What is empty, or was emptied before, is copied as such.
    let (mut again, stream) = source(&pod, server, "f59").await;
    let opened = again.open(&stream).await.unwrap().unwrap();
    assert_eq!(finish(&mut again, &stream, opened).await.unwrap(), Finished::Whole);
}

use std::sync::Arc;

use holdfast_crds::BackupStore;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::scripted::{Server, server};

const PATH: &str = "/apis/holdfast.dev/v1alpha1/backupstores";

fn store(name: &str, version: u64, bucket: &Value) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version.to_string(),
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "shop"}},
        "spec": {"s3": {"bucket": bucket}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}},
    })
}

fn list(version: u64, items: &[Value]) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStoreList",
        "metadata": {"resourceVersion": version.to_string()}, "items": items,
    })
}

fn start() -> (Arc<Cache<BackupStore>>, Server, JoinHandle<()>) {
    let (client, server) = server();
    let cache = Arc::new(Cache::new(&[None]));
    let watched = cache.clone();
    let watch = tokio::spawn(async move {
        drive(Api::all(client), Some("a=b"), None, &watched).await;
    });
    (cache, server, watch)
}

fn names(cache: &Cache<BackupStore>) -> Vec<String> {
    cache.all().iter().map(|store| store.name_any()).collect()
}

#[tokio::test(start_paused = true)]
async fn lists_then_watches_and_relists_when_it_must() {
    let (cache, mut server, watch) = start();
    let first = server.expect("GET", PATH).await;
    assert!(
        !first.query.contains("watch=") && first.query.contains("labelSelector=a%3Db"),
        "{}",
        first.query
    );
    assert!(!first.query.contains("resourceVersion"), "a consistent list: {}", first.query);
    assert!(!cache.ready());
    first.answer(
        200,
        &list(10, &[store("a", 1, &json!("backups")), store("b", 2, &json!("backups"))]),
    );

    let events = server.expect("GET", PATH).await;
    assert!(
        events.query.contains("watch=true") && events.query.contains("resourceVersion=10"),
        "{}",
        events.query
    );
    assert!(cache.ready());
    assert_eq!(names(&cache), ["a", "b"]);
    let kept = cache.get(&Key::new("shop", "a")).unwrap();
    assert!(kept.metadata.managed_fields.is_none(), "what only costs memory is dropped");
    assert_eq!(kept.annotations().keys().collect::<Vec<_>>(), ["team"]);
    events.answer_lines(
        200,
        &[
            json!({"type": "ADDED", "object": store("c", 11, &json!("backups"))}),
            json!({"type": "DELETED", "object": store("a", 12, &json!("backups"))}),
        ],
    );
    // The watch ended in order: it goes on where it was.
    let again = server.expect("GET", PATH).await;
    assert!(again.query.contains("resourceVersion=12"), "{}", again.query);
    assert_eq!(names(&cache), ["b", "c"]);
    again.answer_lines(
        200,
        &[json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "status": "Failure", "message": "too old", "reason": "Expired"}})],
    );
    // Too old to go on: everything is listed anew, and what went meanwhile is gone.
    let relist = server.expect("GET", PATH).await;
    assert!(!relist.query.contains("watch="), "{}", relist.query);
    assert_eq!(names(&cache), ["b", "c"], "nothing is forgotten while it is listed");
    relist.answer(200, &list(20, &[store("c", 11, &json!("backups"))]));
    server.expect("GET", PATH).await;
    assert_eq!(names(&cache), ["c"]);
    watch.abort();
}

#[tokio::test(start_paused = true)]
async fn one_object_that_cannot_be_read_stops_no_other() {
    let (cache, mut server, watch) = start();
    let bad = store("bad", 2, &json!(["not", "a", "text"]));
    server
        .expect("GET", PATH)
        .await
        .answer(200, &list(10, &[store("a", 1, &json!("backups")), bad.clone()]));
    let events = server.expect("GET", PATH).await;
    assert!(cache.ready());
    assert_eq!(names(&cache), ["a"]);
    let why = cache.unreadable(&Key::new("shop", "bad")).unwrap();
    assert!(why.contains("a string"), "{why}");
    // It is deleted, and another becomes unreadable.
    events.answer_lines(
        200,
        &[
            json!({"type": "DELETED", "object": bad}),
            json!({"type": "MODIFIED", "object": store("a", 11, &json!(7))}),
        ],
    );
    let again = server.expect("GET", PATH).await;
    assert_eq!(cache.unreadable(&Key::new("shop", "bad")), None);
    assert!(names(&cache).is_empty());
    // Corrected, it is back.
    again.answer_lines(200, &[json!({"type": "MODIFIED", "object": store("a", 12, &json!("backups"))})]);
    server.expect("GET", PATH).await;
    assert_eq!(names(&cache), ["a"]);
    assert_eq!(cache.unreadable_count(), 0);
    watch.abort();
}

#[tokio::test(start_paused = true)]
async fn errors_are_waited_for_and_not_hammered() {
    let (cache, mut server, watch) = start();
    let began = Instant::now();
    for _ in 0..6 {
        server.expect("GET", PATH).await.refuse(500, "InternalError", "no leader");
    }
    assert!(began.elapsed() > Duration::from_secs(24), "{:?}", began.elapsed());
    server.expect("GET", PATH).await.answer(200, &list(10, &[]));
    server.expect("GET", PATH).await;
    assert!(cache.ready());
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    watch.abort();
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_not_hammered() {
    let (cache, mut server, watch) = start();
    server.expect("GET", PATH).await.answer(200, &list(10, &[]));
    let began = Instant::now();
    for _ in 0..5 {
        server.expect("GET", PATH).await.answer_lines(200, &[]);
    }
    server.expect("GET", PATH).await;
    assert!(began.elapsed() >= 5 * BACKOFF.0, "{:?}", began.elapsed());
    assert!(cache.ready());
    watch.abort();
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_cut_off_is_listed_again() {
    let (cache, mut server, watch) = start();
    let half = list(10, &[store("a", 1, &json!("backups")), store("b", 2, &json!("backups"))]).to_string();
    server.expect("GET", PATH).await.answer_text(200, &half[..half.len() - 40]);
    let again = server.expect("GET", PATH).await;
    assert!(!cache.ready(), "half a list is not everything");
    // What went meanwhile is gone, though the half showed it.
    again.answer(200, &list(12, &[store("b", 2, &json!("backups"))]));
    server.expect("GET", PATH).await;
    assert!(cache.ready());
    assert_eq!(names(&cache), ["b"]);
    watch.abort();
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_died_silently_is_replaced_within_a_minute() {
    // A watch that is answered, and then nothing more is heard of the other side.
    let (asked, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = if query.contains("watch=true") {
            axum::body::Body::from_stream(futures::stream::pending::<Result<axum::body::Bytes, std::io::Error>>())
        } else {
            axum::body::Body::from(list(10, &[store("a", 1, &json!("backups"))]).to_string())
        };
        asked.send((Instant::now(), query)).unwrap();
        async move { Ok::<_, std::io::Error>(http::Response::new(body)) }
    });
    let cache = Arc::new(Cache::<BackupStore>::new(&[None]));
    let watch = tokio::spawn({
        let (cache, api) = (cache.clone(), Api::all(kube::Client::new(service, "default")));
        async move { drive(api, None, None, &cache).await }
    });
    let (_, listed) = calls.recv().await.unwrap();
    assert!(!listed.contains("watch="), "{listed}");
    let (began, first) = calls.recv().await.unwrap();
    assert!(first.contains("timeoutSeconds=55"), "the API server ends it before: {first}");
    let (again, second) = calls.recv().await.unwrap();
    assert!(
        second.contains("watch=true") && second.contains("resourceVersion=10"),
        "it goes on where it was: {second}"
    );
    assert!(again - began <= Duration::from_secs(62), "{:?}", again - began);
    assert_eq!(names(&cache), ["a"]);
    watch.abort();
}

#[tokio::test(start_paused = true)]
async fn what_we_wrote_while_a_list_was_taken_stays_until_the_watch_had_time_to_show_it() {
    let (cache, mut server, watch) = start();
    let listing = server.expect("GET", PATH).await;
    cache.wrote(serde_json::from_value::<BackupStore>(store("new", 15, &json!("backups"))).unwrap());
    listing.answer(200, &list(10, &[]));
    let events = server.expect("GET", PATH).await;
    assert_eq!(names(&cache), ["new"]);
    // No event comes: it was deleted before the list was taken.
    tokio::time::sleep(CONFIRMATION + Duration::from_secs(1)).await;
    assert!(names(&cache).is_empty());
    drop(events);
    watch.abort();
}

//! The S3 store against a real server (versitygw), with a proxy between them that misbehaves. The codes are those of the faults that must be survived.

#![allow(clippy::cast_precision_loss, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod access;
mod copies;
#[path = "../fixture/copy.rs"]
mod copy;
mod faults;
mod gateway;
mod locks;
mod probe;
mod proxy;
mod retention;
mod roles;
mod tenants;

use bytes::Bytes;
use futures::TryStreamExt;
use gateway::{BUCKET, Gateway, KEY, PATIENCE, SECRET, Sts, config, free_port, store, write_file, write_keys};
use holdfast_agent::store::{
    Confirmed, Created, Store, StoreError, StorePath, Stored,
    backend::Versioning,
    probe::{Probe, Roles},
    s3::{Credentials, S3, WebIdentityConfig},
};
use holdfast_crds::{
    Reason,
    document::{Abandonment, Decision, Label, Outcome, RunPath},
};
use proxy::{Act, Proxy, Seen, error};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const PIECE: usize = 5 << 20;

fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

/// Bytes that repeat nowhere in a way that hides a swap.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out.into()
}

fn three_pieces() -> Vec<Bytes> {
    vec![noise(PIECE, 1), noise(PIECE + 3, 2), noise(1000, 3)]
}

async fn write(store: &Store, at: &str, pieces: &[Bytes]) -> Result<Stored, StoreError> {
    let mut part = store.write_part(path(at));
    for piece in pieces {
        part.write(piece.clone()).await?;
    }
    part.finish().await
}

async fn read_all(store: &Store, at: &str) -> Result<Vec<u8>, StoreError> {
    let (_, body) = store.open(&path(at), None, None).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

/// A store behind a proxy with this rule.
async fn behind(gateway: &Gateway, rule: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> (Store, Proxy) {
    let proxy = Proxy::start(gateway.address, rule).await;
    (store(config(gateway.directory.path(), &proxy.endpoint())).unwrap(), proxy)
}

/// The given act for the first `count` requests that match.
fn first(count: usize, matches: impl Fn(&Seen) -> bool + Send + Sync + 'static, act: Act) -> impl Fn(&Seen) -> Act + Send + Sync + 'static {
    let met = AtomicUsize::new(0);
    move |seen| {
        if matches(seen) && met.fetch_add(1, Ordering::SeqCst) < count {
            act.clone()
        } else {
            Act::Pass
        }
    }
}

/// Three pieces behind a proxy arrive whole, are confirmed by the server's checksum, and leave no upload behind.
async fn arrives_whole(rule: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Vec<Seen> {
    let gateway = Gateway::start();
    let (store, proxy) = behind(&gateway, rule).await;
    let pieces = three_pieces();
    let stored = write(&store, "data/p", &pieces).await.unwrap();
    assert_eq!(stored.confirmed, Confirmed::ByStore);
    assert_eq!(read_all(&gateway.store(), "data/p").await.unwrap(), pieces.concat());
    assert_eq!(uploads(&gateway).await, 0);
    proxy.seen()
}

/// Uploads that have begun and not ended.
async fn uploads(gateway: &Gateway) -> usize {
    gateway.store().backend().list_uploads("", None).await.unwrap().items.len()
}

fn config_with(gateway: &Gateway, key: &str, secret: &str) -> holdfast_agent::store::s3::S3Config {
    let config = gateway.config();
    write_keys(&gateway.directory.path().join("keys"), key, secret);
    config
}

fn probe_of(cluster: &str) -> Probe {
    Probe {
        uid: Label::new("uid", "0a1b2c3d-0000-4000-8000-000000000001").unwrap(),
        cluster: cluster.to_owned(),
        store: "shop/offsite".to_owned(),
        not_before: None,
        take_over: None,
        roles: Roles::default(),
    }
}

async fn probed(store: &Store) -> (Reason, String) {
    let verdict = store.probe(&probe_of("a")).await;
    (verdict.reason, format!("{verdict:#?}"))
}

#[tokio::test]
async fn documents_and_parts_on_a_real_server() {
    let gateway = Gateway::start();
    let store = gateway.store();
    assert_eq!(store.read(&path("catalog/a"), 10).await.unwrap(), None);
    assert!(matches!(store.create(&path("catalog/a"), "one".into()).await, Ok(Created::Ours(_))));
    assert!(matches!(store.create(&path("catalog/a"), "two".into()).await, Ok(Created::Theirs(held)) if held.bytes == "one"));
    assert!(gateway.file("prod/eu/catalog/a").is_file(), "it lies under the prefix");

    for (name, pieces) in [("empty", vec![]), ("one", vec![noise(1000, 9)]), ("three", three_pieces())] {
        let at = format!("data/{name}");
        let stored = write(&store, &at, &pieces).await.unwrap();
        assert_eq!(stored.confirmed, Confirmed::ByStore, "{name}");
        assert_eq!(read_all(&store, &at).await.unwrap(), pieces.concat(), "{name}");
    }
    let (meta, body) = store
        .open(&path("data/three"), Some(PIECE as u64 - 10..PIECE as u64 + 10), None)
        .await
        .unwrap();
    assert_eq!(meta.size, 2 * PIECE as u64 + 1003);
    assert_eq!(
        body.try_collect::<Vec<_>>().await.unwrap().concat(),
        three_pieces().concat()[PIECE - 10..PIECE + 10]
    );
    assert!(matches!(
        store.open(&path("data/one"), Some(0..1001), None).await,
        Err(StoreError::Mismatch { .. })
    ));
    let names: Vec<_> = store
        .list(&path("data"), 10)
        .await
        .unwrap()
        .into_iter()
        .map(|meta| (meta.path, meta.size))
        .collect();
    assert_eq!(
        names,
        [
            ("data/empty".into(), 0),
            ("data/one".into(), 1000),
            ("data/three".into(), 2 * PIECE as u64 + 1003)
        ]
    );
    let skew = store.now().unwrap().duration_since(jiff::Timestamp::now()).abs();
    assert!(skew.as_secs() <= 2, "the server's clock is this machine's: {skew:?}");
    assert_eq!(store.backend().versioning().await.unwrap(), Versioning::Disabled);
}

#[tokio::test]
async fn versions_are_read_by_their_id() {
    let gateway = Gateway::versioned();
    gateway.enable_versions().await;
    let store = gateway.store();
    assert_eq!(store.backend().versioning().await.unwrap(), Versioning::Enabled);
    let stored = write(&store, "data/p", &[noise(1000, 1)]).await.unwrap();
    let version = stored.version.unwrap();
    let Created::Ours(held) = store.create(&path("catalog/a"), "one".into()).await.unwrap() else {
        panic!("not ours")
    };
    assert!(held.meta.version.is_some());
    // Deleted by name only: the version stays, and is what we read.
    store.backend().delete("data/p").await.unwrap();
    assert!(matches!(
        store.open(&path("data/p"), None, None).await,
        Err(StoreError::NotFound { .. })
    ));
    let (_, body) = store.open(&path("data/p"), None, Some(&version)).await.unwrap();
    assert_eq!(body.try_collect::<Vec<_>>().await.unwrap().concat(), noise(1000, 1));
}

#[tokio::test]
async fn listings_go_over_pages() {
    let gateway = Gateway::start();
    let store = gateway.store();
    let put = |number: usize| {
        let store = store.clone();
        async move { store.create(&path(&format!("many/{number:04}")), "x".into()).await.map(drop) }
    };
    for chunk in (0..1050).collect::<Vec<_>>().chunks(50) {
        futures::future::try_join_all(chunk.iter().map(|number| put(*number)))
            .await
            .unwrap();
    }
    let all = store.list(&path("many"), 2000).await.unwrap();
    let expected: Vec<_> = (0..1050).map(|number| format!("many/{number:04}")).collect();
    assert_eq!(all.into_iter().map(|meta| meta.path).collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_eight_racing_creates_wins() {
    let gateway = Gateway::start();
    for round in 0..10 {
        let racers = (0..8).map(|racer| {
            let (store, at) = (gateway.store(), path(&format!("race/{round}")));
            tokio::spawn(async move { store.create(&at, format!("racer {racer}").into()).await.unwrap() })
        });
        let created = futures::future::try_join_all(racers.collect::<Vec<_>>()).await.unwrap();
        assert_eq!(
            created.iter().filter(|created| matches!(created, Created::Ours(_))).count(),
            1,
            "round {round}"
        );
    }
}

#[tokio::test]
async fn parts_alone_get_the_storage_class() {
    let gateway = Gateway::start();
    let proxy = Proxy::start(gateway.address, |_| Act::Pass).await;
    let mut config = config(gateway.directory.path(), &proxy.endpoint());
    config.storage_class = Some("STANDARD_IA".into());
    let store = store(config).unwrap();
    store.create(&path("catalog/a"), "x".into()).await.unwrap();
    write(&store, "data/one", &[noise(10, 1)]).await.unwrap();
    write(&store, "data/three", &three_pieces()).await.unwrap();
    let classes: Vec<_> = proxy
        .seen()
        .iter()
        .filter(|seen| seen.is_put() || seen.query == "uploads=")
        .map(|seen| {
            (
                seen.path.rsplit('/').next().unwrap().to_owned(),
                seen.headers.get("x-amz-storage-class").cloned(),
            )
        })
        .collect();
    let class = Some("STANDARD_IA".to_owned());
    assert_eq!(
        classes,
        [("a".into(), None), ("one".into(), class.clone()), ("three".into(), class)]
    );
}

#[tokio::test]
async fn a_part_that_is_given_up_leaves_no_upload() {
    let gateway = Gateway::start();
    let store = gateway.store();
    let mut part = store.write_part(path("data/p"));
    part.write(noise(PIECE, 1)).await.unwrap();
    part.write(noise(PIECE, 2)).await.unwrap();
    assert_eq!(uploads(&gateway).await, 1);
    assert!(part.abort().await);
    assert_eq!(uploads(&gateway).await, 0);
    assert_eq!(store.head(&path("data/p")).await.unwrap(), None);
}

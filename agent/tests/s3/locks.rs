//! Versions and locks on a real server: what it refuses, what it frees, and what is seen of those who hold the writer's keys.

use super::*;
use futures::StreamExt;
use holdfast_agent::store::{Alteration, Deleted, Lock, Locked, Retained, WriteLock, alterations, s3::S3Config};
use holdfast_crds::LockMode;
use jiff::{SignedDuration, Timestamp};

fn with_lock(config: S3Config, mode: LockMode, length: Duration) -> S3Config {
    S3Config {
        write_lock: Some(WriteLock { mode, length }),
        ..config
    }
}

fn held(locked: Locked) -> Lock {
    match locked {
        Locked::Held(lock) => lock,
        Locked::NotFound => panic!("the object is not there"),
    }
}

async fn created(store: &Store, at: &str, body: &'static str) -> String {
    match store.create(&path(at), body.into()).await.unwrap() {
        Created::Ours(held) => held.meta.version.unwrap(),
        Created::Theirs(_) => panic!("{at} is taken"),
    }
}

async fn versions(store: &Store, directory: &str) -> Vec<holdfast_agent::store::ObjectVersion> {
    let mut pages = store.list_versions(&path(directory));
    let mut all = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        all.extend(page);
    }
    all
}

#[tokio::test]
async fn what_is_written_is_locked_and_what_is_kept_longer() {
    for mode in [LockMode::Governance, LockMode::Compliance] {
        let gateway = Gateway::locked().await;
        let short = Duration::from_secs(60);
        let store = store(with_lock(gateway.config(), mode, short)).unwrap();
        assert!(store.supports_locks().await.unwrap());
        let begun = Timestamp::now();
        let document = created(&store, "catalog/a", "x").await;
        let small = write(&store, "data/small", &[noise(100, 1)]).await.unwrap();
        let large = write(&store, "data/large", &three_pieces()).await.unwrap();
        for (at, version) in [
            ("catalog/a", &document),
            ("data/small", small.version.as_ref().unwrap()),
            ("data/large", large.version.as_ref().unwrap()),
        ] {
            let lock = store.lock_of(&path(at), Some(version)).await.unwrap();
            let retained = lock.retained.unwrap_or_else(|| panic!("{at} is not locked"));
            let length = retained.until.duration_since(begun);
            assert_eq!(retained.mode, mode, "{at}");
            assert!(
                length >= SignedDuration::from_secs(60) && length < SignedDuration::from_secs(120),
                "{at}: {length:?}"
            );
            assert!(!lock.legal_hold);
            assert_eq!(
                store.delete_version(&path(at), Some(version)).await.unwrap(),
                Deleted::Refused(lock),
                "{at}"
            );
            // The server refuses by itself, too.
            let refused = store.backend().delete_version(at, Some(version)).await.unwrap_err();
            assert!(matches!(refused, StoreError::Denied { status: 403, .. }), "{at}: {refused:?}");
        }
        // Longer, never shorter.
        let until = begun + SignedDuration::from_hours(24);
        let longer = held(store.extend_lock(&path("catalog/a"), Some(&document), until).await.unwrap());
        assert!(longer.until().unwrap() >= until && longer.retained.unwrap().mode == mode);
        let same = store
            .extend_lock(&path("catalog/a"), Some(&document), begun + SignedDuration::from_secs(70))
            .await
            .unwrap();
        assert_eq!(held(same), longer);
        let shorter = Retained {
            mode,
            until: begun + SignedDuration::from_secs(70),
        };
        let refused = store
            .backend()
            .set_retained("catalog/a", Some(&document), shorter)
            .await
            .unwrap_err();
        assert!(matches!(refused, StoreError::Denied { .. }), "{refused:?}");
        assert_eq!(store.lock_of(&path("catalog/a"), Some(&document)).await.unwrap(), longer);
        // What is not there is no failure.
        let gone = store.extend_lock(&path("catalog/none"), Some(&document), until).await;
        assert!(matches!(gone, Ok(Locked::NotFound)), "{gone:?}");
    }
}

#[tokio::test]
async fn a_lock_ends_and_then_the_space_is_free() {
    let gateway = Gateway::locked().await;
    let store = store(with_lock(gateway.config(), LockMode::Compliance, Duration::from_secs(3))).unwrap();
    let empty = gateway.disk_bytes();
    let part = write(&store, "data/large", &three_pieces()).await.unwrap();
    let version = part.version.as_deref();
    assert!(gateway.disk_bytes() >= empty + part.size);
    // A plain DELETE only hides it: nothing is freed.
    store.backend().delete("data/large").await.unwrap();
    assert!(store.head(&path("data/large")).await.unwrap().is_none());
    assert!(gateway.disk_bytes() >= empty + part.size);
    let begun = Instant::now();
    let refusals = loop {
        match store.delete_version(&path("data/large"), version).await.unwrap() {
            Deleted::Refused(lock) => assert!(lock.until().is_some(), "{lock:?}"),
            Deleted::Gone => break begun.elapsed(),
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "a lock of three seconds did not end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(
        refusals >= Duration::from_secs(1),
        "it was deleted while it was locked: {refusals:?}"
    );
    assert_eq!(
        store.delete_version(&path("data/large"), version).await.unwrap(),
        Deleted::Gone,
        "gone already is fine"
    );
    let left = versions(&store, "data").await;
    assert!(left.iter().all(|version| version.is_delete_marker) && left.len() == 1, "{left:?}");
    assert_eq!(
        store.delete_version(&path("data/large"), left[0].version.as_deref()).await.unwrap(),
        Deleted::Gone
    );
    assert_eq!(versions(&store, "data").await, []);
    assert!(
        gateway.disk_bytes() < empty + (1 << 20),
        "{} bytes are left",
        gateway.disk_bytes() - empty
    );
}

#[tokio::test]
async fn a_legal_hold_keeps_what_no_lock_keeps() {
    let gateway = Gateway::locked().await;
    let store = gateway.store();
    let version = created(&store, "catalog/a", "x").await;
    let (at, version) = (path("catalog/a"), Some(version.as_str()));
    assert_eq!(store.lock_of(&at, version).await.unwrap(), Lock::default());
    let lock = held(store.set_legal_hold(&at, version, true).await.unwrap());
    assert!(lock.legal_hold && lock.retained.is_none());
    assert_eq!(store.delete_version(&at, version).await.unwrap(), Deleted::Refused(lock));
    assert!(store.backend().delete_version("catalog/a", version).await.is_err());
    assert!(!held(store.set_legal_hold(&at, version, false).await.unwrap()).legal_hold);
    assert_eq!(store.delete_version(&at, version).await.unwrap(), Deleted::Gone);
    assert!(matches!(store.set_legal_hold(&at, version, true).await, Ok(Locked::NotFound)));
}

#[tokio::test]
async fn a_bucket_without_locks_says_so() {
    for gateway in [Gateway::start(), Gateway::versioned()] {
        let store = gateway.store();
        assert!(!store.supports_locks().await.unwrap());
        store.create(&path("catalog/a"), "x".into()).await.unwrap();
        assert_eq!(store.lock_of(&path("catalog/a"), None).await.unwrap(), Lock::default());
        let refused = store.set_legal_hold(&path("catalog/a"), None, true).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unsupported { .. }), "{refused:?}");
        let locking = super::store(with_lock(gateway.config(), LockMode::Governance, Duration::from_secs(60))).unwrap();
        let refused = locking.create(&path("other/b"), "x".into()).await.unwrap_err();
        assert!(refused.to_string().contains("ObjectLock"), "{refused}");
        // Without versions the only one has no name.
        let all = versions(&store, "catalog").await;
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((all[0].path.as_str(), all[0].size, all[0].is_latest), ("catalog/a", 1, true));
        assert_eq!(
            store.delete_version(&path("catalog/a"), all[0].version.as_deref()).await.unwrap(),
            Deleted::Gone
        );
        assert_eq!(
            store.delete_version(&path("catalog/a"), all[0].version.as_deref()).await.unwrap(),
            Deleted::Gone
        );
        assert_eq!(versions(&store, "catalog").await, []);
        assert!(!gateway.file("prod/eu/catalog/a").exists());
    }
}

#[tokio::test]
async fn versions_are_listed_in_pages_and_what_was_altered_is_seen() {
    let gateway = Gateway::locked().await;
    let store = gateway.store();
    let mut first = Vec::new();
    for number in 0..5 {
        first.push(created(&store, &format!("catalog/{number}"), "ours").await);
    }
    gateway.put("/prod/eu/catalog/1", "theirs", &[]).await;
    store.backend().delete("catalog/2").await.unwrap();
    // Hidden, then written anew as if it never had been there.
    store.backend().delete("catalog/3").await.unwrap();
    gateway.put("/prod/eu/catalog/3", "theirs", &[]).await;
    let all = versions(&store, "catalog").await;
    assert_eq!(all.len(), 5 + 1 + 1 + 2);
    let found = alterations(&all);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        matches!(&found[0], Alteration::Overwritten { path, first: version, since: Some(_) } if path == "catalog/1" && version.as_ref() == Some(&first[1])),
        "{found:#?}"
    );
    for (index, number) in [(1, 2), (2, 3)] {
        assert!(
            matches!(&found[index], Alteration::Hidden { path, first: version, .. } if *path == format!("catalog/{number}") && version.as_ref() == Some(&first[number])),
            "{found:#?}"
        );
    }
    // What was written first is still there, by its version.
    for (number, first) in first.iter().enumerate() {
        let at = path(&format!("catalog/{number}"));
        let held = store.read_version(&at, Some(first), 100).await.unwrap().unwrap();
        assert_eq!(held.bytes, "ours");
        let tampered = store.tampered(&at, Some(first)).await.unwrap();
        assert_eq!(tampered.is_some(), (1..4).contains(&number), "{tampered:?}");
    }
    let replaced = store.tampered(&path("catalog/0"), Some(&first[1])).await.unwrap();
    assert!(matches!(replaced, Some(Alteration::Replaced { .. })), "{replaced:?}");
    assert_eq!(store.tampered(&path("catalog/none"), None).await.unwrap(), None);
}

/// More versions than fit into a page, of many objects and of one.
#[tokio::test]
async fn a_long_listing_of_versions_adds_up() {
    let gateway = Gateway::locked().await;
    let store = gateway.store();
    let each = |number: usize| {
        let (gateway, store) = (&gateway, &store);
        async move {
            match number {
                0..600 => drop(created(store, &format!("catalog/a/{number:04}"), "x").await),
                _ => gateway.put("/prod/eu/catalog/a/0300", "y", &[]).await,
            }
        }
    };
    futures::stream::iter((0..1100).map(each)).buffered(8).collect::<Vec<()>>().await;
    let all = versions(&store, "catalog/a").await;
    assert_eq!(all.len(), 1100);
    assert_eq!(all.iter().filter(|version| version.path == "catalog/a/0300").count(), 501);
    assert_eq!(alterations(&all).len(), 1);
    let of_one = store.versions_of(&path("catalog/a/0300")).await.unwrap();
    assert_eq!((of_one.len(), of_one.iter().filter(|version| version.is_latest).count()), (501, 1));
}

/// Names of which one begins as another goes on: in the order of bytes `-` and `.` come before `/`, in that of folders they do not.
#[tokio::test]
async fn a_long_listing_is_in_the_order_of_bytes() {
    let gateway = Gateway::locked().await;
    let store = gateway.store();
    let names = ["db", "db-2", "db.old", "dba"];
    let each = |number: usize| {
        let store = &store;
        async move {
            drop(
                created(
                    store,
                    &format!("catalog/shop/{}/run-{number:04}/outcome.json", names[number % 4]),
                    "x",
                )
                .await,
            );
        }
    };
    futures::stream::iter((0..1200).map(each)).buffered(8).collect::<Vec<()>>().await;
    let mut pages = store.list_versions(&path("catalog"));
    let mut sources = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        sources.extend(page.into_iter().map(|version| version.path.split('/').nth(2).unwrap().to_owned()));
    }
    assert_eq!(sources.len(), 1200);
    sources.dedup();
    assert_eq!(sources, ["db-2", "db.old", "db", "dba"]);
}

//! Versions, locks and deletions over memory, with each call failing in each way.

use super::*;
use holdfast_crds::LockMode;
use jiff::SignedDuration;

const WEEK: Duration = Duration::from_hours(168);

async fn created(store: &Store, at: &str) -> String {
    match store.create(&path(at), "ours".into()).await.unwrap() {
        Created::Ours(held) => held.meta.version.unwrap(),
        Created::Theirs(_) => panic!("{at} is taken"),
    }
}

async fn versions(store: &Store, directory: &str) -> Result<Vec<ObjectVersion>, StoreError> {
    let mut pages = store.list_versions(&path(directory));
    let mut all = Vec::new();
    while let Some(page) = pages.next().await? {
        all.extend(page);
    }
    Ok(all)
}

fn in_years(years: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * 365 * years)
}

#[tokio::test(start_paused = true)]
async fn locks_hold_for_years_and_end_at_their_time() {
    for mode in [LockMode::Governance, LockMode::Compliance] {
        let memory = Memory::new().min_piece(1000).with_write_lock(mode, WEEK);
        let store = store(memory.clone());
        let begun = store.now().unwrap();
        let document = created(&store, "catalog/a").await;
        let part = write(&store, "data/p", &[noise(1000, 1), noise(5, 2)]).await.unwrap();
        for at in ["catalog/a", "data/p"] {
            let retained = memory.locked(at).retained.unwrap();
            let end = begun + SignedDuration::try_from(WEEK).unwrap();
            assert!(
                retained.mode == mode && retained.until >= end && retained.until <= end + SignedDuration::from_mins(1),
                "{at}: {retained:?}"
            );
        }
        let (at, version) = (path("catalog/a"), Some(document.as_str()));
        let until = begun + in_years(7);
        let Locked::Held(lock) = store.extend_lock(&at, version, until).await.unwrap() else {
            panic!()
        };
        assert_eq!(lock.until(), Some(until));
        // Shorter changes nothing, and the store itself refuses it.
        assert_eq!(store.extend_lock(&at, version, begun).await.unwrap(), Locked::Held(lock));
        let shorter = Retained {
            mode,
            until: until - SignedDuration::from_secs(1),
        };
        assert!(matches!(
            memory.set_retained("catalog/a", version, shorter).await,
            Err(StoreError::Denied { .. })
        ));
        memory.advance(SignedDuration::from_hours(24 * 8));
        assert_eq!(
            store.delete_version(&path("data/p"), part.version.as_deref()).await.unwrap(),
            Deleted::Gone
        );
        assert_eq!(store.delete_version(&at, version).await.unwrap(), Deleted::Refused(lock));
        // At the very moment of its end a lock still holds for us, a second later it does not.
        memory.set_clock(until);
        assert_eq!(store.delete_version(&at, version).await.unwrap(), Deleted::Refused(lock));
        memory.set_clock(until + SignedDuration::from_secs(1));
        assert_eq!(store.delete_version(&at, version).await.unwrap(), Deleted::Gone);
        assert_eq!((memory.stored_bytes(), versions(&store, "data").await.unwrap().len()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_legal_hold_has_no_end() {
    let memory = Memory::new().with_object_lock();
    let store = store(memory.clone());
    let version = created(&store, "catalog/a").await;
    let (at, version) = (path("catalog/a"), Some(version.as_str()));
    let Locked::Held(lock) = store.set_legal_hold(&at, version, true).await.unwrap() else {
        panic!()
    };
    memory.advance(in_years(100));
    assert_eq!(store.delete_version(&at, version).await.unwrap(), Deleted::Refused(lock));
    assert!(matches!(
        memory.delete_version("catalog/a", version).await,
        Err(StoreError::Denied { .. })
    ));
    store.set_legal_hold(&at, version, false).await.unwrap();
    assert_eq!(store.delete_version(&at, version).await.unwrap(), Deleted::Gone);
    assert_eq!(store.set_legal_hold(&at, version, true).await.unwrap(), Locked::NotFound);
}

#[tokio::test(start_paused = true)]
async fn without_object_lock_nothing_pretends_to_lock() {
    let store = store(Memory::new());
    let version = created(&store, "catalog/a").await;
    let (at, version) = (path("catalog/a"), Some(version.as_str()));
    assert_eq!(store.lock_of(&at, version).await.unwrap(), Lock::default());
    assert!(matches!(
        store.set_legal_hold(&at, version, true).await,
        Err(StoreError::Unsupported { .. })
    ));
    let until = store.now().unwrap() + in_years(1);
    assert!(matches!(
        store.extend_lock(&at, version, until).await,
        Err(StoreError::Unsupported { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn exactly_one_version_is_deleted() {
    let memory = Memory::new().page(3);
    let store = store(memory.clone());
    let first = created(&store, "catalog/a").await;
    for _ in 0..5 {
        memory.plant("catalog/a", "theirs");
    }
    memory.hide("catalog/a");
    memory.plant("catalog/b", "x");
    memory.plant("catalogue", "x");
    let all = versions(&store, "catalog").await.unwrap();
    assert_eq!(all.len(), 8, "{all:#?}");
    assert!(all[0].is_latest && all[0].is_delete_marker && !all[1].is_latest);
    assert_eq!(all[6].version.as_deref(), Some(first.as_str()), "newest first");
    assert!(matches!(&alterations(&all)[..], [Alteration::Hidden { first: Some(found), .. }] if *found == first));
    // Without a name nothing is deleted where versions have names, and no marker comes.
    assert_eq!(store.delete_version(&path("catalog/a"), None).await.unwrap(), Deleted::Gone);
    assert_eq!(memory.versions_of("catalog/a"), 7);
    for version in &all[..6] {
        assert_eq!(
            store.delete_version(&path("catalog/a"), version.version.as_deref()).await.unwrap(),
            Deleted::Gone
        );
    }
    assert_eq!(store.read(&path("catalog/a"), 10).await.unwrap().unwrap().bytes, "ours");
    assert_eq!(store.tampered(&path("catalog/a"), Some(&first)).await.unwrap(), None);

    let plain = Memory::new().without_versions();
    let store = super::store(plain.clone());
    store.create(&path("catalog/a"), "x".into()).await.unwrap();
    let all = versions(&store, "catalog").await.unwrap();
    assert!(matches!(
        &all[..],
        [ObjectVersion {
            version: None,
            is_latest: true,
            is_delete_marker: false,
            size: 1,
            ..
        }]
    ));
    assert_eq!(store.delete_version(&path("catalog/a"), None).await.unwrap(), Deleted::Gone);
    assert!(plain.objects().is_empty());
}

/// Each fault in each call of a deletion, of a lock and of a legal hold: what is answered is true.
#[tokio::test(start_paused = true)]
async fn f_deletions_and_locks_survive_a_fault_in_any_call() {
    let faults = [
        Fault::Before(Fault::slow_down()),
        Fault::After(Fault::slow_down()),
        Fault::Before(Fault::reset()),
        Fault::After(Fault::reset()),
        Fault::Slow(Duration::from_secs(100)),
    ];
    for fault in faults {
        for index in 0..4 {
            let memory = Memory::new().with_write_lock(LockMode::Compliance, Duration::from_secs(1));
            let version = created(&store(memory.clone()), "catalog/a").await;
            let (at, version) = (path("catalog/a"), Some(version.as_str()));
            let shaken = || store(Faulty::at(memory.clone(), index, fault.clone()));
            let until = memory.now().unwrap() + in_years(1);
            let extended = shaken().extend_lock(&at, version, until).await.unwrap();
            assert!(
                matches!(extended, Locked::Held(lock) if lock.until() == Some(until)),
                "{fault:?} in call {index}: {extended:?}"
            );
            for on in [true, false] {
                let set = shaken().set_legal_hold(&at, version, on).await.unwrap();
                assert!(
                    matches!(set, Locked::Held(lock) if lock.legal_hold == on),
                    "{fault:?} in call {index}: {set:?}"
                );
            }
            assert!(
                matches!(shaken().delete_version(&at, version).await, Ok(Deleted::Refused(_))),
                "{fault:?} in call {index}"
            );
            memory.advance(in_years(2));
            assert_eq!(
                shaken().delete_version(&at, version).await.unwrap(),
                Deleted::Gone,
                "{fault:?} in call {index}"
            );
            assert_eq!(memory.versions_of("catalog/a"), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_missing_is_no_lock() {
    let denied = |kind: CallKind| {
        let error = StoreError::Denied {
            call: "test",
            path: "catalog/a".into(),
            status: 403,
            code: "AccessDenied".into(),
        };
        move |call: &Call| (call.kind == kind).then(|| Fault::Before(error.clone()))
    };
    let memory = Memory::new().with_object_lock();
    let version = created(&store(memory.clone()), "catalog/a").await;
    let (at, version) = (path("catalog/a"), Some(version.as_str()));
    let until = memory.now().unwrap() + in_years(1);
    for kind in [CallKind::DeleteVersion, CallKind::LockOf, CallKind::ObjectLock] {
        let refused = store(Faulty::new(memory.clone(), denied(kind))).delete_version(&at, version).await;
        assert!(matches!(refused, Err(StoreError::Denied { .. })), "{kind:?}: {refused:?}");
        assert_eq!(memory.versions_of("catalog/a"), 1, "{kind:?}");
    }
    // Locked meanwhile, after it was read: the store's refusal is a fact.
    let locking = memory.clone();
    let between = Faulty::new(memory.clone(), move |call: &Call| {
        if call.kind == CallKind::DeleteVersion {
            let mode = LockMode::Compliance;
            let locked = locking.set_retained("catalog/a", None, Retained { mode, until }).now_or_never();
            assert!(matches!(locked, Some(Ok(()))));
        }
        None
    });
    assert!(matches!(store(between).delete_version(&at, version).await, Ok(Deleted::Refused(lock)) if lock.until() == Some(until)));
    let memory = Memory::new().with_write_lock(LockMode::Governance, WEEK);
    let version = created(&store(memory.clone()), "catalog/a").await;
    let refused = store(Faulty::new(memory, denied(CallKind::SetRetained)))
        .extend_lock(&at, Some(&version), until)
        .await;
    assert!(matches!(refused, Err(StoreError::Denied { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn f36_listings_of_versions_are_whole_or_refused() {
    let memory = Memory::new().page(4);
    for number in 0..10 {
        memory.plant(&format!("catalog/{number}"), "x");
    }
    let count = async |plan: fn(&Call) -> Option<Fault>| {
        versions(&store(Faulty::new(memory.clone(), plan)), "catalog")
            .await
            .map(|all| all.len())
    };
    assert_eq!(count(|_| None).await.unwrap(), 10);
    let once = count(|call| (call.index == 1).then(|| Fault::Before(Fault::slow_down()))).await;
    assert_eq!(once.unwrap(), 10, "the second page was asked for again");
    let for_ever = count(|call| (call.index >= 1).then(|| Fault::Before(Fault::slow_down()))).await;
    assert!(matches!(for_ever, Err(StoreError::GaveUp { .. })), "{for_ever:?}");
    for (name, pages) in [
        ("twice", vec![(&["a/1", "a/2"][..], Some("t")), (&["a/1"][..], None)]),
        ("circle", vec![(&["a/1"][..], Some("t1")), (&[][..], Some("t1"))]),
        ("not under it", vec![(&["b/1"][..], None)]),
        ("out of order", vec![(&["a/2"][..], Some("t")), (&["a/1"][..], None)]),
    ] {
        let broken = store(Pager(Memory::new(), pages, AtomicUsize::new(0)));
        assert!(matches!(versions(&broken, "a").await, Err(StoreError::Listing { .. })), "{name}");
    }
    // Only what the page before ended with may come once more.
    let inclusive = vec![(&["a/1", "a/2"][..], Some("t")), (&["a/2", "a/3"][..], None)];
    assert_eq!(
        versions(&store(Pager(Memory::new(), inclusive, AtomicUsize::new(0))), "a")
            .await
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test(start_paused = true)]
async fn records_are_written_once_under_names_of_the_stores_time() {
    use holdfast_crds::document::{Fact, Label, Record, RunPath};
    let memory = Memory::new();
    memory.set_clock("2031-01-02T03:04:05Z".parse().unwrap());
    for index in 0..3 {
        let lost = Faulty::at(memory.clone(), index, Fault::After(Fault::reset()));
        let store = store(lost);
        let run: RunPath = "shop/db/run-1".parse().unwrap();
        let fact = Fact::Held {
            hold: Label::new("hold", "tax").unwrap(),
        };
        let record = Record::new(
            run,
            store.ulid().unwrap(),
            Label::new("pod", "p-1").unwrap(),
            store.now().unwrap(),
            None,
            fact,
        );
        let held = store.create_record(&record.path(), record.to_bytes()).await.unwrap();
        assert_eq!(Record::from_bytes(&record.path(), &held.bytes).unwrap(), record);
        assert!(record.ulid.as_str().starts_with("01R0W4B"), "{}", record.ulid);
        assert_eq!(memory.versions_of(&record.path().to_string()), 1);
        // Another under the same name is not ours.
        memory.plant(&record.path().to_string(), "theirs");
        assert!(matches!(
            store.create_record(&record.path(), record.to_bytes()).await,
            Err(StoreError::Mismatch { .. })
        ));
    }
}

#[tokio::test]
async fn a_volume_deletes_files_and_the_empty_folders_of_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let volume = Volume::open(&VolumeConfig {
        mount: directory.path().to_owned(),
        path: None,
        created: Some("2031-01-02T03:04:05Z".parse().unwrap()),
    });
    let store = store(volume.unwrap());
    assert!(!store.supports_locks().await.unwrap());
    for at in [
        "data/shop/db/run/pod/s/1",
        "data/shop/db/run/pod/s/2",
        "catalog/shop/db/run/outcome.json",
    ] {
        store.create(&path(at), "x".into()).await.unwrap();
    }
    let all = versions(&store, "data").await.unwrap();
    assert_eq!(all.len(), 2);
    for version in &all {
        assert!(version.version.is_none() && version.is_latest);
        for _ in 0..2 {
            assert_eq!(store.delete_version(&path(&version.path), None).await.unwrap(), Deleted::Gone);
        }
    }
    assert!(directory.path().join("data/shop/db").is_dir() && !directory.path().join("data/shop/db/run").exists());
    assert!(store.read(&path("catalog/shop/db/run/outcome.json"), 10).await.unwrap().is_some());
    assert_eq!(
        store
            .delete_version(&path("catalog/shop/db/run/outcome.json"), Some("v1"))
            .await
            .unwrap(),
        Deleted::Gone
    );
    assert!(
        store.read(&path("catalog/shop/db/run/outcome.json"), 10).await.unwrap().is_some(),
        "no such version: nothing is deleted"
    );
}

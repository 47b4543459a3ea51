//! The same promises on a volume.

use super::*;

fn volume(directory: &std::path::Path) -> Volume {
    Volume::open(&VolumeConfig {
        mount: directory.to_owned(),
        path: Some("backups/a".into()),
        created: None,
    })
    .unwrap()
}

#[tokio::test]
async fn a_volume_keeps_the_same_promises() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(volume(directory.path()));
    assert!(matches!(
        store.create(&path("catalog/a/outcome.json"), "one".into()).await,
        Ok(Created::Ours(_))
    ));
    assert!(matches!(store.create(&path("catalog/a/outcome.json"), "two".into()).await, Ok(Created::Theirs(held)) if held.bytes == "one"));
    let pieces: Vec<_> = (0..5).map(|i| noise(100_000 + i, i as u64 + 1)).collect();
    let stored = write(&store, "data/a/p", &pieces).await.unwrap();
    assert_eq!((stored.size, stored.confirmed), (500_010, Confirmed::ByReading));
    assert_eq!(read_all(&store, "data/a/p").await.unwrap(), pieces.concat());
    let (_, body) = store.open(&path("data/a/p"), Some(99_990..100_010), None).await.unwrap();
    assert_eq!(
        body.try_collect::<Vec<_>>().await.unwrap().concat(),
        pieces.concat()[99_990..100_010]
    );

    let mut left = store.write_part(path("data/a/left"));
    left.write(noise(10, 1)).await.unwrap();
    left.write(noise(10, 2)).await.unwrap();
    let names: Vec<_> = store
        .list(&path("data"), 10)
        .await
        .unwrap()
        .into_iter()
        .map(|meta| meta.path)
        .collect();
    assert_eq!(names, ["data/a/p"], "what is not complete is not listed");
    assert_eq!(store.list(&path("catalog"), 10).await.unwrap().len(), 1);
    std::mem::forget(left);
    let after = Store::new(volume(directory.path()), Patience::RUN, 3);
    assert_eq!(
        after.abort_leftovers(&path("data"), Duration::from_hours(1)).await.unwrap(),
        0,
        "it is too young"
    );
    assert_eq!(after.abort_leftovers(&path("data"), Duration::ZERO).await.unwrap(), 1);
    assert_eq!(after.abort_leftovers(&path("data"), Duration::ZERO).await.unwrap(), 0);
    assert!(
        after.read(&path("catalog/a"), 10).await.unwrap().is_none(),
        "a directory is no object"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_eight_racing_creates_wins_on_a_volume() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let at = path(&format!("race/{round}"));
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                let (store, at) = (Store::new(volume(directory.path()), Patience::RUN, 1), at.clone());
                tokio::spawn(async move { store.create(&at, format!("racer {racer}").into()).await.unwrap() })
            })
            .collect();
        let mut won = 0;
        for racer in racers {
            won += usize::from(matches!(racer.await.unwrap(), Created::Ours(_)));
        }
        assert_eq!(won, 1);
    }
    assert!(
        !std::fs::read_dir(directory.path().join("backups/a/race"))
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with('.'))
    );
}

#[tokio::test]
async fn the_probe_finds_a_volume_ready() {
    let directory = tempfile::tempdir().unwrap();
    let probe = probe::Probe {
        uid: holdfast_crds::document::Label::new("uid", "u-1").unwrap(),
        cluster: "a".into(),
        store: "shop/local".into(),
        not_before: None,
        take_over: None,
        roles: probe::Roles::default(),
    };
    let verdict = store(volume(directory.path())).probe(&probe).await;
    assert_eq!(verdict.reason, holdfast_crds::Reason::StoreReady, "{verdict:#?}");
    assert_eq!(verdict.report.versioning, Some(false));
    let left = store(volume(directory.path())).list(&path("probe"), 10).await.unwrap();
    assert_eq!(left, []);
}

#[test]
fn volumes_that_forget_or_lead_elsewhere_are_refused() {
    let config = |mount: &str, path: Option<&str>| VolumeConfig {
        mount: mount.into(),
        path: path.map(Into::into),
        created: None,
    };
    let error = Volume::open(&config("/dev/shm", None)).unwrap_err();
    assert!(error.to_string().contains("/dev/shm lies on tmpfs"), "{error}");
    assert!(matches!(
        Volume::open(&config("/nowhere/at/all", None)),
        Err(StoreError::NoSuchStore { .. })
    ));
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().to_str().unwrap();
    assert!(Volume::open(&config(mount, Some("../x"))).is_err());
    std::os::unix::fs::symlink("/", directory.path().join("link")).unwrap();
    let error = Volume::open(&config(mount, Some("link"))).unwrap_err();
    assert!(error.to_string().contains("leads out of the volume"), "{error}");
}

#[test]
fn f40_a_full_disk_is_told_apart() {
    // What the kernel answers on a full device, a quota that is used up, and a volume that became read-only.
    let place = std::path::Path::new("/backups/x");
    let device = std::io::Write::write_all(&mut std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap(), b"x").unwrap_err();
    assert_eq!(
        super::volume::failed("write", place, &device).reason(),
        holdfast_crds::Reason::StoreFull
    );
    let quota = std::io::Error::from(rustix::io::Errno::DQUOT);
    assert_eq!(
        super::volume::failed("write", place, &quota).reason(),
        holdfast_crds::Reason::StoreFull
    );
    let read_only = std::io::Error::from(rustix::io::Errno::ROFS);
    assert_eq!(
        super::volume::failed("write", place, &read_only).reason(),
        holdfast_crds::Reason::StoreAccessDenied
    );
}

#[tokio::test]
async fn a_volumes_clock_is_the_one_of_the_api_server_if_that_is_known() {
    let directory = tempfile::tempdir().unwrap();
    for hours in [-9000, -1, 1, 9000] {
        let created = Timestamp::now() + jiff::SignedDuration::from_hours(hours);
        let config = VolumeConfig {
            mount: directory.path().into(),
            path: None,
            created: Some(created),
        };
        let begun = Instant::now();
        let now = Volume::open(&config).unwrap().now().unwrap();
        assert!(
            now >= created && now < created + begun.elapsed() + Duration::from_secs(1),
            "{hours}"
        );
    }
}

/// By their magic numbers, as linux/magic.h and the file systems' own sources have them.
#[test]
fn file_systems_that_forget_are_refused_and_no_others() {
    use crate::store::volume::forgetful;
    for (kind, name) in [
        (0x0102_1994, Some("tmpfs")),
        (0x8584_58f6, Some("ramfs")),
        (0x794c_7630, Some("overlay")),
        // ext2 to ext4, XFS, Btrfs, ZFS, F2FS.
        (0xef53, None),
        (0x5846_5342, None),
        (0x9123_683e, None),
        (0x2fc1_2fc1, None),
        (0xf2f5_2010, None),
        // NFS, CIFS, SMB 2, Ceph, FUSE, 9P.
        (0x6969, None),
        (0xff53_4d42, None),
        (0xfe53_4d42, None),
        (0x00c3_6400, None),
        (0x6573_5546, None),
        (0x0102_1997, None),
    ] {
        assert_eq!(forgetful(kind), name, "{kind:#x}");
    }
}

//! The promises of a store, over memory, volumes and faults. Time is paused: pauses cost nothing.

use super::{
    backend::{Content, Page},
    faulty::{Call, CallKind, Fault, Faulty},
    memory::Memory,
    volume::{Volume, VolumeConfig},
    *,
};
use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};
use std::{
    sync::atomic::AtomicUsize,
    time::{Duration, Instant},
};

fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

fn store(backend: impl Backend) -> Store {
    Store::new(backend, Patience::RUN, 3)
}

/// Bytes that repeat nowhere in a way that hides a swap.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
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
    body.try_fold(Vec::new(), |mut all, chunk| async move {
        all.extend_from_slice(&chunk);
        Ok(all)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_document_is_created_once_for_ever() {
    let memory = Memory::new();
    let store = store(memory.clone());
    assert!(matches!(store.create(&path("a/b"), "one".into()).await, Ok(Created::Ours(held)) if held.meta.version.is_some()));
    assert!(
        matches!(store.create(&path("a/b"), "one".into()).await, Ok(Created::Ours(_))),
        "our own bytes are ours"
    );
    assert!(matches!(store.create(&path("a/b"), "two".into()).await, Ok(Created::Theirs(held)) if held.bytes == "one"));
    assert_eq!(memory.versions_of("a/b"), 1);
    assert_eq!(store.read(&path("a/c"), 10).await.unwrap(), None);
    assert!(matches!(
        store.read(&path("a/b"), 2).await,
        Err(StoreError::TooLarge { size: 3, limit: 2, .. })
    ));
}

/// Each fault in each call of a create: it ends in *ours*, or in an error that is true.
#[tokio::test(start_paused = true)]
async fn a_create_survives_a_fault_in_any_call() {
    let all_faults = [
        Fault::Before(Fault::slow_down()),
        Fault::After(Fault::slow_down()),
        Fault::Before(Fault::reset()),
        Fault::After(Fault::reset()),
        Fault::Before(StoreError::Conflict { path: "a".into() }),
        Fault::Break,
        Fault::Truncate,
        Fault::Slow(Duration::from_secs(100)),
    ];
    for fault in all_faults {
        for index in 0..4 {
            let memory = Memory::new();
            let faulty = Faulty::at(memory.clone(), index, fault.clone());
            let created = store(faulty).create(&path("a"), "document".into()).await;
            assert!(matches!(created, Ok(Created::Ours(_))), "{fault:?} in call {index}: {created:?}");
            assert_eq!(memory.versions_of("a"), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_cannot_be_decided_says_so() {
    let lost = Faulty::new(Memory::new(), |_| Some(Fault::Before(Fault::reset())));
    assert!(matches!(
        store(lost).create(&path("a"), "x".into()).await,
        Err(StoreError::InDoubt { .. })
    ));
    let refused = StoreError::Unreachable {
        call: "put",
        problem: "refused".into(),
        connected: false,
        tls: false,
    };
    let away = Faulty::new(Memory::new(), move |_| Some(Fault::Before(refused.clone())));
    let error = store(away).create(&path("a"), "x".into()).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::GaveUp { .. }) && !error.is_ambiguous(),
        "nothing was sent, nothing is in doubt: {error:?}"
    );
    assert_eq!(error.reason(), holdfast_crds::Reason::StoreUnreachable);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_overwrites_is_noticed() {
    // The put succeeds, and what is read back is not what was put.
    let memory = Memory::new();
    let planted = memory.clone();
    let liar = Faulty::new(memory, move |call: &Call| {
        if call.kind == CallKind::Get {
            planted.plant("a", "theirs");
        }
        None
    });
    assert!(matches!(
        store(liar).create(&path("a"), "ours".into()).await,
        Ok(Created::Theirs(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn parts_of_any_number_of_pieces_are_stored_and_confirmed() {
    for (checksums, confirmed) in [(true, Confirmed::ByStore), (false, Confirmed::ByReading)] {
        let memory = if checksums {
            Memory::new()
        } else {
            Memory::new().without_checksums()
        };
        let memory = memory.min_piece(1000);
        let store = store(memory.clone());
        for count in [0, 1, 2, 3, 7, 20] {
            let pieces: Vec<_> = (0..count)
                .map(|i| noise(if i + 1 == count { 17 } else { 1000 + i }, i as u64 + 1))
                .collect();
            let at = format!("data/{count}");
            let stored = write(&store, &at, &pieces).await.unwrap();
            assert_eq!(stored.size, pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
            assert_eq!(
                stored.confirmed,
                if count == 0 && !checksums {
                    Confirmed::ByReading
                } else {
                    confirmed
                }
            );
            assert_eq!(read_all(&store, &at).await.unwrap(), pieces.concat());
        }
        assert_eq!(memory.open_uploads(), 0);
    }
}

/// Each fault in each call of a part of five pieces: the part is whole and confirmed, and no upload is left.
#[tokio::test(start_paused = true)]
async fn a_part_survives_a_fault_in_any_call() {
    let all_faults = [
        Fault::Before(Fault::slow_down()),
        Fault::After(Fault::slow_down()),
        Fault::Before(Fault::reset()),
        Fault::After(Fault::reset()),
        Fault::Before(StoreError::Damaged {
            path: "p".into(),
            problem: "BadDigest".into(),
        }),
    ];
    let pieces: Vec<_> = (0..5).map(|i| noise(1000, i + 1)).collect();
    for checksums in [true, false] {
        for fault in &all_faults {
            let calls = AtomicUsize::new(usize::MAX);
            for index in 0.. {
                if index > calls.load(Ordering::Relaxed) {
                    break;
                }
                let memory = Memory::new().min_piece(1000);
                let memory = if checksums { memory } else { memory.without_checksums() };
                let faulty = Faulty::at(memory.clone(), index, fault.clone());
                let store = store(faulty.clone());
                write(&store, "data/p", &pieces)
                    .await
                    .unwrap_or_else(|error| panic!("{fault:?} in call {index}: {error}"));
                calls.store(faulty.calls().len(), Ordering::Relaxed);
                assert_eq!(memory.objects()["data/p"], pieces.concat());
                assert_eq!(memory.versions_of("data/p"), 1);
                // An answer to *start upload* that was lost leaves an upload that nobody can name; it is found by its prefix.
                memory.set_clock("2026-11-23T00:00:00Z".parse().unwrap());
                store.abort_leftovers(&path("data"), Duration::from_hours(1)).await.unwrap();
                assert_eq!(memory.open_uploads(), 0, "{fault:?} in call {index}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_the_store_holds_otherwise_is_refused() {
    let pieces = [noise(1000, 1), noise(1000, 2)];
    let cases: [Damage; 2] = [
        ("other bytes", |m| m.plant("data/p", noise(2000, 9))),
        ("cut", |m| m.plant("data/p", noise(1999, 9))),
    ];
    for checksums in [true, false] {
        for (name, damage) in cases {
            let memory = Memory::new().min_piece(1000);
            let memory = if checksums { memory } else { memory.without_checksums() };
            let inner = memory.clone();
            let faulty = Faulty::new(memory, move |call: &Call| {
                if call.kind == CallKind::Head {
                    damage(&inner);
                }
                None
            });
            let error = write(&store(faulty), "data/p", &pieces).await.unwrap_err();
            assert!(matches!(error, StoreError::Mismatch { .. }), "{name}: {error:?}");
            assert_eq!(error.reason(), holdfast_crds::Reason::ChecksumMismatch);
        }
    }
    for read in [Fault::Flip, Fault::Other] {
        let memory = Memory::new().min_piece(1000).without_checksums();
        let faulty = Faulty::first(memory, CallKind::Get, 1, read);
        assert!(matches!(
            write(&store(faulty), "data/p", &pieces).await,
            Err(StoreError::Mismatch { .. })
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_aborted() {
    let memory = Memory::new().min_piece(1000);
    let slow = Faulty::new(memory.clone(), |call: &Call| {
        (call.kind == CallKind::PutPiece).then_some(Fault::Slow(Duration::from_hours(1)))
    });
    let store = store(slow);
    let mut dropped = store.write_part(path("data/dropped"));
    let mut aborted = store.write_part(path("data/aborted"));
    for seed in 1..3 {
        dropped.write(noise(1000, seed)).now_or_never();
        aborted.write(noise(1000, seed)).now_or_never();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(dropped);
    aborted.abort().await;
    while memory.open_uploads() > 0 {
        tokio::task::yield_now().await;
    }
    // Whatever a writer did not clean up, the process does at its end.
    let mut left = store.write_part(path("data/left"));
    left.write(noise(1000, 1)).await.unwrap();
    left.write(noise(1000, 2)).await.unwrap();
    assert_eq!(memory.open_uploads(), 1);
    std::mem::forget(left);
    assert_eq!(store.abort_open().await, 0);
    assert_eq!(memory.open_uploads(), 0);
}

#[tokio::test(start_paused = true)]
async fn pieces_under_way_are_bounded() {
    let memory = Memory::new().min_piece(1000);
    let slow = Faulty::new(memory, |call: &Call| {
        (call.kind == CallKind::PutPiece).then_some(Fault::Slow(Duration::from_secs(10)))
    });
    let store = store(slow.clone());
    let mut part = store.write_part(path("data/p"));
    let begun = tokio::time::Instant::now();
    for seed in 1..=10 {
        part.write(noise(1000, seed)).await.unwrap();
    }
    let sent = slow.calls().iter().filter(|call| call.kind == CallKind::PutPiece).count();
    assert!(
        begun.elapsed() >= Duration::from_secs(20),
        "ten pieces of ten seconds, three at once: {:?}",
        begun.elapsed()
    );
    assert!(sent <= 10);
    part.finish().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn small_pieces_and_too_many_are_refused() {
    let store = store(Memory::new());
    let mut part = store.write_part(path("data/p"));
    part.write(noise(1000, 1)).await.unwrap();
    let error = part.write(noise(1000, 2)).await.unwrap_err();
    assert!(error.to_string().contains("smaller than 5242880 bytes"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn reads_go_on_where_they_broke() {
    let bytes = noise(300_000, 7);
    for fault in [Fault::Break, Fault::Truncate] {
        let memory = Memory::new();
        memory.plant("a", bytes.clone());
        let store = store(Faulty::first(memory, CallKind::Get, 3, fault));
        assert_eq!(read_all(&store, "a").await.unwrap(), bytes);
        let (meta, body) = store.open(&path("a"), Some(1000..200_000), None).await.unwrap();
        assert_eq!(meta.size, 300_000);
        assert_eq!(body.try_collect::<Vec<_>>().await.unwrap().concat(), bytes[1000..200_000]);
    }
    let memory = Memory::new();
    memory.plant("a", bytes.clone());
    let store = store(memory.clone());
    assert!(matches!(
        store.open(&path("a"), Some(0..300_001), None).await,
        Err(StoreError::Mismatch { .. })
    ));
    assert!(matches!(store.open(&path("b"), None, None).await, Err(StoreError::NotFound { .. })));
    // A version that was opened is read to its end, whatever comes after it.
    let (meta, mut body) = store.open(&path("a"), None, None).await.unwrap();
    memory.plant("a", noise(5, 1));
    assert_eq!(body.try_next().await.unwrap().unwrap()[..], bytes[..65536]);
    let (_, again) = store.open(&path("a"), Some(65536..300_000), meta.version.as_deref()).await.unwrap();
    assert_eq!(again.try_collect::<Vec<_>>().await.unwrap().concat(), bytes[65536..]);
}

#[tokio::test(start_paused = true)]
async fn listings_are_complete_or_refused() {
    let memory = Memory::new().page(7);
    for number in 0..50 {
        memory.plant(&format!("a/{number:03}"), "x");
    }
    memory.plant("ab", "x");
    let faulty = Faulty::first(memory.clone(), CallKind::List, 2, Fault::Before(Fault::slow_down()));
    let all = store(faulty).list(&path("a"), 100).await.unwrap();
    assert_eq!(all.len(), 50);
    assert!(matches!(
        store(memory.clone()).list(&path("a"), 49).await,
        Err(StoreError::Listing { .. })
    ));
    assert_eq!(store(memory).list(&path("none"), 0).await.unwrap(), []);
}

/// Names, and the token of the next page.
type PageOf = (&'static [&'static str], Option<&'static str>);
/// What somebody does to a store, and what it is called.
type Damage = (&'static str, fn(&Memory));

/// A backend whose listing goes wrong in a way that no single page shows.
#[derive(Debug)]
struct Pager(Memory, Vec<PageOf>, AtomicUsize);

#[async_trait::async_trait]
impl Backend for Pager {
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn min_piece(&self) -> u64 {
        1
    }
    fn now(&self) -> Option<Timestamp> {
        self.0.now()
    }
    async fn renew_credentials(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
    async fn create(
        &self,
        path: &str,
        content: Content,
        body: &object_store::PutPayload,
        sha256: &digest::Sha256,
    ) -> Result<(), StoreError> {
        self.0.create(path, content, body, sha256).await
    }
    async fn start_upload(&self, path: &str) -> Result<String, StoreError> {
        self.0.start_upload(path).await
    }
    async fn put_piece(&self, path: &str, upload: &str, piece: &backend::Piece) -> Result<backend::PieceReceipt, StoreError> {
        self.0.put_piece(path, upload, piece).await
    }
    async fn complete_upload(&self, path: &str, upload: &str, pieces: &[backend::PieceReceipt]) -> Result<(), StoreError> {
        self.0.complete_upload(path, upload, pieces).await
    }
    async fn abort_upload(&self, path: &str, upload: &str) -> Result<(), StoreError> {
        self.0.abort_upload(path, upload).await
    }
    async fn list_uploads(&self, prefix: &str, from: Option<&str>) -> Result<Page<backend::OpenUpload>, StoreError> {
        self.0.list_uploads(prefix, from).await
    }
    async fn head(&self, path: &str, version: Option<&str>) -> Result<Option<ObjectMeta>, StoreError> {
        self.0.head(path, version).await
    }
    async fn get(
        &self,
        path: &str,
        range: Option<std::ops::Range<u64>>,
        version: Option<&str>,
    ) -> Result<Option<(ObjectMeta, ByteStream)>, StoreError> {
        self.0.get(path, range, version).await
    }
    async fn list(&self, _: &str, _: Option<&str>) -> Result<Page<ObjectMeta>, StoreError> {
        let (names, next) = self.1[self.2.fetch_add(1, Ordering::Relaxed).min(self.1.len() - 1)];
        let item = |name: &&str| ObjectMeta {
            path: (*name).to_owned(),
            size: 1,
            checksum: None,
            version: None,
            modified: None,
        };
        Ok(Page {
            items: names.iter().map(item).collect(),
            next: next.map(str::to_owned),
        })
    }
    async fn versioning(&self) -> Result<Versioning, StoreError> {
        self.0.versioning().await
    }
    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.0.delete(path).await
    }
}

#[tokio::test(start_paused = true)]
async fn f36_listings_that_loop_or_repeat_are_refused() {
    let cases: [(_, Vec<PageOf>); 4] = [
        ("circle", vec![(&["a/1"], Some("t1")), (&[], Some("t2")), (&[], Some("t1"))]),
        ("twice", vec![(&["a/1"], Some("t1")), (&["a/1"], None)]),
        ("not under it", vec![(&["b/1"], None)]),
        ("nothing for ever", vec![(&[], Some("t")), (&[], Some("t"))]),
    ];
    for (name, pages) in cases {
        let broken = store(Pager(Memory::new(), pages, AtomicUsize::new(0)));
        let error = broken.list(&path("a"), 100).await.unwrap_err();
        assert!(matches!(error, StoreError::Listing { .. }), "{name}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let away = Faulty::new(Memory::new(), |_| Some(Fault::Before(Fault::slow_down())));
    let begun = tokio::time::Instant::now();
    let error = store(away.clone()).head(&path("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::GaveUp { .. }), "{error:?}");
    assert!(
        begun.elapsed() <= Patience::RUN.total && begun.elapsed() > Patience::RUN.total / 2,
        "{:?}",
        begun.elapsed()
    );
    assert!(away.calls().len() < 60, "{} calls", away.calls().len());
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_waited_for_only_if_they_were_good_before() {
    let refused = StoreError::Credentials {
        call: "head",
        status: 403,
        code: "InvalidAccessKeyId".into(),
    };
    let fault = refused.clone();
    let never = Faulty::new(Memory::new(), move |_| Some(Fault::Before(fault.clone())));
    assert!(matches!(
        store(never.clone()).head(&path("a")).await,
        Err(StoreError::Credentials { .. })
    ));
    assert_eq!(never.calls().len(), 1);
    let rotated = Faulty::new(Memory::new(), move |call: &Call| {
        (1..4).contains(&call.index).then(|| Fault::Before(refused.clone()))
    });
    let store = store(rotated.clone());
    for _ in 0..2 {
        store.head(&path("a")).await.unwrap();
    }
    assert_eq!(rotated.calls().len(), 5);
}

mod locks;
mod volumes;

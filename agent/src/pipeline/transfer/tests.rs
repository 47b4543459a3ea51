use holdfast_crds::document::{ChecksumAlgorithm, Confirmed as Said};

use super::*;
use crate::pipeline::tests::noise;
use crate::store::{
    Patience,
    faulty::{CallKind, Fault, Faulty},
    memory::Memory,
};

const PATH: &str = "data/shop/orders/orders-1/pod-1/database-1/00001.zst";
/// Two pieces and a little.
const LENGTH: usize = (2 * PIECE) + 12_345;

fn store(backend: impl crate::store::Backend) -> Store {
    Store::new(backend, Patience::PROBE, 4)
}

/// A store with one object, and what is wanted of it.
async fn source(length: usize) -> (Memory, Wanted) {
    let memory = Memory::new();
    let bytes = noise(length, 7);
    let path: StorePath = PATH.parse().unwrap();
    let store = store(memory.clone());
    let mut writer = store.write_part(path.clone());
    for at in (0..length).step_by(5 << 20) {
        writer.write(bytes.slice(at..length.min(at + (5 << 20)))).await.unwrap();
    }
    let stored = writer.finish().await.unwrap();
    let wanted = Wanted {
        path,
        bytes: length as u64,
        sha256: crate::store::digest::of(&bytes),
        version: stored.version,
        key: false,
    };
    (memory, wanted)
}

fn transfer(from: impl crate::store::Backend, to: impl crate::store::Backend) -> Transfer {
    Transfer::new(store(from), store(to), Some(64 << 20), CancellationToken::new(), Arc::default())
}

/// What a store must have in the end: the object as it is in the other, once, and no upload.
fn assert_brought(from: &Memory, to: &Memory) {
    assert!(from.objects() == to.objects(), "the stores differ");
    assert_eq!((to.open_uploads(), to.versions_of(PATH)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_object_is_brought_byte_for_byte_and_confirmed_by_the_store() {
    for (length, algorithm) in [(LENGTH, ChecksumAlgorithm::Sha256Composite), (1_000, ChecksumAlgorithm::Sha256)] {
        let (from, wanted) = source(length).await;
        let to = Memory::new();
        let stored = transfer(from.clone(), to.clone()).object(&wanted).await.unwrap();
        assert_brought(&from, &to);
        assert_eq!(
            (stored.bytes, stored.sha256, stored.path.as_str()),
            (length as u64, wanted.sha256, PATH)
        );
        assert!(matches!(stored.confirmed, Said::Checksum { algorithm: found, .. } if found == algorithm));
        assert!(stored.version_id.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_without_checksums_is_read_back() {
    let (from, wanted) = source(LENGTH).await;
    let to = Memory::new().without_checksums().without_versions();
    let stored = transfer(from.clone(), to.clone()).object(&wanted).await.unwrap();
    assert!(from.objects() == to.objects());
    assert_eq!((stored.confirmed, stored.version_id), (Said::ReadBack {}, None));
}

#[tokio::test(start_paused = true)]
async fn what_was_brought_before_is_compared_and_not_written_again() {
    for checksums in [true, false] {
        let (from, wanted) = source(LENGTH).await;
        let to = if checksums {
            Memory::new()
        } else {
            Memory::new().without_checksums()
        };
        let first = transfer(from.clone(), to.clone()).object(&wanted).await.unwrap();
        // The object is not even read where it comes from.
        from.remove(PATH);
        let again = transfer(from.clone(), to.clone()).object(&wanted).await.unwrap();
        assert_eq!((again.confirmed, &again.version_id), (Said::ReadBack {}, &first.version_id));
        assert_eq!(to.versions_of(PATH), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn other_bytes_are_never_overwritten_nor_taken_for_the_object() {
    let (from, wanted) = source(LENGTH).await;
    for other in [noise(LENGTH, 8), noise(LENGTH - 1, 7)] {
        let to = Memory::new();
        to.plant(PATH, other.clone());
        let error = transfer(from.clone(), to.clone()).object(&wanted).await.unwrap_err();
        assert!(matches!(error, TransferError::Obstructed { .. }), "{error}");
        assert!(to.objects()[PATH] == other);
        assert_eq!(to.versions_of(PATH), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_bytes_are_read_once_more_and_then_refused() {
    let (from, wanted) = source(LENGTH).await;
    for fault in [Fault::Flip, Fault::Other] {
        let to = Memory::new();
        let once = Faulty::first(from.clone(), CallKind::Get, 1, fault.clone());
        transfer(once, to.clone()).object(&wanted).await.unwrap();
        assert_brought(&from, &to);

        let to = Memory::new();
        let always = Faulty::first(from.clone(), CallKind::Get, usize::MAX, fault.clone());
        let error = transfer(always, to.clone()).object(&wanted).await.unwrap_err();
        assert!(matches!(error, TransferError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(&wanted.sha256.to_string()), "{error}");
        assert_eq!((to.objects().len(), to.open_uploads()), (0, 0));
    }
    // Gone, or another version over it.
    let to = Memory::new();
    let gone = Wanted {
        version: Some("v99".to_owned()),
        ..wanted.clone()
    };
    let error = transfer(from.clone(), to.clone()).object(&gone).await.unwrap_err();
    assert!(matches!(error, TransferError::Corrupt { .. }), "{error}");
    from.plant(PATH, noise(LENGTH, 9));
    transfer(from.clone(), to.clone()).object(&wanted).await.unwrap();
    assert!(to.objects()[PATH] == noise(LENGTH, 7), "the version that counts is read");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_created_as_a_document_is() {
    let (from, to) = (Memory::new(), Memory::new());
    let path: StorePath = "catalog/shop/orders/orders-1/key-pod-1-1.age".parse().unwrap();
    from.plant(path.as_str(), "sealed");
    let wanted = Wanted {
        path: path.clone(),
        bytes: 6,
        sha256: crate::store::digest::of(b"sealed"),
        version: None,
        key: true,
    };
    let calls = Faulty::none(to.clone());
    let stored = transfer(from.clone(), calls.clone()).object(&wanted).await.unwrap();
    assert_eq!((stored.confirmed, to.objects() == from.objects()), (Said::ReadBack {}, true));
    assert!(calls.calls().iter().any(|call| call.kind == CallKind::Create));
    let forged = Wanted {
        sha256: crate::store::digest::of(b"forged"),
        ..wanted
    };
    let error = transfer(from, Memory::new()).object(&forged).await.unwrap_err();
    assert!(matches!(error, TransferError::Corrupt { .. }), "{error}");
}

/// Each call to either store is the last one of a process that is killed, or fails in a way that a repetition mends.
#[tokio::test(start_paused = true)]
async fn a_crash_or_a_fault_in_any_call_leaves_nothing_that_the_next_does_not_finish() {
    let (from, wanted) = source(LENGTH).await;
    let counted = (Faulty::none(from.clone()), Faulty::none(Memory::new()));
    transfer(counted.0.clone(), counted.1.clone()).object(&wanted).await.unwrap();
    let faults = [
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::Before(Fault::slow_down()),
        Fault::After(Fault::reset()),
    ];
    let reads = counted.0.calls().len();
    for index in 0..reads + counted.1.calls().len() {
        for fault in &faults {
            let to = Memory::new();
            let (faulty_from, faulty_to) = if index < reads {
                (Faulty::at(from.clone(), index, fault.clone()), Faulty::none(to.clone()))
            } else {
                (Faulty::none(from.clone()), Faulty::at(to.clone(), index - reads, fault.clone()))
            };
            let first = transfer(faulty_from.clone(), faulty_to.clone()).object(&wanted).await;
            let crashed = faulty_from.crashed() || faulty_to.crashed();
            assert!(first.is_ok() || crashed, "{fault:?} in call {index}: {first:?}");
            if crashed {
                let stored = transfer(from.clone(), to.clone()).object(&wanted).await.unwrap();
                assert_eq!(stored.sha256, wanted.sha256);
            }
            assert!(from.objects() == to.objects(), "{fault:?} in call {index}");
            assert_eq!(to.versions_of(PATH), 1, "{fault:?} in call {index}");
        }
    }
}

/// Kubernetes may start two pods of one Job.
#[tokio::test(start_paused = true)]
async fn two_who_bring_the_same_object_at_once_make_one_and_the_same() {
    let (from, wanted) = source(LENGTH).await;
    for to in [Memory::new(), Memory::new().without_checksums()] {
        let (one, other) = (transfer(from.clone(), to.clone()), transfer(from.clone(), to.clone()));
        let (one, other) = tokio::join!(one.object(&wanted), other.object(&wanted));
        assert_eq!((one.unwrap().sha256, other.unwrap().sha256), (wanted.sha256, wanted.sha256));
        assert!(from.objects() == to.objects());
        assert_eq!(to.open_uploads(), 0);
    }
}

#[tokio::test]
async fn when_it_is_cancelled_no_upload_is_left() {
    let (from, wanted) = source(LENGTH).await;
    let to = Memory::new();
    let cancel = CancellationToken::new();
    // The second piece never arrives: by then an upload is open.
    let stop = cancel.clone();
    let hangs = Faulty::new(to.clone(), move |call| {
        let second = call.kind == CallKind::PutPiece && call.index > 2;
        second.then(|| {
            stop.cancel();
            Fault::Slow(std::time::Duration::from_secs(3_600))
        })
    });
    let there = store(hangs.clone());
    let transfer = Transfer::new(store(from), there.clone(), Some(64 << 20), cancel, Arc::default());
    let error = transfer.object(&wanted).await.unwrap_err();
    assert!(matches!(error, TransferError::Cancelled), "{error}");
    assert_eq!(there.abort_open().await, 0);
    assert!(hangs.calls().iter().any(|call| call.kind == CallKind::StartUpload), "one was begun");
    assert_eq!((to.objects().len(), to.open_uploads()), (0, 0));
}

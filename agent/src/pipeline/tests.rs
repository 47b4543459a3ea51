//! The whole way there and back, against a store in memory that refuses what real ones refuse.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use holdfast_crds::document::{
    Blake3, Committed, Contents, Durations, Encryption, Engine, EntryKind, FORMAT, Label, Manifest, Method, PodPath, RunIdentity, RunPath,
    Server, SourceIdentity, Stream, StreamKind, StreamPath,
};
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;

use super::{
    check::{CheckFailed, Checked, Entry, Opaque, StreamCheck},
    key::RunKey,
    pool::{Pool, SLAB},
    *,
};
use crate::store::{
    Patience, Store, StoreError,
    faulty::{CallKind, Fault, Faulty},
    memory::Memory,
};

pub(crate) fn label(text: &str) -> Label {
    Label::new("test", text).unwrap()
}

pub(crate) fn pod() -> PodPath {
    RunPath::new("shop", "orders", "orders-1").unwrap().pod(label("pod-1"))
}

fn place(name: &str, encrypted: bool) -> StreamPath {
    pod().stream(label(name), encrypted)
}

/// A manifest of these streams, which [`pod`] stored.
pub(crate) fn manifest_of(streams: Vec<Stream>, encryption: Encryption) -> Manifest {
    let pod = pod();
    let now = "2026-11-20T22:10:00Z".parse().unwrap();
    Manifest {
        version: FORMAT,
        cluster: "c".into(),
        source: SourceIdentity {
            namespace: pod.run.namespace.clone(),
            name: pod.run.source.clone(),
        },
        run: RunIdentity {
            name: pod.run.run.clone(),
            tick: None,
            attempt: 1,
            pod: pod.pod,
        },
        schedule: None,
        engine: Engine::Postgresql,
        method: Method::Logical,
        copy_type: "Full".into(),
        parents: vec![],
        server: Server {
            host: "db".into(),
            version: "15".into(),
            system_identifier: None,
            standby: false,
            tools: std::collections::BTreeMap::new(),
        },
        recovery_point: now,
        streams,
        contents: Contents::default(),
        encryption,
        durations: Durations {
            started: now,
            finished: now,
            phases: std::collections::BTreeMap::new(),
        },
        not_after: now,
        agent: "test".into(),
    }
}

/// Bytes that compress a little, never the same twice.
pub(crate) fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed * 2 + 1;
    let bytes: Vec<u8> = (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[3] & 0x3f
        })
        .collect();
    bytes.into()
}

/// Sees an entry in every run of `every` bytes.
struct Every {
    every: u64,
    fed: u64,
}

impl StreamCheck for Every {
    fn feed(&mut self, chunk: &[u8], borders: &mut Vec<u64>) -> Result<(), CheckFailed> {
        let before = self.fed / self.every;
        self.fed += chunk.len() as u64;
        borders.extend((before + 1..=self.fed / self.every).map(|number| number * self.every));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Checked, CheckFailed> {
        let entries = (0..self.fed.div_ceil(self.every)).map(|number| Entry {
            id: number.to_string(),
            kind: EntryKind::TableData,
            name: format!("t{number}"),
            raw_offset: number * self.every,
            length: self.every.min(self.fed - number * self.every),
            rows: None,
        });
        Ok(Checked {
            entries: entries.collect(),
            opaque: false,
        })
    }
}

struct Fixture {
    memory: Memory,
    key: Option<RunKey>,
    pool: Pool,
    cancel: CancellationToken,
}

impl Fixture {
    fn new(encrypted: bool) -> Self {
        Self {
            memory: Memory::new(),
            key: encrypted.then(RunKey::generate),
            pool: Pool::new(0, 1),
            cancel: CancellationToken::new(),
        }
    }

    /// A store that holds the same objects but one, which is `damage` or missing. Only for stores without versions.
    fn damaged(&self, path: &str, damage: Option<&Bytes>) -> Self {
        let broken = Self::new(false).without_versions();
        for (other, bytes) in self.memory.objects() {
            let bytes = if other == path { damage.cloned() } else { Some(bytes) };
            if let Some(bytes) = bytes {
                broken.memory.plant(&other, bytes);
            }
        }
        Self {
            key: self.key.clone(),
            ..broken
        }
    }

    fn without_versions(self) -> Self {
        Self {
            memory: Memory::new().without_versions(),
            ..self
        }
    }

    fn sealing(&self) -> Sealing {
        self.key.as_ref().map_or(Sealing::Nothing, |key| Sealing::Age(key.recipient()))
    }

    fn pipeline_on(&self, store: Store) -> Pipeline {
        Pipeline::new(store, self.pool.clone(), self.sealing(), self.cancel.clone(), Arc::default()).with_part_bytes(|_| 7 << 20)
    }

    fn store(&self) -> Store {
        Store::new(self.memory.clone(), Patience::PROBE, 2)
    }

    async fn store_bytes(&self, name: &str, raw: &Bytes, check: Box<dyn StreamCheck>) -> (StoredStream, Stream) {
        let stored = self
            .pipeline_on(self.store())
            .store_stream(&place(name, self.key.is_some()), &raw[..], check)
            .await
            .unwrap();
        let stream = stored.describe(label(name), StreamKind::PostgresqlArchive, None);
        (stored, stream)
    }

    fn committed(streams: Vec<(StoredStream, Stream)>) -> Committed {
        let (stored, streams): (Vec<_>, Vec<_>) = streams.into_iter().unzip();
        Committed::new(
            manifest_of(streams, Encryption::None {}),
            stored.into_iter().flat_map(|stream| stream.stored).collect(),
        )
    }

    fn reader(&self, copy: &Committed) -> CopyReader {
        self.reader_on(self.store(), copy)
    }

    fn reader_on(&self, store: Store, copy: &Committed) -> CopyReader {
        CopyReader::new(
            store,
            copy,
            self.key.clone(),
            self.pool.clone(),
            self.cancel.clone(),
            Arc::default(),
        )
    }
}

async fn read_all(reader: &CopyReader, stream: &Stream) -> Result<Vec<u8>, OpenError> {
    let index = reader.index(stream).await?;
    let mut bytes = Vec::new();
    reader.open(stream, &index).await?.copy_to(&mut bytes).await?;
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_come_back_as_they_went() {
    for encrypted in [true, false] {
        let fixture = Fixture::new(encrypted);
        for (number, length) in [0, 1, SLAB, SLAB + 1, 1 << 20, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 21 << 20]
            .into_iter()
            .enumerate()
        {
            let raw = noise(length, number as u64);
            let (stored, stream) = fixture
                .store_bytes(&format!("s{number}"), &raw, Box::new(Every { every: 700_001, fed: 0 }))
                .await;
            assert_eq!(stored.raw.bytes, length as u64);
            assert_eq!(stored.raw.blake3, Blake3::of(&raw));
            assert_eq!(
                stored.parts.len() > 2,
                length > 15 << 20,
                "{length} bytes are in {} parts",
                stored.parts.len()
            );
            let copy = Fixture::committed(vec![(stored, stream.clone())]);
            let reader = fixture.reader(&copy);
            assert!(
                read_all(&reader, &stream).await.unwrap() == raw,
                "{length} bytes came back otherwise"
            );
            for object in copy.stored() {
                reader.check_head(&object.path, object.bytes, object.sha256).await.unwrap();
                reader.check_digest(&object.path, object.bytes, object.sha256).await.unwrap();
                assert_eq!(fixture.memory.versions_of(&object.path), 1);
            }
        }
        assert_eq!(fixture.memory.open_uploads(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_end_at_borders_and_ranges_need_no_more_than_their_frames() {
    for encrypted in [true, false] {
        let fixture = Fixture::new(encrypted);
        let raw = noise(24 << 20, 5);
        let every = 1_500_000;
        let (stored, stream) = fixture.store_bytes("s", &raw, Box::new(Every { every, fed: 0 })).await;
        let copy = Fixture::committed(vec![(stored, stream.clone())]);
        let faulty = Faulty::none(fixture.memory.clone());
        let reader = fixture.reader_on(Store::new(faulty.clone(), Patience::PROBE, 2), &copy);
        let index = reader.index(&stream).await.unwrap();
        assert!(
            index.frames[..index.frames.len() - 1]
                .iter()
                .all(|frame| u64::from(frame.raw) == every),
            "{:?}",
            index.frames
        );
        for entry in &index.entries {
            let before = faulty.calls().len();
            let wanted = entry.raw_offset..entry.raw_offset + entry.length;
            let mut bytes = Vec::new();
            reader
                .open_range(&stream, &index, wanted.clone())
                .await
                .unwrap()
                .copy_to(&mut bytes)
                .await
                .unwrap();
            assert!(
                bytes == raw[usize::try_from(wanted.start).unwrap()..usize::try_from(wanted.end).unwrap()],
                "{wanted:?} came back otherwise"
            );
            let calls = faulty.calls().len() - before;
            assert!(calls <= 5, "{calls} calls for one entry");
        }
        for wanted in [
            0..1,
            5..5,
            1_499_999..1_500_001,
            0..24 << 20,
            7_000_000..23_000_000,
            (24 << 20) - 1..u64::MAX,
        ] {
            let mut bytes = Vec::new();
            reader
                .open_range(&stream, &index, wanted.clone())
                .await
                .unwrap()
                .copy_to(&mut bytes)
                .await
                .unwrap();
            let end = usize::try_from(wanted.end).unwrap().min(raw.len());
            assert!(
                bytes == raw[usize::try_from(wanted.start).unwrap()..end],
                "{wanted:?} came back otherwise"
            );
        }
    }
}

/// The commands of docs/restore-without-holdfast.md, with the tools of the distribution.
#[tokio::test(flavor = "multi_thread")]
async fn stock_age_and_zstd_read_what_was_stored() {
    let fixture = Fixture::new(true);
    let raw = noise(12 << 20, 8);
    let (stored, stream) = fixture
        .store_bytes("globals", &raw, Box::new(Every { every: 2 << 20, fed: 0 }))
        .await;
    assert!(stream.parts.len() > 1);
    let folder = tempfile::tempdir().unwrap();
    let shell = |script: &str| {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    shell("age-keygen -o mine 2> /dev/null");
    let recipient = String::from_utf8(shell("age-keygen -y mine")).unwrap();
    let sealed = key::seal_key(fixture.key.as_ref().unwrap(), &key::SealTo::recipients([recipient.trim()]).unwrap()).unwrap();
    std::fs::write(folder.path().join("key.age"), sealed).unwrap();
    for (path, bytes) in fixture.memory.objects() {
        std::fs::write(folder.path().join(path.rsplit('/').next().unwrap()), bytes).unwrap();
    }
    shell("age -d -i mine key.age > k");
    assert!(
        shell("for part in [0-9]*.zst.age; do age -d -i k $part; done | zstd -d") == raw,
        "the stream is another"
    );
    assert!(
        shell("age -d -i k 00002.zst.age | zstd -d")
            == raw[usize::try_from(stream.parts[0].raw_bytes).unwrap()..][..usize::try_from(stream.parts[1].raw_bytes).unwrap()]
    );
    let lines = String::from_utf8(shell("age -d -i k index.zst.age | zstd -d")).unwrap();
    assert_eq!(
        lines.lines().count(),
        1 + usize::try_from(stream.parts.iter().map(|part| part.frames).sum::<u64>()).unwrap() + stored.checked.entries.len()
    );
    for object in &stored.stored {
        let name = object.path.rsplit('/').next().unwrap();
        assert_eq!(
            String::from_utf8(shell(&format!("sha256sum < {name}")))
                .unwrap()
                .split(' ')
                .next()
                .unwrap(),
            object.sha256.to_string()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stock_tools_wrote_opens_a_sealed_key() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunKey::generate();
    std::fs::write(folder.path().join("k"), run.to_identity_file().as_bytes()).unwrap();
    let script = "age-keygen -o mine 2> /dev/null; age -r $(age-keygen -y mine) -o key.age k";
    assert!(
        Command::new("bash")
            .args(["-euc", script])
            .current_dir(folder.path())
            .status()
            .unwrap()
            .success()
    );
    let mine = key::Opener::from_identity_file(&std::fs::read_to_string(folder.path().join("mine")).unwrap()).unwrap();
    let sealed = std::fs::read(folder.path().join("key.age")).unwrap();
    assert!(key::open_key(&sealed, &mine, &run.recipient().to_string()).is_ok());
}

/// F39: whichever byte of whichever object is wrong, it is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn f39_every_flipped_byte_is_noticed() {
    for encrypted in [true, false] {
        let fixture = Fixture::new(encrypted).without_versions();
        let raw = noise(300, 1);
        let (stored, stream) = fixture.store_bytes("s", &raw, Box::new(Every { every: 100, fed: 0 })).await;
        let copy = Fixture::committed(vec![(stored, stream.clone())]);
        for (path, whole) in fixture.memory.objects() {
            let same = fixture.damaged(&path, Some(&whole));
            assert!(read_all(&same.reader(&copy), &stream).await.unwrap() == raw);
            for position in 0..whole.len() {
                let mut damaged = whole.to_vec();
                damaged[position] ^= 0x10;
                let broken = fixture.damaged(&path, Some(&damaged.into()));
                let error = read_all(&broken.reader(&copy), &stream)
                    .await
                    .expect_err("a wrong byte was not noticed");
                assert!(
                    matches!(&error, OpenError::Corrupt { object, .. } if *object == path),
                    "byte {position} of {path}: {error}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f39_truncated_missing_and_exchanged_objects_are_noticed_before_a_wrong_byte_is_handed_out() {
    for encrypted in [true, false] {
        let fixture = Fixture::new(encrypted).without_versions();
        let raw = noise(14 << 20, 2);
        let (stored, stream) = fixture.store_bytes("s", &raw, Box::new(Opaque)).await;
        let copy = Fixture::committed(vec![(stored, stream.clone())]);
        let objects = fixture.memory.objects();
        let second = &stream.parts[1].object;
        let first = &objects[&stream.parts[0].object];
        let whole = &objects[second];
        let mut flipped = whole.to_vec();
        flipped[whole.len() / 2] ^= 1;
        let damages: [Option<Bytes>; 5] = [
            None,
            Some(whole.slice(..whole.len() - 1)),
            Some(first.clone()),
            Some(flipped.into()),
            Some(Bytes::new()),
        ];
        for damage in damages {
            let reader = fixture.damaged(second, damage.as_ref()).reader(&copy);
            let index = reader.index(&stream).await.unwrap();
            let mut open = reader.open(&stream, &index).await.unwrap();
            let mut read = Vec::new();
            let error = loop {
                match open.next().await {
                    Ok(Some(bytes)) => read.extend_from_slice(&bytes),
                    Ok(None) => panic!("damage was not noticed"),
                    Err(error) => break error,
                }
            };
            assert!(raw.starts_with(&read), "a wrong byte was handed out");
            assert!(matches!(&error, OpenError::Corrupt { object, .. } if object == second), "{error}");
            let part = &stream.parts[1];
            assert!(reader.check_digest(second, part.bytes, part.sha256).await.is_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_level_of_verify_finds_what_it_promises() {
    let check_of = |every: u64| move |_: &StreamKind| Some(Box::new(Every { every, fed: 0 }) as Box<dyn StreamCheck>);
    for encrypted in [true, false] {
        let fixture = Fixture::new(encrypted).without_versions();
        let raw = noise(12 << 20, 2);
        let one = fixture
            .store_bytes("one", &raw, check_of(1 << 20)(&StreamKind::PostgresqlArchive).unwrap())
            .await;
        let two = fixture
            .store_bytes("two", &raw.slice(..99), check_of(1 << 20)(&StreamKind::PostgresqlArchive).unwrap())
            .await;
        let (part, index) = (one.1.parts[0].object.clone(), two.1.index.object.clone());
        let copy = Fixture::committed(vec![one, two]);
        let objects = fixture.memory.objects();
        for level in [Level::Manifest, Level::Digest, Level::Decode] {
            let report = verify(&fixture.reader(&copy), &copy, level, check_of(1 << 20)).await.unwrap();
            let bytes: usize = objects.values().map(Bytes::len).sum();
            assert_eq!(
                (report.objects, report.bytes, report.damaged),
                (objects.len() as u64, bytes as u64, 0),
                "{level:?}: {report:?}"
            );
        }
        for object in [part, index] {
            let whole = &objects[&object];
            let mut flipped = whole.to_vec();
            flipped[whole.len() / 2] ^= 1;
            for damage in [None, Some(whole.slice(1..)), Some(flipped.into())] {
                let broken = fixture.damaged(&object, damage.as_ref());
                for level in [Level::Manifest, Level::Digest, Level::Decode] {
                    let report = verify(&broken.reader(&copy), &copy, level, check_of(1 << 20)).await.unwrap();
                    assert_eq!(report.damaged, 1, "{level:?} of {object}: {report:?}");
                    assert!(report.damages.iter().all(|damage| damage.contains(&object)), "{report:?}");
                }
            }
        }
        // What rots behind the store's back keeps its checksum: only reading finds it.
        for level in [Level::Manifest, Level::Digest, Level::Decode] {
            let rotten = Faulty::new(fixture.memory.clone(), |call| {
                (call.kind == CallKind::Get && call.path.contains("/one/0")).then_some(Fault::Flip)
            });
            let reader = fixture.reader_on(Store::new(rotten, Patience::PROBE, 2), &copy);
            let report = verify(&reader, &copy, level, check_of(1 << 20)).await.unwrap();
            assert_eq!(report.damaged > 0, level > Level::Manifest, "{level:?}: {report:?}");
        }
        // Whole bytes, but not what the index says.
        let report = verify(&fixture.reader(&copy), &copy, Level::Decode, check_of(3 << 20))
            .await
            .unwrap();
        assert_eq!(report.damaged, 1, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_verify_cannot_look_at_is_an_error_and_no_damage() {
    let fixture = Fixture::new(false);
    let copy = Fixture::committed(vec![fixture.store_bytes("one", &noise(99, 2), Box::new(Opaque)).await]);
    for kind in [CallKind::Head, CallKind::Get] {
        let denied = StoreError::Credentials {
            call: "test",
            status: 403,
            code: "InvalidAccessKeyId".into(),
        };
        let faulty = Faulty::first(fixture.memory.clone(), kind, 1000, Fault::Before(denied));
        let reader = fixture.reader_on(Store::new(faulty, Patience::PROBE, 2), &copy);
        let error = verify(&reader, &copy, Level::Digest, |_| None).await.unwrap_err();
        assert!(matches!(error, OpenError::Store { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_reads_through_breaks_and_flips_of_the_connection() {
    let fixture = Fixture::new(true);
    let raw = noise(14 << 20, 2);
    let (stored, stream) = fixture.store_bytes("s", &raw, Box::new(Opaque)).await;
    let copy = Fixture::committed(vec![(stored, stream.clone())]);
    let faulty = Faulty::first(fixture.memory.clone(), CallKind::Get, 3, Fault::Break);
    let reader = fixture.reader_on(Store::new(faulty, Patience::PROBE, 2), &copy);
    assert!(read_all(&reader, &stream).await.unwrap() == raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_its_key_says_so() {
    let fixture = Fixture::new(true);
    let (stored, stream) = fixture.store_bytes("s", &noise(10, 2), Box::new(Opaque)).await;
    let copy = Fixture::committed(vec![(stored, stream.clone())]);
    let without = Fixture {
        memory: fixture.memory.clone(),
        ..Fixture::new(false)
    };
    assert!(matches!(
        read_all(&without.reader(&copy), &stream).await,
        Err(OpenError::KeyMissing { .. })
    ));
    let wrong = Fixture {
        memory: fixture.memory.clone(),
        ..Fixture::new(true)
    };
    assert!(matches!(
        read_all(&wrong.reader(&copy), &stream).await,
        Err(OpenError::Corrupt { .. })
    ));
}

/// F02: whichever call the process dies at, the stream fails, and what is there is whole or not there.
#[tokio::test(flavor = "multi_thread")]
async fn f02_a_crash_at_any_store_call_stores_no_stream() {
    let raw = noise(16 << 20, 3);
    let run = |fault: Option<(usize, Fault)>| {
        let raw = raw.clone();
        async move {
            let fixture = Fixture::new(true);
            let faulty = match fault {
                Some((index, fault)) => Faulty::at(fixture.memory.clone(), index, fault),
                None => Faulty::none(fixture.memory.clone()),
            };
            let store = Store::new(faulty.clone(), Patience::PROBE, 2);
            let result = fixture
                .pipeline_on(store)
                .store_stream(&place("s", true), &raw[..], Box::new(Opaque))
                .await;
            (result, faulty, fixture.memory)
        }
    };
    let (result, faulty, memory) = run(None).await;
    let complete = memory.objects().len();
    assert_eq!(result.unwrap().stored.len(), complete);
    let calls = faulty.calls().len();
    assert!(calls > 8, "{calls} calls");
    for call in 0..calls {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let (result, faulty, memory) = run(Some((call, fault.clone()))).await;
            assert!(faulty.crashed(), "call {call} was never made");
            assert!(result.is_err(), "{fault:?} at call {call} went unnoticed");
            assert!(memory.objects().len() <= complete);
        }
        for error in [Fault::reset(), Fault::slow_down()] {
            for fault in [Fault::Before(error.clone()), Fault::After(error.clone())] {
                let (result, _, memory) = run(Some((call, fault.clone()))).await;
                let stored = result.unwrap_or_else(|error| panic!("{fault:?} at call {call} was not survived: {error}"));
                assert_eq!(stored.stored.len(), memory.objects().len(), "{fault:?} at call {call}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_store_ends_the_stream_with_its_reason_and_no_open_upload() {
    for kind in [
        CallKind::StartUpload,
        CallKind::PutPiece,
        CallKind::CompleteUpload,
        CallKind::Create,
        CallKind::Head,
    ] {
        let fixture = Fixture::new(true);
        let refusal = StoreError::Full {
            problem: "quota of 10 MiB".into(),
        };
        let faulty = Faulty::first(fixture.memory.clone(), kind, 1000, Fault::Before(refusal));
        let store = Store::new(faulty, Patience::PROBE, 2);
        let error = fixture
            .pipeline_on(store)
            .store_stream(&place("s", true), &noise(20 << 20, 4)[..], Box::new(Opaque))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, WriteError::Store { source, .. } if matches!(source.root(), StoreError::Full { .. })),
            "{kind:?}: {error}"
        );
        if kind != CallKind::CompleteUpload && kind != CallKind::Head {
            assert_eq!(fixture.memory.open_uploads(), 0, "{kind:?}");
        }
    }
}

/// Fails after so many bytes.
struct Failing {
    left: u64,
}

impl StreamCheck for Failing {
    fn feed(&mut self, chunk: &[u8], _borders: &mut Vec<u64>) -> Result<(), CheckFailed> {
        self.left = self.left.checked_sub(chunk.len() as u64).ok_or(CheckFailed {
            offset: 7,
            problem: "found x, expected y".into(),
        })?;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Checked, CheckFailed> {
        Err(CheckFailed {
            offset: 9,
            problem: "the stream ended early".into(),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_check_or_reader_ends_the_stream_with_no_open_upload() {
    let fixture = Fixture::new(true);
    let pipeline = fixture.pipeline_on(fixture.store());
    let raw = noise(20 << 20, 4);
    for left in [12 << 20, 100 << 20] {
        let error = pipeline
            .store_stream(&place(&format!("s{left}"), true), &raw[..], Box::new(Failing { left }))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, WriteError::Check(failed) if failed.offset == if left < 20 << 20 { 7 } else { 9 }),
            "{error}"
        );
    }
    let reader = breaking(&raw, 12 << 20);
    let error = pipeline
        .store_stream(&place("r", true), reader, Box::new(Opaque))
        .await
        .unwrap_err();
    assert!(matches!(&error, WriteError::Read(_)), "{error}");
    assert_eq!(fixture.memory.open_uploads(), 0);
    // The pool is whole again.
    fixture.store_bytes("after", &raw, Box::new(Opaque)).await;
}

/// Hands out `bytes` and fails after `limit` of them.
fn breaking(bytes: &Bytes, limit: usize) -> impl AsyncRead + Unpin {
    let failing = futures::stream::iter([Ok(bytes.slice(..limit)), Err(std::io::Error::other("the pipe broke"))]);
    tokio_util::io::StreamReader::new(failing)
}

/// Hands out noise for ever and counts it.
fn endless(count: Arc<AtomicU64>) -> impl AsyncRead + Unpin {
    let mut seed = 0;
    let chunks = futures::stream::repeat_with(move || {
        seed += 1;
        count.fetch_add(64 << 10, Ordering::SeqCst);
        Ok::<_, std::io::Error>(noise(64 << 10, seed))
    });
    tokio_util::io::StreamReader::new(chunks)
}

/// F05: uploads are aborted within five seconds, whatever the store is doing.
#[tokio::test(flavor = "multi_thread")]
async fn f05_cancelling_aborts_uploads_at_once() {
    let fixture = Fixture::new(true);
    // Pieces never arrive.
    let faulty = Faulty::first(
        fixture.memory.clone(),
        CallKind::PutPiece,
        1000,
        Fault::Slow(Duration::from_secs(3600)),
    );
    let pipeline = fixture.pipeline_on(Store::new(faulty.clone(), Patience::RUN, 2));
    let cancel = fixture.cancel.clone();
    let storing = tokio::spawn(async move {
        pipeline
            .store_stream(&place("s", true), endless(Arc::default()), Box::new(Opaque))
            .await
    });
    while !faulty.calls().iter().any(|call| call.kind == CallKind::PutPiece) {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.memory.open_uploads(), 1);
    let started = std::time::Instant::now();
    cancel.cancel();
    assert!(matches!(storing.await.unwrap(), Err(WriteError::Cancelled)));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(fixture.memory.open_uploads(), 0);
}

/// F45: a store that takes nothing stops the reader, and memory with it.
#[tokio::test(flavor = "multi_thread")]
async fn f45_a_slow_store_pushes_back_to_the_reader() {
    let fixture = Fixture::new(true);
    let faulty = Faulty::first(
        fixture.memory.clone(),
        CallKind::PutPiece,
        1000,
        Fault::Slow(Duration::from_secs(3600)),
    );
    let pipeline = fixture.pipeline_on(Store::new(faulty, Patience::RUN, 2));
    let read = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&read);
    let storing = tokio::spawn(async move { pipeline.store_stream(&place("s", true), endless(counted), Box::new(Opaque)).await });
    // It comes to rest: the same count, seen many times over a time in which it could have read hundreds of megabytes.
    let (mut last, mut same) = (0, 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = read.load(Ordering::SeqCst);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
    }
    // Noise of six bits shrinks to three quarters: what is read can be a third more than what the pool holds.
    let bound = (fixture.pool.bytes() * 3 / 2) as u64;
    assert!(last <= bound, "{last} bytes were read, the pool holds {}", fixture.pool.bytes());
    fixture.cancel.cancel();
    assert!(storing.await.unwrap().is_err());
}

/// However many streams there are, their buffers are those of one pool.
#[tokio::test(flavor = "multi_thread")]
async fn many_streams_share_one_pool() {
    let fixture = Fixture {
        pool: Pool::new(24 << 20, 2),
        ..Fixture::new(true)
    };
    let pipeline = fixture.pipeline_on(fixture.store());
    let raw = noise(6 << 20, 6);
    let streams: Vec<_> = (0..24)
        .map(|number| {
            let (pipeline, raw) = (pipeline.clone(), raw.clone());
            tokio::spawn(async move {
                pipeline
                    .store_stream(&place(&format!("s{number}"), true), &raw[..], Box::new(Opaque))
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut stored = Vec::new();
    for stream in streams {
        stored.push(stream.await.unwrap());
    }
    assert!(
        fixture.pool.buffers_made() * SLAB <= fixture.pool.bytes(),
        "{} buffers were made",
        fixture.pool.buffers_made()
    );
    let streams = stored.into_iter().enumerate().map(|(number, stored)| {
        let stream = stored.describe(label(&format!("s{number}")), StreamKind::PostgresqlArchive, None);
        (stored, stream)
    });
    let copy = Fixture::committed(streams.collect());
    let reader = fixture.reader(&copy);
    let readers: Vec<_> = copy
        .manifest()
        .streams
        .iter()
        .map(|stream| {
            let (reader, stream, raw) = (reader.clone(), stream.clone(), raw.clone());
            tokio::spawn(async move { assert!(read_all(&reader, &stream).await.unwrap() == raw) })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(
        fixture.pool.buffers_made() * SLAB <= fixture.pool.bytes(),
        "{} buffers were made",
        fixture.pool.buffers_made()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_early_gives_everything_back() {
    let fixture = Fixture::new(true);
    let raw = noise(20 << 20, 7);
    let (stored, stream) = fixture.store_bytes("s", &raw, Box::new(Opaque)).await;
    let copy = Fixture::committed(vec![(stored, stream.clone())]);
    let reader = fixture.reader(&copy);
    let index = reader.index(&stream).await.unwrap();
    for _ in 0..5 {
        let mut open = reader.open(&stream, &index).await.unwrap();
        assert!(open.next().await.unwrap().is_some());
    }
    assert!(read_all(&reader, &stream).await.unwrap() == raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_a_panic_in_a_check_is_the_callers_and_leaves_no_upload() {
    struct Panicking(u64);
    impl StreamCheck for Panicking {
        fn feed(&mut self, chunk: &[u8], _: &mut Vec<u64>) -> Result<(), CheckFailed> {
            self.0 += chunk.len() as u64;
            assert!(self.0 < 12 << 20, "a defect in a check");
            Ok(())
        }
        fn finish(self: Box<Self>) -> Result<Checked, CheckFailed> {
            Ok(Checked::default())
        }
    }
    let fixture = Fixture::new(true);
    let pipeline = fixture.pipeline_on(fixture.store());
    let storing = tokio::spawn(async move {
        pipeline
            .store_stream(&place("s", true), endless(Arc::default()), Box::new(Panicking(0)))
            .await
    });
    assert!(storing.await.unwrap_err().is_panic());
    tokio::time::timeout(Duration::from_secs(5), async {
        while fixture.memory.open_uploads() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("an upload stayed open");
}

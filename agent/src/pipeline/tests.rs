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

mod damage;
mod faults;

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
            keep_for: None,
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

use super::super::{
    Backend,
    backend::{OpenUpload, Page, PieceReceipt},
    faulty::{Call, CallKind, Fault, Faulty},
    memory::Memory,
};
use super::*;

fn probe() -> Probe {
    Probe {
        uid: Label::new("uid", "0a1b2c3d-0000-4000-8000-000000000001").unwrap(),
        cluster: "cluster-a".into(),
        store: "shop/offsite".into(),
        not_before: None,
    }
}

/// A memory whose clock is ours.
fn memory() -> Memory {
    let memory = Memory::new();
    memory.set_clock(Timestamp::now());
    memory
}

async fn verdict(backend: impl Backend) -> Verdict {
    Store::new(backend, PATIENCE, 2).probe(&probe()).await
}

fn failed(verdict: &Verdict) -> Vec<(&str, Reason)> {
    verdict
        .report
        .checks
        .iter()
        .filter(|check| !check.passed)
        .map(|check| (check.name.as_str(), check.reason.unwrap()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_good_store_is_ready_and_left_clean() {
    for memory in [memory(), memory().without_checksums(), memory().without_versions()] {
        let verdict = verdict(memory.clone()).await;
        assert_eq!((verdict.reason, failed(&verdict)), (Reason::StoreReady, vec![]), "{verdict:#?}");
        let names: Vec<_> = verdict.report.checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "Reach",
                "List",
                "Clock",
                "Put",
                "Read",
                "CreateIfAbsent",
                "Checksum",
                "Upload",
                "AbortUpload",
                "Owner"
            ]
        );
        assert_eq!(
            (verdict.report.owner.as_deref(), verdict.report.epoch),
            (Some("cluster-a"), Some(1))
        );
        assert!(verdict.report.clock_skew_seconds.unwrap().abs() < 5);
        assert_eq!(memory.objects().into_keys().collect::<Vec<_>>(), ["owner/1.json"]);
        assert_eq!(memory.open_uploads(), 0);
    }
    assert_eq!(verdict(memory()).await.report.versioning, Some(true));
    assert_eq!(verdict(memory().without_versions()).await.report.versioning, Some(false));
}

#[tokio::test(start_paused = true)]
async fn the_first_check_that_fails_gives_the_reason() {
    let denied = |kind: CallKind| {
        move |call: &Call| {
            let error = StoreError::Denied {
                call: "test",
                path: call.path.clone(),
                status: 403,
                code: "AccessDenied".into(),
            };
            (call.kind == kind).then_some(Fault::Before(error))
        }
    };
    for (kind, check) in [
        (CallKind::List, "List"),
        (CallKind::Create, "Put"),
        (CallKind::Get, "Put"),
        (CallKind::StartUpload, "Upload"),
        (CallKind::CompleteUpload, "Upload"),
        (CallKind::AbortUpload, "AbortUpload"),
    ] {
        let verdict = verdict(Faulty::new(memory(), denied(kind))).await;
        assert_eq!(failed(&verdict).first().map(|first| first.0), Some(check), "{kind:?}: {verdict:#?}");
        assert_ne!(verdict.reason, Reason::StoreReady);
        assert!(verdict.message.starts_with(check), "{}", verdict.message);
        assert!(verdict.report.owner.is_none(), "a store that fails is not claimed");
    }
    for (error, reason) in [
        (StoreError::NoSuchStore { name: "bucket b".into() }, Reason::BucketNotFound),
        (
            StoreError::Credentials {
                call: "list",
                status: 403,
                code: "SignatureDoesNotMatch".into(),
            },
            Reason::StoreAccessDenied,
        ),
        (
            StoreError::Unreachable {
                call: "list",
                problem: "refused".into(),
                connected: false,
                tls: false,
            },
            Reason::StoreUnreachable,
        ),
        (
            StoreError::Unreachable {
                call: "list",
                problem: "unknown issuer".into(),
                connected: false,
                tls: true,
            },
            Reason::StoreTlsFailed,
        ),
    ] {
        let verdict = verdict(Faulty::new(memory(), move |_| Some(Fault::Before(error.clone())))).await;
        assert_eq!((verdict.reason, verdict.report.checks.len()), (reason, 1), "{verdict:#?}");
    }
    // No right to delete, no right to ask for versions: neither is needed.
    for kind in [CallKind::Delete, CallKind::Versioning] {
        let verdict = verdict(Faulty::new(memory(), denied(kind))).await;
        assert_eq!(verdict.reason, Reason::StoreReady);
    }
}

#[tokio::test(start_paused = true)]
async fn f41_clocks_apart_are_found() {
    let memory = Memory::new();
    memory.set_clock(Timestamp::now() - SignedDuration::from_mins(6));
    let verdict = verdict(memory).await;
    assert_eq!(
        (verdict.reason, failed(&verdict)),
        (Reason::ClockSkew, vec![("Clock", Reason::ClockSkew)])
    );
    assert!((-361..=-359).contains(&verdict.report.clock_skew_seconds.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn f82_a_foreign_store_is_refused() {
    let memory = memory();
    Store::new(memory.clone(), PATIENCE, 1)
        .claim("cluster-b", "shop/offsite")
        .await
        .unwrap();
    let verdict = verdict(memory).await;
    assert_eq!(
        (verdict.reason, failed(&verdict)),
        (Reason::StoreForeign, vec![("Owner", Reason::StoreForeign)])
    );
    assert_eq!(verdict.report.owner.as_deref(), Some("cluster-b"));
}

/// The ways in which a store lies.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// A create replaces what exists.
    Overwrites,
    /// A create of what exists is said to have succeeded, and does nothing.
    Pretends,
    /// Looks and then writes: those who race all win.
    LooksFirst,
    /// Does not look at checksums.
    TakesAnything,
    /// Refuses every create as if it existed.
    AlwaysTaken,
    /// Tells no time.
    NoClock,
    /// Keeps the first half.
    Halves,
}

#[derive(Debug)]
struct Liar(Memory, Lie);

#[async_trait::async_trait]
impl Backend for Liar {
    fn describe(&self) -> String {
        format!("{:?}", self.1)
    }
    fn min_piece(&self) -> u64 {
        Backend::min_piece(&self.0)
    }
    fn now(&self) -> Option<Timestamp> {
        if matches!(self.1, Lie::NoClock) { None } else { self.0.now() }
    }
    async fn renew_credentials(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
    async fn create(&self, path: &str, content: Content, body: &PutPayload, sha256: &digest::Sha256) -> Result<(), StoreError> {
        let bytes: Vec<u8> = body.iter().flatten().copied().collect();
        let exists = self.0.head(path).await?.is_some();
        match self.1 {
            Lie::Overwrites => self.0.plant(path, bytes),
            Lie::Pretends if exists => {}
            Lie::LooksFirst if !exists => {
                tokio::task::yield_now().await;
                self.0.plant(path, bytes);
            }
            Lie::TakesAnything if !exists => self.0.plant(path, bytes),
            Lie::AlwaysTaken => return Err(StoreError::AlreadyExists { path: path.to_owned() }),
            Lie::Halves if !exists => self.0.plant(path, bytes[..bytes.len() / 2].to_vec()),
            _ => return self.0.create(path, content, body, sha256).await,
        }
        Ok(())
    }
    async fn start_upload(&self, path: &str) -> Result<String, StoreError> {
        self.0.start_upload(path).await
    }
    async fn put_piece(&self, path: &str, upload: &str, piece: &Piece) -> Result<PieceReceipt, StoreError> {
        self.0.put_piece(path, upload, piece).await
    }
    async fn complete_upload(&self, path: &str, upload: &str, pieces: &[PieceReceipt]) -> Result<(), StoreError> {
        self.0.complete_upload(path, upload, pieces).await
    }
    async fn abort_upload(&self, path: &str, upload: &str) -> Result<(), StoreError> {
        self.0.abort_upload(path, upload).await
    }
    async fn list_uploads(&self, prefix: &str, from: Option<&str>) -> Result<Page<OpenUpload>, StoreError> {
        self.0.list_uploads(prefix, from).await
    }
    async fn head(&self, path: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.0.head(path).await
    }
    async fn get(
        &self,
        path: &str,
        range: Option<std::ops::Range<u64>>,
        version: Option<&str>,
    ) -> Result<Option<(ObjectMeta, super::super::ByteStream)>, StoreError> {
        self.0.get(path, range, version).await
    }
    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page<ObjectMeta>, StoreError> {
        self.0.list(prefix, from).await
    }
    async fn versioning(&self) -> Result<Versioning, StoreError> {
        self.0.versioning().await
    }
    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.0.delete(path).await
    }
}

#[tokio::test(start_paused = true)]
async fn f43_a_store_that_lies_is_refused() {
    for (lie, check) in [
        (Lie::Overwrites, "CreateIfAbsent"),
        (Lie::LooksFirst, "CreateIfAbsent"),
        (Lie::Pretends, "CreateIfAbsent"),
        (Lie::TakesAnything, "Checksum"),
        (Lie::NoClock, "Clock"),
        (Lie::Halves, "Put"),
    ] {
        let verdict = verdict(Liar(memory(), lie)).await;
        assert_eq!(
            failed(&verdict).first(),
            Some(&(check, Reason::StoreUnsafe)),
            "{lie:?}: {verdict:#?}"
        );
        assert_eq!(verdict.reason, Reason::StoreUnsafe);
    }
    let verdict = verdict(Liar(memory(), Lie::AlwaysTaken)).await;
    assert_eq!(failed(&verdict).first().map(|first| first.0), Some("Put"), "{verdict:#?}");
}

use super::super::{
    Backend, Lock, Retained, WriteLock,
    backend::{OpenUpload, Page, PieceReceipt},
    faulty::{Call, CallKind, Fault, Faulty},
    memory::Memory,
};
use super::*;
use holdfast_crds::{LockMode, ObjectLockReport};
use std::{collections::BTreeMap, sync::Mutex};

fn probe() -> Probe {
    Probe {
        uid: Label::new("uid", "0a1b2c3d-0000-4000-8000-000000000001").unwrap(),
        cluster: "cluster-a".into(),
        store: "shop/offsite".into(),
        not_before: None,
        take_over: None,
        roles: Roles::default(),
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

fn said<'a>(verdict: &'a Verdict, name: &str) -> &'a str {
    &verdict.report.checks.iter().find(|check| check.name == name).unwrap().message
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
                "CreateAfterDelete",
                "WriterDeletes",
                "Owner"
            ]
        );
        assert_eq!(
            said(&verdict, "CreateAfterDelete"),
            "a name is free after its object was deleted, and is taken once"
        );
        assert!(said(&verdict, "WriterDeletes").contains("docs/stores.md, Rights"), "{verdict:#?}");
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
    let none = move |call: &Call| denied(CallKind::Delete)(call).or_else(|| denied(CallKind::DeleteVersion)(call));
    let verdict = verdict(Faulty::new(memory(), none)).await;
    assert_eq!(verdict.reason, Reason::StoreReady);
    assert_eq!(
        (said(&verdict, "CreateAfterDelete"), said(&verdict, "WriterDeletes")),
        ("not tried: the store does not let the probe delete", "it may not")
    );
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
    /// A name that was deleted once stays taken.
    KeepsNames,
    /// A name that was deleted once is free for ever after.
    FreesNames,
    /// What was deleted is there again.
    Resurrects,
    /// Keeps the first half.
    Halves,
    /// Deletes what is locked.
    DeletesLocked,
    /// Shortens locks.
    Shortens,
    /// Takes locks and shows none.
    ForgetsLocks,
    /// Takes legal holds and shows none.
    ForgetsHolds,
}

#[derive(Debug)]
struct Liar(Memory, Lie, Mutex<BTreeMap<String, Vec<u8>>>);

impl Liar {
    fn new(memory: Memory, lie: Lie) -> Self {
        Self(memory, lie, Mutex::default())
    }

    /// What was deleted under this name.
    fn deleted(&self, path: &str) -> Option<Vec<u8>> {
        self.2.lock().unwrap().get(path).cloned()
    }
}

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
        let exists = self.0.head(path, None).await?.is_some();
        match self.1 {
            Lie::Overwrites => self.0.plant(path, bytes),
            Lie::Pretends if exists => {}
            Lie::LooksFirst if !exists => {
                tokio::task::yield_now().await;
                self.0.plant(path, bytes);
            }
            Lie::TakesAnything if !exists => self.0.plant(path, bytes),
            Lie::KeepsNames if self.deleted(path).is_some() => return Err(StoreError::AlreadyExists { path: path.to_owned() }),
            Lie::FreesNames if self.deleted(path).is_some() => self.0.plant(path, bytes),
            Lie::Resurrects if self.deleted(path).is_some() => self.0.plant(path, self.deleted(path).unwrap_or_default()),
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
    async fn head(&self, path: &str, version: Option<&str>) -> Result<Option<ObjectMeta>, StoreError> {
        self.0.head(path, version).await
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
    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<Page<super::super::ObjectVersion>, StoreError> {
        self.0.list_versions(prefix, from).await
    }
    async fn delete_version(&self, path: &str, version: Option<&str>) -> Result<(), StoreError> {
        if matches!(self.1, Lie::DeletesLocked) {
            self.0.force_lock(path, Lock::default());
        }
        let there = self.0.objects().remove(path);
        self.0.delete_version(path, version).await?;
        self.2.lock().unwrap().extend(there.map(|bytes| (path.to_owned(), bytes.to_vec())));
        Ok(())
    }
    async fn object_lock(&self) -> Result<bool, StoreError> {
        self.0.object_lock().await
    }
    async fn lock_of(&self, path: &str, version: Option<&str>) -> Result<Lock, StoreError> {
        let lock = self.0.lock_of(path, version).await?;
        Ok(match self.1 {
            Lie::ForgetsLocks => Lock { retained: None, ..lock },
            Lie::ForgetsHolds => Lock { legal_hold: false, ..lock },
            _ => lock,
        })
    }
    async fn set_retained(&self, path: &str, version: Option<&str>, retained: Retained) -> Result<(), StoreError> {
        if matches!(self.1, Lie::Shortens) {
            self.0.force_lock(path, Lock::default());
        }
        self.0.set_retained(path, version, retained).await
    }
    async fn set_legal_hold(&self, path: &str, version: Option<&str>, on: bool) -> Result<(), StoreError> {
        self.0.set_legal_hold(path, version, on).await
    }
    fn write_lock(&self) -> Option<WriteLock> {
        self.0.write_lock()
    }
}

#[tokio::test(start_paused = true)]
async fn f43_a_store_that_lies_is_refused() {
    for (lie, check) in [
        (Lie::Overwrites, "CreateIfAbsent"),
        (Lie::LooksFirst, "CreateIfAbsent"),
        (Lie::Pretends, "CreateIfAbsent"),
        (Lie::KeepsNames, "CreateAfterDelete"),
        (Lie::FreesNames, "CreateAfterDelete"),
        (Lie::Resurrects, "CreateAfterDelete"),
        (Lie::TakesAnything, "Checksum"),
        (Lie::NoClock, "Clock"),
        (Lie::Halves, "Put"),
    ] {
        let verdict = verdict(Liar::new(memory(), lie)).await;
        assert_eq!(
            failed(&verdict).first(),
            Some(&(check, Reason::StoreUnsafe)),
            "{lie:?}: {verdict:#?}"
        );
        assert_eq!(verdict.reason, Reason::StoreUnsafe);
    }
    let verdict = verdict(Liar::new(memory(), Lie::AlwaysTaken)).await;
    assert_eq!(failed(&verdict).first().map(|first| first.0), Some("Put"), "{verdict:#?}");
}

const WEEK: Duration = Duration::from_hours(168);

#[tokio::test(start_paused = true)]
async fn locks_are_believed_once_they_held() {
    for mode in [LockMode::Governance, LockMode::Compliance] {
        let memory = memory().with_write_lock(mode, WEEK);
        let found = verdict(memory.clone()).await;
        assert_eq!(found.reason, Reason::StoreReady, "{found:#?}");
        let report = ObjectLockReport {
            found: true,
            enforced: Some(true),
        };
        assert_eq!(found.report.object_lock, Some(report));
        // The canary stays until its lock has ended; a later probe takes it away.
        let left = |memory: &Memory| memory.objects().into_keys().filter(|path| path.starts_with("probe/")).count();
        assert_eq!(left(&memory), 1);
        assert!(
            memory.locked("owner/1.json").until().is_some(),
            "the owner is locked as everything is"
        );
        memory.advance(SignedDuration::from_mins(20));
        let patient = Probe {
            not_before: super::super::Backend::now(&memory),
            ..probe()
        };
        let later = Store::new(memory.clone(), PATIENCE, 2).probe(&patient).await;
        assert_eq!((later.reason, left(&memory)), (Reason::StoreReady, 1), "{later:#?}");
    }
    // Nobody relies on it: it is only told.
    let only_told = verdict(memory().with_object_lock()).await;
    assert_eq!(only_told.reason, Reason::StoreReady);
    assert_eq!(
        only_told.report.object_lock,
        Some(ObjectLockReport {
            found: true,
            enforced: None
        })
    );
    assert!(only_told.report.checks.iter().all(|check| check.name != "ObjectLock"));
}

#[tokio::test(start_paused = true)]
async fn f44_locks_that_are_none_are_refused() {
    for lie in [Lie::DeletesLocked, Lie::Shortens, Lie::ForgetsLocks, Lie::ForgetsHolds] {
        let verdict = verdict(Liar::new(memory().with_write_lock(LockMode::Compliance, WEEK), lie)).await;
        let expected = if matches!(lie, Lie::ForgetsHolds) {
            Reason::ChecksumMismatch
        } else {
            Reason::StoreUnsafe
        };
        assert_eq!(failed(&verdict), [("ObjectLock", expected)], "{lie:?}: {verdict:#?}");
        assert!(verdict.report.owner.is_none(), "{lie:?}: a store that fails is not claimed");
    }
    // spec.objectLock on a bucket without it: what such a server answers to a put with a lock comes first, or the probe's own words.
    let mut without = memory().with_write_lock(LockMode::Governance, WEEK);
    without = without.without_object_lock();
    let verdict = verdict(without).await;
    assert_eq!(verdict.reason, Reason::StoreUnsafe, "{verdict:#?}");
    assert!(
        verdict.message.contains("spec.objectLock is set, but memory has no Object Lock"),
        "{}",
        verdict.message
    );
}

#[tokio::test(start_paused = true)]
async fn each_role_with_credentials_of_its_own_is_tried() {
    let denying = |memory: &Memory, denied: &'static [CallKind]| {
        let plan = move |call: &Call| {
            let error = StoreError::Denied {
                call: "test",
                path: call.path.clone(),
                status: 403,
                code: "AccessDenied".into(),
            };
            denied.contains(&call.kind).then_some(Fault::Before(error))
        };
        Some(Store::new(Faulty::new(memory.clone(), plan), PATIENCE, 1))
    };
    let tried = async |reader: &'static [CallKind], keeper: &'static [CallKind], pruner: &'static [CallKind]| {
        let memory = memory().with_write_lock(LockMode::Compliance, WEEK);
        let probe = Probe {
            roles: Roles {
                reader: denying(&memory, reader),
                keeper: denying(&memory, keeper),
                pruner: denying(&memory, pruner),
            },
            ..probe()
        };
        let writer = denying(&memory, &[CallKind::DeleteVersion, CallKind::SetRetained, CallKind::SetLegalHold]).unwrap();
        let verdict = writer.probe(&probe).await;
        // With the rights of who deletes.
        let expected = if pruner.contains(&CallKind::DeleteVersion) {
            "not tried"
        } else {
            "a name is free"
        };
        assert!(said(&verdict, "CreateAfterDelete").starts_with(expected), "{verdict:#?}");
        failed(&verdict).first().map(|first| first.0.to_owned())
    };
    let none = tried(
        &[CallKind::Create, CallKind::StartUpload],
        &[CallKind::DeleteVersion],
        &[CallKind::Create, CallKind::SetRetained],
    )
    .await;
    assert_eq!(none, None);
    assert_eq!(tried(&[CallKind::Get], &[], &[]).await.as_deref(), Some("Reader"));
    assert_eq!(tried(&[], &[CallKind::ListVersions], &[]).await.as_deref(), Some("Keeper"));
    assert_eq!(tried(&[], &[CallKind::SetRetained], &[]).await.as_deref(), Some("ObjectLock"));
    assert_eq!(tried(&[], &[CallKind::SetLegalHold], &[]).await.as_deref(), Some("ObjectLock"));
    assert_eq!(tried(&[], &[], &[CallKind::DeleteVersion]).await.as_deref(), Some("Pruner"));
}

#[tokio::test(start_paused = true)]
async fn a_place_is_taken_over_from_whom_the_specification_names() {
    let memory = memory();
    let old = Store::new(memory.clone(), PATIENCE, 1);
    let pinned = old.claim("cluster-b", "shop/offsite").await.unwrap();
    let take_over = async |from: &str| {
        let probe = Probe {
            take_over: Some(from.to_owned()),
            ..probe()
        };
        Store::new(memory.clone(), PATIENCE, 2).probe(&probe).await
    };
    let wrong = take_over("cluster-c").await;
    assert_eq!(wrong.reason, Reason::StoreForeign);
    assert!(
        wrong.message.contains("\"cluster-b\"") && wrong.message.contains("spec.takeOver"),
        "{}",
        wrong.message
    );
    for _ in 0..2 {
        let taken = take_over("cluster-b").await;
        assert_eq!((taken.reason, taken.report.epoch), (Reason::StoreReady, Some(2)), "{taken:#?}");
        assert_eq!(taken.report.owner.as_deref(), Some("cluster-a"));
    }
    assert!(old.still_owned(&pinned).await.is_err());
}

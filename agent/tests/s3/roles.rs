//! The four roles, with the bucket policy exactly as the manual prints it (but for the names of the accounts): what each may, and what somebody can do who has
//! taken the writer's keys.

use super::*;
use holdfast_agent::store::{
    Alteration, Deleted, Locked, RegisterError, WriteLock, alterations, probe::Roles, s3::Credentials, s3::S3Config,
};
use holdfast_crds::{LockMode, ObjectLockReport};
use jiff::{SignedDuration, Timestamp};

const MANUAL: &str = include_str!("../../../docs/stores.md");
const WEEK: Duration = Duration::from_hours(168);

/// The policy that the manual prints, for accounts that are named as their roles.
fn policy() -> String {
    let (_, rest) = MANUAL.split_once("<!-- policy: roles -->\n```json\n").unwrap();
    let (printed, _) = rest.split_once("```").unwrap();
    printed.replace("arn:aws:iam::111122223333:user/holdfast-", "")
}

pub struct Place {
    pub gateway: Gateway,
    pub writer: Store,
    pub reader: Store,
    pub keeper: Store,
    pub pruner: Store,
}

/// The place with the rights of a role; what it writes is locked so.
pub fn locking(gateway: &Gateway, role: &str, lock: WriteLock) -> Store {
    let config = S3Config {
        prefix: "prod-eu".to_owned(),
        write_lock: Some(lock),
        ..gateway.config_of(role)
    };
    store(config).unwrap()
}

impl Place {
    pub async fn new(mode: LockMode, length: Duration) -> Self {
        let gateway = Gateway::locked().await;
        gateway.put("?policy=", &policy(), &[]).await;
        let of = |role: &str| locking(&gateway, role, WriteLock { mode, length });
        let [writer, reader, keeper, pruner] = ["writer", "reader", "keeper", "pruner"].map(of);
        Self {
            gateway,
            writer,
            reader,
            keeper,
            pruner,
        }
    }

    fn probe(&self) -> Probe {
        Probe {
            roles: Roles {
                reader: Some(self.reader.clone()),
                keeper: Some(self.keeper.clone()),
                pruner: Some(self.pruner.clone()),
            },
            ..probe_of("a")
        }
    }

    /// A put of an object that may be there already, with a role's keys.
    async fn overwrite(&self, role: &str, at: &str, body: &str) -> u16 {
        self.gateway
            .put_as(role, role, &format!("/prod-eu/{at}"), body, &[])
            .await
            .0
            .as_u16()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what was tried is of no further use")]
fn denied<T: std::fmt::Debug>(what: &str, tried: Result<T, StoreError>) {
    assert!(matches!(tried, Err(StoreError::Denied { status: 403, .. })), "{what}: {tried:?}");
}

#[tokio::test]
async fn the_probe_finds_roles_and_locks_as_they_should_be() {
    for mode in [LockMode::Governance, LockMode::Compliance] {
        let place = Place::new(mode, WEEK).await;
        let verdict = place.writer.probe(&place.probe()).await;
        assert_eq!(verdict.reason, Reason::StoreReady, "{verdict:#?}");
        let report = ObjectLockReport {
            found: true,
            enforced: Some(true),
        };
        assert_eq!((verdict.report.object_lock, verdict.report.versioning), (Some(report), Some(true)));
        let said = |name: &str| &verdict.report.checks.iter().find(|check| check.name == name).unwrap().message;
        assert!(said("CreateAfterDelete").starts_with("a name is free"), "{verdict:#?}");
        assert_eq!(said("WriterDeletes"), "it may not");
        let left = place.reader.list(&path("probe"), 100).await.unwrap();
        assert!(
            left.iter().all(|object| object.path.ends_with("-locked")) && left.len() == 1,
            "{left:#?}"
        );
    }
    let without = Gateway::versioned();
    without.enable_versions().await;
    let config = S3Config {
        write_lock: Some(WriteLock {
            mode: LockMode::Governance,
            length: WEEK,
        }),
        ..without.config()
    };
    let (reason, text) = probed(&store(config).unwrap()).await;
    assert_eq!(reason, Reason::StoreUnsafe, "{text}");
    assert!(text.contains("spec.objectLock is set, but bucket backups"), "{text}");
}

#[tokio::test]
async fn each_role_may_what_it_needs_and_no_more() {
    let place = Place::new(LockMode::Governance, Duration::from_secs(2)).await;
    let Place {
        writer,
        reader,
        keeper,
        pruner,
        ..
    } = &place;
    let held = match writer
        .create(&path("catalog/shop/db/r/outcome.json"), "outcome".into())
        .await
        .unwrap()
    {
        Created::Ours(held) => held,
        Created::Theirs(_) => panic!(),
    };
    let part = write(writer, "data/shop/db/r/p/s/1", &three_pieces()).await.unwrap();
    let (register, data) = (path("catalog/shop/db/r/outcome.json"), path("data/shop/db/r/p/s/1"));
    let (version, part) = (held.meta.version.as_deref(), part.version.as_deref());
    // What is not there is not forbidden, for nobody who reads.
    for (role, store) in [("writer", writer), ("reader", reader), ("keeper", keeper)] {
        assert_eq!(store.read(&register, 100).await.unwrap().unwrap().bytes, "outcome", "{role}");
        assert_eq!(store.read(&path("catalog/none"), 100).await.unwrap(), None, "{role}");
        assert_eq!(store.versions_of(&register).await.unwrap().len(), 1, "{role}");
        assert_eq!(store.list(&path("data"), 10).await.unwrap().len(), 1, "{role}");
    }
    denied("the pruner reads", pruner.read(&register, 100).await);
    // Writing.
    denied("the reader writes", reader.create(&path("catalog/x"), "x".into()).await);
    denied("the pruner writes", pruner.create(&path("catalog/x"), "x".into()).await);
    denied("the keeper writes parts", keeper.create(&path("data/x"), "x".into()).await);
    denied("the keeper takes over", keeper.create(&path("owner/2.json"), "x".into()).await);
    keeper.create(&path("catalog/shop/db/r/record.json"), "x".into()).await.unwrap();
    keeper.create(&path("holds/h/record.json"), "x".into()).await.unwrap();
    // Locks and holds.
    let until = Timestamp::now() + SignedDuration::from_secs(6);
    assert!(matches!(keeper.extend_lock(&data, part, until).await, Ok(Locked::Held(_))));
    for (role, store) in [("writer", writer), ("reader", reader)] {
        denied(role, store.backend().set_legal_hold(register.as_str(), version, true).await);
        denied(role, store.lock_of(&register, version).await);
    }
    denied("pruner", pruner.backend().set_legal_hold(register.as_str(), version, true).await);
    keeper.set_legal_hold(&register, version, true).await.unwrap();
    // Deleting.
    for (role, store) in [("writer", writer), ("reader", reader), ("keeper", keeper)] {
        denied(role, store.backend().delete(register.as_str()).await);
        denied(role, store.backend().delete_version(data.as_str(), part).await);
        let bypass = [("x-amz-bypass-governance-retention", "true")];
        let status = place
            .gateway
            .delete_as(role, &format!("/prod-eu/{data}?versionId={}", part.unwrap()), &bypass)
            .await;
        assert_eq!(status, 403, "{role} by-passes a lock");
    }
    for at in [&register, &data] {
        let refused = pruner.delete_version(at, if at == &data { part } else { version }).await.unwrap();
        assert!(matches!(refused, Deleted::Refused(_)), "{at}: {refused:?}");
    }
    let bypass = [("x-amz-bypass-governance-retention", "true")];
    let status = place
        .gateway
        .delete_as("pruner", &format!("/prod-eu/{data}?versionId={}", part.unwrap()), &bypass)
        .await;
    assert_eq!(status, 403, "the pruner by-passes a lock");
    // Once nothing keeps them.
    let before = place.gateway.disk_bytes();
    let begun = Instant::now();
    while pruner.delete_version(&data, part).await.unwrap() != Deleted::Gone {
        assert!(begun.elapsed() < Duration::from_secs(60), "a lock of six seconds did not end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(before - place.gateway.disk_bytes() >= 10 << 20, "the space is free");
    // Its own lock has ended, the legal hold has not. This server heeds a hold no longer then: we do.
    let kept = pruner.delete_version(&register, version).await.unwrap();
    assert!(matches!(kept, Deleted::Refused(lock) if lock.legal_hold), "{kept:?}");
    keeper.set_legal_hold(&register, version, false).await.unwrap();
    assert_eq!(pruner.delete_version(&register, version).await.unwrap(), Deleted::Gone);
    denied("the pruner deletes a hold", pruner.backend().delete("holds/h/record.json").await);
}

#[tokio::test]
async fn what_somebody_does_with_the_writers_keys_is_refused_or_seen() {
    let place = Place::new(LockMode::Compliance, WEEK).await;
    let (writer, reader, keeper) = (&place.writer, &place.reader, &place.keeper);
    let run = RunPath::new("shop", "db", "run-1").unwrap();
    let decide = |message: &str, by: &str, at: Timestamp| {
        let abandonment = Abandonment {
            reason: "DumpFailed".to_owned(),
            message: message.to_owned(),
        };
        Outcome {
            run: run.clone(),
            nonce: by.to_owned(),
            by: Label::new("pod uid", by).unwrap(),
            at,
            decision: Decision::Abandoned(abandonment),
        }
    };
    let pinned = writer.claim("a", "shop/offsite").await.unwrap();
    let not_after = Timestamp::now() + SignedDuration::from_mins(10);
    let ours = decide("ours", "pod-a", Timestamp::now());
    let committed = writer.commit(&ours, &pinned, not_after).await.unwrap();
    let part = write(writer, "data/shop/db/run-1/p/s/1", &three_pieces()).await.unwrap();
    let record = "catalog/shop/db/run-1/01ARZ3NDEKTSV4RRFFQ69G5FAV-retain.json";
    let Created::Ours(first_record) = keeper.create(&path(record), "ours".into()).await.unwrap() else {
        panic!()
    };
    let register = path("catalog/shop/db/run-1/outcome.json");
    // Deleting, shortening, holding.
    for at in [register.as_str(), part.path.as_str(), record] {
        denied(at, writer.backend().delete(at).await);
        let versions = writer.versions_of(&path(at)).await.unwrap();
        denied(at, writer.backend().delete_version(at, versions[0].version.as_deref()).await);
        let short = holdfast_agent::store::Retained {
            mode: LockMode::Compliance,
            until: Timestamp::now() + SignedDuration::from_secs(60),
        };
        denied(at, writer.backend().set_retained(at, versions[0].version.as_deref(), short).await);
        let weaker = holdfast_agent::store::Retained {
            mode: LockMode::Governance,
            ..short
        };
        denied(at, writer.backend().set_retained(at, versions[0].version.as_deref(), weaker).await);
    }
    // A create does not replace.
    assert!(matches!(writer.create(&register, "forged".into()).await, Ok(Created::Theirs(_))));
    assert_eq!(alterations(&versions(keeper, "catalog").await).len(), 0);
    // Nor does the writer speak for the keeper.
    for record in [
        "catalog/shop/db/run-1/01ARZ3NDEKTSV4RRFFQ69G5FAW-removed.json",
        "catalog/shop/db/01ARZ3NDEKTSV4RRFFQ69G5FAW-retired.json",
        "holds/htax-1/01ARZ3NDEKTSV4RRFFQ69G5FAW-release.json",
        "owner/2.json",
    ] {
        denied(record, writer.create(&path(record), "forged".into()).await);
    }
    // A plain put does: nobody believes it, and what was first is still there.
    let forged = decide("forged", "forger", Timestamp::now());
    assert_eq!(
        place
            .overwrite("writer", register.as_str(), std::str::from_utf8(&forged.to_bytes()).unwrap())
            .await,
        200
    );
    assert_eq!(place.overwrite("writer", record, "forged").await, 403);
    assert_eq!(place.overwrite("keeper", record, "forged").await, 200);
    assert_eq!(place.overwrite("writer", part.path.as_str(), "forged").await, 200);
    for (role, store) in [("reader", reader), ("writer", writer), ("keeper", keeper)] {
        let read = store.outcome(&run).await.unwrap_err();
        assert!(
            matches!(read, RegisterError::Altered(Alteration::Overwritten { .. })),
            "{role}: {read:?}"
        );
        assert_eq!(read.reason(), Reason::Tampered, "{role}");
    }
    let again = writer.commit(&ours, &pinned, not_after).await.unwrap_err();
    assert_eq!(again.reason(), Reason::Tampered, "{again:?}");
    let first = keeper.outcome_version(&run, committed.version.as_deref()).await.unwrap().unwrap();
    assert_eq!(first.outcome, ours);
    let seen: Vec<_> = alterations(&versions(keeper, "catalog").await)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(
        seen.iter().any(|line| line.starts_with(register.as_str())) && seen.iter().any(|line| line.starts_with(record)),
        "{seen:?}"
    );
    let tampered = keeper.tampered(&path(record), first_record.meta.version.as_deref()).await.unwrap();
    assert!(matches!(tampered, Some(Alteration::Overwritten { first, .. }) if first == first_record.meta.version));
    // Parts are looked at and read by their version.
    let head = reader.head_version(&part.path, part.version.as_deref()).await.unwrap().unwrap();
    assert_eq!((head.size, head.version), (part.size, part.version.clone()));
    let (_, body) = reader.open(&part.path, None, part.version.as_deref()).await.unwrap();
    assert_eq!(body.try_collect::<Vec<_>>().await.unwrap().concat(), three_pieces().concat());
    // A forged outcome for a run that is due tomorrow is older than its tick.
    let tomorrow = Timestamp::now() + SignedDuration::from_hours(24);
    let future = RunPath::new("shop", "db", "run-2").unwrap();
    let forged = Outcome {
        run: future.clone(),
        ..decide("forged", "forger", tomorrow)
    };
    assert_eq!(
        place
            .overwrite(
                "writer",
                "catalog/shop/db/run-2/outcome.json",
                std::str::from_utf8(&forged.to_bytes()).unwrap()
            )
            .await,
        200
    );
    let adopted = reader.outcome(&future).await.unwrap().unwrap().adopt(Some(tomorrow)).unwrap_err();
    assert_eq!(adopted.reason(), Reason::Tampered, "{adopted:?}");
}

#[tokio::test]
async fn a_preview_needs_no_more_than_the_readers_rights() {
    let place = Place::new(LockMode::Governance, WEEK).await;
    let run = RunPath::new("shop", "db", "run-1").unwrap();
    let pinned = place.writer.claim("a", "shop/offsite").await.unwrap();
    let abandoned = Outcome {
        run: run.clone(),
        nonce: "n".to_owned(),
        by: Label::new("pod uid", "p").unwrap(),
        at: Timestamp::now(),
        decision: Decision::Abandoned(Abandonment {
            reason: "DumpFailed".to_owned(),
            message: "m".to_owned(),
        }),
    };
    let not_after = Timestamp::now() + SignedDuration::from_mins(10);
    place.writer.commit(&abandoned, &pinned, not_after).await.unwrap();
    let before = versions(&place.keeper, "catalog").await;
    let S3Config { endpoint, credentials, .. } = place.gateway.config_of("reader");
    let Credentials::Files(keys) = credentials else { panic!() };
    let store = serde_json::json!({"metadata": {"name": "offsite", "namespace": "shop"}, "spec": {
        "s3": {"bucket": BUCKET, "prefix": "prod-eu", "endpoint": endpoint}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}},
        "objectLock": {"mode": "Governance"}}, "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore"});
    let file = keys.join("store.yaml");
    std::fs::write(&file, store.to_string()).unwrap();
    let preview = |keys: std::path::PathBuf| {
        let mut agent = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast-agent"));
        agent
            .args(["keep", "--preview", "--output=json", "--store"])
            .arg(&file)
            .arg("--store-secret")
            .arg(keys);
        tokio::task::spawn_blocking(move || agent.output().unwrap())
    };
    let output = preview(keys).await.unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{log}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["counts"]["kept"], &told["findings"]),
        (&0.into(), &serde_json::json!([])),
        "{told}"
    );
    assert_eq!(versions(&place.keeper, "catalog").await, before);
    // The gate is real: who may not even read is told so.
    let Credentials::Files(keys) = place.gateway.config_of("pruner").credentials else {
        panic!()
    };
    let output = preview(keys).await.unwrap();
    assert_eq!(output.status.code(), Some(i32::from(Reason::StoreAccessDenied.exit_code())));
}

async fn versions(store: &Store, directory: &str) -> Vec<holdfast_agent::store::ObjectVersion> {
    let mut pages = store.list_versions(&path(directory));
    let mut all = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        all.extend(page);
    }
    all
}

#[test]
fn the_manuals_policy_names_each_role() {
    let policy: serde_json::Value = serde_json::from_str(&policy()).unwrap();
    let text = policy.to_string();
    for role in ["writer", "reader", "keeper", "pruner"] {
        assert!(text.contains(&format!("\"{role}\"")), "{role}");
    }
    assert!(!text.contains("Bypass") && !text.contains("arn:aws:iam"));
}

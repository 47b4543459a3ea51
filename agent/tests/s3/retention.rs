//! Retention on a real server, with the rights that the manual prints: copies of some days ago whose marks are due, and locks that have ended for one
//! and not for the other.

use super::*;
use crate::copy::commit_with;
use holdfast_agent::{
    command::keep,
    config::{Invocation, Places},
    store::{Deleted, ObjectVersion, WriteLock},
};
use holdfast_crds::{
    Action, KeepSchedule, KeepSummary, KeepTask, LockMode, Retention, Task,
    document::{Fact, Record, ScheduleName, Sha256, Ulid},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

const SIZE: usize = 1 << 20;

/// A pass of the store's keeper, as its Job makes it, behind `endpoint`.
struct Keeper {
    invocation: Invocation,
    task: KeepTask,
    _root: tempfile::TempDir,
}

impl Keeper {
    fn new(gateway: &Gateway, endpoint: &str) -> Self {
        let task = KeepTask {
            schedules: vec![KeepSchedule {
                schedule: ScheduleName {
                    namespace: Some("shop".to_owned()),
                    name: "gold".to_owned(),
                },
                time_zone: "UTC".to_owned(),
                retention: Retention {
                    keep_last: Some(3),
                    ..Retention::default()
                },
                interval_seconds: 86_400,
            }],
            ..KeepTask::default()
        };
        let roles: serde_json::Map<_, _> = ["writer", "reader", "keeper", "pruner"]
            .iter()
            .map(|role| ((*role).to_owned(), json!({"secretName": format!("s3-{role}")})))
            .collect();
        let spec = json!({"s3": {"bucket": BUCKET, "prefix": "prod-eu", "endpoint": endpoint}, "credentials": {"roles": roles},
            "encryption": {"none": {}}, "objectLock": {"mode": "Governance", "atWrite": "1h"}});
        let store = json!({"name": "near", "uid": "u", "spec": spec});
        let root = tempfile::tempdir().unwrap();
        let keys = |role: &str| match gateway.config_of(role).credentials {
            Credentials::Files(keys) => keys,
            Credentials::WebIdentity(_) => panic!("{role} has no keys"),
        };
        let places = Places {
            store_keeper: keys("keeper"),
            store_pruner: keys("pruner"),
            ..Places::below(root.path())
        };
        let whole = Task {
            version: holdfast_crds::TASK_VERSION,
            cluster: "cluster-a".to_owned(),
            namespace: "shop".to_owned(),
            store: serde_json::from_value(store).unwrap(),
            action: Action::Keep(Box::new(task.clone())),
        };
        Self {
            invocation: Invocation::new(whole, places).unwrap(),
            task,
            _root: root,
        }
    }

    /// Passes until one removes something.
    async fn pass_until_it_removes(&self) -> KeepSummary {
        let begun = Instant::now();
        loop {
            let result = keep::run(&self.invocation, &self.task).await.unwrap();
            let kept = result.kept.unwrap();
            assert_eq!((kept.blocked, kept.findings), (0, 0), "{}: {:?}", result.message, kept.notes);
            if kept.removed > 0 {
                return kept;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing is removed: {}", result.message);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Commits a copy of so many hours ago, as the server shows it, too.
async fn commit_ago(place: &roles::Place, writer: &Store, hours: i64) -> (RunPath, Sha256) {
    let tick = Timestamp::now() - SignedDuration::from_hours(hours);
    let name = format!("orders-{}", tick.strftime("%Y%m%dt%H%Mz"));
    let pieces = [noise(SIZE, hours.unsigned_abs())];
    let (run, digest) = commit_with(writer, &name, pieces, |manifest| {
        manifest["run"]["tick"] = json!(tick);
        manifest["recoveryPoint"] = json!(tick);
        manifest["schedule"] =
            json!({"name": "gold", "namespace": "shop", "trigger": "daily", "generation": 1, "policyDigest": "0".repeat(64)});
    })
    .await;
    let file = std::fs::File::open(place.gateway.file(&format!("prod-eu/{}", run.outcome()))).unwrap();
    file.set_modified(tick.into()).unwrap();
    (run, digest)
}

/// A mark as a pass of some days ago left it.
async fn mark(keeper: &Store, (run, manifest): &(RunPath, Sha256)) {
    let at = Timestamp::now() - SignedDuration::from_hours(49);
    let fact = Fact::Mark {
        reason: "nothing keeps it".to_owned(),
        input: Sha256::of(b"facts"),
        not_before: at + SignedDuration::from_hours(48),
    };
    let by = Label::new("pod", "keeper-1").unwrap();
    let record = Record::new(run.clone(), Ulid::new(at, [7; 10]), by, at, Some(*manifest), fact);
    keeper.create_record(&record.path(), record.to_bytes()).await.unwrap();
}

async fn versions(store: &Store, directory: &str) -> Vec<ObjectVersion> {
    let mut pages = store.list_versions(&path(directory));
    let mut all = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        all.extend(page);
    }
    all
}

/// The words of a run's records.
async fn said(store: &Store, run: &RunPath) -> Vec<String> {
    let objects = store.list(&path(&format!("catalog/{run}")), 100).await.unwrap();
    let names = objects
        .iter()
        .filter_map(|object| object.path.rsplit_once('/'))
        .map(|(_, name)| name);
    let words = names.filter_map(|name| name.rsplit_once('-')?.1.strip_suffix(".json"));
    words.map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_due_goes_for_good_and_what_the_server_locks_goes_once_its_lock_has_ended() {
    let place = roles::Place::new(LockMode::Governance, Duration::from_secs(1)).await;
    let lock = |seconds| WriteLock {
        mode: LockMode::Governance,
        length: Duration::from_secs(seconds),
    };
    let free = commit_ago(&place, &place.writer, 5 * 24).await;
    // Its key, and one that was added.
    let keys = [1, 2].map(|number| format!("catalog/{}/key-pod-1-{number}.age", free.0));
    for key in &keys {
        place.writer.create(&path(key), "sealed".into()).await.unwrap();
    }
    for days in 0..3 {
        commit_ago(&place, &place.writer, days * 24 + 1).await;
    }
    let locked = commit_ago(&place, &roles::locking(&place.gateway, "writer", lock(20)), 4 * 24).await;
    for marked in [&free, &locked] {
        mark(&place.keeper, marked).await;
    }
    let data = |(run, _): &(RunPath, Sha256)| run.data().trim_end_matches('/').to_owned();
    let before = place.gateway.disk_bytes();
    let proxy = Proxy::start(place.gateway.address, |_| Act::Pass).await;
    let keeper = Keeper::new(&place.gateway, &proxy.endpoint());

    let kept = keeper.pass_until_it_removes().await;
    assert_eq!((kept.copies, kept.removed, kept.marked), (4, 1, 1), "{:?}", kept.notes);
    assert_eq!(versions(&place.keeper, &data(&free)).await, []);
    let size = SIZE as u64;
    assert!(place.gateway.disk_bytes() + size < before + size / 4, "the space is free");
    assert_eq!(said(&place.reader, &free.0).await, ["mark", "removed"]);
    assert!(
        place.reader.outcome(&free.0).await.unwrap().is_some(),
        "the register stays, so that nobody takes its place"
    );
    // First the record that says so, then version by version.
    let seen = proxy.seen();
    let of = |run: &RunPath, method: &str, end: &str| {
        let positions = seen
            .iter()
            .enumerate()
            .filter(|(_, seen)| seen.method == method && seen.path.contains(run.run.as_str()) && seen.path.ends_with(end));
        positions.map(|(position, _)| position).collect::<Vec<_>>()
    };
    let (records, deletes) = (of(&free.0, "PUT", "-removed.json"), of(&free.0, "DELETE", ""));
    assert_eq!((records.len(), deletes.len()), (1, 4), "two keys, a part and an index");
    assert!(records[0] < deletes[0], "{records:?} {deletes:?}");
    for (key, position) in keys.iter().zip(&deletes) {
        assert!(
            seen[*position].path.ends_with(key.as_str()),
            "keys go before data: {:?}",
            seen[*position]
        );
        assert_eq!(place.keeper.versions_of(&path(key)).await.unwrap(), []);
    }
    assert!(deletes.iter().all(|position| seen[*position].query.contains("versionId=")));

    // The server refuses what it locks; that is a fact, and no failure.
    assert_eq!(of(&locked.0, "DELETE", ""), [] as [usize; 0]);
    assert_eq!(said(&place.reader, &locked.0).await, ["mark"]);
    let lying = versions(&place.keeper, &data(&locked)).await;
    assert_eq!(lying.len(), 2, "{lying:?}");
    let mut end = Timestamp::MIN;
    for object in &lying {
        let refused = place
            .pruner
            .delete_version(&path(&object.path), object.version.as_deref())
            .await
            .unwrap();
        let Deleted::Refused(lock) = refused else {
            panic!("{} was deleted while it was locked", object.path)
        };
        end = end.max(lock.until().unwrap());
        let denied = place.pruner.backend().delete_version(&object.path, object.version.as_deref()).await;
        assert!(matches!(denied, Err(StoreError::Denied { status: 403, .. })), "{denied:?}");
    }

    let kept = keeper.pass_until_it_removes().await;
    assert!(Timestamp::now() >= end, "it went before its lock ended at {end}");
    assert_eq!((kept.copies, kept.removed, kept.marked), (3, 1, 0), "{:?}", kept.notes);
    assert_eq!(versions(&place.keeper, &data(&locked)).await, []);
    assert!(place.gateway.disk_bytes() + 2 * size < before + size / 4, "the space is free");
    assert_eq!(said(&place.reader, &locked.0).await, ["mark", "removed"]);
}

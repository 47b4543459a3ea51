//! A store that is filled from another: two servers, with the rights that the manual prints, a reader's in the one and a writer's in the other.

use super::*;
use holdfast_agent::{
    command::{lines::Lines, replicate::run_with},
    config::{Invocation, Places},
};
use holdfast_crds::{
    Action, AgentResult, COPY_LINE, CopyTask, LockMode, ReplicaState, Task,
    document::{Committed, Sha256},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

const WEEK: Duration = Duration::from_hours(168);
const DATA: &str = "data/shop/orders/orders-1/pod-1/database-1";

/// Commits a copy of a part of three pieces and an index, as a run does. Nobody decodes it here.
async fn commit(store: &Store) -> (RunPath, Sha256) {
    let run = RunPath::new("shop", "orders", "orders-1").unwrap();
    let mut stored = Vec::new();
    let mut object = async |name: &str, pieces: &[Bytes]| {
        let at = format!("{DATA}/{name}");
        let all = pieces.concat();
        let sha256 = holdfast_agent::store::digest::of(&all);
        stored.push(write(store, &at, pieces).await.unwrap().to_document(sha256));
        json!({"object": at, "bytes": all.len(), "sha256": sha256})
    };
    let mut part = object("00001.zst", &three_pieces()).await;
    let mut index = object("index.zst", &[noise(300, 9)]).await;
    let raw = json!({"bytes": 10, "blake3": "0".repeat(64)});
    for (field, value) in [("decryptedBytes", 10), ("rawBytes", 10), ("frames", 1)] {
        part[field] = value.into();
    }
    index["raw"] = raw.clone();
    let now = store.now().unwrap();
    let manifest = json!({
        "version": "1.0", "cluster": "cluster-a", "source": {"namespace": "shop", "name": "orders"},
        "run": {"name": "orders-1", "attempt": 1, "pod": "pod-1"}, "engine": "postgresql", "method": "logical", "type": "Full", "parents": [],
        "server": {"host": "db", "version": "15.13", "standby": false, "tools": {}}, "recoveryPoint": now,
        "streams": [{"name": "database-1", "kind": "postgresql-archive", "checked": "structure", "raw": raw, "parts": [part], "index": index}],
        "contents": {"databases": []}, "encryption": {"none": {}}, "durations": {"started": now, "finished": now, "phases": {}},
        "notAfter": "2126-01-01T00:00:00Z", "agent": "0.1.0",
    });
    let copy = Committed::new(serde_json::from_value(manifest).unwrap(), stored);
    let digest = copy.manifest_sha256();
    let outcome = Outcome {
        run: run.clone(),
        nonce: "n".to_owned(),
        by: Label::new("pod", "pod-1").unwrap(),
        at: now,
        decision: Decision::Committed(Box::new(copy)),
    };
    let pinned = store.claim("cluster-a", "shop/near").await.unwrap();
    assert!(store.commit(&outcome, &pinned, Timestamp::MAX).await.unwrap().ours);
    (run, digest)
}

async fn fill(from: &Store, to: &Store) -> AgentResult {
    let store = |name: &str| json!({"name": name, "uid": "u", "spec": {"s3": {"bucket": BUCKET}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}}});
    let copy = json!({"namespace": "shop", "source": "orders", "from": store("near"), "now": Timestamp::now(), "notAfter": "2126-01-01T00:00:00Z"});
    let copy: CopyTask = serde_json::from_value(copy).unwrap();
    let task = Task {
        version: holdfast_crds::TASK_VERSION,
        cluster: "cluster-a".to_owned(),
        namespace: "shop".to_owned(),
        store: serde_json::from_value(store("far")).unwrap(),
        action: Action::Copy(Box::new(copy.clone())),
    };
    let root = tempfile::tempdir().unwrap();
    let invocation = Invocation::new(task, Places::below(root.path())).unwrap();
    let lines = Lines::new(COPY_LINE, Box::new(|_| {}));
    run_with(&invocation, &copy, (from, to), lines).await.unwrap()
}

#[tokio::test]
async fn a_readers_rights_in_one_store_and_a_writers_in_the_other_fill_it_with_locks() {
    let (near, far) = (
        roles::Place::new(LockMode::Governance, WEEK).await,
        roles::Place::new(LockMode::Compliance, WEEK).await,
    );
    let (run, digest) = commit(&near.writer).await;
    let filled = fill(&near.reader, &far.writer).await;
    assert_eq!(filled.reason, Reason::Succeeded, "{}", filled.message);
    assert_eq!(filled.copied.unwrap().count(ReplicaState::Copied), 1);
    let decided = far.reader.outcome(&run).await.unwrap().unwrap();
    let copy = decided.outcome.committed().unwrap();
    assert_eq!(copy.manifest_sha256(), digest);
    for object in copy.stored() {
        assert_eq!(
            read_all(&far.reader, &object.path).await.unwrap(),
            read_all(&near.reader, &object.path).await.unwrap()
        );
        let lock = far.keeper.lock_of(&path(&object.path), object.version_id.as_deref()).await.unwrap();
        let least = Timestamp::now() + SignedDuration::from_hours(167);
        assert!(lock.until().is_some_and(|until| until > least), "{}: {lock:?}", object.path);
        let versions = far.keeper.versions_of(&path(&object.path)).await.unwrap();
        assert_eq!(versions.len(), 1, "{}", object.path);
    }
    let again = fill(&near.reader, &far.writer).await;
    assert_eq!(again.copied.unwrap().count(ReplicaState::Present), 1);
    // A reader fills nothing.
    let empty = roles::Place::new(LockMode::Governance, WEEK).await;
    let refused = fill(&near.reader, &empty.reader).await;
    assert_eq!(refused.reason, Reason::StoreAccessDenied, "{}", refused.message);
}

/// What an interrupted pass left is found whole and is not sent again: this server tells a checksum of pieces, which is ours.
#[tokio::test]
async fn objects_that_lie_there_are_read_back_and_taken() {
    let (near, far) = (Gateway::start(), Gateway::start());
    let (from, to) = (near.store(), far.store());
    let (run, _) = commit(&from).await;
    write(&to, &format!("{DATA}/00001.zst"), &three_pieces()).await.unwrap();
    let filled = fill(&from, &to).await;
    assert_eq!(filled.reason, Reason::Succeeded, "{}", filled.message);
    assert!(to.outcome(&run).await.unwrap().unwrap().outcome.committed().is_some());
    // Other bytes of the same size are neither taken nor overwritten.
    let other = Gateway::start();
    let to = other.store();
    let pieces: Vec<_> = three_pieces().iter().map(|piece| noise(piece.len(), 77)).collect();
    write(&to, &format!("{DATA}/00001.zst"), &pieces).await.unwrap();
    let filled = fill(&from, &to).await;
    assert_eq!(filled.copied.unwrap().count(ReplicaState::Obstructed), 1);
    assert_eq!(read_all(&to, &format!("{DATA}/00001.zst")).await.unwrap(), pieces.concat());
    assert!(to.outcome(&run).await.unwrap().is_none());
}

//! A store that is filled from another: two servers, with the rights that the manual prints, a reader's in the one and a writer's in the other.

use super::*;
use copy::{DATA, commit};
use holdfast_agent::{
    command::{lines::Lines, replicate::run_with},
    config::{Invocation, Places},
};
use holdfast_crds::{Action, AgentResult, COPY_LINE, CopyTask, LockMode, ReplicaState, Task};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const WEEK: Duration = Duration::from_hours(168);

async fn fill(from: &Store, to: &Store) -> AgentResult {
    fill_until(from, to, CancellationToken::new()).await
}

async fn fill_until(from: &Store, to: &Store, cancel: CancellationToken) -> AgentResult {
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
    let mut invocation = Invocation::new(task, Places::below(root.path())).unwrap();
    invocation.cancel = cancel;
    let lines = Lines::new(COPY_LINE, Box::new(|_| {}));
    run_with(&invocation, &copy, (from, to), lines).await.unwrap()
}

#[tokio::test]
async fn a_readers_rights_in_one_store_and_a_writers_in_the_other_fill_it_with_locks() {
    let (near, far) = (
        roles::Place::new(LockMode::Governance, WEEK).await,
        roles::Place::new(LockMode::Compliance, WEEK).await,
    );
    let (run, digest) = commit(&near.writer, three_pieces()).await;
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
    let (run, _) = commit(&from, three_pieces()).await;
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

/// F05: SIGTERM while a piece is on its way.
#[tokio::test]
async fn f05_who_is_asked_to_stop_leaves_no_upload_and_the_next_one_goes_on() {
    let (near, far) = (Gateway::start(), Gateway::start());
    let from = near.store();
    let (run, _) = commit(&from, three_pieces()).await;
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let hangs = move |seen: &Seen| {
        if !seen.is_piece() {
            return Act::Pass;
        }
        stop.cancel();
        Act::Delay(Duration::from_secs(60))
    };
    let (to, _proxy) = behind(&far, hangs).await;
    let begun = Instant::now();
    let stopped = fill_until(&from, &to, cancel).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((stopped.reason, stopped.copied.unwrap().complete), (Reason::Interrupted, false));
    assert_eq!(uploads(&far).await, 0);
    let to = far.store();
    assert!(to.outcome(&run).await.unwrap().is_none());
    assert_eq!(fill(&from, &to).await.copied.unwrap().count(ReplicaState::Copied), 1);
}

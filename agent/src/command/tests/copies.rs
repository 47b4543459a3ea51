//! A copy in a second store is as good as the one that was made.

use holdfast_crds::{COPY_LINE, CopyTask, ReplicaState};

use super::*;
use crate::command::lines::Lines;
use crate::command::replicate;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_brought_to_a_second_store_is_restored_from_there_when_the_first_is_lost() {
    let mut scene = Scene::new();
    scene.server.create("second place", &awkward());
    let before = scene.script("second place");
    let task = scene.backup_task("run-1", &["second place"], &nothing());
    let made = scene.backup("pod-1", &task).await.unwrap().copy.unwrap();

    let copy = json!({"namespace": "shop", "source": "shop", "now": "2026-11-20T22:10:00Z", "notAfter": "2126-01-01T00:00:00Z",
        "from": {"name": "near", "uid": "n", "spec": {"s3": {"bucket": "near"}, "credentials": {"secretName": "s3"}, "encryption": scene.encryption}}});
    let copy: CopyTask = serde_json::from_value(copy).unwrap();
    let (from, second) = (scene.store(), Memory::new());
    let to = Store::new(second.clone(), Patience::PROBE, 2);
    let invocation = scene.invocation("pod-2", Action::Copy(Box::new(copy.clone())));
    // The one who brings it has no key.
    std::fs::rename(scene.places().identity, scene.root.path().join("away")).unwrap();
    let lines = Lines::new(COPY_LINE, Box::new(|_| {}));
    let brought = replicate::run_with(&invocation, &copy, (&from, &to), lines).await.unwrap();
    assert_eq!(brought.copied.unwrap().count(ReplicaState::Copied), 1, "{}", brought.message);
    std::fs::rename(scene.root.path().join("away"), scene.places().identity).unwrap();

    scene.memory = second;
    scene.server.sql("postgres", "DROP DATABASE \"second place\"");
    let request = scene.restore_task("from the second", "run-1", &json!({"manifestDigest": made.manifest_digest}));
    let restored = scene.restore("pod-3", &request).await.unwrap();
    assert_eq!(restored.reason, Reason::Succeeded, "{}", restored.message);
    let after = scene.script("second place");
    assert!(before == after, "{}", difference(&before, &after));
}

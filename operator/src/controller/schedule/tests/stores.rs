//! Schedules with several stores.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_second_store_that_is_missing_stops_no_run_and_one_that_is_encrypted_otherwise_stops_all() {
    let both = json!({"stores": [{"name": "vault"}, {"name": "offsite", "types": ["Full"]}], "requiredCopies": 2});
    let world = world(&both);
    world.reconcile().await.unwrap();
    assert_eq!(runs_of(&world.fake.calls()), [name("a"), name("b")]);
    let run = world.fake.get(&format!("{RUNS}/{}", name("a"))).unwrap();
    let stores = json!([{"name": "vault", "kind": "BackupStore"}, {"name": "offsite", "kind": "BackupStore"}]);
    assert_eq!((&run["spec"]["stores"], &run["spec"]["requiredCopies"]), (&stores, &json!(2)));
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "StoreNotFound"));
    assert!(
        message.contains("BackupStore vault") && message.contains("Runs write to the others"),
        "{message}"
    );

    let world = self::world(&both);
    let vault = json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": meta("vault", "2026-03-01T01:00:00Z"),
        "spec": {"s3": {"bucket": "vault"}, "credentials": {"secretName": "s3"}, "encryption": {"passphrase": {"secretName": "p"}}},
    });
    world
        .context
        .caches
        .stores
        .watched(serde_json::from_value::<BackupStore>(vault).unwrap());
    world.reconcile().await.unwrap();
    assert_eq!(runs_of(&world.fake.calls()), [""; 0]);
    let (status, reason, message) = world.condition("Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "StoresDisagree"));
    assert!(
        message.contains("a passphrase in BackupStore vault and no encryption in BackupStore offsite"),
        "{message}"
    );
}

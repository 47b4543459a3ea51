//! Runs and restores with several stores, against an API server in memory.

use holdfast_crds::{BackupStore, Reason};
use serde_json::{Value, json};

use crate::controller::carry_out::tests::world::{Kind, NOW, OURS, World, server, store};

/// A store of this name that was tried, for this recipient, and whether it answers now.
fn put(world: &World, name: &str, recipient: &str, ready: bool) {
    let mut object = store(true);
    object["metadata"]["name"] = json!(name);
    object["metadata"]["uid"] = json!(format!("uid-{name}"));
    object["spec"]["encryption"]["age"]["recipients"] = json!([recipient]);
    let (status, reason) = if ready {
        ("True", "StoreReady")
    } else {
        ("False", "StoreUnreachable")
    };
    object["status"]["conditions"] =
        json!([{"type": "Ready", "status": status, "reason": reason, "message": "", "lastTransitionTime": NOW}]);
    world.fake.put::<BackupStore>(&format!("{OURS}/backupstores/{name}"), object);
    world.watch();
}

fn run() -> World {
    World::new(
        Kind::Run,
        true,
        &json!({"source": "shop", "stores": [{"name": "offsite"}, {"name": "vault"}]}),
    )
}

fn places(status: &Value) -> Vec<String> {
    let line = |line: &Value| format!("{} {} {}", line["name"], line["role"], line["state"]).replace('"', "");
    status["stores"].as_array().into_iter().flatten().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn a_run_writes_to_the_first_store_that_is_not_known_to_be_down_and_stays_with_it() {
    let world = run();
    put(&world, "offsite", "age-a", false);
    put(&world, "vault", "age-b", true);
    world.look_at("now").await;
    assert_eq!(places(&world.status()), ["vault Primary Missing", "offsite Copy Missing"]);
    assert_eq!(world.status()["frozen"]["store"]["name"], "vault");
    let task = world.task("now-b1");
    assert_eq!(task["store"]["name"], "vault");
    assert_eq!(
        task["store"]["spec"]["encryption"]["age"]["recipients"],
        json!(["age-a", "age-b"]),
        "of both stores"
    );
    // The other is well again, and this one is not: what was begun stays where it is.
    put(&world, "offsite", "age-a", true);
    put(&world, "vault", "age-b", false);
    world.word("now-b1", Reason::Succeeded, true);
    world.look_at("now").await;
    let status = world.status();
    assert_eq!(places(&status), ["vault Primary Present", "offsite Copy Missing"]);
    assert_eq!(status["storesShown"], "vault,offsite (1/2)");
    let conditions = status["conditions"].as_array().unwrap();
    let replicated = conditions.iter().find(|condition| condition["type"] == "Replicated").unwrap();
    assert_eq!((&replicated["status"], &replicated["reason"]), (&json!("False"), &json!("Pending")));
}

#[tokio::test(start_paused = true)]
async fn where_all_are_down_the_first_is_written_to_and_where_one_is_missing_the_other() {
    let world = run();
    put(&world, "offsite", "age-a", false);
    put(&world, "vault", "age-b", false);
    world.look_at("now").await;
    assert_eq!(world.status()["frozen"]["store"]["name"], "offsite", "it may be well by then");

    let world = run();
    world.fake.remove(&format!("{OURS}/backupstores/offsite"));
    world
        .context
        .caches
        .stores
        .deleted(&crate::watch::Key::new("shop", "offsite"), Some("uid-offsite"));
    put(&world, "vault", "age-b", true);
    world.look_at("now").await;
    assert_eq!(places(&world.status()), ["vault Primary Missing", "offsite Copy Missing"]);
}

#[tokio::test(start_paused = true)]
async fn stores_that_are_not_encrypted_alike_are_refused_before_anything_is_written() {
    let world = run();
    let mut vault = store(true);
    vault["metadata"]["name"] = json!("vault");
    vault["metadata"]["uid"] = json!("uid-vault");
    vault["spec"]["encryption"] = json!({"none": {}});
    world.fake.put::<BackupStore>(&format!("{OURS}/backupstores/vault"), vault);
    world.look_at("now").await;
    assert_eq!(world.told(), ("Pending".to_owned(), "StoresDisagree".to_owned()));
    let message = world.status()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("spec.stores: found encryption to age recipients in BackupStore offsite and no encryption"),
        "{message}"
    );
    assert_eq!(world.jobs(), [""; 0]);
}

/// A restore from a run whose copy is in both stores, or in one alone.
fn restore(from: &Value, vault: &str) -> World {
    let world = World::new(Kind::Restore, true, &json!({"from": {"run": from}, "to": {"postgresql": server()}}));
    world.another_run("then");
    let status = json!({"phase": "Succeeded", "reason": "Succeeded", "completionTime": NOW, "observedGeneration": 1,
        "frozen": {"sourceUid": "uid-shop", "source": {"postgresql": server()},
            "store": {"name": "offsite", "uid": "uid-offsite", "spec": store(true)["spec"]}},
        "stores": [{"name": "offsite", "role": "Primary", "state": "Present", "versionId": "v1"},
            {"name": "vault", "role": "Copy", "state": vault, "versionId": "v2"}],
        "copy": {"path": "shop/shop/then", "recoveryPoint": NOW, "rawBytes": 1, "storedBytes": 1, "parts": 1, "databases": 1, "tables": 1,
            "structureChecked": true, "manifestDigest": "d".repeat(64), "versionId": "v1"}});
    world.set(&format!("{OURS}/backupruns/then"), "status", status);
    world
}

#[tokio::test(start_paused = true)]
async fn a_restore_reads_the_primary_or_another_store_that_has_the_copy() {
    let then = json!({"name": "then"});
    let named = json!({"name": "then", "store": {"name": "vault"}});
    for (from, offsite, vault, expected) in [
        (&then, true, "Present", ("offsite", "v1")),
        (&then, false, "Present", ("vault", "v2")),
        (&then, false, "Divergent", ("offsite", "v1")),
        (&named, true, "Present", ("vault", "v2")),
    ] {
        let world = restore(from, vault);
        put(&world, "offsite", "age-a", offsite);
        put(&world, "vault", "age-b", true);
        world.reconcile().await.unwrap();
        let frozen = &world.status()["frozen"];
        let found = (frozen["store"]["name"].as_str().unwrap(), frozen["versionId"].as_str().unwrap());
        assert_eq!(found, expected, "{from} {offsite} {vault}");
        assert_eq!(frozen["manifestDigest"], "d".repeat(64), "the same manifest wherever it is read");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_from_a_store_that_has_no_copy_waits_for_it_or_says_where_it_is() {
    for (vault, phase) in [("Missing", "Pending"), ("Divergent", "Failed")] {
        let world = restore(&json!({"name": "then", "store": {"name": "vault"}}), vault);
        put(&world, "vault", "age-b", true);
        world.reconcile().await.unwrap();
        assert_eq!(world.told(), (phase.to_owned(), "RunHasNoCopy".to_owned()), "{vault}");
        let message = world.status()["message"].as_str().unwrap().to_owned();
        assert!(
            message.contains("spec.from.run.store: found BackupStore vault") && message.contains("it is in BackupStore offsite"),
            "{message}"
        );
    }
}

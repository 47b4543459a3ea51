use super::*;

#[tokio::test(start_paused = true)]
async fn good_copies_are_those_that_keepers_found_once_there_was_time_for_them() {
    let world = world(&json!({"floors": {"goodCopies": 3}}));
    // Without a rule nothing goes; that is no copy.
    world.schedule("gold", &json!({"objectives": {"rpo": "25h"}}));
    world.store("offsite", &json!({"none": {}}));
    let Next::After(wait) = world.reconcile().await else {
        panic!("it is judged again")
    };
    assert!(wait.as_secs() <= 75 * 3_600, "{wait:?}");
    let (status, _, message) = world.condition(SOURCE, ConditionType::Compliant).unwrap();
    assert_eq!(status, "True");
    assert_eq!(
        message,
        "no floor of pci is missed; floors.goodCopies 3 of pci is judged from 2026-03-04T03:00:00Z, until when so many could not be there yet (found 0 good (store offsite))"
    );
    world.at("2026-03-04T03:00:01Z");
    world.kept("offsite", &json!({"good": 2, "copies": 40}));
    world.reconcile().await;
    assert_eq!(world.missed(), ["floors.goodCopies: 2 good (store offsite)"]);
    world.kept("offsite", &json!({"good": 3, "copies": 40}));
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0]);
    // A store of a schedule that is suspended has no copies to show.
    world.schedule("old", &json!({"suspend": true, "stores": [{"name": "vault"}]}));
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0]);
    world.schedule("old", &json!({"stores": [{"name": "vault"}]}));
    world.reconcile().await;
    assert_eq!(world.missed(), ["floors.goodCopies: 0 good (store vault)"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_counts_where_copies_come_and_are() {
    let world = world(&json!({"floors": {"stores": 2}}));
    let both = json!([{"name": "offsite"}, {"name": "vault"}]);
    let spec = |more: Value| {
        let mut spec = json!({"objectives": {"rpo": "25h"}, "stores": both});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        spec
    };
    world.schedule("gold", &spec(json!({})));
    world.store("offsite", &json!({"none": {}}));
    world.store("vault", &json!({"none": {}}));
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0], "two objectives are left to make and copy the first");
    world.at("2026-03-03T02:00:01Z");
    world.kept("offsite", &json!({"good": 9, "copies": 9}));
    world.kept("vault", &json!({"good": 0, "copies": 9}));
    world.reconcile().await;
    assert_eq!(world.missed(), ["floors.stores: a good copy in 1 of them (store offsite)"]);
    world.kept("vault", &json!({"good": 1, "copies": 9}));
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0]);

    // One that only has to have the copy at some time is not required to.
    world.schedule("gold", &spec(json!({"requiredCopies": 1})));
    world.reconcile().await;
    assert_eq!(world.missed(), ["floors.stores: 1 (schedule gold: requiredCopies 1)"]);
    // A schedule that does not fire makes none of its stores count, and none of the others' less.
    world.schedule("gold", &spec(json!({})));
    world.schedule("silver", &json!({"suspend": true}));
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0]);
    world.schedule("silver", &json!({"stores": [{"name": "offsite"}]}));
    world.reconcile().await;
    assert_eq!(world.missed(), ["floors.stores: 1 (schedule silver)"]);
    world.schedule("silver", &json!({"suspend": true}));

    // Another cluster's, or out of reach: no copy goes there now.
    for reason in ["StoreForeign", "StoreUnreachable"] {
        let queue = Queue::default();
        source::triggers(&world.context.caches, &queue);
        let store = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": meta("vault"),
            "spec": {"volume": {"claimName": "disk"}, "encryption": {"none": {}}},
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2026-03-01T00:00:00Z"}]}});
        world
            .context
            .caches
            .stores
            .watched(serde_json::from_value::<BackupStore>(store).unwrap());
        assert_eq!(queue.waiting(), 1, "who is judged by it is looked at");
        world.reconcile().await;
        assert_eq!(
            world.missed(),
            [format!("floors.stores: 1 (schedule gold: store vault is {reason})")]
        );
        world.store("vault", &json!({"none": {}}));
    }
}

#[tokio::test(start_paused = true)]
async fn copies_that_lack_in_a_store_for_longer_than_the_objective_are_not_in_as_many_as_demanded() {
    let world = world(&json!({"floors": {"stores": 2}}));
    world.schedule(
        "gold",
        &json!({"objectives": {"rpo": "25h"}, "stores": [{"name": "offsite"}, {"name": "vault"}]}),
    );
    world.store("offsite", &json!({"none": {}}));
    world.store("vault", &json!({"none": {}}));
    world.kept("offsite", &json!({"good": 9, "copies": 9}));
    world.kept("vault", &json!({"good": 1, "copies": 1}));
    let mut source = world.fake.get(SOURCE).unwrap();
    source["status"]["replication"] = json!([{"name": "vault", "number": 1, "missing": 40, "reason": "StoreUnreachable"}]);
    world.context.caches.sources.watched(world.fake.put::<BackupSource>(SOURCE, source));
    let Next::After(wait) = world.reconcile().await else {
        panic!("it is judged again")
    };
    assert_eq!(wait.as_secs(), 91 * 60, "after the next tick");
    assert_eq!(world.missed(), [""; 0], "they may come");
    world.at("2026-03-02T01:30:01Z");
    world.reconcile().await;
    assert_eq!(
        world.missed(),
        ["floors.stores: copies in fewer than their schedules require since 2026-03-01T00:30:00Z, see Replicated"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_ceiling_counts_copies_by_their_times_and_sees_those_that_are_promised_for_longer() {
    let world = world(&json!({"ceiling": {"retention": "90d"}}));
    world.store("offsite", &json!({"none": {}}));
    let weekly = |retention: Value| json!({"triggers": [{"name": "weekly", "cron": "0 2 * * 0"}], "stores": [{"name": "offsite", "retention": retention}]});
    world.schedule("gold", &weekly(json!({"keepLast": 500})));
    world.reconcile().await;
    assert_eq!(
        world.missed(),
        ["ceiling.retention: keepLast 500, of copies that are up to 7d apart (schedule gold, store offsite)"]
    );
    world.schedule("gold", &weekly(json!({"keepLast": 12})));
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0], "84 days");

    // Rules that were longer once hold for the copies that they were told of.
    let copy = |until: &str| json!({"run": "r", "type": "Full", "recoveryPoint": "2026-02-01T00:00:00Z", "bytes": 1, "state": "Kept", "keptUntil": until, "why": ""});
    world.kept("offsite", &json!({"newestCopies": [copy("2026-05-02T00:00:00Z")]}));
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0]);
    world.kept("offsite", &json!({"newestCopies": [copy("2027-02-01T00:00:00Z")]}));
    world.reconcile().await;
    assert_eq!(
        world.missed(),
        ["ceiling.retention: the copy of run r kept until 2027-02-01T00:00:00Z (store offsite)"]
    );
    // One that should have gone; what a hold keeps is no question of rules.
    let old = json!({"oldest": "2025-11-28T00:00:00Z"});
    world.kept("offsite", &old);
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0], "94 days: the ceiling, its marks and its removal");
    world.kept("offsite", &json!({"oldest": "2025-11-26T00:00:00Z"}));
    world.reconcile().await;
    assert_eq!(
        world.missed(),
        ["ceiling.retention: a good copy of 2025-11-26T00:00:00Z that is still there (store offsite)"]
    );
    world.kept("offsite", &json!({"oldest": "2025-11-26T00:00:00Z", "held": 1}));
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0]);
}

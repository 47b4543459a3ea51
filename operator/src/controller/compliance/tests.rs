use std::collections::HashMap;

use holdfast_crds::{BackupSchedule, BackupSource, BackupStore, ConditionType};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::Namespace,
};
use serde_json::{Value, json};

use super::{
    guards::{GUARDS, shipped},
    *,
};
use crate::{
    controller::source::{self, SourceController},
    fake::Fake,
};

mod copies;

const POLICY: &str = "/apis/holdfast.dev/v1alpha1/compliancepolicies/pci";
const SOURCE: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop/backupsources/a";

struct World {
    fake: Fake,
    context: Arc<Context>,
    source: SourceController,
    policy: ComplianceController,
}

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "creationTimestamp": "2026-03-01T00:00:00Z", "generation": 1})
}

/// A source in a namespace that the policy `pci` selects, at half past midnight.
fn world(policy: &Value) -> World {
    let (fake, context) = Fake::start("2026-03-01T00:30:00Z");
    let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": meta("a"),
        "spec": {"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"}}}});
    context.caches.sources.watched(fake.put::<BackupSource>(SOURCE, source));
    let world = World {
        source: SourceController::new(context.clone()),
        policy: ComplianceController::new(context.clone()),
        context,
        fake,
    };
    world.namespace("shop", &json!({"pci": "yes"}));
    world.namespace("other", &json!({}));
    let mut spec = json!({"namespaces": {"matchLabels": {"pci": "yes"}}, "mode": "Enforce"});
    for (field, value) in policy.as_object().unwrap() {
        spec[field] = value.clone();
    }
    let mut meta = meta("pci");
    meta.as_object_mut().unwrap().remove("namespace");
    let policy = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "CompliancePolicy", "metadata": meta, "spec": spec});
    world
        .context
        .caches
        .policies
        .watched(world.fake.put::<CompliancePolicy>(POLICY, policy));
    world
}

impl World {
    fn namespace(&self, name: &str, labels: &Value) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.context
            .caches
            .namespaces
            .watched(serde_json::from_value::<Namespace>(namespace).unwrap());
    }

    fn schedule(&self, name: &str, spec: &Value) {
        let mut merged =
            json!({"sources": {"names": ["a"]}, "stores": [{"name": "offsite"}], "triggers": [{"name": "nightly", "cron": "0 2 * * *"}]});
        for (field, value) in spec.as_object().unwrap() {
            merged[field] = value.clone();
        }
        let schedule = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule", "metadata": meta(name), "spec": merged});
        self.context
            .caches
            .schedules
            .watched(serde_json::from_value::<BackupSchedule>(schedule).unwrap());
    }

    fn store(&self, name: &str, encryption: &Value) {
        let place = json!({"volume": {"claimName": "disk"}, "encryption": encryption});
        self.store_with(name, &place);
    }

    fn store_with(&self, name: &str, spec: &Value) {
        let store = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": meta(name), "spec": spec});
        self.context
            .caches
            .stores
            .watched(serde_json::from_value::<BackupStore>(store).unwrap());
    }

    fn copy(&self, point: &str) {
        let mut source = self.fake.get(SOURCE).unwrap();
        source["status"]["newestCopy"] =
            json!({"run": "r", "store": "offsite", "path": "shop/a/r", "recoveryPoint": point, "storedBytes": 1});
        self.context.caches.sources.watched(self.fake.put::<BackupSource>(SOURCE, source));
    }

    /// What the keeper of a store of the namespace read of the source.
    fn kept(&self, store: &str, read: &Value) {
        let mut entry = json!({"store": store, "asOf": "2026-03-01T00:00:00Z", "copies": 0, "good": 0, "bytes": 0, "held": 0, "marked": 0});
        for (field, value) in read.as_object().unwrap() {
            entry[field] = value.clone();
        }
        let mut source = self.fake.get(SOURCE).unwrap();
        let mut stores = source["status"]["stores"].as_array().cloned().unwrap_or_default();
        stores.retain(|other| other["store"] != store);
        stores.push(entry);
        source["status"]["stores"] = json!(stores);
        self.context.caches.sources.watched(self.fake.put::<BackupSource>(SOURCE, source));
    }

    fn at(&self, now: &str) {
        self.context.clock.observe(now.parse().unwrap());
    }

    async fn reconcile(&self) -> Next {
        let next = self.source.reconcile(&Key::new("shop", "a")).await.unwrap();
        self.policy.reconcile(&Key::new("", "pci")).await.unwrap();
        next
    }

    fn condition(&self, path: &str, kind: ConditionType) -> Option<(String, String, String)> {
        let status = self.fake.get(path)?["status"].clone();
        let conditions = status["conditions"].as_array()?.clone();
        let condition = conditions.iter().find(|condition| condition["type"] == kind.as_str())?;
        let text = |field: &str| condition[field].as_str().unwrap().to_owned();
        Some((text("status"), text("reason"), text("message")))
    }

    /// Floor and what was found, as the source's status lists them.
    fn missed(&self) -> Vec<String> {
        let status = self.fake.get(SOURCE).unwrap()["status"].clone();
        let missed = status["floorsMissed"].as_array().cloned().unwrap_or_default();
        missed
            .iter()
            .map(|missed| format!("{}: {}", missed["floor"].as_str().unwrap(), missed["found"].as_str().unwrap()))
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn each_floor_that_is_missed_is_shown_with_where_and_how() {
    let all = json!({"floors": {"retention": "30d", "goodCopies": 3, "stores": 2, "encryption": "Required", "lockMode": "Compliance", "rpo": "12h"}, "ceiling": {"retention": "60d"}});
    let world = world(&all);
    world.schedule(
        "gold",
        &json!({"stores": [{"name": "offsite", "retention": {"keepWithin": "7d", "monthly": 3}}]}),
    );
    world.store("offsite", &json!({"none": {}}));
    world.reconcile().await;
    assert_eq!(
        world.missed(),
        [
            "floors.retention: keepWithin 7d (schedule gold, store offsite)",
            "floors.goodCopies: minGood 2 (schedule gold, store offsite)",
            "floors.stores: 1 (schedule gold)",
            "floors.encryption: none (store offsite)",
            "floors.lockMode: no objectLock (store offsite)",
            "floors.rpo: an objective of 30h by the schedules",
            "floors.rpo: no copy",
            "ceiling.retention: monthly 3 (schedule gold, store offsite)",
        ]
    );
    let (status, reason, message) = world.condition(SOURCE, ConditionType::Compliant).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "FloorMissed"));
    assert!(
        message.contains("floors.retention of pci demands 30d, found keepWithin 7d"),
        "{message}"
    );
    let policy = world.fake.get(POLICY).unwrap()["status"].clone();
    assert_eq!(
        (
            &policy["namespaces"],
            &policy["sources"],
            &policy["notCompliant"],
            &policy["missingFloors"]
        ),
        (&json!(1), &json!(1), &json!(1), &json!(["shop/a"]))
    );

    // One after the other is put right.
    world.schedule(
        "gold",
        &json!({"objectives": {"rpo": "12h"}, "stores": [
            {"name": "offsite", "retention": {"keepWithin": "30d", "minGood": 3}}, {"name": "vault", "retention": {"keepWithin": "60d", "minGood": 3}}]}),
    );
    world.kept("offsite", &json!({"good": 3, "copies": 3}));
    world.kept("vault", &json!({"good": 3, "copies": 3}));
    let bucket = |mode: &str| {
        json!({"s3": {"bucket": "backups"}, "credentials": {"secretName": "s3"}, "objectLock": {"mode": mode},
            "encryption": {"passphrase": {"secretName": "words"}}})
    };
    world.store_with("offsite", &bucket("Compliance"));
    world.store_with("vault", &bucket("Governance"));
    world.copy("2026-03-01T00:00:00Z");
    world.reconcile().await;
    assert_eq!(world.missed(), ["floors.lockMode: Governance (store vault)"]);
    world.store_with("vault", &bucket("Compliance"));
    world.kept("vault", &json!({"good": 3, "copies": 3, "unlocked": 2}));
    world.reconcile().await;
    assert_eq!(world.missed(), ["floors.lockMode: 2 copies without a lock (store vault)"]);
    world.kept("vault", &json!({"good": 3, "copies": 3}));
    assert!(
        matches!(world.reconcile().await, Next::After(_)),
        "it is looked at again when the copy gets too old"
    );
    assert_eq!(world.missed(), [""; 0]);
    let (status, reason, message) = world.condition(SOURCE, ConditionType::Compliant).unwrap();
    assert_eq!(
        (status.as_str(), reason.as_str(), message.as_str()),
        ("True", "Compliant", "no floor of pci is missed")
    );
    assert_eq!(world.fake.get(POLICY).unwrap()["status"]["notCompliant"], json!(0));
    assert!(world.fake.events().contains(&"Compliant".to_owned()));

    // The copy grows too old, though nobody changed anything.
    world.context.clock.observe("2026-03-01T12:00:01Z".parse().unwrap());
    world.reconcile().await;
    assert_eq!(world.missed(), ["floors.rpo: a newest copy that is older"]);
}

#[tokio::test(start_paused = true)]
async fn what_admission_cannot_know_is_shown() {
    let world = world(&json!({"floors": {"retention": "30d", "stores": 1, "encryption": "Required"}}));
    world.reconcile().await;
    assert_eq!(
        world.missed(),
        [
            "floors.stores: no schedule of the source that fires",
            "floors.retention: no schedule selects the source"
        ]
    );
    world.schedule("gold", &json!({}));
    world.reconcile().await;
    assert_eq!(
        world.missed(),
        [
            "floors.stores: 0 (schedule gold: no store offsite)",
            "floors.encryption: no store offsite"
        ]
    );
    // One that never fires is as good as none: suspended, emptied, or of a time that does not come.
    world.store("offsite", &json!({"passphrase": {"secretName": "words"}}));
    let silent = [
        "floors.stores: no schedule of the source that fires",
        "floors.retention: no tick to come: its schedules are suspended, invalid, or of types that it has not",
    ];
    for (spec, missed) in [
        (json!({"suspend": true}), silent),
        (json!({"triggers": [{"name": "nightly", "cron": "0 0 31 2 *"}]}), silent),
        (
            json!({"triggers": [{"name": "nightly", "type": "Log", "cron": "0 2 * * *"}]}),
            silent,
        ),
        (
            json!({"sources": {"names": ["none"]}}),
            [
                "floors.stores: no schedule of the source that fires",
                "floors.retention: no schedule selects the source",
            ],
        ),
    ] {
        world.schedule("gold", &spec);
        world.reconcile().await;
        assert_eq!(world.missed(), missed, "{spec}");
    }
    world.schedule("gold", &json!({}));
    world.reconcile().await;
    assert_eq!(world.missed(), [""; 0]);
    // Two schedules with a store each have no copy in two.
    let world = self::world(&json!({"floors": {"stores": 2}}));
    world.store("offsite", &json!({"none": {}}));
    world.store("vault", &json!({"none": {}}));
    world.schedule("gold", &json!({}));
    world.schedule("silver", &json!({"stores": [{"name": "vault"}]}));
    world.reconcile().await;
    assert_eq!(world.missed(), ["floors.stores: 1 (schedule gold)"]);
    let (status, reason, _) = world.condition(SOURCE, ConditionType::Compliant).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "FloorMissed"));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_no_policy_selects_has_no_such_condition() {
    let world = world(&json!({"floors": {"retention": "30d"}}));
    world.reconcile().await;
    assert!(world.condition(SOURCE, ConditionType::Compliant).is_some());
    world.namespace("shop", &json!({"pci": "no"}));
    world.reconcile().await;
    assert_eq!(world.condition(SOURCE, ConditionType::Compliant), None);
    assert_eq!(world.missed(), [""; 0]);
    assert_eq!(world.fake.get(POLICY).unwrap()["status"]["sources"], json!(0));
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_missing_is_told() {
    let (fake, context) = Fake::start("2026-03-01T00:30:00Z");
    let caches = Arc::new(Caches::new(&crate::config::Namespaces::default()).guarded_by("hf.system"));
    let context = Arc::new(Context {
        caches: caches.clone(),
        ..(*context).clone()
    });
    let policy = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "CompliancePolicy", "metadata": {"name": "pci", "uid": "u", "generation": 1},
        "spec": {"namespaces": {"all": {}}, "mode": "Enforce", "floors": {"retention": "30d"}}});
    caches.policies.watched(fake.put::<CompliancePolicy>(POLICY, policy));
    let mut bindings = HashMap::new();
    for guard in GUARDS {
        let (policy, binding) = shipped(&guard, &format!("hf.system.{}", guard.name));
        caches
            .guards
            .watched(serde_json::from_value::<ValidatingAdmissionPolicy>(policy).unwrap());
        let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(binding).unwrap();
        caches.guard_bindings.watched(binding.clone());
        bindings.insert(guard.name, binding);
    }
    let controller = ComplianceController::new(context.clone());
    let enforced = async || {
        controller.reconcile(&Key::new("", "pci")).await.unwrap();
        let conditions = fake.get(POLICY).unwrap()["status"]["conditions"].as_array().unwrap().clone();
        let found = conditions.iter().find(|condition| condition["type"] == "Enforced").unwrap().clone();
        (
            found["status"].as_str().unwrap().to_owned(),
            found["reason"].as_str().unwrap().to_owned(),
            found["message"].as_str().unwrap().to_owned(),
        )
    };
    let (status, reason, _) = enforced().await;
    assert_eq!((status.as_str(), reason.as_str()), ("True", "GuardsInPlace"));
    let queue = Queue::default();
    triggers(&caches, &queue);
    caches
        .guard_bindings
        .deleted(&Key::new("", "hf.system.definitions"), Some("hf.system.definitions"));
    let (status, reason, message) = enforced().await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "GuardMissing"));
    assert!(message.contains("hf.system.definitions is not bound"), "{message}");
    caches.guard_bindings.watched(bindings["definitions"].clone());
    assert_eq!(enforced().await.0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_keeper_is_told_the_floors_of_enforced_policies() {
    let world = world(&json!({"floors": {"retention": "30d", "goodCopies": 3}}));
    let floors = keep_floors(&world.context.caches, &["shop", "other"]);
    assert_eq!(floors.len(), 1);
    assert_eq!((floors[0].retention_seconds, floors[0].good_copies), (Some(30 * 86_400), Some(3)));
    assert_eq!(floors[0].namespaces.iter().map(Label::as_str).collect::<Vec<_>>(), ["shop"]);
    assert!(keep_floors(&world.context.caches, &["other"]).is_empty());
    let mut audited = world.fake.get(POLICY).unwrap();
    audited["spec"]["mode"] = json!("Audit");
    world
        .context
        .caches
        .policies
        .watched(world.fake.put::<CompliancePolicy>(POLICY, audited));
    assert!(keep_floors(&world.context.caches, &["shop"]).is_empty(), "an audit keeps nothing");
}

#[tokio::test(start_paused = true)]
async fn who_is_judged_is_looked_at_when_what_judges_changes() {
    let world = world(&json!({"floors": {"retention": "30d"}}));
    let (sources, policies) = (Queue::default(), Queue::default());
    source::triggers(&world.context.caches, &sources);
    triggers(&world.context.caches, &policies);
    world.namespace("other", &json!({"team": "a"}));
    assert_eq!((sources.waiting(), policies.waiting()), (0, 1), "a namespace without sources");
    world.namespace("shop", &json!({"pci": "no"}));
    assert_eq!(sources.waiting(), 1);
    let sources = Queue::default();
    source::triggers(&world.context.caches, &sources);
    world.schedule("gold", &json!({}));
    assert_eq!(sources.waiting(), 1);
    let sources = Queue::default();
    source::triggers(&world.context.caches, &sources);
    world.store("offsite", &json!({"none": {}}));
    assert_eq!(sources.waiting(), 1);
}

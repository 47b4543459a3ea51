use holdfast_crds::BackupStore;
use serde_json::{Value, json};

use super::*;
use crate::fake::Fake;

const REQUEST: &str = "/apis/holdfast.dev/v1alpha1/namespaces/shop/disposalrequests/erase";

struct World {
    fake: Fake,
    context: Arc<Context>,
}

impl World {
    fn request(&self, spec: &Value) {
        let mut merged = json!({"scope": {"sources": ["a"]}, "legalBasis": "GDPR Art. 17", "requestedBy": "alice"});
        for (field, value) in spec.as_object().unwrap() {
            merged[field] = value.clone();
        }
        let status = self.fake.get(REQUEST).map(|request| request["status"].clone()).unwrap_or_default();
        let request = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "DisposalRequest", "spec": merged, "status": status,
            "metadata": {"name": "erase", "namespace": "shop", "uid": "u", "generation": 1}});
        self.context
            .caches
            .disposals
            .watched(self.fake.put::<DisposalRequest>(REQUEST, request));
    }

    fn store(&self, report: &Value) {
        let disposals = if report.is_null() { json!([]) } else { json!([report]) };
        let store = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": {"name": "offsite", "namespace": "shop", "uid": "s"},
            "spec": {"volume": {"claimName": "disk"}, "encryption": {"none": {}}},
            "status": {"holds": {"startedAt": "2026-03-01T11:40:00Z", "disposals": disposals}}});
        self.context
            .caches
            .stores
            .watched(serde_json::from_value::<BackupStore>(store).unwrap());
    }

    async fn reconcile(&self) -> (String, String, String) {
        let controller = DisposalController::new(self.context.clone());
        controller.reconcile(&Key::new("shop", "erase")).await.unwrap();
        let conditions = self.fake.get(REQUEST).unwrap()["status"]["conditions"].as_array().unwrap().clone();
        let found = conditions.iter().find(|condition| condition["type"] == "Disposed").unwrap().clone();
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_disposal_waits_for_its_approval_then_for_holds_then_is_done() {
    let (fake, context) = Fake::start("2026-03-01T12:00:00Z");
    let world = World { fake, context };
    world.store(&Value::Null);
    world.request(&json!({}));
    let (status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "AwaitingApproval"));
    assert!(message.contains("requested by alice"), "{message}");
    assert!(keep_disposals(&world.context.caches, "shop").is_empty());

    world.request(&json!({"approval": {"approvedBy": "bob"}}));
    assert!(
        keep_disposals(&world.context.caches, "shop").is_empty(),
        "not before it is known up to when"
    );
    let (_, reason, message) = world.reconcile().await;
    assert_eq!(reason, "Pending");
    assert!(message.contains("shop/offsite: its keeper has not reported yet"), "{message}");
    let told = keep_disposals(&world.context.caches, "shop");
    assert_eq!(
        (told[0].approved_by.as_str(), told[0].scope.sources.as_deref().unwrap()),
        ("bob", &["shop/a".to_owned()][..])
    );
    assert_eq!(
        told[0].scope.to.unwrap().to_string(),
        "2026-03-01T12:00:00Z",
        "later copies are not meant"
    );

    let request = told[0].digest().to_string();
    let report = |left: i64, removed: i64, deferred: i64| json!({"namespace": "shop", "name": "erase", "told": request, "left": left, "shredded": removed, "removed": removed, "deferred": deferred});
    world.store(&report(2, 3, 2));
    let (status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Deferred"));
    assert!(message.contains("shop/offsite: 2 copies are held or locked"), "{message}");
    world.store(&report(1, 4, 0));
    assert_eq!(world.reconcile().await.1, "Pending");
    world.store(&report(0, 5, 0));
    let (status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Succeeded"));
    assert!(message.contains("5 copies are gone"), "{message}");
    world.store(&report(0, 0, 0));
    let (status, _, message) = world.reconcile().await;
    assert_eq!(status, "True", "its records went a month later: what was done stays done");
    assert!(message.contains("5 copies are gone"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_names_no_copy_and_one_that_had_the_name_before_prove_nothing() {
    let (fake, context) = Fake::start("2026-03-01T12:00:00Z");
    let world = World { fake, context };
    world.store(&Value::Null);
    world.request(&json!({"approval": {"approvedBy": "bob"}}));
    world.reconcile().await;
    let of_another =
        json!({"namespace": "shop", "name": "erase", "told": "0".repeat(64), "left": 0, "shredded": 3, "removed": 3, "deferred": 0});
    world.store(&of_another);
    let (status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Pending"));
    assert!(message.contains("has not reported yet"), "{message}");
    let request = keep_disposals(&world.context.caches, "shop")[0].digest().to_string();
    world.store(&json!({"namespace": "shop", "name": "erase", "told": request, "left": 0, "shredded": 0, "removed": 0, "deferred": 0}));
    let (status, reason, message) = world.reconcile().await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "CopyNotFound"));
    assert!(message.contains("names no copy"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_scope_ends_before_the_approval() {
    let (fake, context) = Fake::start("2026-03-01T12:00:00Z");
    let world = World { fake, context };
    let approval = json!({"approvedBy": "bob"});
    for (until, expected) in [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2027-01-01T00:00:00Z", "2026-03-01T12:00:00Z"),
    ] {
        world.request(&json!({"approval": approval, "scope": {"runs": ["shop/a/one", "other/a/one"], "recoveryPoints": {"until": until}}}));
        world.reconcile().await;
        let told = keep_disposals(&world.context.caches, "shop");
        assert_eq!(told[0].scope.to.unwrap().to_string(), expected);
        assert_eq!(told[0].scope.runs.as_deref().unwrap(), ["shop/a/one"], "none of another namespace");
    }
}

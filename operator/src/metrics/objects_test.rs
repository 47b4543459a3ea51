use std::collections::HashSet;

use holdfast_crds::{BackupRun, BackupSchedule, BackupSource, BackupStore, ClusterBackupStore};
use serde_json::json;

use super::*;
use crate::{config::Namespaces, watch::Key};

fn text(objects: &Objects) -> String {
    objects.families().concat()
}

fn ready(caches: &Caches) {
    let nothing = HashSet::new();
    caches.sources.listed(None, Some(&nothing));
    caches.stores.listed(None, Some(&nothing));
    caches.schedules.listed(None, Some(&nothing));
    caches.runs.listed(None, Some(&nothing));
    caches.restores.listed(None, Some(&nothing));
    caches.jobs.listed(None, Some(&nothing));
    caches.pods.listed(None, Some(&nothing));
    caches.holds.listed(None, Some(&nothing));
    caches.disposals.listed(None, Some(&nothing));
    caches.previews.listed(None, Some(&nothing));
    caches.cluster_holds.listed(None, Some(&nothing));
    caches.cluster_schedules.listed(None, Some(&nothing));
    caches.cluster_stores.listed(None, Some(&nothing));
    caches.policies.listed(None, Some(&nothing));
    caches.namespaces.listed(None, Some(&nothing));
    caches.guards.listed(None, Some(&nothing));
    caches.guard_bindings.listed(None, Some(&nothing));
}

fn meta(name: &str) -> serde_json::Value {
    json!({"name": name, "namespace": "shop", "uid": name, "creationTimestamp": "2026-03-01T00:00:00Z"})
}

fn source(status: &serde_json::Value) -> BackupSource {
    serde_json::from_value(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": meta("a"), "status": status,
        "spec": {"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"}}},
    }))
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn gauges_are_there_from_birth_true_at_each_moment_and_gone_with_the_object() {
    let caches = Arc::new(Caches::new(&Namespaces::default()));
    let clock = ServerClock::default();
    clock.observe("2026-03-02T00:00:00Z".parse().unwrap());
    let objects = Objects::new(caches.clone(), clock.clone());
    assert!(
        !text(&objects).contains("holdfast_source"),
        "nothing is known before the first lists are in"
    );
    ready(&caches);

    caches.sources.watched(source(&json!(null)));
    let born = text(&objects);
    for line in [
        r#"holdfast_source_newest_copy_timestamp_seconds{namespace="shop",source="a"} 0"#,
        r#"holdfast_source_protected{namespace="shop",source="a"} 0"#,
        r#"holdfast_source_rpo_seconds{namespace="shop",source="a"} 0"#,
        r#"holdfast_source_last_success_timestamp_seconds{namespace="shop",source="a"} 0"#,
        r#"holdfast_source_last_failure_timestamp_seconds{namespace="shop",source="a"} 0"#,
        r#"holdfast_source_next_tick_timestamp_seconds{namespace="shop",source="a"} 0"#,
    ] {
        assert!(born.contains(line), "{line}\n{born}");
    }

    caches.sources.watched(source(&json!({
        "newestCopy": {"run": "r", "store": "s", "path": "p", "recoveryPoint": "2026-03-01T23:00:00Z", "storedBytes": 1},
        "rpoSeconds": 7_200,
        "lastRun": {"name": "r", "type": "Full", "phase": "Succeeded", "reason": "Succeeded", "completionTime": "2026-03-01T23:05:00Z"},
    })));
    caches.runs.watched(
        serde_json::from_value::<BackupRun>(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun", "metadata": meta("bad"),
            "spec": {"source": "a", "stores": [{"name": "s"}]},
            "status": {"phase": "Failed", "reason": "LockTimeout", "completionTime": "2026-03-01T22:00:00Z"},
        }))
        .unwrap(),
    );
    let later = text(&objects);
    for line in [
        r#"holdfast_source_newest_copy_timestamp_seconds{namespace="shop",source="a"} 1772406000"#,
        r#"holdfast_source_protected{namespace="shop",source="a"} 1"#,
        r#"holdfast_source_last_success_timestamp_seconds{namespace="shop",source="a"} 1772406300"#,
        r#"holdfast_source_last_failure_timestamp_seconds{namespace="shop",source="a"} 1772402400"#,
        r#"holdfast_runs{phase="Failed"} 1"#,
    ] {
        assert!(later.contains(line), "{line}\n{later}");
    }

    // Nobody wrote a status, and yet it is not protected any more.
    clock.observe("2026-03-02T02:00:00Z".parse().unwrap());
    assert!(text(&objects).contains(r#"holdfast_source_protected{namespace="shop",source="a"} 0"#));

    caches.sources.deleted(&Key::new("shop", "a"), Some("a"));
    assert!(!text(&objects).contains("holdfast_source"));
}

#[tokio::test(start_paused = true)]
async fn who_retires_a_source_ends_its_gauges_of_protection_and_silences_no_policy() {
    let caches = Arc::new(Caches::new(&Namespaces::default()));
    let clock = ServerClock::default();
    clock.observe("2026-03-02T00:00:00Z".parse().unwrap());
    let objects = Objects::new(caches.clone(), clock);
    ready(&caches);
    let condition =
        |kind: &str| json!({"type": kind, "status": "False", "reason": "x", "message": "", "lastTransitionTime": "2026-03-01T00:00:00Z"});
    let mut retired = source(&json!({
        "conditions": [condition("Compliant"), condition("Intact")], "missingCopies": 1, "rpoSeconds": 7_200,
        "stores": [{"store": "s", "asOf": "2026-03-01T00:00:00Z", "copies": 2, "good": 2, "bytes": 2, "held": 0, "marked": 0,
            "blocked": {"reason": "CopiesMissing", "message": "m"}, "blockedSince": "2026-03-01T23:59:00Z"}],
    }));
    let said = json!({"by": "ann", "reason": "sold"});
    retired.spec.retire = Some(serde_json::from_value(said).unwrap());
    caches.sources.watched(retired);
    let text = text(&objects);
    for line in [
        r#"holdfast_source_compliant{namespace="shop",source="a"} 0"#,
        r#"holdfast_source_intact{namespace="shop",source="a"} 0"#,
        r#"holdfast_source_missing_copies{namespace="shop",source="a"} 1"#,
        r#"holdfast_source_copies{namespace="shop",source="a",store="s"} 2"#,
        r#"holdfast_source_deletion_blocked_seconds{namespace="shop",source="a",store="s",reason="CopiesMissing"} 60"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    for ended in [
        "protected",
        "rpo_seconds",
        "newest_copy_timestamp_seconds",
        "last_failure_timestamp_seconds",
        "next_tick_timestamp_seconds",
    ] {
        assert!(!text.contains(&format!("holdfast_source_{ended}{{")), "{ended}\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn schedules_and_stores_have_theirs() {
    let caches = Arc::new(Caches::new(&Namespaces::default()));
    let objects = Objects::new(caches.clone(), ServerClock::default());
    ready(&caches);
    let condition = json!({"type": "Ready", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "2026-03-01T00:00:00Z"});
    caches.schedules.watched(
        serde_json::from_value::<BackupSchedule>(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule", "metadata": meta("gold"),
            "spec": {"sources": {"names": ["a"]}, "stores": [{"name": "s"}], "triggers": [{"name": "t", "cron": "0 2 * * *"}], "suspend": true},
            "status": {"conditions": [condition], "sources": 1, "nextTick": "2026-03-01T02:00:00Z",
                "triggers": [{"name": "t", "watermark": "2026-03-01T00:00:00Z", "expression": "x", "fired": 3, "skipped": 2, "missed": 1, "dropped": 4}]},
        }))
        .unwrap(),
    );
    caches.stores.watched(
        serde_json::from_value::<BackupStore>(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": meta("s"),
            "spec": {"s3": {"bucket": "backups"}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}},
        }))
        .unwrap(),
    );
    // One of the cluster with the same name has series of its own.
    caches.cluster_stores.watched(
        serde_json::from_value::<ClusterBackupStore>(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterBackupStore", "metadata": {"name": "s", "uid": "cluster"},
            "spec": {"s3": {"bucket": "backups"}, "encryption": {"none": {}}, "allowedNamespaces": {"names": ["shop"]},
                "credentials": {"writer": {"secretName": "w"}}, "maintenance": {"namespace": "vault", "credentials": {"secretName": "k"}}},
        }))
        .unwrap(),
    );
    caches.sources.watched(
        serde_json::from_value::<BackupSource>(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": meta("a"), "spec": {},
            "status": {"stores": [
                {"store": "s", "asOf": "2026-03-01T00:00:00Z", "copies": 2, "good": 2, "bytes": 2, "held": 0, "marked": 0},
                {"store": "s", "storeKind": "ClusterBackupStore", "asOf": "2026-03-01T00:00:00Z", "copies": 1, "good": 1, "bytes": 1, "held": 0, "marked": 0}]},
        }))
        .unwrap(),
    );
    let text = text(&objects);
    for line in [
        r#"holdfast_store_ready{namespace="",store="ClusterBackupStore/s"} 0"#,
        r#"holdfast_source_copies{namespace="shop",source="a",store="s"} 2"#,
        r#"holdfast_source_copies{namespace="shop",source="a",store="ClusterBackupStore/s"} 1"#,
        r#"holdfast_schedule_suspended{namespace="shop",schedule="gold"} 1"#,
        r#"holdfast_schedule_ready{namespace="shop",schedule="gold"} 1"#,
        r#"holdfast_schedule_next_tick_timestamp_seconds{namespace="shop",schedule="gold"} 1772330400"#,
        r#"holdfast_schedule_sources{namespace="shop",schedule="gold"} 1"#,
        r#"result="fired"} 3"#,
        r#"result="skipped"} 2"#,
        r#"result="missed"} 1"#,
        r#"result="dropped"} 4"#,
        "# HELP holdfast_schedule_ticks_total Ticks by what became of them: fired, skipped, missed or dropped.",
        "# TYPE holdfast_schedule_ticks_total counter",
        r#"holdfast_store_ready{namespace="shop",store="s"} 0"#,
        r#"holdfast_unreadable_objects{kind="BackupRun"} 0"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_whose_last_pass_is_more_than_a_day_old_is_not_kept() {
    let caches = Arc::new(Caches::new(&Namespaces::default()));
    let clock = ServerClock::default();
    clock.observe("2026-03-02T01:00:00Z".parse().unwrap());
    let objects = Objects::new(caches.clone(), clock.clone());
    ready(&caches);
    let kept =
        json!({"type": "Kept", "status": "True", "reason": "StoreKept", "message": "", "lastTransitionTime": "2026-03-01T00:00:00Z"});
    let pass = json!({"finishedAt": "2026-03-01T00:00:00Z", "reason": "Succeeded", "summary": {"lines": 0, "sha256": "", "sources": 0,
        "copies": 0, "bytes": 0, "marked": 0, "removed": 0, "held": 0, "blocked": 0, "findings": 2, "startedAt": "2026-03-01T00:00:00Z", "epoch": 1}});
    caches.stores.watched(
        serde_json::from_value::<BackupStore>(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": meta("s"),
            "spec": {"s3": {"bucket": "backups"}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}},
            "status": {"conditions": [kept], "keeper": {"number": 1, "lastPass": pass}},
        }))
        .unwrap(),
    );
    assert!(text(&objects).contains(r#"holdfast_store_kept{namespace="shop",store="s"} 1"#));
    assert!(text(&objects).contains(r#"holdfast_store_findings{namespace="shop",store="s"} 2"#));
    clock.observe("2026-03-02T02:00:01Z".parse().unwrap());
    assert!(text(&objects).contains(r#"holdfast_store_kept{namespace="shop",store="s"} 0"#));
}

#[tokio::test(start_paused = true)]
async fn compliance_holds_and_guards_have_theirs() {
    let caches = Arc::new(Caches::new(&Namespaces::default()).guarded_by("hf.system"));
    let objects = Objects::new(caches.clone(), ServerClock::default());
    ready(&caches);
    let condition = |kind: &str, status: &str| json!([{"type": kind, "status": status, "reason": "x", "message": "", "lastTransitionTime": "2026-03-01T00:00:00Z"}]);
    caches.sources.watched(source(&json!(null)));
    assert!(!text(&objects).contains("holdfast_source_compliant"), "no policy selects it");
    caches
        .sources
        .watched(source(&json!({"conditions": condition("Compliant", "False")})));
    let hold = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ComplianceHold", "metadata": meta("case"),
        "spec": {"select": {"sources": ["a"]}, "reason": "r", "placedBy": "p"}, "status": {"conditions": condition("Effective", "True")}});
    caches
        .holds
        .watched(serde_json::from_value::<holdfast_crds::ComplianceHold>(hold).unwrap());
    let text = text(&objects);
    for line in [
        r#"holdfast_source_compliant{namespace="shop",source="a"} 0"#,
        r#"holdfast_hold_effective{namespace="shop",hold="case"} 1"#,
        r#"holdfast_guard_in_place{guard="definitions"} 0"#,
        r#"holdfast_unreadable_objects{kind="ComplianceHold"} 0"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

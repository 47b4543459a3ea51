//! What stands over namespaces and belongs to none: a schedule for many of them, a policy, a hold.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupSchedule, BackupSource, ClusterBackupSchedule, ClusterComplianceHold, CompliancePolicy, Reason};
use holdfast_e2e::{
    fixture::condition,
    keeper::said,
    sandbox::{self, Sandbox},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, ResourceExt};

/// The label by which a namespace is taken into all of them; its value is the namespace's name.
const LABEL: &str = "e2e.holdfast.dev/over";

#[test]
fn a_schedule_a_policy_and_a_hold_stand_over_a_namespace() {
    sandbox::run("over", |sandbox| async move {
        let outcome = stand(&sandbox).await;
        // They belong to no namespace, so nothing else takes them away.
        let name = sandbox.namespace.as_str();
        for kind in ["clusterbackupschedule", "compliancepolicy", "clustercompliancehold"] {
            sandbox.kubectl(&["delete", kind, name, "--ignore-not-found"]).await?;
        }
        outcome
    });
}

async fn stand(sandbox: &Sandbox) -> Result<()> {
    sandbox.prepared(100).await?;
    over_schedules(sandbox).await?;
    over_rules(sandbox).await?;
    over_copies(sandbox).await?;

    // A policy in force keeps no namespace from its end, and the hold is still there.
    let name = sandbox.namespace.as_str();
    sandbox.kubectl(&["delete", "namespace", name, "--timeout=60s"]).await?;
    let holds: Api<ClusterComplianceHold> = Api::all(sandbox.client.clone());
    ensure!(holds.get(name).await?.metadata.deletion_timestamp.is_none());
    Ok(())
}

/// A schedule for many namespaces: made, brought back, taken away, and its ticks make copies.
async fn over_schedules(sandbox: &Sandbox) -> Result<()> {
    let name = sandbox.namespace.as_str();
    sandbox.apply(&schedule(name, "* * * * *", "30d")).await?;
    let none = |schedule: &ClusterBackupSchedule| schedule.status.as_ref().is_some_and(|status| status.namespaces == 0);
    sandbox.until_in_cluster(name, 30, "without a namespace", none).await?;
    label(sandbox).await?;
    let made: BackupSchedule = sandbox.until(name, 30, "made", |_| true).await?;
    let one = |schedule: &ClusterBackupSchedule| {
        let status = schedule.status.as_ref();
        status.is_some_and(|status| (status.namespaces, status.sources, status.problems.len()) == (1, 1, 0))
    };
    sandbox.until_in_cluster(name, 30, "in one namespace", one).await?;

    sandbox
        .kubectl(&[
            "patch",
            "backupschedule",
            name,
            "--type=merge",
            "-p",
            r#"{"spec":{"suspend":true}}"#,
        ])
        .await?;
    let edited = made.metadata.generation;
    sandbox
        .until::<BackupSchedule>(name, 30, "brought back", |schedule| {
            !schedule.spec.suspend && schedule.metadata.generation > edited.map(|generation| generation + 1)
        })
        .await?;
    sandbox.kubectl(&["delete", "backupschedule", name]).await?;
    let deleted = made.uid();
    sandbox
        .until::<BackupSchedule>(name, 30, "made again", |schedule| schedule.uid() != deleted)
        .await?;
    sandbox.kubectl(&["label", "namespace", name, &format!("{LABEL}-")]).await?;
    sandbox.until_gone::<BackupSchedule>(name, 30).await?;
    label(sandbox).await?;

    sandbox
        .until::<BackupSource>("shop", 200, "protected", |source| {
            let status = source.status.as_ref();
            status.is_some_and(|status| condition(&status.conditions, "Protected") == Some("True"))
        })
        .await?;
    // A change of its times reaches the namespace. None comes while the rest is tried.
    sandbox.apply(&schedule(name, "0 0 1 1 *", "30d")).await?;
    let yearly = |schedule: &BackupSchedule| schedule.spec.triggers.iter().all(|trigger| trigger.cron == "0 0 1 1 *");
    sandbox.until(name, 30, "yearly", yearly).await?;
    Ok(())
}

/// A policy in force: it shows what is missed, and refuses what would miss more, whoever asks.
async fn over_rules(sandbox: &Sandbox) -> Result<()> {
    let name = sandbox.namespace.as_str();
    sandbox
        .apply(&format!(
            "
apiVersion: holdfast.dev/v1alpha1
kind: CompliancePolicy
metadata: {{name: {name}}}
spec:
  namespaces: {{matchLabels: {{{LABEL}: {name}}}}}
  mode: Enforce
  floors: {{retention: 14d, encryption: Required, rpo: 48h}}
"
        ))
        .await?;
    let counted = |policy: &CompliancePolicy| {
        let status = policy.status.as_ref();
        status.is_some_and(|status| {
            (status.namespaces, status.sources, status.not_compliant) == (1, 1, 1)
                && said(&status.conditions, "Enforced").starts_with("True")
        })
    };
    sandbox.until_in_cluster(name, 60, "counted", counted).await?;
    let source: BackupSource = sandbox
        .until("shop", 30, "judged", |source: &BackupSource| {
            said(conditions(source), "Compliant").starts_with("False FloorMissed")
        })
        .await?;
    let missed = source.status.context("status")?.floors_missed;
    ensure!(
        missed.len() == 1 && missed[0].policy == name && missed[0].floor == "floors.encryption" && missed[0].found.contains("offsite"),
        "{missed:?}"
    );

    let shorter = r#"{"spec":{"stores":[{"name":"offsite","retention":{"keepWithin":"7d"}}]}}"#;
    let suspended = r#"{"spec":{"suspend":true}}"#;
    for (words, arguments) in [
        ("14d", vec!["patch", "backupschedule", name, "--type=merge", "-p", shorter]),
        ("suspend", vec!["patch", "backupschedule", name, "--type=merge", "-p", suspended]),
        ("delete", vec!["delete", "backupschedule", name]),
        ("label", vec!["label", "namespace", name, &format!("{LABEL}-")]),
    ] {
        sandbox.until_refused(&arguments, &[name, words]).await?;
    }

    // The operator is refused as anybody is, and says so where its schedule for many namespaces is looked at.
    sandbox.apply(&schedule(name, "0 0 1 1 *", "7d")).await?;
    let problem = |schedule: &ClusterBackupSchedule| {
        let problems = schedule.status.iter().flat_map(|status| &status.problems);
        problems
            .clone()
            .any(|problem| problem.namespace == name && problem.reason == Reason::AdmissionRefused && problem.message.contains("14d"))
    };
    sandbox.until_in_cluster(name, 30, "refused", problem).await?;
    sandbox.apply(&schedule(name, "0 0 1 1 *", "30d")).await?;
    let without = |schedule: &ClusterBackupSchedule| schedule.status.as_ref().is_some_and(|status| status.problems.is_empty());
    sandbox.until_in_cluster(name, 30, "accepted", without).await?;
    Ok(())
}

/// A hold of the cluster reaches the copies of its namespaces.
async fn over_copies(sandbox: &Sandbox) -> Result<()> {
    let name = sandbox.namespace.as_str();
    let me = sandbox.user().await?;
    sandbox
        .apply(&format!(
            "
apiVersion: holdfast.dev/v1alpha1
kind: ClusterComplianceHold
metadata: {{name: {name}}}
spec: {{namespaces: [{name}], select: {{sources: [shop]}}, reason: preservation letter, placedBy: {me}}}
"
        ))
        .await?;
    let holds = |hold: &ClusterComplianceHold| {
        let stores = hold.status.iter().flat_map(|status| &status.stores);
        stores
            .clone()
            .any(|store| store.store == format!("{name}/offsite") && store.copies >= 1)
    };
    let hold = sandbox.until_in_cluster(name, 120, "in the store", holds).await?;
    let conditions = hold.status.context("status")?.conditions;
    let effective = said(&conditions, "Effective");
    ensure!(
        effective.starts_with("True") || effective.contains("an older keeper may still delete until"),
        "{effective}"
    );
    sandbox
        .catalogue("shop", "offsite", 60, "held", |entry| entry.held == entry.copies && entry.held > 0)
        .await?;
    Ok(())
}

fn schedule(name: &str, cron: &str, within: &str) -> String {
    format!(
        "
apiVersion: holdfast.dev/v1alpha1
kind: ClusterBackupSchedule
metadata: {{name: {name}}}
spec:
  namespaceSelector: {{matchLabels: {{{LABEL}: {name}}}}}
  schedule:
    sources: {{names: [shop]}}
    stores: [{{name: offsite, retention: {{keepWithin: {within}}}}}]
    triggers: [{{name: often, cron: '{cron}'}}]
    objectives: {{rpo: 25h}}
"
    )
}

fn conditions(source: &BackupSource) -> &[Condition] {
    source
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default()
}

async fn label(sandbox: &Sandbox) -> Result<()> {
    let name = sandbox.namespace.as_str();
    sandbox.kubectl(&["label", "namespace", name, &format!("{LABEL}={name}")]).await?;
    Ok(())
}

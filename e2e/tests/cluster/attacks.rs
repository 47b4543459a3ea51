//! What somebody does with a store's keys is refused, or seen by the next pass; no restore believes it, and nothing is removed for it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use holdfast_crds::{
    BackupRun, BackupSource, BackupStore, Reason,
    document::{Fact, Label, Outcome, Record, RunPath, Ulid},
};
use holdfast_e2e::{
    keeper::{self, keeper, said, store_said},
    s3::{ROLES, S3Client},
    sandbox::{self, Sandbox},
};
use jiff::Timestamp;
use kube::api::PostParams;
use serde_json::{Value, json};

const PREFIX: &str = "backups/prod-eu";
/// Who makes the runs of ticks.
const OPERATOR: &str = "system:serviceaccount:holdfast-system:holdfast";
/// A run of a tick that is not due for years.
const DUE: &str = "shop-yearly-20990101t0000z-forgery0";

/// A database, a source, a store `offsite` with these credentials, and a schedule that keeps for three days.
async fn prepared(sandbox: &Sandbox, credentials: &str) -> Result<()> {
    let database = sandbox.postgres("shop").await?;
    database.fill("shop", 100).await?;
    sandbox
        .apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupStore
metadata: {{name: offsite}}
spec:
  s3: {{bucket: backups, prefix: prod-eu, endpoint: 'http://s3:7070'}}
  credentials: {credentials}
  encryption: {{none: {{}}}}
"
        ))
        .await?;
    sandbox.yearly("yearly", "{name: offsite, retention: {keepWithin: 3d}}").await?;
    sandbox.source("shop", "databases: {include: [shop]}").await?;
    sandbox.store_ready("offsite").await
}

/// Makes copies by the schedule, and waits until a keeper has seen all of them.
async fn copies(sandbox: &Sandbox, names: &[&str], all: i64) -> Result<()> {
    for name in names {
        sandbox.start_run_of("yearly", name, "shop").await?;
    }
    for name in names {
        sandbox.run_succeeded(name, 120).await?;
    }
    sandbox
        .catalogue("shop", "offsite", 120, "looked after", |entry| entry.copies == all)
        .await?;
    let idle = |store: &BackupStore| keeper(store).is_some_and(|keeper| keeper.finished_at.is_some());
    sandbox.pass("offsite", 60, "idle", idle).await?;
    Ok(())
}

/// The files of all versions of all objects, but for what probes leave.
async fn files(sandbox: &Sandbox) -> Result<BTreeSet<String>> {
    let list = "cd /data && find objects versions -type f ! -path '*/probe/*' -size +0 -exec md5sum {} +";
    let list = sandbox.exec("s3", &["sh", "-c", list], "").await?;
    // A version that is not the newest any more lies elsewhere: known by what it holds.
    Ok(list
        .lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect())
}

/// The names of the objects of a run that end so.
async fn objects(sandbox: &Sandbox, below: &str, run: &str, end: &str) -> Result<Vec<String>> {
    let find = format!(
        "cd /data/objects/{PREFIX} && find {below}/{}/shop/{run} -type f -name '*{end}' ! -name 'index*'",
        sandbox.namespace
    );
    let found = sandbox.exec("s3", &["sh", "-c", &find], "").await?;
    ensure!(!found.trim().is_empty(), "{find}");
    Ok(found.lines().map(|name| format!("{PREFIX}/{name}")).collect())
}

fn register(sandbox: &Sandbox, run: &str) -> String {
    format!("{PREFIX}/catalog/{}/shop/{run}/outcome.json", sandbox.namespace)
}

/// The record of a removal that no keeper wrote.
fn removal(sandbox: &Sandbox, run: &str) -> Result<(String, String)> {
    let path = RunPath::new(&sandbox.namespace, "shop", run)?;
    let (now, reason) = (Timestamp::now(), "retention".to_owned());
    let invented = Some(Ulid::new(now, [1; 10]));
    let fact = Fact::Removed { reason, mark: invented };
    let record = Record::new(path, Ulid::new(now, [2; 10]), Label::new("pod uid", "somebody")?, now, None, fact);
    Ok((format!("{PREFIX}/{}", record.path()), String::from_utf8(record.to_bytes())?))
}

/// Makes a copy of `run` into one of [`DUE`], data and all, that is good in all but its time.
async fn forge(sandbox: &Sandbox, keys: &S3Client, run: &str) -> Result<()> {
    let genuine = keys.done("GET", &register(sandbox, run), &[], "").await?;
    let mut outcome: Value = serde_json::from_str(&genuine.replace(&format!("/{run}"), &format!("/{DUE}")))?;
    let names: Vec<_> = outcome["stored"]
        .as_array()
        .context("stored")?
        .iter()
        .map(|one| one["path"].clone())
        .collect();
    for name in names {
        let to = name.as_str().context("path")?;
        let source = format!("x-amz-copy-source: /{PREFIX}/{}", to.replace(DUE, run));
        keys.done("PUT", &format!("{PREFIX}/{to}"), &[&source], "").await?;
    }
    for object in outcome["stored"].as_array_mut().context("stored")? {
        object.as_object_mut().context("object")?.remove("versionId");
    }
    outcome["manifest"]["run"]["name"] = DUE.into();
    outcome["manifest"]["run"]["tick"] = "2099-01-01T00:00:00Z".into();
    let path = RunPath::new(&sandbox.namespace, "shop", DUE)?;
    let forged = Outcome::from_bytes(&path, outcome.to_string().as_bytes())?;
    keys.done("PUT", &register(sandbox, DUE), &[], std::str::from_utf8(&forged.to_bytes())?)
        .await?;
    Ok(())
}

async fn restore(sandbox: &Sandbox, name: &str, run: &str) -> Result<()> {
    let from = format!("{}/shop/{run}", sandbox.namespace);
    sandbox
        .apply_value(json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "RestoreRequest", "metadata": {"name": name}, "spec": {
            "from": {"store": {"name": "offsite", "path": from}},
            "to": {"postgresql": {"hosts": ["shop:5432"], "version": 15, "credentials": {"secretName": "shop"}, "tls": {"mode": "Disable"}}},
            "select": {"rename": {"shop": format!("shop_{}", name.replace('-', "_"))}}}}))
        .await
}

/// Waits for a pass that has found each of these, and for what is said of it.
async fn found(sandbox: &Sandbox, passes: i64, wanted: &[(Reason, &str)]) -> Result<()> {
    let store = sandbox
        .pass("offsite", 120, "tampered with", |store| {
            keeper::passes(store) > passes && !store_said(store, "Intact").starts_with("True")
        })
        .await?;
    let findings = &keeper(&store).context("keeper")?.findings;
    for (reason, words) in wanted {
        let told = findings
            .iter()
            .any(|finding| finding.reason == *reason && finding.message.contains(words));
        ensure!(told, "{reason}: {words}: {findings:#?}");
    }
    let intact = store_said(&store, "Intact");
    ensure!(
        intact.starts_with("False Tampered") || intact.starts_with("False CopyCorrupt"),
        "{intact}"
    );
    sandbox
        .until::<BackupSource>("shop", 30, "not intact", |source| {
            let conditions = source.status.as_ref().map(|status| status.conditions.as_slice());
            said(conditions.unwrap_or_default(), "Intact").starts_with("False")
        })
        .await?;
    let events = sandbox.events("offsite").await?;
    ensure!(events.iter().any(|event| event.starts_with("Tampered: ")), "{events:?}");
    Ok(())
}

async fn passes(sandbox: &Sandbox) -> Result<i64> {
    Ok(keeper::passes(&sandbox.api().get("offsite").await?))
}

#[test]
fn what_is_done_with_the_writers_keys_is_refused_or_found_and_nothing_goes_for_it() {
    sandbox::run("attacks", |sandbox| async move {
        sandbox.s3_with_roles().await?;
        prepared(&sandbox, ROLES).await?;
        copies(&sandbox, &["first", "second"], 2).await?;
        let writer = sandbox.s3_as("writer").await?;
        let (before, seen) = (files(&sandbox).await?, passes(&sandbox).await?);

        // The policy refuses: to delete anything, to speak for the keeper, to take the place over.
        let parts = objects(&sandbox, "data", "second", ".zst").await?;
        let records = objects(&sandbox, "catalog", "first", "-retain.json").await?;
        let outcome = register(&sandbox, "first");
        for object in [&outcome, &parts[0], &records[0]] {
            writer.denied("DELETE", object, "").await?;
            writer.denied("DELETE", &format!("{object}?versionId=null"), "").await?;
        }
        let (place, removed) = removal(&sandbox, "first")?;
        writer.denied("PUT", &place, &removed).await?;
        writer.denied("PUT", &records[0], &removed).await?;
        for place in ["holds/case/01ARZ3NDEKTSV4RRFFQ69G5FAW-release.json", "owner/2.json"] {
            writer.denied("PUT", &format!("{PREFIX}/{place}"), "{}").await?;
        }
        // It cannot refuse: to put over a register and a part, and to be the first to write of a run that is to come.
        let mut abandoned: Value = serde_json::from_str(&writer.done("GET", &outcome, &[], "").await?)?;
        let fields = abandoned.as_object_mut().context("outcome")?;
        fields.retain(|field, _| !matches!(field.as_str(), "manifest" | "stored"));
        fields.insert("abandonment".into(), json!({"reason": "Cancelled", "message": "nobody needs it"}));
        forge(&sandbox, &writer, "second").await?;
        writer.done("PUT", &outcome, &[], &abandoned.to_string()).await?;
        writer.done("PUT", &parts[0], &[], "garbage").await?;

        sandbox.back_up("third", "shop").await?;
        let expected = [
            (
                Reason::Tampered,
                "first/outcome.json was overwritten after it had been written; its first version is what counts",
            ),
            (
                Reason::Tampered,
                ".zst was overwritten after it had been written; its first version is what counts",
            ),
            (
                Reason::CopyCorrupt,
                "before its own tick 2099-01-01T00:00:00Z: it is not of this run",
            ),
        ];
        found(&sandbox, seen, &expected).await?;
        let lost: Vec<_> = before.difference(&files(&sandbox).await?).cloned().collect();
        ensure!(lost.is_empty(), "removed: {lost:?}");

        // The run of that tick does not take the forgery for its own.
        let operator = sandbox.as_user(OPERATOR, &[]).await?;
        let run = json!({"metadata": {"name": DUE}, "spec": {"source": "shop", "stores": [{"name": "offsite"}],
            "tick": {"schedule": "yearly", "trigger": "yearly", "time": "2099-01-01T00:00:00Z"}}});
        let run: BackupRun = serde_json::from_value(run)?;
        operator.api::<BackupRun>().create(&PostParams::default(), &run).await?;
        restore(&sandbox, "overwritten", "first").await?;
        restore(&sandbox, "forged", DUE).await?;
        restore(&sandbox, "genuine", "second").await?;
        sandbox.run_failed(DUE, 120, Reason::Tampered).await?;
        sandbox.restore_failed("overwritten", 120, Reason::Tampered).await?;
        sandbox.restore_failed("forged", 120, Reason::Tampered).await?;
        // Parts are read in the version that was written.
        sandbox.restore_succeeded("genuine", 120).await?;
        Ok(())
    });
}

#[test]
fn where_no_policy_refuses_versions_show_what_was_done() {
    sandbox::run("attacks-versions", |sandbox| async move {
        sandbox.s3_with_versions().await?;
        prepared(&sandbox, "{secretName: s3}").await?;
        copies(&sandbox, &["first", "second", "third"], 3).await?;
        let keys = sandbox.s3_as("s3").await?;
        let (before, seen) = (files(&sandbox).await?, passes(&sandbox).await?);

        let parts = objects(&sandbox, "data", "third", ".zst").await?;
        let records = objects(&sandbox, "catalog", "third", "-retain.json").await?;
        let (place, removed) = removal(&sandbox, "first")?;
        keys.done("PUT", &place, &[], &removed).await?;
        keys.done("DELETE", &register(&sandbox, "second"), &[], "").await?;
        keys.done("DELETE", &parts[0], &[], "").await?;
        keys.done("PUT", &records[0], &[], "{}").await?;

        sandbox.back_up("fourth", "shop").await?;
        let expected = [
            (Reason::Tampered, "says that the copy was removed, but the mark"),
            (
                Reason::Tampered,
                "second/outcome.json was deleted after it had been written; its first version is what counts",
            ),
            (
                Reason::Tampered,
                ".zst was deleted after it had been written; its first version is what counts",
            ),
            (
                Reason::Tampered,
                "-retain.json was overwritten after it had been written; its first version is what counts",
            ),
        ];
        found(&sandbox, seen, &expected).await?;
        let lost: Vec<_> = before.difference(&files(&sandbox).await?).cloned().collect();
        ensure!(lost.is_empty(), "removed: {lost:?}");
        let entry = sandbox
            .catalogue("shop", "offsite", 30, "all there", |entry| entry.copies == 4)
            .await?;
        ensure!(entry.good == 4, "{entry:?}");

        restore(&sandbox, "deleted", "second").await?;
        restore(&sandbox, "genuine", "third").await?;
        sandbox.restore_failed("deleted", 120, Reason::Tampered).await?;
        sandbox.restore_succeeded("genuine", 120).await?;
        Ok(())
    });
}

//! What the chart grants is what the operator does. It runs after the tests that make it do all of it.

use std::{collections::BTreeSet, env, path::Path};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::helm::{Right, operator_rights, render, used_rights};
use jiff::SignedDuration;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{Api, Client};

/// Granted, but not needed by every pass of the end-to-end tests.
fn rare() -> BTreeSet<Right> {
    BTreeSet::from([
        // A run exists already, and is asked whether it is the one of this tick.
        Right::new("holdfast.dev", "backupruns", "get"),
        // The limits of the history are reached after more runs than a test makes; the scenarios of the schedules delete them.
        Right::new("holdfast.dev", "backupruns", "delete"),
        // … and those of finished restores after 90 days.
        Right::new("holdfast.dev", "restorerequests", "delete"),
        // … and previews after a day or more.
        Right::new("holdfast.dev", "retentionpreviews", "delete"),
        // The chart makes it; whoever leads makes it again if somebody deletes it.
        Right::new("coordination.k8s.io", "leases", "create"),
    ])
}

/// By the audit log of the test cluster, since the operator's rights were changed last: no request of it was forbidden, and each right was used.
#[tokio::test]
async fn the_rights_granted_are_the_rights_used() -> Result<()> {
    let client = Client::try_default().await?;
    let role = Api::<ClusterRole>::all(client).get("holdfast.holdfast-system").await?;
    let entries = role.metadata.managed_fields.unwrap_or_default();
    let written = entries.iter().filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
    // The API server's authorizer follows within a moment.
    let since = written.context("when the ClusterRole was written is not known")? + SignedDuration::from_secs(5);

    let directory = env::var("HOLDFAST_CLUSTER_DIR").unwrap_or_else(|_| "/var/tmp/holdfast-cluster".to_owned());
    let log = Path::new(&directory).join("logs/audit.log");
    let granted = operator_rights(&render("holdfast", "holdfast-system", &["--set=crds.install=false"])?);
    let used = used_rights(&log, "system:serviceaccount:holdfast-system:holdfast", since)?;
    let beyond: Vec<_> = used.difference(&granted).collect();
    ensure!(beyond.is_empty(), "used, and not in this chart: {beyond:?}");
    let unused: Vec<_> = granted.difference(&used).filter(|right| !rare().contains(right)).collect();
    ensure!(
        unused.is_empty(),
        "granted, and not used since {since} (by all end-to-end tests, if they ran): {unused:?}"
    );
    Ok(())
}

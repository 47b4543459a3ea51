//! What the operator connects to, and what it says of schedules.

use anyhow::{Context, ensure};
use holdfast_crds::{BackupRun, BackupSchedule};
use holdfast_e2e::{fixture::condition, sandbox};
use kube::{ResourceExt, api::ListParams};

/// Every TCP connection that the operator has opened leads to the API server.
#[test]
fn the_operator_connects_to_nothing_but_the_api_server() {
    sandbox::run("sockets", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox.back_up("first", "shop").await?;
        let mut seen = 0;
        for process in std::fs::read_dir("/proc")?.flatten() {
            let comm = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            if !comm.starts_with("holdfast-operat") {
                continue;
            }
            for line in std::fs::read_to_string(process.path().join("net/tcp"))?.lines().skip(1) {
                let fields: Vec<_> = line.split_whitespace().collect();
                let (local, remote, state) = (fields[1], fields[2], fields[3]);
                let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap_or_default(), 16).unwrap_or_default();
                // 0A listens; 8080 is asked by the kubelet; 01 is an established connection: the API server's service has 443, its host 6443.
                if state == "01" && port(local) != 8080 {
                    ensure!(matches!(port(remote), 443 | 6443), "connected to port {}", port(remote));
                    seen += 1;
                }
            }
        }
        ensure!(seen > 0, "no connection of the operator was found on this machine");
        Ok(())
    });
}

#[test]
fn the_objects_of_a_schedule_say_how_it_is() {
    sandbox::run("says", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox
            .apply(
                "apiVersion: holdfast.dev/v1alpha1\nkind: BackupSchedule\nmetadata: {name: wrong}\nspec: {sources: {names: [shop]}, stores: [{name: offsite}], triggers: [{name: never, cron: '61 * * * *'}]}\n",
            )
            .await?;
        let schedule = sandbox
            .until::<BackupSchedule>("wrong", 60, "refused", |schedule| {
                schedule
                    .status
                    .as_ref()
                    .is_some_and(|status| condition(&status.conditions, "Ready") == Some("False"))
            })
            .await?;
        let message = schedule
            .status
            .context("status")?
            .conditions
            .into_iter()
            .find(|condition| condition.type_ == "Ready")
            .context("Ready")?
            .message;
        ensure!(message.contains("61") && message.contains("never"), "{message}");
        sandbox
            .apply(
                "apiVersion: holdfast.dev/v1alpha1\nkind: BackupSchedule\nmetadata: {name: stopped}\nspec: {suspend: true, sources: {names: [shop]}, stores: [{name: offsite}], triggers: [{name: minute, cron: '* * * * *'}]}\n",
            )
            .await?;
        sandbox
            .until::<BackupSchedule>("stopped", 60, "suspended", |schedule| {
                schedule
                    .status
                    .as_ref()
                    .is_some_and(|status| status.conditions.iter().any(|condition| condition.reason == "Suspended"))
            })
            .await?;
        let runs = sandbox.api::<BackupRun>().list(&ListParams::default()).await?;
        ensure!(
            runs.items.iter().all(|run| !run.name_any().contains("minute")),
            "a suspended schedule made a run"
        );
        Ok(())
    });
}

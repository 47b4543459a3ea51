//! The operator is killed, replaced, stopped and left alone. Each test prepares what it needs beside the others, and then waits until it is alone.

use std::{cell::Cell, time::Duration};

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, BackupSchedule, BackupSource, RunPhase};
use holdfast_e2e::{
    operator::{Operator, script},
    sandbox::{self, Sandbox},
};
use k8s_openapi::api::batch::v1::Job;
use kube::api::ListParams;

async fn succeeded_at_once(sandbox: &Sandbox, run: &str) -> Result<()> {
    let status = sandbox.run_ended(run, 300).await?.status.context("status")?;
    ensure!(
        status.phase == RunPhase::Succeeded && status.attempts.len() == 1,
        "{run}: {status:?}"
    );
    Ok(())
}

#[test]
fn the_operator_is_killed_at_five_moments_of_a_run() {
    sandbox::run("killed", |sandbox| async move {
        let operator = Operator::new(sandbox.client.clone());
        let database = sandbox.prepared(100).await?;
        sandbox.postgres("other").await?;
        sandbox.source("other", "").await?;
        let _alone = sandbox::alone().await;
        operator.until_ready(2).await?;
        let kill = || async { operator.kill(&operator.pod_names().await?).await };

        // 1. While a run is cancelled, 2. when another's attempt was counted, and 3. right after one was made.
        let (lock, _) = database.held_dump("cancelled", "").await?;
        sandbox.start_run("counted", "shop", "").await?;
        sandbox
            .until::<BackupRun>("counted", 60, "counted", |run| {
                run.status.as_ref().is_some_and(|status| !status.attempts.is_empty())
            })
            .await?;
        sandbox.start_run("made", "shop", "").await?;
        sandbox
            .kubectl(&[
                "patch",
                "backuprun",
                "cancelled",
                "--type=merge",
                "-p",
                r#"{"spec":{"cancel":true}}"#,
            ])
            .await?;
        kill().await?;
        let status = sandbox.run_ended("cancelled", 200).await?.status.context("status")?;
        ensure!(status.phase == RunPhase::Cancelled, "{status:?}");
        lock.release().await?;
        succeeded_at_once(&sandbox, "counted").await?;
        succeeded_at_once(&sandbox, "made").await?;

        // 4. While a dump runs, which ends while no operator is there, and 5. when another's Job has ended.
        operator.until_ready(2).await?;
        let (lock, _) = database.held_dump("dumping", "").await?;
        sandbox.start_run("ended", "other", "").await?;
        // The operator may have removed it before it is seen here.
        let seen = Cell::new(false);
        sandbox
            .until_list::<Job>("holdfast.dev/run=ended", 120, "ended", |jobs| {
                let seen = seen.replace(seen.get() || !jobs.is_empty());
                seen && jobs.is_empty()
                    || jobs
                        .iter()
                        .any(|job| job.status.as_ref().is_some_and(|status| status.succeeded == Some(1)))
            })
            .await?;
        kill().await?;
        lock.release().await?;
        succeeded_at_once(&sandbox, "dumping").await?;
        succeeded_at_once(&sandbox, "ended").await?;
        operator.until_ready(2).await
    });
}

#[test]
fn another_replica_takes_over_from_a_killed_leader() {
    sandbox::run("leader", |sandbox| async move {
        let operator = Operator::new(sandbox.client.clone());
        sandbox.prepared(100).await?;
        let _alone = sandbox::alone().await;
        operator.until_ready(2).await?;
        let leader = operator.leader().await?;
        operator.kill(std::slice::from_ref(&leader)).await?;
        ensure!(operator.holder().await? == leader, "the killed pod has handed its Lease over");
        sandbox.start_run("first", "shop", "").await?;
        succeeded_at_once(&sandbox, "first").await?;
        ensure!(operator.leader().await? != leader, "the killed pod still leads");
        operator.until_ready(2).await
    });
}

#[test]
fn ticks_that_passed_while_the_operator_was_down_are_caught_up_once() {
    sandbox::run("ticks", |sandbox| async move {
        let operator = Operator::new(sandbox.client.clone());
        sandbox.prepared(100).await?;
        let _alone = sandbox::alone().await;
        sandbox.often().await?;
        sandbox
            .until::<BackupSchedule>("often", 60, "begun", |schedule| {
                schedule.status.as_ref().is_some_and(|status| !status.triggers.is_empty())
            })
            .await?;
        operator.scale(0).await?;
        ensure!(operator.holder().await.is_err(), "the last leader kept its Lease");
        let runs = sandbox.api::<BackupRun>().list(&ListParams::default()).await?.items.len();
        // Two ticks pass by the clock: nothing else makes them pass.
        let second = jiff::Timestamp::now().as_second();
        tokio::time::sleep(Duration::from_secs(u64::try_from(60 - second % 60)? + 61)).await;
        operator.scale(2).await?;
        let schedule = sandbox
            .until::<BackupSchedule>("often", 90, "caught up", |schedule| {
                schedule
                    .status
                    .as_ref()
                    .is_some_and(|status| status.triggers.iter().any(|trigger| trigger.missed > 0))
            })
            .await?;
        let trigger = schedule.status.context("status")?.triggers.remove(0);
        ensure!((1..=3).contains(&trigger.missed), "{trigger:?}");
        let made = sandbox.api::<BackupRun>().list(&ListParams::default()).await?.items.len() - runs;
        ensure!((1..=2).contains(&made), "{made} runs were made at once");
        Ok(())
    });
}

#[test]
fn a_run_goes_on_while_the_chart_is_upgraded() {
    sandbox::run("upgrade", |sandbox| async move {
        let operator = Operator::new(sandbox.client.clone());
        let database = sandbox.prepared(100).await?;
        let _alone = sandbox::alone().await;
        let (lock, _) = database.held_dump("first", "").await?;
        let before = operator.pod_names().await?;
        let stamp = format!("podAnnotations.e2e={}", sandbox.namespace);
        script("e2e/tools/install.sh", &["--set-string", &stamp], &[]).await?;
        operator.until_ready(2).await?;
        ensure!(
            operator.pod_names().await?.iter().all(|pod| !before.contains(pod)),
            "the pods were not replaced"
        );
        lock.release().await?;
        succeeded_at_once(&sandbox, "first").await
    });
}

/// Two minutes of the API server's audit log show nothing of the operator but its Lease and the renewal of watches.
#[test]
fn an_idle_operator_is_silent() {
    sandbox::run("idle", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox.back_up("first", "shop").await?;
        // So that a keeper looks at once.
        sandbox.yearly("yearly", "{name: offsite}").await?;
        sandbox
            .until_list::<Job>("holdfast.dev/run=first", 60, "empty", <[Job]>::is_empty)
            .await?;
        sandbox
            .until::<BackupSource>("shop", 60, "settled", |source| {
                source.status.as_ref().is_some_and(|status| status.newest_copy.is_some())
            })
            .await?;
        // The pass after the commit was made, and its Job is gone.
        sandbox
            .catalogue("shop", "offsite", 150, "looked after", |entry| entry.copies == 1)
            .await?;
        sandbox.until_list::<Job>("", 60, "empty", <[Job]>::is_empty).await?;
        let _alone = sandbox::alone().await;
        let directory = std::env::var("HOLDFAST_CLUSTER_DIR").unwrap_or_else(|_| "/var/tmp/holdfast-cluster".to_owned());
        let log = std::path::Path::new(&directory).join("logs/audit.log");
        // What is seen is time in which nothing happens: it passes by the clock. Other namespaces may still be going for a moment.
        tokio::time::sleep(Duration::from_secs(30)).await;
        let begin = std::fs::metadata(&log)?.len();
        tokio::time::sleep(Duration::from_secs(120)).await;
        let text = std::fs::read(&log)?;
        let mut requests = 0;
        for line in String::from_utf8_lossy(&text[usize::try_from(begin)?..]).lines() {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            let user = event["user"]["username"].as_str().unwrap_or_default();
            if !user.starts_with("system:serviceaccount:holdfast-system:") {
                continue;
            }
            requests += 1;
            let (verb, resource) = (
                event["verb"].as_str().unwrap_or_default(),
                event["objectRef"]["resource"].as_str().unwrap_or_default(),
            );
            ensure!(
                verb == "watch" || resource == "leases",
                "an idle operator made a request: {verb} {resource} {}",
                event["requestURI"]
            );
        }
        ensure!(
            requests > 20,
            "only {requests} requests of the operator in two minutes: is this its audit log?"
        );
        Ok(())
    });
}

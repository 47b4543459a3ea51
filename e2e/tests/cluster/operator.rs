//! What the operator connects to, and what it says of schedules.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, BackupSchedule};
use holdfast_e2e::{
    fixture::condition,
    operator::{Process, processes},
    sandbox,
};
use kube::{ResourceExt, api::ListParams};

/// The other ends of the TCP connections that a process has, is about to have or has had lately, as the kernel writes them: of those that it
/// was asked for itself, by the kubelet and Prometheus, nothing.
fn connections(process: &Process) -> BTreeSet<String> {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{}/net/{name}", process.id)).unwrap_or_default();
    let (four, six) = (table("tcp"), table("tcp6"));
    let lines = four.lines().skip(1).chain(six.lines().skip(1));
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    // State 0A listens; the port of the pod's own server is 8080.
    let opened = fields.filter(|fields| fields[3] != "0A" && !fields[1].ends_with(":1F90"));
    opened.map(|fields| fields[2].to_owned()).collect()
}

/// An address and a port as the kernel writes them in `/proc/net/tcp`, or mapped into IPv6 in `/proc/net/tcp6`.
fn as_the_kernel_writes(address: &str, port: i32) -> Result<[String; 2]> {
    let octets = address.parse::<std::net::Ipv4Addr>()?.octets();
    let four = format!("{:08X}:{port:04X}", u32::from_le_bytes(octets));
    Ok([four.clone(), format!("0000000000000000FFFF0000{four}")])
}

/// While a run is made, at work and ended, every connection of the operators leads to the API server.
#[test]
fn the_operator_connects_to_nothing_but_the_api_server() {
    sandbox::run("sockets", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let find = "jsonpath={.spec.clusterIP} {.spec.ports[0].port}";
        let service = sandbox
            .kubectl(&["get", "service", "kubernetes", "-n", "default", "-o", find])
            .await?;
        let find = "jsonpath={.subsets[0].addresses[0].ip} {.subsets[0].ports[0].port}";
        let server = sandbox
            .kubectl(&["get", "endpoints", "kubernetes", "-n", "default", "-o", find])
            .await?;
        let mut allowed = BTreeSet::new();
        for place in [service, server] {
            let (address, port) = place.split_once(' ').context("address and port")?;
            allowed.extend(as_the_kernel_writes(address, port.parse()?)?);
        }
        let mut seen = 0;
        let mut look_at_all = || {
            for process in processes("holdfast-operat")? {
                for connection in connections(&process) {
                    ensure!(allowed.contains(&connection), "connected to {connection}; allowed are {allowed:?}");
                    seen += 1;
                }
            }
            Ok(())
        };
        let lock = database.hold_lock("shop", "documents").await?;
        sandbox.start_run("first", "shop", "").await?;
        look_at_all()?;
        sandbox.dumping("first", &database).await?;
        look_at_all()?;
        lock.release().await?;
        sandbox.run_succeeded("first", 200).await?;
        look_at_all()?;
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

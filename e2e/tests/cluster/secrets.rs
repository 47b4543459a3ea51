//! What a Secret holds is seen nowhere else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream::select_all};
use holdfast_e2e::{
    fixture::{IDENTITY, RECIPIENT},
    operator,
    sandbox::{self, Sandbox},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::LogParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    discovery::{self, Scope},
    runtime::{WatchStreamExt, watcher},
};

/// What each process of a pod shows to the others: its arguments and its environment.
const PROCESSES: &str = "for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/cmdline; tr '\\0' '\\n' < $p/environ; done; true";

/// What was seen, by what it is.
type Seen = Arc<Mutex<BTreeMap<String, String>>>;

fn note(seen: &Seen, what: String, text: &str) {
    let mut seen = seen.lock().expect("no test panics with it");
    seen.entry(what).or_default().push_str(text);
}

/// Notes each state of each object in the namespace, and what the containers of Holdfast's pods log to their end. It does not end by itself.
async fn watch(sandbox: &Sandbox, seen: &Seen) -> Result<()> {
    let ours = discovery::group(&sandbox.client, "holdfast.dev").await?;
    let ours = ours.recommended_resources().into_iter();
    let mut kinds: Vec<_> = ours
        .filter(|(_, capabilities)| capabilities.scope == Scope::Namespaced)
        .map(|(kind, _)| kind)
        .collect();
    ensure!(kinds.len() > 5, "{kinds:?}");
    for (group, kind) in [("", "Pod"), ("batch", "Job"), ("", "Event"), ("", "ConfigMap")] {
        kinds.push(ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind)));
    }
    let watches = kinds.iter().map(|kind| {
        let api: Api<DynamicObject> = Api::namespaced_with(sandbox.client.clone(), &sandbox.namespace, kind);
        watcher(api, watcher::Config::default()).default_backoff().touched_objects().boxed()
    });
    let mut watches = select_all(watches);
    let mut followed = BTreeSet::new();
    let mut logs = tokio::task::JoinSet::new();
    while let Some(object) = watches.try_next().await? {
        let kind = object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default();
        let name = object.name_any();
        note(seen, format!("{kind} {name}"), &serde_yaml::to_string(&object)?);
        let purpose = object.labels().get("holdfast.dev/purpose").cloned();
        let (Some(purpose), Some("Running" | "Succeeded" | "Failed")) = (purpose, object.data["status"]["phase"].as_str()) else {
            continue;
        };
        if kind != "Pod" || !followed.insert(name.clone()) {
            continue;
        }
        for container in ["initContainers", "containers"] {
            for container in object.data["spec"][container].as_array().into_iter().flatten() {
                let container = container["name"].as_str().context("a container's name")?.to_owned();
                let (pods, seen) = (sandbox.api::<Pod>(), seen.clone());
                let (name, purpose) = (name.clone(), purpose.clone());
                logs.spawn(async move {
                    let follow = LogParams {
                        container: Some(container.clone()),
                        follow: true,
                        ..LogParams::default()
                    };
                    // One that is gone already has nothing to say; that enough was read is looked at in the end.
                    let log = pods.logs(&name, &follow).await.unwrap_or_default();
                    note(&seen, format!("log of {purpose} {name} {container}"), &log);
                });
            }
        }
    }
    bail!("the watch ended")
}

/// Notes what each process of Holdfast on this machine shows of itself: also those of containers that live for a second. It does not end by itself.
async fn processes(seen: &Seen) -> Result<()> {
    let mut known = BTreeSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        for process in operator::processes("holdfast-")? {
            let shown = ["cmdline", "environ"].map(|file| std::fs::read(format!("/proc/{}/{file}", process.id)).unwrap_or_default());
            let shown = String::from_utf8_lossy(&shown.concat()).replace('\0', "\n");
            if known.insert(shown.clone()) {
                note(seen, format!("process {}", process.id), &shown);
            }
        }
    }
}

/// A copy is made, looked after and restored; gives what the processes showed of themselves.
async fn work(sandbox: &Sandbox, seen: &Seen) -> Result<()> {
    let database = sandbox.postgres("shop").await?;
    database.fill("shop", 1_000_000).await?;
    sandbox.s3().await?;
    sandbox.secret_of("age-key", &format!("identity: '{IDENTITY}'")).await?;
    let encryption = format!("{{age: {{recipients: [{RECIPIENT}], identitySecretName: age-key}}}}");
    sandbox.store(&encryption).await?;
    sandbox.source("shop", "databases: {include: [shop]}").await?;

    let (lock, pod) = database.held_dump("seen", "").await?;
    let processes = sandbox.exec_in(&pod, &["-c", "agent"], &["sh", "-c", PROCESSES], "").await?;
    ensure!(processes.contains("pg_dump"), "the dump was not running: {processes}");
    note(seen, "processes of the backup".to_owned(), &processes);
    lock.release().await?;
    sandbox.run_succeeded("seen", 200).await?;
    sandbox
        .catalogue("shop", "offsite", 150, "looked after", |entry| entry.copies == 1)
        .await?;

    database.sql("postgres", "drop database shop").await?;
    sandbox.request_restore("back", "seen", "shop", "").await?;
    let running = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let pods = sandbox
        .until_list::<Pod>("holdfast.dev/restore=back", 120, "running", |pods| pods.iter().any(running))
        .await?;
    let pod = pods.iter().find(|pod| running(pod)).map(ResourceExt::name_any).context("a pod")?;
    let loading = format!("until grep -qsa pg_restore /proc/[0-9]*/cmdline; do :; done; {PROCESSES}");
    let processes = sandbox.exec_in(&pod, &["-c", "agent"], &["sh", "-c", &loading], "").await?;
    ensure!(processes.contains("pg_restore"), "nothing was restored: {processes}");
    note(seen, "processes of the restore".to_owned(), &processes);
    sandbox.restore_succeeded("back", 200).await?;

    sandbox.secret("words", "passphrase: VALUE").await?;
    sandbox.store_named("sealed", "sealed", "{passphrase: {secretName: words}}").await?;
    sandbox.start_run_to("sealed", "with-words", "shop", "").await?;
    sandbox.run_succeeded("with-words", 200).await?;
    Ok(())
}

/// A secret's value stands in no object, log, event or termination message of a probe, a run, a keeper or a restore, nor where other processes
/// of a pod can read it, nor in the operator's log.
#[test]
fn no_secret_is_seen_anywhere() {
    sandbox::run("secrets", |sandbox| async move {
        let seen = Seen::default();
        tokio::select! {
            worked = work(&sandbox, &seen) => worked?,
            ended = watch(&sandbox, &seen) => ended?,
            ended = processes(&seen) => ended?,
        }
        let operator = [
            "logs",
            "--namespace=holdfast-system",
            "--selector=app.kubernetes.io/component=operator",
            "--tail=-1",
        ];
        note(&seen, "log of the operator".to_owned(), &sandbox.kubectl(&operator).await?);

        let seen = seen.lock().expect("nobody else has it");
        let has = |what: &str, word: &str| seen.iter().any(|(name, text)| name.starts_with(what) && text.contains(word));
        for purpose in ["probe", "backup", "keep", "restore"] {
            ensure!(
                has(&format!("log of {purpose}"), "{"),
                "no log of {purpose} was read: {:?}",
                seen.keys()
            );
        }
        ensure!(
            has("log of the operator", &sandbox.namespace),
            "the operator's log says nothing of this"
        );
        // On another machine they are not seen from here.
        if std::env::var("CLUSTER").as_deref() != Ok("current") {
            for program in [
                "holdfast-operator\n",
                "holdfast-agent\nbackup\n",
                "holdfast-agent\nkey\n",
                "holdfast-agent\nkeep\n",
            ] {
                ensure!(has("process ", program), "no process {program:?} was seen");
            }
        }
        ensure!(has("Pod ", "\"Succeeded\"") || has("Pod ", "Succeeded"), "no end of a pod was seen");
        for (what, text) in seen.iter() {
            for line in text.lines() {
                ensure!(
                    !line.contains("not-to-be-seen") && !line.contains(IDENTITY),
                    "{what} shows a secret: {line}"
                );
            }
        }
        Ok(())
    });
}

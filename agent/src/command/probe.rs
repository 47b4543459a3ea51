//! `probe`: tries a store, and says what it found.

use std::path::PathBuf;

use clap::Args;
use holdfast_crds::document::Label;
use holdfast_crds::{Action, AgentResult, BackupStore, ProbeTask, Reason, StoreRole, TASK_VERSION, Task};
use jiff::Timestamp;

use super::{backup::freeze, place};
use crate::config::{Invocation, Places, read_document, read_task};
use crate::result::{Failure, plain};
use crate::store::probe::{PATIENCE, Probe, Roles};

/// Try a store: reach it, write, read, list, create the same object eight times at once, and more
///
/// What it writes lies under `probe/`; a place without an owner becomes the cluster's.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLE
    holdfast-agent probe --store store.yaml --store-secret ./s3 --cluster $(kubectl get ns kube-system -o jsonpath={.metadata.uid}) --result -
    ./s3 holds access_key_id and secret_access_key: one file each.")]
pub struct ProbeArgs {
    /// Manifest of the BackupStore, instead of a task
    #[arg(long, value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// Id of the cluster that owns the place in the store
    #[arg(long, default_value = "by-hand")]
    pub cluster: String,
    /// Where files lie
    #[command(flatten)]
    pub places: Places,
}

impl ProbeArgs {
    /// The task: read, or made from the manifest.
    pub fn task(&self) -> Result<Task, Failure> {
        let Some(store) = &self.store else {
            return read_task(&self.places.task);
        };
        let store: BackupStore = read_document("the BackupStore", store)?;
        Ok(Task {
            version: TASK_VERSION,
            cluster: self.cluster.clone(),
            namespace: store.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            store: freeze(store),
            action: Action::Probe(ProbeTask {
                now: Timestamp::now().to_string(),
            }),
        })
    }
}

/// Tries the task's store. A store that is refused is a result with all that was found, not a failure of the command.
pub async fn run(invocation: &Invocation, task: &ProbeTask) -> Result<AgentResult, Failure> {
    let invalid = |message: String| Failure::new(Reason::InvalidSpec, message);
    let Task {
        cluster, namespace, store, ..
    } = &invocation.task;
    let now: Timestamp = task
        .now
        .parse()
        .map_err(|error| invalid(format!("the task's probe.now is {:?}, expected RFC 3339: {error}", task.now)))?;
    // By hand there is no UID.
    let uid = if store.uid.is_empty() {
        invocation.pod.to_string()
    } else {
        store.uid.clone()
    };
    let probe = Probe {
        uid: Label::new("store uid", uid).map_err(|error| invalid(error.to_string()))?,
        cluster: cluster.clone(),
        store: store.holder(namespace),
        not_before: Some(now),
        take_over: store.spec.take_over.clone(),
        roles: roles(invocation)?,
    };
    invocation.progress.enter("probe", &probe.store);
    let opened = place::open(invocation, PATIENCE)?;
    let verdict = tokio::select! {
        verdict = opened.probe(&probe) => verdict,
        () = invocation.cancel.cancelled() => {
            opened.abort_open().await;
            return Err(Failure::new(Reason::Interrupted, "the probe was asked to stop"));
        }
    };
    let (reason, message) = match verdict.reason {
        Reason::StoreReady => (Reason::Succeeded, opened.describe()),
        reason => (reason, verdict.message),
    };
    Ok(AgentResult {
        probe: Some(verdict.report),
        ..plain(reason, message)
    })
}

/// The store as each role sees it that has credentials of its own.
fn roles(invocation: &Invocation) -> Result<Roles, Failure> {
    let credentials = invocation.task.store.spec.credentials.as_ref();
    let own = |role: StoreRole| {
        let named = credentials.is_some_and(|credentials| credentials.of(role).0 == role);
        named.then(|| place::open_as(invocation, PATIENCE, role)).transpose()
    };
    Ok(Roles {
        reader: own(StoreRole::Reader)?,
        keeper: own(StoreRole::Keeper)?,
        pruner: own(StoreRole::Pruner)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn task(uid: &str, volume: &serde_json::Value) -> Task {
        let spec = serde_json::from_value(serde_json::json!({"volume": volume, "encryption": {"none": {}}})).unwrap();
        Task {
            version: TASK_VERSION,
            cluster: "cluster-a".into(),
            namespace: "shop".into(),
            store: holdfast_crds::FrozenStore {
                kind: holdfast_crds::StoreKind::BackupStore,
                name: "local".into(),
                uid: uid.into(),
                spec,
            },
            action: Action::Probe(ProbeTask {
                now: Timestamp::now().to_string(),
            }),
        }
    }

    async fn probed(root: &Path, task: Task) -> Result<AgentResult, Failure> {
        let Action::Probe(probe) = task.action.clone() else {
            unreachable!()
        };
        run(&Invocation::new(task, Places::below(root)).unwrap(), &probe).await
    }

    #[tokio::test]
    async fn a_volume_is_tried_and_claimed() {
        let root = tempfile::tempdir().unwrap();
        let missing = probed(root.path(), task("u-1", &serde_json::json!({"claimName": "c"})))
            .await
            .unwrap_err();
        assert_eq!(missing.reason, Reason::BucketNotFound, "{missing:?}");
        std::fs::create_dir_all(Places::below(root.path()).store_volume).unwrap();
        for uid in ["u-1", ""] {
            let result = probed(root.path(), task(uid, &serde_json::json!({"claimName": "c", "path": "a"})))
                .await
                .unwrap();
            assert_eq!(result.reason, Reason::Succeeded, "{result:#?}");
            assert_eq!(result.probe.unwrap().owner.as_deref(), Some("cluster-a"));
        }
        let foreign = Task {
            cluster: "cluster-b".into(),
            ..task("u-1", &serde_json::json!({"claimName": "c", "path": "a"}))
        };
        let result = probed(root.path(), foreign).await.unwrap();
        assert_eq!(result.reason, Reason::StoreForeign);
        assert!(
            result.message.starts_with("Owner: ") && result.message.contains("cluster-a"),
            "{}",
            result.message
        );
        assert!(result.to_termination_message().len() <= 4096);
    }
}

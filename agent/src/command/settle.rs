//! `settle`: answers for a run whose end is in doubt.

use std::time::Duration;

use clap::Args;
use holdfast_crds::document::{Abandonment, Decision, RunPath};
use holdfast_crds::{AgentResult, Reason, SettleTask};

use super::backup::{own, tick_time};
use super::{place, removed};
use crate::config::{Invocation, Places};
use crate::result::{Failure, plain, summarise};
use crate::store::{Decided, Patience, Settled, Store, StorePath};

/// How long clearing up behind an abandoned run may take. What is left is cleared by the bucket's lifecycle rule.
const CLEAR_WITHIN: Duration = Duration::from_secs(30);

/// Ask the store's register how a run ended, and give the run up where the task says so
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLE
    The register is asked again as a settle Job asked it:
        kubectl get job RUN-s1 -o jsonpath='{.spec.template.metadata.annotations.holdfast\\.dev/task}' > task.json
        holdfast-agent settle --task task.json --store-secret ./s3 --result -
    ./s3 holds access_key_id and secret_access_key: one file each.")]
pub struct SettleArgs {
    /// Where files lie
    #[command(flatten)]
    pub places: Places,
}

/// Asks the register of the task's run.
pub async fn run(invocation: &Invocation, task: &SettleTask) -> Result<AgentResult, Failure> {
    invocation.progress.enter("settle", &task.run);
    let store = place::open(invocation, Patience::RUN)?;
    tokio::select! {
        settled = run_with(invocation, task, &store) => settled,
        () = invocation.cancel.cancelled() => Err(Failure::new(Reason::Interrupted, "it was asked to stop before the register had answered")),
    }
}

/// Asks the register in an open store.
pub async fn run_with(invocation: &Invocation, task: &SettleTask, store: &Store) -> Result<AgentResult, Failure> {
    let path = RunPath::new(&invocation.task.namespace, &task.source, &task.run);
    let run = path.map_err(|error| Failure::new(Reason::InvalidSpec, error.to_string()))?;
    let tick = tick_time(task.tick.as_ref())?;
    // Reading needs no right to write: the owner is asked only where something is to be written.
    if let Settled::Decided(decided) = store.settle(&run, None).await? {
        return told(store, &run, own(decided, tick)?).await;
    }
    if !task.gives_up {
        let message = format!("the register of {run} is empty: no copy was committed, and none is ruled out");
        return Ok(plain(Reason::CopyNotFound, message));
    }
    let holder = invocation.task.store.holder(&invocation.task.namespace);
    let pinned = store
        .claim(&invocation.task.cluster, &holder)
        .await
        .map_err(|error| Failure::new(error.reason(), error.to_string()))?;
    let abandonment = Abandonment {
        reason: task.reason.to_string(),
        message: crate::result::shorten(&task.message, 1024),
    };
    match store.settle(&run, Some((&invocation.pod, abandonment, &pinned))).await? {
        Settled::Decided(decided) => told(store, &run, own(decided, tick)?).await,
        Settled::Open => Err(Failure::new(Reason::InternalError, "the register is still empty")),
    }
}

async fn told(store: &Store, run: &RunPath, decided: Decided) -> Result<AgentResult, Failure> {
    let outcome = &decided.outcome;
    match &outcome.decision {
        Decision::Committed(copy) => {
            removed::refuse(store, &decided, copy).await?;
            Ok(AgentResult {
                closed: true,
                copy: Some(summarise(copy, decided.version.clone(), &[])),
                ..plain(
                    Reason::AlreadyDone,
                    format!("the copy was committed by pod {} at {}", outcome.by, outcome.at),
                )
            })
        }
        Decision::Abandoned(Abandonment { reason, message }) => {
            clear(store, run).await;
            let message = format!("the run was given up by pod {} at {}: {reason}: {message}", outcome.by, outcome.at);
            Ok(AgentResult {
                closed: true,
                ..plain(Reason::Abandoned, message)
            })
        }
    }
}

/// Nothing of an abandoned run can become a copy: its open uploads only cost.
async fn clear(store: &Store, run: &RunPath) {
    let Ok(data) = run.data().trim_end_matches('/').parse::<StorePath>() else {
        return;
    };
    match tokio::time::timeout(CLEAR_WITHIN, store.abort_leftovers(&data, Duration::ZERO)).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(aborted)) => tracing::info!(aborted, "uploads of the run were aborted"),
        Ok(Err(error)) => tracing::info!(%error, "uploads of the run could not be listed; the bucket's lifecycle rule clears them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Call, CallKind, Fault, Faulty};
    use crate::store::memory::Memory;
    use holdfast_crds::document::{Label, Outcome};
    use holdfast_crds::{Action, FrozenStore, TASK_VERSION, Task, Tick};

    const PLACE: &str = "catalog/shop/db/db-1/outcome.json";

    fn settle(gives_up: bool) -> SettleTask {
        SettleTask {
            run: "db-1".into(),
            source: "db".into(),
            tick: None,
            gives_up,
            reason: Reason::NodeLost,
            message: "its node is gone".into(),
        }
    }

    async fn settled(store: &Store, task: &SettleTask) -> Result<AgentResult, Failure> {
        let spec = serde_json::json!({"volume": {"claimName": "c"}, "encryption": {"none": {}}});
        let store_object = FrozenStore {
            kind: holdfast_crds::StoreKind::BackupStore,
            name: "local".into(),
            uid: "u".into(),
            spec: serde_json::from_value(spec).unwrap(),
        };
        let root = tempfile::tempdir().unwrap();
        let invocation = Invocation::new(
            Task {
                version: TASK_VERSION,
                cluster: "a".into(),
                namespace: "shop".into(),
                store: store_object,
                action: Action::Settle(task.clone()),
            },
            Places::below(root.path()),
        );
        run_with(&invocation.unwrap(), task, store).await
    }

    fn store(memory: &Memory) -> Store {
        Store::new(memory.clone(), Patience::RUN, 1)
    }

    #[tokio::test(start_paused = true)]
    async fn asking_changes_nothing_and_giving_up_is_for_ever() {
        let memory = Memory::new();
        let asked = settled(&store(&memory), &settle(false)).await.unwrap();
        assert_eq!((asked.reason, asked.closed), (Reason::CopyNotFound, false));
        assert!(memory.objects().is_empty());
        for gives_up in [true, false, true] {
            let given_up = settled(&store(&memory), &settle(gives_up)).await.unwrap();
            assert_eq!((given_up.reason, given_up.closed), (Reason::Abandoned, true), "{given_up:?}");
            assert!(given_up.message.contains("NodeLost: its node is gone"), "{}", given_up.message);
            assert_eq!(memory.versions_of(PLACE), 1);
        }
        // The pod that was thought dead comes back.
        let store = store(&memory);
        let pinned = store.claim("a", "shop/local").await.unwrap();
        let mut zombie: Outcome = store
            .outcome(&RunPath::new("shop", "db", "db-1").unwrap())
            .await
            .unwrap()
            .unwrap()
            .outcome;
        zombie.nonce = "zombie".into();
        zombie.by = Label::new("pod", "zombie").unwrap();
        let decided = store
            .commit(&zombie, &pinned, store.now().unwrap() + Duration::from_secs(60))
            .await
            .unwrap();
        assert!(!decided.ours);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_abandoned_run_left_is_cleared() {
        let memory = Memory::new().min_piece(1);
        let pod = store(&memory);
        for place in ["data/shop/db/db-1/pod/s/00001.zst", "data/shop/db/db-2/pod/s/00001.zst"] {
            let mut part = pod.write_part(place.parse().unwrap());
            part.write(bytes::Bytes::from_static(b"a")).await.unwrap();
            part.write(bytes::Bytes::from_static(b"b")).await.unwrap();
            std::mem::forget(part);
        }
        assert_eq!(memory.open_uploads(), 2);
        settled(&store(&memory), &settle(true)).await.unwrap();
        assert_eq!(memory.open_uploads(), 1, "the other run's upload is not touched");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_leaves_the_end_open() {
        let memory = Memory::new();
        let away = Faulty::new(memory.clone(), |_: &Call| Some(Fault::Before(Fault::slow_down())));
        let failed = settled(&Store::new(away, Patience::RUN, 1), &settle(true)).await.unwrap_err();
        assert_eq!((failed.reason, failed.closed), (Reason::StoreFailed, false), "{failed:?}");
        let lost = Faulty::new(memory.clone(), |call: &Call| {
            (call.kind == CallKind::Create && call.path.starts_with("catalog")).then(|| Fault::Before(Fault::reset()))
        });
        let failed = settled(&Store::new(lost, Patience::RUN, 1), &settle(true)).await.unwrap_err();
        assert_eq!((failed.reason, failed.closed), (Reason::OutcomeUnknown, false), "{failed:?}");
        store(&memory).claim("a", "shop/local").await.unwrap();
        let foreign = Memory::new();
        store(&foreign).claim("b", "shop/local").await.unwrap();
        let failed = settled(&store(&foreign), &settle(true)).await.unwrap_err();
        assert_eq!(failed.reason, Reason::StoreForeign);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outcome_that_is_older_than_the_runs_tick_is_not_the_runs() {
        let memory = Memory::new();
        settled(&store(&memory), &settle(true)).await.unwrap();
        let of_tick = |time: &str| SettleTask {
            tick: Some(Tick {
                policy_digest: None,
                schedule: "gold".into(),
                trigger: "daily".into(),
                time: time.into(),
                generation: 1,
                replaces: false,
            }),
            ..settle(true)
        };
        let failed = settled(&store(&memory), &of_tick("2099-01-01T00:00:00Z")).await.unwrap_err();
        assert_eq!((failed.reason, failed.closed), (Reason::Tampered, true), "{failed:?}");
        let own = settled(&store(&memory), &of_tick("1999-01-01T00:00:00Z")).await.unwrap();
        assert_eq!(own.reason, Reason::Abandoned);
    }
}

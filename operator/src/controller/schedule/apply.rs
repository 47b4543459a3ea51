//! Makes the runs that are due.

use futures::{StreamExt, stream};
use holdfast_crds::{BackupRun, BackupSchedule, BackupType, Reason};
use holdfast_policy::tick::Firing;
use kube::{Api, ResourceExt, api::PostParams};

use super::build;
use crate::{
    context::{Context, Error},
    report::MANAGER,
    watch::Key,
};

/// Calls at once for one schedule.
const AT_ONCE: usize = 8;

/// What became of the runs that were due.
#[derive(Debug, Default)]
pub struct Made {
    /// Runs that cannot be made, with the reason; their ticks have passed.
    pub refused: Vec<Refusal>,
    /// An error that may go away: the watermark stays, and the same runs are tried again.
    pub failed: Option<Error>,
}

/// A run that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub run: String,
    pub trigger: String,
    pub reason: Reason,
    pub message: String,
}

/// Makes all of these runs. One that fails stops no other.
pub async fn fire(context: &Context, schedule: &BackupSchedule, firings: &[Firing<'_, BackupType>]) -> Made {
    // Owned first, so that the calls borrow nothing of the decision.
    let wanted: Vec<(String, BackupRun)> = firings
        .iter()
        .map(|firing| (firing.trigger.name.to_string(), build::run(schedule, firing)))
        .collect();
    let calls = wanted
        .into_iter()
        .map(|(trigger, run)| async move { (trigger, run.name_any(), create(context, run).await) });
    let outcomes: Vec<_> = stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
    let mut made = Made::default();
    for (trigger, run, outcome) in outcomes {
        match outcome {
            Ok(None) => {}
            Ok(Some((reason, message))) => made.refused.push(Refusal {
                run,
                trigger,
                reason,
                message,
            }),
            Err(error) => made.failed = Some(error),
        }
    }
    made.refused.sort_by(|a, b| a.run.cmp(&b.run));
    made
}

/// Creates a run, or finds that it exists. Some reason if it never will.
async fn create(context: &Context, run: BackupRun) -> Result<Option<(Reason, String)>, Error> {
    let key = Key::of(&run);
    let api: Api<BackupRun> = Api::namespaced(context.client.clone(), &key.namespace);
    let parameters = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    let created = api
        .create(&parameters, &run)
        .await
        .map_err(Error::calling(format!("create the run {key}")));
    let error = match created {
        Ok(created) => {
            tracing::info!(run = %key, "a tick made this run");
            context.caches.runs.wrote(created);
            return Ok(None);
        }
        Err(error) => error,
    };
    match error.status().map(|status| (status.code, status.message.clone())) {
        Some((409, _)) => {
            let read = api
                .get_opt(&key.name)
                .await
                .map_err(Error::calling(format!("read the run {key}")))?;
            match read {
                Some(existing) if build::same_tick(&existing, &run) => {
                    tracing::info!(run = %key, "this tick's run exists already and is adopted");
                    context.caches.runs.wrote(existing);
                    Ok(None)
                }
                Some(_) => Ok(Some((
                    Reason::NameTaken,
                    format!(
                        "the run {} exists and belongs to another tick or to none, so that this tick has no run; rename or delete it",
                        key.name
                    ),
                ))),
                // Deleted in between: the next try creates it.
                None => Err(error),
            }
        }
        Some((400 | 403 | 422, message)) => Ok(Some((
            Reason::AdmissionRefused,
            format!("the API server refuses the run {}: {message}; correct what it names", key.name),
        ))),
        _ => Err(error),
    }
}

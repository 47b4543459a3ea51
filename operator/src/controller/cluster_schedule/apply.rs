//! Makes, changes and deletes the schedules of namespaces.

use std::sync::Arc;

use futures::{StreamExt, stream};
use holdfast_crds::{BackupSchedule, ClusterBackupSchedule, NamespaceProblem, Reason, shortened};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::is_of;
use crate::{
    context::{Context, Error, chain},
    report::MANAGER,
    watch::Key,
};

/// Calls at once for one cluster-wide schedule.
const AT_ONCE: usize = 8;
/// How long a problem's message may be.
const MESSAGE_LIMIT: usize = 512;

/// What became of the namespaces' schedules.
#[derive(Default)]
pub struct Made {
    /// The schedules of this one that exist now.
    pub schedules: Vec<Arc<BackupSchedule>>,
    /// Namespaces where there can be none.
    pub problems: Vec<NamespaceProblem>,
    /// An error that may go away: it is tried again.
    pub failed: Option<Error>,
}

/// Brings all of them to what is wanted. One that fails stops no other.
pub async fn apply(context: &Context, schedule: &ClusterBackupSchedule, wanted: &[BackupSchedule]) -> Made {
    let mut made = Made::default();
    let surplus: Vec<_> = context
        .caches
        .schedules
        .all()
        .into_iter()
        .filter(|child| is_of(child, schedule) && !wanted.iter().any(|wanted| Key::of(wanted) == Key::of(&**child)))
        .collect();
    let calls = surplus.into_iter().map(|child| async move { delete(context, &child).await });
    let deleted: Vec<Result<Option<NamespaceProblem>, Error>> = stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
    for outcome in deleted {
        match outcome {
            Ok(refused) => made.problems.extend(refused),
            Err(error) => made.failed = Some(error),
        }
    }
    let calls = wanted
        .iter()
        .cloned()
        .map(|wanted| async move { (wanted.namespace().unwrap_or_default(), bring(context, schedule, wanted).await) });
    let outcomes: Vec<_> = stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
    for (namespace, outcome) in outcomes {
        match outcome {
            Ok(Ok(child)) => made.schedules.push(child),
            Ok(Err((reason, message))) => made.problems.push(problem(namespace, reason, &message)),
            Err(error) => made.failed = Some(error),
        }
    }
    made.problems.sort_by(|a, b| a.namespace.cmp(&b.namespace));
    made
}

fn problem(namespace: String, reason: Reason, message: &str) -> NamespaceProblem {
    NamespaceProblem {
        namespace,
        reason,
        message: shortened(message, MESSAGE_LIMIT),
    }
}

type Brought = Result<Arc<BackupSchedule>, (Reason, String)>;

async fn bring(context: &Context, schedule: &ClusterBackupSchedule, wanted: BackupSchedule) -> Result<Brought, Error> {
    let key = Key::of(&wanted);
    let api: Api<BackupSchedule> = Api::namespaced(context.client.clone(), &key.namespace);
    let parameters = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    let held = context.caches.schedules.get(&key);
    let what = if held.is_some() {
        format!("to change the schedule {key}, which goes on as it is")
    } else {
        format!("the schedule {key}")
    };
    let outcome = match held {
        Some(held) if !is_of(&held, schedule) => {
            let message =
                format!("the BackupSchedule {key} exists and is not of this ClusterBackupSchedule; rename one of them, or delete it");
            return Ok(Err((Reason::NameTaken, message)));
        }
        Some(held) if held.spec == wanted.spec => return Ok(Ok(held)),
        Some(held) => {
            let changed = BackupSchedule {
                spec: wanted.spec,
                ..(*held).clone()
            };
            api.replace(&key.name, &parameters, &changed)
                .await
                .map_err(Error::calling(format!("change the schedule {key}")))
        }
        None => api
            .create(&parameters, &wanted)
            .await
            .map_err(Error::calling(format!("create the schedule {key}"))),
    };
    match outcome {
        Ok(written) => {
            tracing::info!(schedule = %key, "a cluster-wide schedule has this schedule");
            context.caches.schedules.wrote(written);
            Ok(context.caches.schedules.get(&key).ok_or((Reason::Pending, String::new())))
        }
        Err(error) => match error.status().map(|status| (status.code, status.message.clone())) {
            Some((400 | 403 | 422, message)) => Ok(Err((
                Reason::AdmissionRefused,
                format!("the API server refuses {what}: {message}; correct what it names"),
            ))),
            // Made, changed or deleted meanwhile: the watch shows it, and it is judged again.
            _ => Err(error),
        },
    }
}

/// Deletes a schedule that is not wanted any more, or says why it stays.
async fn delete(context: &Context, child: &BackupSchedule) -> Result<Option<NamespaceProblem>, Error> {
    let key = Key::of(child);
    let api: Api<BackupSchedule> = Api::namespaced(context.client.clone(), &key.namespace);
    let parameters = DeleteParams::background().preconditions(Preconditions {
        uid: child.metadata.uid.clone(),
        resource_version: None,
    });
    let outcome = api
        .delete(&key.name, &parameters)
        .await
        .map_err(Error::calling(format!("delete the schedule {key}")));
    match outcome {
        Ok(_) => context.caches.schedules.deleted(&key, child.metadata.uid.as_deref()),
        Err(error) if error.is_not_found() => context.caches.schedules.deleted(&key, child.metadata.uid.as_deref()),
        Err(error) if error.is_conflict() => tracing::debug!(schedule = %key, error = chain(&error), "a schedule changed"),
        Err(error) => match error.status().filter(|status| status.code == 403) {
            Some(status) => {
                let message = format!(
                    "the API server refuses to delete the schedule {key}, which goes on: {}; correct what it names, or select the namespace again",
                    status.message
                );
                return Ok(Some(problem(key.namespace, Reason::AdmissionRefused, &message)));
            }
            None => return Err(error),
        },
    }
    Ok(None)
}

//! Writes and removes Jobs, the same way for every kind that has some.

use holdfast_crds::Reason;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::{
    context::{Context, Error},
    job::of_creation,
    observation::controller,
    report::MANAGER,
    watch::Key,
};

/// Creates the Job, or finds that it exists. The inner error is a refusal, with its reason.
pub async fn create(context: &Context, job: Job) -> Result<Result<(), (Reason, String)>, Error> {
    let key = Key::of(&job);
    let api: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let parameters = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    let created = api
        .create(&parameters, &job)
        .await
        .map_err(Error::calling(format!("create the Job {key}")));
    match created {
        Ok(created) => {
            context.caches.jobs.wrote(created);
            Ok(Ok(()))
        }
        Err(error) => match error.status().map(|status| (status.code, status.message.clone())) {
            Some((409, _)) => adopt(context, &api, &key, &job).await,
            // What cannot be a Job was shaped so by the specification.
            Some((422, message)) => Ok(Err((
                Reason::InvalidSpec,
                format!("the API server finds the Job {} invalid: {message}; correct spec.job", key.name),
            ))),
            Some((403, message)) => Ok(Err((
                of_creation(&message),
                format!("the API server refuses the Job {}: {message}", key.name),
            ))),
            _ => Err(error),
        },
    }
}

/// The Job exists: made before a restart, or for another object of the same name that is gone.
async fn adopt(context: &Context, api: &Api<Job>, key: &Key, wanted: &Job) -> Result<Result<(), (Reason, String)>, Error> {
    let found = api
        .get_opt(&key.name)
        .await
        .map_err(Error::calling(format!("read the Job {key}")))?;
    let Some(found) = found else {
        // It is gone by now; the next look makes it.
        return Ok(Ok(()));
    };
    if controller(&found.metadata) == controller(&wanted.metadata) {
        context.caches.jobs.wrote(found);
        return Ok(Ok(()));
    }
    let message = format!(
        "the Job {} belongs to another object, such as an earlier one of this name that is being removed; it is made once that is gone",
        key.name
    );
    Ok(Err((Reason::NameTaken, message)))
}

/// The next number after `last` under which no Job exists: an object that lost its status begins to count anew.
pub fn free_number(context: &Context, last: i64, job: impl Fn(i64) -> Key) -> i64 {
    let first = last.max(0) + 1;
    (first..i64::from(u32::MAX))
        .find(|number| context.caches.jobs.get(&job(*number)).is_none())
        .unwrap_or(first)
}

/// Deletes a Job with its pods, if it still is the one with this UID.
pub async fn delete(context: &Context, key: &Key, uid: Option<&str>) -> Result<(), Error> {
    let api: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let parameters = DeleteParams::background().preconditions(Preconditions {
        uid: uid.map(str::to_owned),
        resource_version: None,
    });
    let deleted = api.delete(&key.name, &parameters).await;
    match deleted.map_err(Error::calling(format!("delete the Job {key}"))) {
        // It is known here too, so that nobody deletes it once more before a watch tells.
        Ok(answer) => {
            match answer.left().filter(|job| job.metadata.finalizers.is_some()) {
                Some(going) => context.caches.jobs.wrote(going),
                None => context.caches.jobs.deleted(key, uid),
            }
            Ok(())
        }
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes those of these Jobs that `keep` does not name.
pub async fn remove(context: &Context, jobs: &[std::sync::Arc<Job>], keep: &[Key]) -> Result<(), Error> {
    for job in jobs {
        let key = Key::of(&**job);
        if !keep.contains(&key) && job.metadata.deletion_timestamp.is_none() {
            delete(context, &key, job.metadata.uid.as_deref()).await?;
        }
    }
    Ok(())
}

//! Makes probe Jobs, and removes them when they have said what they had to say.

use holdfast_crds::{BackupStore, Reason};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::{
    context::{Context, Error},
    job::{STORE, of_creation},
    report::MANAGER,
    watch::{Caches, Key},
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
            // Made before a restart, and the watch tells how far it is.
            Some((409, _)) => Ok(Ok(())),
            Some((403 | 422, message)) => Ok(Err((
                of_creation(&message),
                format!("the API server refuses the Job {}: {message}", key.name),
            ))),
            _ => Err(error),
        },
    }
}

/// Removes the probe Jobs of a store but for `keep`: the last one that failed stays for its log.
pub async fn remove_others(context: &Context, store: &BackupStore, keep: Option<&Key>) -> Result<(), Error> {
    let namespace = store.namespace().unwrap_or_default();
    let owned = Caches::owned_by(STORE, &store.name_any());
    for job in context.caches.jobs.by(Caches::BY_OWNER, &namespace, &owned) {
        let key = Key::of(&*job);
        if Some(&key) == keep || job.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let api: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
        let parameters = DeleteParams::background().preconditions(Preconditions {
            uid: job.metadata.uid.clone(),
            resource_version: None,
        });
        match api
            .delete(&key.name, &parameters)
            .await
            .map_err(Error::calling(format!("delete the Job {key}")))
        {
            Ok(_) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

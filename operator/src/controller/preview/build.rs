//! The Job of a preview. Pure.

use holdfast_crds::{
    Action, KEEP_TIMEOUT, KeepPreview, KeepTask, ProposedRules, Reason, RetentionPreview, StoreKind, TASK_VERSION, Task,
    document::{Label, ScheduleName},
};
use holdfast_policy::name::{JobPurpose, job_name};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt};

use crate::{
    context::Context,
    controller::{keep, store::refusal},
    job::{JobRequest, build},
    store::Unusable,
};

/// The name of the preview's Job.
pub fn name(preview: &RetentionPreview) -> String {
    job_name(&preview.name_any(), JobPurpose::Preview, 1)
}

/// The Job, or what is in the way.
pub fn job(context: &Context, preview: &RetentionPreview) -> Result<Job, (Reason, String)> {
    let invalid = |message: String| (Reason::InvalidSpec, message);
    let spec = &preview.spec;
    let namespace = preview.namespace().unwrap_or_default();
    let label = |field: &'static str, text: &str| Label::new(field, text).map_err(|error| invalid(format!("{field}: {error}")));
    let at = spec.at.as_deref().map(|at| {
        at.parse::<Timestamp>()
            .map_err(|error| invalid(format!("spec.at: found {at:?}, expected RFC 3339: {error}")))
    });
    let store = context.caches.store_kept_in(&namespace, &spec.store);
    let store = store.map_err(|Unusable { reason, message }| (reason, format!("spec.store: {message}")))?;
    match refusal(&store) {
        // What belongs to another cluster can be read all the same.
        None | Some((Reason::StoreForeign, _)) => {}
        Some(refused) => return Err(refused),
    }
    // Whose copies: in a store of the namespace those of the namespace, in one of the cluster those of all that are not left out.
    let whose = match spec.store.kind {
        StoreKind::BackupStore => Some(namespace.clone()),
        StoreKind::ClusterBackupStore => spec.source_namespace.clone(),
    };
    let proposed = spec.proposed.as_ref().map(|rules| ProposedRules {
        schedule: rules.schedule.clone().map(|name| ScheduleName {
            namespace: whose.clone(),
            name,
        }),
        retention: rules.retention.clone(),
        time_zone: None,
        interval_seconds: None,
    });
    let keep = KeepTask {
        read_only: false,
        preview: Some(KeepPreview {
            request: Some(preview.name_any()),
            at: at.transpose()?,
            namespace: whose.as_deref().map(|whose| label("spec.sourceNamespace", whose)).transpose()?,
            source: spec.source.as_deref().map(|source| label("spec.source", source)).transpose()?,
            proposed: proposed.into_iter().collect(),
        }),
        ..keep::task::task_about(
            &context.caches,
            &store,
            context.clock.now(),
            whose.as_deref(),
            spec.source.as_deref(),
        )
    };
    let task = Task {
        version: TASK_VERSION,
        cluster: context.cluster.clone(),
        namespace,
        store: store.maintained(),
        action: Action::Keep(Box::new(keep)),
    };
    build(&JobRequest {
        name: &name(preview),
        owner: preview.controller_owner_ref(&()).unwrap_or_default(),
        task: &task,
        agent_image: &context.image,
        template: store.template(),
        identity_secret: None,
        timeout: KEEP_TIMEOUT.as_secs().cast_signed(),
    })
    .map_err(|error| invalid(error.to_string()))
}

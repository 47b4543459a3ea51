//! From a task to its Job.

use std::collections::BTreeMap;

use holdfast_crds::{Action, BackupSourceSpec, Encryption, JobTemplate, PostgresqlServer, Proxy, RestoreTo, Task, layout};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Capabilities, Container, EnvVar, LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
            SeccompProfile, SecurityContext, Toleration, VolumeMount,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    MANAGED_BY, MANAGER, PREVIEW, PURPOSE, Purpose, RESTORE, RUN, SOURCE, store_label,
    volume::{self, Placed},
};

/// Name of the container whose termination message is the result.
pub const MAIN_CONTAINER: &str = "agent";
/// The longest task, in bytes: Kubernetes allows 256 KiB for all annotations of an object.
pub const TASK_LIMIT: usize = 200 * 1_024;
/// How long a pod has between SIGTERM and SIGKILL, in seconds. The agent needs five.
const TERMINATION_GRACE: i64 = 30;
/// The Job ends its pod by itself so long after the task's own time is over, in seconds, should the operator be away.
const BACKSTOP: i64 = 300;
/// How long a pod stays on a node that is not ready, in seconds.
const NODE_TOLERATION: i64 = 60;
const DEFAULT_USER: i64 = 65_532;
/// The agent in our own image.
const AGENT_IN_OUR_IMAGE: &str = "/usr/local/bin/holdfast-agent";
/// The public CAs in our own image.
const CAS_IN_OUR_IMAGE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// All that decides what a Job looks like.
#[derive(Clone, Debug)]
pub struct JobRequest<'a> {
    pub name: &'a str,
    /// The run, store or restore request that the Job works for; it goes when that goes.
    pub owner: OwnerReference,
    /// What the pod is to do. The Secrets are those that it names.
    pub task: &'a Task,
    /// The image of operator and agent.
    pub agent_image: &'a str,
    /// How the user shapes the pod: the source's for backups, the request's for restores. Probe and settle Jobs take the store's.
    pub template: Option<&'a JobTemplate>,
    /// The Secret that opens the copy; only for restores.
    pub identity_secret: Option<&'a str>,
    /// The time that the pod has, in seconds.
    pub timeout: i64,
}

/// Why there is no Job for a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error(
        "spec: the task for the pod has {found} bytes, at most {TASK_LIMIT} are possible; shorten the lists of databases, hosts and names"
    )]
    TaskTooLarge { found: usize },
    #[error("the task cannot be written as JSON: {0}")]
    WriteTask(String),
    #[error("spec: no engine is named; add spec.postgresql")]
    NameNoEngine,
}

/// The Job that does `request.task`. The same request always gives the same Job.
pub fn build(request: &JobRequest<'_>) -> Result<Job, BuildError> {
    let task = written(request.task)?;
    let template = template(request);
    let (main_image, own) = image(request, &template)?;
    let user = user(request.task, &template);

    let mut volumes = vec![volume::task(), volume::tmp()];
    let mut init = Vec::new();
    let mut extra_mounts = Vec::new();
    if !own {
        volumes.push(volume::bin());
        extra_mounts.push(volume::passwd());
        init.push(install(request.agent_image));
    }
    volumes.extend(volume::for_task(request.task));
    let mut hidden = Vec::new();
    match (&request.task.action, &request.task.store.spec.encryption) {
        (Action::Backup(_), Encryption::Passphrase(passphrase)) => {
            let secret = volume::passphrase(&passphrase.secret_name);
            init.push(seal(request.agent_image, &secret));
            // Only the init container sees the passphrase.
            hidden.push(secret.volume);
            volumes.push(volume::key());
        }
        (Action::Restore(_), encryption) => {
            volumes.extend(request.identity_secret.and_then(|name| volume::identity(encryption, name)));
        }
        _ => {}
    }

    let labels = labels(request.task);
    let (volumes, mut mounts): (Vec<_>, Vec<_>) = volumes.into_iter().map(|Placed { volume, mount }| (volume, mount)).unzip();
    mounts.extend(extra_mounts);
    let mut main = Container {
        command: Some(command(own, &[Purpose::of(request.task).as_str(), "--task", layout::TASK])),
        resources: Some(
            template
                .resources
                .clone()
                .unwrap_or_else(|| resources(("100m", "64Mi"), ("2", "512Mi"))),
        ),
        ..container(MAIN_CONTAINER, &main_image, own, mounts)
    };
    main.env
        .get_or_insert_default()
        .extend(template.proxy.as_ref().map(proxy).unwrap_or_default());
    let pod = PodSpec {
        affinity: template.affinity.clone(),
        automount_service_account_token: Some(false),
        containers: vec![main],
        enable_service_links: Some(false),
        image_pull_secrets: non_empty(
            template
                .image_pull_secrets
                .iter()
                .map(|name| LocalObjectReference { name: name.clone() })
                .collect(),
        ),
        init_containers: non_empty(init),
        node_selector: (!template.node_selector.is_empty()).then(|| template.node_selector.clone()),
        priority_class_name: template.priority_class_name.clone(),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(pod_security(user)),
        service_account_name: template.service_account_name.clone(),
        termination_grace_period_seconds: Some(TERMINATION_GRACE),
        tolerations: Some(tolerations(&template)),
        volumes: Some(volumes.into_iter().chain(hidden).collect()),
        ..PodSpec::default()
    };
    let mut pod_labels = template.labels;
    pod_labels.extend(labels.clone());
    let mut annotations = template.annotations;
    annotations.insert(layout::TASK_ANNOTATION.to_owned(), task);
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(request.name.to_owned()),
            namespace: Some(request.task.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                controller: Some(true),
                block_owner_deletion: Some(false),
                ..request.owner.clone()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            active_deadline_seconds: Some(request.timeout.saturating_add(BACKSTOP)),
            // Attempts are counted by the operator, and each has its own Job.
            backoff_limit: Some(0),
            completions: Some(1),
            parallelism: Some(1),
            pod_replacement_policy: Some("Failed".to_owned()),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

/// The task as the pod reads it: how the pod is shaped is of no use to it.
fn written(task: &Task) -> Result<String, BuildError> {
    let mut task = task.clone();
    task.store.spec.job = None;
    match &mut task.action {
        Action::Backup(backup) => backup.spec.job = None,
        Action::Copy(copy) => copy.from.spec.job = None,
        _ => {}
    }
    let text = serde_json::to_string(&task).map_err(|error| BuildError::WriteTask(error.to_string()))?;
    if text.len() > TASK_LIMIT {
        return Err(BuildError::TaskTooLarge { found: text.len() });
    }
    Ok(text)
}

/// The user's shape of the pod. What each pod needs in order to reach the store is added to what the source or the request says.
fn template(request: &JobRequest<'_>) -> JobTemplate {
    let store = request.task.store.spec.job.clone().unwrap_or_default();
    match request.task.action {
        Action::Probe(_) | Action::Settle(_) | Action::Keep(_) | Action::Copy(_) => store,
        Action::Backup(_) | Action::Restore(_) | Action::SettleRestore(_) => {
            let mut own = request.template.cloned().unwrap_or_default();
            let under = |below: BTreeMap<String, String>, above: BTreeMap<String, String>| below.into_iter().chain(above).collect();
            own.labels = under(store.labels, own.labels);
            own.annotations = under(store.annotations, own.annotations);
            own.node_selector = under(store.node_selector, own.node_selector);
            own.service_account_name = own.service_account_name.or(store.service_account_name);
            own.affinity = own.affinity.or(store.affinity);
            own.proxy = own.proxy.or(store.proxy);
            own.tolerations.extend(store.tolerations);
            let more: Vec<_> = store
                .image_pull_secrets
                .into_iter()
                .filter(|name| !own.image_pull_secrets.contains(name))
                .collect();
            own.image_pull_secrets.extend(more);
            own
        }
    }
}

/// The main container's image, and whether it is our own, which brings the agent along.
fn image(request: &JobRequest<'_>, template: &JobTemplate) -> Result<(String, bool), BuildError> {
    let engine = match &request.task.action {
        Action::Backup(backup) => Some(engine_image(&backup.spec)?),
        Action::Restore(restore) | Action::SettleRestore(restore) => match &restore.to {
            RestoreTo::Postgresql(server) => Some(postgresql_image(server)),
        },
        Action::Settle(_) | Action::Probe(_) | Action::Keep(_) | Action::Copy(_) => None,
    };
    Ok(match template.image.clone().or(engine) {
        Some(image) => {
            let own = image == request.agent_image;
            (image, own)
        }
        None => (request.agent_image.to_owned(), true),
    })
}

fn engine_image(source: &BackupSourceSpec) -> Result<String, BuildError> {
    let postgresql = source.postgresql.as_ref().ok_or(BuildError::NameNoEngine)?;
    Ok(postgresql_image(&postgresql.server))
}

fn postgresql_image(server: &PostgresqlServer) -> String {
    format!("docker.io/library/postgres:{}", server.version)
}

fn user(task: &Task, template: &JobTemplate) -> i64 {
    let of_volume = task.store.spec.volume.as_ref().map(|volume| volume.run_as_user);
    of_volume.or(template.run_as_user).unwrap_or(DEFAULT_USER)
}

fn labels(task: &Task) -> BTreeMap<String, String> {
    let (kind, name, source) = match &task.action {
        Action::Backup(backup) => (RUN, &backup.run, Some(backup.source.as_str())),
        Action::Settle(settle) => (RUN, &settle.run, Some(settle.source.as_str())),
        Action::Keep(keep) if keep.preview.is_some() => (
            PREVIEW,
            keep.preview
                .as_ref()
                .and_then(|preview| preview.request.as_ref())
                .unwrap_or(&task.store.name),
            None,
        ),
        Action::Probe(_) | Action::Keep(_) => (store_label(task.store.kind), &task.store.name, None),
        Action::Copy(copy) => (store_label(task.store.kind), &task.store.name, Some(copy.source.as_str())),
        Action::Restore(restore) | Action::SettleRestore(restore) => (RESTORE, &restore.request, restore.path.split('/').nth(1)),
    };
    let mut labels = BTreeMap::from([
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (PURPOSE.to_owned(), Purpose::of(task).as_str().to_owned()),
        (kind.to_owned(), name.clone()),
    ]);
    labels.extend(source.map(|source| (SOURCE.to_owned(), source.to_owned())));
    labels
}

/// Brings the agent into the engine's image.
fn install(agent_image: &str) -> Container {
    Container {
        command: Some(command(true, &["install", volume::INSTALL_TARGET])),
        resources: Some(resources(("10m", "16Mi"), ("500m", "64Mi"))),
        ..container(
            "install",
            agent_image,
            true,
            vec![volume::mount("bin", volume::INSTALL_TARGET, false)],
        )
    }
}

/// Makes the run's key and seals it with the passphrase. Deriving a key from a passphrase takes 256 MiB on purpose.
fn seal(agent_image: &str, secret: &Placed) -> Container {
    let mounts = vec![
        volume::task().mount,
        volume::tmp().mount,
        secret.mount.clone(),
        volume::mount("key", layout::KEY, false),
    ];
    Container {
        command: Some(command(true, &["key", "--task", layout::TASK])),
        resources: Some(resources(("100m", "64Mi"), ("2", "400Mi"))),
        ..container("key", agent_image, true, mounts)
    }
}

fn command(own: bool, arguments: &[&str]) -> Vec<String> {
    std::iter::once(if own { AGENT_IN_OUR_IMAGE } else { layout::AGENT })
        .chain(arguments.iter().copied())
        .map(str::to_owned)
        .collect()
}

fn container(name: &str, image: &str, own: bool, mounts: Vec<VolumeMount>) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        env: Some(vec![
            variable("HOME", "/tmp"),
            variable("SSL_CERT_FILE", if own { CAS_IN_OUR_IMAGE } else { layout::CA_BUNDLE }),
        ]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            ..SecurityContext::default()
        }),
        termination_message_path: Some(layout::RESULT.to_owned()),
        termination_message_policy: Some("File".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

/// The variables by which the agent's HTTP client knows its proxy. Tools of databases do not read them.
fn proxy(proxy: &Proxy) -> Vec<EnvVar> {
    let mut variables = vec![variable("HTTPS_PROXY", &proxy.url), variable("HTTP_PROXY", &proxy.url)];
    if !proxy.no_proxy.is_empty() {
        variables.push(variable("NO_PROXY", &proxy.no_proxy.join(",")));
    }
    variables
}

fn pod_security(user: i64) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(user),
        run_as_group: Some(user),
        fs_group: Some(user),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

fn tolerations(template: &JobTemplate) -> Vec<Toleration> {
    let node = |key: &str| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(NODE_TOLERATION),
        value: None,
    };
    ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
        .map(node)
        .into_iter()
        .chain(template.tolerations.iter().cloned())
        .collect()
}

fn resources(requests: (&str, &str), limits: (&str, &str)) -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(volume::quantities(requests.0, requests.1)),
        limits: Some(volume::quantities(limits.0, limits.1)),
        claims: None,
    }
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests;

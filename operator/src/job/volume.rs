//! What the containers of a Job's pod see in their file systems.

use std::collections::BTreeMap;

use holdfast_crds::{
    Action, BackupStoreSpec, DatabaseTls, Encryption, LoginSecret, PostgresqlServer, RestoreTo, RoleCredential, StoreRole, Task, layout,
};
use k8s_openapi::{
    api::core::v1::{
        DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource, KeyToPath, ObjectFieldSelector,
        PersistentVolumeClaimVolumeSource, ProjectedVolumeSource, ResourceFieldSelector, SecretVolumeSource, ServiceAccountTokenProjection,
        Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::MAIN_CONTAINER;

/// Where the init container finds the folder that the main container sees as [`layout::BIN`].
pub const INSTALL_TARGET: &str = "/holdfast/install";

/// Owner and group may read; the group is the pod's.
const SECRET_MODE: i32 = 0o440;

/// A volume of the pod, and where the main container sees it.
pub struct Placed {
    pub volume: Volume,
    pub mount: VolumeMount,
}

fn placed(name: &str, path: &str, read_only: bool, volume: Volume) -> Placed {
    Placed {
        volume: Volume {
            name: name.to_owned(),
            ..volume
        },
        mount: mount(name, path, read_only),
    }
}

pub fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn empty_dir(medium: Option<&str>, limit: &str) -> Volume {
    Volume {
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: Some(Quantity(limit.to_owned())),
        }),
        ..Volume::default()
    }
}

/// `keys` maps keys of the Secret to file names; none means every key under its own name.
fn secret(name: &str, keys: &[(&str, &str)]) -> Volume {
    let items: Vec<_> = keys
        .iter()
        .map(|(key, path)| KeyToPath {
            key: (*key).to_owned(),
            path: (*path).to_owned(),
            mode: None,
        })
        .collect();
    Volume {
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.to_owned()),
            items: (!items.is_empty()).then_some(items),
            default_mode: Some(SECRET_MODE),
            optional: None,
        }),
        ..Volume::default()
    }
}

/// The task, the pod's UID and the main container's limits, from the API server by way of the kubelet.
pub fn task() -> Placed {
    let field = |path: &str, field: &str| DownwardAPIVolumeFile {
        path: file_name(path),
        field_ref: Some(ObjectFieldSelector {
            field_path: field.to_owned(),
            api_version: None,
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let limit = |path: &str, resource: &str, divisor: &str| DownwardAPIVolumeFile {
        path: file_name(path),
        resource_field_ref: Some(ResourceFieldSelector {
            container_name: Some(MAIN_CONTAINER.to_owned()),
            resource: resource.to_owned(),
            divisor: Some(Quantity(divisor.to_owned())),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    placed(
        "task",
        layout::TASK_DIR,
        true,
        Volume {
            downward_api: Some(DownwardAPIVolumeSource {
                default_mode: Some(0o444),
                items: Some(vec![
                    field(layout::TASK, &format!("metadata.annotations['{}']", layout::TASK_ANNOTATION)),
                    field(layout::POD_UID, "metadata.uid"),
                    limit(layout::MEMORY_LIMIT, "limits.memory", "1"),
                    limit(layout::CPU_LIMIT, "limits.cpu", "1m"),
                ]),
            }),
            ..Volume::default()
        },
    )
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// The only writable folder of the root file system; also `HOME`.
pub fn tmp() -> Placed {
    placed("tmp", "/tmp", false, empty_dir(None, "1Gi"))
}

/// What the init container brings: the agent, its CA bundle and a passwd file.
pub fn bin() -> Placed {
    placed("bin", layout::BIN, true, empty_dir(None, "256Mi"))
}

/// The passwd file of [`bin`], where tools look for it.
pub fn passwd() -> VolumeMount {
    VolumeMount {
        sub_path: Some(file_name(layout::PASSWD)),
        ..mount("bin", "/etc/passwd", true)
    }
}

/// The run's key on its way from the init container `key`, never on a disk.
pub fn key() -> Placed {
    placed("key", layout::KEY, true, empty_dir(Some("Memory"), "1Mi"))
}

/// The Secret that a passphrase is read from, under the name that the agent expects.
pub fn passphrase(secret_name: &str) -> Placed {
    placed(
        "identity",
        layout::IDENTITY,
        true,
        secret(secret_name, &[("passphrase", "passphrase")]),
    )
}

/// What opens a copy, for restores.
pub fn identity(encryption: &Encryption, secret_name: &str) -> Option<Placed> {
    match encryption {
        Encryption::Age(_) => Some(placed(
            "identity",
            layout::IDENTITY,
            true,
            secret(secret_name, &[("identity", "identity")]),
        )),
        Encryption::Passphrase(_) => Some(passphrase(secret_name)),
        Encryption::None(_) => None,
    }
}

/// What a pod needs in order to reach the store and, where the task concerns one, the database.
pub fn for_task(task: &Task) -> Vec<Placed> {
    let database = match &task.action {
        Action::Backup(backup) => backup.spec.postgresql.as_ref().map(|postgresql| &postgresql.server),
        Action::Restore(restore) | Action::SettleRestore(restore) => match &restore.to {
            RestoreTo::Postgresql(server) => Some(server),
        },
        Action::Settle(_) | Action::Probe(_) | Action::Keep(_) | Action::Copy(_) => None,
    };
    let mut volumes = match task.action.roles() {
        [] => Vec::new(),
        roles => store(task, roles),
    };
    if let Action::Copy(copy) = &task.action {
        volumes.extend(read_from(&copy.from.spec));
    }
    volumes.extend(database.into_iter().flat_map(database_secrets));
    if let (Action::Keep(keep), Some(seal)) = (&task.action, &task.store.spec.seal)
        && keep.preview.is_none()
        && !keep.read_only
    {
        volumes.push(placed(
            "seal",
            layout::SEAL,
            true,
            secret(&seal.secret_name, &[(&seal.key, "seal.pem")]),
        ));
    }
    volumes
}

fn store(task: &Task, roles: &[StoreRole]) -> Vec<Placed> {
    let spec = &task.store.spec;
    let named = spec
        .credentials
        .iter()
        .flat_map(|credentials| roles.iter().map(|role| credentials.of(*role)));
    // One may serve several roles: it is mounted once.
    let mut volumes: Vec<_> = named.collect::<BTreeMap<_, _>>().into_iter().map(credential).collect();
    if let Some(name) = spec.s3.as_ref().and_then(|s3| s3.ca_secret_name.as_deref()) {
        volumes.push(placed("store-ca", layout::STORE_CA, true, secret(name, &[("ca.crt", "ca.crt")])));
    }
    if let Some(location) = &spec.volume {
        let claim = PersistentVolumeClaimVolumeSource {
            claim_name: location.claim_name.clone(),
            read_only: None,
        };
        volumes.push(placed(
            "store-volume",
            layout::STORE_VOLUME,
            matches!(task.action, Action::Restore(_)),
            Volume {
                persistent_volume_claim: Some(claim),
                ..Volume::default()
            },
        ));
    }
    volumes
}

/// What the reader of a second store needs.
fn read_from(spec: &BackupStoreSpec) -> Vec<Placed> {
    let reader = spec.credentials.as_ref().map(|credentials| credentials.of(StoreRole::Reader).1);
    let mut volumes: Vec<_> = reader
        .map(|reader| match reader {
            RoleCredential::SecretName(name) => secret(&name, &[]),
            RoleCredential::WebIdentity(identity) => token(&identity.audience),
        })
        .map(|volume| placed("from", layout::FROM_SECRET, true, volume))
        .into_iter()
        .collect();
    if let Some(name) = spec.s3.as_ref().and_then(|s3| s3.ca_secret_name.as_deref()) {
        volumes.push(placed("from-ca", layout::FROM_CA, true, secret(name, &[("ca.crt", "ca.crt")])));
    }
    if let Some(location) = &spec.volume {
        let claim = PersistentVolumeClaimVolumeSource {
            claim_name: location.claim_name.clone(),
            read_only: None,
        };
        let volume = Volume {
            persistent_volume_claim: Some(claim),
            ..Volume::default()
        };
        volumes.push(placed("from-volume", layout::FROM_VOLUME, true, volume));
    }
    volumes
}

fn credential((role, credential): (StoreRole, RoleCredential)) -> Placed {
    let (name, keys, tokens) = match role {
        StoreRole::Writer => ("store", layout::STORE_SECRET, layout::STORE_TOKEN),
        StoreRole::Reader => ("store-reader", layout::STORE_READER, layout::STORE_READER),
        StoreRole::Keeper => ("store-keeper", layout::STORE_KEEPER, layout::STORE_KEEPER),
        StoreRole::Pruner => ("store-pruner", layout::STORE_PRUNER, layout::STORE_PRUNER),
    };
    match credential {
        // Two spellings of the keys are known and a session token may be there: the agent says which one it misses.
        RoleCredential::SecretName(secret_name) => placed(name, keys, true, secret(&secret_name, &[])),
        RoleCredential::WebIdentity(identity) if role == StoreRole::Writer => {
            placed("store-token", tokens, true, token(&identity.audience))
        }
        RoleCredential::WebIdentity(identity) => placed(name, tokens, true, token(&identity.audience)),
    }
}

fn token(audience: &str) -> Volume {
    Volume {
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(SECRET_MODE),
            sources: Some(vec![VolumeProjection {
                service_account_token: Some(ServiceAccountTokenProjection {
                    audience: Some(audience.to_owned()),
                    expiration_seconds: Some(3_600),
                    path: "token".to_owned(),
                }),
                ..VolumeProjection::default()
            }]),
        }),
        ..Volume::default()
    }
}

fn database_secrets(server: &PostgresqlServer) -> Vec<Placed> {
    let LoginSecret {
        secret_name,
        username_key,
        password_key,
    } = &server.credentials;
    let DatabaseTls {
        ca_secret_name,
        client_certificate_secret_name,
        ..
    } = &server.tls;
    let mut volumes = vec![placed(
        "login",
        layout::LOGIN,
        true,
        secret(secret_name, &[(username_key, "username"), (password_key, "password")]),
    )];
    if let Some(name) = ca_secret_name {
        volumes.push(placed(
            "database-ca",
            layout::DATABASE_CA,
            true,
            secret(name, &[("ca.crt", "ca.crt")]),
        ));
    }
    if let Some(name) = client_certificate_secret_name {
        let keys = [("tls.crt", "tls.crt"), ("tls.key", "tls.key")];
        volumes.push(placed("database-client", layout::DATABASE_CLIENT, true, secret(name, &keys)));
    }
    volumes
}

/// Quantities as a map, for requests and limits.
pub fn quantities(cpu: &str, memory: &str) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu.to_owned())),
        ("memory".to_owned(), Quantity(memory.to_owned())),
    ])
}

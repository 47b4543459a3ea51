//! From a store's specification to the store.

use super::{
    Backend, Patience, Store, StoreError, WriteLock,
    s3::{Credentials, S3, S3Config, WebIdentityConfig},
    volume::{Volume, VolumeConfig},
};
use holdfast_crds::{Addressing, BackupStoreSpec, RoleCredential, StoreRole};
use jiff::Timestamp;
use std::path::PathBuf;

/// Where the files of a store lie, for one role.
#[derive(Clone, Debug)]
pub struct StoreFiles {
    /// Directory with `access_key_id`, `secret_access_key`, `session_token`.
    pub secret: PathBuf,
    /// Directory with `ca.crt`.
    pub ca: PathBuf,
    /// Directory with `token`.
    pub token: PathBuf,
    /// Where a volume is mounted.
    pub volume: PathBuf,
}

/// How a store is used.
#[derive(Clone, Debug)]
pub struct Usage {
    /// How long calls are repeated.
    pub patience: Patience,
    /// How many pieces of parts are under way at once.
    pub parallel: usize,
    /// What the store's audit log shows of who works with a web identity, such as the pod's UID.
    pub session: String,
    /// When the pod's Job was created, by the API server: from then on a volume's clock counts. Without it, the node's clock is believed.
    pub created: Option<Timestamp>,
    /// With which rights.
    pub role: StoreRole,
}

/// Opens the store that `spec` names. S3 is not asked yet.
///
/// # Errors
/// [`StoreError::Settings`] names the field that cannot be used.
pub fn connect(spec: &BackupStoreSpec, files: &StoreFiles, usage: Usage) -> Result<Store, StoreError> {
    let Usage {
        patience,
        parallel,
        session,
        created,
        role,
    } = usage;
    let store = |backend: Box<dyn Backend>| Store::boxed(backend, patience, parallel);
    let settings = |field, problem: &str| StoreError::Settings {
        field,
        problem: problem.to_owned(),
    };
    match (&spec.s3, &spec.volume) {
        (Some(s3), None) => {
            let credentials = match spec.credentials.as_ref().map(|credentials| credentials.of(role).1) {
                Some(RoleCredential::SecretName(_)) => Credentials::Files(files.secret.clone()),
                Some(RoleCredential::WebIdentity(identity)) => Credentials::WebIdentity(WebIdentityConfig {
                    token_file: files.token.join("token"),
                    role_arn: identity.role_arn.clone(),
                    session_name: session_name(&session),
                    sts_endpoint: identity.sts_endpoint.clone(),
                }),
                None => {
                    return Err(settings(
                        "spec.credentials",
                        "an S3 store needs credentials: secretName, webIdentity or roles",
                    ));
                }
            };
            let config = S3Config {
                bucket: s3.bucket.clone(),
                prefix: s3.prefix.clone().unwrap_or_default(),
                region: s3.region.clone(),
                endpoint: s3.endpoint.clone(),
                virtual_host: s3.effective_addressing() == Addressing::VirtualHost,
                storage_class: s3.storage_class.clone(),
                ca_file: s3.ca_secret_name.as_ref().map(|_| files.ca.join("ca.crt")),
                credentials,
                write_lock: spec.object_lock.map(|lock| WriteLock {
                    mode: lock.mode,
                    length: lock.at_write.std(),
                }),
            };
            Ok(store(Box::new(S3::new(config)?)))
        }
        (None, Some(volume)) => {
            let config = VolumeConfig {
                mount: files.volume.clone(),
                path: volume.path.clone(),
                created,
            };
            Ok(store(Box::new(Volume::open(&config)?)))
        }
        _ => Err(settings("spec", "name exactly one place, spec.s3 or spec.volume")),
    }
}

/// What STS accepts: 2 to 64 of `A-Za-z0-9+=,.@_-`.
fn session_name(text: &str) -> String {
    let name: String = format!("holdfast-{text}")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "+=,.@_-".contains(*c))
        .collect();
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        Usage {
            patience: Patience::RUN,
            parallel: 2,
            session: "pod/é 1".into(),
            created: None,
            role: StoreRole::Writer,
        }
    }

    fn spec(json: serde_json::Value) -> BackupStoreSpec {
        let mut json = json;
        json["encryption"] = serde_json::json!({"none": {}});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn specifications_become_stores() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().to_owned();
        let files = StoreFiles {
            secret: at.clone(),
            ca: at.clone(),
            token: at.clone(),
            volume: at.clone(),
        };
        let described = |json| connect(&spec(json), &files, usage()).map(|store| store.describe());
        let keys = serde_json::json!({"secretName": "s3"});
        let own =
            described(serde_json::json!({"s3": {"bucket": "backups", "endpoint": "http://s3.example:9000"}, "credentials": keys})).unwrap();
        assert_eq!(own, "bucket backups at http://s3.example:9000/backups");
        let virtual_host = serde_json::json!({"s3": {"bucket": "backups", "endpoint": "http://s3.example", "addressing": "VirtualHost"}, "credentials": keys});
        assert_eq!(described(virtual_host).unwrap(), "bucket backups at http://backups.s3.example");
        let volume = described(serde_json::json!({"volume": {"claimName": "c", "path": "a/b"}})).unwrap();
        assert!(volume.ends_with("/a/b"), "{volume}");
        let without = described(serde_json::json!({"s3": {"bucket": "backups"}})).unwrap_err();
        assert!(without.to_string().contains("spec.credentials"), "{without}");
        let no_ca =
            serde_json::json!({"s3": {"bucket": "backups", "endpoint": "https://s3.example", "caSecretName": "ca"}, "credentials": keys});
        assert!(described(no_ca).unwrap_err().to_string().contains("caSecretName"));
        assert_eq!(session_name("pod/é 1"), "holdfast-pod1");
        assert_eq!(session_name(&"x".repeat(100)).len(), 64);
    }
}

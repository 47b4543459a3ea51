//! ClusterBackupStore: one place for the copies of many namespaces.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BackupStoreSpec, BackupStoreStatus, Encryption, JobTemplate, ObjectLock, RoleCredential, RoleCredentials, S3Location, StoreCredentials,
    StoreSeal, store::default_max_concurrent_runs,
};

/// A place for the copies of many namespaces. A namespace has credentials for its own folders only; what deletes lives in one namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "ClusterBackupStore",
    plural = "clusterbackupstores",
    shortname = "hcstore",
    category = "holdfast",
    status = "BackupStoreStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Kept", type_ = "string", json_path = ".status.conditions[?(@.type==\"Kept\")].status"),
    printcolumn(name = "Copies", type_ = "integer", json_path = ".status.keeper.lastPass.summary.copies"),
    printcolumn(name = "Maintenance", type_ = "string", json_path = ".spec.maintenance.namespace"),
    printcolumn(name = "Location", type_ = "string", json_path = ".status.location"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it ")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterBackupStoreSpec {
    /// A bucket, or a prefix of one, on a server that speaks S3. `caSecretName` is looked for in the namespace of each pod.
    pub s3: S3Location,
    /// Which namespaces may use it.
    pub allowed_namespaces: AllowedNamespaces,
    /// With which rights the pods of these namespaces use it: each namespace has the Secret or service account itself, under the name that is said here.
    pub credentials: TenantCredentials,
    /// Where what looks after the store runs, and with which rights.
    pub maintenance: Maintenance,
    /// Locks that the bucket itself enforces (S3 Object Lock). It must be a bucket with Object Lock; others are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLock>,
    /// The cluster (its id, as the refusal and the status show it) that this place is taken over from. Jobs of that cluster stop before they commit or delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub take_over: Option<String>,
    /// How copies are encrypted before they leave the pod. There is no default: `none: {}` must be said. Secrets are those of each namespace.
    pub encryption: Encryption,
    /// How many runs are at work at once in all namespaces together; others wait.
    #[serde(default = "default_max_concurrent_runs")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_concurrent_runs: i32,
    /// How settle Jobs are shaped, and what each pod that uses the store needs to reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobTemplate>,
}

/// Namespaces by name or by labels: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AllowedNamespaces {
    /// Names of namespaces.
    Names(#[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))] Vec<String>),
    /// Labels that a namespace must all have.
    MatchLabels(#[schemars(extend("minProperties" = 1, "maxProperties" = 16))] BTreeMap<String, String>),
}

impl AllowedNamespaces {
    /// Whether a namespace of this name and these labels may use the store. One that does not exist has no labels.
    pub fn allow(&self, name: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|allowed| allowed == name),
            Self::MatchLabels(wanted) => labels.is_some_and(|labels| wanted.iter().all(|(key, value)| labels.get(key) == Some(value))),
        }
    }
}

/// What a namespace has of a store: rights to its own folders, and never the right to delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantCredentials {
    /// For backups and settling: writes, reads and lists `catalog/<namespace>/` and `data/<namespace>/`, and reads `owner/`.
    pub writer: RoleCredential,
    /// For restores: reads and lists the same. By default the writer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<RoleCredential>,
}

/// Where the keeper and the probe of a store run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.__namespace__ == oldSelf.__namespace__",
    "fieldPath": ".namespace",
    "messageExpression": "\"found '\" + self.__namespace__ + \"', was '\" + oldSelf.__namespace__ + \"', where a keeper may be at work; delete this object and make it anew: that deletes nothing in the store\"",
}]))]
pub struct Maintenance {
    /// The namespace. It must exist, and tenants should have no rights in it.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: String,
    /// With which rights, in Secrets and service accounts of this namespace. The writer is the probe's: it writes `probe/` and `owner/`.
    pub credentials: StoreCredentials,
    /// With which key, in a Secret of this namespace, the keeper countersigns copies that it has read back. By default copies are not sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<StoreSeal>,
    /// How the pods of probe and keeper are shaped. By default as `spec.job` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobTemplate>,
}

impl ClusterBackupStoreSpec {
    /// The store as pods of the namespaces that may use it do.
    pub fn for_tenants(&self) -> BackupStoreSpec {
        let TenantCredentials { writer, reader } = self.credentials.clone();
        let roles = RoleCredentials {
            writer,
            reader,
            keeper: None,
            pruner: None,
        };
        BackupStoreSpec {
            take_over: None,
            ..self.with(StoreCredentials::Roles(Box::new(roles)), self.job.clone())
        }
    }

    /// The store as its probe and its keeper use it.
    pub fn for_maintenance(&self) -> BackupStoreSpec {
        let job = self.maintenance.job.as_ref().or(self.job.as_ref());
        BackupStoreSpec {
            seal: self.maintenance.seal.clone(),
            ..self.with(self.maintenance.credentials.clone(), job.cloned())
        }
    }

    fn with(&self, credentials: StoreCredentials, job: Option<JobTemplate>) -> BackupStoreSpec {
        BackupStoreSpec {
            s3: Some(self.s3.clone()),
            volume: None,
            credentials: Some(credentials),
            object_lock: self.object_lock,
            seal: None,
            take_over: self.take_over.clone(),
            encryption: self.encryption.clone(),
            max_concurrent_runs: self.max_concurrent_runs,
            job,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreRole;

    fn spec() -> ClusterBackupStoreSpec {
        serde_json::from_value(serde_json::json!({
            "s3": {"bucket": "backups"}, "allowedNamespaces": {"names": ["shop"]}, "encryption": {"none": {}}, "takeOver": "old",
            "credentials": {"writer": {"secretName": "w"}},
            "maintenance": {"namespace": "stores", "credentials": {"roles": {"writer": {"secretName": "p"}, "pruner": {"secretName": "d"}}}},
            "job": {"labels": {"a": "b"}},
        }))
        .unwrap()
    }

    #[test]
    fn no_pod_of_a_tenant_gets_what_is_for_maintenance() {
        let (spec, named) = (spec(), |role: &RoleCredential| format!("{role:?}"));
        let tenants = spec.for_tenants();
        for role in StoreRole::ALL {
            let (_, credential) = tenants.credentials.as_ref().unwrap().of(role);
            assert!(named(&credential).contains("\"w\""), "{role:?}: {credential:?}");
        }
        assert_eq!(tenants.take_over, None);
        let text = serde_json::to_string(&tenants).unwrap();
        assert!(
            !text.contains("stores") && !text.contains("\"d\"") && !text.contains("\"p\""),
            "{text}"
        );
        let maintenance = spec.for_maintenance();
        let (_, pruner) = maintenance.credentials.as_ref().unwrap().of(StoreRole::Pruner);
        assert!(named(&pruner).contains("\"d\""));
        assert_eq!((maintenance.take_over.as_deref(), maintenance.job), (Some("old"), spec.job));
    }

    #[test]
    fn a_namespace_is_allowed_by_its_name_or_by_all_labels() {
        let allow = |json: serde_json::Value, name: &str, labels: Option<&[(&str, &str)]>| {
            let allowed: AllowedNamespaces = serde_json::from_value(json).unwrap();
            let labels = labels.map(|labels| labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
            allowed.allow(name, labels.as_ref())
        };
        let names = serde_json::json!({"names": ["shop", "mail"]});
        assert!(allow(names.clone(), "shop", None) && !allow(names, "shop2", Some(&[])));
        let labels = serde_json::json!({"matchLabels": {"tier": "gold", "zone": "eu"}});
        assert!(allow(
            labels.clone(),
            "any",
            Some(&[("tier", "gold"), ("zone", "eu"), ("more", "")])
        ));
        assert!(!allow(labels.clone(), "any", Some(&[("tier", "gold")])));
        assert!(!allow(labels, "vanished", None));
    }
}

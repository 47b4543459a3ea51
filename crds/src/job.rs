//! How a Job's pod may be shaped by the user, the same for every kind that makes Jobs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the pods of this object's Jobs get beside what Holdfast sets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobTemplate {
    /// Image of the main container: it brings the engine's tools. By default the engine's official image of the source's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Labels for the pod. Those of Holdfast win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the pod. Those of Holdfast win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Requests and limits of the main container. By default 100m and 64Mi requested, 2 CPUs and 512Mi at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that the pod's node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Which nodes and neighbours the pod wants or avoids, as in the specification of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "affinity")]
    pub affinity: Option<Affinity>,
    /// Taints that the pod tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// Priority class of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Secrets with which images are pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    pub image_pull_secrets: Vec<String>,
    /// Service account of the pod. By default that of the namespace's default; its token is never mounted, but where the store's
    /// credentials are a web identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// The HTTP proxy through which the pod reaches the store. Databases are not reached through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// User id of the pod's processes; not 0. By default 65532; on a volume store its `runAsUser`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub run_as_user: Option<i64>,
}

/// An HTTP proxy. It becomes environment variables of the pod, which many can read: it has no user and no password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// `http://host[:port]` or `https://host[:port]`. What goes to an `https` store stays encrypted on its way through it.
    #[schemars(
        length(min = 8, max = 512),
        regex(
            pattern = "^https?://[A-Za-z0-9.-]+(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$"
        )
    )]
    pub url: String,
    /// What is reached without it: hosts, domains (with all below them), addresses and networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253), regex(pattern = "^[A-Za-z0-9.:/_-]+$")))]
    pub no_proxy: Vec<String>,
}

/// The schema of Kubernetes without its texts, which are longer than all of ours together.
fn affinity(generator: &mut SchemaGenerator) -> Schema {
    fn silence(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, field| name != "description" || !field.is_string());
                fields.values_mut().for_each(silence);
            }
            Value::Array(items) => items.iter_mut().for_each(silence),
            _ => {}
        }
    }
    let mut schema = Affinity::json_schema(generator).to_value();
    silence(&mut schema);
    Schema::try_from(schema).unwrap_or_default()
}

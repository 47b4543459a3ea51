//! BackupStore: where copies go.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    JobTemplate, Reason, Span,
    rule::{Fixed, fixed, rule},
};

/// A place for copies, with its credentials and encryption.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "BackupStore",
    plural = "backupstores",
    shortname = "hstore",
    category = "holdfast",
    namespaced,
    status = "BackupStoreStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Kept", type_ = "string", json_path = ".status.conditions[?(@.type==\"Kept\")].status"),
    printcolumn(name = "Copies", type_ = "integer", json_path = ".status.keeper.lastPass.summary.copies"),
    printcolumn(name = "Location", type_ = "string", json_path = ".status.location"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.s3) != has(self.volume)", "found both or none of spec.s3 and spec.volume; name exactly one place"),
    rule("has(self.s3) == has(self.credentials)",
        "spec.credentials: an S3 store needs credentials (secretName, webIdentity or roles); a volume store takes none"),
    rule("has(self.s3) || !has(self.objectLock)", "spec.objectLock: a volume has no locks; remove it, or use a bucket"),
    rule("has(self.s3) == has(oldSelf.s3) && has(self.volume) == has(oldSelf.volume)",
        "found another kind of place than before, and the copies in the old one would be lost from sight; make a new store for the new place")
]))]
pub struct BackupStoreSpec {
    /// A bucket, or a prefix of one, on a server that speaks S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Location>,
    /// A folder on a PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeLocation>,
    /// With which rights an S3 store is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StoreCredentials>,
    /// Locks that the bucket itself enforces (S3 Object Lock). It must be a bucket with Object Lock; others are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLock>,
    /// With which key the keeper countersigns copies that it has read back. By default copies are not sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<StoreSeal>,
    /// The cluster (its id, as the refusal and the status show it) that this place is taken over from. Jobs of that cluster stop before they commit or delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub take_over: Option<String>,
    /// How copies are encrypted before they leave the pod. There is no default: `none: {}` must be said.
    pub encryption: Encryption,
    /// How many runs are at work at once; others wait, those first whose source is nearest to the end of its objective. Restores wait for nothing.
    #[serde(default = "default_max_concurrent_runs")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_concurrent_runs: i32,
    /// How the pods of this store's own Jobs (probe and settle) are shaped, and what each pod that uses it needs to reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobTemplate>,
}

pub(crate) fn default_max_concurrent_runs() -> i32 {
    4
}

/// A place in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = s3_rules()))]
pub struct S3Location {
    /// Name of the bucket; it must exist.
    #[schemars(length(min = 3, max = 63), regex(pattern = "^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// Folder in the bucket, without a slash at either end. By default the bucket's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
    )]
    pub prefix: Option<String>,
    /// Region of the bucket.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 63))]
    pub region: String,
    /// `https://host[:port]` (or `http://`, which is not encrypted) of a server other than AWS. By default AWS in `region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 8, max = 512),
        regex(
            pattern = "^https?://[A-Za-z0-9.-]+(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$"
        )
    )]
    pub endpoint: Option<String>,
    /// Whether the bucket's name stands in the path or in the host's name. By default `VirtualHost` on AWS and `Path` elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addressing: Option<Addressing>,
    /// Storage class of the parts, as the server names it. By default the bucket's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Z0-9_]+$"))]
    pub storage_class: Option<String>,
    /// Secret whose key `ca.crt` holds the CA certificates (PEM) of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret_name: Option<String>,
}

const PLACE: &str = "the place of a store cannot change, or its copies would be lost from sight; make a new store for the new place";

fn s3_rules() -> Vec<serde_json::Value> {
    let mut rules = fixed(&[Fixed::Text("bucket"), Fixed::Text("prefix"), Fixed::Text("endpoint")], PLACE);
    rules.push(serde_json::json!({
        "rule": "!has(self.caSecretName) || (has(self.endpoint) && self.endpoint.startsWith('https://'))",
        "fieldPath": ".caSecretName",
        "messageExpression": "\"found '\" + self.caSecretName + \"', but certificates are only used with an https:// endpoint; set endpoint, or remove caSecretName\"",
    }));
    rules
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Addressing {
    Path,
    VirtualHost,
}

impl S3Location {
    /// How the bucket is named in requests, with the default resolved.
    pub fn effective_addressing(&self) -> Addressing {
        self.addressing.unwrap_or(if self.endpoint.is_some() {
            Addressing::Path
        } else {
            Addressing::VirtualHost
        })
    }
}

/// A place on a volume. With access mode `ReadWriteOnce` all Jobs that use it must run on the node that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = fixed(&[Fixed::Text("claimName"), Fixed::Text("path")], PLACE)))]
pub struct VolumeLocation {
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// Folder on the volume, without a slash at either end. By default its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
    )]
    pub path: Option<String>,
    /// User and group id that own the files; every Job that uses this store runs as it.
    #[serde(default = "default_volume_user")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub run_as_user: i64,
}

fn default_volume_user() -> i64 {
    65_532
}

/// With which rights a store is used: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StoreCredentials {
    /// Secret with the keys `access_key_id` and `secret_access_key` (or `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`), and
    /// `session_token` where one is needed.
    SecretName(#[schemars(length(min = 1, max = 253))] String),
    /// The pod's service account token, exchanged for temporary keys (AssumeRoleWithWebIdentity).
    WebIdentity(WebIdentity),
    /// Credentials of its own for each role, so that no pod has more rights than its work needs.
    Roles(Box<RoleCredentials>),
}

/// Credentials by role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleCredentials {
    /// For backups, probes and settling: writes, reads and lists, and deletes nothing.
    pub writer: RoleCredential,
    /// For restores: reads and lists. By default the writer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<RoleCredential>,
    /// For the keeper's inventory, records, locks and holds. By default the writer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<RoleCredential>,
    /// For the keeper's deletions, and nothing else. By default the keeper's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruner: Option<RoleCredential>,
}

/// Credentials of one role: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RoleCredential {
    /// Secret with the keys `access_key_id` and `secret_access_key`, and `session_token` where one is needed.
    SecretName(#[schemars(length(min = 1, max = 253))] String),
    /// The pod's service account token, exchanged for temporary keys (AssumeRoleWithWebIdentity).
    WebIdentity(WebIdentity),
}

/// What a pod does with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreRole {
    Writer,
    Reader,
    Keeper,
    Pruner,
}

impl StoreRole {
    pub const ALL: [Self; 4] = [Self::Writer, Self::Reader, Self::Keeper, Self::Pruner];
}

impl StoreCredentials {
    /// The credentials of a role, and the role under whose name they lie in the pod: that of the role itself if it has its own.
    pub fn of(&self, role: StoreRole) -> (StoreRole, RoleCredential) {
        let roles = match self {
            Self::SecretName(name) => return (StoreRole::Writer, RoleCredential::SecretName(name.clone())),
            Self::WebIdentity(identity) => return (StoreRole::Writer, RoleCredential::WebIdentity(identity.clone())),
            Self::Roles(roles) => roles,
        };
        let RoleCredentials {
            writer,
            reader,
            keeper,
            pruner,
        } = &**roles;
        let chain: &[(StoreRole, Option<&RoleCredential>)] = match role {
            StoreRole::Writer => &[],
            StoreRole::Reader => &[(StoreRole::Reader, reader.as_ref())],
            StoreRole::Keeper => &[(StoreRole::Keeper, keeper.as_ref())],
            StoreRole::Pruner => &[(StoreRole::Pruner, pruner.as_ref()), (StoreRole::Keeper, keeper.as_ref())],
        };
        let own = chain.iter().find_map(|(role, own)| own.map(|own| (*role, own.clone())));
        own.unwrap_or_else(|| (StoreRole::Writer, writer.clone()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebIdentity {
    /// The role that is assumed.
    #[schemars(length(min = 1, max = 2048))]
    pub role_arn: String,
    /// Audience of the token. Not the API server's own: agents never get a token that it would take.
    #[serde(default = "default_audience")]
    #[schemars(length(min = 1, max = 253), extend("x-kubernetes-validations" = [{
        "rule": "!self.contains('kubernetes.default')",
        "messageExpression": "\"found '\" + self + \"', the audience of the API server; name the audience that the STS expects, such as sts.amazonaws.com\"",
    }]))]
    pub audience: String,
    /// Where the token is exchanged. By default the STS of `region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 8, max = 512),
        regex(
            pattern = "^https?://[A-Za-z0-9.-]+(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?(/[A-Za-z0-9._/-]*)?$"
        )
    )]
    pub sts_endpoint: Option<String>,
}

fn default_audience() -> String {
    "sts.amazonaws.com".to_owned()
}

/// The keeper's seal: it reads each copy back, compares every digest, and signs the manifest (Ed25519).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreSeal {
    /// Secret with the private key, as `openssl genpkey -algorithm ed25519` writes it. Only keeper Jobs mount it.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// Key of the Secret.
    #[serde(default = "default_seal_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    pub key: String,
    /// Public keys whose seals count beside that of the Secret's key: those of keys before a rotation, as `status.keeper.lastPass.summary.sealKey` showed them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 64, max = 64), regex(pattern = "^[0-9a-f]{64}$")), extend("x-kubernetes-list-type" = "set"))]
    pub public_keys: Vec<String>,
    /// How much a pass reads back at most, in GiB: the newest copies come first, the rest waits for later passes.
    #[serde(default = "default_seal_budget")]
    #[schemars(range(min = 1, max = 10_000))]
    pub gib_per_pass: i32,
}

fn default_seal_key() -> String {
    "seal.pem".to_owned()
}

fn default_seal_budget() -> i32 {
    50
}

/// Locks that the bucket itself enforces. What is written is locked for a short time; what is kept, the keeper locks for as long as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectLock {
    /// Who may end a lock before its time: with `Governance` whoever has the right to bypass it, with `Compliance` nobody at all.
    pub mode: LockMode,
    /// For how long everything is locked when it is written. It must be longer than an attempt and the keeper's next pass, a day later at most,
    /// take together: that pass extends the locks of what is kept. That is 2d at least, and more where runs may take longer than a day; of less the condition `Kept` tells.
    #[serde(default = "default_lock_at_write")]
    pub at_write: Span,
}

/// What [`ObjectLock::at_write`] is to be at least: a day for the run, and one to the keeper's next pass.
pub const SHORTEST_LOCK_AT_WRITE: Span = Span::from_days(2);

/// Who may end a lock before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum LockMode {
    /// Whoever has the right `s3:BypassGovernanceRetention`.
    Governance,
    /// Nobody.
    Compliance,
}

fn default_lock_at_write() -> Span {
    Span::from_days(7)
}

/// How copies are encrypted: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Encryption {
    /// To public keys of `age`. Who has one of the identities can read the copies.
    Age(AgeEncryption),
    /// With a passphrase, in a Secret under the key `passphrase`.
    Passphrase(PassphraseEncryption),
    /// Not at all: who can read the bucket can read the copies.
    None(NoEncryption),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgeEncryption {
    /// Public keys, `age1…`.
    #[schemars(length(min = 1, max = 16), inner(length(max = 128), regex(pattern = "^age1[ac-hj-np-z02-9]{58}$")))]
    pub recipients: Vec<String>,
    /// Secret whose key `identity` holds an `AGE-SECRET-KEY-1…` of a recipient. Only restores mount it; a store works without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub identity_secret_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassphraseEncryption {
    /// Secret with the key `passphrase`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoEncryption {}

/// What was found out about a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStoreStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the store was tried and may be used. `Stalled`: it cannot be used until somebody acts. `Kept`: the keeper's last pass
    /// ended well. `Intact`: it found what was written, and nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The place in one line, such as `s3://bucket/prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// What the last probe found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeStatus>,
    /// What its keeper does and found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<Box<crate::KeeperStatus>>,
    /// How holds and disposals stand in this store, by the keeper's last pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<StoreHolds>,
}

/// How holds and disposals stand in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreHolds {
    /// When the pass that this is of began, by the store's clock (RFC 3339, UTC).
    pub started_at: String,
    /// One line for each hold, at most 200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub reports: Vec<crate::HoldReport>,
    /// One line for each disposal, at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub disposals: Vec<crate::DisposalReport>,
}

/// The last probe of a store, and the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeStatus {
    /// Number of the probe that was started last; its Job is named after it.
    #[serde(default)]
    pub number: i64,
    /// The generation that it was started for.
    #[serde(default)]
    pub generation: i64,
    /// When it was started (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// How many probes failed one after the other; the wait before the next grows with it, up to 30 minutes.
    #[serde(default)]
    pub failures: i64,
    /// What it found; absent where it never got as far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ProbeReport>,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// What was tried, in order; the first that failed gives the reason.
    #[schemars(length(max = 24))]
    pub checks: Vec<ProbeCheck>,
    /// Whether the store keeps older versions of an object. Absent where it cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versioning: Option<bool>,
    /// Whether the bucket has Object Lock, and keeps what it promises. Absent where it cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLockReport>,
    /// The store's clock minus ours, in seconds. Absent where the store tells no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_seconds: Option<i64>,
    /// The cluster that owns this place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub owner: Option<String>,
    /// The owner's epoch, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
}

/// What a probe found out about locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectLockReport {
    /// Whether the bucket has Object Lock.
    pub found: bool,
    /// Whether a locked object could neither be deleted, nor overwritten, nor its lock be shortened. Absent where that was not tried: it is where the store has
    /// `objectLock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<bool>,
}

/// One thing that a probe tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeCheck {
    /// What was tried: `Reach`, `Put`, `CreateIfAbsent`, `Checksum`, `Read`, `List`, `AbortUpload`, `ObjectLock`, `Reader`, `Keeper`, `Pruner`, `Clock`, `Owner`, …
    #[schemars(length(max = 64))]
    pub name: String,
    /// Whether the store does what is demanded.
    pub passed: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What was seen.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
}

impl BackupStoreSpec {
    /// The place in one line.
    pub fn location(&self) -> String {
        let under = |path: &Option<String>| path.as_ref().map(|path| format!("/{path}")).unwrap_or_default();
        match (&self.s3, &self.volume) {
            (Some(s3), _) => format!("s3://{}{}", s3.bucket, under(&s3.prefix)),
            (None, Some(volume)) => format!("volume://{}{}", volume.claim_name, under(&volume.path)),
            (None, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_without_credentials_of_its_own_takes_those_of_the_next() {
        let of = |json: serde_json::Value| {
            let credentials: StoreCredentials = serde_json::from_value(json).unwrap();
            StoreRole::ALL.map(|role| match credentials.of(role) {
                (at, RoleCredential::SecretName(name)) => format!("{at:?} {name}"),
                (at, RoleCredential::WebIdentity(identity)) => format!("{at:?} {}", identity.role_arn),
            })
        };
        assert_eq!(of(serde_json::json!({"secretName": "s3"})), ["Writer s3"; 4]);
        assert_eq!(of(serde_json::json!({"webIdentity": {"roleArn": "arn"}})), ["Writer arn"; 4]);
        assert_eq!(of(serde_json::json!({"roles": {"writer": {"secretName": "w"}}})), ["Writer w"; 4]);
        let some = serde_json::json!({"roles": {"writer": {"secretName": "w"}, "keeper": {"webIdentity": {"roleArn": "k"}}}});
        assert_eq!(of(some), ["Writer w", "Writer w", "Keeper k", "Keeper k"]);
        let named = |name: &str| serde_json::json!({"secretName": name});
        let all = serde_json::json!({"roles": {"writer": named("w"), "reader": named("r"), "keeper": named("k"), "pruner": named("p")}});
        assert_eq!(of(all), ["Writer w", "Reader r", "Keeper k", "Pruner p"]);
    }
}

//! BackupSchedule: when copies are made.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::document::{Sha256, canonical_bytes};
use crate::{CatchUp, ConcurrencyPolicy, Exclusion, Reason, Retention, SHORTEST_DELETION_DELAY, Span, StoreKind, StoreReference};

/// When copies of which sources are made, and where they go.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "BackupSchedule",
    plural = "backupschedules",
    shortname = "hsched",
    category = "holdfast",
    namespaced,
    status = "BackupScheduleStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Sources", type_ = "integer", json_path = ".status.sources"),
    printcolumn(name = "Last-Run-Succeeded", type_ = "string", json_path = ".status.conditions[?(@.type==\"LastRunSucceeded\")].status"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextTick"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = crate::rule::name(63, "it ")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct BackupScheduleSpec {
    /// Which sources of this namespace.
    pub sources: SourceSelection,
    /// Where the copies go, and how long they stay there. A run writes to the first that is not known to be down, and copy Jobs fill the
    /// others from it. They must be encrypted in one way: all to age recipients (each key is sealed to those of all), all with the same
    /// passphrase, or none.
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name", "kind"]))]
    pub stores: Vec<ScheduleStore>,
    /// How many stores must have a copy for its run to be `Replicated`. By default all that its type goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4))]
    pub required_copies: Option<i32>,
    /// When.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub triggers: Vec<Trigger>,
    /// Zone in which the cron expressions are read, as in `Europe/Zurich`.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9._+/-]+$"))]
    pub time_zone: String,
    /// What becomes of ticks that could not run at their time.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// How late a tick's run may be made; what is later is dropped, and counted. For a tick within an exclusion the time begins at its end.
    /// By default however late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting_deadline: Option<Span>,
    /// What becomes of a tick while the run before it is in flight.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// Windows in which no tick's run starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub exclusions: Vec<Exclusion>,
    /// Makes no runs while true. Time suspended has no ticks: nothing is caught up afterwards.
    #[serde(default)]
    pub suspend: bool,
    /// What the copies are to achieve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objectives: Option<Objectives>,
    /// How often one run is attempted, where its failure may go away by itself; up to 5 attempts that the cluster takes away (drains,
    /// evictions, lost nodes, deleted pods) do not count.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: i32,
    /// The time that one attempt has.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How many objects of ended runs remain. Copies in the store are not touched.
    #[serde(default)]
    pub history: RunHistory,
}

impl BackupScheduleSpec {
    /// Digest of the policy: SHA-256 of the canonical bytes of `{"stores": …, "timeZone": …}`, how long copies are kept in each store, and
    /// the zone in which periods are counted.
    pub fn policy_digest(&self) -> Sha256 {
        Sha256::of(&canonical_bytes(
            &serde_json::json!({"stores": self.stores, "timeZone": self.time_zone}),
        ))
    }
}

fn rules() -> Vec<serde_json::Value> {
    let mut rules = vec![
        serde_json::json!({
            "rule": "self.catchUp != 'All' || self.concurrencyPolicy != 'Replace'",
            "fieldPath": ".catchUp",
            "message": "found All with concurrencyPolicy Replace: each run would replace the one before it; use Latest, or another concurrencyPolicy",
        }),
        required_copies(),
        crate::retention::delay_rule(),
    ];
    // Each store takes Full. A rule for each type: one that says which type it is by an expression costs too much.
    rules.extend([BackupType::Differential, BackupType::Incremental, BackupType::Log].map(|type_| {
        serde_json::json!({
            "rule": format!("!self.triggers.exists(t, t.type == '{type_}') || self.stores.exists(s, !has(s.types) || '{type_}' in s.types)"),
            "fieldPath": ".stores",
            "message": format!("found a trigger of type {type_}, which no store takes; add {type_} to the types of a store, or leave types out"),
        })
    }));
    rules
}

/// No more copies are demanded than there are stores. Counts are looked up: what `string(…)` of a number costs cannot be bounded.
pub(crate) fn required_copies() -> serde_json::Value {
    serde_json::json!({
        "rule": "!has(self.requiredCopies) || !has(self.stores) || self.requiredCopies <= size(self.stores)",
        "fieldPath": ".requiredCopies",
        "messageExpression": "'found ' + ['1','2','3','4'][self.requiredCopies - 1] + ' with ' + ['0','1','2','3','4'][size(self.stores)] + ' stores, so that no copy could ever be replicated; lower it, or add stores'",
    })
}

fn default_time_zone() -> String {
    "UTC".to_owned()
}

/// How often a run is attempted of which nothing says it.
pub const ATTEMPTS: i32 = 3;
/// The time that an attempt has of which nothing says it.
pub const TIMEOUT: Span = Span::from_hours(6);

pub(crate) fn default_attempts() -> i32 {
    ATTEMPTS
}

pub(crate) fn default_timeout() -> Span {
    TIMEOUT
}

impl BackupScheduleSpec {
    /// The stores that copies of this type go to, in their order, and how many of them must have one.
    pub fn stores_for(&self, type_: BackupType) -> (Vec<StoreReference>, Option<i32>) {
        let stores = self.stores.iter().filter(|store| store.takes(type_)).map(ScheduleStore::reference);
        let stores: Vec<_> = stores.collect();
        let most = i32::try_from(stores.len()).unwrap_or(i32::MAX);
        (stores, self.required_copies.map(|count| count.min(most)))
    }
}

/// Sources by name or by labels: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SourceSelection {
    /// Names of sources.
    Names(#[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))] Vec<String>),
    /// Labels that a source must all have.
    MatchLabels(#[schemars(extend("minProperties" = 1, "maxProperties" = 16))] BTreeMap<String, String>),
}

/// A store, and how long this schedule's copies are kept in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = store_rules()))]
pub struct ScheduleStore {
    /// Name of the store.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Whether it is a store of this namespace or one of the cluster.
    #[serde(default)]
    pub kind: StoreKind,
    /// How long copies are kept. By default every copy is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Which types of copies go there. By default all. `Full` must be among them: the others are of no use without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "set", "x-kubernetes-validations" = [{
        "rule": "'Full' in self",
        "messageExpression": "'found ' + (size(self) > 0 ? self[0] : 'none') + (size(self) > 1 ? ' and others' : '') + ' without Full, of which the other types are of no use; add Full, or leave types out'",
    }]))]
    pub types: Vec<BackupType>,
}

fn store_rules() -> Vec<Value> {
    let delay = crate::compliance::span_seconds("self.retention.deletionDelay");
    vec![json!({
        "rule": format!("!has(self.retention) || !has(self.retention.deletionDelay) || {delay} >= {}", SHORTEST_DELETION_DELAY.seconds()),
        "fieldPath": ".retention.deletionDelay",
        "messageExpression": format!(
            "\"found '\" + self.retention.deletionDelay + \"', expected at least {SHORTEST_DELETION_DELAY}: that long people, holds and restores have before a copy is removed\""
        ),
    })]
}

impl ScheduleStore {
    /// Whether copies of this type go there.
    pub fn takes(&self, type_: BackupType) -> bool {
        self.types.is_empty() || self.types.contains(&type_)
    }

    /// The store as a run names it.
    pub fn reference(&self) -> StoreReference {
        StoreReference {
            name: self.name.clone(),
            kind: self.kind,
        }
    }
}

/// A recurring time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// Its name, part of its runs' names.
    #[schemars(length(min = 1, max = 20), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What kind of copy.
    #[serde(rename = "type", default)]
    pub type_: BackupType,
    /// Minute, hour, day of month, month, day of week; `H`, `H/n` and `H(a-b)` stand for a value that differs by source but stays.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^\\s*\\S+(\\s+\\S+){4}\\s*$"))]
    pub cron: String,
}

/// What a copy is made of. Not every engine has every type: a run or trigger of a type that its source's engine lacks is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BackupType {
    /// What the server logged since the copy before.
    Log,
    /// What changed since the copy before.
    Incremental,
    /// What changed since the last full copy.
    Differential,
    /// All of the data. The strongest: where triggers meet in one minute, the type that stands last here wins.
    #[default]
    Full,
}

impl std::fmt::Display for BackupType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Log => "Log",
            Self::Incremental => "Incremental",
            Self::Differential => "Differential",
            Self::Full => "Full",
        })
    }
}

/// What the copies are to achieve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Objectives {
    /// How old the newest restorable copy may be. By default the longest time between two ticks plus one attempt's timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Span>,
}

/// How many run objects remain, by source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunHistory {
    /// The newest so many ended runs of each source.
    #[serde(default = "default_per_source")]
    #[schemars(range(min = 1, max = 100))]
    pub per_source: i32,
    /// … and failed ones, and those whose copy a store still lacks, for so long.
    #[serde(default = "default_failed_for")]
    pub failed_for: Span,
}

fn default_per_source() -> i32 {
    5
}

fn default_failed_for() -> Span {
    Span::from_days(7)
}

impl Default for RunHistory {
    fn default() -> Self {
        Self {
            per_source: default_per_source(),
            failed_for: default_failed_for(),
        }
    }
}

/// What a schedule did and does next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupScheduleStatus {
    /// The generation that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: accepted and making runs. `Stalled`: it cannot make runs. `LastRunSucceeded`: the newest ended run of each source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many sources are selected now.
    #[serde(default)]
    pub sources: i64,
    /// When the next tick of any trigger for any source may run: its minute, or the end of the exclusion that it lies in (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_tick: Option<String>,
    /// One watermark per trigger.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub triggers: Vec<TriggerStatus>,
    /// Since when it is suspended (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_since: Option<String>,
    /// The sources whose newest ended run failed, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub failing: Vec<FailingSource>,
}

/// How far a trigger has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TriggerStatus {
    /// Name of the trigger.
    pub name: String,
    /// Every tick at or before it has its run made, skipped or dropped (RFC 3339, UTC).
    pub watermark: String,
    /// The expression and zone that the watermark was made with; when they change, nothing of the past is fired.
    pub expression: String,
    /// Ticks whose runs were made.
    #[serde(default)]
    pub fired: i64,
    /// Ticks that were skipped, because runs before were still in flight or a stronger trigger had the same minute.
    #[serde(default)]
    pub skipped: i64,
    /// Ticks that passed while nothing could act on them, and were not made up for.
    #[serde(default)]
    pub missed: i64,
    /// Ticks that were later than `startingDeadline` allows.
    #[serde(default)]
    pub dropped: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailingSource {
    /// Name of the source.
    pub source: String,
    /// Its last run, which failed.
    pub run: String,
    pub reason: Reason,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_digest_of_a_policy_is_of_what_is_kept_where_and_of_nothing_else() {
        let spec = |cron: &str, stores: serde_json::Value, zone: &str| -> BackupScheduleSpec {
            let spec = json!({"sources": {"names": ["a"]}, "stores": stores, "timeZone": zone, "triggers": [{"name": "n", "cron": cron}]});
            serde_json::from_value(spec).unwrap()
        };
        let stores = |daily: i32| json!([{"name": "offsite", "retention": {"daily": daily}}]);
        let digest = spec("0 2 * * *", stores(7), "UTC").policy_digest();
        assert_eq!(spec("0 3 * * *", stores(7), "UTC").policy_digest(), digest);
        assert_ne!(spec("0 2 * * *", stores(8), "UTC").policy_digest(), digest);
        assert_ne!(spec("0 2 * * *", json!([{"name": "offsite"}]), "UTC").policy_digest(), digest);
        assert_ne!(
            spec("0 2 * * *", json!([{"name": "near", "retention": {"daily": 7}}]), "UTC").policy_digest(),
            digest
        );
        assert_ne!(spec("0 2 * * *", stores(7), "Europe/Paris").policy_digest(), digest);
    }
}

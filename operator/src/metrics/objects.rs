//! Gauges of sources, schedules and stores, computed from the caches when they are asked for: there from birth, right after a restart,
//! gone with the object. Each replica serves them, whether it leads or not: take the `max by (namespace, …)`.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use holdfast_crds::{BackupSource, Reason, RunPhase, StoreKind, StoreReference};
use holdfast_policy::protection::{Evidence, Protection};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};

use crate::{
    clock::ServerClock,
    controller::compliance::guards,
    watch::{Caches, Key},
};

/// Name, help and labels of a series.
struct Series {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    counter: bool,
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Series {
    Series {
        name,
        help,
        labels,
        counter: false,
    }
}

const SOURCE: &[&str] = &["namespace", "source"];
const SCHEDULE: &[&str] = &["namespace", "schedule"];
const STORE: &[&str] = &["namespace", "store"];

/// Passes are made daily: after so many seconds one is missing.
const PASS_OVERDUE: f64 = 26.0 * 3_600.0;

const NEWEST_COPY: Series = gauge(
    "holdfast_source_newest_copy_timestamp_seconds",
    "Recovery point of the newest copy; 0 if there is none.",
    SOURCE,
);
const RPO: Series = gauge(
    "holdfast_source_rpo_seconds",
    "How old the newest copy may be; 0 if no schedule says.",
    SOURCE,
);
const PROTECTED: Series = gauge(
    "holdfast_source_protected",
    "1 if the newest copy is younger than the objective, else 0.",
    SOURCE,
);
const LAST_SUCCESS: Series = gauge(
    "holdfast_source_last_success_timestamp_seconds",
    "When the last run that succeeded ended; 0 if none did.",
    SOURCE,
);
const LAST_FAILURE: Series = gauge(
    "holdfast_source_last_failure_timestamp_seconds",
    "When the last run that failed ended; 0 if none is known.",
    SOURCE,
);
const SOURCE_NEXT: Series = gauge(
    "holdfast_source_next_tick_timestamp_seconds",
    "The next tick of any schedule; 0 if there is none.",
    SOURCE,
);
const SUSPENDED: Series = gauge("holdfast_schedule_suspended", "1 if the schedule is suspended, else 0.", SCHEDULE);
const SCHEDULE_READY: Series = gauge(
    "holdfast_schedule_ready",
    "1 if the schedule makes its runs (condition Ready), else 0.",
    SCHEDULE,
);
const SCHEDULE_NEXT: Series = gauge(
    "holdfast_schedule_next_tick_timestamp_seconds",
    "The next tick of any trigger for any source; 0 if there is none.",
    SCHEDULE,
);
const SCHEDULE_SOURCES: Series = gauge("holdfast_schedule_sources", "Sources that the schedule selects.", SCHEDULE);
const TICKS: Series = Series {
    name: "holdfast_schedule_ticks_total",
    help: "Ticks by what became of them: fired, skipped, missed or dropped.",
    labels: &["namespace", "schedule", "trigger", "result"],
    counter: true,
};
const STORE_READY: Series = gauge(
    "holdfast_store_ready",
    "1 if the store was tried and may be used (condition Ready), else 0.",
    STORE,
);
const STORE_PASS: Series = gauge(
    "holdfast_store_last_pass_timestamp_seconds",
    "When the keeper's last pass whose report was read ended; 0 if none did.",
    STORE,
);
const STORE_KEPT: Series = gauge(
    "holdfast_store_kept",
    "1 if the keeper's last pass ended well (condition Kept) at most 26 hours ago, else 0.",
    STORE,
);
const STORE_FINDINGS: Series = gauge(
    "holdfast_store_findings",
    "What the keeper's last pass found missing, corrupt, tampered with, divergent or foreign.",
    STORE,
);
const COPIES: Series = gauge(
    "holdfast_source_copies",
    "Copies of the source in a store, by its keeper's last pass.",
    &["namespace", "source", "store"],
);
const MISSING: Series = gauge(
    "holdfast_source_missing_copies",
    "Copies that a store is to have and lacks, counted once for each store; absent where no copy goes to several stores.",
    SOURCE,
);
const INTACT: Series = gauge(
    "holdfast_source_intact",
    "1 if keepers found what was written and nothing else (condition Intact), else 0; absent before a first pass.",
    SOURCE,
);
const BLOCKED: Series = gauge(
    "holdfast_source_deletion_blocked_seconds",
    "For how long nothing of the source is removed from a store, and why; absent while nothing is in the way.",
    &["namespace", "source", "store", "reason"],
);
const COMPLIANT: Series = gauge(
    "holdfast_source_compliant",
    "1 if the source misses no floor of the compliance policies that select its namespace, else 0; absent where none does.",
    SOURCE,
);
const HOLD_EFFECTIVE: Series = gauge(
    "holdfast_hold_effective",
    "1 if the hold keeps what it names (condition Effective), else 0; absent once it is released. A hold of the cluster has no namespace.",
    &["namespace", "hold"],
);
const GUARD: Series = gauge(
    "holdfast_guard_in_place",
    "1 if this admission policy of the chart exists and is bound as the chart has it, else 0.",
    &["guard"],
);
const RUNS: Series = gauge("holdfast_runs", "Objects of runs by phase.", &["phase"]);
const UNREADABLE: Series = gauge(
    "holdfast_unreadable_objects",
    "Objects that do not fit this version's schema, by kind.",
    &["kind"],
);

const ALL: &[&Series] = &[
    &NEWEST_COPY,
    &RPO,
    &PROTECTED,
    &LAST_SUCCESS,
    &LAST_FAILURE,
    &SOURCE_NEXT,
    &SUSPENDED,
    &SCHEDULE_READY,
    &SCHEDULE_NEXT,
    &SCHEDULE_SOURCES,
    &TICKS,
    &STORE_READY,
    &STORE_PASS,
    &STORE_KEPT,
    &STORE_FINDINGS,
    &COPIES,
    &MISSING,
    &INTACT,
    &BLOCKED,
    &COMPLIANT,
    &HOLD_EFFECTIVE,
    &GUARD,
    &RUNS,
    &UNREADABLE,
];

/// The gauges of all objects, in the text form of Prometheus. A fleet has a hundred thousand of them: they are written as text at once, and
/// never held in any other form.
#[derive(Clone, Debug)]
pub struct Objects {
    caches: Arc<Caches>,
    clock: ServerClock,
}

/// When the last run of a source ended well, and when badly, in seconds since 1970.
#[derive(Clone, Copy, Default)]
struct Ends {
    success: f64,
    failure: f64,
}

impl Objects {
    pub const fn new(caches: Arc<Caches>, clock: ServerClock) -> Self {
        Self { caches, clock }
    }

    /// The families that there are, each a text.
    pub fn families(&self) -> Vec<String> {
        // Before the first lists are in, an absent series is true and a zero would not be.
        if !self.caches.ready() {
            return Vec::new();
        }
        let mut families = Families::default();
        self.runs_and_sources(&mut families);
        for schedule in self.caches.schedules.each() {
            let (namespace, name) = identity(&*schedule);
            let labels = [namespace.as_str(), name.as_str()];
            let status = schedule.status.as_ref();
            let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
            families.add(&SUSPENDED, &labels, flag(schedule.spec.suspend));
            families.add(&SCHEDULE_READY, &labels, flag(ready(conditions)));
            families.add(
                &SCHEDULE_NEXT,
                &labels,
                seconds(status.and_then(|status| status.next_tick.as_deref())),
            );
            families.add(&SCHEDULE_SOURCES, &labels, count(status.map_or(0, |status| status.sources)));
            for trigger in status.map(|status| status.triggers.as_slice()).unwrap_or_default() {
                for (result, ticks) in [
                    ("fired", trigger.fired),
                    ("skipped", trigger.skipped),
                    ("missed", trigger.missed),
                    ("dropped", trigger.dropped),
                ] {
                    families.add(&TICKS, &[&namespace, &name, &trigger.name, result], count(ticks));
                }
            }
        }
        for store in self.caches.every_store() {
            let (Key { namespace, .. }, name) = (store.key(), label(&store.reference()));
            let conditions = store.conditions();
            families.add(&STORE_READY, &[&namespace, &name], flag(ready(conditions)));
            let keeper = store.status().and_then(|status| status.keeper.as_ref());
            let pass = keeper.and_then(|keeper| keeper.last_pass.as_ref());
            let ended = seconds(pass.map(|pass| pass.finished_at.as_str()));
            families.add(&STORE_PASS, &[&namespace, &name], ended);
            // Judged now and not when the status was written: also of passes that nobody makes any more.
            let overdue = count(self.clock.now().as_second()) - ended > PASS_OVERDUE;
            families.add(&STORE_KEPT, &[&namespace, &name], flag(holds_true(conditions, "Kept") && !overdue));
            let found = pass.map_or(0, |pass| pass.summary.findings);
            families.add(&STORE_FINDINGS, &[&namespace, &name], count(found));
        }
        self.compliance(&mut families);
        for (kind, unreadable) in [
            ("ComplianceHold", self.caches.holds.unreadable_count()),
            ("ClusterComplianceHold", self.caches.cluster_holds.unreadable_count()),
            ("ClusterBackupSchedule", self.caches.cluster_schedules.unreadable_count()),
            ("CompliancePolicy", self.caches.policies.unreadable_count()),
            ("DisposalRequest", self.caches.disposals.unreadable_count()),
            ("RetentionPreview", self.caches.previews.unreadable_count()),
            ("BackupSource", self.caches.sources.unreadable_count()),
            ("BackupStore", self.caches.stores.unreadable_count()),
            ("ClusterBackupStore", self.caches.cluster_stores.unreadable_count()),
            ("BackupSchedule", self.caches.schedules.unreadable_count()),
            ("BackupRun", self.caches.runs.unreadable_count()),
            ("RestoreRequest", self.caches.restores.unreadable_count()),
        ] {
            families.add(&UNREADABLE, &[kind], count(i64::try_from(unreadable).unwrap_or(i64::MAX)));
        }
        families.finish()
    }

    fn compliance(&self, families: &mut Families) {
        let holds = self.caches.holds.all();
        let holds = holds
            .iter()
            .map(|hold| (identity(&**hold), hold.status.clone().unwrap_or_default()));
        let cluster = self.caches.cluster_holds.all();
        let cluster = cluster
            .iter()
            .map(|hold| (identity(&**hold), hold.status.clone().unwrap_or_default()));
        let released = |conditions: &[Condition]| conditions.iter().any(|condition| condition.reason == Reason::HoldReleased.as_str());
        for ((namespace, name), status) in holds.chain(cluster).filter(|(_, status)| !released(&status.conditions)) {
            families.add(
                &HOLD_EFFECTIVE,
                &[&namespace, &name],
                flag(holds_true(&status.conditions, "Effective")),
            );
        }
        if !self.caches.guard_prefix.is_empty() {
            for (guard, wrong) in guards::states(&self.caches) {
                families.add(&GUARD, &[guard], flag(wrong.is_none()));
            }
        }
    }

    fn runs_and_sources(&self, families: &mut Families) {
        let mut ends: HashMap<(String, String), Ends> = HashMap::new();
        let mut phases: HashMap<&'static str, i64> = HashMap::new();
        for run in self.caches.runs.each() {
            let Some(status) = run.status.as_ref() else {
                *phases.entry(RunPhase::Pending.as_str()).or_default() += 1;
                continue;
            };
            *phases.entry(status.phase.as_str()).or_default() += 1;
            if !status.phase.ended() {
                continue;
            }
            let ended = seconds(status.completion_time.as_deref());
            let held = ends
                .entry((run.namespace().unwrap_or_default(), run.spec.source.clone()))
                .or_default();
            match status.phase {
                RunPhase::Succeeded => held.success = held.success.max(ended),
                RunPhase::Failed => held.failure = held.failure.max(ended),
                _ => {}
            }
        }
        for phase in [
            RunPhase::Pending,
            RunPhase::Running,
            RunPhase::Settling,
            RunPhase::Succeeded,
            RunPhase::Failed,
            RunPhase::Cancelled,
        ] {
            families.add(&RUNS, &[phase.as_str()], count(phases.get(phase.as_str()).copied().unwrap_or(0)));
        }
        let now = self.clock.now();
        for source in self.caches.sources.each() {
            let identity = identity(&*source);
            let known = ends.get(&identity).copied().unwrap_or_default();
            add_source(families, &source, &identity, known, now);
        }
    }
}

fn add_source(families: &mut Families, source: &BackupSource, identity: &(String, String), known: Ends, now: Timestamp) {
    let labels = [identity.0.as_str(), identity.1.as_str()];
    let status = source.status.as_ref();
    let newest = status.and_then(|status| status.newest_copy.as_ref());
    let newest = newest.map(|copy| copy.recovery_point.as_str());
    let implausible = status.and_then(|status| status.implausible_copy.as_ref());
    let rpo = status.and_then(|status| status.rpo_seconds);
    let created = source
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    // Judged now and not when the status was written, so that it is true also while nothing can write.
    let protection = Protection::of(
        &Evidence {
            created,
            newest: newest.and_then(|newest| newest.parse().ok()),
            implausible: implausible.and_then(|copy| copy.recovery_point.parse().ok()),
            rpo: rpo.map(SignedDuration::from_secs),
        },
        now,
    );
    let last = status.and_then(|status| status.last_run.as_ref());
    let last_as = |phase| last.filter(|run| run.phase == phase).map(|run| run.completion_time.as_str());
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "Compliant") {
        families.add(&COMPLIANT, &labels, flag(holds_true(conditions, "Compliant")));
    }
    if conditions.iter().any(|condition| condition.type_ == "Intact") {
        families.add(&INTACT, &labels, flag(holds_true(conditions, "Intact")));
    }
    if let Some(missing) = status.and_then(|status| status.missing_copies) {
        families.add(&MISSING, &labels, count(missing));
    }
    for entry in status.map(|status| status.stores.as_slice()).unwrap_or_default() {
        let [namespace, name] = labels;
        let store = label(&entry.reference());
        families.add(&COPIES, &[namespace, name, &store], count(entry.copies));
        if let (Some(blocked), Some(since)) = (&entry.blocked, &entry.blocked_since) {
            let since = since.parse().unwrap_or(now);
            let blocked_for = count(now.duration_since(since).as_secs().max(0));
            families.add(&BLOCKED, &[namespace, name, &store, blocked.reason.as_str()], blocked_for);
        }
    }
    // No new copies of it are asked for. What it has, and what policies demand of it, is told as before.
    if source.spec.retire.is_some() {
        return;
    }
    families.add(&NEWEST_COPY, &labels, seconds(newest));
    families.add(&RPO, &labels, count(rpo.unwrap_or(0)));
    families.add(&PROTECTED, &labels, flag(protection.is_protected()));
    let success = known.success.max(seconds(last_as(RunPhase::Succeeded)));
    // The objects of its runs may be gone: then the copy still shows that one succeeded.
    let success = if success > 0.0 { success } else { seconds(newest) };
    families.add(&LAST_SUCCESS, &labels, success);
    families.add(&LAST_FAILURE, &labels, known.failure.max(seconds(last_as(RunPhase::Failed))));
    families.add(
        &SOURCE_NEXT,
        &labels,
        seconds(status.and_then(|status| status.next_tick.as_deref())),
    );
}

/// A store as labels name it: a store of the namespace may have the name of one of the cluster.
fn label(store: &StoreReference) -> String {
    match store.kind {
        StoreKind::BackupStore => store.name.clone(),
        StoreKind::ClusterBackupStore => format!("{}/{}", store.kind.as_str(), store.name),
    }
}

fn identity<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn ready(conditions: &[Condition]) -> bool {
    holds_true(conditions, "Ready")
}

fn holds_true(conditions: &[Condition], kind: &str) -> bool {
    conditions
        .iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

#[allow(clippy::cast_precision_loss, reason = "counts and seconds stay far below 2^53")]
fn count(number: i64) -> f64 {
    number as f64
}

/// Seconds since 1970 of an RFC 3339 time; 0 for none.
fn seconds(time: Option<&str>) -> f64 {
    let parsed = time.and_then(|time| time.parse::<Timestamp>().ok());
    parsed.map_or(0.0, |time| count(time.as_second()))
}

/// The lines of each family by its name.
#[derive(Default)]
struct Families(HashMap<&'static str, String>);

impl Families {
    fn add(&mut self, series: &Series, values: &[&str], value: f64) {
        let text = self.0.entry(series.name).or_insert_with(|| {
            let kind = if series.counter { "counter" } else { "gauge" };
            format!("# HELP {0} {1}\n# TYPE {0} {kind}\n", series.name, series.help)
        });
        text.push_str(series.name);
        for (index, (label, held)) in series.labels.iter().zip(values).enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            for c in held.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{} {value}", if series.labels.is_empty() { "" } else { "}" });
    }

    /// In the order of [`ALL`].
    fn finish(mut self) -> Vec<String> {
        ALL.iter().filter_map(|series| self.0.remove(series.name)).collect()
    }
}

#[cfg(test)]
#[path = "objects_test.rs"]
mod tests;

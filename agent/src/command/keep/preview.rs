//! Previews: what a pass would do, also at a later time and under rules that are not applied yet. Nothing is written, and a reader's rights suffice.

use std::collections::HashMap;
use std::io::stdout;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use holdfast_crds::document::{Label, RunPath, ScheduleName};
use holdfast_crds::{
    Action, AgentResult, BackupSchedule, BackupStore, BackupType, ClusterBackupStore, FrozenStore, KeepPreview, KeepSummary, KeepTask,
    PreviewCounts, ProposedRules, Reason, Retention, StoreKind, StoreReference, TASK_VERSION, Task,
};
use holdfast_policy::hold::Candidate;
use holdfast_policy::retention::{SourceFacts, SourcePlan, preview};
use holdfast_policy::tick::{Expression, Seed, Zone, longest_interval};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::disposing::Disposing;
use super::facts::propose;
use super::inventory::SourceFolder;
use super::lock::{known_lock, legal_hold};
use super::report::Report;
use super::show::{Json, Table};
use super::source::{Documents, copy_reports};
use super::{Pass, read::State, run_reporting};
use crate::command::backup::freeze;
use crate::config::{Invocation, Places, read_document, read_task};
use crate::result::Failure;

/// Clocks may be so far apart before a time is called past.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// Look after a store: take stock, record how long copies are kept, mark and remove what nothing keeps
///
/// In a Job's pod the task comes from the operator. By hand, `--preview` tells what a pass would do, with a reason for every copy: nothing is
/// written or deleted, and the rights of a reader suffice. It goes by the rules, holds, acknowledgements and locks that lie in the store.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES
    What would go now, and on New Year's Eve:
        holdfast-agent keep --preview --store store.yaml --store-secret ./s3
        holdfast-agent keep --preview --store store.yaml --store-secret ./s3 --at 2026-12-31
    In CI, for a change of a schedule that is not applied yet; fails if any copy would go because of it:
        holdfast-agent keep --preview --store store.yaml --store-secret ./s3 --policy schedule.yaml --at 2027-01-31 --fail-on-removal")]
pub struct KeepArgs {
    /// Only tell what would be done
    #[arg(long, requires = "store")]
    pub preview: bool,
    /// Manifest of the BackupStore or ClusterBackupStore, instead of a task
    #[arg(long, value_name = "FILE", requires = "preview")]
    pub store: Option<PathBuf>,
    /// As if it were then, and keepers had come as usual: a date (its beginning in UTC), or a time as in 2026-12-31T08:00:00Z; by default now
    #[arg(long, value_name = "DATE", requires = "preview")]
    pub at: Option<String>,
    /// Rules to try: the manifest of a BackupSchedule, or what stands under `retention` in one, which then is tried for every schedule; may be given several times
    #[arg(long, value_name = "FILE", requires = "preview")]
    pub policy: Vec<PathBuf>,
    /// Only this namespace, or this source: NAMESPACE or NAMESPACE/SOURCE
    #[arg(long, value_name = "NAMESPACE[/SOURCE]", requires = "preview")]
    pub source: Option<String>,
    /// How it is told
    #[arg(long, value_enum, default_value_t = Output::Table, requires = "preview")]
    pub output: Output,
    /// End with reason RemovalForeseen if a copy would go; with --policy only if one would that stays under the rules in force
    #[arg(long, requires = "preview")]
    pub fail_on_removal: bool,
    /// Where files lie
    #[command(flatten)]
    pub places: Places,
}

/// How a preview is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line for each copy.
    Table,
    /// One JSON document.
    Json,
}

impl KeepArgs {
    /// The task: read, or made from manifests.
    pub fn task(&self) -> Result<Task, Failure> {
        let Some(store) = &self.store else {
            return read_task(&self.places.task);
        };
        let (store, workplace) = described(store)?;
        let now = Timestamp::now();
        let proposed = self.policy.iter().map(|file| proposed(file, &store.reference(), now));
        let (namespace, source) = self.source.as_deref().map(scope).transpose()?.unwrap_or_default();
        let preview = KeepPreview {
            request: None,
            at: self.at.as_deref().map(|at| moment(at, now)).transpose()?,
            namespace,
            source,
            proposed: proposed.collect::<Result<_, _>>()?,
        };
        let keep = KeepTask {
            now,
            preview: Some(preview),
            ..KeepTask::default()
        };
        Ok(Task {
            version: TASK_VERSION,
            // Nothing is claimed.
            cluster: String::new(),
            namespace: workplace,
            store,
            action: Action::Keep(Box::new(keep)),
        })
    }
}

fn invalid(message: String) -> Failure {
    Failure::new(Reason::InvalidSpec, message)
}

/// The store of a manifest of either kind, as its keeper uses it, and the namespace that its keeper works in.
fn described(file: &Path) -> Result<(FrozenStore, String), Failure> {
    let said: Value = read_document("the store", file)?;
    if said["kind"] == StoreKind::ClusterBackupStore.as_str() {
        let store: ClusterBackupStore = read_document("the ClusterBackupStore", file)?;
        let frozen = FrozenStore {
            kind: StoreKind::ClusterBackupStore,
            name: store.metadata.name.unwrap_or_default(),
            uid: store.metadata.uid.unwrap_or_default(),
            spec: store.spec.for_maintenance(),
        };
        return Ok((frozen, store.spec.maintenance.namespace));
    }
    let store: BackupStore = read_document("the BackupStore", file)?;
    let namespace = store.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    Ok((freeze(store), namespace))
}

fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let date = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok();
    let at = date().map(|date| date.timestamp()).or_else(|| text.parse().ok()).ok_or_else(|| {
        invalid(format!(
            "--at: found {text:?}, expected a date as in 2026-12-31 or a time as in 2026-12-31T08:00:00Z"
        ))
    })?;
    if now.duration_since(at) > TOLERANCE {
        return Err(invalid(format!(
            "--at: found {text}, which is over; what went is known to the records in the store, so name a time to come or leave it out"
        )));
    }
    Ok(at)
}

fn scope(text: &str) -> Result<(Option<Label>, Option<Label>), Failure> {
    let label = |what: &'static str, text: &str| Label::new(what, text).map_err(|error| invalid(format!("--source: {error}")));
    match text.split_once('/') {
        Some((namespace, source)) => Ok((Some(label("namespace", namespace)?), Some(label("source", source)?))),
        None => Ok((Some(label("namespace", text)?), None)),
    }
}

/// The rules of a file: those of a schedule for this store, or rules alone.
fn proposed(file: &Path, store: &StoreReference, now: Timestamp) -> Result<ProposedRules, Failure> {
    let said: Value = read_document("the policy", file)?;
    let wrong = |problem: String| invalid(format!("--policy {}: {problem}", file.display()));
    if said.get("kind").is_none() && said.get("apiVersion").is_none() {
        let part = said
            .get("retention")
            .filter(|_| said.as_object().is_some_and(|fields| fields.len() == 1));
        return Ok(ProposedRules {
            schedule: None,
            retention: Retention::checked(part.unwrap_or(&said)).map_err(|problem| wrong(format!("retention.{problem}")))?,
            time_zone: None,
            interval_seconds: None,
        });
    }
    let kind = said["kind"].as_str().unwrap_or_default();
    if kind != "BackupSchedule" {
        return Err(wrong(format!(
            "kind: found {kind:?}, expected a BackupSchedule, or what stands under `retention` in one"
        )));
    }
    let places = said.pointer("/spec/stores").and_then(Value::as_array).cloned().unwrap_or_default();
    let reference = |place: &Value| {
        let kind = place["kind"].as_str().unwrap_or(StoreKind::BackupStore.as_str());
        Some(format!("{kind} {}", place["name"].as_str()?))
    };
    let wanted = store.to_string();
    let place = places
        .iter()
        .find(|place| reference(place).as_ref() == Some(&wanted))
        .ok_or_else(|| {
            let names: Vec<_> = places.iter().filter_map(reference).collect();
            wrong(format!(
                "spec.stores: found {}, expected an entry for the {store} that --store describes",
                names.join(", ")
            ))
        })?;
    let retention = place.get("retention").map(Retention::checked).transpose();
    let retention = retention.map_err(|problem| wrong(format!("spec.stores[{}].retention.{problem}", store.name)))?;
    let schedule: BackupSchedule = read_document("the BackupSchedule", file)?;
    let zone = Zone::named(&schedule.spec.time_zone).map_err(|error| wrong(format!("spec.timeZone: {error}")))?;
    let name = ScheduleName {
        namespace: Some(schedule.metadata.namespace.unwrap_or_else(|| "default".to_owned())),
        name: schedule.metadata.name.unwrap_or_default(),
    };
    let seed = Seed::of_source(name.namespace.as_deref().unwrap_or_default(), &name.name);
    let full = schedule.spec.triggers.iter().filter(|trigger| trigger.type_ == BackupType::Full);
    let crons = full.map(|trigger| {
        let expression: Result<Expression, _> = trigger.cron.parse();
        expression
            .map(|expression| expression.resolve(&seed))
            .map_err(|error| wrong(format!("spec.triggers[{}].cron: {error}", trigger.name)))
    });
    let interval = longest_interval(&crons.collect::<Result<Vec<_>, _>>()?, &zone, now);
    Ok(ProposedRules {
        schedule: Some(name),
        retention: retention.unwrap_or_default(),
        time_zone: Some(schedule.spec.time_zone),
        interval_seconds: interval.and_then(|interval| u64::try_from(interval.as_secs()).ok()),
    })
}

/// Previews, tells it, and fails where that was asked for.
pub async fn run(invocation: &Invocation, output: Output, gate: bool) -> Result<AgentResult, Failure> {
    let Action::Keep(task) = &invocation.task.action else {
        return Err(Failure::new(Reason::InternalError, "a preview has another task"));
    };
    // The lines are for the operator.
    let report = Report::new(Box::new(|_: &str| {}));
    let report = match output {
        Output::Table => report.previewing(Box::new(Table::default())),
        Output::Json => report.previewing(Box::new(Json::new(stdout(), invocation.task.store.name.clone(), task))),
    };
    let result = run_reporting(invocation, task, report).await?;
    let going = gate.then(|| going(task, &result)).flatten();
    going.map_or(Ok(result), Err)
}

/// Why a preview fails that was asked to fail for copies that go; none where it has no reason to.
fn going(task: &KeepTask, result: &AgentResult) -> Option<Failure> {
    let counts = result.kept.as_ref()?.preview?;
    let (going, because) = match &task.preview {
        Some(preview) if !preview.proposed.is_empty() => (counts.more, " because of the proposed rules"),
        _ => (counts.marked + counts.removed, ""),
    };
    (going > 0).then(|| {
        let message = format!("{going} copies would go{because}; --fail-on-removal asks to fail then");
        Failure::new(Reason::RemovalForeseen, message)
    })
}

/// The end of a preview in one line.
pub(super) fn told(summary: &KeepSummary, counts: &PreviewCounts, task: &KeepTask) -> String {
    let preview = task.preview.as_ref();
    let when = preview
        .and_then(|preview| preview.at)
        .map_or("now".to_owned(), |at| format!("at {at}"));
    let because = match preview {
        Some(preview) if !preview.proposed.is_empty() => {
            format!(
                "; because of the proposed rules {} more would go ({} bytes) and {} would stay",
                counts.more, counts.more_bytes, counts.fewer
            )
        }
        _ => String::new(),
    };
    format!(
        "{when}, of {} copies of {} sources {} would stay, {} would be marked ({} bytes), {} removed ({} bytes){because}; removal stands still for {} sources, {} findings",
        summary.copies,
        summary.sources,
        counts.kept,
        counts.marked,
        counts.marked_bytes,
        counts.removed,
        counts.removed_bytes,
        summary.blocked,
        summary.findings
    )
}

impl Pass<'_> {
    /// Tells what would become of a source.
    pub(super) fn preview(&mut self, preview: &KeepPreview, folder: &SourceFolder, documents: &Documents) {
        let in_force = self.foresee(preview.at, &[], folder, documents);
        let before: Option<HashMap<_, _>> = (!preview.proposed.is_empty()).then(|| {
            let copies = copy_reports(&in_force.0, &in_force.1);
            copies.into_iter().map(|copy| (copy.run, copy.state)).collect()
        });
        let (facts, plan) = match &before {
            None => in_force,
            Some(_) => self.foresee(preview.at, &preview.proposed, folder, documents),
        };
        let mut copies = copy_reports(&facts, &plan);
        for copy in &mut copies {
            let before = before.as_ref().and_then(|before| before.get(&copy.run)).copied();
            copy.in_force = before.filter(|before| *before != copy.state);
        }
        let disposing = Disposing::begun(folder, &documents.runs, self.task, self.now);
        disposing.show(&documents.runs, &mut copies);
        self.seals.look(folder, &documents.runs, &mut copies, &mut self.report);
        self.amiss(folder, &facts, &plan, &disposing);
        if let Some(source) = self.tell(folder, documents, &facts, &plan, (0, facts.copies.len() as u64), &copies) {
            copies.reverse();
            self.report.preview(&source, &copies);
        }
    }

    fn foresee(
        &self,
        at: Option<Timestamp>,
        proposed: &[ProposedRules],
        folder: &SourceFolder,
        documents: &Documents,
    ) -> (SourceFacts, SourcePlan) {
        let mut facts = self.gathered(folder, documents).facts();
        let runs: HashMap<_, _> = documents.runs.iter().map(|run| (&run.path.run, run)).collect();
        for copy in &mut facts.copies {
            copy.locked_until = known_lock(runs[&copy.run]);
            copy.legal_hold = legal_hold(runs[&copy.run]);
        }
        propose(&mut facts, proposed, &folder.namespace);
        let at = at.unwrap_or(self.now);
        let plan = preview(&facts, at, |copy, then| {
            let run = runs[&copy.run];
            let State::Copy(_) = &run.state else { return Vec::new() };
            let place: &RunPath = &run.path;
            let place = place.to_string();
            let candidate = Candidate {
                namespace: folder.namespace.as_str(),
                source: folder.source.as_str(),
                run: &place,
                recovery_point: copy.recovery_point,
            };
            self.holds.of(&candidate, &run.records, then)
        });
        (facts, plan)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::command::{Cli, Command};
    use crate::result::plain;

    fn task(arguments: &[&str]) -> Result<KeepTask, Failure> {
        let Action::Keep(task) = task_of("store.yaml", arguments)?.action else {
            panic!()
        };
        Ok(*task)
    }

    fn task_of(manifest: &str, arguments: &[&str]) -> Result<Task, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &Value| std::fs::write(directory.path().join(name), value.to_string()).unwrap();
        let store = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": {"name": "offsite", "namespace": "shop"},
            "spec": {"volume": {"claimName": "disk"}, "encryption": {"none": {}}}});
        write("store.yaml", &store);
        let vault = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterBackupStore", "metadata": {"name": "offsite"},
            "spec": {"s3": {"bucket": "b"}, "encryption": {"none": {}}, "allowedNamespaces": {"names": ["shop"]},
                "credentials": {"writer": {"secretName": "w"}},
                "maintenance": {"namespace": "stores", "credentials": {"secretName": "k"}}}});
        write("vault.yaml", &vault);
        let schedule = |stores: Value| {
            json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSchedule", "metadata": {"name": "gold", "namespace": "shop"},
                "spec": {"sources": {"names": ["orders"]}, "stores": stores, "timeZone": "Europe/Paris",
                    "triggers": [{"name": "nightly", "cron": "0 2 * * *"}, {"name": "logs", "type": "Log", "cron": "*/5 * * * *"}]}})
        };
        let cluster = json!({"name": "offsite", "kind": "ClusterBackupStore", "retention": {"daily": 2}});
        write(
            "schedule.yaml",
            &schedule(json!([{"name": "near", "retention": {"daily": 1}}, cluster, {"name": "offsite", "retention": {"daily": 7}}])),
        );
        write("elsewhere.yaml", &schedule(json!([{"name": "near"}])));
        write("zero.yaml", &schedule(json!([{"name": "offsite", "retention": {"daily": 0}}])));
        write("rules.yaml", &json!({"monthly": 12}));
        write("part.yaml", &json!({"retention": {"monthly": 12}}));
        write("typo.yaml", &json!({"montly": 12}));
        let here = |argument: &&str| {
            if argument.contains(".yaml") {
                directory.path().join(argument).display().to_string()
            } else {
                (*argument).to_owned()
            }
        };
        let all = ["holdfast-agent", "keep", "--preview", "--store", manifest];
        let Command::Keep(keep) = Cli::try_parse_from(all.iter().chain(arguments).map(here)).unwrap().command else {
            panic!()
        };
        keep.task()
    }

    #[test]
    fn by_hand_a_store_of_the_cluster_is_what_its_keeper_uses_and_has_rules_of_its_own() {
        let task = task_of("vault.yaml", &["--policy", "schedule.yaml"]).unwrap();
        assert_eq!(
            (task.namespace.as_str(), task.store.kind),
            ("stores", StoreKind::ClusterBackupStore)
        );
        let credentials = serde_json::to_value(&task.store.spec.credentials).unwrap();
        assert_eq!(credentials, json!({"secretName": "k"}), "those of maintenance");
        let Action::Keep(keep) = task.action else { panic!() };
        let preview = keep.preview.unwrap();
        assert_eq!((preview.namespace, preview.proposed[0].retention.daily), (None, Some(2)));
        let elsewhere = task_of("vault.yaml", &["--policy", "elsewhere.yaml"]).unwrap_err();
        assert!(
            elsewhere.message.contains("for the ClusterBackupStore offsite"),
            "{}",
            elsewhere.message
        );
    }

    #[test]
    fn by_hand_a_preview_takes_a_time_a_scope_and_rules_to_try() {
        let preview = task(&[
            "--at",
            "2999-12-31",
            "--source",
            "shop/orders",
            "--policy",
            "schedule.yaml",
            "--policy",
            "rules.yaml",
            "--policy",
            "part.yaml",
        ]);
        let preview = preview.unwrap().preview.unwrap();
        assert_eq!(preview.at.unwrap().to_string(), "2999-12-31T00:00:00Z");
        assert_eq!(preview.source.unwrap().as_str(), "orders");
        let [schedule, rules, part] = &preview.proposed[..] else {
            panic!("{:?}", preview.proposed)
        };
        assert_eq!(schedule.schedule.as_ref().unwrap().name, "gold");
        assert_eq!(
            (schedule.retention.daily, schedule.time_zone.as_deref()),
            (Some(7), Some("Europe/Paris"))
        );
        assert_eq!(
            schedule.interval_seconds,
            Some(25 * 3_600),
            "a night in spring and autumn is counted"
        );
        assert_eq!((rules.schedule.as_ref(), rules.retention.monthly), (None, Some(12)));
        assert_eq!(part, rules);
        for (wrong, says) in [
            (&["--at", "yesterday"][..], "--at: found \"yesterday\", expected a date"),
            (&["--at", "2020-01-01"], "--at: found 2020-01-01, which is over"),
            (&["--source", "Shop"], "--source: "),
            (
                &["--policy", "elsewhere.yaml"],
                "spec.stores: found BackupStore near, expected an entry for the BackupStore offsite",
            ),
            (
                &["--policy", "zero.yaml"],
                "spec.stores[offsite].retention.daily: found 0, expected 1 to 3660",
            ),
            (&["--policy", "typo.yaml"], "retention.montly: there is no such rule"),
            (
                &["--policy", "store.yaml"],
                "kind: found \"BackupStore\", expected a BackupSchedule",
            ),
            (&["--policy", "none.yaml"], "read the policy from "),
        ] {
            let refused = task(wrong).unwrap_err();
            assert_eq!(refused.reason, Reason::InvalidSpec);
            assert!(refused.message.contains(says), "{}", refused.message);
        }
    }

    #[test]
    fn the_gate_asks_for_what_goes_because_of_proposed_rules_or_for_all_that_goes() {
        let plain_task = task(&[]).unwrap();
        let proposing = task(&["--policy", "rules.yaml"]).unwrap();
        let result = |marked, removed, more| AgentResult {
            kept: Some(KeepSummary {
                preview: Some(PreviewCounts {
                    marked,
                    removed,
                    more,
                    ..PreviewCounts::default()
                }),
                ..KeepSummary::default()
            }),
            ..plain(Reason::Succeeded, "")
        };
        assert!(going(&plain_task, &result(0, 0, 0)).is_none());
        assert!(going(&plain_task, &result(1, 0, 0)).is_some());
        assert!(going(&plain_task, &result(0, 1, 0)).is_some());
        assert!(going(&proposing, &result(5, 2, 0)).is_none(), "it would go anyhow");
        assert!(
            going(&proposing, &result(5, 2, 1))
                .unwrap()
                .message
                .starts_with("1 copies would go because")
        );
    }
}

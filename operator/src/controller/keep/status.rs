//! What a store's status says of its keeper. Pure.

use holdfast_crds::{
    BackupStoreStatus, Class, ConditionType, Finding, KeepLine, KeepSummary, KeeperStatus, PassStatus, Reason, STORE_FINDINGS, StoreHolds,
    conditions, shortened, whole_seconds,
};
use jiff::Timestamp;

use super::{
    catalogue::{Strays, bounded},
    counted,
};
use crate::{job::End, store::Store};

/// The condition types that the keeper's controller sets; the others are left as they are.
pub const OWN: [ConditionType; 2] = [ConditionType::Kept, ConditionType::Intact];
/// Holds and disposals that are listed, as the schema has it.
pub const HOLDS_TOLD: usize = 200;
const DISPOSALS: usize = 50;
const MESSAGE: usize = 1_024;

/// What there is to say.
pub enum Phase<'a> {
    /// A pass is counted, and its Job is made next.
    Started { number: i64, told: String, read_only: bool },
    /// Its pod does not start, for a reason that is not the usual way.
    Waiting { reason: Reason, message: &'a str },
    /// It ended, or could not be.
    Failed { reason: Reason, message: String },
    /// It ended, and its report was read.
    Passed {
        end: &'a End,
        summary: &'a KeepSummary,
        report: &'a [KeepLine],
        strays: Strays,
    },
    /// It ended, and its report cannot be read.
    Unreadable {
        end: &'a End,
        summary: &'a KeepSummary,
        why: &'a str,
    },
    /// No pass can be made: the store is not used.
    Unusable { reason: Reason, message: String },
}

/// The status to be written.
pub fn status(store: &Store, phase: &Phase<'_>, now: Timestamp) -> BackupStoreStatus {
    let mut after = store.status().cloned().unwrap_or_default();
    let mut keeper = after.keeper.clone().map(|keeper| *keeper).unwrap_or_default();
    let now_text = whole_seconds(now).to_string();
    let mut findings = Vec::new();
    let kept = |status, reason, message: &str| Finding::new(ConditionType::Kept, status, reason, shortened(message, MESSAGE));
    match phase {
        Phase::Started { number, told, read_only } => {
            keeper = KeeperStatus {
                number: *number,
                told: told.clone(),
                started_at: Some(now_text),
                finished_at: None,
                read_only: *read_only,
                ..keeper
            };
            if keeper.last_pass.is_none() && keeper.failures == 0 {
                findings.push(Finding::unknown(
                    ConditionType::Kept,
                    Reason::Running,
                    "the keeper makes its first pass",
                ));
            }
        }
        Phase::Waiting { reason, message } => findings.push(kept(false, *reason, &format!("the keeper's pod does not start: {message}"))),
        Phase::Unusable { reason, message } => {
            findings.push(Finding::unknown(
                ConditionType::Kept,
                *reason,
                shortened(&format!("no pass is made: {message}"), MESSAGE),
            ));
        }
        Phase::Failed { reason, message } => {
            keeper.failures = keeper.failures.saturating_add(1);
            keeper.finished_at = Some(now_text);
            findings.push(kept(false, *reason, &format!("{message}; the next pass goes on")));
        }
        Phase::Unreadable { end, summary, why } => {
            keeper.failures = keeper.failures.saturating_add(1);
            keeper.finished_at = Some(now_text.clone());
            keeper.last_pass = Some(pass(end, summary, now_text));
            let message = format!("the pass ended with {}, but its report cannot be read: {why}", end.reason);
            findings.push(kept(false, Reason::ReportUnreadable, &message));
        }
        Phase::Passed {
            end,
            summary,
            report,
            strays,
        } => {
            let well = end.reason.class() == Class::Fine;
            keeper.failures = if well { 0 } else { keeper.failures.saturating_add(1) };
            keeper.finished_at = Some(now_text.clone());
            keeper.last_pass = Some(pass(end, summary, now_text));
            keeper.counted = counted::after(&keeper.counted, summary, report, well && !summary.cut.sources);
            let strays = strays.clone();
            (keeper.unknown_sources, keeper.unknown) = (strays.sources, strays.unknown);
            (keeper.vanished_namespaces, keeper.vanished) = (strays.namespaces, strays.vanished);
            let found = report.iter().filter_map(|line| match line {
                KeepLine::Finding(finding) => Some(bounded(finding)),
                _ => None,
            });
            keeper.findings = found.take(STORE_FINDINGS).collect();
            if !keeper.read_only {
                after.holds = Some(holds(summary, report));
            }
            findings.push(if well {
                kept(true, Reason::StoreKept, &told(summary, keeper.read_only))
            } else {
                kept(false, end.reason, &end.message)
            });
            findings.push(intact(&keeper, summary.findings));
        }
    }
    after.keeper = Some(Box::new(keeper));
    after.conditions = with_own(store, &findings, now);
    after
}

/// The conditions of the store with these of our own said anew; those that are not mentioned stay.
fn with_own(store: &Store, findings: &[Finding], now: Timestamp) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let before = store.conditions();
    let said = conditions(before, findings, store.generation(), now);
    let mut after: Vec<_> = before
        .iter()
        .filter(|condition| !said.iter().any(|said| said.type_ == condition.type_))
        .cloned()
        .chain(said.iter().cloned())
        .collect();
    // Those of the probe come first, each in one place.
    after.sort_by_key(|condition| {
        OWN.iter()
            .position(|own| own.as_str() == condition.type_)
            .map_or(0, |place| place + 1)
    });
    after
}

fn pass(end: &End, summary: &KeepSummary, finished_at: String) -> PassStatus {
    let mut summary = summary.clone();
    summary.notes.truncate(4);
    PassStatus {
        finished_at,
        reason: end.reason,
        summary,
    }
}

fn told(summary: &KeepSummary, read_only: bool) -> String {
    let blocked = match summary.blocked {
        0 => String::new(),
        blocked => format!("; nothing of {blocked} sources is removed, see status.stores[].blocked of each"),
    };
    let only = if read_only {
        "; another cluster owns the place, so it was only read"
    } else {
        ""
    };
    let sealed = match summary.seal_key {
        Some(_) => format!("{} sealed", summary.sealed),
        None => "unsealed".to_owned(),
    };
    let notes: Vec<&str> = summary.notes.iter().flat_map(|note| ["; ", note.as_str()]).collect();
    let notes = notes.concat();
    format!(
        "{} copies of {} sources: {} held, {} marked, {} removed, {sealed}{blocked}{only}{notes}",
        summary.copies, summary.sources, summary.held, summary.marked, summary.removed
    )
}

fn intact(keeper: &KeeperStatus, count: i64) -> Finding {
    match keeper.findings.first() {
        None => Finding::new(
            ConditionType::Intact,
            true,
            Reason::CatalogueIntact,
            "the last pass found what was written, and nothing else",
        ),
        Some(first) => {
            let place = first.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
            let more = if count > 1 {
                format!("; and {} more, see status.keeper.findings", count - 1)
            } else {
                String::new()
            };
            Finding::new(
                ConditionType::Intact,
                false,
                first.reason,
                format!("{place}{}{more}", first.message),
            )
        }
    }
}

fn holds(summary: &KeepSummary, report: &[KeepLine]) -> StoreHolds {
    let short = |problem: &Option<String>| problem.as_ref().map(|problem| shortened(problem, 256));
    let reports = report.iter().filter_map(|line| match line {
        KeepLine::Hold(hold) => Some(holdfast_crds::HoldReport {
            problem: short(&hold.problem),
            ..hold.clone()
        }),
        _ => None,
    });
    let disposals = report.iter().filter_map(|line| match line {
        KeepLine::Disposal(disposal) => Some(holdfast_crds::DisposalReport {
            problem: short(&disposal.problem),
            ..disposal.clone()
        }),
        _ => None,
    });
    StoreHolds {
        started_at: summary.started_at.clone(),
        reports: reports.take(HOLDS_TOLD).collect(),
        disposals: disposals.take(DISPOSALS).collect(),
    }
}

//! What the status of a preview says. Pure.

use holdfast_crds::{
    BlockedSource, Class, CopyReport, KeepLine, KeepSummary, PREVIEW_BLOCKED, PREVIEW_COPIES, Reason, RetentionPreview,
    RetentionPreviewStatus, RunPhase, STORE_FINDINGS, conditions, shortened, whole_seconds,
};
use jiff::Timestamp;

use super::build;
use crate::{
    controller::{carry_out, keep},
    job::End,
};

const MESSAGE: usize = 1_024;
const WHY: usize = 256;

/// What there is to say.
pub enum Phase<'a> {
    /// Its Job is made next.
    Begun,
    /// Its Job cannot be made.
    Refused {
        reason: Reason,
        message: &'a str,
    },
    /// It cannot begin until somebody changes something, or its pod does not run yet.
    Waiting {
        reason: Reason,
        message: &'a str,
    },
    Running,
    /// It ended, with a summary and the lines of its report, or why there are none.
    Ended {
        end: &'a End,
        report: Option<(&'a KeepSummary, keep::Read)>,
    },
}

/// The status to be written.
pub fn status(preview: &RetentionPreview, phase: &Phase<'_>, now: Timestamp) -> RetentionPreviewStatus {
    let before = preview.status.clone().unwrap_or_default();
    let mut after = RetentionPreviewStatus {
        observed_generation: preview.metadata.generation,
        ..before.clone()
    };
    let now_text = whole_seconds(now).to_string();
    let (reason, message) = match phase {
        Phase::Begun => {
            after.phase = RunPhase::Pending;
            after.job = Some(build::name(preview));
            after.start_time = Some(now_text.clone());
            (Reason::Pending, "waiting for its pod".to_owned())
        }
        Phase::Waiting { reason, message } => {
            after.phase = RunPhase::Pending;
            (*reason, (*message).to_owned())
        }
        Phase::Running => {
            after.phase = RunPhase::Running;
            (Reason::Running, "the store is being read".to_owned())
        }
        Phase::Refused { reason, message } => {
            after.phase = RunPhase::Failed;
            (*reason, (*message).to_owned())
        }
        Phase::Ended { end, report } => ended(&mut after, end, report.as_ref()),
    };
    if after.phase.ended() {
        after.completion_time = Some(now_text);
    }
    after.reason = Some(reason);
    after.message = Some(shortened(&message, MESSAGE));
    let findings = carry_out::status::findings(after.phase, after.reason, after.message.as_deref());
    after.conditions = conditions(&before.conditions, &findings, preview.metadata.generation, now);
    after
}

fn ended(after: &mut RetentionPreviewStatus, end: &End, report: Option<&(&KeepSummary, keep::Read)>) -> (Reason, String) {
    let well = end.reason.class() == Class::Fine;
    let Some((summary, lines)) = report.filter(|_| well) else {
        after.phase = RunPhase::Failed;
        let (reason, message) = end.without(&end.message);
        return (
            reason,
            format!("{message}; make a new preview with another name once that is mended"),
        );
    };
    after.phase = RunPhase::Succeeded;
    after.as_of = Some(summary.started_at.clone());
    (after.sources, after.copies, after.bytes) = (summary.sources, summary.copies, summary.bytes);
    after.counts = summary.preview;
    let mut message = end.message.clone();
    match lines {
        Ok(lines) => list(after, lines),
        // The counts came by another way.
        Err(why) => {
            let job = after.job.clone().unwrap_or_default();
            message = format!("{message}; the copies are not listed here, see kubectl logs job/{job}: {why}");
        }
    }
    after.not_listed = after.copies.saturating_sub(i64::try_from(after.listed.len()).unwrap_or(i64::MAX));
    (Reason::Succeeded, message)
}

fn list(after: &mut RetentionPreviewStatus, lines: &[KeepLine]) {
    for line in lines {
        match line {
            KeepLine::Copy(copy) if after.listed.len() < PREVIEW_COPIES => after.listed.push(CopyReport {
                why: shortened(&copy.why, WHY),
                ..copy.clone()
            }),
            KeepLine::Source(source) if after.blocked.len() < PREVIEW_BLOCKED => {
                after.blocked.extend(source.blocked.clone().map(|blocked| BlockedSource {
                    namespace: source.namespace.clone(),
                    source: source.source.clone(),
                    blocked,
                }));
            }
            KeepLine::Finding(finding) if after.findings.len() < STORE_FINDINGS => after.findings.push(keep::bounded(finding)),
            _ => {}
        }
    }
}

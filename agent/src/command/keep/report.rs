//! The report of a pass: lines in the log that the operator reads, and their summary.

use holdfast_crds::{HoldReport, Reason, SourceReport};
use holdfast_crds::{KEEP_LINE, KeepLine, KeepSummary, StoreFinding};
use jiff::Timestamp;

use crate::command::lines::{Lines, Sink};

/// The most notes of a summary.
const NOTES: usize = 4;
/// The most findings that are told one by one.
const FINDINGS: i64 = 200;

/// A report that is being written.
pub struct Report {
    lines: Lines,
    pub summary: KeepSummary,
    again: Option<Timestamp>,
    stopped_at: Option<String>,
}

impl Report {
    pub fn new(sink: Sink) -> Self {
        Self {
            lines: Lines::new(KEEP_LINE, sink),
            summary: KeepSummary::default(),
            again: None,
            stopped_at: None,
        }
    }

    /// Prints to standard output, beside the log's own lines.
    pub fn to_stdout() -> Self {
        Self::new(Box::new(|line| println!("{line}")))
    }

    pub fn line(&mut self, line: &KeepLine) {
        if let Err(length) = self.lines.add(line) {
            self.note(format!("a line of {length} bytes was left out of the report"));
        }
    }

    pub fn source(&mut self, report: SourceReport) {
        let summary = &mut self.summary;
        summary.sources += 1;
        summary.copies += report.copies;
        summary.bytes = summary.bytes.saturating_add(report.bytes);
        summary.marked += report.marked;
        summary.removed += report.removed;
        summary.held += report.held;
        summary.blocked += i64::from(report.blocked.is_some());
        self.line(&KeepLine::Source(report));
    }

    pub fn hold(&mut self, report: HoldReport) {
        self.line(&KeepLine::Hold(report));
    }

    pub fn finding(&mut self, reason: Reason, place: Option<String>, message: impl Into<String>) {
        self.summary.findings += 1;
        if self.summary.findings > FINDINGS {
            return;
        }
        let message = crate::result::shorten(&message.into(), 512);
        tracing::warn!(%reason, place = place.as_deref().unwrap_or_default(), message, "finding");
        self.line(&KeepLine::Finding(StoreFinding { reason, place, message }));
    }

    /// What could not be done at all. Each is told once.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = crate::result::shorten(&note.into(), 200);
        if self.summary.notes.len() < NOTES && !self.summary.notes.contains(&note) {
            self.summary.notes.push(note);
        }
    }

    /// What could not be done now can be done then.
    pub fn again(&mut self, at: Timestamp) {
        self.again = self.again.into_iter().chain([at]).min();
    }

    /// The time in which a pass may delete is over, at this source.
    pub fn out_of_time(&mut self, source: &str, now: Timestamp) {
        self.again(now);
        self.note("the time in which a pass may delete was over; the next pass goes on where it was");
        self.stopped_at.get_or_insert_with(|| source.to_owned());
    }

    pub fn finish(self) -> KeepSummary {
        let (lines, sha256) = self.lines.finish();
        KeepSummary {
            lines,
            sha256,
            again_at: self.again.map(|at| at.to_string()),
            stopped_at: self.stopped_at,
            ..self.summary
        }
    }
}

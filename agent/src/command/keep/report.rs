//! The report of a pass: lines in the log that the operator reads, and their summary.

use holdfast_crds::{HoldReport, Reason, SourceReport};
use holdfast_crds::{KEEP_LINE, KeepLine, KeepSummary, StoreFinding};

use crate::store::digest::Hasher;

/// The most bytes of one line: a log's line may be cut by a container runtime at 16 KiB.
const LINE_LIMIT: usize = 15 << 10;
/// The most notes of a summary.
const NOTES: usize = 4;
/// The most findings that are told one by one.
const FINDINGS: i64 = 200;

/// Where lines go: standard output, or a list in tests.
pub type Sink = Box<dyn FnMut(&str) + Send + Sync>;

/// A report that is being written.
pub struct Report {
    sink: Sink,
    hasher: Hasher,
    pub summary: KeepSummary,
}

impl Report {
    pub fn new(sink: Sink) -> Self {
        Self {
            sink,
            hasher: Hasher::new(),
            summary: KeepSummary::default(),
        }
    }

    /// Prints to standard output, beside the log's own lines.
    pub fn to_stdout() -> Self {
        Self::new(Box::new(|line| println!("{line}")))
    }

    pub fn line(&mut self, line: &KeepLine) {
        let Ok(text) = serde_json::to_string(line) else { return };
        if text.len() > LINE_LIMIT {
            self.note(format!("a line of {} bytes was left out of the report", text.len()));
            return;
        }
        let text = format!("{KEEP_LINE}{text}");
        self.hasher.update(text.as_bytes());
        self.hasher.update(b"\n");
        self.summary.lines += 1;
        (self.sink)(&text);
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

    pub fn finish(self) -> KeepSummary {
        KeepSummary {
            sha256: self.hasher.finish().to_string(),
            ..self.summary
        }
    }
}

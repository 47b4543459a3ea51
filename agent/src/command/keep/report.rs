//! The report of a pass: lines in the log that the operator reads, and their summary.

use std::collections::{BTreeMap, btree_map::Entry};

use holdfast_crds::{
    CopyReport, HoldReport, KEEP_LINE, KeepLine, KeepSummary, MoreFindings, PREVIEW_BLOCKED, PREVIEW_COPIES, PreviewCounts, Reason,
    SealedCopy, SourceReport, StoreFinding,
};
use jiff::Timestamp;

use crate::command::lines::{Lines, Sink};

/// The most notes of a summary.
const NOTES: usize = 4;
/// The most findings that are told one by one, beside the first of each source.
const FINDINGS: i64 = 200;

/// Shows a preview whole, as it comes.
pub trait Show: Send + Sync {
    /// A source with all of its copies, the newest first.
    fn source(&mut self, source: &SourceReport, copies: &[CopyReport]);
    fn finding(&mut self, finding: &StoreFinding);
    /// The end.
    fn end(&mut self, summary: &KeepSummary);
}

/// What a preview tells at its end: a log that is cut loses its beginning. All of it is bounded.
struct Preview {
    show: Box<dyn Show>,
    going: Vec<CopyReport>,
    staying: Vec<CopyReport>,
    blocked: Vec<SourceReport>,
    findings: Vec<StoreFinding>,
    counts: PreviewCounts,
}

/// A report that is being written.
pub struct Report {
    lines: Lines,
    pub summary: KeepSummary,
    again: Option<Timestamp>,
    stopped_at: Option<String>,
    preview: Option<Preview>,
    /// The sources (`<namespace>/<source>`) that have findings, and how many of them were not told.
    untold: BTreeMap<String, i64>,
}

impl Report {
    pub fn new(sink: Sink) -> Self {
        Self {
            lines: Lines::new(KEEP_LINE, sink),
            summary: KeepSummary::default(),
            again: None,
            stopped_at: None,
            preview: None,
            untold: BTreeMap::new(),
        }
    }

    /// The report of a preview, which `show` shows whole.
    #[must_use]
    pub fn previewing(self, show: Box<dyn Show>) -> Self {
        let preview = Preview {
            show,
            going: Vec::new(),
            staying: Vec::new(),
            blocked: Vec::new(),
            findings: Vec::new(),
            counts: PreviewCounts::default(),
        };
        Self {
            preview: Some(preview),
            ..self
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
        summary.sealed += report.sealed;
        summary.blocked += i64::from(report.blocked.is_some());
        if self.preview.is_none() {
            self.line(&KeepLine::Source(report));
        }
    }

    /// What would become of a source and each of its copies, the newest first.
    pub fn preview(&mut self, source: &SourceReport, copies: &[CopyReport]) {
        let Some(preview) = &mut self.preview else { return };
        preview.show.source(source, copies);
        for copy in copies {
            preview.counts.add(copy);
            let list = if copy.state.goes() {
                &mut preview.going
            } else {
                &mut preview.staying
            };
            if list.len() < PREVIEW_COPIES {
                list.push(CopyReport {
                    run: format!("{}/{}/{}", source.namespace, source.source, copy.run),
                    ..copy.clone()
                });
            }
        }
        if source.blocked.is_some() && preview.blocked.len() < PREVIEW_BLOCKED {
            preview.blocked.push(SourceReport {
                newest_copies: Vec::new(),
                ..source.clone()
            });
        }
    }

    /// A copy that was sealed after its source had been told of.
    pub fn sealed(&mut self, sealed: SealedCopy) {
        self.summary.sealed += 1;
        self.line(&KeepLine::Sealed(sealed));
    }

    pub fn hold(&mut self, report: HoldReport) {
        if self.preview.is_none() {
            self.line(&KeepLine::Hold(report));
        }
    }

    pub fn finding(&mut self, reason: Reason, place: Option<String>, message: impl Into<String>) {
        self.summary.findings += 1;
        let over = self.summary.findings > FINDINGS;
        if !self.first_of_its_source(place.as_deref(), over) && over {
            return;
        }
        let message = crate::result::shorten(&message.into(), 512);
        tracing::warn!(%reason, place = place.as_deref().unwrap_or_default(), message, "finding");
        let finding = StoreFinding { reason, place, message };
        match &mut self.preview {
            Some(preview) => {
                preview.show.finding(&finding);
                preview.findings.push(finding);
            }
            None => self.line(&KeepLine::Finding(finding)),
        }
    }

    /// Whether no other finding of its source was there before: that one is told in any case, so that no source looks intact that is not.
    fn first_of_its_source(&mut self, place: Option<&str>, over: bool) -> bool {
        let mut names = place.unwrap_or_default().split('/');
        let (Some(namespace), Some(source), None) = (names.next(), names.next(), &self.preview) else {
            return false;
        };
        match self.untold.entry(format!("{namespace}/{source}")) {
            Entry::Vacant(first) => {
                first.insert(0);
                true
            }
            Entry::Occupied(mut untold) => {
                *untold.get_mut() += i64::from(over);
                false
            }
        }
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

    pub fn finish(mut self) -> KeepSummary {
        if let Some(mut preview) = self.preview.take() {
            self.summary.preview = Some(preview.counts);
            preview.show.end(&self.summary);
            let staying = PREVIEW_COPIES - preview.going.len();
            preview.staying.truncate(staying);
            let findings = preview.findings.into_iter().map(KeepLine::Finding);
            let sources = preview.blocked.into_iter().map(KeepLine::Source);
            let copies = preview.going.into_iter().chain(preview.staying).map(KeepLine::Copy);
            findings.chain(sources).chain(copies).for_each(|line| self.line(&line));
        }
        for (place, count) in std::mem::take(&mut self.untold) {
            if count > 0 {
                self.line(&KeepLine::MoreFindings(MoreFindings { place, count }));
            }
        }
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

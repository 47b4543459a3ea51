//! How previews are shown to people and programs.

use std::io::Write;

use holdfast_crds::{CopyReport, CopyState, KeepSummary, KeepTask, SourceReport, StoreFinding};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::report::Show;

/// A line for each copy, as it comes.
pub struct Table<W> {
    to: W,
    any: bool,
}

impl Default for Table<std::io::Stdout> {
    fn default() -> Self {
        Self::new(std::io::stdout())
    }
}

impl<W: Write> Table<W> {
    pub fn new(to: W) -> Self {
        Self { to, any: false }
    }

    fn copy(&mut self, source: &SourceReport, copy: &CopyReport) -> std::io::Result<()> {
        let CopyReport {
            run,
            type_,
            recovery_point,
            bytes,
            why,
            ..
        } = copy;
        let place = format!("{}/{}/{run}", source.namespace, source.source);
        let until = copy.kept_until.as_deref().unwrap_or("-");
        let state = word(copy.state);
        let instead = copy.in_force.map(|state| format!("now {}; ", word(state))).unwrap_or_default();
        writeln!(
            self.to,
            "{place:<72} {type_:<12} {recovery_point:<20} {bytes:>14} {state:<8} {until:<20} {instead}{why}"
        )
    }
}

/// What becomes of a copy, in a word.
const fn word(state: CopyState) -> &'static str {
    match state {
        CopyState::Kept => "kept",
        CopyState::Held => "held",
        CopyState::Marked => "marked",
        CopyState::Removing => "removed",
        CopyState::NotGood => "not good",
        CopyState::Shredded => "shredded",
    }
}

impl<W: Write + Send + Sync> Show for Table<W> {
    fn source(&mut self, source: &SourceReport, copies: &[CopyReport]) {
        // Whoever does not listen any more misses nothing: the exit code tells the end.
        if !self.any {
            self.any = true;
            let _ = writeln!(
                self.to,
                "{:<72} {:<12} {:<20} {:>14} {:<8} {:<20} WHY",
                "COPY", "TYPE", "RECOVERY POINT", "BYTES", "BECOMES", "KEPT UNTIL"
            );
        }
        for copy in copies {
            let _ = self.copy(source, copy);
        }
        if let Some(blocked) = &source.blocked {
            let _ = writeln!(
                self.to,
                "{}/{}: removal stands still, {}: {}",
                source.namespace, source.source, blocked.reason, blocked.message
            );
        }
    }

    fn finding(&mut self, finding: &StoreFinding) {
        let place = finding.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let _ = writeln!(self.to, "{place}{}: {}", finding.reason, finding.message);
    }

    fn end(&mut self, _: &KeepSummary) {
        let _ = self.to.flush();
    }
}

/// One document, at the end.
pub struct Json<W> {
    to: W,
    store: String,
    at: Timestamp,
    proposed: bool,
    sources: Vec<Value>,
    findings: Vec<StoreFinding>,
}

impl<W: Write> Json<W> {
    pub fn new(to: W, store: String, task: &KeepTask) -> Self {
        let preview = task.preview.as_ref();
        Self {
            to,
            store,
            at: preview.and_then(|preview| preview.at).unwrap_or(task.now),
            proposed: preview.is_some_and(|preview| !preview.proposed.is_empty()),
            sources: Vec::new(),
            findings: Vec::new(),
        }
    }
}

impl<W: Write + Send + Sync> Show for Json<W> {
    fn source(&mut self, source: &SourceReport, copies: &[CopyReport]) {
        self.sources.push(json!({
            "namespace": source.namespace, "source": source.source, "blocked": source.blocked, "emptySlots": source.empty_slots,
            "copies": copies,
        }));
    }

    fn finding(&mut self, finding: &StoreFinding) {
        self.findings.push(finding.clone());
    }

    fn end(&mut self, summary: &KeepSummary) {
        let document = json!({
            "store": self.store, "at": self.at.to_string(), "storeTime": summary.started_at, "proposedRules": self.proposed,
            "counts": summary.preview, "sources": self.sources, "findings": self.findings, "notes": summary.notes,
        });
        // As above.
        let _ = writeln!(self.to, "{document:#}").and_then(|()| self.to.flush());
    }
}

//! What an agent leaves in its pod's termination message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CopyPass, CopySummary, KeepSummary, ProbeReport, Reason, RestoreSummary};

/// The longest termination message that Kubernetes keeps, in bytes.
pub const RESULT_LIMIT: usize = 4_096;

/// How an agent's work ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentResult {
    /// [`crate::TASK_VERSION`].
    pub version: u32,
    /// `Succeeded`, `AlreadyDone`, or why it failed.
    pub reason: Reason,
    /// The last error and the next step, at most 1 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether the end is certain for ever. For backup and settle: the register is closed, committed or given up. For a restore: its
    /// receipt is in the target, or nothing of it was put in place and nothing can be any more. What is not closed is settled.
    ///
    /// A settle Job answers `Succeeded` or `AlreadyDone` with `copy` (or `restored`), or `Abandoned` and closed; where it does not give
    /// up and finds nothing, `CopyNotFound` and not closed: another attempt may follow. A settle of a restore that finds no receipt
    /// answers `CopyNotFound` too. Any other answer means that it could not find out, and it is asked again.
    #[serde(default)]
    pub closed: bool,
    /// The copy that was committed, or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopySummary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoreSummary>,
    /// What a keeper did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeepSummary>,
    /// What a copy Job did. `reason` is `Succeeded` where the pass ended and nothing needs a person; where it ended and something does, the
    /// first problem's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<CopyPass>,
}

impl AgentResult {
    /// The JSON for the termination message, at most [`RESULT_LIMIT`] bytes: names, notes and messages are shortened where needed.
    pub fn to_termination_message(&self) -> String {
        let mut result = self.clone();
        result.message = crate::shortened(&result.message, 1_024);
        loop {
            let text = serde_json::to_string(&result).unwrap_or_default();
            if text.len() <= RESULT_LIMIT || !result.shrink() {
                return text;
            }
        }
    }

    /// Drops the least important detail that is left; false if there is none.
    fn shrink(&mut self) -> bool {
        if let Some(copy) = &mut self.copy
            && (copy.database_names.pop().is_some() || copy.notes.pop().is_some())
        {
            return true;
        }
        if let Some(restored) = &mut self.restored
            && (restored.skipped.pop().is_some() || restored.database_names.pop().is_some())
        {
            return true;
        }
        if let Some(check) = self
            .probe
            .iter_mut()
            .flat_map(|probe| &mut probe.checks)
            .find(|check| check.message.len() > 64)
        {
            check.message = crate::shortened(&check.message, 64);
            return true;
        }
        if self.message.len() > 128 {
            self.message = crate::shortened(&self.message, 128);
            return true;
        }
        false
    }
}

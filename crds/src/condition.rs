//! Conditions in the shape of `metav1.Condition`, with types and reasons from closed lists.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::Reason;

/// The condition types that Holdfast sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionType {
    /// The object was accepted and is worked on (kstatus: `Current`).
    Ready,
    /// The object failed for good, or cannot go on until somebody acts.
    Stalled,
    /// A source's newest copy is young enough.
    Protected,
    /// The newest finished run of a schedule or source succeeded.
    LastRunSucceeded,
    /// A source misses no floor of the compliance policies that select its namespace.
    Compliant,
    /// The admission policies that refuse in a compliance policy's name are in place.
    Enforced,
    /// A hold's records were read back, and no keeper older than it can still delete.
    Effective,
    /// What a disposal request names is gone, and a certificate remains.
    Disposed,
    /// The keeper's last pass over a store ended well.
    Kept,
    /// What keepers read in the stores is as it was written.
    Intact,
    /// As many stores as are required have each copy.
    Replicated,
}

impl ConditionType {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Stalled => "Stalled",
            Self::Protected => "Protected",
            Self::LastRunSucceeded => "LastRunSucceeded",
            Self::Compliant => "Compliant",
            Self::Enforced => "Enforced",
            Self::Effective => "Effective",
            Self::Disposed => "Disposed",
            Self::Kept => "Kept",
            Self::Intact => "Intact",
            Self::Replicated => "Replicated",
        }
    }
}

/// The longest message of a condition, in bytes.
pub const MESSAGE_LIMIT: usize = 2_048;

/// Cuts a text to at most `limit` bytes at a character's border, and marks the cut.
pub fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// What a condition is to say now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: ConditionType,
    pub status: Option<bool>,
    pub reason: Reason,
    pub message: String,
}

impl Finding {
    pub fn new(kind: ConditionType, status: bool, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Some(status),
            reason,
            message: message.into(),
        }
    }

    /// A condition whose status is `Unknown`.
    pub fn unknown(kind: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: None,
            reason,
            message: message.into(),
        }
    }
}

/// The conditions that say `findings`, where those of `before` with the same status keep their transition time, so
/// that saying the same again changes nothing. Conditions of other types than `findings` names are dropped.
pub fn conditions(before: &[Condition], findings: &[Finding], generation: Option<i64>, now: jiff::Timestamp) -> Vec<Condition> {
    findings
        .iter()
        .map(|finding| {
            let status = match finding.status {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let since = before
                .iter()
                .find(|old| old.type_ == finding.kind.as_str() && old.status == status)
                .map_or_else(|| Time(whole_seconds(now)), |old| old.last_transition_time.clone());
            Condition {
                type_: finding.kind.as_str().to_owned(),
                status: status.to_owned(),
                reason: finding.reason.as_str().to_owned(),
                message: shortened(&finding.message, MESSAGE_LIMIT),
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

/// The API server keeps whole seconds; a finer time would differ from what it gives back.
pub fn whole_seconds(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let say = |status, reason| [Finding::new(ConditionType::Ready, status, reason, "x")];
        let first = conditions(&[], &say(true, Reason::Accepted), Some(1), at(10));
        let same = conditions(&first, &say(true, Reason::Running), Some(2), at(20));
        assert_eq!(same[0].last_transition_time.0, at(10));
        assert_eq!(same[0].reason, "Running");
        let other = conditions(&same, &say(false, Reason::InvalidSpec), Some(2), at(30));
        assert_eq!(other[0].last_transition_time.0, at(30));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let cut = shortened(&"é".repeat(3_000), MESSAGE_LIMIT);
        assert!(cut.len() <= MESSAGE_LIMIT && cut.ends_with('…'));
    }
}

//! How the attempts of a run or a restore follow one another: a pure decision, taken anew from the status and what is seen of the Jobs
//! at each step, so that whoever is killed in between goes on where things stand.
//!
//! - An attempt is counted in the status before its Job is made; the Job's name is derived, so that making it twice makes it once.
//! - What ends in doubt (a lost pod, a result that cannot be read, a Job that somebody deleted) goes through a settle Job, which asks
//!   the store's register (a restore: the target), before another attempt starts or the end is told.
//! - Where no further attempt comes, the settle Job also closes the register, so that no zombie can commit any more.
//! - Where no container ever ran, there is nothing to settle.

mod decide;
mod settle;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use holdfast_crds::{AgentResult, Attempt, Reason, RunPhase, Settle, Span, shortened, whole_seconds};
use holdfast_policy::name::JobPurpose;
use jiff::{SignedDuration, Timestamp};

use crate::job::JobState;

pub use decide::decide;

/// How long after its own time an attempt is given to say so, before its Job is deleted.
pub const DEADLINE_GRACE: SignedDuration = SignedDuration::from_secs(60);
/// How long one settle Job may take, from its creation.
pub const SETTLE_TIMEOUT: SignedDuration = SignedDuration::from_mins(10);
/// How many attempts of one run or restore the cluster may take away before that counts like a failure.
pub const DISRUPTION_LIMIT: i32 = 5;
/// How many settle Jobs in a row may find nothing out, before the outcome is called unknown.
pub const SETTLE_LIMIT: i32 = 4;
/// How long a run waits for its turn.
pub const QUEUED_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How often an unknown outcome is asked for again, and for how long.
pub const UNKNOWN_INTERVAL: SignedDuration = SignedDuration::from_hours(1);
pub const UNKNOWN_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How soon Kubernetes is asked again.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(12);
/// The same after a while: why a pod does not start is passed on within 30 s, whenever Kubernetes says it.
const LOOK_SELDOM: SignedDuration = SignedDuration::from_secs(25);
/// The longest message of an attempt, in bytes.
const MESSAGE_LIMIT: usize = 1_024;

/// How soon to look again at a Job that has waited so long for its pod to start: Kubernetes tells why in events alone, which no watch shows.
pub fn look_again(waited: SignedDuration) -> SignedDuration {
    (waited / 4).clamp(LOOK_AGAIN, LOOK_SELDOM)
}

/// What a run or restore remembers between steps: the part of its status that this module writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    pub phase: RunPhase,
    pub reason: Option<Reason>,
    pub message: Option<String>,
    pub attempts: Vec<Attempt>,
    pub settle: Option<Settle>,
    pub start_time: Option<String>,
    pub completion_time: Option<String>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Rules<'a> {
    /// Name of the run or request.
    pub name: &'a str,
    pub kind: Kind,
    /// How many attempts there may be, besides those that the cluster takes away.
    pub attempts: i32,
    /// The time that one has.
    pub timeout: Span,
    pub cancel: bool,
    /// How messages call that.
    pub cancelled_by: &'a str,
    /// Whether it was cancelled from its birth: then it may be an old object that was applied anew, and lost its status.
    pub born_cancelled: bool,
    /// When the object was made.
    pub created: Timestamp,
    /// What is in the way of the first attempt, if anything.
    pub obstacle: Option<Obstacle>,
}

/// Why the first attempt cannot begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: Reason,
    pub message: String,
    /// Whether waiting cannot help: the specification itself cannot be worked with, and cannot change.
    pub hopeless: bool,
}

impl Obstacle {
    /// Something that may go away; it is noticed by itself.
    pub fn passing(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            hopeless: false,
        }
    }

    /// Something that stays.
    pub fn hopeless(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            hopeless: true,
            ..Self::passing(reason, message)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Run,
    Restore,
}

impl Kind {
    const fn purpose(self) -> JobPurpose {
        match self {
            Self::Run => JobPurpose::Backup,
            Self::Restore => JobPurpose::Restore,
        }
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Restore => "restore",
        }
    }
}

/// What is seen now.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The Job of the newest attempt.
    pub attempt: JobState,
    /// The newest settle Job.
    pub settle: JobState,
    /// Whether the newest attempt's Job was deleted a moment ago by who asks, while nothing of the attempt had run by its status or was
    /// bound to a node.
    pub deleted_unbound: bool,
    /// Why the API server refused to create the Job that is missing, if it did.
    pub refused: Option<(Reason, String)>,
    /// The API server's time.
    pub now: Timestamp,
}

/// What to do: first `course` is written to the status, then `act` is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub course: Course,
    pub act: Option<Act>,
    /// When to decide again, if nothing changes before.
    pub again: Option<Timestamp>,
    /// The success that this step found.
    pub found: Option<AgentResult>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make the Job of the newest attempt.
    CreateAttempt,
    /// Make the newest settle Job.
    CreateSettle,
    /// Delete this Job and its pods.
    Delete { job: String, uid: Option<String> },
}

/// A time as the status holds it.
pub fn written(time: Timestamp) -> String {
    whole_seconds(time).to_string()
}

/// A time of the status. What nobody can read has passed long ago, so that nothing waits for it.
pub fn read(text: Option<&str>) -> Timestamp {
    text.and_then(|text| text.parse().ok()).unwrap_or(Timestamp::MIN)
}

fn after(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

fn short(text: &str) -> String {
    shortened(text, MESSAGE_LIMIT)
}

/// How many attempts there may be after these: as many as are `asked` for, and one more for each that the cluster took away.
pub fn at_most(asked: i32, attempts: &[Attempt]) -> i32 {
    let taken = attempts.iter().filter(|attempt| attempt.reason.is_some_and(Reason::is_disruption));
    let taken = i32::try_from(taken.count()).unwrap_or(DISRUPTION_LIMIT);
    asked.saturating_add(taken.min(DISRUPTION_LIMIT))
}

/// Whether a container of any attempt ran, or may have.
fn any_ran(course: &Course) -> bool {
    course.attempts.iter().any(|attempt| attempt.ran)
}

//! The one list of reasons: of conditions, events, metric labels, exit codes and runbook entries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What may be done about a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Nothing is wrong.
    Fine,
    /// It may go away by itself: another attempt, with a growing wait, is worth making.
    Transient,
    /// It stays until somebody changes something outside the object, and is then noticed by itself.
    Structural,
    /// This run or request is over; a new one is needed.
    Terminal,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $class:ident;)+) => {
        /// Why an object is in its state. A reason's number is the agent's exit code (0 where nothing is wrong).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Reason] = &[$(Reason::$name,)+];

            /// The name as conditions, events and labels show it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }

            /// The agent's exit code: 0 if nothing is wrong, else 1 to 125, unique.
            pub const fn exit_code(self) -> u8 {
                match self { $(Reason::$name => $code,)+ }
            }

            pub const fn class(self) -> Class {
                match self { $(Reason::$name => Class::$class,)+ }
            }

            /// What happened, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+).trim(),)+ }
            }
        }
    };
}

reasons! {
    /// The object was accepted and is being worked on.
    Accepted = 0, Fine;
    /// Waiting for its turn or for its Job's pod to start.
    Pending = 0, Fine;
    /// A Job is at work.
    Running = 0, Fine;
    /// The end of an attempt is in doubt; a Job asks the store what is true.
    Settling = 0, Fine;
    /// The wait before the next attempt.
    BackingOff = 0, Fine;
    /// Other runs come first; the message says which, or how many.
    Queued = 0, Fine;
    /// A keeper is at work that may not know yet that the copy is to be read; the restore begins when its pass has ended.
    KeeperAtWork = 0, Fine;
    /// The copy is committed, or the restore is in place.
    Succeeded = 0, Fine;
    /// The store, or the target database, shows that this was done before; nothing was done again.
    AlreadyDone = 0, Fine;
    /// The newest copy is younger than the objective.
    Protected = 0, Fine;
    /// The schedule is suspended and makes no runs.
    Suspended = 0, Fine;
    /// The store was tried and does what copies need.
    StoreReady = 0, Fine;
    /// The source misses no floor of the compliance policies that select its namespace.
    Compliant = 0, Fine;
    /// The admission policies that this release ships are in place.
    GuardsInPlace = 0, Fine;
    /// The hold's records were read back in each store, and no keeper older than it can still delete.
    HoldPlaced = 0, Fine;
    /// The hold was released, and its cool-off is over: it keeps nothing any more.
    HoldReleased = 0, Fine;
    /// The keeper's last pass over the store ended well.
    StoreKept = 0, Fine;
    /// The keeper found what was written, and nothing else.
    CatalogueIntact = 0, Fine;
    /// As many stores as are required have the copy.
    Replicated = 0, Fine;
    /// The protection of the source ended on purpose; the message says who ended it, and why.
    Retired = 0, Fine;
    /// Another person must approve first.
    AwaitingApproval = 0, Fine;

    /// There is no copy yet.
    NeverCopied = 0, Structural;
    /// The newest copy is older than the objective.
    CopyTooOld = 0, Structural;
    /// The structure of a copy could not be checked: it can be restored, but does not count as a good one.
    CopyUnproven = 0, Structural;
    /// No schedule makes copies of this source.
    NotScheduled = 0, Structural;
    /// The source misses a floor of a compliance policy; the message names each.
    FloorMissed = 0, Structural;
    /// An admission policy or definition that compliance depends on is missing or was loosened; the message names it.
    GuardMissing = 0, Structural;
    /// The hold's records were not read back in each store yet: a keeper that is at work may still delete what it names.
    HoldPending = 0, Transient;
    /// A hold or a lock stands against what was asked for; it goes on when that is gone.
    Deferred = 0, Transient;
    /// A tick passed without a run because the run before it was still in flight.
    RunInFlight = 0, Transient;
    /// Ticks passed while nothing could act on them, and were not all made up for.
    TicksMissed = 0, Transient;
    /// Ticks were later than the schedule's `startingDeadline` allows, and got no run.
    TicksDropped = 0, Transient;
    /// A schedule's watermark (it was set back to now) or a copy's recovery point (it does not count) lay in the future: a clock was wrong.
    ClockWasWrong = 0, Transient;
    /// A keeper's report cannot be read from its pod's log as it was written; the catalogue stays as the pass before left it.
    ReportUnreadable = 0, Transient;
    /// Something of a source's catalogue cannot be read; nothing of the source is removed.
    CatalogueUnreadable = 0, Structural;
    /// A keeper cannot be told all of what floors and restores keep, or of this source, or of a schedule of its copies; nothing of it is marked or removed.
    KeeperTaskTooLarge = 0, Structural;
    /// Copies that were in a store, or that others need, are not there any more; nothing of the source is removed.
    CopiesMissing = 0, Structural;
    /// The newest copy has less than half or more than double the size of those before it; nothing of the source is removed.
    SizeAnomalous = 0, Structural;
    /// The newest copies of a source come from another server than those before; the last good ones of the former stay until somebody accepts it.
    IdentityChanged = 0, Structural;
    /// Something lies in the store that Holdfast did not write; it is left alone.
    ForeignObject = 0, Structural;
    /// The store refuses to delete what nothing keeps; the next pass tries again.
    DeleteRefused = 0, Structural;
    /// The store refuses to set locks or legal holds; only Holdfast keeps these copies from being deleted.
    LockRefused = 0, Structural;
    /// More would be removed at once than was foreseen; it waits for a person's approval.
    RemovalNeedsApproval = 0, Structural;

    /// The specification cannot be worked with; the message names the field.
    InvalidSpec = 1, Structural;
    /// The named BackupSource does not exist.
    SourceNotFound = 2, Structural;
    /// The named store does not exist.
    StoreNotFound = 3, Structural;
    /// The schedule selects no source.
    NoSources = 4, Structural;
    /// Another object has the name that this run must have.
    NameTaken = 5, Structural;
    /// The store was not tried yet, so no run may use it.
    StoreNotProbed = 6, Structural;
    /// The named run does not exist.
    RunNotFound = 7, Structural;
    /// The run has no copy.
    RunHasNoCopy = 8, Structural;
    /// The named BackupSchedule does not exist.
    ScheduleNotFound = 9, Structural;
    /// The source's engine makes no copies of this type.
    TypeUnsupported = 21, Structural;
    /// The named ClusterBackupStore does not allow this namespace.
    StoreNotAllowed = 22, Structural;
    /// Stores of one run or schedule are not encrypted in the same way, so that none could be filled from another.
    StoresDisagree = 23, Structural;

    /// A Secret that the Job needs does not exist.
    SecretNotFound = 10, Structural;
    /// A Secret lacks a key that the Job needs.
    SecretKeyMissing = 11, Structural;
    /// The image cannot be pulled.
    ImagePullFailed = 12, Structural;
    /// No node can take the pod.
    Unschedulable = 13, Structural;
    /// A ResourceQuota refuses the pod.
    QuotaExceeded = 14, Structural;
    /// A LimitRange refuses the pod.
    LimitRangeRefused = 15, Structural;
    /// Pod Security admission refuses the pod.
    PodSecurityRefused = 16, Structural;
    /// An admission policy or webhook refuses a Job, its pod, a run or a schedule.
    AdmissionRefused = 17, Structural;
    /// A volume cannot be mounted.
    VolumeMountFailed = 18, Structural;
    /// The service account of the Job does not exist.
    ServiceAccountNotFound = 19, Structural;
    /// A container cannot be started.
    ContainerStartFailed = 20, Structural;

    /// The kernel ended a container for its memory limit.
    OutOfMemory = 25, Transient;
    /// The kubelet evicted the pod.
    Evicted = 26, Transient;
    /// The pod's node is gone.
    NodeLost = 27, Transient;
    /// Somebody deleted the pod.
    PodDeleted = 28, Transient;
    /// Somebody deleted the Job.
    JobDeleted = 29, Transient;
    /// The pod was asked to stop (drain, preemption, deletion) and stopped in order.
    Interrupted = 30, Transient;
    /// The time that one attempt has was over.
    DeadlineExceeded = 31, Transient;
    /// A container ended without a result that can be read.
    AgentCrashed = 32, Transient;
    /// There is no room in the pod's `/tmp`.
    ScratchFull = 33, Structural;

    /// No database host answers.
    DatabaseUnreachable = 40, Transient;
    /// The database refuses the user name or the password.
    DatabaseLoginFailed = 41, Structural;
    /// The database user lacks a right.
    DatabasePermissionDenied = 42, Structural;
    /// The connection to the database was lost while it was in use.
    DatabaseConnectionLost = 43, Transient;
    /// A lock was not granted in time.
    LockTimeout = 44, Transient;
    /// The server's version is not supported, or is newer than the tools of the image.
    VersionUnsupported = 45, Structural;
    /// The TLS connection to the database cannot be made as demanded.
    DatabaseTlsFailed = 46, Structural;
    /// No database matches what the source includes.
    NoDatabases = 47, Structural;
    /// The engine's dump tool failed.
    DumpFailed = 48, Transient;
    /// The dump ended before its structure was complete.
    DumpTruncated = 49, Transient;
    /// A tool of the engine is missing in the image.
    ToolMissing = 50, Structural;

    /// The store does not answer.
    StoreUnreachable = 60, Transient;
    /// The store refuses the credentials.
    StoreAccessDenied = 61, Structural;
    /// The bucket or the volume's folder does not exist.
    BucketNotFound = 62, Structural;
    /// The store does not keep what copies need (create if absent, checksums), and is not used.
    StoreUnsafe = 63, Structural;
    /// Another cluster, or another store object, owns this place.
    StoreForeign = 64, Structural;
    /// The store has no room left.
    StoreFull = 65, Structural;
    /// The store failed while it was in use, and went on failing.
    StoreFailed = 66, Transient;
    /// The store holds other bytes than those that were sent.
    ChecksumMismatch = 67, Transient;
    /// The clocks of store and cluster are more than 5 minutes apart.
    ClockSkew = 68, Structural;
    /// The end of the run cannot be read from the store; it is asked again hourly.
    OutcomeUnknown = 69, Transient;
    /// The run was given up in the store's register; nothing of it can be committed any more.
    Abandoned = 70, Terminal;
    /// The TLS connection to the store cannot be made as demanded.
    StoreTlsFailed = 71, Structural;
    /// The store holds something that this cluster cannot have written: a register older than its run, an owner that cannot be read.
    Tampered = 72, Terminal;
    /// Another store object of this cluster has this place, and this one is not used.
    LocationTaken = 73, Structural;

    /// The copy does not exist in the store.
    CopyNotFound = 80, Terminal;
    /// A part of the copy is missing or has other bytes than its manifest says.
    CopyCorrupt = 81, Terminal;
    /// The copy was written by a newer version, whose format this one does not know.
    FormatUnknown = 82, Structural;
    /// The key does not open the copy.
    WrongKey = 83, Terminal;
    /// The copy is encrypted and no key was given.
    KeyMissing = 84, Terminal;
    /// Two stores hold different manifests under one run's name: neither is a second copy of the other.
    Divergent = 85, Structural;
    /// The store had this run's copy, and it was removed since, or its keys were destroyed: its name is used up.
    CopyRemoved = 86, Terminal;

    /// The target database exists and holds objects of a user.
    TargetNotEmpty = 90, Terminal;
    /// Roles that own or may use objects do not exist in the target server.
    RolesMissing = 91, Terminal;
    /// Extensions that the copy needs are not available in the target server.
    ExtensionsMissing = 92, Terminal;
    /// The engine's restore tool failed.
    RestoreFailed = 93, Terminal;
    /// What was restored differs from what the manifest says.
    RestoreIncomplete = 94, Terminal;
    /// The selection names a database that the copy does not hold.
    DatabaseNotInCopy = 95, Terminal;
    /// A query of `spec.postRestore` failed.
    PostRestoreFailed = 96, Terminal;

    /// Somebody cancelled the run or the request.
    Cancelled = 100, Terminal;
    /// A defect of Holdfast: please report it with the log.
    InternalError = 101, Transient;
    /// The copy has no seal by a key that is trusted.
    Unsealed = 103, Terminal;
    /// A preview found copies that would go, and was asked to fail then.
    RemovalForeseen = 102, Terminal;
}

impl Reason {
    /// The reason that an agent's exit code stands for, if it is one of ours.
    pub fn from_exit_code(code: i32) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| code != 0 && i32::from(reason.exit_code()) == code)
    }

    /// Whether it tells of a store, such that each run would meet it, and not of one run.
    pub const fn is_about_the_store(self) -> bool {
        matches!(
            self,
            Self::StoreUnreachable
                | Self::StoreAccessDenied
                | Self::BucketNotFound
                | Self::StoreUnsafe
                | Self::StoreForeign
                | Self::StoreFull
                | Self::StoreFailed
                | Self::ChecksumMismatch
                | Self::ClockSkew
                | Self::StoreTlsFailed
        )
    }

    /// Whether another attempt may succeed without anybody's help.
    pub const fn worth_retrying(self) -> bool {
        matches!(self.class(), Class::Transient)
    }

    /// Whether the cluster took the pod away: a drain, a preemption, an eviction, a lost node, a deleted pod. No fault of what it worked on.
    pub const fn is_disruption(self) -> bool {
        matches!(self, Self::Evicted | Self::NodeLost | Self::PodDeleted | Self::Interrupted)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn exit_codes_are_unique_and_in_range() {
        let failures: Vec<_> = Reason::ALL.iter().filter(|reason| reason.exit_code() != 0).collect();
        assert!(failures.iter().all(|reason| reason.exit_code() <= 125));
        assert_eq!(
            failures.iter().map(|reason| reason.exit_code()).collect::<HashSet<_>>().len(),
            failures.len()
        );
        for reason in failures {
            assert_eq!(Reason::from_exit_code(reason.exit_code().into()), Some(*reason));
            assert_ne!(reason.class(), Class::Fine, "{reason}");
        }
        assert_eq!(Reason::from_exit_code(0), None);
        assert_eq!(Reason::from_exit_code(137), None);
    }

    #[test]
    fn each_reason_says_what_happened() {
        for reason in Reason::ALL {
            assert!(reason.meaning().ends_with('.'), "{reason}: {}", reason.meaning());
            assert!(!reason.meaning().contains('\n'), "{reason}");
        }
    }
}

//! What can go wrong with a store, and what is to be done about it.

use super::path::InvalidPath;
use holdfast_crds::Reason;
use std::time::Duration;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may be gone in a moment: try again with growing pauses.
    Transient,
    /// Something outside must change first (a right, a quota, a bucket): look again now and then.
    Structural,
    /// Trying again cannot help.
    Terminal,
}

/// What a call to a store can fail with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The path is not one that a store may hold.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// The store's settings cannot be used. Names the field and the remedy.
    #[error("store settings cannot be used: {field}: {problem}")]
    Settings {
        /// The field at fault.
        field: &'static str,
        /// What was found and what is expected.
        problem: String,
    },
    /// Nobody answered: name resolution, connection, TLS, reset or silence. Whether the call was carried out is unknown, unless `connected` is false.
    #[error("no answer from the store while doing {call}: {problem}")]
    Unreachable {
        /// The call.
        call: &'static str,
        /// What the network layer said.
        problem: String,
        /// Whether a connection was made, so that the store may have carried out the call.
        connected: bool,
        /// Whether it failed in the TLS handshake.
        tls: bool,
    },
    /// The store answered that it cannot serve now (5xx, `SlowDown`, 429).
    #[error("the store is busy or failing: {call} got {status} {code}")]
    Busy {
        /// The call.
        call: &'static str,
        /// HTTP status.
        status: u16,
        /// The store's own code.
        code: String,
    },
    /// The store does not accept the credentials.
    #[error("the store does not accept the credentials: {call} got {status} {code}")]
    Credentials {
        /// The call.
        call: &'static str,
        /// HTTP status.
        status: u16,
        /// The store's own code.
        code: String,
    },
    /// The credential files are missing or unreadable.
    #[error("credentials cannot be read: {problem}")]
    CredentialFiles {
        /// Which file, what was found, what is expected.
        problem: String,
    },
    /// The credentials are good, but not for this call.
    #[error("the store refuses {call} on {path:?}: {status} {code}: the account lacks a right (docs/stores.md lists them)")]
    Denied {
        /// The call.
        call: &'static str,
        /// Where.
        path: String,
        /// HTTP status.
        status: u16,
        /// The store's own code.
        code: String,
    },
    /// The bucket or directory is not there.
    #[error("{name} does not exist")]
    NoSuchStore {
        /// Bucket or directory.
        name: String,
    },
    /// Something has this name already (the answer to a create).
    #[error("{path} exists already")]
    AlreadyExists {
        /// Where.
        path: String,
    },
    /// Another create of the same name was under way; nothing was decided.
    #[error("another create of {path} was under way")]
    Conflict {
        /// Where.
        path: String,
    },
    /// The object is not there.
    #[error("{path} does not exist")]
    NotFound {
        /// Where.
        path: String,
    },
    /// The store knows this multipart upload no longer: completed, aborted or cleared away.
    #[error("the upload of {path} is not known any more")]
    UploadLost {
        /// Where.
        path: String,
    },
    /// The store has no room (quota, disk full).
    #[error("the store is full: {problem}")]
    Full {
        /// What it said.
        problem: String,
    },
    /// Our clock and the store's differ too much for signatures.
    #[error("the clocks differ: here {here}, the store says {there}; set the node's clock")]
    ClockSkew {
        /// Our time.
        here: String,
        /// The store's time.
        there: String,
    },
    /// What was sent did not arrive as it was sent.
    #[error("{path} arrived damaged: {problem}")]
    Damaged {
        /// Where.
        path: String,
        /// Expected and found.
        problem: String,
    },
    /// What the store confirms is not what was written.
    #[error("the store holds something else at {path} than what was written: {problem}")]
    Mismatch {
        /// Where.
        path: String,
        /// Expected and found.
        problem: String,
    },
    /// It could not be found out whether a create took effect.
    #[error("it is not known whether {path} was written: {source}")]
    InDoubt {
        /// Where.
        path: String,
        /// The last error.
        source: Box<StoreError>,
    },
    /// The store cannot do what is needed.
    #[error("the store cannot do {call}: {problem}")]
    Unsupported {
        /// The call.
        call: &'static str,
        /// What is missing.
        problem: String,
    },
    /// The store's answer makes no sense.
    #[error("the store's answer to {call} makes no sense: {problem}")]
    Malformed {
        /// The call.
        call: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The store refused the call for a reason that has no variant of its own.
    #[error("the store refuses {call} on {path:?}: {status} {code}: {message}")]
    Refused {
        /// The call.
        call: &'static str,
        /// Where.
        path: String,
        /// HTTP status.
        status: u16,
        /// The store's own code.
        code: String,
        /// The store's own words, cut.
        message: String,
    },
    /// A listing does not add up.
    #[error("the listing of {prefix:?} does not add up: {problem}")]
    Listing {
        /// What was listed.
        prefix: String,
        /// What is wrong.
        problem: String,
    },
    /// An object is larger than what is accepted for its kind.
    #[error("{path} has {size} bytes, at most {limit} are expected")]
    TooLarge {
        /// Where.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file system failed.
    #[error("{call} on {path} failed: {problem}")]
    Io {
        /// The call.
        call: &'static str,
        /// Where.
        path: String,
        /// What the system said.
        problem: String,
    },
    /// Repeating did not help.
    #[error("gave up after {attempts} attempts in {} s: {source}", after.as_secs())]
    GaveUp {
        /// How many attempts were made.
        attempts: u32,
        /// For how long.
        after: Duration,
        /// The last error.
        source: Box<StoreError>,
    },
    /// The work was cancelled from outside.
    #[error("cancelled")]
    Cancelled,
}

impl StoreError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Conflict { .. }
            | Self::Damaged { .. }
            | Self::Malformed { .. }
            | Self::UploadLost { .. } => Class::Transient,
            Self::Credentials { .. }
            | Self::CredentialFiles { .. }
            | Self::Denied { .. }
            | Self::NoSuchStore { .. }
            | Self::Full { .. }
            | Self::ClockSkew { .. }
            | Self::Listing { .. }
            | Self::Io { .. }
            | Self::InDoubt { .. } => Class::Structural,
            Self::GaveUp { source, .. } => source.class(),
            Self::Path(_)
            | Self::Settings { .. }
            | Self::AlreadyExists { .. }
            | Self::NotFound { .. }
            | Self::Mismatch { .. }
            | Self::Unsupported { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Cancelled => Class::Terminal,
        }
    }

    /// The reason that users see.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreachable { tls: true, .. } => Reason::StoreTlsFailed,
            Self::Unreachable { .. } => Reason::StoreUnreachable,
            Self::Credentials { .. } | Self::CredentialFiles { .. } | Self::Denied { .. } => Reason::StoreAccessDenied,
            Self::NoSuchStore { .. } => Reason::BucketNotFound,
            Self::Full { .. } => Reason::StoreFull,
            Self::ClockSkew { .. } => Reason::ClockSkew,
            Self::Damaged { .. } | Self::Mismatch { .. } => Reason::ChecksumMismatch,
            Self::InDoubt { .. } => Reason::OutcomeUnknown,
            Self::NotFound { .. } => Reason::CopyNotFound,
            Self::Unsupported { .. } => Reason::StoreUnsafe,
            Self::Path(_) | Self::Settings { .. } => Reason::InvalidSpec,
            Self::Cancelled => Reason::Interrupted,
            Self::GaveUp { source, .. } => source.reason(),
            Self::Busy { .. }
            | Self::AlreadyExists { .. }
            | Self::Conflict { .. }
            | Self::UploadLost { .. }
            | Self::Malformed { .. }
            | Self::Refused { .. }
            | Self::Listing { .. }
            | Self::TooLarge { .. }
            | Self::Io { .. } => Reason::StoreFailed,
        }
    }

    /// True if the call may have been carried out although it failed.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Unreachable { connected, .. } => *connected,
            Self::Busy { .. } | Self::Malformed { .. } | Self::Io { .. } | Self::InDoubt { .. } => true,
            Self::GaveUp { source, .. } => source.is_ambiguous(),
            _ => false,
        }
    }

    /// The error under *gave up* and *in doubt*.
    pub fn root(&self) -> &Self {
        match self {
            Self::GaveUp { source, .. } | Self::InDoubt { source, .. } => source.root(),
            other => other,
        }
    }
}

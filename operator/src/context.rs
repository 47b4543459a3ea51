//! What every controller gets, and how its steps fail.

use std::{sync::Arc, time::Duration};

use holdfast_crds::Class;
use kube::Client;

use crate::{clients::NotLeading, clock::ServerClock, metrics::Metrics, report::Report, watch::Caches};

/// What every controller gets.
#[derive(Clone)]
pub struct Context {
    /// Identity of this cluster in the stores.
    pub cluster: String,
    /// Image that Jobs copy the agent from.
    pub image: String,
    /// For reads and writes; refuses to write while this replica does not lead.
    pub client: Client,
    pub clock: ServerClock,
    pub caches: Arc<Caches>,
    pub report: Report,
    pub metrics: Metrics,
}

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API server failed; `doing` is what it was for, as in `create the Job shop/a-b1`.
    #[error("{doing}")]
    Call {
        doing: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("finish within {0:?}")]
    Deadline(Duration),
    #[error("finish without a panic: {0}")]
    Panic(String),
    /// Something that only a person can change; the message says what.
    #[error("{0}")]
    Structural(String),
}

impl Error {
    /// For `map_err`: what a call was for.
    pub fn calling(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Call {
            doing,
            source: Box::new(source),
        }
    }

    /// What is done about it: another try with back-off, a slow one, or none before the object changes.
    pub fn class(&self) -> Class {
        match self {
            Self::Call { source, .. } => match &**source {
                kube::Error::Api(status) if status.code == 422 || status.code == 400 => Class::Structural,
                _ => Class::Transient,
            },
            Self::Deadline(_) | Self::Panic(_) => Class::Transient,
            Self::Structural(_) => Class::Structural,
        }
    }

    /// What the API server said, where it said something.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Call { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the object was changed by somebody else meanwhile (409), which the next try sees.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409)
    }

    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// Whether it failed because this replica does not lead (any more).
    pub fn is_not_leading(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if error.is::<NotLeading>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// An error with all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors already quote their cause.
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

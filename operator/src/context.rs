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

/// An error with all its causes in one line. Of a refusal by the API server it has what the server said, and not its debug form.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let call = error.downcast_ref::<kube::Error>();
        let status = match call.or_else(|| error.downcast_ref::<Box<kube::Error>>().map(|call| &**call)) {
            Some(kube::Error::Api(status)) => Some(status),
            _ => None,
        };
        let next = status.map_or_else(|| error.to_string(), |status| format!("{} ({})", status.message, status.code));
        // Some errors already quote their cause.
        if text.is_empty() {
            text = next;
        } else if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = if status.is_some() { None } else { error.source() };
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16, message: &str) -> Error {
        let status = Status::failure(message, "Reason").with_code(code);
        Error::calling("create the Job shop/a-b1")(kube::Error::Api(status.boxed()))
    }

    #[test]
    fn an_error_says_what_was_done_and_what_the_server_said() {
        let error = refused(500, "etcd has no leader");
        assert_eq!(chain(&error), "create the Job shop/a-b1: etcd has no leader (500)");
        let silent = Error::calling("read the run shop/a")(kube::Error::Service(NotLeading.into()));
        assert!(chain(&silent).starts_with("read the run shop/a: "), "{}", chain(&silent));
        assert!(silent.is_not_leading());
    }

    #[test]
    fn classes() {
        for (error, class) in [
            (refused(500, "x"), Class::Transient),
            (refused(403, "x"), Class::Transient),
            (refused(409, "x"), Class::Transient),
            (refused(422, "x"), Class::Structural),
            (Error::Deadline(Duration::from_secs(60)), Class::Transient),
            (Error::Structural("x".to_owned()), Class::Structural),
        ] {
            assert_eq!(error.class(), class, "{error}");
        }
        assert!(refused(409, "x").is_conflict() && refused(404, "x").is_not_found());
    }
}

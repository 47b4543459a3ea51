//! One copy: its objects first, then, once both stores were asked again, its outcome.

use std::collections::HashMap;

use holdfast_crds::document::{Committed, Decision, Label, Outcome, RunPath, StoredObject};
use holdfast_crds::{CopyTask, Reason, ReplicaState};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::choose::{Sides, Standing, brings, parent_missing};
use super::{Pass, catalogue, path};
use crate::command::removed;
use crate::config::random_hex;
use crate::pipeline::{Transfer, TransferError, Wanted};
use crate::result::Failure;
use crate::store::{Pinned, RegisterError, Store};

/// What came of a copy, and the version of its outcome in the store that is filled.
pub type Brought = (Standing, Option<String>);

/// A store failed, or the pass may not go on.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Hindered {
    pub reason: Reason,
    pub message: String,
}

impl Hindered {
    /// Whether the next copy would meet it too.
    pub fn ends_the_pass(&self) -> bool {
        matches!(
            self.reason,
            Reason::Interrupted
                | Reason::DeadlineExceeded
                | Reason::StoreForeign
                | Reason::StoreFull
                | Reason::StoreAccessDenied
                | Reason::StoreUnsafe
                | Reason::ClockSkew
                | Reason::BucketNotFound
        )
    }

    pub fn failure(self) -> Failure {
        Failure::new(self.reason, self.message)
    }
}

impl From<Failure> for Hindered {
    fn from(failure: Failure) -> Self {
        Self {
            reason: failure.reason,
            message: failure.message,
        }
    }
}

/// Brings copies.
pub struct Bringer<'a> {
    task: &'a CopyTask,
    sides: &'a Sides<'a>,
    pinned: Pinned,
    pod: &'a Label,
    from: Store,
    to: Store,
    not_after: Timestamp,
    stop: CancellationToken,
    transfer: Transfer,
}

impl<'a> Bringer<'a> {
    pub fn new(pass: &Pass<'a>, sides: &'a Sides<'a>, pinned: Pinned) -> Self {
        let invocation = pass.invocation;
        let (from, to, stop) = (pass.from.clone(), pass.to.clone(), pass.stop.clone());
        let counters = invocation.progress.counters();
        Self {
            task: pass.task,
            sides,
            pinned,
            pod: &invocation.pod,
            not_after: pass.not_after,
            transfer: Transfer::new(from.clone(), to.clone(), invocation.memory_limit, stop.clone(), counters),
            from,
            to,
            stop,
        }
    }

    /// Brings one copy. `states` says how those stand that this pass has dealt with.
    pub async fn bring(&self, run: &Label, states: &HashMap<Label, ReplicaState>) -> Result<Brought, Hindered> {
        let Some(parents) = self.sides.parents(run) else {
            return Ok((parent_missing(), None));
        };
        if !parents
            .iter()
            .all(|parent| states.get(parent).is_some_and(|state| state.is_there()))
        {
            return Ok((parent_missing(), None));
        }
        let run = path(self.task, run);
        let copy = match self.read(&run).await? {
            Ok(copy) => copy,
            Err(standing) => return Ok((standing, None)),
        };
        let stored = match self.objects(&copy).await {
            Ok(stored) => stored,
            Err(error) => {
                // What is being removed meanwhile is not damaged.
                return match (standing_of(error)?, self.again(&run.run, &parents).await?) {
                    (standing, again) if again.state == ReplicaState::Missing => Ok((standing, None)),
                    (_, again) => Ok((again, None)),
                };
            }
        };
        let again = self.again(&run.run, &parents).await?;
        if again.state != ReplicaState::Missing {
            return Ok((again, None));
        }
        self.commit(&run, copy.in_store(stored)).await
    }

    /// The outcome as the store that has the copy holds it, at its first version.
    async fn read(&self, run: &RunPath) -> Result<Result<Committed, Standing>, Hindered> {
        let unreadable = |reason, problem: String| Ok(Err(Standing::problem(ReplicaState::Unreadable, reason, problem)));
        let version = self.sides.from.version(&run.run);
        let decided = match self.unless_stopped(self.from.outcome_version(run, version.as_deref())).await? {
            Ok(Some(decided)) => decided,
            Ok(None) => return unreadable(Reason::Tampered, "its register was deleted".to_owned()),
            Err(error @ RegisterError::Store { .. }) => return Err(hindered(&error)),
            Err(error) => return unreadable(error.reason(), error.to_string()),
        };
        let tick = decided.outcome.committed().and_then(|copy| copy.manifest().run.tick);
        match decided.adopt(tick) {
            Ok(decided) => match decided.outcome.decision {
                Decision::Committed(copy) => Ok(Ok(*copy)),
                Decision::Abandoned(_) => unreadable(Reason::Tampered, "its register held a copy and holds none any more".to_owned()),
            },
            Err(error) => unreadable(error.reason(), error.to_string()),
        }
    }

    /// Key, parts and indices. Nothing but what the manifest names is brought: it vouches that these lie in the run's own place.
    async fn objects(&self, copy: &Committed) -> Result<Vec<StoredObject>, TransferError> {
        let manifest = copy.manifest();
        let here: HashMap<_, _> = copy.stored().iter().map(|object| (object.path.as_str(), object)).collect();
        let key = manifest.encryption.key();
        let names = key.into_iter().chain(manifest.objects().map(|(path, _, _)| path));
        let mut stored = Vec::new();
        // That each is listed was checked when the outcome was read.
        for object in names.filter_map(|path| here.get(path)) {
            let wanted = Wanted {
                path: object.path.parse()?,
                bytes: object.bytes,
                sha256: object.sha256,
                version: object.version_id.clone(),
                key: Some(object.path.as_str()) == key,
            };
            stored.push(self.transfer.object(&wanted).await?);
        }
        Ok(stored)
    }

    /// How the copy stands by fresh reads, and whether what it needs is still there.
    async fn again(&self, run: &Label, parents: &[Label]) -> Result<Standing, Hindered> {
        let only: Vec<_> = parents.iter().chain([run]).cloned().collect();
        let read = async {
            let from = catalogue(&self.from, self.task, &only).await?;
            let to = catalogue(&self.to, self.task, &only).await?;
            Ok::<_, Failure>(Sides::new(self.task, self.sides.encrypts, from, to))
        };
        let fresh = self.unless_stopped(read).await??;
        let standing = fresh.standing(run);
        if standing.state == ReplicaState::Missing && !parents.iter().all(|parent| fresh.standing(parent).state.is_there()) {
            return Ok(parent_missing());
        }
        Ok(standing)
    }

    /// One small object decides, as it does for a backup.
    async fn commit(&self, run: &RunPath, copy: Committed) -> Result<Brought, Hindered> {
        let digest = copy.manifest_sha256();
        copy.check(run)
            .map_err(|error| Failure::new(Reason::InternalError, format!("the manifest contradicts itself: {error}")))?;
        if self.stop.is_cancelled() {
            return Err(interrupted());
        }
        let outcome = Outcome {
            run: run.clone(),
            nonce: random_hex(),
            by: self.pod.clone(),
            at: self.to.now().unwrap_or_else(Timestamp::now),
            decision: Decision::Committed(Box::new(copy)),
        };
        let decided = match self.to.commit(&outcome, &self.pinned, self.not_after).await {
            Ok(decided) => decided,
            Err(error @ (RegisterError::Altered(_) | RegisterError::Document { .. })) => {
                let standing = Standing::problem(ReplicaState::Unreadable, error.reason(), error.to_string());
                return Ok((standing, None));
            }
            Err(error) => return Err(hindered(&error)),
        };
        let standing = match &decided.outcome.decision {
            // A put that slept: in the meantime others may have given it up.
            Decision::Committed(copy) if decided.ours && decided.landed_after(self.not_after) => {
                match removed::refuse(&self.to, &decided, copy).await {
                    Ok(()) => Standing::new(ReplicaState::Copied),
                    Err(failure) if failure.reason == Reason::CopyRemoved => Standing::told(ReplicaState::Removed, failure.message),
                    Err(failure) if failure.closed => Standing::problem(ReplicaState::Unreadable, failure.reason, failure.message),
                    Err(failure) => return Err(failure.into()),
                }
            }
            Decision::Committed(_) if decided.ours => Standing::new(ReplicaState::Copied),
            Decision::Committed(theirs) if theirs.manifest_sha256() == digest => Standing::new(ReplicaState::Present),
            Decision::Committed(theirs) => Standing::problem(
                ReplicaState::Divergent,
                Reason::Divergent,
                format!(
                    "the store that is filled got another manifest meanwhile: SHA-256 {}, expected {digest}",
                    theirs.manifest_sha256()
                ),
            ),
            Decision::Abandoned(abandonment) => Standing::told(
                ReplicaState::Abandoned,
                format!(
                    "given up meanwhile in the register of the store that is filled: {}",
                    abandonment.message
                ),
            ),
        };
        let version = decided.version.filter(|_| brings(standing.state));
        Ok((standing, version))
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Hindered> {
        tokio::select! {
            result = work => Ok(result),
            () = self.stop.cancelled() => Err(interrupted()),
        }
    }
}

fn interrupted() -> Hindered {
    Failure::new(Reason::Interrupted, "asked to stop; the next pass goes on where it was").into()
}

fn hindered(error: &RegisterError) -> Hindered {
    Failure::new(error.reason(), error.to_string()).into()
}

/// What an object that cannot be brought says about its copy; or that a store failed.
fn standing_of(error: TransferError) -> Result<Standing, Hindered> {
    let message = error.to_string();
    match error {
        TransferError::Corrupt { .. } | TransferError::Unnamed { .. } => {
            Ok(Standing::problem(ReplicaState::Unreadable, Reason::CopyCorrupt, message))
        }
        TransferError::Obstructed { .. } => Ok(Standing::problem(ReplicaState::Obstructed, Reason::ChecksumMismatch, message)),
        TransferError::Read { source, .. } | TransferError::Write { source, .. } => Err(Failure::new(source.reason(), message).into()),
        TransferError::Cancelled => Err(interrupted()),
    }
}

//! The register of a run: `outcome.json`, which has one value for ever. Who creates it first decides.

use super::{Alteration, Created, Held, OwnerError, Pinned, Store, StoreError, StorePath, create::MAX_DOCUMENT, random};
use holdfast_crds::{
    Reason,
    document::{Abandonment, Decision, DocumentError, Label, Outcome, RunPath},
};
use jiff::{SignedDuration, Timestamp};

/// How far the clocks of those who make ticks and of stores may be apart.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// What the register says.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The decision.
    pub outcome: Outcome,
    /// The version of `outcome.json`, where the store has versions.
    pub version: Option<String>,
    /// Whether it was made by this call.
    pub ours: bool,
    /// When the store says it was written.
    written: Option<Timestamp>,
}

/// Why the register could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The store failed.
    #[error("register of {run}: {source}")]
    Store {
        /// The run.
        run: String,
        /// Why.
        source: StoreError,
    },
    /// What lies there cannot be read.
    #[error("register of {run}: {source}")]
    Document {
        /// The run.
        run: String,
        /// Why.
        source: DocumentError,
    },
    /// The store belongs to somebody else.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The attempt's time is over: its data is not committed any more.
    #[error("the attempt's time ended at {not_after}, and the store's clock shows {now}: nothing is committed")]
    TooLate {
        /// The store's clock.
        now: Timestamp,
        /// The end of the attempt.
        not_after: Timestamp,
    },
    /// The store tells no time, so that nobody can say whether the attempt's time is over.
    #[error("the store's answers have no Date: whether the attempt's time is over cannot be told")]
    NoClock,
    /// The register was overwritten or hidden by somebody who may write to the store.
    #[error("{0}; find out who did it, and remove what is not ours")]
    Altered(Alteration),
    /// The outcome is older than the tick of its run.
    #[error(
        "the outcome of {run} was written at {written}, before the run's own tick {tick}: it is not of this run; find out who wrote it"
    )]
    Tampered {
        /// The run.
        run: String,
        /// When it was written.
        written: Timestamp,
        /// When the run was due.
        tick: Timestamp,
    },
}

impl RegisterError {
    /// The reason that users see.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Store { source, .. } => source.reason(),
            Self::Document {
                source: DocumentError::NewerVersion { .. },
                ..
            } => Reason::FormatUnknown,
            Self::Document { .. } | Self::Tampered { .. } | Self::Altered(_) => Reason::Tampered,
            Self::Owner(error) => error.reason(),
            Self::TooLate { .. } => Reason::DeadlineExceeded,
            Self::NoClock => Reason::StoreUnsafe,
        }
    }

    /// Whether the register may have been written all the same.
    pub fn is_in_doubt(&self) -> bool {
        matches!(
            self,
            Self::Store {
                source: StoreError::InDoubt { .. },
                ..
            }
        )
    }
}

impl Decided {
    fn read(run: &RunPath, held: &Held, ours: bool) -> Result<Self, RegisterError> {
        let outcome = Outcome::from_bytes(run, &held.bytes).map_err(|source| RegisterError::Document {
            run: run.to_string(),
            source,
        })?;
        Ok(Self {
            outcome,
            version: held.meta.version.clone(),
            ours,
            written: held.meta.modified,
        })
    }

    /// Whether the store took it later than that, as far as it tells. What was sent in time may land long after.
    pub fn landed_after(&self, moment: Timestamp) -> bool {
        self.written.unwrap_or(self.outcome.at) > moment
    }

    /// The outcome, for a run with this tick to adopt.
    ///
    /// # Errors
    /// [`RegisterError::Tampered`] if it was written before the tick.
    pub fn adopt(self, tick: Option<Timestamp>) -> Result<Self, RegisterError> {
        let earliest = self.written.map_or(self.outcome.at, |written| written.min(self.outcome.at));
        match tick {
            Some(tick) if tick.duration_since(earliest) > CLOCK_TOLERANCE => Err(RegisterError::Tampered {
                run: self.outcome.run.to_string(),
                written: earliest,
                tick,
            }),
            _ => Ok(self),
        }
    }
}

impl Store {
    /// What the register of `run` says; `None` if nothing was decided. What cannot be read is read once more: a bit may have flipped on the way.
    pub async fn outcome(&self, run: &RunPath) -> Result<Option<Decided>, RegisterError> {
        match self.outcome_once(run).await {
            Err(RegisterError::Document { .. }) => self.outcome_once(run).await,
            read => read,
        }
    }

    async fn outcome_once(&self, run: &RunPath) -> Result<Option<Decided>, RegisterError> {
        let failed = |source| RegisterError::Store {
            run: run.to_string(),
            source,
        };
        let found = self.read(&StorePath::from(&run.outcome()), MAX_DOCUMENT).await.map_err(failed)?;
        self.unaltered(run).await?;
        found.map(|held| Decided::read(run, &held, false)).transpose()
    }

    /// That nothing lies over the register's first version, and nothing hides it.
    async fn unaltered(&self, run: &RunPath) -> Result<(), RegisterError> {
        match self.tampered(&StorePath::from(&run.outcome()), None).await {
            Ok(Some(alteration)) => Err(RegisterError::Altered(alteration)),
            // Who may not list versions sees what there is now; the keeper sees the rest.
            Ok(None) | Err(StoreError::Denied { .. } | StoreError::Unsupported { .. }) => Ok(()),
            Err(source) => Err(RegisterError::Store {
                run: run.to_string(),
                source,
            }),
        }
    }

    /// What exactly this version of the register says, as it was found in a listing; `None` if it is not there.
    pub async fn outcome_version(&self, run: &RunPath, version: Option<&str>) -> Result<Option<Decided>, RegisterError> {
        let read = async || {
            let found = self.read_version(&StorePath::from(&run.outcome()), version, MAX_DOCUMENT).await;
            let found = found.map_err(|source| RegisterError::Store {
                run: run.to_string(),
                source,
            })?;
            found.map(|held| Decided::read(run, &held, false)).transpose()
        };
        match read().await {
            Err(RegisterError::Document { .. }) => read().await,
            read => read,
        }
    }

    /// Commits a copy, or whatever `outcome` says, unless the register is taken: then what it holds is returned, with `ours` false.
    ///
    /// Right before each put it is made sure that the store's owner is the one that was pinned and that the store's clock does not show more than `not_after`.
    ///
    /// # Errors
    /// If [`RegisterError::is_in_doubt`], it may have been written; else it was not.
    pub async fn commit(&self, outcome: &Outcome, pinned: &Pinned, not_after: Timestamp) -> Result<Decided, RegisterError> {
        self.decide(outcome, pinned, Some(not_after)).await
    }

    /// Gives a run up, unless the register is taken: then what it holds is returned, with `ours` false. Nothing of the run can be committed afterwards.
    pub async fn abandon(&self, run: &RunPath, by: &Label, abandonment: Abandonment, pinned: &Pinned) -> Result<Decided, RegisterError> {
        let failed = |source| RegisterError::Store {
            run: run.to_string(),
            source,
        };
        // The time is the store's where it tells one.
        let outcome = Outcome {
            run: run.clone(),
            nonce: random().map_err(failed)?,
            by: by.clone(),
            at: self.now().unwrap_or_else(Timestamp::now),
            decision: Decision::Abandoned(abandonment),
        };
        self.decide(&outcome, pinned, None).await
    }

    async fn decide(&self, outcome: &Outcome, pinned: &Pinned, not_after: Option<Timestamp>) -> Result<Decided, RegisterError> {
        let run = &outcome.run;
        let bytes = outcome.to_bytes();
        // The answer to this is also the newest word on the store's time.
        self.still_owned(pinned).await?;
        let in_time = || match (not_after, self.now()) {
            (Some(_), None) => Err(RegisterError::NoClock),
            (Some(not_after), Some(now)) if now > not_after => Err(RegisterError::TooLate { now, not_after }),
            _ => Ok(()),
        };
        in_time()?;
        let created = self
            .create_while(&StorePath::from(&run.outcome()), bytes.into(), || in_time().is_ok())
            .await;
        if created.is_ok() {
            // Over a delete marker a create succeeds, and what it made is not the first that was decided. If it cannot be asked, the next who reads will.
            match self.unaltered(run).await {
                Err(RegisterError::Store { .. }) => {}
                other => other?,
            }
        }
        match created {
            Ok(Created::Ours(held)) => Decided::read(run, &held, true),
            Ok(Created::Theirs(held)) => match Decided::read(run, &held, false) {
                // Nobody else has our nonce: what was read back is ours, and was damaged on the way.
                Ok(theirs) if theirs.outcome.nonce != outcome.nonce => Ok(theirs),
                damaged => match self.outcome(run).await? {
                    Some(again) => Ok(Decided {
                        ours: again.outcome == *outcome,
                        ..again
                    }),
                    None => damaged,
                },
            },
            Err(StoreError::Cancelled) => Err(in_time().err().unwrap_or(RegisterError::Store {
                run: run.to_string(),
                source: StoreError::Cancelled,
            })),
            Err(source) => Err(RegisterError::Store {
                run: run.to_string(),
                source,
            }),
        }
    }
}

/// What a run's register says when it is settled.
#[derive(Clone, Debug)]
pub enum Settled {
    /// It says this, now or since before.
    Decided(Decided),
    /// It says nothing, and was left so.
    Open,
}

impl Store {
    /// Answers for a run whose end is in doubt: what the register says, or, where it says nothing and `give_up` is set, that the run is given up from now on.
    pub async fn settle(&self, run: &RunPath, give_up: Option<(&Label, Abandonment, &Pinned)>) -> Result<Settled, RegisterError> {
        if let Some(decided) = self.outcome(run).await? {
            return Ok(Settled::Decided(decided));
        }
        match give_up {
            Some((by, abandonment, pinned)) => Ok(Settled::Decided(self.abandon(run, by, abandonment, pinned).await?)),
            None => Ok(Settled::Open),
        }
    }
}

#[cfg(test)]
mod tests;

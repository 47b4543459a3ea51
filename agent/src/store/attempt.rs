//! How long and how often a call is repeated.

use super::{
    Inner,
    error::{Class, StoreError},
};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::Instant;

/// How long calls are repeated.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For how long a call is repeated in all, from its first attempt; slow attempts are repeated at least [`LEAST`] times.
    pub total: Duration,
    /// The first pause; pauses double up to `longest`, with jitter.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// For how long credentials that were good before are tried again: what a rotation takes to reach a pod.
    pub rotation: Duration,
}

impl Patience {
    /// For runs: a store may be away for five minutes.
    pub const RUN: Self = Self {
        total: Duration::from_mins(5),
        first: Duration::from_millis(200),
        longest: Duration::from_secs(15),
        rotation: Duration::from_mins(2),
    };
    /// For probes: an answer soon.
    pub const PROBE: Self = Self {
        total: Duration::from_secs(20),
        first: Duration::from_millis(200),
        longest: Duration::from_secs(5),
        rotation: Duration::ZERO,
    };
}

impl Default for Patience {
    fn default() -> Self {
        Self::RUN
    }
}

/// The attempts of one call.
pub(super) struct Attempts<'a> {
    store: &'a Inner,
    call: &'static str,
    started: Instant,
    pauses: ExponentialBackoff,
    made: u32,
    renewed: u32,
}

/// How many attempts are made before time alone ends them: over a slow line a single one can take longer than all patience.
const LEAST: u32 = 3;
/// How often one call may find new credentials and still be refused.
const MAX_RENEWALS: u32 = 3;

impl<'a> Attempts<'a> {
    pub(super) fn new(store: &'a Inner, call: &'static str) -> Self {
        let Patience { first, longest, .. } = store.patience;
        let pauses = ExponentialBuilder::default()
            .with_min_delay(first)
            .with_max_delay(longest)
            .with_jitter()
            .without_max_times()
            .build();
        Self {
            store,
            call,
            started: Instant::now(),
            pauses,
            made: 0,
            renewed: 0,
        }
    }

    /// Waits for the next attempt, or says that there is none.
    pub(super) async fn again(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.made += 1;
        let limit = match &error {
            StoreError::Credentials { .. } | StoreError::Denied { .. } | StoreError::CredentialFiles { .. } => {
                if self.renewed < MAX_RENEWALS && self.store.backend.renew_credentials().await.unwrap_or(false) {
                    self.renewed += 1;
                    tracing::info!(call = self.call, "credentials were renewed");
                    return Ok(());
                }
                if matches!(error, StoreError::Denied { .. }) || !self.store.accepted.load(Ordering::Relaxed) {
                    return Err(error);
                }
                self.store.patience.rotation
            }
            other if other.class() == Class::Transient => self.store.patience.total,
            _ => return Err(error),
        };
        let pause = self.pauses.next().unwrap_or(self.store.patience.longest);
        let elapsed = self.started.elapsed();
        if elapsed + pause > limit && (self.made >= LEAST || limit < self.store.patience.total) {
            return Err(StoreError::GaveUp {
                attempts: self.made,
                after: elapsed,
                source: Box::new(error),
            });
        }
        tracing::debug!(call = self.call, attempt = self.made, ?pause, %error, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

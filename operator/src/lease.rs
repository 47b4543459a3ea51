//! Which replica leads. A pure decision on what was seen and when our own monotonic clock saw it, and writes that compare and swap.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    clients::{Fence, LEASE_TIMEOUT},
    clock::ServerClock,
    context::chain,
    metrics::Metrics,
};

/// How long a Lease that nobody renews is respected.
pub const TTL: Duration = Duration::from_secs(15);
/// How long the leader goes on without a renewal that worked. Shorter than [`TTL`], so that two never lead at once.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the leader renews, and how often the others look.
pub const PERIOD: Duration = Duration::from_secs(2);

/// What was last seen of the Lease, and since when it is unchanged by *our own* clock. Its times are never compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Who holds it; where there is none, who held the last one that was seen.
    pub holder: Option<String>,
    /// None where there is no Lease.
    pub resource_version: Option<String>,
    pub since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Create,
    Acquire,
    Renew,
    Wait,
}

/// What `me` does about the Lease. One that somebody deleted may still be led by: only who held it makes it anew at once, the others wait
/// as for one that is not renewed.
pub fn decide(me: &str, seen: &Observed, now: Instant) -> Decision {
    let exists = seen.resource_version.is_some();
    let expired = now.saturating_duration_since(seen.since) >= TTL;
    match (seen.holder.as_deref(), exists) {
        (Some(holder), true) if holder == me => Decision::Renew,
        (Some(holder), false) if holder == me => Decision::Create,
        (None | Some(""), true) => Decision::Acquire,
        (_, true) if expired => Decision::Acquire,
        (_, false) if expired => Decision::Create,
        _ => Decision::Wait,
    }
}

/// Folds what was read into what was known: the clock restarts only when the object really changed, came or went.
fn observe(before: Option<Observed>, lease: Option<&Lease>, now: Instant) -> Observed {
    let resource_version = lease.map(|lease| lease.metadata.resource_version.clone().unwrap_or_default());
    match before {
        Some(before) if before.resource_version == resource_version => before,
        before => Observed {
            holder: match lease {
                Some(lease) => lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()),
                None => before.and_then(|before| before.holder),
            },
            resource_version,
            since: now,
        },
    }
}

/// The Lease as `holder` writes it; it carries the resource version that was decided on, so that one of two racers gets a 409.
fn claimed(mut lease: Lease, holder: &str, now: Timestamp) -> Lease {
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity.as_deref() != Some(holder) {
        if !holder.is_empty() {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.acquire_time = Some(MicroTime(now));
    }
    spec.holder_identity = Some(holder.to_owned());
    spec.lease_duration_seconds = i32::try_from(TTL.as_secs()).ok();
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// Why leadership was not won or kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("hear from the API server within {LEASE_TIMEOUT:?}")]
    Timeout,
    #[error("call the API server about the Lease")]
    Call(#[source] Box<kube::Error>),
    #[error("find the Lease: somebody deleted it; who held it makes it again")]
    Deleted,
    #[error("renew the Lease for {0:?}; another replica may take over")]
    Expired(Duration),
    #[error("keep the Lease: {0:?} holds it now")]
    TakenOver(String),
}

/// This replica's part in the election.
pub struct Election {
    api: Api<Lease>,
    name: String,
    me: String,
    clock: ServerClock,
    fence: Fence,
    metrics: Metrics,
    seen: Option<Observed>,
    lease: Option<Lease>,
}

impl Election {
    /// `client` does not retry and has short time-outs.
    pub fn new(client: Client, namespace: &str, name: &str, me: &str, clock: ServerClock, fence: Fence, metrics: Metrics) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            clock,
            fence,
            metrics,
            seen: None,
            lease: None,
        }
    }

    /// Returns when this replica leads.
    pub async fn acquire(&mut self) {
        let mut complained = false;
        loop {
            let asked = Instant::now();
            match self.step().await {
                Ok(true) => {
                    self.lead(asked);
                    tracing::info!(holder = self.me, "this replica leads now");
                    return;
                }
                Ok(false) => complained = false,
                Err(error) if !complained => {
                    tracing::warn!(
                        error = chain(&error),
                        "the Lease cannot be read or written; this replica keeps trying"
                    );
                    complained = true;
                }
                Err(error) => tracing::debug!(error = chain(&error), "the Lease cannot be read or written"),
            }
            sleep(PERIOD).await;
        }
    }

    /// Renews until that fails for good; returns why.
    pub async fn keep(&mut self) -> LeaseError {
        let mut renewed = Instant::now();
        loop {
            sleep(PERIOD).await;
            let asked = Instant::now();
            match self.step().await {
                Ok(true) => {
                    renewed = asked;
                    self.lead(asked);
                }
                Ok(false) => {
                    self.step_down();
                    return LeaseError::TakenOver(self.seen.as_ref().and_then(|seen| seen.holder.clone()).unwrap_or_default());
                }
                Err(error) => tracing::debug!(error = chain(&error), "the Lease was not renewed"),
            }
            let age = renewed.elapsed();
            if age >= RENEW_DEADLINE {
                self.step_down();
                return LeaseError::Expired(age);
            }
        }
    }

    /// Hands the Lease over, so that another replica need not wait until it expires.
    pub async fn release(&mut self) {
        self.step_down();
        match self.hand_over().await {
            Ok(true) => tracing::info!("the Lease is handed over"),
            Ok(false) => tracing::debug!("the Lease is another's already"),
            Err(error) => tracing::debug!(error = chain(&error), "the Lease could not be handed over; it expires by itself"),
        }
    }

    async fn hand_over(&mut self) -> Result<bool, LeaseError> {
        let holder = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        loop {
            let current = match self.lease.take() {
                Some(lease) => Some(lease),
                // A claim or a renewal was under way when we were asked to stop.
                None => bounded(self.api.get_opt(&self.name)).await?,
            };
            let Some(lease) = current.filter(|lease| holder(lease).as_deref() == Some(&self.me)) else {
                return Ok(false);
            };
            let free = claimed(lease, "", self.clock.now());
            match bounded(self.api.replace(&self.name, &PostParams::default(), &free)).await {
                // It arrived only now, or somebody labelled the Lease.
                Err(LeaseError::Call(error)) if is_conflict(&error) => {}
                answer => return answer.map(|_| true),
            }
        }
    }

    /// Leadership counts from before the call that won it.
    fn lead(&self, asked: Instant) {
        self.fence.extend(asked + RENEW_DEADLINE);
        self.metrics.leader.set(1);
    }

    fn step_down(&self) {
        self.fence.close();
        self.metrics.leader.set(0);
    }

    /// Looks, decides and writes once. True if this replica holds the Lease.
    async fn step(&mut self) -> Result<bool, LeaseError> {
        // The leader knows the Lease from its own last write; a 409 shows where that is wrong.
        let current = match self.lease.take() {
            Some(lease) => Some(lease),
            None => bounded(self.api.get_opt(&self.name)).await?,
        };
        let now = Instant::now();
        let before = self.seen.take();
        let seen = self.seen.insert(observe(before, current.as_ref(), now));
        let lease = match decide(&self.me, seen, now) {
            Decision::Wait => return Ok(false),
            Decision::Create => {
                let fresh = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: None,
                };
                let fresh = claimed(fresh, &self.me, self.clock.now());
                bounded(self.api.create(&PostParams::default(), &fresh)).await
            }
            Decision::Acquire | Decision::Renew => {
                let claim = claimed(current.unwrap_or_default(), &self.me, self.clock.now());
                bounded(self.api.replace(&self.name, &PostParams::default(), &claim)).await
            }
        };
        match lease {
            Ok(lease) => {
                self.seen = Some(observe(self.seen.take(), Some(&lease), Instant::now()));
                self.lease = Some(lease);
                Ok(true)
            }
            // Somebody wrote in between: look again at once, and believe what is there.
            Err(LeaseError::Call(error)) if is_conflict(&error) => {
                let current = bounded(self.api.get_opt(&self.name)).await?;
                let before = self.seen.take();
                let seen = self.seen.insert(observe(before, current.as_ref(), Instant::now()));
                let Some(current) = current else { return Err(LeaseError::Deleted) };
                let mine = seen.holder.as_deref() == Some(&self.me);
                self.lease = mine.then_some(current);
                Ok(mine)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
    match timeout(LEASE_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| LeaseError::Call(Box::new(error))),
        Err(_) => Err(LeaseError::Timeout),
    }
}

#[cfg(test)]
#[path = "lease_test.rs"]
mod tests;

#[cfg(test)]
#[path = "lease_model_test.rs"]
mod model;

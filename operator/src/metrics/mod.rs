//! What the process counts: API calls, reconciliations, queues, leadership. What objects say is collected where it is served.

mod objects;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

pub use objects::Objects;

/// The process's own registry and its series. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub registry: Registry,
    /// Answers of the API server by verb, resource and code (`error` where there was none).
    pub api_calls: IntCounterVec,
    /// How long reconciliations took, by kind and result (`ok`, `error`, `deadline`).
    pub reconciles: HistogramVec,
    /// Objects that wait to be reconciled now, by kind.
    pub queue_depth: IntGaugeVec,
    /// Whether this replica leads.
    pub leader: IntGauge,
}

impl Metrics {
    /// A registry with all series registered.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let api_calls = IntCounterVec::new(
            Opts::new("holdfast_api_calls_total", "Calls to the API server by verb, resource and code."),
            &["verb", "resource", "code"],
        )?;
        let reconciles = HistogramVec::new(
            HistogramOpts::new(
                "holdfast_reconcile_duration_seconds",
                "Duration of reconciliations by kind and result.",
            )
            .buckets(vec![0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0]),
            &["kind", "result"],
        )?;
        let queue_depth = IntGaugeVec::new(
            Opts::new("holdfast_queue_depth", "Objects that wait to be reconciled now, by kind."),
            &["kind"],
        )?;
        let leader = IntGauge::new("holdfast_leader", "1 if this replica leads, else 0.")?;
        registry.register(Box::new(api_calls.clone()))?;
        registry.register(Box::new(reconciles.clone()))?;
        registry.register(Box::new(queue_depth.clone()))?;
        registry.register(Box::new(leader.clone()))?;
        Ok(Self {
            registry,
            api_calls,
            reconciles,
            queue_depth,
            leader,
        })
    }
}

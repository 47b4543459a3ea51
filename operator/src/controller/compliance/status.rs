//! What a policy's status says. Pure.

use holdfast_crds::{ComplianceMode, CompliancePolicy, CompliancePolicyStatus, ConditionType, Finding, Reason, conditions};
use jiff::Timestamp;
use kube::ResourceExt;

use super::guards;
use crate::watch::{Caches, Key};

/// How many sources that miss a floor are listed.
const LISTED: usize = 10;

/// The status of a policy, by what the caches hold.
pub fn status(policy: &CompliancePolicy, caches: &Caches, now: Timestamp) -> CompliancePolicyStatus {
    let before = policy.status.clone().unwrap_or_default();
    let name = policy.name_any();
    let mut namespaces = 0;
    let mut sources = 0;
    let mut missing = Vec::new();
    for namespace in caches.namespaces.all() {
        if !policy.spec.namespaces.select(namespace.labels()) {
            continue;
        }
        namespaces += 1;
        for source in caches.sources.in_namespace(&namespace.name_any()) {
            sources += 1;
            let missed = source.status.iter().flat_map(|status| &status.floors_missed);
            if missed.into_iter().any(|missed| missed.policy == name) {
                missing.push(Key::of(&*source).to_string());
            }
        }
    }
    let findings = [
        Finding::new(ConditionType::Ready, true, Reason::Accepted, "the policy is accepted"),
        enforced(policy, caches),
    ];
    CompliancePolicyStatus {
        observed_generation: policy.metadata.generation,
        conditions: conditions(&before.conditions, &findings, policy.metadata.generation, now),
        namespaces,
        sources,
        not_compliant: i64::try_from(missing.len()).unwrap_or(i64::MAX),
        missing_floors: missing.into_iter().take(LISTED).collect(),
    }
}

fn enforced(policy: &CompliancePolicy, caches: &Caches) -> Finding {
    let kind = ConditionType::Enforced;
    if caches.guard_prefix.is_empty() {
        return Finding::unknown(
            kind,
            Reason::GuardMissing,
            "the operator was not told by --guards which admission policies to look for",
        );
    }
    let missing: Vec<_> = guards::states(caches).into_iter().filter_map(|(_, wrong)| wrong).collect();
    if !missing.is_empty() {
        let message = format!(
            "{}; install the chart with admissionPolicies.install=true, and look in the audit log for who removed or changed it",
            missing.join("; ")
        );
        return Finding::new(kind, false, Reason::GuardMissing, message);
    }
    match policy.spec.mode {
        ComplianceMode::Enforce => Finding::new(
            kind,
            true,
            Reason::GuardsInPlace,
            "all admission policies of the chart are in place",
        ),
        ComplianceMode::Audit => Finding::new(
            kind,
            false,
            Reason::Accepted,
            "mode is Audit: what misses a floor is shown, and nothing is refused",
        ),
    }
}

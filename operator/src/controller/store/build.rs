//! The Job of a probe.

use holdfast_crds::{Action, ProbeTask, whole_seconds};
use k8s_openapi::api::batch::v1::Job;

use crate::{context::Context, job::BuildError, store::Store};

/// The time that a probe has, in seconds.
const TIMEOUT: i64 = 300;

/// The Job `name` that tries `store`.
pub fn job(context: &Context, store: &Store, name: &str) -> Result<Job, BuildError> {
    let probe = ProbeTask {
        now: whole_seconds(context.clock.now()).to_string(),
    };
    store.build(context, name, Action::Probe(probe), TIMEOUT)
}

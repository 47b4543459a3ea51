//! Removes probe Jobs when they have said what they had to say.

use holdfast_crds::BackupStore;
use kube::ResourceExt;

use crate::{
    context::{Context, Error},
    controller::jobs,
    job::{PURPOSE, Purpose, STORE},
    watch::{Caches, Key},
};

/// Removes the probe Jobs of a store but for `keep`: the last one that failed stays for its log.
pub async fn remove_others(context: &Context, store: &BackupStore, keep: Option<&Key>) -> Result<(), Error> {
    let owned = Caches::owned_by(STORE, &store.name_any());
    let namespace = store.namespace().unwrap_or_default();
    let mut jobs = context.caches.jobs.by(Caches::BY_OWNER, &namespace, &owned);
    // The Jobs of its keeper are looked after elsewhere.
    jobs.retain(|job| job.labels().get(PURPOSE).map(String::as_str) == Some(Purpose::Probe.as_str()));
    jobs::remove(context, &jobs, keep.map_or(&[], std::slice::from_ref)).await
}

//! Removes probe Jobs when they have said what they had to say.

use crate::{
    context::{Context, Error},
    controller::jobs,
    job::Purpose,
    store::Store,
    watch::Key,
};

/// Removes the probe Jobs of a store but for `keep`: the last one that failed stays for its log.
pub async fn remove_others(context: &Context, store: &Store, keep: Option<&Key>) -> Result<(), Error> {
    let jobs = store.jobs(&context.caches, Purpose::Probe);
    jobs::remove(context, &jobs, keep.map_or(&[], std::slice::from_ref)).await
}

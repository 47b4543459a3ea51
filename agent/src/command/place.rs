//! The store of a task, opened with the files that lie beside it.

use crate::config::Invocation;
use crate::result::Failure;
use crate::store::{DEFAULT_PARALLEL, Patience, Store, StoreFiles, Usage, connect};

/// Opens the task's store; S3 is not asked yet.
pub fn open(invocation: &Invocation, patience: Patience) -> Result<Store, Failure> {
    let places = &invocation.places;
    let files = StoreFiles {
        secret: places.store_secret.clone(),
        ca: places.store_ca.clone(),
        token: places.store_token.clone(),
        volume: places.store_volume.clone(),
    };
    let usage = Usage {
        patience,
        parallel: DEFAULT_PARALLEL,
        session: invocation.pod.to_string(),
        not_before: None,
    };
    Ok(connect(&invocation.task.store.spec, &files, usage)?)
}

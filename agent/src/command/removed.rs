//! Whether the copy of a run that a register still tells of was removed since: then its name is used up, and nothing may be adopted.

use holdfast_crds::Reason;
use holdfast_crds::document::{Fact, Record, RunPath};

use super::keep::read::records_of;
use crate::result::Failure;
use crate::store::{Store, StoreError};

/// Reads the run's records, and refuses a copy that was removed or whose keys were destroyed.
///
/// # Errors
/// [`Reason::CopyRemoved`], final; or what the store did not hand out: then nobody can say that the copy is there.
pub async fn refuse(store: &Store, run: &RunPath) -> Result<(), Failure> {
    let removed = record_of_removal(store, run).await;
    let removed = removed.map_err(|error| Failure::new(error.reason(), format!("the records of {run} cannot be read: {error}")))?;
    match removed {
        None => Ok(()),
        Some(said) => Err(Failure {
            closed: true,
            ..Failure::new(
                Reason::CopyRemoved,
                format!("the store had a copy under this name, and {said}; choose another name for the run"),
            )
        }),
    }
}

async fn record_of_removal(store: &Store, run: &RunPath) -> Result<Option<String>, StoreError> {
    // What was removed says so last.
    let Some((object, bytes)) = records_of(store, run, &["removed", "shredded"]).await?.pop() else {
        return Ok(None);
    };
    let record = bytes.and_then(|bytes| Record::from_bytes(&object, &bytes).ok());
    Ok(Some(match record.map(|record| (record.at, record.fact)) {
        Some((at, Fact::Removed { reason, .. })) => format!("it was removed at {at} ({reason})"),
        Some((at, Fact::Shredded { disposal, .. })) => format!("its keys were destroyed at {at} (disposal {disposal})"),
        _ => format!("{object} says that it was removed"),
    }))
}

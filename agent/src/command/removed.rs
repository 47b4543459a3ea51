//! Whether the copy that a register tells of is one (any more): it may have been removed since, or been given up before its outcome landed.

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_crds::Reason;
use holdfast_crds::document::{Committed, Fact, Record, RunPath, StoredObject};

use super::keep::read::records_of;
use crate::result::Failure;
use crate::store::{Decided, Store, StoreError, StorePath};

/// How many objects are asked for at once.
const ASKED: usize = 8;

/// Reads the run's records, and refuses a copy that was removed or whose keys were destroyed. Of one whose outcome landed past the time of its
/// attempt each object is asked for: what pods stored that did not commit in time is swept, and after a month the register forgets them.
///
/// # Errors
/// [`Reason::CopyRemoved`] or [`Reason::CopyCorrupt`], final; or what the store did not hand out: then nobody can say that the copy is there.
pub async fn refuse(store: &Store, decided: &Decided, copy: &Committed) -> Result<(), Failure> {
    let run = &decided.outcome.run;
    let read = async {
        if let Some(said) = record_of_removal(store, run).await? {
            let message = format!("the store had a copy under this name, and {said}; choose another name for the run");
            return Ok(Some((Reason::CopyRemoved, message)));
        }
        let not_after = copy.manifest().not_after;
        if !decided.landed_after(not_after) {
            return Ok(None);
        }
        let lost = lost(store, copy.stored()).await?;
        Ok(lost.map(|lost| {
            let message = format!(
                "{lost} is not there: the outcome landed after the attempt's time, which ended at {not_after}, when the run had been given up \
                 and what it stored was swept; choose another name for the run"
            );
            (Reason::CopyCorrupt, message)
        }))
    };
    match read.await {
        Ok(None) => Ok(()),
        Ok(Some((reason, message))) => Err(Failure {
            closed: true,
            ..Failure::new(reason, message)
        }),
        Err(error) => {
            let error: StoreError = error;
            Err(Failure::new(
                error.reason(),
                format!("whether the copy of {run} is there cannot be told: {error}"),
            ))
        }
    }
}

/// What cannot be read of a copy because it was removed, or its keys were destroyed, is no damage: the failure says so. Of a copy that can be read
/// no record is believed here: whoever forges one would keep people from restoring.
pub async fn explained(store: &Store, run: &RunPath, failure: Failure) -> Failure {
    if !matches!(failure.reason, Reason::CopyCorrupt | Reason::CopyNotFound) {
        return failure;
    }
    match record_of_removal(store, run).await {
        Ok(Some(said)) => Failure {
            reason: Reason::CopyRemoved,
            message: format!("{said}: {}", failure.message),
            ..failure
        },
        Ok(None) | Err(_) => failure,
    }
}

/// The first of these objects that is not there.
async fn lost(store: &Store, objects: &[StoredObject]) -> Result<Option<String>, StoreError> {
    let asked = objects.iter().map(|object| async move {
        let there = store.head(&object.path.parse::<StorePath>()?).await?;
        Ok::<_, StoreError>(there.is_none().then(|| object.path.clone()))
    });
    let asked: Vec<_> = asked.collect();
    let mut lost = stream::iter(asked)
        .buffered(ASKED)
        .try_filter_map(|lost| std::future::ready(Ok(lost)));
    lost.next().await.transpose()
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

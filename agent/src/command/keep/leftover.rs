//! What runs left behind that is no copy: attempts that nobody finished, data of given-up runs, of pods that lost the register, and what a
//! removal has still to delete.

use holdfast_crds::Reason;
use holdfast_crds::document::{Label, ObjectPath};
use jiff::{SignedDuration, Timestamp};

use super::act::{ActError, Hand, Swept};
use super::inventory::RunFolder;
use super::read::{Copy, Run, State};
use super::removal;
use crate::result::Failure;

/// A run without an outcome is given up in the register when nothing was written for so long, and the operator does not know it as in flight.
const STALE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The register of a run stays so long after the last moment in which a pod of it could commit.
const TOMBSTONE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// What a pod that lost the register left is deleted so long after the last moment in which it could commit.
const LOSER: SignedDuration = SignedDuration::from_hours(24);

/// What is to be done with a run's folder, beside the copy in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing.
    None,
    /// The register is to be closed first.
    Abandon,
    /// Everything but register and records goes.
    Sweep,
    /// Everything goes.
    Forget,
    /// These objects go: pods that lost the register wrote them.
    Losers(Vec<String>),
}

/// What is to be done with a run's folder at `now`, the earlier of the clocks. `all_read`: nothing of the source is missing or unreadable;
/// otherwise no run is given up, nor is anything swept of one that was, for its register may be what is missing.
pub fn leftover(run: &Run, folder: &RunFolder, now: Timestamp, in_flight: bool, all_read: bool) -> Leftover {
    if run.unreadable.is_some() || in_flight {
        return Leftover::None;
    }
    let past = |moment: Timestamp, wait: SignedDuration| now.duration_since(moment) > wait;
    let left = removal::left(folder);
    match (&run.state, run.removed()) {
        // Only the record of a removal is left: the end of a `forget` that was interrupted.
        (State::Open, Some(_)) => Leftover::Forget,
        (State::Open, None) if all_read && folder.modified().is_some_and(|modified| past(modified, STALE)) => Leftover::Abandon,
        (State::Unreadable { .. }, _) | (State::Open, None) => Leftover::None,
        (State::Copy(copy), None) => losers(copy, folder, past(copy.not_after, LOSER)),
        (State::Copy(copy), Some(removed)) => match left {
            true => Leftover::Sweep,
            false if past(copy.not_after.max(removed.at), TOMBSTONE) => Leftover::Forget,
            false => Leftover::None,
        },
        (State::Abandoned { at }, _) => match left {
            // Of a source that lacks copies, this may be one whose register was overwritten.
            true if !all_read => Leftover::None,
            true => Leftover::Sweep,
            false if past(*at, TOMBSTONE) => Leftover::Forget,
            false => Leftover::None,
        },
    }
}

fn losers(copy: &Copy, folder: &RunFolder, late: bool) -> Leftover {
    if !late {
        return Leftover::None;
    }
    let others = |object: &ObjectPath| pod_of(object).is_some_and(|pod| *pod != copy.pod);
    let data = folder.data.keys().filter(|path| path.parse().is_ok_and(|object| others(&object)));
    let keys = folder
        .catalog
        .iter()
        .filter(|(_, (object, _))| others(object))
        .map(|(path, _)| path);
    let objects: Vec<_> = data.chain(keys).cloned().collect();
    if objects.is_empty() {
        Leftover::None
    } else {
        Leftover::Losers(objects)
    }
}

fn pod_of(object: &ObjectPath) -> Option<&Label> {
    match object {
        ObjectPath::Key { pod, .. } => Some(&pod.pod),
        ObjectPath::Part { stream, .. } | ObjectPath::Index { stream } => Some(&stream.pod.pod),
        _ => None,
    }
}

/// Clears what a run left behind.
pub async fn clear(hand: &Hand, run: &Run, lying: &RunFolder, wanted: Leftover) -> Result<Result<Swept, ActError>, Failure> {
    Ok(match wanted {
        Leftover::None => Ok(Swept::default()),
        Leftover::Abandon => {
            let message = "nothing was written for seven days, and no operator knows the run as in flight";
            if !hand.abandon(&run.path, Reason::Abandoned, message).await? {
                return Ok(Ok(Swept::default()));
            }
            tracing::info!(run = %run.path, "a run that nobody finished was given up");
            hand.sweep(lying).await
        }
        Leftover::Sweep => hand.sweep(lying).await,
        Leftover::Forget => hand.forget(&run.path, lying).await,
        Leftover::Losers(objects) => hand.delete_all(&objects, lying).await,
    })
}

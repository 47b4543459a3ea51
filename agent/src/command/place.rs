//! The store of a task, opened with the files that lie beside it.

use holdfast_crds::{Action, CopyTask, StoreRole};
use jiff::Timestamp;

use crate::config::{Invocation, Places};
use crate::result::Failure;
use crate::store::{DEFAULT_PARALLEL, Patience, Store, StoreFiles, Usage, connect};

/// Opens the task's store with the rights that its action needs first; S3 is not asked yet.
pub fn open(invocation: &Invocation, patience: Patience) -> Result<Store, Failure> {
    let role = invocation.task.action.roles().first().copied().unwrap_or(StoreRole::Reader);
    open_as(invocation, patience, role)
}

/// Opens the task's store with the rights of this role; S3 is not asked yet.
pub fn open_as(invocation: &Invocation, patience: Patience, role: StoreRole) -> Result<Store, Failure> {
    let task = &invocation.task;
    let usage = Usage {
        patience,
        parallel: DEFAULT_PARALLEL,
        session: invocation.pod.to_string(),
        created: created(&task.action),
        role,
    };
    // Whose credentials these are.
    let owner = task
        .store
        .spec
        .credentials
        .as_ref()
        .map_or(StoreRole::Writer, |credentials| credentials.of(role).0);
    Ok(connect(&task.store.spec, &files(&invocation.places, owner), usage)?)
}

/// Opens the store that copies are brought from, with its reader's rights; S3 is not asked yet.
pub fn open_from(invocation: &Invocation, task: &CopyTask, patience: Patience) -> Result<Store, Failure> {
    let places = &invocation.places;
    let usage = Usage {
        patience,
        parallel: DEFAULT_PARALLEL,
        session: invocation.pod.to_string(),
        created: created(&invocation.task.action),
        role: StoreRole::Reader,
    };
    let files = StoreFiles {
        secret: places.from_secret.clone(),
        ca: places.from_ca.clone(),
        token: places.from_secret.clone(),
        volume: places.from_volume.clone(),
    };
    Ok(connect(&task.from.spec, &files, usage)?)
}

/// When the Job was created, by the API server, as far as the task says it.
fn created(action: &Action) -> Option<Timestamp> {
    match action {
        Action::Keep(keep) => Some(keep.now),
        Action::Copy(copy) => copy.now.parse().ok(),
        _ => None,
    }
}

fn files(places: &Places, owner: StoreRole) -> StoreFiles {
    let (secret, token) = match owner {
        StoreRole::Writer => (&places.store_secret, &places.store_token),
        StoreRole::Reader => (&places.store_reader, &places.store_reader),
        StoreRole::Keeper => (&places.store_keeper, &places.store_keeper),
        StoreRole::Pruner => (&places.store_pruner, &places.store_pruner),
    };
    StoreFiles {
        secret: secret.clone(),
        ca: places.store_ca.clone(),
        token: token.clone(),
        volume: places.store_volume.clone(),
    }
}

//! What each role may, tried where it has credentials of its own; and what the probe left, taken away.

use super::{Passed, Probe, record, unsafe_store};
use crate::store::{Backend, Created, Deleted, Store, StoreError, StorePath};
use holdfast_crds::ProbeReport;
use jiff::SignedDuration;

/// What a probe left longer ago than this is no other's that still runs.
const LEFTOVER: SignedDuration = SignedDuration::from_mins(10);

impl Store {
    pub(super) async fn try_roles(&self, probe: &Probe, put: &StorePath, kept: &StorePath, report: &mut ProbeReport) {
        if let Some(reader) = &probe.roles.reader {
            record(report, "Reader", reader.reads(put).await);
        }
        if let Some(keeper) = &probe.roles.keeper {
            record(report, "Keeper", keeper.keeps(put, kept).await);
        }
        if let Some(pruner) = &probe.roles.pruner {
            record(report, "Pruner", pruner.prunes(put).await);
        }
    }

    async fn reads(&self, put: &StorePath) -> Passed {
        self.repeat("list", |backend| backend.list(put.as_str(), None)).await?;
        match self.read(put, 1 << 10).await? {
            Some(held) if held.bytes == put.as_str() => Ok(String::new()),
            _ => Err(unsafe_store(format!(
                "{put} was written and reads back as something else: the roles look at two places"
            ))),
        }
    }

    /// Reads and lists versions, and writes what the writer cannot take back.
    async fn keeps(&self, put: &StorePath, kept: &StorePath) -> Passed {
        self.reads(put).await?;
        self.versions_of(put).await?;
        match self.create(kept, kept.to_string().into()).await? {
            Created::Ours(_) => Ok(String::new()),
            Created::Theirs(_) => Err(unsafe_store(format!("{kept} was created and reads back as something else"))),
        }
    }

    /// Deletes one version for good.
    async fn prunes(&self, put: &StorePath) -> Passed {
        let versions = self.versions_of(put).await?;
        let [only] = &versions[..] else {
            return Err(unsafe_store(format!("{put} was written once and has {} versions", versions.len())));
        };
        match self.delete_version(put, only.version.as_deref()).await? {
            Deleted::Gone => {}
            Deleted::Refused(lock) => {
                let end = lock
                    .until()
                    .map_or("a legal hold".to_owned(), |until| format!("a lock until {until}"));
                return Ok(format!("{end} keeps what a probe leaves: the bucket locks by default"));
            }
        }
        if self.versions_of(put).await?.is_empty() {
            Ok(String::new())
        } else {
            Err(unsafe_store(format!("{put} was deleted and is still there")))
        }
    }

    /// Takes away what this round and those before left, as far as somebody may and locks have ended; a lifecycle rule clears the rest.
    pub(super) async fn tidy(&self, probe: &Probe, round: &str) {
        let pruner = probe.roles.pruner.as_ref().unwrap_or(self);
        let directory = format!("probe/{}/", probe.uid);
        let Ok(page) = pruner
            .repeat("list versions", |backend| backend.list_versions(&directory, None))
            .await
        else {
            return self.hide(&directory, round).await;
        };
        let (mut denied, now) = (false, self.now());
        for version in page.items {
            let old = now
                .zip(version.modified)
                .is_some_and(|(now, modified)| now.duration_since(modified) > LEFTOVER);
            if !old && !version.path[directory.len()..].starts_with(round) {
                continue;
            }
            let Ok(path) = version.path.parse::<StorePath>() else { continue };
            denied |= pruner.delete_version(&path, version.version.as_deref()).await.is_err();
        }
        if denied {
            self.hide(&directory, round).await;
        }
    }

    /// Who may not delete versions may perhaps delete names.
    async fn hide(&self, directory: &str, round: &str) {
        let Ok(page) = self.repeat("list", |backend| backend.list(directory, None)).await else {
            return;
        };
        for object in page.items.iter().filter(|object| object.path[directory.len()..].starts_with(round)) {
            let deleted: Result<(), StoreError> = Backend::delete(self.backend(), &object.path).await;
            if deleted.is_err() {
                return;
            }
        }
    }
}

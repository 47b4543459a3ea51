//! What each role may, tried where it has credentials of its own; and what the probe left, taken away.

use super::{Passed, Probe, record, unsafe_store};
use crate::store::{Backend, Created, Deleted, Store, StoreError, StorePath, backend::Content, digest};
use holdfast_crds::ProbeReport;
use jiff::SignedDuration;
use object_store::PutPayload;

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

    /// A name whose object was deleted for good is free, and then taken again. Deletes with the pruner's rights, or those of the only account.
    pub(super) async fn create_after_delete(&self, probe: &Probe, again: &StorePath) -> Passed {
        let Created::Ours(held) = self.create(again, "first".into()).await? else {
            return Err(unsafe_store(format!("{again} was created and reads back as something else")));
        };
        let deleter = probe.roles.pruner.as_ref().unwrap_or(self);
        // The canary is for locks; here the store's answer is enough.
        let version = held.meta.version.as_deref();
        match deleter
            .repeat("delete", |backend| backend.delete_version(again.as_str(), version))
            .await
        {
            Ok(()) => {}
            Err(StoreError::Denied { .. } | StoreError::Refused { .. } | StoreError::Unsupported { .. }) => {
                return Ok("not tried: the store does not let the probe delete".to_owned());
            }
            Err(error) => return Err(error.into()),
        }
        let (second, payload) = (digest::of(b"second"), PutPayload::from_static(b"second"));
        let created = self
            .repeat("create", |backend| {
                backend.create(again.as_str(), Content::Document, &payload, &second)
            })
            .await;
        match (created, self.read(again, 1 << 10).await?) {
            // It may be there although its first answer was lost.
            (Ok(()) | Err(StoreError::AlreadyExists { .. }), Some(held)) if held.bytes == "second" => {}
            (Err(StoreError::AlreadyExists { .. }), _) => return Err(unsafe_store("the name of an object that was deleted stays taken")),
            (Ok(()), _) => {
                return Err(unsafe_store(
                    "a name was written anew after its object was deleted, and reads back as something else",
                ));
            }
            (Err(error), _) => return Err(error.into()),
        }
        match self.create(again, "third".into()).await? {
            Created::Theirs(held) if held.bytes == "second" => {
                Ok("a name is free after its object was deleted, and is taken once".to_owned())
            }
            Created::Theirs(_) | Created::Ours(_) => Err(unsafe_store(
                "an object whose name had been deleted before was created once more, and its bytes were replaced: the store ignores If-None-Match there",
            )),
        }
    }

    /// Whether the writer's account may delete what it wrote: nothing that it does needs that. It is told, and no store fails because of it.
    pub(super) async fn may_delete(&self, path: &StorePath) -> String {
        let version = match self.head(path).await {
            Ok(Some(there)) => there.version,
            Ok(None) => return "not tried: nothing is there to delete".to_owned(),
            Err(error) => return format!("not tried: {error}"),
        };
        let may = |deleted: Result<(), StoreError>| {
            match deleted {
            Ok(()) => Some("it may delete: who takes its credentials can delete copies that nothing locks; an S3 store can give each role its own (docs/stores.md, Rights)".to_owned()),
            Err(StoreError::Denied { .. }) => None,
            Err(error) => Some(format!("not tried: {error}")),
        }
        };
        let mut told = may(self.backend().delete_version(path.as_str(), version.as_deref()).await);
        if told.is_none() {
            told = may(self.backend().delete(path.as_str()).await);
        }
        told.unwrap_or_else(|| "it may not".to_owned())
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

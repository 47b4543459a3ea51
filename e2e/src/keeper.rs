//! Waiting for keepers, and what they left in status.

use anyhow::{Context, Result};
use holdfast_crds::{BackupSource, BackupStore, CatalogueInStore, KeeperStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::sandbox::Sandbox;

impl Sandbox {
    /// Waits until the last pass of a store's keeper has ended, and left what is `wanted`.
    ///
    /// # Errors
    /// If none does in time.
    pub async fn pass(&self, store: &str, seconds: u64, what: &str, wanted: impl Fn(&BackupStore) -> bool) -> Result<BackupStore> {
        self.until::<BackupStore>(store, seconds, what, |store| {
            keeper(store).is_some_and(|keeper| keeper.finished_at.is_some() && keeper.last_pass.is_some()) && wanted(store)
        })
        .await
    }

    /// Waits until what a source's status says of a store is as `wanted`.
    ///
    /// # Errors
    /// If it is not in time.
    pub async fn catalogue(
        &self,
        source: &str,
        store: &str,
        seconds: u64,
        what: &str,
        wanted: impl Fn(&CatalogueInStore) -> bool,
    ) -> Result<CatalogueInStore> {
        let entry = |source: &BackupSource| {
            let stores = &source.status.as_ref()?.stores;
            stores.iter().find(|entry| entry.store == store).cloned()
        };
        let source = self
            .until::<BackupSource>(source, seconds, what, |source| entry(source).is_some_and(|entry| wanted(&entry)))
            .await?;
        entry(&source).context("an entry of the store")
    }
}

/// What a store's status says of its keeper.
pub fn keeper(store: &BackupStore) -> Option<&KeeperStatus> {
    store.status.as_ref()?.keeper.as_deref()
}

/// How many passes of its keeper were begun.
pub fn passes(store: &BackupStore) -> i64 {
    keeper(store).map_or(0, |keeper| keeper.number)
}

/// A condition as `status reason: message`; empty where there is none.
pub fn said(conditions: &[Condition], kind: &str) -> String {
    let condition = conditions.iter().find(|condition| condition.type_ == kind);
    condition.map_or_else(String::new, |condition| {
        format!("{} {}: {}", condition.status, condition.reason, condition.message)
    })
}

/// A condition of a store, as [`said`].
pub fn store_said(store: &BackupStore, kind: &str) -> String {
    said(
        store.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default(),
        kind,
    )
}

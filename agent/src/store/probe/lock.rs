//! The canary: whether a lock is one.

use super::{Finding, Passed, Probe, unsafe_store};
use crate::store::{Created, Deleted, Lock, Locked, Retained, Store, StoreError, StorePath, random};
use holdfast_crds::{ObjectLockReport, ProbeReport, Reason};
use jiff::{SignedDuration, Timestamp};

/// How much longer the keeper locks the canary than the writer did.
const LONGER: SignedDuration = SignedDuration::from_secs(90);

impl Store {
    /// What the bucket promises and, where the store's specification relies on it, whether it keeps that. `None`: it need not be tried.
    pub(super) async fn locks(&self, probe: &Probe, canary: &StorePath, report: &mut ProbeReport) -> Option<Passed> {
        let wanted = self.backend().write_lock().is_some();
        let found = match self.supports_locks().await {
            Ok(found) => found,
            Err(StoreError::Denied { .. }) if !wanted => return None,
            Err(error) => return wanted.then(|| Err(error.into())),
        };
        report.object_lock = Some(ObjectLockReport { found, enforced: None });
        if !wanted {
            return None;
        }
        if !found {
            let message = format!(
                "spec.objectLock is set, but {} has no Object Lock; take a bucket that was made with Object Lock, or remove spec.objectLock",
                self.describe()
            );
            return Some(Err(unsafe_store(message)));
        }
        let tried = self.canary(probe, canary).await;
        let unsafe_now = matches!(&tried, Err(finding) if finding.reason == Reason::StoreUnsafe);
        if tried.is_ok() || unsafe_now {
            let enforced = Some(tried.is_ok());
            report.object_lock = Some(ObjectLockReport { found, enforced });
        }
        Some(tried)
    }

    /// Writes an object that is locked for a minute, and tries to get rid of it in every way.
    async fn canary(&self, probe: &Probe, canary: &StorePath) -> Passed {
        let keeper = probe.roles.keeper.as_ref().unwrap_or(self);
        let pruner = probe.roles.pruner.as_ref().unwrap_or(self);
        let body = format!("{canary} {}", random()?);
        let Created::Ours(held) = self.create(canary, body.clone().into()).await? else {
            return Err(unsafe_store(format!("{canary} was created and reads back as something else")));
        };
        let Some(version) = held.meta.version.as_deref() else {
            return Err(unsafe_store(
                "the bucket has Object Lock, but what was written to it has no version",
            ));
        };
        let now = || self.now().unwrap_or_else(Timestamp::now);
        let written = keeper.lock_of(canary, Some(version)).await?;
        if written.until().is_none_or(|until| until <= now()) {
            return Err(unsafe_store(format!(
                "{canary} was written with a lock of a minute and shows {}",
                shown(written)
            )));
        }
        let Locked::Held(longer) = keeper.extend_lock(canary, Some(version), now() + LONGER).await? else {
            return Err(unsafe_store(format!("{canary} vanished while it was locked")));
        };
        if let Some(Retained { mode, until }) = longer.retained {
            let until = until - SignedDuration::from_secs(45);
            refused(
                keeper
                    .backend()
                    .set_retained(canary.as_str(), Some(version), Retained { mode, until })
                    .await,
            )?;
        }
        let after = keeper.lock_of(canary, Some(version)).await?;
        if after.until() < longer.until() {
            return Err(unsafe_store(format!(
                "a lock was shortened: it showed {}, and now {}",
                shown(longer),
                shown(after)
            )));
        }
        // Not even asked for would it be deleted: here the store itself has to refuse.
        refused(pruner.backend().delete_version(canary.as_str(), Some(version)).await)?;
        // An upload in pieces asks no leave to replace.
        refused(self.upload(canary).await.map(drop).map_err(|finding| StoreError::Unsupported {
            call: "overwrite",
            problem: finding.message,
        }))?;
        match keeper.read_version(canary, Some(version), 1 << 10).await? {
            Some(held) if held.bytes == body.as_bytes() => {}
            _ => {
                return Err(unsafe_store(
                    "a locked version was deleted or overwritten: the bucket's Object Lock protects nothing",
                ));
            }
        }
        for on in [true, false] {
            keeper.set_legal_hold(canary, Some(version), on).await?;
        }
        match pruner.delete_version(canary, Some(version)).await? {
            Deleted::Refused(_) => {
                Ok("a locked version is neither deleted, nor overwritten, nor its lock shortened; legal holds are kept".to_owned())
            }
            Deleted::Gone => Err(unsafe_store(
                "a locked version was deleted: the bucket's Object Lock protects nothing",
            )),
        }
    }
}

/// Whether it was carried out is looked at afterwards; only what never got through says nothing.
fn refused(tried: Result<(), StoreError>) -> Result<(), Finding> {
    match tried {
        Err(error @ (StoreError::Unreachable { .. } | StoreError::Busy { .. } | StoreError::Credentials { .. })) => Err(error.into()),
        _ => Ok(()),
    }
}

fn shown(lock: Lock) -> String {
    lock.until().map_or("no lock".to_owned(), |until| format!("a lock until {until}"))
}

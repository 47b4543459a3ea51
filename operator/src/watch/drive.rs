//! Runs one watch into its cache until the process ends.

use std::{collections::HashSet, io, pin::pin, time::Duration};

use futures::{AsyncBufRead as _, AsyncBufReadExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::{
    Api, Client, Resource,
    api::{ListParams, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    Cache, Key,
    read::{self, Event, List, Read},
};

/// How long one watch request lives, in seconds.
const LIFETIME: u32 = 55;
/// How long nothing is heard of a watch before it is made anew. A connection that died silently is noticed within a minute.
const SILENCE: Duration = Duration::from_secs(LIFETIME as u64 + 5);
/// How long a watch has to show what we wrote around the time of a list.
const CONFIRMATION: Duration = Duration::from_secs(30);
/// The waits after errors: from, to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(30));
/// How many errors follow one another before the log warns: single ones are the API server's restarts.
const TOLERATED: u32 = 3;

/// Why a list or a watch did not go on.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("list")]
    List(#[source] Box<kube::Error>),
    #[error("watch")]
    Watch(#[source] Box<kube::Error>),
    #[error("hear more of the watch")]
    Broken(#[source] io::Error),
    #[error("read what the API server says")]
    Unreadable(#[from] serde_json::Error),
    #[error("find a resource version in what the API server says")]
    NoVersion,
    #[error("watch on: {} ({})", .0.message.as_deref().unwrap_or_default(), .0.code.unwrap_or_default())]
    Refused(Box<Status>),
}

impl WatchError {
    /// Whether the history that was asked for is gone, so that everything has to be listed anew.
    fn is_too_old(&self) -> bool {
        let call = match self {
            Self::List(error) | Self::Watch(error) => &**error,
            Self::Refused(status) => return status.code == Some(410),
            _ => return false,
        };
        matches!(call, kube::Error::Api(status) if status.code == 410)
    }
}

/// Watches the objects of `api` that `selector` selects by their labels into `cache`: at first all of them by a consistent list, then their changes.
/// Never returns.
///
/// The list is not in pages: the API server has the whole of it in its cache, but reads each page after the first out of etcd, for many times the
/// work. It is read as it arrives, so that it is never held. (Lists as watches are not used: 1.33 has them off by default.)
pub async fn drive<K>(api: Api<K>, selector: Option<&str>, scope: Option<String>, cache: &Cache<K>)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
{
    let mut watch = Watch {
        requests: kube::core::Request::new(api.resource_url()),
        client: api.into_client(),
        selector: selector.map(str::to_owned),
        kind: K::kind(&()).into_owned(),
        scope,
        cache,
        doubtful: (Instant::now(), Vec::new()),
        errors: 0,
    };
    let mut version: Option<String> = None;
    loop {
        let (began, before) = (Instant::now(), version.clone());
        let went_on = match &mut version {
            None => watch.list().await.map(|listed| version = Some(listed)),
            Some(version) => watch.follow(version).await,
        };
        // Something between us and the API server may end each watch at once.
        if went_on.is_ok() && version == before && began.elapsed() < BACKOFF.0 {
            sleep(BACKOFF.0).await;
        }
        if let Err(error) = went_on {
            if error.is_too_old() {
                version = None;
            }
            watch.back_off(&error).await;
        }
    }
}

struct Watch<'a, K> {
    client: Client,
    requests: kube::core::Request,
    selector: Option<String>,
    kind: String,
    scope: Option<String>,
    cache: &'a Cache<K>,
    /// What the last list did not show although we wrote it, and until when a watch may show it.
    doubtful: (Instant, Vec<Key>),
    /// Errors one after the other.
    errors: u32,
}

impl<K> Watch<'_, K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
{
    /// Lists everything, and gives the version to watch from.
    async fn list(&mut self) -> Result<String, WatchError> {
        let parameters = ListParams {
            label_selector: self.selector.clone(),
            ..ListParams::default()
        };
        let failed = |error| WatchError::List(Box::new(error));
        let request = self.requests.list(&parameters);
        let request = request.map_err(|error| failed(kube::Error::BuildRequest(error)))?;
        let client = self.client.clone();
        let mut pieces = pin!(self.meanwhile(client.request_stream(request)).await.map_err(failed)?);
        // Where nothing is known yet, nothing can be gone.
        let mut seen = self.cache.knows(self.scope.as_ref()).then(HashSet::new);
        let mut list = List::new();
        loop {
            let piece = self.meanwhile(pieces.fill_buf()).await.map_err(WatchError::Broken)?;
            if piece.is_empty() {
                break;
            }
            list.take(piece, |object| {
                if let Some(seen) = &mut seen {
                    seen.insert(key(&object));
                }
                self.take(object);
            })?;
            let length = piece.len();
            pieces.as_mut().consume(length);
        }
        let version = list.end()?.resource_version.filter(|version| !version.is_empty());
        let version = version.ok_or(WatchError::NoVersion)?;
        self.errors = 0;
        let doubtful = self.cache.listed(self.scope.as_ref(), seen.as_ref());
        self.doubtful = (Instant::now() + CONFIRMATION, doubtful);
        Ok(version)
    }

    /// Takes in what changes after `version`, which is moved on, until the API server ends the watch.
    async fn follow(&mut self, version: &mut String) -> Result<(), WatchError> {
        let parameters = WatchParams {
            label_selector: self.selector.clone(),
            timeout: Some(LIFETIME),
            ..WatchParams::default()
        };
        let failed = |error| WatchError::Watch(Box::new(error));
        let request = self.requests.watch(&parameters, version);
        let request = request.map_err(|error| failed(kube::Error::BuildRequest(error)))?;
        let client = self.client.clone();
        let mut lines = pin!(self.meanwhile(client.request_stream(request)).await.map_err(failed)?);
        let mut line = Vec::new();
        loop {
            let read = self.meanwhile(timeout(SILENCE, lines.read_until(b'\n', &mut line))).await;
            match read {
                // Its time is over, or the other side is gone without a word: it goes on where it was.
                Ok(Ok(0)) | Err(_) => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(WatchError::Broken(error)),
            }
            self.event(&line, version)?;
            line.clear();
            self.errors = 0;
        }
    }

    /// Waits for `work`. What stays doubtful for too long is dropped meanwhile.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep_until(self.doubtful.0), if !self.doubtful.1.is_empty() => {
                    self.cache.drop_unconfirmed(&std::mem::take(&mut self.doubtful.1));
                }
            }
        }
    }

    fn event(&mut self, line: &[u8], version: &mut String) -> Result<(), WatchError> {
        let reached = match read::event(line)? {
            Event::Error(status) => return Err(WatchError::Refused(Box::new(status))),
            Event::Bookmark(meta) => meta.resource_version,
            Event::Applied(object) => {
                let version = meta(&object).resource_version.clone();
                self.take(object);
                version
            }
            Event::Deleted(object) => {
                let version = meta(&object).resource_version.clone();
                match object {
                    Ok(object) => self.cache.removed(&object),
                    Err(_) => self.cache.removed_unreadable(&key(&object)),
                }
                version
            }
        };
        *version = reached.filter(|version| !version.is_empty()).ok_or(WatchError::NoVersion)?;
        Ok(())
    }

    fn take(&self, object: Read<K>) {
        let key = key(&object);
        match object {
            Ok(mut object) => {
                prune(&mut object);
                self.cache.watched(object);
            }
            Err(invalid) => {
                if self.cache.mark_unreadable(key.clone(), &invalid.error) {
                    tracing::warn!(
                        kind = self.kind,
                        object = %key,
                        error = invalid.error,
                        "this object does not fit the schema of this version and is left alone; correct it, or upgrade the operator"
                    );
                }
            }
        }
    }

    async fn back_off(&mut self, error: &WatchError) {
        self.errors = self.errors.saturating_add(1);
        let error = crate::context::chain(error);
        let (kind, scope) = (self.kind.as_str(), self.scope.as_deref());
        if self.errors == TOLERATED {
            tracing::warn!(kind, scope, error, "a watch keeps failing; it goes on with back-off");
        } else {
            tracing::debug!(kind, scope, error, "a watch failed and goes on");
        }
        sleep(backoff(self.errors, kind)).await;
    }
}

/// The wait after so many errors one after the other; of several kinds not the same.
fn backoff(errors: u32, kind: &str) -> Duration {
    let (first, cap) = BACKOFF;
    let spread = kind
        .bytes()
        .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
        % 400;
    first.saturating_mul(1 << errors.saturating_sub(1).min(16)).min(cap) + Duration::from_millis(spread)
}

/// Drops what only costs memory.
fn prune<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

fn meta<K: Resource>(object: &Read<K>) -> &ObjectMeta {
    match object {
        Ok(object) => object.meta(),
        Err(invalid) => &invalid.metadata,
    }
}

fn key<K: Resource>(object: &Read<K>) -> Key {
    let meta = meta(object);
    Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

#[cfg(test)]
#[path = "drive_test.rs"]
mod tests;

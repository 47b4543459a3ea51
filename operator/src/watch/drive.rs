//! Runs one watch into its cache until the process ends.

use std::{collections::HashSet, fmt::Debug, pin::pin, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Cache, Key};

/// Objects per page of a list. A page is held as bytes and as objects at once, and several kinds are listed at a time.
const PAGE: u32 = 100;
/// How long one watch request lives, in seconds. A connection that died silently is noticed 5 seconds later: within a minute.
const LIFETIME: u32 = 55;
/// How long a watch has to show what we wrote around the time of a list.
const CONFIRMATION: Duration = Duration::from_secs(30);
/// The waits after errors: from, to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(30));
/// How many errors follow one another before the log warns: single ones are the API server's restarts.
const TOLERATED: u32 = 3;

/// How everything is watched: pages and a consistent first list. Streamed lists are not used: 1.33 has them off by default.
pub fn watcher_config(selector: Option<&str>) -> watcher::Config {
    let config = watcher::Config::default().page_size(PAGE).timeout(LIFETIME);
    match selector {
        Some(selector) => config.labels(selector),
        None => config,
    }
}

/// Watches `api` into `cache`. Never returns.
pub async fn drive<K>(api: Api<DeserializeGuard<K>>, config: watcher::Config, scope: Option<String>, cache: &Cache<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let kind = K::kind(&()).into_owned();
    let events = watcher::watcher(api, config).modify(prune);
    let mut events = pin!(events);
    let mut seen = HashSet::new();
    let mut doubtful: (Instant, Vec<Key>) = (Instant::now(), Vec::new());
    let mut errors = 0_u32;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = sleep_until(doubtful.0), if !doubtful.1.is_empty() => {
                cache.drop_unconfirmed(&std::mem::take(&mut doubtful.1));
                continue;
            }
        };
        let Some(event) = event else {
            tracing::error!(kind, "a watch ended, which it never should");
            return;
        };
        match event {
            Ok(event) => {
                // An `Init` only says that a list is tried. The back-off of kube-runtime takes it for a success and never grows.
                if !matches!(event, Event::Init) {
                    errors = 0;
                }
                match event {
                    Event::Init => seen.clear(),
                    Event::InitApply(object) => {
                        seen.insert(Key::of(&object));
                        take(cache, object, &kind);
                    }
                    Event::Apply(object) => take(cache, object, &kind),
                    Event::Delete(DeserializeGuard(Ok(object))) => cache.removed(&object),
                    Event::Delete(object) => cache.removed_unreadable(&Key::of(&object)),
                    Event::InitDone => {
                        doubtful = (Instant::now() + CONFIRMATION, cache.listed(scope.as_ref(), &seen));
                        seen = HashSet::new();
                    }
                }
            }
            Err(error) => {
                errors = errors.saturating_add(1);
                let error = crate::context::chain(&error);
                if errors == TOLERATED {
                    tracing::warn!(kind, scope, error, "a watch keeps failing; it goes on with back-off");
                } else {
                    tracing::debug!(kind, scope, error, "a watch failed and goes on");
                }
                sleep(backoff(errors, &kind)).await;
            }
        }
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

fn take<K>(cache: &Cache<K>, object: DeserializeGuard<K>, kind: &str)
where
    K: Resource + Send + Sync + 'static,
{
    let key = Key::of(&object);
    match object.0 {
        Ok(object) => cache.watched(object),
        Err(invalid) => {
            if cache.mark_unreadable(key.clone(), &invalid.error) {
                tracing::warn!(
                    kind,
                    object = %key,
                    error = invalid.error,
                    "this object does not fit the schema of this version and is left alone; correct it, or upgrade the operator"
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "drive_test.rs"]
mod tests;

//! What was last seen of all objects of one kind. Written by its watches and by our own writes, so that a controller reads what it wrote.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::Key;

/// The name of an index of a cache.
pub type IndexName = &'static str;

/// How an object changed. One of the two is there.
#[derive(Debug)]
pub struct Change<K> {
    pub before: Option<Arc<K>>,
    pub after: Option<Arc<K>>,
}

impl<K: Resource> Change<K> {
    /// The object as it is, or as it was.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.after.as_ref().or(self.before.as_ref())
    }

    pub fn key(&self) -> Key {
        self.object().map_or_else(|| Key::new("", ""), |object| Key::of(&**object))
    }

    /// Whether it is new, gone, was re-created, or its specification, labels or deletion mark changed: all but its status.
    pub fn beyond_status(&self) -> bool {
        let (Some(before), Some(after)) = (&self.before, &self.after) else {
            return true;
        };
        let (before, after) = (before.meta(), after.meta());
        before.uid != after.uid
            || before.generation != after.generation
            || before.labels != after.labels
            || before.annotations != after.annotations
            || before.deletion_timestamp != after.deletion_timestamp
    }
}

type Listener<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
type IndexValues<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

/// A cache of one kind.
pub struct Cache<K> {
    contents: RwLock<Contents<K>>,
    listeners: RwLock<Vec<Listener<K>>>,
    /// Scopes whose first list is not complete yet.
    awaited: watch::Sender<HashSet<Option<String>>>,
}

/// How objects of which little is needed any more are held in a small form.
pub struct Packing<K> {
    /// The small form; none for an object that is needed whole.
    pub pack: fn(&K) -> Option<Vec<u8>>,
    /// The object of a small form, with nothing but what that holds.
    pub unpack: fn(&Key, &[u8]) -> K,
}

impl<K: Serialize + DeserializeOwned> Packing<K> {
    /// Whole objects as JSON, which takes a third of the memory.
    pub const JSON: Self = Self {
        pack: |object| serde_json::to_vec(object).ok(),
        unpack: |_, bytes| serde_json::from_slice(bytes).expect("it was written by `pack` in this process"),
    };
}

/// An object as the cache holds it.
enum Held<K> {
    Whole(Arc<K>),
    Packed(Arc<Key>, Arc<[u8]>, fn(&Key, &[u8]) -> K),
}

impl<K> Held<K> {
    fn object(&self) -> Arc<K> {
        match self {
            Self::Whole(object) => object.clone(),
            Self::Packed(key, bytes, unpack) => Arc::new(unpack(key, bytes)),
        }
    }
}

impl<K> Clone for Held<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Whole(object) => Self::Whole(object.clone()),
            Self::Packed(key, bytes, unpack) => Self::Packed(key.clone(), bytes.clone(), *unpack),
        }
    }
}

struct Contents<K> {
    objects: BTreeMap<Arc<Key>, Held<K>>,
    packing: Option<Packing<K>>,
    /// Objects that do not fit the schema that we know, with the reason.
    unreadable: BTreeMap<Key, String>,
    /// What we wrote ourselves and no watch has shown yet.
    unconfirmed: BTreeSet<Key>,
    indexes: Vec<Index<K>>,
}

struct Index<K> {
    name: IndexName,
    values: IndexValues<K>,
    /// Whether it is over all namespaces at once.
    everywhere: bool,
    /// The objects by their namespace, if it is not, and value.
    entries: BTreeMap<Key, BTreeSet<Arc<Key>>>,
}

impl<K: Resource + Send + Sync + 'static> Cache<K> {
    /// An empty cache for watches of these scopes.
    pub fn new(scopes: &[Option<String>]) -> Self {
        Self {
            contents: RwLock::new(Contents {
                objects: BTreeMap::new(),
                packing: None,
                unreadable: BTreeMap::new(),
                unconfirmed: BTreeSet::new(),
                indexes: Vec::new(),
            }),
            listeners: RwLock::default(),
            awaited: watch::Sender::new(scopes.iter().cloned().collect()),
        }
    }

    /// Adds an index from values to the objects of the same namespace that have them. Before the cache is shared.
    #[must_use]
    pub fn indexed(self, name: IndexName, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.with_index(name, false, Box::new(values))
    }

    /// Adds an index from values to the objects of all namespaces that have them, under the namespace "". Before the cache is shared.
    #[must_use]
    pub fn indexed_everywhere(self, name: IndexName, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.with_index(name, true, Box::new(values))
    }

    fn with_index(self, name: IndexName, everywhere: bool, values: IndexValues<K>) -> Self {
        self.write().indexes.push(Index {
            name,
            values,
            everywhere,
            entries: BTreeMap::new(),
        });
        self
    }

    /// Holds those objects in a small form for which there is one. Before the cache is shared.
    #[must_use]
    pub fn packed(self, packing: Packing<K>) -> Self {
        self.write().packing = Some(packing);
        self
    }

    /// Calls `listener` at each change from now on. It must not block, and may read any cache.
    pub fn listen(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(listener));
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        let held = self.read().objects.get(key).cloned();
        held.map(|held| held.object())
    }

    /// Why an object that exists cannot be read, if so.
    pub fn unreadable(&self, key: &Key) -> Option<String> {
        self.read().unreadable.get(key).cloned()
    }

    pub fn unreadable_count(&self) -> usize {
        self.read().unreadable.len()
    }

    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn keys(&self) -> Vec<Key> {
        self.read().objects.keys().map(|key| (**key).clone()).collect()
    }

    /// All objects one after the other, in order of their keys; each is made anew where it is held in a small form.
    pub fn each(&self) -> impl Iterator<Item = Arc<K>> + use<K> {
        let held: Vec<Held<K>> = self.read().objects.values().cloned().collect();
        held.into_iter().map(|held| held.object())
    }

    /// All objects, in order of their keys.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.each().collect()
    }

    /// The objects of one namespace, in order of their names.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = Key::new(namespace, "");
        let held: Vec<Held<K>> = {
            let contents = self.read();
            let range = contents.objects.range(from..);
            range
                .take_while(|(key, _)| key.namespace == namespace)
                .map(|(_, held)| held.clone())
                .collect()
        };
        held.iter().map(Held::object).collect()
    }

    /// The objects of a namespace that have this value in an index, one after the other, in order of their names.
    pub fn each_by(&self, index: IndexName, namespace: &str, value: &str) -> impl Iterator<Item = Arc<K>> + use<K> {
        let held: Vec<Held<K>> = {
            let contents = self.read();
            let index = contents.indexes.iter().find(|candidate| candidate.name == index);
            debug_assert!(index.is_some(), "the index must exist");
            let keys = index.and_then(|index| index.entries.get(&Key::new(namespace, value)));
            let keys = keys.into_iter().flatten();
            keys.filter_map(|key| contents.objects.get(key).cloned()).collect()
        };
        held.into_iter().map(|held| held.object())
    }

    /// How many objects of a namespace have this value in an index.
    pub fn count_by(&self, index: IndexName, namespace: &str, value: &str) -> usize {
        let contents = self.read();
        let index = contents.indexes.iter().find(|candidate| candidate.name == index);
        let keys = index.and_then(|index| index.entries.get(&Key::new(namespace, value)));
        keys.map_or(0, BTreeSet::len)
    }

    /// The objects of a namespace that have this value in an index, in order of their names.
    pub fn by(&self, index: IndexName, namespace: &str, value: &str) -> Vec<Arc<K>> {
        self.each_by(index, namespace, value).collect()
    }

    /// Whether the first list of every scope is in.
    pub fn ready(&self) -> bool {
        self.awaited.borrow().is_empty()
    }

    /// Waits until the first list of every scope is in.
    pub async fn wait_ready(&self) {
        // The sender lives as long as `self`, so that waiting cannot fail.
        let _ = self.awaited.subscribe().wait_for(HashSet::is_empty).await;
    }

    /// Takes in what one of our own writes gave back.
    pub fn wrote(&self, object: K) {
        self.put(object, Origin::OwnWrite);
    }

    /// Takes in what we deleted and the API server said is gone.
    pub fn deleted(&self, key: &Key, uid: Option<&str>) {
        let mut contents = self.write();
        let same = contents.object(key).is_some_and(|held| held.meta().uid.as_deref() == uid);
        let before = if same { contents.remove(key) } else { None };
        drop(contents);
        self.tell(before, None);
    }

    pub(crate) fn watched(&self, object: K) {
        self.put(object, Origin::Watch);
    }

    fn put(&self, object: K, origin: Origin) {
        let key = Key::of(&object);
        let mut contents = self.write();
        contents.unreadable.remove(&key);
        match origin {
            Origin::Watch => contents.unconfirmed.remove(&key),
            Origin::OwnWrite => contents.unconfirmed.insert(key.clone()),
        };
        let before = contents.object(&key);
        if before.as_ref().is_some_and(|held| !newer(&object, &**held)) {
            return;
        }
        let after = contents.insert(key, object, before.as_deref());
        drop(contents);
        self.tell(before, Some(after));
    }

    pub(super) fn removed(&self, object: &K) {
        let key = Key::of(object);
        let mut contents = self.write();
        contents.unreadable.remove(&key);
        // A delete that comes late must not remove what was created since.
        if contents
            .object(&key)
            .is_some_and(|held| held.meta().uid != object.meta().uid && !newer(object, &*held))
        {
            return;
        }
        let before = contents.remove(&key);
        drop(contents);
        self.tell(before, None);
    }

    /// Notes an object that cannot be read; true if that is news.
    pub(super) fn mark_unreadable(&self, key: Key, why: &str) -> bool {
        let mut contents = self.write();
        let before = contents.remove(&key);
        let news = contents.unreadable.insert(key, why.to_owned()).is_none_or(|known| known != why);
        drop(contents);
        self.tell(before, None);
        news
    }

    pub(super) fn removed_unreadable(&self, key: &Key) {
        let mut contents = self.write();
        contents.unreadable.remove(key);
        let before = contents.remove(key);
        drop(contents);
        self.tell(before, None);
    }

    /// Whether anything is known of `scope`.
    pub(super) fn knows(&self, scope: Option<&String>) -> bool {
        let contents = self.read();
        let inside = |key: &Key| scope.is_none_or(|scope| *scope == key.namespace);
        contents.objects.keys().any(|key| inside(key)) || contents.unreadable.keys().any(inside)
    }

    /// A list of `scope` is complete: what it did not show is gone, but for what we wrote meanwhile, which is given back. `seen` is what it showed;
    /// none where nothing was known when it began.
    pub(crate) fn listed(&self, scope: Option<&String>, seen: Option<&HashSet<Key>>) -> Vec<Key> {
        let mut contents = self.write();
        let inside = |key: &Key| scope.is_none_or(|scope| *scope == key.namespace);
        let shown = |key: &Key| seen.is_none_or(|seen| seen.contains(key));
        contents.unreadable.retain(|key, _| !inside(key) || shown(key));
        let missing = contents.objects.keys().filter(|key| inside(key) && !shown(key));
        let gone: Vec<Key> = missing
            .filter(|key| !contents.unconfirmed.contains(&***key))
            .map(|key| (**key).clone())
            .collect();
        let unconfirmed = contents.unconfirmed.iter();
        let doubtful = unconfirmed
            .filter(|key| inside(key) && seen.is_none_or(|seen| !seen.contains(*key)))
            .cloned()
            .collect();
        let gone: Vec<_> = gone.iter().map(|key| contents.remove(key)).collect();
        drop(contents);
        for before in gone {
            self.tell(before, None);
        }
        self.awaited.send_if_modified(|awaited| awaited.remove(&scope.cloned()));
        doubtful
    }

    /// Removes what was doubtful after a list and no watch has shown since.
    pub(super) fn drop_unconfirmed(&self, doubtful: &[Key]) {
        for key in doubtful {
            let mut contents = self.write();
            let before = if contents.unconfirmed.contains(key) {
                contents.remove(key)
            } else {
                None
            };
            drop(contents);
            self.tell(before, None);
        }
    }

    fn tell(&self, before: Option<Arc<K>>, after: Option<Arc<K>>) {
        if before.is_none() && after.is_none() {
            return;
        }
        let change = Change { before, after };
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(&change);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents<K>> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents<K>> {
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource> Contents<K> {
    fn object(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.get(key).map(Held::object)
    }

    /// Takes in an object in the place of `before`, and gives it as it is held from now on.
    fn insert(&mut self, key: Key, object: K, before: Option<&K>) -> Arc<K> {
        let known = self.objects.get_key_value(&key).map(|(key, _)| key.clone());
        let key = known.unwrap_or_else(|| Arc::new(key));
        let small = self
            .packing
            .as_ref()
            .and_then(|packing| Some(((packing.pack)(&object)?, packing.unpack)));
        let held = match small {
            Some((bytes, unpack)) => Held::Packed(key.clone(), bytes.into(), unpack),
            None => Held::Whole(Arc::new(object)),
        };
        let object = held.object();
        self.objects.insert(key.clone(), held);
        for index in &mut self.indexes {
            if let Some(before) = before {
                index.forget(&key, before);
            }
            for value in (index.values)(&object) {
                let value = index.place(&key, value);
                index.entries.entry(value).or_default().insert(key.clone());
            }
        }
        object
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        self.unconfirmed.remove(key);
        let before = self.objects.remove(key)?.object();
        for index in &mut self.indexes {
            index.forget(key, &before);
        }
        Some(before)
    }
}

impl<K> Index<K> {
    fn place(&self, key: &Key, value: String) -> Key {
        Key::new(if self.everywhere { "" } else { key.namespace.as_str() }, value)
    }

    fn forget(&mut self, key: &Key, object: &K) {
        for value in (self.values)(object) {
            let value = self.place(key, value);
            if let Some(keys) = self.entries.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Origin {
    Watch,
    OwnWrite,
}

/// Whether `object` is a later state than `held`. Resource versions of one kind are ordered numbers; where they are not, the last word counts.
fn newer<K: Resource>(object: &K, held: &K) -> bool {
    let version = |object: &K| {
        object
            .meta()
            .resource_version
            .as_deref()
            .and_then(|version| version.parse::<u64>().ok())
    };
    match (version(object), version(held)) {
        (Some(object), Some(held)) => object > held,
        _ => true,
    }
}

impl<K> fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cache")
    }
}

#[cfg(test)]
#[path = "cache_test.rs"]
mod tests;

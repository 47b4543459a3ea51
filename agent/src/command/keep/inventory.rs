//! What lies in the store, source by source: two listings, `catalog/` and `data/`, walked side by side, so that no more than one source
//! is in memory.

use std::collections::BTreeMap;

use holdfast_crds::document::{Label, ObjectPath, RunPath};
use jiff::Timestamp;

use crate::store::{ObjectVersion, Store, StoreError, StorePath, VersionPages};

/// So many runs are listed one by one; of more, the whole source is.
const FEW: usize = 16;

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lying {
    pub version: Option<String>,
    pub marker: bool,
    pub size: u64,
    pub modified: Option<Timestamp>,
}

/// All versions of an object, the oldest first: the first decides, as nothing is ever overwritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(pub Vec<Lying>);

impl Versions {
    /// The object as it was first written.
    pub fn first(&self) -> Option<&Lying> {
        self.0.iter().find(|lying| !lying.marker)
    }

    /// Whether somebody wrote or deleted under a name that is written once.
    pub fn altered(&self) -> bool {
        self.0.len() > 1 || self.0.iter().any(|lying| lying.marker)
    }

    /// When the newest of it was written.
    pub fn modified(&self) -> Option<Timestamp> {
        self.0.iter().filter_map(|lying| lying.modified).max()
    }
}

/// What lies in a run's folders.
#[derive(Clone, Debug, Default)]
pub struct RunFolder {
    pub outcome: Versions,
    /// Records and keys, by path.
    pub catalog: BTreeMap<String, (ObjectPath, Versions)>,
    /// Parts and indices, by path.
    pub data: BTreeMap<String, Versions>,
}

impl RunFolder {
    /// When the newest of all was written.
    pub fn modified(&self) -> Option<Timestamp> {
        let catalog = self.catalog.values().map(|(_, versions)| versions);
        let all = std::iter::once(&self.outcome).chain(catalog).chain(self.data.values());
        all.filter_map(Versions::modified).max()
    }
}

/// What lies in a source's folders.
#[derive(Clone, Debug)]
pub struct SourceFolder {
    pub namespace: Label,
    pub source: Label,
    pub runs: BTreeMap<Label, RunFolder>,
    /// Records of the source, by path.
    pub records: BTreeMap<String, (ObjectPath, Versions)>,
    /// Names that nothing of ours has.
    pub foreign: Vec<String>,
    /// Whether `data/` was listed too: only then is anything known of what is missing there.
    pub data_listed: bool,
}

impl SourceFolder {
    fn new(namespace: Label, source: Label) -> Self {
        Self {
            namespace,
            source,
            runs: BTreeMap::new(),
            records: BTreeMap::new(),
            foreign: Vec::new(),
            data_listed: true,
        }
    }

    /// What lies in the catalogue of one source, or of these runs of it. Who may not list versions sees the newest of each object.
    pub async fn catalogue(store: &Store, namespace: &Label, source: &Label, only: &[Label]) -> Result<Self, StoreError> {
        let mut folder = Self {
            data_listed: false,
            ..Self::new(namespace.clone(), source.clone())
        };
        let of_source = format!("catalog/{namespace}/{source}");
        let directories = match only.len() {
            1..=FEW => only.iter().map(|run| format!("{of_source}/{run}")).collect(),
            _ => vec![of_source],
        };
        for directory in directories {
            match folder.list_versions(store, &directory).await {
                Err(StoreError::Denied { .. } | StoreError::Unsupported { .. }) => folder.list(store, &directory).await?,
                listed => listed?,
            }
        }
        if !only.is_empty() {
            folder.runs.retain(|run, _| only.contains(run));
        }
        Ok(folder)
    }

    async fn list_versions(&mut self, store: &Store, directory: &str) -> Result<(), StoreError> {
        let mut walk = Walk::new(store, directory)?;
        while let Some(group) = walk.group().await? {
            while let Some((path, versions)) = walk.object(&group).await? {
                self.add(&path, versions);
            }
        }
        Ok(())
    }

    async fn list(&mut self, store: &Store, directory: &str) -> Result<(), StoreError> {
        let mut pages = store.pages(&directory.parse()?);
        while let Some(page) = pages.next().await? {
            for object in page {
                let only = Lying {
                    version: None,
                    marker: false,
                    size: object.size,
                    modified: object.modified,
                };
                self.add(&object.path, Versions(vec![only]));
            }
        }
        Ok(())
    }

    pub fn run_path(&self, run: &Label) -> RunPath {
        RunPath {
            namespace: self.namespace.clone(),
            source: self.source.clone(),
            run: run.clone(),
        }
    }

    pub fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.source)
    }

    fn add(&mut self, path: &str, versions: Versions) {
        let Ok(object) = path.parse::<ObjectPath>() else {
            self.foreign.push(path.to_owned());
            return;
        };
        let run = match &object {
            ObjectPath::SourceRecord { .. } => {
                self.records.insert(path.to_owned(), (object, versions));
                return;
            }
            ObjectPath::Outcome { run } | ObjectPath::Record { run, .. } => run,
            ObjectPath::Key { pod, .. } => &pod.run,
            ObjectPath::Part { stream, .. } | ObjectPath::Index { stream } => &stream.pod.run,
            ObjectPath::Owner { .. } | ObjectPath::Probe { .. } | ObjectPath::Hold { .. } => return,
        };
        let folder = self.runs.entry(run.run.clone()).or_default();
        match &object {
            ObjectPath::Outcome { .. } => folder.outcome = versions,
            ObjectPath::Part { .. } | ObjectPath::Index { .. } => {
                folder.data.insert(path.to_owned(), versions);
            }
            _ => {
                folder.catalog.insert(path.to_owned(), (object, versions));
            }
        }
    }
}

/// One of the two listings, as a stream of objects with all their versions.
struct Walk {
    pages: VersionPages,
    page: std::vec::IntoIter<ObjectVersion>,
    /// The first version of the next object, read one too far.
    ahead: Option<ObjectVersion>,
}

impl Walk {
    fn new(store: &Store, directory: &str) -> Result<Self, StoreError> {
        let directory: StorePath = directory.parse()?;
        Ok(Self {
            pages: store.list_versions(&directory),
            page: Vec::new().into_iter(),
            ahead: None,
        })
    }

    async fn version(&mut self) -> Result<Option<ObjectVersion>, StoreError> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        loop {
            if let Some(version) = self.page.next() {
                return Ok(Some(version));
            }
            match self.pages.next().await? {
                Some(page) => self.page = page.into_iter(),
                None => return Ok(None),
            }
        }
    }

    /// The group (`<namespace>/<source>/`) of the object that comes next.
    async fn group(&mut self) -> Result<Option<String>, StoreError> {
        let Some(version) = self.version().await? else { return Ok(None) };
        let group = group_of(&version.path);
        self.ahead = Some(version);
        Ok(Some(group))
    }

    /// The next object of `group`.
    async fn object(&mut self, group: &str) -> Result<Option<(String, Versions)>, StoreError> {
        let Some(first) = self.version().await? else { return Ok(None) };
        if group_of(&first.path) != group {
            self.ahead = Some(first);
            return Ok(None);
        }
        let path = first.path.clone();
        let mut versions = vec![first];
        while let Some(next) = self.version().await? {
            if next.path != path {
                self.ahead = Some(next);
                break;
            }
            versions.push(next);
        }
        // Stores list the newest version first.
        let lying = versions.into_iter().rev().map(|version| Lying {
            version: version.version,
            marker: version.is_delete_marker,
            size: version.size,
            modified: version.modified,
        });
        Ok(Some((path, Versions(lying.collect()))))
    }
}

/// `<namespace>/<source>/` of a path below `catalog/` or `data/`, or what there is of it.
fn group_of(path: &str) -> String {
    let mut segments = path.split('/').skip(1);
    let mut group = String::new();
    for segment in segments.by_ref().take(2) {
        group.push_str(segment);
        group.push('/');
    }
    group
}

/// What lies in the catalogue of a run now, without its data.
pub async fn catalogue_of(store: &Store, run: &RunPath) -> Result<RunFolder, StoreError> {
    let mut folder = SourceFolder::new(run.namespace.clone(), run.source.clone());
    let mut walk = Walk::new(store, &format!("catalog/{run}"))?;
    while let Some((path, versions)) = walk.object(&format!("{}/", folder.name())).await? {
        folder.add(&path, versions);
    }
    Ok(folder.runs.remove(&run.run).unwrap_or_default())
}

/// The sources of a store, in the order of its listings.
pub struct Inventory {
    walks: [Walk; 2],
    /// The groups that are left out: those before the first, and from the second on.
    from: Option<String>,
    to: Option<String>,
}

/// A source's folder, or names that belong to no source.
pub enum Found {
    Source(Box<SourceFolder>),
    Foreign(Vec<String>),
}

impl Inventory {
    /// All sources: those from `source` (`<namespace>/<source>`) on first, then those before it.
    pub fn beginning_with(store: &Store, source: Option<&str>) -> Result<Vec<Self>, StoreError> {
        let group = source.map(|source| format!("{source}/"));
        let mut parts = vec![Self::between(store, "", group.clone(), None)?];
        if group.is_some() {
            parts.push(Self::between(store, "", None, group)?);
        }
        Ok(parts)
    }

    /// Only the sources of a namespace, or one of them.
    pub fn within(store: &Store, namespace: Option<&Label>, source: Option<&Label>) -> Result<Self, StoreError> {
        let names = [namespace, source.filter(|_| namespace.is_some())];
        let within = names
            .into_iter()
            .flatten()
            .fold(String::new(), |within, name| within + "/" + name.as_str());
        Self::between(store, &within, None, None)
    }

    fn between(store: &Store, within: &str, from: Option<String>, to: Option<String>) -> Result<Self, StoreError> {
        Ok(Self {
            walks: [
                Walk::new(store, &format!("catalog{within}"))?,
                Walk::new(store, &format!("data{within}"))?,
            ],
            from,
            to,
        })
    }

    /// The group that comes next in either listing.
    async fn group(&mut self) -> Result<Option<String>, StoreError> {
        loop {
            let mut group: Option<String> = None;
            for walk in &mut self.walks {
                let next = walk.group().await?;
                group = match (group, next) {
                    (Some(group), Some(next)) => Some(group.min(next)),
                    (group, next) => group.or(next),
                };
            }
            let Some(group) = group.filter(|group| self.to.as_ref().is_none_or(|to| group < to)) else {
                return Ok(None);
            };
            if self.from.as_ref().is_none_or(|from| group >= *from) {
                return Ok(Some(group));
            }
            for walk in &mut self.walks {
                while walk.object(&group).await?.is_some() {}
            }
        }
    }

    /// The next source. After an error nothing that was listed can be relied on.
    pub async fn next(&mut self) -> Result<Option<Found>, StoreError> {
        let Some(group) = self.group().await? else { return Ok(None) };
        let names: Vec<_> = group.trim_end_matches('/').split('/').collect();
        let labels = match names[..] {
            [namespace, source] => Label::new("namespace", namespace).ok().zip(Label::new("source", source).ok()),
            _ => None,
        };
        let mut folder = labels.map(|(namespace, source)| SourceFolder::new(namespace, source));
        let mut foreign = Vec::new();
        for walk in &mut self.walks {
            while let Some((path, versions)) = walk.object(&group).await? {
                match &mut folder {
                    Some(folder) => folder.add(&path, versions),
                    None => foreign.push(path),
                }
            }
        }
        Ok(Some(match folder {
            Some(folder) => Found::Source(Box::new(folder)),
            None => Found::Foreign(foreign),
        }))
    }
}

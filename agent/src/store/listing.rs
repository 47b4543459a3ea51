//! Listings that add up, and uploads that were left behind.

use super::{
    Store,
    backend::{ObjectMeta, ObjectVersion, OpenUpload, Page},
    error::StoreError,
    path::StorePath,
};
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

/// Pages in a row that hold nothing, after which a listing is taken for broken.
const MAX_EMPTY_PAGES: u32 = 100;

/// Checks that the pages of one listing add up: no token and no item comes twice, everything lies under the prefix, it gets on.
struct Sum {
    prefix: String,
    /// Hashes of tokens and of items.
    seen: HashSet<u64>,
    empty: u32,
}

impl Sum {
    fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            seen: HashSet::new(),
            empty: 0,
        }
    }

    fn problem(&self, problem: String) -> StoreError {
        StoreError::Listing {
            prefix: self.prefix.clone(),
            problem,
        }
    }

    fn first_time(&mut self, kind: u8, text: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        (kind, text).hash(&mut hasher);
        self.seen.insert(hasher.finish())
    }

    fn add<'a>(&mut self, items: impl IntoIterator<Item = (&'a str, &'a str)>, next: Option<&str>) -> Result<(), StoreError> {
        let mut none = true;
        for (path, id) in items {
            none = false;
            if !path.starts_with(&self.prefix) {
                return Err(self.problem(format!("{path:?} was listed and is not under it")));
            }
            if !self.first_time(0, &format!("{path}\0{id}")) {
                return Err(self.problem(format!("{path:?} was listed twice")));
            }
        }
        self.empty = if none { self.empty + 1 } else { 0 };
        if self.empty > MAX_EMPTY_PAGES {
            return Err(self.problem(format!("{MAX_EMPTY_PAGES} pages in a row were empty")));
        }
        match next {
            Some(token) if !self.first_time(1, token) => Err(self.problem("it goes round in a circle".to_owned())),
            _ => Ok(()),
        }
    }
}

/// The pages of a listing, one after the other.
pub struct Pages {
    store: Store,
    sum: Sum,
    next: Option<String>,
    done: bool,
}

impl Pages {
    /// The next page, in the store's order; `None` after the last. After an error the listing is worthless.
    pub async fn next(&mut self) -> Result<Option<Vec<ObjectMeta>>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let store = self.store.clone();
        let page = store.repeat("list", |backend| backend.list(&self.sum.prefix, self.next.as_deref()));
        let Page { items, next } = page.await?;
        self.sum.add(items.iter().map(|item| (item.path.as_str(), "")), next.as_deref())?;
        self.done = next.is_none();
        self.next = next;
        Ok(Some(items))
    }
}

/// The pages of a listing of versions, one after the other.
pub struct VersionPages {
    store: Store,
    sum: Sum,
    next: Option<String>,
    last: Option<ObjectVersion>,
    done: bool,
}

fn named(version: &ObjectVersion) -> (&str, &str) {
    (&version.path, version.version.as_deref().unwrap_or_default())
}

impl VersionPages {
    /// The next page, in the order of the names as bytes and newest versions first; `None` after the last. The versions of one object may be spread over pages.
    /// After an error the listing is worthless.
    pub async fn next(&mut self) -> Result<Option<Vec<ObjectVersion>>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let store = self.store.clone();
        let page = store.repeat("list versions", |backend| {
            backend.list_versions(&self.sum.prefix, self.next.as_deref())
        });
        let Page { mut items, next } = page.await?;
        // Some servers begin a page with the very version that the page before ended with (versitygw 1.8). Anything else that comes twice is refused.
        if self.last.is_some() && items.first().map(named) == self.last.as_ref().map(named) {
            items.remove(0);
        }
        self.sum.add(items.iter().map(named), next.as_deref())?;
        // Who takes stock relies on what belongs together lying together.
        let all = self.last.iter().chain(&items);
        if let Some((_, lower)) = all.clone().zip(all.skip(1)).find(|(one, next)| one.path > next.path) {
            return Err(self.sum.problem(format!("{:?} was listed out of order", lower.path)));
        }
        self.done = next.is_none();
        self.next = next;
        self.last = items.last().cloned().or(self.last.take());
        Ok(Some(items))
    }
}

impl Store {
    /// Lists every version and delete marker below `directory`, page by page; where the store has no versions, one of each object.
    pub fn list_versions(&self, directory: &StorePath) -> VersionPages {
        self.version_pages_under(&format!("{directory}/"))
    }

    pub(super) fn version_pages_under(&self, prefix: &str) -> VersionPages {
        VersionPages {
            store: self.clone(),
            sum: Sum::new(prefix),
            next: None,
            last: None,
            done: false,
        }
    }

    /// Lists what lies below `directory`, page by page.
    pub fn pages(&self, directory: &StorePath) -> Pages {
        Pages {
            store: self.clone(),
            sum: Sum::new(&format!("{directory}/")),
            next: None,
            done: false,
        }
    }

    /// Lists all that lies below `directory`, in the order of paths.
    ///
    /// # Errors
    /// [`StoreError::Listing`] if there are more than `limit` objects, or if the pages do not add up.
    pub async fn list(&self, directory: &StorePath, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut pages = self.pages(directory);
        let mut all = Vec::new();
        while let Some(page) = pages.next().await? {
            all.extend(page);
            if all.len() > limit {
                return Err(pages.sum.problem(format!("there are more than {limit} objects")));
            }
        }
        all.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }

    /// Aborts uploads below `directory` that began at least `age` ago by the store's clock, and returns how many. Those without a time of beginning are left.
    ///
    /// # Errors
    /// [`StoreError::Denied`] if the account may not list uploads: the bucket's lifecycle rule has to clear them.
    pub async fn abort_leftovers(&self, directory: &StorePath, age: Duration) -> Result<usize, StoreError> {
        let mut sum = Sum::new(&format!("{directory}/"));
        let mut from: Option<String> = None;
        let mut aborted = 0;
        loop {
            let page = self.repeat("list uploads", |backend| backend.list_uploads(&sum.prefix, from.as_deref()));
            let Page { items, next } = page.await?;
            sum.add(
                items.iter().map(|upload| (upload.path.as_str(), upload.id.as_str())),
                next.as_deref(),
            )?;
            let now = self.now();
            for OpenUpload { path, id, started } in items {
                let old = now
                    .zip(started)
                    .is_some_and(|(now, started)| now.duration_since(started) >= age.try_into().unwrap_or(jiff::SignedDuration::MAX));
                let ours = self.uploads().contains_key(&id);
                if old && !ours && self.abort(&path, &id).await {
                    aborted += 1;
                }
            }
            match next {
                Some(token) => from = Some(token),
                None => return Ok(aborted),
            }
        }
    }
}

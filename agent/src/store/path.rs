//! Places inside a store.

use holdfast_crds::document::ObjectPath;
use std::{fmt, str::FromStr};

/// The longest path that is accepted, in bytes. S3 ends at 1024; the store's own prefix needs room too.
pub const MAX_PATH: usize = 800;
/// The longest segment that is accepted, in bytes: what file systems hold.
pub const MAX_SEGMENT: usize = 255;

/// A path inside a store, relative to the store's prefix: segments of `A-Za-z0-9._=@+~-` joined by `/`, none of them empty or
/// starting with a dot. What does not fit (names of databases) is encoded by who builds the path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(String);

/// Why a path was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} in a store is refused: {problem}; expected segments of A-Za-z0-9._=@+~- that do not start with a dot, joined by /")]
pub struct InvalidPath {
    /// What was given.
    pub path: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl StorePath {
    /// The path as text, without a leading or trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of something below this one.
    ///
    /// # Errors
    /// If `rest` is not a path by itself or both together are too long.
    pub fn join(&self, rest: &str) -> Result<Self, InvalidPath> {
        format!("{}/{rest}", self.0).parse()
    }

    /// The last segment.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// True if this path lies below `directory` (and is not `directory` itself).
    pub fn is_below(&self, directory: &str) -> bool {
        self.0
            .strip_prefix(directory.trim_end_matches('/'))
            .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl FromStr for StorePath {
    type Err = InvalidPath;

    fn from_str(path: &str) -> Result<Self, InvalidPath> {
        let refuse = |problem| InvalidPath {
            path: path.chars().take(MAX_PATH).collect(),
            problem,
        };
        if path.len() > MAX_PATH {
            return Err(refuse("it is longer than 800 bytes"));
        }
        for segment in path.split('/') {
            if segment.is_empty() {
                return Err(refuse("it has an empty segment"));
            }
            if segment.starts_with('.') {
                return Err(refuse("a segment starts with a dot"));
            }
            if segment.len() > MAX_SEGMENT {
                return Err(refuse("a segment is longer than 255 bytes"));
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._=@+~-".contains(&b)) {
                return Err(refuse("a segment holds a character that is not allowed"));
            }
        }
        Ok(Self(path.to_owned()))
    }
}

impl From<&ObjectPath> for StorePath {
    /// Every place of the layout is a path: it is made of labels and fixed names.
    fn from(path: &ObjectPath) -> Self {
        Self(path.to_string())
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_confined() {
        for good in [
            "a",
            "catalog/shop/db/run-1/outcome.json",
            "data/a/b/c/d/db-shop/000001.zst.age",
            "x/A_b=c@d+e~f",
        ] {
            assert_eq!(good.parse::<StorePath>().map(|p| p.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", "a/./b", ".hidden", "a/.x", "a b", "a\\b", "a%2e", "a\0", "ä", "a/\n",
        ] {
            assert!(bad.parse::<StorePath>().is_err(), "{bad:?} was accepted");
        }
        assert!("a".repeat(256).parse::<StorePath>().is_err());
        assert!("a/".repeat(401).parse::<StorePath>().is_err());
    }

    #[test]
    fn below_means_below() {
        let path: StorePath = "data/a/b".parse().unwrap();
        assert!(path.is_below("data") && path.is_below("data/a/"));
        assert!(!path.is_below("dat") && !path.is_below("data/a/b"));
        assert_eq!(path.name(), "b");
    }
}

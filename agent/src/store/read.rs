//! Reading: streams that go on where a connection broke.

use super::{
    Store,
    backend::{ByteStream, ObjectMeta},
    create::Held,
    error::StoreError,
    path::StorePath,
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use std::ops::Range;

impl Store {
    /// Opens an object, or a range of its bytes, of the given version or the newest. A broken connection is resumed where it broke, on the same version.
    /// The stream ends with an error if it cannot deliver exactly what was asked for. Its content is for the caller to check.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such object; [`StoreError::Mismatch`] if the range reaches beyond its end.
    pub async fn open(
        &self,
        path: &StorePath,
        range: Option<Range<u64>>,
        version: Option<&str>,
    ) -> Result<(ObjectMeta, ByteStream), StoreError> {
        if let Some(range) = &range
            && range.start >= range.end
        {
            return Err(StoreError::Mismatch {
                path: path.to_string(),
                problem: format!("an empty range was asked for: {}..{}", range.start, range.end),
            });
        }
        let mut attempts = self.attempts("open");
        let (meta, body) = loop {
            match self.0.backend.get(path.as_str(), range.clone(), version).await {
                Ok(Some(found)) => break self.accepted(found),
                Ok(None) => return Err(StoreError::NotFound { path: path.to_string() }),
                Err(error) => attempts.again(error).await?,
            }
        };
        let range = range.unwrap_or(0..meta.size);
        if range.end > meta.size {
            return Err(StoreError::Mismatch {
                path: path.to_string(),
                problem: format!("bytes up to {} were asked for, it has {}", range.end, meta.size),
            });
        }
        let state = Resumable {
            store: self.clone(),
            path: path.clone(),
            version: version.map(str::to_owned).or_else(|| meta.version.clone()),
            size: meta.size,
            position: range.start,
            end: range.end,
            body: Some(body),
        };
        let stream = stream::try_unfold(
            state,
            |mut state| async move { Ok(state.next().await?.map(|bytes| (bytes, state))) },
        );
        Ok((meta, stream.boxed()))
    }

    /// One attempt to read a small object whole.
    pub(super) async fn read_once(&self, path: &StorePath, limit: u64) -> Result<Option<Held>, StoreError> {
        self.read_once_version(path, None, limit).await
    }

    pub(super) async fn read_once_version(&self, path: &StorePath, version: Option<&str>, limit: u64) -> Result<Option<Held>, StoreError> {
        let Some((meta, mut body)) = self.0.backend.get(path.as_str(), None, version).await? else {
            return Ok(None);
        };
        let too_large = |size| StoreError::TooLarge {
            path: path.to_string(),
            size,
            limit,
        };
        if meta.size > limit {
            return Err(too_large(meta.size));
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.try_next().await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large((bytes.len() + chunk.len()) as u64));
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() as u64 != meta.size {
            return Err(cut(path, bytes.len() as u64, meta.size));
        }
        Ok(Some(Held {
            bytes: bytes.freeze(),
            meta,
        }))
    }
}

fn cut(path: &StorePath, got: u64, expected: u64) -> StoreError {
    StoreError::Unreachable {
        call: "get",
        problem: format!("{path} ended after {got} of {expected} bytes"),
        connected: true,
        tls: false,
    }
}

struct Resumable {
    store: Store,
    path: StorePath,
    version: Option<String>,
    size: u64,
    position: u64,
    end: u64,
    body: Option<ByteStream>,
}

impl Resumable {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.position == self.end {
            return Ok(None);
        }
        let store = self.store.clone();
        let mut attempts = store.attempts("get");
        loop {
            let error = match self.poll().await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) => error,
            };
            self.body = None;
            attempts.again(error).await?;
        }
    }

    /// The next bytes, from the open body or a new one.
    async fn poll(&mut self) -> Result<Bytes, StoreError> {
        let body = if let Some(body) = &mut self.body {
            body
        } else {
            let range = self.position..self.end;
            let found = self
                .store
                .0
                .backend
                .get(self.path.as_str(), Some(range), self.version.as_deref())
                .await?;
            let (meta, body) = found.ok_or_else(|| StoreError::NotFound {
                path: self.path.to_string(),
            })?;
            if meta.size != self.size {
                let problem = format!("it had {} bytes when the read began and has {} now", self.size, meta.size);
                return Err(StoreError::Mismatch {
                    path: self.path.to_string(),
                    problem,
                });
            }
            self.body.insert(body)
        };
        let left = self.end - self.position;
        loop {
            let Some(bytes) = body.try_next().await? else {
                return Err(cut(&self.path, self.position, self.end));
            };
            if bytes.is_empty() {
                continue;
            }
            if bytes.len() as u64 > left {
                let problem = format!("it sent more than the {left} bytes that were asked for");
                return Err(StoreError::Malformed { call: "get", problem });
            }
            self.position += bytes.len() as u64;
            return Ok(bytes);
        }
    }
}

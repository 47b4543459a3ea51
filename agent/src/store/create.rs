//! Small objects: created once, never overwritten, always read back.

use super::{
    Store,
    backend::{Content, ObjectMeta},
    digest,
    error::{Class, StoreError},
    path::StorePath,
};
use bytes::Bytes;
use holdfast_crds::document::{self, ObjectPath, StoredObject, Ulid};
use jiff::{SignedDuration, Timestamp};
use object_store::PutPayload;
use std::sync::PoisonError;

/// The largest document that is created or read in one piece, in bytes: manifests and indices of documents stay well below.
pub const MAX_DOCUMENT: u64 = 64 << 20;

/// A small object as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its bytes.
    pub bytes: Bytes,
    /// Size and version.
    pub meta: ObjectMeta,
}

impl Held {
    /// As the outcome lists it: its bytes were read back.
    pub fn to_document(&self) -> StoredObject {
        StoredObject {
            path: self.meta.path.clone(),
            bytes: self.bytes.len() as u64,
            sha256: digest::of(&self.bytes),
            confirmed: document::Confirmed::ReadBack {},
            version_id: self.meta.version.clone(),
        }
    }
}

/// What came of a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The store holds our bytes.
    Ours(Held),
    /// The name was taken; the store holds these.
    Theirs(Held),
}

impl Store {
    /// Creates a small object if its name is free, and reads back what the store holds. Bytes that another attempt of the same content put there
    /// count as ours: who needs to tell apart puts a nonce into them.
    ///
    /// # Errors
    /// [`StoreError::InDoubt`] if it is not known whether the object was created; other errors mean that it was not.
    pub async fn create(&self, path: &StorePath, body: Bytes) -> Result<Created, StoreError> {
        self.create_while(path, body, || true).await
    }

    /// As [`Self::create`], with a question before each put: no means that no put is sent any more.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`] if the answer was no before anything was sent that could have taken effect.
    pub(super) async fn create_while(&self, path: &StorePath, body: Bytes, goes_on: impl Fn() -> bool) -> Result<Created, StoreError> {
        if body.len() as u64 > MAX_DOCUMENT {
            return Err(StoreError::TooLarge {
                path: path.to_string(),
                size: body.len() as u64,
                limit: MAX_DOCUMENT,
            });
        }
        let sha256 = digest::of(&body);
        let payload = PutPayload::from_bytes(body.clone());
        let decide = |held: Held| {
            if held.bytes == body {
                Created::Ours(held)
            } else {
                Created::Theirs(held)
            }
        };
        let in_doubt = |source: StoreError| StoreError::InDoubt {
            path: path.to_string(),
            source: Box::new(source),
        };
        let mut attempts = self.attempts("create");
        // Whether an attempt may have been carried out although it failed.
        let mut ambiguous = false;
        loop {
            if !goes_on() {
                return match self.read_once(path, MAX_DOCUMENT).await {
                    Ok(Some(held)) if ambiguous => Ok(decide(held)),
                    _ if ambiguous => Err(in_doubt(StoreError::Cancelled)),
                    _ => Err(StoreError::Cancelled),
                };
            }
            let outcome = self.0.backend.create(path.as_str(), Content::Document, &payload, &sha256).await;
            let error = match outcome {
                Ok(()) | Err(StoreError::AlreadyExists { .. }) => {
                    self.accepted(());
                    return self.read_back(path).await.map(decide).map_err(in_doubt);
                }
                Err(error) => error,
            };
            ambiguous |= error.is_ambiguous();
            if error.class() == Class::Transient
                && error.is_ambiguous()
                && let Ok(Some(held)) = self.read_once(path, MAX_DOCUMENT).await
            {
                return Ok(decide(held));
            }
            if let Err(last) = attempts.again(error).await {
                if !ambiguous {
                    return Err(last);
                }
                // The last word is the store's, if it can still be had.
                return match self.read_once(path, MAX_DOCUMENT).await {
                    Ok(Some(held)) => Ok(decide(held)),
                    // Absent now does not mean absent for ever: the put may still be on its way.
                    Ok(None) | Err(_) => Err(in_doubt(last)),
                };
            }
        }
    }

    /// Writes a record or a hold once, and reads it back: `create_record(&record.path(), record.to_bytes())`.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if something else lies there: a name is made of a fresh [`Self::ulid`], so that nobody else has it.
    pub async fn create_record(&self, place: &ObjectPath, bytes: Vec<u8>) -> Result<Held, StoreError> {
        let path = StorePath::from(place);
        match self.create(&path, bytes.into()).await? {
            Created::Ours(held) => Ok(held),
            Created::Theirs(_) => Err(StoreError::Mismatch {
                path: path.to_string(),
                problem: "a record was written once and reads back as another".to_owned(),
            }),
        }
    }

    /// A fresh name for a record: of the store's time and 80 random bits. Each is later than all that this store's handle gave before, so that
    /// records sort as they were written.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn ulid(&self) -> Result<Ulid, StoreError> {
        let mut random = [0; 10];
        super::fill(&mut random)?;
        let now = self.now().unwrap_or_else(Timestamp::now);
        let mut last = self.0.last_named.lock().unwrap_or_else(PoisonError::into_inner);
        let after = last.checked_add(SignedDuration::from_millis(1)).unwrap_or(*last);
        *last = now.max(after);
        Ok(Ulid::new(*last, random))
    }

    /// Reads a small object, of at most `limit` bytes; `None` if it is not there.
    pub async fn read(&self, path: &StorePath, limit: u64) -> Result<Option<Held>, StoreError> {
        let mut attempts = self.attempts("read");
        loop {
            match self.read_once(path, limit).await {
                Ok(found) => return Ok(self.accepted(found)),
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    /// Reads what must be there, as it was just created or found taken.
    async fn read_back(&self, path: &StorePath) -> Result<Held, StoreError> {
        let mut attempts = self.attempts("read back");
        loop {
            let error = match self.read_once(path, MAX_DOCUMENT).await {
                Ok(Some(held)) => return Ok(held),
                Ok(None) => StoreError::Malformed {
                    call: "read back",
                    problem: format!("{path} was created and is not there"),
                },
                Err(error) => error,
            };
            attempts.again(error).await?;
        }
    }
}

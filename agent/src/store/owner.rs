//! Who writes to a store: `owner/<epoch>.json`, of which the highest counts.

use super::{Created, Store, StoreError, StorePath, random};
use holdfast_crds::{
    Reason,
    document::{DocumentError, ObjectPath, Owner},
};

/// The largest owner document, in bytes.
const LIMIT: u64 = 64 << 10;
/// The most epochs that are read.
const MAX_EPOCHS: usize = 10_000;

/// The owner of a store at some moment. A Job pins it when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    owner: Owner,
}

/// Why a store may not be written to.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The store failed.
    #[error("read the store's owner: {0}")]
    Store(#[from] StoreError),
    /// The document cannot be read.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Something lies among the owners that is none.
    #[error("{path} is no owner: {problem}; the store was altered or another program writes there")]
    Unreadable {
        /// Where.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Another cluster, or another store object of this one, writes here.
    #[error("this place belongs to cluster {cluster:?}, store {store:?} (epoch {epoch}); use another prefix, or read from it only")]
    Foreign {
        /// Whose it is.
        cluster: String,
        /// Namespace and name of the store object.
        store: String,
        /// Since which epoch.
        epoch: u64,
    },
    /// A take-over names another cluster than the one that the place belongs to.
    #[error(
        "spec.takeOver: found {from:?}, but this place belongs to {}; name the cluster that it belongs to",
        cluster.as_ref().map_or("nobody".to_owned(), |cluster| format!("cluster {cluster:?}"))
    )]
    NotTheirs {
        /// Whom it was to be taken from.
        from: String,
        /// Whose it is.
        cluster: Option<String>,
    },
    /// Somebody took the store over since the Job started.
    #[error("the store was taken over by cluster {cluster:?} in epoch {epoch}, after this Job had started in epoch {pinned}")]
    TakenOver {
        /// Who.
        cluster: String,
        /// In which epoch.
        epoch: u64,
        /// The epoch that this Job started in.
        pinned: u64,
    },
}

impl OwnerError {
    /// The reason that users see.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Store(error) => error.reason(),
            Self::Document(DocumentError::NewerVersion { .. }) => Reason::FormatUnknown,
            Self::Document(_) | Self::Unreadable { .. } => Reason::Tampered,
            Self::Foreign { .. } | Self::TakenOver { .. } | Self::NotTheirs { .. } => Reason::StoreForeign,
        }
    }
}

impl Pinned {
    /// The cluster that writes.
    pub fn cluster(&self) -> &str {
        &self.owner.cluster
    }

    /// Its epoch, from 1.
    pub fn epoch(&self) -> u64 {
        self.owner.epoch
    }
}

impl Store {
    /// The owner now; `None` if nobody ever wrote here.
    pub async fn owner(&self) -> Result<Option<Pinned>, OwnerError> {
        let directory: StorePath = "owner".parse().map_err(StoreError::Path)?;
        let mut highest = None;
        for object in self.list(&directory, MAX_EPOCHS).await? {
            let Ok(ObjectPath::Owner { epoch }) = object.path.parse() else {
                return Err(OwnerError::Unreadable {
                    path: object.path,
                    problem: "its name is not <epoch>.json".to_owned(),
                });
            };
            highest = highest.max(Some(epoch));
        }
        match highest {
            Some(epoch) => Ok(Some(self.read_owner(epoch).await?)),
            None => Ok(None),
        }
    }

    /// What cannot be read is read once more: a bit that flipped on the way is no reason to give a run up.
    async fn read_owner(&self, epoch: u64) -> Result<Pinned, OwnerError> {
        match self.read_owner_once(epoch).await {
            Err(OwnerError::Document(_) | OwnerError::Unreadable { .. }) => self.read_owner_once(epoch).await,
            read => read,
        }
    }

    async fn read_owner_once(&self, epoch: u64) -> Result<Pinned, OwnerError> {
        let path = StorePath::from(&ObjectPath::Owner { epoch });
        let held = self
            .read(&path, LIMIT)
            .await?
            .ok_or_else(|| StoreError::NotFound { path: path.to_string() })?;
        let owner = Owner::from_bytes(&held.bytes)?;
        if owner.epoch != epoch {
            return Err(OwnerError::Unreadable {
                path: path.to_string(),
                problem: format!("it says epoch {}", owner.epoch),
            });
        }
        Ok(Pinned { owner })
    }

    /// Pins the owner if that is `cluster`, through its store object `store` (`<namespace>/<name>`). A store without an owner becomes theirs.
    ///
    /// # Errors
    /// [`OwnerError::Foreign`] if it is somebody else's.
    pub async fn claim(&self, cluster: &str, store: &str) -> Result<Pinned, OwnerError> {
        let pinned = if let Some(pinned) = self.owner().await? {
            pinned
        } else {
            let since = self.now().unwrap_or_else(jiff::Timestamp::now);
            let first = Owner::first(cluster, store, since, random()?);
            let path = StorePath::from(&ObjectPath::Owner { epoch: first.epoch });
            match self.create(&path, first.to_bytes().into()).await? {
                Created::Ours(_) => Pinned { owner: first },
                Created::Theirs(_) => self.read_owner(first.epoch).await?,
            }
        };
        let Owner {
            cluster: theirs,
            store: their_store,
            epoch,
            ..
        } = &pinned.owner;
        if theirs != cluster || their_store != store {
            return Err(OwnerError::Foreign {
                cluster: theirs.clone(),
                store: their_store.clone(),
                epoch: *epoch,
            });
        }
        Ok(pinned)
    }

    /// Takes the store over from cluster `from`: the next epoch is `cluster`'s, through its store object `store`. Jobs of older epochs stop before they commit
    /// or delete. Does nothing where it is theirs already.
    ///
    /// # Errors
    /// [`OwnerError::NotTheirs`] if the store does not belong to `from` (now); [`OwnerError::Foreign`] if another take-over was faster.
    pub async fn take_over(&self, cluster: &str, store: &str, from: &str) -> Result<Pinned, OwnerError> {
        let Some(Pinned { owner: before }) = self.owner().await? else {
            return Err(OwnerError::NotTheirs {
                from: from.to_owned(),
                cluster: None,
            });
        };
        if before.cluster == cluster && before.store == store {
            return Ok(Pinned { owner: before });
        }
        if before.cluster != from {
            return Err(OwnerError::NotTheirs {
                from: from.to_owned(),
                cluster: Some(before.cluster),
            });
        }
        let next = Owner {
            epoch: before.epoch + 1,
            takes_over: Some(before.cluster),
            ..Owner::first(cluster, store, self.now().unwrap_or_else(jiff::Timestamp::now), random()?)
        };
        let path = StorePath::from(&ObjectPath::Owner { epoch: next.epoch });
        self.create(&path, next.to_bytes().into()).await?;
        // Whoever was faster, and whoever came after.
        self.claim(cluster, store).await
    }

    /// Looks again whether the owner is still the one that was pinned: right before a commit or a deletion.
    pub async fn still_owned(&self, pinned: &Pinned) -> Result<(), OwnerError> {
        let mut now = self.owner().await?;
        if now.as_ref().is_some_and(|now| now != pinned && now.epoch() == pinned.epoch()) {
            // An epoch is written once: a bit may have flipped on the way.
            now = self.owner().await?;
        }
        match now {
            Some(now) if now == *pinned => Ok(()),
            Some(now) => Err(OwnerError::TakenOver {
                cluster: now.owner.cluster,
                epoch: now.owner.epoch,
                pinned: pinned.epoch(),
            }),
            None => Err(OwnerError::Unreadable {
                path: "owner/".to_owned(),
                problem: "the owner that was pinned is gone".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Patience,
        faulty::{CallKind, Fault, Faulty},
        memory::Memory,
    };
    use super::*;

    fn store(memory: &Memory) -> Store {
        Store::new(memory.clone(), Patience::RUN, 1)
    }

    fn second(memory: &Memory, cluster: &str) {
        let mut owner = Owner::first(cluster, "shop/offsite", jiff::Timestamp::now(), "n");
        owner.epoch = 2;
        owner.takes_over = Some("a".to_owned());
        memory.plant("owner/2.json", owner.to_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_who_writes_owns() {
        let memory = Memory::new();
        let pinned = store(&memory).claim("a", "shop/offsite").await.unwrap();
        assert_eq!((pinned.cluster(), pinned.epoch()), ("a", 1));
        assert_eq!(store(&memory).claim("a", "shop/offsite").await.unwrap(), pinned);
        let other = store(&memory).claim("b", "shop/offsite").await.unwrap_err();
        assert!(other.to_string().contains("belongs to cluster \"a\""), "{other}");
        assert_eq!(other.reason(), Reason::StoreForeign);
        assert!(
            matches!(store(&memory).claim("a", "shop/second").await, Err(OwnerError::Foreign { .. })),
            "one place, one store object"
        );
        assert_eq!(memory.versions_of("owner/1.json"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_who_claim_at_once_one_owns() {
        let memory = Memory::new();
        // All have listed before the first creates.
        let slow = || Faulty::first(memory.clone(), CallKind::Create, 1, Fault::Slow(std::time::Duration::from_secs(1)));
        let claims = (0..8).map(|cluster| {
            let store = Store::new(slow(), Patience::RUN, 1);
            async move { store.claim(&cluster.to_string(), "shop/offsite").await }
        });
        let claims = futures::future::join_all(claims).await;
        assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1);
        assert!(claims.iter().flatten().all(|pinned| pinned.epoch() == 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_take_over_stops_who_pinned_an_older_epoch() {
        let memory = Memory::new();
        let store = store(&memory);
        let pinned = store.claim("a", "shop/offsite").await.unwrap();
        store.still_owned(&pinned).await.unwrap();
        second(&memory, "b");
        let stopped = store.still_owned(&pinned).await.unwrap_err();
        assert!(matches!(stopped, OwnerError::TakenOver { epoch: 2, pinned: 1, .. }), "{stopped:?}");
        assert!(matches!(
            store.claim("a", "shop/offsite").await,
            Err(OwnerError::Foreign { epoch: 2, .. })
        ));
        store.claim("b", "shop/offsite").await.unwrap();
        // Taken over by the same cluster: older Jobs stop all the same.
        second(&memory, "a");
        assert!(store.still_owned(&pinned).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_bit_that_flipped_on_the_way_is_no_take_over() {
        let memory = Memory::new();
        let pinned = store(&memory).claim("a", "shop/offsite").await.unwrap();
        let flipped = Faulty::first(memory.clone(), CallKind::Get, 1, Fault::Flip);
        Store::new(flipped, Patience::RUN, 1).still_owned(&pinned).await.unwrap();
        let altered = Owner::first("a", "shop/offsite", jiff::Timestamp::now(), "another");
        memory.plant("owner/1.json", altered.to_bytes());
        let stopped = store(&memory).still_owned(&pinned).await.unwrap_err();
        assert_eq!(
            stopped.reason(),
            Reason::StoreForeign,
            "an epoch that was overwritten stops all the same"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_is_not_taken() {
        for (name, bytes) in [
            ("owner/1.json", "{}"),
            ("owner/x.json", "{}"),
            ("owner/01.json", "{}"),
            ("owner/3.json", "no JSON"),
        ] {
            let memory = Memory::new();
            memory.plant(name, bytes);
            assert!(store(&memory).claim("a", "s").await.is_err(), "{name}");
        }
        let memory = Memory::new();
        memory.plant("owner/3.json", Owner::first("a", "s", jiff::Timestamp::now(), "n").to_bytes());
        assert!(
            matches!(store(&memory).claim("a", "s").await, Err(OwnerError::Unreadable { .. })),
            "name and content differ"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_is_taken_over_from_whom_it_belongs_to() {
        let memory = Memory::new();
        let store = store(&memory);
        let nobody = store.take_over("b", "shop/offsite", "a").await.unwrap_err();
        assert!(nobody.to_string().contains("belongs to nobody"), "{nobody}");
        let pinned = store.claim("a", "shop/offsite").await.unwrap();
        let other = store.take_over("b", "shop/offsite", "c").await.unwrap_err();
        assert!(
            other.to_string().contains("found \"c\"") && other.to_string().contains("cluster \"a\""),
            "{other}"
        );
        assert_eq!(other.reason(), Reason::StoreForeign);
        assert!(memory.objects().len() == 1, "nothing was written");
        let taken = store.take_over("b", "vault/offsite", "a").await.unwrap();
        assert_eq!((taken.cluster(), taken.epoch()), ("b", 2));
        assert_eq!(store.take_over("b", "vault/offsite", "a").await.unwrap(), taken, "once is enough");
        assert!(matches!(
            store.still_owned(&pinned).await,
            Err(OwnerError::TakenOver { epoch: 2, pinned: 1, .. })
        ));
        assert!(matches!(store.claim("a", "shop/offsite").await, Err(OwnerError::Foreign { .. })));
        // The same cluster under another name of the store object, and back.
        store.take_over("b", "vault/second", "b").await.unwrap();
        assert_eq!(store.take_over("a", "shop/offsite", "b").await.unwrap().epoch(), 4);
    }

    /// Each call of a take-over fails in each way, or is the last one of a process that is killed: in the end there is one owner, and no epoch is written twice.
    #[tokio::test(start_paused = true)]
    async fn a_take_over_survives_a_fault_in_any_call() {
        let faults = [
            Fault::Before(Fault::reset()),
            Fault::After(Fault::reset()),
            Fault::Before(Fault::slow_down()),
            Fault::CrashBefore,
            Fault::CrashAfter,
        ];
        for fault in faults {
            for index in 0..8 {
                let memory = Memory::new();
                let old = store(&memory).claim("a", "shop/offsite").await.unwrap();
                let dying = Faulty::at(memory.clone(), index, fault.clone());
                let first = Store::new(dying.clone(), Patience::RUN, 1)
                    .take_over("b", "shop/offsite", "a")
                    .await;
                assert!(first.is_ok() || dying.crashed(), "{fault:?} in call {index}: {first:?}");
                let taken = store(&memory).take_over("b", "shop/offsite", "a").await.unwrap();
                assert_eq!((taken.cluster(), taken.epoch()), ("b", 2), "{fault:?} in call {index}");
                assert!(store(&memory).still_owned(&old).await.is_err());
                assert_eq!(memory.versions_of("owner/2.json"), 1);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_who_take_over_at_once_one_owns() {
        let memory = Memory::new();
        store(&memory).claim("a", "shop/offsite").await.unwrap();
        let slow = || Faulty::first(memory.clone(), CallKind::Create, 1, Fault::Slow(std::time::Duration::from_secs(1)));
        let takes = ["b", "c"].map(|cluster| {
            let store = Store::new(slow(), Patience::RUN, 1);
            async move { store.take_over(cluster, "shop/offsite", "a").await }
        });
        let results = futures::future::join_all(takes).await;
        assert_eq!(results.iter().filter(|taken| taken.is_ok()).count(), 1, "{results:?}");
        assert!(
            results
                .iter()
                .any(|taken| matches!(taken, Err(OwnerError::Foreign { epoch: 2, .. })))
        );
    }
}

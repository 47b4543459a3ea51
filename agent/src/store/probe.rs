//! The probe: what a store really does, found out by doing it.
//!
//! It works under `probe/<store uid>/`, which a lifecycle rule may clear, and takes away what it can: a writer need not have the right to delete.

mod lock;
mod role;

use super::{
    Checksum, Confirmed, Created, ObjectMeta, OwnerError, Patience, Pinned, Store, StoreError, StorePath,
    backend::{CANARY, Content, Piece, Versioning},
    digest, random,
};
use futures::future::join_all;
use holdfast_crds::{
    ProbeCheck, ProbeReport, Reason,
    document::{Label, ObjectPath},
};
use jiff::{SignedDuration, Timestamp};
use object_store::PutPayload;
use std::time::Duration;

/// How many creates race.
const RACERS: usize = 8;
/// How often a race is run again that said nothing, because the store was busy.
const RACES: usize = 3;
/// How far the store's clock may be from ours.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);
/// How long a probe may take in all.
pub const TIMEOUT: Duration = Duration::from_mins(4);
/// The longest message of a check, in bytes.
const MESSAGE: usize = 512;

/// What is probed, and for whom.
#[derive(Clone, Debug)]
pub struct Probe {
    /// UID of the store object.
    pub uid: Label,
    /// The cluster that wants to write.
    pub cluster: String,
    /// Namespace and name of the store object.
    pub store: String,
    /// A time that is past for sure: when the probe was made, by the API server.
    pub not_before: Option<Timestamp>,
    /// The cluster that the place is taken over from.
    pub take_over: Option<String>,
    /// The store with the rights of the other roles, where these have credentials of their own.
    pub roles: Roles,
}

/// A store with the rights of each role that has credentials of its own.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// Who reads for restores.
    pub reader: Option<Store>,
    /// Who writes records, and sets locks and holds.
    pub keeper: Option<Store>,
    /// Who deletes.
    pub pruner: Option<Store>,
}

/// The patience of a store that is probed.
pub const PATIENCE: Patience = Patience::PROBE;

/// What a probe came to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// All that was found.
    pub report: ProbeReport,
    /// [`Reason::StoreReady`], or that of the first check that failed.
    pub reason: Reason,
    /// What the first failed check said; empty if none failed.
    pub message: String,
}

/// Why a check failed.
struct Finding {
    reason: Reason,
    message: String,
}

impl From<StoreError> for Finding {
    fn from(error: StoreError) -> Self {
        Self {
            reason: error.reason(),
            message: error.to_string(),
        }
    }
}

fn unsafe_store(message: impl Into<String>) -> Finding {
    Finding {
        reason: Reason::StoreUnsafe,
        message: message.into(),
    }
}

/// What passed, in words.
type Passed = Result<String, Finding>;

impl Store {
    /// Tries everything that copies need. A check is skipped where one before it makes it pointless.
    pub async fn probe(&self, probe: &Probe) -> Verdict {
        let mut report = ProbeReport {
            checks: Vec::new(),
            versioning: None,
            object_lock: None,
            clock_skew_seconds: None,
            owner: None,
            epoch: None,
        };
        if tokio::time::timeout(TIMEOUT, self.try_all(probe, &mut report)).await.is_err() {
            let message = format!("no end within {} s", TIMEOUT.as_secs());
            record(
                &mut report,
                "Time",
                Err(Finding {
                    reason: Reason::StoreUnreachable,
                    message,
                }),
            );
        }
        let failed = report.checks.iter().find(|check| !check.passed);
        let reason = failed.map_or(Reason::StoreReady, |check| check.reason.unwrap_or(Reason::StoreFailed));
        let message = failed.map(|check| format!("{}: {}", check.name, check.message)).unwrap_or_default();
        Verdict { report, reason, message }
    }

    async fn try_all(&self, probe: &Probe, report: &mut ProbeReport) {
        let Ok(round) = random() else { return };
        let at = |what: &str| {
            // Hexadecimal digits and a word of ours make a label.
            let name = Label::new("name", format!("{}-{what}", &round[..12]));
            name.map(|name| {
                StorePath::from(&ObjectPath::Probe {
                    store: probe.uid.clone(),
                    name,
                })
            })
        };
        let (Ok(put), Ok(race), Ok(wrong), Ok(part), Ok(aborted), Ok(missing), Ok(again), Ok(canary), Ok(kept)) = (
            at("put"),
            at("race"),
            at("wrong"),
            at("part"),
            at("aborted"),
            at("missing"),
            at("again"),
            at(CANARY.trim_start_matches('-')),
            at("kept"),
        ) else {
            return;
        };
        // Whoever cannot get in need not try the rest.
        let (reach, list) = self.reach(&put).await;
        if !record(report, "Reach", reach) || !record(report, "List", list) {
            return;
        }
        let clock = self.clock(probe, report);
        record(report, "Clock", clock);
        let written = self.put(&put).await;
        if record(report, "Put", written) {
            let read = self.read_probe(&put, &missing).await;
            record(report, "Read", read);
            let created = self.create_if_absent(&put, &race).await;
            record(report, "CreateIfAbsent", created);
            let checksum = self.checksum(&put, &wrong).await;
            record(report, "Checksum", checksum);
            let upload = self.upload(&part).await;
            record(report, "Upload", upload);
            let abort = self.abort_one(&aborted).await;
            record(report, "AbortUpload", abort);
            report.versioning = self.versioning().await;
            self.try_roles(probe, &put, &kept, report).await;
            let created = self.create_after_delete(probe, &again).await;
            record(report, "CreateAfterDelete", created);
            record(report, "WriterDeletes", Ok(self.may_delete(&again).await));
            if let Some(locks) = self.locks(probe, &canary, report).await {
                record(report, "ObjectLock", locks);
            }
            self.tidy(probe, &round[..12]).await;
        }
        if report.checks.iter().all(|check| check.passed) {
            let owner = match (self.claim(&probe.cluster, &probe.store).await, &probe.take_over) {
                (Err(OwnerError::Foreign { .. }), Some(from)) => self.take_over(&probe.cluster, &probe.store, from).await,
                (claimed, _) => claimed,
            };
            let owner = self.owned(owner, report).await;
            record(report, "Owner", owner);
        }
    }

    /// A listing tells whether somebody answers, knows us, has the bucket, and lets us list.
    async fn reach(&self, below: &StorePath) -> (Passed, Passed) {
        let directory = below.as_str().rsplit_once('/').map_or("", |(directory, _)| directory);
        match self.repeat("list", |backend| backend.list(directory, None)).await {
            Ok(_) => (Ok(self.describe()), Ok(String::new())),
            Err(denied @ StoreError::Denied { .. }) => (Ok(self.describe()), Err(denied.into())),
            Err(error) => (Err(error.into()), Ok("not tried".to_owned())),
        }
    }

    async fn put(&self, path: &StorePath) -> Passed {
        match self.create(path, path.to_string().into()).await? {
            Created::Ours(_) => Ok(String::new()),
            Created::Theirs(_) => Err(unsafe_store(format!("{path} was created and reads back as something else"))),
        }
    }

    async fn read_probe(&self, put: &StorePath, missing: &StorePath) -> Passed {
        let held = self.read(put, 1 << 10).await?;
        if held.is_none_or(|held| held.bytes != put.as_str()) {
            return Err(unsafe_store(format!("{put} was written and reads back as something else")));
        }
        match self.read(missing, 1 << 10).await {
            Ok(None) => Ok(String::new()),
            Ok(Some(_)) => Err(unsafe_store(format!("{missing} was never written and is there"))),
            Err(StoreError::Denied { .. } | StoreError::Credentials { .. }) => Err(Finding {
                reason: Reason::StoreAccessDenied,
                message: "the answer for a missing object is a refusal: the account lacks the right to list (s3:ListBucket)".to_owned(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates something that exists, and lets many create the same thing at once.
    async fn create_if_absent(&self, put: &StorePath, race: &StorePath) -> Passed {
        match self.create(put, "something else".into()).await? {
            Created::Theirs(held) if held.bytes == put.as_str() => {}
            Created::Theirs(_) | Created::Ours(_) => {
                return Err(unsafe_store(
                    "an object that existed was created once more, and its bytes were replaced: the store ignores If-None-Match",
                ));
            }
        }
        for attempt in 1..=RACES {
            let path = race
                .as_str()
                .parse::<StorePath>()
                .and_then(|path| format!("{path}-{attempt}").parse::<StorePath>());
            let path = path.map_err(StoreError::from)?;
            let bodies: Vec<_> = (0..RACERS).map(|racer| format!("{path} {racer}")).collect();
            let results = join_all(bodies.iter().map(|body| {
                let (sha256, payload) = (digest::of(body.as_bytes()), PutPayload::from(body.clone()));
                let path = path.as_str();
                async move { self.backend().create(path, Content::Document, &payload, &sha256).await }
            }))
            .await;
            let won: Vec<_> = results
                .iter()
                .zip(&bodies)
                .filter(|(result, _)| result.is_ok())
                .map(|(_, body)| body)
                .collect();
            if won.len() > 1 {
                return Err(unsafe_store(format!(
                    "{RACERS} creates of one object at once: {} succeeded, exactly one may",
                    won.len()
                )));
            }
            if results.iter().any(
                |result| matches!(result, Err(error) if !matches!(error, StoreError::AlreadyExists { .. } | StoreError::Conflict { .. })),
            ) {
                continue;
            }
            let held = self.read(&path, 1 << 10).await?;
            return match (won.first(), held) {
                (Some(body), Some(held)) if held.bytes == body.as_bytes() => Ok(format!("{RACERS} creates at once, one won")),
                // All were told of a conflict.
                (None, _) if attempt < RACES => continue,
                (won, held) => Err(unsafe_store(format!(
                    "{RACERS} creates of one object at once: {}, and {} is there",
                    if won.is_some() { "one succeeded" } else { "none succeeded" },
                    if held.is_some() { "another" } else { "nothing" },
                ))),
            };
        }
        Err(Finding {
            reason: Reason::StoreFailed,
            message: format!("{RACERS} creates at once: the store was busy in {RACES} tries"),
        })
    }

    /// Sends bytes that are not those of their checksum.
    async fn checksum(&self, put: &StorePath, wrong: &StorePath) -> Passed {
        let (payload, sha256) = (PutPayload::from_static(b"what was sent"), digest::of(b"what was meant"));
        let sent = self.backend().create(wrong.as_str(), Content::Document, &payload, &sha256).await;
        match sent {
            Ok(()) => return Err(unsafe_store("bytes with a wrong SHA-256 were accepted")),
            Err(StoreError::Damaged { .. } | StoreError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(match self.head(put).await? {
            Some(ObjectMeta {
                checksum: Some(Checksum::Whole(_)),
                ..
            }) => "wrong bytes are refused, the store shows SHA-256",
            _ => "wrong bytes are refused; the store shows no SHA-256, what is written is read back",
        }
        .to_owned())
    }

    /// An upload of one small piece.
    async fn upload(&self, path: &StorePath) -> Passed {
        let body = PutPayload::from(path.to_string());
        let piece = Piece {
            number: 1,
            offset: 0,
            sha256: digest::of_payload(&body),
            body,
        };
        let upload = self.repeat("start upload", |backend| backend.start_upload(path.as_str())).await?;
        let receipt = self
            .repeat("put piece", |backend| backend.put_piece(path.as_str(), &upload, &piece))
            .await?;
        let stored = self.finish_upload(path, &upload, &[receipt]).await?;
        Ok(match stored.confirmed {
            Confirmed::ByStore => "the store confirms parts by SHA-256",
            Confirmed::ByReading => "the store confirms no parts, they are read back",
        }
        .to_owned())
    }

    async fn abort_one(&self, path: &StorePath) -> Passed {
        let upload = self.repeat("start upload", |backend| backend.start_upload(path.as_str())).await?;
        self.repeat("abort upload", |backend| backend.abort_upload(path.as_str(), &upload))
            .await?;
        Ok(String::new())
    }

    async fn versioning(&self) -> Option<bool> {
        match self.repeat("read versioning", super::Backend::versioning).await {
            Ok(Versioning::Enabled) => Some(true),
            Ok(Versioning::Disabled | Versioning::Suspended) => Some(false),
            Ok(Versioning::Unknown) | Err(_) => None,
        }
    }

    /// The store's clock against ours, which is not believed where it contradicts the API server's.
    fn clock(&self, probe: &Probe, report: &mut ProbeReport) -> Passed {
        let Some(theirs) = self.now() else {
            return Err(unsafe_store(
                "the store's answers have no Date: the end of an attempt could not be told",
            ));
        };
        let ours = Timestamp::now();
        let ours = probe.not_before.map_or(ours, |earliest| ours.max(earliest));
        let skew = theirs.duration_since(ours);
        report.clock_skew_seconds = Some(skew.as_secs());
        if skew.abs() > MAX_SKEW {
            let message = format!(
                "the store's clock shows {theirs}, ours {ours}: at most 5 minutes may lie between them; set the clock that is wrong"
            );
            return Err(Finding {
                reason: Reason::ClockSkew,
                message,
            });
        }
        Ok(format!("{} s apart", skew.as_secs().abs()))
    }

    async fn owned(&self, claimed: Result<Pinned, OwnerError>, report: &mut ProbeReport) -> Passed {
        let pinned = match &claimed {
            Ok(pinned) => Some(pinned.clone()),
            Err(_) => self.owner().await.ok().flatten(),
        };
        if let Some(pinned) = pinned {
            report.owner = Some(pinned.cluster().to_owned());
            report.epoch = i64::try_from(pinned.epoch()).ok();
        }
        claimed.map(|_| String::new()).map_err(|error| Finding {
            reason: error.reason(),
            message: error.to_string(),
        })
    }
}

/// Notes what came of a check, and says whether it passed.
fn record(report: &mut ProbeReport, name: &str, outcome: Passed) -> bool {
    let passed = outcome.is_ok();
    let (reason, message) = match outcome {
        Ok(message) => (None, message),
        Err(Finding { reason, message }) => (Some(reason), message),
    };
    tracing::info!(check = name, passed, reason = reason.map(tracing::field::display), message, "probe");
    report.checks.push(ProbeCheck {
        name: name.to_owned(),
        passed,
        reason,
        message: holdfast_crds::shortened(&message, MESSAGE),
    });
    passed
}

#[cfg(test)]
mod tests;

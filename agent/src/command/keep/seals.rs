//! Seals in a pass: those that are there are checked; copies without one are read back, the newest first, and countersigned.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_crds::document::{Fact, RunPath, VerifyLevel};
use holdfast_crds::{CopyReport, CopyState, Reason, SealedCopy};
use jiff::Timestamp;
use tokio::time::Instant;

use super::Pass;
use super::inventory::SourceFolder;
use super::read::{Run, State};
use super::report::Report;
use crate::config::Invocation;
use crate::pipeline::pool::Pool;
use crate::pipeline::{CopyReader, Level, OpenError, verify};
use crate::result::Failure;
use crate::seal::{PublicKey, SealKey, look};

/// A pass reads back for so long; with the rest of it, it ends before its Job's time does.
const READS_FOR: Duration = Duration::from_secs(30 * 60);
/// The most copies that a pass remembers as unsealed, the newest.
const REMEMBERED: usize = 1_000;
const GIB: u64 = 1 << 30;

/// A copy without a seal.
#[derive(Debug)]
struct Unsealed {
    committed_at: Timestamp,
    path: RunPath,
    /// Version of its outcome.
    version: Option<String>,
    bytes: u64,
}

/// What a pass knows of seals.
pub struct Seals {
    /// Absent where nothing is sealed.
    own: Option<SealKey>,
    trusted: Vec<PublicKey>,
    /// Bytes that this pass reads back.
    budget: u64,
    unsealed: Vec<Unsealed>,
    /// How many there are beyond those that are remembered.
    beyond: u64,
}

impl Seals {
    /// As the store's specification says. `acts` is whether anything is written.
    pub fn read(invocation: &Invocation, acts: bool, report: &mut Report) -> Result<Self, Failure> {
        let spec = invocation.task.store.spec.seal.as_ref();
        let own = spec.filter(|_| acts).map(|_| SealKey::read(&invocation.places.seal)).transpose();
        let own = own.map_err(|error| Failure::new(Reason::SecretKeyMissing, error.to_string()))?;
        let said = spec.into_iter().flat_map(|seal| &seal.public_keys).map(|key| key.parse());
        let said: Result<Vec<PublicKey>, _> = said.collect();
        let mut trusted = said.map_err(|error| Failure::new(Reason::InvalidSpec, format!("spec.seal.publicKeys: {error}")))?;
        trusted.extend(own.as_ref().map(SealKey::public));
        report.summary.seal_key = own.as_ref().map(|own| own.public().to_string());
        Ok(Self {
            own,
            trusted,
            budget: spec.map_or(0, |seal| u64::try_from(seal.gib_per_pass).unwrap_or(0).saturating_mul(GIB)),
            unsealed: Vec::new(),
            beyond: 0,
        })
    }

    /// Looks at the seals of a source's copies.
    pub fn look(&mut self, folder: &SourceFolder, runs: &[Run], copies: &mut [CopyReport], report: &mut Report) {
        let runs: HashMap<&str, &Run> = runs.iter().map(|run| (run.path.run.as_str(), run)).collect();
        for told in copies {
            let Some(run) = runs.get(told.run.as_str()) else { continue };
            let State::Copy(copy) = &run.state else { continue };
            let seals = look(&run.records, copy.manifest_digest, &self.trusted);
            for broken in seals.broken {
                let message =
                    format!("{broken}; somebody wrote it, or altered the manifest: do not restore this copy before you know who did");
                report.finding(Reason::Tampered, Some(run.path.to_string()), message);
            }
            told.sealed = seals.by.is_some();
            let stays = matches!(told.state, CopyState::Kept | CopyState::Held);
            if !told.sealed && stays && self.own.is_some() {
                let outcome = folder.runs.get(&run.path.run).and_then(|lying| lying.outcome.first());
                self.remember(Unsealed {
                    committed_at: copy.committed_at,
                    path: run.path.clone(),
                    version: outcome.and_then(|first| first.version.clone()),
                    bytes: copy.bytes,
                });
            }
        }
    }

    fn remember(&mut self, copy: Unsealed) {
        self.unsealed.push(copy);
        if self.unsealed.len() > 2 * REMEMBERED {
            self.in_order();
            self.beyond += (self.unsealed.len() - REMEMBERED) as u64;
            self.unsealed.truncate(REMEMBERED);
        }
    }

    /// The newest first; what is larger than all that a pass reads comes after what is not, so that it keeps nothing else waiting.
    fn in_order(&mut self) {
        let budget = self.budget;
        self.unsealed
            .sort_by_key(|copy| (copy.bytes > budget, std::cmp::Reverse(copy.committed_at)));
    }
}

impl Seals {
    /// What this pass reads back, at least one, and how many copies wait for later ones.
    fn choose(&mut self) -> (Vec<Unsealed>, u64) {
        self.in_order();
        let mut chosen = std::mem::take(&mut self.unsealed);
        let mut left = self.budget;
        let fits = |copy: &Unsealed| {
            let fits = copy.bytes <= left;
            left = left.saturating_sub(copy.bytes);
            fits
        };
        let many = chosen.iter().map(fits).take_while(|fits| *fits).count().max(1).min(chosen.len());
        let waiting = (chosen.len() - many) as u64 + self.beyond;
        chosen.truncate(many);
        (chosen, waiting)
    }
}

impl Pass<'_> {
    /// Reads copies back and seals those that are whole, as far as the pass has bytes and time for it.
    pub(super) async fn seal(&mut self, invocation: &Invocation) -> Result<(), Failure> {
        let Some(hand) = self.hand.clone().filter(|_| self.acts) else {
            return Ok(());
        };
        let (wanted, mut waiting) = self.seals.choose();
        waiting += wanted.len() as u64;
        let deadline = Instant::now() + READS_FOR;
        for copy in wanted {
            let Some(key) = &self.seals.own else { break };
            hand.still_owned().await?;
            let read = tokio::time::timeout_at(deadline, read_back(self, invocation, &copy)).await;
            let place = copy.path.to_string();
            let looked = match read {
                Ok(Ok(looked)) => looked,
                Ok(Err(error)) => {
                    self.report.note(format!("{place} could not be read back to be sealed: {error}"));
                    break;
                }
                Err(_) => {
                    self.report.note(format!("the time in which a pass reads back was over at {place}"));
                    break;
                }
            };
            waiting -= 1;
            let Some((manifest, problem)) = looked else { continue };
            let sound = problem.is_none();
            let verified = Fact::Verified {
                level: VerifyLevel::Digest,
                problem: problem.clone(),
            };
            hand.record(&copy.path, Some(manifest), verified).await?;
            if let Some(problem) = problem {
                self.report.finding(
                    Reason::CopyCorrupt,
                    Some(place),
                    format!("read back, the copy is not good: {problem}"),
                );
            }
            if sound {
                hand.record(&copy.path, Some(manifest), key.seal(manifest)).await?;
                self.report.sealed(SealedCopy {
                    namespace: copy.path.namespace.to_string(),
                    source: copy.path.source.to_string(),
                    run: copy.path.run.to_string(),
                });
            }
        }
        if waiting > 0 {
            self.report
                .note(format!("{waiting} unsealed copies wait for later passes to be read back"));
        }
        Ok(())
    }
}

/// The digest of a copy's manifest, and what is wrong with its objects. None where it is no copy any more.
async fn read_back(
    pass: &Pass<'_>,
    invocation: &Invocation,
    copy: &Unsealed,
) -> Result<Option<(holdfast_crds::document::Sha256, Option<String>)>, ReadBack> {
    let outcome = pass.store.outcome_version(&copy.path, copy.version.as_deref()).await?;
    let Some(committed) = outcome.as_ref().and_then(|decided| decided.outcome.committed()) else {
        return Ok(None);
    };
    let pool = Pool::for_memory_limit(invocation.memory_limit, 1);
    let reader = CopyReader::new(
        pass.store.clone(),
        committed,
        None,
        pool,
        invocation.cancel.clone(),
        invocation.progress.counters(),
    );
    let looked = verify(&reader, committed, Level::Digest, |_| None).await?;
    Ok(Some((committed.manifest_sha256(), looked.damages.first().cloned())))
}

/// Why a copy could not be read back: it says nothing about the copy.
#[derive(Debug, thiserror::Error)]
enum ReadBack {
    #[error(transparent)]
    Register(#[from] crate::store::RegisterError),
    #[error(transparent)]
    Open(#[from] OpenError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_reads_the_newest_within_its_budget_and_what_is_larger_last() {
        let choose = |budget: u64, sizes: &[u64]| {
            let unsealed = sizes.iter().enumerate().map(|(number, bytes)| Unsealed {
                committed_at: Timestamp::from_second(i64::try_from(number).unwrap()).unwrap(),
                path: RunPath::new("shop", "orders", &format!("r{number}")).unwrap(),
                version: None,
                bytes: *bytes,
            });
            let mut seals = Seals {
                own: None,
                trusted: Vec::new(),
                budget,
                unsealed: unsealed.collect(),
                beyond: 0,
            };
            let (chosen, waiting) = seals.choose();
            (
                chosen.iter().map(|copy| copy.path.run.to_string()).collect::<Vec<_>>().join(" "),
                waiting,
            )
        };
        assert_eq!(choose(100, &[]), (String::new(), 0));
        assert_eq!(choose(100, &[40, 40, 40]), ("r2 r1".to_owned(), 1));
        assert_eq!(
            choose(100, &[10, 70, 40]),
            ("r2".to_owned(), 2),
            "in order: what is older does not overtake"
        );
        assert_eq!(
            choose(100, &[40, 500]),
            ("r0".to_owned(), 1),
            "what is larger than all of it keeps nothing waiting"
        );
        assert_eq!(
            choose(100, &[500, 600]),
            ("r1".to_owned(), 1),
            "and is read when nothing else waits"
        );
    }
}

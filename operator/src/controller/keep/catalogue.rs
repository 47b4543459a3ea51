//! What a report says of sources: the catalogue in their status. Only sources of namespaces that may use the store are told
//! anything: a bucket of one namespace says nothing about another's.

use std::collections::{BTreeSet, HashMap};

use holdfast_crds::{
    BackupSource, BackupSourceStatus, CATALOGUES, CatalogueInStore, KeepLine, KeepSummary, KeeperStatus, SOURCE_FINDINGS, SourceReport,
    StoreFinding, StoreKind, StoreReference, UNKNOWN_SOURCES, UnknownSource, VANISHED_NAMESPACES, VanishedNamespace, shortened,
    whole_seconds,
};
use jiff::Timestamp;

use super::counted;
use crate::{
    context::{Context, Error},
    controller::source::to_be_seen,
    store::Store,
    watch::Key,
};

/// The longest messages, in bytes, as the schema has them.
const MESSAGE: usize = 512;
const WHY: usize = 256;
const NEWEST: usize = 10;

/// Writes what the report says into the status of its sources, where it says something else. Gives what has no object here. Killed between two of them it does the rest at the next call.
pub async fn write(context: &Context, store: &Store, summary: &KeepSummary, report: &[KeepLine]) -> Result<Strays, Error> {
    let caches = &context.caches;
    let allowed: BTreeSet<_> = store.namespaces(caches).into_iter().filter(|it| store.allows(caches, it)).collect();
    let mut reports: HashMap<Key, &SourceReport> = HashMap::new();
    let mut strays = Strays::default();
    for line in report {
        let KeepLine::Source(source) = line else { continue };
        let key = Key::new(source.namespace.as_str(), source.source.as_str());
        if allowed.contains(&source.namespace) && caches.sources.get(&key).is_some() {
            reports.insert(key, source);
        } else if source.copies > 0 {
            let gone = store.kind() == StoreKind::ClusterBackupStore && caches.namespaces.get(&Key::new("", key.namespace)).is_none();
            strays.add(source, gone);
        }
    }
    let mut sealed: HashMap<Key, Vec<&str>> = HashMap::new();
    for line in report {
        let KeepLine::Sealed(copy) = line else { continue };
        let key = Key::new(copy.namespace.as_str(), copy.source.as_str());
        sealed.entry(key).or_default().push(&copy.run);
    }
    for namespace in &allowed {
        for source in caches.sources.in_namespace(namespace) {
            let key = Key::of(&*source);
            let findings = findings(report, &key.to_string());
            let found = reports.get(&key).copied();
            let sealed = sealed.get(&key).map_or(&[][..], Vec::as_slice);
            if let Some(status) = with(&source, &store.reference(), summary, found, &findings, sealed, context.clock.now()) {
                context.report.status(&caches.sources, &*source, &status).await?;
            }
        }
    }
    Ok(strays)
}

/// What a store has of sources that have no object here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strays {
    pub sources: i64,
    /// The first of them whose namespace exists.
    pub unknown: Vec<UnknownSource>,
    pub namespaces: i64,
    /// The first of the namespaces that are gone.
    pub vanished: Vec<VanishedNamespace>,
    seen: BTreeSet<String>,
}

impl Strays {
    /// What the pass before found.
    pub fn of(keeper: KeeperStatus) -> Self {
        Self {
            sources: keeper.unknown_sources,
            unknown: keeper.unknown,
            namespaces: keeper.vanished_namespaces,
            vanished: keeper.vanished,
            seen: BTreeSet::new(),
        }
    }

    fn add(&mut self, source: &SourceReport, gone: bool) {
        self.sources += 1;
        if !gone {
            if self.unknown.len() < UNKNOWN_SOURCES {
                self.unknown.push(UnknownSource {
                    namespace: source.namespace.clone(),
                    source: source.source.clone(),
                    copies: source.copies,
                    bytes: source.bytes,
                    held: source.held,
                    newest: source.newest.clone(),
                });
            }
            return;
        }
        if self.seen.insert(source.namespace.clone()) {
            self.namespaces += 1;
            if self.vanished.len() < VANISHED_NAMESPACES {
                self.vanished.push(VanishedNamespace {
                    namespace: source.namespace.clone(),
                    ..VanishedNamespace::default()
                });
            }
        }
        if let Some(namespace) = self.vanished.iter_mut().find(|it| it.namespace == source.namespace) {
            namespace.sources += 1;
            namespace.copies += source.copies;
            namespace.bytes += source.bytes;
            namespace.held += source.held;
            namespace.newest = namespace.newest.take().max(source.newest.clone());
        }
    }
}

/// What is wrong with one source.
#[derive(Default)]
struct Findings {
    listed: Vec<StoreFinding>,
    more: i64,
}

/// What the report finds wrong with one source.
fn findings(report: &[KeepLine], place: &str) -> Findings {
    let of = |finding: &&StoreFinding| {
        let rest = finding.place.as_deref().and_then(|found| found.strip_prefix(place));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut findings = Findings::default();
    for line in report {
        match line {
            KeepLine::Finding(finding) if of(&finding) && findings.listed.len() < SOURCE_FINDINGS => findings.listed.push(bounded(finding)),
            KeepLine::Finding(finding) => findings.more += i64::from(of(&finding)),
            KeepLine::MoreFindings(more) if more.place == place => findings.more += more.count,
            _ => {}
        }
    }
    findings
}

/// A finding as the schema has it.
pub fn bounded(finding: &StoreFinding) -> StoreFinding {
    StoreFinding {
        message: shortened(&finding.message, MESSAGE),
        ..finding.clone()
    }
}

/// The status of a source with its entry for this store; none where nothing is to be written.
fn with(
    source: &BackupSource,
    store: &StoreReference,
    summary: &KeepSummary,
    found: Option<&SourceReport>,
    findings: &Findings,
    sealed: &[&str],
    now: Timestamp,
) -> Option<BackupSourceStatus> {
    let mut status = source.status.clone().unwrap_or_default();
    let place = status.stores.iter().position(|entry| entry.reference() == *store);
    // Of what could never be read there is nothing to say yet; the store's findings name it.
    let nothing = found.map_or(findings.listed.is_empty(), |found| found.unread);
    if place.is_none() && nothing {
        return None;
    }
    let before = place.map(|place| status.stores[place].clone());
    let mut entry = entry(store, summary, found, findings, sealed, before.as_ref(), now);
    // What was found again is not written again, unless it is news that a copy since then was not found.
    if let Some(before) = before.filter(|before| !awaited(&status, before)) {
        let found = entry.clone();
        (entry.as_of, entry.expected_as_of) = (before.as_of.clone(), before.expected_as_of.clone());
        if entry != before {
            entry = found;
        }
    }
    match place {
        Some(place) => status.stores[place] = entry,
        None if status.stores.len() < CATALOGUES => status.stores.push(entry),
        None => return None,
    }
    status.stores.sort_by_key(|entry| (entry.store_kind, entry.store.clone()));
    status.copies = Some(status.stores.iter().map(|entry| entry.copies).sum());
    Some(status)
}

/// Whether the newest copy that is known may have come to this store after that was read, which did not find it.
fn awaited(status: &BackupSourceStatus, entry: &CatalogueInStore) -> bool {
    status.newest_copy.as_ref().is_some_and(|copy| to_be_seen(copy, entry))
}

fn entry(
    store: &StoreReference,
    summary: &KeepSummary,
    found: Option<&SourceReport>,
    findings: &Findings,
    sealed: &[&str],
    before: Option<&CatalogueInStore>,
    now: Timestamp,
) -> CatalogueInStore {
    // Nothing was found, and nobody told the pass that something has to be there.
    let untold = found.is_none() && summary.cut.sources;
    let found = found.cloned().unwrap_or_default();
    let mut blocked = found.blocked.clone();
    // What cannot be counted, or is fewer than it has to be, does not become the measure of the next pass.
    let missed = counted::missed(&found, before.is_some_and(|before| before.expected.is_some()));
    let expected = match before {
        Some(before) if missed => (before.expected, before.expected_as_of.clone()),
        _ if missed => (None, None),
        _ => (Some(found.found), Some(summary.started_at.clone())),
    };
    if let Some(blocked) = &mut blocked {
        blocked.message = shortened(&blocked.message, MESSAGE);
    }
    let blocked_since = blocked.as_ref().map(|_| {
        let since = before.and_then(|before| before.blocked_since.clone());
        since.unwrap_or_else(|| whole_seconds(now).to_string())
    });
    if let (true, Some(before)) = (found.unread || untold, before) {
        return CatalogueInStore {
            blocked,
            blocked_since,
            findings: findings.listed.clone(),
            more_findings: findings.more,
            ..before.clone()
        };
    }
    let mut newest_copies = found.newest_copies.clone();
    newest_copies.truncate(NEWEST);
    for copy in &mut newest_copies {
        copy.why = shortened(&copy.why, WHY);
        copy.sealed |= sealed.contains(&copy.run.as_str());
    }
    let mut empty_slots = found.empty_slots.clone();
    empty_slots.truncate(NEWEST);
    CatalogueInStore {
        store: store.name.clone(),
        store_kind: store.kind,
        as_of: summary.started_at.clone(),
        copies: found.copies,
        good: found.good,
        expected: expected.0,
        expected_as_of: expected.1,
        bytes: found.bytes,
        held: found.held,
        sealed: summary
            .seal_key
            .as_ref()
            .map(|_| found.sealed + i64::try_from(sealed.len()).unwrap_or(i64::MAX)),
        unlocked: found.unlocked,
        marked: found.marked,
        newest: found.newest,
        oldest: found.oldest,
        blocked,
        blocked_since,
        newest_copies,
        empty_slots,
        findings: findings.listed.clone(),
        more_findings: findings.more,
    }
}

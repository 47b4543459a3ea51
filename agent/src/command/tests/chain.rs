//! A tick with two stores as one chain: the run commits in the first store, a Job copies it into the second, and anything may fail on the way.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_crds::document::Sha256;
use holdfast_crds::{COPY_LINE, CopyTask, ReplicaState};

use super::*;
use crate::command::lines::Lines;
use crate::command::replicate;
use crate::store::faulty::{Call, CallKind};

const SOON: Patience = Patience {
    total: Duration::from_millis(500),
    first: Duration::from_millis(1),
    longest: Duration::from_millis(5),
    rotation: Duration::ZERO,
};

/// The link of the chain in which a call is made, and on which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Backup,
    CopyFrom,
    CopyTo,
}

/// Two stores, and the calls that a chain makes to them.
struct Chain<'a> {
    scene: &'a Scene,
    places: &'a Places,
    task: &'a BackupTask,
    copy: &'a CopyTask,
    stores: [Memory; 2],
    /// What happens, and at which call of which link.
    fault: Option<(Link, usize, Fault)>,
    calls: Vec<(Link, Vec<Call>)>,
}

impl Chain<'_> {
    fn through(&self, link: Link) -> Faulty {
        let memory = self.stores[usize::from(link == Link::CopyTo)].clone();
        match &self.fault {
            Some((at, index, fault)) if *at == link => Faulty::at(memory, *index, fault.clone()),
            _ => Faulty::none(memory),
        }
    }

    async fn backup(&mut self, pod: &str) -> Result<AgentResult, Failure> {
        let store = self.through(Link::Backup);
        let invocation = Invocation {
            places: self.places.clone(),
            ..self.scene.invocation(pod, Action::Backup(self.task.clone()))
        };
        let result = backup::run_with(&invocation, self.task, &Store::new(store.clone(), SOON, 2)).await;
        self.calls.push((Link::Backup, store.calls()));
        result
    }

    async fn copy(&mut self, pod: &str) -> Result<AgentResult, Failure> {
        let (from, to) = (self.through(Link::CopyFrom), self.through(Link::CopyTo));
        let invocation = self.scene.invocation(pod, Action::Copy(Box::new(self.copy.clone())));
        let stores = (&Store::new(from.clone(), SOON, 2), &Store::new(to.clone(), SOON, 2));
        let result = replicate::run_with(&invocation, self.copy, stores, Lines::new(COPY_LINE, Box::new(|_| {}))).await;
        self.calls.extend([(Link::CopyFrom, from.calls()), (Link::CopyTo, to.calls())]);
        result
    }

    /// What each store's register says of the run, with all objects that it names; nothing where it says nothing.
    async fn copies(&self, run: &RunPath, told: &str) -> [Option<(Sha256, BTreeMap<String, Bytes>)>; 2] {
        let mut copies = [None, None];
        for (memory, copy) in self.stores.iter().zip(&mut copies) {
            let objects = memory.objects();
            let store = Store::new(memory.clone(), SOON, 1);
            let Some(decided) = store.outcome(run).await.unwrap() else {
                continue;
            };
            let committed = decided.outcome.committed().unwrap();
            let stored = committed.stored().iter().map(|object| {
                let bytes = objects
                    .get(&object.path)
                    .unwrap_or_else(|| panic!("I2: {} is not there, {told}", object.path));
                assert_eq!(Sha256::of(bytes), object.sha256, "I2: {}, {told}", object.path);
                (object.path.clone(), bytes.clone())
            });
            *copy = Some((committed.manifest_sha256(), stored.collect()));
        }
        copies
    }
}

/// F02, F30, F34: whatever happens at any call of the run or of the copying, to either store, the next start of each ends with one outcome per
/// store, equal to the byte, and with nothing doubled. Nothing is in the second store that is not in the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f02_from_tick_to_commit_in_two_stores_the_end_is_the_same_whatever_happens_at_any_call() {
    let scene = Scene::new();
    scene
        .server
        .create("two_stores", "CREATE TABLE t AS SELECT generate_series(1, 100) AS id");
    let archive = scene.root.path().join("archive");
    std::fs::write(&archive, scene.server.dump("two_stores", &[])).unwrap();
    let version = "[ \"$1\" = --version ] && exec $REAL --version";
    let places = scene.tool("pg_dump", &format!("#!/bin/sh\n{version}\nexec cat {}\n", archive.display()));
    let mut task = scene.backup_task("run-1", &["two_stores"], &nothing());
    task.spec.postgresql.as_mut().unwrap().globals = holdfast_crds::Globals::Skip;
    let copy = json!({"namespace": "shop", "source": "shop", "now": "2026-11-20T22:10:00Z", "notAfter": "2126-01-01T00:00:00Z",
        "from": {"name": "near", "uid": "n", "spec": {"s3": {"bucket": "near"}, "credentials": {"secretName": "s3"}, "encryption": scene.encryption}}});
    let copy: CopyTask = serde_json::from_value(copy).unwrap();
    let run = RunPath::new("shop", "shop", "run-1").unwrap();
    let chain = |fault| Chain {
        scene: &scene,
        places: &places,
        task: &task,
        copy: &copy,
        stores: [Memory::new(), Memory::new()],
        fault,
        calls: Vec::new(),
    };

    let mut faultless = chain(None);
    faultless.backup("pod-1").await.unwrap();
    let copied = faultless.copy("pod-c1").await.unwrap().copied.unwrap();
    assert_eq!(copied.count(ReplicaState::Copied), 1);
    let calls = std::mem::take(&mut faultless.calls);
    assert!(calls.iter().all(|(_, calls)| calls.len() > 5), "{calls:?}");
    let denied = crate::store::StoreError::Denied {
        call: "test",
        path: "somewhere".to_owned(),
        status: 403,
        code: "AccessDenied".to_owned(),
    };
    for (link, calls) in calls {
        for (index, call) in calls.iter().enumerate() {
            for fault in [
                Fault::CrashBefore,
                Fault::CrashAfter,
                Fault::Before(denied.clone()),
                Fault::Before(Fault::slow_down()),
                Fault::After(Fault::reset()),
            ] {
                let told = format!("{fault:?} at {link:?} {call:?}");
                let mut chain = chain(Some((link, index, fault)));
                let first = chain.backup("pod-1").await;
                let copied = chain.copy("pod-c1").await;
                let [near, far] = chain.copies(&run, &told).await;
                assert!(far.is_none() || far == near, "{told}");
                assert!(first.is_err() || near.is_some(), "I4: {told}");
                let is_there = copied.is_ok_and(|result| result.copied.is_some_and(|pass| pass.complete && pass.there() == 1));
                assert!(!is_there || far.is_some(), "I4: {told}");

                // The next start of each, with empty memory.
                chain.fault = None;
                let second = chain.backup("pod-2").await.unwrap_or_else(|failure| panic!("{told}: {failure:?}"));
                assert!(near.is_none() || second.reason == Reason::AlreadyDone, "{told}: {second:?}");
                let copied = chain.copy("pod-c2").await.unwrap_or_else(|failure| panic!("{told}: {failure:?}"));
                assert_eq!(
                    copied.copied.as_ref().map(|pass| (pass.complete, pass.there())),
                    Some((true, 1)),
                    "{told}"
                );
                let [last_near, last_far] = chain.copies(&run, &told).await;
                assert!(near.is_none() || near == last_near, "I1: {told}");
                assert!(last_near.is_some() && last_near == last_far, "{told}");
                for memory in &chain.stores {
                    for path in memory.objects().keys() {
                        assert_eq!(memory.versions_of(path), 1, "{path}, {told}");
                    }
                }
                // What is in the second store is the copy and whose it is, once.
                let named = last_far.unwrap().1;
                let objects = chain.stores[1].objects();
                let more = objects
                    .keys()
                    .filter(|path| !named.contains_key(*path) && !path.starts_with("owner/"));
                assert_eq!(more.collect::<Vec<_>>(), [&run.outcome().to_string()], "{told}");

                // Then there is nothing more to do.
                let before = chain.stores.clone().map(|memory| memory.versions());
                chain.calls.clear();
                chain.backup("pod-3").await.unwrap();
                chain.copy("pod-c3").await.unwrap();
                assert!(chain.stores.clone().map(|memory| memory.versions()) == before, "I6: {told}");
                let writes = |call: &&Call| matches!(call.kind, CallKind::Create | CallKind::CompleteUpload | CallKind::DeleteVersion);
                assert_eq!(chain.calls.iter().flat_map(|(_, calls)| calls).find(writes), None, "I6: {told}");
            }
        }
    }
}

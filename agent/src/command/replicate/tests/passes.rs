use std::time::Duration;

use holdfast_crds::document::{Abandonment, Label};
use holdfast_crds::{BackupType, LockMode, Span};

use super::*;
use crate::pipeline::pool::Pool;
use crate::pipeline::{CopyReader, Level, verify};
use crate::store::faulty::{CallKind, Fault, Faulty};

#[tokio::test(start_paused = true)]
async fn a_store_that_is_added_gets_every_copy_the_newest_first() {
    let scene = Scene::days(5).await;
    let said = scene.pass().await;
    assert_eq!(said.result.reason, Reason::Succeeded, "{}", said.result.message);
    let expected: Vec<_> = (1..=5).rev().map(day).collect();
    assert_eq!(said.lines.iter().map(|line| line.run.clone()).collect::<Vec<_>>(), expected);
    assert!(said.lines.iter().all(|line| line.state == ReplicaState::Copied));
    assert_eq!(copies(&scene.to), copies(&scene.from.memory));
    assert_eq!(copies(&scene.to).len(), 5);
    let pass = said.pass();
    assert!(pass.complete);
    assert_eq!(
        (pass.newest.clone(), pass.newest_recovery_point.clone()),
        (Some(day(5)), Some(tick(5).to_string()))
    );
    assert_eq!((pass.there(), pass.problems(), pass.epoch), (5, 0, 1));

    // Each object is what this store's outcome says, in the version that it says.
    let store = Store::new(scene.to.clone(), Patience::PROBE, 2);
    for line in &said.lines {
        let decided = store.outcome(&run(&line.run)).await.unwrap().unwrap();
        assert_eq!(decided.version, line.version_id);
        let copy = decided.outcome.committed().unwrap();
        let cancel = tokio_util::sync::CancellationToken::new();
        let reader = CopyReader::new(store.clone(), copy, None, Pool::new(0, 1), cancel, Arc::default());
        let report = verify(&reader, copy, Level::Digest, |_| None).await.unwrap();
        assert_eq!((report.damaged, report.objects), (0, 2));
    }

    // The next pass finds all of it, and writes nothing.
    let before = scene.to.objects();
    let again = scene.pass().await;
    assert!(
        again
            .lines
            .iter()
            .all(|line| line.state == ReplicaState::Present && line.version_id.is_some())
    );
    assert_eq!(again.result.reason, Reason::Succeeded);
    assert_eq!(scene.to.objects(), before);

    // A new copy comes alone.
    scene.from.memory.set_clock(tick(7));
    scene.from.copy(tick(6)).await;
    let again = scene.pass().await;
    assert_eq!(
        again.states()[..2],
        [(day(6).as_str(), ReplicaState::Copied), (day(5).as_str(), ReplicaState::Present)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_preview_writes_nothing_and_tells_what_would_be() {
    let scene = Scene::days(2).await;
    let said = scene.pass_with(|task| task.preview = true).await;
    assert_eq!(said.pass().count(ReplicaState::Missing), 2);
    assert_eq!(said.result.reason, Reason::Succeeded);
    assert!(scene.to.objects().is_empty(), "not even an owner");
}

#[tokio::test(start_paused = true)]
async fn only_the_runs_that_are_named_are_brought() {
    let scene = Scene::days(4).await;
    let named = |names: &[&str]| names.iter().map(|name| Label::new("run", *name).unwrap()).collect::<Vec<_>>();
    let said = scene.pass_with(|task| task.runs = named(&[&day(2), &day(2), &day(4)])).await;
    assert_eq!(
        said.states(),
        [(day(4).as_str(), ReplicaState::Copied), (day(2).as_str(), ReplicaState::Copied)]
    );
    assert_eq!(copies(&scene.to).len(), 2);

    let said = scene.pass_with(|task| task.runs = named(&["orders-never"])).await;
    assert_eq!(
        (said.only().state, said.result.reason),
        (ReplicaState::NotFound, Reason::CopyNotFound)
    );
    assert!(said.result.message.contains("orders-never"), "{}", said.result.message);

    let store = Store::new(scene.from.memory.clone(), Patience::PROBE, 1);
    let pinned = store.claim("cluster-a", "shop/offsite").await.unwrap();
    let abandonment = Abandonment {
        reason: "Cancelled".into(),
        message: "by alice".into(),
    };
    let by = Label::new("pod", "pod-1").unwrap();
    store.abandon(&run("orders-given-up"), &by, abandonment, &pinned).await.unwrap();
    let said = scene.pass_with(|task| task.runs = named(&["orders-given-up"])).await;
    assert_eq!(said.only().state, ReplicaState::NotFound);
    assert_eq!(scene.pass().await.lines.len(), 4, "nobody asked for what was given up");
}

#[tokio::test(start_paused = true)]
async fn a_store_gets_the_types_that_it_is_to_have() {
    let scene = Scene::days(1).await;
    scene.from.copy_with("orders-log", tick(2), needs(vec![], "Log")).await;
    let said = scene.pass_with(|task| task.types = vec![BackupType::Full]).await;
    assert_eq!(said.states(), [(day(1).as_str(), ReplicaState::Copied)]);
    assert_eq!(copies(&scene.to).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_rule_of_the_store_would_keep_is_not_brought() {
    let scene = Scene::days(20).await;
    let by_hand = scene.from.copy_with("orders-by-hand", tick(3), |manifest| {
        manifest.schedule = None;
        manifest.run.keep_for = Some(Span::from_days(300));
    });
    by_hand.await;
    let rules = keep::task(|retention| retention.keep_within = Some(Span::from_days(5)));
    let said = scene.pass_with(|task| task.schedules.clone_from(&rules.schedules)).await;
    assert_eq!(said.result.reason, Reason::Succeeded);
    let brought: Vec<_> = said
        .states()
        .into_iter()
        .filter(|(_, state)| *state == ReplicaState::Copied)
        .collect();
    let names: Vec<_> = brought.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut expected: Vec<_> = (16..=20).rev().map(day).collect();
    expected.push("orders-by-hand".to_owned());
    assert_eq!(names, expected);
    assert_eq!(said.pass().count(ReplicaState::NotKept), 15);
    // Its own keeper agrees: nothing of it is marked.
    let keeper = keep::Scene::new(scene.to.clone());
    let pass = keeper.pass_as("far", scene.to.clone(), &rules).await.unwrap();
    assert_eq!((pass.source().copies, pass.source().marked), (6, 0), "{:?}", pass.lines);
    assert!(pass.findings().is_empty(), "{:?}", pass.findings());
    // Who names a run gets it.
    let said = scene.pass_with(|task| {
        task.schedules.clone_from(&rules.schedules);
        task.runs = vec![Label::new("run", day(2)).unwrap()];
    });
    assert_eq!(said.await.only().state, ReplicaState::Copied);
}

#[tokio::test(start_paused = true)]
async fn everything_that_is_brought_is_locked_where_the_store_locks() {
    let scene = Scene::days(2).await;
    let length = Duration::from_hours(7 * 24);
    let to = Memory::new().with_write_lock(LockMode::Compliance, length);
    to.set_clock(scene.from.now());
    let said = scene.pass_through(scene.from.memory.clone(), to.clone(), &scene.task()).await;
    assert_eq!(said.pass().count(ReplicaState::Copied), 2);
    let expected = scene.from.now() + jiff::SignedDuration::from_hours(7 * 24);
    for path in to.objects().keys().filter(|path| !path.starts_with("owner/")) {
        let until = to.locked(path).until().unwrap_or_else(|| panic!("{path} is not locked"));
        assert!(until >= expected, "{path}: {until}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_without_versions_or_checksums_is_filled_too() {
    let scene = Scene::days(2).await;
    for to in [Memory::new().without_versions().without_checksums(), Memory::new().page(1)] {
        let said = scene.pass_through(scene.from.memory.clone(), to.clone(), &scene.task()).await;
        assert_eq!(said.pass().count(ReplicaState::Copied), 2, "{}", said.result.message);
        assert_eq!(copies(&to), copies(&scene.from.memory));
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_list_versions_reads_and_fills_all_the_same() {
    let scene = Scene::days(2).await;
    let denied = |call: &crate::store::faulty::Call| {
        (call.kind == CallKind::ListVersions).then(|| {
            Fault::Before(crate::store::StoreError::Denied {
                call: "list versions",
                path: call.path.clone(),
                status: 403,
                code: "AccessDenied".into(),
            })
        })
    };
    let (from, to) = (
        Faulty::new(scene.from.memory.clone(), denied),
        Faulty::new(scene.to.clone(), denied),
    );
    let said = scene.pass_through(from.clone(), to, &scene.task()).await;
    assert_eq!(said.pass().count(ReplicaState::Copied), 2, "{}", said.result.message);
    assert_eq!(copies(&scene.to), copies(&scene.from.memory));
    let writes = [
        CallKind::Create,
        CallKind::StartUpload,
        CallKind::Delete,
        CallKind::DeleteVersion,
        CallKind::SetRetained,
    ];
    assert!(
        from.calls().iter().all(|call| !writes.contains(&call.kind)),
        "the store that is read is only read"
    );
}

#[tokio::test(start_paused = true)]
async fn fields_of_a_later_version_are_copied_with_the_manifest() {
    let scene = Scene::days(1).await;
    let place = run(&day(1)).outcome().to_string();
    let mut outcome: serde_json::Value = serde_json::from_slice(&scene.from.memory.objects()[&place]).unwrap();
    outcome["manifest"]["server"]["flavour"] = "vanilla".into();
    scene.from.memory.remove(&place);
    scene.from.memory.plant(&place, serde_json::to_vec(&outcome).unwrap());
    assert_eq!(scene.pass().await.only().state, ReplicaState::Copied);
    let there: serde_json::Value = serde_json::from_slice(&scene.to.objects()[&place]).unwrap();
    assert_eq!(there["manifest"], outcome["manifest"]);
    assert_eq!(scene.pass().await.only().state, ReplicaState::Present);
}

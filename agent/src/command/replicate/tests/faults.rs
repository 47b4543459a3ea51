use std::time::Duration;

use super::*;
use crate::store::StoreError;
use crate::store::faulty::{Call, CallKind, Fault, Faulty};

/// A full copy and one that needs it: small, so that every call can be made to fail.
async fn pair() -> Scene {
    let scene = Scene::days(1).await;
    scene.from.memory.set_clock(tick(3));
    let full = copies(&scene.from.memory)[&run(&day(1)).to_string()].0;
    scene
        .from
        .copy_with("orders-increment", tick(2), needs(vec![(run(&day(1)), full)], "Incremental"))
        .await;
    scene
}

/// Nothing was written twice or hidden.
fn assert_written_once(memory: &Memory, what: &str) {
    for path in memory.objects().keys() {
        assert_eq!(memory.versions_of(path), 1, "{what}: {path}");
    }
}

/// Each call to either store is the last one of a process that is killed: the next pass ends where a faultless one does.
#[tokio::test(start_paused = true)]
async fn a_crash_in_any_call_is_made_good_by_the_next_pass() {
    let scene = pair().await;
    let wanted = copies(&scene.from.memory);
    let counted = (Faulty::none(scene.from.memory.clone()), Faulty::none(Memory::new()));
    scene.pass_through(counted.0.clone(), counted.1.clone(), &scene.task()).await;
    let (reads, writes) = (counted.0.calls().len(), counted.1.calls().len());
    assert!(reads > 10 && writes > 20, "{reads} {writes}");
    for index in 0..reads + writes {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let what = format!("{fault:?} in call {index}");
            let to = Memory::new();
            let (from, filled) = if index < reads {
                (Faulty::at(scene.from.memory.clone(), index, fault), Faulty::none(to.clone()))
            } else {
                (
                    Faulty::none(scene.from.memory.clone()),
                    Faulty::at(to.clone(), index - reads, fault),
                )
            };
            let dying = scene.pass_through(from.clone(), filled.clone(), &scene.task()).await;
            assert!(from.crashed() || filled.crashed(), "{what}");
            assert!(!dying.pass().complete || copies(&to) == wanted, "{what}: {:?}", dying.result);
            // What is a copy is whole, at any time.
            for (run, copy) in copies(&to) {
                assert_eq!(copy, wanted[&run], "{what}");
            }
            let next = scene.pass_through(scene.from.memory.clone(), to.clone(), &scene.task()).await;
            assert_eq!((next.result.reason, next.pass().there()), (Reason::Succeeded, 2), "{what}");
            assert_eq!(copies(&to), wanted, "{what}");
            assert_written_once(&to, &what);
        }
    }
}

/// A call fails in a way that a repetition mends, or answers although it failed.
#[tokio::test(start_paused = true)]
async fn a_fault_in_any_call_changes_nothing() {
    let scene = pair().await;
    let wanted = copies(&scene.from.memory);
    let counted = (Faulty::none(scene.from.memory.clone()), Faulty::none(Memory::new()));
    scene.pass_through(counted.0.clone(), counted.1.clone(), &scene.task()).await;
    let (reads, writes) = (counted.0.calls().len(), counted.1.calls().len());
    let faults = [
        Fault::Before(Fault::slow_down()),
        Fault::Before(Fault::reset()),
        Fault::After(Fault::reset()),
        Fault::Flip,
    ];
    for index in 0..reads + writes {
        for fault in &faults {
            let what = format!("{fault:?} in call {index}");
            let to = Memory::new();
            let (from, filled) = if index < reads {
                (
                    Faulty::at(scene.from.memory.clone(), index, fault.clone()),
                    Faulty::none(to.clone()),
                )
            } else {
                (
                    Faulty::none(scene.from.memory.clone()),
                    Faulty::at(to.clone(), index - reads, fault.clone()),
                )
            };
            let mut said = scene.pass_through(from, filled, &scene.task()).await;
            // Whose store it is was read with a flipped bit: nothing is written then.
            if matches!(fault, Fault::Flip) && said.result.reason == Reason::StoreForeign {
                assert!(copies(&to).is_empty(), "{what}");
                said = scene.pass_through(scene.from.memory.clone(), to.clone(), &scene.task()).await;
            }
            assert_eq!(
                (said.result.reason, said.pass().there()),
                (Reason::Succeeded, 2),
                "{what}: {:?}",
                said.result
            );
            assert_eq!(copies(&to), wanted, "{what}");
            assert_written_once(&to, &what);
        }
    }
}

/// Kubernetes may start two pods of one Job.
#[tokio::test(start_paused = true)]
async fn two_pods_at_once_do_the_work_of_one() {
    let scene = Scene::days(3).await;
    let slow = |_: &Call| Some(Fault::Slow(Duration::from_millis(20)));
    let task = scene.task();
    let pod = || {
        scene.pass_through(
            Faulty::new(scene.from.memory.clone(), slow),
            Faulty::new(scene.to.clone(), slow),
            &task,
        )
    };
    let (one, other) = tokio::join!(pod(), pod());
    for said in [&one, &other] {
        assert_eq!(
            (said.result.reason, said.pass().there()),
            (Reason::Succeeded, 3),
            "{:?}",
            said.result
        );
    }
    assert_eq!(
        one.pass().count(ReplicaState::Copied) + other.pass().count(ReplicaState::Copied),
        3,
        "each is committed once"
    );
    assert_eq!(copies(&scene.to), copies(&scene.from.memory));
    assert_written_once(&scene.to, "two pods");
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_to_stop_ends_at_once_and_tells_how_far_it_got() {
    let scene = Scene::days(3).await;
    let task = scene.task();
    let invocation = scene.invocation(&task);
    let cancel = invocation.cancel.clone();
    let hangs = Faulty::new(scene.to.clone(), move |call| {
        let second = call.kind == CallKind::Create && call.path.contains(&day(2));
        second.then(|| {
            cancel.cancel();
            Fault::Slow(Duration::from_secs(3_600))
        })
    });
    let began = tokio::time::Instant::now();
    let said = scene.pass_of(&invocation, scene.from.memory.clone(), hangs, &task).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!((said.result.reason, said.pass().complete), (Reason::Interrupted, false));
    let states: Vec<_> = said.states().into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [ReplicaState::Copied, ReplicaState::Missing, ReplicaState::Missing]);
    assert_eq!(scene.to.open_uploads(), 0);
    assert_eq!(scene.pass().await.pass().there(), 3);
}

#[tokio::test(start_paused = true)]
async fn after_its_time_nothing_is_committed() {
    let scene = Scene::days(2).await;
    let said = scene.pass_with(|task| task.not_after = "2026-11-01T00:00:00Z".into()).await;
    assert_eq!((said.result.reason, said.pass().complete), (Reason::DeadlineExceeded, false));
    assert!(copies(&scene.to).is_empty());

    // By the store's clock, which ran ahead while the objects were on their way.
    let to = scene.to.clone();
    let late = Faulty::new(scene.to.clone(), move |call| {
        if call.path.starts_with("data/") {
            to.set_clock("2126-02-01T00:00:00Z".parse().unwrap());
        }
        None
    });
    let said = scene.pass_through(scene.from.memory.clone(), late, &scene.task()).await;
    assert_eq!(said.result.reason, Reason::DeadlineExceeded, "{}", said.result.message);
    assert!(copies(&scene.to).is_empty());
}

/// F04: the put of an outcome sleeps until what the pass had stored was swept.
#[tokio::test(start_paused = true)]
async fn f04_an_outcome_that_lands_after_its_objects_were_swept_is_no_copy() {
    let scene = Scene::days(1).await;
    let to = scene.to.clone();
    let asleep = Faulty::new(scene.to.clone(), move |call| {
        if call.kind == CallKind::Create && call.path.ends_with("outcome.json") {
            to.set_clock("2126-03-01T00:00:00Z".parse().unwrap());
            let objects = to.objects().into_keys();
            objects.filter(|path| path.starts_with("data/")).for_each(|path| to.remove(&path));
        }
        None
    });
    let said = scene.pass_through(scene.from.memory.clone(), asleep, &scene.task()).await;
    let line = said.only();
    assert_eq!(
        (line.state, line.reason),
        (ReplicaState::Unreadable, Some(Reason::CopyCorrupt)),
        "{line:?}"
    );
    assert!(
        line.message.as_ref().unwrap().contains("is not there: the outcome landed after"),
        "{line:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_copy_that_a_store_fails_on_does_not_keep_the_others_away() {
    let scene = Scene::days(3).await;
    let broken = Faulty::new(scene.from.memory.clone(), |call| {
        let this = call.kind == CallKind::Get && call.path.starts_with("data/") && call.path.contains(&day(2));
        this.then(|| Fault::Before(Fault::slow_down()))
    });
    let said = scene.pass_through(broken, scene.to.clone(), &scene.task()).await;
    assert_eq!((said.result.reason, said.pass().complete), (Reason::StoreFailed, false));
    let states: Vec<_> = said.states().into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [ReplicaState::Copied, ReplicaState::Missing, ReplicaState::Copied]);

    // Where the store takes nothing at all, it is not tried copy by copy.
    let full = Memory::new();
    let no_room = Faulty::new(full.clone(), |call| {
        let part = call.kind == CallKind::Create && call.path.starts_with("data/");
        part.then(|| Fault::Before(StoreError::Full { problem: "quota".into() }))
    });
    let said = scene.pass_through(scene.from.memory.clone(), no_room.clone(), &scene.task()).await;
    assert_eq!(said.result.reason, Reason::StoreFull);
    assert_eq!(said.pass().count(ReplicaState::Missing), 3);
    let tried = no_room
        .calls()
        .iter()
        .filter(|call| call.kind == CallKind::Create && call.path.starts_with("data/"))
        .count();
    assert_eq!(tried, 1);
}

/// A removal or another owner of the run comes while its objects are on their way.
#[tokio::test(start_paused = true)]
async fn what_changes_meanwhile_is_seen_before_the_commit() {
    let scene = Scene::days(1).await;
    let path = run(&day(1));
    let record = |memory: &Memory| {
        let store = Store::new(memory.clone(), Patience::PROBE, 1);
        let record = Record::new(
            path.clone(),
            store.ulid().unwrap(),
            path.run.clone(),
            store.now().unwrap(),
            None,
            removed(),
        );
        (record.path().to_string(), record.to_bytes())
    };
    for (removed_in, expected) in [
        (scene.from.memory.clone(), ReplicaState::Going),
        (scene.to.clone(), ReplicaState::Removed),
    ] {
        let (place, bytes) = record(&removed_in);
        let memory = removed_in.clone();
        let planted = place.clone();
        let meanwhile = Faulty::new(scene.to.clone(), move |call| {
            if call.path.starts_with("data/") && memory.versions_of(&planted) == 0 {
                memory.plant(&planted, bytes.clone());
            }
            None
        });
        let said = scene.pass_through(scene.from.memory.clone(), meanwhile, &scene.task()).await;
        assert_eq!(said.only().state, expected);
        assert!(copies(&scene.to).is_empty());
        removed_in.remove(&place);
    }
}

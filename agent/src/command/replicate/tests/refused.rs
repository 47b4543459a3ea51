use holdfast_crds::KeepDisposal;
use holdfast_crds::document::{Abandonment, HoldScope, Label, Owner, VerifyLevel};
use jiff::SignedDuration;

use super::*;
use crate::store::faulty::{CallKind, Faulty};

/// What lies in the store that is filled, but for its owner.
fn there(scene: &Scene) -> Vec<String> {
    let objects = scene.to.objects();
    objects.keys().filter(|path| !path.starts_with("owner/")).cloned().collect()
}

fn mark(scene: &Scene) -> Fact {
    Fact::Mark {
        reason: "nothing keeps it".into(),
        input: Sha256::of(b"input"),
        not_before: scene.from.now() + SignedDuration::from_hours(48),
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_removed_gave_up_or_is_about_to_remove_is_not_brought_back() {
    let scene = Scene::days(4).await;
    scene.pass().await;
    scene.record(&scene.to, &run(&day(1)), removed()).await;
    scene.record(&scene.to, &run(&day(2)), mark(&scene)).await;
    let shredded = Fact::Shredded {
        disposal: "shop/erase".into(),
        basis: "Art. 17".into(),
    };
    scene.record(&scene.to, &run(&day(3)), shredded).await;
    let before = scene.to.objects();
    let said = scene.pass().await;
    let (one, two, three, four) = (day(1), day(2), day(3), day(4));
    assert_eq!(
        said.states(),
        [
            (four.as_str(), ReplicaState::Present),
            (three.as_str(), ReplicaState::Removed),
            (two.as_str(), ReplicaState::Removed),
            (one.as_str(), ReplicaState::Removed)
        ]
    );
    assert_eq!((scene.to.objects(), said.result.reason), (before, Reason::Succeeded));

    // Of a removal whose register is gone already, and of a run that was given up there.
    let scene = Scene::days(2).await;
    scene.record(&scene.to, &run(&day(1)), removed()).await;
    let store = Store::new(scene.to.clone(), Patience::PROBE, 1);
    let pinned = store.claim("cluster-a", "shop/far").await.unwrap();
    let abandonment = Abandonment {
        reason: "Abandoned".into(),
        message: "nothing was written for seven days".into(),
    };
    store
        .abandon(&run(&day(2)), &Label::new("pod", "p").unwrap(), abandonment, &pinned)
        .await
        .unwrap();
    let said = scene.pass().await;
    let (one, two) = (day(1), day(2));
    assert_eq!(
        said.states(),
        [(two.as_str(), ReplicaState::Abandoned), (one.as_str(), ReplicaState::Removed)]
    );
    assert!(!there(&scene).iter().any(|path| path.starts_with("data/")));
}

#[tokio::test(start_paused = true)]
async fn what_goes_or_is_no_good_where_it_is_is_not_spread() {
    let scene = Scene::days(5).await;
    let from = &scene.from.memory;
    scene.record(from, &run(&day(1)), removed()).await;
    scene.record(from, &run(&day(2)), mark(&scene)).await;
    let failed = Fact::Verified {
        level: VerifyLevel::Decode,
        problem: Some("the archive ends early".into()),
    };
    scene.record(from, &run(&day(3)), failed).await;
    let said = scene.pass_with(|task| {
        task.disposals = vec![KeepDisposal {
            namespace: "shop".into(),
            name: "erase".into(),
            scope: HoldScope {
                runs: Some(vec![run(&day(4)).to_string()]),
                ..HoldScope::default()
            },
            basis: "Art. 17".into(),
            requested_by: "alice".into(),
            approved_by: "bob".into(),
        }];
    });
    let said = said.await;
    let states: Vec<_> = said.states().into_iter().map(|(_, state)| state).collect();
    let going = ReplicaState::Going;
    assert_eq!(states, [ReplicaState::Copied, going, ReplicaState::NotGood, going, going]);
    assert_eq!(copies(&scene.to).len(), 1);
    assert!(said.lines[1].message.as_ref().unwrap().contains("shop/erase"));
}

#[tokio::test(start_paused = true)]
async fn another_manifest_under_the_runs_name_is_told_and_left() {
    let scene = Scene::days(2).await;
    let other = keep::Scene::new(scene.to.clone());
    other
        .copy_as("shop/far", &day(1), tick(1), |manifest| manifest.server.version = "16".into())
        .await;
    let before = scene.to.objects();
    let said = scene.pass().await;
    let line = &said.lines[1];
    assert_eq!(
        (line.run.clone(), line.state, line.reason),
        (day(1), ReplicaState::Divergent, Some(Reason::Divergent))
    );
    assert!(line.message.as_ref().unwrap().contains(line.manifest_digest.as_ref().unwrap()));
    assert_eq!((said.result.reason, said.pass().complete), (Reason::Divergent, true));
    assert_eq!(said.lines[0].state, ReplicaState::Copied, "the others are brought");
    for (path, bytes) in before {
        assert_eq!(scene.to.objects()[&path], bytes, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_part_is_refused_and_told_and_stops_nothing_else() {
    let scene = Scene::days(3).await;
    let objects = scene.from.memory.objects();
    let data = |day: u32| {
        let folder = run(&super::day(day)).data();
        objects.keys().find(|path| path.starts_with(&folder)).unwrap().clone()
    };
    let (gone, flipped) = (data(1), data(3));
    scene.from.memory.remove(&gone);
    let bytes = scene.from.memory.objects()[&flipped].to_vec();
    scene.from.memory.damage(&flipped, |bytes| bytes[3] ^= 1);
    assert_ne!(scene.from.memory.objects()[&flipped], bytes);
    let said = scene.pass().await;
    let states: Vec<_> = said.states().into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [ReplicaState::Unreadable, ReplicaState::Copied, ReplicaState::Unreadable]);
    assert!(said.lines[0].message.as_ref().unwrap().contains(&flipped), "{:?}", said.lines[0]);
    assert_eq!((said.result.reason, said.pass().problems()), (Reason::CopyCorrupt, 2));
    assert!(said.result.message.contains(&day(3)), "{}", said.result.message);
    assert_eq!(copies(&scene.to).len(), 1);
    assert!(!scene.to.objects().contains_key(&flipped) && scene.to.open_uploads() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_register_that_was_tampered_with_is_never_copied() {
    let scene = Scene::days(3).await;
    let outcome = |day: u32| run(&super::day(day)).outcome().to_string();
    let objects = scene.from.memory.objects();
    scene.from.memory.plant(&outcome(1), objects[&outcome(1)].clone());
    scene.from.memory.hide(&outcome(2));
    // Written before its own tick: by nobody who ran it.
    scene.from.copy(tick(9)).await;
    let said = scene.pass().await;
    assert_eq!(said.pass().count(ReplicaState::Unreadable), 3, "{:?}", said.lines);
    assert!(
        said.lines
            .iter()
            .filter(|line| line.run != day(3))
            .all(|line| line.reason == Some(Reason::Tampered))
    );
    assert_eq!((copies(&scene.to).len(), said.result.reason), (1, Reason::Tampered));
}

#[tokio::test(start_paused = true)]
async fn an_encrypting_store_takes_no_plain_copy() {
    let mut scene = Scene::days(1).await;
    scene.encryption = serde_json::json!({"age": {"recipients": [age::x25519::Identity::generate().to_public().to_string()]}});
    let said = scene.pass().await;
    assert_eq!(
        (said.only().state, said.result.reason),
        (ReplicaState::NotEncrypted, Reason::InvalidSpec)
    );
    assert!(copies(&scene.to).is_empty());
}

#[tokio::test(start_paused = true)]
async fn another_clusters_store_is_not_filled_and_a_take_over_stops_what_is_under_way() {
    let scene = Scene::days(2).await;
    let foreign = Memory::new();
    Store::new(foreign.clone(), Patience::PROBE, 1)
        .claim("cluster-b", "shop/far")
        .await
        .unwrap();
    let said = scene.pass_through(scene.from.memory.clone(), foreign.clone(), &scene.task()).await;
    assert_eq!((said.result.reason, said.lines.len()), (Reason::StoreForeign, 0));
    assert_eq!(foreign.objects().len(), 1);

    // It is taken over while the first copy's objects are on their way.
    let to = scene.to.clone();
    let taken = Faulty::new(scene.to.clone(), move |call| {
        if call.kind == CallKind::Create && call.path.starts_with("data/") && !to.objects().contains_key("owner/2.json") {
            let next = Owner {
                epoch: 2,
                takes_over: Some("cluster-a".into()),
                ..Owner::first("cluster-b", "shop/far", Timestamp::now(), "n")
            };
            to.plant("owner/2.json", next.to_bytes());
        }
        None
    });
    let said = scene.pass_through(scene.from.memory.clone(), taken, &scene.task()).await;
    assert_eq!((said.result.reason, said.pass().complete), (Reason::StoreForeign, false));
    assert!(copies(&scene.to).is_empty());
    assert!(said.lines.iter().all(|line| line.state == ReplicaState::Missing));
}

#[tokio::test(start_paused = true)]
async fn too_many_names_and_a_time_that_is_none_are_refused_by_field() {
    let scene = Scene::days(1).await;
    let (store, lines) = (Store::new(scene.to.clone(), Patience::PROBE, 1), || {
        Lines::new(COPY_LINE, Box::new(|_| {}))
    });
    let mut task = scene.task();
    task.not_after = "soon".into();
    let failure = run_with(&scene.invocation(&task), &task, (&store, &store), lines())
        .await
        .unwrap_err();
    assert!(failure.message.contains("notAfter is \"soon\""), "{}", failure.message);
    task.runs = (0..=1_000).map(|number| Label::new("run", format!("r{number}")).unwrap()).collect();
    let failure = run_with(&scene.invocation(&task), &task, (&store, &store), lines())
        .await
        .unwrap_err();
    assert!(
        failure.message.contains("runs has 1001 names, expected at most 1000"),
        "{}",
        failure.message
    );
}

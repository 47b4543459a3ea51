//! Chains: no engine makes increments yet, so that these are made up.

use holdfast_crds::BackupType;
use holdfast_crds::document::Label;

use super::*;

fn digest_of(scene: &Scene, name: &str) -> Sha256 {
    copies(&scene.from.memory)[&run(name).to_string()].0
}

/// A full copy and three increments, each on the one before.
async fn chain() -> Scene {
    let scene = Scene::days(1).await;
    let mut parent = day(1);
    for number in 2..=4 {
        let name = format!("orders-increment-{number}");
        let needed = vec![(run(&parent), digest_of(&scene, &parent))];
        scene.from.memory.set_clock(tick(number) + jiff::SignedDuration::from_mins(10));
        scene.from.copy_with(&name, tick(number), needs(needed, "Incremental")).await;
        parent = name;
    }
    scene.to.set_clock(scene.from.now());
    scene
}

const NEWEST: &str = "orders-increment-4";

#[tokio::test(start_paused = true)]
async fn what_a_copy_needs_is_there_before_it() {
    let scene = chain().await;
    let said = scene.pass().await;
    let full = day(1);
    let expected = [full.as_str(), "orders-increment-2", "orders-increment-3", NEWEST];
    assert_eq!(said.lines.iter().map(|line| line.run.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(copies(&scene.to), copies(&scene.from.memory));
}

#[tokio::test(start_paused = true)]
async fn what_is_needed_comes_along_whatever_its_type_and_though_nobody_named_it() {
    let scene = chain().await;
    let said = scene.pass_with(|task| task.types = vec![BackupType::Incremental]).await;
    assert_eq!(said.pass().count(ReplicaState::Copied), 4);

    let scene = chain().await;
    let named = Label::new("run", "orders-increment-3").unwrap();
    let said = scene.pass_with(|task| task.runs = vec![named]).await;
    assert_eq!(said.pass().count(ReplicaState::Copied), 3);
    assert!(!copies(&scene.to).contains_key(&run(NEWEST).to_string()));
}

#[tokio::test(start_paused = true)]
async fn without_what_it_needs_a_copy_is_not_brought() {
    // Removed there; not to be read here; marked there since.
    let scene = chain().await;
    scene.record(&scene.to, &run("orders-increment-2"), removed()).await;
    let said = scene.pass().await;
    let full = day(1);
    assert_eq!(
        said.states(),
        [
            ("orders-increment-2", ReplicaState::Removed),
            ("orders-increment-3", ReplicaState::ParentMissing),
            (NEWEST, ReplicaState::ParentMissing),
            (full.as_str(), ReplicaState::Copied)
        ]
    );
    assert_eq!(said.result.reason, Reason::CopyNotFound);

    let scene = chain().await;
    let objects = scene.from.memory.objects();
    let part = objects
        .keys()
        .find(|path| path.starts_with(&run("orders-increment-2").data()))
        .unwrap();
    scene.from.memory.remove(part);
    let said = scene.pass().await;
    assert_eq!(
        said.states()[1..],
        [
            ("orders-increment-2", ReplicaState::Unreadable),
            ("orders-increment-3", ReplicaState::ParentMissing),
            (NEWEST, ReplicaState::ParentMissing)
        ]
    );
    assert_eq!(copies(&scene.to).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_parent_nobody_has_is_not_brought() {
    let scene = Scene::days(1).await;
    let lost = vec![(run("orders-lost"), Sha256::of(b"lost"))];
    scene.from.copy_with("orders-orphan", tick(1), needs(lost, "Incremental")).await;
    let said = scene.pass().await;
    assert_eq!(said.pass().count(ReplicaState::ParentMissing), 1);
    assert_eq!(copies(&scene.to).len(), 1);
}

/// Manifests name their parents by digest, so that a circle cannot be made by hand either; a chain of thousands can.
#[tokio::test(start_paused = true)]
async fn a_long_chain_is_followed_to_its_base() {
    let scene = Scene::days(1).await;
    let mut parent = (run(&day(1)), digest_of(&scene, &day(1)));
    for number in 0..600 {
        let name = format!("orders-log-{number}");
        let made = scene.from.copy_with(&name, tick(1), needs(vec![parent], "Log")).await;
        let place = made.outcome().to_string();
        let outcome = Outcome::from_bytes(&made, &scene.from.memory.objects()[&place]).unwrap();
        parent = (made, outcome.committed().unwrap().manifest_sha256());
    }
    let last = parent.0.run.clone();
    let said = scene.pass_with(|task| {
        task.runs = vec![last];
        task.preview = true;
    });
    let said = said.await;
    assert_eq!(said.pass().count(ReplicaState::Missing), 601);
    assert_eq!(said.lines[0].run, day(1));
    assert_eq!(said.lines[600].run, "orders-log-599");
}

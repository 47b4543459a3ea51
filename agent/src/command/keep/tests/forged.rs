//! Records of a removal that no keeper wrote: who took the writer's keys may leave them.

use holdfast_crds::document::{Abandonment, HoldScope, Ulid};
use holdfast_crds::{KeepDisposal, Reason};

use super::passes::hold;
use super::*;

/// Plants a record of a run, as somebody with the right to put it would.
fn plant(scene: &Scene, run: &RunPath, fact: Fact) -> Ulid {
    let now = scene.now();
    let ulid = Ulid::new(now, [9; 10]);
    let record = Record::new(run.clone(), ulid.clone(), label("somebody"), now, None, fact);
    scene.memory.plant(&record.path().to_string(), record.to_bytes());
    ulid
}

fn mark_of(scene: &Scene, run: &RunPath) -> Ulid {
    let objects = scene.memory.objects();
    let marks = objects.keys().filter_map(|path| match path.parse() {
        Ok(ObjectPath::Record { run: of, ulid, what }) if of == *run && what.as_str() == "mark" => Some(ulid),
        _ => None,
    });
    marks.last().unwrap()
}

fn removed(reason: &str, mark: Option<Ulid>) -> Fact {
    Fact::Removed {
        reason: reason.to_owned(),
        mark,
    }
}

fn told(said: &Said, text: &str) {
    let found = said
        .findings()
        .iter()
        .any(|finding| finding.reason == Reason::Tampered && finding.message.contains(text));
    assert!(found, "{text}: {:#?}", said.findings());
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_names_no_mark_or_one_that_is_not_due_deletes_nothing() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(4));
    scene.pass(&wanted).await;
    let invented = Ulid::new(scene.now(), [1; 10]);
    plant(&scene, &runs[0], removed("retention", Some(mark_of(&scene, &runs[0]))));
    plant(&scene, &runs[1], removed("retention", Some(invented)));
    plant(&scene, &runs[2], removed("retention", None));
    scene.memory.advance(SignedDuration::from_hours(1));
    let said = scene.pass(&wanted).await;
    assert_eq!(scene.with_data().len(), 5);
    assert_eq!((said.source().copies, said.source().good), (5, 5), "they are copies still");
    told(&said, "its mark was not due before");
    told(&said, "that it names is not there");
    told(&said, "neither a mark nor a disposal");
    // The mark's own time comes: the keeper removes what it marked, and only that.
    scene.memory.advance(DAY * 2);
    scene.copy(at("2026-03-07T02:00:00Z")).await;
    scene.pass(&wanted).await;
    assert!(!scene.with_data().contains(runs[0].run.as_str()));
    assert!(scene.with_data().contains(runs[2].run.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_removal_of_what_a_hold_names_deletes_nothing() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let mut wanted = task(|r| r.keep_last = Some(3));
    scene.pass(&wanted).await;
    scene.memory.advance(DAY * 2);
    wanted.holds = vec![hold(|_| ())];
    let mark = mark_of(&scene, &runs[0]);
    // Held after a keeper that was killed had begun: what is left stays, and nobody forged anything.
    let begun = mark_of(&scene, &runs[1]);
    plant(&scene, &runs[1], removed("retention", Some(begun)));
    scene.memory.advance(SignedDuration::from_mins(1));
    let said = scene.pass(&wanted).await;
    assert!(said.findings().is_empty(), "{:?}", said.findings());
    assert!(scene.with_data().contains(runs[1].run.as_str()));
    // Once the hold is recorded no keeper removes.
    scene.memory.advance(SignedDuration::from_mins(1));
    plant(&scene, &runs[0], removed("retention", Some(mark)));
    scene.memory.advance(SignedDuration::from_mins(1));
    let said = scene.pass(&wanted).await;
    assert_eq!(scene.with_data().len(), 5);
    told(&said, "was withdrawn");
    plant(
        &scene,
        &runs[2],
        Fact::Shredded {
            disposal: "shop/erase".into(),
            basis: "none".into(),
        },
    );
    plant(&scene, &runs[2], removed("disposal shop/erase", None));
    wanted.disposals = vec![erase(&runs[2])];
    let said = scene.pass(&wanted).await;
    assert_eq!(scene.with_data().len(), 5);
    told(&said, "held it then");
}

fn erase(run: &RunPath) -> KeepDisposal {
    KeepDisposal {
        namespace: "shop".into(),
        name: "erase".into(),
        scope: HoldScope {
            runs: Some(vec![run.to_string()]),
            ..HoldScope::default()
        },
        basis: "GDPR Art. 17".into(),
        requested_by: "ann".into(),
        approved_by: "bob".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_for_a_disposal_goes_on_only_while_its_request_names_the_copy() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 4).await;
    let mut wanted = task(|_| ());
    for run in &runs[..2] {
        plant(
            &scene,
            run,
            Fact::Shredded {
                disposal: "shop/erase".into(),
                basis: "GDPR".into(),
            },
        );
        plant(&scene, run, removed("disposal shop/erase", None));
    }
    let said = scene.pass(&wanted).await;
    assert_eq!(scene.with_data().len(), 4);
    told(&said, "there is no approved request shop/erase that names it");
    wanted.disposals = vec![erase(&runs[0])];
    let said = scene.pass(&wanted).await;
    told(&said, "there is no approved request shop/erase that names it");
    assert!(
        !scene.with_data().contains(runs[0].run.as_str()),
        "a keeper that was killed is continued"
    );
    assert!(scene.with_data().contains(runs[1].run.as_str()));
    // All of it is gone: nobody needs to remember the request.
    let said = scene.pass(&task(|_| ())).await;
    let of_first = |finding: &&StoreFinding| finding.place.as_deref() == Some(&runs[0].to_string());
    assert!(!said.findings().iter().any(of_first), "{:?}", said.findings());
}

#[tokio::test(start_paused = true)]
async fn a_removal_beside_a_run_that_is_at_work_takes_neither_its_keys_nor_its_data() {
    let scene = Scene::new(Memory::new());
    days(&scene, "2026-03-01T02:00:00Z", 1).await;
    let run = RunPath::new("shop", "orders", "orders-busy").unwrap();
    let key = format!("catalog/{run}/key-pod-x-1.age");
    scene.memory.plant(&key, "sealed");
    scene.memory.plant(&format!("data/{run}/pod-x/database-1/00001.zst"), "rows");
    plant(&scene, &run, removed("retention", None));
    let said = scene.pass(&task(|_| ())).await;
    assert!(scene.memory.objects().contains_key(&key));
    told(&said, "there was no copy yet");
}

/// An abandonment put over the register of a copy.
fn abandon(scene: &Scene, run: &RunPath) {
    let outcome = Outcome {
        run: run.clone(),
        nonce: "forged".into(),
        by: label("somebody"),
        at: scene.now(),
        decision: Decision::Abandoned(Abandonment {
            reason: "Cancelled".into(),
            message: "nobody needs it".into(),
        }),
    };
    scene.memory.plant(&run.outcome().to_string(), outcome.to_bytes());
}

#[tokio::test(start_paused = true)]
async fn where_no_versions_are_kept_an_abandonment_over_the_register_of_a_copy_deletes_nothing() {
    // What a keeper recorded of the copy says that it is one.
    let scene = Scene::new(Memory::new().without_versions());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let wanted = task(|r| r.keep_within = Some("30d".parse().unwrap()));
    scene.pass(&wanted).await;
    abandon(&scene, &runs[1]);
    // A new copy makes up for it in number.
    scene.memory.advance(DAY);
    scene.copy(at("2026-03-04T02:00:00Z")).await;
    let said = scene.pass(&wanted).await;
    told(&said, "says that the run was given up, but records of its copy are there");
    assert_eq!(scene.with_data().len(), 4);

    // Without a record, the number of copies does.
    let scene = Scene::new(Memory::new().without_versions());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let mut wanted = task(|_| ());
    wanted.sources = vec![counted(3)];
    abandon(&scene, &runs[1]);
    let said = scene.pass(&wanted).await;
    assert_eq!(
        said.source().blocked.as_ref().map(|blocked| blocked.reason),
        Some(Reason::CopiesMissing)
    );
    assert_eq!(scene.with_data().len(), 3);
}

use holdfast_crds::document::{HoldScope, Outcome};
use holdfast_crds::{KeepHold, KeepRelease, KeepSource, LockMode, Reason, ReleaseBy, Span, hold_id};

use super::*;
use crate::store::faulty::{Call, CallKind, Fault, Faulty};

pub fn hold(edit: impl FnOnce(&mut KeepHold)) -> KeepHold {
    let mut hold = KeepHold {
        id: hold_id(Some("shop"), "tax"),
        namespace: Some("shop".into()),
        name: "tax".into(),
        placed_by: "ann".into(),
        release_by: ReleaseBy::AnotherPerson,
        cool_off: Span::from_hours(24),
        reason: "audit of 2026".into(),
        scope: HoldScope::default(),
        until: None,
        release: None,
    };
    edit(&mut hold);
    hold
}

#[tokio::test(start_paused = true)]
async fn what_nothing_keeps_is_marked_waits_two_days_and_is_removed_for_good() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let task = task(|r| r.keep_last = Some(3));
    let first = scene.pass(&task).await;
    let source = first.source();
    assert_eq!(
        (source.copies, source.good, source.marked, source.removed),
        (5, 5, 2, 0),
        "{source:?}"
    );
    assert_eq!(source.newest.as_deref(), Some("2026-03-05T02:00:00Z"));
    assert_eq!(scene.what(&runs[0]), ["mark"]);
    assert!(scene.what(&runs[4]).is_empty());
    // A second pass finds nothing new to say.
    let objects = scene.memory.objects().len();
    scene.pass(&task).await;
    assert_eq!(scene.memory.objects().len(), objects, "a pass that changes nothing writes nothing");
    scene.memory.advance(DAY);
    scene.copy(at("2026-03-06T02:00:00Z")).await;
    scene.pass(&task).await;
    assert_eq!(scene.with_data().len(), 6, "the delay is not over");
    scene.memory.advance(DAY);
    let swept = scene.pass(&task).await;
    assert_eq!((swept.source().copies, swept.source().removed), (4, 2), "{:?}", swept.source());
    assert!(!scene.with_data().contains(runs[0].run.as_str()));
    assert_eq!(scene.what(&runs[0]), ["mark", "removed"]);
    assert!(
        scene.memory.objects().contains_key(&runs[0].outcome().to_string()),
        "the register stays, so that nobody takes its place"
    );
    assert_eq!(swept.result.kept.unwrap().removed, 2);
    // A month after the last moment in which a pod could have committed, register and records go together.
    scene.memory.set_clock(at("2026-04-01T02:10:00Z"));
    let later = scene.copy(at("2026-04-01T02:00:00Z")).await;
    scene.pass(&task).await;
    assert!(scene.memory.objects().contains_key(&runs[0].outcome().to_string()));
    scene.memory.set_clock(at("2026-04-07T02:20:00Z"));
    scene.copy_with("orders-again", at("2026-04-07T02:00:00Z"), |_| {}).await;
    scene.pass(&task).await;
    assert!(!scene.memory.objects().keys().any(|path| path.contains(runs[0].run.as_str())));
    assert!(scene.with_data().contains(later.run.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_hold_keeps_what_retention_would_remove_until_its_release_counts() {
    let scene = Scene::new(Memory::new().with_object_lock());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let mut wanted = task(|r| r.keep_last = Some(2));
    scene.pass(&wanted).await;
    assert_eq!(scene.what(&runs[0]), ["mark"]);
    wanted.holds = vec![hold(|hold| hold.scope.runs = Some(vec![runs[0].to_string()]))];
    scene.memory.advance(SignedDuration::from_mins(1));
    let held = scene.pass(&wanted).await;
    assert_eq!(held.source().held, 1);
    assert_eq!(scene.what(&runs[0]), ["mark", "held", "unmark", "legal-hold"]);
    let part = scene
        .memory
        .objects()
        .keys()
        .find(|path| path.starts_with(&runs[0].data()))
        .unwrap()
        .clone();
    assert!(scene.memory.locked(&part).legal_hold);
    let KeepLine::Hold(report) = held.lines.last().unwrap() else {
        panic!("{:?}", held.lines)
    };
    assert_eq!(
        (report.recorded, report.copies, report.legal_holds, report.released_at.clone()),
        (true, 1, 1, None),
        "{report:?}"
    );
    // The object is gone, and so is whoever knew of it: the records hold.
    wanted.holds.clear();
    scene.memory.advance(DAY * 4);
    scene.copy(at("2026-03-09T02:00:00Z")).await;
    let alone = scene.pass(&wanted).await;
    assert_eq!(alone.source().held, 1);
    assert!(scene.with_data().contains(runs[0].run.as_str()));
    assert!(!scene.with_data().contains(runs[1].run.as_str()), "what nobody holds goes");
    // Released: a day of cool-off, then the mark and its delay.
    wanted.holds = vec![hold(|hold| {
        hold.scope.runs = Some(vec![runs[0].to_string()]);
        hold.release = Some(KeepRelease {
            released_by: "bob".into(),
            reason: "audit closed".into(),
            effective_at: scene.now() + DAY,
        });
    })];
    scene.pass(&wanted).await;
    assert!(scene.memory.locked(&part).legal_hold);
    scene.memory.advance(DAY + SignedDuration::from_mins(1));
    scene.copy(at("2026-03-10T02:00:00Z")).await;
    scene.pass(&wanted).await;
    assert!(!scene.memory.locked(&part).legal_hold);
    assert_eq!(scene.what(&runs[0]).last(), Some(&"legal-hold"));
    scene.memory.advance(DAY * 2);
    scene.copy(at("2026-03-12T02:00:00Z")).await;
    scene.pass(&wanted).await;
    assert!(!scene.with_data().contains(runs[0].run.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_was_deleted_and_made_anew_by_its_placer_is_not_released_by_them() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let mut wanted = task(|r| r.keep_last = Some(2));
    wanted.holds = vec![hold(|hold| hold.scope.runs = Some(vec![runs[0].to_string()]))];
    scene.pass(&wanted).await;
    // Deleted, and made anew with looser terms and the same scope; then released by the same person.
    wanted.holds = vec![hold(|hold| {
        hold.scope.runs = Some(vec![runs[0].to_string()]);
        hold.release_by = ReleaseBy::Anyone;
        hold.cool_off = Span::from_seconds(1);
        hold.release = Some(KeepRelease {
            released_by: "ann".into(),
            reason: "mine".into(),
            effective_at: scene.now() + SignedDuration::from_secs(1),
        });
    })];
    scene.memory.advance(SignedDuration::from_mins(1));
    scene.pass(&wanted).await;
    let objects = scene.memory.objects().len();
    scene.memory.advance(SignedDuration::from_mins(1));
    let said = scene.pass(&wanted).await;
    assert_eq!(
        scene.memory.objects().len(),
        objects,
        "a release that is none is not recorded again and again"
    );
    assert_eq!(said.source().held, 1);
    let KeepLine::Hold(report) = said.lines.last().unwrap() else {
        panic!("{:?}", said.lines)
    };
    let refused = report.refused.clone().unwrap();
    assert!(
        report.released_at.is_none() && refused.contains("releaseBy: AnotherPerson"),
        "{refused}"
    );
    // Another person's release counts, after the cool-off of the first.
    wanted.holds[0].release.as_mut().unwrap().released_by = "bob".into();
    let said = scene.pass(&wanted).await;
    let KeepLine::Hold(report) = said.lines.last().unwrap() else {
        panic!("{:?}", said.lines)
    };
    let ends: Timestamp = report.released_at.clone().unwrap().parse().unwrap();
    assert!(ends >= scene.now() + DAY - SignedDuration::from_mins(1), "{ends}");
    assert_eq!(report.refused, None);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_comes_between_mark_and_removal_in_the_same_pass_is_seen() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(3));
    scene.pass(&wanted).await;
    scene.memory.advance(DAY * 2);
    scene.copy(at("2026-03-07T02:00:00Z")).await;
    // Another keeper, younger than this one, records a hold after this one has read them.
    let memory = scene.memory.clone();
    let planted = Arc::new(Mutex::new(false));
    let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
        let mut planted = planted.lock().unwrap();
        if !*planted && call.path.starts_with("catalog/shop/orders/orders-20260301") && call.kind == CallKind::Get {
            *planted = true;
            let hold = hold_id(Some("shop"), "late");
            let fact = holdfast_crds::document::HoldFact::Place {
                namespace: Some("shop".into()),
                name: "late".into(),
                placed_by: "ann".into(),
                release_by: ReleaseBy::AnotherPerson,
                cool_off: Span::from_hours(24),
                reason: "police".into(),
                scope: HoldScope::default(),
                until: None,
            };
            let now = memory.now().unwrap();
            let ulid = holdfast_crds::document::Ulid::new(now, [7; 10]);
            let record = holdfast_crds::document::HoldRecord::new(hold, ulid, label("other-keeper"), now, fact);
            memory.plant(&record.path().to_string(), record.to_bytes());
        }
        None
    });
    let said = scene.pass_through(faulty, &wanted).await.unwrap();
    assert_eq!(said.source().removed, 0);
    assert!(scene.with_data().contains(runs[0].run.as_str()));
}

#[tokio::test(start_paused = true)]
async fn everything_that_is_kept_is_locked_and_a_lock_is_a_fact_not_an_error() {
    let scene = Scene::new(Memory::new().with_write_lock(LockMode::Compliance, Duration::from_hours(7 * 24)));
    let runs = days(&scene, "2026-03-01T02:00:00Z", 4).await;
    let wanted = task(|r| r.monthly = Some(3));
    scene.pass(&wanted).await;
    let until = |run: &RunPath| {
        let objects = scene.memory.objects();
        let part = objects.keys().find(|path| path.starts_with(&run.data())).unwrap();
        scene.memory.locked(part).until().unwrap()
    };
    assert_eq!(until(&runs[0]), at("2026-06-01T00:00:00Z"), "the month's slot, three months on");
    assert!(scene.memory.locked(&runs[0].outcome().to_string()).until().unwrap() >= at("2026-06-01T00:00:00Z"));
    assert_eq!(
        until(&runs[1]),
        at("2026-03-09T02:10:00Z"),
        "what is not kept has the lock of its birth"
    );
    // Marked copies wait for their locks.
    for day in 5..=12 {
        scene.memory.set_clock(at("2026-03-01T02:10:00Z") + DAY * (day - 1));
        scene.copy(at("2026-03-01T02:00:00Z") + DAY * (day - 1)).await;
        scene.pass(&wanted).await;
    }
    assert!(!scene.with_data().contains(runs[1].run.as_str()), "{:?}", scene.what(&runs[1]));
    assert!(scene.with_data().contains(runs[0].run.as_str()));
    // The newest two have no end that is known: their locks roll on.
    assert!(until(&scene.copy(at("2026-03-13T02:00:00Z")).await) > scene.now());
}

#[tokio::test(start_paused = true)]
async fn what_a_writer_overwrites_deletes_or_forges_is_told_and_nothing_goes_for_it() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(2));
    scene.pass(&wanted).await;
    let outcome = runs[1].outcome().to_string();
    let original = scene.memory.objects()[&outcome].clone();
    scene.memory.plant(&outcome, "{}");
    scene.memory.hide(&runs[2].outcome().to_string());
    let part = scene
        .memory
        .objects()
        .keys()
        .find(|path| path.starts_with(&runs[3].data()))
        .unwrap()
        .clone();
    scene.memory.plant(&part, "garbage");
    // An outcome for a tick that is still to come.
    let forged = String::from_utf8(original.to_vec())
        .unwrap()
        .replace("orders-20260302t0200z", "orders-20270302t0200z");
    let future = RunPath::new("shop", "orders", "orders-20270302t0200z").unwrap();
    scene.memory.plant(
        &future.outcome().to_string(),
        forged.replace("2026-03-02T02:00:00Z", "2027-03-02T02:00:00Z"),
    );
    scene.memory.plant("catalog/shop/orders/orders-20260301t0200z/readme.txt", "hello");
    let said = scene.pass(&wanted).await;
    let findings = said.findings();
    let told = |reason: Reason, text: &str| {
        findings
            .iter()
            .any(|finding| finding.reason == reason && finding.message.contains(text))
    };
    assert!(told(Reason::Tampered, &outcome), "{findings:#?}");
    assert!(told(Reason::Tampered, "was deleted"), "{findings:#?}");
    assert!(told(Reason::Tampered, &part), "{findings:#?}");
    assert!(told(Reason::ForeignObject, "readme.txt"), "{findings:#?}");
    let source = said.source();
    assert_eq!(source.good, 5, "the first versions count, the forgery does not: {source:?}");
    scene.memory.advance(DAY * 2);
    let said = scene.pass(&wanted).await;
    assert!(
        said.findings()
            .iter()
            .any(|finding| finding.reason == Reason::CopyCorrupt || finding.reason == Reason::Tampered)
    );
    for run in &runs[3..] {
        assert!(scene.with_data().contains(run.run.as_str()), "{run}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_with_a_part_that_is_gone_counts_no_more() {
    let scene = Scene::new(Memory::new().without_versions());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 4).await;
    let part = scene
        .memory
        .objects()
        .keys()
        .find(|path| path.starts_with(&runs[3].data()))
        .unwrap()
        .clone();
    scene.memory.remove(&part);
    let said = scene.pass(&task(|r| r.keep_last = Some(1))).await;
    assert_eq!((said.source().copies, said.source().good), (4, 3));
    assert!(
        said.findings()
            .iter()
            .any(|finding| finding.reason == Reason::CopyCorrupt && finding.message.contains("is missing"))
    );
    assert_eq!(scene.what(&runs[0]), ["mark"]);
    assert!(scene.what(&runs[1]).is_empty(), "the newest two good ones stay");
}

#[tokio::test(start_paused = true)]
async fn a_store_of_another_cluster_is_read_and_not_written_until_it_is_taken_over() {
    let mut scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(2));
    scene.pass(&wanted).await;
    scene.memory.advance(DAY * 2);
    let before = scene.memory.objects();
    scene.cluster = "cluster-b".into();
    let said = scene.pass(&wanted).await;
    assert_eq!(said.source().copies, 5, "the catalogue is seen");
    assert!(said.findings().iter().any(|finding| finding.reason == Reason::StoreForeign));
    assert_eq!(scene.memory.objects(), before);
    let new = scene.store().take_over("cluster-b", "shop/offsite", "cluster-a").await.unwrap();
    assert_eq!(new.epoch(), 2);
    scene.copy(at("2026-03-07T02:00:00Z")).await;
    assert_eq!(scene.pass(&wanted).await.source().removed, 3);
    // The old cluster comes back: it sees, and does nothing.
    scene.cluster = "cluster-a".into();
    let before = scene.memory.objects();
    let said = scene.pass(&task(|r| r.keep_last = Some(1))).await;
    assert_eq!(said.result.kept.unwrap().epoch, 2);
    assert_eq!(scene.memory.objects(), before);
    assert!(!scene.with_data().contains(runs[0].run.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_take_over_in_the_middle_of_a_pass_stops_it_before_it_deletes() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(3));
    scene.pass(&wanted).await;
    scene.memory.advance(DAY * 2);
    scene.copy(at("2026-03-07T02:00:00Z")).await;
    let memory = scene.memory.clone();
    let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
        if call.path.starts_with("catalog/shop/orders/orders-20260301") && call.kind == CallKind::Get {
            let next = holdfast_crds::document::Owner {
                epoch: 2,
                takes_over: Some("cluster-a".into()),
                ..holdfast_crds::document::Owner::first("cluster-b", "shop/offsite", memory.now().unwrap(), "n")
            };
            memory.plant("owner/2.json", next.to_bytes());
        }
        None
    });
    let failure = scene.pass_through(faulty, &wanted).await.err().unwrap();
    assert_eq!(failure.reason, Reason::StoreForeign);
    assert!(scene.with_data().contains(runs[0].run.as_str()));
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_apart_record_and_remove_nothing() {
    let scene = Scene::new(Memory::new());
    days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(2));
    let store = scene.store();
    let before = scene.memory.objects();
    for wrong in ["1970-01-01T00:00:00Z", "2027-03-05T02:10:00Z", "2106-02-07T06:28:15Z"] {
        let report = Report::new(Box::new(|_: &str| {}));
        let result = run_with(
            &scene.invocation("offsite", &wanted),
            &wanted,
            (&store, &store),
            || at(wrong),
            report,
        )
        .await
        .unwrap();
        let kept = result.kept.unwrap();
        assert_eq!((kept.copies, kept.removed, kept.findings), (5, 0, 1), "{wrong}: {kept:?}");
        assert_eq!(scene.memory.objects(), before, "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn runs_that_nobody_finished_are_given_up_and_what_lost_is_cleared() {
    let scene = Scene::new(Memory::new());
    let run = days(&scene, "2026-03-01T02:00:00Z", 1).await.remove(0);
    // A pod that wrote for the same run and lost, and one of a run that never ended.
    scene.memory.plant(&format!("data/{run}/loser/database-1/00001.zst"), "rows");
    scene
        .memory
        .plant("data/shop/orders/orders-lost/pod-x/database-1/00001.zst", "rows");
    scene
        .memory
        .plant("data/shop/orders/orders-busy/pod-y/database-1/00001.zst", "rows");
    let mut wanted = task(|r| r.keep_last = Some(2));
    wanted.in_use = vec![RunPath::new("shop", "orders", "orders-busy").unwrap()];
    scene.pass(&wanted).await;
    assert_eq!(scene.with_data().len(), 3);
    scene.memory.advance(DAY * 8);
    scene.pass(&wanted).await;
    assert_eq!(scene.with_data(), BTreeSet::from([run.run.to_string(), "orders-busy".to_owned()]));
    assert!(!scene.memory.objects().keys().any(|path| path.contains("/loser/")));
    let lost = RunPath::new("shop", "orders", "orders-lost").unwrap();
    let bytes = scene.memory.objects()[&lost.outcome().to_string()].clone();
    let outcome = Outcome::from_bytes(&lost, &bytes).unwrap();
    assert!(
        outcome.committed().is_none(),
        "the register was won first: a zombie cannot commit any more"
    );
    scene.memory.advance(DAY * 31);
    scene.pass(&wanted).await;
    assert!(!scene.memory.objects().contains_key(&lost.outcome().to_string()));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_fails_leaves_everything_where_it_is() {
    let scene = Scene::new(Memory::new().page(3));
    days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = task(|r| r.keep_last = Some(3));
    scene.pass(&wanted).await;
    scene.memory.advance(DAY * 2);
    scene.copy(at("2026-03-07T02:00:00Z")).await;
    let before = scene.memory.objects();
    let seen = Arc::new(Mutex::new(0));
    let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
        let mut seen = seen.lock().unwrap();
        *seen += i32::from(call.kind == CallKind::ListVersions);
        (*seen > 4 && call.kind == CallKind::ListVersions).then(|| Fault::Before(Fault::slow_down()))
    });
    let failure = scene.pass_through(faulty, &wanted).await.err().unwrap();
    assert_eq!(failure.reason, Reason::StoreFailed, "{failure:?}");
    assert_eq!(scene.memory.objects(), before);
}

#[tokio::test(start_paused = true)]
async fn fewer_copies_than_the_last_pass_left_stop_the_source() {
    let scene = Scene::new(Memory::new());
    days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let mut wanted = task(|r| r.keep_last = Some(2));
    wanted.sources = vec![counted(9)];
    let said = scene.pass(&wanted).await;
    assert_eq!(said.source().blocked.as_ref().unwrap().reason, Reason::CopiesMissing);
    assert_eq!(said.source().marked, 0);
}

#[tokio::test(start_paused = true)]
async fn the_rules_of_a_schedule_that_is_gone_go_on() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    scene.pass(&task(|r| r.keep_last = Some(3))).await;
    scene.memory.advance(DAY * 3);
    let said = scene.pass(&KeepTask::default()).await;
    assert_eq!(
        said.source().blocked.as_ref().unwrap().reason,
        Reason::CopyTooOld,
        "no copy comes any more: that is recorded too"
    );
    let retired = KeepTask {
        sources: vec![KeepSource {
            namespace: label("shop"),
            source: label("orders"),
            copies: None,
            copies_as_of: None,
            retired: Some(holdfast_crds::Said {
                who: "ann".into(),
                why: "the shop is closed".into(),
            }),
            accepted: vec![],
        }],
        ..KeepTask::default()
    };
    let said = scene.pass(&retired).await;
    assert_eq!(said.source().removed, 2);
    assert!(scene.with_data().contains(runs[2].run.as_str()));
    // Also with new rules for what the store never heard of: everything stays.
    let never = Scene::new(Memory::new());
    days(&never, "2026-03-01T02:00:00Z", 5).await;
    assert_eq!(never.pass(&KeepTask::default()).await.source().marked, 0);
}

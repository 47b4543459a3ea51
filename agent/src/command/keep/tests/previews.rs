//! Previews: what they tell, and that they write and ask for nothing that a reader may not.

use holdfast_crds::document::HoldScope;
use holdfast_crds::{CopyReport, CopyState, KeepHold, KeepPreview, ProposedRules, Reason, ReleaseBy, Span, hold_id};

use super::*;
use crate::command::keep::report::Show;
use crate::command::keep::show::{Json, Table};
use crate::store::StoreError;
use crate::store::faulty::{CallKind, Fault, Faulty};

/// Bytes that a test reads later.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A preview with the rights of a reader, shown by `show`, and the lines that the operator reads.
async fn previewed(scene: &Scene, task: &KeepTask, show: Box<dyn Show>) -> (AgentResult, Vec<KeepLine>) {
    let reads = [CallKind::List, CallKind::ListVersions, CallKind::Get, CallKind::Head];
    let reader = Faulty::new(scene.memory.clone(), move |call| {
        let denied = StoreError::Denied {
            call: "test",
            path: call.path.clone(),
            status: 403,
            code: "AccessDenied".into(),
        };
        (!reads.contains(&call.kind)).then_some(Fault::Before(denied))
    });
    let before = scene.memory.objects();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let report = Report::new(Box::new(move |line: &str| sink.lock().unwrap().push(line.to_owned()))).previewing(show);
    let store = Store::new(reader, Patience::PROBE, 4);
    let now = scene.now();
    let result = run_with(&scene.invocation("offsite", task), task, (&store, &store), move || now, report)
        .await
        .unwrap();
    assert_eq!(scene.memory.objects(), before, "nothing is written");
    let lines = lines.lock().unwrap().clone();
    assert_eq!(result.kept.as_ref().unwrap().lines, lines.len() as u64);
    let parse = |line: &String| serde_json::from_str(line.strip_prefix(KEEP_LINE).unwrap()).unwrap();
    (result, lines.iter().map(parse).collect())
}

pub async fn preview(scene: &Scene, task: &KeepTask) -> (AgentResult, Vec<CopyReport>) {
    let (result, lines) = previewed(scene, task, Box::new(Table::new(Paper::default()))).await;
    let copies = lines.into_iter().filter_map(|line| match line {
        KeepLine::Copy(copy) => Some(copy),
        _ => None,
    });
    (result, copies.collect())
}

fn previewing(at: Option<&str>, proposed: Option<Retention>) -> KeepPreview {
    let proposed = proposed.map(|retention| ProposedRules {
        schedule: None,
        retention,
        time_zone: None,
        interval_seconds: None,
    });
    KeepPreview {
        at: at.map(super::at),
        proposed: proposed.into_iter().collect(),
        ..KeepPreview::default()
    }
}

fn states(copies: &[CopyReport], wanted: CopyState) -> Vec<&str> {
    copies
        .iter()
        .filter(|copy| copy.state == wanted)
        .map(|copy| &copy.run[19..27])
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_preview_tells_each_copy_with_its_reason_and_asks_for_nothing_that_a_reader_may_not() {
    let scene = Scene::new(Memory::new().with_object_lock());
    days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let wanted = KeepTask {
        preview: Some(previewing(None, None)),
        ..task(|r| r.daily = Some(3))
    };
    let (result, copies) = preview(&scene, &wanted).await;
    assert_eq!(states(&copies, CopyState::Marked), ["20260302", "20260301"]);
    assert_eq!(copies[0].run, "shop/orders/orders-20260302t0200z", "those that go come first");
    assert_eq!(states(&copies, CopyState::Kept), ["20260305", "20260304", "20260303"]);
    assert!(copies[4].why.contains("daily 2026-03-03"), "{}", copies[4].why);
    assert!(
        copies[0].why.contains("it is removed after 2026-03-07T02:10:00Z"),
        "{}",
        copies[0].why
    );
    let counts = result.kept.unwrap().preview.unwrap();
    assert_eq!((counts.kept, counts.marked, counts.removed, counts.more), (3, 2, 0, 0));
    assert_eq!(counts.marked_bytes, copies[0].bytes * 2);
    assert!(
        result
            .message
            .contains("now, of 5 copies of 1 sources 3 would stay, 2 would be marked"),
        "{}",
        result.message
    );
}

#[tokio::test(start_paused = true)]
async fn a_preview_of_a_later_day_knows_of_holds_that_end_until_then() {
    let scene = Scene::new(Memory::new());
    let runs = days(&scene, "2026-03-01T02:00:00Z", 5).await;
    let hold = |until: &str| KeepHold {
        id: hold_id(Some("shop"), "tax"),
        namespace: Some("shop".into()),
        name: "tax".into(),
        placed_by: "ann".into(),
        release_by: ReleaseBy::AnotherPerson,
        cool_off: Span::from_hours(24),
        reason: "audit".into(),
        scope: HoldScope {
            runs: Some(vec![runs[0].to_string()]),
            ..HoldScope::default()
        },
        until: Some(at(until)),
        release: None,
    };
    for (until, state) in [
        ("2026-03-06T00:00:00Z", CopyState::Removing),
        ("2026-03-09T00:00:00Z", CopyState::Marked),
        ("2026-04-01T00:00:00Z", CopyState::Held),
    ] {
        // The hold is an object that no keeper has recorded yet.
        let wanted = KeepTask {
            preview: Some(previewing(Some("2026-03-10T02:00:00Z"), None)),
            holds: vec![hold(until)],
            ..task(|r| r.keep_last = Some(3))
        };
        let (_, copies) = preview(&scene, &wanted).await;
        let first = copies.iter().find(|copy| copy.run.contains("20260301")).unwrap();
        assert_eq!(first.state, state, "{until}: {}", first.why);
        let second = copies.iter().find(|copy| copy.run.contains("20260302")).unwrap();
        assert_eq!(second.state, CopyState::Removing, "{}", second.why);
    }
}

#[tokio::test(start_paused = true)]
async fn proposed_rules_are_compared_with_those_in_force() {
    let scene = Scene::new(Memory::new());
    days(&scene, "2026-03-01T02:00:00Z", 6).await;
    // The keeper has recorded the rules; by hand nobody tells them.
    scene.pass(&task(|r| r.keep_last = Some(4))).await;
    let propose = |keep_last| KeepTask {
        preview: Some(previewing(
            None,
            Some(Retention {
                keep_last: Some(keep_last),
                ..Retention::default()
            }),
        )),
        ..KeepTask::default()
    };
    let (result, copies) = preview(&scene, &propose(2)).await;
    let counts = result.kept.unwrap().preview.unwrap();
    assert_eq!((counts.marked, counts.more, counts.fewer), (4, 2, 0));
    let changed: Vec<_> = copies.iter().filter(|copy| copy.in_force == Some(CopyState::Kept)).collect();
    assert_eq!(
        changed.iter().map(|copy| &copy.run[19..27]).collect::<Vec<_>>(),
        ["20260304", "20260303"]
    );
    let (result, _) = preview(&scene, &propose(6)).await;
    let counts = result.kept.unwrap().preview.unwrap();
    assert_eq!(
        (counts.marked, counts.more, counts.fewer),
        (0, 0, 2),
        "two marks would be withdrawn"
    );
    let (result, _) = preview(&scene, &propose(4)).await;
    assert!(
        result
            .message
            .contains("because of the proposed rules 0 more would go (0 bytes) and 0 would stay"),
        "{}",
        result.message
    );

    // A store that no keeper has seen: the copies themselves name the schedule.
    let fresh = Scene::new(Memory::new());
    days(&fresh, "2026-03-01T02:00:00Z", 6).await;
    let (result, _) = preview(&fresh, &propose(2)).await;
    assert_eq!(result.kept.unwrap().preview.unwrap().more, 4, "nothing said how long they are kept");
    // The brake is foreseen, too: two days later the new rules would take four of six chains and more than half of the bytes.
    let later = KeepTask {
        preview: Some(KeepPreview {
            at: Some(at("2026-03-09T02:00:00Z")),
            ..propose(2).preview.unwrap()
        }),
        ..KeepTask::default()
    };
    let (result, lines) = previewed(&fresh, &later, Box::new(Table::new(Paper::default()))).await;
    assert_eq!(result.kept.unwrap().blocked, 1);
    let blocked = lines.iter().find_map(|line| match line {
        KeepLine::Source(source) => source.blocked.as_ref(),
        _ => None,
    });
    assert_eq!(blocked.unwrap().reason, Reason::RemovalNeedsApproval);
}

#[tokio::test(start_paused = true)]
async fn a_preview_of_one_namespace_or_source_reads_and_tells_no_other() {
    let scene = Scene::new(Memory::new());
    days(&scene, "2026-03-01T02:00:00Z", 2).await;
    let only = |namespace: &str, source: Option<&str>| KeepTask {
        preview: Some(KeepPreview {
            namespace: Some(label(namespace)),
            source: source.map(label),
            ..KeepPreview::default()
        }),
        ..KeepTask::default()
    };
    for (namespace, source, copies) in [
        ("shop", None, 2),
        ("shop", Some("orders"), 2),
        ("shop", Some("order"), 0),
        ("sho", None, 0),
        ("shop2", Some("orders"), 0),
    ] {
        let (result, _) = preview(&scene, &only(namespace, source)).await;
        assert_eq!(result.kept.unwrap().copies, copies, "{namespace}/{source:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_table_and_the_document_have_every_copy_and_the_report_a_bounded_number() {
    let scene = Scene::new(Memory::new());
    days(&scene, "2025-11-01T02:00:00Z", 120).await;
    let wanted = KeepTask {
        preview: Some(previewing(None, None)),
        ..task(|r| r.keep_last = Some(60))
    };
    let paper = Paper::default();
    let (_, lines) = previewed(&scene, &wanted, Box::new(Table::new(paper.clone()))).await;
    assert_eq!(lines.len(), 100);
    let KeepLine::Copy(last) = &lines[99] else { panic!("{lines:?}") };
    assert_eq!(last.state, CopyState::Kept, "60 that go, and the newest 40 of those that stay");
    let table = paper.text();
    assert_eq!(table.lines().count(), 121, "{table}");
    assert!(table.starts_with("COPY "), "{table}");
    assert!(
        table.contains(" marked   -                    nothing keeps it; it is removed after"),
        "{table}"
    );
    let paper = Paper::default();
    previewed(&scene, &wanted, Box::new(Json::new(paper.clone(), "offsite".into(), &wanted))).await;
    let document: serde_json::Value = serde_json::from_str(&paper.text()).unwrap();
    assert_eq!(document["counts"]["marked"], 60);
    assert_eq!(document["sources"][0]["copies"].as_array().unwrap().len(), 120);
    assert_eq!(document["proposedRules"], false);
}

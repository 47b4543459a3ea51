//! A source whose copies come from another server than before.

use holdfast_crds::document::Acceptance;
use holdfast_crds::{Accepted, CopyState, Reason, Said as SaidBy};

use super::*;
use CopyState::{Kept, Marked};

#[tokio::test(start_paused = true)]
async fn another_server_under_the_name_is_a_finding_and_takes_no_last_copy_of_the_former_until_somebody_accepts() {
    let scene = Scene::new(Memory::new());
    let mut runs = days(&scene, "2026-03-01T02:00:00Z", 4).await;
    for day in ["2026-03-05T02:00:00Z", "2026-03-06T02:00:00Z", "2026-03-07T02:00:00Z"].map(at) {
        scene.memory.set_clock(day + SignedDuration::from_mins(10));
        let other = |manifest: &mut Manifest| manifest.server.system_identifier = Some("8".into());
        runs.push(scene.copy_with(&name_of(day), day, other).await);
    }
    let mut wanted = task(|r| r.keep_last = Some(2));
    let said = scene.pass(&wanted).await;
    let [finding] = &said.findings()[..] else {
        panic!("{:?}", said.findings())
    };
    assert_eq!(
        (finding.reason, finding.place.as_deref()),
        (Reason::IdentityChanged, Some("shop/orders"))
    );
    assert!(
        finding.message.contains(&format!("those since {} of 8", runs[4].run)),
        "{}",
        finding.message
    );
    assert!(said.source().blocked.is_none());
    let states = |said: &Said| -> Vec<CopyState> { said.source().newest_copies.iter().rev().map(|copy| copy.state).collect() };
    assert_eq!(states(&said), [Marked, Marked, Kept, Kept, Marked, Kept, Kept]);
    let what = Acceptance::Server {
        was: "7".into(),
        is: "8".into(),
    };
    let said_by = SaidBy {
        who: "ann".into(),
        why: "pg_upgrade".into(),
    };
    let accepted = Accepted { what, said: said_by };
    wanted.sources = vec![KeepSource {
        accepted: vec![accepted],
        ..counted(7)
    }];
    let said = scene.pass(&wanted).await;
    assert!(said.findings().is_empty(), "{:?}", said.findings());
    assert_eq!(states(&said)[2..4], [Marked, Marked]);
    let records = scene.memory.objects();
    let recorded = records.iter().filter(|(path, _)| path.ends_with("-accepted.json"));
    let recorded: Vec<_> = recorded.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect();
    assert!(
        recorded.len() == 1 && recorded[0].contains("pg_upgrade") && recorded[0].contains("ann"),
        "{recorded:?}"
    );
    // The entry may go: the store knows.
    wanted.sources.clear();
    assert!(scene.pass(&wanted).await.findings().is_empty());
}

use super::super::{
    Patience,
    faulty::{Call, CallKind, Fault, Faulty},
    memory::Memory,
};
use super::*;
use std::time::Duration;

fn run() -> RunPath {
    RunPath::new("shop", "db", "db-hourly-1").unwrap()
}

fn label(text: &str) -> Label {
    Label::new("pod uid", text).unwrap()
}

/// What a pod would decide: an abandonment serves as well as a manifest, the register does not look into it.
fn outcome(pod: &str, at: Timestamp) -> Outcome {
    let abandonment = Abandonment {
        reason: "DumpFailed".to_owned(),
        message: "as the test wants it".to_owned(),
    };
    Outcome {
        run: run(),
        nonce: format!("nonce of {pod}"),
        by: label(pod),
        at,
        decision: Decision::Abandoned(abandonment),
    }
}

fn store(backend: impl super::super::Backend) -> Store {
    Store::new(backend, Patience::RUN, 1)
}

const PLACE: &str = "catalog/shop/db/db-hourly-1/outcome.json";

async fn claimed(memory: &Memory) -> Pinned {
    store(memory.clone()).claim("a", "shop/offsite").await.unwrap()
}

fn later(memory: &Memory) -> Timestamp {
    super::super::Backend::now(memory).unwrap() + Duration::from_mins(10)
}

#[tokio::test(start_paused = true)]
async fn the_first_decides_for_ever() {
    let memory = Memory::new();
    let (pinned, not_after) = (claimed(&memory).await, later(&memory));
    let store = store(memory.clone());
    assert!(store.outcome(&run()).await.unwrap().is_none());
    let first = store.commit(&outcome("pod-a", not_after), &pinned, not_after).await.unwrap();
    assert!(first.ours);
    let second = store.commit(&outcome("pod-b", not_after), &pinned, not_after).await.unwrap();
    assert!(!second.ours && second.outcome.by == label("pod-a"));
    let again = store.commit(&outcome("pod-a", not_after), &pinned, not_after).await.unwrap();
    assert!(again.ours, "its own bytes are its own");
    let gone = store
        .abandon(
            &run(),
            &label("settle"),
            Abandonment {
                reason: "NodeLost".into(),
                message: String::new(),
            },
            &pinned,
        )
        .await
        .unwrap();
    assert!(!gone.ours);
    assert_eq!(memory.versions_of(PLACE), 1);
    assert_eq!(store.outcome(&run()).await.unwrap().unwrap().outcome, first.outcome);
}

#[tokio::test(start_paused = true)]
async fn a_zombie_finds_the_register_taken() {
    let memory = Memory::new();
    let (pinned, not_after) = (claimed(&memory).await, later(&memory));
    let zombie = outcome("pod-a", not_after);
    let abandonment = Abandonment {
        reason: "NodeLost".into(),
        message: "its node is gone".into(),
    };
    let settled = store(memory.clone())
        .settle(&run(), Some((&label("settle"), abandonment, &pinned)))
        .await
        .unwrap();
    assert!(matches!(settled, Settled::Decided(Decided { ours: true, .. })));
    let back = store(memory.clone()).commit(&zombie, &pinned, not_after).await.unwrap();
    assert!(!back.ours && back.outcome.committed().is_none());
    assert!(matches!(
        store(memory).settle(&run(), None).await.unwrap(),
        Settled::Decided(Decided { ours: false, .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn settling_without_giving_up_writes_nothing() {
    let memory = Memory::new();
    assert!(matches!(store(memory.clone()).settle(&run(), None).await.unwrap(), Settled::Open));
    assert!(memory.objects().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_committed_after_its_time_by_the_stores_clock() {
    let memory = Memory::new();
    let (pinned, not_after) = (claimed(&memory).await, later(&memory));
    memory.set_clock(not_after + Duration::from_secs(1));
    let late = store(memory.clone())
        .commit(&outcome("pod-a", not_after), &pinned, not_after)
        .await
        .unwrap_err();
    assert!(
        matches!(late, RegisterError::TooLate { .. }) && late.reason() == Reason::DeadlineExceeded,
        "{late:?}"
    );
    assert!(!memory.objects().contains_key(PLACE));
    // In time at first, but the store is away until it is too late: no put is sent after the end.
    memory.set_clock(not_after - Duration::from_secs(20));
    let busy = Faulty::new(memory.clone(), |call: &Call| {
        (call.kind == CallKind::Create).then(|| Fault::Before(Fault::slow_down()))
    });
    let begun = tokio::time::Instant::now();
    let late = store(busy)
        .commit(&outcome("pod-a", not_after), &pinned, not_after)
        .await
        .unwrap_err();
    assert!(late.is_in_doubt(), "a put was sent that nobody answered for: {late:?}");
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    let refused = StoreError::Unreachable {
        call: "put",
        problem: "refused".into(),
        connected: false,
        tls: false,
    };
    let away = Faulty::new(memory.clone(), move |call: &Call| {
        (call.kind == CallKind::Create).then(|| Fault::Before(refused.clone()))
    });
    memory.set_clock(not_after - Duration::from_secs(20));
    let late = store(away)
        .commit(&outcome("pod-a", not_after), &pinned, not_after)
        .await
        .unwrap_err();
    assert!(
        matches!(late, RegisterError::TooLate { .. }),
        "nothing was sent, nothing is in doubt: {late:?}"
    );
    assert!(!memory.objects().contains_key(PLACE));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_committed_after_a_take_over() {
    let memory = Memory::new();
    let (pinned, not_after) = (claimed(&memory).await, later(&memory));
    let mut owner = holdfast_crds::document::Owner::first("b", "shop/offsite", not_after, "n");
    owner.epoch = 2;
    memory.plant("owner/2.json", owner.to_bytes());
    let refused = store(memory.clone())
        .commit(&outcome("pod-a", not_after), &pinned, not_after)
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), Reason::StoreForeign, "{refused}");
    assert!(!memory.objects().contains_key(PLACE));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_from_before_its_tick_is_not_adopted() {
    let memory = Memory::new();
    let (pinned, not_after) = (claimed(&memory).await, later(&memory));
    let written = super::super::Backend::now(&memory).unwrap();
    let decided = store(memory)
        .commit(&outcome("pod-a", not_after), &pinned, not_after)
        .await
        .unwrap();
    assert!(decided.clone().adopt(None).is_ok());
    assert!(
        decided.clone().adopt(Some(written + Duration::from_mins(4))).is_ok(),
        "clocks differ a little"
    );
    let refused = decided.adopt(Some(written + Duration::from_mins(6))).unwrap_err();
    assert_eq!(refused.reason(), Reason::Tampered, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_decides_nothing_and_is_not_overwritten() {
    for bytes in ["", "{}", "{\"version\":\"2.0\"}"] {
        let memory = Memory::new();
        let (pinned, not_after) = (claimed(&memory).await, later(&memory));
        memory.plant(PLACE, bytes);
        let refused = store(memory.clone())
            .commit(&outcome("pod-a", not_after), &pinned, not_after)
            .await
            .unwrap_err();
        assert!(matches!(refused, RegisterError::Document { .. }), "{refused:?}");
        assert_eq!(
            refused.reason(),
            if bytes.contains("2.0") {
                Reason::FormatUnknown
            } else {
                Reason::Tampered
            }
        );
        assert_eq!(memory.objects()[PLACE], bytes);
    }
}

/// F02, I1: two pods and a settle Job, each with every fault in every one of its calls, end in one outcome; who is told *ours* has it there.
#[tokio::test(start_paused = true)]
async fn one_outcome_whatever_happens() {
    let all_faults = [
        Fault::Before(Fault::slow_down()),
        Fault::After(Fault::slow_down()),
        Fault::Before(Fault::reset()),
        Fault::After(Fault::reset()),
        Fault::Break,
        Fault::Truncate,
        Fault::CrashBefore,
        Fault::CrashAfter,
    ];
    let mut cases = 0;
    for fault in &all_faults {
        for index in 0..8 {
            let memory = Memory::new();
            let (pinned, not_after) = (claimed(&memory).await, later(&memory));
            let faulty = Faulty::at(memory.clone(), index, fault.clone());
            let first = store(faulty.clone()).commit(&outcome("pod-a", not_after), &pinned, not_after).await;
            let second = store(memory.clone())
                .commit(&outcome("pod-b", not_after), &pinned, not_after)
                .await
                .unwrap();
            assert_eq!(memory.versions_of(PLACE), 1);
            match first {
                Ok(first) => assert!(first.ours && !second.ours, "{fault:?} in call {index}"),
                // Only a process that died hears nothing; whether it had committed, the second sees.
                Err(error) => {
                    assert!(faulty.crashed(), "{fault:?} in call {index}: {error:?}");
                    let held = if second.ours { "pod-b" } else { "pod-a" };
                    assert_eq!(second.outcome.by, label(held));
                }
            }
            cases += usize::from(index < faulty.calls().len());
        }
    }
    assert!(cases > 30, "{cases} faults were met");
}

/// What somebody does to a store, and what it is called.
type Case = (&'static str, fn(&Memory));

/// Somebody with the writer's keys overwrites the register, or hides it, or hides it and lets a run commit once more: nobody believes what lies there now, and what
/// was decided first is still there.
#[tokio::test(start_paused = true)]
async fn f45_a_register_that_was_altered_is_seen() {
    let cases: [Case; 3] = [
        ("overwritten", |memory| {
            let forged = outcome("forger", Timestamp::UNIX_EPOCH).to_bytes();
            memory.plant(PLACE, forged);
        }),
        ("hidden", |memory| memory.hide(PLACE)),
        ("hidden and written", |memory| {
            memory.hide(PLACE);
            memory.plant(PLACE, outcome("forger", Timestamp::UNIX_EPOCH).to_bytes());
        }),
    ];
    for (name, alter) in cases {
        let memory = Memory::new();
        let (pinned, not_after) = (claimed(&memory).await, later(&memory));
        let store = store(memory.clone());
        let first = store.commit(&outcome("pod-a", not_after), &pinned, not_after).await.unwrap();
        alter(&memory);
        let read = store.outcome(&run()).await.unwrap_err();
        assert!(matches!(read, RegisterError::Altered(_)), "{name}: {read:?}");
        assert_eq!(read.reason(), Reason::Tampered);
        assert!(read.to_string().contains(first.version.as_deref().unwrap()), "{name}: {read}");
        let committed = store.commit(&outcome("pod-b", not_after), &pinned, not_after).await.unwrap_err();
        assert!(matches!(committed, RegisterError::Altered(_)), "{name}: {committed:?}");
        let kept = store.outcome_version(&run(), first.version.as_deref()).await.unwrap().unwrap();
        assert_eq!(kept.outcome.by, label("pod-a"), "{name}");
    }
}

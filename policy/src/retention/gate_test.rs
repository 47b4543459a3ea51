//! The gates: sizes, losses and clocks. What is amiss stays so until somebody accepts exactly that, or until it is over.

use holdfast_crds::{
    Reason,
    document::{Acceptance, Sha256},
};
use jiff::SignedDuration;

use super::{
    tests::{at, days, facts, full, marked, rules},
    *,
};

/// Hourly copies of these sizes, the last at 02:00, of which the first was marked long ago: whether it goes, or what stops it.
fn gate(sizes: &[u64], edit: impl FnOnce(&mut SourceFacts)) -> Result<(), String> {
    let last = at("2026-11-20T02:00:00Z");
    let copies = sizes.iter().rev().zip(0..).map(|(bytes, back)| CopyFacts {
        bytes: *bytes,
        ..full(&(last - SignedDuration::from_hours(back)).to_string())
    });
    let mut copies: Vec<_> = copies.collect();
    copies.reverse();
    let mut old = marked(full("2026-10-01T02:00:00Z"), "2026-11-10T08:00:00Z");
    old.bytes = sizes[0];
    let mut source = facts("2026-11-20T08:00:00Z", rules(|r| r.keep_last = Some(7)), copies);
    source.copies.push(old.clone());
    edit(&mut source);
    let plan = plan(&source);
    assert_eq!(plan.remove, if plan.blocked.is_none() { vec![old.run] } else { vec![] });
    plan.blocked.map_or(Ok(()), |blocked| {
        assert_eq!(blocked.reason, Reason::SizeAnomalous);
        Err(blocked.message)
    })
}

fn accept(run: usize) -> impl Fn(&mut SourceFacts) {
    move |source| {
        let run = source.copies[run].run.clone();
        source.accepted = vec![Acceptance::Size { run }];
    }
}

#[test]
fn a_series_of_small_copies_does_not_acknowledge_itself() {
    const LARGE: u64 = 1_000;
    let emptied = |small: usize| [vec![LARGE; 10], vec![10; small]].concat();
    // The fifth would be like four of the seven before it, the eighth like all that `keepLast: 7` keeps.
    for small in [1, 4, 5, 7, 8, 30] {
        let stopped = gate(&emptied(small), |_| {}).unwrap_err();
        assert!(
            stopped.contains("has 10 bytes, those of the usual size before it 1000"),
            "{stopped}"
        );
    }
    // One large copy, and then nothing but small ones.
    assert!(gate(&[LARGE, 10, 10, 10], |_| {}).is_err());
    // It grows again: nobody need accept that, nor that a single copy was small.
    assert_eq!(gate(&[emptied(5), vec![900]].concat(), |_| {}), Ok(()));
    // Grows slowly, but never back to what it was.
    assert!(gate(&[emptied(2), vec![20, 40, 80, 160, 320, 499]].concat(), |_| {}).is_err());
    // Growth that is gradual is as expected.
    let gradual: Vec<u64> = (0..40).map(|hour| 1_000 + hour * 150).collect();
    assert_eq!(gate(&gradual, |_| {}), Ok(()));
}

#[test]
fn an_accepted_size_ends_the_series_and_is_what_later_copies_may_be_like() {
    let emptied = [vec![1_000; 10], vec![10; 5]].concat();
    assert_eq!(gate(&emptied, accept(14)), Ok(()));
    // Those that come after it.
    let later = [emptied.clone(), vec![11, 12, 9]].concat();
    assert_eq!(gate(&later, accept(14)), Ok(()));
    // As large as before: also as expected. But a third size is not.
    assert_eq!(gate(&[emptied.clone(), vec![1_000]].concat(), accept(14)), Ok(()));
    assert!(gate(&[emptied.clone(), vec![3]].concat(), accept(14)).is_err());
    // An older small one that was accepted goes for the others too; a large one does not.
    assert_eq!(gate(&emptied, accept(11)), Ok(()));
    assert!(gate(&emptied, accept(9)).is_err());
}

#[test]
fn what_was_there_when_a_copy_was_last_removed_is_not_judged_by_the_few_that_are_left_of_its_time() {
    // Yearly and monthly copies of a source that grew, then those of the last hours.
    let thinned = [10, 30, 90, 270, 1_000, 1_000, 1_000, 1_000, 1_000];
    assert!(gate(&thinned, |_| {}).is_err());
    let removed = |when: &'static str| move |source: &mut SourceFacts| source.removed_at = Some(at(when));
    assert_eq!(gate(&thinned, removed("2026-11-20T01:30:00Z")), Ok(()));
    // A size that was accepted stays so after its copy went.
    assert_eq!(gate(&[1_000, 1_000, 10, 10, 10, 10, 11], removed("2026-11-20T01:30:00Z")), Ok(()));
    // What came while the last pass removed was not judged by it.
    assert!(gate(&[1_000, 1_000, 1_000, 10], removed("2026-11-20T02:10:00Z")).is_err());
    assert!(gate(&[1_000, 1_000, 1_000, 10, 10, 10], removed("2026-11-20T00:10:00Z")).is_err());
}

#[test]
fn a_loss_is_accepted_once_and_for_what_is_left_of_it() {
    let mut copies = days(12, "2026-11-20T02:00:00Z");
    copies[3] = marked(copies[3].clone(), "2026-11-13T08:00:00Z");
    let going = copies[3].run.clone();
    let counted = at("2026-11-19T08:00:00Z");
    let of = |left: &[CopyFacts]| {
        let mut source = facts("2026-11-20T08:00:00Z", rules(|r| r.keep_last = Some(1)), left.to_vec());
        (source.copies_before, source.counted_at) = (Some(11), Some(counted));
        source
    };
    // One of the eleven is lost. The twelfth, which came since, does not stand in for it.
    let left: Vec<_> = copies[1..].to_vec();
    let mut lost = of(&left);
    let blocked = plan(&lost).blocked.unwrap();
    assert_eq!(blocked.reason, Reason::CopiesMissing);
    // What the message names is what is to be put, also when another copy comes in the meantime.
    let (_, rest) = blocked.message.split_once("spec.accept: [{loss: {set: ").unwrap();
    let named: Sha256 = rest.split_once("}, by: ").unwrap().0.parse().unwrap();
    assert_eq!(named, loss_digest(11, Some(counted), left[..10].iter()));
    lost.accepted = vec![Acceptance::Loss { set: named }];
    assert_eq!(plan(&lost).remove, std::slice::from_ref(&going));
    lost.copies.push(full("2026-11-20T07:00:00Z"));
    assert_eq!(plan(&lost).remove, [going]);
    // Another loss of as many, and one more of the same number at another time.
    let mut another = of(&[&copies[..1], &copies[2..]].concat());
    another.accepted.clone_from(&lost.accepted);
    assert_eq!(plan(&another).blocked.unwrap().reason, Reason::CopiesMissing);
    let mut later = lost.clone();
    later.counted_at = Some(counted + SignedDuration::from_hours(1));
    assert_eq!(plan(&later).blocked.unwrap().reason, Reason::CopiesMissing);
}

#[test]
fn clocks_that_disagree_delete_nothing() {
    let ours = at("2026-11-20T08:00:00Z");
    let none = SignedDuration::ZERO;
    for wrong in [
        "1970-01-01T00:00:00Z",
        "2025-11-20T08:00:00Z",
        "2027-11-20T08:00:00Z",
        "2106-02-07T06:28:15Z",
    ] {
        for waited in [none, SignedDuration::from_hours(1)] {
            assert!(time_for_deleting(ours, at(wrong), waited).unwrap_err().contains("set the clocks"));
        }
    }
    assert_eq!(
        time_for_deleting(ours, at("2026-11-20T07:55:00Z"), none),
        Ok(at("2026-11-20T07:55:00Z"))
    );
    assert_eq!(time_for_deleting(ours, at("2026-11-20T08:05:00Z"), none), Ok(ours));
}

#[test]
fn a_pod_that_waited_shows_no_wrong_clock() {
    let ours = at("2026-11-20T08:00:00Z");
    let hour = SignedDuration::from_hours(1);
    let waited = |created: &str| time_for_deleting(ours, at(created), hour);
    // As long as its Job may last, and the tolerance.
    assert_eq!(waited("2026-11-20T06:55:00Z"), Ok(at("2026-11-20T06:55:00Z")));
    assert!(waited("2026-11-20T06:54:59Z").unwrap_err().contains("3901 s apart"));
    // Nobody waits for the future.
    assert_eq!(waited("2026-11-20T08:05:00Z"), Ok(ours));
    assert!(waited("2026-11-20T08:05:01Z").is_err());
}

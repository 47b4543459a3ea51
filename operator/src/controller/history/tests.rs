use holdfast_crds::Span;
use kube::ResourceExt;
use serde_json::json;

use super::*;

/// Runs of source `a`, newest first: phase, reason, hours since their tick and end.
pub fn past(runs: &[(&str, &str, i64)]) -> Vec<Arc<BackupRun>> {
    let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let run = |(index, (phase, reason, hours)): (usize, &(&str, &str, i64))| {
        let at = (now - SignedDuration::from_hours(*hours)).to_string();
        let run = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun", "metadata": {"name": format!("r{index}"), "namespace": "shop", "uid": format!("uid-r{index}"), "creationTimestamp": at},
            "spec": {"source": "a", "stores": [{"name": "offsite"}], "tick": {"schedule": "gold", "trigger": "nightly", "time": at}},
            "status": {"phase": phase, "reason": reason, "completionTime": at},
        });
        Arc::new(serde_json::from_value(run).unwrap())
    };
    runs.iter().enumerate().map(run).collect()
}

#[test]
fn history_keeps_what_is_new_what_failed_lately_and_the_newest_success() {
    let limits = RunHistory {
        per_source: 2,
        failed_for: Span::from_hours(48),
    };
    let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let surplus = |runs: &[(&str, &str, i64)]| {
        let history = super::surplus(&past(runs), &limits, |_| false, now);
        let names: Vec<String> = history.surplus.iter().map(|run| run.name_any()).collect();
        (names.join(" "), history.next.map(|next| next.duration_since(now).as_hours()))
    };
    let (good, bad) = (("Succeeded", "Succeeded"), ("Failed", "LockTimeout"));
    let run = |(phase, reason): (&'static str, &'static str), hours| (phase, reason, hours);
    for (runs, expected) in [
        (vec![run(good, 1), run(good, 2)], ("", None)),
        (vec![run(good, 1), run(good, 2), run(good, 3), run(good, 4)], ("r2 r3", None)),
        // In flight is never history, however old, and does not take a place.
        (
            vec![("Running", "Running", 1), run(good, 2), run(good, 3), run(good, 4)],
            ("r3", None),
        ),
        (vec![run(good, 1), run(good, 2), ("Pending", "Pending", 900)], ("", None)),
        // Failed ones stay for their time.
        (vec![run(good, 1), run(good, 2), run(bad, 40), run(bad, 49)], ("r3", Some(8))),
        // The newest success stays, behind however many failures.
        (
            vec![run(bad, 50), run(bad, 51), run(bad, 52), run(good, 60), run(good, 61)],
            ("r2 r4", None),
        ),
        (vec![run(good, 1), run(good, 2), ("Cancelled", "Cancelled", 3)], ("r2", None)),
        // Whose end is unknown is asked about for seven days.
        (vec![run(good, 1), run(good, 2), ("Failed", "OutcomeUnknown", 100)], ("", Some(68))),
        (vec![run(good, 1), run(good, 2), ("Failed", "OutcomeUnknown", 169)], ("r2", None)),
    ] {
        let (names, next) = surplus(&runs);
        assert_eq!((names.as_str(), next), expected, "{runs:?}");
    }
}

#[test]
fn the_object_of_a_run_whose_copy_a_store_lacks_stays_as_long_as_a_failed_one() {
    let limits = RunHistory {
        per_source: 1,
        failed_for: Span::from_hours(48),
    };
    let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let mut runs = past(&[
        ("Succeeded", "Succeeded", 1),
        ("Succeeded", "Succeeded", 40),
        ("Succeeded", "Succeeded", 41),
        ("Succeeded", "Succeeded", 49),
    ]);
    for (run, state) in runs.iter_mut().zip(["Missing", "Missing", "Present", "Missing"]) {
        let stores = json!([{"name": "offsite", "role": "Primary", "state": "Present"}, {"name": "vault", "role": "Copy", "state": state}]);
        Arc::make_mut(run).status.as_mut().unwrap().stores = serde_json::from_value(stores).unwrap();
    }
    let history = super::surplus(&runs, &limits, |_| false, now);
    let names: Vec<String> = history.surplus.iter().map(|run| run.name_any()).collect();
    assert_eq!(names, ["r2", "r3"]);
    assert_eq!(history.next.map(|next| next.duration_since(now).as_hours()), Some(8));
}

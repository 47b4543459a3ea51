#![expect(clippy::needless_pass_by_value, reason = "json! makes values")]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use holdfast_crds::TASK_VERSION;

use super::*;

/// What Kubernetes 1.35 answered for Jobs of the shape that [`super::super::build`] makes.
const CAPTURED: &str = include_str!("kubernetes-1.35.json");

#[derive(Clone, Deserialize)]
struct Case {
    job: Job,
    pods: Vec<Pod>,
    events: Vec<Event>,
}

fn captured(name: &str) -> Case {
    let cases: BTreeMap<String, Case> = serde_json::from_str(CAPTURED).unwrap();
    cases.get(name).unwrap_or_else(|| panic!("no case {name}")).clone()
}

/// A while after the captured objects were made.
fn later() -> Timestamp {
    "2026-11-28T02:09:00Z".parse().unwrap()
}

fn seen(case: &Case) -> JobState {
    observe(Some(&case.job), &case.pods.iter().collect::<Vec<_>>(), &case.events, later())
}

fn pods(values: &[Value]) -> Vec<Pod> {
    values.iter().map(|value| serde_json::from_value(value.clone()).unwrap()).collect()
}

fn pod(name: &str, status: Value) -> Value {
    json!({"metadata": {"name": name, "uid": name, "creationTimestamp": "2026-11-28T02:00:00Z"}, "spec": {"nodeName": "node1", "containers": []}, "status": status})
}

fn main(state: Value) -> Value {
    json!([{"name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
}

fn ended_with(code: i32, message: &str) -> Value {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    json!({"phase": phase, "containerStatuses": main(json!({"terminated": {"exitCode": code, "message": message, "reason": "Error"}}))})
}

fn running() -> Value {
    json!({"phase": "Running", "containerStatuses": main(json!({"running": {}}))})
}

fn result(reason: Reason, closed: bool) -> String {
    let result = AgentResult {
        version: TASK_VERSION,
        reason,
        message: "said by the agent".into(),
        closed,
        copy: None,
        probe: None,
        restored: None,
        kept: None,
        copied: None,
    };
    result.to_termination_message()
}

fn of_pods(values: &[Value]) -> Observation {
    let pods = pods(values);
    let job: Job = serde_json::from_value(json!({"metadata": {"name": "j", "uid": "j"}, "status": {"active": 1}})).unwrap();
    observe(Some(&job), &pods.iter().collect::<Vec<_>>(), &[], later()).observation
}

fn end(observation: Observation) -> End {
    match observation {
        Observation::Ended(end) => end,
        other => panic!("expected an end, found {other:?}"),
    }
}

#[test]
fn what_kubernetes_says_about_pods_that_do_not_start() {
    for (name, reason) in [
        ("nosecret", Reason::SecretNotFound),
        ("nokey", Reason::SecretKeyMissing),
        ("noimage", Reason::ImagePullFailed),
        ("noimage2", Reason::ImagePullFailed),
        ("badimage", Reason::ImagePullFailed),
        ("unsched", Reason::Unschedulable),
        ("selector", Reason::Unschedulable),
        ("nosa", Reason::ServiceAccountNotFound),
        ("nopvc", Reason::VolumeMountFailed),
        ("pvcunbound", Reason::VolumeMountFailed),
        ("nfs", Reason::VolumeMountFailed),
        ("root", Reason::ContainerStartFailed),
        ("noprio", Reason::AdmissionRefused),
        ("quota", Reason::QuotaExceeded),
        ("limit", Reason::LimitRangeRefused),
        ("psa", Reason::PodSecurityRefused),
    ] {
        match seen(&captured(name)).observation {
            Observation::Waiting { reason: found, message } => {
                assert_eq!(found, reason, "{name}: {message}");
                assert!(message.contains(';') && message.len() < 1_024, "{name}: {message}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn what_kubernetes_says_about_pods_that_ended() {
    for (name, reason, ran) in [
        ("oom", Reason::OutOfMemory, true),
        ("oomself", Reason::OutOfMemory, true),
        ("evict", Reason::Evicted, true),
        ("exit3", Reason::AgentCrashed, true),
        ("exit0", Reason::AgentCrashed, true),
        ("badcmd", Reason::ContainerStartFailed, false),
        ("initfail", Reason::AgentCrashed, false),
        // Their pods were removed.
        ("victim", Reason::PodDeleted, true),
        ("deadline", Reason::DeadlineExceeded, true),
    ] {
        let end = end(seen(&captured(name)).observation);
        assert_eq!((end.reason, end.ran, &end.result), (reason, ran, &None), "{name}: {}", end.message);
        assert!(!end.message.is_empty(), "{name}");
    }
}

#[test]
fn events_are_asked_for_only_while_nothing_else_speaks() {
    let asked = |name: &str, now: &str| {
        let case = captured(name);
        let pods: Vec<_> = case.pods.iter().collect();
        wants_events(Some(&case.job), &pods, now.parse().unwrap())
            .into_iter()
            .map(|(kind, ..)| kind)
            .collect::<Vec<_>>()
    };
    let (early, late) = ("2026-11-28T02:07:45Z", "2026-11-28T02:07:55Z");
    assert_eq!(asked("quota", early), [""; 0]);
    assert_eq!(asked("quota", late), ["Job"]);
    assert_eq!(asked("nosecret", early), [""; 0]);
    assert_eq!(asked("nosecret", late), ["Pod"]);
    for spoken in ["noimage", "unsched", "root", "exit3", "evict", "victim", "deadline"] {
        assert_eq!(asked(spoken, late), [""; 0], "{spoken}");
    }
}

#[test]
fn the_newest_event_counts_and_only_of_this_object() {
    let mut case = captured("quota");
    let mut newer = case.events[0].clone();
    newer.message = Some("Error creating: admission webhook \"w\" denied the request: no".into());
    newer.last_timestamp.as_mut().unwrap().0 = "2027-01-01T00:00:00Z".parse().unwrap();
    case.events.insert(0, newer.clone());
    assert!(matches!(
        seen(&case).observation,
        Observation::Waiting {
            reason: Reason::AdmissionRefused,
            ..
        }
    ));
    case.events[0].involved_object.uid = Some("another".into());
    assert!(matches!(
        seen(&case).observation,
        Observation::Waiting {
            reason: Reason::QuotaExceeded,
            ..
        }
    ));
}

#[test]
fn a_result_is_believed_only_if_it_is_whole_and_the_exit_code_says_the_same() {
    let good = end(of_pods(&[pod("a", ended_with(0, &result(Reason::Succeeded, true)))]));
    assert_eq!((good.reason, good.result.is_some()), (Reason::Succeeded, true));
    let failed = end(of_pods(&[pod("a", ended_with(41, &result(Reason::DatabaseLoginFailed, false)))]));
    assert_eq!(
        (failed.reason, failed.message.as_str(), failed.result.is_some()),
        (Reason::DatabaseLoginFailed, "said by the agent", true)
    );
    let whole = result(Reason::Succeeded, true);
    let newer = whole.replace("\"version\":1", "\"version\":2");
    assert_ne!(newer, whole);
    for (code, text) in [
        (0, ""),
        (0, "done"),
        (0, &whole[..whole.len() - 1]),
        (0, &newer),
        (1, whole.as_str()),
        (137, whole.as_str()),
        (0, result(Reason::DatabaseLoginFailed, false).as_str()),
        (41, whole.replace("Succeeded", "NoSuchReason").as_str()),
    ] {
        let end = end(of_pods(&[pod("a", ended_with(code, text))]));
        assert_eq!(
            (end.reason, end.result, end.ran),
            (Reason::AgentCrashed, None, true),
            "{code} {text}: {}",
            end.message
        );
    }
}

#[test]
fn a_tool_that_the_kernel_ended_is_out_of_memory_and_not_a_failed_dump() {
    let mut status = ended_with(48, &result(Reason::DumpFailed, false));
    status["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled".into();
    let end = end(of_pods(&[pod("a", status)]));
    assert_eq!((end.reason, end.result.is_some()), (Reason::OutOfMemory, true));
    assert!(end.message.contains("raise job.resources.limits.memory: "), "{}", end.message);
}

#[test]
fn two_pods_of_one_job() {
    let success = || pod("a", ended_with(0, &result(Reason::Succeeded, true)));
    let refused = || pod("b", ended_with(40, &result(Reason::DatabaseUnreachable, false)));
    let given_up = || pod("b", ended_with(70, &result(Reason::Abandoned, true)));
    let silent = || pod("c", ended_with(1, ""));
    let at_work = || pod("d", running());
    // Success of one decides, whatever the other does.
    for other in [refused(), given_up(), silent(), at_work()] {
        for order in [[success(), other.clone()], [other.clone(), success()]] {
            assert_eq!(end(of_pods(&order)).reason, Reason::Succeeded, "{other}");
        }
    }
    // One at work may still succeed.
    assert_eq!(of_pods(&[refused(), at_work()]), Observation::Running);
    // A doubt about one is a doubt about all.
    assert_eq!(end(of_pods(&[refused(), silent()])).result, None);
    assert_eq!(end(of_pods(&[given_up(), silent()])).result, None);
    assert_eq!(end(of_pods(&[refused(), given_up()])).reason, Reason::Abandoned);
    // A pod that did not start says nothing about the one that ran.
    let never = pod("e", json!({"phase": "Failed", "reason": "OutOfcpu", "message": "no"}));
    let both = end(of_pods(&[never, refused()]));
    assert_eq!((both.reason, both.ran), (Reason::DatabaseUnreachable, true));
}

#[test]
fn a_deleted_pod_is_waited_for_until_its_grace_is_over() {
    let mut value = pod("a", running());
    value["metadata"]["deletionTimestamp"] = "2026-11-28T02:08:40Z".into();
    assert_eq!(
        of_pods(&[value.clone()]),
        Observation::Stopping {
            until: "2026-11-28T02:09:10Z".parse().unwrap()
        }
    );
    value["metadata"]["deletionTimestamp"] = "2026-11-28T02:08:30Z".into();
    let lost = end(of_pods(&[value.clone()]));
    assert_eq!((lost.reason, lost.result, lost.ran), (Reason::NodeLost, None, true));
    // One that was never bound to a node cannot have run.
    value["spec"]["nodeName"] = Value::Null;
    value["status"] = json!({"phase": "Pending"});
    assert!(!end(of_pods(&[value])).ran);
}

#[test]
fn what_took_a_pod_away() {
    for (condition, status, reason) in [
        ("DeletionByTaintManager", json!({}), Reason::NodeLost),
        ("DeletionByPodGC", json!({}), Reason::NodeLost),
        ("EvictionByEvictionAPI", json!({}), Reason::Interrupted),
        ("PreemptionByScheduler", json!({}), Reason::Interrupted),
        ("TerminationByKubelet", json!({}), Reason::Evicted),
        ("", json!({"reason": "Terminated"}), Reason::Interrupted),
        ("", json!({"reason": "NodeLost"}), Reason::NodeLost),
    ] {
        let mut status = status;
        status["phase"] = "Failed".into();
        status["containerStatuses"] = main(json!({"terminated": {"exitCode": 143, "reason": "Error"}}));
        status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": condition}]);
        if condition.is_empty() {
            status["conditions"] = json!([]);
        }
        let end = end(of_pods(&[pod("a", status)]));
        assert_eq!((end.reason, end.result, end.ran), (reason, None, true), "{condition}");
    }
}

#[test]
fn a_pod_that_the_garbage_collector_failed_may_still_run() {
    let status = json!({"phase": "Failed", "containerStatuses": main(json!({"running": {}})),
        "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}]});
    let end = end(of_pods(&[pod("a", status)]));
    assert_eq!((end.reason, end.result, end.ran), (Reason::NodeLost, None, true));
}

#[test]
fn without_its_job_a_pods_word_still_counts() {
    let word = pods(&[pod("a", ended_with(30, &result(Reason::Interrupted, false)))]);
    let state = observe(None, &word.iter().collect::<Vec<_>>(), &[], later());
    assert!(!state.live);
    let end = end(state.observation);
    assert_eq!(
        (end.reason, end.result.map(|result| result.reason)),
        (Reason::JobDeleted, Some(Reason::Interrupted))
    );
    assert_eq!(observe(None, &[], &[], later()), JobState::ABSENT);
}

#[test]
fn a_failed_init_container_says_why_and_the_agent_never_ran() {
    let status = json!({"phase": "Failed",
        "initContainerStatuses": [{"name": "key", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 11, "message": result(Reason::SecretKeyMissing, false)}}}],
        "containerStatuses": main(json!({"waiting": {"reason": "PodInitializing"}}))});
    let end = end(of_pods(&[pod("a", status)]));
    assert_eq!((end.reason, end.result, end.ran), (Reason::SecretKeyMissing, None, false));
    assert_eq!(end.message, "init container key: said by the agent");
}

//! Whole scenarios in which each call fails once, in each way.

use holdfast_crds::Reason;
use serde_json::json;

use super::world::{Kind, Script, World, drive, rest, succeeds};
use crate::fake::Fault;

/// The agent is killed after it committed, and the settle Job finds the copy.
fn killed_after_the_commit(world: &World, job: &str, look: usize) {
    match (job, look) {
        ("now-b1" | "now-r1", 1) => world.pod(job, &json!({"running": {}})),
        ("now-b1" | "now-r1", 2) => {
            world.pod(job, &json!({"terminated": {"exitCode": 137}}));
            world.counted(job);
        }
        ("now-s1", 2) => world.word(job, Reason::AlreadyDone, true),
        _ => {}
    }
}

/// The first attempt does not reach the database; the second does.
fn second_attempt(world: &World, job: &str, look: usize) {
    match (job, look) {
        ("now-b1" | "now-r1", 2) => world.word(job, Reason::DatabaseUnreachable, world.kind == Kind::Restore),
        ("now-b2" | "now-r2", 2) => world.word(job, Reason::Succeeded, true),
        ("now-s1", 1) => world.word(job, Reason::CopyNotFound, false),
        _ => {}
    }
}

/// The user cancels a run at work; the settle Job closes the register.
fn cancelled(world: &World, job: &str, look: usize) {
    match (job, look) {
        ("now-b1" | "now-r1", 1) => world.pod(job, &json!({"running": {}})),
        ("now-b1" | "now-r1", 2) => world.change(|object| object["spec"]["cancel"] = json!(true)),
        ("now-s1", 1) if world.kind == Kind::Restore => world.word(job, Reason::CopyNotFound, false),
        ("now-s1", 1) => world.word(job, Reason::Abandoned, true),
        _ => {}
    }
}

/// Each call of a whole scenario fails once, in each way; the end is the same as without failures.
async fn each_call_fails(make: fn() -> World, script: Script, expected: (&str, &str), jobs: &[&str]) {
    let mut world = make();
    world.fake.fault(None);
    drive(&mut world, script).await;
    rest(&mut world).await;
    let calls = world.fake.count();
    let end = |world: &World| (world.told(), world.status()["attempts"].as_array().map(Vec::len), world.jobs());
    let faultless = end(&world);
    assert_eq!(faultless.0, (expected.0.to_owned(), expected.1.to_owned()));
    assert_eq!(faultless.2, jobs);
    assert!(calls > 4, "{calls}");
    let faults = [409, 429, 500, 503].map(Fault::Refused).into_iter().chain([Fault::AnswerLost]);
    for (fault, call) in faults.flat_map(|fault| (1..=calls).map(move |call| (fault, call))) {
        let mut world = make();
        world.fake.fault(Some((call, fault)));
        drive(&mut world, script).await;
        rest(&mut world).await;
        assert!(world.fake.count() >= call, "the fault never came");
        assert_eq!(end(&world), faultless, "call {call}: {fault:?}: {}", world.status());
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_run_that_succeeds_may_fail() {
    each_call_fails(|| World::run(3), succeeds, ("Succeeded", "Succeeded"), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_run_killed_after_its_commit_may_fail() {
    each_call_fails(|| World::run(3), killed_after_the_commit, ("Succeeded", "AlreadyDone"), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_second_attempt_may_fail() {
    each_call_fails(|| World::run(3), second_attempt, ("Succeeded", "Succeeded"), &["now-b1"]).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_cancellation_may_fail() {
    each_call_fails(|| World::run(3), cancelled, ("Cancelled", "Cancelled"), &[]).await;
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_restore_may_fail() {
    each_call_fails(World::restore, succeeds, ("Succeeded", "Succeeded"), &[]).await;
    each_call_fails(World::restore, killed_after_the_commit, ("Succeeded", "AlreadyDone"), &[]).await;
    each_call_fails(World::restore, second_attempt, ("Succeeded", "Succeeded"), &["now-r1"]).await;
    each_call_fails(World::restore, cancelled, ("Cancelled", "Cancelled"), &[]).await;
}

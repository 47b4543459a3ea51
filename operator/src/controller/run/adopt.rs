//! What the Jobs of a run tell of it, where its status was lost.

use holdfast_crds::{Action, Attempt, BackupRun, FrozenRun, Reason, Settle, Task, layout};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use crate::{
    attempt::{Course, written},
    job::RUN,
    observation::controller,
    watch::Caches,
};

/// The course of a run that has Jobs and no attempts in its status; none where there is nothing to be found.
pub fn lost(caches: &Caches, run: &BackupRun) -> Option<Course> {
    let known = run
        .status
        .as_ref()
        .is_some_and(|status| !status.attempts.is_empty() || status.settle.is_some() || status.phase.ended());
    if known {
        return None;
    }
    let namespace = run.namespace().unwrap_or_default();
    let jobs = caches
        .jobs
        .by(Caches::BY_OWNER, &namespace, &Caches::owned_by(RUN, &run.name_any()));
    let own: Vec<_> = jobs
        .iter()
        .filter(|job| controller(&job.metadata) == run.metadata.uid.as_deref())
        .map(|job| &**job)
        .collect();
    course(&own)
}

/// What the Jobs of one run tell. The newest attempt is looked at as any; of the others nobody knows how they ended.
fn course(jobs: &[&Job]) -> Option<Course> {
    let mut attempts: Vec<Attempt> = jobs.iter().filter_map(|job| attempt(job)).collect();
    attempts.sort_by_key(|attempt| attempt.number);
    let start_time = attempts.first().map(|attempt| attempt.started_at.clone())?;
    let newest = attempts.len() - 1;
    for attempt in &mut attempts[..newest] {
        attempt.finished_at = Some(attempt.not_after.clone());
        attempt.reason = Some(Reason::AgentCrashed);
        attempt.message = Some("the run's status was lost, and with it how this attempt ended".to_owned());
    }
    let settles = jobs
        .iter()
        .filter(|job| task(job).is_some_and(|task| matches!(task.action, Action::Settle(_))));
    // Only so that the next settle Job gets a name of its own.
    let count = settles.filter_map(|job| number(&job.name_any())).max();
    let settle = count.map(|count| Settle {
        count,
        finished_at: Some(start_time.clone()),
        ..Settle::default()
    });
    Some(Course {
        attempts,
        settle,
        start_time: Some(start_time),
        ..Course::default()
    })
}

fn attempt(job: &Job) -> Option<Attempt> {
    let Action::Backup(backup) = task(job)?.action else {
        return None;
    };
    Some(Attempt {
        number: backup.attempt,
        job: job.name_any(),
        started_at: written(job.metadata.creation_timestamp.as_ref()?.0),
        not_after: backup.not_after,
        job_uid: job.metadata.uid.clone(),
        finished_at: None,
        reason: None,
        message: None,
        ran: true,
    })
}

/// What the newest of these Jobs works on.
pub fn frozen(caches: &Caches, run: &BackupRun) -> Option<FrozenRun> {
    let course = lost(caches, run)?;
    let newest = &course.attempts.last()?.job;
    let namespace = run.namespace().unwrap_or_default();
    let job = caches.jobs.get(&crate::watch::Key::new(namespace, newest.as_str()))?;
    let Task { store, action, .. } = task(&job)?;
    let Action::Backup(backup) = action else { return None };
    Some(FrozenRun {
        source_uid: backup.source_uid,
        source: backup.spec,
        schedule: backup.schedule,
        store,
    })
}

fn task(job: &Job) -> Option<Task> {
    let annotations = job.spec.as_ref()?.template.metadata.as_ref()?.annotations.as_ref()?;
    serde_json::from_str(annotations.get(layout::TASK_ANNOTATION)?).ok()
}

/// The number at the end of a Job's name.
fn number(name: &str) -> Option<i32> {
    let digits = name.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

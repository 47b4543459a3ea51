//! The world of the model: what is true, and what may happen next.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    cluster::{Container, SimulatedJob, SimulatedPod, Work, word},
    *,
};
use crate::job::observe;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    Empty,
    Manifest,
    Abandoned,
}

#[derive(Clone, Debug)]
pub struct World {
    pub course: Course,
    pub cancel: bool,
    pub now: Timestamp,
    pub jobs: BTreeMap<String, SimulatedJob>,
    /// Processes that nobody sees any more.
    pub zombies: Vec<Work>,
    pub register: Register,
    pub store_up: bool,
    /// How many things may still go wrong.
    pub faults: u8,
    pub uids: u32,
}

/// What happens, the world after it, and the word of the process if it ends.
pub type Outcome = (String, World, Option<(i32, String)>);

impl World {
    pub fn new(faults: u8) -> Self {
        Self {
            course: Course::default(),
            cancel: false,
            now: birth(),
            jobs: BTreeMap::new(),
            zombies: Vec::new(),
            register: Register::Empty,
            store_up: true,
            faults,
            uids: 0,
        }
    }

    /// All but the messages, which nothing depends on.
    pub fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let course = &self.course;
        (course.phase, course.reason, &course.start_time, &course.completion_time).hash(&mut hasher);
        for attempt in &course.attempts {
            (
                attempt.number,
                &attempt.started_at,
                &attempt.job_uid,
                &attempt.finished_at,
                attempt.reason,
                attempt.ran,
            )
                .hash(&mut hasher);
        }
        if let Some(settle) = &course.settle {
            (
                settle.count,
                settle.failures,
                &settle.started_at,
                &settle.finished_at,
                settle.gives_up,
                settle.otherwise,
            )
                .hash(&mut hasher);
        }
        (
            self.cancel,
            self.now,
            &self.jobs,
            &self.zombies,
            self.register,
            self.store_up,
            self.faults,
            self.uids,
        )
            .hash(&mut hasher);
        hasher.finish()
    }

    pub fn rules(&self) -> Rules<'static> {
        Rules {
            name: "run",
            kind: Kind::Run,
            attempts: 2,
            timeout: TIMEOUT,
            cancel: self.cancel,
            cancelled_by: "cancelled",
            born_cancelled: false,
            created: birth(),
            obstacle: None,
        }
    }

    pub fn job_state(&self, name: Option<&str>) -> JobState {
        let Some(job) = name.and_then(|name| self.jobs.get(name)) else {
            return JobState::ABSENT;
        };
        let object = job.exists.then(|| Job {
            metadata: ObjectMeta {
                uid: Some(job.uid.clone()),
                ..ObjectMeta::default()
            },
            status: Some(JobStatus {
                conditions: job.failed.then(|| {
                    vec![JobCondition {
                        type_: "Failed".into(),
                        status: "True".into(),
                        ..JobCondition::default()
                    }]
                }),
                ..JobStatus::default()
            }),
            ..Job::default()
        });
        let pods: Vec<Pod> = job.pods.iter().map(SimulatedPod::object).collect();
        observe(object.as_ref(), &pods.iter().collect::<Vec<_>>(), &[], self.now)
    }

    pub fn plan(&self) -> Plan {
        self.plan_having_deleted(false)
    }

    pub fn plan_having_deleted(&self, deleted_unbound: bool) -> Plan {
        let attempt = self.course.attempts.last().map(|attempt| attempt.job.as_str());
        let settle = self.course.settle.as_ref().and_then(|settle| settle.job.as_deref());
        let sight = Sight {
            attempt: self.job_state(attempt),
            settle: self.job_state(settle),
            deleted_unbound,
            refused: None,
            now: self.now,
        };
        decide(&self.course, &self.rules(), &sight)
    }

    /// What the operator does next, and where it may be killed on the way.
    pub fn operator(&self, next: &mut Vec<(String, Self)>) {
        let plan = self.plan();
        if plan.course != self.course {
            let mut world = self.clone();
            world.course = plan.course.clone();
            next.push(("status written, then killed".into(), world));
        }
        if let Some(act) = &plan.act {
            let mut world = self.clone();
            world.course = plan.course.clone();
            let unbound = world.act(act);
            next.push((format!("{act:?}"), world.clone()));
            if unbound && self.course.attempts.last().is_some_and(|attempt| !attempt.ran) {
                world.course = world.plan_having_deleted(true).course;
                next.push((format!("{act:?}, and nothing was bound"), world));
            }
        }
    }

    /// True if it deleted the Job of an attempt of which nothing was bound.
    pub fn act(&mut self, act: &Act) -> bool {
        match act {
            Act::CreateAttempt => {
                let attempt = self.course.attempts.last().unwrap().clone();
                let not_after = read(Some(&attempt.not_after));
                let last = attempt.number >= at_most(self.rules().attempts, &self.course.attempts);
                self.create(&attempt.job, Work::Backup { last, not_after });
            }
            Act::CreateSettle => {
                let settle = self.course.settle.clone().unwrap();
                let gives_up = settle.gives_up;
                self.create(&settle.job.unwrap(), Work::Settle { gives_up });
            }
            Act::Delete { job, uid } => {
                let found = self.jobs.get(job).filter(|found| found.exists).map(|found| found.uid.clone());
                if found == *uid {
                    let bound = self.job_state(Some(job)).bound;
                    self.delete(job);
                    return !bound && self.course.attempts.last().is_some_and(|attempt| attempt.job == *job);
                }
            }
        }
        false
    }

    pub fn create(&mut self, name: &str, work: Work) {
        if self.jobs.get(name).is_some_and(|job| job.exists) {
            return;
        }
        self.uids += 1;
        // Pods of a Job of the same name that was deleted belong to another UID: nobody sees them here.
        if let Some(old) = self.jobs.remove(name) {
            self.zombies
                .extend(old.pods.iter().filter(|pod| pod.alive()).map(|_| old.work.clone()));
        }
        let job = SimulatedJob {
            uid: format!("uid-{}", self.uids),
            exists: true,
            failed: false,
            work,
            pods: Vec::new(),
            made: 0,
        };
        self.jobs.insert(name.to_owned(), job);
    }

    pub fn delete(&mut self, name: &str) {
        let now = self.now;
        let job = self.jobs.get_mut(name).unwrap();
        job.exists = false;
        job.pods.retain(|pod| pod.container != Container::Unbound);
        for pod in &mut job.pods {
            pod.deleted.get_or_insert(after(now, GRACE));
        }
    }

    /// What everybody but the operator may do.
    pub fn others(&self, next: &mut Vec<(String, Self)>) {
        let mut add = |what: String, world: Self| next.push((what, world));
        if !self.cancel && !self.course.phase.ended() {
            let mut world = self.clone();
            world.cancel = true;
            add(CANCELS.into(), world);
        }
        if self.faults > 0 && self.store_up {
            let mut world = self.clone();
            world.store_up = false;
            world.faults -= 1;
            add("the store goes down".into(), world);
        }
        if !self.store_up {
            let mut world = self.clone();
            world.store_up = true;
            add(IS_BACK.into(), world);
        }
        for (index, work) in self.zombies.iter().enumerate() {
            for (what, mut world, _) in self.outcomes(work) {
                world.zombies.remove(index);
                add(format!("zombie: {what}"), world);
            }
        }
        for (name, job) in &self.jobs {
            if job.exists && !job.failed && job.pods.is_empty() && job.made == 0 {
                let mut world = self.clone();
                world.jobs.get_mut(name).unwrap().add_pod();
                add(format!("{name}: a pod is made"), world);
            }
            if job.exists && job.made == 1 && self.faults > 0 {
                let mut world = self.clone();
                world.faults -= 1;
                world.jobs.get_mut(name).unwrap().add_pod();
                add(format!("{name}: a second pod is made"), world);
            }
            if job.exists && self.faults > 0 {
                let mut world = self.clone();
                world.faults -= 1;
                world.delete(name);
                add(format!("{name}: somebody deletes the Job"), world);
            }
            let over = job.made > 0 && job.pods.iter().all(|pod| matches!(pod.container, Container::Ended(..)));
            if job.exists && !job.failed && over {
                let mut world = self.clone();
                world.jobs.get_mut(name).unwrap().failed = true;
                add(format!("{name}: the Job is counted"), world);
            }
            for index in 0..job.pods.len() {
                self.pod(name, index, &mut add);
            }
        }
    }

    pub fn pod(&self, name: &str, index: usize, add: &mut impl FnMut(String, Self)) {
        let job = &self.jobs[name];
        let pod = &job.pods[index];
        let with = |change: &dyn Fn(&mut SimulatedPod)| {
            let mut world = self.clone();
            change(&mut world.jobs.get_mut(name).unwrap().pods[index]);
            world
        };
        let without = || {
            let mut world = self.clone();
            let job = world.jobs.get_mut(name).unwrap();
            let gone = job.pods.remove(index);
            // A finaliser keeps it until the Job has counted it.
            job.failed = true;
            if gone.alive() && gone.lost {
                world.zombies.push(job.work.clone());
            }
            world
        };
        let what = |text: &str| format!("{}: {text}", pod.name);
        let fault = |mut world: Self| {
            world.faults = self.faults.saturating_sub(1);
            world
        };
        match &pod.container {
            // The scheduler takes no pod that is being deleted.
            Container::Unbound if pod.deleted.is_none() => add(what("bound to a node"), with(&|pod| pod.container = Container::Bound)),
            Container::Bound if !pod.lost => add(what("starts"), with(&|pod| pod.container = Container::Running)),
            Container::Running if !pod.lost => {
                for (text, mut world, word) in self.outcomes(&job.work) {
                    if let Some((code, message)) = word {
                        world.jobs.get_mut(name).unwrap().pods[index].container = Container::Ended(code, message);
                    }
                    add(what(&text), world);
                }
                if self.faults > 0 {
                    add(
                        what("killed"),
                        fault(with(&|pod| pod.container = Container::Ended(137, String::new()))),
                    );
                }
                if pod.deleted.is_some() {
                    let word = word(Reason::Interrupted, false);
                    add(
                        what("stops in order"),
                        with(&move |pod| pod.container = Container::Ended(word.0, word.1.clone())),
                    );
                }
            }
            _ => {}
        }
        if pod.deleted.is_some() {
            // The kubelet, or a forced deletion, removes the object.
            add(what("object removed"), without());
        } else if self.faults > 0 {
            let until = after(self.now, GRACE);
            add(what("somebody deletes the pod"), fault(with(&|pod| pod.deleted = Some(until))));
            if pod.container != Container::Unbound && pod.alive() {
                let lost = |pod: &mut SimulatedPod| {
                    pod.deleted = Some(until);
                    pod.lost = true;
                };
                add(what("its node is lost"), fault(with(&lost)));
            }
        }
    }

    /// What a process may do now, and what it leaves when that ends it.
    pub fn outcomes(&self, work: &Work) -> Vec<Outcome> {
        let mut all = Vec::new();
        let mut add = |what: &str, register: Register, word: Option<(i32, String)>| {
            let mut world = self.clone();
            world.register = register;
            all.push((what.to_owned(), world, word));
        };
        if !self.store_up {
            add("finds no store", self.register, Some(word(Reason::StoreUnreachable, false)));
            return all;
        }
        match (work, self.register) {
            (_, Register::Manifest) => add("finds the manifest", self.register, Some(word(Reason::AlreadyDone, true))),
            (_, Register::Abandoned) => add("finds it given up", self.register, Some(word(Reason::Abandoned, true))),
            (Work::Settle { gives_up: true }, Register::Empty) => {
                add("closes the register", Register::Abandoned, Some(word(Reason::Abandoned, true)));
            }
            (Work::Settle { gives_up: false }, Register::Empty) => {
                add("finds nothing", self.register, Some(word(Reason::CopyNotFound, false)));
            }
            (Work::Backup { last, not_after }, Register::Empty) => {
                if self.now < *not_after {
                    add("commits", Register::Manifest, Some(word(Reason::Succeeded, true)));
                    add("commits, and its word is lost", Register::Manifest, Some((0, "{".into())));
                }
                let closing = |last: bool| if last { Register::Abandoned } else { Register::Empty };
                for reason in [Reason::DatabaseUnreachable, Reason::StoreFailed] {
                    add("fails", closing(*last), Some(word(reason, *last)));
                }
                add("fails for good", Register::Abandoned, Some(word(Reason::DatabaseLoginFailed, true)));
            }
        }
        all
    }

    /// Lets time pass to what is waited for next. Where somebody could act meanwhile, that they do not is a failure.
    pub fn time(&self, next: &mut Vec<(String, Self)>) {
        let plan = self.plan();
        let unknown_for = after(read(self.course.completion_time.as_deref()), UNKNOWN_INTERVAL * 2);
        if self.course.reason == Some(Reason::OutcomeUnknown) && self.now > unknown_for && !self.store_up {
            // One hour is like another.
            return;
        }
        let resting = plan.course == self.course && plan.act.is_none();
        let mut others = Vec::new();
        Self { faults: 0, ..self.clone() }.others(&mut others);
        let slow = !resting || others.iter().any(|(what, _)| what != CANCELS && what != IS_BACK);
        if slow && self.faults == 0 {
            return;
        }
        let deleted = self
            .jobs
            .values()
            .flat_map(|job| &job.pods)
            .filter_map(|pod| Some(after(pod.deleted?, GRACE)));
        let attempts = self.course.attempts.iter().filter(|attempt| attempt.finished_at.is_none());
        let settle = self.course.settle.iter().filter(|settle| settle.finished_at.is_none());
        // A look at a Job that goes its way changes nothing.
        let at_work = attempts.clone().next().is_some() || settle.clone().next().is_some();
        let moments = deleted
            .chain(plan.again.filter(|_| resting && !at_work))
            .chain(attempts.map(|attempt| after(read(Some(&attempt.not_after)), DEADLINE_GRACE)))
            .chain(settle.map(|settle| after(read(settle.started_at.as_deref()), SETTLE_TIMEOUT)));
        if let Some(moment) = moments.filter(|moment| *moment > self.now).min() {
            let mut world = self.clone();
            world.now = moment;
            world.faults -= u8::from(slow);
            next.push((format!("it is {moment}"), world));
        }
    }

    pub fn successors(&self) -> Vec<(String, Self)> {
        let mut next = Vec::new();
        self.operator(&mut next);
        self.others(&mut next);
        self.time(&mut next);
        next
    }

    /// What must hold at every moment.
    pub fn check(&self) -> Result<(), String> {
        let at_work = |job: &&SimulatedJob| job.made == 0 || job.pods.iter().any(|pod| pod.alive() && pod.deleted.is_none());
        let backups = self.jobs.values().filter(|job| matches!(job.work, Work::Backup { .. }));
        // That Kubernetes may make a second pod of a Job whose first has ended is what the register is for.
        let live = backups.filter(|job| job.exists && !job.failed && job.made < 2).filter(at_work);
        if live.count() > 1 {
            return Err("two attempts at once".into());
        }
        let failures = self.course.attempts.iter().filter_map(|attempt| attempt.reason);
        if failures.filter(|reason| !reason.is_disruption()).count() > 2 {
            return Err("attempted again after as many failures as are allowed".into());
        }
        let told = (self.course.phase, self.course.reason);
        match told {
            (RunPhase::Succeeded, _) if self.register != Register::Manifest => Err("called Succeeded without a manifest".into()),
            (_, Some(Reason::OutcomeUnknown)) => Ok(()),
            (RunPhase::Failed | RunPhase::Cancelled, _) if self.register == Register::Manifest => {
                Err(format!("a committed copy is called {told:?}"))
            }
            (RunPhase::Failed | RunPhase::Cancelled, _) if self.register == Register::Empty && self.may_commit() => {
                Err(format!("called {told:?}, and somebody may still commit"))
            }
            _ => Ok(()),
        }
    }

    pub fn may_commit(&self) -> bool {
        let backup = |work: &Work| matches!(work, Work::Backup { not_after, .. } if self.now < *not_after);
        self.zombies.iter().any(backup)
            || self
                .jobs
                .values()
                .any(|job| backup(&job.work) && (job.pods.iter().any(SimulatedPod::alive) || (job.exists && job.made == 0)))
    }

    /// One step of the ordinary course of things; none at rest.
    pub fn ordinary(&self) -> Option<Self> {
        let plan = self.plan();
        if plan.course != self.course || plan.act.is_some() {
            let mut world = self.clone();
            world.course = plan.course;
            if let Some(act) = &plan.act {
                world.act(act);
            }
            // Making what exists changes nothing.
            if world.key() != self.key() {
                return Some(world);
            }
        }
        if !self.store_up {
            return Some(Self {
                store_up: true,
                ..self.clone()
            });
        }
        let mut next = Vec::new();
        self.others(&mut next);
        self.time(&mut next);
        next.into_iter().find(|(what, _)| what != CANCELS).map(|(_, world)| world)
    }
}

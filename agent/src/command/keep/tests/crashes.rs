//! A pass is counted, then made again for each of its calls to the store, with a fault in that call: killed before or after it, refused,
//! answered by an error although it was carried out, or frozen while others are at work. Then somebody else begins with an empty memory, and
//! what lies in the store in the end is compared, object by object and lock by lock, with what lies there without a fault.

use std::collections::btree_map::Entry;

use holdfast_crds::LockMode;
use holdfast_crds::document::HoldScope;
use serde_json::Value;
use tokio::sync::Notify;

use super::passes::hold;
use super::*;
use crate::store::faulty::{Call, CallKind, Fault, Faulty};
use crate::store::{Lock, StoreError};

/// When the pass begins that is disturbed.
const BEGIN: &str = "2026-03-07T02:15:00Z";

fn faults() -> Vec<Fault> {
    let answer = |status: u16, code: &str| StoreError::Busy {
        call: "test",
        status,
        code: code.to_owned(),
    };
    let denied = StoreError::Denied {
        call: "test",
        path: "somewhere".to_owned(),
        status: 403,
        code: "AccessDenied".to_owned(),
    };
    vec![
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::Before(answer(500, "InternalError")),
        Fault::Before(Fault::slow_down()),
        Fault::Before(denied),
        Fault::Before(Fault::reset()),
        Fault::After(Fault::reset()),
    ]
}

/// What may never be seen, looked for before each call.
struct Watch {
    memory: Memory,
    /// The objects of each copy, by the folder of its register.
    copies: BTreeMap<String, Vec<String>>,
    /// The runs that stay whatever happens, by the folder of their register.
    kept: BTreeSet<String>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    locks: BTreeMap<(String, String), Lock>,
    registers: BTreeMap<String, Bytes>,
    retained: BTreeMap<String, Timestamp>,
}

impl Watch {
    fn new(memory: &Memory, kept: &[&RunPath]) -> Arc<Self> {
        let objects = memory.objects();
        let copies = objects.iter().filter_map(|(path, bytes)| {
            let folder = path.strip_suffix("outcome.json")?;
            let run = folder.strip_prefix("catalog/")?.trim_end_matches('/').parse::<RunPath>().ok()?;
            let outcome = Outcome::from_bytes(&run, bytes).ok()?;
            let stored = outcome.committed()?.stored().iter();
            Some((folder.to_owned(), stored.map(|object| object.path.clone()).collect()))
        });
        Arc::new(Self {
            memory: memory.clone(),
            copies: copies.collect(),
            kept: kept.iter().map(|run| format!("catalog/{run}/")).collect(),
            seen: Mutex::default(),
        })
    }

    fn look(&self, told: &str) {
        let versions = self.memory.versions();
        let objects = self.memory.objects();
        let mut seen = self.seen.lock().unwrap();
        for (place, (_, lock)) in &versions {
            match seen.locks.entry(place.clone()) {
                Entry::Vacant(new) => drop(new.insert(*lock)),
                Entry::Occupied(mut before) => {
                    assert!(
                        lock.until() >= before.get().until(),
                        "I9: the lock of {place:?} was shortened, {told}"
                    );
                    before.insert(*lock);
                }
            }
        }
        for (path, bytes) in objects.iter().filter(|(path, _)| path.ends_with("/outcome.json")) {
            let before = seen.registers.entry(path.clone()).or_insert_with(|| bytes.clone());
            assert_eq!(before, bytes, "I1: {path} has another value, {told}");
        }
        for (path, bytes) in objects.iter().filter(|(path, _)| path.ends_with("-retain.json")) {
            let value: Value = serde_json::from_slice(bytes).unwrap();
            let until = at(value["fact"]["retain"]["until"].as_str().unwrap());
            let folder = format!("{}/", path.rsplit_once('/').unwrap().0);
            let longest = seen.retained.entry(folder).or_insert(until);
            *longest = until.max(*longest);
        }
        for (folder, until) in &seen.retained {
            let there = Self::longest(folder, &objects);
            let forgotten = !objects.contains_key(&format!("{folder}outcome.json"));
            assert!(
                forgotten || there >= Some(*until),
                "I9: {folder} was to be kept until {until}, now {there:?}, {told}"
            );
        }
        for (folder, stored) in &self.copies {
            let records = || objects.keys().filter(|path| path.starts_with(folder));
            let removed = records().any(|path| path.ends_with("-removed.json"));
            let decided = objects.contains_key(&format!("{folder}outcome.json"));
            let missing = stored.iter().find(|path| !objects.contains_key(*path));
            if self.kept.contains(folder) {
                assert!(
                    decided && !removed && missing.is_none(),
                    "I3: {folder} is kept, {missing:?} is gone, {told}"
                );
            }
            assert!(
                removed || missing.is_none() || !decided,
                "I2: {folder} is a copy without {missing:?}, {told}"
            );
            assert!(
                decided || removed || records().next().is_none(),
                "{folder} lost its register first, {told}"
            );
        }
    }

    fn longest(folder: &str, objects: &BTreeMap<String, Bytes>) -> Option<Timestamp> {
        let records = objects
            .iter()
            .filter(|(path, _)| path.starts_with(folder) && path.ends_with("-retain.json"));
        let until = |bytes: &Bytes| -> Option<Timestamp> {
            let value: Value = serde_json::from_slice(bytes).ok()?;
            value["fact"]["retain"]["until"].as_str()?.parse().ok()
        };
        records.filter_map(|(_, bytes)| until(bytes)).max()
    }
}

/// What lies in a store, but for what chance and the hour of the day decide: names of records and of those who wrote them.
fn rest(memory: &Memory) -> BTreeMap<String, Vec<String>> {
    let mut rest: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for ((path, _), (bytes, lock)) in memory.versions() {
        let name = path.rsplit('/').next().unwrap();
        let plain = match (path.parse::<ObjectPath>(), name.split_once('-')) {
            (Ok(ObjectPath::Record { .. } | ObjectPath::SourceRecord { .. } | ObjectPath::Hold { .. }), Some((_, what))) => {
                path.replace(name, &format!("*-{what}"))
            }
            _ => path.clone(),
        };
        let content = match bytes.as_deref().map(serde_json::from_slice::<Value>) {
            None => "a delete marker".to_owned(),
            Some(Ok(mut value)) if value.is_object() => {
                without_chance(&mut value);
                value.to_string()
            }
            Some(_) => format!("{bytes:?}"),
        };
        let until = lock.until().map(|until| until.strftime("%Y-%m-%d").to_string());
        let told = format!("{content}, locked until {until:?}, legal hold {}", lock.legal_hold);
        rest.entry(plain).or_default().push(told);
    }
    for versions in rest.values_mut() {
        versions.sort_unstable();
    }
    rest
}

fn without_chance(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in ["ulid", "mark", "at", "by", "nonce", "input", "since"] {
                // The fact `mark` has the name of the field that names one.
                if !fields.get(field).is_some_and(Value::is_object) {
                    fields.remove(field);
                }
            }
            if fields.contains_key("notBefore") {
                fields.remove("reason");
            }
            fields.values_mut().for_each(without_chance);
        }
        Value::Array(items) => items.iter_mut().for_each(without_chance),
        Value::String(text) => {
            if let Ok(time) = text.parse::<Timestamp>() {
                *text = time.strftime("%Y-%m-%d").to_string();
            }
        }
        _ => {}
    }
}

/// Passes until there is nothing more to do.
async fn drain(scene: &Scene, task: &KeepTask, told: &str) -> Said {
    scene.memory.set_clock(at(BEGIN) + SignedDuration::from_mins(15));
    for _ in 0..4 {
        let before = scene.memory.versions();
        let said = scene.pass(task).await;
        if scene.memory.versions() == before {
            return said;
        }
    }
    panic!("it does not come to rest, {told}");
}

fn forked(base: &Scene) -> Scene {
    let mut scene = Scene::new(base.memory.fork());
    scene.cluster.clone_from(&base.cluster);
    scene.memory.set_clock(at(BEGIN));
    scene
}

/// Makes the pass with each fault in each call. What comes of it in the end is what comes of it without one.
async fn at_every_call(base: &Scene, task: &KeepTask, tried: &[Fault], kept: &[&RunPath], expected: impl Fn(&Scene, &Said)) {
    let scene = forked(base);
    let counting = Faulty::none(scene.memory.clone());
    scene.pass_through(counting.clone(), task).await.unwrap();
    let calls = counting.calls();
    assert!(calls.len() > 30, "{calls:?}");
    let faultless = rest(&scene.memory);
    let said = drain(&scene, task, "without a fault").await;
    assert_eq!(rest(&scene.memory), faultless, "I6: a second pass has nothing to do");
    expected(&scene, &said);
    for call in &calls {
        for fault in tried {
            let fault = fault.clone();
            let told = format!("{fault:?} at {call:?}");
            let scene = forked(base);
            let watch = Watch::new(&scene.memory, kept);
            let (index, by, planned) = (call.index, Arc::clone(&watch), told.clone());
            let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
                by.look(&planned);
                (call.index == index).then(|| fault.clone())
            });
            let _ = scene.pass_through(faulty, task).await;
            let said = drain(&scene, task, &told).await;
            watch.look(&told);
            let found = rest(&scene.memory);
            for place in faultless.keys().chain(found.keys()) {
                assert_eq!(found.get(place), faultless.get(place), "{place}, {told}");
            }
            expected(&scene, &said);
        }
    }
}

/// Five copies of which an earlier pass marked two, two days ago; a sixth; a run that nobody finished; what a pod left that lost.
async fn marked(memory: Memory, task: &KeepTask) -> (Scene, Vec<RunPath>) {
    let scene = Scene::new(memory);
    let mut runs = Vec::new();
    for day in 1..=5 {
        let tick = at(&format!("2026-03-0{day}T02:00:00Z"));
        scene.memory.set_clock(tick + SignedDuration::from_mins(10));
        let keyed = |manifest: &mut Manifest| manifest.not_after = tick + SignedDuration::from_hours(6);
        runs.push(scene.copy_with(&name_of(tick), tick, keyed).await);
    }
    scene.memory.set_clock(at("2026-02-25T00:00:00Z"));
    scene
        .memory
        .plant("data/shop/orders/orders-lost/pod-x/database-1/00001.zst", "rows");
    scene.memory.plant("catalog/shop/orders/orders-lost/key-pod-x-1.age", "sealed");
    scene.memory.set_clock(at("2026-03-05T02:12:00Z"));
    scene.memory.plant(&format!("data/{}/loser/database-1/00001.zst", runs[3]), "rows");
    scene.memory.plant(&format!("catalog/{}/key-loser-1.age", runs[3]), "sealed");
    scene.pass(task).await;
    scene.memory.set_clock(at("2026-03-07T02:10:00Z"));
    runs.push(scene.copy(at("2026-03-07T02:00:00Z")).await);
    (scene, runs)
}

/// What the operator knows since the pass of the fifth.
fn known(task: &mut KeepTask) {
    task.sources = vec![holdfast_crds::KeepSource {
        namespace: label("shop"),
        source: label("orders"),
        copies: Some(5),
        copies_as_of: Some(at("2026-03-05T02:12:00Z")),
        retired: None,
        accepted: vec![],
    }];
}

#[tokio::test(start_paused = true)]
async fn f02_a_pass_that_marks_and_sweeps_ends_the_same_whatever_happens_at_any_call() {
    let few = faults().into_iter().filter(|fault| !matches!(fault, Fault::Before(_)));
    let few: Vec<_> = few.collect();
    for (memory, faults) in [
        (Memory::new(), &faults()),
        (Memory::new().without_versions(), &few),
        (Memory::new().with_object_lock(), &few),
    ] {
        let mut wanted = task(|r| r.keep_last = Some(3));
        let (base, runs) = marked(memory, &wanted).await;
        known(&mut wanted);
        let gone: BTreeSet<_> = runs[..2].iter().map(|run| run.run.to_string()).collect();
        at_every_call(&base, &wanted, faults, &[&runs[3], &runs[4], &runs[5]], |scene, said| {
            let source = said.source();
            assert_eq!((source.copies, source.marked, source.blocked.clone()), (4, 1, None), "{source:?}");
            let data = scene.with_data();
            assert!(data.is_disjoint(&gone) && !data.contains("orders-lost"), "{data:?}");
            assert!(
                !scene
                    .memory
                    .objects()
                    .keys()
                    .any(|path| path.contains("loser") || path.contains("key-"))
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn f02_a_pass_over_locked_copies_ends_the_same_whatever_happens_at_any_call() {
    let memory = Memory::new().with_write_lock(LockMode::Governance, Duration::from_hours(24));
    let mut wanted = task(|r| {
        r.daily = Some(3);
        r.monthly = Some(2);
    });
    let (base, runs) = marked(memory, &wanted).await;
    known(&mut wanted);
    at_every_call(&base, &wanted, &faults(), &[&runs[0], &runs[4], &runs[5]], |scene, said| {
        assert_eq!(said.source().blocked, None);
        let outcome = scene.memory.locked(&runs[0].outcome().to_string());
        assert!(
            outcome.until() >= Some(at("2026-05-01T00:00:00Z")),
            "the month's slot is locked: {outcome:?}"
        );
    })
    .await;
}

fn named(run: &RunPath) -> Vec<holdfast_crds::KeepHold> {
    vec![hold(|hold| {
        hold.scope = HoldScope {
            runs: Some(vec![run.to_string()]),
            ..HoldScope::default()
        }
    })]
}

#[tokio::test(start_paused = true)]
async fn f02_a_pass_that_records_a_hold_ends_the_same_whatever_happens_at_any_call() {
    let mut wanted = task(|r| r.keep_last = Some(3));
    let (base, runs) = marked(Memory::new().with_object_lock(), &wanted).await;
    known(&mut wanted);
    wanted.holds = named(&runs[0]);
    at_every_call(
        &base,
        &wanted,
        &faults(),
        &[&runs[0], &runs[3], &runs[4], &runs[5]],
        |scene, said| {
            assert_eq!((said.source().copies, said.source().held), (5, 1));
            let part = format!("data/{}/", runs[0]);
            let objects = scene.memory.objects();
            let parts: Vec<_> = objects.keys().filter(|path| path.starts_with(&part)).collect();
            assert!(!parts.is_empty() && parts.iter().all(|path| scene.memory.locked(path).legal_hold));
        },
    )
    .await;
}

/// Runs `other` while the pass stands still before one of its calls, for so long. The pass's end is not waited for by `other`.
async fn frozen_at(scene: &Scene, task: &KeepTask, index: usize, time: Duration, other: impl Future<Output = ()>) -> Result<Said, Failure> {
    let reached = Arc::new(Notify::new());
    let notify = Arc::clone(&reached);
    let faulty = Faulty::new(scene.memory.clone(), move |call: &Call| {
        (call.index == index).then(|| {
            notify.notify_one();
            Fault::Slow(time)
        })
    });
    let meanwhile = async {
        reached.notified().await;
        other.await;
    };
    tokio::join!(scene.pass_through(faulty, task), meanwhile).0
}

fn removed(scene: &Scene, run: &RunPath) -> bool {
    scene.what(run).contains(&"removed")
}

/// Freezes a keeper that knows of no hold before each of its calls; meanwhile another records one. As soon as the hold is said to be in force
/// no copy that it holds goes any more, however long the old keeper was frozen.
#[tokio::test(start_paused = true)]
async fn a_hold_that_is_placed_during_a_pass_holds_from_the_moment_it_is_said_to() {
    let wanted = task(|r| r.keep_last = Some(3));
    let (base, runs) = marked(Memory::new(), &wanted).await;
    let with_hold = KeepTask {
        holds: vec![hold(|_| {})],
        ..wanted.clone()
    };
    let scene = forked(&base);
    let counting = Faulty::none(scene.memory.clone());
    scene.pass_through(counting.clone(), &wanted).await.unwrap();
    let mut seen = BTreeMap::new();
    for call in counting.calls() {
        for frozen in [1, 7 * 60, 9 * 60, 11 * 60, 24 * 3600] {
            let told = format!("frozen for {frozen} s before {call:?}");
            let scene = forked(&base);
            let in_force = at(BEGIN) + SignedDuration::from_secs(600);
            let left = Mutex::new(Vec::new());
            let other = async {
                let said = scene.pass(&with_hold).await;
                let Some(KeepLine::Hold(report)) = said.lines.last() else {
                    panic!("{:?}", said.lines)
                };
                let recorded = at(report.recorded_at.as_deref().unwrap());
                assert!(recorded <= scene.now() && recorded >= at(BEGIN), "{told}: {recorded}");
                // What the operator waits for before it says that the hold is in force: what is a copy then is held.
                tokio::time::sleep(Duration::try_from(in_force.duration_since(scene.now())).unwrap()).await;
                left.lock().unwrap().extend(runs.iter().filter(|run| !removed(&scene, run)));
            };
            let _ = Box::pin(frozen_at(&scene, &wanted, call.index, Duration::from_secs(frozen), other)).await;
            let held = left.into_inner().unwrap();
            for run in &held {
                assert!(!removed(&scene, run), "{told}: {run} went after it was said to be held");
            }
            *seen.entry(held.len()).or_insert(0) += 1;
            assert!(held.len() >= 4, "{told}");
            let watch = Watch::new(&scene.memory, &held);
            for day in [8, 11, 20] {
                scene.memory.set_clock(at(&format!("2026-03-{day:02}T02:15:00Z")));
                scene.copy(at(&format!("2026-03-{day:02}T02:00:00Z"))).await;
                let faulty = Faulty::new(scene.memory.clone(), {
                    let (watch, told) = (Arc::clone(&watch), told.clone());
                    move |_: &Call| {
                        watch.look(&told);
                        None
                    }
                });
                scene.pass_through(faulty, &wanted).await.unwrap();
                watch.look(&told);
            }
        }
    }
    assert!(
        seen[&6] > 0 && seen[&5] > 0 && seen[&4] > 0,
        "before, within and after the removals: {seen:?}"
    );
}

/// Freezes a keeper before each of its calls; meanwhile another cluster takes the store over and places a hold. The old keeper removes
/// nothing more than the one copy whose removal was on its way: a hold of the new owner is not yet said to be in force then.
#[tokio::test(start_paused = true)]
async fn f82_a_take_over_at_any_call_of_a_pass_stops_it() {
    let wanted = task(|r| r.keep_last = Some(3));
    let (base, runs) = marked(Memory::new(), &wanted).await;
    let scene = forked(&base);
    let counting = Faulty::none(scene.memory.clone());
    scene.pass_through(counting.clone(), &wanted).await.unwrap();
    for call in counting.calls() {
        for frozen in [1, 11 * 60] {
            let told = format!("frozen for {frozen} s before {call:?}");
            let scene = forked(&base);
            let mut new = Scene::new(scene.memory.clone());
            new.cluster = "cluster-b".into();
            let with_hold = KeepTask {
                holds: vec![hold(|_| {})],
                ..wanted.clone()
            };
            let left = Mutex::new(BTreeMap::new());
            let other = async {
                new.store().take_over("cluster-b", "shop/offsite", "cluster-a").await.unwrap();
                let said = new.pass(&with_hold).await;
                assert_eq!(said.source().removed, 0);
                *left.lock().unwrap() = rest(&scene.memory);
            };
            let before = runs.iter().filter(|run| removed(&scene, run)).count();
            assert_eq!(before, 0);
            let _ = Box::pin(frozen_at(&scene, &wanted, call.index, Duration::from_secs(frozen), other)).await;
            let left = left.into_inner().unwrap();
            let now = rest(&scene.memory);
            // Marks and what else is only said are decided on again by the new owner.
            let came: Vec<_> = now
                .keys()
                .filter(|path| !left.contains_key(*path))
                .filter(|path| path.ends_with("-removed.json") || path.ends_with("outcome.json"))
                .collect();
            // Asked whose the store is a moment before, or already told to write.
            let on_its_way = call.path.starts_with("owner/") || call.path.ends_with("-removed.json") || call.path.ends_with("outcome.json");
            assert!(came.len() <= usize::from(on_its_way), "{told}: {came:?}");
            let sweeping = call.kind == CallKind::DeleteVersion || on_its_way;
            let went: Vec<_> = left.keys().filter(|path| !now.contains_key(*path)).collect();
            assert!(went.is_empty() || sweeping, "{told}: {went:?}");
            let watch = Watch::new(&scene.memory, &[]);
            watch.look(&told);
            // The new cluster goes on, and what it holds stays.
            let held: Vec<_> = runs.iter().filter(|run| !removed(&scene, run)).collect();
            scene.memory.set_clock(at("2026-03-20T02:15:00Z"));
            new.copy(at("2026-03-20T02:00:00Z")).await;
            let watch = Watch::new(&scene.memory, &held);
            new.pass(&wanted).await;
            watch.look(&told);
        }
    }
}

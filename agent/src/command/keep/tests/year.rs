//! A year of daily runs: after each month what lies in the store, each object in each version with its lock, is compared with what the rules
//! say, from their text alone.

use jiff::ToSpan;
use jiff::civil::Date;

use super::*;

/// So long everything is locked when it is written.
const SHORT: SignedDuration = SignedDuration::from_hours(7 * 24);

fn date(at: Timestamp) -> Date {
    at.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// When that day's pass is made: five minutes after its tick.
fn pass_of(date: Date) -> Timestamp {
    date.at(2, 5, 0, 0).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp()
}

/// Until which day the rules keep the copy of `tick`: daily 14, weekly 8, monthly 12, each its own.
fn ends(ticks: &[Timestamp], tick: Timestamp) -> Vec<Date> {
    let day = date(tick);
    let monday = day - i64::from(day.weekday().to_monday_zero_offset()).days();
    let earlier = |first: Date| ticks.iter().any(|other| *other < tick && date(*other) >= first);
    let mut ends = vec![day + 14.days()];
    if !earlier(monday) {
        ends.push(monday + 8.weeks());
    }
    if !earlier(day.first_of_month()) {
        ends.push(day.first_of_month() + 12.months());
    }
    ends
}

/// Names, with `*` for what chance and the clock put before `-<what>`, and until when each version that lies there is locked.
type Lying = BTreeMap<String, Vec<Timestamp>>;

/// What must lie in the store after the pass of `today`.
fn wanted(ticks: &[Timestamp], today: Date) -> Lying {
    let mut lying = Lying::new();
    let mut add = |path: String, until: Timestamp| lying.entry(path).or_default().push(until);
    let midnight = |date: Date| date.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    let first = pass_of(date(ticks[0]));
    add("owner/1.json".to_owned(), first + SHORT);
    add("catalog/shop/orders/*-policy.json".to_owned(), first + SHORT);
    for (tick, pod) in ticks.iter().zip(1..) {
        let day = date(*tick);
        let ends = ends(ticks, *tick);
        let end = *ends.iter().max().unwrap();
        // A slot is given out a day after the tick. Two days after the mark it goes, and its register 30 days after that, at the next pass.
        let (granted, marked, removed, forgotten) = (day + 1.day(), end, end + 2.days(), end + 33.days());
        if today >= forgotten {
            continue;
        }
        let path = RunPath::new("shop", "orders", &name_of(*tick)).unwrap();
        let stream = path.pod(label(&format!("pod-{pod}"))).stream(label("database-1"), false);
        let written = pass_of(day) + SHORT;
        let locked = if today >= granted { written.max(midnight(end)) } else { written };
        add(path.outcome().to_string(), locked);
        if today < removed {
            add(stream.part(1).to_string(), locked);
            add(stream.index().to_string(), locked);
        }
        let mut record = |what: &str, on: Date| {
            if today >= on {
                add(format!("catalog/{path}/*-{what}.json"), pass_of(on) + SHORT);
            }
        };
        for _ in &ends {
            record("retain", granted);
        }
        // As the store showed it in the first pass, and as it was extended.
        record("locked", day);
        record("locked", granted);
        record("mark", marked);
        record("removed", removed);
    }
    lying
}

/// What does lie there.
fn found(scene: &Scene) -> Lying {
    let mut lying = Lying::new();
    for ((path, _), (bytes, lock)) in scene.memory.versions() {
        assert!(bytes.is_some(), "{path} is a delete marker");
        let (folder, name) = path.rsplit_once('/').unwrap();
        let name = match (path.parse().unwrap(), name.split_once('-')) {
            (ObjectPath::Record { .. } | ObjectPath::SourceRecord { .. }, Some((_, what))) => format!("{folder}/*-{what}"),
            _ => path.clone(),
        };
        lying.entry(name).or_default().push(lock.until().unwrap());
    }
    lying
}

#[tokio::test(start_paused = true)]
async fn after_each_month_of_a_year_the_store_holds_what_the_rules_say_object_by_object_and_lock_by_lock() {
    let short = Duration::try_from(SHORT).unwrap();
    let scene = Scene::new(Memory::new().with_write_lock(holdfast_crds::LockMode::Governance, short));
    let task = task(|r| {
        r.daily = Some(14);
        r.weekly = Some(8);
        r.monthly = Some(12);
    });
    let first = at("2026-01-01T02:00:00Z");
    let mut ticks = Vec::new();
    let mut compared = 0;
    for day in 0..400 {
        let tick = first + DAY * day;
        scene.memory.set_clock(pass_of(date(tick)));
        scene.copy(tick).await;
        ticks.push(tick);
        let said = scene.pass(&task).await;
        assert_eq!(said.source().blocked, None, "{tick}");
        assert!(said.findings().is_empty(), "{tick}: {:?}", said.findings());
        let today = date(tick);
        if today != today.last_of_month() {
            continue;
        }
        let (found, wanted) = (found(&scene), wanted(&ticks, today));
        for path in found.keys().chain(wanted.keys()) {
            assert_eq!(found.get(path), wanted.get(path), "{today}: {path}, left what lies there");
        }
        compared += 1;
    }
    assert_eq!(compared, 13);
    let copies = |lying: &Lying| {
        lying
            .keys()
            .filter(|path| path.starts_with("data/") && path.ends_with("/00001.zst"))
            .count()
    };
    // 16 days, 8 weeks and 12 months, as far as they do not meet.
    assert!((30..=40).contains(&copies(&found(&scene))), "{}", copies(&found(&scene)));
}

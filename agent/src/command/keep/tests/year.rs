//! A year of daily runs: after each month what lies in the store is compared, object by object, with what the rules say.

use jiff::civil::Date;

use super::*;

/// What the rules say, from their text alone: daily 14, weekly 8, monthly 12, for one copy a day at 02:00 UTC.
fn wanted(ticks: &[Timestamp], now: Timestamp) -> BTreeSet<String> {
    let date = |at: &Timestamp| at.to_zoned(jiff::tz::TimeZone::UTC).date();
    let midnight = |date: Date| date.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    let mut kept = BTreeSet::new();
    for tick in ticks {
        let day = date(tick);
        let monday = day
            .checked_sub(jiff::Span::new().days(i64::from(day.weekday().to_monday_zero_offset())))
            .unwrap();
        let first_of_week = !ticks.iter().any(|other| other < tick && date(other) >= monday);
        let first_of_month = !ticks.iter().any(|other| other < tick && date(other) >= day.first_of_month());
        let ends = [
            Some(day.checked_add(jiff::Span::new().days(14)).unwrap()),
            first_of_week.then(|| monday.checked_add(jiff::Span::new().weeks(8)).unwrap()),
            first_of_month.then(|| day.first_of_month().checked_add(jiff::Span::new().months(12)).unwrap()),
        ];
        if ends.into_iter().flatten().any(|end| now < midnight(end)) {
            kept.insert(name_of(*tick));
        }
    }
    kept
}

#[tokio::test(start_paused = true)]
async fn after_each_month_of_a_year_the_store_holds_what_the_rules_say() {
    let short = Duration::from_hours(7 * 24);
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
        scene.memory.set_clock(tick + SignedDuration::from_mins(5));
        scene.copy(tick).await;
        ticks.push(tick);
        let said = scene.pass(&task).await;
        assert_eq!(said.source().blocked, None, "{tick}");
        assert!(said.findings().is_empty(), "{tick}: {:?}", said.findings());
        let date = tick.to_zoned(jiff::tz::TimeZone::UTC).date();
        if date != date.last_of_month() {
            continue;
        }
        let now = scene.now();
        let (there, must) = (scene.with_data(), wanted(&ticks, now));
        assert!(
            must.is_subset(&there),
            "{date}: {:?} should be there",
            must.difference(&there).collect::<Vec<_>>()
        );
        // What is not wanted any more is marked by the next pass and removed two days later.
        let lately = wanted(&ticks, now - DAY * 4);
        let surplus: Vec<_> = there.difference(&lately).collect();
        assert!(surplus.is_empty(), "{date}: {surplus:?} should be gone");
        // A register stays for 30 days after its copy.
        let tombs = wanted(&ticks, now - DAY * 36);
        // No version, marker, key or record of what was forgotten stays, and nothing else is there.
        for path in scene.memory.objects().keys() {
            let run = path.split('/').nth(3);
            match path.split('/').next().unwrap() {
                "owner" => {}
                "catalog" if path.matches('/').count() == 3 => {}
                "catalog" => {
                    let run = run.unwrap();
                    assert!(there.contains(run) || tombs.contains(run), "{date}: {path} should be forgotten");
                }
                "data" => assert!(there.contains(run.unwrap())),
                other => panic!("{other}: nothing writes there"),
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 13);
    let rest = wanted(&ticks, scene.now()).len();
    assert!(
        scene.with_data().len() <= rest + 4,
        "{} objects for {rest} copies",
        scene.with_data().len()
    );
}

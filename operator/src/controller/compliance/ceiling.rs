//! What is kept for longer than a ceiling. Pure.

use holdfast_crds::{Retention, Span, shortest_deletion_delay};
use jiff::{SignedDuration, Timestamp};

use super::judge::{Found, Known, shown, words};

/// What nothing keeps any more is still there until a daily pass has marked it, and a daily pass after the delay removes it.
const PASSES: SignedDuration = SignedDuration::from_hours(48);

/// The first rule that keeps copies for longer than `ceiling`, with a month of 31 days, a quarter of 92 and a year of 366, as admission counts.
/// `keepLast` keeps a copy until so many newer ones are there: by the longest time between two.
pub fn above(retention: Option<&Retention>, interval: Option<SignedDuration>, ceiling: Span) -> Option<String> {
    let Some(retention) = retention.filter(|retention| !retention.keeps_everything()) else {
        return Some("no rule, which keeps each copy for ever".to_owned());
    };
    if let Some(within) = retention.keep_within.filter(|within| *within > ceiling) {
        return Some(format!("keepWithin {within}"));
    }
    if let (Some(last), Some(interval)) = (retention.keep_last, interval)
        && interval.saturating_mul(last) > ceiling.signed()
    {
        return Some(format!("keepLast {last}, of copies that are up to {} apart", words(interval)));
    }
    let slots = [
        ("hourly", retention.hourly, 3_600),
        ("daily", retention.daily, 86_400),
        ("weekly", retention.weekly, 7 * 86_400),
        ("monthly", retention.monthly, 31 * 86_400),
        ("quarterly", retention.quarterly, 92 * 86_400),
        ("yearly", retention.yearly, 366 * 86_400),
    ];
    slots.into_iter().find_map(|(name, count, seconds)| {
        let count = count?;
        (u64::try_from(count).unwrap_or(0) * seconds > ceiling.seconds()).then(|| format!("{name} {count}"))
    })
}

/// Copies that are kept for longer whatever the rules say now: a promise that was made once stays. Of each store the newest ten and the oldest good one are
/// known.
pub fn copies(ceiling: Span, known: &Known<'_>) -> Vec<Found> {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    let mut found = Vec::new();
    for entry in known.catalogue {
        let store = shown(&entry.reference());
        let promised = entry.newest_copies.iter().find_map(|copy| {
            let (point, until) = (time(&copy.recovery_point)?, copy.kept_until.as_deref()?);
            (time(until)?.duration_since(point) > ceiling.signed())
                .then(|| format!("the copy of run {} kept until {until} ({store})", copy.run))
        });
        if let Some(promised) = promised {
            found.push(Found::Missed(promised));
            continue;
        }
        // What is held stays by order, and its store does not say which copies those are.
        let Some(oldest) = entry.oldest.as_deref().and_then(time).filter(|_| entry.held == 0) else {
            continue;
        };
        let delays = known.schedules.iter().flat_map(|schedule| {
            let stores = schedule.spec.stores.iter().filter(|store| store.reference() == entry.reference());
            let retentions = stores.filter_map(|store| store.retention.as_ref());
            retentions.map(|retention| retention.deletion_delay.max(shortest_deletion_delay(schedule.spec.timeout)))
        });
        let delay = delays.max().unwrap_or(Retention::default().deletion_delay);
        let gone = ceiling.signed().saturating_add(delay.signed()).saturating_add(PASSES);
        match oldest.checked_add(gone) {
            Ok(until) if until < known.now => found.push(Found::Missed(format!("a good copy of {oldest} that is still there ({store})"))),
            Ok(until) => found.push(Found::Until(until)),
            Err(_) => {}
        }
    }
    found
}

//! When a store's keeper makes its next pass. Pure.

use holdfast_crds::KeeperStatus;
use holdfast_policy::backoff::Backoff;
use jiff::{SignedDuration, Timestamp};

/// A pass follows what it is to be told anew so long after the pass before.
const AFTER_CHANGE: SignedDuration = SignedDuration::from_secs(5);
/// A pass follows a commit so long after it: commits come in bursts.
const AFTER_COMMIT: SignedDuration = SignedDuration::from_mins(1);
/// … and so many times as long after the pass before as that took, so that keepers take no more than a tenth of the time.
const REST: i32 = 10;
/// … but not longer than this.
const LONGEST_REST: SignedDuration = SignedDuration::from_hours(1);
/// Without news a pass is made after this, less up to a quarter, so that not all stores are looked after at once.
const DAILY: Backoff = Backoff {
    first: SignedDuration::from_hours(24),
    limit: SignedDuration::from_hours(24),
};

/// When the next pass is due after one that ended, or at once where there was none. `told` is the digest of what it would be told,
/// `news` when something was last that it has not seen: a commit, an object of a source whose copies it told. A pass that could not do something yet has said when it can.
pub fn next_pass(keeper: &KeeperStatus, name: &str, told: &str, news: Option<Timestamp>) -> Timestamp {
    let time = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    let (Some(started), Some(finished)) = (time(&keeper.started_at), time(&keeper.finished_at)) else {
        return Timestamp::MIN;
    };
    let after = |time: Timestamp, wait| time.checked_add(wait).unwrap_or(Timestamp::MAX);
    if let Ok(failures @ 1..) = u32::try_from(keeper.failures) {
        return after(finished, Backoff::PASS.delay(failures, name));
    }
    if keeper.told != told {
        return after(finished, AFTER_CHANGE);
    }
    let took = finished.duration_since(started);
    let rested = after(finished, took.saturating_mul(REST).clamp(AFTER_COMMIT, LONGEST_REST));
    let again = time(&keeper.last_pass.as_ref().and_then(|pass| pass.summary.again_at.clone()));
    let news = news.filter(|news| *news >= started).map(|news| after(news, AFTER_COMMIT));
    let soon = news.into_iter().chain(again).min().map(|due| due.max(rested));
    soon.into_iter()
        .chain([after(started, DAILY.delay(1, name))])
        .min()
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use holdfast_crds::{KeepSummary, PassStatus, Reason};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn table() {
        let keeper = |failures, told: &str| KeeperStatus {
            number: 1,
            told: told.to_owned(),
            started_at: Some("2026-03-01T00:00:00Z".to_owned()),
            finished_at: Some("2026-03-01T00:02:00Z".to_owned()),
            failures,
            ..KeeperStatus::default()
        };
        let next = |keeper: &KeeperStatus, committed: Option<&str>| next_pass(keeper, "shop/offsite", "a", committed.map(at));
        assert_eq!(next(&KeeperStatus::default(), None), Timestamp::MIN, "there was none");
        let daily = next(&keeper(0, "a"), None);
        assert!(daily > at("2026-03-01T18:00:00Z") && daily <= at("2026-03-02T00:00:00Z"), "{daily}");
        assert_eq!(
            next(&keeper(0, "a"), Some("2026-02-28T23:59:00Z")),
            daily,
            "the pass saw this commit"
        );
        assert_eq!(
            next(&keeper(0, "a"), Some("2026-03-01T00:01:00Z")),
            at("2026-03-01T00:22:00Z"),
            "ten times the two minutes that the pass took"
        );
        assert_eq!(next(&keeper(0, "a"), Some("2026-03-01T09:00:00Z")), at("2026-03-01T09:01:00Z"));
        assert_eq!(
            next(&keeper(0, "b"), None),
            at("2026-03-01T00:02:05Z"),
            "it is to be told something else"
        );
        let mut waits = keeper(0, "a");
        let again = |at: &str| {
            Some(PassStatus {
                finished_at: "2026-03-01T00:02:00Z".to_owned(),
                reason: Reason::Succeeded,
                summary: KeepSummary {
                    again_at: Some(at.to_owned()),
                    ..KeepSummary::default()
                },
            })
        };
        waits.last_pass = again("2026-03-01T07:00:00Z");
        assert_eq!(next(&waits, None), at("2026-03-01T07:00:00Z"), "when it can go on");
        waits.last_pass = again("2026-03-01T00:03:00Z");
        assert_eq!(next(&waits, None), at("2026-03-01T00:22:00Z"));
        waits.last_pass = again("2026-04-01T00:00:00Z");
        assert_eq!(next(&waits, None), daily);
        let failed = next(&keeper(1, "b"), None);
        assert!(
            failed > at("2026-03-01T00:02:40Z") && failed <= at("2026-03-01T00:03:00Z"),
            "{failed}"
        );
        assert!(next(&keeper(i64::from(u32::MAX), "a"), None) <= at("2026-03-01T00:32:00Z"));
    }
}

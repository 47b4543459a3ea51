//! Is a source protected: is its newest copy young enough?

use jiff::{SignedDuration, Timestamp};

/// Recovery points further in the future than this are not believed.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// What is known about a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub created: Timestamp,
    /// The recovery point of its newest committed copy that is [`plausible`].
    pub newest: Option<Timestamp>,
    /// The recovery point of a copy that is not: it counts for nothing.
    pub implausible: Option<Timestamp>,
    /// How old that may be; none if nothing schedules it and nothing says so.
    pub rpo: Option<SignedDuration>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The newest copy is young enough, until then.
    Protected { until: Timestamp },
    /// Not protected: there is no copy yet. One is expected until then, its creation plus the RPO.
    Awaited { until: Timestamp },
    /// Not protected: there was never a copy, and since then there should have been one.
    NeverCopied { since: Timestamp },
    /// Not protected: the newest copy is older than the RPO, since then.
    TooOld { since: Timestamp },
    /// Not protected: nothing says how old a copy may be, as no schedule selects the source.
    Unscheduled,
    /// Not protected: the only copy claims a recovery point in the future; a clock is or was wrong.
    Implausible { recovery_point: Timestamp },
}

impl Protection {
    pub fn of(evidence: &Evidence, now: Timestamp) -> Self {
        let newest = evidence.newest.filter(|newest| plausible(*newest, now));
        if let (None, Some(recovery_point)) = (newest, evidence.newest.or(evidence.implausible)) {
            return Self::Implausible { recovery_point };
        }
        let Some(rpo) = evidence.rpo else { return Self::Unscheduled };
        let deadline = newest.unwrap_or(evidence.created).checked_add(rpo).unwrap_or(Timestamp::MAX);
        match (newest.is_some(), now <= deadline) {
            (true, true) => Self::Protected { until: deadline },
            (true, false) => Self::TooOld { since: deadline },
            (false, true) => Self::Awaited { until: deadline },
            (false, false) => Self::NeverCopied { since: deadline },
        }
    }

    pub fn is_protected(&self) -> bool {
        matches!(self, Self::Protected { .. })
    }

    /// When the RPO is or was breached: the gauge of the deadline, and the order of what waits.
    pub fn deadline(&self) -> Option<Timestamp> {
        match *self {
            Self::Protected { until: deadline }
            | Self::Awaited { until: deadline }
            | Self::NeverCopied { since: deadline }
            | Self::TooOld { since: deadline } => Some(deadline),
            Self::Unscheduled | Self::Implausible { .. } => None,
        }
    }

    /// After how much time the answer changes by itself, at the latest.
    pub fn changes_after(&self, now: Timestamp) -> Option<SignedDuration> {
        match self {
            Self::Protected { until } | Self::Awaited { until } => Some(until.duration_since(now) + SignedDuration::from_secs(1)),
            Self::Implausible { recovery_point } if !plausible(*recovery_point, now) => {
                Some(recovery_point.duration_since(now) - TOLERANCE)
            }
            Self::NeverCopied { .. } | Self::TooOld { .. } | Self::Unscheduled | Self::Implausible { .. } => None,
        }
    }
}

/// Whether a recovery point can be believed at `then`, such as when its copy was committed: it is not in the future.
pub fn plausible(recovery_point: Timestamp, then: Timestamp) -> bool {
    recovery_point.duration_since(then) <= TOLERANCE
}

/// How old the newest copy is, in whole seconds: the gauge. None without a copy; zero for one from the (near) future.
pub fn age_seconds(newest: Option<Timestamp>, now: Timestamp) -> Option<u64> {
    newest.map(|newest| u64::try_from(now.duration_since(newest).as_secs()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn day(evidence: (Option<&str>, Option<i64>), now: &str) -> Protection {
        let (newest, rpo_hours) = evidence;
        let evidence = Evidence {
            created: at("2026-03-01T00:00:00Z"),
            newest: newest.map(at),
            implausible: None,
            rpo: rpo_hours.map(SignedDuration::from_hours),
        };
        Protection::of(&evidence, at(now))
    }

    #[test]
    fn table() {
        use Protection::*;
        let copy = Some("2026-03-02T02:00:00Z");
        let table = [
            (
                day((None, Some(24)), "2026-03-01T00:00:00Z"),
                Awaited {
                    until: at("2026-03-02T00:00:00Z"),
                },
            ),
            (
                day((None, Some(24)), "2026-03-02T00:00:00Z"),
                Awaited {
                    until: at("2026-03-02T00:00:00Z"),
                },
            ),
            (
                day((None, Some(24)), "2026-03-02T00:00:01Z"),
                NeverCopied {
                    since: at("2026-03-02T00:00:00Z"),
                },
            ),
            (
                day((copy, Some(24)), "2026-03-02T02:00:00Z"),
                Protected {
                    until: at("2026-03-03T02:00:00Z"),
                },
            ),
            (
                day((copy, Some(24)), "2026-03-03T02:00:00Z"),
                Protected {
                    until: at("2026-03-03T02:00:00Z"),
                },
            ),
            (
                day((copy, Some(24)), "2026-03-03T02:00:01Z"),
                TooOld {
                    since: at("2026-03-03T02:00:00Z"),
                },
            ),
            (day((copy, None), "2026-03-02T03:00:00Z"), Unscheduled),
            (day((None, None), "2026-03-02T03:00:00Z"), Unscheduled),
            // Our clock is a little behind: believed.
            (
                day((copy, Some(24)), "2026-03-02T01:55:00Z"),
                Protected {
                    until: at("2026-03-03T02:00:00Z"),
                },
            ),
            // A clock is wrong: a copy from the future protects nobody.
            (
                day((copy, Some(24)), "2026-03-02T01:54:59Z"),
                Implausible {
                    recovery_point: at("2026-03-02T02:00:00Z"),
                },
            ),
            (
                day((copy, Some(24)), "1970-01-01T00:00:00Z"),
                Implausible {
                    recovery_point: at("2026-03-02T02:00:00Z"),
                },
            ),
            (
                day((Some("2106-01-01T00:00:00Z"), Some(24)), "2026-03-02T01:00:00Z"),
                Implausible {
                    recovery_point: at("2106-01-01T00:00:00Z"),
                },
            ),
            // Adopted from a store: copies older than the object.
            (
                day((Some("2026-02-28T12:00:00Z"), Some(25)), "2026-03-01T12:30:00Z"),
                Protected {
                    until: at("2026-03-01T13:00:00Z"),
                },
            ),
        ];
        for (row, (found, expected)) in table.into_iter().enumerate() {
            assert_eq!(found, expected, "row {row}");
            assert_eq!(found.is_protected(), matches!(expected, Protected { .. }));
        }
    }

    #[test]
    fn a_copy_of_the_future_takes_nothing_from_the_others() {
        let now = at("2026-03-02T12:00:00Z");
        let judged = |newest: Option<&str>, implausible: &str, rpo: Option<i64>| {
            let evidence = Evidence {
                created: at("2026-03-01T00:00:00Z"),
                newest: newest.map(at),
                implausible: Some(at(implausible)),
                rpo: rpo.map(SignedDuration::from_hours),
            };
            let protection = Protection::of(&evidence, now);
            (protection, protection.changes_after(now))
        };
        let (protection, _) = judged(Some("2026-03-02T02:00:00Z"), "2106-01-01T00:00:00Z", Some(24));
        assert!(protection.is_protected(), "{protection:?}");
        // Alone it protects nobody, also once its time has come.
        let only = |recovery_point: &str| Protection::Implausible {
            recovery_point: at(recovery_point),
        };
        assert_eq!(judged(None, "2106-01-01T00:00:00Z", Some(24)).0, only("2106-01-01T00:00:00Z"));
        assert_eq!(judged(None, "2026-03-02T11:00:00Z", Some(24)), (only("2026-03-02T11:00:00Z"), None));
        assert_eq!(judged(None, "2026-03-02T11:00:00Z", None).0, only("2026-03-02T11:00:00Z"));
    }

    #[test]
    fn it_changes_when_it_says() {
        let now = at("2026-03-02T12:00:00Z");
        for (newest, rpo) in [
            (None, 48),
            (Some(at("2026-03-02T02:00:00Z")), 24),
            (Some(at("2026-03-02T14:00:00Z")), 24),
        ] {
            let evidence = Evidence {
                created: at("2026-03-01T00:00:00Z"),
                newest,
                implausible: None,
                rpo: Some(SignedDuration::from_hours(rpo)),
            };
            let before = Protection::of(&evidence, now);
            let change = now + before.changes_after(now).unwrap();
            assert_eq!(Protection::of(&evidence, change - SignedDuration::from_secs(1)), before);
            assert_ne!(Protection::of(&evidence, change), before);
        }
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        for newest in [None, Some(Timestamp::MIN), Some(Timestamp::MAX)] {
            for now in [Timestamp::MIN, Timestamp::MAX] {
                let evidence = Evidence {
                    created: Timestamp::MIN,
                    newest,
                    implausible: newest,
                    rpo: Some(SignedDuration::MAX),
                };
                let _ = Protection::of(&evidence, now).changes_after(now);
                let _ = age_seconds(newest, now);
            }
        }
        assert_eq!(
            age_seconds(Some(at("2026-03-02T02:00:00Z")), at("2026-03-02T02:00:59.9Z")),
            Some(59)
        );
        assert_eq!(age_seconds(Some(at("2026-03-02T02:00:00Z")), at("2026-03-02T01:58:00Z")), Some(0));
    }
}

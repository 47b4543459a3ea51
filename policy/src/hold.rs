//! Holds: which copies one names, and whether it is in force. Rules R10 and R11.

use holdfast_crds::{
    ReleaseBy,
    document::{HoldFact, HoldRecord, HoldScope},
};
use jiff::{SignedDuration, Timestamp};

/// What a hold asks of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub namespace: &'a str,
    pub source: &'a str,
    /// `<namespace>/<source>/<run id>`.
    pub run: &'a str,
    pub recovery_point: Timestamp,
}

/// Whether the scope names the copy: every field that is there must match.
pub fn names(scope: &HoldScope, copy: &Candidate<'_>) -> bool {
    let listed = |list: &Option<Vec<String>>, name: &str| list.as_ref().is_none_or(|list| list.iter().any(|entry| entry == name));
    listed(&scope.namespaces, copy.namespace)
        && listed(&scope.sources, &format!("{}/{}", copy.namespace, copy.source))
        && listed(&scope.runs, copy.run)
        && scope.from.is_none_or(|from| from <= copy.recovery_point)
        && scope.to.is_none_or(|to| copy.recovery_point <= to)
}

/// What a placing says.
#[derive(Clone, Copy, Debug)]
struct Placing<'a> {
    placed_by: &'a str,
    release_by: ReleaseBy,
    cool_off: SignedDuration,
    scope: &'a HoldScope,
    until: Option<Timestamp>,
}

/// What the records of a hold say together. Records are ordered by their ULIDs, whatever the order in which they were read.
#[derive(Debug, Default)]
struct Placed<'a> {
    /// Each placing since the hold last began: it adds to those before it. An object of the same name that somebody made anew is one of them, so
    /// that it loosens nothing.
    places: Vec<Placing<'a>>,
    released: Option<Timestamp>,
}

impl<'a> Placed<'a> {
    fn of(records: &'a [HoldRecord]) -> Self {
        let mut records: Vec<_> = records.iter().collect();
        records.sort_by(|a, b| a.ulid.cmp(&b.ulid));
        let mut placed = Self::default();
        for record in records {
            placed.add(&record.fact, record.at);
        }
        placed
    }

    fn add(&mut self, fact: &'a HoldFact, at: Timestamp) {
        match fact {
            HoldFact::Place {
                placed_by,
                release_by,
                cool_off,
                scope,
                until,
                ..
            } => {
                // Placed again after its end, it begins anew.
                if self.ends().is_some_and(|end| end <= at) {
                    self.places.clear();
                }
                self.released = None;
                self.places.push(Placing {
                    placed_by,
                    release_by: *release_by,
                    cool_off: cool_off.signed(),
                    scope,
                    until: *until,
                });
            }
            HoldFact::Release {
                released_by, effective_at, ..
            } if self.refuses(released_by).is_none() => {
                let cool_off = self.places.iter().map(|place| place.cool_off).max().unwrap_or_default();
                let cooled = at.checked_add(cool_off).unwrap_or(Timestamp::MAX);
                // A second release cannot bring the end forward.
                self.released = self.released.into_iter().chain([*effective_at, cooled]).max();
            }
            HoldFact::Release { .. } => {}
        }
    }

    /// Why nobody of this name can release it: who placed it lets go of it only where each placing says so.
    fn refuses(&self, released_by: &str) -> Option<String> {
        let placed = self.places.iter().any(|place| place.placed_by == released_by);
        let strict = self.places.iter().find(|place| place.release_by != ReleaseBy::Anyone)?;
        placed.then(|| {
            format!(
                "the release by {released_by} is none: who placed a hold of this name, as {released_by} did, cannot release what {} placed with releaseBy: AnotherPerson",
                strict.placed_by
            )
        })
    }

    /// When it ends: by its release, or by itself where every placing says when; then with the last.
    fn ends(&self) -> Option<Timestamp> {
        let by_itself = self.places.iter().map(|place| place.until.unwrap_or(Timestamp::MAX)).max();
        [by_itself.filter(|until| *until < Timestamp::MAX), self.released]
            .into_iter()
            .flatten()
            .min()
    }
}

/// When the hold of these records ends or ended by a release: the end of the cool-off. None while it is not released, and where it was
/// placed again after the release.
pub fn released_at(records: &[HoldRecord]) -> Option<Timestamp> {
    Placed::of(records).released
}

/// When the hold of these records ends or ended, by its release or by itself; none where only a release can end it.
pub fn ends_at(records: &[HoldRecord]) -> Option<Timestamp> {
    Placed::of(records).ends()
}

/// Whether the hold of these records is in force at `now`: placed, not past every `until` it was placed with, and not released for good.
pub fn in_force(records: &[HoldRecord], now: Timestamp) -> bool {
    let placed = Placed::of(records);
    !placed.places.is_empty() && placed.ends().is_none_or(|end| now < end)
}

/// Whether any placing of the hold names the copy. What a hold names only grows: a later placing adds to the earlier ones, until the hold
/// ended; placed again after that it begins anew.
pub fn any_names(records: &[HoldRecord], copy: &Candidate<'_>) -> bool {
    Placed::of(records).places.iter().any(|place| names(place.scope, copy))
}

/// Why a release by that user would be none, by the records of the hold; none where it counts.
pub fn refuses(records: &[HoldRecord], released_by: &str) -> Option<String> {
    Placed::of(records).refuses(released_by)
}

/// What is to be recorded at `now` of a hold's object, given the hold's records: `place` and, once it is being released, `release` as the object
/// says them. What was said last is not written again; but an object that is there unreleased after a release was recorded, such as one that was
/// applied again, is placed again. A release that would be none is not recorded.
pub fn to_record(records: &[HoldRecord], place: HoldFact, release: Option<HoldFact>, now: Timestamp) -> Vec<HoldFact> {
    let known = |fact: &HoldFact| records.iter().any(|record| record.fact == *fact);
    let again = release.is_none() && released_at(records).is_some();
    let last = records.iter().rev().find(|record| matches!(record.fact, HoldFact::Place { .. }));
    let records_place = again || last.is_none_or(|last| last.fact != place);
    let mut placed = Placed::of(records);
    if records_place {
        placed.add(&place, now);
    }
    let counts = |release: &HoldFact| match release {
        HoldFact::Release { released_by, .. } => placed.refuses(released_by).is_none(),
        HoldFact::Place { .. } => false,
    };
    // A placing after the release had taken its force: then it is said again.
    let release = release.filter(|release| counts(release) && (!known(release) || placed.released.is_none()));
    records_place.then_some(place).into_iter().chain(release).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_crds::{
        Span,
        document::{Label, Ulid},
    };

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn record(when: &str, fact: HoldFact) -> HoldRecord {
        let label = |text: &str| Label::new("test", text).unwrap();
        HoldRecord::new(label("htax-1"), Ulid::new(at(when), [0; 10]), label("pod"), at(when), fact)
    }

    fn place(when: &str, until: Option<&str>, scope: HoldScope) -> HoldRecord {
        let fact = HoldFact::Place {
            namespace: Some("shop".into()),
            name: "tax".into(),
            placed_by: "ann".into(),
            release_by: ReleaseBy::AnotherPerson,
            cool_off: Span::from_hours(24),
            reason: "audit".into(),
            scope,
            until: until.map(at),
        };
        record(when, fact)
    }

    fn release(when: &str, effective: &str) -> HoldRecord {
        let fact = HoldFact::Release {
            released_by: "bob".into(),
            reason: "over".into(),
            effective_at: at(effective),
        };
        record(when, fact)
    }

    #[test]
    fn a_hold_lasts_until_its_cool_off_is_over_and_can_be_placed_again() {
        let placed = place("2026-01-01T00:00:00Z", None, HoldScope::default());
        let released = release("2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z");
        let again = place("2026-03-01T00:00:00Z", None, HoldScope::default());
        let two = [placed.clone(), released.clone()];
        assert!(in_force(&two, at("2026-02-01T23:59:59Z")));
        assert!(!in_force(&two, at("2026-02-02T00:00:00Z")));
        for order in [
            [placed.clone(), released.clone(), again.clone()],
            [again, released.clone(), placed.clone()],
        ] {
            assert!(
                in_force(&order, at("2026-03-02T00:00:00Z")),
                "the order in which records are read does not matter"
            );
        }
        let earlier = release("2026-02-01T12:00:00Z", "2026-02-01T13:00:00Z");
        assert!(
            in_force(&[placed, released, earlier], at("2026-02-01T23:00:00Z")),
            "a second release brings nothing forward"
        );
        assert!(!in_force(&[], at("2026-01-01T00:00:00Z")));
        let ends = place("2026-01-01T00:00:00Z", Some("2026-06-01T00:00:00Z"), HoldScope::default());
        assert!(in_force(std::slice::from_ref(&ends), at("2026-05-31T23:59:59Z")));
        assert!(!in_force(&[ends], at("2026-06-01T00:00:00Z")));
    }

    #[test]
    fn a_hold_that_ended_and_is_placed_again_begins_anew() {
        let copy = Candidate {
            namespace: "shop",
            source: "orders",
            run: "shop/orders/orders-1",
            recovery_point: at("2026-03-01T00:00:00Z"),
        };
        let other = HoldScope {
            sources: Some(vec!["shop/other".into()]),
            ..HoldScope::default()
        };
        let wide = place("2026-01-01T00:00:00Z", None, HoldScope::default());
        let released = release("2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z");
        let narrow = |when| place(when, Some("2026-06-01T00:00:00Z"), other.clone());
        let anew = [wide.clone(), released.clone(), narrow("2026-02-03T00:00:00Z")];
        assert!(!any_names(&anew, &copy));
        assert!(in_force(&anew, at("2026-05-31T23:59:59Z")));
        assert!(
            !in_force(&anew, at("2026-06-01T00:00:00Z")),
            "it ends as it was placed the second time"
        );
        // Within the cool-off the hold never ended: it still names all, and has no end.
        let within = [wide, released, narrow("2026-02-01T12:00:00Z")];
        assert!(any_names(&within, &copy));
        assert!(in_force(&within, at("2026-06-01T00:00:00Z")));
        // Ended by itself, then placed again.
        let ended = [
            place("2026-01-01T00:00:00Z", Some("2026-01-02T00:00:00Z"), HoldScope::default()),
            narrow("2026-02-03T00:00:00Z"),
        ];
        assert!(!any_names(&ended, &copy));
    }

    #[test]
    fn who_makes_a_hold_anew_with_looser_terms_ends_neither_their_own_nor_another_persons() {
        let by = |when: &str, who: &str, release_by: ReleaseBy, cool_off: Span| {
            let mut record = place(when, None, HoldScope::default());
            if let HoldFact::Place {
                placed_by,
                release_by: by,
                cool_off: off,
                ..
            } = &mut record.fact
            {
                (*placed_by, *by, *off) = (who.into(), release_by, cool_off);
            }
            record
        };
        let let_go = |when: &str, who: &str| {
            let mut record = release(when, when);
            if let HoldFact::Release { released_by, .. } = &mut record.fact {
                *released_by = who.into();
            }
            record
        };
        let second = Span::from_seconds(1);
        let strict = |who| by("2026-01-01T00:00:00Z", who, ReleaseBy::AnotherPerson, Span::from_hours(24));
        let loose = |who| by("2026-01-02T00:00:00Z", who, ReleaseBy::Anyone, second);
        let now = at("2026-01-03T00:00:00Z");
        for placer in ["alice", "bob"] {
            let records = [strict(placer), loose("alice")];
            let alice = let_go("2026-01-03T00:00:00Z", "alice");
            // The object is told with its release at once: the looser placing is recorded, the release is not.
            let wanted = to_record(&records[..1], records[1].fact.clone(), Some(alice.fact.clone()), now);
            assert_eq!(wanted, vec![records[1].fact.clone()]);
            assert_eq!(to_record(&records, records[1].fact.clone(), Some(alice.fact.clone()), now), vec![]);
            // Nor does one count that is there all the same.
            let [first, second] = records.clone();
            assert!(in_force(&[first, second, alice], at("2026-06-01T00:00:00Z")), "{placer}");
            assert!(refuses(&records, "alice").unwrap().contains(placer));
            // Another person's does, after the longest cool-off.
            assert_eq!(refuses(&records, "carol"), None);
            let [first, second] = records;
            let released = [first, second, let_go("2026-01-03T00:00:00Z", "carol")];
            assert!(in_force(&released, at("2026-01-03T23:59:59Z")));
            assert!(!in_force(&released, at("2026-01-04T00:00:00Z")));
        }
        // Where each placing says so, who placed it may release it; and a hold of the name that is over binds nobody.
        let own = [loose("alice"), let_go("2026-01-03T00:00:00Z", "alice")];
        assert!(!in_force(&own, at("2026-01-03T00:00:01Z")));
        let anew = by("2026-02-01T00:00:00Z", "alice", ReleaseBy::Anyone, second);
        let over = [strict("bob"), let_go("2026-01-03T00:00:00Z", "carol")];
        let release = let_go("2026-02-01T00:00:00Z", "alice").fact;
        let wanted = to_record(&over, anew.fact.clone(), Some(release.clone()), at("2026-02-01T00:00:00Z"));
        assert_eq!(wanted, vec![anew.fact, release]);
    }

    #[test]
    fn what_an_object_says_is_recorded_once_and_again_when_it_is_applied_again() {
        let fact = |record: &HoldRecord| record.fact.clone();
        let placed = place("2026-01-01T00:00:00Z", None, HoldScope::default());
        let released = release("2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z");
        let (place, release) = (fact(&placed), fact(&released));
        let now = at("2026-02-01T06:00:00Z");
        assert_eq!(to_record(&[], place.clone(), None, now), vec![place.clone()]);
        assert_eq!(to_record(std::slice::from_ref(&placed), place.clone(), None, now), vec![]);
        assert_eq!(
            to_record(std::slice::from_ref(&placed), place.clone(), Some(release.clone()), now),
            vec![release.clone()]
        );
        let both = [placed.clone(), released.clone()];
        assert_eq!(to_record(&both, place.clone(), Some(release.clone()), now), vec![]);
        // The very same object, applied again after its release or within the cool-off.
        assert_eq!(to_record(&both, place.clone(), None, now), vec![place.clone()]);
        let again = record("2026-02-01T12:00:00Z", place.clone());
        let all = [placed, released, again];
        assert_eq!(to_record(&all, place.clone(), None, now), vec![]);
        assert!(in_force(&all, at("2026-03-01T00:00:00Z")));
        assert_eq!(to_record(&all, place, Some(release.clone()), now), vec![release]);
    }

    #[test]
    fn every_field_of_a_scope_must_match_and_a_later_placing_only_adds() {
        let copy = Candidate {
            namespace: "shop",
            source: "orders",
            run: "shop/orders/orders-1",
            recovery_point: at("2026-03-01T00:00:00Z"),
        };
        let list = |text: &str| Some(vec![text.to_owned()]);
        let empty = HoldScope::default();
        assert!(names(&empty, &copy));
        for (scope, expected) in [
            (
                HoldScope {
                    sources: list("shop/orders"),
                    ..empty.clone()
                },
                true,
            ),
            (
                HoldScope {
                    sources: list("other/orders"),
                    ..empty.clone()
                },
                false,
            ),
            (
                HoldScope {
                    namespaces: list("shop"),
                    runs: list("shop/orders/orders-2"),
                    ..empty.clone()
                },
                false,
            ),
            (
                HoldScope {
                    from: Some(at("2026-03-01T00:00:00Z")),
                    to: Some(at("2026-03-01T00:00:00Z")),
                    ..empty.clone()
                },
                true,
            ),
            (
                HoldScope {
                    from: Some(at("2026-03-01T00:00:01Z")),
                    ..empty.clone()
                },
                false,
            ),
            (
                HoldScope {
                    to: Some(at("2026-02-28T23:59:59Z")),
                    ..empty.clone()
                },
                false,
            ),
        ] {
            assert_eq!(names(&scope, &copy), expected, "{scope:?}");
        }
        let narrow = place(
            "2026-04-01T00:00:00Z",
            None,
            HoldScope {
                sources: list("shop/other"),
                ..empty.clone()
            },
        );
        let wide = place("2026-01-01T00:00:00Z", None, empty);
        assert!(any_names(&[wide, narrow.clone()], &copy));
        assert!(!any_names(&[narrow], &copy));
    }
}

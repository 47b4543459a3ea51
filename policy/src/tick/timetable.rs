//! A cron in a zone: its ticks (rule T3).

use jiff::Timestamp;

use super::{
    cron::Cron,
    zone::{Stretch, Zone},
};

/// Longer than the longest wait for a day (see `civil`), in minutes.
const SEARCH_LIMIT: i64 = 10 * 366 * 24 * 60;

/// The ticks of a cron in a zone.
///
/// Where clocks are moved, a cron of fixed times keeps to local time: what the gap skips runs once, at the first valid instant, and what
/// the overlap repeats runs at its first occurrence. A cron that *recurs* (minute or hour is `*` or has a step) follows elapsed time: the
/// overlap's ticks come twice, and times in the gap are read as if clocks had not yet moved: `0 */2` ticks at 00:00 and, two hours
/// later, at 03:00. With an hour of `*` such ticks are those that come anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timetable {
    cron: Cron,
    zone: Zone,
}

impl Timetable {
    pub fn new(cron: Cron, zone: Zone) -> Self {
        Self { cron, zone }
    }

    /// The first tick after `t`. None only towards the end of representable time, in the year 9999.
    pub fn next_after(&self, t: Timestamp) -> Option<Timestamp> {
        timestamp(self.first_from(minute(t).checked_add(1)?)?)
    }

    /// The last tick at or before `t`. None only towards the beginning of representable time.
    pub fn last_until(&self, t: Timestamp) -> Option<Timestamp> {
        timestamp(self.last_until_minute(minute(t))?)
    }

    /// The ticks after `t`, in order.
    pub fn after(&self, t: Timestamp) -> TickIter<'_> {
        TickIter {
            timetable: self,
            last: Some(t),
        }
    }

    /// The ticks in `(a, b]`, in order.
    pub fn between(&self, a: Timestamp, b: Timestamp) -> impl Iterator<Item = Timestamp> {
        self.after(a).take_while(move |tick| *tick <= b)
    }

    fn first_from(&self, from: i64) -> Option<i64> {
        let mut begin = from;
        while begin < from + SEARCH_LIMIT {
            let stretch = self.zone.stretch(begin)?;
            if let Some(tick) = self.first_in(&stretch, begin) {
                return Some(tick);
            }
            begin = stretch.end;
        }
        None
    }

    fn last_until_minute(&self, to: i64) -> Option<i64> {
        let mut end = to;
        while end > to - SEARCH_LIMIT {
            let stretch = self.zone.stretch(end)?;
            if let Some(tick) = self.last_in(&stretch, end) {
                return Some(tick);
            }
            end = stretch.begin.saturating_sub(1);
        }
        None
    }

    /// The first tick of the stretch at or after `from`, which lies in it.
    fn first_in(&self, stretch: &Stretch, from: i64) -> Option<i64> {
        let shift = stretch.shift();
        let local = |from: i64, offset: i64, end: i64| Some(self.cron.first_from(from + offset)? - offset).filter(|tick| *tick < end);
        if self.cron.recurs {
            let of_gap = (shift > 0).then(|| local(from, stretch.before, stretch.end.min(stretch.begin + shift)));
            let usual = local(from, stretch.offset, stretch.end);
            return [of_gap.flatten(), usual].into_iter().flatten().min();
        }
        if from == stretch.begin && self.skipped(stretch) {
            return Some(from);
        }
        local(from.max(first_time(stretch)), stretch.offset, stretch.end)
    }

    /// The last tick of the stretch at or before `to`, which lies in it.
    fn last_in(&self, stretch: &Stretch, to: i64) -> Option<i64> {
        let shift = stretch.shift();
        let local = |to: i64, offset: i64, begin: i64| Some(self.cron.last_until(to + offset)? - offset).filter(|tick| *tick >= begin);
        if self.cron.recurs {
            let of_gap = (shift > 0).then(|| local(to.min(stretch.begin + shift - 1), stretch.before, stretch.begin));
            let usual = local(to, stretch.offset, stretch.begin);
            return [of_gap.flatten(), usual].into_iter().flatten().max();
        }
        local(to, stretch.offset, first_time(stretch)).or_else(|| self.skipped(stretch).then_some(stretch.begin))
    }

    /// Does the gap at the stretch's begin skip a local time that the cron names?
    fn skipped(&self, stretch: &Stretch) -> bool {
        stretch.shift() > 0
            && self
                .cron
                .first_from(stretch.begin + stretch.before)
                .is_some_and(|skipped| skipped < stretch.begin + stretch.offset)
    }
}

/// From when the local times of a stretch come for the first time: after an overlap, those before were there already.
fn first_time(stretch: &Stretch) -> i64 {
    stretch.begin.saturating_add(0.max(-stretch.shift()))
}

/// The ticks of a [`Timetable`] after a time.
#[derive(Clone, Debug)]
pub struct TickIter<'a> {
    timetable: &'a Timetable,
    last: Option<Timestamp>,
}

impl Iterator for TickIter<'_> {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        self.last = self.timetable.next_after(self.last?);
        self.last
    }
}

/// The minute of UTC that `t` lies in, since 1970.
pub(super) fn minute(t: Timestamp) -> i64 {
    let seconds = t.as_second() - i64::from(t.subsec_nanosecond() < 0);
    seconds.div_euclid(60)
}

pub(super) fn timestamp(minute: i64) -> Option<Timestamp> {
    Timestamp::from_second(minute.checked_mul(60)?).ok()
}

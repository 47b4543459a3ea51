//! The rules of retention once more, from their text alone: slow, and of nothing that the planner uses but the types of its facts.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crds::{
    Reason, Retention,
    document::{Acceptance, Label, ScheduleName},
};
use jiff::{
    SignedDuration, Timestamp, ToSpan,
    civil::Date,
    tz::{TimeZone, TimeZoneDatabase},
};

use super::{CopyFacts, CopyType, SourceFacts};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const MINUTES: SignedDuration = SignedDuration::from_mins(5);

/// What the rules say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Says {
    pub kept: BTreeSet<Label>,
    /// New marks, with the time before which the copy is not removed.
    pub mark: BTreeMap<Label, Timestamp>,
    pub unmark: BTreeSet<Label>,
    pub remove: BTreeSet<Label>,
    pub retain: BTreeMap<(Label, String), Timestamp>,
    pub empty: BTreeSet<String>,
    pub blocked: Option<Reason>,
    /// Whether the server changed, as nobody accepted.
    pub identity: bool,
}

struct Model<'a> {
    facts: &'a SourceFacts,
    copies: Vec<&'a CopyFacts>,
    now: Timestamp,
}

fn time_of(copy: &CopyFacts) -> Timestamp {
    copy.tick.unwrap_or(copy.committed_at)
}

fn apart(a: Timestamp, b: Timestamp) -> SignedDuration {
    a.duration_since(b)
}

pub fn says(facts: &SourceFacts) -> Says {
    let mut copies: Vec<_> = facts.copies.iter().collect();
    copies.sort_by_key(|copy| (time_of(copy), copy.run.clone()));
    let model = Model {
        facts,
        copies,
        now: facts.now,
    };
    model.all()
}

impl Model<'_> {
    /// R9: what comes from the future is not believed.
    fn believed(&self, copy: &CopyFacts) -> bool {
        apart(time_of(copy), self.now) <= MINUTES
    }

    /// R0.
    fn good(copy: &CopyFacts) -> bool {
        copy.problem.is_none() && copy.unreadable.is_none()
    }

    fn good_full(&self, copy: &CopyFacts) -> bool {
        copy.copy_type == CopyType::Full && Self::good(copy) && self.believed(copy)
    }

    fn rules(&self, copy: &CopyFacts) -> Option<&super::Rules> {
        self.facts.rules.get(copy.schedule.as_ref()?)
    }

    fn all(&self) -> Says {
        let mut says = Says::default();
        let mut promises = self.promises(&mut says.empty);
        promises.retain(|(_, _, until)| *until > self.now);
        for (run, rule, until) in &promises {
            let copy = self.copies.iter().find(|copy| copy.run == *run).unwrap();
            let known = copy.retained.iter().any(|(known, recorded)| known == rule && recorded >= until);
            let slot = rule.contains(' ') && !rule.starts_with("floor ");
            let uncertain = slot && self.cannot_rely().is_some();
            if !known && !uncertain {
                says.retain.insert((run.clone(), rule.clone()), *until);
            }
        }
        let mut kept: BTreeSet<&Label> = self
            .copies
            .iter()
            .filter(|copy| self.is_locked(copy) || self.is_kept(copy) || promises.iter().any(|(run, _, _)| *run == copy.run))
            .map(|copy| &copy.run)
            .collect();
        self.close(&mut kept);
        says.kept = kept.iter().map(|run| (*run).clone()).collect();
        let unkept: Vec<_> = self.copies.iter().copied().filter(|copy| !kept.contains(&copy.run)).collect();
        says.identity = !self.former_servers().is_empty();
        let unreliable = self.cannot_rely();
        let sick = unreliable.or_else(|| self.sick());
        for copy in &self.copies {
            let Some(mark) = &copy.mark else { continue };
            // A lock of the store ends by itself: the mark waits for it.
            let needed = || self.copies.iter().any(|other| kept.contains(&other.run) && self.needs(other, copy));
            let granted = promises.iter().any(|(run, _, _)| *run == copy.run);
            let wanted = granted || self.is_kept(copy) || needed();
            if wanted || (!kept.contains(&copy.run) && self.made_by_a_wrong_clock(copy, mark)) {
                says.unmark.insert(copy.run.clone());
            }
        }
        if unreliable.is_none() {
            for copy in unkept.iter().filter(|copy| copy.mark.is_none()) {
                let delay = |rules: &super::Rules| rules.retention.deletion_delay.signed();
                let delay = match self.rules(copy) {
                    Some(rules) => delay(rules),
                    None => self.facts.rules.values().map(delay).max().unwrap_or(DAY + DAY),
                };
                says.mark.insert(copy.run.clone(), self.now + delay);
            }
        }
        let due: Vec<_> = unkept
            .iter()
            .copied()
            .filter(|copy| match &copy.mark {
                Some(mark) => mark.not_before <= self.now && !self.made_by_a_wrong_clock(copy, mark),
                None => false,
            })
            .collect();
        let waits = self.waits_for_approval(&due);
        says.blocked = sick.or_else(|| (!waits.is_empty()).then_some(Reason::RemovalNeedsApproval));
        if sick.is_none() {
            let mut stay: BTreeSet<&Label> = self
                .copies
                .iter()
                .map(|copy| &copy.run)
                .filter(|run| !due.iter().any(|copy| copy.run == **run) || waits.contains(*run))
                .collect();
            self.close(&mut stay);
            says.remove = due
                .iter()
                .map(|copy| &copy.run)
                .filter(|run| !stay.contains(*run))
                .cloned()
                .collect();
        }
        says
    }

    fn made_by_a_wrong_clock(&self, copy: &CopyFacts, mark: &super::Mark) -> bool {
        let future = |at| apart(at, self.now) > MINUTES;
        future(mark.at) || (!future(copy.committed_at) && apart(copy.committed_at, mark.at) > MINUTES)
    }

    /// R3: the store refuses.
    fn is_locked(&self, copy: &CopyFacts) -> bool {
        copy.legal_hold || copy.locked_until.is_some_and(|until| self.now <= until)
    }

    /// R3, but for the store's lock, for rules that say until when, and for what others need.
    fn is_kept(&self, copy: &CopyFacts) -> bool {
        let born = if apart(copy.committed_at, self.now) <= MINUTES {
            copy.committed_at
        } else {
            time_of(copy)
        };
        let no_rule = match self.rules(copy) {
            None => copy.keep_until.is_none(),
            Some(rules) => says_nothing(&rules.retention) && copy.keep_until.is_none(),
        };
        !copy.holds.is_empty()
            || copy.in_use
            || copy.unreadable.is_some()
            || copy.copy_type == CopyType::Unknown
            || no_rule
            || !self.believed(copy)
            || apart(self.now, born) < DAY
            || copy.reading_until.is_some_and(|until| self.now < until)
            || copy.retained.iter().any(|(_, until)| self.now < *until)
            || self.newest(|_| true, self.min_good()).contains(&&copy.run)
            || self.of_former_server(copy)
            || self.last(copy)
            || self.window(copy)
    }

    /// The newest good fulls of those.
    fn newest(&self, of: impl Fn(&CopyFacts) -> bool, count: usize) -> Vec<&Label> {
        let newest_first = self.copies.iter().rev();
        newest_first
            .filter(|copy| self.good_full(copy) && of(copy))
            .take(count)
            .map(|copy| &copy.run)
            .collect()
    }

    /// The servers that the source had before, until somebody accepts that each became, over others perhaps, the one of the newest good full
    /// that tells its server.
    fn former_servers(&self) -> BTreeSet<&str> {
        let told = |copy: &&&CopyFacts| self.good_full(copy) && copy.server.is_some();
        let Some(now) = self.copies.iter().rev().find(told).and_then(|copy| copy.server.as_deref()) else {
            return BTreeSet::new();
        };
        let became = |server: &str| {
            let mut reached = BTreeSet::from([server.to_owned()]);
            for _ in &self.facts.accepted {
                for accepted in &self.facts.accepted {
                    if let Acceptance::Server { was, is } = accepted
                        && reached.contains(was)
                    {
                        reached.insert(is.clone());
                    }
                }
            }
            reached.contains(now)
        };
        let servers = self.copies.iter().filter(told).filter_map(|copy| copy.server.as_deref());
        servers.filter(|server| self.facts.retired.is_none() && !became(server)).collect()
    }

    fn of_former_server(&self, copy: &CopyFacts) -> bool {
        let former = copy.server.as_deref().is_some_and(|server| self.former_servers().contains(server));
        former
            && self
                .newest(|other| other.server == copy.server, self.min_good())
                .contains(&&copy.run)
    }

    fn min_good(&self) -> usize {
        let floor = self
            .facts
            .floors
            .iter()
            .map(|floor| floor.good_copies.unwrap_or(0))
            .max()
            .unwrap_or(0) as usize;
        if self.facts.retired.is_some() {
            return floor;
        }
        let rules = self.facts.rules.values().map(|rules| rules.retention.min_good.max(1)).max();
        floor.max(usize::try_from(rules.unwrap_or(2)).unwrap())
    }

    fn last(&self, copy: &CopyFacts) -> bool {
        let count = self
            .rules(copy)
            .filter(|rules| !says_nothing(&rules.retention))
            .and_then(|rules| rules.retention.keep_last);
        count.is_some_and(|count| {
            self.newest(|other| other.schedule == copy.schedule, usize::try_from(count).unwrap())
                .contains(&&copy.run)
        })
    }

    /// The logs with which every moment of `keepWithin` can be restored, and what they are replayed onto.
    fn window(&self, copy: &CopyFacts) -> bool {
        let Some(within) = self.rules(copy).and_then(|rules| rules.retention.keep_within) else {
            return false;
        };
        let begin = self.now - within.signed();
        let family: Vec<_> = self
            .copies
            .iter()
            .filter(|other| other.schedule == copy.schedule && other.server == copy.server)
            .collect();
        let base = family
            .iter()
            .filter(|other| self.good_full(other) && other.recovery_point <= begin)
            .max_by_key(|other| (other.recovery_point, time_of(other), &other.run));
        let logs = family.iter().any(|other| other.copy_type == CopyType::Log);
        base.is_some_and(|base| {
            logs && (copy.run == base.run || (copy.copy_type == CopyType::Log && copy.recovery_point > base.recovery_point))
        })
    }

    /// Whether `a` cannot be restored without `b`.
    fn needs(&self, a: &CopyFacts, b: &CopyFacts) -> bool {
        if a.run == b.run {
            return false;
        }
        if a.parents.contains(&b.manifest) {
            return true;
        }
        let parents: Vec<_> = self.copies.iter().filter(|other| a.parents.contains(&other.manifest)).collect();
        if a.copy_type != CopyType::Log || parents.iter().any(|parent| parent.copy_type == CopyType::Log) {
            return false;
        }
        let by_point = |copy: &&&CopyFacts| (copy.recovery_point, time_of(copy), copy.run.clone());
        let base = parents.iter().copied().max_by_key(by_point).or_else(|| {
            self.copies
                .iter()
                .filter(|full| full.copy_type == CopyType::Full && Self::good(full) && full.server == a.server)
                .filter(|full| full.recovery_point <= a.recovery_point)
                .max_by_key(by_point)
        });
        base.is_some_and(|base| {
            let key = |copy: &CopyFacts| (copy.recovery_point, time_of(copy), copy.run.clone());
            b.run == base.run
                || (b.copy_type == CopyType::Log && b.server == a.server && b.recovery_point > base.recovery_point && key(b) < key(a))
        })
    }

    /// Adds what those need, until nothing is missing.
    fn close<'b>(&'b self, kept: &mut BTreeSet<&'b Label>) {
        loop {
            let more: Vec<_> = self
                .copies
                .iter()
                .filter(|copy| !kept.contains(&copy.run))
                .filter(|copy| self.copies.iter().any(|other| kept.contains(&other.run) && self.needs(other, copy)))
                .map(|copy| &copy.run)
                .collect();
            if more.is_empty() {
                return;
            }
            kept.extend(more);
        }
    }

    /// R1, R2, T8: which rule keeps which copy until when.
    fn promises(&self, empty: &mut BTreeSet<String>) -> Vec<(Label, String, Timestamp)> {
        let mut promises = Vec::new();
        for copy in &self.copies {
            let mut promise = |rule: &str, until| promises.push((copy.run.clone(), rule.to_owned(), until));
            if let Some(until) = copy.keep_until {
                promise("keepFor", until);
            }
            for floor in &self.facts.floors {
                if let Some(retention) = floor.retention.filter(|_| self.believed(copy)) {
                    promise(&format!("floor {}", floor.policy), time_of(copy) + retention);
                }
            }
            if let Some(within) = self.rules(copy).and_then(|rules| rules.retention.keep_within)
                && Self::good(copy)
                && self.believed(copy)
            {
                promise("keepWithin", time_of(copy) + within.signed());
            }
        }
        for (schedule, rules) in &self.facts.rules {
            for (word, count) in [
                ("hourly", rules.retention.hourly),
                ("daily", rules.retention.daily),
                ("weekly", rules.retention.weekly),
                ("monthly", rules.retention.monthly),
                ("quarterly", rules.retention.quarterly),
                ("yearly", rules.retention.yearly),
            ] {
                if let Some(count) = count {
                    promises.extend(self.slots(schedule, rules.zone.name(), word, i64::from(count), empty));
                }
            }
        }
        promises
    }

    fn slots(
        &self,
        schedule: &ScheduleName,
        zone: &str,
        word: &str,
        count: i64,
        empty: &mut BTreeSet<String>,
    ) -> Vec<(Label, String, Timestamp)> {
        let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
        let ours: Vec<_> = self.copies.iter().filter(|copy| copy.schedule.as_ref() == Some(schedule)).collect();
        let slots: BTreeSet<_> = ours
            .iter()
            .filter(|copy| copy.copy_type == CopyType::Full)
            .map(|copy| {
                let (name, end) = slot(word, time_of(copy), 1, &zone);
                let (_, until) = slot(word, time_of(copy), count, &zone);
                (name, end, until)
            })
            .collect();
        let mut promises = Vec::new();
        for (name, end, until) in slots {
            if until <= self.now {
                continue;
            }
            let rule = format!("{word} {name}");
            let has = |copy: &CopyFacts| copy.retained.iter().any(|(known, _)| *known == rule);
            let first = ours
                .iter()
                .find(|copy| copy.copy_type == CopyType::Full && self.good_full(copy) && slot(word, time_of(copy), 1, &zone).0 == name);
            let owner = if let Some(owner) = ours.iter().find(|copy| has(copy) && self.good_full(copy)) {
                Some(owner)
            } else if let Some(demoted) = ours.iter().rev().find(|copy| has(copy)) {
                let good = ours.iter().filter(|copy| self.good_full(copy));
                good.min_by_key(|copy| (apart(time_of(copy), time_of(demoted)).abs(), time_of(copy), &copy.run))
            } else {
                let pending = first.map_or(end, |first| time_of(first)) + DAY > self.now;
                if pending {
                    continue;
                }
                first
            };
            if let Some(owner) = owner {
                promises.push((owner.run.clone(), rule, until));
                continue;
            }
            let whose = if schedule.namespace.is_some() { "" } else { "cluster schedule " };
            empty.insert(match self.facts.rules.len() {
                1 => rule,
                _ => format!("{rule} of {whose}{}", schedule.name),
            });
        }
        promises
    }

    /// R6.
    fn cannot_rely(&self) -> Option<Reason> {
        if !self.facts.problems.is_empty() || self.copies.iter().any(|copy| copy.unreadable.is_some()) {
            return Some(Reason::CatalogueUnreadable);
        }
        let runs: BTreeSet<_> = self.copies.iter().map(|copy| &copy.run).collect();
        if runs.len() < self.copies.len() {
            return Some(Reason::CatalogueUnreadable);
        }
        let there = |parent| self.copies.iter().any(|copy| copy.manifest == parent);
        let orphan = self.copies.iter().any(|copy| copy.parents.iter().any(|parent| !there(*parent)));
        let counted = self.facts.counted_at;
        let left: BTreeSet<_> = self
            .copies
            .iter()
            .filter(|copy| counted.is_none_or(|counted| apart(copy.committed_at, counted) <= SignedDuration::ZERO))
            .map(|copy| format!("{} {}\n", copy.run, copy.outcome))
            .collect();
        let lost = self.facts.copies_before.filter(|before| *before > left.len() as u64);
        let accepted = lost.is_some_and(|before| {
            let of = |text: &str| holdfast_crds::document::Sha256::of(text.as_bytes());
            let counted = counted.map_or("-".to_owned(), |counted| counted.to_string());
            let lines: Vec<_> = left.iter().map(String::as_str).collect();
            let set = of(&format!("{before} {counted} {}\n", of(&lines.concat())));
            self.facts.accepted.contains(&Acceptance::Loss { set })
        });
        if orphan || (lost.is_some() && !accepted) {
            return Some(Reason::CopiesMissing);
        }
        self.facts.untold.as_ref().map(|_| Reason::KeeperTaskTooLarge)
    }

    /// R8.
    fn sick(&self) -> Option<Reason> {
        if self.facts.retired.is_some() {
            return None;
        }
        let good: Vec<_> = self.copies.iter().filter(|copy| self.good_full(copy)).collect();
        let mine = |gone| {
            let rules = self
                .copies
                .iter()
                .filter_map(|copy| self.rules(copy))
                .filter(move |rules| rules.gone == gone);
            rules.filter_map(|rules| rules.interval).min()
        };
        let all = self
            .facts
            .rules
            .values()
            .filter(|rules| !rules.gone)
            .filter_map(|rules| rules.interval);
        if let Some(interval) = mine(false).or(mine(true)).or(all.min()) {
            match good.last() {
                Some(newest) if apart(self.now, time_of(newest)) > interval + interval => return Some(Reason::CopyTooOld),
                None if !self.copies.is_empty() => return Some(Reason::CopyTooOld),
                _ => {}
            }
        }
        let expected = (0..good.len()).fold(Vec::new(), |mut expected, which| {
            expected.push(self.as_expected(&good, &expected, which));
            expected
        });
        (expected.last() == Some(&false)).then_some(Reason::SizeAnomalous)
    }

    /// R8: whether the size of that one of the good fulls is accepted, or like those of seven before it (median) that were as expected
    /// themselves, or like the last that was accepted. Whatever was there ten minutes before a removal was as expected.
    fn as_expected(&self, good: &[&&CopyFacts], expected: &[bool], which: usize) -> bool {
        let accepted = |copy: &CopyFacts| self.facts.accepted.contains(&Acceptance::Size { run: copy.run.clone() });
        let copy = good[which];
        let was_there = |removed: Timestamp| apart(removed, copy.committed_at) >= MINUTES + MINUTES;
        if accepted(copy) || self.facts.removed_at.is_some_and(was_there) {
            return true;
        }
        let like = |bytes: u64| (bytes.div_ceil(2)..=bytes * 2).contains(&copy.bytes);
        if good[..which]
            .iter()
            .rev()
            .find(|copy| accepted(copy))
            .is_some_and(|copy| like(copy.bytes))
        {
            return true;
        }
        let before = (0..which).rev().filter(|before| expected[*before]).take(7);
        let mut sizes: Vec<_> = before.map(|before| good[before].bytes).collect();
        sizes.sort_unstable();
        sizes.get(sizes.len() / 2).is_none_or(|median| like(*median))
    }

    /// R7: what rules that were new when it was marked would take, if that is much.
    fn waits_for_approval(&self, due: &[&CopyFacts]) -> BTreeSet<Label> {
        let chain = |copy: &CopyFacts| {
            let mut at = copy;
            while let Some(next) = self.copies.iter().find(|other| self.names_or_follows(at, other)) {
                at = next;
            }
            at.run.clone()
        };
        let chains = |copies: &mut dyn Iterator<Item = &CopyFacts>| copies.map(chain).collect::<BTreeSet<_>>().len();
        let bytes = |copies: &mut dyn Iterator<Item = &CopyFacts>| copies.map(|copy| copy.bytes).sum::<u64>();
        // Marks that no promise's end explains, and those of the same pass: within minutes of each other, from one to the next.
        let unexplained: Vec<&CopyFacts> = self
            .copies
            .iter()
            .copied()
            .filter(|copy| {
                let end = copy.retained.iter().map(|(_, until)| *until).max();
                copy.mark
                    .as_ref()
                    .is_some_and(|mark| !end.is_some_and(|end| end <= mark.at && apart(mark.at, end) <= DAY + DAY))
            })
            .collect();
        let marked_at = |copy: &CopyFacts| copy.mark.as_ref().unwrap().at;
        let same_pass = |copy: &CopyFacts| {
            let mut pass = vec![copy];
            let mut next = 0;
            while let Some(of) = pass.get(next).copied() {
                for other in &unexplained {
                    if apart(marked_at(of), marked_at(other)).abs() <= MINUTES && !pass.iter().any(|known| known.run == other.run) {
                        pass.push(*other);
                    }
                }
                next += 1;
            }
            chains(&mut pass.into_iter())
        };
        let many = 5.max(chains(&mut self.copies.iter().copied()) / 10);
        let new: Vec<_> = due
            .iter()
            .filter(|copy| {
                let by_rules = self.rules(copy).is_some_and(|rules| marked_at(copy) < rules.since + DAY);
                let unexplained = unexplained.iter().any(|other| other.run == copy.run);
                by_rules || (unexplained && same_pass(copy) > many)
            })
            .collect();
        if new.is_empty() {
            return BTreeSet::new();
        }
        let (gone, all) = (chains(&mut new.iter().map(|copy| **copy)), chains(&mut self.copies.iter().copied()));
        let good: Vec<_> = self.copies.iter().filter(|copy| self.good_full(copy)).collect();
        let last = !good.is_empty() && good.iter().all(|copy| due.iter().any(|other| other.run == copy.run));
        let much =
            gone > 5.max(all / 10) || bytes(&mut new.iter().map(|copy| **copy)) * 2 > bytes(&mut self.copies.iter().copied()) || last;
        let mut lines: Vec<_> = new.iter().map(|copy| format!("{} {}\n", copy.run, copy.outcome)).collect();
        lines.sort();
        let set = holdfast_crds::document::Sha256::of(lines.concat().as_bytes());
        if !much || self.facts.accepted.contains(&Acceptance::Removal { set }) {
            return BTreeSet::new();
        }
        new.iter().map(|copy| copy.run.clone()).collect()
    }

    /// What a chain is followed along: parents, and of a log the copy that it is replayed onto.
    fn names_or_follows(&self, a: &CopyFacts, b: &CopyFacts) -> bool {
        self.needs(a, b) && (a.parents.contains(&b.manifest) || b.copy_type != CopyType::Log)
    }
}

fn says_nothing(retention: &Retention) -> bool {
    retention.keeps_everything()
}

/// The name of the slot that `at` lies in, and when the one that comes `count` later begins.
fn slot(word: &str, at: Timestamp, count: i64, zone: &TimeZone) -> (String, Timestamp) {
    let date = at.to_zoned(zone.clone()).date();
    let begin = |date: Date| date.to_zoned(zone.clone()).unwrap().timestamp();
    let (year, month) = (date.year(), date.month());
    match word {
        "hourly" => {
            let hour = at.as_second().div_euclid(3600);
            let name = Timestamp::from_second(hour * 3600).unwrap().strftime("%Y-%m-%dT%HZ").to_string();
            (name, Timestamp::from_second((hour + count) * 3600).unwrap())
        }
        "daily" => (date.to_string(), begin(date + count.days())),
        "weekly" => {
            let week = date.iso_week_date();
            let monday = date - i64::from(date.weekday().to_monday_zero_offset()).days();
            (format!("{}-W{:02}", week.year(), week.week()), begin(monday + count.weeks()))
        }
        "monthly" => (format!("{year}-{month:02}"), begin(date.first_of_month() + count.months())),
        "quarterly" => {
            let quarter = (month - 1) / 3;
            let first = Date::new(year, quarter * 3 + 1, 1).unwrap();
            (format!("{year}-Q{}", quarter + 1), begin(first + (3 * count).months()))
        }
        _ => (year.to_string(), begin(date.first_of_year() + count.years())),
    }
}

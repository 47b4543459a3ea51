//! Names that are the same whenever they are computed: of runs (rule T1) and of Jobs.

use std::fmt;

use jiff::{Timestamp, tz::Offset};

/// The longest name of a Job: Kubernetes derives the name and a label of its pod from it.
pub const JOB_NAME_LIMIT: usize = 58;

const SOURCE_PART: usize = 17;
const TRIGGER_PART: usize = 10;
const HASH_PART: usize = 8;
const COPY_PART: usize = 20;

/// A DNS label (RFC 1123): the name of a namespace, source, store, schedule or trigger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Why a text is no [`Label`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}, expected at most {limit} of a-z, 0-9 and -, beginning and ending with a letter or digit; choose another name")]
pub struct LabelError {
    /// The text, its first 80 characters.
    pub found: String,
    /// How long it may be.
    pub limit: usize,
}

impl Label {
    /// How long a label may be.
    pub const LIMIT: usize = 63;
    /// How long the name of a trigger may be.
    pub const TRIGGER_LIMIT: usize = 20;

    /// A namespace, source, store or schedule: at most 63 characters.
    pub fn new(text: &str) -> Result<Self, LabelError> {
        Self::of_at_most(Self::LIMIT, text)
    }

    /// The name of a trigger: at most 20 characters.
    pub fn trigger(text: &str) -> Result<Self, LabelError> {
        Self::of_at_most(Self::TRIGGER_LIMIT, text)
    }

    fn of_at_most(limit: usize, text: &str) -> Result<Self, LabelError> {
        let inner = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if text.is_empty() || text.len() > limit || !inner || text.starts_with('-') || text.ends_with('-') {
            return Err(LabelError {
                found: text.chars().take(80).collect(),
                limit,
            });
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first `length` characters, without the dashes that this leaves at the end.
    fn cut(&self, length: usize) -> &str {
        self.0[..self.0.len().min(length)].trim_end_matches('-')
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Label {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The name of the run of one tick: `<source, 17>-<trigger, 10>-<yyyymmdd>t<hhmm>z-<8 of base32>`, at most 52 characters.
///
/// The parts are cut first; the hash is over the uncut namespace, schedule, trigger and source, so that equal parts do not make equal
/// names. Seconds of `tick` are ignored: a tick is a whole minute, from 1970 to 9999.
pub fn run_name(namespace: &Label, schedule: &Label, trigger: &Label, source: &Label, tick: Timestamp) -> String {
    let minute = Offset::UTC.to_datetime(tick);
    let hash = base32(&[
        "holdfast.dev run name v1",
        namespace.as_str(),
        schedule.as_str(),
        trigger.as_str(),
        source.as_str(),
    ]);
    format!(
        "{}-{}-{:04}{:02}{:02}t{:02}{:02}z-{hash}",
        source.cut(SOURCE_PART),
        trigger.cut(TRIGGER_PART),
        minute.year().max(0),
        minute.month(),
        minute.day(),
        minute.hour(),
        minute.minute(),
    )
}

/// What the copy Jobs of one source and target store are named after: `<source, 20>-<store, 20>-<8 of base32>`, at most 50 characters.
/// The hash is over the uncut source, kind and name of the store.
pub fn copy_name(source: &str, kind: &str, store: &str) -> String {
    let cut = |text: &str| {
        let mut end = text.len().min(COPY_PART);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text[..end].trim_end_matches(['-', '.']).to_owned()
    };
    let hash = base32(&["holdfast.dev copy name v1", source, kind, store]);
    format!("{}-{}-{hash}", cut(source), cut(store))
}

/// What a Job is for; the letter in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobPurpose {
    /// `-b<n>`: an attempt of a run.
    Backup,
    /// `-s<n>`: settles what is in doubt.
    Settle,
    /// `-r<n>`: an attempt of a restore.
    Restore,
    /// `-p<n>`: a store's probe.
    Probe,
    /// `-k<n>`: a pass of a store's keeper.
    Keep,
    /// `-cp<n>`: the probe of a store of the cluster, beside those of the namespace's own stores.
    ClusterProbe,
    /// `-ck<n>`: a pass of the keeper of a store of the cluster.
    ClusterKeep,
    /// `-c<n>`: copies of one source from store to store.
    Copy,
    /// `-v<n>`: a preview of what such a pass would do.
    Preview,
}

impl JobPurpose {
    fn letter(self) -> &'static str {
        match self {
            Self::Backup => "b",
            Self::Settle => "s",
            Self::Restore => "r",
            Self::Probe => "p",
            Self::Keep => "k",
            Self::ClusterProbe => "cp",
            Self::ClusterKeep => "ck",
            Self::Copy => "c",
            Self::Preview => "v",
        }
    }
}

/// The name of the `n`th Job for the run, request or store `of`: `<of>-<letter><n>`, at most 58 characters.
///
/// A name too long (one that a person gave) is cut, and 8 characters of its hash stand for the rest.
pub fn job_name(of: &str, purpose: JobPurpose, n: u32) -> String {
    let suffix = format!("-{}{n}", purpose.letter());
    let room = JOB_NAME_LIMIT - suffix.len();
    if of.len() <= room {
        return format!("{of}{suffix}");
    }
    let hash = base32(&["holdfast.dev job name v1", of]);
    let mut end = room - HASH_PART - 1;
    while !of.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}{suffix}", of[..end].trim_end_matches(['-', '.']))
}

/// 40 bits of BLAKE3 in the alphabet of RFC 4648, lower case. The parts hold no line feed, so that they cannot run into each other.
fn base32(parts: &[&str]) -> String {
    let digest = blake3::hash(parts.join("\n").as_bytes());
    let bits = digest.as_bytes()[..5].iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let digit = |place: usize| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(bits >> (5 * place) & 31) as usize]);
    (0..HASH_PART).rev().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn run_names_are_what_the_rule_says() {
        let tick = at("2026-11-20T22:10:00Z");
        let name =
            |namespace, schedule, trigger, source| run_name(&label(namespace), &label(schedule), &label(trigger), &label(source), tick);
        // Written down once: a change of this value would make every tick around an upgrade run twice.
        assert_eq!(name("shop", "gold", "nightly", "shop"), "shop-nightly-20261120t2210z-xbgl5dwz");
        assert_eq!(
            name("shop", "gold", "every-quar-hour", "orders-database-0-eu"),
            "orders-database-0-every-quar-20261120t2210z-7b6em2gp"
        );
        // The cut falls on a dash: it goes with what follows.
        assert_eq!(
            name("shop", "gold", "nightly-0-x", "abcdefghijklmnop-q"),
            "abcdefghijklmnop-nightly-0-20261120t2210z-v554fomz"
        );
    }

    #[test]
    fn each_part_counts_also_beyond_the_cut() {
        let tick = at("2026-11-20T22:10:00Z");
        let long = "a".repeat(62);
        let other = format!("{long}b");
        let mut names = BTreeSet::new();
        for parts in [
            ["n", "s", "t", "x"],
            ["n", "s", "x", "t"],
            ["m", "s", "t", "x"],
            ["n", "r", "t", "x"],
            ["n", "s", "t", &long],
            ["n", "s", "t", &other],
            ["n", &long, "t", "x"],
            ["n", &other, "t", "x"],
        ] {
            let [namespace, schedule, trigger, source] = parts.map(label);
            assert!(names.insert(run_name(&namespace, &schedule, &trigger, &source, tick)), "{parts:?}");
        }
    }

    #[test]
    fn seconds_do_not_make_another_run() {
        let name = |tick| run_name(&label("n"), &label("s"), &label("t"), &label("x"), at(tick));
        assert_eq!(name("2026-01-01T00:00:59.9Z"), name("2026-01-01T00:00:00Z"));
        assert_ne!(name("2026-01-01T00:01:00Z"), name("2026-01-01T00:00:00Z"));
    }

    #[test]
    fn labels() {
        for text in ["a", "0", "a-b", &"x".repeat(63)] {
            assert_eq!(Label::new(text).unwrap().as_str(), text);
        }
        for text in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(Label::new(text).unwrap_err().to_string().contains("at most 63"), "{text}");
        }
        assert!(Label::trigger(&"x".repeat(20)).is_ok());
        assert!(Label::trigger(&"x".repeat(21)).unwrap_err().to_string().contains("at most 20"));
    }

    #[test]
    fn job_names() {
        assert_eq!(job_name("shop", JobPurpose::Backup, 1), "shop-b1");
        assert_eq!(job_name("shop", JobPurpose::Settle, 12), "shop-s12");
        assert_eq!(job_name("shop", JobPurpose::Restore, 3), "shop-r3");
        assert_eq!(job_name("offsite", JobPurpose::Probe, 4), "offsite-p4");
        let full = "a".repeat(55);
        assert_eq!(job_name(&full, JobPurpose::Backup, 1), format!("{full}-b1"));
        // One character more than fits: the name is cut, and told apart by its hash.
        let long = "a".repeat(56);
        let cut = job_name(&long, JobPurpose::Backup, 1);
        assert_eq!((cut.len(), &cut[..47]), (58, &*format!("{}-", "a".repeat(46))));
        assert_ne!(cut, job_name(&format!("{}b", "a".repeat(55)), JobPurpose::Backup, 1));
    }

    #[test]
    fn copy_jobs_of_two_pairs_never_share_a_name() {
        let long = "x".repeat(40);
        let mut names = BTreeSet::new();
        for (source, kind, store) in [
            ("a", "BackupStore", "b-c"),
            ("a-b", "BackupStore", "c"),
            ("a", "ClusterBackupStore", "b-c"),
            (&*long, "BackupStore", &*long),
            (&*long, "BackupStore", &*format!("{long}x")),
        ] {
            let name = job_name(&copy_name(source, kind, store), JobPurpose::Copy, 7);
            assert!(name.ends_with("-c7") && Label::new(&name).is_ok(), "{name}");
            assert!(names.insert(name), "{source} {kind} {store}");
        }
    }

    proptest! {
        #[test]
        fn names_are_labels_and_fit(
            parts in ("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?", "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"),
            minute in 0_i64..4_000_000_000,
            n in 0_u32..10_000,
        ) {
            let (namespace, schedule, trigger, source) = parts;
            let tick = Timestamp::from_second(minute * 60).unwrap();
            let run = run_name(&label(&namespace), &label(&schedule), &Label::trigger(&trigger).unwrap(), &label(&source), tick);
            prop_assert!(run.len() <= 52, "{run}");
            prop_assert!(Label::new(&run).is_ok(), "{run}");
            // A run's own Job names never need the cut.
            prop_assert_eq!(job_name(&run, JobPurpose::Backup, n), format!("{run}-b{n}"));
        }

        #[test]
        fn job_names_fit_whatever_they_are_for(of in "[a-z0-9]([-a-z0-9]{0,100}[a-z0-9])?", n: u32) {
            let name = job_name(&of, JobPurpose::Restore, n);
            prop_assert!(name.len() <= JOB_NAME_LIMIT);
            prop_assert!(Label::new(&name).is_ok(), "{name}");
        }

        #[test]
        fn any_text_is_cut_without_a_panic(of: String, n: u32) {
            prop_assert!(job_name(&of, JobPurpose::Probe, n).len() <= JOB_NAME_LIMIT);
        }
    }
}

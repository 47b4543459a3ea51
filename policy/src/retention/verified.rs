//! What verification records say about a copy together (R0).

use holdfast_crds::document::{Fact, Record, VerifyLevel};

/// What is wrong with a copy by its `verified` records, in whatever order they were read: the last failure, as long as no later look at the
/// same depth or a deeper one found all well. A look that could not be tried leaves no record.
pub fn standing_problem(records: &[Record]) -> Option<String> {
    let mut looks: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.fact {
            Fact::Verified { level, problem } => Some((&record.ulid, depth(level), level, problem)),
            _ => None,
        })
        .collect();
    looks.sort_by(|a, b| a.0.cmp(b.0));
    let mut standing: Option<(u8, String)> = None;
    for (_, depth, level, problem) in looks {
        match (problem, &standing) {
            (Some(problem), before) => {
                let deepest = before.as_ref().map_or(depth, |(before, _)| depth.max(*before));
                standing = Some((deepest, format!("{problem} (found at level {level})")));
            }
            (None, Some((failed, _))) if depth >= *failed => standing = None,
            (None, _) => {}
        }
    }
    standing.map(|(_, problem)| problem)
}

/// A level of a later version proves no more than the least.
fn depth(level: &VerifyLevel) -> u8 {
    match level {
        VerifyLevel::Manifest | VerifyLevel::Other(_) => 0,
        VerifyLevel::Digest => 1,
        VerifyLevel::Decode => 2,
        VerifyLevel::Scratch => 3,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_crds::document::{Label, RunPath, Ulid};
    use jiff::{SignedDuration, Timestamp};

    use super::*;

    fn look(hour: i64, level: VerifyLevel, problem: Option<&str>) -> Record {
        let at = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(500_000 + hour);
        let fact = Fact::Verified {
            level,
            problem: problem.map(str::to_owned),
        };
        let run = RunPath::new("shop", "orders", "orders-1").unwrap();
        Record::new(run, Ulid::new(at, [0; 10]), Label::new("pod", "p").unwrap(), at, None, fact)
    }

    #[test]
    fn verification_out_of_order_is_judged_in_order() {
        use VerifyLevel::{Decode, Digest, Manifest, Scratch};
        let bad = Some("a bit flipped");
        let table: [(Vec<Record>, bool); 8] = [
            (vec![], true),
            (vec![look(1, Digest, bad)], false),
            (vec![look(1, Digest, bad), look(2, Digest, None)], true),
            (vec![look(2, Digest, bad), look(1, Digest, None)], false),
            (vec![look(1, Digest, bad), look(2, Manifest, None)], false),
            (vec![look(1, Digest, bad), look(2, Scratch, None)], true),
            (vec![look(1, Decode, bad), look(2, Manifest, bad), look(3, Digest, None)], false),
            (
                vec![look(1, Scratch, None), look(2, VerifyLevel::Other("later".into()), bad)],
                false,
            ),
        ];
        for (mut records, good) in table {
            for _ in 0..2 {
                assert_eq!(standing_problem(&records).is_none(), good, "{records:#?}");
                records.reverse();
            }
        }
    }
}

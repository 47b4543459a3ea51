//! How many copies each source had at the last pass, beside the sources' own status, which goes with their objects. Pure.

use std::collections::BTreeMap;

use holdfast_crds::{CountedSource, KEEP_LIMIT, KeepLine, KeepSource, KeepSummary, Reason, SourceReport, document::Label};

/// Whether what the pass found of the source is no measure for the next: it could not be counted, is fewer than it has to be, or the pass was
/// not told how many have to be there although that is `known`.
pub fn missed(source: &SourceReport, known: bool) -> bool {
    let blocked = source.blocked.as_ref().map(|blocked| blocked.reason);
    let uncounted = matches!(blocked, Some(Reason::CopiesMissing | Reason::CatalogueUnreadable));
    source.unread || uncounted || (known && source.uncompared)
}

/// What was counted before, as this report says it anew. Of what a pass to its end tells nothing, there is nothing any more.
pub fn after(before: &[CountedSource], summary: &KeepSummary, report: &[KeepLine], to_its_end: bool) -> Vec<CountedSource> {
    let known = before.iter().map(|counted| ((&*counted.namespace, &*counted.source), counted));
    let known: BTreeMap<_, _> = known.collect();
    let mut counted = BTreeMap::new();
    if !to_its_end {
        counted.extend(known.iter().map(|(place, counted)| (*place, (*counted).clone())));
    }
    for line in report {
        let KeepLine::Source(source) = line else { continue };
        let place = (&*source.namespace, &*source.source);
        if missed(source, known.contains_key(&place)) {
            counted.extend(known.get(&place).map(|counted| (place, (*counted).clone())));
        } else if source.found == 0 {
            counted.remove(&place);
        } else {
            counted.insert(
                place,
                CountedSource {
                    namespace: source.namespace.clone(),
                    source: source.source.clone(),
                    copies: source.found,
                    as_of: summary.started_at.clone(),
                },
            );
        }
    }
    counted.into_values().take(KEEP_LIMIT).collect()
}

/// Tells the keeper what was counted of sources, where their own objects do not.
pub fn tell(counted: &[CountedSource], told: &mut Vec<KeepSource>) {
    let place = |source: &KeepSource| (source.namespace.to_string(), source.source.to_string());
    let known: BTreeMap<_, _> = told.iter().enumerate().map(|(number, source)| (place(source), number)).collect();
    for counted in counted {
        let (copies, as_of) = (u64::try_from(counted.copies).ok(), counted.as_of.parse().ok());
        if let Some(number) = known.get(&(counted.namespace.clone(), counted.source.clone())) {
            let source = &mut told[*number];
            if source.copies.is_none() {
                (source.copies, source.copies_as_of) = (copies, as_of);
            }
            continue;
        }
        let (Ok(namespace), Ok(source)) = (Label::new("namespace", &*counted.namespace), Label::new("source", &*counted.source)) else {
            continue;
        };
        told.push(KeepSource {
            namespace,
            source,
            copies,
            copies_as_of: as_of,
            retired: None,
            accepted: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use holdfast_crds::Blocked;

    use super::*;

    fn line(source: &str, found: i64, blocked: Option<Reason>) -> KeepLine {
        KeepLine::Source(SourceReport {
            namespace: "shop".to_owned(),
            source: source.to_owned(),
            found,
            uncompared: blocked == Some(Reason::KeeperTaskTooLarge),
            blocked: blocked.map(|reason| Blocked {
                reason,
                message: String::new(),
            }),
            ..SourceReport::default()
        })
    }

    fn counted(source: &str, copies: i64, day: u8) -> CountedSource {
        CountedSource {
            namespace: "shop".to_owned(),
            source: source.to_owned(),
            copies,
            as_of: format!("2026-03-{day:02}T00:00:00Z"),
        }
    }

    #[test]
    fn what_is_missed_keeps_its_measure_and_what_is_gone_on_purpose_has_none() {
        let summary = KeepSummary {
            started_at: "2026-03-02T00:00:00Z".to_owned(),
            ..KeepSummary::default()
        };
        let before = ["emptied", "fewer", "gone", "more", "unread", "untold"].map(|source| counted(source, 3, 1));
        let report = [
            line("more", 4, Some(Reason::CopyTooOld)),
            line("fewer", 2, Some(Reason::CopiesMissing)),
            line("emptied", 0, None),
            line("unread", 0, Some(Reason::CatalogueUnreadable)),
            line("new", 1, None),
            line("new-and-unread", 0, Some(Reason::CatalogueUnreadable)),
            line("untold", 2, Some(Reason::KeeperTaskTooLarge)),
            line("new-and-untold", 2, Some(Reason::KeeperTaskTooLarge)),
        ];
        let told = [
            counted("fewer", 3, 1),
            counted("more", 4, 2),
            counted("new", 1, 2),
            counted("new-and-untold", 2, 2),
            counted("unread", 3, 1),
            counted("untold", 3, 1),
        ];
        assert_eq!(after(&before, &summary, &report, true), told);
        // It never came to the rest.
        let [fewer, more, new, new_and_untold, unread, untold] = told;
        assert_eq!(
            after(&before, &summary, &report, false),
            [fewer, counted("gone", 3, 1), more, new, new_and_untold, unread, untold]
        );
    }
}

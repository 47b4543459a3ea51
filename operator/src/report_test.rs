use holdfast_crds::{Finding, conditions};

use super::*;

fn said(kind: ConditionType, status: Option<bool>, reason: Reason, message: &str) -> Condition {
    let finding = match status {
        Some(status) => Finding::new(kind, status, reason, message),
        None => Finding::unknown(kind, reason, message),
    };
    conditions(&[], &[finding], Some(1), jiff::Timestamp::UNIX_EPOCH).remove(0)
}

#[test]
fn an_event_tells_news_only() {
    use ConditionType::{Intact, Ready, Stalled};
    let accepted = said(Ready, Some(true), Reason::Accepted, "a");
    let reworded = said(Ready, Some(true), Reason::Accepted, "b");
    let failed = said(Ready, Some(false), Reason::SecretNotFound, "a");
    let other = said(Ready, Some(false), Reason::QuotaExceeded, "a");
    let unknown = said(Ready, None, Reason::Pending, "a");
    let stalled = said(Stalled, Some(true), Reason::SecretNotFound, "a");
    let found = said(Intact, Some(false), Reason::Tampered, "a");
    let more = said(Intact, Some(false), Reason::Tampered, "a; and 1 more");
    for (before, after, told) in [
        (vec![&found], vec![&found], 0),
        (vec![&found], vec![&more], 1),
        (vec![], vec![&accepted], 1),
        (vec![], vec![&unknown], 0),
        (vec![&accepted], vec![&reworded], 0),
        (vec![&accepted], vec![&failed], 1),
        (vec![&failed], vec![&other], 1),
        (vec![&failed], vec![&unknown], 1),
        (vec![&accepted], vec![&failed, &stalled], 1),
    ] {
        let own = |list: Vec<&Condition>| list.into_iter().cloned().collect::<Vec<_>>();
        let (before, after) = (own(before), own(after));
        assert_eq!(changed(&before, &after).len(), told, "{before:?} → {after:?}");
    }
}

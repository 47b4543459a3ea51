//! How long copies live in a store: part of a schedule, and recorded in the store so that it outlives the schedule.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Span, span_seconds};

/// A copy is marked at least so long before it is removed.
pub const SHORTEST_DELETION_DELAY: Span = Span::from_hours(24);
/// … and so much longer than an attempt may last: whoever is at work with a copy must have ended, and its pod have gone.
const AFTER_TIMEOUT: Span = Span::from_hours(1);

/// How long a copy is marked at least before it is removed, where attempts may last so long.
pub fn shortest_deletion_delay(timeout: Span) -> Span {
    SHORTEST_DELETION_DELAY.max(Span::from_seconds(timeout.seconds().saturating_add(AFTER_TIMEOUT.seconds())))
}

/// The rule of a schedule for the delays of its stores, by its timeout.
pub(crate) fn delay_rule() -> Value {
    let (delay, timeout) = (span_seconds("s.retention.deletionDelay"), span_seconds("self.timeout"));
    let short = format!(
        "has(s.retention) && has(s.retention.deletionDelay) && has(self.timeout) && {delay} < {timeout} + {}",
        AFTER_TIMEOUT.seconds()
    );
    json!({
        "rule": format!("!self.stores.exists(s, {short})"),
        "fieldPath": ".timeout",
        // Which store it is costs too much to say.
        "messageExpression": format!(
            "\"found '\" + self.timeout + \"', expected at least {AFTER_TIMEOUT} less than each retention.deletionDelay in stores (2d when not said): who is at work with a copy must have ended before it is removed; shorten timeout, or lengthen deletionDelay\""
        ),
    })
}

/// How long copies are kept in one store. The rules are a union: a copy stays while any of them keeps it. Without a rule every copy stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// The newest so many good full copies, with all that they need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub keep_last: Option<i32>,
    /// Every good copy whose tick is not older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<Span>,
    /// The first good full copy of each hour, for so many hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8_784))]
    pub hourly: Option<i32>,
    /// The first good full copy of each day, for so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_660))]
    pub daily: Option<i32>,
    /// The first good full copy of each ISO week, for so many weeks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub weekly: Option<i32>,
    /// The first good full copy of each month, for so many months.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 600))]
    pub monthly: Option<i32>,
    /// The first good full copy of each quarter, for so many quarters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 400))]
    pub quarterly: Option<i32>,
    /// The first good full copy of each year, for so many years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub yearly: Option<i32>,
    /// So many of the newest good full copies of a source stay in this store, whatever their age.
    #[serde(default = "default_min_good")]
    #[schemars(range(min = 1, max = 1_000))]
    pub min_good: i32,
    /// How long a copy that nothing keeps any more is marked before it is removed: time for holds, restores and people. At least 24h.
    #[serde(default = "default_deletion_delay")]
    pub deletion_delay: Span,
}

fn default_min_good() -> i32 {
    2
}

fn default_deletion_delay() -> Span {
    Span::from_hours(48)
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_last: None,
            keep_within: None,
            hourly: None,
            daily: None,
            weekly: None,
            monthly: None,
            quarterly: None,
            yearly: None,
            min_good: default_min_good(),
            deletion_delay: default_deletion_delay(),
        }
    }
}

impl Retention {
    /// Reads rules that no API server has looked at: what it would refuse is refused. The error names the field.
    pub fn checked(value: &Value) -> Result<Self, String> {
        let schema = schemars::schema_for!(Self).to_value();
        let fields = value.as_object().ok_or("found no fields, expected rules such as keepWithin: 14d")?;
        for (name, found) in fields {
            let known = schema["properties"].get(name).ok_or_else(|| {
                let names = schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys());
                let names: Vec<_> = names.map(String::as_str).collect();
                format!("{name}: there is no such rule; there are {}", names.join(", "))
            })?;
            let (min, max) = (known["minimum"].as_i64(), known["maximum"].as_i64());
            if let (Some(min), Some(max), Some(number)) = (min, max, found.as_i64())
                && !(min..=max).contains(&number)
            {
                return Err(format!("{name}: found {number}, expected {min} to {max}"));
            }
        }
        serde_path_to_error::deserialize(value).map_err(|error| format!("{}: {}", error.path(), error.inner()))
    }

    /// Whether no rule is named: then everything is kept.
    pub fn keeps_everything(&self) -> bool {
        let counts = [
            self.keep_last,
            self.hourly,
            self.daily,
            self.weekly,
            self.monthly,
            self.quarterly,
            self.yearly,
        ];
        self.keep_within.is_none() && counts.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_by_hand_are_looked_at_as_the_api_server_would() {
        let good = Retention::checked(&json!({"keepWithin": "14d", "monthly": 12})).unwrap();
        assert_eq!((good.monthly, good.min_good), (Some(12), 2));
        for (wrong, says) in [
            (json!({"keeplast": 3}), "keeplast: there is no such rule; there are "),
            (json!({"keepLast": 0}), "keepLast: found 0, expected 1 to 10000"),
            (json!({"yearly": 101}), "yearly: found 101, expected 1 to 100"),
            (json!({"keepWithin": "14 days"}), "keepWithin: "),
            (json!({"daily": "7"}), "daily: "),
            (json!([]), "found no fields"),
            (json!("keepLast"), "found no fields"),
        ] {
            let refused = Retention::checked(&wrong).unwrap_err();
            assert!(refused.starts_with(says), "{refused}");
        }
    }
}

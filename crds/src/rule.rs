//! Rules in CEL that the definitions carry beside their types. Each refusal says what was found and what to do; the API server
//! puts the field in front.

use kube::core::{Message, Rule};
use serde_json::{Value, json};

/// A name that is a DNS label of at most `limit` characters. `why` says what it is good for.
pub(crate) fn name(limit: usize, why: &str) -> Rule {
    Rule::new(format!(
        "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= {limit}"
    ))
    .message(Message::Expression(format!(
        "\"metadata.name: found '\" + self.metadata.name + \"'; {why}and must be a DNS label: at most {limit} of a-z, 0-9 and -, beginning and ending with a letter or digit; choose another name\""
    )))
}

/// A field that never changes.
#[derive(Clone, Copy)]
pub(crate) enum Fixed {
    Text(&'static str),
    /// A number from 1 to the second; `string(…)` is another thing whose cost cannot be bounded.
    Number(&'static str, u8),
    /// An object or list.
    Structure(&'static str),
}

/// Rules by which the fields of an object neither change, nor appear, nor vanish; `remedy` says why not, and what to do.
pub(crate) fn fixed(fields: &[Fixed], remedy: &str) -> Vec<Value> {
    fields
        .iter()
        .map(|field| {
            // Not `self.?name == oldSelf.?name`: the API server cannot bound what that costs, and refuses the rule.
            let shown = |of: &str, name: &str, text: &str| format!("(has({of}.{name}) ? {text} : 'nothing')");
            let quoted = |of: &str, name: &str| shown(of, name, &format!("\"'\" + {of}.{name} + \"'\""));
            let number = |of: &str, name: &str, most: u8| {
                let numbers: Vec<_> = (1..=most).map(|number| format!("'{number}'")).collect();
                shown(of, name, &format!("[{}][{of}.{name} - 1]", numbers.join(",")))
            };
            let (name, found) = match *field {
                Fixed::Text(name) => (name, format!("{} + ', was ' + {}", quoted("self", name), quoted("oldSelf", name))),
                Fixed::Number(name, most) => (
                    name,
                    format!("{} + ', was ' + {}", number("self", name, most), number("oldSelf", name, most)),
                ),
                Fixed::Structure(name) => (name, shown("self", name, "'something else than before'")),
            };
            json!({
                "rule": format!("has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"),
                "fieldPath": format!(".{name}"),
                "messageExpression": format!("'found ' + {found} + '; {remedy}'"),
            })
        })
        .collect()
}

/// What was cancelled stays so.
pub(crate) fn stays_cancelled(what: &str) -> Value {
    json!({
        "rule": "!oldSelf.cancel || self.cancel",
        "fieldPath": ".cancel",
        "message": format!("found false, was true; a cancelled {what} stays cancelled; make a new {what} with another name"),
    })
}

/// A rule with a fixed message.
pub(crate) fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// What a text that matches a pattern of ours looks like, for people.
const PATTERNS: &[(&str, &str)] = &[
    (
        "^[1-9][0-9]{0,5}[smhd]$",
        "a whole number of 1 to 6 digits, then s, m, h or d, such as 90s, 30m, 6h or 14d",
    ),
    (
        "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        "only a-z, 0-9 and -, beginning and ending with a letter or digit, such as nightly",
    ),
    (
        "^[a-z0-9-]+/[a-z0-9-]+/[a-z0-9-]+$",
        "namespace/source/run, as in status.copy.path of a BackupRun",
    ),
    (
        "^([01][0-9]|2[0-3]):[0-5][0-9]$",
        "a time of day from 00:00 to 23:59, such as 08:00",
    ),
    (
        "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
        "a time of day from 00:00 to 24:00, such as 18:00",
    ),
    (
        "^[A-Za-z0-9._-]+$",
        "the key of a Secret: letters, digits, dots, _ and -, such as seal.pem",
    ),
    (
        "^[A-Za-z0-9.:/_-]+$",
        "a host, a domain, an address or a network, such as s3.shop.svc, example.org, 10.1.2.3 or 10.0.0.0/8",
    ),
    ("^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "a day of the calendar, such as 2026-12-24"),
    (
        "^\\s*\\S+(\\s+\\S+){4}\\s*$",
        "five fields, minute, hour, day of month, month and day of week, such as H 2 * * *",
    ),
    ("^[A-Za-z0-9._+/-]+$", "the name of a time zone, such as UTC or Europe/Zurich"),
    (
        "^([a-zA-Z0-9._-]+|\\[[0-9a-fA-F:.]+\\])(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$",
        "host or host:port with a port from 1 to 65535, such as db, db.shop.svc:5432 or [fd00::1]:5432",
    ),
    (
        "^[a-z0-9][a-z0-9.-]*[a-z0-9]$",
        "the name of a bucket: a-z, 0-9, dots and -, beginning and ending with a letter or digit",
    ),
    (
        "^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$",
        "folders of letters, digits, dots, _ and -, with single slashes between them and none at either end, such as prod/eu",
    ),
    (
        "^https?://[A-Za-z0-9.-]+(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$",
        "https://host or https://host:port with a port from 1 to 65535 (or http://), without user, password and path",
    ),
    (
        "^https?://[A-Za-z0-9.-]+(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?(/[A-Za-z0-9._/-]*)?$",
        "https://host, with a port and a path where needed, such as https://sts.eu-west-1.amazonaws.com",
    ),
    (
        "^[A-Z0-9_]+$",
        "a storage class as the server names it, in capitals, such as STANDARD_IA",
    ),
    (
        "^[0-9a-f]{64}$",
        "a SHA-256 in 64 hexadecimal digits, as status.stores[].blocked.message of the source shows it",
    ),
    (
        "^age1[ac-hj-np-z02-9]{58}$",
        "a public key of age (age1 and 58 characters), as printed by age-keygen -y; an AGE-SECRET-KEY belongs into a Secret",
    ),
];

/// Adds the rules that types cannot say by themselves, and takes those out of the status, which the operator alone writes.
pub(crate) fn complete(version_schema: &mut Value) {
    if let Some(spec) = version_schema.pointer_mut("/properties/spec") {
        explain(spec);
    }
    if let Some(status) = version_schema.pointer_mut("/properties/status") {
        without_rules(status);
    }
}

fn explain(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(rule) = fields.get("oneOf").and_then(choice) {
                fields.remove("oneOf");
                add(fields, rule);
            }
            if let Some(rule) = fields.get("pattern").and_then(Value::as_str).and_then(expectation) {
                add(fields, rule);
            }
            fields.values_mut().for_each(explain);
        }
        Value::Array(items) => items.iter_mut().for_each(explain),
        _ => {}
    }
}

fn add(schema: &mut serde_json::Map<String, Value>, rule: Value) {
    if let Value::Array(rules) = schema.entry("x-kubernetes-validations").or_insert_with(|| json!([])) {
        rules.push(rule);
    }
}

/// The rule that says the same as a `oneOf` of single required fields, but in words.
fn choice(one_of: &Value) -> Option<Value> {
    let names: Vec<&str> = one_of
        .as_array()?
        .iter()
        .map(|variant| match variant["required"].as_array()?.as_slice() {
            [name] => name.as_str(),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let each = |yes: &dyn Fn(&str) -> String, no: &str| {
        let parts: Vec<_> = names
            .iter()
            .map(|name| format!("(has(self.{name}) ? {} : {no})", yes(name)))
            .collect();
        parts.join(" + ")
    };
    let count = each(&|_| "1".to_owned(), "0");
    let found = each(&|name| format!("' {name}'"), "''");
    let known = names.join(", ");
    let demand = if names.len() == 1 {
        "this version knows only"
    } else {
        "name exactly one of"
    };
    Some(json!({
        "rule": format!("{count} == 1"),
        "messageExpression": format!("'found' + ({count} == 0 ? ' nothing' : {found}) + '; {demand} {known}'"),
    }))
}

fn expectation(pattern: &str) -> Option<Value> {
    let (_, expected) = PATTERNS.iter().find(|(known, _)| *known == pattern)?;
    Some(json!({
        "rule": format!("self.matches(r'{pattern}')"),
        "messageExpression": format!("\"found '\" + self + \"'; expected {expected}\""),
    }))
}

fn without_rules(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("x-kubernetes-validations");
            fields.values_mut().for_each(without_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(without_rules),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_and_choice_of_a_specification_is_explained() {
        fn walk(path: &str, schema: &Value, silent: &mut Vec<String>) {
            let explained = schema.get("x-kubernetes-validations").is_some();
            if (schema.get("pattern").is_some_and(Value::is_string) && !explained) || schema.get("oneOf").is_some() {
                silent.push(path.to_owned());
            }
            for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                walk(&format!("{path}.{name}"), field, silent);
            }
            if let Some(items) = schema.get("items") {
                walk(&format!("{path}[]"), items, silent);
            }
        }
        let mut silent = Vec::new();
        for (_, definition) in crate::yaml::definitions() {
            let mut schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap()["openAPIV3Schema"].take();
            complete(&mut schema);
            walk(
                &format!("{}.spec", definition.spec.names.kind),
                &schema["properties"]["spec"],
                &mut silent,
            );
        }
        assert!(silent.is_empty(), "without words: {silent:#?}");
    }
}

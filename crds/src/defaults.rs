//! The table of defaults in `docs/defaults.md`, from the definitions' schemas.

use std::fmt::Write;

use serde_json::Value;

use crate::yaml;

/// The line in the page behind which the table begins.
pub const BEGIN: &str = "<!-- generated from crds/src by `make generate` -->";
/// The line behind the table.
pub const END: &str = "<!-- end of what is generated -->";

/// Fields whose schema is Kubernetes' own.
const FOREIGN: [&str; 2] = ["resources", "tolerations"];

/// A field that need not be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultValue {
    /// Such as `BackupSource.spec.postgresql.tls.mode`; `job` for what every kind's `job` has.
    pub field: String,
    /// The value that the API server writes, as JSON, or what the field's description says.
    pub value: String,
}

/// Every default: those that the API server writes, and those that descriptions state with *By default*.
///
/// # Errors
/// The name of a field whose default as a whole is not what its parts have as defaults: `{}` and leaving it out would differ.
pub fn defaults() -> Result<Vec<DefaultValue>, String> {
    let mut found = Vec::new();
    for (_, definition) in yaml::definitions() {
        let schema = definition
            .spec
            .versions
            .first()
            .map(|version| serde_json::to_value(&version.schema));
        let schema = schema.transpose().map_err(|error| error.to_string())?.unwrap_or_default();
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
        walk(&format!("{}.spec", definition.spec.names.kind), spec, &mut found)?;
    }
    found.sort_by_key(|default| default.field.starts_with("job."));
    found.dedup();
    Ok(found)
}

fn walk(path: &str, schema: &Value, found: &mut Vec<DefaultValue>) -> Result<(), String> {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        // The same for every kind.
        let path = if name == "job" {
            "job".to_owned()
        } else {
            format!("{path}.{name}")
        };
        let parts = field.get("properties").is_some();
        let value = match field.get("default") {
            Some(whole) if parts => {
                if *whole != of_parts(field) {
                    return Err(path);
                }
                None
            }
            Some(value) => Some(format!("`{value}`")),
            None => field["description"].as_str().and_then(stated),
        };
        let default = value.map(|value| DefaultValue {
            field: path.clone(),
            value,
        });
        if let Some(default) = default.filter(|default| !found.contains(default)) {
            found.push(default);
        }
        if !FOREIGN.contains(&name.as_str()) {
            walk(&path, field, found)?;
            walk(&format!("{path}[]"), &field["items"], found)?;
        }
    }
    Ok(())
}

/// What an object is whose parts all have their defaults.
fn of_parts(schema: &Value) -> Value {
    let fields = schema["properties"].as_object().into_iter().flatten();
    fields
        .filter_map(|(name, field)| Some((name.clone(), field.get("default")?.clone())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The rest of the sentence that begins with *By default*.
fn stated(description: &str) -> Option<String> {
    let (_, rest) = description.split_once("By default ")?;
    let sentence = rest.split(". ").next().unwrap_or(rest);
    Some(sentence.trim_end_matches('.').replace('\n', " "))
}

/// The table as Markdown.
///
/// # Errors
/// As [`defaults`].
pub fn table() -> Result<String, String> {
    let mut text = "| field | when it is not said |\n|---|---|\n".to_owned();
    for DefaultValue { field, value } in defaults()? {
        // A String takes whatever is written to it.
        let _ = writeln!(text, "| `{field}` | {} |", value.replace('|', "\\|"));
    }
    Ok(text)
}

/// The page with the table in its place.
///
/// # Errors
/// If the page lacks the two lines between which the table stands, or as [`defaults`].
pub fn page(page: &str) -> Result<String, String> {
    let missing = || format!("docs/defaults.md: expected the lines {BEGIN} and {END}");
    let (before, rest) = page.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{}\n{END}{after}", table()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_found_where_they_are() {
        let found = defaults().unwrap();
        let value = |field: &str| {
            found
                .iter()
                .find(|default| default.field == field)
                .map(|default| default.value.as_str())
        };
        assert_eq!(value("BackupSource.spec.postgresql.lockTimeout"), Some("`\"5m\"`"));
        assert_eq!(value("BackupSource.spec.postgresql.databases.include"), Some("`[\"*\"]`"));
        assert_eq!(value("BackupSchedule.spec.triggers[].type"), Some("`\"Full\"`"));
        assert_eq!(value("BackupStore.spec.s3.endpoint"), Some("AWS in `region`"));
        assert!(value("job.resources").is_some_and(|value| value.contains("512Mi")));
        assert_eq!(value("BackupStore.spec.encryption"), None);
        let unique: std::collections::HashSet<_> = found.iter().map(|default| &default.field).collect();
        assert_eq!(unique.len(), found.len(), "a field stands twice: {found:#?}");
    }

    #[test]
    fn a_page_without_a_place_for_the_table_is_refused() {
        assert!(page("nothing").unwrap_err().contains(BEGIN));
        let twice = page(&page(&format!("a\n{BEGIN}\nold\n{END}\nb\n")).unwrap()).unwrap();
        assert!(twice.starts_with(&format!("a\n{BEGIN}\n\n| field")) && twice.ends_with(&format!("|\n\n{END}\nb\n")));
    }
}

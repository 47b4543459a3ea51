//! The CustomResourceDefinitions as YAML, as the chart ships them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{
    BackupRun, BackupSchedule, BackupSource, BackupStore, ClusterBackupSchedule, ClusterBackupStore, ClusterComplianceHold, ComplianceHold,
    CompliancePolicy, DisposalRequest, RestoreRequest, RetentionPreview,
};

/// Every definition, by file name.
pub fn definitions() -> Vec<(String, CustomResourceDefinition)> {
    [
        BackupRun::crd(),
        BackupSchedule::crd(),
        BackupSource::crd(),
        BackupStore::crd(),
        ClusterBackupSchedule::crd(),
        ClusterBackupStore::crd(),
        ClusterComplianceHold::crd(),
        ComplianceHold::crd(),
        CompliancePolicy::crd(),
        DisposalRequest::crd(),
        RestoreRequest::crd(),
        RetentionPreview::crd(),
    ]
    .into_iter()
    .map(|definition| (format!("{}.yaml", definition.spec.names.plural), definition))
    .collect()
}

/// A definition as YAML, without what the API server would warn of.
///
/// # Errors
/// If it cannot be written as YAML, which a test rules out for each definition.
pub fn render(definition: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    let mut value = serde_json::to_value(definition).map_err(<serde_yaml::Error as serde::ser::Error>::custom)?;
    strip_formats(&mut value);
    for version in value
        .pointer_mut("/spec/versions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
            crate::rule::complete(schema);
        }
        // `kubectl explain` shows this first: say what the kind is, not how it was made.
        let meaning = version.pointer("/schema/openAPIV3Schema/properties/spec/description").cloned();
        if let (Some(meaning), Some(place)) = (meaning, version.pointer_mut("/schema/openAPIV3Schema/description")) {
            *place = meaning;
        }
    }
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        // A definition that goes takes every object of its kind along: uninstalling the chart must not do that.
        meta.insert("annotations".into(), serde_json::json!({"helm.sh/resource-policy": "keep"}));
        meta.insert("labels".into(), serde_json::json!({"app.kubernetes.io/part-of": "holdfast"}));
    }
    Ok(format!(
        "# Generated from crds/src; `make generate` writes it anew.\n{}",
        serde_yaml::to_string(&value)?
    ))
}

/// The API server knows only some formats and warns of the others.
fn strip_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|format| !matches!(format, "int32" | "int64" | "date-time"))
            {
                fields.remove("format");
            }
            fields.values_mut().for_each(strip_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_formats),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_committed_yaml_is_what_the_types_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/holdfast-crds/templates");
        for (file, definition) in definitions() {
            let committed = fs::read_to_string(folder.join(&file)).unwrap_or_default();
            assert!(
                committed == render(&definition).unwrap(),
                "{file} is not what crds/src says: run `make generate`"
            );
            assert!(committed.len() < 200 * 1024, "{file} has {} bytes", committed.len());
        }
    }

    #[test]
    fn every_field_is_explained() {
        fn walk(path: &str, schema: &Value, silent: &mut Vec<String>) {
            for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let path = format!("{path}.{name}");
                let foreign = ["resources", "affinity", "tolerations", "conditions", "metadata"].contains(&name.as_str());
                if field.get("description").is_none() {
                    silent.push(path.clone());
                }
                if !foreign {
                    walk(&path, field, silent);
                    if let Some(items) = field.get("items") {
                        walk(&format!("{path}[]"), items, silent);
                    }
                }
            }
        }
        let mut silent = Vec::new();
        for (_, definition) in definitions() {
            let value = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
            walk("", &value["openAPIV3Schema"], &mut silent);
        }
        assert!(silent.is_empty(), "without a description: {silent:#?}");
    }
}

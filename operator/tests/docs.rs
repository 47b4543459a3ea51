//! The metrics that the documentation names are those that the operator has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as expected")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Names that begin with `holdfast_` right behind `mark`.
fn names(text: &str, mark: &str) -> BTreeSet<String> {
    text.split(&format!("{mark}holdfast_"))
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>())
        .map(|name| format!("holdfast_{name}"))
        .collect()
}

/// Every metric that a source file of the operator names in a string; tests are no source.
fn registered() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut sources = Vec::new();
    files(&folder().join("src"), &["rs"], &mut sources);
    for path in sources {
        let name = path.file_name().unwrap().to_string_lossy();
        if !name.ends_with("_test.rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).unwrap();
            let source = text.split("#[cfg(test)]").next().unwrap();
            found.extend(names(source, "\""));
        }
    }
    found
}

#[test]
fn the_documented_metrics_are_those_that_are_registered() {
    let page = fs::read_to_string(folder().join("../docs/metrics.md")).unwrap();
    let (registered, described) = (registered(), names(&page, "\n| `"));
    assert!(registered.len() > 15, "{registered:?}");
    assert_eq!(described, registered, "docs/metrics.md has a line in a table for each metric");
}

/// Alerts, runbooks and the chart ask for nothing that is not there.
#[test]
fn a_metric_that_is_named_anywhere_exists() {
    const CRATES: [&str; 4] = ["holdfast_agent", "holdfast_crds", "holdfast_operator", "holdfast_policy"];
    let registered = registered();
    let mut pages = vec![folder().join("../README.md")];
    files(&folder().join("../docs"), &["md"], &mut pages);
    files(&folder().join("../charts"), &["md", "yaml", "json", "tpl", "txt"], &mut pages);
    let mut found = 0;
    for page in pages {
        for name in names(&fs::read_to_string(&page).unwrap(), "") {
            // As Prometheus names the series of a histogram.
            let metric = ["_bucket", "_count", "_sum"].iter().find_map(|series| name.strip_suffix(series));
            let known = registered.contains(&name) || metric.is_some_and(|metric| registered.contains(metric));
            assert!(known || CRATES.contains(&name.as_str()), "{name} in {}", page.display());
            found += usize::from(known);
        }
    }
    assert!(found > registered.len(), "they are named on more than one page: {found}");
}

/// All files below a folder whose names end so.
fn files(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, endings, found);
        } else if endings
            .iter()
            .any(|ending| path.extension().is_some_and(|extension| extension == *ending))
        {
            found.push(path);
        }
    }
}

/// Names, types and labels as `/metrics` shows them.
#[test]
fn the_series_of_the_process_are_documented_with_their_labels() {
    let page = fs::read_to_string(folder().join("../docs/metrics.md")).unwrap();
    let metrics = holdfast_operator::metrics::Metrics::new().unwrap();
    metrics.api_calls.with_label_values(&["get", "jobs", "200"]).inc();
    metrics.reconciles.with_label_values(&["BackupRun", "ok"]).observe(0.1);
    metrics.queue_depth.with_label_values(&["BackupRun"]).set(1);
    for family in metrics.registry.gather() {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", family.name())))
            .unwrap();
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        assert!(row.contains(&format!("| {kind} |")), "{row}");
        for label in family.get_metric()[0].get_label() {
            assert!(row.contains(&format!("`{}`", label.name())), "{row}");
        }
    }
}

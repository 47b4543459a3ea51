//! The documentation says what the code says, and its links lead somewhere.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as expected")]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use holdfast_crds::{
    BackupRun, BackupSchedule, BackupSource, BackupStore, ClusterBackupSchedule, ClusterBackupStore, ClusterComplianceHold, ComplianceHold,
    CompliancePolicy, DisposalRequest, Reason, RestoreRequest, RetentionPreview, defaults,
    document::{Decision, IndexLine, ObjectPath, Outcome, Owner, RunPath},
};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The text behind each heading of the second level.
fn sections(page: &str) -> Vec<(&str, &str)> {
    page.split("\n## ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap_or((section, "")))
        .map(|(heading, text)| (heading.trim(), text.trim()))
        .collect()
}

/// The text behind a word in bold, up to the next one at the beginning of a line.
fn labelled<'a>(text: &'a str, label: &str) -> &'a str {
    let behind = text.split_once(&format!("**{label}:**")).map_or("", |(_, behind)| behind);
    behind.split("\n\n**").next().unwrap_or(behind).trim()
}

#[test]
fn each_reason_has_its_entry() {
    let page = read("docs/reasons.md");
    let entries = sections(&page);
    let documented: Vec<_> = entries.iter().map(|(heading, _)| *heading).collect();
    let known: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(
        documented, known,
        "docs/reasons.md has a heading for each reason, in the order of the enum"
    );
    for (reason, (_, text)) in Reason::ALL.iter().zip(&entries) {
        let code = match reason.exit_code() {
            0 => "No exit code".to_owned(),
            code => format!("Exit code {code}"),
        };
        let first = format!("{code}, {:?}. {}", reason.class(), reason.meaning());
        assert_eq!(text.lines().next(), Some(&*first), "the first line about {reason}");
        for label in ["Shows", "What to do"] {
            let found = labelled(text, label);
            assert!(found.len() > 5, "{reason} lacks **{label}:**");
        }
    }
}

#[test]
fn the_table_of_defaults_is_what_the_types_say() {
    let page = read("docs/defaults.md");
    assert!(
        page == defaults::page(&page).unwrap(),
        "docs/defaults.md is not what crds/src says: run `make generate`"
    );
}

/// Every Markdown file that is not built or fetched.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The page without what stands in blocks of code, where brackets mean other things.
fn prose(page: &str) -> String {
    let mut fenced = false;
    let lines = page.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced && !line.starts_with("    ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(page: &str) -> HashSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

fn links(page: &str) -> Vec<String> {
    page.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

#[test]
fn each_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    let texts: BTreeMap<_, _> = pages
        .iter()
        .map(|path| (path.clone(), prose(&fs::read_to_string(path).unwrap())))
        .collect();
    let mut broken = Vec::new();
    let mut seen = 0;
    for (path, text) in &texts {
        for target in links(text) {
            seen += 1;
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let place = if file.is_empty() {
                path.clone()
            } else {
                path.parent().unwrap().join(file)
            };
            let complaint = match place.canonicalize() {
                Err(_) => Some("no such file"),
                Ok(place) if heading.is_empty() => (!place.starts_with(root())).then_some("it leads out of the project"),
                Ok(place) => match texts.get(&place) {
                    Some(other) if anchors(other).contains(heading) => None,
                    _ => Some("no such heading"),
                },
            };
            if let Some(complaint) = complaint {
                broken.push(format!("{}: {target}: {complaint}", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(seen > 20, "only {seen} links were found");
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Files that code, messages and other files name in words.
#[test]
fn pages_that_are_named_elsewhere_exist() {
    for file in [
        "docs/reasons.md",
        "docs/stores.md",
        "docs/schedules.md",
        "docs/manifest.md",
        "docs/metrics.md",
        "docs/restore-without-holdfast.md",
    ] {
        assert!(root().join(file).exists(), "{file}");
    }
}

#[test]
fn anchors_are_made_as_github_makes_them() {
    assert_eq!(anchor("What the probe tries"), "what-the-probe-tries");
    assert_eq!(anchor("`spec.job` — how, and why?"), "specjob--how-and-why");
}

/// The block of code in a page whose first line is ```` ```<kind> ````.
fn block<'a>(page: &'a str, kind: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("```{kind}\n"))
        .unwrap_or_else(|| panic!("no block {kind}"));
    rest.split_once("```").unwrap().0
}

#[test]
fn the_documents_in_the_manual_are_read_as_those_of_a_store() {
    let page = read("docs/manifest.md");
    let run = |text: &str| -> RunPath {
        serde_json::from_str::<Value>(text).unwrap()["runKey"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };

    let text = block(&page, "json outcome");
    let outcome = Outcome::from_bytes(&run(text), text.as_bytes()).unwrap();
    let copy = outcome.committed().unwrap();
    assert!(
        page.contains(&format!("That of the example is `{}`", copy.manifest_sha256())),
        "{}",
        copy.manifest_sha256()
    );
    // It shows every field that the types know, and none that they do not.
    let mut again: Value = serde_json::from_slice(&outcome.to_bytes()).unwrap();
    let mut shown: Value = serde_json::from_str(text).unwrap();
    assert_eq!(again, shown);
    for (name, schema) in [("outcome", &mut shown), ("manifest", &mut again["manifest"])] {
        let known: Value = serde_json::from_str(&read(&format!("crds/schemas/{name}.schema.json"))).unwrap();
        for field in known["properties"]
            .as_object()
            .unwrap()
            .keys()
            .filter(|field| *field != "abandonment")
        {
            assert!(
                schema.get(field).is_some(),
                "{name} has a field {field}, which the example does not show"
            );
            let explained = name == "outcome" || page.contains(&format!("`{field}`")) || field == "version";
            assert!(explained, "{field} is not explained");
        }
    }

    let text = block(&page, "json abandonment");
    let given_up = Outcome::from_bytes(&run(text), text.as_bytes()).unwrap();
    let Decision::Abandoned(abandonment) = given_up.decision else {
        panic!("it is no abandonment")
    };
    assert!(Reason::ALL.iter().any(|reason| reason.as_str() == abandonment.reason));

    let owner = Owner::from_bytes(block(&page, "json owner").as_bytes()).unwrap();
    assert_eq!(owner.epoch, 1);

    let lines: Vec<IndexLine> = block(&page, "jsonl index")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let IndexLine::Header(header) = &lines[0] else {
        panic!("the first line is the header")
    };
    assert_eq!(header.frames + header.entries + 1, lines.len() as u64);

    let mut objects: HashSet<&str> = copy.stored().iter().map(|object| object.path.as_str()).collect();
    for line in block(&page, "text").lines() {
        line.parse::<ObjectPath>().unwrap_or_else(|error| panic!("{error}"));
        objects.remove(line);
    }
    assert!(objects.len() < copy.stored().len(), "the places are not those of the example");
}

/// Every block of YAML that is an object of Holdfast, with the page that it is on.
fn objects() -> Vec<(PathBuf, Value)> {
    let mut found = Vec::new();
    for path in pages() {
        let text = fs::read_to_string(&path).unwrap();
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            for document in block
                .split("\n---\n")
                .filter(|document| document.contains("apiVersion: holdfast.dev/"))
            {
                let value = serde_yaml::from_str(document).unwrap_or_else(|error| panic!("{}: {error}:\n{document}", path.display()));
                found.push((path.clone(), value));
            }
        }
    }
    found
}

/// What `shown` has and `known` has not: fields that the types do not know.
fn unknown(path: &str, shown: &Value, known: &Value, found: &mut Vec<String>) {
    match (shown, known) {
        (Value::Object(shown), Value::Object(known)) => {
            for (name, value) in shown {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(known) => unknown(&path, value, known, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(shown), Value::Array(known)) => {
            for (shown, known) in shown.iter().zip(known) {
                unknown(&format!("{path}[]"), shown, known, found);
            }
        }
        _ => {}
    }
}

fn again<K: serde::Serialize + serde::de::DeserializeOwned>(value: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<K>(value.clone())?)
}

#[test]
fn the_objects_in_the_manual_are_understood() {
    let objects = objects();
    assert!(objects.len() >= 8, "only {} objects were found", objects.len());
    for (path, object) in objects {
        let kind = object["kind"].as_str().unwrap_or_default();
        let known = match kind {
            "BackupSource" => again::<BackupSource>(&object),
            "BackupStore" => again::<BackupStore>(&object),
            "ClusterBackupStore" => again::<ClusterBackupStore>(&object),
            "BackupSchedule" => again::<BackupSchedule>(&object),
            "BackupRun" => again::<BackupRun>(&object),
            "RestoreRequest" => again::<RestoreRequest>(&object),
            "ClusterBackupSchedule" => again::<ClusterBackupSchedule>(&object),
            "CompliancePolicy" => again::<CompliancePolicy>(&object),
            "ComplianceHold" => again::<ComplianceHold>(&object),
            "ClusterComplianceHold" => again::<ClusterComplianceHold>(&object),
            "DisposalRequest" => again::<DisposalRequest>(&object),
            "RetentionPreview" => again::<RetentionPreview>(&object),
            other => panic!("{}: kind {other:?} is not known", path.display()),
        };
        let known = known.unwrap_or_else(|error| panic!("{}: {kind}: {error}", path.display()));
        let mut fields = Vec::new();
        unknown(kind, &object, &known, &mut fields);
        assert!(fields.is_empty(), "{}: fields that no type has: {fields:?}", path.display());
    }
}

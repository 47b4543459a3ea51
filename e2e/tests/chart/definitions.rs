//! The definitions on a real API server: what is accepted and refused, in words, for every kind. The tables are beside this file.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use holdfast_e2e::{
    api::{Answer, ask, holdfast_path, make_namespace},
    helm::{kubectl, run},
};
use http::{Method, Request};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::PLAIN;

/// Values by JSON pointer; null takes away.
pub type Edits = BTreeMap<String, Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    base: Value,
    /// What the API server adds to the base; null where it adds nothing.
    defaults: Edits,
    accepted: Vec<Row>,
    refused: Vec<Refusal>,
    changes: Changes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    accepted: Vec<Row>,
    refused: Vec<Refusal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// What is done to the base before it is made.
    #[serde(default)]
    from: Edits,
    put: Edits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    #[serde(default)]
    from: Edits,
    put: Edits,
    /// What one line of the refusal must hold.
    field: String,
    /// Empty where nothing was there, or the API server does not say.
    found: String,
    remedy: String,
}

pub fn edited(object: &Value, edits: &Edits) -> Value {
    let mut object = object.clone();
    for (pointer, value) in edits {
        let mut place = &mut object;
        let mut parts = pointer
            .trim_start_matches('/')
            .split('/')
            .map(|part| part.replace("~1", "/"))
            .peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            place = match part.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) if last && value.is_null() => {
                    place.as_object_mut().unwrap().remove(&part);
                    break;
                }
                Err(_) => &mut place[&part],
            };
            if last {
                *place = value.clone();
            }
        }
    }
    object
}

/// Why the refusal is not what the table says; nothing if it is.
fn complaint(row: &Refusal, answer: Answer) -> Option<String> {
    let case = format!("{:?} from {:?}", row.put, row.from);
    match answer {
        Answer::Accepted(_) => Some(format!("{case}: was accepted")),
        Answer::Refused(message) => {
            // The API server joins what it has to say about several fields.
            let said = message.split(", spec").any(|part| {
                let part = format!("spec{part}");
                [&row.field, &row.found, &row.remedy]
                    .iter()
                    .all(|text| part.contains(text.as_str()))
            });
            (!said).then(|| {
                format!(
                    "{case}: should name {:?}, {:?} and {:?}, but says: {message}",
                    row.field, row.found, row.remedy
                )
            })
        }
    }
}

const CLUSTER_SCOPED: [&str; 4] = [
    "compliancepolicies",
    "clustercomplianceholds",
    "clusterbackupschedules",
    "clusterbackupstores",
];

async fn tried(plural: &str, table: &str) -> Result<()> {
    let table: Value = serde_yaml::from_str(table)?;
    let table: Table = serde_json::from_value(table)?;
    let client = PLAIN.client().await?;
    let path = if CLUSTER_SCOPED.contains(&plural) {
        format!("/apis/holdfast.dev/v1alpha1/{plural}")
    } else {
        let namespace = format!("table-{plural}");
        make_namespace(&client, &namespace).await?;
        holdfast_path(&namespace, plural)
    };
    let dry = format!("{path}?dryRun=All");
    let mut wrong = Vec::new();

    let made = ask(&client, Method::POST, &dry, &table.base).await?.accepted()?;
    for (pointer, value) in &table.defaults {
        let found = made.pointer(pointer).unwrap_or(&Value::Null);
        if found != value {
            wrong.push(format!("default of {pointer}: found {found}, expected {value}"));
        }
    }
    for row in &table.accepted {
        if let Answer::Refused(message) = ask(&client, Method::POST, &dry, &edited(&table.base, &row.put)).await? {
            wrong.push(format!("{:?}: was refused: {message}", row.put));
        }
    }
    for row in &table.refused {
        let answer = ask(&client, Method::POST, &dry, &edited(&table.base, &row.put)).await?;
        wrong.extend(complaint(row, answer));
    }

    let mut number = 0;
    let mut changed = async |from: &Edits, put: &Edits| -> Result<Answer> {
        number += 1;
        let name = json!(format!("change-{number}"));
        let before = edited(
            &edited(&table.base, from),
            &Edits::from([("/metadata/name".to_owned(), name.clone())]),
        );
        let made = ask(&client, Method::POST, &path, &before)
            .await?
            .accepted()
            .context("before the change")?;
        let mut after = edited(&before, put);
        after["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
        ask(&client, Method::PUT, &format!("{path}/change-{number}"), &after).await
    };
    for row in &table.changes.accepted {
        if let Answer::Refused(message) = changed(&row.from, &row.put).await? {
            wrong.push(format!("change {:?}: was refused: {message}", row.put));
        }
    }
    for row in &table.changes.refused {
        let answer = changed(&row.from, &row.put).await?;
        wrong.extend(complaint(row, answer));
    }
    assert!(wrong.is_empty(), "{} of {plural}:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn backup_sources_are_checked_in_words() {
    tried("backupsources", include_str!("tables/backupsources.yaml")).await.unwrap();
}

#[tokio::test]
async fn backup_stores_are_checked_in_words() {
    tried("backupstores", include_str!("tables/backupstores.yaml")).await.unwrap();
}

#[tokio::test]
async fn backup_schedules_are_checked_in_words() {
    tried("backupschedules", include_str!("tables/backupschedules.yaml")).await.unwrap();
}

#[tokio::test]
async fn backup_runs_are_checked_in_words() {
    tried("backupruns", include_str!("tables/backupruns.yaml")).await.unwrap();
}

#[tokio::test]
async fn restore_requests_are_checked_in_words() {
    tried("restorerequests", include_str!("tables/restorerequests.yaml")).await.unwrap();
}

#[tokio::test]
async fn cluster_backup_schedules_are_checked_in_words() {
    tried("clusterbackupschedules", include_str!("tables/clusterbackupschedules.yaml"))
        .await
        .unwrap();
}

#[tokio::test]
async fn cluster_backup_stores_are_checked_in_words() {
    tried("clusterbackupstores", include_str!("tables/clusterbackupstores.yaml"))
        .await
        .unwrap();
}

#[tokio::test]
async fn compliance_policies_are_checked_in_words() {
    tried("compliancepolicies", include_str!("tables/compliancepolicies.yaml"))
        .await
        .unwrap();
}

#[tokio::test]
async fn compliance_holds_are_checked_in_words() {
    tried("complianceholds", include_str!("tables/complianceholds.yaml")).await.unwrap();
}

#[tokio::test]
async fn cluster_compliance_holds_are_checked_in_words() {
    tried("clustercomplianceholds", include_str!("tables/clustercomplianceholds.yaml"))
        .await
        .unwrap();
}

#[tokio::test]
async fn disposal_requests_are_checked_in_words() {
    tried("disposalrequests", include_str!("tables/disposalrequests.yaml"))
        .await
        .unwrap();
}

#[tokio::test]
async fn retention_previews_are_checked_in_words() {
    tried("retentionpreviews", include_str!("tables/retentionpreviews.yaml"))
        .await
        .unwrap();
}

/// Kinds, their short names, and what `kubectl get` shows of them; with a star only `--output=wide`.
const SHOWN: [(&str, &str, &str); 12] = [
    ("backupsources", "hsrc", "Name Protected Last-Copy Copies Next Reason Message* Age"),
    ("backupstores", "hstore", "Name Ready Reason Kept Copies Location Message* Age"),
    (
        "clusterbackupstores",
        "hcstore",
        "Name Ready Reason Kept Copies Maintenance Location Message* Age",
    ),
    (
        "backupschedules",
        "hsched",
        "Name Ready Suspended Sources Last-Run-Succeeded Next Reason Message* Age",
    ),
    (
        "clusterbackupschedules",
        "hcsched",
        "Name Ready Namespaces Sources Reason Message* Age",
    ),
    (
        "backupruns",
        "hrun",
        "Name Source Type Phase Reason Size Duration Stores Message* Age",
    ),
    (
        "restorerequests",
        "hrestore",
        "Name Phase Reason Target Waiting-For Duration Message* Age",
    ),
    (
        "compliancepolicies",
        "hcpol",
        "Name Mode Locked Enforced Namespaces Sources Not-Compliant Message* Age",
    ),
    (
        "complianceholds",
        "hhold",
        "Name Effective Copies Placed-By Released-By Reason Message* Age",
    ),
    (
        "clustercomplianceholds",
        "hchold",
        "Name Effective Copies Placed-By Released-By Reason Message* Age",
    ),
    (
        "disposalrequests",
        "hdisp",
        "Name Disposed Reason Requested-By Approved-By Message* Age",
    ),
    (
        "retentionpreviews",
        "hpreview",
        "Name Store Phase Kept Marked Removed More Reason Message* Age",
    ),
];

#[tokio::test]
async fn each_kind_shows_its_columns() {
    let client = PLAIN.client().await.unwrap();
    for (plural, _, columns) in SHOWN {
        let request = Request::get(format!("/apis/holdfast.dev/v1alpha1/{plural}"))
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())
            .unwrap();
        let table: Value = client.request(request).await.unwrap();
        let shown: Vec<_> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| {
                let wide = if column["priority"] == 0 { "" } else { "*" };
                format!("{}{wide}", column["name"].as_str().unwrap())
            })
            .collect();
        assert_eq!(shown.join(" "), columns, "{plural}");
    }
}

#[test]
fn short_names_category_and_explanations_work() {
    let ask = |arguments: &[&str]| run(&mut kubectl(Some(PLAIN.kubeconfig()), arguments)).unwrap();
    let kinds = ask(&[
        "api-resources",
        "--api-group=holdfast.dev",
        "--categories=holdfast",
        "--output=name",
    ]);
    assert_eq!(kinds.lines().count(), SHOWN.len(), "{kinds}");
    let named = ask(&["api-resources", "--api-group=holdfast.dev", "--no-headers"]);
    for (plural, short, _) in SHOWN {
        let line = named.lines().find(|line| line.split_whitespace().next() == Some(plural));
        assert_eq!(line.and_then(|line| line.split_whitespace().nth(1)), Some(short), "{named}");
        ask(&["get", short, "--namespace=default"]);
    }
    let explained = ask(&["explain", "backupstore.spec.encryption"]);
    assert!(explained.contains("must be said"), "{explained}");
}

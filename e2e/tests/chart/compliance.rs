//! What compliance policies refuse, on a real API server with no operator running.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use holdfast_crds::{Span, span_seconds};
use holdfast_e2e::{
    api::{Answer, ask, holdfast_path, make_namespace},
    helm::{render, repository},
};
use http::Method;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    SERVER,
    admission::{Release, accepted, refused},
    definitions::{Edits, edited},
    eventually,
};

const POLICIES: &str = "/apis/holdfast.dev/v1alpha1/compliancepolicies";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    policy: Value,
    objects: BTreeMap<String, Value>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    of: String,
    #[serde(default)]
    create: bool,
    #[serde(default)]
    from: Edits,
    put: Edits,
    refused: Option<String>,
}

fn table() -> Table {
    let table: Value = serde_yaml::from_str(include_str!("tables/compliance.yaml")).unwrap();
    serde_json::from_value(table).unwrap()
}

pub fn policy(name: &str, mode: &str) -> Value {
    let mut spec = table().policy;
    spec["mode"] = json!(mode);
    spec["namespaces"] = json!({"matchLabels": {"compliance-test": name}});
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "CompliancePolicy", "metadata": {"name": name}, "spec": spec})
}

pub async fn label(admin: &Client, namespace: &str, policy: &str) -> Result<()> {
    let labels = json!({"metadata": {"labels": {"compliance-test": policy}}});
    let path = format!("/api/v1/namespaces/{namespace}");
    ask(admin, Method::PATCH, &path, &labels).await?.accepted()?;
    Ok(())
}

/// Makes a policy for the release's namespace, and waits until the API server refuses in its name.
pub async fn enforce(release: &Release, name: &str) -> Result<()> {
    label(&release.admin, &release.served, name).await?;
    ask(&release.admin, Method::POST, POLICIES, &policy(name, "Enforce"))
        .await?
        .accepted()?;
    in_force(release, name).await
}

async fn in_force(release: &Release, name: &str) -> Result<()> {
    let objects = table().objects;
    let words = format!("CompliancePolicy '{name}'");
    let mut suspended = objects["backupschedules"].clone();
    suspended["metadata"]["name"] = json!("probe");
    suspended["spec"]["suspend"] = json!(true);
    let dry = |plural: &str| format!("{}?dryRun=All", holdfast_path(&release.served, plural));
    refused(&release.admin, Method::POST, &dry("backupschedules"), &suspended, &words).await?;
    let mut open = objects["backupstores"].clone();
    open["metadata"]["name"] = json!("probe");
    open["spec"]["encryption"] = json!({"none": {}});
    refused(&release.admin, Method::POST, &dry("backupstores"), &open, &words).await?;
    let mut short = objects["backupruns"].clone();
    short["spec"]["keepFor"] = json!("1s");
    refused(&release.admin, Method::POST, &dry("backupruns"), &short, &words).await
}

#[tokio::test]
async fn each_floor_is_refused_with_its_name_and_that_of_the_policy() {
    let release = Release::install("floors").await.unwrap();
    let table = table();
    let mut made = Vec::new();
    for (number, row) in table.rows.iter().enumerate() {
        let mut object = edited(&table.objects[&row.of], &row.from);
        object["metadata"]["name"] = json!(format!("row-{number}"));
        let path = holdfast_path(&release.served, &row.of);
        if !row.create {
            object = ask(&release.admin, Method::POST, &path, &object).await.unwrap().accepted().unwrap();
        }
        made.push(object);
    }
    enforce(&release, "floors").await.unwrap();
    let mut wrong = Vec::new();
    for ((number, row), before) in table.rows.iter().enumerate().zip(&made) {
        let path = holdfast_path(&release.served, &row.of);
        let (method, path) = if row.create {
            (Method::POST, format!("{path}?dryRun=All"))
        } else {
            (Method::PUT, format!("{path}/row-{number}?dryRun=All"))
        };
        let answer = ask(&release.admin, method, &path, &edited(before, &row.put)).await.unwrap();
        match (answer, row.refused.as_ref().map(|words| words.replace("POLICY", "floors"))) {
            (Answer::Accepted(_), None) => {}
            (Answer::Refused(said), Some(words)) if said.contains(&words) => {}
            (answer, expected) => wrong.push(format!("row {number} {:?}: expected {expected:?}, but: {answer:?}", row.put)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table of the page has each floor that the definition knows, and says of each whether admission refuses, as the table beside this file tries it.
#[test]
fn the_page_says_floor_by_floor_what_is_refused() {
    let page = std::fs::read_to_string(repository().join("docs/holds-and-compliance.md")).unwrap();
    let definition = std::fs::read_to_string(repository().join("charts/holdfast-crds/templates/compliancepolicies.yaml")).unwrap();
    let definition: Value = serde_yaml::from_str(&definition).unwrap();
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let mut known = Vec::new();
    for group in ["floors", "ceiling"] {
        known.extend(
            spec[group]["properties"]
                .as_object()
                .unwrap()
                .keys()
                .map(|name| format!("{group}.{name}")),
        );
    }
    let rows = table().rows;
    let mut described = Vec::new();
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, floor, measured, refused, shown, _] = cells[..] else {
            continue;
        };
        let floor = floor.trim_matches('`');
        if !floor.starts_with("floors.") && !floor.starts_with("ceiling.") {
            continue;
        }
        let tried = rows
            .iter()
            .any(|row| row.refused.as_ref().is_some_and(|words| words.contains(floor)));
        assert_eq!(!refused.starts_with('–'), tried, "{floor}: {refused}");
        assert!(measured.len() > 10 && shown.len() > 10, "{line}");
        described.push(floor.to_owned());
    }
    described.sort();
    known.sort();
    assert_eq!(described, known);
}

#[tokio::test]
async fn an_audit_refuses_nothing() {
    let release = Release::install("audit").await.unwrap();
    let table = table();
    label(&release.admin, &release.served, "audit").await.unwrap();
    ask(&release.admin, Method::POST, POLICIES, &policy("audit", "Audit"))
        .await
        .unwrap()
        .accepted()
        .unwrap();
    // The same policy beside it, enforced on another namespace, shows when the API server has read both.
    make_namespace(&release.admin, "audit-beside").await.unwrap();
    let beside = policy("audit-beside", "Enforce");
    ask(&release.admin, Method::POST, POLICIES, &beside)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    for row in table.rows.iter().filter(|row| row.create) {
        let path = format!("{}?dryRun=All", holdfast_path(&release.served, &row.of));
        ask(&release.admin, Method::POST, &path, &edited(&table.objects[&row.of], &row.put))
            .await
            .unwrap()
            .accepted()
            .unwrap();
    }
    // Switched over, it refuses the same at once: it was read all the time.
    let mode = json!({"spec": {"mode": "Enforce"}});
    ask(&release.admin, Method::PATCH, &format!("{POLICIES}/audit"), &mode)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    in_force(&release, "audit").await.unwrap();
}

#[tokio::test]
async fn a_schedule_stays_and_its_namespace_still_ends_within_a_minute() {
    let release = Release::install("stays").await.unwrap();
    let path = holdfast_path(&release.served, "backupschedules");
    let schedule = &table().objects["backupschedules"];
    for name in ["gold", "second"] {
        let mut schedule = schedule.clone();
        schedule["metadata"]["name"] = json!(name);
        ask(&release.admin, Method::POST, &path, &schedule)
            .await
            .unwrap()
            .accepted()
            .unwrap();
    }
    enforce(&release, "stays").await.unwrap();
    let one = format!("{path}/gold");
    let said = ask(&release.admin, Method::DELETE, &one, &Value::Null)
        .await
        .unwrap()
        .refused()
        .unwrap();
    for words in ["'gold' to be deleted", "CompliancePolicy 'stays'", "stays-served"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let all = ask(&release.admin, Method::DELETE, &path, &Value::Null).await.unwrap();
    assert!(all.refused().unwrap().contains("CompliancePolicy 'stays'"));

    // Nor does it get an owner with whom it would go, at birth or later; but the operator's.
    let foreign = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "00000000-0000-0000-0000-000000000000"}]);
    let owned = json!({"metadata": {"ownerReferences": foreign}});
    let words = "metadata.ownerReferences: found the ConfigMap 'gone'";
    let said = ask(&release.admin, Method::PATCH, &one, &owned).await.unwrap().refused().unwrap();
    assert!(said.contains(words) && said.contains("CompliancePolicy 'stays'"), "{said}");
    let mut born = schedule.clone();
    born["metadata"] = json!({"name": "born", "ownerReferences": foreign});
    let said = ask(&release.admin, Method::POST, &path, &born).await.unwrap().refused().unwrap();
    assert!(said.contains(words), "{said}");
    let operator = "system:serviceaccount:stays-own:operator";
    crate::admission::may(&release.admin, &release.served, operator, &["create backupschedules "])
        .await
        .unwrap();
    accepted(&release.operator, Method::POST, &format!("{path}?dryRun=All"), &born)
        .await
        .unwrap();

    // The garbage collector is let through, whoever else is not.
    let collector = "system:serviceaccount:kube-system:generic-garbage-collector";
    crate::admission::may(&release.admin, &release.served, collector, &["delete backupschedules "])
        .await
        .unwrap();
    let collector = SERVER.client_as(collector).await.unwrap();
    accepted(&collector, Method::DELETE, &format!("{path}/second"), &Value::Null)
        .await
        .unwrap();

    let started = Instant::now();
    let namespace = format!("/api/v1/namespaces/{}", release.served);
    ask(&release.admin, Method::DELETE, &namespace, &Value::Null)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    eventually("the namespace is gone", async || {
        let answer = ask(&release.admin, Method::GET, &namespace, &Value::Null).await?;
        Ok(matches!(answer, Answer::Refused(said) if said.contains("not found")).then_some(()))
    })
    .await
    .unwrap();
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_namespace_is_not_relabelled_out_of_its_policy() {
    let release = Release::install("relabel").await.unwrap();
    enforce(&release, "relabel").await.unwrap();
    let path = format!("/api/v1/namespaces/{}", release.served);
    let dry = format!("{path}?dryRun=All");
    for (value, found) in [
        (json!("other"), "found 'other', was 'relabel'"),
        (Value::Null, "found nothing, was 'relabel'"),
    ] {
        let labels = json!({"metadata": {"labels": {"compliance-test": value}}});
        let words = format!("metadata.labels[compliance-test]: {found}, which takes the namespace out of CompliancePolicy 'relabel'");
        refused(&release.admin, Method::PATCH, &dry, &labels, &words).await.unwrap();
        // Subresources write labels, too.
        let status = format!("{path}/status?dryRun=All");
        refused(&release.admin, Method::PATCH, &status, &labels, &words).await.unwrap();
        let mut whole = ask(&release.admin, Method::GET, &path, &Value::Null)
            .await
            .unwrap()
            .accepted()
            .unwrap();
        match value {
            Value::Null => drop(whole["metadata"]["labels"].as_object_mut().unwrap().remove("compliance-test")),
            value => whole["metadata"]["labels"]["compliance-test"] = value,
        }
        let finalize = format!("{path}/finalize?dryRun=All");
        refused(&release.admin, Method::PUT, &finalize, &whole, &words).await.unwrap();
    }
    let other = json!({"metadata": {"labels": {"team": "a"}, "annotations": {"a": "b"}}});
    ask(&release.admin, Method::PATCH, &path, &other).await.unwrap().accepted().unwrap();
    // Without the policy the label is free again.
    let audit = json!({"spec": {"mode": "Audit"}});
    ask(&release.admin, Method::PATCH, &format!("{POLICIES}/relabel"), &audit)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let none = json!({"metadata": {"labels": {"compliance-test": Value::Null}}});
    accepted(&release.admin, Method::PATCH, &path, &none).await.unwrap();
}

#[tokio::test]
async fn a_locked_policy_is_neither_loosened_nor_deleted() {
    let release = Release::install("locked").await.unwrap();
    let mut object = policy("locked-open", "Enforce");
    ask(&release.admin, Method::POST, POLICIES, &object)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    object["metadata"]["name"] = json!("locked");
    object["spec"]["locked"] = json!(true);
    ask(&release.admin, Method::POST, POLICIES, &object)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let one = format!("{POLICIES}/locked");
    refused(
        &release.admin,
        Method::DELETE,
        &format!("{one}?dryRun=All"),
        &Value::Null,
        "CompliancePolicy 'locked' is locked and cannot be deleted",
    )
    .await
    .unwrap();
    let all = ask(
        &release.admin,
        Method::DELETE,
        &format!("{POLICIES}?labelSelector=none"),
        &Value::Null,
    )
    .await;
    all.unwrap().accepted().unwrap();
    for loosened in [
        json!({"locked": false}),
        json!({"mode": "Audit"}),
        json!({"floors": {"retention": "29d"}}),
        json!({"floors": {"encryption": null}}),
        json!({"ceiling": {"retention": "401d"}}),
        json!({"namespaces": {"matchLabels": {"more": "b"}}}),
    ] {
        let said = ask(&release.admin, Method::PATCH, &one, &json!({"spec": loosened}))
            .await
            .unwrap()
            .refused()
            .unwrap();
        assert!(
            said.contains("\"locked\" is invalid: spec.") && said.contains("can only become tighter"),
            "{said}"
        );
    }
    let tighter = json!({"spec": {"floors": {"retention": "31d"}}});
    ask(&release.admin, Method::PATCH, &one, &tighter)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    // One that is not locked can go.
    accepted(&release.admin, Method::DELETE, &format!("{POLICIES}/locked-open"), &Value::Null)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_definition_is_not_deleted_by_accident() {
    let release = Release::install("definitions").await.unwrap();
    let list = ask(&release.admin, Method::GET, DEFINITIONS, &Value::Null)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|crd| crd["metadata"]["name"].as_str().unwrap())
        .filter(|name| name.ends_with(".holdfast.dev"))
        .collect();
    assert!(names.len() >= 9);
    for name in names {
        let path = format!("{DEFINITIONS}/{name}?dryRun=All");
        refused(
            &release.admin,
            Method::DELETE,
            &path,
            &Value::Null,
            "annotate it first with holdfast.dev/delete=",
        )
        .await
        .unwrap();
    }
    // Said twice, it is meant. And the definitions of others are none of its business.
    let path = format!("{DEFINITIONS}/disposalrequests.holdfast.dev");
    let annotated = |value: &str| json!({"metadata": {"annotations": {"holdfast.dev/delete": value}}});
    ask(&release.admin, Method::PATCH, &path, &annotated("backupruns"))
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let dry = format!("{path}?dryRun=All");
    let said = ask(&release.admin, Method::DELETE, &dry, &Value::Null)
        .await
        .unwrap()
        .refused()
        .unwrap();
    assert!(said.contains("holdfast.dev/delete=disposalrequests"), "{said}");
    ask(&release.admin, Method::PATCH, &path, &annotated("disposalrequests"))
        .await
        .unwrap()
        .accepted()
        .unwrap();
    accepted(&release.admin, Method::DELETE, &dry, &Value::Null).await.unwrap();
    let foreign = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.org"},
        "spec": {"group": "example.org", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    ask(&release.admin, Method::POST, DEFINITIONS, &foreign)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    ask(
        &release.admin,
        Method::DELETE,
        &format!("{DEFINITIONS}/things.example.org"),
        &Value::Null,
    )
    .await
    .unwrap()
    .accepted()
    .unwrap();
}

#[tokio::test]
async fn one_expression_says_how_long_a_duration_is() {
    // The chart's is that of the definitions …
    let objects = render("holdfast", "hf", &["--set=crds.install=false"]).unwrap();
    let schedules = objects
        .iter()
        .find(|object| object["metadata"]["name"] == "holdfast.hf.compliance-schedules")
        .unwrap();
    let text = schedules["spec"]["variables"].to_string();
    for term in [
        "s.retention.keepWithin",
        "params.spec.floors.retention",
        "object.spec.objectives.rpo",
        "params.spec.ceiling.retention",
    ] {
        assert!(text.contains(&span_seconds(term)), "{term}: {text}");
    }
    // … and the API server computes by it what we do.
    let client = SERVER.client().await.unwrap();
    make_namespace(&client, "durations").await.unwrap();
    let api = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "durations"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}]},
        "validations": [{"expression": format!("{} == int(object.data.seconds)", span_seconds("object.data.span")), "message": "another length"}]}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "durations"}, "spec": {
        "policyName": "durations", "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "durations"}}}}});
    ask(&client, Method::POST, &format!("{api}/validatingadmissionpolicies"), &policy)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    ask(&client, Method::POST, &format!("{api}/validatingadmissionpolicybindings"), &binding)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let path = "/api/v1/namespaces/durations/configmaps?dryRun=All";
    let map = |span: &str, seconds: u64| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"span": span, "seconds": seconds.to_string()}});
    refused(&client, Method::POST, path, &map("1s", 2), "another length").await.unwrap();
    for span in [
        "1s", "59s", "60s", "90s", "1m", "30m", "999999m", "1h", "24h", "25h", "1d", "14d", "366d", "3650d", "999999s", "999999h",
        "999999d",
    ] {
        let seconds = span.parse::<Span>().unwrap().seconds();
        let answer = ask(&client, Method::POST, path, &map(span, seconds)).await.unwrap();
        assert!(matches!(answer, Answer::Accepted(_)), "{span}: {answer:?}");
        let answer = ask(&client, Method::POST, path, &map(span, seconds + 1)).await.unwrap();
        assert!(matches!(answer, Answer::Refused(_)), "{span}: {answer:?}");
    }
}

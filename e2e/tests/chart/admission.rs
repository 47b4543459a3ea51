//! The admission policies on a real API server, with no operator running. Each test has a release and namespaces of its own.

use std::{collections::BTreeMap, sync::Mutex};

use anyhow::{Result, bail};
use holdfast_e2e::{
    api::{Answer, ask, holdfast_path, make_namespace},
    helm::{chart, helm, run},
};
use http::Method;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    SERVER,
    definitions::{Edits, edited},
    eventually,
};

/// A release that serves the namespaces `<name>-served`.
pub struct Release {
    pub admin: Client,
    pub operator: Client,
    pub served: String,
}

impl Release {
    pub async fn install(name: &str) -> Result<Self> {
        let admin = SERVER.client().await?;
        let (own, served) = (format!("{name}-own"), format!("{name}-served"));
        make_namespace(&admin, &served).await?;
        let namespaces = format!("--set=namespaces={{{served}}}");
        run(helm(Some(SERVER.kubeconfig()), ["install", name]).arg(chart()).args([
            "--namespace",
            &own,
            "--create-namespace",
            "--set=fullnameOverride=operator,image.tag=0.1.0,clusterId=x,crds.install=false,aggregatedRoles.install=false",
            &namespaces,
        ]))?;
        let release = Self {
            admin,
            operator: SERVER.client_as(&format!("system:serviceaccount:{own}:operator")).await?,
            served,
        };
        release.in_force().await?;
        Ok(release)
    }

    /// Waits until the API server has read each of the policies: until each has refused something.
    async fn in_force(&self) -> Result<()> {
        may(
            &self.admin,
            &self.served,
            "stranger",
            &["create backupsources ", "create backupstores ", "create restorerequests "],
        )
        .await?;
        let stranger = SERVER.client_as("stranger").await?;
        let authors = authors()?;
        for kind in ["backupsources", "backupstores", "restorerequests"] {
            refused(&stranger, Method::POST, &self.dry(kind), &authors.objects[kind], "may not read").await?;
        }
        refused(&self.admin, Method::POST, &self.dry("backupruns"), &run_of_tick(), "spec.tick").await?;
        refused(&self.operator, Method::POST, &self.dry("backupruns"), &run_by_hand(), "spec.tick").await?;
        let job = edited(
            &jobs()?.base,
            &Edits::from([("/metadata/labels".to_owned(), json!({"made-by": "somebody"}))]),
        );
        refused(&self.operator, Method::POST, &self.jobs_dry(), &job, "metadata.labels").await
    }

    fn dry(&self, plural: &str) -> String {
        format!("{}?dryRun=All", holdfast_path(&self.served, plural))
    }

    fn jobs(&self) -> String {
        format!("/apis/batch/v1/namespaces/{}/jobs", self.served)
    }

    pub fn jobs_dry(&self) -> String {
        format!("{}?dryRun=All", self.jobs())
    }
}

/// Lets a user do these: verb, resource and name (of all where it is empty) in one text.
pub async fn may(admin: &Client, namespace: &str, user: &str, rights: &[impl AsRef<str>]) -> Result<()> {
    let mut rules = Vec::new();
    for right in rights {
        let parts: Vec<_> = right.as_ref().split(' ').collect();
        let [verb, resource, name] = parts[..] else { bail!("{parts:?}") };
        let names: &[&str] = if name.is_empty() || name == "\"\"" { &[] } else { &[name] };
        rules.push(json!({"apiGroups": ["", "holdfast.dev"], "resources": [resource], "verbs": [verb], "resourceNames": names}));
    }
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": user}, "rules": rules});
    ask(admin, Method::POST, &format!("{path}/roles"), &role).await?.accepted()?;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    ask(admin, Method::POST, &format!("{path}/rolebindings"), &binding)
        .await?
        .accepted()?;
    Ok(())
}

/// Waits until the answer to a request is the expected one: rights and policies are read by the API server some moments after they were stored.
async fn answered<T>(client: &Client, method: Method, path: &str, object: &Value, expected: impl Fn(Answer) -> Option<T>) -> Result<T> {
    let last = Mutex::new(String::new());
    let what = format!("{method} {path}");
    let answer = eventually(&what, async || {
        let answer = ask(client, method.clone(), path, object).await?;
        *last.lock().unwrap() = format!("{answer:?}");
        Ok(expected(answer))
    });
    answer.await.map_err(|error| error.context(last.lock().unwrap().clone()))
}

pub async fn refused(client: &Client, method: Method, path: &str, object: &Value, words: &str) -> Result<()> {
    let expected = |answer| matches!(answer, Answer::Refused(message) if message.contains(words)).then_some(());
    answered(client, method, path, object, expected).await
}

pub async fn accepted(client: &Client, method: Method, path: &str, object: &Value) -> Result<Value> {
    let expected = |answer: Answer| answer.accepted().ok();
    answered(client, method, path, object, expected).await
}

fn run_by_hand() -> Value {
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun", "metadata": {"name": "by-hand"}, "spec": {"source": "shop", "stores": [{"name": "offsite"}]}})
}

fn run_of_tick() -> Value {
    let mut run = run_by_hand();
    run["metadata"]["name"] = json!("of-tick");
    run["spec"]["tick"] = json!({"schedule": "gold", "trigger": "nightly", "time": "2026-11-20T22:10:00Z"});
    run
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authors {
    objects: BTreeMap<String, Value>,
    rows: Vec<AuthorRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorRow {
    writes: String,
    #[serde(default)]
    may: Vec<String>,
    #[serde(default)]
    put: Edits,
    /// The object exists, and this is changed of it.
    changes: Option<Edits>,
    refused: Option<String>,
}

fn authors() -> Result<Authors> {
    let table: Value = serde_yaml::from_str(include_str!("tables/authors.yaml"))?;
    Ok(serde_json::from_value(table)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Jobs {
    base: Value,
    refused: Vec<JobRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobRow {
    put: Edits,
    says: String,
}

fn jobs() -> Result<Jobs> {
    let table: Value = serde_yaml::from_str(include_str!("tables/jobs.yaml"))?;
    Ok(serde_json::from_value(table)?)
}

#[tokio::test]
async fn who_names_a_secret_must_be_allowed_to_read_it() {
    let release = Release::install("authors").await.unwrap();
    let table = authors().unwrap();
    let kinds = ["backupsources", "backupstores", "backupschedules", "restorerequests"];
    for (number, row) in table.rows.iter().enumerate() {
        let user = format!("author-{number}");
        let mut rights: Vec<String> = kinds
            .iter()
            .flat_map(|kind| ["create", "update"].map(|verb| format!("{verb} {kind} ")))
            .collect();
        rights.extend(row.may.iter().cloned());
        may(&release.admin, &release.served, &user, &rights).await.unwrap();
    }
    for (number, row) in table.rows.iter().enumerate() {
        let user = format!("author-{number}");
        let author = SERVER.client_as(&user).await.unwrap();
        let mut object = edited(&table.objects[&row.writes], &row.put);
        object["metadata"]["name"] = json!(user);
        let mut path = holdfast_path(&release.served, &row.writes);
        let mut method = Method::POST;
        if let Some(changes) = &row.changes {
            let made = ask(&release.admin, Method::POST, &path, &object).await.unwrap().accepted().unwrap();
            object = edited(&made, changes);
            path = format!("{path}/{user}");
            method = Method::PUT;
        }
        let path = format!("{path}?dryRun=All");
        let tried = match &row.refused {
            None => accepted(&author, method, &path, &object).await.map(|_| ()),
            Some(words) => refused(&author, method, &path, &object, words).await,
        };
        tried.unwrap_or_else(|error| panic!("row {number}, {:?} of {}: {error:?}", row.put, row.writes));
    }
}

#[tokio::test]
async fn a_refusal_names_field_value_user_and_remedy() {
    let release = Release::install("words").await.unwrap();
    let stranger = SERVER.client_as("stranger").await.unwrap();
    let source = &authors().unwrap().objects["backupsources"];
    let said = ask(&stranger, Method::POST, &release.dry("backupsources"), source)
        .await
        .unwrap()
        .refused()
        .unwrap();
    for words in [
        "spec.postgresql.credentials.secretName",
        "'app'",
        "stranger",
        "ask for the verb get on it in namespace words-served",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[tokio::test]
async fn only_the_operator_says_a_tick() {
    let release = Release::install("ticks").await.unwrap();
    let path = holdfast_path(&release.served, "backupruns");
    // Not even an administrator.
    refused(&release.admin, Method::POST, &path, &run_of_tick(), "only the operator sets a tick")
        .await
        .unwrap();
    accepted(&release.admin, Method::POST, &path, &run_by_hand()).await.unwrap();
    let made = accepted(&release.operator, Method::POST, &path, &run_of_tick()).await.unwrap();
    // Who may cancel it can, tick or not.
    let cancelled = edited(&made, &Edits::from([("/spec/cancel".to_owned(), json!(true))]));
    accepted(&release.admin, Method::PUT, &format!("{path}/of-tick"), &cancelled)
        .await
        .unwrap();
    // The operator makes runs of ticks only, and may delete any.
    let mut other = run_by_hand();
    other["metadata"]["name"] = json!("by-operator");
    refused(
        &release.operator,
        Method::POST,
        &path,
        &other,
        "the operator makes runs of ticks only",
    )
    .await
    .unwrap();
    for run in ["of-tick", "by-hand"] {
        accepted(&release.operator, Method::DELETE, &format!("{path}/{run}"), &Value::Null)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_operator_makes_no_jobs_but_agents() {
    let release = Release::install("jobs").await.unwrap();
    let table = jobs().unwrap();
    accepted(&release.operator, Method::POST, &release.jobs_dry(), &table.base)
        .await
        .unwrap();
    for row in &table.refused {
        let job = edited(&table.base, &row.put);
        refused(&release.operator, Method::POST, &release.jobs_dry(), &job, &row.says)
            .await
            .unwrap_or_else(|error| panic!("{:?}: {error:?}", row.put));
        // Others are none of the policy's business.
        accepted(&release.admin, Method::POST, &release.jobs_dry(), &job)
            .await
            .unwrap_or_else(|error| panic!("{:?} by an administrator: {error:?}", row.put));
    }
}

#[tokio::test]
async fn the_operator_deletes_no_jobs_but_its_own() {
    let release = Release::install("deletes").await.unwrap();
    let own = jobs().unwrap().base;
    let mut foreign = edited(
        &own,
        &Edits::from([("/metadata/labels".to_owned(), json!({"made-by": "somebody"}))]),
    );
    foreign["metadata"]["name"] = json!("foreign");
    ask(&release.operator, Method::POST, &release.jobs(), &own)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    ask(&release.admin, Method::POST, &release.jobs(), &foreign)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let said = ask(
        &release.operator,
        Method::DELETE,
        &format!("{}/foreign", release.jobs()),
        &Value::Null,
    )
    .await
    .unwrap();
    let said = said.refused().unwrap();
    assert!(said.contains("not its own"), "{said}");
    ask(
        &release.operator,
        Method::DELETE,
        &format!("{}/probe-1", release.jobs()),
        &Value::Null,
    )
    .await
    .unwrap()
    .accepted()
    .unwrap();
}

#[tokio::test]
async fn two_releases_leave_each_others_namespaces_alone() {
    let (one, two) = (Release::install("one").await.unwrap(), Release::install("two").await.unwrap());
    for (release, other) in [(&one, &two), (&two, &one)] {
        accepted(&release.operator, Method::POST, &release.dry("backupruns"), &run_of_tick())
            .await
            .unwrap();
        let foreign = ask(&release.operator, Method::POST, &other.dry("backupruns"), &run_of_tick())
            .await
            .unwrap();
        assert!(foreign.refused().unwrap().contains("forbidden"));
    }
    // A namespace that nobody serves.
    let admin = &one.admin;
    make_namespace(admin, "unserved").await.unwrap();
    ask(
        admin,
        Method::POST,
        &format!("{}?dryRun=All", holdfast_path("unserved", "backupruns")),
        &run_of_tick(),
    )
    .await
    .unwrap()
    .accepted()
    .unwrap();
}

#[tokio::test]
async fn the_operator_has_no_way_to_secrets_and_into_pods() {
    let release = Release::install("rights").await.unwrap();
    let namespace = &release.served;
    let tries = [
        (Method::GET, format!("/api/v1/namespaces/{namespace}/secrets")),
        (Method::GET, format!("/api/v1/namespaces/{namespace}/secrets/s3")),
        (Method::GET, format!("/api/v1/namespaces/{namespace}/configmaps")),
        (Method::GET, "/api/v1/namespaces/default/pods/a/log".to_owned()),
        (Method::GET, format!("/api/v1/namespaces/{namespace}/pods/a/exec?command=sh")),
        (Method::POST, format!("/api/v1/namespaces/{namespace}/pods/a/exec?command=sh")),
        (Method::DELETE, format!("/api/v1/namespaces/{namespace}/pods/a")),
        (Method::GET, "/api/v1/secrets".to_owned()),
        (Method::GET, "/apis/batch/v1/jobs".to_owned()),
        (Method::POST, "/api/v1/namespaces/default/serviceaccounts/default/token".to_owned()),
    ];
    for (method, path) in tries {
        let body = if method == Method::POST { json!({}) } else { Value::Null };
        let said = ask(&release.operator, method.clone(), &path, &body)
            .await
            .unwrap()
            .refused()
            .unwrap();
        assert!(said.contains("forbidden"), "{method} {path}: {said}");
    }
    let pods = ask(
        &release.operator,
        Method::GET,
        &format!("/api/v1/namespaces/{namespace}/pods"),
        &Value::Null,
    )
    .await
    .unwrap();
    pods.accepted().unwrap();
    // A keeper's report is in its pod's log.
    let log = format!("/api/v1/namespaces/{namespace}/pods/a/log");
    let said = ask(&release.operator, Method::GET, &log, &Value::Null)
        .await
        .unwrap()
        .refused()
        .unwrap();
    assert!(said.contains("not found"), "{said}");
}

#[tokio::test]
async fn the_operator_writes_statuses_and_no_specification() {
    let release = Release::install("statuses").await.unwrap();
    let objects = authors().unwrap().objects;
    for (plural, object) in &objects {
        let path = holdfast_path(&release.served, plural);
        ask(&release.admin, Method::POST, &path, object).await.unwrap().accepted().unwrap();
        let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
        let status = json!({"status": {"observedGeneration": 1}});
        // Nobody else does: the operator goes by them.
        let by = "found a change by 'admin', but only the operator says where an object stands";
        let dry = format!("{path}/status?dryRun=All");
        refused(&release.admin, Method::PATCH, &dry, &status, by).await.unwrap();
        let written = ask(&release.operator, Method::PATCH, &format!("{path}/status"), &status)
            .await
            .unwrap()
            .accepted()
            .unwrap();
        assert_eq!(written["status"]["observedGeneration"], 1, "{plural}");
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        let said = ask(&release.operator, Method::PATCH, &path, &label)
            .await
            .unwrap()
            .refused()
            .unwrap();
        assert!(said.contains("forbidden"), "{plural}: {said}");
        // A way around: the status is written with a specification beside it.
        let both = json!({"status": {"observedGeneration": 2}, "spec": {"job": {"image": "evil"}}});
        let written = ask(&release.operator, Method::PATCH, &format!("{path}/status"), &both)
            .await
            .unwrap();
        if let Answer::Accepted(written) = written {
            assert_eq!(written["spec"]["job"], Value::Null, "{plural}");
        }
    }
}

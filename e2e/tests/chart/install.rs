//! Install, upgrade, uninstall and install again, with the definitions kept, on an API server of this test's own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use holdfast_e2e::{
    api::{Answer, ApiServer, ask, holdfast_path, make_namespace},
    helm::{Said, chart, helm, kubectl, repository, run, say, tool},
};
use http::Method;
use serde_json::{Value, json};

const DEFINITIONS: usize = 12;
const POLICIES: usize = 20;
/// … of a release for some namespaces: in the place of the two for cluster-wide stores it has one for what it does not serve.
const POLICIES_OF_NAMESPACES: usize = 18;

struct Cluster(ApiServer);

impl Cluster {
    fn helm(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = helm(Some(self.0.kubeconfig()), arguments);
        say(if matches!(arguments, ["uninstall", ..]) {
            &mut command
        } else {
            command.arg(chart())
        })
    }

    /// A helm command that must succeed.
    fn done(&self, arguments: &[&str]) -> Result<Said> {
        let said = self.helm(arguments)?;
        anyhow::ensure!(said.succeeded, "helm {arguments:?}: {}{}", said.out, said.err);
        Ok(said)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(&mut kubectl(Some(self.0.kubeconfig()), arguments))
    }

    /// Does what the notes tell an administrator to do, word for word.
    fn administrator_follows(&self, notes: &str) -> Result<()> {
        let start = notes.find("  helm get values").context("the notes tell nothing")?;
        let command = notes[start..].split("\n\n").next().unwrap_or_default();
        let folder = |tool: PathBuf| tool.parent().map(Path::to_owned).unwrap_or_default();
        let path = env::join_paths(
            [folder(tool("helm")), folder(tool("kubectl"))]
                .into_iter()
                .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
        )?;
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", command]).current_dir(repository());
        run(shell.env("KUBECONFIG", self.0.kubeconfig()).env("PATH", path))?;
        Ok(())
    }

    fn count(&self, kind: &str) -> Result<usize> {
        Ok(self.kubectl(&["get", kind, "--all-namespaces", "--output=name"])?.lines().count())
    }
}

fn run_object() -> Value {
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupRun", "metadata": {"name": "kept"}, "spec": {"source": "shop", "stores": [{"name": "offsite"}]}})
}

#[tokio::test]
async fn objects_outlive_upgrade_uninstall_and_install_again() {
    let cluster = Cluster(ApiServer::start().unwrap());
    let place = ["--namespace=holdfast-system", "--create-namespace"];
    let said = cluster.done(&["install", "holdfast", place[0], place[1]]).unwrap();
    assert!(
        said.out.contains("serves all namespaces") && said.out.contains("kubectl get holdfast"),
        "{}",
        said.out
    );
    assert_eq!(cluster.count("crd").unwrap(), DEFINITIONS);
    cluster.0.established().unwrap();
    policies_have_no_type_errors(&cluster).await.unwrap();
    roles_are_aggregated(&cluster).await.unwrap();

    let client = cluster.0.client().await.unwrap();
    make_namespace(&client, "shop").await.unwrap();
    let runs = holdfast_path("shop", "backupruns");
    let made = ask(&client, Method::POST, &runs, &run_object()).await.unwrap().accepted().unwrap();
    let kept = async || {
        ask(&client, Method::GET, &format!("{runs}/kept"), &Value::Null)
            .await
            .unwrap()
            .accepted()
            .unwrap()["metadata"]["uid"]
            .clone()
    };

    // The Lease of the leader outlives an upgrade, with who holds it; it does not outlive the release, of which nobody could hand it over.
    let lease = "/apis/coordination.k8s.io/v1/namespaces/holdfast-system/leases/holdfast";
    let held = json!({"spec": {"holderIdentity": "a-pod"}});
    ask(&client, Method::PATCH, lease, &held).await.unwrap().accepted().unwrap();
    let holder = async || {
        let lease = ask(&client, Method::GET, lease, &Value::Null).await.unwrap().accepted();
        lease.unwrap()["spec"]["holderIdentity"].clone()
    };

    cluster.done(&["upgrade", "holdfast", place[0], "--set=replicas=3"]).unwrap();
    assert_eq!((kept().await, holder().await), (made["metadata"]["uid"].clone(), json!("a-pod")));

    // Taken out of the release, the definitions stay as well.
    cluster
        .done(&["upgrade", "holdfast", place[0], "--set=crds.install=false"])
        .unwrap();
    assert_eq!(kept().await, made["metadata"]["uid"]);
    cluster.done(&["upgrade", "holdfast", place[0]]).unwrap();

    cluster.done(&["uninstall", "holdfast", place[0]]).unwrap();
    for kind in [
        "deployments",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "networkpolicies",
        "poddisruptionbudgets",
    ] {
        assert_eq!(cluster.count(kind).unwrap(), 0, "{kind} after uninstalling");
    }
    assert_eq!(cluster.count("crd").unwrap(), DEFINITIONS);
    assert_eq!(kept().await, made["metadata"]["uid"]);

    ask(&client, Method::GET, lease, &Value::Null).await.unwrap().refused().unwrap();

    cluster.done(&["install", "holdfast", place[0]]).unwrap();
    assert_eq!((kept().await, holder().await), (made["metadata"]["uid"].clone(), Value::Null));
    cluster.done(&["uninstall", "holdfast", place[0]]).unwrap();

    // Under another name the kept definitions belong to somebody else, until that is said to be over.
    let refused = cluster
        .helm(&["install", "other", "--namespace=elsewhere", "--create-namespace"])
        .unwrap();
    assert!(
        !refused.succeeded && refused.err.contains("invalid ownership metadata"),
        "{}",
        refused.err
    );
    cluster
        .done(&[
            "install",
            "other",
            "--namespace=elsewhere",
            "--create-namespace",
            "--take-ownership",
        ])
        .unwrap();
    assert_eq!(kept().await, made["metadata"]["uid"]);

    // A second release beside it, for namespaces of its own, leaves definitions and roles to the first.
    let second = [
        "install",
        "team",
        "--namespace=team-backups",
        "--create-namespace",
        "--set=namespaces={team},clusterId=eu-1,fullnameOverride=team",
        "--set=crds.install=false,aggregatedRoles.install=false,admissionPolicies.install=false",
    ];
    make_namespace(&client, "team").await.unwrap();
    let said = cluster.done(&second).unwrap();
    let policies = cluster.count("validatingadmissionpolicies").unwrap();
    cluster.administrator_follows(&said.out).unwrap();
    let added = cluster.kubectl(&["get", "validatingadmissionpolicies", "--output=name"]).unwrap();
    assert_eq!(added.lines().count(), policies + POLICIES_OF_NAMESPACES);
    assert_eq!(added.matches("/team.team-backups.").count(), POLICIES_OF_NAMESPACES, "{added}");
    cluster.done(&["uninstall", "team", "--namespace=team-backups"]).unwrap();
    assert_eq!(cluster.count("crd").unwrap(), DEFINITIONS);
    assert_eq!(kept().await, made["metadata"]["uid"]);
}

/// The API server checks the types of the expressions by itself, and tells in the status.
async fn policies_have_no_type_errors(cluster: &Cluster) -> Result<()> {
    let client = cluster.0.client().await?;
    let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let checked = async || -> Result<Option<Vec<Value>>> {
        let list = ask(&client, Method::GET, path, &Value::Null).await?.accepted()?;
        let policies = list["items"].as_array().context("no list")?.clone();
        Ok(policies
            .iter()
            .all(|policy| !policy["status"]["typeChecking"].is_null())
            .then_some(policies))
    };
    let policies = crate::eventually("the policies are checked", checked).await?;
    assert_eq!(policies.len(), POLICIES);
    for policy in policies {
        assert_eq!(
            policy["status"]["typeChecking"]["expressionWarnings"],
            Value::Null,
            "{}",
            policy["metadata"]["name"]
        );
    }
    Ok(())
}

async fn roles_are_aggregated(cluster: &Cluster) -> Result<()> {
    let client = cluster.0.client().await?;
    for (role, resource, verb, has) in [
        ("view", "backupstores", "watch", true),
        ("view", "backupstores", "create", false),
        ("edit", "backupruns", "create", true),
        ("edit", "restorerequests", "get", true),
        ("edit", "restorerequests", "create", false),
        ("admin", "restorerequests", "create", true),
        ("view", "complianceholds", "list", true),
        ("view", "disposalrequests", "get", true),
        ("view", "retentionpreviews", "get", true),
        ("view", "clusterbackupstores", "list", true),
        ("view", "clusterbackupschedules", "watch", true),
        ("edit", "clusterbackupstores", "create", false),
        ("admin", "clusterbackupschedules", "create", false),
        ("view", "retentionpreviews", "create", false),
        ("edit", "retentionpreviews", "create", true),
        // Holding, releasing and approving are given to people by name.
        ("edit", "complianceholds", "create", false),
        ("admin", "complianceholds", "create", false),
        ("admin", "complianceholds", "release", false),
        ("admin", "disposalrequests", "approve", false),
        ("holdfast.holdfast-system.hold-keeper", "complianceholds", "release", true),
        ("holdfast.holdfast-system.hold-keeper", "clustercomplianceholds", "release", true),
        ("holdfast.holdfast-system.hold-keeper", "disposalrequests", "create", true),
        ("holdfast.holdfast-system.hold-keeper", "disposalrequests", "approve", false),
        ("holdfast.holdfast-system.approver", "disposalrequests", "approve", true),
        ("holdfast.holdfast-system.approver", "disposalrequests", "create", false),
        ("holdfast.holdfast-system.compliance-viewer", "compliancepolicies", "get", true),
    ] {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{role}");
        let granted =
            async || -> Result<bool> {
                let rules = ask(&client, Method::GET, &path, &Value::Null).await?.accepted()?["rules"].clone();
                let named = |rule: &Value, key: &str, text: &str| rule[key].as_array().is_some_and(|list| list.contains(&json!(text)));
                Ok(rules.as_array().context("no rules")?.iter().any(|rule| {
                    named(rule, "apiGroups", "holdfast.dev") && named(rule, "resources", resource) && named(rule, "verbs", verb)
                }))
            };
        if has {
            crate::eventually(&format!("{role} may {verb} {resource}"), async || {
                Ok(granted().await?.then_some(()))
            })
            .await?;
        } else {
            assert!(!granted().await?, "{role} must not {verb} {resource}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn definitions_are_upgraded_and_can_stand_alone() {
    let cluster = Cluster(ApiServer::start().unwrap());
    let crds = repository().join("charts/holdfast-crds");
    // An older version of the chart: a field of today is missing.
    let older = std::env::temp_dir().join(format!("holdfast-crds-{}", std::process::id()));
    run(Command::new("cp").arg("--recursive").arg(&crds).arg(&older)).unwrap();
    let file = older.join("templates/backupruns.yaml");
    let mut definition: Value = serde_yaml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let spec = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"].as_object_mut().unwrap().remove("cancel").unwrap();
    spec.as_object_mut().unwrap().remove("x-kubernetes-validations");
    fs::write(&file, serde_yaml::to_string(&definition).unwrap()).unwrap();

    let alone = |verb: &str, chart: &std::path::Path| {
        run(helm(Some(cluster.0.kubeconfig()), [verb, "holdfast-crds", "--namespace=default"]).arg(chart))
    };
    alone("install", &older).unwrap();
    fs::remove_dir_all(&older).unwrap();
    cluster.0.established().unwrap();
    let client = cluster.0.client().await.unwrap();
    let runs = holdfast_path("default", "backupruns");
    let mut cancelled = run_object();
    cancelled["spec"]["cancel"] = json!(true);
    let refused = ask(&client, Method::POST, &runs, &cancelled).await.unwrap().refused().unwrap();
    assert!(refused.contains("spec.cancel"), "{refused}");

    alone("upgrade", &crds).unwrap();
    // The API server serves a new definition some moments after it was stored.
    crate::eventually("the new field is known", async || {
        Ok(match ask(&client, Method::POST, &format!("{runs}?dryRun=All"), &cancelled).await? {
            Answer::Accepted(_) => Some(()),
            Answer::Refused(_) => None,
        })
    })
    .await
    .unwrap();

    // The operator's chart beside it.
    let refused = cluster.helm(&["install", "holdfast", "--namespace=default"]).unwrap();
    assert!(
        !refused.succeeded && refused.err.contains("invalid ownership metadata"),
        "{}",
        refused.err
    );
    let said = cluster
        .done(&["install", "holdfast", "--namespace=default", "--set=crds.install=false"])
        .unwrap();
    assert!(said.out.contains("install the chart holdfast-crds"), "{}", said.out);
}

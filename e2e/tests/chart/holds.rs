//! Who may place and release holds, and request and approve disposals, on a real API server with no operator running.

use anyhow::Result;
use holdfast_e2e::{
    api::{Answer, ask, holdfast_path},
    helm::repository,
};
use http::Method;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    SERVER,
    admission::{Release, accepted, may, refused},
    compliance::{enforce, policy},
    definitions::{Edits, edited},
    eventually,
};

const CLUSTER_HOLDS: &str = "/apis/holdfast.dev/v1alpha1/clustercomplianceholds";

fn hold(name: &str, placed_by: &str) -> Value {
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ComplianceHold", "metadata": {"name": name},
        "spec": {"select": {"sources": ["shop"]}, "reason": "case 26", "placedBy": placed_by}})
}

fn release_by(user: &str) -> Value {
    json!({"spec": {"release": {"releasedBy": user, "reason": "settled"}}})
}

/// A user with these rights in the release's namespace.
async fn user(release: &Release, name: &str, rights: &[&str]) -> Client {
    may(&release.admin, &release.served, name, rights).await.unwrap();
    SERVER.client_as(name).await.unwrap()
}

#[tokio::test]
async fn a_hold_is_placed_and_released_by_who_says_so() {
    let release = Release::install("holds").await.unwrap();
    let path = holdfast_path(&release.served, "complianceholds");
    let dry = format!("{path}?dryRun=All");
    let write = ["create complianceholds ", "patch complianceholds ", "delete complianceholds "];
    let keeper = [write[0], write[1], write[2], "release complianceholds "];
    let alice = user(&release, "alice", &keeper).await;
    let bob = user(&release, "bob", &keeper).await;
    let carol = user(&release, "carol", &write).await;
    let dave = user(&release, "dave", &[write[1], write[2], "release complianceholds other"]).await;

    refused(
        &alice,
        Method::POST,
        &dry,
        &hold("case", "bob"),
        "spec.placedBy: found 'bob', but the request is made by 'alice'; say placedBy: alice",
    )
    .await
    .unwrap();
    let mut released = hold("case", "alice");
    released["spec"]["release"] = release_by("alice")["spec"]["release"].clone();
    refused(&alice, Method::POST, &dry, &released, "spec.release: found one in a new hold")
        .await
        .unwrap();
    let mut foreign = hold("case", "alice");
    foreign["spec"]["select"] = json!({"runs": ["holds-served/shop/a", "other/shop/a"]});
    refused(
        &alice,
        Method::POST,
        &dry,
        &foreign,
        "spec.select.runs: found a run of another namespace",
    )
    .await
    .unwrap();
    foreign["spec"]["select"]["runs"] = json!(["holds-served/shop/a"]);
    accepted(&alice, Method::POST, &dry, &foreign).await.unwrap();
    for name in ["case", "other"] {
        accepted(&alice, Method::POST, &path, &hold(name, "alice")).await.unwrap();
    }
    let mut own = hold("own", "alice");
    own["spec"]["releaseBy"] = json!("Anyone");
    accepted(&alice, Method::POST, &path, &own).await.unwrap();

    let one = format!("{path}/case");
    let tried = format!("{one}?dryRun=All");
    refused(
        &bob,
        Method::PATCH,
        &tried,
        &release_by("alice"),
        "spec.release.releasedBy: found 'alice', but the request is made by 'bob'",
    )
    .await
    .unwrap();
    refused(
        &alice,
        Method::PATCH,
        &tried,
        &release_by("alice"),
        "who also placed the hold 'case'; another person must release it",
    )
    .await
    .unwrap();
    refused(&carol, Method::PATCH, &tried, &release_by("carol"), "spec.release: found a release by 'carol', who may not release the hold 'case'; ask for the verb release on complianceholds in namespace holds-served").await.unwrap();
    // The verb counts for the hold that it names.
    refused(
        &dave,
        Method::PATCH,
        &tried,
        &release_by("dave"),
        "who may not release the hold 'case'",
    )
    .await
    .unwrap();
    accepted(&dave, Method::PATCH, &format!("{path}/other?dryRun=All"), &release_by("dave"))
        .await
        .unwrap();
    accepted(&alice, Method::PATCH, &format!("{path}/own?dryRun=All"), &release_by("alice"))
        .await
        .unwrap();
    // Other edits need no such right, and change nothing of the hold.
    accepted(&carol, Method::PATCH, &one, &json!({"metadata": {"labels": {"case": "26"}}}))
        .await
        .unwrap();

    refused(
        &carol,
        Method::DELETE,
        &tried,
        &Value::Null,
        "metadata.name: found 'case' to be deleted by 'carol', who may not release this hold",
    )
    .await
    .unwrap();
    refused(&dave, Method::DELETE, &tried, &Value::Null, "who may not release this hold")
        .await
        .unwrap();
    accepted(&bob, Method::DELETE, &format!("{path}/other"), &Value::Null)
        .await
        .unwrap();
    accepted(&bob, Method::PATCH, &one, &release_by("bob")).await.unwrap();
    // Written once.
    let again = json!({"spec": {"release": {"reason": "another"}}});
    let said = ask(&bob, Method::PATCH, &one, &again).await.unwrap().refused().unwrap();
    assert!(said.contains("a release is written once"), "{said}");

    // With the namespace the objects go, though nobody could have deleted them; the hold itself lives on in the stores.
    accepted(&alice, Method::POST, &path, &hold("last", "alice")).await.unwrap();
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
}

#[tokio::test]
async fn a_hold_of_the_cluster_is_not_in_the_hands_of_a_namespace() {
    let release = Release::install("cluster-holds").await.unwrap();
    let mut object = hold("cluster-case", "admin");
    object["kind"] = json!("ClusterComplianceHold");
    object["spec"]["namespaces"] = json!([release.served]);
    let mut other = object.clone();
    other["spec"]["placedBy"] = json!("somebody");
    refused(
        &release.admin,
        Method::POST,
        &format!("{CLUSTER_HOLDS}?dryRun=All"),
        &other,
        "spec.placedBy: found 'somebody'",
    )
    .await
    .unwrap();
    accepted(&release.admin, Method::POST, CLUSTER_HOLDS, &object).await.unwrap();
    let one = format!("{CLUSTER_HOLDS}/cluster-case?dryRun=All");
    refused(
        &release.admin,
        Method::PATCH,
        &one,
        &release_by("admin"),
        "another person must release it",
    )
    .await
    .unwrap();

    // Who may edit and delete it, but not release it.
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "hold-editor"},
        "rules": [{"apiGroups": ["holdfast.dev"], "resources": ["clustercomplianceholds"], "verbs": ["get", "patch", "delete"]}]});
    ask(&release.admin, Method::POST, &format!("{rbac}/clusterroles"), &role)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "hold-editor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "hold-editor"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "hold-editor"}]});
    ask(&release.admin, Method::POST, &format!("{rbac}/clusterrolebindings"), &binding)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let editor = SERVER.client_as("hold-editor").await.unwrap();
    refused(
        &editor,
        Method::PATCH,
        &one,
        &release_by("hold-editor"),
        "may not release the hold 'cluster-case'",
    )
    .await
    .unwrap();
    refused(&editor, Method::DELETE, &one, &Value::Null, "may not release this hold")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_disposal_has_four_eyes() {
    let release = Release::install("disposals").await.unwrap();
    let path = holdfast_path(&release.served, "disposalrequests");
    let dry = format!("{path}?dryRun=All");
    let write = ["create disposalrequests ", "patch disposalrequests "];
    let one = user(&release, "requester", &[write[0], write[1], "approve disposalrequests "]).await;
    let two = user(&release, "approver", &[write[1], "approve disposalrequests "]).await;
    let three = user(&release, "bystander", &[write[1]]).await;
    let object = |by: &str| {
        json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "DisposalRequest", "metadata": {"name": "erase"},
            "spec": {"scope": {"sources": ["shop"]}, "legalBasis": "GDPR Art. 17", "requestedBy": by}})
    };
    let approve = |by: &str| json!({"spec": {"approval": {"approvedBy": by}}});
    refused(
        &one,
        Method::POST,
        &dry,
        &object("approver"),
        "spec.requestedBy: found 'approver', but the request is made by 'requester'",
    )
    .await
    .unwrap();
    let mut approved = object("requester");
    approved["spec"]["approval"] = json!({"approvedBy": "approver"});
    refused(&one, Method::POST, &dry, &approved, "spec.approval: found one in a new request")
        .await
        .unwrap();
    let mut foreign = object("requester");
    foreign["spec"]["scope"] = json!({"runs": ["other/shop/a"]});
    refused(
        &one,
        Method::POST,
        &dry,
        &foreign,
        "spec.scope.runs: found a run of another namespace",
    )
    .await
    .unwrap();
    accepted(&one, Method::POST, &path, &object("requester")).await.unwrap();
    let tried = format!("{path}/erase?dryRun=All");
    refused(
        &one,
        Method::PATCH,
        &tried,
        &approve("requester"),
        "who also requested it; another person must approve",
    )
    .await
    .unwrap();
    refused(
        &one,
        Method::PATCH,
        &tried,
        &approve("approver"),
        "spec.approval.approvedBy: found 'approver', but the request is made by 'requester'",
    )
    .await
    .unwrap();
    refused(
        &three,
        Method::PATCH,
        &tried,
        &approve("bystander"),
        "ask for the verb approve on disposalrequests in namespace disposals-served",
    )
    .await
    .unwrap();
    accepted(&two, Method::PATCH, &format!("{path}/erase"), &approve("approver"))
        .await
        .unwrap();
}

#[tokio::test]
async fn who_retires_a_source_or_accepts_something_is_who_says_so() {
    let release = Release::install("acknowledgements").await.unwrap();
    let path = holdfast_path(&release.served, "backupsources");
    let rights = ["create backupsources ", "patch backupsources ", "get secrets app"];
    let ann = user(&release, "ann", &rights).await;
    let ben = user(&release, "ben", &rights).await;
    let source = |more: Value| {
        let mut source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": {"name": "a"},
            "spec": {"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"}}}});
        for (field, value) in more.as_object().unwrap() {
            source["spec"][field] = value.clone();
        }
        source
    };
    let retire = |by: &str| json!({"retire": {"by": by, "reason": "sold"}});
    let accept = |by: &str| json!({"by": by, "reason": "a table was dropped", "size": {"run": "a-1"}});
    let dry = format!("{path}?dryRun=All");
    let forged = "spec.retire.by: found 'ben', but the request is made by 'ann'; say by: ann";
    refused(&ann, Method::POST, &dry, &source(retire("ben")), forged).await.unwrap();
    let forged = "spec.accept[].by: found 'ben', but the request is made by 'ann'; say by: ann";
    refused(
        &ann,
        Method::POST,
        &dry,
        &source(json!({"accept": [accept("ann"), accept("ben")]})),
        forged,
    )
    .await
    .unwrap();
    let both = json!({"retire": retire("ann")["retire"], "accept": [accept("ann")]});
    accepted(&ann, Method::POST, &path, &source(both)).await.unwrap();
    // What others said stays, whoever edits the rest; it is neither changed nor repeated in their name.
    let one = format!("{path}/a");
    let with = |spec: Value| json!({"spec": spec});
    accepted(&ben, Method::PATCH, &one, &with(json!({"accept": [accept("ann"), accept("ben")]})))
        .await
        .unwrap();
    let mut changed = accept("ann");
    changed["reason"] = json!("another");
    refused(
        &ben,
        Method::PATCH,
        &one,
        &with(json!({"accept": [changed]})),
        "found 'ann', but the request is made by 'ben'",
    )
    .await
    .unwrap();
    refused(
        &ben,
        Method::PATCH,
        &one,
        &with(json!({"retire": {"reason": "another"}})),
        "spec.retire.by: found 'ann'",
    )
    .await
    .unwrap();
    accepted(&ben, Method::PATCH, &one, &with(json!({"retire": null, "accept": null})))
        .await
        .unwrap();
}

#[tokio::test]
async fn only_the_operator_says_where_holds_stand() {
    let release = Release::install("hold-status").await.unwrap();
    let path = holdfast_path(&release.served, "complianceholds");
    accepted(&release.admin, Method::POST, &path, &hold("case", "admin")).await.unwrap();
    let status = json!({"status": {"releasedAt": "1970-01-01T00:00:00Z"}});
    let path = format!("{path}/case/status");
    refused(
        &release.admin,
        Method::PATCH,
        &format!("{path}?dryRun=All"),
        &status,
        "only the operator says",
    )
    .await
    .unwrap();
    accepted(&release.operator, Method::PATCH, &path, &status).await.unwrap();
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deed {
    /// As the page says it.
    does: String,
    can: bool,
    method: String,
    /// Behind the namespace's `/apis/holdfast.dev/v1alpha1/…`, or a whole path.
    path: String,
    #[serde(default)]
    body: Value,
    #[serde(default)]
    says: String,
}

/// What the page says of who has every right in a namespace, and nothing beyond.
#[tokio::test]
async fn an_administrator_of_a_namespace_can_do_what_the_page_says_and_no_more() {
    let page = std::fs::read_to_string(repository().join("docs/holds-and-compliance.md")).unwrap();
    let deeds: Value = serde_yaml::from_str(include_str!("tables/administrator.yaml")).unwrap();
    let deeds: Vec<Deed> = serde_json::from_value(deeds).unwrap();
    let release = Release::install("administrator").await.unwrap();
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", release.served);
    let everything = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "everything"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    ask(&release.admin, Method::POST, &format!("{rbac}/roles"), &everything)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "everything"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "everything"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "owner"}]});
    ask(&release.admin, Method::POST, &format!("{rbac}/rolebindings"), &binding)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let owner = SERVER.client_as("owner").await.unwrap();

    let objects: Value = serde_yaml::from_str(include_str!("tables/compliance.yaml")).unwrap();
    for plural in ["backupschedules", "backupstores"] {
        let path = holdfast_path(&release.served, plural);
        accepted(&owner, Method::POST, &path, &objects["objects"][plural]).await.unwrap();
    }
    let holds = holdfast_path(&release.served, "complianceholds");
    accepted(&owner, Method::POST, &holds, &hold("own", "owner")).await.unwrap();
    accepted(&release.admin, Method::POST, &holds, &hold("other", "admin"))
        .await
        .unwrap();
    let source = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupSource", "metadata": {"name": "shop"},
        "spec": {"postgresql": {"hosts": ["db"], "version": 15, "credentials": {"secretName": "app"}}}});
    accepted(&owner, Method::POST, &holdfast_path(&release.served, "backupsources"), &source)
        .await
        .unwrap();
    enforce(&release, "administrator").await.unwrap();

    let mut wrong = Vec::new();
    for deed in &deeds {
        let line = format!("| {} | {} |", deed.does, if deed.can { "yes" } else { "no" });
        if !page.contains(&line) {
            wrong.push(format!("docs/holds-and-compliance.md lacks the line {line}"));
        }
        let answer = done(&owner, &release, deed).await.unwrap();
        match answer {
            Answer::Accepted(_) if deed.can => {}
            Answer::Refused(said) if !deed.can && said.contains(&deed.says) && !deed.says.is_empty() => {}
            answer => wrong.push(format!("{}: {answer:?}", deed.does)),
        }
    }
    let rows = page
        .lines()
        .filter(|line| line.ends_with("| yes |") || line.ends_with("| no |"))
        .count();
    assert_eq!(rows, deeds.len(), "the page has a row for each that is tried");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(policy("administrator", "Enforce")["spec"]["mode"], "Enforce");
}

async fn done(owner: &Client, release: &Release, deed: &Deed) -> Result<Answer> {
    let path = deed.path.replace("NAMESPACE", &release.served);
    let path = if path.starts_with('/') {
        path
    } else {
        holdfast_path(&release.served, &path)
    };
    let method: Method = deed.method.parse()?;
    let mut body = deed.body.clone();
    if method == Method::POST {
        body = edited(&body, &Edits::new());
    }
    ask(owner, method, &format!("{path}?dryRun=All"), &body).await
}

//! Who may write a ClusterBackupStore, on a real API server with no operator running; and who is warned where nobody serves its kind.

use holdfast_e2e::{
    api::{ask, holdfast_path, make_namespace},
    helm::render,
};
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::{
    SERVER,
    admission::{accepted, may, refused},
    definitions::{Edits, edited},
};

const PATH: &str = "/apis/holdfast.dev/v1alpha1/clusterbackupstores?dryRun=All";
const MAINTENANCE: &str = "cluster-stores-maintenance";
const TENANT: &str = "cluster-stores-tenant";

fn vault() -> Value {
    json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "ClusterBackupStore", "metadata": {"name": "vault"},
        "spec": {"s3": {"bucket": "backups"}, "allowedNamespaces": {"names": [TENANT]}, "encryption": {"none": {}},
            "credentials": {"writer": {"secretName": "writer"}},
            "maintenance": {"namespace": MAINTENANCE, "credentials": {"secretName": "keeper"}}}})
}

/// Lets a user write these stores, and read these Secrets in all namespaces.
async fn everywhere(admin: &Client, user: &str, secrets: &[&str]) {
    let mut rules = vec![json!({"apiGroups": ["holdfast.dev"], "resources": ["clusterbackupstores"], "verbs": ["create", "update"]})];
    if !secrets.is_empty() {
        rules.push(json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": secrets}));
    }
    let rights = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user}, "rules": rules});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        ask(admin, Method::POST, &format!("{rights}/{plural}"), &object)
            .await
            .unwrap()
            .accepted()
            .unwrap();
    }
}

/// What the user may read in all namespaces, in the tenant's, in that of maintenance; what of the store is changed; the refusal.
type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], Edits, Option<&'a str>);

/// Puts those of the chart's policies into force, with their bindings, whose names contain this. How many objects that are.
async fn in_force(admin: &Client, release: &str, named: &str) -> usize {
    let chart = render("holdfast", release, &["--set=crds.install=false"]).unwrap();
    let mut policies = 0;
    for object in &chart {
        let plural = match object["kind"].as_str() {
            Some("ValidatingAdmissionPolicy") => "validatingadmissionpolicies",
            Some("ValidatingAdmissionPolicyBinding") => "validatingadmissionpolicybindings",
            _ => continue,
        };
        if object["metadata"]["name"].as_str().unwrap().contains(named) {
            let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
            ask(admin, Method::POST, &path, object).await.unwrap().accepted().unwrap();
            policies += 1;
        }
    }
    policies
}

#[tokio::test]
async fn who_writes_a_store_of_the_cluster_must_be_allowed_to_read_what_it_names() {
    let admin = SERVER.client().await.unwrap();
    make_namespace(&admin, MAINTENANCE).await.unwrap();
    make_namespace(&admin, TENANT).await.unwrap();
    assert_eq!(
        in_force(&admin, "vaults", ".clusterbackupstores").await,
        4,
        "two policies, each bound"
    );

    let pull: Vec<String> = (0..8).map(|number| format!("pull-{number}")).collect();
    let roles = json!({"roles": {"writer": {"secretName": "a"}, "reader": {"secretName": "b"}, "keeper": {"secretName": "c"}, "pruner": {"secretName": "d"}}});
    let most = Edits::from([
        ("/spec/credentials/reader".to_owned(), json!({"secretName": "reader"})),
        (
            "/spec/s3".to_owned(),
            json!({"bucket": "backups", "endpoint": "https://s3.example", "caSecretName": "ca"}),
        ),
        ("/spec/encryption".to_owned(), json!({"passphrase": {"secretName": "words"}})),
        ("/spec/job".to_owned(), json!({"imagePullSecrets": pull})),
        ("/spec/maintenance/credentials".to_owned(), roles),
        ("/spec/maintenance/job".to_owned(), json!({"imagePullSecrets": pull})),
    ]);
    let mut all: Vec<&str> = vec!["writer", "reader", "ca", "words"];
    all.extend(pull.iter().map(String::as_str));
    let image = |place: &str| Edits::from([(place.to_owned(), json!({"image": "tools"}))]);
    let account = Edits::from([("/spec/maintenance/job".to_owned(), json!({"serviceAccountName": "root"}))]);
    let token = Edits::from([("/spec/credentials/writer".to_owned(), json!({"webIdentity": {"roleArn": "arn"}}))]);
    let keeper = ["get secrets keeper"];
    let four = ["get secrets a", "get secrets b", "get secrets c", "get secrets d"];
    let rows: [Row<'_>; 9] = [
        (
            &[],
            &[],
            &keeper,
            Edits::new(),
            Some("spec.credentials.writer.secretName: found 'writer'"),
        ),
        (
            &[],
            &["get secrets writer"],
            &keeper,
            Edits::new(),
            Some("may not read in all namespaces"),
        ),
        (
            &["writer"],
            &[],
            &[],
            Edits::new(),
            Some("spec.maintenance.credentials.secretName: found 'keeper'"),
        ),
        (&["writer"], &[], &keeper, Edits::new(), None),
        (&["writer"], &[], &keeper, image("/spec/job"), Some("spec.job.image: found 'tools'")),
        (
            &["writer"],
            &[],
            &keeper,
            image("/spec/maintenance/job"),
            Some("spec.maintenance.job.image: found 'tools'"),
        ),
        (
            &["writer"],
            &[],
            &keeper,
            account,
            Some("spec.maintenance.job.serviceAccountName: found 'root'"),
        ),
        (&[], &[], &keeper, token, Some("spec.job.serviceAccountName: found 'default'")),
        // The most questions that one object can ask.
        (&all, &[], &four, most, None),
    ];
    for (number, (everywhere_, tenant, maintenance, put, words)) in rows.into_iter().enumerate() {
        let user = format!("vault-author-{number}");
        everywhere(&admin, &user, everywhere_).await;
        may(&admin, TENANT, &user, tenant).await.unwrap();
        may(&admin, MAINTENANCE, &user, maintenance).await.unwrap();
        let author = SERVER.client_as(&user).await.unwrap();
        let object = edited(&vault(), &put);
        // With the eight pull Secrets of the maintenance namespace, which are read in all namespaces.
        let tried = match words {
            Some(words) => refused(&author, Method::POST, PATH, &object, words).await,
            None => accepted(&author, Method::POST, PATH, &object).await.map(|_| ()),
        };
        tried.unwrap_or_else(|error| panic!("row {number}: {error:?}"));
    }
}

/// What it tells is about the copies of all tenants.
#[tokio::test]
async fn a_store_of_the_cluster_is_previewed_in_its_maintenance_namespace_alone() {
    let admin = SERVER.client().await.unwrap();
    let (here, elsewhere) = ("previewed-vault", "previewed-vault-tenant");
    for namespace in [here, elsewhere] {
        make_namespace(&admin, namespace).await.unwrap();
    }
    let store = |name: &str, place: &str| {
        let put = [
            ("/metadata/name".to_owned(), json!(name)),
            ("/spec/maintenance/namespace".to_owned(), json!(place)),
        ];
        edited(&vault(), &Edits::from(put))
    };
    let stores = PATH.split('?').next().unwrap();
    // Another store is no reason to refuse anything.
    for store in [store("previewed", here), store("previewed-elsewhere", elsewhere)] {
        ask(&admin, Method::POST, stores, &store).await.unwrap().accepted().unwrap();
    }
    assert_eq!(
        in_force(&admin, "previewers", ".retentionpreviews").await,
        2,
        "a policy that is bound"
    );
    let preview = |store: Value| json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "RetentionPreview", "metadata": {"name": "what-if"}, "spec": {"store": store}});
    let dry = |namespace: &str| format!("{}?dryRun=All", holdfast_path(namespace, "retentionpreviews"));
    let cluster = |name: &str| preview(json!({"name": name, "kind": "ClusterBackupStore"}));
    let words = "metadata.namespace: found 'previewed-vault-tenant' for a preview of ClusterBackupStore 'previewed', which tells of the copies of many \
                 namespaces; make it in the store's maintenance namespace 'previewed-vault'";
    refused(&admin, Method::POST, &dry(elsewhere), &cluster("previewed"), words)
        .await
        .unwrap();
    accepted(&admin, Method::POST, &dry(here), &cluster("previewed")).await.unwrap();
    // The policy is in force by now: what is accepted is so for good.
    for (namespace, object) in [
        (elsewhere, preview(json!({"name": "previewed"}))),
        (elsewhere, cluster("previewed-elsewhere")),
        (elsewhere, cluster("not-yet")),
    ] {
        ask(&admin, Method::POST, &dry(namespace), &object)
            .await
            .unwrap()
            .accepted()
            .unwrap();
    }
}

#[test]
fn a_release_for_some_namespaces_warns_and_denies_nothing() {
    let chart = render("holdfast", "some", &["--set=namespaces={a,b},clusterId=x,crds.install=false"]).unwrap();
    let named = |object: &&Value| {
        object["metadata"]["name"]
            .as_str()
            .is_some_and(|name| name.contains("cluster-kinds"))
    };
    let [policy, binding] = &chart.iter().filter(named).collect::<Vec<_>>()[..] else {
        panic!("a policy and its binding")
    };
    let resources = &policy["spec"]["matchConstraints"]["resourceRules"][0]["resources"];
    assert_eq!(*resources, json!(["clusterbackupstores", "clusterbackupschedules"]));
    assert_eq!(
        binding["spec"]["validationActions"],
        json!(["Warn"]),
        "another release may serve all"
    );
    let message = policy["spec"]["validations"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("serves the namespaces a, b only") && message.contains("make a BackupStore"),
        "{message}"
    );
    assert!(!chart.iter().any(|object| {
        object["metadata"]["name"]
            .as_str()
            .is_some_and(|name| name.contains(".clusterbackupstores") || name.contains(".retentionpreviews"))
    }));
}

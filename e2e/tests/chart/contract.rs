//! What the chart and the operator must agree on, tried with the operator's own code.

use std::collections::BTreeSet;

use clap::Parser;
use holdfast_crds::{JobTemplate, Reason, TASK_VERSION, Task};
use holdfast_e2e::helm::render;
use holdfast_operator::{
    config::Config,
    controller::compliance::guards::GUARDS,
    job::{JobRequest, build},
};
use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::admission::{Release, accepted};

#[test]
fn the_operator_takes_the_arguments_that_the_chart_gives() {
    for (values, everything) in [
        (vec![], true),
        (
            vec!["--set=namespaces={a,b}", "--set=clusterId=eu-1", "--set=log=info\\,kube=debug"],
            false,
        ),
    ] {
        let objects = render("holdfast", "hf", &values).unwrap();
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["/usr/local/bin/holdfast-operator"]));
        // POD_NAME is the one thing that comes by the environment.
        assert_eq!(container["env"][0]["name"], "POD_NAME");
        let given = container["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|argument| argument.as_str().unwrap());
        let arguments = ["holdfast-operator", "--pod-name=me"].into_iter().chain(given);
        let config = Config::try_parse_from(arguments).unwrap().validated().unwrap();
        assert_eq!(config.image, "holdfast:0.1.0");
        assert_eq!(config.admin_addr.port(), 8080);
        assert_eq!(container["ports"][0]["containerPort"], 8080);
        assert_eq!(config.namespaces.all(), everything);
        assert_eq!(
            config.guards.is_empty(),
            !everything,
            "a release for some namespaces may not see them"
        );
        // The Role names the Lease.
        let role = objects
            .iter()
            .find(|object| object["metadata"]["name"] == "holdfast-lease")
            .unwrap();
        assert_eq!(role["rules"][1]["resourceNames"], json!([config.lease_name]));
        assert_eq!(role["metadata"]["namespace"], json!(config.lease_namespace));
    }
}

/// What the operator looks for is what the chart ships, under the same names.
#[test]
fn the_operator_looks_for_each_admission_policy_of_the_chart() {
    let objects = render("holdfast", "hf", &["--set=crds.install=false"]).unwrap();
    let names = |kind: &str| -> BTreeSet<String> {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind);
        of_kind
            .map(|object| object["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    let prefix = arguments
        .iter()
        .find_map(|argument| argument.as_str().unwrap().strip_prefix("--guards="))
        .unwrap();
    let expected: BTreeSet<_> = GUARDS.iter().map(|guard| format!("{prefix}.{}", guard.name)).collect();
    assert_eq!(names("ValidatingAdmissionPolicy"), expected);
    assert_eq!(names("ValidatingAdmissionPolicyBinding"), expected);
    // … and it knows what each of them judges.
    for guard in &GUARDS {
        let find = |kind: &str| -> Value {
            let wanted = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == format!("{prefix}.{}", guard.name);
            objects.iter().find(wanted).unwrap().clone()
        };
        let policy = serde_json::from_value(find("ValidatingAdmissionPolicy")).unwrap();
        let binding = serde_json::from_value(find("ValidatingAdmissionPolicyBinding")).unwrap();
        assert_eq!(guard.wrong(Some(&policy), Some(&binding)), None, "{guard:?} {policy:#?}");
    }
    for object in objects
        .iter()
        .filter(|object| object["kind"].as_str().unwrap().starts_with("ValidatingAdmission"))
    {
        assert_eq!(
            object["metadata"]["labels"]["app.kubernetes.io/component"], "operator",
            "the operator selects them by it"
        );
    }
}

/// A task of each purpose, for each kind of store.
fn tasks(namespace: &str) -> Vec<Task> {
    let recipient = format!("age1{}", "q".repeat(58));
    let stores = [
        json!({"s3": {"bucket": "backups", "endpoint": "https://s3.test", "caSecretName": "s3-ca"}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}}),
        json!({"s3": {"bucket": "backups"}, "credentials": {"webIdentity": {"roleArn": "arn"}}, "encryption": {"age": {"recipients": [recipient], "identitySecretName": "key"}}}),
        json!({"volume": {"claimName": "disk"}, "encryption": {"passphrase": {"secretName": "words"}}}),
    ];
    let server = json!({"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"},
        "tls": {"caSecretName": "ca", "clientCertificateSecretName": "client"}});
    let restore = json!({"request": "back", "digest": "0".repeat(64), "path": format!("{namespace}/shop/now"), "to": {"postgresql": server},
        "missingRoles": "Fail", "attempt": 1, "notAfter": "2026-01-01T06:00:00Z"});
    let actions = [
        json!({"probe": {"now": "2026-01-01T00:00:00Z"}}),
        json!({"backup": {"run": "now", "source": "shop", "sourceUid": "uid", "spec": {"postgresql": server}, "type": "Full", "attempt": 1, "final": true,
            "notAfter": "2026-01-01T06:00:00Z"}}),
        json!({"settle": {"run": "now", "source": "shop", "givesUp": true, "reason": Reason::PodDeleted, "message": ""}}),
        json!({"restore": restore}),
        json!({"settleRestore": restore}),
    ];
    let task = |store: &Value, action: &Value| {
        let store = json!({"name": "offsite", "uid": "uid", "spec": store});
        let task = json!({"version": TASK_VERSION, "cluster": "x", "namespace": namespace, "store": store, "action": action});
        serde_json::from_value(task).unwrap()
    };
    stores
        .iter()
        .flat_map(|store| actions.iter().map(move |action| task(store, action)))
        .collect()
}

#[tokio::test]
async fn the_policies_let_every_job_of_the_operator_pass() {
    let release = Release::install("contract").await.unwrap();
    let template: JobTemplate = serde_json::from_value(
        json!({"image": "registry.example/tools:1", "labels": {"team": "a"}, "annotations": {"a": "b"},
        "imagePullSecrets": ["pull"], "serviceAccountName": "runner", "runAsUser": 7, "nodeSelector": {"disk": "fast"},
        "tolerations": [{"operator": "Exists"}], "resources": {"limits": {"memory": "1Gi"}}}),
    )
    .unwrap();
    let mut seen = 0;
    for task in tasks(&release.served) {
        for template in [None, Some(&template)] {
            let request = JobRequest {
                name: "now-b1",
                owner: OwnerReference {
                    api_version: "holdfast.dev/v1alpha1".into(),
                    kind: "BackupRun".into(),
                    name: "now".into(),
                    uid: "uid".into(),
                    ..OwnerReference::default()
                },
                task: &task,
                agent_image: "holdfast:0.1.0",
                template,
                identity_secret: Some("key"),
                timeout: 60,
            };
            let job = serde_json::to_value(build(&request).unwrap()).unwrap();
            accepted(&release.operator, Method::POST, &release.jobs_dry(), &job)
                .await
                .unwrap_or_else(|error| panic!("{job}: {error:?}"));
            seen += 1;
        }
    }
    assert_eq!(seen, 30);
}

//! What the chart renders: for defaults and for many values, and which values it refuses.

use std::{collections::BTreeSet, fs, io::Write, process::Stdio};

use anyhow::{Result, bail};
use holdfast_e2e::{
    api::make_namespace,
    helm::{Right, chart, helm, kubectl, operator_rights, render, repository, run, say},
    sandbox::documents,
};
use serde_json::{Value, json};

use crate::SERVER;

/// Sets of values that a user might have, by name.
const SETS: &[(&str, &[&str])] = &[
    ("defaults", &[]),
    (
        "served-namespaces",
        &["--set=namespaces={render-a,render-b}", "--set=clusterId=eu-1"],
    ),
    (
        "everything",
        &[
            "--set=image.repository=registry.example:5000/holdfast/holdfast,image.tag=v1,image.pullPolicy=Always,image.pullSecrets={one,two}",
            "--set=replicas=3,log=info\\,kube=debug,clusterId=eu-1,priorityClassName=system-cluster-critical",
            "--set=serviceAccount.name=backups,serviceAccount.annotations.a=b,podLabels.team=a,podAnnotations.a=b",
            "--set=nodeSelector.disk=fast,tolerations[0].operator=Exists",
            "--set=affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key=a",
            "--set=affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator=Exists",
            "--set=topologySpreadConstraints[0].maxSkew=1,topologySpreadConstraints[0].topologyKey=zone",
            "--set=topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule,topologySpreadConstraints[0].labelSelector.matchLabels.a=b",
            "--set=networkPolicy.apiServerPorts={6443},networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
            "--set=serviceMonitor.install=true,serviceMonitor.interval=15s,serviceMonitor.labels.release=prometheus",
        ],
    ),
    (
        "digest",
        &["--set=image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"],
    ),
    (
        "as-little-as-possible",
        &[
            "--set=networkPolicy.install=false,podDisruptionBudget.install=false,admissionPolicies.install=false,aggregatedRoles.install=false",
            "--set=serviceAccount.create=false,serviceAccount.name=given,replicas=0,nameOverride=backups",
        ],
    ),
    ("other-name", &["--set=fullnameOverride=backups"]),
];

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Is refused by `kubectl apply` with unknown fields and warnings counted as errors.
fn applied_strictly(objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut process = kubectl(
        Some(SERVER.kubeconfig()),
        [
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "--warnings-as-errors",
            "--filename=-",
        ],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()?;
    process.stdin.take().unwrap().write_all(&serde_json::to_vec(&list)?)?;
    let output = process.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[test]
fn both_charts_pass_lint() {
    for folder in ["charts/holdfast", "charts/holdfast-crds"] {
        run(helm(None, ["lint", "--strict"]).arg(repository().join(folder))).unwrap();
    }
    for (_, values) in SETS {
        run(helm(None, ["lint", "--strict"]).arg(chart()).args(*values)).unwrap();
    }
}

#[tokio::test]
async fn what_is_rendered_has_no_unknown_field_and_fits_restricted_namespaces() {
    let client = SERVER.client().await.unwrap();
    for namespace in ["render-a", "render-b"] {
        make_namespace(&client, namespace).await.unwrap();
    }
    for (name, values) in SETS {
        let namespace = format!("render-{name}");
        make_namespace(&client, &namespace).await.unwrap();
        // The API server warns of a Deployment whose pods would be refused.
        run(&mut kubectl(
            Some(SERVER.kubeconfig()),
            ["label", "namespace", &namespace, "pod-security.kubernetes.io/warn=restricted"],
        ))
        .unwrap();
        let mut arguments = vec!["--set=crds.install=false"];
        arguments.extend_from_slice(values);
        let objects = render("holdfast", &namespace, &arguments).unwrap();
        assert!(objects.len() >= 6, "{name}: {}", objects.len());
        applied_strictly(&objects).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn the_strict_check_finds_an_unknown_field() {
    let arguments = ["--set=crds.install=false", "--set=serviceMonitor.install=true"];
    for (kind, at, field) in [
        ("Deployment", "/spec/template/spec/containers/0", "redinessProbe"),
        ("ServiceMonitor", "/spec/endpoints/0", "honourLabels"),
    ] {
        let mut objects = render("holdfast", "default", &arguments).unwrap();
        let object = objects.iter_mut().find(|object| object["kind"] == kind).unwrap();
        object.pointer_mut(at).unwrap()[field] = json!({});
        let error = applied_strictly(&objects).unwrap_err().to_string();
        assert!(error.contains(field), "{kind}: {error}");
    }
}

#[test]
fn the_operator_may_do_this_and_no_more() {
    let mut expected = BTreeSet::new();
    let mut add = |group: &str, resources: &[&str], verbs: &[&str]| {
        for resource in resources {
            for verb in verbs {
                expected.insert(Right::new(group, resource, verb));
            }
        }
    };
    let kinds = [
        "backupsources",
        "backupstores",
        "backupschedules",
        "backupruns",
        "restorerequests",
        "complianceholds",
        "disposalrequests",
        "retentionpreviews",
    ];
    add("holdfast.dev", &kinds, &["list", "watch"]);
    add(
        "holdfast.dev",
        &kinds.map(|kind| format!("{kind}/status")).each_ref().map(String::as_str),
        &["patch"],
    );
    add("holdfast.dev", &["backupruns"], &["get", "create", "delete"]);
    add("holdfast.dev", &["restorerequests", "retentionpreviews"], &["delete"]);
    add("batch", &["jobs"], &["get", "list", "watch", "create", "delete"]);
    add("", &["pods"], &["list", "watch"]);
    add("", &["pods/log"], &["get"]);
    add("", &["events"], &["list"]);
    add("events.k8s.io", &["events"], &["create"]);
    add("coordination.k8s.io", &["leases"], &["create", "get", "update"]);
    let served = render("holdfast", "hf", &["--set=namespaces={a,b}", "--set=clusterId=x"]).unwrap();
    assert_eq!(operator_rights(&served), expected);
    let cluster_kinds = [
        "compliancepolicies",
        "clustercomplianceholds",
        "clusterbackupschedules",
        "clusterbackupstores",
    ];
    let guards = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];
    for verb in ["list", "watch"] {
        expected.extend(cluster_kinds.map(|kind| Right::new("holdfast.dev", kind, verb)));
        expected.extend(guards.map(|kind| Right::new("admissionregistration.k8s.io", kind, verb)));
        expected.insert(Right::new("", "namespaces", verb));
    }
    expected.extend(cluster_kinds.map(|kind| Right::new("holdfast.dev", &format!("{kind}/status"), "patch")));
    expected.insert(Right::new("", "namespaces", "get"));
    // Those that a cluster-wide schedule has in namespaces.
    expected.extend(["create", "update", "delete"].map(|verb| Right::new("holdfast.dev", "backupschedules", verb)));
    let all = render("holdfast", "hf", &[]).unwrap();
    assert_eq!(operator_rights(&all), expected);
    // Of namespaces only the one whose UID is the cluster's id.
    let text = serde_json::to_string(&of_kind(&all, "ClusterRole")).unwrap();
    assert!(
        text.contains(r#""resourceNames":["kube-system"],"resources":["namespaces"]"#),
        "{text}"
    );
}

/// The operator goes by what it wrote: nobody else may write where it may.
#[test]
fn each_status_that_the_operator_writes_is_guarded() {
    for arguments in [&[][..], &["--set=namespaces={a,b}", "--set=clusterId=x"]] {
        let objects = render("holdfast", "hf", arguments).unwrap();
        let written: BTreeSet<_> = operator_rights(&objects)
            .into_iter()
            .filter(|right| right.group == "holdfast.dev" && right.resource.ends_with("/status"))
            .map(|right| right.resource)
            .collect();
        let guards = of_kind(&objects, "ValidatingAdmissionPolicy");
        let is_guard = |guard: &&&Value| {
            guard["metadata"]["name"]
                .as_str()
                .is_some_and(|name| name.ends_with(".compliance-status"))
        };
        let guard = guards.iter().find(is_guard).unwrap();
        let guarded = guard["spec"]["matchConstraints"]["resourceRules"][0]["resources"]
            .as_array()
            .unwrap();
        let guarded: BTreeSet<_> = guarded.iter().map(|kind| kind.as_str().unwrap().to_owned()).collect();
        assert!(!written.is_empty());
        assert_eq!(written, guarded, "{arguments:?}");
    }
}

#[test]
fn a_release_for_some_namespaces_makes_nothing_outside_of_them() {
    let arguments = [
        "--set=namespaces={a,b}",
        "--set=clusterId=eu-1",
        "--set=crds.install=false",
        "--set=admissionPolicies.install=false",
        "--set=aggregatedRoles.install=false",
    ];
    let objects = render("holdfast", "hf", &arguments).unwrap();
    let namespaces: BTreeSet<_> = objects.iter().map(|object| object["metadata"]["namespace"].as_str()).collect();
    assert_eq!(
        namespaces,
        BTreeSet::from([Some("a"), Some("b"), Some("hf")]),
        "None is a thing of the cluster"
    );
    let arguments = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"];
    let arguments: Vec<_> = arguments.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(
        arguments.contains(&"--namespaces=a,b") && arguments.contains(&"--cluster-id=eu-1"),
        "{arguments:?}"
    );
}

#[test]
fn releases_of_one_name_in_two_namespaces_share_no_name() {
    let names = |namespace: &str| -> BTreeSet<String> {
        let objects = render("holdfast", namespace, &["--set=crds.install=false"]).unwrap();
        let of_cluster = objects.iter().filter(|object| object["metadata"]["namespace"].is_null());
        of_cluster
            .map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"]))
            .collect()
    };
    let (one, two) = (names("one"), names("two"));
    assert!(one.len() > 15 && one.is_disjoint(&two), "{one:#?}");
}

#[test]
fn names_that_look_like_numbers_stay_text() {
    let objects = render(
        "123",
        "456",
        &["--set-string=namespaces={7},clusterId=8,priorityClassName=9,fullnameOverride=10"],
    )
    .unwrap();
    for object in &objects {
        for text in [
            &object["metadata"]["name"],
            &object["metadata"]["labels"]["app.kubernetes.io/instance"],
        ] {
            assert!(text.is_string() || text.is_null(), "{object}");
        }
        assert!(
            matches!(object["metadata"]["namespace"], Value::String(_) | Value::Null),
            "{object}"
        );
    }
}

#[test]
fn the_definitions_come_out_as_they_were_generated() {
    let folder = repository().join("charts/holdfast-crds/templates");
    let mut generated = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        generated.extend(documents(&fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap());
    }
    let objects = render("holdfast", "hf", &[]).unwrap();
    let rendered = of_kind(&objects, "CustomResourceDefinition");
    assert_eq!(rendered.len(), generated.len());
    for definition in &generated {
        assert!(rendered.contains(&definition), "{}", definition["metadata"]["name"]);
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    assert!(
        of_kind(
            &render("holdfast", "hf", &["--set=crds.install=false"]).unwrap(),
            "CustomResourceDefinition"
        )
        .is_empty()
    );
}

#[test]
fn a_service_monitor_selects_the_metrics() {
    let objects = render(
        "holdfast",
        "hf",
        &["--set=serviceMonitor.install=true,serviceMonitor.interval=15s,serviceMonitor.labels.release=prometheus"],
    )
    .unwrap();
    let monitor = of_kind(&objects, "ServiceMonitor")[0];
    let service = of_kind(&objects, "Service")[0];
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], service["spec"]["selector"]);
    assert_eq!(monitor["spec"]["namespaceSelector"], json!({"matchNames": ["hf"]}));
    assert_eq!(
        monitor["spec"]["endpoints"],
        json!([{"port": service["spec"]["ports"][0]["name"], "path": "/metrics", "interval": "15s", "honorLabels": true}])
    );
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let labels = &service["metadata"]["labels"];
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&labels[label], value, "the monitor selects the Service by its labels");
    }
}

#[test]
fn wrong_values_are_refused_in_words() {
    let digest = "--set=image.digest=sha256:12";
    let table: &[(&[&str], &str)] = &[
        (&["--set=replica=3"], "replica"),
        (&["--set=replicas=two"], "/replicas"),
        (&["--set=replicas=10"], "/replicas"),
        (&["--set=image.name=x"], "name"),
        (&["--set=image.repository=Holdfast"], "/image/repository"),
        (&["--set=image.repository="], "/image/repository"),
        (&["--set=image.tag=a b"], "/image/tag"),
        (&["--set=image.pullPolicy=Sometimes"], "/image/pullPolicy"),
        (&[digest], "/image/digest"),
        (&["--set=namespaces=a"], "/namespaces"),
        (&["--set=namespaces={A}", "--set=clusterId=x"], "/namespaces/0"),
        (&["--set=namespaces={a,a}", "--set=clusterId=x"], "/namespaces"),
        (&["--set=namespaces={a}"], "clusterId: found nothing, but namespaces is set"),
        (&["--set=clusterId=a b"], "/clusterId"),
        (&["--set=crds.install=yes"], "/crds/install"),
        (&["--set=crds.keep=false"], "keep"),
        (&["--set=admissionPolicies.enabled=true"], "enabled"),
        (&["--set=networkPolicy.apiServerPorts={70000}"], "/networkPolicy/apiServerPorts/0"),
        (&["--set=networkPolicy.apiServerPorts=null"], "apiServerPorts"),
        (&["--set=serviceMonitor.interval=often"], "/serviceMonitor/interval"),
        (&["--set=serviceAccount.create=false"], "serviceAccount.name: found nothing"),
        (&["--set=holdfast-crds.version=1"], "version"),
        (&["--set=log="], "/log"),
    ];
    for (values, field) in table {
        let said = say(helm(None, ["template", "holdfast"]).arg(chart()).args(*values)).unwrap();
        assert!(!said.succeeded, "{values:?} was taken");
        let words = said
            .err
            .lines()
            .filter(|line| !line.contains("level=INFO"))
            .collect::<Vec<_>>()
            .join("\n");
        assert!(words.contains(field), "{values:?} should name {field}: {words}");
    }
}

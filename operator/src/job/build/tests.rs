#![expect(clippy::needless_pass_by_value, reason = "json! makes values")]

use holdfast_crds::{
    BackupTask, BackupType, FrozenStore, JobTemplate, MissingRoles, ProbeTask, Reason, RestoreSelection, RestoreTask, SettleTask,
    TASK_VERSION,
};
use serde_json::{Value, json};

use super::*;

const IMAGE: &str = "holdfast.test/holdfast:1";

fn store(encryption: Value) -> FrozenStore {
    let spec = json!({
        "s3": {"bucket": "backups", "endpoint": "https://s3.test", "caSecretName": "s3-ca"},
        "credentials": {"secretName": "s3"},
        "encryption": encryption,
    });
    FrozenStore {
        kind: holdfast_crds::StoreKind::BackupStore,
        name: "offsite".into(),
        uid: "store-uid".into(),
        spec: serde_json::from_value(spec).unwrap(),
    }
}

fn plain() -> FrozenStore {
    store(json!({"none": {}}))
}

fn server() -> Value {
    json!({
        "hosts": ["db:5432"], "version": 16,
        "credentials": {"secretName": "app", "usernameKey": "user", "passwordKey": "pass"},
        "tls": {"caSecretName": "db-ca", "clientCertificateSecretName": "db-client"},
    })
}

fn task(store: FrozenStore, action: Action) -> Task {
    Task {
        version: TASK_VERSION,
        cluster: "cluster".into(),
        namespace: "shop".into(),
        store,
        action,
    }
}

fn backup(store: FrozenStore) -> Task {
    let action = Action::Backup(BackupTask {
        run: "now".into(),
        source: "shop".into(),
        source_uid: "source-uid".into(),
        spec: serde_json::from_value(json!({"postgresql": server()})).unwrap(),
        type_: BackupType::Full,
        tick: None,
        schedule: None,
        keep_for: None,
        attempt: 1,
        final_: false,
        not_after: "2026-01-01T06:00:00Z".into(),
    });
    task(store, action)
}

fn settle(store: FrozenStore) -> Task {
    let action = Action::Settle(SettleTask {
        run: "now".into(),
        source: "shop".into(),
        tick: None,
        gives_up: true,
        reason: Reason::PodDeleted,
        message: String::new(),
    });
    task(store, action)
}

fn restore_task() -> RestoreTask {
    RestoreTask {
        request: "back".into(),
        digest: "0".repeat(64),
        path: "shop/shop/now".into(),
        manifest_digest: None,
        version_id: None,
        to: serde_json::from_value(json!({"postgresql": server()})).unwrap(),
        select: RestoreSelection::default(),
        missing_roles: MissingRoles::Fail,
        post_restore: Vec::new(),
        attempt: 1,
        not_after: "2026-01-01T06:00:00Z".into(),
    }
}

fn probe(store: FrozenStore) -> Task {
    task(
        store,
        Action::Probe(ProbeTask {
            now: "2026-01-01T00:00:00Z".into(),
        }),
    )
}

fn request<'a>(task: &'a Task, template: Option<&'a JobTemplate>) -> JobRequest<'a> {
    JobRequest {
        name: "now-b1",
        owner: OwnerReference {
            api_version: "holdfast.dev/v1alpha1".into(),
            kind: "BackupRun".into(),
            name: "now".into(),
            uid: "run-uid".into(),
            ..OwnerReference::default()
        },
        task,
        agent_image: IMAGE,
        template,
        identity_secret: None,
        timeout: 21_600,
    }
}

fn built(request: &JobRequest<'_>) -> Value {
    serde_json::to_value(build(request).unwrap()).unwrap()
}

fn pod(job: &Value) -> &Value {
    &job["spec"]["template"]["spec"]
}

fn mounts(container: &Value) -> Vec<&str> {
    let mut paths: Vec<_> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    paths.sort_unstable();
    paths
}

#[test]
fn the_seals_private_key_is_mounted_in_passes_of_the_keeper_and_nowhere_else() {
    let mut store = plain();
    store.spec.seal = serde_json::from_value(json!({"secretName": "seal", "key": "k.pem"})).unwrap();
    let has = |task: Task| secret_names(&built(&request(&task, None))).contains(&"seal");
    let keep = |keep: Value| {
        let mut all = json!({"now": "2026-01-01T00:00:00Z"});
        all.as_object_mut().unwrap().extend(keep.as_object().unwrap().clone());
        task(store.clone(), Action::Keep(serde_json::from_value(all).unwrap()))
    };
    assert!(has(keep(json!({}))));
    assert!(!has(keep(json!({"readOnly": true}))), "another cluster's place is not sealed");
    assert!(!has(keep(json!({"preview": {}}))));
    let restore = task(store.clone(), Action::Restore(restore_task()));
    for other in [probe(store.clone()), backup(store.clone()), settle(store.clone()), restore] {
        assert!(!has(other));
    }
}

fn secret_names(job: &Value) -> Vec<&str> {
    pod(job)["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|volume| volume["secret"]["secretName"].as_str())
        .collect()
}

fn copy(from: &FrozenStore) -> Task {
    let copy =
        json!({"namespace": "shop", "source": "orders", "from": from, "now": "2026-11-20T22:10:00Z", "notAfter": "2026-11-21T04:10:00Z"});
    task(plain(), Action::Copy(serde_json::from_value(copy).unwrap()))
}

fn purposes() -> Vec<Task> {
    let restore = |make: fn(RestoreTask) -> Action| task(plain(), make(restore_task()));
    vec![
        backup(plain()),
        settle(plain()),
        probe(plain()),
        restore(Action::Restore),
        restore(Action::SettleRestore),
        copy(&plain()),
    ]
}

#[test]
fn every_purpose_is_owned_labelled_and_bounded() {
    for task in purposes() {
        let job = built(&request(&task, None));
        let purpose = Purpose::of(&task).as_str();
        for labels in [&job["metadata"]["labels"], &job["spec"]["template"]["metadata"]["labels"]] {
            assert_eq!(labels["app.kubernetes.io/managed-by"], "holdfast");
            assert_eq!(labels["holdfast.dev/purpose"], purpose);
        }
        let owner = &job["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["uid"], &owner["controller"], &owner["blockOwnerDeletion"]),
            (&json!("run-uid"), &json!(true), &json!(false))
        );
        let spec = &job["spec"];
        assert_eq!(
            (&spec["backoffLimit"], &spec["activeDeadlineSeconds"], &spec["podReplacementPolicy"]),
            (&json!(0), &json!(21_900), &json!("Failed"))
        );
        assert!(spec.get("ttlSecondsAfterFinished").is_none() && spec.get("podFailurePolicy").is_none());
        let main = &pod(&job)["containers"][0];
        let command: Vec<_> = main["command"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect();
        assert_eq!(command[1..], [purpose, "--task", "/holdfast/task/task.json"]);
        let text = spec["template"]["metadata"]["annotations"][layout::TASK_ANNOTATION]
            .as_str()
            .unwrap();
        assert_eq!(serde_json::from_str::<Task>(text).unwrap(), task);
    }
}

#[test]
fn every_container_meets_the_restricted_profile_and_has_no_token() {
    let mut tasks = purposes();
    tasks.push(backup(store(json!({"passphrase": {"secretName": "phrase"}}))));
    for task in tasks {
        let job = built(&request(&task, None));
        let pod = pod(&job);
        assert_eq!(
            (
                &pod["automountServiceAccountToken"],
                &pod["enableServiceLinks"],
                &pod["restartPolicy"]
            ),
            (&json!(false), &json!(false), &json!("Never"))
        );
        let security = &pod["securityContext"];
        assert_eq!(
            (
                &security["runAsNonRoot"],
                &security["runAsUser"],
                &security["runAsGroup"],
                &security["fsGroup"]
            ),
            (&json!(true), &json!(65_532), &json!(65_532), &json!(65_532))
        );
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"]
            .as_array()
            .unwrap()
            .iter()
            .chain(pod["initContainers"].as_array().into_iter().flatten())
        {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{container}");
            assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{container}");
            assert!(
                container["resources"]["limits"]["memory"].is_string() && container["resources"]["requests"]["cpu"].is_string(),
                "{container}"
            );
            assert_eq!(container["terminationMessagePolicy"], "File");
        }
        let names: Vec<_> = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|volume| volume["name"].as_str().unwrap())
            .collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        for container in pod["containers"]
            .as_array()
            .unwrap()
            .iter()
            .chain(pod["initContainers"].as_array().into_iter().flatten())
        {
            for mount in container["volumeMounts"].as_array().unwrap() {
                assert!(names.contains(&mount["name"].as_str().unwrap()), "{mount}");
            }
        }
    }
}

#[test]
fn a_backup_runs_in_the_engines_image_with_the_agent_brought_along() {
    let task = backup(plain());
    let job = built(&request(&task, None));
    let main = &pod(&job)["containers"][0];
    assert_eq!(main["image"], "docker.io/library/postgres:16");
    assert_eq!(main["command"][0], layout::AGENT);
    assert_eq!(
        main["resources"],
        json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}})
    );
    assert_eq!(
        mounts(main),
        [
            "/etc/passwd",
            "/holdfast/bin",
            "/holdfast/secrets/database-ca",
            "/holdfast/secrets/database-client",
            "/holdfast/secrets/login",
            "/holdfast/secrets/store",
            "/holdfast/secrets/store-ca",
            "/holdfast/task",
            "/tmp"
        ]
    );
    let init = &pod(&job)["initContainers"];
    assert_eq!(init.as_array().unwrap().len(), 1);
    assert_eq!(
        (&init[0]["image"], &init[0]["command"][1], mounts(&init[0])),
        (&json!(IMAGE), &json!("install"), vec!["/holdfast/install"])
    );
    let login = pod(&job)["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|volume| volume["name"] == "login")
        .unwrap();
    assert_eq!(
        login["secret"]["items"],
        json!([{"key": "user", "path": "username"}, {"key": "pass", "path": "password"}])
    );
    assert_eq!(login["secret"]["defaultMode"], 0o440);
}

#[test]
fn only_the_init_container_sees_a_passphrase() {
    let task = backup(store(json!({"passphrase": {"secretName": "phrase"}})));
    let job = built(&request(&task, None));
    let key = pod(&job)["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|container| container["name"] == "key")
        .unwrap();
    assert!(mounts(key).contains(&"/holdfast/secrets/identity") && mounts(key).contains(&"/holdfast/key"));
    assert_eq!(key["resources"]["limits"]["memory"], "400Mi");
    let main = &pod(&job)["containers"][0];
    assert!(!mounts(main).contains(&"/holdfast/secrets/identity"));
    let mount = main["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|mount| mount["mountPath"] == "/holdfast/key")
        .unwrap();
    assert_eq!(mount["readOnly"], true);
    let volume = pod(&job)["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|volume| volume["name"] == "key")
        .unwrap();
    assert_eq!(volume["emptyDir"]["medium"], "Memory");
}

#[test]
fn an_identity_is_mounted_for_restores_only() {
    let age = || store(json!({"age": {"recipients": [], "identitySecretName": "age-key"}}));
    for task in [
        backup(age()),
        settle(age()),
        probe(age()),
        task(age(), Action::SettleRestore(restore_task())),
    ] {
        let job = built(&JobRequest {
            identity_secret: Some("age-key"),
            ..request(&task, None)
        });
        assert!(!secret_names(&job).contains(&"age-key"), "{:?}", Purpose::of(&task));
    }
    let restore = task(age(), Action::Restore(restore_task()));
    let job = built(&JobRequest {
        identity_secret: Some("age-key"),
        ..request(&restore, None)
    });
    assert!(secret_names(&job).contains(&"age-key"));
}

#[test]
fn probe_and_settle_run_in_our_own_image_and_see_no_database() {
    for task in [probe(plain()), settle(plain())] {
        let job = built(&request(&task, None));
        let main = &pod(&job)["containers"][0];
        assert_eq!(
            (&main["image"], &main["command"][0]),
            (&json!(IMAGE), &json!("/usr/local/bin/holdfast-agent"))
        );
        assert!(pod(&job).get("initContainers").is_none());
        assert_eq!(
            mounts(main),
            ["/holdfast/secrets/store", "/holdfast/secrets/store-ca", "/holdfast/task", "/tmp"]
        );
    }
}

#[test]
fn the_receipt_of_a_restore_is_read_without_the_stores_credentials() {
    let task = task(plain(), Action::SettleRestore(restore_task()));
    assert_eq!(secret_names(&built(&request(&task, None))), ["app", "db-ca", "db-client"]);
}

#[test]
fn a_volume_store_is_used_as_its_user_and_only_read_by_restores() {
    let spec = json!({"volume": {"claimName": "disk", "runAsUser": 1_000}, "encryption": {"none": {}}});
    let volume = || FrozenStore {
        kind: holdfast_crds::StoreKind::BackupStore,
        name: "disk".into(),
        uid: "u".into(),
        spec: serde_json::from_value(spec.clone()).unwrap(),
    };
    let template = JobTemplate {
        run_as_user: Some(7),
        ..JobTemplate::default()
    };
    for (task, read_only) in [
        (backup(volume()), false),
        (settle(volume()), false),
        (task(volume(), Action::Restore(restore_task())), true),
    ] {
        let job = built(&request(&task, Some(&template)));
        assert_eq!(pod(&job)["securityContext"]["runAsUser"], 1_000);
        assert_eq!(pod(&job)["securityContext"]["fsGroup"], 1_000);
        let mount = pod(&job)["containers"][0]["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .find(|mount| mount["mountPath"] == layout::STORE_VOLUME)
            .unwrap();
        assert_eq!(mount.get("readOnly").is_some(), read_only, "{:?}", Purpose::of(&task));
    }
}

#[test]
fn a_web_identity_gets_a_token_for_its_audience_only() {
    let mut store = plain();
    store.spec.credentials = serde_json::from_value(json!({"webIdentity": {"roleArn": "arn:x", "audience": "minio"}})).unwrap();
    let job = built(&request(&settle(store), None));
    let volume = pod(&job)["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|volume| volume["name"] == "store-token")
        .unwrap();
    assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["audience"], "minio");
    assert_eq!(pod(&job)["automountServiceAccountToken"], false);
}

#[test]
fn a_pod_gets_the_credentials_of_its_roles_and_no_others() {
    let mut store = plain();
    let named = |name: &str| json!({"secretName": name});
    store.spec.credentials = serde_json::from_value(json!({"roles": {
        "writer": named("s3-writer"), "reader": named("s3-reader"), "keeper": {"webIdentity": {"roleArn": "arn:x", "audience": "minio"}}, "pruner": named("s3-pruner"),
    }}))
    .unwrap();
    let keep = |store| task(store, Action::Keep(Box::default()));
    let places = |task: &Task| {
        let job = built(&request(task, None));
        let mounts: Vec<_> = mounts(&pod(&job)["containers"][0]).into_iter().map(str::to_owned).collect();
        let stores = mounts
            .into_iter()
            .filter(|path| path.starts_with("/holdfast/secrets/store") && path != layout::STORE_CA);
        let mut found: Vec<_> = stores.collect();
        found.sort();
        found
    };
    assert_eq!(places(&backup(store.clone())), [layout::STORE_SECRET]);
    assert_eq!(places(&settle(store.clone())), [layout::STORE_SECRET]);
    assert_eq!(
        places(&task(store.clone(), Action::Restore(restore_task()))),
        [layout::STORE_READER]
    );
    assert_eq!(places(&keep(store.clone())), [layout::STORE_KEEPER, layout::STORE_PRUNER]);
    let all = [
        layout::STORE_SECRET,
        layout::STORE_KEEPER,
        layout::STORE_PRUNER,
        layout::STORE_READER,
    ];
    assert_eq!(places(&probe(store.clone())), all);
    assert!(
        !secret_names(&built(&request(&backup(store.clone()), None)))
            .iter()
            .any(|name| ["s3-reader", "s3-pruner"].contains(name))
    );
    // What serves several roles is there once.
    store.spec.credentials = serde_json::from_value(json!({"roles": {"writer": named("s3-writer")}})).unwrap();
    assert_eq!(places(&keep(store.clone())), [layout::STORE_SECRET]);
    assert_eq!(places(&probe(store)), [layout::STORE_SECRET]);
}

#[test]
fn a_copy_job_writes_to_one_store_and_only_reads_the_other() {
    let mut from = plain();
    from.spec = serde_json::from_value(json!({"volume": {"claimName": "copies"}, "encryption": {"none": {}}})).unwrap();
    from.name = "near".to_owned();
    from.spec.job = serde_json::from_value(json!({"labels": {"team": "shop"}})).unwrap();
    let job = built(&request(&copy(&from), None));
    let places = |job: &Value| -> Vec<String> { mounts(&pod(job)["containers"][0]).into_iter().map(str::to_owned).collect() };
    assert!(places(&job).contains(&layout::STORE_SECRET.to_owned()) && places(&job).contains(&layout::FROM_VOLUME.to_owned()));
    let mounted = &pod(&job)["containers"][0]["volumeMounts"];
    let read_only = mounted
        .as_array()
        .unwrap()
        .iter()
        .find(|mount| mount["mountPath"] == layout::FROM_VOLUME);
    assert_eq!(read_only.unwrap()["readOnly"], true);
    assert!(pod(&job)["initContainers"].is_null(), "our own image, without an engine's tools");

    from.spec = plain().spec;
    from.spec.credentials =
        serde_json::from_value(json!({"roles": {"writer": {"secretName": "near-writer"}, "reader": {"secretName": "near-reader"}}}))
            .unwrap();
    let job = built(&request(&copy(&from), None));
    assert!(places(&job).contains(&layout::FROM_SECRET.to_owned()));
    let names = secret_names(&job);
    assert!(names.contains(&"near-reader") && !names.contains(&"near-writer"), "{names:?}");
}

#[test]
fn the_user_shapes_the_pod_and_what_the_store_needs_is_added() {
    let zone = |zone: &str| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]}]}}})
    };
    let template: JobTemplate = serde_json::from_value(json!({
        "image": "registry.test/postgres:16", "labels": {"team": "shop", "holdfast.dev/purpose": "evil"}, "annotations": {"holdfast.dev/task": "evil"},
        "resources": {"limits": {"memory": "64Mi"}}, "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "batch", "operator": "Exists"}],
        "priorityClassName": "low", "imagePullSecrets": ["pull"], "runAsUser": 999, "affinity": zone("a"),
    }))
    .unwrap();
    let mut store = plain();
    store.spec.job = serde_json::from_value(json!({
        "image": "ignored:1", "labels": {"egress": "s3", "team": "store"}, "serviceAccountName": "s3-role", "imagePullSecrets": ["pull", "pull-2"], "runAsUser": 5,
        "affinity": zone("b"), "proxy": {"url": "http://proxy:3128", "noProxy": ["svc", "10.0.0.0/8"]}
    }))
    .unwrap();
    let mut task = backup(store);
    if let Action::Backup(backup) = &mut task.action {
        backup.spec.job = Some(template.clone());
    }
    let job = built(&request(&task, Some(&template)));
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    assert_eq!(
        (&labels["team"], &labels["egress"], &labels["holdfast.dev/purpose"]),
        (&json!("shop"), &json!("s3"), &json!("backup"))
    );
    let pod = pod(&job);
    assert_eq!(pod["containers"][0]["image"], "registry.test/postgres:16");
    assert_eq!(pod["containers"][0]["resources"], json!({"limits": {"memory": "64Mi"}}));
    assert_eq!(
        (&pod["nodeSelector"], &pod["priorityClassName"], &pod["serviceAccountName"]),
        (&json!({"disk": "ssd"}), &json!("low"), &json!("s3-role"))
    );
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}, {"name": "pull-2"}]));
    assert_eq!(pod["securityContext"]["runAsUser"], 999);
    assert_eq!(pod["affinity"], zone("a"));
    let variables = |container: &Value| {
        let list = container["env"].as_array().unwrap().iter();
        list.map(|variable| format!("{}={}", variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap()))
            .filter(|variable| variable.contains("PROXY"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        variables(&pod["containers"][0]),
        [
            "HTTPS_PROXY=http://proxy:3128",
            "HTTP_PROXY=http://proxy:3128",
            "NO_PROXY=svc,10.0.0.0/8"
        ]
    );
    assert_eq!(variables(&pod["initContainers"][0]), [""; 0], "it reaches nothing");
    let tolerations = pod["tolerations"].as_array().unwrap();
    assert_eq!(tolerations.len(), 3);
    assert_eq!(tolerations[1]["tolerationSeconds"], 60);
    // The Job itself carries no mark of the user's: GitOps tools prune what carries theirs.
    assert!(job["metadata"]["labels"].get("team").is_none());
    // How the pod is shaped is of no use to the pod.
    let text = job["spec"]["template"]["metadata"]["annotations"][layout::TASK_ANNOTATION]
        .as_str()
        .unwrap();
    assert!(!text.contains("evil") && !text.contains("priorityClassName"), "{text}");
}

#[test]
fn a_task_that_no_annotation_can_hold_is_refused_with_its_size() {
    let mut task = backup(plain());
    if let Action::Backup(backup) = &mut task.action {
        backup.spec.postgresql.as_mut().unwrap().databases.include = vec!["x".repeat(63); 4_000];
    }
    let error = build(&request(&task, None)).unwrap_err();
    assert!(matches!(error, BuildError::TaskTooLarge { found } if found > TASK_LIMIT), "{error}");
    assert!(error.to_string().contains("at most 204800"), "{error}");
}

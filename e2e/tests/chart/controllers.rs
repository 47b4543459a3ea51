//! The operator's controllers of holds and compliance against a real API server: with the rights that the chart grants, and no more.

use std::{future::pending, sync::Arc};

use anyhow::{Context as _, Result};
use holdfast_crds::{KeepDisposal, KeepHold, ReleaseBy, Span, document::HoldScope, hold_id};
use holdfast_e2e::{
    api::{ApiServer, ask, holdfast_path, make_namespace},
    helm::{chart, helm, run},
};
use holdfast_operator::{
    clients::{self, Fence},
    clock::ServerClock,
    config::Namespaces,
    context::Context,
    controller::{compliance, disposal, hold, source},
    metrics::Metrics,
    queue::{self, Queue},
    report::Report,
    watch::Caches,
};
use http::Method;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::eventually;

const OPERATOR: &str = "system:serviceaccount:hf:operator";
const GROUP: &str = "/apis/holdfast.dev/v1alpha1";

/// All copies of source `a`.
fn scope() -> HoldScope {
    HoldScope {
        sources: Some(vec!["shop/a".to_owned()]),
        namespaces: Some(vec!["shop".to_owned()]),
        ..HoldScope::default()
    }
}

/// What a keeper in `shop` is told of the hold `case` on them.
fn told(namespace: Option<&str>) -> KeepHold {
    KeepHold {
        id: hold_id(namespace, "case"),
        namespace: namespace.map(str::to_owned),
        name: "case".to_owned(),
        placed_by: "admin".to_owned(),
        release_by: ReleaseBy::AnotherPerson,
        cool_off: Span::from_hours(24),
        reason: "case 26".to_owned(),
        scope: scope(),
        until: None,
        release: None,
    }
}

struct World {
    server: ApiServer,
    admin: Client,
}

impl World {
    async fn start() -> Result<Self> {
        let server = ApiServer::start()?;
        let world = Self {
            admin: server.client().await?,
            server,
        };
        world.helm("install")?;
        world.server.established()?;
        Ok(world)
    }

    fn helm(&self, verb: &str) -> Result<()> {
        let arguments = ["--namespace=hf", "--set=fullnameOverride=operator,clusterId=x"];
        let mut command = helm(Some(self.server.kubeconfig()), [verb, "holdfast"]);
        command.arg(chart()).args(arguments);
        if verb == "install" {
            command.arg("--create-namespace");
        }
        run(&mut command)?;
        Ok(())
    }

    /// Runs the controllers as the operator's account does.
    async fn operate(&self) -> Result<()> {
        let kubeconfig = Kubeconfig::read_from(self.server.kubeconfig())?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.auth_info.impersonate = Some(OPERATOR.to_owned());
        let (clock, metrics) = (ServerClock::default(), Metrics::new()?);
        let clients = clients::connect(&config, &clock, &metrics, &Fence::open())?;
        let namespaces = Namespaces::default();
        let caches = Arc::new(Caches::new(&namespaces).guarded_by("operator.hf"));
        let context = Arc::new(Context {
            cluster: "x".to_owned(),
            image: "holdfast:1".to_owned(),
            client: clients.call.clone(),
            clock: clock.clone(),
            caches: caches.clone(),
            report: Report::new(clients.call, clock, "test"),
            metrics: metrics.clone(),
        });
        let queues: [Queue; 5] = Default::default();
        source::triggers(&caches, &queues[0]);
        compliance::triggers(&caches, &queues[1]);
        hold::triggers(&caches, &queues[2]);
        hold::cluster_triggers(&caches, &queues[3]);
        disposal::triggers(&caches, &queues[4]);
        tokio::spawn({
            let caches = caches.clone();
            async move { caches.drive(&clients.watch, &namespaces).await }
        });
        // A watch that is forbidden never has its list.
        tokio::time::timeout(std::time::Duration::from_secs(60), caches.wait_ready())
            .await
            .context("the first lists")?;
        let [sources, policies, holds, cluster_holds, disposals] = queues;
        tokio::spawn(queue::run(
            Arc::new(source::SourceController::new(context.clone())),
            sources,
            metrics.clone(),
            pending(),
        ));
        tokio::spawn(queue::run(
            Arc::new(compliance::ComplianceController::new(context.clone())),
            policies,
            metrics.clone(),
            pending(),
        ));
        tokio::spawn(queue::run(
            Arc::new(hold::HoldController::new(context.clone())),
            holds,
            metrics.clone(),
            pending(),
        ));
        tokio::spawn(queue::run(
            Arc::new(hold::ClusterHoldController::new(context.clone())),
            cluster_holds,
            metrics.clone(),
            pending(),
        ));
        tokio::spawn(queue::run(
            Arc::new(disposal::DisposalController::new(context.clone())),
            disposals,
            metrics,
            pending(),
        ));
        Ok(())
    }

    async fn make(&self, path: &str, kind: &str, name: &str, spec: Value) -> Result<Value> {
        let object = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        ask(&self.admin, Method::POST, path, &object).await?.accepted()
    }

    /// Waits until a condition of the object at `path` has this status and reason, and gives its message.
    async fn condition(&self, path: &str, kind: &str, status: &str, reason: &str) -> Result<String> {
        eventually(&format!("{path}: {kind}={status}, {reason}"), async || {
            let object = ask(&self.admin, Method::GET, path, &Value::Null).await?.accepted()?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions
                .iter()
                .find(|it| it["type"] == kind && it["status"] == status && it["reason"] == reason);
            Ok(found.map(|it| it["message"].as_str().unwrap_or_default().to_owned()))
        })
        .await
    }

    /// What the keeper of the store would report.
    async fn report(&self, status: &Value) -> Result<()> {
        let path = format!("{}/offsite/status", holdfast_path("shop", "backupstores"));
        let body = json!({"status": {"holds": status}});
        let operator = self.server.client_as(OPERATOR).await?;
        ask(&operator, Method::PATCH, &path, &body).await?.accepted()?;
        Ok(())
    }
}

#[tokio::test]
async fn floors_guards_holds_and_disposals_are_shown_with_the_rights_that_the_chart_grants() {
    let world = World::start().await.unwrap();
    make_namespace(&world.admin, "shop").await.unwrap();
    world.operate().await.unwrap();
    let place = |plural: &str| holdfast_path("shop", plural);
    let source = json!({"postgresql": {"hosts": ["db"], "version": 16, "credentials": {"secretName": "app"}}});
    world.make(&place("backupsources"), "BackupSource", "a", source).await.unwrap();
    let store = json!({"volume": {"claimName": "disk"}, "encryption": {"none": {}}});
    world.make(&place("backupstores"), "BackupStore", "offsite", store).await.unwrap();
    let schedule = json!({"sources": {"names": ["a"]}, "stores": [{"name": "offsite", "retention": {"keepWithin": "7d"}}],
        "triggers": [{"name": "nightly", "cron": "0 2 * * *"}]});
    world
        .make(&place("backupschedules"), "BackupSchedule", "gold", schedule)
        .await
        .unwrap();

    // A policy reaches sources that were there before it, and those of a namespace that gets its label later.
    let spec =
        json!({"namespaces": {"matchLabels": {"pci": "yes"}}, "mode": "Enforce", "floors": {"retention": "30d", "encryption": "Required"}});
    world
        .make(&format!("{GROUP}/compliancepolicies"), "CompliancePolicy", "pci", spec)
        .await
        .unwrap();
    let policy = format!("{GROUP}/compliancepolicies/pci");
    world.condition(&policy, "Enforced", "True", "GuardsInPlace").await.unwrap();
    let labels = json!({"metadata": {"labels": {"pci": "yes"}}});
    ask(&world.admin, Method::PATCH, "/api/v1/namespaces/shop", &labels)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let source = format!("{}/a", place("backupsources"));
    // The store may be seen a moment after the source was judged first; then it is judged again.
    let expected = [
        "floors.retention of pci demands 30d, found keepWithin 7d (schedule gold, store offsite)",
        "floors.encryption of pci demands Required, found none (store offsite)",
    ];
    eventually("both floors are named", async || {
        let message = world.condition(&source, "Compliant", "False", "FloorMissed").await?;
        Ok(expected.iter().all(|words| message.contains(words)).then_some(()))
    })
    .await
    .unwrap();
    eventually("the policy counts the source", async || {
        let status = ask(&world.admin, Method::GET, &policy, &Value::Null).await?.accepted()?["status"].clone();
        Ok((status["notCompliant"] == 1 && status["namespaces"] == 1 && status["missingFloors"] == json!(["shop/a"])).then_some(()))
    })
    .await
    .unwrap();
    let better = json!({"spec": {"stores": [{"name": "offsite", "retention": {"keepWithin": "30d"}}]}});
    ask(&world.admin, Method::PATCH, &format!("{}/gold", place("backupschedules")), &better)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    eventually("only the encryption is left", async || {
        let status = ask(&world.admin, Method::GET, &source, &Value::Null).await?.accepted()?["status"].clone();
        let missed = status["floorsMissed"].as_array().cloned().unwrap_or_default();
        Ok((missed.len() == 1 && missed[0]["floor"] == "floors.encryption").then_some(()))
    })
    .await
    .unwrap();

    // Somebody takes a guard away; the chart puts it back.
    let binding = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/operator.hf.compliance-schedules";
    ask(&world.admin, Method::DELETE, binding, &Value::Null)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let message = world.condition(&policy, "Enforced", "False", "GuardMissing").await.unwrap();
    assert!(message.contains("operator.hf.compliance-schedules is not bound"), "{message}");
    world.helm("upgrade").unwrap();
    world.condition(&policy, "Enforced", "True", "GuardsInPlace").await.unwrap();

    // Holds of both kinds, by what the keeper says of them.
    let hold = |more: Value| {
        let mut spec = json!({"select": {"sources": ["a"]}, "reason": "case 26", "placedBy": "admin"});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        spec
    };
    world
        .make(&place("complianceholds"), "ComplianceHold", "case", hold(json!({})))
        .await
        .unwrap();
    let cluster_holds = format!("{GROUP}/clustercomplianceholds");
    let spec = hold(json!({"namespaces": ["shop"]}));
    world.make(&cluster_holds, "ClusterComplianceHold", "case", spec).await.unwrap();
    let (own, cluster) = (format!("{}/case", place("complianceholds")), format!("{cluster_holds}/case"));
    for path in [&own, &cluster] {
        eventually("the store is waited for", async || {
            let message = world.condition(path, "Effective", "False", "HoldPending").await?;
            Ok(message.contains("shop/offsite: its keeper has not reported yet").then_some(()))
        })
        .await
        .unwrap();
    }
    let started = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(11);
    let line = |namespace: Option<&str>| {
        json!({"id": hold_id(namespace, "case"), "namespace": namespace, "name": "case", "told": told(namespace).digest(), "recorded": true,
            "recordedAt": started.to_string(), "copies": 3, "legalHolds": 3})
    };
    let mut pass = json!({"startedAt": started.to_string(), "reports": [line(Some("shop")), line(None)]});
    world.report(&pass).await.unwrap();
    for path in [&own, &cluster] {
        let message = world.condition(path, "Effective", "True", "HoldPlaced").await.unwrap();
        assert_eq!(message, "held by Holdfast and by the buckets");
    }
    // The transitions are told, those of the cluster's kinds in the namespace `default`.
    eventually("the events are written", async || {
        let path = "/apis/events.k8s.io/v1/namespaces/default/events";
        let events = ask(&world.admin, Method::GET, path, &Value::Null).await?.accepted()?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let told = |reason: &str| events.iter().any(|event| event["reason"] == reason);
        Ok(["HoldPlaced", "GuardMissing"].into_iter().all(told).then_some(()))
    })
    .await
    .unwrap();

    // A disposal: requested by one, approved by another.
    let spec = json!({"scope": {"sources": ["a"]}, "legalBasis": "GDPR Art. 17", "requestedBy": "admin"});
    world
        .make(&place("disposalrequests"), "DisposalRequest", "erase", spec)
        .await
        .unwrap();
    let request = format!("{}/erase", place("disposalrequests"));
    world.condition(&request, "Disposed", "False", "AwaitingApproval").await.unwrap();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "approver"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator.hf.approver"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings";
    ask(&world.admin, Method::POST, bindings, &role).await.unwrap().accepted().unwrap();
    let bob = world.server.client_as("bob").await.unwrap();
    let approval = json!({"spec": {"approval": {"approvedBy": "bob"}}});
    crate::admission::accepted(&bob, Method::PATCH, &request, &approval).await.unwrap();
    world.condition(&request, "Disposed", "False", "Pending").await.unwrap();
    let approved = ask(&world.admin, Method::GET, &request, &Value::Null)
        .await
        .unwrap()
        .accepted()
        .unwrap();
    let asked = KeepDisposal {
        namespace: "shop".to_owned(),
        name: "erase".to_owned(),
        scope: HoldScope {
            to: Some(approved["status"]["approvedAt"].as_str().unwrap().parse().unwrap()),
            ..scope()
        },
        basis: "GDPR Art. 17".to_owned(),
        requested_by: "admin".to_owned(),
        approved_by: "bob".to_owned(),
    };
    let report = |left: i64, removed: i64, deferred: i64| json!([{"namespace": "shop", "name": "erase", "told": asked.digest(), "left": left, "shredded": removed, "removed": removed, "deferred": deferred}]);
    pass["disposals"] = report(3, 0, 3);
    world.report(&pass).await.unwrap();
    world.condition(&request, "Disposed", "False", "Deferred").await.unwrap();
    pass["disposals"] = report(0, 3, 0);
    world.report(&pass).await.unwrap();
    world.condition(&request, "Disposed", "True", "Succeeded").await.unwrap();
}

//! The operator itself: where it runs, and how a test stops it.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::wait::await_condition,
};
use tokio::{process::Command, time::timeout};

/// Where `e2e/tools/install.sh` installs the chart.
pub const NAMESPACE: &str = "holdfast-system";
const LABELS: &str = "app.kubernetes.io/name=holdfast,app.kubernetes.io/component=operator";

/// The operator's pods.
pub struct Operator {
    client: Client,
}

impl Operator {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// # Errors
    /// If there is not exactly one Deployment.
    async fn deployment(&self) -> Result<Deployment> {
        let mut list = self
            .deployments()
            .list(&ListParams::default().labels("app.kubernetes.io/name=holdfast"))
            .await?
            .items;
        ensure!(list.len() == 1, "{} Deployments of Holdfast in {NAMESPACE}", list.len());
        list.pop().context("a Deployment")
    }

    /// Names of its pods that are not being deleted.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn pod_names(&self) -> Result<Vec<String>> {
        let name = self.deployment().await?.name_any();
        let labels = format!("app.kubernetes.io/name=holdfast,app.kubernetes.io/instance={name}");
        let mut pods = self.pods().list(&ListParams::default().labels(&labels)).await?.items;
        if pods.is_empty() {
            pods = self.pods().list(&ListParams::default().labels(LABELS)).await?.items;
        }
        Ok(pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(ResourceExt::name_any)
            .collect())
    }

    /// Who holds the lease; it may be gone.
    ///
    /// # Errors
    /// If nobody holds it.
    pub async fn holder(&self) -> Result<String> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), NAMESPACE)
            .list(&ListParams::default())
            .await?;
        let holder = leases
            .items
            .iter()
            .filter_map(|lease| lease.spec.as_ref()?.holder_identity.clone())
            .find(|holder| !holder.is_empty());
        holder.context("nobody holds the lease")
    }

    /// The pod that holds the lease.
    ///
    /// # Errors
    /// If nobody holds it.
    pub async fn leader(&self) -> Result<String> {
        let holder = self.holder().await?;
        let pods = self.pod_names().await?;
        pods.into_iter()
            .find(|pod| holder.starts_with(pod.as_str()))
            .with_context(|| format!("the holder {holder} is no pod"))
    }

    /// Ends the processes of these pods with SIGKILL, as a crash does, and takes the pods away before the kubelet starts them again, later each time: the
    /// Deployment makes others. Needs a cluster on this machine.
    ///
    /// # Errors
    /// If one of the pods has no process here.
    pub async fn kill(&self, pods: &[String]) -> Result<()> {
        let uids = pods.iter().map(async |name| self.pods().get(name).await?.uid().context("uid"));
        let uids: Vec<String> = try_join_all(uids).await?;
        let processes = processes("holdfast-operat")?;
        let mut killed = Vec::new();
        for (name, uid) in pods.iter().zip(&uids) {
            let before = killed.len();
            killed.extend(
                processes
                    .iter()
                    .filter(|process| process.cgroup.contains(uid))
                    .map(|process| &process.id),
            );
            ensure!(killed.len() > before, "the pod {name} has no process on this machine");
        }
        // One may have ended by itself since.
        Command::new("kill").arg("-KILL").args(&killed).status().await?;
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        for pod in pods {
            self.pods().delete(pod, &at_once).await?;
        }
        Ok(())
    }

    /// What the leader serves to Prometheus.
    ///
    /// # Errors
    /// If there is no leader, or it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}:8080/proxy/metrics", self.leader().await?);
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(self.client.request_text(request).await?)
    }

    /// Sets how many replicas there are and waits until all of them are ready, or gone.
    ///
    /// # Errors
    /// If they are not after three minutes.
    pub async fn scale(&self, replicas: i32) -> Result<()> {
        let name = self.deployment().await?.name_any();
        let patch = serde_json::json!({"spec": {"replicas": replicas}});
        self.deployments()
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        self.until_ready(replicas).await?;
        if replicas == 0 {
            for pod in self.pods().list(&ListParams::default()).await?.items {
                let gone = await_condition(
                    self.pods(),
                    pod.metadata.name.as_deref().unwrap_or_default(),
                    |pod: Option<&Pod>| pod.is_none(),
                );
                timeout(std::time::Duration::from_secs(120), gone)
                    .await
                    .context("the operator's pods do not end")??;
            }
        }
        Ok(())
    }

    /// Waits until so many replicas are ready.
    ///
    /// # Errors
    /// If they are not after three minutes.
    pub async fn until_ready(&self, replicas: i32) -> Result<()> {
        let name = self.deployment().await?.name_any();
        let ready = move |deployment: Option<&Deployment>| {
            deployment.is_some_and(|deployment| {
                let status = deployment.status.clone().unwrap_or_default();
                status.observed_generation == deployment.metadata.generation
                    && status.ready_replicas.unwrap_or(0) == replicas
                    && status.replicas.unwrap_or(0) == replicas
            })
        };
        timeout(
            std::time::Duration::from_secs(180),
            await_condition(self.deployments(), &name, ready),
        )
        .await
        .context("the operator is not ready")??;
        Ok(())
    }
}

/// A process of Holdfast on this machine.
pub struct Process {
    pub id: String,
    /// Its cgroups, which have the UID of its pod in their paths.
    pub cgroup: String,
}

/// The processes on this machine whose name begins so; the kernel cuts it at 15 letters.
///
/// # Errors
/// If `/proc` is not to be read.
pub fn processes(name: &str) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with(name) {
            found.push(Process {
                id: entry.file_name().to_string_lossy().into_owned(),
                cgroup: std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default(),
            });
        }
    }
    Ok(found)
}

/// The root of the checkout.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a script of the checkout and returns what it wrote.
///
/// # Errors
/// If it fails; the error holds what it wrote to stderr.
pub async fn script(path: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let output = Command::new(repository().join(path))
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .context(path.to_owned())?;
    if !output.status.success() {
        bail!(
            "{path} {arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

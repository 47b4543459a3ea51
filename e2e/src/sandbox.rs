//! A namespace of its own for each test, with what is looked at when the test fails.

use std::{
    cell::RefCell,
    fmt::Debug,
    future::Future,
    io::Write,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::{
        authorization::v1::SelfSubjectAccessReview,
        core::v1::{Event, Namespace, Pod},
        rbac::v1::ClusterRole,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{DynamicObject, GroupVersionKind},
    discovery::{Scope, pinned_kind},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, SemaphorePermit},
    time::timeout,
};

/// A namespace that only one test uses.
pub struct Sandbox {
    pub client: Client,
    pub namespace: String,
}

/// A port of a pod on this machine.
pub struct Forwarded {
    /// `http://127.0.0.1:PORT`.
    pub address: String,
    _process: Child,
    _lines: Lines<BufReader<ChildStdout>>,
}

/// Tests that disturb what all others use (the operator, the cluster) run alone; the test programs themselves run one after the other.
static CLUSTER: RwLock<()> = RwLock::const_new(());
/// How many tests run at once: mostly they wait, but two cores carry no more.
static SEATS: Semaphore = Semaphore::const_new(6);

thread_local! {
    /// What the test of this thread holds while it runs beside others.
    static SHARED: RefCell<Option<(RwLockReadGuard<'static, ()>, SemaphorePermit<'static>)>> = const { RefCell::new(None) };
}

/// Runs a test in a namespace of its own. The namespace goes when the test ends; when it fails, what is in it is printed.
///
/// # Panics
/// If the test fails.
pub fn run<F: Future<Output = Result<()>>>(name: &str, test: impl FnOnce(Arc<Sandbox>) -> F) {
    block_on(async {
        let shared = (CLUSTER.read().await, SEATS.acquire().await.expect("it is never closed"));
        SHARED.replace(Some(shared));
        run_in_sandbox(name, test).await;
        SHARED.take();
    });
}

/// From here on no other test runs, until what this gives is dropped: for a test that was prepared beside others. Once it has begun to wait,
/// no test begins.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    SHARED.take();
    CLUSTER.write().await
}

/// … while no other test runs, from its beginning: what it does would take from others what they have prepared.
///
/// # Panics
/// If the test fails.
pub fn run_alone<F: Future<Output = Result<()>>>(name: &str, test: impl FnOnce(Arc<Sandbox>) -> F) {
    block_on(async {
        let _alone = CLUSTER.write().await;
        run_in_sandbox(name, test).await;
    });
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future);
}

async fn run_in_sandbox<F: Future<Output = Result<()>>>(name: &str, test: impl FnOnce(Arc<Sandbox>) -> F) {
    let sandbox = Arc::new(Sandbox::new(name).await.expect("a namespace for the test"));
    let begun = Instant::now();
    let outcome = timeout(Duration::from_secs(900), test(sandbox.clone()))
        .await
        .unwrap_or_else(|_| Err(anyhow!("the test took more than 15 minutes")));
    if let Err(error) = outcome {
        eprintln!("{}", sandbox.describe().await);
        sandbox.delete().await;
        panic!("{name}: {error:?}");
    }
    sandbox.delete().await;
    // Not by a macro: libtest keeps to itself what they print.
    let _ = writeln!(std::io::stderr(), "    {name} took {} s", begun.elapsed().as_secs());
}

/// A short text that no other test has.
pub fn unique() -> String {
    let nanoseconds = jiff::Timestamp::now().as_nanosecond();
    let mixed = (nanoseconds ^ i128::from(std::process::id()) << 20).unsigned_abs();
    format!("{:06x}", mixed % 0x00ff_ffff)
}

/// Reads the documents of a YAML text.
///
/// # Errors
/// If one of them is not YAML.
pub fn documents(yaml: &str) -> Result<Vec<serde_json::Value>> {
    use serde::Deserialize;
    serde_yaml::Deserializer::from_str(yaml)
        .map(|document| serde_json::Value::deserialize(document).map_err(Into::into))
        .filter(|value| !matches!(value, Ok(serde_json::Value::Null)))
        .collect()
}

impl Sandbox {
    /// # Errors
    /// If the cluster does not let a namespace be made.
    pub async fn new(name: &str) -> Result<Self> {
        let client = Client::try_default()
            .await
            .context("no cluster: `make cluster-up` starts one, CLUSTER=current uses the current context")?;
        let namespace = format!("t-{}-{}", &name.replace('_', "-")[..name.len().min(40)], unique());
        let object = serde_json::from_value(serde_json::json!({"metadata": {"name": namespace, "labels": {
            "holdfast-e2e": "true", "pod-security.kubernetes.io/enforce": "restricted"}}}))?;
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        Ok(Self { client, namespace })
    }

    /// The same namespace, as a user who may do here what these roles of the chart allow.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn as_user(&self, user: &str, roles: &[&str]) -> Result<Self> {
        for role in roles {
            self.apply_value(serde_json::json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": format!("{user}-{role}")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("holdfast.holdfast-system.{role}")},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]}))
                .await?;
        }
        let mut config = kube::Config::infer().await?;
        config.auth_info.impersonate = Some(user.to_owned());
        let user = Self {
            client: Client::try_from(config)?,
            namespace: self.namespace.clone(),
        };
        for role in roles {
            self.until_bound(&user, &format!("holdfast.holdfast-system.{role}")).await?;
        }
        Ok(user)
    }

    /// Waits until the API server lets the user do what a ClusterRole allows: its authorizer follows new bindings within a moment.
    async fn until_bound(&self, user: &Self, role: &str) -> Result<()> {
        let rules = Api::<ClusterRole>::all(self.client.clone())
            .get(role)
            .await?
            .rules
            .unwrap_or_default();
        let granted = rules.first().with_context(|| format!("{role} allows nothing"))?;
        let first = |list: &Option<Vec<String>>| list.iter().flatten().next().cloned();
        let review = serde_json::json!({"spec": {"resourceAttributes": {"namespace": self.namespace, "verb": granted.verbs.first(),
            "group": first(&granted.api_groups), "resource": first(&granted.resources)}}});
        let review: SelfSubjectAccessReview = serde_json::from_value(review)?;
        let allowed = async {
            let mut tick = tokio::time::interval(Duration::from_millis(200));
            loop {
                tick.tick().await;
                let answer = Api::all(user.client.clone()).create(&PostParams::default(), &review).await?;
                if answer.status.is_some_and(|status| status.allowed) {
                    return Ok(());
                }
            }
        };
        timeout(Duration::from_secs(30), allowed)
            .await
            .map_err(|_| anyhow!("{role} is bound and allows nothing after 30 s"))?
    }

    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies each document to this namespace, as `kubectl apply --server-side` does; unknown fields are refused.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        for document in documents(yaml)? {
            self.apply_value(document).await?;
        }
        Ok(())
    }

    /// # Errors
    /// What the API server says.
    pub async fn apply_value(&self, mut document: serde_json::Value) -> Result<()> {
        document["metadata"]["namespace"] = self.namespace.clone().into();
        let object: DynamicObject = serde_json::from_value(document.clone()).context("a document without apiVersion and kind")?;
        let types = object.types.clone().context("apiVersion and kind")?;
        let (resource, capabilities) = pinned_kind(&self.client, &GroupVersionKind::try_from(&types)?).await?;
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
        };
        let parameters = PatchParams {
            force: true,
            field_manager: Some("e2e".into()),
            field_validation: Some(kube::api::ValidationDirective::Strict),
            ..PatchParams::default()
        };
        api.patch(&object.name_any(), &parameters, &Patch::Apply(&document))
            .await
            .with_context(|| format!("apply {} {}", types.kind, object.name_any()))?;
        Ok(())
    }

    /// Waits until an object is as `wanted` says, and returns it. The object may not exist yet.
    ///
    /// # Errors
    /// If the time is over; the error shows the object as it was last.
    pub async fn until<K>(&self, name: &str, seconds: u64, what: &str, wanted: impl Fn(&K) -> bool) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static
            + serde::Serialize,
    {
        until(self.api::<K>(), name, seconds, what, wanted).await
    }

    /// … an object that belongs to no namespace.
    ///
    /// # Errors
    /// As [`Sandbox::until`].
    pub async fn until_in_cluster<K>(&self, name: &str, seconds: u64, what: &str, wanted: impl Fn(&K) -> bool) -> Result<K>
    where
        K: Resource<Scope = ClusterResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static + serde::Serialize,
    {
        until(Api::all(self.client.clone()), name, seconds, what, wanted).await
    }

    /// Waits until an object is gone.
    ///
    /// # Errors
    /// If the time is over.
    pub async fn until_gone<K>(&self, name: &str, seconds: u64) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let condition = kube::runtime::wait::await_condition(self.api::<K>(), name, |object: Option<&K>| object.is_none());
        timeout(Duration::from_secs(seconds), condition)
            .await
            .map_err(|_| anyhow!("{} {name} still exists after {seconds} s", K::kind(&())))??;
        Ok(())
    }

    /// Waits until a list of objects is as `wanted` says, looking again at each event.
    ///
    /// # Errors
    /// If the time is over.
    pub async fn until_list<K>(&self, labels: &str, seconds: u64, what: &str, wanted: impl Fn(&[K]) -> bool) -> Result<Vec<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let api = self.api::<K>();
        let watched = async {
            let mut events = watcher(api.clone(), watcher::Config::default().labels(labels))
                .default_backoff()
                .boxed();
            while events.try_next().await?.is_some() {
                let list = api.list(&ListParams::default().labels(labels)).await?.items;
                if wanted(&list) {
                    return Ok(list);
                }
            }
            bail!("the watch ended")
        };
        timeout(Duration::from_secs(seconds), watched)
            .await
            .map_err(|_| anyhow!("no list of {} ({labels}) was {what} after {seconds} s", K::kind(&())))?
    }

    /// Runs a command in a pod's container with a text as its input, and returns what it wrote.
    ///
    /// # Errors
    /// If it ends with another code than 0; the error holds what it wrote to stderr.
    pub async fn exec(&self, pod: &str, command: &[&str], input: &str) -> Result<String> {
        self.exec_in(pod, &[], command, input).await
    }

    /// … in a container other than the first.
    ///
    /// # Errors
    /// As [`Sandbox::exec`].
    pub async fn exec_in(&self, pod: &str, container: &[&str], command: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(kubectl())
            .args(["exec", "-i", "-n", &self.namespace, pod])
            .args(container)
            .arg("--")
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("kubectl")?;
        let mut stdin = child.stdin.take().context("stdin")?;
        let write = async {
            // A command that does not read its input closes it: its exit code tells.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output?;
        if !output.status.success() {
            bail!(
                "{command:?} in {pod}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes a port of a pod reachable on a port of this machine, until the value is dropped.
    ///
    /// # Errors
    /// If kubectl cannot.
    pub async fn forward(&self, pod: &str, port: u16) -> Result<Forwarded> {
        let mut process = Command::new(kubectl())
            .args(["port-forward", "-n", &self.namespace, pod, &format!(":{port}")])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        // Kept open: a forwarder that can no longer say what it does ends.
        let mut lines = BufReader::new(process.stdout.take().context("stdout")?).lines();
        let line = lines.next_line().await?.context("kubectl port-forward ended")?;
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next());
        Ok(Forwarded {
            address: format!("http://127.0.0.1:{}", port.with_context(|| line.clone())?),
            _process: process,
            _lines: lines,
        })
    }

    /// What a person would look at.
    pub async fn describe(&self) -> String {
        let mut text = format!("--- namespace {} ---\n", self.namespace);
        for arguments in [
            vec![
                "get",
                "backupsources,backupstores,backupschedules,backupruns,restorerequests,jobs,pods",
                "-o",
                "wide",
            ],
            vec!["get", "backupstores,backupruns,restorerequests", "-o", "yaml"],
            vec!["get", "events", "--sort-by=.lastTimestamp"],
        ] {
            text += &self.kubectl(&arguments).await.unwrap_or_else(|error| error.to_string());
        }
        for pod in self
            .api::<Pod>()
            .list(&ListParams::default())
            .await
            .map(|list| list.items)
            .unwrap_or_default()
        {
            let name = pod.name_any();
            text += &format!("--- log of {name} ---\n");
            text += &self
                .kubectl(&["logs", "--all-containers", "--prefix", "--tail=60", &name])
                .await
                .unwrap_or_else(|error| error.to_string());
        }
        text
    }

    /// Waits until kubectl is refused with a message that holds all `words`: admission policies take a moment. Nothing is changed where it is not.
    ///
    /// # Errors
    /// If it is not after half a minute.
    pub async fn until_refused(&self, arguments: &[&str], words: &[&str]) -> Result<()> {
        let tried: Vec<_> = arguments.iter().copied().chain(["--dry-run=server"]).collect();
        let mut last = "it is not refused".to_owned();
        let refused = async {
            let mut tick = tokio::time::interval(Duration::from_millis(300));
            loop {
                tick.tick().await;
                if let Err(error) = self.kubectl(&tried).await {
                    last = error.to_string();
                    if words.iter().all(|word| last.contains(word)) {
                        return;
                    }
                }
            }
        };
        let ended = timeout(Duration::from_secs(30), refused).await;
        ended.map_err(|_| anyhow!("kubectl {arguments:?} is not refused with {words:?}: {last}"))
    }

    /// Runs kubectl in this namespace.
    ///
    /// # Errors
    /// If it fails; the error holds what it wrote to stderr.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(kubectl())
            .args(["-n", &self.namespace])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await?;
        if !output.status.success() {
            bail!("kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Who the API server says that we are.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn user(&self) -> Result<String> {
        self.kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])
            .await
    }

    /// The events about an object, oldest first, as `reason: message`.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn events(&self, name: &str) -> Result<Vec<String>> {
        let list = self
            .api::<Event>()
            .list(&ListParams::default().fields(&format!("involvedObject.name={name}")))
            .await?;
        Ok(list
            .items
            .into_iter()
            .map(|event| format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
            .collect())
    }

    /// Deletes the namespace with all that is in it.
    pub async fn delete(&self) {
        if let Err(error) = Api::<Namespace>::all(self.client.clone())
            .delete(&self.namespace, &DeleteParams::default())
            .await
        {
            eprintln!("namespace {} remains: {error}", self.namespace);
        }
    }
}

async fn until<K>(api: Api<K>, name: &str, seconds: u64, what: &str, wanted: impl Fn(&K) -> bool) -> Result<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static + serde::Serialize,
{
    let mut last = None;
    let watched = async {
        let mut events = watcher(api, watcher::Config::default().fields(&format!("metadata.name={name}")))
            .default_backoff()
            .applied_objects()
            .boxed();
        while let Some(object) = events.try_next().await? {
            if wanted(&object) {
                return Ok(object);
            }
            last = Some(object);
        }
        bail!("the watch ended")
    };
    match timeout(Duration::from_secs(seconds), watched).await {
        Ok(result) => result,
        Err(_) => bail!(
            "{} {name} was not {what} after {seconds} s; it is {}",
            K::kind(&()),
            last.map_or_else(|| "absent".to_owned(), |object| serde_yaml::to_string(&object).unwrap_or_default())
        ),
    }
}

/// The kubectl to use: `KUBECTL`, or that of the path.
pub fn kubectl() -> String {
    std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned())
}

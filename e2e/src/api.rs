//! An API server without nodes, for tests that need only the API.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use http::{Method, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::helm::{kubectl, repository, say};

/// A Kubernetes API server (with etcd, and without nodes) that lives as long as this value, and never longer than this process.
#[derive(Debug)]
pub struct ApiServer {
    process: Child,
    kubeconfig: PathBuf,
}

impl ApiServer {
    /// Starts one; this takes some seconds.
    ///
    /// # Errors
    /// If it does not get ready; the error holds what it said.
    pub fn start() -> Result<Self> {
        let mut process = Command::new(repository().join("e2e/tools/api-server.sh"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("e2e/tools/api-server.sh does not start")?;
        let mut line = String::new();
        if let Some(out) = process.stdout.as_mut() {
            BufReader::new(out).read_line(&mut line)?;
        }
        if line.is_empty() {
            let mut said = String::new();
            if let Some(err) = process.stderr.as_mut() {
                err.read_to_string(&mut said)?;
            }
            process.wait()?;
            bail!("the API server does not start: {said}");
        }
        Ok(Self {
            process,
            kubeconfig: line.trim_end().into(),
        })
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Waits until every definition is served, for at most a minute.
    ///
    /// # Errors
    /// If one is not; the error holds what `kubectl` said.
    pub fn established(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let arguments = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
            let said = say(&mut kubectl(Some(&self.kubeconfig), arguments))?;
            if said.succeeded {
                return Ok(());
            }
            // It gives up at once on a definition that has no conditions yet.
            ensure!(
                began.elapsed() < Duration::from_secs(60),
                "the definitions are not served: {}",
                said.err
            );
            sleep(Duration::from_millis(100));
        }
    }

    /// A client with all rights.
    ///
    /// # Errors
    /// If its kubeconfig cannot be read.
    pub async fn client(&self) -> Result<Client> {
        self.client_for(None).await
    }

    /// A client that acts as `user`, who has no rights but those that were bound to the name.
    ///
    /// # Errors
    /// If its kubeconfig cannot be read.
    pub async fn client_as(&self, user: &str) -> Result<Client> {
        self.client_for(Some(user)).await
    }

    async fn client_for(&self, user: Option<&str>) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.auth_info.impersonate = user.map(str::to_owned);
        Ok(Client::try_from(config)?)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // It stops when its standard input is closed.
        drop(self.process.stdin.take());
        if let Err(error) = self.process.wait() {
            eprintln!("the API server's end was not seen: {error}");
        }
    }
}

/// What the API server said to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The object as it was stored, with defaults.
    Accepted(Value),
    /// Why not.
    Refused(String),
}

impl Answer {
    /// The accepted object.
    ///
    /// # Errors
    /// If it was refused.
    pub fn accepted(self) -> Result<Value> {
        match self {
            Self::Accepted(object) => Ok(object),
            Self::Refused(message) => bail!("refused: {message}"),
        }
    }

    /// Why it was refused.
    ///
    /// # Errors
    /// If it was accepted.
    pub fn refused(self) -> Result<String> {
        match self {
            Self::Accepted(object) => bail!("accepted: {object}"),
            Self::Refused(message) => Ok(message),
        }
    }
}

/// Sends one request with a JSON body (none where it is null), with unknown fields refused.
///
/// # Errors
/// If there is no answer of the API server.
pub async fn ask(client: &Client, method: Method, path: &str, body: &Value) -> Result<Answer> {
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
    let separator = if path.contains('?') { '&' } else { '?' };
    let content = if method == Method::PATCH {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("{path}{separator}fieldValidation=Strict"))
        .header("Content-Type", content)
        .body(body)?;
    match client.request::<Value>(request).await {
        Ok(object) => Ok(Answer::Accepted(object)),
        Err(kube::Error::Api(status)) => Ok(Answer::Refused(status.message)),
        Err(error) => Err(error.into()),
    }
}

/// The path of a kind of Holdfast in a namespace, such as `backupstores`.
pub fn holdfast_path(namespace: &str, plural: &str) -> String {
    format!("/apis/holdfast.dev/v1alpha1/namespaces/{namespace}/{plural}")
}

/// Makes a namespace.
///
/// # Errors
/// If the API server refuses.
pub async fn make_namespace(client: &Client, name: &str) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    ask(client, Method::POST, "/api/v1/namespaces", &object).await?.accepted()?;
    Ok(())
}

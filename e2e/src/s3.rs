//! S3 servers as pods, and who speaks to them.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{
    fixture::ready,
    sandbox::{Forwarded, Sandbox},
};

/// The credentials of a store whose bucket is that of [`Sandbox::s3_with_roles`].
pub const ROLES: &str =
    "{roles: {writer: {secretName: writer}, reader: {secretName: reader}, keeper: {secretName: keeper}, pruner: {secretName: pruner}}}";

impl Sandbox {
    /// Starts an S3 server with a bucket `backups` as pod, service and Secret `s3`. Returns when it is reached. Its data goes with its pod.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn s3(&self) -> Result<()> {
        self.secret("s3", "access_key_id: tester, secret_access_key: VALUE").await?;
        self.s3_server("s3").await
    }

    /// Starts another as pod and service of this name, with the Secret of [`Sandbox::s3`].
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn s3_server(&self, name: &str) -> Result<()> {
        let manifest = include_str!("../demo/s3.yaml")
            .replace("metadata: {name: s3", &format!("metadata: {{name: {name}"))
            .replace("app: s3}", &format!("app: {name}}}"));
        self.s3_pod(name, &manifest).await
    }

    /// Makes the pod and service of an S3 server, and waits until it is reached.
    async fn s3_pod(&self, name: &str, manifest: &str) -> Result<()> {
        self.apply(manifest).await?;
        self.until::<Pod>(name, 120, "ready", ready).await?;
        // Images have one of the two.
        let connects = format!("nc -z {name} 7070 2>/dev/null || bash -c 'exec 3<>/dev/tcp/{name}/7070' 2>/dev/null");
        self.reached(name, &connects).await
    }

    /// As [`Sandbox::s3`], with versions and Object Lock.
    ///
    /// # Errors
    /// If it does not become ready, or refuses the bucket.
    pub async fn s3_with_locks(&self) -> Result<()> {
        self.s3_versioned(&["x-amz-bucket-object-lock-enabled: true"]).await
    }

    /// As [`Sandbox::s3`], with versions: the bucket is made with these headers.
    async fn s3_versioned(&self, headers: &[&str]) -> Result<()> {
        self.secret("s3", "access_key_id: tester, secret_access_key: VALUE").await?;
        let command =
            "mkdir -p /data/objects /data/versions && exec versitygw --port :7070 posix --versioning-dir /data/versions /data/objects";
        self.s3_started(command, |manifest| manifest).await?;
        self.ask_s3("PUT", "backups", headers).await?;
        Ok(())
    }

    /// … without locks.
    ///
    /// # Errors
    /// If it does not become ready, or refuses the bucket.
    pub async fn s3_with_versions(&self) -> Result<()> {
        self.s3_versioned(&[]).await?;
        let enabled =
            "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status></VersioningConfiguration>";
        self.s3_as("s3").await?.done("PUT", "backups?versioning=", &[], enabled).await?;
        Ok(())
    }

    /// As [`Sandbox::s3_with_locks`], with an account for each role, whose Secret is named as the role, and the bucket policy that the manual prints for the prefix `prod-eu`.
    ///
    /// # Errors
    /// If it does not become ready, or refuses the bucket or the policy.
    pub async fn s3_with_roles(&self) -> Result<()> {
        self.secret("s3", "access_key_id: tester, secret_access_key: VALUE").await?;
        let mut accounts = serde_json::Map::new();
        for role in ["writer", "reader", "keeper", "pruner"] {
            let fields = format!("access_key_id: {role}, secret_access_key: VALUE");
            let secret = self.secret(role, &fields).await?;
            accounts.insert(role.to_owned(), json!({"access": role, "secret": secret, "role": "user"}));
        }
        let accounts = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "accounts"},
            "stringData": {"users": json!({"accessAccounts": accounts}).to_string()}});
        self.apply_value(accounts).await?;
        let command = "mkdir -p /data/objects /data/versions /data/iam && printf %s \"$ACCOUNTS\" > /data/iam/users.json && \
            exec versitygw --port :7070 --iam-dir /data/iam posix --versioning-dir /data/versions /data/objects";
        let environment = "    env:\n    - {name: ACCOUNTS, valueFrom: {secretKeyRef: {name: accounts, key: users}}}\n";
        self.s3_started(command, |manifest| manifest.replace("    env:\n", environment))
            .await?;
        let locked = ["x-amz-bucket-object-lock-enabled: true"];
        self.ask_s3("PUT", "backups", &locked).await?;
        self.bucket_policy(None).await
    }

    /// Gives the bucket the policy that the manual prints, and one more statement.
    ///
    /// # Errors
    /// If the server refuses it.
    pub async fn bucket_policy(&self, more: Option<serde_json::Value>) -> Result<()> {
        let printed = include_str!("../../docs/stores.md").split_once("<!-- policy: roles -->\n```json\n");
        let (policy, _) = printed
            .and_then(|(_, rest)| rest.split_once("```"))
            .context("the manual's policy")?;
        let policy = policy.replace("arn:aws:iam::111122223333:user/holdfast-", "");
        let mut policy: serde_json::Value = serde_json::from_str(&policy)?;
        policy["Statement"].as_array_mut().context("statements")?.extend(more);
        self.s3_as("s3")
            .await?
            .done("PUT", "backups?policy=", &[], &policy.to_string())
            .await?;
        Ok(())
    }

    /// Starts an S3 server as pod and service `s3` with this command for the shell and a changed manifest.
    async fn s3_started(&self, command: &str, changed: impl Fn(String) -> String) -> Result<()> {
        let plain = "mkdir -p /data/backups && exec versitygw --port :7070 posix /data";
        let manifest = include_str!("../demo/s3.yaml");
        ensure!(manifest.contains(plain), "e2e/demo/s3.yaml starts its server in another way");
        let command = serde_json::to_string(command)?;
        let manifest = changed(manifest.replace(&format!("\"{plain}\""), &command));
        ensure!(manifest.contains(&command), "e2e/demo/s3.yaml starts its server in another way");
        self.s3_pod("s3", &manifest).await
    }

    /// Who has the keys in a Secret, before the S3 server.
    ///
    /// # Errors
    /// If there is no such Secret, or no way to the server.
    pub async fn s3_as(&self, secret: &str) -> Result<S3Client> {
        let keys = "go-template={{.data.access_key_id | base64decode}}:{{.data.secret_access_key | base64decode}}";
        let forwarded = self.forward("s3", 7070).await?;
        Ok(S3Client {
            keys: self.kubectl(&["get", "secret", secret, "-o", keys]).await?,
            address: forwarded.address.clone(),
            _forwarded: Some(forwarded),
        })
    }

    /// Sends one request to the S3 server, as who owns it, and returns the answer's body.
    ///
    /// # Errors
    /// If it refuses.
    pub async fn ask_s3(&self, method: &str, path: &str, headers: &[&str]) -> Result<String> {
        self.s3_as("s3").await?.done(method, path, headers, "").await
    }
}

/// Somebody with keys of an S3 server.
pub struct S3Client {
    keys: String,
    address: String,
    _forwarded: Option<Forwarded>,
}

impl S3Client {
    /// Who has these keys (`id:secret`) of a server at `http://HOST:PORT`; returns when it answers.
    ///
    /// # Errors
    /// If it does not within 30 seconds.
    pub async fn of(address: String, keys: String) -> Result<Self> {
        let client = Self {
            keys,
            address,
            _forwarded: None,
        };
        let answers = async {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            while client.ask("GET", "", &[], "").await.is_err() {
                tick.tick().await;
            }
        };
        timeout(Duration::from_secs(30), answers)
            .await
            .with_context(|| format!("no S3 server answers at {}", client.address))?;
        Ok(client)
    }

    /// Sends one request; gives the status and the body of the answer.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Result<(u16, String)> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
            "--write-out",
            "\n%{http_code}",
        ]);
        curl.args(["--config", "-", "-X", method, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        for header in headers {
            curl.args(["-H", header]);
        }
        if !body.is_empty() {
            curl.args(["-H", "Content-Type:", "--data-binary", body]);
        }
        let mut child = curl
            .arg(format!("{}/{path}", self.address))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        stdin.write_all(format!("user = \"{}\"\n", self.keys).as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{method} {path}: {said}{errors}");
        let (body, status) = said.rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, body.to_owned()))
    }

    /// … that must succeed; gives the body.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn done(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Result<String> {
        let (status, said) = self.ask(method, path, headers, body).await?;
        ensure!((200..300).contains(&status), "{method} {path}: {status}: {said}");
        Ok(said)
    }

    /// … that must be refused, as a right that is lacking.
    ///
    /// # Errors
    /// If it is not.
    pub async fn denied(&self, method: &str, path: &str, body: &str) -> Result<()> {
        let (status, said) = self.ask(method, path, &[], body).await?;
        ensure!(status == 403, "{method} {path}: {status}: {said}");
        Ok(())
    }
}

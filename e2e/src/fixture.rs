//! A PostgreSQL server and an S3 server as pods, and the objects of Holdfast that use them.

use anyhow::{Context, Result};
use holdfast_crds::{BackupRun, BackupStore, RestoreRequest, RunPhase};
use k8s_openapi::api::core::v1::Pod;

use crate::sandbox::{Sandbox, unique};

/// What fills a database with every kind of thing.
pub const DATA: &str = include_str!("../demo/data.sql");
const CHECKSUMS: &str = include_str!("../demo/checksums.sql");

const RESTRICTED: &str = "{allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}";

/// Where in a pod a test finds what it needs.
pub struct Database<'a> {
    sandbox: &'a Sandbox,
    pub name: &'static str,
    pub password: String,
}

impl Sandbox {
    /// Starts a PostgreSQL server as pod, service and Secret of this name; user `postgres`. Returns when it answers.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn postgres(&self, name: &'static str) -> Result<Database<'_>> {
        self.postgres_with(name, "docker.io/library/postgres:15", "[]").await
    }

    /// … with an image and arguments (a YAML list) for the server.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn postgres_with(&self, name: &'static str, image: &str, arguments: &str) -> Result<Database<'_>> {
        let password = format!("not-to-be-seen-{}", unique());
        self.apply(&format!(
            r"
apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
stringData: {{username: postgres, password: {password}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 5432}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 5
  securityContext: {{runAsNonRoot: true, runAsUser: 999, runAsGroup: 999, fsGroup: 999, seccompProfile: {{type: RuntimeDefault}}}}
  automountServiceAccountToken: false
  containers:
  - name: postgres
    image: {image}
    imagePullPolicy: IfNotPresent
    args: {arguments}
    env:
    - {{name: POSTGRES_PASSWORD, valueFrom: {{secretKeyRef: {{name: {name}, key: password}}}}}}
    - {{name: PGDATA, value: /var/lib/postgresql/data/pgdata}}
    ports: [{{containerPort: 5432}}]
    readinessProbe: {{exec: {{command: [pg_isready, -h, 127.0.0.1, -U, postgres]}}, periodSeconds: 1}}
    securityContext: {RESTRICTED}
    volumeMounts: [{{name: data, mountPath: /var/lib/postgresql/data}}]
  volumes: [{{name: data, emptyDir: {{}}}}]
"
        ))
        .await?;
        self.until::<Pod>(name, 180, "ready", ready).await?;
        Ok(Database {
            sandbox: self,
            name,
            password,
        })
    }

    /// Starts an S3 server with a bucket `backups` as pod, service and Secret `s3`. Returns when it answers.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn s3(&self) -> Result<()> {
        let secret = format!("not-to-be-seen-{}", unique());
        self.apply(&format!(
            r"
apiVersion: v1
kind: Secret
metadata: {{name: s3}}
stringData: {{access_key_id: tester, secret_access_key: {secret}}}
---
apiVersion: v1
kind: Service
metadata: {{name: s3}}
spec: {{selector: {{app: s3}}, ports: [{{port: 7070}}]}}
"
        ))
        .await?;
        self.s3_pod().await
    }

    /// Starts the S3 server's pod (again). Its data lies on a volume of the node that outlives the pod only if the namespace has a claim `s3`.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn s3_pod(&self) -> Result<()> {
        self.apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: s3, labels: {{app: s3}}}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, seccompProfile: {{type: RuntimeDefault}}}}
  automountServiceAccountToken: false
  containers:
  - name: versitygw
    image: docker.io/versity/versitygw:v1.8.0
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "mkdir -p /data/backups && exec versitygw --port :7070 posix --sidecar /data/.meta /data"]
    env:
    - {{name: ROOT_ACCESS_KEY, valueFrom: {{secretKeyRef: {{name: s3, key: access_key_id}}}}}}
    - {{name: ROOT_SECRET_KEY, valueFrom: {{secretKeyRef: {{name: s3, key: secret_access_key}}}}}}
    ports: [{{containerPort: 7070}}]
    readinessProbe: {{tcpSocket: {{port: 7070}}, periodSeconds: 1}}
    securityContext: {RESTRICTED}
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, emptyDir: {{}}}}]
"#
        ))
        .await?;
        self.until::<Pod>("s3", 120, "ready", ready).await?;
        Ok(())
    }

    /// A store `offsite` on the S3 server; waits until it was probed and is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn store(&self, encryption: &str) -> Result<()> {
        self.apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupStore
metadata: {{name: offsite}}
spec:
  s3: {{bucket: backups, prefix: e2e, endpoint: 'http://s3:7070'}}
  credentials: {{secretName: s3}}
  encryption: {encryption}
"
        ))
        .await?;
        self.until::<BackupStore>("offsite", 120, "Ready", |store| {
            store
                .status
                .as_ref()
                .is_some_and(|status| condition(&status.conditions, "Ready") == Some("True"))
        })
        .await?;
        Ok(())
    }

    /// A source for a server that [`Sandbox::postgres`] started. `more` is YAML for `spec.postgresql`, such as `databases: {include: [shop]}`.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn source(&self, name: &str, more: &str) -> Result<()> {
        self.apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupSource
metadata: {{name: {name}}}
spec:
  postgresql:
    hosts: ['{name}:5432']
    version: 15
    credentials: {{secretName: {name}}}
    tls: {{mode: Disable}}
    {more}
"
        ))
        .await
    }

    /// Starts a run by hand, with `more` as YAML for its spec.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn start_run(&self, name: &str, source: &str, more: &str) -> Result<()> {
        self.apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupRun
metadata: {{name: {name}}}
spec:
  source: {source}
  stores: [{{name: offsite}}]
  {more}
"
        ))
        .await
    }

    /// Waits until a run ended and returns it.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn run_ended(&self, name: &str, seconds: u64) -> Result<BackupRun> {
        self.until::<BackupRun>(name, seconds, "ended", |run| {
            run.status.as_ref().is_some_and(|status| status.phase.ended())
        })
        .await
    }

    /// Makes a copy and returns its run.
    ///
    /// # Errors
    /// If the run does not succeed.
    pub async fn back_up(&self, name: &str, source: &str) -> Result<BackupRun> {
        self.start_run(name, source, "").await?;
        let run = self.run_ended(name, 300).await?;
        let status = run.status.as_ref().context("status")?;
        anyhow::ensure!(
            status.phase == RunPhase::Succeeded,
            "run {name} is {:?} {:?}: {:?}",
            status.phase,
            status.reason,
            status.message
        );
        Ok(run)
    }

    /// Requests the restore of a run's copy into the server `to`, with `more` as YAML for the spec.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn request_restore(&self, name: &str, run: &str, to: &str, more: &str) -> Result<()> {
        self.apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: RestoreRequest
metadata: {{name: {name}}}
spec:
  from: {{run: {{name: {run}}}}}
  to:
    postgresql: {{hosts: ['{to}:5432'], version: 15, credentials: {{secretName: {to}}}, tls: {{mode: Disable}}}}
  {more}
"
        ))
        .await
    }

    /// Waits until a restore ended and returns it.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn restore_ended(&self, name: &str, seconds: u64) -> Result<RestoreRequest> {
        self.until::<RestoreRequest>(name, seconds, "ended", |request| {
            request.status.as_ref().is_some_and(|status| status.phase.ended())
        })
        .await
    }
}

impl Database<'_> {
    /// Runs SQL as the superuser over the pod's socket and returns the rows, unaligned, without headers.
    ///
    /// # Errors
    /// What psql says.
    pub async fn sql(&self, database: &str, sql: &str) -> Result<String> {
        self.sandbox
            .exec(
                self.name,
                &["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database],
                sql,
            )
            .await
            .map(|text| text.trim().to_owned())
    }

    /// Makes a database and fills it with every kind of thing and a table of so many rows.
    ///
    /// # Errors
    /// What psql says.
    pub async fn fill(&self, database: &str, rows: u64) -> Result<()> {
        self.sql("postgres", &format!("create database {database}")).await?;
        self.sql(database, &format!("\\set rows {rows}\n{DATA}")).await?;
        Ok(())
    }

    /// A line for each thing that holds data: name, rows, checksum.
    ///
    /// # Errors
    /// What psql says.
    pub async fn checksums(&self, database: &str) -> Result<String> {
        self.sql(database, CHECKSUMS).await
    }
}

/// The status of a condition.
pub fn condition<'a>(conditions: &'a [k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], kind: &str) -> Option<&'a str> {
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

fn ready(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

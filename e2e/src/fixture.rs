//! A PostgreSQL server and an S3 server as pods, and the objects of Holdfast that use them.

use anyhow::{Context, Result};
use holdfast_crds::{BackupRun, BackupStore, RestoreRequest, RunPhase};
use k8s_openapi::api::core::v1::Pod;

use crate::sandbox::{Sandbox, unique};

/// What fills a database with every kind of thing.
pub const DATA: &str = include_str!("../demo/data.sql");
const CHECKSUMS: &str = include_str!("../demo/checksums.sql");

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
        let password = self.secret(name, "username: postgres, password: VALUE").await?;
        let pod = include_str!("../demo/postgres.yaml")
            .replace("shop", name)
            .replace("docker.io/library/postgres:15", image)
            .replace("args: []", &format!("args: {arguments}"));
        self.apply(&pod).await?;
        self.until::<Pod>(name, 180, "ready", ready).await?;
        Ok(Database {
            sandbox: self,
            name,
            password,
        })
    }

    /// Starts an S3 server with a bucket `backups` as pod, service and Secret `s3`. Returns when it answers. Its data goes with its pod.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn s3(&self) -> Result<()> {
        self.secret("s3", "access_key_id: tester, secret_access_key: VALUE").await?;
        self.apply(include_str!("../demo/s3.yaml")).await?;
        self.until::<Pod>("s3", 120, "ready", ready).await?;
        Ok(())
    }

    /// Makes a Secret with `fields` (YAML), where VALUE stands for a value that no log, event or object may show; returns that value.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn secret(&self, name: &str, fields: &str) -> Result<String> {
        let value = format!("not-to-be-seen-{}", unique());
        let fields = fields.replace("VALUE", &value);
        self.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{fields}}}\n"
        ))
        .await?;
        Ok(value)
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

//! A PostgreSQL server and an S3 server as pods, and the objects of Holdfast that use them.

use crate::sandbox::{Sandbox, unique};
use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, BackupRunStatus, BackupStore, Reason, RestoreRequest, RestoreRequestStatus, RunPhase};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition};
use kube::ResourceExt;

/// What fills a database with every kind of thing.
pub const DATA: &str = include_str!("../demo/data.sql");
const CHECKSUMS: &str = include_str!("../demo/checksums.sql");
/// Name of the session that holds a lock.
const HOLDER: &str = "holder";
pub const POSTGRES_15: &str = "docker.io/library/postgres:15";

/// A key pair made for these tests alone.
pub const RECIPIENT: &str = "age1tjjpagr3vpyur4px88qqqdljdpupjrt7v40de2rjuesgf4yg7fuqcr0s0s";
pub const IDENTITY: &str = "AGE-SECRET-KEY-1699C7D6JJYDVRD9EU4P2T37T66W6ZAXJQ8TRWC9KD0CSLXSDMU2SLYAY3D";
/// An identity that opens nothing that was sealed to [`RECIPIENT`].
pub const OTHER_IDENTITY: &str = "AGE-SECRET-KEY-10UXV09KR8YLLZHYL2W5KU7WXAFWUQHDEPPP0XGFQU7KJXZRLSFMSMHVUJF";

/// A PostgreSQL server in the sandbox.
pub struct Database<'a> {
    sandbox: &'a Sandbox,
    pub name: &'static str,
    pub password: String,
}

impl Sandbox {
    /// Starts a PostgreSQL server as pod, service and Secret of this name; user `postgres`. Returns when it is reached.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn postgres(&self, name: &'static str) -> Result<Database<'_>> {
        self.postgres_with(name, POSTGRES_15, "[]").await
    }

    /// … with an image and arguments (a YAML list) for the server.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn postgres_with(&self, name: &'static str, image: &str, arguments: &str) -> Result<Database<'_>> {
        self.postgres_from(name, &postgres_manifest(name, image, arguments)).await
    }

    /// … from the manifest of a pod of this name, such as a changed [`postgres_manifest`].
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn postgres_from(&self, name: &'static str, manifest: &str) -> Result<Database<'_>> {
        let password = self.secret(name, "username: postgres, password: VALUE").await?;
        self.postgres_pod(name, manifest).await?;
        Ok(Database {
            sandbox: self,
            name,
            password,
        })
    }

    /// Starts the pod of [`Sandbox::postgres`] again after it was deleted: an empty server with the same password.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn postgres_again(&self, name: &str) -> Result<()> {
        self.postgres_pod(name, &postgres_manifest(name, POSTGRES_15, "[]")).await
    }

    async fn postgres_pod(&self, name: &str, manifest: &str) -> Result<()> {
        self.apply(manifest).await?;
        self.until::<Pod>(name, 180, "ready", ready).await?;
        // Its port is open a moment before it takes connections.
        self.reached(name, &format!("pg_isready -q -h {name} -U postgres")).await
    }

    /// Returns when a command in a pod reaches it under the name of its Service, which is some time after it is ready.
    pub(crate) async fn reached(&self, name: &str, command: &str) -> Result<()> {
        let until = format!("until {command}; do sleep 0.1; done");
        self.exec(name, &["timeout", "30", "sh", "-c", &until], "")
            .await
            .with_context(|| format!("the Service {name} leads nowhere"))
            .map(drop)
    }

    /// Makes a Secret with `fields` (YAML), where VALUE stands for a value that no log, event or object may show; returns that value.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn secret(&self, name: &str, fields: &str) -> Result<String> {
        let value = format!("not-to-be-seen-{}", unique());
        self.secret_of(name, &fields.replace("VALUE", &value)).await?;
        Ok(value)
    }

    /// Makes or changes a Secret with these fields (YAML).
    ///
    /// # Errors
    /// What the API server says.
    pub async fn secret_of(&self, name: &str, fields: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{fields}}}\n"
        ))
        .await
    }

    /// A store `offsite` on the S3 server; waits until it was probed and is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn store(&self, encryption: &str) -> Result<()> {
        self.store_named("offsite", "e2e", encryption).await
    }

    /// A store of this name under a prefix; waits until it was probed and is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn store_named(&self, name: &str, prefix: &str, encryption: &str) -> Result<()> {
        self.apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupStore
metadata: {{name: {name}}}
spec:
  s3: {{bucket: backups, prefix: {prefix}, endpoint: 'http://s3:7070'}}
  credentials: {{secretName: s3}}
  encryption: {encryption}
"
        ))
        .await?;
        self.store_ready(name).await
    }

    /// Waits until a store was probed and is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn store_ready(&self, name: &str) -> Result<()> {
        self.until::<BackupStore>(name, 180, "Ready", |store| {
            store
                .status
                .as_ref()
                .is_some_and(|status| condition(&status.conditions, "Ready") == Some("True"))
        })
        .await?;
        Ok(())
    }

    /// A source for a server that [`Sandbox::postgres`] started. `server` is YAML for `spec.postgresql`, such as `databases: {include: [shop]}`.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn source(&self, name: &str, server: &str) -> Result<()> {
        self.source_with(name, server, "").await
    }

    /// … with `spec` as YAML for its spec, such as `job: {image: …}`.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn source_with(&self, name: &str, server: &str, spec: &str) -> Result<()> {
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
    {server}
  {spec}
"
        ))
        .await
    }

    /// A database `shop` with a table of so many rows, the S3 server, the store `offsite`, unencrypted, and the source `shop`.
    ///
    /// # Errors
    /// If one of them does not become ready.
    pub async fn prepared(&self, rows: u64) -> Result<Database<'_>> {
        let database = self.postgres("shop").await?;
        database.fill("shop", rows).await?;
        self.s3().await?;
        self.store("{none: {}}").await?;
        self.source("shop", "databases: {include: [shop]}").await?;
        Ok(database)
    }

    /// Starts a run by hand, with `more` as YAML for its spec.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn start_run(&self, name: &str, source: &str, more: &str) -> Result<()> {
        self.start_run_to("offsite", name, source, more).await
    }

    /// … to another store.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn start_run_to(&self, store: &str, name: &str, source: &str, more: &str) -> Result<()> {
        self.apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupRun
metadata: {{name: {name}}}
spec:
  source: {source}
  stores: [{{name: {store}}}]
  {more}
"
        ))
        .await
    }

    /// Makes the schedule `often` of the source `shop` to the store `offsite`, with a tick each minute.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn often(&self) -> Result<()> {
        self.schedule("often", "{name: offsite}", "{name: minute, cron: '* * * * *'}").await
    }

    /// Makes a schedule of the source `shop` to these stores, whose tick does not come while a test runs. A keeper looks at once when there is
    /// something new that it is to be told, such as this, and only after a minute when there is a new copy.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn yearly(&self, name: &str, stores: &str) -> Result<()> {
        self.schedule(name, stores, "{name: yearly, cron: '0 0 1 1 *'}").await
    }

    async fn schedule(&self, name: &str, stores: &str, trigger: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: BackupSchedule\nmetadata: {{name: {name}}}\nspec: {{sources: {{names: [shop]}}, stores: [{stores}], triggers: [{trigger}]}}\n"
        ))
        .await
    }

    /// Starts a run by hand that takes where it goes, and how long its copy stays, from a schedule.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn start_run_of(&self, schedule: &str, name: &str, source: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: BackupRun\nmetadata: {{name: {name}}}\nspec: {{source: {source}, schedule: {{name: {schedule}}}}}\n"
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

    /// Waits until a run ended, and returns its status.
    ///
    /// # Errors
    /// If it does not succeed.
    pub async fn run_succeeded(&self, name: &str, seconds: u64) -> Result<BackupRunStatus> {
        let status = self.run_ended(name, seconds).await?.status.context("status")?;
        ensure!(status.phase == RunPhase::Succeeded, "run {name}: {status:?}");
        Ok(status)
    }

    /// Waits until a run ended, and returns its status.
    ///
    /// # Errors
    /// If it does not fail, or for another reason.
    pub async fn run_failed(&self, name: &str, seconds: u64, reason: Reason) -> Result<BackupRunStatus> {
        let status = self.run_ended(name, seconds).await?.status.context("status")?;
        ensure!(
            (status.phase, status.reason) == (RunPhase::Failed, Some(reason)),
            "run {name}: {status:?}"
        );
        Ok(status)
    }

    /// Makes a copy and returns its run.
    ///
    /// # Errors
    /// If the run does not succeed.
    pub async fn back_up(&self, name: &str, source: &str) -> Result<BackupRun> {
        self.start_run(name, source, "").await?;
        self.run_succeeded(name, 300).await?;
        Ok(self.api().get(name).await?)
    }

    /// The pod of a run whose dump waits for a lock that [`Database::hold_lock`] holds.
    ///
    /// # Errors
    /// If it does not get so far.
    pub async fn dumping(&self, run: &str, database: &Database<'_>) -> Result<String> {
        let labels = format!("holdfast.dev/run={run},holdfast.dev/purpose=backup");
        database.dump_waits().await?;
        let at_work = |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && running(pod);
        let pods = self
            .until_list::<Pod>(&labels, 120, "running", |pods| pods.iter().any(at_work))
            .await?;
        pods.iter()
            .find(|pod| at_work(pod))
            .map(ResourceExt::name_any)
            .context("a running pod")
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

    /// Waits until a restore ended, and returns its status.
    ///
    /// # Errors
    /// If it does not succeed.
    pub async fn restore_succeeded(&self, name: &str, seconds: u64) -> Result<RestoreRequestStatus> {
        let status = self.restore_ended(name, seconds).await?.status.context("status")?;
        ensure!(status.phase == RunPhase::Succeeded, "restore {name}: {status:?}");
        Ok(status)
    }

    /// Waits until a restore ended.
    ///
    /// # Errors
    /// If it does not fail, or for another reason.
    pub async fn restore_failed(&self, name: &str, seconds: u64, reason: Reason) -> Result<()> {
        let status = self.restore_ended(name, seconds).await?.status.context("status")?;
        ensure!(
            (status.phase, status.reason) == (RunPhase::Failed, Some(reason)),
            "restore {name}: {status:?}"
        );
        Ok(())
    }
}

impl Database<'_> {
    /// Runs SQL as the superuser over the pod's socket and returns the rows, unaligned, without headers.
    ///
    /// # Errors
    /// What psql says.
    pub async fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database];
        self.sandbox.exec(self.name, &command, sql).await.map(|text| text.trim().to_owned())
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

    /// Locks a table against everybody until it is released, so that a dump waits. The session runs in the pod by itself: it outlives a
    /// kubelet that is restarted.
    ///
    /// # Errors
    /// What psql says.
    pub async fn hold_lock(&self, database: &str, table: &str) -> Result<HeldLock<'_>> {
        // Whoever loses its parent in a container becomes a child of the server there, which takes a child's exit code for a crash.
        let session = format!(
            "(psql -Xq -1 -U postgres -d {database} -c 'set application_name = {HOLDER}' \
             -c 'lock table {table} in access exclusive mode' -c 'select pg_sleep(1800)'; exit 0) > /dev/null 2>&1 < /dev/null &"
        );
        self.sandbox.exec(self.name, &["sh", "-c", &session], "").await?;
        self.until_sql(&format!(
            "select from pg_locks join pg_stat_activity using (pid) where application_name = '{HOLDER}' and mode = 'AccessExclusiveLock' and granted"
        ))
        .await?;
        Ok(HeldLock {
            sandbox: self.sandbox,
            server: self.name,
        })
    }

    /// Starts a run of the source `shop` by hand, with `more` as YAML for its spec, whose dump waits for a lock; gives the lock and the run's pod.
    ///
    /// # Errors
    /// If it does not get so far.
    pub async fn held_dump(&self, run: &str, more: &str) -> Result<(HeldLock<'_>, String)> {
        let lock = self.hold_lock("shop", "documents").await?;
        self.sandbox.start_run(run, "shop", more).await?;
        let pod = self.sandbox.dumping(run, self).await?;
        Ok((lock, pod))
    }

    /// Returns when a query gives a row.
    async fn until_sql(&self, query: &str) -> Result<()> {
        let wait = format!(
            "do $$ begin for i in 1..1200 loop
            if exists ({query}) then return; end if;
            perform pg_sleep(0.1); perform pg_stat_clear_snapshot(); end loop;
            raise exception 'no row after two minutes'; end $$"
        );
        self.sql("postgres", &wait).await.map(drop)
    }

    /// Returns when a session waits for a table's lock.
    async fn dump_waits(&self) -> Result<()> {
        self.until_sql("select from pg_stat_activity where wait_event_type = 'Lock' and query ilike 'lock table%'")
            .await
    }
}

/// A lock that is held until it is released.
pub struct HeldLock<'a> {
    sandbox: &'a Sandbox,
    server: &'static str,
}

impl HeldLock<'_> {
    /// # Errors
    /// If the session ended before.
    pub async fn release(self) -> Result<()> {
        let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where application_name = '{HOLDER}'");
        let ended = self
            .sandbox
            .exec(self.server, &["psql", "-XqAt", "-U", "postgres", "-d", "postgres", "-c", &end], "")
            .await?;
        ensure!(ended.trim() == "t", "the session with the lock was not there: {ended:?}");
        Ok(())
    }
}

/// Service and pod of a PostgreSQL server, with `arguments` (a YAML list) for it.
pub fn postgres_manifest(name: &str, image: &str, arguments: &str) -> String {
    include_str!("../demo/postgres.yaml")
        .replace("shop", name)
        .replace(POSTGRES_15, image)
        .replace("args: []", &format!("args: {arguments}"))
}

/// The status of a condition.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a str> {
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

/// Whether the pod is ready, and stays.
pub fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Whether the pod's containers were started and none has ended.
pub fn running(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
}

//! Every version of PostgreSQL, certificates, and standbys.

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use holdfast_crds::{BackupRun, CopySummary, Reason, RunPhase};
use holdfast_e2e::{
    fixture::{POSTGRES_15, postgres_manifest},
    sandbox::{self, Sandbox},
};

/// A source, with the whole of its spec.postgresql as YAML.
async fn source(sandbox: &Sandbox, name: &str, server: &str) -> Result<()> {
    sandbox
        .apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: BackupSource\nmetadata: {{name: {name}}}\nspec: {{postgresql: {{{server}, databases: {{include: [shop]}}}}}}\n"
        ))
        .await
}

/// Restores a run's copy into a server, with the whole of its description and of `select` as YAML.
async fn restore(sandbox: &Sandbox, name: &str, run: &str, server: &str, select: &str) -> Result<()> {
    sandbox
        .apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: RestoreRequest\nmetadata: {{name: {name}}}\nspec: {{from: {{run: {{name: {run}}}}}, to: {{postgresql: {{{server}}}}}, select: {{{select}}}}}\n"
        ))
        .await?;
    sandbox.restore_succeeded(name, 300).await?;
    Ok(())
}

fn copy(run: BackupRun) -> Result<CopySummary> {
    run.status.and_then(|status| status.copy).context("a copy")
}

#[test]
fn versions_16_17_and_18_are_restored_equal_and_an_older_copy_into_a_newer_server() {
    sandbox::run("versions", |sandbox| async move {
        sandbox.s3().await?;
        sandbox.store("{none: {}}").await?;
        let server = |name: &str| {
            let version = &name[2..];
            format!("hosts: ['{name}:5432'], version: {version}, credentials: {{secretName: {name}}}, tls: {{mode: Disable}}")
        };
        let equal = |name: &'static str| {
            let sandbox = &sandbox;
            async move {
                let image = format!("docker.io/library/postgres:{}", &name[2..]);
                let database = sandbox.postgres_with(name, &image, "[]").await?;
                database.fill("shop", 5_000).await?;
                let before = database.checksums("shop").await?;
                source(sandbox, name, &server(name)).await?;
                let copy = copy(sandbox.back_up(name, name).await?)?;
                let version = format!("PostgreSQL {}.", &name[2..]);
                ensure!(
                    copy.engine.as_ref().is_some_and(|engine| engine.starts_with(&version)) && copy.structure_checked,
                    "{copy:?}"
                );
                database.sql("postgres", "drop database shop").await?;
                restore(sandbox, name, name, &server(name), "").await?;
                let after = database.checksums("shop").await?;
                ensure!(before == after, "{name} before:\n{before}\nafter:\n{after}");
                Ok(database)
            }
        };
        let databases = try_join_all([equal("pg16"), equal("pg17"), equal("pg18")]).await?;

        restore(&sandbox, "upgraded", "pg16", &server("pg18"), "rename: {shop: from_16}").await?;
        // What the catalog says about the objects differs from version to version; data does not.
        let data = |checksums: &str| -> Vec<String> {
            let line = |line: &&str| !line.starts_with("objects ") && !line.starts_with("database ");
            checksums.lines().filter(line).map(str::to_owned).collect()
        };
        let (old, new) = (databases[0].checksums("shop").await?, databases[2].checksums("from_16").await?);
        ensure!(data(&old) == data(&new), "in 16:\n{old}\nin 18:\n{new}");
        Ok(())
    });
}

/// A CA, and certificates that it signed.
struct Authority {
    certificate: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "Holdfast test CA");
        let certificate = ca.self_signed(&key)?.pem();
        let issuer = rcgen::Issuer::new(ca, key);
        Ok(Self { certificate, issuer })
    }

    /// A Secret with a certificate for this name (a host's or a user's), its key, this CA, and `more` as further keys.
    async fn secret(&self, sandbox: &Sandbox, secret: &str, name: &str, more: &[(&str, &str)]) -> Result<()> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let mut data = serde_json::json!({"tls.crt": certificate, "tls.key": key.serialize_pem(), "ca.crt": self.certificate});
        for (key, value) in more {
            data[*key] = (*value).into();
        }
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "stringData": data});
        sandbox.apply_value(object).await
    }
}

/// The server lets nobody in by the network but with TLS and a client certificate for the user.
#[test]
fn tls_is_verified_in_full_and_a_client_certificate_logs_in() {
    sandbox::run("tls", |sandbox| async move {
        let (ours, other) = (Authority::new()?, Authority::new()?);
        let rules = "local all all trust\nhostssl all all all cert\n";
        ours.secret(&sandbox, "server", "shop", &[("pg_hba.conf", rules)]).await?;
        ours.secret(&sandbox, "client", "postgres", &[]).await?;
        other.secret(&sandbox, "other", "postgres", &[]).await?;
        let arguments = "[-c, ssl=on, -c, ssl_cert_file=/tls/tls.crt, -c, ssl_key_file=/tls/tls.key, -c, ssl_ca_file=/tls/ca.crt, -c, hba_file=/tls/pg_hba.conf]";
        let manifest = postgres_manifest("shop", POSTGRES_15, arguments)
            .replace("volumeMounts: [", "volumeMounts: [{name: tls, mountPath: /tls}, ")
            .replace(
                "volumes: [",
                "volumes: [{name: tls, secret: {secretName: server, defaultMode: 288}}, ",
            );
        let database = sandbox.postgres_from("shop", &manifest).await?;
        database.fill("shop", 100).await?;
        let before = database.checksums("shop").await?;
        sandbox.s3().await?;
        sandbox.store("{none: {}}").await?;

        let server = |host: &str, tls: &str| {
            format!("hosts: ['{host}:5432'], version: 15, credentials: {{secretName: shop}}, tls: {{mode: VerifyFull{tls}}}")
        };
        let right = ", caSecretName: server, clientCertificateSecretName: client";
        let elsewhere = format!("shop.{}.svc.cluster.local", sandbox.namespace);
        let wrong = [
            ("another-name", server(&elsewhere, right), Reason::DatabaseTlsFailed),
            (
                "another-ca",
                server("shop", ", caSecretName: other, clientCertificateSecretName: client"),
                Reason::DatabaseTlsFailed,
            ),
            (
                "public-cas",
                server("shop", ", clientCertificateSecretName: client"),
                Reason::DatabaseTlsFailed,
            ),
            (
                "no-certificate",
                server("shop", ", caSecretName: server"),
                Reason::DatabaseLoginFailed,
            ),
        ];
        for (name, server, _) in &wrong {
            source(&sandbox, name, server).await?;
            sandbox.start_run(name, name, "attempts: 1").await?;
        }
        source(&sandbox, "shop", &server("shop", right)).await?;
        sandbox.back_up("right", "shop").await?;
        database.sql("postgres", "drop database shop").await?;
        restore(&sandbox, "back", "right", &server("shop", right), "").await?;
        ensure!(database.checksums("shop").await? == before, "what was restored differs");
        for (name, _, reason) in wrong {
            let status = sandbox.run_ended(name, 120).await?.status.context("status")?;
            ensure!(
                (status.phase, status.reason) == (RunPhase::Failed, Some(reason)),
                "{name}: {status:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_standby_is_read_first_and_its_lag_told_and_the_primary_takes_its_place() {
    sandbox::run("standby", |sandbox| async move {
        let primary = sandbox.postgres("primary").await?;
        primary.fill("shop", 100).await?;
        let admit =
            "echo 'host replication all all scram-sha-256' >> $PGDATA/pg_hba.conf && psql -XqAt -U postgres -c 'select pg_reload_conf()'";
        sandbox.exec("primary", &["sh", "-c", admit], "").await?;
        let follow =
            "PGPASSWORD=$POSTGRES_PASSWORD pg_basebackup -h primary -U postgres -D $PGDATA -R -X stream --checkpoint=fast && exec postgres";
        let manifest = postgres_manifest("standby", POSTGRES_15, &serde_json::json!(["sh", "-c", follow]).to_string())
            .replace("secretKeyRef: {name: standby", "secretKeyRef: {name: primary");
        let standby = sandbox.postgres_from("standby", &manifest).await?;
        sandbox.s3().await?;
        sandbox.store("{none: {}}").await?;
        let hosts = "hosts: ['standby:5432', 'primary:5432'], version: 15, credentials: {secretName: primary}, tls: {mode: Disable}";
        source(&sandbox, "shop", hosts).await?;

        // What the primary commits from now on, the standby does not show.
        standby.sql("postgres", "select pg_wal_replay_pause()").await?;
        let paused = standby
            .sql(
                "postgres",
                "do $$ begin while pg_get_wal_replay_pause_state() <> 'paused' loop perform pg_sleep(0.05); end loop; end $$; select 1",
            )
            .await?;
        ensure!(paused == "1", "{paused}");
        primary.sql("shop", "create table later as select 7 as id").await?;
        let committed: jiff::Timestamp = primary
            .sql(
                "shop",
                "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            )
            .await?
            .parse()?;
        let standing = copy(sandbox.back_up("from-standby", "shop").await?)?;
        ensure!(
            standing.notes.iter().any(|note| note.contains("standby:5432 is a standby")),
            "{standing:?}"
        );
        let point: jiff::Timestamp = standing.recovery_point.parse()?;
        ensure!(
            point < committed,
            "the recovery point {point} is after {committed}, of which the standby knew nothing"
        );

        sandbox.kubectl(&["delete", "pod", "standby", "--now"]).await?;
        let direct = copy(sandbox.back_up("from-primary", "shop").await?)?;
        ensure!(direct.notes.iter().all(|note| !note.contains("is a standby")), "{direct:?}");
        let point: jiff::Timestamp = direct.recovery_point.parse()?;
        ensure!(point > committed, "{point} {committed}");
        // The new table, and the unlogged one, which no standby has.
        ensure!(
            direct.tables == standing.tables + 2 && direct.rows == standing.rows.map(|rows| rows + 2),
            "{standing:?} {direct:?}"
        );
        Ok(())
    });
}

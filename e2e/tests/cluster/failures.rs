//! What goes wrong says why, and what to do; what can be mended recovers by itself.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, BackupStore, Reason, RestoreRequest, RunPhase};
use holdfast_e2e::{
    fixture::{IDENTITY, OTHER_IDENTITY, RECIPIENT, condition},
    sandbox::{self, Sandbox},
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;

/// Makes a pod that Pod Security `restricted` admits.
const POD: [&str; 4] = [
    "run",
    "refused",
    "--image=c",
    r#"--overrides={"spec":{"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"c","image":"c","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}}"#,
];

/// A run shows this reason while or after it fails, with a message that holds each of `words`.
async fn shows(sandbox: &Sandbox, run: &str, seconds: u64, reason: Reason, words: &[&str]) -> Result<BackupRun> {
    let run = sandbox
        .until::<BackupRun>(run, seconds, reason.as_str(), |run| {
            run.status.as_ref().is_some_and(|status| status.reason == Some(reason))
        })
        .await?;
    let message = run.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
    for word in words {
        ensure!(message.contains(word), "the message does not name {word:?}: {message}");
    }
    Ok(run)
}

#[test]
fn a_wrong_password_fails_with_its_reason() {
    sandbox::run("wrong-password", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        database.sql("postgres", "alter role postgres password 'another'").await?;
        sandbox.start_run("first", "shop", "").await?;
        let run = sandbox.run_ended("first", 120).await?;
        let status = run.status.context("status")?;
        ensure!(
            (status.phase, status.reason) == (RunPhase::Failed, Some(Reason::DatabaseLoginFailed)),
            "{status:?}"
        );
        ensure!(status.attempts.len() == 1, "another attempt cannot help: {:?}", status.attempts);
        ensure!(condition(&status.conditions, "Stalled") == Some("True"), "{:?}", status.conditions);
        Ok(())
    });
}

#[test]
fn a_database_that_is_down_is_tried_again_and_then_copied() {
    sandbox::run("down", |sandbox| async move {
        let database = sandbox.postgres("shop").await?;
        database.fill("shop", 100).await?;
        sandbox.s3().await?;
        sandbox.store("{none: {}}").await?;
        sandbox.source("shop", "").await?;
        sandbox.kubectl(&["delete", "pod", "shop", "--now"]).await?;
        sandbox.start_run("first", "shop", "").await?;
        sandbox
            .until::<BackupRun>("first", 120, "failed once", |run| {
                run.status.as_ref().is_some_and(|status| {
                    status
                        .attempts
                        .first()
                        .is_some_and(|first| first.reason == Some(Reason::DatabaseUnreachable))
                        && status.message.as_ref().is_some_and(|message| message.contains("shop"))
                })
            })
            .await?;
        sandbox.postgres_again("shop").await?;
        database.sql("postgres", "create database shop").await?;
        let status = sandbox.run_succeeded("first", 300).await?;
        ensure!(
            status.attempts.len() > 1 && status.attempts[0].reason == Some(Reason::DatabaseUnreachable),
            "{:?}",
            status.attempts
        );
        Ok(())
    });
}

#[test]
fn a_missing_secret_is_named_and_the_run_goes_on_once_it_exists() {
    sandbox::run("secret", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        sandbox.kubectl(&["delete", "secret", "shop"]).await?;
        sandbox.start_run("first", "shop", "").await?;
        let run = shows(&sandbox, "first", 45, Reason::SecretNotFound, &["\"shop\""]).await?;
        ensure!(run.status.is_some_and(|status| !status.phase.ended()), "it waits");
        let password = &database.password;
        sandbox
            .secret_of("shop", &format!("username: postgres, password: {password}"))
            .await?;
        sandbox.run_succeeded("first", 300).await?;
        Ok(())
    });
}

#[test]
fn a_missing_key_of_a_secret_is_named() {
    sandbox::run("secret-key", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        sandbox.kubectl(&["delete", "secret", "shop"]).await?;
        sandbox
            .secret_of("shop", &format!("username: postgres, passwort: {}", database.password))
            .await?;
        sandbox.start_run("first", "shop", "").await?;
        shows(&sandbox, "first", 45, Reason::SecretKeyMissing, &["password"]).await?;
        Ok(())
    });
}

#[test]
fn a_wrong_bucket_makes_the_store_not_ready() {
    sandbox::run("bucket", |sandbox| async move {
        sandbox.s3().await?;
        sandbox
            .apply("apiVersion: holdfast.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: offsite}\nspec: {s3: {bucket: not-there, endpoint: 'http://s3:7070'}, credentials: {secretName: s3}, encryption: {none: {}}}\n")
            .await?;
        let store = sandbox
            .until::<BackupStore>("offsite", 120, "refused", |store| {
                store
                    .status
                    .as_ref()
                    .is_some_and(|status| status.conditions.iter().any(|c| c.reason == Reason::BucketNotFound.as_str()))
            })
            .await?;
        let status = store.status.context("status")?;
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .context("Ready")?;
        ensure!(ready.message.contains("not-there"), "{}", ready.message);
        Ok(())
    });
}

#[test]
fn a_killed_pg_dump_is_a_failure_and_tried_again() {
    sandbox::run("kill-dump", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let (lock, pod) = database.held_dump("first", "").await?;
        let kill =
            "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' < $p/cmdline) in *pg_dump\\ *) kill -9 ${p#/proc/}; exit 0;; esac; done; exit 1";
        sandbox.exec_in(&pod, &["-c", "agent"], &["sh", "-c", kill], "").await?;
        let first = sandbox
            .until::<BackupRun>("first", 60, "failed once", |run| {
                run.status
                    .as_ref()
                    .is_some_and(|status| status.attempts.first().is_some_and(|attempt| attempt.reason.is_some()))
            })
            .await?;
        ensure!(
            first
                .status
                .is_some_and(|status| status.attempts[0].reason == Some(Reason::DumpFailed)),
            "the attempt has another reason"
        );
        lock.release().await?;
        let status = sandbox.run_ended("first", 300).await?.status.context("status")?;
        ensure!(status.phase == RunPhase::Succeeded && status.attempts.len() == 2, "{status:?}");
        Ok(())
    });
}

#[test]
fn a_locked_table_fails_as_lock_timeout() {
    sandbox::run("locked", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        sandbox.source("shop", "databases: {include: [shop]}\n    lockTimeout: 3s").await?;
        let lock = database.hold_lock("shop", "documents").await?;
        sandbox.start_run("first", "shop", "attempts: 1").await?;
        sandbox.run_failed("first", 120, Reason::LockTimeout).await?;
        lock.release().await
    });
}

#[test]
fn only_the_last_failed_job_of_a_source_is_kept() {
    sandbox::run("last-failed", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox.source("shop", "databases: {include: [not-there]}").await?;
        for name in ["first", "second"] {
            sandbox.start_run(name, "shop", "").await?;
            sandbox.run_failed(name, 120, Reason::NoDatabases).await?;
            // Kubernetes counts the Job after its run has ended; it is still there then, and no other.
            let job = format!("{name}-b1");
            sandbox
                .until_list::<Job>("holdfast.dev/purpose in (backup,settle)", 60, &job, |jobs| {
                    let failed = |job: &Job| job.status.as_ref().and_then(|status| status.failed) == Some(1);
                    matches!(jobs, [only] if only.name_any() == job && failed(only))
                })
                .await?;
            let log = sandbox.kubectl(&["logs", &format!("job/{job}")]).await?;
            ensure!(log.contains(Reason::NoDatabases.as_str()), "{log}");
        }
        Ok(())
    });
}

#[test]
fn a_quota_that_refuses_the_pod_is_told() {
    sandbox::run("quota", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox
            .apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: tight}\nspec: {hard: {pods: '2'}}\n")
            .await?;
        sandbox.start_run("first", "shop", "").await?;
        shows(&sandbox, "first", 45, Reason::QuotaExceeded, &["tight"]).await?;
        sandbox.kubectl(&["delete", "resourcequota", "tight"]).await?;
        sandbox.run_succeeded("first", 400).await?;
        Ok(())
    });
}

#[test]
fn a_limit_range_that_refuses_the_pod_is_told() {
    sandbox::run("limits", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox
            .apply("apiVersion: v1\nkind: LimitRange\nmetadata: {name: tight}\nspec: {limits: [{type: Container, max: {memory: 32Mi}}]}\n")
            .await?;
        sandbox.start_run("first", "shop", "").await?;
        shows(&sandbox, "first", 45, Reason::LimitRangeRefused, &["memory"]).await?;
        Ok(())
    });
}

/// Pod Security of the level `restricted` is enforced in every sandbox, and admits what Holdfast makes, until something adds to it.
#[test]
fn pod_security_that_refuses_the_pod_is_told() {
    sandbox::run("pod-security", |sandbox| async move {
        sandbox.prepared(100).await?;
        let name = &sandbox.namespace;
        let policy = format!(
            r#"
apiVersion: admissionregistration.k8s.io/v1beta1
kind: MutatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {{expression: "Object{{spec: Object.spec{{hostNetwork: true}}}}"}}
---
apiVersion: admissionregistration.k8s.io/v1beta1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec:
  policyName: {name}
  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}}}
"#
        );
        sandbox.apply(&policy).await?;
        sandbox.until_refused(&POD, &["violates PodSecurity"]).await?;
        sandbox.start_run("first", "shop", "").await?;
        let told = shows(&sandbox, "first", 45, Reason::PodSecurityRefused, &["restricted", "hostNetwork"]).await;
        sandbox
            .kubectl(&["delete", "mutatingadmissionpolicy,mutatingadmissionpolicybinding", name])
            .await?;
        told?;
        sandbox.run_succeeded("first", 400).await?;
        Ok(())
    });
}

/// Another policy may refuse what Pod Security admits.
#[test]
fn an_admission_policy_that_refuses_the_pod_is_told() {
    sandbox::run("admission", |sandbox| async move {
        sandbox.prepared(100).await?;
        let name = &sandbox.namespace;
        let policy = format!(
            r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]
  validations: [{{expression: "false", message: "no pods today"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec:
  policyName: {name}
  validationActions: [Deny]
  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}}}
"#
        );
        sandbox.apply(&policy).await?;
        sandbox.until_refused(&POD, &["no pods today"]).await?;
        sandbox.start_run("first", "shop", "").await?;
        let told = shows(&sandbox, "first", 45, Reason::AdmissionRefused, &["no pods today"]).await;
        sandbox
            .kubectl(&["delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", name])
            .await?;
        told?;
        sandbox.run_succeeded("first", 400).await?;
        Ok(())
    });
}

#[test]
fn a_memory_limit_that_is_too_low_is_told() {
    sandbox::run("memory-limit", |sandbox| async move {
        let database = sandbox.postgres("shop").await?;
        database.fill("shop", 100).await?;
        // What pg_dump knows of each table is in its memory.
        let tables = "do $$ begin for i in 1..3000 loop execute format('create table many_%s (id int)', i); end loop; end $$";
        database.sql("shop", tables).await?;
        sandbox.s3().await?;
        sandbox.store("{none: {}}").await?;
        let limit = "job: {resources: {requests: {memory: 16Mi}, limits: {memory: 16Mi}}}";
        sandbox.source_with("shop", "databases: {include: [shop]}", limit).await?;
        sandbox.start_run("first", "shop", "attempts: 1").await?;
        let run = shows(
            &sandbox,
            "first",
            120,
            Reason::OutOfMemory,
            &["job.resources.limits.memory", "pg_dump"],
        )
        .await?;
        ensure!(run.status.is_some_and(|status| status.copy.is_none()), "a copy was made");
        Ok(())
    });
}

#[test]
fn an_image_that_cannot_be_pulled_is_named() {
    sandbox::run("image", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox.source_with("shop", "", "job: {image: 'localhost/not/there:1'}").await?;
        sandbox.start_run("first", "shop", "").await?;
        shows(&sandbox, "first", 60, Reason::ImagePullFailed, &["localhost/not/there:1"]).await?;
        Ok(())
    });
}

#[test]
fn a_pod_that_no_node_can_take_is_told() {
    sandbox::run("unschedulable", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox
            .source_with("shop", "", "job: {nodeSelector: {disk: none-has-this}}")
            .await?;
        sandbox.start_run("first", "shop", "").await?;
        shows(&sandbox, "first", 45, Reason::Unschedulable, &["node"]).await?;
        sandbox
            .kubectl(&["patch", "backuprun", "first", "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#])
            .await?;
        let status = sandbox.run_ended("first", 120).await?.status.context("status")?;
        ensure!(
            (status.phase, status.reason) == (RunPhase::Cancelled, Some(Reason::Cancelled)),
            "{status:?}"
        );
        sandbox
            .until_list::<Pod>("holdfast.dev/run=first", 60, "empty", <[Pod]>::is_empty)
            .await?;
        Ok(())
    });
}

#[test]
fn a_wrong_key_stops_a_restore_before_the_target_is_touched() {
    sandbox::run("wrong-key", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        sandbox.secret_of("other", &format!("identity: {OTHER_IDENTITY}")).await?;
        sandbox.secret_of("right", &format!("identity: {IDENTITY}")).await?;
        sandbox
            .store_named("sealed", "sealed", &format!("{{age: {{recipients: [{RECIPIENT}]}}}}"))
            .await?;
        sandbox.start_run_to("sealed", "first", "shop", "").await?;
        sandbox.run_ended("first", 200).await?;
        database.sql("postgres", "drop database shop").await?;
        sandbox.request_restore("none", "first", "shop", "").await?;
        sandbox.restore_failed("none", 120, Reason::KeyMissing).await?;
        sandbox
            .request_restore("wrong", "first", "shop", "identitySecretName: other")
            .await?;
        sandbox.restore_failed("wrong", 120, Reason::WrongKey).await?;
        let databases = database
            .sql("postgres", "select string_agg(datname, ' ' order by datname) from pg_database")
            .await?;
        ensure!(databases == "postgres template0 template1", "{databases}");
        sandbox
            .request_restore("right", "first", "shop", "identitySecretName: right")
            .await?;
        sandbox.restore_succeeded("right", 200).await?;
        Ok(())
    });
}

#[test]
fn a_corrupted_part_stops_a_restore_before_it_writes() {
    sandbox::run("corrupt", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        sandbox.back_up("first", "shop").await?;
        database.sql("postgres", "drop database shop").await?;
        // One byte in the middle of the largest part, as a failing disk would change it: the size stays.
        let damage = "f=$(find /data/backups/e2e/data -type f -name '0*.zst' -exec ls -S {} + | head -1); at=$(($(stat -c %s \"$f\") / 2)); \
            b=$(dd if=\"$f\" bs=1 skip=$at count=1 2>/dev/null | od -An -tu1); \
            printf \"\\\\$(printf %o $(((b + 1) % 256)))\" | dd of=\"$f\" bs=1 seek=$at conv=notrunc 2>/dev/null";
        sandbox.exec("s3", &["sh", "-ec", damage], "").await?;
        sandbox.request_restore("back", "first", "shop", "").await?;
        sandbox.restore_failed("back", 200, Reason::CopyCorrupt).await?;
        let databases = database
            .sql("postgres", "select string_agg(datname, ' ' order by datname) from pg_database")
            .await?;
        ensure!(databases == "postgres template0 template1", "{databases}");
        Ok(())
    });
}

#[test]
fn a_database_with_data_is_never_restored_over() {
    sandbox::run("not-empty", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        sandbox.back_up("first", "shop").await?;
        database
            .sql("shop", "create table later (id integer); insert into later values (7)")
            .await?;
        let before = database.checksums("shop").await?;
        sandbox.request_restore("over", "first", "shop", "").await?;
        sandbox.restore_failed("over", 200, Reason::TargetNotEmpty).await?;
        ensure!(database.checksums("shop").await? == before, "the database was touched");
        sandbox
            .request_restore("beside", "first", "shop", "select: {rename: {shop: shop_yesterday}}")
            .await?;
        sandbox.restore_succeeded("beside", 200).await?;
        ensure!(
            database.sql("shop_yesterday", "select count(*) from documents").await? == "500",
            "the renamed database is not whole"
        );
        Ok(())
    });
}

#[test]
fn a_request_that_is_made_again_does_nothing() {
    sandbox::run("again", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        sandbox.back_up("first", "shop").await?;
        database.sql("postgres", "drop database shop").await?;
        sandbox.request_restore("back", "first", "shop", "").await?;
        sandbox.restore_succeeded("back", 200).await?;
        let first = sandbox.api::<RestoreRequest>().get("back").await?;
        database
            .sql("shop", "create table later (id integer); insert into later values (7)")
            .await?;
        sandbox.kubectl(&["delete", "restorerequest", "back"]).await?;
        sandbox.request_restore("back", "first", "shop", "").await?;
        let again = sandbox
            .until::<RestoreRequest>("back", 200, "ended anew", |request| {
                request.uid() != first.uid() && request.status.as_ref().is_some_and(|status| status.phase.ended())
            })
            .await?;
        let status = again.status.context("status")?;
        ensure!(
            (status.phase, status.reason) == (RunPhase::Succeeded, Some(Reason::AlreadyDone)),
            "{status:?}"
        );
        ensure!(database.sql("shop", "select id from later").await? == "7", "later data is gone");
        Ok(())
    });
}

//! A store whose keys come from a pod's service account token. The cluster is the issuer, versitygw's own STS checks the token.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupStore, Reason};
use holdfast_e2e::{
    fixture::ready,
    sandbox::{self, Sandbox},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::process::Stdio;
use tokio::{io::AsyncWriteExt, process::Command};

/// How tokens name the cluster, without its scheme.
const ISSUER: &str = "kubernetes.default.svc.cluster.local";
/// An address of the documentation's range: the STS asks no issuer at a private one.
const PUBLIC: &str = "198.51.100.10";

/// A pod with versitygw's IAM and STS on port 7076 and its gateway on port 7070, which see the issuer under [`PUBLIC`].
async fn gateway(sandbox: &Sandbox, api_server: &str) -> Result<String> {
    let (ip, port) = api_server.split_once(':').context("the API server's address")?;
    sandbox
        .apply(&format!(
            r"
apiVersion: v1
kind: Service
metadata: {{name: issuer}}
spec: {{externalIPs: [{PUBLIC}], ports: [{{name: https, port: 443, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: issuer, labels: {{kubernetes.io/service-name: issuer}}}}
addressType: IPv4
endpoints: [{{addresses: [{ip}]}}]
ports: [{{name: https, port: {port}}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:service-account-issuer-discovery'}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:unauthenticated'}}]
",
            sandbox.namespace
        ))
        .await?;
    let secret = sandbox.secret("s3", "access_key_id: tester, secret_access_key: VALUE").await?;
    let command = "mkdir -p /data/backups /tmp/iam; versitygw --port :7076 iam --dir /tmp/iam --private-ports /tmp/iam.sock & \
        until [ -S /tmp/iam.sock ]; do sleep 0.1; done; exec versitygw --port :7070 --iam-standalone-endpoint /tmp/iam.sock posix /data";
    let mut manifest = include_str!("../../demo/s3.yaml")
        .replace("ports: [{port: 7070}]", "ports: [{name: s3, port: 7070}, {name: sts, port: 7076}]")
        .replace(
            "spec:\n  terminationGracePeriodSeconds",
            &format!("spec:\n  hostAliases: [{{ip: {PUBLIC}, hostnames: [{ISSUER}]}}]\n  terminationGracePeriodSeconds"),
        );
    let before = manifest.find("    command: ").context("command")?;
    let after = before + manifest[before..].find('\n').context("line")?;
    manifest.replace_range(before..after, &format!("    command: {}", json!(["sh", "-c", command])));
    sandbox.apply(&manifest).await?;
    sandbox.until::<Pod>("s3", 120, "ready", ready).await?;
    // Until kube-proxy has written its rules for the new address.
    let reaches = format!("timeout 30 sh -c 'until bash -c \"exec 3<>/dev/tcp/{PUBLIC}/443\" 2>/dev/null; do sleep 0.2; done'");
    sandbox
        .exec("s3", &["sh", "-c", &reaches], "")
        .await
        .context("the issuer is not reached under its public address")?;
    Ok(secret)
}

/// Calls the IAM API and returns its answer.
async fn iam(address: &str, secret: &str, fields: &[(&str, &str)]) -> Result<String> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--aws-sigv4",
        "aws:amz:us-east-1:iam",
        "--config",
        "-",
    ]);
    for (name, value) in fields {
        curl.arg("--data-urlencode").arg(format!("{name}={value}"));
    }
    let mut child = curl
        .arg(address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(format!("user = \"tester:{secret}\"\n").as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{fields:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

/// The SHA-1 digest of the certificate that a server shows, by which the STS knows an issuer whose CA is not a public one.
async fn thumbprint(address: &str) -> Result<String> {
    let show = "openssl s_client -connect \"$0\" < /dev/null 2> /dev/null | openssl x509 -noout -fingerprint -sha1";
    let output = Command::new("sh").args(["-c", show, address]).output().await?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let digest = line.split_once('=').with_context(|| format!("openssl says {line:?}"))?.1;
    Ok(digest.replace(':', ""))
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Result<&'a str> {
    let rest = text.split_once(begin).with_context(|| text.to_owned())?.1;
    Ok(rest.split_once(end).with_context(|| text.to_owned())?.0)
}

/// The bucket policy of the documentation as a policy of the writer's own role: its statements, without `Principal`.
fn writers_rights(stores: &str) -> Result<String> {
    let policy = between(between(stores, "<!-- policy: roles -->", "\n\n")?, "```json\n", "```")?;
    let mut policy: serde_json::Value = serde_json::from_str(policy)?;
    let statements = policy["Statement"].as_array_mut().context("Statement")?;
    statements.retain(|one| one["Principal"].to_string().contains("holdfast-writer"));
    ensure!(!statements.is_empty(), "no statement names the writer");
    for one in statements {
        one.as_object_mut().context("a statement")?.remove("Principal");
    }
    Ok(policy.to_string())
}

async fn store(sandbox: &Sandbox, name: &str, prefix: &str, role: &str, account: &str) -> Result<()> {
    sandbox
        .apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: BackupStore\nmetadata: {{name: {name}}}\nspec: {{s3: {{bucket: backups, prefix: {prefix}, endpoint: 'http://s3:7070'}}, credentials: {{webIdentity: {{roleArn: '{role}', stsEndpoint: 'http://s3:7076'}}}}, encryption: {{none: {{}}}}, job: {{serviceAccountName: {account}}}}}\n"
        ))
        .await
}

#[test]
fn a_service_accounts_token_is_all_that_a_store_needs() {
    sandbox::run("web-identity", |sandbox| async move {
        let outcome = with_web_identity(&sandbox).await;
        sandbox
            .kubectl(&["delete", "clusterrolebinding", &sandbox.namespace, "--ignore-not-found"])
            .await?;
        outcome
    });
}

async fn with_web_identity(sandbox: &Sandbox) -> Result<()> {
    let keys = sandbox.kubectl(&["get", "--raw", "/.well-known/openid-configuration"]).await?;
    let keys: serde_json::Value = serde_json::from_str(&keys)?;
    ensure!(
        keys["issuer"] == format!("https://{ISSUER}")
            && keys["jwks_uri"]
                .as_str()
                .is_some_and(|uri| uri.starts_with(&format!("https://{ISSUER}/"))),
        "this test needs a cluster whose issuer and keys are at https://{ISSUER}, as e2e/cluster starts one; this one says {keys}"
    );
    let address = "jsonpath={.subsets[0].addresses[0].ip}:{.subsets[0].ports[0].port}";
    let address = sandbox
        .kubectl(&["get", "endpoints", "kubernetes", "-n", "default", "-o", address])
        .await?;
    let secret = gateway(sandbox, &address).await?;
    let api = sandbox.forward("s3", 7076).await?;
    let provider = iam(
        &api.address,
        &secret,
        &[
            ("Action", "CreateOpenIDConnectProvider"),
            ("Version", "2010-05-08"),
            ("Url", &format!("https://{ISSUER}")),
            ("ClientIDList.member.1", "sts.amazonaws.com"),
            ("ThumbprintList.member.1", &thumbprint(&address).await?),
        ],
    )
    .await?;
    let provider = between(&provider, "<OpenIDConnectProviderArn>", "<")?;
    let subject = format!("system:serviceaccount:{}:backups", sandbox.namespace);
    let trust = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Federated": provider}, "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {"StringEquals": {(format!("{ISSUER}:aud")): "sts.amazonaws.com", (format!("{ISSUER}:sub")): subject}}}]});
    let role = iam(
        &api.address,
        &secret,
        &[
            ("Action", "CreateRole"),
            ("Version", "2010-05-08"),
            ("RoleName", "backups"),
            ("AssumeRolePolicyDocument", &trust.to_string()),
        ],
    )
    .await?;
    let role = between(&role, "<Arn>", "<")?;
    let rights = writers_rights(include_str!("../../../docs/stores.md"))?;
    iam(
        &api.address,
        &secret,
        &[
            ("Action", "PutRolePolicy"),
            ("Version", "2010-05-08"),
            ("RoleName", "backups"),
            ("PolicyName", "writer"),
            ("PolicyDocument", &rights),
        ],
    )
    .await?;

    sandbox
        .apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: backups}\nautomountServiceAccountToken: false\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: stranger}\nautomountServiceAccountToken: false\n")
        .await?;
    store(sandbox, "offsite", "prod-eu", role, "backups").await?;
    store(sandbox, "refused", "stranger", role, "stranger").await?;
    let database = sandbox.postgres("shop").await?;
    database.fill("shop", 5_000).await?;
    let before = database.checksums("shop").await?;
    sandbox.source("shop", "databases: {include: [shop]}").await?;
    sandbox.store_ready("offsite").await?;
    sandbox.back_up("first", "shop").await?;
    database.sql("postgres", "drop database shop").await?;
    sandbox.request_restore("back", "first", "shop", "").await?;
    sandbox.restore_succeeded("back", 200).await?;
    ensure!(database.checksums("shop").await? == before, "what was restored differs");

    let refused = sandbox
        .until::<BackupStore>("refused", 120, "refused", |store| {
            let conditions = store.status.as_ref().map(|status| &status.conditions);
            conditions.is_some_and(|all| {
                all.iter()
                    .any(|one| one.type_ == "Ready" && one.reason == Reason::StoreAccessDenied.as_str())
            })
        })
        .await?;
    let message = refused
        .status
        .context("status")?
        .conditions
        .into_iter()
        .find(|one| one.type_ == "Ready")
        .context("Ready")?
        .message;
    ensure!(message.contains("assume role"), "{message}");
    Ok(())
}

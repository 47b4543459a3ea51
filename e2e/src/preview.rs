//! Previews of retention, asked in the cluster and by hand.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use holdfast_crds::{CopyReport, PreviewCounts, RetentionPreview, RetentionPreviewStatus, RunPhase};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::{
    fixture::{POSTGRES_15, ready},
    sandbox::Sandbox,
};

/// A pod with the agent and the keys of the Secret `s3`, in place of the machine of who asks by hand.
const LAPTOP: &str = "
apiVersion: v1
kind: Pod
metadata: {name: laptop}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, seccompProfile: {type: RuntimeDefault}}
  initContainers:
  - name: install
    image: AGENT
    imagePullPolicy: IfNotPresent
    command: [/usr/local/bin/holdfast-agent, install, /work]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: work, mountPath: /work}]
  containers:
  - name: shell
    image: SHELL
    imagePullPolicy: IfNotPresent
    command: [sleep, infinity]
    workingDir: /work
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: work, mountPath: /work}, {name: s3, mountPath: /work/s3}]
  volumes: [{name: work, emptyDir: {}}, {name: s3, secret: {secretName: s3}}]
";

/// What becomes of each copy (`<namespace>/<source>/<run>`), and how many that are.
#[derive(Debug, PartialEq)]
pub struct Foreseen {
    pub copies: BTreeMap<String, CopyReport>,
    pub counts: Option<PreviewCounts>,
}

impl From<&RetentionPreviewStatus> for Foreseen {
    fn from(status: &RetentionPreviewStatus) -> Self {
        Self {
            copies: status.listed.iter().map(|copy| (copy.run.clone(), copy.clone())).collect(),
            counts: status.counts,
        }
    }
}

impl Sandbox {
    /// Makes a RetentionPreview with this spec (YAML), and waits for the answer.
    ///
    /// # Errors
    /// If it does not succeed.
    pub async fn previewed(&self, name: &str, spec: &str) -> Result<RetentionPreviewStatus> {
        self.apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: RetentionPreview\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        ))
        .await?;
        let ended = |preview: &RetentionPreview| preview.status.as_ref().is_some_and(|status| status.phase.ended());
        let preview: RetentionPreview = self.until(name, 180, "ended", ended).await?;
        let status = preview.status.context("status")?;
        ensure!(status.phase == RunPhase::Succeeded, "{status:?}");
        Ok(status)
    }

    /// Asks the same by hand, as the manual says: the agent, the store's manifest (`<plural>/<name>`), its keys, and nothing else. `arguments`
    /// are for a shell. The agent is that of the Job `job`.
    ///
    /// # Errors
    /// If the agent ends with an error.
    pub async fn previewed_by_hand(&self, job: &str, store: &str, arguments: &str) -> Result<Foreseen> {
        let image = "jsonpath={.spec.template.spec.containers[0].image}";
        let image = self.kubectl(&["get", "job", job, "-o", image]).await?;
        self.apply(&LAPTOP.replace("AGENT", &image).replace("SHELL", POSTGRES_15)).await?;
        self.until::<Pod>("laptop", 120, "ready", ready).await?;
        let manifest = self.kubectl(&["get", store, "-o", "yaml"]).await?;
        let command = format!(
            "cat > store.yaml && ./holdfast-agent keep --preview --store store.yaml --store-secret ./s3 --output json --result - {arguments}"
        );
        let told: Value = serde_json::from_str(&self.exec("laptop", &["sh", "-c", &command], &manifest).await?)?;
        let mut copies = BTreeMap::new();
        for source in told["sources"].as_array().context("no sources")? {
            let place = format!(
                "{}/{}",
                source["namespace"].as_str().unwrap_or_default(),
                source["source"].as_str().unwrap_or_default()
            );
            let of_source: Vec<CopyReport> = serde_json::from_value(source["copies"].clone())?;
            copies.extend(of_source.into_iter().map(|mut copy| {
                copy.run = format!("{place}/{}", copy.run);
                (copy.run.clone(), copy)
            }));
        }
        Ok(Foreseen {
            copies,
            counts: serde_json::from_value(told["counts"].clone())?,
        })
    }
}

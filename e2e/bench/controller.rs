//! The peer: the controller of Kubernetes' own CronJobs, as a process of its own.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use holdfast_e2e::helm::tool;

/// A process that ends with this value.
pub struct Controller(pub Child);

impl Controller {
    /// Starts it with all controllers but this one off, and with these arguments more.
    pub fn start(kubeconfig: &Path, more: &[&str]) -> Result<Self> {
        let child = Command::new(tool("kube"))
            .args([
                "kube-controller-manager",
                "--leader-elect=false",
                "--controllers=cronjob-controller",
                "--secure-port=0",
            ])
            .args(more)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child
            .map(Self)
            .context("kube-controller-manager does not start; e2e/cluster/tools.sh kube builds it")
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

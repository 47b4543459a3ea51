//! Tests of chart and API. They need Helm and kubectl, and start API servers without nodes of their own; no cluster.
//! Run them with `make test-chart`.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{sync::LazyLock, time::Duration};

use holdfast_e2e::{
    api::ApiServer,
    helm::{kubectl, repository, run},
};

#[path = "chart/admission.rs"]
mod admission;
#[path = "chart/cluster_stores.rs"]
mod cluster_stores;
#[path = "chart/compliance.rs"]
mod compliance;
#[path = "chart/contract.rs"]
mod contract;
#[path = "chart/controllers.rs"]
mod controllers;
#[path = "chart/definitions.rs"]
mod definitions;
#[path = "chart/holds.rs"]
mod holds;
#[path = "chart/install.rs"]
mod install;
#[path = "chart/render.rs"]
mod render;
#[path = "chart/same_names.rs"]
mod same_names;

/// An API server that knows the kinds of Holdfast. Tests that share it keep to namespaces of their own.
static SERVER: LazyLock<ApiServer> = LazyLock::new(|| with_definitions().unwrap());

/// … on which no release of the chart is installed, so that only the definitions refuse.
static PLAIN: LazyLock<ApiServer> = LazyLock::new(|| with_definitions().unwrap());

fn with_definitions() -> anyhow::Result<ApiServer> {
    let server = ApiServer::start()?;
    let folder = repository().join("charts/holdfast-crds/templates");
    // A warning of the API server counts as an error.
    let mut apply = kubectl(
        Some(server.kubeconfig()),
        ["apply", "--server-side", "--validate=strict", "--warnings-as-errors", "--filename"],
    );
    // Of others, the one kind that the chart makes objects of.
    let foreign = repository().join("e2e/tests/chart/servicemonitors.yaml");
    run(apply.arg(folder).arg("--filename").arg(foreign))?;
    server.established()?;
    Ok(server)
}

/// Asks again until there is an answer, for at most a minute: caches of the API server follow what is stored.
async fn eventually<T>(what: &str, ask: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "waited for a minute: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

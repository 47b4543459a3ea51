//! What the operator is told on its command line and in its environment.

use std::{collections::BTreeSet, net::SocketAddr};

use clap::Parser;

/// The Holdfast operator. It finds the API server by its pod's service account, or by KUBECONFIG.
#[derive(Clone, Debug, Parser)]
#[command(name = "holdfast-operator", version)]
pub struct Config {
    /// Image of operator and agent: the init containers of Jobs copy the agent from it.
    #[arg(long, env = "HOLDFAST_IMAGE")]
    pub image: String,

    /// Namespaces to watch, separated by commas. Empty: all of them.
    #[arg(long, env = "HOLDFAST_NAMESPACES", default_value = "", value_parser = namespaces)]
    pub namespaces: Namespaces,

    /// How many runs of a namespace may be at work at once, beside the limit of each store. Said: at least 1.
    #[arg(long, env = "HOLDFAST_RUNS_PER_NAMESPACE", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub runs_per_namespace: Option<u32>,

    /// Identity of this cluster in the stores. By default the UID of the namespace kube-system; required with --namespaces.
    #[arg(long, env = "HOLDFAST_CLUSTER_ID", value_parser = cluster_id)]
    pub cluster_id: Option<String>,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "HOLDFAST_ADMIN_ADDR", default_value = "0.0.0.0:8080")]
    pub admin_addr: SocketAddr,

    /// Name of the Lease by which replicas elect a leader.
    #[arg(long, env = "HOLDFAST_LEASE_NAME", default_value = "holdfast-operator")]
    pub lease_name: String,

    /// Namespace of the Lease. By default the operator's own.
    #[arg(long, env = "HOLDFAST_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// Name of this pod: its identity in the Lease and in events.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,

    /// What the names of the release's admission policies begin with, so that they can be watched. Empty: nobody says.
    #[arg(long, env = "HOLDFAST_GUARDS", default_value = "")]
    pub guards: String,

    /// What is logged: a level, or targets with levels as in `info,kube=debug`.
    #[arg(long, env = "HOLDFAST_LOG", default_value = "info")]
    pub log: String,
}

/// Which namespaces are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(BTreeSet<String>);

impl Namespaces {
    /// Only these; all of them if there are none.
    pub fn only(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// The scopes of the watches: one for all namespaces (`None`), or one each.
    pub fn scopes(&self) -> Vec<Option<String>> {
        if self.0.is_empty() {
            return vec![None];
        }
        self.0.iter().cloned().map(Some).collect()
    }

    pub fn all(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why the configuration cannot be worked with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "--cluster-id: found none, expected one with --namespaces, because the UID of kube-system may not be read then; choose a text that no other cluster writing to the same stores has"
    )]
    ClusterIdMissing,
}

impl Config {
    /// Checks what fields say together.
    pub fn validated(self) -> Result<Self, ConfigError> {
        if !self.namespaces.all() && self.cluster_id.is_none() {
            return Err(ConfigError::ClusterIdMissing);
        }
        Ok(self)
    }
}

fn namespaces(text: &str) -> Result<Namespaces, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(namespace).collect::<Result<BTreeSet<_>, _>>().map(Namespaces)
}

fn namespace(name: &str) -> Result<String, String> {
    let label = holdfast_policy::name::Label::new(name).map_err(|error| error.to_string())?;
    Ok(label.to_string())
}

fn cluster_id(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if text.is_empty() || text.len() > 128 || !plain {
        return Err(format!("found {text:?}, expected 1 to 128 of A-Z, a-z, 0-9, -, . and _"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        let fixed = ["holdfast-operator", "--image", "holdfast:1", "--pod-name", "me"];
        Config::try_parse_from(fixed.iter().chain(arguments)).map_err(|error| error.to_string())
    }

    #[test]
    fn all_namespaces_by_default() {
        let config = parse(&[]).unwrap().validated().unwrap();
        assert_eq!(config.namespaces.scopes(), [None]);
        assert_eq!(config.admin_addr.port(), 8080);
    }

    #[test]
    fn some_namespaces_need_a_cluster_id() {
        let config = parse(&["--namespaces", "b, a,"]).unwrap();
        assert_eq!(config.namespaces.scopes(), [Some("a".to_owned()), Some("b".to_owned())]);
        assert_eq!(config.clone().validated().unwrap_err(), ConfigError::ClusterIdMissing);
        assert!(
            parse(&["--namespaces", "a", "--cluster-id", "prod-eu"])
                .unwrap()
                .validated()
                .is_ok()
        );
    }

    #[test]
    fn refuses_what_is_no_name() {
        assert!(parse(&["--namespaces", "A_B"]).unwrap_err().contains("A_B"));
        assert!(parse(&["--cluster-id", "a b"]).unwrap_err().contains("a b"));
    }
}

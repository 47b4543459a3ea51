//! Helm, and what the chart renders.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde_json::Value;

use crate::sandbox::documents;

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The chart of the operator.
pub fn chart() -> PathBuf {
    repository().join("charts/holdfast")
}

/// A program that `e2e/cluster/tools.sh` installs: from the variable with its name in capitals, the cache, or the PATH.
pub fn tool(name: &str) -> PathBuf {
    if let Some(path) = env::var_os(name.to_uppercase()) {
        return path.into();
    }
    let cache = env::var_os("HOLDFAST_CACHE").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/holdfast"),
        PathBuf::from,
    );
    let cached = cache.join("bin").join(name);
    if cached.exists() { cached } else { name.into() }
}

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    pub succeeded: bool,
    pub out: String,
    pub err: String,
}

/// Runs a program to its end, whatever the end is.
///
/// # Errors
/// If it cannot be started.
pub fn say(command: &mut Command) -> Result<Said> {
    let output = command.output().with_context(|| {
        format!(
            "{} does not start; `e2e/cluster/tools.sh` installs it",
            command.get_program().display()
        )
    })?;
    Ok(Said {
        succeeded: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a program that must succeed, and returns what it printed.
///
/// # Errors
/// If it cannot be started or fails; the error holds what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let said = say(command)?;
    if !said.succeeded {
        bail!("{command:?} failed:\n{}{}", said.out, said.err);
    }
    Ok(said.out)
}

/// `helm` with these arguments, for the cluster of `kubeconfig`.
pub fn helm<A: AsRef<OsStr>>(kubeconfig: Option<&Path>, arguments: impl IntoIterator<Item = A>) -> Command {
    tool_command("helm", kubeconfig, arguments)
}

/// `kubectl` with these arguments, for the cluster of `kubeconfig`.
pub fn kubectl<A: AsRef<OsStr>>(kubeconfig: Option<&Path>, arguments: impl IntoIterator<Item = A>) -> Command {
    tool_command("kubectl", kubeconfig, arguments)
}

fn tool_command<A: AsRef<OsStr>>(name: &str, kubeconfig: Option<&Path>, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(tool(name));
    command.args(arguments);
    if let Some(path) = kubeconfig {
        command.env("KUBECONFIG", path);
    }
    command
}

/// What the chart renders as release `release` in namespace `namespace` with further arguments such as `--set=replicas=1`.
///
/// # Errors
/// If the chart refuses the values, or renders what is no YAML.
pub fn render(release: &str, namespace: &str, arguments: &[&str]) -> Result<Vec<Value>> {
    let chart = chart();
    let mut command = helm(None, ["template", release]);
    command.arg(chart).args(["--namespace", namespace]).args(arguments);
    documents(&run(&mut command)?)
}

/// Something that an account may do, as in a rule of RBAC and as in a line of the API server's audit log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group; empty for the core group.
    pub group: String,
    /// Resource, with the subresource behind a slash.
    pub resource: String,
    pub verb: String,
}

impl Right {
    pub fn new(group: &str, resource: &str, verb: &str) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            verb: verb.to_owned(),
        }
    }
}

/// What the operator's own account may do, by the Roles and ClusterRoles that are bound to it in what was rendered.
pub fn operator_rights(objects: &[Value]) -> BTreeSet<Right> {
    let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bound: BTreeSet<(String, String)> = objects
        .iter()
        .filter(|object| matches!(object["kind"].as_str(), Some("RoleBinding" | "ClusterRoleBinding")))
        .filter(|object| {
            object["subjects"]
                .as_array()
                .is_some_and(|subjects| subjects.iter().any(|s| s["kind"] == "ServiceAccount"))
        })
        .map(|object| (name(&object["roleRef"]["kind"]), name(&object["roleRef"]["name"])))
        .collect();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(name).collect::<Vec<_>>();
    let mut rights = BTreeSet::new();
    for object in objects {
        if !bound.contains(&(name(&object["kind"]), name(&object["metadata"]["name"]))) {
            continue;
        }
        for rule in object["rules"].as_array().into_iter().flatten() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        rights.insert(Right::new(&group, &resource, &verb));
                    }
                }
            }
        }
    }
    rights
}

/// What `user` was seen to do since then in the API server's audit log. Requests that name no resource (such as those for versions) are left out.
///
/// # Errors
/// If the log cannot be read, or the API server forbade one of the requests: then the chart grants too little.
pub fn used_rights(audit_log: &Path, user: &str, since: Timestamp) -> Result<BTreeSet<Right>> {
    let log = BufReader::new(File::open(audit_log).with_context(|| format!("{}", audit_log.display()))?);
    let mut rights = BTreeSet::new();
    for line in log.split(b'\n') {
        // The last line may be half written.
        let Ok(event) = serde_json::from_slice::<Value>(&line?) else {
            continue;
        };
        if event["user"]["username"] != user || event["objectRef"]["resource"].is_null() {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if text(&event["requestReceivedTimestamp"]).parse::<Timestamp>()? < since {
            continue;
        }
        let object = &event["objectRef"];
        let resource = match object["subresource"].as_str() {
            Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid" {
            bail!("forbidden: {} {resource}: {}", event["verb"], event["requestURI"]);
        }
        rights.insert(Right::new(&text(&object["apiGroup"]), &resource, &text(&event["verb"])));
    }
    Ok(rights)
}

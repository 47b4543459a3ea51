//! What a command works on: the task that the operator wrote, and where files lie.

use std::path::{Path, PathBuf};

use clap::Args;
use holdfast_crds::document::Label;
use holdfast_crds::{Action, Reason, TASK_VERSION, Task, layout};
use tokio_util::sync::CancellationToken;

use crate::engine::postgresql::connect::ServerFiles;
use crate::engine::postgresql::tool::Tools;
use crate::progress::Progress;
use crate::result::Failure;

/// The largest task that is read, in bytes: an annotation cannot be larger.
const MAX_TASK: u64 = 256 << 10;

/// Where files lie. The defaults are those of a Job's pod.
#[derive(Debug, Clone, Args)]
pub struct Places {
    /// File with the task, as JSON or YAML
    #[arg(long, value_name = "FILE", default_value = layout::TASK, help_heading = "Files")]
    pub task: PathBuf,
    /// File that receives the result as JSON of at most 4 KiB; - for none (it is printed in any case)
    #[arg(long, value_name = "FILE", default_value = layout::RESULT, help_heading = "Files")]
    pub result: PathBuf,
    /// Directory with `username` and `password` of the database
    #[arg(long, value_name = "DIR", default_value = layout::LOGIN, help_heading = "Files")]
    pub login: PathBuf,
    /// Directory with `ca.crt` of the database, used where its specification names a CA
    #[arg(long, value_name = "DIR", default_value = layout::DATABASE_CA, help_heading = "Files")]
    pub database_ca: PathBuf,
    /// Directory with `tls.crt` and `tls.key` for the database
    #[arg(long, value_name = "DIR", default_value = layout::DATABASE_CLIENT, help_heading = "Files")]
    pub database_client: PathBuf,
    /// Bundle of public CA certificates (PEM)
    #[arg(long, value_name = "FILE", default_value = layout::CA_BUNDLE, help_heading = "Files")]
    pub public_cas: PathBuf,
    /// Directory with `access_key_id`, `secret_access_key` and, if there is one, `session_token` of the store
    #[arg(long, value_name = "DIR", default_value = layout::STORE_SECRET, help_heading = "Files")]
    pub store_secret: PathBuf,
    /// Directory with the reader's keys or `token`, where the store names credentials for that role
    #[arg(long, value_name = "DIR", default_value = layout::STORE_READER, help_heading = "Files")]
    pub store_reader: PathBuf,
    /// Directory with the keeper's keys or `token`, where the store names credentials for that role
    #[arg(long, value_name = "DIR", default_value = layout::STORE_KEEPER, help_heading = "Files")]
    pub store_keeper: PathBuf,
    /// Directory with the pruner's keys or `token`, where the store names credentials for that role
    #[arg(long, value_name = "DIR", default_value = layout::STORE_PRUNER, help_heading = "Files")]
    pub store_pruner: PathBuf,
    /// Directory with `ca.crt` of the store's endpoint
    #[arg(long, value_name = "DIR", default_value = layout::STORE_CA, help_heading = "Files")]
    pub store_ca: PathBuf,
    /// Directory with `token` for a web identity
    #[arg(long, value_name = "DIR", default_value = layout::STORE_TOKEN, help_heading = "Files")]
    pub store_token: PathBuf,
    /// Root of a volume store
    #[arg(long, value_name = "DIR", default_value = layout::STORE_VOLUME, help_heading = "Files")]
    pub store_volume: PathBuf,
    /// Directory with the keys or `token` of the reader of the store that copies are brought from
    #[arg(long, value_name = "DIR", default_value = layout::FROM_SECRET, help_heading = "Files")]
    pub from_secret: PathBuf,
    /// Directory with `ca.crt` of that store's endpoint
    #[arg(long, value_name = "DIR", default_value = layout::FROM_CA, help_heading = "Files")]
    pub from_ca: PathBuf,
    /// Root of that store, where it is a volume
    #[arg(long, value_name = "DIR", default_value = layout::FROM_VOLUME, help_heading = "Files")]
    pub from_volume: PathBuf,
    /// Directory with `identity` (as age-keygen writes it) or `passphrase`, which opens copies
    #[arg(long, value_name = "DIR", default_value = layout::IDENTITY, help_heading = "Files")]
    pub identity: PathBuf,
    /// Directory with `seal.pem`, the keeper's private key for seals
    #[arg(long, value_name = "DIR", default_value = layout::SEAL, help_heading = "Files")]
    pub seal: PathBuf,
    /// Directory, in memory, through which the run's key passes from `key` to `backup`
    #[arg(long, value_name = "DIR", default_value = layout::KEY, help_heading = "Files")]
    pub key: PathBuf,
    /// Directory for password file and client key of PostgreSQL's tools
    #[arg(long, value_name = "DIR", default_value = "/tmp", help_heading = "Files")]
    pub scratch: PathBuf,
    /// Directory with PostgreSQL's tools, looked into before PATH
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    pub tools: Option<PathBuf>,
    /// File with the pod's UID, under which its data goes; by hand a random one is taken
    #[arg(long, value_name = "FILE", default_value = layout::POD_UID, help_heading = "Files")]
    pub pod_uid: PathBuf,
    /// File with the memory limit in bytes
    #[arg(long, value_name = "FILE", default_value = layout::MEMORY_LIMIT, help_heading = "Files")]
    pub memory_limit: PathBuf,
    /// File with the CPU limit in millicores
    #[arg(long, value_name = "FILE", default_value = layout::CPU_LIMIT, help_heading = "Files")]
    pub cpu_limit: PathBuf,
}

impl Places {
    /// All places of a pod, below another root: for tests.
    pub fn below(root: &Path) -> Self {
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        Self {
            task: at(layout::TASK),
            result: root.join("termination-log"),
            login: at(layout::LOGIN),
            database_ca: at(layout::DATABASE_CA),
            database_client: at(layout::DATABASE_CLIENT),
            public_cas: at(layout::CA_BUNDLE),
            store_secret: at(layout::STORE_SECRET),
            store_reader: at(layout::STORE_READER),
            store_keeper: at(layout::STORE_KEEPER),
            store_pruner: at(layout::STORE_PRUNER),
            store_ca: at(layout::STORE_CA),
            store_token: at(layout::STORE_TOKEN),
            store_volume: at(layout::STORE_VOLUME),
            from_secret: at(layout::FROM_SECRET),
            from_ca: at(layout::FROM_CA),
            from_volume: at(layout::FROM_VOLUME),
            identity: at(layout::IDENTITY),
            seal: at(layout::SEAL),
            key: at(layout::KEY),
            scratch: root.to_owned(),
            tools: None,
            pod_uid: at(layout::POD_UID),
            memory_limit: at(layout::MEMORY_LIMIT),
            cpu_limit: at(layout::CPU_LIMIT),
        }
    }

    /// The database's files.
    pub fn server_files(&self) -> ServerFiles {
        ServerFiles {
            login: self.login.clone(),
            ca: self.database_ca.join("ca.crt"),
            public_roots: self.public_cas.clone(),
            client: self.database_client.clone(),
        }
    }
}

/// One invocation of a command.
pub struct Invocation {
    /// The cluster's id, the namespace and the store.
    pub task: Task,
    /// Where files lie.
    pub places: Places,
    /// The pod under whose UID data goes.
    pub pod: Label,
    /// The container's memory limit in bytes, if it has one.
    pub memory_limit: Option<u64>,
    /// Cancelled by SIGTERM: everything that is under way ends within five seconds.
    pub cancel: CancellationToken,
    /// What the log tells.
    pub progress: Progress,
}

impl Invocation {
    /// An invocation for a task that was read or made.
    pub fn new(task: Task, places: Places) -> Result<Self, Failure> {
        let pod = match std::fs::read_to_string(&places.pod_uid) {
            Ok(uid) => Label::new("pod uid", uid.trim()).map_err(|error| Failure::new(Reason::InternalError, error.to_string()))?,
            Err(_) => random_pod(),
        };
        let number = |path: &Path| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        // Without a limit the downward API tells the node's memory, which is a limit too.
        let memory_limit = number(&places.memory_limit).filter(|bytes| *bytes > 0);
        Ok(Self {
            task,
            places,
            pod,
            memory_limit,
            cancel: CancellationToken::new(),
            progress: Progress::default(),
        })
    }

    /// The tools, with a scratch directory of our own.
    pub fn tools(&self) -> Result<Tools, Failure> {
        let parent = &self.places.scratch;
        let scratch = crate::engine::postgresql::tool::scratch_directory(parent, self.pod.as_str()).map_err(|error| {
            let reason = if error.kind() == std::io::ErrorKind::StorageFull {
                Reason::ScratchFull
            } else {
                Reason::VolumeMountFailed
            };
            Failure::new(reason, format!("make a directory in {}: {error}", parent.display()))
        })?;
        Ok(Tools {
            directory: self.places.tools.clone(),
            scratch,
        })
    }

    /// The name of this pod's sessions in the database.
    pub fn application(&self) -> String {
        format!("holdfast {}", self.pod)
    }
}

/// 128 random bits in hexadecimal: for nonces and names.
pub fn random_hex() -> String {
    let mut bytes = [0; 16];
    // It fails only where the system has no randomness at all; then the time must do.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        bytes = jiff::Timestamp::now().as_nanosecond().to_be_bytes();
    }
    hex(&bytes)
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // A String takes whatever is written to it.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn random_pod() -> Label {
    Label::new("pod uid", format!("by-hand-{}", random_hex())).expect("hexadecimal digits and hyphens between letters are a label")
}

/// Reads a file in YAML or JSON into a type; `what` names it in errors.
pub fn read_document<T: serde::de::DeserializeOwned>(what: &str, path: &Path) -> Result<T, Failure> {
    let invalid = |problem: String| Failure::new(Reason::InvalidSpec, format!("read {what} from {}: {problem}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| invalid(error.to_string()))?.len();
    if length > MAX_TASK {
        return Err(invalid(format!("it has {length} bytes, expected at most {MAX_TASK}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
    let value: serde_json::Value = serde_yaml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    decode(value).map_err(invalid)
}

/// The error names the field.
fn decode<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string().as_str() {
        "." => error.inner().to_string(),
        path => format!("field {path}: {}", error.inner()),
    })
}

/// Reads the task and refuses one of another version.
pub fn read_task(path: &Path) -> Result<Task, Failure> {
    let value: serde_json::Value = read_document("the task", path)?;
    let invalid = |problem: String| Failure::new(Reason::InvalidSpec, format!("read the task from {}: {problem}", path.display()));
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(TASK_VERSION) => {}
        found => {
            let found = found.map_or("none".to_owned(), |version| version.to_string());
            return Err(invalid(format!(
                "version is {found}, expected {TASK_VERSION}: operator and agent must be of one release"
            )));
        }
    }
    decode(value).map_err(invalid)
}

/// Refuses a task that is meant for another command than `expected`.
pub fn for_command(expected: &str, task: Task) -> Result<Task, Failure> {
    let found = match task.action {
        Action::Probe(_) => "probe",
        Action::Backup(_) => "backup",
        Action::Settle(_) => "settle",
        Action::Restore(_) => "restore",
        Action::SettleRestore(_) => "settle-restore",
        Action::Keep(_) => "keep",
        Action::Copy(_) => "copy",
    };
    if found == expected {
        return Ok(task);
    }
    Err(Failure::new(
        Reason::InvalidSpec,
        format!("the task is one for {found}, expected one for {expected}"),
    ))
}

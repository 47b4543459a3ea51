//! A versitygw process on loopback over a temporary directory.

use holdfast_agent::store::{
    Patience, Store, StoreError,
    s3::{Credentials, S3, S3Config},
};
use object_store::{
    ClientOptions,
    aws::{AwsAuthorizer, AwsCredential},
    client::{HttpConnector, HttpRequestBody, ReqwestConnector},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub const KEY: &str = "test-key";
pub const SECRET: &str = "test-secret";
pub const BUCKET: &str = "backups";

/// Ends its process when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Gateway {
    process: Option<Process>,
    pub address: SocketAddr,
    keys: (&'static str, &'static str),
    arguments: Vec<String>,
    backend: Vec<String>,
    pub directory: TempDir,
}

/// Where versitygw is: never skipped silently.
fn binary() -> PathBuf {
    let cache = std::env::var_os("HOLDFAST_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/holdfast")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::var_os("VERSITYGW").map(PathBuf::from);
    let candidates = named
        .into_iter()
        .chain(std::env::split_paths(&path).map(|directory| directory.join("versitygw")));
    let cached = cache
        .into_iter()
        .flat_map(|cache| [cache.join("bin/versitygw"), cache.join("versitygw")]);
    candidates
        .chain(cached)
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("these tests need versitygw: run `make tools`, or name the binary in VERSITYGW"))
}

/// A port that was free a moment ago.
pub fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts a process, and waits until it listens.
fn listening(command: &mut Command, address: SocketAddr) -> Process {
    let process = Process(command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap());
    let begun = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "versitygw did not listen within 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    process
}

/// versitygw's own STS. It checks tokens against an issuer that it must reach under a public address, so that here it can only refuse.
pub struct Sts {
    _process: Process,
    pub address: SocketAddr,
    _directory: TempDir,
}

impl Sts {
    pub fn start() -> Self {
        let (address, directory) = (free_port(), tempfile::tempdir().unwrap());
        let mut command = Command::new(binary());
        command
            .args([
                "--port",
                &address.to_string(),
                "--access",
                KEY,
                "--secret",
                SECRET,
                "iam",
                "--quiet",
                "--dir",
            ])
            .arg(directory.path());
        Self {
            _process: listening(&mut command, address),
            address,
            _directory: directory,
        }
    }
}

impl Gateway {
    pub fn start() -> Self {
        Self::with(&[], &[])
    }

    /// With versions of objects.
    pub fn versioned() -> Self {
        Self::with(&[], &["--versioning-dir", "{dir}/versions"])
    }

    /// With more arguments, in which `{dir}` stands for the temporary directory.
    pub fn with(arguments: &[&str], backend: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let filled = |arguments: &[&str]| -> Vec<_> {
            arguments
                .iter()
                .map(|argument| argument.replace("{dir}", &directory.path().display().to_string()))
                .collect()
        };
        for name in ["buckets", "versions", "buckets/backups", "iam"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let account = |role: &&str| {
            (
                role.to_string(),
                serde_json::json!({"access": role, "secret": role, "role": "user"}),
            )
        };
        let accounts: serde_json::Map<_, _> = ["writer", "reader", "keeper", "pruner", "shop-writer", "shop-reader"]
            .iter()
            .map(account)
            .collect();
        let accounts = serde_json::json!({"accessAccounts": accounts});
        std::fs::write(directory.path().join("iam/users.json"), accounts.to_string()).unwrap();
        let (arguments, backend) = (filled(arguments), filled(backend));
        let mut gateway = Self {
            process: None,
            keys: (KEY, SECRET),
            address: free_port(),
            arguments,
            backend,
            directory,
        };
        gateway.resume();
        gateway
    }

    /// Starts the process, and waits until it listens.
    pub fn resume(&mut self) {
        let mut command = Command::new(binary());
        command.args([
            "--port",
            &self.address.to_string(),
            "--access",
            self.keys.0,
            "--secret",
            self.keys.1,
            "--keep-alive",
            "--quiet",
        ]);
        command.args(&self.arguments).arg("posix").args(&self.backend).arg(self.buckets());
        self.process = Some(listening(&mut command, self.address));
    }

    /// Comes back with other keys.
    pub fn rotate(&mut self, key: &'static str, secret: &'static str) {
        self.kill();
        self.keys = (key, secret);
        self.resume();
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        self.process = None;
    }

    fn buckets(&self) -> PathBuf {
        self.directory.path().join("buckets")
    }

    /// The file of an object.
    pub fn file(&self, path: &str) -> PathBuf {
        self.buckets().join(BUCKET).join(path)
    }

    pub fn config(&self) -> S3Config {
        config(self.directory.path(), &format!("http://{}", self.address))
    }

    pub fn store(&self) -> Store {
        store(self.config()).unwrap()
    }

    /// With versions, Object Lock, and an account for each role (named as the role, with the role's name as its secret); root owns the bucket.
    pub async fn locked() -> Self {
        let gateway = Self::with(&["--iam-dir", "{dir}/iam"], &["--versioning-dir", "{dir}/versions"]);
        std::fs::remove_dir(gateway.buckets().join(BUCKET)).unwrap();
        gateway.put("", "", &[("x-amz-bucket-object-lock-enabled", "true")]).await;
        gateway
    }

    /// A store with the keys of `account`.
    pub fn config_of(&self, account: &str) -> S3Config {
        let keys = self.directory.path().join(format!("keys-{account}"));
        std::fs::create_dir_all(&keys).unwrap();
        write_keys(&keys, account, account);
        S3Config {
            credentials: Credentials::Files(keys),
            ..self.config()
        }
    }

    /// The bytes of all versions of all objects, as they lie on the disk.
    pub fn disk_bytes(&self) -> u64 {
        let mut directories = vec![self.buckets().join(BUCKET), self.directory.path().join("versions")];
        let mut sum = 0;
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    directories.push(entry.path());
                } else {
                    sum += metadata.len();
                }
            }
        }
        sum
    }

    /// Turns versions on for the bucket.
    pub async fn enable_versions(&self) {
        let body = r#"<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>"#;
        self.put("?versioning=", body, &[]).await;
    }

    /// Sets something of the bucket, or puts an object that may be there already, as root.
    pub async fn put(&self, query: &str, body: &str, headers: &[(&'static str, &str)]) {
        let (status, said) = self.put_as(KEY, SECRET, query, body, headers).await;
        assert!(status.is_success(), "{status}: {said}");
    }

    /// As anybody.
    pub async fn put_as(
        &self,
        key: &str,
        secret: &str,
        query: &str,
        body: &str,
        headers: &[(&'static str, &str)],
    ) -> (http::StatusCode, String) {
        self.ask(http::Method::PUT, (key, secret), query, body, headers).await
    }

    /// Deletes with the keys of `account`, and returns the status.
    pub async fn delete_as(&self, account: &str, query: &str, headers: &[(&'static str, &str)]) -> u16 {
        self.ask(http::Method::DELETE, (account, account), query, "", headers)
            .await
            .0
            .as_u16()
    }

    async fn ask(
        &self,
        method: http::Method,
        (key, secret): (&str, &str),
        query: &str,
        body: &str,
        headers: &[(&'static str, &str)],
    ) -> (http::StatusCode, String) {
        let uri = format!("http://{}/{BUCKET}{query}", self.address);
        let request = http::Request::builder().method(method).uri(uri);
        let mut request = request.body(HttpRequestBody::from(body.to_owned())).unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let credential = AwsCredential {
            key_id: key.to_owned(),
            secret_key: secret.to_owned(),
            token: None,
        };
        AwsAuthorizer::new(&credential, "s3", "us-east-1")
            .try_authorize(&mut request, None)
            .unwrap();
        let options = ClientOptions::new().with_allow_http(true).with_no_system_certificates(true);
        let answer = ReqwestConnector::default()
            .connect(&options)
            .unwrap()
            .execute(request)
            .await
            .unwrap();
        let status = answer.status();
        let said = answer.into_body().bytes().await.unwrap();
        (status, String::from_utf8_lossy(&said).into_owned())
    }
}

/// Settings for a bucket behind `endpoint`, with the keys as files in `directory`.
pub fn config(directory: &Path, endpoint: &str) -> S3Config {
    let keys = directory.join("keys");
    std::fs::create_dir_all(&keys).unwrap();
    write_keys(&keys, KEY, SECRET);
    S3Config {
        bucket: BUCKET.to_owned(),
        prefix: "prod/eu".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        virtual_host: false,
        storage_class: None,
        ca_file: None,
        credentials: Credentials::Files(keys),
        write_lock: None,
    }
}

/// Replaces the key files, each in one step, as the kubelet does.
pub fn write_keys(directory: &Path, key: &str, secret: &str) {
    write_file(&directory.join("access_key_id"), key);
    write_file(&directory.join("secret_access_key"), secret);
}

pub fn write_file(file: &Path, text: &str) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let temporary = file.with_extension(COUNT.fetch_add(1, Ordering::SeqCst).to_string());
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(&temporary, file).unwrap();
}

/// Short pauses: the tests' faults are over at once.
pub const PATIENCE: Patience = Patience {
    total: Duration::from_secs(30),
    first: Duration::from_millis(20),
    longest: Duration::from_millis(500),
    rotation: Duration::from_secs(10),
};

pub fn store(config: S3Config) -> Result<Store, StoreError> {
    Ok(Store::new(S3::new(config)?, PATIENCE, 4))
}

//! S3: a bucket behind HTTP.
//!
//! object_store gives the credentials' type and the signature (`AwsAuthorizer`). The requests are made here, because its own
//! client repeats puts by itself, returns neither checksums nor the server's `Date`, creates without a checksum of the whole, has one time limit for small and large
//! requests, and knows no uploads that others left.

mod answer;
mod credentials;
mod rate;
mod request;
mod wire;
mod xml;

pub use credentials::{Credentials, WebIdentityConfig};

use super::{
    backend::{
        Backend, ByteStream, Checksum, Content, Lock, ObjectMeta, ObjectVersion, OpenUpload, Page, Piece, PieceReceipt, Retained,
        Versioning, WriteLock,
    },
    digest::{self, Sha256},
    error::StoreError,
};
use answer::Answer;
use async_trait::async_trait;
use credentials::CredentialSource;
use futures::StreamExt;
use http::{HeaderMap, Method};
use jiff::{SignedDuration, Timestamp};
use object_store::{PutPayload, client::HttpClient};
use rate::Rate;
use request::{Clock, Request};
use reqwest::dns::Resolve;
use std::{ops::Range, path::PathBuf, sync::Arc, time::Duration};
use wire::{Settings, certificates};

/// The least size of a piece that is not the last, in bytes.
pub const MIN_PIECE: u64 = 5 << 20;

/// How long silence is waited out, in a request without much of a body and between two chunks of an answer.
const SILENCE: Duration = Duration::from_mins(1);

/// How far our clock and the store's may be apart where locks are set at writing.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Where a bucket is, and how to get in.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// Name of the bucket.
    pub bucket: String,
    /// Folder in the bucket, without a slash at either end; empty for the root.
    pub prefix: String,
    /// Region, for the signature.
    pub region: String,
    /// `http(s)://host[:port]`; AWS in `region` if absent. Plain HTTP is used only where it is said here.
    pub endpoint: Option<String>,
    /// Whether the bucket's name stands in the host's name instead of the path.
    pub virtual_host: bool,
    /// Storage class of parts.
    pub storage_class: Option<String>,
    /// PEM file with the only CA certificates that are trusted; the system's if absent.
    pub ca_file: Option<PathBuf>,
    /// Static keys or a web identity.
    pub credentials: Credentials,
    /// The lock that everything but probes gets when it is written.
    pub write_lock: Option<WriteLock>,
}

/// A bucket.
#[derive(Debug)]
pub struct S3 {
    bucket: String,
    prefix: String,
    region: String,
    storage_class: Option<String>,
    write_lock: Option<WriteLock>,
    /// `scheme://host[:port]`, and in path style `/bucket`.
    base: String,
    client: reqwest::Client,
    credentials: CredentialSource,
    clock: Clock,
    rate: Rate,
}

impl S3 {
    /// Checks the settings and prepares connections; nothing is sent yet.
    pub fn new(config: S3Config) -> Result<Self, StoreError> {
        Self::with_resolver(config, None)
    }

    /// As [`Self::new`], with something that finds the addresses of hosts.
    pub fn with_resolver(config: S3Config, resolver: Option<Arc<dyn Resolve>>) -> Result<Self, StoreError> {
        let endpoint = match &config.endpoint {
            Some(endpoint) => checked_endpoint("spec.s3.endpoint", endpoint)?,
            None => format!("https://s3.{}.amazonaws.com", config.region),
        };
        let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", &endpoint));
        let base = if config.virtual_host {
            format!("{scheme}://{}.{host}", config.bucket)
        } else {
            format!("{endpoint}/{}", config.bucket)
        };
        let plain = scheme == "http";
        let trusted = match &config.ca_file {
            Some(file) => Some(certificates(file)?),
            // An image without CA certificates must do for a plain endpoint.
            None => (plain && !config.credentials.needs_tls()).then(Vec::new),
        };
        let settings = Settings {
            allow_http: plain,
            trusted,
            resolver,
        };
        let client = settings.client()?;
        let sts = Settings {
            allow_http: !config.credentials.needs_tls(),
            ..settings
        };
        let sts = HttpClient::new(sts.client()?);
        let credentials = CredentialSource::new(config.credentials, &config.region, sts)?;
        Ok(Self {
            bucket: config.bucket,
            prefix: config.prefix.trim_matches('/').to_owned(),
            region: config.region,
            storage_class: config.storage_class,
            write_lock: config.write_lock,
            base,
            client,
            credentials,
            clock: Clock::default(),
            rate: Rate::default(),
        })
    }

    fn describe_bucket(&self) -> String {
        format!("bucket {} at {}", self.bucket, self.base)
    }

    fn key(&self, path: &str) -> String {
        if self.prefix.is_empty() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.prefix)
        }
    }

    /// The path of a key that a listing showed. Keys outside the prefix are shown as they are; the caller refuses them.
    fn path_of(&self, key: String) -> String {
        if self.prefix.is_empty() {
            return key;
        }
        key.strip_prefix(&self.prefix)
            .and_then(|rest| rest.strip_prefix('/'))
            .map(str::to_owned)
            .unwrap_or(key)
    }

    /// The lock that goes with a write. Where our clock and the store's are too far apart nobody knows how long a lock would be: then nothing is written.
    fn lock_for(&self, path: &str) -> Result<Option<Retained>, StoreError> {
        let Some(write_lock) = self.write_lock else { return Ok(None) };
        let here = Timestamp::now();
        let there = self.clock.now().unwrap_or(here);
        if here.duration_since(there).abs() > MAX_SKEW {
            return Err(StoreError::ClockSkew {
                here: here.to_string(),
                there: there.to_string(),
            });
        }
        Ok(write_lock.at(path, here.max(there)))
    }

    /// Sets something of a version. S3 demands a checksum of such a document.
    async fn send_xml(&self, call: &'static str, path: &str, what: &str, version: Option<&str>, text: String) -> Result<(), StoreError> {
        let body = PutPayload::from(text);
        let sha256 = digest::of_payload(&body);
        let request = Request::new(call, Method::PUT, path)
            .query(what, "")
            .query("versionId", version_id(version))
            .header("content-type", "application/xml")
            .body(body, sha256);
        self.send(request).await?.discard().await
    }

    /// One signed request, and its answer.
    async fn send(&self, request: Request<'_>) -> Result<Answer, StoreError> {
        let credential = self.credentials.current().await?;
        request.send(self, &credential).await
    }
}

fn meta(path: &str, headers: &HeaderMap, size: u64) -> ObjectMeta {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    ObjectMeta {
        path: path.to_owned(),
        size,
        checksum: text("x-amz-checksum-sha256").and_then(read_checksum),
        version: text("x-amz-version-id").filter(|version| *version != "null").map(str::to_owned),
        modified: text("last-modified").and_then(request::http_date),
    }
}

/// `<base64>`, or `<base64>-<number of pieces>` for a composite one.
fn read_checksum(text: &str) -> Option<Checksum> {
    match text.rsplit_once('-') {
        Some((digest, pieces)) => Some(Checksum::OfPieces {
            digest: digest::from_base64(digest)?,
            pieces: pieces.parse().ok()?,
        }),
        None => digest::from_base64(text).map(Checksum::Whole),
    }
}

fn locked(request: Request<'_>, Retained { mode, until }: Retained) -> Request<'_> {
    request
        .header("x-amz-object-lock-mode", xml::mode_name(mode))
        .header("x-amz-object-lock-retain-until-date", &xml::date(until))
}

/// `null` is S3's name for the version that has none.
fn version_id(version: Option<&str>) -> &str {
    version.unwrap_or("null")
}

/// `None` where the error only says that there is no lock.
fn unless_unlocked<T>(answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match answer {
        Err(StoreError::Refused { code, .. })
            if matches!(
                code.as_str(),
                "NoSuchObjectLockConfiguration" | "ObjectLockConfigurationNotFoundError"
            ) =>
        {
            Ok(None)
        }
        Err(StoreError::Refused { code, message, .. })
            if code == "InvalidRequest" && (message.contains("Object Lock") || message.contains("ObjectLock")) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn checked_endpoint(field: &'static str, endpoint: &str) -> Result<String, StoreError> {
    let refuse = |problem: &str| StoreError::Settings {
        field,
        problem: format!("{problem}: {endpoint:?}; expected https://host[:port] or http://host[:port]"),
    };
    let uri: http::Uri = endpoint.parse().map_err(|_| refuse("no address"))?;
    let authority = uri.authority().ok_or_else(|| refuse("no host"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(refuse("neither http nor https")),
    }
    if authority.as_str().contains('@') {
        return Err(refuse("credentials in an address"));
    }
    if uri.path() != "/" && !uri.path().is_empty() || uri.query().is_some() {
        return Err(refuse("a path behind the host"));
    }
    Ok(endpoint.trim_end_matches('/').to_owned())
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[async_trait]
impl Backend for S3 {
    fn describe(&self) -> String {
        self.describe_bucket()
    }

    fn min_piece(&self) -> u64 {
        MIN_PIECE
    }

    fn now(&self) -> Option<Timestamp> {
        self.clock.now()
    }

    async fn renew_credentials(&self) -> Result<bool, StoreError> {
        self.credentials.renew().await
    }

    async fn create(&self, path: &str, content: Content, body: &PutPayload, sha256: &Sha256) -> Result<(), StoreError> {
        let mut request = Request::new("put", Method::PUT, path)
            .body(body.clone(), *sha256)
            .header("if-none-match", "*");
        if let (Content::Part, Some(class)) = (content, &self.storage_class) {
            request = request.header("x-amz-storage-class", class);
        }
        if let Some(retained) = self.lock_for(path)? {
            request = locked(request, retained);
        }
        self.send(request).await?.discard().await
    }

    async fn start_upload(&self, path: &str) -> Result<String, StoreError> {
        let mut request = Request::new("start upload", Method::POST, path)
            .query("uploads", "")
            .header("x-amz-checksum-algorithm", "SHA256");
        if let Some(class) = &self.storage_class {
            request = request.header("x-amz-storage-class", class);
        }
        if let Some(retained) = self.lock_for(path)? {
            request = locked(request, retained);
        }
        xml::upload_id(&self.send(request).await?.text().await?)
    }

    async fn put_piece(&self, path: &str, upload: &str, piece: &Piece) -> Result<PieceReceipt, StoreError> {
        let request = Request::new("put piece", Method::PUT, path)
            .query("partNumber", &piece.number.to_string())
            .query("uploadId", upload)
            .body(piece.body.clone(), piece.sha256);
        let answer = self.send(request).await?;
        let tag = answer.header("etag").map(str::to_owned);
        answer.discard().await?;
        Ok(PieceReceipt {
            number: piece.number,
            size: piece.body.content_length() as u64,
            sha256: piece.sha256,
            tag: tag.ok_or_else(|| StoreError::Malformed {
                call: "put piece",
                problem: "it has no ETag".to_owned(),
            })?,
        })
    }

    async fn complete_upload(&self, path: &str, upload: &str, pieces: &[PieceReceipt]) -> Result<(), StoreError> {
        let body = bytes::Bytes::from(xml::completion(pieces));
        let sha256 = digest::of(&body);
        let request = Request::new("complete upload", Method::POST, path)
            .query("uploadId", upload)
            .document(body, sha256);
        // The status was sent before the work was done: the body has the last word.
        xml::completed(path, &self.send(request).await?.text().await?)
    }

    async fn abort_upload(&self, path: &str, upload: &str) -> Result<(), StoreError> {
        self.send(Request::new("abort upload", Method::DELETE, path).query("uploadId", upload))
            .await?
            .discard()
            .await
    }

    async fn list_uploads(&self, prefix: &str, from: Option<&str>) -> Result<Page<OpenUpload>, StoreError> {
        let mut request = Request::bucket("list uploads", prefix)
            .query("uploads", "")
            .query("prefix", &self.key(prefix))
            .query("encoding-type", "url");
        if let Some((key, upload)) = from.and_then(|from| from.split_once('\n')) {
            request = request.query("key-marker", key).query("upload-id-marker", upload);
        }
        let Page { items, next } = xml::uploads(&self.send(request).await?.text().await?)?;
        let items = items
            .into_iter()
            .map(|upload| OpenUpload {
                path: self.path_of(upload.path),
                ..upload
            })
            .collect();
        Ok(Page { items, next })
    }

    async fn head(&self, path: &str, version: Option<&str>) -> Result<Option<ObjectMeta>, StoreError> {
        let mut request = Request::new("head", Method::HEAD, path).header("x-amz-checksum-mode", "ENABLED");
        if let Some(version) = version {
            request = request.query("versionId", version);
        }
        let answer = match self.send(request).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let size = answer.header("content-length").and_then(|length| length.parse().ok());
        let size = size.ok_or_else(|| StoreError::Malformed {
            call: "head",
            problem: "it has no Content-Length".to_owned(),
        })?;
        Ok(Some(meta(path, answer.headers(), size)))
    }

    async fn get(
        &self,
        path: &str,
        range: Option<Range<u64>>,
        version: Option<&str>,
    ) -> Result<Option<(ObjectMeta, ByteStream)>, StoreError> {
        let mut request = Request::new("get", Method::GET, path);
        if let Some(range) = &range {
            request = request.header("range", &format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        }
        if let Some(version) = version {
            request = request.query("versionId", version);
        }
        let answer = match self.send(request).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let malformed = |problem: String| StoreError::Malformed { call: "get", problem };
        let size = if let Some(range) = range {
            let found = answer
                .header("content-range")
                .ok_or_else(|| malformed("a range was asked for and Content-Range is missing".to_owned()))?;
            // `bytes <first>-<last>/<size>`
            let total = found.rsplit_once('/').and_then(|(_, total)| total.parse::<u64>().ok());
            let total = total.ok_or_else(|| malformed(format!("Content-Range is {found:?}")))?;
            if total < range.end {
                return Err(answer::shorter(path, range.end, total));
            }
            if !found.starts_with(&format!("bytes {}-{}/", range.start, range.end - 1)) {
                return Err(malformed(format!(
                    "Content-Range is {found:?}, bytes {}-{} were asked for",
                    range.start,
                    range.end - 1
                )));
            }
            total
        } else {
            let length = answer.header("content-length").and_then(|length| length.parse().ok());
            length.ok_or_else(|| malformed("Content-Length is missing".to_owned()))?
        };
        Ok(Some((meta(path, answer.headers(), size), answer.stream().boxed())))
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page<ObjectMeta>, StoreError> {
        let mut request = Request::bucket("list", prefix)
            .query("list-type", "2")
            .query("prefix", &self.key(prefix))
            .query("encoding-type", "url");
        if let Some(token) = from {
            request = request.query("continuation-token", token);
        }
        let Page { items, next } = xml::objects(&self.send(request).await?.text().await?)?;
        let items = items
            .into_iter()
            .map(|item| ObjectMeta {
                path: self.path_of(item.path),
                ..item
            })
            .collect();
        Ok(Page { items, next })
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        match self.send(Request::bucket("read versioning", "").query("versioning", "")).await {
            Ok(answer) => xml::versioning(&answer.text().await?),
            Err(StoreError::Denied { .. } | StoreError::Unsupported { .. }) => Ok(Versioning::Unknown),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.send(Request::new("delete", Method::DELETE, path)).await?.discard().await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<Page<ObjectVersion>, StoreError> {
        let mut request = Request::bucket("list versions", prefix)
            .query("versions", "")
            .query("prefix", &self.key(prefix))
            .query("encoding-type", "url");
        if let Some((key, version)) = from.and_then(|from| from.split_once('\n')) {
            request = request.query("key-marker", key);
            if !version.is_empty() {
                request = request.query("version-id-marker", version);
            }
        }
        let Page { items, next } = xml::versions(&self.send(request).await?.text().await?)?;
        let items = items
            .into_iter()
            .map(|item| ObjectVersion {
                path: self.path_of(item.path),
                ..item
            })
            .collect();
        Ok(Page { items, next })
    }

    async fn delete_version(&self, path: &str, version: Option<&str>) -> Result<(), StoreError> {
        let request = Request::new("delete version", Method::DELETE, path).query("versionId", version_id(version));
        self.send(request).await?.discard().await
    }

    async fn object_lock(&self) -> Result<bool, StoreError> {
        let answer = self
            .send(Request::bucket("read Object Lock configuration", "").query("object-lock", ""))
            .await;
        match unless_unlocked(answer) {
            Ok(Some(answer)) => xml::object_lock(&answer.text().await?),
            Ok(None) | Err(StoreError::Unsupported { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn lock_of(&self, path: &str, version: Option<&str>) -> Result<Lock, StoreError> {
        let ask = async |call: &'static str, what: &str| {
            let request = Request::new(call, Method::GET, path)
                .query(what, "")
                .query("versionId", version_id(version));
            match unless_unlocked(self.send(request).await)? {
                Some(answer) => answer.text().await.map(Some),
                None => Ok(None),
            }
        };
        let retained = ask("read retention", "retention")
            .await?
            .map(|text| xml::retention(&text))
            .transpose()?;
        let legal_hold = ask("read legal hold", "legal-hold")
            .await?
            .map(|text| xml::legal_hold(&text))
            .transpose()?;
        Ok(Lock {
            retained: retained.flatten(),
            legal_hold: legal_hold.unwrap_or_default(),
        })
    }

    async fn set_retained(&self, path: &str, version: Option<&str>, retained: Retained) -> Result<(), StoreError> {
        self.send_xml("set retention", path, "retention", version, xml::retention_of(retained))
            .await
    }

    async fn set_legal_hold(&self, path: &str, version: Option<&str>, on: bool) -> Result<(), StoreError> {
        self.send_xml("set legal hold", path, "legal-hold", version, xml::legal_hold_of(on))
            .await
    }

    fn write_lock(&self) -> Option<WriteLock> {
        self.write_lock
    }
}

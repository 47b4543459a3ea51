//! Keys from files, or from a web identity; read again when they are refused.

use super::{answer::refusal, chain, checked_endpoint, request, xml};
use crate::store::{clock::since_boot, error::StoreError};
use http::{HeaderValue, Method, StatusCode, header};
use object_store::{
    aws::AwsCredential,
    client::{HttpClient, HttpError, HttpErrorKind, HttpRequestBody},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Mutex;

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A directory with `access_key_id` and `secret_access_key` (or `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`), and `session_token` where needed.
    Files(PathBuf),
    /// A token that STS exchanges for keys.
    WebIdentity(WebIdentityConfig),
}

/// How a token is exchanged for keys.
#[derive(Clone, Debug)]
pub struct WebIdentityConfig {
    /// File with the token.
    pub token_file: PathBuf,
    /// The role to assume.
    pub role_arn: String,
    /// Shown in the store's audit log: at most 64 of `A-Za-z0-9+=,.@-`.
    pub session_name: String,
    /// `http(s)://host[:port][/path]`; AWS in the store's region if absent.
    pub sts_endpoint: Option<String>,
}

impl Credentials {
    /// Whether keys are fetched over TLS.
    pub(super) fn needs_tls(&self) -> bool {
        match self {
            Self::Files(_) => false,
            Self::WebIdentity(config) => !config.sts_endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")),
        }
    }
}

/// How long before their end temporary keys are renewed, at most.
const AHEAD: Duration = Duration::from_mins(5);
/// Several calls may be refused for one change of keys: for this long after it, all of them are told to try again.
const FRESH: Duration = Duration::from_secs(10);
/// How long STS may take.
const STS_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest credential file that is read, in bytes.
const MAX_FILE: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct CredentialSource {
    from: Credentials,
    sts: String,
    http: HttpClient,
    cached: Mutex<Option<Cached>>,
}

#[derive(Clone, Debug)]
struct Cached {
    credential: Arc<AwsCredential>,
    /// Whether it took the place of another, that was refused.
    replaced: bool,
    /// Times since boot: since when it is in use, when it should be renewed, when it ends.
    since: Duration,
    renew: Option<Duration>,
    end: Option<Duration>,
}

impl CredentialSource {
    pub(super) fn new(from: Credentials, region: &str, http: HttpClient) -> Result<Self, StoreError> {
        let sts = match &from {
            Credentials::WebIdentity(WebIdentityConfig {
                sts_endpoint: Some(endpoint),
                ..
            }) => {
                const FIELD: &str = "spec.credentials.webIdentity.stsEndpoint";
                // Only STS may lie below a path.
                let (host, path) = endpoint
                    .find("://")
                    .and_then(|at| endpoint[at + 3..].find('/').map(|slash| endpoint.split_at(at + 3 + slash)))
                    .unwrap_or((endpoint, "/"));
                format!("{}{path}", checked_endpoint(FIELD, host)?)
            }
            _ => format!("https://sts.{region}.amazonaws.com/"),
        };
        Ok(Self {
            from,
            sts,
            http,
            cached: Mutex::default(),
        })
    }

    /// The keys to sign with.
    pub(super) async fn current(&self) -> Result<Arc<AwsCredential>, StoreError> {
        let mut cached = self.cached.lock().await;
        let now = since_boot();
        match &*cached {
            Some(found) if found.renew.is_none_or(|renew| now < renew) => return Ok(found.credential.clone()),
            _ => {}
        }
        match self.load().await {
            Ok(new) => Ok(cached.insert(new).credential.clone()),
            // Renewed ahead of time: the old ones still do.
            Err(error) => match &*cached {
                Some(found) if found.end.is_none_or(|end| now < end) => Ok(found.credential.clone()),
                _ => Err(error),
            },
        }
    }

    /// Loads keys anew; true if there are others than those that were refused.
    pub(super) async fn renew(&self) -> Result<bool, StoreError> {
        let mut cached = self.cached.lock().await;
        if cached
            .as_ref()
            .is_some_and(|found| found.replaced && since_boot().saturating_sub(found.since) < FRESH)
        {
            return Ok(true);
        }
        let new = self.load().await?;
        if cached.as_ref().is_some_and(|old| old.credential == new.credential) {
            return Ok(false);
        }
        *cached = Some(Cached { replaced: true, ..new });
        Ok(true)
    }

    async fn load(&self) -> Result<Cached, StoreError> {
        match &self.from {
            Credentials::Files(directory) => {
                let credential = read_keys(directory)?;
                Ok(Cached {
                    credential: Arc::new(credential),
                    replaced: false,
                    since: since_boot(),
                    renew: None,
                    end: None,
                })
            }
            Credentials::WebIdentity(config) => self.assume_role(config).await,
        }
    }

    async fn assume_role(&self, config: &WebIdentityConfig) -> Result<Cached, StoreError> {
        const CALL: &str = "assume role";
        let token = read_file(&config.token_file)?;
        let form = request::form(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", &config.role_arn),
            ("RoleSessionName", &config.session_name),
            ("WebIdentityToken", &token),
        ]);
        let mut request = http::Request::builder()
            .method(Method::POST)
            .uri(&self.sts)
            .body(HttpRequestBody::from(form))
            .map_err(|error| StoreError::Settings {
                field: "spec.credentials.webIdentity.stsEndpoint",
                problem: error.to_string(),
            })?;
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let unreachable = |error: &HttpError| request::unreachable(CALL, error, error.kind() != HttpErrorKind::Connect);
        let exchange = async {
            let response = self.http.execute(request).await.map_err(|error| unreachable(&error))?;
            let (head, body) = response.into_parts();
            let body = body.bytes().await.map_err(|error| unreachable(&error))?;
            Ok::<_, StoreError>((head, String::from_utf8_lossy(&body).into_owned()))
        };
        let silence = || StoreError::Unreachable {
            call: CALL,
            problem: format!("silence for {} s", STS_TIMEOUT.as_secs()),
            connected: true,
            tls: false,
        };
        let (head, body) = tokio::time::timeout(STS_TIMEOUT, exchange).await.map_err(|_| silence())??;
        if !head.status.is_success() {
            let (code, message) = xml::error(&body).unwrap_or_default();
            return Err(match refusal(CALL, &config.role_arn, head.status, code, message) {
                StoreError::Denied { call, status, code, .. } => StoreError::Credentials { call, status, code },
                StoreError::Refused {
                    call,
                    status,
                    code,
                    message,
                    ..
                } if status == StatusCode::BAD_REQUEST => StoreError::Credentials {
                    call,
                    status,
                    code: format!("{code}: {message}"),
                },
                other => other,
            });
        }
        let session = xml::session(&body)?;
        let date = head
            .headers
            .get(header::DATE)
            .and_then(|date| date.to_str().ok())
            .and_then(request::http_date);
        let left = session.expiration.duration_since(date.unwrap_or_else(jiff::Timestamp::now));
        let left = Duration::try_from(left).map_err(|_| StoreError::Malformed {
            call: CALL,
            problem: "the keys have ended already".to_owned(),
        })?;
        let since = since_boot();
        let credential = checked(
            AwsCredential {
                key_id: session.access_key_id,
                secret_key: session.secret_access_key,
                token: Some(session.token),
            },
            "STS",
        )?;
        Ok(Cached {
            credential: Arc::new(credential),
            replaced: false,
            since,
            renew: Some(since + left.saturating_sub(AHEAD.min(left / 4))),
            end: Some(since + left),
        })
    }
}

fn read_keys(directory: &Path) -> Result<AwsCredential, StoreError> {
    let one_of = |names: [&str; 2]| {
        let found = names.iter().map(|name| directory.join(name)).find(|file| file.exists());
        found.map(|file| read_file(&file)).transpose()
    };
    let needed = |names: [&str; 2]| {
        one_of(names)?.ok_or_else(|| StoreError::CredentialFiles {
            problem: format!(
                "{} holds neither {} nor {}; expected one of these keys in the Secret",
                directory.display(),
                names[0],
                names[1]
            ),
        })
    };
    let credential = AwsCredential {
        key_id: needed(["access_key_id", "AWS_ACCESS_KEY_ID"])?,
        secret_key: needed(["secret_access_key", "AWS_SECRET_ACCESS_KEY"])?,
        token: one_of(["session_token", "AWS_SESSION_TOKEN"])?,
    };
    checked(credential, &directory.display().to_string())
}

/// Keys go into headers: what cannot stand there must not reach the signature.
fn checked(credential: AwsCredential, place: &str) -> Result<AwsCredential, StoreError> {
    let fields = [
        ("access_key_id", Some(&credential.key_id)),
        ("secret_access_key", Some(&credential.secret_key)),
        ("session_token", credential.token.as_ref()),
    ];
    for (name, value) in fields {
        if value.is_some_and(|value| value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic())) {
            let problem =
                format!("{name} from {place} is empty or holds a character that no key has; expected visible ASCII without spaces");
            return Err(StoreError::CredentialFiles { problem });
        }
    }
    Ok(credential)
}

/// A small text file, without the white space at its ends.
fn read_file(file: &Path) -> Result<String, StoreError> {
    let refuse = |problem: String| StoreError::CredentialFiles {
        problem: format!("{}: {problem}", file.display()),
    };
    let bytes = std::fs::read(file).map_err(|error| refuse(chain(&error)))?;
    if bytes.len() > MAX_FILE {
        return Err(refuse(format!("it has {} bytes, expected at most {MAX_FILE}", bytes.len())));
    }
    let text = String::from_utf8(bytes).map_err(|_| refuse("it is not text".to_owned()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_under_either_name_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        let problem = |directory: &Path| read_keys(directory).unwrap_err().to_string();
        assert!(problem(directory.path()).contains("neither access_key_id nor AWS_ACCESS_KEY_ID"));
        put("AWS_ACCESS_KEY_ID", "AK\n");
        assert!(problem(directory.path()).contains("secret_access_key"));
        put("AWS_SECRET_ACCESS_KEY", "s/k+=\n");
        let keys = read_keys(directory.path()).unwrap();
        assert_eq!(
            (keys.key_id.as_str(), keys.secret_key.as_str(), keys.token.as_ref()),
            ("AK", "s/k+=", None)
        );
        put("access_key_id", "other");
        put("session_token", "tok\u{7}en");
        assert!(problem(directory.path()).contains("session_token"));
        put("session_token", "token");
        assert_eq!(read_keys(directory.path()).unwrap().key_id, "other");
        put("secret_access_key", "se cret");
        let error = problem(directory.path());
        assert!(error.contains("secret_access_key") && !error.contains("se cret"), "{error}");
    }
}

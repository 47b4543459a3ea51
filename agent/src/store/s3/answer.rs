//! The answer to a request: a success, or an error that says what to do.

use super::{S3, SILENCE, request, xml};
use crate::store::error::StoreError;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use reqwest::Response;

/// The largest XML that is read, in bytes: a page of a thousand names of a kilobyte, encoded.
const MAX_DOCUMENT: usize = 8 << 20;

/// A success whose body was not read yet.
pub(super) struct Answer {
    call: &'static str,
    headers: HeaderMap,
    body: Response,
}

impl Answer {
    pub(super) async fn new(call: &'static str, about: &str, s3: &S3, response: Response) -> Result<Self, StoreError> {
        let status = response.status();
        let answer = Self {
            call,
            headers: response.headers().clone(),
            body: response,
        };
        if status.is_success() {
            return Ok(answer);
        }
        let there = answer.header("date").unwrap_or("nothing").to_owned();
        // An error without a body, or with one that breaks, is an error all the same.
        let (code, message) = xml::error(&answer.text().await.unwrap_or_default()).unwrap_or_default();
        if code == "RequestTimeTooSkewed" {
            return Err(StoreError::ClockSkew {
                here: Timestamp::now().to_string(),
                there,
            });
        }
        if code == "NoSuchBucket" {
            return Err(StoreError::NoSuchStore {
                name: s3.describe_bucket(),
            });
        }
        Err(refusal(call, about, status, code, message))
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Reads to the end, so that the connection can serve again.
    pub(super) async fn discard(self) -> Result<(), StoreError> {
        self.text().await.map(drop)
    }

    pub(super) async fn text(self) -> Result<String, StoreError> {
        let call = self.call;
        let mut bytes = BytesMut::new();
        let mut body = std::pin::pin!(self.stream());
        while let Some(chunk) = body.try_next().await? {
            if bytes.len() + chunk.len() > MAX_DOCUMENT {
                return Err(StoreError::Malformed {
                    call,
                    problem: format!("it has more than {MAX_DOCUMENT} bytes"),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes.into()).map_err(|_| StoreError::Malformed {
            call,
            problem: "it is not UTF-8".to_owned(),
        })
    }

    /// The body. Silence ends it with an error.
    pub(super) fn stream(self) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
        let call = self.call;
        stream::try_unfold(Box::pin(self.body.bytes_stream()), move |mut body| async move {
            let silence = || StoreError::Unreachable {
                call,
                problem: format!("silence for {} s", SILENCE.as_secs()),
                connected: true,
                tls: false,
            };
            let chunk = tokio::time::timeout(SILENCE, body.next()).await.map_err(|_| silence())?;
            match chunk {
                Some(Ok(chunk)) => Ok(Some((chunk, body))),
                Some(Err(error)) => Err(request::unreachable(call, &error, true)),
                None => Ok(None),
            }
        })
    }
}

/// What a status and a code mean.
pub(super) fn refusal(call: &'static str, about: &str, status: StatusCode, code: String, message: String) -> StoreError {
    let path = about.to_owned();
    let number = status.as_u16();
    let said = |code: String, message: String| {
        if message.is_empty() {
            code
        } else {
            format!("{code}: {}", cut(&message))
        }
    };
    match code.as_str() {
        "NoSuchUpload" => StoreError::UploadLost { path },
        "NoSuchKey" | "NoSuchVersion" => StoreError::NotFound { path },
        "PreconditionFailed" => StoreError::AlreadyExists { path },
        "ConditionalRequestConflict" | "OperationAborted" => StoreError::Conflict { path },
        "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" | "InsufficientStorage" => StoreError::Full {
            problem: said(code, message),
        },
        "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "IncompleteBody" => {
            StoreError::Damaged {
                path,
                problem: said(code, message),
            }
        }
        "SlowDown" | "InternalError" | "ServiceUnavailable" | "RequestTimeout" | "Throttling" | "ThrottlingException" => StoreError::Busy {
            call,
            status: number,
            code,
        },
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidToken"
        | "InvalidIdentityToken"
        | "TokenRefreshRequired"
        | "InvalidSecurity"
        | "InvalidClientTokenId"
        | "XAdminUserNotFound" => StoreError::Credentials {
            call,
            status: number,
            code,
        },
        "NotImplemented" => StoreError::Unsupported {
            call,
            problem: said(code, message),
        },
        _ => match number {
            // The answer to a HEAD has no body. All others say that it is the object that is missing, and not the account or the whole server.
            404 if code.is_empty() && call == "head" => StoreError::NotFound { path },
            404 if code.is_empty() => StoreError::Malformed {
                call,
                problem: "404, without saying what is missing".to_owned(),
            },
            412 => StoreError::AlreadyExists { path },
            507 => StoreError::Full {
                problem: said(code, message),
            },
            408 | 429 | 500 | 502..=504 => StoreError::Busy {
                call,
                status: number,
                code,
            },
            401 => StoreError::Credentials {
                call,
                status: number,
                code,
            },
            // The answer to a HEAD has no body: what a refusal means is not said.
            400 | 403 if code.is_empty() => StoreError::Credentials {
                call,
                status: number,
                code,
            },
            403 => StoreError::Denied {
                call,
                path,
                status: number,
                code,
            },
            405 | 501 => StoreError::Unsupported {
                call,
                problem: said(code, message),
            },
            416 => StoreError::Mismatch {
                path,
                problem: "it is shorter than what was asked for".to_owned(),
            },
            _ => StoreError::Refused {
                call,
                path,
                status: number,
                code,
                message: cut(&message),
            },
        },
    }
}

/// An object ends before a range does.
pub(super) fn shorter(path: &str, end: u64, size: u64) -> StoreError {
    StoreError::Mismatch {
        path: path.to_owned(),
        problem: format!("bytes up to {end} were asked for, it has {size}"),
    }
}

fn cut(message: &str) -> String {
    message.chars().take(300).collect()
}

//! One signed request: built, signed, sent, timed.

use super::{S3, SILENCE, answer::Answer, chain};
use crate::store::{clock::since_boot, digest, error::StoreError};
use bytes::Bytes;
use holdfast_crds::document::Sha256;
use http::{HeaderName, HeaderValue, Method, header};
use jiff::{SignedDuration, Timestamp};
use object_store::{
    PutPayload,
    aws::{AwsAuthorizer, AwsCredential},
    client::{HttpErrorKind, HttpRequestBody},
};
use std::{
    fmt::Write,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A request before it is signed.
pub(super) struct Request<'a> {
    call: &'static str,
    method: Method,
    /// `None` for the bucket itself.
    path: Option<&'a str>,
    /// What it is about, for messages.
    about: &'a str,
    query: String,
    headers: Vec<(&'static str, String)>,
    body: HttpRequestBody,
    length: u64,
    sha256: Sha256,
}

impl<'a> Request<'a> {
    pub(super) fn new(call: &'static str, method: Method, path: &'a str) -> Self {
        Self {
            call,
            method,
            path: Some(path),
            about: path,
            query: String::new(),
            headers: Vec::new(),
            body: HttpRequestBody::empty(),
            length: 0,
            sha256: digest::of(b""),
        }
    }

    /// A GET of the bucket.
    pub(super) fn bucket(call: &'static str, about: &'a str) -> Self {
        Self {
            path: None,
            about,
            ..Self::new(call, Method::GET, "")
        }
    }

    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push(if self.query.is_empty() { '?' } else { '&' });
        encode(name, false, &mut self.query);
        self.query.push('=');
        encode(value, false, &mut self.query);
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Bytes whose digest the store must check.
    pub(super) fn body(mut self, payload: PutPayload, sha256: Sha256) -> Self {
        self.length = payload.content_length() as u64;
        let mut chunks = payload.iter();
        self.body = match (chunks.next(), chunks.next()) {
            (None, _) => HttpRequestBody::empty(),
            (Some(only), None) => only.clone().into(),
            _ => payload.into(),
        };
        self.sha256 = sha256;
        self.header("x-amz-checksum-sha256", &digest::to_base64(&sha256))
    }

    /// XML that goes with the call.
    pub(super) fn document(mut self, bytes: Bytes, sha256: Sha256) -> Self {
        self.length = bytes.len() as u64;
        self.body = bytes.into();
        self.sha256 = sha256;
        self.header("content-type", "application/xml")
    }

    pub(super) async fn send(self, s3: &S3, credential: &AwsCredential) -> Result<Answer, StoreError> {
        let Self {
            call,
            method,
            path,
            about,
            query,
            headers,
            body,
            length,
            sha256,
        } = self;
        let malformed = |problem: String| StoreError::Settings { field: "spec.s3", problem };
        let mut uri = s3.base.clone();
        uri.push('/');
        if let Some(path) = path {
            encode(&s3.key(path), true, &mut uri);
        }
        uri.push_str(&query);
        let mut request = http::Request::builder()
            .method(method.clone())
            .uri(&uri)
            .body(body)
            .map_err(|error| malformed(error.to_string()))?;
        for (name, value) in &headers {
            let value = HeaderValue::from_str(value).map_err(|_| malformed(format!("{value:?} cannot be sent as {name}")))?;
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        if method == Method::PUT || method == Method::POST {
            request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        AwsAuthorizer::new(credential, "s3", &s3.region)
            .try_authorize(&mut request, Some(&sha256.0))
            .map_err(|error| malformed(format!("the request cannot be signed: {}", chain(&error))))?;

        let patience = s3.rate.patience(length);
        let started = Instant::now();
        let response = match tokio::time::timeout(patience, s3.http.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unreachable(call, &error)),
            Err(_) => {
                s3.rate.too_slow();
                return Err(StoreError::Unreachable {
                    call,
                    problem: format!("silence for {} s", patience.as_secs()),
                    connected: true,
                    tls: false,
                });
            }
        };
        s3.clock.take(
            response
                .headers()
                .get(header::DATE)
                .and_then(|date| date.to_str().ok())
                .and_then(http_date),
        );
        s3.rate.took(length, started.elapsed());
        Answer::new(call, about, s3, response).await
    }
}

pub(super) fn unreachable(call: &'static str, error: &object_store::client::HttpError) -> StoreError {
    let problem = chain(error);
    let connected = error.kind() != HttpErrorKind::Connect;
    // reqwest tells a failed handshake from a refused connection only in words.
    let tls = !connected
        && ["certificate", "tls", "handshake"]
            .iter()
            .any(|word| problem.to_ascii_lowercase().contains(word));
    StoreError::Unreachable {
        call,
        problem,
        connected,
        tls,
    }
}

/// Percent-encodes all but unreserved characters, and slashes if they separate segments.
fn encode(text: &str, slashes: bool, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if slashes => out.push('/'),
            // Writing to a String does not fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
}

/// `name=value&…` as forms send it.
pub(super) fn form(fields: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in fields {
        if !out.is_empty() {
            out.push('&');
        }
        encode(name, false, &mut out);
        out.push('=');
        encode(value, false, &mut out);
    }
    out
}

/// The time in a `Date` or `Last-Modified` header.
pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// The store's clock, as its last answer showed it.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(Timestamp, Duration)>>);

impl Clock {
    fn take(&self, date: Option<Timestamp>) {
        if let Some(date) = date {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, since_boot()));
        }
    }

    pub(super) fn now(&self) -> Option<Timestamp> {
        let (date, then) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let elapsed = SignedDuration::try_from(since_boot().saturating_sub(then)).ok()?;
        date.checked_add(elapsed).ok()
    }
}

/// How fast bodies get through: decides how long an answer is waited for. A body lies in the kernel's buffers long before it has crossed a slow line, so that
/// silence alone says nothing.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<Option<f64>>);

/// The slowest line that is waited for while nothing is known: bytes per second for one request.
const SLOWEST: f64 = 2048.0;
/// Bodies smaller than this say nothing about the line, in bytes.
const TELLING: u64 = 256 << 10;
/// How much slower than the slowest of late a request may be.
const SLACK: f64 = 8.0;

impl Rate {
    /// How long to wait for the answer to a request with a body of `length` bytes.
    fn patience(&self, length: u64) -> Duration {
        let worst = 1.0 / SLOWEST;
        let expected = self.get().map_or(worst, |seconds| (seconds * SLACK).min(worst));
        SILENCE + Duration::from_secs_f64(expected * as_f64(length))
    }

    fn took(&self, length: u64, time: Duration) {
        if length >= TELLING {
            let seconds = time.as_secs_f64() / as_f64(length);
            let mut slowest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *slowest = Some(slowest.map_or(seconds, |slowest| seconds.max(slowest * 0.9)));
        }
    }

    /// A request was given up: the next gets more time.
    fn too_slow(&self) {
        if let Some(slowest) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            *slowest *= SLACK;
        }
    }

    fn get(&self) -> Option<f64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of pieces are far below 2^52 bytes")]
fn as_f64(length: u64) -> f64 {
    length as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_line() {
        let rate = Rate::default();
        assert_eq!(rate.patience(0), SILENCE);
        assert_eq!(
            rate.patience(8 << 20),
            SILENCE + Duration::from_secs(4096),
            "nothing is known: 2 KiB/s are waited for"
        );
        rate.took(8 << 20, Duration::from_millis(800));
        let fast = rate.patience(8 << 20);
        assert!(fast < SILENCE + Duration::from_secs(7), "{fast:?}");
        rate.took(100, Duration::from_secs(30));
        assert_eq!(rate.patience(8 << 20), fast, "a small request says nothing");
        rate.too_slow();
        assert!(rate.patience(8 << 20) > SILENCE + Duration::from_secs(50));
    }

    #[test]
    fn dates_and_encodings() {
        assert_eq!(
            http_date("Fri, 20 Nov 2026 22:10:00 GMT"),
            Some("2026-11-20T22:10:00Z".parse().unwrap())
        );
        assert_eq!(http_date("yesterday"), None);
        let mut out = String::new();
        encode("a b/ü+~", true, &mut out);
        assert_eq!(out, "a%20b/%C3%BC%2B~");
        assert_eq!(form(&[("Action", "a/b"), ("T", "x=&y")]), "Action=a%2Fb&T=x%3D%26y");
    }
}

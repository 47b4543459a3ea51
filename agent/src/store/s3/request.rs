//! One signed request: built, signed, sent, timed.

use super::{S3, answer::Answer, chain, wire::watched};
use crate::store::{clock::since_boot, digest, error::StoreError};
use bytes::Bytes;
use holdfast_crds::document::Sha256;
use http::{HeaderName, HeaderValue, Method, header};
use jiff::{SignedDuration, Timestamp};
use object_store::{
    PutPayload,
    aws::{AwsAuthorizer, AwsCredential},
    client::HttpRequestBody,
};
use std::{
    fmt::Write,
    sync::{Mutex, PoisonError},
    time::Duration,
};

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
    body: PutPayload,
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
            body: PutPayload::default(),
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
        self.body = payload;
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
            .body(HttpRequestBody::empty())
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

        let (head, _) = request.into_parts();
        let (body, taken) = watched(body);
        let request = reqwest::Request::try_from(http::Request::from_parts(head, body)).map_err(|error| malformed(chain(&error)))?;
        let response = match s3.rate.wait(length, &taken, s3.client.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unreachable(call, &error, !error.is_connect())),
            Err(problem) => {
                return Err(StoreError::Unreachable {
                    call,
                    problem,
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
        Answer::new(call, about, s3, response).await
    }
}

pub(super) fn unreachable(call: &'static str, error: &dyn std::error::Error, connected: bool) -> StoreError {
    let problem = chain(error);
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

#[cfg(test)]
mod tests {
    use super::*;

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

//! The HTTP client, and how far it has got with a body.

use super::chain;
use crate::store::error::StoreError;
use bytes::Bytes;
use futures::stream;
use object_store::PutPayload;
use reqwest::dns::Resolve;
use std::{
    convert::Infallible,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Bodies are handed over in pieces of so many bytes, each when the connection has room for it.
const STEP: usize = 64 << 10;

/// What a client needs to know.
#[derive(Clone, Default)]
pub(super) struct Settings {
    /// Whether plain HTTP will do.
    pub(super) allow_http: bool,
    /// The only certificates that are trusted; the system's if absent.
    pub(super) trusted: Option<Vec<reqwest::Certificate>>,
    /// What finds addresses; the system's resolver if absent.
    pub(super) resolver: Option<Arc<dyn Resolve>>,
}

impl Settings {
    /// A client. Time limits of whole requests are not its business.
    pub(super) fn client(&self) -> Result<reqwest::Client, StoreError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(30))
            .https_only(!self.allow_http);
        if let Some(trusted) = &self.trusted {
            builder = builder.tls_certs_only(trusted.iter().cloned());
        }
        if let Some(resolver) = &self.resolver {
            builder = builder.dns_resolver(Arc::clone(resolver));
        }
        builder.build().map_err(|error| StoreError::Settings {
            field: "spec.s3",
            problem: format!("no HTTP client can be made: {}", chain(&error)),
        })
    }
}

/// The certificates of a PEM file.
pub(super) fn certificates(file: &Path) -> Result<Vec<reqwest::Certificate>, StoreError> {
    let refuse = |problem: String| StoreError::Settings {
        field: "spec.s3.caSecretName",
        problem,
    };
    let pem = std::fs::read(file).map_err(|error| refuse(format!("{} cannot be read: {error}", file.display())))?;
    let certificates =
        reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| refuse(format!("{}: {}", file.display(), chain(&error))))?;
    if certificates.is_empty() {
        return Err(refuse(format!(
            "{} holds no certificate; expected PEM (-----BEGIN CERTIFICATE-----)",
            file.display()
        )));
    }
    Ok(certificates)
}

/// A body, and the count of its bytes that the connection has taken.
pub(super) fn watched(payload: PutPayload) -> (reqwest::Body, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    if payload.content_length() == 0 {
        return (reqwest::Body::from(Bytes::new()), taken);
    }
    let counter = Arc::clone(&taken);
    let pieces = payload.into_iter().flat_map(|chunk| {
        let starts = (0..chunk.len()).step_by(STEP);
        starts.map(move |start| chunk.slice(start..chunk.len().min(start + STEP)))
    });
    let pieces = pieces.map(move |piece| {
        counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok::<_, Infallible>(piece)
    });
    (reqwest::Body::wrap_stream(stream::iter(pieces)), taken)
}

//! `/livez`, `/readyz` and `/metrics`, on a thread of their own, so that a busy runtime cannot make a living process look dead, and a
//! stuck one cannot look alive.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use futures::stream;
use prometheus::{Encoder, Registry, TextEncoder};

use crate::{metrics::Objects, watch::Caches};

/// How long the runtime may be silent before the process counts as stuck.
const STUCK: Duration = Duration::from_secs(60);
/// How often the runtime shows that it runs.
const BEAT: Duration = Duration::from_secs(5);

/// Why the admin server did not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("--admin-addr: listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("start the admin thread")]
    Thread(#[source] std::io::Error),
}

/// When the main runtime last ran.
#[derive(Clone, Debug)]
pub struct Pulse {
    began: Instant,
    /// Seconds since `began`.
    last: Arc<AtomicU64>,
}

impl Pulse {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: Arc::default(),
        }
    }

    /// Beats on the runtime that it runs on. Never returns.
    pub async fn beat(&self) {
        loop {
            self.last.store(self.began.elapsed().as_secs(), Ordering::Relaxed);
            tokio::time::sleep(BEAT).await;
        }
    }

    fn age(&self) -> Duration {
        self.began
            .elapsed()
            .saturating_sub(Duration::from_secs(self.last.load(Ordering::Relaxed)))
    }
}

#[derive(Clone)]
struct Admin {
    pulse: Pulse,
    caches: Arc<Caches>,
    registry: Registry,
    objects: Objects,
}

/// Serves on a thread of its own until the process ends. Returns the address that it listens on, and the pulse that the main runtime
/// must beat.
pub fn serve(address: SocketAddr, caches: Arc<Caches>, registry: Registry, objects: Objects) -> Result<(SocketAddr, Pulse), AdminError> {
    let failed = |source| AdminError::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let pulse = Pulse::new();
    let admin = Admin {
        pulse: pulse.clone(),
        caches,
        registry,
        objects,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AdminError::Thread)?;
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || runtime.block_on(listen(listener, admin)))
        .map_err(AdminError::Thread)?;
    Ok((bound, pulse))
}

async fn listen(listener: std::net::TcpListener, admin: Admin) {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(admin);
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => axum::serve(listener, router).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "the admin server ended");
    }
}

async fn livez(State(admin): State<Admin>) -> (StatusCode, String) {
    let age = admin.pulse.age();
    if age > STUCK {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("stuck for {} s\n", age.as_secs()));
    }
    (StatusCode::OK, "ok\n".to_owned())
}

/// Ready is who knows the cluster's objects, whether it leads or not.
async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.caches.ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for the first list of each kind\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> Result<impl IntoResponse, (StatusCode, String)> {
    let mut own = Vec::new();
    TextEncoder::new()
        .encode(&admin.registry.gather(), &mut own)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))?;
    let families = admin.objects.families().into_iter().map(String::into_bytes);
    let texts = std::iter::once(own).chain(families).map(Ok::<_, std::convert::Infallible>);
    Ok(([("content-type", prometheus::TEXT_FORMAT)], Body::from_stream(stream::iter(texts))))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        io::{Read, Write},
    };

    use super::*;
    use crate::{clock::ServerClock, config::Namespaces, metrics::Metrics};

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn alive_at_once_and_ready_when_all_is_known() {
        let caches = Arc::new(Caches::new(&Namespaces::default()));
        let metrics = Metrics::new().unwrap();
        let (address, _pulse) = serve(
            "127.0.0.1:0".parse().unwrap(),
            caches.clone(),
            metrics.registry.clone(),
            Objects::new(caches.clone(), ServerClock::default()),
        )
        .unwrap();
        assert!(ask(address, "/livez").starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/readyz").starts_with("HTTP/1.1 503"));
        let nothing = HashSet::new();
        caches.sources.listed(None, Some(&nothing));
        caches.stores.listed(None, Some(&nothing));
        caches.schedules.listed(None, Some(&nothing));
        caches.runs.listed(None, Some(&nothing));
        caches.restores.listed(None, Some(&nothing));
        caches.jobs.listed(None, Some(&nothing));
        caches.holds.listed(None, Some(&nothing));
        caches.disposals.listed(None, Some(&nothing));
        caches.previews.listed(None, Some(&nothing));
        caches.cluster_holds.listed(None, Some(&nothing));
        caches.cluster_schedules.listed(None, Some(&nothing));
        caches.cluster_stores.listed(None, Some(&nothing));
        caches.policies.listed(None, Some(&nothing));
        caches.namespaces.listed(None, Some(&nothing));
        caches.guards.listed(None, Some(&nothing));
        caches.guard_bindings.listed(None, Some(&nothing));
        assert!(ask(address, "/readyz").starts_with("HTTP/1.1 503"));
        caches.pods.listed(None, Some(&nothing));
        assert!(ask(address, "/readyz").starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/metrics").contains("holdfast_leader 0"));
        assert!(ask(address, "/else").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn a_stuck_runtime_is_not_alive() {
        let pulse = Pulse {
            began: Instant::now().checked_sub(STUCK + BEAT).unwrap(),
            last: Arc::default(),
        };
        assert!(pulse.age() > STUCK);
        pulse.last.store(STUCK.as_secs(), Ordering::Relaxed);
        assert!(pulse.age() < STUCK);
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let caches = Arc::new(Caches::new(&Namespaces::default()));
        let error = serve(
            address,
            caches.clone(),
            Registry::new(),
            Objects::new(caches, ServerClock::default()),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}

//! Three ways to the API server: watches that may wait, calls that may not, and the Lease that must not.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Method, Request, Response, header};
use kube::{
    Client,
    client::{Body, ClientBuilder},
};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use crate::{
    clock::{ServerClock, date_of},
    metrics::Metrics,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call may wait for bytes of its answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Longer than the API server lets a watch live, so that only dead connections end by it.
const WATCH_TIMEOUT: Duration = Duration::from_secs(65);
/// How long one call about the Lease may take.
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// The clients of the process. None retries by itself: queues and watches wait and try again where it can be seen.
#[derive(Clone)]
pub struct Clients {
    /// For watches and the lists they begin with.
    pub watch: Client,
    /// For everything that a controller does. It refuses to write while this replica does not lead.
    pub call: Client,
    /// For the Lease.
    pub lease: Client,
}

/// Makes the clients. `config` says where the API server is.
pub fn connect(config: &kube::Config, clock: &ServerClock, metrics: &Metrics, fence: &Fence) -> Result<Clients, kube::Error> {
    let build = |read_timeout: Duration, connect_timeout: Duration, fence: Option<Fence>| {
        let mut config = config.clone();
        config.connect_timeout = Some(connect_timeout);
        config.read_timeout = Some(read_timeout);
        config.write_timeout = Some(read_timeout);
        config.reset_reader_on_write = true;
        config.default_retry = false;
        config.headers.push((
            header::USER_AGENT,
            HeaderValue::from_static(concat!("holdfast-operator/", env!("CARGO_PKG_VERSION"))),
        ));
        let observe = Observe {
            clock: clock.clone(),
            metrics: metrics.clone(),
            fence,
        };
        Ok::<_, kube::Error>(ClientBuilder::try_from(config)?.with_layer(&observe).build())
    };
    Ok(Clients {
        watch: build(WATCH_TIMEOUT, CONNECT_TIMEOUT, None)?,
        call: build(CALL_TIMEOUT, CONNECT_TIMEOUT, Some(fence.clone()))?,
        lease: build(LEASE_TIMEOUT, LEASE_TIMEOUT, None)?,
    })
}

/// Until when this replica may write. A process that was frozen past its Lease finds its writes refused before it notices the loss.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// A fence that is open for ever, for tests and one-shot programs.
    pub fn open() -> Self {
        let fence = Self::default();
        fence.extend(Instant::now() + Duration::from_secs(30 * 365 * 86_400));
        fence
    }

    /// Writes are allowed until then.
    pub fn extend(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// No more writes.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub fn is_open(&self) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// Why a write was not sent.
#[derive(Debug, thiserror::Error)]
#[error("this replica does not lead, so it writes nothing")]
pub struct NotLeading;

/// Sees every call: its answer's `Date` sets the clock, its code is counted, its warnings are logged.
#[derive(Clone)]
pub struct Observe {
    pub clock: ServerClock,
    pub metrics: Metrics,
    pub fence: Option<Fence>,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observed {
            inner,
            observe: self.clone(),
        }
    }
}

/// A service whose calls are seen.
pub struct Observed<S> {
    inner: S,
    observe: Observe,
}

impl<S, B> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = Call::of(&request);
        if call.writes
            && let Some(fence) = &self.observe.fence
            && !fence.is_open()
        {
            return futures::future::err(NotLeading.into()).boxed();
        }
        let Observe { clock, metrics, .. } = self.observe.clone();
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            let code = match &answer {
                Ok(response) => response.status().as_str().to_owned(),
                Err(_) => "error".to_owned(),
            };
            metrics.api_calls.with_label_values(&[call.verb, &call.resource, &code]).inc();
            if let Ok(response) = &answer {
                if let Some(date) = date_of(response.headers()) {
                    clock.observe(date);
                }
                for warning in response.headers().get_all(header::WARNING) {
                    let text = String::from_utf8_lossy(warning.as_bytes());
                    tracing::warn!(verb = call.verb, resource = call.resource, warning = %text, "the API server warns");
                }
            }
            answer.map_err(Into::into)
        }
        .boxed()
    }
}

/// A call as metrics name it.
struct Call {
    verb: &'static str,
    /// `jobs`, or `backupruns/status`.
    resource: String,
    writes: bool,
}

impl Call {
    fn of<B>(request: &Request<B>) -> Self {
        let mut path = request.uri().path().trim_start_matches('/').split('/');
        // `api/v1/…` or `apis/<group>/<version>/…`
        let skip = if path.next() == Some("apis") { 2 } else { 1 };
        let mut rest: Vec<&str> = path.skip(skip).collect();
        if rest.len() > 2 && rest[0] == "namespaces" {
            rest.drain(..2);
        }
        let (resource, name, subresource) = (rest.first(), rest.get(1), rest.get(2));
        let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let verb = match *request.method() {
            Method::GET if watches => "watch",
            Method::GET if name.is_none() => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if name.is_none() => "deletecollection",
            Method::DELETE => "delete",
            _ => "other",
        };
        let resource = resource.copied().unwrap_or("none");
        Self {
            verb,
            resource: subresource.map_or_else(|| resource.to_owned(), |subresource| format!("{resource}/{subresource}")),
            writes: request.method() != Method::GET,
        }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_names_that_rbac_uses() {
        for (method, uri, verb, resource) in [
            ("GET", "/api/v1/pods?watch=true&limit=1", "watch", "pods"),
            ("GET", "/api/v1/namespaces/kube-system", "get", "namespaces"),
            ("GET", "/apis/batch/v1/namespaces/shop/jobs", "list", "jobs"),
            ("POST", "/apis/batch/v1/namespaces/shop/jobs", "create", "jobs"),
            (
                "PATCH",
                "/apis/holdfast.dev/v1alpha1/namespaces/shop/backupruns/a/status",
                "patch",
                "backupruns/status",
            ),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/h/leases/l", "update", "leases"),
            ("DELETE", "/apis/batch/v1/namespaces/shop/jobs/a", "delete", "jobs"),
        ] {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let call = Call::of(&request);
            assert_eq!(
                (call.verb, call.resource.as_str(), call.writes),
                (verb, resource, method != "GET"),
                "{uri}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_lost_its_lease_writes_nothing() {
        let fence = Fence::default();
        let observe = Observe {
            clock: ServerClock::default(),
            metrics: Metrics::new().unwrap(),
            fence: Some(fence.clone()),
        };
        let answers = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(())) });
        let mut service = observe.layer(answers);
        let mut send = |method: &str| service.call(Request::builder().method(method).uri("/api/v1/pods").body(Body::empty()).unwrap());
        assert!(send("POST").await.unwrap_err().is::<NotLeading>());
        assert!(send("GET").await.is_ok());
        fence.extend(Instant::now() + Duration::from_secs(10));
        assert!(send("POST").await.is_ok());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(send("DELETE").await.unwrap_err().is::<NotLeading>());
    }
}

//! Replicas, and a Lease that somebody deletes at any moment: never do two lead, and soon one does.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_test::mock;

use super::*;

const STEP: Duration = Duration::from_millis(50);

/// The API server, as far as it knows one Lease.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    /// Replicas whose calls get no answer and are not heard.
    cut: BTreeSet<&'static str>,
}

impl State {
    fn answer(&mut self, method: &str, body: &Value) -> (u16, Value) {
        let refuse = |code: u16, reason: &str| {
            (
                code,
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}),
            )
        };
        let held = self.lease.as_ref().map(|lease| lease["metadata"].clone());
        match (method, held) {
            ("GET", Some(_)) => (200, self.lease.clone().unwrap()),
            ("GET", None) => refuse(404, "NotFound"),
            ("POST", Some(_)) => refuse(409, "AlreadyExists"),
            ("POST", None) => {
                let version = self.version + 1;
                (201, self.store(body, &json!(format!("uid-{version}"))))
            }
            // Leases may be created by an update, but not one with the UID of another.
            ("PUT", None) => refuse(409, "Conflict"),
            ("PUT", Some(held)) => {
                let same = ["uid", "resourceVersion"]
                    .iter()
                    .all(|field| held[field] == body["metadata"][field]);
                if same {
                    (200, self.store(body, &held["uid"]))
                } else {
                    refuse(409, "Conflict")
                }
            }
            (method, _) => panic!("{method}"),
        }
    }

    fn store(&mut self, body: &Value, uid: &Value) -> Value {
        self.version += 1;
        let mut lease = body.clone();
        lease["metadata"]["uid"] = uid.clone();
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease.clone());
        lease
    }
}

impl Server {
    fn client(&self, who: &'static str) -> Client {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        handle.allow(u64::MAX);
        let server = self.clone();
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some((request, respond)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or(Value::Null);
                let answer = {
                    let mut state = server.0.lock().unwrap();
                    (!state.cut.contains(who)).then(|| state.answer(parts.method.as_str(), &body))
                };
                match answer {
                    Some((code, answer)) => {
                        let body = Body::from(serde_json::to_vec(&answer).unwrap());
                        respond.send_response(Response::builder().status(code).body(body).unwrap());
                    }
                    None => unanswered.push(respond),
                }
            }
        });
        Client::new(service, "default")
    }

    /// A replica: its process begins anew when it loses the Lease.
    fn start(&self, who: &'static str) -> Replica {
        let (fence, server) = (Fence::default(), self.clone());
        let open = fence.clone();
        let process = tokio::spawn(async move {
            loop {
                let (clock, metrics) = (ServerClock::default(), Metrics::new().unwrap());
                let mut election = Election::new(server.client(who), "h", "l", who, clock, fence.clone(), metrics);
                election.acquire().await;
                election.keep().await;
            }
        });
        Replica { who, open, process }
    }
}

struct Replica {
    who: &'static str,
    open: Fence,
    process: JoinHandle<()>,
}

/// Time passes; gives who leads at the end of it.
async fn pass(replicas: &[Replica], time: Duration, story: &str) -> Option<&'static str> {
    let end = Instant::now() + time;
    loop {
        let leading: Vec<_> = replicas
            .iter()
            .filter(|replica| replica.open.is_open())
            .map(|replica| replica.who)
            .collect();
        assert!(leading.len() < 2, "{story}: {leading:?} lead at once");
        if Instant::now() >= end {
            return leading.first().copied();
        }
        tokio::time::advance(STEP).await;
        // Calls and their answers go through several tasks.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

/// What happens to the leader while the Lease is deleted.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Nothing,
    /// It does not reach the API server for a while.
    Cut,
    /// Its node is gone.
    Killed,
    /// Another replica is started, which never saw a Lease.
    Joined,
}

#[tokio::test(start_paused = true)]
async fn never_do_two_lead_when_somebody_deletes_the_lease() {
    for meanwhile in [Meanwhile::Nothing, Meanwhile::Cut, Meanwhile::Killed, Meanwhile::Joined] {
        // Everybody looks every two seconds: at each moment in between.
        for offset in 0..42_u32 {
            let story = format!("{meanwhile:?}, deleted at {offset}");
            let server = Server::default();
            let mut replicas = vec![server.start("a")];
            pass(&replicas, 11 * STEP, &story).await;
            replicas.push(server.start("b"));
            let leader = pass(&replicas, Duration::from_secs(30), &story).await;
            let leader = leader.unwrap_or_else(|| panic!("{story}: nobody leads at first"));
            pass(&replicas, offset * STEP, &story).await;
            match meanwhile {
                Meanwhile::Nothing => {}
                Meanwhile::Cut => {
                    server.0.lock().unwrap().cut.insert(leader);
                }
                Meanwhile::Killed => replicas.iter().filter(|replica| replica.who == leader).for_each(|replica| {
                    replica.process.abort();
                }),
                Meanwhile::Joined => replicas.push(server.start("c")),
            }
            server.0.lock().unwrap().lease = None;
            pass(&replicas, Duration::from_secs(14), &story).await;
            server.0.lock().unwrap().cut.clear();
            let after = pass(&replicas, Duration::from_secs(26), &story).await;
            assert!(after.is_some(), "{story}: nobody leads any more");
            if matches!(meanwhile, Meanwhile::Nothing | Meanwhile::Joined) {
                assert_eq!(after, Some(leader), "{story}: who led goes on");
            }
            for replica in &replicas {
                replica.process.abort();
            }
        }
    }
}

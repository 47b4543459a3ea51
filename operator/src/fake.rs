//! A small API server in memory, for scenario tests: it keeps objects, refuses what the real one refuses, and records what was asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tower_test::mock;

use crate::{
    clock::ServerClock,
    config::Namespaces,
    context::Context,
    metrics::Metrics,
    report::{MANAGER, Report},
    watch::Caches,
};

/// The server, and what a test does to it.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By path, as in `/apis/batch/v1/namespaces/shop/jobs/a`.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// When it was started: everything is created then.
    now: String,
    /// `POST backupruns/a`, in order.
    calls: Vec<String>,
    /// Fields of a status that another manager wrote last, as JSON pointers into it, by the object's path.
    foreign: BTreeMap<String, Vec<String>>,
    /// Codes and messages that calls get instead of an answer.
    failures: BTreeMap<String, (u16, String)>,
    /// How many calls there were, and what happens to one of them.
    count: usize,
    fault: Option<(usize, Fault)>,
}

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused with this code and changes nothing.
    Refused(u16),
    /// It is applied, but its answer is lost.
    AnswerLost,
    /// It is applied, and who asked is killed before the answer: there is none, ever.
    Killed,
}

impl Fake {
    /// A server and the context of controllers that talk to it. It is `now` there.
    pub fn start(now: &str) -> (Self, Arc<Context>) {
        let fake = Self::default();
        now.clone_into(&mut fake.lock().now);
        let context = fake.connect(now);
        (fake, context)
    }

    /// The context of controllers that have just been started and know nothing. It is `now` there.
    pub fn connect(&self, now: &str) -> Arc<Context> {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        handle.allow(u64::MAX);
        let server = self.clone();
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some((request, respond)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let query = parts.uri.query().unwrap_or_default();
                let answer = server.lock().faulty_answer(parts.method.as_str(), parts.uri.path(), query, &body);
                let Some((code, answer)) = answer else {
                    unanswered.push(respond);
                    continue;
                };
                // A log is text.
                let answer = match answer {
                    Value::String(text) => Body::from(text.into_bytes()),
                    answer => Body::from(serde_json::to_vec(&answer).unwrap()),
                };
                respond.send_response(Response::builder().status(code).body(answer).unwrap());
            }
        });
        let client = Client::new(service, "default");
        let clock = ServerClock::default();
        clock.observe(now.parse().unwrap());
        Arc::new(Context {
            cluster: "cluster".to_owned(),
            image: "holdfast:1".to_owned(),
            client: client.clone(),
            clock: clock.clone(),
            caches: Arc::new(Caches::new(&Namespaces::default())),
            report: Report::new(client, clock, "pod"),
            metrics: Metrics::new().unwrap(),
        })
    }

    /// Every object of a resource, as in `jobs`.
    pub fn all<K: serde::de::DeserializeOwned>(&self, resource: &str) -> Vec<K> {
        let state = self.lock();
        let objects = state.objects.iter().filter(|(path, _)| path.rsplit('/').nth(1) == Some(resource));
        objects.map(|(_, object)| serde_json::from_value(object.clone()).unwrap()).collect()
    }

    /// What happens to the call of this number, counted from 1 from now on.
    pub fn fault(&self, fault: Option<(usize, Fault)>) {
        let mut state = self.lock();
        state.count = 0;
        state.fault = fault;
    }

    /// How many calls there were since [`Fake::fault`], without Events.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    /// Puts an object there as a user does, and gives it as a watch shows it.
    pub fn put<K: serde::de::DeserializeOwned>(&self, path: &str, mut object: Value) -> K {
        let mut state = self.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.objects.insert(path.to_owned(), object.clone());
        serde_json::from_value(object).unwrap()
    }

    /// What `GET` of this path answers as text: the log of a pod.
    pub fn log(&self, path: &str, text: &str) {
        self.lock().objects.insert(path.to_owned(), json!(text));
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// Takes an object away, as a user does.
    pub fn remove(&self, path: &str) {
        self.lock().objects.remove(path);
    }

    /// Another manager writes a field of an object's status: `pointer` is as in `/settle/finishedAt`.
    pub fn meddle(&self, path: &str, pointer: &str, value: Value) {
        let mut state = self.lock();
        state.version += 1;
        let version = json!(state.version.to_string());
        let object = state.objects.get_mut(path).unwrap();
        *object["status"].pointer_mut(pointer).unwrap() = value;
        object["metadata"]["resourceVersion"] = version;
        state.foreign.entry(path.to_owned()).or_default().push(pointer.to_owned());
    }

    /// From now on calls such as `POST backupruns/a` fail so.
    pub fn fail(&self, call: &str, code: u16, message: &str) {
        self.lock().failures.insert(call.to_owned(), (code, message.to_owned()));
    }

    pub fn mend(&self) {
        self.lock().failures.clear();
    }

    /// What was asked since the last time, without Events.
    pub fn calls(&self) -> Vec<String> {
        let calls = std::mem::take(&mut self.lock().calls);
        calls.into_iter().filter(|call| !call.starts_with("POST events")).collect()
    }

    /// Reasons of the Events since the last time, sorted; then they are gone.
    pub fn events(&self) -> Vec<String> {
        let mut state = self.lock();
        let events: Vec<String> = state.objects.keys().filter(|path| path.contains("/events/")).cloned().collect();
        let mut reasons: Vec<String> = events
            .iter()
            .filter_map(|path| Some(state.objects.remove(path)?["reason"].as_str()?.to_owned()))
            .collect();
        reasons.sort();
        reasons
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// None is no answer.
    fn faulty_answer(&mut self, method: &str, path: &str, query: &str, body: &Value) -> Option<(u16, Value)> {
        // Events are help, not state: whether they arrive changes nothing.
        self.count += usize::from(!path.contains("/events"));
        let fault = self.fault.filter(|(number, _)| *number == self.count && !path.contains("/events"));
        if let Some((_, Fault::Refused(code))) = fault {
            return Some(refusal(code, "refused by the test"));
        }
        let answer = self.answer(method, path, query, body);
        match fault {
            Some((_, Fault::Killed)) => None,
            Some((_, Fault::AnswerLost)) => Some(refusal(504, "the answer was lost by the test")),
            _ => Some(answer),
        }
    }

    /// The objects right under a path that have the labels of the query's selector.
    fn list(&self, path: &str, query: &str) -> Value {
        let query = query.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
        let selector = query
            .split('&')
            .find_map(|part| part.strip_prefix("labelSelector="))
            .unwrap_or_default();
        let wanted: Vec<_> = selector.split(',').filter_map(|part| part.split_once('=')).collect();
        let items: Vec<_> = self
            .objects
            .iter()
            .filter(|(held, _)| held.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
            .filter(|(_, object)| wanted.iter().all(|(key, value)| object["metadata"]["labels"][key] == *value))
            .map(|(_, object)| object)
            .collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
    }

    fn answer(&mut self, method: &str, path: &str, query: &str, body: &Value) -> (u16, Value) {
        let (path, subresource) = match path.strip_suffix("/status") {
            Some(object) => (object, "/status"),
            None => (path, ""),
        };
        let path = match (method, body["metadata"]["name"].as_str()) {
            ("POST", Some(name)) => format!("{path}/{name}"),
            _ => path.to_owned(),
        };
        let mut tail = path.rsplit('/');
        let (name, resource) = (tail.next().unwrap_or_default(), tail.next().unwrap_or_default());
        let call = format!("{method} {resource}/{name}{subresource}");
        self.calls.push(call.clone());
        if let Some((code, message)) = self.failures.get(&call) {
            return refusal(*code, message);
        }
        let held = self.objects.get(&path).cloned();
        self.version += 1;
        let version = json!(self.version.to_string());
        match (method, held) {
            ("POST", Some(_)) => refusal(409, "already exists"),
            ("POST", None) => {
                let mut object = body.clone();
                // Like the real one: who creates an object says nothing about its status.
                if let Some(object) = object.as_object_mut() {
                    object.remove("status");
                }
                object["metadata"]["uid"] = json!(format!("uid-{version}"));
                object["metadata"]["resourceVersion"] = version;
                object["metadata"]["creationTimestamp"] = json!(self.now);
                self.objects.insert(path, object.clone());
                (201, object)
            }
            ("GET", Some(object)) => (200, object),
            ("GET", None) if path.ends_with("/pods") => (200, self.list(&path, query)),
            ("GET", None) if resource == "namespaces" || path.ends_with("/events") => {
                (200, json!({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": []}))
            }
            ("PATCH", Some(mut object)) if subresource == "/status" => {
                assert!(query.contains(&format!("fieldManager={MANAGER}")), "{query}");
                if let Some([test, replace]) = body.as_array().map(Vec::as_slice) {
                    if test["value"] != object["metadata"]["resourceVersion"] {
                        return refusal(422, "the test of resourceVersion failed");
                    }
                    assert_eq!((&replace["op"], &replace["path"]), (&json!("replace"), &json!("/status")));
                    object["status"] = replace["value"].clone();
                    object["metadata"]["resourceVersion"] = version;
                    self.foreign.remove(&path);
                    self.objects.insert(path, object.clone());
                    return (200, object);
                }
                assert!(query.contains("force=true"), "{query}");
                for field in ["uid", "resourceVersion"] {
                    let wanted = &body["metadata"][field];
                    if !wanted.is_null() && *wanted != object["metadata"][field] {
                        return refusal(409, &format!("{field} differs"));
                    }
                }
                let before = std::mem::replace(&mut object["status"], body["status"].clone());
                // Like the real one: what an apply says is its manager's from now on, what it leaves out stays another's.
                if let Some(foreign) = self.foreign.get_mut(&path) {
                    foreign.retain(|pointer| body["status"].pointer(pointer).is_none());
                    for pointer in foreign {
                        let (parent, field) = pointer.rsplit_once('/').unwrap();
                        if let Some(parent) = object["status"].pointer_mut(parent) {
                            parent[field] = before.pointer(pointer).cloned().unwrap_or_default();
                        }
                    }
                }
                object["metadata"]["resourceVersion"] = version;
                self.objects.insert(path, object.clone());
                (200, object)
            }
            ("PUT", Some(object)) => {
                if body["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                    return refusal(409, "resourceVersion differs");
                }
                let mut changed = body.clone();
                changed["status"] = object["status"].clone();
                changed["metadata"]["resourceVersion"] = version;
                self.objects.insert(path, changed.clone());
                (200, changed)
            }
            ("DELETE", Some(object)) => {
                let wanted = &body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
                    return refusal(409, "uid differs");
                }
                self.objects.remove(&path);
                (200, object)
            }
            (_, None) => refusal(404, "not found"),
            (method, Some(_)) => refusal(405, &format!("{method} is not known here")),
        }
    }
}

fn refusal(code: u16, message: &str) -> (u16, Value) {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        _ => "InternalError",
    };
    (
        code,
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

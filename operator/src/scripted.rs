//! A scripted API server for tests: each call is expected in order, and answered.

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::Value;
use tower_test::mock::{self, Handle, SendResponse};

/// The server's side.
pub struct Server(Handle<Request<Body>, Response<Body>>);

/// One call that waits for its answer.
pub struct Call {
    pub method: String,
    pub path: String,
    pub query: String,
    pub body: Value,
    respond: SendResponse<Response<Body>>,
}

/// A client and the server that answers it.
pub fn server() -> (Client, Server) {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    handle.allow(u64::MAX);
    (Client::new(service, "default"), Server(handle))
}

impl Server {
    /// The next call.
    pub async fn next(&mut self) -> Call {
        let (request, respond) = self.0.next_request().await.expect("the client is still there");
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.expect("a body in memory can be read");
        Call {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            respond,
        }
    }

    /// The next call, which must be this one.
    pub async fn expect(&mut self, method: &str, path: &str) -> Call {
        let call = self.next().await;
        assert_eq!((call.method.as_str(), call.path.as_str()), (method, path), "body: {}", call.body);
        call
    }
}

impl Call {
    pub fn answer(self, code: u16, body: &Value) {
        self.answer_lines(code, std::slice::from_ref(body));
    }

    /// Answers a watch: one event a line, and then its end.
    pub fn answer_lines(self, code: u16, lines: &[Value]) {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        self.answer_text(code, &lines.join("\n"));
    }

    /// Answers with this body, whatever it is.
    pub fn answer_text(self, code: u16, body: &str) {
        let response = Response::builder()
            .status(code)
            .body(Body::from(body.as_bytes().to_vec()))
            .expect("the parts are valid");
        self.respond.send_response(response);
    }

    /// Answers as the API server does when it refuses.
    pub fn refuse(self, code: u16, reason: &str, message: &str) {
        let status = serde_json::json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message,
        });
        self.answer(code, &status);
    }
}

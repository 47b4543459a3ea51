//! An HTTP proxy on loopback that does to requests what networks and servers do.

use crate::gateway::{KEY, SECRET};
use object_store::{
    aws::{AwsAuthorizer, AwsCredential},
    client::HttpRequestBody,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Small bodies only.
    pub body: String,
}

impl Seen {
    pub fn is_piece(&self) -> bool {
        self.method == "PUT" && self.query.contains("partNumber=")
    }

    pub fn is_complete(&self) -> bool {
        self.method == "POST" && self.query.contains("uploadId=")
    }

    pub fn is_put(&self) -> bool {
        self.method == "PUT" && self.query.is_empty()
    }
}

/// What is done to a request.
#[derive(Clone, Debug)]
pub enum Act {
    Pass,
    /// Answers without asking the server.
    Answer(u16, &'static str),
    /// Answers before it has read the body, and closes.
    EarlyAnswer(u16, &'static str),
    /// Breaks the connection after so many bytes of the body.
    ResetAfter(usize),
    /// The server does its work; nobody hears of it.
    LoseAnswer,
    /// The answer breaks after so many bytes of its body.
    BreakAnswer(usize),
    /// One bit of the answer's body is wrong.
    FlipAnswer,
    /// The server gets it twice.
    Twice,
    /// The server gets it later.
    Delay(Duration),
    /// The body passes at so many bytes per second.
    Throttle(usize),
    /// The answer has this date.
    Date(String),
    /// Signed anew for the server with its own keys: this proxy is who knows temporary ones.
    Resign,
}

/// An error document.
pub fn error(code: &str) -> &'static str {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>as the test wants it</Message></Error>").leak()
}

type Rule = dyn Fn(&Seen) -> Act + Send + Sync;

pub struct Proxy {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(server: SocketAddr, rule: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (rule, record): (Arc<Rule>, _) = (Arc::new(rule), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (rule, record) = (rule.clone(), record.clone());
                // A connection that breaks is what these tests are about.
                tokio::spawn(async move { serve(client, server, &*rule, &record).await.unwrap_or_default() });
            }
        });
        Self { address, seen, task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// The largest body that rules can look into, in bytes.
const SMALL: usize = 8 << 10;

/// The head of a request as somebody with the server's own keys would send it.
fn resigned(head: &str, seen: &Seen, server: SocketAddr) -> String {
    let dropped = ["authorization:", "x-amz-security-token:", "x-amz-date:", "host:"];
    let kept: Vec<_> = head
        .split("\r\n")
        .filter(|line| !dropped.iter().any(|name| line.to_ascii_lowercase().starts_with(name)))
        .collect();
    let query = if seen.query.is_empty() {
        String::new()
    } else {
        format!("?{}", seen.query)
    };
    let mut request = http::Request::builder()
        .method(&*seen.method)
        .uri(format!("http://{server}{}{query}", seen.path));
    for (name, value) in seen
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-amz-") && !dropped.contains(&&*format!("{name}:")))
    {
        request = request.header(name, value);
    }
    let mut request = request.body(HttpRequestBody::empty()).unwrap();
    let digest = &seen.headers["x-amz-content-sha256"];
    let digest: Vec<_> = (0..32)
        .map(|at| u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let credential = AwsCredential {
        key_id: KEY.to_owned(),
        secret_key: SECRET.to_owned(),
        token: None,
    };
    AwsAuthorizer::new(&credential, "s3", "us-east-1")
        .try_authorize(&mut request, Some(&digest))
        .unwrap();
    let header = |name: &str| format!("{name}: {}", request.headers()[name].to_str().unwrap());
    format!(
        "{}\r\nhost: {server}\r\n{}\r\n{}",
        kept.join("\r\n"),
        header("x-amz-date"),
        header("authorization")
    )
}

/// One request per connection.
async fn serve(mut client: TcpStream, server: SocketAddr, rule: &Rule, record: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let (head, mut body) = read_head(&mut client).await?;
    let mut lines = head.split("\r\n");
    let first: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let target = *first.get(1).unwrap_or(&"/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut buffer = vec![0; 16 << 10];
    while length <= SMALL && body.len() < length {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        body.extend_from_slice(&buffer[..read]);
    }
    let seen = Seen {
        method: first[0].to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: if length <= SMALL {
            String::from_utf8_lossy(&body).into_owned()
        } else {
            String::new()
        },
    };
    record.lock().unwrap().push(seen.clone());
    let act = rule(&seen);

    if let Act::EarlyAnswer(status, text) = act {
        return client.write_all(answer(status, text).as_bytes()).await;
    }
    let limit = if let Act::ResetAfter(bytes) = act {
        bytes.min(length)
    } else {
        length
    };
    while body.len() < limit {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        body.extend_from_slice(&buffer[..read]);
        if let Act::Throttle(rate) = act {
            tokio::time::sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
        }
    }
    match &act {
        Act::ResetAfter(_) => return reset(client),
        Act::Answer(status, text) => return client.write_all(answer(*status, text).as_bytes()).await,
        Act::Delay(time) => tokio::time::sleep(*time).await,
        Act::Twice => drop(ask(server, &head, &body).await?),
        _ => {}
    }
    let head = if matches!(act, Act::Resign) {
        resigned(&head, &seen, server)
    } else {
        head
    };
    let mut answer = ask(server, &head, &body).await?;
    let start = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map_or(answer.len(), |at| at + 4);
    match act {
        Act::LoseAnswer => return reset(client),
        Act::BreakAnswer(bytes) => {
            client.write_all(&answer[..answer.len().min(start + bytes)]).await?;
            client.flush().await?;
            return reset(client);
        }
        Act::FlipAnswer if answer.len() > start => {
            let middle = start + (answer.len() - start) / 2;
            answer[middle] ^= 0x10;
        }
        Act::Date(date) => {
            let text = String::from_utf8_lossy(&answer[..start]).into_owned();
            let changed: Vec<_> = text
                .split("\r\n")
                .map(|line| {
                    if line.to_ascii_lowercase().starts_with("date:") {
                        format!("Date: {date}")
                    } else {
                        line.to_owned()
                    }
                })
                .collect();
            answer.splice(..start, changed.join("\r\n").into_bytes());
        }
        _ => {}
    }
    client.write_all(&answer).await?;
    client.shutdown().await
}

fn answer(status: u16, text: &str) -> String {
    format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// Breaks a connection in a way that the other side takes for an error.
fn reset(client: TcpStream) -> std::io::Result<()> {
    client.set_zero_linger()?;
    drop(client);
    Ok(())
}

async fn read_head(client: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(at + 4);
            bytes.truncate(at);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Sends a request on a connection of its own, and reads the answer to its end.
async fn ask(server: SocketAddr, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(server).await?;
    let head: Vec<_> = head
        .split("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .collect();
    server
        .write_all(format!("{}\r\nConnection: close\r\n\r\n", head.join("\r\n")).as_bytes())
        .await?;
    server.write_all(body).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    Ok(answer)
}

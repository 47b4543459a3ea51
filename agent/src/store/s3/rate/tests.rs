use super::*;
use crate::store::s3::wire::{Settings, watched};
use object_store::PutPayload;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

#[test]
fn patience_follows_the_line() {
    let rate = Rate::default();
    let patience = |length| rate.line().patience(length);
    assert_eq!(patience(0), SILENCE);
    assert_eq!(patience(8 << 20), SILENCE * 2, "nothing is known");
    rate.too_slow();
    assert_eq!(patience(8 << 20), SILENCE * 4, "it was given up once");
    rate.took(8 << 20, Duration::from_millis(800));
    let fast = patience(8 << 20);
    assert!(fast < SILENCE + Duration::from_secs(7), "{fast:?}");
    rate.took(100, Duration::from_secs(30));
    assert_eq!(patience(8 << 20), fast, "a small request says nothing");
    rate.too_slow();
    assert!(patience(8 << 20) > SILENCE + Duration::from_secs(50));
    rate.took(1 << 20, Duration::from_secs(1 << 20));
    assert_eq!(patience(8 << 20), SILENCE + Duration::from_secs(4096), "2 KiB/s are waited for");
}

/// Sends a body of 8 MiB to a server that does with it what `serve` does. Time passes where nothing else is to be done.
async fn send<F: Future<Output = ()> + Send + 'static>(rate: &Rate, serve: impl FnOnce(TcpStream) -> F) -> (Result<u16, String>, Duration) {
    let socket = TcpSocket::new_v4().unwrap();
    // What lies in the server's kernel would have crossed the line.
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let client = Settings {
        allow_http: true,
        trusted: Some(Vec::new()),
        resolver: None,
    };
    let client = client.client().unwrap();
    let length = 8 << 20;
    let (body, taken) = watched(PutPayload::from(vec![7; length]));
    let request = client
        .put(format!("http://{address}/"))
        .header("content-length", length)
        .body(body)
        .build()
        .unwrap();
    let begun = Instant::now();
    let served = async {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(serve(stream)).abort_handle()
    };
    let (sent, served) = tokio::join!(rate.wait(length as u64, &taken, client.execute(request)), served);
    served.abort();
    (sent.map(|answer| answer.unwrap().status().as_u16()), begun.elapsed())
}

async fn read(stream: &mut TcpStream, mut length: usize, pause: Duration) {
    let mut buffer = vec![0; 64 << 10];
    while length > 0 {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "{length} bytes are missing");
        length = length.saturating_sub(read);
        tokio::time::sleep(pause.mul_f64(as_f64(read as u64) / as_f64(64 << 10))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_in_a_body_is_noticed_within_two_minutes() {
    let rate = Rate::default();
    let (sent, time) = send(&rate, |mut stream| async move {
        read(&mut stream, 1 << 20, Duration::ZERO).await;
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    assert!(
        sent.clone()
            .unwrap_err()
            .starts_with("it took nothing more of the body for 120 s, behind "),
        "{sent:?}"
    );
    assert!(time >= STALL && time < Duration::from_secs(130), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_everything_and_says_nothing_is_noticed_within_two_minutes() {
    let rate = Rate::default();
    let (sent, time) = send(&rate, |mut stream| async move {
        read(&mut stream, 8 << 20, Duration::ZERO).await;
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    assert_eq!(sent.unwrap_err(), "silence for 120 s");
    assert!(time < Duration::from_secs(130), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn f45_a_large_body_crosses_a_line_of_ten_kilobytes_per_second() {
    let rate = Rate::default();
    // On loopback megabytes lie in the kernel, more than on a real line: a first attempt may be given up. A call is made at least three times.
    let mut answers = Vec::new();
    while answers.len() < 3
        && answers
            .last()
            .is_none_or(|(sent, _): &(Result<u16, String>, Duration)| sent.is_err())
    {
        let sent = send(&rate, |mut stream| async move {
            read(&mut stream, 8 << 20, Duration::from_secs_f64(65_536.0 / 10_000.0)).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        });
        answers.push(sent.await);
    }
    let (sent, time) = answers.last().unwrap();
    assert_eq!(*sent, Ok(200), "{answers:?}");
    assert!(*time > Duration::from_secs(300), "{time:?}");
    assert!(rate.line().slowest.is_some_and(|seconds| seconds > 0.3 / 10_000.0), "{rate:?}");
}

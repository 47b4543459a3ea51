//! What networks and servers do while data is under way.

use super::*;

#[tokio::test]
async fn f30_slow_down_burst() {
    let count = AtomicUsize::new(0);
    let seen = arrives_whole(move |_| match count.fetch_add(1, Ordering::SeqCst) % 3 {
        0 => Act::Answer(503, error("SlowDown")),
        1 => Act::Answer(500, "<html>not even XML</html>"),
        _ => Act::Pass,
    })
    .await;
    assert!(seen.len() > 15, "each call was made three times");
}

#[tokio::test]
async fn f31_reset_in_mid_part() {
    let seen = arrives_whole(first(5, Seen::is_piece, Act::ResetAfter(PIECE / 2))).await;
    assert!(seen.iter().filter(|seen| seen.is_piece()).count() >= 8);
}

#[tokio::test]
async fn f32_complete_answers_200_with_an_error_in_its_body() {
    let seen = arrives_whole(first(2, Seen::is_complete, Act::Answer(200, error("InternalError")))).await;
    assert_eq!(seen.iter().filter(|seen| seen.is_complete()).count(), 3);
    // An empty 200 is no success either.
    let seen = arrives_whole(first(1, Seen::is_complete, Act::Answer(200, ""))).await;
    assert_eq!(seen.iter().filter(|seen| seen.is_complete()).count(), 2);
}

#[tokio::test]
async fn f33_piece_sent_twice_and_out_of_order() {
    let seen = arrives_whole(|seen| match () {
        () if seen.is_piece() && seen.query.contains("partNumber=1&") => Act::Delay(Duration::from_secs(1)),
        () if seen.is_piece() => Act::Twice,
        () => Act::Pass,
    })
    .await;
    assert_eq!(seen.iter().filter(|seen| seen.is_piece()).count(), 3);
}

#[tokio::test]
async fn f34_complete_succeeded_but_its_answer_was_lost() {
    let seen = arrives_whole(first(1, Seen::is_complete, Act::LoseAnswer)).await;
    assert_eq!(
        seen.iter().filter(|seen| seen.is_complete()).count(),
        2,
        "the second is refused as unknown, and what lies there is compared"
    );
    // The same for a single put and for a document.
    let gateway = Gateway::start();
    let (store, _proxy) = behind(
        &gateway,
        first(1, |seen| seen.is_put() && seen.path.contains("data"), Act::LoseAnswer),
    )
    .await;
    assert_eq!(
        write(&store, "data/p", &[noise(100, 1)]).await.unwrap().confirmed,
        Confirmed::ByStore
    );
    let (store, _proxy) = behind(
        &gateway,
        first(1, |seen| seen.is_put() && seen.path.contains("catalog"), Act::LoseAnswer),
    )
    .await;
    assert!(matches!(store.create(&path("catalog/a"), "x".into()).await, Ok(Created::Ours(_))));
}

#[tokio::test]
async fn f35_abandoned_uploads_are_found_and_aborted() {
    let gateway = Gateway::start();
    let store = gateway.store();
    for name in ["data/a/run/p", "data/b/run/p"] {
        let mut part = store.write_part(path(name));
        part.write(noise(PIECE, 1)).await.unwrap();
        part.write(noise(PIECE, 2)).await.unwrap();
        // As a killed process leaves it.
        std::mem::forget(part);
    }
    assert_eq!(uploads(&gateway).await, 2);
    let next = gateway.store();
    assert_eq!(
        next.abort_leftovers(&path("data/a"), Duration::from_secs(3600)).await.unwrap(),
        0,
        "too young"
    );
    // The store's clock shows whole seconds: what began in this one is not old yet.
    let begun = Instant::now();
    while next.abort_leftovers(&path("data/a"), Duration::ZERO).await.unwrap() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the upload is not found");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(uploads(&gateway).await, 1);
    // The process itself, told to stop, cleans up what it began.
    assert_eq!(store.abort_open().await, 0);
    assert_eq!(uploads(&gateway).await, 0);
}

#[tokio::test]
async fn f39_reads_that_break_go_on_and_damage_is_seen() {
    let gateway = Gateway::start();
    let bytes = noise(3 << 20, 5);
    write(&gateway.store(), "data/p", std::slice::from_ref(&bytes)).await.unwrap();
    let (store, proxy) = behind(&gateway, first(3, |seen| seen.method == "GET", Act::BreakAnswer(1 << 20))).await;
    assert_eq!(read_all(&store, "data/p").await.unwrap(), bytes);
    let ranges: Vec<_> = proxy
        .seen()
        .into_iter()
        .filter_map(|seen| seen.headers.get("range").cloned())
        .collect();
    assert!(
        !ranges.is_empty() && ranges.iter().all(|range| !range.starts_with("bytes=0-")),
        "{ranges:?}"
    );
    let (store, _proxy) = behind(&gateway, first(1, |seen| seen.method == "GET", Act::FlipAnswer)).await;
    assert_ne!(
        read_all(&store, "data/p").await.unwrap(),
        bytes,
        "the store hands on what it gets; digests are compared above it"
    );
}

#[tokio::test]
async fn f40_quota_full() {
    let gateway = Gateway::start();
    let (store, proxy) = behind(&gateway, |seen: &Seen| {
        if seen.is_piece() {
            Act::Answer(403, error("QuotaExceeded"))
        } else {
            Act::Pass
        }
    })
    .await;
    let error = write(&store, "data/p", &three_pieces()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreFull, "{error}");
    assert!(
        proxy.seen().iter().filter(|seen| seen.is_piece()).count() <= 3,
        "it is not tried again"
    );
    assert_eq!(store.abort_open().await, 0);
    assert_eq!(uploads(&gateway).await, 0);
}

#[tokio::test]
async fn f41_clock_skew() {
    let gateway = Gateway::start();
    let (store, _proxy) = behind(&gateway, |_| Act::Answer(403, error("RequestTimeTooSkewed"))).await;
    let refused = store.list(&path("catalog"), 1).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ClockSkew, "{refused}");
    let (store, _proxy) = behind(&gateway, |_| Act::Date("Fri, 20 Nov 2026 22:10:00 GMT".into())).await;
    store.list(&path("catalog"), 1).await.unwrap();
    let now = store.now().unwrap();
    assert!(
        now.duration_since("2026-11-20T22:10:00Z".parse().unwrap()).as_secs() < 5,
        "the store's clock counts: {now}"
    );
}

#[tokio::test]
async fn f42_endpoint_unreachable_and_back() {
    let gateway = Gateway::start();
    let away = store(config(gateway.directory.path(), &format!("http://{}", free_port()))).unwrap();
    let quick = holdfast_agent::store::Patience {
        total: Duration::from_millis(200),
        ..PATIENCE
    };
    let error = Store::new(
        S3::new(config(gateway.directory.path(), &format!("http://{}", free_port()))).unwrap(),
        quick,
        1,
    )
    .create(&path("catalog/a"), "x".into())
    .await
    .unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnreachable, "{error}");
    assert!(!error.is_ambiguous(), "nothing was sent: {error:?}");
    drop(away);

    // Killed in mid-upload, and back three seconds later.
    let mut gateway = gateway;
    let store = gateway.store();
    let mut part = store.write_part(path("data/p"));
    part.write(noise(PIECE, 1)).await.unwrap();
    part.write(noise(PIECE, 2)).await.unwrap();
    gateway.kill();
    let back = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_secs(3));
        gateway.resume();
        gateway
    });
    part.write(noise(PIECE, 3)).await.unwrap();
    part.finish().await.unwrap();
    let gateway = back.await.unwrap();
    assert_eq!(
        read_all(&gateway.store(), "data/p").await.unwrap(),
        [noise(PIECE, 1), noise(PIECE, 2), noise(PIECE, 3)].concat()
    );
}

#[tokio::test]
async fn f45_ten_kilobytes_per_second() {
    let gateway = Gateway::start();
    let (store, proxy) = behind(
        &gateway,
        |seen: &Seen| if seen.is_put() { Act::Throttle(10_000) } else { Act::Pass },
    )
    .await;
    let begun = Instant::now();
    let stored = write(&store, "data/p", &[noise(360_000, 1)]).await.unwrap();
    assert_eq!(stored.size, 360_000);
    assert!(begun.elapsed() > Duration::from_secs(34), "it took {:?}", begun.elapsed());
    assert_eq!(proxy.seen().iter().filter(|seen| seen.is_put()).count(), 1, "it was sent once");
}

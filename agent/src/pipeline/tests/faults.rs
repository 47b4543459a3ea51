//! Stores, engines and checks that fail, stall or crash.

use super::*;

/// F02: whichever call the process dies at, the stream fails, and what is there is whole or not there.
#[tokio::test(flavor = "multi_thread")]
async fn f02_a_crash_at_any_store_call_stores_no_stream() {
    let raw = noise(16 << 20, 3);
    let run = |fault: Option<(usize, Fault)>| {
        let raw = raw.clone();
        async move {
            let fixture = Fixture::new(true);
            let faulty = match fault {
                Some((index, fault)) => Faulty::at(fixture.memory.clone(), index, fault),
                None => Faulty::none(fixture.memory.clone()),
            };
            let store = Store::new(faulty.clone(), Patience::PROBE, 2);
            let result = fixture
                .pipeline_on(store)
                .store_stream(&place("s", true), &raw[..], Box::new(Opaque))
                .await;
            (result, faulty, fixture.memory)
        }
    };
    let (result, faulty, memory) = run(None).await;
    let complete = memory.objects().len();
    assert_eq!(result.unwrap().stored.len(), complete);
    let calls = faulty.calls().len();
    assert!(calls > 8, "{calls} calls");
    for call in 0..calls {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let (result, faulty, memory) = run(Some((call, fault.clone()))).await;
            assert!(faulty.crashed(), "call {call} was never made");
            assert!(result.is_err(), "{fault:?} at call {call} went unnoticed");
            assert!(memory.objects().len() <= complete);
        }
        for error in [Fault::reset(), Fault::slow_down()] {
            for fault in [Fault::Before(error.clone()), Fault::After(error.clone())] {
                let (result, _, memory) = run(Some((call, fault.clone()))).await;
                let stored = result.unwrap_or_else(|error| panic!("{fault:?} at call {call} was not survived: {error}"));
                assert_eq!(stored.stored.len(), memory.objects().len(), "{fault:?} at call {call}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_store_ends_the_stream_with_its_reason_and_no_open_upload() {
    for kind in [
        CallKind::StartUpload,
        CallKind::PutPiece,
        CallKind::CompleteUpload,
        CallKind::Create,
        CallKind::Head,
    ] {
        let fixture = Fixture::new(true);
        let refusal = StoreError::Full {
            problem: "quota of 10 MiB".into(),
        };
        let faulty = Faulty::first(fixture.memory.clone(), kind, 1000, Fault::Before(refusal));
        let store = Store::new(faulty, Patience::PROBE, 2);
        let error = fixture
            .pipeline_on(store)
            .store_stream(&place("s", true), &noise(20 << 20, 4)[..], Box::new(Opaque))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, WriteError::Store { source, .. } if matches!(source.root(), StoreError::Full { .. })),
            "{kind:?}: {error}"
        );
        if kind != CallKind::CompleteUpload && kind != CallKind::Head {
            assert_eq!(fixture.memory.open_uploads(), 0, "{kind:?}");
        }
    }
}

/// Fails after so many bytes.
struct Failing {
    left: u64,
}

impl StreamCheck for Failing {
    fn feed(&mut self, chunk: &[u8], _borders: &mut Vec<u64>) -> Result<(), CheckFailed> {
        self.left = self.left.checked_sub(chunk.len() as u64).ok_or(CheckFailed {
            offset: 7,
            problem: "found x, expected y".into(),
        })?;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Checked, CheckFailed> {
        Err(CheckFailed {
            offset: 9,
            problem: "the stream ended early".into(),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_check_or_reader_ends_the_stream_with_no_open_upload() {
    let fixture = Fixture::new(true);
    let pipeline = fixture.pipeline_on(fixture.store());
    let raw = noise(20 << 20, 4);
    for left in [12 << 20, 100 << 20] {
        let error = pipeline
            .store_stream(&place(&format!("s{left}"), true), &raw[..], Box::new(Failing { left }))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, WriteError::Check(failed) if failed.offset == if left < 20 << 20 { 7 } else { 9 }),
            "{error}"
        );
    }
    let reader = breaking(&raw, 12 << 20);
    let error = pipeline
        .store_stream(&place("r", true), reader, Box::new(Opaque))
        .await
        .unwrap_err();
    assert!(matches!(&error, WriteError::Read(_)), "{error}");
    assert_eq!(fixture.memory.open_uploads(), 0);
    // The pool is whole again.
    fixture.store_bytes("after", &raw, Box::new(Opaque)).await;
}

/// Hands out `bytes` and fails after `limit` of them.
fn breaking(bytes: &Bytes, limit: usize) -> impl AsyncRead + Unpin {
    let failing = futures::stream::iter([Ok(bytes.slice(..limit)), Err(std::io::Error::other("the pipe broke"))]);
    tokio_util::io::StreamReader::new(failing)
}

/// Hands out noise for ever and counts it.
fn endless(count: Arc<AtomicU64>) -> impl AsyncRead + Unpin {
    let mut seed = 0;
    let chunks = futures::stream::repeat_with(move || {
        seed += 1;
        count.fetch_add(64 << 10, Ordering::SeqCst);
        Ok::<_, std::io::Error>(noise(64 << 10, seed))
    });
    tokio_util::io::StreamReader::new(chunks)
}

/// F05: uploads are aborted within five seconds, whatever the store is doing.
#[tokio::test(flavor = "multi_thread")]
async fn f05_cancelling_aborts_uploads_at_once() {
    let fixture = Fixture::new(true);
    // Pieces never arrive.
    let faulty = Faulty::first(
        fixture.memory.clone(),
        CallKind::PutPiece,
        1000,
        Fault::Slow(Duration::from_secs(3600)),
    );
    let pipeline = fixture.pipeline_on(Store::new(faulty.clone(), Patience::RUN, 2));
    let cancel = fixture.cancel.clone();
    let storing = tokio::spawn(async move {
        pipeline
            .store_stream(&place("s", true), endless(Arc::default()), Box::new(Opaque))
            .await
    });
    while !faulty.calls().iter().any(|call| call.kind == CallKind::PutPiece) {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.memory.open_uploads(), 1);
    let started = std::time::Instant::now();
    cancel.cancel();
    assert!(matches!(storing.await.unwrap(), Err(WriteError::Cancelled)));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(fixture.memory.open_uploads(), 0);
}

/// F45: a store that takes nothing stops the reader, and memory with it.
#[tokio::test(flavor = "multi_thread")]
async fn f45_a_slow_store_pushes_back_to_the_reader() {
    let fixture = Fixture::new(true);
    let faulty = Faulty::first(
        fixture.memory.clone(),
        CallKind::PutPiece,
        1000,
        Fault::Slow(Duration::from_secs(3600)),
    );
    let pipeline = fixture.pipeline_on(Store::new(faulty, Patience::RUN, 2));
    let read = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&read);
    let storing = tokio::spawn(async move { pipeline.store_stream(&place("s", true), endless(counted), Box::new(Opaque)).await });
    while read.load(Ordering::SeqCst) < (fixture.pool.bytes() / 2) as u64 {
        tokio::task::yield_now().await;
    }
    // While others get on, this one does not.
    let other = Fixture::new(true);
    for number in 0..3 {
        other
            .store_bytes(&format!("other-{number}"), &noise(20 << 20, number), Box::new(Opaque))
            .await;
    }
    let last = read.load(Ordering::SeqCst);
    // Noise of six bits shrinks to three quarters: what is read can be a third more than what the pool holds.
    let bound = (fixture.pool.bytes() * 3 / 2) as u64;
    assert!(last <= bound, "{last} bytes were read, the pool holds {}", fixture.pool.bytes());
    fixture.cancel.cancel();
    assert!(storing.await.unwrap().is_err());
}

/// However many streams there are, their buffers are those of one pool.
#[tokio::test(flavor = "multi_thread")]
async fn many_streams_share_one_pool() {
    let fixture = Fixture {
        pool: Pool::new(24 << 20, 2),
        ..Fixture::new(true)
    };
    let pipeline = fixture.pipeline_on(fixture.store());
    let raw = noise(6 << 20, 6);
    let streams: Vec<_> = (0..24)
        .map(|number| {
            let (pipeline, raw) = (pipeline.clone(), raw.clone());
            tokio::spawn(async move {
                pipeline
                    .store_stream(&place(&format!("s{number}"), true), &raw[..], Box::new(Opaque))
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut stored = Vec::new();
    for stream in streams {
        stored.push(stream.await.unwrap());
    }
    assert!(
        fixture.pool.buffers_made() * SLAB <= fixture.pool.bytes(),
        "{} buffers were made",
        fixture.pool.buffers_made()
    );
    let streams = stored.into_iter().enumerate().map(|(number, stored)| {
        let stream = stored.describe(label(&format!("s{number}")), StreamKind::PostgresqlArchive, None);
        (stored, stream)
    });
    let copy = Fixture::committed(streams.collect());
    let reader = fixture.reader(&copy);
    let readers: Vec<_> = copy
        .manifest()
        .streams
        .iter()
        .map(|stream| {
            let (reader, stream, raw) = (reader.clone(), stream.clone(), raw.clone());
            tokio::spawn(async move { assert!(read_all(&reader, &stream).await.unwrap() == raw) })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(
        fixture.pool.buffers_made() * SLAB <= fixture.pool.bytes(),
        "{} buffers were made",
        fixture.pool.buffers_made()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_early_gives_everything_back() {
    let fixture = Fixture::new(true);
    let raw = noise(20 << 20, 7);
    let (stored, stream) = fixture.store_bytes("s", &raw, Box::new(Opaque)).await;
    let copy = Fixture::committed(vec![(stored, stream.clone())]);
    let reader = fixture.reader(&copy);
    let index = reader.index(&stream).await.unwrap();
    for _ in 0..5 {
        let mut open = reader.open(&stream, &index).await.unwrap();
        assert!(open.next().await.unwrap().is_some());
    }
    assert!(read_all(&reader, &stream).await.unwrap() == raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_a_panic_in_a_check_is_the_callers_and_leaves_no_upload() {
    struct Panicking(u64);
    impl StreamCheck for Panicking {
        fn feed(&mut self, chunk: &[u8], _: &mut Vec<u64>) -> Result<(), CheckFailed> {
            self.0 += chunk.len() as u64;
            assert!(self.0 < 12 << 20, "a defect in a check");
            Ok(())
        }
        fn finish(self: Box<Self>) -> Result<Checked, CheckFailed> {
            Ok(Checked::default())
        }
    }
    let fixture = Fixture::new(true);
    let pipeline = fixture.pipeline_on(fixture.store());
    let storing = tokio::spawn(async move {
        pipeline
            .store_stream(&place("s", true), endless(Arc::default()), Box::new(Panicking(0)))
            .await
    });
    assert!(storing.await.unwrap_err().is_panic());
    tokio::time::timeout(Duration::from_secs(5), async {
        while fixture.memory.open_uploads() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("an upload stayed open");
}

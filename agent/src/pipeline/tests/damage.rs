//! What lies in the store is not what was written.

use super::*;

/// F39: whichever byte of whichever object is wrong, it is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn f39_every_flipped_byte_is_noticed() {
    for encrypted in [true, false] {
        let fixture = Fixture::new(encrypted).without_versions();
        let raw = noise(300, 1);
        let (stored, stream) = fixture.store_bytes("s", &raw, Box::new(Every { every: 100, fed: 0 })).await;
        let copy = Fixture::committed(vec![(stored, stream.clone())]);
        for (path, whole) in fixture.memory.objects() {
            let same = fixture.damaged(&path, Some(&whole));
            assert!(read_all(&same.reader(&copy), &stream).await.unwrap() == raw);
            for position in 0..whole.len() {
                let mut damaged = whole.to_vec();
                damaged[position] ^= 0x10;
                let broken = fixture.damaged(&path, Some(&damaged.into()));
                let error = read_all(&broken.reader(&copy), &stream)
                    .await
                    .expect_err("a wrong byte was not noticed");
                assert!(
                    matches!(&error, OpenError::Corrupt { object, .. } if *object == path),
                    "byte {position} of {path}: {error}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f39_truncated_missing_and_exchanged_objects_are_noticed_before_a_wrong_byte_is_handed_out() {
    for encrypted in [true, false] {
        let fixture = Fixture::new(encrypted).without_versions();
        let raw = noise(14 << 20, 2);
        let (stored, stream) = fixture.store_bytes("s", &raw, Box::new(Opaque)).await;
        let copy = Fixture::committed(vec![(stored, stream.clone())]);
        let objects = fixture.memory.objects();
        let second = &stream.parts[1].object;
        let first = &objects[&stream.parts[0].object];
        let whole = &objects[second];
        let mut flipped = whole.to_vec();
        flipped[whole.len() / 2] ^= 1;
        let damages: [Option<Bytes>; 5] = [
            None,
            Some(whole.slice(..whole.len() - 1)),
            Some(first.clone()),
            Some(flipped.into()),
            Some(Bytes::new()),
        ];
        for damage in damages {
            let reader = fixture.damaged(second, damage.as_ref()).reader(&copy);
            let index = reader.index(&stream).await.unwrap();
            let mut open = reader.open(&stream, &index).await.unwrap();
            let mut read = Vec::new();
            let error = loop {
                match open.next().await {
                    Ok(Some(bytes)) => read.extend_from_slice(&bytes),
                    Ok(None) => panic!("damage was not noticed"),
                    Err(error) => break error,
                }
            };
            assert!(raw.starts_with(&read), "a wrong byte was handed out");
            assert!(matches!(&error, OpenError::Corrupt { object, .. } if object == second), "{error}");
            let part = &stream.parts[1];
            assert!(reader.check_digest(second, part.bytes, part.sha256).await.is_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_level_of_verify_finds_what_it_promises() {
    let check_of = |every: u64| move |_: &StreamKind| Some(Box::new(Every { every, fed: 0 }) as Box<dyn StreamCheck>);
    for encrypted in [true, false] {
        let fixture = Fixture::new(encrypted).without_versions();
        let raw = noise(12 << 20, 2);
        let one = fixture
            .store_bytes("one", &raw, check_of(1 << 20)(&StreamKind::PostgresqlArchive).unwrap())
            .await;
        let two = fixture
            .store_bytes("two", &raw.slice(..99), check_of(1 << 20)(&StreamKind::PostgresqlArchive).unwrap())
            .await;
        let (part, index) = (one.1.parts[0].object.clone(), two.1.index.object.clone());
        let copy = Fixture::committed(vec![one, two]);
        let objects = fixture.memory.objects();
        for level in [Level::Manifest, Level::Digest, Level::Decode] {
            let report = verify(&fixture.reader(&copy), &copy, level, check_of(1 << 20)).await.unwrap();
            let bytes: usize = objects.values().map(Bytes::len).sum();
            assert_eq!(
                (report.objects, report.bytes, report.damaged),
                (objects.len() as u64, bytes as u64, 0),
                "{level:?}: {report:?}"
            );
        }
        for object in [part, index] {
            let whole = &objects[&object];
            let mut flipped = whole.to_vec();
            flipped[whole.len() / 2] ^= 1;
            for damage in [None, Some(whole.slice(1..)), Some(flipped.into())] {
                let broken = fixture.damaged(&object, damage.as_ref());
                for level in [Level::Manifest, Level::Digest, Level::Decode] {
                    let report = verify(&broken.reader(&copy), &copy, level, check_of(1 << 20)).await.unwrap();
                    assert_eq!(report.damaged, 1, "{level:?} of {object}: {report:?}");
                    assert!(report.damages.iter().all(|damage| damage.contains(&object)), "{report:?}");
                }
            }
        }
        // What rots behind the store's back keeps its checksum: only reading finds it.
        for level in [Level::Manifest, Level::Digest, Level::Decode] {
            let rotten = Faulty::new(fixture.memory.clone(), |call| {
                (call.kind == CallKind::Get && call.path.contains("/one/0")).then_some(Fault::Flip)
            });
            let reader = fixture.reader_on(Store::new(rotten, Patience::PROBE, 2), &copy);
            let report = verify(&reader, &copy, level, check_of(1 << 20)).await.unwrap();
            assert_eq!(report.damaged > 0, level > Level::Manifest, "{level:?}: {report:?}");
        }
        // Whole bytes, but not what the index says.
        let report = verify(&fixture.reader(&copy), &copy, Level::Decode, check_of(3 << 20))
            .await
            .unwrap();
        assert_eq!(report.damaged, 1, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_verify_cannot_look_at_is_an_error_and_no_damage() {
    let fixture = Fixture::new(false);
    let copy = Fixture::committed(vec![fixture.store_bytes("one", &noise(99, 2), Box::new(Opaque)).await]);
    for kind in [CallKind::Head, CallKind::Get] {
        let denied = StoreError::Credentials {
            call: "test",
            status: 403,
            code: "InvalidAccessKeyId".into(),
        };
        let faulty = Faulty::first(fixture.memory.clone(), kind, 1000, Fault::Before(denied));
        let reader = fixture.reader_on(Store::new(faulty, Patience::PROBE, 2), &copy);
        let error = verify(&reader, &copy, Level::Digest, |_| None).await.unwrap_err();
        assert!(matches!(error, OpenError::Store { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_reads_through_breaks_and_flips_of_the_connection() {
    let fixture = Fixture::new(true);
    let raw = noise(14 << 20, 2);
    let (stored, stream) = fixture.store_bytes("s", &raw, Box::new(Opaque)).await;
    let copy = Fixture::committed(vec![(stored, stream.clone())]);
    let faulty = Faulty::first(fixture.memory.clone(), CallKind::Get, 3, Fault::Break);
    let reader = fixture.reader_on(Store::new(faulty, Patience::PROBE, 2), &copy);
    assert!(read_all(&reader, &stream).await.unwrap() == raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_its_key_says_so() {
    let fixture = Fixture::new(true);
    let (stored, stream) = fixture.store_bytes("s", &noise(10, 2), Box::new(Opaque)).await;
    let copy = Fixture::committed(vec![(stored, stream.clone())]);
    let without = Fixture {
        memory: fixture.memory.clone(),
        ..Fixture::new(false)
    };
    assert!(matches!(
        read_all(&without.reader(&copy), &stream).await,
        Err(OpenError::KeyMissing { .. })
    ));
    let wrong = Fixture {
        memory: fixture.memory.clone(),
        ..Fixture::new(true)
    };
    assert!(matches!(
        read_all(&wrong.reader(&copy), &stream).await,
        Err(OpenError::Corrupt { .. })
    ));
}

//! Archives that a real `pg_dump` wrote, whole and cut.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::grammar::Event;
use super::{ArchiveError, Block, BlockKind, Compression, Keep, Reader, Summary, Version};
use crate::engine::postgresql::test_server::{TestServer, awkward, major};

/// The awkward database as an archive, made once.
fn archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let server = TestServer::shared();
        server.create("archive_awkward", &awkward());
        server.dump("archive_awkward", &[])
    })
}

/// A small archive: cutting it at every byte stays cheap.
fn small() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let server = TestServer::shared();
        server.create(
            "archive_small",
            "CREATE TABLE a (t text); INSERT INTO a VALUES ('1'), (E'\\n'); CREATE TABLE b (); SELECT lo_from_bytea(0, 'x'), lo_from_bytea(0, '');",
        );
        server.dump("archive_small", &[])
    })
}

#[derive(Debug, Default, PartialEq)]
struct Seen {
    borders: Vec<u64>,
    blocks: Vec<Block>,
    names: Vec<String>,
}

fn read(bytes: &[u8], sizes: &mut dyn Iterator<Item = usize>, keep: Keep) -> Result<(Summary, Seen), ArchiveError> {
    let (mut reader, mut seen, mut rest) = (Reader::new(keep), Seen::default(), bytes);
    while !rest.is_empty() {
        let (chunk, more) = rest.split_at(sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
        rest = more;
        reader.feed(chunk, |event| match event {
            Event::Border(offset) => seen.borders.push(offset),
            Event::Block(block, entry) => {
                seen.blocks.push(*block);
                seen.names.push(entry.qualified_name());
            }
        })?;
    }
    Ok((reader.finish()?, seen))
}

fn whole(bytes: &[u8]) -> Result<(Summary, Seen), ArchiveError> {
    read(bytes, &mut std::iter::empty(), Keep::DataNames)
}

#[test]
fn rows_of_every_table_are_counted_exactly() {
    let (summary, seen) = whole(archive()).unwrap();
    let named = seen.names.iter().zip(&seen.blocks).map(|(name, block)| match block.kind {
        BlockKind::LargeObjects => ("large objects".to_owned(), block.count.unwrap()),
        BlockKind::TableData => (name.clone(), block.count.unwrap()),
    });
    let counts = named.collect::<BTreeMap<_, _>>();
    let server = TestServer::shared();
    let count_all = "SELECT format('SELECT %L, count(*) FROM ONLY %I.%I;', n.nspname || '.' || c.relname, n.nspname, c.relname)
         FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')";
    let tables = server.sql("archive_awkward", &server.sql("archive_awkward", count_all));
    let split = tables.lines().map(|line| line.rsplit_once('|').unwrap());
    let mut expected = split
        .map(|(name, n)| (name.to_owned(), n.parse().unwrap()))
        .collect::<BTreeMap<_, u64>>();
    assert_eq!(expected["public.texts"], 8);
    assert_eq!(expected["public.secrets"], 100);
    assert_eq!(expected["Ünicode schema.quoted \"name\" äöü"], 17);
    expected.insert("large objects".to_owned(), 3);
    assert_eq!(counts, expected);
    let Summary::Archive(toc) = summary else { panic!("{summary:?}") };
    let minor = match major() {
        15 => 14,
        16 => 15,
        _ => 16,
    };
    assert_eq!(toc.header.version, Version { major: 1, minor });
    assert_eq!(toc.header.compression, Compression::None);
    assert_eq!(toc.header.database, b"archive_awkward");
    assert_eq!(toc.entries.len(), expected.len(), "only what has data is kept");
}

#[test]
fn borders_and_blocks_cover_the_stream_without_gaps() {
    let (summary, seen) = whole(archive()).unwrap();
    let Summary::Archive(toc) = summary else { panic!("{summary:?}") };
    assert_eq!(seen.borders[0], toc.length);
    assert_eq!(*seen.borders.last().unwrap(), archive().len() as u64);
    let ends = seen.blocks.iter().map(|block| block.offset + block.length);
    assert!(ends.eq(seen.borders[1..].iter().copied()));
    assert!(
        seen.blocks
            .iter()
            .map(|block| block.offset)
            .eq(seen.borders[..seen.borders.len() - 1].iter().copied())
    );
    assert_eq!(seen.blocks.iter().filter(|block| block.kind == BlockKind::LargeObjects).count(), 1);
}

#[test]
fn an_archive_cut_at_any_byte_is_refused() {
    assert!(whole(small()).is_ok());
    for length in 0..small().len() {
        let error = whole(&small()[..length]).expect_err(&format!("cut at {length} of {}", small().len()));
        assert!(!matches!(error, ArchiveError::Malformed { .. }), "{length}: {error}");
    }
}

#[test]
fn an_archive_cut_between_two_blocks_names_what_is_missing() {
    let (_, seen) = whole(archive()).unwrap();
    for (n, border) in seen.borders.iter().enumerate().take(seen.borders.len() - 1) {
        let error = whole(&archive()[..usize::try_from(*border).unwrap()]).unwrap_err();
        let ArchiveError::Incomplete { missing, offset, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((missing, offset), (seen.blocks.len() - n, *border));
    }
}

#[test]
fn what_is_read_single_byte_by_single_byte_is_the_same() {
    let one = read(small(), &mut std::iter::repeat(1), Keep::DataNames).unwrap();
    assert_eq!(one, whole(small()).unwrap());
}

#[test]
fn everything_kept_is_written_back_byte_for_byte() {
    let mut reader = Reader::new(Keep::Everything { limit: 1 << 24 });
    reader.feed(archive(), |_| ()).unwrap();
    let toc = reader.toc().unwrap();
    assert_eq!(toc.entries.len() as u64, toc.count);
    assert!(toc.to_bytes() == archive()[..usize::try_from(toc.length).unwrap()]);
    assert!(
        toc.entries
            .iter()
            .any(|entry| entry.kind() == b"MATERIALIZED VIEW DATA" && !entry.has_data)
    );
}

#[test]
fn a_table_of_contents_beyond_the_limit_is_refused() {
    let error = read(archive(), &mut std::iter::repeat(100), Keep::Everything { limit: 10_000 }).unwrap_err();
    assert_eq!(error, ArchiveError::TocTooLarge { limit: 10_000 });
}

#[test]
fn a_database_without_data_is_complete_with_its_toc() {
    let server = TestServer::shared();
    server.create("archive_none", "CREATE VIEW v AS SELECT 1;");
    let bytes = server.dump("archive_none", &[]);
    assert!(whole(&bytes).unwrap().1.blocks.is_empty());
    assert!(matches!(whole(&bytes[..bytes.len() - 1]), Err(ArchiveError::Truncated { .. })));
}

#[test]
fn a_compressed_archive_is_checked_without_counts() {
    let bytes = TestServer::shared();
    bytes.create("archive_gzip", "CREATE TABLE a AS SELECT generate_series(1, 1000);");
    let bytes = bytes.dump("archive_gzip", &["-Z6"]);
    let (_, seen) = whole(&bytes).unwrap();
    assert_eq!(seen.blocks.iter().map(|block| block.count).collect::<Vec<_>>(), [None]);
}

#[test]
fn an_unknown_version_is_an_opaque_stream_and_says_so() {
    let mut bytes = small().to_vec();
    bytes[6] = 17;
    let (summary, seen) = whole(&bytes).unwrap();
    assert_eq!(summary, Summary::Opaque(Version { major: 1, minor: 17 }));
    assert_eq!(seen, Seen::default());
}

#[test]
fn what_is_no_archive_is_malformed() {
    let tar = whole(b"pg_dump: error: connection failed").unwrap_err();
    assert_eq!(tar.to_string(), "the archive is malformed at byte 0: it does not begin with PGDMP");
    let mut doubled = small().to_vec();
    let (_, seen) = whole(small()).unwrap();
    let last = seen.blocks.last().unwrap();
    doubled.extend_from_slice(&small()[usize::try_from(last.offset).unwrap()..]);
    assert!(whole(&doubled).unwrap_err().to_string().contains("a second block for entry"));
    let mut rows = small().to_vec();
    let end = rows.windows(5).rposition(|window| window == b"\\.\n\n\n").unwrap();
    rows[end + 1] = b',';
    assert!(
        whole(&rows)
            .unwrap_err()
            .to_string()
            .contains("do not end with COPY's end-of-data line")
    );
    let trailing = [small(), b"\x07"].concat();
    assert!(whole(&trailing).unwrap_err().to_string().contains("a block of type 7"));
}

/// The formats of later versions, written by hand from the same archive: one byte for compression, and the kind of relation.
fn as_version(minor: u8) -> Vec<u8> {
    let mut reader = Reader::new(Keep::Everything { limit: 1 << 24 });
    reader.feed(archive(), |_| ()).unwrap();
    let mut toc = reader.toc().unwrap().clone();
    let blocks = &archive()[usize::try_from(toc.length).unwrap()..];
    toc.header.version.minor = minor;
    for entry in &mut toc.entries {
        entry.relkind = i64::from(b'r');
    }
    [&toc.to_bytes()[..], blocks].concat()
}

#[test]
fn later_versions_are_read_alike() {
    let (_, expected) = whole(archive()).unwrap();
    for minor in [15, 16] {
        let (summary, seen) = whole(&as_version(minor)).unwrap();
        assert!(matches!(summary, Summary::Archive(toc) if toc.header.version.minor == minor));
        assert_eq!(seen.names, expected.names);
        assert!(
            seen.blocks
                .iter()
                .map(|block| block.count)
                .eq(expected.blocks.iter().map(|block| block.count))
        );
    }
}

/// Archives of the same small database by pg_dump 16.14, 17.10 and 18.4, with `-Fc -Z0` into a pipe.
#[test]
fn archives_of_every_version_are_read_and_cut_anywhere_refused() {
    for (bytes, minor) in [
        (&include_bytes!("fixtures/16.14.dump")[..], 15),
        (include_bytes!("fixtures/17.10.dump"), 16),
        (include_bytes!("fixtures/18.4.dump"), 16),
    ] {
        let (summary, seen) = whole(bytes).unwrap();
        assert!(matches!(summary, Summary::Archive(toc) if toc.header.version == Version { major: 1, minor }));
        let mut counts = seen
            .blocks
            .iter()
            .map(|block| (block.kind == BlockKind::LargeObjects, block.count.unwrap()))
            .collect::<Vec<_>>();
        counts.sort_unstable();
        assert_eq!(counts, [(false, 1), (false, 2), (true, 2)]);
        assert!((0..bytes.len()).all(|length| whole(&bytes[..length]).is_err()));
        let mut reader = Reader::new(Keep::Everything { limit: 1 << 20 });
        reader.feed(bytes, |_| ()).unwrap();
        let toc = reader.toc().unwrap();
        assert!(toc.to_bytes() == bytes[..usize::try_from(toc.length).unwrap()]);
    }
}

#[test]
fn the_stock_tool_reads_a_rewritten_toc() {
    let mut reader = Reader::new(Keep::Everything { limit: 1 << 24 });
    reader.feed(archive(), |_| ()).unwrap();
    let mut toc = reader.toc().unwrap().clone();
    let length = usize::try_from(toc.length).unwrap();
    for entry in &mut toc.entries {
        entry.owner = Some(Vec::new());
    }
    let mut list = TestServer::shared()
        .tool("pg_restore")
        .arg("--list")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = list.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut stdin, &[&toc.to_bytes()[..], &archive()[length..]].concat());
    });
    let output = list.wait_with_output().unwrap();
    writer.join().unwrap();
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && listed.contains("TABLE DATA public types"), "{listed}");
    assert!(!listed.contains(" postgres\n"), "an owner is left: {listed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn chunks_may_end_anywhere(sizes in proptest::collection::vec(1_usize..5000, 1..200)) {
        let (_, seen) = read(archive(), &mut sizes.iter().copied().cycle(), Keep::DataNames).unwrap();
        prop_assert_eq!(seen, whole(archive()).unwrap().1);
    }

    #[test]
    fn a_cut_is_found_wherever_it_is(cut in 0_usize..1 << 30, sizes in proptest::collection::vec(1_usize..9000, 1..50)) {
        let length = cut % archive().len();
        prop_assert!(read(&archive()[..length], &mut sizes.iter().copied().cycle(), Keep::DataNames).is_err());
    }

    #[test]
    fn noise_never_panics(position in any::<prop::sample::Index>(), noise in proptest::collection::vec(any::<u8>(), 1..64)) {
        let mut bytes = small().to_vec();
        let at = position.index(bytes.len());
        let end = (at + noise.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&noise[..end - at]);
        let _ = read(&bytes, &mut std::iter::repeat(7), Keep::Everything { limit: 1 << 20 });
    }
}

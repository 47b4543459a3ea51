//! D3 and D8: a real PostgreSQL, its own `pg_dump`, and a volume store.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use holdfast_agent::{
    engine::postgresql::check::ArchiveCheck,
    pipeline::{Pipe, check::Opaque, pool::Pool},
    store::{
        Patience, Store,
        volume::{Volume, VolumeConfig},
    },
};
use tokio_util::io::StreamReader;

use crate::{
    Table, machine, pipeline, place, rounded, runtime, setting, sink,
    test_server::{PASSWORD, TestServer, tools},
};

const DATABASE: &str = "bench";
/// Where no control group can be made.
const NO_GROUP: &str = "none";

/// A server with the tables of pgbench and one of documents.
pub fn server(scale: usize) -> TestServer {
    eprintln!("filling a database, scale {scale}");
    let server = TestServer::start(&["shared_buffers = 256MB", "max_wal_size = 4GB", "autovacuum = off"]);
    server.create(DATABASE, "");
    let filled = server
        .tool("pgbench")
        .args(["-i", "-q", "-s", &scale.to_string(), DATABASE])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(filled.success());
    let documents = scale * 25_000;
    server.sql(
        DATABASE,
        &format!(
            "create table documents as select id, now() - id::float8 * interval '7 second' as made, md5(id::text) as token, \
             jsonb_build_object('name', 'customer ' || id % 5000, 'amount', (id::bigint * 7919) % 100000, 'tags', array[md5((id % 97)::text), 'tag' || id % 13]) as body \
             from generate_series(1, {documents}) id; vacuum analyze;"
        ),
    );
    server
}

fn dump(address: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(tools()).join("pg_dump"));
    command.args(arguments).arg(DATABASE);
    command.envs([
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &address.to_string()),
        ("PGUSER", "postgres"),
        ("PGPASSWORD", PASSWORD),
        ("PGSSLMODE", "disable"),
    ]);
    command
}

/// Dumps through the pipeline into a fresh volume store, and returns raw and stored bytes.
fn dump_through(port: u16, folder: &Path, pool: Pool) -> (u64, u64) {
    fs::create_dir_all(folder).unwrap();
    let volume = Volume::open(&VolumeConfig {
        mount: folder.to_owned(),
        path: None,
        created: None,
    })
    .unwrap();
    let pipeline = pipeline(Store::new(volume, Patience::PROBE, 4), pool, true);
    let stored = runtime().block_on(async {
        let mut child = tokio::process::Command::from(dump(port, &["-Fc", "-Z0"]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (check, _contents) = ArchiveCheck::new();
        let out = Pipe::new(child.stdout.take().unwrap());
        let stored = pipeline
            .store_stream(&place("database-1", true), out, Box::new(check))
            .await
            .unwrap();
        assert!(child.wait().await.unwrap().success());
        stored
    });
    (stored.raw.bytes, stored.parts.iter().map(|part| part.bytes).sum())
}

/// `pg_dump | zstd -1` into a file, beside the pipeline into a volume store on the same file system.
pub fn d3(table: &mut Table, server: &TestServer, rounds: usize) {
    let folder = env::temp_dir().join(format!("holdfast-d3-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut plain = dump(server.port(), &["-Fp"]).stdout(Stdio::piped()).spawn().unwrap();
    let raw = Command::new("wc").arg("-c").stdin(plain.stdout.take().unwrap()).output().unwrap();
    assert!(plain.wait().unwrap().success());
    let raw: u64 = String::from_utf8(raw.stdout).unwrap().trim().parse().unwrap();
    table.figure("d3: MiB of plain dump", rounded(raw as f64 / f64::from(1 << 20)));
    for round in 0..rounds {
        eprintln!("d3: round {} of {rounds}", round + 1);
        let file = folder.join("peer.zst");
        table.round("d3: pg_dump | zstd -1", raw, || {
            let mut dump = dump(server.port(), &["-Fp"]).stdout(Stdio::piped()).spawn().unwrap();
            let zstd = Command::new("zstd")
                .args(["-1", "-q"])
                .stdin(dump.stdout.take().unwrap())
                .stdout(File::create(&file).unwrap())
                .status();
            assert!(dump.wait().unwrap().success() && zstd.unwrap().success());
        });
        let ours = folder.join("store");
        let (_, stored) = table.round("d3: pg_dump through the pipeline", raw, || {
            dump_through(server.port(), &ours, Pool::for_memory_limit(Some(512 << 20), 1))
        });
        if round == 0 {
            table.figure(
                "d3: stored / peer's file",
                rounded(stored as f64 / fs::metadata(&file).unwrap().len() as f64),
            );
        }
        fs::remove_dir_all(&ours).unwrap();
    }
    fs::remove_dir_all(&folder).unwrap();
    table.ratio("d3: pg_dump through the pipeline", "d3: pg_dump | zstd -1");
}

/// A control group of version 1 or 2 with a limit, into which the child moves itself.
fn limited_group(bytes: u64) -> Option<PathBuf> {
    let name = format!("holdfast-d8-{}", std::process::id());
    [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        .iter()
        .find_map(|(root, limit)| {
            let group = Path::new(root).join(&name);
            fs::create_dir(&group).ok()?;
            if fs::write(group.join(limit), bytes.to_string()).is_ok() {
                return Some(group);
            }
            let _ = fs::remove_dir(&group);
            None
        })
}

/// `pg_dump` and the pipeline together in 64 MiB, and the peak of a long stream.
pub fn d8(table: &mut Table, server: &TestServer) {
    let limit = 64 << 20;
    let group = limited_group(limit);
    table.figure("d8: limited by a control group", group.is_some());
    let child = |arguments: &[String]| {
        let output = Command::new(env::current_exe().unwrap())
            .arg("d8-child")
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "the dump did not complete within {limit} bytes: {}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
    };
    let at = group.as_ref().map_or(NO_GROUP.to_owned(), |group| group.display().to_string());
    let peak = child(&[at.clone(), "dump".to_owned(), server.port().to_string()]);
    table.figure("d8: peak RSS of the agent in MiB, pg_dump beside it", rounded(peak as f64 / 1024.0));
    let gib = setting("HOLDFAST_BENCH_GIB", 8);
    for (gib, streams) in [(1, 1), (gib, 1), (1, 32)] {
        let peak = child(&[at.clone(), "stream".to_owned(), gib.to_string(), streams.to_string()]);
        table.figure(
            &format!("d8: peak RSS in MiB, {gib} GiB in {streams} streams at once"),
            rounded(peak as f64 / 1024.0),
        );
    }
    if let Some(group) = group {
        let _ = fs::remove_dir(group);
    }
}

/// Moves itself into the group, does the work, and prints its peak in KiB.
pub fn d8_child(arguments: &[String]) {
    let [group, work, rest @ ..] = arguments else {
        unreachable!("d8 gives a group and a work")
    };
    if group != NO_GROUP {
        fs::write(Path::new(group).join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }
    let pool = Pool::for_memory_limit(Some(64 << 20), 1);
    if work == "dump" {
        let folder = env::temp_dir().join(format!("holdfast-d8-{}", std::process::id()));
        dump_through(rest[0].parse().unwrap(), &folder, pool);
        fs::remove_dir_all(&folder).unwrap();
    } else {
        long_streams(rest[0].parse().unwrap(), rest[1].parse().unwrap(), pool);
    }
    println!("{}", machine::status("VmHWM:"));
}

/// So many GiB of half-noise, split over streams that all run at once.
fn long_streams(gib: u64, streams: u64, pool: Pool) {
    let pipeline = pipeline(Store::new(sink::Sink::default(), Patience::PROBE, 4), pool, true);
    runtime().block_on(async {
        let tasks: Vec<_> = (0..streams)
            .map(|number| {
                let pipeline = pipeline.clone();
                tokio::spawn(async move {
                    let mut left = (gib << 30) / streams / (64 << 10);
                    let mut state = number + 1;
                    let chunks = std::iter::from_fn(move || {
                        left = left.checked_sub(1)?;
                        let mut chunk = vec![b'x'; 64 << 10];
                        for eight in chunk.chunks_exact_mut(32) {
                            state ^= state << 13;
                            state ^= state >> 7;
                            state ^= state << 17;
                            eight[..8].copy_from_slice(&state.to_ne_bytes());
                        }
                        Some(Ok::<_, std::io::Error>(bytes::Bytes::from(chunk)))
                    });
                    let reader = StreamReader::new(futures::stream::iter(chunks));
                    pipeline
                        .store_stream(&place(&format!("s{number}"), true), reader, Box::new(Opaque))
                        .await
                        .unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

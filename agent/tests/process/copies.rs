//! `copy` as a process.

#[path = "../fixture/copy.rs"]
pub mod fixture;

use bytes::Bytes;
use holdfast_agent::store::{
    Patience, Store,
    volume::{Volume, VolumeConfig},
};
use holdfast_crds::ReplicaState;

use super::*;

/// What a container of 64 MiB can give, beside the program itself.
const MEMORY: u64 = 40 << 20;
const PIECES: usize = 24;

pub fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Leaves [`fixture::commit`]'s copy in the volume.
pub fn committed(volume: &Path, pieces: impl IntoIterator<Item = Bytes>) {
    let config = VolumeConfig {
        mount: volume.to_owned(),
        path: None,
        created: None,
    };
    let store = Store::new(Volume::open(&config).unwrap(), Patience::PROBE, 1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(fixture::commit(&store, pieces));
}

/// Several times the memory that it has is brought. It is looked at while it waits for somebody who reads its result.
#[test]
fn an_object_of_any_size_is_brought_in_a_container_of_64_mib() {
    let pod = Pod::new();
    let near = pod.path("near");
    std::fs::create_dir(&near).unwrap();
    let piece = |number: usize| Bytes::from((0..8_usize << 20).map(|at| (at * number).to_le_bytes()[1]).collect::<Vec<_>>());
    committed(&near, (1..=PIECES).map(piece));
    let store = std::fs::read_to_string(pod.store()).unwrap();
    let near_store = pod.write("near.yaml", &store.replace("disk", "near"));
    let limit = pod.write("memory-limit", &(64 << 20).to_string());
    assert!(Command::new("mkfifo").arg(pod.path("result")).status().unwrap().success());
    let mut agent = pod.agent("copy");
    agent
        .args(["--source", "shop/orders", "--cluster", "cluster-a", "--log", "json"])
        .arg("--from")
        .arg(near_store);
    agent
        .arg("--from-volume")
        .arg(&near)
        .arg("--store")
        .arg(pod.path("store.yaml"))
        .arg("--memory-limit")
        .arg(limit);
    let mut agent = agent.spawn().unwrap();
    let mut log = BufReader::new(agent.stdout.take().unwrap()).lines();
    let line = log
        .find(|line| line.as_ref().unwrap().starts_with(holdfast_crds::COPY_LINE))
        .unwrap()
        .unwrap();
    let line: holdfast_crds::CopyLine = serde_json::from_str(&line[holdfast_crds::COPY_LINE.len()..]).unwrap();
    assert_eq!((line.run.as_str(), line.state), ("orders-1", ReplicaState::Copied));
    assert!(log.any(|line| line.unwrap().contains("\"message\":\"done\"")));
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let used = field(&status, "VmHWM:") - field(&status, "RssFile:");
    let result = pod.result();
    assert!(agent.wait().unwrap().success());
    assert_eq!(
        (result.reason, result.copied.unwrap().count(ReplicaState::Copied)),
        (Reason::Succeeded, 1)
    );
    assert!(used < MEMORY, "{} MiB for {} MiB", used >> 20, PIECES * 8);
    let part = format!("{}/00001.zst", fixture::DATA);
    let same = Command::new("cmp")
        .arg(near.join(&part))
        .arg(pod.path("volume").join(&part))
        .status()
        .unwrap();
    assert!(same.success());
}

//! `keep` as a process.

use bytes::Bytes;
use holdfast_crds::KEEP_LINE;

use super::{
    copies::{committed, field, fixture},
    *,
};

/// Of as many sources.
const SOURCES: usize = 100;
/// What a pass may use, beside the program itself: a quarter of the container that it has by default.
const MEMORY: u64 = 128 << 20;

/// As many copies as `HOLDFAST_COPIES` says (by default 2 000; `make test-nightly` has 50 000) are looked after in the memory of a small container.
#[test]
fn a_pass_over_many_copies_needs_little_memory() {
    let wanted = std::env::var("HOLDFAST_COPIES").map_or(2_000, |count| count.parse::<usize>().unwrap());
    let pod = Pod::new();
    let volume = pod.path("volume");
    committed(&volume, [Bytes::from_static(b"a part")]);
    let each = wanted / SOURCES;
    multiply(&volume, each);

    let now = jiff::Timestamp::now();
    let task = json!({
        "version": holdfast_crds::TASK_VERSION, "cluster": "cluster-a", "namespace": "shop",
        "store": {"name": "near", "uid": "uid-near", "spec": {"volume": {"claimName": "backups"}, "encryption": {"none": {}}}},
        "action": {"keep": {"now": now.to_string()}},
    });
    let task = pod.write("task.json", &task.to_string());
    assert!(Command::new("mkfifo").arg(pod.path("result")).status().unwrap().success());
    let mut agent = pod.agent("keep").args(["--log", "json", "--task"]).arg(task).spawn().unwrap();
    let mut log = BufReader::new(agent.stdout.take().unwrap()).lines().map(Result::unwrap);
    let reports = log
        .by_ref()
        .take_while(|line| !line.contains("\"message\":\"done\""))
        .filter(|line| line.starts_with(KEEP_LINE))
        .count();
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let used = field(&status, "VmHWM:") - field(&status, "RssFile:");
    let result = pod.result();
    assert!(agent.wait().unwrap().success());
    let kept = result.kept.unwrap();
    println!(
        "{} copies, {} MiB, {:?}",
        kept.copies,
        used >> 20,
        now.duration_until(jiff::Timestamp::now())
    );
    assert_eq!(
        (result.reason, kept.copies),
        (Reason::Succeeded, i64::try_from(each * SOURCES + 1).unwrap())
    );
    assert!(reports > SOURCES, "{reports} lines of {SOURCES} sources");
    assert!(used < MEMORY, "{} MiB", used >> 20);
}

/// The copy becomes many of other sources, an hour apart.
fn multiply(volume: &Path, each: usize) {
    let data = volume.join(fixture::DATA);
    let outcome = std::fs::read_to_string(volume.join("catalog/shop/orders/orders-1/outcome.json")).unwrap();
    let copy: Value = serde_json::from_str(&outcome).unwrap();
    let point = copy["manifest"]["recoveryPoint"].as_str().unwrap();
    let now: jiff::Timestamp = point.parse().unwrap();
    for source in 0..SOURCES {
        let name = format!("orders{source}");
        for number in 0..each {
            let run = format!("{name}-{number}");
            let then = now - jiff::SignedDuration::from_hours(i64::try_from(number).unwrap());
            let outcome = outcome
                .replace("orders-1", &run)
                .replace("\"orders\"", &format!("\"{name}\""))
                .replace("shop/orders/", &format!("shop/{name}/"))
                .replace(point, &then.to_string());
            let catalog = volume.join(format!("catalog/shop/{name}/{run}"));
            std::fs::create_dir_all(&catalog).unwrap();
            std::fs::write(catalog.join("outcome.json"), outcome).unwrap();
            let to = volume.join(format!("data/shop/{name}/{run}/pod-1/database-1"));
            std::fs::create_dir_all(&to).unwrap();
            for file in ["00001.zst", "index.zst"] {
                std::fs::hard_link(data.join(file), to.join(file)).unwrap();
            }
        }
    }
}

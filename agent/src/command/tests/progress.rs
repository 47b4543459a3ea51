//! The line that tells how far a long command is.

use std::sync::Mutex;

use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::command::copy::{self, Found};
use crate::command::verify::{LevelArg, look_at};
use crate::store::faulty::{Call, CallKind};

/// Lines of the log, as a Job writes them.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Lines {
    /// The progress lines of a phase.
    fn of(&self, phase: &str) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].clone());
        lines
            .filter(|line| line["message"] == "progress" && line["phase"] == phase)
            .collect()
    }
}

/// The scene's store, which has a line logged whenever data is put or read.
fn telling(scene: &Scene, progress: &Progress) -> Store {
    let progress = progress.clone();
    let plan = move |call: &Call| {
        if call.path.starts_with("data/") && matches!(call.kind, CallKind::Create | CallKind::Get) {
            progress.tell();
        }
        None
    };
    Store::new(Faulty::new(scene.memory.clone(), plan), Patience::PROBE, 2)
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_else(|| panic!("no {field} in {line}"))
}

/// Whether any line shows how fast it goes.
fn flows(lines: &[Value]) -> bool {
    lines.iter().any(|line| number(line, "bytesPerSecond") > 0)
}

#[tokio::test]
async fn each_phase_tells_its_own_bytes_and_how_fast_they_go() {
    let scene = Scene::new();
    for database in ["line a", "line b"] {
        scene.server.create(database, &awkward());
    }
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);

    let task = scene.backup_task("run-1", &["line *"], &nothing());
    let invocation = scene.invocation("pod-1", Action::Backup(task.clone()));
    let store = telling(&scene, &invocation.progress);
    backup::run_with(&invocation, &task, &store).await.unwrap();
    let copied = lines.of("copy");
    let last = copied.last().unwrap();
    assert!(last["subject"].is_string() && flows(&copied), "{copied:?}");
    assert!(
        number(last, "readBytes") > 0 && number(last, "storedBytes") > 0 && number(last, "expectedBytes") > 0,
        "{last}"
    );

    let run = RunPath::new("shop", "shop", "run-1").unwrap();
    let (copy, _) = copy::find(&scene.store(), &run).await.unwrap();
    let archives = copy.manifest().streams.iter().filter(|stream| stream.database.is_some());
    let parts: Vec<_> = archives
        .clone()
        .map(|stream| stream.parts.iter().map(|part| part.bytes).sum::<u64>())
        .collect();
    let raw: u64 = archives.map(|stream| stream.raw.bytes).sum();
    for database in ["line a", "line b"] {
        scene.server.sql("postgres", &format!("DROP DATABASE \"{database}\" WITH (FORCE)"));
    }
    let task = scene.restore_task("line", "run-1", &nothing());
    let invocation = scene.invocation("pod-2", Action::Restore(task.clone()));
    let store = telling(&scene, &invocation.progress);
    restore::run_with(&invocation, &task, &store).await.unwrap();
    // As the second of two archives is asked for, the first was read: once for its digest, and once more to be loaded.
    let compared = lines.of("digests");
    let last = compared.last().unwrap();
    assert_eq!(
        (
            number(last, "readBytes"),
            number(last, "storedBytes"),
            number(last, "expectedBytes")
        ),
        (0, parts[0], parts.iter().sum()),
        "{compared:?}"
    );
    assert!(number(last, "bytesPerSecond") > 0 && last["secondsLeft"].is_u64(), "{last}");
    let loaded = lines.of("load");
    let last = loaded.last().unwrap();
    assert_eq!(
        (
            number(&loaded[0], "storedBytes"),
            number(last, "storedBytes"),
            number(last, "expectedBytes")
        ),
        (0, parts[0], raw),
        "{loaded:?}"
    );
    assert!(number(last, "readBytes") > 0 && number(last, "readBytes") < raw, "{last}");

    let found = Found {
        store: store.clone(),
        run,
        copy,
    };
    let identity = scene.places().identity;
    for level in [LevelArg::Digest, LevelArg::Decode] {
        lines.0.lock().unwrap().clear();
        let progress = Progress::default();
        let found = Found {
            store: telling(&scene, &progress),
            run: found.run.clone(),
            copy: found.copy.clone(),
        };
        look_at(&found, level, &identity, CancellationToken::new(), &progress)
            .await
            .unwrap();
        let seen = lines.of("verify");
        let last = seen.last().unwrap();
        let stored: u64 = found.copy.stored().iter().map(|object| object.bytes).sum();
        let all: u64 = found.copy.manifest().streams.iter().map(|stream| stream.raw.bytes).sum();
        let (read, expected) = (number(last, "readBytes"), number(last, "expectedBytes"));
        assert_eq!(
            (read > 0, expected),
            (level == LevelArg::Decode, if level == LevelArg::Decode { all } else { stored }),
            "{last}"
        );
        assert!(number(last, "storedBytes") > 0 && number(last, "storedBytes") < stored, "{last}");
        assert!(flows(&seen), "{seen:?}");
    }
}

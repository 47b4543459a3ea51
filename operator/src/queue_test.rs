use std::{collections::BTreeMap, sync::atomic::AtomicUsize};

use futures::future::pending;
use tokio::sync::{mpsc, oneshot};

use super::*;

fn key(name: &str) -> Key {
    Key::new("n", name)
}

/// Answers by a script, and tells what it was called for.
struct Scripted {
    calls: mpsc::UnboundedSender<(Key, Instant)>,
    answers: Mutex<BTreeMap<String, VecDeque<Result<Next, Error>>>>,
    /// Names that never come back.
    stuck: &'static str,
    at_once: AtomicUsize,
}

impl Reconcile for Scripted {
    const KIND: &'static str = "Scripted";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        use std::sync::atomic::Ordering;
        self.at_once.fetch_add(1, Ordering::SeqCst);
        self.calls.send((key.clone(), Instant::now())).unwrap();
        if key.name == self.stuck {
            pending::<()>().await;
        }
        assert!(key.name != "panics", "on purpose");
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        self.answers
            .lock()
            .unwrap()
            .get_mut(&key.name)
            .and_then(VecDeque::pop_front)
            .unwrap_or(Ok(Next::Change))
    }
}

struct Running {
    queue: Queue,
    calls: mpsc::UnboundedReceiver<(Key, Instant)>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    reconciler: Arc<Scripted>,
    began: Instant,
}

type Script = (&'static str, fn() -> Vec<Result<Next, Error>>);

fn start(stuck: &'static str, answers: &[Script]) -> Running {
    let (send, calls) = mpsc::unbounded_channel();
    let reconciler = Arc::new(Scripted {
        calls: send,
        answers: Mutex::new(
            answers
                .iter()
                .map(|(name, answers)| ((*name).to_owned(), answers().into()))
                .collect(),
        ),
        stuck,
        at_once: AtomicUsize::new(0),
    });
    let queue = Queue::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(run(reconciler.clone(), queue.clone(), Metrics::new().unwrap(), async move {
        let _ = stopped.await;
    }));
    Running {
        queue,
        calls,
        stop,
        task,
        reconciler,
        began: Instant::now(),
    }
}

impl Running {
    /// Names and seconds since the start of the next calls.
    async fn next(&mut self, count: usize) -> Vec<(String, u64)> {
        let mut calls = Vec::new();
        for _ in 0..count {
            let (key, at) = self.calls.recv().await.unwrap();
            calls.push((key.name, at.duration_since(self.began).as_secs()));
        }
        calls
    }
}

fn seen(calls: &[(&str, u64)]) -> Vec<(String, u64)> {
    calls.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect()
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_by_object_and_end_with_success() {
    let mut running = start(
        "",
        &[("a", || {
            let transient = || Err(Error::Deadline(DEADLINE));
            vec![
                transient(),
                transient(),
                transient(),
                Ok(Next::After(Duration::from_secs(100))),
                transient(),
                Ok(Next::Change),
            ]
        })],
    );
    running.queue.add(key("a"));
    assert_eq!(
        running.next(6).await,
        seen(&[("a", 0), ("a", 1), ("a", 3), ("a", 7), ("a", 107), ("a", 108)])
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_or_panics_stops_no_other() {
    let mut running = start("stuck", &[]);
    for name in ["stuck", "panics", "a"] {
        running.queue.add(key(name));
    }
    let mut first = running.next(3).await;
    first.sort();
    assert_eq!(first, seen(&[("a", 0), ("panics", 0), ("stuck", 0)]));
    // The panic is tried again after a second, the one that hangs after its deadline.
    let later = running.next(7).await;
    assert!(later.contains(&("panics".to_owned(), 1)), "{later:?}");
    assert!(later.contains(&("stuck".to_owned(), 61)), "{later:?}");
}

#[tokio::test(start_paused = true)]
async fn at_most_sixteen_run_at_once() {
    let mut running = start("", &[]);
    for n in 0..100 {
        running.queue.add(key(&format!("a{n}")));
    }
    running.next(100).await;
    assert_eq!(running.reconciler.at_once.load(std::sync::atomic::Ordering::SeqCst), 0);
    let mut stuck = start("same", &[]);
    stuck.queue.add(key("same"));
    stuck.next(1).await;
    // Added while it runs: not a second time at once, but again after its end.
    stuck.queue.add(key("same"));
    stuck.queue.add(key("same"));
    assert_eq!(stuck.queue.depth(), 1);
    assert_eq!(stuck.next(1).await, seen(&[("same", 60)]));
}

#[tokio::test(start_paused = true)]
async fn bursts_are_collected_and_the_earlier_time_counts() {
    let mut running = start("", &[]);
    running.queue.add_after(key("a"), Duration::from_secs(30));
    running.queue.add_after(key("a"), Duration::from_secs(5));
    running.queue.add_after(key("a"), Duration::from_secs(50));
    running.queue.add_after(key("b"), Duration::from_secs(60));
    assert_eq!(running.next(2).await, seen(&[("a", 5), ("b", 60)]));
}

#[tokio::test(start_paused = true)]
async fn what_is_collected_need_not_be_waited_for_once_it_is_complete() {
    let mut running = start("", &[]);
    running.queue.add_after(key("a"), Duration::from_secs(30));
    running.queue.add_after(key("b"), Duration::from_secs(60));
    running.queue.hasten();
    assert_eq!(running.next(2).await, seen(&[("a", 0), ("b", 0)]));
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_what_runs_end_and_begins_nothing() {
    let mut running = start("stuck", &[]);
    running.queue.add(key("stuck"));
    running.next(1).await;
    running.stop.send(()).unwrap();
    tokio::task::yield_now().await;
    running.queue.add(key("a"));
    running.task.await.unwrap();
    assert_eq!(running.began.elapsed(), DEADLINE);
    assert!(running.calls.try_recv().is_err());
}

#[test]
fn the_wait_grows_to_its_limit() {
    assert_eq!(backoff(0), Duration::from_secs(1));
    assert_eq!(backoff(5), Duration::from_secs(32));
    assert_eq!(backoff(40), Duration::from_secs(300));
}

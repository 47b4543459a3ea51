//! `copy`: fills a store with the copies of a source, out of another store that has them, byte for byte: neither a database nor a key is
//! needed. It goes by what it reads in the two stores, so that whatever interrupts it, the next one goes on where it was.

mod bring;
mod choose;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use holdfast_crds::document::{Label, RunPath};
use holdfast_crds::{
    Action, AgentResult, BackupStore, BackupType, COPY_LINE, COPY_LINES, COPY_RUNS, CopyLine, CopyPass, CopyTask, Encryption, Reason,
    ReplicaState, TASK_VERSION, Task,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::bring::Bringer;
use self::choose::{Catalogue, Sides, Standing};
use super::backup::{freeze, invalid, or_stopped, time};
use super::keep::inventory::SourceFolder;
use super::keep::read;
use super::keep::report::Report;
use super::lines::Lines;
use super::place;
use crate::config::{Invocation, Places, read_document, read_task};
use crate::result::{Failure, count, plain, shorten};
use crate::store::{Patience, Pinned, Store};

/// How many documents are read at once: what a container of 64 MiB can hold.
const PARALLEL: usize = 4;
/// How many copies in a row may fail by a store before the pass ends.
const FAILURES: u32 = 2;
/// How long what is stopped may take to end in order.
const END_WITHIN: Duration = Duration::from_secs(15);
/// The time that a pass by hand has.
const BY_HAND: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// Bring copies from one store into another, byte for byte
///
/// Neither a database nor a key is needed: what is encrypted stays so, to whom it was. What the store has is left as it is; what it removed or gave up is not brought back. May be interrupted and run again at any time.
/// In a Job's pod the task comes from the operator. By hand, give the manifests of both stores as kubectl applies them, and a directory for the Secret of each.
#[derive(Debug, Args)]
#[command(
    name = "copy",
    after_help = "EXAMPLE
    All copies of source orders of namespace shop, from store near.yaml into store far.yaml; first what would be done, then in earnest:
        holdfast-agent copy --source shop/orders --from near.yaml --from-secret ./near --store far.yaml --store-secret ./far \\
            --cluster $(kubectl get ns kube-system -o jsonpath={.metadata.uid}) --result - --preview
        holdfast-agent copy --source shop/orders … --result -
    ./near and ./far hold access_key_id and secret_access_key: one file each. Reading needs the rights of a reader, filling those of a writer.
    One line for each copy begins with holdfast-copy and tells its state: Copied, Present, Missing (in a preview: would be brought), or why it is not brought."
)]
pub struct ReplicateArgs {
    /// Manifest of the BackupStore that is filled, instead of a task
    #[arg(long, value_name = "FILE", requires = "from", requires = "source")]
    pub store: Option<PathBuf>,
    /// Manifest of the BackupStore that is read
    #[arg(long, value_name = "FILE", requires = "store")]
    pub from: Option<PathBuf>,
    /// The source, as <namespace>/<name>
    #[arg(long, value_name = "SOURCE", requires = "store")]
    pub source: Option<String>,
    /// Only this run, and what its copy needs; may be given several times
    #[arg(long = "run", value_name = "RUN", requires = "store")]
    pub runs: Vec<String>,
    /// Only copies of this type, and what they need: Full, Differential, Incremental or Log; may be given several times
    #[arg(long = "type", value_name = "TYPE", requires = "store", value_parser = type_of)]
    pub types: Vec<BackupType>,
    /// Write nothing, only tell what would be brought
    #[arg(long, requires = "store")]
    pub preview: bool,
    /// Id of the cluster that owns the place in the store that is filled
    #[arg(long, default_value = "by-hand")]
    pub cluster: String,
    /// Where files lie
    #[command(flatten)]
    pub places: Places,
}

fn type_of(text: &str) -> Result<BackupType, String> {
    let all = [BackupType::Full, BackupType::Differential, BackupType::Incremental, BackupType::Log];
    let found = all.into_iter().find(|known| known.to_string() == text);
    found.ok_or_else(|| "expected Full, Differential, Incremental or Log".to_owned())
}

impl ReplicateArgs {
    /// The task: read, or made from manifests.
    pub fn task(&self) -> Result<Task, Failure> {
        let (Some(store), Some(from), Some(source)) = (&self.store, &self.from, &self.source) else {
            return read_task(&self.places.task);
        };
        let refused = |problem: String| Failure::new(Reason::InvalidSpec, problem);
        let Some((namespace, source)) = source.split_once('/') else {
            return Err(refused(format!("--source: found {source:?}, expected <namespace>/<name>")));
        };
        let label = |what, text: &str| Label::new(what, text).map_err(|error| refused(error.to_string()));
        let store: BackupStore = read_document("the BackupStore that is filled", store)?;
        let from: BackupStore = read_document("the BackupStore that is read", from)?;
        let now = Timestamp::now();
        let copy = CopyTask {
            namespace: label("namespace", namespace)?,
            source: label("source", source)?,
            from: freeze(from),
            types: self.types.clone(),
            runs: self.runs.iter().map(|run| label("run", run)).collect::<Result<_, _>>()?,
            schedules: Vec::new(),
            floors: Vec::new(),
            disposals: Vec::new(),
            preview: self.preview,
            now: now.to_string(),
            not_after: (now + BY_HAND).to_string(),
        };
        Ok(Task {
            version: TASK_VERSION,
            cluster: self.cluster.clone(),
            namespace: store.metadata.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
            store: freeze(store),
            action: Action::Copy(Box::new(copy)),
        })
    }
}

/// Opens both stores and fills the task's.
pub async fn run(invocation: &Invocation, task: &CopyTask) -> Result<AgentResult, Failure> {
    let from = place::open_from(invocation, task, Patience::RUN).map_err(|failure| failure.while_doing("the store that is read"))?;
    let to = place::open(invocation, Patience::RUN)?;
    run_with(invocation, task, (&from, &to), Lines::to_stdout(COPY_LINE)).await
}

/// Fills one open store from another. However it ends once the task was understood, the result tells how far it got.
pub async fn run_with(
    invocation: &Invocation,
    task: &CopyTask,
    (from, to): (&Store, &Store),
    lines: Lines,
) -> Result<AgentResult, Failure> {
    if task.runs.len() > COPY_RUNS {
        let found = task.runs.len();
        return Err(invalid(&format!("runs has {found} names, expected at most {COPY_RUNS}")));
    }
    let mut pass = Pass {
        invocation,
        task,
        from,
        to,
        not_after: time("notAfter", &task.not_after)?,
        stop: invocation.cancel.child_token(),
        lines,
        summary: CopyPass::default(),
        newest: None,
        problem: None,
    };
    let ended = pass.within_its_time().await;
    if pass.stop.is_cancelled() {
        let left = tokio::time::timeout(Duration::from_secs(3), to.abort_open()).await;
        tracing::debug!(?left, "uploads under way were aborted");
    }
    Ok(pass.end(ended))
}

/// One pass.
struct Pass<'a> {
    invocation: &'a Invocation,
    task: &'a CopyTask,
    from: &'a Store,
    to: &'a Store,
    not_after: Timestamp,
    /// Ends everything under way: with the invocation, or with the pass's time.
    stop: CancellationToken,
    lines: Lines,
    summary: CopyPass,
    /// The newest copy that is there: by recovery point.
    newest: Option<(Timestamp, Label)>,
    /// The first copy that a person has to look into.
    problem: Option<(Label, Standing)>,
}

impl<'a> Pass<'a> {
    async fn within_its_time(&mut self) -> Result<(), Failure> {
        let (stop, not_after) = (self.stop.clone(), self.not_after);
        let time_left = Duration::try_from(not_after.duration_since(Timestamp::now())).unwrap_or_default();
        let mut work = pin!(self.work());
        tokio::select! {
            result = &mut work => return result,
            () = tokio::time::sleep(time_left) => stop.cancel(),
        }
        match tokio::time::timeout(END_WITHIN, work).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Failure::new(
                Reason::DeadlineExceeded,
                format!("the time of the pass ended at {not_after}; the next one goes on where it was"),
            )),
        }
    }

    /// The recipe.
    async fn work(&mut self) -> Result<(), Failure> {
        let stop = self.stop.clone();
        let progress = self.invocation.progress.clone();
        progress.enter("owner", &self.invocation.task.store.name);
        let pinned = if self.task.preview {
            None
        } else {
            Some(or_stopped(&stop, self.pin()).await?)
        };
        let place = format!("{}/{}", self.task.namespace, self.task.source);
        progress.enter("catalogue", &place);
        let (sides, order) = or_stopped(&stop, self.choose()).await?;
        let missing = |(_, standing): &&(Label, Standing)| standing.state == ReplicaState::Missing;
        let expected = order.iter().filter(missing).filter_map(|(run, _)| sides.from.copy(run));
        progress.expect("copy", expected.map(|copy| copy.bytes).sum());
        let bringer = pinned.map(|pinned| Bringer::new(self, &sides, pinned));
        let mut order = order.into_iter();
        let mut states = std::collections::HashMap::new();
        let (mut failure, mut in_a_row) = (None, 0);
        for (run, mut standing) in order.by_ref() {
            let mut version = None;
            if let (ReplicaState::Missing, Some(bringer)) = (standing.state, &bringer) {
                progress.enter("copy", run.as_str());
                match bringer.bring(&run, &states).await {
                    Ok(brought) => {
                        in_a_row = 0;
                        (standing, version) = brought;
                    }
                    Err(found) => {
                        in_a_row += 1;
                        standing = Standing::problem(ReplicaState::Missing, found.reason, &found.message);
                        let ends = found.ends_the_pass() || in_a_row == FAILURES;
                        tracing::warn!(%run, reason = %found.reason, why = found.message, "a copy could not be brought");
                        failure.get_or_insert(found.failure());
                        if ends {
                            self.tell(&sides, &run, standing, None);
                            break;
                        }
                    }
                }
            }
            states.insert(run.clone(), standing.state);
            self.tell(&sides, &run, standing, version);
        }
        for (run, standing) in order {
            self.tell(&sides, &run, standing, None);
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Pins who may write to the store that is filled: another owner later stops the commit.
    async fn pin(&mut self) -> Result<Pinned, Failure> {
        let Task {
            cluster, namespace, store, ..
        } = &self.invocation.task;
        let claimed = self.to.claim(cluster, &store.holder(namespace)).await;
        let pinned = claimed.map_err(|error| Failure::new(error.reason(), error.to_string()))?;
        self.summary.epoch = count(pinned.epoch());
        Ok(pinned)
    }

    /// Reads both catalogues, and decides what is to be brought in which order.
    async fn choose(&self) -> Result<(Sides<'a>, Vec<(Label, Standing)>), Failure> {
        let task = self.task;
        let read = async |only: &[Label]| -> Result<Sides<'a>, Failure> {
            let from = catalogue(self.from, task, only).await;
            let from = from.map_err(|failure| failure.while_doing("read the store that has the copies"))?;
            let to = catalogue(self.to, task, only).await;
            let to = to.map_err(|failure| failure.while_doing("read the store that is filled"))?;
            let encrypts = !matches!(self.invocation.task.store.spec.encryption, Encryption::None(_));
            Ok(Sides::new(task, encrypts, from, to))
        };
        let mut sides = read(&task.runs).await?;
        let needy = |run: &Label| sides.from.copy(run).is_some_and(|copy| !copy.parents.is_empty());
        if task.runs.iter().any(needy) {
            sides = read(&[]).await?;
        }
        let mut order = sides.order();
        if task.runs.is_empty() {
            // What is wrong with records of the source is for the keeper to tell.
            let mut unheard = Report::new(Box::new(|_| {}));
            let words = read::words(self.to, &sides.to.folder, &mut unheard).await?;
            let ours = Timestamp::now();
            let now = self.to.now().map_or(ours, |stores| stores.min(ours));
            sides.keep(&mut order, &words, now);
        }
        Ok((sides, order))
    }

    /// Counts a copy and tells of it.
    fn tell(&mut self, sides: &Sides<'_>, run: &Label, standing: Standing, version: Option<String>) {
        let Standing { state, reason, message } = &standing;
        *self.summary.counts.entry(*state).or_default() += 1;
        let copy = sides.from.copy(run).or_else(|| sides.to.copy(run));
        let bytes = copy.map_or(0, |copy| count(copy.bytes));
        if *state == ReplicaState::Copied {
            self.summary.bytes = self.summary.bytes.saturating_add(bytes);
            tracing::info!(%run, bytes, "a copy was brought");
        }
        if let Some(copy) = copy.filter(|_| state.is_there()) {
            self.newest = self.newest.take().max(Some((copy.recovery_point, run.clone())));
        }
        if self.lines.count() < COPY_LINES as u64 {
            let line = CopyLine {
                run: run.to_string(),
                state: *state,
                reason: *reason,
                type_: copy.map(|copy| copy.kind.clone()),
                recovery_point: copy.map(|copy| copy.recovery_point.to_string()),
                bytes,
                manifest_digest: copy.map(|copy| copy.manifest_digest.to_string()),
                version_id: version.or_else(|| state.is_there().then(|| sides.to.version(run)).flatten()),
                message: message.as_ref().map(|message| shorten(message, 512)),
            };
            if let Err(length) = self.lines.add(&line) {
                tracing::warn!(%run, length, "a line was left out of the report");
            }
        }
        if state.is_problem() && self.problem.is_none() {
            self.problem = Some((run.clone(), standing));
        }
    }

    fn end(self, ended: Result<(), Failure>) -> AgentResult {
        let mut summary = self.summary;
        (summary.lines, summary.sha256) = self.lines.finish();
        summary.complete = ended.is_ok();
        if let Some((recovery_point, run)) = self.newest {
            summary.newest = Some(run.to_string());
            summary.newest_recovery_point = Some(recovery_point.to_string());
        }
        let counts: Vec<_> = summary.counts.iter().map(|(state, count)| format!("{count} {state:?}")).collect();
        let told = if counts.is_empty() {
            "no copies".to_owned()
        } else {
            counts.join(", ")
        };
        let (reason, message) = match (ended, self.problem) {
            (Err(failure), _) => (failure.reason, format!("{}; so far {told}", failure.message)),
            (Ok(()), Some((run, problem))) => {
                let why = problem.message.unwrap_or_default();
                let message = format!("{told}; the first that needs a person: {run} is {:?}: {why}", problem.state);
                (problem.reason.unwrap_or(Reason::CopyCorrupt), message)
            }
            (Ok(()), None) => (Reason::Succeeded, told),
        };
        AgentResult {
            copied: Some(summary),
            ..plain(reason, message)
        }
    }
}

/// What a store has of the source, or of these runs of it.
async fn catalogue(store: &Store, task: &CopyTask, only: &[Label]) -> Result<Catalogue, Failure> {
    let folder = SourceFolder::catalogue(store, &task.namespace, &task.source, only).await?;
    let runs = read::runs(store, &folder, PARALLEL).await?;
    Ok(Catalogue { folder, runs })
}

fn path(task: &CopyTask, run: &Label) -> RunPath {
    RunPath {
        namespace: task.namespace.clone(),
        source: task.source.clone(),
        run: run.clone(),
    }
}

//! The commands of the agent. Each reads like a recipe; this file is how all of them begin and end.

pub mod backup;
pub mod copy;
pub mod decrypt;
mod history;
pub mod install;
pub mod keep;
pub mod key;
pub mod lines;
pub mod place;
pub mod probe;
pub mod rekey;
mod removed;
pub mod replicate;
pub mod restore;
pub mod settle;
pub mod verify;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use holdfast_crds::{Action, AgentResult, Reason, Task};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{Invocation, Places, for_command, read_task};
use crate::progress::Progress;
use crate::result::{Failure, leave, plain};

/// How long a command has to end in order once it was asked to stop: Kubernetes and the design give it five seconds.
const STOP_WITHIN: Duration = Duration::from_millis(4500);
/// Threads of the runtime: they mostly wait. Compression has threads of its own.
const WORKERS: usize = 2;

/// Makes, checks and restores copies of databases. The same binary works in the pods of Holdfast's Jobs and by hand.
#[derive(Debug, Parser)]
#[command(
    name = "holdfast-agent",
    version,
    after_help = "EXAMPLES
    By hand, with the manifests that kubectl applies and a directory for each Secret:
        holdfast-agent backup --store store.yaml --source source.yaml --run by-hand-1 --store-secret ./s3 --login ./db
        holdfast-agent verify --help
        holdfast-agent copy --help
        holdfast-agent restore --store store.yaml --request restore.yaml --store-secret ./s3 --login ./db --identity ./key

EXIT CODE
    0 if the work is done (or was done before), else the number of the reason that the last line names;
    docs/reasons.md says for each what happened and what to do."
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// How to log: lines of JSON, or text; by default text on a terminal
    #[arg(long, global = true, value_enum)]
    pub log: Option<LogFormat>,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// For people.
    Text,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Install(install::InstallArgs),
    Key(key::KeyArgs),
    Backup(Box<backup::BackupArgs>),
    Restore(Box<restore::RestoreArgs>),
    Verify(Box<verify::VerifyArgs>),
    Decrypt(Box<decrypt::DecryptArgs>),
    Rekey(Box<rekey::RekeyArgs>),
    Probe(Box<probe::ProbeArgs>),
    Settle(Box<settle::SettleArgs>),
    Keep(Box<keep::KeepArgs>),
    Copy(Box<replicate::ReplicateArgs>),
    /// Ask a target whether it has the receipt of a restore
    SettleRestore(Box<settle::SettleArgs>),
}

/// Runs a command to its exit code. Help goes to stdout; what cannot be understood is an [`Reason::InvalidSpec`].
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // There is nobody to tell where even this cannot be printed.
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { Reason::InvalidSpec.exit_code() } else { 0 });
        }
    };
    // What decrypt writes to standard output is data.
    // … and so is what a preview tells.
    let tells = matches!(&cli.command, Command::Decrypt(_)) || matches!(&cli.command, Command::Keep(keep) if keep.preview);
    start_log(cli.log, tells);
    if let Err(error) = rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    ) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return end(&plain(Reason::InternalError, format!("start the runtime: {error}")), None),
    };
    let (result, places) = match cli.command {
        Command::Install(arguments) => {
            let result = match install::run(&arguments) {
                Ok(()) => plain(Reason::Succeeded, "installed"),
                Err(error) => plain(Reason::ContainerStartFailed, error.to_string()),
            };
            (result, None)
        }
        Command::Key(arguments) => (
            run(&runtime, read_task(&arguments.places.task), &arguments.places, key::run),
            Some(arguments.places),
        ),
        Command::Backup(arguments) => (
            begin(&runtime, "backup", arguments.task(), &arguments.places),
            Some(arguments.places),
        ),
        Command::Restore(arguments) => (
            begin(&runtime, "restore", arguments.task(), &arguments.places),
            Some(arguments.places),
        ),
        Command::Verify(arguments) => (
            by_hand(&runtime, |cancel, progress| verify::run(*arguments, cancel, progress)),
            None,
        ),
        Command::Decrypt(arguments) => (
            by_hand(&runtime, |cancel, progress| decrypt::run(*arguments, cancel, progress)),
            None,
        ),
        Command::Rekey(arguments) => (by_hand(&runtime, |cancel, progress| rekey::run(*arguments, cancel, progress)), None),
        Command::Probe(arguments) => (
            begin(&runtime, "probe", arguments.task(), &arguments.places),
            Some(arguments.places),
        ),
        Command::Settle(arguments) => (
            begin(&runtime, "settle", read_task(&arguments.places.task), &arguments.places),
            Some(arguments.places),
        ),
        Command::Keep(arguments) if arguments.preview => {
            let (output, gate) = (arguments.output, arguments.fail_on_removal);
            let previewed = move |invocation: Arc<Invocation>| async move { keep::preview::run(&invocation, output, gate).await };
            (run(&runtime, arguments.task(), &arguments.places, previewed), None)
        }
        Command::Keep(arguments) => (begin(&runtime, "keep", arguments.task(), &arguments.places), Some(arguments.places)),
        Command::Copy(arguments) => (begin(&runtime, "copy", arguments.task(), &arguments.places), Some(arguments.places)),
        Command::SettleRestore(arguments) => (
            begin(&runtime, "settle-restore", read_task(&arguments.places.task), &arguments.places),
            Some(arguments.places),
        ),
    };
    // What still runs in blocking threads holds nothing that matters.
    runtime.shutdown_background();
    end(&result, places.as_ref())
}

/// Runs the task of the command with this name.
fn begin(runtime: &Runtime, name: &str, task: Result<Task, Failure>, places: &Places) -> AgentResult {
    run(runtime, task.and_then(|task| for_command(name, task)), places, dispatch)
}

async fn dispatch(invocation: Arc<Invocation>) -> Result<AgentResult, Failure> {
    match &invocation.task.action {
        Action::Backup(task) => backup::run(&invocation, task).await,
        Action::Restore(task) => restore::run(&invocation, task).await,
        Action::SettleRestore(task) => restore::settle(&invocation, task).await,
        Action::Probe(task) => probe::run(&invocation, task).await,
        Action::Settle(task) => settle::run(&invocation, task).await,
        Action::Keep(task) => keep::run(&invocation, task).await,
        Action::Copy(task) => replicate::run(&invocation, task).await,
    }
}

/// Runs a command beside its progress line and the signals. Whatever happens in it, there is a result.
fn run<F, R>(runtime: &Runtime, task: Result<Task, Failure>, places: &Places, command: F) -> AgentResult
where
    F: FnOnce(Arc<Invocation>) -> R,
    R: Future<Output = Result<AgentResult, Failure>> + Send + 'static,
{
    let invocation = match task.and_then(|task| Invocation::new(task, places.clone())) {
        Ok(invocation) => Arc::new(invocation),
        Err(failure) => return failure.into(),
    };
    let (cancel, progress) = (invocation.cancel.clone(), invocation.progress.clone());
    let work = command(Arc::clone(&invocation));
    supervise(runtime, cancel, progress, work)
}

/// Runs a command that has no task.
fn by_hand<R>(runtime: &Runtime, command: impl FnOnce(CancellationToken, Progress) -> R) -> AgentResult
where
    R: Future<Output = Result<AgentResult, Failure>> + Send + 'static,
{
    let (cancel, progress) = (CancellationToken::new(), Progress::default());
    let work = command(cancel.clone(), progress.clone());
    supervise(runtime, cancel, progress, work)
}

fn supervise(
    runtime: &Runtime,
    cancel: CancellationToken,
    progress: Progress,
    work: impl Future<Output = Result<AgentResult, Failure>> + Send + 'static,
) -> AgentResult {
    runtime.block_on(async move {
        let line = tokio::spawn(progress.log());
        let mut work = tokio::spawn(work);
        let stopped = async {
            asked_to_stop().await;
            tracing::info!("asked to stop");
            cancel.cancel();
            tokio::time::sleep(STOP_WITHIN).await;
        };
        let result = tokio::select! {
            joined = &mut work => match joined {
                Ok(Ok(result)) => result,
                Ok(Err(failure)) => failure.into(),
                Err(error) => plain(Reason::InternalError, format!("a fault in the command: {error}; please report it with the log")),
            },
            () = stopped => plain(Reason::Interrupted, "stopped before everything under way had ended in order"),
        };
        line.abort();
        result
    })
}

async fn asked_to_stop() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "signals cannot be heard");
            std::future::pending::<()>().await;
        }
    }
}

fn end(result: &AgentResult, places: Option<&Places>) -> ExitCode {
    let text = result.to_termination_message();
    if result.reason.exit_code() == 0 {
        tracing::info!(reason = %result.reason, why = result.message, result = %text, "done");
    } else {
        tracing::error!(reason = %result.reason, why = result.message, result = %text, "failed");
    }
    if let Some(places) = places
        && let Err(error) = leave(result, &places.result)
    {
        tracing::warn!(path = %places.result.display(), %error, "the result could not be written");
    }
    ExitCode::from(result.reason.exit_code())
}

fn start_log(format: Option<LogFormat>, to_stderr: bool) {
    let (terminal, writer) = if to_stderr {
        (std::io::stderr().is_terminal(), BoxMakeWriter::new(std::io::stderr))
    } else {
        (std::io::stdout().is_terminal(), BoxMakeWriter::new(std::io::stdout))
    };
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let started = match format {
        LogFormat::Json => tracing_subscriber::fmt()
            .with_writer(writer)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_env_filter(filter)
            .try_init(),
        LogFormat::Text => tracing_subscriber::fmt()
            .with_writer(writer)
            .with_ansi(terminal)
            .with_env_filter(filter)
            .try_init(),
    };
    // Another log is there already: in tests.
    drop(started);
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "a defect of Holdfast");
        if terminal {
            report(panic);
        }
    }));
}

#[cfg(test)]
mod tests;

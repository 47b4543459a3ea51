//! The operator's process: from its configuration to its graceful end.

use std::{future::Future, process::ExitCode, sync::Arc, time::Duration};

use crate::{
    admin,
    clients::{self, Clients, Fence},
    clock::ServerClock,
    config::{Config, ConfigError},
    context::{Context, chain},
    controller::{cluster_schedule, compliance, copy, disposal, hold, keep, preview, restore, run as backup_run, schedule, source, store},
    lease::{Election, LeaseError},
    metrics::{Metrics, Objects},
    queue::{self, Queue, Reconcile},
    report::Report,
    watch::Caches,
};
use clap::Parser;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Threads of the runtime. Said, because the number of a node's cores says nothing about an operator.
const WORKERS: usize = 2;
/// How long what is being reconciled has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);
/// How long to wait between tries to reach the API server at start.
const RETRY: Duration = Duration::from_secs(2);

/// Why the process ends, other than by a signal.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("--log: {0}")]
    Log(String),
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("find the API server")]
    ApiServer(#[source] Box<kube::config::InferConfigError>),
    #[error("make the clients of the API server")]
    Clients(#[source] Box<kube::Error>),
    #[error("register the metrics")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error("{0} ended, which it never should")]
    Ended(&'static str),
}

/// Reads the command line, and works until it is asked to stop.
pub fn main() -> ExitCode {
    match start(Config::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            let error = chain(&fatal);
            // Without a subscriber (a wrong --log) the first is silent.
            tracing::error!(error, "the operator ends");
            eprintln!("holdfast-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> Result<(), Fatal> {
    // The client logs each answer of 500 and more as an error of its own; we say what it was for, and once.
    let filter = format!("kube_client::client::builder=off,{}", config.log);
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| Fatal::Log(error.to_string()))?;
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
    let config = config.validated()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(Fatal::Runtime)?;
    let outcome = runtime.block_on(run(config));
    // Watches and what outlived its grace end with the process.
    runtime.shutdown_background();
    outcome
}

async fn run(config: Config) -> Result<(), Fatal> {
    let metrics = Metrics::new()?;
    let clock = ServerClock::default();
    let fence = Fence::default();
    let caches = Arc::new(Caches::new(&config.namespaces).guarded_by(&config.guards));
    let objects = Objects::new(caches.clone(), clock.clone());
    let (address, pulse) = admin::serve(config.admin_addr, caches.clone(), metrics.registry.clone(), objects)?;
    tokio::spawn(async move { pulse.beat().await });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %address, "the operator starts");

    let api_server = kube::Config::infer().await.map_err(|error| Fatal::ApiServer(Box::new(error)))?;
    let clients = clients::connect(&api_server, &clock, &metrics, &fence).map_err(|error| Fatal::Clients(Box::new(error)))?;
    let lease_namespace = config
        .lease_namespace
        .clone()
        .unwrap_or_else(|| api_server.default_namespace.clone());
    let mut election = Election::new(
        clients.lease.clone(),
        &lease_namespace,
        &config.lease_name,
        &config.pod_name,
        clock.clone(),
        fence,
        metrics.clone(),
    );

    let stop = terminated();
    tokio::pin!(stop);
    let cluster = tokio::select! {
        cluster = cluster_id(&config, &clients) => cluster,
        () = &mut stop => return Ok(()),
    };
    let context = Arc::new(Context {
        cluster,
        image: config.image.clone(),
        client: clients.call.clone(),
        clock: clock.clone(),
        caches: caches.clone(),
        report: Report::new(clients.call.clone(), clock, &config.pod_name),
        metrics,
    });
    let controllers = Controllers::connect(&context, backup_run::Turns::new(config.runs_per_namespace));
    // A leader knows the cluster's objects before it takes over.
    let mut watches = tokio::spawn({
        let (caches, client, namespaces) = (caches.clone(), clients.watch.clone(), config.namespaces.clone());
        async move { caches.drive(&client, &namespaces).await }
    });
    tokio::select! {
        () = async { caches.wait_ready().await; election.acquire().await } => {}
        _ = &mut watches => return Err(Fatal::Ended("a watch")),
        () = &mut stop => {
            // It may have been won at this very moment.
            election.release().await;
            return Ok(());
        }
    }

    let (stopping, stopped) = watch::channel(false);
    let mut running = controllers.run(&context, &stopped);
    tokio::select! {
        error = election.keep() => return Err(error.into()),
        _ = running.join_next() => return Err(Fatal::Ended("a controller")),
        _ = &mut watches => return Err(Fatal::Ended("a watch")),
        () = &mut stop => {}
    }
    tracing::info!("asked to stop: what is being reconciled ends, nothing new begins");
    stopping.send_replace(true);
    let drained = timeout(GRACE, async { while running.join_next().await.is_some() {} });
    tokio::select! {
        error = election.keep() => return Err(error.into()),
        outcome = drained => if outcome.is_err() {
            tracing::warn!(grace = ?GRACE, "some reconciliations did not end in time; whoever leads next goes on with them");
            running.abort_all();
        },
    }
    election.release().await;
    Ok(())
}

/// The controllers, connected with the caches.
struct Controllers {
    turns: backup_run::Turns,
    runs: Queue,
    restores: Queue,
    stores: Queue,
    keepers: Queue,
    copies: Queue,
    waiting: copy::Waiting,
    schedules: Queue,
    sources: Queue,
    cluster_schedules: Queue,
    policies: Queue,
    holds: Queue,
    cluster_holds: Queue,
    disposals: Queue,
    previews: Queue,
}

impl Controllers {
    fn connect(context: &Context, turns: backup_run::Turns) -> Self {
        let controllers = Self {
            turns,
            runs: Queue::default(),
            restores: Queue::default(),
            stores: Queue::default(),
            keepers: Queue::default(),
            copies: Queue::default(),
            waiting: copy::Waiting::default(),
            schedules: Queue::default(),
            sources: Queue::default(),
            cluster_schedules: Queue::default(),
            policies: Queue::default(),
            holds: Queue::default(),
            cluster_holds: Queue::default(),
            disposals: Queue::default(),
            previews: Queue::default(),
        };
        backup_run::triggers(context, &controllers.turns, &controllers.runs);
        restore::triggers(&context.caches, &controllers.restores);
        store::triggers(&context.caches, &controllers.stores);
        keep::triggers(&context.caches, &controllers.keepers);
        copy::triggers(&context.caches, &controllers.waiting, &controllers.copies);
        schedule::triggers(&context.caches, &controllers.schedules);
        source::triggers(&context.caches, &controllers.sources);
        cluster_schedule::triggers(&context.caches, &controllers.cluster_schedules);
        compliance::triggers(&context.caches, &controllers.policies);
        hold::triggers(&context.caches, &controllers.holds);
        hold::cluster_triggers(&context.caches, &controllers.cluster_holds);
        disposal::triggers(&context.caches, &controllers.disposals);
        preview::triggers(&context.caches, &controllers.previews);
        controllers
    }

    /// Starts all of them; the queues hold every object by now.
    fn run(self, context: &Arc<Context>, stopped: &watch::Receiver<bool>) -> JoinSet<()> {
        let mut running = JoinSet::new();
        spawn(
            &mut running,
            backup_run::RunController::new(context.clone(), self.turns.clone()),
            self.runs,
            context,
            stopped,
        );
        spawn(
            &mut running,
            copy::CopyController::new(context.clone(), self.turns, self.waiting),
            self.copies,
            context,
            stopped,
        );
        spawn(
            &mut running,
            restore::RestoreController::new(context.clone()),
            self.restores,
            context,
            stopped,
        );
        spawn(
            &mut running,
            store::StoreController::new(context.clone()),
            self.stores,
            context,
            stopped,
        );
        spawn(
            &mut running,
            keep::KeepController::new(context.clone()),
            self.keepers,
            context,
            stopped,
        );
        spawn(
            &mut running,
            schedule::ScheduleController::new(context.clone()),
            self.schedules,
            context,
            stopped,
        );
        spawn(
            &mut running,
            source::SourceController::new(context.clone()),
            self.sources,
            context,
            stopped,
        );
        spawn(
            &mut running,
            cluster_schedule::ClusterScheduleController::new(context.clone()),
            self.cluster_schedules,
            context,
            stopped,
        );
        spawn(
            &mut running,
            compliance::ComplianceController::new(context.clone()),
            self.policies,
            context,
            stopped,
        );
        spawn(
            &mut running,
            hold::HoldController::new(context.clone()),
            self.holds,
            context,
            stopped,
        );
        spawn(
            &mut running,
            hold::ClusterHoldController::new(context.clone()),
            self.cluster_holds,
            context,
            stopped,
        );
        spawn(
            &mut running,
            disposal::DisposalController::new(context.clone()),
            self.disposals,
            context,
            stopped,
        );
        spawn(
            &mut running,
            preview::PreviewController::new(context.clone()),
            self.previews,
            context,
            stopped,
        );
        running
    }
}

fn spawn<R: Reconcile>(running: &mut JoinSet<()>, reconciler: R, queue: Queue, context: &Context, stopped: &watch::Receiver<bool>) {
    // Nothing more belongs to what the first lists brought.
    queue.hasten();
    let mut stopped = stopped.clone();
    let stop = async move {
        // The sender lives as long as the process runs; were it gone, stopping would be right.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    running.spawn(queue::run(Arc::new(reconciler), queue, context.metrics.clone(), stop));
}

/// Identity of this cluster in the stores: what the configuration says, or the UID of kube-system. Asks until it is answered.
async fn cluster_id(config: &Config, clients: &Clients) -> String {
    if let Some(id) = &config.cluster_id {
        return id.clone();
    }
    let api: Api<Namespace> = Api::all(clients.watch.clone());
    let mut complained = false;
    loop {
        match api.get("kube-system").await {
            Ok(Namespace { metadata, .. }) => {
                if let Some(uid) = metadata.uid {
                    return uid;
                }
            }
            Err(error) if !complained => {
                tracing::warn!(
                    error = chain(&error),
                    "the namespace kube-system cannot be read; trying until it can"
                );
                complained = true;
            }
            Err(error) => tracing::debug!(error = chain(&error), "the namespace kube-system cannot be read"),
        }
        sleep(RETRY).await;
    }
}

/// Returns at SIGTERM or SIGINT.
fn terminated() -> impl Future<Output = ()> {
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    async move {
        let [terminate, interrupt] = signals;
        match (terminate, interrupt) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            }
            // Without handlers the default action ends the process.
            _ => std::future::pending().await,
        }
    }
}

//! The cluster is lost; a new one finds everything in the store: the very commands of docs/disaster-recovery.md.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupRun, BackupStore, CopyState, Reason};
use holdfast_e2e::{
    fixture::{IDENTITY, RECIPIENT},
    helm::tool,
    keeper::{keeper, passes, said, store_said},
    operator::{Operator, script},
    s3::S3Client,
    sandbox::{self, Sandbox},
};
use kube::api::PostParams;
use serde_json::json;
use tokio::process::{Child, Command};

const MANUAL: &str = include_str!("../../docs/disaster-recovery.md");
const HOLD: &str = "
apiVersion: holdfast.dev/v1alpha1
kind: ComplianceHold
metadata: {name: case}
spec: {select: {runs: [shop/shop/first]}, reason: preservation letter, placedBy: alice}
";
const DISPOSAL: &str = "
apiVersion: holdfast.dev/v1alpha1
kind: DisposalRequest
metadata: {name: erase}
spec: {scope: {runs: [shop/shop/second]}, legalBasis: GDPR Art. 17, requestedBy: alice}
";

/// The commands of a step of the manual.
fn commands(step: &str) -> Result<String> {
    let (_, after) = MANUAL
        .split_once(&format!("<!-- drill: {step} -->\n"))
        .with_context(|| format!("no step {step:?}"))?;
    let lines = after
        .lines()
        .skip_while(|line| line.is_empty())
        .take_while(|line| line.starts_with("    "));
    let text = lines.flat_map(|line| [&line[4..], "\n"]).collect::<String>();
    ensure!(text.contains("kubectl"), "{step}: {text:?}");
    Ok(text)
}

/// An S3 server outside of the cluster, and who follows the manual in a folder.
struct Outside {
    folder: PathBuf,
    address: String,
    secret: String,
    _server: Child,
}

impl Outside {
    /// Starts the server at an address of this machine that pods reach, with a bucket with Object Lock.
    async fn start(sandbox: &Sandbox) -> Result<Self> {
        let path = "jsonpath={.subsets[0].addresses[0].ip}";
        let ip = sandbox
            .kubectl(&["get", "endpoints", "kubernetes", "-n", "default", "-o", path])
            .await?;
        let free = TcpListener::bind((ip.as_str(), 0)).context("this test needs a cluster on this machine, as e2e/cluster starts one")?;
        let address = free.local_addr()?.to_string();
        drop(free);
        let folder = std::env::temp_dir().join(&sandbox.namespace);
        for part in ["data", "versions"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let secret = format!("not-to-be-seen-{}", sandbox::unique());
        let server = Command::new(tool("versitygw"))
            .args(["--port", &address, "--quiet", "posix", "--versioning-dir"])
            .args([folder.join("versions"), folder.join("data")])
            .env("ROOT_ACCESS_KEY", "tester")
            .env("ROOT_SECRET_KEY", &secret)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let owner = S3Client::of(format!("http://{address}"), format!("tester:{secret}")).await?;
        owner
            .done("PUT", "backups", &["x-amz-bucket-object-lock-enabled: true"], "")
            .await?;
        Ok(Self {
            folder,
            address,
            secret,
            _server: server,
        })
    }

    /// What lies below a folder of the store.
    fn files(&self, below: &str) -> Vec<String> {
        let mut folders = vec![self.folder.join("data/backups/prod").join(below)];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    _ => files.push(entry.path().display().to_string()),
                }
            }
        }
        files
    }

    /// Runs a step of the manual with what it leaves open filled in, and gives what it printed.
    async fn drill(&self, step: &str) -> Result<String> {
        let text = commands(step)?
            .replace("access_key_id=…", "access_key_id=tester")
            .replace("secret_access_key=…", "secret_access_key=\"$SECRET\"")
            .replace(
                "version: 16, credentials: {secretName: admin}",
                "version: 15, credentials: {secretName: shop-db}, tls: {mode: Disable}",
            );
        ensure!(!text.contains('…'), "{step}: not filled in: {text}");
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &text])
            .env("SECRET", &self.secret)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{text}: {said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }
}

async fn node(command: &str) -> Result<()> {
    script("e2e/cluster/node.sh", &[command], &[]).await.map(drop)
}

async fn install(sandbox: &Sandbox) -> Result<()> {
    script("e2e/tools/install.sh", &[], &[]).await?;
    Operator::new(sandbox.client.clone()).until_ready(2).await
}

async fn cluster_id(sandbox: &Sandbox) -> Result<String> {
    let uid = "jsonpath={.metadata.uid}";
    sandbox.kubectl(&["get", "namespace", "kube-system", "-o", uid]).await
}

/// Returns when the API server, which has just started, knows the kinds that its admission policies name.
async fn admits(shop: &Sandbox) -> Result<()> {
    let run: BackupRun =
        serde_json::from_value(json!({"metadata": {"name": "tried"}, "spec": {"source": "shop", "stores": [{"name": "offsite"}]}}))?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let admitted = async {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            match shop.api::<BackupRun>().create(&dry_run, &run).await {
                Err(error) if error.to_string().contains("failed to configure policy") => {}
                other => return other.map(drop),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(90), admitted)
        .await
        .context("the API server does not find its policies' kinds")??;
    Ok(())
}

/// A run that makes no copy, because the place is another's.
async fn refused(shop: &Sandbox, name: &str) -> Result<()> {
    shop.start_run(name, "shop", "attempts: 1").await?;
    // It waits, or its attempt ends with that; its register stays as it is.
    let foreign = |run: &BackupRun| {
        let status = run.status.as_ref();
        let attempts = status.map(|status| status.attempts.as_slice()).unwrap_or_default();
        let ended = attempts.iter().any(|attempt| attempt.reason == Some(Reason::StoreForeign));
        ended || status.is_some_and(|status| status.reason == Some(Reason::StoreForeign))
    };
    shop.until::<BackupRun>(name, 120, "refused", foreign).await.map(drop)
}

#[test]
fn a_new_cluster_finds_everything_in_the_store_and_takes_it_over_and_the_old_one_stops() {
    sandbox::run_alone("recovery", |sandbox| async move {
        let outside = Outside::start(&sandbox).await?;
        // Named as in the manual: nobody else is here.
        let shop = Sandbox {
            client: sandbox.client.clone(),
            namespace: "shop".to_owned(),
        };
        shop.kubectl(&["create", "namespace", "shop"]).await?;
        let mut lost = false;
        let outcome = recovery(&shop, &outside, &mut lost).await;
        if outcome.is_err() {
            eprintln!("{}", shop.describe().await);
        }
        // This cluster is itself again, also where the test failed.
        if lost {
            node("back").await?;
        }
        shop.kubectl(&["delete", "namespace", "shop", "--wait=false"]).await?;
        std::fs::remove_dir_all(&outside.folder)?;
        outcome
    });
}

async fn recovery(shop: &Sandbox, outside: &Outside, lost: &mut bool) -> Result<()> {
    let file = |name: &str, text: &str| std::fs::write(outside.folder.join(name), text);
    file(
        "store.yaml",
        &format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: BackupStore\nmetadata: {{name: offsite}}\nspec:\n  s3: {{bucket: backups, prefix: prod, endpoint: 'http://{}'}}\n  credentials: {{secretName: s3}}\n  encryption: {{age: {{recipients: [{RECIPIENT}], identitySecretName: age-key}}}}\n  objectLock: {{mode: Governance, atWrite: 2m}}\n",
            outside.address
        ),
    )?;
    let source = "apiVersion: holdfast.dev/v1alpha1\nkind: BackupSource\nmetadata: {name: shop}\nspec: {postgresql: {hosts: ['shop-db:5432'], version: 15, credentials: {secretName: shop-db}, tls: {mode: Disable}, databases: {include: [shop]}}}\n";
    file("source.yaml", source)?;
    file("identity.txt", IDENTITY)?;

    // The old cluster makes copies, by a schedule and by hand; somebody holds the first.
    let old = cluster_id(shop).await?;
    let database = shop.postgres("shop-db").await?;
    database.fill("shop", 100).await?;
    let before = database.checksums("shop").await?;
    let keys = format!("access_key_id: tester, secret_access_key: '{}'", outside.secret);
    shop.secret_of("s3", &keys).await?;
    shop.apply(&std::fs::read_to_string(outside.folder.join("store.yaml"))?).await?;
    shop.store_ready("offsite").await?;
    shop.apply(source).await?;
    shop.yearly("yearly", "{name: offsite, retention: {keepWithin: 400d}}").await?;
    shop.start_run_of("yearly", "first", "shop").await?;
    shop.run_succeeded("first", 120).await?;
    shop.back_up("second", "shop").await?;
    let alice = shop.as_user("alice", &["hold-keeper", "approver"]).await?;
    let bob = shop.as_user("bob", &["approver"]).await?;
    alice.apply(HOLD).await?;
    let known = shop
        .catalogue("shop", "offsite", 120, "held", |entry| entry.held == 1 && entry.copies == 2)
        .await?;

    // It is lost with all that it knew. In the new one there is nothing but the product.
    *lost = true;
    node("lose").await?;
    let new = cluster_id(shop).await?;
    ensure!(new != old, "the cluster is the same: {new}");
    install(shop).await?;
    outside.drill("look").await?;
    let seen = outside.drill("see").await?;
    ensure!(
        seen.contains(&old) && seen.contains("shop/shop: 2 copies, 1 held, newest 20"),
        "{seen}"
    );
    let store = shop.api::<BackupStore>().get("offsite").await?;
    let ready = store_said(&store, "Ready");
    ensure!(ready.starts_with("False StoreForeign") && ready.contains(&old), "{ready}");
    // The same catalogue, to the last word.
    let database = shop.postgres("shop-db").await?;
    outside.drill("source").await?;
    let entry = shop.catalogue("shop", "offsite", 90, "there", |entry| entry.copies == 2).await?;
    ensure!(entry.newest_copies == known.newest_copies, "{entry:?}\nwas {known:?}");
    refused(shop, "import-only").await?;
    ensure!(outside.files("owner").len() == 1, "{:?}", outside.files("owner"));

    outside.drill("restore").await?;
    shop.restore_succeeded("after-the-loss", 120).await?;
    ensure!(database.checksums("shop").await? == before, "what was restored differs");

    // It takes over and goes on; the hold holds, and what was said of the first copy counts.
    outside.drill("take over").await?;
    shop.run_succeeded("import-only", 120).await.context("the run that waited")?;
    shop.back_up("third", "shop").await?;
    // So that a keeper looks at once.
    shop.yearly("yearly", "{name: offsite, retention: {keepWithin: 400d}}").await?;
    let entry = shop
        .catalogue("shop", "offsite", 120, "going on", |entry| entry.copies == 4)
        .await?;
    let of = |entries: &[holdfast_crds::CopyReport]| entries.iter().find(|copy| copy.run == "first").cloned();
    let (first, was) = (
        of(&entry.newest_copies).context("first")?,
        of(&known.newest_copies).context("first")?,
    );
    ensure!(
        (first.state, &first.kept_until) == (CopyState::Held, &was.kept_until) && was.kept_until.is_some(),
        "{first:?}, was {was:?}"
    );

    // The old cluster is back, with all that it knew: it stops before it commits or deletes.
    node("back").await?;
    *lost = false;
    ensure!(cluster_id(shop).await? == old, "another cluster");
    admits(shop).await?;
    let store = shop.api::<BackupStore>().get("offsite").await?;
    ensure!(store_said(&store, "Ready").starts_with("True"), "it does not know yet: {store:?}");
    let begun = passes(&store);
    alice.apply(DISPOSAL).await?;
    bob.apply(&DISPOSAL.replace("requestedBy: alice", "requestedBy: alice, approval: {approvedBy: bob}"))
        .await?;
    refused(shop, "zombie").await?;
    let store = shop
        .until::<BackupStore>("offsite", 120, "import-only", |store| {
            store_said(store, "Ready").starts_with("False StoreForeign")
                && passes(store) > begun
                && keeper(store).is_some_and(|keeper| keeper.finished_at.is_some())
        })
        .await?;
    ensure!(store_said(&store, "Ready").contains(&new), "{}", store_said(&store, "Ready"));
    let erase = shop.api::<holdfast_crds::DisposalRequest>().get("erase").await?;
    let conditions = erase.status.map(|status| status.conditions).unwrap_or_default();
    ensure!(!said(&conditions, "Disposed").starts_with("True"), "{conditions:?}");
    let left = |run: &str, end: &str| {
        let data = outside.files(&format!("data/shop/shop/{run}")).len();
        let register = outside.files(&format!("catalog/shop/shop/{run}"));
        (data > 0, register.iter().any(|file| file.ends_with(end)))
    };
    ensure!(
        left("second", "outcome.json") == (true, true) && !left("second", "-shredded.json").1,
        "second"
    );
    ensure!(left("zombie", "outcome.json") == (false, false), "zombie");
    ensure!(left("third", "outcome.json") == (true, true), "third");
    ensure!(outside.files("owner").len() == 2, "{:?}", outside.files("owner"));
    Ok(())
}

/// The steps that are run are those of the manual.
#[test]
fn the_manual_has_each_step() -> Result<()> {
    for step in ["look", "see", "source", "restore", "take over"] {
        commands(step)?;
    }
    ensure!(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/node.sh").exists());
    Ok(())
}

//! What a pass would do is asked before it does it, and a keeper's seal is checked with stock tools as the manual says.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use holdfast_crds::CopyState;
use holdfast_e2e::{
    helm,
    operator::repository,
    preview::Foreseen,
    sandbox::{self, Sandbox},
};

/// The commands of the manual, between this marker and the end of its block.
fn commands() -> Result<String> {
    let manual = fs::read_to_string(repository().join("docs/stores.md"))?;
    let (_, after) = manual
        .split_once("<!-- seal: verify -->\n```\n")
        .context("the manual has no commands")?;
    Ok(after.split_once("```").context("the commands have no end")?.0.to_owned())
}

#[test]
fn a_preview_tells_what_shorter_rules_would_remove_and_a_seal_is_checked_with_openssl() {
    sandbox::run("preview", |sandbox| async move {
        let folder = std::env::temp_dir().join(&sandbox.namespace);
        fs::create_dir_all(&folder)?;
        let checked = check(&sandbox, &folder).await;
        fs::remove_dir_all(&folder)?;
        checked
    });
}

async fn check(sandbox: &Sandbox, folder: &Path) -> Result<()> {
    let at = |name: &str| folder.join(name);
    sandbox.prepared(100).await?;
    helm::run(
        Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519", "-out"])
            .arg(at("seal.pem")),
    )?;
    helm::run(
        Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(at("seal.pem"))
            .arg("-out")
            .arg(at("seal.pub")),
    )?;
    let key = format!("--from-file={}", at("seal.pem").display());
    sandbox.kubectl(&["create", "secret", "generic", "holdfast-seal", &key]).await?;
    let sealed = r#"{"spec": {"seal": {"secretName": "holdfast-seal"}}}"#;
    sandbox
        .kubectl(&["patch", "backupstore", "offsite", "--type=merge", "-p", sealed])
        .await?;
    let store = "{name: offsite, retention: {keepWithin: 300d, minGood: 1}}";
    sandbox.yearly("yearly", store).await?;
    for name in ["first", "second"] {
        sandbox.start_run_of("yearly", name, "shop").await?;
        sandbox.run_succeeded(name, 300).await?;
    }
    sandbox
        .catalogue("shop", "offsite", 240, "sealed", |entry| {
            entry.copies == 2 && entry.newest_copies.iter().all(|copy| copy.sealed)
        })
        .await?;

    let asked = "store: {name: offsite}, source: shop";
    let now = sandbox.previewed("now", asked).await?;
    let counted = |counts: holdfast_crds::PreviewCounts| (counts.kept, counts.marked, counts.removed) == (2, 0, 0);
    ensure!((now.copies, now.sources) == (2, 1) && now.counts.is_some_and(counted), "{now:?}");
    let kept = now.listed.iter().all(|copy| copy.state == CopyState::Kept && !copy.why.is_empty());
    ensure!(now.listed.len() == 2 && kept, "{now:?}");
    let job = now.job.clone().context("the preview names no Job")?;
    let told = sandbox.kubectl(&["logs", &format!("job/{job}")]).await?;
    ensure!(["first", "second"].iter().all(|run| told.contains(run)), "{told}");

    // What was promised stays promised: only when its time is over do shorter rules let the older copy go.
    let rules = "proposed: {retention: {keepLast: 1, minGood: 1}}";
    for (name, days, kept) in [("soon", 200, 2), ("late", 400, 1)] {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
        let then = sandbox.previewed(name, &format!("{asked}, at: \"{at}\", {rules}")).await?;
        let counts = then.counts.context("no counts")?;
        ensure!(
            (counts.kept, counts.marked + counts.removed) == (kept, 2 - kept),
            "{name}: {counts:?}"
        );
        let newest = then
            .listed
            .iter()
            .find(|copy| copy.run.ends_with("/shop/second"))
            .context("no second copy")?;
        ensure!(newest.state == CopyState::Kept, "{name}: {newest:?}");
    }

    let place = format!("/data/backups/e2e/catalog/{}/shop/first", sandbox.namespace);
    let outcome = sandbox.exec("s3", &["cat", &format!("{place}/outcome.json")], "").await?;
    let seal = sandbox.exec("s3", &["sh", "-c", &format!("cat {place}/*-seal.json")], "").await?;
    fs::write(at("outcome.json"), &outcome)?;
    fs::write(at("seal.json"), &seal)?;
    let commands = commands()?;
    let verified = || Command::new("sh").args(["-ec", &commands]).current_dir(folder).output();
    let good = verified()?;
    ensure!(good.status.success(), "{good:?}\n{seal}");
    fs::write(at("outcome.json"), outcome.replace("\"first\"", "\"forged\""))?;
    ensure!(!verified()?.status.success(), "another manifest has the same seal");
    Ok(())
}

/// By hand it goes by the records that keepers left, in the cluster by the objects: both say the same of every copy.
#[test]
fn a_preview_by_hand_and_one_in_the_cluster_give_the_same_answer() {
    sandbox::run("preview-by-hand", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox
            .yearly("yearly", "{name: offsite, retention: {keepWithin: 300d, minGood: 1}}")
            .await?;
        for name in ["first", "second"] {
            sandbox.start_run_of("yearly", name, "shop").await?;
            sandbox.run_succeeded(name, 300).await?;
        }
        for (name, keep_for) in [("held", "30d"), ("by-hand", "40d")] {
            sandbox.start_run(name, "shop", &format!("keepFor: {keep_for}")).await?;
            sandbox.run_succeeded(name, 300).await?;
        }
        // What a keeper is to be told anew is told at once: that pass sees all four.
        let ann = sandbox.as_user("ann", &["hold-keeper"]).await?;
        ann.apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: ComplianceHold\nmetadata: {{name: case}}\nspec: {{select: {{runs: [{}/shop/held]}}, reason: a letter, placedBy: ann}}\n",
            sandbox.namespace
        ))
        .await?;
        let looked_after = |entry: &holdfast_crds::CatalogueInStore| entry.copies == 4 && entry.held == 1;
        sandbox.catalogue("shop", "offsite", 240, "looked after", looked_after).await?;

        let whose = format!("--source {}/shop", sandbox.namespace);
        let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 400);
        let (mut kept, mut gone) = (0, 0);
        for (name, at, by_hand) in [
            ("now", String::new(), String::new()),
            ("later", format!(", at: \"{later}\""), format!("--at {later}")),
        ] {
            let status = sandbox
                .previewed(name, &format!("store: {{name: offsite}}, source: shop{at}"))
                .await?;
            let job = status.job.clone().context("no Job")?;
            let by_hand = sandbox
                .previewed_by_hand(&job, "backupstore/offsite", &format!("{whose} {by_hand}"))
                .await?;
            let in_cluster = Foreseen::from(&status);
            ensure!(in_cluster == by_hand, "{name}: {in_cluster:#?}\nby hand: {by_hand:#?}");
            let state = |run: &str| in_cluster.copies[&format!("{}/shop/{run}", sandbox.namespace)].state;
            ensure!(in_cluster.copies.len() == 4 && state("held") == CopyState::Held, "{in_cluster:#?}");
            let goes = in_cluster.copies.values().filter(|copy| copy.state.goes()).count();
            (kept, gone) = (kept + in_cluster.copies.len() - goes, gone + goes);
        }
        ensure!(
            (kept, gone) == (6, 2),
            "all four stay now; then go those that nothing holds, but for the newest good one"
        );
        Ok(())
    });
}

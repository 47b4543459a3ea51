//! What keepers report becomes status, and what they find wrong is said.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupSource, CopyState, Reason};
use holdfast_e2e::{
    keeper::{passes, said, store_said},
    operator::Operator,
    sandbox,
};
use jiff::Timestamp;

#[test]
fn a_keeper_reports_what_was_committed_follows_the_rules_and_finds_what_is_missing() {
    sandbox::run("keeper", |sandbox| async move {
        sandbox.prepared(100).await?;
        sandbox.yearly("yearly", "{name: offsite, retention: {keepWithin: 3d}}").await?;
        sandbox.start_run_of("yearly", "first", "shop").await?;
        sandbox.run_succeeded("first", 300).await?;

        // After the commit.
        let entry = sandbox
            .catalogue("shop", "offsite", 240, "looked after", |entry| entry.copies == 1)
            .await?;
        let copy = entry.newest_copies.first().context("the copy is not listed")?.clone();
        ensure!(
            (copy.run.as_str(), copy.state, entry.good) == ("first", CopyState::Kept, 1) && copy.why.contains("keepWithin"),
            "{entry:?}"
        );
        let kept_for = |until: &Option<String>| -> Result<i64> {
            let until: Timestamp = until.as_deref().context("no end is told")?.parse()?;
            Ok((until.duration_since(copy.recovery_point.parse()?).as_secs() + 1_800) / 3_600)
        };
        ensure!(kept_for(&copy.kept_until)? == 72, "{copy:?}");
        let store = sandbox
            .pass("offsite", 60, "kept", |store| {
                store_said(store, "Kept").starts_with("True StoreKept: 1 copies")
            })
            .await?;
        ensure!(store_said(&store, "Intact").starts_with("True"), "{store:?}");
        let before = passes(&store);

        // A rule that keeps for longer is followed at once.
        sandbox.yearly("yearly", "{name: offsite, retention: {keepWithin: 5d}}").await?;
        let entry = sandbox
            .catalogue("shop", "offsite", 60, "kept for longer", |entry| {
                entry.newest_copies.first().is_some_and(|now| now.kept_until != copy.kept_until)
            })
            .await?;
        ensure!(kept_for(&entry.newest_copies[0].kept_until)? == 120, "{entry:?}");
        let store = sandbox.pass("offsite", 60, "looked after", |store| passes(store) > before).await?;
        ensure!(passes(&store) == before + 1, "one change is one pass: {store:?}");

        // A part is lost; the pass after the next commit finds that.
        let lose = "rm $(find /data/backups/e2e/data -type f -name '*.zst' ! -name 'index*' | head -1)";
        sandbox.exec("s3", &["sh", "-c", lose], "").await?;
        sandbox.back_up("second", "shop").await?;
        let entry = sandbox
            .catalogue("shop", "offsite", 150, "looked after", |entry| entry.copies == 2)
            .await?;
        let found = entry.findings.first().context("nothing was found")?;
        ensure!(
            found.reason == Reason::CopyCorrupt
                && found.message.contains("is missing")
                && found.place.as_deref() == Some(&*format!("{}/shop/first", sandbox.namespace)),
            "{entry:?}"
        );
        let states: Vec<_> = entry.newest_copies.iter().map(|copy| (copy.run.as_str(), copy.state)).collect();
        ensure!(
            entry.good == 1 && states == [("second", CopyState::Kept), ("first", CopyState::NotGood)],
            "{entry:?}"
        );
        sandbox
            .until::<BackupSource>("shop", 30, "not intact", |source| {
                let conditions = source.status.as_ref().map(|status| status.conditions.as_slice());
                said(conditions.unwrap_or_default(), "Intact").starts_with("False CopyCorrupt")
            })
            .await?;
        let store = sandbox
            .pass("offsite", 30, "not intact", |store| {
                store_said(store, "Intact").starts_with("False CopyCorrupt")
            })
            .await?;
        ensure!(passes(&store) == before + 2, "one commit is one pass: {store:?}");
        for object in ["offsite", "shop"] {
            let events = sandbox.events(object).await?;
            ensure!(
                events.iter().any(|event| event.starts_with("CopyCorrupt: ")),
                "{object}: {events:?}"
            );
        }
        let metrics = Operator::new(sandbox.client.clone()).metrics().await?;
        let namespace = &sandbox.namespace;
        for line in [
            format!("holdfast_store_findings{{namespace=\"{namespace}\",store=\"offsite\"}} 1"),
            format!("holdfast_store_kept{{namespace=\"{namespace}\",store=\"offsite\"}} 1"),
            format!("holdfast_source_intact{{namespace=\"{namespace}\",source=\"shop\"}} 0"),
        ] {
            ensure!(metrics.lines().any(|told| told == line), "{line} is not served:\n{metrics}");
        }
        Ok(())
    });
}

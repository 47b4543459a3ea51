//! Another server under a source's name.

use anyhow::{Context, Result, ensure};
use holdfast_crds::{BackupSource, Reason};
use holdfast_e2e::{
    keeper::said,
    sandbox::{self, Sandbox},
};

async fn intact(sandbox: &Sandbox, wanted: &str) -> Result<()> {
    sandbox
        .until::<BackupSource>("shop", 150, wanted, |source| {
            let conditions = source.status.as_ref().map(|status| status.conditions.as_slice());
            said(conditions.unwrap_or_default(), "Intact").starts_with(wanted)
        })
        .await?;
    Ok(())
}

#[test]
fn another_server_under_a_sources_name_is_told_until_somebody_accepts_it() {
    sandbox::run("identity", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        let server = "select system_identifier from pg_control_system()";
        let was = database.sql("postgres", server).await?;
        sandbox.back_up("first", "shop").await?;
        sandbox.kubectl(&["delete", "pod", "shop", "--now"]).await?;
        sandbox.postgres_again("shop").await?;
        let is = database.sql("postgres", server).await?;
        ensure!(was != is, "it is the same server");
        database.fill("shop", 100).await?;
        sandbox.back_up("second", "shop").await?;

        intact(&sandbox, "False IdentityChanged").await?;
        let entry = sandbox
            .catalogue("shop", "offsite", 30, "of both", |entry| entry.copies == 2)
            .await?;
        let found = entry.findings.first().context("nothing was found")?;
        ensure!(
            found.reason == Reason::IdentityChanged
                && entry.good == 2
                && found.message.contains("up to first")
                && found.message.contains("since second"),
            "{entry:?}"
        );
        // Taken from the message, as a person would.
        let words = found.message.split_once("spec.accept: ").context("no words to accept it")?.1;
        let user = sandbox.user().await?;
        let accept = words.replace("your user name", &user).replace("why", "a new server");
        ensure!(accept.contains(&was) && accept.contains(&is), "{accept}");
        let accept: serde_json::Value = serde_yaml::from_str(&accept)?;
        let patch = serde_json::json!({"spec": {"accept": accept}}).to_string();
        sandbox
            .kubectl(&["patch", "backupsource", "shop", "--type=merge", "-p", &patch])
            .await?;
        intact(&sandbox, "True").await
    });
}

//! Every copy is restored with stock tools: the very script that the documentation explains.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    fixture::{IDENTITY, RECIPIENT},
    operator::script,
    sandbox,
};

#[test]
fn a_copy_is_restored_without_holdfast() {
    sandbox::run("stock", |sandbox| async move {
        let database = sandbox.postgres("shop").await?;
        database.fill("shop", 20_000).await?;
        sandbox.s3().await?;
        sandbox.store(&format!("{{age: {{recipients: [{RECIPIENT}]}}}}")).await?;
        sandbox.source("shop", "").await?;
        sandbox.back_up("first", "shop").await?;

        let s3 = sandbox.forward("s3", 7070).await?;
        let secret = sandbox
            .kubectl(&[
                "get",
                "secret",
                "s3",
                "-o",
                "go-template={{.data.secret_access_key | base64decode}}",
            ])
            .await?;
        let folder = std::env::temp_dir().join(&sandbox.namespace);
        std::fs::create_dir_all(&folder)?;
        let identity = folder.join("identity.txt");
        std::fs::write(&identity, IDENTITY)?;
        let outcome: Result<()> = async {
            let environment = [
                ("RCLONE_CONFIG_COPY_TYPE", "s3"),
                ("RCLONE_CONFIG_COPY_PROVIDER", "Other"),
                ("RCLONE_CONFIG_COPY_REGION", "us-east-1"),
                ("RCLONE_CONFIG_COPY_ENDPOINT", &s3.address),
                ("RCLONE_CONFIG_COPY_ACCESS_KEY_ID", "tester"),
                ("RCLONE_CONFIG_COPY_SECRET_ACCESS_KEY", &secret),
            ];
            let copy = format!("{}/shop/first", sandbox.namespace);
            let to = folder.join("out");
            let arguments = [
                "copy:backups/e2e",
                &copy,
                "shop",
                identity.to_str().context("path")?,
                to.to_str().context("path")?,
            ];
            script("e2e/demo/restore-without-holdfast.sh", &arguments, &environment).await?;
            let globals = std::fs::read_to_string(to.join("globals.sql"))?;
            ensure!(globals.contains("CREATE ROLE postgres"), "{globals}");
            sandbox
                .kubectl(&["cp", to.join("shop.dump").to_str().context("path")?, "shop:/tmp/shop.dump"])
                .await?;
            let before = database.checksums("shop").await?;
            database.sql("postgres", "drop database shop").await?;
            sandbox
                .exec(
                    "shop",
                    &[
                        "pg_restore",
                        "-U",
                        "postgres",
                        "-d",
                        "postgres",
                        "--create",
                        "--exit-on-error",
                        "/tmp/shop.dump",
                    ],
                    "",
                )
                .await?;
            let after = database.checksums("shop").await?;
            ensure!(before == after, "before:\n{before}\nafter:\n{after}");
            Ok(())
        }
        .await;
        std::fs::remove_dir_all(&folder)?;
        outcome
    });
}

//! What a restore does beside bringing the data back.

use anyhow::{Context, Result, ensure};
use holdfast_crds::Reason;
use holdfast_e2e::sandbox::{self, Sandbox};

/// Restores the copy as `restored`, with one query after it.
async fn request(sandbox: &Sandbox, name: &str, query: &str) -> Result<()> {
    let more = format!("select: {{rename: {{shop: restored}}}}\n  postRestore: [{{name: erase-118, database: shop, query: {query}}}]");
    sandbox.request_restore(name, "first", "shop", &more).await
}

#[test]
fn what_was_erased_stays_erased_and_a_query_that_fails_puts_nothing_in_place() {
    sandbox::run("erased", |sandbox| async move {
        let database = sandbox.prepared(100).await?;
        database
            .sql("shop", "create table visitors as select id from generate_series(1, 3) id")
            .await?;
        sandbox.back_up("first", "shop").await?;

        request(&sandbox, "mistyped", "delete from visitors where id = 2").await?;
        sandbox.restore_failed("mistyped", 120, Reason::PostRestoreFailed).await?;
        let left = "select count(*) from pg_database where datname <> 'shop' and not datistemplate and datname <> 'postgres'";
        ensure!(database.sql("postgres", left).await? == "0", "something is left of it");

        request(&sandbox, "right", "delete from public.visitors where id = 2").await?;
        let restored = sandbox
            .restore_succeeded("right", 120)
            .await?
            .restored
            .context("what was restored")?;
        ensure!(restored.post_restore == ["erase-118"], "{restored:?}");
        let ids = "select string_agg(id::text, ',' order by id) from visitors";
        ensure!(database.sql("restored", ids).await? == "1,3");
        ensure!(database.sql("shop", ids).await? == "1,2,3", "the query reached another database");
        Ok(())
    });
}

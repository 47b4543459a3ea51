//! What rows hold reaches neither an error nor a line of the log, whatever the server says of it.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use super::super::tool::Running;
use super::*;

const SECRET: &str = "anna.muster@example.org";

/// What `pg_restore` fails with where the rows of `archive` do not fit into `target`.
async fn restore_into(pod: &Pod, server: &TestServer, target: &str, archive: &[u8]) -> String {
    let access = pod.plain(server);
    let mut command = pod.tools().connected("pg_restore", &access, &access.hosts[0], target).unwrap();
    command.args(["--exit-on-error", "--no-password", "--format=custom", &format!("--dbname={target}")]);
    let mut running = Running::start("pg_restore", command.stdin(Stdio::piped())).unwrap();
    let mut stdin = running.take_stdin().unwrap();
    // It may stop reading: its end says why.
    let _ = stdin.write_all(archive).await;
    drop(stdin);
    let (reason, message) = failed(running.finish(Reason::RestoreFailed).await);
    assert_eq!(reason, Reason::RestoreFailed, "{message}");
    message
}

#[tokio::test]
async fn rows_that_a_target_refuses_are_not_told_and_their_place_is() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    let rows = format!("CREATE TABLE people (id integer, email text); INSERT INTO people VALUES (1, 'x'), (2, E'{SECRET}\\n{SECRET}')");
    server.create("values_from", &rows);
    let archive = server.dump("values_from", &["--data-only"]);
    for (target, table, said) in [
        (
            "values_unique",
            format!("CREATE TABLE people (id integer, email text UNIQUE); INSERT INTO people VALUES (3, E'{SECRET}\\n{SECRET}')"),
            "duplicate key value violates unique constraint \"people_email_key\"\nDETAIL: …\nCONTEXT: COPY people, line 2",
        ),
        (
            "values_check",
            "CREATE TABLE people (id integer, email text, CONSTRAINT short CHECK (length(email) < 5))".to_owned(),
            "new row for relation \"people\" violates check constraint \"short\"\nDETAIL: …\nCONTEXT: COPY people, line 2",
        ),
        (
            "values_type",
            "CREATE DOMAIN letter AS text; CREATE TYPE kind AS ENUM ('x'); CREATE TABLE people (id integer, email kind)".to_owned(),
            "invalid input value for enum public.kind: …\nCONTEXT: COPY people, line 2",
        ),
    ] {
        server.create(target, &table);
        let message = restore_into(&pod, server, target, &archive).await;
        assert!(message.contains(said), "{message}");
        assert!(!message.contains("anna"), "{message}");
    }
}

#[tokio::test]
async fn rows_are_in_no_error_of_a_statement() {
    let (server, pod) = (TestServer::shared(), Pod::new());
    server.create("values_statement", "CREATE TABLE people (id integer, email text UNIQUE)");
    let access = pod.plain(server);
    let session = access.connect_again(&access.hosts[0], "values_statement").await.unwrap();
    let insert = format!("INSERT INTO public.people VALUES (1, '{SECRET}')");
    session.run("insert", &insert).await.unwrap();
    let raise = format!("DO $$BEGIN RAISE 'no such person' USING DETAIL = '{SECRET}'; END$$");
    for (statement, said) in [
        (
            insert.as_str(),
            "insert: duplicate key value violates unique constraint \"people_email_key\" (SQLSTATE 23505)",
        ),
        (
            "SELECT email::integer FROM public.people",
            "insert: invalid input syntax for type integer: … (SQLSTATE 22P02)",
        ),
        (raise.as_str(), "insert: no such person (SQLSTATE P0001)"),
    ] {
        assert_eq!(failed(session.run("insert", statement).await).1, said);
    }
    // What is wrong with a statement itself is told with its detail.
    let drop = "BEGIN; CREATE ROLE values_owner; CREATE TABLE public.owned (); ALTER TABLE public.owned OWNER TO values_owner; DROP ROLE values_owner";
    let (_, message) = failed(session.run("drop", drop).await);
    assert!(message.contains("; owner of table public.owned"), "{message}");
}

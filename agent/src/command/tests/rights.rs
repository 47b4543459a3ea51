//! Restores by users who are no superusers: whatever PostgreSQL permits them works, and what it does not is told before anything is touched.

use super::*;

/// Users and a maintenance database of one test.
struct Rights {
    scene: Scene,
    /// Begins the names of its roles and databases.
    name: &'static str,
}

impl Rights {
    /// Makes `<name>_user`, who may make databases, and the other roles; the maintenance database `<name>_maintenance` lets the user in.
    fn new(name: &'static str, roles: &[&str]) -> Self {
        let scene = Scene::new();
        let sql = |sql: &str| scene.server.sql("postgres", sql);
        sql(&format!("CREATE DATABASE {name}_maintenance"));
        sql(&format!(
            "CREATE ROLE {name}_user LOGIN CREATEDB PASSWORD 'p'; GRANT CREATE ON DATABASE {name}_maintenance TO {name}_user"
        ));
        for role in roles {
            sql(&format!("CREATE ROLE {name}_{role}"));
        }
        Self { scene, name }
    }

    /// Makes a database by SQL in which `@` stands for this test's name, and copies it as a superuser.
    async fn backed_up(&self, database: &str, sql: &str) -> AgentResult {
        let database = self.named(database);
        self.scene.server.create(&database, &self.named(sql));
        let task = self.scene.backup_task("run-1", &[&database], &nothing());
        self.scene.backup("pod-1", &task).await.unwrap()
    }

    fn named(&self, text: &str) -> String {
        text.replace('@', self.name)
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        self.scene.server.sql(&self.named(database), &self.named(sql))
    }

    /// Restores as one of this test's roles, or as `postgres`.
    async fn restore(&self, user: &str, request: &str, more: &Value) -> Result<AgentResult, Failure> {
        let login = self.scene.places().login;
        write(&login.join("username"), &self.named(user));
        write(&login.join("password"), if user == "postgres" { PASSWORD } else { "p" });
        let mut to = self.scene.server_spec();
        to["maintenanceDatabase"] = json!(self.named("@_maintenance"));
        let mut task = json!({"to": {"postgresql": to}});
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let result = self.scene.restore("pod-2", &self.scene.restore_task(request, "run-1", &task)).await;
        assert_eq!(self.scene.beside("pod-2"), "");
        result
    }

    /// Why a restore is refused before it touches anything.
    async fn refused(&self, user: &str, request: &str, more: &Value) -> (Reason, String) {
        let (why, message, closed) = reason(self.restore(user, request, more).await);
        assert!(closed, "{message}");
        (why, message)
    }
}

fn membership(role: &str, user: &str) -> String {
    let with = if major() >= 16 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
    format!("GRANT \"{role}\" TO \"{user}\"{with}")
}

/// Several owners, who could once create where they may no more.
const OWNERS: &str = "
    ALTER DATABASE @ OWNER TO @_db; COMMENT ON DATABASE @ IS 'owned'; ALTER DATABASE @ SET work_mem = '3MB';
    GRANT CREATE ON DATABASE @ TO @_b, @_c; GRANT CREATE ON SCHEMA public TO @_a, @_b, @_c;
    CREATE SCHEMA \"s 'x\" AUTHORIZATION @_b; GRANT USAGE, CREATE ON SCHEMA \"s 'x\" TO @_a; CREATE SCHEMA kept AUTHORIZATION @_a; GRANT ALL ON SCHEMA kept TO @_b;
    SET ROLE @_a;
    CREATE TABLE parent (id integer PRIMARY KEY, note text); INSERT INTO parent SELECT n, 'n' FROM generate_series(1, 50) n;
    CREATE TABLE \"s 'x\".child (id integer PRIMARY KEY, parent integer REFERENCES parent); INSERT INTO \"s 'x\".child SELECT n, n FROM generate_series(1, 50) n;
    CREATE SEQUENCE counter; CREATE TYPE mood AS ENUM ('a', 'b'); CREATE DOMAIN positive AS integer CHECK (value > 0);
    CREATE TABLE parts (id integer, m mood) PARTITION BY RANGE (id); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (1, 'a');
    CREATE STATISTICS two ON id, note FROM parent;
    SELECT lo_from_bytea(0, 'mine');
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO @_b;
    GRANT SELECT, REFERENCES ON parent TO @_b; GRANT SELECT ON parent TO @_c WITH GRANT OPTION;
    SET ROLE @_c; GRANT SELECT ON parent TO PUBLIC;
    SET ROLE @_b;
    CREATE TABLE kept.guarded (id integer, owner text); INSERT INTO kept.guarded SELECT n, 'x' FROM generate_series(1, 20) n;
    ALTER TABLE kept.guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE kept.guarded FORCE ROW LEVEL SECURITY; CREATE POLICY none ON kept.guarded USING (false);
    CREATE TABLE unread (id integer); INSERT INTO unread VALUES (1), (2); REVOKE SELECT ON unread FROM @_b;
    CREATE VIEW \"s 'x\".v AS SELECT id FROM parent; CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n FROM parent;
    CREATE FUNCTION add(a integer, b integer) RETURNS integer LANGUAGE sql AS 'SELECT a + b'; REVOKE ALL ON FUNCTION add FROM PUBLIC; GRANT EXECUTE ON FUNCTION add TO @_a;
    CREATE PUBLICATION p FOR TABLE unread; COMMENT ON TABLE unread IS 'of b';
    SET ROLE @_c; CREATE TABLE third (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY); INSERT INTO third DEFAULT VALUES;
    RESET ROLE;
    REVOKE CREATE ON DATABASE @ FROM @_b; REVOKE CREATE ON SCHEMA public FROM @_b, @_c; REVOKE ALL ON SCHEMA \"s 'x\" FROM @_a; REVOKE CREATE ON SCHEMA kept FROM @_b;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_no_superuser_restores_objects_of_several_owners() {
    let rights = Rights::new("several", &["a", "b", "c", "db"]);
    let copy = rights.backed_up("@", OWNERS).await.copy.unwrap();
    let before = rights.scene.script("several");
    rights.sql("postgres", "DROP DATABASE @; GRANT @_a, @_c TO @_user");

    // Everything that is missing is named, with the command that gives it.
    let (why, message) = rights.refused("@_user", "r", &nothing()).await;
    assert_eq!(why, Reason::DatabasePermissionDenied);
    let expected = ["b", "db"]
        .map(|role| membership(&format!("several_{role}"), "several_user"))
        .join("; ");
    assert!(
        message.contains(&format!("objects): {expected}; or set missingRoles: Skip")),
        "{message}"
    );
    assert_eq!(
        rights.sql("@_maintenance", "SELECT count(*) FROM pg_namespace WHERE nspname = 'holdfast'"),
        "0"
    );
    rights.sql("postgres", &expected);

    let result = rights.restore("@_user", "r", &nothing()).await.unwrap();
    assert_eq!(result.reason, Reason::Succeeded, "{}", result.message);
    let restored = result.restored.unwrap();
    assert_eq!(restored.skipped, Vec::<String>::new());
    assert_eq!(
        (restored.tables, restored.rows),
        (copy.tables, copy.rows.unwrap()),
        "what row security hides is counted too"
    );
    let after = rights.scene.script("several");
    assert!(before == after, "{}", difference(&before, &after));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_the_user_cannot_act_as_are_skipped_where_the_request_says_so() {
    let rights = Rights::new("skipped", &["a", "b", "c", "db"]);
    rights.backed_up("@", OWNERS).await;
    rights.sql("postgres", "DROP DATABASE @; GRANT @_a TO @_user");
    let result = rights.restore("@_user", "r", &json!({"missingRoles": "Skip"})).await.unwrap();
    let skipped = result.restored.unwrap().skipped;
    for role in ["b", "c", "db"] {
        let told = format!("owner skipped_{role} of ");
        assert!(
            skipped
                .iter()
                .any(|note| note.contains(&told) && note.contains("is none that the restoring user can act as")),
            "{skipped:?}"
        );
    }
    assert!(
        skipped
            .iter()
            .any(|note| note.contains("left out: GRANT SELECT ON TABLE public.parent TO PUBLIC")),
        "{skipped:?}"
    );
    let owners = "SELECT string_agg(relname || ' ' || pg_get_userbyid(relowner), ', ' ORDER BY relname) FROM pg_class WHERE relname IN ('parent', 'guarded', 'third')";
    assert_eq!(
        rights.sql("@", owners),
        "guarded skipped_user, parent skipped_a, third skipped_user"
    );
    // What is granted to them stays.
    assert_eq!(
        rights.sql(
            "@",
            "SELECT has_table_privilege('@_b', 'parent', 'SELECT'), pg_get_userbyid(datdba) FROM pg_database WHERE datname = '@'"
        ),
        "t|skipped_user"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_superuser_can_make_is_named_before_anything_is_touched() {
    let rights = Rights::new("beyond", &[]);
    let sql = "
        CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER guard ON ddl_command_end EXECUTE FUNCTION watch();
        ALTER EVENT TRIGGER guard OWNER TO postgres; CREATE PUBLICATION everything FOR ALL TABLES; CREATE TABLE t AS SELECT 1 AS id;
        CREATE FUNCTION sly(integer) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true'; CREATE FUNCTION fine() RETURNS text LANGUAGE sql AS 'SELECT ''language c''';
        CREATE SCHEMA quiet; CREATE PUBLICATION several FOR TABLES IN SCHEMA quiet;";
    rights.backed_up("@", sql).await;
    let before = rights.scene.script("beyond");
    rights.sql("postgres", "DROP DATABASE @");
    let skip = json!({"missingRoles": "Skip"});
    let (why, message) = rights.refused("@_user", "r", &skip).await;
    assert_eq!(why, Reason::DatabasePermissionDenied);
    for thing in [
        "event trigger guard",
        "publication everything for all tables",
        "function public.sly(integer) (leakproof)",
        "publication tables in schema ",
    ] {
        assert!(message.contains(thing), "{thing} is not in {message}");
    }
    assert!(
        message.contains("restore with the credentials of a superuser") && !message.contains("fine"),
        "{message}"
    );
    assert_eq!(rights.restore("postgres", "r", &skip).await.unwrap().reason, Reason::Succeeded);
    let after = rights.scene.script("beyond");
    assert!(before == after, "{}", difference(&before, &after));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_make_roles_makes_the_missing_ones() {
    let rights = Rights::new("maker", &["group"]);
    let sql = "CREATE ROLE @_gone LOGIN CONNECTION LIMIT 3 REPLICATION; ALTER ROLE @_gone SET work_mem = '5MB'; GRANT @_group TO @_gone;
        CREATE TABLE t AS SELECT 1 AS id; ALTER TABLE t OWNER TO @_gone; ALTER DATABASE @ OWNER TO @_user";
    rights.backed_up("@", sql).await;
    rights.sql("postgres", "DROP DATABASE @; DROP ROLE @_gone");
    let create = json!({"missingRoles": "Create"});
    let (why, message) = rights.refused("@_user", "r", &create).await;
    assert_eq!(why, Reason::DatabasePermissionDenied);
    assert!(
        message.contains("it may not create the missing roles: ALTER ROLE \"maker_user\" CREATEROLE"),
        "{message}"
    );
    rights.sql("postgres", "ALTER ROLE @_user CREATEROLE");
    let skipped = rights.restore("@_user", "r", &create).await.unwrap().restored.unwrap().skipped;
    assert!(
        skipped.iter().any(|note| note.contains("REPLICATION of role maker_gone")),
        "{skipped:?}"
    );
    let role = "SELECT rolcanlogin, rolconnlimit, rolreplication, rolconfig FROM pg_roles WHERE rolname = '@_gone'";
    assert_eq!(rights.sql("postgres", role), "t|3|f|{work_mem=5MB}");
    // Who makes roles may give all memberships before 16, and since then those of roles that he administers.
    let told = skipped.iter().any(|note| note.contains("membership of maker_gone in maker_group"));
    assert_eq!(told, major() >= 16, "{skipped:?}");
    assert_eq!(
        rights.sql("@", "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 't'"),
        "maker_gone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_are_kept_by_whoever_may_and_is_trusted() {
    let rights = Rights::new("receipts", &["second", "third"]);
    rights
        .backed_up(
            "@",
            "CREATE TABLE t AS SELECT 1 AS id; ALTER TABLE t OWNER TO @_user; ALTER DATABASE @ OWNER TO @_user",
        )
        .await;
    rights.sql(
        "postgres",
        "ALTER ROLE @_second LOGIN CREATEDB PASSWORD 'p'; ALTER ROLE @_third LOGIN CREATEDB PASSWORD 'p'; GRANT @_user TO @_second",
    );
    let to = |name: &str| json!({"select": {"rename": {"receipts": name}}});
    rights.sql("postgres", "REVOKE CREATE ON DATABASE @_maintenance FROM @_user");
    let (why, message) = rights.refused("@_user", "first", &to("receipts_1")).await;
    assert_eq!(why, Reason::DatabasePermissionDenied);
    assert!(
        message.contains("GRANT CREATE ON DATABASE \"receipts_maintenance\" TO \"receipts_user\""),
        "{message}"
    );
    rights.sql("postgres", "GRANT CREATE ON DATABASE @_maintenance TO @_user");
    assert_eq!(
        rights.restore("@_user", "first", &to("receipts_1")).await.unwrap().reason,
        Reason::Succeeded
    );

    // A member of the first role uses its tables, and the same request of another role finds the receipt.
    assert_eq!(
        rights.restore("@_second", "second", &to("receipts_2")).await.unwrap().reason,
        Reason::Succeeded
    );
    assert_eq!(
        rights.restore("@_second", "first", &to("receipts_1")).await.unwrap().reason,
        Reason::AlreadyDone
    );

    // Who owns the tables could have a stranger, or a superuser, run his code.
    let skip = json!({"select": {"rename": {"receipts": "receipts_3"}}, "missingRoles": "Skip"});
    let (why, message) = rights.refused("@_third", "third", &skip).await;
    assert_eq!(why, Reason::DatabasePermissionDenied);
    assert!(
        message.contains("would write to tables of role receipts_user")
            && message.contains("or GRANT \"receipts_user\" TO \"receipts_third\""),
        "{message}"
    );
    let (why, message) = rights.refused("postgres", "super", &to("receipts_4")).await;
    assert_eq!(why, Reason::DatabasePermissionDenied);
    let alter = "ALTER SCHEMA holdfast OWNER TO \"postgres\"; ALTER TABLE holdfast.receipts OWNER TO \"postgres\"; ALTER TABLE holdfast.attempts OWNER TO \"postgres\"";
    assert!(message.contains(alter), "{message}");
    rights.sql("@_maintenance", alter);
    assert_eq!(
        rights.restore("postgres", "super", &to("receipts_4")).await.unwrap().reason,
        Reason::Succeeded
    );

    // Tables of a superuser are for everybody who was granted their use.
    let (why, message) = rights.refused("@_third", "third", &skip).await;
    assert_eq!(why, Reason::DatabasePermissionDenied);
    let grants = "GRANT USAGE ON SCHEMA holdfast TO \"receipts_third\"; GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA holdfast TO \"receipts_third\"";
    assert!(message.contains(grants), "{message}");
    rights.sql("@_maintenance", grants);
    assert_eq!(rights.restore("@_third", "third", &skip).await.unwrap().reason, Reason::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_database_is_replaced_only_by_who_may_and_with_whoever_is_connected() {
    let rights = Rights::new("empty", &["other"]);
    rights
        .backed_up(
            "@",
            "CREATE TABLE t AS SELECT 1 AS id; ALTER TABLE t OWNER TO @_user; ALTER DATABASE @ OWNER TO @_user",
        )
        .await;
    rights.sql("postgres", "CREATE DATABASE @_new; ALTER ROLE @_other LOGIN PASSWORD 'p'");
    let rename = json!({"select": {"rename": {"empty": "empty_new"}}});
    let (why, message) = rights.refused("@_user", "r", &rename).await;
    assert_eq!(why, Reason::DatabasePermissionDenied);
    assert!(
        message.contains("belongs to role postgres") && message.contains("GRANT \"postgres\" TO \"empty_user\", drop it"),
        "{message}"
    );
    rights.sql("postgres", "ALTER DATABASE @_new OWNER TO @_user");

    // Somebody is connected, whose sessions the user may not end; and then may.
    let login = rights.scene.places().login;
    write(&login.join("username"), "empty_other");
    write(&login.join("password"), "p");
    let guest = session(&rights.scene, "empty_new").await;
    let (why, message) = rights.refused("@_user", "r", &rename).await;
    assert_eq!(why, Reason::DatabasePermissionDenied);
    assert!(
        message.contains("roles empty_other are connected to it") && message.contains("GRANT pg_signal_backend TO \"empty_user\""),
        "{message}"
    );
    rights.sql("postgres", "GRANT pg_signal_backend TO @_user");
    assert_eq!(rights.restore("@_user", "r", &rename).await.unwrap().reason, Reason::Succeeded);
    assert_eq!(rights.sql("@_new", "SELECT count(*) FROM t"), "1");
    assert_eq!(
        guest.run("look", "SELECT 1").await.unwrap_err().reason(),
        Reason::DatabaseConnectionLost
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_objects_lie_in_a_schema_named_holdfast_is_not_empty() {
    let rights = Rights::new("namesake", &[]);
    rights.backed_up("@", "CREATE TABLE t AS SELECT 1 AS id").await;
    for (number, sql) in [
        "CREATE SCHEMA holdfast; CREATE TABLE holdfast.precious AS SELECT 1 AS id",
        "CREATE COLLATION mine FROM \"C\"",
        "CREATE FOREIGN DATA WRAPPER w",
    ]
    .iter()
    .enumerate()
    {
        let target = format!("namesake_{number}");
        rights.scene.server.create(&target, sql);
        let rename = json!({"select": {"rename": {"namesake": target}}});
        assert_eq!(rights.refused("postgres", "r", &rename).await.0, Reason::TargetNotEmpty, "{sql}");
    }
    assert_eq!(rights.sql("@_0", "SELECT count(*) FROM holdfast.precious"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ended_attempt_left_as_another_user_is_told_until_it_can_be_dropped() {
    let rights = Rights::new("former", &["other"]);
    rights.backed_up("@", "CREATE TABLE t AS SELECT 1 AS id").await;
    rights.sql("postgres", "DROP DATABASE @");
    // The user was another one then; whoever restores now may write to the tables of a superuser.
    let mut to = rights.scene.server_spec();
    to["maintenanceDatabase"] = json!("former_maintenance");
    let request = rights.scene.restore_task("r", "run-1", &json!({"to": {"postgresql": to}}));
    let identity = receipt::Identity {
        digest: request.digest.clone(),
        namespace: "shop".to_owned(),
        request: "r".to_owned(),
        copy: request.path.clone(),
        pod: rights.scene.pod("pod-former"),
    };
    let left = format!("holdfast-{}-0", identity.pod);
    let dead = session(&rights.scene, "former_maintenance").await;
    receipt::begin(&dead, &identity).await.unwrap();
    receipt::note(&dead, &identity, &left, "former").await.unwrap();
    drop(dead);
    rights.sql("postgres", &format!("CREATE DATABASE \"{left}\" OWNER @_other"));
    rights.sql(
        "@_maintenance",
        "GRANT USAGE ON SCHEMA holdfast TO @_user; GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA holdfast TO @_user",
    );
    let told = format!("database {left} of an ended attempt stays: it belongs to role former_other, which user former_user cannot act as");

    let (_, message) = rights.refused("@_user", "r", &json!({"select": {"databases": ["unknown"]}})).await;
    assert!(message.contains(&told), "a failure tells it too: {message}");
    let skip = json!({"missingRoles": "Skip"});
    let result = rights.restore("@_user", "r", &skip).await.unwrap();
    assert_eq!(result.reason, Reason::Succeeded, "{}", result.message);
    let skipped = result.restored.unwrap().skipped;
    assert!(skipped.iter().any(|note| note.starts_with(&told)), "{skipped:?}");
    assert_eq!(rights.scene.beside("pod-former"), left);
    let again = rights.restore("@_user", "r", &skip).await.unwrap();
    assert_eq!(again.reason, Reason::AlreadyDone);
    assert!(again.message.contains(&told), "{}", again.message);

    let settle = || async {
        let invocation = rights.scene.invocation("pod-4", Action::SettleRestore(request.clone()));
        restore::settle(&invocation, &request).await.unwrap().message
    };
    assert!(settle().await.contains(&told));
    // Who asks about the end drops it, once that is allowed: there may be no other attempt.
    rights.sql("postgres", &membership("@_other", "@_user"));
    let message = settle().await;
    assert!(!message.contains(&left), "{message}");
    assert_eq!(rights.scene.beside("pod-former"), "");
}

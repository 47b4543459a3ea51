//! What SQL of dumps looks like, and what is read in it.

use super::*;

fn texts(statements: &[&[u8]]) -> Vec<String> {
    statements.iter().map(|sql| String::from_utf8_lossy(sql).into_owned()).collect()
}

fn names(sql: &str) -> Vec<String> {
    roles(sql.as_bytes())
        .iter()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

#[test]
fn statements_end_where_the_server_ends_them() {
    let sql =
        "--\n-- a; comment\n\\restrict abc;\nSELECT ';', \";\", E'\\';', $$;$$, $a$;$$;$a$; /* ; */ SELECT 2 ;\n;;SELECT x$1;last 'open;";
    let expected = [
        "SELECT ';', \";\", E'\\';', $$;$$, $a$;$$;$a$",
        "SELECT 2",
        "SELECT x$1",
        "last 'open;",
    ];
    assert_eq!(texts(&split(sql.as_bytes())), expected);
}

#[test]
fn roles_are_found_where_pg_dump_writes_them() {
    for (sql, expected) in [
        (
            "GRANT SELECT ON TABLE public.\"to\" TO \"we\"\"ird\", b WITH GRANT OPTION",
            vec!["we\"ird", "b"],
        ),
        ("GRANT ALL ON FUNCTION f(\"to\" integer) TO PUBLIC", vec![]),
        ("GRANT ALL ON SCHEMA s TO \"PUBLIC\"", vec!["PUBLIC"]),
        ("REVOKE ALL ON SCHEMA public FROM PUBLIC", vec![]),
        ("REVOKE GRANT OPTION FOR INSERT ON TABLE t FROM r", vec!["r"]),
        ("REVOKE CONNECT ON DATABASE d FROM r CASCADE", vec!["r"]),
        (
            "ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT SELECT ON TABLES  TO b",
            vec!["a", "b"],
        ),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE a REVOKE ALL ON TABLES  FROM a", vec!["a", "a"]),
        ("SET SESSION AUTHORIZATION \"a b\"", vec!["a b"]),
        ("SET SESSION AUTHORIZATION 'a b'", vec!["a b"]),
        ("RESET SESSION AUTHORIZATION", vec![]),
        (
            "CREATE POLICY p ON public.t AS RESTRICTIVE FOR SELECT TO r1, \"R 2\" USING ((a = ' TO x'::text))",
            vec!["r1", "R 2"],
        ),
        ("CREATE POLICY p ON public.t USING (true)", vec![]),
        ("CREATE POLICY p ON public.t FOR INSERT TO r WITH CHECK (true)", vec!["r"]),
        ("CREATE USER MAPPING FOR r SERVER s OPTIONS (\n    \"user\" 'x'\n)", vec!["r"]),
        ("CREATE USER MAPPING FOR PUBLIC SERVER s", vec![]),
        ("ALTER ROLE r IN DATABASE d SET work_mem TO '1MB'", vec!["r"]),
        ("GRANT a TO b WITH INHERIT TRUE GRANTED BY c", vec!["b", "c"]),
        ("CREATE TABLE t (a integer)", vec![]),
    ] {
        assert_eq!(names(sql), expected, "{sql}");
    }
}

#[test]
fn who_is_no_superuser_sets_roles_instead_of_authorizations() {
    let text = |sql: Option<Vec<u8>>| sql.map(|sql| String::from_utf8(sql).unwrap());
    let sql = b"SET SESSION AUTHORIZATION \"a b\";\nGRANT SELECT ON t TO c;\nRESET SESSION AUTHORIZATION;\n";
    let turned = "SET ROLE \"a b\";\nGRANT SELECT ON t TO c;\nRESET ROLE;\n";
    assert_eq!(text(with_set_role(sql)).as_deref(), Some(turned));
    assert_eq!(text(with_set_role(b"GRANT SELECT ON t TO c;")), None);
    for (sql, role) in [
        ("SET SESSION AUTHORIZATION \"a b\"", Some("a b")),
        ("SET SESSION AUTHORIZATION 'a b'", Some("a b")),
        ("SET ROLE c", Some("c")),
        (
            "ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA s GRANT SELECT ON TABLES TO b",
            Some("a"),
        ),
        ("ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT SELECT ON TABLES TO b", None),
        ("RESET ROLE", None),
        ("GRANT a TO b", None),
    ] {
        assert_eq!(text(acting(sql.as_bytes())).as_deref(), role, "{sql}");
    }
    let sql = b"ALTER ROLE \"superuser\" WITH SUPERUSER INHERIT NOCREATEROLE LOGIN NOREPLICATION BYPASSRLS PASSWORD 'SUPERUSER'";
    let (kept, given) = without_superuser_attributes(sql);
    assert_eq!(
        text(Some(kept)).as_deref(),
        Some("ALTER ROLE \"superuser\" WITH INHERIT NOCREATEROLE LOGIN PASSWORD 'SUPERUSER'")
    );
    assert_eq!(given, ["SUPERUSER", "BYPASSRLS"]);
    assert!(has_keywords(
        b"CREATE FUNCTION f() RETURNS void LANGUAGE c AS 'x'",
        &["LANGUAGE", "c"]
    ));
    assert!(!has_keywords(
        b"CREATE FUNCTION f() LANGUAGE sql AS 'language c'",
        &["LANGUAGE", "c"]
    ));
}

#[test]
fn a_statement_is_turned_to_another_database() {
    for (sql, expected) in [
        (
            "CREATE DATABASE \"a b\" WITH TEMPLATE = template0",
            Some("CREATE DATABASE \"x\"\"y\" WITH TEMPLATE = template0"),
        ),
        (
            "ALTER DATABASE d SET search_path TO 'DATABASE d'",
            Some("ALTER DATABASE \"x\"\"y\" SET search_path TO 'DATABASE d'"),
        ),
        (
            "ALTER ROLE database IN DATABASE d SET a TO 'b'",
            Some("ALTER ROLE database IN DATABASE \"x\"\"y\" SET a TO 'b'"),
        ),
        (
            "COMMENT ON DATABASE d IS 'on DATABASE d'",
            Some("COMMENT ON DATABASE \"x\"\"y\" IS 'on DATABASE d'"),
        ),
        (
            "GRANT CONNECT ON DATABASE d TO r",
            Some("GRANT CONNECT ON DATABASE \"x\"\"y\" TO r"),
        ),
        ("SET SESSION AUTHORIZATION r", None),
    ] {
        let turned = for_database(sql.as_bytes(), "x\"y").map(|sql| String::from_utf8(sql).unwrap());
        assert_eq!(turned.as_deref(), expected);
    }
    let sql = b"CREATE DATABASE d WITH TEMPLATE = template0 TABLESPACE = \"fast disk\" LOCALE = 'C'";
    assert_eq!(
        without_tablespace(sql),
        Some((
            b"CREATE DATABASE d WITH TEMPLATE = template0  LOCALE = 'C'".to_vec(),
            b"fast disk".to_vec()
        ))
    );
    assert_eq!(
        membership(b"GRANT a TO \"b c\" GRANTED BY d"),
        Some((b"a".to_vec(), b"b c".to_vec()))
    );
    assert_eq!(membership(b"GRANT SELECT ON t TO b"), None);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(sql in proptest::collection::vec(proptest::sample::select(b"$'\"\\;-/*Ea( ,\n\xc3".to_vec()), 0..60)) {
        for statement in split(&sql) {
            roles(statement);
            for_database(statement, "x");
            without_tablespace(statement);
            membership(statement);
            acting(statement);
            without_superuser_attributes(statement);
        }
        with_set_role(&sql);
    }
}

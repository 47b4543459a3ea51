//! The SQL of archives and globals, as far as a restore must understand it: where statements end, which roles they name, and for which
//! database they are. Texts are bytes: they are in the dump's encoding, in which ASCII is always ASCII.

use std::ops::Range;

/// A piece of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word that is not quoted: keyword or name.
    Word,
    /// A name in double quotes.
    Quoted,
    /// A string of any kind.
    Text,
    /// One character of punctuation.
    Mark(u8),
}

type Piece = (Token, Range<usize>);

/// Cuts SQL into statements, without their semicolons, without comments and psql's own lines between them.
pub fn split(sql: &[u8]) -> Vec<&[u8]> {
    let mut statements = Vec::new();
    let mut start = None;
    let mut end = 0;
    for (token, range) in pieces(sql) {
        if token == Token::Mark(b';') {
            if let Some(start) = start.take() {
                statements.push(&sql[start..end]);
            }
        } else {
            start.get_or_insert(range.start);
            end = range.end;
        }
    }
    statements.extend(start.map(|start| &sql[start..end]));
    statements
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn find(sql: &[u8], from: usize, needle: &[u8]) -> usize {
    sql[from..]
        .windows(needle.len().max(1))
        .position(|window| window == needle)
        .map_or(sql.len(), |at| from + at)
}

/// Behind the end of a quoted piece that begins at `at`. A doubled quote is part of it; with `escapes` so is one behind a backslash.
fn quoted_end(sql: &[u8], at: usize, escapes: bool) -> usize {
    let quote = sql[at];
    let mut next = at + 1;
    while next < sql.len() {
        match sql[next] {
            b'\\' if escapes => next += 2,
            byte if byte == quote && sql.get(next + 1) == Some(&quote) => next += 2,
            byte if byte == quote => return next + 1,
            _ => next += 1,
        }
    }
    sql.len()
}

/// The delimiter of a dollar-quoted string that begins at `at`, such as `$$` or `$body$`.
fn dollar_delimiter(sql: &[u8], at: usize) -> Option<&[u8]> {
    let close = sql[at + 1..].iter().position(|byte| !is_word(*byte) || *byte == b'$')?;
    let delimiter = &sql[at..=at + 1 + close];
    let tag = &delimiter[1..delimiter.len() - 1];
    (delimiter.ends_with(b"$") && !tag.first().is_some_and(u8::is_ascii_digit)).then_some(delimiter)
}

fn pieces(sql: &[u8]) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < sql.len() {
        let rest = &sql[at..];
        let begins_line = at == 0 || sql[at - 1] == b'\n';
        let (token, end) = match rest[0] {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'-' if rest.starts_with(b"--") => {
                at = find(sql, at, b"\n");
                continue;
            }
            // `\restrict` and `\connect` are psql's.
            b'\\' if begins_line => {
                at = find(sql, at, b"\n");
                continue;
            }
            b'/' if rest.starts_with(b"/*") => {
                at = (find(sql, at + 2, b"*/") + 2).min(sql.len());
                continue;
            }
            b'\'' => (Token::Text, quoted_end(sql, at, false)),
            b'E' | b'e' if rest.get(1) == Some(&b'\'') => (Token::Text, quoted_end(sql, at + 1, true)),
            b'"' => (Token::Quoted, quoted_end(sql, at, false)),
            b'$' if let Some(delimiter) = dollar_delimiter(sql, at) => {
                let close = find(sql, at + delimiter.len(), delimiter);
                (Token::Text, (close + delimiter.len()).min(sql.len()))
            }
            byte if is_word(byte) => {
                let length = rest.iter().position(|byte| !is_word(*byte)).unwrap_or(rest.len());
                (Token::Word, at + length)
            }
            byte => (Token::Mark(byte), at + 1),
        };
        found.push((token, at..end));
        at = end;
    }
    found
}

/// A statement taken apart.
struct Statement<'a> {
    sql: &'a [u8],
    pieces: Vec<Piece>,
}

impl<'a> Statement<'a> {
    fn new(sql: &'a [u8]) -> Self {
        Self { sql, pieces: pieces(sql) }
    }

    /// Whether piece `n` is this keyword.
    fn is(&self, n: usize, keyword: &str) -> bool {
        self.pieces
            .get(n)
            .is_some_and(|(token, range)| *token == Token::Word && self.sql[range.clone()].eq_ignore_ascii_case(keyword.as_bytes()))
    }

    fn begins(&self, keywords: &[&str]) -> bool {
        keywords.iter().enumerate().all(|(n, keyword)| self.is(n, keyword))
    }

    /// The name that piece `n` is, unquoted.
    fn name(&self, n: usize) -> Option<Vec<u8>> {
        let (token, range) = self.pieces.get(n)?;
        let text = &self.sql[range.clone()];
        match token {
            Token::Word => Some(text.to_vec()),
            Token::Quoted if text.len() >= 2 => {
                let inner = &text[1..text.len() - 1];
                let mut name = Vec::with_capacity(inner.len());
                let mut bytes = inner.iter();
                while let Some(byte) = bytes.next() {
                    name.push(*byte);
                    if *byte == b'"' {
                        bytes.next();
                    }
                }
                Some(name)
            }
            _ => None,
        }
    }

    /// The last piece outside of parentheses that is one of these keywords.
    fn last_keyword(&self, keywords: &[&str]) -> Option<usize> {
        let mut depth = 0_usize;
        let mut last = None;
        for (n, (token, _)) in self.pieces.iter().enumerate() {
            match token {
                Token::Mark(b'(') => depth += 1,
                Token::Mark(b')') => depth = depth.saturating_sub(1),
                Token::Word if depth == 0 && keywords.iter().any(|keyword| self.is(n, keyword)) => last = Some(n),
                _ => {}
            }
        }
        last
    }

    /// The first piece that is this keyword.
    fn first_keyword(&self, keyword: &str) -> Option<usize> {
        (0..self.pieces.len()).find(|n| self.is(*n, keyword))
    }

    /// The names of a comma-separated list that begins at piece `n`; an unquoted `PUBLIC` is no role.
    fn list(&self, mut n: usize) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        while let Some(name) = self.name(n) {
            if !self.is(n, "PUBLIC") {
                names.push(name);
            }
            if !matches!(self.pieces.get(n + 1), Some((Token::Mark(b','), _))) {
                break;
            }
            n += 2;
        }
        names
    }

    /// Where the name of the database stands that the statement is about.
    fn database(&self) -> Option<usize> {
        let direct = self.begins(&["CREATE", "DATABASE"]) || self.begins(&["ALTER", "DATABASE"]);
        if direct {
            return Some(2);
        }
        let before = if self.begins(&["ALTER", "ROLE"]) { "IN" } else { "ON" };
        (0..self.pieces.len())
            .find(|n| self.is(*n, before) && self.is(n + 1, "DATABASE"))
            .map(|n| n + 2)
    }
}

/// The roles that a statement of an archive names: grantees, grantors, those of policies, user mappings and settings.
pub fn roles(sql: &[u8]) -> Vec<Vec<u8>> {
    let statement = Statement::new(sql);
    let mut roles = Vec::new();
    if statement.begins(&["GRANT"]) || statement.begins(&["REVOKE"]) || statement.begins(&["ALTER", "DEFAULT", "PRIVILEGES"]) {
        if statement.begins(&["ALTER"]) && statement.is(3, "FOR") {
            roles.extend(statement.name(5));
        }
        roles.extend(
            statement
                .last_keyword(&["TO", "FROM"])
                .map(|n| statement.list(n + 1))
                .unwrap_or_default(),
        );
        if let Some(by) = statement.last_keyword(&["GRANTED"]) {
            roles.extend(statement.name(by + 2));
        }
    } else if statement.begins(&["SET", "SESSION", "AUTHORIZATION"]) {
        roles.extend(
            statement
                .name(3)
                .filter(|_| !statement.is(3, "DEFAULT"))
                .or_else(|| statement.text(3)),
        );
    } else if statement.begins(&["CREATE", "POLICY"]) {
        let body = statement.last_keyword(&["USING", "WITH"]).unwrap_or(usize::MAX);
        let to = (0..statement.pieces.len().min(body)).rev().find(|n| statement.is(*n, "TO"));
        roles.extend(to.map(|n| statement.list(n + 1)).unwrap_or_default());
    } else if statement.begins(&["CREATE", "USER", "MAPPING", "FOR"]) {
        roles.extend(statement.list(4));
    } else if statement.begins(&["ALTER", "ROLE"]) || statement.begins(&["CREATE", "ROLE"]) {
        roles.extend(statement.name(2).filter(|_| !statement.is(2, "ALL")));
    }
    roles
}

impl Statement<'_> {
    /// A plain string's content.
    fn text(&self, n: usize) -> Option<Vec<u8>> {
        let (token, range) = self.pieces.get(n)?;
        let text = &self.sql[range.clone()];
        (*token == Token::Text && text.first() == Some(&b'\'')).then(|| text[1..text.len() - 1].to_vec())
    }
}

/// The statement for another database, if it is about one.
pub fn for_database(sql: &[u8], database: &str) -> Option<Vec<u8>> {
    let statement = Statement::new(sql);
    let (_, range) = statement.pieces.get(statement.database()?)?;
    let quoted = super::super::session::identifier(database);
    Some([&sql[..range.start], quoted.as_bytes(), &sql[range.end..]].concat())
}

/// `CREATE DATABASE` without its tablespace, which the target may not have.
pub fn without_tablespace(sql: &[u8]) -> Vec<u8> {
    let statement = Statement::new(sql);
    let Some(at) = statement.first_keyword("TABLESPACE") else {
        return sql.to_vec();
    };
    let mut end = at + 1;
    if matches!(statement.pieces.get(end), Some((Token::Mark(b'='), _))) {
        end += 1;
    }
    let from = statement.pieces[at].1.start;
    let to = statement.pieces.get(end).map_or(sql.len(), |(_, range)| range.end);
    [&sql[..from], &sql[to..]].concat()
}

/// The two roles of `GRANT a TO b`, as globals hold memberships.
pub fn membership(sql: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let statement = Statement::new(sql);
    let plain = statement.begins(&["GRANT"]) && statement.first_keyword("ON").is_none() && statement.is(2, "TO");
    if plain {
        Some((statement.name(1)?, statement.name(3)?))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
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
        let sql = "--\n-- a; comment\n\\restrict abc;\nSELECT ';', \";\", E'\\';', $$;$$, $a$;$$;$a$; /* ; */ SELECT 2 ;\n;;SELECT x$1;last 'open;";
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
            String::from_utf8(without_tablespace(sql)).unwrap(),
            "CREATE DATABASE d WITH TEMPLATE = template0  LOCALE = 'C'"
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
            }
        }
    }
}

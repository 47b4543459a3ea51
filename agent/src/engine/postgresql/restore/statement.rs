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

/// The role as whom a statement works: the one that it sets, or whose default privileges it changes.
pub fn acting(sql: &[u8]) -> Option<Vec<u8>> {
    let statement = Statement::new(sql);
    if statement.begins(&["SET", "SESSION", "AUTHORIZATION"]) || statement.begins(&["SET", "ROLE"]) {
        let n = if statement.is(1, "ROLE") { 2 } else { 3 };
        return statement
            .name(n)
            .filter(|_| !statement.is(n, "DEFAULT"))
            .or_else(|| statement.text(n));
    }
    (statement.begins(&["ALTER", "DEFAULT", "PRIVILEGES"]) && statement.is(3, "FOR")).then(|| statement.name(5))?
}

/// The statements with `SET ROLE` in place of `SET SESSION AUTHORIZATION`, which is for superusers; `None` if there is none.
pub fn with_set_role(sql: &[u8]) -> Option<Vec<u8>> {
    let (mut turned, mut any) = (Vec::with_capacity(sql.len()), false);
    for text in split(sql) {
        let statement = Statement::new(text);
        let n = usize::from(statement.begins(&["SET", "SESSION", "AUTHORIZATION"]));
        if n == 1 || statement.begins(&["RESET", "SESSION", "AUTHORIZATION"]) {
            any = true;
            turned.extend_from_slice(if n == 1 { b"SET ROLE" } else { b"RESET ROLE" });
            turned.extend_from_slice(&text[statement.pieces[2].1.end..]);
        } else {
            turned.extend_from_slice(text);
        }
        turned.extend_from_slice(b";\n");
    }
    any.then_some(turned)
}

/// Whether a statement has these keywords, one after the other, outside of strings and parentheses.
pub fn has_keywords(sql: &[u8], keywords: &[&str]) -> bool {
    let statement = Statement::new(sql);
    (0..statement.pieces.len()).any(|at| keywords.iter().enumerate().all(|(n, keyword)| statement.is(at + n, keyword)))
}

/// `ALTER ROLE … WITH …` without what only a superuser may set, and which of it had been given.
pub fn without_superuser_attributes(sql: &[u8]) -> (Vec<u8>, Vec<String>) {
    const ATTRIBUTES: [&str; 3] = ["SUPERUSER", "REPLICATION", "BYPASSRLS"];
    let statement = Statement::new(sql);
    if !statement.begins(&["ALTER", "ROLE"]) || !statement.is(3, "WITH") {
        return (sql.to_vec(), Vec::new());
    }
    let (mut kept, mut given, mut from) = (Vec::with_capacity(sql.len()), Vec::new(), 0);
    for n in 4..statement.pieces.len() {
        let range = statement.pieces[n].1.clone();
        let has = ATTRIBUTES.iter().find(|attribute| statement.is(n, attribute));
        if has.is_some() || ATTRIBUTES.iter().any(|attribute| statement.is(n, &format!("NO{attribute}"))) {
            kept.extend_from_slice(sql[from..range.start].trim_ascii_end());
            from = range.end;
            given.extend(has.map(ToString::to_string));
        }
    }
    kept.extend_from_slice(&sql[from..]);
    (kept, given)
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

/// `CREATE DATABASE` without its tablespace, and that; `None` if it has none.
pub fn without_tablespace(sql: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let statement = Statement::new(sql);
    let at = statement.first_keyword("TABLESPACE")?;
    let mut end = at + 1;
    if matches!(statement.pieces.get(end), Some((Token::Mark(b'='), _))) {
        end += 1;
    }
    let from = statement.pieces[at].1.start;
    let to = statement.pieces.get(end).map_or(sql.len(), |(_, range)| range.end);
    Some(([&sql[..from], &sql[to..]].concat(), statement.name(end)?))
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
mod tests;

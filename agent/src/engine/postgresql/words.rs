//! What PostgreSQL says, without what rows hold: its words go to status, events and logs, where the data of a row has no business.
//!
//! A server tells values in the detail of an error (`Key (email)=(…) already exists.`, `Failing row contains (…)`), in its context
//! (`COPY people, line 2, column born: "…"`) and, of values that it cannot read, in the message itself. The tools print all of it; their labels are
//! English with `LC_ALL=C`, while the server's own words may be of another language. What is cut stands in the server's log.

use tokio_postgres::error::SqlState;

/// What stands in place of what was cut.
const CUT: &str = "…";

/// Words after which a quoted text is a name of the schema, not a value of a row.
const NAMED: [&str; 30] = [
    "aggregate",
    "cast",
    "collation",
    "column",
    "constraint",
    "database",
    "domain",
    "encoding",
    "extension",
    "file",
    "function",
    "index",
    "language",
    "operator",
    "parameter",
    "policy",
    "procedure",
    "publication",
    "relation",
    "role",
    "rule",
    "schema",
    "sequence",
    "server",
    "subscription",
    "table",
    "tablespace",
    "trigger",
    "type",
    "user",
];

/// The lines of one tool, one after the other.
#[derive(Debug, Default)]
pub(super) struct Words {
    now: Part,
}

/// What the last line was of.
#[derive(Debug, Default, PartialEq)]
enum Part {
    /// The tool's own words: the lines that go on with them are kept.
    #[default]
    Tool,
    /// A server's message, or what it adds: the lines that go on with them may be a value's.
    Server,
}

impl Words {
    /// What may be told of a line; nothing of one that only goes on with what was cut.
    pub(super) fn line(&mut self, tool: &str, line: &str) -> Option<String> {
        let own = line.strip_prefix(tool).is_some_and(|rest| rest.starts_with(": "));
        for label in ["DETAIL:", "QUERY:", "LINE "] {
            if line.starts_with(label) && !own {
                self.now = Part::Server;
                let label = label.trim_end();
                return Some(format!("{label} {CUT}"));
            }
        }
        if let Some(context) = line.strip_prefix("CONTEXT:") {
            self.now = Part::Server;
            return Some(format!("CONTEXT: {}", place(context).unwrap_or(CUT)));
        }
        if line.starts_with("HINT:") {
            self.now = Part::Server;
            return Some(line.to_owned());
        }
        // Statements of the schema hold passwords: those of subscriptions, user mappings and foreign servers.
        if let Some(at) = line.find("Command was: ") {
            self.now = Part::Server;
            let end = line[at..].find(['\'', '$']).map_or(line.len(), |quote| at + quote);
            let cut = if end < line.len() { CUT } else { "" };
            return Some(format!("{}{cut}", &line[..end]));
        }
        if own {
            self.now = Part::Tool;
        }
        if self.now == Part::Server {
            return None;
        }
        // A server's message begins with its severity and two spaces.
        let Some(at) = line.find(":  ").map(|at| at + 3) else {
            return Some(line.to_owned());
        };
        self.now = Part::Server;
        Some(format!("{}{}", &line[..at], without_values(&line[at..])))
    }
}

/// `COPY people, line 2` of a context that goes on with the line or a value of it.
fn place(context: &str) -> Option<&str> {
    let context = context.trim_start();
    let digits = context.starts_with("COPY ").then(|| context.find(", line "))?? + ", line ".len();
    let end = context[digits..]
        .find(|c: char| !c.is_ascii_digit())
        .map_or(context.len(), |end| digits + end);
    (end > digits).then_some(&context[..end])
}

/// A server's message up to the first quoted text that is no name.
pub(super) fn without_values(message: &str) -> String {
    const RANGE: &str = " is out of range for type ";
    let mut at = 0;
    while let Some(quote) = message[at..].find(['"', '„', '“', '«', '»']).map(|found| at + found) {
        let before = message[..quote].trim_end();
        let is_name = NAMED.contains(&before.rsplit(|c: char| !c.is_alphabetic()).next().unwrap_or_default()) && before.len() < quote;
        let quoted = message[quote..].strip_prefix('"').filter(|_| is_name);
        let Some(length) = quoted.and_then(|quoted| quoted.find('"')) else {
            let rest = message
                .rfind(RANGE)
                .filter(|range| *range > quote)
                .map_or("", |range| &message[range..]);
            return format!("{}{CUT}{rest}", &message[..quote]);
        };
        at = quote + length + 2;
    }
    message.to_owned()
}

/// Whether errors of that code tell values of rows: of data that cannot be read, of constraints, and those that functions of users raise.
pub(super) fn tells_values(code: &SqlState) -> bool {
    ["22", "23", "P0"].iter().any(|class| code.code().starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(said: &str) -> String {
        let mut words = Words::default();
        let lines = said.lines().filter_map(|line| words.line("pg_restore", line));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// As PostgreSQL 15 to 18 say it; SECRET is what a row holds.
    #[test]
    fn values_of_rows_are_cut_from_what_tools_say() {
        for (said, expected) in [
            (
                "pg_restore: error: COPY failed for table \"people\": ERROR:  duplicate key value violates unique constraint \"people_email_key\"\n\
                 DETAIL:  Key (email)=(SECRET@example.org) already exists.\n\
                 CONTEXT:  COPY people, line 2",
                "pg_restore: error: COPY failed for table \"people\": ERROR:  duplicate key value violates unique constraint \"people_email_key\"\n\
                 DETAIL: …\nCONTEXT: COPY people, line 2",
            ),
            (
                "pg_restore: error: COPY failed for table \"people\": ERROR:  new row for relation \"people\" violates check constraint \"of_age\"\n\
                 DETAIL:  Failing row contains (1, SECRET, SECRET\nSECRET of the second line).\n\
                 CONTEXT:  COPY people, line 1: \"1\tSECRET\"\n\
                 pg_restore: warning: errors ignored on restore: 1",
                "pg_restore: error: COPY failed for table \"people\": ERROR:  new row for relation \"people\" violates check constraint \"of_age\"\n\
                 DETAIL: …\nCONTEXT: COPY people, line 1\npg_restore: warning: errors ignored on restore: 1",
            ),
            (
                "pg_restore: error: COPY failed for table \"people\": ERROR:  invalid input syntax for type integer: \"SECRET\nand SECRET\"\n\
                 CONTEXT:  COPY people, line 1, column born: \"SECRET\nand SECRET\"",
                "pg_restore: error: COPY failed for table \"people\": ERROR:  invalid input syntax for type integer: …\nCONTEXT: COPY people, line 1",
            ),
            (
                "pg_restore: error: COPY failed for table \"people\": ERROR:  value \"SECRET\" is out of range for type integer\n\
                 CONTEXT:  COPY people, line 3, column born: \"SECRET\"",
                "pg_restore: error: COPY failed for table \"people\": ERROR:  value … is out of range for type integer\nCONTEXT: COPY people, line 3",
            ),
            (
                "pg_restore: error: COPY failed for table \"p\": ERROR:  null value in column \"email\" of relation \"p\" violates not-null constraint\n\
                 DETAIL:  Failing row contains (SECRET, null).",
                "pg_restore: error: COPY failed for table \"p\": ERROR:  null value in column \"email\" of relation \"p\" violates not-null constraint\n\
                 DETAIL: …",
            ),
            (
                "pg_restore: error: COPY failed for table \"p\": FEHLER:  ungültige Eingabesyntax für Typ integer: »SECRET«\n\
                 CONTEXT:  COPY p, Zeile 1, Spalte id: »SECRET«",
                "pg_restore: error: COPY failed for table \"p\": FEHLER:  ungültige Eingabesyntax für Typ integer: …\nCONTEXT: …",
            ),
            (
                "pg_restore: error: could not execute query: ERROR:  could not create unique index \"p_pkey\"\n\
                 DETAIL:  Key (id)=(SECRET) is duplicated.\n\
                 Command was: ALTER TABLE ONLY public.p\n    ADD CONSTRAINT p_pkey PRIMARY KEY (id);",
                "pg_restore: error: could not execute query: ERROR:  could not create unique index \"p_pkey\"\nDETAIL: …\nCommand was: ALTER TABLE ONLY public.p",
            ),
            (
                "pg_restore: error: could not execute query: ERROR:  invalid input syntax for type date: \"SECRET\"\n\
                 LINE 1: SELECT 'SECRET'::date\n               ^\n\
                 QUERY:  SELECT 'SECRET'::date\n\
                 CONTEXT:  PL/pgSQL function f(text) line 3 at SQL statement \"SECRET\"\n\
                 HINT:  Perhaps the order differs.\n\
                 Command was: REFRESH MATERIALIZED VIEW public.m;",
                "pg_restore: error: could not execute query: ERROR:  invalid input syntax for type date: …\n\
                 LINE …\nQUERY: …\nCONTEXT: …\nHINT:  Perhaps the order differs.\nCommand was: REFRESH MATERIALIZED VIEW public.m;",
            ),
            (
                "pg_restore: error: could not execute query: ERROR:  must be superuser to create subscriptions\n\
                 Command was: CREATE SUBSCRIPTION s CONNECTION 'host=db password=SECRET' PUBLICATION p;\n\n",
                "pg_restore: error: could not execute query: ERROR:  must be superuser to create subscriptions\nCommand was: CREATE SUBSCRIPTION s CONNECTION …",
            ),
        ] {
            let found = told(said);
            assert_eq!(found, expected);
            assert!(!found.contains("SECRET"), "{found}");
        }
    }

    #[test]
    fn what_says_where_and_why_stays() {
        for whole in [
            "pg_restore: while PROCESSING TOC:\npg_restore: from TOC entry 215; 1259 16386 TABLE people postgres",
            "pg_restore: error: connection to server at \"127.0.0.1\", port 1 failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
            "pg_restore: error: connection to server at \"db\" (10.0.0.1), port 5432 failed: FATAL:  password authentication failed for user \"restorer\"",
            "pg_restore: error: could not execute query: ERROR:  role \"app\" does not exist\nCommand was: ALTER TABLE public.t OWNER TO app;",
            "pg_restore: error: COPY failed for table \"t\": ERROR:  value too long for type character varying(3)",
            "pg_restore: error: could not execute query: ERROR:  relation \"t\" already exists",
        ] {
            assert_eq!(told(whole), whole);
        }
    }
}

//! An open session: statements with a time limit, and how names and texts are written in them.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::error::DatabaseError;
use super::host::Host;
use crate::config::hex;

/// How long a statement may take that only looks something up.
pub(super) const QUERY_LIMIT: Duration = Duration::from_secs(60);

/// An open session. Values travel as text: PostgreSQL prints them as we need them, and no type has to be known.
pub struct Session {
    pub(super) client: Client,
    pub(super) connection: JoinHandle<()>,
    /// Who answered.
    pub host: Host,
    /// The database of this session.
    pub database: String,
    /// As whom.
    pub user: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A row of texts.
pub struct Row(SimpleQueryRow);

impl Row {
    /// A value that the statement promises not to be null.
    pub fn text(&self, column: usize) -> String {
        self.0.get(column).unwrap_or_default().to_owned()
    }

    /// A value that may be null.
    pub fn optional(&self, column: usize) -> Option<String> {
        self.0.get(column).map(str::to_owned)
    }

    /// A boolean.
    pub fn flag(&self, column: usize) -> bool {
        self.0.get(column) == Some("t")
    }

    /// A whole number; 0 where it is null.
    pub fn number(&self, column: usize) -> u64 {
        self.0.get(column).and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

impl Session {
    /// Runs one or more statements; `doing` begins the message of an error.
    pub async fn run(&self, doing: &str, sql: &str) -> Result<(), DatabaseError> {
        self.run_within(QUERY_LIMIT, doing, sql).await
    }

    /// Runs one or more statements with another time limit; what they return is not held.
    pub async fn run_within(&self, limit: Duration, doing: &str, sql: &str) -> Result<(), DatabaseError> {
        answer(limit, doing, self.client.batch_execute(sql)).await
    }

    /// The rows that statements return.
    pub async fn rows(&self, doing: &str, sql: &str) -> Result<Vec<Row>, DatabaseError> {
        self.rows_within(QUERY_LIMIT, doing, sql).await
    }

    /// The one row that a statement returns.
    pub async fn row(&self, doing: &str, sql: &str) -> Result<Row, DatabaseError> {
        self.rows(doing, sql)
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| DatabaseError::Refused {
                reason: holdfast_crds::Reason::InternalError,
                message: format!("{doing}: the server returned no row"),
            })
    }

    /// The rows, with another time limit.
    pub async fn rows_within(&self, limit: Duration, doing: &str, sql: &str) -> Result<Vec<Row>, DatabaseError> {
        let answer = answer(limit, doing, self.client.simple_query(sql)).await?;
        let rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(Row(row)),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// A text of an archive, which is in the encoding of the database that it is of. What the server cannot convert is shown as it is, with
    /// marks in place of what is no UTF-8.
    pub async fn decode(&self, bytes: &[u8], encoding: &str) -> String {
        let lossy = || String::from_utf8_lossy(bytes).into_owned();
        if bytes.is_ascii() || matches!(encoding, "" | "UTF8" | "SQL_ASCII") {
            return lossy();
        }
        let sql = format!("SELECT convert_from(decode('{}', 'hex'), {})", hex(bytes), literal(encoding));
        match self.row("convert a text of the archive", &sql).await {
            Ok(row) => row.text(0),
            Err(error) => {
                tracing::debug!(%error, encoding, "a text of the archive could not be converted");
                lossy()
            }
        }
    }

    /// Whether the server only replays what another writes.
    pub async fn is_standby(&self) -> Result<bool, DatabaseError> {
        Ok(self
            .row("ask whether the server is a standby", "SELECT pg_is_in_recovery()")
            .await?
            .flag(0))
    }
}

/// What the server answers within the limit.
async fn answer<T>(
    limit: Duration,
    doing: &str,
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, DatabaseError> {
    tokio::time::timeout(limit, asked)
        .await
        .map_err(|_| DatabaseError::TimedOut {
            doing: doing.to_owned(),
            limit,
        })?
        .map_err(|error| DatabaseError::from_client(doing, &error))
}

/// A text as an SQL literal, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// A name as an SQL identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_for_sql() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}

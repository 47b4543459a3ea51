//! A PostgreSQL server as a source of streams.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use holdfast_crds::document::{self, Contents, Database, NotCopied, Server, StreamKind, Table};
use holdfast_crds::{PostgresqlSource, Reason};

use super::check::TableData;
use super::connect::{Access, ServerFiles, Wanted as WantedServer};
use super::dump::{Dump, GLOBALS_STREAM, end_sessions, stream_name};
use super::error::DatabaseError;
use super::preflight::{DatabaseFacts, GlobalsPlan, Preflight, describe, emptied, exists, preflight};
use super::session::{Session, literal};
use super::tool::Tools;
use crate::engine::streaming::{Aborted, Finished, Found, Opened, Streaming, Wanted};
use crate::result::Failure;

/// How long the end of a tool may take whose stream was given up.
const END_WITHIN: Duration = Duration::from_secs(3);

/// A server, its tools, and what was learnt of it.
pub struct Source {
    spec: PostgresqlSource,
    access: Access,
    tools: Tools,
    found: Option<Preflight>,
    databases: Vec<Database>,
    vanished: Vec<NotCopied>,
}

/// A dump at work and what its database is.
pub struct Handle {
    dump: Dump,
    facts: DatabaseFacts,
}

impl Source {
    /// A source by its specification; nothing is connected yet.
    pub fn new(spec: &PostgresqlSource, files: &ServerFiles, tools: Tools, application: &str) -> Result<Self, DatabaseError> {
        let access = Access::new(&spec.server, files, application)?;
        Ok(Self {
            spec: spec.clone(),
            access,
            tools,
            found: None,
            databases: Vec::new(),
            vanished: Vec::new(),
        })
    }

    fn found(&self) -> Result<&Preflight, DatabaseError> {
        self.found.as_ref().ok_or_else(|| DatabaseError::Refused {
            reason: Reason::InternalError,
            message: "a stream was opened before the preflight".to_owned(),
        })
    }

    /// A session for what concerns the whole server, on the host that answered.
    async fn maintenance(&self) -> Result<Session, DatabaseError> {
        self.access
            .connect_again(&self.found()?.server.host, &self.access.maintenance_database)
            .await
    }

    /// Tables by names that people can read.
    async fn decoded(&self, tables: Vec<TableData>, encoding: &str) -> Result<Vec<Table>, DatabaseError> {
        let plain = |table: &TableData| encoding == "UTF8" || table.schema.is_ascii() && table.name.is_ascii();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if tables.iter().all(plain) {
            let tables = tables.iter().map(|table| Table {
                schema: text(&table.schema),
                name: text(&table.name),
                rows: table.rows,
            });
            return Ok(tables.collect());
        }
        let session = self.maintenance().await?;
        let mut decoded = Vec::with_capacity(tables.len());
        for TableData { schema, name, rows } in tables {
            let (schema, name) = (session.decode(&schema, encoding).await, session.decode(&name, encoding).await);
            decoded.push(Table { schema, name, rows });
        }
        Ok(decoded)
    }

    /// A table that lost its rows between the dump's snapshot and its lock makes the copy a wrong one, with exit code 0.
    async fn refuse_emptied(&self, database: &str, facts: &DatabaseFacts, tables: &[Table]) -> Result<(), DatabaseError> {
        let session = self.access.connect_again(&self.found()?.server.host, database).await?;
        let emptied = emptied(&session, &facts.filled, tables).await?;
        if emptied.is_empty() {
            return Ok(());
        }
        Err(DatabaseError::Refused {
            reason: Reason::DumpFailed,
            message: format!(
                "database {database}: tables {} had rows before the dump, have none in it, and were truncated or rewritten meanwhile: pg_dump could lock them too late; see that no TRUNCATE or ALTER TABLE runs when a backup begins",
                emptied.join(", ")
            ),
        })
    }

    /// Whether an error came only because the database was dropped or renamed; then that is noted.
    async fn has_vanished(&mut self, database: &str) -> bool {
        let gone = match self.maintenance().await {
            Ok(session) => exists(&session, database).await.is_ok_and(|exists| !exists),
            Err(_) => false,
        };
        if gone {
            tracing::warn!(database, "the database vanished");
            self.vanished.push(NotCopied {
                name: database.to_owned(),
                why: "vanished while the run was at work".to_owned(),
            });
        }
        gone
    }
}

impl Streaming for Source {
    type Handle = Handle;

    fn name(&self) -> document::Engine {
        document::Engine::Postgresql
    }

    async fn preflight(&mut self, encrypted: bool) -> Result<Found, Failure> {
        let (session, found) = preflight(&self.access, &self.tools, &self.spec.databases, self.spec.globals, encrypted).await?;
        let globals = (found.globals != GlobalsPlan::Skip).then(|| Wanted {
            name: document::Label::new("stream", GLOBALS_STREAM).expect("it is a label"),
            kind: StreamKind::PostgresqlGlobals,
            database: None,
        });
        let databases = found.databases.iter().zip(1..).map(|(database, number)| Wanted {
            name: stream_name(number, database),
            kind: StreamKind::PostgresqlArchive,
            database: Some(database.clone()),
        });
        let streams = globals.into_iter().chain(databases).collect();
        let server = Server {
            host: found.server.host.to_string(),
            version: found.server.version.clone(),
            system_identifier: found.server.system_identifier.clone(),
            standby: found.server.standby,
            tools: BTreeMap::from([("pg_dump".to_owned(), found.tool.text.clone())]),
        };
        let names = found.databases.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
        let sizes = format!("SELECT sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database WHERE datname IN ({names})");
        // Only for the estimate: a database that vanishes meanwhile, or a slow disk, fails nothing.
        let expected_bytes = session
            .row("ask for the databases' sizes", &sizes)
            .await
            .map_or(0, |row| row.number(0));
        let (recovery_point, mut notes) = (found.server.recovery_point, found.notes.clone());
        if i64::from(found.server.major) != i64::from(self.spec.server.version) {
            notes.push(format!(
                "the server is PostgreSQL {}, the source says version {}",
                found.server.version, self.spec.server.version
            ));
        }
        self.found = Some(found);
        Ok(Found {
            server,
            recovery_point,
            streams,
            expected_bytes,
            notes,
        })
    }

    async fn open(&mut self, wanted: &Wanted) -> Result<Option<Opened<Handle>>, Failure> {
        let (host, globals) = (self.found()?.server.host.clone(), self.found()?.globals);
        let (mut dump, facts) = match &wanted.database {
            None => {
                let dump = Dump::of_globals(&self.tools, &self.access, &host, globals, self.spec.lock_timeout)?;
                (dump, DatabaseFacts::default())
            }
            Some(database) => {
                let described = async { describe(&self.access.connect_again(&host, database).await?).await };
                let facts = match described.await {
                    Ok(facts) => facts,
                    Err(_) if self.has_vanished(database).await => return Ok(None),
                    Err(error) => return Err(Failure::from(error).while_doing(&format!("database {database}"))),
                };
                (
                    Dump::of_database(&self.tools, &self.access, &host, database, self.spec.lock_timeout)?,
                    facts,
                )
            }
        };
        let (reader, check) = dump
            .take_stream()
            .ok_or_else(|| Failure::new(Reason::InternalError, "a dump has no stream"))?;
        Ok(Some(Opened {
            handle: Handle { dump, facts },
            reader: Box::new(reader),
            check,
        }))
    }

    async fn finish(&mut self, wanted: &Wanted, handle: Handle) -> Result<Finished, Failure> {
        let Handle { dump, mut facts } = handle;
        let contents = dump.contents.clone();
        let ended = dump.finish().await;
        let Some(database) = &wanted.database else {
            ended?;
            return Ok(Finished::Whole);
        };
        if let Err(error) = ended {
            if self.has_vanished(database).await {
                return Ok(Finished::Vanished);
            }
            return Err(Failure::from(error).while_doing(&format!("database {database}")));
        }
        let found = contents
            .map(|contents| contents.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default();
        let mut not_copied = std::mem::take(&mut facts.not_copied);
        if let Some(why) = found.unknown {
            tracing::warn!(database, why, "the archive was not understood");
            let name = "the proof of its structure, and the numbers of rows".to_owned();
            not_copied.insert(0, NotCopied { name, why });
        }
        let tables = self.decoded(found.tables, &facts.encoding).await?;
        if let Err(refused) = self.refuse_emptied(database, &facts, &tables).await {
            // Dropped since its dump ended: what was dumped can no longer be checked.
            if self.has_vanished(database).await {
                return Ok(Finished::Vanished);
            }
            return Err(refused.into());
        }
        self.databases.push(Database {
            name: database.clone(),
            stream: wanted.name.clone(),
            bytes: facts.bytes,
            owner: facts.owner,
            encoding: facts.encoding,
            settings: facts.settings,
            extensions: facts.extensions,
            tables,
            large_objects: found.large_objects,
            not_copied,
        });
        Ok(Finished::Whole)
    }

    async fn abort(&mut self, wanted: &Wanted, handle: Handle, cut: bool) -> Aborted {
        let failure = if cut {
            // It has closed its stream and ends at once; dropped with the time-out, it is killed.
            let ended = tokio::time::timeout(END_WITHIN, handle.dump.finish()).await;
            ended.ok().and_then(Result::err).map(Failure::from)
        } else {
            handle.dump.kill().await;
            None
        };
        let ended = async {
            let session = self.access.connect(WantedServer::Any).await?;
            end_sessions(&self.access, &session).await
        };
        match tokio::time::timeout(END_WITHIN, ended).await {
            Ok(Ok(0)) => {}
            Ok(Ok(sessions)) => tracing::info!(sessions, "sessions of ended tools were closed"),
            Ok(Err(error)) => tracing::debug!(%error, "sessions of ended tools could not be looked for"),
            Err(_) => tracing::debug!("sessions of ended tools could not be looked for in time"),
        }
        // One that was still writing when the reader went away has nothing to say about the reason.
        let failure = failure.filter(|failure| !failure.message.contains("Broken pipe") && !failure.message.contains("signal 13"));
        match &wanted.database {
            Some(database) if cut && self.has_vanished(database).await => Aborted::Vanished,
            Some(database) => Aborted::Failed(failure.map(|failure| failure.while_doing(&format!("database {database}")))),
            None => Aborted::Failed(failure),
        }
    }

    fn contents(self) -> Contents {
        let found = self.found;
        let (not_copied, roles, tablespaces) = found
            .map(|found| (found.not_copied, found.roles, found.tablespaces))
            .unwrap_or_default();
        Contents {
            databases: self.databases,
            not_copied: not_copied.into_iter().chain(self.vanished).collect(),
            roles,
            tablespaces,
        }
    }
}

//! Connections: the first host that answers, passwords from files, every statement with a time limit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_crds::PostgresqlServer;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{DatabaseError, chain};
use super::host::Host;
use super::session::Session;
use super::tls::TlsFiles;
use crate::engine::secret::Secret;

/// How long a host may take to let us in.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long a login that worked before may fail: a rotated Secret reaches the pod's files within about a minute.
const ROTATION_LIMIT: Duration = Duration::from_secs(120);
const ROTATION_STEP: Duration = Duration::from_secs(3);

/// User and password as they lie in files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Secret,
}

/// Where the files of a server's login and certificates lie.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    /// Directory with `username` and `password`.
    pub login: PathBuf,
    /// CA certificates (PEM) of the database, where its specification names them; else `public_roots`.
    pub ca: PathBuf,
    /// Bundle of public CAs.
    pub public_roots: PathBuf,
    /// Directory with `tls.crt` and `tls.key`.
    pub client: PathBuf,
}

/// How a server is reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// In the order in which they are tried.
    pub hosts: Vec<Host>,
    /// The database for what concerns the whole server.
    pub maintenance_database: String,
    /// Certificates and what is demanded.
    pub tls: TlsFiles,
    login: PathBuf,
    /// Shown by the server in `pg_stat_activity`; tools add a word.
    pub application: String,
}

/// Which servers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Any that answers, a standby too.
    Any,
    /// One that takes writes.
    Primary,
}

impl Access {
    /// From the specification, the files beside it and the pod's name in the server's list of sessions.
    pub fn new(server: &PostgresqlServer, files: &ServerFiles, application: &str) -> Result<Self, DatabaseError> {
        let hosts = server.hosts.iter().map(|host| host.parse()).collect::<Result<Vec<_>, _>>()?;
        if hosts.is_empty() {
            return Err(DatabaseError::UseSetting {
                field: "hosts",
                problem: "found none, expected at least one host".to_owned(),
            });
        }
        let roots = if server.tls.ca_secret_name.is_some() {
            &files.ca
        } else {
            &files.public_roots
        };
        let client = server.tls.client_certificate_secret_name.as_ref();
        let tls = TlsFiles {
            mode: server.tls.mode,
            roots: roots.clone(),
            client: client.map(|_| (files.client.join("tls.crt"), files.client.join("tls.key"))),
        };
        Ok(Self {
            hosts,
            maintenance_database: server.maintenance_database.clone(),
            tls,
            login: files.login.clone(),
            application: application.chars().take(48).collect(),
        })
    }

    /// How the sessions of our tools are called, to find those that a killed tool left behind.
    pub(super) fn tool_application(&self) -> String {
        format!("{} tool", self.application)
    }

    /// User and password, read now.
    pub(super) fn login(&self) -> Result<Login, DatabaseError> {
        let read = |what, name: &str| {
            let path = self.login.join(name);
            let problem = |problem: String| DatabaseError::ReadFile {
                what,
                path: path.clone(),
                problem,
            };
            let secret = Secret::read(&path).map_err(|error| problem(error.to_string()))?;
            if secret.expose().is_empty() || secret.expose().contains(['\n', '\r', '\0']) {
                return Err(problem("it is empty or has several lines; expected one line".to_owned()));
            }
            Ok(secret)
        };
        let user = read("the database user's name", "username")?.expose().to_owned();
        Ok(Login {
            user,
            password: read("the database user's password", "password")?,
        })
    }

    /// Connects to the first host that answers. A refused login is tried once more if the files changed meanwhile.
    pub async fn connect(&self, wanted: Wanted) -> Result<Session, DatabaseError> {
        self.connect_to(&self.hosts, &self.maintenance_database, wanted).await
    }

    /// Connects to another database of a host that answered before. A refused login may be one that is being rotated: the files are
    /// read again for up to two minutes.
    pub async fn connect_again(&self, host: &Host, database: &str) -> Result<Session, DatabaseError> {
        let started = tokio::time::Instant::now();
        loop {
            match self.connect_to(std::slice::from_ref(host), database, Wanted::Any).await {
                Err(error) if error.is_login_failure() && started.elapsed() < ROTATION_LIMIT => {
                    tokio::time::sleep(ROTATION_STEP).await;
                }
                result => return result,
            }
        }
    }

    async fn connect_to(&self, hosts: &[Host], database: &str, wanted: Wanted) -> Result<Session, DatabaseError> {
        let mut silent = Vec::new();
        for host in hosts {
            let mut login = self.login()?;
            loop {
                match self.try_host(host, database, &login).await {
                    Ok(session) => {
                        if wanted == Wanted::Primary && session.is_standby().await? {
                            silent.push(format!("{host} is a standby, which takes no writes"));
                            break;
                        }
                        return Ok(session);
                    }
                    Err(error) if error.is_login_failure() => {
                        let again = self.login()?;
                        if again == login {
                            return Err(error);
                        }
                        login = again;
                    }
                    Err(DatabaseError::Unreachable(mut problems)) => {
                        silent.append(&mut problems);
                        break;
                    }
                    Err(error) if error.reason() == holdfast_crds::Reason::DatabaseUnreachable => {
                        silent.push(format!("{host}: {error}"));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Err(DatabaseError::Unreachable(silent))
    }

    async fn try_host(&self, host: &Host, database: &str, login: &Login) -> Result<Session, DatabaseError> {
        let mut config = Config::new();
        config
            .host(&host.name)
            .port(host.port)
            .dbname(database)
            .user(&login.user)
            .password(login.password.expose())
            .application_name(&self.application)
            .connect_timeout(CONNECT_LIMIT)
            .keepalives_idle(Duration::from_secs(30))
            .keepalives_interval(Duration::from_secs(10))
            .keepalives_retries(6);
        let doing = format!("connect to database {database} at {host}");
        let tls = self.tls.client_config()?;
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        let connected = tokio::time::timeout(CONNECT_LIMIT, async {
            match tls {
                None => config
                    .connect(NoTls)
                    .await
                    .map(|(client, connection)| (client, tokio::spawn(drive(connection)))),
                Some(tls) => {
                    let connector = MakeRustlsConnect::new(tls);
                    config
                        .connect(connector)
                        .await
                        .map(|(client, connection)| (client, tokio::spawn(drive(connection))))
                }
            }
        })
        .await
        .map_err(|_| DatabaseError::Unreachable(vec![format!("{host}: no answer within {} s", CONNECT_LIMIT.as_secs())]))?;
        let (client, connection) = connected.map_err(|error| self.connect_error(host, &doing, &error))?;
        let session = Session {
            client,
            connection,
            host: host.clone(),
            database: database.to_owned(),
            user: login.user.clone(),
        };
        // As pg_dump does: nothing of the server's or role's settings may change what we see, or end us.
        session
            .run(
                "prepare the session",
                "SET search_path = ''; SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; \
                 SET datestyle = 'ISO'; SET timezone = 'UTC'; SET client_encoding = 'UTF8'; SET row_security = off",
            )
            .await?;
        Ok(session)
    }

    fn connect_error(&self, host: &Host, doing: &str, error: &tokio_postgres::Error) -> DatabaseError {
        if error.as_db_error().is_some() {
            return DatabaseError::from_client(doing, error);
        }
        let text = chain(error);
        if text.contains("TLS") || text.contains("certificate") {
            return DatabaseError::Tls {
                host: host.to_string(),
                problem: format!("{text} (tls.mode is {:?})", self.tls.mode),
            };
        }
        // The library's own word for a server that wants a kind of login which it does not know.
        if text.contains("authentication") {
            let (message, code) = (text, "28000".to_owned());
            return DatabaseError::Server {
                doing: doing.to_owned(),
                message,
                code,
            };
        }
        DatabaseError::Unreachable(vec![format!("{host}: {text}")])
    }
}

async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
{
    // The error also reaches who waits for an answer.
    if let Err(error) = connection.await {
        tracing::debug!(error = %chain(&error), "a database connection ended");
    }
}

/// The line of a libpq password file that fits every connection.
pub(super) fn passfile(password: &Secret) -> Secret {
    let escaped = password.expose().replace('\\', "\\\\").replace(':', "\\:");
    Secret::new(format!("*:*:*:*:{escaped}\n"))
}

/// Writes a file that only we can read.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), DatabaseError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |error: std::io::Error| DatabaseError::ReadFile {
        what: "a private file",
        path: path.to_owned(),
        problem: error.to_string(),
    };
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(failed(error));
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_quoted_for_the_passfile() {
        assert_eq!(passfile(&Secret::new("a:b\\c".to_owned())).expose(), "*:*:*:*:a\\:b\\\\c\n");
    }
}

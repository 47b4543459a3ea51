//! Where a server listens.

use super::error::DatabaseError;

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name or address, without brackets.
    pub name: String,
    /// 5432 if not said.
    pub port: u16,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

impl std::str::FromStr for Host {
    type Err = DatabaseError;

    fn from_str(text: &str) -> Result<Self, DatabaseError> {
        let invalid = || DatabaseError::UseSetting {
            field: "hosts",
            problem: format!("found {text:?}, expected host, host:port or [IPv6 address]:port with a port from 1 to 65535"),
        };
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (name, rest) = rest.split_once(']').ok_or_else(invalid)?;
                (
                    name,
                    rest.strip_prefix(':')
                        .or_else(|| rest.is_empty().then_some("5432"))
                        .ok_or_else(invalid)?,
                )
            }
            None => text.split_once(':').unwrap_or((text, "5432")),
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        if name.is_empty() || name.starts_with('/') {
            Err(invalid())
        } else {
            Ok(Self {
                name: name.to_owned(),
                port,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_the_api_accepts_them() {
        for (text, name, port) in [
            ("db", "db", 5432),
            ("db.ns.svc:6432", "db.ns.svc", 6432),
            ("10.0.0.1:5433", "10.0.0.1", 5433),
            ("[::1]", "::1", 5432),
            ("[fd00::1]:5433", "fd00::1", 5433),
        ] {
            let host = text.parse::<Host>().unwrap();
            assert_eq!((host.name.as_str(), host.port), (name, port));
            assert_eq!(host.to_string().parse::<Host>().unwrap(), host);
        }
        for text in ["", ":5432", "db:0", "db:65536", "db:x", "[::1", "[::1]5432", "/run/postgresql"] {
            let error = text.parse::<Host>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}

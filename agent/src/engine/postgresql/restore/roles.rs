//! Roles that the target lacks, made as the copy's globals say.

use std::collections::BTreeSet;

use super::super::error::DatabaseError;
use super::super::session::{Session, identifier};
use super::plan::{Offer, Power};
use super::statement::{membership, roles, split, without_superuser_attributes};

/// A statement that makes a role what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleStatement {
    sql: Vec<u8>,
    /// What is left out, for people, where the server refuses it; `None` where nothing else makes sense without it.
    optional: Option<String>,
}

/// The statements that make the missing roles: from the globals where the copy has them, else with nothing but their names.
pub fn statements(globals: Option<&[u8]>, missing: &BTreeSet<String>, offer: &Offer) -> Vec<RoleStatement> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let superuser = offer.user.power == Power::Superuser;
    let needed = |sql: Vec<u8>| RoleStatement { sql, optional: None };
    let optional = |sql: Vec<u8>, what: String| RoleStatement {
        sql,
        optional: (!superuser).then_some(what),
    };
    let (mut created, mut made, mut more) = (BTreeSet::new(), Vec::new(), Vec::new());
    for statement in split(globals.unwrap_or_default()) {
        let upper = statement.to_ascii_uppercase();
        if let Some((group, member)) = membership(statement) {
            let (group, member) = (text(&group), text(&member));
            let is_there = |role: &String| missing.contains(role) || offer.roles.contains(role);
            if (missing.contains(&group) || missing.contains(&member)) && is_there(&group) && is_there(&member) {
                // Who grants is the restoring user: the grantor of old may be missing, or may not be allowed to.
                let sql = format!("GRANT {} TO {}", identifier(&group), identifier(&member));
                more.push(optional(sql.into_bytes(), format!("membership of {member} in {group}")));
            }
        } else if upper.starts_with(b"CREATE ROLE") || (upper.starts_with(b"ALTER ROLE") && !upper.contains_in_database()) {
            let Some(role) = roles(statement)
                .first()
                .map(|role| text(role))
                .filter(|role| missing.contains(role))
            else {
                continue;
            };
            if upper.starts_with(b"CREATE ROLE") {
                made.push(needed(statement.to_vec()));
                created.insert(role);
            } else if superuser {
                made.push(needed(statement.to_vec()));
            } else {
                // Even to deny an attribute of superusers takes one.
                let (kept, lost) = without_superuser_attributes(statement);
                more.push(optional(kept, format!("settings of role {role}")));
                for attribute in lost {
                    let sql = format!("ALTER ROLE {} {attribute}", identifier(&role));
                    more.push(optional(sql.into_bytes(), format!("{attribute} of role {role}")));
                }
            }
        }
    }
    let bare = missing
        .difference(&created)
        .map(|role| needed(format!("CREATE ROLE {}", identifier(role)).into_bytes()))
        .collect::<Vec<_>>();
    let own = missing.iter().filter(|_| !superuser).map(|role| {
        let with = if offer.major >= 16 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
        needed(format!("GRANT {} TO {}{with}", identifier(role), identifier(&offer.user.name)).into_bytes())
    });
    let own = own.collect::<Vec<_>>();
    bare.into_iter().chain(made).chain(own).chain(more).collect()
}

trait InDatabase {
    fn contains_in_database(&self) -> bool;
}

impl InDatabase for Vec<u8> {
    fn contains_in_database(&self) -> bool {
        self.windows(12).any(|window| window == b" IN DATABASE")
    }
}

/// Makes them, all or none. Returns what was left out because the user may not set it.
pub async fn create(session: &Session, statements: &[RoleStatement]) -> Result<Vec<String>, DatabaseError> {
    if statements.is_empty() {
        return Ok(Vec::new());
    }
    let result = create_all(session, statements).await;
    if result.is_err() {
        // After an error the session is still in the transaction.
        session.run("give up the roles", "ROLLBACK").await?;
    }
    result
}

async fn create_all(session: &Session, statements: &[RoleStatement]) -> Result<Vec<String>, DatabaseError> {
    let doing = "create the missing roles";
    let mut notes = Vec::new();
    session.run(doing, "BEGIN").await?;
    for RoleStatement { sql, optional } in statements {
        let sql = String::from_utf8_lossy(sql);
        let Some(what) = optional else {
            session.run(doing, &sql).await?;
            continue;
        };
        match session.run(doing, &format!("SAVEPOINT optional; {sql}; RELEASE optional")).await {
            Err(DatabaseError::Server { code, message, .. }) if matches!(code.as_str(), "42501" | "0LP01" | "42704") => {
                session.run(doing, "ROLLBACK TO optional").await?;
                notes.push(format!("left out: {what}: {message}"));
            }
            result => result?,
        }
    }
    session.run(doing, "COMMIT").await?;
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_roles_are_made_with_what_the_globals_say() {
        let globals = b"--\n\\restrict x\n\nCREATE ROLE there;\nALTER ROLE there WITH SUPERUSER;\nCREATE ROLE \"a;b\";\nALTER ROLE \"a;b\" WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$x;y';\nALTER ROLE \"a;b\" SET work_mem TO '1MB';\nALTER ROLE \"a;b\" IN DATABASE d SET work_mem TO '1MB';\nGRANT there TO \"a;b\" WITH ADMIN OPTION GRANTED BY gone;\nGRANT gone TO \"a;b\";\nGRANT there TO there2;\n";
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let mut offer = Offer {
            major: 16,
            roles: set(&["there", "there2"]),
            ..Offer::default()
        };
        offer.user.name = "admin".to_owned();
        offer.user.power = Power::Superuser;
        let made = |offer: &Offer| {
            let made = statements(Some(globals), &set(&["a;b", "bare"]), offer);
            made.iter()
                .map(|made| String::from_utf8_lossy(&made.sql).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            made(&offer),
            [
                "CREATE ROLE \"bare\"",
                "CREATE ROLE \"a;b\"",
                "ALTER ROLE \"a;b\" WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$x;y'",
                "ALTER ROLE \"a;b\" SET work_mem TO '1MB'",
                "GRANT \"there\" TO \"a;b\"",
            ]
        );
        // Who is no superuser sets what he may, and must be able to act as what he made.
        offer.user.power = Power::None;
        assert_eq!(
            made(&offer),
            [
                "CREATE ROLE \"bare\"",
                "CREATE ROLE \"a;b\"",
                "GRANT \"a;b\" TO \"admin\" WITH INHERIT TRUE, SET TRUE",
                "GRANT \"bare\" TO \"admin\" WITH INHERIT TRUE, SET TRUE",
                "ALTER ROLE \"a;b\" WITH LOGIN PASSWORD 'SCRAM-SHA-256$x;y'",
                "ALTER ROLE \"a;b\" SET work_mem TO '1MB'",
                "GRANT \"there\" TO \"a;b\"",
            ]
        );
    }
}

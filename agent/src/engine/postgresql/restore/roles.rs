//! Roles that the target lacks, made as the copy's globals say.

use std::collections::BTreeSet;

use super::super::error::DatabaseError;
use super::super::session::{Session, identifier};
use super::statement::{membership, roles, split};

/// The statements that make the missing roles: from the globals where the copy has them, else with nothing but their names. `existing`
/// are the roles that the target has.
pub fn statements(globals: Option<&[u8]>, missing: &BTreeSet<String>, existing: &BTreeSet<String>) -> Vec<Vec<u8>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (mut created, mut made, mut memberships) = (BTreeSet::new(), Vec::new(), Vec::new());
    for statement in split(globals.unwrap_or_default()) {
        let upper = statement.to_ascii_uppercase();
        if let Some((group, member)) = membership(statement) {
            let (group, member) = (text(&group), text(&member));
            let is_there = |role: &String| missing.contains(role) || existing.contains(role);
            if (missing.contains(&group) || missing.contains(&member)) && is_there(&group) && is_there(&member) {
                // Who grants is the restoring user: the grantor of old may be missing, or may not be allowed to.
                memberships.push(format!("GRANT {} TO {}", identifier(&group), identifier(&member)).into_bytes());
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
                created.insert(role);
            }
            made.push(statement.to_vec());
        }
    }
    let bare = missing
        .difference(&created)
        .map(|role| format!("CREATE ROLE {}", identifier(role)).into_bytes())
        .collect::<Vec<_>>();
    bare.into_iter().chain(made).chain(memberships).collect()
}

trait InDatabase {
    fn contains_in_database(&self) -> bool;
}

impl InDatabase for Vec<u8> {
    fn contains_in_database(&self) -> bool {
        self.windows(12).any(|window| window == b" IN DATABASE")
    }
}

/// Makes them, all or none.
pub async fn create(session: &Session, statements: &[Vec<u8>]) -> Result<(), DatabaseError> {
    if statements.is_empty() {
        return Ok(());
    }
    let sql = statements
        .iter()
        .map(|statement| String::from_utf8_lossy(statement).into_owned())
        .collect::<Vec<_>>()
        .join(";\n");
    let result = session.run("create the missing roles", &format!("BEGIN;\n{sql};\nCOMMIT")).await;
    if result.is_err() {
        // After an error the session is still in the transaction.
        session.run("give up the roles", "ROLLBACK").await?;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_roles_are_made_with_what_the_globals_say() {
        let globals = b"--\n\\restrict x\n\nCREATE ROLE there;\nALTER ROLE there WITH SUPERUSER;\nCREATE ROLE \"a;b\";\nALTER ROLE \"a;b\" WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$x;y';\nALTER ROLE \"a;b\" SET work_mem TO '1MB';\nALTER ROLE \"a;b\" IN DATABASE d SET work_mem TO '1MB';\nGRANT there TO \"a;b\" WITH ADMIN OPTION GRANTED BY gone;\nGRANT gone TO \"a;b\";\nGRANT there TO there2;\n";
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let made = statements(Some(globals), &set(&["a;b", "bare"]), &set(&["there", "there2"]));
        let made = made.iter().map(|sql| String::from_utf8_lossy(sql)).collect::<Vec<_>>();
        assert_eq!(
            made,
            [
                "CREATE ROLE \"bare\"",
                "CREATE ROLE \"a;b\"",
                "ALTER ROLE \"a;b\" WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$x;y'",
                "ALTER ROLE \"a;b\" SET work_mem TO '1MB'",
                "GRANT \"there\" TO \"a;b\"",
            ]
        );
    }
}

//! What belongs to a database and is not in its dump: comment, rights, settings, limit. Set in the new database, statement
//! by statement; one that fails is told and the others are set.

use super::Options;
use crate::error::Result;
use crate::names;
use crate::postgres::facts::Saved;
use crate::postgres::query::Psql;
use crate::postgres::quote::{identifier, literal};

/// Answers what could not be set.
pub fn apply(psql: &Psql<'_>, database: &[u8], saved: &Saved, options: &Options) -> Vec<String> {
    let mut problems = Vec::new();
    for (what, statement) in statements(database, saved, options) {
        // In the database itself, whose encoding these texts have.
        let done: Result<_> = psql.ask_in(database, &[statement]);
        if let Err(error) = done {
            problems.push(format!("{} could not be set as it was: {error}", names::shown(&what)));
        }
    }
    problems
}

fn statements(database: &[u8], saved: &Saved, options: &Options) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (name, properties) = (identifier(database), &saved.properties);
    let mut statements: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    if let Some(comment) = &properties.comment {
        let sql = [b"COMMENT ON DATABASE ", name.as_slice(), b" IS ", &literal(comment)].concat();
        statements.push((b"its comment".to_vec(), sql));
    }
    if let Some(grants) = properties.grants.as_ref().filter(|_| options.owners) {
        let mut sql = [b"REVOKE ALL ON DATABASE ", name.as_slice(), b" FROM PUBLIC; REVOKE ALL ON DATABASE "].concat();
        sql.extend([name.as_slice(), b" FROM ", &identifier(&saved.database.owner), b";"].concat());
        for grant in grants.iter().filter(|grant| is_word(&grant.privilege)) {
            let to = if grant.grantee.is_empty() { b"PUBLIC".to_vec() } else { identifier(&grant.grantee) };
            sql.extend([b" GRANT ", grant.privilege.as_slice(), b" ON DATABASE ", &name, b" TO ", &to].concat());
            sql.extend_from_slice(if grant.is_grantable { b" WITH GRANT OPTION;" } else { b";" });
        }
        statements.push((b"rights".to_vec(), sql));
    }
    for (role, setting, value) in &properties.settings {
        if !role.is_empty() && !options.owners {
            continue;
        }
        let parts: Vec<Vec<u8>> = setting.split(|byte| *byte == b'.').map(identifier).collect();
        // The value is given as the server keeps it, whatever lists and quotes it is made of.
        let mut sql =
            [b"SELECT set_config(", literal(setting).as_slice(), b", ", &literal(value), b", true); ALTER "].concat();
        if !role.is_empty() {
            sql.extend([b"ROLE ", identifier(role).as_slice(), b" IN "].concat());
        }
        sql.extend([b"DATABASE ", name.as_slice(), b" SET ", &parts.join(b".".as_slice()), b" FROM CURRENT"].concat());
        statements.push(([b"setting ", setting.as_slice()].concat(), sql));
    }
    if saved.database.limit >= 0 {
        let limit = saved.database.limit.to_string();
        let sql = [b"ALTER DATABASE ", name.as_slice(), b" CONNECTION LIMIT ", limit.as_bytes()];
        statements.push((b"its connection limit".to_vec(), sql.concat()));
    }
    statements
}

/// A privilege is written as it is, so it has to be one word.
fn is_word(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_uppercase)
}

//! What a server is and which databases it has.

use super::program::Version;
use super::query::{Asked, Psql, number, records, text};
use crate::error::{Error, Result};

/// The server, as far as saving and restoring depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    pub version: Version,
    pub version_text: String,
    pub timezone: String,
    pub is_superuser: bool,
}

/// A database as the catalogue has it. Names are bytes.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Database {
    pub name: Vec<u8>,
    pub owner: Vec<u8>,
    pub encoding: String,
    pub collate: Vec<u8>,
    pub ctype: Vec<u8>,
    /// `c` libc, `i` ICU, `b` builtin
    pub provider: String,
    /// Of ICU or builtin; else empty.
    pub locale: Vec<u8>,
    pub tablespace: Vec<u8>,
    /// How many may be connected; -1 is any number.
    pub limit: i32,
    pub is_template: bool,
}

impl Server {
    pub fn ask(psql: &Psql<'_>) -> Result<Server> {
        let fields = psql.ask(
            b"SELECT current_setting('server_version_num'), current_setting('server_version'), current_setting('TimeZone'), \
              current_setting('is_superuser')",
        )?;
        let [version, version_text, timezone, superuser] = one(records::<4>(fields)?)?;
        let version = number(&version).map(Version::of_number);
        Ok(Server {
            version: version.ok_or_else(|| Error::source("PostgreSQL", "the server does not tell its version"))?,
            version_text: text(&version_text),
            timezone: text(&timezone),
            is_superuser: superuser == b"on",
        })
    }

    /// All databases, templates among them, by name.
    pub fn databases(&self, psql: &Psql<'_>) -> Result<Vec<Database>> {
        let (provider, locale) = match self.version {
            Version(17.., _) => ("datlocprovider", "coalesce(datlocale, '')"),
            Version(15.., _) => ("datlocprovider", "coalesce(daticulocale, '')"),
            _ => ("'c'", "''"),
        };
        let statement = format!(
            "SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, {provider}, {locale}, \
             spcname, datconnlimit, datistemplate \
             FROM pg_database d LEFT JOIN pg_tablespace t ON t.oid = dattablespace ORDER BY datname"
        );
        let found = records::<10>(psql.ask(statement.as_bytes())?)?;
        Ok(found.into_iter().map(Database::of_record).collect())
    }
}

impl Database {
    fn of_record(record: [Vec<u8>; 10]) -> Database {
        let [name, owner, encoding, collate, ctype, provider, locale, tablespace, limit, template] = record;
        Database {
            name,
            owner,
            encoding: text(&encoding),
            collate,
            ctype,
            provider: text(&provider),
            locale,
            tablespace,
            limit: number(&limit).unwrap_or(-1),
            is_template: template == b"t",
        }
    }
}

/// What belongs to a database and is not in its dump, and what its dump needs of the server.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Properties {
    /// Bytes on the server's disk; 0 if it is not known. Not part of what is encoded.
    pub size: u64,
    /// Names and versions.
    pub extensions: Vec<(Vec<u8>, Vec<u8>)>,
    /// Roles that own something in it or have rights there.
    pub roles: Vec<Vec<u8>>,
    pub comment: Option<Vec<u8>>,
    /// Who may do what with the database itself; none is the default.
    pub grants: Option<Vec<Grant>>,
    /// For a role in it, or (empty) for all: name and value.
    pub settings: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>,
}

/// To nobody in particular: to everybody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    pub grantee: Vec<u8>,
    pub privilege: Vec<u8>,
    pub is_grantable: bool,
}

/// A fact of a snapshot has no more room.
const PROPERTIES_BYTES_MAX: usize = 60 << 10;

impl Properties {
    /// Asked in the database itself. The answer is for [`Properties::told`].
    pub fn ask(psql: &Psql<'_>, database: &[u8]) -> Result<Asked> {
        psql.begin(database, &[PROPERTIES.into()])
    }

    pub fn told(asked: Asked) -> Result<Properties> {
        let mut properties = Properties::default();
        for record in records::<4>(asked.answer()?)? {
            properties.add(record);
        }
        Ok(properties)
    }

    fn add(&mut self, [kind, first, second, third]: [Vec<u8>; 4]) {
        match kind.as_slice() {
            b"size" => self.size = number(&first).unwrap_or(0),
            b"extension" => self.extensions.push((first, second)),
            b"role" => self.roles.push(first),
            b"comment" => self.comment = Some(first),
            b"grants" => drop(self.grants.get_or_insert_default()),
            b"grant" => {
                let grant = Grant { grantee: first, privilege: second, is_grantable: third == b"true" };
                self.grants.get_or_insert_default().push(grant);
            }
            b"setting" => self.settings.push((first, second, third)),
            // Of a newer program.
            _ => (),
        }
    }

    /// As records of four fields, each ended by NUL; and how many records there was no room for.
    pub fn encode(&self) -> (Vec<u8>, u64) {
        let record = |kind: &[u8], [first, second, third]: [&[u8]; 3]| {
            let mut bytes = Vec::new();
            for field in [kind, first, second, third] {
                bytes.extend_from_slice(field);
                bytes.push(0);
            }
            bytes
        };
        let mut all = Vec::new();
        all.extend(self.comment.iter().map(|comment| record(b"comment", [comment, b"", b""])));
        all.extend(self.grants.iter().map(|_| record(b"grants", [b""; 3])));
        all.extend(self.grants.iter().flatten().map(|grant| {
            let grantable: &[u8] = if grant.is_grantable { b"true" } else { b"false" };
            record(b"grant", [&grant.grantee, &grant.privilege, grantable])
        }));
        all.extend(self.settings.iter().map(|(role, name, value)| record(b"setting", [role, name, value])));
        all.extend(self.extensions.iter().map(|(name, version)| record(b"extension", [name, version, b""])));
        all.extend(self.roles.iter().map(|role| record(b"role", [role, b"", b""])));
        let (mut bytes, mut omitted) = (Vec::new(), 0);
        for record in all {
            if bytes.len() + record.len() <= PROPERTIES_BYTES_MAX {
                bytes.extend_from_slice(&record);
            } else {
                omitted += 1;
            }
        }
        (bytes, omitted)
    }

    pub fn decode(bytes: &[u8]) -> Result<Properties> {
        let mut fields: Vec<Vec<u8>> = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        fields.pop();
        let mut properties = Properties::default();
        for record in records::<4>(fields)? {
            properties.add(record);
        }
        Ok(properties)
    }
}

const PROPERTIES: &str = "\
WITH o AS (SELECT oid FROM pg_database WHERE datname = current_database()) \
SELECT 'size', pg_database_size(oid)::text, '', '' FROM o \
UNION ALL SELECT 'extension', extname::text, extversion, '' FROM pg_extension \
UNION ALL SELECT 'role', rolname, '', '' FROM pg_roles WHERE oid IN (\
  SELECT refobjid FROM pg_shdepend, o WHERE refclassid = 'pg_authid'::regclass AND dbid = o.oid \
  UNION SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema') \
UNION ALL SELECT 'comment', shobj_description(o.oid, 'pg_database'), '', '' FROM o \
  WHERE shobj_description(o.oid, 'pg_database') IS NOT NULL \
UNION ALL SELECT 'grants', '', '', '' FROM pg_database, o WHERE pg_database.oid = o.oid AND datacl IS NOT NULL \
UNION ALL SELECT 'grant', coalesce(r.rolname, ''), a.privilege_type, a.is_grantable::text \
  FROM o JOIN pg_database USING (oid) CROSS JOIN LATERAL aclexplode(datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee \
UNION ALL SELECT 'setting', coalesce(r.rolname, ''), split_part(c, '=', 1), substr(c, strpos(c, '=') + 1) \
  FROM o JOIN pg_db_role_setting s ON s.setdatabase = o.oid CROSS JOIN LATERAL unnest(setconfig) c \
  LEFT JOIN pg_roles r ON r.oid = s.setrole";

fn one<const N: usize>(records: Vec<[Vec<u8>; N]>) -> Result<[Vec<u8>; N]> {
    records.into_iter().next().ok_or_else(|| Error::source("PostgreSQL", "psql gave no answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_from_a_fact() {
        let properties = Properties {
            size: 0,
            extensions: vec![(b"plpgsql".to_vec(), b"1.0".to_vec())],
            roles: vec![b"projop".to_vec(), b"odd\xe9\nname".to_vec()],
            comment: Some(b"base de test".to_vec()),
            grants: Some(vec![Grant { grantee: Vec::new(), privilege: b"CONNECT".to_vec(), is_grantable: true }]),
            settings: vec![(Vec::new(), b"work_mem".to_vec(), b"8MB".to_vec())],
        };
        let (bytes, omitted) = properties.encode();
        assert_eq!(omitted, 0);
        assert_eq!(Properties::decode(&bytes).unwrap(), properties);
        for (empty, grants) in [(Properties::default(), None), (Properties::default(), Some(Vec::new()))] {
            let properties = Properties { grants, ..empty };
            assert_eq!(Properties::decode(&properties.encode().0).unwrap(), properties);
        }
        for len in 0..bytes.len() {
            // Whatever it is, it is bounded by what is there.
            let _ = Properties::decode(&bytes[..len]);
        }
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let roles: Vec<Vec<u8>> = (0..5000).map(|i| format!("a role with the number {i}").into_bytes()).collect();
        let (bytes, omitted) = Properties { roles, ..Properties::default() }.encode();
        assert!(bytes.len() <= PROPERTIES_BYTES_MAX && omitted > 0);
        assert_eq!(Properties::decode(&bytes).unwrap().roles.len() as u64 + omitted, 5000);
    }
}

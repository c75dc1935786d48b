//! A PostgreSQL server for one test: its own directory and socket, no network, gone with the value. Tests skip loudly
//! where PostgreSQL is not installed.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::program::{Told, told};

pub struct Cluster {
    dir: tempfile::TempDir,
    bin: PathBuf,
}

const HBA: &str = "local all openpg scram-sha-256\nlocal all all trust\n";
const CONFIGURATION: &str = "listen_addresses = ''\nport = 5432\nfsync = off\nshared_buffers = 16MB\ntimezone = 'Europe/Paris'\n\
    max_connections = 20\nautovacuum = off\n";

impl Cluster {
    /// None, and said aloud, where there is no PostgreSQL.
    pub fn start() -> Option<Cluster> {
        let Some(bin) = bin() else {
            eprintln!("skipped: PostgreSQL's server is not installed (deploy/needs test)");
            return None;
        };
        let open = PermissionsExt::from_mode(0o755);
        let dir = tempfile::Builder::new().prefix("nkpg").permissions(open).tempdir().unwrap();
        let cluster = Cluster { dir, bin };
        if rustix::process::geteuid().is_root() {
            told(Command::new("chown").arg("postgres:").arg(cluster.path())).expect(0);
        }
        cluster.tool(
            "initdb",
            &["-D", "data", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust", "-U", "postgres", "--no-sync"],
        );
        let data = cluster.path().join("data");
        std::fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        let socket = format!("unix_socket_directories = '{}'\n", cluster.path().display());
        let mut file = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        file.write_all((CONFIGURATION.to_owned() + &socket).as_bytes()).unwrap();
        cluster.tool("pg_ctl", &["-D", "data", "-w", "-l", "log", "start"]);
        cluster.sql("postgres", "CREATE ROLE projop LOGIN");
        cluster.sql("postgres", "CREATE ROLE openpg LOGIN CREATEDB PASSWORD 'right'");
        Some(cluster)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn bin(&self) -> &Path {
        &self.bin
    }

    pub fn stop(&self) {
        self.tool("pg_ctl", &["-D", "data", "-m", "immediate", "-w", "stop"]);
    }

    /// One of the server's own tools, as its user.
    fn tool(&self, name: &str, arguments: &[&str]) {
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(self.bin.join(name));
            command
        } else {
            Command::new(self.bin.join(name))
        };
        // A server keeps what its starter held open.
        let output = command.args(arguments).current_dir(self.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let status = output.stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{name} fails; see {}", self.path().display());
    }

    /// A command that talks to this server.
    pub fn on<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        command.env("PGHOST", self.path()).env("PGPORT", "5432").env("PGUSER", "postgres").env("HOME", self.path())
    }

    /// A client program on a database of any name.
    pub fn client(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        self.on(&mut command).env("PGDATABASE", database).env("LC_ALL", "C").env("PGTZ", "UTC").stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut command = self.client("psql", database);
        let told = told(command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql])).expect(0);
        String::from_utf8(told.out).unwrap().trim_end().to_owned()
    }

    pub fn databases(&self) -> Vec<String> {
        let names = self.sql(
            "postgres",
            "SELECT to_json(datname) FROM pg_database WHERE NOT datistemplate ORDER BY datname COLLATE \"C\"",
        );
        names.lines().map(|name| serde_json::from_str(name).unwrap()).collect()
    }

    /// All that is in a database: its dump as text, but for what differs every time, and what is said about it elsewhere.
    #[track_caller]
    pub fn fingerprint(&self, database: &str) -> String {
        let properties = self.sql(
            database,
            "SELECT pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider, datconnlimit, pg_get_userbyid(datdba), \
             (SELECT array_agg(a::text ORDER BY a::text) FROM aclexplode(datacl) a), shobj_description(d.oid, 'pg_database'), \
             (SELECT array_agg(setconfig ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid) \
             FROM pg_database d WHERE datname = current_database()",
        );
        format!("{properties}\n{}", masked(&self.dump(database, &["-Fp"])))
    }

    #[track_caller]
    pub fn dump<S: AsRef<OsStr>>(&self, database: &str, options: &[S]) -> Vec<u8> {
        told(self.client("pg_dump", database).args(options)).expect(0).out
    }

    /// A directory with PostgreSQL's client programs, some of them replaced by shell scripts. `REAL` in a script is the
    /// directory of the real ones.
    pub fn programs(&self, dir: PathBuf, replaced: &[(&str, &str)]) -> PathBuf {
        for name in ["psql", "pg_dump", "pg_dumpall", "pg_restore"] {
            let path = dir.join(name);
            match replaced.iter().find(|(replaced, _)| *replaced == name) {
                None => std::os::unix::fs::symlink(self.bin.join(name), path).unwrap(),
                Some((_, "")) => (),
                Some((_, script)) => {
                    let script = script.replace("REAL", self.bin.to_str().unwrap());
                    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
                }
            }
        }
        dir
    }

    /// Runs a command against this server.
    pub fn told(&self, mut command: Command) -> Told {
        told(self.on(&mut command))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.path().join("data/postmaster.pid").exists() {
            self.stop();
        }
    }
}

/// A plain dump without its tokens.
pub fn masked(dump: &[u8]) -> String {
    let text = String::from_utf8_lossy(dump);
    text.lines()
        .filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// Where the newest server is.
fn bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop()
}

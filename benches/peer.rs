//! The programs that are measured: what each does for a piece of work, as a command line.

use crate::ssh::{HOST, Ssh};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    Nightkeep,
    Restic,
    Rustic,
    Borg,
    Bupstash,
    /// One generation, as it is.
    Rsync,
    /// A full copy each night.
    Tar,
    /// Object storages only.
    Repozo,
}

pub const ALL: [Peer; 8] =
    [Peer::Nightkeep, Peer::Restic, Peer::Rustic, Peer::Borg, Peer::Bupstash, Peer::Rsync, Peer::Tar, Peer::Repozo];

pub const PASSWORD: &str = "benchmark";

/// A peer that can be run, with a place for its repository and all else that it keeps.
pub struct Program<'a> {
    pub peer: Peer,
    pub path: &'a Path,
    pub state: &'a Path,
    /// The repository is behind this, for those that can: [`OVER_SSH`].
    pub ssh: Option<&'a Ssh>,
}

/// Peers that keep repositories on servers.
pub const OVER_SSH: [Peer; 3] = [Peer::Restic, Peer::Borg, Peer::Rsync];

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Nightkeep => "nightkeep",
            Peer::Restic => "restic",
            Peer::Rustic => "rustic",
            Peer::Borg => "borg",
            Peer::Bupstash => "bupstash",
            Peer::Rsync => "rsync",
            Peer::Tar => "tar+zstd",
            Peer::Repozo => "repozo",
        }
    }

    /// Whether it does the same: deduplicates, encrypts, checks, prunes, and is maintained.
    pub fn is_rival(self) -> bool {
        matches!(self, Peer::Restic | Peer::Rustic | Peer::Borg)
    }

    pub fn how_to_install(self) -> &'static str {
        match self {
            Peer::Nightkeep => "cargo build --release",
            Peer::Restic => "apt-get install restic",
            Peer::Rustic => "cargo install rustic-rs --locked",
            Peer::Borg => "apt-get install borgbackup",
            Peer::Bupstash => "apt-get install libsodium-dev pkg-config; cargo install bupstash --locked",
            Peer::Rsync => "apt-get install rsync",
            Peer::Tar => "apt-get install tar zstd",
            Peer::Repozo => "pip install ZODB; give its place with --repozo",
        }
    }

    pub fn program(self) -> &'static str {
        if self == Peer::Tar { "zstd" } else { self.name() }
    }

    /// The first line of its version, if it is installed.
    pub fn version(self, program: &Path) -> Option<String> {
        let argument = match self {
            Peer::Restic => "version",
            Peer::Repozo => "--help",
            _ => "--version",
        };
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).lines().find(|line| !line.is_empty())?.trim().to_owned();
        let text = if self == Peer::Repozo { "repozo of ZODB".into() } else { text };
        output.status.success().then_some(text)
    }
}

impl Program<'_> {
    pub fn repository(&self) -> PathBuf {
        self.state.join("repository")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.path);
        let (state, repository) = (self.state, self.repository());
        command.env("XDG_CACHE_HOME", state.join("cache"));
        match self.peer {
            Peer::Nightkeep => command
                .env("NIGHTKEEP_REPOSITORY", repository)
                .env("NIGHTKEEP_PASSWORD", PASSWORD)
                .env("NIGHTKEEP_CACHE_DIR", state.join("cache"))
                .env("NIGHTKEEP_STATE_DIR", state.join("state"))
                .arg("-q"),
            Peer::Restic => {
                let place = self.ssh.map_or(repository.clone().into(), |ssh| OsString::from(ssh.restic(&repository)));
                command.env("RESTIC_REPOSITORY", place).env("RESTIC_PASSWORD", PASSWORD).arg("-q");
                if let Some(ssh) = self.ssh {
                    command.arg("-o").arg(format!("sftp.command={} {HOST} -s sftp", ssh.command()));
                }
                &mut command
            }
            Peer::Rustic => {
                command.env("RUSTIC_REPOSITORY", repository).env("RUSTIC_PASSWORD", PASSWORD).arg("--no-progress")
            }
            Peer::Borg => command
                .env("BORG_REPO", self.behind(format!("ssh://{HOST}"), &repository))
                .env("BORG_RSH", self.ssh.map_or_else(|| "ssh".into(), Ssh::command))
                .env("BORG_PASSPHRASE", PASSWORD)
                .env("BORG_BASE_DIR", state)
                .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes"),
            Peer::Bupstash => command
                .env("BUPSTASH_REPOSITORY", repository)
                .env("BUPSTASH_KEY", state.join("key"))
                .env("BUPSTASH_SEND_LOG", state.join("send-log"))
                .env("BUPSTASH_QUERY_CACHE", state.join("query-cache")),
            Peer::Rsync => command.env("RSYNC_RSH", self.ssh.map_or_else(|| "ssh".into(), Ssh::command)),
            Peer::Tar | Peer::Repozo => &mut command,
        };
        command
    }

    fn behind(&self, way: String, repository: &Path) -> OsString {
        let mut place = if self.ssh.is_some() { OsString::from(way) } else { OsString::new() };
        place.push(repository);
        place
    }

    /// A line for the shell, with these as `$1`, `$2` and so on.
    fn shell(&self, script: &str, arguments: &[&Path]) -> Command {
        let mut command = self.command();
        let mut shell = Command::new("/bin/sh");
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        shell.envs(variables).args(["-c", script, "sh"]).args(arguments);
        command = shell;
        command
    }

    pub fn init(&self) -> Vec<Command> {
        let mut command = self.command();
        match self.peer {
            Peer::Borg => command.args(["init", "-e", "repokey-blake2"]),
            Peer::Bupstash => {
                let mut key = self.command();
                key.args(["new-key", "-o"]).arg(self.state.join("key"));
                command.arg("init");
                return vec![key, command];
            }
            Peer::Rsync | Peer::Tar | Peer::Repozo => {
                command = Command::new("mkdir");
                command.arg(self.repository())
            }
            _ => command.arg("init"),
        };
        vec![command]
    }

    /// The backup of this number, from 0.
    pub fn backup(&self, source: &Path, number: usize) -> Command {
        let mut command = self.command();
        match self.peer {
            Peer::Nightkeep => command.args(["backup", "files", "--dataset", "corpus"]).arg(source),
            Peer::Borg => command.arg("create").arg(format!("::night{number}")).arg(source),
            Peer::Bupstash => command.args(["put", "-q", "name=corpus"]).arg(source),
            Peer::Rsync => {
                let to = self.behind(format!("{HOST}:"), &self.repository());
                command.args(["-a", "--delete"]).arg(source).arg(to)
            }
            Peer::Tar => {
                let to = self.repository().join(format!("{number}.tar.zst"));
                let (parent, name) = (source.parent().unwrap_or(source), source.file_name().unwrap_or_default());
                let script = "tar -C \"$1\" -cf - \"$2\" | zstd -q -3 -T2 -o \"$3\"";
                return self.shell(script, &[parent, Path::new(name), &to]);
            }
            Peer::Repozo => command.arg("-B").arg("-r").arg(self.repository()).arg("-f").arg(source.join("Data.fs")),
            _ => command.arg("backup").arg(source),
        };
        command
    }

    /// The backup of this number, the last one.
    pub fn restore(&self, target: &Path, number: usize) -> Command {
        let mut command = self.command();
        match self.peer {
            Peer::Nightkeep => command.args(["restore", "files", "files/corpus", "--target"]).arg(target),
            Peer::Restic => command.args(["restore", "latest", "--target"]).arg(target),
            Peer::Rustic => command.args(["restore", "latest"]).arg(target),
            Peer::Borg => command.current_dir(target).arg("extract").arg(format!("::night{number}")),
            Peer::Bupstash => {
                // Items have no name that is the last; ids are listed in order.
                let script = "id=$(\"$1\" list | tail -n 1 | sed 's/.*id=\"\\([^\"]*\\)\".*/\\1/') && \
                              \"$1\" restore -q --into \"$2\" \"id=$id\"";
                return self.shell(script, &[self.path, target]);
            }
            Peer::Rsync => {
                let mut from = self.behind(format!("{HOST}:"), &self.repository());
                from.push("/");
                command.arg("-a").arg(from).arg(target)
            }
            Peer::Tar => {
                let from = self.repository().join(format!("{number}.tar.zst"));
                return self.shell("zstd -q -dc \"$1\" | tar -C \"$2\" -xf -", &[&from, target]);
            }
            Peer::Repozo => command.arg("-R").arg("-r").arg(self.repository()).arg("-o").arg(target.join("Data.fs")),
        };
        command
    }

    /// In the foreground; none for those that are not measured.
    pub fn mount(&self) -> Option<Command> {
        if !matches!(self.peer, Peer::Nightkeep | Peer::Restic) {
            return None;
        }
        let mut command = self.command();
        command.arg("mount").arg(self.state.join("mount"));
        Some(command)
    }

    /// None for those that have nothing to check.
    pub fn check(&self, number: usize) -> Option<Command> {
        let mut command = self.command();
        match self.peer {
            Peer::Borg => command.args(["check", "--verify-data"]),
            Peer::Tar => command.args(["-q", "-t"]).arg(self.repository().join(format!("{number}.tar.zst"))),
            Peer::Repozo => command.arg("-V").arg("-r").arg(self.repository()),
            Peer::Bupstash | Peer::Rsync => return None,
            _ => command.args(["check", "--read-data"]),
        };
        Some(command)
    }

    /// Forgets all snapshots but the last and frees their space at once; empty for those that have none.
    pub fn prune(&self) -> Vec<Command> {
        let (mut first, mut second) = (self.command(), self.command());
        match self.peer {
            Peer::Nightkeep => {
                first.args(["forget", "--keep-last", "1"]);
                second.args(["prune", "--grace", "0"]);
            }
            Peer::Restic => {
                first.args(["forget", "--keep-last", "1", "--prune"]);
                return vec![first];
            }
            Peer::Rustic => {
                first.args(["forget", "--keep-last", "1"]);
                second.args(["prune", "--instant-delete", "--keep-delete", "0s"]);
            }
            Peer::Borg => {
                first.args(["prune", "--keep-last", "1"]);
                second.arg("compact");
            }
            Peer::Bupstash => {
                let script = "\"$1\" list | head -n -1 | sed 's/.*id=\"\\([^\"]*\\)\".*/\\1/' | \
                              \"$1\" rm --ids-from-stdin -q";
                first = self.shell(script, &[self.path]);
                second.args(["gc", "-q"]);
            }
            Peer::Rsync | Peer::Tar | Peer::Repozo => return Vec::new(),
        }
        vec![first, second]
    }
}

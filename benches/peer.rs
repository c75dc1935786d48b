//! The programs that are measured: what each does for a piece of work, as a command line.

use std::path::Path;
use std::process::Command;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    Nightkeep,
    Restic,
    Rustic,
    Borg,
}

pub const ALL: [Peer; 4] = [Peer::Nightkeep, Peer::Restic, Peer::Rustic, Peer::Borg];

pub const PASSWORD: &str = "benchmark";

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Nightkeep => "nightkeep",
            Peer::Restic => "restic",
            Peer::Rustic => "rustic",
            Peer::Borg => "borg",
        }
    }

    pub fn how_to_install(self) -> &'static str {
        match self {
            Peer::Nightkeep => "cargo build --release",
            Peer::Restic => "apt-get install restic",
            Peer::Rustic => "cargo install rustic-rs --locked",
            Peer::Borg => "apt-get install borgbackup",
        }
    }

    /// The first line of its version, if it is installed.
    pub fn version(self, program: &Path) -> Option<String> {
        let verb = if self == Peer::Restic { "version" } else { "--version" };
        let output = Command::new(program).arg(verb).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned();
        output.status.success().then_some(text)
    }

    fn command(self, program: &Path, state: &Path) -> Command {
        let mut command = Command::new(program);
        let repository = state.join("repository");
        command.env("XDG_CACHE_HOME", state.join("cache"));
        match self {
            Peer::Nightkeep => command
                .env("NIGHTKEEP_REPOSITORY", repository)
                .env("NIGHTKEEP_PASSWORD", PASSWORD)
                .env("NIGHTKEEP_CACHE_DIR", state.join("cache"))
                .env("NIGHTKEEP_STATE_DIR", state.join("state"))
                .arg("-q"),
            Peer::Restic => command.env("RESTIC_REPOSITORY", repository).env("RESTIC_PASSWORD", PASSWORD).arg("-q"),
            Peer::Rustic => {
                command.env("RUSTIC_REPOSITORY", repository).env("RUSTIC_PASSWORD", PASSWORD).arg("--no-progress")
            }
            Peer::Borg => command
                .env("BORG_REPO", repository)
                .env("BORG_PASSPHRASE", PASSWORD)
                .env("BORG_BASE_DIR", state)
                .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes"),
        };
        command
    }

    pub fn init(self, program: &Path, state: &Path) -> Command {
        let mut command = self.command(program, state);
        match self {
            Peer::Borg => command.args(["init", "-e", "repokey-blake2"]),
            _ => command.arg("init"),
        };
        command
    }

    pub fn backup(self, program: &Path, state: &Path, source: &Path, number: usize) -> Command {
        let mut command = self.command(program, state);
        match self {
            Peer::Nightkeep => command.args(["backup", "files", "--dataset", "corpus"]).arg(source),
            Peer::Borg => command.arg("create").arg(format!("::night{number}")).arg(source),
            _ => command.arg("backup").arg(source),
        };
        command
    }

    pub fn restore(self, program: &Path, state: &Path, target: &Path, number: usize) -> Command {
        let mut command = self.command(program, state);
        match self {
            Peer::Nightkeep => command.args(["restore", "files", "files/corpus", "--target"]).arg(target),
            Peer::Restic => command.args(["restore", "latest", "--target"]).arg(target),
            Peer::Rustic => command.args(["restore", "latest"]).arg(target),
            Peer::Borg => command.current_dir(target).arg("extract").arg(format!("::night{number}")),
        };
        command
    }

    /// In the foreground; none for those that are not measured.
    pub fn mount(self, program: &Path, state: &Path) -> Option<Command> {
        let mut command = self.command(program, state);
        match self {
            Peer::Nightkeep | Peer::Restic => command.arg("mount").arg(state.join("mount")),
            Peer::Rustic | Peer::Borg => return None,
        };
        Some(command)
    }

    pub fn check(self, program: &Path, state: &Path) -> Command {
        let mut command = self.command(program, state);
        match self {
            Peer::Borg => command.args(["check", "--verify-data"]),
            _ => command.args(["check", "--read-data"]),
        };
        command
    }

    /// Forgets all snapshots but the last and frees their space at once.
    pub fn prune(self, program: &Path, state: &Path) -> Vec<Command> {
        let command = || self.command(program, state);
        let (mut first, mut second) = (command(), command());
        match self {
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
        }
        vec![first, second]
    }
}

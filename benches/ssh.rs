//! A server for the peers behind the loopback: an SSH daemon of our own, with keys made for it, and restic's rest-server where it is
//! installed. Neither touches anybody's configuration.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const READY_WAIT: Duration = Duration::from_secs(10);
/// What the client's configuration calls the server.
pub const HOST: &str = "bench";

pub struct Ssh {
    daemon: Child,
    rest: Option<(Child, u16)>,
    /// Of the client.
    pub config: PathBuf,
}

impl Ssh {
    /// None, and said why, if there is no SSH daemon.
    pub fn start(scratch: &Path) -> io::Result<Option<Ssh>> {
        let program = Path::new("/usr/sbin/sshd");
        if !program.exists() {
            eprintln!(
                "no sshd: peers are not measured over the network; install it with: apt-get install openssh-server"
            );
            return Ok(None);
        }
        let place = scratch.join("ssh");
        std::fs::create_dir_all(&place)?;
        // Where the daemon wants to be when it runs as root.
        let _ = std::fs::create_dir_all("/run/sshd");
        for key in ["host", "client"] {
            let mut command = Command::new("ssh-keygen");
            succeed(command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(place.join(key)))?;
        }
        let (port, shown) = (free_port()?, place.display());
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/client.pub\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        );
        std::fs::write(place.join("sshd_config"), config)?;
        let client = format!(
            "Host {HOST}\nHostName 127.0.0.1\nPort {port}\nIdentityFile {shown}/client\nIdentitiesOnly yes\nLogLevel ERROR\n\
             StrictHostKeyChecking no\nUserKnownHostsFile {shown}/known\n"
        );
        let own = place.join("config");
        std::fs::write(&own, client)?;
        let mut command = Command::new(program);
        let daemon = quiet(command.args(["-D", "-f"]).arg(place.join("sshd_config"))).spawn()?;
        let mut ssh = Ssh { daemon, rest: None, config: own };
        wait_for(port)?;
        succeed(Command::new("ssh").arg("-F").arg(&ssh.config).args([HOST, "true"]))?;
        ssh.rest = rest(scratch)?;
        Ok(Some(ssh))
    }

    /// How `ssh` is called.
    pub fn command(&self) -> String {
        format!("ssh -F {}", self.config.display())
    }

    /// Where restic finds a repository in this directory.
    pub fn restic(&self, repository: &Path) -> String {
        match (&self.rest, repository.file_name()) {
            (Some((_, port)), Some(_)) => format!("rest:http://127.0.0.1:{port}{}/", repository.display()),
            _ => format!("sftp:{HOST}:{}", repository.display()),
        }
    }

    pub fn restic_way(&self) -> &'static str {
        if self.rest.is_some() { "restic, rest-server" } else { "restic, sftp" }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        for process in [Some(&mut self.daemon), self.rest.as_mut().map(|(process, _)| process)].into_iter().flatten() {
            // It may be gone already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Serves all of the file system, to this machine.
fn rest(scratch: &Path) -> io::Result<Option<(Child, u16)>> {
    let port = free_port()?;
    let mut command = Command::new("rest-server");
    let started = quiet(command.args(["--no-auth", "--path", "/", "--listen"]).arg(format!("127.0.0.1:{port}")))
        .current_dir(scratch)
        .spawn();
    let Ok(process) = started else { return Ok(None) };
    wait_for(port)?;
    Ok(Some((process, port)))
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn succeed(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))))
}

/// One that was free a moment ago.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn wait_for(port: u16) -> io::Result<()> {
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if began.elapsed() > READY_WAIT {
            return Err(io::Error::other(format!("nobody listens on port {port}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

//! The same work in a directory and on a server behind the loopback, in turn: what the way costs. Then that of peers with theirs.

use crate::Work;
use crate::measure;
use crate::peer::{self, Peer, Program};
use crate::ssh::Ssh;
use std::io::{self, Read};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "benchmark";
const WORKS: [&str; 4] = ["first backup", "unchanged backup", "next backup", "restore"];

/// Prints a table of medians, and of what the server had in memory.
pub fn run(nightkeep: &Path, size: f64, rounds: usize, scratch: &Path) -> io::Result<()> {
    println!("| work | directory | server | speed of the server's |\n|---|---|---|---|");
    for name in ["dump", "tree"] {
        let work = Work::new(name, size, scratch)?;
        let mut seconds: Vec<[Vec<f64>; 2]> = vec![Default::default(); WORKS.len()];
        let mut memory = 0;
        for _ in 0..rounds.max(1) {
            for on_server in [false, true] {
                let (times, kib) = once(nightkeep, &work, on_server, scratch)?;
                memory = memory.max(kib);
                for (all, time) in seconds.iter_mut().zip(times) {
                    if let Some(own) = all.get_mut(usize::from(on_server)) {
                        own.push(time);
                    }
                }
            }
        }
        for (what, [here, there]) in WORKS.iter().zip(seconds) {
            let (here, there) = (median(here), median(there));
            println!("| {name}: {what} | {here:.2} s | {there:.2} s | {:.0} % |", here / there * 100.0);
        }
        println!("| {name}: memory of the server | | {} MiB | |", memory >> 10);
    }
    let Some(ssh) = Ssh::start(scratch)? else { return Ok(()) };
    let ways = [ssh.restic_way(), "borg, ssh", "rsync, ssh, one generation"];
    println!("\n| work | {} |\n|---|---|---|---|", ways.join(" | "));
    for name in ["dump", "tree"] {
        let work = Work::new(name, size, scratch)?;
        let mut seconds: Vec<Vec<Vec<f64>>> = vec![Vec::new(); peer::OVER_SSH.len()];
        for _ in 0..rounds.max(1) {
            for (peer, all) in peer::OVER_SSH.into_iter().zip(&mut seconds) {
                if peer.version(Path::new(peer.program())).is_some() {
                    all.push(once_of_peer(peer, &work, &ssh, scratch)?);
                }
            }
        }
        for (at, what) in WORKS.iter().enumerate() {
            let cells = seconds.iter().map(|rounds| {
                let times: Vec<f64> = rounds.iter().filter_map(|round| round.get(at).copied()).collect();
                if times.is_empty() { "missing".into() } else { format!("{:.2} s", median(times)) }
            });
            println!("| {name}: {what} | {} |", cells.collect::<Vec<String>>().join(" | "));
        }
    }
    Ok(())
}

/// Seconds of each work.
fn once_of_peer(peer: Peer, work: &Work, ssh: &Ssh, scratch: &Path) -> io::Result<Vec<f64>> {
    let state = tempfile::tempdir_in(scratch)?;
    let program = Program { peer, path: Path::new(peer.program()), state: state.path(), ssh: Some(ssh) };
    let target = state.path().join("target");
    std::fs::create_dir_all(&target)?;
    work.set(0)?;
    for command in program.init() {
        measure::run(command)?;
    }
    let first = measure::run(program.backup(&work.source, 0))?.seconds;
    let unchanged = measure::run(program.backup(&work.source, 1))?.seconds;
    work.set(1)?;
    let next = measure::run(program.backup(&work.source, 2))?.seconds;
    let restore = measure::run(program.restore(&target, 2))?.seconds;
    Ok(vec![first, unchanged, next, restore])
}

/// Seconds of each work, and the peak memory of the server in KiB.
fn once(nightkeep: &Path, work: &Work, on_server: bool, scratch: &Path) -> io::Result<(Vec<f64>, u64)> {
    let state = tempfile::tempdir_in(scratch)?;
    work.set(0)?;
    let server = if on_server { Some(Server::start(nightkeep, state.path())?) } else { None };
    let url = match &server {
        Some(server) => format!("quic://{}/bench", server.address),
        None => state.path().join("repository").display().to_string(),
    };
    let command = |words: &[&str]| {
        let mut command = Command::new(nightkeep);
        command
            .env("NIGHTKEEP_REPOSITORY", &url)
            .env("NIGHTKEEP_PASSWORD", PASSWORD)
            .env("NIGHTKEEP_CACHE_DIR", state.path().join("cache"))
            .env("NIGHTKEEP_STATE_DIR", state.path().join("state"))
            .args(words);
        command
    };
    if let Some(server) = &server {
        measure::run(command(&["join", server.token.trim()]))?;
    }
    measure::run(command(&["init"]))?;
    let source = work.source.to_string_lossy().into_owned();
    let backup = || measure::run(command(&["backup", "files", "--dataset", "bench", &source]));
    let first = backup()?.seconds;
    let unchanged = backup()?.seconds;
    work.set(1)?;
    let next = backup()?.seconds;
    let (what, target) = (format!("bench:{source}"), state.path().join("target").to_string_lossy().into_owned());
    let restore = measure::run(command(&["restore", "files", &what, "--target", &target]))?.seconds;
    let memory = server.map_or(0, |server| server.memory_kib());
    Ok((vec![first, unchanged, next, restore], memory))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

pub struct Server {
    process: Child,
    config: PathBuf,
    program: PathBuf,
    pub address: String,
    pub token: String,
}

impl Server {
    pub fn start(nightkeep: &Path, state: &Path) -> io::Result<Server> {
        let program = nightkeep.with_file_name("nightkeepd");
        // A port that was free a moment ago.
        let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let config = state.join("server.toml");
        let command = |words: &[&str]| {
            let mut command = Command::new(&program);
            command.arg("--config").arg(&config).args(words).stdin(Stdio::null());
            command
        };
        let data: PathBuf = state.join("data");
        measure::run(command(&["init", "--data", &data.to_string_lossy(), "--listen", &address]))?;
        let mut text = std::fs::read_to_string(&config)?;
        text.push_str("http = \"off\"\n");
        std::fs::write(&config, text)?;
        let process = command(&["serve"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let (config, program) = (config.clone(), program.clone());
        let mut server = Server { process, config, program, address, token: String::new() };
        let until = Instant::now() + Duration::from_secs(20);
        while measure::run(command(&["repository", "create", "bench"])).is_err() {
            if Instant::now() > until {
                return Err(io::Error::other("nightkeepd does not start"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let invited = command(&["invite", "--repository", "bench", "--role", "admin"]).output()?;
        (&invited.stdout[..]).read_to_string(&mut server.token)?;
        Ok(server)
    }

    /// What it answers an administrator.
    pub fn told(&self, words: &[&str]) -> io::Result<String> {
        let told = Command::new(&self.program).arg("--config").arg(&self.config).args(words).output()?;
        if told.status.success() {
            return Ok(String::from_utf8_lossy(&told.stdout).into_owned());
        }
        Err(io::Error::other(format!("{words:?}: {}", String::from_utf8_lossy(&told.stderr))))
    }

    fn memory_kib(&self) -> u64 {
        measure::high_water(&format!("/proc/{}/status", self.process.id()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

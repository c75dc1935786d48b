//! A running `nightkeepd` with a data directory of its own, and machines that join it.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::program::{House, Told, nightkeep, told};
use super::torture::Place;

pub struct Appliance {
    place: Place,
    pub address: String,
    running: Option<Child>,
}

impl Appliance {
    /// Serving, with one empty repository, `office`.
    pub fn new() -> Appliance {
        // A port that was free a moment ago.
        let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut appliance = Appliance { place: Place::new(), address: format!("127.0.0.1:{port}"), running: None };
        let address = appliance.address.clone();
        let data = appliance.data();
        appliance.ok(&["init", "--data", data.to_str().unwrap(), "--listen", &address]);
        appliance.configure("http = \"off\"\n");
        appliance.start();
        appliance.ok(&["repository", "create", "office"]);
        appliance
    }

    pub fn config(&self) -> PathBuf {
        self.place.path().join("server.toml")
    }

    /// The configuration is what `init` wrote, and this. Counts from the next start or reload on.
    pub fn configure(&self, more: &str) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let own: String = text.lines().take(3).map(|line| format!("{line}\n")).collect();
        std::fs::write(self.config(), own + more).unwrap();
    }

    pub fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    pub fn repository(&self) -> PathBuf {
        self.data().join("repositories/office")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(nightkeep().with_file_name("nightkeepd"));
        command.arg("--config").arg(self.config()).args(arguments).stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run(arguments).expect(0).out).unwrap()
    }

    pub fn run(&self, arguments: &[&str]) -> Told {
        told(&mut self.command(arguments))
    }

    /// As [`Appliance::configure`], for a file that was replaced.
    pub fn configure_anew(&self, more: &str) {
        let own = format!("#\ndata = \"{}\"\nlisten = \"{}\"\n", self.data().display(), self.address);
        std::fs::write(self.config(), own + more).unwrap();
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let process = rustix::process::Pid::from_child(self.running.as_ref().unwrap());
        rustix::process::kill_process(process, rustix::process::Signal::HUP).unwrap();
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    pub fn start_with(&mut self, environment: &[(&str, &std::ffi::OsStr)]) {
        assert!(self.running.is_none());
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.place.path().join("log")).unwrap();
        self.running = Some(
            self.command(&["serve"])
                .envs(environment.iter().copied())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
        let until = Instant::now() + Duration::from_secs(60);
        while self.run(&["repository", "list"]).code != Some(0) {
            let ended = self.running.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none() && Instant::now() < until, "nightkeepd does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As a crash ends it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As an administrator ends it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let process = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
            assert!(child.wait().unwrap().success());
        }
    }

    pub fn log(&self) -> String {
        let mut text = String::new();
        let file = std::fs::File::open(self.place.path().join("log"));
        file.map(|mut file| file.read_to_string(&mut text).unwrap()).unwrap_or_default();
        text
    }

    /// Kilobytes that the server has in memory, at most so far.
    pub fn memory_peak_kib(&self) -> u64 {
        let process = self.running.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn invite(&self, role: &str, datasets: &[&str]) -> String {
        let mut words = vec!["invite", "--repository", "office", "--role", role];
        words.extend(datasets.iter().flat_map(|pattern| ["--datasets", pattern]));
        self.ok(&words).trim().to_owned()
    }

    pub fn url(&self) -> String {
        format!("quic://{}/office", self.address)
    }

    /// A machine that has not joined.
    pub fn stranger(&self) -> House {
        House::with_url(self.url())
    }

    /// A machine that joined.
    pub fn client(&self, role: &str, datasets: &[&str]) -> House {
        let house = self.stranger();
        house.ok(["join", &self.invite(role, datasets)]);
        house
    }

    /// A machine that joined as administrator and has created the repository.
    pub fn founder(&self) -> House {
        let house = self.client("admin", &[]);
        house.ok(["init"]);
        house
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.kill();
    }
}

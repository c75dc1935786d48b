//! Runs the independent reader, and the applications that are saved. The reader needs Debian's Python with three packages, the
//! applications an environment of their own; without them their tests say so and do nothing, unless `CI` is set: there
//! nothing may be missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::source::workspace;

const PYTHON: &str = "/usr/bin/python3";

/// False, and aloud, if the reader cannot run here.
pub fn available() -> bool {
    let probe = Command::new(PYTHON).args(["-c", "import cryptography, zstandard, argon2"]).output();
    if probe.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "the reader's Python packages are missing: run deploy/needs test");
    println!("SKIPPED: the reader's Python packages are missing: run deploy/needs test");
    false
}

/// The Python that has the applications; none, and aloud, if it was not made here.
pub fn applications() -> Option<PathBuf> {
    let python = workspace().join("target/python/bin/python");
    if python.exists() {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing: run deploy/needs test", python.display());
    println!("SKIPPED: {} is missing: run deploy/needs test", python.display());
    None
}

pub struct Reader<'a> {
    pub repository: &'a Path,
    pub password: Option<&'a str>,
    pub recovery_key: Option<&'a str>,
}

impl Reader<'_> {
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PYTHON);
        command.arg("-B").arg(workspace().join("tests/reader/nightkeep_reader.py"));
        command.env_remove("NIGHTKEEP_PASSWORD").env_remove("NIGHTKEEP_RECOVERY_KEY");
        command.envs(self.password.map(|value| ("NIGHTKEEP_PASSWORD", value)));
        command.envs(self.recovery_key.map(|value| ("NIGHTKEEP_RECOVERY_KEY", value)));
        command.arg("-r").arg(self.repository).args(arguments).output().unwrap()
    }

    /// What it prints; it must be content.
    #[track_caller]
    pub fn reads(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        let told = String::from_utf8_lossy(&output.stdout);
        let shown = if told.len() < 2000 { &told } else { "" };
        assert!(output.status.success(), "reader {arguments:?}: {errors}{shown}");
        output.stdout
    }

    #[track_caller]
    pub fn lines(&self, arguments: &[&str]) -> Vec<String> {
        String::from_utf8(self.reads(arguments)).unwrap().lines().map(str::to_owned).collect()
    }

    /// What it complains of; it must refuse.
    #[track_caller]
    pub fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "reader {arguments:?} accepts: {errors}");
        assert!(!errors.contains("Traceback"), "{errors}");
        errors
    }
}

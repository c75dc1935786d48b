//! The commands around a job: run to their end or to their timeout, in a process group of their own, so that nothing of
//! them stays behind when time is up.
//!
//! Their output goes to an unnamed file rather than a pipe: a service that a hook starts may keep it open without anybody
//! waiting for it, and does not die of its reader being gone.

use super::config::Command;
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a hook may take to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL_MAX: Duration = Duration::from_millis(50);
/// As much as is kept of what a hook prints: the end of it.
const OUTPUT_BYTES_MAX: u64 = 16 << 10;

/// How a hook ended, and the last lines that it printed.
#[derive(Debug)]
pub struct Ended {
    pub outcome: Result<(), String>,
    pub lines: Vec<String>,
}

/// Runs a hook. `interrupted` ends it early, if it is watched at all.
pub fn run(
    command: &Command,
    variables: &[(&str, String)],
    timeout: Duration,
    interrupted: Option<&AtomicBool>,
) -> Ended {
    // Appending, so that reading it moves nobody's place in it.
    let appending = |file: File| rustix::fs::fcntl_setfl(&file, OFlags::APPEND).map(|()| file).map_err(Into::into);
    let mut output = match tempfile::tempfile().and_then(appending) {
        Ok(file) => file,
        Err(error) => return Ended::failed(format!("cannot make a file for its output: {error}")),
    };
    let outcome = match start(command, variables, &output) {
        Ok(child) => wait(child, timeout, interrupted),
        Err(reason) => Err(reason),
    };
    Ended { outcome, lines: tail(&mut output) }
}

impl Ended {
    fn failed(reason: String) -> Ended {
        Ended { outcome: Err(reason), lines: Vec::new() }
    }

    /// The reason with the last thing that the hook said.
    pub fn cause(&self, reason: &str) -> String {
        match self.lines.last() {
            Some(line) => format!("{reason}; it said: {line}"),
            None => reason.to_owned(),
        }
    }
}

fn start(command: &Command, variables: &[(&str, String)], output: &File) -> Result<Child, String> {
    let words = command.words();
    let Some((program, arguments)) = words.split_first() else { return Err("it is empty".into()) };
    let cannot = |error: std::io::Error| format!("cannot run {}: {error}", program.to_string_lossy());
    let stdout = output.try_clone().map_err(cannot)?;
    let stderr = output.try_clone().map_err(cannot)?;
    let mut process = std::process::Command::new(program);
    process.args(arguments).env_remove("NIGHTKEEP_PASSWORD").current_dir("/").process_group(0);
    process.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    for (name, value) in variables {
        process.env(name, value);
    }
    process.spawn().map_err(cannot)
}

fn wait(mut child: Child, timeout: Duration, interrupted: Option<&AtomicBool>) -> Result<(), String> {
    let begun = Instant::now();
    let mut nap = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return judge(status),
            Ok(None) => {}
            Err(error) => {
                stop(&mut child);
                return Err(format!("cannot wait for it: {error}"));
            }
        }
        if begun.elapsed() >= timeout {
            stop(&mut child);
            return Err(format!("it was stopped after {}, its timeout", crate::units::format_elapsed(timeout)));
        }
        if interrupted.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            stop(&mut child);
            return Err("interrupted".into());
        }
        std::thread::sleep(nap.min(timeout.saturating_sub(begun.elapsed())));
        nap = (nap * 2).min(POLL_MAX);
    }
}

/// Asks the whole group to end, then ends it.
fn stop(child: &mut Child) {
    let group = Pid::from_child(child);
    // A group that is gone already needs no signal.
    let _ = kill_process_group(group, Signal::TERM);
    let told = Instant::now();
    while told.elapsed() < PATIENCE && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

fn judge(status: ExitStatus) -> Result<(), String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(format!("it failed with exit status {code}")),
        (None, Some(signal)) => Err(format!("it was killed by signal {signal}")),
        (None, None) => Err("it failed".into()),
    }
}

/// The last lines that were printed.
fn tail(output: &mut File) -> Vec<String> {
    let mut bytes = Vec::new();
    let size = output.seek(SeekFrom::End(0)).unwrap_or(0);
    let read = output
        .seek(SeekFrom::Start(size.saturating_sub(OUTPUT_BYTES_MAX)))
        .and_then(|_| output.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes));
    // What it said is for people; that it cannot be read changes nothing.
    let _ = read;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if size > OUTPUT_BYTES_MAX { lines.into_iter().skip(1).collect() } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        Command::Shell(script.into())
    }

    #[test]
    fn what_it_said_and_how_it_ended() {
        let ended =
            run(&shell("echo one; echo two >&2; echo $NIGHTKEEP_JOB"), &[("NIGHTKEEP_JOB", "w".into())], LONG, None);
        assert!(ended.outcome.is_ok());
        assert_eq!(ended.lines, ["one", "two", "w"]);
        let ended = run(&shell("echo no disk; exit 7"), &[], LONG, None);
        let reason = ended.outcome.as_ref().unwrap_err();
        assert_eq!(ended.cause(reason), "it failed with exit status 7; it said: no disk");
        let ended = run(&Command::Words(vec!["/no/such/program".into()]), &[], LONG, None);
        assert!(ended.outcome.unwrap_err().contains("/no/such/program"));
        let ended = run(&shell("kill -9 $$"), &[], LONG, None);
        assert_eq!(ended.outcome.unwrap_err(), "it was killed by signal 9");
    }

    #[test]
    fn time_is_up_for_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let alive = dir.path().join("alive");
        let script = format!("(trap '' TERM; sleep 0.2; exec sleep 60) & echo $! > {}; sleep 60", alive.display());
        let ended = run(&shell(&script), &[], Duration::from_millis(700), None);
        assert!(ended.outcome.unwrap_err().contains("timeout"));
        let pid: String = std::fs::read_to_string(&alive).unwrap().trim().into();
        let is_there = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        let begun = Instant::now();
        while is_there() {
            assert!(begun.elapsed() < Duration::from_secs(30), "its child is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn an_interrupt_ends_it_and_a_daemon_holds_up_nothing() {
        let interrupted = AtomicBool::new(true);
        assert_eq!(run(&shell("sleep 60"), &[], LONG, Some(&interrupted)).outcome.unwrap_err(), "interrupted");
        let begun = Instant::now();
        let ended = run(&shell("(exec setsid sleep 20) & echo started"), &[], LONG, None);
        assert!(ended.outcome.is_ok() && begun.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn much_output_is_bounded() {
        let ended = run(&shell("seq 1 100000"), &[], LONG, None);
        assert_eq!(ended.lines.last().unwrap(), "100000");
        assert!(ended.lines.len() < 4000 && ended.lines.iter().all(|line| line.len() >= 5));
    }
}

//! What became of the last runs, kept in the state directory for `status`: bounded, replaced as a whole, so that a crash
//! leaves the old or the new. Only the holder of the run lock writes. It is told, not truth: if it is lost, backups are not.

use super::verdict::Verdict;
use crate::clock;
use crate::error::{Error, Result};
use crate::session_files::{create_private, write_private};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const NAME: &str = "jobs.json";
const BYTES_MAX: u64 = 64 << 20;
/// Of each job.
const RUNS_MAX: usize = 60;
/// Jobs of which nothing was heard for so long are forgotten once they are not configured any more.
const ABSENT_SECONDS_MAX: u64 = 400 * 86_400;
const CAUSE_BYTES_MAX: usize = 2000;

#[derive(Clone, Default, Serialize, Deserialize, Debug)]
pub struct State {
    version: u32,
    /// A run that began and did not end.
    pub running: Option<Running>,
    pub jobs: BTreeMap<String, History>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Running {
    pub run: String,
    pub process: u32,
    /// Nanoseconds since 1970, as everywhere.
    pub since: i64,
    pub jobs: Vec<String>,
}

#[derive(Clone, Default, Serialize, Deserialize, Debug)]
pub struct History {
    /// The last one that did all, even if later runs have pushed it out of `runs`.
    pub success: Option<Entry>,
    /// Oldest first.
    pub runs: Vec<Entry>,
}

/// One run of one job.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Entry {
    pub run: String,
    pub started: i64,
    pub finished: i64,
    pub verdict: Verdict,
    pub code: u8,
    /// The first error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    pub snapshots: u64,
    pub bytes: u64,
    pub added_bytes: u64,
}

impl State {
    /// An unreadable state is set aside and told of, never a reason not to run.
    pub fn load(state_dir: &Path) -> (State, Option<String>) {
        match read(&state_dir.join(NAME)) {
            Ok(state) => (state, None),
            Err(reason) => (State::default(), Some(reason)),
        }
    }

    /// For the next run: what is no use any more becomes `jobs.json.damaged`.
    pub fn set_aside(state_dir: &Path) {
        let path = state_dir.join(NAME);
        // If this fails too, the next save replaces it.
        let _ = std::fs::rename(&path, path.with_extension("json.damaged"));
    }

    pub fn record(&mut self, job: &str, mut entry: Entry) {
        if let Some(cause) = entry.cause.as_mut() {
            let mut end = cause.len().min(CAUSE_BYTES_MAX);
            while !cause.is_char_boundary(end) {
                end -= 1;
            }
            cause.truncate(end);
        }
        let history = self.jobs.entry(job.to_owned()).or_default();
        if entry.verdict == Verdict::Done {
            history.success = Some(entry.clone());
        }
        history.runs.push(entry);
        let surplus = history.runs.len().saturating_sub(RUNS_MAX);
        history.runs.drain(..surplus);
    }

    /// Durably, or not at all. `configured` are the names of today's jobs.
    pub fn save(&mut self, state_dir: &Path, configured: &[&str]) -> Result<()> {
        self.version = VERSION;
        let oldest = clock::now().saturating_sub(clock::span(ABSENT_SECONDS_MAX));
        let is_young = |history: &History| history.runs.last().is_some_and(|last| last.finished >= oldest);
        self.jobs.retain(|name, history| configured.contains(&name.as_str()) || is_young(history));
        create_private(state_dir)?;
        let path = state_dir.join(NAME);
        let temporary = state_dir.join(format!("{NAME}.{}", std::process::id()));
        let failed = |error| Error::io("cannot write", path.display().to_string(), error);
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        let _ = std::fs::remove_file(&temporary);
        let written = write_private(&temporary, &bytes).and_then(|()| {
            std::fs::rename(&temporary, &path).and_then(|()| File::open(state_dir)?.sync_all()).map_err(failed)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

fn read(path: &PathBuf) -> std::result::Result<State, String> {
    let place = path.display();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(format!("cannot read {place}: {error}")),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read {place}: {error}"))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("{place} is too large"));
    }
    let state: State = serde_json::from_slice(&bytes).map_err(|error| format!("{place} is damaged: {error}"))?;
    if state.version > VERSION {
        return Err(format!("{place} was written by a newer nightkeep"));
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: i64, verdict: Verdict) -> Entry {
        Entry {
            run: format!("{at}"),
            started: at,
            finished: clock::now(),
            verdict,
            code: 0,
            cause: None,
            snapshots: 1,
            bytes: 7,
            added_bytes: 1,
        }
    }

    #[test]
    fn history_is_bounded_and_keeps_the_last_success() {
        let dir = tempfile::tempdir().unwrap();
        let (mut state, trouble) = State::load(dir.path());
        assert!(trouble.is_none() && state.jobs.is_empty());
        state.record("web", entry(1, Verdict::Done));
        for at in 2..200 {
            state.record("web", Entry { cause: Some("é".repeat(5000)), ..entry(at, Verdict::Failed) });
        }
        state.save(dir.path(), &["web"]).unwrap();
        let (state, _) = State::load(dir.path());
        let history = &state.jobs["web"];
        assert_eq!(history.runs.len(), RUNS_MAX);
        assert_eq!(history.runs.last().unwrap().started, 199);
        assert!(history.runs.last().unwrap().cause.as_ref().unwrap().len() <= CAUSE_BYTES_MAX);
        assert_eq!(history.success.as_ref().unwrap().started, 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn jobs_that_are_gone_go_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::default();
        state.record("old", Entry { finished: 1, ..entry(1, Verdict::Done) });
        state.record("recent", entry(1, Verdict::Done));
        state.record("kept", Entry { finished: 1, ..entry(1, Verdict::Done) });
        state.save(dir.path(), &["kept"]).unwrap();
        assert_eq!(state.jobs.keys().collect::<Vec<_>>(), ["kept", "recent"]);
    }

    #[test]
    fn every_truncation_and_every_changed_byte_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        let running = Some(Running { run: "r".into(), process: 7, since: 1, jobs: vec!["a".into()] });
        let mut state = State { running, ..State::default() };
        state.record("web", entry(1, Verdict::Incomplete));
        state.save(dir.path(), &["web"]).unwrap();
        let path = dir.path().join(NAME);
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(State::load(dir.path()).1.is_some(), "{len}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x80;
            std::fs::write(&path, changed).unwrap();
            assert!(State::load(dir.path()).1.is_some(), "{at}");
        }
        State::set_aside(dir.path());
        assert!(State::load(dir.path()).1.is_none());
        assert!(dir.path().join("jobs.json.damaged").exists());
    }
}

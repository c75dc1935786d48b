//! How the jobs stand: last success, its age against what is allowed, sizes and where they go. Pure.
//!
//! A job is *bad* if its last success is older than its maximum age, if it never succeeded, or if its last run saved nothing;
//! it is *incomplete* if its last run left something out. The age counts from when that run began: what was changed later
//! is not in it.

use super::config::Config;
use super::state::{Entry, History, State};
use super::verdict::Verdict;
use std::time::Duration;

/// So many earlier successes make the size that the last one is compared with.
const TREND_RUNS: usize = 7;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    Good,
    Incomplete,
    Bad,
}

#[derive(Debug)]
pub struct Standing<'a> {
    pub job: &'a str,
    pub is_configured: bool,
    pub last: Option<&'a Entry>,
    pub success: Option<&'a Entry>,
    /// Oldest first.
    pub runs: &'a [Entry],
    pub age: Option<Duration>,
    pub age_max: Option<Duration>,
    /// The last success against the mean of those before it: 0.02 is 2 % more.
    pub trend: Option<f64>,
}

impl Standing<'_> {
    pub fn is_over_age(&self) -> bool {
        match (self.age, self.age_max) {
            (Some(age), Some(most)) => age > most,
            _ => false,
        }
    }

    /// Jobs that are not configured any more are shown, not judged.
    pub fn health(&self) -> Health {
        let last = self.last.map(|last| last.verdict);
        if !self.is_configured {
            return Health::Good;
        }
        match last {
            _ if self.is_over_age() || self.success.is_none() => Health::Bad,
            None | Some(Verdict::Done) => Health::Good,
            Some(Verdict::Incomplete) => Health::Incomplete,
            Some(Verdict::Failed | Verdict::Interrupted) => Health::Bad,
        }
    }

    /// One word for the table.
    pub fn word(&self) -> &'static str {
        match (self.last.map(|last| last.verdict), self.health()) {
            (None, _) => "never run",
            (Some(Verdict::Done), Health::Bad) => "over age",
            (Some(verdict), _) => verdict.word(),
        }
    }
}

/// The configured jobs in their order, or those named; then jobs that only the state knows.
pub fn standings<'a>(config: &'a Config, state: &'a State, names: &[String], now: i64) -> Vec<Standing<'a>> {
    static EMPTY: History = History { success: None, runs: Vec::new() };
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let configured = config.jobs.iter().map(|job| (job.name.as_str(), true, job.max_age));
    let is_configured = |name: &str| config.jobs.iter().any(|job| job.name == name);
    let others = state.jobs.keys().filter(|name| !is_configured(name)).map(|name| (name.as_str(), false, None));
    let all = configured.chain(others).filter(|(name, ..)| wanted(name));
    all.map(|(job, is_configured, age_max)| {
        let history = state.jobs.get(job).unwrap_or(&EMPTY);
        let success = history.success.as_ref();
        Standing {
            job,
            is_configured,
            last: history.runs.last(),
            success,
            runs: &history.runs,
            // A clock that was set back makes nothing old.
            age: success.map(|run| Duration::from_nanos(u64::try_from(now.saturating_sub(run.started)).unwrap_or(0))),
            age_max,
            trend: trend(&history.runs),
        }
    })
    .collect()
}

fn trend(runs: &[Entry]) -> Option<f64> {
    let mut sizes = runs.iter().rev().filter(|run| run.verdict == Verdict::Done).map(|run| run.bytes as f64);
    let last = sizes.next()?;
    let before: Vec<f64> = sizes.take(TREND_RUNS).collect();
    let mean = before.iter().sum::<f64>() / before.len() as f64;
    (mean > 0.0).then(|| last / mean - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::config::{Hooks, Job, Retention, Retry};

    const HOUR: i64 = 3_600_000_000_000;

    fn entry(started: i64, verdict: Verdict, bytes: u64) -> Entry {
        Entry {
            run: "r".into(),
            started,
            finished: started + 1,
            verdict,
            code: 0,
            cause: None,
            snapshots: 1,
            bytes,
            added_bytes: 0,
        }
    }

    fn config(max_age: Option<u64>) -> Config {
        let job = Job {
            name: "web".into(),
            sources: Vec::new(),
            tags: Vec::new(),
            max_age: max_age.map(|hours| Duration::from_secs(hours * 3600)),
            skip_if_unchanged: false,
            copies: 1,
            copies_wait: Duration::ZERO,
            upload_bytes_per_second: None,
            compression: crate::backup::Compression::default(),
            hooks: Hooks::default(),
            retry: Retry::default(),
            retention: Retention::default(),
        };
        Config { jobs: vec![job], ..Config::default() }
    }

    fn health(max_age: Option<u64>, runs: &[(i64, Verdict)], now: i64) -> (Health, &'static str) {
        let mut state = State::default();
        for (started, verdict) in runs {
            state.record("web", entry(*started, *verdict, 100));
        }
        let config = config(max_age);
        let standings = standings(&config, &state, &[], now);
        (standings[0].health(), standings[0].word())
    }

    #[test]
    fn what_is_bad() {
        use Verdict::{Done, Failed, Incomplete, Interrupted};
        assert_eq!(health(None, &[], 0), (Health::Bad, "never run"));
        assert_eq!(health(Some(26), &[(0, Done)], 26 * HOUR), (Health::Good, "done"));
        assert_eq!(health(Some(26), &[(0, Done)], 26 * HOUR + 1), (Health::Bad, "over age"));
        assert_eq!(health(None, &[(0, Done)], 9000 * HOUR), (Health::Good, "done"));
        assert_eq!(health(Some(26), &[(0, Done), (HOUR, Failed)], 2 * HOUR), (Health::Bad, "failed"));
        assert_eq!(health(Some(26), &[(0, Done), (HOUR, Interrupted)], 2 * HOUR), (Health::Bad, "interrupted"));
        assert_eq!(health(Some(26), &[(0, Done), (HOUR, Incomplete)], 2 * HOUR), (Health::Incomplete, "incomplete"));
        assert_eq!(health(Some(26), &[(0, Incomplete)], 2 * HOUR), (Health::Bad, "incomplete"));
        assert_eq!(health(Some(26), &[(0, Failed), (HOUR, Done)], 2 * HOUR), (Health::Good, "done"));
        assert_eq!(health(Some(26), &[(5 * HOUR, Done)], 0), (Health::Good, "done"));
    }

    #[test]
    fn sizes_have_a_trend_and_strangers_are_shown() {
        let mut state = State::default();
        for (at, bytes) in [(1, 100), (2, 300), (4, 220)] {
            state.record("web", entry(at, Verdict::Done, bytes));
        }
        state.record("web", entry(3, Verdict::Failed, 0));
        state.record("gone", entry(3, Verdict::Failed, 0));
        let config = config(None);
        let all = standings(&config, &state, &[], 0);
        assert!((all[0].trend.unwrap() - 0.1).abs() < 1e-9);
        assert_eq!((all[1].job, all[1].is_configured, all[1].health()), ("gone", false, Health::Good));
        assert_eq!(standings(&config, &state, &["gone".into()], 0).len(), 1);
        assert!(trend(&[entry(1, Verdict::Done, 5)]).is_none() && trend(&[]).is_none());
    }
}

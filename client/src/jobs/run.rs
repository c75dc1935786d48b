//! A run: hooks, the repository, each job with its sources in order, what is forgotten, the verdict. It goes on after every
//! failure but a signal; what must be done in any case (`after`, `on_failure`, state, logs) is done after a signal too.

use super::config::{Command, Config, Hooks, Job};
use super::copies;
use super::event::{Event, Moment};
use super::hook;
use super::journal::Journal;
use super::referenced::Expected;
use super::repository::{Opened, Repository};
use super::retain;
use super::source::{self, Order, Tally};
use super::state::{Entry, Running, State};
use super::verdict::{Ending, Verdict};
use super::watch::Watch;
use crate::backup::Context;
use crate::clock;
use crate::dataset;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::session::{self, Session};
use crate::settings::Settings;
use chunkstore::id::RunId;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a run needs of whoever starts it.
pub struct Work<'a> {
    pub config: &'a Config,
    pub settings: &'a Settings,
    pub jobs: Vec<&'a Job>,
    /// Opens the repository for writing without waiting for its lock.
    pub open: &'a dyn Fn() -> Result<Session>,
    pub monitor: &'a dyn Fn() -> Box<dyn Monitor>,
    pub explain: &'a dyn Fn(&Error) -> Cause,
    pub interrupted: &'a AtomicBool,
    /// For the log.
    pub command_line: String,
}

/// An error as people are told of it.
#[derive(Clone, Debug)]
pub struct Cause {
    pub message: String,
    pub hint: Option<String>,
    pub code: u8,
}

/// How a run ended.
#[derive(Debug)]
pub struct Conclusion {
    pub run: RunId,
    pub ending: Ending,
    pub elapsed: Duration,
    pub jobs: Vec<Done>,
}

#[derive(Debug)]
pub struct Done {
    pub name: String,
    pub ending: Ending,
    pub elapsed: Duration,
    pub tally: Tally,
    pub cause: Option<String>,
}

impl Done {
    pub fn bytes(&self) -> u64 {
        self.tally.saved.iter().map(|saved| saved.bytes).sum()
    }

    pub fn added_bytes(&self) -> u64 {
        self.tally.saved.iter().map(|saved| saved.added_bytes).sum()
    }

    fn entry(&self, run: &RunId, started: i64) -> Entry {
        Entry {
            run: run.hex(),
            started,
            finished: clock::now(),
            verdict: self.ending.verdict,
            code: self.ending.code,
            cause: self.cause.clone(),
            snapshots: self.tally.saved.iter().filter(|saved| saved.snapshot.is_some()).count() as u64,
            bytes: self.bytes(),
            added_bytes: self.added_bytes(),
        }
    }
}

/// Runs the jobs. The caller holds the run lock.
pub fn run(work: &Work<'_>, journal: &Journal<'_>) -> Result<Conclusion> {
    let run = session::new_run()?;
    let begun = Instant::now();
    let place = work.settings.place_shown();
    let mut running = Run {
        work,
        journal,
        run,
        host: dataset::host(),
        repository: Repository::new(work.settings, work.open, work.interrupted),
        marred: false,
    };
    let names: Vec<String> = work.jobs.iter().map(|job| job.name.clone()).collect();
    journal.tell(&Event::RunBegins {
        run: run.hex(),
        host: running.host.clone(),
        repository: place.clone(),
        jobs: names.clone(),
        command_line: work.command_line.clone(),
    });
    let mut state = running.load_state();
    state.running = Some(Running { run: run.hex(), process: std::process::id(), since: clock::now(), jobs: names });
    running.save_state(&mut state);
    let jobs = running.jobs(&mut state);
    let ending = running.wind_up(&jobs);
    state.running = None;
    running.save_state(&mut state);
    let ending = if running.marred { ending.marred() } else { ending };
    journal.tell(&Event::Transferred {
        repository: place,
        bytes: jobs.iter().map(Done::bytes).sum(),
        added_bytes: jobs.iter().map(Done::added_bytes).sum(),
    });
    let ending = running.admit_trouble(ending);
    let elapsed = begun.elapsed();
    let jobs_done = jobs.iter().filter(|job| job.ending.verdict == Verdict::Done).count() as u64;
    journal.tell(&Event::RunEnds { run: run.hex(), ending, jobs: work.jobs.len() as u64, jobs_done, elapsed });
    Ok(Conclusion { run, ending, elapsed, jobs })
}

struct Run<'a> {
    work: &'a Work<'a>,
    journal: &'a Journal<'a>,
    run: RunId,
    host: String,
    repository: Repository<'a>,
    /// Something beside the jobs went wrong that took nothing from them.
    marred: bool,
}

/// What one job came to while it runs.
#[derive(Default)]
struct Account {
    tally: Tally,
    parts: Vec<Ending>,
    cause: Option<String>,
    marred: bool,
}

impl Account {
    fn fail(&mut self, cause: &Cause) {
        self.parts.push(Ending::failed(cause.code));
        self.cause.get_or_insert_with(|| cause.message.clone());
    }

    fn ending(&self) -> Ending {
        let ending = Ending::of(&self.parts);
        if self.marred { ending.marred() } else { ending }
    }
}

impl Run<'_> {
    fn jobs(&mut self, state: &mut State) -> Vec<Done> {
        let ready = self.get_ready();
        let mut jobs = Vec::new();
        for &job in &self.work.jobs {
            if self.is_interrupted() && !jobs.is_empty() {
                break;
            }
            let started = clock::now();
            let done = self.job(job, ready.as_ref().err());
            state.record(&job.name, done.entry(&self.run, started));
            self.save_state(state);
            jobs.push(done);
        }
        jobs
    }

    /// The hook around the whole run, which may make the repository reachable; then the repository.
    fn get_ready(&mut self) -> std::result::Result<(), Cause> {
        let hooks = &self.work.config.hooks;
        self.hook(None, Moment::Before, hooks.before.as_ref(), hooks.timeout, None)?;
        match self.repository.reach(self.work.config.retry, self.journal) {
            Ok(_) => Ok(()),
            Err(error) => {
                let cause = (self.work.explain)(&error);
                self.tell_failed(None, "repository", cause.clone());
                Err(cause)
            }
        }
    }

    /// `unready`: why nothing can be saved, which was told.
    fn job(&mut self, job: &Job, unready: Option<&Cause>) -> Done {
        let begun = Instant::now();
        self.journal.tell(&Event::JobBegins { job: job.name.clone() });
        let mut account = Account::default();
        match unready {
            Some(cause) => account.fail(cause),
            None => match self.hook(Some(job), Moment::Before, job.hooks.before.as_ref(), job.hooks.timeout, None) {
                Ok(()) => self.sources(job, &mut account),
                Err(cause) => account.fail(&cause),
            },
        }
        self.await_copies(job, &mut account);
        self.after(&job.hooks, Some(job), &mut account);
        if account.ending().verdict == Verdict::Done {
            self.forget(job, &mut account);
        }
        self.on_failure(&job.hooks, Some(job), account.ending(), account.cause.as_deref());
        let ending = account.ending();
        let done = Done {
            name: job.name.clone(),
            ending,
            elapsed: begun.elapsed(),
            tally: account.tally,
            cause: account.cause,
        };
        self.journal.tell(&Event::JobEnds {
            job: job.name.clone(),
            ending,
            bytes: done.bytes(),
            added_bytes: done.added_bytes(),
            elapsed: done.elapsed,
        });
        done
    }

    fn sources(&mut self, job: &Job, account: &mut Account) {
        let mut expected = self.expected(job);
        for (index, source) in job.sources.iter().enumerate() {
            let part = match self.source(job, source, expected.remove(&index)) {
                Ok(tally) => {
                    let is_complete = tally.is_complete();
                    let is_nothing = tally.saved.is_empty() && tally.failed > 0;
                    let code = tally.code;
                    account.cause = account.cause.take().or_else(|| tally.cause.clone());
                    account.tally.saved.extend(tally.saved);
                    match (is_complete, is_nothing) {
                        (true, _) => Ending::DONE,
                        (false, true) => Ending::failed(code),
                        (false, false) => Ending::INCOMPLETE,
                    }
                }
                Err(Error::Store(chunkstore::Error::Interrupted)) => {
                    account.cause = account.cause.take().or(Some("interrupted".into()));
                    account.parts.push(Ending::INTERRUPTED);
                    return;
                }
                Err(error) => {
                    let cause = (self.work.explain)(&error);
                    account.fail(&cause);
                    self.tell_failed(Some(job), &source::name(source), cause);
                    continue;
                }
            };
            account.parts.push(part);
        }
    }

    /// The job is done only when other sites have what it saved.
    fn await_copies(&mut self, job: &Job, account: &mut Account) {
        let is_done = account.ending().verdict == Verdict::Done;
        let Some(opened) = self.repository.opened().filter(|_| job.copies > 1 && is_done) else { return };
        let (session, saved) = (&opened.session, &account.tally.saved);
        let missing = match copies::wait(session, saved, job.copies, job.copies_wait, self.work.interrupted) {
            Ok(None) => return,
            Ok(Some(missing)) => Cause { message: missing, hint: None, code: super::verdict::INCOMPLETE },
            Err(Error::Store(chunkstore::Error::Interrupted)) => {
                account.parts.push(Ending::INTERRUPTED);
                return;
            }
            Err(error) => (self.work.explain)(&error),
        };
        account.marred = true;
        account.cause.get_or_insert_with(|| missing.message.clone());
        self.tell_failed(Some(job), "copies", missing);
    }

    /// What must not vanish before it is saved, by the place of the source that saves it: only if something is saved before.
    fn expected(&self, job: &Job) -> std::collections::BTreeMap<usize, Expected> {
        let mut found = std::collections::BTreeMap::new();
        for (index, source) in job.sources.iter().enumerate().skip(1) {
            let super::config::What::Files(files) = &source.what else { continue };
            if files.referenced.is_empty() {
                continue;
            }
            found.extend(Expected::list(&files.referenced).map(|expected| (index, expected)));
        }
        found
    }

    fn source(&mut self, job: &Job, source: &super::config::Source, expected: Option<Expected>) -> Result<Tally> {
        let work = self.work;
        let order = Order {
            job: &job.name,
            run: self.run,
            host: &self.host,
            tags: &job.tags,
            skip_if_unchanged: job.skip_if_unchanged,
            upload_bytes_per_second: job.upload_bytes_per_second,
            compression: work.settings.compression.unwrap_or(job.compression),
        };
        let watch = Watch::new((work.monitor)(), self.journal, &job.name, expected);
        let repository_dir = work.settings.directory().ok().map(PathBuf::as_path);
        let mut tries = 1;
        loop {
            self.repository.check()?;
            let opened = self.repository.reach(job.retry, self.journal)?;
            let context = context(opened, &watch, repository_dir, work.interrupted);
            let error = match source::save(source, &order, &opened.session, &context, self.journal) {
                Ok(mut tally) => {
                    watch.judge(&mut tally);
                    return Ok(tally);
                }
                Err(error) => error,
            };
            if matches!(error, Error::Store(chunkstore::Error::Interrupted)) {
                return Err(error);
            }
            let away = self.repository.is_it(error)?;
            if !self.repository.pause(job.retry, tries, &away, self.journal)? {
                return Err(away);
            }
            tries += 1;
        }
    }

    fn tell_failed(&self, job: Option<&Job>, what: &str, cause: Cause) {
        self.journal.tell(&Event::Failed {
            job: job.map(|job| job.name.clone()),
            what: what.to_owned(),
            cause: cause.message,
            hint: cause.hint,
        });
    }

    /// Runs in any case, and to its end whatever signals come.
    fn after(&self, hooks: &Hooks, job: Option<&Job>, account: &mut Account) {
        let known = Known { ending: account.ending(), cause: account.cause.as_deref() };
        if let Err(cause) = self.hook(job, Moment::After, hooks.after.as_ref(), hooks.timeout, Some(&known)) {
            account.marred = true;
            account.cause.get_or_insert(cause.message);
        }
    }

    /// True if it failed itself.
    fn on_failure(&self, hooks: &Hooks, job: Option<&Job>, ending: Ending, cause: Option<&str>) -> bool {
        if ending.verdict == Verdict::Done {
            return false;
        }
        let known = Known { ending, cause };
        self.hook(job, Moment::OnFailure, hooks.on_failure.as_ref(), hooks.timeout, Some(&known)).is_err()
    }

    /// `known`: how it ended so far; without it the hook may be interrupted. A failure is told here.
    fn hook(
        &self,
        job: Option<&Job>,
        moment: Moment,
        command: Option<&Command>,
        timeout: Duration,
        known: Option<&Known<'_>>,
    ) -> std::result::Result<(), Cause> {
        let Some(command) = command else { return Ok(()) };
        let name = job.map(|job| job.name.clone());
        self.journal.tell(&Event::HookBegins { job: name.clone(), moment });
        let mut variables = vec![
            ("NIGHTKEEP_HOOK", moment.word().to_owned()),
            ("NIGHTKEEP_JOB", name.clone().unwrap_or_default()),
            ("NIGHTKEEP_RUN", self.run.hex()),
        ];
        if let Some(known) = known {
            variables.push(("NIGHTKEEP_VERDICT", known.ending.verdict.word().to_owned()));
            variables.push(("NIGHTKEEP_EXIT_CODE", known.ending.code.to_string()));
            variables.push(("NIGHTKEEP_CAUSE", known.cause.unwrap_or_default().replace('\0', "")));
        }
        let begun = Instant::now();
        let interrupted = known.is_none().then_some(self.work.interrupted);
        let ended = hook::run(command, &variables, timeout, interrupted);
        for line in &ended.lines {
            self.journal.tell(&Event::HookSays { job: name.clone(), moment, line: line.clone() });
        }
        let Err(reason) = &ended.outcome else {
            self.journal.tell(&Event::HookEnds { job: name, moment, elapsed: begun.elapsed() });
            return Ok(());
        };
        let is_interrupted = interrupted.is_some() && self.is_interrupted();
        let code = if is_interrupted { super::verdict::INTERRUPTED } else { super::verdict::FAILED };
        let cause = Cause { message: ended.cause(reason), hint: None, code };
        self.tell_failed(job, &format!("hook {}", moment.word()), cause.clone());
        let message = format!("hook {}: {}", moment.word(), cause.message);
        Err(Cause { message, ..cause })
    }

    /// Applies the retention rules to the datasets that the job saved.
    fn forget(&mut self, job: &Job, account: &mut Account) {
        let Some(opened) = self.repository.opened().filter(|_| job.retention.policy.is_given()) else { return };
        let datasets: Vec<&str> = account.tally.saved.iter().map(|saved| saved.dataset.as_str()).collect();
        match retain::forget(&opened.session, &job.retention.policy, &datasets) {
            Ok((forgotten, kept)) => {
                self.journal.tell(&Event::Forgot { job: job.name.clone(), forgotten, kept });
            }
            Err(error) => {
                account.marred = true;
                let cause = (self.work.explain)(&error);
                account.cause.get_or_insert_with(|| cause.message.clone());
                self.tell_failed(Some(job), "forget", cause);
                self.repository.doubt();
            }
        }
    }

    /// Once all jobs are through: space, the hooks around the run, the verdict.
    fn wind_up(&mut self, jobs: &[Done]) -> Ending {
        let wants = |done: &Done| {
            done.ending.verdict == Verdict::Done
                && self.work.jobs.iter().any(|job| job.name == done.name && job.retention.prune)
        };
        if jobs.iter().any(wants) && !self.is_interrupted() {
            self.prune();
        }
        let mut parts: Vec<Ending> = jobs.iter().map(|job| job.ending).collect();
        if jobs.len() < self.work.jobs.len() {
            parts.push(Ending::INTERRUPTED);
        }
        let hooks = &self.work.config.hooks;
        let cause = jobs.iter().find_map(|job| job.cause.clone());
        let mut account = Account { parts, cause, ..Account::default() };
        self.after(hooks, None, &mut account);
        self.marred |= self.on_failure(hooks, None, account.ending(), account.cause.as_deref());
        account.ending()
    }

    fn prune(&mut self) {
        let Ok(opened) = self.repository.reach(self.work.config.retry, self.journal) else { return };
        match retain::prune(&opened.session) {
            Ok(bytes_freed) => self.journal.tell(&Event::Pruned { bytes_freed }),
            Err(error) => {
                self.marred = true;
                self.tell_failed(None, "prune", (self.work.explain)(&error));
            }
        }
    }

    fn load_state(&mut self) -> State {
        let (state, trouble) = State::load(&self.work.settings.state_dir);
        if let Some(reason) = trouble {
            let hint = Some("it is set aside as jobs.json.damaged; `status` knows nothing of earlier runs".into());
            self.tell_failed(None, "state", Cause { message: reason, hint, code: super::verdict::INCOMPLETE });
            State::set_aside(&self.work.settings.state_dir);
            self.marred = true;
        }
        state
    }

    fn save_state(&mut self, state: &mut State) {
        let configured: Vec<&str> = self.work.config.jobs.iter().map(|job| job.name.as_str()).collect();
        if let Err(error) = state.save(&self.work.settings.state_dir, &configured) {
            // Once is enough.
            if !std::mem::replace(&mut self.marred, true) {
                self.tell_failed(None, "state", (self.work.explain)(&error));
            }
        }
    }

    /// Log, error file and syslog were asked for: that one of them failed must be known.
    fn admit_trouble(&self, ending: Ending) -> Ending {
        let Some(message) = self.journal.trouble() else { return ending };
        self.tell_failed(None, "log", Cause { message, hint: None, code: super::verdict::INCOMPLETE });
        ending.marred()
    }

    fn is_interrupted(&self) -> bool {
        self.work.interrupted.load(Ordering::Relaxed)
    }
}

/// What an `after` or `on_failure` hook is told.
struct Known<'a> {
    ending: Ending,
    cause: Option<&'a str>,
}

fn context<'a>(
    opened: &'a Opened,
    monitor: &'a dyn Monitor,
    repository_dir: Option<&'a Path>,
    interrupted: &'a AtomicBool,
) -> Context<'a> {
    Context {
        store: opened.session.store(),
        key: &opened.session.keys.write,
        writer: &opened.writer,
        monitor,
        cache_dir: &opened.cache_dir,
        deltas: &opened.deltas,
        repository_dir,
        interrupted,
    }
}

//! What happens in a run, in the order in which it happens. Whoever listens writes it to a log, a terminal or the system's
//! journal. Item names are bytes in the source; here they are as people see them.

use super::verdict::Ending;
use std::time::Duration;

/// One of the three hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    Before,
    After,
    OnFailure,
}

impl Moment {
    pub fn word(self) -> &'static str {
        match self {
            Moment::Before => "before",
            Moment::After => "after",
            Moment::OnFailure => "on_failure",
        }
    }
}

/// What one snapshot came to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Saved {
    pub dataset: String,
    /// The id; None if nothing changed and none was wanted then.
    pub snapshot: Option<String>,
    /// A database, for those that count them.
    pub database: Option<String>,
    pub bytes: u64,
    pub added_bytes: u64,
    pub problems: u64,
    pub elapsed: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    RunBegins {
        run: String,
        host: String,
        repository: String,
        jobs: Vec<String>,
        command_line: String,
    },
    JobBegins {
        job: String,
    },
    /// A database of the catalogue that is to be saved.
    Found {
        job: String,
        database: String,
    },
    /// So many databases are to be saved.
    Counted {
        job: String,
        databases: u64,
    },
    Saved {
        job: String,
        saved: Saved,
    },
    /// How many of the databases that were to be saved were saved.
    Databases {
        job: String,
        selected: u64,
        saved: u64,
    },
    /// What should be known although nothing is missing.
    Note {
        job: String,
        text: String,
    },
    /// An item that could not be saved as it should.
    Problem {
        job: String,
        item: String,
        reason: String,
    },
    /// A source, or something around it, failed. Without a job: it concerns them all.
    Failed {
        job: Option<String>,
        what: String,
        cause: String,
        hint: Option<String>,
    },
    HookBegins {
        job: Option<String>,
        moment: Moment,
    },
    /// One line that a hook printed.
    HookSays {
        job: Option<String>,
        moment: Moment,
        line: String,
    },
    HookEnds {
        job: Option<String>,
        moment: Moment,
        elapsed: Duration,
    },
    /// The repository is away: try again after a pause.
    Waits {
        cause: String,
        wait: Duration,
        tries: u64,
        tries_max: u64,
    },
    Forgot {
        job: String,
        forgotten: u64,
        kept: u64,
    },
    Pruned {
        bytes_freed: u64,
    },
    JobEnds {
        job: String,
        ending: Ending,
        bytes: u64,
        added_bytes: u64,
        elapsed: Duration,
    },
    /// What was newly stored in the repository.
    Transferred {
        repository: String,
        bytes: u64,
        added_bytes: u64,
    },
    RunEnds {
        run: String,
        ending: Ending,
        jobs: u64,
        jobs_done: u64,
        elapsed: Duration,
    },
}

impl Event {
    /// Whether it belongs into the error file.
    pub fn is_error(&self) -> bool {
        matches!(self, Event::Problem { .. } | Event::Failed { .. })
    }

    pub fn job(&self) -> Option<&str> {
        match self {
            Event::JobBegins { job }
            | Event::Found { job, .. }
            | Event::Counted { job, .. }
            | Event::Saved { job, .. }
            | Event::Databases { job, .. }
            | Event::Note { job, .. }
            | Event::Problem { job, .. }
            | Event::Forgot { job, .. }
            | Event::JobEnds { job, .. } => Some(job),
            Event::Failed { job, .. }
            | Event::HookBegins { job, .. }
            | Event::HookSays { job, .. }
            | Event::HookEnds { job, .. } => job.as_deref(),
            _ => None,
        }
    }
}

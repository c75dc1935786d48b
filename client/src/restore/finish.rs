//! The last steps of each entry: attributes, further names, and what is said about it.

use super::Overwrite;
use super::files;
use super::job::{Closing, Job, LinkJob, Start};
use super::remove;
use super::run::{Run, add};
use super::target::{Failure, Identity, Outcome, Target, system};
use crate::metadata::apply::{Handle, Rules, apply};
use chunkstore::Result;
use chunkstore::tree::Node;
use rustix::fd::AsFd;
use rustix::fs;
use std::sync::atomic::Ordering;

/// Gives a file its attributes and says what became of it; once for each job.
pub fn job(run: &Run<'_>, target: &Target, job: &Job) -> Result<()> {
    if !job.set_finished() {
        return Ok(());
    }
    files::count_rest(run, job);
    let path = job.place.path();
    if let Some(reason) = job.place.failure() {
        let consequence = match job.start {
            Start::Create { .. } => {
                discard(target, job);
                "it was not restored"
            }
            Start::Update if job.written.load(Ordering::Relaxed) > 0 => {
                "what is there is partly old and partly restored"
            }
            Start::Update | Start::Keep { .. } => "what was there is left",
        };
        run.problem(&path, &format!("{reason}; {consequence}"));
        return Ok(());
    }
    if let Err(failure) = attributes(run, target, job) {
        if let Some(error) = failure.fatal(&path) {
            return Err(error);
        }
        run.problem(&path, &format!("{failure}; its content is restored, its attributes are not"));
        return Ok(());
    }
    let is_file = matches!(job.node, Node::File(_));
    if is_file && run.options.verify && !run.options.dry_run {
        add(&run.tally.verified_files, 1);
    }
    let kind = if is_file { &run.tally.files } else { &run.tally.others };
    count(run, kind, &path, (job.is_created(), job.is_touched()));
    Ok(())
}

/// Counts an entry that is right now, and says whether it was created, changed or neither.
pub fn count(run: &Run<'_>, kind: &std::sync::atomic::AtomicU64, path: &[u8], (created, touched): (bool, bool)) {
    add(kind, 1);
    add(&run.monitor.counters().files_done, 1);
    if !created && !touched {
        add(&run.tally.unchanged, 1);
    }
    let verb = match (run.options.dry_run, created, touched) {
        (_, false, false) => "unchanged",
        (true, true, _) => "would create",
        (true, false, true) => "would update",
        (false, true, _) => "restored",
        (false, false, true) => "updated",
    };
    run.monitor.current(path);
    run.monitor.detail(verb, path);
}

/// Takes a half-made new file away, if it is still the one that was made.
pub fn discard(target: &Target, job: &Job) {
    if !job.is_created() {
        return;
    }
    let place = &job.place;
    if let Some(made) = place.identity()
        && let Ok(Some(stat)) = target.stat(&place.directory, &place.name)
        && Identity::of(&stat) == made
    {
        // What remains is named by the caller either way.
        let _ = target.unlink(&place.directory, &place.name);
    }
}

/// An inode with several names is never changed, since the others may lie anywhere: it was found right, and stays or is refused.
fn attributes(run: &Run<'_>, target: &Target, job: &Job) -> Outcome<()> {
    let meant = job.place.identity().ok_or(Failure::Raced)?;
    let is_file = matches!(job.node, Node::File(_));
    let fd = if is_file {
        files::open(target, job, false)?
    } else {
        target.open_path(&job.place.directory, &job.place.name, Some(meant))?
    };
    let is_shared = fs::fstat(&fd).map_err(system("looking at it"))?.st_nlink > 1;
    let rules = Rules { dry_run: run.options.dry_run || is_shared, ..run.rules() };
    let handle = if is_file { Handle::Open(fd.as_fd()) } else { Handle::Path(fd.as_fd()) };
    let applied = apply(handle, &job.attributes, rules)?;
    if applied.changed {
        if is_shared {
            return Err(Failure::Raced);
        }
        job.touch();
    }
    run.omitted(&job.place.path(), applied.omitted);
    Ok(())
}

/// Makes a further name of a file whose first name is done.
pub fn link(run: &Run<'_>, target: &Target, link: &LinkJob) -> Result<()> {
    let path = link.directory.path_of(&link.name);
    if link.first.has_failed() {
        let first = String::from_utf8_lossy(&link.first.path()).into_owned();
        run.problem(&path, &format!("it is one file with {first}, which could not be restored"));
        return Ok(());
    }
    let found = match target.stat(&link.directory, &link.name) {
        Ok(found) => found.map(|stat| Identity::of(&stat)),
        Err(failure) => return run.failed(&path, &failure),
    };
    let first = link.first.identity();
    let kind = if link.is_file { &run.tally.files } else { &run.tally.others };
    if found.is_some() && found == first {
        count(run, kind, &path, (false, false));
        return Ok(());
    }
    if found.is_some() && run.options.overwrite == Overwrite::Never {
        run.monitor.detail("kept", &path);
        return Ok(());
    }
    if !run.options.dry_run {
        if let Err(failure) = make_link(run, target, link) {
            return run.failed(&path, &failure);
        }
        if link.is_file && run.options.verify {
            add(&run.tally.verified_files, 1);
        }
    }
    count(run, kind, &path, (true, true));
    Ok(())
}

fn make_link(run: &Run<'_>, target: &Target, link: &LinkJob) -> Outcome<()> {
    let first = link.first.identity().ok_or(Failure::Raced)?;
    let object = target.open_path(&link.first.directory, &link.first.name, Some(first))?;
    remove::make_way(run, target, &link.directory, &link.name)?;
    target.link(object.as_fd(), &link.directory, &link.name)
}

/// Gives a directory its attributes: nothing below it is touched afterwards.
pub fn directory(run: &Run<'_>, target: &Target, closing: &Closing) -> Result<()> {
    let mut touched = false;
    let path = closing.directory.path();
    let is_left = !closing.created && run.options.overwrite == Overwrite::Never;
    if let Some(attributes) = closing.attributes.as_ref().filter(|_| !is_left) {
        let applied = target
            .fd(&closing.directory)
            .and_then(|fd| apply(Handle::Open(fd.as_fd()), attributes, run.rules()).map_err(Failure::from));
        match applied {
            Ok(applied) => {
                touched = applied.changed;
                run.omitted(&path, applied.omitted);
            }
            Err(failure) => return run.failed(&path, &failure),
        }
    }
    count(run, &run.tally.directories, &path, (closing.created, touched));
    Ok(())
}

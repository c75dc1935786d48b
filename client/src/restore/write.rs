//! Executes a batch: begin files, compare what is there, fetch what is not in storage order, read back, finish files, then
//! links, then directories. All but the last two run on all cores.

use super::Overwrite;
use super::bytes::{holds, write_at};
use super::content;
use super::files::{Files, count_kept, count_written, open, settle};
use super::finish;
use super::job::{Batch, Job, Start};
use super::remove;
use super::run::Run;
use super::target::{Failure, Identity, Outcome, Target, system};
use chunkstore::Result;
use chunkstore::tree::Node;
use rustix::fd::AsFd;
use rustix::fs::{self, FileType};

/// Executes all of a batch, except that its last job stays unfinished if it is still open.
pub fn execute(run: &Run<'_>, target: &Target, batch: &Batch) -> Result<()> {
    let result = execute_jobs(run, target, batch);
    if result.is_err() && run.options.overwrite == Overwrite::Never {
        // The next run would take a half-made file for one that is to be left.
        batch.jobs.iter().filter(|job| !job.is_finished()).for_each(|job| finish::discard(target, job));
    }
    result?;
    for link in &batch.links {
        run.check_interrupted()?;
        finish::link(run, target, link)?;
    }
    for closing in &batch.directories {
        finish::directory(run, target, closing)?;
    }
    Ok(())
}

fn execute_jobs(run: &Run<'_>, target: &Target, batch: &Batch) -> Result<()> {
    let begun = usize::from(batch.continues);
    run.parallel(batch.jobs.len() - begun.min(batch.jobs.len()), |n| {
        let Some(job) = batch.jobs.get(n + begun) else { return Ok(()) };
        settle(job, begin(run, target, job))?;
        if job.has_spans || run.options.verify { Ok(()) } else { finish::job(run, target, job) }
    })?;
    let files = Files::new(target, batch);
    content::compare(run, &files)?;
    content::fetch(run, &files)?;
    if run.options.verify && !run.options.dry_run {
        content::read_back(run, &files)?;
    }
    drop(files);
    let unfinished = batch.jobs.len() - usize::from(batch.is_open);
    run.parallel(unfinished, |n| match batch.jobs.get(n) {
        Some(job) if !job.is_finished() => finish::job(run, target, job),
        _ => Ok(()),
    })
}

fn begin(run: &Run<'_>, target: &Target, job: &Job) -> Outcome<()> {
    match job.start {
        Start::Create { replace } => {
            if replace {
                remove::make_way(run, target, &job.place.directory, &job.place.name)?;
            }
            create(run, target, job)
        }
        Start::Update => begin_update(run, target, job),
        Start::Keep { .. } => Ok(()),
    }
}

fn create(run: &Run<'_>, target: &Target, job: &Job) -> Outcome<()> {
    let (directory, name) = (&job.place.directory, &job.place.name);
    let (kind, device) = match &job.node {
        Node::File(_) => return create_file(run, target, job),
        Node::Symlink(to) => {
            target.make_symlink(directory, name, to)?;
            return made(target, job, FileType::Symlink);
        }
        Node::CharacterDevice { major, minor } => (FileType::CharacterDevice, fs::makedev(*major, *minor)),
        Node::BlockDevice { major, minor } => (FileType::BlockDevice, fs::makedev(*major, *minor)),
        Node::Socket => (FileType::Socket, 0),
        Node::Fifo => (FileType::Fifo, 0),
        Node::Directory(_) => return Err(Failure::Raced),
    };
    target.make_node(directory, name, kind, device)?;
    made(target, job, kind)
}

/// Finds the inode that was just made. The system gives no descriptor of it, so somebody else's may have been put in its place:
/// such a one has another type or, wherever it came from, another name.
fn made(target: &Target, job: &Job, kind: FileType) -> Outcome<()> {
    let fd = target.open_path(&job.place.directory, &job.place.name, None)?;
    let stat = fs::fstat(&fd).map_err(system("looking at it"))?;
    if stat.st_nlink > 1 || FileType::from_raw_mode(stat.st_mode) != kind {
        return Err(Failure::Raced);
    }
    created(job, &stat)
}

fn create_file(run: &Run<'_>, target: &Target, job: &Job) -> Outcome<()> {
    let fd = target.create_file(&job.place.directory, &job.place.name)?;
    created(job, &fs::fstat(&fd).map_err(system("looking at it"))?)?;
    if let Some(bytes) = job.inline() {
        write_at(fd.as_fd(), bytes, 0)?;
        count_written(run, job, bytes.len() as u64);
    } else if job.size > 0 {
        fs::ftruncate(&fd, job.size).map_err(system("setting its size"))?;
    }
    Ok(())
}

fn created(job: &Job, stat: &fs::Stat) -> Outcome<()> {
    job.touch();
    job.place.set_identity(Identity::of(stat));
    Ok(())
}

/// Checks that it is still the file that was planned for, and gives it its size. A small content is compared and written.
fn begin_update(run: &Run<'_>, target: &Target, job: &Job) -> Outcome<()> {
    let fd = open(target, job, false)?;
    let stat = fs::fstat(&fd).map_err(system("looking at it"))?;
    if stat.st_nlink > 1 {
        return Err(Failure::Raced);
    }
    let size_differs = u64::try_from(stat.st_size) != Ok(job.size);
    if size_differs {
        job.touch();
    }
    let content_differs = match job.inline() {
        Some(bytes) => !holds(fd.as_fd(), bytes, 0)?,
        None => false,
    };
    let inline_len = job.inline().map_or(0, |bytes| bytes.len() as u64);
    if !content_differs {
        count_kept(run, job, inline_len);
    }
    if run.options.dry_run {
        if content_differs {
            count_written(run, job, inline_len);
        }
        return Ok(());
    }
    if size_differs || content_differs {
        let fd = open(target, job, true)?;
        if let Some(bytes) = job.inline().filter(|_| content_differs) {
            write_at(fd.as_fd(), bytes, 0)?;
            count_written(run, job, inline_len);
        }
        fs::ftruncate(&fd, job.size).map_err(system("setting its size"))?;
    }
    Ok(())
}

//! The contents of a batch's files: compared with what the target holds, fetched, written, read back.

use super::bytes::{self, Found, holds, read_at, write_at};
use super::files::{Files, count_kept, count_written, settle};
use super::job::{Job, Span, Start};
use super::run::Run;
use super::target::Outcome;
use chunkstore::Result;
use chunkstore::id::{BlobId, HalfTag, Reference};
use chunkstore::list::Slice;
use chunkstore::record::Kind;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{self, Advice};
use std::sync::Arc;

/// No chunk is longer (the format's limit for the content of a record).
pub const CHUNK_BYTES_MAX: u64 = 16 << 20;
/// What a worker fetches at a time, unless one chunk is longer. A longer share leaves the others waiting at the end of a batch; where each
/// costs a way over a network, there are fewer.
const CONTENT_BYTES_MAX: u64 = 2 << 20;
const FAR_CONTENT_BYTES_MAX: u64 = 8 << 20;
/// Pieces that a worker compares at a time.
const SPANS_AT_ONCE: usize = 16;

/// Finds the pieces that the target holds already, and makes holes where they belong.
pub fn compare(run: &Run<'_>, files: &Files<'_>) -> Result<()> {
    let compared: Vec<(&Arc<Job>, &Span)> = spans(files).filter(|(job, _)| job.is_compared()).collect();
    let groups: Vec<_> = compared.chunks(SPANS_AT_ONCE).collect();
    run.parallel(groups.len(), |n| {
        let mut buffer = Vec::new();
        for (job, span) in groups.get(n).into_iter().flat_map(|group| group.iter()) {
            if !job.place.has_failed() {
                let outcome = match &span.slice {
                    None => compare_hole(run, files, job, span),
                    Some(slice) => compare_slice(run, files, job, (span, slice), &mut buffer),
                };
                settle(job, outcome)?;
            }
        }
        Ok(())
    })
}

fn compare_slice(
    run: &Run<'_>,
    files: &Files<'_>,
    job: &Job,
    (span, slice): (&Span, &Slice),
    buffer: &mut Vec<u8>,
) -> Outcome<()> {
    if tag_at(run, files.get(span.job, false)?.as_fd(), span.offset, span.len, buffer)? == Some(slice.tag) {
        span.set_done();
        count_kept(run, job, span.len);
    } else if job.start != Start::Update {
        differs(job);
    }
    Ok(())
}

fn compare_hole(run: &Run<'_>, files: &Files<'_>, job: &Job, span: &Span) -> Outcome<()> {
    let range = span.offset..span.offset + span.len;
    let found = bytes::look(files.get(span.job, false)?.as_fd(), range.clone())?;
    match (found, job.start) {
        (Found::Hole, _) | (Found::Zeros, Start::Keep { .. } | Start::Create { .. }) => {}
        (Found::Zeros | Found::Data, Start::Update) => {
            if run.options.dry_run || bytes::punch(files.get(span.job, true)?.as_fd(), range, found)? {
                job.touch();
            }
        }
        (Found::Data, _) => differs(job),
    }
    span.set_done();
    Ok(())
}

fn differs(job: &Job) {
    job.place.fail("its content differs although its size and modification time agree");
}

/// The tag of what a file holds in place of a piece; `None` if it ends before.
pub fn tag_at(
    run: &Run<'_>,
    fd: BorrowedFd<'_>,
    offset: u64,
    len: u64,
    buffer: &mut Vec<u8>,
) -> Outcome<Option<HalfTag>> {
    let len = usize::try_from(len.min(CHUNK_BYTES_MAX)).unwrap_or(0);
    buffer.resize(len, 0);
    let read = read_at(fd, buffer, offset)?;
    Ok((read == len).then(|| run.reader.opener.tag(Kind::Chunk, buffer).half()))
}

/// Reads the chunks that are still wanted, in storage order, each once, and writes them wherever they belong.
pub fn fetch(run: &Run<'_>, files: &Files<'_>) -> Result<()> {
    let mut wanted: Vec<(Slice, &Arc<Job>, &Span)> = Vec::new();
    for (job, span) in spans(files) {
        if let Some(slice) = span.slice
            && !span.is_done()
            && !job.place.has_failed()
            && !matches!(job.start, Start::Keep { .. })
        {
            if run.options.dry_run {
                count_written(run, job, span.len);
            } else {
                wanted.push((slice, job, span));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    // The destinations of one chunk lie together.
    wanted.sort_by_key(|(slice, ..)| slice.link);
    let places: Vec<&[(Slice, &Arc<Job>, &Span)]> = wanted.chunk_by(|a, b| a.0.link == b.0.link).collect();
    let links: Vec<Reference> =
        places.iter().filter_map(|places| places.first().map(|(slice, ..)| slice.link)).collect();
    let ids: Vec<BlobId> = links.iter().map(|link| link.id).collect();
    let store = &run.reader.store;
    let bytes_max = if store.callers() > 1 { FAR_CONTENT_BYTES_MAX } else { CONTENT_BYTES_MAX };
    let groups = in_parts(store.arrange(&ids)?, bytes_max, &|at| {
        let ends = places.get(at).into_iter().flat_map(|places| places.iter());
        ends.map(|(slice, ..)| slice.offset + slice.len).max().unwrap_or(0)
    });
    run.parallel(groups.len(), |n| {
        let group: &[usize] = groups.get(n).map_or(&[], Vec::as_slice);
        let links: Vec<Reference> = group.iter().filter_map(|at| links.get(*at).copied()).collect();
        run.reader.each_chunk(&links, &mut |n, content| {
            let wanted = group.get(n).and_then(|at| places.get(*at));
            for (slice, job, span) in wanted.copied().unwrap_or_default() {
                match &content {
                    Ok(content) => settle(job, write(run, files, job, (span, slice), content))?,
                    Err(error) => job.place.fail(error),
                }
            }
            Ok(())
        })
    })?;
    // A store that leaves something out of its answer leaves no hole in a file.
    for (_, job, span) in wanted {
        if !span.is_done() && !job.place.has_failed() {
            job.place.fail("the repository did not answer for all of its content");
        }
    }
    Ok(())
}

/// Groups that are near each other in the store may be far larger in memory: what resembles its base is stored in few bytes.
fn in_parts(groups: Vec<Vec<usize>>, bytes_max: u64, len: &dyn Fn(usize) -> u64) -> Vec<Vec<usize>> {
    let mut parts: Vec<Vec<usize>> = Vec::with_capacity(groups.len());
    for group in groups {
        let mut bytes = u64::MAX;
        for at in group {
            let more = bytes.saturating_add(len(at));
            match parts.last_mut() {
                Some(part) if more <= bytes_max => {
                    part.push(at);
                    bytes = more;
                }
                _ => {
                    parts.push(vec![at]);
                    bytes = len(at);
                }
            }
        }
    }
    parts
}

fn write(run: &Run<'_>, files: &Files<'_>, job: &Job, (span, slice): (&Span, &Slice), chunk: &[u8]) -> Outcome<()> {
    if job.place.has_failed() {
        return Ok(());
    }
    let content = match run.reader.cut(slice, chunk) {
        Ok(content) => content,
        Err(error) => {
            job.place.fail(error);
            return Ok(());
        }
    };
    write_at(files.get(span.job, true)?.as_fd(), content, span.offset)?;
    span.set_written();
    count_written(run, job, span.len);
    Ok(())
}

/// Reads what was written back from the disk and compares it.
pub fn read_back(run: &Run<'_>, files: &Files<'_>) -> Result<()> {
    // Only what is on the disk can be read from it again.
    let root = files.target.fd(&files.target.root());
    if let Some(Err(errno)) = root.ok().map(fs::syncfs) {
        return Err(chunkstore::Error::io("syncing", run.options.target.display().to_string(), errno.into()));
    }
    let jobs = &files.batch.jobs;
    run.parallel(jobs.len(), |n| match jobs.get(n) {
        Some(job) if !job.is_finished() && !job.place.has_failed() && job.inline().is_some() => {
            settle(job, read_back_inline(files, job, n))
        }
        _ => Ok(()),
    })?;
    let written: Vec<_> = spans(files).collect();
    let groups: Vec<_> = written.chunks(SPANS_AT_ONCE).collect();
    run.parallel(groups.len(), |n| {
        let mut buffer = Vec::new();
        for (job, span) in groups.get(n).into_iter().flat_map(|group| group.iter()) {
            if !job.place.has_failed() {
                settle(job, read_back_span(run, files, job, span, &mut buffer))?;
            }
        }
        Ok(())
    })
}

fn read_back_inline(files: &Files<'_>, job: &Job, at: usize) -> Outcome<()> {
    let fd = files.get(at, false)?;
    let _ = fs::fadvise(&fd, 0, None, Advice::DontNeed);
    let size = fs::fstat(&fd).map(|stat| u64::try_from(stat.st_size));
    if !holds(fd.as_fd(), job.inline().unwrap_or_default(), 0)? || size != Ok(Ok(job.size)) {
        if job.is_created() || job.start == Start::Update {
            job.place.fail("reading it back gave other content");
        } else {
            differs(job);
        }
    }
    Ok(())
}

fn read_back_span(run: &Run<'_>, files: &Files<'_>, job: &Job, span: &Span, buffer: &mut Vec<u8>) -> Outcome<()> {
    let fd = files.get(span.job, false)?;
    let is_right = match &span.slice {
        None => bytes::look(fd.as_fd(), span.offset..span.offset + span.len)? != Found::Data,
        Some(slice) if span.is_written() => {
            let _ = fs::fadvise(&fd, span.offset, std::num::NonZeroU64::new(span.len), Advice::DontNeed);
            tag_at(run, fd.as_fd(), span.offset, span.len, buffer)? == Some(slice.tag)
        }
        // Found there by comparison.
        Some(_) => span.is_done(),
    };
    if !is_right {
        job.place.fail("reading it back gave other content");
    }
    Ok(())
}

fn spans<'f>(files: &'f Files<'_>) -> impl Iterator<Item = (&'f Arc<Job>, &'f Span)> {
    let batch = files.batch;
    batch.spans.iter().filter_map(|span| batch.jobs.get(span.job).map(|job| (job, span)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_parted_by_what_they_hold() {
        let lens = [3 << 20, 5 << 20, 1, 9 << 20, 1, 1, 8 << 20];
        let groups = vec![vec![0, 1, 2], vec![], vec![3, 4], vec![5], vec![6]];
        let parts = in_parts(groups, 8 << 20, &|at| lens[at]);
        assert_eq!(parts, [vec![0, 1], vec![2], vec![3], vec![4], vec![5], vec![6]]);
    }
}

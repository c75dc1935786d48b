//! Bytes and holes of one open file, by position.

use super::target::{Outcome, system};
use rustix::fd::BorrowedFd;
use rustix::fs::{self, FallocateFlags, SeekFrom};
use rustix::io::{self, Errno};
use std::ops::Range;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub fn write_at(fd: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Outcome<()> {
    while !bytes.is_empty() {
        match io::pwrite(fd, bytes, offset) {
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(system("writing it")(errno)),
        }
    }
    Ok(())
}

/// Fills the buffer from a file; fewer bytes at its end.
pub fn read_at(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Outcome<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match io::pread(fd, rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(system("reading it")(errno)),
        }
    }
    Ok(filled)
}

/// Whether a file holds these bytes at this place.
pub fn holds(fd: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Outcome<bool> {
    let mut found = vec![0; bytes.len()];
    let read = read_at(fd, &mut found, offset)?;
    Ok(read == bytes.len() && found == bytes)
}

/// What a range that should be a hole holds instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It reads as zeros and takes no block that it could give back.
    Hole,
    /// It reads as zeros but takes space.
    Zeros,
    Data,
}

/// Looks at the parts of a range that the file system says hold data.
pub fn look(fd: BorrowedFd<'_>, range: Range<u64>) -> Outcome<Found> {
    let block = fs::fstat(fd).map_or(4096, |stat| u64::try_from(stat.st_blksize).unwrap_or(4096)).max(512);
    let mut found = Found::Hole;
    let mut at = range.start;
    while at < range.end {
        let data = match fs::seek(fd, SeekFrom::Data(at)) {
            Ok(data) if data < range.end => data,
            // Nothing but a hole up to the end of the file.
            Ok(_) | Err(Errno::NXIO) => return Ok(found),
            // No notion of holes: all is data.
            Err(Errno::INVAL) => at,
            Err(errno) => return Err(system("looking for holes")(errno)),
        };
        let end = fs::seek(fd, SeekFrom::Hole(data)).unwrap_or(range.end).clamp(data + 1, range.end);
        if !is_zero(fd, data..end)? {
            return Ok(Found::Data);
        }
        // Only whole blocks can be given back.
        let first = range.start.next_multiple_of(block).max(data);
        if first + block <= end.min(range.end - range.end % block) {
            found = Found::Zeros;
        }
        at = end;
    }
    Ok(found)
}

/// Makes a range a hole of which something else was found. Where the file system knows no holes, zeros are as good.
/// True if anything changed.
pub fn punch(fd: BorrowedFd<'_>, range: Range<u64>, found: Found) -> Outcome<bool> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match (fs::fallocate(fd, mode, range.start, range.end - range.start), found) {
        (Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL), Found::Data) => write_zeros(fd, range).map(|()| true),
        (Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL), _) => Ok(false),
        (other, _) => other.map(|()| true).map_err(system("making a hole")),
    }
}

/// Copies a file's data and size; holes stay holes.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Outcome<()> {
    let size = fs::fstat(from).map(|stat| u64::try_from(stat.st_size).unwrap_or(0)).map_err(system("reading it"))?;
    fs::ftruncate(to, size).map_err(system("setting its size"))?;
    let mut buffer = vec![0; ZEROS.len()];
    let mut at = 0;
    while at < size {
        at = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(()),
            Err(_) => at,
        };
        let end = fs::seek(from, SeekFrom::Hole(at)).unwrap_or(size).min(size);
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            let read = read_at(from, buffer.get_mut(..len).unwrap_or_default(), at)?;
            if read == 0 {
                return Ok(());
            }
            write_at(to, buffer.get(..read).unwrap_or_default(), at)?;
            at += read as u64;
        }
    }
    Ok(())
}

fn write_zeros(fd: BorrowedFd<'_>, range: Range<u64>) -> Outcome<()> {
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(ZEROS.len());
        at += io::pwrite(fd, ZEROS.get(..len).unwrap_or(&ZEROS), at).map_err(system("writing it"))? as u64;
    }
    Ok(())
}

fn is_zero(fd: BorrowedFd<'_>, range: Range<u64>) -> Outcome<bool> {
    let mut buffer = vec![0; ZEROS.len()];
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = match io::pread(fd, buffer.get_mut(..len).unwrap_or_default(), at) {
            // The end of the file: it reads as nothing.
            Ok(0) => return Ok(true),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(system("reading it")(errno)),
        };
        if buffer.get(..read) != ZEROS.get(..read) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_zeros_and_data_are_told_apart() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        let look = |range| look(file.as_fd(), range).unwrap();
        assert_eq!(look(0..1 << 30), Found::Hole);
        assert_eq!(look(5..(1 << 30) + 5), Found::Hole);
        file.write_all_at(&vec![0; 1 << 20], 1 << 20).unwrap();
        assert_eq!(look(0..1 << 20), Found::Hole);
        assert_eq!(look(0..1 << 30), Found::Zeros);
        assert_eq!(look((1 << 20) + 5..(1 << 20) + 100), Found::Hole, "no whole block");
        file.write_all_at(b"x", (2 << 20) - 1).unwrap();
        assert_eq!(look(0..1 << 30), Found::Data);
        assert_eq!(look(0..(2 << 20) - 1), Found::Zeros);
        assert!(punch(file.as_fd(), 5..(1 << 30) - 5, Found::Data).unwrap());
        assert_eq!(look(0..1 << 30), Found::Hole);
    }
}

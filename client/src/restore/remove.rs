//! Taking things away: what is in the way of an entry, and what `--delete` finds surplus. By descriptors, following no symlink and
//! entering no other file system.

use super::run::{Run, add};
use super::target::{Directory, Failure, Outcome, Target};
use chunkstore::Result;
use rustix::fs::{FileType, ResolveFlags};
use rustix::io::Errno;
use std::sync::Arc;

/// Makes a name free for an entry. A directory goes if it is empty, or if `--delete` allows it.
pub fn make_way(run: &Run<'_>, target: &Target, directory: &Arc<Directory>, name: &[u8]) -> Outcome<()> {
    let Some(stat) = target.stat(directory, name)? else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return target.unlink(directory, name);
    }
    match target.remove_directory(directory, name) {
        Err(failure) if failure.is(Errno::NOTEMPTY) || failure.is(Errno::EXIST) => {
            if run.options.delete {
                tree(run, target, directory, name)
            } else {
                Err(Failure::System { action: "removing the directory that is in its place", errno: Errno::NOTEMPTY })
            }
        }
        other => other,
    }
}

/// Removes one surplus name with all below it; what cannot be removed is named.
pub fn surplus(run: &Run<'_>, target: &Target, directory: &Arc<Directory>, name: &[u8]) -> Result<()> {
    let path = directory.path_of(name);
    if run.options.dry_run {
        run.monitor.detail("would delete", &path);
        add(&run.tally.deleted, 1);
        return Ok(());
    }
    let is_directory = match target.stat(directory, name) {
        Ok(Some(stat)) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
        Ok(None) => return Ok(()),
        Err(failure) => return run.failed(&path, &failure),
    };
    let removed = if is_directory { tree(run, target, directory, name) } else { target.unlink(directory, name) };
    match removed {
        Ok(()) => {
            run.monitor.detail("deleted", &path);
            add(&run.tally.deleted, 1);
            Ok(())
        }
        Err(failure) => run.failed(&path, &failure),
    }
}

/// A directory that is being emptied.
struct Emptying {
    directory: Arc<Directory>,
    names: std::vec::IntoIter<Vec<u8>>,
}

/// Removes a directory with all below it. Stops at the first thing that cannot be removed.
fn tree(run: &Run<'_>, target: &Target, parent: &Arc<Directory>, name: &[u8]) -> Outcome<()> {
    let mut stack = vec![(name.to_vec(), begin(target, parent, name)?)];
    while let Some((own_name, top)) = stack.last_mut() {
        run.check_interrupted().map_err(|_| Failure::Interrupted)?;
        if let Some(name) = top.names.next() {
            let below = remove_or_enter(target, &top.directory, name)?;
            stack.extend(below);
        } else {
            let own_name = std::mem::take(own_name);
            stack.pop();
            let parent = stack.last().map_or(parent, |(_, above)| &above.directory);
            target.remove_directory(parent, &own_name)?;
        }
    }
    Ok(())
}

fn remove_or_enter(target: &Target, directory: &Arc<Directory>, name: Vec<u8>) -> Outcome<Option<(Vec<u8>, Emptying)>> {
    match target.unlink(directory, &name) {
        Err(failure) if failure.is(Errno::ISDIR) || failure.is(Errno::PERM) => {
            begin(target, directory, &name).map(|below| Some((name, below)))
        }
        other => other.map(|()| None),
    }
}

/// Lists a directory that is no mount point.
fn begin(target: &Target, parent: &Arc<Directory>, name: &[u8]) -> Outcome<Emptying> {
    let directory = target.enter(parent, name, ResolveFlags::NO_XDEV)?;
    if !directory.identity.is_same_device(&parent.identity) {
        return Err(Failure::System { action: "removing what another file system holds", errno: Errno::XDEV });
    }
    let names = target.names(&directory)?.into_iter();
    Ok(Emptying { directory, names })
}

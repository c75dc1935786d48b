//! Files of the target that have other names. Nobody knows where those are, so such a file is never changed: it stays
//! if all of it is right, and is replaced otherwise.

use super::Overwrite;
use super::bytes::{self, Found, holds};
use super::content;
use super::plan::{Existing, is_unchanged};
use super::run::{Run, add};
use super::target::{Directory, Identity, Outcome, Target};
use crate::metadata::apply::{Handle, Rules, apply};
use chunkstore::Result;
use chunkstore::list::Item;
use chunkstore::tree::{Content, Entry, Node};
use rustix::fd::{AsFd, BorrowedFd};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Pieces that are compared at a time.
const ITEMS_AT_ONCE: usize = 1024;

/// Whether content and attributes are as the entry says, and no more names exist than it had.
pub fn is_right(
    run: &Run<'_>,
    target: &Target,
    directory: &Arc<Directory>,
    entry: &Entry,
    existing: &Existing,
) -> Result<Outcome<bool>> {
    let names = entry.attributes.hard_link.map_or(1, |link| link.names);
    let meant = Identity::of(&existing.stat);
    let rules = Rules { dry_run: true, ..run.rules() };
    if existing.stat.st_nlink > names {
        return Ok(Ok(false));
    }
    let Node::File(content) = &entry.node else {
        return Ok(target
            .open_path(directory, &entry.name, Some(meant))
            .and_then(|fd| Ok(!apply(Handle::Path(fd.as_fd()), &entry.attributes, rules)?.changed)));
    };
    let opened = target.open_file(directory, &entry.name, meant, false).and_then(|fd| {
        let changed = apply(Handle::Open(fd.as_fd()), &entry.attributes, rules)?.changed;
        Ok((fd, changed))
    });
    let fd = match opened {
        Ok((_, true)) => return Ok(Ok(false)),
        Ok((fd, false)) => fd,
        Err(failure) => return Ok(Err(failure)),
    };
    let is_read = run.options.overwrite == Overwrite::Always || run.options.verify;
    if !is_read && is_unchanged(entry, &existing.stat) {
        return Ok(Ok(true));
    }
    let right = u64::try_from(existing.stat.st_size) == Ok(content.size()) && holds_content(run, fd.as_fd(), content)?;
    if right {
        add(&run.tally.kept_bytes, content.size());
    }
    Ok(Ok(right))
}

fn holds_content(run: &Run<'_>, fd: BorrowedFd<'_>, content: &Content) -> Result<bool> {
    if let Content::Inline(bytes) = content {
        return Ok(holds(fd, bytes, 0).unwrap_or(false));
    }
    let mut right = true;
    let mut items = Vec::new();
    run.reader.items(content, 0..content.size(), &mut |offset, item| {
        run.check_interrupted()?;
        items.push((offset, item));
        if items.len() >= ITEMS_AT_ONCE {
            right = hold_items(run, fd, &std::mem::take(&mut items));
        }
        Ok(if right { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(right && hold_items(run, fd, &items))
}

fn hold_items(run: &Run<'_>, fd: BorrowedFd<'_>, items: &[(u64, Item)]) -> bool {
    let mut buffer = Vec::new();
    items.iter().all(|(offset, item)| match (item, item.slice()) {
        (Item::Hole { len }, _) => {
            bytes::look(fd, *offset..offset.saturating_add(*len)).is_ok_and(|f| f != Found::Data)
        }
        (_, Some(slice)) => {
            let found = content::tag_at(run, fd, *offset, slice.len, &mut buffer);
            found.is_ok_and(|tag| tag == Some(slice.tag))
        }
        (_, None) => false,
    })
}

//! The kernel's requests, each answered from [`Files`]. Nothing is kept for an open file: the kernel is told not to
//! tell of opening and closing (it caches as if all had been said to be unchanging, which it is).

use crate::ahead::Ahead;
use crate::attributes;
use crate::notices::Notices;
use crate::number;
use crate::skeleton::{Kind, Skeleton};
use crate::tree::{Answer, Directory, Failure, Files, Line};
use chunkstore::tree::{Attributes, Content, Node};
use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is in a snapshot never changes.
const FOR_LONG: Duration = Duration::from_secs(86_400);
/// What the mount makes itself does; the kernel is told when, so this is only for when that goes wrong.
const FOR_NOW: Duration = Duration::from_secs(1);
const GENERATION: Generation = Generation(0);
const BLOCK: u32 = 4096;
const READAHEAD_BYTES: u32 = 1 << 20;
const REQUESTS_MAX: u16 = 64;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// FS_IOC_GETFLAGS on machines of 64 bits.
const GET_FLAGS: u32 = 0x8008_6601;
/// Directories whose listing makes a listing of one below it look like a walk.
const LISTED_LATELY: usize = 64;

pub struct Mounted {
    pub files: Arc<Files>,
    pub ahead: Ahead,
    pub notices: Arc<Notices>,
    /// `security.*` attributes are shown.
    pub security: bool,
    unopened: bool,
    listed: Mutex<VecDeque<u64>>,
}

thread_local! {
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Mounted {
    pub fn new(files: Arc<Files>, ahead: Ahead, notices: Arc<Notices>, security: bool) -> Mounted {
        Mounted { files, ahead, notices, security, unopened: false, listed: Mutex::default() }
    }

    /// What the program gets; what the log gets, if it is a fault.
    fn errno(&self, number: u64, failure: Failure) -> Errno {
        match failure {
            Failure::Plain(errno) => errno,
            Failure::Store(error) => {
                self.notices.tell(&self.files.path(number), &error.to_string());
                Errno::EIO
            }
        }
    }

    fn find(&self, parent: u64, name: &[u8]) -> Answer<(FileAttr, Duration)> {
        if number::is_virtual(parent) {
            let skeleton = self.files.skeleton();
            if let Some(child) = skeleton.child(parent, name) {
                return Ok((self.files.attr(child)?, FOR_NOW));
            }
            match skeleton.node(parent).map(|node| &node.kind) {
                Some(Kind::Snapshot(_)) => {}
                _ => return Err(Errno::ENOENT.into()),
            }
        }
        let directory = self.files.directory(parent)?;
        let found = self.files.lookup(&directory, name)?;
        // Number 0 tells the kernel that it may remember that there is nothing.
        let nothing = || FileAttr { ino: INodeNo(0), ..empty_directory(0) };
        Ok((found.unwrap_or_else(nothing), FOR_LONG))
    }

    /// Lines of a directory that only the mount has, `.` and `..` among them.
    fn list_virtual(
        &self,
        skeleton: &Skeleton,
        number: u64,
        from: u64,
        add: &mut dyn FnMut(u64, &[u8], FileAttr) -> bool,
    ) {
        let Some(node) = skeleton.node(number) else { return };
        let Kind::Directory(children) = &node.kind else { return };
        if !self.list_dots(number, node.parent, from, add) {
            return;
        }
        let skip = usize::try_from(from.saturating_sub(2)).unwrap_or(usize::MAX);
        for (at, (name, child)) in (3u64..).zip(children).skip(skip) {
            // A dump that cannot be read is told of when it is asked for.
            let Ok(attr) = self.files.attr(*child) else { continue };
            if add(at, name, attr) {
                return;
            }
        }
    }

    /// False if there is no room for more.
    fn list_dots(&self, own: u64, parent: u64, from: u64, add: &mut dyn FnMut(u64, &[u8], FileAttr) -> bool) -> bool {
        if from < 1 && add(1, b".", empty_directory(own)) {
            return false;
        }
        from >= 2 || !add(2, b"..", empty_directory(parent))
    }

    /// A walk reads directories below those it has listed: what comes next is fetched while it looks at this one.
    fn follow_walk(&self, directory: &Directory) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let walking = listed.contains(&directory.parent);
        if !listed.contains(&directory.number) {
            listed.truncate(LISTED_LATELY - 1);
            listed.push_front(directory.number);
        }
        drop(listed);
        if walking {
            self.ahead.directories(self.files.directories_in(directory).unwrap_or_default());
        }
    }

    /// Runs through a directory for a listing of either kind.
    fn list(
        &self,
        number: u64,
        from: u64,
        dots: &mut dyn FnMut(u64, &[u8], FileAttr) -> bool,
        line: &mut dyn FnMut(u64, Line<'_>) -> bool,
    ) -> Answer<()> {
        let skeleton = self.files.skeleton();
        if matches!(skeleton.node(number).map(|node| &node.kind), Some(Kind::Directory(_))) {
            self.list_virtual(&skeleton, number, from, dots);
            return Ok(());
        }
        let directory = self.files.directory(number)?;
        if from == 0 {
            self.follow_walk(&directory);
        }
        if !self.list_dots(number, directory.parent, from, dots) {
            return Ok(());
        }
        self.files.list(&directory, from.saturating_sub(2), &mut |entry| !line(entry.next + 2, entry))
    }

    fn read_into(&self, number: u64, offset: u64, len: u32, bytes: &mut Vec<u8>) -> Answer<()> {
        let item = self.files.item(number)?;
        let content = item.content()?;
        let end = offset.saturating_add(u64::from(len)).min(content.size());
        if offset < end {
            self.ahead.follow(number, content, offset..end);
        }
        let len = usize::try_from(len).map_err(|_| Failure::from(Errno::EINVAL))?;
        Ok(self.files.reader().read_into(content, offset, len, bytes)?)
    }

    fn seek(&self, number: u64, offset: u64, whence: i32) -> Answer<u64> {
        let item = self.files.item(number)?;
        let content = item.content()?;
        if offset >= content.size() {
            return Err(Errno::ENXIO.into());
        }
        let data_is_wanted = match whence {
            SEEK_DATA => true,
            SEEK_HOLE => false,
            _ => return Err(Errno::EINVAL.into()),
        };
        if let Content::Inline(_) = content {
            return Ok(if data_is_wanted { offset } else { content.size() });
        }
        let mut found = None;
        self.files.reader().items(content, offset..content.size(), &mut |at, item| {
            if item.slice().is_some() == data_is_wanted {
                found = Some(at.max(offset));
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        // Every file ends in a hole.
        found.or((!data_is_wanted).then(|| content.size())).ok_or(Failure::Plain(Errno::ENXIO))
    }

    fn link(&self, number: u64) -> Answer<Vec<u8>> {
        if let Some(Kind::Link(target)) = self.files.skeleton().node(number).map(|node| &node.kind) {
            return Ok(target.clone());
        }
        match &self.files.item(number)?.entry()?.node {
            Node::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn shows(&self, attribute: &[u8], root: bool) -> bool {
        if attribute.starts_with(b"security.") {
            return self.security;
        }
        root || !attribute.starts_with(b"trusted.")
    }

    /// What an entry of a snapshot has; nothing for what only the mount has.
    fn attributes<T>(&self, number: u64, look: impl FnOnce(&Attributes) -> Option<T>) -> Answer<Option<T>> {
        match self.files.item(number) {
            Ok(item) => Ok(look(&item.entry()?.attributes)),
            Err(Failure::Plain(Errno::EINVAL)) if number::is_virtual(number) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn xattr(&self, number: u64, name: &[u8], root: bool) -> Answer<Vec<u8>> {
        let shown = self.shows(name, root);
        let value = self.attributes(number, |attributes| {
            let found = attributes.xattrs.iter().find(|(known, _)| known == name);
            found.filter(|_| shown).map(|(_, value)| value.clone())
        })?;
        value.ok_or(Failure::Plain(Errno::NO_XATTR))
    }

    fn xattr_names(&self, number: u64, root: bool) -> Answer<Vec<u8>> {
        let names = self.attributes(number, |attributes| {
            let shown = attributes.xattrs.iter().filter(|(name, _)| self.shows(name, root));
            Some(shown.flat_map(|(name, _)| name.iter().copied().chain([0])).collect())
        })?;
        Ok(names.unwrap_or_default())
    }
}

impl Filesystem for Mounted {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let has = config.capabilities();
        let unopened = InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        self.unopened = has.contains(unopened);
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_POSIX_ACL
            | unopened;
        let refused = |_| std::io::Error::from(std::io::ErrorKind::Unsupported);
        config.add_capabilities(wanted & has).map_err(refused)?;
        // If the kernel wants less, that is as good.
        if let Err(most) = config.set_max_readahead(READAHEAD_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(REQUESTS_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent.0, name.as_bytes()) {
            Ok((attr, time)) => reply.entry(&time, &attr, GENERATION),
            Err(failure) => reply.error(self.errno(parent.0, failure)),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        self.files.table().forget(number.0, times);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let time = if number::is_virtual(number.0) { FOR_NOW } else { FOR_LONG };
        match self.files.attr(number.0) {
            Ok(attr) => reply.attr(&time, &attr),
            Err(failure) => reply.error(self.errno(number.0, failure)),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.link(number.0) {
            Ok(target) => reply.data(&target),
            Err(failure) => reply.error(self.errno(number.0, failure)),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.unopened {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.unopened {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // The kernel does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BYTES.with_borrow_mut(|bytes| {
            bytes.clear();
            match self.read_into(number.0, offset, len, bytes) {
                Ok(()) => reply.data(bytes),
                Err(failure) => reply.error(self.errno(number.0, failure)),
            }
        });
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, from: u64, mut reply: ReplyDirectory) {
        let reply_cell = RefCell::new(&mut reply);
        let listed = self.list(
            number.0,
            from,
            &mut |next, name, attr| reply_cell.borrow_mut().add(attr.ino, next, attr.kind, OsStr::from_bytes(name)),
            &mut |next, line| {
                let number = line.number(&self.files.table());
                let (kind, name) = (attributes::kind_of(line.entry), OsStr::from_bytes(&line.entry.name));
                reply_cell.borrow_mut().add(INodeNo(number), next, kind, name)
            },
        );
        match listed {
            Ok(()) => reply.ok(),
            Err(failure) => reply.error(self.errno(number.0, failure)),
        }
    }

    fn readdirplus(&self, _: &Request, number: INodeNo, _: FileHandle, from: u64, mut reply: ReplyDirectoryPlus) {
        let reply_cell = RefCell::new(&mut reply);
        let listed = self.list(
            number.0,
            from,
            &mut |next, name, attr| {
                reply_cell.borrow_mut().add(attr.ino, next, OsStr::from_bytes(name), &FOR_NOW, &attr, GENERATION)
            },
            &mut |next, line| {
                let attr = self.files.attr_of(0, line.entry);
                let number = line.tell(&mut self.files.table());
                let attr = FileAttr { ino: INodeNo(number), ..attr };
                let name = OsStr::from_bytes(&line.entry.name);
                let full = reply_cell.borrow_mut().add(attr.ino, next, name, &FOR_LONG, &attr, GENERATION);
                if full {
                    self.files.table().forget(number, 1);
                }
                full
            },
        );
        match listed {
            Ok(()) => reply.ok(),
            Err(failure) => reply.error(self.errno(number.0, failure)),
        }
    }

    fn lseek(&self, _: &Request, number: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let found = u64::try_from(offset)
            .map_err(|_| Failure::Plain(Errno::EINVAL))
            .and_then(|offset| self.seek(number.0, offset, whence));
        match found {
            Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            Err(failure) => reply.error(self.errno(number.0, failure)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.files.skeleton().stored_bytes.div_ceil(u64::from(BLOCK));
        reply.statfs(blocks, 0, 0, 0, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, request: &Request, number: INodeNo, name: &OsStr, room: u32, reply: ReplyXattr) {
        match self.xattr(number.0, name.as_bytes(), request.uid() == 0) {
            Ok(value) => answer_xattr(&value, room, reply),
            Err(failure) => reply.error(self.errno(number.0, failure)),
        }
    }

    fn listxattr(&self, request: &Request, number: INodeNo, room: u32, reply: ReplyXattr) {
        match self.xattr_names(number.0, request.uid() == 0) {
            Ok(names) => answer_xattr(&names, room, reply),
            Err(failure) => reply.error(self.errno(number.0, failure)),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // The kernel decides by what the files show.
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        _: &[u8],
        room: u32,
        reply: ReplyIoctl,
    ) {
        if command != GET_FLAGS {
            return reply.error(Errno::ENOTTY);
        }
        match self.attributes(number.0, |attributes| Some(attributes.flags)) {
            Ok(flags) => {
                let bytes = u64::from(flags.unwrap_or(0)).to_le_bytes();
                let room = usize::try_from(room).unwrap_or(0).min(bytes.len());
                reply.ioctl(0, bytes.get(..room).unwrap_or_default());
            }
            Err(failure) => reply.error(self.errno(number.0, failure)),
        }
    }
}

fn answer_xattr(value: &[u8], room: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(len) if room == 0 => reply.size(len),
        Ok(len) if len <= room => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

/// Enough of a directory for `.` and `..`, of which the kernel takes number and kind only.
fn empty_directory(number: u64) -> FileAttr {
    attributes::plain(number, fuser::FileType::Directory, std::time::UNIX_EPOCH)
}

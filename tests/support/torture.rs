//! A tree with all that a file-level backup must survive, the same for the same seed. What the file system or a lack
//! of privilege refuses is left out and named. Times are set last.

use std::ffi::{CString, OsStr};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Every entry has this time but those under `times`.
const USUAL_SECONDS: i64 = 1_700_000_000;

pub struct Shape {
    pub seed: u64,
    pub small_files: usize,
    /// Also files of hundreds of KiB and some MiB of noise.
    pub large: bool,
    /// Also files that are immutable or append-only; `release` must run before such a tree can be removed.
    pub locked: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { seed: 1, small_files: 1500, large: true, locked: true }
    }
}

/// Makes the tree in `top`, which must be an empty directory; returns what had to be left out, each with its reason.
pub fn make(top: &Path, shape: &Shape) -> Vec<String> {
    let mut tree = Tree { top: top.to_owned(), random: Random(shape.seed), left_out: Vec::new() };
    tree.sizes(if shape.large { usize::MAX } else { 70_000 });
    tree.hard_links();
    tree.symlinks();
    tree.sparse();
    tree.names();
    tree.deep();
    tree.modes();
    tree.owners();
    tree.attributes();
    tree.special();
    tree.many(shape.small_files);
    tree.times();
    tree.inode_flags(shape.locked);
    tree.left_out
}

/// Clears immutable and append-only flags below `top`, so that it can be removed.
pub fn release(top: &Path) {
    if let Ok(directory) = rustix::fs::open(top, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        each_below(&directory, &mut |directory, name, kind| {
            if matches!(kind, FileType::RegularFile | FileType::Directory) {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                if let Ok(file) = rustix::fs::openat(directory, name, flags, Mode::empty())
                    && let Ok(old) = rustix::fs::ioctl_getflags(&file)
                    && old.intersects(IFlags::IMMUTABLE | IFlags::APPEND)
                {
                    rustix::fs::ioctl_setflags(&file, old - IFlags::IMMUTABLE - IFlags::APPEND).unwrap();
                }
            }
        });
    }
}

/// A temporary directory that can be removed whatever flags its files have.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A directory in it, made if it is not there.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        release(self.path());
    }
}

/// Bytes that depend on the seed alone (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

struct Tree {
    top: PathBuf,
    random: Random,
    left_out: Vec<String>,
}

impl Tree {
    fn path(&self, name: impl AsRef<[u8]>) -> PathBuf {
        self.top.join(OsStr::from_bytes(name.as_ref()))
    }

    fn directory(&self, name: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn file(&self, name: impl AsRef<[u8]>, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn maybe<T>(&mut self, what: &str, result: Result<T, Errno>) {
        if let Err(error) = result {
            self.left_out.push(format!("{what}: {error}"));
        }
    }

    fn sizes(&mut self, size_max: usize) {
        self.directory("sizes");
        let (kib, mib) = (1024, 1024 * 1024);
        for size in [0, 1, 2, 511, 512, 1023, 1024, 1025, 2047, 2048, 2049, 3000, 4095, 4096, 4097, 16 * kib]
            .into_iter()
            .chain([64 * kib - 1, 64 * kib, 64 * kib + 1, 256 * kib, mib - 1, mib, mib + 1, 3_000_001])
            .filter(|size| *size <= size_max)
        {
            let content = self.random.bytes(size);
            self.file(format!("sizes/{size}"), &content);
        }
        let block = self.random.bytes(64 * kib);
        self.file("sizes/zeros", &vec![0; 2 * mib]);
        self.file("sizes/repeating", &block.repeat(40));
        self.directory("empty");
        self.directory("empty-nested/a/b/c");
    }

    fn hard_links(&mut self) {
        self.directory("hardlinks/elsewhere/below");
        for number in 0..3 {
            let name = format!("hardlinks/file{number}");
            let file = self.file(&name, name.as_bytes());
            for copy in 0..=number {
                std::fs::hard_link(&file, self.path(format!("hardlinks/elsewhere/file{number}-{copy}"))).unwrap();
            }
        }
        let large = self.random.bytes(40_000);
        let large = self.file("hardlinks/large", &large);
        std::fs::hard_link(large, self.path("hardlinks/elsewhere/below/large")).unwrap();
        let empty = self.file("hardlinks/empty", b"");
        std::fs::hard_link(empty, self.path("hardlinks/elsewhere/empty")).unwrap();
        std::os::unix::fs::symlink("target", self.path("hardlinks/symlink")).unwrap();
        self.link("hardlinks/symlink", "hardlinks/elsewhere/symlink");
        self.node("hardlinks/fifo", FileType::Fifo, 0o640, 0);
        self.link("hardlinks/fifo", "hardlinks/elsewhere/fifo");
    }

    fn link(&mut self, from: &str, to: &str) {
        let linked = rustix::fs::linkat(CWD, self.path(from), CWD, self.path(to), AtFlags::empty());
        self.maybe(&format!("hard link {to}"), linked);
    }

    fn node(&mut self, name: &str, kind: FileType, mode: u32, device: u64) {
        let path = self.path(name);
        let made = rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(mode), device)
            .and_then(|()| rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty()));
        self.maybe(name, made);
    }

    fn symlinks(&mut self) {
        self.directory("symlinks");
        let long = "x".repeat(4095);
        let shapes: [(&str, &[u8]); 14] = [
            ("dangling", b"no/such/thing"),
            ("absolute", b"/etc/hostname"),
            ("to-itself", b"to-itself"),
            ("loop-a", b"loop-b"),
            ("loop-b", b"loop-a"),
            ("to-parent", b".."),
            ("to-here", b"."),
            ("to-directory", b"../sizes"),
            ("trailing-slash", b"../sizes/"),
            ("far-out", b"../../../../../../../../../etc/passwd"),
            ("not-utf8", b"\xff\xfe/\n\x01"),
            ("space", b" "),
            ("long", long.as_bytes()),
            ("root", b"/"),
        ];
        for (name, target) in shapes {
            std::os::unix::fs::symlink(OsStr::from_bytes(target), self.path(format!("symlinks/{name}"))).unwrap();
        }
    }

    fn sparse(&mut self) {
        self.directory("sparse");
        let (mib, tib) = (1u64 << 20, 1u64 << 40);
        let noise = self.random.bytes(8192);
        self.holed("all-hole", 10 * mib, &[]);
        self.holed("small-all-hole", 3000, &[]);
        self.holed("at-start", mib, &[(mib - 10, b"0123456789")]);
        self.holed("at-end", mib, &[(0, &noise[..5000])]);
        self.holed("at-both-ends", 2 * mib, &[(mib, &noise)]);
        self.holed("unaligned", mib + 4321, &[(131_072 + 77, &noise[..999]), (700_001, &noise[..1])]);
        let stripes: Vec<(u64, &[u8])> = (0..32).map(|i| (i * 131_072, &noise[..4096])).collect();
        self.holed("stripes", 32 * 131_072, &stripes);
        self.holed("zeros-written", 512 * 1024, &[(0, &vec![0; 256 * 1024])]);
        self.holed("terabyte", tib, &[(0, b"head"), (tib / 2, &noise), (tib - 4, b"tail")]);
        let path = self.path("sparse/preallocated");
        let file = std::fs::File::create(&path).unwrap();
        // Less than what a listing calls a hole: whether it is one depends on who has read it.
        let allocated = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 60_000);
        self.maybe("preallocated", allocated);
        let path = self.path("sparse/preallocated-beyond-the-end");
        let file = std::fs::File::create(&path).unwrap();
        file.write_all_at(b"short", 0).unwrap();
        let allocated = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, mib);
        self.maybe("preallocated beyond the end", allocated);
    }

    fn holed(&mut self, name: &str, size: u64, parts: &[(u64, &[u8])]) {
        let file = std::fs::File::create(self.path(format!("sparse/{name}"))).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        if let Err(error) = file.set_len(size) {
            self.left_out.push(format!("sparse file of {size} bytes: {error}"));
        }
    }

    fn names(&mut self) {
        self.directory("names/bytes");
        for byte in (1..=255u8).filter(|byte| *byte != b'/') {
            self.file([b"names/bytes/x", &[byte][..]].concat(), &[byte]);
        }
        let shapes: Vec<Vec<u8>> = vec![
            b"new\nline".to_vec(),
            b"\xff\xfe\x80 not utf-8".to_vec(),
            b"-rf".to_vec(),
            b"--help".to_vec(),
            b" leads".to_vec(),
            b"trails ".to_vec(),
            b"quotes'\"`$(id)`;&|*?[]{}!#~".to_vec(),
            b"back\\slash".to_vec(),
            b"...".to_vec(),
            b"..a".to_vec(),
            b".hidden".to_vec(),
            b"a:b".to_vec(),
            b"%00%s%n".to_vec(),
            b"colour\x1b[31m".to_vec(),
            vec![b'n'; 255],
            "é".repeat(127).into_bytes(),
            "\u{202e}gnp.exe".into(),
            "zero\u{200b}width".into(),
            "日本語🚲".into(),
        ];
        for name in shapes {
            self.file([b"names/", &name[..]].concat(), &name);
        }
        let directory = b"names/directory\n\xff".to_vec();
        self.directory(&directory);
        self.file([&directory[..], b"/inside"].concat(), b"inside");
        self.directory("twins");
        for name in
            ["é", "e\u{301}", "Å", "A\u{30a}", "\u{212b}", "ﬁ", "fi", "Case", "case", "CASE", "straße", "STRASSE"]
        {
            self.file(format!("twins/{name}"), name.as_bytes());
        }
    }

    /// 60 levels, then 25 directories of 200 bytes each: a path longer than PATH_MAX.
    fn deep(&mut self) {
        let path = self.directory(format!("deep/{}", ["n"; 60].join("/")));
        std::fs::write(path.join("bottom"), b"bottom").unwrap();
        let mut directory: OwnedFd = std::fs::File::open(self.path("deep")).unwrap().into();
        for level in 0..25 {
            let name = format!("{level:02}{}", "y".repeat(198));
            rustix::fs::mkdirat(&directory, &name, Mode::RWXU).unwrap();
            directory =
                rustix::fs::openat(&directory, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = rustix::fs::openat(&directory, "beyond-path-max", flags, Mode::from_raw_mode(0o644)).unwrap();
        std::fs::File::from(file).write_all(b"deep").unwrap();
        rustix::fs::symlinkat("beyond-path-max", &directory, "symlink").unwrap();
    }

    /// Each permission bit alone and in likely company, on files and directories; among them unreadable ones.
    fn modes(&mut self) {
        self.directory("modes/directories");
        let alone = (0..12).map(|bit| 1 << bit);
        for mode in alone.chain([0, 0o444, 0o600, 0o666, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o1777, 0o7777, 0o2644])
        {
            let file = self.file(format!("modes/{mode:04o}"), b"mode");
            let directory = self.directory(format!("modes/directories/{mode:04o}"));
            std::fs::write(directory.join("inside"), b"inside").unwrap();
            for path in [file, directory] {
                rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
            }
        }
    }

    fn owners(&mut self) {
        self.directory("owners");
        let most = u32::MAX - 1;
        for (uid, gid) in
            [(0, 0), (1, 1), (33, 33), (1000, 0), (0, 1000), (65_534, 65_534), (123_456, 234_567), (most, most)]
        {
            let file = self.file(format!("owners/{uid}-{gid}"), b"owned");
            self.own(&file, uid, gid);
        }
        let setuid = self.file("owners/setuid", b"owned");
        self.own(&setuid, 33, 33);
        rustix::fs::chmod(&setuid, Mode::from_raw_mode(0o6755)).unwrap();
        let directory = self.directory("owners/directory");
        self.own(&directory, 1234, 4321);
        std::os::unix::fs::symlink("x", self.path("owners/symlink")).unwrap();
        let symlink = self.path("owners/symlink");
        self.own(&symlink, 1234, 4321);
    }

    fn own(&mut self, path: &Path, uid: u32, gid: u32) {
        let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let owned = rustix::fs::chownat(CWD, path, user, group, AtFlags::SYMLINK_NOFOLLOW);
        self.maybe(&format!("owner {uid}:{gid}"), owned);
    }

    fn attributes(&mut self) {
        self.directory("xattrs/directory");
        let every_byte: Vec<u8> = (0..=255).collect();
        let big = self.random.bytes(2000);
        let shapes: [(&str, &str, &[u8]); 9] = [
            ("plain", "user.comment", b"bonjour"),
            ("empty-value", "user.empty", b""),
            ("binary", "user.binary", &every_byte),
            ("big", "user.big", &big),
            ("odd-name", "user.clé é\n=,", b"\n"),
            ("long-name", &format!("user.{}", "k".repeat(250)), b"k"),
            ("trusted", "trusted.overlay.test", b"y"),
            ("security", "security.test", b"z"),
            ("directory", "user.on.directory", b"d"),
        ];
        for (name, key, value) in shapes {
            if name != "directory" {
                self.file(format!("xattrs/{name}"), b"attributed");
            }
            self.attribute(&format!("xattrs/{name}"), key, value);
        }
        self.file("xattrs/many", b"many");
        for number in 0..20 {
            self.attribute("xattrs/many", &format!("user.key{number:02}"), number.to_string().as_bytes());
        }
        std::os::unix::fs::symlink("plain", self.path("xattrs/symlink")).unwrap();
        self.attribute("xattrs/symlink", "trusted.on.symlink", b"s");
        self.node("xattrs/fifo", FileType::Fifo, 0o600, 0);
        self.attribute("xattrs/fifo", "trusted.on.fifo", b"f");
        self.capabilities_and_acls();
    }

    fn capabilities_and_acls(&mut self) {
        // VFS_CAP_REVISION_2 with the effective bit; cap_net_bind_service (10) and cap_net_raw (13) permitted.
        let capability = [0x0200_0001u32, 1 << 10 | 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
        self.file("xattrs/capable", b"program");
        self.attribute("xattrs/capable", "security.capability", &capability);
        self.directory("acl/inherits");
        let access = acl(&[(1, 6, NOBODY), (2, 6, 33), (4, 4, NOBODY), (8, 4, 1000), (16, 6, NOBODY), (32, 4, NOBODY)]);
        self.file("acl/user-and-group", b"acl");
        self.attribute("acl/user-and-group", "system.posix_acl_access", &access);
        let masked = acl(&[(1, 6, NOBODY), (2, 7, 1), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]);
        self.file("acl/masked", b"acl");
        self.attribute("acl/masked", "system.posix_acl_access", &masked);
        let default = acl(&[(1, 7, NOBODY), (2, 7, 33), (4, 5, NOBODY), (16, 7, NOBODY), (32, 5, NOBODY)]);
        self.attribute("acl/inherits", "system.posix_acl_access", &default);
        self.attribute("acl/inherits", "system.posix_acl_default", &default);
        self.file("acl/inherits/file", b"acl");
        self.directory("acl/inherits/directory");
    }

    fn attribute(&mut self, name: &str, key: &str, value: &[u8]) {
        let set = rustix::fs::lsetxattr(self.path(name), key, value, XattrFlags::empty());
        self.maybe(&format!("attribute {key} on {name}"), set);
    }

    fn special(&mut self) {
        self.directory("special");
        self.node("special/fifo", FileType::Fifo, 0o620, 0);
        self.node("special/socket", FileType::Socket, 0o755, 0);
        let devices = [("null", 1, 3), ("high", 4000, 1_000_000), ("whiteout", 0, 0)];
        for (name, major, minor) in devices {
            let device = rustix::fs::makedev(major, minor);
            self.node(&format!("special/{name}"), FileType::CharacterDevice, 0o640, device);
        }
        self.node("special/loop", FileType::BlockDevice, 0o660, rustix::fs::makedev(7, 0));
    }

    fn many(&mut self, count: usize) {
        self.directory("many");
        for number in 0..count {
            let content = format!("{}\n", number % 400).repeat(number % 7);
            self.file(format!("many/{number:06}.txt"), content.as_bytes());
        }
    }

    fn times(&mut self) {
        let usual = |nanoseconds| (USUAL_SECONDS, nanoseconds);
        let shapes: [(&str, (i64, i64)); 11] = [
            ("epoch", (0, 0)),
            ("epoch-less-one-ns", (-1, 999_999_999)),
            ("before-1970", (-1_000_000, 5)),
            ("1901", (-(1 << 31), 0)),
            ("2038-less-one", ((1 << 31) - 1, 999_999_999)),
            ("2038", (1 << 31, 0)),
            ("2106", (1 << 32, 1)),
            ("2446", ((1 << 33) + (1 << 32) + (1 << 31) - 1, 0)),
            ("one-ns", usual(1)),
            ("most-ns", usual(999_999_999)),
            ("now-like", usual(123_456_789)),
        ];
        self.directory("times");
        for (name, _) in shapes {
            self.file(format!("times/{name}"), b"time");
            self.directory(format!("times/directory-{name}"));
            std::os::unix::fs::symlink(name, self.path(format!("times/symlink-{name}"))).unwrap();
        }
        let top = std::fs::File::open(&self.top).unwrap();
        let everywhere = top.as_fd().try_clone_to_owned().unwrap();
        each_below(&everywhere, &mut |directory, name, _| stamp(directory, name, usual(0)).unwrap());
        for (name, time) in shapes {
            for prefix in ["", "directory-", "symlink-"] {
                let path = CString::new(format!("times/{prefix}{name}")).unwrap();
                let stamped = stamp(top.as_fd(), &path, time);
                self.maybe(&format!("time {name}"), stamped);
            }
        }
        for name in [c"times", c"."] {
            stamp(top.as_fd(), name, usual(0)).unwrap();
        }
    }

    /// After the times: an immutable file takes none.
    fn inode_flags(&mut self, locked: bool) {
        let gentle = [("nodump", IFlags::NODUMP), ("noatime", IFlags::NOATIME), ("sync", IFlags::SYNC)];
        let hard = [("immutable", IFlags::IMMUTABLE), ("append", IFlags::APPEND)];
        let chosen = gentle.into_iter().chain(hard.into_iter().filter(|_| locked));
        self.directory("flags");
        let top = std::fs::File::open(&self.top).unwrap();
        let usual = (USUAL_SECONDS, 0);
        for (name, flag) in chosen {
            let file = self.file(format!("flags/{name}"), b"flagged");
            let directory = self.directory(format!("flags/directory-{name}"));
            std::fs::write(directory.join("inside"), b"inside").unwrap();
            for path in
                [format!("flags/directory-{name}/inside"), format!("flags/directory-{name}"), format!("flags/{name}")]
            {
                stamp(top.as_fd(), &CString::new(path).unwrap(), usual).unwrap();
            }
            for path in [file, directory] {
                let opened = std::fs::File::open(&path).unwrap();
                let set =
                    rustix::fs::ioctl_getflags(&opened).and_then(|old| rustix::fs::ioctl_setflags(&opened, old | flag));
                self.maybe(&format!("inode flag on {}", path.display()), set);
            }
        }
        for name in [c"flags", c"."] {
            stamp(top.as_fd(), name, usual).unwrap();
        }
    }
}

/// The id of ACL entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// A POSIX ACL as the kernel takes it: version 2, then (tag u16, permissions u16, id u32).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn stamp(directory: BorrowedFd<'_>, name: &std::ffi::CStr, (tv_sec, tv_nsec): (i64, i64)) -> Result<(), Errno> {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Calls `action` for everything below `directory`, children before their parent.
fn each_below(directory: &OwnedFd, action: &mut dyn FnMut(BorrowedFd<'_>, &std::ffi::CStr, FileType)) {
    let names: Vec<CString> = Dir::read_from(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_owned())
        .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
        .collect();
    for name in names {
        let kind =
            FileType::from_raw_mode(rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW).unwrap().st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if let Ok(below) = rustix::fs::openat(directory, &name, flags, Mode::empty()) {
                each_below(&below, action);
            }
        }
        action(directory.as_fd(), &name, kind);
    }
}

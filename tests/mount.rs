//! A mount shows what was saved, to every program that looks, and ends as it should. These need root and the FUSE
//! device; where those are missing they say so and do nothing.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::manifest;
use crate::support::program::House;
use crate::support::torture::{self, Random, Shape};

/// False, and aloud, if nothing can be mounted here.
fn available() -> bool {
    let root = rustix::process::geteuid().is_root();
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    if root && device.is_ok() {
        return true;
    }
    println!("SKIPPED: no mount without root and /dev/fuse");
    false
}

/// A mount in the foreground, unmounted when dropped.
struct Mounted {
    place: PathBuf,
    child: Child,
}

impl Mounted {
    fn new(house: &House, options: &[&str]) -> Mounted {
        let place = house.directory("mount");
        let mut command = house.command([OsStr::new("mount"), place.as_os_str()]);
        let child = command.args(options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut mounted = Mounted { place, child };
        let mut line = String::new();
        BufReader::new(mounted.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("Mounted on"), "{line}{}", mounted.said());
        mounted
    }

    /// Where the files of a snapshot lie that were saved from `source`.
    fn saved(&self, snapshot: &str, source: &Path) -> PathBuf {
        self.place.join("by-id").join(&snapshot[..8]).join(source.strip_prefix("/").unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let child = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(child, signal).unwrap();
    }

    /// What it said on standard error, when it has ended.
    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    #[track_caller]
    fn ends(&mut self, code: i32) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(code), "{}", self.said());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the mount does not end");
    }

    fn is_there(&self) -> bool {
        self.place.join("by-id").exists()
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.place, rustix::mount::UnmountFlags::DETACH);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 seconds: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a program to its end; what it prints. It must succeed and complain of nothing.
#[track_caller]
fn output(program: &str, arguments: &[&OsStr]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{program} {arguments:?}: {said}");
    output.stdout
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Text and noise, each for some 100 KiB, so that both kinds of chunks are there.
fn content(random: &mut Random, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 200_000);
    while bytes.len() < size {
        let noise = 50_000 + random.below(100_000) as usize;
        bytes.extend(random.bytes(noise));
        for line in 0..random.below(5000) {
            bytes.extend_from_slice(format!("line {line} of {}\n", bytes.len() % 97).as_bytes());
        }
    }
    bytes.truncate(size);
    bytes
}

#[test]
fn everything_shows_as_it_was() {
    if !available() {
        return;
    }
    let house = House::new();
    let source = house.directory("source");
    for line in torture::make(&source, &Shape::default()) {
        println!("left out: {line}");
    }
    let snapshot = house.backup(&source);
    let listing = manifest::of(&source);
    let shown = {
        let mounted = Mounted::new(&house, &["--security-xattrs"]);
        manifest::assert_same(&listing, &manifest::of(&mounted.saved(&snapshot, &source)));
        numbers(&mounted.saved(&snapshot, &source))
    };
    // Labels and capabilities are hidden unless asked for, and that is all.
    let mut mounted = Mounted::new(&house, &[]);
    let top = mounted.saved(&snapshot, &source);
    let only_security = |line: &String| line.contains("security.");
    let hidden = manifest::difference(&listing, &manifest::of(&top));
    assert_eq!(hidden.iter().filter(|line| line.starts_with('-')).count(), hidden.len() / 2);
    assert!(hidden.iter().filter(|line| line.starts_with('-')).all(only_security), "{hidden:?}");
    assert!(!hidden.iter().filter(|line| line.starts_with('+')).any(only_security), "{hidden:?}");
    // Numbers are the same after another mount, and when the kernel has forgotten.
    assert_eq!(shown, numbers(&top));
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert_eq!(shown, numbers(&top));
    let sparse = std::fs::metadata(top.join("sparse/terabyte")).unwrap();
    assert!(sparse.len() == 1 << 40 && sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    let linked = std::fs::metadata(top.join("hardlinks/file2")).unwrap();
    assert_eq!(linked.nlink(), 4);
    assert_eq!(linked.ino(), std::fs::metadata(top.join("hardlinks/elsewhere/file2-1")).unwrap().ino());
    let device = std::fs::File::open(top.join("special/null")).map_err(|error| error.kind());
    assert!(matches!(device, Err(std::io::ErrorKind::PermissionDenied)), "nodev: {device:?}");
    assert_eq!(
        std::fs::write(top.join("new"), b"x").map_err(|error| error.kind()),
        Err(std::io::ErrorKind::ReadOnlyFilesystem)
    );
    mounted.signal(rustix::process::Signal::TERM);
    mounted.ends(0);
    assert_eq!(mounted.said(), "");
}

/// The number of each entry, by path.
fn numbers(top: &Path) -> Vec<String> {
    let format = OsStr::new("%P %i %n\\n");
    let found = output("find", &[top.as_os_str(), "-printf".as_ref(), format]);
    let mut lines: Vec<String> = String::from_utf8_lossy(&found).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn sixteen_readers_get_what_was_saved() {
    if !available() {
        return;
    }
    let house = House::new();
    let source = house.directory("source");
    let mut random = Random(5);
    let whole = content(&mut random, 24 << 20);
    std::fs::write(source.join("large"), &whole).unwrap();
    let holed = std::fs::File::create(source.join("holed")).unwrap();
    holed.write_all_at(&whole[..3_000_000], 5_000_001).unwrap();
    holed.set_len(12_345_678).unwrap();
    let snapshot = house.backup(&source);
    // So small a cache that readers take it from each other.
    for cache in ["256M", "1M"] {
        let mounted = Mounted::new(&house, &["--cache", cache]);
        let top = mounted.saved(&snapshot, &source);
        let (top, whole) = (&top, &whole);
        std::thread::scope(|scope| {
            for reader in 0..16u64 {
                let mut random = Random(reader + 1);
                scope.spawn(move || {
                    let file = std::fs::File::open(top.join("large")).unwrap();
                    if reader % 2 == 0 {
                        let mut at = random.below(whole.len() as u64) as usize / 2;
                        let mut bytes = vec![0; 100_000 + random.below(300_000) as usize];
                        for _ in 0..40 {
                            let len = file.read_at(&mut bytes, at as u64).unwrap();
                            assert!(len > 0 || at == whole.len());
                            assert!(bytes[..len] == whole[at..at + len], "reader {reader} at {at}");
                            at += len;
                        }
                    } else {
                        for _ in 0..150 {
                            let (at, mut bytes) = (random.below(whole.len() as u64), vec![0; 4096]);
                            let len = file.read_at(&mut bytes, at).unwrap();
                            let at = at as usize;
                            assert_eq!(len, 4096.min(whole.len() - at));
                            assert!(bytes[..len] == whole[at..at + len], "reader {reader} at {at}");
                        }
                    }
                });
            }
        });
        let found = std::fs::read(top.join("holed")).unwrap();
        assert!(found == std::fs::read(source.join("holed")).unwrap());
        assert!(mounted.resident_kib() < (256 + 128) << 10, "{} KiB", mounted.resident_kib());
    }
}

/// A directory as tar archives it, but for times that no backup keeps and the order of attributes that repeat the ACLs.
fn archive(top: &Path) -> Vec<u8> {
    let words = [
        "--sort=name",
        "--sparse",
        "--pax-option=delete=atime,delete=ctime",
        "--xattrs",
        "--xattrs-exclude=system.*",
        "--acls",
        "--exclude=./deep",
        "--exclude=./special/socket",
        "--exclude=./sparse",
        "-C",
    ];
    let words: Vec<&OsStr> =
        words.iter().map(OsStr::new).chain([top.as_os_str()]).chain(["-cf", "-", "."].map(OsStr::new)).collect();
    output("tar", &words)
}

#[test]
fn tools_work_on_it() {
    if !available() {
        return;
    }
    let house = House::new();
    let source = house.directory("source");
    torture::make(&source, &Shape { small_files: 200, locked: false, ..Shape::default() });
    let project = source.join("project");
    std::fs::create_dir(&project).unwrap();
    for (name, text) in [("a", "one\n"), ("b", "two\n")] {
        std::fs::write(project.join(name), text).unwrap();
    }
    let git = |directory: &Path, words: &[&str]| {
        let options = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "safe.directory=*", "-C"];
        let words: Vec<&OsStr> =
            options.iter().map(OsStr::new).chain([directory.as_os_str()]).chain(words.iter().map(OsStr::new)).collect();
        output("git", &words)
    };
    git(&project, &["init", "-q"]);
    git(&project, &["add", "."]);
    git(&project, &["commit", "-qm", "first"]);
    std::fs::write(project.join("b"), "three\n").unwrap();
    let snapshot = house.backup(&source);
    let listing = manifest::of(&source);
    let mounted = Mounted::new(&house, &["--security-xattrs"]);
    let top = mounted.saved(&snapshot, &source);

    assert_eq!(git(&top.join("project"), &["status", "--porcelain"]), b" M b\n");
    assert_eq!(git(&top.join("project"), &["log", "--format=%s"]), b"first\n");

    let copy = house.fresh("copied");
    output(
        "rsync",
        &[
            "-aHAX".as_ref(),
            "--numeric-ids".as_ref(),
            "--sparse".as_ref(),
            // It takes times within a second for the same otherwise.
            "--modify-window=-1".as_ref(),
            "--exclude=/deep".as_ref(),
            // rsync reads holes.
            "--exclude=/sparse/terabyte".as_ref(),
            format!("{}/", top.display()).as_ref(),
            copy.as_os_str(),
        ],
    );
    let deep = |line: &&String| !line.starts_with("deep") && !line.starts_with("sparse/terabyte");
    // rsync does not carry inode flags, and makes holes of all zeros.
    let plain = |lines: &[String]| -> Vec<String> {
        lines
            .iter()
            .filter(deep)
            .map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                fields[..fields.len() - 2].join("\t")
            })
            .collect()
    };
    manifest::assert_same(&plain(&listing), &plain(&manifest::of(&copy)));

    assert!(archive(&top) == archive(&source), "the archives differ");

    let compared = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([source.join("names"), top.join("names")])
        .output()
        .unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
}

#[test]
fn a_directory_of_100_000_entries_is_whole_from_every_side() {
    if !available() {
        return;
    }
    const COUNT: usize = 100_000;
    let house = House::new();
    let source = house.directory("source");
    for number in 0..COUNT {
        std::fs::write(source.join(format!("{number:06}")), number.to_string()).unwrap();
    }
    let snapshot = house.backup(&source);
    let mounted = Mounted::new(&house, &[]);
    let top = mounted.saved(&snapshot, &source);
    let expected: Vec<String> = (0..COUNT).map(|number| format!("{number:06}")).collect();
    assert!(names(&top) == expected);
    // Once more, from what the kernel kept, and then with all attributes.
    assert!(names(&top) == expected);
    let sizes =
        output("find", &[top.as_os_str(), "-type".as_ref(), "f".as_ref(), "-printf".as_ref(), "%s\\n".as_ref()]);
    assert_eq!(sizes.iter().filter(|byte| **byte == b'\n').count(), COUNT);
    for number in [0, 1, 777, 54_321, COUNT - 1] {
        assert_eq!(std::fs::read_to_string(top.join(&expected[number])).unwrap(), number.to_string());
    }
    assert!(!top.join("100000").exists() && !top.join("0").exists());
    assert!(mounted.resident_kib() < (256 + 128) << 10, "{} KiB", mounted.resident_kib());
}

#[test]
fn damage_costs_its_own_range_and_is_named() {
    if !available() {
        return;
    }
    let house = House::new();
    let source = house.directory("source");
    let whole = Random(3).bytes(6_000_000);
    std::fs::write(source.join("large"), &whole).unwrap();
    std::fs::write(source.join("other"), b"untouched").unwrap();
    let snapshot = house.backup(&source);
    damage_one_record(&house);
    let mut mounted = Mounted::new(&house, &[]);
    let top = mounted.saved(&snapshot, &source);
    assert_eq!(std::fs::read(top.join("other")).unwrap(), b"untouched");
    let whole_file = std::fs::read(top.join("large")).map_err(|error| error.raw_os_error());
    assert_eq!(whole_file, Err(Some(5)), "EIO");
    let file = std::fs::File::open(top.join("large")).unwrap();
    let (mut failed, mut page) = (Vec::new(), vec![0; 4096]);
    for (number, expected) in whole.chunks(4096).enumerate() {
        match file.read_at(&mut page, number as u64 * 4096) {
            Ok(len) => assert!(len == expected.len() && &page[..len] == expected, "page {number}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5));
                failed.push(number);
            }
        }
    }
    drop(file);
    let (first, last) = (failed[0], failed[failed.len() - 1]);
    assert_eq!(failed, (first..=last).collect::<Vec<_>>(), "one range");
    assert!(failed.len() <= 2 + (256 << 10) / 4096, "{} pages", failed.len());
    mounted.signal(rustix::process::Signal::INT);
    mounted.ends(0);
    let said = mounted.said();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 1 && lines[0].contains("/large: blob ") && lines[0].contains("damaged"), "{said}");
}

/// Flips a byte in the middle of the largest pack.
fn damage_one_record(house: &House) {
    let packs = std::fs::read_dir(house.repository().join("packs")).unwrap();
    let files = packs.flat_map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap());
    let pack = files.map(|file| file.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(pack).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

#[test]
fn snapshots_come_and_go_while_it_is_mounted() {
    if !available() {
        return;
    }
    let house = House::new();
    let source = house.directory("source");
    std::fs::write(source.join("file"), b"first").unwrap();
    let first = house.backup(&source);
    let mut mounted = Mounted::new(&house, &[]);
    let dataset = {
        let snapshot = house.json(["snapshots"]).remove(0);
        mounted.place.join("datasets").join(snapshot["dataset"].as_str().unwrap())
    };
    let file = |version: &str| dataset.join(version).join(source.strip_prefix("/").unwrap()).join("file");
    assert_eq!(std::fs::read(file("latest")).unwrap(), b"first");
    assert_eq!(names(&dataset).len(), 2);
    std::fs::write(source.join("file"), b"and second").unwrap();
    let second = house.backup(&source);
    wait_until("the new snapshot appears", || names(&dataset).len() == 3);
    wait_until("latest leads to it", || std::fs::read(file("latest")).unwrap() == b"and second");
    assert_eq!(names(&mounted.place.join("by-id")), {
        let mut ids = [first[..8].to_owned(), second[..8].to_owned()];
        ids.sort();
        ids
    });
    assert_eq!(names(&mounted.place.join("by-run")).len(), 3);
    let read = |snapshot: &str| std::fs::read(mounted.saved(snapshot, &source).join("file")).unwrap_or_default();
    assert_eq!((read(&first), read(&second)), (b"first".to_vec(), b"and second".to_vec()));
    house.ok(["forget", &second]);
    wait_until("the forgotten one goes", || names(&dataset).len() == 2);
    wait_until("latest leads back", || std::fs::read(file("latest")).unwrap() == b"first");
    assert!(!mounted.place.join("by-id").join(&second[..8]).exists());
    house.ok(["undelete", &second]);
    wait_until("it comes back", || read(&second) == b"and second");
    mounted.signal(rustix::process::Signal::TERM);
    mounted.ends(0);
}

#[test]
fn dumps_have_their_traditional_names() {
    if !available() {
        return;
    }
    let house = House::new();
    let text = "CREATE TABLE bicycles;\n".repeat(20_000);
    let path = house.path().join("text");
    std::fs::write(&path, &text).unwrap();
    let saved = ["backup", "command", "--name", "school.sql", "--dataset", "www/postgres/school", "--", "cat"];
    house.ok(saved.iter().map(OsStr::new).chain([path.as_os_str()]));
    house.backup(&house.directory("else"));
    let mounted = Mounted::new(&house, &["--dataset", "www/*"]);
    assert_eq!(names(&mounted.place.join("datasets")), ["www"]);
    let dumps = names(&mounted.place.join("dumps"));
    let [name] = &dumps[..] else { panic!("{dumps:?}") };
    let time = name.strip_prefix("pg_dump.www.school.").and_then(|rest| rest.strip_suffix(".sql")).unwrap();
    let (date, hour) = time.split_once('.').unwrap();
    assert!(date.len() == 8 && hour.len() == 6 && [date, hour].concat().bytes().all(|byte| byte.is_ascii_digit()));
    assert_eq!(std::fs::read_to_string(mounted.place.join("dumps").join(name)).unwrap(), text);
    assert_eq!(std::fs::metadata(mounted.place.join("dumps").join(name)).unwrap().len(), text.len() as u64);
}

#[test]
fn places_that_will_not_do_are_refused() {
    if !available() {
        return;
    }
    let house = House::new();
    house.backup(&house.directory("source"));
    let refused = |place: &Path, why: &str| {
        let said = house.fails(1, [OsStr::new("mount"), place.as_os_str()]);
        assert!(said.contains(why), "{}: {said}", place.display());
        let said = house.fails(1, [OsStr::new("mount"), "--background".as_ref(), place.as_os_str()]);
        assert!(said.contains(why), "{}: {said}", place.display());
    };
    refused(&house.repository().join("tmp"), "in the repository itself");
    refused(house.path(), "would be hidden");
    refused(&house.path().join("nowhere"), "does not exist");
    std::fs::write(house.directory("full").join("thing"), b"x").unwrap();
    refused(&house.path().join("full"), "holds `thing`");
    refused(&house.path().join("full/thing"), "not a directory");
    let mut killed = Mounted::new(&house, &[]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    refused(&killed.place, "fusermount3 -u");
}

#[test]
fn every_way_to_end_it_leaves_nothing() {
    if !available() {
        return;
    }
    let house = House::new();
    let source = house.directory("source");
    std::fs::write(source.join("file"), Random(8).bytes(3_000_000)).unwrap();
    let snapshot = house.backup(&source);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut mounted = Mounted::new(&house, &[]);
        mounted.signal(signal);
        mounted.ends(0);
        assert!(!mounted.is_there() && mounted.said().is_empty());
    }
    let mut mounted = Mounted::new(&house, &[]);
    rustix::mount::unmount(&mounted.place, rustix::mount::UnmountFlags::empty()).unwrap();
    mounted.ends(0);
    // In use: it goes all the same, says so, and the reader is told.
    let mut mounted = Mounted::new(&house, &["--cache", "1M"]);
    let file = std::fs::File::open(mounted.saved(&snapshot, &source).join("file")).unwrap();
    file.read_exact_at(&mut [0; 10], 0).unwrap();
    mounted.signal(rustix::process::Signal::TERM);
    mounted.ends(0);
    assert!(!mounted.is_there() && mounted.said().contains("in use"));
    assert!(file.read_exact_at(&mut [0; 10], 2_900_000).is_err());
}

#[test]
fn in_the_background_it_is_there_when_the_program_returns() {
    if !available() {
        return;
    }
    let mut house = House::new();
    let source = house.directory("source");
    std::fs::write(source.join("file"), b"there").unwrap();
    let snapshot = house.backup(&source);
    let place = house.directory("mount");
    let log = house.path().join("log");
    let words = ["mount".as_ref(), place.as_os_str(), "--background".as_ref(), "--log".as_ref(), log.as_os_str()];
    house.ok(words);
    let file = place.join("by-id").join(&snapshot[..8]).join(source.strip_prefix("/").unwrap()).join("file");
    assert_eq!(std::fs::read(file).unwrap(), b"there");
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::empty()).unwrap();
    house.ok(["-q", "mount", place.to_str().unwrap(), "--background"]);
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::empty()).unwrap();
    house.password = "wrong".into();
    let said = house.fails(12, words);
    assert!(said.contains("wrong passphrase") && names(&place).is_empty());
}

#[test]
fn others_see_what_the_files_allow() {
    if !available() {
        return;
    }
    let house = House::new();
    let source = house.directory("source");
    for (name, mode, owner) in [("open", 0o644, 1234), ("closed", 0o600, 1234), ("own", 0o600, 65_534)] {
        let path = source.join(name);
        std::fs::write(&path, name).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    // The way there must be open too.
    for path in [house.path(), &source] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let snapshot = house.backup(&source);
    let reads = |mounted: &Mounted, name: &str| {
        let path = mounted.saved(&snapshot, &source).join(name);
        let words = ["--reuid=65534", "--regid=65534", "--clear-groups", "cat"];
        Command::new("setpriv").args(words).arg(path).output().unwrap().status.success()
    };
    let mounted = Mounted::new(&house, &["--allow-other"]);
    assert_eq!(["open", "closed", "own"].map(|name| reads(&mounted, name)), [true, false, true]);
    drop(mounted);
    let mounted = Mounted::new(&house, &[]);
    assert_eq!(["open", "closed", "own"].map(|name| reads(&mounted, name)), [false; 3]);
    drop(mounted);
    let mounted = Mounted::new(&house, &["--owner-root"]);
    assert_eq!(std::fs::metadata(mounted.saved(&snapshot, &source).join("own")).unwrap().uid(), 0);
}

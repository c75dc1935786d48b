//! What programs get from a mount: one large file in order and at random, a walk over a tree with `stat`. Each mount is fresh,
//! so nothing is in the kernel's cache but the repository's own files.

use crate::measure::{Measurement, high_water};
use crate::peer::Peer;
use chunkstore::codec::Opener;
use chunkstore::key::{self, Credential};
use chunkstore::reader::Reader;
use chunkstore::repository::{Access, Repository};
use chunkstore::store::Store;
use chunkstore::tree::{Content, Node};
use corpus::Random;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const READY_WAIT: Duration = Duration::from_secs(60);
const RANDOM_READS: u32 = 50_000;

/// A mount that is unmounted when dropped.
struct Mounted {
    child: Child,
    place: PathBuf,
}

impl Mounted {
    fn new(mut command: Command, place: &Path) -> io::Result<Mounted> {
        std::fs::create_dir_all(place)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut mounted = Mounted { child, place: place.to_owned() };
        let begun = Instant::now();
        while std::fs::read_dir(place)?.next().is_none() {
            if let Some(ended) = mounted.child.try_wait()? {
                return Err(io::Error::other(format!("{command:?} ended with {ended}")));
            }
            if begun.elapsed() > READY_WAIT {
                return Err(io::Error::other(format!("{command:?} does not mount")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(mounted)
    }

    /// Where a snapshot's copy of `source` lies: below the only path that leads there.
    fn find(&self, peer: Peer, source: &Path) -> io::Result<PathBuf> {
        let below = source.strip_prefix("/").unwrap_or(source);
        match peer {
            Peer::Nightkeep => {
                let id = std::fs::read_dir(self.place.join("by-id"))?.next().transpose()?;
                Ok(id.ok_or_else(|| io::Error::other("no snapshot"))?.path().join(below))
            }
            _ => Ok(self.place.join("snapshots/latest").join(below)),
        }
    }

    fn measured(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<Measurement> {
        let begun = Instant::now();
        work()?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Measurement {
            seconds,
            memory_kib: high_water(&format!("/proc/{}/status", self.child.id())),
            ..Measurement::default()
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
        let _ = self.child.wait();
    }
}

/// All that is measured on a mount of one peer's repository that holds one snapshot of `source`.
pub fn run(
    peer: Peer,
    command: &dyn Fn() -> Option<Command>,
    place: &Path,
    source: &Path,
    record: &mut dyn FnMut(&str, Measurement),
) -> io::Result<()> {
    let file = source.join("erp.sql");
    if file.exists() {
        let Some(start) = command() else { return Ok(()) };
        let mounted = Mounted::new(start, place)?;
        let path = mounted.find(peer, &file)?;
        record("mount: read a file in order", mounted.measured(|| read_all(&path))?);
        record(
            "mount: 50,000 random reads of 4 KiB, all in the kernel's cache",
            mounted.measured(|| read_randomly(&path))?,
        );
    } else {
        let Some(start) = command() else { return Ok(()) };
        let mounted = Mounted::new(start, place)?;
        let path = mounted.find(peer, source)?;
        record("mount: find with stat", mounted.measured(|| walk(&path))?);
        record("mount: find with stat, again", mounted.measured(|| walk(&path))?);
    }
    Ok(())
}

fn read_all(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; 1 << 20];
    while file.read(&mut bytes)? > 0 {}
    Ok(())
}

fn read_randomly(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let pages = file.metadata()?.len() / 4096;
    let (mut random, mut page) = (Random::new(3), vec![0; 4096]);
    (0..RANDOM_READS).try_for_each(|_| file.read_exact_at(&mut page, random.below(pages) * 4096))
}

fn walk(path: &Path) -> io::Result<()> {
    let status = Command::new("find").arg(path).args(["-printf", "%s %T@ %p\n"]).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("find failed")) }
}

/// What decoding alone takes: every chunk of the repository's newest file, by as many threads as there are processors, nothing
/// done with it.
pub fn decode(repository: &Path, password: &str, name: &str) -> chunkstore::Result<Measurement> {
    let store: Arc<Repository> = Arc::new(Repository::open(repository, Access::Read, 0)?);
    let keys = key::unlock(store.backend(), store.configuration(), &Credential::from_text(password.as_bytes())?)?;
    let reader = Reader::new(Arc::<Repository>::clone(&store), Opener::new(&keys, store.configuration())?);
    let missing = || chunkstore::Error::missing(name);
    let snapshot = store.snapshots()?.pop().ok_or_else(missing)?.1?;
    let entry = reader.resolve(snapshot.summary.root, name.as_bytes())?.ok_or_else(missing)?;
    let Node::File(content) = entry.node else { return Err(missing()) };
    let links = links(&reader, &content)?;
    let (groups, next): (Vec<_>, _) = (links.chunks(16).collect(), AtomicUsize::new(0));
    let begun = Instant::now();
    let work = || -> chunkstore::Result<()> {
        while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
            for content in reader.chunks(group)? {
                std::hint::black_box(content?);
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let failed = |_| chunkstore::Error::invalid("a thread", "it panicked");
        threads.into_iter().try_for_each(|thread| thread.join().map_err(failed)?)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Measurement { seconds, memory_kib: high_water("/proc/self/status"), ..Measurement::default() })
}

fn links(reader: &Reader, content: &Content) -> chunkstore::Result<Vec<chunkstore::id::Reference>> {
    let mut links = Vec::new();
    reader.items(content, 0..content.size(), &mut |_, item| {
        links.extend(item.slice().map(|slice| slice.link));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(links)
}

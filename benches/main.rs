//! One command that measures whole programs: makes seeded corpora, runs Nightkeep and every installed peer on them in
//! turn, and prints medians and ratios as Markdown (and JSON with `--json FILE`).
//!
//! Wall-clock figures of a shared machine say little alone: compare the columns of one run.

mod measure;

mod mount;

mod peer;

mod scale;

mod server;

mod sites;

mod ssh;

mod zodb;

use clap::Parser;
use corpus::pages;
use measure::{Figures, Measurement};
use peer::{Peer, Program};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Before a first backup. Where a hypervisor takes free memory back after a moment, who begins at once has that of the program before, and
/// is faster by as much as half a second; so all begin without.
const PAUSE: Duration = Duration::from_secs(4);

#[derive(Parser)]
#[command(about = "Measures Nightkeep and its peers on the same corpora in the same run")]
struct Arguments {
    /// Scale of the corpora: 1 is a dump of 441 MB and a tree of 98,000 files
    #[arg(long, default_value_t = 0.25)]
    size: f64,
    /// Only corpora whose name contains this: dump, storage, tree, tiny, logs, noise, sqlite, image
    #[arg(long)]
    only: Option<String>,
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where corpora and repositories are made; needs about six times the corpora
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Also write all figures here
    #[arg(long)]
    json: Option<PathBuf>,
    /// Instead: fill an index with so many blobs, and report rates and memory
    #[arg(long, value_name = "BLOBS")]
    index: Option<u64>,
    /// Instead: a ZODB storage of so many MiB, and one more, beside repozo
    #[arg(long, value_name = "MIB")]
    zodb: Option<u64>,
    /// Instead: the same work in a directory and on a server behind the loopback, and by peers over SSH
    #[arg(long)]
    server: bool,
    /// Only these peers beside Nightkeep, by name, with commas: restic,rustic
    #[arg(long, value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Instead: replication between two servers, behind the loopback and over an emulated line
    #[arg(long)]
    sites: bool,
    /// The repozo program; by default the one that the tests installed
    #[arg(long, default_value = "target/python/bin/repozo")]
    repozo: PathBuf,
    /// The nightkeep program; by default the one built beside this
    #[arg(long)]
    nightkeep: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let scratch = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    remove_when_interrupted(scratch.path().to_owned())?;
    if let Some(blobs) = arguments.index {
        return scale::run(blobs, scratch.path()).map_err(io::Error::other);
    }
    let nightkeep = match arguments.nightkeep {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("nightkeep"),
    };
    if let Some(mib) = arguments.zodb {
        return zodb::run(mib, &nightkeep, &arguments.repozo, scratch.path());
    }
    if arguments.sites {
        return sites::run(&nightkeep, arguments.size, arguments.rounds, scratch.path());
    }
    if arguments.server {
        return server::run(&nightkeep, arguments.size, arguments.rounds, scratch.path());
    }
    let peers = installed(&nightkeep, &arguments.repozo, arguments.peers.as_deref());
    let mut all = BTreeMap::new();
    for name in ["dump", "storage", "tree", "tiny", "logs", "noise", "sqlite", "image"] {
        if arguments.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        if name == "image" && !pages::can_make_images() {
            println!("- the image is left out: mke2fs is missing (apt-get install e2fsprogs)");
            continue;
        }
        let work = Work::new(name, arguments.size, scratch.path())?;
        for round in 0..arguments.rounds {
            for (peer, program) in &peers {
                if *peer == Peer::Repozo && name != "storage" {
                    continue;
                }
                eprintln!("{name}, round {} of {}: {}", round + 1, arguments.rounds, peer.name());
                work.run(*peer, program, scratch.path(), &mut all)?;
            }
        }
    }
    print!("{}", measure::markdown(&all, &peers.iter().map(|(peer, _)| *peer).collect::<Vec<_>>()));
    if let Some(path) = arguments.json {
        std::fs::write(path, measure::json(&all).to_string())?;
    }
    Ok(())
}

/// Corpora are large: an interrupted benchmark leaves none behind.
fn remove_when_interrupted(scratch: PathBuf) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = std::fs::remove_dir_all(&scratch);
            std::process::exit(130);
        }
    });
    Ok(())
}

/// Mounting takes root, or what is set up for others.
fn can_mount() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok()
}

/// Peers that can be run; says of the others how to install them.
fn installed(nightkeep: &Path, repozo: &Path, wanted: Option<&[String]>) -> Vec<(Peer, PathBuf)> {
    let mut found = Vec::new();
    let is_wanted = |peer: &Peer| {
        *peer == Peer::Nightkeep || wanted.is_none_or(|names| names.iter().any(|name| name == peer.name()))
    };
    for peer in peer::ALL.into_iter().filter(is_wanted) {
        let program = match peer {
            Peer::Nightkeep => nightkeep.to_owned(),
            Peer::Repozo => repozo.to_owned(),
            _ => PathBuf::from(peer.program()),
        };
        match peer.version(&program) {
            Some(version) => {
                println!("- {version}");
                found.push((peer, program));
            }
            None => println!("- {} is missing ({})", peer.name(), peer.how_to_install()),
        }
    }
    println!();
    found
}

/// How long a corpus is left alone before anybody reads it.
const REST: std::time::Duration = std::time::Duration::from_secs(3);

/// One corpus and how it changes.
struct Work {
    name: &'static str,
    source: PathBuf,
    size: f64,
}

impl Work {
    fn new(name: &'static str, size: f64, scratch: &Path) -> io::Result<Work> {
        let work = Work { name, source: scratch.join(name), size };
        std::fs::create_dir_all(&work.source)?;
        work.set(0)?;
        Ok(work)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a scale times a constant, both small and positive"
    )]
    fn scaled(&self, full: f64) -> u64 {
        (full * self.size) as u64
    }

    /// Brings the corpus to a night's state, on the disk, so that no peer is measured while it is still being written, and lets it rest:
    /// a time of change that is just over proves nothing (another change may fall into the same tick), so that a careful program reads such a
    /// file once more.
    fn set(&self, night: u64) -> io::Result<()> {
        self.make(night)?;
        std::process::Command::new("sync").status()?;
        std::thread::sleep(REST);
        Ok(())
    }

    fn make(&self, night: u64) -> io::Result<()> {
        match self.name {
            "dump" => corpus::dump(&self.source.join("erp.sql"), self.scaled(494e6), night),
            "storage" => corpus::storage(&self.source.join("Data.fs"), self.scaled(520e6), night),
            "logs" => corpus::logs(&self.source.join("access.log"), self.scaled(500e6), night),
            "noise" => corpus::noise(&self.source.join("disk.img"), self.scaled(500e6), night),
            "sqlite" => pages::sqlite(&self.source.join("tracker.sqlite3"), self.scaled(556e6), night),
            "image" => {
                let scratch = self.source.parent().unwrap_or(&self.source);
                pages::image(&self.source.join("vm.img"), scratch, self.scaled(30e3), night)
            }
            "tiny" if night == 0 => corpus::tiny(&self.source, self.scaled(100e3)),
            "tiny" => corpus::tiny_next(&self.source, self.scaled(100e3)),
            _ if night == 0 => corpus::tree(&self.source, self.scaled(98e3)),
            _ => corpus::tree_next(&self.source, self.scaled(98e3)),
        }
    }

    /// What the nights after the next one are called.
    fn later(&self) -> &'static [&'static str] {
        match self.name {
            "dump" => &["night 2", "night 3", "night 4", "night 5"],
            "storage" => &["after a pack"],
            _ => &[],
        }
    }

    /// All work of one peer, in a fresh repository.
    fn run(&self, peer: Peer, path: &Path, scratch: &Path, all: &mut Figures) -> io::Result<()> {
        let state = tempfile::tempdir_in(scratch)?;
        let program = Program { peer, path, state: state.path(), ssh: None };
        let target = state.path().join("target");
        std::fs::create_dir_all(&target)?;
        self.set(0)?;
        let mut before = 0;
        let mut record = |work: &str, measurement: Measurement| {
            let stored = measure::stored_bytes(&program.repository());
            let added = stored.saturating_sub(before);
            before = stored;
            all.entry(format!("{}: {work}", self.name))
                .or_default()
                .entry(peer.name())
                .or_default()
                .push(Measurement { stored, added, ..measurement });
        };
        for command in program.init() {
            measure::run(command)?;
        }
        std::thread::sleep(PAUSE);
        record("first backup", measure::run(program.backup(&self.source, 0))?);
        record("unchanged backup", measure::run(program.backup(&self.source, 1))?);
        let mount = || program.mount();
        if can_mount() {
            mount::run(peer, &mount, &state.path().join("mount"), &self.source, &mut record)?;
            if self.name == "dump" && peer == Peer::Nightkeep {
                let name = self.source.join("erp.sql");
                let decoded = mount::decode(&program.repository(), peer::PASSWORD, &name.to_string_lossy());
                record("mount: decoding alone", decoded.map_err(io::Error::other)?);
            }
        }
        if let Some(check) = program.check(1) {
            record("check with data", measure::run(check)?);
        }
        record("restore", measure::run(program.restore(&target, 1))?);
        self.set(1)?;
        record("next backup", measure::run(program.backup(&self.source, 2))?);
        for (night, work) in (2u64..).zip(self.later()) {
            self.set(night)?;
            let number = usize::try_from(night).unwrap_or(0) + 1;
            record(work, measure::run(program.backup(&self.source, number))?);
        }
        let mut prune = Measurement::default();
        let commands = program.prune();
        if commands.is_empty() {
            return Ok(());
        }
        for command in commands {
            prune.add(&measure::run(command)?);
        }
        record("forget and prune", prune);
        Ok(())
    }
}

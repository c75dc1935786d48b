//! Storages for tests, made byte by byte, and saved into a repository in memory.

use super::blobs::path_of;
use super::restore::{At, Plan, Restored, Source, restore};
use super::scan::BlobName;
use super::transaction::Tid;
use super::{Saved, Site, Where, save};
use crate::backup::Request;
use crate::backup::testing::{Fixture, Told};
use chunkstore::Result;
use chunkstore::tree::{Entry, Node};
use std::collections::BTreeMap;
use std::fs::create_dir_all;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub const BLOB: &[u8] = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N.";

pub enum Data<'a> {
    Pickle(&'a [u8]),
    /// In the record at this position; 0: the object is gone.
    At(u64),
}

/// A transaction as a FileStorage writes it at `at`.
pub fn transaction(at: u64, tid: u64, status: u8, user: &str, records: &[(u64, Data<'_>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (oid, data) in records {
        let (len, bytes) = match data {
            Data::Pickle(bytes) => (bytes.len() as u64, bytes.to_vec()),
            Data::At(position) => (0, position.to_be_bytes().to_vec()),
        };
        for number in [*oid, tid, 0, at] {
            body.extend(number.to_be_bytes());
        }
        body.extend([0, 0]);
        body.extend(len.to_be_bytes());
        body.extend(bytes);
    }
    let len = (23 + user.len() + body.len()) as u64;
    let mut bytes = [tid.to_be_bytes(), len.to_be_bytes()].concat();
    bytes.push(status);
    bytes.extend(u16::try_from(user.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(user.as_bytes());
    bytes.extend(body);
    bytes.extend(len.to_be_bytes());
    bytes
}

/// Bytes that neither repeat nor compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The n-th transaction's id: a second after the one before.
pub fn tid(n: u64) -> u64 {
    0x040d_29ac_0000_0000 + n * ((1 << 32) / 60 + 1)
}

/// An instance with a storage that grows, a repository, and what was told.
pub struct House {
    pub fixture: Fixture,
    pub top: tempfile::TempDir,
    /// The file as it should be saved, and where its transactions end.
    pub bytes: Vec<u8>,
    pub ends: Vec<u64>,
    pub is_lawn: bool,
}

impl House {
    pub fn new() -> House {
        let top = tempfile::tempdir().unwrap();
        create_dir_all(top.path().join("site/filestorage")).unwrap();
        create_dir_all(top.path().join("site/blobstorage/tmp")).unwrap();
        let house = House { fixture: Fixture::new(), top, bytes: b"FS30".to_vec(), ends: Vec::new(), is_lawn: false };
        house.write_layout();
        house.write();
        house
    }

    pub fn lawn() -> House {
        let house = House { is_lawn: true, ..House::new() };
        house.write_layout();
        house
    }

    fn write_layout(&self) {
        let layout = if self.is_lawn { "lawn" } else { "bushy" };
        std::fs::write(self.blob_dir().join(".layout"), layout).unwrap();
    }

    pub fn site_dir(&self) -> PathBuf {
        self.top.path().canonicalize().unwrap().join("site")
    }

    pub fn data_fs(&self) -> PathBuf {
        self.site_dir().join("filestorage/Data.fs")
    }

    pub fn blob_dir(&self) -> PathBuf {
        self.top.path().canonicalize().unwrap().join("site/blobstorage")
    }

    pub fn blob_path(&self, oid: u64, n: u64) -> PathBuf {
        path_of(&self.blob_dir(), self.is_lawn, BlobName { oid, tid: Tid(tid(n)) })
    }

    pub fn write_blob(&self, oid: u64, n: u64) {
        let path = self.blob_path(oid, n);
        create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, noise(oid * 1000 + n, 3000)).unwrap();
    }

    /// Appends a transaction; the answer is where it begins.
    pub fn add(&mut self, records: &[(u64, Data<'_>)]) -> u64 {
        let at = self.bytes.len() as u64;
        let n = self.ends.len() as u64 + 1;
        self.bytes.extend(transaction(at, tid(n), b' ', "somebody", records));
        self.ends.push(self.bytes.len() as u64);
        at
    }

    /// Transactions of about so many bytes, each with a blob.
    pub fn fill(&mut self, count: u64, bytes: usize) {
        for _ in 0..count {
            let n = self.ends.len() as u64 + 1;
            self.write_blob(n, n);
            self.add(&[(n, Data::Pickle(BLOB)), (100_000 + n, Data::Pickle(&noise(n, bytes)))]);
        }
        self.write();
    }

    /// Onto the disk, into the same inode as before.
    pub fn write(&self) {
        self.write_with(&[]);
    }

    /// With bytes behind it that belong to no whole transaction.
    pub fn write_with(&self, tail: &[u8]) {
        std::fs::write(self.data_fs(), [&self.bytes, tail].concat()).unwrap();
    }

    pub fn site(&self) -> Site {
        Where::Instance(self.site_dir()).find().unwrap()
    }

    pub fn request() -> Request {
        Request { dataset: "host/zodb/site".into(), ..Fixture::request() }
    }

    pub fn try_save(&self, told: &Told) -> Result<Saved> {
        save(&self.fixture.context(told, &self.fixture.cache_dir()), &House::request(), &self.site())
    }

    /// Without any problem.
    pub fn save(&self) -> Saved {
        let told = Told::default();
        let saved = self.try_save(&told).unwrap();
        assert_eq!(told.problems(), Vec::<String>::new());
        saved
    }

    pub fn save_with_problems(&self) -> (Saved, Vec<String>) {
        let told = Told::default();
        let saved = self.try_save(&told).unwrap();
        assert_eq!(saved.outcome.problems, told.problems().len() as u64);
        (saved, told.problems())
    }

    /// What a snapshot holds below the site, by path; contents of files.
    pub fn held(&self, saved: &Saved) -> BTreeMap<String, Vec<u8>> {
        let entries = self.fixture.entries_below(&saved.outcome, &self.site_dir());
        let files = entries.into_iter().filter(|(_, entry)| matches!(entry.node, Node::File(_)));
        files.map(|(path, entry)| (path, self.fixture.content(&entry))).collect()
    }

    pub fn held_data_fs(&self, saved: &Saved) -> Vec<u8> {
        let entries = self.fixture.entries_below(&saved.outcome, &self.site_dir());
        let entry: &Entry = &entries["filestorage/Data.fs"];
        self.fixture.content(entry)
    }

    pub fn source(&self, saved: &Saved) -> Source {
        let snapshot = self.fixture.snapshot(&saved.outcome);
        let facts = snapshot.details(&self.fixture.reader().opener).unwrap().facts;
        Source::read(snapshot.summary.root, &facts, snapshot.summary.incomplete).unwrap()
    }

    pub fn plan(&self, saved: &Saved, at: Option<&str>) -> Result<Plan> {
        let at = at.map(|at| At::parse(at).unwrap());
        Plan::new(self.source(saved), &self.top.path().join("out"), at, "name")
    }

    pub fn restore(&self, saved: &Saved, at: Option<&str>) -> Result<Restored> {
        let plan = self.plan(saved, at)?;
        restore(&self.fixture.reader(), &plan, "stamp", &Told::default(), &AtomicBool::new(false))
    }

    /// All files below the target of [`House::restore`], by path.
    pub fn restored(&self) -> BTreeMap<String, Vec<u8>> {
        let top = self.top.path().join("out");
        let mut found = BTreeMap::new();
        collect(&top, &top, &mut found);
        found
    }
}

fn collect(directory: &Path, top: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, top, found);
        } else {
            let name = path.strip_prefix(top).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

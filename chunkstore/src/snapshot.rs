//! One snapshot: dataset, time, root, totals; sealed details (`docs/format.md`, section 11).

use crate::codec::{Opener, Sealer};
use crate::error::Result;
use crate::id::{BlobId, RepositoryId, RunId, SnapshotId};
use crate::key::WriteKey;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    pub files: u64,
    pub directories: u64,
    /// Symlinks, devices, FIFOs, sockets.
    pub others: u64,
    /// Sum of the sizes of files.
    pub content_bytes: u64,
    /// Bytes of new records.
    pub added_bytes: u64,
}

/// What anyone may read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    pub repository: RepositoryId,
    pub run: RunId,
    /// `HOST/KIND/NAME`
    pub dataset: String,
    /// Nanoseconds since 1970: when it was committed.
    pub time: i64,
    pub incomplete: bool,
    pub root: BlobId,
    pub writer: [u8; 32],
    pub sequence: u64,
    pub previous: Option<SnapshotId>,
    pub labels: Vec<String>,
    pub totals: Totals,
}

/// What only key holders read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Details {
    pub host: Vec<u8>,
    pub paths: Vec<Vec<u8>>,
    pub started: i64,
    pub finished: i64,
    pub program: String,
    /// Facts of the source, keys in ASCII and unique, in order.
    pub facts: Vec<(String, Vec<u8>)>,
}

/// Signs snapshots: the identity of one writing machine (Ed25519).
pub struct Writer {}

impl Writer {
    /// A new identity and its PKCS#8 form, to be kept secret.
    pub fn generate() -> Result<(Writer, zeroize::Zeroizing<Vec<u8>>)> {
        todo!()
    }

    pub fn from_pkcs8(bytes: &[u8]) -> Result<Writer> {
        let _ = bytes;
        todo!()
    }

    pub fn public_key(&self) -> [u8; 32] {
        todo!()
    }
}

/// A snapshot object that is well formed and signed by its writer.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub summary: Summary,
    /// The whole object.
    pub bytes: Vec<u8>,
}

impl Snapshot {
    pub fn seal(summary: Summary, details: &Details, sealer: &Sealer, writer: &Writer) -> Result<Snapshot> {
        let _ = (summary, details, sealer, writer);
        todo!()
    }

    /// Checks form and signature; needs no key.
    pub fn parse(bytes: Vec<u8>, repository: &RepositoryId) -> Result<Snapshot> {
        let _ = (bytes, repository);
        todo!()
    }

    /// Checks that a key holder made it.
    pub fn authenticate(&self, key: &WriteKey) -> Result<()> {
        let _ = key;
        todo!()
    }

    pub fn details(&self, opener: &Opener) -> Result<Details> {
        let _ = opener;
        todo!()
    }
}

//! One snapshot: dataset, time, root, totals; sealed details (`docs/format.md`, section 11).
//!
//! Three degrees of trust: [`Snapshot::parse`] needs no key and checks form and the writer's signature,
//! [`Snapshot::authenticate`] that a key holder made it, [`Snapshot::details`] opens what only key holders read.

mod plain;

mod signer;

#[cfg(test)]
mod tests;

pub use plain::{Details, Summary, Totals, validate_dataset, validate_label};
pub use signer::Writer;
pub(crate) use signer::is_signed;

use crate::capsule::Capsule;
use crate::codec::{Opener, Sealer};
use crate::coding::{Decoder, Encoder};
use crate::error::{Error, Result};
use crate::id::{RepositoryId, SnapshotId};
use crate::key::WriteKey;

const MAGIC: &[u8; 8] = b"NKsnap\0\x01";
const OBJECT_BYTES_MAX: usize = 1 << 20;
const MAC_LEN: usize = 32;
const SIGNATURE_LEN: usize = 64;

/// A snapshot object that is well formed and signed by its writer.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub summary: Summary,
    /// The whole object.
    pub bytes: Vec<u8>,
}

impl Snapshot {
    /// The summary must name the writer; everything must be as [`Snapshot::parse`] will demand.
    pub fn seal(summary: Summary, details: &Details, sealer: &Sealer, writer: &Writer) -> Result<Snapshot> {
        let plain = summary.encode();
        let details = details.encode();
        // What cannot be read back is found here, while the caller can still say it otherwise.
        let read_back = Summary::decode(&plain, "snapshot").map_err(refuse)?;
        Details::decode(&details, "details of a snapshot").map_err(refuse)?;
        if read_back != summary {
            return Err(Error::invalid("snapshot", "its summary is not what would be written"));
        }
        let mut head = Encoder::new();
        head.raw(MAGIC).u32(length(plain.len())?).raw(&plain);
        let capsule_len = u16::try_from(sealer.capsule.bytes.len())
            .map_err(|_| Error::invalid("snapshot", "its capsule has too many recipients"))?;
        head.u16(capsule_len).raw(&sealer.capsule.bytes);
        let sealed_len = length(details.len() + Sealer::DETAILS_OVERHEAD)?;
        let associated = |counter: u64| {
            let mut e = Encoder { bytes: head.bytes.clone() };
            e.u64(counter).u32(sealed_len);
            e.bytes
        };
        let (mut bytes, sealed) = sealer.seal_details(&associated, &details)?;
        bytes.extend_from_slice(&sealed);
        let mac = blake3::keyed_hash(&sealer.key.snapshot, &bytes);
        bytes.extend_from_slice(mac.as_bytes());
        let signature = writer.sign(&bytes)?;
        bytes.extend_from_slice(&signature);
        Snapshot::parse(bytes, &summary.repository).map_err(refuse)
    }

    /// Checks form and signature; needs no key. The caller compares the id with the one it asked for.
    pub fn parse(bytes: Vec<u8>, repository: &RepositoryId) -> Result<Snapshot> {
        Snapshot::parse_unless(bytes, repository, |_| false)
    }

    /// As [`Snapshot::parse`], but that the signature of one that `is_known` to be signed is not checked again.
    pub(crate) fn parse_unless(
        bytes: Vec<u8>,
        repository: &RepositoryId,
        is_known: impl FnOnce(&SnapshotId) -> bool,
    ) -> Result<Snapshot> {
        let id = SnapshotId(*blake3::hash(&bytes).as_bytes());
        let object = format!("snapshot {id}");
        let parts = Parts::split(&bytes, &object)?;
        let summary = Summary::decode(parts.plain, &object)?;
        if summary.repository != *repository {
            return Err(Error::corrupt(object, format!("it belongs to repository {}", summary.repository)));
        }
        parts.capsule(repository, &object)?;
        if !is_known(&id) && !is_signed(&summary.writer, parts.signed, parts.signature) {
            return Err(Error::corrupt(object, "its signature is not that of its writer"));
        }
        Ok(Snapshot { id, summary, bytes })
    }

    /// Checks that a key holder made it.
    pub fn authenticate(&self, key: &WriteKey) -> Result<()> {
        let object = self.object();
        let parts = Parts::split(&self.bytes, &object)?;
        if blake3::keyed_hash(&key.snapshot, parts.authenticated) == *parts.mac {
            Ok(())
        } else {
            Err(Error::corrupt(object, "no holder of the repository's key made it"))
        }
    }

    pub fn details(&self, opener: &Opener) -> Result<Details> {
        let object = self.object();
        let parts = Parts::split(&self.bytes, &object)?;
        let capsule = parts.capsule(&self.summary.repository, &object)?;
        let opened = opener.open_details(&capsule, parts.counter, parts.associated, parts.sealed);
        let plain = opened.map_err(|error| match error {
            Error::Corrupt { reason, .. } => Error::corrupt(&object, reason),
            other => other,
        })?;
        Details::decode(&plain, &object)
    }

    fn object(&self) -> String {
        format!("snapshot {}", self.id)
    }
}

/// An object taken apart, none of it checked but the lengths.
struct Parts<'a> {
    plain: &'a [u8],
    capsule: &'a [u8],
    counter: u64,
    associated: &'a [u8],
    sealed: &'a [u8],
    authenticated: &'a [u8],
    mac: &'a [u8; MAC_LEN],
    signed: &'a [u8],
    signature: &'a [u8; SIGNATURE_LEN],
}

impl<'a> Parts<'a> {
    fn split(bytes: &'a [u8], object: &'a str) -> Result<Parts<'a>> {
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(Error::corrupt(object, format!("it has {} bytes", bytes.len())));
        }
        let short = || Error::corrupt(object, "it is too short");
        let (signed, signature) = bytes.split_last_chunk().ok_or_else(short)?;
        let (authenticated, mac) = signed.split_last_chunk().ok_or_else(short)?;
        let mut d = Decoder::new(authenticated, object);
        d.magic(MAGIC)?;
        let plain_len = d.u32()? as usize;
        let plain = d.raw(plain_len)?;
        let capsule_len = usize::from(d.u16()?);
        let capsule = d.raw(capsule_len)?;
        let counter = d.u64()?;
        let sealed_len = d.u32()? as usize;
        let (associated, sealed) = authenticated
            .split_at_checked(authenticated.len().saturating_sub(d.remaining()))
            .filter(|(_, sealed)| sealed.len() == sealed_len)
            .ok_or_else(|| d.corrupt("its length is wrong"))?;
        Ok(Parts { plain, capsule, counter, associated, sealed, authenticated, mac, signed, signature })
    }

    fn capsule(&self, repository: &RepositoryId, object: &str) -> Result<Capsule> {
        Capsule::parse(self.capsule.to_vec(), repository)
            .map_err(|error| Error::corrupt(object, format!("in its capsule: {error}")))
    }
}

fn length(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::invalid("snapshot", "it is too large"))
}

/// What would be damage in an object that was read is a bad argument for one that is to be made.
fn refuse(error: Error) -> Error {
    match error {
        Error::Corrupt { object, reason } => Error::Invalid { what: object, reason },
        other => other,
    }
}

//! Content to record and back: compression, padding, sealing, and the checks of opening (`docs/format.md`, section 8).
//!
//! `Sealer` and `Opener` are mirror images. Both may be used from several threads at once.

use crate::capsule::Capsule;
use crate::configuration::Configuration;
use crate::error::Result;
use crate::id::{BlobId, CapsuleId, Tag};
use crate::key::{Keys, WriteKey};
use crate::record::{Kind, Record};

/// One writing session: its key, its capsule, its nonce counter.
pub struct Sealer {
    pub key: WriteKey,
    pub capsule: Capsule,
}

impl Sealer {
    /// A fresh session key, sealed to all recipients.
    pub fn new(key: &WriteKey, configuration: &Configuration) -> Result<Sealer> {
        let _ = (key, configuration);
        todo!()
    }

    /// Compresses and seals; `links` in any order, duplicates allowed. Opens the record again from memory and compares
    /// the tag before returning it, so that a fault of the encoder is found while the source is still there.
    /// `tag` must be that of the content ([`WriteKey::tag`]): it was asked for before.
    pub fn seal(&self, kind: Kind, tag: Tag, content: &[u8], links: &[BlobId]) -> Result<Record> {
        let _ = (kind, tag, content, links);
        todo!()
    }

    /// Seals a snapshot's details: the nonce counter and the ciphertext.
    pub fn seal_details(&self, associated: &dyn Fn(u64) -> Vec<u8>, plain: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let _ = (associated, plain);
        todo!()
    }
}

/// Opens records and snapshot details; keeps the session keys it has opened.
pub struct Opener {}

impl Opener {
    /// [`Error::WriteOnly`](crate::Error::WriteOnly) if there is no opening key.
    pub fn new(keys: &Keys, configuration: &Configuration) -> Result<Opener> {
        let _ = (keys, configuration);
        todo!()
    }

    /// The content, after every check. `capsule` fetches a capsule that is not known yet, `base` the content of a delta's base.
    pub fn open(
        &self,
        record: &Record,
        kind: Kind,
        capsule: &dyn Fn(CapsuleId) -> Result<Capsule>,
        base: &dyn Fn(BlobId) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let _ = (record, kind, capsule, base);
        todo!()
    }

    pub fn open_details(&self, capsule: &Capsule, counter: u64, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let _ = (capsule, counter, associated, sealed);
        todo!()
    }

    /// The tag of a content: for comparing what a target already holds.
    pub fn tag(&self, kind: Kind, content: &[u8]) -> Tag {
        let _ = (kind, content);
        todo!()
    }
}

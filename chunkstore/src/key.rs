//! Keys: what they are, how slots protect them, how they look as text (`docs/format.md`, section 5).

use crate::backend::Backend;
use crate::configuration::{Configuration, Kem};
use crate::error::Result;
use crate::id::{RepositoryId, SlotId, Tag};
use crate::record::Kind;
use zeroize::Zeroizing;

/// A public key that capsules are sealed to.
#[derive(Clone)]
pub struct Recipient {
    pub kem: Kem,
    pub public_key: Vec<u8>,
}

/// All that a writer needs: deduplicates, seals, authenticates snapshots; opens nothing.
#[derive(Clone)]
pub struct WriteKey {
    pub repository: RepositoryId,
    pub(crate) tag: Zeroizing<[u8; 32]>,
    pub(crate) snapshot: Zeroizing<[u8; 32]>,
    pub(crate) gear: Zeroizing<[u8; 32]>,
    pub recipients: Vec<Recipient>,
}

impl WriteKey {
    /// The keyed name of a content (section 8).
    pub fn tag(&self, kind: Kind, content: &[u8]) -> Tag {
        let _ = (kind, content);
        todo!()
    }

    /// The text form, `nkw1-…`: one line without newline.
    pub fn to_text(&self) -> Zeroizing<String> {
        todo!()
    }

    pub fn from_text(text: &str) -> Result<WriteKey> {
        let _ = text;
        todo!()
    }
}

/// The private key that capsules open with.
#[derive(Clone)]
pub struct OpeningKey {
    pub(crate) kem: Kem,
    pub(crate) secret: Zeroizing<[u8; 32]>,
}

/// The keys at hand: always those for writing, and the opening key unless the credential was a write-only key.
#[derive(Clone)]
pub struct Keys {
    pub write: WriteKey,
    pub opening: Option<OpeningKey>,
    /// Root keys by epoch, empty for a write-only credential.
    pub(crate) roots: Vec<(u32, Zeroizing<[u8; 32]>)>,
}

/// What an administrator presents. A text that begins with `nkw1-` is a write-only key, one with `nkr1-` the recovery
/// key, anything else a passphrase.
pub enum Credential {
    Passphrase(Zeroizing<Vec<u8>>),
    Recovery(Zeroizing<[u8; 32]>),
    Write(WriteKey),
}

impl Credential {
    /// Reads a credential as typed or as found in a file (one trailing newline is dropped).
    pub fn from_text(text: &[u8]) -> Result<Credential> {
        let _ = text;
        todo!()
    }
}

/// How hard a passphrase slot is to try. `Cheap` is for tests: release builds refuse to create or open it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hardness {
    Normal,
    Cheap,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    Passphrase,
    Recovery,
}

/// The public part of a slot.
#[derive(Clone, Debug)]
pub struct SlotInfo {
    pub id: SlotId,
    pub kind: SlotKind,
    pub created: i64,
    pub label: String,
}

impl Keys {
    /// New random keys for a new repository.
    pub fn generate(configuration: &Configuration) -> Result<Keys> {
        let _ = configuration;
        todo!()
    }
}

/// Tries the credential on every slot it could open; [`Error::WrongCredential`](crate::Error::WrongCredential) if none does.
pub fn unlock(backend: &dyn Backend, configuration: &Configuration, credential: &Credential) -> Result<Keys> {
    let _ = (backend, configuration, credential);
    todo!()
}

/// Adds a passphrase slot. Needs opening keys (write-only keys know no root key).
pub fn add_passphrase(
    backend: &dyn Backend,
    configuration: &Configuration,
    keys: &Keys,
    passphrase: &[u8],
    label: &str,
    now: i64,
    hardness: Hardness,
) -> Result<SlotId> {
    let _ = (backend, configuration, keys, passphrase, label, now, hardness);
    todo!()
}

/// Adds a recovery slot; the returned text (`nkr1-…`) is shown once and never stored.
pub fn add_recovery(
    backend: &dyn Backend,
    configuration: &Configuration,
    keys: &Keys,
    now: i64,
) -> Result<(SlotId, Zeroizing<String>)> {
    let _ = (backend, configuration, keys, now);
    todo!()
}

pub fn list(backend: &dyn Backend, configuration: &Configuration) -> Result<Vec<SlotInfo>> {
    let _ = (backend, configuration);
    todo!()
}

/// Removes a slot; refuses the last one.
pub fn remove(backend: &dyn Backend, configuration: &Configuration, id: SlotId) -> Result<()> {
    let _ = (backend, configuration, id);
    todo!()
}

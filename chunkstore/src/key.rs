//! Keys: what they are, how slots protect them, how they look as text (`docs/format.md`, section 5).
//!
//! No type here has a `Debug` that shows a secret; secrets are wiped when they are dropped.

pub mod text;

pub mod slot;

use crate::configuration::{Configuration, Kem};
use crate::error::{Error, Result};
use crate::id::{RepositoryId, Tag};
use crate::record::Kind;
use hpke::kem::{X25519HkdfSha256, XWing};
use hpke::{Deserializable, Serializable};
use zeroize::Zeroizing;

pub use slot::{Hardness, SlotInfo, SlotKind, add_passphrase, add_recovery, list, remove, unlock, unlock_with_slot};

/// What BLAKE3 hashes at once: sixteen of its pieces (with AVX-512).
const HASHED_AT_ONCE: usize = 16 << 10;
/// Shorter contents gain nothing from it.
const HASHED_APART_MAX: usize = 2 << 10;

/// A public key that capsules are sealed to.
#[derive(Clone, PartialEq, Eq, Debug)]
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
        let mut hasher = blake3::Hasher::new_keyed(&self.tag);
        if content.len() < HASHED_APART_MAX {
            hasher.update(&[kind as u8]).update(content);
        } else {
            // BLAKE3 hashes what is aligned to its pieces of a kilobyte side by side. One byte alone before the content would have it begin
            // with one piece, then one, two, four and eight.
            let mut front = [kind as u8; HASHED_AT_ONCE];
            let (begin, rest) = content.split_at(content.len().min(HASHED_AT_ONCE - 1));
            if let Some(room) = front.get_mut(1..=begin.len()) {
                room.copy_from_slice(begin);
            }
            hasher.update(front.get(..=begin.len()).unwrap_or_default()).update(rest);
        }
        Tag(*hasher.finalize().as_bytes())
    }

    /// Whether a tree node may end after the entry or child of this name (section 9).
    pub fn splits(&self, name: &[u8]) -> bool {
        self.hash_of(name) == 0
    }

    /// Whether a bundle of small files may end after the file of this name: one name in 32.
    pub fn splits_bundle(&self, name: &[u8]) -> bool {
        self.hash_of(name).is_multiple_of(32)
    }

    fn hash_of(&self, name: &[u8]) -> u8 {
        let [first, ..] = *blake3::keyed_hash(&self.gear, name).as_bytes();
        first
    }

    fn derive(root: &[u8; 32], repository: RepositoryId, recipients: Vec<Recipient>) -> WriteKey {
        let derived = |context: &str| {
            let mut hasher = blake3::Hasher::new_derive_key(context);
            hasher.update(root).update(&repository.0);
            Zeroizing::new(*hasher.finalize().as_bytes())
        };
        WriteKey {
            repository,
            tag: derived("nightkeep v1 tag"),
            snapshot: derived("nightkeep v1 snapshot"),
            gear: derived("nightkeep v1 gear"),
            recipients,
        }
    }
}

/// The private key that capsules open with.
#[derive(Clone)]
pub struct OpeningKey {
    pub(crate) kem: Kem,
    pub(crate) secret: Zeroizing<[u8; 32]>,
}

impl OpeningKey {
    /// Its public half.
    pub fn recipient(&self) -> Result<Recipient> {
        let public_key = match self.kem {
            Kem::XWing => public_key::<XWing>(&self.secret),
            Kem::X25519 => public_key::<X25519HkdfSha256>(&self.secret),
        };
        Ok(Recipient { kem: self.kem, public_key: public_key? })
    }
}

/// The keys at hand: always those for writing, and the opening key unless the credential was a write-only key.
#[derive(Clone)]
pub struct Keys {
    pub write: WriteKey,
    pub opening: Option<OpeningKey>,
    /// Root keys by epoch, ascending; empty for a write-only credential.
    pub(crate) roots: Vec<(u32, Zeroizing<[u8; 32]>)>,
}

impl Keys {
    /// New random keys for a new repository.
    pub fn generate(configuration: &Configuration) -> Result<Keys> {
        let opening = OpeningKey { kem: configuration.kem, secret: random()? };
        Keys::assemble(configuration.repository, vec![(0, random()?)], opening)
    }

    /// Everything else follows from these. `roots` ascending by epoch, not empty.
    fn assemble(repository: RepositoryId, roots: Vec<(u32, Zeroizing<[u8; 32]>)>, opening: OpeningKey) -> Result<Keys> {
        let Some((_, root)) = roots.last() else {
            return Err(Error::invalid("keys", "there is no root key"));
        };
        let write = WriteKey::derive(root, repository, vec![opening.recipient()?]);
        Ok(Keys { write, opening: Some(opening), roots })
    }
}

/// What an administrator presents. A text that begins with `nkw1-` is a write-only key, one with `nkr1-` the recovery
/// key, anything else a passphrase.
pub enum Credential {
    Passphrase(Zeroizing<Vec<u8>>),
    Recovery(Zeroizing<[u8; 32]>),
    Write(WriteKey),
}

/// Bytes of a public key and of an encapsulated key.
pub(crate) fn kem_lengths(kem: Kem) -> (usize, usize) {
    fn of<K: hpke::Kem>() -> (usize, usize) {
        (K::PublicKey::size(), K::EncappedKey::size())
    }
    match kem {
        Kem::XWing => of::<XWing>(),
        Kem::X25519 => of::<X25519HkdfSha256>(),
    }
}

/// From the operating system.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut())
        .map_err(|error| Error::io("read", "the system's random numbers", std::io::Error::other(error.to_string())))?;
    Ok(bytes)
}

fn public_key<K: hpke::Kem>(secret: &[u8; 32]) -> Result<Vec<u8>> {
    let secret = K::PrivateKey::from_bytes(secret).map_err(|error| Error::invalid("opening key", error.to_string()))?;
    Ok(K::sk_to_pk(&secret).to_bytes().to_vec())
}

#[cfg(test)]
mod tests;

//! Key slots: objects that give the keys to who holds a passphrase or the recovery key.
//!
//! A slot is hostile until its seal opens: parameters are bounded before a key is derived, and one damaged slot never
//! stands in the way of another.

use crate::backend::{Backend, ObjectKind, ObjectName};
use crate::cipher::Cipher;
use crate::coding::{Decoder, Encoder};
use crate::configuration::{Configuration, Kem, Suite};
use crate::error::{Error, Result};
use crate::id::{RepositoryId, SlotId};
use crate::key::text::recovery_to_text;
use crate::key::{Credential, Keys, OpeningKey, WriteKey, random};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use rayon::iter::{IntoParallelRefMutIterator, ParallelExtend, ParallelIterator};
use zeroize::{Zeroize, Zeroizing};

const MAGIC: &[u8; 8] = b"NKkeys\0\x01";
const OBJECT_BYTES_MAX: usize = 64 << 10;
/// What is written; readers take what the object holds.
const LABEL_BYTES_MAX: usize = 1024;
const ROOTS_MAX: usize = 8;

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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotInfo {
    pub id: SlotId,
    pub kind: SlotKind,
    pub created: i64,
    pub label: String,
}

/// Tries the credential on every slot it could open; [`Error::WrongCredential`](crate::Error::WrongCredential) if none does.
/// If no slot of the credential's kind is whole, that is the error.
pub fn unlock(backend: &dyn Backend, configuration: &Configuration, credential: &Credential) -> Result<Keys> {
    unlock_with_slot(backend, configuration, credential).map(|(_, keys)| keys)
}

/// As [`unlock`], and which slot it was: none for a write-only key.
pub fn unlock_with_slot(
    backend: &dyn Backend,
    configuration: &Configuration,
    credential: &Credential,
) -> Result<(Option<SlotId>, Keys)> {
    if let Credential::Write(write) = credential {
        return unlock_write(configuration, write).map(|keys| (None, keys));
    }
    let mut damage = None;
    let mut slots = Vec::new();
    for (_, slot) in read_all(backend, configuration)? {
        match slot {
            Ok(slot) if slot.suits(credential) => slots.push(slot),
            Ok(_) => {}
            Err(error) => damage = damage.or(Some(error)),
        }
    }
    if slots.is_empty() {
        return Err(damage.unwrap_or(Error::WrongCredential));
    }
    // A slot with hostile costs must not make who has a cheaper one wait.
    slots.sort_by_key(|slot| slot.cost.memory_kib);
    let mut damage = None;
    for slot in slots {
        match slot.open(configuration, credential) {
            Ok(Some(keys)) => return Ok((Some(slot.info.id), keys)),
            Ok(None) => {}
            Err(error) => damage = damage.or(Some(error)),
        }
    }
    Err(damage.unwrap_or(Error::WrongCredential))
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
    if passphrase.is_empty() {
        return Err(Error::invalid("passphrase", "it is empty"));
    }
    let kind = match hardness {
        Hardness::Normal => Kind::Passphrase,
        Hardness::Cheap => Kind::CheapPassphrase,
    };
    let slot = Slot::new(configuration, kind, label, now)?;
    let credential = Credential::Passphrase(Zeroizing::new(passphrase.to_vec()));
    slot.store(backend, configuration, keys, &credential)
}

/// Adds a recovery slot; the returned text (`nkr1-…`) is shown once and never stored.
pub fn add_recovery(
    backend: &dyn Backend,
    configuration: &Configuration,
    keys: &Keys,
    now: i64,
) -> Result<(SlotId, Zeroizing<String>)> {
    let key = random()?;
    let text = recovery_to_text(&key);
    let slot = Slot::new(configuration, Kind::Recovery, "", now)?;
    let id = slot.store(backend, configuration, keys, &Credential::Recovery(key))?;
    Ok((id, text))
}

/// All slots, and what is wrong with damaged ones.
pub fn list(backend: &dyn Backend, configuration: &Configuration) -> Result<Vec<(SlotId, Result<SlotInfo>)>> {
    let slots = read_all(backend, configuration)?;
    Ok(slots.into_iter().map(|(id, slot)| (id, slot.map(|slot| slot.info))).collect())
}

/// Which slot an object is, if it is well formed: for who keeps it without being able to open it.
pub fn name_of(bytes: &[u8], configuration: &Configuration) -> Result<SlotId> {
    // Its place is after magic and repository.
    let id = bytes.get(MAGIC.len() + RepositoryId::LEN..).and_then(|rest| rest.first_chunk()).copied();
    let id = SlotId(id.ok_or_else(|| Error::corrupt("a key slot", "it is too short"))?);
    Slot::decode(bytes, configuration, id).map(|slot| slot.info.id)
}

/// Removes a slot; refuses if no other is whole.
pub fn remove(backend: &dyn Backend, configuration: &Configuration, id: SlotId) -> Result<()> {
    let slots = read_all(backend, configuration)?;
    if !slots.iter().any(|(other, _)| *other == id) {
        return Err(Error::missing(ObjectName::KeySlot(id).to_string()));
    }
    if !slots.iter().any(|(other, slot)| *other != id && slot.is_ok()) {
        return Err(Error::invalid(ObjectName::KeySlot(id).to_string(), "it is the last that opens the repository"));
    }
    backend.delete(ObjectName::KeySlot(id))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Passphrase = 1,
    Recovery = 2,
    CheapPassphrase = 250,
}

/// What a passphrase's key costs to derive; zeros for a recovery key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cost {
    memory_kib: u32,
    passes: u8,
    lanes: u8,
}

impl Cost {
    fn of(kind: Kind) -> Cost {
        match kind {
            // docs/decisions/001-argon2-memory.md has the reasons.
            Kind::Passphrase => Cost { memory_kib: 64 << 10, passes: 3, lanes: 4 },
            Kind::CheapPassphrase => Cost { memory_kib: 64, passes: 1, lanes: 1 },
            Kind::Recovery => Cost { memory_kib: 0, passes: 0, lanes: 0 },
        }
    }

    /// A hostile slot can neither weaken nor exhaust.
    fn is_within_bounds(self, kind: Kind) -> bool {
        match kind {
            Kind::Passphrase => {
                (64 << 10..=2 << 20).contains(&self.memory_kib)
                    && (1..=10).contains(&self.passes)
                    && (1..=16).contains(&self.lanes)
            }
            Kind::CheapPassphrase | Kind::Recovery => self == Cost::of(kind),
        }
    }
}

/// A slot that is well formed and this repository's.
struct Slot {
    info: SlotInfo,
    kind: Kind,
    cost: Cost,
    salt: [u8; 32],
    /// All before the seal.
    head: Vec<u8>,
    sealed: Vec<u8>,
}

impl Slot {
    /// A slot to be sealed.
    fn new(configuration: &Configuration, kind: Kind, label: &str, now: i64) -> Result<Slot> {
        if label.len() > LABEL_BYTES_MAX {
            return Err(Error::invalid("label of a key slot", format!("{} bytes exceed 1,024", label.len())));
        }
        let (id, cost, salt) = (SlotId(*random()?), Cost::of(kind), *random()?);
        let mut e = Encoder::new();
        e.raw(MAGIC).raw(&configuration.repository.0).raw(&id.0).i64(now).u8(kind as u8).bytes(label.as_bytes());
        e.u32(cost.memory_kib).u8(cost.passes).u8(cost.lanes).raw(&salt);
        let info = SlotInfo { id, kind: kind.public(), created: now, label: label.into() };
        Ok(Slot { info, kind, cost, salt, head: e.bytes, sealed: Vec::new() })
    }

    fn decode(bytes: &[u8], configuration: &Configuration, id: SlotId) -> Result<Slot> {
        let object = ObjectName::KeySlot(id).to_string();
        let mut d = Decoder::new(bytes, &object);
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(d.corrupt("it is too long"));
        }
        d.magic(MAGIC)?;
        if d.array()? != configuration.repository.0 {
            return Err(d.corrupt("it belongs to another repository"));
        }
        if d.array()? != id.0 {
            return Err(d.corrupt("it is another slot than its name says"));
        }
        let created = d.i64()?;
        let kind = match d.u8()? {
            1 => Kind::Passphrase,
            2 => Kind::Recovery,
            250 => Kind::CheapPassphrase,
            n => {
                return Err(Error::Unsupported { object, reason: format!("slot kind {n} is unknown to this program") });
            }
        };
        let label =
            str::from_utf8(d.bytes(OBJECT_BYTES_MAX, "label")?).map_err(|_| d.corrupt("its label is no text"))?;
        let cost = Cost { memory_kib: d.u32()?, passes: d.u8()?, lanes: d.u8()? };
        if !cost.is_within_bounds(kind) {
            return Err(d.corrupt("its costs are out of bounds"));
        }
        let salt = d.array()?;
        if d.u32()? as usize != d.remaining() {
            return Err(d.corrupt("its length is wrong"));
        }
        let sealed = d.raw(d.remaining())?;
        let head = bytes.get(..bytes.len() - sealed.len()).unwrap_or_default();
        let info = SlotInfo { id, kind: kind.public(), created, label: label.into() };
        Ok(Slot { info, kind, cost, salt, head: head.to_vec(), sealed: sealed.to_vec() })
    }

    fn suits(&self, credential: &Credential) -> bool {
        match credential {
            Credential::Passphrase(_) => self.info.kind == SlotKind::Passphrase,
            Credential::Recovery(_) => self.info.kind == SlotKind::Recovery,
            Credential::Write(_) => false,
        }
    }

    /// `None` if the credential is not this slot's.
    fn open(&self, configuration: &Configuration, credential: &Credential) -> Result<Option<Keys>> {
        let cipher = self.cipher(credential)?;
        match cipher.open(0, &self.head, &self.sealed).map(Zeroizing::new) {
            Some(content) => decode_content(&content, configuration, &self.object()).map(Some),
            None => Ok(None),
        }
    }

    fn store(
        mut self,
        backend: &dyn Backend,
        configuration: &Configuration,
        keys: &Keys,
        credential: &Credential,
    ) -> Result<SlotId> {
        let content = encode_content(configuration, keys)?;
        let len = content.len() + Cipher::OVERHEAD;
        let mut e = Encoder { bytes: self.head };
        e.u32(u32::try_from(len).map_err(|_| Error::invalid("key slot", "it is too long"))?);
        self.head = e.bytes;
        let mut object = self.head.clone();
        // Room for all of it, so that no copy of a secret is left behind by growing.
        object.reserve_exact(len);
        object.extend_from_slice(&content);
        self.cipher(credential)?.seal(0, &mut object, self.head.len())?;
        backend.put(ObjectName::KeySlot(self.info.id), &object)?;
        Ok(self.info.id)
    }

    /// Under the key that the credential and the salt give; the salt is fresh, so nonce 0 is used once.
    fn cipher(&self, credential: &Credential) -> Result<Cipher> {
        let mut key = Zeroizing::new([0; 32]);
        match credential {
            Credential::Passphrase(passphrase) => self.derive(passphrase, &mut key)?,
            Credential::Recovery(recovery) => {
                let mut hasher = blake3::Hasher::new_derive_key("nightkeep v1 recovery");
                hasher.update(recovery.as_slice()).update(&self.salt);
                *key = *hasher.finalize().as_bytes();
            }
            Credential::Write(_) => return Err(Error::invalid(self.object(), "a write-only key opens no slot")),
        }
        Cipher::new(Suite::Aes256Gcm, &key)
    }

    fn derive(&self, passphrase: &[u8], key: &mut [u8; 32]) -> Result<()> {
        if self.kind == Kind::CheapPassphrase && !cfg!(debug_assertions) {
            let reason = "it is one for tests, too cheap to try".into();
            return Err(Error::Unsupported { object: self.object(), reason });
        }
        let Cost { memory_kib, passes, lanes } = self.cost;
        let refused = |error: argon2::Error| Error::invalid("passphrase", error.to_string());
        let params = Params::new(memory_kib, passes.into(), lanes.into(), Some(key.len())).map_err(refused)?;
        // Asked for in a way that may fail, and touched first by all processors: new memory costs more than what is done with it.
        let mut memory = Vec::<Block>::new();
        let count = params.block_count();
        if memory.try_reserve_exact(count).is_err() {
            let reason = format!("it takes {} MiB of memory to open, more than there is", memory_kib >> 10);
            return Err(Error::Unsupported { object: self.object(), reason });
        }
        memory.par_extend(rayon::iter::repeat_n(Block::default(), count));
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let derived = argon2.hash_password_into_with_memory(passphrase, &self.salt, key, memory.as_mut_slice());
        // It would tell the key to who reads it later.
        memory.par_iter_mut().for_each(Zeroize::zeroize);
        derived.map_err(refused)
    }

    fn object(&self) -> String {
        ObjectName::KeySlot(self.info.id).to_string()
    }
}

impl Kind {
    fn public(self) -> SlotKind {
        match self {
            Kind::Passphrase | Kind::CheapPassphrase => SlotKind::Passphrase,
            Kind::Recovery => SlotKind::Recovery,
        }
    }
}

fn unlock_write(configuration: &Configuration, write: &WriteKey) -> Result<Keys> {
    if write.repository != configuration.repository {
        return Err(Error::WrongCredential);
    }
    if write.recipients.iter().any(|recipient| recipient.kem != configuration.kem) {
        return Err(Error::corrupt("configuration", "its key encapsulation is not that of the write-only key"));
    }
    Ok(Keys { write: write.clone(), opening: None, roots: Vec::new() })
}

/// Every slot object, in the order of ids. One that cannot be read does not hide the others.
fn read_all(backend: &dyn Backend, configuration: &Configuration) -> Result<Vec<(SlotId, Result<Slot>)>> {
    let mut slots = Vec::new();
    for (name, len) in backend.list(ObjectKind::KeySlot)? {
        let ObjectName::KeySlot(id) = name else { continue };
        let slot = if len > OBJECT_BYTES_MAX as u64 {
            Err(Error::corrupt(name.to_string(), "it is too long"))
        } else {
            backend.get(name).and_then(|bytes| Slot::decode(&bytes, configuration, id))
        };
        slots.push((id, slot));
    }
    slots.sort_by_key(|(id, _)| *id);
    Ok(slots)
}

pub(super) fn encode_content(configuration: &Configuration, keys: &Keys) -> Result<Zeroizing<Vec<u8>>> {
    let Some(opening) = &keys.opening else {
        return Err(Error::WriteOnly { object: "the key of the repository".into() });
    };
    let fits = keys.write.repository == configuration.repository && opening.kem == configuration.kem;
    if !fits || !(1..=ROOTS_MAX).contains(&keys.roots.len()) {
        return Err(Error::invalid("keys", "they are not this repository's"));
    }
    let mut e = Encoder { bytes: Vec::with_capacity(66 + 36 * keys.roots.len()) };
    e.raw(blake3::hash(&configuration.encode()).as_bytes());
    e.u8(u8::try_from(keys.roots.len()).unwrap_or(u8::MAX));
    for (epoch, root) in &keys.roots {
        e.u32(*epoch).raw(root.as_slice());
    }
    e.u8(opening.kem as u8).raw(opening.secret.as_slice());
    Ok(Zeroizing::new(e.bytes))
}

pub(super) fn decode_content(bytes: &[u8], configuration: &Configuration, object: &str) -> Result<Keys> {
    let mut d = Decoder::new(bytes, object);
    if d.array()? != *blake3::hash(&configuration.encode()).as_bytes() {
        return Err(Error::corrupt("configuration", "it is not the one that the keys were made for"));
    }
    let count = usize::from(d.u8()?);
    if !(1..=ROOTS_MAX).contains(&count) {
        return Err(d.corrupt(format!("{count} root keys announced")));
    }
    let mut roots = Vec::with_capacity(count);
    for _ in 0..count {
        roots.push((d.u32()?, Zeroizing::new(d.array()?)));
    }
    if !roots.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(d.corrupt("its root keys are not in order"));
    }
    let kem = match d.u8()? {
        1 => Kem::XWing,
        2 => Kem::X25519,
        n => return Err(d.corrupt(format!("key encapsulation {n} is unknown"))),
    };
    if kem != configuration.kem {
        return Err(d.corrupt("its key encapsulation is not the configured one"));
    }
    let opening = OpeningKey { kem, secret: Zeroizing::new(d.array()?) };
    d.finish()?;
    Keys::assemble(configuration.repository, roots, opening)
}

//! A session key, sealed to the repository's recipients (`docs/format.md`, section 7).

use crate::coding::{Decoder, Encoder};
use crate::configuration::Kem;
use crate::error::{Error, Result};
use crate::id::{CapsuleId, RepositoryId};
use crate::key::{OpeningKey, Recipient, kem_lengths};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::{X25519HkdfSha256, XWing};
use hpke::{Deserializable, HpkeError, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

pub const RECIPIENTS_MAX: usize = 32;

const MAGIC: &[u8; 4] = b"NKcp";
/// Magic, KEM, number of recipients, repository: what each recipient's seal authenticates.
const HEAD_LEN: usize = 22;
const SEALED_LEN: usize = 48;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capsule {
    pub id: CapsuleId,
    pub bytes: Vec<u8>,
}

impl Capsule {
    /// Well-formedness only.
    pub fn parse(bytes: Vec<u8>, repository: &RepositoryId) -> Result<Capsule> {
        recipients(&bytes, repository)?;
        Ok(Capsule::of(bytes))
    }

    pub fn seal(session_key: &[u8; 32], repository: &RepositoryId, recipients: &[Recipient]) -> Result<Capsule> {
        let invalid = |reason: &str| Error::invalid("recipients of a capsule", reason);
        let count = u8::try_from(recipients.len()).unwrap_or(u8::MAX);
        if usize::from(count) > RECIPIENTS_MAX {
            return Err(invalid("there are more than 32"));
        }
        let kem = recipients.first().ok_or_else(|| invalid("there is none"))?.kem;
        if recipients.iter().any(|r| r.kem != kem) {
            return Err(invalid("they do not share one key encapsulation"));
        }
        let mut e = Encoder::new();
        e.raw(MAGIC).u8(kem as u8).u8(count).raw(&repository.0);
        let head = e.bytes.clone();
        for recipient in recipients {
            let (encapsulated, sealed) = match kem {
                Kem::XWing => seal_to::<XWing>(&recipient.public_key, repository, &head, session_key),
                Kem::X25519 => seal_to::<X25519HkdfSha256>(&recipient.public_key, repository, &head, session_key),
            }
            .map_err(|error| invalid(&error.to_string()))?;
            let len = u16::try_from(encapsulated.len()).map_err(|_| invalid("an encapsulated key is too long"))?;
            e.raw(&hint(&recipient.public_key)).u16(len).raw(&encapsulated).raw(&sealed);
        }
        Ok(Capsule::of(e.bytes))
    }

    /// The session key. Who may trust `self.id` (a record or snapshot named it) may trust the answer.
    pub fn open(&self, repository: &RepositoryId, key: &OpeningKey) -> Result<Zeroizing<[u8; 32]>> {
        let (kem, head, recipients) = recipients(&self.bytes, repository)?;
        let opened = match kem {
            _ if kem != key.kem => None,
            Kem::XWing => open_with::<XWing>(&key.secret, repository, head, &recipients),
            Kem::X25519 => open_with::<X25519HkdfSha256>(&key.secret, repository, head, &recipients),
        };
        opened.ok_or_else(|| {
            Error::corrupt(format!("capsule {}", self.id), "it does not open with this repository's key")
        })
    }

    fn of(bytes: Vec<u8>) -> Capsule {
        let id = CapsuleId(blake3::hash(&bytes).as_bytes().first_chunk().copied().unwrap_or_default());
        Capsule { id, bytes }
    }
}

/// One recipient's part of a capsule.
struct Sealed<'a> {
    hint: [u8; 8],
    encapsulated: &'a [u8],
    sealed: &'a [u8],
}

fn recipients<'a>(bytes: &'a [u8], repository: &RepositoryId) -> Result<(Kem, &'a [u8], Vec<Sealed<'a>>)> {
    let object = "a capsule";
    let mut d = Decoder::new(bytes, object);
    d.magic(MAGIC)?;
    let kem = match d.u8()? {
        1 => Kem::XWing,
        2 => Kem::X25519,
        n => return Err(d.corrupt(format!("key encapsulation {n} is unknown"))),
    };
    let count = usize::from(d.u8()?);
    if !(1..=RECIPIENTS_MAX).contains(&count) {
        return Err(d.corrupt(format!("{count} recipients announced")));
    }
    if d.array()? != repository.0 {
        return Err(d.corrupt("it belongs to another repository"));
    }
    let (_, encapsulated_len) = kem_lengths(kem);
    let mut recipients = Vec::with_capacity(count);
    for _ in 0..count {
        let hint = d.array()?;
        if usize::from(d.u16()?) != encapsulated_len {
            return Err(d.corrupt("an encapsulated key has a wrong length"));
        }
        recipients.push(Sealed { hint, encapsulated: d.raw(encapsulated_len)?, sealed: d.raw(SEALED_LEN)? });
    }
    d.finish()?;
    let head = bytes.get(..HEAD_LEN).ok_or_else(|| Error::corrupt(object, "it is too short"))?;
    Ok((kem, head, recipients))
}

/// The first bytes of the hash of a public key: which part is whose.
fn hint(public_key: &[u8]) -> [u8; 8] {
    blake3::hash(public_key).as_bytes().first_chunk().copied().unwrap_or_default()
}

fn info(repository: &RepositoryId) -> Vec<u8> {
    [&b"nightkeep v1 capsule"[..], &repository.0].concat()
}

fn seal_to<K: hpke::Kem>(
    public_key: &[u8],
    repository: &RepositoryId,
    head: &[u8],
    session_key: &[u8; 32],
) -> std::result::Result<(Vec<u8>, Vec<u8>), HpkeError> {
    let public_key = K::PublicKey::from_bytes(public_key)?;
    let (encapsulated, mut context) =
        hpke::setup_sender::<AesGcm256, HkdfSha256, K>(&OpModeS::Base, &public_key, &info(repository))?;
    Ok((encapsulated.to_bytes().to_vec(), context.seal(session_key, head)?))
}

/// From the part that is for `secret`.
fn open_with<K: hpke::Kem>(
    secret: &[u8; 32],
    repository: &RepositoryId,
    head: &[u8],
    recipients: &[Sealed<'_>],
) -> Option<Zeroizing<[u8; 32]>> {
    let secret = K::PrivateKey::from_bytes(secret).ok()?;
    let hint = hint(&K::sk_to_pk(&secret).to_bytes());
    recipients.iter().filter(|recipient| recipient.hint == hint).find_map(|recipient| {
        let encapsulated = K::EncappedKey::from_bytes(recipient.encapsulated).ok()?;
        let (mode, info) = (OpModeR::Base, info(repository));
        let mut context =
            hpke::setup_receiver::<AesGcm256, HkdfSha256, K>(&mode, &secret, &encapsulated, &info).ok()?;
        let opened = Zeroizing::new(context.open(recipient.sealed, head).ok()?);
        opened.as_slice().try_into().ok().map(Zeroizing::new)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::random;

    const REPOSITORY: RepositoryId = RepositoryId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    const SESSION_KEY: [u8; 32] = [7; 32];

    fn opening_key(kem: Kem) -> OpeningKey {
        OpeningKey { kem, secret: random().unwrap() }
    }

    fn counting(from: u8) -> [u8; 32] {
        std::array::from_fn(|at| from + u8::try_from(at).unwrap())
    }

    fn known(hex: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(hex.replace('\n', "").as_bytes()).unwrap()
    }

    #[test]
    fn every_recipient_opens_it_and_a_stranger_does_not() {
        for kem in [Kem::XWing, Kem::X25519] {
            let keys = [opening_key(kem), opening_key(kem), opening_key(kem)];
            let recipients = keys.each_ref().map(|key| key.recipient().unwrap());
            let sealed = Capsule::seal(&SESSION_KEY, &REPOSITORY, &recipients).unwrap();
            let capsule = Capsule::parse(sealed.bytes.clone(), &REPOSITORY).unwrap();
            assert_eq!(capsule, sealed);
            for key in &keys {
                assert_eq!(*capsule.open(&REPOSITORY, key).unwrap(), SESSION_KEY);
            }
            assert!(matches!(capsule.open(&REPOSITORY, &opening_key(kem)), Err(Error::Corrupt { .. })));
            assert!(matches!(capsule.open(&RepositoryId([1; 16]), &keys[0]), Err(Error::Corrupt { .. })));
            assert!(Capsule::parse(capsule.bytes, &RepositoryId([1; 16])).is_err());
        }
    }

    #[test]
    fn recipients_must_be_some_of_one_kind() {
        let (a, b) = (opening_key(Kem::XWing).recipient().unwrap(), opening_key(Kem::X25519).recipient().unwrap());
        for wrong in [vec![], vec![a, b.clone()], vec![b.clone(); 33]] {
            assert!(matches!(Capsule::seal(&SESSION_KEY, &REPOSITORY, &wrong), Err(Error::Invalid { .. })));
        }
        let short = Recipient { kem: Kem::X25519, public_key: vec![1; 31] };
        assert!(matches!(Capsule::seal(&SESSION_KEY, &REPOSITORY, &[short]), Err(Error::Invalid { .. })));
        let capsule = Capsule::seal(&SESSION_KEY, &REPOSITORY, &vec![b; 32]).unwrap();
        Capsule::parse(capsule.bytes, &REPOSITORY).unwrap();
    }

    #[test]
    fn each_truncation_and_each_flipped_bit_is_refused() {
        let key = opening_key(Kem::X25519);
        let good = Capsule::seal(&SESSION_KEY, &REPOSITORY, &[key.recipient().unwrap()]).unwrap();
        for at in 0..good.bytes.len() {
            assert!(Capsule::parse(good.bytes[..at].to_vec(), &REPOSITORY).is_err(), "{at}");
            for bit in 0..8 {
                let mut bytes = good.bytes.clone();
                bytes[at] ^= 1 << bit;
                let Ok(capsule) = Capsule::parse(bytes, &REPOSITORY) else { continue };
                assert_ne!(capsule.id, good.id);
                // Only X25519 itself ignores a bit: the highest of the encapsulated point (RFC 7748, section 5). The
                // shared secret binds the bytes as sent, so even that one is found.
                assert!(capsule.open(&REPOSITORY, &key).is_err(), "byte {at} bit {bit}");
            }
        }
        let longer = [good.bytes.as_slice(), &[0]].concat();
        assert!(Capsule::parse(longer, &REPOSITORY).is_err());
    }

    /// Both were made by a program of its own from RFC 9180, the X-Wing one over the first test vector of
    /// draft-connolly-cfrg-xwing-kem.
    #[test]
    fn known_capsules_open() {
        let x25519 = OpeningKey { kem: Kem::X25519, secret: Zeroizing::new(counting(0x80)) };
        let seed = known("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26");
        let xwing = OpeningKey { kem: Kem::XWing, secret: Zeroizing::new(seed.try_into().unwrap()) };
        let cases =
            [(x25519, include_str!("known/x25519_capsule.hex")), (xwing, include_str!("known/xwing_capsule.hex"))];
        for (key, hex) in cases {
            let capsule = Capsule::parse(known(hex), &REPOSITORY).unwrap();
            assert_eq!(*capsule.open(&REPOSITORY, &key).unwrap(), counting(0x40));
        }
    }

    #[test]
    fn known_public_keys() {
        let key = OpeningKey { kem: Kem::X25519, secret: Zeroizing::new(counting(0x80)) };
        let expected = known("493e82fc74464a59268817623d2053c5eb8e2cc4a988b4fee179ec6b010d531d");
        assert_eq!(key.recipient().unwrap().public_key, expected);
        let seed = known("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26");
        let key = OpeningKey { kem: Kem::XWing, secret: Zeroizing::new(seed.try_into().unwrap()) };
        let hash = blake3::hash(&key.recipient().unwrap().public_key);
        assert_eq!(hash.to_hex().as_str(), "feef93be794a93e4e5e9ea6b57c0cb74477e7624a4a5cc269372392b8cb49ca2");
    }
}

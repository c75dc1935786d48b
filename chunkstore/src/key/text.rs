//! Keys as people copy them: the recovery key in groups of letters, the write-only key in one line.

use crate::coding::{Decoder, Encoder};
use crate::configuration::Kem;
use crate::error::{Error, Result};
use crate::id::RepositoryId;
use crate::key::{Credential, Recipient, WriteKey, kem_lengths};
use data_encoding::{BASE32, BASE64URL_NOPAD};
use zeroize::Zeroizing;

const WRITE_PREFIX: &str = "nkw1-";
const RECOVERY_PREFIX: &str = "nkr1-";
const RECIPIENTS_MAX: usize = 32;
const GROUP_LEN: usize = 4;
/// Bytes of a recovery key's check digits.
const CHECK_LEN: usize = 3;
const CHECKSUM_LEN: usize = 8;

impl Credential {
    /// Reads a credential as typed or as found in a file (one trailing newline is dropped).
    pub fn from_text(text: &[u8]) -> Result<Credential> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let begins = |prefix: &str| text.get(..prefix.len()).is_some_and(|s| s.eq_ignore_ascii_case(prefix.as_bytes()));
        if text.starts_with(WRITE_PREFIX.as_bytes()) {
            let text = str::from_utf8(text).map_err(|_| Error::invalid("write-only key", "it is not text"))?;
            return WriteKey::from_text(text).map(Credential::Write);
        }
        if begins(RECOVERY_PREFIX) {
            return recovery_from_text(text).map(Credential::Recovery);
        }
        Ok(Credential::Passphrase(Zeroizing::new(text.to_vec())))
    }
}

impl WriteKey {
    /// The text form, `nkw1-…`: one line without newline.
    pub fn to_text(&self) -> Zeroizing<String> {
        // Room for all of it, so that no copy of a secret is left behind by growing.
        let recipients_len: usize = self.recipients.iter().map(|r| 3 + r.public_key.len()).sum();
        let mut e = Encoder { bytes: Vec::with_capacity(128 + recipients_len) };
        e.raw(&self.repository.0).raw(self.tag.as_slice()).raw(self.snapshot.as_slice()).raw(self.gear.as_slice());
        e.u8(u8::try_from(self.recipients.len()).unwrap_or(u8::MAX));
        for recipient in &self.recipients {
            e.u8(recipient.kem as u8).u16(u16::try_from(recipient.public_key.len()).unwrap_or(u16::MAX));
            e.raw(&recipient.public_key);
        }
        let bytes = Zeroizing::new(e.bytes);
        let sealed = Zeroizing::new([bytes.as_slice(), checksum(&bytes).as_slice()].concat());
        let mut text = Zeroizing::new(String::with_capacity(WRITE_PREFIX.len() + sealed.len().div_ceil(3) * 4));
        text.push_str(WRITE_PREFIX);
        BASE64URL_NOPAD.encode_append(&sealed, &mut text);
        text
    }

    pub fn from_text(text: &str) -> Result<WriteKey> {
        let invalid = |reason: &str| Error::invalid("write-only key", reason);
        let encoded = text.strip_prefix(WRITE_PREFIX).ok_or_else(|| invalid("it does not begin with nkw1-"))?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| invalid("it has a character or a length that cannot be"))?;
        let (checked, found) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or_else(|| invalid("it is too short"))?;
        if checksum(checked) != *found {
            return Err(invalid("its checksum is wrong: it was mistyped or cut"));
        }
        decode_write_key(checked).map_err(|error| match error {
            Error::Corrupt { reason, .. } => invalid(&reason),
            other => other,
        })
    }
}

fn decode_write_key(bytes: &[u8]) -> Result<WriteKey> {
    let mut d = Decoder::new(bytes, "a write-only key");
    let repository = RepositoryId(d.array()?);
    let (tag, snapshot, gear) = (Zeroizing::new(d.array()?), Zeroizing::new(d.array()?), Zeroizing::new(d.array()?));
    let count = usize::from(d.u8()?);
    if !(1..=RECIPIENTS_MAX).contains(&count) {
        return Err(d.corrupt(format!("{count} recipients announced")));
    }
    let mut recipients = Vec::with_capacity(count);
    for _ in 0..count {
        let kem = match d.u8()? {
            1 => Kem::XWing,
            2 => Kem::X25519,
            n => return Err(d.corrupt(format!("key encapsulation {n} is unknown to this program"))),
        };
        let len = usize::from(d.u16()?);
        if len != kem_lengths(kem).0 {
            return Err(d.corrupt(format!("a public key of {len} bytes")));
        }
        recipients.push(Recipient { kem, public_key: d.raw(len)?.to_vec() });
    }
    d.finish()?;
    Ok(WriteKey { repository, tag, snapshot, gear, recipients })
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or_default()
}

/// `nkr1-` and fourteen groups of four.
pub(super) fn recovery_to_text(key: &[u8; 32]) -> Zeroizing<String> {
    let bytes = Zeroizing::new([key.as_slice(), check_digits(key).as_slice()].concat());
    let letters = Zeroizing::new(BASE32.encode(&bytes));
    let mut text = Zeroizing::new(String::with_capacity(RECOVERY_PREFIX.len() + letters.len() * 5 / GROUP_LEN));
    text.push_str(RECOVERY_PREFIX);
    for (at, letter) in letters.chars().enumerate() {
        if at > 0 && at % GROUP_LEN == 0 {
            text.push('-');
        }
        text.push(letter);
    }
    text
}

/// Case, white space and dashes after the prefix do not matter.
fn recovery_from_text(text: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let invalid = |reason: &str| Error::invalid("recovery key", reason);
    let letters = text.get(RECOVERY_PREFIX.len()..).unwrap_or_default();
    let letters: Vec<u8> =
        letters.iter().filter(|b| !b.is_ascii_whitespace() && **b != b'-').map(u8::to_ascii_uppercase).collect();
    let bytes = BASE32.decode(&Zeroizing::new(letters)).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| invalid("it has a character or a length that cannot be"))?;
    let key = bytes.first_chunk::<32>().copied().map(Zeroizing::new).ok_or_else(|| invalid("it is too short"))?;
    if bytes.get(32..) != Some(check_digits(&key).as_slice()) {
        return Err(invalid("its check digits are wrong: it was mistyped"));
    }
    Ok(key)
}

fn check_digits(key: &[u8; 32]) -> [u8; CHECK_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"nightkeep recovery").update(key);
    hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
}

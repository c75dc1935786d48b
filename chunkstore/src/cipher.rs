//! The repository's two AEAD suites with counters as nonces: the one place that calls them.
//!
//! A counter must be used once per key; who holds the key sees to it.

use crate::configuration::Suite;
use crate::error::{Error, Result};
use crate::record::AUTHENTICATOR_LEN;
use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

pub(crate) struct Cipher {
    key: LessSafeKey,
}

impl Cipher {
    /// Bytes that sealing adds.
    pub const OVERHEAD: usize = AUTHENTICATOR_LEN;

    pub fn new(suite: Suite, key: &[u8; 32]) -> Result<Cipher> {
        let algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| Error::invalid("cipher", "the key is not accepted"))?;
        Ok(Cipher { key: LessSafeKey::new(key) })
    }

    /// Seals the bytes from `start` on in place, with those before as associated data, and appends the authenticator.
    pub fn seal(&self, counter: u64, bytes: &mut Vec<u8>, start: usize) -> Result<()> {
        let refused = || Error::invalid("cipher", "the text is too long");
        let (associated, text) = bytes.split_at_mut_checked(start).ok_or_else(refused)?;
        let authenticator = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(&*associated), text)
            .map_err(|_| refused())?;
        bytes.extend_from_slice(authenticator.as_ref());
        Ok(())
    }

    /// `None` if a byte of `sealed` or `associated` is not what was sealed.
    pub fn open(&self, counter: u64, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        self.open_into(counter, associated, sealed, &mut plain)?;
        Some(plain)
    }

    /// As [`Cipher::open`], into the beginning of a buffer, which grows if it must and keeps what it had behind.
    pub fn open_into<'a>(
        &self,
        counter: u64,
        associated: &[u8],
        sealed: &[u8],
        buffer: &'a mut Vec<u8>,
    ) -> Option<&'a [u8]> {
        let (text, authenticator) = sealed.split_at_checked(sealed.len().checked_sub(AUTHENTICATOR_LEN)?)?;
        if buffer.len() < text.len() {
            buffer.resize(text.len(), 0);
        }
        let plain = buffer.get_mut(..text.len())?;
        self.key.open_separate_gather(nonce(counter), Aad::from(associated), text, authenticator, plain).ok()?;
        Some(plain)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    if let Some(tail) = bytes.last_chunk_mut() {
        *tail = counter.to_le_bytes();
    }
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with another library: the nonce is four zeros and the counter, the authenticator comes last.
    #[test]
    fn known_ciphertexts() {
        let key = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let known = [
            (Suite::Aes256Gcm, "689d8731b6a8823501c3a786ba72cdd92e117ff5"),
            (Suite::ChaCha20Poly1305, "842cd590914a7525691005ec836269a04afc162e"),
        ];
        for (suite, expected) in known {
            let cipher = Cipher::new(suite, &key).unwrap();
            let mut bytes = b"headtext".to_vec();
            cipher.seal(0x0102_0304_0506_0708, &mut bytes, 4).unwrap();
            assert_eq!(&bytes[..4], b"head");
            assert_eq!(data_encoding::HEXLOWER.encode(&bytes[4..]), expected);
            assert_eq!(cipher.open(0x0102_0304_0506_0708, b"head", &bytes[4..]).unwrap(), b"text");
        }
    }
}

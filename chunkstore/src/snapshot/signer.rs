//! Who writes: an Ed25519 key pair per machine, or per server. It proves no right to anything; it tells one line of snapshots from another.

use crate::error::{Error, Result};
use crate::key::random;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use std::io;
use zeroize::Zeroizing;

/// Signs snapshots: the identity of one writing machine (Ed25519).
pub struct Writer {
    pair: Ed25519KeyPair,
    public_key: [u8; 32],
}

impl Writer {
    /// A new identity and its PKCS#8 form, to be kept secret. Its seed is the system's: the library's own numbers would take 40 ms to begin with.
    pub fn generate() -> Result<(Writer, Zeroizing<Vec<u8>>)> {
        let refused = || Error::io("make", "a writer's key", io::Error::other("the cryptographic library refused"));
        let seed = random::<32>()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map_err(|_| refused())?;
        let bytes = Zeroizing::new(pair.to_pkcs8().map_err(|_| refused())?.as_ref().to_vec());
        Ok((Writer::from_pkcs8(&bytes)?, bytes))
    }

    pub fn from_pkcs8(bytes: &[u8]) -> Result<Writer> {
        let unusable = |reason: String| Error::invalid("the writer's key", reason);
        let pair = Ed25519KeyPair::from_pkcs8(bytes).map_err(|error| unusable(error.to_string()))?;
        let public_key = pair.public_key().as_ref().try_into();
        let public_key = public_key.map_err(|_| unusable("its public half is no Ed25519 key".into()))?;
        Ok(Writer { pair, public_key })
    }

    pub fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let signature = self.pair.try_sign(bytes).map_err(|_| Error::invalid("snapshot", "it could not be signed"))?;
        Ok(signature.as_ref().to_vec())
    }
}

pub(crate) fn is_signed(public_key: &[u8; 32], bytes: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(bytes, signature).is_ok()
}

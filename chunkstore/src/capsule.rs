//! A session key, sealed to the repository's recipients (`docs/format.md`, section 7).

use crate::error::Result;
use crate::id::{CapsuleId, RepositoryId};
use crate::key::{OpeningKey, Recipient};
use zeroize::Zeroizing;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capsule {
    pub id: CapsuleId,
    pub bytes: Vec<u8>,
}

impl Capsule {
    /// Well-formedness only.
    pub fn parse(bytes: Vec<u8>, repository: &RepositoryId) -> Result<Capsule> {
        let _ = (bytes, repository);
        todo!()
    }

    pub fn seal(session_key: &[u8; 32], repository: &RepositoryId, recipients: &[Recipient]) -> Result<Capsule> {
        let _ = (session_key, repository, recipients);
        todo!()
    }

    pub fn open(&self, repository: &RepositoryId, key: &OpeningKey) -> Result<Zeroizing<[u8; 32]>> {
        let _ = (repository, key);
        todo!()
    }
}

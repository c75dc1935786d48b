//! Who a node is: an Ed25519 key, its text, its form in TLS (`docs/protocol.md`, section 1).

use crate::error::{Error, Result};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::Encoding;
use std::fmt;
use zeroize::Zeroizing;

/// SubjectPublicKeyInfo of an Ed25519 key, up to the key.
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const PREFIX: &str = "nkn1-";
const CHECK_LEN: usize = 3;

/// A node's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    pub fn from_text(text: &str) -> Result<NodeId> {
        let bad = |reason: &str| Error::violation(format!("`{text}` is not a node's key: {reason}"));
        let coded = text.strip_prefix(PREFIX).ok_or_else(|| bad("it does not begin with nkn1-"))?;
        let bytes = base32().decode(coded.as_bytes()).map_err(|_| bad("it is mistyped"))?;
        let (key, check) = bytes.split_first_chunk::<32>().ok_or_else(|| bad("it is too short"))?;
        let id = NodeId(*key);
        if check == id.check() { Ok(id) } else { Err(bad("it is mistyped")) }
    }

    pub fn from_spki(spki: &[u8]) -> Option<NodeId> {
        spki.strip_prefix(&SPKI_HEAD).and_then(|key| key.try_into().ok()).map(NodeId)
    }

    pub fn to_spki(self) -> Vec<u8> {
        [&SPKI_HEAD[..], &self.0].concat()
    }

    fn check(&self) -> [u8; CHECK_LEN] {
        let hash = blake3::hash(&[&b"nightkeep v1 node"[..], &self.0].concat());
        hash.as_bytes().first_chunk().copied().unwrap_or_default()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", base32().encode(&[&self.0[..], &self.check()].concat()))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A node's key pair. Has no `Debug`; its bytes are wiped.
pub struct NodeKey {
    pkcs8: Zeroizing<Vec<u8>>,
    id: NodeId,
}

impl NodeKey {
    pub fn generate() -> Result<NodeKey> {
        let pair = Ed25519KeyPair::generate().map_err(|_| Error::violation("no random key could be made"))?;
        let pkcs8 = pair.to_pkcs8().map_err(|_| Error::violation("a key could not be written"))?;
        NodeKey::from_pkcs8(Zeroizing::new(pkcs8.as_ref().to_vec()))
    }

    pub fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<NodeKey> {
        let bad = || Error::violation("the file of this node's key does not hold one");
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| bad())?;
        let id = NodeId(pair.public_key().as_ref().try_into().map_err(|_| bad())?);
        Ok(NodeKey { pkcs8, id })
    }

    pub fn id(&self) -> NodeId {
        self.id
    }

    /// PKCS #8, to be kept where only its owner reads.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

/// RFC 4648, small letters, no padding; capitals are understood.
pub(crate) fn base32() -> Encoding {
    let mut specification = data_encoding::Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.translate.from.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    specification.translate.to.push_str("abcdefghijklmnopqrstuvwxyz");
    specification.encoding().unwrap_or(data_encoding::BASE32_NOPAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_its_text() {
        let id = NodeKey::generate().unwrap().id();
        let text = id.to_string();
        assert_eq!((text.len(), &text[..5]), (5 + 56, "nkn1-"));
        assert_eq!(NodeId::from_text(&text).unwrap(), id);
        assert_eq!(NodeId::from_text(&format!("nkn1-{}", text[5..].to_uppercase())).unwrap(), id);
        for at in 0..text.len() {
            let mut typed = text.clone().into_bytes();
            typed[at] = if typed[at] == b'b' { b'c' } else { b'b' };
            assert!(NodeId::from_text(std::str::from_utf8(&typed).unwrap()).is_err(), "letter {at}");
            assert!(NodeId::from_text(&text[..at]).is_err());
        }
    }

    #[test]
    fn known_text_and_spki() {
        let id = NodeId(std::array::from_fn(|at| u8::try_from(at).unwrap()));
        assert_eq!(id.to_string(), "nkn1-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dyproped");
        let spki = id.to_spki();
        assert_eq!(data_encoding::HEXLOWER.encode(&spki[..14]), "302a300506032b65700321000001");
        assert_eq!(NodeId::from_spki(&spki), Some(id));
        assert_eq!(NodeId::from_spki(&spki[1..]), None);
        assert_eq!(NodeId::from_spki(&[&spki[..], &[0]].concat()), None);
    }

    #[test]
    fn keys_are_kept_as_pkcs8() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_pkcs8(Zeroizing::new(key.to_pkcs8().to_vec())).unwrap();
        assert_eq!(again.id(), key.id());
        assert!(NodeKey::from_pkcs8(Zeroizing::new(b"no key".to_vec())).is_err());
    }
}

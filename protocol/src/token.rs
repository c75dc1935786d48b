//! An invitation as text, and the proof that somebody holds it (`docs/protocol.md`, section 3).

use crate::error::{Error, Result};
use crate::identity::{NodeId, base32};
use crate::message::{PATTERN_BYTES_MAX, REPOSITORY_BYTES_MAX};
use chunkstore::coding::{Decoder, Encoder};
use zeroize::Zeroizing;

/// What TLS's exporter is asked for.
pub const EXPORTER_LABEL: &[u8] = b"nightkeep enrolment";

const PREFIX: &str = "nk1";
const VERSION: u8 = 1;
const CHECK_LEN: usize = 4;

/// Whoever holds it may enrol, once. Has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub server: NodeId,
    pub invitation: [u8; 8],
    pub secret: Zeroizing<[u8; 16]>,
    /// Seconds since 1970.
    pub expires: i64,
    /// HOST:PORT
    pub address: String,
    pub repository: String,
}

impl Token {
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut e = Encoder::new();
        e.u8(VERSION).raw(&self.server.0).raw(&self.invitation).raw(self.secret.as_slice()).i64(self.expires);
        e.bytes(self.address.as_bytes()).bytes(self.repository.as_bytes());
        let check = check(&e.bytes);
        e.raw(&check);
        Zeroizing::new(format!("{PREFIX}{}", base32().encode(&e.bytes)))
    }

    pub fn from_text(text: &str) -> Result<Token> {
        let bad = |reason: &str| Error::violation(format!("this is not a token of `nightkeepd invite`: {reason}"));
        let coded = text.trim().strip_prefix(PREFIX).ok_or_else(|| bad("it does not begin with nk1"))?;
        let bytes = base32().decode(coded.as_bytes()).map_err(|_| bad("it is mistyped or cut off"))?;
        match bytes.split_last_chunk::<CHECK_LEN>() {
            Some((checked, given)) if check(checked) == *given => {
                Token::decode(checked).map_err(|error| bad(&error.to_string()))
            }
            _ => Err(bad("it is mistyped or cut off")),
        }
    }

    /// What proves in this connection that its holder is `client`. `exported` is what TLS exports under [`EXPORTER_LABEL`].
    pub fn proof(secret: &[u8; 16], exported: &[u8; 32], client: NodeId) -> blake3::Hash {
        let key = Zeroizing::new(blake3::derive_key("nightkeep v1 enrolment", secret));
        blake3::keyed_hash(&key, &[&exported[..], &client.0].concat())
    }

    fn decode(bytes: &[u8]) -> chunkstore::Result<Token> {
        let mut d = Decoder::new(bytes, "its content");
        if d.u8()? != VERSION {
            return Err(d.corrupt("a newer version is needed"));
        }
        let (server, invitation) = (NodeId(d.array()?), d.array()?);
        let (secret, expires) = (Zeroizing::new(d.array()?), d.i64()?);
        let mut text = |limit, what| {
            let bytes = d.bytes(limit, what)?;
            str::from_utf8(bytes).map(str::to_owned).map_err(|_| d.corrupt(format!("its {what} is no text")))
        };
        let address = text(PATTERN_BYTES_MAX, "address")?;
        let repository = text(REPOSITORY_BYTES_MAX, "repository")?;
        d.finish()?;
        Ok(Token { server, invitation, secret, expires, address, repository })
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK_LEN] {
    let hash = blake3::hash(&[&b"nightkeep v1 token"[..], bytes].concat());
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            server: NodeId([1; 32]),
            invitation: [2; 8],
            secret: Zeroizing::new([3; 16]),
            expires: 1_800_000_000,
            address: "backup.example.org:4747".into(),
            repository: "office".into(),
        }
    }

    #[test]
    fn a_token_survives_its_text_and_no_mistyping() {
        let text = token().to_text();
        assert!(text.starts_with("nk1"));
        assert!(Token::from_text(&text).unwrap() == token());
        assert!(Token::from_text(&format!(" {}\n", *text)).unwrap() == token());
        for at in 0..text.len() {
            let mut typed = text.as_bytes().to_vec();
            typed[at] = if typed[at] == b'b' { b'c' } else { b'b' };
            assert!(Token::from_text(std::str::from_utf8(&typed).unwrap()).is_err(), "letter {at}");
            assert!(Token::from_text(&text[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn known_token_and_proof() {
        assert_eq!(
            &*token().to_text(),
            "nk1aeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaqcaibaeaqcaibqgaydambqgaydambqgaydambqbusjnmaaaaaac5rgcy3lovyc4zlymfwxa3dffzxxezz2gq3tinygn5tgm2ldmvz2b64e"
        );
        let proof = Token::proof(&[3; 16], &[4; 32], NodeId([5; 32]));
        assert_eq!(proof.to_hex().as_str(), "e521e3e0513fb6db500391b1248c2a175c6bd1af3f4d023c1b60030650198ddf");
        assert_ne!(proof, Token::proof(&[3; 16], &[5; 32], NodeId([5; 32])), "another connection");
        assert_ne!(proof, Token::proof(&[3; 16], &[4; 32], NodeId([6; 32])), "another client");
        assert_ne!(proof, Token::proof(&[4; 16], &[4; 32], NodeId([5; 32])), "another secret");
    }
}

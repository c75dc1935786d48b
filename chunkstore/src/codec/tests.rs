//! Records made and opened, and each way in which one may not open.

use super::*;
use crate::configuration::Kem;
use crate::id::RepositoryId;
use crate::record::Class;

const REPOSITORY: RepositoryId = RepositoryId([9; 16]);

/// Keys, session and reader of one repository.
struct Setup {
    keys: Keys,
    sealer: Sealer,
    opener: Opener,
}

fn setup(suite: Suite) -> Setup {
    let mut configuration = Configuration::new(REPOSITORY, 0);
    configuration.suite = suite;
    configuration.kem = Kem::X25519;
    let keys = Keys::generate(&configuration).unwrap();
    let sealer = Sealer::new(&keys.write, &configuration).unwrap();
    let opener = Opener::new(&keys, &configuration).unwrap();
    Setup { keys, sealer, opener }
}

fn no_base(id: BlobId) -> Result<Vec<u8>> {
    Err(Error::missing(id.hex()))
}

impl Setup {
    fn seal(&self, kind: Kind, content: &[u8], links: &[BlobId]) -> Record {
        self.sealer.seal(kind, self.keys.write.tag(kind, content), content, links).unwrap()
    }

    fn open(&self, record: &Record, kind: Kind) -> Result<Vec<u8>> {
        self.opener.open(record, kind, &|_| Ok(self.sealer.capsule.clone()), &no_base)
    }
}

/// Text-like: repeats with variations.
fn compressible(len: usize, seed: u64) -> Vec<u8> {
    let lines = (seed..).map(|n| format!("INSERT INTO t VALUES ({n}, 'name {}', {});\n", n % 97, n * n % 1009));
    lines.flat_map(String::into_bytes).take(len).collect()
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn content_survives_in_both_suites() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let s = setup(suite);
        for content in [vec![], vec![7], compressible(70_000, 1), noise(70_000, 1), vec![0; 1 << 20]] {
            let record = s.seal(Kind::Chunk, &content, &[]);
            assert_eq!(s.open(&record, Kind::Chunk).unwrap(), content);
            let again = Record::parse(record.bytes.clone(), &REPOSITORY).unwrap();
            assert_eq!((again.id, again.tag, again.class), (record.id, record.tag, Class::Data));
        }
    }
}

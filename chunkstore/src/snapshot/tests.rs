//! Snapshots made, read back, and damaged in every place.

use super::*;
use crate::configuration::{Configuration, Kem, Suite};
use crate::id::{BlobId, HalfTag, Reference, RunId};
use crate::key::Keys;
use proptest::prelude::*;

const REPOSITORY: RepositoryId = RepositoryId([5; 16]);

struct Setup {
    keys: Keys,
    sealer: Sealer,
    opener: Opener,
    writer: Writer,
}

fn setup_with(suite: Suite, kem: Kem) -> Setup {
    let configuration = Configuration { suite, kem, ..Configuration::new(REPOSITORY, 0) };
    let keys = Keys::generate(&configuration).unwrap();
    let sealer = Sealer::new(&keys.write, &configuration).unwrap();
    let opener = Opener::new(&keys, &configuration).unwrap();
    let (writer, _) = Writer::generate().unwrap();
    Setup { keys, sealer, opener, writer }
}

fn setup() -> Setup {
    setup_with(Suite::Aes256Gcm, Kem::X25519)
}

impl Setup {
    fn summary(&self) -> Summary {
        Summary {
            repository: REPOSITORY,
            run: RunId([1; 16]),
            dataset: "host/files/root".into(),
            time: 1_700_000_000_123_456_789,
            incomplete: false,
            root: Reference { id: BlobId([2; 32]), tag: HalfTag([3; 16]) },
            writer: self.writer.public_key(),
            sequence: 7,
            previous: Some(SnapshotId([3; 32])),
            labels: vec!["weekly".into(), "ö".into()],
            totals: Totals { files: 1, directories: 2, others: 3, content_bytes: 400, added_bytes: u64::MAX },
        }
    }

    fn seal(&self, summary: Summary, details: &Details) -> Result<Snapshot> {
        Snapshot::seal(summary, details, &self.sealer, &self.writer)
    }
}

fn details() -> Details {
    Details {
        host: b"host".to_vec(),
        paths: vec![b"/etc".to_vec(), b"/h\xff".to_vec()],
        started: -1,
        finished: 2,
        program: "nightkeep 0.1.0".into(),
        facts: vec![("exclude".into(), b"*.o".to_vec()), ("command".into(), vec![])],
    }
}

fn is_invalid(result: Result<Snapshot>) -> bool {
    matches!(result, Err(Error::Invalid { .. }))
}

#[test]
fn round_trip_in_all_suites() {
    for (suite, kem) in [(Suite::Aes256Gcm, Kem::XWing), (Suite::ChaCha20Poly1305, Kem::X25519)] {
        let s = setup_with(suite, kem);
        let snapshot = s.seal(s.summary(), &details()).unwrap();
        assert_eq!(snapshot.id.0, *blake3::hash(&snapshot.bytes).as_bytes());
        let parsed = Snapshot::parse(snapshot.bytes.clone(), &REPOSITORY).unwrap();
        assert_eq!(parsed.summary, s.summary());
        assert_eq!(parsed.id, snapshot.id);
        parsed.authenticate(&s.keys.write).unwrap();
        assert_eq!(parsed.details(&s.opener).unwrap(), details());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_values_round_trip(
        numbers: [u64; 6], times: [i64; 3], incomplete: bool, root: [u8; 32],
        previous in prop::option::of(any::<[u8; 32]>()),
        labels in prop::collection::vec("[a-z ]{1,20}", 0..5),
        paths in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5),
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5),
    ) {
        let s = setup();
        let [files, directories, others, content_bytes, added_bytes, sequence] = numbers;
        let summary = Summary {
            time: times[0],
            incomplete,
            root: Reference { id: BlobId(root), tag: HalfTag([3; 16]) },
            sequence,
            previous: previous.map(SnapshotId),
            labels,
            totals: Totals { files, directories, others, content_bytes, added_bytes },
            ..s.summary()
        };
        let details = Details {
            paths,
            started: times[1],
            finished: times[2],
            facts: values.into_iter().enumerate().map(|(n, value)| (format!("fact.{n}"), value)).collect(),
            ..details()
        };
        let snapshot = s.seal(summary.clone(), &details).unwrap();
        prop_assert_eq!(&snapshot.summary, &summary);
        prop_assert_eq!(snapshot.details(&s.opener).unwrap(), details);
    }
}

#[test]
fn every_damage_is_refused_without_a_key() {
    let s = setup();
    let snapshot = s.seal(s.summary(), &details()).unwrap();
    let refused = |bytes: Vec<u8>| matches!(Snapshot::parse(bytes, &REPOSITORY), Err(Error::Corrupt { .. }));
    for at in 0..snapshot.bytes.len() {
        assert!(refused(snapshot.bytes[..at].to_vec()), "cut at {at}");
        for bit in 0..8 {
            let mut flipped = snapshot.bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(refused(flipped), "byte {at} bit {bit}");
        }
    }
    assert!(refused([&snapshot.bytes[..], &[0]].concat()));
    assert!(refused(vec![0; OBJECT_BYTES_MAX + 1]));
    assert!(Snapshot::parse(snapshot.bytes, &RepositoryId([6; 16])).is_err(), "another repository's");
}

/// Whoever can sign but holds no key of the repository: signs anew what it changed.
#[test]
fn a_strangers_signature_does_not_authenticate() {
    let s = setup();
    let snapshot = s.seal(s.summary(), &details()).unwrap();
    let signed_len = snapshot.bytes.len() - SIGNATURE_LEN;
    let sealed_len = details().encode().len() + Sealer::DETAILS_OVERHEAD;
    let mut sealed_accepted = 0;
    for at in (0..signed_len).step_by(3) {
        let mut bytes = snapshot.bytes[..signed_len].to_vec();
        bytes[at] ^= 1;
        let signature = s.writer.sign(&bytes).unwrap();
        bytes.extend_from_slice(&signature);
        let Ok(parsed) = Snapshot::parse(bytes, &REPOSITORY) else { continue };
        assert!(parsed.authenticate(&s.keys.write).is_err(), "byte {at}");
        if at < signed_len - MAC_LEN {
            assert!(parsed.details(&s.opener).is_err(), "byte {at}");
        }
        sealed_accepted += 1;
    }
    assert!(sealed_accepted > sealed_len / 3, "form cannot see what is sealed");
    assert!(snapshot.authenticate(&setup().keys.write).is_err(), "another repository's key");
    assert!(snapshot.details(&setup().opener).is_err(), "another repository's key");
}

/// Lengths are exact, whoever signs.
#[test]
fn bytes_too_many_are_refused_although_signed() {
    let s = setup();
    let snapshot = s.seal(s.summary(), &details()).unwrap();
    let mac_at = snapshot.bytes.len() - SIGNATURE_LEN - MAC_LEN;
    let signed = |before: &[u8]| {
        let mut bytes = before.to_vec();
        bytes.extend_from_slice(blake3::keyed_hash(&s.keys.write.snapshot, before).as_bytes());
        bytes.extend_from_slice(&s.writer.sign(&bytes).unwrap());
        Snapshot::parse(bytes, &REPOSITORY)
    };
    let before = &snapshot.bytes[..mac_at];
    signed(before).unwrap();
    assert!(signed(&[before, &[0]].concat()).is_err());
    assert!(signed(&before[..mac_at - 1]).is_err());
}

#[test]
fn the_writer_must_be_the_one_named() {
    let s = setup();
    assert!(is_invalid(s.seal(Summary { writer: [1; 32], ..s.summary() }, &details())));
    assert!(is_invalid(s.seal(Summary { writer: setup().writer.public_key(), ..s.summary() }, &details())));
}

#[test]
fn what_could_not_be_read_back_is_not_sealed() {
    let s = setup();
    let summary = || s.summary();
    let seal = |summary, details: &Details| s.seal(summary, details);
    assert!(is_invalid(seal(Summary { dataset: "a/b".into(), ..summary() }, &details())));
    assert!(is_invalid(seal(Summary { labels: vec![String::new()], ..summary() }, &details())));
    assert!(is_invalid(seal(Summary { labels: vec!["l".into(); 4097], ..summary() }, &details())));
    assert!(is_invalid(seal(Summary { labels: vec!["l".repeat(65_537)], ..summary() }, &details())));
    assert!(is_invalid(seal(Summary { previous: Some(SnapshotId::default()), ..summary() }, &details())));
    assert!(is_invalid(seal(Summary { repository: RepositoryId([6; 16]), ..summary() }, &details())));
    let paths = |paths| Details { paths, ..details() };
    assert!(seal(summary(), &paths(vec![vec![b'p'; 65_536]; 10])).is_ok());
    assert!(is_invalid(seal(summary(), &paths(vec![vec![b'p'; 65_537]]))));
    assert!(is_invalid(seal(summary(), &paths(vec![vec![b'p']; 4097]))));
    assert!(is_invalid(seal(summary(), &paths(vec![vec![b'p'; 65_536]; 16]))), "more than 1 MiB");
    let facts =
        |keys: &[&str]| Details { facts: keys.iter().map(|key| ((*key).into(), vec![])).collect(), ..details() };
    assert!(seal(summary(), &facts(&["b", "a"])).is_ok());
    assert!(is_invalid(seal(summary(), &facts(&["a", "a"]))), "twice");
    assert!(is_invalid(seal(summary(), &facts(&["ä"]))));
    assert!(is_invalid(seal(summary(), &facts(&[""]))));
}

#[test]
fn datasets() {
    for good in ["host/files/root", "h.example.org/postgres/my db-ö@x", "a/b/...", &format!("a/b/{}", "c".repeat(255))]
    {
        validate_dataset(good).unwrap();
    }
    let long = format!("a/b/{}", "c".repeat(256));
    for bad in ["", "a", "a/b", "a/b/c/d", "/b/c", "a//c", "a/b/", "a/b/..", "./b/c", "a/b/c\n", "a/b/\u{7f}", &long] {
        assert!(matches!(validate_dataset(bad), Err(Error::Invalid { .. })), "{bad:?}");
    }
}

#[test]
fn a_writer_survives_storage() {
    let (writer, bytes) = Writer::generate().unwrap();
    let again = Writer::from_pkcs8(&bytes).unwrap();
    assert_eq!(again.public_key(), writer.public_key());
    let signature = again.sign(b"text").unwrap();
    assert!(is_signed(&writer.public_key(), b"text", &signature));
    assert!(!is_signed(&writer.public_key(), b"Text", &signature));
    assert!(Writer::from_pkcs8(&bytes[..bytes.len() - 1]).is_err());
    assert!(Writer::from_pkcs8(b"").is_err());
}

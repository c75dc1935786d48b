//! Records made and opened, and each way in which one may not open.

use super::*;
use crate::configuration::Kem;
use crate::id::RepositoryId;
use crate::record::Class;
use proptest::prelude::*;

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

fn no_base(id: BlobId) -> Result<Arc<Vec<u8>>> {
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

#[test]
fn what_compresses_is_compressed_and_what_does_not_is_raw() {
    let s = setup(Suite::Aes256Gcm);
    assert!(s.seal(Kind::Chunk, &compressible(65_536, 1), &[]).bytes.len() < 65_536 / 2);
    let raw = s.seal(Kind::Chunk, &noise(65_536, 1), &[]);
    assert_eq!(raw.bytes.len(), Record::HEADER_LEN + pad::padded_len(10 + 65_536) + 16);
    let opened = s.sealer.cipher.open(raw.counter, raw.split().unwrap().0, raw.split().unwrap().1).unwrap();
    assert_eq!(opened[..2], [1, 0]);
}

#[test]
fn what_is_not_the_content_of_its_tag_is_not_sealed() {
    let s = setup(Suite::Aes256Gcm);
    let [content, other] = [1, 2].map(|seed| compressible(65_536, seed));
    let tag = s.keys.write.tag(Kind::Chunk, &other);
    let bases = Bases::new(vec![(BlobId([1; 32]), Arc::new(compressible(65_536, 3)))]);
    let sealed = [
        s.sealer.seal(Kind::Chunk, tag, &content, &[]),
        s.sealer.seal(Kind::Tree, tag, &other, &[]),
        s.sealer.seal_chunk(tag, &noise(65_536, 1), Level::FASTEST),
        s.sealer.seal_similar(tag, &content, &bases, false, &mut Differ::default()),
    ];
    for record in sealed {
        assert!(record.is_err_and(|error| error.to_string().contains("a record just sealed")));
    }
}

#[test]
fn levels_are_honoured_and_make_no_difference_to_names_and_readers() {
    let s = setup(Suite::Aes256Gcm);
    let content = compressible(65_536, 1);
    let base = s.seal(Kind::Chunk, &compressible(65_536, 40), &[]);
    let bases = Bases::new(vec![(base.id, Arc::new(compressible(65_536, 40)))]);
    let mut sizes = Vec::new();
    for level in [Level::RAW, Level::FASTEST, Level::new(6).unwrap(), Level::MAX] {
        s.sealer.set_level(level);
        for kind in [Kind::Chunk, Kind::Tree] {
            let record = s.seal(kind, &content, &[]);
            assert_eq!(s.open(&record, kind).unwrap(), content);
            assert_eq!(record.tag, s.keys.write.tag(kind, &content));
            sizes.push(record.bytes.len());
        }
        let tag = s.keys.write.tag(Kind::Chunk, &content);
        let similar = s.sealer.seal_similar(tag, &content, &bases, false, &mut Differ::default()).unwrap();
        assert_eq!(similar.links.is_empty(), level == Level::RAW, "a delta is compressed too");
        let least = s.sealer.seal_chunk(tag, &content, Level::MAX).unwrap();
        assert_eq!(s.open(&least, Kind::Chunk).unwrap(), content);
        let is_better = least.bytes.len() < s.seal(Kind::Chunk, &content, &[]).bytes.len();
        let can_be = level != Level::RAW && level != Level::MAX;
        assert_eq!(is_better, can_be, "at least so well, but not where nothing is to be compressed");
        // What cannot be compressed is raw at each level.
        let raw = s.seal(Kind::Chunk, &noise(65_536, 1), &[]);
        assert!(raw.bytes.len() > 65_536);
    }
    assert!(sizes.chunks(2).is_sorted_by(|a, b| a[0] > b[0] && a[1] > b[1]), "{sizes:?}");
    assert_eq!([0, 1, 19, 20].map(|level| Level::new(level).map(Level::number)), [None, Some(1), Some(19), None]);
}

#[test]
fn links_are_sorted_and_unique_whatever_the_order() {
    let s = setup(Suite::Aes256Gcm);
    let [a, b, c] = [1, 2, 3].map(|n| BlobId([n; 32]));
    let record = s.seal(Kind::Tree, b"a node", &[c, a, b, a]);
    assert_eq!(record.links, [a, b, c]);
    assert_eq!(record.class, Class::Node);
    assert_eq!(s.open(&record, Kind::Tree).unwrap(), b"a node");
}

#[test]
fn a_kind_is_never_taken_for_another() {
    let s = setup(Suite::Aes256Gcm);
    let kinds = [Kind::Chunk, Kind::List, Kind::Tree];
    for (kind, other) in kinds.iter().flat_map(|a| kinds.iter().map(move |b| (*a, *b))) {
        let record = s.seal(kind, b"the same", &[]);
        assert_eq!(s.open(&record, other).is_ok(), kind == other, "{kind:?} as {other:?}");
    }
    assert_ne!(s.opener.tag(Kind::List, b"x"), s.opener.tag(Kind::Tree, b"x"));
}

#[test]
fn each_truncation_and_each_flipped_bit_of_a_record_is_refused() {
    let s = setup(Suite::Aes256Gcm);
    let good = s.seal(Kind::Tree, &compressible(200, 1), &[BlobId([1; 32]), BlobId([2; 32])]);
    for at in 0..good.bytes.len() {
        assert!(Record::parse(good.bytes[..at].to_vec(), &REPOSITORY).is_err(), "{at}");
        for bit in 0..8 {
            let mut bytes = good.bytes.clone();
            bytes[at] ^= 1 << bit;
            let Ok(record) = Record::parse(bytes, &REPOSITORY) else { continue };
            // Who looks for the id does not find it; and who made the flipped record up, its own id with it, has no key.
            assert_ne!(record.id, good.id);
            let opened = s.open(&record, Kind::Tree);
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "byte {at} bit {bit}: {opened:?}");
            let opened = open_record(&s.sealer.cipher, Some(&s.keys.write), &record, Kind::Tree, &no_base);
            assert!(opened.is_err(), "byte {at} bit {bit} is not bound by the seal");
        }
    }
}

/// A record around any payload, as someone with the keys but another program could make it.
fn forge(s: &Setup, kind: Kind, tag: Tag, links: &[BlobId], payload: &[u8]) -> Record {
    let header = Header {
        suite: s.sealer.suite,
        class: kind.class(),
        capsule: s.sealer.capsule.id,
        counter: s.sealer.next_counter().unwrap(),
        links_len: links.len() * BlobId::LEN,
        payload_len: payload.len() + AUTHENTICATOR_LEN,
        repository: REPOSITORY,
        tag,
    };
    let mut bytes = header.encode(links).unwrap();
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    s.sealer.cipher.seal(header.counter, &mut bytes, start).unwrap();
    Record::parse(bytes, &REPOSITORY).unwrap()
}

fn payload(kind: u8, codec: u8, plain_len: usize, body: &[u8], padding: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, codec];
    bytes.extend(u32::try_from(plain_len).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    [&bytes, body, padding].concat()
}

#[test]
fn the_payload_is_that_of_the_format() {
    let s = setup(Suite::Aes256Gcm);
    let tag = s.opener.tag(Kind::Chunk, b"abc");
    let record = forge(&s, Kind::Chunk, tag, &[], &payload(1, 0, 3, b"abc", &[0; 5]));
    assert_eq!(s.open(&record, Kind::Chunk).unwrap(), b"abc");
    let frame = zstd::bulk::compress(b"abc", 19).unwrap();
    let record = forge(&s, Kind::Chunk, tag, &[], &payload(1, 1, 3, &frame, &[]));
    assert_eq!(s.open(&record, Kind::Chunk).unwrap(), b"abc");
}

#[test]
fn strange_payloads_of_key_holders_are_refused() {
    let s = setup(Suite::Aes256Gcm);
    let tag = s.opener.tag(Kind::Chunk, b"abc");
    let frame = zstd::bulk::compress(b"abc", 1).unwrap();
    let streamed = zstd::stream::encode_all(&b"abc"[..], 1).unwrap();
    assert!(matches!(zstd::zstd_safe::get_frame_content_size(&streamed), Ok(None)));
    let empty_frame = zstd::bulk::compress(b"", 1).unwrap();
    let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &[1, 0, 0, 0, 9]].concat();
    let bomb = zstd::bulk::compress(&vec![0; 17 << 20], 1).unwrap();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("kind 0", payload(0, 0, 3, b"abc", &[])),
        ("kind 4", payload(4, 0, 3, b"abc", &[])),
        ("codec 3", payload(1, 3, 3, b"abc", &[])),
        ("raw, shorter than said", payload(1, 0, 4, b"abc", &[])),
        ("raw, longer than said", payload(1, 0, 2, b"abc", &[])),
        ("padding", payload(1, 0, 3, b"abc", &[0, 0, 1])),
        ("body beyond the end", payload(1, 0, 3, b"abc", &[])[..12].to_vec()),
        ("zstd, shorter than said", payload(1, 1, 4, &frame, &[])),
        ("zstd, longer than said", payload(1, 1, 2, &frame, &[])),
        ("zstd without length, shorter than said", payload(1, 1, 4, &streamed, &[])),
        ("zstd without length, longer than said", payload(1, 1, 2, &streamed, &[])),
        ("no zstd", payload(1, 1, 3, b"abc", &[])),
        ("two frames", payload(1, 1, 3, &[frame.as_slice(), &empty_frame].concat(), &[])),
        ("a frame to skip", payload(1, 1, 3, &[skippable.as_slice(), &frame].concat(), &[])),
        ("bytes after the frame", payload(1, 1, 3, &[frame.as_slice(), &[0]].concat(), &[])),
        ("half a frame", payload(1, 1, 3, &frame[..frame.len() - 1], &[])),
        ("a bomb", payload(1, 1, 3, &bomb, &[])),
        ("a delta without bases", payload(1, 2, 3, &[&[0], frame.as_slice()].concat(), &[])),
        ("a delta with half a base", payload(1, 2, 3, &[1; 20], &[])),
        ("an empty delta", payload(1, 2, 3, &[], &[])),
    ];
    for (what, payload) in cases {
        let opened = s.open(&forge(&s, Kind::Chunk, tag, &[], &payload), Kind::Chunk);
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "{what}: {opened:?}");
    }
    let much = vec![0; 17 << 20];
    for payload in [payload(1, 1, much.len(), &bomb, &[]), payload(1, 0, much.len(), &much, &[])] {
        let record = forge(&s, Kind::Chunk, s.opener.tag(Kind::Chunk, &much), &[], &payload);
        assert!(matches!(s.open(&record, Kind::Chunk), Err(Error::Corrupt { .. })));
    }
}

#[test]
fn tags_classes_and_links_that_do_not_fit_are_refused() {
    let s = setup(Suite::Aes256Gcm);
    let good = payload(1, 0, 3, b"abc", &[]);
    let tag = s.opener.tag(Kind::Chunk, b"abc");
    let refused = |record: &Record, kind| matches!(s.open(record, kind), Err(Error::Corrupt { .. }));
    assert!(s.open(&forge(&s, Kind::Chunk, tag, &[], &good), Kind::Chunk).is_ok());
    assert!(refused(&forge(&s, Kind::Chunk, Tag([0; 32]), &[], &good), Kind::Chunk), "tag");
    assert!(refused(&forge(&s, Kind::Tree, tag, &[], &good), Kind::Chunk), "class");
    assert!(refused(&forge(&s, Kind::Tree, tag, &[], &good), Kind::Tree), "kind");
    assert!(refused(&forge(&s, Kind::Chunk, tag, &[BlobId([1; 32])], &good), Kind::Chunk), "links of a chunk");
    let base = BlobId([1; 32]);
    let delta = encode_delta([base].iter(), &Differ::default().compress(b"abc", b"base", 1).unwrap());
    let open = |kind: Kind| {
        let payload = payload(kind as u8, 2, 3, &delta, &[]);
        let record = forge(&s, kind, s.opener.tag(kind, b"abc"), &[base], &payload);
        s.opener.open(&record, kind, &|_| Ok(s.sealer.capsule.clone()), &|_| Ok(Arc::new(b"base".to_vec())))
    };
    assert_eq!(open(Kind::Chunk).unwrap(), b"abc");
    assert!(matches!(open(Kind::Tree), Err(Error::Corrupt { .. })), "a tree as delta");
}

/// Chunks that share most of their bytes, and the contents of their bases.
fn delta_case() -> (Vec<u8>, Vec<(BlobId, Arc<Vec<u8>>)>) {
    let bases = [7, 5, 6].map(|n| (BlobId([n; 32]), Arc::new(noise(200_000, u64::from(n)))));
    let mut content: Vec<u8> = bases.iter().flat_map(|(_, base)| base[1000..70_000].to_vec()).collect();
    content.splice(500..500, b"inserted".iter().copied());
    (content, bases.to_vec())
}

/// A third of what the content is when it is compressed alone: worth it in a chain, not at its end.
#[test]
fn the_last_of_a_chain_must_save_more() {
    let s = setup(Suite::Aes256Gcm);
    let base = compressible(60_000, 1);
    let content = [&base[..], &noise(5000, 1)].concat();
    let bases = Bases::new(vec![(BlobId([7; 32]), Arc::new(base))]);
    let seal = |content: &[u8], is_last| {
        let tag = s.opener.tag(Kind::Chunk, content);
        s.sealer.seal_similar(tag, content, &bases, is_last, &mut Differ::default()).unwrap()
    };
    let (between, last) = (seal(&content, false), seal(&content, true));
    assert!(!between.links.is_empty() && last.links.is_empty());
    assert!((2..5).contains(&(last.bytes.len() / between.bytes.len())), "{}", last.bytes.len());
    assert!(!seal(&compressible(60_000, 2), true).links.is_empty(), "that is nearly the same");
}

#[test]
fn a_delta_opens_with_its_bases_and_only_with_them() {
    let s = setup(Suite::Aes256Gcm);
    let (content, bases) = delta_case();
    let capsule = |_| Ok(s.sealer.capsule.clone());
    for count in 1..=3 {
        let tag = s.opener.tag(Kind::Chunk, &content);
        let record = s.sealer.seal_delta(tag, &content, &bases[..count]).unwrap();
        let mut expected: Vec<_> = bases[..count].iter().map(|(id, _)| *id).collect();
        expected.sort();
        assert_eq!(record.links, expected);
        assert!(record.bytes.len() < 10_000 + (3 - count) * 70_000, "{count} bases: {} bytes", record.bytes.len());
        let find = |id| Ok(bases.iter().find(|(base, _)| *base == id).unwrap().1.clone());
        assert_eq!(s.opener.open(&record, Kind::Chunk, &capsule, &find).unwrap(), content);
        let changed = |id| {
            find(id).map(|mut base| {
                Arc::make_mut(&mut base)[1000..70_000].reverse();
                base
            })
        };
        assert!(matches!(s.opener.open(&record, Kind::Chunk, &capsule, &changed), Err(Error::Corrupt { .. })));
        assert!(matches!(s.opener.open(&record, Kind::Chunk, &capsule, &no_base), Err(Error::Missing { .. })));
    }
    let tag = s.opener.tag(Kind::Chunk, &content);
    for wrong in [vec![], vec![bases[0].clone(); 4]] {
        assert!(matches!(s.sealer.seal_delta(tag, &content, &wrong), Err(Error::Invalid { .. })));
    }
}

/// Whatever is searched how, and whatever was searched before.
#[test]
fn one_differ_serves_contents_of_all_sizes() {
    let base = noise(300_000, 1);
    let few = [&base[..30_000], &noise(20, 2), &base[30_010..100_000]].concat();
    let many: Vec<u8> =
        base[..100_000].chunks(200).flat_map(|part| [part, &noise(9, part[0].into())].concat()).collect();
    let large = [&noise(1 << 20, 3)[..], &base].concat();
    let mut differ = Differ::default();
    let mut lens = Vec::new();
    for (content, prefix, level) in
        [(&few, &base, 1), (&many, &base, 1), (&few, &large, 1), (&few, &base, 6), (&many, &large, 3), (&few, &base, 3)]
    {
        let frame = differ.compress(content, prefix, level).unwrap();
        assert!(compress::decompress_delta(&frame, prefix, content.len()).unwrap() == *content);
        lens.push(frame.len());
    }
    assert!(lens[0] == lens[5] && lens[0] < 100 && lens[3] < 100 && lens[1] < 10_000, "{lens:?}");
    assert!(Differ::default().compress(&[], &base, 1).is_some());
}

#[test]
fn a_delta_of_parts_opens_with_what_it_was_made_from() {
    let s = setup(Suite::Aes256Gcm);
    let (content, bases) = delta_case();
    let ranges = [(2, 1000..70_000), (0, 900..60_000), (1, 1000..70_000), (0, 60_000..70_000)];
    let parts = ranges.map(|(at, range): (usize, std::ops::Range<usize>)| Part {
        id: bases[at].0,
        range,
        chunk: Arc::clone(&bases[at].1),
    });
    let capsule = |_| Ok(s.sealer.capsule.clone());
    let seal = |content: &[u8], parts: &[Part]| {
        let bases = Bases::of_parts(parts.to_vec());
        s.sealer
            .seal_similar(s.opener.tag(Kind::Chunk, content), content, &bases, false, &mut Differ::default())
            .unwrap()
    };
    let record = seal(&content, &parts);
    let mut expected: Vec<_> = bases.iter().map(|(id, _)| *id).collect();
    expected.sort();
    assert_eq!(record.links, expected);
    assert!(record.bytes.len() < 10_000, "{} bytes", record.bytes.len());
    let find = |id| Ok(bases.iter().find(|(base, _)| *base == id).unwrap().1.clone());
    assert_eq!(s.opener.open(&record, Kind::Chunk, &capsule, &find).unwrap(), content);
    let shorter = |id| find(id).map(|base| Arc::new(base[..69_999].to_vec()));
    assert!(matches!(s.opener.open(&record, Kind::Chunk, &capsule, &shorter), Err(Error::Corrupt { .. })));
    assert!(matches!(s.opener.open(&record, Kind::Chunk, &capsule, &no_base), Err(Error::Missing { .. })));
    // What cannot pay is stored alone.
    let other = noise(100_000, 99);
    let record = seal(&other, &parts);
    assert!(record.links.is_empty());
    assert_eq!(s.open(&record, Kind::Chunk).unwrap(), other);
    let record = seal(&content, &[]);
    assert!(record.links.is_empty());
    // So many parts and no more.
    let part = |n: usize| Part { range: n * 1000..(n + 1) * 1000, ..parts[0].clone() };
    let many: Vec<Part> = (0..70).map(part).collect();
    let record = seal(&content, &many);
    assert_eq!(s.opener.open(&record, Kind::Chunk, &capsule, &find).unwrap(), content);
}

#[test]
fn parts_that_no_writer_makes_are_refused() {
    let refused = |parts: &[(u8, u64, u64)]| {
        let mut e = crate::coding::Encoder::new();
        e.u8(u8::try_from(parts.len()).unwrap());
        for (id, offset, len) in parts {
            e.raw(&[*id; 32]).varint(*offset).varint(*len);
        }
        matches!(payload::decode_parts(&e.bytes, "a delta"), Err(Error::Corrupt { .. }))
    };
    assert!(!refused(&[(1, 0, 16 << 20)]));
    assert!(!refused(&[(1, 5, 1); 64]));
    assert!(refused(&[]), "none");
    assert!(refused(&[(1, 5, 1); 65]), "too many");
    assert!(refused(&[(1, 5, 0)]), "no length");
    assert!(refused(&[(1, 0, 8 << 20), (1, 0, (8 << 20) + 1)]), "longer than a content");
    assert!(refused(&[(1, 0, u64::MAX), (1, 0, 1)]), "overflow");
    assert!(refused(&[(1, u64::MAX, 1)]), "beyond any content");
}

#[test]
fn bases_that_are_not_links_are_never_fetched() {
    let s = setup(Suite::Aes256Gcm);
    let (content, bases) = delta_case();
    let frame = Differ::default().compress(&content, &bases[0].1, 1).unwrap();
    let body = encode_delta([bases[0].0].iter(), &frame);
    let tag = s.opener.tag(Kind::Chunk, &content);
    for links in [vec![], vec![bases[1].0], vec![bases[1].0, bases[0].0]] {
        let record = forge(&s, Kind::Chunk, tag, &links, &payload(1, 2, content.len(), &body, &[]));
        let opened = s.opener.open(&record, Kind::Chunk, &|_| Ok(s.sealer.capsule.clone()), &|id| panic!("{id} asked"));
        assert!(matches!(opened, Err(Error::Corrupt { .. })));
    }
}

#[test]
fn a_delta_reaches_back_over_the_largest_bases() {
    let s = setup(Suite::Aes256Gcm);
    let bases = [1, 2, 3].map(|n| (BlobId([n; 32]), Arc::new(noise(8 << 20, u64::from(n)))));
    let len = |content: &[u8], bases: &[(BlobId, Arc<Vec<u8>>)]| {
        s.sealer.seal_delta(s.opener.tag(Kind::Chunk, content), content, bases).unwrap().bytes.len()
    };
    assert!(len(&[&bases[0].1[..100_000], &bases[2].1[..100_000]].concat(), &bases) < 10_000);
    // Where content and base are the same memory, zstd finds nothing.
    assert!(len(&bases[0].1.to_vec(), &bases[..1]) < 50_000);
}

#[test]
fn a_record_that_names_another_suite_is_refused() {
    let chacha =
        Configuration { suite: Suite::ChaCha20Poly1305, kem: Kem::X25519, ..Configuration::new(REPOSITORY, 0) };
    let keys = Keys::generate(&chacha).unwrap();
    let mut sealer = Sealer::new(&keys.write, &chacha).unwrap();
    let opener = Opener::new(&keys, &chacha).unwrap();
    for (named, opens) in [(Suite::ChaCha20Poly1305, true), (Suite::Aes256Gcm, false)] {
        sealer.suite = named;
        let record = sealer.seal(Kind::Chunk, opener.tag(Kind::Chunk, b"abc"), b"abc", &[]).unwrap();
        let opened = opener.open(&record, Kind::Chunk, &|_| Ok(sealer.capsule.clone()), &no_base);
        assert_eq!(opened.is_ok(), opens);
    }
}

/// Such a base would be read as a trained dictionary, if it were not given as a raw prefix.
#[test]
fn a_base_that_looks_like_a_dictionary_is_a_prefix_all_the_same() {
    let s = setup(Suite::Aes256Gcm);
    let base = [&0xEC30_A437_u32.to_le_bytes()[..], &noise(50_000, 1)].concat();
    let content = base[..40_000].to_vec();
    let record = s
        .sealer
        .seal_delta(s.opener.tag(Kind::Chunk, &content), &content, &[(BlobId([1; 32]), Arc::new(base))])
        .unwrap();
    assert!(record.bytes.len() < 1000);
}

#[test]
fn a_delta_of_a_delta_opens_through_the_same_opener() {
    let s = setup(Suite::Aes256Gcm);
    let contents = [noise(30_000, 1), [noise(30_000, 1), noise(100, 2)].concat(), noise(29_000, 1)];
    let first = s.seal(Kind::Chunk, &contents[0], &[]);
    let delta = |content: &Vec<u8>, id, base: &Vec<u8>| {
        s.sealer.seal_delta(s.opener.tag(Kind::Chunk, content), content, &[(id, Arc::new(base.clone()))]).unwrap()
    };
    let second = delta(&contents[1], first.id, &contents[0]);
    let third = delta(&contents[2], second.id, &contents[1]);
    let records = [first, second, third];
    fn open(s: &Setup, records: &[Record], id: BlobId) -> Result<Vec<u8>> {
        let record = records.iter().find(|record| record.id == id).unwrap();
        let capsule = |_| Ok(s.sealer.capsule.clone());
        s.opener.open(record, Kind::Chunk, &capsule, &|base| open(s, records, base).map(Arc::new))
    }
    assert_eq!(open(&s, &records, records[2].id).unwrap(), contents[2]);
}

#[test]
fn no_counter_is_used_twice_by_threads_records_and_details() {
    let s = setup(Suite::Aes256Gcm);
    let used = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (s, used) = (&s, &used);
            scope.spawn(move || {
                for n in 0..100 {
                    let counter = if n % 10 == 0 {
                        let (head, _) = s.sealer.seal_details(&|c| c.to_le_bytes().to_vec(), b"details").unwrap();
                        u64::from_le_bytes(head.try_into().unwrap())
                    } else {
                        s.seal(Kind::Chunk, &noise(100, thread * 1000 + n), &[]).counter
                    };
                    used.lock().unwrap().push(counter);
                }
            });
        }
    });
    let mut used = used.into_inner().unwrap();
    used.sort_unstable();
    assert_eq!(used, (0..800).collect::<Vec<u64>>());
}

#[test]
fn an_exhausted_counter_seals_nothing() {
    let s = setup(Suite::Aes256Gcm);
    s.sealer.counter.store(u64::MAX, Ordering::Relaxed);
    let tag = s.opener.tag(Kind::Chunk, b"x");
    assert!(matches!(s.sealer.seal(Kind::Chunk, tag, b"x", &[]), Err(Error::Invalid { .. })));
    assert!(s.sealer.seal_details(&|_| Vec::new(), b"x").is_err());
}

#[test]
fn each_session_has_its_own_key() {
    let s = setup(Suite::Aes256Gcm);
    let configuration = Configuration { kem: Kem::X25519, ..Configuration::new(REPOSITORY, 0) };
    let other = Sealer::new(&s.keys.write, &configuration).unwrap();
    assert_ne!(other.capsule, s.sealer.capsule);
    let tag = s.opener.tag(Kind::Chunk, b"abc");
    let record = other.seal(Kind::Chunk, tag, b"abc", &[]).unwrap();
    assert!(open_record(&s.sealer.cipher, Some(&s.keys.write), &record, Kind::Chunk, &no_base).is_err());
    let opened = s.opener.open(&record, Kind::Chunk, &|_| Ok(other.capsule.clone()), &no_base);
    assert_eq!(opened.unwrap(), b"abc");
}

#[test]
fn a_wrong_tag_is_found_before_the_record_leaves() {
    let s = setup(Suite::Aes256Gcm);
    let tag = s.opener.tag(Kind::Chunk, b"other bytes");
    assert!(matches!(s.sealer.seal(Kind::Chunk, tag, b"these bytes", &[]), Err(Error::Corrupt { .. })));
}

#[test]
fn limits_of_a_record() {
    let s = setup(Suite::Aes256Gcm);
    let largest = vec![1; CONTENT_BYTES_MAX];
    let record = s.seal(Kind::Chunk, &largest, &[]);
    assert_eq!(s.open(&record, Kind::Chunk).unwrap(), largest);
    let larger = vec![1; CONTENT_BYTES_MAX + 1];
    let tag = s.opener.tag(Kind::Chunk, &larger);
    assert!(matches!(s.sealer.seal(Kind::Chunk, tag, &larger, &[]), Err(Error::Invalid { .. })));
    let ids: Vec<BlobId> = (0..=65_536u32).map(|n| BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect();
    let tag = s.opener.tag(Kind::Tree, b"x");
    assert!(s.sealer.seal(Kind::Tree, tag, b"x", &ids[..65_536]).is_ok());
    assert!(matches!(s.sealer.seal(Kind::Tree, tag, b"x", &ids), Err(Error::Invalid { .. })));
    // Noise of the largest size with the most links still makes a record that a reader takes.
    let noise = noise(CONTENT_BYTES_MAX, 1);
    let tag = s.opener.tag(Kind::Tree, &noise);
    assert!(s.sealer.seal(Kind::Tree, tag, &noise, &ids[..65_536]).is_ok());
}

#[test]
fn capsules_are_fetched_once_and_must_be_the_named_ones() {
    let s = setup(Suite::Aes256Gcm);
    let record = s.seal(Kind::Chunk, b"abc", &[]);
    let configuration = Configuration { kem: Kem::X25519, ..Configuration::new(REPOSITORY, 0) };
    let other = Sealer::new(&s.keys.write, &configuration).unwrap();
    let wrong = s.opener.open(&record, Kind::Chunk, &|_| Ok(other.capsule.clone()), &no_base);
    assert!(matches!(wrong, Err(Error::Corrupt { .. })));
    let fetched = std::cell::Cell::new(0);
    let capsule = |id| {
        assert_eq!(id, s.sealer.capsule.id);
        fetched.set(fetched.get() + 1);
        Ok(s.sealer.capsule.clone())
    };
    for _ in 0..3 {
        s.opener.open(&record, Kind::Chunk, &capsule, &no_base).unwrap();
    }
    assert_eq!(fetched.get(), 1);
}

#[test]
fn strangers_and_write_only_keys_open_nothing() {
    let s = setup(Suite::Aes256Gcm);
    let stranger = setup(Suite::Aes256Gcm);
    let record = s.seal(Kind::Chunk, b"abc", &[]);
    let opened = stranger.opener.open(&record, Kind::Chunk, &|_| Ok(s.sealer.capsule.clone()), &no_base);
    assert!(matches!(opened, Err(Error::Corrupt { .. })));
    let keys = Keys { opening: None, ..s.keys.clone() };
    let configuration = Configuration::new(REPOSITORY, 0);
    assert!(matches!(Opener::new(&keys, &configuration), Err(Error::WriteOnly { .. })));
    let chacha = Configuration { suite: Suite::ChaCha20Poly1305, kem: Kem::X25519, ..configuration };
    let opener = Opener::new(&s.keys, &chacha).unwrap();
    let opened = opener.open(&record, Kind::Chunk, &|_| Ok(s.sealer.capsule.clone()), &no_base);
    assert!(matches!(opened, Err(Error::Corrupt { .. })));
}

#[test]
fn details_open_only_unchanged() {
    let s = setup(Suite::ChaCha20Poly1305);
    let plain = b"host and paths".to_vec();
    let associated = |counter: u64| [&b"NKsnap"[..], &counter.to_le_bytes()].concat();
    let (head, sealed) = s.sealer.seal_details(&associated, &plain).unwrap();
    assert_eq!(sealed.len(), plain.len() + Sealer::DETAILS_OVERHEAD);
    let open = |counter, head: &[u8], sealed: &[u8]| s.opener.open_details(&s.sealer.capsule, counter, head, sealed);
    assert_eq!(open(0, &head, &sealed).unwrap(), plain);
    assert!(open(1, &head, &sealed).is_err());
    for at in 0..head.len() * 8 {
        let mut head = head.clone();
        head[at / 8] ^= 1 << (at % 8);
        assert!(open(0, &head, &sealed).is_err());
    }
    for at in 0..sealed.len() * 8 {
        let mut sealed = sealed.clone();
        sealed[at / 8] ^= 1 << (at % 8);
        assert!(open(0, &head, &sealed).is_err());
    }
    for len in 0..sealed.len() {
        assert!(open(0, &head, &sealed[..len]).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_content_survives(start in 0usize..1000, len in 0usize..40_000, noisy in 0usize..40_000, kind in 0..3usize) {
        let s = setup(Suite::Aes256Gcm);
        let kind = [Kind::Chunk, Kind::List, Kind::Tree][kind];
        let content = [compressible(len, start as u64), noise(noisy, start as u64)].concat();
        let record = s.seal(kind, &content, &[]);
        prop_assert_eq!(s.open(&record, kind).unwrap(), content);
        let (head, sealed) = record.split().unwrap();
        prop_assert_eq!(head.len(), Record::HEADER_LEN);
        prop_assert_eq!(pad::padded_len(sealed.len() - 16), sealed.len() - 16);
    }

    #[test]
    fn garbage_inside_the_seal_never_panics(bytes in proptest::collection::vec(any::<u8>(), 10..200), codec in 0u8..3) {
        let s = setup(Suite::Aes256Gcm);
        let framed = payload(1, codec, 1000, &bytes, &[]);
        for inside in [&bytes, &framed] {
            prop_assert!(s.open(&forge(&s, Kind::Chunk, Tag([0; 32]), &[], inside), Kind::Chunk).is_err());
        }
    }
}

//! Keys, slots and texts, against values made by another program from the format's page, and against damage.

use super::*;
use crate::backend::{Backend, ObjectKind, ObjectName, WriterLock};
use crate::configuration::{ChunkSizes, Suite};
use crate::id::SlotId;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

const REPOSITORY: RepositoryId = RepositoryId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
const NOW: i64 = 1_700_000_000_000_000_001;
const RECOVERY_TEXT: &str = "nkr1-4DQ6-FY7E-4XTO-P2HJ-5LV6-Z3PO-57YP-D4XT-6T27-N57Y-7H5P-X7H5-737X-SAIP";
const WRITE_TEXT: &str = "nkw1-AAECAwQFBgcICQoLDA0OD9Iay54tYeJ0DbhFlL1iQgPjxWZseX45xn2r5x3KrSCz__XD0xEWUsL6pAv_\
    fiUt478mZZMJQIH0ubyEcl8Ec83LnaATb-B8si4xBeIcUSdRH3RAcJrBfLzveiyAm4xBQwECIABJPoL8dEZKWSaIF2I9IFPF644sxKmItP7heexr\
    AQ1THTJP_3CaAVb_";

/// Objects in memory.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<ObjectName, Vec<u8>>>);

impl Shelf {
    fn change(&self, id: SlotId, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.0.lock().unwrap().get_mut(&ObjectName::KeySlot(id)).unwrap());
    }

    fn object(&self, id: SlotId) -> Vec<u8> {
        self.get(ObjectName::KeySlot(id)).unwrap()
    }
}

impl Backend for Shelf {
    fn put(&self, name: ObjectName, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap().insert(name, bytes.to_vec());
        Ok(())
    }

    fn get(&self, name: ObjectName) -> Result<Vec<u8>> {
        self.0.lock().unwrap().get(&name).cloned().ok_or_else(|| Error::missing(name.to_string()))
    }

    fn get_range(&self, _: ObjectName, _: u64, _: usize) -> Result<Vec<u8>> {
        panic!("slots are read whole")
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>> {
        assert_eq!(kind, ObjectKind::KeySlot);
        Ok(self.0.lock().unwrap().iter().map(|(name, bytes)| (*name, bytes.len() as u64)).collect())
    }

    fn delete(&self, name: ObjectName) -> Result<()> {
        self.0.lock().unwrap().remove(&name);
        Ok(())
    }

    fn lock(&self, _: &str, _: Duration) -> Result<Box<dyn WriterLock>> {
        panic!("the caller locks")
    }
}

/// Every field by name, so that a new default does not change what was made with these.
fn configuration() -> Configuration {
    Configuration {
        slices: false,
        repository: REPOSITORY,
        created: 1_700_000_000_000_000_000,
        suite: Suite::Aes256Gcm,
        kem: Kem::X25519,
        chunk_sizes: ChunkSizes { min: 16 << 10, average: 64 << 10, max: 256 << 10 },
        pack_bytes_target: 32 << 20,
        inline_bytes_max: 2048,
        grace_seconds: 14 * 86_400,
    }
}

fn counting(from: u8) -> [u8; 32] {
    std::array::from_fn(|at| from + u8::try_from(at).unwrap())
}

/// The keys that the known values were made with: a newest root key in epoch 1, zeros in epoch 0.
fn known_keys() -> Keys {
    let opening = OpeningKey { kem: Kem::X25519, secret: Zeroizing::new(counting(0x80)) };
    let roots = vec![(0, Zeroizing::new([0; 32])), (1, Zeroizing::new(counting(0x20)))];
    Keys::assemble(REPOSITORY, roots, opening).unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(hex.replace('\n', "").as_bytes()).unwrap()
}

fn passphrase(text: &str) -> Credential {
    Credential::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
}

fn recovery(text: &str) -> Credential {
    Credential::from_text(text.as_bytes()).unwrap()
}

fn assert_same(a: &Keys, b: &Keys) {
    assert_eq!(a.roots, b.roots);
    assert_eq!(a.opening.as_ref().unwrap().secret, b.opening.as_ref().unwrap().secret);
    assert_same_write(&a.write, &b.write);
}

fn assert_same_write(a: &WriteKey, b: &WriteKey) {
    assert_eq!(a.repository, b.repository);
    assert_eq!((&a.tag, &a.snapshot, &a.gear), (&b.tag, &b.snapshot, &b.gear));
    assert_eq!(a.recipients, b.recipients);
}

fn add(shelf: &Shelf, keys: &Keys, text: &str) -> SlotId {
    add_passphrase(shelf, &configuration(), keys, text.as_bytes(), "a label", NOW, Hardness::Cheap).unwrap()
}

/// The name of the damaged object, if that is what an unlocking says.
fn damaged<T>(result: Result<T>) -> Option<String> {
    match result {
        Err(Error::Corrupt { object, .. }) => Some(object),
        _ => None,
    }
}

#[test]
fn known_derived_keys_and_tags() {
    let key = known_keys().write;
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    assert_eq!(hex(&*key.tag), "d21acb9e2d61e2740db84594bd624203e3c5666c797e39c67dabe71dcaad20b3");
    assert_eq!(hex(&*key.snapshot), "fff5c3d3111652c2faa40bff7e252de3bf266593094081f4b9bc84725f0473cd");
    assert_eq!(hex(&*key.gear), "cb9da0136fe07cb22e3105e21c5127511f7440709ac17cbcef7a2c809b8c4143");
    let tag = key.tag(Kind::Chunk, b"abc");
    assert_eq!(tag.hex(), "89f6cd52df2ffd3d79723389cd2e03abfed6923344b7c4aaf7d81eacccde9c19");
    let tag = key.tag(Kind::Tree, b"abc");
    assert_eq!(tag.hex(), "de55074b37caf964f1954838a42fda9444ad19fbeda879157e1db5c023c790fe");
}

#[test]
fn a_tag_is_one_hash_however_it_is_made() {
    let key = known_keys().write;
    let content: Vec<u8> = (0..70_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let around = |len: usize| len - 2..=len + 2;
    for len in
        (0..3).chain(around(HASHED_APART_MAX)).chain(around(HASHED_AT_ONCE)).chain(around(32 << 10)).chain([70_000])
    {
        let content = &content[..len];
        let meant = blake3::keyed_hash(&key.tag, &[&[Kind::List as u8], content].concat());
        assert_eq!(key.tag(Kind::List, content).0, *meant.as_bytes(), "{len}");
    }
}

#[test]
fn known_texts() {
    assert_eq!(*known_keys().write.to_text(), WRITE_TEXT);
    assert_same_write(&WriteKey::from_text(WRITE_TEXT).unwrap(), &known_keys().write);
    assert_eq!(*text::recovery_to_text(&counting(0xe0)), RECOVERY_TEXT);
    assert!(matches!(recovery(RECOVERY_TEXT), Credential::Recovery(key) if *key == counting(0xe0)));
}

#[test]
fn known_slots_open() {
    let cases = [
        (b"RECOVERY", include_str!("../known/recovery_slot.hex"), recovery(RECOVERY_TEXT)),
        (b"CHEAPPWD", include_str!("../known/cheap_slot.hex"), passphrase("correct horse")),
        (b"PASSWORD", include_str!("../known/passphrase_slot.hex"), passphrase("correct horse")),
    ];
    for (id, hex, credential) in cases {
        let shelf = Shelf::default();
        shelf.put(ObjectName::KeySlot(SlotId(*id)), &unhex(hex)).unwrap();
        assert_same(&unlock(&shelf, &configuration(), &credential).unwrap(), &known_keys());
        let info = list(&shelf, &configuration()).unwrap().pop().unwrap().1.unwrap();
        let label = if id == b"RECOVERY" { "" } else { "büro" };
        assert_eq!((info.id, info.created, info.label.as_str()), (SlotId(*id), NOW, label));
    }
}

#[test]
fn passphrase_and_recovery_key_give_the_same_keys() {
    for kem in [Kem::XWing, Kem::X25519] {
        let (shelf, configuration) = (Shelf::default(), Configuration { kem, ..configuration() });
        let keys = Keys::generate(&configuration).unwrap();
        let add = |text: &[u8]| add_passphrase(&shelf, &configuration, &keys, text, "", NOW, Hardness::Cheap).unwrap();
        let (first, second) = (add(b"first"), add(b"second"));
        let (third, text) = add_recovery(&shelf, &configuration, &keys, NOW).unwrap();
        for credential in [passphrase("first"), passphrase("second"), recovery(&text)] {
            assert_same(&unlock(&shelf, &configuration, &credential).unwrap(), &keys);
        }
        let mut expected = [(first, SlotKind::Passphrase), (second, SlotKind::Passphrase), (third, SlotKind::Recovery)];
        expected.sort_by_key(|(id, _)| *id);
        let listed: Vec<_> =
            list(&shelf, &configuration).unwrap().into_iter().map(|(id, slot)| (id, slot.unwrap().kind)).collect();
        assert_eq!(listed, expected);
    }
}

#[test]
fn generated_keys_differ() {
    let [a, b] = [(); 2].map(|()| Keys::generate(&configuration()).unwrap());
    assert_ne!(a.roots, b.roots);
    assert_ne!(a.opening.unwrap().secret, b.opening.unwrap().secret);
}

#[test]
fn wrong_credentials_say_nothing_more() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    let wrong = |credential| matches!(unlock(&shelf, &configuration(), &credential), Err(Error::WrongCredential));
    assert!(wrong(passphrase("right")));
    add(&shelf, &keys, "right");
    add_recovery(&shelf, &configuration(), &keys, NOW).unwrap();
    assert!(!wrong(passphrase("right")));
    assert!(wrong(passphrase("Right")));
    assert!(wrong(passphrase("")));
    assert!(wrong(recovery(RECOVERY_TEXT)));
}

#[test]
fn a_write_key_unlocks_its_repository_for_writing_only() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    let write = || Credential::from_text(WRITE_TEXT.as_bytes()).unwrap();
    let unlocked = unlock(&shelf, &configuration(), &write()).unwrap();
    assert_same_write(&unlocked.write, &keys.write);
    assert!(unlocked.opening.is_none() && unlocked.roots.is_empty());
    let other = Configuration { repository: RepositoryId([7; 16]), ..configuration() };
    assert!(matches!(unlock(&shelf, &other, &write()), Err(Error::WrongCredential)));
    let xwing = Configuration { kem: Kem::XWing, ..configuration() };
    assert_eq!(damaged(unlock(&shelf, &xwing, &write())), Some("configuration".into()));
    let added = add_passphrase(&shelf, &configuration(), &unlocked, b"x", "", NOW, Hardness::Cheap);
    assert!(matches!(added, Err(Error::WriteOnly { .. })));
    assert!(matches!(add_recovery(&shelf, &configuration(), &unlocked, NOW), Err(Error::WriteOnly { .. })));
    assert!(shelf.0.lock().unwrap().is_empty());
}

#[test]
fn a_damaged_slot_hides_no_other() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    let (first, second) = (add(&shelf, &keys, "first"), add(&shelf, &keys, "second"));
    shelf.change(first, |bytes| bytes.truncate(30));
    assert_same(&unlock(&shelf, &configuration(), &passphrase("second")).unwrap(), &keys);
    assert!(matches!(unlock(&shelf, &configuration(), &passphrase("first")), Err(Error::WrongCredential)));
    let listed: BTreeMap<_, _> = list(&shelf, &configuration()).unwrap().into_iter().collect();
    assert!(listed[&second].is_ok());
    assert!(matches!(&listed[&first], Err(Error::Corrupt { object, .. }) if object.contains(&first.hex())));
    shelf.change(second, |bytes| bytes[0] ^= 1);
    let damaged = damaged(unlock(&shelf, &configuration(), &passphrase("second"))).unwrap();
    assert!(damaged.contains(&first.min(second).hex()), "{damaged}");
}

/// Only one kind being whole, a passphrase is not called wrong when its slot is damaged.
#[test]
fn damage_of_the_only_slot_of_a_kind_is_said() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    let (id, text) = (add(&shelf, &keys, "right"), add_recovery(&shelf, &configuration(), &keys, NOW).unwrap().1);
    shelf.change(id, Vec::clear);
    assert!(damaged(unlock(&shelf, &configuration(), &passphrase("right"))).unwrap().contains(&id.hex()));
    assert_same(&unlock(&shelf, &configuration(), &recovery(&text)).unwrap(), &keys);
}

#[test]
fn each_truncation_and_each_flipped_bit_of_a_slot_is_refused() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    let recovery_slot = add_recovery(&shelf, &configuration(), &keys, NOW).unwrap();
    let slots = [(add(&shelf, &keys, "right"), passphrase("right")), (recovery_slot.0, recovery(&recovery_slot.1))];
    for (id, credential) in slots {
        let good = shelf.object(id);
        let shelf = Shelf::default();
        let name = ObjectName::KeySlot(id);
        shelf.put(name, &good).unwrap();
        unlock(&shelf, &configuration(), &credential).unwrap();
        for at in 0..good.len() {
            shelf.put(name, &good[..at]).unwrap();
            assert!(unlock(&shelf, &configuration(), &credential).is_err());
            for bit in 0..8 {
                shelf.put(name, &good).unwrap();
                shelf.change(id, |bytes| bytes[at] ^= 1 << bit);
                let unlocked = unlock(&shelf, &configuration(), &credential);
                assert!(unlocked.is_err(), "byte {at} bit {bit}");
            }
        }
        shelf.put(name, &[good.as_slice(), &[0]].concat()).unwrap();
        assert!(unlock(&shelf, &configuration(), &credential).is_err());
    }
}

#[test]
fn hostile_costs_are_refused_before_a_key_is_derived() {
    let good = unhex(include_str!("../known/passphrase_slot.hex"));
    // Magic, repository, id, time, kind and the label of five bytes stand before.
    let costs_at = 8 + 16 + 8 + 8 + 1 + 6;
    assert_eq!(good[costs_at..costs_at + 6], [0, 0, 1, 0, 1, 2]);
    let id = SlotId(*b"PASSWORD");
    for (memory_kib, passes, lanes) in [
        (65_535, 1, 2),
        (2_097_153, 1, 2),
        (u32::MAX, 1, 2),
        (0, 1, 2),
        (65_536, 0, 2),
        (65_536, 11, 2),
        (65_536, 1, 0),
        (65_536, 1, 17),
    ] {
        let (shelf, mut bytes) = (Shelf::default(), good.clone());
        bytes[costs_at..costs_at + 4].copy_from_slice(&u32::to_le_bytes(memory_kib));
        bytes[costs_at + 4] = passes;
        bytes[costs_at + 5] = lanes;
        shelf.put(ObjectName::KeySlot(id), &bytes).unwrap();
        let damaged = damaged(unlock(&shelf, &configuration(), &passphrase("correct horse")));
        assert!(damaged.is_some(), "{memory_kib} {passes} {lanes}");
    }
}

/// Runs in release builds only, where most others here cannot.
#[cfg(not(debug_assertions))]
#[test]
fn release_builds_neither_make_nor_open_cheap_slots() {
    let (shelf, id) = (Shelf::default(), SlotId(*b"CHEAPPWD"));
    let added = add_passphrase(&shelf, &configuration(), &known_keys(), b"x", "", NOW, Hardness::Cheap);
    assert!(matches!(added, Err(Error::Unsupported { .. })));
    shelf.put(ObjectName::KeySlot(id), &unhex(include_str!("../known/cheap_slot.hex"))).unwrap();
    let unlocked = unlock(&shelf, &configuration(), &passphrase("correct horse"));
    assert!(matches!(unlocked, Err(Error::Unsupported { .. })));
}

#[test]
fn a_slot_in_anothers_place_is_refused() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    let id = add(&shelf, &keys, "right");
    let moved = Shelf::default();
    moved.put(ObjectName::KeySlot(SlotId([1; 8])), &shelf.object(id)).unwrap();
    assert!(damaged(unlock(&moved, &configuration(), &passphrase("right"))).is_some());
    let other = Configuration { repository: RepositoryId([7; 16]), ..configuration() };
    assert!(damaged(unlock(&shelf, &other, &passphrase("right"))).unwrap().contains(&id.hex()));
    let longer = Shelf::default();
    longer.put(ObjectName::KeySlot(id), &[shelf.object(id).as_slice(), &[0]].concat()).unwrap();
    assert!(damaged(unlock(&longer, &configuration(), &passphrase("right"))).unwrap().contains(&id.hex()));
    let oversized = Shelf::default();
    oversized.put(ObjectName::KeySlot(id), &vec![0; 65_537]).unwrap();
    assert!(damaged(unlock(&oversized, &configuration(), &passphrase("right"))).is_some());
}

/// What only someone with the keys could have put into a slot.
#[test]
fn strange_contents_of_slots_are_refused() {
    let good = slot::encode_content(&configuration(), &known_keys()).unwrap();
    let decode = |bytes: &[u8]| slot::decode_content(bytes, &configuration(), "a slot");
    assert_same(&decode(&good).unwrap(), &known_keys());
    for len in 0..good.len() {
        assert!(decode(&good[..len]).is_err());
    }
    assert!(decode(&[good.as_slice(), &[0]].concat()).is_err());
    // The count, the two epochs (0 and 1), the key encapsulation.
    for (at, value) in [(32, 0), (32, 9), (33, 1), (69, 0), (105, 0), (105, 1), (105, 3)] {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        assert!(damaged(decode(&bytes)).is_some(), "{at} {value}");
    }
    let xwing = Configuration { kem: Kem::XWing, ..configuration() };
    assert!(matches!(slot::encode_content(&xwing, &known_keys()), Err(Error::Invalid { .. })));
}

#[test]
fn an_altered_configuration_is_refused() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    add(&shelf, &keys, "right");
    let altered = Configuration { grace_seconds: 0, ..configuration() };
    assert_eq!(damaged(unlock(&shelf, &altered, &passphrase("right"))), Some("configuration".into()));
    assert!(matches!(unlock(&shelf, &altered, &passphrase("wrong")), Err(Error::WrongCredential)));
}

#[test]
fn the_last_whole_slot_stays() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    let (first, second) = (add(&shelf, &keys, "first"), add(&shelf, &keys, "second"));
    assert!(matches!(remove(&shelf, &configuration(), SlotId([0; 8])), Err(Error::Missing { .. })));
    let whole = shelf.object(second);
    shelf.change(second, |bytes| bytes.truncate(50));
    assert!(matches!(remove(&shelf, &configuration(), first), Err(Error::Invalid { .. })));
    shelf.put(ObjectName::KeySlot(second), &whole).unwrap();
    remove(&shelf, &configuration(), first).unwrap();
    assert!(matches!(unlock(&shelf, &configuration(), &passphrase("first")), Err(Error::WrongCredential)));
    assert!(matches!(remove(&shelf, &configuration(), second), Err(Error::Invalid { .. })));
    unlock(&shelf, &configuration(), &passphrase("second")).unwrap();
}

#[test]
fn what_a_slot_cannot_be_made_of() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    let add = |text: &[u8], label: &str, configuration: &Configuration| {
        add_passphrase(&shelf, configuration, &keys, text, label, NOW, Hardness::Cheap)
    };
    assert!(matches!(add(b"", "", &configuration()), Err(Error::Invalid { .. })));
    assert!(matches!(add(b"x", &"l".repeat(1025), &configuration()), Err(Error::Invalid { .. })));
    let other = Configuration { repository: RepositoryId([7; 16]), ..configuration() };
    assert!(matches!(add(b"x", "", &other), Err(Error::Invalid { .. })));
    assert!(shelf.0.lock().unwrap().is_empty());
}

#[test]
fn salts_and_slots_are_fresh() {
    let (shelf, keys) = (Shelf::default(), known_keys());
    let [a, b] = [add(&shelf, &keys, "same"), add(&shelf, &keys, "same")].map(|id| shelf.object(id));
    let salt_at = 8 + 16 + 8 + 8 + 1 + 8 + 6;
    assert_ne!(a[salt_at..salt_at + 32], b[salt_at..salt_at + 32]);
    assert_ne!(a[salt_at + 36..], b[salt_at + 36..]);
}

#[test]
fn credentials_are_told_apart_and_lose_one_newline() {
    let passphrases: [(&[u8], &[u8]); 6] = [
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret"),
        (b"secret\n\n", b"secret\n"),
        (b" with spaces ", b" with spaces "),
        (b"nkw2-", b"nkw2-"),
        (b"\xff\xfe", b"\xff\xfe"),
    ];
    for (text, expected) in passphrases {
        let read = Credential::from_text(text).unwrap();
        assert!(matches!(read, Credential::Passphrase(bytes) if *bytes == expected), "{text:?}");
    }
    let with_newline = format!("{WRITE_TEXT}\n");
    assert!(matches!(Credential::from_text(with_newline.as_bytes()), Ok(Credential::Write(_))));
    for broken in ["nkw1-", "nkr1-", "nkw1-\u{fc}", "nkr1-AAAA", "NKR1-AAAA"] {
        assert!(matches!(Credential::from_text(broken.as_bytes()), Err(Error::Invalid { .. })), "{broken}");
    }
}

#[test]
fn a_recovery_key_is_read_as_people_write_it() {
    let spaced = RECOVERY_TEXT.replace('-', " ").replacen(' ', "-", 1);
    for text in [RECOVERY_TEXT.to_lowercase(), RECOVERY_TEXT.to_uppercase(), spaced, format!("{RECOVERY_TEXT}\n")] {
        assert!(matches!(recovery(&text), Credential::Recovery(key) if *key == counting(0xe0)), "{text}");
    }
}

#[test]
fn a_mistyped_recovery_key_is_refused() {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567018-\x00\xff";
    for at in 5..RECOVERY_TEXT.len() {
        for letter in letters {
            let mut text = RECOVERY_TEXT.as_bytes().to_vec();
            text[at] = *letter;
            let unchanged = text == RECOVERY_TEXT.as_bytes();
            assert_eq!(Credential::from_text(&text).is_ok(), unchanged, "{}", text.escape_ascii());
        }
        let mut text = RECOVERY_TEXT.as_bytes().to_vec();
        text.swap(at - 1, at);
        let read = Credential::from_text(&text);
        assert!(!matches!(read, Ok(Credential::Recovery(key)) if *key != counting(0xe0)));
        assert!(Credential::from_text(&RECOVERY_TEXT.as_bytes()[..at]).is_err());
    }
}

#[test]
fn each_truncation_and_each_flipped_bit_of_a_write_key_is_refused() {
    for at in 0..WRITE_TEXT.len() {
        assert!(WriteKey::from_text(&WRITE_TEXT[..at]).is_err());
        for bit in 0..8 {
            let mut bytes = WRITE_TEXT.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            assert!(matches!(WriteKey::from_text(&text), Err(Error::Invalid { .. })), "{text}");
        }
    }
}

#[test]
fn a_write_key_with_strange_recipients_is_refused() {
    let refused = |recipients| {
        let key = WriteKey { recipients, ..known_keys().write };
        matches!(WriteKey::from_text(&key.to_text()), Err(Error::Invalid { .. }))
    };
    let recipient = known_keys().write.recipients[0].clone();
    let short = Recipient { kem: Kem::X25519, public_key: vec![1; 31] };
    let other = Recipient { kem: Kem::XWing, public_key: vec![1; 32] };
    assert!(refused(vec![]) && refused(vec![short]) && refused(vec![other]) && refused(vec![recipient.clone(); 33]));
    assert!(!refused(vec![recipient; 32]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn write_keys_survive_as_text(secrets: [[u8; 32]; 3], id: [u8; 16], xwing: bool, count in 1usize..=32) {
        let [tag, snapshot, gear] = secrets.map(Zeroizing::new);
        let kem = if xwing { Kem::XWing } else { Kem::X25519 };
        let recipients = vec![Recipient { kem, public_key: vec![7; kem_lengths(kem).0] }; count];
        let key = WriteKey { repository: RepositoryId(id), tag, snapshot, gear, recipients };
        assert_same_write(&WriteKey::from_text(&key.to_text()).unwrap(), &key);
    }

    #[test]
    fn recovery_keys_survive_as_text(key: [u8; 32]) {
        let text = text::recovery_to_text(&key);
        prop_assert!(matches!(recovery(&text), Credential::Recovery(read) if *read == key));
    }

    #[test]
    fn garbage_credentials_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), prefix in 0..3usize) {
        let text = [["", "nkw1-", "nkr1-"][prefix].as_bytes(), &bytes].concat();
        let _ = Credential::from_text(&text);
    }

    #[test]
    fn garbage_slots_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let shelf = Shelf::default();
        let head = [&b"NKkeys\0\x01"[..], &REPOSITORY.0, &[1; 8], &bytes].concat();
        shelf.put(ObjectName::KeySlot(SlotId([1; 8])), &head).unwrap();
        prop_assert!(unlock(&shelf, &configuration(), &recovery(RECOVERY_TEXT)).is_err());
    }
}

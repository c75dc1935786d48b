//! Golden bytes of each message, and what decoders do with anything else.

use super::*;
use chunkstore::id::RepositoryId;
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn refusal() -> Refusal {
    Refusal::new(Code::Denied, "web/files/x", "no")
}

fn id(byte: u8) -> BlobId {
    BlobId([byte; 32])
}

/// One of each, with what it must be on the wire for ever.
fn golden() -> Vec<(Message, String)> {
    let eleven = "11".repeat(32);
    let a22 = "22".repeat(32);
    let snapshot = ObjectKind::Snapshot;
    let rows: Vec<(Message, String)> = vec![
        (
            Message::Hello { version: 1, repository: "r".into(), program: "p 1".into() },
            "0900000001 0100 0172 03702031".into(),
        ),
        (
            Message::Welcome {
                version: 1,
                program: "p".into(),
                configuration: vec![7, 8],
                generation: [3; 16],
                push_bytes_max: 64 << 20,
            },
            format!("2000000002 0100 0170 020708 {} 0000000400000000", "03".repeat(16)),
        ),
        (Message::Refused(refusal()), "1200000003 0400 0b7765622f66696c65732f78 026e6f".into()),
        (
            Message::Enroll { version: 1, invitation: [1; 8], proof: [0x11; 32], writer: [0x22; 32], name: "w".into() },
            format!("4d00000004 0100 0101010101010101 {eleven} {a22} 0177"),
        ),
        (
            Message::Enrolled { repository: "r".into(), role: Role::Backup, datasets: vec!["*".into(), "a/*".into()] },
            "0b00000005 0172 01 02 012a 03612f2a".into(),
        ),
        (Message::Known(vec![Tag([0x11; 32])]), format!("2200000010 01 {eleven}")),
        (Message::KnownAnswer(vec![None, Some(id(0x22))]), format!("2400000011 02 00 01{a22}")),
        (Message::Present(vec![id(0x11)]), format!("2200000012 01 {eleven}")),
        (Message::PresentAnswer(vec![true, false]), "0400000013 02 01 00".into()),
        (Message::Alternate(HalfTag([4; 16])), format!("1100000016 {}", "04".repeat(16))),
        (Message::AlternateAnswer(Some(id(0x11))), format!("2200000017 01 {eleven}")),
        (Message::List { kind: ObjectKind::KeySlot, after: vec![] }, "0300000018 03 00".into()),
        (
            Message::Names { more: true, kind: snapshot, names: vec![vec![0x11; 32], vec![0x22; 32]] },
            format!("4400000019 01 01 02 {eleven} {a22}"),
        ),
        (Message::Fetch { kind: ObjectKind::Mark, names: vec![vec![0x11; 32]] }, format!("230000001a 02 01 {eleven}")),
        (Message::Object(vec![9, 9]), "030000001b 0909".into()),
        (Message::Store { kind: ObjectKind::Mark, bytes: vec![5] }, "040000001c 02 01 05".into()),
        (Message::Done, "010000001d".into()),
        (Message::Remove(SlotId([6; 8])), "090000001e 0606060606060606".into()),
        (
            Message::Create { configuration: vec![1], slots: vec![(SlotId([6; 8]), vec![2])] },
            "0e0000001f 0101 01 0606060606060606 0102".into(),
        ),
        (Message::Arrange(vec![id(0x11)]), format!("2200000020 01 {eleven}")),
        (Message::Groups(vec![vec![1], vec![0, 2]]), "0700000021 02 01 01 02 00 02".into()),
        (Message::Read(vec![id(0x11)]), format!("2200000022 01 {eleven}")),
        (Message::Record(vec![1, 2, 3]), "0400000023 010203".into()),
        (Message::Capsule(CapsuleId([5; 16])), format!("1100000024 {}", "05".repeat(16))),
        (Message::CapsuleObject(vec![1]), "0200000025 01".into()),
        (Message::Statistics, "0100000026".into()),
        (
            Message::StatisticsAnswer { packs: 1, pack_bytes: 2, blobs: 3, blob_bytes: 4 },
            "2100000027 0100000000000000 0200000000000000 0300000000000000 0400000000000000".into(),
        ),
        (Message::Push, "0100000028".into()),
        (Message::Flush, "0100000029".into()),
        (Message::Commit(vec![1]), "020000002a 01".into()),
        (Message::Durable(ByClass { data: 258, nodes: 3 }), "110000002b 0201000000000000 0300000000000000".into()),
        (
            Message::Committed { snapshot: SnapshotId([0x11; 32]), received: -1 },
            format!("290000002c {eleven} ffffffffffffffff"),
        ),
        (Message::Flushed(1), "090000002d 0100000000000000".into()),
        (
            Message::Lost { id: id(0x11), refusal: refusal() },
            format!("320000002e {eleven} 0400 0b7765622f66696c65732f78 026e6f"),
        ),
        (Message::Watch([0x11; 32]), format!("2100000040 {eleven}")),
        (Message::State([0x22; 32]), format!("2100000041 {a22}")),
        (Message::Offer(vec![SnapshotId([0x11; 32])]), format!("2200000042 01 {eleven}")),
        (Message::Wanted(vec![true, false]), "0400000043 02 01 00".into()),
        (Message::Lacking, "0100000044".into()),
        (Message::Blobs(vec![id(0x22)]), format!("2200000045 01 {a22}")),
        (Message::Held(vec![SnapshotId([0x22; 32])]), format!("2200000046 01 {a22}")),
        (Message::Copies(vec![SnapshotId([0x11; 32])]), format!("2200000047 01 {eleven}")),
        (Message::CopiesAnswer(vec![vec![], vec!["a".into(), "bc".into()]]), "0900000048 02 00 02 0161 026263".into()),
    ];
    rows.into_iter().map(|(message, text)| (message, text.replace(' ', ""))).collect()
}

fn decode(frame: &[u8]) -> Result<Message> {
    let (head, body) = frame.split_first_chunk().ok_or_else(|| Error::violation("short"))?;
    let head = Head::decode(head)?;
    if head.body_len != body.len() {
        return Err(Error::violation("length"));
    }
    Message::decode(head.number, body.to_vec())
}

#[test]
fn every_message_has_its_golden_bytes() {
    let golden = golden();
    for (message, text) in &golden {
        assert_eq!(hex(&message.frame()), *text, "{}", message.name());
        assert_eq!(decode(&message.frame()).unwrap(), *message);
    }
    let mut numbers: Vec<u8> = golden.iter().map(|(message, _)| message.frame()[4]).collect();
    numbers.sort_unstable();
    let expected: Vec<u8> = (1..=5).chain(16..=19).chain(22..=46).chain(64..=72).collect();
    assert_eq!(numbers, expected, "each type once");
}

#[test]
fn truncated_and_longer_bodies_are_refused() {
    // These are their bodies: whoever parses the object finds what is wrong with it.
    let whole = [27, 35, 37, 42];
    for (message, _) in golden() {
        let frame = message.frame();
        if whole.contains(&frame[4]) {
            continue;
        }
        for cut in HEAD_LEN..frame.len() {
            assert!(Message::decode(frame[4], frame[HEAD_LEN..cut].to_vec()).is_err(), "{} at {cut}", message.name());
        }
        let longer = [&frame[HEAD_LEN..], &[0]].concat();
        assert!(Message::decode(frame[4], longer).is_err(), "{} and more", message.name());
    }
}

/// Whatever a flipped bit turns a message into has exactly the bytes it came from.
#[test]
fn flipped_bits_are_refused_or_mean_something_else() {
    for (message, _) in golden() {
        let frame = message.frame();
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut flipped = frame.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(other) = decode(&flipped) {
                    assert_ne!(other, message);
                    assert_eq!(other.frame(), flipped, "{} byte {at} bit {bit}", message.name());
                }
            }
        }
    }
}

#[test]
fn lengths_have_their_limits() {
    let head = |len: u32, number: u8| {
        let [a, b, c, d] = len.to_le_bytes();
        Head::decode(&[a, b, c, d, number])
    };
    assert!(head(0, 1).is_err());
    assert_eq!(head(1 << 20, 16).unwrap().body_len, (1 << 20) - 1);
    for (len, number) in [((1 << 20) + 1, 16), (u32::MAX, 1), ((20 << 20) + 2, 35), (u32::MAX, 35)] {
        assert!(head(len, number).is_err(), "{len}");
    }
    assert_eq!(head((20 << 20) + 1, 35).unwrap().body_len, 20 << 20);

    let refused = |message: Message| assert!(decode(&message.frame()).is_err(), "{}", message.name());
    refused(Message::Hello { version: 1, repository: "x".repeat(65), program: String::new() });
    refused(Message::Hello { version: 1, repository: String::new(), program: "x".repeat(129) });
    let configuration = vec![0; CONFIGURATION_BYTES_MAX + 1];
    let (program, generation) = (String::new(), [0; 16]);
    refused(Message::Welcome { version: 1, program, configuration, generation, push_bytes_max: 0 });
    let datasets = vec!["x".into(); PATTERNS_MAX + 1];
    refused(Message::Enrolled { repository: String::new(), role: Role::Admin, datasets });
    refused(Message::Known(vec![Tag([0; 32]); BATCH_MAX + 1]));
    refused(Message::Read(vec![id(0); BATCH_MAX + 1]));
    refused(Message::KnownAnswer(vec![None; BATCH_MAX + 1]));
    refused(Message::PresentAnswer(vec![false; BATCH_MAX + 1]));
    refused(Message::Fetch { kind: ObjectKind::KeySlot, names: vec![vec![0; 8]; FETCH_MAX + 1] });
    let names = (0..=NAMES_MAX as u64).map(|n| n.to_be_bytes().to_vec()).collect();
    refused(Message::Names { more: false, kind: ObjectKind::KeySlot, names });
    refused(Message::Names { more: false, kind: ObjectKind::KeySlot, names: vec![vec![0; 8]; 2] });
    refused(Message::List { kind: ObjectKind::Mark, after: vec![0; 8] });
    refused(Message::Store { kind: ObjectKind::Mark, bytes: vec![0; STORE_BYTES_MAX + 1] });
    refused(Message::CapsuleObject(vec![0; CAPSULE_BYTES_MAX + 1]));
    refused(Message::Create { configuration: vec![], slots: vec![(SlotId([0; 8]), vec![]); SLOTS_MAX + 1] });
    refused(Message::Create { configuration: vec![], slots: vec![(SlotId([0; 8]), vec![0; SLOT_BYTES_MAX + 1])] });
    refused(Message::Groups(vec![vec![0], vec![0]]));
    refused(Message::Groups(vec![vec![1]]));
    refused(Message::Object(vec![0; FRAME_BYTES_MAX]));
    let snapshots = |count: usize| vec![SnapshotId([0; 32]); count];
    refused(Message::Offer(snapshots(BATCH_MAX + 1)));
    refused(Message::Held(snapshots(BATCH_MAX + 1)));
    refused(Message::Copies(snapshots(COPIES_MAX + 1)));
    refused(Message::Wanted(vec![false; BATCH_MAX + 1]));
    refused(Message::Blobs(vec![id(0); BATCH_MAX + 1]));
    refused(Message::CopiesAnswer(vec![vec![]; COPIES_MAX + 1]));
    refused(Message::CopiesAnswer(vec![vec![String::new(); SITES_MAX + 1]]));
    refused(Message::CopiesAnswer(vec![vec!["x".repeat(SITE_BYTES_MAX + 1)]]));
    let full = Message::CopiesAnswer(vec![vec!["x".repeat(SITE_BYTES_MAX); SITES_MAX]; COPIES_MAX]);
    assert_eq!(decode(&full.frame()).unwrap(), full, "the largest fits a frame");
}

#[test]
fn texts_are_cut_where_they_may_be() {
    let long = Refusal::new(Code::Failed, "ä".repeat(3000), "x");
    let Message::Refused(read) = decode(&Message::Refused(long).frame()).unwrap() else { panic!() };
    assert_eq!(read.object, "ä".repeat(2048));
}

#[test]
fn refusals_become_the_errors_that_they_were() {
    use chunkstore::Error as Store;
    let errors = [
        Store::missing("blob 1"),
        Store::corrupt("blob 1", "x"),
        Store::invalid("x", "y"),
        Store::NoRepository { place: "p".into() },
        Store::RepositoryExists { place: "p".into() },
        Store::Unsupported { object: "o".into(), reason: "r".into() },
        Store::Denied { what: "w".into(), reason: "r".into() },
        Store::Locked { holder: "h".into() },
        Store::Full { object: "o".into() },
    ];
    for error in errors {
        assert_eq!(Refusal::of(&error).into_error().to_string(), error.to_string());
    }
    let secret = Store::io("open", "/srv/secret", std::io::Error::other("x"));
    assert!(!Refusal::of(&secret).to_string().contains("secret"), "paths of the server stay there");
}

#[test]
fn codes_and_roles_are_found_by_number() {
    for code in Code::ALL {
        assert_eq!(Code::from_number(code as u16), Some(code));
    }
    for role in Role::ALL {
        assert_eq!((Role::from_number(role as u8), Role::from_text(role.text())), (Some(role), Some(role)));
    }
    assert_eq!((Code::from_number(0), Code::from_number(13), Role::from_number(5)), (None, None, None));
}

proptest! {
    #[test]
    fn random_bytes_never_do_harm(number: u8, body in proptest::collection::vec(any::<u8>(), 0..2000)) {
        if let Ok(message) = Message::decode(number, body.clone()) {
            prop_assert_eq!(&message.frame()[HEAD_LEN..], &body[..]);
        }
    }

    #[test]
    fn random_records_never_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        prop_assert!(chunkstore::record::Record::parse(bytes, &RepositoryId([0; 16])).is_err());
    }
}

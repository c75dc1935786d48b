//! Invitations serve once, and what was granted ends when it is revoked.

use super::*;
use zeroize::Zeroizing;

struct Desk {
    _dir: tempfile::TempDir,
    registry: Registry,
    token: Token,
}

const CLIENT: NodeId = NodeId([9; 32]);

fn desk() -> Desk {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("server.sqlite3")).unwrap();
    registry.add_repository("office", 1).unwrap();
    let token = Token {
        server: NodeId([1; 32]),
        invitation: [2; 8],
        secret: Zeroizing::new([3; 16]),
        expires: 1000,
        address: "h:1".into(),
        repository: "office".into(),
    };
    registry.invite(&token, Role::Backup, &["www/*".into(), "db/*".into()]).unwrap();
    Desk { _dir: dir, registry, token }
}

impl Desk {
    fn enrol(&self, secret: [u8; 16], now: i64) -> std::result::Result<Invitation, Code> {
        let exported = [7; 32];
        let proof = *Token::proof(&secret, &exported, CLIENT).as_bytes();
        let invitation = self.token.invitation;
        let enrolling = Enrolling { key: CLIENT, writer: [8; 32], name: "www", invitation, proof, exported };
        self.registry.enrol(&enrolling, now).unwrap().map_err(|refusal| refusal.code)
    }
}

#[test]
fn an_invitation_serves_once() {
    let desk = desk();
    let roll = desk.registry.roll();
    assert!(roll.admits(CLIENT, 500) && !roll.admits(CLIENT, 1000), "anybody may try while it is open");
    let granted = desk.enrol([3; 16], 10).unwrap();
    assert_eq!((granted.role, granted.datasets.len()), (Role::Backup, 2));
    assert_eq!(desk.enrol([3; 16], 20).unwrap_err(), Code::Invitation);
    assert!(roll.admits(CLIENT, 5000), "it is enrolled");
    assert!(!roll.admits(NodeId([4; 32]), 20), "nothing is open any more");
    let (grants, writer, name) = desk.registry.grants(CLIENT, "office", 30).unwrap().unwrap();
    assert_eq!((grants.len(), writer, name.as_str()), (1, [8; 32], "www"));
    assert!(desk.registry.grants(CLIENT, "other", 30).unwrap().is_none());
    assert_eq!(desk.registry.clients().unwrap()[0].seen, Some(30));

    assert_eq!(desk.registry.revoke(CLIENT).unwrap(), 1);
    assert!(!roll.admits(CLIENT, 40));
    assert!(desk.registry.grants(CLIENT, "office", 40).unwrap().is_none());
}

#[test]
fn wrong_proofs_are_counted_and_spaced() {
    let desk = desk();
    for now in 1..=5 {
        assert_eq!(desk.enrol([4; 16], now).unwrap_err(), Code::Invitation);
        assert_eq!(desk.enrol([3; 16], now).unwrap_err(), if now < 5 { Code::Busy } else { Code::Invitation });
    }
    assert_eq!(desk.enrol([3; 16], 100).unwrap_err(), Code::Invitation, "five were too many");
    assert!(!desk.registry.roll().admits(CLIENT, 100));
}

#[test]
fn an_invitation_expires() {
    let desk = desk();
    assert_eq!(desk.enrol([3; 16], 1000).unwrap_err(), Code::Invitation);
    assert!(desk.enrol([3; 16], 999).is_ok());
}

#[test]
fn the_first_receipt_counts() {
    let desk = desk();
    let receipt = |now| desk.registry.receipt("office", SnapshotId([1; 32]), "a/b/c", CLIENT, now).unwrap();
    assert_eq!((receipt(7), receipt(9)), (7, 7));
}

#[test]
fn names_of_repositories_are_names_of_directories() {
    for good in ["office", "a", "web-1_x.y", &"x".repeat(64)] {
        validate_name(good).unwrap();
    }
    for bad in ["", ".", "..", "a/b", "-a", "A", "ä", "a b", &"x".repeat(65)] {
        assert!(validate_name(bad).is_err(), "{bad}");
    }
    let desk = desk();
    assert!(desk.registry.add_repository("office", 2).is_err());
}

fn peer(address: &str, own: &str) -> Peer {
    Peer {
        key: NodeId([5; 32]),
        address: address.into(),
        repository: "office".into(),
        own: own.into(),
        datasets: vec!["www/*".into()],
        limits: vec![protocol::replication::Limit::from_text("08:00-18:00=500K").unwrap()],
        delay: 7,
        paused: false,
    }
}

#[test]
fn links_are_kept_and_found() {
    let desk = desk();
    let (one, two) = (peer("b:1", "office"), peer("b:1", "home"));
    desk.registry.add_peer(&one, 1).unwrap();
    desk.registry.add_peer(&two, 1).unwrap();
    desk.registry.pause_peer(&one, true).unwrap();
    let peers = || desk.registry.peers().unwrap();
    assert_eq!(peers(), [two.clone(), Peer { paused: true, ..one.clone() }]);
    assert!(chosen(peers(), "b:1").is_err(), "it could be both");
    assert_eq!(chosen(peers(), "home").unwrap(), two);
    assert!(chosen(peers(), "nkn1-").is_err() && chosen(peers(), "c:1").is_err());
    desk.registry.note_copies("office", "b:1", &[SnapshotId([1; 32]), SnapshotId([2; 32])], false).unwrap();
    desk.registry.note_copies("office", "c:1", &[SnapshotId([1; 32])], false).unwrap();
    desk.registry.note_copies("office", "b:1", &[SnapshotId([1; 32])], true).unwrap();
    assert_eq!(desk.registry.copies("office", SnapshotId([1; 32])).unwrap(), ["b:1", "c:1"]);
    assert!(desk.registry.copies("office", SnapshotId([2; 32])).unwrap().is_empty(), "it has only the first now");
    desk.registry.remove_peer(&one).unwrap();
    assert_eq!(peers(), [two]);
    assert_eq!(desk.registry.copies("office", SnapshotId([1; 32])).unwrap(), ["c:1"]);
}

#[test]
fn words_from_afar_count_from_when_they_are_applied() {
    let desk = desk();
    let (mark, snapshot) = (chunkstore::id::MarkId([1; 32]), SnapshotId([2; 32]));
    let registry = &desk.registry;
    assert_eq!(registry.note_word("office", mark, snapshot, 100).unwrap(), 100);
    assert_eq!(registry.note_word("office", mark, snapshot, 200).unwrap(), 100, "first seen");
    assert!(registry.arrived("office").unwrap().is_empty(), "it waits");
    registry.apply_word("office", mark, 300).unwrap();
    registry.apply_word("office", mark, 400).unwrap();
    assert_eq!(registry.arrived("office").unwrap(), [(snapshot, 300)].into());
    assert!(registry.arrived("home").unwrap().is_empty());
    assert!(!registry.was_slot_removed("office", &[1; 8]).unwrap());
    registry.note_removed_slot("office", &[1; 8]).unwrap();
    assert!(registry.was_slot_removed("office", &[1; 8]).unwrap());
}

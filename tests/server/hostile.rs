//! Peers that do not keep to the protocol: the server goes on serving others, within bounded memory, and says so in its log.

use std::time::Duration;

use chunkstore::id::{BlobId, Tag};
use protocol::connection::{Close, Connection, Reader, Writer};
use protocol::identity::{NodeId, NodeKey};
use protocol::message::{ByClass, Message, ObjectKind, VERSION};
use protocol::tls::Purpose;
use protocol::{Error, token::Token};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::support::program::House;
use crate::support::server::Appliance;
use crate::support::torture::Random;

struct Attacker {
    key: NodeKey,
    server: NodeId,
    place: String,
}

impl Attacker {
    /// With the key that a machine enrolled.
    fn of(house: &House, appliance: &Appliance) -> Attacker {
        let key = std::fs::read(house.path().join("state/node.pk8")).unwrap();
        let servers = std::fs::read_to_string(house.path().join("state/servers")).unwrap();
        let server = NodeId::from_text(servers.split_whitespace().nth(1).unwrap()).unwrap();
        Attacker { key: NodeKey::from_pkcs8(Zeroizing::new(key)).unwrap(), server, place: appliance.address.clone() }
    }

    async fn connect(&self) -> Connection {
        Connection::connect(&self.place, &self.key, self.server, Purpose::Work).await.unwrap()
    }

    async fn session(&self) -> (Connection, (Writer, Reader)) {
        let connection = self.connect().await;
        let (mut writer, mut reader) = connection.open().await.unwrap();
        let hello = Message::Hello { version: VERSION, repository: "office".into(), program: "evil".into() };
        writer.send(&hello).await.unwrap();
        assert!(matches!(reader.expect().await.unwrap(), Message::Welcome { .. }));
        (connection, (writer, reader))
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(60), work).await.expect("it hangs") })
}

/// What the server does with these bytes on a stream of a session: an answer, or the end of the connection.
async fn told(attacker: &Attacker, bytes: Vec<u8>, finish: bool) -> Result<Option<Message>, Error> {
    let (connection, _control) = attacker.session().await;
    let (mut writer, mut reader) = connection.open().await?;
    let _ = writer.send_frame(bytes.into()).await;
    if finish {
        writer.finish();
    }
    match reader.next().await {
        Ok(Some(answer)) => Ok(Some(answer)),
        // The stream may end a moment before the connection does.
        _ => Err(connection.ended().await),
    }
}

/// The connection is gone. The packet that says why waits for room in the congestion window and is given up with it, so
/// the peer may be told by a reset alone: the server's log has the reason in any case.
fn is_cut_off(outcome: &Result<Option<Message>, Error>) -> bool {
    match outcome {
        Err(Error::Closed { code, .. }) => *code == Close::Violation as u32,
        Err(Error::Lost { reason }) => reason == "reset by peer",
        _ => false,
    }
}

#[test]
fn who_breaks_the_protocol_is_cut_off_and_others_are_served() {
    let mut appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    std::fs::write(source.join("x"), Random(1).bytes(100_000)).unwrap();
    let attacker = Attacker::of(&appliance.client("backup", &[]), &appliance);
    let mut random = Random(2);
    run(async {
        let frame = |message: Message| message.frame();
        let wrong = [
            vec![0; 5],
            vec![0xff; 64],
            [&(1u32 << 30).to_le_bytes()[..], &[16]].concat(),
            [&(21u32 << 20).to_le_bytes()[..], &[35]].concat(),
            [&33u32.to_le_bytes()[..], &[16, 0xff, 0xff, 0xff, 0x7f], &[0; 28]].concat(),
            frame(Message::Hello { version: 1, repository: "office".into(), program: "x".into() }),
            frame(Message::Done),
            frame(Message::Durable(ByClass { data: 7, nodes: 0 })),
            frame(Message::Record(vec![7; 300])),
            [frame(Message::Push), frame(Message::Known(vec![Tag([1; 32])]))].concat(),
            [frame(Message::Push), frame(Message::Push)].concat(),
        ];
        for (number, bytes) in wrong.into_iter().enumerate() {
            let outcome = told(&attacker, bytes, false).await;
            assert!(is_cut_off(&outcome), "{number}: {outcome:?}");
        }
        for cut in 1..37 {
            let whole = frame(Message::Known(vec![Tag([1; 32])]));
            let outcome = told(&attacker, whole[..cut].to_vec(), true).await;
            assert!(is_cut_off(&outcome), "cut at {cut}: {outcome:?}");
        }
        for _ in 0..30 {
            let len = random.below(4000) as usize + 5;
            let outcome = told(&attacker, random.bytes(len), true).await;
            assert!(outcome.is_err(), "{outcome:?}");
        }
        // Before the greeting nothing is answered.
        let connection = attacker.connect().await;
        let (mut writer, mut reader) = connection.open().await.unwrap();
        writer.send(&Message::Statistics).await.unwrap();
        assert!(reader.next().await.is_err());
        assert!(is_cut_off(&Err(connection.ended().await)));
    });
    house.backup(&source);
    assert!(appliance.is_running());
    let log = appliance.log();
    assert!(log.matches("the protocol was broken").count() > 40, "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// A stolen `backup` key asks for everything else, message by message.
#[test]
fn a_stolen_key_opens_nothing_more() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    std::fs::write(source.join("x"), Random(3).bytes(100_000)).unwrap();
    let snapshot = house.backup(&source);
    let attacker = Attacker::of(&appliance.client("backup", &["mine/*"]), &appliance);
    let name = chunkstore::id::SnapshotId::from_hex(&snapshot).unwrap().0.to_vec();
    let mark = {
        let slot = std::fs::read_dir(appliance.repository().join("keys")).unwrap().next().unwrap().unwrap();
        std::fs::read(slot.path()).unwrap()
    };
    run(async {
        let denied = [
            Message::Read(vec![BlobId([1; 32])]),
            Message::Arrange(vec![BlobId([1; 32])]),
            Message::Store { kind: ObjectKind::Mark, bytes: vec![1; 100] },
            Message::Store { kind: ObjectKind::KeySlot, bytes: mark },
            Message::Remove(chunkstore::id::SlotId([1; 8])),
            Message::Statistics,
        ];
        for request in denied {
            let answer = told(&attacker, request.frame(), true).await.unwrap().unwrap();
            let Message::Refused(refusal) = answer else { panic!("{answer:?}") };
            assert_eq!(refusal.code, protocol::message::Code::Denied, "{request:?}");
        }
        let list = |kind| Message::List { kind, after: Vec::new() };
        let listed = told(&attacker, list(ObjectKind::Snapshot).frame(), true).await.unwrap();
        assert!(matches!(listed, Some(Message::Names { names, .. }) if names.is_empty()));
        let fetch = Message::Fetch { kind: ObjectKind::Snapshot, names: vec![name] };
        let fetched = told(&attacker, fetch.frame(), true).await.unwrap();
        let Some(Message::Refused(refusal)) = fetched else { panic!("{fetched:?}") };
        assert_eq!(refusal.code, protocol::message::Code::Missing, "as if it were not there");

        // Another repository's name, of which it was granted nothing.
        let connection = attacker.connect().await;
        let (mut writer, mut reader) = connection.open().await.unwrap();
        let hello = Message::Hello { version: VERSION, repository: "other".into(), program: "x".into() };
        writer.send(&hello).await.unwrap();
        assert!(matches!(reader.expect().await.unwrap(), Message::Refused(_)));
    });
    // Whoever was never invited does not even get a connection.
    let stranger = Attacker { key: NodeKey::generate().unwrap(), ..attacker };
    run(async {
        let connection = Connection::connect(&stranger.place, &stranger.key, stranger.server, Purpose::Work).await;
        let error = match connection {
            Ok(connection) => connection.ended().await,
            Err(error) => error,
        };
        assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
    });
    assert_eq!(house.snapshots(), [snapshot]);
}

#[test]
fn many_and_slow_ones_hold_nobody_up() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    std::fs::write(source.join("x"), Random(4).bytes(3_000_000)).unwrap();
    let slow = Attacker::of(&appliance.client("admin", &[]), &appliance);
    run(async {
        // Announces much, sends little; reads nothing of what it asks for; opens more than it may.
        let mut held = Vec::new();
        for _ in 0..3 {
            let (connection, control) = slow.session().await;
            let mut streams = Vec::new();
            for _ in 0..14 {
                let (mut writer, reader) = connection.open().await.unwrap();
                writer.send(&Message::Push).await.unwrap();
                writer.send_frame([&(20u32 << 20).to_le_bytes()[..], &[35]].concat().into()).await.unwrap();
                writer.send_frame(vec![7; 50_000].into()).await.unwrap();
                streams.push((writer, reader));
            }
            held.push((connection, control, streams));
        }
        let before = house.snapshots().len();
        let backup = tokio::task::spawn_blocking({
            let mut command = house.command(["backup", "files", source.to_str().unwrap()]);
            move || crate::support::program::told(&mut command)
        });
        backup.await.unwrap().expect(0);
        assert_eq!(before, 0);
        // One more than a client may have.
        let (_fourth, _control) = slow.session().await;
        let fifth = slow.connect().await;
        assert!(matches!(fifth.ended().await, Error::Closed { code: 4, .. }));
        drop(held);
    });
    // Half-open handshakes: datagrams that begin like one.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = Random(5);
    for _ in 0..3000 {
        let mut datagram = random.bytes(1200);
        datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        let _ = socket.send_to(&datagram, &appliance.address);
    }
    house.ok(["snapshots"]);
    let peak = appliance.memory_peak_kib();
    assert!(peak < 400 << 10, "{peak} KiB");
}

#[test]
fn tokens_are_not_to_be_guessed() {
    let appliance = Appliance::new();
    let token = Token::from_text(&appliance.invite("admin", &[])).unwrap();
    let key = NodeKey::generate().unwrap();
    let attempt = async |proof: [u8; 32]| {
        let connection = Connection::connect(&appliance.address, &key, token.server, Purpose::Enrol).await.unwrap();
        let (mut writer, mut reader) = connection.open().await.unwrap();
        let name = "x".to_owned();
        let enroll = Message::Enroll { version: VERSION, invitation: token.invitation, proof, writer: [0; 32], name };
        writer.send(&enroll).await.unwrap();
        match reader.expect().await.unwrap() {
            Message::Refused(refusal) => refusal.code,
            other => panic!("{other:?}"),
        }
    };
    run(async {
        use protocol::message::Code;
        assert_eq!(attempt([1; 32]).await, Code::Invitation);
        // A proof that was good in another connection is none in this one.
        let elsewhere = Token::proof(&token.secret, &[0; 32], key.id());
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(attempt(*elsewhere.as_bytes()).await, Code::Invitation);
    });
    assert!(appliance.ok(&["clients", "list"]).is_empty());
}

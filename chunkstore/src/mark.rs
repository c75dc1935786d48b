//! Later words about a snapshot: forgotten, pinned, labelled (`docs/format.md`, section 11). Grow-only; merged by union.
//!
//! Form needs no key; that a key holder made a mark is for [`Mark::authenticate`]. A server, which has no key, signs its
//! words instead. The order in which marks arrive means nothing: their counters and ids do.

use crate::coding::{Decoder, Encoder};
use crate::error::{Error, Result};
use crate::id::{MarkId, RepositoryId, SnapshotId};
use crate::key::WriteKey;
use crate::snapshot::{Writer, is_signed, validate_label};
use std::collections::BTreeSet;

const MAGIC: &[u8; 8] = b"NKmark\0\x01";
/// Of a mark that a server signed, which has no key.
const MAGIC_SIGNED: &[u8; 8] = b"NKmark\0\x02";
const OBJECT_BYTES_MAX: usize = 64 << 10;
const MAC_LEN: usize = 32;
const SIGNATURE_LEN: usize = 64;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Forget,
    Undelete,
    Pin,
    Unpin,
    AddLabel(String),
    RemoveLabel(String),
}

impl Action {
    fn number(&self) -> u8 {
        match self {
            Action::Forget => 1,
            Action::Undelete => 2,
            Action::Pin => 3,
            Action::Unpin => 4,
            Action::AddLabel(_) => 5,
            Action::RemoveLabel(_) => 6,
        }
    }

    fn text(&self) -> &str {
        match self {
            Action::AddLabel(label) | Action::RemoveLabel(label) => label,
            _ => "",
        }
    }

    fn decode(number: u8, text: &[u8]) -> Option<Action> {
        let label = || Some(validate_label(std::str::from_utf8(text).ok()?).ok()?.to_owned());
        Some(match (number, text) {
            (1, []) => Action::Forget,
            (2, []) => Action::Undelete,
            (3, []) => Action::Pin,
            (4, []) => Action::Unpin,
            (5, _) => Action::AddLabel(label()?),
            (6, _) => Action::RemoveLabel(label()?),
            _ => return None,
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    pub repository: RepositoryId,
    pub snapshot: SnapshotId,
    pub action: Action,
    pub counter: u64,
    /// Nanoseconds since 1970.
    pub time: i64,
}

impl Mark {
    /// The object, authenticated. A label must be a valid one ([`validate_label`]).
    pub fn encode(&self, key: &WriteKey) -> Vec<u8> {
        let mut e = self.encoder(MAGIC);
        let mac = blake3::keyed_hash(&key.snapshot, &e.bytes);
        e.raw(mac.as_bytes());
        e.bytes
    }

    /// The object, as the word of a server: it can only forget and undelete.
    pub fn sign(&self, server: &Writer) -> Result<Vec<u8>> {
        let mut e = self.encoder(MAGIC_SIGNED);
        e.raw(&server.public_key());
        let signature = server.sign(&e.bytes)?;
        e.raw(&signature);
        Mark::parse(&e.bytes, &self.repository)?;
        Ok(e.bytes)
    }

    fn encoder(&self, magic: &[u8]) -> Encoder {
        let mut e = Encoder::new();
        e.raw(magic).raw(&self.repository.0).raw(&self.snapshot.0);
        e.u8(self.action.number()).u64(self.counter).i64(self.time).bytes(self.action.text().as_bytes());
        e
    }

    /// Form only, and a server's signature: needs no key.
    pub fn parse(bytes: &[u8], repository: &RepositoryId) -> Result<(MarkId, Mark)> {
        let id = MarkId(*blake3::hash(bytes).as_bytes());
        let object = format!("mark {id}");
        let mut d = Decoder::new(bytes, &object);
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(d.corrupt(format!("it has {} bytes", bytes.len())));
        }
        let is_signed = bytes.starts_with(MAGIC_SIGNED);
        d.magic(if is_signed { MAGIC_SIGNED } else { MAGIC })?;
        let of = RepositoryId(d.array()?);
        if of != *repository {
            return Err(d.corrupt(format!("it belongs to repository {of}")));
        }
        let snapshot = SnapshotId(d.array()?);
        let number = d.u8()?;
        let (counter, time) = (d.u64()?, d.i64()?);
        let text = d.bytes(OBJECT_BYTES_MAX, "a label")?;
        let action =
            Action::decode(number, text).ok_or_else(|| d.corrupt(format!("action {number} with this text is none")))?;
        if is_signed {
            if !matches!(action, Action::Forget | Action::Undelete) {
                return Err(d.corrupt("a server may not say this"));
            }
            d.raw(32 + SIGNATURE_LEN)?;
        } else {
            d.raw(MAC_LEN)?;
        }
        d.finish()?;
        if is_signed && Mark::server(bytes).is_none() {
            return Err(Error::corrupt(object, "its signature is not that of its server"));
        }
        Ok((id, Mark { repository: of, snapshot, action, counter, time }))
    }

    /// The server whose word an object is, if its signature is right; None for what a key holder made.
    pub fn server(object: &[u8]) -> Option<[u8; 32]> {
        let (signed, signature) = object.split_last_chunk::<SIGNATURE_LEN>()?;
        let (_, server) = signed.split_last_chunk::<32>().filter(|_| object.starts_with(MAGIC_SIGNED))?;
        is_signed(server, signed, signature).then_some(*server)
    }

    /// Checks that a key holder made it.
    pub fn authenticate(bytes: &[u8], key: &WriteKey) -> Result<()> {
        match bytes.split_last_chunk::<MAC_LEN>() {
            Some((before, mac)) if blake3::keyed_hash(&key.snapshot, before) == *mac => Ok(()),
            _ => {
                let object = format!("mark {}", blake3::hash(bytes));
                Err(Error::corrupt(object, "no holder of the repository's key made it"))
            }
        }
    }
}

/// Whose words about snapshots count. Those of servers other than the named one never do: each decides for itself alone.
#[derive(Clone, Copy)]
pub enum Believed<'a> {
    /// Who can tell a key holder's mark; and the server that keeps the repository, if one does.
    Key(&'a WriteKey, Option<[u8; 32]>),
    /// A server: its own, and whatever came in under a role that may leave marks.
    Server([u8; 32]),
}

impl Believed<'_> {
    /// `object` is one that [`Mark::parse`] accepts.
    pub fn counts(&self, object: &[u8]) -> bool {
        match (self, Mark::server(object)) {
            (Believed::Key(_, own), Some(server)) => *own == Some(server),
            (Believed::Server(own), Some(server)) => *own == server,
            (Believed::Key(key, _), None) => Mark::authenticate(object, key).is_ok(),
            (Believed::Server(_), None) => true,
        }
    }
}

/// A snapshot's state: the fold of its marks.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct State {
    /// When it was forgotten, unless it was brought back since; of several times the last in the order of marks.
    pub forgotten: Option<i64>,
    pub pinned: bool,
    pub labels: BTreeSet<String>,
}

impl State {
    /// `labels` are the snapshot's own; `marks` are those of this snapshot in any order.
    pub fn fold(labels: &[String], marks: &[(MarkId, Mark)]) -> State {
        let mut ordered: Vec<&(MarkId, Mark)> = marks.iter().collect();
        ordered.sort_unstable_by_key(|(id, mark)| (mark.counter, *id));
        let mut state = State { labels: labels.iter().cloned().collect(), ..State::default() };
        for (_, mark) in ordered {
            match &mark.action {
                Action::Forget => state.forgotten = Some(mark.time),
                Action::Undelete => state.forgotten = None,
                Action::Pin => state.pinned = true,
                Action::Unpin => state.pinned = false,
                Action::AddLabel(label) => {
                    state.labels.insert(label.clone());
                }
                Action::RemoveLabel(label) => {
                    state.labels.remove(label);
                }
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Configuration, Kem};
    use crate::key::Keys;
    use proptest::prelude::*;

    const REPOSITORY: RepositoryId = RepositoryId([3; 16]);

    fn write_key(repository: RepositoryId) -> WriteKey {
        let configuration = Configuration { kem: Kem::X25519, ..Configuration::new(repository, 0) };
        Keys::generate(&configuration).unwrap().write
    }

    fn action() -> impl Strategy<Value = Action> {
        let label = || prop::sample::select(vec!["a", "b", "nightly", "ö"]).prop_map(str::to_owned);
        prop_oneof![
            Just(Action::Forget),
            Just(Action::Undelete),
            Just(Action::Pin),
            Just(Action::Unpin),
            label().prop_map(Action::AddLabel),
            label().prop_map(Action::RemoveLabel),
        ]
    }

    fn mark() -> impl Strategy<Value = Mark> {
        (any::<[u8; 32]>(), action(), any::<u64>(), any::<i64>()).prop_map(|(snapshot, action, counter, time)| Mark {
            repository: REPOSITORY,
            snapshot: SnapshotId(snapshot),
            action,
            counter,
            time,
        })
    }

    /// Marks of one snapshot with few counters, so that many are equal.
    fn marks() -> impl Strategy<Value = Vec<(MarkId, Mark)>> {
        let one = (any::<[u8; 32]>(), action(), 0u64..4, 0i64..100).prop_map(|(id, action, counter, time)| {
            let snapshot = SnapshotId::default();
            (MarkId(id), Mark { repository: REPOSITORY, snapshot, action, counter, time })
        });
        prop::collection::vec(one, 0..12)
    }

    fn numbered(actions: &[Action]) -> State {
        let marks: Vec<_> = (1u64..)
            .zip(actions)
            .map(|(counter, action)| {
                let time = counter.cast_signed() * 100;
                let mark = Mark {
                    repository: REPOSITORY,
                    snapshot: SnapshotId::default(),
                    action: action.clone(),
                    counter,
                    time,
                };
                (MarkId::default(), mark)
            })
            .collect();
        State::fold(&["own".into()], &marks)
    }

    proptest! {
        #[test]
        fn round_trip(mark in mark()) {
            let key = write_key(REPOSITORY);
            let bytes = mark.encode(&key);
            let (id, parsed) = Mark::parse(&bytes, &REPOSITORY).unwrap();
            prop_assert_eq!(parsed, mark);
            prop_assert_eq!(id.0, *blake3::hash(&bytes).as_bytes());
            Mark::authenticate(&bytes, &key).unwrap();
        }

        #[test]
        fn order_and_repetition_of_marks_mean_nothing(
            (marks, shuffled) in marks().prop_flat_map(|marks| (Just(marks.clone()), Just(marks).prop_shuffle())),
            again in 0usize..12,
        ) {
            let own = ["own".to_owned(), "a".to_owned()];
            let state = State::fold(&own, &marks);
            prop_assert_eq!(&State::fold(&own, &shuffled), &state);
            let mut repeated = shuffled.clone();
            repeated.extend(shuffled.into_iter().take(again));
            prop_assert_eq!(State::fold(&own, &repeated), state);
        }
    }

    #[test]
    fn every_damage_is_refused() {
        let key = write_key(REPOSITORY);
        for action in [Action::Forget, Action::AddLabel("weekly".into())] {
            let mark = Mark { repository: REPOSITORY, snapshot: SnapshotId([9; 32]), action, counter: 7, time: -1 };
            let bytes = mark.encode(&key);
            let accepted =
                |bytes: &[u8]| Mark::parse(bytes, &REPOSITORY).and_then(|_| Mark::authenticate(bytes, &key)).is_ok();
            assert!(accepted(&bytes));
            for at in 0..bytes.len() {
                assert!(!accepted(&bytes[..at]), "cut at {at}");
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[at] ^= 1 << bit;
                    assert!(!accepted(&flipped), "byte {at} bit {bit}");
                }
            }
            assert!(!accepted(&[&bytes[..], &[0]].concat()));
        }
    }

    #[test]
    fn a_server_signs_what_it_says_and_can_say_little() {
        let (server, _) = Writer::generate().unwrap();
        let mark =
            |action| Mark { repository: REPOSITORY, snapshot: SnapshotId([9; 32]), action, counter: 7, time: -1 };
        let forget = mark(Action::Forget);
        let bytes = forget.sign(&server).unwrap();
        assert_eq!(Mark::parse(&bytes, &REPOSITORY).unwrap().1, forget);
        assert_eq!(Mark::server(&bytes), Some(server.public_key()));
        mark(Action::Undelete).sign(&server).unwrap();
        for action in [Action::Pin, Action::Unpin, Action::AddLabel("x".into()), Action::RemoveLabel("x".into())] {
            assert!(mark(action).sign(&server).is_err());
        }
        for at in 0..bytes.len() {
            assert!(Mark::parse(&bytes[..at], &REPOSITORY).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(Mark::parse(&flipped, &REPOSITORY).is_err(), "byte {at} bit {bit}");
            }
        }
        let key = write_key(REPOSITORY);
        let own = forget.encode(&key);
        assert_eq!(Mark::server(&own), None);
        let (one, other) = (server.public_key(), [3; 32]);
        let believed = [
            (Believed::Key(&key, None), true, false),
            (Believed::Key(&key, Some(one)), true, true),
            (Believed::Key(&key, Some(other)), true, false),
            (Believed::Key(&write_key(REPOSITORY), Some(one)), false, true),
            (Believed::Server(one), true, true),
            (Believed::Server(other), true, false),
        ];
        for (number, (believed, of_key, of_server)) in believed.into_iter().enumerate() {
            assert_eq!((believed.counts(&own), believed.counts(&bytes)), (of_key, of_server), "{number}");
        }
    }

    #[test]
    fn what_is_no_mark_is_refused_without_a_key() {
        let mark =
            |action| Mark { repository: REPOSITORY, snapshot: SnapshotId::default(), action, counter: 1, time: 1 };
        let key = write_key(REPOSITORY);
        let parse = |bytes: &[u8]| Mark::parse(bytes, &REPOSITORY);
        let forget = mark(Action::Forget).encode(&key);
        assert!(Mark::parse(&forget, &RepositoryId([4; 16])).is_err(), "another repository's");
        let action_at = 8 + 16 + 32;
        for number in [0, 5, 6, 7, 255] {
            let mut bytes = forget.clone();
            bytes[action_at] = number;
            assert!(parse(&bytes).is_err(), "action {number} without text");
        }
        let label = mark(Action::AddLabel("x".into())).encode(&key);
        for number in 0..5 {
            let mut bytes = label.clone();
            bytes[action_at] = number;
            assert!(parse(&bytes).is_err(), "action {number} with text");
        }
        for text in ["", "a\nb", "\u{1b}[2J"] {
            assert!(parse(&mark(Action::AddLabel(text.into())).encode(&key)).is_err(), "label {text:?}");
        }
        assert!(parse(&mark(Action::AddLabel("x".repeat(70_000))).encode(&key)).is_err(), "too large");
    }

    #[test]
    fn another_key_does_not_authenticate() {
        let mark =
            Mark { repository: REPOSITORY, snapshot: SnapshotId::default(), action: Action::Pin, counter: 1, time: 1 };
        let bytes = mark.encode(&write_key(REPOSITORY));
        assert!(Mark::authenticate(&bytes, &write_key(REPOSITORY)).is_err());
    }

    #[test]
    fn the_latest_word_counts() {
        use Action::{AddLabel, Forget, Pin, RemoveLabel, Undelete, Unpin};
        let forgotten = |actions: &[Action]| numbered(actions).forgotten;
        assert_eq!(forgotten(&[]), None);
        assert_eq!(forgotten(&[Forget]), Some(100));
        assert_eq!(forgotten(&[Forget, Undelete]), None);
        assert_eq!(forgotten(&[Undelete, Forget]), Some(200));
        assert_eq!(forgotten(&[Forget, Undelete, Forget]), Some(300));
        assert_eq!(forgotten(&[Forget, Forget, Pin]), Some(200));
        assert!(numbered(&[Unpin, Pin]).pinned);
        assert!(!numbered(&[Pin, Unpin]).pinned);
        let labels = |actions: &[Action]| numbered(actions).labels.into_iter().collect::<Vec<_>>();
        assert_eq!(labels(&[]), ["own"]);
        assert_eq!(labels(&[AddLabel("b".into()), AddLabel("a".into())]), ["a", "b", "own"]);
        assert_eq!(labels(&[AddLabel("b".into()), RemoveLabel("own".into())]), ["b"]);
        assert_eq!(labels(&[RemoveLabel("b".into()), AddLabel("b".into())]), ["b", "own"]);
    }
}

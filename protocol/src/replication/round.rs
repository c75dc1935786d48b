//! One round of a link: what the site that dials asks for, step by step, until both sides have what they want of each other.
//!
//! Each request is answered before the next one is asked for. What was done stays done: a round that is broken off is begun anew.

use super::difference;
use crate::message::{BATCH_MAX, FETCH_MAX, ObjectKind};
use chunkstore::id::{BlobId, SnapshotId};
use std::collections::{BTreeSet, VecDeque};

/// One of the two sites.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum End {
    /// The one that dials.
    Own,
    Peer,
}

impl End {
    pub fn other(self) -> End {
        match self {
            End::Own => End::Peer,
            End::Peer => End::Own,
        }
    }
}

/// What is in clear of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Described {
    pub id: SnapshotId,
    pub root: BlobId,
    /// Nanoseconds since 1970.
    pub time: i64,
    /// What it added when it was made.
    pub bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// [`Answer::Names`].
    List { at: End, kind: ObjectKind },
    /// Small objects that the other end does not have; [`Answer::Done`].
    Copy { from: End, kind: ObjectKind, names: Vec<Vec<u8>> },
    /// Which of these snapshots, that it does not have, does it want? [`Answer::Wanted`].
    Offer { to: End, snapshots: Vec<SnapshotId> },
    /// [`Answer::Described`], without those that are gone.
    Describe { at: End, snapshots: Vec<SnapshotId> },
    /// Everything below it, then itself; [`Answer::Transferred`].
    Transfer { from: End, snapshot: Described },
    /// Which blobs are lost there? [`Answer::Lost`].
    Lacking { at: End },
    /// Bring these blobs, as far as the other end has them; [`Answer::Done`].
    Heal { at: End, blobs: Vec<BlobId> },
    /// Tell the peer that we have these; none: all that we want. [`Answer::Done`].
    Held(Vec<SnapshotId>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Done,
    Names(Vec<Vec<u8>>),
    Wanted(Vec<bool>),
    Described(Vec<Described>),
    /// Whether it is there now; otherwise it could not be read and is tried again in another round.
    Transferred(bool),
    Lost(Vec<BlobId>),
}

/// What is left to do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Lag {
    pub snapshots: u64,
    pub bytes: u64,
    /// Of the oldest one, nanoseconds since 1970.
    pub oldest: Option<i64>,
}

pub struct Round {
    /// A lagging site takes and gives nothing.
    pull_only: bool,
    todo: VecDeque<Request>,
    asked: Option<Request>,
    /// Names at our end, while those of the peer are awaited.
    own: BTreeSet<Vec<u8>>,
    own_snapshots: BTreeSet<SnapshotId>,
    peer_snapshots: BTreeSet<SnapshotId>,
    transfers: Vec<(End, Described)>,
    are_transfers_planned: bool,
    is_told: bool,
    failed: u64,
}

impl Round {
    pub fn new(pull_only: bool) -> Round {
        let kinds = [ObjectKind::KeySlot, ObjectKind::Mark, ObjectKind::Snapshot];
        let lists = kinds.into_iter().flat_map(|kind| [End::Own, End::Peer].map(|at| Request::List { at, kind }));
        Round {
            pull_only,
            todo: lists.collect(),
            asked: None,
            own: BTreeSet::new(),
            own_snapshots: BTreeSet::new(),
            peer_snapshots: BTreeSet::new(),
            transfers: Vec::new(),
            are_transfers_planned: false,
            is_told: false,
            failed: 0,
        }
    }

    /// None when the round is over. The request that was asked for before was answered.
    pub fn next_request(&mut self) -> Option<Request> {
        if self.todo.is_empty() && !self.are_transfers_planned {
            self.plan_transfers();
        }
        if self.todo.is_empty() && self.failed == 0 && !std::mem::replace(&mut self.is_told, true) {
            self.todo.push_back(Request::Held(Vec::new()));
        }
        self.asked = self.todo.pop_front();
        self.asked.clone()
    }

    /// Answers that do not fit mean nothing: names that are gone, sets that changed meanwhile.
    pub fn answer(&mut self, answer: Answer) {
        let Some(asked) = self.asked.take() else { return };
        match (asked, answer) {
            (Request::List { at: End::Own, .. }, Answer::Names(names)) => self.own = names.into_iter().collect(),
            (Request::List { at: End::Peer, kind }, Answer::Names(names)) => {
                self.compare(kind, &names.into_iter().collect());
            }
            (Request::Offer { to, snapshots }, Answer::Wanted(wanted)) => {
                let wanted = snapshots.into_iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(id, _)| id);
                let snapshots: Vec<SnapshotId> = wanted.collect();
                for batch in snapshots.chunks(FETCH_MAX) {
                    self.todo.push_front(Request::Describe { at: to.other(), snapshots: batch.to_vec() });
                }
            }
            (Request::Describe { at, .. }, Answer::Described(found)) => {
                self.transfers.extend(found.into_iter().map(|snapshot| (at, snapshot)));
            }
            (Request::Transfer { from, snapshot }, Answer::Transferred(is_there)) => {
                self.transfers.retain(|(end, waiting)| (*end, waiting.id) != (from, snapshot.id));
                if is_there {
                    self.own_snapshots.insert(snapshot.id);
                    self.peer_snapshots.insert(snapshot.id);
                    if from == End::Peer {
                        self.todo.push_front(Request::Held(vec![snapshot.id]));
                    }
                } else {
                    self.failed += 1;
                }
            }
            (Request::Lacking { at }, Answer::Lost(blobs)) => {
                for batch in blobs.chunks(BATCH_MAX) {
                    self.todo.push_front(Request::Heal { at, blobs: batch.to_vec() });
                }
            }
            _ => {}
        }
    }

    pub fn lag(&self) -> Lag {
        Lag {
            snapshots: self.transfers.len() as u64,
            bytes: self.transfers.iter().map(|(_, snapshot)| snapshot.bytes).sum(),
            oldest: self.transfers.iter().map(|(_, snapshot)| snapshot.time).min(),
        }
    }

    /// Transfers that did not come to an end.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Snapshots that the peer has, as far as was found.
    pub fn at_peer(&self) -> &BTreeSet<SnapshotId> {
        &self.peer_snapshots
    }

    /// Snapshots that were offered to the peer and that it did not want, once the round is over.
    pub fn declined(&self) -> Vec<SnapshotId> {
        self.own_snapshots.difference(&self.peer_snapshots).copied().collect()
    }

    fn compare(&mut self, kind: ObjectKind, peer: &BTreeSet<Vec<u8>>) {
        let (only_own, only_peer) = difference(&self.own, peer);
        if kind == ObjectKind::Snapshot {
            self.own_snapshots = ids(&self.own);
            self.peer_snapshots = ids(peer);
            self.offer(End::Own, &only_peer);
            if !self.pull_only {
                self.offer(End::Peer, &only_own);
            }
            return;
        }
        let mut copies = Vec::new();
        for (from, names) in [(End::Peer, only_peer), (End::Own, only_own)] {
            if from == End::Own && self.pull_only {
                continue;
            }
            copies.extend(names.chunks(FETCH_MAX).map(|names| Request::Copy { from, kind, names: names.to_vec() }));
        }
        copies.into_iter().rev().for_each(|copy| self.todo.push_front(copy));
    }

    fn offer(&mut self, to: End, names: &[Vec<u8>]) {
        let snapshots: Vec<SnapshotId> = names.iter().filter_map(|name| SnapshotId::from_slice(name)).collect();
        self.todo.extend(snapshots.chunks(BATCH_MAX).map(|batch| Request::Offer { to, snapshots: batch.to_vec() }));
    }

    /// Everything is known: oldest first, then what heals, then what both are to know.
    fn plan_transfers(&mut self) {
        self.are_transfers_planned = true;
        self.transfers.sort_by_key(|(_, snapshot)| (snapshot.time, snapshot.id));
        let known: Vec<SnapshotId> = self.own_snapshots.iter().copied().collect();
        self.todo.extend(known.chunks(BATCH_MAX).map(|batch| Request::Held(batch.to_vec())));
        for (from, snapshot) in &self.transfers {
            self.todo.push_back(Request::Transfer { from: *from, snapshot: *snapshot });
        }
        self.todo.push_back(Request::Lacking { at: End::Own });
        if !self.pull_only {
            self.todo.push_back(Request::Lacking { at: End::Peer });
        }
    }
}

fn ids(names: &BTreeSet<Vec<u8>>) -> BTreeSet<SnapshotId> {
    names.iter().filter_map(|name| SnapshotId::from_slice(name)).collect()
}

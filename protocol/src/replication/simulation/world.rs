//! The world: sites, links with their two ends, packets on their way, and what befalls them.

use super::site::Site;
use crate::message::{ObjectKind, Refusal};
use crate::refusal::Code;
use crate::replication::{Action, Answer, Described, End, Request, Round, Transfer};
use chunkstore::id::{BlobId, MarkId, SnapshotId};
use chunkstore::mark::Mark;
use chunkstore::record::Record;
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) const CHAOS: i64 = 12_000;
const CALM: i64 = CHAOS + 20_000;
const RESEND: i64 = 300;

#[derive(Default, Clone, Copy, Debug)]
pub struct Tally {
    pub(super) transferred: u64,
    pub(super) broken: u64,
    pub(super) resent: u64,
    pub(super) crashes: u64,
    pub(super) disks: u64,
    pub(super) collected: u64,
    pub(super) healed: u64,
    pub(super) forgotten: u64,
    pub(super) pinned: u64,
    pub(super) refused: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        let Tally { transferred, broken, resent, crashes, disks, collected, healed, forgotten, pinned, refused } =
            other;
        self.transferred += transferred;
        self.broken += broken;
        self.resent += resent;
        self.crashes += crashes;
        self.disks += disks;
        self.collected += collected;
        self.healed += healed;
        self.forgotten += forgotten;
        self.pinned += pinned;
        self.refused += refused;
    }

    pub fn happened(&self) -> bool {
        let Tally { transferred, broken, resent, crashes, disks, collected, healed, forgotten, pinned, refused } =
            *self;
        [transferred, broken, resent, crashes, disks, collected, healed, forgotten, pinned, refused]
            .iter()
            .all(|count| *count > 0)
    }
}

/// What travels from the site that dials, and back.
#[derive(Clone)]
pub(super) enum Packet {
    List(ObjectKind),
    Copy(Vec<Vec<u8>>),
    Store(Vec<(MarkId, Mark)>),
    Offer(Vec<SnapshotId>),
    Describe(Vec<SnapshotId>),
    Ask(Vec<BlobId>),
    Read(Vec<BlobId>),
    Lacking,
    Held,
    /// In order, on a stream of their own.
    Put(Record),
    Commit(Described),
    Names(Vec<Vec<u8>>),
    Marks(Vec<(MarkId, Mark)>),
    Flags(Vec<bool>),
    Described(Vec<Described>),
    Record(Box<Option<Record>>, BlobId),
    Blobs(Vec<BlobId>),
    Committed(bool),
    Done,
}

impl Packet {
    fn is_stream(&self) -> bool {
        matches!(self, Packet::Put(_) | Packet::Commit(_) | Packet::Committed(_))
    }
}

pub(super) struct Link {
    pub(super) dials: usize,
    pub(super) answers: usize,
    pull_only: bool,
    pub(super) is_cut: bool,
    /// Counts connections: what belongs to an old one does not arrive.
    connection: u64,
    stream_free_at: i64,
    /// The stream of puts was refused.
    is_refused: bool,
    round: Option<Round>,
    working: Option<Working>,
    exchanges: HashMap<u64, Packet>,
}

/// What the dialling site is doing.
enum Working {
    Waiting,
    Transfer {
        from: End,
        snapshot: Described,
        transfer: Box<Transfer>,
    },
    /// Waits for records that heal.
    Healing {
        at: End,
        open: BTreeSet<BlobId>,
        found: Vec<Record>,
    },
}

pub(super) enum Event {
    Dial(usize),
    Deliver { link: usize, connection: u64, exchange: u64, packet: Packet, to_answering: bool },
    Resend { link: usize, connection: u64, exchange: u64 },
    Act,
}

pub struct World {
    random: u64,
    pub(super) now: i64,
    serial: u64,
    pub(super) queue: BTreeMap<(i64, u64), Event>,
    pub(super) sites: Vec<Site>,
    pub(super) links: Vec<Link>,
    pub(super) all: BTreeMap<SnapshotId, Described>,
    pub(super) ever_forgotten: BTreeSet<SnapshotId>,
    seed: u64,
    pub tally: Tally,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut world = World {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
            now: 0,
            serial: 0,
            queue: BTreeMap::new(),
            sites: Vec::new(),
            links: Vec::new(),
            all: BTreeMap::new(),
            ever_forgotten: BTreeSet::new(),
            seed,
            tally: Tally::default(),
        };
        let count = 2 + world.below(2);
        world.sites.resize_with(count, Site::default);
        // A pair, a chain, a star, a ring; sometimes both dial.
        let mut pairs: Vec<(usize, usize)> =
            (1..count).map(|site| (site, if world.chance(50) { site - 1 } else { 0 })).collect();
        if world.chance(30) {
            pairs.push((0, count - 1));
        }
        for (a, b) in pairs {
            let (dials, answers) = if world.chance(50) { (a, b) } else { (b, a) };
            world.links.push(Link::new(dials, answers));
        }
        for link in 0..world.links.len() {
            world.later(1, Event::Dial(link));
        }
        world.later(1, Event::Act);
        world
    }

    pub fn run(&mut self) {
        while let Some(((now, _), event)) = self.queue.pop_first() {
            if now > CALM {
                break;
            }
            self.now = now;
            let removes = matches!(event, Event::Act);
            match event {
                Event::Act => self.act(),
                Event::Dial(link) => self.dial(link),
                Event::Resend { link, connection, exchange } => self.resend(link, connection, exchange),
                Event::Deliver { link, connection, exchange, packet, to_answering } => {
                    if self.links[link].connection != connection {
                        continue;
                    }
                    if self.links[link].is_cut {
                        // A request is sent again; a stream that does not get on is the end of a connection.
                        if packet.is_stream() {
                            self.disconnect(link);
                        }
                        continue;
                    }
                    if to_answering {
                        self.serve(link, exchange, packet);
                    } else {
                        self.receive(link, exchange, packet);
                    }
                }
            }
            if removes {
                self.assert_whole();
            }
        }
    }

    /// Nothing that was not found damaged is missing below any snapshot.
    fn assert_whole(&self) {
        for (number, site) in self.sites.iter().enumerate() {
            let gaps: Vec<_> = if site.lost.is_empty() { site.gaps() } else { Vec::new() };
            assert!(gaps.is_empty(), "seed {}: site {number} at {} lacks blobs of {gaps:?}", self.seed, self.now);
        }
    }

    pub fn assert_converged(&self) {
        let marks: BTreeMap<MarkId, Mark> =
            self.sites.iter().flat_map(|site| &site.marks).map(|(id, (mark, _))| (*id, mark.clone())).collect();
        // What was deleted at all other sites and damaged at the last one nobody can bring back.
        let is_beyond_help = self.sites.iter().any(|site| !site.lost.is_empty());
        for (number, site) in self.sites.iter().enumerate() {
            let at = format!("seed {}: site {number}", self.seed);
            let gaps = site.gaps();
            for blob in &site.lost {
                let ends = self.links.iter().flat_map(|link| [(link.dials, link.answers), (link.answers, link.dials)]);
                let mut linked = ends.filter(|(one, _)| *one == number).map(|(_, other)| other);
                let elsewhere = linked.find(|other| self.read(*other, *blob).is_some());
                assert!(elsewhere.is_none(), "{at} has {blob} damaged, and site {elsewhere:?} has it");
            }
            assert_eq!(site.marks.len(), marks.len(), "{at} lacks marks");
            for (id, snapshot) in &self.all {
                let own: Vec<_> =
                    marks.iter().filter(|(_, m)| m.snapshot == *id).map(|(i, m)| (*i, m.clone())).collect();
                let is_there = site.snapshots.contains_key(id);
                if crate::replication::is_wanted(&own) && !is_beyond_help {
                    assert!(is_there, "{at} lacks snapshot {id} of {}", snapshot.time);
                    assert!(!gaps.contains(id), "{at} lacks something of {id}: {:?}", site.lost);
                }
            }
        }
    }

    // --- the network ---

    pub(super) fn disconnect(&mut self, number: usize) {
        let link = &mut self.links[number];
        if link.round.is_some() {
            self.tally.broken += 1;
        }
        let link = &mut self.links[number];
        let (dials, answers) = (link.dials, link.answers);
        link.connection += 1;
        link.round = None;
        link.working = None;
        link.exchanges.clear();
        // The session ends on both sides: what arrived lasts, what was leased is free.
        for site in [dials, answers] {
            self.sites[site].volatile.clear();
            self.sites[site].leases.remove(&(number as u64));
        }
        let pause = 10 + self.below(400);
        self.later(i64::try_from(pause).unwrap(), Event::Dial(number));
    }

    fn send(&mut self, number: usize, exchange: u64, packet: Packet, to_answering: bool) {
        let is_stream = packet.is_stream();
        let mut at = self.now + 5 + i64::try_from(self.below(60)).unwrap();
        if is_stream {
            at = at.max(self.links[number].stream_free_at + 1);
            self.links[number].stream_free_at = at;
        } else if self.is_chaos() && self.chance(3) {
            return;
        }
        let connection = self.links[number].connection;
        let copies = if !is_stream && self.is_chaos() && self.chance(4) { 2 } else { 1 };
        for copy in 0..copies {
            let packet = packet.clone();
            self.serial += 1;
            let event = Event::Deliver { link: number, connection, exchange, packet, to_answering };
            self.queue.insert((at + copy * 70, self.serial), event);
        }
        if self.is_chaos() && self.below(1000) < 4 {
            self.disconnect(number);
        }
    }

    /// A request to the answering site, sent again until it is answered.
    fn ask(&mut self, number: usize, packet: Packet) {
        self.serial += 1;
        let exchange = self.serial;
        self.links[number].exchanges.insert(exchange, packet.clone());
        let connection = self.links[number].connection;
        self.later(RESEND, Event::Resend { link: number, connection, exchange });
        self.send(number, exchange, packet, true);
    }

    fn resend(&mut self, number: usize, connection: u64, exchange: u64) {
        if self.links[number].connection != connection {
            return;
        }
        if self.links[number].is_cut {
            return self.disconnect(number);
        }
        let Some(packet) = self.links[number].exchanges.get(&exchange).cloned() else { return };
        self.tally.resent += 1;
        self.later(RESEND, Event::Resend { link: number, connection, exchange });
        self.send(number, exchange, packet, true);
    }

    // --- the site that answers ---

    fn serve(&mut self, number: usize, exchange: u64, packet: Packet) {
        let session = number as u64;
        let now = self.now;
        let site = &mut self.sites[self.links[number].answers];
        let answer = match packet {
            Packet::List(kind) => Packet::Names(names(site, kind)),
            Packet::Copy(wanted) => Packet::Marks(marks(site, &wanted)),
            Packet::Store(marks) => {
                marks.into_iter().for_each(|(id, mark)| site.mark(id, mark, now));
                Packet::Done
            }
            Packet::Offer(ids) => Packet::Flags(ids.iter().map(|id| site.wants(*id)).collect()),
            Packet::Describe(ids) => Packet::Described(described(site, &ids)),
            Packet::Ask(ids) => Packet::Flags(ids.iter().map(|id| site.present(*id, session)).collect()),
            Packet::Read(ids) => {
                for id in ids {
                    let record = self.read(self.links[number].answers, id);
                    self.send(number, exchange, Packet::Record(Box::new(record), id), false);
                }
                return;
            }
            Packet::Lacking => Packet::Blobs(site.lost.iter().copied().collect()),
            Packet::Held => Packet::Done,
            Packet::Put(record) => {
                if !self.links[number].is_refused && !site.put(record, session) {
                    self.links[number].is_refused = true;
                    self.tally.refused += 1;
                    self.send(number, 0, Packet::Committed(false), false);
                }
                return;
            }
            Packet::Commit(snapshot) => {
                if self.links[number].is_refused {
                    return;
                }
                Packet::Committed(site.commit(snapshot))
            }
            _ => unreachable!("an answer as a request"),
        };
        self.send(number, exchange, answer, false);
    }

    fn read(&self, site: usize, id: BlobId) -> Option<Record> {
        let site = &self.sites[site];
        site.blobs.get(&id).filter(|_| !site.lost.contains(&id)).cloned()
    }

    // --- the site that dials ---

    fn dial(&mut self, number: usize) {
        if self.links[number].is_cut {
            return self.later(100, Event::Dial(number));
        }
        if self.links[number].round.is_some() {
            return;
        }
        let link = &mut self.links[number];
        link.round = Some(Round::new(link.pull_only));
        link.is_refused = false;
        self.go_on(number);
    }

    fn answer(&mut self, number: usize, answer: Answer) {
        self.links[number].working = None;
        self.links[number].exchanges.clear();
        if let Some(round) = &mut self.links[number].round {
            round.answer(answer);
        }
        self.go_on(number);
    }

    fn go_on(&mut self, number: usize) {
        let Some(round) = &mut self.links[number].round else { return };
        let Some(request) = round.next_request() else {
            self.links[number].round = None;
            // In calm, until the end.
            return self.later(150, Event::Dial(number));
        };
        let own = self.links[number].dials;
        self.links[number].working = Some(Working::Waiting);
        match request {
            Request::List { at: End::Own, kind } => {
                let names = names(&self.sites[own], kind);
                self.answer(number, Answer::Names(names));
            }
            Request::List { at: End::Peer, kind } => self.ask(number, Packet::List(kind)),
            Request::Copy { from: End::Peer, names, .. } => self.ask(number, Packet::Copy(names)),
            Request::Copy { from: End::Own, names, .. } => {
                let marks = marks(&self.sites[own], &names);
                self.ask(number, Packet::Store(marks));
            }
            Request::Offer { to: End::Peer, snapshots } => self.ask(number, Packet::Offer(snapshots)),
            Request::Offer { to: End::Own, snapshots } => {
                let wanted = snapshots.iter().map(|id| self.sites[own].wants(*id)).collect();
                self.answer(number, Answer::Wanted(wanted));
            }
            Request::Describe { at: End::Peer, snapshots } => self.ask(number, Packet::Describe(snapshots)),
            Request::Describe { at: End::Own, snapshots } => {
                let found = described(&self.sites[own], &snapshots);
                self.answer(number, Answer::Described(found));
            }
            Request::Transfer { from, snapshot } => {
                let transfer = Box::new(Transfer::new(snapshot.root));
                self.links[number].working = Some(Working::Transfer { from, snapshot, transfer });
                self.drive(number);
            }
            Request::Lacking { at: End::Own } => {
                let lost = self.sites[own].lost.iter().copied().collect();
                self.answer(number, Answer::Lost(lost));
            }
            Request::Lacking { at: End::Peer } => self.ask(number, Packet::Lacking),
            Request::Heal { at, blobs } => {
                let open = blobs.iter().copied().collect();
                self.links[number].working = Some(Working::Healing { at, open, found: Vec::new() });
                match at {
                    End::Own => self.ask(number, Packet::Read(blobs)),
                    End::Peer => blobs.into_iter().for_each(|id| {
                        let record = self.read(own, id);
                        self.record_for_healing(number, id, record);
                    }),
                }
            }
            Request::Held(_) => self.ask(number, Packet::Held),
        }
    }

    /// Does what the transfer asks for until it waits.
    fn drive(&mut self, number: usize) {
        loop {
            let Some(Working::Transfer { from, snapshot, transfer }) = &mut self.links[number].working else { return };
            let (from, snapshot) = (*from, *snapshot);
            let Some(action) = transfer.next_action() else { return };
            let own = self.links[number].dials;
            match (action, from) {
                (Action::Ask(ids), End::Own) => self.ask(number, Packet::Ask(ids)),
                (Action::Ask(ids), End::Peer) => {
                    let present: Vec<bool> = ids.iter().map(|id| self.sites[own].present(*id, number as u64)).collect();
                    if let Some(Working::Transfer { transfer, .. }) = &mut self.links[number].working {
                        transfer.answered(&ids, &present);
                    }
                }
                (Action::Read(ids), End::Peer) => self.ask(number, Packet::Read(ids)),
                (Action::Read(ids), End::Own) => {
                    for id in ids {
                        let record = self.read(own, id);
                        if !self.give(number, id, record) {
                            return;
                        }
                    }
                }
                (Action::Put(record), End::Own) => self.send(number, 0, Packet::Put(record), true),
                (Action::Put(record), End::Peer) => {
                    if !self.sites[own].put(record, number as u64) {
                        self.tally.refused += 1;
                        return self.answer(number, Answer::Transferred(false));
                    }
                }
                (Action::Commit, End::Own) => self.send(number, 0, Packet::Commit(snapshot), true),
                (Action::Commit, End::Peer) => {
                    let is_there = self.sites[own].commit(snapshot);
                    self.tally.transferred += u64::from(is_there);
                    return self.answer(number, Answer::Transferred(is_there));
                }
            }
        }
    }

    /// A record of the source for the transfer; false if that ends it.
    fn give(&mut self, number: usize, id: BlobId, record: Option<Record>) -> bool {
        let Some(Working::Transfer { transfer, .. }) = &mut self.links[number].working else { return false };
        match record {
            Some(record) => transfer.arrived(record).unwrap(),
            None => {
                let _ = transfer.lost(Refusal::new(Code::Missing, id.to_string(), ""));
                self.answer(number, Answer::Transferred(false));
                return false;
            }
        }
        true
    }

    fn record_for_healing(&mut self, number: usize, id: BlobId, record: Option<Record>) {
        let Some(Working::Healing { at, open, found }) = &mut self.links[number].working else { return };
        if !open.remove(&id) {
            return;
        }
        found.extend(record);
        if !open.is_empty() {
            return;
        }
        let (at, found) = (*at, std::mem::take(found));
        let link = &self.links[number];
        let site = if at == End::Own { link.dials } else { link.answers };
        for record in crate::replication::healing_order(found) {
            self.tally.healed += u64::from(self.sites[site].put(record, number as u64));
        }
        self.answer(number, Answer::Done);
    }

    fn receive(&mut self, number: usize, exchange: u64, packet: Packet) {
        let now = self.now;
        let own = self.links[number].dials;
        if let Packet::Committed(is_there) = packet {
            if matches!(self.links[number].working, Some(Working::Transfer { from: End::Own, .. })) {
                self.tally.transferred += u64::from(is_there);
                if !is_there {
                    // A stream that was refused is over; so is this connection, for simplicity.
                    return self.disconnect(number);
                }
                self.answer(number, Answer::Transferred(true));
            }
            return;
        }
        let Some(asked) = self.links[number].exchanges.get(&exchange).cloned() else { return };
        if let Packet::Record(record, id) = packet {
            if let Packet::Read(mut open) = asked {
                open.retain(|asked| *asked != id);
                if open.is_empty() {
                    self.links[number].exchanges.remove(&exchange);
                } else {
                    self.links[number].exchanges.insert(exchange, Packet::Read(open));
                }
            }
            if matches!(self.links[number].working, Some(Working::Healing { .. })) {
                self.record_for_healing(number, id, *record);
            } else if self.give(number, id, *record) {
                self.drive(number);
            }
            return;
        }
        self.links[number].exchanges.remove(&exchange);
        match (asked, packet) {
            (Packet::Ask(ids), Packet::Flags(present)) => {
                if let Some(Working::Transfer { transfer, .. }) = &mut self.links[number].working {
                    transfer.answered(&ids, &present);
                    self.drive(number);
                }
            }
            (Packet::List(_), Packet::Names(names)) => self.answer(number, Answer::Names(names)),
            (Packet::Copy(_), Packet::Marks(marks)) => {
                marks.into_iter().for_each(|(id, mark)| self.sites[own].mark(id, mark, now));
                self.answer(number, Answer::Done);
            }
            (Packet::Offer(_), Packet::Flags(wanted)) => self.answer(number, Answer::Wanted(wanted)),
            (Packet::Describe(_), Packet::Described(found)) => self.answer(number, Answer::Described(found)),
            (Packet::Lacking, Packet::Blobs(lost)) => self.answer(number, Answer::Lost(lost)),
            (_, Packet::Done) => self.answer(number, Answer::Done),
            _ => unreachable!("an answer to another question"),
        }
    }

    // --- chance ---

    fn is_chaos(&self) -> bool {
        self.now < CHAOS
    }

    pub(super) fn later(&mut self, pause: i64, event: Event) {
        self.serial += 1;
        self.queue.insert((self.now + pause, self.serial), event);
    }

    pub(super) fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

impl Link {
    fn new(dials: usize, answers: usize) -> Link {
        Link {
            dials,
            answers,
            pull_only: false,
            is_cut: false,
            connection: 0,
            stream_free_at: 0,
            is_refused: false,
            round: None,
            working: None,
            exchanges: HashMap::new(),
        }
    }
}

fn names(site: &Site, kind: ObjectKind) -> Vec<Vec<u8>> {
    match kind {
        ObjectKind::Snapshot => site.snapshots.keys().map(|id| id.0.to_vec()).collect(),
        ObjectKind::Mark => site.marks.keys().map(|id| id.0.to_vec()).collect(),
        ObjectKind::KeySlot => Vec::new(),
    }
}

fn marks(site: &Site, names: &[Vec<u8>]) -> Vec<(MarkId, Mark)> {
    let ids = names.iter().filter_map(|name| MarkId::from_slice(name));
    ids.filter_map(|id| site.marks.get(&id).map(|(mark, _)| (id, mark.clone()))).collect()
}

fn described(site: &Site, ids: &[SnapshotId]) -> Vec<Described> {
    ids.iter().filter_map(|id| site.snapshots.get(id)).copied().collect()
}

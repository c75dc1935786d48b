//! A line between two servers, of datagrams: so long, so wide, so bad.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const DELAY: Duration = Duration::from_millis(40);
/// 100 Mbit/s.
const NANOS_PER_BYTE: u64 = 80;
const QUEUE: Duration = Duration::from_millis(100);
/// Larger ones do not go through, as in most of the world.
const DATAGRAM_MAX: usize = 1472;
const HEADS: usize = 28;

pub struct Line {
    pub address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    bytes: AtomicU64,
}

impl Line {
    /// One datagram in so many is lost; 0: none.
    pub fn to(target: &str, loss: u64) -> io::Result<Line> {
        let target: SocketAddr = target.parse().map_err(io::Error::other)?;
        let front = UdpSocket::bind("127.0.0.1:0")?;
        let address = front.local_addr()?.to_string();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::spawn(move || forward(&front, target, loss, &own));
        Ok(Line { address, shared })
    }

    /// In both directions, with the heads of UDP and IP.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

/// Until the line is dropped. Each end that comes gets a socket of its own towards the target.
fn forward(front: &UdpSocket, target: SocketAddr, loss: u64, shared: &Arc<Shared>) -> Option<()> {
    let mut ways: HashMap<SocketAddr, Way> = HashMap::new();
    receive(front, shared, |datagram, from| {
        if let Entry::Vacant(vacant) = ways.entry(from) {
            let back = UdpSocket::bind("127.0.0.1:0").ok()?;
            back.connect(target).ok()?;
            let there = Way::new(back.try_clone().ok()?, None, loss, 1, shared);
            let mut here = Way::new(front.try_clone().ok()?, Some(from), loss, 2, shared);
            let own = Arc::clone(shared);
            std::thread::spawn(move || {
                receive(&back, &own, |datagram, _| {
                    here.send(datagram);
                    Some(())
                })
            });
            vacant.insert(there);
        }
        ways.get_mut(&from).map(|way| way.send(datagram))
    })
}

fn receive(socket: &UdpSocket, shared: &Shared, mut each: impl FnMut(&[u8], SocketAddr) -> Option<()>) -> Option<()> {
    socket.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
    let mut buffer = vec![0; 1 << 16];
    while !shared.is_over.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            each(buffer.get(..len)?, from)?;
        }
    }
    Some(())
}

/// One direction.
struct Way {
    loss: u64,
    random: u64,
    free_at: Instant,
    waiting: Arc<(Mutex<VecDeque<(Instant, Vec<u8>)>>, Condvar)>,
    shared: Arc<Shared>,
}

impl Way {
    fn new(socket: UdpSocket, to: Option<SocketAddr>, loss: u64, seed: u64, shared: &Arc<Shared>) -> Way {
        let waiting: Arc<(Mutex<VecDeque<(Instant, Vec<u8>)>>, Condvar)> = Arc::default();
        let (queue, own) = (Arc::clone(&waiting), Arc::clone(shared));
        std::thread::spawn(move || deliver(&socket, to, &queue, &own));
        let random = 88_172_645_463_325_252 * seed;
        Way { loss, random, free_at: Instant::now(), waiting, shared: Arc::clone(shared) }
    }

    fn send(&mut self, datagram: &[u8]) {
        let bytes = (datagram.len() + HEADS) as u64;
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let now = Instant::now();
        let is_lost = self.loss > 0 && self.random.is_multiple_of(self.loss);
        let waits = self.free_at.saturating_duration_since(now);
        if is_lost || waits > QUEUE || datagram.len() > DATAGRAM_MAX {
            return;
        }
        self.free_at = self.free_at.max(now) + Duration::from_nanos(bytes * NANOS_PER_BYTE);
        let (queue, comes) = &*self.waiting;
        queue.lock().unwrap_or_else(PoisonError::into_inner).push_back((self.free_at + DELAY, datagram.to_vec()));
        comes.notify_one();
    }
}

/// What has gone its way.
fn deliver(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    (queue, comes): &(Mutex<VecDeque<(Instant, Vec<u8>)>>, Condvar),
    shared: &Shared,
) {
    let mut waiting = queue.lock().unwrap_or_else(PoisonError::into_inner);
    while !shared.is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        let pause = match waiting.front() {
            Some((at, _)) if *at <= now => Duration::ZERO,
            Some((at, _)) => *at - now,
            None => Duration::from_millis(200),
        };
        if pause.is_zero() {
            if let Some((_, datagram)) = waiting.pop_front() {
                drop(waiting);
                put(socket, to, &datagram);
                waiting = queue.lock().unwrap_or_else(PoisonError::into_inner);
            }
        } else {
            waiting = comes.wait_timeout(waiting, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn put(socket: &UdpSocket, to: Option<SocketAddr>, datagram: &[u8]) {
    // A datagram that cannot be sent is lost, as on any line.
    let _ = match to {
        Some(to) => socket.send_to(datagram, to),
        None => socket.send(datagram),
    };
}

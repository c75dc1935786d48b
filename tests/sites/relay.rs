//! A way between a site and its peer that can be cut: datagrams go on, or into the void. Counts what goes over.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Relay {
    pub address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_cut: AtomicBool,
    is_over: AtomicBool,
    bytes: AtomicU64,
    /// Cuts itself after so many bytes; 0 for never.
    cut_after: AtomicU64,
}

impl Relay {
    pub fn to(target: &str) -> Relay {
        let target: SocketAddr = target.parse().unwrap();
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::spawn(move || forward(&front, target, &own));
        Relay { address, shared }
    }

    pub fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::SeqCst);
    }

    /// After so many more bytes.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.cut_after.store(self.bytes() + bytes, Ordering::SeqCst);
    }

    pub fn heal(&self) {
        self.shared.cut_after.store(0, Ordering::SeqCst);
        self.shared.is_cut.store(false, Ordering::SeqCst);
    }

    pub fn is_cut(&self) -> bool {
        self.shared.is_cut.load(Ordering::SeqCst)
    }

    /// In both directions, so far.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn lets_through(&self, len: usize) -> bool {
        if self.is_cut.load(Ordering::SeqCst) {
            return false;
        }
        let sum = self.bytes.fetch_add(len as u64, Ordering::SeqCst) + len as u64;
        let limit = self.cut_after.load(Ordering::SeqCst);
        if limit > 0 && sum >= limit {
            self.is_cut.store(true, Ordering::SeqCst);
        }
        true
    }
}

fn forward(front: &UdpSocket, target: SocketAddr, shared: &Arc<Shared>) {
    front.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let backs: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>> = Mutex::default();
    let mut buffer = vec![0; 65_536];
    while !shared.is_over.load(Ordering::SeqCst) {
        let Ok((len, from)) = front.recv_from(&mut buffer) else { continue };
        let back = Arc::clone(backs.lock().unwrap().entry(from).or_insert_with(|| {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
            back.connect(target).unwrap();
            back.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let (own, front, shared) = (Arc::clone(&back), front.try_clone().unwrap(), Arc::clone(shared));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !shared.is_over.load(Ordering::SeqCst) {
                    let Ok(len) = own.recv(&mut buffer) else { continue };
                    if shared.lets_through(len) {
                        let _ = front.send_to(&buffer[..len], from);
                    }
                }
            });
            back
        }));
        if shared.lets_through(len) {
            let _ = back.send(&buffer[..len]);
        }
    }
}

//! How much may be under way at once: CUBIC (RFC 9438) that gives way to full queues and not to bad lines. Pure.
//!
//! A queue shows in round trips that all take longer than the shortest one did. A loss without that is taken for the line's, unless
//! there are so many that a queue too short to show may be what drops them. `docs/replication.md`, section 7, has the reasons.

use std::time::{Duration, Instant};

/// Of the window, after a loss.
const BETA: f64 = 0.7;
/// Packets that it grows by in the third power of a second.
const GROWTH: f64 = 0.4;
/// Packets that it grows by in a round trip where that is more.
const RENO_GROWTH: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// Packets.
const WINDOW_MIN: f64 = 2.0;

/// A queue shows from this part of the shortest round trip on, and from this time on.
const QUEUE_PART: u32 = 4;
const QUEUE_MIN: Duration = Duration::from_millis(2);
/// One packet in so many may be lost to the line, as seen over this many packets at least.
const LOSS_PART: u64 = 24;
const PACKETS: u64 = 1024;
const LOST_MIN: u64 = 16;

/// From so many packets on a round says something.
const SAMPLES: u32 = 8;
/// The beginning ends in steps once round trips of one round are so much longer than in the round before (RFC 9406).
const RISE_PART: u32 = 8;
const RISE_MIN: Duration = Duration::from_millis(4);
const RISE_MAX: Duration = Duration::from_millis(16);

const SLOWER: f64 = 4.0;
const SLOWER_ROUNDS: u32 = 5;

/// Of one way.
#[derive(Clone, Debug)]
pub struct Congestion {
    packet: u64,
    window: f64,
    /// None until the first time that it gave way.
    threshold: Option<f64>,
    /// When it gave way last: what was sent before says nothing new.
    gave_way: Option<Instant>,
    epoch: Option<Epoch>,
    window_before: f64,
    losses: Losses,
    rounds: Rounds,
}

/// The time since which the window grows by CUBIC's curve.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    began: Instant,
    /// Where the curve is flat, and in how many seconds.
    top: f64,
    until_top: f64,
    /// What Reno's would be.
    reno: f64,
}

/// An acknowledgement, as the sender has it.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    pub now: Instant,
    pub sent: Instant,
    pub bytes: u64,
    /// Not the window is what limits.
    pub is_idle: bool,
    /// Smoothed.
    pub round_trip: Duration,
    pub shortest: Duration,
}

impl Congestion {
    pub fn new(initial: u64, packet: u16) -> Congestion {
        Congestion {
            packet: packet.into(),
            window: float(initial),
            threshold: None,
            gave_way: None,
            epoch: None,
            window_before: 0.0,
            losses: Losses::default(),
            rounds: Rounds::default(),
        }
    }

    /// Bytes.
    pub fn window(&self) -> u64 {
        whole(self.window)
    }

    pub fn set_packet(&mut self, packet: u16) {
        self.packet = packet.into();
        self.window = self.window.max(self.least());
    }

    pub fn arrived(&mut self, ack: Arrived) {
        self.rounds.arrived(&ack);
        self.losses.arrived(ack.bytes, self.packet);
        if ack.is_idle {
            self.epoch = None;
            return;
        }
        if self.gave_way.is_some_and(|then| ack.sent <= then) {
            return;
        }
        if self.threshold.is_none_or(|threshold| self.window < threshold) {
            self.begin(&ack);
        } else {
            self.grow(&ack);
        }
    }

    /// Doubles in a round trip, less fast once a queue builds up.
    fn begin(&mut self, ack: &Arrived) {
        let speed = if self.threshold.is_some() { 1.0 } else { self.rounds.speed() };
        if speed == 0.0 {
            self.threshold = Some(self.window);
            return;
        }
        self.window += float(ack.bytes) * speed;
    }

    fn grow(&mut self, ack: &Arrived) {
        let (packet, window, before) = (float(self.packet), self.window, self.window_before);
        let epoch = self.epoch.get_or_insert_with(|| {
            let top = before.max(window);
            let until_top = ((top - window) / packet / GROWTH).cbrt();
            Epoch { began: ack.now, top, until_top, reno: window }
        });
        let time = (ack.now.saturating_duration_since(epoch.began) + ack.round_trip).as_secs_f64();
        let curve = epoch.top + GROWTH * (time - epoch.until_top).powi(3) * packet;
        let part = float(ack.bytes) / window;
        epoch.reno += part * packet * if epoch.reno < before { RENO_GROWTH } else { 1.0 };
        let grown = window + (curve.clamp(window, window * 1.5) - window) * part;
        self.window = grown.max(epoch.reno);
    }

    /// Packets of so many bytes are lost, the last of which was sent then; no bytes: a router says that its queue fills.
    pub fn lost(&mut self, now: Instant, sent: Instant, bytes: u64, is_all: bool) {
        if self.gave_way.is_some_and(|then| sent <= then) {
            return;
        }
        let is_heavy = self.losses.is_heavy(bytes, self.packet);
        if !(is_heavy || self.rounds.shows_queue() || is_all || bytes == 0) {
            return;
        }
        self.losses = Losses::default();
        self.gave_way = Some(now);
        self.epoch = None;
        // Whoever got less than before leaves more for others.
        let is_less = self.window < self.window_before;
        self.window_before = if is_less { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        let threshold = (self.window * BETA).max(self.least());
        self.threshold = Some(threshold);
        self.window = if is_all { self.least() } else { threshold };
        if is_all {
            self.gave_way = None;
        }
    }

    fn least(&self) -> f64 {
        WINDOW_MIN * float(self.packet)
    }
}

/// Round trips of one round after the other. What is short of time on either machine takes longer now and then; in a queue
/// every packet does.
#[derive(Clone, Default, Debug)]
struct Rounds {
    began: Option<Instant>,
    /// Ever.
    least: Duration,
    shortest: Option<Duration>,
    samples: u32,
    before: Option<Duration>,
    /// The shortest of the round in which it became slower, and how many rounds have been since.
    slower: Option<(Duration, u32)>,
}

impl Rounds {
    fn arrived(&mut self, ack: &Arrived) {
        if self.began.is_none_or(|began| ack.sent >= began) {
            self.began = Some(ack.now);
            self.before = self.shortest.take();
            self.samples = 0;
            if let Some((_, rounds)) = &mut self.slower {
                *rounds += 1;
            }
        }
        let round_trip = ack.now.saturating_duration_since(ack.sent);
        self.least = ack.shortest.min(round_trip);
        self.shortest = Some(self.shortest.map_or(round_trip, |shortest| shortest.min(round_trip)));
        self.samples += 1;
    }

    /// In two rounds, since what came late together may have waited for a machine.
    fn shows_queue(&self) -> bool {
        let most = self.least + (self.least / QUEUE_PART).max(QUEUE_MIN);
        [self.before, self.shortest].iter().all(|round| round.is_some_and(|shortest| shortest > most))
    }

    /// By how much of what arrived the window is to grow at the beginning; 0 once that is over.
    fn speed(&mut self) -> f64 {
        if self.samples >= SAMPLES
            && let Some(shortest) = self.shortest
        {
            match (self.slower, self.before) {
                // It was a passing trouble.
                (Some((then, _)), _) if shortest < then => self.slower = None,
                (None, Some(before)) if shortest >= before + (before / RISE_PART).clamp(RISE_MIN, RISE_MAX) => {
                    self.slower = Some((shortest, 0));
                }
                _ => {}
            }
        }
        match self.slower {
            None => 1.0,
            Some((_, rounds)) if rounds < SLOWER_ROUNDS => 1.0 / SLOWER,
            Some(_) => 0.0,
        }
    }
}

/// How much of what is sent is lost.
#[derive(Clone, Default, Debug)]
struct Losses {
    arrived: u64,
    lost: u64,
}

impl Losses {
    fn arrived(&mut self, bytes: u64, packet: u64) {
        self.arrived += bytes;
        if self.arrived + self.lost > 2 * PACKETS * packet {
            self.arrived /= 2;
            self.lost /= 2;
        }
    }

    fn is_heavy(&mut self, lost: u64, packet: u64) -> bool {
        self.lost += lost;
        self.lost >= LOST_MIN * packet && self.lost * LOSS_PART > self.arrived + self.lost
    }
}

/// Windows are far below 2^52.
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and such casts saturate")]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

#[cfg(test)]
mod tests;

//! Senders on a simulated link: packet by packet, one queue, no clock.

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const PACKET: u16 = 1452;
/// 100 Mbit/s, in packets of 1,500 bytes.
const SERVICE: Duration = Duration::from_micros(120);

#[derive(Clone, Copy)]
struct Link {
    round_trip: Duration,
    queue: Duration,
    /// One packet in so many is lost; 0: none.
    loss: u64,
    /// The sender has no time for as long as this, so often.
    stall: (Duration, Duration),
}

const LINE: Link = Link {
    round_trip: Duration::from_millis(80),
    queue: Duration::from_millis(100),
    loss: 0,
    stall: (Duration::ZERO, Duration::from_secs(1)),
};

struct Flow {
    control: Congestion,
    begins: Duration,
    under_way: u64,
    next_send: Duration,
    /// An event is there that sends then.
    is_awaited: bool,
    smoothed: Duration,
    shortest: Duration,
    sent: u64,
    arrived: u64,
    lost: u64,
}

impl Flow {
    fn new(begins: Duration, packets: u64) -> Flow {
        let control = Congestion::new(packets * u64::from(PACKET), PACKET);
        let (smoothed, shortest) = (Duration::ZERO, Duration::MAX);
        Flow {
            control,
            begins,
            under_way: 0,
            next_send: begins,
            is_awaited: false,
            smoothed,
            shortest,
            sent: 0,
            arrived: 0,
            lost: 0,
        }
    }
}

impl Flow {
    fn arrived(&mut self, zero: Instant, now: Duration, sent: Duration) {
        self.under_way -= 1;
        self.arrived += 1;
        let round_trip = now - sent;
        self.shortest = self.shortest.min(round_trip);
        self.smoothed = if self.smoothed.is_zero() { round_trip } else { (self.smoothed * 7 + round_trip) / 8 };
        self.control.arrived(Arrived {
            now: zero + now,
            sent: zero + sent,
            bytes: PACKET.into(),
            is_idle: false,
            round_trip: self.smoothed,
            shortest: self.shortest,
        });
    }
}

/// A share of the link from `from` to `until` for each flow, and its losses in 10,000.
fn run(link: Link, mut flows: Vec<Flow>, from: Duration, until: Duration) -> Vec<(f64, u64)> {
    let zero = Instant::now();
    let mut random = 88_172_645_463_325_252_u64;
    let mut free_at = Duration::ZERO;
    // When, what (0 arrives, 1 is found lost, 2 may send), flow, when it was sent.
    let mut events: BinaryHeap<Reverse<(Duration, u8, usize, Duration)>> = BinaryHeap::new();
    for (number, flow) in flows.iter().enumerate() {
        events.push(Reverse((flow.begins, 2, number, Duration::ZERO)));
    }
    let mut before = vec![0; flows.len()];
    let mut is_counting = false;
    while let Some(Reverse((now, what, number, sent))) = events.pop() {
        if now > until {
            break;
        }
        if now >= from && !is_counting {
            is_counting = true;
            before = flows.iter().map(|flow| flow.arrived).collect();
        }
        let flow = &mut flows[number];
        match what {
            0 => flow.arrived(zero, now, sent),
            1 => {
                flow.under_way -= 1;
                flow.lost += 1;
                flow.control.lost(zero + now, zero + sent, PACKET.into(), false);
            }
            _ => flow.is_awaited = false,
        }
        while (flow.under_way + 1) * u64::from(PACKET) <= flow.control.window() {
            if flow.next_send > now {
                if std::mem::replace(&mut flow.is_awaited, true) {
                    break;
                }
                events.push(Reverse((flow.next_send, 2, number, Duration::ZERO)));
                break;
            }
            let round_trip = if flow.smoothed.is_zero() { link.round_trip } else { flow.smoothed };
            let pace = round_trip.as_secs_f64() * f64::from(PACKET) / flow.control.window() as f64 / 1.25;
            flow.next_send = now.max(flow.next_send) + Duration::from_secs_f64(pace);
            flow.under_way += 1;
            flow.sent += 1;
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let is_lost = link.loss > 0 && random.is_multiple_of(link.loss);
            let waits = free_at.saturating_sub(now);
            if is_lost || waits > link.queue {
                // Three later ones tell of it.
                events.push(Reverse((now + waits + link.round_trip + 3 * SERVICE, 1, number, now)));
            } else {
                free_at = now + waits + SERVICE;
                let arrives = free_at + link.round_trip;
                let since = Duration::from_nanos(u64::try_from(arrives.as_nanos() % link.stall.1.as_nanos()).unwrap());
                events.push(Reverse((arrives + link.stall.0.saturating_sub(since), 0, number, now)));
            }
        }
    }
    let all = (until - from).as_secs_f64() / SERVICE.as_secs_f64();
    let share = |flow: &Flow, before: u64| (flow.arrived - before) as f64 / all;
    flows.iter().zip(before).map(|(flow, before)| (share(flow, before), flow.lost * 10_000 / flow.sent)).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn alone(link: Link) -> (f64, u64) {
    run(link, vec![Flow::new(seconds(0), 32)], seconds(0), seconds(20))[0]
}

#[test]
fn a_link_is_filled_from_the_beginning_on() {
    let (share, lost) = alone(LINE);
    assert!(share > 0.94 && lost < 60, "{share} {lost}");
    for millis in [1, 10, 300] {
        let (share, _) = alone(Link { round_trip: Duration::from_millis(millis), ..LINE });
        assert!(share > 0.85, "{millis} ms: {share}");
    }
}

#[test]
fn a_bad_line_does_not_slow_it() {
    for (loss, least) in [(1000, 0.93), (100, 0.9), (50, 0.7)] {
        let (share, lost) = alone(Link { loss, ..LINE });
        assert!(share > least && lost < 12_000 / loss + 60, "1 in {loss}: {share} {lost}");
    }
}

#[test]
fn nor_does_a_busy_machine() {
    let stall = (Duration::from_millis(45), Duration::from_millis(190));
    let (share, _) = alone(Link { loss: 100, stall, ..LINE });
    assert!(share > 0.7, "{share}");
}

#[test]
fn a_queue_too_short_to_show_is_not_run_over() {
    let (share, lost) = alone(Link { queue: Duration::from_millis(3), ..LINE });
    assert!(share > 0.7 && lost < 500, "{share} {lost}");
}

#[test]
fn two_share() {
    let both = run(LINE, vec![Flow::new(seconds(0), 10), Flow::new(seconds(10), 32)], seconds(40), seconds(160));
    let (one, two) = (both[0].0, both[1].0);
    assert!(one + two > 0.95 && two / one > 0.5 && one / two > 0.5, "{one} {two}");
}

#[test]
fn heavy_losses_count_whatever_the_round_trip() {
    let mut losses = Losses::default();
    let mut heavy = 0;
    for number in 0..10_000 {
        if number % 20 == 7 {
            heavy += usize::from(losses.is_heavy(1400, 1400));
        } else {
            losses.arrived(1400, 1400);
        }
    }
    assert!(heavy > 300, "{heavy}");
}

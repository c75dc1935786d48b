//! How hard new contents are compressed: as it is said, or as the processors have time for it.
//!
//! The judge is a pure function of what was seen before. [`Pace`] looks at the machine for it a few times a second, from whichever
//! thread is sealing then: there is no thread of its own.

use chunkstore::codec::{Level, Sealer};
use std::fmt;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Compression {
    #[default]
    Auto,
    Fixed(Level),
}

impl Compression {
    pub const EXPECTED: &str = "expected auto, none or a level from 1 to 19";

    pub fn parse(text: &str) -> Option<Compression> {
        match text {
            "auto" => Some(Compression::Auto),
            "none" => Some(Compression::Fixed(Level::RAW)),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Level::new(text.parse().ok()?).map(Compression::Fixed)
            }
            _ => None,
        }
    }

    pub fn is_none(self) -> bool {
        self == Compression::Fixed(Level::RAW)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::Auto => f.write_str("auto"),
            Compression::Fixed(Level::RAW) => f.write_str("none"),
            Compression::Fixed(level) => level.number().fmt(f),
        }
    }
}

/// Levels to choose from, and what sealing at them takes in relation to each other (dumps, sources and storages in chunks of 64 KiB; reading
/// back is part of it). Above, twice the time saves another hundredth.
const STEPS: [(u8, u32); 3] = [(1, 100), (3, 150), (6, 350)];
/// With less than this share of the processors free, in thousandths, they are the limit.
const SCARCE: u32 = 100;
/// This much is to be left free after a rise, as far as can be foreseen.
const SPARE: u32 = 150;
/// So many looks in a row must allow a rise; twice as many after each rise that was one too many.
const PATIENCE_MIN: u32 = 2;
const PATIENCE_MAX: u32 = 64;

/// What was seen since the look before, in thousandths of what there is.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    /// Processors of the machine that did nothing.
    idle: u32,
    /// Processor time that this process had, of what it may have.
    used: u32,
    /// The part of the processors that sealing took.
    sealing: u32,
}

#[derive(Debug)]
struct Judge {
    step: usize,
    /// Looks in a row that allowed a rise, or to stay at the top.
    calm: u32,
    patience: u32,
}

impl Judge {
    fn new() -> Judge {
        Judge { step: 0, calm: 0, patience: PATIENCE_MIN }
    }

    /// Rises a step at a time, falls to the bottom at once.
    fn look(&mut self, seen: Seen) {
        // Both: others may need the processors, and a container may have fewer than the machine.
        let free = seen.idle.min(1000u32.saturating_sub(seen.used));
        if free < SCARCE {
            if self.step > 0 {
                self.patience = PATIENCE_MAX.min(2 * self.patience);
            }
            (self.step, self.calm) = (0, 0);
            return;
        }
        let next = STEPS.get(self.step + 1);
        let more = next.map_or(0, |(_, cost)| seen.sealing * (cost - self.cost()) / self.cost());
        self.calm = if free >= more + SPARE { self.calm + 1 } else { 0 };
        if self.calm < self.patience {
            return;
        }
        self.calm = 0;
        match next {
            Some(_) => self.step += 1,
            None => self.patience = PATIENCE_MIN.max(self.patience / 2),
        }
    }

    fn cost(&self) -> u32 {
        STEPS.get(self.step).map_or(1, |(_, cost)| *cost)
    }

    fn level(&self) -> Level {
        STEPS.get(self.step).and_then(|(level, _)| Level::new(*level)).unwrap_or(Level::FASTEST)
    }
}

/// The machine is looked at so often.
const EVERY: Duration = Duration::from_millis(200);

/// Sets a sealer's level while it is used.
pub struct Pace {
    /// `None` if the level is fixed.
    watch: Option<Mutex<Watch>>,
    begun: Instant,
    /// Nanoseconds after which it is time to look again, and those that sealing took.
    next: AtomicU64,
    sealing: AtomicU64,
}

/// The judge, and what was there when it looked last.
struct Watch {
    judge: Judge,
    counts: Counts,
}

/// Ever growing numbers; only differences say something.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    at: Duration,
    /// Ticks of all processors, and idle ones.
    ticks: u64,
    idle: u64,
    process: Duration,
    sealing: Duration,
}

impl Pace {
    pub fn new(compression: Compression, sealer: &Sealer) -> Pace {
        let (level, watch) = match compression {
            Compression::Fixed(level) => (level, None),
            Compression::Auto => (Level::FASTEST, Some(Watch { judge: Judge::new(), counts: Counts::default() })),
        };
        sealer.set_level(level);
        let (next, sealing) = (AtomicU64::new(0), AtomicU64::new(0));
        Pace { watch: watch.map(Mutex::new), begun: Instant::now(), next, sealing }
    }

    /// Runs what seals with `sealer`.
    pub fn sealing<T>(&self, sealer: &Sealer, seal: impl FnOnce(&Sealer) -> T) -> T {
        let Some(watch) = &self.watch else { return seal(sealer) };
        let begun = Instant::now();
        let sealed = seal(sealer);
        self.sealing.fetch_add(nanoseconds(begun.elapsed()), Ordering::Relaxed);
        let now = self.begun.elapsed();
        if self.next.load(Ordering::Relaxed) <= nanoseconds(now)
            && let Ok(mut watch) = watch.try_lock()
        {
            self.next.store(nanoseconds(now + EVERY), Ordering::Relaxed);
            let counts = self.count(now);
            // The first look has nothing to compare with.
            if let Some(seen) = counts.since(&watch.counts).filter(|_| watch.counts.ticks > 0) {
                watch.judge.look(seen);
                sealer.set_level(watch.judge.level());
            }
            watch.counts = counts;
        }
        sealed
    }

    fn count(&self, at: Duration) -> Counts {
        let process = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let (ticks, idle) = ticks(&stat).unwrap_or_default();
        Counts {
            at,
            ticks,
            idle,
            process: Duration::try_from(process).unwrap_or_default(),
            sealing: Duration::from_nanos(self.sealing.load(Ordering::Relaxed)),
        }
    }
}

impl Counts {
    /// `None` if the machine does not tell how idle it is, or not yet.
    fn since(&self, before: &Counts) -> Option<Seen> {
        let ticks = self.ticks.checked_sub(before.ticks).filter(|ticks| *ticks > 0)?;
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let time = nanoseconds(self.at.checked_sub(before.at)?).saturating_mul(processors as u64);
        let share = |now: Duration, before: Duration| thousandths(nanoseconds(now.saturating_sub(before)), time);
        Some(Seen {
            idle: thousandths(self.idle.saturating_sub(before.idle), ticks),
            used: share(self.process, before.process),
            sealing: share(self.sealing, before.sealing),
        })
    }
}

/// All ticks and idle ones, by the first line of `/proc/stat`. Waiting for a disk is idle; what a hypervisor took is not.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let fields: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // Time of guests, in the last two fields, is part of the first two.
    let all = fields.get(..8)?;
    Some((all.iter().sum(), all.get(3)? + all.get(4)?))
}

fn thousandths(part: u64, whole: u64) -> u32 {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    u32::try_from(share.min(1000)).unwrap_or(1000)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen() -> impl Strategy<Value = Seen> {
        (0..=1000u32, 0..=1000u32, 0..=1000u32).prop_map(|(idle, used, sealing)| Seen { idle, used, sealing })
    }

    /// A machine on which a source keeps sealing at level 1 busy for `work` thousandths, other work of the backup takes `own` and that of
    /// others `others`; higher levels cost `dear` hundredths of what is foreseen. How much of the source's pace is kept, in thousandths, over so
    /// many looks; and the level at the end.
    fn run(work: u32, own: u32, others: u32, dear: u32, looks: u32) -> (u32, u8) {
        let mut judge = Judge::new();
        let mut kept = 0;
        for _ in 0..looks {
            let sealing = work * (100 + (judge.cost() - 100) * dear / 100) / 100;
            let wanted = own + sealing;
            let there = 1000 - others;
            let pace = if wanted > there { there * 1000 / wanted } else { 1000 };
            kept += pace;
            let used = wanted * pace / 1000;
            judge.look(Seen { idle: 1000u32.saturating_sub(used + others), used, sealing: sealing * pace / 1000 });
        }
        (kept / looks, judge.level().number())
    }

    #[test]
    fn an_idle_machine_gets_to_the_top_and_a_busy_one_stays_below() {
        assert_eq!(run(50, 50, 0, 100, 10), (1000, 6));
        assert_eq!(run(300, 100, 0, 100, 50), (1000, 3), "level 6 would not keep up");
        assert_eq!(run(900, 100, 0, 100, 50), (1000, 1));
        assert_eq!(run(300, 100, 600, 100, 50), (1000, 1), "others need the processors");
    }

    #[test]
    fn a_container_that_has_used_up_its_share_is_busy_on_an_idle_machine() {
        let mut judge = Judge::new();
        (0..50).for_each(|_| judge.look(Seen { idle: 980, used: 1000, sealing: 300 }));
        assert_eq!(judge.level(), Level::FASTEST);
    }

    proptest! {
        #[test]
        fn the_level_rises_step_by_step_and_falls_at_once(looks in prop::collection::vec(seen(), 0..300)) {
            let mut judge = Judge::new();
            for seen in looks {
                let before = judge.step;
                judge.look(seen);
                prop_assert!(judge.step <= before + 1 && judge.step < STEPS.len());
                prop_assert!((PATIENCE_MIN..=PATIENCE_MAX).contains(&judge.patience));
                if seen.idle < SCARCE || seen.used > 1000 - SCARCE {
                    prop_assert_eq!(judge.level(), Level::FASTEST);
                }
                if judge.step > before {
                    let more = seen.sealing * (STEPS[judge.step].1 - STEPS[before].1) / STEPS[before].1;
                    prop_assert!(more + SPARE <= seen.idle);
                }
            }
        }

        #[test]
        fn whatever_the_load_and_the_cost_the_source_is_hardly_slowed_down(
            (work, own, others, dear) in (0..900u32, 0..100u32, 0..=1000u32, 50..200u32)
        ) {
            let others = (1000 - work - own) * others / 1000;
            let (kept, _) = run(work, own, others, dear, 300);
            prop_assert!(kept >= 980, "{kept}");
        }

        #[test]
        fn steady_load_leads_to_a_steady_level(work in 0..900u32, others in 0..=1000u32) {
            let others = (1000 - work) * others / 1000;
            prop_assert_eq!(run(work, 0, others, 100, 300).1, run(work, 0, others, 100, 301).1);
        }
    }

    #[test]
    fn what_is_asked_for() {
        for text in ["auto", "none", "1", "19"] {
            assert_eq!(Compression::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "0", "20", "256", "-1", "+3", "fast", "Auto", "3 "] {
            assert_eq!(Compression::parse(text), None, "{text}");
        }
        assert!(Compression::parse("none").unwrap().is_none());
    }

    #[test]
    fn processors_as_the_kernel_tells() {
        let stat = "cpu  100 1 20 3000 40 5 6 7 50 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(ticks(stat), Some((3179, 3040)));
        for odd in ["", "cpu", "cpu  1 2 3", "cpu0 1 2 3 4 5 6 7 8", "cpu  1 2 3 4 x 6 7 8"] {
            assert_eq!(ticks(odd), None, "{odd}");
        }
        let before = Counts { at: Duration::from_secs(1), ticks: 10, idle: 5, ..Counts::default() };
        let after = Counts { at: Duration::from_secs(2), ticks: 20, idle: 9, ..before };
        assert_eq!(after.since(&before).unwrap().idle, 400);
        assert!(before.since(&before).is_none() && before.since(&after).is_none());
    }
}

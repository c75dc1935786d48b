//! How long work is shown: a bar on a terminal, `status` lines once a second with `--json`, nothing otherwise.
//!
//! Workers write figures, one thread here reads them; it ends when the `Progress` is dropped.

use super::console::{Console, Output, error_line, problem_line};
use crate::monitor::{Counters, Monitor};
use crate::names;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

const BAR: &str = "{spinner} {elapsed_precise} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta} {wide_msg}";
const SPINNER: &str = "{spinner} {elapsed_precise} {bytes} {bytes_per_sec} {wide_msg}";
const BAR_INTERVAL: Duration = Duration::from_millis(150);
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

pub struct Progress {
    shared: Arc<Shared>,
    shower: Option<(JoinHandle<()>, Thread)>,
}

impl Progress {
    pub fn start(console: &Console) -> Progress {
        Progress::new(console, true)
    }

    /// Nothing but problems, for when standard output is data.
    pub fn silent(console: &Console) -> Progress {
        Progress::new(console, false)
    }

    fn new(console: &Console, shown: bool) -> Progress {
        let settings = &console.settings;
        let progress = settings.progress && shown;
        let shared = Arc::new(Shared {
            json: settings.json,
            details: if shown { settings.verbose } else { 0 },
            output: Arc::clone(&console.output),
            counters: Counters::default(),
            current: Mutex::default(),
            bar: (progress && !settings.json && std::io::stderr().is_terminal()).then(bar),
            started: Instant::now(),
            done: AtomicBool::new(false),
        });
        let interval = match (&shared.bar, progress && settings.json) {
            (Some(_), _) => Some(BAR_INTERVAL),
            (None, true) => Some(STATUS_INTERVAL),
            (None, false) => None,
        };
        let shower = interval.and_then(|interval| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("progress".into());
            // Without a thread to show it, work goes on unshown.
            thread.spawn(move || shared.show(interval)).ok()
        });
        let shower = shower.map(|handle| {
            let thread = handle.thread().clone();
            (handle, thread)
        });
        Progress { shared, shower }
    }

    /// What is expected, from earlier runs: for the time that is left.
    pub fn expect(&self, files: u64, bytes: u64) {
        self.shared.counters.files_total.store(files, Ordering::Relaxed);
        self.shared.counters.bytes_total.store(bytes, Ordering::Relaxed);
    }
}

impl Monitor for Progress {
    fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    fn current(&self, item: &[u8]) {
        // Rather skip one than let workers wait for each other.
        if let Ok(mut current) = self.shared.current.try_lock() {
            current.clear();
            current.extend_from_slice(item);
        }
    }

    fn problem(&self, item: &[u8], reason: &str) {
        self.shared.counters.problems.fetch_add(1, Ordering::Relaxed);
        let line = problem_line(self.shared.json, item, reason);
        self.shared.aside(|| error_line(&line));
    }

    fn detail(&self, verb: &str, item: &[u8]) {
        if self.shared.details < if verb == "unchanged" { 2 } else { 1 } {
            return;
        }
        let line = if self.shared.json {
            let mut object = Map::new();
            object.insert("message_type".into(), "verbose_status".into());
            object.insert("action".into(), verb.into());
            names::insert(&mut object, "item", item);
            Value::Object(object).to_string()
        } else {
            format!("{verb:<10} {}", names::shown(item))
        };
        // A reader that is gone shows when the summary is printed.
        self.shared.aside(|| drop(self.shared.output.line(&line)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::SeqCst);
        if let Some((handle, thread)) = self.shower.take() {
            thread.unpark();
            // It panics only if standard error is gone; then there is nothing to show.
            let _ = handle.join();
        }
        if let Some(bar) = &self.shared.bar {
            bar.finish_and_clear();
        }
    }
}

struct Shared {
    json: bool,
    /// How many `-v` there were.
    details: u8,
    output: Arc<Output>,
    counters: Counters,
    current: Mutex<Vec<u8>>,
    bar: Option<ProgressBar>,
    started: Instant,
    done: AtomicBool,
}

impl Shared {
    fn show(&self, interval: Duration) {
        let mut estimated = false;
        std::thread::park_timeout(interval);
        while !self.done.load(Ordering::SeqCst) {
            match &self.bar {
                Some(bar) => self.update(bar, &mut estimated),
                None => drop(self.output.line(&self.status().to_string()).and_then(|()| self.output.flush())),
            }
            std::thread::park_timeout(interval);
        }
    }

    fn update(&self, bar: &ProgressBar, estimated: &mut bool) {
        let done = self.counters.bytes_done.load(Ordering::Relaxed);
        let total = self.counters.bytes_total.load(Ordering::Relaxed);
        // Once there is more than was expected, nothing is known about the rest.
        let estimate = total > 0 && done <= total;
        if estimate != *estimated {
            *estimated = estimate;
            bar.set_style(style(if estimate { BAR } else { SPINNER }));
        }
        if estimate {
            bar.set_length(total);
        }
        bar.set_position(done);
        bar.set_message(names::shown(&self.current.lock().unwrap_or_else(PoisonError::into_inner)));
        bar.tick();
    }

    fn status(&self) -> Value {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (done, total) = (load(&self.counters.bytes_done), load(&self.counters.bytes_total));
        let elapsed = self.started.elapsed();
        let mut status = json!({
            "message_type": "status",
            "seconds_elapsed": elapsed.as_secs(),
            "total_files": load(&self.counters.files_total),
            "files_done": load(&self.counters.files_done),
            "total_bytes": total,
            "bytes_done": done,
            "error_count": load(&self.counters.problems),
        });
        let Some(object) = status.as_object_mut() else { return status };
        if total > 0 && done > 0 && done <= total {
            let left = elapsed.as_secs_f64() * (total - done) as f64 / done as f64;
            object.insert("percent_done".into(), json!(done as f64 / total as f64));
            object.insert("seconds_remaining".into(), json!(left.round()));
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !current.is_empty() {
            object.insert("current_files".into(), json!([String::from_utf8_lossy(&current)]));
        }
        status
    }

    /// Prints without tearing the bar.
    fn aside(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
    bar.set_style(style(SPINNER));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_well_formed() {
        for template in [BAR, SPINNER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}

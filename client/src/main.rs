//! The `nightkeep` program: parse, run, report.

use nightkeep_client::cli;
use std::ffi::OsString;
use std::process::ExitCode;

/// Pieces of memory up to this size are used again. Two packs, which are larger, keep their own.
const KEPT_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    keep_memory();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    ExitCode::from(match cli::parse(&arguments) {
        Ok(parsed) => cli::conclude(cli::run(&parsed), parsed.flags.json),
        Err(error) => cli::conclude_usage(&error, &arguments),
    })
}

/// The C library takes from the kernel, each for itself, pieces of memory that are larger than any of those which were given back, and leaves
/// what is free at the end of its own to the kernel if that is more than twice as much. Where chunks come and go, that is new memory all the time,
/// and to touch it costs more than what is done with it; so it is given one large piece, untouched, as a measure.
fn keep_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT_BYTES)));
}

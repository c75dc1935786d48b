//! The `nightkeep` program: parse, run, report.

use nightkeep_client::cli;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    ExitCode::from(match cli::parse(&arguments) {
        Ok(parsed) => cli::conclude(cli::run(&parsed), parsed.flags.json),
        Err(error) => cli::conclude_usage(&error, &arguments),
    })
}

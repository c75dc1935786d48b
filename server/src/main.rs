//! The `nightkeepd` program: parse, run, report.

use clap::Parser;
use nightkeep_server::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::from(error.use_stderr());
            // There is nobody to tell if even that fails.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    ExitCode::from(cli::conclude(cli::run(&cli), cli.json))
}

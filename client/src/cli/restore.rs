//! `restore`: one file for each kind of source.

mod files;
mod postgres;
mod roundup;
mod zodb;

use super::Exit;
use super::console::Console;
use crate::error::Result;

/// Bring back what was saved
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// KiB a second that come from a server, at most
    #[arg(long, value_name = "KIB_S", value_parser = clap::value_parser!(u64).range(1..), global = true)]
    pub limit_download: Option<u64>,
    #[command(subcommand)]
    kind: Kind,
}

#[derive(clap::Subcommand, Debug)]
enum Kind {
    Files(files::Files),
    Postgres(postgres::Postgres),
    Roundup(roundup::Roundup),
    Zodb(zodb::Zodb),
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    match &arguments.kind {
        Kind::Files(arguments) => files::run(console, arguments),
        Kind::Postgres(arguments) => postgres::run(console, arguments),
        Kind::Roundup(arguments) => roundup::run(console, arguments),
        Kind::Zodb(arguments) => zodb::run(console, arguments),
    }
}

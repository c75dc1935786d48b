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

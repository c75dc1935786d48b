//! `backup command` and `backup stdin`: one stream under a file's name.

use super::{Common, save};
use crate::backup::{self as engine, StreamSource};
use crate::cli::Exit;
use crate::cli::console::Console;
use crate::dataset::{self, Kind};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

const EXAMPLES_COMMAND: &str = "\
EXAMPLES
  nightkeep backup command --name all.sql -- pg_dumpall --clean
  nightkeep backup command --name ldap.ldif --dataset ldap -- slapcat";

const EXAMPLES_STDIN: &str = "\
If what writes into the pipe fails, this cannot be seen here: prefer `backup command`.

EXAMPLES
  ssh www cat /srv/big.img | nightkeep backup stdin --name big.img
  nightkeep backup stdin --name list.txt --dataset lists";

/// Run a command and save what it prints
///
/// A snapshot is made only if the command ends with exit code 0.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_COMMAND)]
pub struct Command {
    /// The file name under which the output is saved
    #[arg(long, value_name = "FILE")]
    name: OsString,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    common: Common,
}

/// Save standard input
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_STDIN)]
pub struct Stdin {
    /// The file name under which it is saved
    #[arg(long, value_name = "FILE")]
    name: OsString,
    #[command(flatten)]
    common: Common,
}

pub fn command(console: &Console, command: &Command) -> Result<Exit> {
    stream(console, &command.common, &command.name, &|| StreamSource::Command(command.command.clone()))
}

pub fn stdin(console: &Console, stdin: &Stdin) -> Result<Exit> {
    stream(console, &stdin.common, &stdin.name, &|| StreamSource::Stdin)
}

fn stream(console: &Console, common: &Common, name: &OsString, source: &dyn Fn() -> StreamSource) -> Result<Exit> {
    let bytes = name.as_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.len() > 255 || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Error::argument("--name", "expected a file name: 1 to 255 bytes without `/`"));
    }
    save(console, common, Kind::Stream, &dataset::name_of_stream(name), &|context, request| {
        engine::stream(context, request, name, source())
    })
}

//! `backup files`: directory trees.

use super::{Common, save};
use crate::backup::{self as engine, FilesOptions};
use crate::cli::Exit;
use crate::cli::console::Console;
use crate::dataset::{self, Kind};
use crate::error::Result;
use crate::units::parse_size;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
A pattern of --exclude is like one of .gitignore: * ? [a-z] within a name, ** across directories, a leading / anchors it \
to the root, a trailing / matches directories only, a leading ! includes again.

EXAMPLES
  nightkeep backup files /etc /home
  nightkeep backup files / --one-file-system --exclude-caches --exclude '/var/tmp/*' --tag nightly
  nightkeep backup files /srv/media --dataset media --exclude-larger-than 4G";

/// Save directory trees and files
///
/// Items that cannot be read are named, the rest is saved, and the exit code is 3.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Files {
    /// What to save
    #[arg(required_unless_present = "files_from", value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// Leave out what matches a pattern
    #[arg(short, long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Leave out what matches a pattern of a file (one a line, # begins a comment)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    exclude_file: Vec<PathBuf>,
    /// Leave out the contents of directories marked by a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out the contents of directories that hold an entry of this name
    #[arg(long, value_name = "NAME")]
    exclude_if_present: Vec<OsString>,
    /// Do not descend into other file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Read paths from a file, one a line, or separated by NUL; - is standard input
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files_from: Vec<PathBuf>,
    /// Leave out files larger than this: 500M, 4G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    exclude_larger_than: Option<u64>,
    #[command(flatten)]
    common: Common,
}

pub fn run(console: &Console, files: &Files) -> Result<Exit> {
    save(console, &files.common, Kind::Files, &default_name(files), &|context, request| {
        engine::files(context, request, &options(files)?)
    })
}

fn default_name(files: &Files) -> String {
    if files.paths.is_empty() {
        let lists = files.files_from.iter().filter_map(|file| file.file_name().filter(|name| *name != "-"));
        let lists: Vec<PathBuf> = lists.map(PathBuf::from).collect();
        return if lists.is_empty() { "files-from".into() } else { dataset::name_of_paths(&lists) };
    }
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    dataset::name_of_paths(&files.paths.iter().map(absolute).collect::<Vec<_>>())
}

fn options(files: &Files) -> chunkstore::Result<FilesOptions> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path)
            .map_err(|error| chunkstore::Error::io("cannot resolve", path.display().to_string(), error))
    };
    Ok(FilesOptions {
        paths: files.paths.iter().map(absolute).collect::<chunkstore::Result<_>>()?,
        excludes: files.exclude.clone(),
        exclude_files: files.exclude_file.clone(),
        exclude_caches: files.exclude_caches,
        exclude_if_present: files.exclude_if_present.clone(),
        one_file_system: files.one_file_system,
        exclude_larger_than: files.exclude_larger_than,
        files_from: files.files_from.clone(),
    })
}

fn size(text: &str) -> std::result::Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

//! The `nightkeep` program.

fn main() {}

//! All tests that look at Nightkeep from outside a single crate, in one binary: one `mod` per file, each named by
//! what it proves. `architecture` fails when a file here is not listed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking, and its numbers are its own"
)]

mod support;

mod architecture;

mod cli;

mod crash;

mod damage;

mod fixtures;

mod jobs;

mod mount;

mod postgres;

mod reader;

mod roundup;

mod server;

mod sites;

mod streams;

mod torture;

mod zodb;

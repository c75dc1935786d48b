//! What several tests need: a tree with everything awkward in it, a listing of a tree that shares no code with the
//! product, and the built program.

pub mod manifest;

pub mod postgres;

pub mod program;

pub mod python;

pub mod server;

pub mod source;

pub mod torture;

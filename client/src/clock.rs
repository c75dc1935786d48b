//! What time it is, and how times are written.

pub use rules::clock::*;

//! Which snapshots stay.

pub use rules::retention::*;

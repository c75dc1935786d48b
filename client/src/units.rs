//! Sizes and stretches of time as people write and read them.

pub use rules::units::*;

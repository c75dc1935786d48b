//! Objects in memory, with faults.

//! Both ends of a push (`docs/protocol.md`, section 5), without I/O and without a clock.
//!
//! The sender keeps every record until it is durable, so that a connection may break at any point; the receiver counts.
//! Both are told what happened and say what is to be sent; neither trusts the other's numbers.
//!
//! A pack holds records of one class, so records of each class become durable in their own order.

mod receiver;

mod sender;

#[cfg(test)]
mod tests;

pub use receiver::{Receiver, Step};
pub use sender::{Event, Outgoing, Sender};

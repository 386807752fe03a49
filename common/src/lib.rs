//! The pure domain of Tessera.
//!
//! Nothing in this crate waits, reads a clock, draws entropy, touches a file or a socket, or knows Burn or
//! protobuf: its manifest and its `clippy.toml` hold it to that. Time and randomness are arguments.
//! What a run is ([`spec`]), what travels ([`param`], [`global`], [`update`]), how updates become the next global
//! ([`strategy`], [`aggregate`]) and who is asked when ([`round`]) all live here and are tested without IO.

pub mod access;
pub mod aggregate;
pub mod audit;
pub mod global;
pub mod id;
pub mod metric;
pub mod param;
pub mod prototype;
pub mod rng;
pub mod round;
pub mod spec;
pub mod statistics;
pub mod strategy;
pub mod update;

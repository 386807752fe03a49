//! Tessera's agent: session, worker, data readers, tasks (Burn models), the training loop.

mod audit;
mod blobs;
pub mod config;
pub mod data;
pub mod device;
mod dial;
mod disk;
pub mod explain;
mod fault;
pub mod glue;
pub mod identity;
pub mod nn;
mod outbox;
pub mod policy;
pub mod prototype;
mod quiet;
pub mod session;
mod state;
pub mod task;
pub mod train;
mod transfer;
mod worker;

pub use fault::{HITS as FAULT_HITS, POINTS as FAULT_POINTS};

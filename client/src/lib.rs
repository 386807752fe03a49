//! Tessera's agent: session, worker, data readers, tasks (Burn models), the training loop.

pub mod config;
pub mod data;
pub mod device;
mod disk;
pub mod glue;
pub mod prototype;
pub mod session;
pub mod task;
pub mod train;
mod transfer;
mod worker;

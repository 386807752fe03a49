//! `tessera`: coordinator, agent, launcher and operator's tool in one binary.

mod audit;
mod certificates;
mod cli;
#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod data;
mod doctor;
mod enrol;
#[cfg(feature = "client")]
mod join;
mod members;
mod model;
mod run;
#[cfg(feature = "server")]
mod server;
#[cfg(all(feature = "server", feature = "client"))]
mod simulate;
mod table;

use clap::Parser;
use std::process::ExitCode;

// Tensors of a training step come and go by the thousand; the system allocator returns large ones to the kernel each time.
#[cfg(feature = "client")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Tests make this process die or fail in places that they name.
    #[cfg(debug_assertions)]
    let _faults = std::env::var_os("FAILPOINTS").map(|_| fail::FailScenario::setup());
    let arguments = cli::Arguments::parse();
    cli::start_logging(arguments.verbose);
    match cli::dispatch(arguments.verb) {
        Ok(code) => code,
        Err(error) => {
            cli::report_error(&error);
            cli::exit_code_of(&error)
        }
    }
}

//! `holdfast-agent`: see `holdfast-agent --help`.

use std::process::ExitCode;

use clap::Parser;
use holdfast_agent::command::{self, Cli};

fn main() -> ExitCode {
    command::main(Cli::parse())
}

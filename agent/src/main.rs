//! `holdfast-agent`: see `holdfast-agent --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_agent::command::main()
}

//! The process.

use std::process::ExitCode;

fn main() -> ExitCode {
    cobrowse_gateway::commands::main()
}

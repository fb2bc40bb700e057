//! `completions`: what a shell can complete.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Wrong, say};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The shell.
    shell: Shell,
}

pub(super) fn print(arguments: &Arguments) -> Result<(), Wrong> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    say(&String::from_utf8(script)?)
}

//! `man`: the manual page.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{Cli, Wrong, say};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Write one page a command into this folder instead.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

pub(super) fn print(arguments: &Arguments) -> Result<(), Wrong> {
    let command = Cli::command();
    if let Some(folder) = &arguments.dir {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(command, folder)?;
        return Ok(());
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    say(&String::from_utf8(page)?)
}

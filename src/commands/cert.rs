//! `cert`: a self-signed certificate for development.

use std::path::PathBuf;

use clap::Args;

use super::Wrong;
use crate::tls::Pair;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Folder for dev.pem and dev.key.
    #[arg(long, default_value = "certs", value_name = "FOLDER")]
    dir: PathBuf,
    /// Names and addresses the certificate is for.
    #[arg(long = "host", value_name = "NAME", default_values = ["localhost", "127.0.0.1", "::1"])]
    hosts: Vec<String>,
}

pub(super) fn make(arguments: &Arguments) -> Result<(), Wrong> {
    let pair = Pair::in_folder(&arguments.dir);
    pair.make(&arguments.hosts)?;
    println!("{}\n{}", pair.certificate.display(), pair.key.display());
    Ok(())
}

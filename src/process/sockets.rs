//! The sockets that the process listens on.

use std::net::TcpListener;

use super::{Failed, failed};
use crate::config::Config;
use crate::{downstream, snapshot};

/// A listener for each worker, all on one address.
pub(super) fn bind(config: &Config) -> Result<Vec<TcpListener>, Failed> {
    let mut address = config.public.listen;
    let mut listeners = Vec::new();
    for _ in 0..snapshot::workers(config).get() {
        let bound = downstream::bind(address).and_then(|listener| {
            address = listener.local_addr()?; // the port, where 0 asked for any
            Ok(listener)
        });
        listeners.push(bound.map_err(|e| failed(&format!("public.listen = \"{address}\""), e))?);
    }
    Ok(listeners)
}

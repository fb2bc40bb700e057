//! Whether changed files would be noticed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Findings;
use crate::config::Config;
use crate::config::units::OrOff;
use crate::snapshot::{self, Watched};

/// File systems whose changes may be made elsewhere, where no watch tells of them.
const REMOTE: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph"];

pub(super) async fn look(config: &Config, files: &[PathBuf], found: &mut Findings) {
    for file in files.iter().filter(|file| snapshot::is_a_mount(file)) {
        found.warning(format!("reload: {} is a mount of its own (subPath?) and will never change here: mount its folder instead", file.display()));
    }
    let otherwise = match (config.reload.poll, config.reload.watch) {
        (OrOff::On(span), true) => format!("changes are found by reload.poll, every {span}"),
        (OrOff::On(span), false) => {
            found.ok(format!(
                "reload: not watched (reload.watch = false): changes are found every {span}"
            ));
            return;
        }
        (OrOff::Off, true) => {
            "with reload.poll = \"off\" they are found by nothing but SIGHUP: set it".to_owned()
        }
        (OrOff::Off, false) => {
            found.warning(
                "reload: reload.watch and reload.poll are both off: nothing but SIGHUP reloads",
            );
            return;
        }
    };
    let folder = |file: &PathBuf| {
        let file = std::path::absolute(file).ok()?;
        file.parent().map(Path::to_owned)
    };
    let folders: BTreeSet<PathBuf> = files.iter().filter_map(folder).collect();
    for folder in folders {
        let shown = folder.display();
        let remote = snapshot::file_system(&folder)
            .filter(|kind| REMOTE.contains(&kind.as_str()) || kind.starts_with("fuse"));
        match (snapshot::try_watch(&folder).await, remote) {
            (Err(why), _) => found.warning(format!("reload: {shown} cannot be watched ({why}): {otherwise}")),
            (Ok(Watched::Unseen), _) => found.warning(format!("reload: no watch tells of changes in {shown}: {otherwise}")),
            (Ok(_), Some(kind)) => found.warning(format!("reload: {shown} is on {kind}: no watch tells of changes made elsewhere; {otherwise}")),
            (Ok(Watched::Seen), None) => found.ok(format!("reload: a change in {shown} was noticed")),
            (Ok(Watched::Untried), None) => found.ok(format!("reload: {shown} is watched (not writable here, so it was not tried)")),
        }
    }
}

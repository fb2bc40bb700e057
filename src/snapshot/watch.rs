//! Tells when files may have changed: by watching folders, never files. Kubernetes swaps a link
//! beside them, editors rename over them, and a watch on the file itself would stay with the old one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Folders that are watched.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
    /// Those of them that cannot be.
    unseen: BTreeSet<PathBuf>,
    /// Something happened in one of them.
    maybe: Arc<Notify>,
}

impl Watch {
    pub(super) fn new() -> notify::Result<Self> {
        let maybe = Arc::<Notify>::default();
        let tell = Arc::clone(&maybe);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = match event {
                // Our own reading must not wake us.
                Ok(event) => match event.kind {
                    EventKind::Access(how) => how == AccessKind::Close(AccessMode::Write),
                    _ => true,
                },
                // Events were lost.
                Err(_) => true,
            };
            if matters {
                tell.notify_one();
            }
        })?;
        Ok(Self {
            watcher,
            folders: BTreeSet::new(),
            unseen: BTreeSet::new(),
            maybe,
        })
    }

    /// Watches where `files` lie and where links on the way to them lie, and nothing else.
    pub(super) fn follow(&mut self, files: &[PathBuf]) {
        let wanted: BTreeSet<PathBuf> = files.iter().flat_map(|file| folders(file)).collect();
        for gone in self.folders.difference(&wanted) {
            // One that does not exist any more is watched no more.
            let _: notify::Result<()> = self.watcher.unwatch(gone);
        }
        // Each anew: a folder of the same name may be another one.
        for folder in &wanted {
            if let Err(e) = self.watcher.watch(folder, RecursiveMode::NonRecursive)
                && self.unseen.insert(folder.clone())
            {
                tracing::warn!(folder = %folder.display(), error = %e, "cannot watch a folder: changes in it are found by reload.poll");
            }
        }
        self.folders = wanted;
    }

    /// Resolves when something may have changed since it last did.
    pub(super) async fn changed(&self) {
        self.maybe.notified().await;
    }
}

/// How many links a path may lead through.
const HOPS: usize = 16;

/// The folders in which a change may mean that `file` has changed.
fn folders(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut at = std::path::absolute(file).unwrap_or_else(|_no_folder| file.to_owned());
    for _ in 0..HOPS {
        let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
        // Where the name is, or would appear; and where a link in its folders may be swapped.
        folders.extend(
            at.ancestors()
                .skip(1)
                .find(|f| f.is_dir())
                .map(Path::to_owned),
        );
        let links = at.ancestors().skip(1).filter(|folder| is_link(folder));
        folders.extend(links.filter_map(Path::parent).map(Path::to_owned));
        let Ok(target) = fs::read_link(&at) else {
            break;
        };
        at = at.with_file_name(target);
    }
    folders
}

/// Whether a watch tells of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// A change was made, and it told of it.
    Seen,
    /// A change was made, and it did not.
    Unseen,
    /// None could be made.
    Untried,
}

/// Watches `folder`, makes a small file in it, removes it, and sees what comes of it.
pub async fn try_watch(folder: &Path) -> notify::Result<Watched> {
    let mut watch = Watch::new()?;
    watch.watcher.watch(folder, RecursiveMode::NonRecursive)?;
    let file = folder.join(format!(".cobrowse-gateway-{}", std::process::id()));
    let made = fs::File::create_new(&file);
    if made.is_err() {
        return Ok(Watched::Untried);
    }
    let told = tokio::time::timeout(Duration::from_secs(2), watch.changed()).await;
    // What could be made can be removed, but for a disk that breaks meanwhile.
    let _: std::io::Result<()> = fs::remove_file(&file);
    Ok(match told {
        Ok(()) => Watched::Seen,
        Err(_) => Watched::Unseen,
    })
}

/// Mount points and their kinds of file system (proc(5): of mountinfo the fifth field, blanks and
/// backslashes in octal, and the first behind a lone dash).
fn mounts() -> Vec<(PathBuf, String)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let point = unescape(before.split(' ').nth(4)?);
        Some((point.into(), after.split(' ').next()?.to_owned()))
    };
    mounts.lines().filter_map(mount).collect()
}

/// Whether `file` is a mount of its own, as `subPath` makes one: such a file never changes, whatever
/// becomes of its source.
pub fn is_a_mount(file: &Path) -> bool {
    let Ok(file) = file.canonicalize() else {
        return false;
    };
    mounts().iter().any(|(point, _)| *point == file)
}

/// The kind of file system that `path` lies on, e.g. `ext4`.
pub fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let over = mounts()
        .into_iter()
        .filter(|(point, _)| path.starts_with(point));
    // Of several at one point the last covers the others.
    over.max_by_key(|(point, _)| point.as_os_str().len())
        .map(|(_, kind)| kind)
}

fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_folders_of_a_file_behind_links_are_all_watched() {
        let root = std::env::temp_dir().join(format!("watch-{}", std::process::id()));
        let root = {
            fs::create_dir_all(root.join("mount/..1")).unwrap();
            root.canonicalize().unwrap()
        };
        fs::write(root.join("mount/..1/tls.crt"), "x").unwrap();
        symlink("..1", root.join("mount/..data")).unwrap();
        symlink("..data/tls.crt", root.join("mount/tls.crt")).unwrap();
        symlink(root.join("mount/tls.crt"), root.join("elsewhere")).unwrap();
        let found = folders(&root.join("elsewhere"));
        for folder in ["", "mount", "mount/..data"] {
            let folder = root.join(folder);
            let folder = folder.to_str().unwrap().trim_end_matches('/');
            assert!(found.contains(Path::new(folder)), "{folder}: {found:?}");
        }
        assert!(folders(&root.join("none/none/x")).contains(&root));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn blanks_in_mount_points_are_read() {
        assert_eq!(unescape(r"/a\040b\134040c"), r"/a b\040c");
    }

    #[tokio::test]
    async fn a_watch_is_tried_with_a_file_that_is_gone_afterwards() {
        let folder = std::env::temp_dir().join(format!("tried-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(try_watch(&folder).await.unwrap(), Watched::Seen);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
        assert!(try_watch(&folder).await.is_err());
        assert_eq!(
            try_watch(Path::new("/proc")).await.unwrap(),
            Watched::Untried
        );
        assert_eq!(
            file_system(Path::new("/proc/self")).as_deref(),
            Some("proc")
        );
    }

    #[test]
    fn an_ordinary_file_is_no_mount() {
        assert!(!is_a_mount(Path::new("/proc/self/status")));
        assert!(is_a_mount(Path::new("/proc")));
    }
}

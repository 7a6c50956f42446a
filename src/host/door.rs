//! Whether other users of this machine can reach into the data directory.
//!
//! Root in a container is root for the files of the data directory, and can set that directory's
//! mode: a program left there with the set-user-ID bit gives its rights to whoever runs it on this
//! machine. So a directory above it must be closed to others, because the container can't change
//! that one; a file system that ignores the bit (nosuid) helps as well.

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, stat, statvfs};

/// The warning when nothing keeps others out; it ends with the command that fixes it.
pub(super) fn warning(data_dir: &Path) -> Option<String> {
    let path = open_way(data_dir)?;
    let parent = path.parent()?;
    let fix = if is_for_all(parent) {
        let closed = parent.join("mom");
        let name = path.file_name()?;
        format!(
            "move it into a directory that is closed to them: mkdir -m 700 {}, then move it to {}",
            quote(&closed),
            quote(&closed.join(name))
        )
    } else {
        format!("chmod 700 {}", quote(parent))
    };
    Some(format!(
        "other users of this machine can enter {}: root in the container could leave a program \
         there that gives them its rights; next: {fix}",
        path.display()
    ))
}

/// The path with links resolved, when others can get into each directory above it.
fn open_way(data_dir: &Path) -> Option<PathBuf> {
    let path = std::fs::canonicalize(data_dir).ok()?;
    let safe = StatVfsMountFlags::NOSUID;
    if statvfs(&path).ok()?.f_flag.contains(safe) {
        return None;
    }
    let others_enter = |dir: &Path| stat(dir).is_ok_and(|stat| stat.st_mode & 0o001 != 0);
    path.ancestors().skip(1).all(others_enter).then_some(path)
}

/// A directory of the system, or one that everyone may write to: it must not be closed.
fn is_for_all(dir: &Path) -> bool {
    let everyone_writes = stat(dir).is_ok_and(|stat| stat.st_mode & 0o002 != 0);
    // Such as `/srv`.
    let is_top = dir.components().count() <= 2;
    everyone_writes || is_top || dir == Path::new("/var/lib") || dir == Path::new("/usr/local")
}

/// A path as one writes it in a shell.
pub(super) fn quote(path: &Path) -> String {
    let path = path.to_string_lossy();
    shlex::try_quote(&path).map_or_else(|_| path.to_string(), |quoted| quoted.into_owned())
}

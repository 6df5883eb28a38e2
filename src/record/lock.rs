//! One recorder a folder: a lock that ends with its process, however that ends.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The file that is locked; readers of Parquet leave out what begins with a dot.
const FILE: &str = ".lock";

/// A folder that no other recorder may use while this lives.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

/// Locks each folder once, though two flags may name the same one.
///
/// # Errors
/// One line that names the flag and the folder: another recorder uses it, or it cannot be made.
pub(super) fn lock_all(folders: &[(&str, &Path)]) -> Result<Vec<FolderLock>, String> {
    let mut locked: Vec<PathBuf> = Vec::new();
    let mut locks = Vec::new();
    for (flag, folder) in folders {
        let failed = |why: &io::Error| format!("{flag}: {}: {why}", folder.display());
        fs::create_dir_all(folder).map_err(|why| failed(&why))?;
        let real = folder.canonicalize().map_err(|why| failed(&why))?;
        if locked.contains(&real) {
            continue;
        }
        let file = File::create(real.join(FILE)).map_err(|why| failed(&why))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let folder = folder.display();
                return Err(format!("{flag}: {folder} is in use by another recorder"));
            }
            // A file system without locks, as some of networks are: to record matters more.
            Err(TryLockError::Error(why)) if why.kind() == io::ErrorKind::Unsupported => {
                let folder = folder.display();
                tracing::warn!(%folder, %why, "the folder cannot be locked against a second recorder");
            }
            Err(TryLockError::Error(why)) => return Err(failed(&why)),
        }
        locked.push(real);
        locks.push(FolderLock { _file: file });
    }
    Ok(locks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_free_again() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [("--spool", folder.path()), ("--parquet", folder.path())];
        let locks = lock_all(&folders).unwrap();
        assert_eq!(locks.len(), 1);
        let why = lock_all(&folders[1..]).unwrap_err();
        assert!(why.starts_with("--parquet: "), "{why}");
        assert!(why.ends_with(" is in use by another recorder"), "{why}");
        drop(locks);
        lock_all(&folders).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_told_with_its_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let why = lock_all(&[("--spool", file.path())]).unwrap_err();
        assert!(why.contains("--spool") && why.contains(file.path().to_str().unwrap()));
    }
}

//! Writing a file so that it is complete or absent whatever happens, and holding a folder alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// Names of temporary files begin so; [`sweep`] removes those that a killed process left.
const PREFIX: &str = ".seedwalk-";

/// Writes beside the target, syncs, renames, syncs the folder. Makes the folder if need be.
///
/// # Errors
/// Whatever the system says; the target is then what it was.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let mut file = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempfile_in(folder)
        .map_err(|e| Error::io("write into", folder, e))?;
    let mut buffer = BufWriter::new(file.as_file_mut());
    write(&mut buffer).and_then(|()| buffer.flush()).map_err(|e| Error::io("write", path, e))?;
    drop(buffer);
    file.as_file().sync_all().map_err(|e| Error::io("sync", path, e))?;
    // Temporary files are private; what is kept is as readable as any other file.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644));
    }
    file.persist(path).map_err(|e| Error::io("rename", path, e.error))?;
    // Some file systems cannot sync a folder; the rename is then as durable as they make it.
    let _ = File::open(folder).and_then(|f| f.sync_all());
    Ok(())
}

/// Removes temporary files that a killed process left in a folder. Call while holding its lock.
pub fn sweep(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Fails early where a folder cannot take `needed` bytes: a file of that size is reserved and removed.
pub fn check_space(folder: &Path, needed: u64) -> Result<()> {
    // Written, not only sized: most file systems give a sized file no room.
    const PROBE: u64 = 1 << 20;
    let probe = folder.join(format!("{PREFIX}probe"));
    let attempt = || -> std::io::Result<()> {
        let mut file = File::create(&probe)?;
        file.write_all(&vec![1u8; needed.min(PROBE) as usize])?;
        file.sync_all()
    };
    let outcome = attempt();
    let _ = std::fs::remove_file(&probe);
    outcome.map_err(|e| {
        Error::io("write into", folder, e)
            .remedy(format!("about {needed} bytes are needed there, and leave to write"))
    })
}

/// Exclusive hold of a folder, until dropped.
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the folder, which must exist.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] with the holder's process id when another process has it.
    pub fn acquire(folder: &Path) -> Result<Self> {
        let path: PathBuf = folder.join(".lock");
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open().map_err(|e| Error::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let message = format!("another process works in this folder (process {})", holder.trim());
                return Err(Error::new(ErrorKind::Locked, message)
                    .in_file(folder)
                    .remedy("wait for it to end, or choose another output folder"));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/file");
        write_atomically(&path, |f| f.write_all(b"old")).unwrap();
        assert!(write_atomically(&path, |_| Err(std::io::Error::other("full"))).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_below_a_file_and_a_held_one_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(write_atomically(&dir.path().join("file/x"), |_| Ok(())).is_err());
        assert!(check_space(&dir.path().join("file"), 10).is_err());
        let lock = FolderLock::acquire(dir.path()).unwrap();
        let error = FolderLock::acquire(dir.path()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Locked);
        drop(lock);
        FolderLock::acquire(dir.path()).unwrap();
        std::fs::write(dir.path().join(".seedwalk-abc"), "").unwrap();
        sweep(dir.path()).unwrap();
        assert!(!dir.path().join(".seedwalk-abc").exists());
    }
}

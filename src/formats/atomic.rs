//! Files that are complete or absent, whatever happens to the process or the power.
//!
//! A file is written beside its target under a temporary name, synced, renamed over the target, and the
//! folder is synced (Pillai et al., *All File Systems Are Not Created Equal*, OSDI 2014: each of the four
//! steps is needed). Temporary names begin with [`TEMPORARY_PREFIX`]; a killed process leaves them behind
//! and the next one to hold the folder's lock sweeps them.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{Error, ErrorKind, Result};

/// How the names of temporary files and folders begin.
pub const TEMPORARY_PREFIX: &str = ".seedwalk-";

/// The file in an output folder that its writer holds locked.
pub const LOCK_FILE: &str = ".seedwalk.lock";

/// Writes a file so that it is complete or absent: beside the target, synced, renamed, folder synced.
/// Missing folders are made. A file that was there before stays whole until the new one takes its place.
///
/// # Errors
/// What the closure or the operating system fails with; the target is then as it was.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let folder = folder_of(path);
    create_folder(folder)?;
    let file = temporary_file(folder)?;
    // Through the file itself: errors of `NamedTempFile` name the temporary file, which means nothing.
    let counted = Counted { inner: file.as_file(), bytes: 0, full: None };
    let mut writer = BufWriter::with_capacity(1 << 16, counted);
    let fail = |e| Error::io("write", path, e);
    write(&mut writer).map_err(fail)?;
    let Counted { bytes, full, .. } = writer.into_inner().map_err(|e| fail(e.into_error()))?;
    if let Some((room, e)) = full {
        return Err(no_room("write", path, bytes, Some(room), e));
    }
    // Some file systems find only now that they are full.
    file.as_file().sync_all().map_err(|e| match is_full(&e) {
        true => no_room("write", path, bytes, None, e),
        false => fail(e),
    })?;
    file.persist(path).map_err(|e| fail(e.error))?;
    sync_folder(folder)
}

/// A new file under a temporary name.
fn temporary_file(folder: &Path) -> Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        // Restricted by the umask, as any file that a program creates.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(|e| match e.kind() {
            // What cannot be found is not the folder: it was there a moment ago.
            io::ErrorKind::NotFound if folder.is_dir() => {
                Error::new(ErrorKind::Io, "no file can be made in this folder")
                    .in_file(folder)
                    .remedy("choose an output folder that can be written")
            }
            // The kind alone: the error's own words name the temporary file.
            kind => Error::io("write into", folder, kind.into()),
        })
}

/// Counts what is written. Once there is no more room it only counts on, so that the error can say what the
/// whole file needs.
struct Counted<W> {
    inner: W,
    bytes: u64,
    /// How many bytes there was room for, and what the system said then.
    full: Option<(u64, io::Error)>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &self.full {
            Some(_) => bytes.len(),
            None => match self.inner.write(bytes) {
                Err(e) if is_full(&e) => {
                    self.full = Some((self.bytes, e));
                    bytes.len()
                }
                written => written?,
            },
        };
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.full.is_some() { Ok(()) } else { self.inner.flush() }
    }
}

/// Whether the system has no room for more: a full disk, a quota, a limit on a file's size.
fn is_full(e: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The error of a full disk: how much is needed, how much there is room for.
fn no_room(action: &str, path: &Path, needed: u64, room: Option<u64>, e: io::Error) -> Error {
    let (needed, room) = (show_bytes(needed.into()), room.map(|room| show_bytes(room.into())));
    let words = match (room, e.kind()) {
        (None, _) => format!("{needed} are needed"),
        (Some(room), io::ErrorKind::FileTooLarge) => {
            format!("{needed} are needed in one file, {room} are allowed")
        }
        (Some(room), _) => format!("{needed} are needed, about {room} are free"),
    };
    Error::io(action, path, e).detail(words)
}

/// Makes a folder and those above it, durably.
///
/// # Errors
/// What the operating system refuses.
pub fn create_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    if above != folder {
        create_folder(above)?;
    }
    match std::fs::create_dir(folder) {
        Ok(()) => sync_folder(above),
        // Another thread made it meanwhile.
        Err(_) if folder.is_dir() => Ok(()),
        Err(e) => {
            let missing = e.kind() == io::ErrorKind::NotFound;
            let error = Error::io("create the folder", folder, e);
            // The folder above is there, and is of a kind that holds no folders of ours.
            Err(if missing { error.remedy("choose an output folder that can be written") } else { error })
        }
    }
}

/// Makes the entries of a folder durable: what was renamed into it or removed from it.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|f| f.sync_all()) {
        Ok(()) => Ok(()),
        // Some network file systems cannot sync a folder; their renames are synchronous.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        Err(e) => Err(Error::io("sync the folder", folder, e)),
    }
}

/// The folder that a path lies in; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    }
}

/// The sole right to write into a folder, held until dropped. The operating system takes it back when the
/// process ends in whatever way, so a lock file that lies about means nothing by itself.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the lock of a folder, which is made if it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] with the holder's process number and command when another process (or
    /// another part of this one) has it; a folder that cannot be written.
    pub fn acquire(folder: &Path) -> Result<Self> {
        create_folder(folder)?;
        let path = folder.join(LOCK_FILE);
        let fail = |e| Error::io("lock the folder through", &path, e);
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open().map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(folder, &mut file)),
            Err(TryLockError::Error(e)) => {
                return Err(fail(e).remedy("choose an output folder on a file system that can lock files"));
            }
        }
        let command: Vec<String> =
            std::env::args_os().take(2).map(|a| crate::show_path(Path::new(&a))).collect();
        let holder = format!("process {} ({})\n", std::process::id(), command.join(" "));
        file.set_len(0).and_then(|()| file.write_all(holder.as_bytes())).map_err(fail)?;
        Ok(Self { file })
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file would do; a failure here leaves nothing to be mended.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn held(folder: &Path, file: &mut File) -> Error {
    let mut holder = String::new();
    let _ = file.take(512).read_to_string(&mut holder);
    let holder = holder.trim();
    let holder = if holder.is_empty() { "another process" } else { holder };
    Error::new(ErrorKind::Locked, format!("{holder} is writing into this folder"))
        .in_file(folder)
        .remedy("wait for it to end, stop it, or choose another output folder")
}

/// Removes the temporary files and folders that a killed process left in `folder` and below it. Call it
/// with the folder's lock held. Subfolders that have a lock file of their own are left to its holder, and
/// links are not followed. Returns how many were removed.
///
/// # Errors
/// A folder that cannot be listed, a file that cannot be removed.
pub fn sweep(folder: &Path) -> Result<usize> {
    let mut removed = 0;
    let mut pending = vec![folder.to_path_buf()];
    while let Some(folder) = pending.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("list", &folder, e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &folder, e))?;
            let path = entry.path();
            let is_folder = entry.file_type().map_err(|e| Error::io("look at", &path, e))?.is_dir();
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
                let gone =
                    if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                gone.map_err(|e| Error::io("remove", &path, e))?;
                removed += 1;
            } else if is_folder && !path.join(LOCK_FILE).exists() {
                pending.push(path);
            }
        }
    }
    Ok(removed)
}

/// Makes sure that files of these sizes in bytes have room in `folder` beside each other, by writing them
/// under temporary names that are removed at once: that holds for quotas, reserved blocks, limits on a
/// file's size and every file system alike. The bytes are not synced, so they mostly never reach the disk.
///
/// # Errors
/// A folder that cannot be written; too little space, with needed and free bytes.
pub fn check_space(folder: &Path, sizes: &[u64]) -> Result<()> {
    create_folder(folder)?;
    let fail = |e| Error::io("write into", folder, e);
    let mut files = Vec::new();
    for (i, &size) in sizes.iter().enumerate() {
        let file = temporary_file(folder)?;
        probe(&mut file.as_file(), size).map_err(|(room, e)| match e.kind() {
            io::ErrorKind::FileTooLarge => no_room("write into", folder, size, Some(room), e),
            _ if is_full(&e) => {
                let before: u64 = sizes[..i].iter().sum();
                no_room("write into", folder, sizes.iter().sum(), Some(before + room), e)
            }
            _ => fail(e),
        })?;
        files.push(file);
    }
    Ok(())
}

/// Writes `needed` bytes; a failure comes with how many could be written.
fn probe(file: &mut impl Write, needed: u64) -> std::result::Result<(), (u64, io::Error)> {
    // Not zeros: a file system may keep those for nothing.
    let block: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut written = 0u64;
    while written < needed {
        let want = block.len().min(usize::try_from(needed - written).unwrap_or(usize::MAX));
        match file.write(&block[..want]) {
            Ok(0) => return Err((written, io::ErrorKind::StorageFull.into())),
            Ok(n) => written += n as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err((written, e)),
        }
    }
    Ok(())
}

/// Bytes for people: `1.5 GiB`.
pub(crate) fn show_bytes(bytes: u128) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        write_atomically(&path, |w| w.write_all(b"old")).unwrap();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let e = write_atomically(&path, |w| w.write_all(&[0; 1 << 20]).and(Err(full()))).unwrap_err();
        assert!(e.how_to_mend().unwrap().contains("space"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(path.parent().unwrap()), ["file"]);
        write_atomically(&path, |w| w.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_path_through_a_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let inside = dir.path().join("file/x");
        assert_eq!(write_atomically(&inside, |_| Ok(())).unwrap_err().kind(), ErrorKind::Io);
        assert!(check_space(&inside, &[10]).is_err());
        assert!(FolderLock::acquire(&inside).is_err());
    }

    #[test]
    fn the_second_writer_learns_who_holds_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(dir.path()).unwrap();
        let e = FolderLock::acquire(dir.path()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Locked);
        assert!(e.message().contains(&format!("process {}", std::process::id())), "{e}");
        drop(first);
        FolderLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn only_temporary_files_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = FolderLock::acquire(dir.path()).unwrap();
        for name in [
            "keep",
            ".seedwalk-1",
            "sub/.seedwalk-2",
            "sub/keep",
            "other/.seedwalk-3",
            "other/.seedwalk.lock",
        ] {
            create_folder(folder_of(&dir.path().join(name))).unwrap();
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        std::fs::create_dir_all(dir.path().join(".seedwalk-folder/inner")).unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), 3);
        assert_eq!(names(dir.path()), [".seedwalk.lock", "keep", "other", "sub"]);
        assert_eq!(names(&dir.path().join("sub")), ["keep"]);
        assert_eq!(names(&dir.path().join("other")), [".seedwalk-3", ".seedwalk.lock"]);
        assert_eq!(sweep(&dir.path().join("absent")).unwrap(), 0);
    }

    /// Room for so many bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.0);
            self.0 -= n;
            if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_with_what_the_whole_file_needs() {
        let mut counted = Counted { inner: Full(1000), bytes: 0, full: None };
        for _ in 0..3 {
            counted.write_all(&[7; 700]).unwrap();
        }
        counted.flush().unwrap();
        let (room, e) = counted.full.unwrap();
        assert_eq!((counted.bytes, room), (2100, 1000));
        let e = no_room("write", Path::new("x"), counted.bytes, Some(room), e);
        assert!(e.message().contains("2.1 KiB are needed, about 1000 bytes are free"), "{e}");
        assert!(e.how_to_mend().unwrap().contains("space"));
    }

    #[test]
    fn space_is_probed_to_the_byte() {
        assert_eq!(probe(&mut Full(3_000_000), 3_000_001).unwrap_err().0, 3_000_000);
        probe(&mut Full(3_000_000), 3_000_000).unwrap();
        let dir = tempfile::tempdir().unwrap();
        check_space(dir.path(), &[2_500_000, 0, 100]).unwrap();
        assert!(names(dir.path()).is_empty());
        assert_eq!(show_bytes(1536), "1.5 KiB");
    }
}

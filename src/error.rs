//! The one error type of the crate.
//!
//! An [`Error`] says what failed ([`ErrorKind`]), in which file and where in it, why, and what the
//! reader can do about it. The command prints all of it; the library never prints.

use std::fmt;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of thing went wrong; decides the exit code and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused: missing file, no permission, full disk.
    Io,
    /// A file's content is not what its format or its place asks for.
    Malformed,
    /// Tensor shapes do not fit each other or the operation.
    Shape,
    /// Settings, class lists, checkpoints or data that do not fit together.
    Invalid,
    /// NaN or infinity where numbers are needed.
    NotFinite,
    /// Another process holds the output folder.
    Locked,
    /// The user asked to stop.
    Interrupted,
    /// The command line itself is wrong (exit code 2).
    Usage,
    /// What was asked for does not exist on this machine or in this build.
    Unavailable,
    /// A GPU or its driver failed.
    Device,
    /// A GPU's memory is too small.
    OutOfMemory,
}

/// Where in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Line, counted from 1.
    Line(usize),
    /// Byte offset, counted from 0.
    Offset(u64),
}

/// A failure: its kind, cause, the file at fault, and a remedy. Cheap to move (one pointer).
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    position: Option<Position>,
    remedy: Option<String>,
    source: Option<std::io::Error>,
}

impl Error {
    /// A new error of `kind` with its cause in words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            position: None,
            remedy: None,
            source: None,
        }))
    }

    /// An operating-system error: `action` is a verb, as in "cannot *read*".
    pub fn io(action: &str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, format!("cannot {action}: {source}"));
        error.0.remedy = remedy_for(&source);
        error.0.source = Some(source);
        error.in_file(path)
    }

    /// A file whose content is not acceptable.
    pub fn malformed(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message).in_file(path)
    }

    /// Shapes that do not fit: `operation` names who found it.
    pub fn shape(operation: &str, message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Shape, format!("{operation}: {message}"))
    }

    /// Settings or data that do not fit together.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Names the file at fault, unless a deeper layer already has.
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        if self.0.path.is_none() {
            self.0.path = Some(path.as_ref().to_path_buf());
        }
        self
    }

    /// Names the line at fault (from 1).
    pub fn at_line(mut self, line: usize) -> Self {
        self.0.position = Some(Position::Line(line));
        self
    }

    /// Names the byte at fault (from 0).
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.0.position = Some(Position::Offset(offset));
        self
    }

    /// Adds what the reader can do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Adds a remedy where a deeper layer has none.
    pub fn or_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy.get_or_insert_with(|| remedy.into());
        self
    }

    /// Puts words before the message, as in "while reading the list: …".
    pub fn context(mut self, words: impl fmt::Display) -> Self {
        self.0.message = format!("{words}: {}", self.0.message);
        self
    }

    /// Adds words after the message, as in "…; 3 MiB are needed".
    pub fn detail(mut self, words: impl fmt::Display) -> Self {
        self.0.message = format!("{}; {words}", self.0.message);
        self
    }

    /// The same failure, laid to the command line: a flag's value is at fault, so the exit code is 2.
    pub fn of_usage(mut self) -> Self {
        self.0.kind = ErrorKind::Usage;
        self
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The cause, without file and remedy.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The file at fault, if one is.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Where in the file, if known.
    pub fn position(&self) -> Option<Position> {
        self.0.position
    }

    /// What to do about it, if something can be said.
    pub fn how_to_mend(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The process's exit code: 2 wrong usage, 130 interrupted, 1 all else.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            ErrorKind::Usage => 2,
            ErrorKind::Interrupted => 130,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}", show_path(path))?;
            match self.0.position {
                Some(Position::Line(line)) => write!(f, ":{line}")?,
                Some(Position::Offset(offset)) => write!(f, ", byte {offset}")?,
                None => {}
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

/// A path for people: bytes that are not UTF-8 and control characters are escaped, nothing is lost.
pub fn show_path(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut out = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// A path in JSON without loss: a string, or its bytes in hexadecimal where it is not UTF-8.
pub(crate) fn path_json(path: &Path) -> serde_json::Value {
    use std::os::unix::ffi::OsStrExt;
    match path.to_str() {
        Some(text) => serde_json::json!(text),
        None => {
            let hex: String = path.as_os_str().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
            serde_json::json!({ "bytes": hex })
        }
    }
}

fn remedy_for(source: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind as K;
    let words = match source.kind() {
        K::NotFound => "check the path; relative paths start at the current folder",
        K::PermissionDenied => "check the permissions of the file and of its folder",
        K::StorageFull | K::QuotaExceeded => {
            "free some space or choose another folder; what was finished is kept"
        }
        K::ReadOnlyFilesystem => "choose an output folder that can be written",
        K::NotADirectory => "a part of the path is a file, not a folder",
        K::IsADirectory => "a file was expected, this is a folder",
        K::AlreadyExists => "a file of this name is in the way; choose another, or move it away",
        K::FileTooLarge => {
            "files of this size are not allowed here: see `ulimit -f`, or choose a folder on another file system"
        }
        _ => return None,
    };
    Some(words.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_file_and_line() {
        let e = Error::malformed("a/b.csv", "unknown class `dgo`")
            .at_line(7)
            .in_file("outer")
            .remedy("did you mean `dog`?");
        assert_eq!(e.to_string(), "a/b.csv:7: unknown class `dgo`");
        assert_eq!(e.how_to_mend(), Some("did you mean `dog`?"));
        assert_eq!(e.exit_code(), 1);
        assert_eq!(Error::usage("x").exit_code(), 2);
    }

    #[test]
    fn paths_that_are_not_utf8_are_shown_escaped() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xff\n/b"));
        assert_eq!(show_path(path), "a\\xff\\n/b");
        assert_eq!(path_json(path), serde_json::json!({ "bytes": "61ff0a2f62" }));
        assert_eq!(path_json(Path::new("ä")), serde_json::json!("ä"));
    }
}

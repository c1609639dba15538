//! Text files as people make them: with or without a byte order mark, with either line end.

use std::path::{Path, PathBuf};

use crate::formats::read_file;
use crate::{Error, Result};

/// Lists, tags and class files beyond this are refused: a million long ids fit.
const LIMIT: u64 = 64 << 20;

/// A UTF-8 file in memory.
pub(super) struct TextFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its content without a byte order mark.
    pub text: String,
}

impl TextFile {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, larger than 64 MiB, or not UTF-8 (with the line).
    pub fn read(path: &Path) -> Result<Self> {
        let length = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
        if length > LIMIT {
            return Err(Error::malformed(path, format!("more than {} MiB of text", LIMIT >> 20)));
        }
        Self::from_bytes(path, read_file(path)?)
    }

    /// A file's text from its bytes.
    ///
    /// # Errors
    /// Bytes that are not UTF-8 (with the line).
    pub fn from_bytes(path: &Path, mut bytes: Vec<u8>) -> Result<Self> {
        if bytes.starts_with(b"\xEF\xBB\xBF") {
            bytes.drain(..3);
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let valid = e.utf8_error().valid_up_to();
            let line = 1 + e.as_bytes()[..valid].iter().filter(|b| **b == b'\n').count();
            Error::malformed(path, "not UTF-8").at_line(line).remedy("save the file as UTF-8")
        })?;
        Ok(Self { path: path.to_path_buf(), text })
    }

    /// Lines that are not blank, without blanks around them, numbered from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.text.lines().enumerate();
        numbered.map(|(i, line)| (i + 1, line.trim())).filter(|(_, line)| !line.is_empty())
    }
}

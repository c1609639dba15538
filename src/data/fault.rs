//! Faults of a data set, gathered so that all can be told at once.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::path_json;
use crate::{Error, show_path};

/// One thing that is wrong with a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file at fault.
    #[serde(serialize_with = "without_loss")]
    pub file: PathBuf,
    /// The line in it, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

fn without_loss<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    path_json(path).serialize(serializer)
}

impl Fault {
    /// A fault in a file.
    pub(super) fn new(path: &Path, message: impl Into<String>) -> Self {
        Self { file: path.to_path_buf(), line: None, message: message.into(), remedy: None }
    }

    /// Names the line.
    pub(super) fn at_line(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }

    /// Adds what to do.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = show_path(&self.file);
        match self.line {
            Some(line) => write!(f, "{file}:{line}: {}", self.message),
            None => write!(f, "{file}: {}", self.message),
        }
    }
}

/// The fault that an error tells of; `path` where the error names none.
pub(super) fn fault_of(error: &Error, path: &Path) -> Fault {
    let mut fault = Fault::new(error.path().unwrap_or(path), error.message());
    fault.remedy = error.how_to_mend().map(String::from);
    match error.position() {
        Some(crate::Position::Line(line)) => fault.line = Some(line),
        Some(crate::Position::Offset(offset)) => fault.message += &format!(" (byte {offset})"),
        None => {}
    }
    fault
}

/// Faults after which a file is not looked at any further: it is not what it is said to be.
const MOST: usize = 10_000;

/// Whether there are faults enough; then the last of them says so.
pub(super) fn too_many(faults: &mut Vec<Fault>, path: &Path) -> bool {
    if faults.len() == MOST {
        let fault = Fault::new(path, format!("more than {MOST} faults; what follows was not looked at"));
        faults.push(fault.remedy("check that this is the file that was meant"));
    }
    faults.len() > MOST
}

/// How many faults an error lists.
const TOLD: usize = 10;

/// One error for all faults: the first in full, the next ones a line each.
pub(super) fn into_error(faults: &[Fault]) -> Option<Error> {
    let first = faults.first()?;
    let mut message = first.message.clone();
    for fault in faults.iter().take(TOLD).skip(1) {
        message += &format!("\n{fault}");
        if let Some(remedy) = &fault.remedy {
            message += &format!(" ({remedy})");
        }
    }
    if faults.len() > TOLD {
        message += &format!("\nand {} more", faults.len() - TOLD);
    }
    let mut error = Error::malformed(&first.file, message);
    if let Some(line) = first.line {
        error = error.at_line(line);
    }
    let remedy = match (&first.remedy, faults.len()) {
        (Some(remedy), 1) => remedy.clone(),
        (Some(remedy), _) => format!("{remedy}; `seedwalk check-data` lists every fault"),
        (None, _) => "`seedwalk check-data` lists every fault with its line".to_string(),
    };
    Some(error.remedy(remedy))
}

//! Class names: data, not code.

use std::path::Path;

use super::text::TextFile;
use crate::{Error, Result};

/// The classes of PASCAL VOC, used where a data set brings no list of its own.
const VOC: [&str; 21] = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// The names of a data set's classes; a class's index is its label in masks, 0 is `background`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    names: Vec<String>,
}

impl Classes {
    /// PASCAL VOC's background and twenty classes.
    pub fn voc() -> Self {
        Self { names: VOC.map(String::from).to_vec() }
    }

    /// Checks names: 2 to 255 of them (255 means "ignore" in masks), the first `background`, none empty,
    /// repeated or with control characters.
    ///
    /// # Errors
    /// The first name that breaks a rule; its place in the list is the error's line.
    pub fn new(names: Vec<String>) -> Result<Self> {
        let lines = (1..=names.len()).collect::<Vec<_>>();
        Self::with_lines(names, &lines)
    }

    /// Reads a file with a name a line; BOM, CRLF, blank lines and blanks around names are accepted.
    ///
    /// # Errors
    /// A file that cannot be read or is not UTF-8; a list that [`Classes::new`] refuses, with its line.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&TextFile::read(path)?)
    }

    /// As [`Classes::read`], of a file in memory.
    pub(super) fn parse(file: &TextFile) -> Result<Self> {
        let (lines, names): (Vec<usize>, Vec<String>) =
            file.lines().map(|(line, name)| (line, name.to_string())).unzip();
        Self::with_lines(names, &lines).map_err(|e| e.in_file(&file.path))
    }

    fn with_lines(names: Vec<String>, lines: &[usize]) -> Result<Self> {
        if names.first().map(String::as_str) != Some("background") {
            let first = names.first().map_or("nothing".to_string(), |n| format!("`{n}`"));
            return Err(Error::invalid(format!("a class list starts with `background`, this with {first}"))
                .at_line(lines.first().copied().unwrap_or(1))
                .remedy("put `background` on the first line"));
        }
        if !(2..=255).contains(&names.len()) {
            return Err(Error::invalid(format!("{} class names", names.len()))
                .remedy("masks hold 2 to 255 classes, background included"));
        }
        for (i, name) in names.iter().enumerate() {
            let (wrong, remedy) = match name {
                n if n.is_empty() => ("an empty class name".to_string(), "give every class a name"),
                n if n.contains(|c: char| c.is_control()) => {
                    let wrong = format!("control characters in `{}`", n.escape_default());
                    (wrong, "a class list is plain text with a name a line")
                }
                n => match names[..i].iter().position(|other| other == n) {
                    Some(first) => {
                        let wrong = format!("class `{n}` is already on line {}", lines[first]);
                        (wrong, "name every class once: labels count its position")
                    }
                    None => continue,
                },
            };
            return Err(Error::invalid(wrong).at_line(lines[i]).remedy(remedy));
        }
        Ok(Self { names })
    }

    /// All names, background first.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The names after background: the outputs of a classification network.
    pub fn foreground(&self) -> &[String] {
        self.names.get(1..).unwrap_or_default()
    }

    /// Number of classes, background included.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never true: there is always background and one more.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The label of a class name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// The known name most like `name`, if one is like it at all.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.foreground().iter().map(String::as_str))
    }
}

/// The candidate most like `name` (at most half of the letters added, dropped, changed or
/// exchanged with their neighbour; case does not count).
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Comparing takes time and memory of one length times the other: nobody mistypes a name of this length.
    const LONGEST: usize = 200;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase();
    candidates
        .map(|c| (strsim::normalized_damerau_levenshtein(&name, &c.to_lowercase()), c))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

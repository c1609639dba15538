//! Lists of a split: an id a line, or the path of a photograph, or that and the path of its mask.

use std::path::{Path, PathBuf};

use super::fault::{Fault, too_many};
use super::ids::{SeenIds, is_image, why_unsafe, without_ending};
use super::text::TextFile;

/// A line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Names the sample.
    pub id: String,
    /// The photograph's path below the root, where the line gives one.
    pub image: Option<PathBuf>,
    /// The mask's path below the root, where the line gives one.
    pub mask: Option<String>,
    /// Line, from 1.
    pub line: usize,
}

/// The entries of a list in its order; what is wrong with a line goes to `faults`, and the line is left
/// out.
pub(super) fn parse(file: &TextFile, faults: &mut Vec<Fault>) -> Vec<Entry> {
    let (mut entries, mut seen) = (Vec::new(), SeenIds::default());
    for (line, text) in file.lines() {
        if too_many(faults, &file.path) {
            break;
        }
        match entry(text, line).and_then(|e| seen.insert(&e.id, line).map(|()| e)) {
            Ok(entry) => entries.push(entry),
            Err(message) => faults.push(Fault::new(&file.path, message).at_line(line)),
        }
    }
    entries
}

fn entry(text: &str, line: usize) -> Result<Entry, String> {
    let fields = fields(text)?;
    let (image, mask) = match fields.as_slice() {
        [image, mask] if is_image(Path::new(image)) && is_image(Path::new(mask)) => {
            (Some(below_root(image)?), Some(below_root(mask)?))
        }
        [image] if is_image(Path::new(image)) => (Some(below_root(image)?), None),
        _ => (None, None),
    };
    let id = match (&image, fields.as_slice()) {
        (Some(image), _) => without_ending(image.strip_prefix("JPEGImages/").unwrap_or(image)).to_string(),
        (None, [id]) => id.clone(),
        // An id may contain blanks.
        (None, _) => text.to_string(),
    };
    match why_unsafe(&id) {
        Some(why) => Err(format!("id `{}` {why}", id.escape_debug())),
        None => Ok(Entry { id, image: image.map(PathBuf::from), mask, line }),
    }
}

/// A path as lists give it: below the data set's folder, written with or without a leading `/`.
fn below_root(path: &str) -> Result<String, String> {
    let relative = path.strip_prefix('/').unwrap_or(path);
    match why_unsafe(relative) {
        Some(why) => Err(format!("path `{}` {why}", path.escape_debug())),
        None => Ok(relative.to_string()),
    }
}

/// Splits at blanks; double quotes hold blanks together.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = quoted.split_once('"').ok_or("a quote is not closed")?;
            fields.push(field.to_string());
            rest = after.trim_start();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            fields.push(rest[..end].to_string());
            rest = rest[end..].trim_start();
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> (Vec<Entry>, Vec<Fault>) {
        let mut faults = Vec::new();
        let file = TextFile { path: "list.txt".into(), text: text.to_string() };
        let entries = parse(&file, &mut faults);
        (entries, faults)
    }

    #[test]
    fn all_forms_of_a_line() {
        let (entries, faults) = parse_text(
            "2007_000032\r\n\r\n  \"a b\"  \nmy photo\n/JPEGImages/x.jpg /SegmentationClassAug/x.png\n\
             sub/y.JPG\n\"d e/z.png\" \"m n/z.png\"\nv1.2\n",
        );
        assert_eq!(faults, []);
        let got: Vec<_> = entries
            .iter()
            .map(|e| (e.line, e.id.as_str(), e.image.as_ref().and_then(|p| p.to_str()), e.mask.as_deref()))
            .collect();
        assert_eq!(
            got,
            [
                (1, "2007_000032", None, None),
                (3, "a b", None, None),
                (4, "my photo", None, None),
                (5, "x", Some("JPEGImages/x.jpg"), Some("SegmentationClassAug/x.png")),
                (6, "sub/y", Some("sub/y.JPG"), None),
                (7, "d e/z", Some("d e/z.png"), Some("m n/z.png")),
                (8, "v1.2", None, None),
            ]
        );
    }

    #[test]
    fn every_bad_line_is_told_with_its_number() {
        let (entries, faults) = parse_text(
            "a\n../b\n/etc/passwd\nc\\d\n\0\na\nA\nx/../../y\n./e\nf//g\n\"open\n../h.jpg ok.png\nB/",
        );
        assert_eq!(entries.len(), 1);
        let lines: Vec<_> = faults.iter().filter_map(|f| f.line).collect();
        assert_eq!(lines, (2..=13).collect::<Vec<_>>());
        assert!(faults[0].message.contains("`..`"));
        assert!(faults[1].message.contains("not relative"));
        assert!(faults[2].message.contains("backslash"));
        assert!(faults[3].message.contains("NUL"));
        assert_eq!(faults[4].message, "id `a` was already given on line 1");
        assert_eq!(faults[5].message, "id `A` differs only in case from `a` on line 1");
        assert!(faults[9].message.contains("quote"));
    }
}

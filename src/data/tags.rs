//! Image-level tags: from VOC's annotations, from a CSV or from `cls_labels.npy`.

use std::collections::HashMap;
use std::path::Path;

use super::classes::Classes;
use super::fault::{Fault, fault_of, too_many};
use super::ids::{SeenIds, why_unsafe, without_ending};
use super::text::TextFile;
use crate::formats::npy::read_class_labels;
use crate::{Error, Result};

/// A row of tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Class indices, ascending, from 1.
    pub tags: Vec<usize>,
    /// Line, from 1; `None` where the file has no lines.
    pub line: Option<usize>,
}

/// Tags by id. `order` holds the ids as the file gives them.
#[derive(Debug, Default)]
pub(super) struct TagTable {
    /// Ids in the file's order.
    pub order: Vec<String>,
    /// Their tags.
    pub rows: HashMap<String, Row>,
}

/// The label of a tag, or what is wrong with its name.
fn class_of(name: &str, classes: &Classes) -> Result<usize, (String, String)> {
    match classes.index_of(name) {
        Some(0) => Err((
            "`background` is no tag: every image has some".to_string(),
            "remove it from the tags".to_string(),
        )),
        Some(index) => Ok(index),
        None => {
            let remedy = match classes.nearest(name) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name the data set's classes with --classes or in its `classes.txt`".to_string(),
            };
            Err((format!("unknown class `{}`", name.escape_debug()), remedy))
        }
    }
}

fn sorted(mut tags: Vec<usize>) -> Vec<usize> {
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// Reads `id,class,class` rows: quotes, blanks, empty fields, a header (`id`, `image`, `file`,
/// `filename` in its first field), and ids with a photograph's ending are accepted.
pub(super) fn parse_csv(file: &TextFile, classes: &Classes, faults: &mut Vec<Fault>) -> TagTable {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(file.text.as_bytes());
    let (mut table, mut seen) = (TagTable::default(), SeenIds::default());
    let mut lines = LineCounter::new(&file.text);
    for (number, record) in reader.records().enumerate() {
        if too_many(faults, &file.path) {
            return table;
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = lines.at(error.position().map_or(0, csv::Position::byte) as usize);
                faults.push(Fault::new(&file.path, format!("not CSV: {error}")).at_line(line));
                return table;
            }
        };
        let line = lines.at(record.position().map_or(0, csv::Position::byte) as usize);
        let record: Vec<&str> = record.iter().map(unquoted).collect();
        let Some(&first) = record.first() else { continue };
        let header = ["id", "image", "file", "filename"].iter().any(|h| first.eq_ignore_ascii_case(h));
        if (number == 0 && header) || record.iter().all(|f| f.is_empty()) {
            continue;
        }
        let fault = |message: String| Fault::new(&file.path, message).at_line(line);
        let id = without_ending(first);
        if let Some(why) = why_unsafe(id) {
            faults.push(fault(format!("id `{}` {why}", id.escape_debug())));
            continue;
        }
        if let Err(message) = seen.insert(id, line) {
            faults.push(fault(message));
            continue;
        }
        let mut tags = Vec::new();
        for name in record.into_iter().skip(1).filter(|n| !n.is_empty()) {
            match class_of(name, classes) {
                Ok(class) => tags.push(class),
                Err((message, remedy)) => faults.push(fault(message).remedy(remedy)),
            }
        }
        table.order.push(id.to_string());
        table.rows.insert(id.to_string(), Row { tags: sorted(tags), line: Some(line) });
    }
    table
}

/// Reads the field's `cls_labels.npy`: {id: a value per foreground class, above 0 where it is present}.
///
/// # Errors
/// A file that holds anything else.
pub(super) fn read_npy(path: &Path, classes: &Classes, faults: &mut Vec<Fault>) -> Result<TagTable> {
    let (mut table, mut seen) = (TagTable::default(), SeenIds::default());
    let expected = classes.foreground().len();
    for (id, values) in read_class_labels(path)? {
        if too_many(faults, path) {
            break;
        }
        let id = without_ending(&id);
        let fault = |message: String| Fault::new(path, message);
        if let Some(why) = why_unsafe(id) {
            faults.push(fault(format!("id `{}` {why}", id.escape_debug())));
        } else if let Err(message) = seen.insert(id, 0) {
            faults.push(fault(message));
        } else if values.len() != expected {
            let message = format!("{} labels of `{id}` for {expected} classes", values.len());
            faults
                .push(fault(message).remedy("name the classes that the labels were made for with --classes"));
        } else {
            let tags = (1..=expected).filter(|&class| values[class - 1] > 0.0).collect();
            table.order.push(id.to_string());
            table.rows.insert(id.to_string(), Row { tags, line: None });
        }
    }
    Ok(table)
}

/// A field without quotes that blanks before them made part of it.
fn unquoted(field: &str) -> &str {
    field.strip_prefix('"').and_then(|f| f.strip_suffix('"')).map_or(field, str::trim)
}

/// Turns byte positions that only grow into lines.
///
/// The reader's own lines are one short after CRLF, since it sees a record's end at CR.
struct LineCounter<'a> {
    rest: &'a [u8],
    done: usize,
    line: usize,
}

impl<'a> LineCounter<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.as_bytes(), done: 0, line: 1 }
    }

    /// The line, from 1, of the first byte from `position` on that ends no line.
    fn at(&mut self, position: usize) -> usize {
        while let Some((&byte, rest)) = self.rest.split_first() {
            if self.done >= position && !matches!(byte, b'\r' | b'\n') {
                break;
            }
            self.line += usize::from(byte == b'\n');
            (self.rest, self.done) = (rest, self.done + 1);
        }
        self.line
    }
}

/// Nodes in an annotation; VOC's largest has about 1,500.
const XML_NODES: u32 = 100_000;
/// Bytes in an annotation.
const XML_BYTES: usize = 8 << 20;
/// Attributes of an element; VOC's have none. The parser compares each with each.
const XML_ATTRIBUTES: usize = 64;

/// Whether an element may have more attributes than are allowed: an equals sign each, and no `<` among them.
fn many_attributes(text: &str) -> bool {
    let mut elements = text.split('<').filter(|part| !part.starts_with(['!', '?', '/']));
    elements.any(|element| element.bytes().filter(|&byte| byte == b'=').count() > XML_ATTRIBUTES)
}

/// The classes of an annotation's objects; `None` where there is no such file.
pub(super) fn read_annotation(path: &Path, classes: &Classes) -> Result<Option<Vec<usize>>, Vec<Fault>> {
    let file = match TextFile::read(path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(vec![fault_of(&error, path)]),
    };
    parse_annotation(&file, classes).map(Some)
}

/// The classes of an annotation's objects.
pub(super) fn parse_annotation(file: &TextFile, classes: &Classes) -> Result<Vec<usize>, Vec<Fault>> {
    let path = file.path.as_path();
    if file.text.len() > XML_BYTES {
        return Err(vec![Fault::new(path, format!("more than {} MiB of XML", XML_BYTES >> 20))]);
    }
    if many_attributes(&file.text) {
        return Err(vec![Fault::new(path, format!("an element of more than {XML_ATTRIBUTES} attributes"))]);
    }
    // Document type definitions, and with them entities that grow without bound, are refused.
    let options =
        roxmltree::ParsingOptions { allow_dtd: false, nodes_limit: XML_NODES, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&file.text, options).map_err(|e| {
        vec![Fault::new(path, format!("not an annotation: {e}")).at_line(e.pos().row as usize)]
    })?;
    let root = document.root_element();
    if root.tag_name().name() != "annotation" {
        let message = format!("the root is <{}>, not <annotation>", root.tag_name().name());
        return Err(vec![Fault::new(path, message)]);
    }
    let (mut tags, mut faults) = (Vec::new(), Vec::new());
    for object in root.children().filter(|n| n.has_tag_name("object")) {
        let line = |node: &roxmltree::Node<'_, '_>| document.text_pos_at(node.range().start).row as usize;
        let Some(name) = object.children().find(|n| n.has_tag_name("name")) else {
            faults.push(Fault::new(path, "an object without a name").at_line(line(&object)));
            continue;
        };
        match class_of(name.text().unwrap_or_default().trim(), classes) {
            Ok(class) => tags.push(class),
            Err((message, remedy)) => {
                faults.push(Fault::new(path, message).at_line(line(&name)).remedy(remedy));
            }
        }
    }
    if faults.is_empty() { Ok(sorted(tags)) } else { Err(faults) }
}

/// Whether an error means that there is no such file.
pub(super) fn is_missing(error: &Error) -> bool {
    use std::error::Error as _;
    error
        .source()
        .and_then(|s| s.downcast_ref::<std::io::Error>())
        .is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

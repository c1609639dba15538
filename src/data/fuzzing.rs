//! The readers of a data set's texts as fuzz targets call them, see `formats::fuzzing`.

use std::path::Path;

use super::Classes;
use super::fault::Fault;
use super::ids::why_unsafe;
use super::tags::{parse_annotation, parse_csv};
use super::text::TextFile;
use crate::config::Config;

const PATH: &str = "fuzzed";

fn text(bytes: &[u8]) -> Option<TextFile> {
    TextFile::from_bytes(Path::new(PATH), bytes.to_vec()).ok()
}

/// A fault names its file, and a line that the file has.
fn check(faults: &[Fault], file: &TextFile) {
    let lines = 1 + file.text.bytes().filter(|byte| *byte == b'\n').count();
    for fault in faults {
        assert_eq!(fault.file, Path::new(PATH), "{fault}");
        assert!(fault.line.is_none_or(|line| (1..=lines).contains(&line)), "{fault}: {lines} lines");
        assert!(fault.message.len() < 4096 + file.text.len(), "{fault}");
    }
}

/// A table of tags, a list, a class list: one text is read as each.
pub fn tables(bytes: &[u8]) {
    let Some(file) = text(bytes) else { return };
    let classes = Classes::voc();
    let mut faults = Vec::new();
    let table = parse_csv(&file, &classes, &mut faults);
    assert_eq!(table.order.len(), table.rows.len());
    for id in &table.order {
        assert!(why_unsafe(id).is_none(), "{id}");
        let tags = &table.rows[id].tags;
        assert!(tags.iter().all(|tag| (1..=20).contains(tag)) && tags.is_sorted_by(|a, b| a < b), "{tags:?}");
    }
    check(&faults, &file);
    faults.clear();
    for entry in super::list::parse(&file, &mut faults) {
        assert!(why_unsafe(&entry.id).is_none(), "{}", entry.id);
        assert!(entry.image.is_none_or(|path| path.is_relative()));
    }
    check(&faults, &file);
    match Classes::parse(&file) {
        Ok(classes) => assert_eq!(classes.names()[0], "background"),
        Err(error) => {
            assert!(error.path() == Some(Path::new(PATH)) && error.how_to_mend().is_some(), "{error}")
        }
    }
}

/// An annotation of VOC.
pub fn annotation(bytes: &[u8]) {
    let Some(file) = text(bytes) else { return };
    match parse_annotation(&file, &Classes::voc()) {
        Ok(tags) => assert!(tags.iter().all(|tag| (1..=20).contains(tag))),
        Err(faults) => {
            assert!(!faults.is_empty());
            check(&faults, &file);
        }
    }
}

/// A configuration; what is accepted reads back as the same after it was written.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::from_toml(text, Path::new(PATH)) {
        Ok(config) => {
            config.check().expect("what a file may say is in range");
            let written = config.to_toml().expect("it can be written");
            assert_eq!(Config::from_toml(&written, Path::new(PATH)).expect("it can be read"), config);
        }
        Err(error) => {
            assert_eq!(error.path(), Some(Path::new(PATH)), "{error}");
            assert!(error.how_to_mend().is_some(), "{error}");
        }
    }
}

//! Files that an attacker would write, one attack each. Every one gets an error that names the file, the
//! cause and a remedy, in under a second, and takes at most 64 MiB + 3 × its size.

use std::path::Path;
use std::time::Duration;

use seedwalk::formats::image::{Exif, read_rgb};
use seedwalk::formats::label_png::read_labels;
use seedwalk::formats::weights::read_weights;
use seedwalk::formats::{cams, checkpoint, inspect, npy};
use seedwalk::{Error, Result};

use crate::allocator::{Taken, measured};
use crate::common::Place;

mod archives;
mod mxnet;
mod numpy;
mod pickles;
mod pictures;
mod safetensors;
mod torch;

/// Who reads a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reader {
    Weights,
    Maps,
    Tags,
    Photograph,
    Mask,
    Checkpoint,
    Inspect,
}

impl Reader {
    pub fn read(self, path: &Path) -> Result<()> {
        let classes: Vec<String> = (0..20).map(|i| format!("class {i}")).collect();
        match self {
            Self::Weights => read_weights(path).map(drop),
            Self::Maps => cams::read(path, &classes).map(drop),
            Self::Tags => npy::read_class_labels(path).map(drop),
            Self::Photograph => read_rgb(path, Exif::Apply).map(drop),
            Self::Mask => read_labels(path).map(drop),
            Self::Checkpoint => checkpoint::load(path).map(drop),
            Self::Inspect => inspect(path).map(drop),
        }
    }
}

/// A file with one attack in it.
pub struct Case {
    name: &'static str,
    reader: Reader,
    bytes: Vec<u8>,
    /// What the error must say.
    word: &'static str,
}

fn case(name: &'static str, reader: Reader, bytes: Vec<u8>, word: &'static str) -> Case {
    Case { name, reader, bytes, word }
}

/// What work took beyond the promise, if anything. `size` is that of the file that was read.
pub fn beyond_limits(taken: &Taken, size: usize) -> Option<String> {
    let bytes = (64 << 20) + 3 * size;
    let time = Duration::from_secs(1).max(Duration::from_secs_f64(size as f64 / 1e7));
    (taken.bytes > bytes || taken.time > time)
        .then(|| format!("{} bytes in {:?} of {bytes} in {time:?}", taken.bytes, taken.time))
}

/// What an error lacks of the promise, if anything: it names the file and a remedy, and is no longer than a
/// screen.
pub fn unclear(path: &Path, error: &Error) -> Option<String> {
    let clear = error.path() == Some(path)
        && error.how_to_mend().is_some_and(|words| !words.is_empty())
        && (1..4096).contains(&error.message().len());
    (!clear).then(|| format!("an unclear error, remedy {:?}: {error}", error.how_to_mend()))
}

/// Reads a file that must be refused, with words that belong to the attack; what is wrong with how it was.
fn wrong(case: &Case, path: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let (result, taken) = measured(|| case.reader.read(path));
    wrong.extend(beyond_limits(&taken, case.bytes.len()));
    match result {
        Ok(()) => wrong.push("it was accepted".into()),
        Err(error) => {
            wrong.extend(unclear(path, &error));
            if !error.message().contains(case.word) {
                wrong.push(format!("`{}` is not in: {error}", case.word));
            }
        }
    }
    // Whoever looks into such a file is as safe, whether it is sound as a file or not.
    let (result, taken) = measured(|| inspect(path));
    wrong.extend(beyond_limits(&taken, case.bytes.len()).map(|w| format!("inspect: {w}")));
    wrong.extend(result.err().and_then(|e| unclear(path, &e)).map(|w| format!("inspect: {w}")));
    wrong
}

fn all() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("archives", archives::cases()),
        ("pickles", pickles::cases()),
        ("torch", torch::cases()),
        ("numpy", numpy::cases()),
        ("mxnet", mxnet::cases()),
        ("safetensors", safetensors::cases()),
        ("pictures", pictures::cases()),
    ]
}

#[test]
fn every_hostile_file_gets_a_clear_error_within_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let mut names = std::collections::HashSet::new();
    let mut faults = Vec::new();
    for (_, cases) in all() {
        for case in &cases {
            assert!(names.insert(case.name), "{} occurs twice", case.name);
            let path = dir.path().join(case.name);
            std::fs::write(&path, &case.bytes).unwrap();
            faults.extend(wrong(case, &path).into_iter().map(|fault| format!("{}: {fault}", case.name)));
            std::fs::remove_file(&path).unwrap();
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(names.len() >= 300, "{}", names.len());
}

/// The built program, on a file of each kind: exit code 1, the file, a remedy, no panic, nothing written.
#[test]
fn the_program_refuses_them_too() {
    let place = Place::empty();
    for (kind, cases) in all() {
        for case in cases.iter().filter(|case| case.bytes.len() < 100_000).step_by(4) {
            place.write(case.name, &case.bytes);
            let line = match case.reader {
                Reader::Weights => format!("convert-weights {} {kind}.safetensors", case.name),
                _ => format!("inspect {}", case.name),
            };
            if case.reader == Reader::Weights {
                place.fails(&line, 1, &[case.name]);
                assert!(!place.at(format!("{kind}.safetensors")).exists(), "{}", case.name);
            } else {
                let out = place.run(&line);
                assert!(matches!(out.status.code(), Some(0 | 1)), "{}: {:?}", case.name, out.status);
            }
        }
    }
}

/// Every file that the real packages wrote, cut: at every byte of its first and last kilobyte, and every 13
/// bytes between.
#[test]
fn a_file_that_is_cut_off_is_never_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut cuts = 0;
    for entry in std::fs::read_dir(crate::read::folder()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let readers: &[Reader] = match name.as_str() {
            "expected.json" => continue,
            _ if name.starts_with("cams") => &[Reader::Maps, Reader::Inspect],
            _ if name.starts_with("photo") => &[Reader::Photograph],
            _ if name.starts_with("mask") => &[Reader::Mask, Reader::Photograph],
            _ if name.starts_with("cls_labels") => &[Reader::Tags, Reader::Inspect],
            _ => &[Reader::Weights],
        };
        let whole = std::fs::read(entry.path()).unwrap();
        let path = dir.path().join(&name);
        let ends = 0..whole.len();
        for end in ends.filter(|end| *end < 1024 || whole.len() - end < 1024 || end % 13 == 0) {
            std::fs::write(&path, &whole[..end]).unwrap();
            for reader in readers {
                let (result, taken) = measured(|| reader.read(&path));
                let error = result.err().unwrap_or_else(|| panic!("{name}, cut to {end}: accepted"));
                assert_eq!(
                    (unclear(&path, &error), beyond_limits(&taken, end)),
                    (None, None),
                    "{name}: {end}"
                );
                cuts += 1;
            }
        }
    }
    assert!(cuts > 15_000, "{cuts}");
}

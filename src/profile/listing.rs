//! A kernel's source beside what each of its lines did.

use super::{KernelCounts, LineCounts};

/// The sources of the kernels, as they were compiled.
const SOURCES: &[(&str, &str)] = &[
    ("affinity.cu", include_str!("../../kernels/affinity.cu")),
    ("batch_norm.cu", include_str!("../../kernels/batch_norm.cu")),
    ("common.cuh", include_str!("../../kernels/common.cuh")),
    ("concat.cu", include_str!("../../kernels/concat.cu")),
    ("conv2d.cu", include_str!("../../kernels/conv2d.cu")),
    ("conv2d.cuh", include_str!("../../kernels/conv2d.cuh")),
    ("conv2d_bf16.cu", include_str!("../../kernels/conv2d_bf16.cu")),
    ("conv2d_pipeline.cuh", include_str!("../../kernels/conv2d_pipeline.cuh")),
    ("conv2d_tf32.cu", include_str!("../../kernels/conv2d_tf32.cu")),
    ("conv2d_weight.cu", include_str!("../../kernels/conv2d_weight.cu")),
    ("crf.cu", include_str!("../../kernels/crf.cu")),
    ("crf_lattice.cu", include_str!("../../kernels/crf_lattice.cu")),
    ("dropout.cu", include_str!("../../kernels/dropout.cu")),
    ("losses.cu", include_str!("../../kernels/losses.cu")),
    ("optimizer.cu", include_str!("../../kernels/optimizer.cu")),
    ("pointwise.cu", include_str!("../../kernels/pointwise.cu")),
    ("pointwise.cuh", include_str!("../../kernels/pointwise.cuh")),
    ("pooling.cu", include_str!("../../kernels/pooling.cu")),
    ("reduce.cu", include_str!("../../kernels/reduce.cu")),
    ("resize.cu", include_str!("../../kernels/resize.cu")),
    ("scan.cuh", include_str!("../../kernels/scan.cuh")),
    ("sort.cu", include_str!("../../kernels/sort.cu")),
    ("walk.cu", include_str!("../../kernels/walk.cu")),
];

/// A line of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Another file begins.
    File(String),
    /// Lines are left out here.
    Gap,
    /// A line that nothing was counted for, beside one that was.
    Plain(u64, &'static str),
    /// A line with its counts.
    Counted(LineCounts, &'static str),
}

/// Lines shown around those that were counted.
const AROUND: u64 = 2;

/// The source of a kernel, file by file, with the counts of each line; where a source is not known (the compiler's own
/// headers) the counts stand without text.
pub fn listing(kernel: &KernelCounts) -> Vec<Line> {
    let mut out = Vec::new();
    let mut lines = &kernel.lines[..];
    while let Some(first) = lines.first() {
        let count = lines.iter().take_while(|l| l.file == first.file).count();
        let (of_file, rest) = lines.split_at(count);
        lines = rest;
        // `kernels/./conv2d.cuh` is how the compiler writes an included file.
        out.push(Line::File(first.file.replace("/./", "/")));
        let source = source(&first.file);
        let mut next = 1;
        for counted in of_file {
            if let Some(text) = source {
                if counted.line > next + 2 * AROUND {
                    plain(&mut out, text, next, next + AROUND, next > 1);
                    out.push(Line::Gap);
                    plain(&mut out, text, counted.line - AROUND, counted.line, true);
                } else {
                    plain(&mut out, text, next, counted.line, true);
                }
            }
            out.push(Line::Counted(counted.clone(), source.map_or("", |text| line(text, counted.line))));
            next = counted.line + 1;
        }
        if let Some(text) = source {
            plain(&mut out, text, next, next + AROUND, true);
        }
    }
    out
}

/// Lines from `from` to before `to`, if they are wanted.
fn plain(out: &mut Vec<Line>, text: &'static str, from: u64, to: u64, wanted: bool) {
    let last = text.lines().count() as u64;
    if wanted {
        out.extend((from..to.min(last + 1)).map(|at| Line::Plain(at, line(text, at))));
    }
}

fn line(text: &'static str, at: u64) -> &'static str {
    text.lines().nth((at as usize).saturating_sub(1)).unwrap_or("")
}

fn source(file: &str) -> Option<&'static str> {
    let name = file.rsplit('/').next().unwrap_or(file);
    SOURCES.iter().find(|(known, _)| *known == name && file.starts_with("kernels/")).map(|s| s.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_kernels_is_here() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".cu") || name.ends_with(".cuh") {
                assert!(
                    SOURCES.iter().any(|s| s.0 == name),
                    "SOURCES in src/profile/listing.rs lacks {name}"
                );
            }
        }
    }

    #[test]
    fn counted_lines_have_their_text_and_their_surroundings() {
        let at = |file: &str, line| LineCounts {
            file: file.into(),
            line,
            warp_instructions: 1,
            ..LineCounts::default()
        };
        let kernel = KernelCounts {
            lines: vec![at("clang/vars.h", 66), at("kernels/reduce.cu", 30), at("kernels/reduce.cu", 32)],
            ..KernelCounts::default()
        };
        let text = SOURCES.iter().find(|s| s.0 == "reduce.cu").unwrap().1;
        let n = |at| line(text, at);
        let expected = [
            Line::File("clang/vars.h".into()),
            Line::Counted(at("clang/vars.h", 66), ""),
            Line::File("kernels/reduce.cu".into()),
            Line::Gap,
            Line::Plain(28, n(28)),
            Line::Plain(29, n(29)),
            Line::Counted(at("kernels/reduce.cu", 30), n(30)),
            Line::Plain(31, n(31)),
            Line::Counted(at("kernels/reduce.cu", 32), n(32)),
            Line::Plain(33, n(33)),
            Line::Plain(34, n(34)),
        ];
        assert_eq!(listing(&kernel), expected);
    }
}

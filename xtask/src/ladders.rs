//! What is said of each kernel: its rung, its idea, what bounds it. The ladders in `src/ops/*/cuda.rs` say it for the kernels
//! that they list, the table at the head of its `.cu` file for every other.

use crate::Result;
use std::collections::BTreeMap;
use std::path::Path;

/// One kernel's line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// Number on its ladder; empty for a kernel on none.
    pub rung: String,
    /// What it does that the one before does not.
    pub idea: String,
    /// What bounds it.
    pub bound: String,
    /// Ladder and place on it, in the order of the files; the last for a kernel on none.
    pub place: (usize, usize),
    /// The kernel one rung below.
    pub below: Option<String>,
}

/// Every ladder's rungs, by kernel: `const …LADDER: &[…] = &[ … Rung { number: 0, … } … ];` in the Rust sources.
///
/// # Errors
/// A file cannot be read, a ladder without rungs.
pub fn of_operations(root: &Path) -> Result<BTreeMap<String, Line>> {
    let folder = root.join("src/ops");
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path().join("cuda.rs"))).collect();
    files.sort();
    let mut all = BTreeMap::new();
    let mut ladders = 0;
    for file in files.iter().filter(|file| file.is_file()) {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        for ladder in text.split("LADDER: &[").skip(1) {
            let ladder = ladder.split("\n];").next().unwrap_or_default();
            let rungs = rungs(ladder, ladders);
            if rungs.is_empty() {
                return Err(format!("{}: a ladder without a readable rung", file.display()));
            }
            ladders += 1;
            all.extend(rungs);
        }
    }
    Ok(all)
}

/// The rungs of one ladder's text.
fn rungs(ladder: &str, number: usize) -> Vec<(String, Line)> {
    let mut found: Vec<(String, Line)> = Vec::new();
    for text in ladder.split("number: ").skip(1) {
        let quoted = |field: &str| {
            let value = text.split_once(&format!("{field}: \""))?.1;
            Some(value.split('"').next()?.to_owned())
        };
        let rung = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        let (Some(kernel), Some(idea), Some(bound)) = (quoted("kernel"), quoted("idea"), quoted("bound"))
        else {
            continue;
        };
        let below = found.last().map(|(kernel, _)| kernel.clone());
        let line = Line { rung: rung.to_owned(), idea, bound, place: (number, found.len()), below };
        found.push((kernel, line));
    }
    found
}

/// What the comment at the head of a `.cu` file says, by kernel: lines `// 3     name   idea   bounded by`, cells apart by two
/// spaces or more, `//       name   …` where it is on no ladder, several names with commas between. A line without a name
/// goes on with the cells above it.
pub fn of_head(source: &str) -> BTreeMap<String, Line> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    let mut open: Option<(Vec<String>, usize)> = None;
    let head = source.lines().take_while(|line| line.starts_with("//"));
    for (number, text) in head.enumerate() {
        let cells = cells(text.trim_start_matches('/'));
        let names = |cell: &str| {
            let names: Vec<String> = cell.split(", ").map(str::to_owned).collect();
            let name = |n: &String| {
                n.contains('_') && n.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            };
            names.iter().all(name).then_some(names)
        };
        let (rung, rest) = match cells.as_slice() {
            [(1, rung), rest @ ..] if rung.parse::<u32>().is_ok() => (rung.clone(), rest),
            rest => (String::new(), rest),
        };
        match rest {
            [(7, first), idea, more @ ..] if let Some(names) = names(first) => {
                let bound = more.first();
                for name in &names {
                    let line = Line {
                        rung: rung.clone(),
                        idea: idea.1.clone(),
                        bound: bound.map(|cell| cell.1.clone()).unwrap_or_default(),
                        place: (usize::MAX, number),
                        below: None,
                    };
                    lines.insert(name.clone(), line);
                }
                open = Some((names, bound.map_or(usize::MAX, |cell| cell.0)));
            }
            [(column, _), ..] if *column > 7 => {
                let Some((names, bound_column)) = &open else { continue };
                for (column, text) in rest {
                    for line in
                        lines.iter_mut().filter(|(name, _)| names.contains(name)).map(|(_, line)| line)
                    {
                        let cell = if column.saturating_add(2) >= *bound_column {
                            &mut line.bound
                        } else {
                            &mut line.idea
                        };
                        cell.push(' ');
                        cell.push_str(text);
                    }
                }
            }
            _ => open = None,
        }
    }
    lines
}

/// Texts apart by two spaces or more, each with its column.
fn cells(text: &str) -> Vec<(usize, String)> {
    let mut cells: Vec<(usize, String)> = Vec::new();
    let mut blanks = 2;
    for (column, c) in text.chars().enumerate() {
        if c == ' ' {
            blanks += 1;
            continue;
        }
        match cells.last_mut() {
            Some((_, cell)) if blanks < 2 => {
                cell.extend(std::iter::repeat_n(' ', blanks));
                cell.push(c);
            }
            _ => cells.push((column, c.to_string())),
        }
        blanks = 0;
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "// target sm_80\n//\n// Text of the file, whose_words are none.\n//\n\
        // rung  kernel        idea                     bounded by\n\
        // 4     slow_f32      plain,                   memory: 8\n\
        //                     on two lines             bytes\n\
        //       one_f32, two_f32   value by value\n\
        //                     and more\n\
        // Text.\n//                     text_here more\nint x;\n// 6     none_f32      x        y\n";

    #[test]
    fn the_head_of_a_file_names_kernels_ideas_and_bounds() {
        let lines = of_head(HEAD);
        let line = |rung: &str, idea: &str, bound: &str, number| Line {
            rung: rung.into(),
            idea: idea.into(),
            bound: bound.into(),
            place: (usize::MAX, number),
            below: None,
        };
        assert_eq!(lines["slow_f32"], line("4", "plain, on two lines", "memory: 8 bytes", 5));
        assert_eq!(lines["one_f32"], line("", "value by value and more", "", 7));
        assert_eq!(lines["one_f32"], lines["two_f32"]);
        assert_eq!(lines.len(), 3, "{lines:?}");
    }

    #[test]
    fn ladders_are_read_from_the_rust_sources() {
        let text = "\n    Rung {\n        number: 0,\n        name: \"a\",\n        kernel: \"k_a\",\n        idea: \"plain\",\n        \
                    bound: \"L1\",\n        takes: \"all\",\n    },\n    X { rung: Rung { number: STEP, kernel: \"k_b\", idea: \"less\", bound: \"L2\" } },";
        let rungs = rungs(text, 3);
        assert_eq!(rungs.len(), 2);
        assert_eq!(rungs[0].0, "k_a");
        assert_eq!((rungs[0].1.place, &*rungs[0].1.idea, &*rungs[0].1.bound), ((3, 0), "plain", "L1"));
        assert_eq!(rungs[1].1.below.as_deref(), Some("k_a"));
        assert_eq!(rungs[1].1.rung, "STEP");
    }

    #[test]
    fn this_repository_has_its_ladders() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let lines = of_operations(root).unwrap();
        for (kernel, rung) in
            [("conv2d_tiled_f32", "1"), ("conv2d_mma_bf16_f32", "5"), ("walk_step_f32", "1")]
        {
            assert_eq!(lines[kernel].rung, rung);
            assert!(!lines[kernel].idea.is_empty() && !lines[kernel].bound.is_empty());
        }
        assert_eq!(lines["conv2d_mma_tf32"].below.as_deref(), Some("conv2d_async_f32"));
    }
}

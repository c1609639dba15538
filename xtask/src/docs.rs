//! The tables in `docs/kernels.md`: of each kernel what it does (`src/ops/*/cuda.rs`, the heads of `kernels/*.cu`), what the
//! emulator counted (`kernels/counters.json`), what the assembler made of it (`kernels/baseline.json`), and its bounds.

use crate::Result;
use crate::baseline::{Baseline, Kernel};
use crate::compile;
use crate::counters::{self, Counts, Table, Work};
use crate::gpu::{self, GPUS, Gpu, RATED};
use crate::ladders::{self, Line};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// GPU generations with a column of their own.
const SHOWN: [u32; 4] = [80, 86, 90, 120];

/// All that is known of the kernels.
struct Known {
    baseline: Baseline,
    counts: Table,
    /// By kernel.
    lines: BTreeMap<String, Line>,
}

impl Known {
    fn read(root: &Path) -> Result<Self> {
        let baseline = Baseline::read(&root.join("kernels/baseline.json"))?;
        let mut lines = BTreeMap::new();
        for file in baseline.kernels.values().map(|k| &*k.file).collect::<BTreeSet<_>>() {
            let path = root.join(format!("kernels/{file}.cu"));
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            lines.extend(ladders::of_head(&text));
        }
        lines.extend(ladders::of_operations(root)?);
        Ok(Self { baseline, counts: counters::read(root)?, lines })
    }

    /// A kernel's figures.
    fn of(&self, name: &str) -> Result<(&Kernel, &Counts, &Line)> {
        let kernel = self.baseline.kernels.get(name);
        let missing = |what: &str| format!("docs/kernels.md: {name} {what}");
        Ok((
            kernel.ok_or_else(|| missing("is not in kernels/baseline.json"))?,
            self.counts.get(name).ok_or_else(|| missing("is not in kernels/counters.json"))?,
            self.lines.get(name).ok_or_else(|| {
                missing("has no sentence, neither in a ladder of src/ops/*/cuda.rs nor at the head of its .cu file")
            })?,
        ))
    }
}

/// Rewrites what stands between `<!-- kernels: FILE … -->` or `<!-- rates -->` and `<!-- end -->`.
///
/// # Errors
/// A file cannot be read or written; a marker that names an unknown file or is not closed; a kernel that is in no table, or
/// of which something is not known; with `check`, a difference.
pub fn write(root: &Path, check: bool) -> Result<()> {
    let path = root.join("docs/kernels.md");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let known = Known::read(root)?;
    let (new, told) = fill(&text, &known)?;
    let missing: Vec<String> =
        kernels_of(&root.join("kernels/ptx"))?.into_iter().filter(|name| !told.contains(name)).collect();
    if !missing.is_empty() {
        return Err(format!("docs/kernels.md: in no table: {}", missing.join(", ")));
    }
    if new == text {
        return Ok(());
    }
    if check {
        return Err("docs/kernels.md: its tables are stale; `cargo xtask kernels docs` writes them".into());
    }
    std::fs::write(&path, new).map_err(|e| format!("{}: {e}", path.display()))
}

/// Every kernel of the committed PTX.
fn kernels_of(folder: &Path) -> Result<Vec<String>> {
    let fail = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| fail(folder, e))? {
        let path = entry.map_err(|e| fail(folder, e))?.path();
        let text = std::fs::read_to_string(&path).map_err(|e| fail(&path, e))?;
        all.extend(compile::kernels(&text).map(str::to_owned));
    }
    Ok(all)
}

/// The text with its tables, and the kernels that they tell of.
fn fill(text: &str, known: &Known) -> Result<(String, BTreeSet<String>)> {
    let (start, end) = ("<!-- ", "<!-- end -->");
    let mut told = BTreeSet::new();
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(start) {
        let (marker, after) = after.split_once(" -->").ok_or("docs/kernels.md: a marker is not closed")?;
        write!(out, "{before}{start}{marker} -->").expect("a String takes all");
        rest = after;
        let tables = match marker.split_once(": ") {
            Some(("kernels", files)) => {
                let names = in_order(files, known)?;
                let tables = [said(&names, known)?, assembled(&names, known)?].join("\n");
                told.extend(names);
                tables
            }
            None if marker == "rates" => rates()?,
            _ => continue,
        };
        let (_, after) =
            after.split_once(end).ok_or_else(|| format!("docs/kernels.md: no {end} after {marker}"))?;
        write!(out, "\n{tables}{end}").expect("a String takes all");
        rest = after;
    }
    out.push_str(rest);
    Ok((out, told))
}

/// The kernels of some files: ladder by ladder, rung by rung, with twins behind their rung; then the others as their files
/// have them.
fn in_order(files: &str, known: &Known) -> Result<Vec<String>> {
    let mut names: Vec<(&String, usize)> = Vec::new();
    for (number, file) in files.split_whitespace().enumerate() {
        let of_file = known.baseline.kernels.iter().filter(|(_, k)| k.file == file);
        let before = names.len();
        names.extend(of_file.map(|(name, _)| (name, number)));
        if names.len() == before {
            return Err(format!("docs/kernels.md: no kernels of a file {file} in baseline.json"));
        }
    }
    let place = |(name, file): &(&String, usize)| {
        let line = known.lines.get(*name)?;
        // A twin follows the rung whose name it shares longest.
        let twin_of = |own: &Line| {
            let kin = names.iter().filter(|(other, _)| known.lines.get(*other).is_some_and(on_ladder));
            let kin =
                kin.filter(|(other, _)| kin_of(name, other)).max_by_key(|(other, _)| shared(name, other));
            kin.map(|(other, _)| (known.lines[*other].place, true, own.place.1))
        };
        let others = (file + 1, (line.place, false, 0));
        let place = if on_ladder(line) { Some((line.place, false, 0)) } else { twin_of(line) };
        Some(place.map_or(others, |place| (0, place)))
    };
    let mut placed: Vec<_> = names.iter().map(|name| (place(name), name.0.clone())).collect();
    placed.sort();
    Ok(placed.into_iter().map(|(_, name)| name).collect())
}

fn on_ladder(line: &Line) -> bool {
    line.place.0 != usize::MAX
}

/// Letters that two names begin with alike.
fn shared(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

/// Whether a kernel is a variant of a rung: `conv2d_mma_bf16_f32` of `conv2d_mma_bf16`, `walk_whole_4_f32` of `walk_whole_2_f32`.
fn kin_of(name: &str, rung: &str) -> bool {
    let stem = |n: &str| n.trim_end_matches("_f32").trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    stem(name) == stem(rung)
        || stem(name).trim_end_matches('_') == rung
        || name.starts_with(&format!("{rung}_"))
}

/// What each kernel does, and what the emulator counted. Beside a rung's counts: how many times fewer than the rung below.
fn said(names: &[String], known: &Known) -> Result<String> {
    let mut out = "| rung | kernel | idea | bounded by | warp instructions | global sectors | shared wavefronts: ideal + conflicts | tensor MFLOP |\n|---|---|---|---|---|---|---|---|\n".to_owned();
    for name in names {
        let (_, counts, line) = known.of(name)?;
        let below = line.below.as_ref().and_then(|name| known.counts.get(name));
        let fewer = |of: &dyn Fn(&Counts) -> u64| {
            let now = of(counts);
            match below.filter(|below| same_work(&counts.work, &below.work) && now > 0) {
                Some(below) => format!("{} (÷{:.1})", thousands(now), of(below) as f64 / now as f64),
                None => thousands(now),
            }
        };
        let instructions = fewer(&|c| c.warp_instructions);
        let sectors = fewer(&|c| c.global_load_sectors + c.global_store_sectors);
        let (passes, products) = (wavefronts(counts), tensor(counts));
        let bound = if line.bound.is_empty() { "–" } else { &line.bound };
        writeln!(
            out,
            "| {} | `{name}` | {} | {bound} | {instructions} | {sectors} | {passes} | {products} |",
            line.rung, line.idea
        )
        .expect("a String takes all");
        let variants = known
            .counts
            .iter()
            .filter_map(|(key, counts)| Some((key.strip_prefix(name.as_str())?.strip_prefix(", ")?, counts)));
        for (variant, counts) in variants {
            let sectors = thousands(counts.global_load_sectors + counts.global_store_sectors);
            let instructions = thousands(counts.warp_instructions);
            writeln!(
                out,
                "|  | `{name}` | {variant} | | {instructions} | {sectors} | {} | {} |",
                wavefronts(counts),
                tensor(counts)
            )
            .expect("a String takes all");
        }
    }
    Ok(out)
}

/// Whether two rungs were counted at one thing to do: otherwise their counts do not compare.
fn same_work(a: &Work, b: &Work) -> bool {
    let near = a.bytes.abs_diff(b.bytes) * 100 <= a.bytes;
    a.shape == b.shape && (near || (a.flops == b.flops && a.flops > 0))
}

/// Passes through shared memory.
fn wavefronts(counts: &Counts) -> String {
    let ideal = counts.ideal_wavefronts;
    match ideal {
        0 => "–".to_owned(),
        _ => format!("{} + {}", thousands(ideal), thousands(counts.shared_wavefronts.saturating_sub(ideal))),
    }
}

/// The tensor cores' operations in millions.
fn tensor(counts: &Counts) -> String {
    match counts.tensor_flops {
        0 => "–".to_owned(),
        flops => format!("{:.1}", flops as f64 * 1e-6),
    }
}

/// Bounds at the counted shape, and what the assembler made of each kernel.
fn assembled(names: &[String], known: &Known) -> Result<String> {
    let shown: Vec<&Gpu> = GPUS.iter().filter(|gpu| SHOWN.contains(&gpu.generation)).collect();
    let generations: Vec<_> = shown.iter().map(|gpu| gpu.name()).collect();
    let examples: Vec<_> = shown.iter().map(|gpu| gpu.example).collect();
    let mut out = format!(
        "| kernel | counted at | bound, µs, {} | threads | shared, KB | registers, {} | warps an SM, {} | FFMA | mma | 16-byte loads: global, to shared, from shared | ldmatrix | barriers |\n",
        RATED.join(" / "),
        generations.join(" / "),
        examples.join(" / ")
    );
    out.push_str("|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for name in names {
        let (kernel, counts, _) = known.of(name)?;
        let bounds = RATED.iter().map(|gpu| {
            let seconds = gpu::bound(gpu, &counts.work.precision, counts.flops(), counts.work.bytes);
            seconds.map(|seconds| significant(seconds * 1e6)).map_err(|e| format!("{name}: {e}"))
        });
        let bounds = bounds.collect::<Result<Vec<_>>>()?.join(" / ");
        let each = |value: &dyn Fn(&Gpu) -> Option<String>| {
            shown.iter().map(|gpu| value(gpu).unwrap_or_else(|| "–".into())).collect::<Vec<_>>().join(" / ")
        };
        let registers = each(&|gpu| Some(kernel.gpus.get(&gpu.name())?.registers.to_string()));
        let warps = each(&|gpu| Some(format!("{} of {}", kernel.gpus.get(&gpu.name())?.warps, gpu.warps())));
        // Instruction counts hardly differ between generations: sm_80's stand for all.
        let f = kernel.gpus.get("sm_80").copied().unwrap_or_default();
        let shared = f64::from(f.shared + kernel.dynamic_shared) / 1024.0;
        writeln!(
            out,
            "| `{name}` | {} | {bounds} | {} | {shared:.1} | {registers} | {warps} | {} | {} | {}, {}, {} | {} | {} |",
            counts.work.shape,
            kernel.threads,
            f.ffma,
            f.mma,
            f.global_128,
            f.async_128,
            f.shared_128,
            f.ldmatrix,
            f.barriers
        )
        .expect("a String takes all");
    }
    Ok(out)
}

/// The rates behind the bounds.
fn rates() -> Result<String> {
    let mut out = "| GPU | f32, TFLOP/s | tf32 | bf16 | memory, TB/s |\n|---|---|---|---|---|\n".to_owned();
    for name in RATED {
        let [f32, tf32, bf16, memory] = gpu::rates(name)?.map(|rate| format!("{:.1}", rate * 1e-12));
        writeln!(out, "| {name} | {f32} | {tf32} | {bf16} | {memory} |").expect("a String takes all");
    }
    Ok(out)
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Two significant digits, without exponents.
fn significant(value: f64) -> String {
    if value <= 0.0 {
        return "0".into();
    }
    let digits = (1 - value.log10().floor() as i32).clamp(0, 9) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine_code::Figures;

    fn counts(shape: &str, warp_instructions: u64) -> Counts {
        let json = format!(
            r#"{{"shape":"{shape}","precision":"f32","flops":0,"bytes":2000000,"warp_instructions":{warp_instructions},"lane_instructions":0,
            "global_load_sectors":30,"global_store_sectors":10,"shared_wavefronts":12,"ideal_wavefronts":10,"barriers":0,
            "divergent_branches":0,"f32_flops":5,"tensor_flops":0}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    /// A ladder of two rungs whose second has a twin, and a helper.
    fn known() -> Known {
        let mut known = Known { baseline: Baseline::new(), counts: Table::new(), lines: BTreeMap::new() };
        let line = |rung: &str, place, below: Option<&str>| Line {
            rung: rung.into(),
            idea: format!("idea {rung}"),
            bound: String::new(),
            place,
            below: below.map(str::to_owned),
        };
        let none = usize::MAX;
        for (name, line) in [
            ("z_slow_f32", line("0", (0, 0), None)),
            ("a_fast_f32", line("3", (0, 1), Some("z_slow_f32"))),
            ("a_fast_2_f32", line("", (none, 9), None)),
            ("b_helper_f32", line("", (none, 1), None)),
        ] {
            let figures = Figures { registers: 64, warps: 32, ffma: 7, ..Default::default() };
            let gpus = BTreeMap::from([("sm_80".to_owned(), figures)]);
            let kernel = Kernel { file: "f".into(), threads: 256, dynamic_shared: 2048, gpus };
            known.baseline.kernels.insert(name.into(), kernel);
            known.lines.insert(name.into(), line);
            known.counts.insert(format!("{name}, twice"), counts("8×8", 7000));
            known.counts.insert(name.into(), counts("8×8", if name == "z_slow_f32" { 3000 } else { 1500 }));
        }
        known
    }

    #[test]
    fn tables_are_filled_and_filling_twice_changes_nothing() {
        let known = known();
        let text = "a\n<!-- rates -->\n<!-- end -->\n<!-- a comment -->\n<!-- kernels: f -->\nold\n<!-- end -->\nb\n";
        let (filled, told) = fill(text, &known).unwrap();
        assert_eq!(told.len(), 4);
        assert!(
            filled.starts_with("a\n<!-- rates -->\n| GPU |") && filled.ends_with("<!-- end -->\nb\n"),
            "{filled}"
        );
        assert!(filled.contains("<!-- a comment -->\n<!-- kernels: f -->\n| rung |"), "{filled}");
        let at = |words: &str| filled.find(words).unwrap_or_else(|| panic!("no {words} in {filled}"));
        let slow = at("| 0 | `z_slow_f32` | idea 0 | – | 3,000 | 40 | 10 + 2 | – |");
        assert!(slow < at("|  | `z_slow_f32` | twice | | 7,000 | 40 | 10 + 2 | – |"));
        let fast = at("| 3 | `a_fast_f32` | idea 3 | – | 1,500 (÷2.0) | 40 (÷1.0) | 10 + 2 | – |");
        assert!(slow < fast && fast < at("|  | `b_helper_f32`"));
        // 2 MB at 2.0, 3.35, 4.8 and 1.0 TB/s.
        at("| `z_slow_f32` | 8×8 | 0.98 / 0.60 / 0.42 / 2.0 | 256 | 2.0 | 64 / – / – / – | 32 of 64 / –");
        assert_eq!(fill(&filled, &known).unwrap().0, filled);
        assert!(fill("<!-- kernels: f -->", &known).is_err());
        assert!(fill("<!-- kernels: g --><!-- end -->", &known).is_err());
    }

    #[test]
    fn what_is_not_known_of_a_kernel_is_named() {
        let text = "<!-- kernels: f -->\n<!-- end -->";
        let mut without = known();
        without.counts.remove("b_helper_f32");
        assert!(fill(text, &without).unwrap_err().contains("b_helper_f32 is not in kernels/counters.json"));
        let mut without = known();
        without.lines.remove("b_helper_f32");
        assert!(fill(text, &without).unwrap_err().contains("b_helper_f32 has no sentence"));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 0.01234, 0.5, 1.0, 12.3, 1234.0].map(significant),
            ["0", "0.012", "0.50", "1.0", "12", "1234"]
        );
    }

    #[test]
    fn twins_are_kin() {
        assert!(kin_of("conv2d_mma_bf16_f32", "conv2d_mma_bf16"));
        assert!(kin_of("walk_whole_4_f32", "walk_whole_2_f32"));
        assert!(!kin_of("conv2d_transpose_weight_f32", "conv2d_weight_tiled_f32"));
        assert!(!kin_of("affinity_loss_f32", "affinity_forward_gather_f32"));
    }

    /// No result without its operations, no bytes without their sectors: a work that was counted too high would promise too much.
    #[test]
    fn every_bound_is_below_what_was_counted() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (name, counts) in counters::read(root).unwrap() {
            let executed = counts.f32_flops + counts.tensor_flops;
            assert!(counts.work.flops <= executed, "{name}: {} FLOP of {executed}", counts.work.flops);
            let moved = 32 * (counts.global_load_sectors + counts.global_store_sectors);
            assert!(counts.work.bytes <= moved, "{name}: {} bytes of {moved}", counts.work.bytes);
        }
    }
}

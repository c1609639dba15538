//! The tables in `docs/kernels.md`, from `kernels/baseline.json` and the rung numbers at the head of each `.cu`.

use crate::Result;
use crate::baseline::{Baseline, Kernel};
use crate::gpu::{GPUS, Gpu};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// GPU generations with a column of their own.
const SHOWN: [u32; 4] = [80, 86, 90, 120];

/// Rewrites what stands between `<!-- kernels: NAME … -->` and `<!-- end -->`, a table of the kernels in those files.
///
/// # Errors
/// A file cannot be read or written, a marker names an unknown file or is not closed; with `check`, a difference.
pub fn write(root: &Path, check: bool) -> Result<()> {
    let path = root.join("docs/kernels.md");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let baseline = Baseline::read(&root.join("kernels/baseline.json"))?;
    let head = |file: &str| {
        std::fs::read_to_string(root.join("kernels").join(format!("{file}.cu"))).unwrap_or_default()
    };
    let new = fill(&text, &baseline, head)?;
    if new == text {
        return Ok(());
    }
    if check {
        return Err("docs/kernels.md: its tables are stale; `cargo xtask kernels docs` writes them".into());
    }
    std::fs::write(&path, new).map_err(|e| format!("{}: {e}", path.display()))
}

fn fill(text: &str, baseline: &Baseline, source: impl Fn(&str) -> String) -> Result<String> {
    let (start, end) = ("<!-- kernels: ", "<!-- end -->");
    let mut parts = text.split(start);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (files, rest) = part.split_once(" -->").ok_or("docs/kernels.md: a marker is not closed")?;
        let (_, after) =
            rest.split_once(end).ok_or_else(|| format!("docs/kernels.md: no {end} after {files}"))?;
        let table = table(files, baseline, &source)?;
        write!(out, "{start}{files} -->\n{table}{end}{after}").expect("a String takes all");
    }
    Ok(out)
}

/// A row a kernel, in the order of the files and of the rungs in each.
fn table(files: &str, baseline: &Baseline, source: impl Fn(&str) -> String) -> Result<String> {
    let shown: Vec<&Gpu> = GPUS.iter().filter(|gpu| SHOWN.contains(&gpu.generation)).collect();
    let names: Vec<_> = shown.iter().map(|gpu| gpu.name()).collect();
    let examples: Vec<_> = shown.iter().map(|gpu| gpu.example).collect();
    let mut out = format!(
        "| rung | kernel | threads | shared, KB | registers, {} | warps an SM, {} | FFMA | mma | 16-byte loads: global, to shared, from shared | ldmatrix | barriers |\n",
        names.join(" / "),
        examples.join(" / ")
    );
    out.push_str("|---|---|---|---|---|---|---|---|---|---|---|\n");
    for file in files.split_whitespace() {
        let mut rows: Vec<(&String, &Kernel)> =
            baseline.kernels.iter().filter(|(_, k)| k.file == file).collect();
        if rows.is_empty() {
            return Err(format!("docs/kernels.md: no kernels of a file {file} in baseline.json"));
        }
        let rungs = rungs(&source(file));
        let place = |name: &String| rungs.get(name).map_or(usize::MAX, |(line, _)| *line);
        rows.sort_by_key(|(name, _)| place(name));
        for (name, kernel) in rows {
            let rung = rungs.get(name).map_or("", |(_, rung)| rung.as_str());
            row(&mut out, rung, name, kernel, &shown);
        }
    }
    Ok(out)
}

fn row(out: &mut String, rung: &str, name: &str, kernel: &Kernel, shown: &[&Gpu]) {
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
        "| {rung} | `{name}` | {} | {shared:.1} | {registers} | {warps} | {} | {} | {}, {}, {} | {} | {} |",
        kernel.threads, f.ffma, f.mma, f.global_128, f.async_128, f.shared_128, f.ldmatrix, f.barriers
    )
    .expect("a String takes all");
}

/// Line and rung of each kernel that the comment at the head of a file lists: `// 3     name   idea`. A line without a
/// number is of the rung before it if its name starts alike (`conv2d_mma_…`), otherwise of none.
fn rungs(source: &str) -> BTreeMap<String, (usize, String)> {
    let kin = |a: &str, b: &str| a.split('_').take(2).eq(b.split('_').take(2));
    let mut rungs = BTreeMap::new();
    let (mut rung, mut before) = (String::new(), String::new());
    for (line, text) in source.lines().take_while(|line| line.starts_with("//")).enumerate() {
        let words: Vec<&str> = text.trim_start_matches('/').split_whitespace().take(2).collect();
        let name = match words[..] {
            [number, name] if number.parse::<u32>().is_ok() => {
                number.clone_into(&mut rung);
                name
            }
            [name, _] if text.starts_with("//       ") => {
                if !kin(name, &before) {
                    rung.clear();
                }
                name
            }
            _ => continue,
        };
        if name.contains('_') {
            name.clone_into(&mut before);
            rungs.insert(name.to_owned(), (line, rung.clone()));
        }
    }
    rungs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine_code::Figures;

    const HEAD: &str = "// target sm_80\n//\n// rung  kernel    idea\n// 4     slow_f32  plain\n//                 text_here more\n// 5     fast_mma_f32  better\n//       fast_mma_f16  also\n//       other_f32  else\nint x;\n// 6 none_f32 x\n";

    #[test]
    fn rungs_are_read_from_the_head_of_the_file() {
        let rungs = rungs(HEAD);
        assert_eq!(rungs["slow_f32"].1, "4");
        assert_eq!(rungs["fast_mma_f16"].1, "5");
        assert_eq!(rungs["other_f32"].1, "");
        assert!(!rungs.contains_key("none_f32"));
    }

    #[test]
    fn tables_are_filled_and_filling_twice_changes_nothing() {
        let mut baseline = Baseline::new();
        for name in ["fast_mma_f32", "slow_f32"] {
            let gpus = BTreeMap::from([(
                "sm_80".to_owned(),
                Figures { registers: 64, warps: 32, ffma: 7, ..Default::default() },
            )]);
            baseline
                .kernels
                .insert(name.into(), Kernel { file: "f".into(), threads: 256, dynamic_shared: 2048, gpus });
        }
        let text = "a\n<!-- kernels: f -->\nold\n<!-- end -->\nb\n";
        let filled = fill(text, &baseline, |_| HEAD.into()).unwrap();
        assert!(
            filled.starts_with("a\n<!-- kernels: f -->\n| rung |") && filled.ends_with("<!-- end -->\nb\n"),
            "{filled}"
        );
        let (slow, fast) = (
            filled.find("| 4 | `slow_f32` | 256 | 2.0 | 64 / – / – / – | 32 of 64 / –"),
            filled.find("| 5 | `fast_mma_f32`"),
        );
        assert!(slow.is_some() && slow < fast, "{filled}");
        assert_eq!(fill(&filled, &baseline, |_| HEAD.into()).unwrap(), filled);
        assert!(fill("<!-- kernels: f -->", &baseline, |_| String::new()).is_err());
        assert!(fill("<!-- kernels: g --><!-- end -->", &baseline, |_| String::new()).is_err());
    }
}

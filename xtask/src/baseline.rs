//! What the machine code of every kernel looked like when it was last approved: `kernels/baseline.json`.

use crate::Result;
use crate::machine_code::Figures;
use crate::tools::{CLANG_VERSION, CUDA_VERSION};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// All kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Versions that gave these figures.
    pub clang: String,
    /// See `clang`.
    pub cuda: String,
    /// By name.
    pub kernels: BTreeMap<String, Kernel>,
}

/// One kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Name of its `.cu` file, without the ending.
    pub file: String,
    /// Threads a block, at most.
    pub threads: u32,
    /// Bytes of shared memory that the launcher adds, where that is a constant.
    pub dynamic_shared: u32,
    /// Figures by GPU generation, `sm_75` and so on.
    pub gpus: BTreeMap<String, Figures>,
}

impl Baseline {
    /// Without kernels.
    pub fn new() -> Self {
        Self { clang: CLANG_VERSION.into(), cuda: CUDA_VERSION.into(), kernels: BTreeMap::new() }
    }

    /// Reads `baseline.json`.
    ///
    /// # Errors
    /// It is missing, or not what `build --update-baseline` writes.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// JSON with a line for each kernel and GPU, so that a diff shows what changed.
    pub fn to_json(&self) -> String {
        let mut out = format!("{{\"clang\":\"{}\",\"cuda\":\"{}\",\"kernels\":{{\n", self.clang, self.cuda);
        for (i, (name, kernel)) in self.kernels.iter().enumerate() {
            let Kernel { file, threads, dynamic_shared, gpus } = kernel;
            let head =
                format!("\"file\":\"{file}\",\"threads\":{threads},\"dynamic_shared\":{dynamic_shared}");
            writeln!(out, "\"{name}\":{{{head},\"gpus\":{{").expect("a String takes all");
            for (j, (gpu, figures)) in gpus.iter().enumerate() {
                let figures = serde_json::to_string(figures).expect("numbers are JSON");
                let comma = if j + 1 < gpus.len() { "," } else { "}}" };
                writeln!(out, "  \"{gpu}\":{figures}{comma}").expect("a String takes all");
            }
            if i + 1 < self.kernels.len() {
                out.insert(out.len() - 1, ',');
            }
        }
        out.push_str("}}\n");
        out
    }
}

/// Everything wrong with `now`, by itself and next to what was approved: a sentence each.
pub fn compare(approved: &Baseline, now: &Baseline) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, kernel) in &now.kernels {
        let before = approved.kernels.get(name);
        if before.is_none() {
            findings.push(format!("{name}: not in baseline.json"));
        }
        for (gpu, figures) in &kernel.gpus {
            let place = format!("{name} on {gpu}");
            findings.extend(faults(figures).into_iter().map(|fault| format!("{place}: {fault}")));
            let Some(old) = before.and_then(|before| before.gpus.get(gpu)) else { continue };
            findings.extend(changes(old, figures).into_iter().map(|change| format!("{place}: {change}")));
        }
        if let Some(before) = before {
            if before.gpus.keys().ne(kernel.gpus.keys()) {
                findings.push(format!("{name}: assembled for other GPUs than in baseline.json"));
            }
            let launch = |k: &Kernel| (k.file.clone(), k.threads, k.dynamic_shared);
            if launch(before) != launch(kernel) {
                findings.push(format!(
                    "{name}: file, threads or dynamic shared memory differ from baseline.json"
                ));
            }
        }
    }
    let gone = approved.kernels.keys().filter(|name| !now.kernels.contains_key(*name));
    findings.extend(gone.map(|name| format!("{name}: in baseline.json, but in no .cu file")));
    findings
}

/// What no baseline makes right.
fn faults(figures: &Figures) -> Vec<String> {
    let mut faults = Vec::new();
    if figures.spills > 0 {
        faults.push(format!("spills {} bytes of registers", figures.spills));
    }
    if figures.stack > 0 {
        faults.push(format!(
            "has a stack frame of {} bytes: a register array is indexed by a variable",
            figures.stack
        ));
    }
    if figures.warps == 0 {
        faults.push("needs more registers or shared memory than a block may have".to_owned());
    }
    faults
}

/// What differs from the approved figures: losses by name, the rest in one line.
fn changes(old: &Figures, new: &Figures) -> Vec<String> {
    let mut changes = Vec::new();
    if new.warps < old.warps {
        changes.push(format!("occupancy drops from {} to {} warps an SM", old.warps, new.warps));
    }
    let kept = [
        ("128-bit global loads", old.global_128, new.global_128),
        ("128-bit background copies", old.async_128, new.async_128),
        ("128-bit global stores", old.store_128, new.store_128),
        ("128-bit shared loads", old.shared_128, new.shared_128),
        ("ldmatrix instructions", old.ldmatrix, new.ldmatrix),
        ("tensor-core instructions", old.mma, new.mma),
    ];
    let lost = kept.iter().filter(|(_, old, new)| new < old);
    changes.extend(lost.map(|(what, old, new)| format!("lost {} of {old} {what}", old - new)));
    for (what, old, new) in [
        ("barriers", old.barriers, new.barriers),
        ("integer divisions in inner loops", old.inner_divisions, new.inner_divisions),
    ] {
        if new > old {
            changes.push(format!("{new} {what} instead of {old}"));
        }
    }
    if changes.is_empty() && old != new {
        let json = |f| serde_json::to_value(f).expect("numbers are JSON");
        let (old, new) = (json(old), json(new));
        let fields = old.as_object().into_iter().flatten().filter(|(field, value)| new[*field] != **value);
        let fields: Vec<_> =
            fields.map(|(field, value)| format!("{field} {value} → {}", new[field])).collect();
        changes.push(format!("differs from baseline.json, not for the worse: {}", fields.join(", ")));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(figures: Figures) -> Baseline {
        let mut all = Baseline::new();
        for name in ["a", "b"] {
            let gpus = BTreeMap::from([("sm_80".to_owned(), figures), ("sm_90".to_owned(), figures)]);
            all.kernels
                .insert(name.into(), Kernel { file: "f".into(), threads: 256, dynamic_shared: 0, gpus });
        }
        all
    }

    fn good() -> Figures {
        Figures { registers: 64, warps: 32, global_128: 4, mma: 16, barriers: 2, ..Default::default() }
    }

    #[test]
    fn json_reads_back() {
        let all = baseline(good());
        assert_eq!(serde_json::from_str::<Baseline>(&all.to_json()).unwrap(), all);
        assert_eq!(serde_json::from_str::<Baseline>(&Baseline::new().to_json()).unwrap(), Baseline::new());
    }

    #[test]
    fn equal_figures_pass_and_each_loss_is_named() {
        let approved = baseline(good());
        assert!(compare(&approved, &approved).is_empty());
        let cases: [(Figures, &str); 8] = [
            (Figures { spills: 8, ..good() }, "a on sm_90: spills 8 bytes"),
            (Figures { stack: 320, ..good() }, "stack frame of 320 bytes"),
            (Figures { warps: 16, ..good() }, "occupancy drops from 32 to 16 warps"),
            (Figures { global_128: 3, ..good() }, "lost 1 of 4 128-bit global loads"),
            (Figures { mma: 0, ..good() }, "lost 16 of 16 tensor-core instructions"),
            (Figures { barriers: 3, ..good() }, "3 barriers instead of 2"),
            (Figures { inner_divisions: 1, ..good() }, "1 integer divisions in inner loops instead of 0"),
            (Figures { registers: 60, ..good() }, "not for the worse: registers 64 → 60"),
        ];
        for (figures, words) in cases {
            let mut now = approved.clone();
            now.kernels.get_mut("a").unwrap().gpus.insert("sm_90".into(), figures);
            let findings = compare(&approved, &now);
            assert!(findings.iter().any(|f| f.contains(words)), "{words}: {findings:?}");
            assert!(findings.iter().all(|f| f.starts_with("a on sm_90")), "{findings:?}");
        }
    }

    #[test]
    fn what_is_new_or_gone_is_named() {
        let approved = baseline(good());
        let mut now = approved.clone();
        let b = now.kernels.remove("b").unwrap();
        now.kernels.insert("c".into(), b);
        now.kernels.get_mut("a").unwrap().gpus.remove("sm_80");
        let findings = compare(&approved, &now).join("\n");
        for words in [
            "c: not in baseline.json",
            "b: in baseline.json, but in no .cu file",
            "a: assembled for other GPUs",
        ] {
            assert!(findings.contains(words), "{findings}");
        }
    }
}

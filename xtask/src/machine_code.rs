//! PTX to machine code, and what is in it.

use crate::Result;
use crate::gpu::Gpu;
use crate::tools::{Cuda, run};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// One kernel on one GPU generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of stack frame a thread: register arrays that went to memory.
    pub stack: u32,
    /// Bytes of spill stores and loads.
    pub spills: u32,
    /// Bytes of shared memory declared in the kernel.
    pub shared: u32,
    /// Warps that an SM holds at once.
    pub warps: u32,
    /// Machine instructions.
    pub instructions: u32,
    /// FFMA: multiply-adds in f32.
    pub ffma: u32,
    /// HMMA: tensor-core instructions.
    pub mma: u32,
    /// 128-bit loads from global memory.
    pub global_128: u32,
    /// 128-bit copies from global to shared memory in the background.
    pub async_128: u32,
    /// 128-bit stores to global memory.
    pub store_128: u32,
    /// 128-bit loads from shared memory.
    pub shared_128: u32,
    /// LDSM: loads of matrix fragments.
    pub ldmatrix: u32,
    /// Barriers of a block.
    pub barriers: u32,
    /// Integer divisions in loops that hold no other loop.
    pub inner_divisions: u32,
}

/// Assembles a PTX file for one GPU; each kernel's figures, but for `warps`.
///
/// # Errors
/// ptxas or nvdisasm fail, or print what is not understood.
pub fn assemble(cuda: &Cuda, ptx: &Path, gpu: &Gpu, scratch: &Path) -> Result<BTreeMap<String, Figures>> {
    let stem = ptx.file_stem().unwrap_or_default().to_string_lossy();
    let object = scratch.join(format!("{stem}.{}.cubin", gpu.name()));
    let (_, said) =
        run(Command::new(&cuda.ptxas).args(["-v", "-arch", &gpu.name()]).arg(ptx).arg("-o").arg(&object))?;
    let mut kernels =
        resources(&said).map_err(|line| format!("ptxas for {}: `{line}` is not understood", gpu.name()))?;
    let (code, _) = run(Command::new(&cuda.nvdisasm).arg("-c").arg(&object))?;
    for (name, code) in sections(&code) {
        let figures = kernels.get_mut(name).ok_or_else(|| format!("ptxas did not report {name}"))?;
        count(code, figures);
    }
    // A failed removal leaves a file in a folder that is removed later anyway.
    let _ = std::fs::remove_file(&object);
    Ok(kernels)
}

/// Registers, stack, spills and shared memory from `ptxas -v`; the line at fault if there is one.
fn resources(said: &str) -> Result<BTreeMap<String, Figures>> {
    let mut kernels = BTreeMap::<String, Figures>::new();
    let mut current = None;
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            current = rest.split('\'').next().map(str::to_owned);
        } else if let Some(name) = &current {
            let figures = kernels.entry(name.clone()).or_default();
            let number = |unit: &str| -> u32 {
                let before = line.split_once(unit).map(|(before, _)| before.trim_end());
                before.and_then(|b| b.rsplit([' ', ',']).next()?.parse().ok()).unwrap_or(0)
            };
            if line.contains("bytes stack frame") {
                figures.stack = number("bytes stack frame");
                figures.spills = number("bytes spill stores") + number("bytes spill loads");
            } else if line.contains("Used ") {
                figures.registers = number("registers");
                figures.shared = number("bytes smem");
                if figures.registers == 0 {
                    return Err(line.to_owned());
                }
            }
        }
    }
    if kernels.values().any(|figures| figures.registers == 0) || kernels.is_empty() {
        return Err(said.to_owned());
    }
    Ok(kernels)
}

/// Name and text of each kernel's code in nvdisasm's output.
fn sections(code: &str) -> impl Iterator<Item = (&str, &str)> {
    code.split("\t.section\t.text.").skip(1).filter_map(|section| Some((section.split(',').next()?, section)))
}

/// Counts instructions. A loop reaches from a label to the branch back to it.
fn count(code: &str, figures: &mut Figures) {
    let mut labels = BTreeMap::new();
    let mut loops = Vec::new();
    let mut divisions = Vec::new();
    for (at, line) in code.lines().enumerate() {
        if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(".L")) {
            labels.insert(label, at);
            continue;
        }
        // `        /*0060*/               @P0 BRA `(.L_x_1) ;`
        let Some((_, text)) = line.split_once("*/").filter(|_| line.trim_start().starts_with("/*")) else {
            continue;
        };
        let mut words = text.split_whitespace().skip_while(|word| word.starts_with('@'));
        let Some(operation) = words.next() else { continue };
        figures.instructions += 1;
        let is = |name: &str| operation.split('.').next() == Some(name);
        let wide = operation.split('.').any(|part| part == "128");
        figures.ffma += u32::from(is("FFMA") || is("FFMA2"));
        figures.mma += u32::from(is("HMMA"));
        figures.global_128 += u32::from(is("LDG") && wide);
        figures.async_128 += u32::from(is("LDGSTS") && wide);
        figures.store_128 += u32::from(is("STG") && wide);
        figures.shared_128 += u32::from(is("LDS") && wide);
        figures.ldmatrix += u32::from(is("LDSM"));
        figures.barriers += u32::from(is("BAR"));
        // Division by what is not a constant starts with a rounded-up reciprocal.
        if is("I2F") && operation.split('.').any(|part| part == "RP") {
            divisions.push(at);
        }
        if is("BRA") || is("BRX") {
            let target = text.split_once("(.L").and_then(|(_, rest)| rest.split_once(')'));
            let start = target.and_then(|(label, _)| labels.get(format!(".L{label}").as_str()));
            loops.extend(start.map(|&start| (start, at)));
        }
    }
    let inner = |&&(start, end): &&(usize, usize)| {
        !loops.iter().any(|&(s, e)| (s, e) != (start, end) && start <= s && e <= end)
    };
    let inner: Vec<_> = loops.iter().filter(inner).collect();
    let within = |at: &&usize| inner.iter().any(|&&(start, end)| start <= **at && **at <= end);
    figures.inner_divisions = divisions.iter().filter(within).count() as u32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptxas_report_is_read() {
        let said = "ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function 'a' for 'sm_80'\n\
                    ptxas info    : Function properties for a\n    32 bytes stack frame, 24 bytes spill stores, 100 bytes spill loads\n\
                    ptxas info    : Used 128 registers, used 1 barriers, 18024 bytes smem, 432 bytes cmem[0]\n\
                    ptxas info    : Compiling entry function 'b' for 'sm_80'\nptxas info    : Function properties for b\n\
                    \x20   0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 18 registers, used 0 barriers\n";
        let kernels = resources(said).unwrap();
        let a = Figures { registers: 128, stack: 32, spills: 124, shared: 18024, ..Default::default() };
        assert_eq!(kernels["a"], a);
        assert_eq!(kernels["b"], Figures { registers: 18, ..Default::default() });
        assert!(resources("ptxas info : nothing").is_err());
    }

    #[test]
    fn instructions_are_counted_and_divisions_in_inner_loops_only() {
        let code = "\t.section\t.text.k,\"ax\",@progbits\n.text.k:\n\
            .L_x_1:\n        /*0000*/                   I2F.U32.RP R0, R1 ;\n\
            .L_x_2:\n        /*0010*/                   LDG.E.128.CONSTANT R4, [R2] ;\n\
            \x20       /*0020*/                   I2F.RP R0, R1 ;\n\
            \x20       /*0030*/              @!P1 FFMA R3, R4, R5, R6 ;\n\
            \x20       /*0040*/               @P0 BRA `(.L_x_2) ;\n\
            \x20       /*0050*/                   LDGSTS.E.BYPASS.128 [R1], [R2] ;\n\
            \x20       /*0060*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;\n\
            \x20       /*0070*/                   LDS.64 R4, [R1] ;\n\
            \x20       /*0080*/               @P1 BRA `(.L_x_1) ;\n\
            .L_x_3:\n        /*0090*/                   BRA `(.L_x_3) ;\n";
        let (name, section) = sections(code).next().unwrap();
        assert_eq!(name, "k");
        let mut figures = Figures::default();
        count(section, &mut figures);
        let expected = Figures {
            instructions: 10,
            ffma: 1,
            mma: 1,
            global_128: 1,
            async_128: 1,
            inner_divisions: 1,
            ..Default::default()
        };
        assert_eq!(figures, expected);
    }
}

//! `.cu` to PTX with clang, the same bytes on every machine.

use crate::Result;
use crate::source::Source;
use crate::tools::{Clang, run};

/// The PTX of a file, as it is committed.
///
/// # Errors
/// clang refuses it or warns.
pub fn to_ptx(clang: &Clang, source: &Source) -> Result<String> {
    let folder = source.path.parent().expect("a file lies in a folder");
    // Paths in the PTX must not depend on where the sources or clang's headers lie.
    let within =
        |folder: &std::path::Path, name: &str| format!("-fdebug-prefix-map={}={name}", folder.display());
    let (out, _) = run(clang
        .command()
        .current_dir(folder)
        .args(["-x", "cuda", "--cuda-device-only", "-nocudainc", "-nocudalib", "-std=c++17", "-O3", "-S"])
        .args(["-Wall", "-Wextra", "-Werror"])
        // Loops are unrolled where the source says so and nowhere else; lines for the emulator's reports, no columns.
        .args(["-fno-unroll-loops", "-gline-directives-only", "-gno-column-info", "-fno-verbose-asm"])
        .arg(format!("--cuda-gpu-arch=sm_{}", source.target))
        .arg(format!("--cuda-feature=+ptx{}", source.ptx_version()))
        .args([
            within(&clang.headers, "clang"),
            within(folder, "kernels"),
            "-fdebug-compilation-dir=kernels".to_owned(),
        ])
        .args(["-o", "-", &format!("{}.cu", source.name)]))?;
    Ok(tidy(&out))
}

/// Drops lines that are comments alone: a tenth of the bytes.
fn tidy(ptx: &str) -> String {
    let mut tidy = String::with_capacity(ptx.len());
    for line in ptx.lines().filter(|line| !line.trim_start().starts_with("//") && !line.trim().is_empty()) {
        tidy.push_str(line.trim_end());
        tidy.push('\n');
    }
    tidy
}

/// A kernel's limit of threads a block, which launch bounds put into the PTX.
pub fn threads(ptx: &str, kernel: &str) -> Option<u32> {
    let entry = ptx.split(".entry ").find(|entry| entry.split('(').next() == Some(kernel))?;
    let numbers = entry.split_once(".maxntid ")?.1.lines().next()?;
    numbers.split(',').map(|n| n.trim().parse::<u32>().ok()).try_fold(1, |product, n| Some(product * n?))
}

/// Names of all kernels in a PTX text, in its order.
pub fn kernels(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.split(".entry ").skip(1).filter_map(|entry| entry.split('(').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = ".visible .entry first(\n\t.param .u64 a\n)\n.maxntid 16, 16, 1\n{\n}\n.visible .entry second(\n)\n{\n}\n";

    #[test]
    fn kernels_and_their_threads_are_found() {
        assert_eq!(kernels(PTX).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(threads(PTX, "first"), Some(256));
        assert_eq!(threads(PTX, "second"), None);
    }

    #[test]
    fn comment_lines_go_and_others_stay() {
        assert_eq!(tidy("// a\n\t\n\tadd.s32 \ta;  \n   // b\nx // c\n"), "\tadd.s32 \ta;\nx // c\n");
    }
}

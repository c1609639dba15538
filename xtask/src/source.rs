//! What a `.cu` file says about itself: the oldest GPU it compiles for, and the shared memory its kernels are launched with.

use crate::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One `.cu` file.
pub struct Source {
    /// File name without `.cu`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Oldest GPU, such as 75 for sm_75: the first line, `// target sm_75`.
    pub target: u32,
    /// Bytes of dynamic shared memory of each kernel whose comment has `dynamic shared memory N KB`; none where the
    /// launcher decides (`dynamic shared memory 2·…`).
    pub dynamic_shared: BTreeMap<String, Option<u32>>,
}

impl Source {
    /// Reads one.
    ///
    /// # Errors
    /// It cannot be read; no target in its first line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let target = text.lines().next().and_then(|line| line.strip_prefix("// target sm_"));
        let target = target.and_then(|number| number.trim().parse().ok()).ok_or_else(|| {
            format!("{}: the first line must be `// target sm_NN`, the oldest GPU it is for", path.display())
        })?;
        Ok(Self { name, path: path.to_owned(), target, dynamic_shared: dynamic_shared(&text) })
    }

    /// Every `.cu` of a folder, by name.
    ///
    /// # Errors
    /// The folder cannot be read or holds none; as [`Source::read`].
    pub fn all(folder: &Path) -> Result<Vec<Self>> {
        let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "cu")).collect();
        paths.sort();
        if paths.is_empty() {
            return Err(format!("{}: no .cu files", folder.display()));
        }
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// The committed PTX of this file.
    pub fn ptx(&self) -> PathBuf {
        self.path.with_file_name("ptx").join(format!("{}.ptx", self.name))
    }

    /// PTX version and GPU that clang is told: the oldest version that knows the GPU and the instructions used, because a
    /// driver refuses PTX newer than itself. 6.3 came with CUDA 10.0, 7.0 with 11.0.
    pub fn ptx_version(&self) -> u32 {
        if self.target < 80 { 63 } else { 70 }
    }
}

/// The figure in the comment above each kernel.
fn dynamic_shared(text: &str) -> BTreeMap<String, Option<u32>> {
    const WORDS: &str = "dynamic shared memory ";
    let mut found = BTreeMap::new();
    let mut comment = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(more) = line.strip_prefix("//") {
            comment.push_str(more);
            continue;
        }
        if line.starts_with("extern \"C\" __global__") {
            let mut head = line.to_owned();
            while !head.contains('{') {
                let Some(more) = lines.next() else { break };
                head.push_str(more);
            }
            if let (Some(name), Some((_, after))) = (kernel_name(&head), comment.split_once(WORDS)) {
                let number = after.split_once(" KB").and_then(|(number, _)| number.parse::<u32>().ok());
                found.insert(name.to_owned(), number.map(|kilobytes| kilobytes * 1024));
            }
        }
        comment.clear();
    }
    found
}

/// `f` of `extern "C" __global__ void __launch_bounds__(256, 2)f(const float *x, …) {`.
fn kernel_name(head: &str) -> Option<&str> {
    let (_, after) = head.split_once(" void ")?;
    let after = match after.strip_prefix("__launch_bounds__") {
        Some(bounds) => bounds.split_once(')')?.1,
        None => after,
    };
    after.split('(').next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_read_from_the_comment_of_its_kernel_alone() {
        let text = "// target sm_80\n\n// Grid 1, block 256, dynamic shared memory 48 KB.\nextern \"C\" __global__ void __launch_bounds__(256, 2)\n\
                    first(const float *x) {\n}\n\nextern \"C\" __global__ void second(float *x) {\n}\n// dynamic shared memory\n// 2·n bytes\n\
                    extern \"C\" __global__ void __launch_bounds__(T * T) third(int n) {\n}\n";
        let found = dynamic_shared(text);
        assert_eq!(found.get("first"), Some(&Some(48 * 1024)));
        assert_eq!(found.get("second"), None);
        assert_eq!(found.get("third"), Some(&None));
    }
}

//! The folder that a GPU day is run from.

use super::binary;
use crate::Result;
use crate::tools::run;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::day::runner::Manifest;

/// Bytes that the folder may have.
const MOST: u64 = 60_000_000;

/// Builds tests, benchmark, program and runner, and puts them into `folder` with all that they need.
///
/// # Errors
/// Something does not build, needs more than glibc 2.36, or makes the folder larger than 60 MB.
pub fn build(root: &Path, folder: &Path) -> Result<()> {
    let built = Built::all(root)?;
    clear(folder)?;
    for sub in ["bin", "lib", "ptx"] {
        let path = folder.join(sub);
        std::fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    for (artifact, place) in [
        ("test gpu", "bin/gpu-tests"),
        ("bench ops", "bin/ops-bench"),
        ("bin seedwalk", "bin/seedwalk"),
        ("bin gpu-day", "run"),
        ("cdylib emulated_cuda", "lib/libemulated_cuda.so"),
    ] {
        let to = folder.join(place);
        copy(built.path(artifact)?, &to)?;
        run(Command::new("strip").arg("--strip-all").arg(&to))
            .map_err(|e| format!("{e}; strip is in Debian's package binutils"))?;
        binary::check(&to)?;
    }
    let ptx = root.join("kernels/ptx");
    for entry in std::fs::read_dir(&ptx).map_err(|e| format!("{}: {e}", ptx.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        copy(&path, &folder.join("ptx").join(path.file_name().unwrap_or_default()))?;
    }
    copy(&root.join("benches/peer.py"), &folder.join("peer.py"))?;
    let manifest = Manifest { commit: commit(root)? };
    let text = serde_json::to_string(&manifest).expect("texts are JSON");
    std::fs::write(folder.join("manifest.json"), text).map_err(|e| format!("manifest.json: {e}"))?;
    let sizes = sizes(folder)?;
    for (name, bytes) in &sizes {
        println!("{:8.1} MB  {name}", *bytes as f64 * 1e-6);
    }
    let total = check_size(&sizes, MOST)?;
    println!(
        "{:8.1} MB  {}: copy it to the machine with the GPU and start ./run there",
        total as f64 * 1e-6,
        folder.display()
    );
    Ok(())
}

/// Removes an earlier folder, and nothing that is none.
fn clear(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    if !folder.join("manifest.json").exists() {
        return Err(format!("{} is there and is no GPU day's folder: it is left as it is", folder.display()));
    }
    std::fs::remove_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))
}

/// Files that cargo has made, by kind and name.
struct Built(BTreeMap<String, PathBuf>);

impl Built {
    fn all(root: &Path) -> Result<Self> {
        let mut built = BTreeMap::new();
        let test = ["test", "--release", "--package", "seedwalk", "--test", "gpu", "--no-run"];
        let bench = ["bench", "--package", "seedwalk", "--bench", "ops", "--no-run"];
        let day = ["build", "--release", "--package", "xtask", "--bin", "gpu-day"];
        for arguments in [&test[..], &bench, &day] {
            println!("cargo {}", arguments.join(" "));
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.current_dir(root).args(arguments).arg("--message-format=json-render-diagnostics");
            artifacts(&run(&mut command)?.0, &mut built);
        }
        Ok(Self(built))
    }

    fn path(&self, artifact: &str) -> Result<&Path> {
        let path = self.0.get(artifact).map(PathBuf::as_path);
        path.ok_or_else(|| format!("cargo said of no `{artifact}` where it is: {:?}", self.0.keys()))
    }
}

/// What cargo's messages name: programs by their kind, and shared libraries.
fn artifacts(messages: &str, into: &mut BTreeMap<String, PathBuf>) {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for message in messages.filter(|message| message["reason"] == "compiler-artifact") {
        let name = message["target"]["name"].as_str().unwrap_or_default();
        if let (Some(kind), Some(path)) =
            (message["target"]["kind"][0].as_str(), message["executable"].as_str())
        {
            into.insert(format!("{kind} {name}"), path.into());
        }
        let files = message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if let Some(library) = files.into_iter().find(|file| file.ends_with(".so")) {
            into.insert(format!("cdylib {name}"), library.into());
        }
    }
}

/// The commit, with `+` behind it where tracked files differ from it.
fn commit(root: &Path) -> Result<String> {
    let git =
        |arguments: &[&str]| run(Command::new("git").current_dir(root).args(arguments)).map(|(out, _)| out);
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.trim().is_empty();
    Ok(format!("{}{}", commit.trim(), if changed { "+" } else { "" }))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}

/// Every file below a folder with its bytes.
fn sizes(folder: &Path) -> Result<Vec<(String, u64)>> {
    let fail = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().map_err(fail)?.is_dir() {
            let below = sizes(&entry.path())?;
            all.extend(below.into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            all.push((name, entry.metadata().map_err(fail)?.len()));
        }
    }
    all.sort();
    Ok(all)
}

/// The sum, if it is not above the limit.
fn check_size(sizes: &[(String, u64)], most: u64) -> Result<u64> {
    let total = sizes.iter().map(|(_, bytes)| bytes).sum();
    if total > most {
        let largest = sizes.iter().max_by_key(|(_, bytes)| bytes).map_or("", |(name, _)| name);
        return Err(format!(
            "the folder has {:.1} MB, {:.1} are allowed; its largest file is {largest}",
            total as f64 * 1e-6,
            most as f64 * 1e-6
        ));
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_found_by_kind_and_name() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"seedwalk"},"executable":null,"filenames":["/t/libseedwalk.rlib"]}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"seedwalk"},"executable":"/t/seedwalk","filenames":["/t/seedwalk"]}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"gpu"},"executable":"/t/deps/gpu-1","filenames":["/t/deps/gpu-1"]}
{"reason":"compiler-artifact","target":{"kind":["cdylib","lib"],"name":"emulated_cuda"},"executable":null,"filenames":["/t/libemulated_cuda.so","/t/libemulated_cuda.rlib"]}
{"reason":"build-finished","success":true}
no JSON
"#;
        let mut found = BTreeMap::new();
        artifacts(messages, &mut found);
        let built = Built(found);
        assert_eq!(built.path("bin seedwalk").unwrap(), Path::new("/t/seedwalk"));
        assert_eq!(built.path("test gpu").unwrap(), Path::new("/t/deps/gpu-1"));
        assert_eq!(built.path("cdylib emulated_cuda").unwrap(), Path::new("/t/libemulated_cuda.so"));
        assert!(built.path("bench ops").unwrap_err().contains("bench ops"));
    }

    #[test]
    fn a_folder_that_is_too_large_is_refused_by_its_largest_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::fs::write(folder.path().join("bin/large"), [0; 600]).unwrap();
        std::fs::write(folder.path().join("small"), [0; 400]).unwrap();
        let sizes = sizes(folder.path()).unwrap();
        assert_eq!(sizes, [("bin/large".to_owned(), 600), ("small".to_owned(), 400)]);
        assert_eq!(check_size(&sizes, 1000), Ok(1000));
        assert!(check_size(&sizes, 999).unwrap_err().contains("bin/large"));
    }

    #[test]
    fn a_folder_of_somebody_elses_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("precious");
        std::fs::write(&file, "x").unwrap();
        assert!(clear(folder.path()).unwrap_err().contains("left as it is"));
        assert!(file.exists());
        std::fs::write(folder.path().join("manifest.json"), "{}").unwrap();
        clear(folder.path()).unwrap();
        assert!(!folder.path().exists());
        clear(folder.path()).unwrap();
    }
}

//! What a program needs of the machine it runs on: libraries, and the C library's version.

use crate::Result;
use crate::tools::run;
use std::path::Path;
use std::process::Command;

/// The C library of Debian 12.
pub const NEWEST_GLIBC: (u32, u32) = (2, 36);

/// Libraries that every Linux with that C library has.
const EVERYWHERE: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "ld-linux-x86-64.so.2",
];

/// Checks that a program or library runs with glibc 2.36 and nothing else.
///
/// # Errors
/// It does not: with what it needs. objdump (binutils) is missing.
pub fn check(path: &Path) -> Result<()> {
    let (headers, _) = run(Command::new("objdump").arg("-p").arg(path))
        .map_err(|e| format!("{e}; objdump is in Debian's package binutils"))?;
    let faults = faults(&headers);
    if faults.is_empty() { Ok(()) } else { Err(format!("{}: {}", path.display(), faults.join(", "))) }
}

/// What `objdump -p` names that is not everywhere.
fn faults(headers: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for line in headers.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["NEEDED", library] if !EVERYWHERE.contains(library) => faults.push(format!("needs {library}")),
            // `0x069691b4 0x00 08 GLIBC_2.34`
            [_, _, _, symbol] => {
                if let Some(version) = symbol.strip_prefix("GLIBC_")
                    && !version_is_old_enough(version)
                {
                    faults.push(format!(
                        "needs glibc {version}, {}.{} is meant",
                        NEWEST_GLIBC.0, NEWEST_GLIBC.1
                    ));
                }
            }
            _ => {}
        }
    }
    faults
}

/// `2.34`, `2.2.5`; `ABI_DT_RELR` came with 2.36; anything else is not known, so not old enough.
fn version_is_old_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) <= NEWEST_GLIBC,
        _ => version == "ABI_DT_RELR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_new_or_not_everywhere_is_named() {
        let headers = "Dynamic Section:\n  NEEDED               libgcc_s.so.1\n  NEEDED               libc.so.6\n\n\
            Version References:\n  required from libc.so.6:\n    0x069691b4 0x00 08 GLIBC_2.34\n    0x09691a75 0x00 07 GLIBC_2.2.5\n\
            \x20   0x0 0x00 03 GLIBC_ABI_DT_RELR\n  required from libgcc_s.so.1:\n    0x0b792653 0x00 05 GCC_3.3\n";
        assert_eq!(faults(headers), [""; 0]);
        let newer = headers.replace("GLIBC_2.34", "GLIBC_2.38").replace("libc.so.6\n\n", "libssl.so.3\n\n");
        assert_eq!(faults(&newer), ["needs libssl.so.3", "needs glibc 2.38, 2.36 is meant"]);
        assert_eq!(faults(&headers.replace("GLIBC_2.34", "GLIBC_3.0")).len(), 1);
        assert_eq!(faults(&headers.replace("GLIBC_2.34", "GLIBC_PRIVATE")).len(), 1);
    }

    #[test]
    fn this_program_is_read() {
        let own = std::env::current_exe().unwrap();
        let (headers, _) = run(Command::new("objdump").arg("-p").arg(&own)).unwrap();
        assert!(headers.contains("GLIBC_2."), "nothing to check in {headers}");
    }
}

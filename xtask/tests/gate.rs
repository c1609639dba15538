//! The gate against planted regressions. It needs clang, ptxas and NVRTC (`.ci/cuda-tools`), so it runs where
//! SEEDWALK_CUDA_TOOLS is set, as in CI, and there a missing tool is a failure.

use std::path::Path;
use std::process::Command;

/// A kernel with what the gate looks at: 128-bit loads, a barrier, a loop.
const GOOD: &str = r#"// target sm_80
#include "common.cuh"
extern "C" __global__ void __launch_bounds__(256) planted_f32(const float *__restrict__ x, float *__restrict__ y, int n) {
    __shared__ float scratch[8];
    float4 sum = make_float4(0, 0, 0, 0);
    for (int i = threadIdx.x * 4; i < n; i += 1024) sum = sum + read_four(x + i);
    const float total = block_sum<256>((sum.x + sum.y) + (sum.z + sum.w), scratch);
    if (threadIdx.x == 0) y[0] = total;
}
"#;

/// A folder of kernels with its PTX and baseline, from `GOOD`; `None` where the tools are not asked for.
struct Planted {
    folder: tempfile::TempDir,
}

impl Planted {
    fn new() -> Option<Self> {
        if std::env::var_os("SEEDWALK_CUDA_TOOLS").is_none() {
            println!("left out: SEEDWALK_CUDA_TOOLS is not set (CI sets it after .ci/cuda-tools)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let common = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/common.cuh");
        std::fs::copy(common, folder.path().join("common.cuh")).unwrap();
        let planted = Self { folder };
        planted.source(GOOD);
        let (ok, said) = planted.run(&["build", "--update-baseline"]);
        assert!(ok, "{said}");
        Some(planted)
    }

    fn source(&self, text: &str) {
        std::fs::write(self.folder.path().join("planted.cu"), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let done = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("kernels")
            .args(arguments)
            .arg("--kernels")
            .arg(self.folder.path())
            .output()
            .unwrap();
        let text = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (done.status.success(), text)
    }

    /// The source changes, its PTX with it, the baseline does not: what the gate then says.
    fn findings_of(&self, text: &str) -> String {
        self.source(text);
        let (ok, said) = self.run(&["build"]);
        assert!(ok, "{said}");
        let (ok, said) = self.run(&["check", "--require-tools"]);
        assert!(!ok, "the gate let it pass: {said}");
        said
    }
}

#[test]
fn an_approved_kernel_passes() {
    let Some(planted) = Planted::new() else { return };
    let (ok, said) = planted.run(&["check", "--require-tools"]);
    assert!(ok && said.contains("nothing found"), "{said}");
    // The same sources elsewhere give the same PTX: no path of this folder is in it.
    let ptx = std::fs::read_to_string(planted.folder.path().join("ptx/planted.ptx")).unwrap();
    assert!(!ptx.contains(planted.folder.path().to_str().unwrap()) && !ptx.contains("/usr/"), "{ptx}");
    assert!(ptx.contains("\"kernels/planted.cu\"") && ptx.contains(".loc"), "{ptx}");
}

#[test]
fn stale_ptx_is_found_and_placed() {
    let Some(planted) = Planted::new() else { return };
    planted.source(&GOOD.replace("y[0] = total", "y[0] = 2.0f * total"));
    let (ok, said) = planted.run(&["check", "--require-tools"]);
    assert!(
        !ok && said.contains("ptx/planted.ptx: stale: line ") && said.contains("in planted_f32"),
        "{said}"
    );

    std::fs::write(planted.folder.path().join("ptx/gone.ptx"), "").unwrap();
    let (_, said) = planted.run(&["check", "--require-tools"]);
    assert!(said.contains("ptx/gone.ptx: there is no .cu file"), "{said}");
}

#[test]
fn a_spill_is_found() {
    let Some(planted) = Planted::new() else { return };
    // 64 running sums, and room for 32 registers a thread.
    let spilling = GOOD.replace("__launch_bounds__(256)", "__launch_bounds__(256, 8)").replace(
        "    const float total",
        "    float more[64];\n#pragma unroll\n    for (int j = 0; j < 64; ++j) more[j] = x[j];\n    for (int i = 0; i < n; ++i) {\n#pragma unroll\n\
         \x20       for (int j = 0; j < 64; ++j) more[j] = fmaf(more[j], more[(j + 17) % 64], sum.x);\n    }\n#pragma unroll\n\
         \x20   for (int j = 0; j < 64; ++j) sum.x += more[j];\n    const float total",
    );
    let said = planted.findings_of(&spilling);
    assert!(said.contains("planted_f32 on sm_80: spills ") && said.contains(" bytes of registers"), "{said}");
}

#[test]
fn a_register_array_in_memory_is_found() {
    let Some(planted) = Planted::new() else { return };
    let indexed = GOOD.replace(
        "    const float total",
        "    float more[64];\n    for (int i = 0; i < 64; ++i) more[i] = 0.0f;\n    for (int i = 0; i < n; ++i) more[int(x[i]) & 63] += x[i];\n\
         \x20   sum.x += more[n & 63];\n    const float total",
    );
    let said = planted.findings_of(&indexed);
    assert!(said.contains("planted_f32 on sm_80: has a stack frame of 256 bytes"), "{said}");
}

#[test]
fn a_lost_wide_load_is_found() {
    let Some(planted) = Planted::new() else { return };
    let narrow =
        GOOD.replace("sum = sum + read_four(x + i)", "sum.x += x[i] + x[i + 1] * x[i + 2] + x[i + 3]");
    let narrow = narrow.replace("const float *__restrict__ x", "const volatile float *x");
    let said = planted.findings_of(&narrow);
    assert!(said.contains("128-bit global loads") && said.contains("planted_f32 on sm_90: lost "), "{said}");
}

#[test]
fn a_drop_in_occupancy_is_found() {
    let Some(planted) = Planted::new() else { return };
    let said = planted.findings_of(
        &GOOD
            .replace("scratch[8]", "scratch[8000]")
            .replace("y[0] = total", "y[0] = total + scratch[n % 8000]"),
    );
    assert!(said.contains("planted_f32 on sm_86: occupancy drops from 48 to 24 warps an SM"), "{said}");
}

#[test]
fn what_one_compiler_refuses_is_found() {
    let Some(planted) = Planted::new() else { return };
    // NVRTC has no such builtin; clang has.
    planted.source(&GOOD.replace("y[0] = total", "y[0] = __builtin_elementwise_max(total, 0.0f)"));
    let (ok, said) = planted.run(&["build", "--update-baseline"]);
    assert!(ok, "{said}");
    let (ok, said) = planted.run(&["check", "--require-tools"]);
    assert!(
        !ok && said.contains("planted.cu: NVRTC refuses it") && said.contains("__builtin_elementwise_max"),
        "{said}"
    );
}

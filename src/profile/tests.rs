use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

use crate::device::cuda::{emulated_alone, kernel_names};

/// Kernels that no launcher of the program launches: variants for outputs in bf16 and for four maps a block.
const WITHOUT_LAUNCHER: &[&str] =
    &["conv2d_mma_bf16", "from_bf16", "walk_whole_4_f32", "walk_chebyshev_4_f32"];
/// Kernels for shapes that no case has: the CRF with more than 128 labels, and keys of several words.
const OTHER_SHAPES: &[&str] = &["crf_update_wide_f32", "sort_gather_u32"];

/// Every subject by each of its rungs, in its small shape.
fn all_cases() -> Vec<Case> {
    let of = |subject: Subject| {
        let shape = subject.default_shape(true);
        match subject.rungs.is_empty() {
            true => vec![subject.case(&shape, None).unwrap()],
            false => subject.rungs.iter().map(|rung| subject.case(&shape, Some(rung)).unwrap()).collect(),
        }
    };
    catalogue().into_iter().flat_map(of).collect()
}

/// One test, since the emulated driver's report is the process's.
#[test]
fn cases_run_count_and_can_be_repeated_and_launch_every_kernel() {
    let (gpu, _alone) = emulated_alone();
    let emulator = gpu.emulator().unwrap();
    let mut launched = BTreeSet::new();
    for case in all_cases() {
        let (recording, counts) = count(&gpu, &case, 1).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
        launched.extend(recording.kernels());
        let counted: Vec<&str> = counts.iter().map(|k| k.kernel.as_str()).collect();
        assert_eq!(counted, recording.kernels(), "{}", case.name());
        assert_eq!(gpu.precision(), Precision::F32, "{}: the precision is not restored", case.name());
        assert_eq!(gpu.forced(case.operation), None, "{}: the rung is not given up", case.name());

        // What is queued again is the same work, without a call that allocates or copies from the host.
        emulator.reset().unwrap();
        recording.queue(None).unwrap();
        gpu.synchronize().unwrap();
        let report = emulator.report().unwrap();
        let calls = report["calls"]["by_name"].as_object().unwrap();
        for name in calls.keys() {
            let may = ["Launch", "Memset", "DtoD", "Synchronize", "CtxGet", "CtxSet", "FuncSet", "MemcpyD"];
            assert!(may.iter().any(|word| name.contains(word)), "{}: {name} in a repetition", case.name());
        }
        let launches: u64 = counts.iter().map(|k| k.launches).sum();
        assert_eq!(report["launches_in_all"], launches, "{}", case.name());
        let instructions = |report: &serde_json::Value| -> u64 {
            let launches = report["launches"].as_array().unwrap().iter();
            launches.map(|l| l["counters"]["instructions"]["warp"].as_u64().unwrap()).sum()
        };
        assert!(instructions(&report) > 0);
        // The counts do not depend on the values, but for predicates in the losses and dropout.
        let first: u64 = counts.iter().map(|k| k.warp_instructions).sum();
        let again = instructions(&report);
        assert!(
            again.abs_diff(first) <= first / 100,
            "{}: {again} instructions, {first} before",
            case.name()
        );

        for kernel in &counts {
            let lines: u64 = kernel.lines.iter().map(|l| l.warp_instructions).sum();
            assert_eq!(lines, kernel.warp_instructions, "{}: {}", case.name(), kernel.kernel);
            assert!(kernel.lines.iter().any(|l| l.file.starts_with("kernels/")), "{}", kernel.kernel);
            assert!(kernel.lower_bound > 0.0 && !kernel.bound_by.is_empty());
        }
    }
    let missing: Vec<&str> = kernel_names()
        .into_iter()
        .filter(|name| !launched.contains(name) && ![WITHOUT_LAUNCHER, OTHER_SHAPES].concat().contains(name))
        .collect();
    assert!(missing.is_empty(), "no case in src/profile launches {missing:?}");
    let stale: Vec<&&str> = WITHOUT_LAUNCHER.iter().filter(|name| launched.contains(**name)).collect();
    assert!(stale.is_empty(), "there are launchers of {stale:?}");

    times_are_taken(&gpu);
    only_new_buffers_are_recorded(&gpu);
    kernels_are_found(&gpu);
}

/// The emulated driver's clock is the sum of lower bounds: the same each time, and that of the launches that count.
fn times_are_taken(gpu: &Arc<Gpu>) {
    let subject = catalogue().into_iter().find(|s| s.name() == "conv2d weight gradient").unwrap();
    let case = subject.case(&subject.default_shape(true), subject.rungs.last()).unwrap();
    let row = Row::counted(gpu, &case, true).unwrap();
    let timing = row.timing.unwrap();
    let counted: f64 = row.counts.iter().map(|k| k.lower_bound).sum();
    assert_eq!(row.kernels, ["conv2d_weight_mma_bf16", "sum_parts_f32"]);
    assert!((timing.median / counted - 1.0).abs() < 1e-3, "{timing:?}, {counted}");
    assert!((timing.cold / counted - 1.0).abs() < 1e-3, "{timing:?}, {counted}");
    // Conversions to bf16 come before and do not count.
    let recording = case.record(gpu, 1).unwrap();
    assert_eq!(recording.kernels(), ["to_bf16", "conv2d_weight_mma_bf16", "sum_parts_f32"]);
    let all = measure(gpu, &recording, None, Duration::ZERO).unwrap();
    assert!(all.median > 1.05 * timing.median);
    assert!(measure(gpu, &recording, Some(&["add_f32"]), Duration::ZERO).is_err());
    // What a GPU's row is made of, on the emulated one: it has no share of a bound, because it has no times.
    let row = Row::timed(gpu, &case, Duration::from_millis(1)).unwrap();
    assert!(
        row.facts
            .is_some_and(|f| f.threads == 256 && f.shared >= 48 << 10 && f.blocks_per_multiprocessor > 0)
    );
    assert!(row.whole > row.timing.map(|t| t.median));
}

fn only_new_buffers_are_recorded(gpu: &Arc<Gpu>) {
    let old = crate::tensor::Tensor::full(&[64], 1.0).to_device(gpu, "old").unwrap();
    let add = |x: crate::tensor::Tensor| {
        let x = crate::tape::Var::constant(x);
        crate::ops::add(&mut crate::tape::Tape::inference(), &x, &x)
    };
    let Err(error) = gpu.record(|| Ok(()), |()| add(old.clone())) else {
        panic!("an old buffer was recorded")
    };
    assert!(error.to_string().contains("older than the recording"), "{error}");
    // The refusal has ended that recording, and a recording within one is refused.
    let nested = gpu.record(|| Ok(()), |()| gpu.record(|| Ok(()), |()| Ok(())).map(drop));
    assert!(nested.is_err_and(|e| e.to_string().contains("already")));
    let recording = gpu.record(|| old.to_host()?.to_device(gpu, "new"), add).unwrap();
    assert_eq!((recording.kernels(), recording.bytes()), (vec!["add_f32"], 512));
    add(old).unwrap();
}

fn kernels_are_found(gpu: &Arc<Gpu>) {
    let (subject, rung, _) = find_kernel(gpu, "conv2d_transpose_weight_bf16").unwrap();
    assert_eq!((subject.name().as_str(), rung.unwrap().rung.name), ("conv2d input gradient", "bf16"));
    let (subject, rung, _) = find_kernel(gpu, "mean_of_blocks_f32").unwrap();
    assert_eq!((subject.name().as_str(), rung.is_none()), ("losses cross-entropy", true));
    let usage = |kernel| find_kernel(gpu, kernel).map(|_| ()).unwrap_err();
    assert_eq!(usage("conv3d").exit_code(), 2);
    assert!(usage("conv3d").how_to_mend().unwrap().contains("conv2d, affinity"));
    assert_eq!(usage("from_bf16").exit_code(), 1);
}

#[test]
fn shapes_are_changed_by_their_dimensions_only() {
    let subject = catalogue().into_iter().find(|s| s.name() == "conv2d forward").unwrap();
    let shape = |changes: &[&str]| {
        let changes: Vec<String> = changes.iter().map(|c| c.to_string()).collect();
        subject.shape(subject.default_shape(false), &changes)
    };
    let changed = shape(&["size=7", "channels=3", "width=9"]).unwrap();
    assert_eq!(
        [changed.get("height"), changed.get("width"), changed.get("channels"), changed.get("batch")],
        [7, 9, 3, 16]
    );
    for wrong in
        ["steps=3", "channels", "channels=", "channels=0", "channels=-1", "channels=1.5", "batch=2000000"]
    {
        let error = shape(&[wrong]).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong}");
        assert!(error.how_to_mend().unwrap().contains("outputs, window, stride, dilation"), "{wrong}");
    }
    let huge = shape(&["batch=1000000", "size=4000"]).unwrap();
    assert!(subject.case(&huge, subject.rungs.first()).is_err_and(|e| e.exit_code() == 2));
}

#[test]
fn work_is_counted_from_the_shape() {
    let subject = catalogue().into_iter().find(|s| s.name() == "conv2d forward").unwrap();
    let shape = subject.default_shape(false);
    let of = |name: &str| {
        let rung = subject.rungs.iter().find(|r| r.rung.name == name);
        subject.case(&shape, rung).unwrap().work
    };
    // 512→512 3×3 at 56², 16 images: 7.4 GMAC an image.
    let (pixels, weights) = (16.0 * 56.0 * 56.0 * 512.0, 512.0 * 512.0 * 9.0);
    assert_eq!(of("blocks").flops, 2.0 * 16.0 * 56.0 * 56.0 * weights);
    assert_eq!(of("blocks").bytes, 4.0 * (2.0 * pixels + weights));
    assert_eq!(of("bf16").bytes, 2.0 * (pixels + weights) + 4.0 * pixels);
}

#[test]
fn tables_are_aligned() {
    let row = |cells: [&str; 2]| cells.map(String::from).to_vec();
    let text = table(&["a", "time"], &[row(["é", "1.5 ms"]), row(["long", "20 ms"])]);
    assert_eq!(text, "| a    |   time |\n|------|-------:|\n| é    | 1.5 ms |\n| long |  20 ms |\n");
}

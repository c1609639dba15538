//! The program's numbers against those of independent implementations (PyTorch, Pillow, NumPy in
//! f64, pydensecrf), which `parity/generate.py` wrote to `parity/golden/`. What each file holds, and the
//! comparison at full width, is told in `parity/README.md`; what was measured, in `docs/parity.md`.

mod common;

#[path = "parity/labels.rs"]
mod labels;
#[path = "parity/networks.rs"]
mod networks;
#[path = "parity/rule.rs"]
mod rule;
#[path = "parity/steps.rs"]
mod steps;
#[path = "parity/training.rs"]
mod training;
#[path = "parity/whole.rs"]
mod whole;

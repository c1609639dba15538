//! Execution.

use crate::error::LaunchError;
use crate::launch::{Launch, Report};
use crate::memory::{LoadedModule, Memory};

/// Runs one launch.
pub(crate) fn run(
    launch: &Launch<'_>,
    module: &LoadedModule,
    _memory: &mut Memory,
) -> Result<Report, LaunchError> {
    if module.module().kernel(launch.kernel).is_none() {
        let known = module.module().kernels().iter().map(|k| k.name.clone()).collect();
        return Err(LaunchError::UnknownKernel { name: launch.kernel.to_owned(), known });
    }
    Ok(Report::default())
}

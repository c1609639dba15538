//! The command `seedwalk`.

fn main() -> std::process::ExitCode {
    seedwalk::cli::main().into()
}

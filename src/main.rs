//! The command `seedwalk`.

fn main() -> std::process::ExitCode {
    seedwalk::cli::main(std::env::args_os())
}

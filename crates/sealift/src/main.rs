//! The `sealift` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    sealift::main_with(std::env::args_os())
}

//! The program under test: the command line of Sealift, built with the crash points of the feature `testing`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sealift::main_with(std::env::args_os())
}

//! The Holdfast operator.

fn main() -> std::process::ExitCode {
    holdfast_operator::process::main()
}

//! Stands for the command line in the check of `flake.nix`.

fn main() {
    println!("{}", greeting());
}

fn greeting() -> &'static str {
    "built by the phases of the flake"
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_greets() {
        assert!(super::greeting().starts_with("built"));
    }
}

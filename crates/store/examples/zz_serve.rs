//! Serves a directory for tests by hand.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
use domain::secret::Secret;
#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let credentials = Some(("AKIATESTKEY".to_owned(), Secret::new("secretsecretsecret")));
    store::serve(
        std::path::Path::new(&args[1]),
        args[2].parse().unwrap(),
        &[],
        credentials,
        |a| println!("{a}"),
        std::future::pending(),
    )
    .await
    .unwrap();
}

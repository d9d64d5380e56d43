//! Serves a directory with fixed credentials (`AKIATESTKEY`, `secretsecretsecret`), to be measured and judged by hand.
//!
//! ```text
//! serve DIRECTORY ADDRESS
//! serve /tmp/store 127.0.0.1:9000 &
//! load http://127.0.0.1:9000 sealift AKIATESTKEY secretsecretsecret get 67108864 4 5
//! versitygw test -a AKIATESTKEY -s secretsecretsecret -e http://127.0.0.1:9000 GetObject_with_range
//! ```
//!
//! The address is printed when it listens. It ends when it is killed, which a store survives.

// An example prints, and ends at the first thing that is wrong.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use domain::secret::Secret;
use std::path::Path;

#[tokio::main]
async fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    assert!(given.len() == 2, "serve DIRECTORY ADDRESS");
    let listen = given[1].parse().unwrap();
    let credentials = Some(("AKIATESTKEY".to_owned(), Secret::new("secretsecretsecret")));
    let ready = |address| println!("{address}");
    store::serve(Path::new(&given[0]), listen, &[], credentials, ready, std::future::pending()).await.unwrap();
}

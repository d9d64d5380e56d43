//! Pushes the image of a layout over plain HTTP, as a release does, and does nothing else: `push LAYOUT REPOSITORY TAG`.
//!
//! `cargo xtask bench image` times it beside `crane push` and `skopeo copy`.

use domain::Events;
use std::{error::Error, path::Path};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [layout, repository, tag] = words.as_slice() else {
        return Err("usage: push LAYOUT REPOSITORY TAG".into());
    };
    let to = image::Destination { repository: repository.clone(), insecure: true };
    image::push(Path::new(layout), &to, std::slice::from_ref(tag), &Events::nowhere()).await?;
    Ok(())
}

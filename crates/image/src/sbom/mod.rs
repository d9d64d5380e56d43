//! Software bills of materials: CycloneDX 1.6 as JSON (ECMA-424).
//!
//! | part | reads |
//! |---|---|
//! | `find` | which lock files a component has |
//! | `cargo`, `python`, `javascript` | `Cargo.lock`; requirements, poetry, uv, pdm, pylock, Pipenv; npm, pnpm, yarn |
//! | `system` | an image's layers: dpkg, apk, installed Python distributions, os-release |
//! | `syft` | what syft finds in the image, where it is present |
//! | `cyclonedx` | the document |
//!
//! What never happens here:
//!
//! - Nothing is left out in silence: a file that is malformed, too large or outside the component is an error that names it; a package that a
//!   file asks for without a version is in the bill without one; syft adds to what is found here and never replaces it.
//!   RPM's database is read by syft alone: without it the document and a warning say that RPM packages are not listed.
//! - No clock, path of this machine or order of a listing reaches the document: the same files, image and tool give the same bytes, and the serial number is
//!   made from them.
//! - Nothing is fetched, and no user or password of a URL is written.
//! - No parser panics, whatever it is given.

mod bill;
mod cargo;
mod cyclonedx;
mod find;
mod javascript;
mod python;
mod syft;
mod system;

pub use find::packages_in;

use crate::{
    error::{Error, Result},
    layout::read_whole,
};
use domain::{Digest, Events};
use std::path::{Path, PathBuf};

/// Which tool looks into an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SbomTool {
    /// syft where it is present, besides our own; a warning where it fails.
    #[default]
    Auto,
    /// syft, besides our own; it is an error when it is not there or fails.
    Syft,
    /// Only our own.
    Own,
}

/// What a bill of materials is made of.
#[derive(Clone)]
pub struct SbomRequest<'a> {
    /// The component's folder, where its lock files are.
    pub folder: &'a Path,
    /// Its image, if it has one.
    pub layout: Option<&'a Path>,
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The time in the document; that of the source, so that the same source gives the same bytes.
    pub created: jiff::Timestamp,
    /// Who looks into the image.
    pub tool: SbomTool,
    /// The program; without it `SEALIFT_SYFT`, then `syft` in PATH.
    pub syft: Option<PathBuf>,
    /// Where warnings go.
    pub events: &'a Events,
}

/// A bill of materials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sbom {
    /// The document, UTF-8 JSON.
    pub bytes: Vec<u8>,
    /// How many parts it has; the component itself is not counted.
    pub components: u64,
    /// What made it: `sealift 1.2.0`, or `syft 1.18.1 and sealift 1.2.0`.
    pub tool: String,
}

/// The media type of the document.
pub const SBOM_MEDIA_TYPE: &str = "application/vnd.cyclonedx+json";

/// Makes the bill of materials of a component: what its lock files name, and what is installed in its image.
///
/// A component without lock file and packages gets a bill that names it and says that nothing was found. It reads layers and runs a program: call it where
/// blocking is fine. A malformed file is bad input that names it.
pub fn sbom(request: &SbomRequest<'_>) -> Result<Sbom> {
    let mut bill = bill::Bill::default();
    find::read(request.folder, &mut bill)?;
    let mut image: Option<Digest> = None;
    let mut found = None;
    if let Some(layout) = request.layout {
        let contents = read_whole(layout)?;
        let first = contents.images.first().map(|documents| documents.manifest_descriptor.digest);
        image = contents.index.as_ref().map(|index| index.digest).or(first);
        for documents in &contents.images {
            system::read(layout, documents, &mut bill)?;
        }
        found = ask_syft(request, layout, &contents.images)?;
    }
    if let Some(text) = bill.unlisted().filter(|_| found.is_none()) {
        request.events.warn(format!("the bill of materials of {} is not whole: {text}", request.name));
    }
    cyclonedx::write(request, &bill, image, found)
}

fn ask_syft(
    request: &SbomRequest<'_>,
    layout: &Path,
    images: &[crate::layout::Documents],
) -> Result<Option<syft::Found>> {
    let program = match request.tool {
        SbomTool::Own => return Ok(None),
        _ => request.syft.clone().or_else(syft::program),
    };
    let result = match (program, request.tool) {
        (Some(program), _) => syft::scan(&program, layout, images),
        (None, SbomTool::Syft) => Err("it is neither in PATH nor named by SEALIFT_SYFT".to_owned()),
        (None, _) => return Ok(None),
    };
    match (result, request.tool) {
        (Ok(found), _) => Ok(Some(found)),
        (Err(why), SbomTool::Syft) => Err(Error::bad_with(
            format!("syft made no bill of materials of {}: {why}", request.name),
            "install syft, or let Sealift's own do with sbom = \"own\"",
        )),
        (Err(why), _) => {
            let name = request.name;
            request
                .events
                .warn(format!("syft made no bill of materials of {name}, so it is Sealift's own alone: {why}"));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    /// Cuts a text at every byte, and changes each byte: whatever is read of it, nothing panics.
    pub(crate) fn never_panics<T>(text: &str, mut read: impl FnMut(&str) -> Result<T, String>) {
        for end in 0..text.len() {
            let _ = read(&String::from_utf8_lossy(&text.as_bytes()[..end]));
        }
        for (number, at) in (0..text.len()).enumerate() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = [b'"', b'{', b'\n', b'@', 0, 0xff, b'/', b' '][number % 8];
            let _ = read(&String::from_utf8_lossy(&bytes));
        }
    }
}

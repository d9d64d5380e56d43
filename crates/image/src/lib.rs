//! From source to an image that is known by its digest, and from there to everything that takes an image.
//!
//! The one noun is the *layout*: an OCI image layout directory (`oci-layout`, `index.json`,
//! `blobs/sha256/<hex>`) on the local disk. Every builder makes one, everything else takes one.
//!
//! | module | does |
//! |---|---|
//! | [`fetch_base`], [`OciInputs`], [`build_oci`] | files to a layout, without a daemon |
//! | [`build_docker`] | a Dockerfile to a layout, through a Docker Engine |
//! | [`build_nix`] | a flake's output to a layout, or to the files of a binary cache |
//! | [`build_command`] | what any command leaves to a layout, or to files |
//! | [`import_docker_archive`], [`import_layout`] | what others made to a layout |
//! | [`open`], [`reopen`], [`blobs`], [`assemble`] | reads and verifies a layout, lists it, makes one from blobs that were fetched |
//! | [`unpack`] | a layout to a root file system |
//! | [`docker_archive`], [`oci_archive`], [`copy_layout`] | a layout to what `docker load`, skopeo and podman take |
//! | [`load_docker`] | blobs from anywhere ([`Blobs`]) into a Docker Engine, with nothing of them on this disk |
//! | [`inspect`] | a layout to what rules about images ask: user, setuid files, secrets |
//! | [`sbom`] | lock files and layers to a bill of materials |
//! | [`publish`], [`push`], [`pull`], [`resolve`] | a layout to registries, and from one |
//! | [`attach`], [`attached`] | Sigstore bundles to an image at a registry, and from it |
//!
//! What never happens here:
//!
//! - No image leaves this crate whose blobs were not hashed: [`open`] checks every digest, size,
//!   media type and layer identity, and every builder ends with it
//!   (`oci`, which has just written or hashed every layer, does not unpack them again); [`push`] hashes again what it sends.
//! - Nothing is written outside the directory that was named, whatever a layer says. A layer that
//!   tries is refused as a whole ([`Error::Hostile`]), not repaired.
//! - The same inputs never give two digests with [`build_oci`]: no clock, user, umask, path or order of
//!   a directory listing reaches a layer. (The `docker` builder gives what the engine gives.)
//! - An end of a build's stream is never taken for a success: only an image that the engine then
//!   shows is one.
//! - A tag that names a full version is never moved.
//! - This crate knows no store, prints nothing and reads no clock, except to age the engine's cache and what is abandoned in its own.
//!
//! How it fails: a missing or unreadable source, a Dockerfile that does not build and a layer
//! that is hostile are bad input; an engine or registry that does not answer is unavailable; bytes that are not what their
//! digest says, and a version tag that points elsewhere, are integrity failures.

mod abandoned;
mod archive;
mod base;
mod body;
mod command;
mod compare;
mod context;
mod credentials;
mod docker;
mod error;
mod export;
mod files;
mod groups;
mod gzip;
mod ignorefile;
mod import;
mod into;
mod json;
mod layer;
mod layercache;
mod layout;
mod nix;
mod oci;
mod process;
mod registry;
mod rules;
mod sbom;
mod seen;
mod spec;
mod tarread;
#[cfg(feature = "testing")]
pub mod testing;
mod tree;
mod unpack;

pub use abandoned::remove_abandoned;
pub use archive::{copy_layout, docker_archive, docker_archive_for, oci_archive};
pub use base::fetch_base;
pub use command::{Artifact, Output, build_command};
pub use compare::{Difference, first_difference};
pub use docker::{BUILD_LABEL, Loaded, build_docker, docker_ping, load_docker};
pub use error::{Error, Result};
pub use import::{import_docker_archive, import_layout, import_oci_archive};
pub use into::{BlobStream, Blobs, LayoutBlobs};
pub use layout::{Built, PlatformImage, assemble, blobs, open, reopen};
pub use nix::{NixBuilt, NixFacts, build_nix};
pub use oci::{OciInputs, build_oci};
pub use registry::{
    Attached, Attachment, Destination, Pushed, attach, attached, check_tags, publish, pull, push, registry_ping,
    resolve,
};
pub use rules::inspect;
pub use sbom::{SBOM_MEDIA_TYPE, Sbom, SbomRequest, SbomTool, packages_in, sbom};
pub use unpack::{Limits, Unpacked, unpack};

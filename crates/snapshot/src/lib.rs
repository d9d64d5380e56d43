//! Data trees as immutable snapshots: scan, chunk, pack, push, pull, verify, gc.
//!
//! Words: the *data path* is a file or directory of the repository; a *snapshot* is its content at one moment, named by
//! the SHA-256 of its *manifest*; the *layout* says in which *chunks* of which *packs* the bytes are; the *pointer* is
//! the small file that git keeps; the *cache* is this machine's copy of manifests, layouts and packs.
//!
//! What never happens:
//!
//! - No file is held whole in memory, except one that is a single chunk (at most 256 KiB).
//! - No link is followed, neither when data is read nor when it is written.
//! - No digest is taken of a file that changed while it was read: that is [`Error::Changing`] and nothing is kept.
//! - Nothing in the data path is overwritten or removed that is in no snapshot, without `force`; what the cache has lost the
//!   packs of is in none. It is looked at once more right before; a change in that very moment is not seen.
//! - No data path lies in a `.git` folder, where a snapshot could bring what git runs.
//! - Nothing gets its name, here or in the store, before what it refers to: packs, then layout, then manifest.
//! - What a store has is never remembered, so an object deleted behind our back is not called up to date. (What it has damaged
//!   is, in the cache, until it was sent again.)
//! - Nothing that a kept snapshot or a push under way needs is removed by a gc: [`gc`] says how.
//! - What is in memory does not grow with the tree: walk, indexes, manifest and layout are read and written in step with each
//!   other. (Lists of what differs are for people, and are whole. So are the places of one file's chunks, which take more than
//!   128 MiB for a file above some 130 GiB, and the paths of a part that is pulled.)
//! - Where bytes are is no part of what they are: a snapshot cut or packed otherwise has the same digest.
//!
//! How it fails: [`Error`] names the file or the object's key. Damage in the cache moves the pack, or a layout that whole packs
//! prove wrong, to `quarantine` and is healed by the next pull, or by a push as long as the data is still what was added.
//!
//! # Formats (version 1 of each)
//!
//! **Pointer**, `<data>.snapshot.toml` beside the data: a comment, then `v = 1`, `digest = "sha256:…"`, `bytes`, `files`,
//! `path` (relative to the pointer's folder).
//!
//! **Manifest**, object `snapshots/<2>/<64>`, whose key is the SHA-256 of its bytes. ASCII lines ending in `\n`, columns
//! separated by one space:
//!
//! ```text
//! sealift-snapshot 1 tree          or `file`: one file, its own name as path
//! f SIZE SHA256 PATH               a file; `x` when its owner may execute it
//! l TARGET PATH                    a symbolic link
//! d PATH                           an empty directory
//! end ENTRIES FILES BYTES
//! ```
//!
//! Entries are in byte order of the raw path. In PATH and TARGET, `%` and every byte outside `!`…`~` is `%XX` (upper
//! case), and nothing else is. Refused: absolute and empty paths, components `.` and `..`, NUL, more than 4095 bytes,
//! duplicates, wrong order, an entry below an entry, numbers not in shortest form, totals that disagree, anything after
//! the end, more than 512 MiB. So one tree has one manifest.
//!
//! **Layout**, object `layouts/<2>/<64 digits of the snapshot>`: `SLLAYOUT`, version (u32), SHA-256 of all that follows, the
//! snapshot's digest, one zstd frame. In the frame: number of packs (u32), each 32 bytes of digest and size (u64); then for
//! every file of the manifest that is not empty, in its order: number of chunks *n*, and *n* times: if *n* > 1 the chunk's
//! digest and length; number of its pack; offset; stored length. A zero byte ends it. Fixed integers are little-endian, the
//! others LEB128. A single chunk has the digest and size of its file.
//!
//! **Pack**, object `packs/<2>/<64>`, at most 16 MiB: payloads one after another; the index, 48 bytes a chunk (digest, offset
//! u64, length u32, stored u32); the footer, 56 bytes: SHA-256 of the index, its offset (u64), number of chunks (u32),
//! version (u32), `SLPACK\r\n`. A payload shorter than its chunk is one zstd frame, otherwise it is the chunk. So what is in
//! a pack is known without any layout.
//!
//! **Chunks**: a file of at most 256 KiB is one; larger ones are cut by FastCDC v2020 (64 KiB, 256 KiB, 1 MiB; level 1).
//!
//! **Cache**: `packs/`, `layouts/`, `snapshots/` as in the store; `stat/` (an index of each data path), `chunks` (where chunks
//! are), `quarantine/`, `tmp/`, `damaged/` (keys that were found damaged, one file a store), and lock files.
//!
//! **In the store beside these**: `claims/<2>/<64>`, a few bytes for each snapshot that was pushed lately, and `gc/`, the notes of
//! a gc at work. Both are small and may be deleted while nobody pushes and no gc runs.

mod cache;
mod cache_gc;
mod cases;
mod checkout;
mod chunks;
pub mod dvc;
mod error;
mod fence;
pub mod gc;
mod ingest;
mod layout;
mod manifest;
mod pack;
mod part;
mod path;
mod plan;
mod pointer;
mod push;
mod remote;
mod repository;
mod scan;
mod stat;
mod verify;

pub use error::{Error, Result};
pub use layout::{Chunk, LayoutReader, PackInfo, key as layout_key};
pub use manifest::{Diff, Entry, Kind, Manifest, ManifestReader, ManifestWriter, Shape, Totals, diff};
pub use pack::{CHUNK, LARGEST as LARGEST_PACK, Record, SMALL, read_index};
pub use path::{escape, shown, unescape};
pub use pointer::{HEADER as POINTER_HEADER, Pointer, SUFFIX};
pub use remote::{complete, hold};
pub use repository::{Added, Checkout, Pushed, Repository, State, Status, Verified};

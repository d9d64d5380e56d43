//! Files such as an image has: about half of each compresses well, and none is like another.

use crate::shell::Outcome;
use std::{fs, path::Path};

/// The size of each file of a tree.
pub(super) const FILE: u64 = 256 << 10;
/// What is of one kind at a time.
const BLOCK: usize = 4 << 10;

/// Writes a tree of about `bytes` below `folder`: folders of fifty files.
pub(super) fn tree(folder: &Path, bytes: u64, seed: u64) -> Outcome {
    for number in 0..(bytes / FILE).max(1) {
        let path = folder.join(format!("part{:03}", number / 50)).join(format!("file{number:05}"));
        write(&path, FILE, seed.wrapping_add(number))?;
    }
    Ok(())
}

/// Writes one file of such bytes.
pub(super) fn write(path: &Path, bytes: u64, seed: u64) -> Outcome {
    let named = |cause: std::io::Error| format!("{}: {cause}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(named)?;
    fs::write(path, content(bytes, seed, true)).map_err(named)
}

/// Writes one file that no compression makes smaller.
pub(super) fn noise(path: &Path, bytes: u64, seed: u64) -> Outcome {
    fs::write(path, content(bytes, seed, false)).map_err(|cause| format!("{}: {cause}", path.display()))
}

fn content(bytes: u64, seed: u64, text: bool) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut content = Vec::with_capacity(bytes + BLOCK);
    while content.len() < bytes {
        if text && (content.len() / BLOCK) % 2 == 1 {
            let line = format!("    return self.layer_{}(inputs)  # of the model\n", next() % 10_000);
            content.extend(line.bytes().cycle().take(BLOCK));
        } else {
            content.extend((0..BLOCK / 8).flat_map(|_| next().to_le_bytes()));
        }
    }
    content.truncate(bytes);
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_of_its_size_and_its_seed() {
        let one = content(10_000, 7, true);
        assert_eq!(one.len(), 10_000);
        assert_eq!(one, content(10_000, 7, true));
        assert_ne!(one, content(10_000, 8, true));
        assert_ne!(one[BLOCK..], content(10_000, 7, false)[BLOCK..]);
    }
}

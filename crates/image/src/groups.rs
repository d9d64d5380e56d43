//! Which files of a folder share a layer, so that what changes rarely is not sent again.
//!
//! The rule looks at names and sizes only, never at content, and is stable: a file that changes changes the one layer that it is in, and
//! so does a file that is added or removed. Small files are spread by the hash of their path: one group, halved by the next bit of the hash
//! where it is larger than [`Split::above`], again and again; so a folder that grows changes the layer that was halved and no other. Files of [`Split::large`] and more
//! are alone while there are no more of them than layers for them (eight, for one folder), and spread in the same way beyond, so that a model or a shared library does not travel with its neighbours. Every layer names the
//! folders above its files itself.

use crate::{files::Item, tree::Components};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// When a layer is cut in two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    /// Bytes that a layer of small files may have before it is halved.
    pub(crate) above: u64,
    /// Bytes from which on a file is a large one.
    pub(crate) large: u64,
    /// How often the small files of one folder are halved at most; the large ones once less.
    pub(crate) depth: u32,
}

/// Bytes of a tar header and what goes with it, so that a million empty files are not nothing.
const ENTRY: u64 = 1024;

impl Split {
    /// For an image with so many folders among its entries: about twenty layers in all.
    pub(crate) fn for_folders(folders: usize) -> Self {
        let halved = folders.max(1).next_power_of_two().ilog2();
        Self { above: 16 << 20, large: 32 << 20, depth: 4u32.saturating_sub(halved) }
    }
}

struct Leaf {
    item: Item,
    hash: u64,
}

/// Spreads the entries of one folder over layers. Each layer is sorted by path; at least one is returned.
pub(crate) fn groups(items: Vec<Item>, split: Split) -> Vec<Vec<Item>> {
    let mut folders: BTreeMap<Components, Item> = BTreeMap::new();
    let (mut small, mut large) = (Vec::new(), Vec::new());
    let mut sorted = items;
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut rest = sorted.into_iter().peekable();
    while let Some(item) = rest.next() {
        // Sorted by path, the first child of a folder comes right after it.
        let has_children = rest.peek().is_some_and(|next| next.path.starts_with(&item.path));
        if item.is_directory() && has_children {
            folders.insert(item.path.clone(), item);
            continue;
        }
        let hash = hash(&item.path);
        let side = if item.bytes() >= split.large { &mut large } else { &mut small };
        side.push(Leaf { item, hash });
    }
    let mut found = Vec::new();
    let fits = |leaves: &[Leaf]| leaves.iter().map(|leaf| leaf.item.bytes() + ENTRY).sum::<u64>() <= split.above;
    halve(small, 0, split.depth, &fits, &mut found);
    let most = 1usize << split.depth.saturating_sub(1);
    if large.len() <= most {
        found.extend(large.into_iter().map(|leaf| vec![leaf]));
    } else {
        halve(large, 0, split.depth.saturating_sub(1), &|leaves| leaves.len() <= 1, &mut found);
    }
    if found.is_empty() {
        found.push(Vec::new());
    }
    if split.depth == 0 {
        found = vec![found.into_iter().flatten().collect()];
    }
    found.into_iter().map(|leaves| with_folders(leaves, &folders)).collect()
}

fn hash(path: &Components) -> u64 {
    let whole = Sha256::digest(path.join(&b'/'));
    whole.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Cuts by the bits of the hash from the highest on, until a part fits or there are no halvings left.
fn halve(leaves: Vec<Leaf>, bit: u32, depth: u32, fits: &dyn Fn(&[Leaf]) -> bool, found: &mut Vec<Vec<Leaf>>) {
    if leaves.is_empty() {
        return;
    }
    if bit >= depth || leaves.len() == 1 || fits(&leaves) {
        found.push(leaves);
        return;
    }
    let (upper, lower) = leaves.into_iter().partition(|leaf| leaf.hash >> (63 - bit) & 1 == 1);
    halve(lower, bit + 1, depth, fits, found);
    halve(upper, bit + 1, depth, fits, found);
}

fn with_folders(leaves: Vec<Leaf>, folders: &BTreeMap<Components, Item>) -> Vec<Item> {
    let mut all: BTreeMap<Components, Item> = BTreeMap::new();
    for Leaf { item, .. } in leaves {
        for end in 1..item.path.len() {
            if let Some(folder) = folders.get(&item.path[..end]) {
                all.entry(folder.path.clone()).or_insert_with(|| folder.clone());
            }
        }
        all.insert(item.path.clone(), item);
    }
    if all.is_empty() {
        return folders.values().cloned().collect();
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SPLIT: Split = Split { above: 1000 * ENTRY, large: 500 * ENTRY, depth: 4 };

    fn tree(files: &[(String, u64)]) -> Vec<Item> {
        let mut items: BTreeMap<Components, Item> = BTreeMap::new();
        for (path, size) in files {
            let parts: Components = path.split('/').map(|part| part.as_bytes().to_vec()).collect();
            for end in 1..parts.len() {
                items.insert(parts[..end].to_vec(), Item::directory(parts[..end].to_vec(), (0, 0)));
            }
            items.insert(parts.clone(), Item::for_test(parts, *size));
        }
        items.into_values().collect()
    }

    fn many(count: u64) -> Vec<(String, u64)> {
        (0..count).map(|n| (format!("app/d{}/f{n}", n % 7), n * 37 % 20 * ENTRY)).collect()
    }

    fn layers(files: &[(String, u64)]) -> BTreeSet<Vec<(Components, u64)>> {
        let shape = |group: Vec<Item>| group.into_iter().map(|item| (item.path.clone(), item.bytes())).collect();
        groups(tree(files), SPLIT).into_iter().map(shape).collect()
    }

    #[test]
    fn a_file_that_changes_appears_or_goes_changes_one_layer() {
        let mut seen = BTreeSet::new();
        for count in [1, 50, 300, 700, 1500, 3000] {
            let before = many(count);
            let old = layers(&before);
            seen.insert(old.len());
            assert!(old.len() <= 16, "{}", old.len());
            let mut changed = before.clone();
            changed[count as usize / 2].1 += 1;
            let mut added = before.clone();
            added.push((format!("new/folder/{count}"), 3 * ENTRY));
            for after in [changed, added, before[1..].to_vec()] {
                let new = layers(&after);
                let (gone, come) = (old.difference(&new).count(), new.difference(&old).count());
                // One layer becomes one, or two when that made it too large (or the reverse).
                assert!(gone.max(come) <= 2 && gone.min(come) <= 1, "{count}: {gone} gone, {come} new");
            }
        }
        assert!(seen.len() > 3, "{seen:?}");
    }

    #[test]
    fn growing_file_by_file_never_reshuffles() {
        let mut old = layers(&many(1));
        let mut halved = 0;
        for count in 2..900 {
            let new = layers(&many(count));
            let (gone, come) = (old.difference(&new).count(), new.difference(&old).count());
            assert!(gone == 1 && come <= 3, "{count}: {gone} gone, {come} new");
            halved += u32::from(come > 1);
            old = new;
        }
        assert!((1..16).contains(&halved), "{halved}");
    }

    #[test]
    fn large_files_are_alone_and_everything_is_in_exactly_one_layer() {
        let mut files = many(40);
        files.extend((0..3).map(|n| (format!("models/m{n}"), 600 * ENTRY)));
        let found = groups(tree(&files), SPLIT);
        let of = |group: &Vec<Item>| group.iter().filter(|item| !item.is_directory()).count();
        assert!(
            found.iter().filter(|group| of(group) == 1 && group.iter().any(|item| item.bytes() >= SPLIT.large)).count()
                >= 2
        );
        let mut all: Vec<Components> =
            found.iter().flatten().filter(|item| !item.is_directory()).map(|item| item.path.clone()).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 43);
        assert_eq!(found.iter().map(of).sum::<usize>(), 43);
        for group in &found {
            let there: BTreeSet<&Components> = group.iter().map(|item| &item.path).collect();
            assert!(
                group.iter().all(|item| (1..item.path.len()).all(|end| there.contains(&item.path[..end].to_vec())))
            );
            assert!(group.is_sorted_by(|a, b| a.path < b.path));
        }
        let whole = groups(tree(&files), Split { depth: 0, ..SPLIT });
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].len(), tree(&files).len());
        assert_eq!(Split::for_folders(1).depth, 4);
        assert_eq!(Split::for_folders(3).depth, 2);
        assert_eq!(Split::for_folders(100).depth, 0);
    }

    #[test]
    fn folders_alone_are_a_layer() {
        let folder = |name: &str| Item::directory(vec![name.as_bytes().to_vec()], (0, 0));
        assert_eq!(groups(vec![folder("b"), folder("a")], SPLIT)[0].len(), 2);
        assert_eq!(groups(Vec::new(), SPLIT), vec![Vec::new()]);
    }
}

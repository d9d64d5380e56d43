use super::*;
use proptest::prelude::*;

fn walked(data: &Path) -> Vec<(Vec<u8>, bool)> {
    let mut scan = scan(data).unwrap().unwrap();
    let mut all = Vec::new();
    while let Some(found) = scan.next(None).unwrap() {
        all.push((found.path, found.what == What::EmptyDirectory));
    }
    all
}

/// The same without any cleverness.
fn plain(data: &Path) -> Vec<(Vec<u8>, bool)> {
    let mut all = Vec::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        let inner: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()).collect();
        let relative = |path: &Path| path.strip_prefix(data).unwrap().as_os_str().as_bytes().to_vec();
        if inner.is_empty() && folder != data {
            all.push((relative(&folder), true));
        }
        for entry in inner {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                all.push((relative(&entry.path()), false));
            }
        }
    }
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_walk_is_in_byte_order_of_path(
        paths in proptest::collection::vec(("[a!./-]{1,3}(/[a!-]{1,2}){0,3}", any::<bool>()), 0..30)
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (path, file) in paths {
            let path = folder.path().join(path.trim_matches('/'));
            if !path.starts_with(folder.path()) || path.components().any(|part| part.as_os_str() == "..") {
                continue;
            }
            // What is there already stays what it is.
            if file {
                let _ = path.parent().map(std::fs::create_dir_all);
                let _ = File::options().create_new(true).write(true).open(&path);
            } else {
                let _ = std::fs::create_dir_all(&path);
            }
        }
        let found = walked(folder.path());
        prop_assert_eq!(&found, &plain(folder.path()));
        prop_assert!(found.is_sorted());
    }
}

#[test]
fn a_tree_deeper_than_the_folders_that_may_be_open_is_walked() {
    let folder = tempfile::tempdir().unwrap();
    let mut path = folder.path().to_owned();
    for depth in 0..OPEN_FOLDERS * 3 {
        path.push("d");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(["a", "z"][depth % 2]), "x").unwrap();
        if depth % 7 == 0 {
            std::fs::create_dir(path.join("y")).unwrap();
        }
    }
    assert_eq!(walked(folder.path()), plain(folder.path()));
}

#[test]
fn the_staging_folder_is_left_out_at_the_top_only() {
    let folder = tempfile::tempdir().unwrap();
    for inner in [STAGING, "a/.sealift-tmp"] {
        std::fs::create_dir_all(folder.path().join(inner).join("x")).unwrap();
    }
    assert_eq!(walked(folder.path()), [(b"a/.sealift-tmp/x".to_vec(), true)]);
}

#[test]
fn a_file_that_was_replaced_by_a_link_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("a"), folder.path().join("b"));
    for path in [&path, &other] {
        std::fs::write(path, "same").unwrap();
    }
    let stat = Stat::of(&std::fs::symlink_metadata(&path).unwrap());
    let mut buffer = Vec::new();
    read_whole(path.clone(), stat, &mut buffer).unwrap();
    assert_eq!(buffer, b"same");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(read_whole(path.clone(), stat, &mut buffer), Err(Error::Changing { .. })));
    std::os::unix::fs::symlink(&other, &path).unwrap();
    assert!(matches!(read_whole(path.clone(), stat, &mut buffer), Err(Error::Changing { .. })));
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert!(matches!(read_whole(path, stat, &mut buffer), Err(Error::Changing { .. })));
}

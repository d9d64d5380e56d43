//! Which MD5 content has that is named by SHA-256: so that a second export need not read the data. A cache; one that is damaged
//! is as good as none.

use super::hash::Sum;
use crate::{Result, error::at};
use domain::Digest;
use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"SLDVC5\0\x01";
const RECORD: usize = 48;
/// Above this, what is not of the export at hand is forgotten.
const MOST: usize = 2_000_000;

/// The file, read.
#[derive(Debug)]
pub(crate) struct Known {
    path: PathBuf,
    sums: HashMap<Digest, Sum>,
    changed: bool,
}

impl Known {
    pub(crate) fn load(folder: &Path) -> Self {
        let path = folder.join("md5");
        let sums = std::fs::read(&path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { path, sums, changed: false }
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Sum> {
        self.sums.get(digest).copied()
    }

    pub(crate) fn learn(&mut self, digest: Digest, sum: Sum) {
        self.changed |= self.sums.insert(digest, sum) != Some(sum);
    }

    /// Writes it; `in_use` says what stays when there is too much.
    pub(crate) fn save(mut self, in_use: impl Fn(&Digest) -> bool) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        if self.sums.len() > MOST {
            self.sums.retain(|digest, _| in_use(digest));
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(at("make the directory", folder))?;
        let mut file = tempfile::Builder::new().prefix(".md5-").tempfile_in(folder).map_err(at("write", &self.path))?;
        let mut body = Vec::with_capacity(self.sums.len() * RECORD);
        for (digest, sum) in &self.sums {
            body.extend_from_slice(digest.as_bytes());
            body.extend_from_slice(&sum.0);
        }
        let written = file
            .write_all(MAGIC)
            .and_then(|()| file.write_all(Digest::of(&body).as_bytes()))
            .and_then(|()| file.write_all(&body));
        written.map_err(at("write", &self.path))?;
        file.persist(&self.path).map_err(|error| at("rename", &self.path)(error.error))?;
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Option<HashMap<Digest, Sum>> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (digest, body) = rest.split_at_checked(32)?;
    if Digest::of(body).as_bytes() != digest || body.len() % RECORD != 0 {
        return None;
    }
    let record = |record: &[u8]| -> Option<(Digest, Sum)> {
        let (sha256, md5) = record.split_at(32);
        Some((Digest::from_bytes(sha256.try_into().ok()?), Sum(md5.try_into().ok()?)))
    };
    body.chunks(RECORD).map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_known_and_damage_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (digest, sum) = (Digest::of("a"), Sum::of(b"a"));
        let mut known = Known::load(folder.path());
        known.learn(digest, sum);
        known.save(|_| true).unwrap();
        assert_eq!(Known::load(folder.path()).get(&digest), Some(sum));
        let path = folder.path().join("md5");
        let bytes = std::fs::read(&path).unwrap();
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            assert_eq!(decode(&damaged), None, "{place}");
            assert_eq!(decode(&bytes[..place]), None, "{place}");
        }
    }
}

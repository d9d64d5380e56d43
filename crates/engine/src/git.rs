//! Facts of the git repository, asked of `git` itself in its stable, machine-readable formats.
//!
//! Restoring, rolling back and deploying never come here: they need the store only.

use crate::error::{Error, Result};
use jiff::Timestamp;
use std::{path::Path, path::PathBuf};
use tokio::process::Command;

/// What a release needs to know of the work tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Full commit id.
    pub commit: String,
    /// The branch, unless HEAD is detached.
    pub branch: Option<String>,
    /// When it was committed.
    pub committed: Timestamp,
    /// Paths with changes that are not committed, untracked files included, in git's order.
    pub changed: Vec<String>,
}

/// Why there is no usable commit.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// `git` is not installed.
    #[error("git is not installed or not in PATH")]
    NoGit,
    /// Not a repository.
    #[error("{} is not in a git repository", path.display())]
    NoRepository {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A repository without a commit.
    #[error("the git repository at {} has no commit yet", path.display())]
    NoCommit {
        /// Where it is.
        path: PathBuf,
    },
    /// git failed otherwise.
    #[error("git {command} failed: {message}")]
    Failed {
        /// Which command.
        command: String,
        /// Its last words.
        message: String,
    },
}

/// The commit, branch and changed paths of the repository that holds `root`.
pub async fn head(root: &Path) -> Result<Head> {
    // Each start of git takes some milliseconds, and every build asks twice: why it fails is asked when it does.
    let asked = tokio::try_join!(
        output(root, &["log", "-1", "--format=%H%n%ct"]),
        output(root, &["status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all"]),
    );
    let (log, status) = match asked {
        Ok(answers) => answers,
        Err(_) if !succeeds(root, &["rev-parse", "--is-inside-work-tree"]).await? => {
            return Err(Error::Git(GitError::NoRepository { path: root.to_owned() }));
        }
        Err(_) if !succeeds(root, &["rev-parse", "--verify", "--quiet", "HEAD"]).await? => {
            return Err(Error::Git(GitError::NoCommit { path: root.to_owned() }));
        }
        Err(error) => return Err(error),
    };
    let mut lines = log.lines();
    let commit = lines.next().unwrap_or_default().to_owned();
    let seconds: i64 = lines.next().and_then(|line| line.parse().ok()).unwrap_or_default();
    let mut branch = None;
    let mut changed = Vec::new();
    let mut fields = status.split('\0');
    while let Some(field) = fields.next() {
        if let Some(name) = field.strip_prefix("# branch.head ") {
            branch = (name != "(detached)").then(|| name.to_owned());
        } else if let Some(path) = changed_path(field) {
            changed.push(path.to_owned());
            if field.starts_with("2 ") {
                fields.next(); // A rename is followed by its old path.
            }
        }
    }
    Ok(Head { commit, branch, committed: Timestamp::from_second(seconds).unwrap_or_default(), changed })
}

/// The path in one record of `git status --porcelain=v2`: after 8 fields for a change, 9 for a rename, 10 for a conflict.
fn changed_path(record: &str) -> Option<&str> {
    let skip = match record.as_bytes().first()? {
        b'1' => 8,
        b'2' => 9,
        b'u' => 10,
        b'?' => 1,
        _ => return None,
    };
    record.splitn(skip + 1, ' ').nth(skip)
}

/// The user that git would name as author, for the ledger.
pub async fn user(root: &Path) -> Option<String> {
    let email = output(root, &["config", "user.email"]).await.ok()?;
    let email = email.trim();
    (!email.is_empty()).then(|| email.to_owned())
}

/// Whether a path is tracked.
pub async fn tracked(root: &Path, path: &str) -> Result<bool> {
    succeeds(root, &["ls-files", "--error-unmatch", "--", path]).await
}

/// One version of a file in history.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Revision {
    /// Full commit id.
    pub commit: String,
    /// When.
    pub committed: Timestamp,
    /// Who.
    pub author: String,
    /// The first line of the message.
    pub subject: String,
    /// The file's text in that commit; `None` where it was removed.
    pub text: Option<String>,
}

/// The commits that changed a file, newest first, at most `limit`, with its text in each.
pub async fn revisions(root: &Path, path: &str, limit: usize) -> Result<Vec<Revision>> {
    let count = format!("-{limit}");
    let log = output(root, &["log", &count, "--format=%H%x00%ct%x00%ae%x00%s", "--", path]).await?;
    let mut revisions = Vec::new();
    for line in log.lines() {
        let mut fields = line.split('\0');
        let (Some(commit), Some(time), Some(author), Some(subject)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let text = output(root, &["show", &format!("{commit}:./{path}")]).await.ok();
        revisions.push(Revision {
            commit: commit.to_owned(),
            committed: time.parse().ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default(),
            author: author.to_owned(),
            subject: subject.to_owned(),
            text,
        });
    }
    Ok(revisions)
}

/// A file's text in a revision; `None` where it has no such file. A revision that does not exist is an error.
pub async fn text_at(root: &Path, revision: &str, path: &str) -> Result<Option<String>> {
    let commit = format!("{revision}^{{commit}}");
    if revision.starts_with('-') || !succeeds(root, &["rev-parse", "--verify", "--quiet", &commit]).await? {
        return Err(Error::NotFound {
            message: format!("git knows no revision {revision:?}"),
            next: Some("git log --oneline".to_owned()),
        });
    }
    Ok(output(root, &["show", &format!("{revision}:./{path}")]).await.ok())
}

/// The largest file in history that is looked at as a possible pointer.
const POINTER: &str = "--filter=blob:limit=16k";

/// All small files in the whole history of the branches and tags that match, of HEAD, of every stash and of the index, each
/// once and whatever its name: git's name for its content, and the content. `*` alone means all; otherwise patterns are
/// those of `git for-each-ref`.
pub async fn small_files(root: &Path, branches: &[String], tags: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
    if !succeeds(root, &["rev-parse", "--is-inside-work-tree"]).await? {
        return Err(Error::Git(GitError::NoRepository { path: root.to_owned() }));
    }
    if output(root, &["rev-parse", "--is-shallow-repository"]).await?.trim() == "true" {
        return Err(Error::BadInput {
            message: "this clone is shallow: commits whose data must be kept are not in it".to_owned(),
            next: Some("git fetch --unshallow".to_owned()),
        });
    }
    let mut patterns = vec!["refs/stash".to_owned()];
    let mut add = |space: &str, pattern: &str| {
        patterns.push(if pattern == "*" { space.to_owned() } else { format!("{space}/{pattern}") });
    };
    for branch in branches {
        add("refs/heads", branch);
        add(if branch == "*" { "refs/remotes" } else { "refs/remotes/*" }, branch);
    }
    tags.iter().for_each(|tag| add("refs/tags", tag));
    let mut arguments = vec!["for-each-ref", "--format=%(objectname)"];
    arguments.extend(patterns.iter().map(String::as_str));
    let mut starts = output(root, &arguments).await?;
    if succeeds(root, &["rev-parse", "--verify", "--quiet", "HEAD"]).await? {
        starts.push_str("HEAD\n");
    }
    // The reference names the newest stash; the others are in its log only.
    if succeeds(root, &["rev-parse", "--verify", "--quiet", "refs/stash"]).await? {
        starts.push_str(&output(root, &["log", "--walk-reflogs", "--format=%H", "refs/stash", "--"]).await?);
    }
    let listing =
        ["rev-list", "--objects", "--indexed-objects", "--no-object-names", "--filter=object:type=blob", POINTER];
    let objects = feed(root, &[&listing[..], &["--stdin"]].concat(), starts.into_bytes()).await?;
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    let contents = feed(root, &["cat-file", "--batch"], objects).await?;
    blobs(&contents).ok_or_else(|| {
        Error::Git(GitError::Failed { command: "cat-file".to_owned(), message: "its answer ends too soon".to_owned() })
    })
}

/// The blobs in the answer of `git cat-file --batch`: `ID TYPE SIZE`, newline, content, newline.
fn blobs(mut answer: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut blobs = Vec::new();
    while !answer.is_empty() {
        let end = answer.iter().position(|byte| *byte == b'\n')?;
        let mut fields = std::str::from_utf8(&answer[..end]).ok()?.split(' ');
        let (id, kind, size) = (fields.next()?, fields.next()?, fields.next()?.parse::<usize>().ok()?);
        let content = answer.get(end + 1..end + 1 + size)?;
        if kind == "blob" {
            blobs.push((id.to_owned(), content.to_vec()));
        }
        answer = answer.get(end + 1 + size + 1..)?;
    }
    Some(blobs)
}

/// The files of the work tree, tracked or not, that match a pathspec; not those that git ignores.
pub async fn files(root: &Path, pathspec: &str) -> Result<Vec<PathBuf>> {
    let listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pathspec];
    let listed = feed(root, &listing, Vec::new()).await?;
    let path = |bytes: &[u8]| PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes));
    Ok(listed.split(|byte| *byte == 0).filter(|bytes| !bytes.is_empty()).map(path).collect())
}

fn command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    // A commit hook or an alias must not change what is read, and optional locks must not disturb another git.
    command.current_dir(root).env("GIT_OPTIONAL_LOCKS", "0").env("LC_ALL", "C").args(arguments);
    command.stdin(std::process::Stdio::null());
    command
}

async fn run(root: &Path, arguments: &[&str]) -> Result<std::process::Output> {
    command(root, arguments).output().await.map_err(|_| Error::Git(GitError::NoGit))
}

/// What git answers to `input`, as it is.
async fn feed(root: &Path, arguments: &[&str], input: Vec<u8>) -> Result<Vec<u8>> {
    use std::process::Stdio;
    let mut command = command(root, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|_| Error::Git(GitError::NoGit))?;
    let stdin = child.stdin.take();
    let write = async move {
        if let Some(mut stdin) = stdin {
            // A git that has ended says why with its exit code.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, &input).await;
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), write);
    let output = output.map_err(|_| Error::Git(GitError::NoGit))?;
    if output.status.success() { Ok(output.stdout) } else { Err(failed(arguments, &output)) }
}

fn failed(arguments: &[&str], output: &std::process::Output) -> Error {
    let message = String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned();
    Error::Git(GitError::Failed { command: arguments.first().copied().unwrap_or_default().to_owned(), message })
}

async fn succeeds(root: &Path, arguments: &[&str]) -> Result<bool> {
    Ok(run(root, arguments).await?.status.success())
}

async fn output(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = run(root, arguments).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(arguments, &output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_status_record_may_hold_spaces() {
        assert_eq!(changed_path("1 .M N... 100644 100644 100644 aa bb a file"), Some("a file"));
        assert_eq!(changed_path("? new file"), Some("new file"));
        assert_eq!(changed_path("2 R. N... 1 1 1 a b R100 to here"), Some("to here"));
        assert_eq!(changed_path("# branch.oid abc"), None);
    }

    #[test]
    fn blobs_are_taken_out_of_a_batch_and_a_torn_batch_is_none() {
        let batch = b"aa blob 3\na\nb\nbb commit 2\nxx\ncc blob 0\n\n";
        assert_eq!(blobs(batch), Some(vec![("aa".to_owned(), b"a\nb".to_vec()), ("cc".to_owned(), Vec::new())]));
        assert_eq!(blobs(&batch[..12]), None);
        assert_eq!(blobs(b"dd missing\n"), None);
    }
}

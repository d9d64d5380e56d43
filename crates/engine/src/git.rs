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
    if !succeeds(root, &["rev-parse", "--is-inside-work-tree"]).await? {
        return Err(Error::Git(GitError::NoRepository { path: root.to_owned() }));
    }
    if !succeeds(root, &["rev-parse", "--verify", "--quiet", "HEAD"]).await? {
        return Err(Error::Git(GitError::NoCommit { path: root.to_owned() }));
    }
    let (log, status) = tokio::try_join!(
        output(root, &["log", "-1", "--format=%H%n%ct"]),
        output(root, &["status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all"]),
    )?;
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

async fn run(root: &Path, arguments: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new("git");
    // A commit hook or an alias must not change what is read, and optional locks must not disturb another git.
    command.current_dir(root).env("GIT_OPTIONAL_LOCKS", "0").env("LC_ALL", "C").args(arguments);
    command.stdin(std::process::Stdio::null());
    command.output().await.map_err(|_| Error::Git(GitError::NoGit))
}

async fn succeeds(root: &Path, arguments: &[&str]) -> Result<bool> {
    Ok(run(root, arguments).await?.status.success())
}

async fn output(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = run(root, arguments).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default().to_owned();
    Err(Error::Git(GitError::Failed { command: arguments.first().copied().unwrap_or_default().to_owned(), message }))
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
}

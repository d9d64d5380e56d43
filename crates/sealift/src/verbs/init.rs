//! `sealift init`.

use crate::{report::Report, shell::Shell};
use engine::Result;
use std::{os::unix::net::UnixStream, path::Path, process::Command};

/// Look at a repository and write a Sealift.toml that works
///
/// It finds Dockerfiles, Cargo, Python and Node projects, compose files, data under DVC and folders of manifests, says
/// what it found, and marks what it guessed. An existing Sealift.toml is never touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cd my-service && sealift init && sealift doctor\n  sealift init --plan")]
pub(crate) struct Arguments {
    /// Print what would be written; write nothing
    #[arg(long)]
    plan: bool,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let report = engine::init::run(&shell.start, docker_answers(), remote(&shell.start), !arguments.plan)?;
    let mut lines = Vec::new();
    if arguments.plan {
        lines.push(report.toml.trim_end().to_owned());
        lines.push(String::new());
    }
    let verb = if report.written { "wrote" } else { "would write" };
    lines.push(format!("{verb} {}", report.path.display()));
    lines.extend(report.found.iter().map(|found| format!("  found    {found}")));
    lines.extend(report.guessed.iter().map(|guessed| format!("  guessed  {guessed}")));
    lines.push("  next: look over what was guessed, then: sealift keys new && sealift doctor".to_owned());
    Ok(Report::new(&report, lines.join("\n")))
}

/// Whether a Docker Engine is worth proposing.
fn docker_answers() -> bool {
    match std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
        Some(host) => host.strip_prefix("unix://").is_none_or(|path| UnixStream::connect(path).is_ok()),
        None => UnixStream::connect("/var/run/docker.sock").is_ok(),
    }
}

/// The address of `origin`, without a user or password that may be in it.
fn remote(root: &Path) -> Option<String> {
    let output = Command::new("git").current_dir(root).args(["config", "--get", "remote.origin.url"]).output().ok()?;
    let url = String::from_utf8(output.stdout).ok()?;
    let url = url.trim();
    (!url.is_empty()).then(|| without_user(url))
}

fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    match host.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}/{path}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_remote_is_left_out() {
        assert_eq!(without_user("https://user:token@example.com/a/b.git"), "https://example.com/a/b.git");
        assert_eq!(without_user("https://example.com/a/b.git"), "https://example.com/a/b.git");
        assert_eq!(without_user("git@example.com:a/b.git"), "git@example.com:a/b.git");
    }
}

//! The next command for every error: one function, beside the exit codes.

use crate::exit::disk_is_full;
use domain::{Class, gate::Verdict, plan::Refusal};
use engine::{
    Error,
    causes::{Cause, ClusterError, ImageError, LedgerError, SnapshotError, StoreError},
    git::GitError,
};
use std::error::Error as StdError;

/// What to run next, when that is known. `verb` is what was typed, for `--help`.
pub fn hint(error: &Error, verb: &str) -> Option<String> {
    let again = |text: &str| format!("{text}, then the same command again");
    if disk_is_full(error) && !matches!(error, Error::Interrupted { .. }) {
        return Some(again("free space (df -h; df -i)"));
    }
    let next = match error {
        Error::NoWorkspace { .. } => "sealift init".to_owned(),
        Error::Config { .. } => "mend Sealift.toml at these lines, then: sealift doctor".to_owned(),
        Error::Unknown(unknown) => match (unknown.near.first(), unknown.known.is_empty(), unknown.kind) {
            (Some(near), ..) => format!("the same command with {near}"),
            (None, true, "release") => "sealift release cut".to_owned(),
            (None, true, "registered model" | "model") => "sealift model register".to_owned(),
            _ => "sealift status".to_owned(),
        },
        Error::Usage { .. } => format!("sealift {verb} --help").replace("  ", " "),
        Error::Git(GitError::NoGit) => again("install git (apt-get install git)"),
        Error::Git(GitError::NoRepository { .. }) => "git init".to_owned(),
        Error::Git(GitError::NoCommit { .. }) => "git add -A && git commit -m \"First commit\"".to_owned(),
        Error::Git(GitError::Failed { .. }) => "git status".to_owned(),
        Error::BadInput { next, .. } | Error::NotFound { next, .. } | Error::NotPermitted { next, .. } => {
            return next.clone().or_else(|| by_class(error.class()));
        }
        Error::Integrity { .. } if verb == "release" || verb == "restore" => {
            "sealift release verify RELEASE   (to see what the store holds)".to_owned()
        }
        Error::Integrity { .. } => "sealift audit verify".to_owned(),
        Error::Drift { release, legal, .. } => {
            let component = &release.component;
            format!("set the version to {legal} in the version files, commit, then: sealift release cut {component}")
        }
        Error::TakenElsewhere { release, .. } => format!(
            "on the host that built that image: sealift release cut {}   (or give the release a new version; a published tag is never moved)",
            release.component
        ),
        Error::Refused(refusal) => refused(refusal),
        Error::Stale { .. } => "make the plan again, or the same command again".to_owned(),
        Error::WentBack { environment, .. } => format!("sealift history {environment}"),
        Error::Unfit { release, .. } => format!("sealift explain {release}"),
        Error::Interrupted { environment, source, .. } if disk_is_full(source) => {
            format!("sealift resume {environment}")
        }
        Error::Interrupted { environment, .. } => {
            format!("sealift resume {environment}   (or give it up: sealift abort {environment})")
        }
        Error::GateHolds { release, environment, verdict, gates, .. } => match verdict {
            Verdict::Inconclusive if gates.is_empty() => {
                format!("sealift deploy {environment} {release} && sealift gate {environment}")
            }
            Verdict::Inconclusive => format!("sealift gate {environment}"),
            _ => format!("sealift explain {release}"),
        },
        Error::Stopped { .. } | Error::Internal { .. } => "the same command again".to_owned(),
        Error::File { source, path, .. } => match source.kind() {
            std::io::ErrorKind::PermissionDenied => format!("ls -ld {}", path.display()),
            std::io::ErrorKind::InvalidData => again(&format!("mend {}", path.display())),
            std::io::ErrorKind::NotFound => again(&format!("make {}", path.display())),
            _ => return by_class(Class::Internal),
        },
        Error::Failed { cause, .. } => return from_cause(cause),
        _ => return by_class(error.class()),
    };
    Some(next)
}

fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Open { environment, .. } => {
            format!("sealift resume {environment}   (or give it up: sealift abort {environment})")
        }
        Refusal::OnlyByPromotion { environment, after } => {
            format!(
                "sealift deploy {after} RELEASE && sealift gate {after} && sealift promote RELEASE --to {environment}"
            )
        }
        Refusal::Older { environment, release, .. } => format!("sealift rollback {environment} --to {release}"),
    }
}

/// What mends the failure of an adapter.
fn from_cause(cause: &Cause) -> Option<String> {
    let next = match cause {
        Cause::Store(error) => return from_store(error),
        Cause::Snapshot(error) => match error {
            SnapshotError::ChangedSinceAdd { path, .. } => format!("sealift data add {}", path.display()),
            SnapshotError::Changing { path } => {
                format!("the same command again, when nobody writes to {}", path.display())
            }
            SnapshotError::LocalChanges { path, .. } => format!(
                "keep them: sealift data add {0}   (or drop them: the same command with --force)",
                path.display()
            ),
            SnapshotError::NoSuchPart { .. } => {
                "the same command with a path inside the data   (or all of it, without --path)".to_owned()
            }
            SnapshotError::NotCached { .. } => "sealift data pull".to_owned(),
            SnapshotError::CachedPack { .. } | SnapshotError::CachedLayout { .. } => "sealift data pull".to_owned(),
            SnapshotError::Damaged { cached: true, .. } => {
                "sealift data pull   (or, when no store has it, on a host that has the data: sealift data add)".to_owned()
            }
            SnapshotError::Damaged { .. } | SnapshotError::Corrupt { .. } => {
                "sealift data push, on a host that has the data".to_owned()
            }
            // Its bytes are what its digest says: whoever wrote it wrote it so, and only another version is better.
            SnapshotError::Manifest { .. } => {
                "git log -- '*.snapshot.toml'   (to point to a version that verifies)".to_owned()
            }
            SnapshotError::Store { source, .. }
                if matches!(**source, StoreError::Corrupt { .. } | StoreError::Damaged { .. }) =>
            {
                "sealift data push, on a host that has the data".to_owned()
            }
            SnapshotError::Store { source, .. } => return from_store(source),
            SnapshotError::DvcMissing { .. } => {
                "dvc remote list   (or, on a host that has the data: sealift data add PATH && sealift data export-dvc PATH)"
                    .to_owned()
            }
            // DVC itself remembers that the directory was pushed, and would send nothing.
            SnapshotError::DvcDamaged { .. } => {
                "sealift data add PATH && sealift data export-dvc PATH --verify, on a host that has the data".to_owned()
            }
            SnapshotError::DvcRemote { source, .. } => return from_store(source),
            SnapshotError::NotEmpty { .. } => "the same command with an empty directory".to_owned(),
            SnapshotError::Kind { path, .. } => {
                format!("move {} out of the data, then the same command again", path.display())
            }
            SnapshotError::File { path, source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                format!("ls -ld {}", path.display())
            }
            other => return by_class(other.class()),
        },
        Cause::Image(error) => match error {
            error if error.hint().is_some() => return error.hint().map(str::to_owned),
            ImageError::BuildFailed { .. } => "mend what the last lines say, then the same command again".to_owned(),
            ImageError::TagTaken { .. } => "give the release a new version; a published tag is never moved".to_owned(),
            other => return by_class(other.class()),
        },
        Cause::Cluster(error) => match error {
            ClusterError::Secret { reference, .. } => format!("make {reference} readable, then the same command again"),
            other => return by_class(other.class()),
        },
        Cause::Ledger(error) => match error {
            LedgerError::UntrustedKey { .. } => "sealift keys list".to_owned(),
            other => return by_class(other.class()),
        },
    };
    Some(next)
}

fn from_store(error: &StoreError) -> Option<String> {
    let next = match error {
        StoreError::Held { environment, .. } => {
            format!(
                "sealift status   (then the same command again; if the holder has died: sealift resume {environment})"
            )
        }
        StoreError::Full { .. } => {
            "free space where the store is (df -h; df -i), then the same command again".to_owned()
        }
        StoreError::Fenced { .. } => "sealift status".to_owned(),
        StoreError::Listen { .. } => "the same command with another --listen address".to_owned(),
        StoreError::Open { .. } => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, then the same command again".to_owned()
        }
        StoreError::Corrupt { .. } | StoreError::Damaged { .. } => {
            "sealift release verify RELEASE   (to see what else is damaged)".to_owned()
        }
        StoreError::Unavailable { source, .. } => {
            let words = source.as_ref().map(|source| chain(source.as_ref())).unwrap_or_default();
            if words.contains("certificate") {
                "check the endpoint's certificate, then: sealift doctor"
            } else {
                "sealift doctor"
            }
            .to_owned()
        }
        other => return by_class(other.class()),
    };
    Some(next)
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn by_class(class: Class) -> Option<String> {
    let next = match class {
        Class::Unavailable | Class::Internal => "sealift doctor",
        Class::NotFound => "sealift status",
        Class::Integrity => "sealift audit verify",
        Class::Busy => "the same command again",
        Class::NotPermitted => "sealift history",
        Class::Usage => "sealift --help",
        Class::BadInput => "mend what is named above, then the same command again",
    };
    Some(next.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Name, names::Unknown};
    use expect_test::expect;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn hints() {
        let release = || "wine@1.1.0".parse().unwrap();
        let message = String::new;
        let unavailable = StoreError::unavailable("s3://b", "does not answer");
        let held =
            StoreError::Held { environment: "staging".into(), holder: "a@b".into(), epoch: 3, op: "deploy".into() };
        let failed = |cause: Cause| Error::Failed { doing: "do it".into(), cause };
        let holds = |verdict| Error::GateHolds {
            release: release(),
            environment: "staging".into(),
            verdict,
            why: message(),
            gates: vec![],
        };
        let errors = [
            Error::NoWorkspace { start: "/".into() },
            Error::Unknown(Unknown::new("environment", "stagign", ["staging"])),
            Error::Unknown(Unknown::new("release", "wine@1.0.0", [] as [&str; 0])),
            Error::Usage { message: message() },
            Error::Git(GitError::NoCommit { path: "/".into() }),
            Error::NotFound { message: message(), next: Some("sealift keys new release".into()) },
            Error::Integrity { message: message() },
            Error::TakenElsewhere {
                release: release(),
                repository: message(),
                tag: message(),
                is: message(),
                wanted: domain::Digest::of("x"),
            },
            Error::Refused(Refusal::Open { environment: name("staging"), op: "1".into() }),
            Error::Refused(Refusal::OnlyByPromotion { environment: name("production"), after: name("staging") }),
            Error::Refused(Refusal::Older { environment: name("staging"), serving: release(), release: release() }),
            Error::Stale { environment: "staging".into(), what: message() },
            holds(Verdict::Inconclusive),
            holds(Verdict::Crit),
            failed(unavailable.into()),
            failed(held.into()),
            failed(
                SnapshotError::ChangedSinceAdd { path: "data/raw".into(), snapshot: domain::Digest::of("x") }.into(),
            ),
        ];
        let text: Vec<String> = errors.iter().map(|error| hint(error, "deploy").unwrap_or_default()).collect();
        expect![[r#"
            sealift init
            the same command with staging
            sealift release cut
            sealift deploy --help
            git add -A && git commit -m "First commit"
            sealift keys new release
            sealift audit verify
            on the host that built that image: sealift release cut wine   (or give the release a new version; a published tag is never moved)
            sealift resume staging   (or give it up: sealift abort staging)
            sealift deploy staging RELEASE && sealift gate staging && sealift promote RELEASE --to production
            sealift rollback staging --to wine@1.1.0
            make the plan again, or the same command again
            sealift deploy staging wine@1.1.0 && sealift gate staging
            sealift explain wine@1.1.0
            sealift doctor
            sealift status   (then the same command again; if the holder has died: sealift resume staging)
            sealift data add data/raw"#]]
        .assert_eq(&text.join("\n"));
    }
}

//! Exit codes: one table, one function.
//!
//! | code | means |
//! |---|---|
//! | 0 | ok |
//! | 1, 2, 3 | a gate is warn, crit, inconclusive |
//! | 64 | the command line is wrong |
//! | 65 | configuration or data is wrong |
//! | 66 | not found |
//! | 69 | a service is unreachable |
//! | 70 | Sealift or the machine below it failed |
//! | 73 | a digest, signature, chain or drift guard does not hold |
//! | 75 | busy: a lease is held, a plan is stale; the same command may succeed later |
//! | 77 | not permitted |
//! | 130, 143 | stopped by SIGINT, SIGTERM |

use domain::{Class, gate::Verdict};
use engine::Error;
use std::{error::Error as StdError, io, process::ExitCode};

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Ok,
    /// A gate warns.
    Warn,
    /// A gate is critical, or a release is unfit.
    Crit,
    /// A gate has not enough evidence.
    Inconclusive,
    /// A failure of this class.
    Failure(Class),
    /// Stopped by a signal.
    Signal(Signal),
}

/// A signal that stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: a person pressed Ctrl-C.
    Interrupt,
    /// SIGTERM: a supervisor asks.
    Terminate,
}

impl Signal {
    /// `SIGINT` or `SIGTERM`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warn => 1,
            Self::Crit => 2,
            Self::Inconclusive => 3,
            Self::Failure(class) => match class {
                Class::Usage => 64,
                Class::BadInput => 65,
                Class::NotFound => 66,
                Class::Unavailable => 69,
                Class::Internal => 70,
                Class::Integrity => 73,
                Class::Busy => 75,
                Class::NotPermitted => 77,
            },
            Self::Signal(Signal::Interrupt) => 130,
            Self::Signal(Signal::Terminate) => 143,
        }
    }

    /// How a gate's verdict ends the process.
    pub fn of_verdict(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Ok => Self::Ok,
            Verdict::Warn => Self::Warn,
            Verdict::Inconclusive => Self::Inconclusive,
            Verdict::Crit => Self::Crit,
        }
    }

    /// How an error ends the process. `signal` is the one that came while it ran, if any.
    pub fn of_error(error: &Error, signal: Option<Signal>) -> Self {
        match error {
            Error::Stopped { signal: name } => Self::Signal(match (*name, signal) {
                ("SIGTERM", _) | (_, Some(Signal::Terminate)) => Signal::Terminate,
                _ => Signal::Interrupt,
            }),
            Error::Interrupted { source, .. } => Self::of_error(source, signal),
            Error::GateHolds { verdict, .. } => match verdict {
                // A hold without a reason in the verdict is no success.
                Verdict::Ok => Self::Failure(Class::NotPermitted),
                verdict => Self::of_verdict(*verdict),
            },
            Error::Unfit { .. } | Error::WentBack { class: None, .. } => Self::Crit,
            _ if disk_is_full(error) => Self::Failure(Class::Internal),
            Error::File { source, .. } => Self::Failure(match source.kind() {
                io::ErrorKind::NotFound => Class::NotFound,
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::InvalidData => Class::BadInput,
                _ => Class::Internal,
            }),
            other => Self::Failure(other.class()),
        }
    }

    /// The word for it in JSON: the class of a failure, or what else it was.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Crit => "crit",
            Self::Inconclusive => "inconclusive",
            Self::Signal(_) => "stopped",
            Self::Failure(class) => match class {
                Class::Usage => "usage",
                Class::BadInput => "bad-input",
                Class::NotFound => "not-found",
                Class::Unavailable => "unavailable",
                Class::Internal => "internal",
                Class::Integrity => "integrity",
                Class::Busy => "busy",
                Class::NotPermitted => "not-permitted",
            },
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Whether the cause at the bottom is a disk, quota or inode table that is full.
pub fn disk_is_full(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return true;
            }
            if let Some(inner) = io.get_ref()
                && disk_is_full(inner)
            {
                return true;
            }
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::git::GitError;

    fn file(kind: io::ErrorKind) -> Error {
        Error::File { action: "write", path: "a".into(), source: kind.into() }
    }

    fn release() -> domain::ReleaseName {
        "wine@1.2.0".parse().unwrap()
    }

    fn interrupted(source: Error) -> Error {
        Error::Interrupted {
            release: release(),
            environment: "staging".into(),
            step: "start".into(),
            serving: "wine@1.1.0 was left serving".into(),
            source: Box::new(source),
        }
    }

    fn went_back(class: Option<Class>) -> Error {
        Error::WentBack {
            release: release(),
            environment: "staging".into(),
            failure: "it is not healthy".into(),
            serving: "wine@1.1.0 serves again".into(),
            class,
        }
    }

    fn holds(verdict: Verdict) -> Error {
        Error::GateHolds {
            release: release(),
            environment: "staging".into(),
            verdict,
            why: String::new(),
            gates: vec![],
        }
    }

    fn code(error: &Error) -> u8 {
        Exit::of_error(error, None).code()
    }

    #[test]
    fn every_class_has_the_code_of_the_design() {
        let table = [
            (Class::Usage, 64),
            (Class::BadInput, 65),
            (Class::NotFound, 66),
            (Class::Unavailable, 69),
            (Class::Internal, 70),
            (Class::Integrity, 73),
            (Class::Busy, 75),
            (Class::NotPermitted, 77),
        ];
        for (class, code) in table {
            assert_eq!(Exit::Failure(class).code(), code, "{class:?}");
        }
        assert_eq!([Exit::Ok, Exit::Warn, Exit::Crit, Exit::Inconclusive].map(Exit::code), [0, 1, 2, 3]);
        assert_eq!([Signal::Interrupt, Signal::Terminate].map(|s| Exit::Signal(s).code()), [130, 143]);
    }

    #[test]
    fn every_kind_of_error_has_its_code() {
        let message = String::new;
        let table = [
            (Error::NoWorkspace { start: "/".into() }, 66),
            (Error::Config { problems: domain::config::Problems { file: message(), list: vec![] } }, 65),
            (Error::Unknown(domain::names::Unknown::new("release", "x", ["y"])), 66),
            (Error::Usage { message: message() }, 64),
            (Error::Git(GitError::NoGit), 69),
            (Error::Git(GitError::NoRepository { path: "/".into() }), 66),
            (Error::Git(GitError::NoCommit { path: "/".into() }), 65),
            (Error::Git(GitError::Failed { command: message(), message: message() }), 70),
            (Error::BadInput { message: message(), next: None }, 65),
            (Error::NotFound { message: message(), next: None }, 66),
            (Error::NotPermitted { message: message(), next: None }, 77),
            (Error::Integrity { message: message() }, 73),
            (Error::Drift { release: release(), differences: vec![], legal: semver::Version::new(1, 2, 1) }, 73),
            (
                Error::TakenElsewhere {
                    release: release(),
                    repository: "r".into(),
                    tag: "1.2.0".into(),
                    is: "sha256:0".into(),
                    wanted: domain::Digest::of("x"),
                },
                73,
            ),
            (Error::Stale { environment: message(), what: message() }, 75),
            (went_back(None), 2),
            (went_back(Some(Class::NotFound)), 66),
            (went_back(Some(Class::Integrity)), 73),
            (Error::Unfit { release: release(), why: message() }, 2),
            (interrupted(file(io::ErrorKind::TimedOut)), 70),
            (interrupted(Error::Integrity { message: message() }), 73),
            (holds(Verdict::Ok), 77),
            (holds(Verdict::Warn), 1),
            (holds(Verdict::Crit), 2),
            (holds(Verdict::Inconclusive), 3),
            (Error::Command { what: message(), how: message(), tail: vec![] }, 65),
            (file(io::ErrorKind::NotFound), 66),
            (file(io::ErrorKind::PermissionDenied), 65),
            (file(io::ErrorKind::Other), 70),
            (Error::Stopped { signal: "SIGINT" }, 130),
            (Error::Stopped { signal: "SIGTERM" }, 143),
        ];
        for (error, wanted) in table {
            assert_eq!(code(&error), wanted, "{error:?}");
        }
    }

    #[test]
    fn refusals_are_busy_or_not_permitted() {
        use domain::plan::Refusal;
        let name = |text: &str| domain::Name::new(text).unwrap();
        let open = Refusal::Open { environment: name("staging"), op: "1".into() };
        let only = Refusal::OnlyByPromotion { environment: name("production"), after: name("staging") };
        let older = Refusal::Older { environment: name("staging"), serving: release(), release: release() };
        assert_eq!([open, only, older].map(|refusal| code(&refusal.into())), [75, 77, 77]);
    }

    #[test]
    fn a_stop_without_a_name_takes_the_signal_that_came() {
        let stopped = interrupted(Error::Stopped { signal: "a signal" });
        assert_eq!(Exit::of_error(&stopped, Some(Signal::Terminate)).code(), 143);
        assert_eq!(Exit::of_error(&stopped, Some(Signal::Interrupt)).code(), 130);
    }

    #[test]
    fn a_full_disk_is_internal_wherever_it_lies() {
        let full = || io::Error::from_raw_os_error(28);
        assert_eq!(code(&Error::File { action: "write", path: "a".into(), source: full() }), 70);
        assert_eq!(code(&Error::File { action: "write", path: "a".into(), source: io::Error::other(full()) }), 70);
        let quota = Error::File { action: "write", path: "a".into(), source: io::Error::from_raw_os_error(122) };
        assert!(disk_is_full(&interrupted(quota)));
        assert!(!disk_is_full(&file(io::ErrorKind::NotFound)));
    }
}

//! What is wrong with a configuration file, all of it at once.

use crate::Class;
use std::fmt;

/// One thing that is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key path, for example `component.wine.run.port`; empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong and what would be right, in a sentence. It never quotes a value that may be a secret.
    pub message: String,
}

/// Everything that is wrong with a configuration file, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize)]
pub struct Problems {
    /// The file, as it was named to [`super::parse`].
    pub file: String,
    /// The problems by line and column.
    pub list: Vec<Problem>,
}

impl Problems {
    /// A wrong file is bad input (65).
    pub fn class(&self) -> Class {
        Class::BadInput
    }
}

impl fmt::Display for Problems {
    /// One line a problem: `Sealift.toml:12:3: component.wine.run.port: must be …`, which editors turn into links.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{}:{}: ", self.file, problem.line, problem.column)?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

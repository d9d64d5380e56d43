//! Names of components, environments, data sets, models and gates, and of releases.

use crate::near;
use semver::Version;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Borrow, fmt, str::FromStr};

/// The name of a component, environment, data set, model, gate or key: 1 to 63 characters of
/// `a-z 0-9 - _ .`, beginning with a letter or digit. So it is a legal part of a store key, of a
/// container's name and of an image tag, and never a path that leads elsewhere.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// Text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a name: use 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit")]
pub struct BadName {
    /// What was given, cut to 80 characters.
    pub text: String,
}

impl Name {
    /// Checks the text.
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if starts && text.len() <= 63 && text.chars().all(legal) && !text.contains("..") {
            Ok(Self(text))
        } else {
            Err(BadName { text: text.chars().take(80).collect() })
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl FromStr for Name {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::new(text)
    }
}
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The name of a release: `component@version`, the version SemVer 2.0.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ReleaseName {
    /// The component that is released.
    pub component: Name,
    /// Its version.
    pub version: Version,
}

/// Text that names no release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} does not name a release: write COMPONENT@VERSION, for example wine@1.2.0")]
pub struct BadReleaseName {
    /// What was given.
    pub text: String,
}

impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}@{}", self.component, self.version))
    }
}
impl FromStr for ReleaseName {
    type Err = BadReleaseName;
    fn from_str(text: &str) -> Result<Self, BadReleaseName> {
        let bad = || BadReleaseName { text: text.chars().take(80).collect() };
        let (component, version) = text.split_once('@').ok_or_else(bad)?;
        let version = version.strip_prefix('v').unwrap_or(version);
        Ok(Self { component: component.parse().map_err(|_| bad())?, version: version.parse().map_err(|_| bad())? })
    }
}
impl Serialize for ReleaseName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for ReleaseName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A name that was asked for and is not there, with those that are close to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} {name:?}{}", near::sentence(.near, .known))]
pub struct Unknown {
    /// What sort of thing: component, environment, release, …
    pub kind: &'static str,
    /// What was asked for.
    pub name: String,
    /// Close matches, best first.
    pub near: Vec<String>,
    /// All that exist, at most ten.
    pub known: Vec<String>,
}

impl Unknown {
    /// Looks for near matches among `known`.
    pub fn new<S: AsRef<str>>(kind: &'static str, name: &str, known: impl IntoIterator<Item = S>) -> Self {
        let known: Vec<String> = known.into_iter().map(|k| k.as_ref().to_owned()).collect();
        let near = near::matches(name, known.iter().map(String::as_str));
        Self { kind, name: name.to_owned(), near, known: known.into_iter().take(10).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_keys_and_paths() {
        for good in ["wine", "a", "9x", "my-api_2.x"] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "A", "a b", "..", "a..b", "ä", &"x".repeat(64)] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_release_is_component_at_version() {
        let name: ReleaseName = "wine@1.2.0-rc.1".parse().unwrap();
        assert_eq!(name.to_string(), "wine@1.2.0-rc.1");
        assert_eq!("wine@v1.2.0".parse::<ReleaseName>().unwrap().to_string(), "wine@1.2.0");
        assert!("wine".parse::<ReleaseName>().is_err());
        assert!("wine@1.2".parse::<ReleaseName>().is_err());
    }

    #[test]
    fn an_unknown_name_offers_the_near_ones() {
        let unknown = Unknown::new("environment", "stagign", ["staging", "production"]);
        assert_eq!(unknown.to_string(), r#"there is no environment "stagign"; did you mean staging?"#);
        let unknown = Unknown::new("environment", "qa", ["staging", "production"]);
        assert_eq!(unknown.to_string(), r#"there is no environment "qa"; there are staging, production"#);
    }
}

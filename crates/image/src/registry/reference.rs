//! Names of repositories, as Docker reads them.

use crate::error::{Error, Result};

/// The host that serves Docker Hub's repositories.
const HUB: &str = "registry-1.docker.io";

/// A repository at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// The host, with a port if one was written.
    pub(crate) host: String,
    /// The path there.
    pub(crate) path: String,
}

impl Repository {
    /// Reads `registry.example/team/wine`; without a host it is one of Docker Hub.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let hint = "write REGISTRY/PATH without a tag, for example registry.example/team/wine";
        let bad = |why: &str| Error::bad_with(format!("{text:?} is not a repository: {why}"), hint);
        let last = text.rsplit('/').next().unwrap_or_default();
        if text.contains('@') || (last.contains(':') && text.contains('/')) {
            return Err(bad("it has a tag or a digest"));
        }
        let (host, path) = match text.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path.to_owned()),
            Some(_) => (HUB, text.to_owned()),
            None => (HUB, format!("library/{text}")),
        };
        let host = if matches!(host, "docker.io" | "index.docker.io") { HUB } else { host };
        if !is_well_formed_host(host) {
            return Err(bad("its host is not one"));
        }
        if path.len() > 255 || !path.split('/').all(is_component) {
            return Err(bad("its path is made of lower-case letters, digits, and single separators between them"));
        }
        let path = if host == HUB && !path.contains('/') { format!("library/{path}") } else { path };
        Ok(Self { host: host.to_owned(), path })
    }

    /// Whether both are the same repository. Hosts have no letter case.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(&other.host) && self.path == other.path
    }

    /// Whether the host is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let (name, _) = host_and_port(&self.host);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// An image under its full name, as engines keep it: `docker.io/library/wine:1.2.0`, and whether it was written with a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageName {
    /// Registry and path; Docker Hub is `docker.io`.
    pub(crate) name: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

impl ImageName {
    /// Reads `[REGISTRY/]PATH[:TAG][@DIGEST]`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (repository, tag) = match rest[slash..].find(':') {
            Some(colon) => (&rest[..slash + colon], Some(rest[slash + colon + 1..].to_owned())),
            None => (rest, None),
        };
        let bad = |why: &str| Error::bad(format!("{text:?} names no image: {why}"));
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("its tag is none"));
        }
        if digest.as_deref().is_some_and(|digest| digest.parse::<domain::Digest>().is_err()) {
            return Err(bad("its digest is none"));
        }
        let Repository { host, path } = Repository::parse(repository)?;
        let host = if host == HUB { "docker.io" } else { &host };
        Ok(Self { name: format!("{host}/{path}"), tag, digest })
    }
}

/// Docker's rule: what has a dot or a port, or is this machine, is a host.
fn is_host(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost"
}

/// The colons of an IPv6 address are not that of a port.
fn host_and_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

fn is_well_formed_host(host: &str) -> bool {
    let letters = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
    };
    let (name, port) = host_and_port(host);
    let name_holds = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => letters(name),
    };
    name_holds && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, as the distribution specification has it.
fn is_component(text: &str) -> bool {
    let mut separator = String::new();
    for letter in text.chars() {
        match letter {
            'a'..='z' | '0'..='9' => separator.clear(),
            '.' | '_' | '-' => {
                separator.push(letter);
                let fits = matches!(separator.as_str(), "." | "_" | "__") || separator.chars().all(|c| c == '-');
                if !fits {
                    return false;
                }
            }
            _ => return false,
        }
    }
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    edge(text.bytes().next()) && edge(text.bytes().last())
}

/// Whether a text can be a tag: letters, digits, `_`, `.`, `-`, at most 128, not beginning with a separator.
pub(crate) fn is_tag(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(letter)
        && text.bytes().all(|byte| letter(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Class;

    #[test]
    fn repositories_are_read_as_docker_reads_them() {
        for (text, host, path) in [
            ("127.0.0.1:5000/team/wine", "127.0.0.1:5000", "team/wine"),
            ("localhost/wine", "localhost", "wine"),
            ("[::1]:5000/wine", "[::1]:5000", "wine"),
            ("wine", HUB, "library/wine"),
            ("docker.io/wine", HUB, "library/wine"),
            ("team/wine", HUB, "team/wine"),
            ("reg.example/a/b-c/d__e/f.g/h--i", "reg.example", "a/b-c/d__e/f.g/h--i"),
        ] {
            let parsed = Repository::parse(text).unwrap();
            assert_eq!((parsed.host.as_str(), parsed.path.as_str()), (host, path), "{text}");
        }
        for (one, other, same) in [
            ("Reg.Example:5000/wine", "reg.example:5000/wine", true),
            ("docker.io/library/wine", "wine", true),
            ("reg.example/wine", "reg.example/beer", false),
            ("reg.example/wine", "reg.example:5000/wine", false),
            ("no repository", "no repository", true),
            ("no repository", "wine", false),
        ] {
            let destination = crate::registry::Destination { repository: one.to_owned(), insecure: false };
            assert_eq!(destination.is_at(other), same, "{one} {other}");
        }
        for bad in [
            "127.0.0.1:5000/wine:1.0.0",
            "reg.example/wine@sha256:00",
            "Reg/UPPER",
            "",
            "reg.example/",
            "reg.example/../wine",
            "reg.example/a//b",
            "reg.example:0/a",
            "reg.example:99999/a",
            "user@reg.example/a",
            "reg.example/a_-b",
            "reg.example/-a",
            "reg.example/a?x=y",
            "reg.exa mple/a",
            "[::g]:80/a",
        ] {
            let error = Repository::parse(bad).unwrap_err();
            assert_eq!(error.class(), Class::BadInput, "{bad}");
        }
        assert!(Repository::parse("127.0.0.1:1/a").unwrap().is_loopback());
        assert!(Repository::parse("[::1]/a").unwrap().is_loopback());
        assert!(!Repository::parse("10.0.0.1:1/a").unwrap().is_loopback());
    }

    #[test]
    fn images_get_their_full_name() {
        let digest = domain::Digest::of(b"x").to_string();
        for (text, name, tag) in [
            ("wine:1.2.0", "docker.io/library/wine", Some("1.2.0")),
            ("team/wine", "docker.io/team/wine", None),
            ("reg.example:5000/team/wine:1", "reg.example:5000/team/wine", Some("1")),
            ("reg.example:5000/wine", "reg.example:5000/wine", None),
        ] {
            let parsed = ImageName::parse(text).unwrap();
            assert_eq!((parsed.name.as_str(), parsed.tag.as_deref(), parsed.digest), (name, tag, None), "{text}");
            let pinned = ImageName::parse(&format!("{text}@{digest}")).unwrap();
            assert_eq!((pinned.name.as_str(), pinned.digest.as_deref()), (name, Some(digest.as_str())));
        }
        for bad in ["", "wine:", "wine:a:b", "wine@sha256:12", "UPPER:1", "a b:1"] {
            assert!(ImageName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_told_from_other_text() {
        assert!(is_tag("1.2.0") && is_tag("latest") && is_tag("_x-1"));
        assert!(!is_tag("") && !is_tag(".x") && !is_tag("a/b") && !is_tag("a+b") && !is_tag(&"a".repeat(129)));
    }
}

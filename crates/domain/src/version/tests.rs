//! Golden tests: each kind of file, read, set and compared to the byte.

use super::*;
use proptest::prelude::*;

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// Reads the version, sets another, and compares the whole new text.
#[track_caller]
fn golden(path: &str, pattern: Option<&str>, text: &str, line: usize, old: &str, new: &str, after: &str) {
    let file = VersionFile::new(path, pattern).unwrap();
    let found = file.read(text).unwrap();
    assert_eq!((found.line, found.version), (line, version(old)));
    assert_eq!(file.set(text, &version(new)).unwrap(), after);
    assert_eq!(file.set(text, &version(old)).unwrap(), text, "the same version again changes nothing");
}

#[track_caller]
fn refused(path: &str, text: &str) -> String {
    VersionFile::new(path, None).unwrap().read(text).unwrap_err().to_string()
}

#[test]
fn cargo_toml() {
    let text = "# ours\n[package]\nname = \"wine\"   # keep\nversion = \"1.2.0\" # this\n\n[dependencies]\nx = { version = \"1.2.0\" }\n";
    let after = text.replace("\"1.2.0\" # this", "\"1.3.0-rc.1\" # this");
    golden("api/Cargo.toml", None, text, 4, "1.2.0", "1.3.0-rc.1", &after);
    let text = "[workspace.package]\nversion = '0.9.1'\n[package]\nversion.workspace = true\n";
    golden("Cargo.toml", None, text, 2, "0.9.1", "1.0.0", &text.replace("0.9.1", "1.0.0"));
    assert_eq!(
        refused("api/Cargo.toml", "[package]\nversion = { workspace = true }\n"),
        "api/Cargo.toml:2 takes its version from the workspace: name the workspace's Cargo.toml instead"
    );
    assert_eq!(
        refused("Cargo.toml", "[package]\nname = 'x'\n"),
        "Cargo.toml has no package.version or workspace.package.version"
    );
    assert!(refused("Cargo.toml", "[package]\nversion = 3\n").contains("Cargo.toml:2 has a version that is no string"));
    assert!(refused("Cargo.toml", "[package]\nversion = \n").starts_with("Cargo.toml:2 cannot be read: "));
    assert!(refused("Cargo.toml", "[package]\nversion = \"1.2\\u002e0\"\n").contains("unusual way"));
    assert_eq!(
        refused("Cargo.toml", "[package]\nversion = \"1.0.0\"\n[workspace.package]\nversion = \"2.0.0\"\n"),
        "the version files disagree: Cargo.toml:2 says 1.0.0, Cargo.toml:4 says 2.0.0"
    );
}

#[test]
fn pyproject() {
    let text = "[project]\r\nname = \"svc\"\r\nversion = \"1.2.0rc1\"\r\n";
    golden("pyproject.toml", None, text, 3, "1.2.0-rc.1", "1.2.0", &text.replace("1.2.0rc1", "1.2.0"));
    let text = "[tool.poetry]\nversion = \"1.2\"\n";
    let file = VersionFile::new("pyproject.toml", None).unwrap();
    assert_eq!(file.read(text).unwrap().version, version("1.2.0"));
    assert_eq!(file.set(text, &version("1.3.0-beta.2")).unwrap(), "[tool.poetry]\nversion = \"1.3.0b2\"\n");
    assert_eq!(
        file.set(text, &version("1.3.0-nightly.2")).unwrap_err().to_string(),
        "pyproject.toml cannot say 1.3.0-nightly.2: PEP 440 has alpha, beta, rc and dev, but no \"nightly\""
    );
    assert_eq!(
        refused("pyproject.toml", "[project]\ndynamic = [\"version\"]\n"),
        "pyproject.toml:2 says that the version is dynamic: name the file that it is taken from instead"
    );
    assert!(refused("pyproject.toml", "[build-system]\n").contains("has no project.version"));
}

#[test]
fn package_json() {
    let text = "{\n  \"dependencies\": {\"version\": \"9.9.9\", \"a\\\"b\": [\"version\"]},\n  \"x\": \"version\",\n  \"version\" : \"1.2.0\",\n  \"y\": 1\n}\n";
    golden("web/package.json", None, text, 4, "1.2.0", "2.0.0", &text.replace("\"1.2.0\"", "\"2.0.0\""));
    assert_eq!(refused("package.json", "{\"name\": \"x\"}"), "package.json has no \"version\"");
    assert!(refused("package.json", "{\n\"version\": }").starts_with("package.json:2 cannot be read"));
    assert!(refused("package.json", "{\"version\": \"latest\"}").contains("says \"latest\", which is no version"));
}

#[test]
fn python_source() {
    let text = "\"\"\"A service.\"\"\"\nfrom . import x\n__version__: str = '1.2.0.dev3'\n__all__ = []\n";
    golden("svc/__init__.py", None, text, 3, "1.2.0-dev.3", "1.2.0", &text.replace(".dev3", ""));
    assert!(refused("svc/__init__.py", "version = '1'\n").contains("has no __version__"));
}

#[test]
fn dockerfile_label() {
    let text = "FROM scratch\n# LABEL version=0.0.1\nLABEL description=\"the version=9 of it\" \\\n      # between\n      version=\"1.2.0\" maintainer=me\nRUN echo LABEL version=3\n";
    golden("Dockerfile", None, text, 5, "1.2.0", "1.2.1", &text.replace("\"1.2.0\"", "\"1.2.1\""));
    let text = "FROM a\nlabel org.opencontainers.image.version=v1.0.0-rc.1\n";
    golden("docker/Dockerfile.api", None, text, 2, "1.0.0-rc.1", "1.0.0", &text.replace("-rc.1", ""));
    golden("Dockerfile", None, "FROM a\nLABEL version 1.0.0", 2, "1.0.0", "1.1.0", "FROM a\nLABEL version 1.1.0");
    let variable = refused("Dockerfile", "ARG VERSION=1.0.0\nLABEL version=\"${VERSION}\"\n");
    assert!(variable.starts_with("Dockerfile:2 takes the version from a variable"), "{variable}");
    assert_eq!(refused("Dockerfile", "FROM a\n"), "Dockerfile has no LABEL version");
}

#[test]
fn plain_and_patterns() {
    golden("VERSION", None, "v1.0.0\n", 1, "1.0.0", "1.0.1", "v1.0.1\n");
    let pattern = Some(r"^\s*image: api:(\S+)$");
    let text = "a:\n  image: api:1.0.0\nb:\n  image: api:1.0.0\n";
    golden("compose.yml", pattern, text, 2, "1.0.0", "1.1.0", &text.replace("1.0.0", "1.1.0"));
    let file = VersionFile::new("compose.yml", pattern).unwrap();
    let error = file.read(&text.replacen("1.0.0", "1.0.1", 1)).unwrap_err().to_string();
    assert_eq!(error, "the version files disagree: compose.yml:2 says 1.0.1, compose.yml:4 says 1.0.0");
    assert!(file.read("nothing").unwrap_err().to_string().starts_with("compose.yml has no match for"));
    assert_eq!(
        VersionFile::new("compose.yml", None).unwrap_err().to_string(),
        "compose.yml is no file whose version Sealift knows to find: give it a pattern with one group"
    );
    for (pattern, why) in [("a(b)(c)", "has 2 groups"), ("abc", "has 0 groups"), ("a(", "no regular expression")] {
        assert!(VersionFile::new("x", Some(pattern)).unwrap_err().to_string().contains(why));
    }
}

#[test]
fn kinds_follow_from_names() {
    assert_eq!(detect_kind("a/b/Cargo.toml"), Some(VersionKind::CargoToml));
    assert_eq!(detect_kind("svc/api.Dockerfile"), Some(VersionKind::Dockerfile));
    assert_eq!(detect_kind("Containerfile"), Some(VersionKind::Dockerfile));
    assert_eq!(detect_kind("src/_version.py"), Some(VersionKind::Python));
    assert_eq!(detect_kind("Dockerfiles"), None);
    assert_eq!(detect_kind("chart/values.yaml"), None);
}

#[test]
fn pep_440_becomes_semver_or_is_refused() {
    for (python, semver) in [
        ("1.2.0", "1.2.0"),
        ("1.2", "1.2.0"),
        ("2024.01.15", "2024.1.15"),
        ("1.2.0a1", "1.2.0-alpha.1"),
        ("1.2.0.beta2", "1.2.0-beta.2"),
        ("1.2.0-RC3", "1.2.0-rc.3"),
        ("1.2.0c3", "1.2.0-rc.3"),
        ("1.2.0rc", "1.2.0-rc.0"),
        ("1.2.0rc1.dev4", "1.2.0-rc.1.dev.4"),
        ("1.2.0+ubuntu.1", "1.2.0+ubuntu.1"),
        ("v1.2.0-rc.1", "1.2.0-rc.1"),
        ("1.2.0-nightly.3", "1.2.0-nightly.3"),
    ] {
        assert_eq!(parse(python, true), Ok(version(semver)), "{python}");
    }
    for (python, why) in [
        ("1!1.0", "epochs"),
        ("1.0.post1", "post-releases"),
        ("1.2.0-1", "post-releases"),
        ("1.2.3.4", "three components"),
        ("99999999999999999999", "too large"),
        ("latest", "write MAJOR.MINOR.PATCH"),
        ("", "write MAJOR.MINOR.PATCH"),
    ] {
        let error = parse(python, true).unwrap_err();
        assert!(error.contains(why), "{python}: {error}");
    }
    // Outside Python SemVer has the word.
    assert_eq!(parse("1.2.0-rc1", false), Ok(version("1.2.0-rc1")));
    assert_eq!(parse("1.2.0rc1", false), Ok(version("1.2.0-rc.1")));
}

#[test]
fn disagreement_names_every_place() {
    let found = |path: &str, line, text: &str| Found { path: path.to_owned(), line, version: version(text) };
    let files = [found("pyproject.toml", 3, "1.2.0"), found("svc/__init__.py", 1, "1.2.0")];
    assert_eq!(agree(&files), Ok(version("1.2.0")));
    let files = [&files[..], &[found("Dockerfile", 7, "1.1.0")]].concat();
    let error = agree(&files).unwrap_err();
    assert_eq!(error.class(), Class::BadInput);
    assert_eq!(
        error.to_string(),
        "the version files disagree: pyproject.toml:3 says 1.2.0, svc/__init__.py:1 says 1.2.0, Dockerfile:7 says 1.1.0"
    );
    assert_eq!(agree(&[]).unwrap_err().to_string(), "no file bears the version");
}

#[test]
fn bumps() {
    for (old, prerelease, patch, minor, major) in [
        ("1.2.3", "1.2.4-rc.1", "1.2.4", "1.3.0", "2.0.0"),
        ("1.2.4-rc.1", "1.2.4-rc.2", "1.2.4", "1.3.0", "2.0.0"),
        ("1.3.0-beta", "1.3.0-beta.1", "1.3.0", "1.3.0", "2.0.0"),
        ("2.0.0-7", "2.0.0-8", "2.0.0", "2.0.0", "2.0.0"),
        ("1.2.3+linux", "1.2.4-rc.1", "1.2.4", "1.3.0", "2.0.0"),
    ] {
        let old = version(old);
        for (bump, new) in
            [(Bump::Prerelease, prerelease), (Bump::Patch, patch), (Bump::Minor, minor), (Bump::Major, major)]
        {
            assert_eq!(bump.apply(&old), version(new), "{old} {bump:?}");
            assert!(bump.apply(&old).cmp_precedence(&old).is_gt());
        }
    }
    assert!(Bump::Major > Bump::Minor && Bump::Minor > Bump::Patch);
}

proptest! {
    #[test]
    fn no_text_makes_it_fall_over(text in "(LABEL|version|[=\"'\\\\ \n{}:,#é1.])*") {
        for path in ["Cargo.toml", "pyproject.toml", "package.json", "a.py", "Dockerfile", "VERSION"] {
            let file = VersionFile::new(path, None).unwrap();
            if file.read(&text).is_ok() {
                let new = file.set(&text, &Version::new(7, 8, 9)).unwrap();
                prop_assert_eq!(file.read(&new).unwrap().version, Version::new(7, 8, 9));
            }
        }
    }

    #[test]
    fn pep_440_and_back(major in 0..99_u64, phase in 0..4_usize, number in 0..99_u64) {
        let pre = Prerelease::new(&format!("{}.{number}", ["alpha", "beta", "rc", "dev"][phase])).unwrap();
        let original = Version { pre, ..Version::new(major, 2, 3) };
        prop_assert_eq!(parse_pep440(&pep440(&original).unwrap()), Ok(original));
    }
}

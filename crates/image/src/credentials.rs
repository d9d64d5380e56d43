//! Credentials for registries, from where `docker login` puts them: `config.json` and its credential helpers.
//!
//! No secret is in a message, a log or the argument of a program: parsers name the line, helpers are told only the registry, and
//! [`Login`] shows no more than its kind. Something that is configured and cannot be read is an error, never an anonymous request.

use crate::error::{Error, Result};
use base64::Engine as _;
use domain::Class;
use serde::Deserialize;
use std::{
    collections::HashMap,
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command};

const HUB: &str = "https://index.docker.io/v1/";
/// How long a credential helper may take, for example to ask its user.
pub(crate) const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// The user name under which a helper hands out an identity token.
const TOKEN_USER: &str = "<token>";

/// What to log in with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// Nothing is known.
    Anonymous,
    /// A user name and a password or access token.
    Basic(String, String),
    /// A refresh token (`identitytoken`), which is exchanged at the registry's token server.
    Identity(String),
    /// A token for the registry itself (`registrytoken`).
    Bearer(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous",
            Self::Basic(..) => "basic (hidden)",
            Self::Identity(_) => "identity token (hidden)",
            Self::Bearer(_) => "bearer token (hidden)",
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FromHelper {
    username: String,
    secret: String,
}

/// Docker's configuration folder: `DOCKER_CONFIG`, or `.docker` in the home folder.
pub(crate) fn default_folder() -> Option<PathBuf> {
    let chosen = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    chosen.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")))
}

/// What to log in to `registry` with. Nothing known is anonymous; something known that cannot be read is an error.
/// `helpers` is where credential helpers are, if not in `PATH`; each has `patience` to answer.
pub(crate) async fn find(
    folder: Option<&Path>,
    helpers: Option<&Path>,
    patience: Duration,
    registry: &str,
) -> Result<Login> {
    let Some(path) = folder.map(|folder| folder.join("config.json")) else {
        return Ok(Login::Anonymous);
    };
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Login::Anonymous),
        other => other.map_err(Error::file("read", &path))?,
    };
    let config = parse(&bytes).map_err(|why| Error::bad(format!("{} {why}", path.display())))?;
    let names = names(registry);
    for name in &names {
        let helper = config.cred_helpers.get(name).or(config.creds_store.as_ref());
        // Docker writes an empty name where there is no helper.
        let helper = helper.filter(|helper| !helper.is_empty());
        if let Some(helper) = helper
            && let Some(found) = ask(helper, helpers, patience, name).await?
        {
            return Ok(match found.username.as_str() {
                TOKEN_USER => Login::Identity(found.secret),
                _ => Login::Basic(found.username, found.secret),
            });
        }
    }
    let found = names.iter().find_map(|name| config.auths.get(name));
    let decoded = found.map_or(Ok(Login::Anonymous), decode);
    decoded.map_err(|()| {
        Error::bad_with(
            format!("the entry for {registry} in {} is not understood", path.display()),
            format!("docker login {registry}"),
        )
    })
}

/// Reads `config.json`. The reason holds no content: the parser's own message could quote a password.
fn parse(bytes: &[u8]) -> Result<DockerConfig, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("line {} is not understood", error.line()))
}

/// Whether the bytes are a `config.json` all of whose entries are understood.
#[allow(dead_code, reason = "an entry for fuzzing")]
pub(crate) fn understood(bytes: &[u8]) -> bool {
    parse(bytes).is_ok_and(|config| config.auths.values().all(|auth| decode(auth).is_ok()))
}

/// The keys under which a registry may stand.
fn names(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned(), format!("https://{registry}"), format!("http://{registry}")];
    if matches!(registry, "index.docker.io" | "docker.io" | "registry-1.docker.io") {
        names.insert(0, HUB.to_owned());
        names.push("docker.io".to_owned());
    }
    names
}

fn decode(auth: &Auth) -> Result<Login, ()> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(token) = given(&auth.registrytoken) {
        return Ok(Login::Bearer(token));
    }
    if let Some(token) = given(&auth.identitytoken) {
        return Ok(Login::Identity(token));
    }
    if let (Some(username), Some(password)) = (&auth.username, &auth.password) {
        return Ok(Login::Basic(username.clone(), password.clone()));
    }
    let Some(encoded) = given(&auth.auth) else {
        return Ok(Login::Anonymous);
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
    let text = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(())?;
    let (username, password) = text.split_once(':').ok_or(())?;
    Ok(Login::Basic(username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// Asks `docker-credential-<helper>`; `None` when it knows nothing.
async fn ask(helper: &str, helpers: Option<&Path>, patience: Duration, registry: &str) -> Result<Option<FromHelper>> {
    let failed = |cause: String| Error::Registry {
        action: format!("ask the credential helper {helper:?}"),
        reference: registry.to_owned(),
        cause,
        class: Class::NotPermitted,
    };
    let name = format!("docker-credential-{helper}");
    if helper.contains('/') {
        return Err(failed("its name holds a slash".to_owned()));
    }
    let program = helpers.map_or_else(|| PathBuf::from(&name), |folder| folder.join(&name));
    let mut command = Command::new(&program);
    // A group of its own: what a helper that hangs has started ends with it.
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(format!("{name}: {error}")))?;
    let mut group = Group(child.id());
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without reading; its answer counts.
        drop(stdin.write_all(registry.as_bytes()).await);
    }
    let output = tokio::time::timeout(patience, child.wait_with_output()).await;
    if output.is_ok() {
        // It has ended, and its number may belong to somebody else by now.
        group.0 = None;
    }
    drop(group);
    let output = output
        .map_err(|_| failed(format!("it did not answer within {} s", patience.as_secs_f32())))?
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("{name} ended with {}", output.status)));
    }
    let answer: FromHelper =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("its answer is not understood".to_owned()))?;
    Ok(Some(answer))
}

/// The process group of a helper; killed when this is dropped, also by a caller who is cancelled.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // Nothing left of it is as good.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, time::Instant};

    const SCRIPT: &str = "#!/bin/sh
read -r name
case $name in
 known*) echo '{\"Username\":\"u\",\"Secret\":\"s\"}';;
 token*) echo '{\"Username\":\"<token>\",\"Secret\":\"refresh\"}';;
 broken*) exit 3;;
 babble*) echo 'hunter2';;
 hang*) sleep 600 & echo $! > \"$(dirname \"$0\")/left\"; wait;;
 *) echo 'credentials not found in native keychain'; exit 1;;
esac
";

    fn folder(config: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let helper = folder.path().join("docker-credential-test");
        std::fs::write(&helper, SCRIPT).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    async fn found(config: &str, registry: &str) -> Result<Login> {
        let folder = folder(config);
        find(Some(folder.path()), Some(folder.path()), HELPER_TIMEOUT, registry).await
    }

    #[tokio::test]
    async fn credentials_come_from_the_file_and_from_helpers() {
        let basic = |user: &str, secret: &str| Login::Basic(user.to_owned(), secret.to_owned());
        // "me:pass:word"
        let auths = r#"{"auths":{"reg.example:5000":{"auth":"bWU6cGFzczp3b3Jk"},"https://index.docker.io/v1/":{"auth":"bWU6aHVi"},
            "empty.example":{},"id.example":{"auth":"bWU6aHVi","identitytoken":"refresh"},"bearer.example":{"registrytoken":"t"}}}"#;
        assert_eq!(found(auths, "reg.example:5000").await.unwrap(), basic("me", "pass:word"));
        assert_eq!(found(auths, "index.docker.io").await.unwrap(), basic("me", "hub"));
        assert_eq!(found(auths, "registry-1.docker.io").await.unwrap(), basic("me", "hub"));
        assert_eq!(found(auths, "empty.example").await.unwrap(), Login::Anonymous);
        assert_eq!(found(auths, "other.example").await.unwrap(), Login::Anonymous);
        assert_eq!(found(auths, "id.example").await.unwrap(), Login::Identity("refresh".to_owned()));
        assert_eq!(found(auths, "bearer.example").await.unwrap(), Login::Bearer("t".to_owned()));
        let helpers = r#"{"credHelpers":{"known.example":"test","token.example":"test","broken.example":"test",
            "babble.example":"test","gone.example":"missing","slash.example":"../test"}}"#;
        assert_eq!(found(helpers, "known.example").await.unwrap(), basic("u", "s"));
        assert_eq!(found(helpers, "token.example").await.unwrap(), Login::Identity("refresh".to_owned()));
        for registry in ["broken.example", "gone.example", "babble.example", "slash.example"] {
            let error = found(helpers, registry).await.unwrap_err();
            assert_eq!(error.class(), Class::NotPermitted, "{error}");
            assert!(error.to_string().contains(registry) && !error.to_string().contains("hunter2"), "{error}");
        }
        let store = r#"{"credsStore":"test","auths":{"unknown.example":{"auth":"bWU6aHVi"}}}"#;
        assert_eq!(found(store, "known.example").await.unwrap(), basic("u", "s"));
        assert_eq!(found(store, "unknown.example").await.unwrap(), basic("me", "hub"));
        let none = store.replace("\"test\"", "\"\"");
        assert_eq!(found(&none, "unknown.example").await.unwrap(), basic("me", "hub"));
        assert_eq!(found(&none, "known.example").await.unwrap(), Login::Anonymous);
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_given_up_and_leaves_nothing_behind() {
        let folder = folder(r#"{"credsStore":"test"}"#);
        let began = Instant::now();
        let patience = Duration::from_millis(500);
        let error = find(Some(folder.path()), Some(folder.path()), patience, "hang.example").await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(20));
        assert!(error.to_string().contains("did not answer"), "{error}");
        let left = std::fs::read_to_string(folder.path().join("left")).unwrap();
        let status = Path::new("/proc").join(left.trim()).join("stat");
        let deadline = Instant::now() + Duration::from_secs(10);
        // A zombie is dead too: nobody may be there to collect it.
        while std::fs::read_to_string(&status).is_ok_and(|text| !text.contains(") Z ")) {
            assert!(Instant::now() < deadline, "the process that the helper started is still there");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_understood_is_an_error_without_its_content() {
        let error = found(r#"{"auths":{"r":{"auth":"hunter2"#, "r").await.unwrap_err().to_string();
        assert!(error.contains("config.json line 1") && !error.contains("hunter2"), "{error}");
        let error = found(r#"{"auths":{"r":{"auth":"%%hunter2"}}}"#, "r").await.unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(found("{}", "r").await.is_ok());
        assert!(understood(b"{}") && !understood(b"{"));
        let shown = format!("{:?}", Login::Basic("me".to_owned(), "hunter2".to_owned()));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

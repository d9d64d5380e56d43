//! Credentials for registries, from where `docker login` puts them: `config.json` and its credential helpers.

use crate::error::{Error, Result};
use base64::Engine as _;
use domain::Class;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use std::{
    collections::HashMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command};

const HUB: &str = "https://index.docker.io/v1/";
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

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
/// `helpers` is where credential helpers are, if not in `PATH`.
pub(crate) async fn find(folder: Option<&Path>, helpers: Option<&Path>, registry: &str) -> Result<RegistryAuth> {
    let Some(path) = folder.map(|folder| folder.join("config.json")) else {
        return Ok(RegistryAuth::Anonymous);
    };
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
        other => other.map_err(Error::file("read", &path))?,
    };
    // The parser's message could quote a password.
    let config: DockerConfig = serde_json::from_slice(&bytes)
        .map_err(|error| Error::bad(format!("{} line {} is not understood", path.display(), error.line())))?;
    let names = names(registry);
    for name in &names {
        let helper = config.cred_helpers.get(name).or(config.creds_store.as_ref());
        if let Some(helper) = helper
            && let Some(found) = ask(helper, helpers, name).await?
        {
            return Ok(RegistryAuth::Basic(found.username, found.secret));
        }
    }
    let found = names.iter().find_map(|name| config.auths.get(name));
    found.map_or(Ok(RegistryAuth::Anonymous), |auth| decode(auth, registry, &path))
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

fn decode(auth: &Auth, registry: &str, path: &Path) -> Result<RegistryAuth> {
    if let (Some(username), Some(password)) = (&auth.username, &auth.password) {
        return Ok(RegistryAuth::Basic(username.clone(), password.clone()));
    }
    let Some(encoded) = auth.auth.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(RegistryAuth::Anonymous);
    };
    let text =
        base64::engine::general_purpose::STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match text.as_deref().and_then(|text| text.split_once(':')) {
        Some((username, password)) => {
            Ok(RegistryAuth::Basic(username.to_owned(), password.trim_end_matches('\0').to_owned()))
        }
        None => Err(Error::bad_with(
            format!("the entry for {registry} in {} is not understood", path.display()),
            format!("docker login {registry}"),
        )),
    }
}

/// Asks `docker-credential-<helper>`; `None` when it knows nothing.
async fn ask(helper: &str, helpers: Option<&Path>, registry: &str) -> Result<Option<FromHelper>> {
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
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(format!("{name}: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without reading; its answer counts.
        drop(stdin.write_all(registry.as_bytes()).await);
    }
    let output = tokio::time::timeout(HELPER_TIMEOUT, child.wait_with_output()).await;
    let output = output
        .map_err(|_| failed("it did not answer within 30 s".to_owned()))?
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
    if answer.username == "<token>" {
        return Err(failed(
            "it has an identity token, which is not supported; log in with a user name and an access token".to_owned(),
        ));
    }
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn found(config: &str, registry: &str) -> Result<RegistryAuth> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let helper = folder.path().join("docker-credential-test");
        let script = "#!/bin/sh\nread -r name\ncase $name in\n known*) echo '{\"Username\":\"u\",\"Secret\":\"s\"}';;\n token*) echo '{\"Username\":\"<token>\",\"Secret\":\"s\"}';;\n broken*) exit 3;;\n *) echo 'credentials not found in native keychain'; exit 1;;\nesac\n";
        std::fs::write(&helper, script).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        find(Some(folder.path()), Some(folder.path()), registry).await
    }

    #[tokio::test]
    async fn credentials_come_from_the_file_and_from_helpers() {
        let basic = |user: &str, secret: &str| RegistryAuth::Basic(user.to_owned(), secret.to_owned());
        // "me:pass:word"
        let auths = r#"{"auths":{"reg.example:5000":{"auth":"bWU6cGFzczp3b3Jk"},"https://index.docker.io/v1/":{"auth":"bWU6aHVi"},"empty.example":{}}}"#;
        assert_eq!(found(auths, "reg.example:5000").await.unwrap(), basic("me", "pass:word"));
        assert_eq!(found(auths, "index.docker.io").await.unwrap(), basic("me", "hub"));
        assert_eq!(found(auths, "empty.example").await.unwrap(), RegistryAuth::Anonymous);
        assert_eq!(found(auths, "other.example").await.unwrap(), RegistryAuth::Anonymous);
        let helpers = r#"{"credHelpers":{"known.example":"test","token.example":"test","broken.example":"test","gone.example":"missing"}}"#;
        assert_eq!(found(helpers, "known.example").await.unwrap(), basic("u", "s"));
        for registry in ["token.example", "broken.example", "gone.example"] {
            let error = found(helpers, registry).await.unwrap_err();
            assert_eq!(error.class(), Class::NotPermitted, "{error}");
        }
        let store = r#"{"credsStore":"test","auths":{"unknown.example":{"auth":"bWU6aHVi"}}}"#;
        assert_eq!(found(store, "known.example").await.unwrap(), basic("u", "s"));
        assert_eq!(found(store, "unknown.example").await.unwrap(), basic("me", "hub"));
    }

    #[tokio::test]
    async fn a_file_that_is_not_understood_is_an_error_without_its_content() {
        let error = found(r#"{"auths":{"r":{"auth":"hunter2"#, "r").await.unwrap_err().to_string();
        assert!(error.contains("config.json line 1") && !error.contains("hunter2"), "{error}");
        let error = found(r#"{"auths":{"r":{"auth":"%%hunter2"}}}"#, "r").await.unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(found("{}", "r").await.is_ok());
    }
}

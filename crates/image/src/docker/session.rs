//! What the engine may ask of us while it builds: the context, secrets, credentials of registries, and where to put the image.
//!
//! A secret leaves this process here and nowhere else: as the answer to a question of BuildKit's about its name, which it asks for a `RUN` that mounts it.

use super::{
    connection::Transport,
    sending::{self, Sending},
};
use crate::{
    context::Context,
    credentials::{self, HELPER_TIMEOUT, Login},
};
use bollard::{
    health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    moby::{
        buildkit::secrets::v1::{
            GetSecretRequest, GetSecretResponse,
            secrets_server::{Secrets, SecretsServer},
        },
        filesync::v1::{
            BytesMessage as FileMessage, CredentialsRequest, CredentialsResponse, FetchTokenRequest,
            FetchTokenResponse, GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
            VerifyTokenAuthorityResponse,
            auth_server::{Auth, AuthServer},
            file_send_server::{FileSend, FileSendServer},
        },
        upload::v1::{
            BytesMessage,
            upload_server::{Upload, UploadServer},
        },
    },
};
use bytes::Bytes;
use domain::{Events, secret::Secret};
use futures::{Stream, StreamExt as _};
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

/// The most that one message of the engine's may have; BuildKit's own limit.
const LARGEST_MESSAGE: usize = 16 << 20;

/// What the engine is told that it may call.
pub(super) const METHODS: [&str; 4] = [
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.upload.v1.Upload/Pull",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.filesync.v1.FileSend/DiffCopy",
];

/// What the engine is told, and then tells us, when the receiver of the image takes no more of it: why is known only here.
pub(super) const UNWRITTEN: &str = "the image could not be written";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What there is to be asked for.
pub(super) struct Offer {
    pub(super) context: Arc<Context>,
    /// The path under which the context is asked for.
    pub(super) context_path: String,
    pub(super) secrets: BTreeMap<String, Secret>,
    /// Where the image's archive goes, if it is sent to us.
    pub(super) image: Mutex<Option<mpsc::Sender<io::Result<Bytes>>>>,
    pub(super) events: Events,
    /// Counts the pieces of the context and of the image.
    pub(super) moved: Arc<AtomicU64>,
    pub(super) sendings: Mutex<Vec<Sending>>,
}

/// Serves the offer on a connection until it ends.
pub(super) async fn serve(offer: Arc<Offer>, transport: Transport) {
    let server = tonic::transport::Server::builder()
        .add_service(HealthServer::new(Healthy))
        .add_service(AuthServer::new(Logins(credentials::default_folder())))
        .add_service(UploadServer::new(Offered(offer.clone())).max_decoding_message_size(LARGEST_MESSAGE))
        .add_service(SecretsServer::new(Offered(offer.clone())))
        .add_service(FileSendServer::new(Offered(offer)).max_decoding_message_size(LARGEST_MESSAGE));
    let connections = futures::stream::iter([Ok::<_, io::Error>(transport)]);
    // How the session ends is how the build ends, and that is told by the build.
    drop(server.serve_with_incoming(connections).await);
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Offered(Arc<Offer>);
struct Healthy;
/// What `docker login` has put into a folder.
struct Logins(Option<PathBuf>);

#[tonic::async_trait]
impl Health for Healthy {
    type WatchStream = Answers<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }
    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }
    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
}

#[tonic::async_trait]
impl Auth for Logins {
    async fn credentials(&self, request: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let found = credentials::find(self.0.as_deref(), None, HELPER_TIMEOUT, &host).await;
        let (username, secret) = match found {
            Ok(Login::Basic(username, secret)) => (username, secret),
            // Without a user name BuildKit takes the secret for a refresh token, as Docker's own client hands it out.
            Ok(Login::Identity(token)) => (String::new(), token),
            // It would go to the token server as a refresh token, which it is not: BuildKit knows no way to be given one.
            Ok(Login::Bearer(_)) => {
                let what = format!(
                    "the login for {host} is a registrytoken, which BuildKit cannot use: run `docker login {host}` with a user name and a password or an access token"
                );
                return Err(Status::failed_precondition(what));
            }
            Ok(Login::Anonymous) => Default::default(),
            Err(error) => return Err(Status::failed_precondition(error.to_string())),
        };
        Ok(Response::new(CredentialsResponse { username, secret }))
    }
    // BuildKit then fetches the token itself, with the credentials.
    async fn fetch_token(&self, _: Request<FetchTokenRequest>) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented("fetch_token"))
    }
    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("get_token_authority"))
    }
    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("verify_token_authority"))
    }
}

#[tonic::async_trait]
impl Secrets for Offered {
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match self.0.secrets.get(&id) {
            Some(secret) => Ok(Response::new(GetSecretResponse { data: secret.reveal().as_bytes().to_vec() })),
            None => Err(Status::not_found(format!("secret {id} not found"))),
        }
    }
}

#[tonic::async_trait]
impl Upload for Offered {
    type PullStream = Answers<BytesMessage>;

    async fn pull(&self, request: Request<Streaming<BytesMessage>>) -> Result<Response<Self::PullStream>, Status> {
        let path = request.metadata().get("urlpath").and_then(|path| path.to_str().ok());
        if path != Some(self.0.context_path.as_str()) {
            return Err(Status::not_found("no such upload"));
        }
        let (stream, sending) = sending::send(self.0.context.clone(), &self.0.events, self.0.moved.clone());
        locked(&self.0.sendings).push(sending);
        let pieces = stream.map(|piece| match piece {
            Ok(bytes) => Ok(BytesMessage { data: bytes.to_vec() }),
            Err(error) => Err(Status::aborted(error.to_string())),
        });
        Ok(Response::new(Box::pin(pieces)))
    }
}

#[tonic::async_trait]
impl FileSend for Offered {
    type DiffCopyStream = Answers<FileMessage>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<FileMessage>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let Some(to) = locked(&self.0.image).take() else {
            return Err(Status::failed_precondition("no image is expected"));
        };
        let mut pieces = request.into_inner();
        let gone = |_| Status::aborted(UNWRITTEN);
        loop {
            match pieces.message().await {
                Ok(Some(piece)) => {
                    self.0.moved.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    to.send(Ok(piece.data.into())).await.map_err(gone)?;
                }
                Ok(None) => return Ok(Response::new(Box::pin(futures::stream::empty()))),
                Err(status) => {
                    // The archive must not end as if it were whole.
                    to.send(Err(io::Error::other(status.message().to_owned()))).await.map_err(gone)?;
                    return Err(status);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::config::DockerBuild;

    #[tokio::test]
    async fn a_registry_gets_its_own_credentials_and_another_none() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            r#"{"auths":{"a.example":{"username":"ada","password":"secret"},"b.example":{"identitytoken":"token"}}}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let logins = Logins(Some(folder.path().to_owned()));
        for (host, username, secret) in
            [("a.example", "ada", "secret"), ("b.example", "", "token"), ("c.example", "", "")]
        {
            let asked = Request::new(CredentialsRequest { host: host.to_owned() });
            let answer = logins.credentials(asked).await.unwrap().into_inner();
            assert_eq!((answer.username.as_str(), answer.secret.as_str()), (username, secret), "{host}");
        }
        let config = r#"{"auths":{"d.example":{"registrytoken":"secret"}}}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let asked = Request::new(CredentialsRequest { host: "d.example".to_owned() });
        let refused = logins.credentials(asked).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains("`docker login d.example`"), "{refused}");
        assert!(!refused.message().contains("secret"), "{refused}");
        std::fs::write(folder.path().join("config.json"), "{\"auths\": secret").unwrap();
        let asked = Request::new(CredentialsRequest { host: "a.example".to_owned() });
        let refused = logins.credentials(asked).await.unwrap_err();
        assert!(
            refused.code() == tonic::Code::FailedPrecondition && !refused.message().contains("secret"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn only_what_was_offered_is_given() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("Dockerfile"), "FROM scratch").unwrap();
        let spec = DockerBuild {
            context: ".".to_owned(),
            dockerfile: "Dockerfile".to_owned(),
            target: None,
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            engine: None,
            platforms: Vec::new(),
            secrets: BTreeMap::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            no_cache: false,
        };
        let offered = Offered(Arc::new(Offer {
            context: Arc::new(crate::context::scan(&spec, root.path()).unwrap()),
            context_path: "/context".to_owned(),
            secrets: BTreeMap::from([("token".to_owned(), Secret::new("hunter2"))]),
            image: Mutex::new(None),
            events: Events::nowhere(),
            moved: Arc::default(),
            sendings: Mutex::default(),
        }));
        let ask = |id: &str| GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
        let token = offered.get_secret(Request::new(ask("token"))).await.unwrap().into_inner();
        assert_eq!(token.data, b"hunter2");
        let refused = offered.get_secret(Request::new(ask("other"))).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::NotFound);
    }
}

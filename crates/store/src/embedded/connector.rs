//! aws-sdk-s3 to the embedded server without a socket: a request is handed over as a value.

use super::front::Front;
use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::body::SdkBody;

/// The server as an HTTP client's other end.
#[derive(Debug, Clone)]
pub(crate) struct InProcess(pub(crate) Front);

impl HttpClient for InProcess {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

fn other(error: impl Into<s3s::StdError>) -> ConnectorError {
    ConnectorError::other(error.into(), None)
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let service = self.0.clone();
        HttpConnectorFuture::new_boxed(Box::pin(async move {
            let mut request = request.try_into_http1x().map_err(other)?;
            let host = http::HeaderValue::from_static("embedded");
            request.headers_mut().entry(http::header::HOST).or_insert(host);
            let answer = service.call(request.map(s3s::Body::http_body)).await.map_err(other)?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x)).map_err(other)
        }))
    }
}

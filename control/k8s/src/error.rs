//! Failed requests to the API server.

use std::time::Duration;

/// Longest time that one request may take. Watches are not requests.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to the API server failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {object}")]
pub struct RequestError {
    /// What was tried: `get`, `create`, …
    pub verb: &'static str,
    /// Kind and name of the object.
    pub object: String,
    /// Why it failed.
    #[source]
    pub kind: RequestErrorKind,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestErrorKind {
    /// No answer came in time.
    #[error("no answer from the API server within {0:?}")]
    Timeout(Duration),
    /// The API server was not reached or refused.
    #[error(transparent)]
    Api(#[from] Box<kube::Error>),
    /// Others changed the object again and again in between.
    #[error("others changed it {attempts} times in between")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
    /// The answer is not what this kind of object looks like.
    #[error("the object is not usable: {0}")]
    Unusable(&'static str),
}

impl RequestError {
    fn status(&self) -> Option<&kube::core::Status> {
        match &self.kind {
            RequestErrorKind::Api(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// The object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    /// The name is taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_already_exists)
    }

    /// The object has changed since it was read, or a precondition does not hold.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status()
            .is_some_and(|status| status.is_conflict() || (status.code == 409 && !status.is_already_exists()))
    }
}

/// Runs a request with the deadline that all requests have.
pub(crate) async fn request<T>(
    verb: &'static str,
    object: impl Into<String>,
    future: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RequestError> {
    let outcome = match tokio::time::timeout(REQUEST_TIMEOUT, future).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => RequestErrorKind::Api(Box::new(error)),
        Err(_) => RequestErrorKind::Timeout(REQUEST_TIMEOUT),
    };
    Err(RequestError {
        verb,
        object: object.into(),
        kind: outcome,
    })
}

//! Asking the daemon: HTTP over its local socket.
//! Who enters: commands, with method, path and body.
//! What leaves: the answer's JSON, or the problem as a failure.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{Common, DEFAULT_CONFIG, Failure, code};
use crate::again::IDEMPOTENCY_KEY;
use crate::boundary::authenticate::WORKSPACE_HEADER;
use crate::config::Config;
use crate::dice::Dice;

/// Where the unit's daemon listens for its operators.
const DEFAULT_SOCKET: &str = "/run/chancery/chancery.sock";

/// One question to the daemon.
pub(super) struct Ask {
    method: Method,
    path: String,
    body: Option<Value>,
    text: bool,
    wait_seconds: Option<u64>,
}

impl Ask {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, text: false, wait_seconds: None }
    }

    pub(super) fn post(path: impl Into<String>, body: Option<Value>) -> Self {
        Self { method: Method::POST, path: path.into(), body, text: false, wait_seconds: None }
    }

    pub(super) fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, path: path.into(), body: None, text: false, wait_seconds: None }
    }

    /// Would rather wait than look again.
    pub(super) fn waiting(mut self, seconds: u64) -> Self {
        self.wait_seconds = Some(seconds);
        self
    }

    /// Would rather have text than JSON.
    pub(super) fn into_text(mut self) -> Self {
        self.text = true;
        self
    }

    /// Sends it, and gives back the answer: JSON, or text as a JSON string, or null.
    pub(super) fn send(self, common: &Common) -> Result<Value, Failure> {
        let socket = socket(common)?;
        let key = self
            .path
            .strip_prefix("/v1/keys/")
            .and_then(|rest| rest.split(['/', '?']).next())
            .map(str::to_owned);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|why| Failure::because(code::FAILED, "no_runtime", &why))?;
        let (status, media_type, body) = runtime.block_on(self.exchange(&socket, common))?;
        if !status.is_success() {
            let mut refused = refusal(status, &body);
            if let (Some(key), "not_found", Some(workspace)) = (key, refused.word.as_str(), &common.workspace)
            {
                refused.text = format!("there is no key `{key}` in workspace `{workspace}`");
            }
            return Err(refused);
        }
        Ok(match media_type.as_str() {
            "application/json" => finished(status, serde_json::from_slice(&body).unwrap_or_default())?,
            _ if body.is_empty() => Value::Null,
            _ => json!(String::from_utf8_lossy(&body)),
        })
    }

    async fn exchange(self, socket: &Path, common: &Common) -> Result<(StatusCode, String, Bytes), Failure> {
        let away = |why: &dyn std::fmt::Display| {
            let text = format!(
                "the daemon does not answer at {} ({why}); is it running, and are you one of its operators?",
                socket.display()
            );
            Failure::new(code::UNREACHABLE, "unreachable", text)
        };
        let stream = UnixStream::connect(socket).await.map_err(|why| away(&why))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|why| away(&why))?;
        tokio::spawn(connection);
        let request = self.request(common).map_err(|why| Failure::because(code::USAGE, "usage", &why))?;
        let response = sender.send_request(request).await.map_err(|why| away(&why))?;
        let status = response.status();
        let media_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let body = response.into_body().collect().await.map_err(|why| away(&why))?.to_bytes();
        Ok((status, media_type, body))
    }

    fn request(self, common: &Common) -> http::Result<Request<Full<Bytes>>> {
        let mut request =
            Request::builder().method(self.method.clone()).uri(self.path).header(header::HOST, "local");
        request = request.header(header::USER_AGENT, concat!("chancery/", env!("CARGO_PKG_VERSION")));
        // Making a key, or an export, may take longer than a signature.
        request = request.header("chancery-deadline-ms", "60000");
        if self.method != Method::GET {
            let key: [u8; 16] = Dice::system().throw();
            request = request.header(IDEMPOTENCY_KEY, hex::encode(key));
        }
        if let Some(workspace) = &common.workspace {
            request = request.header(WORKSPACE_HEADER, workspace);
        }
        if let Some(seconds) = self.wait_seconds {
            request = request.header("prefer", format!("wait={seconds}"));
        }
        if self.text {
            request = request.header(header::ACCEPT, "text/plain");
        }
        match self.body {
            None => request.body(Full::default()),
            Some(body) => {
                request.header(header::CONTENT_TYPE, "application/json").body(Full::from(body.to_string()))
            }
        }
    }
}

/// An answer of nothing but a run that goes on is no success: nobody knows yet how it ends.
fn finished(status: StatusCode, answer: Value) -> Result<Value, Failure> {
    let alone =
        answer.as_object().filter(|fields| fields.len() == 1).and_then(|fields| fields.get("workflow"));
    match (status, alone.and_then(Value::as_str)) {
        (StatusCode::ACCEPTED, Some(run)) => {
            let words = format!(
                "it is not done yet: the run {run} goes on; `chancery saga show {run}` shows how it ends"
            );
            Err(Failure::new(code::FAILED, "unfinished", words))
        }
        _ => Ok(answer),
    }
}

fn socket(common: &Common) -> Result<PathBuf, Failure> {
    match &common.socket {
        Some(socket) => Ok(socket.clone()),
        // Of the daemon's configuration the socket alone: who asks the daemon may not read its PIN, and is not its user.
        None => match Config::socket_in(&common.config) {
            Ok(socket) => Ok(socket),
            Err(_)
                if common.config == Path::new(DEFAULT_CONFIG) && std::fs::read(DEFAULT_CONFIG).is_err() =>
            {
                Ok(PathBuf::from(DEFAULT_SOCKET))
            }
            Err(refused) => {
                let mut failure = Failure::from(refused);
                failure
                    .text
                    .push_str("\nTo ask the daemon its socket is enough: --socket, or CHANCERY_SOCKET.");
                Err(failure)
            }
        },
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let words = match (text("title"), text("detail")) {
        (title, _) if title.is_empty() => format!("the daemon answered {status}"),
        (title, detail) => format!("{title}: {detail} (request {})", text("request_id")),
    };
    Failure::new(code::REFUSED, &text("code"), words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_goes_on_is_no_success_and_anything_else_is() {
        let going = json!({ "workflow": "wf_1" });
        let unfinished = finished(StatusCode::ACCEPTED, going.clone()).unwrap_err();
        assert!(format!("{unfinished:?}").contains("wf_1"));
        assert_eq!(finished(StatusCode::OK, going.clone()).unwrap(), going);
        let key = json!({ "id": "key_1", "workflow": "wf_1" });
        assert_eq!(finished(StatusCode::ACCEPTED, key.clone()).unwrap(), key);
    }
}

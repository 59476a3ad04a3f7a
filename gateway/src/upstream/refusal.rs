//! Why a request was not forwarded, or its answer not handed on; and what the caller is told.
//! Who enters: the forwarding, with what went wrong.
//! What leaves: problems that say whether anything may have happened. Causes go to the log: they name our network.

use std::time::Duration;

use crate::api::{Code, Problem};
use crate::compartments::Kept;

/// Why there is no answer to hand on.
#[derive(Debug, thiserror::Error)]
pub enum NotForwarded {
    /// The upstream is isolated, or has its fill. Nothing was sent.
    #[error(transparent)]
    Kept(#[from] Kept),
    /// The body is longer than the upstream may be sent.
    #[error("the body is longer than {bytes_max} bytes")]
    TooLong {
        /// How long it may be.
        bytes_max: u64,
    },
    /// The caller did not send the body in time.
    #[error("the body did not come in time")]
    BodyStalled,
    /// The caller broke off in the middle of the body.
    #[error("the body ended before its time")]
    BodyBroken,
    /// No endpoint accepted a connection. Nothing was sent.
    #[error("no endpoint was reached: {0}")]
    Unreachable(String),
    /// The request was sent, and no whole answer came.
    #[error("the exchange broke off: {0}")]
    Broken(String),
    /// The time is over.
    #[error("no answer in time")]
    Late,
    /// The evidence is for another upstream: a fault of ours.
    #[error("the evidence is for another upstream")]
    Misled,
}

const SHORTLY: Duration = Duration::from_secs(1);

impl From<NotForwarded> for Problem {
    fn from(refused: NotForwarded) -> Self {
        match refused {
            NotForwarded::Kept(Kept::Isolated { retry_after }) => Self::new(
                Code::UpstreamOpen,
                "it failed too often and is left alone for a while; nothing was sent, try again after the time in Retry-After",
            )
            .after(retry_after),
            NotForwarded::Kept(Kept::Full) => {
                Self::new(Code::Overloaded, "too many requests are under way to this service; nothing was sent, try again")
                    .after(SHORTLY)
            }
            NotForwarded::TooLong { bytes_max } => {
                Self::new(Code::BodyTooLarge, format!("this service takes at most {bytes_max} bytes"))
            }
            NotForwarded::BodyStalled => Self::new(Code::BodyTimeout, "send the whole body without a long pause"),
            NotForwarded::BodyBroken => {
                Self::new(Code::BadRequest, "the body ended before its time; send it again")
            }
            NotForwarded::Unreachable(why) => {
                tracing::warn!(%why, "an upstream was not reached");
                Self::new(Code::UpstreamFailed, "the service was not reached; nothing was sent, try again").after(SHORTLY)
            }
            NotForwarded::Broken(why) => {
                tracing::warn!(%why, "an upstream broke off");
                Self::new(
                    Code::UpstreamFailed,
                    "the service broke off; the request may have been carried out, look before sending it again",
                )
            }
            NotForwarded::Late => Self::new(
                Code::DeadlinePassed,
                "no answer from the service in time; the request may have been carried out, look before sending it again",
            ),
            NotForwarded::Misled => Self::internal(&refused),
        }
    }
}

//! Problems from beneath the services: ledger, token, admission, certificates.
//! Who enters: refusals that every service passes on.
//! What leaves: problems that tell what was and what was not done.

use hsm::{Refusal, TokenError};
use sagas::idempotency::ClaimRefused;

use super::{SHORTLY, SOON, chain};
use crate::admission::Shed;
use crate::api::{Code, Problem};
use crate::appliance::succession::LineRefused;
use crate::ca::CaRefused;
use crate::crypto::VerifyRefused;
use crate::limits::AUTHORITIES_TRUSTED_MAX;
use crate::services::ground::LedgerRefused;
use crate::signer::SignFailed;

impl From<LedgerRefused> for Problem {
    fn from(refused: LedgerRefused) -> Self {
        let frozen = |detail: &str| Self::new(Code::LedgerFrozen, detail);
        match refused {
            LedgerRefused::Frozen(_) => frozen(
                "the ledger does not agree with itself or with its anchor; nothing is signed or changed. The operator sees why with `chancery status`",
            ),
            LedgerRefused::Waiting => {
                frozen("the ledger waits for its anchor; nothing was changed, try again").after(SOON)
            }
            LedgerRefused::Overloaded => {
                Self::new(Code::Overloaded, "nothing was changed, try again").after(SHORTLY)
            }
            LedgerRefused::NoSpace => {
                frozen("no space is left for the ledger; nothing was changed. The operator has to make room")
                    .after(SOON)
            }
            LedgerRefused::Lost => {
                frozen("the disk under the ledger failed; whether this was written shows after a restart")
            }
            LedgerRefused::Closed => {
                Self::new(Code::Stopping, "try another appliance, or again in a moment").after(SOON)
            }
            LedgerRefused::TooLong { field, bytes_max } => Self::new(
                Code::Invalid,
                format!("{field} of the entry would be too long; it may have {bytes_max} bytes"),
            ),
            LedgerRefused::ApiKeyWithdrawn => {
                Self::new(Code::ApiKeyUnknown, "the API key was revoked or has expired; nothing was done")
            }
            LedgerRefused::ClientWithdrawn => {
                Self::new(Code::ClientRevoked, "the client certificate was revoked; nothing was done")
            }
            LedgerRefused::WorkspaceClosed => {
                Self::new(Code::WorkspaceClosed, "the workspace was closed meanwhile; nothing was done")
            }
            LedgerRefused::Fenced { .. } => Self::new(
                Code::Fenced,
                format!("{refused}; nothing was done. Lease the name anew and look at what has changed"),
            ),
            LedgerRefused::Claim(refused) => refused.into(),
            LedgerRefused::Unsaid(problem) => problem,
            LedgerRefused::Fault(fault) => match fault {
                Some(fault) => Self::internal(&chain(&fault)),
                None => Self::internal(&"the ledger could not do it"),
            },
        }
    }
}

impl From<ClaimRefused> for Problem {
    fn from(refused: ClaimRefused) -> Self {
        match refused {
            ClaimRefused::Superseded => {
                let why = "another request with this key has gone on with it; ask again";
                Self::new(Code::RequestInProgress, why).after(SHORTLY)
            }
            ClaimRefused::Full => Self::new(
                Code::AnswersFull,
                "nothing was done: answers kept under idempotency keys take as much room as this workspace may have, and go after \
                 a day, or thirty. Where the route takes requests without a key, send none; or ask the operator to raise \
                 retention.answer_mib_max",
            ),
            refused => Self::internal(&chain(&refused)),
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let log = || tracing::warn!(%error, "the token did not do it");
        match &error {
            TokenError::Busy { .. } | TokenError::Expired => {
                Self::new(Code::Overloaded, "the token is busy; nothing was done, send it again")
                    .after(SHORTLY)
            }
            TokenError::Gone { retry_after } => {
                Self::new(Code::TokenUnavailable, "the token is away; nothing was done, send it again later")
                    .after(*retry_after)
            }
            TokenError::OutcomeUnknown => {
                log();
                Self::new(Code::OutcomeUnknown, "the token was lost during the call. Nothing was handed out; look at the ledger before sending it again").after(SOON)
            }
            TokenError::Unsupported { .. } => {
                Self::new(Code::TokenCannot, "`chancery token probe` shows what it can do")
            }
            TokenError::Refused(Refusal::TokenFull) => {
                log();
                Self::new(Code::TokenFull, "nothing was made; the operator has to destroy unused keys")
            }
            TokenError::KeyMissing { .. } => {
                log();
                Self::new(
                    Code::TokenKeyMissing,
                    "nothing was signed, and will not be until the operator has put the right token in, or restored the key from a backup",
                )
            }
            TokenError::WrongKey { .. } => {
                log();
                Self::new(
                    Code::TokenKeyMismatch,
                    "nothing was signed, and will not be until the operator has restored the token, or the key from a backup",
                )
            }
            TokenError::Refused(_) => {
                log();
                // It lasts until a person has looked, so nobody is told to come back in a moment.
                Self::new(
                    Code::TokenRefused,
                    "the token refused, and will until the operator has looked; the log says why under this request id",
                )
            }
        }
    }
}

impl From<Shed> for Problem {
    fn from(shed: Shed) -> Self {
        Self::new(
            Code::Overloaded,
            "the queue is longer than this request's time; nothing was written or signed",
        )
        .after(shed.retry_after)
    }
}

impl From<VerifyRefused> for Problem {
    fn from(refused: VerifyRefused) -> Self {
        match refused {
            VerifyRefused::Scheme { kind, scheme } => {
                let known: Vec<_> = kind.schemes().iter().map(|scheme| scheme.name()).collect();
                Self::new(
                    Code::SchemeMismatch,
                    format!("a {kind} key does not sign with {scheme}, but with {}", known.join(", ")),
                )
                .at("/scheme")
            }
            VerifyRefused::DigestLength { scheme, expected: 0, .. } => {
                Self::new(Code::DigestLength, format!("{scheme} signs messages; send `message`"))
                    .at("/digest")
            }
            VerifyRefused::DigestLength { scheme, expected, found } => Self::new(
                Code::DigestLength,
                format!("{scheme} takes a digest of {expected} bytes, this one has {found}"),
            )
            .at("/digest"),
            VerifyRefused::Signature => Self::new(Code::Invalid, "the signature does not verify"),
        }
    }
}

impl From<SignFailed> for Problem {
    fn from(failed: SignFailed) -> Self {
        match failed {
            SignFailed::Token(error) => error.into(),
            SignFailed::Withheld(_) => Self::new(
                Code::TokenRefused,
                "the token gave a wrong signature, which was withheld; the operator has to take it out of service",
            ),
        }
    }
}

impl From<CaRefused> for Problem {
    fn from(refused: CaRefused) -> Self {
        match refused {
            CaRefused::Signing(failed) => failed.into(),
            CaRefused::Request(fault) | CaRefused::Writing(fault) => Self::internal(&fault),
            unreadable @ CaRefused::Unreadable => Self::internal(&unreadable),
            ended @ (CaRefused::Ended { .. } | CaRefused::NotBegun { .. }) => {
                Self::new(Code::WrongState, ended.to_string())
            }
        }
    }
}

impl From<LineRefused> for Problem {
    fn from(refused: LineRefused) -> Self {
        match refused {
            LineRefused::NoSuchAuthority => {
                Self::new(Code::NotFound, "no CA has this fingerprint; `chancery ca list` shows them all")
            }
            LineRefused::RetiredAlready => Self::new(Code::WrongState, "this CA is retired already"),
            LineRefused::OnlyTrusted => Self::new(
                Code::OnlyTrustedCa,
                "without it no client could connect; `chancery ca rotate` makes a successor first",
            ),
            LineRefused::UnderWay | LineRefused::NotOnOrder => Self::new(
                Code::WrongState,
                "the CAs are being changed at this moment; see what came of it with `chancery ca list`, then try again",
            )
            .after(SHORTLY),
            LineRefused::TooManyTrusted => Self::new(
                Code::WrongState,
                format!("{AUTHORITIES_TRUSTED_MAX} CAs are trusted already; retire one with `chancery ca retire`"),
            ),
        }
    }
}

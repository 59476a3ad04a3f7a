//! The promises, one function each.
//! Enters: a fresh token.
//! Leaves: `Ok` when the promise held, an error when the token does not do this at all, a panic when it was broken.

use std::time::{Duration, Instant};

use hsm::{AnchorStep, HmacKeyRef, KeyKind, KeyRef, NewKey, Refusal, Scheme, SignInput, Token, TokenError};

use super::verify::{assert_verifies, aws_lc_accepts};
use super::{fresh_id, soon};

type Outcome = Result<(), TokenError>;

const MESSAGE: &[u8] = b"pay 1.00 to bob";

async fn signs(token: Token, kind: KeyKind) -> Outcome {
    let made = token.generate(fresh_id(), kind, "conformance", soon()).await?;
    for scheme in kind.schemes().iter().copied() {
        let input = SignInput::Message(MESSAGE.to_vec());
        let signature = token.sign(&made.key, scheme, input, soon()).await?;
        assert_eq!(signature.len(), kind.signature_len(), "{kind} {scheme}");
        assert_verifies(&made.public, scheme, MESSAGE, &signature);
    }
    Ok(())
}

pub async fn p256_signs_what_others_verify(token: Token) -> Outcome {
    signs(token, KeyKind::P256).await
}

pub async fn p384_signs_what_others_verify(token: Token) -> Outcome {
    signs(token, KeyKind::P384).await
}

pub async fn secp256k1_signs_what_others_verify(token: Token) -> Outcome {
    signs(token, KeyKind::Secp256k1).await
}

pub async fn ed25519_signs_what_others_verify(token: Token) -> Outcome {
    signs(token, KeyKind::Ed25519).await
}

pub async fn rsa_2048_signs_what_others_verify(token: Token) -> Outcome {
    signs(token, KeyKind::Rsa2048).await
}

pub async fn rsa_3072_signs_what_others_verify(token: Token) -> Outcome {
    signs(token, KeyKind::Rsa3072).await
}

pub async fn rsa_4096_signs_what_others_verify(token: Token) -> Outcome {
    signs(token, KeyKind::Rsa4096).await
}

/// P-256 is the one kind that every token makes.
async fn a_key(token: &Token) -> Result<NewKey, TokenError> {
    token.generate(fresh_id(), KeyKind::P256, "conformance", soon()).await
}

async fn sign_with(token: &Token, key: &KeyRef) -> Result<Vec<u8>, TokenError> {
    token.sign(key, Scheme::EcdsaSha256, SignInput::Message(MESSAGE.to_vec()), soon()).await
}

pub async fn a_made_key_was_never_outside(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    assert!(made.provenance.local && made.provenance.never_extractable && made.provenance.always_sensitive);
    assert_eq!(made.provenance.token_serial, token.probe().serial);
    assert_eq!(made.key.fingerprint, made.public.fingerprint());
    Ok(())
}

pub async fn a_made_key_is_found_by_its_name(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    if made.key.blob.is_empty() {
        assert_eq!(token.find(made.key.id, soon()).await?, Some(made.public));
    } else {
        // A token that hands the key out wrapped keeps none.
        assert_eq!(token.find(made.key.id, soon()).await?, None);
    }
    assert_eq!(token.find(fresh_id(), soon()).await?, None);
    Ok(())
}

pub async fn a_key_asked_for_twice_is_made_once(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    let again = token.generate(made.key.id, KeyKind::P256, "conformance", soon()).await?;
    if made.key.blob.is_empty() {
        assert_eq!(again, made);
    }
    let signature = sign_with(&token, &made.key).await?;
    assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature));
    Ok(())
}

pub async fn a_name_in_use_is_refused_to_a_key_of_another_kind(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    let other = token.generate(made.key.id, KeyKind::P384, "conformance", soon()).await;
    if made.key.blob.is_empty() {
        assert_eq!(other, Err(TokenError::Refused(Refusal::KeyExists { id: made.key.id })));
        assert_eq!(token.find(made.key.id, soon()).await?, Some(made.public.clone()));
    }
    sign_with(&token, &made.key).await.map(drop)
}

pub async fn a_destroyed_key_signs_no_more_and_is_destroyed_twice_in_peace(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    sign_with(&token, &made.key).await?;
    token.destroy(&made.key, soon()).await?;
    token.destroy(&made.key, soon()).await?;
    if made.key.blob.is_empty() {
        assert_eq!(sign_with(&token, &made.key).await, Err(TokenError::KeyMissing { id: made.key.id }));
        assert_eq!(token.find(made.key.id, soon()).await?, None);
    }
    Ok(())
}

pub async fn a_key_that_is_not_there_is_missing_not_wrong(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    let absent = KeyRef { id: fresh_id(), blob: Vec::new(), ..made.key };
    let answer = sign_with(&token, &absent).await;
    assert_eq!(answer, Err(TokenError::KeyMissing { id: absent.id }));
    Ok(())
}

pub async fn another_key_behind_the_name_is_refused(token: Token) -> Outcome {
    let (one, two) = (a_key(&token).await?, a_key(&token).await?);
    let swapped = KeyRef { fingerprint: two.key.fingerprint, ..one.key.clone() };
    let answer = sign_with(&token, &swapped).await;
    let (id, expected, found) = (one.key.id, two.key.fingerprint, one.key.fingerprint);
    assert_eq!(answer, Err(TokenError::WrongKey { id, expected, found }));
    sign_with(&token, &one.key).await.map(|_| ())
}

pub async fn another_key_behind_the_name_is_not_destroyed(token: Token) -> Outcome {
    let (one, two) = (a_key(&token).await?, a_key(&token).await?);
    let swapped = KeyRef { fingerprint: two.key.fingerprint, ..one.key.clone() };
    if one.key.blob.is_empty() {
        let answer = token.destroy(&swapped, soon()).await;
        assert!(matches!(answer, Err(TokenError::WrongKey { .. })), "{answer:?}");
    }
    sign_with(&token, &one.key).await.map(|_| ())
}

pub async fn a_digest_of_wrong_length_is_refused(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    for len in [0, 20, 31, 33, 48] {
        let answer =
            token.sign(&made.key, Scheme::EcdsaSha256, SignInput::Digest(vec![1; len]), soon()).await;
        assert!(matches!(answer, Err(TokenError::Refused(Refusal::BadInput(_)))), "{len} bytes: {answer:?}");
    }
    Ok(())
}

pub async fn a_scheme_of_another_kind_is_refused(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    for scheme in Scheme::ALL.into_iter().filter(|scheme| *scheme != Scheme::EcdsaSha256) {
        let answer = token.sign(&made.key, scheme, SignInput::Message(MESSAGE.to_vec()), soon()).await;
        assert!(matches!(answer, Err(TokenError::Refused(Refusal::BadInput(_)))), "{scheme}: {answer:?}");
    }
    Ok(())
}

pub async fn a_message_and_its_digest_are_signed_alike(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    let digest = hsm::Hash::Sha256.digest(MESSAGE);
    let signature = token.sign(&made.key, Scheme::EcdsaSha256, SignInput::Digest(digest), soon()).await?;
    assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature));
    Ok(())
}

pub async fn random_bytes_do_not_repeat(token: Token) -> Outcome {
    let (one, two) = (token.random(32, soon()).await?, token.random(32, soon()).await?);
    assert_eq!((one.len(), two.len()), (32, 32));
    assert_ne!(one, two);
    Ok(())
}

pub async fn a_deadline_in_the_past_sends_nothing(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    let past = Instant::now() - Duration::from_millis(1);
    let answer = token.sign(&made.key, Scheme::EcdsaSha256, SignInput::Message(MESSAGE.to_vec()), past).await;
    assert_eq!(answer, Err(TokenError::Expired));
    Ok(())
}

pub async fn many_at_once_all_get_their_own_signature(token: Token) -> Outcome {
    let made = a_key(&token).await?;
    let calls = (0..64_u8).map(|number| {
        let (token, key) = (token.clone(), made.key.clone());
        tokio::spawn(async move {
            let input = SignInput::Message(vec![number; 8]);
            token.sign(&key, Scheme::EcdsaSha256, input, soon()).await
        })
    });
    for (number, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        let signature = call.await.unwrap()?;
        let message = vec![u8::try_from(number).unwrap(); 8];
        assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, &message, &signature), "call {number}");
    }
    Ok(())
}

pub async fn hmac_agrees_with_software(token: Token) -> Outcome {
    let key = token.generate_hmac_key(fresh_id(), "conformance", soon()).await?;
    let tag = token.hmac_sha256(&key, MESSAGE, soon()).await?;
    assert_eq!(token.hmac_sha256(&key, MESSAGE, soon()).await?, tag, "an HMAC is a function");
    assert_ne!(token.hmac_sha256(&key, b"another", soon()).await?, tag);
    assert_eq!(token.hmac_sha256(&key, HmacKeyRef::CHECK_TEXT, soon()).await?, key.check.0);
    token.destroy_hmac_key(&key, soon()).await?;
    token.destroy_hmac_key(&key, soon()).await
}

pub async fn an_hmac_key_asked_for_twice_is_made_once(token: Token) -> Outcome {
    let key = token.generate_hmac_key(fresh_id(), "conformance", soon()).await?;
    let tag = token.hmac_sha256(&key, MESSAGE, soon()).await?;
    let again = token.generate_hmac_key(key.id, "conformance", soon()).await?;
    if key.blob.is_empty() {
        assert_eq!(again, key);
    }
    assert_eq!(token.hmac_sha256(&key, MESSAGE, soon()).await?, tag);
    Ok(())
}

pub async fn hmac_under_another_key_is_refused(token: Token) -> Outcome {
    let one = token.generate_hmac_key(fresh_id(), "conformance", soon()).await?;
    let two = token.generate_hmac_key(fresh_id(), "conformance", soon()).await?;
    let swapped = HmacKeyRef { check: two.check, ..one.clone() };
    let answer = token.hmac_sha256(&swapped, MESSAGE, soon()).await;
    assert_eq!(answer, Err(TokenError::WrongKey { id: one.id, expected: two.check, found: one.check }));
    Ok(())
}

pub async fn a_wrapped_secret_opens_again(token: Token) -> Outcome {
    token.ensure_root(soon()).await?;
    let wrapped = token.wrap(&[7; 32], b"master", soon()).await?;
    assert!(!wrapped.windows(8).any(|window| window == [7; 8]), "the secret shows");
    assert_eq!(token.unwrap(&wrapped, b"master", soon()).await?.as_slice(), [7; 32]);
    Ok(())
}

pub async fn a_wrapped_secret_opens_under_its_own_binding_only(token: Token) -> Outcome {
    token.ensure_root(soon()).await?;
    let wrapped = token.wrap(&[7; 32], b"master", soon()).await?;
    for binding in [b"Master".as_slice(), b"", b"master\0"] {
        let answer = token.unwrap(&wrapped, binding, soon()).await;
        assert_eq!(answer, Err(TokenError::Refused(Refusal::SealBroken)), "{binding:?}");
    }
    Ok(())
}

pub async fn an_altered_wrapped_secret_does_not_open(token: Token) -> Outcome {
    token.ensure_root(soon()).await?;
    let wrapped = token.wrap(&[7; 32], b"master", soon()).await?;
    for place in [0, 1, wrapped.len() / 2, wrapped.len() - 1] {
        let mut altered = wrapped.clone();
        altered[place] ^= 1;
        let answer = token.unwrap(&altered, b"master", soon()).await;
        assert_eq!(answer, Err(TokenError::Refused(Refusal::SealBroken)), "byte {place}");
    }
    for short in [&[][..], &wrapped[..1], &wrapped[..wrapped.len() - 1]] {
        let answer = token.unwrap(short, b"master", soon()).await;
        assert_eq!(answer, Err(TokenError::Refused(Refusal::SealBroken)), "{} bytes", short.len());
    }
    assert_eq!(token.unwrap(&wrapped, b"master", soon()).await?.as_slice(), [7; 32]);
    Ok(())
}

pub async fn wrapping_twice_gives_different_bytes(token: Token) -> Outcome {
    token.ensure_root(soon()).await?;
    let one = token.wrap(&[7; 32], b"master", soon()).await?;
    assert_ne!(one, token.wrap(&[7; 32], b"master", soon()).await?);
    Ok(())
}

pub async fn the_root_key_is_made_once(token: Token) -> Outcome {
    let first = token.ensure_root(soon()).await?;
    let second = token.ensure_root(soon()).await?;
    assert_eq!(first.id, second.id);
    assert!(!second.created);
    Ok(())
}

pub async fn an_old_root_opens_what_it_closed_until_it_is_destroyed(token: Token) -> Outcome {
    let old = token.ensure_root(soon()).await?;
    let wrapped = token.wrap(&[7; 32], b"master", soon()).await?;
    let new = token.succeed_root(&old, soon()).await?;
    assert!(new.created && new.id != old.id);
    let again = token.succeed_root(&old, soon()).await?;
    assert_eq!((again.id, again.created), (new.id.clone(), false), "asked twice, it is made once");
    assert_eq!(token.ensure_root(soon()).await?.id, new.id);
    let rewrapped = token.wrap(&token.unwrap(&wrapped, b"master", soon()).await?, b"master", soon()).await?;
    token.destroy_root(&old, soon()).await?;
    token.destroy_root(&old, soon()).await?;
    assert_eq!(
        token.unwrap(&wrapped, b"master", soon()).await,
        Err(TokenError::Refused(Refusal::SealBroken))
    );
    assert_eq!(token.unwrap(&rewrapped, b"master", soon()).await?.as_slice(), [7; 32]);
    Ok(())
}

pub async fn the_root_in_use_is_not_destroyed(token: Token) -> Outcome {
    let root = token.ensure_root(soon()).await?;
    let wrapped = token.wrap(&[7; 32], b"master", soon()).await?;
    let answer = token.destroy_root(&root, soon()).await;
    if let Err(unsupported @ TokenError::Unsupported { .. }) = answer {
        return Err(unsupported);
    }
    assert_eq!(answer, Err(TokenError::Refused(Refusal::RootInUse)));
    assert_eq!(token.unwrap(&wrapped, b"master", soon()).await?.as_slice(), [7; 32]);
    Ok(())
}

/// A chain of steps as the ledger makes them.
fn steps(count: u64) -> Vec<AnchorStep> {
    let mut before = [0; 32];
    let mut made = Vec::new();
    for k in 1..=count {
        let digest: [u8; 32] = hsm::Hash::Sha256.digest(&k.to_be_bytes()).try_into().unwrap();
        let after = hsm::Hash::Sha256.digest(&[before, digest].concat()).try_into().unwrap();
        made.push(AnchorStep { k, size: k * 10, root: [9; 32], digest, before, after });
        before = after;
    }
    made
}

pub async fn the_anchor_is_missing_at_first_and_then_follows_each_step(token: Token) -> Outcome {
    let fresh = token.anchor_read(soon()).await?;
    assert!(fresh.head.is_none_or(|head| head == [0; 32]), "{fresh:?}");
    for step in steps(3) {
        token.anchor_advance(step.clone(), soon()).await?;
        let reading = token.anchor_read(soon()).await?;
        assert_eq!(reading.head, Some(step.after));
        assert!(reading.steps.is_none_or(|steps| steps == step.k));
        assert!(!reading.missing && !reading.identity.is_empty());
    }
    Ok(())
}

pub async fn the_anchor_takes_a_step_twice_in_peace(token: Token) -> Outcome {
    for step in steps(2) {
        token.anchor_advance(step.clone(), soon()).await?;
        token.anchor_advance(step.clone(), soon()).await?;
        assert_eq!(token.anchor_read(soon()).await?.head, Some(step.after));
    }
    Ok(())
}

pub async fn the_anchor_refuses_a_step_from_elsewhere(token: Token) -> Outcome {
    let steps = steps(3);
    token.anchor_advance(steps[0].clone(), soon()).await?;
    let skipped = token.anchor_advance(steps[2].clone(), soon()).await;
    assert_eq!(skipped, Err(TokenError::Refused(Refusal::AnchorElsewhere)));
    let forked = AnchorStep { before: [5; 32], ..steps[1].clone() };
    let forked = token.anchor_advance(forked, soon()).await;
    assert_eq!(forked, Err(TokenError::Refused(Refusal::AnchorElsewhere)));
    assert_eq!(token.anchor_read(soon()).await?.head, Some(steps[0].after));
    Ok(())
}

pub async fn statements_are_made_or_absent_but_never_an_error(token: Token) -> Outcome {
    token.anchor_advance(steps(1)[0].clone(), soon()).await?;
    let able = token.probe().powers.contains(&hsm::Power::Attest);
    assert_eq!(token.anchor_attest([1; 32], soon()).await?.is_some(), able);
    assert_eq!(token.quote([2; 32], soon()).await?.is_some(), able);
    assert_eq!(token.anchor_count(soon()).await?.is_some(), able);
    Ok(())
}

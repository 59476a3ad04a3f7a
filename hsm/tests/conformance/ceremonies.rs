//! The promises about a workspace's own key, half-made pairs and statements; import and backup have files of their own.
//! Enters: a fresh token.
//! Leaves: `Ok` when the promise held, an error when the token does not do this at all, a panic when it was broken.

use hsm::{Kek, KeyKind, KeyRef, NewKey, Power, Presence, Refusal, SignInput, Token, TokenError};

use super::verify::assert_verifies;
use super::{fresh_id, soon};

pub type Outcome = Result<(), TokenError>;

pub const MESSAGE: &[u8] = b"pay 1.00 to bob";
pub const SECRET: &[u8] = &[7; 48];

async fn a_kek(token: &Token) -> Result<Kek, TokenError> {
    token.create_kek(fresh_id(), "conformance", soon()).await
}

pub async fn sign_with(token: &Token, key: &KeyRef) -> Result<Vec<u8>, TokenError> {
    token.sign(key, key.kind.schemes()[0], SignInput::Message(MESSAGE.to_vec()), soon()).await
}

/// Signs by every scheme of its kind, as strangers see it.
pub async fn assert_signs(token: &Token, made: &NewKey) -> Outcome {
    for scheme in made.key.kind.schemes().iter().copied() {
        let input = SignInput::Message(MESSAGE.to_vec());
        let signature = token.sign(&made.key, scheme, input, soon()).await?;
        assert_verifies(&made.public, scheme, MESSAGE, &signature);
    }
    Ok(())
}

pub async fn a_kek_opens_what_it_closed(token: Token) -> Outcome {
    let kek = a_kek(&token).await?;
    for secret in [SECRET, b"", &[1; 5000]] {
        let wrapped = token.wrap_under(&kek, secret, b"row 1", soon()).await?;
        assert!(secret.is_empty() || !wrapped.windows(secret.len()).any(|part| part == secret));
        assert_eq!(token.unwrap_under(&kek, &wrapped, b"row 1", soon()).await?.as_slice(), secret);
    }
    let twice = token.wrap_under(&kek, SECRET, b"row 1", soon()).await?;
    assert_ne!(token.wrap_under(&kek, SECRET, b"row 1", soon()).await?, twice);
    Ok(())
}

pub async fn a_kek_asked_for_twice_is_made_once(token: Token) -> Outcome {
    let kek = a_kek(&token).await?;
    let wrapped = token.wrap_under(&kek, SECRET, b"", soon()).await?;
    let again = token.create_kek(kek.id, "conformance", soon()).await?;
    if kek.blob.is_empty() {
        assert_eq!(again, kek);
        assert_eq!(token.find_kek(kek.id, soon()).await?, Some(kek.clone()));
    } else {
        // A token that hands the key out wrapped keeps none; what counts is the blob on record.
        assert_eq!(token.find_kek(kek.id, soon()).await?, None);
    }
    assert_eq!(token.find_kek(fresh_id(), soon()).await?, None);
    assert_eq!(token.unwrap_under(&kek, &wrapped, b"", soon()).await?.as_slice(), SECRET);
    Ok(())
}

pub async fn a_kek_opens_nothing_of_another_kek_or_binding_or_what_was_altered(token: Token) -> Outcome {
    let (one, two) = (a_kek(&token).await?, a_kek(&token).await?);
    let wrapped = token.wrap_under(&one, SECRET, b"row 1", soon()).await?;
    let broken = Err(TokenError::Refused(Refusal::SealBroken));
    assert_eq!(token.unwrap_under(&two, &wrapped, b"row 1", soon()).await, broken);
    assert_eq!(token.unwrap_under(&one, &wrapped, b"row 2", soon()).await, broken);
    for place in [0, 1, wrapped.len() / 2, wrapped.len() - 1] {
        let mut altered = wrapped.clone();
        altered[place] ^= 1;
        assert_eq!(token.unwrap_under(&one, &altered, b"row 1", soon()).await, broken, "byte {place}");
        assert_eq!(token.unwrap_under(&one, &wrapped[..place], b"row 1", soon()).await, broken);
    }
    Ok(())
}

pub async fn a_destroyed_kek_leaves_nothing_that_opens(token: Token) -> Outcome {
    let (doomed, other) = (a_kek(&token).await?, a_kek(&token).await?);
    let wrapped = token.wrap_under(&doomed, SECRET, b"", soon()).await?;
    let kept = token.wrap_under(&other, SECRET, b"", soon()).await?;
    token.destroy_kek(&doomed, soon()).await?;
    token.destroy_kek(&doomed, soon()).await?;
    assert_eq!(token.find_kek(doomed.id, soon()).await?, None);
    // Where the key is a blob, its owner has deleted that.
    let gone = Kek { id: doomed.id, blob: Vec::new() };
    let missing = TokenError::KeyMissing { id: doomed.id };
    assert_eq!(token.unwrap_under(&gone, &wrapped, b"", soon()).await, Err(missing.clone()));
    assert_eq!(token.wrap_under(&gone, SECRET, b"", soon()).await, Err(missing));
    if doomed.blob.is_empty() {
        let next = token.create_kek(doomed.id, "conformance", soon()).await?;
        let answer = token.unwrap_under(&next, &wrapped, b"", soon()).await;
        assert_eq!(answer, Err(TokenError::Refused(Refusal::SealBroken)), "a new key of the old name");
    }
    assert_eq!(token.unwrap_under(&other, &kept, b"", soon()).await?.as_slice(), SECRET);
    Ok(())
}

pub async fn a_fresh_name_is_absent_and_a_whole_key_is_not_swept_away(token: Token) -> Outcome {
    assert_eq!(token.presence(fresh_id(), soon()).await?, Presence::Absent);
    token.destroy_half(fresh_id(), soon()).await?;
    let made = token.generate(fresh_id(), KeyKind::P256, "conformance", soon()).await?;
    if made.key.blob.is_empty() {
        assert_eq!(token.presence(made.key.id, soon()).await?, Presence::Whole(made.public.clone()));
        let swept = token.destroy_half(made.key.id, soon()).await;
        assert_eq!(swept, Err(TokenError::Refused(Refusal::KeyExists { id: made.key.id })));
    }
    sign_with(&token, &made.key).await.map(drop)
}

pub async fn a_statement_about_a_key_is_made_or_absent_but_never_an_error(token: Token) -> Outcome {
    let made = token.generate(fresh_id(), KeyKind::P256, "conformance", soon()).await?;
    let able = token.probe().powers.contains(&Power::Attest);
    assert_eq!(token.attest(&made.key, [3; 32], soon()).await?.is_some(), able);
    Ok(())
}

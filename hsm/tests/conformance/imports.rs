//! The promises about keys made elsewhere.
//! Enters: a fresh token.
//! Leaves: `Ok` when the promise held, an error when the token does not do this at all, a panic when it was broken.

use hsm::{Custody, ImportKey, KeyKind, KeyRef, Origin, Presence, Refusal, Token, TokenError};

use super::ceremonies::{Outcome, assert_signs, sign_with};
use super::outside::Outside;
use super::{fresh_id, soon};

async fn an_import_key(token: &Token) -> Result<ImportKey, TokenError> {
    token.create_import_key(fresh_id(), "conformance", soon()).await
}

async fn imports(token: Token, kind: KeyKind) -> Outcome {
    token.import_takes(kind, soon()).await?;
    let (with, outside) = (an_import_key(&token).await?, Outside::make(kind));
    let (id, wrapped) = (fresh_id(), outside.wrapped_for(&with));
    let taken = token.import_key(&with, id, &outside.public, &wrapped, "conformance", soon()).await?;
    assert_eq!((taken.key.id, &taken.public), (id, &outside.public));
    let born = &taken.provenance;
    assert_eq!((born.origin, born.custody), (Origin::Imported, Custody::NonExtractable));
    assert!(
        !born.local && !born.never_extractable && !born.always_sensitive,
        "it was outside once, and says so"
    );
    assert_signs(&token, &taken).await?;
    assert_eq!(token.find(id, soon()).await?, Some(taken.public.clone()));
    let again = token.import_key(&with, id, &outside.public, &wrapped, "conformance", soon()).await?;
    assert_eq!(again, taken, "asked for twice, it is taken once");
    let posing = token.generate(id, kind, "conformance", soon()).await;
    assert_eq!(
        posing,
        Err(TokenError::Refused(Refusal::KeyExists { id })),
        "it is not taken for a key made here"
    );
    token.destroy(&taken.key, soon()).await?;
    assert_eq!(token.presence(id, soon()).await?, Presence::Absent);
    Ok(())
}

pub async fn a_p256_key_made_with_openssl_is_imported(token: Token) -> Outcome {
    imports(token, KeyKind::P256).await
}

pub async fn a_p384_key_made_with_openssl_is_imported(token: Token) -> Outcome {
    imports(token, KeyKind::P384).await
}

pub async fn a_secp256k1_key_made_with_openssl_is_imported(token: Token) -> Outcome {
    imports(token, KeyKind::Secp256k1).await
}

pub async fn an_ed25519_key_made_with_openssl_is_imported(token: Token) -> Outcome {
    imports(token, KeyKind::Ed25519).await
}

pub async fn an_rsa_2048_key_made_with_openssl_is_imported(token: Token) -> Outcome {
    imports(token, KeyKind::Rsa2048).await
}

pub async fn an_rsa_4096_key_made_with_openssl_is_imported(token: Token) -> Outcome {
    imports(token, KeyKind::Rsa4096).await
}

pub async fn an_imported_key_that_is_not_the_announced_one_is_destroyed(token: Token) -> Outcome {
    let with = an_import_key(&token).await?;
    for (sent, announced) in
        [(KeyKind::P256, KeyKind::P256), (KeyKind::P256, KeyKind::P384), (KeyKind::Rsa2048, KeyKind::P256)]
    {
        let (sent, announced, id) = (Outside::make(sent), Outside::make(announced), fresh_id());
        let wrapped = sent.wrapped_for(&with);
        let answer = token.import_key(&with, id, &announced.public, &wrapped, "x", soon()).await;
        match sent.public.kind == announced.public.kind {
            true => assert_eq!(answer, Err(TokenError::Refused(Refusal::WrongImport))),
            // Some tokens notice another kind while they unwrap, some only when the key signs.
            false => assert!(
                matches!(answer, Err(TokenError::Refused(Refusal::WrongImport | Refusal::ImportBroken))),
                "{answer:?}"
            ),
        }
        assert_eq!(token.presence(id, soon()).await?, Presence::Absent, "nothing of it stays");
    }
    Ok(())
}

pub async fn an_altered_import_does_not_open(token: Token) -> Outcome {
    let (with, other) = (an_import_key(&token).await?, an_import_key(&token).await?);
    let outside = Outside::make(KeyKind::P256);
    let wrapped = outside.wrapped_for(&with);
    let first = with.public.kind.signature_len();
    let mut hostile: Vec<Vec<u8>> = [0, 5, first - 1, first, first + 9, wrapped.len() - 1]
        .into_iter()
        .map(|place| {
            let mut altered = wrapped.clone();
            altered[place] ^= 1;
            altered
        })
        .collect();
    hostile.extend([Vec::new(), wrapped[..first].to_vec(), wrapped[..wrapped.len() - 8].to_vec()]);
    hostile.push(outside.wrapped_for(&other));
    let endless = token.import_key(&with, fresh_id(), &outside.public, &[0; 8193], "x", soon()).await;
    assert!(matches!(endless, Err(TokenError::Refused(Refusal::BadInput(_)))), "{endless:?}");
    for (number, bytes) in hostile.iter().enumerate() {
        let id = fresh_id();
        let answer = token.import_key(&with, id, &outside.public, bytes, "x", soon()).await;
        assert_eq!(answer, Err(TokenError::Refused(Refusal::ImportBroken)), "case {number}");
        assert_eq!(token.presence(id, soon()).await?, Presence::Absent, "case {number}");
    }
    Ok(())
}

pub async fn an_import_key_is_made_once_opens_keys_only_and_is_destroyed_twice_in_peace(
    token: Token,
) -> Outcome {
    let with = an_import_key(&token).await?;
    assert_eq!(with.public.kind, KeyKind::Rsa3072);
    assert_eq!(token.create_import_key(with.id, "conformance", soon()).await?, with);
    assert_eq!(token.find_import_key(with.id, soon()).await?, Some(with.clone()));
    let public = &with.public;
    let key = KeyRef { id: with.id, kind: public.kind, fingerprint: public.fingerprint(), blob: Vec::new() };
    assert!(sign_with(&token, &key).await.is_err(), "it unwraps and does nothing else");
    let (outside, id) = (Outside::make(KeyKind::P256), fresh_id());
    let wrapped = outside.wrapped_for(&with);
    token.destroy_import_key(&with, soon()).await?;
    token.destroy_import_key(&with, soon()).await?;
    assert_eq!(token.find_import_key(with.id, soon()).await?, None);
    let answer = token.import_key(&with, id, &outside.public, &wrapped, "x", soon()).await;
    assert_eq!(answer, Err(TokenError::KeyMissing { id: with.id }));
    Ok(())
}

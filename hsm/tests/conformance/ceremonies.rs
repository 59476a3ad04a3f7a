//! The promises about rare acts on keys: a workspace's own key, import, backup, statements.
//! Enters: a fresh token.
//! Leaves: `Ok` when the promise held, an error when the token does not do this at all, a panic when it was broken.

use hsm::{
    BackupKek, Custody, ImportKey, Kek, KeyKind, KeyRef, NewKey, Origin, Power, Presence, Refusal, SignInput,
    Token, TokenError,
};

use super::outside::Outside;
use super::verify::assert_verifies;
use super::{fresh_id, soon};

type Outcome = Result<(), TokenError>;

const MESSAGE: &[u8] = b"pay 1.00 to bob";
const SECRET: &[u8] = &[7; 48];

async fn a_kek(token: &Token) -> Result<Kek, TokenError> {
    token.create_kek(fresh_id(), "conformance", soon()).await
}

async fn sign_with(token: &Token, key: &KeyRef) -> Result<Vec<u8>, TokenError> {
    token.sign(key, key.kind.schemes()[0], SignInput::Message(MESSAGE.to_vec()), soon()).await
}

/// Signs by every scheme of its kind, as strangers see it.
async fn assert_signs(token: &Token, made: &NewKey) -> Outcome {
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

async fn a_backup_kek(token: &Token) -> Result<BackupKek, TokenError> {
    token.create_backup_kek(fresh_id(), "conformance", soon()).await
}

async fn a_recoverable_key(token: &Token, kind: KeyKind) -> Result<NewKey, TokenError> {
    token.generate_in(fresh_id(), kind, Custody::Recoverable, "conformance", soon()).await
}

async fn comes_back(token: Token, kind: KeyKind) -> Outcome {
    let (kek, made) = (a_backup_kek(&token).await?, a_recoverable_key(&token, kind).await?);
    let born = &made.provenance;
    assert_eq!((born.origin, born.custody), (Origin::Generated, Custody::Recoverable));
    assert!(born.local && born.always_sensitive && !born.never_extractable, "it may leave, and says so");
    let backup = token.wrap_export(&made.key, &kek, soon()).await?;
    token.destroy(&made.key, soon()).await?;
    for custody in [Custody::Recoverable, Custody::NonExtractable] {
        let id = fresh_id();
        let back = token.unwrap_restore(&kek, id, &made.public, &backup, custody, "back", soon()).await?;
        assert_eq!((&back.public, back.key.fingerprint), (&made.public, made.key.fingerprint));
        assert_eq!((back.provenance.origin, back.provenance.custody), (Origin::Restored, custody));
        assert!(!back.provenance.local && !back.provenance.never_extractable);
        assert_signs(&token, &back).await?;
        let again = token.unwrap_restore(&kek, id, &made.public, &backup, custody, "back", soon()).await?;
        assert_eq!(again, back, "asked for twice, it is taken once");
        let exported = token.wrap_export(&back.key, &kek, soon()).await;
        match custody {
            Custody::Recoverable => assert!(exported.is_ok(), "{exported:?}"),
            Custody::NonExtractable => {
                assert_eq!(exported, Err(TokenError::Refused(Refusal::NotRecoverable)))
            }
        }
    }
    Ok(())
}

pub async fn a_recoverable_p256_key_comes_back_from_its_backup(token: Token) -> Outcome {
    comes_back(token, KeyKind::P256).await
}

pub async fn a_recoverable_p384_key_comes_back_from_its_backup(token: Token) -> Outcome {
    comes_back(token, KeyKind::P384).await
}

pub async fn a_recoverable_secp256k1_key_comes_back_from_its_backup(token: Token) -> Outcome {
    comes_back(token, KeyKind::Secp256k1).await
}

pub async fn a_recoverable_ed25519_key_comes_back_from_its_backup(token: Token) -> Outcome {
    comes_back(token, KeyKind::Ed25519).await
}

pub async fn a_recoverable_rsa_2048_key_comes_back_from_its_backup(token: Token) -> Outcome {
    comes_back(token, KeyKind::Rsa2048).await
}

pub async fn a_key_made_never_to_leave_is_not_exported(token: Token) -> Outcome {
    let kek = a_backup_kek(&token).await?;
    let made = token.generate(fresh_id(), KeyKind::P256, "conformance", soon()).await?;
    let answer = token.wrap_export(&made.key, &kek, soon()).await;
    assert_eq!(answer, Err(TokenError::Refused(Refusal::NotRecoverable)));
    sign_with(&token, &made.key).await.map(drop)
}

pub async fn custody_is_chosen_once_and_not_by_asking_again(token: Token) -> Outcome {
    let loose = a_recoverable_key(&token, KeyKind::P256).await?;
    let again = token.generate_in(loose.key.id, KeyKind::P256, Custody::Recoverable, "x", soon()).await?;
    assert_eq!(again, loose);
    let tightened = token.generate(loose.key.id, KeyKind::P256, "x", soon()).await;
    assert_eq!(tightened, Err(TokenError::Refused(Refusal::KeyExists { id: loose.key.id })));
    let tight = token.generate(fresh_id(), KeyKind::P256, "x", soon()).await?;
    let loosened = token.generate_in(tight.key.id, KeyKind::P256, Custody::Recoverable, "x", soon()).await;
    assert_eq!(loosened, Err(TokenError::Refused(Refusal::KeyExists { id: tight.key.id })));
    Ok(())
}

pub async fn a_backup_of_another_key_or_altered_or_under_another_kek_is_refused(token: Token) -> Outcome {
    let (kek, other) = (a_backup_kek(&token).await?, a_backup_kek(&token).await?);
    let (one, two) =
        (a_recoverable_key(&token, KeyKind::P256).await?, a_recoverable_key(&token, KeyKind::P256).await?);
    let backup = token.wrap_export(&one.key, &kek, soon()).await?;
    let mut altered = backup.clone();
    altered[9] ^= 1;
    let cases = [
        (&kek, &two.public, &backup, Refusal::WrongImport),
        (&other, &one.public, &backup, Refusal::ImportBroken),
        (&kek, &one.public, &altered, Refusal::ImportBroken),
    ];
    for (under, expected, bytes, refusal) in cases {
        let (id, custody) = (fresh_id(), Custody::NonExtractable);
        let answer = token.unwrap_restore(under, id, expected, bytes, custody, "x", soon()).await;
        assert_eq!(answer, Err(TokenError::Refused(refusal)));
        assert_eq!(token.presence(id, soon()).await?, Presence::Absent, "nothing of it stays");
    }
    Ok(())
}

pub async fn a_backup_key_is_made_once_and_destroyed_twice_in_peace(token: Token) -> Outcome {
    let kek = a_backup_kek(&token).await?;
    assert_eq!(token.create_backup_kek(kek.id, "conformance", soon()).await?, kek);
    assert_eq!(token.find_backup_kek(kek.id, soon()).await?, Some(kek.clone()));
    let made = a_recoverable_key(&token, KeyKind::P256).await?;
    token.wrap_export(&made.key, &kek, soon()).await?;
    let as_kek = Kek { id: kek.id, blob: Vec::new() };
    assert!(token.wrap_under(&as_kek, SECRET, b"", soon()).await.is_err(), "it wraps keys and nothing else");
    token.destroy_kek(&as_kek, soon()).await?;
    assert_eq!(
        token.find_backup_kek(kek.id, soon()).await?,
        Some(kek.clone()),
        "each is destroyed as what it is"
    );
    token.destroy_backup_kek(&kek, soon()).await?;
    token.destroy_backup_kek(&kek, soon()).await?;
    assert_eq!(token.find_backup_kek(kek.id, soon()).await?, None);
    let answer = token.wrap_export(&made.key, &kek, soon()).await;
    assert_eq!(answer, Err(TokenError::KeyMissing { id: kek.id }));
    Ok(())
}

pub async fn a_statement_about_a_key_is_made_or_absent_but_never_an_error(token: Token) -> Outcome {
    let made = token.generate(fresh_id(), KeyKind::P256, "conformance", soon()).await?;
    let able = token.probe().powers.contains(&Power::Attest);
    assert_eq!(token.attest(&made.key, [3; 32], soon()).await?.is_some(), able);
    Ok(())
}

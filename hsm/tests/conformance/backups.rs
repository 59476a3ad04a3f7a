//! The promises about keys that may be backed up, and those that may not.
//! Enters: a fresh token.
//! Leaves: `Ok` when the promise held, an error when the token does not do this at all, a panic when it was broken.

use hsm::{BackupKek, Custody, Kek, KeyKind, NewKey, Origin, Presence, Refusal, Token, TokenError};

use super::ceremonies::{Outcome, SECRET, assert_signs, sign_with};
use super::{fresh_id, soon};

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
    assert!(token.destroy_kek(&as_kek, soon()).await.is_err(), "nor is it said to be gone");
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

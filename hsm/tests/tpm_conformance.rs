//! The promises of every token, kept by a TPM: swtpm, through the real worker.
//! Enters: a fresh TPM per test.
//! Leaves: proof, or the name of the promise that was broken.

mod conformance;
mod tpm;

use hsm::Token;

conformance!(subject, unsupported: UNSUPPORTED);

/// No TPM has these kinds of key; it has one storage root, under which secrets are sealed anew instead; and what is made in it or brought
/// into it stays there: no import, no backup.
const UNSUPPORTED: [&str; 24] = [
    "secp256k1_signs_what_others_verify",
    "ed25519_signs_what_others_verify",
    "rsa_3072_signs_what_others_verify",
    "rsa_4096_signs_what_others_verify",
    "an_old_root_opens_what_it_closed_until_it_is_destroyed",
    "the_root_in_use_is_not_destroyed",
    "a_p256_key_made_with_openssl_is_imported",
    "a_p384_key_made_with_openssl_is_imported",
    "a_secp256k1_key_made_with_openssl_is_imported",
    "an_ed25519_key_made_with_openssl_is_imported",
    "an_rsa_2048_key_made_with_openssl_is_imported",
    "an_rsa_4096_key_made_with_openssl_is_imported",
    "an_imported_key_that_is_not_the_announced_one_is_destroyed",
    "an_altered_import_does_not_open",
    "an_import_key_is_made_once_opens_keys_only_and_is_destroyed_twice_in_peace",
    "a_recoverable_p256_key_comes_back_from_its_backup",
    "a_recoverable_p384_key_comes_back_from_its_backup",
    "a_recoverable_secp256k1_key_comes_back_from_its_backup",
    "a_recoverable_ed25519_key_comes_back_from_its_backup",
    "a_recoverable_rsa_2048_key_comes_back_from_its_backup",
    "a_key_made_never_to_leave_is_not_exported",
    "custody_is_chosen_once_and_not_by_asking_again",
    "a_backup_of_another_key_or_altered_or_under_another_kek_is_refused",
    "a_backup_key_is_made_once_and_destroyed_twice_in_peace",
];

async fn subject() -> (Token, tpm::Machine) {
    let machine = tpm::Machine::new();
    (machine.start().await, machine)
}

//! The room of signed notes (C2SP signed-note v1.0.0): text, signature lines and verifier keys.
//! Who enters: a checkpoint to sign, a note from anywhere to check.
//! What leaves: notes in their exact text form, and the names of the keys that truly signed.

/// The kinds of key this log signs with, by their C2SP type byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// 0x01: Ed25519 over the text.
    Ed25519,
    /// 0x02: ECDSA P-256 over SHA-256 of the text.
    EcdsaP256,
}

/// A verifier key: who may sign a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteKey {
    /// The name on the signature line.
    pub name: String,
    /// What kind of key.
    pub kind: KeyKind,
    /// Ed25519: 32 bytes. ECDSA: SPKI DER.
    pub public: Vec<u8>,
}

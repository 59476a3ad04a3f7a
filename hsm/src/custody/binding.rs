//! Where a ciphertext belongs, as bytes that no other place shares.
//! Enters: workspace, table, row, purpose and key version.
//! Leaves: associated data; a ciphertext moved anywhere else does not open.

/// The one place in which a ciphertext opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// Whose it is.
    pub workspace: &'a str,
    /// The table it lies in.
    pub table: &'a str,
    /// Its row's key.
    pub row: &'a str,
    /// What it is for; two secrets of one row differ here.
    pub purpose: &'a str,
    /// The data key's version.
    pub key_version: u32,
}

impl Binding<'_> {
    /// Every part with its length before it, so that no two places give the same bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let parts = [self.workspace, self.table, self.row, self.purpose];
        let len: usize = parts.iter().map(|part| part.len() + 8).sum();
        let mut bytes = Vec::with_capacity(DOMAIN.len() + len + 4);
        bytes.extend_from_slice(DOMAIN);
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(&self.key_version.to_be_bytes());
        bytes
    }
}

const DOMAIN: &[u8] = b"chancery.custody.binding.v1";

#[cfg(test)]
mod tests {
    use super::Binding;

    #[test]
    fn no_two_places_share_their_bytes() {
        let place = |workspace, table, row, purpose| {
            Binding { workspace, table, row, purpose, key_version: 1 }.encode()
        };
        let base = place("ab", "c", "d", "e");
        assert_ne!(base, place("a", "bc", "d", "e"));
        assert_ne!(base, place("ab", "cd", "", "e"));
        assert_ne!(base, place("ab", "c", "de", ""));
        assert_ne!(base, place("", "abc", "d", "e"));
    }
}

//! Thirty-two secret bytes in a page that is never swapped or dumped.
//! Enters: key bytes, taken out of where they were.
//! Leaves: a borrow while in use; wiped bytes at the end.

#![allow(
    unsafe_code,
    reason = "mlock and munlock have no safe form; this file locks one page of its own and nothing else"
)]

use std::fmt;
use std::io;

use zeroize::Zeroize;

/// A whole page for one key: `mlock` works by pages, and a page shared with other data would be unlocked with it.
#[repr(C, align(4096))]
struct Page {
    key: [u8; KEY_BYTES],
    rest: [u8; PAGE_BYTES - KEY_BYTES],
}

/// A key in locked memory. Neither cloned nor serialised; prints nothing of itself.
pub(super) struct Locked {
    page: Box<Page>,
    pinned: bool,
}

impl Locked {
    /// Moves a key into locked memory; the source is wiped.
    ///
    /// # Errors
    /// When the kernel does not lock the page: `RLIMIT_MEMLOCK` is used up.
    pub(super) fn take(source: &mut [u8; KEY_BYTES]) -> io::Result<Self> {
        let mut locked = Self {
            page: Box::new(Page { key: [0; KEY_BYTES], rest: [0; PAGE_BYTES - KEY_BYTES] }),
            pinned: false,
        };
        let start = (&raw mut *locked.page).cast();
        // SAFETY: the page is ours, aligned, and lives until `drop` unlocks it; locking changes none of its bytes.
        let pinned = unsafe { rustix::mm::mlock(start, PAGE_BYTES) };
        if let Err(fault) = pinned {
            source.zeroize();
            return Err(fault.into());
        }
        locked.pinned = true;
        // Left out of core files as well. Where the kernel is too old to know this, the daemon's own core limit still holds.
        // SAFETY: the advice concerns dumps only; the mapping itself stays as it is.
        let _ = unsafe { rustix::mm::madvise(start, PAGE_BYTES, rustix::mm::Advice::LinuxDontDump) };
        // Copied only once the page is locked, so that it cannot have been swapped in between.
        locked.page.key.copy_from_slice(source);
        source.zeroize();
        Ok(locked)
    }

    pub(super) const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.page.key
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.page.key.zeroize();
        self.page.rest.zeroize();
        if self.pinned {
            let start = (&raw mut *self.page).cast();
            // SAFETY: this is the very page that was locked, and it is still ours.
            unsafe {
                let _ = rustix::mm::madvise(start, PAGE_BYTES, rustix::mm::Advice::LinuxDoDump);
                let _ = rustix::mm::munlock(start, PAGE_BYTES);
            }
        }
    }
}

impl fmt::Debug for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locked(..)")
    }
}

pub(super) const KEY_BYTES: usize = 32;
const PAGE_BYTES: usize = 4096;

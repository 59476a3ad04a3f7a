//! The board between daemon and worker: which call each lane has begun.
//! Enters: a number, just before its call reaches the device.
//! Leaves: after the worker's death, the highest number begun; later calls certainly had no effect.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};

/// Where a worker marks what it has begun, so that after its death the daemon can tell which calls never started. One number per lane,
/// in memory that both processes hold.
#[derive(Debug)]
pub struct Board(File);

impl Board {
    /// A board on a file in memory.
    ///
    /// # Errors
    /// When the kernel gives no memory file.
    pub fn blank() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("chancery-begun", flags)?);
        file.set_len(BYTES as u64)?;
        // The worker holds it as well, and vendor code in it: what was marked must not be cut off again.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self(file))
    }

    /// Another hold on the same board.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn share(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// The highest number any lane has begun; calls begin in their order, so every higher one has not. A board that cannot be read tells
    /// nothing, so everything may have been begun.
    #[must_use]
    pub fn highest(&self) -> u64 {
        let mut bytes = [0; BYTES];
        if self.0.read_exact_at(&mut bytes, 0).is_err() {
            return u64::MAX;
        }
        let (numbers, _) = bytes.as_chunks::<8>();
        numbers.iter().map(|number| u64::from_le_bytes(*number)).max().unwrap_or(u64::MAX)
    }

    pub(super) fn mark(&self, lane: usize, number: u64) -> io::Result<()> {
        self.0.write_all_at(&number.to_le_bytes(), 8 * lane as u64)
    }
}

impl From<File> for Board {
    fn from(file: File) -> Self {
        Self(file)
    }
}

const BYTES: usize = 8 * LANES_MAX;

/// More sessions than any token serves at once; bounds the board.
pub const LANES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_number_of_any_lane_counts() {
        let board = Board::blank().unwrap();
        assert_eq!(board.highest(), 0);
        board.mark(3, 7).unwrap();
        board.mark(LANES_MAX - 1, 9).unwrap();
        board.mark(0, 8).unwrap();
        assert_eq!(board.highest(), 9);
    }

    #[test]
    fn nobody_who_holds_a_board_makes_it_forget() {
        let board = Board::blank().unwrap();
        board.mark(0, 8).unwrap();
        let theirs = board.share().unwrap();
        assert!(theirs.set_len(0).is_err(), "it was cut off");
        assert_eq!(board.highest(), 8);
    }

    #[test]
    fn a_board_that_cannot_be_read_says_that_everything_may_have_been_begun() {
        let short = File::from(rustix::fs::memfd_create("short", MemfdFlags::CLOEXEC).unwrap());
        short.set_len(BYTES as u64 - 1).unwrap();
        assert_eq!(Board::from(short).highest(), u64::MAX);
        assert_eq!(Board::from(File::open("/").unwrap()).highest(), u64::MAX);
    }
}

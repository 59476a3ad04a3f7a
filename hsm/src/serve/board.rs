//! The board between daemon and worker: which call each lane has begun.
//! Enters: a number, just before its call reaches the device.
//! Leaves: after the worker's death, the highest number begun; later calls certainly had no effect.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

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
        let file = rustix::fs::memfd_create("chancery-begun", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(Self(File::from(file)))
    }

    /// Another hold on the same board.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn share(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// The highest number any lane has begun; calls begin in their order, so every higher one has not.
    #[must_use]
    pub fn highest(&self) -> u64 {
        let mut bytes = [0; 8 * LANES_MAX];
        let read = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        let (numbers, _) = bytes[..read].as_chunks::<8>();
        numbers.iter().map(|number| u64::from_le_bytes(*number)).max().unwrap_or(0)
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

/// More sessions than any token serves at once; bounds the board.
pub const LANES_MAX: usize = 64;

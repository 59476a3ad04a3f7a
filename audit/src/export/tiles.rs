//! The tile room (C2SP tlog-tiles): where a hash or a bundle of entries stands in an export, and how it gets there.
//! Who enters: the export, leaf after leaf; the verifier, looking for a tile by number.
//! What leaves: paths, and files of 256 hashes or entries each, the last of a level possibly partial.

use std::io;

use super::shelf::Shelf;
use crate::leaf::Hash;

/// Hashes or entries in a full tile.
pub(crate) const TILE: u64 = 256;

/// The path of tile `number` below `prefix`, of which `width` places are filled.
pub(crate) fn tile_path(prefix: &str, number: u64, width: u64) -> String {
    let mut groups = vec![format!("{:03}", number % 1_000)];
    let mut rest = number / 1_000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1_000));
        rest /= 1_000;
    }
    groups.reverse();
    let name = groups.join("/");
    if width == TILE { format!("{prefix}/{name}") } else { format!("{prefix}/{name}.p/{width}") }
}

/// How many places of tile `number` are filled in a tree of `size` places at that level.
pub(crate) fn tile_width(number: u64, size: u64) -> u64 {
    size.saturating_sub(number * TILE).min(TILE)
}

/// Collects what belongs into tiles of one kind, and writes each when it is full.
pub(crate) struct TileWriter {
    prefix: String,
    number: u64,
    filled: u64,
    bytes: Vec<u8>,
}

impl TileWriter {
    pub(crate) fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), number: 0, filled: 0, bytes: Vec::new() }
    }

    /// One more place, filled by `write`.
    pub(crate) fn push(&mut self, shelf: &mut dyn Shelf, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        write(&mut self.bytes);
        self.filled += 1;
        if self.filled < TILE {
            return Ok(());
        }
        self.flush(shelf)?;
        self.number += 1;
        Ok(())
    }

    /// Writes what is left as a partial tile.
    pub(crate) fn flush(&mut self, shelf: &mut dyn Shelf) -> io::Result<()> {
        if self.filled > 0 {
            shelf.put(&tile_path(&self.prefix, self.number, self.filled), &self.bytes)?;
            self.filled = 0;
            self.bytes.clear();
        }
        Ok(())
    }
}

/// The hash tiles of all levels.
#[derive(Default)]
pub(crate) struct HashTiles {
    levels: Vec<TileWriter>,
}

impl HashTiles {
    /// A subtree was completed; every eighth height has tiles.
    pub(crate) fn completed(&mut self, shelf: &mut dyn Shelf, height: u32, hash: &Hash) -> io::Result<()> {
        if !height.is_multiple_of(8) {
            return Ok(());
        }
        let level = (height / 8) as usize;
        while self.levels.len() <= level {
            self.levels.push(TileWriter::new(format!("tile/{}", self.levels.len())));
        }
        match self.levels.get_mut(level) {
            Some(tiles) => tiles.push(shelf, |bytes| bytes.extend_from_slice(hash)),
            None => Ok(()),
        }
    }

    pub(crate) fn flush(&mut self, shelf: &mut dyn Shelf) -> io::Result<()> {
        self.levels.iter_mut().try_for_each(|tiles| tiles.flush(shelf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tile_names_come_in_groups_of_three_digits() {
        assert_eq!(tile_path("tile/0", 0, TILE), "tile/0/000");
        assert_eq!(tile_path("tile/1", 1_234_067, TILE), "tile/1/x001/x234/067");
        assert_eq!(tile_path("tile/entries", 5, 17), "tile/entries/005.p/17");
    }

    #[test]
    fn only_the_last_tile_is_partial() {
        assert_eq!((tile_width(0, 600), tile_width(2, 600), tile_width(3, 600)), (256, 88, 0));
    }
}

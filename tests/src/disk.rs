//! A small disk: a tmpfs of a few pages, to be filled up and freed again.
//! Who enters: plans of appliances that are to run out of room.
//! What leaves: a mounted directory; it is unmounted when it is dropped.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::succeeds;

/// A mounted disk of a fixed size.
#[derive(Debug)]
pub struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many bytes.
    pub fn mount(place: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(place).expect("a mount point");
        assert!(rustix::process::geteuid().is_root(), "run this as root: mounting a small disk needs it");
        let options = format!("size={bytes},mode=0700");
        succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place));
        Self { place: place.to_owned() }
    }

    /// Leaves no room at all.
    pub fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.filler()).expect("a filler");
        // Page by page, then byte by byte, until the disk says no.
        while file.write_all(&[0x55; 4096]).is_ok() {}
        while file.write_all(&[0x55]).is_ok() {}
    }

    /// Gives the room back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("take the filler away");
    }

    fn filler(&self) -> PathBuf {
        self.place.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a worker on its way out may still hold a file.
        let _ = Command::new("umount").arg("--lazy").arg(&self.place).status();
    }
}

//! The worker's loop: frames in, calls on lanes, answers out. The same for every kind of token, the double included.
//! Enters: a connected [`crate::backend::Backend`] and the daemon's end of a socket.
//! Leaves: answers in batches; an end when the daemon hangs up or the device is lost.

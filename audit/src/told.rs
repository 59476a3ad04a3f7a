//! The room of evidence: a change and its entry travel together, and only a commit makes the proof of both.
//! Who enters: what a write closure returns, `Told`.
//! What leaves: `Recorded`, which says "durable and on the chain" and can be made nowhere else.

use std::any::Any;

use crate::entry::Entry;

/// What a write closure must return: its value, and the entries that tell of it; at least one, by type.
#[derive(Debug)]
pub struct Told<T> {
    pub(crate) value: T,
    pub(crate) first: Entry,
    pub(crate) rest: Vec<Entry>,
}

impl<T> Told<T> {
    /// One change, one entry.
    pub fn new(value: T, entry: Entry) -> Self {
        Self { value, first: entry, rest: Vec::new() }
    }

    /// One change that takes several entries to tell; the recorded number is that of the first.
    pub fn many(value: T, first: Entry, rest: Vec<Entry>) -> Self {
        Self { value, first, rest }
    }

    /// What is about to be recorded.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The same change, told with more entries after its own.
    pub fn and(mut self, more: impl IntoIterator<Item = Entry>) -> Self {
        self.rest.extend(more);
        self
    }

    /// Takes over the entries of another change of the same transaction, after its own.
    pub fn absorb<U>(self, other: Told<U>) -> Self {
        self.and(std::iter::once(other.first).chain(other.rest))
    }

    /// The same change, with a value beside it that needs no evidence.
    pub fn beside<A>(self, other: A) -> Told<(A, T)> {
        Told { value: (other, self.value), first: self.first, rest: self.rest }
    }

    /// The same change, without its value.
    pub fn discard(self) -> Told<()> {
        self.leaving(())
    }

    /// The same change, leaving another value.
    pub fn leaving<U>(self, value: U) -> Told<U> {
        Told { value, first: self.first, rest: self.rest }
    }
}

impl<T: Any + Send> Told<T> {
    /// The same change, for one who carries values of any type; [`Recorded::downcast`] gives the type back.
    pub fn boxed(self) -> Told<Box<dyn Any + Send>> {
        Told { value: Box::new(self.value), first: self.first, rest: self.rest }
    }
}

impl<T> Told<Each<T>> {
    /// Several changes, each with its own entry.
    pub fn each(first: (T, Entry), rest: Vec<(T, Entry)>) -> Self {
        let mut values = vec![first.0];
        let (more, entries): (Vec<T>, Vec<Entry>) = rest.into_iter().unzip();
        values.extend(more);
        Self { value: Each(values), first: first.1, rest: entries }
    }
}

/// Values that were told one entry each; only [`Told::each`] makes it, so numbers and values always match.
#[derive(Debug)]
pub struct Each<T>(Vec<T>);

/// Committed, durable and on the chain. Only [`Ledger::write`](crate::Ledger::write) makes one.
///
/// ```compile_fail
/// let forged = audit::Recorded { value: (), seq: 7 };
/// ```
/// ```compile_fail
/// let forged = audit::Recorded::new((), 7);
/// ```
/// ```compile_fail
/// fn twice(once: audit::Recorded<u8>) -> (audit::Recorded<u8>, audit::Recorded<u8>) {
///     (once.clone(), once)
/// }
/// ```
#[derive(Debug)]
pub struct Recorded<T> {
    value: T,
    seq: u64,
}

impl<T> Recorded<T> {
    pub(crate) fn committed(value: T, seq: u64) -> Self {
        Self { value, seq }
    }

    /// The number of the (first) entry that tells of it.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// What was recorded.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// What was recorded, giving up the evidence.
    pub fn into_value(self) -> T {
        self.value
    }
}

// There is no `map`: with one, any recorded value could be exchanged for another that never was.
impl<T> Recorded<Option<T>> {
    /// The evidence for the value inside, where there is one.
    pub fn transpose(self) -> Option<Recorded<T>> {
        let seq = self.seq;
        self.value.map(|value| Recorded { value, seq })
    }
}

impl<A, B> Recorded<(A, B)> {
    /// What stood beside the value, and the evidence for the value.
    pub fn split(self) -> (A, Recorded<B>) {
        (self.value.0, Recorded { value: self.value.1, seq: self.seq })
    }
}

impl Recorded<Box<dyn Any + Send>> {
    /// The evidence with its type, if that is the type that was boxed.
    ///
    /// # Errors
    /// The evidence as it was.
    pub fn downcast<T: Any + Send>(self) -> Result<Recorded<T>, Self> {
        let seq = self.seq;
        match self.value.downcast::<T>() {
            Ok(value) => Ok(Recorded { value: *value, seq }),
            Err(value) => Err(Self { value, seq }),
        }
    }
}

impl<T> Recorded<Each<T>> {
    /// Each value with the number of its own entry.
    pub fn each(self) -> impl Iterator<Item = Recorded<T>> {
        (self.seq..).zip(self.value.0).map(|(seq, value)| Recorded { value, seq })
    }
}
